"""Page Compare: what is picked, curves on common sessions, tables and pictures of several backtests, and the page."""

from collections.abc import Mapping
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from quant_assets.backtest.analysis import MEASURES
from quant_assets.backtest.comparison import Line
from quant_assets.core.page import NONE, minus
from quant_assets.lab import backtests
from quant_assets.lab.dagster_api import Dagster, Run
from quant_assets.lab.views import compare
from quant_assets_tests.lab_backtests import FIRST, LAST, MADE, SESSIONS, store
from quant_assets_tests.lab_platform import Lab, words
from quant_assets_tests.platform import Platform, small_platform

pytestmark = pytest.mark.slow

NAMED = {one.name: one for one in MEASURES}
FILE = backtests.File("1.0.0", "of the file", FIRST, LAST, 100_000.0, 2.0, 10.0)
AS_FILE = {
    "version": "1.0.0",
    "configuration": "of the file",
    "from_ts": FIRST,
    "to_ts": LAST,
    "initial_cash": 100_000.0,
    "fee_bps": 2.0,
    "slippage_bps": 10.0,
}
RISING = [100_000.0 * 1.01**n for n in range(len(SESSIONS))]
CURVES = pl.DataFrame(
    {
        "ts": [date(2023, 12, 28), date(2023, 12, 29), date(2024, 1, 2), date(2024, 1, 3)],
        "a": [1.0, 1.2, 0.9, 1.8],
        "b": [1.0, 1.0, 1.0, 1.0],
    }
)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({}, ""),
        ({"configuration": None}, ""),
        ({"fee_bps": 5.0, "configuration": "another"}, "fee 5 bps"),
        ({"from_ts": LAST}, "other period"),
        ({"initial_cash": 1e6, "slippage_bps": 0.5, "configuration": "another"}, "cash 1,000,000, slippage 0.5 bps"),
        ({"configuration": "another"}, "other settings"),
        ({"version": "0.9.0", "configuration": "another"}, "version 0.9.0, now 1.0.0"),
    ],
)
def test_a_what_if_is_told_from_what_the_file_says(changed, told):
    assert backtests.departures(AS_FILE | changed, FILE) == told


def test_an_open_period_may_end_on_any_day_and_a_file_may_be_gone():
    open_ended = backtests.File("1.0.0", "of the file", FIRST, None, 100_000.0, 2.0, 10.0)
    assert backtests.departures(AS_FILE | {"to_ts": FIRST}, open_ended) == ""
    assert backtests.departures(AS_FILE, None) == "its file is gone"


def test_the_newest_backtest_of_each_strategy_is_compared_unless_something_is_picked():
    rows = [("r6", "a"), ("r5", "a"), ("r4", "b"), ("r3", "c"), ("r2", "d"), ("r1", "e")]
    stored = pl.DataFrame(rows, schema=["key", "strategy_id"], orient="row")
    assert compare.usual(stored) == ["r6", "r4", "r3", "r2"]


def test_a_link_may_shorten_run_ids_and_name_runs_that_are_gone():
    assert compare.wanted("b,a,b,x", ["abc", "bcd:one", "bcd:two"]) == (["bcd:one", "bcd:two", "abc"], ["x"])
    assert compare.wanted("", ["abc"]) == ([], [])


def test_drawdowns_are_those_since_the_first_common_session():
    found = compare.drawn_down(CURVES, ["a", "b"])
    assert found["a"]["drawdown"].to_list() == pytest.approx([0.0, 0.0, -0.25, 0.0])
    assert found["b"].columns == ["ts", "equity", "drawdown"]


def test_returns_of_years_multiply_to_the_whole():
    found = compare.yearly(CURVES, ["a", "b"])
    assert found["year"].to_list() == [2023, 2024]
    assert found["a"].to_list() == pytest.approx([0.2, 0.5])
    assert found["b"].to_list() == [0.0, 0.0]


def test_the_best_of_a_line_has_a_star_and_a_line_without_values_is_left_out():
    lines = [
        Line(NAMED["cagr"], (0.125, 0.25, None)),
        Line(NAMED["vol"], (0.2, 0.3, 0.4)),
        Line(NAMED["beta"], (None, None, None)),
    ]
    assert compare.measures_table(lines, ["a", "b", "c"]).rows() == [
        ("CAGR", "12.5%", "★ 25.0%", NONE),
        ("Volatility", "★ 20.0%", "30.0%", "40.0%"),
    ]


def test_differences_are_those_from_the_first():
    lines = [Line(NAMED["cagr"], (0.125, 0.25, 0.0)), Line(NAMED["sharpe"], (None, 1.0, 2.0))]
    assert compare.measures_table(lines, ["a", "b", "c"], against_first=True).rows() == [
        ("CAGR", "12.5%", "+12.5%", minus("-12.5%")),
        ("Sharpe ratio", NONE, NONE, NONE),
    ]


def test_costs_come_from_the_measures_of_each_backtest():
    measures = pl.DataFrame(
        {"run_id": ["r1", "r1"], "strategy_id": "a", "measure": ["fees", "cagr"], "value": [0.01, 0.5]},
    )
    rows = [{"run_id": "r1", "strategy_id": "a"}, {"run_id": "r2", "strategy_id": "a"}]
    found = {line.measure.name: line.values for line in compare.costs(measures, rows)}
    assert found == {"fees": (0.01, None), "slippage": (None, None), "funding": (None, None)}


def test_contributions_stand_side_by_side_and_the_many_small_ones_are_summed():
    symbols = pl.DataFrame(
        [("r1", "a", "X", 0.1), ("r1", "a", "Y", -0.3), ("r2", "a", "X", 0.2), ("r1", "a", "Z", 0.05)],
        schema=["run_id", "strategy_id", "symbol", "contribution"],
        orient="row",
    )
    rows = [{"run_id": run, "strategy_id": "a"} for run in ("r1", "r2", "r3")]
    earned = compare.contributions(symbols, rows, ["one", "two", "idle"])
    assert earned.rows() == [("Y", -0.3, None, None), ("X", 0.1, 0.2, None), ("Z", 0.05, None, None)]
    few = compare.heaviest(earned, 1)
    assert few["symbol"].to_list() == ["Y", "(others)"]
    assert few.row(1)[1:] == pytest.approx((0.15, 0.2, 0.0))
    assert compare.heaviest(earned, 3) is earned


def test_bars_are_grouped_under_what_they_are_of():
    figure = compare.grouped(compare.yearly(CURVES, ["a", "b"]), "year", ["a", "b"], 300)
    assert [(bar.name, list(bar.x)) for bar in figure.data] == [("a", ["2023", "2024"]), ("b", ["2023", "2024"])]
    assert figure.layout.xaxis.type == "category"


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """Two backtests of `ranks`, one with other costs; `gone`, whose file is no more, over a shorter period."""
    platform = small_platform(tmp_path_factory.mktemp("compared"))
    later = SESSIONS[20]
    said = {"signal": {"type": "factor_rank"}, "portfolio": {"top_k": 2}}
    store(platform, "aaaa-1", RISING, params=said, symbols={"AAA": 0.5, "BBB": -0.1}, verdict="pass")
    store(platform, "bbbb-2", RISING[::-1], minute=1, params=said | {"portfolio": {"top_k": 3}}, fee_bps=9.0)
    store(platform, "cccc-3", RISING[:30], "gone", first=later, minute=2, params=said)
    return platform


def drawn(test: AppTest) -> list[str]:
    return [one.key for one in test.get("plotly_chart")]


def test_backtests_stand_side_by_side_on_their_common_sessions(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(compare.page)
    assert f"Compared over the 30 common sessions, {SESSIONS[20]} to {SESSIONS[49]}" in words(test)
    listed = test.dataframe[0].value
    assert listed["run_id"].to_list() == ["cccc-3", "bbbb-2", "aaaa-1"]
    assert listed["verdict"].to_list() == ["not judged", "not judged", "pass"]
    assert listed["differs"].to_list() == ["its file is gone", "fee 9 bps", "other settings"]
    assert test.dataframe[1].value.columns.to_list() == ["Measure", "gone", "ranks"]
    assert drawn(test) == ["equity", "correlation", "years"]


def test_runs_of_the_link_are_compared_in_its_order(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(compare.page, runs="aaaa,bbbb,zzzz")
    assert "130 common sessions" not in words(test)
    assert f"{len(SESSIONS)} common sessions, {FIRST} to {LAST}" in words(test)
    assert "1 of the runs in the link are not stored" in words(test)
    measures, own, differing = (one.value for one in test.dataframe[1:4])
    assert measures.columns.to_list() == ["Measure", "ranks (aaaa-1)", "ranks (bbbb-2)"]
    assert measures.iloc[0].to_list()[1].startswith("★ ")
    assert own["Measure"].to_list()[-1] == "Fees per year"
    assert differing.to_numpy().tolist() == [["fee_bps", "2", "9"], ["portfolio.top_k", "2", "3"]]
    assert "no Dagster server answers" in [button.help for button in test.get("link_button")]


def test_the_rolling_sharpe_ratio_stands_behind_the_years(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(compare.page, runs="aaaa,bbbb", over="Sharpe of the last half year")
    assert "rolling" in drawn(test)
    assert "years" not in drawn(test)


def test_a_toggle_shows_differences(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(compare.page, runs="aaaa,bbbb")
    test.toggle(key="differences").set_value(True).run()
    assert test.dataframe[1].value.iloc[0, 2].startswith(minus("-"))
    assert not test.exception


def test_backtests_without_a_common_session_are_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    platform = small_platform(tmp_path)
    store(platform, "aaaa", RISING[:5])
    store(platform, "bbbb", RISING[:5], "forest", first=SESSIONS[50])
    assert "0 common session(s), 2 are needed" in words(Lab(platform, monkeypatch).draw(compare.page))


def test_of_one_backtest_the_page_says_how_to_make_a_second(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    platform = small_platform(tmp_path)
    store(platform, "aaaa", RISING)
    test = Lab(platform, monkeypatch).draw(compare.page)
    assert "a comparison needs two" in words(test)
    assert "quant backtest -s ranks --fee-bps 10" in words(test)


def test_one_picked_row_is_not_enough(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    assert "1 picked: pick 2 to 10" in words(Lab(platform, monkeypatch).draw(compare.page, runs="aaaa"))


def test_an_empty_warehouse_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    platform = small_platform(tmp_path)
    lab = Lab(platform, monkeypatch)
    assert "quant pipeline run" in words(lab.draw(compare.page))
    platform.warehouse.publish()
    assert "No backtest is stored yet" in words(lab.draw(compare.page))


def test_strategy_files_that_cannot_be_used_do_not_hide_the_backtests(
    platform: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    without_files = Platform(platform.root, {"QUANT_STRATEGIES_DIR": str(tmp_path)})
    test = Lab(without_files, monkeypatch).draw(compare.page)
    assert "What runs differ in from their files is unknown" in words(test)
    assert drawn(test) == ["equity", "correlation", "years"]


class Answering(Dagster):
    """A server whose last two runs have failed, the last of a backtest."""

    def alive(self) -> bool:
        return True

    def runs(self, limit: int = 20, tags: Mapping[str, str] | None = None) -> list[Run]:
        failed = [
            ("broken-run", "market_stage", ("ohlcv",)),
            ("dddd", "ranks", ("coins/backtest_summary", "validation")),
        ]
        return [Run(run, job, "FAILURE", assets) for run, job, assets in failed]


def test_reports_that_are_there_can_be_taken_and_runs_be_opened(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    path = platform.settings.reports_dir / "ranks" / "aaaa-1.html"
    path.parent.mkdir(parents=True)
    path.write_text("<html></html>")

    test = Lab(platform, monkeypatch, Answering("http://127.0.0.1:3999")).draw(compare.page, runs="aaaa,bbbb")
    assert [button.proto.disabled for button in test.get("download_button")] == [False, True]
    assert test.get("link_button")[0].proto.url == "http://127.0.0.1:3999/runs/aaaa-1"
    assert "The last run of a backtest failed: [its log in Dagster](http://127.0.0.1:3999/runs/dddd)" in words(test)


def test_a_run_of_several_strategies_stands_once_for_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    platform = small_platform(tmp_path)
    store(platform, "aaaa", RISING)
    store(platform, "aaaa", RISING[::-1], "forest")
    Lab(platform, monkeypatch)
    assert backtests.stored()["key"].to_list() == ["aaaa:forest", "aaaa:ranks"]
    assert backtests.named(backtests.stored().row(0, named=True)) == f"{MADE:%Y-%m-%d %H:%M} · {FIRST} to {LAST} · aaaa"
