"""Plotly figures that more than one page draws, in the colours of the reports. Frames in, figures out.

Text, paper and grid are left to Streamlit's theme, so that a figure fits light and dark.
"""

from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any

import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from quant_assets.core.drawing import ACCENT, BENCHMARK, LOSS, SERIES

GAIN = "#16965a"
POINTS = 2_500
"""A curve of more points is thinned to as many."""


def styled(figure: go.Figure, height: int, *, legend: bool = True) -> go.Figure:
    """The look of all figures: legend below, little margin, one hover label for all curves of a date."""
    return figure.update_layout(
        height=height,
        margin={"l": 8, "r": 8, "t": 28, "b": 8},
        hovermode="x unified",
        showlegend=legend,
        legend={"orientation": "h", "yanchor": "top", "y": -0.12, "xanchor": "left", "x": 0},
        dragmode="zoom",
    )


def colours(names: Sequence[str]) -> dict[str, str]:
    """A colour for each name, in order; beyond the palette they repeat."""
    return {name: SERIES[at % (len(SERIES) - 1)] for at, name in enumerate(names)}


def thinned(frame: pl.DataFrame, points: int = POINTS) -> pl.DataFrame:
    """The first and last row, and of each span those where the first column of fractions is lowest and highest.

    At most about `points` rows; all where there are no more.
    """
    values = next((column for column in frame.iter_columns() if column.dtype.is_float()), None)
    if frame.height <= points or values is None:
        return frame
    at = pl.int_range(frame.height, eager=True).alias("at")
    spans = pl.DataFrame({"at": at, "span": at * (points // 2) // frame.height, "value": values.fill_nan(None)})
    extremes = spans.group_by("span").agg(
        low=pl.col("at").sort_by("value", nulls_last=True).first(),
        high=pl.col("at").sort_by("value", nulls_last=False).last(),
    )
    kept = pl.concat([extremes["low"], extremes["high"], at.head(1), at.tail(1)]).unique().sort()
    return frame[kept]


def equity_and_drawdown(curves: Mapping[str, pl.DataFrame], *, log: bool = False, height: int = 520) -> go.Figure:
    """Equity above and drawdown below on one time axis.

    Args:
        curves: name -> frame of `ts`, `equity` (money, or growth of one) and `drawdown` (0 or below, a fraction).
        log: a logarithmic scale of equity.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.68, 0.32], vertical_spacing=0.05)
    for (name, frame), colour in zip(curves.items(), colours(list(curves)).values(), strict=True):
        few = thinned(frame)
        line = {"color": colour, "width": 1.8}
        figure.add_scatter(x=few["ts"], y=few["equity"], name=name, line=line, legendgroup=name, row=1, col=1)
        figure.add_scatter(
            x=few["ts"], y=few["drawdown"], name=name, line=line, legendgroup=name, showlegend=False, row=2, col=1,
            hovertemplate="%{y:.1%}",
        )  # fmt: skip
    figure.update_yaxes(title_text="equity", type="log" if log else "linear", row=1, col=1)
    figure.update_yaxes(title_text="drawdown", tickformat=".0%", row=2, col=1)
    return styled(figure, height)


def heat(
    values: Sequence[Sequence[float | None]],
    columns: Sequence[Any],
    rows: Sequence[Any],
    *,
    height: int,
    low: float | None = None,
    high: float | None = None,
    middle: float | None = None,
    shown: str = ".2f",
    hover: str = "%{y} %{x}: %{z}<extra></extra>",
) -> go.Figure:
    """A heat map, one row of `values` for each of `rows`; around `middle` it goes from loss to gain."""
    diverging = [[0.0, LOSS], [0.5, "#eef2f7"], [1.0, GAIN]]
    rising = [[0.0, "#dbe6fb"], [1.0, ACCENT]]
    figure = go.Figure(
        go.Heatmap(
            z=values, x=columns, y=rows, zmin=low, zmax=high, zmid=middle,
            colorscale=rising if middle is None else diverging, hovertemplate=hover, texttemplate=f"%{{z:{shown}}}",
            xgap=2, ygap=2, showscale=False,
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    return styled(figure, height, legend=False)


def bars(values: Mapping[str, float], *, height: int, shown: str = ".1%") -> go.Figure:
    """Horizontal bars, the first on top, coloured by their sign."""
    names = list(values)
    figure = go.Figure(
        go.Bar(
            x=list(values.values()), y=names, orientation="h", texttemplate=f"%{{x:{shown}}}", textposition="auto",
            marker_color=[ACCENT if value >= 0 else LOSS for value in values.values()],
            hovertemplate=f"%{{y}}: %{{x:{shown}}}<extra></extra>",
        )
    )  # fmt: skip
    figure.update_yaxes(autorange="reversed")
    return styled(figure, height, legend=False)


def level(figure: go.Figure, value: float, text: str) -> go.Figure:
    """A dashed line across at `value`, with its name."""
    return figure.add_hline(value, line={"dash": "dot", "color": BENCHMARK, "width": 1.2}, annotation_text=text)


def moment(figure: go.Figure, day: date, text: str) -> go.Figure:
    """A dashed upright line at `day`, with its name."""
    figure.add_vline(day.isoformat(), line={"dash": "dot", "color": BENCHMARK, "width": 1.2})
    return figure.add_annotation(x=day.isoformat(), y=1.0, yref="paper", yanchor="bottom", text=text, showarrow=False)
