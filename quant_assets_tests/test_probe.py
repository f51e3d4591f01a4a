"""The leakage detectors on all that is shipped, and on leaks planted where the probes must see them."""

import dataclasses
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import date, time, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from quant_assets.core.calendar import TradingCalendar, trading_calendar
from quant_assets.core.errors import ConfigError
from quant_assets.core.settings import PROJECT_ROOT, settings
from quant_assets.features import FEATURE_SETS, Feature, FeatureSet
from quant_assets.features.panel import Columns, FloatArray
from quant_assets.labels import LABEL_SETS, Label, LabelSet
from quant_assets.labels.sets import Closes, IntArray, fwd_ret
from quant_assets.models.spec import ModelSpec
from quant_assets.models.store import ModelStore
from quant_assets.strategy import probe
from quant_assets.strategy.compose import Decisions, decide
from quant_assets.strategy.probe import Probe, Trainings, Verdict
from quant_assets.strategy.spec import FactorRank, StrategySpec, load_strategies

pytestmark = pytest.mark.slow

STRATEGIES = load_strategies(Path(__file__).parents[1] / "strategies")
WEEKDAYS = tuple(day for day in (date(2008, 1, 1) + timedelta(n) for n in range(2400)) if day.weekday() < 5)
CALENDAR = TradingCalendar("TEST", "UTC", time(16), WEEKDAYS)
LAST = date(2013, 3, 1)
BOUNDS = dict.fromkeys("ABC", (date(2008, 1, 2), None)) | {"LATE": (date(2012, 1, 3), None)}
QUICK = {"min_train_rows": 60, "params": {"num_boost_round": 4, "min_data_in_leaf": 20}}


@functools.cache
def bars() -> pl.DataFrame:
    return probe.made_bars(BOUNDS, CALENDAR, LAST, sessions=500)


@pytest.fixture
def trainings(tmp_path: Path) -> Trainings:
    return Trainings(ModelStore(tmp_path))


def learner(strategy_id: str, **changes: Any) -> StrategySpec:
    """A shipped model strategy, its model quick to train."""
    spec = STRATEGIES[strategy_id]
    assert spec.model is not None
    model = ModelSpec.model_validate(spec.model.model_dump() | QUICK | changes)
    return spec.model_copy(update={"signal": spec.signal.model_copy(update={"model": model})})


def ranker(feature_version: str, feature_name: str) -> StrategySpec:
    """The shipped factor strategy, ranking by another feature."""
    spec = STRATEGIES["momentum_topk"]
    assert isinstance(spec.signal, FactorRank)
    inputs = spec.signal.inputs.model_copy(update={"feature_version": feature_version, "feature_name": feature_name})
    return spec.model_copy(update={"signal": spec.signal.model_copy(update={"inputs": inputs})})


def probes_of(spec: StrategySpec, trainings: Trainings) -> list[Probe]:
    return probe.strategy_probes(spec, BOUNDS, CALENDAR, trainings)


def verdicts(probes: Sequence[Probe]) -> list[Verdict]:
    return [verdict for one in probes for verdict in probe.run(one, bars())]


def results(probes: Sequence[Probe]) -> list[tuple[str, str, str]]:
    return [(one.name.split()[0], one.detector, one.result) for one in verdicts(probes)]


def tomorrow(bars: Columns) -> FloatArray:
    return np.append(bars.close[1:], np.nan) / bars.close - 1


def two_sessions(bars: Columns) -> FloatArray:
    return bars.close / np.append([np.nan, np.nan], bars.close[:-2]) - 1


@pytest.fixture
def faulty_features(monkeypatch: pytest.MonkeyPatch) -> FeatureSet:
    """Feature set v9: one feature that reads tomorrow's close, one that reads a session more than it states."""
    features = FeatureSet("v9", (Feature("tomorrow", 0, tomorrow), Feature("two_sessions", 1, two_sessions)))
    monkeypatch.setitem(FEATURE_SETS, "v9", features)
    return features


@pytest.mark.parametrize("version", FEATURE_SETS)
def test_every_shipped_feature_passes_both_detectors(version: str):
    probes = probe.feature_probes(FEATURE_SETS[version])
    assert results(probes) == [("feature", name, "passed") for _ in probes for name in ("look-ahead", "warm-up")]
    names = [name for one in probes for name in one.answers_to if name != version]
    assert sorted(names) == sorted(FEATURE_SETS[version].names)


def test_features_of_one_function_and_lookback_share_a_probe_that_answers_to_each_name():
    probes = probe.feature_probes(FEATURE_SETS["alpha158"])
    assert len(probes) == 11
    (chosen,) = probe.choose(probes, ["KLOW"])
    assert chosen.name == "feature KMID and 12 more of alpha158"


@pytest.mark.parametrize("version", LABEL_SETS)
def test_every_shipped_label_passes_both_detectors(version: str):
    found = results(probe.label_probes(LABEL_SETS[version]))
    assert found == [("label", name, "passed") for _ in LABEL_SETS[version].names for name in ("look-ahead", "warm-up")]


@pytest.mark.parametrize("strategy_id", STRATEGIES)
def test_every_shipped_strategy_looks_at_no_future_and_says_where_no_warm_up_is_finite(
    strategy_id: str, trainings: Trainings
):
    learns = STRATEGIES[strategy_id].model is not None
    spec = learner(strategy_id) if learns else STRATEGIES[strategy_id]
    found = verdicts(probes_of(spec, trainings))
    endless = "the model learns from all history; train_years would bound it" if learns else ""
    if spec.signal.type == "donchian":
        endless = "a position is held until it is closed, however long ago it began"
    assert [one.result for one in found] == [
        "passed",
        "not applicable" if endless else "passed",
        "passed",
        "not applicable",
    ]
    assert found[1].detail == endless
    assert found[3].detail == "every rebalance starts from the weights of the one before"
    assert trainings.registry["model_id"].is_unique().all()
    assert learns == (trainings.registry.height > 0)


def test_a_feature_that_reads_tomorrow_is_caught_and_named(faulty_features: FeatureSet):
    ahead, _ = verdicts(probe.feature_probes(faulty_features)[:1])
    assert ahead.name == "feature tomorrow v9"
    assert ahead.result == f"{len(ahead.findings)} finding(s)"
    assert ahead.detail.startswith("tomorrow of A on ")


def test_a_feature_that_reads_more_than_it_states_is_caught(faulty_features: FeatureSet):
    _, warm = verdicts(probe.feature_probes(faulty_features)[1:])
    assert {finding.column for finding in warm.findings} == {"two_sessions"}


def test_a_strategy_that_ranks_by_a_leaking_feature_is_caught_in_signal_and_targets(
    faulty_features: FeatureSet, trainings: Trainings
):
    found = verdicts(probes_of(ranker("v9", "tomorrow"), trainings))
    assert {one.name.split()[0] for one in found if one.findings} == {"signal", "targets"}


def test_a_signal_whose_feature_states_too_little_history_is_caught(faulty_features: FeatureSet, trainings: Trainings):
    _, warm, *_ = verdicts(probes_of(ranker("v9", "two_sessions"), trainings))
    assert {finding.column for finding in warm.findings} >= {"score"}


def test_a_model_that_learns_from_labels_one_session_before_they_settle_is_caught(
    monkeypatch: pytest.MonkeyPatch, trainings: Trainings
):
    honest = fwd_ret(20)

    def early(closes: Closes) -> tuple[FloatArray, IntArray]:
        value, steps = honest.function(closes)
        return value, steps - 1

    monkeypatch.setitem(LABEL_SETS, "v9", LabelSet("v9", (Label("early", 20, 0, early),)))
    spec = learner("lgbm_per_symbol", label="early", label_version="v9")
    label, _ = verdicts(probe.label_probes(LABEL_SETS["v9"]))
    signal, _ = verdicts(probes_of(spec, trainings)[:1])
    assert {finding.column for finding in label.findings} == {"(row)[early]", "label_value[early]"}
    assert {finding.column for finding in signal.findings} == {"score"}


def test_a_strategy_that_takes_its_newest_session_for_the_end_of_the_week_is_caught(
    monkeypatch: pytest.MonkeyPatch, trainings: Trainings
):
    def by_the_bars_at_hand(spec: StrategySpec, *arguments: Any) -> Decisions:
        scores, bars, previous, sessions, _, bounds = arguments
        return decide(spec, scores, bars, previous, sessions, [*sessions, date.max], bounds)

    monkeypatch.setattr(probe, "decide", by_the_bars_at_hand)
    found = verdicts(probes_of(STRATEGIES["momentum_topk"], trainings)[1:])
    assert {finding.column for finding in found[0].findings} == {"(row)"}


def test_a_model_with_a_bounded_window_has_a_warm_up_and_passes_it(trainings: Trainings):
    spec = learner("lgbm_pooled", train_years=0.3, retrain="monthly", features=("ret_5d",), label="direction_5d")
    signal, _ = probes_of(spec, trainings)
    # 110 days of training rows and a month of predictions hold 102 weekdays, and the oldest row reads 5 more
    assert signal.lookback == 107
    few = dataclasses.replace(signal, cuts=1)
    year = bars().filter(pl.col("ts") > LAST - timedelta(365))
    assert [one.result for one in probe.run(few, year)] == ["passed", "passed"]
    _, warm = probe.run(dataclasses.replace(few, lookback=60), year)
    assert warm.findings


def test_bars_too_short_for_a_decision_are_said_to_leave_it_untested(trainings: Trainings):
    signal, _ = probes_of(learner("lgbm_pooled"), trainings)
    short = bars().filter(pl.col("ts") > LAST - timedelta(40))
    ahead, _ = probe.run(signal, short)
    assert ahead.result == "not applicable"
    assert ahead.detail == "no row is known before the last decision; pass longer bars"


def test_names_choose_a_whole_version_or_single_things(trainings: Trainings):
    every = probe.all_probes(STRATEGIES, dict.fromkeys(STRATEGIES, BOUNDS), CALENDAR, trainings)
    count = sum(len(probe.feature_probes(one)) for one in FEATURE_SETS.values())
    count += sum(len(one.names) for one in LABEL_SETS.values())
    assert len(probe.choose(every, [])) == count + 2 * len(STRATEGIES)
    assert [one.name for one in probe.choose(every, ["momentum_topk", "ret_60d"])] == [
        "feature ret_60d v1",
        "signal of momentum_topk 1.0.0",
        "targets of momentum_topk 1.0.0",
    ]
    assert {one.name.split()[0] for one in probe.choose(every, ["v1"])} == {"feature", "label"}


def test_an_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match="nothing to check is called 'ret_61d'; use one of: v1, ret_1d, ret_5d"):
        probe.choose(probe.feature_probes(FEATURE_SETS["v1"]), ["ret_60d", "ret_61d"])


def test_made_bars_keep_to_the_listing_and_end_where_asked():
    made = bars()
    spans = {
        symbol: (first, last)
        for symbol, first, last in made.group_by("symbol")
        .agg(pl.col("ts").min().alias("first"), pl.col("ts").max().alias("last"))
        .iter_rows()
    }
    first = CALENDAR.offset(LAST, -499)
    assert spans == dict.fromkeys("ABC", (first, LAST)) | {"LATE": (date(2012, 1, 3), LAST)}
    assert made.equals(made.sort("symbol", "ts"))


@pytest.fixture
def quant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., int]]:
    """Runs the command line in this process, in a home of its own; returns the exit code."""
    for name, place in (("DAGSTER_HOME", PROJECT_ROOT), ("QUANT_HOME", tmp_path), ("QUANT_DAGSTER", tmp_path / "d")):
        monkeypatch.setenv(name, str(place))
    settings.cache_clear()
    trading_calendar.cache_clear()
    from quant_assets.cli import app
    from quant_assets.cli.session import Session

    def run(*words: str) -> int:
        monkeypatch.setattr(app, "session", Session())
        monkeypatch.setattr(sys, "argv", ["quant", *words])
        with pytest.raises(SystemExit) as ended:
            app.app()
        return int(ended.value.code or 0)

    yield run
    settings.cache_clear()
    trading_calendar.cache_clear()


def test_the_command_prints_what_passed_and_ends_with_0(quant: Callable[..., int], capsys: pytest.CaptureFixture[str]):
    assert quant("check", "leakage", "gap_open", "--synthetic") == 0
    shown = capsys.readouterr()
    assert "2 test(s) passed" in shown.out
    assert "1/1 feature gap_open v1" in shown.err


def test_the_command_ends_with_1_and_one_line_where_something_leaks(
    quant: Callable[..., int], capsys: pytest.CaptureFixture[str], faulty_features: FeatureSet
):
    assert quant("check", "leakage", "tomorrow", "gap_open", "--synthetic") == 1
    shown = capsys.readouterr()
    assert "feature tomorrow v9" in shown.out
    errors = [line for line in shown.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert errors[0].startswith("error: feature tomorrow v9: tomorrow of ")


def test_the_command_without_stored_bars_says_how_to_get_some(
    quant: Callable[..., int], capsys: pytest.CaptureFixture[str]
):
    assert quant("check", "leakage", "gap_open") == 1
    assert "no bars are stored; run `quant ingest` first, or pass --synthetic" in capsys.readouterr().err
