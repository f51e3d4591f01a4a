"""CPCV of a sweep of 1,000 TSMOM combinations x 8 symbols x 2,520 sessions, against the time of the sweep itself.

Run with `python bench/cpcv.py`. The sweep is that of `bench/sweep.py`: every combination's measures and the return of
every session. CPCV takes these returns, makes the splits (6 blocks choose 2), chooses the best combination in each of
15 training sets, and joins and measures 5 paths. The first run, which imports skfolio, is shown apart. Beside it stand
the other methods that choose from the same matrix, and 12 blocks choose 6: 924 splits, 462 paths.
"""

import tracemalloc
from functools import partial
from time import perf_counter

import numpy as np
from common import load, median_seconds, report
from sweep import DAYS, FIELDS, HISTORY, NAMES, STRATEGY, YEAR, bars_of, closes, combinations, ours

from quant_assets.strategy.evaluate import Evaluator
from quant_assets.validation.cpcv import combinatorial
from quant_assets.validation.out_of_sample import in_out_of_sample, walk_forward
from quant_assets.validation.plan import ValidationPlan

ROUNDS = 7
PLAN = ValidationPlan()
MANY = ValidationPlan(folds=12, test_folds=6)


def returns() -> np.ndarray:
    """(combinations, sessions)"""
    evaluator = Evaluator(bars_of(closes()), DAYS[HISTORY:], DAYS, dict.fromkeys(NAMES, (None, None)), YEAR)
    wanted = (dict(zip(FIELDS, one, strict=True)) for one in combinations(1000))
    return evaluator.evaluate([STRATEGY.variant(one) for one in wanted]).returns


def main() -> None:
    matrix, days = returns(), np.array(DAYS[HISTORY:], "datetime64[D]")
    begun = perf_counter()
    combinatorial(matrix, PLAN, YEAR)
    print(f"first run {perf_counter() - begun:.2f} s")
    taken = median_seconds(
        ROUNDS,
        {
            "sweep": partial(ours, "daily", closes(), combinations(1000)),
            "cpcv": partial(combinatorial, matrix, PLAN, YEAR),
            "cpcv_12_choose_6": partial(combinatorial, matrix, MANY, YEAR),
            "is_oos": partial(in_out_of_sample, matrix, days, PLAN, YEAR),
            "walk_forward": partial(walk_forward, matrix, days, PLAN, YEAR),
        },
    )
    print(", ".join(f"{name} {seconds * 1e3:,.1f} ms" for name, seconds in taken.items()), load())
    tracemalloc.start()
    combinatorial(matrix, PLAN, YEAR)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    print(f"memory of cpcv {peak / 1e6:,.1f} MB above the matrix of {matrix.nbytes / 1e6:,.1f} MB")
    report("cpcv_vs_sweep", taken["cpcv"] / taken["sweep"], "<=1")
    report("cpcv_12_choose_6_vs_sweep", taken["cpcv_12_choose_6"] / taken["sweep"], "none")


if __name__ == "__main__":
    main()
