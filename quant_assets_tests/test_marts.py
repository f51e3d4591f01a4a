"""The marts: what dbt makes of the warehouse, and how Dagster sees it."""

import json
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from quant_assets import definitions as code_location
from quant_assets.contracts import TABLES
from quant_assets.core.calendar import trading_calendar
from quant_assets.core.settings import PROJECT_ROOT
from quant_assets.defs import marts
from quant_assets.defs.catalog import ROW_COUNT
from quant_assets.warehouse import attached
from quant_assets_tests.command_line import CommandLine
from quant_assets_tests.platform import DAGSTERS_OWN, END, LISTED, QUIET, START, STRATEGIES, Platform, small_platform

pytestmark = [
    *DAGSTERS_OWN,
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:sqlglotrs is deprecated:DeprecationWarning"),
]

MARTS = {
    "data_freshness",
    "data_gaps",
    "feature_coverage",
    "feature_drift",
    "model_performance",
    "latest_targets",
    "strategy_leaderboard",
    "cost_and_turnover",
    "exposure",
}
WATCH = """
import os, socket

connect, resolve, at_home = socket.socket.connect, socket.getaddrinfo, ("localhost", "127.0.0.1", "::1", None)

def refuse(host):
    with open(os.environ["QUANT_TEST_CONNECTIONS"], "a") as file:
        file.write(f"{host}\\n")
    raise OSError(f"no network here, asked for {host}")

def connecting(self, address):
    if self.family != socket.AF_UNIX and address[0] not in at_home:
        refuse(address[0])
    return connect(self, address)

def resolving(host, *rest, **options):
    if host not in (*at_home, socket.gethostname()):
        refuse(host)
    return resolve(host, *rest, **options)

socket.socket.connect, socket.getaddrinfo = connecting, resolving
"""
"""Run by a process: it may reach no other machine, and leaves the names of those that it asked for."""


@pytest.fixture(scope="module")
def manifest() -> dict[str, Any]:
    return json.loads(marts.MANIFEST.read_bytes())


def models(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    return [node for node in manifest["nodes"].values() if node["resource_type"] == "model"]


def asset_graph(platform: Platform) -> Any:
    return platform.definitions().get_repository_def().asset_graph


def test_every_mart_is_an_asset_downstream_of_the_tables_that_it_reads(tmp_path: Path) -> None:
    graph = asset_graph(small_platform(tmp_path))
    assert {key.path[-1] for key in graph.get_all_asset_keys() if key.path[0] == "marts"} == MARTS
    roots = {
        name: {key.to_user_string() for key in graph.get_ancestor_asset_keys(dg.AssetKey(["marts", name]))}
        & {"ohlcv", "features_daily", "predictions", "labels", "targets", "backtest_summary", "validation"}
        for name in ("data_freshness", "model_performance", "latest_targets", "exposure")
    }
    assert {"ohlcv"} == roots["data_freshness"]
    assert {"ohlcv", "features_daily", "labels", "predictions"} == roots["model_performance"]
    assert "validation" not in roots["exposure"]
    board = graph.get_ancestor_asset_keys(dg.AssetKey(["marts", "strategy_leaderboard"]))
    assert {dg.AssetKey("validation"), dg.AssetKey("backtest_summary")} <= board
    assert graph.get(dg.AssetKey(["staging", "stg_bars"])).parent_keys == {dg.AssetKey("ohlcv")}


def test_the_code_location_is_valid_with_marts(tmp_path: Path) -> None:
    dg.Definitions.validate_loadable(small_platform(tmp_path).definitions())


def test_a_mart_is_downstream_of_all_markets(tmp_path: Path) -> None:
    platform = small_platform(tmp_path)
    platform.write_coins()
    parents = asset_graph(platform).get(dg.AssetKey(["staging", "stg_bars"])).parent_keys
    assert parents == {dg.AssetKey("ohlcv"), dg.AssetKey(["coins", "ohlcv"])}


def test_without_strategies_marts_have_no_decision_assets_upstream(tmp_path: Path) -> None:
    platform = small_platform(tmp_path)
    for name in STRATEGIES:
        (platform.strategies / f"{name}.yaml").unlink()
    assert asset_graph(platform).get(dg.AssetKey(["staging", "stg_targets"])).parent_keys == set()


def test_sources_are_tables_of_the_contracts_and_name_our_assets(tmp_path: Path, manifest: dict[str, Any]) -> None:
    known = asset_graph(small_platform(tmp_path)).get_all_asset_keys()
    for source in manifest["sources"].values():
        assert source["name"] in TABLES
        assert dg.AssetKey(source["config"]["meta"]["dagster"]["asset_key"]) in known


def test_every_model_and_column_is_described_and_every_key_tested(manifest: dict[str, Any]) -> None:
    assert [node["name"] for node in models(manifest) if not node["description"]] == []
    columns = [(node["name"], name) for node in models(manifest) for name, one in node["columns"].items() if not one]
    assert columns == []
    tests = [node for node in manifest["nodes"].values() if node["resource_type"] == "test"]
    keyed = {node["attached_node"].split(".")[-1] for node in tests if node["test_metadata"]["name"] == "unique_key"}
    # the long view of features is gated where it is stored, wide; counting its keys would cost more than all else
    assert {node["name"] for node in models(manifest)} - keyed == {"stg_features"}


def test_without_a_manifest_the_code_location_loads_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    missing = tmp_path / "manifest.json"
    monkeypatch.setattr(marts, "MANIFEST", missing)
    with caplog.at_level(logging.WARNING, logger=marts.__name__):
        repository = small_platform(tmp_path).definitions().get_repository_def()
    assert caplog.messages == [f"no marts: {missing} is missing; `make install` prepares it"]
    assert not repository.has_job(marts.JOB)
    assert dg.AssetKey("ohlcv") in repository.asset_graph.get_all_asset_keys()


def test_loading_the_code_location_imports_neither_dbt_nor_dagster_dbt() -> None:
    assert code_location.defs.get_repository_def().has_job(marts.JOB)
    code = "import sys, quant_assets.definitions; print([n for n in ('dbt', 'dagster_dbt') if n in sys.modules])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert said.stdout.strip() == "[]"


def test_assets_and_checks_are_those_that_dagster_dbt_makes_of_the_manifest(manifest: dict[str, Any]) -> None:
    from dagster_dbt import DagsterDbtTranslator, DagsterDbtTranslatorSettings, dbt_assets

    translator = DagsterDbtTranslator(DagsterDbtTranslatorSettings(enable_duplicate_source_asset_keys=True))

    @dbt_assets(manifest=marts.MANIFEST, dagster_dbt_translator=translator)
    def theirs(context: dg.AssetExecutionContext) -> Iterator[None]:
        yield

    sources = {dep.asset_key for spec in theirs.specs for dep in spec.deps} - theirs.keys
    ours = marts.DbtGraph.of(manifest, sources)
    specs = {spec.key: {dep.asset_key for dep in spec.deps} for spec in ours.models.values()}
    assert specs == {spec.key: {dep.asset_key for dep in spec.deps} for spec in theirs.specs}
    checks = {spec.key for spec in ours.tests.values()}
    assert checks == {spec.key for spec in theirs.check_specs}
    assert len(checks) == len(ours.tests)


def dbt(platform: Platform, *words: str) -> str:
    """Run dbt by itself on the platform's home, its artefacts there too."""
    folder = str(platform.home / "by_hand")
    places = ["--project-dir", str(marts.PROJECT), "--profiles-dir", str(marts.PROJECT)]
    command = [str(Path(sys.executable).with_name("dbt")), *words, *places, "--target-path", folder]
    environment = platform.environment | {"DBT_LOG_PATH": folder}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=platform.root, timeout=180)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def table(platform: Platform, name: str) -> pl.DataFrame:
    with attached(platform.settings.marts_path, read_only=True) as connection:
        return connection.sql(f"FROM {name}").pl()


def checks(platform: Platform) -> dict[str, bool]:
    """Check -> whether it passed in the newest run."""
    run_id = platform.runs()[-1].run_id
    with platform.instance() as instance:
        events = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION)
    found = [one.dagster_event.asset_check_evaluation_data for one in events if one.dagster_event]
    return {one.check_name: one.passed for one in found}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """The small platform after `quant pipeline run` and `quant marts`, which may reach no other machine."""
    root = tmp_path_factory.mktemp("marts")
    (root / "sitecustomize.py").write_text(WATCH)
    connections = root / "connections"
    platform = small_platform(root, QUANT_TEST_CONNECTIONS=str(connections))
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(socket.socket, "connect", socket.socket.connect)
        monkeypatch.setattr(socket, "getaddrinfo", socket.getaddrinfo)
        exec(WATCH, {})
        monkeypatch.setenv("PYTHONPATH", f"{root}:{PROJECT_ROOT}")  # dbt is a process of its own
        quant = CommandLine(platform, monkeypatch)
        quant("pipeline", "run")
        said = quant("marts")
    assert "succeeded; partitions: dbt_marts 23" in said.out
    assert not connections.exists(), connections.read_text()
    return platform


def test_every_dbt_test_passes_after_a_pipeline(finished: Platform, manifest: dict[str, Any]) -> None:
    found = checks(finished)
    assert sorted(found) == sorted(
        node["name"] for node in manifest["nodes"].values() if node["resource_type"] == "test"
    )
    assert [name for name, passed in found.items() if not passed] == []


def test_documented_columns_are_those_of_the_tables(finished: Platform, manifest: dict[str, Any]) -> None:
    for node in models(manifest):
        if node["name"] in MARTS:
            assert list(node["columns"]) == table(finished, node["name"]).columns, node["name"]


def test_the_catalog_shows_the_rows_and_columns_of_a_mart(finished: Platform) -> None:
    with finished.instance() as instance:
        event = instance.get_latest_materialization_event(dg.AssetKey(["marts", "data_freshness"]))
    assert event is not None
    assert event.asset_materialization is not None
    told = event.asset_materialization.metadata
    assert told[ROW_COUNT].value == 3
    columns = told["dagster/column_schema"].value.columns
    assert [(one.name, one.type) for one in columns[:2]] == [("symbol", "VARCHAR"), ("first_session", "DATE")]
    assert all(one.description for one in columns)


def test_freshness_counts_the_stored_bars(finished: Platform) -> None:
    sessions, late = trading_calendar("XNYS").between(START, END), trading_calendar("XNYS").between(LISTED, END)
    rows = table(finished, "data_freshness").sort("symbol").drop("ingested_at").rows()
    assert rows == [
        ("AAA", START, END, len(sessions), 0, 0, 0),
        ("BBB", START, END, len(sessions), 0, 0, 0),
        ("CCC", LISTED, END, len(late), 0, 0, 0),
    ]
    assert table(finished, "data_gaps").is_empty()


def test_coverage_is_values_over_bars(finished: Platform) -> None:
    bars = finished.warehouse.query("SELECT count(*) FROM ohlcv").item()
    rows = dict(table(finished, "feature_coverage").select("feature_name", "coverage").iter_rows())
    assert rows["hl_range"] == 1
    assert rows["ret_5d"] == (bars - 3 * 5) / bars


def test_the_latest_targets_are_what_the_supervisor_said_last(finished: Platform) -> None:
    expected = finished.warehouse.query(
        "SELECT strategy_id, symbol, approved, weight, reason FROM targets "
        'WHERE "asof" = (SELECT max("asof") FROM targets) ORDER BY ALL'
    )
    found = table(finished, "latest_targets").select(expected.columns).sort("strategy_id", "symbol")
    assert found.height == len(STRATEGIES) * 3
    assert found.rows() == expected.rows()


def test_the_leaderboard_sets_each_backtest_beside_its_own_verdict(finished: Platform) -> None:
    expected = finished.warehouse.query(
        "SELECT b.strategy_id, b.run_id, b.sharpe, v.verdict FROM backtest_summary b JOIN validation_results v "
        "ON v.backtest_run_id = b.run_id AND v.method = 'verdict' ORDER BY 1"
    )
    columns = ["strategy_id", "backtest_run_id", "sharpe", "verdict"]
    found = table(finished, "strategy_leaderboard").sort("strategy_id")
    assert found.select(columns).rows() == expected.rows()
    assert sorted(found["place"]) == [1, 2]


def test_turnover_and_exposure_add_up_to_the_stored_curve(finished: Platform) -> None:
    curve = finished.warehouse.query(
        "SELECT strategy_id, count(*) AS sessions, sum(turnover) AS turnover, avg(gross_exposure) AS exposure, "
        "product(1 + ret) - 1 AS net FROM backtest_equity GROUP BY 1 ORDER BY 1"
    ).rows()
    costs = table(finished, "cost_and_turnover").sort("strategy_id")
    assert costs["year"].to_list() == [2023, 2023]
    months = table(finished, "exposure")
    assert set(months["month"]) == {date(2023, month, 1) for month in range(3, 9)}
    share = (pl.col("mean_exposure") * pl.col("sessions")).sum() / pl.col("sessions").sum()
    mean = months.group_by("strategy_id").agg(share.alias("exposure")).sort("strategy_id")
    for (name, sessions, turnover, exposure, net), cost, held in zip(
        curve, costs.iter_rows(named=True), mean["exposure"], strict=True
    ):
        assert (cost["strategy_id"], cost["sessions"]) == (name, sessions)
        assert (cost["turnover"], cost["net_return"]) == pytest.approx((turnover, net), rel=1e-9)
        assert held == pytest.approx(exposure, rel=1e-9)


def test_marts_made_alone_have_their_own_tests_and_one_that_fails_leaves_what_stands_on_it_as_it_was(
    finished: Platform, manifest: dict[str, Any]
) -> None:
    before = table(finished, "model_performance").sort("model_id")
    with finished.warehouse.write() as writer:
        (model,) = writer.query("SELECT model_id FROM predictions ORDER BY ALL LIMIT 1")["model_id"]
        kept = writer.query("SELECT * FROM models WHERE model_id = ?", [model])
        writer.delete(TABLES["models"], "model_id = ?", [model])
    keys = [dg.AssetKey(["staging", name]) for name in ("stg_models", "stg_predictions")]
    keys += [dg.AssetKey(["marts", name]) for name in ("data_gaps", "model_performance")]
    job = finished.definitions().resolve_job_def(marts.JOB)
    try:
        with finished.instance() as instance:
            done = job.execute_in_process(
                run_config=QUIET, instance=instance, asset_selection=keys, raise_on_error=False
            )
    finally:
        with finished.warehouse.write() as writer:
            writer.append(TABLES["models"], kept.drop("run_id"), run_id=kept["run_id"][0])
    failed = "relationships_stg_predictions_model_id__model_id__ref_stg_models_"
    found = checks(finished)
    made = {f"model.quant_assets.{name}" for name in ("stg_models", "stg_predictions", "data_gaps")}
    assert set(found) == {one["name"] for one in manifest["nodes"].values() if one.get("attached_node") in made}
    assert [name for name, passed in found.items() if not passed] == [failed]
    (failure,) = (event.step_failure_data.error for event in done.all_events if event.is_step_failure)
    assert f"dbt made 3 of 4 models (failed tests: {failed})" in str(failure)
    assert table(finished, "model_performance").sort("model_id").equals(before)


@pytest.mark.thorough
def test_dbt_alone_builds_tests_and_documents_an_empty_home(tmp_path: Path) -> None:
    platform = small_platform(tmp_path)
    said = dbt(platform, "build")
    assert "11 unit tests" in said
    assert "ERROR=0" in said
    assert {name: table(platform, name).height for name in MARTS} == dict.fromkeys(MARTS, 0)
    dbt(platform, "docs", "generate")
    catalog = json.loads((platform.home / "by_hand" / "catalog.json").read_bytes())
    assert {name.split(".")[-1] for name in catalog["nodes"]} >= MARTS


def test_dbt_takes_its_turn_at_the_warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    platform = small_platform(tmp_path, QUANT_LOCK_TIMEOUT_SECONDS="0.2")
    platform.warehouse.prepare()
    with platform.warehouse.turn():
        said = CommandLine(platform, monkeypatch)("marts", code=1)
    assert "error: dbt made 0 of 23 models" in said.err
    assert "is in use by another run for over 0.2 s" in said.err
