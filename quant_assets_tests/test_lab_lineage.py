"""Page Lineage: its graphs, the runs that it asks for, and the page itself, both ways."""

from dataclasses import replace
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from quant_assets.contracts import ohlcv, quarantine
from quant_assets.lab.dagster_api import Check, Progress, Run
from quant_assets.lab.views import lineage
from quant_assets.lab.views.lineage import Box
from quant_assets.strategy.impact import Impact, Rerun, Touched
from quant_assets.strategy.lineage import Node
from quant_assets.strategy.markets import Market
from quant_assets_tests import small_market
from quant_assets_tests.lab_dagster import STARTED, FakeDagster
from quant_assets_tests.lab_platform import Lab, words
from quant_assets_tests.platform import END, Platform
from quant_assets_tests.small_market import NOW

pytestmark = pytest.mark.slow

D1, D2 = date(2023, 8, 24), END


# --- graphs


def test_a_graph_names_boxes_by_number_and_colours_them_by_kind():
    text = lineage.dot([Box("bars", ("bars of A", "10 rows")), Box("features", ("features v1",))], [(0, 1)], "#111111")
    lines = text.splitlines()
    assert lines[0].startswith('digraph { bgcolor="transparent" rankdir="LR"')
    assert lines[-4:] == [
        'n0 [label="bars of A\\n10 rows" color="#2563eb" fillcolor="#2563eb1f"]',
        'n1 [label="features v1" color="#14b8a7" fillcolor="#14b8a71f"]',
        "n0 -> n1",
        "}",
    ]
    assert 'fontcolor="#111111"' in text


def test_nothing_in_a_label_is_graphviz_s_language():
    hostile = 'a"] n9 [label="x\\N & <b>'
    (line,) = [one for one in lineage.dot([Box("target", (hostile,))], []).splitlines() if one.startswith("n0")]
    label = line.removeprefix("n0 [label=").split(" color=")[0]
    assert label == '"a\\"] n9 [label=\\"x\\\\N &amp;\\n<b>"'


def test_long_lines_are_wrapped_between_words():
    assert 'label="one two three four\\nfive six"' in lineage.dot([Box("bars", ("one two three four five six",))], [])


def test_a_chain_leads_from_a_thing_to_what_it_was_made_from_and_shows_what_is_shared_once():
    bars = Node("bars of A", {"partitions": "2024-01-02|A .. 2024-01-05|A (4 bars)"}, "bars")
    features = Node("features", {}, "features", parents=(bars,))
    target = Node("target", {}, "target", parents=(features, bars))
    nodes = list(target.chain())
    assert [one.title for one in nodes] == ["target", "features", "bars of A"]
    text = lineage.chain_dot(nodes)
    assert [line for line in text.splitlines() if "->" in line] == ["n0 -> n1", "n0 -> n2", "n1 -> n2"]
    assert "2024-01-02|A" in text


def touched(asset: str, what: str, *reads: str, rows: int = 2) -> Touched:
    return Touched(asset, what, ("A",), D1, D2, rows, ("0123456789",), reads)


FOUND = Impact(
    "A",
    D1,
    D2,
    (
        touched("ohlcv", "A", rows=1),
        touched("features_daily", "v1", "ohlcv A"),
        touched("targets", "s 1.0.0", "features_daily v1", "ohlcv A"),
        touched("backtest_summary", "s 1.0.0", "targets s 1.0.0", "ohlcv A"),
    ),
    (),
    0,
)


def test_an_arrow_that_others_lead_along_is_left_out_of_what_bars_touched():
    assert lineage.arrows_of(FOUND) == [(0, 1), (1, 2), (2, 3)]
    text = lineage.impact_dot(replace(FOUND, touched=(replace(FOUND.touched[0], last=D1), *FOUND.touched[1:])))
    assert 'label="ohlcv A\\n1 row\\n2023-08-24"' in text
    assert 'label="features_daily v1\\n2 rows\\n2023-08-24 ..\\n2023-08-31"' in text


def test_what_was_touched_is_a_table_with_the_beginnings_of_runs():
    rows = lineage.impact_frame(replace(FOUND, touched=(replace(FOUND.touched[0], keys=tuple("ABCDE")),)))
    assert rows.rows() == [("ohlcv", "A", 1, D1, D2, "A, B, C and 2 more", "01234567")]


def test_facts_stand_below_each_other():
    node = Node("x", {"a": "1", "long name": "2"}, "bars", ("ohlcv",), "2024-01-02|A")
    assert lineage.facts_text(node) == "a          1\nlong name  2\nasset      ohlcv\npartition  2024-01-02|A"


# --- what is asked of Dagster


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[Platform, Market]:
    platform = Platform(tmp_path_factory.mktemp("small"))
    return platform, small_market.filled(platform)[0]


def test_orders_are_the_symbol_s_and_each_strategy_s_runs_and_verdicts_are_made_anew(filled: tuple[Platform, Market]):
    period = (date(2023, 3, 1), END)
    assets = ("predictions", "targets", "backtest_summary", "validation")
    bars, decided, only = lineage.launch_orders(
        filled[1],
        [
            Rerun("market", "BBB", D1, D2, ("features_daily", "labels")),
            Rerun("decision", "ranks", D1, D2, assets, period),
            Rerun("decision", "trend", D2, D2, ("validation",), period),
        ],
    )
    assert (bars.job, bars.assets) == ("market_stage", (("features_daily",), ("labels",)))
    assert set(bars.tags.values()) == {"2023-08-24|BBB", "2023-08-31|BBB"}
    assert (decided.job, decided.config) == (
        "ranks",
        {
            "ops": {
                "backtest_summary": {"config": {"from_date": "2023-03-01", "to_date": "2023-08-31"}},
                "validation": {"config": {"carry": False}},
            }
        },
    )
    assert only.config == {"ops": {"validation": {"config": {"carry": False}}}}
    assert only.assets == (("validation",),)


# --- the page


def graphs(test: AppTest) -> list[str]:
    return [one.proto.spec for one in test.get("graphviz_chart")]


def test_an_empty_warehouse_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    platform = Platform(tmp_path)
    small_market.market_of(platform)
    shown = words(Lab(platform, monkeypatch).draw(lineage.page))
    assert "Nothing is stored yet" in shown
    assert "quant pipeline run" in shown


def test_bars_alone_have_no_targets_and_no_backtest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    platform = Platform(tmp_path)
    small_market.market_of(platform)
    bars = small_market.all_bars().with_columns(
        adjusted_close=pl.lit(None, pl.Float64), source=pl.lit("files"), ingested_at=pl.lit(NOW)
    )
    with platform.warehouse.write() as writer:
        writer.append(ohlcv.TABLE, bars, run_id="market")
    platform.warehouse.publish()
    lab = Lab(platform, monkeypatch)
    assert "No target is stored of a strategy that has a file" in words(lab.draw(lineage.page))
    assert "No backtest is stored of a strategy that has a file" in words(lab.draw(lineage.page, of="trade"))
    assert "No model is stored of a strategy that has a file" in words(lab.draw(lineage.page, of="model"))
    forward = words(lab.draw(lineage.page, way="Forward"))
    assert "1 bar from 2023-08-31 to 2023-08-31 touched" in forward
    assert "nothing yet" in forward
    assert "Redo just those" not in forward


def test_a_target_is_drawn_back_to_its_bars_without_a_server(
    filled: tuple[Platform, Market], monkeypatch: pytest.MonkeyPatch
):
    test = Lab(filled[0], monkeypatch).draw(lineage.page, strategy="forest", symbol="BBB", asof="2023-08-29")
    graph = graphs(test)[0].replace("\\n", " ")
    assert "target forest / BBB as of 2023-08-25" in graph  # the rebalance on or before the date
    for link in ("prediction BBB", "model m_", "features v1", "labels fwd_ret_5d", "bars of BBB"):
        assert link in graph
    shown = words(test)
    assert "weight" in shown
    assert "No Dagster server answers" in shown
    assert "forest" in [one.value for one in test.text]

    test.selectbox[4].select(1).run()
    assert "score" in words(test)
    assert not test.exception


def test_links_of_other_pages_say_where_to_start(filled: tuple[Platform, Market], monkeypatch: pytest.MonkeyPatch):
    lab = Lab(filled[0], monkeypatch)
    (graph,) = graphs(lab.draw(lineage.page, strategy="ranks", run="ranks"))
    assert "backtest of ranks" in graph
    (graph,) = graphs(lab.draw(lineage.page, strategy="ranks", run="ranks", trade="2"))
    assert "trade 2 of ranks" in graph
    model = filled[0].warehouse.query("SELECT model_id FROM models ORDER BY train_to LIMIT 1")["model_id"][0]
    (graph,) = graphs(lab.draw(lineage.page, model=model))
    assert model in graph


def test_the_run_that_wrote_a_link_is_shown_with_its_state_checks_and_code(
    filled: tuple[Platform, Market], monkeypatch: pytest.MonkeyPatch
):
    run = Run("ranks", "ranks", "FAILURE", ("targets",), {}, STARTED, STARTED)
    checks = (Check("targets", "caps", False, "too much"), Check("ohlcv", "gaps", True))
    server = FakeDagster(past=[Progress(run, checks=checks, code_versions={"targets": "c0ffee"})])
    test = Lab(filled[0], monkeypatch, server).draw(lineage.page, strategy="ranks", symbol="AAA")
    runs, found = (one.value for one in test.dataframe)
    began = f"{STARTED:%Y-%m-%d %H:%M} UTC"
    assert runs.to_dict("list") == {
        "run": [server.run_url("ranks")], "state": ["FAILURE"], "code version": ["c0ffee"], "began": [began],
    }  # fmt: skip
    assert found.to_dict("records") == [{"check": "caps", "result": "found", "words": "too much"}]
    assert "Checks of targets: 0 of 1 passed" in [one.label for one in test.expander]


def test_quarantined_bars_are_offered_first_and_what_they_touched_is_run_again(
    filled: tuple[Platform, Market], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import shutil

    shutil.copytree(filled[0].root, tmp_path / "copy")
    platform, server = Platform(tmp_path / "copy"), FakeDagster()
    row = {"id": "x", "table_name": "ohlcv", "symbol": "BBB", "ts": D1, "rule": "low is above high", "row": "{}"}
    with platform.warehouse.write() as writer:
        writer.append(quarantine.TABLE, pl.DataFrame([{**row, "seen_at": NOW}]), run_id="bad")
    platform.warehouse.publish()
    test = Lab(platform, monkeypatch, server).draw(lineage.page, way="Forward")
    (bars,) = [one for one in test.selectbox if one.label == "Bars"]
    assert bars.value == "BBB 2023-08-24 to 2023-08-24: 1 bar(s) in quarantine"
    assert "1 bar from 2023-08-24 to 2023-08-24, 1 in quarantine, touched" in words(test)
    (graph,) = graphs(test)
    assert "targets ranks" in graph.replace("\\n", " ")

    test.button(key="impact start").click().run()
    assert [one.job for one in server.launched] == ["market_stage"]
    assert server.launched[0].assets == (("features_daily",), ("labels",))
    assert not test.exception


def test_bars_of_one_s_own_choice_are_in_the_url_and_wrong_dates_say_so(
    filled: tuple[Platform, Market], monkeypatch: pytest.MonkeyPatch
):
    lab = Lab(filled[0], monkeypatch)
    picked = {"way": "Forward", "symbol": "AAA", "from": "2023-06-06", "to": "2023-06-07"}
    test = lab.draw(lineage.page, **picked)
    assert "2 bars from 2023-06-06 to 2023-06-07 touched" in words(test)
    assert "No Dagster server answers" in words(test)
    assert "dates reversed" in words(lab.draw(lineage.page, **{**picked, "to": "2023-06-01"}))


def test_a_link_followed_later_starts_where_it_means_to(
    filled: tuple[Platform, Market], monkeypatch: pytest.MonkeyPatch
):
    test = Lab(filled[0], monkeypatch).draw(lineage.page, of="trade", strategy="ranks", trade="2")
    assert test.query_params["trade"] == "2"
    for name in ("of", "run", "trade"):
        del test.query_params[name]
    test.query_params["asof"] = "2023-06-30"
    (graph,) = graphs(test.run())
    assert "as of 2023-06-30" in graph.replace("\\n", " ")
