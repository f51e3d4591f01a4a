"""What run storage knows of the runs that made a number: their state, checks and code, and what they restated."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from functools import cache
from typing import Any

import dagster as dg

from quant_assets.defs.grid import PARTITION, Grid
from quant_assets.defs.market import RESTATED
from quant_assets.strategy.lineage import Node
from quant_assets.strategy.markets import RANGE_END

_EVENTS = 20
"""Materialisations of one partition that are looked through for that of a certain run."""
_RUNS = 200
"""Runs that are looked through for the newest restatement."""


@dataclass(frozen=True)
class RunRow:
    """One run of the instance, as a list shows it."""

    run_id: str
    status: str
    started: datetime | None
    seconds: float | None
    job: str
    what: str
    pipeline: str
    tags: Mapping[str, str] = field(default_factory=dict)


def recent_runs(instance: dg.DagsterInstance, limit: int = 20) -> list[RunRow]:
    """The newest runs first."""
    return [_row(record) for record in instance.get_run_records(limit=limit)]


def _row(record: dg.RunRecord) -> RunRow:
    run = record.dagster_run
    started = datetime.fromtimestamp(record.start_time, UTC) if record.start_time else None
    seconds = record.end_time - record.start_time if record.end_time and record.start_time else None
    assets = sorted(key.to_user_string() for key in run.asset_selection or ())
    low = run.tags.get("dagster/asset_partition_range_start") or run.tags.get("dagster/partition", "")
    high = run.tags.get("dagster/asset_partition_range_end", "")
    span = low if low == high or not high else f"{low} .. {high}"
    return RunRow(
        run.run_id,
        run.status.value,
        started,
        seconds,
        run.job_name,
        f"{', '.join(assets)} [{span}]" if span else run.job_name,
        run.tags.get("quant/pipeline", ""),
        run.tags,
    )


def metadata_of(instance: dg.DagsterInstance, run_id: str) -> dict[str, Any]:
    """The plain values that a run's last materialisation tells of itself."""
    (*_, newest) = instance.all_logs(run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
    assert newest.asset_materialization is not None
    return {name: told.value for name, told in newest.asset_materialization.metadata.items()}


def with_runs(node: Node, instance: dg.DagsterInstance) -> Node:
    """The chain with the state, checks and code version of the runs that made each of its nodes."""
    return _with_runs(node, instance, cache(lambda run_id: _run_facts(instance, run_id)))


def _with_runs(node: Node, instance: dg.DagsterInstance, told: Callable[[str], Mapping[str, str]]) -> Node:
    facts = dict(node.facts)
    for run_id in node.run_ids:
        facts |= told(run_id)
        if version := _code_version(instance, node, run_id):
            facts["code version"] = ", ".join(dict.fromkeys(filter(None, (facts.get("code version"), version))))
    parents = tuple(_with_runs(parent, instance, told) for parent in node.parents)
    return replace(node, facts=facts, parents=parents)


def _code_version(instance: dg.DagsterInstance, node: Node, run_id: str) -> str | None:
    """By which version of its asset's code the run made the node; None where it left no event of it."""
    run = instance.get_run_by_id(run_id)
    newest = run and (run.tags.get(RANGE_END) or run.tags.get(PARTITION))
    cells = [cell for cell in (node.partition, newest) if cell]
    if not cells:
        return None
    wanted = dg.AssetRecordsFilter(asset_key=dg.AssetKey(node.asset), asset_partitions=cells)
    for record in instance.fetch_materializations(wanted, limit=_EVENTS).records:
        if record.run_id == run_id and record.asset_materialization is not None:
            return (record.asset_materialization.tags or {}).get("dagster/code_version")
    return None


def newest_restatement(
    instance: dg.DagsterInstance, grid: Grid, symbol: str, run_id: str | None = None
) -> tuple[date, date] | None:
    """First and last date of the symbol's stored bars that a run changed: `run_id`, or else the newest that did."""
    key = grid.key("ohlcv")
    runs = instance.get_runs(dg.RunsFilter(run_ids=[run_id]) if run_id else None, limit=_RUNS)
    ends = [_end_of(run, grid, symbol) for run in runs if key in (run.asset_selection or (key,))]
    cells = list(dict.fromkeys(filter(None, ends)))
    if not cells:
        return None
    wanted = dg.AssetRecordsFilter(asset_key=key, asset_partitions=cells)
    for record in instance.fetch_materializations(wanted, limit=_EVENTS * len(cells)).records:
        made = record.asset_materialization
        value = made.metadata[RESTATED].value if made and RESTATED in made.metadata else {}
        if isinstance(value, dict) and symbol in value and run_id in (None, record.run_id):
            first, last = value[symbol]
            return date.fromisoformat(first), date.fromisoformat(last)
    return None


def _end_of(run: dg.DagsterRun, grid: Grid, symbol: str) -> str | None:
    """The newest of the symbol's cells in a run: where ohlcv says what it restated."""
    with suppress(ValueError):  # names that have left the universe since
        piece = grid.slice_of_tags(dict(run.tags))
        if piece and symbol in piece.keys:
            return f"{grid.date_key(piece.last)}|{symbol}"
    return None


def _run_facts(instance: dg.DagsterInstance, run_id: str) -> dict[str, str]:
    record = next(iter(instance.get_run_records(dg.RunsFilter(run_ids=[run_id]))), None)
    if record is None:
        return {f"run {run_id[:8]}": "no longer in run storage"}
    row = _row(record)
    when = f"{row.started:%Y-%m-%d %H:%M} UTC" if row.started else "not started"
    checks = instance.get_records_for_run(run_id, of_type=dg.DagsterEventType.ASSET_CHECK_EVALUATION).records
    passed = sum(
        1 for one in checks if (event := one.event_log_entry.dagster_event) and event.asset_check_evaluation_data.passed
    )
    return {f"run {run_id}": f"{row.status} {when}, checks {passed}/{len(checks)} passed, {row.what}"}
