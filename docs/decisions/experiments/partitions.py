"""What a backfill does to a cross-sectional asset under three ways to partition it.

    python docs/decisions/experiments/partitions.py

Each design has `bars` by date and symbol and, below it, `targets`, which rank all symbols of a date. Dagster's own
backfill runs over two dates on an instance that is thrown away. Its event log then says in which order cells were
made, and how many symbols had bars when the targets of a date were first decided.
"""

import logging
import warnings
from collections import defaultdict

import dagster as dg
from dagster._core.execution.backfill import PartitionBackfill
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import PythonFileTarget
from dagster._daemon.backfill import execute_backfill_iteration
from dagster._daemon.controller import create_daemon_grpc_server_registry
from dagster._time import get_current_timestamp

warnings.simplefilter("ignore")

DATES = ("2024-01-02", "2024-01-03", "2024-01-04")
SYMBOLS = ("AAPL", "MSFT")
SINGLE_RUN = dg.BackfillPolicy.single_run()
IN_THIS_PROCESS = {
    "run_launcher": {
        "module": "dagster._core.launcher.sync_in_memory_run_launcher",
        "class": "SyncInMemoryRunLauncher",
    },
    "run_coordinator": {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"},
    "telemetry": {"enabled": False},
}
days = dg.DailyPartitionsDefinition(DATES[0], end_date="2024-01-05")
by_symbol = dg.MultiPartitionsDefinition({"date": days, "symbol": dg.StaticPartitionsDefinition(list(SYMBOLS))})
by_strategy = dg.MultiPartitionsDefinition({"date": days, "strategy": dg.StaticPartitionsDefinition(["momentum"])})
all_symbols = dg.MultiPartitionMapping({"date": dg.DimensionPartitionMapping("date", dg.TimeWindowPartitionMapping())})


def two_assets(partitions: dg.PartitionsDefinition, mapping: dg.PartitionMapping | None) -> dg.Definitions:
    @dg.asset(partitions_def=by_symbol, backfill_policy=SINGLE_RUN)
    def bars() -> dg.MaterializeResult:
        return dg.MaterializeResult()

    @dg.asset(
        partitions_def=partitions, backfill_policy=SINGLE_RUN, deps=[dg.AssetDep(bars, partition_mapping=mapping)]
    )
    def targets() -> dg.MaterializeResult:
        return dg.MaterializeResult()

    return dg.Definitions([bars, targets], executor=dg.in_process_executor)


DESIGNS = {
    "same_cell": "targets by date x symbol, each on its own symbol's bars",
    "all_symbols_by_symbol": "targets by date x symbol, each on all symbols' bars of its date",
    "by_date_and_strategy": "targets by date x strategy, each on all symbols' bars of its date (chosen)",
}
same_cell = two_assets(by_symbol, None)
all_symbols_by_symbol = two_assets(
    by_symbol,
    dg.MultiPartitionMapping(
        {
            "date": dg.DimensionPartitionMapping("date", dg.TimeWindowPartitionMapping()),
            "symbol": dg.DimensionPartitionMapping("symbol", dg.AllPartitionMapping()),
        }
    ),
)
by_date_and_strategy = two_assets(by_strategy, all_symbols)


def backfill(design: str, instance: dg.DagsterInstance) -> list[str]:
    """Run a backfill of all cells to its end. Returns its runs in words, oldest first."""
    target = PythonFileTarget(python_file=__file__, attribute=design, working_directory=None, location_name=design)
    logger = logging.getLogger("backfill")
    with (
        create_daemon_grpc_server_registry(instance, code_server_log_level="ERROR") as servers,
        WorkspaceProcessContext(instance, target, grpc_server_registry=servers) as workspace,
    ):
        graph = workspace.create_request_context().asset_graph
        instance.add_backfill(
            PartitionBackfill.from_asset_partitions(
                backfill_id=design,
                asset_graph=graph,
                partition_names=[f"{day}|{symbol}" for day in DATES for symbol in SYMBOLS],
                asset_selection=[dg.AssetKey("bars"), dg.AssetKey("targets")],
                backfill_timestamp=get_current_timestamp(),
                tags={},
                dynamic_partitions_store=instance,
                all_partitions=False,
                title=None,
                description=None,
                run_config=None,
            )
        )
        for _ in range(20):
            errors = [error for error in execute_backfill_iteration(workspace, logger) if error]
            if errors:
                raise SystemExit(str(errors[0]))
            if instance.get_backfill(design).status.value.startswith("COMPLETED"):
                break
    lines = []
    for record in sorted(instance.get_run_records(), key=lambda record: record.storage_id):
        run = record.dagster_run
        first = run.tags.get("dagster/asset_partition_range_start", run.tags.get("dagster/partition"))
        last = run.tags.get("dagster/asset_partition_range_end", run.tags.get("dagster/partition"))
        assets = ", ".join(sorted(key.to_user_string() for key in run.asset_selection or ()))
        lines.append(f"{assets:<14} {first} .. {last}: {run.status.value}")
    return lines


def symbols_known(instance: dg.DagsterInstance) -> dict[str, int]:
    """Date -> number of symbols with bars when its targets were first decided."""
    events = [
        record
        for name in ("bars", "targets")
        for record in instance.fetch_materializations(dg.AssetKey(name), limit=100).records
    ]
    known: dict[str, set[str]] = defaultdict(set)
    found: dict[str, int] = {}
    for event in sorted(events, key=lambda event: event.storage_id):
        day, name = str(event.partition_key).split("|")
        if event.asset_key == dg.AssetKey("bars"):
            known[day].add(name)
        else:
            found.setdefault(day, len(known[day]))
    return dict(sorted(found.items()))


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    for design, words in DESIGNS.items():
        print(f"\n{words}")
        with dg.DagsterInstance.local_temp(overrides=IN_THIS_PROCESS) as instance:
            for number, line in enumerate(backfill(design, instance), start=1):
                print(f"  run {number}: {line}")
            for day, count in symbols_known(instance).items():
                print(f"  targets of {day}: first decided with bars of {count} of {len(SYMBOLS)} symbols")
