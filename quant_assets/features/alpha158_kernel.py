"""Numba kernel of the set alpha158: all of its factors in one pass over consecutive rows.

Compiled on first use and cached on disk; imported inside the function that needs it, so that nothing else waits for
Numba. A window is summed from its own rows, newest first, and squares are of deviations from its newest value: that
loses at most a factor of the window's length in rounding, is exactly zero where nothing moves, and gives the same bits
whatever lies before the window.
"""

import numpy as np
from numba import njit
from numpy.typing import NDArray

_EPSILON = 1e-12
"""What the published formulas add to denominators that may be zero."""

_ROUNDING = 1e-12
"""A standard deviation below this share of the newest value is rounding, and explains or correlates with nothing."""


@njit(cache=True, nogil=True, error_model="numpy")
def fill(
    windows: NDArray[np.int64],
    bars: NDArray[np.float64],
    derived: NDArray[np.float64],
    bar: NDArray[np.float64],
    rolling: NDArray[np.float64],
) -> None:
    """Fill `bar` and `rolling` for all bars but the first `windows[-1]`, which are only looked back at.

    Args:
        windows: lengths, rising.
        bars: rows open, high, low, close, volume; a missing number is NaN.
        derived: rows log(volume + 1), close over the one before, log(volume over the one before + 1), change of close,
            its sign, change of volume, volume times absolute return.
        bar: (factors of one bar, bars filled).
        rolling: (families, windows, bars filled), families in the set's order.
    """
    open_, high, low, close, volume = bars[0], bars[1], bars[2], bars[3], bars[4]
    log_volume, ratio, log_ratio, change = derived[0], derived[1], derived[2], derived[3]
    sign, volume_change, moved = derived[4], derived[5], derived[6]
    deepest = windows[-1]
    sorted_closes = np.full((len(windows), deepest), np.inf)

    for to in range(close.size - deepest):
        row = to + deepest
        price = close[row]
        span = high[row] - low[row] + _EPSILON
        above, below = high[row] - max(open_[row], price), min(open_[row], price) - low[row]
        shift = 2.0 * price - high[row] - low[row]
        bar[0, to] = (price - open_[row]) / open_[row]
        bar[1, to] = (high[row] - low[row]) / open_[row]
        bar[2, to] = (price - open_[row]) / span
        bar[3, to] = above / open_[row]
        bar[4, to] = above / span
        bar[5, to] = below / open_[row]
        bar[6, to] = below / span
        bar[7, to] = shift / open_[row]
        bar[8, to] = shift / span
        bar[9, to] = open_[row] / price
        bar[10, to] = high[row] / price
        bar[11, to] = low[row] / price
        bar[12, to] = (high[row] + low[row] + price) / 3.0 / price

        highest, lowest, since_high, since_low = -np.inf, np.inf, 0, 0
        lower = 0.0
        c = cc = kc = g = gg = cg = r = rr = q = qq = rq = 0.0
        turns = moves = rise = fall = v = vv = more = less = m = mm = 0.0
        lag = 0
        for index, length in enumerate(windows):
            while lag < length:
                at = row - lag
                if high[at] >= highest or np.isnan(high[at]):
                    highest, since_high = high[at], lag
                if low[at] <= lowest or np.isnan(low[at]):
                    lowest, since_low = low[at], lag
                x = close[at] - price
                lower += 1.0 if x < 0.0 else 0.5 if x == 0.0 else 0.0
                c += x
                cc += x * x
                kc += lag * x
                y = log_volume[at] - log_volume[row]
                g += y
                gg += y * y
                cg += x * y
                x, y = ratio[at] - ratio[row], log_ratio[at] - log_ratio[row]
                r += x
                rr += x * x
                q += y
                qq += y * y
                rq += x * y
                turns += sign[at]
                moves += abs(sign[at])
                rise += 0.5 * (abs(change[at]) + change[at])
                fall += 0.5 * (abs(change[at]) - change[at])
                x = volume[at] - volume[row]
                v += x
                vv += x * x
                more += 0.5 * (abs(volume_change[at]) + volume_change[at])
                less += 0.5 * (abs(volume_change[at]) - volume_change[at])
                x = moved[at] - moved[row]
                m += x
                mm += x * x
                lag += 1
            _replace(sorted_closes[index, :length], close[row - length], price)

            n = float(length)
            middle, steps = 0.5 * (n - 1.0), n * (n * n - 1.0) / 12.0
            per_lag = (kc - middle * c) / steps
            spread = _spread(c, cc, n, price)
            bounds = highest - lowest + _EPSILON
            path, flow = rise + fall + _EPSILON, more + less + _EPSILON
            traded = volume[row] + _EPSILON if volume[row] != 0.0 else np.nan
            known, known_high, known_low = 0.0 * c, 0.0 * highest, 0.0 * lowest
            rolling[0, index, to] = close[row - length] / price
            rolling[1, index, to] = (price + c / n) / price
            rolling[2, index, to] = _deviation(c, cc, n) / price
            rolling[3, index, to] = -per_lag / price
            rolling[4, index, to] = per_lag * per_lag * steps / spread
            rolling[5, index, to] = (per_lag * middle - c / n) / price
            rolling[6, index, to] = highest / price
            rolling[7, index, to] = lowest / price
            rolling[8, index, to] = _quantile(sorted_closes[index, :length], 0.8) / price + known
            rolling[9, index, to] = _quantile(sorted_closes[index, :length], 0.2) / price + known
            rolling[10, index, to] = (lower + 0.5) / n + known
            rolling[11, index, to] = (price - lowest) / bounds
            rolling[12, index, to] = (n - since_high) / n + known_high
            rolling[13, index, to] = (n - since_low) / n + known_low
            rolling[14, index, to] = (since_low - since_high) / n + known_high + known_low
            rolling[15, index, to] = (cg - c * g / n) / np.sqrt(spread * _spread(g, gg, n, log_volume[row]))
            rolling[16, index, to] = (rq - r * q / n) / np.sqrt(
                _spread(r, rr, n, ratio[row]) * _spread(q, qq, n, log_ratio[row])
            )
            rolling[17, index, to] = 0.5 * (moves + turns) / n
            rolling[18, index, to] = 0.5 * (moves - turns) / n
            rolling[19, index, to] = turns / n
            rolling[20, index, to] = rise / path
            rolling[21, index, to] = fall / path
            rolling[22, index, to] = (rise - fall) / path
            rolling[23, index, to] = (volume[row] + v / n) / traded
            rolling[24, index, to] = _deviation(v, vv, n) / traded
            rolling[25, index, to] = _deviation(m, mm, n) / (moved[row] + m / n + _EPSILON)
            rolling[26, index, to] = more / flow
            rolling[27, index, to] = less / flow
            rolling[28, index, to] = (more - less) / flow


@njit(cache=True, nogil=True, error_model="numpy")
def _deviation(total: float, squares: float, n: float) -> float:
    """Sample standard deviation of `n` numbers, of which one is 0, from their sum and sum of squares."""
    return np.sqrt((squares - total * total / n) / (n - 1.0))


@njit(cache=True, nogil=True, error_model="numpy")
def _spread(total: float, squares: float, n: float, newest: float) -> float:
    """Sum of squared deviations from the mean; NaN where it is only the rounding of numbers like `newest`."""
    deviations = squares - total * total / n
    return deviations if deviations > n * (_ROUNDING * newest) ** 2 else np.nan


@njit(cache=True, nogil=True)
def _replace(window: NDArray[np.float64], old: float, new: float) -> None:
    """Replace one number of a sorted window by another; NaN stands there as infinity."""
    old = np.inf if np.isnan(old) else old
    new = np.inf if np.isnan(new) else new
    at = np.searchsorted(window, old)
    while at + 1 < window.size and window[at + 1] < new:
        window[at] = window[at + 1]
        at += 1
    while at > 0 and window[at - 1] > new:
        window[at] = window[at - 1]
        at -= 1
    window[at] = new


@njit(cache=True, nogil=True)
def _quantile(window: NDArray[np.float64], share: float) -> float:
    """Quantile of a sorted window, linear between neighbours: those of [0, 1, 2] at 0.2 and 0.8 are 0.4 and 1.6."""
    position = share * (window.size - 1)
    at = int(position)
    return window[at] + (window[at + 1] - window[at]) * (position - at)
