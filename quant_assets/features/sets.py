"""The versioned sets of features, and the functions of those that are one function each.

To add a feature, write one function and add one line to a set of a new version; a set that has been used is never
changed, because stored values carry its version. A function gets the sorted columns of all symbols and returns one
value per row, NaN or infinite where there is none; it may read only the row itself and the `lookback` rows before it.
"""

import polars as pl

from quant_assets.core.errors import ConfigError
from quant_assets.features import alpha158
from quant_assets.features.feature import Feature, FeatureSet
from quant_assets.features.panel import Columns, FloatArray, simple_return, window_mean, window_std


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
    "alpha158": FeatureSet("alpha158", alpha158.features()),
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
