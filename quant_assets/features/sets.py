"""The feature functions, and the versioned sets that list them.

To add a feature, write one function and add one line to a set of a new version; a set that has been used is never
changed, because stored values carry its version. A function gets the sorted columns of all symbols and returns one
value per row, NaN or infinite where there is none; it may read only the row itself and the `lookback` rows before it.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import polars as pl

from quant_assets.core.errors import ConfigError
from quant_assets.features.panel import (
    Columns,
    FloatArray,
    panel,
    simple_return,
    window_mean,
    window_std,
)

_BLOCK = 65_536
"""Rows computed at a time, so that intermediate columns stay in the processor's cache."""


@dataclass(frozen=True, slots=True)
class Feature:
    """`lookback` is the number of the symbol's own sessions before t that the value at t reads."""

    name: str
    lookback: int
    function: Callable[[Columns], FloatArray]

    @property
    def formula(self) -> str:
        """The function's docstring."""
        return self.function.__doc__ or ""


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

        def fill(first: int) -> None:
            reach = min(first, self.lookback)
            block = sorted_bars.columns.rows(first - reach, first + _BLOCK)
            with np.errstate(all="ignore"):
                for index, feature in enumerate(self.features):
                    values[index, first : first + _BLOCK] = _nan_unless_finite(feature.function(block)[reach:])

        with ThreadPoolExecutor(os.cpu_count()) as threads:
            list(threads.map(fill, range(0, rows, _BLOCK)))
        for index, feature in enumerate(self.features):
            values[index, sorted_bars.with_less_history_than(feature.lookback)] = np.nan
        return sorted_bars.keys.with_columns(
            pl.Series(feature.name, values[index], nan_to_null=True) for index, feature in enumerate(self.features)
        )


def ret(sessions: int) -> Feature:
    def function(bars: Columns) -> FloatArray:
        return simple_return(bars.close, sessions)

    function.__doc__ = f"close[t] / close[t-{sessions}] - 1"
    return Feature(f"ret_{sessions}d", sessions, function)


def vol_20d(bars: Columns) -> FloatArray:
    """Sample standard deviation (divisor 19) of the 20 one-session returns that end at t; not annualised."""
    return window_std(simple_return(bars.close, 1), 20)


def gap_open(bars: Columns) -> FloatArray:
    """open[t] / close[t-1] - 1"""
    return simple_return(bars.open, 1, base=bars.close)


def hl_range(bars: Columns) -> FloatArray:
    """(high[t] - low[t]) / close[t]"""
    return (bars.high - bars.low) / bars.close


def volume_ratio_20d(bars: Columns) -> FloatArray:
    """volume[t] / mean(volume[t-19..t]): the mean includes t, so that a constant volume gives 1 and the most is 20."""
    return bars.volume / window_mean(bars.volume, 20)


def _nan_unless_finite(values: FloatArray) -> FloatArray:
    if np.isfinite(values.sum()):  # half the time of looking at each
        return values
    return np.where(np.isfinite(values), values, np.nan)


FEATURE_SETS: dict[str, FeatureSet] = {
    "v1": FeatureSet(
        "v1",
        (
            ret(1),
            ret(5),
            ret(20),
            ret(60),
            Feature("vol_20d", 20, vol_20d),
            Feature("gap_open", 1, gap_open),
            Feature("hl_range", 0, hl_range),
            Feature("volume_ratio_20d", 19, volume_ratio_20d),
        ),
    ),
}


def feature_set(version: str) -> FeatureSet:
    """The set named `version`.

    Raises:
        ConfigError: no such version; names the known ones.
    """
    try:
        return FEATURE_SETS[version]
    except KeyError:
        known = ", ".join(FEATURE_SETS)
        raise ConfigError(f"feature version {version!r} is unknown; use one of: {known}") from None


def compute(bars: pl.DataFrame, version: str) -> pl.DataFrame:
    """`feature_set(version).compute(bars)`"""
    return feature_set(version).compute(bars)
