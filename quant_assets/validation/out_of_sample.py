"""In sample, out of sample: one split, and many of them walking forward. On matrices of returns, without prices."""

from dataclasses import dataclass
from datetime import date
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from quant_assets.core.errors import DataError
from quant_assets.validation.plan import ValidationPlan
from quant_assets.validation.segments import best, checked, masked_sharpes
from quant_assets.validation.sharpe import sharpes

Floats = NDArray[np.float64]
Days = NDArray[np.datetime64]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class InOutSample:
    """One split. Ratios are annualised Sharpe ratios, NaN where undefined; returns are fractions."""

    split: date
    """First session out of sample."""
    chosen: int
    """The configuration that was best in sample (row of the matrix)."""
    is_sharpe: float
    oos_sharpe: float
    degradation: float
    """(IS - OOS) / IS; NaN where the IS ratio is not above 0."""
    oos_return: float
    """Total return out of sample."""
    written_is_sharpe: float
    """The same of the strategy as its file has it, whose parameters may have been chosen on all of the period."""
    written_oos_sharpe: float
    written_degradation: float
    written_oos_return: float

    @property
    def profitable(self) -> bool:
        return self.oos_return > 0


@dataclass(frozen=True)
class Window:
    """One step of a walk-forward: parameters chosen on the first dates, applied on the second. Sessions, inclusive."""

    train_first: date
    train_last: date
    test_first: date
    test_last: date
    chosen: int
    is_sharpe: float
    oos_sharpe: float
    oos_return: float


@dataclass(frozen=True)
class WalkForward:
    """All windows, and the curve that one would have had by following them."""

    windows: tuple[Window, ...]
    days: Days
    """Sessions of the joined curve: each window's first `step_days`."""
    returns: Floats
    """(sessions of the joined curve,)"""
    sharpe: float
    """Of the joined curve."""
    is_sharpe: float
    """Mean over windows of the chosen configuration's ratio in sample; NaN where one of these is undefined."""
    efficiency: float
    """`sharpe / is_sharpe`; NaN where the latter is not above 0."""
    consistency: float
    """Share of windows whose whole OOS return is above 0."""


def in_out_of_sample(returns: Floats, days: Days, plan: ValidationPlan, year: int, written: int = 0) -> InOutSample:
    """Choose the configuration with the best Sharpe ratio in sample, and look at it out of sample.

    In sample are the first `train_ratio` of the period's calendar days, rounded down, or fewer where less than
    `min_oos_days` would be left. Of equal ratios the lowest row is chosen.

    Args:
        returns: (configurations, sessions)
        days: (sessions,), rising.
        year: sessions per year.
        written: the row of the strategy as its file has it.

    Raises:
        DataError: less than `min_oos_days` would be left to choose on, or the matrix or the days are unusable.

    Example: 1,000 days are split 700 to 300 by a ratio of 0.7, and 635 to 365 by the default of `min_oos_days`.
    """
    calendar = _calendar(checked(returns), days)
    length = int(calendar[-1]) + 1
    inside = min(int(Fraction(str(plan.train_ratio)) * length), length - plan.min_oos_days)
    if inside < plan.min_oos_days:
        raise DataError(
            f"IS/OOS: {max(inside, 0)} of {length} days would be in sample, at least {plan.min_oos_days} are needed; "
            "start the backtest earlier or lower validation.min_oos_days"
        )
    split = int(np.searchsorted(calendar, inside))
    ratios = sharpes(returns[:, :split], year)
    chosen = int(best(ratios))
    rows = [chosen, written]
    after = returns[rows, split:]
    (is_sharpe, written_is), (oos_sharpe, written_oos) = ratios[rows].tolist(), sharpes(after, year).tolist()
    oos_return, written_return = _totals(after).tolist()
    return InOutSample(
        split=_date(days[split]),
        chosen=chosen,
        is_sharpe=is_sharpe,
        oos_sharpe=oos_sharpe,
        degradation=1 - _kept(oos_sharpe, is_sharpe),
        oos_return=oos_return,
        written_is_sharpe=written_is,
        written_oos_sharpe=written_oos,
        written_degradation=1 - _kept(written_oos, written_is),
        written_oos_return=written_return,
    )


def walk_forward(returns: Floats, days: Days, plan: ValidationPlan, year: int) -> WalkForward:
    """Choose the configuration with the best Sharpe ratio in each window, and apply it to the days that follow.

    Window i chooses on the `train_days` calendar days from the first session + i * `step_days` on, and is tested on the
    `test_days` after them. It counts if the last of these is not after the last session, so that no test is cut short.
    The tests overlap where `step_days` is less than `test_days`; the joined curve takes the first `step_days` of each.
    What a change from one window's configuration to the next one's would cost is left out.

    Args:
        returns: (configurations, sessions)
        days: (sessions,), rising.
        year: sessions per year.

    Raises:
        DataError: fewer than `min_windows`, one with less than two sessions to choose or to be tested on, or the matrix
            or the days are unusable.

    Example: 10 days with 4 to choose on, 4 out of sample and steps of 2 have two windows. The first one chooses on days
    0 to 3, is tested on days 4 to 7 and gives days 4 and 5 to the curve; the second gives days 6 and 7.
    """
    calendar = _calendar(checked(returns), days)
    length, both = int(calendar[-1]) + 1, plan.train_days + plan.test_days
    starts = np.arange(0, length - both + 1, plan.step_days)
    if len(starts) < plan.min_windows:
        raise DataError(
            f"walk-forward: {len(starts)} windows in {length} days, at least {plan.min_windows} are needed, which take "
            f"{both + (plan.min_windows - 1) * plan.step_days} days; start the backtest earlier or shorten "
            "validation.train_days"
        )
    offsets = (0, plan.train_days, plan.train_days + plan.step_days, both)
    first, split, joined, stop = (np.searchsorted(calendar, starts + offset) for offset in offsets)
    fewest = int(min((split - first).min(), (stop - split).min()))
    if fewest < 2:
        raise DataError(
            f"walk-forward: a window has {fewest} sessions to choose or be tested on, at least 2 are needed; lengthen "
            "validation.train_days and validation.test_days"
        )
    sessions = np.arange(len(days))
    ratios = masked_sharpes(returns, (sessions >= first[:, None]) & (sessions < split[:, None]), year)
    chosen = best(ratios)
    windows = []
    for number, row in enumerate(chosen.tolist()):
        before, start, end = first[number], split[number], stop[number]
        test = returns[[row], start:end]
        window = Window(
            train_first=_date(days[before]),
            train_last=_date(days[start - 1]),
            test_first=_date(days[start]),
            test_last=_date(days[end - 1]),
            chosen=row,
            is_sharpe=float(ratios[number, row]),
            oos_sharpe=float(sharpes(test, year)[0]),
            oos_return=float(_totals(test)[0]),
        )
        windows.append(window)
    curve = np.concatenate([returns[row, a:b] for row, a, b in zip(chosen, split, joined, strict=True)])
    sharpe = float(sharpes(curve[None], year)[0])
    is_sharpe = float(np.mean([window.is_sharpe for window in windows]))
    return WalkForward(
        windows=tuple(windows),
        days=days[split[0] : joined[-1]],
        returns=curve,
        sharpe=sharpe,
        is_sharpe=is_sharpe,
        efficiency=_kept(sharpe, is_sharpe),
        consistency=float(np.mean([window.oos_return > 0 for window in windows])),
    )


def _calendar(returns: Floats, days: Days) -> Index:
    """The sessions as calendar days since the first one.

    Raises:
        DataError: not as many as returns, or not rising.
    """
    calendar = (days.astype("datetime64[D]") - days[:1].astype("datetime64[D]")).astype(np.int64)
    if len(calendar) != returns.shape[1] or (np.diff(calendar) <= 0).any():
        raise DataError(
            f"{len(calendar)} days for {returns.shape[1]} returns, or not in order; pass one per session, sorted"
        )
    return calendar


def _date(day: np.datetime64) -> date:
    return day.astype("datetime64[D]").item()


def _totals(returns: Floats) -> Floats:
    """Total return of each row."""
    return np.prod(1 + returns, axis=1) - 1


def _kept(after: float, before: float) -> float:
    """The share of a ratio that is left out of sample; NaN where there was none to keep."""
    return after / before if before > 0 else float("nan")
