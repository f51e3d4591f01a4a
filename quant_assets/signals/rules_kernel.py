"""The rules' arithmetic, compiled, in its two forms: over all bars at once, and one bar after the other.

Each formula stands once, as an inlined function of plain numbers that both forms call, and both take a window's values
in the same order: from them alone, the newest first, so that a value has the same bits in either form and however much
history precedes its window. A NaN in the window makes its mean and deviation NaN.

Window functions get symbols one after the other, positions a matrix bar by bar. How `step` keeps a symbol's bars stands
with it. Both forms are in one file since a change of one must not leave the other's compiled code behind in the cache.
"""

from typing import Any

import numpy as np
from numba import njit

from quant_assets.core.matrices import Floats, Index

_compiled: Any = njit(cache=True, nogil=True, error_model="numpy")
_inlined: Any = njit(error_model="numpy", forceinline=True)


# --- formulas ---


@_inlined
def _mean(newest: float, distances: float, window: int) -> float:
    """From the sum of the values' distances to the newest: exact where all are equal."""
    return newest + distances / window


@_inlined
def _squared(value: float, mean: float) -> float:
    return (value - mean) ** 2


@_inlined
def _deviation(squares: float, divisor: int) -> float:
    return np.sqrt(squares / divisor)


@_inlined
def _change(close: float, before: float) -> float:
    return close / before - 1.0


@_inlined
def _weighted(weighed: float, traded: float) -> float:
    return weighed / traded if traded > 0 else np.nan


@_inlined
def _true_range(high: float, low: float, before: float) -> float:
    return np.maximum(high, before) - np.minimum(low, before)


@_inlined
def _smoothed(average: float, new: float, period: int) -> float:
    """Wilder's average, which over the first `period` values is their mean."""
    return (average * (period - 1) + new) / period


@_inlined
def _strength(gain: float, loss: float) -> float:
    return 100.0 * (gain / (gain + loss)) if gain + loss > 0 else 50.0


@_inlined
def _exponential(mean: float, value: float, window: int) -> float:
    """The mean moved by 2 / (window + 1) of its distance to the value: exact where all are equal."""
    return mean + (value - mean) * (2.0 / (window + 1))


@_inlined
def _sized(direction: float, volatility: float, target: float, cap: float) -> float:
    size = target / volatility
    if size > cap:
        size = cap
    return np.sign(direction) * size


@_inlined
def _in_channel(held: float, price: float, lower: float, upper: float, long_exit: float, short_exit: float) -> float:
    """The position after a bar, from the one before it."""
    if price > upper:
        return 1.0
    if price < lower:
        return -1.0
    if (held > 0 and price < long_exit) or (held < 0 and price > short_exit):
        return 0.0
    return held


@_inlined
def _in_band(
    held: float,
    price: float,
    middle: float,
    spread: float,
    strength: float,
    oversold: float,
    overbought: float,
) -> float:
    """The position after a bar, from the one before it."""
    if price < middle - spread and strength < oversold:
        return 1.0
    if price > middle + spread and strength > overbought:
        return -1.0
    if (held > 0 and price >= middle) or (held < 0 and price <= middle):
        return 0.0
    return held


# --- all bars at once ---


@_compiled
def window_mean(values: Floats, starts: Index, window: int) -> Floats:
    """Mean of each value and the `window - 1` before it."""
    out = np.full(len(values), np.nan)
    for symbol in range(len(starts) - 1):
        first, end = starts[symbol] + window - 1, starts[symbol + 1]
        if first < end:
            newest, mean = values[first:end], out[first:end]
            mean[:] = 0.0
            for back in range(1, window):
                older = values[first - back : end - back]
                for t in range(len(newest)):
                    mean[t] += older[t] - newest[t]
            for t in range(len(newest)):
                mean[t] = _mean(newest[t], mean[t], window)
    return out


@_compiled
def window_std(values: Floats, means: Floats, starts: Index, window: int, less: int) -> Floats:
    """Standard deviation, divisor `window - less`, of each value and the `window - 1` before it around their mean."""
    out = np.full(len(values), np.nan)
    for symbol in range(len(starts) - 1):
        first, end = starts[symbol] + window - 1, starts[symbol + 1]
        if first < end:
            mean, std = means[first:end], out[first:end]
            std[:] = 0.0
            for back in range(window):
                value = values[first - back : end - back]
                for t in range(len(mean)):
                    std[t] += _squared(value[t], mean[t])
            for t in range(len(mean)):
                std[t] = _deviation(std[t], window - less)
    return out


@_compiled
def window_max(values: Floats, starts: Index, window: int) -> Floats:
    """Largest of each value and the `window - 1` before it."""
    out = np.full(len(values), np.nan)
    for symbol in range(len(starts) - 1):
        first, end = starts[symbol] + window - 1, starts[symbol + 1]
        if first < end:
            largest = out[first:end]
            largest[:] = -np.inf
            for back in range(window):
                value = values[first - back : end - back]
                for t in range(len(largest)):
                    largest[t] = max(largest[t], value[t])
    return out


@_compiled
def changes(close: Floats, before: Floats) -> Floats:
    """close / before - 1"""
    out = np.empty(len(close))
    for t in range(len(close)):
        out[t] = _change(close[t], before[t])
    return out


@_compiled
def weighted(weighed: Floats, traded: Floats) -> Floats:
    """weighed / traded; NaN where nothing was traded."""
    out = np.empty(len(traded))
    for t in range(len(traded)):
        out[t] = _weighted(weighed[t], traded[t])
    return out


@_compiled
def true_ranges(high: Floats, low: Floats, before: Floats) -> Floats:
    """The largest of high - low, |high - before| and |low - before|; NaN where one is."""
    out = np.empty(len(high))
    for t in range(len(high)):
        out[t] = _true_range(high[t], low[t], before[t])
    return out


@_compiled
def relative_strength(close: Floats, starts: Index, window: int) -> Floats:
    """Wilder's index, from the mean of the first `window` changes on."""
    out = np.full(len(close), np.nan)
    for symbol in range(len(starts) - 1):
        gain = loss = 0.0
        for t in range(starts[symbol] + 1, starts[symbol + 1]):
            change = close[t] - close[t - 1]
            seen = t - starts[symbol]
            period = min(seen, window)
            gain = _smoothed(gain, max(change, 0.0), period)
            loss = _smoothed(loss, max(-change, 0.0), period)
            if seen >= window:
                out[t] = _strength(gain, loss)
    return out


@_compiled
def exponential_mean(close: Floats, starts: Index, window: int) -> Floats:
    """Exponential mean since the symbol's first close, from the `window`-th on."""
    out = np.full(len(close), np.nan)
    for symbol in range(len(starts) - 1):
        mean = close[starts[symbol]] if starts[symbol] < starts[symbol + 1] else np.nan
        for t in range(starts[symbol], starts[symbol + 1]):
            mean = _exponential(mean, close[t], window)
            if t - starts[symbol] >= window - 1:
                out[t] = mean
    return out


@_compiled
def scaled_sign(direction: Floats, volatility: Floats, target: float, cap: float) -> Floats:
    """sign(direction) x min(target / volatility, cap), the cap where there is no volatility; NaN where one is."""
    out = np.empty(direction.shape)
    flat, wanted, risk = out.reshape(-1), direction.reshape(-1), volatility.reshape(-1)
    for at in range(len(flat)):
        flat[at] = _sized(wanted[at], risk[at], target, cap)
    return out


@_compiled
def channel_positions(close: Floats, lower: Floats, upper: Floats, long_exit: Floats, short_exit: Floats) -> Floats:
    """1 from a close above `upper`, -1 from one below `lower`, 0 from one beyond the exit; NaN without a channel."""
    out = np.empty(close.shape)
    held = np.zeros(close.shape[1])
    for t in range(close.shape[0]):
        for symbol in range(close.shape[1]):
            price = close[t, symbol]
            if np.isnan(price) or np.isnan(lower[t, symbol]):
                out[t, symbol] = np.nan
                continue
            held[symbol] = _in_channel(
                held[symbol],
                price,
                lower[t, symbol],
                upper[t, symbol],
                long_exit[t, symbol],
                short_exit[t, symbol],
            )
            out[t, symbol] = held[symbol]
    return out


@_compiled
def band_positions(
    close: Floats,
    middle: Floats,
    std: Floats,
    strength: Floats,
    width: float,
    oversold: float,
    overbought: float,
) -> Floats:
    """1 from a close below the band with an index below `oversold`, -1 from the mirror image, 0 back at the middle."""
    out = np.empty(close.shape)
    held = np.zeros(close.shape[1])
    for t in range(close.shape[0]):
        for symbol in range(close.shape[1]):
            centre, index = middle[t, symbol], strength[t, symbol]
            if np.isnan(centre) or np.isnan(index):
                out[t, symbol] = np.nan
                continue
            spread = width * std[t, symbol]
            held[symbol] = _in_band(held[symbol], close[t, symbol], centre, spread, index, oversold, overbought)
            out[t, symbol] = held[symbol]
    return out


# --- one bar after the other ---

TSMOM, BREAKOUT, DONCHIAN, BB_RSI, EMA_CROSS = range(5)

KIND, SEEN, BEFORE, HELD, OWN = range(5)
"""A symbol's state, one row: its kind, how many bars it saw, the close before, the position held, and from `OWN` on
the kind's own: parameters and running values, then rings, each of them a size, the place of the newest value, and the
last values twice over, so that however the ring turned they stand side by side."""


@_inlined
def _after(row: Floats, ring: int) -> int:
    """Where the next ring begins."""
    return ring + 2 + 2 * int(row[ring])


@_inlined
def _newest(row: Floats, ring: int) -> int:
    """Place of the ring's newest value; the one `back` values before it stands `back` places before it."""
    return ring + 2 + int(row[ring]) + int(row[ring + 1])


@_inlined
def _push(row: Floats, ring: int, value: float) -> None:
    size, place = int(row[ring]), int(row[ring + 1]) + 1
    if place == size:
        place = 0
    row[ring + 1] = place
    row[ring + 2 + place] = value
    row[ring + 2 + size + place] = value


@_inlined
def _ring_mean(row: Floats, ring: int) -> float:
    newest, window = _newest(row, ring), int(row[ring])
    distances = 0.0
    for back in range(1, window):
        distances += row[newest - back] - row[newest]
    return _mean(row[newest], distances, window)


@_inlined
def _ring_std(row: Floats, ring: int, mean: float, less: int) -> float:
    newest, window = _newest(row, ring), int(row[ring])
    squares = 0.0
    for back in range(window):
        squares += _squared(row[newest - back], mean)
    return _deviation(squares, window - less)


@_inlined
def _ring_max(row: Floats, ring: int, window: int) -> float:
    newest = _newest(row, ring)
    largest = -np.inf
    for back in range(window):
        largest = max(largest, row[newest - back])
    return largest


@_inlined
def _tsmom(row: Floats, close: float, volume: float) -> float:
    """Own: target, cap, whether by volume; rings of returns, then of closes, or of volumes and weighed returns."""
    by_volume, returns = row[OWN + 2] == 1.0, OWN + 3
    change = _change(close, row[BEFORE])
    _push(row, returns, change)
    ring = _after(row, returns)
    if by_volume:
        weighed = _after(row, ring)
        _push(row, ring, volume)
        _push(row, weighed, volume * change)
        momentum = _weighted(_ring_mean(row, weighed), _ring_mean(row, ring))
    else:
        momentum = _change(close, row[_newest(row, ring) - int(row[ring]) + 1])
        _push(row, ring, close)
    volatility = _ring_std(row, returns, _ring_mean(row, returns), 1)
    return _sized(momentum, volatility, row[OWN], row[OWN + 1])


@_inlined
def _breakout(row: Floats, high: float, low: float, close: float) -> float:
    """Own: width; rings of closes and of true ranges."""
    closes = OWN + 1
    ranges = _after(row, closes)
    centre, spread = _ring_mean(row, closes), row[OWN] * _ring_mean(row, ranges)
    _push(row, closes, close)
    _push(row, ranges, _true_range(high, low, row[BEFORE]))
    if np.isnan(centre - spread):
        return np.nan
    row[HELD] = _in_channel(row[HELD], close, centre - spread, centre + spread, centre, centre)
    return row[HELD]


@_inlined
def _donchian(row: Floats, high: float, low: float, close: float) -> float:
    """Own: the exit's sessions; rings of the entry's highs and of its lows with their sign turned."""
    leave, highs = int(row[OWN]), OWN + 1
    lows = _after(row, highs)
    entry = int(row[highs])
    lower = -_ring_max(row, lows, entry) if row[SEEN] >= entry else np.nan
    if not np.isnan(lower):
        upper, long_exit, short_exit = (
            _ring_max(row, highs, entry),
            -_ring_max(row, lows, leave),
            _ring_max(row, highs, leave),
        )
        row[HELD] = _in_channel(row[HELD], close, lower, upper, long_exit, short_exit)
    _push(row, highs, high)
    _push(row, lows, -low)
    return row[HELD] if not np.isnan(lower) else np.nan


@_inlined
def _bb_rsi(row: Floats, close: float) -> float:
    """Own: width, the index's period and limits, mean gain, mean loss; a ring of closes."""
    window, closes = int(row[OWN + 1]), OWN + 6
    _push(row, closes, close)
    if row[SEEN] > 0:
        change, period = close - row[BEFORE], min(int(row[SEEN]), window)
        row[OWN + 4] = _smoothed(row[OWN + 4], max(change, 0.0), period)
        row[OWN + 5] = _smoothed(row[OWN + 5], max(-change, 0.0), period)
    middle = _ring_mean(row, closes)
    if np.isnan(middle) or row[SEEN] < window:
        return np.nan
    spread = row[OWN] * _ring_std(row, closes, middle, 0)
    strength = _strength(row[OWN + 4], row[OWN + 5])
    row[HELD] = _in_band(row[HELD], close, middle, spread, strength, row[OWN + 2], row[OWN + 3])
    return row[HELD]


@_inlined
def _ema_cross(row: Floats, close: float) -> float:
    """Own: the fast and the slow mean's sessions, then the means."""
    for own in range(OWN, OWN + 2):
        mean = row[own + 2] if row[SEEN] > 0 else close
        row[own + 2] = _exponential(mean, close, row[own])
    return np.sign(row[OWN + 2] - row[OWN + 3]) if row[SEEN] >= row[OWN + 1] - 1 else np.nan


@_compiled
def step(state: Floats, column: int, high: float, low: float, close: float, volume: float) -> float:
    """The exposure after one more bar of the symbol in `column`; NaN while undefined, and without a close.

    Args:
        state: (symbols, cells), written; made by `incremental`.

    Raises:
        IndexError: no such column.
    """
    if not 0 <= column < len(state):
        raise IndexError("no such column; pass one from 0 on, below the number of symbols")
    if np.isnan(close):
        return np.nan
    row = state[column]
    kind = int(row[KIND])
    if kind == TSMOM:
        exposure = _tsmom(row, close, volume)
    elif kind == BREAKOUT:
        exposure = _breakout(row, high, low, close)
    elif kind == DONCHIAN:
        exposure = _donchian(row, high, low, close)
    elif kind == BB_RSI:
        exposure = _bb_rsi(row, close)
    else:
        exposure = _ema_cross(row, close)
    row[SEEN] += 1.0
    row[BEFORE] = close
    return exposure


@_compiled
def steps(state: Floats, high: Floats, low: Floats, close: Floats, volume: Floats) -> None:
    """`step` for all bars of (sessions, symbols), in order."""
    for t in range(close.shape[0]):
        for column in range(close.shape[1]):
            step(state, column, high[t, column], low[t, column], close[t, column], volume[t, column])
