"""Performance measures of equity curves and their trades: pure functions on NumPy arrays.

Returns are simple returns per session as fractions, `year` is the number of sessions in one, the risk-free rate is
zero. A measure of one curve that is undefined (too few values, nothing to divide by) is None; none is ever NaN or
infinite. `measures` takes many curves at once, with the same arithmetic.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import numpy.typing as npt

from quant_assets.validation.sharpe import NO_SPREAD, annual_ratios, sharpes, spreads

Array = npt.NDArray[np.float64]

YEAR = 252
"""Sessions per year of an exchange; a market that never closes has 365."""


def cagr(growth: float, sessions: int, year: int = YEAR) -> float | None:
    """Compound annual growth rate: growth ** (year / sessions) - 1, where growth = final / initial equity.

    Nothing left (growth <= 0) is -1. Bacon, "Practical Portfolio Performance Measurement and Attribution", ch. 2.

    Example:
        >>> round(cagr(1.21, 504), 12)
        0.1
    """
    return _known(_cagr(np.array([growth]), sessions, year))


def volatility(returns: Array, year: int = YEAR) -> float | None:
    """Annualised sample standard deviation: std(returns, ddof=1) * sqrt(year).

    Example:
        >>> round(volatility(np.array([0.01, -0.01])), 12) == round(0.01 * math.sqrt(2) * math.sqrt(252), 12)
        True
    """
    return _known(spreads(returns[None]) * math.sqrt(year))


def sharpe(returns: Array, year: int = YEAR) -> float | None:
    """Annualised Sharpe ratio: mean / std(ddof=1) * sqrt(year). Sharpe, "The Sharpe Ratio" (1994).

    Example:
        >>> round(sharpe(np.array([0.02, 0.0])), 6) == round(0.01 / (0.01 * math.sqrt(2)) * math.sqrt(252), 6)
        True
    """
    return _known(sharpes(returns[None], year))


def sortino(returns: Array, year: int = YEAR) -> float | None:
    """Annualised Sortino ratio: mean / sqrt(mean(min(returns, 0) ** 2)) * sqrt(year), target return zero.

    The downside deviation is taken over all sessions. Sortino and Price, "Performance Measurement in a Downside Risk
    Framework" (1994).

    Example:
        >>> round(sortino(np.array([0.03, -0.01])), 6) == round(0.01 / math.sqrt(0.00005) * math.sqrt(252), 6)
        True
    """
    many = returns[None]
    return _known(annual_ratios(np.mean(many, axis=1), _downside(many), year)) if len(returns) else None


def drawdowns(equity: Array, initial: float) -> Array:
    """Per session, equity over its highest value so far (the initial cash included), minus one: 0 or negative.

    Of one curve, or of many as (curves, sessions).

    Example:
        >>> drawdowns(np.array([110.0, 99.0]), 100.0).round(6).tolist()
        [0.0, -0.1]
    """
    peak = np.maximum.accumulate(np.maximum(equity, initial), axis=-1)
    return equity / peak - 1.0


def calmar(annual_growth: float | None, max_drawdown: float) -> float | None:
    """CAGR over the size of the maximum drawdown, both over the whole period. Young, "Calmar Ratio" (Futures, 1991).

    Example:
        >>> calmar(0.2, -0.1)
        2.0
    """
    growth = math.nan if annual_growth is None else annual_growth
    return _known(_calmar(np.array([growth]), np.array([max_drawdown])))


def returns_of(equity: Array, initial: float) -> Array:
    """Simple return of each session, of one curve or of many as (curves, sessions).

    Example:
        >>> returns_of(np.array([110.0, 99.0]), 100.0).round(6).tolist()
        [0.1, -0.1]
    """
    before = np.empty_like(equity)
    before[..., 0] = initial
    before[..., 1:] = equity[..., :-1]
    return equity / before - 1.0


def measures(equity: Array, initial: float, year: int = YEAR) -> dict[str, Array]:
    """`cagr`, `sharpe`, `sortino`, `calmar`, `max_dd` and `vol` of many curves at once; NaN where undefined.

    Args:
        equity: (curves, sessions).
        initial: equity before the first session, of all.
        year: sessions per year.

    Example:
        >>> measures(np.array([[110.0, 99.0]]), 100.0)["max_dd"].round(6).tolist()
        [-0.1]
    """
    returns = returns_of(equity, initial)
    growth = _cagr(equity[:, -1] / initial, equity.shape[1], year)
    worst = drawdowns(equity, initial).min(axis=1)
    mean, spread = np.mean(returns, axis=1), spreads(returns)
    return {
        "cagr": growth,
        "sharpe": annual_ratios(mean, spread, year),
        "sortino": annual_ratios(mean, _downside(returns), year),
        "calmar": _calmar(growth, worst),
        "max_dd": worst,
        "vol": spread * math.sqrt(year),
    }


def _known(values: Array) -> float | None:
    return None if np.isnan(values[0]) else float(values[0])


def _cagr(growth: Array, sessions: int, year: int) -> Array:
    if sessions < 1:
        return np.full(len(growth), np.nan)
    alive = growth > 0
    exponent = np.log(np.where(alive, growth, 1.0)) * year / sessions
    grown = np.where(exponent < 700, np.expm1(np.minimum(exponent, 700.0)), np.nan)
    return np.where(alive | np.isnan(growth), np.where(np.isnan(growth), np.nan, grown), -1.0)


def _calmar(growth: Array, worst: Array) -> Array:
    falls = worst <= -NO_SPREAD
    return np.where(falls, growth / np.where(falls, -worst, 1.0), np.nan)


def _downside(returns: Array) -> Array:
    return np.sqrt(np.mean(np.minimum(returns, 0.0) ** 2, axis=1))


def annual_turnover(per_session: Array, year: int = YEAR) -> float:
    """One-way turnover per year: mean of the sessions' traded value / 2 / equity before trading, times `year`.

    1.0 means that the whole portfolio is replaced once a year.

    Example:
        >>> annual_turnover(np.array([0.5, 0.0]))
        63.0
    """
    return float(np.mean(per_session)) * year if len(per_session) else 0.0


def win_rate(pnl: Array) -> float | None:
    """Share of closed trades whose profit after costs is above zero.

    Example:
        >>> win_rate(np.array([3.0, -1.0, 0.0, 2.0]))
        0.5
    """
    return float(np.mean(pnl > 0)) if len(pnl) else None


def profit_factor(pnl: Array) -> float | None:
    """Sum of winning over sum of losing closed trades' profit; None without a loss. Pardo (2008), ch. 12.

    Example:
        >>> profit_factor(np.array([3.0, -1.0, -0.5]))
        2.0
    """
    lost = -float(np.sum(np.minimum(pnl, 0.0)))
    return float(np.sum(np.maximum(pnl, 0.0))) / lost if lost > 0 else None


def average(values: Array) -> float | None:
    """Arithmetic mean, None of nothing.

    Example:
        >>> average(np.array([0.1, -0.05])), average(np.array([]))
        (0.025, None)
    """
    return float(np.mean(values)) if len(values) else None


def rolling_sharpe(returns: Array, window: int = YEAR, year: int = YEAR) -> Array:
    """`sharpe` of the last `window` sessions for each session from number `window` on (len - window + 1 values).

    A window without spread is drawn as 0.

    Example:
        >>> rolling_sharpe(np.array([0.02, 0.0, 0.02]), 2).round(4).tolist()
        [11.225, 11.225]
    """
    if len(returns) < window or window < 2:
        return np.empty(0)
    views = np.lib.stride_tricks.sliding_window_view(returns, window)
    spread = views.std(axis=1, ddof=1)
    flat = spread < NO_SPREAD
    return np.where(flat, 0.0, views.mean(axis=1) / np.where(flat, 1.0, spread)) * math.sqrt(year)


@dataclass(frozen=True, slots=True)
class Drawdown:
    """One fall below a peak. `peak` is None where the peak is the initial cash, `end` where it has not recovered."""

    peak: date | None
    trough: date
    end: date | None
    depth: float
    """Equity at the trough over equity at the peak, minus one."""
    sessions: int
    """Sessions from the first below the peak to the recovery, or to the end of the period."""


def worst_drawdowns(days: Sequence[date], equity: Array, initial: float, count: int = 5) -> list[Drawdown]:
    """The `count` deepest falls, deepest first; falls do not overlap.

    Example:
        >>> days = [date(2024, 1, d) for d in (2, 3, 4)]
        >>> worst_drawdowns(days, np.array([90.0, 80.0, 100.0]), 100.0)[0].trough
        datetime.date(2024, 1, 3)
    """
    depth = drawdowns(equity, initial)
    under = np.concatenate(([False], depth < -NO_SPREAD, [False]))
    steps = np.flatnonzero(under[1:] != under[:-1])
    falls = []
    for start, end in zip(steps[::2].tolist(), steps[1::2].tolist(), strict=True):
        trough = start + int(np.argmin(depth[start:end]))
        falls.append(
            Drawdown(
                peak=days[start - 1] if start else None,
                trough=days[trough],
                end=days[end] if end < len(days) else None,
                depth=float(depth[trough]),
                sessions=end - start,
            )
        )
    return sorted(falls, key=lambda fall: (fall.depth, fall.trough))[:count]


def monthly_returns(days: Sequence[date], equity: Array, initial: float) -> dict[tuple[int, int], float]:
    """Return of each calendar month as {(year, month): fraction}, in order; month 0 holds the year's total.

    Example:
        >>> monthly_returns([date(2024, 1, 31), date(2024, 2, 1)], np.array([110.0, 99.0]), 100.0)
        {(2024, 0): -0.010000000000000009, (2024, 1): 0.10000000000000009, (2024, 2): -0.09999999999999998}
    """
    closes = zip(days, equity.tolist(), strict=True)
    last = {(day.year, month): value for day, value in closes for month in (0, day.month)}
    found: dict[tuple[int, int], float] = {}
    before = {True: initial, False: initial}
    for key in sorted(last):
        yearly = key[1] == 0
        if before[yearly] > 0:
            found[key] = last[key] / before[yearly] - 1.0
        before[yearly] = last[key]
    return found
