import os
import signal
import sqlite3
import subprocess
import sys
import warnings
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pytest
import yaml
from dagster._core.definitions.events import AssetMaterialization
from dagster._core.events import (
    DagsterEvent,
    DagsterEventBatchMetadata,
    DagsterEventType,
    StepMaterializationData,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.instance.ref import InstanceRef
from dagster._core.storage.event_log.base import EventLogStorage
from dagster._core.storage.event_log.sqlite.sqlite_event_log import SqliteEventLogStorage
from dagster._core.storage.partition_status_cache import get_and_update_asset_status_cache_value
from dagster._serdes import serialize_value
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.event_log import (
    EVENT_BATCH_SIZE,
    BatchedSqliteEventLogStorage,
    _by_partition,
    _Serializer,
    materialize_partitions,
)

pytestmark = [
    pytest.mark.slow,
    *(pytest.mark.filterwarnings(f"ignore::dagster.{kind}") for kind in ("BetaWarning", "PreviewWarning")),
]
warnings.simplefilter("ignore", dg.BetaWarning)

STOCK = (__name__, "StockInPartitionOrder")
BATCHED = "quant_assets.event_log", "BatchedSqliteEventLogStorage"
DATES = dg.TimeWindowPartitionsDefinition(
    start="2024-01-01",
    end="2024-01-09",
    fmt="%Y-%m-%d",
    cron_schedule="0 0 * * *",
    exclusions=[datetime(2024, 1, 6), datetime(2024, 1, 7)],
)
CELLS = dg.MultiPartitionsDefinition({"date": DATES, "symbol": dg.StaticPartitionsDefinition(["AAPL", "MSFT"])})
RANGE = {
    "dagster/asset_partition_range_start": "2024-01-01|AAPL",
    "dagster/asset_partition_range_end": "2024-01-03|MSFT",
}
RUN_ID = "5b1f5a8e-7f4a-4a55-9a3e-0f2d6c1b7a10"


@dg.asset(partitions_def=CELLS, backfill_policy=dg.BackfillPolicy.single_run(), code_version="1")
def bars() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"rows": 12, "path": dg.MetadataValue.path("bars")})


@dg.asset(partitions_def=CELLS, backfill_policy=dg.BackfillPolicy.single_run(), code_version="1", deps=[bars])
def features(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    context.log.info("computing")
    context.log_event(dg.AssetObservation("bars", metadata={"seen": 1}, partition="2024-01-02|AAPL"))
    for number, cell in enumerate(context.partition_keys):
        context.add_asset_metadata({"cell": number}, partition_key=cell)
    return dg.MaterializeResult()


@dg.asset(partitions_def=CELLS, backfill_policy=dg.BackfillPolicy.single_run(), deps=[bars])
def labels(context: dg.AssetExecutionContext) -> dg.MaterializeResult:
    materialize_partitions(context, context.partition_keys[:5], {"rows": 3})
    raise dg.Failure("MSFT has no bars", allow_retries=False)


@dg.asset_check(asset=bars)
def bars_are_positive() -> dg.AssetCheckResult:
    return dg.AssetCheckResult(passed=False, severity=dg.AssetCheckSeverity.WARN, metadata={"worst": -1.0})


@dg.asset
def summary() -> dg.MaterializeResult:
    return dg.MaterializeResult(metadata={"sharpe": 0.5})


ASSETS = [bars, features, labels, summary]


class StockInPartitionOrder(SqliteEventLogStorage):
    """The stock storage, given a batch's materialisations in the order that ours stores them in."""

    @classmethod
    def from_config_value(cls, inst_data: Any, config_value: Any) -> "StockInPartitionOrder":
        return cls(inst_data=inst_data, **config_value)

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        for event in _by_partition(events):
            self.store_event(event)


def config(folder: Path, log: tuple[str, str] = BATCHED) -> dict[str, Any]:
    def storage(module: str, cls: str, name: str) -> dict[str, Any]:
        return {"module": module, "class": cls, "config": {"base_dir": str(folder / name)}}

    return {
        "telemetry": {"enabled": False},
        "event_log_storage": storage(*log, "events"),
        "run_storage": storage("dagster._core.storage.runs", "SqliteRunStorage", "runs"),
        "schedule_storage": storage("dagster._core.storage.schedules", "SqliteScheduleStorage", "schedules"),
    }


def instance_in(folder: Path, log: tuple[str, str] = BATCHED) -> dg.DagsterInstance:
    return dg.DagsterInstance.from_ref(InstanceRef.from_dir(str(folder), overrides=config(folder, log)))


def run_all(instance: dg.DagsterInstance) -> None:
    definitions = dg.Definitions(
        assets=ASSETS,
        asset_checks=[bars_are_positive],
        jobs=[dg.define_asset_job("market", [bars, features, labels]), dg.define_asset_job("decision", [summary])],
    )
    market = definitions.resolve_job_def("market")
    market.execute_in_process(instance=instance, tags=RANGE, run_id=RUN_ID, raise_on_error=False)
    one = definitions.resolve_job_def("decision")
    one.execute_in_process(instance=instance, run_id=RUN_ID.replace("5b1f", "6c2a"))
    instance.report_runless_asset_event(AssetMaterialization("summary", metadata={"by": "hand"}))


@pytest.fixture(autouse=True)
def batching_by_default_only(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DAGSTER_EVENT_BATCH_SIZE", "DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[dg.DagsterInstance, dg.DagsterInstance]]:
    """The same runs on the stock storage (with planned ranges, so that both are asked the same) and on ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS", "true")
        patch.setenv("DAGSTER_EVENT_BATCH_SIZE", "1000")
        with instance_in(tmp_path_factory.mktemp("stock"), STOCK) as stock:
            run_all(stock)
            patch.delenv("DAGSTER_EMIT_PARTITION_SUBSET_IN_PLANNED_EVENTS")
            patch.delenv("DAGSTER_EVENT_BATCH_SIZE", raising=False)
            with instance_in(tmp_path_factory.mktemp("batched")) as batched:
                run_all(batched)
                yield stock, batched


def essence(entry: EventLogEntry) -> tuple[Any, ...]:
    """What of an event does not depend on when and how fast it happened."""
    event = entry.dagster_event
    if event is None:
        return entry.level, entry.user_message, entry.step_key
    data = event.event_specific_data
    own = None
    if isinstance(data, StepMaterializationData):
        made = data.materialization
        own = made.metadata, {k: v for k, v in (made.tags or {}).items() if "event_pointer" not in k}
    return event.event_type_value, event.step_key, event.asset_key, event.partition, own, entry.level


QUESTIONS = {
    "run log": lambda i: [[essence(e) for e in i.all_logs(r.run_id)] for r in i.get_runs()],
    "run log by type": lambda i: [essence(e) for e in i.all_logs(RUN_ID, DagsterEventType.ASSET_MATERIALIZATION)],
    "runs": lambda i: [(r.run_id, r.status) for r in i.get_runs()],
    "step stats": lambda i: [
        (s.step_key, s.status, len(s.materialization_events)) for s in i.get_run_step_stats(RUN_ID)
    ],
    "run stats": lambda i: [(s.steps_succeeded, s.steps_failed, s.materializations) for s in [i.get_run_stats(RUN_ID)]],
    "planned": lambda i: i.event_log_storage.get_asset_partitions_for_run(RUN_ID),
    "asset keys": lambda i: list(i.get_asset_keys()),
    "asset records": lambda i: sorted(
        (
            r.asset_entry.asset_key,
            r.asset_entry.last_run_id,
            r.storage_id,
            r.asset_entry.last_materialization_storage_id,
            r.asset_entry.last_planned_materialization_run_id,
        )
        for r in i.get_asset_records()
    ),
    "materialisations": lambda i: [
        (r.storage_id, r.partition_key, essence(r.event_log_entry))
        for a in ASSETS
        for r in i.fetch_materializations(a.key, limit=100).records
    ],
    "observations": lambda i: [
        (r.storage_id, essence(r.event_log_entry)) for r in i.fetch_observations(bars.key, limit=9).records
    ],
    "planned materialisations": lambda i: [
        (r.storage_id, r.event_log_entry.dagster_event.event_specific_data)
        for a in ASSETS
        for r in i.event_log_storage.get_event_records(
            dg.EventRecordsFilter(DagsterEventType.ASSET_MATERIALIZATION_PLANNED, asset_key=a.key)
        )
    ],
    "latest planned": lambda i: [i.event_log_storage.get_latest_planned_materialization_info(a.key) for a in ASSETS],
    "materialised partitions": lambda i: [i.get_materialized_partitions(a.key) for a in ASSETS],
    "latest per partition": lambda i: [
        i.event_log_storage.get_latest_storage_id_by_partition(a.key, DagsterEventType.ASSET_MATERIALIZATION)
        for a in ASSETS
    ],
    "event tags": lambda i: [
        dict(tags)
        for a in ASSETS
        for tags in i.event_log_storage.get_event_tags_for_asset(a.key, {"dagster/partition/symbol": "MSFT"})
    ],
    "latest tags": lambda i: i.event_log_storage.get_latest_tags_by_partition(
        features.key, DagsterEventType.ASSET_MATERIALIZATION, ["dagster/data_version", "dagster/partition/date"]
    ),
    "checks": lambda i: [
        (r.id, r.run_id, r.status, r.partition, r.event and essence(r.event))
        for r in i.event_log_storage.get_asset_check_execution_history(next(iter(bars_are_positive.check_keys)), 9)
    ],
    "run status changes": lambda i: [
        (r.storage_id, r.run_id)
        for kind in (DagsterEventType.RUN_START, DagsterEventType.RUN_SUCCESS, DagsterEventType.RUN_FAILURE)
        for r in i.fetch_run_status_changes(kind, limit=9).records
    ],
    "summaries": lambda i: [
        (r.storage_id, r.run_id, r.asset_key, r.partition)
        for r in i.get_asset_event_summary_records(DagsterEventType.ASSET_MATERIALIZATION)
    ],
}


@pytest.mark.parametrize("question", QUESTIONS)
def test_the_batched_log_answers_like_the_stock_log(
    question: str, both: tuple[dg.DagsterInstance, dg.DagsterInstance]
) -> None:
    stock, batched = (QUESTIONS[question](instance) for instance in both)
    assert stock
    assert batched == stock


TABLES = {
    "event_logs": "id, run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition",
    "asset_event_tags": "id, event_id, asset_key, key, value, event_timestamp",
    "asset_keys": "id, asset_key, last_materialization, last_run_id, asset_details, last_materialization_timestamp",
    "asset_check_executions": "id, asset_key, check_name, partition, run_id, execution_status, evaluation_event,"
    " evaluation_event_timestamp, evaluation_event_storage_id, materialization_event_storage_id",
}


def contents(storage: SqliteEventLogStorage) -> dict[tuple[str, str], list[tuple[Any, ...]]]:
    shards = sorted(path.stem for path in Path(storage._base_dir).glob("*.db"))
    found = {}
    for shard in shards:
        with storage._connect(shard) as connection:
            for table, columns in TABLES.items():
                rows = connection.exec_driver_sql(f"SELECT {columns} FROM {table} ORDER BY id").fetchall()
                found[shard, table] = [tuple(row) for row in rows]
    return found


@pytest.fixture(scope="module")
def history(
    both: tuple[dg.DagsterInstance, dg.DagsterInstance],
) -> tuple[list[EventLogEntry], dict[tuple[str, str], list[tuple[Any, ...]]]]:
    """Every event of two runs and a runless one, and the tables that the stock storage makes of them."""
    stock, _ = both
    events = [event for run in reversed(stock.get_runs()) for event in stock.all_logs(run.run_id)]
    return events + list(stock.all_logs("")), contents(stock.event_log_storage)


@settings(max_examples=3, deadline=None)
@given(sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8))
def test_however_events_are_cut_into_batches_the_tables_equal_the_stock_ones(
    sizes: list[int], history: tuple[list[EventLogEntry], Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    events, expected = history
    storage = BatchedSqliteEventLogStorage(str(tmp_path_factory.mktemp("cut")))
    start = turn = 0
    while start < len(events):
        size = sizes[turn % len(sizes)]
        storage.store_event_batch(events[start : start + size])
        start, turn = start + size, turn + 1
    assert contents(storage) == expected


def made(
    partition: str | None = "2024-01-01|AAPL", run_id: str = RUN_ID, timestamp: float = 1.5e9, **values: Any
) -> EventLogEntry:
    materialization = AssetMaterialization("bars", partition=partition, **values)
    event = DagsterEvent(
        DagsterEventType.ASSET_MATERIALIZATION.value,
        "market",
        event_specific_data=StepMaterializationData(materialization),
        message="Materialized value bars.",
        step_key="bars",
    )
    return EventLogEntry(None, 10, "", run_id, timestamp, "bars", "market", event)


TAGS = st.one_of(
    st.none(),
    st.fixed_dictionaries(
        {"dagster/partition/date": st.text(max_size=5), "dagster/code_version": st.sampled_from(["1", "2"])}
    ),
)
NUMBERS = st.one_of(st.none(), st.sampled_from([1, 1.0, True, "1"]))


@settings(max_examples=30, deadline=None)
@given(
    events=st.lists(
        st.builds(
            lambda partition, timestamp, tags, number, description: made(
                partition,
                timestamp=timestamp,
                tags=tags,
                description=description,
                metadata=None if number is None else {"n": number},
            ),
            st.one_of(st.none(), st.text(max_size=8)),
            st.floats(0, 4e9),
            TAGS,
            NUMBERS,
            st.one_of(st.none(), st.sampled_from(["\0partition\0", '"timestamp": 1'])),
        ),
        min_size=1,
        max_size=5,
    )
)
def test_the_fast_text_of_a_materialisation_is_the_text_that_dagster_writes(events: list[EventLogEntry]) -> None:
    serializer = _Serializer(dg.AssetKey("bars"))
    assert [serializer(event) for event in events] == [serialize_value(event) for event in events]


def test_a_range_is_stored_by_partition_so_that_the_latest_event_is_that_of_the_last_date(tmp_path: Path) -> None:
    storage = BatchedSqliteEventLogStorage(str(tmp_path))
    yielded = [made("2024-01-04"), made("2024-01-02"), made("2024-01-03")]
    storage.store_event_batch(yielded)
    assert storage.get_logs_for_run(RUN_ID) == [yielded[1], yielded[2], yielded[0]]
    assert storage.get_latest_materialization_events([dg.AssetKey("bars")])[dg.AssetKey("bars")] == yielded[0]


def test_a_thousand_cells_take_a_twentieth_of_their_text(tmp_path: Path) -> None:
    storage = BatchedSqliteEventLogStorage(str(tmp_path))
    events = [made(f"cell {number:03}", metadata={"note": "x" * 1500}) for number in range(1000)]
    storage.store_event_batch(events)
    with sqlite3.connect(storage.path_for_shard(RUN_ID)) as raw:
        (stored,) = raw.execute("SELECT sum(length(event)) FROM event_logs").fetchone()
    raw.close()
    assert stored < sum(len(serialize_value(event)) for event in events) / 20
    assert storage.get_logs_for_run(RUN_ID) == events


def test_a_failing_batch_leaves_neither_shard_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = BatchedSqliteEventLogStorage(str(tmp_path))
    storage.store_event(made("first"))
    before = contents(storage)

    def refuse(*_: Any) -> None:
        raise sqlite3.OperationalError("disk full")

    monkeypatch.setattr(storage, "_store_asset_event", refuse)
    with pytest.raises(sqlite3.OperationalError, match="disk full"):
        storage.store_event_batch([made("second"), made("third")])
    assert contents(storage) == before


def test_every_batch_reaches_the_file_that_the_ui_watches(tmp_path: Path) -> None:
    storage = BatchedSqliteEventLogStorage(str(tmp_path))
    sizes = []
    for number in range(3):
        storage.store_event_batch([made(f"{number}-{cell}") for cell in range(50)])
        sizes.append(Path(storage.path_for_shard(RUN_ID)).stat().st_size)
    assert sizes[0] < sizes[1] < sizes[2]


def test_an_event_of_the_run_first_stores_what_the_instance_still_buffers(tmp_path: Path) -> None:
    with instance_in(tmp_path) as instance:
        for number in range(3):
            instance.handle_new_event(made(f"cell {number}"), batch_metadata=DagsterEventBatchMetadata("b", False))
        instance.handle_new_event(
            made("elsewhere", run_id="other"), batch_metadata=DagsterEventBatchMetadata("c", False)
        )
        assert not instance.all_logs(RUN_ID)
        instance.report_engine_event("interrupted", job_name="market", run_id=RUN_ID)
        instance.handle_new_event(made("cell 3"), batch_metadata=DagsterEventBatchMetadata("b", True))
        kinds = [
            (e.get_dagster_event().event_type_value, e.get_dagster_event().partition) for e in instance.all_logs(RUN_ID)
        ]
        assert kinds == [
            *(("ASSET_MATERIALIZATION", f"cell {number}") for number in range(3)),
            ("ENGINE_EVENT", None),
            ("ASSET_MATERIALIZATION", "cell 3"),
        ]
        assert not instance.all_logs("other")


def test_a_range_is_stored_in_batches_without_any_variable_in_the_environment(
    both: tuple[dg.DagsterInstance, dg.DagsterInstance],
) -> None:
    _, batched = both
    with sqlite3.connect(batched.event_log_storage.path_for_shard(RUN_ID)) as raw:
        packed = (
            "SELECT asset_key, count(*) FROM event_logs WHERE event NOT LIKE '{%' AND partition NOT NULL GROUP BY 1"
        )
        assert raw.execute(packed).fetchall() == [('["bars"]', 6), ('["features"]', 6), ('["labels"]', 5)]
    raw.close()


def test_a_batch_size_set_by_the_user_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DAGSTER_EVENT_BATCH_SIZE", "7")
    BatchedSqliteEventLogStorage(str(tmp_path))
    assert os.environ["DAGSTER_EVENT_BATCH_SIZE"] == "7"


def test_dagster_yaml_names_the_storage_and_a_reference_rebuilds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QUANT_EVENTS", str(tmp_path / "elsewhere"))
    wanted = config(tmp_path)
    wanted["event_log_storage"]["config"] = {"base_dir": {"env": "QUANT_EVENTS"}, "folder": "events"}
    (tmp_path / "dagster.yaml").write_text(yaml.safe_dump(wanted))
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.event_log_storage) is BatchedSqliteEventLogStorage
        assert os.environ["DAGSTER_EVENT_BATCH_SIZE"] == str(EVENT_BATCH_SIZE)
        with dg.DagsterInstance.from_ref(instance.get_ref()) as again:
            assert type(again.event_log_storage) is BatchedSqliteEventLogStorage
            instance.event_log_storage.store_event(made())
            assert again.all_logs(RUN_ID) == [made()]
    assert (tmp_path / "elsewhere" / "events" / "index.db").exists()


def test_a_log_begun_by_the_stock_storage_is_carried_on(tmp_path: Path) -> None:
    SqliteEventLogStorage(str(tmp_path)).store_event(made("old"))
    storage = BatchedSqliteEventLogStorage(str(tmp_path))
    storage.store_event_batch([made("new"), made("newer")])
    assert [event.get_dagster_event().partition for event in storage.get_logs_for_run(RUN_ID)] == [
        "old",
        "new",
        "newer",
    ]
    assert storage.get_materialized_partitions(dg.AssetKey("bars")) == {"old", "new", "newer"}


def statuses(instance: dg.DagsterInstance, key: dg.AssetKey) -> list[set[str]]:
    """Materialised, failed and in-progress partitions as the UI and automation conditions see them."""
    cached = get_and_update_asset_status_cache_value(instance, key, CELLS)
    assert cached is not None
    subsets = (
        cached.deserialize_materialized_partition_subsets(CELLS),
        cached.deserialize_failed_partition_subsets(CELLS),
        cached.deserialize_in_progress_partition_subsets(CELLS),
    )
    return [set(subset.get_partition_keys()) for subset in subsets]


def test_cells_of_a_planned_range_are_in_progress_and_then_failed_as_if_planned_one_by_one(tmp_path: Path) -> None:
    seen: dict[str, list[Any]] = {}
    for log in (STOCK, BATCHED):
        answers = seen[log[1]] = []

        @dg.asset(partitions_def=CELLS, backfill_policy=dg.BackfillPolicy.single_run())
        def flaky(context: dg.AssetExecutionContext) -> None:
            answers.append(statuses(context.instance, context.asset_key))  # noqa: B023
            materialize_partitions(context, context.partition_keys[:3])
            raise dg.Failure("the rest has no bars", allow_retries=False)

        folder = tmp_path / log[1]
        folder.mkdir()
        with instance_in(folder, log) as instance:
            for first in ("2024-01-02|AAPL", "2024-01-01|AAPL"):
                tags = RANGE | {"dagster/asset_partition_range_start": first}
                dg.materialize([flaky], instance=instance, tags=tags, raise_on_error=False)
                answers.append(statuses(instance, flaky.key))
            runs = [run.run_id for run in instance.get_runs()]
            for cell in ("2024-01-01|MSFT", "2024-01-03|MSFT", "2024-01-04|AAPL"):
                plan = instance.event_log_storage.get_latest_planned_materialization_info(flaky.key, cell)
                answers.append(plan and runs.index(plan.run_id))
    assert seen[BATCHED[1]] == seen[STOCK[1]]
    sizes = [[len(cells) for cells in one] for one in seen[BATCHED[1]][:4]]
    assert sizes == [[0, 0, 4], [3, 1, 0], [3, 1, 6], [5, 3, 0]]


def test_a_log_that_lost_its_templates_says_so(tmp_path: Path) -> None:
    storage = BatchedSqliteEventLogStorage(str(tmp_path))
    storage.store_event_batch([made("a", description="lost"), made("b", description="lost")])
    with sqlite3.connect(storage.path_for_shard(RUN_ID)) as raw:
        raw.execute("DELETE FROM event_templates")
    raw.close()
    with pytest.raises(Exception, match="lacks the event template"):
        storage.get_logs_for_run(RUN_ID)


def test_wiped_assets_and_deleted_runs_are_gone(tmp_path: Path) -> None:
    with instance_in(tmp_path) as instance:
        storage = instance.event_log_storage
        storage.store_event_batch([made(f"{number}") for number in range(5)])
        storage.store_event_batch([made("other run", run_id="other"), made("last", run_id="other")])
        instance.wipe_assets([dg.AssetKey("bars")])
        assert not instance.fetch_materializations(dg.AssetKey("bars"), limit=9).records
        storage.store_event_batch([made("a", timestamp=4e9), made("b", timestamp=4e9)])
        assert storage.get_materialized_partitions(dg.AssetKey("bars")) == {"a", "b"}
        storage.delete_events(RUN_ID)
        assert not storage.get_logs_for_run(RUN_ID)
        storage.wipe()
        assert not storage.all_asset_keys()


def test_cells_logged_before_a_failure_carry_the_tags_of_a_returned_result(
    both: tuple[dg.DagsterInstance, dg.DagsterInstance],
) -> None:
    _, batched = both
    good = batched.fetch_materializations(labels.key, limit=99).records
    returned = batched.fetch_materializations(features.key, limit=99).records
    assert len(good) == 5
    tags = [record.event_log_entry.tags or {} for record in good]
    assert {name.replace("bars", "") for name in tags[0]} == {
        name.replace("bars", "") for name in returned[0].event_log_entry.tags or {}
    }
    assert {tag["dagster/partition/date"] + "|" + tag["dagster/partition/symbol"] for tag in tags} == {
        record.partition_key for record in good
    }


def test_dagster_keeps_what_the_storage_relies_on() -> None:
    """Each of these is private to Dagster 1.13.27; a new version that changes one must fail here, not in a run."""
    assert dg.__version__ == "1.13.27"
    assert EventLogStorage.store_event_batch is not SqliteEventLogStorage.store_event
    assert not SqliteEventLogStorage.handles_run_events_in_store_event.fget(None)
    assert EventLogEntry._fields[4] == "timestamp"
    assert EventLogEntry._fields[7] == "dagster_event"
    assert DagsterEvent._fields[6] == "event_specific_data"
    assert AssetMaterialization._fields == ("asset_key", "description", "metadata", "partition", "tags")


WRITER = """
import sys
from quant_assets_tests.test_event_log import made
from quant_assets.event_log import BatchedSqliteEventLogStorage
storage = BatchedSqliteEventLogStorage(sys.argv[1])
for batch in range(100_000):
    storage.store_event_batch([made(f"killed {batch * 40 + n}", run_id="killed") for n in range(40)])
    print(batch + 1, flush=True)
"""


def test_writers_of_two_processes_lose_nothing_though_one_is_killed(tmp_path: Path) -> None:
    storage = BatchedSqliteEventLogStorage(str(tmp_path))
    command = [sys.executable, "-c", WRITER, str(tmp_path)]
    writer = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parents[1])
    assert writer.stdout is not None
    acknowledged = [writer.stdout.readline()]
    for batch in range(20):
        storage.store_event_batch([made(f"kept {batch * 40 + n}", run_id="kept") for n in range(40)])
    writer.send_signal(signal.SIGKILL)
    acknowledged += writer.communicate()[0].split()
    logged = {run_id: len(storage.get_logs_for_run(run_id)) for run_id in ("kept", "killed")}
    assert logged["kept"] == 800
    assert logged["killed"] % 40 == 0
    assert logged["killed"] >= 40 * int(acknowledged[-1])
    partitions = storage.get_materialized_partitions(dg.AssetKey("bars"))
    indexed = sum(name.startswith("killed") for name in partitions)
    assert len(partitions) - indexed == 800
    assert indexed in (logged["killed"] - 40, logged["killed"])
    assert indexed >= 40 * int(acknowledged[-1])
