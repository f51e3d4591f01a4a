"""Probability of backtest overfitting by combinatorially symmetric cross-validation (CSCV)."""

from dataclasses import dataclass
from math import comb

import numpy as np
from numpy.typing import NDArray

from quant_assets.core.errors import ConfigError, DataError

Floats = NDArray[np.float64]
Index = NDArray[np.int64]

MOST_BLOCKS = 20
"""184,756 halvings; each further pair of blocks makes about four times as many."""

_ROUNDING = 1e-12
"""A variance below this share of the mean square is rounding."""


@dataclass(frozen=True)
class Overfitting:
    """What choosing the best in one half of the blocks was worth in the other half, over all ways to halve them.

    Combinations are in the order of `itertools.combinations(range(blocks), blocks // 2)`, which names the blocks in
    sample; the complement of combination i is combination -1 - i.
    """

    pbo: float
    """Share of combinations in which the one chosen was not above the median out of sample."""
    logits: Floats
    """(combinations,): log of relative rank out of sample over its complement; 0 is the median."""
    is_sharpe: Floats
    """(combinations,): annualised ratio in sample of the one chosen."""
    oos_sharpe: Floats
    """(combinations,): its ratio out of sample."""
    slope: float
    intercept: float
    r_squared: float
    """Performance degradation: least squares of `oos_sharpe` on `is_sharpe`. All NaN where the latter never varies,
    only R squared where the former does not."""
    loss_probability: float
    """Share of combinations in which the one chosen lost money out of sample."""
    configurations: int
    blocks: int
    chosen: Index
    """(combinations,): the configuration that was best in sample."""


def backtest_overfitting(returns: Floats, year: int, blocks: int = 16) -> Overfitting:
    """Probability of backtest overfitting of a search over (configurations, sessions).

    Source: Bailey, Borwein, Lopez de Prado and Zhu, "The Probability of Backtest Overfitting", Journal of Computational
    Finance 20(4), 2017. The period is cut into contiguous blocks of equal length; what is left over, fewer sessions
    than there are blocks, is left out at its end. For every choice of half of the blocks, the configuration with the
    highest Sharpe ratio in them (the first of equals) has rank r of N among the ratios in the other half (1 is the
    worst, equals share their mean rank), relative rank w = r / (N + 1) and logit ln(w / (1 - w)). PBO is the share of
    logits that are not above 0.

    A configuration that returned 0 in every session of a half, one that did not trade, has the ratio 0 there.

    With two blocks, the sessions (1, 3 | 1, 3), (2, 3 | -1, 0) and (0, 1 | 0, 2) of three configurations: in the first
    half the second is best and in the other the worst, rank 1; in the second half the first is best and in the other
    half second, rank 2. Relative ranks 1/4 and 1/2, logits -ln 3 and 0, PBO 1.

    Args:
        returns: (configurations, sessions), simple returns per session.
        year: sessions per year.
        blocks: how many, even.

    Raises:
        ConfigError: `blocks` is odd, below 2 or above MOST_BLOCKS.
        DataError: fewer than two configurations or than two sessions per block, returns that are not finite, or a
            configuration chosen for returns that are constant and not 0: its ratio is infinite.
    """
    from quant_assets.validation.pbo_kernel import halvings

    configurations, sessions = returns.shape
    if blocks % 2 or not 2 <= blocks <= MOST_BLOCKS:
        raise ConfigError(f"blocks is {blocks}: PBO needs an even number of them from 2 to {MOST_BLOCKS}")
    if configurations < 2:
        raise DataError(f"PBO needs at least 2 configurations, there is {configurations}: give the strategy a sweep")
    length = sessions // blocks
    if length < 2:
        raise DataError(
            f"PBO needs at least 2 sessions in each of {blocks} blocks, there are {sessions} in all: "
            "take a longer period or fewer blocks"
        )
    cut = np.ascontiguousarray(returns, dtype=np.float64)[:, : blocks * length].reshape(configurations, blocks, length)
    squares = np.ascontiguousarray(np.einsum("cbs,cbs->cb", cut, cut).T)
    if not np.isfinite(squares).all():
        raise DataError("returns hold NaN or infinite values: a session without a return counts as 0")
    sums = np.ascontiguousarray(cut.sum(axis=2).T)

    half = blocks // 2
    combinations = comb(blocks, half)
    picks, scores = np.empty((2, combinations), np.int64), np.empty((2, combinations))
    halvings(sums, squares, picks, scores)
    chosen, ranks = picks
    is_sharpe, oos_sharpe = _sharpes(scores, chosen, half * length, year)
    slope, intercept, r_squared = _line(is_sharpe, oos_sharpe)
    logits = np.log(ranks / (2 * (configurations + 1) - ranks))
    return Overfitting(
        float(np.mean(logits <= 0)),
        logits,
        is_sharpe,
        oos_sharpe,
        slope,
        intercept,
        r_squared,
        float(np.mean(oos_sharpe < 0)),
        configurations,
        blocks,
        chosen,
    )


def _sharpes(scores: Floats, chosen: Index, sessions: int, year: int) -> Floats:
    """Annualised Sharpe ratios, ddof 1, from the kernel's (2, halvings) scores over so many sessions."""
    share = scores / sessions  # signed: squared mean over mean square
    variance = 1 - np.abs(share)  # as a share of the mean square
    if np.any(variance < _ROUNDING):
        raise DataError(
            f"configuration {chosen[np.argmin(variance) % chosen.size]} has the same return, not 0, in all {sessions} "
            "sessions of a half, and so an infinite Sharpe ratio: leave it out"
        )
    ratios: Floats = np.sign(share) * np.sqrt(np.abs(share) / variance * ((sessions - 1) / sessions * year))
    return ratios


def _line(x: Floats, y: Floats) -> tuple[float, float, float]:
    """Slope, intercept and R squared of the least squares line of y on x."""
    from_x, from_y = x - x.mean(), y - y.mean()
    xx, xy, yy = (float(np.sum(product)) for product in (from_x**2, from_x * from_y, from_y**2))
    if xx <= _ROUNDING * float(np.sum(x**2)):
        return np.nan, np.nan, np.nan
    slope = xy / xx
    varies = yy > _ROUNDING * float(np.sum(y**2))
    return slope, float(y.mean() - slope * x.mean()), xy * xy / (xx * yy) if varies else np.nan
