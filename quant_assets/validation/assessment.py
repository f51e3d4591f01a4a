"""The whole validation of a strategy from returns alone: every method, the judged rows, the verdict."""

import math
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from quant_assets.core.errors import DataError
from quant_assets.validation import cpcv
from quant_assets.validation.cpcv import Combinatorial
from quant_assets.validation.out_of_sample import InOutSample, WalkForward, in_out_of_sample, walk_forward
from quant_assets.validation.pbo import Overfitting, backtest_overfitting
from quant_assets.validation.plan import ValidationPlan
from quant_assets.validation.sharpe import Deflated, bootstrap, deflated, effective_trials
from quant_assets.validation.verdict import Judgement, Limits, Row, Thresholds, judged, overall

Floats = NDArray[np.float64]
Days = NDArray[np.datetime64]
Method = Literal["is_oos", "wfa", "cpcv", "pbo", "dsr"]
METHODS: tuple[Method, ...] = ("is_oos", "wfa", "cpcv", "pbo", "dsr")

_NOTHING_CHOSEN = (
    "PBO: one configuration was ever tried, so that nothing was selected; a sweep gives it some to choose from"
)
_NO_RISK = "undefined: the returns do not vary"
_Found = TypeVar("_Found")


@dataclass(frozen=True)
class Trials:
    """What the ledger knows of the strategy's family. `returns` are those of the same sessions as the strategy's."""

    count: int
    """Configurations ever tried, the strategy's own included."""
    sharpes: Floats
    """(known trials,), annualised; one per configuration."""
    returns: Floats
    """(trials of the same window, sessions), the strategy's own included."""


@dataclass(frozen=True)
class Assessment:
    """What each method found (None where it was not asked for or could not be done: `missing` says why)."""

    in_out: InOutSample | None
    walk: WalkForward | None
    combinatorial: Combinatorial | None
    overfitting: Overfitting | None
    deflated: Deflated | None
    rows: tuple[Row, ...]
    """The verdict table's rows of the methods asked for, in its order; the verdict of one in `missing` is None."""
    verdict: Judgement | None
    """Over all rows; None unless all methods were asked for."""
    missing: dict[str, str] = field(default_factory=dict)


def assess(
    returns: Floats,
    days: Days,
    year: int,
    trials: Trials,
    plan: ValidationPlan | None = None,
    thresholds: Thresholds | None = None,
    methods: Collection[Method] = METHODS,
    combinatorial: Callable[[], Combinatorial] | None = None,
    progress: Callable[[str], None] | None = None,
) -> Assessment:
    """Validate row 0 of `returns`.

    IS/OOS, walk-forward and CPCV choose from `returns`; so does PBO, or from the trials' returns where there is but one
    configuration. The deflated Sharpe ratio is that of row 0 against all trials, judged by their true number; in the
    effective one, a trial whose returns are not known counts as one. What a period is too short for, or there are too
    few configurations for, is missing from the result.

    Args:
        returns: (configurations, sessions): the strategy as its file has it, then the cells of its sweep, if any.
        days: (sessions,)
        year: sessions per year.
        plan: none: the default lengths and counts.
        thresholds: none: the default limits.
        combinatorial: CPCV by retraining, for strategies whose models are trained; else the matrix is used.
        progress: told what begins.
    """
    plan = plan or ValidationPlan()
    choices = returns if len(returns) > 1 else trials.returns
    missing: dict[str, str] = {}

    def found(method: Method, what: str, find: Callable[[], _Found]) -> _Found | None:
        if method not in methods:
            return None
        if progress:
            progress(what)
        try:
            return find()
        except DataError as error:
            missing[method] = str(error)
            return None

    def overfitting() -> Overfitting:
        if trials.count == 1 and len(choices) < 2:
            raise DataError(_NOTHING_CHOSEN)
        return backtest_overfitting(choices, year, plan.blocks)

    def against_trials() -> Deflated:
        written, known = returns[0], trials.returns if len(trials.returns) else returns
        effective = effective_trials(known) + max(trials.count - len(known), 0)
        interval = bootstrap(written, year, plan.resamples, plan.seed)
        return deflated(written, year, trials.sharpes, trials.count, effective, interval)

    many = f"{len(returns)} configurations"
    split = found("is_oos", f"IS/OOS of {many}", lambda: in_out_of_sample(returns, days, plan, year))
    walk = found("wfa", f"walk-forward of {many}", lambda: walk_forward(returns, days, plan, year))
    paths = found(
        "cpcv",
        "CPCV, models retrained" if combinatorial else f"CPCV of {many}",
        combinatorial or (lambda: cpcv.combinatorial(returns, plan, year)),
    )
    overfit = found("pbo", f"PBO of {len(choices)} configurations", overfitting)
    best = found("dsr", f"deflated Sharpe ratio against {trials.count} trials", against_trials)

    limits = thresholds or Thresholds()
    loss, why = _degradation(split)
    measures: tuple[tuple[Method, str, float, Limits, str], ...] = (
        ("is_oos", "degradation", loss, limits.degradation, why),
        ("wfa", "sharpe", walk.sharpe if walk else math.nan, limits.wfa_sharpe, _NO_RISK),
        ("wfa", "consistency", walk.consistency if walk else math.nan, limits.wfa_consistency, _NO_RISK),
        ("pbo", "pbo", overfit.pbo if overfit else math.nan, limits.pbo, _NO_RISK),
        ("dsr", "deflated_sharpe", best.ratio if best else math.nan, limits.deflated_sharpe, _NO_RISK),
        ("dsr", "deflated_probability", best.probability if best else math.nan, limits.deflated_probability, _NO_RISK),
    )
    rows = tuple(
        judged(method, measure, value, own, "" if math.isfinite(value) else missing.get(method, note))
        for method, measure, value, own, note in measures
        if method in methods
    )
    whole = set(METHODS) <= set(methods) and any(row.verdict for row in rows)
    verdict = overall(rows) if whole else None
    return Assessment(split, walk, paths, overfit, best, rows, verdict, missing)


def _degradation(split: InOutSample | None) -> tuple[float, str]:
    """The value to judge, infinite where there was nothing to keep, and why it is no number."""
    if split is not None and split.is_sharpe <= 0:
        return math.inf, f"the Sharpe ratio in sample is {split.is_sharpe:.2f}, not above 0: there is nothing to keep"
    return (split.degradation if split else math.nan), _NO_RISK
