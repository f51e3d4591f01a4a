"""Label sets: exact values on tiny inputs, and when each label becomes known."""

import statistics
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quant_assets import features
from quant_assets.core.errors import ConfigError, DataError
from quant_assets.labels import LABEL_SETS, LabelSet, compute, label_set, settled_between
from quant_assets.labels.sets import fwd_ret, triple_barrier

V1 = label_set("v1")
FIRST = date(2024, 1, 1)


def make_bars(symbol: str, close: list[float]) -> pl.DataFrame:
    return pl.DataFrame(
        {
            "symbol": pl.Series([symbol] * len(close), dtype=pl.String),
            "ts": pl.Series([FIRST + timedelta(day) for day in range(len(close))], dtype=pl.Date),
            "close": pl.Series(close, dtype=pl.Float64),
        }
    )


def random_bars(symbol: str, sessions: int, seed: int) -> pl.DataFrame:
    steps = np.random.default_rng(seed).normal(0, 0.02, sessions)
    return make_bars(symbol, (100 * np.exp(np.cumsum(steps))).tolist())


def only(labels: pl.DataFrame, name: str) -> pl.DataFrame:
    return labels.filter(pl.col("label_name") == name)


def barrier_rows(close: list[float], horizon: int, **barriers: float) -> list[tuple[int, float, int]]:
    """(session t, value, session known) of each triple barrier label of one symbol."""
    labels = LabelSet("x", (triple_barrier(horizon, **barriers),)).compute(make_bars("A", close))
    return [((row["ts"] - FIRST).days, row["label_value"], (row["known_on"] - FIRST).days) for row in labels.to_dicts()]


# 21 closes whose 20 returns are +1 % and -1 % in turn: a volatility of 0.0102598 at session 20
ZIGZAG = [100.0]
for day in range(20):
    ZIGZAG.append(ZIGZAG[-1] * (1.01 if day % 2 == 0 else 0.99))
LAST = ZIGZAG[-1]
VOLATILITY = statistics.stdev(ZIGZAG[t] / ZIGZAG[t - 1] - 1 for t in range(1, 21))


def test_version_v1_holds_returns_and_directions_of_three_horizons_and_a_triple_barrier():
    assert V1.names == (
        "fwd_ret_5d",
        "fwd_ret_20d",
        "fwd_ret_60d",
        "direction_5d",
        "direction_20d",
        "direction_60d",
        "triple_barrier_20d",
    )
    assert V1.lookback == 60


def test_every_label_of_every_set_has_its_own_name_and_a_formula():
    for version, labels in LABEL_SETS.items():
        assert labels.version == version
        assert len(set(labels.names)) == len(labels.names)
        assert all(label.formula for label in labels.labels)


def test_an_unknown_version_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'v0' is unknown; use one of: v1"):
        label_set("v0")


def test_columns_are_those_of_the_contract():
    assert compute(make_bars("A", [1.0]), "v1").schema == {
        "symbol": pl.String,
        "ts": pl.Date,
        "label_name": pl.String,
        "label_version": pl.String,
        "label_value": pl.Float64,
        "horizon": pl.Int32,
        "known_on": pl.Date,
    }


@pytest.mark.parametrize("sessions", [0, 1, 5])
def test_bars_too_short_to_settle_anything_give_no_rows(sessions: int):
    assert compute(make_bars("A", [1.0] * sessions), "v1").height == 0


def test_a_forward_return_is_filed_under_the_session_that_closed_it():
    close = [100.0, 101.0, 102.0, 103.0, 104.0, 110.0, 99.0]
    labels = only(compute(make_bars("A", close), "v1"), "fwd_ret_5d")
    assert labels["ts"].to_list() == [FIRST, FIRST + timedelta(1)]
    assert labels["known_on"].to_list() == [FIRST + timedelta(5), FIRST + timedelta(6)]
    assert labels["label_value"].to_list() == [110.0 / 100.0 - 1, 99.0 / 101.0 - 1]
    assert labels["horizon"].to_list() == [5, 5]
    assert labels["label_version"].to_list() == ["v1", "v1"]


def test_direction_is_one_only_where_the_return_is_positive():
    close = [100.0, 100.0, 100.0, 100.0, 100.0, 110.0, 100.0, 90.0]
    labels = only(compute(make_bars("A", close), "v1"), "direction_5d")
    assert labels["label_value"].to_list() == [1.0, 0.0, 0.0]


def test_the_horizon_counts_the_symbols_own_sessions():
    bars = make_bars("A", [100.0 + day for day in range(9)]).filter(pl.col("ts") != FIRST + timedelta(2))
    labels = only(compute(bars, "v1"), "fwd_ret_5d")
    assert labels["known_on"][0] == FIRST + timedelta(6)


def test_the_close_that_reaches_the_profit_barrier_settles_the_label():
    up = LAST * (1 + VOLATILITY * 2) * 1.0001
    assert barrier_rows([*ZIGZAG, LAST * 1.01, up], horizon=4)[0] == (20, 1.0, 22)


def test_the_close_that_reaches_the_stop_barrier_settles_the_label():
    down = LAST * (1 - VOLATILITY * 2) * 0.9999
    assert barrier_rows([*ZIGZAG, down, LAST * 2, LAST, LAST], horizon=4)[0] == (20, -1.0, 21)


def test_the_time_barrier_settles_what_reached_neither():
    assert barrier_rows([*ZIGZAG, LAST, LAST, LAST, LAST * 1.01], horizon=4)[0] == (20, 0.0, 24)


def test_a_label_whose_barriers_all_lie_ahead_has_no_row():
    assert barrier_rows([*ZIGZAG, LAST, LAST, LAST], horizon=4) == []


def test_profit_and_stop_are_multiples_of_the_width():
    after = [LAST * (1 + VOLATILITY * 2 * 1.5), LAST, LAST, LAST]
    assert barrier_rows([*ZIGZAG, *after], horizon=4)[0] == (20, 1.0, 21)
    assert barrier_rows([*ZIGZAG, *after], horizon=4, profit=2.0)[0] == (20, 0.0, 24)


def test_without_volatility_there_is_no_barrier_label():
    assert barrier_rows([100.0] * 40, horizon=4) == []


def test_the_barrier_width_uses_the_volatility_of_the_features():
    bars = random_bars("A", 60, seed=5).with_columns(pl.col("close").alias(name) for name in ("open", "high", "low"))
    vol = features.compute(bars.with_columns(volume=1.0), "v1")["vol_20d"]
    close = bars["close"]
    for t, value, known in barrier_rows(close.to_list(), horizon=4):
        move = close[known] / close[t] - 1
        if value == 0:
            assert abs(move) < vol[t] * 2
        else:
            assert move * value >= vol[t] * 2 * (1 - 1e-12)


def test_one_symbol_never_reaches_into_another():
    parts = [random_bars("A", 90, 1), random_bars("B", 3, 2), random_bars("C", 70, 3)]
    keys = ["label_name", "symbol", "ts"]
    together = compute(pl.concat(parts), "v1").sort(keys)
    apart = pl.concat([compute(part, "v1") for part in parts]).sort(keys)
    assert_frame_equal(together, apart, check_exact=True)


def test_rows_in_any_order_give_the_same_frame():
    bars = pl.concat([random_bars("B", 70, 1), random_bars("A", 65, 2)])
    shuffled = bars.sample(fraction=1, shuffle=True, seed=3)
    assert_frame_equal(compute(shuffled, "v1"), compute(bars, "v1"), check_exact=True)


@pytest.mark.parametrize("hole", [None, 0.0, float("nan")])
def test_a_close_that_is_missing_or_zero_makes_no_label(hole: float | None):
    close = [100.0] * 12
    bars = make_bars("A", close).with_columns(close=pl.when(pl.int_range(pl.len()) == 1).then(hole).otherwise("close"))
    labels = compute(bars, "v1")
    for name in ("fwd_ret_5d", "direction_5d"):
        assert only(labels, name)["ts"].to_list() == [FIRST + timedelta(day) for day in (0, 2, 3, 4, 5, 6)]
    assert labels["label_value"].is_finite().all()


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 60), st.integers(1, 25))
def test_reading_the_stated_lookback_is_enough_for_every_label_that_a_slice_settles(seed: int, older: int, new: int):
    bars = random_bars("A", older + V1.lookback + new, seed)
    first, last = bars["ts"][-new], bars["ts"][-1]
    whole = settled_between(compute(bars, "v1"), first, last)
    slice_only = settled_between(compute(bars.tail(V1.lookback + new), "v1"), first, last)
    assert_frame_equal(slice_only, whole, check_exact=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 120))
def test_a_label_is_known_after_its_bar_and_within_its_horizon(seed: int, sessions: int):
    labels = compute(random_bars("A", sessions, seed), "v1")
    waited = (labels["known_on"] - labels["ts"]).dt.total_days()
    assert (waited >= 1).all()
    assert (waited <= labels["horizon"]).all()
    assert labels.select("symbol", "ts", "label_name").is_duplicated().sum() == 0


def test_settled_between_includes_both_ends():
    labels = LabelSet("x", (fwd_ret(1),)).compute(make_bars("A", [1.0, 2.0, 3.0, 4.0, 5.0]))
    kept = settled_between(labels, FIRST + timedelta(2), FIRST + timedelta(3))
    assert kept["ts"].to_list() == [FIRST + timedelta(1), FIRST + timedelta(2)]


def test_two_bars_of_one_session_are_refused():
    with pytest.raises(DataError, match="more than one row for A on 2024-01-01"):
        compute(pl.concat([make_bars("A", [1.0, 2.0]), make_bars("A", [3.0])]), "v1")


def test_bars_that_lack_a_column_are_refused_by_name():
    with pytest.raises(DataError, match=r"lack the columns \['close'\]"):
        compute(make_bars("A", [1.0]).drop("close"), "v1")
