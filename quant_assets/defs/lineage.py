"""Where a number came from: from a target back to model, features, bars, and the runs and code that made each."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import dagster as dg

from quant_assets.contracts import features_daily
from quant_assets.core.errors import ConfigError
from quant_assets.features import feature_set
from quant_assets.strategy.compose import history
from quant_assets.strategy.spec import StrategySpec
from quant_assets.warehouse import Warehouse


@dataclass(frozen=True)
class Node:
    """One link of the chain: what it is, what is known of it, and what it was made from."""

    title: str
    facts: Mapping[str, str]
    parents: tuple["Node", ...] = ()


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


def trace(
    warehouse: Warehouse, instance: dg.DagsterInstance, spec: StrategySpec, symbol: str, asof: date | None = None
) -> Node:
    """The chain behind a strategy's target for `symbol`: the latest rebalance on or before `asof`.

    Raises:
        ConfigError: no such target.
    """
    rows = warehouse.query(
        'SELECT * FROM targets WHERE strategy_id = ? AND symbol = ? AND "asof" <= ? ORDER BY "asof" DESC LIMIT 1',
        [spec.strategy_id, symbol, asof or date.max],
    )
    if rows.is_empty():
        raise ConfigError(
            f"{spec.strategy_id} has no target for {symbol} on or before {asof or 'today'}; "
            f"run `quant pipeline run --strategy {spec.strategy_id}` or choose another symbol or date"
        )
    target = rows.row(0, named=True)
    facts = {
        "weight": f"{target['weight']:.4f}",
        "approved": str(target["approved"]),
        "score": "none" if target["score"] is None else f"{target['score']:.6g}",
        "rules": ", ".join(target["risk_flags"]) or "none",
        "reason": target["reason"],
        "strategy": f"{spec.strategy_id} {target['version']} (file sha256 {spec.source_hash[:16]})",
    }
    title = f"target {spec.strategy_id} / {symbol} as of {target['asof']}"
    read = (
        _bars(warehouse, instance, symbol, target["asof"], history(spec))
        if spec.feature_version is None
        else _features(warehouse, instance, spec.feature_version, symbol, target["asof"])
    )
    parents = (_prediction(warehouse, instance, spec, symbol, target["asof"], read) if spec.model else read,)
    return Node(title, facts | _run_facts(instance, target["run_id"]), parents)


def _prediction(
    warehouse: Warehouse, instance: dg.DagsterInstance, spec: StrategySpec, symbol: str, day: date, features: Node
) -> Node:
    assert spec.model is not None
    rows = warehouse.query(
        "SELECT p.score, p.calibrated_score, p.run_id AS scored_by, m.* "
        "FROM predictions p JOIN models m USING (model_id) "
        "WHERE p.symbol = ? AND p.ts = ? AND m.experiment_id = ?",
        [symbol, day, spec.model.experiment_id],
    )
    if rows.is_empty():
        return Node(f"prediction {symbol} {day}", {"score": "none stored"}, (features,))
    row = rows.row(0, named=True)
    metrics = json.loads(row["metrics"])
    model = Node(
        f"model {row['model_id']}",
        {
            "experiment": row["experiment_id"],
            "scope": row["scope"],
            "trained on": f"{row['train_from']} .. {row['train_to']} ({metrics.get('rows')} rows, "
            f"as known on {metrics.get('training_date')})",
            "hold-out": json.dumps(metrics.get("holdout")),
            "file": f"{row['path']} (sha256 {row['sha256'][:16]})",
            **_run_facts(instance, row["run_id"]),
        },
    )
    facts = {
        "score": f"{row['score']:.6g}",
        "calibrated": "none" if row["calibrated_score"] is None else f"{row['calibrated_score']:.4f}",
        **_run_facts(instance, row["scored_by"]),
    }
    return Node(f"prediction {symbol} {day}", facts, (model, features))


def _features(warehouse: Warehouse, instance: dg.DagsterInstance, version: str, symbol: str, day: date) -> Node:
    chosen = feature_set(version)
    rows = warehouse.query(
        f"SELECT * FROM {features_daily.wide(version, chosen.names).name} WHERE symbol = ? AND ts = ?", [symbol, day]
    )
    bars = _bars(warehouse, instance, symbol, day, chosen.lookback)
    title = f"features {version} of {symbol} {day}"
    if rows.is_empty():
        return Node(title, {"values": "none stored"}, (bars,))
    row = rows.row(0, named=True)
    values = ", ".join(f"{name} {row[name]:.4g}" for name in chosen.names if row[name] is not None)
    return Node(
        title, {"values": values, "partition": f"{day}|{symbol}", **_run_facts(instance, row["run_id"])}, (bars,)
    )


def _bars(warehouse: Warehouse, instance: dg.DagsterInstance, symbol: str, day: date, lookback: int | None) -> Node:
    """The bar of `day` and `lookback` before it; None: all of them."""
    rows = warehouse.query(
        "SELECT min(ts) AS first, max(ts) AS last, count(*) AS bars, list(DISTINCT source) AS sources, "
        "list(DISTINCT run_id) AS runs FROM "
        "(SELECT * FROM ohlcv WHERE symbol = ? AND ts <= ? ORDER BY ts DESC LIMIT ?)",
        [symbol, day, None if lookback is None else lookback + 1],
    )
    row = rows.row(0, named=True)
    held = warehouse.query(
        "SELECT count(*) AS n FROM quarantine WHERE symbol = ? AND ts BETWEEN ? AND ?", [symbol, row["first"], day]
    )
    facts = {
        "partitions": f"{row['first']}|{symbol} .. {row['last']}|{symbol} ({row['bars']} bars)",
        "provider": ", ".join(row["sources"] or []),
        "quarantined": str(held["n"][0]),
    }
    for run_id in (row["runs"] or [])[:3]:
        facts |= _run_facts(instance, run_id)
    return Node(f"bars of {symbol}", facts)


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
