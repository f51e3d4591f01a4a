"""The report of one parameter sweep: a single HTML file that needs nothing else, and says what a best of many is."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quant_assets.backtest import sweep_pictures
from quant_assets.backtest.sweep_pictures import Dimension, label, signed
from quant_assets.backtest.sweep_report_page import PAGE
from quant_assets.core import page
from quant_assets.core.files import write_whole
from quant_assets.validation.sharpe import expected_best

Array = npt.NDArray[np.float64]

_MAPS, _TOP = 3, 15
_METHOD = (
    "Each cell is a backtest of its own, with the strategy's costs and rules. What luck alone would show is the "
    "expected highest Sharpe ratio of so many independent trials without any edge (Bailey and López de Prado, The "
    "Deflated Sharpe Ratio, 2014); cells that resemble each other count as fewer, so that for a sweep it is an upper "
    "estimate. Past results say nothing certain about the future."
)


@dataclass(frozen=True)
class SweepContext:
    """What the report says beside the cells. All of it is shown as text, escaped."""

    sweep_id: str
    strategy: Mapping[str, Any]
    """The strategy's file as a plain dict."""
    sessions: int
    year: int
    """Sessions per year."""
    family: str
    configurations: int
    """Configurations of the family in the ledger, these cells among them."""
    trials: int
    """The same, each window that one was evaluated over counted by itself."""
    excluded: int = 0
    """Combinations that the strategy's rules exclude."""
    lineage: Mapping[str, str] = field(default_factory=dict)


def changes_of(results: pl.DataFrame) -> list[dict[str, Any]]:
    """Of each row of `sweep_results` what it changes: field -> value."""
    return [json.loads(text) for text in results["params"]]


def sharpes_of(results: pl.DataFrame) -> Array:
    """Of each row of `sweep_results` the Sharpe ratio, NaN where undefined."""
    return results["sharpe"].fill_null(float("nan")).to_numpy()


def ranked(results: pl.DataFrame) -> pl.DataFrame:
    """The cells by Sharpe ratio, the best first; equal ones by number, undefined ones last."""
    return results.sort("sharpe", "cell", descending=[True, False], nulls_last=True)


def write_sweep_report(path: Path, results: pl.DataFrame, context: SweepContext) -> Path:
    """Write the report of a sweep's `sweep_results` rows to `path`, whole or not at all. Returns `path`."""
    return write_whole(path, render(results, context))


def render(results: pl.DataFrame, context: SweepContext) -> str:
    """The report as HTML. The same results and context give the same text."""
    from markupsafe import Markup

    results = results.sort("cell")
    sharpes = sharpes_of(results)
    found = sweep_pictures.dimensions(changes_of(results), sharpes)
    luck = expected_best(context.configurations, context.sessions, context.year)
    head = results.row(0, named=True)
    return page.render(
        PAGE,
        title=head["strategy_id"],
        version=head["version"],
        description=str(context.strategy.get("description") or ""),
        first=head["from_ts"],
        last=head["to_ts"],
        sessions=f"{context.sessions:,}",
        tiles=_tiles(results, sharpes, luck, context),
        caveats=_caveats(results, sharpes, luck, context),
        distribution_svg=Markup(sweep_pictures.distribution_svg(sharpes, luck)),
        maps=[_map(rows, columns, sharpes) for columns, rows in list(combinations(found[:3], 2))[:_MAPS]],
        marginals=[{"name": one.name, "svg": Markup(sweep_pictures.marginal_svg(one, sharpes))} for one in found],
        lineage=_lineage(results, context),
        spec=page.yaml_text(context.strategy),
        method=_METHOD,
        **_top(results),
    )


def _tiles(results: pl.DataFrame, sharpes: Array, luck: float, context: SweepContext) -> list[dict[str, str]]:
    best = ranked(results).row(0, named=True)
    known = sharpes[~np.isnan(sharpes)]
    median = float(np.median(known)) if len(known) else None
    undefined = len(sharpes) - len(known)
    above = f"{(known > 0).mean() * 100:.0f}%" if len(known) else page.NONE
    rows = (
        ("Cells", f"{results.height:,}", f"{undefined:,} without a Sharpe ratio" if undefined else "all evaluated"),
        ("Best Sharpe ratio", page.ratio(best["sharpe"]), f"cell {best['cell']}, selected"),
        ("Median Sharpe ratio", page.ratio(median), "of a cell taken blindly"),
        ("By luck alone", signed(luck), f"best of {context.configurations:,} without any edge"),
        ("Cells above zero", above, "of those with a Sharpe ratio"),
        ("Tried so far", f"{context.configurations:,}", f"{context.family}; {context.trials:,} with all windows"),
        ("CAGR of the best", page.percent(best["cagr"]), "per year"),
        ("Drawdown of the best", page.percent(best["max_dd"]), "peak to trough"),
    )
    return [{"name": name, "value": value, "note": note} for name, value, note in rows]


def _caveats(results: pl.DataFrame, sharpes: Array, luck: float, context: SweepContext) -> list[str]:
    best = float(np.nanmax(sharpes)) if not np.isnan(sharpes).all() else float("nan")
    found = [
        f"The best of {results.height:,} cells is selected with hindsight: its figures are biased upwards, and its "
        f"backtest alone no longer says so. Judge the region around it, and test it on data that no cell has seen.",
        f"Of the {context.configurations:,} configurations of {context.family} tried so far the best would be "
        f"expected, had none of them any edge, to show a Sharpe ratio of up to {signed(luck)} over "
        f"{context.sessions:,} sessions"
        + (f"; the best here, {signed(best)}, is not above that." if best <= luck else "."),
    ]
    if context.excluded:
        found.append(f"{context.excluded:,} combinations are no valid strategy and were left out.")
    lost = int(np.isnan(sharpes).sum())
    if lost:
        found.append(
            f"{lost:,} cell(s) have no Sharpe ratio: they never traded, or lost everything. They count as trials."
        )
    if context.sessions < context.year:
        found.append(f"Only {context.sessions} sessions: yearly figures are extrapolated from less than a year.")
    return found


def _map(rows: Dimension, columns: Dimension, sharpes: Array) -> dict[str, Any]:
    matrix = sweep_pictures.grid_of(rows, columns, sharpes)
    reach = float(np.nanmax(np.abs(matrix), initial=0.0)) or 1.0

    def cell(value: float) -> dict[str, str] | None:
        if math.isnan(value):
            return None
        strength = f"{0.05 + 0.6 * abs(value) / reach:.2f}"
        return {"text": signed(value), "sign": "gain" if value > 0 else "loss" if value < 0 else "", "alpha": strength}

    return {
        "rows": rows.name,
        "columns": columns.name,
        "heads": columns.labels,
        "lines": [
            {"name": name, "cells": [cell(float(value)) for value in line]}
            for name, line in zip(rows.labels, matrix, strict=True)
        ],
    }


def _top(results: pl.DataFrame) -> dict[str, Any]:
    best = ranked(results).head(_TOP)
    changes = changes_of(best)
    rows = [
        [
            str(row["cell"]),
            *(label(value) for value in changed.values()),
            page.ratio(row["sharpe"]),
            page.percent(row["cagr"]),
            page.percent(row["vol"]),
            page.percent(row["max_dd"]),
            page.ratio(row["turnover"]),
            f"{row['num_trades'] or 0:,}",
        ]
        for changed, row in zip(changes, best.iter_rows(named=True), strict=True)
    ]
    measures: Sequence[str] = ("Sharpe", "CAGR", "Volatility", "Max drawdown", "Turnover", "Trades")
    return {
        "top_note": f"the {best.height} of {results.height:,} with the highest Sharpe ratio",
        "top_heads": ["Cell", *changes[0], *measures],
        "top_rows": rows,
    }


def _lineage(results: pl.DataFrame, context: SweepContext) -> list[tuple[str, str]]:
    head = results.row(0, named=True)
    lines = [
        ("Sweep", context.sweep_id),
        ("Strategy", f"{head['strategy_id']} {head['version']}"),
        ("Family", context.family),
        ("Period", f"{head['from_ts']} to {head['to_ts']}"),
        ("Costs", f"fee {head['fee_bps'] or 0:g} bps, slippage {head['slippage_bps'] or 0:g} bps (of the first cell)"),
    ]
    return [*lines, *context.lineage.items()]
