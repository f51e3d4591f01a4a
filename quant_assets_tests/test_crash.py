"""SIGKILL at any point, then a rerun: the same tables as a run that was never killed, and nothing to wait for."""

import re
import shutil
import sys

import dagster as dg
import pytest

from quant_assets.defs.decision import BACKTEST_TABLES
from quant_assets.defs.launch import PIPELINE_TAG
from quant_assets.defs.validation import VALIDATION_TABLES
from quant_assets_tests.platform import SHORT_PLAN, Platform, contents, same_tables, small_platform

pytestmark = pytest.mark.slow

PIPELINE = ("pipeline", "run", "--strategy", "forest")
LOCK_TIMEOUT = {"QUANT_LOCK_TIMEOUT_SECONDS": "20"}
"""A rerun that waits for a lock of the dead one's fails."""

SET_TABLES = tuple(table.name for table in (*BACKTEST_TABLES, *VALIDATION_TABLES))

KILLED_AT_COMMIT = """
import os, signal, sys
from contextlib import contextmanager

from quant_assets.warehouse.duckdb_file import Warehouse, Writer

when, wanted = sys.argv[1].split()
append, write = Writer.append, Warehouse.write
touched = set()


def noting(self, table, *args, **kwargs):
    touched.add(table.name)
    return append(self, table, *args, **kwargs)


@contextmanager
def killing(self):
    touched.clear()
    with write(self) as writer:
        yield writer
        if when == "before" and wanted in touched:
            os.kill(os.getpid(), signal.SIGKILL)
    if when == "after" and wanted in touched:
        os.kill(os.getpid(), signal.SIGKILL)


Writer.append, Warehouse.write = noting, killing
if when == "amid":
    from quant_assets.event_log import BatchedSqliteEventLogStorage as Log

    store = Log.store_event_batch

    def storing(self, events):
        store(self, events)
        if len(events) > 1 and events[0].step_key == wanted:
            os.kill(os.getpid(), signal.SIGKILL)

    Log.store_event_batch = storing

sys.argv[:] = ["quant", *sys.argv[2:]]
from quant_assets.cli.app import main

main()
"""
"""`quant`, killed before or after the commit of a table, or amid an asset's materialisation events."""


@pytest.fixture(scope="module")
def unharmed(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """A platform whose pipeline ran through."""
    platform = small_platform(tmp_path_factory.mktemp("platform"))
    platform.write_strategy("forest", validation=SHORT_PLAN)
    platform.quant(*PIPELINE)
    return platform


def beside(platform: Platform, home: str, **extra: str) -> Platform:
    """The same files and strategies with a home of its own."""
    return Platform(platform.root, {**LOCK_TIMEOUT, **extra}, home)


def by_command(platform: Platform) -> list[list[dg.DagsterRun]]:
    """The runs of each command, oldest first: those that share a tag."""
    commands: dict[str, list[dg.DagsterRun]] = {}
    for run in platform.runs():
        commands.setdefault(run.tags[PIPELINE_TAG], []).append(run)
    return list(commands.values())


def check_finished(platform: Platform, unharmed: Platform, killed: int) -> None:
    """`killed` pipelines died and the last one came through: same tables, one backtest and validation, its own."""
    same_tables(platform.warehouse, unharmed.warehouse)
    *dead, finished = by_command(platform)
    assert len(dead) == killed
    for runs in dead:
        assert [run.status for run in runs] == [dg.DagsterRunStatus.SUCCESS] * (len(runs) - 1) + [
            dg.DagsterRunStatus.FAILURE
        ]
    assert {run.status for run in finished} == {dg.DagsterRunStatus.SUCCESS}
    for table in SET_TABLES:
        writers = platform.warehouse.query(f"SELECT DISTINCT run_id FROM {table}")["run_id"].to_list()
        assert writers == [finished[-1].run_id], table


@pytest.mark.parametrize(
    "line",
    [
        pytest.param(r"2/3 BBB", id="ingest", marks=pytest.mark.thorough),
        pytest.param(r"model 5 of \d+: .* trained", id="training", marks=pytest.mark.thorough),
        pytest.param(r"forest: report", id="backtest", marks=pytest.mark.thorough),
        pytest.param(r"deflated Sharpe", id="validation"),
    ],
)
def test_a_pipeline_killed_at_a_progress_line_and_run_again_leaves_the_tables_of_one_never_killed(
    unharmed: Platform, line: str, request: pytest.FixtureRequest
) -> None:
    platform = beside(unharmed, request.node.callspec.id)
    platform.kill_when(lambda said: bool(re.search(line, said)), platform.command("quant_assets.cli.app", *PIPELINE))
    again = platform.quant(*PIPELINE)
    assert len(re.findall("was left behind by a process that is gone; marked as failed", again.stdout)) == 1
    check_finished(platform, unharmed, killed=1)


@pytest.mark.thorough
def test_a_pipeline_killed_at_commit_after_commit_gets_there_in_the_end(unharmed: Platform) -> None:
    """Each rerun is killed further on; the last one is not."""
    platform = beside(unharmed, "commits", DAGSTER_EVENT_BATCH_SIZE="100")
    points = [
        "after ohlcv",
        "amid ohlcv",
        "after labels",
        "after predictions",
        "before backtest_summary",
        "after backtest_summary",
        "before validation_results",
        "after validation_results",
    ]
    for point in points:
        died = platform.kill_when(lambda _: False, [sys.executable, "-c", KILLED_AT_COMMIT, point, *PIPELINE])
        assert died, point
    platform.quant(*PIPELINE)
    check_finished(platform, unharmed, killed=len(points))


def test_a_second_pipeline_leaves_the_same_tables_and_one_more_set_of_backtest_and_validation_rows(
    unharmed: Platform,
) -> None:
    platform = beside(unharmed, "twice")
    shutil.copytree(unharmed.home, platform.home)
    platform.quant(*PIPELINE, "--force")
    replaced = [name for name in contents(platform.warehouse) if name not in SET_TABLES]
    same_tables(platform.warehouse, unharmed.warehouse, replaced)
    first, second = (runs[-1].run_id for runs in by_command(platform))
    for name in SET_TABLES:
        rows = platform.warehouse.query(f"SELECT * FROM {name}")
        assert set(rows["run_id"]) == {first, second}
        once = contents(unharmed.warehouse, (name,))[name]
        for run_id in (first, second):
            mine = rows.filter(rows["run_id"] == run_id).select(once.columns)
            assert mine.sort(once.columns, nulls_last=True).equals(once), name
