"""The warehouse: slices replaced whole or not at all, whatever happens to disk, file and neighbours."""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from quant_assets.contracts import TABLES, VIEWS, Table, features_daily
from quant_assets.core.errors import WarehouseError, WarehouseLockedError
from quant_assets.warehouse import Replaced, Warehouse, duckdb_file

OHLCV, LABELS = TABLES["ohlcv"], TABLES["labels"]
NOW = datetime(2024, 1, 5, 22)
FIRST = date(2024, 1, 1)
IN_SLICE = "ts BETWEEN ? AND ? AND symbol IN (SELECT unnest(?))"


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse.duckdb", lock_timeout=30)


def bars(symbol: str, days: range, close: float = 10.0) -> pl.DataFrame:
    return pl.DataFrame(
        {"symbol": symbol, "ts": [FIRST + timedelta(day) for day in days], "source": "x", "ingested_at": NOW}
        | dict.fromkeys(("open", "high", "low", "close"), close)
        | {"adjusted_close": None, "volume": 1.0},
        schema_overrides=OHLCV.empty().schema,
    ).select(OHLCV.empty().columns)


def label(day: int, known_day: int, value: float) -> pl.DataFrame:
    row = ("A", FIRST + timedelta(day), "l", "v1", value, 5, FIRST + timedelta(known_day), NOW)
    return pl.DataFrame([row], schema=LABELS.empty().schema, orient="row")


def store(warehouse: Warehouse, frame: pl.DataFrame, table: Table = OHLCV) -> None:
    with warehouse.write() as writer:
        writer.append(table, frame, run_id="r0")


def closes(warehouse: Warehouse) -> list[tuple[Any, ...]]:
    return warehouse.query("SELECT symbol, ts, close, run_id FROM ohlcv ORDER BY ALL").rows()


def features(table: Table, day: int = 0, **values: float | None) -> pl.DataFrame:
    return pl.DataFrame(
        {"symbol": "A", "ts": FIRST + timedelta(day), "computed_at": NOW} | values,
        schema_overrides=table.empty().schema,
    )


@contextmanager
def child(code: str, *arguments: object) -> Iterator[subprocess.Popen[str]]:
    """A Python process at work on the same file; it is killed when the block ends."""
    command = [sys.executable, "-c", code, *(str(one) for one in arguments)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def said(process: subprocess.Popen[str]) -> str:
    """The next line that the child prints."""
    assert process.stdout is not None
    return process.stdout.readline().strip()


HEAD = """
import sys
from pathlib import Path
from quant_assets.warehouse import Warehouse
from quant_assets_tests.test_warehouse import OHLCV, bars
warehouse = Warehouse(Path(sys.argv[1]), lock_timeout=60)
"""


def test_it_is_made_with_every_table_when_first_used(warehouse: Warehouse):
    assert warehouse.tables() == set(TABLES)
    assert warehouse.prepare() == []


def test_preparing_names_the_tables_it_made(warehouse: Warehouse):
    assert warehouse.prepare() == sorted(TABLES)


def test_a_table_that_an_older_file_lacks_is_added(warehouse: Warehouse):
    warehouse.prepare()
    with duckdb.connect(str(warehouse.path)) as connection:
        connection.execute("DROP TABLE quarantine")
    assert "quarantine" in Warehouse(warehouse.path).tables()


@pytest.mark.parametrize("name", sorted(set(TABLES) - VIEWS))
def test_every_table_gives_back_its_columns(warehouse: Warehouse, name: str):
    assert warehouse.query(f"SELECT * FROM {name}").schema == TABLES[name].empty(stored=True).schema


def test_a_slice_is_replaced_and_the_rest_stays(warehouse: Warehouse):
    store(warehouse, pl.concat([bars("A", range(4)), bars("B", range(4))]))
    new = bars("A", range(1, 3), close=20.0)
    with warehouse.write() as writer:
        counted = writer.replace(OHLCV, new, IN_SLICE, [FIRST + timedelta(1), FIRST + timedelta(3), ["A"]], run_id="r1")
    assert counted == Replaced(deleted=3, inserted=2)
    assert closes(warehouse) == [
        ("A", FIRST, 10.0, "r0"),
        ("A", FIRST + timedelta(1), 20.0, "r1"),
        ("A", FIRST + timedelta(2), 20.0, "r1"),
        *(("B", FIRST + timedelta(day), 10.0, "r0") for day in range(4)),
    ]


def test_replacing_by_nothing_empties_the_slice(warehouse: Warehouse):
    store(warehouse, bars("A", range(3)))
    with warehouse.write() as writer:
        counted = writer.replace(OHLCV, bars("A", range(0)), "symbol = ?", ["A"], run_id="r1")
    assert counted == Replaced(3, 0)
    assert closes(warehouse) == []


def test_a_row_that_moves_to_another_slice_leaves_its_old_place(warehouse: Warehouse):
    store(warehouse, pl.concat([label(0, 5, 0.1), label(1, 6, 0.2)]), LABELS)
    day = FIRST + timedelta(4)
    with warehouse.write() as writer:
        counted = writer.replace(LABELS, label(0, 4, 0.3), "known_on = ?", [day], run_id="r1", keys_move=True)
    assert counted == Replaced(1, 1)
    assert warehouse.query("SELECT ts, known_on, label_value FROM labels ORDER BY ts").rows() == [
        (FIRST, day, 0.3),
        (FIRST + timedelta(1), FIRST + timedelta(6), 0.2),
    ]


def test_rows_lie_in_the_tables_order_whatever_order_they_came_in(warehouse: Warehouse):
    both = pl.concat([bars("B", range(3)), bars("A", range(3))])
    for frame in (both, both.sort("symbol", "ts"), both.reverse(), both.sample(fraction=1, shuffle=True, seed=3)):
        with warehouse.write() as writer:
            writer.replace(OHLCV, frame, "true", run_id="r")
        rows = warehouse.query("SELECT ts, symbol FROM ohlcv").rows()
        assert rows == sorted(rows)


def test_an_exception_in_the_block_leaves_everything_as_before(warehouse: Warehouse):
    store(warehouse, bars("A", range(3)))
    before = closes(warehouse)

    def fail_half_way() -> None:
        with warehouse.write() as writer:
            writer.delete(OHLCV, "true")
            writer.append(OHLCV, bars("B", range(2)), run_id="r1")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail_half_way()
    assert closes(warehouse) == before


def test_a_row_that_the_table_cannot_hold_undoes_the_whole_write(warehouse: Warehouse):
    store(warehouse, bars("A", range(3)))
    before = closes(warehouse)

    def store_null() -> None:
        with warehouse.write() as writer:
            writer.append(OHLCV, bars("B", range(2)), run_id="r1")
            writer.append(OHLCV, bars("C", range(1)).with_columns(source=None), run_id="r1")

    with pytest.raises(WarehouseError, match=r"NOT NULL constraint failed: ohlcv\.\"source"):
        store_null()
    assert closes(warehouse) == before


def test_a_write_reads_what_it_has_written_and_others_do_not_until_it_ends(warehouse: Warehouse):
    with warehouse.write() as writer:
        assert writer.append(OHLCV, bars("A", range(2)), run_id="r") == 2
        assert writer.query("SELECT count(*) AS n FROM ohlcv WHERE symbol = ?", ["A"])["n"].item() == 2
    assert len(closes(warehouse)) == 2


def test_wrong_sql_is_one_line(warehouse: Warehouse):
    with pytest.raises(WarehouseError, match="no_such_table") as caught:
        warehouse.query("SELECT * FROM no_such_table")
    assert "\n" not in str(caught.value)


def test_without_feature_tables_the_long_view_is_empty(warehouse: Warehouse):
    rows = warehouse.query("SELECT * FROM features_daily")
    assert rows.is_empty()
    assert rows.columns == [column.name for column in features_daily.TABLE.all_columns]


def test_the_long_view_spans_the_wide_tables_of_all_versions_without_their_gaps(warehouse: Warehouse):
    one, two = features_daily.wide("v8", ("p", "q")), features_daily.wide("v9", ("q",))
    with warehouse.write() as writer:
        for table, values in ((one, {"p": 1.0, "q": None}), (two, {"q": 3.0})):
            writer.ensure(table)
            writer.append(table, features(table, **values), run_id="r")
    rows = warehouse.query("SELECT feature_name, feature_version, feature_value, run_id FROM features_daily ORDER BY 2")
    assert rows.rows() == [("p", "v8", 1.0, "r"), ("q", "v9", 3.0, "r")]
    assert warehouse.query("SELECT * FROM features_daily").schema == features_daily.TABLE.empty(stored=True).schema


def test_a_set_that_gains_a_feature_keeps_its_rows_and_shows_it_in_the_view(warehouse: Warehouse):
    old, new = features_daily.wide("v9", ("p",)), features_daily.wide("v9", ("p", "q"))
    for day, table, values in ((0, old, {"p": 1.0}), (1, new, {"p": 2.0, "q": 3.0})):
        with warehouse.write() as writer:
            writer.ensure(table)
            writer.append(table, features(table, day, **values), run_id="r")
    assert warehouse.query(f"SELECT p, q FROM {new.name} ORDER BY ts").rows() == [(1.0, None), (2.0, 3.0)]
    long = warehouse.query("SELECT ts, feature_name, feature_value FROM features_daily ORDER BY ALL").rows()
    day = FIRST + timedelta(1)
    assert long == [(FIRST, "p", 1.0), (day, "p", 2.0), (day, "q", 3.0)]


def test_compacting_gives_back_space_and_keeps_every_row_and_view(warehouse: Warehouse):
    table = features_daily.wide("v9", ("p",))
    with warehouse.write() as writer:
        writer.ensure(table)
        writer.append(table, features(table, p=1.0), run_id="r")
    for turn in range(4):
        with warehouse.write() as writer:
            writer.replace(OHLCV, bars("A", range(20_000), close=1.0 + turn), "true", run_id=f"r{turn}")
    rows = closes(warehouse)
    size = warehouse.path.stat().st_size
    for left_behind in ("warehouse.compact", "warehouse.compact.wal"):
        (warehouse.path.parent / left_behind).write_text("by a process that was killed")
    before, after = warehouse.compact()
    assert (before, after) == (size, warehouse.path.stat().st_size)
    assert after < before
    assert closes(warehouse) == rows
    assert warehouse.query("SELECT feature_value FROM features_daily").rows() == [(1.0,)]
    assert {path.name for path in warehouse.path.parent.iterdir()} <= {"warehouse.duckdb", "warehouse.duckdb.lock"}
    store(warehouse, bars("B", range(1)))


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        raise AssertionError("waited for something that time does not mend")

    monkeypatch.setattr(duckdb_file.time, "sleep", sleep)


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda data: data[:5000], id="cut off"),
        pytest.param(lambda data: data[:64] + b"\xff" * 8192 + data[8256:], id="overwritten at the head"),
        pytest.param(lambda data: data[:12288] + bytes(len(data) - 12288), id="zeroed behind the head"),
        pytest.param(lambda data: b"symbol,ts,open\n" * 400, id="a CSV file"),
        pytest.param(lambda data: b"", id="empty"),
    ],
)
def test_a_damaged_or_foreign_file_is_said_to_be_so_at_once_and_left_alone(
    warehouse: Warehouse, no_waiting: None, damage: Any
):
    store(warehouse, bars("A", range(2000)))
    broken = damage(warehouse.path.read_bytes())
    warehouse.path.write_bytes(broken)
    for use in (lambda one: one.query("SELECT count(*) FROM ohlcv"), lambda one: one.prepare()):
        with pytest.raises(
            WarehouseError, match=r"is damaged or no DuckDB database .*; move it away and restore a copy"
        ):
            use(Warehouse(warehouse.path, lock_timeout=600))
    assert warehouse.path.read_bytes() == broken


def test_a_home_that_is_a_file_is_refused_with_the_setting_to_change(tmp_path: Path):
    (tmp_path / "home").write_text("")
    for use in (lambda one: one.query("SELECT 1"), lambda one: one.prepare(), lambda one: one.compact()):
        with pytest.raises(WarehouseError, match="make the folder writable or set QUANT_HOME"):
            use(Warehouse(tmp_path / "home" / "warehouse.duckdb"))


def test_a_folder_in_the_files_place_is_refused(tmp_path: Path):
    (tmp_path / "warehouse.duckdb").mkdir()
    with pytest.raises(WarehouseError, match=r"warehouse\.duckdb"):
        Warehouse(tmp_path / "warehouse.duckdb").query("SELECT 1")


@pytest.mark.parametrize("work", ["writer.append(OHLCV, bars('B', range(400_000)), run_id='r1')", "compact"])
def test_a_full_disk_is_one_clear_error_and_nothing_is_stored_half(warehouse: Warehouse, work: str):
    store(warehouse, bars("A", range(60_000)))
    rows = closes(warehouse)
    action = "warehouse.compact()" if work == "compact" else f"with warehouse.write() as writer: {work}"
    limit = 100_000 if work == "compact" else warehouse.path.stat().st_size + 100_000
    code = f"""{HEAD}
import resource
from quant_assets.core.errors import WarehouseError
warehouse.tables()
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    {action}
except WarehouseError as error:
    print(error)
"""
    with child(code, warehouse.path, limit) as process:
        message = said(process)
    assert "cannot read or write" in message
    assert message.endswith("check its permissions and the free disk space")
    assert closes(Warehouse(warehouse.path)) == rows
    assert not list(warehouse.path.parent.glob("*.compact*"))
    store(warehouse, bars("B", range(2)))
    assert len(closes(warehouse)) == len(rows) + 2


def test_a_file_in_use_by_another_run_is_waited_for_and_then_given_up_with_the_setting(warehouse: Warehouse):
    warehouse.prepare()
    code = f"{HEAD}\nwith warehouse.write(): print('in', flush=True); sys.stdin.read()"
    with child(code, warehouse.path) as process:
        assert said(process) == "in"
        impatient = Warehouse(warehouse.path, lock_timeout=0.1)
        for use in (lambda: impatient.query("SELECT 1"), lambda: store(impatient, bars("A", range(1)))):
            with pytest.raises(WarehouseLockedError, match=r"over 0\.1 s; .*raise QUANT_LOCK_TIMEOUT_SECONDS"):
                use()


def test_a_program_that_takes_no_turns_is_waited_for_too(warehouse: Warehouse):
    warehouse.prepare()
    code = "import duckdb, sys\nwith duckdb.connect(sys.argv[1]): print('in', flush=True); sys.stdin.readline()"
    with child(code, warehouse.path) as process:
        assert said(process) == "in"
        with pytest.raises(WarehouseLockedError, match=r"open in another program .*raise QUANT_LOCK_TIMEOUT_SECONDS"):
            Warehouse(warehouse.path, lock_timeout=0.1).query("SELECT 1")
        assert process.stdin is not None
        process.stdin.write("\n")
        process.stdin.flush()
        assert Warehouse(warehouse.path, lock_timeout=30).query("SELECT 1 AS one")["one"].item() == 1


@pytest.mark.slow
def test_nobody_waits_for_a_writer_that_was_killed_and_none_of_its_rows_is_there(warehouse: Warehouse):
    store(warehouse, bars("A", range(3)))
    code = f"""{HEAD}
with warehouse.write() as writer:
    writer.delete(OHLCV, "true")
    writer.append(OHLCV, bars("B", range(50_000)), run_id="r1")
    print("half", flush=True)
    sys.stdin.read()
"""
    with child(code, warehouse.path) as process:
        assert said(process) == "half"
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert {row[0] for row in closes(Warehouse(warehouse.path, lock_timeout=1))} == {"A"}
    store(Warehouse(warehouse.path, lock_timeout=1), bars("C", range(1)))
    assert len(closes(warehouse)) == 4


@pytest.mark.slow
def test_two_processes_that_write_at_once_lose_no_row(warehouse: Warehouse):
    code = f"""{HEAD}
print("ready", flush=True)
sys.stdin.readline()
for day in range(25):
    with warehouse.write() as writer:
        writer.replace(OHLCV, bars(sys.argv[2], range(day, day + 1)), "close < 0", run_id="r")
print("done", flush=True)
"""
    with child(code, warehouse.path, "A") as one, child(code, warehouse.path, "B") as two:
        for process in (one, two):
            assert said(process) == "ready"
        for process in (one, two):
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        assert [said(process) for process in (one, two)] == ["done", "done"]
    assert [row[:2] for row in closes(warehouse)] == [
        (symbol, FIRST + timedelta(day)) for symbol in "AB" for day in range(25)
    ]


def test_a_warehouse_of_an_older_version_gains_the_columns_it_lacks_and_keeps_its_rows(tmp_path: Path):
    path = tmp_path / "warehouse.duckdb"
    Warehouse(path).prepare()
    with duckdb.connect(str(path)) as older:
        older.execute("ALTER TABLE backtest_symbols DROP COLUMN funding")
        older.execute(
            "INSERT INTO backtest_symbols (strategy_id, symbol, contribution, num_trades, mean_weight, run_id) "
            "VALUES ('s', 'A', 0.1, 1, 0.5, 'r')"
        )
    stored = Warehouse(path).query("SELECT symbol, contribution, funding FROM backtest_symbols")
    assert stored.rows() == [("A", 0.1, None)]
