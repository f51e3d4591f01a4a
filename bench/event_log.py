"""Dagster's bookkeeping per materialised partition: stock SQLite event log against the batched one.

Run: python bench/event_log.py

Both sides run the same job of empty assets over ranges of (date, symbol) cells in this process. The cost of a cell is
the slope between two sizes, so that what a run costs once is in neither side. The stock side runs on fewer cells:
three sizes show that its cost per cell does not depend on how many there are.
"""

import datetime
import os
import sqlite3
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from time import perf_counter
from typing import Any
from unittest import mock

import dagster as dg
from common import median_seconds, report
from dagster._core.instance.ref import InstanceRef

from quant_assets.event_log import BatchedSqliteEventLogStorage

warnings.simplefilter("ignore", dg.BetaWarning)

ROUNDS = 3
STOCK_SESSIONS = (8, 20, 32)
BATCHED_SESSIONS = (32, 832)
SYMBOLS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
ASSETS = ("ohlcv", "features_daily", "labels")
FIRST = datetime.date(2003, 3, 3)
SESSIONS = [
    day
    for day in (FIRST + datetime.timedelta(number) for number in range(2 * max(BATCHED_SESSIONS)))
    if day.weekday() < 5
]
WEEKENDS = [
    datetime.datetime.combine(day, datetime.time())
    for day in (FIRST + datetime.timedelta(number) for number in range(2 * max(BATCHED_SESSIONS)))
    if day.weekday() >= 5
]
CELLS = dg.MultiPartitionsDefinition(
    {
        "date": dg.TimeWindowPartitionsDefinition(
            start=FIRST.isoformat(),
            end=(SESSIONS[-1] + datetime.timedelta(1)).isoformat(),
            fmt="%Y-%m-%d",
            cron_schedule="0 0 * * *",
            exclusions=WEEKENDS,
        ),
        "symbol": dg.StaticPartitionsDefinition(list(SYMBOLS)),
    }
)
CELLS_PER_SESSION = len(SYMBOLS) * len(ASSETS)


def market_job() -> dg.JobDefinition:
    """Three empty assets, date x symbol, the later two downstream of the first."""

    def asset(name: str) -> dg.AssetsDefinition:
        @dg.asset(
            name=name,
            partitions_def=CELLS,
            backfill_policy=dg.BackfillPolicy.single_run(),
            code_version="1",
            deps=[] if name == ASSETS[0] else [ASSETS[0]],
        )
        def empty() -> dg.MaterializeResult:
            return dg.MaterializeResult(metadata={"rows": 12})

        return empty

    assets = [asset(name) for name in ASSETS]
    return dg.Definitions(assets=assets, jobs=[dg.define_asset_job("market", assets)]).resolve_job_def("market")


@contextmanager
def instance_with(module: str, storage: str) -> Iterator[dg.DagsterInstance]:
    with tempfile.TemporaryDirectory() as folder:
        overrides = {
            "telemetry": {"enabled": False},
            "python_logs": {"python_log_level": "INFO"},
            "event_log_storage": {"module": module, "class": storage, "config": {"base_dir": f"{folder}/events"}},
            "run_storage": {
                "module": "dagster._core.storage.runs",
                "class": "SqliteRunStorage",
                "config": {"base_dir": f"{folder}/runs"},
            },
            "schedule_storage": {
                "module": "dagster._core.storage.schedules",
                "class": "SqliteScheduleStorage",
                "config": {"base_dir": f"{folder}/schedules"},
            },
        }
        with dg.DagsterInstance.from_ref(InstanceRef.from_dir(folder, overrides=overrides)) as instance:
            yield instance


def run(job: dg.JobDefinition, instance: dg.DagsterInstance, sessions: int) -> None:
    tags = {
        "dagster/asset_partition_range_start": f"{SESSIONS[0]}|{SYMBOLS[0]}",
        "dagster/asset_partition_range_end": f"{SESSIONS[sessions - 1]}|{SYMBOLS[-1]}",
    }
    if not job.execute_in_process(instance=instance, tags=tags).success:
        raise RuntimeError("the empty job failed; its log is above")


def stored_bytes(instance: dg.DagsterInstance) -> int:
    return sum(path.stat().st_size for path in Path(instance.event_log_storage._base_dir).glob("*"))


def answers(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What a reader of the log sees, without ids, instants and the order within a range (ours is by partition)."""
    seen: dict[str, Any] = {}
    for name in ASSETS:
        key = dg.AssetKey(name)
        records = instance.fetch_materializations(key, limit=10_000).records
        seen[name] = {
            record.partition_key: (
                record.asset_materialization.metadata,
                {tag: value for tag, value in record.asset_materialization.tags.items() if "pointer" not in tag},
            )
            for record in records
        }
        seen[name, "events"] = len(records)
        seen[name, "partitions"] = instance.get_materialized_partitions(key)
        seen[name, "tags"] = sorted(
            sorted(tags.items()) for tags in instance.event_log_storage.get_event_tags_for_asset(key)
        )
    seen["steps"] = [
        (step.step_key, step.status, len(step.materialization_events))
        for step in instance.get_run_step_stats(instance.get_runs()[0].run_id)
    ]
    seen["runs"] = [run.status for run in instance.get_runs()]
    return seen


def storing_share(job: dg.JobDefinition, instance: dg.DagsterInstance, sessions: int) -> float:
    """Share of a run's time that is spent inside the storage."""
    inside = 0.0
    store = BatchedSqliteEventLogStorage.store_event_batch

    def timed(self: BatchedSqliteEventLogStorage, events: Any) -> None:
        nonlocal inside
        begun = perf_counter()
        store(self, events)
        inside += perf_counter() - begun

    with mock.patch.object(BatchedSqliteEventLogStorage, "store_event_batch", timed):
        start = perf_counter()
        run(job, instance, sessions)
        return inside / (perf_counter() - start)


def tag_share(instance: dg.DagsterInstance) -> float:
    """Share of the index file that holds partition and data version tags."""
    with closing(sqlite3.connect(Path(instance.event_log_storage._base_dir) / "index.db")) as raw:
        size = "SELECT sum(pgsize) FROM dbstat WHERE name LIKE ?"
        ((tags,), (everything,)) = (raw.execute(size, (like,)).fetchone() for like in ("%asset_event_tags%", "%"))
    return float(tags / everything)


def main() -> None:
    os.environ.pop("DAGSTER_EVENT_BATCH_SIZE", None)
    job = market_job()
    with (
        instance_with("dagster._core.storage.event_log", "SqliteEventLogStorage") as stock,
        instance_with("quant_assets.event_log", "BatchedSqliteEventLogStorage") as batched,
    ):
        for instance in (stock, batched):
            run(job, instance, STOCK_SESSIONS[0])
        if answers(stock) != answers(batched):
            raise SystemExit("the two event logs answer differently after the same run")
        grown: dict[str, int] = {}

        def side(instance: dg.DagsterInstance, name: str, sessions: int) -> Callable[[], None]:
            def once() -> None:
                before = stored_bytes(instance)
                run(job, instance, sessions)
                grown[name] = stored_bytes(instance) - before

            return once

        sides = {f"stock {size}": side(stock, f"stock {size}", size) for size in STOCK_SESSIONS}
        sides |= {f"batched {size}": side(batched, f"batched {size}", size) for size in BATCHED_SESSIONS}
        seconds = median_seconds(ROUNDS, sides)

        def slope(of: dict[str, Any], who: str, low: int, high: int) -> float:
            return (of[f"{who} {high}"] - of[f"{who} {low}"]) / ((high - low) * CELLS_PER_SESSION)

        low, _, high = STOCK_SESSIONS
        stock_seconds = slope(seconds, "stock", low, high)
        stock_bytes = slope(grown, "stock", low, high)
        ours = slope(seconds, "batched", *BATCHED_SESSIONS)
        our_bytes = slope(grown, "batched", *BATCHED_SESSIONS)
        whole = ", ".join(
            f"{seconds[f'stock {size}'] / (size * CELLS_PER_SESSION) * 1e3:.1f} at {size * CELLS_PER_SESSION}"
            for size in STOCK_SESSIONS
        )
        print(
            f"stock: {stock_seconds * 1e3:.2f} ms, {stock_bytes:.0f} bytes per cell; ms per cell of whole runs: {whole}"
        )
        print(f"batched: {ours * 1e3:.3f} ms and {our_bytes:.0f} bytes per cell")
        report("event_log_time", stock_seconds / ours, ">=35")
        report("event_log_bytes", our_bytes / stock_bytes, "<=0.35")
        share = storing_share(job, batched, BATCHED_SESSIONS[-1])
        print(
            f"bound: {share:.0%} of a batched run is spent storing, the rest is Dagster making, checking and logging"
            " one event object per cell before the storage sees it;"
            f" {tag_share(batched):.0%} of the index file is asset_event_tags with its indices"
        )


if __name__ == "__main__":
    main()
