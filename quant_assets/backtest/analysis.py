"""What a backtest says beside its headline figures: distribution, benchmark, correlation, exposure, costs.

Pure functions on curves and on the tables of a result. Returns are simple returns per session as fractions, the
risk-free rate is zero, a year has `year` sessions. A measure that is undefined is None.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import polars as pl

from quant_assets.backtest import metrics
from quant_assets.backtest.engine import BacktestResult
from quant_assets.backtest.metrics import Drawdown
from quant_assets.contracts import (
    backtest_correlations,
    backtest_equity,
    backtest_measures,
    backtest_summary,
    backtest_symbols,
    backtest_trades,
)
from quant_assets.contracts.schema import Table
from quant_assets.core.errors import DataError
from quant_assets.core.matrices import Days, days_of, matrices

Array = npt.NDArray[np.float64]
Period = Literal["day", "week", "month", "year"]
Unit = Literal["percent", "ratio", "count"]

PERIODS: tuple[Period, ...] = ("day", "week", "month", "year")
PORTFOLIO, BENCHMARK = "(portfolio)", "(benchmark)"
"""Stand among the symbols of a correlation matrix; no instrument is called so."""
HEAVIEST = 50
"""So many symbols at most enter a correlation matrix."""

_TAIL = 0.05
_FEW = 3  # fewer common sessions than this have no correlation
_FLAT = 1e-12  # below it a standard deviation is rounding


class Measure(NamedTuple):
    """One line of a tear sheet."""

    name: str
    group: str
    label: str
    unit: Unit
    better: int
    """1 where more is better, -1 where less is, 0 where neither is said."""


MEASURES = (
    Measure("total_return", "Return", "Total return", "percent", 1),
    Measure("cagr", "Return", "CAGR", "percent", 1),
    Measure("best_day", "Return", "Best day", "percent", 1),
    Measure("worst_day", "Return", "Worst day", "percent", 1),
    Measure("best_month", "Return", "Best month", "percent", 1),
    Measure("worst_month", "Return", "Worst month", "percent", 1),
    Measure("best_year", "Return", "Best year", "percent", 1),
    Measure("worst_year", "Return", "Worst year", "percent", 1),
    Measure("positive_days", "Return", "Positive days", "percent", 1),
    Measure("positive_months", "Return", "Positive months", "percent", 1),
    Measure("positive_years", "Return", "Positive years", "percent", 1),
    Measure("vol", "Risk", "Volatility", "percent", -1),
    Measure("max_dd", "Risk", "Maximum drawdown", "percent", 1),
    Measure("average_dd", "Risk", "Average drawdown", "percent", 1),
    Measure("longest_dd", "Risk", "Longest drawdown, sessions", "count", -1),
    Measure("ulcer", "Risk", "Ulcer index", "percent", -1),
    Measure("var_95", "Risk", "Value at risk, 95%, day", "percent", 1),
    Measure("cvar_95", "Risk", "Expected shortfall, 95%, day", "percent", 1),
    Measure("skew", "Risk", "Skew", "ratio", 1),
    Measure("kurtosis", "Risk", "Excess kurtosis", "ratio", -1),
    Measure("sharpe", "Return over risk", "Sharpe ratio", "ratio", 1),
    Measure("sortino", "Return over risk", "Sortino ratio", "ratio", 1),
    Measure("calmar", "Return over risk", "Calmar ratio", "ratio", 1),
    Measure("omega", "Return over risk", "Omega ratio", "ratio", 1),
    Measure("recovery", "Return over risk", "Recovery factor", "ratio", 1),
    Measure("tail_ratio", "Return over risk", "Tail ratio", "ratio", 1),
    Measure("alpha", "Against the benchmark", "Alpha per year", "percent", 1),
    Measure("beta", "Against the benchmark", "Beta", "ratio", 0),
    Measure("correlation", "Against the benchmark", "Correlation", "ratio", 0),
    Measure("tracking_error", "Against the benchmark", "Tracking error", "percent", 0),
    Measure("information_ratio", "Against the benchmark", "Information ratio", "ratio", 1),
    Measure("up_capture", "Against the benchmark", "Up capture", "percent", 1),
    Measure("down_capture", "Against the benchmark", "Down capture", "percent", -1),
    Measure("exposure", "Trading", "Mean gross exposure", "percent", 0),
    Measure("turnover", "Trading", "Turnover per year", "ratio", -1),
    Measure("num_trades", "Trading", "Closed trades", "count", 0),
    Measure("win_rate", "Trading", "Winning trades", "percent", 1),
    Measure("avg_trade", "Trading", "Average trade", "percent", 1),
    Measure("profit_factor", "Trading", "Profit factor", "ratio", 1),
    Measure("fees", "Trading", "Fees per year", "percent", -1),
    Measure("slippage", "Trading", "Slippage per year", "percent", -1),
    Measure("funding", "Trading", "Funding per year", "percent", -1),
)
"""Every measure, in the order of the tear sheet. Costs are per year and of mean equity."""


@dataclass(frozen=True, eq=False)
class Curve:
    """Equity after each session, and before the first."""

    days: Days
    equity: Array
    initial: float
    year: int = metrics.YEAR

    @cached_property
    def returns(self) -> Array:
        """Per session."""
        return metrics.returns_of(self.equity, self.initial)

    @cached_property
    def falls(self) -> list[Drawdown]:
        """Every drawdown, the deepest first."""
        days: Sequence[date] = self.days.tolist()
        return metrics.worst_drawdowns(days, self.equity, self.initial, count=len(days))

    def every(self, period: Period) -> Array:
        """Return of each calendar period, weeks from Monday; the first and last may be incomplete.

        Example:
            >>> days = days_of([date(2024, 1, 31), date(2024, 2, 1), date(2024, 2, 2)])
            >>> Curve(days, np.array([110.0, 99.0, 121.0]), 100.0).every("month").round(6).tolist()
            [0.1, 0.1]
        """
        return metrics.returns_of(self.equity[self._ends(period)], self.initial)

    def _ends(self, period: Period) -> npt.NDArray[np.int64]:
        """The last session of each period; number 0 is a Thursday."""
        numbers = self.days.astype(np.int64)
        if period != "day":
            calendar = self.days.astype(f"datetime64[{period[0].upper()}]").astype(np.int64)
            numbers = (numbers + 3) // 7 if period == "week" else calendar
        return np.flatnonzero(np.append(numbers[1:] != numbers[:-1], True))


def curve_of(equity: pl.DataFrame, initial: float, year: int) -> Curve:
    """From ts, equity."""
    return Curve(days_of(equity["ts"].to_list()), equity["equity"].to_numpy(), initial, year)


def benchmark_of(result: BacktestResult, benchmark: pl.DataFrame) -> Curve:
    """The benchmark (ts, equity) as a curve over the result's sessions.

    Raises:
        DataError: other sessions than the result's.
    """
    if benchmark["ts"].to_list() != result.equity["ts"].to_list():
        raise DataError(
            f"the benchmark has {benchmark.height:,} sessions that are not the backtest's {result.equity.height:,}; "
            "make it over the same ones"
        )
    return curve_of(benchmark, result.config.initial_cash, result.config.year)


def measures(curve: Curve) -> dict[str, float | None]:
    """Measures of one curve: groups Return, Risk and Return over risk of `MEASURES`."""
    returns, falls = curve.returns, curve.falls
    months, years = curve.every("month"), curve.every("year")
    growth = float(curve.equity[-1]) / curve.initial
    deepest = min((fall.depth for fall in falls), default=0.0)
    annual = metrics.cagr(growth, len(returns), curve.year)
    return {
        "total_return": growth - 1.0,
        "cagr": annual,
        **{f"best_{name}": float(values.max()) for name, values in _named(returns, months, years)},
        **{f"worst_{name}": float(values.min()) for name, values in _named(returns, months, years)},
        **{f"positive_{name}s": float(np.mean(values > 0)) for name, values in _named(returns, months, years)},
        "vol": metrics.volatility(returns, curve.year),
        "max_dd": deepest,
        "average_dd": metrics.average(np.array([fall.depth for fall in falls])) or 0.0,
        "longest_dd": float(max((fall.sessions for fall in falls), default=0)),
        "ulcer": ulcer(curve.equity, curve.initial),
        "var_95": value_at_risk(returns),
        "cvar_95": expected_shortfall(returns),
        "skew": skew(returns),
        "kurtosis": kurtosis(returns),
        "sharpe": metrics.sharpe(returns, curve.year),
        "sortino": metrics.sortino(returns, curve.year),
        "calmar": metrics.calmar(annual, deepest),
        "omega": metrics.profit_factor(returns),
        "recovery": (growth - 1.0) / -deepest if deepest < -_FLAT else None,
        "tail_ratio": tail_ratio(returns),
    }


def _named(returns: Array, months: Array, years: Array) -> tuple[tuple[str, Array], ...]:
    return ("day", returns), ("month", months), ("year", years)


def relative(curve: Curve, benchmark: Curve) -> dict[str, float | None]:
    """Measures of a curve against a benchmark over the same sessions: group Against the benchmark of `MEASURES`.

    Alpha and beta are those of the line of least squares through the returns (Jensen, 1968), alpha per year. The
    information ratio is the mean of the returns over the benchmark's by their standard deviation, times sqrt(year)
    (Grinold and Kahn, "Active Portfolio Management", ch. 5); that deviation, times sqrt(year), is the tracking error.
    """
    ours, theirs = curve.returns, benchmark.returns
    active = ours - theirs
    beta = slope(ours, theirs)
    pair, _ = correlations(np.column_stack((ours, theirs)))
    months = curve.every("month"), benchmark.every("month")
    return {
        "alpha": None if beta is None else float(ours.mean() - beta * theirs.mean()) * curve.year,
        "beta": beta,
        "correlation": None if np.isnan(pair[0, 1]) else float(pair[0, 1]),
        "tracking_error": metrics.volatility(active, curve.year),
        "information_ratio": metrics.sharpe(active, curve.year),
        "up_capture": capture(*months, up=True),
        "down_capture": capture(*months, up=False),
    }


def slope(returns: Array, benchmark: Array) -> float | None:
    """Beta: covariance with the benchmark over the benchmark's variance; None where it does not move. Sharpe (1964).

    Example:
        >>> slope(np.array([0.02, 0.0, 0.04]), np.array([0.01, 0.0, 0.02]))
        2.0
    """
    if len(returns) < 2 or float(benchmark.std()) < _FLAT:
        return None
    centred = benchmark - benchmark.mean()
    return float(centred @ returns / (centred @ centred))


def capture(returns: Array, benchmark: Array, *, up: bool) -> float | None:
    """Geometric mean return over the months in which the benchmark rose (fell), over the benchmark's own.

    1.2 of the up months means that a fifth more was earned than by the benchmark. Morningstar, "Upside and Downside
    Capture Ratios". None without such a month.

    Example:
        >>> round(capture(np.array([0.02, -0.01]), np.array([0.01, -0.02]), up=True), 9)
        2.0
    """
    chosen = benchmark > 0 if up else benchmark < 0
    if not chosen.any():
        return None
    ours, theirs = (math.expm1(float(np.log1p(values[chosen]).mean())) for values in (returns, benchmark))
    return ours / theirs


def skew(returns: Array) -> float | None:
    """Sample skewness G1 = n / ((n - 1)(n - 2)) sum(z**3), z by the sample deviation. Joanes and Gill (1998).

    Example:
        >>> round(skew(np.array([0.0, 0.0, 0.03])), 6) == round(math.sqrt(3), 6)
        True
    """
    count = len(returns)
    if count < 3 or (spread := float(returns.std(ddof=1))) < _FLAT:
        return None
    cubes = float((((returns - returns.mean()) / spread) ** 3).sum())
    return count / ((count - 1) * (count - 2)) * cubes


def kurtosis(returns: Array) -> float | None:
    """Sample excess kurtosis G2, 0 for a normal distribution. Joanes and Gill (1998).

    Example:
        >>> round(kurtosis(np.array([0.0, 0.0, 0.0, 0.04])), 9)
        4.0
    """
    count = len(returns)
    if count < 4 or (spread := float(returns.std(ddof=1))) < _FLAT:
        return None
    fourth = float((((returns - returns.mean()) / spread) ** 4).sum())
    rest = (count - 2) * (count - 3)
    return count * (count + 1) / ((count - 1) * rest) * fourth - 3 * (count - 1) ** 2 / rest


def value_at_risk(returns: Array) -> float:
    """The 5% quantile of the returns, linear between two: on one day in twenty at least so much is lost.

    Of the returns as they were, not of a normal distribution, which has no fat tails. Jorion, "Value at Risk", ch. 10.

    Example:
        >>> round(value_at_risk(np.arange(-10, 11) / 100), 9)
        -0.09
    """
    return float(np.quantile(returns, _TAIL))


def expected_shortfall(returns: Array) -> float:
    """Mean of the returns at or below `value_at_risk`. Acerbi and Tasche (2002).

    Example:
        >>> round(expected_shortfall(np.arange(-10, 11) / 100), 9)
        -0.095
    """
    return float(returns[returns <= value_at_risk(returns)].mean())


def tail_ratio(returns: Array) -> float | None:
    """Size of the 95% quantile over that of the 5% quantile; None where that is 0.

    Example:
        >>> round(tail_ratio(np.array([-0.01, 0.0, 0.02])), 9)
        2.0
    """
    low, high = np.quantile(returns, [_TAIL, 1 - _TAIL]).tolist()
    return abs(high / low) if abs(low) > _FLAT else None


def ulcer(equity: Array, initial: float) -> float:
    """Ulcer index: root of the mean squared drawdown over all sessions. Martin and McCann (1989).

    Example:
        >>> round(ulcer(np.array([100.0, 90.0]), 100.0), 6) == round(0.1 / math.sqrt(2), 6)
        True
    """
    return math.sqrt(float(np.mean(metrics.drawdowns(equity, initial) ** 2)))


def rolling_volatility(returns: Array, window: int, year: int) -> Array:
    """`metrics.volatility` of the last `window` sessions, from session number `window` on.

    Example:
        >>> rolling_volatility(np.array([0.01, -0.01, 0.01]), 2, 2).round(9).tolist()
        [0.02, 0.02]
    """
    return _windows(returns, window).std(axis=1, ddof=1) * math.sqrt(year)


def rolling_beta(returns: Array, benchmark: Array, window: int) -> Array:
    """`slope` of the last `window` sessions, from session number `window` on; 0 where the benchmark does not move.

    Example:
        >>> rolling_beta(np.array([0.02, 0.0, 0.04]), np.array([0.01, 0.0, 0.02]), 2).round(9).tolist()
        [2.0, 2.0]
    """
    ours, theirs = _windows(returns, window), _windows(benchmark, window)
    centred = theirs - theirs.mean(axis=1, keepdims=True)
    squares = (centred**2).sum(axis=1)
    flat = squares < _FLAT**2 * window
    return np.where(flat, 0.0, (centred * ours).sum(axis=1) / np.where(flat, 1.0, squares))


def _windows(values: Array, window: int) -> Array:
    if len(values) < window or window < 2:
        return np.empty((0, max(window, 2)))
    return np.lib.stride_tricks.sliding_window_view(values, window)


def rolling_window(year: int) -> int:
    """Sessions of every rolling measure: half a year."""
    return year // 2


def correlations(returns: Array) -> tuple[Array, npt.NDArray[np.int64]]:
    """Pearson's correlation of each two columns over the rows where both have a value.

    Args:
        returns: (sessions, columns), NaN where there is none.

    Returns:
        (columns, columns) correlations, symmetric and in [-1, 1], NaN with fewer than 3 common rows or where one
        column does not move over them; and the numbers of common rows.

    Example:
        >>> matrix, rows = correlations(np.array([[1.0, 2.0], [2.0, 4.0], [3.0, 6.0], [9.0, np.nan]]))
        >>> float(matrix[0, 1].round(9)), int(rows[0, 1])
        (1.0, 3)
    """
    known = ~np.isnan(returns)
    ones = known.astype(np.float64)
    counts = ones.T @ ones
    held = np.where(known, returns, 0.0)
    held = np.where(known, held - held.sum(axis=0) / np.maximum(counts.diagonal(), 1.0), 0.0)
    sums, squares, products = held.T @ ones, (held**2).T @ ones, held.T @ held
    with np.errstate(invalid="ignore", divide="ignore"):
        variances = squares - sums**2 / counts
        covariances = products - sums * sums.T / counts
        moves = np.sqrt(variances / counts) >= _FLAT
        found = np.clip(covariances / np.sqrt(variances * variances.T), -1.0, 1.0)
    found = np.where((counts >= _FEW) & moves & moves.T, (found + found.T) / 2, np.nan)
    diagonal = np.arange(len(found))
    found[diagonal, diagonal] = np.where(np.isnan(found.diagonal()), np.nan, 1.0)
    return found, counts.astype(np.int64)


def heaviest(weights: pl.DataFrame, count: int) -> list[str]:
    """The symbols of the largest mean absolute weight, the largest first; `weights` has ts, symbol, weight."""
    sizes = weights.group_by("symbol").agg(pl.col("weight").abs().sum())
    return sizes.sort("weight", "symbol", descending=[True, False])["symbol"].head(count).to_list()


def correlation_table(result: BacktestResult, benchmark: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """`backtest_correlations` rows: portfolio, benchmark and the heaviest symbols, each pair once, in that order.

    A symbol's returns are those of its closes in `bars` (adjusted; symbol, ts, open, close) over the whole period,
    held or not, from its second session on.
    """
    curve, other = (
        curve_of(result.equity, result.config.initial_cash, result.config.year),
        benchmark_of(result, benchmark),
    )
    names = heaviest(result.weights, HEAVIEST)
    prices = matrices(bars, result.equity["ts"].to_list(), names)
    found, counts = correlations(np.column_stack((curve.returns, other.returns, prices.returns)))
    names = [PORTFOLIO, BENCHMARK, *names]
    row, column = np.triu_indices(len(names), 1)
    columns = pl.Series(names, dtype=pl.String)
    return pl.DataFrame(
        {
            "strategy_id": pl.repeat(result.config.strategy_id, len(row), eager=True),
            "symbol": columns.gather(row),
            "other": columns.gather(column),
            "correlation": pl.Series(found[row, column]).fill_nan(None),
            "sessions": counts[row, column],
        }
    )


def costs(result: BacktestResult) -> dict[str, float]:
    """Money that `fees`, `slippage` and `funding` took over the whole backtest.

    Funding is negative where it was received.
    """
    spent = result.symbols.select(pl.col("fees", "slippage", "funding").sum() * result.config.initial_cash)
    return spent.row(0, named=True)


def trading(result: BacktestResult) -> dict[str, float | None]:
    """Group Trading of `MEASURES`."""
    equity = result.equity
    scale = float(equity["equity"].mean() or 1.0) * equity.height / result.config.year  # type: ignore[arg-type]
    named = ("turnover", "num_trades", "win_rate", "avg_trade", "profit_factor")
    return {
        "exposure": float(equity["gross_exposure"].mean()),  # type: ignore[arg-type]
        **{name: result.summary[name] for name in named},
        **{name: money / scale for name, money in costs(result).items()},
    }


def all_measures(
    result: BacktestResult, benchmark: pl.DataFrame | None
) -> dict[str, tuple[float | None, float | None]]:
    """Every measure that applies: name -> (the strategy's, the benchmark's), in the order of `MEASURES`."""
    curve = curve_of(result.equity, result.config.initial_cash, result.config.year)
    ours: dict[str, float | None] = measures(curve) | trading(result)
    theirs: Mapping[str, float | None] = {}
    if benchmark is not None:
        other = benchmark_of(result, benchmark)
        ours |= relative(curve, other)
        theirs = measures(other)
    return {one.name: (ours[one.name], theirs.get(one.name)) for one in MEASURES if one.name in ours}


def exposure(weights: pl.DataFrame, days: Days) -> tuple[Array, Array]:
    """Sum of the long weights and of the short ones (0 or negative) after each session."""
    at = np.searchsorted(days, weights["ts"].to_numpy().astype("datetime64[D]"))
    share = weights["weight"].to_numpy()
    long, short = np.zeros(len(days)), np.zeros(len(days))
    np.add.at(long, at, np.maximum(share, 0.0))
    np.add.at(short, at, np.minimum(share, 0.0))
    return long, short


def tables(
    result: BacktestResult, benchmark: pl.DataFrame, bars: pl.DataFrame, created_at: datetime
) -> dict[Table, pl.DataFrame]:
    """All that is stored of a backtest, less `run_id` and the summary's `trial_id`.

    Args:
        result: the backtest.
        benchmark: ts, equity over the same sessions (`engine.buy_and_hold`).
        bars: the adjusted bars that it ran on.
        created_at: instant of the backtest, UTC.

    Raises:
        DataError: a benchmark over other sessions.
    """
    config = result.config
    summary = {**result.summary, "created_at": created_at}
    window = rolling_window(config.year)
    rolling = metrics.rolling_sharpe(result.equity["ret"].to_numpy(), window, config.year)
    known = [None] * (result.equity.height - len(rolling)) + rolling.tolist()
    rows = [
        (config.strategy_id, name, ours, theirs) for name, (ours, theirs) in all_measures(result, benchmark).items()
    ]
    frames = {
        backtest_summary.TABLE: pl.DataFrame([summary], schema=backtest_summary.TABLE.empty().schema),
        backtest_trades.TABLE: result.trades,
        backtest_equity.TABLE: result.equity.with_columns(
            benchmark=benchmark["equity"], rolling_sharpe=pl.Series(known, dtype=pl.Float64)
        ),
        backtest_symbols.TABLE: result.symbols,
        backtest_correlations.TABLE: correlation_table(result, benchmark, bars),
        backtest_measures.TABLE: pl.DataFrame(rows, schema=backtest_measures.TABLE.empty().schema, orient="row"),
    }
    return {
        table: frame.select(pl.col(column.name).cast(column.polars) for column in table.columns)
        for table, frame in frames.items()
    }
