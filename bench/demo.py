"""`quant pipeline run` on an empty home, as `make demo` runs it after installing.

Run with `python bench/demo.py`. The caches that a first run fills (Numba's machine code, matplotlib's fonts, the
calendar) are empty too. The ratio is of 60 seconds, wall time; with it goes the longest silence between two lines of
progress. Bounded by recording 70,000 partitions in Dagster's event log (half), training the models (a quarter) and
imports.
"""

import subprocess
import sys
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from time import perf_counter

from common import ROOT, load, report, temporary_home

from quant_assets.strategy.spec import load_strategies

LIMIT = 60.0


def lines_of(command: list[str], environment: Mapping[str, str]) -> list[tuple[float, str]]:
    """What a command prints to both streams, each line with the second at which it came.

    Raises:
        SystemExit: it failed.
    """
    start = perf_counter()
    running = subprocess.Popen(
        command, env=dict(environment), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert running.stdout is not None
    lines = [(perf_counter() - start, line.rstrip()) for line in running.stdout]
    if running.wait():
        raise SystemExit("\n".join(line for _, line in lines[-30:]))
    return [*lines, (perf_counter() - start, "(exit)")]


def main() -> None:
    with temporary_home() as environment:
        home = Path(environment["QUANT_HOME"])
        environment |= {"NUMBA_CACHE_DIR": str(home / "numba"), "MPLCONFIGDIR": str(home / "matplotlib")}
        environment |= {"PYTHONUNBUFFERED": "1"}
        lines = lines_of([sys.executable, "-m", "quant_assets.cli.app", "pipeline", "run"], environment)
        strategies = load_strategies(ROOT / "strategies")
        shown = [name for name, spec in strategies.items() if spec.universe == "us_tech"]
        missing = [name for name in shown if not list((home / "reports" / name).glob("*.html"))]
    if missing:
        raise SystemExit(f"no report of {', '.join(missing)}")
    stamps = [0.0, *(stamp for stamp, _ in lines)]
    silences = sorted(((after - before, after) for before, after in pairwise(stamps)), reverse=True)
    for silence, until in silences[:3]:
        print(f"silent for {silence:.1f} s until, at {until:.1f} s: {dict(lines)[until]}")
    print(f"{stamps[-1]:.1f} s, longest silence {silences[0][0]:.1f} s ({load()})")
    report("demo", stamps[-1] / LIMIT, "<=1")


if __name__ == "__main__":
    main()
