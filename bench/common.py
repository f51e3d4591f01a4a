"""What every bench shares: how a ratio is timed and printed, processes, and a home with 500 synthetic symbols."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from time import perf_counter

ROOT = Path(__file__).resolve().parents[1]


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


@dataclass(frozen=True)
class Finished:
    """One process, start to exit: wall and processor seconds, and what it printed to both streams."""

    wall: float
    cpu: float
    output: str


def other_environment(name: str, *packages: str, python: str = sys.executable) -> Path:
    """The Python of a virtual environment of its own, `.bench/<name>`, for a library that we measure against.

    Made with `python` when first asked for; delete the folder to have it made anew.
    """
    folder = ROOT / ".bench" / name
    own = folder / "bin" / "python"
    if not (folder / ".complete").is_file():
        shutil.rmtree(folder, ignore_errors=True)
        subprocess.run([python, "-m", "venv", str(folder)], check=True)
        subprocess.run([str(own), "-m", "pip", "install", "--quiet", *packages], check=True)
        (folder / ".complete").touch()
    return own


def process(command: Sequence[str], environment: Mapping[str, str]) -> Finished:
    """Run a command to its end.

    Raises:
        SystemExit: it failed; shows its output.
    """
    start = perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        running = subprocess.Popen(command, env=dict(environment), stdout=output, stderr=subprocess.STDOUT, cwd=ROOT)
        _, status, used = os.wait4(running.pid, 0)
        wall = perf_counter() - start
        running.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        text = output.read()
    if running.returncode:
        raise SystemExit(f"{' '.join(command)} failed with {running.returncode}:\n{text}")
    return Finished(wall, used.ru_utime + used.ru_stime, text)


def median_of(rounds: Sequence[Finished]) -> str:
    """`1.23 s wall, 1.10 s CPU`, medians."""
    return f"{median(one.wall for one in rounds):.2f} s wall, {median(one.cpu for one in rounds):.2f} s CPU"


def load() -> str:
    """The machine's load averages over 1 and 5 minutes, to print beside a figure."""
    return "load {:.2f} {:.2f}, {} cores".format(*os.getloadavg()[:2], os.cpu_count())


@contextmanager
def temporary_home() -> Iterator[dict[str, str]]:
    """An environment whose QUANT_HOME and Dagster storages are a temporary folder, deleted at the end."""
    home = Path(tempfile.mkdtemp(prefix="quant-bench-"))
    try:
        (home / "dagster").mkdir()
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUANT_", "DAGSTER_"))}
        yield kept | {"QUANT_HOME": str(home), "QUANT_DAGSTER": str(home / "dagster"), "DAGSTER_HOME": str(ROOT)}
    finally:
        shutil.rmtree(home, ignore_errors=True)
