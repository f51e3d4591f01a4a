"""DuckDB's engine, kept between the files it opens."""

import subprocess
import sys
from pathlib import Path

import duckdb
import pytest

from quant_assets.warehouse.engine import attached


def write(path: Path, value: int) -> None:
    with attached(path, read_only=False) as connection:
        connection.execute("CREATE OR REPLACE TABLE numbers AS SELECT ?::INTEGER AS n", [value])


def read(path: Path) -> list[tuple[int]]:
    with attached(path, read_only=True) as connection:
        return connection.execute("SELECT n FROM numbers").fetchall()


def test_a_file_is_released_when_the_block_ends(tmp_path: Path):
    write(tmp_path / "a.duckdb", 1)
    code = f"import duckdb; print(duckdb.connect({str(tmp_path / 'a.duckdb')!r}).sql('FROM numbers').fetchall())"
    other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert other.stdout.strip() == "[(1,)]"
    assert [file.name for file in tmp_path.iterdir()] == ["a.duckdb"]


def test_a_file_that_is_attached_keeps_others_out(tmp_path: Path):
    path = tmp_path / "a.duckdb"
    write(path, 1)
    code = f"import duckdb; duckdb.connect({str(path)!r})"
    with attached(path, read_only=False):
        other = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert "Could not set lock" in other.stderr


def test_one_engine_serves_file_after_file_and_leaves_nothing_of_one_to_the_next(tmp_path: Path):
    write(tmp_path / "a.duckdb", 1)
    write(tmp_path / "b.duckdb", 2)
    with attached(tmp_path / "a.duckdb", read_only=True) as first:
        assert first.execute("SELECT n FROM numbers").fetchall() == [(1,)]
    with attached(tmp_path / "b.duckdb", read_only=True) as second:
        assert second is first
        assert second.execute("SELECT n FROM numbers").fetchall() == [(2,)]
        assert [row[0] for row in second.execute("SELECT table_name FROM duckdb_tables()").fetchall()] == ["numbers"]


def test_a_file_attached_within_the_block_of_another_has_an_engine_of_its_own(tmp_path: Path):
    write(tmp_path / "a.duckdb", 1)
    write(tmp_path / "b.duckdb", 2)
    with attached(tmp_path / "a.duckdb", read_only=True) as outer, attached(tmp_path / "b.duckdb", read_only=True) as b:
        assert outer is not b
        assert outer.execute("SELECT n FROM numbers").fetchall() == [(1,)]


def test_reading_only_refuses_to_write(tmp_path: Path):
    write(tmp_path / "a.duckdb", 1)
    with pytest.raises(duckdb.Error, match="read-only"), attached(tmp_path / "a.duckdb", read_only=True) as connection:
        connection.execute("DELETE FROM numbers")


def test_after_an_error_the_next_block_works(tmp_path: Path):
    path = tmp_path / "a.duckdb"
    write(path, 1)
    with pytest.raises(duckdb.Error, match="nothing"), attached(path, read_only=False) as connection:
        connection.execute("BEGIN; DELETE FROM numbers; SELECT nothing")
    assert read(path) == [(1,)]
    with pytest.raises(duckdb.IOException):
        read(tmp_path / "absent.duckdb")
    assert read(path) == [(1,)]


def test_a_name_with_quotes_is_only_a_name(tmp_path: Path):
    path = tmp_path / 'it\'s "a" file.duckdb'
    write(path, 3)
    assert read(path) == [(3,)]
