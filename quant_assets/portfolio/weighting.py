"""Proposals: scores to ranks and long-only weights, all rebalance dates at once; what may be held is decided later."""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from quant_assets.core.errors import DataError

Weighting = Literal["equal", "score_weighted", "inverse_vol"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Both of shape (dates, symbols). `rank` is 1 for the best and 0 without a finite score; the weights of a date are
    not negative and sum to 1, or to 0 where no symbol can be weighted."""

    rank: NDArray[np.int64]
    weight: NDArray[np.float64]


def propose(
    scores: NDArray[np.float64], method: Weighting, top_k: int, vols: NDArray[np.float64] | None = None
) -> Proposal:
    """Weigh the `top_k` best scores of each date.

    - `equal`: 1 / n each.
    - `score_weighted`: proportional to the score; one that is not positive gets nothing.
    - `inverse_vol`: proportional to 1 / volatility; one without a positive volatility gets nothing.

    Example:
        >>> propose(np.array([[3.0, 1.0, np.nan, 2.0]]), "score_weighted", 2).weight.tolist()
        [[0.6, 0.0, 0.0, 0.4]]

    Args:
        scores: (dates, symbols), NaN or infinite where there is none. Columns sorted by symbol: of equal scores the
            one further left is the better.
        vols: (dates, symbols), volatility known on the date; needed by `inverse_vol` only.

    Raises:
        DataError: `inverse_vol` without volatilities of the scores' shape.
    """
    scored = np.isfinite(scores)
    rank = _rank(scores, scored)
    chosen = scored & (rank <= top_k)
    if method == "equal":
        raw = chosen.astype(np.float64)
    elif method == "score_weighted":
        raw = np.where(chosen & (scores > 0), scores, 0.0)
    else:
        if vols is None or vols.shape != scores.shape:
            raise DataError(
                f"inverse_vol needs volatilities of shape {scores.shape}, got {None if vols is None else vols.shape}"
            )
        usable = chosen & np.isfinite(vols) & (vols > 0)
        # relative to the date's smallest volatility, so that a tiny one does not overflow
        least = np.min(np.where(usable, vols, np.inf), axis=1, keepdims=True, initial=np.inf)
        raw = np.divide(least, vols, out=np.zeros(scores.shape), where=usable)
    # scores up to the largest float: their sum must not overflow
    raw = _share(raw, np.max(raw, axis=1, keepdims=True, initial=0.0))
    return Proposal(rank, _share(raw, raw.sum(axis=1, keepdims=True)))


def _share(values: NDArray[np.float64], total: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(values, total, out=np.zeros(values.shape), where=total > 0)


def _rank(scores: NDArray[np.float64], scored: NDArray[np.bool_]) -> NDArray[np.int64]:
    order = np.argsort(np.where(scored, -scores, np.inf), axis=1, kind="stable")
    rank = np.empty(scores.shape, np.int64)
    np.put_along_axis(rank, order, np.arange(1, scores.shape[1] + 1)[None, :], axis=1)
    return np.where(scored, rank, 0)
