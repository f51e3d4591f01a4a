"""Pages of the lab in a browser, on the ten-year sample: from the click in the menu until the page stands.

Run with `python bench/lab_pages.py`; it needs Chromium. Five strategies are run on an empty home first. Every page is
opened once, then five times in turn; a page stands when Streamlit's script has ended and the browser has drawn what it
sent. The ratio is the slowest page's median to one second; each page's median and worst are printed before it.
"""

import re
import sys
import tempfile
from pathlib import Path
from statistics import median
from time import perf_counter

from common import ROOT, load, process, report, temporary_home

sys.path.insert(0, str(ROOT))
from quant_assets_tests.browser import (
    PAGES,
    browser,
    complaints,
    dagster_server,
    lab_server,
    new_page,
    open_page,
    settled,
)

ROUNDS = 5
LIMIT = 1.0


def main() -> None:
    with temporary_home() as environment, tempfile.TemporaryDirectory() as logs:
        process([sys.executable, "-m", "quant_assets.cli.app", "pipeline", "run"], environment)
        process([sys.executable, "-m", "quant_assets.cli.app", "sweep", "-s", "momentum_topk"], environment)
        folder = Path(logs)
        with (
            dagster_server(environment, folder) as dagster,
            lab_server(environment, folder, dagster) as lab,
            browser() as chromium,
        ):
            page = new_page(chromium)
            taken: dict[str, list[float]] = {name: [] for name in PAGES}
            for name in PAGES:
                open_page(page, f"{lab}/{name}")
            for _ in range(ROUNDS):
                for name in PAGES:
                    links = page.get_by_test_id("stSidebarNavLink")
                    link = links.filter(has_text=re.compile(f"{(name or 'overview').title()}$"))
                    start = perf_counter()
                    link.click()
                    page.wait_for_url(re.compile(rf":\d+/{name}(\?|$)"))
                    settled(page)
                    taken[name].append(perf_counter() - start)
                    if said := complaints(page):
                        raise SystemExit(f"{name}: {said}")
    print(f"{load()}, {ROUNDS} rounds")
    for name, seconds in taken.items():
        print(f"  {name or 'overview':<11} median {median(seconds):.2f} s, worst {max(seconds):.2f} s")
    report("lab_pages", max(map(median, taken.values())) / LIMIT, f"<=1 ({LIMIT:g} s)")


if __name__ == "__main__":
    main()
