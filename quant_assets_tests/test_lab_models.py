"""Page Models: the registry, measures and importances over time, what came of predictions, and the page itself."""

import json
import math
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_assets.contracts import labels, predictions
from quant_assets.contracts import models as contract
from quant_assets.lab import model_figures as figures
from quant_assets.lab.views import models
from quant_assets.models.spec import ModelSpec
from quant_assets.models.store import ModelStore
from quant_assets.strategy.markets import load_markets
from quant_assets_tests.lab_platform import Lab, words
from quant_assets_tests.platform import SYMBOLS, Platform, small_platform

pytestmark = pytest.mark.slow

TRAINED = date(2023, 3, 1)
DAYS = [TRAINED + timedelta(days) for days in range(40)]
MADE = datetime(2023, 9, 1, 8, 30)


def told(trained: date = TRAINED, gains: dict[str, float] | None = None, **held: float | None) -> str:
    """What the registry keeps of a training as JSON."""
    return json.dumps(
        {
            "rows": 100,
            "training_date": trained.isoformat(),
            "calibration": None,
            "holdout": {"rows": 20, "fit_rows": 70, "from": "2023-02-01", **held},
            "feature_importance": gains or {"ret_5d": 3.0, "vol_20d": 1.0},
        }
    )


def row(number: int, text: str, scope: str = "universe", **changes: Any) -> dict[str, Any]:
    """A row of the registry."""
    return {
        "model_id": f"m_{number}",
        "experiment_id": "exp",
        "algo": "lightgbm",
        "task_id": "fwd_ret_60d.v1.regression",
        "scope": scope,
        "params": "{}",
        "train_from": date(2023, 1, 3),
        "train_to": date(2023, 2, 1),
        "feature_version": "v1",
        "label_version": "v1",
        "metrics": text,
        "path": f"m_{number}.txt",
        "sha256": "ab" * 32,
        "created_at": MADE,
        **changes,
    }


def rows(*some: dict[str, Any]) -> pl.DataFrame:
    return pl.DataFrame(list(some), schema=contract.TABLE.empty().schema)


def predicted(*cells: tuple[str, date, float, float | None]) -> pl.DataFrame:
    """Of (symbol, session, score, label)."""
    names = {"symbol": pl.String, "ts": pl.Date, "score": pl.Float64, "label_value": pl.Float64}
    return pl.DataFrame(list(cells), schema=names, orient="row")


def test_hold_out_measures_are_read_from_the_registry_and_one_that_could_not_be_had_is_null():
    found = figures.registered(rows(row(1, told(rank_ic=0.1, ic=None)), row(2, told())), "regression")
    assert found["rank_ic"].to_list() == [0.1, None]
    assert found["ic"].to_list() == [None, None]
    assert found["rows"].to_list() == [100, 100]
    assert found["training_date"].to_list() == [TRAINED, TRAINED]


def test_importance_is_the_share_of_the_gain_and_none_of_no_gain():
    later = date(2023, 4, 3)
    shares = figures.importances(rows(row(1, told()), row(2, told(later, {"ret_5d": 0.0}), "AAA")))
    assert shares.rows() == [
        ("universe", TRAINED, "ret_5d", 0.75),
        ("universe", TRAINED, "vol_20d", 0.25),
        ("AAA", later, "ret_5d", 0.0),
    ]


def test_the_most_important_feature_is_on_top_and_a_date_without_it_stays_empty():
    later = date(2023, 4, 3)
    shares = figures.importances(rows(row(1, told()), row(2, told(later, {"ret_5d": 1.0}))))
    drawn = figures.importance_figure(shares).data[0]
    assert list(drawn.y) == ["ret_5d", "vol_20d"]
    assert list(drawn.x) == [TRAINED.isoformat(), later.isoformat()]
    assert [list(one) for one in drawn.z] == [[0.75, 1.0], [0.25, None]]


def test_a_measure_has_a_line_per_scope_and_of_many_scopes_their_median():
    few = figures.registered(rows(*(row(at, told(rank_ic=0.1 * at), f"S{at}") for at in range(3))), "regression")
    assert [one.name for one in figures.metrics_figure(few, "rank_ic", "rank IC").data] == ["S0", "S1", "S2"]
    many = figures.registered(rows(*(row(at, told(rank_ic=0.1 * at), f"S{at}") for at in range(9))), "regression")
    drawn = figures.metrics_figure(many, "rank_ic", "rank IC").data
    assert drawn[-1].name == "median"
    assert list(drawn[-1].y) == pytest.approx([0.4])
    assert "9 scopes" in drawn[1].name


def test_probabilities_are_set_against_how_often_they_came_true():
    cells = [
        ("A", DAYS[0], 0.51, 1.0),
        ("B", DAYS[0], 0.53, -1.0),
        ("A", DAYS[1], 0.95, 0.1),
        ("B", DAYS[1], 0.5, None),
    ]
    found = figures.reliability(predicted(*cells), "score")
    assert found["predicted"].to_list() == pytest.approx([0.52, 0.95])
    assert found["realised"].to_list() == [0.5, 1.0]
    assert found["count"].to_list() == [2, 1]


def test_certainty_belongs_to_the_last_span_and_a_bound_to_the_span_above():
    found = figures.reliability(
        predicted(*(("A", day, p, 1.0) for day, p in zip(DAYS, (1.0, 0.96, 0.15), strict=False))), "score"
    )
    assert found["count"].to_list() == [1, 2]
    assert figures.reliability(predicted(("A", DAYS[0], 0.15, 1.0), ("A", DAYS[1], 0.16, 1.0)), "score").height == 1


chances = st.lists(st.tuples(st.floats(0, 1), st.booleans()), min_size=1, max_size=60)


@given(chances)
def test_every_settled_probability_is_in_one_span_and_spans_keep_the_means(some: list[tuple[float, bool]]):
    frame = predicted(*(("A", TRAINED + timedelta(at), p, 1.0 if came else 0.0) for at, (p, came) in enumerate(some)))
    found = figures.reliability(frame, "score")
    assert found["count"].sum() == len(some)
    for column, mean in (
        ("predicted", np.mean([p for p, _ in some])),
        ("realised", np.mean([came for _, came in some])),
    ):
        assert float((found[column] * found["count"]).sum()) / len(some) == pytest.approx(float(mean))


def test_the_brier_score_of_a_coin_is_a_quarter_and_of_the_base_rate_its_variance():
    frame = predicted(*(("A", day, 0.5, value) for day, value in zip(DAYS, (1.0, -1.0, 1.0, 1.0, None), strict=False)))
    assert figures.brier(frame, "score") == 0.25
    assert figures.brier_of_base_rate(frame) == pytest.approx(0.75 * 0.25)
    assert figures.brier(frame.head(0), "score") is None
    assert figures.brier_of_base_rate(frame.head(0)) is None


def test_settled_predictions_fall_into_ten_equal_parts_by_their_score():
    cells = [("A", day, float(at), float(at % 10 == 0)) for at, day in enumerate(DAYS[:20])]
    found = figures.deciles(predicted(*cells, ("B", DAYS[0], 99.0, None)))
    assert found["decile"].to_list() == list(range(1, 11))
    assert set(found["count"]) == {2}
    assert found["score"][0] == 0.5
    assert found["realised"].to_list() == [0.5, 0, 0, 0, 0, 0.5, 0, 0, 0, 0]
    assert figures.deciles(predicted(("A", DAYS[0], 1.0, 2.0)))["decile"].to_list() == [1]
    assert figures.deciles(predicted()).is_empty()


def test_the_rank_ic_of_a_session_needs_three_settled_symbols_that_differ():
    right = [(symbol, DAYS[0], score, score) for symbol, score in zip("ABC", (1.0, 2.0, 3.0), strict=True)]
    wrong = [(symbol, DAYS[1], score, -score) for symbol, score in zip("ABC", (1.0, 2.0, 3.0), strict=True)]
    best = [(symbol, DAYS[35], score, score**3) for symbol, score in zip("ABC", (1.0, 2.0, 3.0), strict=True)]
    open_ones = [("A", DAYS[2], 1.0, 1.0), ("B", DAYS[2], 2.0, 2.0), ("C", DAYS[2], 3.0, None)]
    alike = [(symbol, DAYS[3], 1.0, value) for symbol, value in zip("ABC", (1.0, 2.0, 3.0), strict=True)]
    found = figures.monthly_rank_ic(predicted(*right, *wrong, *best, *open_ones, *alike))
    assert found["month"].to_list() == [date(2023, 3, 1), date(2023, 4, 1)]
    assert found["ic"].to_list() == pytest.approx([0.0, 1.0])
    assert found["sessions"].to_list() == [2, 1]


def test_coverage_counts_what_was_scored_and_what_has_settled_and_draws_only_where_it_changes():
    cells = [(symbol, day, 0.1, 1.0 if day < DAYS[5] else None) for day in DAYS[:8] for symbol in "AB"]
    found = figures.coverage(predicted(*cells))
    assert found.row(0) == (DAYS[0], 2, 2)
    assert found.row(7) == (DAYS[7], 2, 0)
    scored, settled = figures.coverage_figure(found).data
    assert list(scored.y) == [2, 2, 2, 2]
    assert list(settled.y) == [2, 2, 0, 0]


def test_scores_that_are_all_alike_have_a_distribution_too():
    frame = predicted(("A", DAYS[0], 0.5, None), ("B", DAYS[0], 0.5, None))
    (bars,) = figures.scores_figure(frame, [("score", "score")], ".1%").data
    assert sum(bars.y) == 2
    assert not figures.scores_figure(frame.head(0), [("score", "score")], ".1%").data


def test_only_the_most_used_features_are_drawn():
    drawn = figures.splits_figure([f"f{at:02d}" for at in range(30)], list(range(30))).data[0]
    assert len(drawn.y) == 25
    assert drawn.y[0] == "f29"


def test_the_registry_says_which_files_are_missing_and_has_the_newest_training_first():
    later = date(2023, 4, 3)
    found = figures.registered(rows(row(1, told(rank_ic=0.1)), row(2, told(later)), row(3, told())), "regression")
    table = models.registry(found, {"m_1.txt": 1500, "m_3.txt": 0}, {"rank_ic": "rank IC"})
    assert table["Model"].to_list() == ["m_2", "m_1", "m_3"]
    assert table["File"].to_list() == ["✕ missing", "✓ 2 kB", "✕ missing"]
    assert table["rank IC"].to_list() == [None, 0.1, None]


def test_a_folder_of_models_that_is_not_there_has_no_files(tmp_path: Path):
    assert models.sizes(tmp_path / "none") == {}
    (tmp_path / "m.txt").write_text("abc")
    assert models.sizes(tmp_path) == {"m.txt": 3}


def test_files_that_are_not_what_was_registered_are_told(tmp_path: Path):
    store = ModelStore(tmp_path)
    path, sha256 = store.save("m_1", "tree")
    good = row(1, told(), path=path, sha256=sha256)
    assert models.changed_files(store, rows(good)) == []
    changed, missing = models.changed_files(store, rows(good | {"sha256": "0" * 64}, row(2, told())))
    assert "has changed" in changed
    assert "is missing" in missing


def test_an_experiment_is_told_in_words():
    some = {"experiment_id": "exp_1", "task_id": "direction_60d.v1.classification", "pooled": True}
    expected = "exp_1: classification of direction_60d (v1), one for all symbols; forest"
    assert models.named(some, ["forest"]) == expected
    assert models.named(some | {"pooled": False}, []).endswith("one per symbol; no strategy file asks for it any more")


def write_models(one: Platform, spec: ModelSpec, text: str = "tree") -> None:
    """Two trainings of an experiment, what they predicted for three symbols, and labels of all sessions but ten."""
    path, sha256 = ModelStore(one.settings.models_dir).save("m_1", text)
    common = {"experiment_id": spec.experiment_id, "task_id": spec.task_id, "params": spec.canonical_json()}
    sure = spec.task == "classification"
    held = (
        {"auc": 0.6, "brier": 0.2, "logloss": 0.7, "accuracy": 0.5}
        if sure
        else {"rank_ic": 0.1, "ic": 0.1, "rmse": 0.2}
    )
    trained = [
        row(1, told(**held), path=path, sha256=sha256, **common),
        row(2, told(DAYS[20], **held), train_to=DAYS[10], **common),
    ]
    generator = np.random.default_rng(3)
    scores = [
        (symbol, day, f"m_{1 + (at >= 20)}", spec.task_id, float(score), float(score) if sure else None, MADE)
        for at, day in enumerate(DAYS)
        for symbol, score in zip(SYMBOLS, generator.uniform(0.2, 0.8, 3), strict=True)
    ]
    known = [
        (symbol, day, spec.label, "v1", float(generator.normal()), 5, day + timedelta(7), MADE)
        for day in DAYS[:-10]
        for symbol in SYMBOLS
    ]
    with one.warehouse.write() as writer:
        writer.append(contract.TABLE, rows(*trained), run_id="run-1")
        for table, some in ((predictions.TABLE, scores), (labels.TABLE, known)):
            writer.append(table, pl.DataFrame(some, schema=table.empty().schema, orient="row"), run_id="run-1")
    one.warehouse.publish()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """The models of `forest`: one with a real file, and one without."""
    import lightgbm

    one = small_platform(tmp_path_factory.mktemp("trained"))
    spec = load_markets(one.settings)[0].strategies["forest"].model
    assert spec is not None
    x = np.random.default_rng(2).normal(size=(60, 2))
    data = lightgbm.Dataset(x, label=x[:, 0], feature_name=["ret_5d", "vol_20d"])
    booster = lightgbm.train({"verbosity": -1, "num_threads": 1, "min_data_in_leaf": 5}, data, 3)
    write_models(one, spec, str(booster.model_to_string()))
    return one


def drawn(test: Any) -> str:
    return " ".join(one.proto.id for one in test.get("plotly_chart"))


def test_an_empty_warehouse_says_who_trains_models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = small_platform(tmp_path)
    lab = Lab(one, monkeypatch)
    assert "quant pipeline run --strategy forest" in words(lab.draw(models.page))
    one.warehouse.prepare()
    one.warehouse.publish()
    told = words(lab.draw(models.page))
    assert "No model was trained yet" in told
    assert "model_score" in told


def test_the_models_of_an_experiment_and_what_came_of_them_are_shown(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    test = Lab(platform, monkeypatch).draw(models.page)
    assert {one.label: one.value for one in test.metric} == {
        "Models": "2",
        "Scopes": "1",
        "Trained on": "2 dates",
        "Files missing": "1",
    }
    for name in ("metrics", "importance", "deciles", "rank-ic", "coverage", "scores"):
        assert f"-{name}" in drawn(test), name
    shown = words(test)
    assert "90 predictions whose label has settled; 30 are still open" in shown
    assert "1 of 2 files are not in the folder of models" in shown
    assert test.dataframe[0].value["File"].to_list()[0] == "✕ missing"


def test_a_strategy_without_models_shows_all_experiments(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(models.page, strategy="ranks")
    assert test.selectbox(key="strategy").value == "all"
    assert Lab(platform, monkeypatch).draw(models.page, strategy="forest").selectbox(key="strategy").value == "forest"


def test_one_symbol_has_no_rank_ic_and_a_folder_of_models_may_be_gone(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    lab = Lab(platform, monkeypatch)
    every = models._predicted
    monkeypatch.setattr(models, "_predicted", lambda one: every(one).filter(pl.col("symbol") == "AAA"))
    monkeypatch.setattr(models, "ModelStore", lambda folder: ModelStore(folder / "gone"))
    test = lab.draw(models.page)
    assert "no session has three symbols" in words(test)
    assert "2 of 2 files are not in the folder of models" in words(test)


def test_files_are_checked_and_opened_only_when_asked(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(models.page)
    assert "-splits" not in drawn(test)
    next(one for one in test.button if one.label == "Check all files").click().run()
    assert "1 of 2 files are not what was registered" in words(test)
    test.toggle(key="open-file").set_value(True).run()
    assert "is missing" in words(test)
    test.selectbox(key="model").select("m_1").run()
    assert "The file is what was registered: 3 trees" in words(test)
    assert "-splits" in drawn(test)


def test_classification_has_a_reliability_curve_and_its_brier_score(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = small_platform(tmp_path)
    model = {"task": "classification", "label": "direction_60d"}
    one.write_strategy("forest", signal={"type": "model_score", "model": model})
    write_models(one, ModelSpec(task="classification", label="direction_60d"))
    test = Lab(one, monkeypatch).draw(models.page)
    assert not math.isnan(float(test.metric[0].value))
    assert "-reliability" in drawn(test)
    assert "Brier score, less is better: calibrated" in words(test)
    assert test.selectbox(key="strategy").options == ["all", "forest"]
