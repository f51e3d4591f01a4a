"""From targets to an equity curve: vectorbt's order simulation and the tables a backtest leaves behind.

All symbols share one cash account. Orders aim at a share of the equity at the moment of trading, sells first; where
cash falls short of the costs, the last buy is filled in part. Positions change only on rebalance sessions, so vectorbt
sees those rows alone, and the sessions between them are valued here with NumPy: the same figures as a simulation of
every session, at a fraction of its time.
"""

import gc
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from quant_assets.backtest import metrics
from quant_assets.contracts import backtest_equity, backtest_symbols, backtest_trades
from quant_assets.contracts.schema import Table
from quant_assets.core.costs import Costs
from quant_assets.core.errors import ConfigError, DataError

Array = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Price = Literal["close", "next_open", "next_close"]

_PRICES: tuple[Price, ...] = ("close", "next_open", "next_close")


@dataclass(frozen=True)
class BacktestConfig:
    """What to simulate with. `price` says where a target of session D fills: at D's close, the next open or next close.

    Raises:
        ConfigError: cash that is not a positive number, or an unknown price.
    """

    strategy_id: str
    version: str
    initial_cash: float = 100_000.0
    costs: Costs = field(default_factory=Costs)
    price: Price = "close"

    def __post_init__(self) -> None:
        if not 0 < self.initial_cash < float("inf"):
            raise ConfigError(f"initial_cash is {self.initial_cash}; give a positive amount")
        if self.price not in _PRICES:
            raise ConfigError(f"execution price {self.price!r} is unknown; use one of {', '.join(_PRICES)}")


@dataclass(frozen=True)
class BacktestResult:
    """What a backtest leaves. Tables have their contract's columns, less `run_id`."""

    config: BacktestConfig
    summary: dict[str, Any]
    """The columns of `backtest_summary`, less `created_at` and `run_id`. Undefined measures are None."""
    trades: pl.DataFrame
    equity: pl.DataFrame
    symbols: pl.DataFrame
    weights: pl.DataFrame
    """ts, symbol, weight: share of equity held after the session's close, where it is not zero."""
    unfilled: pl.DataFrame
    """ts, symbol, weight: targets that found no price on the session they should have filled on."""


def run(
    bars: pl.DataFrame,
    targets: pl.DataFrame,
    sessions: Sequence[date],
    config: BacktestConfig,
    progress: Callable[[str], None] | None = None,
) -> BacktestResult:
    """Simulate `targets` over `sessions`.

    Args:
        bars: adjusted bars (symbol, ts, open, close; more is ignored), from before, in and after the period.
        targets: asof, symbol, weight and optionally approved; rows on rebalance dates only. On such a date, symbols
            that are missing or not approved have weight 0. A target fills on the first session on or after `asof`
            (`close`) or after it (`next_open`, `next_close`); of several that fill on one session the latest counts.
            So the latest target before the period applies on its first session.
        sessions: every session of the period, first to last.
        config: strategy, cash, costs and fill price.
        progress: receives one-line messages.

    A symbol without a bar on a session is not traded on it and keeps its last close as its value. A symbol whose last
    bar lies before the period's end is closed on the session after that bar, at its last close (`end of data`).

    Raises:
        DataError: a duplicate bar or target, a price that is not a positive number, a weight that is not finite, or
            targets so leveraged that they use up the equity.
        ConfigError: no sessions.
    """
    if not sessions:
        raise ConfigError("the backtest's period has no session; widen from and to")
    days = _days(sorted(set(sessions)))
    plan = _plan(targets, days, config.price)
    market = _market(bars, plan.symbols, days)
    if progress and "vectorbt" not in sys.modules:
        progress("loading vectorbt; an installation's first simulation compiles it, which takes about 10 s")
    if progress:
        progress(f"simulating {len(plan.symbols)} symbols over {len(days)} sessions")
    orders = _orders(plan, market, config)
    with _collector_at_rest():
        fills, exits = _simulate(orders, market, config)
    book = _Book(orders.rows, fills, market.marks, config)
    bad = np.flatnonzero(book.equity <= 0)
    if len(bad):
        raise DataError(
            f"{config.strategy_id}: equity falls to {book.equity[bad[0]]:,.2f} on {days[bad[0]]}; "
            "lower the strategy's gross exposure, or drop its short positions"
        )
    trades = _trades(exits, orders.rows, market, config)
    unfilled = np.nonzero(orders.missed)
    return BacktestResult(
        config=config,
        summary=_summary(book, trades, days, config),
        trades=trades,
        equity=_equity(book, days, config),
        symbols=_symbols(book, trades, market.symbols, config),
        weights=_held(book.weights, days, market.symbols),
        unfilled=pl.DataFrame(
            {
                "ts": days[orders.rows[unfilled[0]]],
                "symbol": [market.symbols[column] for column in unfilled[1]],
                "weight": orders.missed[unfilled],
            },
            schema={"ts": pl.Date, "symbol": pl.String, "weight": pl.Float64},
        ),
    )


def buy_and_hold(bars: pl.DataFrame, sessions: Sequence[date], initial_cash: float) -> pl.DataFrame:
    """The benchmark: equal amounts in every symbol of `bars`, bought at its first close in the period and never sold.

    A symbol that lists late waits in cash; one that ends stays at its last close. No costs.

    Returns:
        ts, equity: one row per session.

    Example: A at 10, 11 and B unlisted, then at 5: 100 in cash become 105 (half of it in A).
    """
    days = _days(sorted(set(sessions)))
    marks = _market(bars, sorted(bars["symbol"].unique()), days).marks
    if not marks.shape[1]:
        return pl.DataFrame({"ts": days, "equity": np.full(len(days), initial_cash)})
    listed = ~np.isnan(marks)
    first = np.where(listed.any(axis=0), marks[listed.argmax(axis=0), np.arange(marks.shape[1])], 1.0)
    growth = np.where(listed, marks, first) / first
    return pl.DataFrame({"ts": days, "equity": initial_cash * growth.mean(axis=1)})


class _Plan(NamedTuple):
    """Which weights fill on which sessions."""

    symbols: list[str]
    """Every symbol that ever has a weight, sorted."""
    rows: Index
    """Sessions' numbers with a rebalance, ascending."""
    weights: Array
    """rows x symbols."""


class _Market(NamedTuple):
    """Prices, sessions x symbols; NaN where there is no bar."""

    days: npt.NDArray[np.datetime64]
    symbols: list[str]
    opens: Array
    closes: Array
    marks: Array
    """The last close so far; NaN before the first bar."""
    last: Index
    """Per symbol the number of the session of its last bar; the last session's where bars go on after the period."""


class _Orders(NamedTuple):
    """Orders for vectorbt, rows x symbols; the last row is the last session."""

    rows: Index
    size: Array
    """Target share of equity, NaN for no order."""
    price: Array
    value: Array
    """Price that a position counts with when orders are sized."""
    missed: Array
    """Weights that found no price; 0 elsewhere."""


def _days(sessions: Sequence[date]) -> npt.NDArray[np.datetime64]:
    return np.array(sessions, dtype="datetime64[D]")


def _plan(targets: pl.DataFrame, days: npt.NDArray[np.datetime64], price: Price) -> _Plan:
    doubled = targets.filter(targets.select("asof", "symbol").is_duplicated())
    if doubled.height:
        asof, symbol = doubled.sort("asof", "symbol").select("asof", "symbol").row(0)
        raise DataError(f"two targets for {symbol} on {asof}; keep one row per asof and symbol")
    weight = pl.col("weight").cast(pl.Float64)
    bad = targets.filter(weight.is_null() | ~weight.is_finite()).sort("asof", "symbol")
    if bad.height:
        asof, symbol, value = bad.select("asof", "symbol", "weight").row(0)
        raise DataError(f"the weight of {symbol} on {asof} is {value}; it must be a finite number")
    if "approved" in targets.columns:
        weight = pl.when("approved").then(weight).otherwise(0.0)
    known = targets.select("symbol", pl.col("asof").cast(pl.Date), weight.alias("weight"))
    asofs = known["asof"].unique().sort().to_numpy().astype("datetime64[D]")
    fills = np.searchsorted(days, asofs, side="left" if price == "close" else "right")
    newest = np.append(fills[1:] != fills[:-1], True)[: len(fills)] & (fills < len(days))
    asofs, rows = asofs[newest], fills[newest]
    held = known.filter(pl.col("asof").is_in(asofs.tolist()), pl.col("weight") != 0)
    symbols = held["symbol"].unique().sort().to_list()
    weights = np.zeros((len(rows), len(symbols)))
    at = np.searchsorted(asofs, held["asof"].to_numpy().astype("datetime64[D]"))
    weights[at, _codes(held["symbol"], symbols)] = held["weight"].to_numpy()
    return _Plan(symbols, rows.astype(np.int64), weights)


def _codes(values: pl.Series, symbols: list[str]) -> Index:
    if not symbols:
        return np.empty(0, np.int64)
    return values.replace_strict(symbols, list(range(len(symbols))), return_dtype=pl.Int64).to_numpy()


def _market(bars: pl.DataFrame, symbols: list[str], days: npt.NDArray[np.datetime64]) -> _Market:
    wanted = bars.filter(pl.col("symbol").is_in(symbols)).select(
        "symbol", pl.col("ts").cast(pl.Date), pl.col("open", "close").cast(pl.Float64)
    )
    prices = pl.col("open", "close")
    bad = wanted.filter(pl.any_horizontal(prices.is_null() | ~prices.is_finite() | (prices <= 0))).sort("symbol", "ts")
    if bad.height:
        symbol, day, opened, closed = bad.row(0)
        raise DataError(f"{symbol} on {day} has open {opened} and close {closed}; prices must be positive numbers")
    codes = _codes(wanted["symbol"], symbols)
    stamps = wanted["ts"].to_numpy().astype("datetime64[D]")
    row = np.searchsorted(days, stamps)
    inside = (row < len(days)) & (days[np.minimum(row, len(days) - 1)] == stamps)
    opens = np.full((len(days), len(symbols)), np.nan)
    closes = opens.copy()
    opens[row[inside], codes[inside]] = wanted["open"].to_numpy()[inside]
    closes[row[inside], codes[inside]] = wanted["close"].to_numpy()[inside]
    listed = ~np.isnan(closes)
    if np.count_nonzero(listed) != np.count_nonzero(inside):
        symbol, day = wanted.filter(wanted.select("symbol", "ts").is_duplicated()).sort("symbol", "ts").row(0)[:2]
        raise DataError(f"two bars for {symbol} on {day}; keep one row per symbol and ts")
    seen = np.maximum.accumulate(np.where(listed, np.arange(len(days))[:, None], -1), axis=0)
    marks = np.where(seen >= 0, np.take_along_axis(closes, np.maximum(seen, 0), axis=0), np.nan)
    last = seen[-1].copy()
    last[codes[stamps > days[-1]]] = len(days) - 1
    return _Market(days, symbols, opens, closes, marks, last)


def _orders(plan: _Plan, market: _Market, config: BacktestConfig) -> _Orders:
    ends = market.last + 1
    ending = np.flatnonzero((market.last >= 0) & (ends < len(market.days)))
    rows = np.unique(np.concatenate((plan.rows, ends[ending], [len(market.days) - 1]))).astype(np.int64)
    size = np.full((len(rows), len(plan.symbols)), np.nan)
    size[np.searchsorted(rows, plan.rows)] = plan.weights
    at_open = config.price == "next_open"
    price = (market.opens if at_open else market.closes)[rows]
    marks = market.marks[np.maximum(rows - 1, 0)] if at_open else market.marks[rows]
    value = np.where(np.isnan(price), marks, price)
    missed = np.where(np.isnan(price) & ~np.isnan(size), size, 0.0)
    close_out = np.searchsorted(rows, ends[ending])
    size[close_out, ending] = 0.0
    price[close_out, ending] = market.marks[market.last[ending], ending]
    return _Orders(rows, size, price, value, missed)


def _simulate(orders: _Orders, market: _Market, config: BacktestConfig) -> tuple[Any, Any]:
    """vectorbt's order records and exit trades (`idx` counts `orders.rows`)."""
    import vectorbt as vbt

    wanted = ~np.isnan(orders.size) & ~np.isnan(orders.price)
    if not wanted.any():
        return np.empty(0, vbt.portfolio.enums.order_dt), np.empty(0, vbt.portfolio.enums.trade_dt)
    portfolio = vbt.Portfolio.from_orders(
        market.marks[orders.rows],
        size=orders.size,
        size_type="targetpercent",
        price=orders.price,
        val_price=orders.value,
        fees=config.costs.fee,
        slippage=config.costs.slippage,
        init_cash=float(config.initial_cash),
        cash_sharing=True,
        group_by=True,
        call_seq="auto",
        max_orders=int(np.count_nonzero(wanted)),
    )
    return portfolio.orders.records_arr, portfolio.exit_trades.records_arr


@contextmanager
def _collector_at_rest() -> Iterator[None]:
    """No garbage collection inside: loading modules and compiled code makes objects that stay, and ends sooner so."""
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()


class _Book:
    """The account after each session, from the order records. Matrices are sessions x symbols."""

    def __init__(self, rows: Index, fills: Any, marks: Array, config: BacktestConfig) -> None:
        shape = (len(rows), marks.shape[1])
        sign = np.where(fills["side"] == 0, 1.0, -1.0)
        traded = fills["size"] * fills["price"]
        shares = np.cumsum(_sums(fills, sign * fills["size"], shape), axis=0)
        shares[np.abs(shares) <= 1e-9 * np.abs(shares).max(axis=0, initial=0.0)] = 0.0
        flows = _sums(fills, -sign * traded - fills["fees"], shape)
        current = np.searchsorted(rows, np.arange(len(marks)), side="right") - 1
        held = np.where((current >= 0)[:, None], shares[current], 0.0)
        values = held * np.where(held == 0, 0.0, marks)
        cash = config.initial_cash + np.cumsum(flows.sum(axis=1))
        self.equity: Array = np.where(current >= 0, cash[current], config.initial_cash) + values.sum(axis=1)
        self.before: Array = np.concatenate(([config.initial_cash], self.equity[:-1]))
        """Equity at the close before each session."""
        self.profit: Array = np.diff(values, axis=0, prepend=0.0)
        self.profit[rows] += flows
        self.weights: Array = values / np.where(self.equity > 0, self.equity, 1.0)[:, None]
        before = self.before[rows]
        share = _sums(fills, traded, shape) / 2 / np.where(before > 0, before, 1.0)[:, None]
        self.session_turnover: Array = np.zeros(len(marks))
        self.session_turnover[rows] = share.sum(axis=1)
        self.turnover: Array = share.sum(axis=0) / len(marks) * metrics.YEAR
        """Per symbol, one-way and per year."""


def _sums(fills: Any, amounts: Array, shape: tuple[int, int]) -> Array:
    cells = fills["idx"] * shape[1] + fills["col"]
    sums: Array = np.bincount(cells, weights=amounts, minlength=shape[0] * shape[1]).astype(np.float64)
    return sums.reshape(shape)


def _trades(exits: Any, rows: Index, market: _Market, config: BacktestConfig) -> pl.DataFrame:
    """vectorbt's exit trades: one per sell of a long (buy of a short) at the position's average entry price.

    What is still held at the end is one more trade. `entry_ts` is the position's first fill.
    """
    column = exits["col"]
    closed = exits["status"] == 1
    long = exits["direction"] == 0
    leaving = rows[exits["exit_idx"]]
    slip = config.costs.slippage
    worse = np.where(long, 1.0, -1.0) * slip
    lost = exits["entry_price"] * slip / (1 + worse) + np.where(closed, exits["exit_price"] * slip / (1 - worse), 0.0)
    reason = np.where(closed, np.where(leaving > market.last[column], "end of data", "rebalance"), "open")
    frame = pl.DataFrame(
        {
            "symbol": [market.symbols[c] for c in column],
            "side": np.where(long, "long", "short").tolist(),
            "entry_ts": market.days[rows[exits["entry_idx"]]],
            "entry_price": exits["entry_price"],
            "qty": exits["size"],
            "exit_ts": market.days[leaving],
            "exit_price": exits["exit_price"],
            "pnl": exits["pnl"],
            "pnl_pct": exits["return"],
            "fees": exits["entry_fees"] + exits["exit_fees"],
            "slippage_est": exits["size"] * lost,
            "reason": reason.tolist(),
            "closed": closed,
        }
    )
    ordered = (
        frame.sort("entry_ts", "symbol", "closed", "exit_ts", descending=[False, False, True, False])
        .with_columns(exit_ts=pl.when("closed").then("exit_ts"))
        .with_row_index("trade_no")
    )
    return _contracted(ordered, backtest_trades.TABLE, config)


def _summary(
    book: _Book, trades: pl.DataFrame, days: npt.NDArray[np.datetime64], config: BacktestConfig
) -> dict[str, Any]:
    returns = book.equity / book.before - 1.0
    closed = trades.filter(pl.col("exit_ts").is_not_null())
    pnl = closed["pnl"].to_numpy()
    final = float(book.equity[-1])
    growth = metrics.cagr(final / config.initial_cash, len(days))
    worst = float(metrics.drawdowns(book.equity, config.initial_cash).min())
    return {
        "strategy_id": config.strategy_id,
        "version": config.version,
        "from_ts": days[0].item(),
        "to_ts": days[-1].item(),
        "cagr": growth,
        "sharpe": metrics.sharpe(returns),
        "sortino": metrics.sortino(returns),
        "calmar": metrics.calmar(growth, worst),
        "max_dd": worst,
        "vol": metrics.volatility(returns),
        "turnover": metrics.annual_turnover(book.session_turnover),
        "win_rate": metrics.win_rate(pnl),
        "avg_trade": metrics.average(closed["pnl_pct"].to_numpy()),
        "num_trades": closed.height,
        "profit_factor": metrics.profit_factor(pnl),
        "fee_bps": float(config.costs.fee_bps),
        "slippage_bps": float(config.costs.slippage_bps),
        "initial_cash": float(config.initial_cash),
        "final_equity": final,
    }


def _equity(book: _Book, days: npt.NDArray[np.datetime64], config: BacktestConfig) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "ts": days,
            "equity": book.equity,
            "ret": book.equity / book.before - 1.0,
            "drawdown": metrics.drawdowns(book.equity, config.initial_cash),
            "gross_exposure": np.abs(book.weights).sum(axis=1),
            "turnover": book.session_turnover,
        }
    )
    return _contracted(frame, backtest_equity.TABLE, config)


def _symbols(book: _Book, trades: pl.DataFrame, symbols: list[str], config: BacktestConfig) -> pl.DataFrame:
    """One row per symbol that traded. Sharpe and drawdown are those of its daily profit within the portfolio."""
    closed = trades.filter(pl.col("exit_ts").is_not_null())
    counts = dict(closed.group_by("symbol").len().iter_rows())
    paths = config.initial_cash + np.cumsum(book.profit, axis=0)
    rows = [
        {
            "symbol": symbol,
            "contribution": float(paths[-1, column]) / config.initial_cash - 1.0,
            "sharpe": metrics.sharpe(book.profit[:, column] / book.before),
            "max_dd": float(metrics.drawdowns(paths[:, column], config.initial_cash).min()),
            "turnover": float(book.turnover[column]),
            "num_trades": counts.get(symbol, 0),
            "mean_weight": float(book.weights[:, column].mean()),
        }
        for column, symbol in enumerate(symbols)
        if book.turnover[column] > 0
    ]
    table = backtest_symbols.TABLE
    return _contracted(pl.DataFrame(rows, schema={c.name: c.polars for c in table.columns[1:]}), table, config)


def _held(weights: Array, days: npt.NDArray[np.datetime64], symbols: list[str]) -> pl.DataFrame:
    row, column = np.nonzero(weights)
    names = pl.Series("symbol", symbols, dtype=pl.String)
    return pl.DataFrame({"ts": days[row], "symbol": names.gather(column), "weight": weights[row, column]})


def _contracted(frame: pl.DataFrame, table: Table, config: BacktestConfig) -> pl.DataFrame:
    return frame.with_columns(strategy_id=pl.lit(config.strategy_id)).select(
        pl.col(column.name).cast(column.polars) for column in table.columns
    )
