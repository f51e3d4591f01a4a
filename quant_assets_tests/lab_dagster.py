"""A stand-in for the client of Dagster's server: runs that go as a test says, without a server.

Belongs here: what tests of the lab's pages pass to `Lab(platform, monkeypatch, dagster=...)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

from quant_assets.lab.dagster_api import (
    Check,
    Dagster,
    DagsterRefusedError,
    DagsterUnreachableError,
    Progress,
    Run,
    StepState,
)
from quant_assets_tests.lab_platform import NOBODY

STARTED = datetime(2026, 1, 5, 9, 30, tzinfo=UTC)
"""When `past` runs may have started."""


@dataclass(frozen=True)
class Launched:
    """What `launch` was called with."""

    job: str
    assets: tuple[tuple[str, ...], ...]
    tags: Mapping[str, str]
    config: Mapping[str, Any]


class FakeDagster(Dagster):
    """Each run is STARTED when first asked for its progress, and has ended when asked again.

    Args:
        answers: False for no server; may be changed at any time.
        fails: job -> words of the failure in which its runs end.
        refuses: words with which every launch is refused.
        broken: words with which the code location cannot be reloaded.
        cells: asset -> what `materialized` returns.
        past: runs that ended before.
    """

    def __init__(
        self,
        *,
        answers: bool = True,
        fails: Mapping[str, str] | None = None,
        refuses: str = "",
        broken: str = "",
        cells: Mapping[str, dict[str, set[str]]] | None = None,
        past: Sequence[Progress] = (),
    ) -> None:
        super().__init__(NOBODY)
        self.answers, self.fails, self.refuses, self.broken = answers, dict(fails or {}), refuses, broken
        self.cells = dict(cells or {})
        self.launched: list[Launched] = []
        self.terminated: list[str] = []
        self.reloads = 0
        self._known = {one.run.run_id: one for one in past}

    def alive(self) -> bool:
        return self.answers

    def runs(self, limit: int = 20, tags: Mapping[str, str] | None = None) -> list[Run]:
        self._answer()
        wanted = dict(tags or {}).items()
        newest = [one.run for one in reversed(self._known.values()) if wanted <= dict(one.run.tags).items()]
        return newest[:limit]

    def run(self, run_id: str) -> Run | None:
        self._answer()
        return self._known[run_id].run if run_id in self._known else None

    def progress(self, run_id: str, before: Progress | None = None) -> Progress | None:
        self._answer()
        known = self._known.get(run_id)
        if known and not known.run.finished:
            known = self._known[run_id] = self._moved_on(known)
        return known

    def launch(
        self,
        job: str,
        assets: Sequence[Sequence[str]],
        tags: Mapping[str, str],
        config: Mapping[str, Any] | None = None,
    ) -> str:
        self._answer()
        if self.refuses:
            raise DagsterRefusedError(self.refuses)
        paths = tuple(tuple(path) for path in assets)
        self.launched.append(Launched(job, paths, dict(tags), dict(config or {})))
        run = Run(f"run-{len(self._known) + 1}", job, "QUEUED", tuple("/".join(path) for path in paths), dict(tags))
        steps = tuple(StepState("__".join(path), "WAITING") for path in paths)
        self._known[run.run_id] = Progress(run, steps)
        return run.run_id

    def terminate(self, run_id: str) -> None:
        self._answer()
        self.terminated.append(run_id)

    def materialized(self, asset: Sequence[str]) -> dict[str, set[str]]:
        self._answer()
        return self.cells.get("/".join(asset), {})

    def checks_of(self, run_id: str) -> list[Check]:
        self._answer()
        return list(self._known[run_id].checks) if run_id in self._known else []

    def code_versions(self, run_id: str) -> dict[str, str]:
        self._answer()
        return dict(self._known[run_id].code_versions) if run_id in self._known else {}

    def reload(self) -> None:
        self._answer()
        self.reloads += 1
        if self.broken:
            raise DagsterRefusedError(self.broken)

    def _answer(self) -> None:
        if not self.answers:
            raise DagsterUnreachableError(f"no Dagster server answers at {self.url}")

    def _moved_on(self, known: Progress) -> Progress:
        run, words = known.run, self.fails.get(known.run.job, "")
        if run.status == "QUEUED":
            run = replace(run, status="STARTED", started=datetime.now(UTC))
            steps = [replace(one, state="RUNNING" if at == 0 else "WAITING") for at, one in enumerate(known.steps)]
            return replace(known, run=run, steps=tuple(steps))
        stopped = run.run_id in self.terminated
        status = "CANCELED" if stopped else "FAILURE" if words else "SUCCESS"
        state = "SKIPPED" if stopped else status
        return replace(
            known,
            run=replace(run, status=status, ended=datetime.now(UTC)),
            steps=tuple(replace(one, state=state, seconds=1.5) for one in known.steps),
            failures=(words,) if status == "FAILURE" else (),
        )
