"""The marts: the dbt project `dbt_sql` as assets downstream of all markets, each of its tests an asset check.

dagster-dbt runs dbt. What it would make of dbt's manifest is made here of the manifest alone, because importing it
takes longer than loading all else; a test holds the two equal. The manifest is prepared by `make install`.
"""

import io
import json
import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from quant_assets.core.errors import WarehouseError
from quant_assets.core.settings import PROJECT_ROOT, Settings
from quant_assets.defs.catalog import OWNERS, ROW_COUNT
from quant_assets.defs.failures import failing_clearly
from quant_assets.defs.progress import Report, reporter
from quant_assets.warehouse import Warehouse, attached

GROUP = JOB = "marts"
PROJECT = PROJECT_ROOT / "dbt_sql"
MANIFEST = PROJECT / "target" / "manifest.json"
_log = logging.getLogger(__name__)

Result = dg.MaterializeResult | dg.AssetCheckResult


@dataclass(frozen=True)
class DbtGraph:
    """The models and tests of a dbt project as specs, by dbt's unique ids."""

    models: dict[str, dg.AssetSpec]
    tests: dict[str, dg.AssetCheckSpec]
    names: dict[str, str]
    """Unique id -> the name by which dbt selects the node."""
    columns: dict[str, dict[str, str]]
    """Unique id of a model -> what each of its columns holds."""

    @classmethod
    def of(cls, manifest: Mapping[str, Any], upstream: Collection[dg.AssetKey]) -> "DbtGraph":
        """Read dbt's manifest.

        Args:
            upstream: keys of the assets that write the sources. A source's meta gives the key of the primary market's;
                those of the same name in other markets write the same table.
        """
        nodes = {one: node for one, node in manifest["nodes"].items() if node["resource_type"] in ("model", "test")}
        models = {one: node for one, node in nodes.items() if node["resource_type"] == "model"}
        keys = {one: [dg.AssetKey(_path(node))] for one, node in models.items()}
        for one, source in manifest["sources"].items():
            keys[one] = [key for key in upstream if key.path[-1] == _path(source)[-1]]
        specs = {one: _spec(node, keys) for one, node in models.items()}
        tests = {
            one: dg.AssetCheckSpec(
                node["name"],
                asset=keys[node["attached_node"]][0],
                description=node["description"] or None,
                additional_deps=[
                    keys[each][0] for each in node["depends_on"]["nodes"] if each != node["attached_node"]
                ],
            )
            for one, node in nodes.items()
            if node["resource_type"] == "test"
        }
        columns = {one: _columns(node) for one, node in models.items()}
        return cls(specs, tests, {one: node["name"] for one, node in nodes.items()}, columns)


def _path(node: Mapping[str, Any]) -> list[str]:
    """The asset key that the node's meta names; without one its schema and its name."""
    return node["config"].get("meta", {}).get("dagster", {}).get("asset_key") or [node["schema"], node["name"]]


def _columns(node: Mapping[str, Any]) -> dict[str, str]:
    return {one["name"]: one["description"] for one in node["columns"].values()}


def _spec(node: Mapping[str, Any], keys: Mapping[str, list[dg.AssetKey]]) -> dg.AssetSpec:
    columns = "\n".join(f"- `{name}`: {holds}" for name, holds in _columns(node).items())
    return dg.AssetSpec(
        keys[node["unique_id"]][0],
        deps=list(dict.fromkeys(key for one in node["depends_on"]["nodes"] for key in keys[one])),
        description=f"{node['description'].strip()}\n\n{columns}".strip(),
        group_name=GROUP,
        owners=OWNERS,
        kinds={"dbt", "duckdb"},
        tags={"stage": GROUP},
        code_version=node["checksum"]["checksum"][:12],
    )


def mart_assets(upstream: Collection[dg.AssetKey], settings: Settings) -> list[dg.AssetsDefinition]:
    """All models of the dbt project, made by one run of dbt; none, and a note, where the manifest is missing."""
    try:
        graph = DbtGraph.of(json.loads(MANIFEST.read_bytes()), upstream)
    except FileNotFoundError as error:
        _log.warning("no marts: %s is missing; `make install` prepares it", error.filename)
        return []

    @dg.multi_asset(
        name=f"dbt_{GROUP}",  # a step may not have a job's name
        specs=list(graph.models.values()),
        check_specs=list(graph.tests.values()),
        can_subset=True,
    )
    def marts(context: dg.AssetExecutionContext) -> Iterator[Result]:
        models = {one: spec for one, spec in graph.models.items() if spec.key in context.selected_asset_keys}
        tests = {one: spec for one, spec in graph.tests.items() if spec.key in context.selected_asset_check_keys}
        with failing_clearly():
            yield from _build(DbtGraph(models, tests, graph.names, graph.columns), settings, reporter(context))

    return [marts]


def mart_job() -> UnresolvedAssetJobDefinition:
    """Every mart, with the models that they stand on."""
    return dg.define_asset_job(
        JOB,
        dg.AssetSelection.groups(GROUP),
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        description="Tables for any SQL tool, in marts.duckdb, and their tests.",
    )


def _build(chosen: DbtGraph, settings: Settings, report: Report) -> Iterator[Result]:
    """Run dbt on the chosen nodes; what it made and tested, with the rows that each table has.

    Raises:
        WarehouseError: dbt did not run, or a model was not made.
    """
    finished, errors = _run_dbt(chosen, settings)
    tables = stored_tables(settings)
    for one, result in finished.items():  # in the order they were made
        if one in chosen.models and result["status"] == "success":
            table = tables.get(chosen.names[one])
            told = _metadata(table, chosen.columns[one]) if table else {}
            yield dg.MaterializeResult(
                asset_key=chosen.models[one].key, metadata={"seconds": result["execution_time"], **told}
            )
        elif one in chosen.tests and result["status"] != "skipped":
            check = chosen.tests[one]
            yield dg.AssetCheckResult(
                asset_key=check.asset_key,
                check_name=check.name,
                passed=result["status"] == "pass",
                severity=dg.AssetCheckSeverity.WARN if result["status"] == "warn" else dg.AssetCheckSeverity.ERROR,
                description=result["message"] or None,
            )
    status = {one: result["status"] for one, result in finished.items()}
    missing = [one for one in chosen.models if status.get(one) != "success"]
    if missing:
        failed = [chosen.names[one] for one in chosen.tests if status.get(one) == "fail"]
        words = [f"failed tests: {', '.join(failed)}"] if failed else []
        words += [
            f"{chosen.names[one]}: {_line(finished[one]['message'])}" for one in missing if status.get(one) == "error"
        ]
        raise WarehouseError(
            f"dbt made {len(chosen.models) - len(missing)} of {len(chosen.models)} models "
            f"({'; '.join(words or errors) or 'it did not run'}); its log is {_log_file(settings)}"
        )
    report(f"{len(chosen.models)} models made and {len(chosen.tests)} tests run: {settings.marts_path}")


def _run_dbt(chosen: DbtGraph, settings: Settings) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """`dbt build` on the chosen nodes: unique id -> result; and what dbt said of errors.

    `DbtCliResource` is passed by: it asks for dbt's version first, which asks the network for the newest one.
    """
    from dagster_dbt import DagsterDbtTranslator, DbtCliInvocation
    from dagster_dbt.compat import DBT_PYTHON_VERSION

    selected = " ".join(chosen.names[one] for one in (*chosen.models, *chosen.tests))
    options = ["--exclude-resource-type", "unit_test", "--indirect-selection", "empty", "--select", selected]
    # dbt's log file has all that it prints
    with TemporaryDirectory(prefix="quant-dbt-") as target, redirect_stdout(io.StringIO()):
        running = DbtCliInvocation.run(
            [str(Path(sys.executable).with_name("dbt")), "build", *options],
            env={
                **os.environ,
                "QUANT_HOME": str(settings.home.resolve()),
                "DBT_PROFILES_DIR": str(PROJECT),
                "DBT_TARGET_PATH": target,
                "DBT_LOG_PATH": str(_log_file(settings).parent),
                "DBT_LOG_FORMAT": "json",
                "DBT_SEND_ANONYMOUS_USAGE_STATS": "false",
                "PYTHONUNBUFFERED": "1",
            },
            manifest={},
            dagster_dbt_translator=DagsterDbtTranslator(),
            project_dir=PROJECT,
            target_path=Path(target),
            raise_on_error=False,
            context=None,
            adapter=None,
            cli_version=DBT_PYTHON_VERSION,
        )
        said = [event.raw_event["info"] for event in running.stream_raw_events()]
        found = Path(target, "run_results.json")
        results = json.loads(found.read_bytes())["results"] if found.exists() else []
    words = [one["msg"].split("Traceback (most recent call last)")[0] for one in said if one["level"] == "error"]
    errors = [_line(one) for one in words if one.strip()]
    return {one["unique_id"]: one for one in results}, errors


def _log_file(settings: Settings) -> Path:
    return settings.home.resolve() / "dbt" / "dbt.log"


def _line(text: str) -> str:
    return " ".join(text.split())[:300]


@dataclass(frozen=True)
class StoredTable:
    """A table of the marts' file: its rows, and name -> DuckDB type of its columns."""

    rows: int
    columns: dict[str, str]


def stored_tables(settings: Settings) -> dict[str, StoredTable]:
    """The tables of the marts' file by name; views would have to read the warehouse."""
    if not settings.marts_path.exists():
        return {}
    warehouse = Warehouse(settings.warehouse_path, lock_timeout=settings.lock_timeout_seconds)
    # whoever holds the one file has the other open
    with warehouse.turn(reading=True), attached(settings.marts_path, read_only=True) as connection:
        names = connection.execute("SELECT schema_name, table_name FROM duckdb_tables() ORDER BY table_name").fetchall()
        return {name: _table(connection.table(f'marts."{schema}"."{name}"')) for schema, name in names}


def _table(relation: Any) -> StoredTable:
    columns = {name: str(kind) for name, kind in zip(relation.columns, relation.types, strict=True)}
    return StoredTable(len(relation), columns)


def _metadata(table: StoredTable, holds: Mapping[str, str]) -> dict[str, Any]:
    columns = [dg.TableColumn(name, kind, holds.get(name)) for name, kind in table.columns.items()]
    return {ROW_COUNT: table.rows, "dagster/column_schema": dg.TableSchema(columns)}
