"""Weighing, compiled: a date's ranks and proposal, the supervisor's rules, and the way from one date to the next.

What the numbers mean stands in `weighting` and `supervisor`, which check their arguments and call this. Functions
ending in `_row` do one date, on arrays of one number per symbol that the caller owns; the others run over dates.
Imported inside functions, since Numba takes its time to load.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from quant_assets.portfolio.supervisor import MISSING, R1, R2, R3, R4, R5, UNLISTED

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

EQUAL, BY_SCORE, INVERSE, GIVEN = range(4)
"""What a share is proportional to: nothing, the score, one over the basis, the basis."""

_compiled: Any = njit(cache=True, nogil=True, error_model="numpy")
_DUST = 1e-12
"""A weight that is smaller counts as none."""
_LAST = 2.0**40
"""Later than any rank."""


class Limits(NamedTuple):
    """`SupervisorRules` and a strategy's `top_k`; infinite, or as many as there are symbols, where nothing limits."""

    gross: float
    weight: float
    positions: int
    turnover: float
    floor: float
    top_k: int


@_compiled
def _rank_row(score: Floats, exposure: bool, rank: Ints) -> None:
    key = np.empty(len(score))
    for n in range(len(score)):
        value = abs(score[n]) if exposure else score[n]
        key[n] = -value if np.isfinite(value) else np.inf
    order = np.argsort(key, kind="mergesort")
    for place in range(len(order)):
        rank[order[place]] = place + 1 if np.isfinite(key[order[place]]) else 0


@_compiled
def _propose_row(
    score: Floats, rank: Ints, basis: Floats, method: int, exposure: bool, top_k: int, weight: Floats
) -> None:
    least = np.inf
    if method == INVERSE:
        # relative to the smallest volatility, so that a tiny one does not overflow
        for n in range(len(score)):
            if 0 < rank[n] <= top_k and 0 < basis[n] < least:
                least = basis[n]
    most = 0.0
    for n in range(len(score)):
        raw = 0.0
        if 0 < rank[n] <= top_k:
            if method == EQUAL:
                raw = 1.0
            elif method == BY_SCORE:
                raw = abs(score[n]) if exposure else max(score[n], 0.0)
            elif 0 < basis[n] < np.inf:
                raw = least / basis[n] if method == INVERSE else basis[n]
        weight[n] = raw
        most = max(most, raw)
    if most == 0:
        return
    total = 0.0
    for n in range(len(score)):
        # scores up to the largest float: their sum must not overflow
        if most != 1:
            weight[n] /= most
        total += weight[n]
    for n in range(len(score)):
        weight[n] /= total
        if exposure and weight[n] > 0:
            weight[n] *= score[n]


@_compiled
def propose(score: Floats, basis: Floats, method: int, exposure: bool, top_k: int) -> tuple[Ints, Floats]:
    """Ranks and proposed weights, both (dates, symbols) as `score` is.

    Args:
        basis: (dates, symbols); read by INVERSE and GIVEN only.
    """
    rank = np.empty(score.shape, np.int64)
    weight = np.empty(score.shape)
    for date in range(len(score)):
        _rank_row(score[date], exposure, rank[date])
        _propose_row(score[date], rank[date], basis[date], method, exposure, top_k, weight[date])
    return rank, weight


@_compiled
def _worst(among: Bools, goal: Floats, rank: Ints, count: int) -> Ints:
    """The first `count` to go: names without a goal, unranked before ranked, worst rank first, then the later name."""
    key = np.full(len(rank), -1.0)
    for n in range(len(rank)):
        if among[n]:
            key[n] = rank[n] if rank[n] > 0 else _LAST
            if goal[n] == 0:
                key[n] += _LAST
    return np.argsort(key, kind="mergesort")[len(rank) - count :]


@_compiled
def _goal_row(
    score: Floats, rank: Ints, proposed: Floats, limits: Limits, exposure: bool, goal: Floats, flags: Ints
) -> None:
    """The proposal after R5, R3, R2 and R1, and the rules that touched it."""
    count = 0
    for n in range(len(goal)):
        goal[n] = 0.0
        flags[n] = 0
        if rank[n] <= 0 or not np.isfinite(score[n]):
            flags[n] = MISSING
        elif rank[n] > limits.top_k or (abs(score[n]) if exposure else score[n]) < limits.floor:
            flags[n] = R5
        elif _DUST <= abs(proposed[n]) < np.inf:
            goal[n] = proposed[n]
            count += 1
    if count > limits.positions:
        for n in _worst(goal != 0, goal, rank, count - limits.positions):
            goal[n] = 0.0
            flags[n] |= R3
    gross = 0.0
    for n in range(len(goal)):
        if abs(goal[n]) > limits.weight * (1 + _DUST):
            flags[n] |= R2
        goal[n] = min(max(goal[n], -limits.weight), limits.weight)
        gross += abs(goal[n])
    if gross > limits.gross * (1 + _DUST):
        for n in range(len(goal)):
            if goal[n] != 0:
                goal[n] *= limits.gross / gross
                flags[n] |= R1


@_compiled
def _one_way(new: Floats, last: Floats) -> float:
    total = 0.0
    for n in range(len(new)):
        total += abs(new[n] - last[n])
    return total / 2


@_compiled
def _required_sells_row(goal: Floats, rank: Ints, limits: Limits, held: Floats, flags: Ints) -> None:
    """The least sells that bring `held` within R3, R2 and R1.

    They all lead towards `goal`, which is within the rules: it holds no name beyond the number of positions, no weight
    above the clip, and its gross is below the cap, so the names that it reduces have enough to give.
    """
    surplus = np.count_nonzero(held) - limits.positions
    if surplus > 0:
        for n in _worst(held != 0, goal, rank, surplus):
            held[n] = 0.0
            flags[n] |= R3
    excess = -limits.gross
    for n in range(len(held)):
        if abs(held[n]) > limits.weight * (1 + _DUST):
            held[n] = np.copysign(limits.weight, held[n])
            flags[n] |= R2
        excess += abs(held[n])
    if excess <= limits.gross * _DUST:
        return
    given = np.empty(len(held))
    for n in range(len(held)):
        kept = abs(goal[n]) if (goal[n] > 0) == (held[n] > 0) else 0.0
        given[n] = max(abs(held[n]) - kept, 0.0)
    share = min(1.0, excess / given.sum())
    for n in range(len(held)):
        if given[n] > 0:
            held[n] -= np.copysign(given[n] * share, held[n])
            flags[n] |= R1


@_compiled
def _approve_row(goal: Floats, rank: Ints, listed: Bools, limits: Limits, held: Floats, flags: Ints) -> None:
    """Take `held`, the weights before the date, as far towards `goal` as R4 allows."""
    for n in range(len(held)):
        if held[n] != 0 and not listed[n]:
            held[n] = 0.0
            flags[n] |= UNLISTED
    cap = limits.turnover
    if _one_way(goal, held) <= cap * (1 + _DUST):
        for n in range(len(held)):
            held[n] = goal[n]
        return
    _required_sells_row(goal, rank, limits, held, flags)
    whole = _one_way(goal, held)
    if whole <= cap * (1 + _DUST):
        for n in range(len(held)):
            held[n] = goal[n]
        return

    entering = (held == 0) & (goal != 0)
    waiting = np.count_nonzero(entering) - (limits.positions - np.count_nonzero(held))
    reachable = goal.copy()
    if waiting > 0:
        for n in _worst(entering, goal, rank, waiting):
            reachable[n] = 0.0
    first = _one_way(reachable, held)
    for n in range(len(held)):
        if first > cap:
            held[n] += (reachable[n] - held[n]) * (cap / first)
        else:
            held[n] = reachable[n] + (goal[n] - reachable[n]) * ((cap - first) / (whole - first))
        if abs(held[n]) < _DUST:
            held[n] = 0.0
        if held[n] != goal[n]:
            flags[n] |= R4


@_compiled
def supervise(
    score: Floats, rank: Ints, proposed: Floats, last: Floats, listed: Bools, limits: Limits, exposure: bool
) -> tuple[Floats, Floats, Ints, Floats]:
    """Goal, approved weight, flags and weight before the date, each (dates, symbols), of consecutive dates.

    Args:
        last: (symbols,) held before the first date.
        listed: (dates, symbols).
    """
    goal = np.empty(score.shape)
    weight = np.empty(score.shape)
    flags = np.empty(score.shape, np.int64)
    before = np.empty(score.shape)
    held = last.copy()
    for date in range(len(score)):
        before[date] = held
        _goal_row(score[date], rank[date], proposed[date], limits, exposure, goal[date], flags[date])
        _approve_row(goal[date], rank[date], listed[date], limits, held, flags[date])
        weight[date] = held
    return goal, weight, flags, before


@_compiled
def weigh(
    score: Floats,
    listed: Bools,
    basis: Floats,
    method: int,
    exposure: bool,
    limits: Limits,
    min_cross_section: float,
    weight: Floats,
    carried: Floats | None = None,
) -> None:
    """`propose` and `supervise`, for their weights alone.

    Args:
        score, listed: (dates, symbols); the score of a symbol that is not listed counts for nothing.
        basis: as for `propose`.
        min_cross_section: share of the listed symbols that must have a score; a date with fewer changes nothing.
        weight: (dates, symbols), written; NaN on the dates that change nothing.
        carried: (symbols,) weights before the first date, overwritten by those after the last; None: cash.
    """
    count = score.shape[1]
    held = np.zeros(count) if carried is None else carried
    values, shares, present = np.empty(count), np.empty(count), np.empty(count, np.bool_)
    proposed, goal = np.empty(count), np.empty(count)
    rank, flags = np.empty(count, np.int64), np.empty(count, np.int64)
    any_order_will_do = count <= min(limits.top_k, limits.positions)
    for date in range(len(score)):
        wanted = scored = 0
        for n in range(count):
            wanted += listed[date, n]
            scored += listed[date, n] and np.isfinite(score[date, n])
        if wanted == 0 or scored < min_cross_section * wanted - 1e-9:
            for n in range(count):
                weight[date, n] = np.nan
            continue
        if any_order_will_do and exposure and method == EQUAL:
            # what the general way comes to where no rule but R2 and R5 binds
            share = 1.0 / scored
            gross = way = 0.0
            for n in range(count):
                value = score[date, n]
                start = held[n] if listed[date, n] else 0.0
                aim = min(max(share * value, -limits.weight), limits.weight)
                if not (listed[date, n] and limits.floor <= abs(value) < np.inf and abs(share * value) >= _DUST):
                    aim = 0.0
                gross += abs(aim)
                way += abs(aim - start)
                weight[date, n] = aim
            if gross <= limits.gross * (1 + _DUST) and way / 2 <= limits.turnover * (1 + _DUST):
                for n in range(count):
                    held[n] = weight[date, n]
                continue
        for n in range(count):
            present[n] = listed[date, n]
            has = present[n] and np.isfinite(score[date, n])
            values[n] = score[date, n] if has else np.nan
            shares[n] = basis[date, n]
            rank[n] = n + 1 if has else 0
        if not any_order_will_do:
            _rank_row(values, exposure, rank)
        _propose_row(values, rank, shares, method, exposure, limits.top_k, proposed)
        _goal_row(values, rank, proposed, limits, exposure, goal, flags)
        _approve_row(goal, rank, present, limits, held, flags)
        for n in range(count):
            weight[date, n] = held[n]
