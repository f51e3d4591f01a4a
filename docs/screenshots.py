"""The pictures of the running product in docs/img, made anew: `python docs/screenshots.py`, after `make demo`.

lab-trading wants `quant backtest --engine event --strategy tsmom_us_tech` as well.

Starts Dagster and the lab on the demo's home (`QUANT_HOME`, or `.quant`), opens pages in Chromium in light colours, and
writes lab-<page>.png, and report.png, validation.png and sweep.png of the newest report of each kind.
`python docs/screenshots.py lab-data report` makes only these. Other pictures in the folder are taken by hand.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from quant_assets.core.settings import PROJECT_ROOT, settings

sys.path.insert(0, str(PROJECT_ROOT))
from quant_assets_tests.browser import browser, dagster_server, lab_server, new_page, open_page

if TYPE_CHECKING:
    from playwright.sync_api import Page

IMAGES = PROJECT_ROOT / "docs" / "img"
LARGEST = 250_000
"""Bytes of a picture."""

WINDOW = (1280, 800)

LAB = {
    "overview": ("", 0),
    "data": ("data?symbol=AAPL", 820),
    "strategies": ("strategies?strategy=tsmom_us_tech", 150),
    "compare": ("compare", 250),
    "targets": ("targets?strategy=momentum_topk", 0),
    "models": ("models", 0),
    "validation": ("validation?strategy=tsmom_us_tech", 0),
    "trades": ("trades?strategy=donchian_us_tech&symbol=AAPL", 400),
    "lineage": ("lineage?strategy=lgbm_pooled&symbol=AAPL", 0),
    "trading": ("trading?strategy=tsmom_us_tech", 190),
}
"""Page of the lab -> what is picked on it, and by how many pixels it is scrolled down."""

REPORTS = {
    "report": ("momentum_topk/*.html", (900, 1170)),
    "validation": ("validation/momentum_topk/*.html", (1180, 1340)),
    "sweep": ("sweeps/tsmom_us_tech/*.html", (900, 1125)),
}
"""Picture -> its report in QUANT_HOME/reports, and the size of the window that it is taken of."""


def main(wanted: list[str]) -> None:
    """Make the pictures whose names are `wanted`, all without names."""
    with servers() as lab, browser() as running:
        page = new_page(running, color_scheme="light")
        for name in wanted or [*(f"lab-{name}" for name in LAB), *REPORTS]:
            if name in REPORTS:
                open_report(page, *REPORTS[name])
            else:
                open_lab(page, lab, *LAB[name.removeprefix("lab-")])
            page.wait_for_timeout(2000)  # curves grow when they appear
            print(f"{name}.png: {write(name, page.screenshot()):,} bytes")


def open_lab(page: "Page", lab: str, place: str, down: int) -> None:
    """Open a page of the lab, scrolled down."""
    page.set_viewport_size({"width": WINDOW[0], "height": WINDOW[1]})
    open_page(page, f"{lab}/{place}")
    page.get_by_text("reading their logs").wait_for(state="hidden")
    page.wait_for_timeout(1000)
    page.evaluate(f"document.querySelector('[data-testid=stMain]').scrollTo(0, {down})")


def open_report(page: "Page", pattern: str, window: tuple[int, int]) -> None:
    """Open the newest report of a kind."""
    page.set_viewport_size({"width": window[0], "height": window[1]})
    newest = max(settings().reports_dir.glob(pattern), key=lambda path: path.stat().st_mtime)
    page.goto(newest.resolve().as_uri())


@contextmanager
def servers() -> Iterator[str]:
    """The lab, and Dagster behind it, on the home that the environment names; the lab's URL."""
    home = settings().home.resolve()
    named = {"QUANT_HOME": home, "QUANT_DAGSTER": home / "dagster", "DAGSTER_HOME": PROJECT_ROOT}
    environment = {**os.environ, **{name: str(place) for name, place in named.items()}, "PYTHONPATH": str(PROJECT_ROOT)}
    with ExitStack() as stack:
        logs = Path(stack.enter_context(TemporaryDirectory(prefix="screenshots-")))
        dagster = stack.enter_context(dagster_server(environment, logs))
        yield stack.enter_context(lab_server(environment, logs, dagster))


def write(name: str, screenshot: bytes) -> int:
    """Write a picture with as many colours as keep it small; its size in bytes.

    Raises:
        ValueError: it is too large with 32 colours.
    """
    from PIL import Image

    whole = Image.open(BytesIO(screenshot)).convert("RGB")
    for colours in (256, 128, 64, 32):
        file = BytesIO()
        whole.quantize(colours, dither=Image.Dither.NONE).save(file, "PNG", optimize=True)
        if len(file.getvalue()) <= LARGEST:
            (IMAGES / f"{name}.png").write_bytes(file.getvalue())
            return len(file.getvalue())
    raise ValueError(
        f"{name}.png has {len(file.getvalue()):,} bytes with {colours} colours; at most {LARGEST:,} may be"
    )


if __name__ == "__main__":
    main(sys.argv[1:])
