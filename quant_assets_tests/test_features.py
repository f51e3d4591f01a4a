"""Feature sets: exact values on tiny inputs, and what holds for any bars."""

import math
import statistics
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quant_assets.core.errors import ConfigError, DataError
from quant_assets.features import FEATURE_SETS, Feature, FeatureSet, compute, feature_set
from quant_assets.features.panel import window_mean, window_std

V1 = feature_set("v1")
NUMBERS = ("open", "high", "low", "close", "volume")
FIRST = date(2024, 1, 1)


def make_bars(symbol: str, close: list[float], volume: list[float] | None = None, start: date = FIRST) -> pl.DataFrame:
    closes = pl.Series("close", close, dtype=pl.Float64)
    return pl.DataFrame(
        {
            "symbol": pl.Series([symbol] * len(close), dtype=pl.String),
            "ts": pl.Series([start + timedelta(day) for day in range(len(close))], dtype=pl.Date),
            "open": closes * 1.01,
            "high": closes * 1.05,
            "low": closes * 0.95,
            "close": closes,
            "volume": pl.Series(volume or [1000.0] * len(close), dtype=pl.Float64),
        }
    )


def random_bars(symbol: str, sessions: int, seed: int) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.02, sessions)))
    return make_bars(symbol, close.tolist(), random.integers(1, 10**7, sessions).astype(float).tolist())


def values(frame: pl.DataFrame, name: str) -> list[float | None]:
    return frame[name].to_list()


def test_version_v1_holds_the_eight_contracted_features_in_order():
    assert V1.names == (
        "ret_1d",
        "ret_5d",
        "ret_20d",
        "ret_60d",
        "vol_20d",
        "gap_open",
        "hl_range",
        "volume_ratio_20d",
    )
    assert V1.lookback == 60


def test_every_feature_of_every_set_has_its_own_name_and_a_formula():
    for version, features in FEATURE_SETS.items():
        assert features.version == version
        assert len(set(features.names)) == len(features.names)
        assert all(feature.formula for feature in features.features)


def test_an_unknown_version_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'v99' is unknown; use one of: v1"):
        feature_set("v99")


def test_columns_are_keys_then_one_float_per_feature():
    frame = compute(make_bars("A", [1.0, 2.0]), "v1")
    assert frame.schema == {"symbol": pl.String, "ts": pl.Date, **dict.fromkeys(V1.names, pl.Float64)}


def test_no_bars_give_no_rows_and_the_same_columns():
    frame = compute(make_bars("A", []), "v1")
    assert frame.height == 0
    assert frame.columns == ["symbol", "ts", *V1.names]


def test_returns_compare_the_close_with_the_one_so_many_sessions_earlier():
    close = [100.0 + day for day in range(62)]
    frame = compute(make_bars("A", close), "v1")
    for sessions in (1, 5, 20, 60):
        expected = [None] * sessions + [close[t] / close[t - sessions] - 1 for t in range(sessions, 62)]
        assert values(frame, f"ret_{sessions}d") == expected


def test_gap_and_range_are_measured_against_the_right_close():
    bars = make_bars("A", [100.0, 200.0])
    frame = compute(bars, "v1")
    assert values(frame, "gap_open") == [None, 202.0 / 100.0 - 1]
    assert values(frame, "hl_range") == [pytest.approx(0.1), pytest.approx(0.1)]


def test_volatility_is_the_sample_standard_deviation_of_twenty_returns():
    bars = random_bars("A", 40, seed=1)
    close = values(bars, "close")
    daily = [close[t] / close[t - 1] - 1 for t in range(1, 40)]
    got = values(compute(bars, "v1"), "vol_20d")
    assert got[:20] == [None] * 20
    assert got[20:] == pytest.approx([statistics.stdev(daily[t - 20 : t]) for t in range(20, 40)], rel=1e-13)


def test_volatility_of_a_price_that_does_not_move_is_exactly_zero():
    assert values(compute(make_bars("A", [1.1] * 22), "v1"), "vol_20d")[20:] == [0.0, 0.0]


def test_volatility_of_steady_growth_is_as_small_as_its_returns_are_equal():
    steady = window_std(np.full(30, 0.01), 20)
    assert (steady[19:] <= 1e-17).all()
    daily = 0.01 + 1e-9 * np.random.default_rng(0).normal(size=60)
    expected = [statistics.stdev(daily[t - 19 : t + 1].tolist()) for t in range(19, 60)]
    assert window_std(daily, 20)[19:] == pytest.approx(expected, rel=1e-7)


def test_a_window_has_the_same_bits_wherever_it_lies():
    random = np.random.default_rng(0)
    mixed = np.concatenate([random.normal(0, 0.02, 50), np.full(40, 0.01), 0.01 + random.normal(0, 1e-7, 50)])
    whole = {statistic: statistic(mixed, 20) for statistic in (window_mean, window_std)}
    for end in range(20, len(mixed) + 1):
        for statistic, values_of_all in whole.items():
            assert statistic(mixed[end - 20 : end], 20)[-1] == values_of_all[end - 1]


def test_the_volume_mean_includes_the_session_itself():
    frame = compute(make_bars("A", [1.0] * 20, [0.0] * 19 + [5.0]), "v1")
    assert values(frame, "volume_ratio_20d") == [None] * 19 + [20.0]


def test_a_zero_denominator_gives_null():
    bars = make_bars("A", [0.0, 1.0] + [1.0] * 20, [0.0] * 22)
    frame = compute(bars, "v1")
    assert values(frame, "ret_1d")[:2] == [None, None]
    assert values(frame, "gap_open")[1] is None
    assert values(frame, "hl_range")[0] is None
    assert frame["volume_ratio_20d"].null_count() == 22


@pytest.mark.parametrize("hole", [None, math.nan])
def test_a_missing_number_costs_only_the_windows_that_hold_it(hole: float | None):
    bars = random_bars("A", 70, seed=2)
    holed = bars.with_columns(volume=pl.when(pl.int_range(pl.len()) == 30).then(pl.lit(hole)).otherwise("volume"))
    ratio, whole = compute(holed, "v1")["volume_ratio_20d"], compute(bars, "v1")["volume_ratio_20d"]
    assert ratio[30:50].null_count() == 20
    assert ratio[:30].to_list() == whole[:30].to_list()
    assert ratio[50:].to_list() == whole[50:].to_list()


def test_one_symbol_never_reaches_into_another():
    parts = [
        random_bars(symbol, sessions, seed) for seed, (symbol, sessions) in enumerate([("A", 70), ("B", 3), ("C", 90)])
    ]
    together = compute(pl.concat(parts), "v1")
    assert_frame_equal(together, pl.concat([compute(part, "v1") for part in parts]), check_exact=True)


def test_rows_in_any_order_give_the_same_sorted_frame():
    bars = pl.concat([random_bars("B", 30, 1), random_bars("A", 25, 2)])
    expected = compute(bars.sort("symbol", "ts"), "v1")
    assert_frame_equal(compute(bars, "v1"), expected, check_exact=True)
    assert_frame_equal(compute(bars.sample(fraction=1, shuffle=True, seed=3), "v1"), expected, check_exact=True)


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch):
    bars = pl.concat([random_bars("A", 130, 1), random_bars("B", 90, 2)])
    whole = compute(bars, "v1")
    monkeypatch.setattr("quant_assets.features.feature._CELLS", 7 * len(V1.names))
    assert_frame_equal(compute(bars, "v1"), whole, check_exact=True)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 80), st.integers(1, 30))
def test_the_last_sessions_have_the_same_bits_with_only_their_lookback_before_them(seed: int, older: int, new: int):
    bars = random_bars("A", older + V1.lookback + new, seed)
    whole = compute(bars, "v1").tail(new)
    increment = compute(bars.tail(V1.lookback + new), "v1").tail(new)
    assert_frame_equal(increment, whole, check_exact=True)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-300, 1.0, 3.5, 1e300]), min_size=1, max_size=30))
def test_no_value_is_nan_or_infinite_whatever_the_prices(close: list[float]):
    frame = compute(make_bars("A", close, close), "v1").select(V1.names)
    assert frame.select(pl.all().is_finite().all()).row(0) == (True,) * len(V1.names)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-1e6, 1e6, width=32), min_size=1, max_size=40), st.integers(2, 40))
def test_window_statistics_agree_with_those_of_the_window_alone(numbers: list[float], sessions: int):
    array = np.array(numbers)
    mean, std = window_mean(array, sessions), window_std(array, sessions)
    for end in range(len(numbers)):
        window = numbers[max(0, end - sessions + 1) : end + 1]
        if len(window) < sessions:
            assert math.isnan(mean[end])
            assert math.isnan(std[end])
        else:
            assert mean[end] == pytest.approx(statistics.fmean(window), rel=1e-12, abs=1e-9)
            assert std[end] == pytest.approx(statistics.stdev(window), rel=1e-9, abs=1e-9)


def test_a_new_feature_is_one_function_and_one_line():
    def body(bars):
        """close[t] / open[t] - 1"""
        return bars.close / bars.open - 1

    frame = FeatureSet("mine", (Feature("body", 0, body),)).compute(make_bars("A", [101.0]))
    assert values(frame, "body") == [pytest.approx(1 / 1.01 - 1)]


def test_two_bars_of_one_session_are_refused():
    bars = pl.concat([make_bars("A", [1.0, 2.0]), make_bars("A", [3.0])])
    with pytest.raises(DataError, match="more than one row for A on 2024-01-01"):
        compute(bars, "v1")


@pytest.mark.parametrize("key", ["symbol", "ts"])
def test_a_bar_without_a_key_is_refused(key: str):
    bars = make_bars("A", [1.0, 2.0]).with_columns(pl.when(pl.col("close") > 1).then(key).alias(key))
    with pytest.raises(DataError, match="without symbol or ts"):
        compute(bars, "v1")


def test_bars_that_lack_a_column_are_refused_by_name():
    with pytest.raises(DataError, match=r"lack the columns \['volume'\]"):
        compute(make_bars("A", [1.0]).drop("volume"), "v1")
