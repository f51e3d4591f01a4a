"""Where Dagster's events are stored: the stock SQLite event log, written and packed a batch at a time.

Belongs here: the storage class that `dagster.yaml` names, and `materialize_partitions`, which logs part of a range
through it. Both rely on Dagster's internals; the tests pin each fact they rely on.
"""

import os
import sqlite3
import threading
import zlib
from binascii import a2b_base64, b2a_base64
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext, suppress
from functools import lru_cache
from hashlib import blake2b
from itertools import groupby
from json import dumps
from pathlib import Path
from typing import Any, TypeAlias, cast

from dagster import (
    AssetExecutionContext,
    AssetKey,
    AssetMaterialization,
    EventRecordsFilter,
    Field,
    MultiPartitionsDefinition,
    Output,
    StringSource,
)
from dagster._config.config_schema import UserConfigSchema
from dagster._core.definitions.assets.definition.asset_spec import AssetExecutionType
from dagster._core.definitions.metadata import RawMetadataValue
from dagster._core.definitions.partitions.subset import PartitionsSubset
from dagster._core.events import (
    ASSET_CHECK_EVENTS,
    ASSET_EVENTS,
    EVENT_TYPE_TO_PIPELINE_RUN_STATUS,
    DagsterEvent,
    DagsterEventBatchMetadata,
    DagsterEventType,
    StepMaterializationData,
    generate_event_batch_id,
)
from dagster._core.events.log import EventLogEntry
from dagster._core.execution.plan.execute_step import _get_output_asset_events
from dagster._core.storage.event_log.base import PlannedMaterializationInfo
from dagster._core.storage.event_log.sqlite.sqlite_event_log import INDEX_SHARD_NAME, SqliteEventLogStorage
from dagster._core.storage.sql import create_engine
from dagster._core.storage.sqlite import SQLITE_BUSY_TIMEOUT_SECONDS
from dagster._core.storage.tags import MULTIDIMENSIONAL_PARTITION_PREFIX
from dagster._serdes import ConfigurableClassData, serialize_value
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import OperationalError
from sqlalchemy.pool import NullPool

EVENT_BATCH_SIZE = 10_000
"""Events per transaction; a killed process loses fewer than this, all of one step whose function had returned. As many
as forty years of one strategy's sessions, so that such a range is put into the order of its dates as a whole."""

_ASSET_EVENTS = frozenset(kind.value for kind in ASSET_EVENTS)
_CHECK_EVENTS = frozenset(kind.value for kind in ASSET_CHECK_EVENTS)
_INDEXED_EVENTS = _ASSET_EVENTS | _CHECK_EVENTS | {kind.value for kind in EVENT_TYPE_TO_PIPELINE_RUN_STATUS}
_MATERIALIZATION = DagsterEventType.ASSET_MATERIALIZATION.value

_MARK, _NO_HASH = "\x1e", "." * 12
"""Opens every packed event: stock events open with `{`, and no other text column holds the separator."""
_PACK_FROM_BYTES = 2048
_SMALL_WINDOW_BYTES = 3600
_RUN_SHARD_PAGE_BYTES = 1024
_UNUSED_IN_RUN_SHARDS = ("idx_events_by_asset", "idx_events_by_asset_partition", "idx_events_by_run_id", "idx_step_key")

_Row: TypeAlias = tuple[str, str, str | None, str, str | None, str | None, str | None]
"""run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition."""

_INSERT_EVENT = (
    "INSERT INTO event_logs (id, run_id, event, dagster_event_type, timestamp, step_key, asset_key, partition)"
    " VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_TAG = "INSERT INTO asset_event_tags (event_id, asset_key, key, value, event_timestamp) VALUES (?, ?, ?, ?, ?)"
_INSERT_TEMPLATE = "INSERT OR IGNORE INTO event_templates (hash, event) VALUES (?, ?)"
_CREATE_TEMPLATES = (
    "CREATE TABLE IF NOT EXISTS event_templates (hash TEXT PRIMARY KEY, event BLOB NOT NULL) WITHOUT ROWID"
)


class BatchedSqliteEventLogStorage(SqliteEventLogStorage):
    """Dagster's SQLite event log with one transaction per shard file and batch, and near-equal events packed.

    Same files, tables, row ids, queries and answers as `SqliteEventLogStorage`. What differs:

    - A batch is one transaction per shard, all or nothing, under `synchronous=NORMAL`: a killed process loses nothing
      that was written, a power cut at most the last transactions.
    - The column `event` may hold a delta against a template in the table `event_templates` of the same file
      (see `_Packer`). Connections of this class unpack it; `SqliteEventLogStorage` cannot read such files.
    - A range run plans one event per asset that holds the range, not one per partition; the cells of such a range
      still count as in progress while the run lasts and as failed when it fails without them.
    - Constructing it sets `DAGSTER_EVENT_BATCH_SIZE` where the environment does not, because the instance
      batches by that variable alone.

    In dagster.yaml::

        event_log_storage:
          module: quant_assets.event_log
          class: BatchedSqliteEventLogStorage
          config: {base_dir: {env: QUANT_DAGSTER}, folder: events}

    `folder`, below `base_dir`, is optional. It must hold nothing else: to this storage every `.db` file in it is a run,
    to be migrated, and deleted by `dagster run wipe`.
    """

    def __init__(self, base_dir: str, inst_data: ConfigurableClassData | None = None) -> None:
        os.environ.setdefault("DAGSTER_EVENT_BATCH_SIZE", str(EVENT_BATCH_SIZE))
        self._batch = threading.local()
        super().__init__(base_dir, inst_data)

    @classmethod
    def config_type(cls) -> UserConfigSchema:
        return {"base_dir": StringSource, "folder": Field(StringSource, is_required=False)}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, Any]
    ) -> "BatchedSqliteEventLogStorage":
        return cls(str(Path(config_value["base_dir"], config_value.get("folder", ""))), inst_data)

    @property
    def supports_partition_subset_in_asset_materialization_planned_events(self) -> bool:
        return True

    def store_event(self, event: EventLogEntry) -> None:
        """Store one event, after those of its run that the instance still buffers."""
        if event.is_dagster_event:
            self._flush_buffered(event.run_id)
        self.store_event_batch([event])

    def store_event_batch(self, events: Sequence[EventLogEntry]) -> None:
        """Store events as `store_event` would one by one, or none of them.

        In their order, but for the materialisations of one asset that follow each other: Dagster yields a range's in
        the order of a set, and these are stored by partition, so that the latest one is that of the last date.

        Raises:
            sqlalchemy.exc.OperationalError: a shard stayed locked longer than Dagster's busy timeout, or the disk is
                full or read-only; nothing of the batch is stored.
        """
        events = _by_partition(events)
        rows, templates = self._rows(events)
        by_run: dict[str, list[_Row]] = defaultdict(list)
        for row in rows:
            by_run[row[0]].append(row)
        indexed = [(event, row) for event, row in zip(events, rows, strict=True) if row[2] in _INDEXED_EVENTS]
        with self._db_lock, ExitStack() as transactions:
            for run_id in by_run:
                self._initialize(run_id)
            # The exit stack commits the run's shard first, as the stock storage does.
            index = transactions.enter_context(self._transaction(INDEX_SHARD_NAME)) if indexed else None
            for run_id in sorted(by_run):
                connection = transactions.enter_context(self._transaction(run_id))
                _insert(connection, by_run[run_id], templates)
            if index is not None:
                first = _insert(index, [row for _, row in indexed], templates)
                self._batch.connection = index
                try:
                    self._index(index, indexed, first)
                finally:
                    self._batch.connection = None

    def index_connection(self) -> AbstractContextManager[Connection]:
        """The parent's helpers join the batch's transaction when called from within one."""
        connection = getattr(self._batch, "connection", None)
        return super().index_connection() if connection is None else nullcontext(connection)

    def get_latest_asset_partition_materialization_attempts_without_materializations(
        self, asset_key: AssetKey, after_storage_id: int | None = None
    ) -> Mapping[str, tuple[str, int]]:
        """Run and event id of each partition's latest plan, alone or in a range, that no materialisation followed."""
        attempts = dict(
            super().get_latest_asset_partition_materialization_attempts_without_materializations(
                asset_key, after_storage_id
            )
        )
        planned: dict[str, tuple[str, int]] = {}
        for event_id, run_id, partitions in self._planned_ranges(asset_key, after_storage_id):
            planned.update(dict.fromkeys(partitions.get_partition_keys(), (run_id, event_id)))
        if planned:
            made = self.get_latest_storage_id_by_partition(
                asset_key, DagsterEventType.ASSET_MATERIALIZATION, after_cursor=after_storage_id
            )
            for partition, (run_id, event_id) in planned.items():
                if event_id > max(made.get(partition, 0), attempts.get(partition, ("", 0))[1]):
                    attempts[partition] = run_id, event_id
        return attempts

    def get_latest_planned_materialization_info(
        self, asset_key: AssetKey, partition: str | None = None
    ) -> PlannedMaterializationInfo | None:
        """The latest plan of an asset, or of one partition, alone or in a range."""
        latest = super().get_latest_planned_materialization_info(asset_key, partition)
        if partition is not None:
            for event_id, run_id, partitions in self._planned_ranges(asset_key, latest.storage_id if latest else None):
                if partition in partitions:
                    latest = PlannedMaterializationInfo(storage_id=event_id, run_id=run_id)
        return latest

    def _planned_ranges(
        self, asset_key: AssetKey, after_storage_id: int | None
    ) -> Iterator[tuple[int, str, PartitionsSubset]]:
        """Event id, run id and partitions of each planned range of an asset, oldest first."""
        planned = EventRecordsFilter(
            DagsterEventType.ASSET_MATERIALIZATION_PLANNED, asset_key=asset_key, after_cursor=after_storage_id
        )
        for record in self.get_event_records(planned, ascending=True):
            partitions = record.event_log_entry.get_dagster_event().partitions_subset
            if partitions is not None:
                yield record.storage_id, record.run_id, partitions

    def _rows(self, events: Sequence[EventLogEntry]) -> tuple[list[_Row], dict[str, bytes]]:
        """The rows of `event_logs` without their ids, and the templates by hash that their packed events refer to."""
        rows: list[_Row] = []
        templates: dict[str, bytes] = {}
        serializers: dict[AssetKey, _Serializer] = {}
        packers: dict[tuple[str | None, AssetKey], _Packer] = {}
        for event in events:
            dagster_event = event.dagster_event
            kind = dagster_event.event_type_value if dagster_event else None
            step_key = dagster_event.step_key if dagster_event else event.step_key
            of_asset = _materialization(event) or dagster_event
            asset_key = of_asset.asset_key if of_asset else None
            partition = (of_asset.partition or None) if of_asset else None
            if asset_key is None:
                asset_text, packed = None, _pack_single(serialize_value(event))
            else:
                serializer = serializers.get(asset_key)
                if serializer is None:
                    serializer = serializers[asset_key] = _Serializer(asset_key)
                asset_text, text = serializer.asset_text, serializer(event)
                packer = packers.get((kind, asset_key))
                if packer is None and len(events) > 1 and kind == _MATERIALIZATION:
                    packer = packers[kind, asset_key] = _Packer(text.encode())
                    templates[packer.hash] = packer.template
                packed = packer(text) if packer else _pack_single(text)
            timestamp = f"{self._event_insert_timestamp(event):%Y-%m-%d %H:%M:%S.%f}"
            rows.append((event.run_id, packed, kind, timestamp, step_key, asset_text, partition))
        return rows, templates

    def _index(self, connection: Connection, indexed: list[tuple[EventLogEntry, _Row]], first: int) -> None:
        """Tags, asset keys and check executions of mirrored events whose ids begin with `first`."""
        tags: list[tuple[Any, ...]] = []
        latest: dict[str, dict[str, tuple[EventLogEntry, int]]] = defaultdict(dict)
        for event_id, (event, row) in enumerate(indexed, first):
            kind, timestamp, asset_text = row[2], row[3], row[5]
            if kind in _CHECK_EVENTS:
                self.store_asset_check_event(event, event_id)
            elif kind is not None and asset_text is not None:
                tags.extend(
                    (event_id, asset_text, key, value, timestamp)
                    for key, value in self._tags_for_asset_event(event).items()
                )
                # A materialisation sets every column that an earlier event set, and of each kind the last one counts.
                of_asset = latest[asset_text]
                if kind == _MATERIALIZATION:
                    of_asset.clear()
                of_asset.pop(kind, None)
                of_asset[kind] = (event, event_id)
        if tags:
            connection.exec_driver_sql(_INSERT_TAG, tags)
        for of_asset in latest.values():
            for event, event_id in of_asset.values():
                self._store_asset_event(connection, event, event_id)

    def _flush_buffered(self, run_id: str) -> None:
        """Store what the instance buffers of a run: an interrupted step never ends its batch itself."""
        if not self.has_instance:
            return
        buffers = self._instance._event_buffer
        for batch_id in [key for key, events in buffers.items() if events and events[0].run_id == run_id]:
            last = buffers[batch_id].pop()
            self._instance.handle_new_event(last, batch_metadata=DagsterEventBatchMetadata(batch_id, is_end=True))

    def _engine(self, shard: str) -> Engine:
        return create_engine(
            self.conn_string_for_shard(shard),
            poolclass=NullPool,
            connect_args={"timeout": SQLITE_BUSY_TIMEOUT_SECONDS, "factory": _UnpackingConnection},
        )

    def _initdb(self, engine: Engine, for_index_shard: bool = False) -> None:
        shard = Path(str(engine.url.database)).name.removesuffix(".db")
        engine = self._engine(shard)
        if not Path(self.path_for_shard(shard)).exists():
            # In this mode first, the parent's dozens of statements cost no disk flush each. It sets the mode itself
            # when another process holds the new file.
            with suppress(OperationalError), engine.begin() as connection:
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
        super()._initdb(engine, for_index_shard)
        with engine.begin() as connection:
            connection.exec_driver_sql(_CREATE_TEMPLATES)
            for index in () if shard == INDEX_SHARD_NAME else _UNUSED_IN_RUN_SHARDS:
                connection.exec_driver_sql(f"DROP INDEX IF EXISTS {index}")

    @contextmanager
    def _open(self, shard: str) -> Iterator[Connection]:
        self._initialize(shard)
        with self._engine(shard).begin() as connection:
            yield connection

    def _initialize(self, shard: str) -> None:
        if shard not in self._initialized_dbs:
            self._initdb(self._engine(shard))
            self._initialized_dbs.add(shard)

    @contextmanager
    def _connect(self, shard: str) -> Iterator[Connection]:
        with self._db_lock, self._open(shard) as connection:
            yield connection

    @contextmanager
    def _transaction(self, shard: str) -> Iterator[Connection]:
        """A connection that holds the shard's write lock, so that ids read from it stay the next ones."""
        with self._open(shard) as connection:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            yield connection


def materialize_partitions(
    context: AssetExecutionContext,
    partition_keys: Iterable[str],
    metadata: Mapping[str, RawMetadataValue] | None = None,
) -> None:
    """Log that these partitions of the running range are materialised, while others are about to fail.

    The events equal those that Dagster logs for a returned `MaterializeResult` (data version, code version, provenance
    and partition tags included), in batches, where `context.log_event` writes one transaction each without those tags.
    """
    op_context = context.op_execution_context
    step_context = op_context._step_execution_context
    assets, key = context.assets_def, context.asset_key
    partitions = context.assets_def.partitions_def
    multi = partitions if isinstance(partitions, MultiPartitionsDefinition) else None
    output_name = assets.get_output_name_for_asset_key(key)
    events = list(
        _get_output_asset_events(
            key,
            [multi.get_partition_key_from_str(name) if multi else name for name in partition_keys],
            Output(None, output_name=output_name, metadata=dict(metadata or {})),
            step_context.op_def.output_def_named(output_name),
            {},
            step_context,
            AssetExecutionType.MATERIALIZATION,
        )
    )
    batch_id = generate_event_batch_id()
    for number, event in enumerate(events, 1):
        batch = DagsterEventBatchMetadata(batch_id, is_end=number == len(events))
        op_context._events.append(
            DagsterEvent.asset_materialization(step_context, cast(AssetMaterialization, event), batch)
        )


def _by_partition(events: Sequence[EventLogEntry]) -> list[EventLogEntry]:
    """`events` with each stretch of materialisations of one run and asset in the order of their partition keys."""

    def stretch(event: EventLogEntry) -> tuple[str, AssetKey | None] | None:
        made = _materialization(event)
        return (event.run_id, made.asset_key) if made else None

    def partition(event: EventLogEntry) -> str:
        made = _materialization(event)
        return (made.partition or "") if made else ""

    return [event for _, members in groupby(events, key=stretch) for event in sorted(members, key=partition)]


def _insert(connection: Connection, rows: Sequence[_Row], templates: Mapping[str, bytes]) -> int:
    """Insert events with the ids that SQLite would give them, and their templates. Returns the first id."""
    first: int = connection.exec_driver_sql("SELECT coalesce(max(id), 0) + 1 FROM event_logs").scalar_one()
    connection.exec_driver_sql(_INSERT_EVENT, [(number, *row) for number, row in enumerate(rows, first)])
    if templates:
        connection.exec_driver_sql(_INSERT_TEMPLATE, list(templates.items()))
    return first


class _Serializer:
    """`serialize_value` for the events of one asset, of which most differ in partition and timestamp alone.

    A materialisation that equals an earlier one in everything else (metadata values by identity) is written by filling
    the gaps of that one's text.
    """

    def __init__(self, asset_key: AssetKey) -> None:
        self.asset_text = asset_key.to_string()
        self._like: EventLogEntry | None = None
        self._pieces: list[tuple[str, str]] = []
        self._tail = ""

    def __call__(self, event: EventLogEntry) -> str:
        materialization = _materialization(event)
        if materialization is None:
            return serialize_value(event)
        if self._like is None or not _alike(self._like, event):
            self._learn(event, materialization)
            return serialize_value(event)
        gaps = {_TIMESTAMP: repr(event.timestamp), _PARTITION: dumps(materialization.partition)}
        tags = _tags(materialization)
        filled = [text + (gaps[name] if name in gaps else dumps(tags[name])) for text, name in self._pieces]
        return "".join((*filled, self._tail))

    def _learn(self, event: EventLogEntry, materialization: AssetMaterialization) -> None:
        """Cut the event's text at everything that `_alike` lets differ."""
        marks = {name: f"\0{name}\0" for name in (_PARTITION, *(tag for tag in _tags(materialization) if _varies(tag)))}
        marked = materialization._replace(partition=marks[_PARTITION])
        if marked.tags is not None:
            marked = marked._replace(tags={name: marks.get(name, tag) for name, tag in marked.tags.items()})
        dagster_event = event.get_dagster_event()
        data = dagster_event.step_materialization_data._replace(materialization=marked)
        text = serialize_value(
            event._replace(timestamp=_NO_TIME, dagster_event=dagster_event._replace(event_specific_data=data))
        )
        cuts = {_TIMESTAMP: repr(_NO_TIME), **{name: dumps(mark) for name, mark in marks.items()}}
        if any(text.count(cut) != 1 for cut in cuts.values()):
            self._like = None
            return
        self._like, self._pieces = event, []
        for name, cut in sorted(cuts.items(), key=lambda item: text.index(item[1])):
            before, _, text = text.partition(cut)
            self._pieces.append((before, name))
        self._tail = text


_TIMESTAMP, _PARTITION = "\0timestamp", "\0partition"
_NO_TIME = -1.0625e-300


def _varies(tag: str) -> bool:
    return tag.startswith(MULTIDIMENSIONAL_PARTITION_PREFIX)


def _materialization(event: EventLogEntry) -> AssetMaterialization | None:
    dagster_event = event.dagster_event
    if dagster_event is None or dagster_event.event_type_value != _MATERIALIZATION:
        return None
    data = dagster_event.event_specific_data
    return data.materialization if isinstance(data, StepMaterializationData) else None


def _tags(materialization: AssetMaterialization) -> Mapping[str, str]:
    return materialization.tags or {}


def _alike(one: EventLogEntry, other: EventLogEntry) -> bool:
    """Whether the texts of two materialisations of one asset differ in partition and timestamp at most."""
    mine, its = one.get_dagster_event(), other.get_dagster_event()
    if one[:4] != other[:4] or one[5:7] != other[5:7] or mine[:6] != its[:6] or mine[7:] != its[7:]:
        return False
    # Not the property `step_materialization_data`, whose check costs more than this comparison.
    data = cast(StepMaterializationData, mine.event_specific_data)
    its_data = cast(StepMaterializationData, its.event_specific_data)
    a, b = data.materialization, its_data.materialization
    tags, its_tags = _tags(a), _tags(b)
    return (
        data.asset_lineage == its_data.asset_lineage
        and a.description == b.description
        and a.metadata.keys() == b.metadata.keys()
        and all(value is b.metadata[name] for name, value in a.metadata.items())
        and (a.tags is None) == (b.tags is None)
        and tags.keys() == its_tags.keys()
        and all(value == its_tags[name] or _varies(name) for name, value in tags.items())
    )


class _Packer:
    """Deflates events against a template, the text of the first of them.

    `\x1e`, the template's hash (12 characters), and base64 of the raw deflate stream: about 75 bytes instead of 1,800.
    """

    def __init__(self, template: bytes) -> None:
        self.template = template
        self.hash = (
            b2a_base64(blake2b(template, digest_size=9).digest(), newline=False).decode() if template else _NO_HASH
        )
        reaches = len(template) < _SMALL_WINDOW_BYTES
        # A small window makes the primed state cheap to copy.
        bits, memory = (-12, 5) if reaches else (-15, 8)
        self._primed = zlib.compressobj(6, zlib.DEFLATED, bits, memory, zlib.Z_DEFAULT_STRATEGY, template)

    def __call__(self, text: str) -> str:
        state = self._primed.copy()
        return f"{_MARK}{self.hash}{b2a_base64(state.compress(text.encode()) + state.flush(), newline=False).decode()}"


def _pack_single(text: str) -> str:
    """Large events of no batch: mostly planned ranges, whose partitions definition lists every exclusion."""
    return text if len(text) < _PACK_FROM_BYTES else _Packer(b"")(text)


class _UnpackingConnection(sqlite3.Connection):
    """A connection whose text values come unpacked."""

    def __init__(self, database: str, *args: Any, **kwargs: Any) -> None:
        super().__init__(database, *args, **kwargs)
        self.text_factory = lambda value: _unpack(database, value)
        if Path(database).stem != INDEX_SHARD_NAME:
            self.execute(f"PRAGMA page_size={_RUN_SHARD_PAGE_BYTES}")
        self.execute("PRAGMA synchronous=NORMAL")


def _unpack(database: str, value: bytes) -> str:
    if value[:1] != b"\x1e":
        return value.decode()
    key = value[1 : 1 + len(_NO_HASH)].decode()
    template = b"" if key == _NO_HASH else _template(database, key)
    stream = zlib.decompressobj(-15, template) if template else zlib.decompressobj(-15)
    return stream.decompress(a2b_base64(value[1 + len(_NO_HASH) :])).decode()


@lru_cache(maxsize=1024)
def _template(database: str, key: str) -> bytes:
    with closing(sqlite3.connect(database, timeout=SQLITE_BUSY_TIMEOUT_SECONDS)) as connection:
        row = connection.execute("SELECT event FROM event_templates WHERE hash = ?", (key,)).fetchone()
    if row is None:
        raise sqlite3.DatabaseError(f"{database} lacks the event template {key}; restore the file from a backup")
    template: bytes = row[0]
    return template
