"""alpha158 for 100 symbols x 2,520 sessions: ours (frame to frame) against pyqlib, which has an environment of its own.

Run with `python bench/alpha158.py`. pyqlib reads its own data folder and gets the best of three settings (one process,
two by multiprocessing or by loky); both sides take turns, and the best round of each counts. Then every cell is
compared, with Qlib as it comes (float32) and with its expressions in double precision, and the largest difference of
each family is printed: relative to the value, or to the factor's mean size where the value is smaller. One symbol moves
in coarse ticks, so that windows have ties, and one stands still without volume for a quarter.
"""

import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from statistics import median
from time import perf_counter

import numpy as np
import polars as pl
from common import ROOT, load, other_environment, report
from features_compute import NUMBERS, SESSIONS, make_bars

from quant_assets.features import feature_set

SYMBOLS, TURNS = 100, 3
TICKS, HALTED = "S0098", "S0099"
HALT = (1000, 1063)
SINGLE, DOUBLE = 2e-4, 1e-8
"""Largest difference allowed: CORR, CORD and WVMA lose digits where Qlib divides and takes logarithms in float32."""


def bars_of_both() -> pl.DataFrame:
    """Bars whose numbers float32 holds exactly, as Qlib stores them."""
    prices = pl.col("open", "high", "low", "close")
    within = (pl.col("symbol") == HALTED) & pl.int_range(pl.len()).over("symbol").is_between(*HALT)
    return (
        make_bars()
        .filter(pl.col("symbol") < f"S{SYMBOLS:04d}")
        .with_columns(pl.when(pl.col("symbol") == TICKS).then((prices * 2).round() / 2 + 1).otherwise(prices))
        .with_columns(pl.when(within).then(100.0).otherwise(prices).name.keep())
        .with_columns(pl.when(within).then(0.0).otherwise("volume").alias("volume"))
        .with_columns(pl.col(NUMBERS).cast(pl.Float32).cast(pl.Float64))
    )


def write_qlib_folder(bars: pl.DataFrame, folder: Path) -> None:
    """Qlib's format: a calendar, the listings, and per symbol and field its first session and its values."""
    days = bars["ts"].unique().sort()
    symbols = bars["symbol"].unique().sort()
    for name in ("calendars", "instruments"):
        (folder / name).mkdir()
    (folder / "calendars" / "day.txt").write_text("\n".join(map(str, days)))
    listed = (f"{symbol}\t{days[0]}\t{days[-1]}" for symbol in symbols)
    (folder / "instruments" / "all.txt").write_text("\n".join(listed))
    priced = bars.with_columns(vwap=(pl.col("high") + pl.col("low") + pl.col("close")) / 3)
    for symbol in symbols:
        place = folder / "features" / symbol.lower()
        place.mkdir(parents=True)
        of_symbol = priced.filter(pl.col("symbol") == symbol)
        for name in (*NUMBERS, "vwap"):
            np.concatenate([[0.0], of_symbol[name].to_numpy()]).astype("<f4").tofile(place / f"{name}.day.bin")


def take_turns(bars: pl.DataFrame, folder: Path) -> tuple[list[float], dict[str, float]]:
    """Seconds of ours, `TURNS` before each round of Qlib's, and the best seconds of each of Qlib's settings."""
    script = ROOT / "docs" / "decisions" / "experiments" / "alpha158_qlib.py"
    command = [other_environment("qlib", "pyqlib==0.9.7"), script, folder]
    ours, theirs = [], {}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1) as qlib:
        for line in qlib.stdout:
            if line == "ready\n":
                for _ in range(TURNS):
                    start = perf_counter()
                    feature_set("alpha158").compute(bars)
                    ours.append(perf_counter() - start)
                qlib.stdin.write("\n")
            else:
                seconds, setting = line.strip().split(maxsplit=1)
                theirs[setting] = min(theirs.get(setting, float("inf")), float(seconds))
    if qlib.returncode:
        raise SystemExit(f"{script} failed with {qlib.returncode}")
    return ours, theirs


def compare(bars: pl.DataFrame, folder: Path) -> None:
    """Print the largest difference of each family.

    Raises:
        SystemExit: names differ, a value differs by more than float32 explains, or one side alone has a value and none
            of the reasons in `quant_assets.features.alpha158` applies.
    """
    features = feature_set("alpha158")
    if list(features.names) != (folder / "names.txt").read_text().split("\n"):
        raise SystemExit("the names of the factors differ from Qlib's")
    frame = features.compute(bars)
    single, double = np.load(folder / "single.npy"), np.load(folder / "double.npy")
    age = np.tile(np.arange(SESSIONS), SYMBOLS)
    stopped = (frame["symbol"] == HALTED).to_numpy() & (age >= HALT[0]) & (age <= HALT[1] + features.lookback)
    largest: dict[str, list[float]] = {}
    counts: Counter[str] = Counter()
    for column, feature in enumerate(features.features):
        ours = frame[feature.name].to_numpy()
        here, there = np.isfinite(ours), np.isfinite(double[:, column])
        warm_up = age < feature.lookback
        if (here & warm_up).any() or ((here != there) & ~warm_up & ~stopped).any():
            raise SystemExit(f"{feature.name} has a value on one side only, and neither warm-up nor halt explains it")
        family = feature.name.rstrip("0123456789")
        untraded = stopped & (ours == 0) & (family == "WVMA")
        cells = here & there & ~untraded
        if not np.isfinite(single[cells, column]).all():
            raise SystemExit(f"{feature.name} has cells that Qlib gives in double precision only")
        counts += Counter(
            {
                "compared": int(cells.sum()),
                "null in both": int((~here & ~there).sum()),
                "Qlib's only, warm-up": int((there & warm_up).sum()),
                "Qlib's only, halt": int((there & ~here & ~warm_up).sum()),
                "ours only, halt": int((here & ~there).sum()),
                "WVMA of windows without volume": int(untraded.sum()),
            }
        )
        scale = np.maximum(np.abs(ours[cells]), np.abs(ours[cells]).mean())
        for position, theirs in enumerate((single, double)):
            difference = np.abs(theirs[cells, column] - ours[cells]) / scale
            worst = largest.setdefault(family, [0.0, 0.0])
            worst[position] = max(worst[position], float(difference.max()))
    print("cells:", ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    print(f"{'family':8} {'as it comes':>12} {'double':>9}   largest difference")
    for family, (in_single, in_double) in largest.items():
        print(f"{family:8} {in_single:12.1e} {in_double:9.1e}")
    far = [name for name, (in_single, in_double) in largest.items() if in_single > SINGLE or in_double > DOUBLE]
    if far:
        raise SystemExit(f"values differ by more than rounding: {', '.join(far)}")


def main() -> None:
    bars = bars_of_both()
    start = perf_counter()
    feature_set("alpha158").compute(bars)
    print(f"first call, with Numba's import and compiled code from disk if it is there: {perf_counter() - start:.2f} s")
    with tempfile.TemporaryDirectory(prefix="quant-bench-") as name:
        folder = Path(name)
        write_qlib_folder(bars, folder)
        ours, theirs = take_turns(bars, folder)
        compare(bars, folder)
    print("pyqlib by processes and backend:", ", ".join(f"{name} {best:.2f} s" for name, best in theirs.items()))
    print(f"ours best {min(ours):.3f} s, median {median(ours):.3f} s; {load()}")
    report("alpha158_vs_pyqlib", min(theirs.values()) / min(ours), ">=10")


if __name__ == "__main__":
    main()
