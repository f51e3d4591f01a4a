"""The supervisor: five rules between what a strategy proposes and what it may hold.

    R5  drops candidates below the score floor or beyond top_k
    R3  keeps the best `max_positions`
    R2  clips each weight
    R1  scales all down to the gross cap
    R4  limits turnover, half the sum of |new - last|

R5 to R1 make the *goal* of a date out of its proposal alone; R4 goes from the last
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

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from quant_assets.core.errors import DataError
from quant_assets.portfolio.weighting import array

if TYPE_CHECKING:
    from quant_assets.portfolio.kernel import Limits

Floats = NDArray[np.float64]
Bits = NDArray[np.int64]

R1, R2, R3, R4, R5, MISSING, UNLISTED = (1 << n for n in range(7))
_FLAGS = {R1: "R1", R2: "R2", R3: "R3", R4: "R4", R5: "R5", MISSING: "missing", UNLISTED: "unlisted"}


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
    top_k: int | None,
    listed: NDArray[np.bool_] | None = None,
    *,
    exposure: bool = False,
) -> Supervised:
    """Apply the rules to consecutive rebalance dates, each starting from the weights that the one before it left.

    Args:
        score, rank, proposed: (dates, symbols), as `weighting.propose` takes and gives them. Columns sorted by symbol.
        last: (symbols,) weights held before the first date.
        top_k: the rank beyond which R5 drops; None: no such gate.
        listed: (dates, symbols); a position in a symbol that is not listed is closed before any rule, uncounted.
        exposure: the scores are exposures: R5 compares their size with the floor.

    Raises:
        DataError: a last weight that is not finite.
    """
    from quant_assets.portfolio import kernel

    if not np.isfinite(last).all():
        raise DataError("a last weight is not finite; the targets it was read from are damaged: compute them again")
    listed = np.ones(score.shape, np.bool_) if listed is None else listed
    return Supervised(
        *kernel.supervise(
            array(score),
            array(rank, np.int64),
            array(proposed),
            array(last),
            array(listed, np.bool_),
            limits(rules, top_k, score.shape[1]),
            exposure,
        )
    )


def limits(rules: SupervisorRules, top_k: int | None, symbols: int) -> "Limits":
    """`rules` and `top_k` as the kernel takes them, for so many symbols."""
    from quant_assets.portfolio.kernel import Limits

    return Limits(
        rules.gross_exposure_cap,
        rules.max_weight_per_symbol,
        rules.max_positions,
        math.inf if rules.turnover_cap is None else rules.turnover_cap,
        -math.inf if rules.score_floor is None else rules.score_floor,
        symbols if top_k is None else top_k,
    )


def decisions(
    symbols: Sequence[str],
    score: Floats,
    rank: NDArray[np.int64],
    supervised: Supervised,
    rules: SupervisorRules,
    top_k: int | None,
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
    flags: Bits, rank: Bits, goal: Floats, before: Floats, weight: Floats, rules: SupervisorRules, top_k: int | None
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
    flags: int, rank: int, goal: float, before: float, weight: float, rules: SupervisorRules, top_k: int | None
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
        beyond = top_k is not None and rank > top_k
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
    supervised = supervise_dates(score, rank, proposed, weights, rules, top_k)
    return decisions(symbols, score, rank, supervised, rules, top_k, np.ones(score.shape, np.bool_)).drop("date")
