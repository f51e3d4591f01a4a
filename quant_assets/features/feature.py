"""What a feature and a set of features are, and how a set is computed for bars."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl

from quant_assets.features.panel import Columns, FloatArray, panel

_ROWS, _CELLS = 65_536, 524_288
"""The most rows, and values of the set, computed at a time: so intermediate columns stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Feature:
    """One column of a set.

    `lookback` is the number of the symbol's own sessions before t that the value at t reads. `function` returns one
    value per bar; one that several features share, called once for all of them, returns a row of values for each, of
    which `row` is this one's, and `text` its formula.
    """

    name: str
    lookback: int
    function: Callable[[Columns], FloatArray]
    row: int = 0
    text: str = ""

    @property
    def formula(self) -> str:
        """`text`, or else the function's docstring."""
        return self.text or self.function.__doc__ or ""


@dataclass(frozen=True, slots=True)
class FeatureSet:
    version: str
    features: tuple[Feature, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(feature.name for feature in self.features)

    @property
    def lookback(self) -> int:
        """Sessions of a symbol's own history to read before the first session wanted."""
        return max(feature.lookback for feature in self.features)

    def compute(self, bars: pl.DataFrame) -> pl.DataFrame:
        """All features of the set for all bars.

        Args:
            bars: adjusted bars of any number of symbols (symbol, ts, open, high, low, close, volume), in any order.

        Returns:
            symbol, ts and one Float64 column per feature: one row per bar, sorted by (symbol, ts). Null where the
            symbol has fewer bars before t than the feature's lookback, a bar in the window lacks a number, or a
            denominator is zero; never NaN or infinite. A value has the same bits whatever lies before its lookback.

        Raises:
            DataError: bars lack a column, have a null key, or have two rows with one key.
        """
        sorted_bars = panel(bars)
        rows = sorted_bars.keys.height
        values = np.empty((len(self.features), rows))
        size = min(_ROWS, _CELLS // len(self.features))
        by_function: dict[Callable[[Columns], FloatArray], list[int]] = {}
        by_lookback: dict[int, list[int]] = {}
        for index, feature in enumerate(self.features):
            by_function.setdefault(feature.function, []).append(index)
            by_lookback.setdefault(feature.lookback, []).append(index)

        def fill(first: int) -> None:
            reach = min(first, self.lookback)
            block = sorted_bars.columns.rows(first - reach, first + size)
            with np.errstate(all="ignore"):
                for function, indexes in by_function.items():
                    results = np.atleast_2d(_nan_unless_finite(function(block)[..., reach:]))
                    for index in indexes:
                        values[index, first : first + size] = results[self.features[index].row]

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(fill, range(0, rows, size)))
        for lookback, indexes in by_lookback.items():
            short = sorted_bars.with_less_history_than(lookback)
            for index in indexes:
                values[index, short] = np.nan
        return sorted_bars.keys.with_columns(
            pl.Series(name, values[index], nan_to_null=True) for index, name in enumerate(self.names)
        )


def _nan_unless_finite(values: FloatArray) -> FloatArray:
    if np.isfinite(values.sum()):  # half the time of looking at each
        return values
    return np.where(np.isfinite(values), values, np.nan)
