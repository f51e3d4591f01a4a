"""The verdict: which measures of a validation pass, and what they say together."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from quant_assets.core.errors import ConfigError

Judgement = Literal["pass", "caution", "fail"]
Limits = tuple[float, float]

ROWS = 6
"""Of the verdict table."""

RULE = (
    "Together they fail where the deflated probability fails, or where the deflated ratio fails and PBO does not pass. "
    "They pass where the deflated probability and PBO pass, neither the deflated ratio nor the degradation fails, and "
    "all rows could be judged. All else asks for caution."
)
"""What `overall` does, for reports."""

_LOWER_IS_BETTER = ("degradation", "pbo")
_LIMIT_PASSES = ("deflated_probability",)


@dataclass(frozen=True)
class Thresholds:
    """Per measure where `pass` ends and `fail` begins; between them, both included, is `caution`.

    A probability passes at its limit, as it is read in the literature: 0.95 or more.
    """

    degradation: Limits = (0.30, 0.50)
    wfa_sharpe: Limits = (1.0, 0.5)
    wfa_consistency: Limits = (0.70, 0.50)
    pbo: Limits = (0.30, 0.50)
    deflated_sharpe: Limits = (1.0, 0.5)
    deflated_probability: Limits = (0.95, 0.80)

    def __post_init__(self) -> None:
        for name, (best, worst) in vars(self).items():
            better, ordered = ("less", best <= worst) if name in _LOWER_IS_BETTER else ("more", best >= worst)
            if not ordered:
                raise ConfigError(
                    f"{name} passes from {best:g} and fails from {worst:g}, {better} is better: swap them"
                )


@dataclass(frozen=True)
class Row:
    """One judged measure."""

    method: str
    """is_oos | wfa | pbo | dsr"""
    measure: str
    """degradation | sharpe | consistency | pbo | deflated_sharpe | deflated_probability"""
    value: float | None
    """None where undefined; `note` says why."""
    verdict: Judgement | None
    """None where it could not be judged."""
    threshold: str
    """The limits in words: `pass < 0.3, fail > 0.5`."""
    note: str = ""


def judged(method: str, measure: str, value: float, limits: Limits, note: str = "") -> Row:
    """A row of the verdict table.

    Args:
        value: NaN where it could not be measured; infinite where it is undefined and worse than any limit.
        limits: where `pass` ends and `fail` begins.
        note: why the value is undefined.

    Example:
        >>> [judged("pbo", "pbo", value, (0.3, 0.5)).verdict for value in (0.29, 0.3, 0.5, 0.51, math.nan)]
        ['pass', 'caution', 'caution', 'fail', None]
    """
    best, worst = limits
    below = measure in _LOWER_IS_BETTER
    reached = measure in _LIMIT_PASSES and value == best
    verdict: Judgement | None
    if math.isnan(value):
        verdict = None
    elif reached or (value < best if below else value > best):
        verdict = "pass"
    else:
        verdict = "fail" if (value > worst if below else value < worst) else "caution"
    better, worse = ("<", ">") if below else (">=" if measure in _LIMIT_PASSES else ">", "<")
    threshold = f"pass {better} {best:g}, fail {worse} {worst:g}"
    return Row(method, measure, value if math.isfinite(value) else None, verdict, threshold, note)


def overall(rows: Sequence[Row]) -> Judgement:
    """What the rows say together.

    fail: the deflated probability fails, or the deflated Sharpe ratio fails and PBO does not pass.
    pass: the deflated probability and PBO pass, neither the deflated ratio nor the degradation out of sample fails, and
    all six rows could be judged.
    caution: all else.

    A row that could not be judged, or is not there, does not pass and does not fail. The two of the walk-forward have
    no say beyond that: docs/decisions/0012-verdict.md has the study by which the rule was chosen.

    Example: a deflated probability of 0.9 is a caution; with a deflated ratio of 0.4 and a PBO of 0.35 all of it fails.
    """
    verdicts = {row.measure: row.verdict for row in rows if row.verdict is not None}
    probability, ratio, overfitting, degradation = (
        verdicts.get(name) for name in ("deflated_probability", "deflated_sharpe", "pbo", "degradation")
    )
    if probability == "fail" or (ratio == "fail" and overfitting != "pass"):
        return "fail"
    trusted = probability == overfitting == "pass" and "fail" not in (ratio, degradation)
    return "pass" if trusted and len(verdicts) == ROWS else "caution"
