"""What every bench shares: how a ratio is timed and how it is printed."""

from collections.abc import Callable, Mapping
from statistics import median
from time import perf_counter


def median_seconds(rounds: int, sides: Mapping[str, Callable[[], object]]) -> dict[str, float]:
    """Median wall time of each side over rounds in which every side runs once, in turn.

    Interleaving spreads a slow spell of the machine over all sides instead of charging it to one.
    """
    taken: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, side in sides.items():
            start = perf_counter()
            side()
            taken[name].append(perf_counter() - start)
    return {name: median(seconds) for name, seconds in taken.items()}


def report(name: str, ratio: float, target: str) -> None:
    """Print one figure: `bench: event_log_time ratio=71.3 target=>=35`."""
    print(f"bench: {name} ratio={ratio:.3g} target={target}", flush=True)
