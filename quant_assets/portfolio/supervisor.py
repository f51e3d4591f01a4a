"""The supervisor: five rules between what a strategy proposes and what it may hold.

    R5  drops candidates below the score floor or beyond top_k
    R3  keeps the best `max_positions`
    R2  clips each weight
    R1  scales all down to the gross cap
    R4  limits turnover, half the sum of |new - last|

R5 to R1 make the *goal* of a date out of its proposal alone, so all dates are done at once; R4 goes from the last
approved weights towards the goal, date by date, in three moves, none of which overshoots:

1. Sells without which the last weights would break R3, R2 or R1 (somebody tightened the rules) are made in full and not
   counted: names beyond `max_positions` are sold, weights clipped, and what is then left above the gross cap is taken
   from the names that the goal reduces anyway.
2. If the rest of the way fits into `turnover_cap`, the goal is reached. If not, every buy and sell is scaled alike.
   Names on their way out still fill their slots then, so of the new names only the best enter, as many as slots are
   free.
3. If move 2 without those left outside fits, the exits are complete, slots are free, and what remains of the cap
   buys those that were left outside, scaled alike.

Each weight therefore ends between its last value and its goal, and the caps hold because they hold at both ends.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from quant_assets.core.errors import DataError

Floats = NDArray[np.float64]
Bits = NDArray[np.int64]

R1, R2, R3, R4, R5, MISSING, UNLISTED = (1 << n for n in range(7))
_FLAGS = {R1: "R1", R2: "R2", R3: "R3", R4: "R4", R5: "R5", MISSING: "missing", UNLISTED: "unlisted"}
_DUST = 1e-12
"""A weight that is smaller counts as none."""


class SupervisorRules(BaseModel):
    """The limits, as shares of equity."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    gross_exposure_cap: float = Field(default=1.0, gt=0, le=10, description="R1: sum of absolute weights")
    max_weight_per_symbol: float = Field(default=0.15, gt=0, le=10, description="R2: absolute weight of one symbol")
    max_positions: int = Field(default=10, ge=1, description="R3: number of symbols held")
    turnover_cap: float | None = Field(
        default=0.30, ge=0, description="R4: one-way turnover of one rebalance; none: unlimited"
    )
    score_floor: float | None = Field(default=None, description="R5: a lower score is dropped; none: top_k is the gate")


@dataclass(frozen=True, slots=True)
class Supervised:
    """Of shape (dates, symbols): weights after R5 to R1, after R4 too, and just before the date; bits of the flags."""

    goal: Floats
    weight: Floats
    flags: Bits
    before: Floats


def supervise_dates(
    score: Floats,
    rank: NDArray[np.int64],
    proposed: Floats,
    last: Floats,
    rules: SupervisorRules,
    top_k: int,
    listed: NDArray[np.bool_] | None = None,
) -> Supervised:
    """Apply the rules to consecutive rebalance dates, each starting from the weights that the one before it left.

    Args:
        score, rank, proposed: (dates, symbols), as `weighting.propose` takes and gives them. Columns sorted by symbol.
        last: (symbols,) weights held before the first date.
        listed: (dates, symbols); a position in a symbol that is not listed is closed before any rule, uncounted.

    Raises:
        DataError: a last weight that is not finite.
    """
    if not np.isfinite(last).all():
        raise DataError("a last weight is not finite; the targets it was read from are damaged: compute them again")
    listed = np.ones(score.shape, np.bool_) if listed is None else listed
    goal, flags = _goal(score, rank, proposed, rules, top_k)
    weight = np.empty(goal.shape)
    before = np.empty(goal.shape)
    held = last.astype(np.float64)
    for date in range(len(goal)):
        before[date] = held
        closed = ~listed[date] & (held != 0)
        if closed.any():
            flags[date, closed] |= UNLISTED
            held = np.where(closed, 0.0, held)
        if (held != 0).any() or (goal[date] != 0).any():
            held, touched = _limit_turnover(goal[date], held, rank[date], rules)
            flags[date] |= touched
        weight[date] = held
    return Supervised(goal, weight, flags, before)


def _goal(
    score: Floats, rank: NDArray[np.int64], proposed: Floats, rules: SupervisorRules, top_k: int
) -> tuple[Floats, Bits]:
    """Proposals after R5, R3, R2 and R1, and the rules that touched each."""
    scored = np.isfinite(score) & (rank > 0)
    flags = np.where(scored, 0, MISSING)
    dropped = scored & (rank > top_k)
    if rules.score_floor is not None:
        dropped |= scored & (score < rules.score_floor)
    flags[dropped] |= R5
    goal = np.where(scored & ~dropped & np.isfinite(proposed) & (np.abs(proposed) >= _DUST), proposed, 0.0)

    order = np.argsort(np.where(goal != 0, rank, np.iinfo(np.int64).max), axis=1, kind="stable")
    place = np.empty_like(order)
    np.put_along_axis(place, order, np.arange(goal.shape[1])[None, :], axis=1)
    beyond = (goal != 0) & (place >= rules.max_positions)
    flags[beyond] |= R3
    goal[beyond] = 0.0

    most = rules.max_weight_per_symbol
    flags[np.abs(goal) > most * (1 + _DUST)] |= R2
    goal = np.clip(goal, -most, most)

    gross = np.abs(goal).sum(axis=1, keepdims=True)
    over = gross > rules.gross_exposure_cap * (1 + _DUST)
    flags[over & (goal != 0)] |= R1
    np.multiply(goal, rules.gross_exposure_cap / np.where(over, gross, 1.0), out=goal, where=over)
    return goal, flags


def _limit_turnover(goal: Floats, last: Floats, rank: NDArray[np.int64], rules: SupervisorRules) -> tuple[Floats, Bits]:
    """One date's weights between `last` and `goal`, and the rules that touched each on the way."""
    flags = np.zeros(len(goal), np.int64)
    cap = rules.turnover_cap
    if cap is None or _one_way(goal, last) <= cap * (1 + _DUST):
        return goal, flags
    start = _required_sells(goal, last, rank, rules, flags)
    whole = _one_way(goal, start)
    if whole <= cap * (1 + _DUST):
        return goal, flags

    entering = np.flatnonzero((start == 0) & (goal != 0))
    free = rules.max_positions - np.count_nonzero(start)
    reachable = goal.copy()
    if len(entering) > free:
        reachable[entering[np.argsort(rank[entering], kind="stable")][free:]] = 0.0
    first = _one_way(reachable, start)
    if first > cap:
        weight = start + (reachable - start) * (cap / first)
    else:
        weight = reachable + (goal - reachable) * ((cap - first) / (whole - first))
    weight[np.abs(weight) < _DUST] = 0.0
    flags[weight != goal] |= R4
    return weight, flags


def _required_sells(goal: Floats, last: Floats, rank: NDArray[np.int64], rules: SupervisorRules, flags: Bits) -> Floats:
    """`last` after the least sells that bring it within R3, R2 and R1; marks in `flags` what they touch.

    They all lead towards `goal`, which is within the rules: it holds no name beyond `max_positions`, no weight above
    the clip, and its gross is below the cap, so the names that it reduces have enough to give.
    """
    start = last.copy()
    held = np.flatnonzero(start)
    surplus = len(held) - rules.max_positions
    if surplus > 0:
        # first to go: names without a goal, unranked before ranked, worst rank first, then the later name
        unranked = np.where(rank[held] > 0, rank[held], np.iinfo(np.int64).max)
        sold = held[np.lexsort((held, unranked, goal[held] == 0))[::-1]][:surplus]
        flags[sold] |= R3
        start[sold] = 0.0
    most = rules.max_weight_per_symbol
    heavy = np.abs(start) > most * (1 + _DUST)
    flags[heavy] |= R2
    start = np.where(heavy, np.copysign(most, start), start)
    excess = np.abs(start).sum() - rules.gross_exposure_cap
    if excess > rules.gross_exposure_cap * _DUST:
        same_side = np.sign(start) == np.sign(goal)
        given = np.maximum(np.abs(start) - np.where(same_side, np.abs(goal), 0.0), 0.0)
        flags[given > 0] |= R1
        start = start - np.copysign(given * min(1.0, excess / given.sum()), start)
    return start


def _one_way(new: Floats, last: Floats) -> float:
    with np.errstate(over="ignore"):
        return float(np.abs(new - last).sum() / 2)


def decisions(
    symbols: Sequence[str],
    score: Floats,
    rank: NDArray[np.int64],
    supervised: Supervised,
    rules: SupervisorRules,
    top_k: int,
    listed: NDArray[np.bool_],
) -> pl.DataFrame:
    """What the rules did as rows: every symbol that is listed on a date or was held before it.

    Returns:
        date (row number of the inputs), symbol, weight, score (null without a finite one), approved (weight is not 0),
        risk_flags (list of rule names), reason; sorted by (date, symbol).
    """
    shown = listed | (supervised.before != 0)
    date, column = np.nonzero(shown)
    weight, flags, scores = supervised.weight[shown], supervised.flags[shown], score[shown]
    bits, which = np.unique(flags, return_inverse=True)
    names = [[name for bit, name in _FLAGS.items() if value & bit] for value in bits.tolist()]
    return pl.DataFrame(
        {
            "date": date,
            "symbol": pl.Series(symbols, dtype=pl.String).gather(column),
            "weight": weight,
            "score": pl.Series(np.where(np.isfinite(scores), scores, np.nan)).fill_nan(None),
            "approved": weight != 0,
            "risk_flags": pl.Series(names, dtype=pl.List(pl.String)).gather(which),
            "reason": _reasons(
                flags, rank[shown], supervised.goal[shown], supervised.before[shown], weight, rules, top_k
            ),
        }
    )


def _reasons(
    flags: Bits, rank: Bits, goal: Floats, before: Floats, weight: Floats, rules: SupervisorRules, top_k: int
) -> pl.Series:
    """One line per row; rows that neither held nor hold anything share their texts."""
    idle = (goal == 0) & (before == 0)
    cases = flags * (int(rank.max(initial=0)) + 1) + rank
    _, example, which = np.unique(cases[idle], return_index=True, return_inverse=True)
    index = np.empty(len(flags), np.int64)
    index[idle] = which
    index[~idle] = np.arange(len(example), len(example) + np.count_nonzero(~idle))
    rows = np.append(np.flatnonzero(idle)[example], np.flatnonzero(~idle))
    columns = [column[rows].tolist() for column in (flags, rank, goal, before, weight)]
    texts = [_reason(f, r, g, b, w, rules, top_k) for f, r, g, b, w in zip(*columns, strict=True)]
    return pl.Series(texts, dtype=pl.String).gather(index)


def _reason(
    flags: int, rank: int, goal: float, before: float, weight: float, rules: SupervisorRules, top_k: int
) -> str:
    if goal:
        text = f"rank {rank}"
        if flags & R2:
            text += f", clipped to max_weight_per_symbol {rules.max_weight_per_symbol:g}"
        if flags & R1:
            text += f", scaled to gross_exposure_cap {rules.gross_exposure_cap:g}"
        if flags & R4:
            limited = "limited to" if weight else "left out by"
            text += f", {limited} turnover_cap {rules.turnover_cap:g} on the way from {before:.4f} to {goal:.4f}"
        return text
    if flags & UNLISTED:
        return f"not listed on this date; position of {before:.4f} closed"
    if flags & MISSING:
        text = "no score on this date"
    elif flags & R5:
        beyond = rank > top_k
        text = f"rank {rank} is beyond top_k {top_k}" if beyond else f"score is below score_floor {rules.score_floor:g}"
    elif flags & R3:
        text = f"rank {rank} is beyond max_positions {rules.max_positions}"
    else:
        text = f"rank {rank}, but the weighting gives it no weight"
    if not before:
        return text
    if not weight:
        return f"{text}; {before:.4f} sold"
    return f"{text}; only {before - weight:.4f} of {before:.4f} sold within turnover_cap {rules.turnover_cap:g}"


def supervise(
    candidates: pl.DataFrame, last: Mapping[str, float], rules: SupervisorRules, top_k: int | None = None
) -> pl.DataFrame:
    """Apply the rules to one date.

    Args:
        candidates: symbol, score, rank (1 is the best; null or 0: none) and weight (proposed), in any row order.
        last: symbol -> weight approved last. A symbol in it that is no candidate is sold, within R4.
        top_k: the rank beyond which R5 drops; None: no such gate.

    Returns:
        symbol, weight, score, approved, risk_flags, reason: a row for each candidate and each symbol held, by symbol.

    Raises:
        DataError: a symbol twice, or a last weight that is not finite.
    """
    held = [symbol for symbol, weight in last.items() if weight != 0]
    symbols = sorted({*candidates["symbol"], *held})
    if candidates["symbol"].n_unique() < candidates.height:
        raise DataError("candidates have a symbol more than once; pass one row per symbol")
    table = pl.DataFrame({"symbol": symbols}, schema={"symbol": pl.String}).join(
        candidates, on="symbol", how="left", maintain_order="left"
    )
    score, proposed = (
        table[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()[None, :] for name in ("score", "weight")
    )
    rank = table["rank"].cast(pl.Int64).fill_null(0).to_numpy()[None, :]
    weights = np.array([last.get(symbol, 0.0) for symbol in symbols], np.float64)
    gate = len(symbols) if top_k is None else top_k
    supervised = supervise_dates(score, rank, proposed, weights, rules, gate)
    return decisions(symbols, score, rank, supervised, rules, gate, np.ones(score.shape, np.bool_)).drop("date")
