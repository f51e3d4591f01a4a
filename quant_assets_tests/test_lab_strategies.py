"""The page Strategies: what it reads off a file, and what one can do there, in all situations."""

from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from quant_assets.lab import state
from quant_assets.lab.dagster_api import Progress, Run
from quant_assets.lab.views import strategies
from quant_assets.strategy import load_strategies, load_strategy, versions
from quant_assets.strategy.markets import load_markets
from quant_assets_tests.lab_backtests import MADE, store
from quant_assets_tests.lab_dagster import FakeDagster
from quant_assets_tests.lab_platform import Lab, words
from quant_assets_tests.platform import END, LISTED, START, Platform, small_platform

pytestmark = pytest.mark.slow

SHIPPED = load_strategies(Path(__file__).parents[1] / "strategies")
EDIT = "Edit"


class TestWhatAFileSays:
    @pytest.mark.parametrize(
        ("value", "text"),
        [(100000.0, "100,000"), (0.6, "0.6"), (None, "none"), (True, "yes"), ([1, "a", 0.5], "1, a, 0.5"), ([], "")],
    )
    def test_a_value_is_shown_as_one_reads_it(self, value: object, text: str):
        assert strategies.shown(value) == text

    @pytest.mark.parametrize(
        ("field", "words"),
        [
            ({"type": "integer", "minimum": 1, "maximum": 9}, "integer, at least 1, at most 9"),
            ({"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}, "number, above 0 or none"),
            ({"enum": ["a", "b"], "type": "string"}, "a, b"),
            ({"const": "lightgbm"}, "lightgbm"),
            ({"type": "array", "items": {"type": "string"}}, "list of string"),
            ({"type": "string", "format": "date"}, "date"),
        ],
    )
    def test_a_field_of_the_schema_is_told_in_words(self, field: dict[str, object], words: str):
        assert strategies.allowed(field) == words

    @pytest.mark.parametrize("name", SHIPPED)
    def test_every_field_of_a_strategy_is_among_the_known_ones(self, name: str):
        spec = SHIPPED[name]
        known = set(strategies.fields(spec.signal.type)["field"])
        said = spec.model_dump(mode="json", by_alias=True)
        del said["sweep"]  # its parameters are fields themselves
        assert {path for path, _ in strategies.flat(said)} <= known

    def test_fields_are_those_of_the_kind_of_signal(self):
        assert "signal.inputs.lookback" not in set(strategies.fields("donchian")["field"])
        row = strategies.fields("donchian").filter(field="signal.inputs.entry").row(0)
        assert row == (
            "signal.inputs.entry",
            "integer, at least 1, at most 2,520",
            "20",
            "sessions of the channel whose break opens a position",
        )
        assert set(strategies.fields("donchian")["field"]) < set(strategies.fields()["field"])

    def test_what_the_file_leaves_at_its_default_is_told_apart(self):
        found = strategies.sections(SHIPPED["momentum_topk"])
        assert list(found)[:3] == ["strategy", "signal", "rebalance"]
        assert found["portfolio"].select("field", "value", "default").rows() == [
            ("top_k", "2", False),
            ("weighting", "equal", True),
            ("risk_window", "60", True),
            ("short", "none", True),
            ("hedge_drawdown", "0.1", True),
        ]
        assert found["signal"].row(0)[:3] == ("type", "factor_rank", False)
        assert "sweep" not in strategies.sections(SHIPPED["momentum_topk"].model_copy(update={"sweep": None}))

    def test_the_pipeline_of_a_model_goes_through_features_and_labels(self):
        drawn = strategies.pipeline(SHIPPED["lgbm_pooled"], "us_tech")
        edges = {line for line in drawn.splitlines() if "->" in line}
        assert edges == {
            "ohlcv -> features_daily",
            "ohlcv -> labels",
            "features_daily -> predictions",
            "labels -> predictions",
            "predictions -> targets",
            "targets -> backtest_summary",
            "ohlcv -> backtest_summary [style=dashed]",
            "backtest_summary -> validation",
        }
        assert r'predictions [label="predictions\nlightgbm classification\none model for all, retrained' in drawn

    @pytest.mark.parametrize(("name", "above"), [("tsmom_us_tech", "ohlcv"), ("momentum_topk", "features_daily")])
    def test_the_pipeline_of_other_kinds_has_no_model(self, name: str, above: str):
        drawn = strategies.pipeline(SHIPPED[name], "us_tech")
        assert f"{above} -> targets" in drawn.splitlines()
        assert "predictions" not in drawn

    def test_no_name_breaks_out_of_its_label(self):
        drawn = strategies.pipeline(SHIPPED["tsmom_us_tech"], 'x" ] evil [ "\\')
        assert "ohlcv [label=\"ohlcv\\nbars of universe x' ] evil [ '\"]" in drawn.splitlines()

    def test_markdown_in_a_value_is_shown_as_it_is(self):
        assert strategies._escaped("![a](http://b) `c` *d*") == r"\!\[a\]\(http\:\/\/b\) \`c\` \*d\*"


def test_versions_stand_with_their_newest_backtest_the_highest_first():
    stored = pl.DataFrame(
        [
            {"version": version, "from_ts": START, "to_ts": END, "cagr": 0.1, "sharpe": sharpe, "max_dd": -0.2,
             "num_trades": 3, "verdict": None, "created_at": MADE}
            for version, sharpe in (("1.2.0", 0.5), ("1.0.0", 1.0), ("1.2.0", 0.7))
        ]
    )  # fmt: skip
    found = strategies.versions_known("1.10.0", {"1.2.0": [Path("a")]}, stored)
    assert found.select("version", "where", "backtests", "sharpe").rows() == [
        ("1.10.0", "in force", 0, None),
        ("1.2.0", "kept", 2, 0.5),
        ("1.0.0", "results only", 1, 1.0),
    ]


def test_the_backtest_to_show_is_the_newest_of_the_version_in_force_or_of_any():
    stored = pl.DataFrame({"version": ["1.1.0", "1.0.0", "1.0.0"], "run_id": ["c", "b", "a"]})
    shown = [strategies.last_of(stored, version).get("run_id") for version in ("1.1.0", "1.0.0", "2.0.0")]
    assert shown == ["c", "b", "c"]
    assert strategies.last_of(stored.clear(), "1.0.0") == {}


@pytest.mark.parametrize(
    ("current", "said", "part", "offered"),
    [
        ("1.0.0", "1.0.0", "minor", {"1.1.0": "minor", "1.0.1": "patch", "2.0.0": "major"}),
        ("1.0.0", "1.4.0", "patch", {"1.4.0": "as written", "1.0.1": "patch", "1.1.0": "minor", "2.0.0": "major"}),
        ("1.9.0", "1.10.0", "minor", {"1.10.0": "as written", "1.9.1": "patch", "2.0.0": "major"}),
        (None, "3.0.0", "patch", {"3.0.0": "as written", "3.0.1": "patch", "3.1.0": "minor", "4.0.0": "major"}),
    ],
)
def test_the_version_to_take_comes_first(current: str | None, said: str, part: versions.Part, offered: dict[str, str]):
    found = strategies.choices(current, said, part)
    assert found == offered
    assert list(found) == list(offered)


def test_only_bars_before_and_after_those_stored_are_ordered(tmp_path: Path):
    (market,) = load_markets(small_platform(tmp_path).settings)
    whole = {"AAA": (START, END), "BBB": (START, END), "CCC": (LISTED, END)}
    assert strategies.missing_market(market, whole, END) == []
    (order,) = strategies.missing_market(market, whole | {"BBB": (START, date(2023, 8, 29))}, END)
    assert order.what == "ohlcv, features_daily, labels of BBB, 2023-08-30 to 2023-08-31"
    (order,) = strategies.missing_market(market, whole | {"AAA": (LISTED, END)}, END)
    assert order.what.endswith(f"of AAA, {START} to {END}")
    orders = strategies.missing_market(market, {"BBB": (START, END)}, END)
    assert [one.what.split(" of ")[1] for one in orders] == [f"{one}, {START} to {END}" for one in ("AAA", "CCC")]
    assert strategies.missing_market(market, {}, date(2023, 1, 31))[0].what.endswith(
        "of AAA, BBB, 2023-01-03 to 2023-01-31"
    )


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return small_platform(tmp_path)


@pytest.fixture
def draw(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Callable[..., AppTest]:
    """Draws the page on the platform; `dagster`: the stand-in for its server, none: no server."""

    def drawn(dagster: FakeDagster | None = None, **picked: str) -> AppTest:
        return Lab(platform, monkeypatch, dagster).draw(strategies.page, **picked)

    return drawn


def typed(page: AppTest, text: str, name: str = "ranks") -> AppTest:
    """The page after `text` was typed into the editor."""
    page.session_state[page.session_state["strategies_drafts"][name].key] = {"text": text}
    return settled(page)


def settled(page: AppTest) -> AppTest:
    page.run()
    assert not page.exception, page.exception
    return page


def text_of(platform: Platform, name: str = "ranks") -> str:
    return (platform.strategies / f"{name}.yaml").read_text()


def press(page: AppTest, label: str) -> AppTest:
    (button,) = [one for one in page.button if one.label == label]
    assert not button.disabled, words(page)
    button.click()
    return settled(page)


def plain(page: AppTest) -> str:
    return "\n".join([words(page), *(one.value for one in page.get("text"))])


class TestThePage:
    def test_a_folder_without_strategies_says_what_to_do(self, platform: Platform, draw: Callable[..., AppTest]):
        for path in platform.strategies.glob("*.yaml"):
            path.unlink()
        assert "There is no strategy file in" in words(draw())

    def test_before_the_first_run_the_page_has_the_file_and_the_command(self, draw: Callable[..., AppTest]):
        said = words(draw(strategy="ranks"))
        assert "No backtest of this strategy is stored yet" in said
        assert "quant pipeline run --strategy ranks" in said
        assert "make dev" in said
        assert words(draw(strategy="ranks", view="Versions")).count("No other version is kept yet") == 1

    def test_the_spec_of_a_strategy_on_one_symbol_is_shown(self, platform: Platform, draw: Callable[..., AppTest]):
        platform.write_strategy("ranks", universe={"symbols": ["AAA"]})
        page = draw(strategy="ranks", view="Spec and lineage")
        assert "Grey: left at its default." in words(page)
        assert ["top\\_k", "2"] in [row[:2] for table in page.table for row in table.value.to_numpy().tolist()]
        assert len(page.get("graphviz_chart")) == 1

    def test_stored_backtests_are_shown_with_their_versions(self, platform: Platform, draw: Callable[..., AppTest]):
        store(platform, "run-1", [100_000.0, 101_000.0], verdict="caution", cagr=0.123, sharpe=1.5, num_trades=1234)
        store(platform, "run-2", [100_000.0, 90_000.0], "forest", minute=5)
        page = draw(strategy="ranks")
        shown = {one.label: one.value for one in page.metric}
        assert shown["Yearly return"] == "12.3%"
        assert (shown["Trades"], shown["Volatility"]) == ("1,234", "-")
        assert "last verdict: caution" in words(page)
        assert len(page.get("plotly_chart")) == 1
        platform.write_strategy("ranks", version="1.1.0")
        assert "This backtest is of version 1.0.0; version 1.1.0 has not run yet." in words(draw(strategy="ranks"))
        page = draw(strategy="ranks", view="Versions")
        rows = page.dataframe[0].value[["version", "where", "backtests"]].to_numpy().tolist()
        assert rows == [["1.1.0", "in force", 0], ["1.0.0", "results only", 1]]

    def test_a_failed_run_is_told_with_its_link(self, draw: Callable[..., AppTest]):
        ended = datetime(2026, 1, 5, tzinfo=UTC)
        server = FakeDagster(past=[Progress(Run("run-9", "ranks", "FAILURE", ended=ended))])
        assert "The last run of ranks failed on 2026-01-05" in words(draw(server, strategy="ranks"))

    def test_a_link_to_what_is_gone_opens_what_is_there(self, draw: Callable[..., AppTest]):
        page = draw(strategy="gone", view="Gone")
        assert page.selectbox(key="strategy").value == "forest"

    def test_running_it_orders_the_bars_that_are_missing_then_the_decisions(self, draw: Callable[..., AppTest]):
        server = FakeDagster()
        page = draw(server, strategy="ranks")
        assert "1 run(s) come first: ohlcv, features_daily, labels of AAA, BBB, CCC, 2023-01-03" in words(page)
        assert "quant pipeline run --strategy ranks --from 2023-03-01 --to 2023-08-31" in words(page)
        press(page, "Run")
        assert server.launched[0].job == "market_stage"

    def test_a_period_without_a_session_cannot_run(self, draw: Callable[..., AppTest]):
        page = draw(FakeDagster(), strategy="ranks")
        first, last = page.date_input
        first.set_value(date(2023, 4, 7))
        last.set_value(date(2023, 4, 9))
        settled(page)
        assert "no XNYS session between 2023-04-07 and 2023-04-09" in words(page)
        assert next(one for one in page.button if one.label == "Run").disabled


class TestTheEditor:
    def test_what_is_typed_is_checked_and_cannot_be_saved_while_it_has_problems(
        self, platform: Platform, draw: Callable[..., AppTest]
    ):
        page = draw(strategy="ranks", view=EDIT)
        assert "nothing is changed yet" in plain(page)
        page = typed(page, text_of(platform).replace("top_k: 2", "top_k: 0\n  top_n: 3"))
        said = plain(page)
        assert "2 problems, marked above" in said
        assert "portfolio.top_n: unknown field; known here: top_k" in said
        assert "correct the problems first" in said
        assert all(one.disabled for one in page.button if one.label.startswith("Save"))

    def test_saving_stores_the_next_version_keeps_the_old_one_and_reloads_dagster(
        self, platform: Platform, draw: Callable[..., AppTest]
    ):
        before, server = text_of(platform), FakeDagster()
        page = typed(draw(server, strategy="ranks", view=EDIT), before.replace("top_k: 2", "top_k: 1"))
        assert "+version: 1.1.0" in words(page)
        page = press(page, "Save as version 1.1.0")
        assert "ranks\\.yaml is saved as version 1.1.0." in words(page)
        assert load_strategy(platform.strategies / "ranks.yaml").version == "1.1.0"
        assert (platform.strategies / "history" / "ranks-1.0.0.yaml").read_text() == before
        assert server.reloads == 1
        assert "nothing is changed yet" in plain(page)
        assert "+version: 1.1.0" in words(draw(strategy="ranks", view="Versions"))

    def test_another_part_of_the_version_can_be_raised(self, platform: Platform, draw: Callable[..., AppTest]):
        page = typed(draw(strategy="ranks", view=EDIT), text_of(platform).replace("top_k: 2", "top_k: 1"))
        page.get("button_group")[0].set_value("2.0.0")
        page = press(settled(page), "Save as version 2.0.0")
        assert "No Dagster server answers; one that is started from now on knows the new version." in words(page)
        assert load_strategy(platform.strategies / "ranks.yaml").version == "2.0.0"

    def test_words_of_a_dagster_that_cannot_load_the_files_are_shown(
        self, platform: Platform, draw: Callable[..., AppTest]
    ):
        page = draw(FakeDagster(broken="forest.yaml, line 3: no"), strategy="ranks", view=EDIT)
        page = press(typed(page, text_of(platform).replace("top_k: 2", "top_k: 1")), "Save as version 1.1.0")
        assert "forest.yaml, line 3: no" in words(page)

    def test_a_version_with_stored_results_is_refused_with_the_next_free_one(
        self, platform: Platform, draw: Callable[..., AppTest]
    ):
        store(platform, "run-1", [100_000.0, 101_000.0], params={"symbols": []}, version="1.1.0")
        page = typed(draw(strategy="ranks", view=EDIT), text_of(platform).replace("top_k: 2", "top_k: 1"))
        assert "version 1.1.0 has stored results of another configuration; use 1.1.1" in plain(page)

    def test_what_someone_else_saved_meanwhile_is_not_overwritten(
        self, platform: Platform, draw: Callable[..., AppTest]
    ):
        page = typed(draw(strategy="ranks", view=EDIT), text_of(platform).replace("top_k: 2", "top_k: 1"))
        platform.write_strategy("ranks", version="1.0.7")
        page.button(key="save_ranks").click()
        assert "was changed since it was opened; open it again" in words(settled(page))
        assert "1.0.7" in text_of(platform)
        assert "was changed since it was opened here" in plain(page)
        page = press(page, "Discard the edit")
        assert "nothing is changed yet" in plain(page)

    def test_an_edit_outlasts_a_look_at_another_strategy(self, platform: Platform, draw: Callable[..., AppTest]):
        page = typed(draw(strategy="ranks", view=EDIT), text_of(platform).replace("top_k: 2", "top_k: 1"))
        page.selectbox(key="strategy").set_value("forest")
        settled(page).selectbox(key="strategy").set_value("ranks")
        assert "+version: 1.1.0" in words(settled(page))

    def test_a_version_that_is_kept_can_be_taken_up_again(self, platform: Platform, draw: Callable[..., AppTest]):
        before = text_of(platform)
        page = typed(draw(strategy="ranks", view=EDIT), before.replace("top_k: 2", "top_k: 1"))
        press(page, "Save as version 1.1.0")
        page = press(draw(strategy="ranks", view="Versions"), "Take it into the editor")
        page = press(page, "Save as version 1.2.0")
        assert text_of(platform) == before.replace("1.0.0", "1.2.0")

    def test_a_duplicate_is_a_strategy_of_its_own(self, platform: Platform, draw: Callable[..., AppTest]):
        platform.write_strategy("ranks", version="1.4.0")
        before = text_of(platform)
        page = draw(strategy="ranks", view=EDIT)
        page.text_input(key="copy_ranks").set_value("forest")
        assert "forest is taken by" in plain(settled(page))
        page.text_input(key="copy_ranks").set_value("../outside")
        assert "string should match pattern" in plain(settled(page))
        page.text_input(key="copy_ranks").set_value("fresh")
        page = press(settled(page), "Duplicate")
        assert page.selectbox(key="strategy").value == "fresh"
        assert load_strategy(platform.strategies / "fresh.yaml").version == "1.0.0"
        assert text_of(platform) == before


class TestFilesThatCannotBeUsed:
    @pytest.mark.parametrize("content", [b"\xff\xfe: [\n", b"strategy_id: zebra\n"])
    def test_the_page_opens_with_the_file_and_its_problems_and_saves_it_repaired(
        self, platform: Platform, draw: Callable[..., AppTest], content: bytes
    ):
        (platform.strategies / "zebra.yml").write_bytes(content)
        page = draw()
        assert page.selectbox(key="strategy").value == "zebra.yml"
        assert "zebra.yml, line " in words(page)
        page = typed(page, text_of(platform).replace("ranks", "zebra"), "zebra.yml")
        page = press(page, "Save as version 1.0.0")
        assert page.selectbox(key="strategy").value == "zebra"
        assert list(state.strategies()) == ["forest", "ranks", "zebra"]
        (kept,) = (platform.strategies / "history").glob("zebra-unusable-*.yaml")
        assert kept.read_bytes() == content

    def test_other_strategies_are_shown_and_cannot_run(self, platform: Platform, draw: Callable[..., AppTest]):
        (platform.strategies / "zebra.yaml").write_text("a: [")
        said = words(draw(FakeDagster(), strategy="ranks"))
        assert "Nothing can run while a strategy file cannot be used" in said

    def test_two_files_of_one_strategy_are_both_offered(self, platform: Platform, draw: Callable[..., AppTest]):
        (platform.strategies / "copy.yaml").write_text(text_of(platform))
        page = draw()
        assert set(page.selectbox(key="strategy").options) == {
            "forest",
            "copy.yaml (cannot be used)",
            "ranks.yaml (cannot be used)",
        }

    def test_a_broken_universe_file_is_told(self, platform: Platform, draw: Callable[..., AppTest]):
        (platform.strategies / "universes" / "small.yaml").write_text("name: small\n")
        said = words(draw(strategy="ranks", view="Spec and lineage"))
        assert "A universe file cannot be used" in said
        assert "field 'version' is missing" in said
