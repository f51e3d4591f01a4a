"""The published copy: what readers that stay have open while runs write."""

import subprocess
import sys
from datetime import date, datetime
from pathlib import Path

import duckdb
import polars as pl
import pytest

from quant_assets.contracts import ohlcv
from quant_assets.core.errors import WarehouseError
from quant_assets.warehouse import Warehouse, published

UNFINISHED = """
import os, sys, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("INSERT INTO ohlcv BY NAME SELECT * REPLACE (DATE '2024-01-03' AS ts) FROM ohlcv")
os._exit(0)
"""
"""Ends as a killed process does: its row is in the log beside the file only."""


def _store(warehouse: Warehouse, *days: int) -> None:
    rows = [
        {"symbol": "AAA", "ts": date(2024, 1, day), "open": 1.0, "high": 1.0, "low": 1.0, "close": 1.0}
        | {"adjusted_close": None, "volume": 1, "source": "test", "ingested_at": datetime(2024, 1, day)}
        for day in days
    ]
    with warehouse.write() as writer:
        writer.append(ohlcv.TABLE, pl.DataFrame(rows), run_id="run")


def _days(path: Path) -> list[int]:
    with duckdb.connect(str(path), read_only=True) as connection:
        return [row[0].day for row in connection.execute("SELECT ts FROM ohlcv ORDER BY ts").fetchall()]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse.duckdb")


def test_before_the_first_there_is_none(warehouse: Warehouse) -> None:
    assert published.current(warehouse.path) is None


def test_a_copy_holds_what_was_stored_when_it_was_made(warehouse: Warehouse) -> None:
    _store(warehouse, 2)
    copy = warehouse.publish()
    assert published.current(warehouse.path) == copy
    _store(warehouse, 3)
    assert _days(copy) == [2]
    assert _days(warehouse.publish()) == [2, 3]


def test_nothing_new_is_not_published_again(warehouse: Warehouse) -> None:
    _store(warehouse, 2)
    copy = warehouse.publish()
    made = copy.stat().st_ino
    assert warehouse.publish() == copy
    assert copy.stat().st_ino == made


def test_a_reader_keeps_its_copy_while_others_are_published(warehouse: Warehouse) -> None:
    _store(warehouse, 2)
    with duckdb.connect(str(warehouse.publish()), read_only=True) as reader:
        for day in (3, 4, 5):
            _store(warehouse, day)
            warehouse.publish()
        assert reader.execute("SELECT count(*) FROM ohlcv").fetchall() == [(1,)]


def test_the_newest_two_copies_are_kept_and_what_a_killed_process_left_is_not(warehouse: Warehouse) -> None:
    copies = []
    for day in (2, 3, 4):
        _store(warehouse, day)
        (published.folder(warehouse.path)).mkdir(exist_ok=True)
        (published.folder(warehouse.path) / "warehouse-1.part").write_text("half")
        copies.append(warehouse.publish())
    left = {file.name for file in published.folder(warehouse.path).iterdir()}
    assert left == {copies[1].name, copies[2].name, "current.duckdb"}


def test_the_link_that_other_tools_open_is_the_newest(warehouse: Warehouse) -> None:
    for day in (2, 3):
        _store(warehouse, day)
        warehouse.publish()
    assert _days(published.folder(warehouse.path) / "current.duckdb") == [2, 3]


def test_a_copy_that_cannot_be_written_is_named_and_the_last_one_stays(warehouse: Warehouse) -> None:
    _store(warehouse, 2)
    copy = warehouse.publish()
    _store(warehouse, 3)
    taken = published.folder(warehouse.path) / f"warehouse-{warehouse.path.stat().st_mtime_ns}.part"
    taken.mkdir()
    with pytest.raises(WarehouseError, match=r"cannot publish .*warehouse.duckdb to .*published: .*free disk space"):
        warehouse.publish()
    taken.rmdir()
    assert published.current(warehouse.path) == copy
    assert _days(copy) == [2]


def test_what_a_killed_writer_left_beside_the_file_is_in_the_copy(warehouse: Warehouse) -> None:
    _store(warehouse, 2)
    subprocess.run([sys.executable, "-c", UNFINISHED, warehouse.path], check=True)
    assert warehouse.path.with_name("warehouse.duckdb.wal").exists()
    assert _days(warehouse.publish()) == [2, 3]
