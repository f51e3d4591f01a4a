"""Real Dagster runs from this process: what `quant` and scripts use where no daemon runs."""

import os
import signal
import socket
import threading
import uuid
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import dataclass, field
from datetime import date
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.api import create_execution_plan, execute_run_iterator
from dagster._core.storage.asset_check_execution_record import AssetCheckExecutionRecord
from dagster_shared.record import copy as copy_record
from filelock import FileLock

from quant_assets.core.errors import QualityError, QuantError
from quant_assets.defs.decision import BACKTEST_TABLES
from quant_assets.defs.decision import GROUP as DECISION
from quant_assets.defs.event_driven import EVENT_TABLES
from quant_assets.defs.grid import PARTITION, Grid
from quant_assets.defs.market import GROUP as MARKET
from quant_assets.defs.progress import listening
from quant_assets.defs.validation import VALIDATION_TABLES
from quant_assets.strategy.markets import MARKET_JOB
from quant_assets.warehouse import Warehouse

PIPELINE_TAG = "quant/pipeline"
PROCESS_TAG = ".dagster/quant_process"
"""Hidden in the UI, as all tags that begin so."""
_SECONDS_TO_OPEN = 60.0
_DEFINITIONS = "quant_assets.definitions"


class RunFailedError(QuantError):
    """A run that ended in failure; the message is the failed step's own."""


@dataclass(frozen=True)
class FailedCheck:
    """An asset check that found something; `blocking` ones stop what lies downstream."""

    name: str
    blocking: bool
    words: str
    grave: bool = False
    """An error; the others are warnings."""


@dataclass
class Launched:
    """One finished run.

    `cells` counts materialised partitions by asset as users read its key, `failures` are the failed steps' words.
    """

    run_id: str
    succeeded: bool
    cells: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    failed_checks: list[FailedCheck] = field(default_factory=list)
    interrupted: bool = False

    blocked: bool = False
    """Whether a blocking check found something, or checks could not be made."""


@dataclass(frozen=True)
class Step:
    """What `watch` is told: an asset's step began, ended, or stored so many cells so far."""

    asset: str
    state: str
    cells: int = 0


class Launcher:
    """Runs one market's assets on the instance that the environment names. Assets go by their names in the market.

    Args:
        watch: called with a `Step` as steps go, and with a line of text for every progress line.
        pipeline: tag value that the runs of one command share.
    """

    def __init__(
        self, grid: Grid, warehouse: Warehouse, watch: Callable[[Step | str], None], pipeline: str | None = None
    ) -> None:
        self.instance = _instance()
        self.grid = grid
        self.pipeline = pipeline or uuid.uuid4().hex[:12]
        self._warehouse = warehouse
        self._watch = watch
        self._repository = ReconstructableRepository.for_module(_DEFINITIONS, "defs", working_directory=None)

    def on(self, grid: Grid) -> "Launcher":
        """The same for the market of `grid`: one instance, one command."""
        other = copy(self)
        other.grid = grid
        return other

    def fail_dead_runs(self) -> list[str]:
        """Mark runs as failed whose process is gone, and drop what they left of backtests. Returns their ids."""
        unfinished = self.instance.get_runs(
            dg.RunsFilter(
                statuses=[
                    dg.DagsterRunStatus.NOT_STARTED,
                    dg.DagsterRunStatus.STARTING,
                    dg.DagsterRunStatus.STARTED,
                ]
            )
        )
        dead = [run for run in unfinished if _is_dead(run.tags.get(PROCESS_TAG))]
        for run in dead:
            self.instance.report_run_failed(run, "its process is gone (killed, or the machine went down)")
        if dead:
            with self._warehouse.write() as writer:
                for table in (*BACKTEST_TABLES, *VALIDATION_TABLES, *EVENT_TABLES):
                    writer.delete(table, "run_id IN (SELECT unnest(?))", [[run.run_id for run in dead]])
        return [run.run_id for run in dead]

    def missing(
        self, assets: Sequence[str], keys: Sequence[str], first: date, last: date
    ) -> dict[str, tuple[date, date]]:
        """For each of `keys` the smallest span of dates that holds every cell which one of `assets` still lacks.

        A cell whose input was materialised after it is lacking too; its span then goes on to `last`, because values
        look back over it.
        """
        wanted = list(self.grid.date_keys(first, last))
        spans: dict[str, tuple[date, date]] = {}
        newest = cache(self._newest)
        states = [self._state(asset, newest) for asset in assets]
        for key in keys:
            cells = [f"{one}|{key}" for one in wanted]
            lacking = [at for at, cell in enumerate(cells) if any(cell not in done for done, _ in states)]
            if lacking:
                stale = any(cells[at] in old for at in lacking for _, old in states)
                low, high = wanted[lacking[0]], wanted[-1 if stale else lacking[-1]]
                spans[key] = (max(first, self.grid.window(low)[0]), min(last, self.grid.window(high)[1]))
        return spans

    def without(self, asset: str, keys: Sequence[str], first: date, last: date) -> list[str]:
        """Those of `keys` that have no cell of `asset` from `first` to `last`."""
        there = self.instance.get_materialized_partitions(self.grid.key(asset))
        days = self.grid.date_keys(first, last)
        return [key for key in keys if not any(f"{day}|{key}" in there for day in days)]

    def _state(self, asset: str, newest: Callable[[dg.AssetKey], Mapping[str, int]]) -> tuple[set[str], set[str]]:
        """Partitions that are up to date, and those older than an input; none where the asset's code has changed."""
        key = self.grid.key(asset)
        event = self.instance.get_latest_materialization_event(key)
        if event is None or event.asset_materialization is None:
            return set(), set()
        node = self._repository.get_definition().asset_graph.get(key)
        made_by = (event.asset_materialization.tags or {}).get("dagster/code_version")
        if made_by != node.code_version:
            name = key.to_user_string()
            self._watch(f"{name}: its code has changed since it was last materialised; doing all of it again")
            return set(), set()
        made = newest(key)
        stale = {cell for parent in node.parent_keys for cell, at in newest(parent).items() if at > made.get(cell, at)}
        return made.keys() - stale, stale

    def _newest(self, key: dg.AssetKey) -> Mapping[str, int]:
        """Partition -> storage id of its newest materialisation."""
        return self.instance.event_log_storage.get_latest_storage_id_by_partition(
            key, dg.DagsterEventType.ASSET_MATERIALIZATION
        )

    def run(
        self,
        assets: Sequence[str],
        first: date,
        last: date,
        keys: Sequence[str],
        *,
        config: Mapping[str, Any] | None = None,
    ) -> Launched:
        """Materialise `assets` for `first`..`last` and neighbouring `keys` in one run, in this process.

        Raises:
            QualityError: a blocking check of an asset upstream found something when it last ran.
            KeyboardInterrupt: the run was interrupted; it is then marked as failed or canceled.
        """
        selection = frozenset(self.grid.key(asset) for asset in assets)
        self._refuse_blocked(selection)
        return self._run(self._job_of(selection, keys), selection, self.grid.range_tags(first, last, keys), config)

    def run_partition(
        self, job: str, asset: str, partition: str, *, config: Mapping[str, Any] | None = None
    ) -> Launched:
        """Materialise one partition of an asset of any partitions, as a run of `job`; raises as `run` does."""
        selection = frozenset([self.grid.key(asset)])
        self._refuse_blocked(selection)
        return self._run(job, selection, {PARTITION: partition}, config)

    def run_job(self, job: str) -> Launched:
        """Run a job of no partitions whole, whatever checks upstream have found.

        Raises:
            KeyboardInterrupt: as `run`.
        """
        selected = self._repository.get_definition().get_job(job).asset_layer.executable_asset_keys
        return self._run(job, frozenset(selected), {}, None)

    def _run(
        self,
        job_name: str,
        selection: frozenset[dg.AssetKey],
        tags: Mapping[str, str],
        config: Mapping[str, Any] | None,
    ) -> Launched:
        checks = self._checks_of(selection)
        job = self._repository.get_reconstructable_job(job_name).get_subset(
            asset_selection=selection, asset_check_selection=checks
        )
        definition = job.get_definition()
        run_config = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **(config or {})}
        all_tags = {
            **definition.run_tags,
            PIPELINE_TAG: self.pipeline,
            PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}",
            **tags,
        }
        run = self.instance.create_run_for_job(
            job_def=definition,
            # left to itself it plans the checks of the selection only
            execution_plan=create_execution_plan(job, run_config, tags=all_tags) if checks else None,
            asset_selection=selection,
            run_config=run_config,
            tags=all_tags,
            job_code_origin=job.get_python_origin(),
        )
        launched = Launched(run.run_id, succeeded=False)
        try:
            with listening(self._watch), _sigint() as came:
                for event in execute_run_iterator(job, copy_record(run, asset_check_selection=checks), self.instance):
                    self._note(event, launched)
                    if came() and not launched.interrupted:
                        # raised where nothing passes an exception on (a finaliser, a connection pool): once more
                        signal.raise_signal(signal.SIGINT)
        except (KeyboardInterrupt, DagsterExecutionInterruptedError):
            launched.interrupted = True
        if launched.interrupted:
            stopped = self.instance.get_run_by_id(run.run_id)
            if stopped and not stopped.is_finished:
                self.instance.report_run_canceled(stopped, "interrupted")
            raise KeyboardInterrupt
        if not launched.succeeded:  # the good symbols' cells of an asset that failed are not among the run's own events
            stored = self.instance.all_logs(run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION)
            launched.cells = dict(Counter(_asset_of(entry) for entry in stored))
        return launched

    def _job_of(self, selection: frozenset[dg.AssetKey], keys: Sequence[str]) -> str:
        """The stage's or the strategy's own job, so that its history in the UI holds this run."""
        graph = self._repository.get_definition().asset_graph
        groups = {graph.get(key).group_name for key in selection}
        if groups == {self.grid.name(MARKET)}:
            return self.grid.name(MARKET_JOB)
        if groups == {self.grid.name(DECISION)} and len(keys) == 1:
            return keys[0]
        raise ValueError(f"one run holds assets of one stage and, in the decision stage, one strategy; got {keys}")

    def _checks_of(self, selection: frozenset[dg.AssetKey]) -> frozenset[dg.AssetCheckKey] | None:
        """None (the checks of `selection`), or these and the stage's blocking ones upstream that were not made.

        A run that failed for one symbol, or was killed, has left cells which nothing has checked.
        """
        graph = self._repository.get_definition().asset_graph
        groups = {graph.get(key).group_name for key in selection}
        parents = {parent for key in selection for parent in graph.get(key).parent_keys} - selection
        unchecked = {
            parent for parent in parents if graph.get(parent).group_name in groups and not self._passed(parent)
        }
        if not unchecked:
            return None
        own = {key for key in graph.asset_check_keys if key.asset_key in selection}
        return frozenset(own | set(self._latest_checks(unchecked)))

    def passed_checks(self, asset: str) -> bool:
        """Whether the blocking checks of `asset` passed in the run that materialised it last."""
        return self._passed(self.grid.key(asset))

    def _passed(self, key: dg.AssetKey) -> bool:
        event = self.instance.get_latest_materialization_event(key)
        latest = self._latest_checks({key})
        return event is not None and all(
            record is not None and record.run_id == event.run_id and _evaluated(record) and not _failed_in(record)
            for record in latest.values()
        )

    def _latest_checks(
        self, assets: Collection[dg.AssetKey]
    ) -> dict[dg.AssetCheckKey, AssetCheckExecutionRecord | None]:
        """Blocking check of `assets` -> its newest execution."""
        graph = self._repository.get_definition().asset_graph
        keys = [key for key in graph.asset_check_keys if key.asset_key in assets and graph.get(key).blocking]
        found = self.instance.event_log_storage.get_latest_asset_check_execution_by_key(keys)
        return {key: found.get(key) for key in keys}

    def _refuse_blocked(self, selection: frozenset[dg.AssetKey]) -> None:
        graph = self._repository.get_definition().asset_graph
        upstream = set().union(*(graph.get_ancestor_asset_keys(key) for key in selection)) - selection
        for record in self._latest_checks(upstream).values():
            failed = _failed_in(record) if record else None
            if record and failed:
                raise QualityError(f"blocked by check {failed.name} of run {record.run_id}: {failed.words}")

    def _note(self, event: dg.DagsterEvent, launched: Launched) -> None:
        prefix = self.grid.prefix
        step = (event.step_key or "").replace(f"{prefix}__", f"{prefix}/", 1)  # as keys of assets are shown
        asset = step.removesuffix("_checks")
        kind = event.event_type_value
        if kind == "STEP_START":
            self._watch(Step(step, "start"))
        elif kind == "ASSET_MATERIALIZATION":
            cells = launched.cells[asset] = launched.cells.get(asset, 0) + 1
            if cells % 500 == 0:
                self._watch(Step(asset, "cells", cells))
        elif kind == "STEP_SUCCESS":
            self._watch(Step(step, "done", launched.cells.get(asset, 0)))
        elif kind == "STEP_FAILURE":
            launched.interrupted |= _is_interrupt(event)
            launched.blocked |= step.endswith("_checks")
            blocking = [f"check {one.name}: {one.words}" for one in launched.failed_checks if one.blocking]
            launched.failures += blocking if launched.blocked and blocking else [_words(event)]
            self._watch(Step(step, "failed", launched.cells.get(asset, 0)))
        elif kind == "STEP_UP_FOR_RETRY":
            self._watch(f"{asset}: {_words(event)}; trying again")
        elif kind == "ASSET_CHECK_EVALUATION":
            failed = _failed_check(event)
            if failed:
                launched.failed_checks.append(failed)
        elif kind == "RUN_SUCCESS" or kind == "PIPELINE_SUCCESS":
            launched.succeeded = True
        elif kind in ("RUN_CANCELED", "PIPELINE_CANCELED"):
            launched.interrupted = True
        elif kind in ("RUN_FAILURE", "PIPELINE_FAILURE") and not launched.failures:
            launched.failures.append(event.message or "the run failed")


def _asset_of(entry: dg.EventLogEntry) -> str:
    key = entry.dagster_event.asset_key if entry.dagster_event else None
    return key.to_user_string() if key else ""


def _evaluated(record: AssetCheckExecutionRecord) -> bool:
    event = record.event.dagster_event if record.event else None
    return event is not None and event.event_type_value == "ASSET_CHECK_EVALUATION"


def _failed_in(record: AssetCheckExecutionRecord) -> FailedCheck | None:
    """The check that `record` evaluates; None if it passed or was not evaluated."""
    event = record.event.dagster_event if record.event else None
    return _failed_check(event) if event is not None and _evaluated(record) else None


def _failed_check(event: dg.DagsterEvent) -> FailedCheck | None:
    """The check that `event` evaluates; None if it passed."""
    evaluation = event.asset_check_evaluation_data
    if evaluation.passed:
        return None
    name = f"{evaluation.asset_key.to_user_string()}.{evaluation.check_name}"
    grave = evaluation.severity == dg.AssetCheckSeverity.ERROR
    words = evaluation.description or "see the asset's Checks tab"
    return FailedCheck(name, bool(evaluation.blocking) and grave, words, grave)


@contextmanager
def _sigint() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGINT has come since it was last asked, whatever became of its exception."""
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)

        def came() -> bool:
            try:
                return signal.SIGINT in reader.recv(4096)
            except BlockingIOError:
                return False

        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        try:
            yield came
        finally:
            signal.set_wakeup_fd(before)


def _is_interrupt(event: dg.DagsterEvent) -> bool:
    error = getattr(event.event_specific_data, "error", None)
    return error is not None and error.cls_name in ("DagsterExecutionInterruptedError", "KeyboardInterrupt")


def _instance() -> dg.DagsterInstance:
    """The environment's instance, opened by one process at a time: two that make its SQLite files at once ruin them."""
    folder = Path(os.environ["QUANT_DAGSTER"])
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / "opening.lock", timeout=_SECONDS_TO_OPEN):
        return dg.DagsterInstance.get()


def _words(event: dg.DagsterEvent) -> str:
    """The one line of a step's failure: our own words where it was ours, else the exception's."""
    data = event.event_specific_data
    user = getattr(data, "user_failure_data", None)
    if user is not None and user.description:
        return str(user.description)
    error = getattr(data, "error", None)
    while error is not None and error.cause is not None:
        error = error.cause
    line = error.message.strip().splitlines()[0] if error is not None and error.message else (event.message or "failed")
    if line.startswith("sqlite3."):
        line += f" in Dagster's storage {os.environ.get('QUANT_DAGSTER', '')}: check its permissions and the free space"
    return line


def _started(pid: int) -> str:
    """When process `pid` started, so that a process id used again is not taken for the old process."""
    import psutil

    try:
        return str(int(psutil.Process(pid).create_time()))
    except psutil.NoSuchProcess:
        return ""


def _is_dead(process: str | None) -> bool:
    """Whether a run's process, tagged host:pid:start, was on this machine and is gone."""
    if process is None:
        return False
    host, pid, started = process.rsplit(":", 2)
    return host == socket.gethostname() and _started(int(pid)) != started
