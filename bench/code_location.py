"""Loading the code location against importing the three libraries it stands on.

Run with `python bench/code_location.py`: whole processes, interleaved, the calendar's cache warm. Bounded by NumPy and
pydantic-settings, which the three do not import, by our modules, and by the YAML of strategies and universe.
"""

import sys
from statistics import median

from common import load, median_of, process, report, temporary_home

ROUNDS = 11
LIBRARIES = "import dagster, polars, duckdb"
OURS = (
    "from quant_assets.definitions import defs; print(len(defs.get_repository_def().asset_graph.get_all_asset_keys()))"
)


def main() -> None:
    with temporary_home() as environment:
        if int(process([sys.executable, "-c", OURS], environment).output) < 6:
            raise SystemExit("the code location does not hold the six assets")
        sides = {"libraries": LIBRARIES, "code location": OURS}
        taken = {name: [] for name in sides}
        for _ in range(ROUNDS):
            for name, code in sides.items():
                taken[name].append(process([sys.executable, "-c", code], environment))
    print("; ".join(f"{name} {median_of(rounds)}" for name, rounds in taken.items()), f"({load()})")
    wall, cpu = (
        median(getattr(one, clock) for one in taken["code location"])
        / median(getattr(one, clock) for one in taken["libraries"])
        for clock in ("wall", "cpu")
    )
    report("code_location", wall, "<=1.5")
    report("code_location_cpu", cpu, "<=1.5")


if __name__ == "__main__":
    main()
