"""Real Dagster runs from this process: what `quant` and scripts use where no daemon runs."""

import os
import socket
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableRepository
from dagster._core.execution.api import execute_run_iterator

from quant_assets.core.errors import QuantError
from quant_assets.defs.decision import BACKTEST_TABLES
from quant_assets.defs.grid import Grid
from quant_assets.defs.market import RESTATED
from quant_assets.defs.progress import listening
from quant_assets.warehouse import Warehouse

PIPELINE_TAG = "quant/pipeline"
PROCESS_TAG = "quant/process"
_DEFINITIONS = "quant_assets.definitions"


class RunFailedError(QuantError):
    """A run that ended in failure; the message is the failed step's own."""


@dataclass
class Launched:
    """One finished run.

    `cells` counts materialised partitions by asset, `failures` are the failed steps' words, and `restated` holds the
    symbols whose stored bars were changed, with the first and last date of that.
    """

    run_id: str
    succeeded: bool
    cells: dict[str, int] = field(default_factory=dict)
    failures: list[str] = field(default_factory=list)
    failed_checks: list[str] = field(default_factory=list)
    restated: dict[str, tuple[date, date]] = field(default_factory=dict)


@dataclass(frozen=True)
class Step:
    """What `watch` is told: an asset's step began, ended, or stored so many cells so far."""

    asset: str
    state: str
    cells: int = 0


class Launcher:
    """Runs assets of one code location on the instance that the environment names.

    Args:
        watch: called with a `Step` as steps go, and with a line of text for every progress line.
        pipeline: tag value that the runs of one command share.
    """

    def __init__(
        self, grid: Grid, warehouse: Warehouse, watch: Callable[[Step | str], None], pipeline: str | None = None
    ) -> None:
        self.instance = dg.DagsterInstance.get()
        self.grid = grid
        self.pipeline = pipeline or uuid.uuid4().hex[:12]
        self._warehouse = warehouse
        self._watch = watch
        self._repository = ReconstructableRepository.for_module(_DEFINITIONS, "defs", working_directory=None)

    def fail_dead_runs(self) -> list[str]:
        """Mark runs as failed whose process is gone, and drop the backtest rows they left. Returns their ids."""
        unfinished = self.instance.get_runs(
            dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.STARTING])
        )
        dead = [run for run in unfinished if _is_dead(run.tags.get(PROCESS_TAG))]
        for run in dead:
            self.instance.report_run_failed(run, "its process is gone (killed, or the machine went down)")
        if dead:
            with self._warehouse.write() as writer:
                for table in BACKTEST_TABLES:
                    writer.delete(table, "run_id IN (SELECT unnest(?))", [[run.run_id for run in dead]])
        return [run.run_id for run in dead]

    def missing(
        self, assets: Sequence[str], keys: Sequence[str], first: date, last: date
    ) -> dict[str, tuple[date, date]]:
        """For each of `keys` the smallest span of dates that holds every cell which one of `assets` still lacks."""
        wanted = list(self.grid.date_keys(first, last))
        spans: dict[str, tuple[date, date]] = {}
        done = {asset: self._materialized(asset) for asset in assets}
        for key in keys:
            lacking = [
                one for one in wanted if any(f"{one}|{key}" not in materialized for materialized in done.values())
            ]
            if lacking:
                spans[key] = (max(first, self.grid.window(lacking[0])[0]), min(last, self.grid.window(lacking[-1])[1]))
        return spans

    def _materialized(self, asset: str) -> set[str]:
        """Partitions that are there; none where the asset's code has changed since."""
        key = dg.AssetKey(asset)
        event = self.instance.get_latest_materialization_event(key)
        if event is None or event.asset_materialization is None:
            return set()
        made_by = (event.asset_materialization.tags or {}).get("dagster/code_version")
        if made_by != self._repository.get_definition().asset_graph.get(key).code_version:
            self._watch(f"{asset}: its code has changed since it was last materialised; doing all of it again")
            return set()
        return self.instance.get_materialized_partitions(key)

    def run(
        self,
        assets: Sequence[str],
        first: date,
        last: date,
        keys: Sequence[str],
        *,
        tags: Mapping[str, str] | None = None,
        config: Mapping[str, Any] | None = None,
    ) -> Launched:
        """Materialise `assets` for `first`..`last` and neighbouring `keys` in one run, in this process."""
        selection = frozenset(dg.AssetKey(asset) for asset in assets)
        job_name = self._repository.get_definition().get_implicit_job_def_for_assets(selection)
        assert job_name is not None
        job = self._repository.get_reconstructable_job(job_name.name).get_subset(asset_selection=selection)
        run = self.instance.create_run_for_job(
            job_def=job.get_definition(),
            asset_selection=selection,
            run_config={"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}, **(config or {})},
            tags={
                PIPELINE_TAG: self.pipeline,
                PROCESS_TAG: f"{socket.gethostname()}:{os.getpid()}:{_started(os.getpid())}",
                **self.grid.range_tags(first, last, keys),
                **(tags or {}),
            },
            job_code_origin=job.get_python_origin(),
        )
        launched = Launched(run.run_id, succeeded=False)
        with listening(self._watch):
            for event in execute_run_iterator(job, run, self.instance):
                self._note(event, launched)
        return launched

    def _note(self, event: dg.DagsterEvent, launched: Launched) -> None:
        asset = (event.step_key or "").removesuffix("_checks")
        kind = event.event_type_value
        if kind == "STEP_START":
            self._watch(Step(event.step_key or "", "start"))
        elif kind == "ASSET_MATERIALIZATION":
            cells = launched.cells[asset] = launched.cells.get(asset, 0) + 1
            restated = event.step_materialization_data.materialization.metadata.get(RESTATED)
            if isinstance(restated, dg.JsonMetadataValue) and isinstance(restated.data, dict):
                for symbol, (first, last) in restated.data.items():
                    launched.restated[symbol] = (date.fromisoformat(first), date.fromisoformat(last))
            if cells % 500 == 0:
                self._watch(Step(asset, "cells", cells))
        elif kind == "STEP_SUCCESS":
            self._watch(Step(event.step_key or "", "done", launched.cells.get(asset, 0)))
        elif kind == "STEP_FAILURE":
            launched.failures.append(_words(event))
            self._watch(Step(event.step_key or "", "failed", launched.cells.get(asset, 0)))
        elif kind == "STEP_UP_FOR_RETRY":
            self._watch(f"{asset}: {_words(event)}; trying again")
        elif kind == "ASSET_CHECK_EVALUATION":
            evaluation = event.asset_check_evaluation_data
            if not evaluation.passed:
                launched.failed_checks.append(
                    f"{evaluation.asset_key.to_user_string()}.{evaluation.check_name} ({evaluation.severity.value})"
                )
        elif kind == "RUN_SUCCESS" or kind == "PIPELINE_SUCCESS":
            launched.succeeded = True
        elif kind in ("RUN_FAILURE", "PIPELINE_FAILURE") and not launched.failures:
            launched.failures.append(event.message or "the run failed")


def _words(event: dg.DagsterEvent) -> str:
    """The one line of a step's failure: our own words where it was ours, else the exception's."""
    data = event.event_specific_data
    user = getattr(data, "user_failure_data", None)
    if user is not None and user.description:
        return str(user.description)
    error = getattr(data, "error", None)
    while error is not None and error.cause is not None:
        error = error.cause
    return error.message.strip().splitlines()[0] if error is not None and error.message else (event.message or "failed")


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
