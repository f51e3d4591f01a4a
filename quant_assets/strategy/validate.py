"""A strategy's side of its validation: the candidates it was picked from, and what was measured as rows of tables."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from datetime import date
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from quant_assets.core.errors import QuantError
from quant_assets.core.settings import Settings
from quant_assets.strategy import sweep
from quant_assets.strategy.ledger import configuration
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.universe import Bounds
from quant_assets.validation.assessment import Assessment
from quant_assets.validation.doctor import Finding
from quant_assets.validation.verdict import Thresholds

Floats = NDArray[np.float64]

_BINS = 40
"""Of the histogram of logits that is kept."""

_HEAD_START = 20.0
"""Seconds in threads before workers are started: somebody waits for the verdict, and most sweeps are done by then."""


@dataclass(frozen=True)
class Candidates:
    """The strategy as it was run (row 0) and every other cell of its sweep."""

    changes: tuple[Mapping[str, Any], ...]
    """Per row what the cell changes: dotted field -> value; nothing in row 0, unless it is a cell itself."""
    specs: tuple[StrategySpec, ...]
    returns: Floats
    """(rows, sessions); 0 once nothing was left."""
    sharpes: Floats
    """(rows,), annualised; NaN where undefined."""


def usable_cells(
    spec: StrategySpec,
    bars: pl.DataFrame,
    sessions: Sequence[date],
    bounds: Mapping[str, Bounds],
    settings: Settings,
) -> tuple[tuple[sweep.Cell, ...], str]:
    """The cells of the strategy's sweep; none, and why, where they cannot be backtested over these sessions.

    Args:
        bars: adjusted, of the window and before.
        sessions: the window's.
    """
    if spec.sweep is None:
        return (), ""
    try:
        cells = sweep.cells_of(spec, settings.sweep_max_cells).cells
        sweep.refuse_unusable(spec, cells, bars, sessions, bounds, settings)
    except QuantError as error:
        return (), str(error)
    return cells, ""


def candidates(
    spec: StrategySpec,
    cells: Sequence[sweep.Cell],
    written: Floats,
    sharpe: float | None,
    evaluator: sweep.Evaluates,
    bounds: Mapping[str, Bounds],
    settings: Settings,
    report: Callable[[str], None],
) -> Candidates:
    """Backtest the cells of the strategy's sweep over the window of its own backtest.

    Args:
        cells: one that is the strategy itself is not evaluated again.
        written: (sessions,) returns of the backtest, whose Sharpe ratio is `sharpe`.
        bounds: the symbols that the strategy may hold.
    """
    own = configuration(spec, bounds)
    same = [cell for cell in cells if configuration(cell.spec, bounds) == own]
    others = [cell for cell in cells if cell not in same]
    returns = [np.nan_to_num(written, nan=0.0)[None]]
    sharpes = [np.array([np.nan if sharpe is None else sharpe])]

    def keep(done: sweep.Done) -> None:
        returns.append(np.nan_to_num(done.returns.astype(np.float64), nan=0.0))
        sharpes.append(done.summary["sharpe"].fill_null(float("nan")).to_numpy())

    if others:
        sweep.run(others, evaluator, len(written), settings, keep, report, head_start=_HEAD_START)
    return Candidates(
        (same[0].changes if same else {}, *(cell.changes for cell in others)),
        (spec, *(cell.spec for cell in others)),
        np.concatenate(returns),
        np.concatenate(sharpes),
    )


def thresholds(settings: Settings) -> Thresholds:
    """Those of the settings."""
    return Thresholds(
        degradation=settings.validation_degradation,
        wfa_sharpe=settings.validation_wfa_sharpe,
        wfa_consistency=settings.validation_wfa_consistency,
        pbo=settings.validation_pbo,
        deflated_sharpe=settings.validation_deflated_sharpe,
        deflated_probability=settings.validation_deflated_probability,
    )


def measured(assessment: Assessment, changes: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Every measure: method, measure, value, verdict, threshold, details; the judged ones first, the verdict last.

    Args:
        changes: `Candidates.changes`, to name the configurations that were chosen.
    """
    details = _details(assessment, changes)
    rows: list[tuple[str, str, float | None, str | None, str | None, dict[str, Any]]] = [
        (one.method, one.measure, one.value, one.verdict, one.threshold, {"note": one.note} if one.note else {})
        for one in assessment.rows
    ]
    judged = {(method, measure) for method, measure, *_ in rows}
    rows += [
        (method, measure, value, None, None, {})
        for method, values in _values(assessment).items()
        for measure, value in values.items()
        if (method, measure) not in judged
    ]
    if assessment.verdict is not None:
        rows.append(("verdict", "overall", None, assessment.verdict, None, {}))
    seen: set[str] = set()
    frame = []
    for method, measure, value, verdict, threshold, own in rows:
        told = own if method in seen else {**details.get(method, {}), **own}
        seen.add(method)
        frame.append((method, measure, _finite(value), verdict, threshold, _json(told)))
    names = ["method", "measure", "value", "verdict", "threshold", "details"]
    kinds = {name: pl.Float64 if name == "value" else pl.String for name in names}
    return pl.DataFrame(frame, schema=kinds, orient="row")


def curves(assessment: Assessment, days: Sequence[date]) -> pl.DataFrame:
    """Returns out of sample: curve, ts, ret."""
    frames = []
    if assessment.walk is not None:
        frames.append(_curve("walk_forward", assessment.walk.days.tolist(), assessment.walk.returns))
    for number, path in enumerate(assessment.combinatorial.returns if assessment.combinatorial else (), start=1):
        frames.append(_curve(f"path_{number}", days, path))
    empty = pl.DataFrame(schema={"curve": pl.String, "ts": pl.Date, "ret": pl.Float64})
    return pl.concat([empty, *frames])


def reviewed(findings: Sequence[Finding]) -> pl.DataFrame:
    """The doctor's findings: finding_no, finding, severity, evidence, remedy, value, details."""
    texts = ("finding", "severity", "evidence", "remedy")
    return pl.DataFrame(
        [
            (number, one.name, one.severity, one.evidence, one.remedy, one.value, _json(one.details))
            for number, one in enumerate(findings)
        ],
        schema={"finding_no": pl.Int64, **dict.fromkeys(texts, pl.String), "value": pl.Float64, "details": pl.String},
        orient="row",
    )


def _curve(name: str, days: Sequence[date], returns: Floats) -> pl.DataFrame:
    return pl.DataFrame({"curve": name, "ts": pl.Series(days, dtype=pl.Date), "ret": returns})


def _values(assessment: Assessment) -> dict[str, dict[str, float]]:
    """Measures by method, judged or not."""
    found: dict[str, dict[str, float]] = {}
    if (split := assessment.in_out) is not None:
        found["is_oos"] = {
            "degradation": split.degradation,
            "is_sharpe": split.is_sharpe,
            "oos_sharpe": split.oos_sharpe,
            "oos_return": split.oos_return,
            "written_is_sharpe": split.written_is_sharpe,
            "written_oos_sharpe": split.written_oos_sharpe,
            "written_oos_return": split.written_oos_return,
        }
    if (walk := assessment.walk) is not None:
        found["wfa"] = {
            "sharpe": walk.sharpe,
            "consistency": walk.consistency,
            "is_sharpe": walk.is_sharpe,
            "efficiency": walk.efficiency,
            "windows": len(walk.windows),
        }
    if (paths := assessment.combinatorial) is not None:
        found["cpcv"] = {
            "median_sharpe": float(np.median(paths.sharpes)),
            "lowest_sharpe": float(np.min(paths.sharpes)),
            "highest_sharpe": float(np.max(paths.sharpes)),
            "loss_share": paths.loss_share,
            "paths": len(paths.sharpes),
        }
    if (over := assessment.overfitting) is not None:
        found["pbo"] = {
            "pbo": over.pbo,
            "slope": over.slope,
            "intercept": over.intercept,
            "r_squared": over.r_squared,
            "loss_probability": over.loss_probability,
            "configurations": over.configurations,
        }
    if (best := assessment.deflated) is not None:
        names = [one.name for one in fields(best) if one.name not in ("interval", "ratio", "probability")]
        found["dsr"] = {"deflated_sharpe": best.ratio, "deflated_probability": best.probability}
        found["dsr"] |= {name: getattr(best, name) for name in names}
        if best.interval is not None:
            found["dsr"] |= {"interval_low": best.interval.low, "interval_high": best.interval.high}
    return found


def _details(assessment: Assessment, changes: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """By method what is no single number."""
    found: dict[str, dict[str, Any]] = {"verdict": {"missing": assessment.missing}}
    if (split := assessment.in_out) is not None:
        found["is_oos"] = {"split": split.split, "chosen": changes[split.chosen], "profitable": split.profitable}
    if (walk := assessment.walk) is not None:
        found["wfa"] = {"windows": [{**asdict(one), "chosen": changes[one.chosen]} for one in walk.windows]}
    if (paths := assessment.combinatorial) is not None:
        found["cpcv"] = {"sharpes": paths.sharpes.tolist(), "retrained": paths.chosen is None}
    if (over := assessment.overfitting) is not None:
        counts, edges = np.histogram(over.logits, bins=_BINS)
        found["pbo"] = {"logits": {"counts": counts.tolist(), "edges": edges.tolist()}, "blocks": over.blocks}
    if (best := assessment.deflated) is not None and best.interval is not None:
        found["dsr"] = {"interval": asdict(best.interval)}
    return found


def _json(told: Mapping[str, Any]) -> str:
    return json.dumps(_plain(told), sort_keys=True)


def _plain(value: Any) -> Any:
    """For JSON: what is undefined is null, dates are text."""
    if isinstance(value, Mapping):
        return {str(name): _plain(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return _finite(value) if isinstance(value, float) else str(value) if isinstance(value, date) else value


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else float(value)
