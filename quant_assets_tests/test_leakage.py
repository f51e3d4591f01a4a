"""The detectors catch functions that leak, and pass everything the platform ships."""

import functools
from collections.abc import Callable
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from quant_assets import features, labels
from quant_assets.core.errors import ConfigError, DataError
from quant_assets.features import FEATURE_SETS, FeatureSet
from quant_assets.labels import LABEL_SETS, LabelSet
from quant_assets.validation.leakage import Finding, look_ahead, warm_up

pytestmark = pytest.mark.slow

FIRST = date(2020, 1, 1)
LABEL_KEYS = ("symbol", "ts", "label_name")


@functools.cache
def make_bars(sessions: int = 160) -> pl.DataFrame:
    """Three symbols: one over all sessions, one that lists late, one that ends early and lacks a session."""
    random = np.random.default_rng(7)
    spans = {"A": range(sessions), "B": range(sessions // 3, sessions), "C": range(sessions * 3 // 4)}
    parts = []
    for symbol, days in spans.items():
        close = 100 * np.exp(np.cumsum(random.normal(0, 0.02, len(days))))
        open_ = close * np.exp(random.normal(0, 0.01, len(days)))
        parts.append(
            pl.DataFrame(
                {
                    "symbol": [symbol] * len(days),
                    "ts": [FIRST + timedelta(day) for day in days],
                    "open": open_,
                    "high": np.maximum(open_, close) * 1.01,
                    "low": np.minimum(open_, close) * 0.99,
                    "close": close,
                    "volume": random.integers(1, 10**6, len(days)).astype(float),
                }
            )
        )
    return pl.concat(parts).remove((pl.col("symbol") == "C") & (pl.col("ts") == FIRST + timedelta(50)))


def column(expression: pl.Expr) -> Callable[[pl.DataFrame], pl.DataFrame]:
    """The function that computes one column `x`, symbol by symbol."""
    return lambda bars: bars.select("symbol", "ts", expression.over("symbol").alias("x"))


CLOSE = pl.col("close")
DAILY = CLOSE / CLOSE.shift(1) - 1


@pytest.mark.parametrize(
    "leaky",
    [
        pytest.param(column(CLOSE.shift(-1)), id="tomorrow's close"),
        pytest.param(column(CLOSE.rolling_mean(5, center=True)), id="centred window"),
        pytest.param(column((CLOSE - CLOSE.mean()) / CLOSE.std()), id="z-score over all history"),
        pytest.param(column(pl.when(CLOSE > 101).then(CLOSE).backward_fill()), id="backward fill"),
        pytest.param(column(CLOSE.rank() / pl.len()), id="rank over all history"),
        pytest.param(column((CLOSE.shift(-1) / CLOSE).fill_null(1.0)), id="tomorrow, else a constant"),
        pytest.param(lambda bars: bars.filter(CLOSE.median() < CLOSE), id="rows chosen by a later median"),
    ],
)
def test_look_ahead_catches(leaky: Callable[[pl.DataFrame], pl.DataFrame]):
    findings = look_ahead(leaky, make_bars())
    assert findings
    assert {finding.detector for finding in findings} == {"look_ahead"}


@pytest.mark.parametrize(
    "endless",
    [
        pytest.param(column(DAILY.ewm_mean(span=10)), id="exponential average"),
        pytest.param(column(pl.col("volume").cum_sum()), id="running total"),
        pytest.param(column(CLOSE.cum_max()), id="all-time high"),
        pytest.param(column((CLOSE - CLOSE.mean()) / CLOSE.std()), id="z-score over all history"),
        pytest.param(column(CLOSE / CLOSE.shift(21)), id="one session more than stated"),
        pytest.param(column(pl.int_range(pl.len())), id="bars counted since listing"),
    ],
)
def test_warm_up_catches(endless: Callable[[pl.DataFrame], pl.DataFrame]):
    findings = warm_up(endless, make_bars(), lookback=20)
    assert findings
    assert {finding.detector for finding in findings} == {"warm_up"}


@pytest.mark.parametrize(
    "sound",
    [
        pytest.param(column(CLOSE / CLOSE.shift(20)), id="return over the lookback"),
        pytest.param(column(CLOSE.rolling_max(21)), id="trailing window"),
        pytest.param(lambda bars: bars.select("symbol", "ts", CLOSE.rank().over("ts")), id="rank across symbols"),
        pytest.param(lambda bars: bars.filter(pl.col("open") < CLOSE), id="some rows only"),
    ],
)
def test_neither_detector_accuses(sound: Callable[[pl.DataFrame], pl.DataFrame]):
    assert look_ahead(sound, make_bars()) == []
    assert warm_up(sound, make_bars(), lookback=20) == []


@pytest.mark.parametrize("version", FEATURE_SETS)
def test_no_shipped_feature_looks_ahead(version: str):
    assert look_ahead(lambda bars: features.compute(bars, version), make_bars()) == []


@pytest.mark.parametrize(
    ("version", "lookback"), sorted({(version, f.lookback) for version, s in FEATURE_SETS.items() for f in s.features})
)
def test_every_shipped_feature_needs_its_stated_lookback_and_no_more(version: str, lookback: int):
    group = FeatureSet("group", tuple(one for one in FEATURE_SETS[version].features if one.lookback == lookback))
    assert warm_up(group.compute, make_bars(), lookback) == []
    if lookback:
        moved = {finding.column for finding in warm_up(group.compute, make_bars(), lookback - 1)}
        assert moved == set(group.names)


@pytest.mark.parametrize("version", LABEL_SETS)
def test_no_shipped_label_is_known_before_it_is_settled(version: str):
    assert (
        look_ahead(lambda bars: labels.compute(bars, version), make_bars(), known_on="known_on", keys=LABEL_KEYS) == []
    )


def test_a_label_filed_under_its_bar_instead_of_its_settlement_is_caught():
    findings = look_ahead(lambda bars: labels.compute(bars, "v1"), make_bars(), known_on="ts", keys=LABEL_KEYS)
    assert {finding.column for finding in findings} >= {f"(row)[{name}]" for name in labels.label_set("v1").names}


@pytest.mark.parametrize("label", [x for s in LABEL_SETS.values() for x in s.labels], ids=lambda label: label.name)
def test_every_shipped_label_needs_its_stated_lookback_and_no_more(label: labels.Label):
    alone = LabelSet("alone", (label,))
    assert warm_up(alone.compute, make_bars(), alone.lookback, known_on="known_on", keys=LABEL_KEYS) == []
    assert warm_up(alone.compute, make_bars(), label.lookback, known_on="known_on", keys=LABEL_KEYS)


def test_a_finding_names_the_first_row_that_moved_and_both_values():
    bars = pl.DataFrame(
        {"symbol": ["A"] * 3, "ts": [FIRST + timedelta(day) for day in range(3)], "close": [1.0, 2.0, 3.0]}
    )
    cut = FIRST + timedelta(1)
    deleted, replaced = look_ahead(column(CLOSE.shift(-1)), bars, cuts=[cut])
    message = f"x of A on {cut} is 3.0 with all bars and None when the bars after {cut} are deleted (1 rows moved)"
    assert deleted == Finding("look_ahead", "x", "A", cut, 3.0, None, message)
    assert replaced.got not in (3.0, None)


def test_the_default_cuts_are_the_same_for_the_same_seed():
    def run(seed: int) -> list[Finding]:
        return look_ahead(column(CLOSE.shift(-1)), make_bars(), seed=seed)

    assert run(1) == run(1)
    assert run(1) != run(2)


def test_differences_within_rtol_are_forgiven():
    nearly = column(CLOSE * (1 + 1e-12 * pl.len()))
    assert look_ahead(nearly, make_bars())
    assert look_ahead(nearly, make_bars(), rtol=1e-9) == []


def test_rtol_forgives_no_number_that_vanishes():
    assert look_ahead(column(CLOSE.shift(-1).fill_null(float("nan"))), make_bars(), rtol=10.0)


def test_the_order_of_the_bars_does_not_matter():
    shuffled = make_bars().sample(fraction=1, shuffle=True, seed=1)
    fn = column(CLOSE.shift(-1))
    assert look_ahead(fn, shuffled) == look_ahead(fn, make_bars())
    assert warm_up(fn, shuffled, 5) == warm_up(fn, make_bars(), 5)


@pytest.mark.parametrize("lookback", [160, 159])
def test_a_warm_up_test_that_would_cut_nothing_is_refused(lookback: int):
    with pytest.raises(ConfigError, match="nothing was tested; pass longer bars"):
        warm_up(column(CLOSE), make_bars(), lookback)


def test_a_negative_lookback_is_refused():
    with pytest.raises(ConfigError, match="lookback is -1"):
        warm_up(column(CLOSE), make_bars(), -1)


def test_a_single_session_cannot_be_tested_for_look_ahead():
    with pytest.raises(ConfigError, match="bars have 1 session"):
        look_ahead(column(CLOSE), make_bars().head(1))


def test_a_cut_outside_the_bars_is_refused():
    with pytest.raises(ConfigError, match="1999-01-01 lies outside the bars"):
        look_ahead(column(CLOSE), make_bars(), cuts=[date(1999, 1, 1)])


def test_a_result_without_keys_is_refused_by_name():
    with pytest.raises(DataError, match=r"lacks the columns \['symbol'\]"):
        look_ahead(lambda bars: bars.drop("symbol"), make_bars())


def test_a_result_that_repeats_a_key_is_refused():
    with pytest.raises(DataError, match="rows with the same symbol, ts; extend `keys`"):
        look_ahead(lambda bars: labels.compute(bars, "v1"), make_bars(), known_on="known_on")


def test_a_result_without_rows_proves_nothing_and_is_refused():
    with pytest.raises(DataError, match="returned no row"):
        look_ahead(lambda bars: bars.head(0), make_bars())


def test_columns_that_come_and_go_with_the_bars_are_refused():
    with pytest.raises(DataError, match="always return the same ones"):
        look_ahead(lambda bars: bars.select("symbol", "ts", CLOSE.alias(f"x{len(bars)}")), make_bars())
