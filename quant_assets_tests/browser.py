"""A real browser on a real lab and a real Dagster server: what tests that click, and screenshots, are made with."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from quant_assets.core.settings import PROJECT_ROOT
from quant_assets.lab import serve

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

PATIENCE = 120.0
"""Seconds until something counts as hanging."""

PAGES = ("", "data", "strategies", "compare", "targets", "models", "validation", "trades", "lineage", "trading")


def chromium() -> str | None:
    """The browser's path, if there is one."""
    return shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


needs_a_browser = pytest.mark.skipif(
    chromium() is None, reason="no Chromium on this machine; `apt-get install chromium`, and these tests run"
)


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@contextmanager
def server(command: Sequence[str], url: str, environment: Mapping[str, str], log: Path) -> Iterator[str]:
    """A server in a process group of its own, which answers at `url` when the block begins; its words are in `log`.

    Raises:
        AssertionError: it ended, or did not answer in time.
    """
    with log.open("wb") as said:
        process = subprocess.Popen(
            command, env=dict(environment), cwd=PROJECT_ROOT, stdout=said, stderr=said, start_new_session=True
        )
    try:
        until = time.monotonic() + PATIENCE
        while not _answers(url):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < until, f"no answer at {url}:\n{log.read_text()}"
            time.sleep(0.2)
        yield url
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(5)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


@contextmanager
def dagster_server(environment: Mapping[str, str], folder: Path) -> Iterator[str]:
    """`dagster dev`, its URL."""
    port = free_port()
    command = [sys.executable, "-m", "dagster", "dev", "-h", "127.0.0.1", "-p", str(port)]
    url = f"http://127.0.0.1:{port}"
    with server(command, f"{url}/server_info", environment, folder / "dagster.log"):
        yield url


@contextmanager
def lab_server(environment: Mapping[str, str], folder: Path, dagster_url: str) -> Iterator[str]:
    """The lab, its URL."""
    port = free_port()
    url = f"http://127.0.0.1:{port}"
    given = {**environment, "QUANT_DAGSTER_URL": dagster_url}
    with server(serve.command("127.0.0.1", port), f"{url}/_stcore/health", given, folder / "lab.log"):
        yield url


@contextmanager
def browser() -> Iterator["Browser"]:
    """Chromium, without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(
            executable_path=chromium(), args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        yield running
        running.close()


def new_page(running: "Browser", **options: Any) -> "Page":
    """A page 1,280 px wide unless `viewport` says otherwise, whose waits end after `PATIENCE`."""
    page = running.new_page(**{"viewport": {"width": 1280, "height": 800}, **options})
    page.set_default_timeout(PATIENCE * 1000)
    return page


def settled(page: "Page") -> None:
    """Wait until the lab has drawn its page."""
    page.wait_for_selector("[data-testid=stApp][data-test-script-state=notRunning]", state="attached")
    page.wait_for_selector("[data-testid=stMain] h1")
    page.wait_for_function("!document.querySelector('[data-testid=stSkeleton]')")


def open_page(page: "Page", url: str) -> None:
    """Open a page of the lab by its address, and wait until it is drawn."""
    page.goto(url)
    settled(page)


def complaints(page: "Page") -> list[str]:
    """The errors that a page shows: tracebacks, and red boxes."""
    boxes = page.locator("[data-testid=stException], [data-testid=stAlertContentError]")
    return [text.strip() for text in boxes.all_inner_texts()]
