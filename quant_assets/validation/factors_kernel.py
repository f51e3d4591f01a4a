"""The factor report's compiled loops: one cross-section after another, ranks kept doubled so that they are integers.

Integer sums have no rounding, so a rank correlation does not depend on the order of the symbols.
"""

import math

import numpy as np
from numba import njit
from numpy.typing import NDArray

from quant_assets.validation.factors import MIN_SYMBOLS

Floats = NDArray[np.float64]
Index = NDArray[np.int64]


@njit(cache=True, nogil=True)
def ranked(values: Floats, order: Index, other: Floats, picked: Index, ranks: Index) -> int:
    """Write twice the average rank (lowest: 2) of each symbol that has both numbers, 0 for the rest; return how many.

    Args:
        values: one cross-section, (N,).
        order: the symbols by rising value, NaN last.
        other: what a symbol must have too.
        picked: scratch, (N,); holds the ranked symbols by rising value afterwards.
        ranks: the result, (N,).

    Example: values [5, 1, 5] have the doubled ranks [5, 2, 5].
    """
    ranks[:] = 0
    count = 0
    for symbol in order:
        if math.isnan(values[symbol]):
            break
        if not math.isnan(other[symbol]):
            picked[count] = symbol
            count += 1
    start = 0
    while start < count:
        stop = start + 1
        while stop < count and values[picked[stop]] == values[picked[start]]:
            stop += 1
        for at in range(start, stop):
            ranks[picked[at]] = start + stop + 1
        start = stop
    return count


@njit(cache=True, nogil=True)
def quantile_of(rank: int, count: int, quantiles: int) -> int:
    """The quantile (0: the lowest) of a doubled rank among `count` symbols, as `pandas.qcut` cuts distinct values."""
    return max((rank - 2) * quantiles - 1, 0) // (2 * (count - 1))


@njit(cache=True, nogil=True)
def rank_correlation(left: Index, right: Index) -> float:
    """Correlation of the doubled ranks of the symbols that have both; NaN for too few of them or equal ranks."""
    count, a, b, aa, bb, ab = 0, 0, 0, 0, 0, 0
    for symbol in range(len(left)):
        x, y = left[symbol], right[symbol]
        if x > 0 and y > 0:
            count += 1
            a += x
            b += y
            aa += x * x
            bb += y * y
            ab += x * y
    spread = float(count * aa - a * a) * float(count * bb - b * b)
    if count < MIN_SYMBOLS or spread <= 0:
        return math.nan
    return max(-1.0, min(1.0, float(count * ab - a * b) / math.sqrt(spread)))


@njit(cache=True, nogil=True)
def correlation(left: Floats, right: Floats, ranks: Index, count: int) -> float:
    """Pearson correlation over the `count` symbols with a rank; deviations are scaled, so that no square overflows.

    NaN where the values lie further apart than a float can say.
    """
    mean_x, mean_y = 0.0, 0.0
    for symbol in range(len(ranks)):
        if ranks[symbol]:
            mean_x += left[symbol] / count
            mean_y += right[symbol] / count
    far_x, far_y = 0.0, 0.0
    for symbol in range(len(ranks)):
        if ranks[symbol]:
            far_x = max(far_x, abs(left[symbol] - mean_x))
            far_y = max(far_y, abs(right[symbol] - mean_y))
    xx, yy, xy = 0.0, 0.0, 0.0
    for symbol in range(len(ranks)):
        if ranks[symbol]:
            x = (left[symbol] - mean_x) / far_x
            y = (right[symbol] - mean_y) / far_y
            xx += x * x
            yy += y * y
            xy += x * y
    found = xy / math.sqrt(xx * yy) if xx * yy > 0 else math.nan  # false for NaN, too
    return found if math.isnan(found) else max(-1.0, min(1.0, found))


@njit(cache=True, nogil=True)
def cross_sections(
    values: Floats,
    order: Index,
    first: int,
    start: int,
    returns: Floats,
    return_order: Index,
    quantiles: int,
    ic: Floats,
    rank_ic: Floats,
    symbols: Index,
    market: Floats,
    layers: Floats,
) -> None:
    """Fill what each feature (F) says of each horizon's forward return (H) on each session (T) across symbols (N).

    Args:
        values: (F, sessions from `first` on, N), NaN where there is none; `order` its argsort along N.
        first, start: session of the window that `values` begins with, and the first one to fill.
        returns: (H, T, N), likewise with `return_order`.
        ic, rank_ic: (F, H, T), NaN beforehand; left so where there is none.
        symbols: (F, H, T), symbols with both numbers.
        market: (F, H, T), their mean return; likewise.
        layers: (F, H, T, quantiles), mean return of each quantile; NaN beforehand, left so for an empty one.
    """
    sessions, names = values.shape[1:]
    ranks, return_ranks = np.empty(names, np.int64), np.empty(names, np.int64)
    picked, scratch = np.empty(names, np.int64), np.empty(names, np.int64)
    held = np.empty(quantiles, np.int64)
    for feature in range(values.shape[0]):
        for horizon in range(returns.shape[0]):
            for t in range(start, first + sessions):
                value, ahead = values[feature, t - first], returns[horizon, t]
                count = ranked(value, order[feature, t - first], ahead, picked, ranks)
                symbols[feature, horizon, t] = count
                if count < MIN_SYMBOLS or value[picked[0]] == value[picked[count - 1]]:
                    continue
                ranked(ahead, return_order[horizon, t], value, scratch, return_ranks)
                if ahead[scratch[0]] < ahead[scratch[count - 1]]:
                    rank_ic[feature, horizon, t] = rank_correlation(ranks, return_ranks)
                    ic[feature, horizon, t] = correlation(value, ahead, ranks, count)
                layer = layers[feature, horizon, t]
                layer[:], held[:] = 0.0, 0
                total = 0.0
                for symbol in range(names):
                    if ranks[symbol]:
                        quantile = quantile_of(ranks[symbol], count, quantiles)
                        layer[quantile] += ahead[symbol]
                        held[quantile] += 1
                        total += ahead[symbol]
                market[feature, horizon, t] = total / count
                for quantile in range(quantiles):
                    layer[quantile] = layer[quantile] / held[quantile] if held[quantile] else np.nan


@njit(cache=True, nogil=True)
def persistence(
    values: Floats,
    order: Index,
    first: int,
    start: int,
    lags: Index,
    quantiles: int,
    ranks: Index,
    autocorrelation: Floats,
    turnover: Floats,
) -> None:
    """Fill each feature's ranks and how much of them lasts `lags` sessions.

    Args:
        values, order, first, start: as `cross_sections` has them; `values` begins early enough for the lags.
        lags: (H,), sessions.
        ranks: like `values`, doubled ranks within the feature's own cross-section; 0 where there is none.
        autocorrelation: (F, H, T), correlation of the ranks with those `lags` sessions earlier; NaN beforehand.
        turnover: (F, H, T), share of the top quantile's symbols that were not in it `lags` sessions earlier; likewise.
    """
    sessions, names = values.shape[1:]
    picked = np.empty(names, np.int64)
    counts = np.empty(sessions, np.int64)
    for feature in range(values.shape[0]):
        for t in range(sessions):
            value = values[feature, t]
            count = ranked(value, order[feature, t], value, picked, ranks[feature, t])
            counts[t] = count if count >= MIN_SYMBOLS and value[picked[0]] < value[picked[count - 1]] else 0
            for horizon in range(len(lags)):
                before = t - lags[horizon]
                if before < 0 or first + t < start:
                    continue
                now, then = ranks[feature, t], ranks[feature, before]
                autocorrelation[feature, horizon, first + t] = rank_correlation(now, then)
                if not (counts[t] and counts[before]):
                    continue
                top, fresh = 0, 0
                for symbol in range(names):
                    if now[symbol] and quantile_of(now[symbol], counts[t], quantiles) == quantiles - 1:
                        top += 1
                        was = then[symbol] > 0
                        fresh += not (was and quantile_of(then[symbol], counts[before], quantiles) == quantiles - 1)
                if top:
                    turnover[feature, horizon, first + t] = fresh / top
