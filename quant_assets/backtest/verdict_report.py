"""The report of a validation: one HTML file that needs nothing else, and first says whether to believe a backtest."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from quant_assets.backtest import metrics
from quant_assets.backtest import verdict_pictures as pictures
from quant_assets.backtest.report import shade
from quant_assets.backtest.sweep_pictures import label
from quant_assets.backtest.verdict_page import PAGE
from quant_assets.backtest.verdict_pictures import BEST, OWN, Parameters
from quant_assets.core import page
from quant_assets.core.drawing import Array
from quant_assets.core.files import write_whole
from quant_assets.core.page import NONE, cell
from quant_assets.validation.assessment import Assessment
from quant_assets.validation.doctor import Finding, Severity, ordered
from quant_assets.validation.verdict import RULE, Row

_CHOSEN, _WRITTEN = ("accent", "chosen without these days"), ("bench", "as written")
_MEASURES = {
    ("is_oos", "degradation"): "IS/OOS degradation",
    ("wfa", "sharpe"): "Walk-forward Sharpe ratio",
    ("wfa", "consistency"): "Walk-forward consistency",
    ("pbo", "pbo"): "Probability of overfitting (PBO)",
    ("dsr", "deflated_sharpe"): "Deflated Sharpe ratio",
    ("dsr", "deflated_probability"): "Deflated Sharpe probability",
}
_METHODS = {
    "is_oos": "IS/OOS",
    "wfa": "Walk-forward",
    "cpcv": "CPCV",
    "pbo": "PBO",
    "dsr": "Deflated Sharpe",
}
_IN_OUT = ("Sharpe in sample", "Sharpe out of sample", "Degradation", "Return out of sample")
_SEVERITIES: tuple[Severity, ...] = ("error", "warning", "note")
_METHOD = (
    "Sharpe ratios are annualised with {year} sessions per year and a risk-free rate of zero; returns are after costs. "
    "In sample, the configuration with the highest Sharpe ratio is chosen; out of sample are days that this choice has "
    "not seen. A walk-forward's joined curve takes the first days of each window, up to the start of the next. "
    "CPCV and the deflated Sharpe ratio: López de Prado, Advances in Financial Machine Learning (2018); Bailey and "
    "López de Prado, The Deflated Sharpe Ratio (2014). PBO: Bailey, Borwein, López de Prado and Zhu, The Probability "
    "of Backtest Overfitting (2017). All of them know only the trials that were recorded, and only this history. Past "
    "results say nothing certain about the future."
)


@dataclass(frozen=True)
class VerdictContext:
    """What the report says beside the assessment. All of it is shown as text, escaped."""

    run_id: str
    strategy_id: str
    version: str
    description: str
    strategy: Mapping[str, Any]
    """The strategy's file as a plain dict."""
    first: date
    last: date
    days: Array
    """(sessions,), datetime64"""
    returns: Array
    """(configurations, sessions): the strategy as its file has it, then the cells of its sweep, if any."""
    changes: Sequence[Mapping[str, Any]]
    """Of each row of `returns` what it changes: field -> value; nothing for row 0, unless it is a cell itself."""
    year: int
    """Sessions per year."""
    family: str
    """Of trials in the ledger."""
    timings: Mapping[str, float] | None = None
    """Step -> seconds."""
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Further lines of the lineage table."""

    def chosen(self, row: int) -> str:
        """A row of `returns` in words."""
        words = [f"{name.rpartition('.')[2]} {label(value)}" for name, value in self.changes[row].items()]
        return ", ".join(words if row else [*words, "as written"])

    def parameters(self) -> Parameters:
        """What the rows of `returns` vary."""
        sharpes = metrics.sharpes(self.returns, self.year)
        return pictures.parameters([self.changes[0] or self._own(), *self.changes[1:]], sharpes)

    def written_on(self, days: Array) -> Array:
        """The strategy's returns on some of the sessions."""
        return self.returns[0][np.isin(self.days.astype("datetime64[D]"), days.astype("datetime64[D]"))]

    def _own(self) -> Mapping[str, Any]:
        """The strategy's values of the fields that its sweep changes; none where its file leaves one to its default."""
        found = {}
        for name in self.changes[-1]:
            at: Any = self.strategy
            for part in name.split("."):
                if not isinstance(at, Mapping) or part not in at:
                    return {}
                at = at[part]
            found[name] = at
        return found


@dataclass(frozen=True)
class _Card:
    title: str
    legend: Sequence[tuple[str, str]]
    """Colour (a variable of `drawing.THEME`, or none) and text."""
    svg: str | None = None
    shape: Sequence[tuple[str, str]] = ()
    rows: Sequence[Sequence[Mapping[str, Any]]] = ()
    hint: str = ""


def write_verdict_report(
    path: Path, assessment: Assessment, findings: Sequence[Finding], context: VerdictContext
) -> Path:
    """Write the report to `path` (its folder is made), whole or not at all. Returns `path`."""
    return write_whole(path, render(assessment, findings, context))


def verdict_pngs(assessment: Assessment, context: VerdictContext) -> dict[str, bytes]:
    """The pictures of what was found, caption -> PNG."""
    title, found = f"{context.strategy_id} {context.version}", {}
    if assessment.walk is not None:
        written = context.written_on(assessment.walk.days)
        found["out-of-sample curve"] = pictures.walk_png(assessment.walk, written, f"{title}: walk-forward")
    if assessment.combinatorial is not None and np.isfinite(assessment.combinatorial.sharpes).any():
        found["path distribution"] = pictures.paths_png(
            assessment.combinatorial, f"{title}: Sharpe ratio of each CPCV path"
        )
    if assessment.overfitting is not None:
        found["logit histogram"] = pictures.logits_png(
            assessment.overfitting, f"{title}: PBO, logits of the rank out of sample"
        )
    varied = context.parameters()
    if varied.found:
        found["heat map of parameters"] = pictures.parameters_png(varied, f"{title}: Sharpe ratio over parameters")
    return found


def render(assessment: Assessment, findings: Sequence[Finding], context: VerdictContext) -> str:
    """The report as HTML. The same input gives the same text."""
    varied = context.parameters()
    counts = Counter(finding.severity for finding in findings)
    pairs = _combinatorial(assessment, context), _overfitting(assessment)
    return page.render(
        PAGE,
        title=context.strategy_id,
        version=context.version,
        description=context.description,
        first=context.first,
        last=context.last,
        sessions=f"{context.returns.shape[1]:,}",
        verdict=assessment.verdict,
        reason=_reason(assessment),
        judged_note=f"{_count(len(context.changes), 'configuration')}, the strategy's own among them",
        judged=_judged(assessment),
        rule=RULE if assessment.verdict else "",
        findings_note=", ".join(_count(counts[one], one) for one in _SEVERITIES if counts[one]),
        findings=[
            {
                "severity": one.severity,
                "name": one.name.replace("_", " ").capitalize(),
                "evidence": _sentence(one.evidence),
                "remedy": _sentence(one.remedy),
            }
            for one in ordered(findings)
        ],
        cards=[*_walk(assessment, varied, context), *_in_out(assessment, context)],
        pairs=[pair for pair in pairs if pair],
        map=_map(varied),
        deflated=_deflated(assessment, context),
        missing=[(_METHODS.get(name, name), why) for name, why in assessment.missing.items()],
        lineage=_lineage(context),
        spec=page.yaml_text(context.strategy),
        method=_METHOD.format(year=context.year),
    )


def _reason(assessment: Assessment) -> str:
    """Which rows decide, in one sentence."""
    rows, parts = assessment.rows, []
    for verdict, one, many in (
        ("fail", "fails", "fail"),
        ("caution", "asks for caution", "ask for caution"),
        (None, "could not be judged", "could not be judged"),
    ):
        names = [_name(row) for row in rows if row.verdict == verdict]
        if names:
            parts.append(f"{len(names)} of {len(rows)} rows {many if len(names) > 1 else one}: {', '.join(names)}")
    text = "; ".join(parts) or ("all rows pass" if rows else "no row was judged")
    if assessment.verdict is None:
        text = f"not judged as a whole, which needs every method; {text}"
    return _sentence(text)


def _judged(assessment: Assessment) -> list[dict[str, Any]]:
    said = _meanings(assessment)
    return [
        {
            "name": _name(row),
            "value": _value(row),
            "threshold": row.threshold,
            "verdict": row.verdict,
            "meaning": " ".join(filter(None, (said.get((row.method, row.measure), ""), _sentence(row.note)))),
        }
        for row in assessment.rows
    ]


def _meanings(assessment: Assessment) -> dict[tuple[str, str], str]:
    """(method, measure) -> what its value says."""
    found = {}
    if split := assessment.in_out:
        found["is_oos", "degradation"] = (
            f"A Sharpe ratio of {_ratio(split.is_sharpe)} in sample became {_ratio(split.oos_sharpe)} from "
            f"{split.split} on, with a total return of {_percent(split.oos_return)}."
        )
    if walk := assessment.walk:
        found["wfa", "sharpe"] = (
            f"Choosing anew in each window earned {_percent(float(np.prod(1 + walk.returns) - 1))} over "
            f"{len(walk.returns):,} sessions out of sample."
        )
        won = sum(window.oos_return > 0 for window in walk.windows)
        found["wfa", "consistency"] = f"{won} of {len(walk.windows)} windows made money out of sample."
    if (pbo := assessment.overfitting) is not None:
        found["pbo", "pbo"] = (
            f"In {_percent(pbo.pbo, 0)} of {len(pbo.logits):,} ways to halve the period, the best of one half was at "
            f"or below the median of the other."
        )
    if dsr := assessment.deflated:
        found["dsr", "deflated_sharpe"] = (
            f"{_ratio(dsr.sharpe)} observed, less {_ratio(dsr.expected_maximum)} that the best of {dsr.trials:,} "
            f"trials without skill would show."
        )
        found["dsr", "deflated_probability"] = "Probability that the true ratio is above what those trials would show."
    return found


def _walk(assessment: Assessment, varied: Parameters, context: VerdictContext) -> list[_Card]:
    from markupsafe import Markup

    walk = assessment.walk
    if walk is None:
        return []
    curve = _Card(
        "Out of sample, walking forward",
        [_CHOSEN, _WRITTEN, ("grid", "windows, every other one"), ("", "1 at the start, logarithmic")],
        Markup(pictures.walk_svg(walk, context.written_on(walk.days))),
        hint=(
            f"Sharpe ratio {_ratio(walk.sharpe)} out of sample against {_ratio(walk.is_sharpe)} in sample on average: "
            f"efficiency {_ratio(walk.efficiency)}. {_percent(walk.consistency, 0)} of {len(walk.windows)} windows "
            f"made money.{_nothing_to_choose(context)}"
        ),
    )
    shape = [("Chosen from", "left"), ("Applied on", "left"), ("Chosen", "left wide"), ("Sharpe in sample", "")]
    windows = _Card(
        "Windows",
        [("", "chosen on the days before those applied on, all of which count here")],
        shape=[*shape, ("Out of sample", ""), ("Return", "")],
        rows=[
            [
                cell(f"{window.train_first}"),
                cell(f"{window.test_first} to {window.test_last}"),
                cell(context.chosen(window.chosen)),
                cell(_ratio(window.is_sharpe)),
                cell(_ratio(window.oos_sharpe)),
                cell(_percent(window.oos_return), window.oos_return),
            ]
            for window in walk.windows
        ],
    )
    if not varied.found:
        return [curve, windows]
    picked = [window.chosen for window in walk.windows]
    changed = sum(one != other for one, other in pairwise(picked))
    drift = _Card(
        "Drift of the parameters",
        [("accent", "chosen in each window"), ("muted", "as written, dashed")],
        Markup(pictures.drift_svg(walk, varied.found)),
        hint=f"The choice changed {_count(changed, 'time')} in {len(picked)} windows and fell on {len(set(picked))} of "
        f"{len(context.changes):,} configurations.",
    )
    return [curve, drift, windows]


def _in_out(assessment: Assessment, context: VerdictContext) -> list[_Card]:
    from markupsafe import Markup

    split = assessment.in_out
    if split is None:
        return []
    lines = (
        ("chosen in sample", split.is_sharpe, split.oos_sharpe, split.degradation, split.oos_return),
        (
            "as written",
            split.written_is_sharpe,
            split.written_oos_sharpe,
            split.written_degradation,
            split.written_oos_return,
        ),
    )
    chosen, written = context.returns[split.chosen], context.returns[0]
    return [
        _Card(
            "In sample, out of sample",
            [("accent", "chosen in sample"), _WRITTEN, ("", f"out of sample from {split.split}, shaded")],
            Markup(pictures.in_out_svg(split, context.days, chosen, written)),
            shape=[("", "left"), *((name, "") for name in _IN_OUT)],
            rows=[
                [
                    cell(name),
                    cell(_ratio(inside)),
                    cell(_ratio(outside)),
                    cell(_percent(lost)),
                    cell(_percent(gained), _known(gained)),
                ]
                for name, inside, outside, lost, gained in lines
            ],
            hint=f"Chosen in sample: {context.chosen(split.chosen)}. What stands in the file may have been chosen on "
            "all of the period: only the first line is out of sample.",
        )
    ]


def _combinatorial(assessment: Assessment, context: VerdictContext) -> list[_Card]:
    from markupsafe import Markup

    found = assessment.combinatorial
    if found is None:
        return []
    tested, folds = found.splits.tested, len(found.splits.edges) - 1
    if found.chosen is None:
        how = "The models were trained anew in each split."
    else:
        counts = Counter(found.chosen.tolist())
        often, times = counts.most_common(1)[0]
        how = f"Chosen: {_count(len(counts), 'configuration')}, most often ({times} of {len(tested)}) "
        how += f"{context.chosen(often)}.{_nothing_to_choose(context)}"
    known = found.sharpes[np.isfinite(found.sharpes)]
    spread = f" Lowest {_ratio(known.min())}, mean {_ratio(known.mean())}." if len(known) else ""
    return [
        _Card(
            "CPCV: paths",
            [("accent", f"{len(found.sharpes):,} paths out of sample"), ("ink", "as written")],
            Markup(pictures.path_sharpes_svg(found) or ""),
            hint=f"{len(tested)} splits: {tested.shape[1]} of {folds} blocks out of sample at a time.{spread} "
            f"Not above 0: {_percent(found.loss_share, 0)} of the paths.",
        ),
        _Card(
            "CPCV: growth",
            [("accent", "along each path"), _WRITTEN],
            Markup(pictures.paths_svg(found, context.days, context.returns[0])),
            hint=how,
        ),
    ]


def _overfitting(assessment: Assessment) -> list[_Card]:
    from markupsafe import Markup

    found = assessment.overfitting
    if found is None:
        return []
    shown = min(len(found.logits), pictures.SCATTERED)
    return [
        _Card(
            "PBO: logits",
            [("loss", "at or below the median"), ("accent", "above it")],
            Markup(pictures.logits_svg(found)),
            hint=f"Rank out of sample of the best of {found.configurations:,} configurations in sample "
            f"({len(np.unique(found.chosen)):,} of them were ever that), in {len(found.logits):,} ways to halve "
            f"{found.blocks} blocks.",
        ),
        _Card(
            "PBO: out of sample over in sample",
            [("ink", "least squares")],
            Markup(pictures.degradation_svg(found)),
            hint=f"Slope {_ratio(found.slope)}, R\N{SUPERSCRIPT TWO} {_ratio(found.r_squared)}; the one chosen lost "
            f"money out of sample in {_percent(found.loss_probability, 0)}"
            + (f". {shown:,} of {len(found.logits):,} points are drawn." if shown < len(found.logits) else "."),
        ),
    ]


def _map(varied: Parameters) -> dict[str, Any] | None:
    if not varied.found:
        return None
    rows, columns, matrix = varied.map()
    reach, marks = float(np.nanmax(np.abs(matrix), initial=0.0)) or 1.0, varied.marks()

    def marked(row: int, column: int) -> dict[str, str] | None:
        value, mark = float(matrix[row, column]), marks.get((row, column), "")
        shaded = shade(None if math.isnan(value) else value, reach, page.ratio)
        if not mark or shaded is None:
            return shaded
        return {**shaded, "text": f"{mark} {shaded['text']}", "sign": f"{shaded['sign']} marked"}

    return {
        "title": f"Sharpe ratio by {columns.name}" + (f" and {rows.name}" if rows.name else ""),
        "legend": [("", f"{BEST} best of all"), ("", f"{OWN} as written")],
        "heads": columns.labels,
        "rows": [
            {"name": name, "cells": [marked(row, column) for column in range(len(columns.labels))]}
            for row, name in enumerate(rows.labels)
        ],
        "hint": "Over the whole period"
        + (", mean over all other parameters" if len(varied.found) > 2 else "")
        + ". A good cell among poor neighbours is luck more often than skill.",
    }


def _deflated(assessment: Assessment, context: VerdictContext) -> dict[str, Any] | None:
    from markupsafe import Markup

    found = assessment.deflated
    if found is None:
        return None
    interval = found.interval
    legend = [("accent", "observed, with its confidence interval" if interval else "observed"), ("loss", "luck alone")]
    needed = found.minimum_sessions
    record = (
        f"{math.ceil(needed):,} sessions, {_ratio(needed / context.year, 1)} years" if math.isfinite(needed) else ""
    )
    strategy = [
        ("Sharpe ratio", _ratio(found.sharpe)),
        ("Skewness", _ratio(found.skew)),
        ("Kurtosis (normal: 3)", _ratio(found.kurtosis)),
        ("Probability that it is above 0", _ratio(found.probabilistic, 3)),
        ("Minimum track record", record or ("never" if needed > 0 else NONE)),
        ("Sessions", f"{found.sessions:,}"),
    ]
    if interval is not None:
        span = f"{_ratio(interval.low)} to {_ratio(interval.high)}"
        strategy.insert(1, (f"Interval of {_percent(interval.confidence, 0)}, bootstrap", span))
    trials = [
        ("Trials of the family", f"{found.trials:,}"),
        ("Best by luck", _ratio(found.expected_maximum)),
        ("Deflated ratio", _ratio(found.ratio)),
        ("Deflated probability", _ratio(found.probability, 3)),
        ("Effective trials", _ratio(found.effective_trials, 1)),
        ("Best of these by luck", _ratio(found.effective_expected_maximum)),
        ("Deflated ratio of these", _ratio(found.effective_ratio)),
        ("Deflated probability of these", _ratio(found.effective_probability, 3)),
    ]
    return {"legend": legend, "svg": Markup(pictures.deflated_svg(found)), "halves": [strategy, trials]}


def _lineage(context: VerdictContext) -> list[tuple[str, str]]:
    seconds = [f"{_METHODS.get(name, name)} {_seconds(value)}" for name, value in (context.timings or {}).items()]
    return [
        ("Run", context.run_id),
        ("Strategy", f"{context.strategy_id} {context.version}"),
        ("Family", context.family),
        ("Period", f"{context.first} to {context.last}"),
        ("Configurations", f"{len(context.changes):,}"),
        *context.lineage.items(),
        *([("Took", ", ".join(seconds))] if seconds else []),
    ]


def _nothing_to_choose(context: VerdictContext) -> str:
    return "" if len(context.changes) > 1 else " There is no other configuration: this is the strategy itself."


def _name(row: Row) -> str:
    known = _MEASURES.get((row.method, row.measure))
    return known or f"{_METHODS.get(row.method, row.method)}: {row.measure.replace('_', ' ')}"


def _value(row: Row) -> str:
    return _ratio(row.value, 3 if row.measure == "deflated_probability" else 2)


def _sentence(text: str) -> str:
    return text and f"{text[0].upper()}{text[1:].rstrip('.')}."


def _known(value: float | None) -> float | None:
    return None if value is None or math.isnan(value) else value


def _ratio(value: float | None, digits: int = 2) -> str:
    return page.ratio(_known(value), digits)


def _percent(value: float | None, digits: int = 1) -> str:
    return page.percent(_known(value), digits)


def _seconds(value: float) -> str:
    return f"{value * 1000:,.0f} ms" if value < 1 else f"{value:,.1f} s"


def _count(number: int, word: str) -> str:
    return f"{number:,} {word}" + ("s" if number != 1 else "")
