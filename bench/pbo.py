"""PBO by CSCV of 2,520 sessions x 200 configurations in 16 blocks, 12,870 combinations: ours, ffn and vectorised NumPy.

Run with `python bench/pbo.py`. ffn takes the better part of a minute, in an environment of its own and between two
series of ours; its value must be ours, and its logits but for the rounding of a logarithm's argument. NumPy, only for
information, runs in turn with ours, and so do 1,000 configurations. Memory is the peak of a whole process that loads
the package and runs PBO once; two such processes show what a first call takes without and with Numba's cache on disk.
"""

import json
import os
import subprocess
import sys
import tempfile
from itertools import combinations
from math import comb
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
from common import ROOT, load, median_seconds, other_environment, report

from quant_assets.validation.pbo import backtest_overfitting

SESSIONS, CONFIGURATIONS, MANY, BLOCKS, YEAR, ROUNDS = 2520, 200, 1000, 16, 252, 21
GIB = 2**30
DIFFERENCE = 1e-12
"""Largest difference allowed between logits."""

FFN = """
import json, sys, time
import ffn, numpy, pandas
returns = pandas.DataFrame(numpy.load(sys.argv[1]).T)
start = time.perf_counter()
found = ffn.core.calc_prob_backtest_overfitting(returns, n_blocks=int(sys.argv[2]), full_output=True)
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "pbo": found["pbo"], "logits": found["logits"].tolist()}))
"""
OURS = """
import json, resource, sys, time
import numpy
from quant_assets.validation.pbo import backtest_overfitting
returns = numpy.load(sys.argv[1])
start = time.perf_counter()
backtest_overfitting(returns, 252, int(sys.argv[2]))
seconds = time.perf_counter() - start
print(json.dumps({"seconds": seconds, "peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}))
"""


def make_returns(configurations: int) -> np.ndarray:
    return np.random.default_rng(0).normal(0.0002, 0.01, (configurations, SESSIONS))


def with_numpy(returns: np.ndarray) -> np.ndarray:
    """Logits, all combinations at once; returns without ties."""
    configurations, length = len(returns), SESSIONS // BLOCKS
    cut = returns[:, : BLOCKS * length].reshape(configurations, BLOCKS, length)
    inside = np.zeros((comb(BLOCKS, BLOCKS // 2), BLOCKS))
    for row, blocks in zip(inside, combinations(range(BLOCKS), BLOCKS // 2), strict=True):
        row[list(blocks)] = 1
    sums, squares = inside @ cut.sum(axis=2).T, inside @ (cut**2).sum(axis=2).T
    ratios = sums / np.sqrt(squares - sums**2 / (BLOCKS // 2 * length))
    outside = ratios[::-1]  # complements, last to first
    mine = np.take_along_axis(outside, ratios.argmax(axis=1)[:, None], axis=1)
    ranks = (outside <= mine).sum(axis=1)
    return np.log(ranks / (configurations + 1 - ranks))


def in_process(python: str | Path, code: str, returns: Path, environment: dict[str, str]) -> dict[str, Any]:
    command = [str(python), "-c", code, str(returns), str(BLOCKS)]
    return json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, cwd=ROOT, env=environment).stdout)


def check(library: str, ours: np.ndarray, theirs: np.ndarray) -> None:
    difference = np.abs(ours - theirs).max()
    print(f"{library}: {len(theirs):,} logits within {difference:.1e}, PBO {np.mean(theirs <= 0):.6f}")
    if difference > DIFFERENCE or np.mean(ours <= 0) != np.mean(theirs <= 0):
        raise SystemExit(f"{library} differs from ours, PBO {np.mean(ours <= 0):.6f}")


def main() -> None:
    returns, many = make_returns(CONFIGURATIONS), make_returns(MANY)
    with tempfile.TemporaryDirectory() as place:
        stored = Path(place) / "returns.npy"
        np.save(stored, returns)
        empty = {**os.environ, "NUMBA_CACHE_DIR": str(Path(place) / "cache")}
        compiled = in_process(sys.executable, OURS, stored, empty)
        cached = in_process(sys.executable, OURS, stored, empty)
        ours = backtest_overfitting(returns, YEAR, BLOCKS).logits
        check("NumPy", ours, with_numpy(returns))
        sides = {
            "ours": lambda: backtest_overfitting(returns, YEAR, BLOCKS),
            "many": lambda: backtest_overfitting(many, YEAR, BLOCKS),
            "NumPy": lambda: with_numpy(returns),
        }
        before = median_seconds(ROUNDS, sides)
        ffn = in_process(other_environment("ffn", "ffn"), FFN, stored, dict(os.environ))
        after = median_seconds(ROUNDS, sides)
    check("ffn", ours, np.array(ffn["logits"]))
    seconds = {name: mean((before[name], after[name])) for name in sides}
    print(
        f"ours {seconds['ours'] * 1e3:.1f} ms, {MANY:,} configurations {seconds['many'] * 1e3:.1f} ms, "
        f"NumPy {seconds['NumPy'] * 1e3:.0f} ms, ffn {ffn['seconds']:.1f} s;",
        f"first call {compiled['seconds']:.1f} s, from Numba's cache {cached['seconds']:.1f} s; {load()}",
    )
    report("pbo_vs_ffn", ffn["seconds"] / seconds["ours"], ">=300")
    report("pbo_1000_over_200", seconds["many"] / seconds["ours"], "<=10")
    report("pbo_peak_gib", max(compiled["peak"], cached["peak"]) / GIB, "<=1")


if __name__ == "__main__":
    main()
