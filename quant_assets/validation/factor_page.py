"""The page of a factor report: a single HTML file that needs nothing else, and that says what the best of many is."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from quant_assets.core.files import write_whole
from quant_assets.core.page import NONE, OPENING, TABLE, cell, percent, ratio, render, template
from quant_assets.validation import factor_pictures
from quant_assets.validation.factor_pictures import ends, means
from quant_assets.validation.factors import SIGNIFICANT, FactorReport

NARROW = 20
"""Median cross-section below which the page warns."""

_SHOWN = 20
_PALE = 0.03
"""A heat map of mean rank ICs that are all smaller stays pale."""
_METHOD = (
    "IC is the correlation of a factor's values with forward returns across symbols on one session, rank IC that of "
    "their ranks (alphalens, Qlib; Grinold and Kahn, Active Portfolio Management). Forward returns come from "
    "adjusted closes in each symbol's own sessions, and one that has not closed by the last session is left out. "
    "t-statistics are Newey and West's (1987), for the overlap of forward returns and for slow factors; p-values "
    "are two-sided, by Student's t with as many degrees of freedom as the window has independent stretches, and "
    "adjusted for the number of pairs tried by Benjamini and Hochberg (1995). The spread is the top quantile's mean "
    "forward return less the bottom one's, before costs. Turnover is the share of the top quantile that was not in "
    "it one horizon earlier. Past results say nothing certain about the future."
)

_BODY = (
    OPENING
    + TABLE
    + """\
<style>
.heat { border-collapse: separate; border-spacing: 2px; width: auto; font-size: 12px; }
.heat th { border: 0; padding: 2px 6px; text-align: center; }
.heat th[scope=row] { text-align: left; color: var(--ink); white-space: nowrap; }
.heat td { border: 0; border-radius: 4px; text-align: center; padding: 3px 8px; }
.heat .gain { color: var(--ink); background: rgb(var(--gain-rgb) / var(--a)); }
.heat .loss { color: var(--ink); background: rgb(var(--loss-rgb) / var(--a)); }
.dense td { padding: 0; min-width: 16px; height: 16px; border-radius: 2px; }
.dense th[scope=col] { writing-mode: vertical-rl; transform: rotate(180deg); text-align: left; padding: 4px 0; }
</style>
{% macro heat(columns, rows, dense) %}
  <div class="scroll"><table class="heat{{ ' dense' if dense }}">
  <thead><tr><th></th>{% for name in columns %}<th scope="col">{{ name }}</th>{% endfor %}</tr></thead>
  <tbody>
  {% for row in rows %}
    <tr><th scope="row">{{ row.name }}</th>
    {% for cell in row.cells %}{% if cell is none %}<td></td>{% elif dense -%}
    <td class="{{ cell.sign }}" style="--a:{{ cell.alpha }}"
      title="{{ row.name }}, {{ columns[loop.index0] }}: {{ cell.text }}"></td>
    {%- else -%}
    <td class="{{ cell.sign }}" style="--a:{{ cell.alpha }}">{{ cell.text }}</td>
    {%- endif %}{% endfor %}</tr>
  {% endfor %}
  </tbody></table></div>
{% endmacro %}
{% macro legend(names) %}
<div class="legend">{% for name in names -%}
  <span><i style="background:var(--s{{ loop.index0 }})"></i>{{ name }}</span>
{%- endfor %}</div>
{% endmacro %}
<main>
{{ opening(title, "Factor report · " ~ market ~ " · " ~ first ~ " to " ~ last, "", tiles, caveats) }}

<section class="card">
  <div class="head"><h2>Factors</h2><p class="sub">each at its strongest horizon, {{ shown_note }}</p></div>
  {{ table(shape, rows) }}
</section>

{% if curves %}
<section class="card">
  <div class="head"><h2>Cumulative rank IC</h2>{{ legend(curves) }}</div>
  <div class="scroll">{{ cumulative_svg }}</div>
</section>
<section class="card">
  <div class="head"><h2>Rank IC over time</h2>
    <p class="sub">mean of the last {{ window }} sessions, same factors</p></div>
  <div class="scroll">{{ rolling_svg }}</div>
</section>
<div class="pair">
<section class="card">
  <div class="head"><h2>Decay</h2><p class="sub">mean rank IC by horizon, sessions</p></div>
  <div class="scroll">{{ decay_svg }}</div>
</section>
<section class="card">
  <div class="head"><h2>Quantiles</h2><p class="sub">excess return, basis points per session</p></div>
  <div class="scroll">{{ quantiles_svg }}</div>
</section>
</div>
{% endif %}

<section class="card">
  <div class="head"><h2>Mean rank IC by horizon</h2><p class="sub">horizons in sessions</p></div>
  {{ heat(horizons, heat_rows, false) }}
</section>

{% if correlation_rows %}
<section class="card">
  <div class="head"><h2>Correlation between factors</h2>
    <p class="sub">mean rank correlation; green alike, red opposite</p></div>
  {{ heat(correlation_names, correlation_rows, dense) }}
</section>
{% endif %}

<section class="card">
  <div class="head"><h2>Lineage</h2></div>
  <dl>{% for name, value in lineage %}<dt>{{ name }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
</section>

<p class="hint">{{ method }}</p>
</main>
"""
)


@dataclass(frozen=True)
class FactorContext:
    """What the page says beside the report itself. All of it is shown as text, escaped."""

    market: str
    version: str
    symbols: int
    run_id: str
    code_version: str
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Further lines of the lineage table."""


def write_factor_page(path: Path, report: FactorReport, context: FactorContext) -> Path:
    """Write the page to `path`, whole or not at all. Returns `path`."""
    return write_whole(path, render_factor_page(report, context))


def render_factor_page(report: FactorReport, context: FactorContext) -> str:
    """The page as HTML. The same report and context give the same text."""
    from markupsafe import Markup

    summary = report.summary
    cumulative, curves = factor_pictures.cumulative_svg(report)
    window = max(min(252, int(summary["dates"].max()) // 4), 2)  # type: ignore[arg-type]
    shown = ends(report.ranking, _SHOWN)
    names = shown["feature_name"].to_list()
    by_horizon = means(report, names)
    return render(
        template("factors", _BODY),
        title=f"Feature set {context.version}",
        market=context.market,
        first=summary["from_ts"][0],
        last=summary["to_ts"][0],
        tiles=_tiles(report, context),
        caveats=_caveats(report),
        curves=curves,
        cumulative_svg=Markup(cumulative),
        rolling_svg=Markup(factor_pictures.rolling_svg(report, window)),
        window=window,
        decay_svg=Markup(factor_pictures.decay_svg(report)),
        quantiles_svg=Markup(factor_pictures.quantiles_svg(report)),
        horizons=[str(horizon) for horizon in report.horizons],
        heat_rows=_heat_rows(names, by_horizon.tolist(), max(float(np.nanmax(np.abs(by_horizon), initial=0)), _PALE)),
        dense=len(names) > 12,
        lineage=_lineage(report, context),
        method=_METHOD,
        **_factor_table(report, shown),
        **_correlation_map(report, names),
    )


def _tiles(report: FactorReport, context: FactorContext) -> list[dict[str, str]]:
    best = report.strongest(1).to_dicts()
    rows = [
        ("Factors", f"{report.ranking.height:,}", f"{len(report.horizons)} horizons each"),
        ("Pairs tested", f"{report.tests:,}", "factor and horizon, with a t-statistic"),
        ("More than chance", f"{report.significant:,}", f"of {report.tests:,}, adjusted p up to {SIGNIFICANT:.0%}"),
        ("Cross-section", f"{report.breadth}", f"symbols, median; {context.symbols} in the market"),
    ]
    for row in best:
        rows += [
            ("Strongest factor", row["feature_name"], f"at {row['horizon']} sessions"),
            ("Its mean rank IC", ratio(row["mean_rank_ic"], 3), f"ICIR {ratio(row['rank_icir'])} per session"),
            ("Its t-statistic", ratio(row["rank_ic_t"]), f"p {_p(row['p_value'])}, adjusted {_p(row['p_adjusted'])}"),
            ("Its spread", percent(row["spread"], 2), f"top less bottom quantile over {row['horizon']} sessions"),
        ]
    return [{"name": name, "value": value, "note": note} for name, value, note in rows]


def _caveats(report: FactorReport) -> list[str]:
    tests, summary = report.tests, report.summary
    found = []
    if tests:
        found.append(
            f"{tests:,} pairs of factor and horizon were tried: without any truth in them about "
            f"{max(tests * SIGNIFICANT, 1):.0f} would show a p-value below {SIGNIFICANT:g}, and the best of them looks "
            f"good by chance. Judge by the adjusted p-value; Bonferroni's rule asks for a plain one below "
            f"{np.format_float_positional(SIGNIFICANT / tests, 2, fractional=False)}."
        )
        if not report.significant:
            found.append("None of them is more than chance explains.")
    if report.breadth < NARROW:
        noise = 1 / math.sqrt(max(report.breadth - 1, 1))
        found.append(
            f"A cross-section of {report.breadth} symbols says little: pure noise has a rank IC of "
            f"\N{PLUS-MINUS SIGN}{noise:.2f} per session, and a quantile is a symbol or two."
        )
    short = summary.filter(pl.col("rank_ic_t").is_null() & (pl.col("dates") > 0))["horizon"].unique().sort()
    if short.len():
        horizons = ", ".join(map(str, short))
        found.append(f"The window holds too few independent stretches of {horizons} sessions for a t-statistic.")
    sparse = summary.filter(pl.col("coverage") < 0.5)["feature_name"].n_unique()
    if sparse:
        found.append(f"{sparse} factor(s) have a value in less than half of the listed cells.")
    return [*found, "Spreads are before costs; a factor of high turnover pays them often."]


def _factor_table(report: FactorReport, shown: pl.DataFrame) -> dict[str, Any]:
    note = "by t-statistic"
    if shown.height < report.ranking.height:
        note += f"; the first and last {_SHOWN} of {report.ranking.height}, all of them in table factor_summary"
    longest = max((abs(value) for value in shown["mean_rank_ic"].drop_nulls()), default=0.0) or 1.0
    rows = []
    for row in shown.iter_rows(named=True):
        rank_ic = row["mean_rank_ic"]
        rows.append(
            [
                cell(row["feature_name"]),
                cell(f"{row['horizon']}"),
                cell(ratio(rank_ic, 3), rank_ic, None if rank_ic is None else 80 * abs(rank_ic) / longest),
                cell(ratio(row["rank_icir"])),
                cell(ratio(row["rank_ic_t"])),
                cell(_p(row["p_adjusted"])),
                cell(_verdict(row["p_adjusted"])),
                cell(percent(row["spread"], 2), row["spread"]),
                cell(percent(row["turnover"], 0)),
                cell(percent(row["coverage"], 0)),
            ]
        )
    shape = [("Factor", "left"), ("Horizon", ""), ("Rank IC", ""), ("ICIR", ""), ("t", ""), ("Adjusted p", "")]
    shape += [("Verdict", "left"), ("Spread", ""), ("Turnover", ""), ("Coverage", "")]
    return {"shape": shape, "rows": rows, "shown_note": note}


def _verdict(p_adjusted: float | None) -> str:
    if p_adjusted is None:
        return "too few dates"
    return "more than chance" if p_adjusted <= SIGNIFICANT else "chance explains it"


def _correlation_map(report: FactorReport, names: Sequence[str]) -> dict[str, Any]:
    known = {(one, other): value for one, other, value, _ in report.correlations.iter_rows()}
    rows = [[known.get((one, other)) for other in names] for one in names]
    return {
        "correlation_names": names,
        "correlation_rows": _heat_rows(names, rows, 1.0) if len(names) > 1 else [],
    }


def _heat_rows(names: Sequence[str], rows: Sequence[Sequence[float | None]], full: float) -> list[dict[str, Any]]:
    """Rows of a heat map whose colour is strongest from `full` on."""

    def heat(value: float | None) -> dict[str, str] | None:
        if value is None or math.isnan(value):
            return None
        strength = min(abs(value) / full, 1.0)
        return {
            "text": ratio(value, 3 if full < 1 else 2),
            "sign": "gain" if value > 0 else "loss" if value < 0 else "",
            "alpha": f"{0.04 + 0.66 * strength:.2f}",
        }

    return [
        {"name": name, "cells": [heat(value) for value in values]} for name, values in zip(names, rows, strict=True)
    ]


def _lineage(report: FactorReport, context: FactorContext) -> list[tuple[str, str]]:
    summary = report.summary
    return [
        ("Run", context.run_id),
        ("Feature set", context.version),
        ("Market", context.market),
        ("Code version", context.code_version),
        ("Window", f"{summary['from_ts'][0]} to {summary['to_ts'][0]}"),
        ("Horizons", ", ".join(map(str, report.horizons))),
        ("Quantiles", str(report.quantiles["quantile"].max())),
        *context.lineage.items(),
    ]


def _p(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"
