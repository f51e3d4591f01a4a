"""Sharpe ratios of many configurations over many parts of one period, from the moments of its pieces."""

import numpy as np
from numpy.typing import NDArray

from quant_assets.core.errors import DataError
from quant_assets.validation.sharpe import annual_ratios

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]


def checked(returns: Floats) -> Floats:
    """The matrix itself, if it is one of (configurations, sessions) without NaN and infinities.

    Raises:
        DataError: it is not.
    """
    if returns.ndim != 2 or not returns.size:
        raise DataError(f"returns have the shape {returns.shape}; pass one row of sessions per configuration")
    known = np.isfinite(returns)
    if not known.all():
        row, session = np.argwhere(~known)[0]
        raise DataError(
            f"the return of configuration {row} in session {session} is {returns[row, session]}; make it a number"
        )
    return returns


def masked_sharpes(returns: Floats, masks: Mask, year: int) -> Floats:
    """`sharpes` of each configuration over each mask's sessions.

    The sessions are cut wherever a mask begins or ends. Each piece is measured once, by its mean and its sum of squared
    deviations; those of a mask follow by combining its pieces (Chan, Golub and LeVeque, "Updating Formulae and a
    Pairwise Algorithm for Computing Sample Variances", 1979). Nothing cancels, unlike in differences of running sums.

    Args:
        returns: (configurations, sessions)
        masks: (masks, sessions); each with two sessions or more.

    Returns:
        (masks, configurations), annualised; NaN where undefined.

    Example: returns [1, 3, 9, 5] % under the mask [1, 1, 0, 1] have the pieces (mean 2, squares 2) and (5, 0): mean 3,
    squares 2 + 2 * 1 + 1 * 4 = 8, standard deviation 2, so that the ratio is 1.5 times the root of `year`.
    """
    cuts = np.flatnonzero((masks[:, 1:] != masks[:, :-1]).any(axis=0)) + 1
    pieces = np.split(returns, cuts, axis=1)
    sizes = np.array([piece.shape[1] for piece in pieces])
    means = np.stack([piece.mean(axis=1) for piece in pieces])
    squares = np.stack([piece.var(axis=1, mean=mean[:, None]) for piece, mean in zip(pieces, means, strict=True)])
    squares *= sizes[:, None]
    ratios = np.empty((len(masks), len(returns)))
    for number, inside in enumerate(masks[:, np.concatenate(([0], cuts))]):
        weights = sizes[inside, None]
        mean = (weights * means[inside]).sum(axis=0) / weights.sum()
        total = (squares[inside] + weights * (means[inside] - mean) ** 2).sum(axis=0)
        ratios[number] = annual_ratios(mean, np.sqrt(total / (weights.sum() - 1)), year)
    return ratios


def best(ratios: Floats) -> Index:
    """The configuration with the highest of (..., configurations): the first of equals; undefined ones last."""
    return np.argmax(np.where(np.isnan(ratios), -np.inf, ratios), axis=-1)
