"""DuckDB's engine, started once per thread: opening a file means attaching it, at a tenth of the cost of a start."""

import atexit
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

_OWN = threading.local()


@contextmanager
def attached(path: Path, *, read_only: bool) -> Iterator[duckdb.DuckDBPyConnection]:
    """The file at `path`, under the name and with the locks that `duckdb.connect` would give it, until the block ends.

    A block that raises ends the engine too: DuckDB may hold a broken transaction, or refuse all work after an error.

    Raises:
        duckdb.Error: the file cannot be opened.
    """
    engine: duckdb.DuckDBPyConnection | None = getattr(_OWN, "engine", None)
    _OWN.engine = None  # a file attached within the block has an engine of its own
    if engine is None:
        engine = duckdb.connect(":memory:")
    mode = ", READ_ONLY" if read_only else ""
    file, name = str(path).replace("'", "''"), path.stem.replace('"', '""')
    try:
        engine.execute(f"ATTACH '{file}' AS \"{name}\" (TYPE duckdb{mode})")
        engine.execute(f'USE "{name}"')
        yield engine
        engine.execute("USE memory")
        engine.execute(f'DETACH "{name}"')
    except BaseException:
        engine.close()
        raise
    _OWN.engine = engine


@atexit.register
def _end() -> None:
    """DuckDB reports an engine that outlives the interpreter as leaked."""
    engine = getattr(_OWN, "engine", None)
    if engine is not None:
        engine.close()
