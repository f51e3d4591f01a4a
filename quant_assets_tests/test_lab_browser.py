"""The lab as a user meets it: Chromium, a real `dagster dev`, real runs."""

import itertools
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg
import pytest

from quant_assets_tests import browser
from quant_assets_tests.browser import PAGES, complaints, new_page, open_page, settled
from quant_assets_tests.platform import Platform, small_platform

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytestmark = [pytest.mark.slow, browser.needs_a_browser]

WRITING_SECONDS = 60.0
WINDOWS = [(1280, "light"), (390, "dark"), (1280, "dark"), (390, "light")]
"""Width in pixels, and colour scheme."""


@dataclass(frozen=True)
class Stage:
    """A platform that has run once, with its servers."""

    platform: Platform
    dagster: str
    lab: str
    logs: Path


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    platform = small_platform(tmp_path_factory.mktemp("platform"))
    platform.quant("pipeline", "run")
    with (
        browser.dagster_server(platform.environment, platform.root) as dagster,
        browser.lab_server(platform.environment, platform.root, dagster) as lab,
    ):
        yield Stage(platform, dagster, lab, platform.root)


@pytest.fixture(scope="module")
def chromium() -> Iterator["Browser"]:
    with browser.browser() as running:
        yield running


@pytest.fixture
def page(chromium: "Browser") -> Iterator["Page"]:
    opened = new_page(chromium)
    yield opened
    opened.close()


def test_choose_a_strategy_run_it_and_compare_the_two_runs(stage: Stage, page: "Page") -> None:
    open_page(page, f"{stage.lab}/strategies?strategy=ranks")
    page.get_by_role("button", name=re.compile("^Run")).click()
    page.get_by_text(re.compile(r"done in [\d.]+ s")).wait_for()
    newest = stage.platform.runs()[-1]
    assert newest.status == dg.DagsterRunStatus.SUCCESS
    assert newest.job_name == "ranks"
    assert page.get_by_role("link", name=re.compile("Dagster")).first.get_attribute("href")

    page.get_by_test_id("stSidebarNavItems").get_by_role("link", name="Compare").click()
    settled(page)
    runs = stage.platform.warehouse.query(
        "SELECT run_id FROM backtest_summary WHERE strategy_id = 'ranks' ORDER BY created_at"
    )["run_id"].to_list()
    assert len(runs) == 2
    open_page(page, f"{stage.lab}/compare?runs={','.join(runs)}")
    assert complaints(page) == []
    shown = page.locator("[data-testid=stMain]").inner_text()
    for run in runs:
        assert run[:8] in shown


def test_a_link_to_another_page_says_what_is_picked_there(stage: Stage, page: "Page") -> None:
    open_page(page, f"{stage.lab}/targets?strategy=forest")
    open_page(page, f"{stage.lab}/strategies?strategy=ranks")
    page.get_by_test_id("stMain").get_by_role("link", name="Targets").click()
    page.wait_for_url(re.compile("/targets"))
    settled(page)
    assert "strategy=ranks" in page.url
    assert page.get_by_role("combobox", name="Strategy").input_value() == "ranks"


@pytest.mark.thorough
def test_pages_opened_again_and_again_while_runs_write_fit_every_window_and_disturb_nobody(
    stage: Stage, chromium: "Browser"
) -> None:
    before = len(stage.platform.runs())
    said: list[str] = []
    windows = []
    for width, scheme in WINDOWS:
        windows.append(new_page(chromium, viewport={"width": width, "height": 844}, color_scheme=scheme))
        windows[-1].on("pageerror", lambda error: said.append(str(error)))
    views = itertools.cycle([(window, name) for window in windows for name in PAGES])
    opened = 0
    with _writing(stage) as writing:
        until = time.monotonic() + WRITING_SECONDS
        while time.monotonic() < until or opened < 2 * len(PAGES):
            window, name = next(views)
            open_page(window, f"{stage.lab}/{name}")
            assert complaints(window) == [], name
            wide, room = window.evaluate(
                "[...document.querySelectorAll('[data-testid=stMain]')].flatMap(e => [e.scrollWidth, e.clientWidth])"
            )
            assert wide <= room, name
            opened += 1
        assert writing.poll() is None, (stage.logs / "writing.log").read_text()
    finished = [run for run in stage.platform.runs()[before:] if run.is_finished]
    assert len(finished) >= 4
    assert {run.status for run in finished} == {dg.DagsterRunStatus.SUCCESS}
    assert said == []


@contextmanager
def _writing(stage: Stage) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that runs a pipeline again and again, until the block ends or a run fails."""
    loop = "import subprocess, sys\nwhile True: subprocess.run(sys.argv[1:], check=True)"
    command = stage.platform.command("quant_assets.cli.app", "pipeline", "run", "--force", "-s", "ranks")
    with (stage.logs / "writing.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-c", loop, *command],
            env=stage.platform.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def test_the_servers_have_said_nothing_of_errors_or_of_what_is_deprecated(stage: Stage) -> None:
    said = (stage.logs / "lab.log").read_text()
    assert not re.search(r"Traceback|deprecat|Warning", said, re.IGNORECASE), said
