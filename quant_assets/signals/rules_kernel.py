"""The rules' arithmetic, compiled. Window functions get symbols one after the other, positions a matrix bar by bar.

A window's value is made from the window's own values alone, in the same order wherever it lies, so that it has the same
bits however much history precedes it. A NaN in the window makes its mean and deviation NaN.
"""

import numpy as np
from numba import njit

from quant_assets.core.matrices import Floats, Index


@njit(cache=True, nogil=True)
def window_mean(values: Floats, starts: Index, window: int) -> Floats:
    """Mean of each value and the `window - 1` before it, from distances to the newest: exact where all are equal."""
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
                mean[t] = newest[t] + mean[t] / window
    return out


@njit(cache=True, nogil=True)
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
                    std[t] += (value[t] - mean[t]) ** 2
            for t in range(len(mean)):
                std[t] = np.sqrt(std[t] / (window - less))
    return out


@njit(cache=True, nogil=True)
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


@njit(cache=True, nogil=True)
def relative_strength(close: Floats, starts: Index, window: int) -> Floats:
    """Wilder's index, from the mean of the first `window` changes on."""
    out = np.full(len(close), np.nan)
    for symbol in range(len(starts) - 1):
        gain = loss = 0.0
        for t in range(starts[symbol] + 1, starts[symbol + 1]):
            change = close[t] - close[t - 1]
            seen = t - starts[symbol]
            period = min(seen, window)
            gain = (gain * (period - 1) + max(change, 0.0)) / period
            loss = (loss * (period - 1) + max(-change, 0.0)) / period
            if seen >= window:
                out[t] = 100.0 * (gain / (gain + loss)) if gain + loss > 0 else 50.0
    return out


@njit(cache=True, nogil=True, error_model="numpy")
def scaled_sign(direction: Floats, volatility: Floats, target: float, cap: float) -> Floats:
    """sign(direction) x min(target / volatility, cap), the cap where there is no volatility; NaN where one is."""
    out = np.empty(direction.shape)
    flat, wanted, risk = out.reshape(-1), direction.reshape(-1), volatility.reshape(-1)
    for at in range(len(flat)):
        size = target / risk[at]
        if size > cap:
            size = cap
        flat[at] = np.sign(wanted[at]) * size
    return out


@njit(cache=True, nogil=True)
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
            if price > upper[t, symbol]:
                held[symbol] = 1.0
            elif price < lower[t, symbol]:
                held[symbol] = -1.0
            elif (held[symbol] > 0 and price < long_exit[t, symbol]) or (
                held[symbol] < 0 and price > short_exit[t, symbol]
            ):
                held[symbol] = 0.0
            out[t, symbol] = held[symbol]
    return out


@njit(cache=True, nogil=True)
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
            price, centre, index = close[t, symbol], middle[t, symbol], strength[t, symbol]
            if np.isnan(centre) or np.isnan(index):
                out[t, symbol] = np.nan
                continue
            spread = width * std[t, symbol]
            if price < centre - spread and index < oversold:
                held[symbol] = 1.0
            elif price > centre + spread and index > overbought:
                held[symbol] = -1.0
            elif (held[symbol] > 0 and price >= centre) or (held[symbol] < 0 and price <= centre):
                held[symbol] = 0.0
            out[t, symbol] = held[symbol]
    return out
