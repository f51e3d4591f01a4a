"""Combinatorial purged cross-validation: many histories out of sample, from blocks of one."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from quant_assets.core.errors import DataError
from quant_assets.validation.plan import ValidationPlan
from quant_assets.validation.segments import best, checked, masked_sharpes
from quant_assets.validation.sharpe import sharpes

Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
Index = NDArray[np.int64]


@dataclass(frozen=True)
class Splits:
    """Every way to choose the test blocks."""

    edges: Index
    """(folds + 1,): block b holds the sessions edges[b] to edges[b + 1], the last excluded."""
    tested: Index
    """(splits, test folds): which blocks are out of sample, rising."""
    train: Mask
    """(splits, sessions): what may be learnt from; neither test blocks nor their purge and embargo zones."""
    paths: Index
    """(paths, folds): the split whose test covers that block of that path."""


@dataclass(frozen=True)
class Combinatorial:
    """Paths out of sample, each over the whole period."""

    splits: Splits
    chosen: Index | None
    """(splits,): the configuration that was best in the training sessions; None where models were trained instead."""
    returns: Floats
    """(paths, sessions)"""
    sharpes: Floats
    """(paths,), annualised."""
    written: float
    """The ratio of the strategy as its file has it."""

    @property
    def loss_share(self) -> float:
        """Share of paths whose ratio is not above 0."""
        return float(np.mean(~(self.sharpes > 0)))


def splits(sessions: int, plan: ValidationPlan, horizon: int = 0) -> Splits:
    """Every split of a period by combinatorial purged cross-validation, as skfolio makes them.

    Lopez de Prado, "Advances in Financial Machine Learning" (2018), ch. 7 and 12: the period is cut into `folds` blocks
    of equal length (the last one takes the remainder), and each choice of `test_folds` of them is a split: C(N, k)
    splits, from which C(N, k) * k / N paths are joined; path p takes of each block the p-th split that tests it. Not
    trained on are the sessions of the purge before and after each run of test blocks, and those of the embargo after
    these: as in the book, the embargo follows the last session that a test label reaches, on top of the purge. A label
    that reaches a test block's first session, no further, is purged too.

    Args:
        sessions: length of the period.
        horizon: sessions that a label looks ahead; the purge is the larger of it and `plan.purge`. The embargo is the
            share `plan.embargo` of the sessions, rounded up.

    Raises:
        DataError: blocks so short that of one between two test blocks less than two sessions would be left.

    Example: 12 sessions, 4 blocks choose 2, no purge and no embargo: six splits test the blocks 01 02 03 12 13 23, and
    three paths take the four blocks from the splits 0012, 1334 and 2455.
    """
    from skfolio.model_selection import CombinatorialPurgedCV

    purge = max(plan.purge, horizon)
    embargo = math.ceil(Fraction(str(plan.embargo)) * sessions)
    size = sessions // plan.folds
    if size < 2 * purge + embargo + 2:
        raise DataError(
            f"CPCV: {sessions} sessions make blocks of {size}, of which purge and embargo take {2 * purge + embargo}; "
            "at least 2 must be left: start the backtest earlier or lower validation.folds"
        )
    made = CombinatorialPurgedCV(plan.folds, plan.test_folds, purged_size=purge, embargo_size=embargo)
    train = np.zeros((math.comb(plan.folds, plan.test_folds), sessions), np.bool_)
    for split, (learnt, _) in enumerate(made.split(np.empty((sessions, 1)))):
        train[split, learnt] = True
    return Splits(
        edges=np.append(np.arange(plan.folds) * size, sessions),
        tested=made.test_set_index,
        train=train,
        paths=np.ascontiguousarray(made.recombined_paths.T),
    )


def combinatorial(returns: Floats, plan: ValidationPlan, year: int, written: int = 0) -> Combinatorial:
    """Choose the configuration with the best Sharpe ratio in each split's training sessions, and join the tests.

    Of equal ratios the lowest row is chosen. What a change from one configuration to the next would cost is left out.

    Args:
        returns: (configurations, sessions)
        year: sessions per year.
        written: the row of the strategy as its file has it.

    Raises:
        DataError: a period too short for the splits, or a matrix with undefined returns.
    """
    made = splits(checked(returns).shape[1], plan)
    chosen = best(masked_sharpes(returns, made.train, year))
    rows = np.repeat(chosen[made.paths], np.diff(made.edges), axis=1)
    ratio = float(sharpes(returns[[written]], year)[0])
    return of_paths(made, returns[rows, np.arange(returns.shape[1])], year, ratio, chosen)


def of_paths(splits: Splits, returns: Floats, year: int, written: float, chosen: Index | None = None) -> Combinatorial:
    """Judge paths that are joined already.

    Args:
        returns: (paths, sessions), where path p has in block b what was learnt in split `splits.paths[p, b]`.
        year: sessions per year.
        written: annualised Sharpe ratio of the strategy as its file has it.
        chosen: (splits,): the rows chosen, if any were.

    Raises:
        DataError: not one row per path and one column per session, or undefined returns.
    """
    shape = len(splits.paths), splits.train.shape[1]
    if checked(returns).shape != shape:
        raise DataError(f"returns of paths have the shape {returns.shape}, the splits make {shape}; pass all of them")
    return Combinatorial(splits, chosen, returns, sharpes(returns, year), written)
