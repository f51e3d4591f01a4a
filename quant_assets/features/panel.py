"""Bars as sorted columns, and the trailing-window arithmetic that features are written with.

Every function here works on consecutive rows and knows nothing of symbols: a window that reaches over a symbol's
first bar yields a meaningless number, which `features.compute` masks by the feature's lookback. A window's value is
made from the window's own rows alone, by the same operations in the same order wherever it lies, so that it has the
same bits however much history precedes it. (A rolling sum that adds the newest row and removes the oldest has not.)
"""

from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray

from quant_assets.core.errors import DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

PRICES_AND_VOLUME = ("open", "high", "low", "close", "volume")


@dataclass(frozen=True, slots=True)
class Columns:
    """Columns of equal length, sorted by (symbol, ts); a missing number is NaN."""

    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    def rows(self, first: int, end: int) -> "Columns":
        """Rows `first` to `end`, the latter exclusive; views, no copies."""
        return Columns(*(getattr(self, name)[first:end] for name in PRICES_AND_VOLUME))


@dataclass(frozen=True, slots=True)
class Panel:
    """Sorted bars: their keys, their numbers, and the rows at which another symbol begins."""

    keys: pl.DataFrame
    columns: Columns
    starts: IntArray

    def with_less_history_than(self, sessions: int) -> IntArray:
        """Rows that have fewer than `sessions` bars of their symbol before them."""
        lengths = np.minimum(np.diff(self.starts, append=self.keys.height), sessions)
        ends = np.cumsum(lengths)
        return np.arange(lengths.sum()) + np.repeat(self.starts - ends + lengths, lengths)


def panel(bars: pl.DataFrame) -> Panel:
    """Sort adjusted bars by (symbol, ts), unless they are, and take them apart.

    Raises:
        DataError: a column is missing, a key is null, or a symbol has two bars of one session.
    """
    missing = [name for name in ("symbol", "ts", *PRICES_AND_VOLUME) if name not in bars.columns]
    if missing:
        raise DataError(f"bars lack the columns {missing}, they have {bars.columns}; pass adjusted daily bars")
    keys = bars.select("symbol", "ts")
    if keys.null_count().row(0) != (0, 0):
        raise DataError("bars have a row without symbol or ts; drop or quarantine it")
    starts = _starts(keys["symbol"])
    if not _is_sorted(keys, starts):
        bars = bars.sort("symbol", "ts")
        keys = bars.select("symbol", "ts")
        starts = _starts(keys["symbol"])
        if not _is_sorted(keys, starts):
            symbol, ts = keys.filter(keys.is_duplicated()).row(0)
            raise DataError(f"bars have more than one row for {symbol} on {ts}; keep one")
    numbers = (bars[name].cast(pl.Float64).fill_null(float("nan")).to_numpy() for name in PRICES_AND_VOLUME)
    return Panel(keys, Columns(*numbers), starts)


def _starts(symbol: pl.Series) -> IntArray:
    """Rows at which another symbol begins, row 0 first."""
    return symbol.ne_missing(symbol.shift(1)).arg_true().cast(pl.Int64).to_numpy()


def _is_sorted(keys: pl.DataFrame, starts: IntArray) -> bool:
    """Whether keys rise strictly by (symbol, ts), given the rows where symbols change."""
    names = keys["symbol"].gather(starts)
    rises = np.diff(keys["ts"].to_physical().to_numpy()) > 0
    rises[starts[1:] - 1] = True
    return bool(rises.all() and (names[1:] > names[:-1]).all())


def simple_return(values: FloatArray, sessions: int, base: FloatArray | None = None) -> FloatArray:
    """Value over the base (without one, itself) `sessions` >= 1 rows earlier, minus one; NaN in the first rows.

    `simple_return([2, 3], 1)` is `[nan, 0.5]`, `simple_return([2, 3], 1, base=[1, 1])` is `[nan, 2]`.
    """
    base = values if base is None else base
    out = _empty_after(values, sessions)
    np.divide(values[sessions:], base[:-sessions], out=out[sessions:])
    out[sessions:] -= 1.0
    return out


def window_mean(values: FloatArray, sessions: int) -> FloatArray:
    """Mean of each row and the `sessions - 1` before it; NaN in the first rows.

    `window_mean([1, 2, 6], 2)` is `[nan, 1.5, 4]`.
    """
    out = _empty_after(values, sessions - 1)
    if len(values) >= sessions:
        np.divide(_window_sum(values, sessions), sessions, out=out[sessions - 1 :])
    return out


def window_std(values: FloatArray, sessions: int) -> FloatArray:
    """Sample standard deviation (divisor `sessions - 1`) of each row and the `sessions - 1` >= 1 before it.

    From the window's sum and its sum of squares; a window whose mean is so large that their difference would lose
    more than four digits is computed again from its deviations. `window_std([1, 3, 3], 2)` is `[nan, sqrt(2), 0]`.
    """
    out = _empty_after(values, sessions - 1)
    if len(values) >= sessions:
        squares = _window_sum(values * values, sessions)
        deviations = np.square(_window_sum(values, sessions))
        deviations /= -sessions
        deviations += squares
        squares *= 1e-4
        lossy = np.flatnonzero(deviations < squares)
        if lossy.size:
            windows = np.lib.stride_tricks.sliding_window_view(values, sessions)[lossy]
            deviations[lossy] = np.square(windows - windows.mean(axis=1, keepdims=True)).sum(axis=1)
        deviations /= sessions - 1
        np.sqrt(deviations, out=out[sessions - 1 :])
    return out


def _empty_after(values: FloatArray, rows: int) -> FloatArray:
    """An array like `values` with NaN in the first rows and nothing certain in the others."""
    out = np.empty_like(values)
    out[:rows] = np.nan
    return out


def _window_sum(values: FloatArray, sessions: int) -> FloatArray:
    """Sums of all windows; row j is the window that begins there.

    Windows of 1, 2, 4, ... rows by doubling, joined into `sessions`: 20 rows take five additions.
    """
    rows = len(values)
    block, size = values, 1
    joined, taken = None, 0
    while True:
        if sessions & size:
            count = rows - size - taken + 1
            joined = block if joined is None else block[:count] + joined[size : size + count]
            taken += size
            if taken == sessions:
                return joined
        block = block[:-size] + block[size:]
        size *= 2
