"""Proposals: scores to ranks and weights, all rebalance dates at once; what may be held is decided later."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from quant_assets.core.errors import DataError

Weighting = Literal["equal", "score_weighted", "inverse_vol", "risk_parity", "hrp"]
WEIGHTINGS: tuple[str, ...] = get_args(Weighting)


@dataclass(frozen=True, slots=True)
class Proposal:
    """Both of shape (dates, symbols). `rank` is 1 for the best and 0 without a finite score; the weights of a date are
    not negative and sum to 1, or to 0 where no symbol can be weighted. Of exposures the shares do, not the weights."""

    rank: NDArray[np.int64]
    weight: NDArray[np.float64]


def propose(
    scores: NDArray[np.float64],
    method: Weighting,
    top_k: int | None,
    vols: NDArray[np.float64] | None = None,
    *,
    shares: NDArray[np.float64] | None = None,
    exposure: bool = False,
) -> Proposal:
    """Share the money of each date among its `top_k` best scores.

    - `equal`: 1 / n each.
    - `score_weighted`: proportional to the score; one that is not positive gets nothing.
    - `inverse_vol`: proportional to 1 / volatility; one without a positive volatility gets nothing.
    - `risk_parity`, `hrp`: proportional to the shares that `allocation` found for the whole universe.

    With `exposure` a score says how much of its share a symbol is to hold, long or short: the larger of either sign
    ranks first (and weighs more where `score_weighted`), and the weight is the share times the score.

    Example:
        >>> propose(np.array([[3.0, 1.0, np.nan, 2.0]]), "score_weighted", 2).weight.tolist()
        [[0.6, 0.0, 0.0, 0.4]]
        >>> propose(np.array([[0.5, -2.0]]), "equal", None, exposure=True).weight.tolist()
        [[0.25, -1.0]]

    Args:
        scores: (dates, symbols), NaN or infinite where there is none. Columns sorted by symbol: of equal scores the
            one further left is the better.
        top_k: None: all.
        vols: (dates, symbols), volatility known on the date; needed by `inverse_vol` unless it is given `shares`.
        shares: (dates, symbols), not negative; needed by `risk_parity` and `hrp`. What is no positive number is none.

    Raises:
        DataError: volatilities or shares are missing or not of the scores' shape.
    """
    from quant_assets.portfolio import kernel

    code, basis = share_basis(scores, method, vols, shares)
    return Proposal(*kernel.propose(array(scores), basis, code, exposure, scores.shape[1] if top_k is None else top_k))


def share_basis(
    scores: NDArray[np.float64],
    method: Weighting,
    vols: NDArray[np.float64] | None,
    shares: NDArray[np.float64] | None,
) -> tuple[int, NDArray[np.float64]]:
    """The kernel's number of `method`, and what shares are made of; arguments and errors as of `propose`."""
    from quant_assets.portfolio import kernel

    if method in ("equal", "score_weighted"):
        return (kernel.EQUAL if method == "equal" else kernel.BY_SCORE), array(scores)
    inverse = method == "inverse_vol" and shares is None
    basis, noun = (vols, "volatilities") if inverse else (shares, "shares")
    if basis is None or basis.shape != scores.shape:
        raise DataError(f"{method} needs {noun} of shape {scores.shape}, got {None if basis is None else basis.shape}")
    return (kernel.INVERSE if inverse else kernel.GIVEN), array(basis)


def array(values: NDArray[Any], dtype: type = np.float64) -> NDArray[Any]:
    """As compiled code takes it: of one layout and writable, so that there is one specialisation."""
    return np.require(values, dtype, ["C", "W"])
