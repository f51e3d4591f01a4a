"""Model specs, the file store and walk-forward prediction, on markets with a planted signal."""

import errno
import hashlib
import json
import os
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import ValidationError

from quant_assets.core.errors import ConfigError, DataError, ModelError
from quant_assets.models import training, walkforward
from quant_assets.models.spec import ModelSpec
from quant_assets.models.store import ModelStore
from quant_assets.models.training import Rows, holdout_split, platt
from quant_assets.models.walkforward import MODELS_SCHEMA, PREDICTIONS_SCHEMA, WalkForward, known_rows, training_dates

EPOCH = date(1970, 1, 1)
SESSIONS = [day for day in (date(2019, 12, 2) + timedelta(n) for n in range(760)) if day.weekday() < 5]
SYMBOLS = ("AAA", "BBB", "CCC")
LISTED = {"AAA": SESSIONS[0], "BBB": SESSIONS[0], "CCC": date(2020, 12, 1)}
HORIZON = 10
FIRST, LAST = date(2020, 10, 15), date(2021, 12, 15)
NO_MODELS = pl.DataFrame(schema=MODELS_SCHEMA)


def spec(**changes: Any) -> ModelSpec:
    fields: dict[str, Any] = {
        "task": "classification",
        "label": "direction_10d",
        "min_train_rows": 120,
        "params": {"num_boost_round": 12, "learning_rate": 0.2, "num_leaves": 4, "min_data_in_leaf": 20},
    }
    return ModelSpec(**(fields | changes))


def market() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features `noise` and `signal`, of which the second drives the label; CCC lists a year late."""
    rng = np.random.default_rng(5)
    features, labels = [], []
    for symbol in SYMBOLS:
        days = [day for day in SESSIONS if day >= LISTED[symbol]]
        signal, noise, shock = rng.normal(size=(3, len(days)))
        features.append(pl.DataFrame({"symbol": symbol, "ts": days, "signal": signal, "noise": noise}))
        labels.append(
            pl.DataFrame(
                {
                    "symbol": symbol,
                    "ts": days[:-HORIZON],
                    "label_value": (0.03 * signal + 0.02 * shock)[:-HORIZON],
                    "known_on": days[HORIZON:],
                    "horizon": HORIZON,
                }
            )
        )
    return pl.concat(features), pl.concat(labels)


FEATURES, LABELS = market()


def walk(folder: Path, model: ModelSpec, **changes: Any) -> WalkForward:
    arguments: dict[str, Any] = {
        "features": FEATURES,
        "labels": LABELS,
        "symbols": SYMBOLS,
        "sessions": SESSIONS,
        "first": FIRST,
        "last": LAST,
        "store": ModelStore(folder),
        "existing": NO_MODELS,
    }
    return walkforward.run(model, **(arguments | changes))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def pooled(folder: Path) -> WalkForward:
    return walk(folder, spec())


@pytest.fixture(scope="module")
def per_symbol(folder: Path) -> WalkForward:
    return walk(folder, spec(scope="symbol"))


def metrics(result: WalkForward) -> list[dict[str, Any]]:
    return [json.loads(text) for text in result.models_used["metrics"]]


# The spec


def test_an_experiment_id_is_the_hash_of_the_canonical_spec() -> None:
    model = spec()
    assert model.experiment_id == "exp_" + hashlib.sha256(model.canonical_json().encode()).hexdigest()[:12]
    assert model.task_id == "direction_10d.v1.classification"
    assert list(json.loads(model.canonical_json())) == sorted(json.loads(model.canonical_json()))


def test_specs_that_mean_the_same_share_an_experiment_id() -> None:
    assert spec(features=["b", "a"]).experiment_id == spec(features=["a", "b"]).experiment_id
    assert spec(params={"lambda_l2": 1}).experiment_id == spec(params={"lambda_l2": 1.0}).experiment_id
    assert spec(seed=1).experiment_id != spec(seed=2).experiment_id


@pytest.mark.parametrize(
    "changes",
    [
        {"colour": 1},
        {"task": "ranking"},
        {"features": []},
        {"features": ["a", "a"]},
        {"holdout": 1.0},
        {"train_years": 0},
        {"params": {"num_leaves": 1}},
        {"params": {"learning_rate": float("nan")}},
        {"params": {"boosting": "dart"}},
    ],
)
def test_a_spec_refuses_what_it_cannot_mean(changes: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        spec(**changes)


# Training dates and what is known on them


def test_training_dates_are_the_first_sessions_of_the_calendars_own_periods() -> None:
    sessions = [date(2023, 12, 29), date(2024, 1, 2), date(2024, 1, 3), date(2024, 2, 1), date(2024, 4, 1)]
    assert training_dates(spec(retrain="yearly"), sessions) == [date(2024, 1, 2)]
    assert training_dates(spec(retrain="quarterly"), sessions) == [date(2024, 1, 2), date(2024, 4, 1)]
    assert training_dates(spec(retrain="monthly"), sessions) == [date(2024, 1, 2), date(2024, 2, 1), date(2024, 4, 1)]


@st.composite
def rows(draw: st.DrawFn) -> Rows:
    """Up to 40 rows of one symbol over 100 days, each with a label of its own horizon."""
    days = sorted(draw(st.lists(st.integers(0, 100), min_size=1, max_size=40)))
    horizons = draw(st.lists(st.integers(1, 50), min_size=len(days), max_size=len(days)))
    ts = np.array(days, np.int32)
    return Rows(
        names=("AAA",),
        symbol=np.zeros(len(ts), np.int32),
        ts=ts,
        known_on=ts + np.array(horizons, np.int32),
        x=np.zeros((len(ts), 1)),
        y=np.zeros(len(ts)),
    )


@settings(max_examples=60, deadline=None)
@given(rows(), st.integers(0, 120), st.none() | st.floats(0.02, 0.3))
def test_no_training_row_is_known_after_its_training_date(all_rows: Rows, day: int, years: float | None) -> None:
    known = known_rows(spec(train_years=years), all_rows, EPOCH + timedelta(day))
    assert (known.known_on <= day).all()
    inside = (all_rows.known_on <= day) & (all_rows.ts >= (day - round(365.25 * years) if years else 0))
    assert len(known) == inside.sum()


@settings(max_examples=60, deadline=None)
@given(rows(), st.floats(0, 0.9))
def test_no_label_of_the_fit_part_reaches_into_the_holdout(all_rows: Rows, share: float) -> None:
    fit_part, held = holdout_split(all_rows, share)
    assert not (fit_part & held).any()
    assert len(np.unique(all_rows.ts[held])) == round(share * len(np.unique(all_rows.ts)))
    if held.any():
        start = all_rows.ts[held].min()
        assert (all_rows.known_on[fit_part] < start).all()
        assert (all_rows.ts[~held] < start).all()
    else:
        assert fit_part.all()


def test_purging_drops_exactly_the_rows_whose_label_settles_in_the_holdout() -> None:
    ts = np.arange(1, 11, dtype=np.int32)
    ten = Rows(("AAA",), np.zeros(10, np.int32), ts, ts + np.int32(2), np.zeros((10, 1)), np.zeros(10))
    fit_part, held = holdout_split(ten, 0.2)
    assert ts[held].tolist() == [9, 10]
    assert ts[fit_part].tolist() == [1, 2, 3, 4, 5, 6]


def test_what_is_not_known_yet_changes_no_prediction(tmp_path: Path, pooled: WalkForward) -> None:
    until = date(2021, 7, 20)
    after = pl.col("known_on") > date(2021, 7, 1)
    result = walk(
        tmp_path,
        spec(),
        features=FEATURES.with_columns(pl.when(pl.col("ts") > until).then(9.0).otherwise("signal").alias("signal")),
        labels=LABELS.with_columns(pl.when(after).then(-pl.col("label_value")).otherwise("label_value")),
        last=until,
    )
    assert result.predictions.equals(pooled.predictions.filter(pl.col("ts") <= until))


def test_a_label_known_by_the_close_of_the_training_date_is_used(tmp_path: Path, pooled: WalkForward) -> None:
    day = date(2021, 7, 1)
    changed = LABELS.with_columns(
        pl.when(pl.col("known_on") == day).then(-pl.col("label_value")).otherwise("label_value").alias("label_value")
    )
    result = walk(tmp_path, spec(), labels=changed, first=date(2021, 4, 1), last=day)
    before, on = (result.models_used["model_id"][at] for at in (0, 1))
    assert before in pooled.models_used["model_id"]
    assert on not in pooled.models_used["model_id"]


# Predictions


@pytest.mark.parametrize(("first", "last"), [(FIRST, LAST), (date(2021, 7, 1), date(2021, 7, 1))])
def test_predictions_cover_exactly_the_dates_asked_for(
    folder: Path, pooled: WalkForward, first: date, last: date
) -> None:
    result = walk(folder, spec(), first=first, last=last, existing=pooled.new_models)
    wanted = FEATURES.filter(pl.col("ts").is_between(first, last)).select("symbol", "ts").sort("symbol", "ts")
    assert result.predictions.schema == PREDICTIONS_SCHEMA
    assert result.predictions.select("symbol", "ts").equals(wanted)
    assert result.skipped == []


def test_each_session_is_predicted_by_the_newest_model_trained_by_then(pooled: WalkForward) -> None:
    trained_on = {
        model: date.fromisoformat(said["training_date"])
        for model, said in zip(pooled.models_used["model_id"], metrics(pooled), strict=True)
    }
    dates = training_dates(spec(), SESSIONS)
    for ts, model in pooled.predictions.select("ts", "model_id").unique().iter_rows():
        assert trained_on[model] == max(day for day in dates if day <= ts)


def test_a_planted_signal_is_found_and_named(tmp_path: Path, pooled: WalkForward) -> None:
    regression = walk(tmp_path, spec(task="regression", label="fwd_ret_10d", retrain="yearly"))
    for said in metrics(pooled):
        assert said["holdout"]["auc"] > 0.75
        assert said["holdout"]["brier"] < 0.25
        assert said["feature_importance"]["signal"] > 2 * said["feature_importance"]["noise"]
    for said in metrics(regression):
        assert said["holdout"]["ic"] > 0.6
        assert said["holdout"]["rank_ic"] > 0.6
    joined = pooled.predictions.join(LABELS, on=["symbol", "ts"])
    hits = ((joined["score"] > 0.5) == (joined["label_value"] > 0)).mean()
    assert isinstance(hits, float)
    assert hits > 0.7
    assert regression.predictions["calibrated_score"].null_count() == len(regression.predictions)


def test_a_symbol_that_lists_late_costs_the_others_nothing(folder: Path, per_symbol: WalkForward) -> None:
    others = ["AAA", "BBB"]
    without = walk(folder, spec(scope="symbol"), symbols=others, existing=per_symbol.new_models)
    assert without.trained == 0
    assert without.predictions.equals(per_symbol.predictions.filter(pl.col("symbol").is_in(others)))


def test_a_symbol_has_no_model_of_its_own_before_enough_labels_are_known(per_symbol: WalkForward) -> None:
    assert per_symbol.predictions.filter(pl.col("symbol") == "CCC")["ts"].min() == date(2021, 7, 1)
    assert per_symbol.skipped == [
        "CCC 2020-10-01: 0 labelled rows known, min_train_rows is 120",
        "CCC 2021-01-01: 14 labelled rows known, min_train_rows is 120",
        "CCC 2021-04-01: 78 labelled rows known, min_train_rows is 120",
    ]
    assert set(per_symbol.models_used["scope"]) == set(SYMBOLS)


def test_a_pooled_model_scores_a_new_symbol_from_its_first_session(pooled: WalkForward) -> None:
    assert pooled.predictions.filter(pl.col("symbol") == "CCC")["ts"].min() == LISTED["CCC"]


def test_nothing_to_learn_from_gives_an_empty_frame_and_the_reasons(tmp_path: Path) -> None:
    short = walk(tmp_path, spec(min_train_rows=10_000), last=date(2020, 12, 31))
    assert short.predictions.schema == PREDICTIONS_SCHEMA
    assert short.predictions.is_empty()
    assert short.models_used.schema == MODELS_SCHEMA
    assert short.skipped == ["universe 2020-10-01: 418 labelled rows known, min_train_rows is 10000"]
    one_class = walk(tmp_path, spec(), labels=LABELS.with_columns(label_value=1.0), last=date(2020, 12, 31))
    assert one_class.skipped == ["universe 2020-10-01: all 418 labels known are of one class"]
    early = walk(tmp_path, spec(), first=SESSIONS[0], last=SESSIONS[5])
    assert early.skipped == ["sessions before 2020-01-01: no quarterly training date lies before them"]
    assert not list(tmp_path.iterdir())


def test_missing_values_are_handled_and_rows_without_any_are_left_out(tmp_path: Path) -> None:
    day = date(2021, 7, 5)
    here = (pl.col("symbol") == "AAA") & (pl.col("ts") == day)
    half = FEATURES.with_columns(pl.when(here).then(None).otherwise("noise").alias("noise"))
    none = half.with_columns(pl.when(here).then(float("nan")).otherwise("signal").alias("signal"))
    window = {"first": date(2021, 7, 1), "last": day}
    assert here_count(walk(tmp_path, spec(), features=half, **window), day) == 3
    assert here_count(walk(tmp_path, spec(), features=none, **window), day) == 2


def here_count(result: WalkForward, day: date) -> int:
    scores = result.predictions.filter(pl.col("ts") == day)["score"]
    assert scores.is_finite().all()
    return len(scores)


# Same input, same output


def test_an_identical_training_is_reused_and_scores_bit_for_bit_the_same(
    folder: Path, pooled: WalkForward, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (pooled.trained, pooled.reused) == (5, 0)
    monkeypatch.setattr(walkforward, "fit", None)
    again = walk(folder, spec(), existing=pooled.new_models)
    assert (again.trained, again.reused) == (0, 5)
    assert again.new_models.is_empty()
    assert again.models_used.equals(pooled.models_used)
    assert again.predictions.equals(pooled.predictions)


def test_training_again_on_shuffled_input_gives_the_same_files_and_scores(
    folder: Path, tmp_path: Path, pooled: WalkForward, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walkforward, "_WORKERS", 1)
    again = walk(
        tmp_path,
        spec(),
        features=FEATURES.select("noise", "ts", "signal", "symbol").sample(fraction=1, shuffle=True, seed=1),
        labels=LABELS.sample(fraction=1, shuffle=True, seed=2),
        symbols=SYMBOLS[::-1],
    )
    assert again.trained == 5
    assert again.models_used.equals(pooled.models_used)
    assert again.predictions.equals(pooled.predictions)
    for name in pooled.models_used["path"]:
        assert (tmp_path / name).read_bytes() == (folder / name).read_bytes()


def test_scores_do_not_depend_on_the_slice_they_are_asked_in(folder: Path, per_symbol: WalkForward) -> None:
    for day in (date(2020, 12, 31), date(2021, 1, 1), date(2021, 8, 9)):
        alone = walk(folder, spec(scope="symbol"), first=day, last=day, existing=per_symbol.new_models)
        assert alone.trained == 0
        assert alone.predictions.equals(per_symbol.predictions.filter(pl.col("ts") == day))


def test_a_model_does_not_depend_on_lightgbms_thread_count(monkeypatch: pytest.MonkeyPatch) -> None:
    import lightgbm

    trees = []
    train = lightgbm.train
    for threads in (1, 2):
        monkeypatch.setattr(
            lightgbm, "train", lambda params, *a, n=threads, **k: train(params | {"num_threads": n}, *a, **k)
        )
        text = training._train(spec(), ["a", "b"], FEATURES.select("noise", "signal").to_numpy(), labels_of_features())
        trees.append(text[: text.index("parameters:")])
    assert trees[0] == trees[1]


def labels_of_features() -> training.Floats:
    return (FEATURES["signal"] > 0).cast(pl.Float64).to_numpy()


def test_a_restated_training_row_makes_another_model(folder: Path, pooled: WalkForward) -> None:
    first = (pl.col("symbol") == "AAA") & (pl.col("ts") == SESSIONS[0])
    restated = FEATURES.with_columns(pl.when(first).then(0.123).otherwise("noise").alias("noise"))
    result = walk(folder, spec(), features=restated, existing=pooled.new_models, last=date(2020, 12, 31))
    assert (result.trained, result.reused) == (1, 0)
    assert result.models_used["model_id"][0] not in pooled.models_used["model_id"]


# Calibration


def test_calibrated_scores_are_probabilities_in_the_order_of_the_scores(pooled: WalkForward) -> None:
    assert pooled.predictions["calibrated_score"].is_between(0, 1).all()
    for said in metrics(pooled):
        assert said["calibration"]["slope"] > 0
    for _, frame in pooled.predictions.group_by("model_id"):
        ordered = frame.sort("score")
        assert (ordered["calibrated_score"].diff().drop_nulls() >= 0).all()


@settings(max_examples=25, deadline=None)
@given(hnp.arrays(np.float64, 30, elements=st.floats(-3, 3)), hnp.arrays(np.bool_, 30))
def test_calibration_is_monotone_and_strictly_between_0_and_1(raw: training.Floats, outcome: Any) -> None:
    y = outcome.astype(np.float64)
    calibration = platt(raw, y)
    if not 0 < y.sum() < 30:
        assert calibration is None
        return
    assert calibration is not None
    p = calibration.apply(np.sort(raw))
    assert (np.diff(p) >= 0).all()
    assert ((p > 0) & (p < 1)).all()


def test_calibration_solves_the_two_point_case_exactly() -> None:
    raw, y = np.array([-1.0] * 4 + [1.0] * 4), np.array([0.0] * 4 + [1.0] * 4)
    calibration = platt(raw, y)
    assert calibration is not None
    # Smoothed targets are 1/6 and 5/6, and two free parameters meet two points: log-odds of -log 5 and log 5.
    assert calibration.slope == pytest.approx(np.log(5), abs=1e-6)
    assert calibration.intercept == pytest.approx(0, abs=1e-6)


def test_scores_that_rank_the_holdout_backwards_calibrate_to_a_constant() -> None:
    calibration = platt(np.array([1.0] * 4 + [-1.0] * 4), np.array([0.0] * 4 + [1.0] * 4))
    assert calibration == training.Calibration(0.0, 0.0)
    assert platt(np.ones(4), np.array([0.0, 1.0, 0.0, 1.0])) == training.Calibration(0.0, 0.0)


def test_a_holdout_of_one_class_leaves_the_calibrated_score_null(tmp_path: Path) -> None:
    rising = pl.when(pl.col("ts") > date(2020, 7, 1)).then(0.01).otherwise("label_value")
    result = walk(tmp_path, spec(), labels=LABELS.with_columns(label_value=rising), last=date(2020, 12, 31))
    said = metrics(result)[0]
    assert said["calibration"] is None
    assert said["holdout"]["auc"] is None
    assert said["holdout"]["logloss"] > 0
    assert result.predictions["calibrated_score"].null_count() == len(result.predictions) > 0


# The registry row and the file


def test_a_registry_row_says_what_the_model_was_made_of(pooled: WalkForward) -> None:
    row = pooled.new_models.row(0, named=True)
    said = json.loads(row["metrics"])
    known = LABELS.filter(pl.col("known_on") <= date(2020, 10, 1))
    assert row["experiment_id"] == "exp_" + hashlib.sha256(row["params"].encode()).hexdigest()[:12]
    assert (row["train_from"], row["train_to"]) == (known["ts"].min(), known["ts"].max())
    assert (row["scope"], row["task_id"]) == ("universe", "direction_10d.v1.classification")
    assert row["model_id"] == "m_" + said["fingerprint"][:16]
    assert said["training_date"] == "2020-10-01"
    assert said["rows"] == len(known)
    held = round(0.2 * known["ts"].n_unique())
    assert said["holdout"]["rows"] == 2 * held
    assert said["holdout"]["fit_rows"] == 2 * (known["ts"].n_unique() - held - HORIZON)
    assert set(said["holdout"]) == {"rows", "fit_rows", "from", "auc", "logloss", "accuracy", "brier"}


def test_a_tampered_model_file_is_refused_with_the_remedy(tmp_path: Path) -> None:
    window = {"first": date(2021, 7, 1), "last": date(2021, 7, 2)}
    made = walk(tmp_path, spec(), **window)
    file = tmp_path / made.new_models["path"][0]
    good = made.new_models["sha256"][0]
    file.write_text(file.read_text().replace("leaf_value=", "leaf_value=1", 1))
    bad = hashlib.sha256(file.read_bytes()).hexdigest()
    with pytest.raises(ModelError, match="delete the file and rerun the training") as caught:
        walk(tmp_path, spec(), existing=made.new_models, **window)
    assert all(part in str(caught.value) for part in (str(file), good, bad))
    file.unlink()
    again = walk(tmp_path, spec(), existing=made.new_models, **window)
    assert (again.trained, again.new_models["sha256"][0]) == (1, good)
    assert again.predictions.equals(made.predictions)


def test_a_saved_model_reads_back_and_leaves_no_other_file(tmp_path: Path) -> None:
    store = ModelStore(tmp_path / "deep" / "models")
    path, sha256 = store.save("m_1", "tree\n")
    assert store.load(path, sha256) == "tree\n"
    assert store.exists(path)
    assert [file.name for file in store.folder.iterdir()] == ["m_1.txt"]
    with pytest.raises(ModelError, match="is missing"):
        store.load("m_2.txt", sha256)


def test_a_full_disk_leaves_the_old_model_and_nothing_half_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ModelStore(tmp_path)
    path, sha256 = store.save("m_1", "old")

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ModelError, match="No space left on device; free space"):
        store.save("m_1", "new")
    assert store.load(path, sha256) == "old"
    assert len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize("path", ["../outside.txt", "/etc/hostname", "a/../../b"])
def test_a_path_that_leaves_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    store = ModelStore(tmp_path / "models")
    with pytest.raises(ModelError, match="leads outside"):
        store.load(path, "0" * 64)
    with pytest.raises(ModelError, match="no file name"):
        store.save(path, "text")


# Bad input


def test_bad_input_gets_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dates reversed"):
        walk(tmp_path, spec(), first=LAST, last=FIRST)
    with pytest.raises(ConfigError, match="sessions end before 2021-12-15"):
        walk(tmp_path, spec(), sessions=SESSIONS[:50])
    with pytest.raises(ConfigError, match=r"feature momentum is not in version v1 \(there: noise, signal\)"):
        walk(tmp_path, spec(features=["momentum", "noise"]))
    with pytest.raises(DataError, match="AAA 2019-12-02 has two rows"):
        walk(tmp_path, spec(), features=pl.concat([FEATURES, FEATURES.head(1)]))
    with pytest.raises(DataError, match="label of AAA 2019-12-02 is known on 2019-12-02"):
        walk(tmp_path, spec(), labels=LABELS.with_columns(known_on="ts"))
    assert not list(tmp_path.iterdir())


def test_progress_tells_each_model_in_order(folder: Path, pooled: WalkForward) -> None:
    lines: list[str] = []
    walk(folder, spec(), existing=pooled.new_models, progress=lines.append)
    assert [line.split(":")[0] for line in lines] == [f"model {n} of 5" for n in range(1, 6)]
    assert lines[0].startswith("model 1 of 5: universe 2020-10-01: reused, ")
