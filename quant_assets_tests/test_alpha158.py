"""alpha158: the published names, values worked by hand, a plain reference for any bars, and the rules of every set."""

import math
import subprocess
import sys
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quant_assets.features import FeatureSet, feature_set
from quant_assets.validation.leakage import look_ahead, warm_up

pytestmark = pytest.mark.slow

ALPHA158 = feature_set("alpha158")
WINDOWS = (5, 10, 20, 30, 60)
FIRST = date(2020, 1, 1)
BAR = ["KMID", "KLEN", "KMID2", "KUP", "KUP2", "KLOW", "KLOW2", "KSFT", "KSFT2", "OPEN0", "HIGH0", "LOW0", "VWAP0"]
PRICE = ["ROC", "MA", "STD", "BETA", "RSQR", "RESI", "MAX", "MIN", "QTLU", "QTLD", "RANK", "RSV"]
PLACE_AND_CHANGE = ["IMAX", "IMIN", "IMXD", "CORR", "CORD", "CNTP", "CNTN", "CNTD", "SUMP", "SUMN", "SUMD"]
VOLUME = ["VMA", "VSTD", "WVMA", "VSUMP", "VSUMN", "VSUMD"]
FAMILIES = PRICE + PLACE_AND_CHANGE + VOLUME
BY_CHANGES = {
    "close": {"CORD", "CNTP", "CNTN", "CNTD", "SUMP", "SUMN", "SUMD", "WVMA"},
    "volume": {"CORD", "VSUMP", "VSUMN", "VSUMD"},
}
"""Families that read the column of the window's sessions and of the one before."""
BY_VALUES = {
    "high": {"MAX", "IMAX", "IMXD", "RSV"},
    "low": {"MIN", "IMIN", "IMXD", "RSV"},
    "close": {"MA", "STD", "BETA", "RSQR", "RESI", "QTLU", "QTLD", "RANK", "CORR"},
    "volume": {"CORR", "VMA", "VSTD", "WVMA"},
}
"""Families that read the column of the window's sessions."""


def make_bars(symbol: str = "A", **columns: list[float] | np.ndarray) -> pl.DataFrame:
    """Bars with the columns given; open, high and low are the close and volume is 1 where they are not."""
    close = np.asarray(columns["close"], dtype=float)
    numbers = dict.fromkeys(("open", "high", "low"), close) | {"volume": np.ones(len(close))} | columns
    return pl.DataFrame(
        {"symbol": [symbol] * len(close), "ts": [FIRST + timedelta(day) for day in range(len(close))]}
        | {name: np.asarray(values, dtype=float) for name, values in numbers.items()}
    )


def random_bars(seed: int, sessions: int, symbol: str = "A", ticks: bool = False) -> pl.DataFrame:
    """Random bars; with `ticks` their prices and volumes are coarse, so that windows have ties and standstills."""
    random = np.random.default_rng(seed)
    close = 20 * np.exp(np.cumsum(random.normal(0, 0.02, sessions)))
    open_ = close * np.exp(random.normal(0, 0.01, sessions))
    high = np.maximum(open_, close) * np.exp(np.abs(random.normal(0, 0.01, sessions)))
    low = np.minimum(open_, close) * np.exp(-np.abs(random.normal(0, 0.01, sessions)))
    volume = random.integers(1, 10**6, sessions).astype(float)
    if ticks:
        open_, high, low, close = (np.ceil(values) for values in (open_, high, low, close))
        volume = np.ceil(volume / 250_000)
    return make_bars(symbol, open=open_, high=high, low=low, close=close, volume=volume)


def last(bars: pl.DataFrame, name: str) -> float | None:
    return ALPHA158.compute(bars)[name][-1]


def moves(values: np.ndarray) -> bool:
    return bool(np.std(values) > 1e-9 * np.abs(values).max())


def correlation(x: np.ndarray, y: np.ndarray) -> float:
    return float(np.corrcoef(x, y)[0, 1]) if moves(x) and moves(y) else math.nan


def gains_and_losses(changes: np.ndarray) -> tuple[float, float, float]:
    gains, losses = np.maximum(changes, 0).sum(), np.maximum(-changes, 0).sum()
    whole = np.abs(changes).sum() + 1e-12
    return gains / whole, losses / whole, (gains - losses) / whole


def reference(bars: pl.DataFrame, d: int) -> dict[str, float]:
    """The families over a window of d sessions that ends at the last of `d + 1` bars, from their definitions."""
    high, low, close, volume = (bars[name].to_numpy() for name in ("high", "low", "close", "volume"))
    ratio, changes = close[1:] / close[:-1], np.diff(close)
    volume_ratio, volume_changes = volume[1:] / volume[:-1], np.diff(volume)
    oldest, high, low, close, volume = close[0], high[1:], low[1:], close[1:], volume[1:]
    session = np.arange(1, d + 1)
    slope, intercept = np.polyfit(session, close, 1)
    now, traded = close[-1], volume[-1] + 1e-12
    moved = np.abs(ratio - 1) * volume
    gain, loss, net = gains_and_losses(changes)
    more, less, net_volume = gains_and_losses(volume_changes)
    return {
        "ROC": oldest / now,
        "MA": close.mean() / now,
        "STD": close.std(ddof=1) / now,
        "BETA": slope / now,
        "RSQR": correlation(session, close) ** 2,
        "RESI": (now - slope * d - intercept) / now,
        "MAX": high.max() / now,
        "MIN": low.min() / now,
        "QTLU": np.quantile(close, 0.8) / now,
        "QTLD": np.quantile(close, 0.2) / now,
        "RANK": ((close < now).sum() + ((close == now).sum() + 1) / 2) / d,
        "RSV": (now - low.min()) / (high.max() - low.min() + 1e-12),
        "IMAX": (high.argmax() + 1) / d,
        "IMIN": (low.argmin() + 1) / d,
        "IMXD": (high.argmax() - low.argmin()) / d,
        "CORR": correlation(close, np.log(volume + 1)),
        "CORD": correlation(ratio, np.log(volume_ratio + 1)),
        "CNTP": (changes > 0).mean(),
        "CNTN": (changes < 0).mean(),
        "CNTD": (changes > 0).mean() - (changes < 0).mean(),
        "SUMP": gain,
        "SUMN": loss,
        "SUMD": net,
        "VMA": volume.mean() / traded,
        "VSTD": volume.std(ddof=1) / traded,
        "WVMA": moved.std(ddof=1) / (moved.mean() + 1e-12),
        "VSUMP": more,
        "VSUMN": less,
        "VSUMD": net_volume,
    }


def test_the_names_are_the_published_ones_in_their_order():
    assert list(ALPHA158.names) == BAR + [f"{family}{d}" for family in FAMILIES for d in WINDOWS]
    assert len(set(ALPHA158.names)) == 158


def test_a_window_reads_its_sessions_and_the_one_before_only_where_it_compares_with_it():
    lookbacks = {feature.name: feature.lookback for feature in ALPHA158.features}
    assert {lookbacks[name] for name in BAR} == {0}
    for family in FAMILIES:
        before = family in {"ROC"}.union(*BY_CHANGES.values())
        assert [lookbacks[f"{family}{d}"] for d in WINDOWS] == [d - 1 + before for d in WINDOWS]


def test_a_formula_says_over_how_many_sessions():
    formulas = {feature.name: feature.formula for feature in ALPHA158.features}
    assert formulas["KMID"] == "(close - open) / open"
    assert formulas["ROC20"] == "over 20 sessions: close[t-20] / close[t]"
    assert len(set(formulas.values())) == 158


def test_the_shape_of_a_bar():
    bars = make_bars(open=[10.0], high=[14.0], low=[8.0], close=[11.0])
    expected = {
        "KMID": 1 / 10,
        "KLEN": 6 / 10,
        "KMID2": 1 / 6,
        "KUP": 3 / 10,
        "KUP2": 3 / 6,
        "KLOW": 2 / 10,
        "KLOW2": 2 / 6,
        "KSFT": 0.0,
        "KSFT2": 0.0,
        "OPEN0": 10 / 11,
        "HIGH0": 14 / 11,
        "LOW0": 8 / 11,
        "VWAP0": 1.0,
    }
    assert ALPHA158.compute(bars).select(BAR).row(0, named=True) == pytest.approx(expected)


def test_prices_over_five_sessions():
    bars = make_bars(
        close=[10, 11, 12, 11, 13, 14],
        high=[11, 12, 15, 12, 14, 15],
        low=[9, 10, 10, 8, 8, 13],
    )
    expected = {
        "ROC5": 10 / 14,
        "MA5": 12.2 / 14,
        "STD5": math.sqrt(6.8 / 4) / 14,
        "BETA5": 0.7 / 14,
        "RSQR5": 0.7**2 * 10 / 6.8,
        "RESI5": (14 - 13.6) / 14,
        "MAX5": 15 / 14,
        "MIN5": 8 / 14,
        "QTLU5": 13.2 / 14,
        "QTLD5": 11 / 14,
        "RANK5": 1.0,
        "RSV5": (14 - 8) / (15 - 8),
        "IMAX5": 2 / 5,
        "IMIN5": 3 / 5,
        "IMXD5": -1 / 5,
        "CNTP5": 4 / 5,
        "CNTN5": 1 / 5,
        "CNTD5": 3 / 5,
        "SUMP5": 5 / 6,
        "SUMN5": 1 / 6,
        "SUMD5": 4 / 6,
    }
    assert ALPHA158.compute(bars).select(*expected).row(-1, named=True) == pytest.approx(expected)


def test_volumes_over_five_sessions():
    bars = make_bars(close=[1.0] * 6, volume=[100, 200, 100, 300, 200, 200])
    expected = {"VMA5": 1.0, "VSTD5": math.sqrt(5000) / 200, "VSUMP5": 3 / 5, "VSUMN5": 2 / 5, "VSUMD5": 1 / 5}
    assert ALPHA158.compute(bars).select(*expected).row(-1, named=True) == pytest.approx(expected)
    weighted = make_bars(close=[1, 2, 1, 2, 1, 2], volume=[1, 1, 2, 1, 2, 6])
    assert last(weighted, "WVMA5") == pytest.approx(math.sqrt(5) / 2)


def test_price_and_volume_that_move_together_are_fully_correlated():
    close = np.array([10.0, 11, 12, 11, 13, 14])
    assert last(make_bars(close=close, volume=2**close - 1), "CORR5") == pytest.approx(1)
    assert last(make_bars(close=close, volume=2**-close), "CORR5") < -0.9
    ratio = close[1:] / close[:-1]
    volume = np.cumprod([1.0, *(np.exp(ratio) - 1)])
    assert last(make_bars(close=close, volume=volume), "CORD5") == pytest.approx(1)


def test_tied_closes_share_their_mean_rank():
    assert last(make_bars(close=[11, 12, 11, 13, 11]), "RANK5") == 2 / 5
    assert last(make_bars(close=[7, 7, 7, 7, 7]), "RANK5") == 3 / 5


@pytest.mark.parametrize("ticks", [False, True])
@pytest.mark.parametrize("seed", range(3))
def test_every_window_agrees_with_the_definitions(seed: int, ticks: bool):
    bars = random_bars(seed, 90, ticks=ticks)
    frame = ALPHA158.compute(bars)
    for d in WINDOWS:
        for t in range(d, bars.height):
            expected = reference(bars.slice(t - d, d + 1), d)
            got = frame.select(f"{family}{d}" for family in FAMILIES).row(t)
            assert [math.nan if value is None else value for value in got] == pytest.approx(
                list(expected.values()), rel=1e-9, abs=1e-10, nan_ok=True
            ), (d, t)


def test_values_begin_with_the_session_whose_lookback_is_full():
    frame = ALPHA158.compute(random_bars(1, 70))
    first = {name: frame[name].is_not_null().arg_max() for name in ALPHA158.names}
    assert first == {feature.name: feature.lookback for feature in ALPHA158.features}


def test_where_nothing_moves_there_is_no_deviation_and_no_correlation():
    frame = ALPHA158.compute(make_bars(close=[1.1] * 61, volume=[300.0] * 61)).tail(1)
    for family, value in {"STD": 0.0, "BETA": 0.0, "RESI": 0.0, "RSV": 0.0, "VSTD": 0.0, "WVMA": 0.0}.items():
        assert frame.select(f"{family}{d}" for d in WINDOWS).row(0) == (value,) * 5
    for family in ("RSQR", "CORR", "CORD"):
        assert frame.select(f"{family}{d}" for d in WINDOWS).row(0) == (None,) * 5
    assert frame.select("KMID2", "KUP2", "KLOW2", "KSFT2", "SUMP5", "SUMN5", "IMAX5", "VMA5").row(0) == pytest.approx(
        (0, 0, 0, 0, 0, 0, 1 / 5, 1)
    )


def test_rounding_of_a_steady_growth_is_no_correlation():
    steady = make_bars(close=100 * 1.01 ** np.arange(61), volume=np.random.default_rng(0).integers(1, 99, 61))
    assert ALPHA158.compute(steady).select(f"CORD{d}" for d in WINDOWS).row(-1) == (None,) * 5


def test_a_coin_at_a_millionth_has_the_correlations_of_a_share():
    share = random_bars(4, 80)
    coin = share.with_columns(pl.col("open", "high", "low", "close") * 2.0**-30)
    scale_free = [f"{family}{d}" for family in ("RSQR", "CORR", "CORD", "STD", "BETA", "RANK") for d in WINDOWS]
    assert_frame_equal(
        ALPHA158.compute(coin).select(scale_free), ALPHA158.compute(share).select(scale_free), check_exact=True
    )


def test_a_session_without_volume_has_no_volume_ratios_and_the_next_no_volume_change_ratio():
    bars = random_bars(5, 70).with_columns(volume=pl.when(pl.int_range(pl.len()) == 40).then(0.0).otherwise("volume"))
    frame, whole = ALPHA158.compute(bars), ALPHA158.compute(random_bars(5, 70))
    assert frame.select("VMA5", "VSTD5").row(40) == (None, None)
    assert frame.select("VMA5", "VSTD5", "CORR5", "WVMA5", "VSUMP5")[41:46].null_count().row(0) == (0,) * 5
    assert frame["CORD5"][41:46].null_count() == 5
    assert frame["CORD5"][46:].to_list() == whole["CORD5"][46:].to_list()


@pytest.mark.parametrize("hole", [None, math.nan])
@pytest.mark.parametrize("column", ["open", "high", "low", "close", "volume"])
def test_a_missing_number_costs_exactly_the_windows_that_read_it(column: str, hole: float | None):
    bars = random_bars(6, 140)
    holed = bars.with_columns(pl.when(pl.int_range(pl.len()) == 70).then(pl.lit(hole)).otherwise(column).alias(column))
    frame, whole = ALPHA158.compute(holed), ALPHA158.compute(bars)
    for feature in ALPHA158.features[len(BAR) :]:
        family = feature.name.rstrip("0123456789")
        lost = frame[feature.name].is_null() & whole[feature.name].is_not_null()
        d = int(feature.name.removeprefix(family))
        sessions = range(0)
        if family in BY_CHANGES.get(column, ()):
            sessions = range(d + 1)
        elif family in BY_VALUES.get(column, ()):
            sessions = range(d)
        elif column == "close":
            sessions = {"ROC": range(0, d + 1, d), "MAX": range(1), "MIN": range(1), "RSV": range(1)}.get(
                family, range(0)
            )
        expected = [70 + session for session in sessions]
        assert lost.arg_true().to_list() == expected, feature.name
        kept = frame[feature.name].is_not_null()
        assert_frame_equal(
            frame.filter(kept).select(feature.name), whole.filter(kept).select(feature.name), check_exact=True
        )


def test_one_symbol_never_reaches_into_another():
    parts = [random_bars(seed, sessions, symbol) for seed, (symbol, sessions) in enumerate([("A", 80), ("B", 3)])]
    parts.append(random_bars(9, 90, "C"))
    together = ALPHA158.compute(pl.concat(parts))
    assert_frame_equal(together, pl.concat([ALPHA158.compute(part) for part in parts]), check_exact=True)


def test_blocks_leave_no_seam(monkeypatch: pytest.MonkeyPatch):
    bars = pl.concat([random_bars(1, 130, "A"), random_bars(2, 90, "B", ticks=True)])
    whole = ALPHA158.compute(bars)
    monkeypatch.setattr("quant_assets.features.feature._CELLS", 7 * 158)
    assert_frame_equal(ALPHA158.compute(bars), whole, check_exact=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(0, 80), st.integers(1, 10), st.booleans())
def test_the_last_sessions_have_the_same_bits_with_only_their_lookback_before_them(
    seed: int, older: int, new: int, ticks: bool
):
    bars = random_bars(seed, older + ALPHA158.lookback + new, ticks=ticks)
    increment = ALPHA158.compute(bars.tail(ALPHA158.lookback + new)).tail(new)
    assert_frame_equal(increment, ALPHA158.compute(bars).tail(new), check_exact=True)


def test_a_part_of_the_set_has_the_values_of_the_whole():
    bars = random_bars(3, 80)
    some = tuple(feature for feature in ALPHA158.features if feature.name in ("KUP", "RSQR10", "CORD60"))
    expected = ALPHA158.compute(bars).select("symbol", "ts", "KUP", "RSQR10", "CORD60")
    assert_frame_equal(FeatureSet("some", some).compute(bars), expected, check_exact=True)


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from([0.0, 1e-300, 1.0, 3.5, 1e300]), min_size=1, max_size=80))
def test_no_value_is_nan_or_infinite_whatever_the_prices(close: list[float]):
    frame = ALPHA158.compute(make_bars(close=close, volume=close)).select(ALPHA158.names)
    assert frame.select(pl.all().is_finite().all()).row(0) == (True,) * 158


def several_symbols() -> pl.DataFrame:
    return pl.concat([random_bars(seed, 150 + seed, symbol) for seed, symbol in enumerate("ABC")])


def test_no_factor_looks_ahead():
    assert look_ahead(ALPHA158.compute, several_symbols()) == []


@pytest.mark.parametrize("lookback", sorted({feature.lookback for feature in ALPHA158.features}))
def test_every_factor_needs_its_stated_lookback_and_no_more(lookback: int):
    group = FeatureSet("group", tuple(feature for feature in ALPHA158.features if feature.lookback == lookback))
    assert warm_up(group.compute, several_symbols(), lookback) == []
    if lookback:
        moved = {finding.column for finding in warm_up(group.compute, several_symbols(), lookback - 1)}
        assert moved == set(group.names)


def test_whoever_only_lists_the_features_does_not_wait_for_numba():
    code = "import sys, quant_assets.features as f; f.feature_set('alpha158').names; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
