"""Dagster's web server through its GraphQL API: runs, their progress, partitions, checks; starting runs.

Plain values in and out; nothing of Streamlit and nothing of Dagster's Python packages.
"""

import json
import re
import time
from base64 import b64decode, b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from quant_assets.core.errors import LabError

_LOCATION = "quant_assets"
_SECONDS_KNOWN = 2.0
"""For as long `alive` repeats its answer."""
_SECONDS_TO_CONNECT = 0.5
_PATIENCE = 6
"""What starts processes or looks through all partitions is given so many times the usual time."""
_PAGE = 100
_CODE_VERSION = "dagster/code_version"
_INTERRUPT = "DagsterExecutionInterruptedError"

_RUN = "runId jobName status assetSelection{path} tags{key value} startTime endTime"
_RUNS = f"""query($filter: RunsFilter, $limit: Int) {{ answer: runsOrError(filter: $filter, limit: $limit) {{
    __typename ... on Runs {{ results {{ {_RUN} }} }} ... on Error {{ message }} }} }}"""
_ONE_RUN = f"""query($id: ID!) {{ answer: runOrError(runId: $id) {{
    __typename ... on Run {{ {_RUN} stepKeysToExecute }} ... on Error {{ message }} }} }}"""
_ERROR = "error { message causes { message } }"
_LOG = f"""query($id: ID!, $after: String, $limit: Int) {{
    answer: logsForRun(runId: $id, afterCursor: $after, limit: $limit) {{
        __typename ... on Error {{ message }} ... on EventConnection {{ cursor hasMore events {{
            __typename
            ... on MessageEvent {{ message timestamp stepKey eventType }}
            ... on MaterializationEvent {{ assetKey {{ path }} tags {{ key value }} }}
            ... on ExecutionStepFailureEvent {{ {_ERROR} failureMetadata {{ description }} }}
            ... on ExecutionStepUpForRetryEvent {{ {_ERROR} }}
            ... on RunFailureEvent {{ {_ERROR} }}
            ... on AssetCheckEvaluationEvent {{ evaluation {{
                checkName assetKey {{ path }} severity success description }} }}
        }} }} }} }}"""
_WORKSPACE = """{ answer: workspaceOrError { __typename ... on Error { message } ... on Workspace { locationEntries {
    name locationOrLoadError {
        __typename ... on RepositoryLocation { repositories { name } } ... on PythonError { message causes { message } }
    } } } } }"""
_LAUNCH = """mutation($params: ExecutionParams!) { answer: launchRun(executionParams: $params) {
    __typename ... on LaunchRunSuccess { run { runId } } ... on RunConfigValidationInvalid { errors { message } }
    ... on PythonError { causes { message } } ... on Error { message } } }"""
_TERMINATE = """mutation($id: String!) { answer: terminateRun(runId: $id) {
    __typename ... on TerminateRunFailure { message } ... on Error { message } } }"""
_RELOAD = """mutation($name: String!) { answer: reloadRepositoryLocation(repositoryLocationName: $name) {
    __typename ... on Error { message } ... on WorkspaceLocationEntry { locationOrLoadError {
        __typename ... on PythonError { message causes { message } } } } } }"""
_PARTITIONS = """query($key: AssetKeyInput!) { answer: assetNodeOrError(assetKey: $key) {
    __typename ... on Error { message } ... on AssetNode {
        partitionKeysByDimension { name partitionKeys }
        assetPartitionStatuses { ... on MultiPartitionStatuses { primaryDimensionName ranges {
            primaryDimStartKey primaryDimEndKey
            secondaryDim { ... on DefaultPartitionStatuses { materializedPartitions } } } } } } } }"""


class DagsterUnreachableError(LabError):
    """No Dagster server answers at the URL. What was asked for has not happened."""


class DagsterRefusedError(LabError):
    """Dagster answered, and would not: its words."""


@dataclass(frozen=True)
class Run:
    """One run in run storage. `status` is Dagster's word (QUEUED, STARTED, SUCCESS, FAILURE, CANCELED, ...)."""

    run_id: str
    job: str
    status: str
    assets: tuple[str, ...] = ()
    tags: Mapping[str, str] = field(default_factory=dict)
    started: datetime | None = None
    ended: datetime | None = None

    @property
    def finished(self) -> bool:
        return self.status in ("SUCCESS", "FAILURE", "CANCELED")


@dataclass(frozen=True)
class StepState:
    """One step of a run: WAITING, RUNNING, SUCCESS, FAILURE or SKIPPED, its seconds so far, its last progress line."""

    step: str
    state: str
    seconds: float | None = None
    said: str = ""
    started: datetime | None = None


@dataclass(frozen=True)
class Check:
    """One execution of an asset check in a run, by its step; `grave` where what it finds is an error, not a warning."""

    asset: str
    name: str
    passed: bool
    words: str = ""
    grave: bool = False
    step: str = ""

    @property
    def told(self) -> str:
        """Its name and its words."""
        return f"{self.asset}.{self.name}: {self.words}"


@dataclass(frozen=True)
class Progress:
    """A run as it goes: its steps in order, the words of what failed, the checks that it made.

    `code_versions` are those of the assets that it has materialised; `read` is how far its event log has been read.
    """

    run: Run
    steps: tuple[StepState, ...] = ()
    failures: tuple[str, ...] = ()
    checks: tuple[Check, ...] = ()
    code_versions: Mapping[str, str] = field(default_factory=dict)
    read: int = 0

    @property
    def failed_checks(self) -> tuple[str, ...]:
        """What the checks that found something say, with their names."""
        return tuple(one.told for one in self.checks if not one.passed)


class Dagster:
    """A client of the server at `url`, for many threads.

    Every method but `alive` and the URLs raises DagsterUnreachableError where no server answers in time, and
    DagsterRefusedError with its words where it does not do as asked.
    """

    def __init__(self, url: str, timeout: float = 10.0, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        self._timeout = timeout
        self._http = httpx.Client(base_url=self.url, transport=transport, trust_env=False)
        self._seen = (float("-inf"), False)
        self._repository: dict[str, str] | None = None

    def close(self) -> None:
        """Give up its connections."""
        self._http.close()

    def alive(self) -> bool:
        """Whether a server answers; never raises. The answer may be some seconds old."""
        at, answered = self._seen
        if time.monotonic() - at > _SECONDS_KNOWN:
            try:
                answer = self._http.get("/server_info", timeout=_SECONDS_TO_CONNECT)
                answered = "dagster_version" in answer.text
            except httpx.ReadTimeout:
                answered = True  # somebody listens, and is busy
            except httpx.HTTPError:
                answered = False
            self._seen = time.monotonic(), answered
        return answered

    def runs(self, limit: int = 20, tags: Mapping[str, str] | None = None) -> list[Run]:
        """The newest runs first, those with all of `tags`."""
        wanted = {"tags": _pairs(tags)} if tags else None
        return [_run(one) for one in self._asked(_RUNS, "Runs", filter=wanted, limit=limit)["results"]]

    def run(self, run_id: str) -> Run | None:
        """One run; None if run storage does not have it."""
        found = self._asked(_ONE_RUN, "Run", "RunNotFoundError", id=run_id)
        return _run(found) if "runId" in found else None

    def progress(self, run_id: str, before: Progress | None = None) -> Progress | None:
        """How far a run is; None if run storage does not have it.

        Args:
            before: the last answer about this run; only what was logged since is read then.
        """
        found = self._asked(_ONE_RUN, "Run", "RunNotFoundError", id=run_id)
        if "runId" not in found:
            return None
        run, read = _run(found), before.read if before else 0
        events, read = self._events(run_id, read)
        known = replace(before, run=run, read=read) if before else Progress(run, read=read)
        return _told(known, events, found["stepKeysToExecute"] or ())

    def launch(
        self,
        job: str,
        assets: Sequence[Sequence[str]],
        tags: Mapping[str, str],
        config: Mapping[str, Any] | None = None,
    ) -> str:
        """Start a run of `assets` (paths of their keys) of `job`; returns its id.

        Raises:
            DagsterRefusedError: unknown job, config that does not fit, ...
        """
        selector = {**self._names(), "jobName": job, "assetSelection": [{"path": list(path)} for path in assets]}
        params = {
            "selector": selector,
            "runConfigData": dict(config or {}),
            "executionMetadata": {"tags": _pairs(tags)},
        }
        started = self._asked(_LAUNCH, "LaunchRunSuccess", patience=_PATIENCE, params=params)
        return str(started["run"]["runId"])

    def terminate(self, run_id: str) -> None:
        """Ask a run to stop."""
        self._asked(_TERMINATE, "TerminateRunSuccess", id=run_id)

    def materialized(self, asset: Sequence[str]) -> dict[str, set[str]]:
        """Partitions of a two-dimensional asset that are materialised: name (symbol, strategy) -> date keys.

        As in Dagster's UI, a partition that a run is about to make anew, or failed to, is not among them.

        Raises:
            DagsterRefusedError: no such asset, or one without two dimensions.
        """
        node = self._asked(_PARTITIONS, "AssetNode", patience=_PATIENCE, key={"path": list(asset)})
        statuses = node["assetPartitionStatuses"]
        if "primaryDimensionName" not in statuses:
            raise DagsterRefusedError(f"asset {'/'.join(asset)} is not partitioned by dates and names")
        keys = {one["name"]: one["partitionKeys"] for one in node["partitionKeysByDimension"]}
        dates = keys.pop(statuses["primaryDimensionName"])
        at = {day: number for number, day in enumerate(dates)}
        found: dict[str, set[str]] = {name: set() for names in keys.values() for name in names}
        for one in statuses["ranges"]:
            days = dates[at[one["primaryDimStartKey"]] : at[one["primaryDimEndKey"]] + 1]
            for name in one["secondaryDim"]["materializedPartitions"]:
                found[name].update(days)
        return found

    def checks_of(self, run_id: str) -> list[Check]:
        """The asset checks that a run executed; none if run storage does not have it."""
        progress = self.progress(run_id)
        return list(progress.checks) if progress else []

    def code_versions(self, run_id: str) -> dict[str, str]:
        """Asset -> code version of its materialisations in a run; none if run storage does not have it."""
        progress = self.progress(run_id)
        return dict(progress.code_versions) if progress else {}

    def reload(self) -> None:
        """Have Dagster load the code location anew: after a strategy file was saved.

        Raises:
            DagsterRefusedError: the code location cannot be loaded; its words.
        """
        loaded = self._asked(_RELOAD, "WorkspaceLocationEntry", patience=_PATIENCE, name=self._location()["name"])
        entry = loaded["locationOrLoadError"] or {}
        if entry.get("__typename") == "PythonError":
            raise DagsterRefusedError(_words(entry))

    def run_url(self, run_id: str) -> str:
        """The run's page in Dagster's UI."""
        return f"{self.url}/runs/{quote(run_id)}"

    def asset_url(self, asset: Sequence[str], partition: str | None = None) -> str:
        """The asset's page in Dagster's UI, at a partition if given."""
        page = f"{self.url}/assets/{'/'.join(quote(part, safe='') for part in asset)}"
        return page + (f"?{urlencode({'view': 'partitions', 'partition': partition})}" if partition else "")

    def _asked(self, text: str, *expected: str, patience: float = 1, **variables: Any) -> dict[str, Any]:
        """The field `answer` of what the server says to `text`, of one of the types `expected`."""
        changes = text.startswith("mutation")
        seconds = self._timeout * patience
        try:
            answer = self._http.post(
                "/graphql",
                json={"query": text, "variables": variables},
                timeout=httpx.Timeout(seconds, connect=_SECONDS_TO_CONNECT),
            )
            told = answer.json()
        except (httpx.HTTPError, json.JSONDecodeError) as error:
            self._seen = time.monotonic(), isinstance(error, httpx.ReadTimeout)
            if changes and not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout):
                raise DagsterRefusedError(
                    f"Dagster at {self.url} broke off, or did not answer within {seconds:g} s; "
                    "look there whether it has done it before you try again"
                ) from error
            slow = isinstance(error, httpx.ReadTimeout)
            raise DagsterUnreachableError(
                f"Dagster at {self.url} did not answer within {seconds:g} s; it may be busy: try again"
                if slow
                else f"no Dagster server answers at {self.url}; start one with `make dev`, or set QUANT_DAGSTER_URL"
            ) from error
        if told.get("errors"):
            raise DagsterRefusedError(_line(told["errors"][0]["message"]))
        found: dict[str, Any] = told["data"]["answer"]
        if found["__typename"] not in expected:
            raise DagsterRefusedError(_words(found))
        return found

    def _location(self) -> dict[str, Any]:
        """The code location as the server's workspace has it, whether it could be loaded or not."""
        entries = self._asked(_WORKSPACE, "Workspace")["locationEntries"]
        if not entries:
            raise DagsterRefusedError(f"Dagster at {self.url} has no code location; start it with `make dev`")
        found: dict[str, Any] = next((one for one in entries if one["name"] == _LOCATION), entries[0])
        return found

    def _names(self) -> dict[str, str]:
        """What every selector begins with."""
        if self._repository is None:
            entry = self._location()
            loaded = entry["locationOrLoadError"] or {"message": "the code location is being loaded; try again"}
            if not loaded.get("repositories"):
                raise DagsterRefusedError(_words(loaded))
            name = loaded["repositories"][0]["name"]
            self._repository = {"repositoryLocationName": entry["name"], "repositoryName": name}
        return self._repository

    def _events(self, run_id: str, read: int) -> tuple[list[dict[str, Any]], int]:
        """What a run logged after number `read`, without most of its materialisations; the number of the last one.

        A step of ten years logs its 12,000 materialisations in one go, and a page of thousand takes the server a
        third of a second. Where a page ends in them, the rest are leapt over.
        """
        found: list[dict[str, Any]] = []
        while True:
            events, read, more = self._page(run_id, read, _PAGE)
            found += events
            if not more:
                return found, read
            if events[-1]["__typename"] == "MaterializationEvent":
                read = self._last_materialized(run_id, events[-1]["stepKey"], read)

    def _last_materialized(self, run_id: str, step: str, read: int) -> int:
        """The number of a materialisation of `step` from which the last one in the log so far is less than a page away.

        Found by strides that double while they land on another one, and then halve.
        """
        stride, growing = _PAGE, True
        while stride >= _PAGE:
            events, at, _ = self._page(run_id, read + stride, 1)
            landed = bool(events) and (events[0]["__typename"], events[0]["stepKey"]) == ("MaterializationEvent", step)
            growing &= landed
            read = at if landed else read
            stride = stride * 2 if growing else stride // 2
        return read

    def _page(self, run_id: str, read: int, limit: int) -> tuple[list[dict[str, Any]], int, bool]:
        after = b64encode(json.dumps({"type": "STORAGE_ID", "value": read}).encode()).decode()
        page = self._asked(_LOG, "EventConnection", id=run_id, after=after, limit=limit)
        return page["events"], json.loads(b64decode(page["cursor"]))["value"], page["hasMore"]


def _told(before: Progress, events: Sequence[Mapping[str, Any]], plan: Sequence[str]) -> Progress:
    """`before` with what `events` add; `plan` holds all steps of the run in order."""
    steps = {name: StepState(name, "WAITING") for name in plan} | {one.step: one for one in before.steps}
    failures, checks, versions = list(before.failures), list(before.checks), dict(before.code_versions)
    for event in events:
        kind, name = event["eventType"] or "LOG", event["stepKey"]
        step = steps.get(name) or StepState(name or "", "WAITING")
        at = datetime.fromtimestamp(float(event["timestamp"]) / 1000, UTC)
        if kind == "STEP_START":
            step = replace(step, state="RUNNING", started=at)
        elif kind in ("STEP_SUCCESS", "STEP_FAILURE", "STEP_SKIPPED"):
            step = replace(step, state=kind.removeprefix("STEP_"), seconds=_seconds(step.started, at))
        elif kind == "LOG":
            step = replace(step, said=_line(event["message"]))
        elif kind == "STEP_UP_FOR_RETRY":
            step = replace(step, said=f"{_words(event['error'])}; trying again")
        elif kind == "ASSET_MATERIALIZATION":
            tags = {one["key"]: one["value"] for one in event["tags"]}
            versions["/".join(event["assetKey"]["path"])] = tags.get(_CODE_VERSION, "")
        elif kind == "ASSET_CHECK_EVALUATION":
            checks.append(_check(event["evaluation"], name))
        if kind == "STEP_FAILURE":
            found = [one.told for one in checks if one.step == name and one.grave and not one.passed]
            failures += found or [_failure(event)]
        elif kind in ("RUN_FAILURE", "PIPELINE_FAILURE") and not failures:
            failures.append(_words(event["error"] or event))
        if name:
            steps[name] = step
    now = datetime.now(UTC)
    return replace(
        before,
        steps=tuple(_by_now(step, before.run, now) for step in steps.values()),
        failures=tuple(failures),
        checks=tuple(checks),
        code_versions=versions,
    )


def _by_now(step: StepState, run: Run, now: datetime) -> StepState:
    """`step` as a run in this status leaves it."""
    if run.finished and step.state == "RUNNING":  # its process is gone
        return replace(step, state="FAILURE", seconds=_seconds(step.started, run.ended))
    if run.finished and step.state == "WAITING":
        return replace(step, state="SKIPPED")
    return replace(step, seconds=_seconds(step.started, now)) if step.state == "RUNNING" else step


def _seconds(started: datetime | None, ended: datetime | None) -> float | None:
    return max(0.0, (ended - started).total_seconds()) if started and ended else None


def _check(evaluation: Mapping[str, Any], step: str) -> Check:
    return Check(
        "/".join(evaluation["assetKey"]["path"]),
        evaluation["checkName"],
        evaluation["success"],
        _line(evaluation["description"] or ""),
        evaluation["severity"] == "ERROR",
        step,
    )


def _run(found: Mapping[str, Any]) -> Run:
    started, ended = (found[at] and datetime.fromtimestamp(found[at], UTC) for at in ("startTime", "endTime"))
    return Run(
        found["runId"],
        found["jobName"],
        found["status"],
        tuple(sorted("/".join(key["path"]) for key in found["assetSelection"] or ())),
        {tag["key"]: tag["value"] for tag in found["tags"]},
        started,
        ended,
    )


def _pairs(tags: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in tags.items()]


def _failure(event: Mapping[str, Any]) -> str:
    """Why a step failed: our own words where it was ours, else the exception's."""
    own = (event["failureMetadata"] or {}).get("description")
    told = _line(own) if own else _words(event["error"] or event)
    return "interrupted" if told.endswith(_INTERRUPT) else told


def _words(error: Mapping[str, Any]) -> str:
    """The one line of an error: of what lies at its bottom."""
    if faults := error.get("errors"):
        return "; ".join(_line(one["message"]) for one in faults)
    causes = error.get("causes") or [error]
    return _line(causes[-1].get("message") or error["__typename"])


def _line(text: str) -> str:
    """The first line, without the full name of an error's class."""
    first = next(iter(text.strip().splitlines()), "")
    return re.sub(r"^(\w+\.)+\w+: (Invariant failed\. Description: )?", "", first)
