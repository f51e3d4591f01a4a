"""The stationary bootstrap's compiled loop, with a random generator of its own: the same numbers on every machine."""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from quant_assets.validation.sharpe import NO_SPREAD

Floats = NDArray[np.float64]

_STEP = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)


@njit(cache=True, nogil=True)
def mixed(state: np.uint64) -> np.uint64:
    """64 random bits of a counter, as SplitMix64 has them.

    Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (2014).
    """
    state = (state ^ (state >> np.uint64(30))) * _FIRST
    state = (state ^ (state >> np.uint64(27))) * _SECOND
    return state ^ (state >> np.uint64(31))


@njit(cache=True, nogil=True)
def resampled(centred: Floats, mean: float, block: float, seed: int, ratios: Floats) -> None:
    """Write the mean over the standard deviation (ddof=1) of as many resampled series as `ratios` has room for.

    A series is made of blocks of consecutive sessions, the first following the last, that start anywhere with equal
    probability; their lengths are geometric with mean `block` (infinite: one block). NaN where a series has no spread.

    Args:
        centred: returns less their mean, (sessions,).
        mean: what was taken off.
    """
    sessions = len(centred)
    size = np.uint64(sessions)
    ends = np.uint64(2.0**32 / block)
    for resample in range(len(ratios)):
        state = mixed(mixed(np.uint64(seed)) + np.uint64(resample) * _STEP)
        at = np.int64(((state & _LOW) * size) >> _HALF)
        total, squares = 0.0, 0.0
        for _ in range(sessions):
            value = centred[at]
            total += value
            squares += value * value
            state += _STEP
            drawn = mixed(state)
            start = np.int64(((drawn & _LOW) * size) >> _HALF)
            following = at + np.int64(1) if at + 1 < sessions else np.int64(0)
            at = start if (drawn >> _HALF) < ends else following
        spread = math.sqrt(max(squares - total * total / sessions, 0.0) / (sessions - 1))
        ratios[resample] = (mean + total / sessions) / spread if spread >= NO_SPREAD else math.nan
