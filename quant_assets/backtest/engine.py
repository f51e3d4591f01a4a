"""From targets to an equity curve: which target fills when, the simulation, and the tables a backtest leaves behind.

All symbols share one cash account. Orders aim at a share of the equity at the moment of trading, sells first; where
cash falls short of the costs, the last buy is filled in part. `simulation` documents a session in detail. The kernel
and vectorbt (`engine`) take the same orders and leave the same tables.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from quant_assets.backtest import metrics
from quant_assets.backtest.simulation import REASONS, Mechanics, Price, Simulation, simulate
from quant_assets.contracts import backtest_equity, backtest_symbols, backtest_trades
from quant_assets.contracts.schema import Table
from quant_assets.core.collector import collector_at_rest
from quant_assets.core.costs import Costs
from quant_assets.core.errors import ConfigError, DataError
from quant_assets.core.matrices import Days, Index, Matrices, days_of, matrices

Array = npt.NDArray[np.float64]
Engine = Literal["kernel", "vectorbt"]

_ENGINES: tuple[Engine, ...] = ("kernel", "vectorbt")
_MEASURES = ("cagr", "sharpe", "sortino", "calmar", "max_dd", "vol", "turnover", "win_rate", "avg_trade")


@dataclass(frozen=True)
class BacktestConfig:
    """What to simulate with. `price` says where a target of session D fills: at D's close, the next open or next close.

    `leverage`, `threshold`, `stop_loss`, `trailing_stop` and `hedge_drawdown` are those of `simulation.Mechanics`.

    Raises:
        ConfigError: cash that is not a positive number, a value that `Mechanics` refuses, or leverage or funding for
            vectorbt, which knows neither.
    """

    strategy_id: str
    version: str
    initial_cash: float = 100_000.0
    costs: Costs = field(default_factory=Costs)
    price: Price = "close"
    engine: Engine = "kernel"
    year: int = metrics.YEAR
    """Sessions per year, for the measures."""
    leverage: float = 1.0
    threshold: float = 0.0
    stop_loss: float | None = None
    trailing_stop: float | None = None
    hedge_drawdown: float | None = None

    def __post_init__(self) -> None:
        if not 0 < self.initial_cash < float("inf"):
            raise ConfigError(f"initial_cash is {self.initial_cash}; give a positive amount")
        if self.engine not in _ENGINES:
            raise ConfigError(f"engine {self.engine!r} is unknown; use one of {', '.join(_ENGINES)}")
        mechanics = self.mechanics
        if self.engine == "vectorbt" and (mechanics.leverage > 1 or mechanics.funding_per_day):
            raise ConfigError(
                f"engine vectorbt knows neither leverage nor funding (leverage is {self.leverage:g}, funding "
                f"{self.costs.funding_bps_per_day:g} bps per day); use engine: kernel"
            )

    @property
    def mechanics(self) -> Mechanics:
        """What the simulation follows."""
        return Mechanics(
            self.costs.fee,
            self.costs.slippage,
            self.costs.funding_per_day,
            self.leverage,
            self.threshold,
            self.stop_loss,
            self.trailing_stop,
            self.hedge_drawdown,
            self.price,
        )


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
        bars: adjusted bars (symbol, ts, open, close), from before, in and after the period; for stops also high and
            low, else these are the larger and smaller of open and close.
        targets: asof, symbol, weight and optionally approved; rows on rebalance dates only. On such a date, symbols
            that are missing or not approved have weight 0. A target fills on the first session on or after `asof`
            (`close`) or after it (`next_open`, `next_close`); of several that fill on one session the latest counts.
            So the latest target before the period applies on its first session.
        sessions: every session of the period, first to last.
        config: strategy, cash, costs, fill price, rules and engine.
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
    days = days_of(sorted(set(sessions)))
    plan = _plan(targets, days, config.price)
    prices = matrices(bars, days.tolist(), plan.symbols)
    if progress:
        for line in _waits(config):
            progress(line)
        progress(f"simulating {len(plan.symbols)} symbols over {len(days)} sessions")
    with collector_at_rest():
        done = _simulate(plan, prices, config)
    ruined = int(done.outcomes.ruined[0])
    if ruined >= 0:
        raise DataError(
            f"{config.strategy_id}: equity falls to {done.equity[ruined]:,.2f} on {days[ruined]}; "
            "lower the strategy's gross exposure, or drop its short positions"
        )
    book = _Book(done, prices, config)
    return BacktestResult(
        config=config,
        summary=_summary(done, days, config),
        trades=_trades(done.trades, prices, config),
        equity=_equity(book, days, config),
        symbols=_symbols(book, done.trades, prices.symbols, config),
        weights=_held(book.weights, prices),
        unfilled=_unfilled(plan, done.placed, prices, config),
    )


def buy_and_hold(bars: pl.DataFrame, sessions: Sequence[date], initial_cash: float) -> pl.DataFrame:
    """The benchmark: equal amounts in every symbol of `bars`, bought at its first close in the period and never sold.

    A symbol that lists late waits in cash; one that ends stays at its last close. No costs.

    Returns:
        ts, equity: one row per session.

    Example: A at 10, 11 and B unlisted, then at 5: 100 in cash become 105 (half of it in A).
    """
    days = days_of(sorted(set(sessions)))
    marks = matrices(bars, days.tolist(), sorted(bars["symbol"].unique())).marks
    if not marks.shape[1]:
        return pl.DataFrame({"ts": days, "equity": np.full(len(days), initial_cash)})
    listed = ~np.isnan(marks)
    first = np.where(listed.any(axis=0), marks[listed.argmax(axis=0), np.arange(marks.shape[1])], 1.0)
    growth = np.where(listed, marks, first) / first
    return pl.DataFrame({"ts": days, "equity": initial_cash * growth.mean(axis=1)})


class _Plan(NamedTuple):
    """The weights that fill."""

    symbols: list[str]
    """Every symbol that ever has a weight, sorted."""
    filled: Index
    """(rows,): the sessions they fill on, rising."""
    weights: Array
    """(rows, symbols)"""


def _plan(targets: pl.DataFrame, days: Days, price: Price) -> _Plan:
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


def _waits(config: BacktestConfig) -> Iterator[str]:
    """What will take seconds before the simulation starts."""
    if "quant_assets.backtest.kernel" not in sys.modules:
        from quant_assets.backtest import kernel

        if not any(Path(str(kernel.portfolios.stats.cache_path)).glob("kernel.portfolios-*.nbi")):
            yield "compiling the portfolio kernel; that takes about 10 s, once for this installation"
    if config.engine == "vectorbt" and "vectorbt" not in sys.modules:
        yield "loading vectorbt; an installation's first simulation compiles it, which takes about 10 s"


def _simulate(plan: _Plan, prices: Matrices, config: BacktestConfig) -> Simulation:
    rows = plan.filled - (config.price != "close")
    given = (prices, rows, plan.weights, config.initial_cash, config.mechanics)
    if config.engine == "kernel":
        return simulate(*given)
    from quant_assets.backtest import vectorbt_engine

    return vectorbt_engine.simulate(*given)


class _Book:
    """The account after each session, from the fills. Matrices are (sessions, symbols)."""

    def __init__(self, done: Simulation, prices: Matrices, config: BacktestConfig) -> None:
        fills, marks = done.fills, prices.marks
        rows, number = np.unique(fills["row"], return_inverse=True)
        shape = (len(rows), marks.shape[1])
        cells = number * shape[1] + fills["column"]
        traded = np.abs(fills["shares"]) * fills["price"]
        shares = np.cumsum(_sums(cells, fills["shares"], shape), axis=0)
        shares[np.abs(shares) <= 1e-9 * np.abs(shares).max(axis=0, initial=0.0)] = 0.0
        current = np.searchsorted(rows, np.arange(len(marks)), side="right") - 1
        held = np.where((current >= 0)[:, None], shares[current], 0.0) if len(rows) else np.zeros_like(marks)
        values = held * np.where(held == 0, 0.0, marks)
        self.equity: Array = done.equity
        self.before: Array = np.concatenate(([config.initial_cash], self.equity[:-1]))
        """Equity at the close before each session."""
        self.weights: Array = values / self.equity[:, None]
        self.profit: Array = np.diff(values, axis=0, prepend=0.0)
        self.profit[rows] -= _sums(cells, fills["shares"] * fills["price"] + fills["fees"], shape)
        nights = np.diff(prices.days).astype(np.float64)
        funding = config.costs.funding_per_day * nights[:, None] * values[:-1]
        self.profit[1:] -= funding
        share = _sums(cells, traded, shape) / 2 / self.before[rows][:, None]
        self.session_turnover: Array = np.zeros(len(marks))
        self.session_turnover[rows] = share.sum(axis=1)
        self.turnover: Array = share.sum(axis=0) / len(marks) * config.year
        """Per symbol, one-way and per year."""
        slip = config.costs.slippage
        slipped = traded * slip / (1 + np.sign(fills["shares"]) * slip)
        self.costs: dict[str, Array] = {
            "fees": _per_symbol(fills, fills["fees"], shape[1]),
            "slippage": _per_symbol(fills, slipped, shape[1]),
            "funding": funding.sum(axis=0),
        }
        """Money per symbol."""


def _sums(cells: Index, amounts: Array, shape: tuple[int, int]) -> Array:
    return np.bincount(cells, weights=amounts, minlength=shape[0] * shape[1]).astype(np.float64).reshape(shape)


def _per_symbol(fills: Any, amounts: Array, count: int) -> Array:
    return np.bincount(fills["column"], weights=amounts, minlength=count).astype(np.float64)


def _trades(records: Any, prices: Matrices, config: BacktestConfig) -> pl.DataFrame:
    """One per sell of a long (buy of a short) at the position's average entry price; what is held at the end as well.

    `entry_ts` is the position's first fill.
    """
    slip = config.costs.slippage
    side = records["side"]
    closed = records["reason"] != REASONS.index("open")
    lost = records["entry_price"] * slip / (1 + side * slip) + np.where(
        closed, records["exit_price"] * slip / (1 - side * slip), 0.0
    )
    frame = pl.DataFrame(
        {
            "symbol": _names(prices).gather(records["column"]),
            "side": pl.Series(["short", "long"]).gather((side + 1) // 2),
            "entry_ts": prices.days[records["entry_row"]],
            "entry_price": records["entry_price"],
            "qty": records["shares"],
            "exit_ts": prices.days[records["exit_row"]],
            "exit_price": records["exit_price"],
            "pnl": records["pnl"],
            "pnl_pct": records["ret"],
            "fees": records["fees"],
            "slippage_est": records["shares"] * lost,
            "reason": pl.Series(REASONS).gather(records["reason"]),
            "closed": closed,
        }
    )
    ordered = (
        frame.sort("entry_ts", "symbol", "closed", "exit_ts", descending=[False, False, True, False])
        .with_columns(exit_ts=pl.when("closed").then("exit_ts"))
        .with_row_index("trade_no")
    )
    return _contracted(ordered, backtest_trades.TABLE, config)


def _summary(done: Simulation, days: Days, config: BacktestConfig) -> dict[str, Any]:
    measured = {name: float(values[0]) for name, values in done.outcomes.summary(config.year).items()}
    known = {name: None if np.isnan(value) else value for name, value in measured.items()}
    return {
        "strategy_id": config.strategy_id,
        "version": config.version,
        "from_ts": days[0].item(),
        "to_ts": days[-1].item(),
        **{name: known[name] for name in _MEASURES},
        "num_trades": int(measured["num_trades"]),
        "profit_factor": known["profit_factor"],
        "fee_bps": float(config.costs.fee_bps),
        "slippage_bps": float(config.costs.slippage_bps),
        "initial_cash": float(config.initial_cash),
        "final_equity": measured["final_equity"],
    }


def _equity(book: _Book, days: npt.NDArray[np.datetime64], config: BacktestConfig) -> pl.DataFrame:
    frame = pl.DataFrame(
        {
            "ts": days,
            "equity": book.equity,
            "ret": metrics.returns_of(book.equity, config.initial_cash),
            "drawdown": metrics.drawdowns(book.equity, config.initial_cash),
            "gross_exposure": np.abs(book.weights).sum(axis=1),
            "turnover": book.session_turnover,
        }
    )
    return _contracted(frame, backtest_equity.TABLE, config)


def _symbols(book: _Book, trades: Any, symbols: Sequence[str], config: BacktestConfig) -> pl.DataFrame:
    """One row per symbol that traded. Sharpe and drawdown are those of its daily profit within the portfolio."""
    closed = trades["column"][trades["reason"] != REASONS.index("open")]
    profit = np.ascontiguousarray(book.profit.T)
    paths = config.initial_cash + np.cumsum(profit, axis=1)
    frame = pl.DataFrame(
        {
            "symbol": pl.Series(symbols, dtype=pl.String),
            "contribution": paths[:, -1] / config.initial_cash - 1.0,
            "sharpe": pl.Series(metrics.sharpes(profit / book.before, config.year)).fill_nan(None),
            "max_dd": metrics.drawdowns(paths, config.initial_cash).min(axis=1),
            "turnover": book.turnover,
            "num_trades": np.bincount(closed, minlength=len(symbols)),
            "mean_weight": book.weights.mean(axis=0),
            **{name: paid / config.initial_cash for name, paid in book.costs.items()},
        }
    )
    return _contracted(frame.filter(pl.col("turnover") > 0), backtest_symbols.TABLE, config)


def _held(weights: Array, prices: Matrices) -> pl.DataFrame:
    row, column = np.nonzero(weights)
    return pl.DataFrame(
        {"ts": prices.days[row], "symbol": _names(prices).gather(column), "weight": weights[row, column]}
    )


def _unfilled(plan: _Plan, placed: Array, prices: Matrices, config: BacktestConfig) -> pl.DataFrame:
    """Targets other than 0 that met a session without a price."""
    found = (prices.open if config.price == "next_open" else prices.close)[plan.filled]
    row, column = np.nonzero(np.isnan(found) & ~np.isnan(placed) & (placed != 0))
    weights = {"weight": placed[row, column]}
    return pl.DataFrame({"ts": prices.days[plan.filled[row]], "symbol": _names(prices).gather(column)} | weights)


def _names(prices: Matrices) -> pl.Series:
    return pl.Series("symbol", prices.symbols, dtype=pl.String)


def _contracted(frame: pl.DataFrame, table: Table, config: BacktestConfig) -> pl.DataFrame:
    """In the order of the contract; nullable columns that are filled in later (`analysis.tables`) are null."""
    later = [c for c in table.columns if c.nullable and c.name not in frame.columns]
    filled = frame.with_columns(
        pl.lit(config.strategy_id).alias("strategy_id"), *(pl.lit(None).alias(c.name) for c in later)
    )
    return filled.select(pl.col(column.name).cast(column.polars) for column in table.columns)
