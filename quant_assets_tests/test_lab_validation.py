"""Page Validation: the verdict table, the figures of a validation, the cells of a sweep, and the page itself."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_assets.contracts import (
    backtest_equity,
    backtest_findings,
    backtest_summary,
    sweep_results,
    trials,
    validation_curves,
    validation_results,
)
from quant_assets.contracts.schema import Table
from quant_assets.core.calendar import trading_calendar
from quant_assets.lab import verdict_figures as figures
from quant_assets.lab.sweep_cells import METRICS, Cells, best_of, cells_figure, parallel_figure
from quant_assets.lab.validations import NONE, Stored, Validation
from quant_assets.lab.views import validation
from quant_assets.strategy.ledger import Ledger, family
from quant_assets.strategy.markets import load_markets
from quant_assets.strategy.sweep import cells_of
from quant_assets.validation.pbo import Overfitting
from quant_assets.validation.sharpe import expected_maximum
from quant_assets.validation.verdict import Thresholds
from quant_assets_tests.lab_dagster import FakeDagster
from quant_assets_tests.lab_platform import Lab, words
from quant_assets_tests.platform import END, Platform, small_platform

pytestmark = pytest.mark.slow

FIRST = date(2023, 3, 1)
MADE = datetime(2023, 9, 1, 8, 30)
EARLIER = MADE - timedelta(days=1)
SESSIONS = trading_calendar("XNYS").between(FIRST, END)
JUDGED = ["method", "measure", "value", "verdict", "to_ts", "created_at"]


def judged(*rows: Sequence[Any]) -> pl.DataFrame:
    kinds = [pl.String, pl.String, pl.Float64, pl.String, pl.Date, pl.Datetime]
    return pl.DataFrame(list(rows), schema=dict(zip(JUDGED, kinds, strict=True)), orient="row")


def curve(name: str, returns: Sequence[float | None]) -> pl.DataFrame:
    days = [FIRST + timedelta(days) for days in range(len(returns))]
    return pl.DataFrame({"curve": name, "ts": days, "ret": pl.Series(returns, dtype=pl.Float64)})


def stored(*rows: tuple[str, str, float | None, Mapping[str, Any]]) -> Stored:
    frame = pl.DataFrame(
        [(method, measure, value, None, None, json.dumps(details)) for method, measure, value, details in rows],
        schema={
            **dict.fromkeys(["method", "measure"], pl.String),
            "value": pl.Float64,
            **dict.fromkeys(["verdict", "threshold", "details"], pl.String),
        },
        orient="row",
    )
    return Stored.of(frame)


def test_every_judged_measure_has_words_and_a_limit():
    assert {"degradation", "pbo", "deflated_sharpe", "deflated_probability"} < {name for _, name in validation.MEASURES}
    assert len(validation.MEASURES) == len(vars(Thresholds()))
    assert set(validation.MARKS) == set(validation_results.VERDICTS)
    assert set(validation.SEVERITIES) == set(backtest_findings.SEVERITIES)


def test_the_verdict_table_has_signs_and_words_and_the_age_of_the_verdict():
    rows = judged(
        ("verdict", "overall", None, "caution", END, MADE),
        ("pbo", "pbo", 0.672, "fail", END, MADE),
        ("dsr", "deflated_probability", None, None, END, MADE),
    )
    table = validation.overview({"new": judged(), "old": rows}, MADE + timedelta(days=3))
    new, old = table.to_dicts()
    assert new == {"Strategy": "new", "Verdict": f"{NONE} not judged"} | dict.fromkeys(list(new)[2:], "")
    assert old["Verdict"] == "! caution"
    assert old["PBO"] == "✕ 0.67"
    assert old["DSR prob."] == f"{NONE} not judged"
    assert (old["Age"], old["Seen until"]) == ("3 days", "2023-08-31")


def test_a_verdict_has_its_colour_behind_it():
    table = pl.DataFrame({"Strategy": ["a", "b"], "PBO": ["✕ 0.67", "✓ 0.10"]})
    html = validation.tinted(table).to_html()
    assert html.count("background-color") == 2


def test_an_unknown_verdict_is_not_judged():
    assert "not judged" in validation.badge(None)
    assert "not judged" in validation.badge("<b>")
    assert "green" in validation.badge("pass")


@pytest.mark.parametrize(("days", "told"), [(0, "today"), (1, "1 day"), (40, "40 days")])
def test_an_age_is_in_whole_days(days: int, told: str):
    assert validation.age(MADE, MADE + timedelta(days=days, hours=5)) == told


def test_growth_multiplies_returns_curve_by_curve_and_a_ruin_stays_visible():
    both = pl.concat([curve("a", [0.1, -0.5]), curve("b", [None, -1.2, 0.5])])
    assert figures.grown(both)["growth"].to_list() == pytest.approx([1.1, 0.55, 1.0, 0.001, 0.001])


def test_a_method_that_only_says_why_it_measured_nothing_has_nothing_to_draw():
    told = stored(("pbo", "pbo", None, {"note": "one configuration"}), ("wfa", "sharpe", 1.5, {"windows": []}))
    assert not told.has("pbo")
    assert told.has("wfa")
    assert told.shown("wfa", "sharpe") == "1.50"
    assert told.shown("pbo", "pbo") == NONE


WINDOWS = [
    {"test_first": "2023-03-01", "test_last": "2023-03-04", "oos_return": 0.1},
    {"test_first": "2023-03-03", "test_last": "2023-03-06", "oos_return": -0.1},
    {"test_first": "2023-03-05", "test_last": "2023-03-08", "oos_return": None},
]


def test_the_walk_forward_shades_every_other_window_and_shows_what_each_returned():
    both = figures.grown(pl.concat([curve("walk_forward", [0.1] * 6), curve("as written", [0.0] * 6)]))
    figure = figures.walk_figure(both, WINDOWS)
    written, walked, bars = figure.data
    assert (written.name, walked.name) == ("as written", "walk-forward")
    assert walked.y[-1] == pytest.approx(1.1**6)
    assert list(bars.y) == [0.1, -0.1, None]
    assert bars.marker.color[0] != bars.marker.color[1]
    assert [(shape.x0, shape.x1) for shape in figure.layout.shapes] == [("2023-03-01", "2023-03-03")]


def test_out_of_sample_is_shaded_from_the_split_to_the_end():
    figure = figures.split_figure(figures.grown(curve("as written", [0.1] * 5)), date(2023, 3, 3))
    shade = next(shape for shape in figure.layout.shapes if shape.type == "rect")
    assert (shade.x0, shade.x1) == ("2023-03-03", "2023-03-05")
    assert [one.name for one in figure.data] == ["as written"]


def test_of_many_paths_some_are_drawn_that_are_evenly_spread_over_their_ratios():
    assert figures.shown_paths([0.5, None, -1.0]) == ["path_3", "path_1", "path_2"]
    many = figures.shown_paths([float(number) for number in range(200)])
    assert len(many) == 40
    assert (many[0], many[-1]) == ("path_1", "path_200")


@given(st.integers(1, 500), st.integers(1, 60))
def test_an_even_spread_has_both_ends_and_no_more_than_asked_for(count: int, shown: int):
    places = figures.spread(count, shown)
    assert len(places) <= shown
    assert places[0] == 0
    assert shown == 1 or places[-1] == count - 1


def test_few_paths_are_dots_and_many_a_histogram():
    assert figures.path_sharpes_figure([0.1, 0.2, None], 0.3).data[0].type == "scatter"
    assert figures.path_sharpes_figure([0.1] * 30, math.nan).data[0].type == "histogram"
    assert len(figures.path_sharpes_figure([0.1, 0.2, None], 0.3).layout.shapes) == 2
    assert len(figures.path_sharpes_figure([None], math.nan).layout.shapes) == 0


def test_a_span_across_the_median_is_divided_so_that_the_share_below_is_the_pbo():
    bars = figures.logit_bars([1, 3, 2], [-3.0, -1.0, 1.0, 3.0], 2 / 6)
    assert bars["below"].to_list() == [1, 1, 0]
    assert bars["above"].to_list() == [0, 2, 2]
    assert bars["middle"].to_list() == [-2.0, 0.0, 2.0]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=200))
def test_the_red_share_of_the_logits_is_the_pbo_whatever_the_spans(logits: list[float]):
    counts, edges = np.histogram(logits, bins=40)
    pbo = float(np.mean(np.array(logits) <= 0))
    bars = figures.logit_bars(counts.tolist(), edges.tolist(), pbo)
    assert bars["below"].sum() == round(pbo * len(logits))
    assert (bars["below"] + bars["above"]).to_list() == counts.tolist()


def test_the_halvings_are_drawn_with_their_line():
    ratios = np.array([0.0, 1.0, 2.0, np.nan])
    found = Overfitting(
        0.5, np.zeros(4), ratios, 1 - ratios, -1.0, 1.0, 1.0, 0.25, 3, 2, np.zeros(4, np.int64)
    )  # fmt: skip
    dots, line = figures.degradation_figure(found).data
    assert list(dots.x) == [0.0, 1.0, 2.0]
    assert list(line.y) == [1.0, -1.0]


@pytest.mark.parametrize("trials", [2, 20, 500])
def test_the_density_of_the_luckiest_has_the_mean_that_was_expected(trials: int):
    best = 0.8
    density = figures.luck(trials, best)
    step = density["sharpe"].diff().drop_nulls().mean()
    assert isinstance(step, float)
    assert density["density"].sum() * step == pytest.approx(1.0, abs=0.03)
    mean = float((density["sharpe"] * density["density"]).sum()) * step
    assert mean == pytest.approx(best, rel=0.12 if trials == 2 else 0.04)


def test_one_trial_leaves_nothing_to_luck():
    assert figures.luck(1, 0.0).is_empty()
    assert expected_maximum(1, 1.0) == 0.0
    assert [one.name for one in figures.deflated_figure(0.7, 1, 0.0, None).data] == ["observed"]
    undefined = {"low": None, "high": None, "confidence": 0.95}
    assert not figures.deflated_figure(math.nan, math.nan, math.nan, undefined).data


def test_the_observed_ratio_stands_beside_luck_with_its_interval():
    figure = figures.deflated_figure(0.7, 50, 0.4, {"low": 0.1, "high": 1.3, "confidence": 0.9})
    luck, interval, observed = figure.data
    assert luck.name == "best of 50 trials without skill"
    assert interval.name.startswith("90% interval")
    assert list(interval.x) == [0.1, 1.3]
    assert list(observed.x) == [0.7]


GRID = [{"a.fast": fast, "b.kind": kind} for fast in (5, 10) for kind in ("x", "y")]


def cells(values: Sequence[float | None], changes: Sequence[Mapping[str, Any]] = GRID, own: int | None = 1) -> Cells:
    return Cells(tuple(changes), pl.DataFrame({"sharpe": pl.Series(values, dtype=pl.Float64)}), own)


def test_the_mean_over_the_other_parameters_is_drawn_or_the_best():
    extended = [{**one, "c.cap": cap} for cap in (1, 2) for one in GRID]
    some = cells([1.0, 2.0, 3.0, 4.0, 3.0, 0.0, None, 0.0], extended)
    by_name = {one.name: one for one in some.dimensions("sharpe")}
    fast, kind = by_name["a.fast"], by_name["b.kind"]
    mean, told = cells_figure(some, kind, fast, "sharpe", best=False)
    assert [list(row) for row in mean.data[0].z] == [[2.0, 3.0], [1.0, 2.0]]
    assert told == "Sharpe ratio of 8 cells, mean over cap"
    best, told = cells_figure(some, kind, fast, "sharpe", best=True)
    assert [list(row) for row in best.data[0].z] == [[3.0, 3.0], [2.0, 4.0]]
    assert told.endswith("best over cap")


def test_the_strategys_own_cell_is_framed_and_one_parameter_makes_one_row():
    some = cells([1.0, 2.0], [{"a.fast": 5}, {"a.fast": 10}])
    figure, told = cells_figure(some, None, some.dimensions("sharpe")[0], "sharpe", best=False)
    frame = figure.layout.shapes[0]
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (0.5, 1.5, -0.5, 0.5)
    assert told.endswith("one cell at each place")
    nobody, _ = cells_figure(replace(some, own=None), None, some.dimensions("sharpe")[0], "sharpe", best=False)
    assert not nobody.layout.shapes


def test_the_best_of_what_should_be_low_is_the_lowest_and_unknown_cells_stay_empty():
    some = cells([3.0, None, 1.0, None])
    by_name = {one.name: one for one in some.dimensions("sharpe")}
    grid = best_of(by_name["a.fast"], by_name["b.kind"], some.values("sharpe"), more=False)
    assert grid[:, 0].tolist() == [3.0, 1.0]
    assert np.isnan(grid[:, 1]).all()


def test_every_measure_of_a_cell_is_a_column_of_the_contract():
    assert set(METRICS) <= {column.name for column in sweep_results.METRICS}


def test_all_parameters_at_once_have_an_axis_each_and_one_for_the_measure():
    axes = parallel_figure(cells([1.0, 2.0, None, 4.0]), "sharpe").data[0].dimensions
    assert [one.label for one in axes] == ["fast", "kind", "Sharpe ratio"]
    assert list(axes[2]["values"]) == [1.0, 2.0, 4.0]


def test_a_choice_is_told_in_words():
    assert validation.changed({"portfolio.top_k": 3, "rebalance.frequency": "weekly"}) == "top_k 3, frequency weekly"
    assert validation.changed({}) == "as written"


SWEEP = {"parameters": {"portfolio.top_k": [1, 2], "rebalance.frequency": ["weekly", "monthly"]}}
RUN, BACKTEST, DOCTOR, SHORT = "11111111-run", "22222222-backtest", "33333333-doctor", "44444444-short"


def whole(table: Table, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Rows of `table`; what they leave out is null, and of columns that may not be, nothing: 0, or an empty text."""
    empty = {"VARCHAR": "", "DOUBLE": 0.0, "BIGINT": 0, "TIMESTAMP": MADE, "DATE": FIRST}
    usual = {column.name: None if column.nullable else empty[column.type] for column in table.columns}
    return pl.DataFrame([{**usual, **row} for row in rows], schema=table.empty().schema)


def results() -> list[dict[str, Any]]:
    window = {
        "train_first": "2023-03-01", "train_last": "2023-04-28", "test_first": "2023-05-01", "test_last": "2023-05-19",
        "chosen": {"portfolio.top_k": 1, "rebalance.frequency": "weekly"}, "is_sharpe": 1.0, "oos_sharpe": None,
        "oos_return": 0.02,
    }  # fmt: skip
    rows: list[tuple[str, str, float | None, str | None, dict[str, Any]]] = [
        ("is_oos", "degradation", 0.2, "pass", {"split": "2023-07-03", "chosen": window["chosen"], "profitable": True}),
        ("is_oos", "is_sharpe", 1.5, None, {}),
        ("wfa", "sharpe", 0.7, "caution", {"windows": [window]}),
        ("wfa", "consistency", 1.0, "pass", {}),
        ("cpcv", "median_sharpe", 0.5, None, {"sharpes": [0.4, 0.6], "retrained": False}),
        ("pbo", "pbo", 0.5, "caution", {"logits": {"counts": [1, 1], "edges": [-1.0, 0.0, 1.0]}, "blocks": 4}),
        ("dsr", "deflated_sharpe", 0.1, "fail", {"interval": {"low": 0.0, "high": 1.1, "confidence": 0.95}}),
        ("dsr", "deflated_probability", 0.6, "fail", {}),
        ("dsr", "sharpe", 0.6, None, {}),
        ("dsr", "trials", 4.0, None, {}),
        ("dsr", "expected_maximum", 0.5, None, {}),
        ("verdict", "overall", None, "fail", {"missing": {"sweep": "cells that could not be run"}}),
    ]
    return [
        {"method": method, "measure": measure, "value": value, "verdict": verdict, "details": json.dumps(details)}
        | {"threshold": "pass < 0.3, fail > 0.5" if verdict and method != "verdict" else None}
        for method, measure, value, verdict, details in rows
    ]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """`ranks`, a strategy with four cells, was backtested and validated; `forest` was not."""
    one = small_platform(tmp_path_factory.mktemp("validated"))
    one.write_strategy("ranks", sweep=SWEEP)
    (market,) = load_markets(one.settings)
    spec = market.strategies["ranks"]
    variants = cells_of(spec, 10).cells
    ledger = Ledger(family(spec, market.name), market.layout.universe.names, FIRST, END)
    returns = np.random.default_rng(1).normal(0.001, 0.01, (4, len(SESSIONS)))
    tried = ledger.rows([cell.spec for cell in variants], [0.5, 0.6, 0.7, 0.8], returns, "backtest", MADE)
    own = ledger.trial_id(spec)
    place = tried["trial_id"].to_list().index(own)
    common = {"strategy_id": "ranks", "version": "1.0.0", "from_ts": FIRST, "to_ts": END, "created_at": MADE}
    common |= {"backtest_run_id": BACKTEST, "initial_cash": 1e5, "trial_id": own}

    def rows(table: Table, some: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
        names = {column.name for column in table.columns}
        shared = {name: value for name, value in common.items() if name in names}
        return whole(table, [{**shared, **row} for row in some])

    paths = {"walk_forward": SESSIONS[40:], "path_1": SESSIONS, "path_2": SESSIONS}
    with one.warehouse.write() as writer:
        writer.append(trials.TABLE, tried, run_id=BACKTEST)
        writer.append(backtest_summary.TABLE, rows(backtest_summary.TABLE, [{}]), run_id=BACKTEST)
        equity = [{"ts": day, "ret": float(value)} for day, value in zip(SESSIONS, returns[place], strict=True)]
        writer.append(backtest_equity.TABLE, rows(backtest_equity.TABLE, equity), run_id=BACKTEST)
        writer.append(validation_results.TABLE, rows(validation_results.TABLE, results()), run_id=RUN)
        drawn = [{"curve": name, "ts": day, "ret": 0.001} for name, days in paths.items() for day in days]
        writer.append(validation_curves.TABLE, rows(validation_curves.TABLE, drawn), run_id=RUN)
        finding = {"finding": "no_costs", "severity": "warning", "evidence": "costs are <b>0</b>", "remedy": "add some"}
        found = rows(backtest_findings.TABLE, [finding | {"details": "{}"}])
        writer.append(backtest_findings.TABLE, found, run_id=RUN)
        writer.append(backtest_findings.TABLE, found.with_columns(created_at=EARLIER), run_id=DOCTOR)
        note = json.dumps({"note": "start the backtest earlier"})
        nothing = {"threshold": "pass > 1, fail < 0.5", "details": note, "created_at": EARLIER}
        short = [{"method": method, "measure": name, **nothing} for method, name in validation.MEASURES]
        writer.append(validation_results.TABLE, rows(validation_results.TABLE, short), run_id=SHORT)
        swept = [
            {
                "sweep_id": "s1",
                "cell": cell.number,
                "params": json.dumps(cell.changes),
                "trial_id": trial,
                "sharpe": 0.1,
            }
            for cell, trial in zip(variants, tried["trial_id"], strict=True)
        ]
        writer.append(sweep_results.TABLE, rows(sweep_results.TABLE, swept), run_id="sweep")
    one.warehouse.publish()
    report = one.settings.reports_dir / "validation" / "ranks" / f"{RUN}.html"
    report.parent.mkdir(parents=True)
    report.write_text("<html></html>")
    return one


def test_an_empty_warehouse_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    one = small_platform(tmp_path)
    lab = Lab(one, monkeypatch)
    told = words(lab.draw(validation.page))
    assert "Nothing was validated yet" in told
    assert "quant pipeline run" in told
    one.warehouse.prepare()
    one.warehouse.publish()
    assert "forest has no backtest to validate" in words(lab.draw(validation.page))


def test_the_last_verdict_on_each_strategy_and_all_pictures_of_one_are_shown(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    test = Lab(platform, monkeypatch).draw(validation.page)
    table = test.dataframe[0].value
    assert table.set_index("Strategy")["Verdict"].to_dict() == {
        "forest": f"{NONE} not judged",
        "ranks": "✕ fail",
    }
    assert test.selectbox(key="strategy").value == "ranks"
    assert test.selectbox(key="validation").value == RUN
    drawn = " ".join(one.proto.id for one in test.get("plotly_chart"))
    for name in ("walk", "split", "path-sharpes", "paths", "logits", "degradation", "deflated", "cell-map"):
        assert f"-{name}" in drawn, name
    told = words(test)
    assert "The gate is off" in told
    assert "Drawn from the returns of 4 in the ledger" in told
    assert "The frame is where the strategy stands" in told
    texts = [one.value for one in test.text]
    assert "sweep: cells that could not be run" in texts
    assert "No costs: costs are <b>0</b>." in texts
    assert len(test.get("download_button")) == 1
    assert "No Dagster server answers" in told


def test_the_cells_of_the_validation_are_offered_beside_those_of_a_sweep(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    test = Lab(platform, monkeypatch).draw(validation.page, over="best")
    assert test.selectbox(key="cells").options == [
        "sweep s1, 4 cells, 2023-03-01 to 2023-08-31",
        "cells of this validation, 4, Sharpe ratio only",
    ]
    test.selectbox(key="cells").select("ledger").run()
    assert test.selectbox(key="metric").options == ["Sharpe ratio"]
    assert test.selectbox(key="over").value == "best"
    assert {test.selectbox(key=name).value for name in ("across", "down")} == set(SWEEP["parameters"])
    assert "Sharpe ratio of 4 cells, one cell at each place" in words(test)


def test_a_run_that_only_asked_the_doctor_and_one_that_could_judge_nothing_say_so(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    test = Lab(platform, monkeypatch).draw(validation.page)
    picker = test.selectbox(key="validation")
    assert [one.split(", ")[1] for one in picker.options] == ["fail", "no overall verdict", "no overall verdict"]
    picker.select(DOCTOR).run()
    assert "This run only asked the doctor" in words(test)
    assert not test.get("plotly_chart")
    test.selectbox(key="validation").select(SHORT).run()
    assert "PBO: start the backtest earlier" in [one.value for one in test.text]
    assert not test.exception
    assert "This run has no findings of the doctor" in words(test)


def test_a_validation_that_was_made_meanwhile_takes_the_place_of_the_one_picked(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    test = Lab(platform, monkeypatch).draw(validation.page)
    test.selectbox(key="validation").select(DOCTOR).run()
    assert test.selectbox(key="validation").value == DOCTOR
    test.session_state["newest validation of ranks"] = DOCTOR
    test.run()
    assert test.selectbox(key="validation").value == RUN


def test_a_strategy_that_was_never_backtested_says_what_to_run(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(validation.page, strategy="forest")
    assert "forest has no backtest to validate" in words(test)
    assert "quant pipeline run --strategy forest" in words(test)


def test_a_strategy_without_a_sweep_says_how_to_add_one_and_a_changed_file_has_no_verdict(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    lab = Lab(platform, monkeypatch)
    monkeypatch.setattr(Validation, "sweeps", lambda _: pl.DataFrame(schema={"sweep_id": pl.String}))
    platform.write_strategy("ranks", version="2.0.0")
    try:
        test = lab.draw(validation.page)
    finally:
        platform.write_strategy("ranks", sweep=SWEEP)
    assert "The strategy has no sweep" in words(test)
    assert "the file has another version now" in words(test)
    assert test.dataframe[0].value.set_index("Strategy")["Verdict"]["ranks"] == f"{NONE} not judged"
    assert "the ledger does not have the returns of the cells" in words(test)


def test_the_gate_tells_which_strategies_it_holds_back(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QUANT_VALIDATION_GATE", "true")
    test = Lab(platform, monkeypatch).draw(validation.page)
    assert "The gate is on" in words(test)
    assert "Held back: ranks" in [one.value for one in test.text]


def test_validate_now_starts_a_run_that_judges_anew(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    dagster = FakeDagster()
    test = Lab(platform, monkeypatch, dagster).draw(validation.page)
    next(one for one in test.button if one.label == "Validate now").click().run()
    (launched,) = dagster.launched
    assert launched.assets == (("validation",),)
    assert launched.tags["dagster/asset_partition_range_end"].endswith("|ranks")
    assert launched.config == {"ops": {"validation": {"config": {"backtest_run": BACKTEST, "carry": False}}}}
