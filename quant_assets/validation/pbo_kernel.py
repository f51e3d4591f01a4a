"""Numba kernel of CSCV: chooses and ranks in all halvings of the blocks.

Compiled on first use and cached on disk; imported inside the function that needs it. Ratios are only compared here, so
they are left as scores: x|x| / q with x the sum of a half's n returns and q that of their squares. As the variance is
q/n - (x/n)^2, a score rises with the Sharpe ratio, and neither a root nor a difference of large numbers is taken.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

_TINY = float(np.finfo(np.float64).tiny)
"""Added to sums of squares it disappears in all but 0, where it makes the score 0 / _TINY."""


@njit(cache=True, nogil=True, error_model="numpy")
def halvings(sums: Floats, squares: Floats, picks: Integers, scores: Floats) -> None:
    """Fill the results of all ways to halve the blocks, in the order of `itertools.combinations`.

    Args:
        sums, squares: (blocks, configurations): of each block's returns, and of their squares.
        picks: (2, halvings): the configuration with the best score in sample, the first of equals, and twice its rank
            out of sample, 1 being the worst and equals sharing their mean rank.
        scores: (2, halvings): its scores in and out of sample.
    """
    blocks, configurations = sums.shape
    half = blocks // 2
    everything = 2**half - 1
    early_sums, late_sums = _subsets(sums[:half], 0.0), _subsets(sums[half:], 0.0)
    early_squares, late_squares = _subsets(squares[:half], _TINY), _subsets(squares[half:], _TINY)
    sizes = np.zeros(everything + 1, np.int64)
    for subset in range(1, everything + 1):
        sizes[subset] = sizes[subset >> 1] + (subset & 1)
    ours, theirs = np.empty(configurations), np.empty(configurations)
    at, last = 0, picks.shape[1] - 1
    # Falling numbers are the order of combinations. Those with the first block are the first half of them, and have the
    # others as complements, last to first.
    for early in range(everything, everything >> 1, -1):
        for late in range(everything, -1, -1):
            if sizes[early] + sizes[late] == half:
                _score(early_sums[early], late_sums[late], early_squares[early], late_squares[late], ours)
                a, b = everything - early, everything - late
                _score(early_sums[a], late_sums[b], early_squares[a], late_squares[b], theirs)
                _choose(ours, theirs, picks[:, at], scores[:, at])
                _choose(theirs, ours, picks[:, last - at], scores[:, last - at])
                at += 1


@njit(cache=True, nogil=True)
def _subsets(blocks: Floats, nothing: float) -> Floats:
    """(subsets, configurations): the sum of every subset, a binary number whose highest bit is the first block."""
    count, configurations = blocks.shape
    sums = np.empty((2**count, configurations))
    sums[0] = nothing
    for bit in range(count):
        block = blocks[count - 1 - bit]
        for subset in range(2**bit):
            for at in range(configurations):
                sums[2**bit + subset, at] = sums[subset, at] + block[at]
    return sums


@njit(cache=True, nogil=True, error_model="numpy")
def _score(early: Floats, late: Floats, early_squares: Floats, late_squares: Floats, scores: Floats) -> None:
    for at in range(scores.size):
        total = early[at] + late[at]
        scores[at] = total * abs(total) / (early_squares[at] + late_squares[at])


@njit(cache=True, nogil=True, fastmath={"nnan", "nsz"})  # no score is NaN, and a maximum in any order is the same
def _choose(inside: Floats, outside: Floats, picks: Integers, scores: Floats) -> None:
    best = inside[0]
    for at in range(inside.size):
        best = max(best, inside[at])
    winner = 0
    while inside[winner] != best:
        winner += 1
    mine = outside[winner]
    below, equal = 0, 0
    for at in range(outside.size):
        below += outside[at] < mine
        equal += outside[at] == mine
    picks[0], picks[1] = winner, 2 * below + equal + 1
    scores[0], scores[1] = best, mine
