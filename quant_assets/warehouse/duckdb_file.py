"""The warehouse on DuckDB.

DuckDB gives its file to one process at a time. So connections are short, and those who open it take turns on an OS file
lock beside the file, which dies with its holder. A write is one transaction: all of a slice or nothing of it.
"""

import logging
import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import duckdb
import polars as pl
from filelock import FileLock, Timeout

from quant_assets.contracts import TABLES, VIEWS, Column, Table, features_daily
from quant_assets.contracts.order import in_order
from quant_assets.core.errors import WarehouseError, WarehouseLockedError
from quant_assets.warehouse import published
from quant_assets.warehouse.engine import attached

_SILENT_SECONDS = 3.0
_DISK = ("Could not write", "No space left on device", "File too large")
_DAMAGE = ("Corrupt database file", "Could not read enough bytes")
_log = logging.getLogger(__name__)

Connect = Callable[[bool], AbstractContextManager[duckdb.DuckDBPyConnection]]
"""Opens the file; the argument says whether read-only."""


@dataclass(frozen=True, slots=True)
class Replaced:
    """Rows that a write took away and put in."""

    deleted: int
    inserted: int


class Source(Protocol):
    """What answers queries: the warehouse, a state of it, or a copy."""

    def query(self, sql: str, params: Sequence[Any] = ()) -> pl.DataFrame: ...


class Reader:
    """One state of the file, which no other process changes meanwhile. Obtained from `Warehouse.read`."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection

    def query(self, sql: str, params: Sequence[Any] = ()) -> pl.DataFrame:
        """Read, inside the transaction where there is one."""
        return self._connection.sql(sql, params=list(params)).pl()


class Writer(Reader):
    """One open transaction. Obtained from `Warehouse.write`."""

    def delete(self, table: Table, where: str, params: Sequence[Any] = ()) -> int:
        """Delete rows; returns their number."""
        return self._counted(f"DELETE FROM {table.name} WHERE {where}", params)

    def delete_matching(self, table: Table, keys: pl.DataFrame, on: str) -> int:
        """Delete the rows of `table` (as `kept`) that match a row of `keys` (as `wanted`) by the SQL condition `on`."""
        if keys.is_empty():
            return 0
        self._connection.register("wanted", keys)
        try:
            return self._counted(f"DELETE FROM {table.name} AS kept USING wanted WHERE {on}")
        finally:
            self._forget("wanted")

    def _counted(self, sql: str, params: Sequence[Any] = ()) -> int:
        row = self._connection.execute(sql, list(params)).fetchone()
        return int(row[0]) if row else 0

    def _forget(self, name: str) -> None:
        with suppress(duckdb.Error):  # after a failed statement DuckDB refuses this too, and must not hide the failure
            self._connection.unregister(name)

    def append(self, table: Table, frame: pl.DataFrame, *, run_id: str | None = None) -> int:
        """Insert rows in the table's sort order; returns their number. `run_id` is added where the table carries it."""
        if frame.is_empty():
            return 0
        rows = _sorted(frame.select(c.name for c in table.columns), table.sort)
        constant, values = (", ? AS run_id", [run_id]) if table.run_id else ("", [])
        self._connection.register("incoming", rows)
        try:
            self._connection.execute(f"INSERT INTO {table.name} BY NAME SELECT *{constant} FROM incoming", values)
        finally:
            self._forget("incoming")
        return rows.height

    def replace(
        self,
        table: Table,
        frame: pl.DataFrame,
        where: str,
        params: Sequence[Any] = (),
        *,
        run_id: str | None = None,
        keys_move: bool = False,
    ) -> Replaced:
        """Replace the slice that `where` describes by `frame`.

        `keys_move` says that a key of `frame` may stand outside that slice (a label now settled on another day);
        those rows are replaced too.
        """
        deleted = self.delete(table, where, params)
        if keys_move:
            keys = [name for name in table.key if name in frame.columns]
            same = " AND ".join(f'kept."{name}" = wanted."{name}"' for name in keys)
            deleted += self.delete_matching(table, frame.select(keys), same)
        return Replaced(deleted, self.append(table, frame, run_id=run_id))

    def ensure(self, table: Table) -> None:
        """Create a table beyond the contracts' own (a feature set's wide form), or add the columns it has gained."""
        gained = _lacking(self._connection, [table])
        _complete(self._connection, gained)
        if gained:
            _define_views(self._connection)


class Warehouse:
    """The tables of `contracts`, at `path`.

    Args:
        path: the DuckDB file; its folder is made when first written.
        connect: opens the file; the default is `engine.attached`.
        lock_timeout: seconds to wait for another process before `WarehouseLockedError`.
    """

    def __init__(self, path: Path, *, connect: Connect | None = None, lock_timeout: float = 600.0) -> None:
        self.path = path
        self._lock_timeout = lock_timeout
        self._open = connect or (lambda read_only: attached(path, read_only=read_only))
        self._prepared = False

    def prepare(self) -> list[str]:
        """Create the file and every table and column that is missing. Returns the names of the tables created.

        Raises:
            WarehouseError: the folder cannot be written or the file is not a DuckDB database.
            WarehouseLockedError: another process held it for `lock_timeout` seconds.
        """
        with self.turn(), self._connection(read_only=False) as connection:
            before = _tables(connection)
            _complete(connection, _lacking(connection, (one for one in TABLES.values() if one.name not in VIEWS)))
            _define_views(connection)
            created = sorted(_tables(connection) - before)
        self._prepared = True
        return created

    def query(self, sql: str, params: Sequence[Any] = ()) -> pl.DataFrame:
        """Read with a short read-only connection.

        Raises:
            WarehouseError: the file cannot be read.
            WarehouseLockedError: another process held it for `lock_timeout` seconds.
        """
        with self.read() as reader:
            return reader.query(sql, params)

    @contextmanager
    def read(self) -> Iterator[Reader]:
        """For queries that belong together: one read-only connection, one state of the file. Raises as `query`."""
        self._prepare_once()
        with self.turn(reading=True), self._connection(read_only=True) as connection:
            yield Reader(connection)

    @contextmanager
    def write(self) -> Iterator[Writer]:
        """One transaction, alone among all processes: committed when the block ends, rolled back when it raises."""
        self._prepare_once()
        with self.turn(), self._connection(read_only=False) as connection:
            connection.execute("BEGIN")
            try:
                yield Writer(connection)
                connection.execute("COMMIT")
            except BaseException:
                _roll_back(connection)
                raise

    def tables(self) -> set[str]:
        """Names of the tables and views that exist."""
        self._prepare_once()
        with self.turn(reading=True), self._connection(read_only=True) as connection:
            return _tables(connection)

    def compact(self) -> tuple[int, int]:
        """Rewrite the file without the space that replaced rows left behind. Returns its size before and after, bytes.

        The new file replaces the old one in one rename; a crash before that leaves the old one.
        """
        self._prepare_once()
        part = self.path.with_suffix(".compact")
        with self.turn():
            before = self.path.stat().st_size
            _remove(part)  # of a process that was killed
            try:
                with self._connection(read_only=False) as connection:
                    connection.execute("CHECKPOINT")
                    source = connection.execute("SELECT current_database()").fetchone()
                    target = str(part).replace("'", "''")
                    connection.execute(f"ATTACH '{target}' AS compacted")
                    connection.execute(f'COPY FROM DATABASE "{source[0] if source else ""}" TO compacted')
                    connection.execute("DETACH compacted")
                part.replace(self.path)
            finally:
                _remove(part)
            return before, self.path.stat().st_size

    def publish(self, patience: float = 30.0) -> Path:
        """Leave a copy of the file, as it is now, for readers that stay; see `published`. Returns the copy's path.

        Raises:
            WarehouseError: the file cannot be read, or the copy not written; the last copy stays.
            WarehouseLockedError: another process held it for `patience` seconds; that one will publish.
        """
        self._prepare_once()
        with self.turn(patience=min(patience, self._lock_timeout)):
            if self.path.with_name(f"{self.path.name}.wal").exists():  # a killed process left it
                with self._connection(read_only=False) as connection:
                    connection.execute("CHECKPOINT")
            try:
                return published.publish(self.path)
            except OSError as error:
                raise WarehouseError(
                    f"cannot publish {self.path} to {published.folder(self.path)}: {error.strerror or error}; "
                    "check its permissions and the free disk space"
                ) from error

    def _prepare_once(self) -> None:
        if not self._prepared:
            if not self.path.exists():
                self.prepare()
            else:
                with self.turn(reading=True), self._connection(read_only=True) as connection:
                    missing = _lacking(connection, TABLES.values())
                if missing:
                    self.prepare()
            self._prepared = True

    @contextmanager
    def turn(self, *, reading: bool = False, patience: float | None = None) -> Iterator[None]:
        """Keep the file from all who take turns, until the block ends: for a program that opens it by itself.

        Raises:
            WarehouseError: the folder cannot be written; `reading` then does without a lock.
            WarehouseLockedError: another process held it for `patience` seconds (None: `lock_timeout`).
        """
        seconds = self._lock_timeout if patience is None else patience
        lock = FileLock(f"{self.path}.lock", timeout=seconds)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire()
        except Timeout:
            raise WarehouseLockedError(
                f"warehouse {self.path} is in use by another run for over {seconds:g} s; "
                f"wait for it, or raise QUANT_LOCK_TIMEOUT_SECONDS"
            ) from None
        except OSError as error:
            if not (reading and self.path.is_file()):
                raise WarehouseError(
                    f"cannot write beside {self.path}: {error.strerror or error}; "
                    f"make the folder writable or set QUANT_HOME"
                ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _connection(self, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
        _refuse_foreign(self.path)
        try:
            with ExitStack() as stack:
                connection = self._opened(stack, read_only)
                yield connection
        except duckdb.Error as error:
            raise _translated(error, self.path) from error

    def _opened(self, stack: ExitStack, read_only: bool) -> duckdb.DuckDBPyConnection:
        """Open the file, waiting for a program that has it open without taking turns."""
        began, pause, told = time.monotonic(), 0.01, False
        while True:
            try:
                return stack.enter_context(self._open(read_only))
            except duckdb.IOException as error:
                waited = time.monotonic() - began
                if not _is_held(error):
                    raise
                if waited > self._lock_timeout:
                    raise WarehouseLockedError(
                        f"warehouse {self.path} is open in another program for over {self._lock_timeout:g} s "
                        f"({_first_line(error)}); close it there and rerun, or raise QUANT_LOCK_TIMEOUT_SECONDS"
                    ) from error
                if waited > _SILENT_SECONDS and not told:
                    told = True
                    _log.warning("waiting for %s, open in another program (%s)", self.path, _first_line(error))
                time.sleep(pause * random.uniform(0.5, 1.5))
                pause = min(pause * 2, 1.0)


def _sorted(rows: pl.DataFrame, by: Sequence[str]) -> pl.DataFrame:
    """`rows` sorted stably; five times faster where they stand in order of all keys but the first."""
    return rows.sort(by[0] if by and in_order(rows, by[1:]) else by, maintain_order=True)


def _remove(database: Path) -> None:
    for file in (database, database.with_name(f"{database.name}.wal")):
        file.unlink(missing_ok=True)


def _refuse_foreign(path: Path) -> None:
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except FileNotFoundError:
        return
    except OSError as error:
        raise WarehouseError(f"cannot read {path}: {error.strerror}; check its permissions") from error
    if head[8:12] != b"DUCK":
        raise WarehouseError(_damaged(path, "no DuckDB header"))


def _damaged(path: Path, text: str) -> str:
    return f"{path} is damaged or no DuckDB database ({text}); move it away and restore a copy, or rerun the pipeline"


def _roll_back(connection: duckdb.DuckDBPyConnection) -> None:
    with suppress(duckdb.Error):  # the failure that brought us here may have ended the transaction
        connection.execute("ROLLBACK")


def _is_held(error: duckdb.Error) -> bool:
    return "Could not set lock" in str(error) or "Conflicting lock" in str(error)


def _first_line(error: duckdb.Error) -> str:
    return str(error).strip().splitlines()[0]


def _translated(error: duckdb.Error, path: Path) -> WarehouseError:
    text = _first_line(error)
    damage = duckdb.SerializationException | duckdb.InternalException | duckdb.FatalException
    if any(words in text for words in _DISK):
        return WarehouseError(f"cannot read or write {path} ({text}); check its permissions and the free disk space")
    if isinstance(error, damage) or any(words in text for words in _DAMAGE):
        return WarehouseError(_damaged(path, text))
    if isinstance(error, duckdb.IOException | duckdb.PermissionException):
        return WarehouseError(f"cannot read or write {path} ({text}); check its permissions and the free disk space")
    return WarehouseError(f"warehouse {path}: {text}")


def _lacking(connection: duckdb.DuckDBPyConnection, tables: Iterable[Table]) -> dict[Table, list[Column]]:
    """The columns of contracts that their stored tables have not; tables that lack none are left out."""
    known = set(connection.execute("SELECT table_name, column_name FROM duckdb_columns()").fetchall())
    lacking = {table: [one for one in table.all_columns if (table.name, one.name) not in known] for table in tables}
    return {table: columns for table, columns in lacking.items() if columns}


def _complete(connection: duckdb.DuckDBPyConnection, lacking: Mapping[Table, Sequence[Column]]) -> None:
    """Create tables that lack every column, and add columns to the others; rows stored before have none there."""
    for table, columns in lacking.items():
        if len(columns) == len(table.all_columns):
            connection.execute(table.ddl())
        else:
            for column in columns:
                connection.execute(f'ALTER TABLE {table.name} ADD COLUMN "{column.name}" {column.type}')


def _tables(connection: duckdb.DuckDBPyConnection) -> set[str]:
    return {row[0] for row in connection.execute("SELECT table_name FROM information_schema.tables").fetchall()}


def _define_views(connection: duckdb.DuckDBPyConnection) -> None:
    """The long `features_daily` over the wide tables of all feature sets."""
    contract = features_daily.TABLE
    columns = ", ".join(f'"{c.name}"' for c in contract.all_columns)
    parts = []
    for name in sorted(t for t in _tables(connection) if t.startswith(f"{contract.name}__")):
        fixed = {"symbol", "ts", "computed_at", "run_id"}
        wide = [row[0] for row in connection.execute(f"DESCRIBE {name}").fetchall() if row[0] not in fixed]
        over = ", ".join(f'"{column}"' for column in wide)
        version = name.removeprefix(f"{contract.name}__")
        parts.append(
            f"SELECT {columns} FROM (SELECT *, '{version}' AS feature_version FROM {name}) "
            f"UNPIVOT (feature_value FOR feature_name IN ({over}))"
        )
    if not parts:
        nulls = ", ".join(f'CAST(NULL AS {c.type}) AS "{c.name}"' for c in contract.all_columns)
        parts = [f"SELECT {nulls} WHERE false"]
    connection.execute(f"CREATE OR REPLACE VIEW {contract.name} AS " + " UNION ALL ".join(parts))
