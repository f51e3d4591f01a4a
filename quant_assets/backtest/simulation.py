"""Target weights to equity and trades, on matrices: one portfolio with all its records, or many with their measures.

Both run the same compiled code (`kernel`), so a portfolio among many has the bits that it has alone.

One session, in this order:

1. Positions held over the night pay funding on their value at the last close.
2. Open: stops whose level the open has passed fill at the open. Then, where execution is at the open, the orders of
   a rebalance.
3. Between open and close: stops whose level the low (for shorts: the high) reaches fill at the level.
4. Close: where execution is at the close, the orders of a rebalance. Then equity is taken.

Orders under 1e-8 shares are not placed. A symbol without a bar is not traded, and counts with its last close. One whose
last bar lies before the last session is closed on the session after that bar, at its last close, together with that
session's rebalance orders if any.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from quant_assets.backtest import metrics
from quant_assets.core.errors import ConfigError, DataError
from quant_assets.core.matrices import Matrices

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Price = Literal["close", "next_open", "next_close"]

PRICES: tuple[Price, ...] = ("close", "next_open", "next_close")

REASONS = ("rebalance", "end of data", "stop loss", "trailing stop", "open")
"""Why a trade ended; records hold the position in this tuple."""

_BLOCK = 16  # curves whose measures are taken at once: they stay in the processor's cache
_NUMBERS = attrgetter(
    "fee",
    "slippage",
    "funding_per_day",
    "leverage",
    "threshold",
    "stop_loss",
    "trailing_stop",
    "hedge_drawdown",
)


@dataclass(frozen=True, slots=True)
class Mechanics:
    """How targets become positions. Shares of money and prices are fractions; None switches a rule off.

    Raises:
        ConfigError: a value outside its range.
    """

    fee: float = 0.0
    """Paid on traded value; in [0, 1)."""
    slippage: float = 0.0
    """Moves every fill price against the trader; in [0, 1)."""
    funding_per_day: float = 0.0
    """Share of a position's signed value at the last close that it pays per calendar day since: longs pay and shorts
    receive where it is positive, as with perpetual futures. In (-1, 1)."""
    leverage: float = 1.0
    """Cash may fall to -(leverage - 1) times the equity at sizing; at least 1."""
    threshold: float = 0.0
    """An order to a weight nearer than this to the current one is not placed, unless the target is 0."""
    stop_loss: float | None = None
    """A long is closed when its price falls to average entry price x (1 - stop_loss), a short when it rises to
    average entry price x (1 + stop_loss). The symbol then stays flat until its target changes sign or is 0 once."""
    trailing_stop: float | None = None
    """As `stop_loss`, but from the highest price since entry (for a short: the lowest) instead of the entry price."""
    hedge_drawdown: float | None = None
    """Negative targets are taken as 0, unless equity at sizing is more than this below its highest close so far
    (initial cash included)."""
    price: Price = "close"
    """Where a target decided at the close of session D fills: at that close, the next open or the next close."""

    def __post_init__(self) -> None:
        for name, low, high in (
            ("fee", 0.0, 1.0),
            ("slippage", 0.0, 1.0),
            ("funding_per_day", -1.0, 1.0),
            ("leverage", 1.0, np.inf),
            ("threshold", 0.0, np.inf),
            ("stop_loss", 0.0, 1.0),
            ("trailing_stop", 0.0, 1.0),
            ("hedge_drawdown", 0.0, 1.0),
        ):
            value = getattr(self, name)
            if value is not None and not low <= value < high:
                raise ConfigError(f"{name} is {value}; it must lie in [{low:g}, {high:g})")
        if self.price not in PRICES:
            raise ConfigError(f"execution price {self.price!r} is unknown; use one of {', '.join(PRICES)}")

    @property
    def follows_paths(self) -> bool:
        """Whether a rule may change what is ordered, so that orders are more than the targets."""
        rules = (self.stop_loss, self.trailing_stop, self.hedge_drawdown)
        return self.threshold > 0 or any(rule is not None for rule in rules)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """What many portfolios came to."""

    equity: Array
    """(portfolios, sessions): cash plus positions after each session's close. NaN after a session that ended at or
    below 0."""
    ruined: Index
    """(portfolios,): the session at whose close nothing was left (the equity there is 0 or negative), else -1."""
    statistics: dict[str, Array]
    """Name -> (portfolios,). Of closed trades `num_trades`, `win_rate`, `avg_trade` (mean return on entry value) and
    `profit_factor`, NaN where undefined; `turnover` (one-way, the whole period's); and in money what `fees`,
    `slippage` and `funding` cost."""
    initial_cash: float

    def summary(self, year: int = metrics.YEAR) -> dict[str, Array]:
        """Every numeric measure of `backtest_summary` as (portfolios,); NaN where undefined, and for the ruined.

        `year` is the number of sessions per year.
        """
        count, sessions = self.equity.shape
        blocks = [
            metrics.measures(self.equity[first : first + _BLOCK], self.initial_cash, year)
            for first in range(0, count, _BLOCK)
        ]
        found = {name: np.concatenate([block[name] for block in blocks]) for name in (blocks[0] if blocks else ())}
        taken = ("win_rate", "avg_trade", "num_trades", "profit_factor")
        found |= {"turnover": self.statistics["turnover"] / sessions * year}
        found |= {name: self.statistics[name] for name in taken}
        found |= {"final_equity": self.equity[:, -1]}
        lost = self.ruined >= 0
        return {name: np.where(lost, np.nan, values) for name, values in found.items()} if lost.any() else found


@dataclass(frozen=True, slots=True)
class Simulation:
    """One portfolio with its records (structured arrays; `kernel.FILL` and `kernel.TRADE` document their fields)."""

    outcomes: Outcomes
    """Of this one portfolio: arrays have one row."""
    fills: Any
    trades: Any
    """One per sell of a long (buy of a short), at the position's average entry price, and one per position still open
    at the end."""
    placed: Array
    """(rows, symbols): the targets as ordered. After `hedge_drawdown`; NaN where no order was placed on purpose."""

    @property
    def equity(self) -> Array:
        """(sessions,)"""
        return self.outcomes.equity[0]


def simulate(prices: Matrices, rows: Index, weights: Array, initial_cash: float, mechanics: Mechanics) -> Simulation:
    """One portfolio: (rows, symbols) `weights`; see `simulate_many`."""
    from quant_assets.backtest import kernel

    size = 2 * int(np.count_nonzero(weights)) + 2 * len(prices.symbols) + 64
    placed = np.full(weights.shape, np.nan)
    while True:
        fills, trades = np.empty(size, kernel.FILL), np.empty(size, kernel.TRADE)
        found, accounts = _run(prices, rows, weights[None], initial_cash, [mechanics], fills, trades, placed)
        needed = int(max(accounts["num_fills"][0], accounts["num_records"][0]))
        if needed < size:
            kept = fills[: accounts["num_fills"][0]], trades[: accounts["num_records"][0]]
            return Simulation(found, *kept, placed)
        size = needed + 1


def simulate_many(
    prices: Matrices, rows: Index, weights: Array, initial_cash: float, mechanics: Sequence[Mechanics]
) -> Outcomes:
    """Any number of portfolios over the same prices; the compiled code releases the GIL.

    Args:
        prices: of every session to simulate and every symbol.
        rows: (rows,): the sessions at whose close the targets are decided, rising; -1 stands for before the first.
            They fill as `Mechanics.price` says; of several that fill on one session the latest counts.
        weights: (portfolios, rows, symbols): target shares of equity, negative for short; no order where not finite.
        initial_cash: of each.
        mechanics: one per portfolio.

    Raises:
        DataError: shapes that do not fit, or rows out of order.
    """
    from quant_assets.backtest import kernel

    nothing = np.empty(0, kernel.FILL), np.empty(0, kernel.TRADE), np.empty((0, len(prices.symbols)))
    return _run(prices, rows, weights, initial_cash, mechanics, *nothing)[0]


def fills_on_sessions(rows: Index, sessions: int, later: int) -> Index:
    """(sessions,): which of `rows` fills on each session, `later` sessions after itself; -1 for none.

    Example:
        >>> fills_on_sessions(np.array([-1, 0, 3]), 4, 1).tolist()
        [0, 1, -1, -1]
    """
    found = np.full(sessions, -1)
    filled = np.maximum(rows + later, 0)
    inside = filled < sessions
    found[filled[inside]] = np.flatnonzero(inside)
    return found


def _run(
    prices: Matrices,
    rows: Index,
    weights: Array,
    initial_cash: float,
    mechanics: Sequence[Mechanics],
    *records: Any,
) -> tuple[Outcomes, Any]:
    from quant_assets.backtest import kernel

    sessions, count = len(prices.days), len(mechanics)
    if weights.shape != (count, len(rows), len(prices.symbols)):
        raise DataError(
            f"weights have the shape {weights.shape}; {count} portfolios, {len(rows)} rows and "
            f"{len(prices.symbols)} symbols need ({count}, {len(rows)}, {len(prices.symbols)})"
        )
    if len(rows) and (rows[0] < -1 or (np.diff(rows) <= 0).any()):
        raise DataError("rows must rise, from -1 or later")
    fills_on = np.stack([fills_on_sessions(rows, sessions, later) for later in (0, 1)])
    ends = np.zeros(sessions + 1, np.bool_)
    ends[prices.last[prices.last >= 0] + 1] = True
    nights = np.diff(prices.days, prepend=prices.days[:1]).astype(np.int64)
    accounts = np.zeros(count, kernel.ACCOUNT)
    accounts["cash"] = initial_cash
    equity = np.empty((count, sessions))
    distinct = {one: _terms(one) for one in dict.fromkeys(mechanics)}
    terms = np.array([distinct[one] for one in mechanics], kernel.TERMS)
    bars = (prices.open, prices.high, prices.low, prices.close, prices.last)
    inputs = [_frozen(array) for array in (*bars, nights, ends, fills_on, weights, terms)]
    outputs = [accounts, equity, *records]
    kernel.portfolios(*inputs + outputs)
    return outcomes(equity, accounts, initial_cash), accounts


def outcomes(equity: Array, accounts: Any, initial_cash: float) -> Outcomes:
    """From the (portfolios, sessions) equity and `kernel.ACCOUNT` records."""
    closed = accounts["num_trades"].astype(np.float64)
    with np.errstate(invalid="ignore", divide="ignore"):
        statistics = {
            "num_trades": closed,
            "win_rate": accounts["wins"] / closed,
            "avg_trade": accounts["returns"] / closed,
            "profit_factor": np.where(accounts["lost"] > 0, accounts["gained"] / accounts["lost"], np.nan),
            **{name: accounts[name].copy() for name in ("turnover", "fees", "slippage", "funding")},
        }
    return Outcomes(equity, accounts["ruined"].copy(), statistics, float(initial_cash))


def _frozen(array: Any) -> Any:
    """C-ordered and read-only whatever it was, such as memory mapped for a worker: one type, and so one compilation."""
    view = np.ascontiguousarray(array).view()
    view.flags.writeable = False
    return view


def _terms(mechanics: Mechanics) -> tuple[float | None, ...]:
    return (*_NUMBERS(mechanics), mechanics.price == "next_open", mechanics.price != "close")
