"""What Dagster's own UI shows: owners, groups, kinds, tables with their columns, source, freshness, rows, run tags."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
from dagster._core.definitions.assets.graph.asset_graph import AssetNode

from quant_assets.contracts import TABLES, Column, Table
from quant_assets.contracts.schema import Rule
from quant_assets.defs.catalog import OWNERS, ROW_COUNT, table_schema
from quant_assets.defs.marts import GROUP as MARTS
from quant_assets_tests.command_line import CommandLine
from quant_assets_tests.platform import DAGSTERS_OWN, Platform, small_platform

pytestmark = [*DAGSTERS_OWN, pytest.mark.slow]

KNOWN_WARNINGS = ("ignore:Series.values returning an ndarray that drops timezone information",)
"""What exchange_calendars does when a calendar is made for the cache; pandas will give it another type."""
SWEEP = {"method": "grid", "parameters": {"portfolio.top_k": [1, 2]}}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """Two markets, the second without an end, and a sweep on each."""
    small = small_platform(tmp_path_factory.mktemp("ui"))
    small.write_coins(end=None)
    small.write_strategy("ranks", sweep=SWEEP)
    small.write_strategy("coins_ranks", universe="coins", backtest={"from": date(2023, 3, 20)}, sweep=SWEEP)
    return small


@pytest.fixture(scope="module")
def repository(platform: Platform) -> dg.RepositoryDefinition:
    return platform.definitions().get_repository_def()


def assets_of(repository: dg.RepositoryDefinition) -> Iterator[AssetNode]:
    """All but the marts, whose columns are dbt's to tell."""
    graph = repository.asset_graph
    nodes = (graph.get(key) for key in graph.get_all_asset_keys())
    yield from (node for node in nodes if node.group_name != MARTS)


def stored_in(node: AssetNode) -> Table:
    return TABLES[node.metadata["dagster/table_name"].removeprefix("main.")]


def test_every_asset_says_whose_it_is_where_it_belongs_and_what_it_is_made_with(
    repository: dg.RepositoryDefinition,
) -> None:
    nodes = list(assets_of(repository))
    assert len(nodes) == 2 * 10
    for node in nodes:
        market = "coins_" if node.key.path[0] == "coins" else ""
        assert node.owners == OWNERS
        assert node.group_name == market + node.tags["stage"]
        assert node.tags["universe"] == (market or "small").removesuffix("_")
        assert len(node.kinds - {"duckdb"}) == len(node.kinds) - 1 == 1
        assert (node.description or "").startswith(stored_in(node).doc)


def test_every_mart_says_whose_it_is_and_what_it_holds(repository: dg.RepositoryDefinition) -> None:
    graph = repository.asset_graph
    marts = [node for node in map(graph.get, graph.get_all_asset_keys()) if node.group_name == MARTS]
    assert len(marts) > 9
    for node in marts:
        assert node.owners == OWNERS
        assert node.description


def test_every_asset_shows_the_columns_of_its_contract(repository: dg.RepositoryDefinition) -> None:
    for node in assets_of(repository):
        shown, table = node.metadata["dagster/column_schema"], stored_in(node)
        assert [(one.name, one.type, one.description, one.constraints.nullable) for one in shown.columns] == [
            (one.name, one.type, one.doc, one.nullable) for one in table.all_columns
        ]


def test_the_tables_that_an_asset_stores_beside_its_own_are_named_and_shown(
    repository: dg.RepositoryDefinition,
) -> None:
    for node in assets_of(repository):
        for name in {"corporate_actions", "models", "backtest_trades", "validation_curves"} & node.metadata.keys():
            assert node.metadata[name] == table_schema(TABLES[name])
            assert f"- `{name}`: {TABLES[name].doc}" in (node.description or "")
    assert "backtest_trades" in repository.asset_graph.get(dg.AssetKey("backtest_summary")).metadata


def test_keys_limits_and_rules_of_rows_are_shown_as_constraints() -> None:
    table = Table(
        name="t",
        key=("a",),
        doc="",
        columns=(
            Column("a", "VARCHAR", "", among=("x", "y")),
            Column("b", "DOUBLE", "", nullable=True, above=0, at_most=0.5),
        ),
        row_rules=(Rule("b is odd", pl.lit(True)),),
        run_id=False,
    )
    shown = table_schema(table)
    assert [(one.constraints.nullable, one.constraints.other) for one in shown.columns] == [
        (False, ["key", "one of x, y"]),
        (True, ["> 0", "<= 0.5"]),
    ]
    assert shown.constraints.other == ["never: b is odd"]


def test_every_asset_links_to_the_lines_that_define_it(repository: dg.RepositoryDefinition) -> None:
    for node in assets_of(repository):
        (reference,) = node.metadata["dagster/code_references"].code_references
        lines = Path(reference.file_path).read_text(encoding="utf-8").splitlines()[reference.line_number - 1 :]
        assert lines[0].strip() == "@table_asset("
        head = next(line for line in lines if line.lstrip().startswith("def "))
        assert node.key.path[-1] in head
        assert reference.label == f"{Path(reference.file_path).name}:{reference.line_number}"


def test_only_bars_of_a_universe_without_an_end_are_expected_to_be_fresh(
    platform: Platform, repository: dg.RepositoryDefinition
) -> None:
    def policies(of: dg.RepositoryDefinition) -> dict[str, dg.FreshnessPolicy]:
        return {node.key.to_user_string(): node.freshness_policy for node in assets_of(of) if node.freshness_policy}

    daily = dg.FreshnessPolicy.time_window(timedelta(hours=49), timedelta(hours=25))
    weekdays = dg.FreshnessPolicy.time_window(timedelta(hours=97), timedelta(hours=73))
    assert policies(repository) == {"coins/ohlcv": daily}
    endless = small_platform(platform.root / "endless")
    endless.write_universe(end=None)
    assert policies(endless.definitions().get_repository_def()) == {"ohlcv": weekdays}


def test_every_job_schedule_and_sensor_says_what_it_is_for(repository: dg.RepositoryDefinition) -> None:
    jobs = [repository.get_job(name) for name in repository.job_names if not name.startswith("__")]
    assert {"market_stage", "ranks", "sweep_ranks", "factors", "coins_market_stage"} <= {job.name for job in jobs}
    assert [job.name for job in jobs if not job.description or job.owners != OWNERS] == []
    others = [*repository.schedule_defs, *repository.sensor_defs]
    assert {one.name for one in others} == {"coins_daily_market", "automation"}
    assert [one.name for one in others if not one.description] == []


def test_loading_the_definitions_warns_of_nothing(platform: Platform) -> None:
    """Dagster's BetaWarning is the exception: `definitions` says which features of it are meant."""
    load = "from quant_assets.definitions import defs; defs.get_repository_def()"
    done = subprocess.run(
        [sys.executable, *(f"-W{one}" for one in ("error", *KNOWN_WARNINGS)), "-c", load],
        env=platform.environment,
        cwd=platform.root,
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_row_counts_are_what_is_stored_and_runs_are_tagged_with_period_and_strategy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = small_platform(tmp_path)
    small.write_strategy("ranks", backtest={"from": date(2023, 2, 1)}, sweep=SWEEP)
    quant = CommandLine(small, monkeypatch)
    commands = ("pipeline run -s ranks", "backtest --engine event -s ranks", "sweep -s ranks", "factors")
    for words in map(str.split, commands):
        quant(*words)
    runs = {run.job_name: run for run in quant.runs()}
    period = {name: run.tags["quant/period"] for name, run in runs.items()}
    assert period == {
        "market_stage": "2023-01-03..2023-08-31",
        "ranks": "2023-02-01..2023-08-31",
        "sweep_ranks": "2023-02-01..2023-08-31",
        "factors": "2023-01-03..2023-08-31",
    }
    assert {name for name, run in runs.items() if run.tags.get("quant/strategy") == "ranks"} == {"ranks", "sweep_ranks"}
    tables = {"features_daily": "features_daily__v1"}
    with small.instance() as instance:
        for node in assets_of(small.definitions().get_repository_def()):
            table = stored_in(node).name
            event = instance.get_latest_materialization_event(node.key)
            assert event is not None
            assert event.asset_materialization is not None
            stored = small.warehouse.query(f"SELECT count(*) FROM {tables.get(table, table)}").item()
            assert event.asset_materialization.metadata[ROW_COUNT].value == stored, table
