"""All of the sample data through the whole graph: what Dagster adds around our functions.

Run with `python bench/backfill.py`. A process runs `quant pipeline run` on an empty home with a clock around every body
of an asset or check; what the process takes beyond those bodies, start to exit, is compared with 0.6 ms a partition
materialised plus 5 s. Bounded by the event objects that Dagster makes, checks and logs one by one for every partition
(0.2 ms each), not by storing them.
"""

import gc
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import Any

from common import load, process, report, temporary_home

MILLISECONDS_PER_CELL, SECONDS = 0.6, 5.0
MARK = "inside: "


def inside() -> None:
    """Run the pipeline with a clock around the bodies; the last line printed tells the seconds of each part."""
    from dagster._core.execution.plan import compute_generator

    from quant_assets.cli import app as commands
    from quant_assets.cli import console
    from quant_assets.cli.session import session
    from quant_assets.defs.launch import Launched, Launcher, Step

    spent: dict[str, float] = defaultdict(float)
    began: dict[str, float] = {}
    runs: list[Launched] = []
    invoke, watch, run = compute_generator.invoke_compute_fn, console.watch, Launcher.run

    def timed(*arguments: Any, **options: Any) -> Any:
        start = time.perf_counter()
        result = invoke(*arguments, **options)
        spent["bodies"] += time.perf_counter() - start
        return through(result) if isinstance(result, Iterator) else result

    def through(results: Iterator[Any]) -> Iterator[Any]:
        while True:
            start = time.perf_counter()
            try:
                one = next(results)
            except StopIteration:
                return
            finally:
                spent["bodies"] += time.perf_counter() - start
            yield one

    def watched(event: Step | str) -> None:
        if isinstance(event, Step) and event.state == "start":
            began[event.asset] = time.perf_counter()
        elif isinstance(event, Step) and event.state in ("done", "failed"):
            spent["steps"] += time.perf_counter() - began[event.asset]
        watch(event)

    def launched(*arguments: Any, **options: Any) -> Launched:
        start = time.perf_counter()
        runs.append(run(*arguments, **options))
        spent["runs"] += time.perf_counter() - start
        return runs[-1]

    replace: list[tuple[Any, str, Callable[..., Any]]] = [
        (compute_generator, "invoke_compute_fn", timed),
        (console, "watch", watched),
        (Launcher, "run", launched),
    ]
    for owner, name, function in replace:
        setattr(owner, name, function)
    gc.set_threshold(100_000, 20, 100)  # as `quant` does
    start = time.perf_counter()
    spent["loading"] = -start
    assert session.launcher
    spent["loading"] += time.perf_counter()
    commands.app(["pipeline", "run"], standalone_mode=False)
    market = session.market()
    expected = 3 * len(market.symbols()) * len(market.grid.date_keys(*market.period(None, None)))
    for spec in market.strategies.values():
        expected += 3 * len(market.grid.date_keys(*market.period_of(spec, None, None)))
    cells = sum(sum(one.cells.values()) for one in runs)
    if cells != expected or not all(one.succeeded for one in runs):
        raise SystemExit(f"{cells} partitions materialised instead of {expected}, or a run failed")
    spent["command"] = time.perf_counter() - start
    print(MARK + json.dumps({**spent, "cells": cells}), flush=True)


def main() -> None:
    with temporary_home() as environment:
        finished = process([sys.executable, __file__, "inside"], environment)
    told = json.loads(finished.output.rsplit(MARK, 1)[1].splitlines()[0])
    cells, bodies = told["cells"], told["bodies"]
    added = finished.wall - bodies
    parts = {
        "start and exit of the process": finished.wall - told["command"],
        "loading the code location": told["loading"],
        "events of steps": told["steps"] - bodies,
        "around the steps of a run": told["runs"] - told["steps"],
        "the command's own queries and tables": told["command"] - told["loading"] - told["runs"],
    }
    print(f"{cells:,} partitions in {finished.wall:.1f} s, of which {bodies:.1f} s in our bodies ({load()})")
    for name, seconds in parts.items():
        print(f"  {name}: {seconds:.1f} s, {seconds / cells * 1e3:.3f} ms a partition")
    allowed = MILLISECONDS_PER_CELL / 1e3 * cells + SECONDS
    print(f"added: {added:.1f} s, allowed: {allowed:.1f} s")
    report("backfill", added / allowed, "<=1")


if __name__ == "__main__":
    inside() if sys.argv[1:] == ["inside"] else main()
