"""The cells of a parameter sweep, drawn for the lab: a measure over two parameters, and over all at once."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl

from quant_assets.backtest.sweep_pictures import Array, Dimension, dimensions, grid_of
from quant_assets.core.drawing import ACCENT, BENCHMARK, LOSS
from quant_assets.lab import charts

METRICS = {
    "sharpe": ("Sharpe ratio", ".2f", True),
    "sortino": ("Sortino ratio", ".2f", True),
    "calmar": ("Calmar ratio", ".2f", True),
    "cagr": ("annual return", ".1%", True),
    "max_dd": ("largest drawdown", ".0%", True),
    "vol": ("volatility", ".1%", False),
    "turnover": ("turnover", ".1f", False),
    "win_rate": ("winning trades", ".0%", True),
    "profit_factor": ("profit factor", ".2f", True),
    "num_trades": ("trades", ".0f", True),
}
"""Measure of a cell -> its name, its format, whether more is better. A drawdown is negative."""


@dataclass(frozen=True)
class Cells:
    """The cells of a sweep: what each changes, its measures (columns of METRICS), and which one is the strategy."""

    changes: tuple[Mapping[str, Any], ...]
    measures: pl.DataFrame
    own: int | None

    def dimensions(self, metric: str) -> list[Dimension]:
        """The parameters that vary, by dotted name, the most influential on `metric` first."""
        return dimensions(self.changes, self.values(metric))

    def values(self, metric: str) -> Array:
        """(cells,); NaN where undefined."""
        return self.measures[metric].cast(pl.Float64).fill_null(math.nan).to_numpy()


def best_of(rows: Dimension, columns: Dimension, values: Array, *, more: bool) -> Array:
    """The best of the values per level of `rows` and of `columns`, over all other parameters; NaN where none is known.

    Example: of two cells at one place with 1 and 3, 3 where more is better, else 1.
    """
    sign = 1.0 if more else -1.0
    grid = np.full((len(rows.labels), len(columns.labels)), math.nan)
    np.fmax.at(grid, (rows.codes, columns.codes), sign * values)
    return sign * grid


def cells_figure(
    cells: Cells, rows: Dimension | None, columns: Dimension, metric: str, *, best: bool
) -> tuple[go.Figure, str]:
    """A measure over two parameters (or one), and what is drawn in words.

    Args:
        best: of the cells at one place the best one; else their mean.
    """
    name, shown, more = METRICS[metric]
    down = rows or Dimension("", ("",), np.zeros_like(columns.codes))
    values = cells.values(metric)
    grid = best_of(down, columns, values, more=more) if best else grid_of(down, columns, values)
    signed = bool((values[~np.isnan(values)] < 0).any() and (values[~np.isnan(values)] > 0).any())
    plain: list[list[float | None]] = [[None if math.isnan(one) else one for one in line] for line in grid.tolist()]
    hover = f"{down.short or 'all'} %{{y}}, {columns.short} %{{x}}: %{{z:{shown}}}<extra></extra>"
    figure = charts.heat(
        plain, columns.labels, down.labels, height=max(190, 90 + 38 * len(down.labels)), shown=shown, hover=hover,
        middle=0.0 if signed else None,
    )  # fmt: skip
    figure.update_xaxes(type="category", title_text=columns.short).update_yaxes(type="category", title_text=down.short)
    figure.update_layout(hovermode="closest")
    if cells.own is not None:
        place = int(columns.codes[cells.own]), int(down.codes[cells.own])
        figure.add_shape(
            type="rect", x0=place[0] - 0.5, x1=place[0] + 0.5, y0=place[1] - 0.5, y1=place[1] + 0.5,
            line={"color": "#f59e0c", "width": 3},
        )  # fmt: skip
    others = [one.short for one in cells.dimensions(metric) if one.name not in (columns.name, down.name)]
    over = f"{'best' if best else 'mean'} over {', '.join(others)}" if others else "one cell at each place"
    return figure, f"{name} of {len(cells.changes):,} cells, {over}"


def parallel_figure(cells: Cells, metric: str) -> go.Figure:
    """Every cell as a line through its parameters and a measure; drag along an axis to keep some."""
    name, shown, _ = METRICS[metric]
    values = cells.values(metric)
    known = ~np.isnan(values)
    axes = [
        {
            "label": one.short,
            "values": one.codes[known],
            "tickvals": list(range(len(one.labels))),
            "ticktext": list(one.labels),
        }
        for one in cells.dimensions(metric)
    ]
    line = {"color": values[known], "colorscale": [[0.0, LOSS], [0.5, BENCHMARK], [1.0, ACCENT]]}
    axes.append({"label": name, "values": values[known], "tickformat": shown})
    figure = charts.styled(go.Figure(go.Parcoords(line=line, dimensions=axes)), 380, legend=False)
    return figure.update_layout(margin={"l": 60, "r": 60, "t": 50, "b": 20})
