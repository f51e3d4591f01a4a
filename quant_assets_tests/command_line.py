"""`quant` in this process, as a user meets it: exit code, standard output, standard error.

Belongs here: what tests need to give commands to a small platform without a process for each.
"""

from contextlib import suppress
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.reconstruct import ReconstructableJob
from typer.testing import CliRunner

from quant_assets import definitions as code_location
from quant_assets.cli import app as commands
from quant_assets.cli import lineage, research, trading, validation
from quant_assets.cli.session import Session
from quant_assets.core.calendar import trading_calendar
from quant_assets.core.errors import QuantError
from quant_assets.core.settings import settings
from quant_assets_tests.platform import STRATEGIES, Platform, small_platform


@dataclass(frozen=True)
class Said:
    """What a command left: its exit code and its words."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line of a failure: on standard error, the last there, with no traceback anywhere."""
        assert "Traceback" not in self.out + self.err, self.out + self.err
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1, self.err
        assert self.err.splitlines()[-1] == lines[0], self.err
        return lines[0].removeprefix("error: ")


class CommandLine:
    """Gives commands to `platform`. Each call is a fresh process's view: settings, files and session read again."""

    def __init__(self, platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
        self.platform = platform
        self._monkeypatch = monkeypatch
        platform.dagster.mkdir(parents=True, exist_ok=True)
        for name in ("ALPHA_VANTAGE_API_KEY", "QUANT_PROVIDER"):
            monkeypatch.delenv(name, raising=False)

    def __call__(self, *words: str, code: int | None = 0) -> Said:
        """Run `quant words`, which must end with `code` (None: any)."""
        for name, value in self.platform.environment.items():
            if name.startswith(("QUANT_", "DAGSTER_", "ALPHA_")):
                self._monkeypatch.setenv(name, value)
        self._forget()
        fresh = Session()
        for module in (commands, lineage, research, trading, validation):
            self._monkeypatch.setattr(module, "session", fresh)
        # what runs are loaded from; a file that cannot be read is the command's to report
        with suppress(QuantError):
            self._monkeypatch.setattr(code_location, "defs", code_location.build(settings()))
        try:
            result = CliRunner().invoke(commands.app, list(words))
        finally:
            self._forget()
        said = Said(result.exit_code, result.stdout, result.stderr)
        assert code in (None, said.code), f"exit code {said.code}\n{said.out}\n{said.err}\n{result.exception!r}"
        return said

    @staticmethod
    def _forget() -> None:
        for remembering in (
            settings,
            trading_calendar,
            ReconstructableJob.get_definition,
            ReconstructableJob.get_repository_definition,
        ):
            remembering.cache_clear()

    def runs(self) -> list[dg.DagsterRun]:
        """All runs, oldest first."""
        return self.platform.runs() if (self.platform.dagster / "runs.db").exists() else []


def two_months(root: Path) -> Platform:
    """Three symbols over two months, and strategies that are tested in the second."""
    small = small_platform(root)
    small.write_universe(end=date(2023, 2, 28))
    for name in STRATEGIES:
        small.write_strategy(name, backtest={"from": date(2023, 2, 1)})
    return small
