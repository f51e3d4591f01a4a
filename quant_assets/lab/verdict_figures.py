"""Figures of a validation for the lab, from what is stored of it. Frames in, figures out.

What was chosen without having seen the days it is drawn over has the accent colour; the strategy as its file has it is
grey: as in the reports (`backtest/verdict_pictures.py`).
"""

import math
from collections.abc import Mapping, Sequence
from datetime import date
from statistics import NormalDist
from typing import Any, cast

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from quant_assets.core.drawing import ACCENT, BENCHMARK, LOSS
from quant_assets.lab import charts
from quant_assets.validation.pbo import Overfitting
from quant_assets.validation.sharpe import expected_maximum

_PATHS, _DOTS, _SCATTERED, _MOST_WINDOWS = 40, 20, 400, 120
_LUCK = "rgba(220, 76, 76, 0.18)"


def grown(curves: pl.DataFrame) -> pl.DataFrame:
    """Growth of 1 along each curve: curve, ts, ret -> with `growth`; a ruined account stays at a thousandth.

    Example: returns of 10 % and -50 % grow to 1.1 and 0.55.
    """
    step = 1 + pl.col("ret").fill_null(0.0).clip(lower_bound=-1.0)
    return curves.sort("curve", "ts").with_columns(
        growth=step.cum_prod().over("curve", order_by="ts").clip(lower_bound=1e-3)
    )


def _add_growth(figure: go.Figure, frame: pl.DataFrame, name: str, colour: str, width: float, **more: Any) -> None:
    few = charts.thinned(frame, more.pop("points", charts.POINTS))
    figure.add_scatter(
        x=few["ts"], y=few["growth"], name=name, mode="lines", line={"color": colour, "width": width},
        hovertemplate="%{y:.2f}", **more,
    )  # fmt: skip


def _scale(figure: go.Figure, curves: pl.DataFrame, **where: int) -> None:
    """A logarithmic axis of growth; over a wide range with ticks at 1, 2 and 5 times the powers of ten."""
    low, high = curves.select(low=pl.col("growth").min(), high=pl.col("growth").max()).row(0)
    ticks = "D2" if curves.height and high > 6 * low else None
    figure.update_yaxes(title_text="growth of 1", type="log", dtick=ticks, **where)


def walk_figure(curves: pl.DataFrame, windows: Sequence[Mapping[str, Any]]) -> go.Figure:
    """The joined walk-forward curve and the strategy as written over the same sessions; below, each window's return.

    Args:
        curves: `grown`, of the curves `walk_forward` and `as written`.
        windows: as the details of method `wfa` have them.
    """
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.72, 0.28], vertical_spacing=0.05)
    for curve, name, colour, width in (
        ("as written", "as written", BENCHMARK, 1.4),
        ("walk_forward", "walk-forward", ACCENT, 1.9),
    ):
        part = curves.filter(pl.col("curve") == curve)
        if part.height:
            _add_growth(figure, part, name, colour, width, row=1, col=1)
    starts = [one["test_first"] for one in windows]
    if len(windows) <= _MOST_WINDOWS:
        shade = {"type": "rect", "xref": "x", "yref": "y domain", "y0": 0, "y1": 1, "line": {"width": 0}}
        shade |= {"fillcolor": BENCHMARK, "opacity": 0.1}
        pairs = zip(starts[:-1:2], starts[1::2], strict=False)
        figure.update_layout(shapes=[{**shade, "x0": begin, "x1": end} for begin, end in pairs])
    gains = [one["oos_return"] for one in windows]
    figure.add_bar(
        x=starts, y=gains, name="return of a window", showlegend=False, hovertemplate="%{y:.1%}",
        marker_color=[charts.GAIN if (gain or 0) > 0 else LOSS for gain in gains], row=2, col=1,
    )  # fmt: skip
    _scale(figure, curves, row=1, col=1)
    figure.update_yaxes(title_text="window", tickformat=".0%", row=2, col=1)
    return charts.styled(figure, 430)


def split_figure(curves: pl.DataFrame, split: date) -> go.Figure:
    """Growth over the whole period of `as written` and, where it is known, of `chosen`; out of sample is shaded."""
    figure = go.Figure()
    for curve, name, colour in (
        ("as written", "as written", BENCHMARK),
        ("chosen", "chosen in sample", ACCENT),
    ):
        part = curves.filter(pl.col("curve") == curve)
        if part.height:
            _add_growth(figure, part, name, colour, 1.7)
    last = cast(date, curves["ts"].max())
    figure.add_vrect(split.isoformat(), last.isoformat(), fillcolor=ACCENT, opacity=0.09, line_width=0)
    charts.moment(figure, split, f"out of sample from {split}")
    _scale(figure, curves)
    return charts.styled(figure, 360)


def spread(count: int, shown: int) -> list[int]:
    """Up to `shown` places, evenly spread over `count`, both ends among them.

    Example:
        >>> spread(3, 5), spread(9, 3)
        ([0, 1, 2], [0, 4, 8])
    """
    return sorted({round(at) for at in np.linspace(0, count - 1, min(count, shown)).tolist()})


def shown_paths(sharpes: Sequence[float | None]) -> list[str]:
    """The names of the paths that are drawn: all, or of many some, evenly spread over their ratios."""
    order = sorted(range(len(sharpes)), key=lambda path: (sharpes[path] is None, sharpes[path]))
    return [f"path_{order[place] + 1}" for place in spread(len(order), _PATHS)]


def paths_figure(curves: pl.DataFrame, paths: Sequence[str]) -> go.Figure:
    """Growth along each of `paths`, and of `as written`."""
    figure = go.Figure()
    points = max(8_000 // max(len(paths), 1), 60)
    parts = curves.partition_by("curve", as_dict=True)
    for number, path in enumerate(paths):
        if (path,) in parts:
            _add_growth(
                figure, parts[(path,)], "paths out of sample", ACCENT, 1.1, opacity=0.8, points=points,
                legendgroup="paths", showlegend=number == 0,
            )  # fmt: skip
    if ("as written",) in parts:
        _add_growth(figure, parts[("as written",)], "as written", BENCHMARK, 1.7, points=points)
    _scale(figure, curves)
    return charts.styled(figure, 330).update_layout(hovermode="closest")


def path_sharpes_figure(sharpes: Sequence[float | None], written: float) -> go.Figure:
    """How the ratios of the paths are spread: dots, or of many a histogram; median and the strategy as written."""
    known = [value for value in sharpes if value is not None]
    figure = go.Figure()
    if len(known) > _DOTS:
        figure.add_histogram(
            x=known, nbinsx=30, marker_color=ACCENT, opacity=0.55, hovertemplate="%{x}: %{y} paths<extra></extra>"
        )
        figure.update_yaxes(title_text="paths")
    else:
        figure.add_scatter(
            x=known, y=[0] * len(known), mode="markers", hovertemplate="%{x:.2f}<extra></extra>",
            marker={"color": ACCENT, "size": 13, "opacity": 0.6},
        )  # fmt: skip
        figure.update_yaxes(range=[-1, 1], showticklabels=False, showgrid=False, zeroline=False)
    for value, name, colour, above in (
        (float(np.median(known)) if known else math.nan, "median", ACCENT, True),
        (written, "as written", BENCHMARK, False),
    ):
        if math.isfinite(value):
            _upright(figure, value, f"{name} {value:.2f}", colour, left=above, top=above)
    figure.update_xaxes(title_text="Sharpe ratio of a path")
    return charts.styled(figure, 330, legend=False).update_layout(hovermode="closest")


def _upright(figure: go.Figure, value: float, text: str, colour: str, *, left: bool, top: bool = True) -> None:
    """A dotted line at `value` of the x axis; its name stands on one side of one end."""
    line = {"color": colour, "width": 1.6, "dash": "dot"}
    figure.add_shape(type="line", x0=value, x1=value, y0=0, y1=1, yref="paper", line=line)
    figure.add_annotation(
        x=value, y=1 if top else 0, yref="paper", text=text, showarrow=False,
        xanchor="right" if left else "left", yanchor="top" if top else "bottom",
    )  # fmt: skip


def logit_bars(counts: Sequence[int], edges: Sequence[float], pbo: float) -> pl.DataFrame:
    """Logits per span, those at or below 0 apart: `middle`, `below`, `above`.

    A span across 0 is divided so that all that is below has the share `pbo`.

    Example: three logits in (-1, 1), of which one is not above 0: below 1, above 2.
    """
    total, left = sum(counts), round(pbo * sum(counts)) if math.isfinite(pbo) else 0
    rows = []
    for count, low, high in zip(counts, edges[:-1], edges[1:], strict=True):
        below = min(count, left) if low <= 0 else 0
        left -= below
        rows.append(((low + high) / 2, below, count - below))
    assert sum(below + above for _, below, above in rows) == total
    return pl.DataFrame(rows, schema={"middle": pl.Float64, "below": pl.Int64, "above": pl.Int64}, orient="row")


def logits_figure(bars: pl.DataFrame, pbo: float) -> go.Figure:
    """`logit_bars`, with the share that is the PBO in red."""
    figure = go.Figure()
    for column, name, colour in (
        ("below", f"at or below the median: {pbo:.0%}", LOSS),
        ("above", "above the median", ACCENT),
    ):
        figure.add_bar(x=bars["middle"], y=bars[column], name=name, marker_color=colour, opacity=0.75)
    figure.add_vline(0, line={"color": BENCHMARK, "width": 1.2})
    figure.update_layout(barmode="stack", bargap=0.06)
    figure.update_xaxes(title_text="logit of the rank out of sample", hoverformat=".2f")
    figure.update_yaxes(title_text="halvings")
    styled = charts.styled(figure, 330)
    return styled.update_layout(legend={"y": -0.25})


def degradation_figure(found: Overfitting) -> go.Figure:
    """Ratio out of sample over that in sample of the best cell of each halving, with the line of least squares."""
    defined = np.flatnonzero(np.isfinite(found.is_sharpe) & np.isfinite(found.oos_sharpe))
    order = defined[np.argsort(found.is_sharpe[defined], kind="stable")]
    shown = order[spread(len(order), _SCATTERED)] if len(order) else order
    figure = go.Figure(
        go.Scattergl(
            x=found.is_sharpe[shown], y=found.oos_sharpe[shown], mode="markers", name="halvings of the period",
            marker={"color": ACCENT, "size": 6, "opacity": 0.4},
            hovertemplate="in sample %{x:.2f}, out of sample %{y:.2f}<extra></extra>",
        )
    )  # fmt: skip
    if len(shown) and math.isfinite(found.slope):
        ends = found.is_sharpe[shown[[0, -1]]]
        figure.add_scatter(
            x=ends, y=found.intercept + found.slope * ends, mode="lines", name=f"slope {found.slope:.2f}",
            line={"color": LOSS if found.slope < 0 else charts.GAIN, "width": 2}, hoverinfo="skip",
        )  # fmt: skip
    figure.update_xaxes(title_text="Sharpe ratio in sample")
    figure.update_yaxes(title_text="out of sample", zeroline=True)
    return charts.styled(figure, 330).update_layout(hovermode="closest", legend={"y": -0.25})


def luck(trials: float, best: float) -> pl.DataFrame:
    """Density of the highest ratio of `trials` independent ones without skill, whose expected highest is `best`.

    Of N standard normal ratios the highest has the density N phi(z) Phi(z)**(N - 1); the spread is what
    `expected_maximum` would need for `best`. Columns `sharpe` and `density`; no rows of fewer than two trials.
    """
    if trials < 2 or not best > 0:
        return pl.DataFrame(schema={"sharpe": pl.Float64, "density": pl.Float64})
    size, normal = best / expected_maximum(trials, 1.0), NormalDist()
    places = np.linspace(-2.0, expected_maximum(trials, 1.0) + 3.5, 161).tolist()
    density = [trials * normal.pdf(z) * normal.cdf(z) ** (trials - 1) / size for z in places]
    return pl.DataFrame({"sharpe": [z * size for z in places], "density": density})


def deflated_figure(sharpe: float, trials: float, best: float, interval: Mapping[str, float] | None) -> go.Figure:
    """What the best of as many trials would show by luck, and the observed ratio with its bootstrap interval.

    Args:
        best: expected highest ratio of `trials` without skill.
        interval: low, high and confidence; none: not known.
    """
    chance = luck(trials, best)
    figure = go.Figure()
    if chance.height:
        figure.add_scatter(
            x=chance["sharpe"], y=chance["density"], fill="tozeroy", fillcolor=_LUCK, mode="lines", hoverinfo="skip",
            line={"color": LOSS, "width": 1.4}, name=f"best of {trials:,.0f} trials without skill",
        )  # fmt: skip
        _upright(figure, best, f"luck {best:.2f}", LOSS, left=best <= sharpe)
    top = float(cast(float, chance["density"].max())) if chance.height else 1.0
    if interval is not None and interval["low"] is not None:
        figure.add_scatter(
            x=[interval["low"], interval["high"]], y=[-0.07 * top] * 2, mode="lines", opacity=0.45,
            line={"color": ACCENT, "width": 9}, hovertemplate="%{x:.2f}<extra></extra>",
            name=f"{interval['confidence']:.0%} interval of the observed one, bootstrap",
        )  # fmt: skip
    if math.isfinite(sharpe):
        figure.add_scatter(
            x=[sharpe], y=[-0.07 * top], mode="markers", marker={"color": ACCENT, "size": 13}, name="observed",
            hovertemplate="%{x:.2f}<extra></extra>",
        )  # fmt: skip
        _upright(figure, sharpe, f"observed {sharpe:.2f}", ACCENT, left=sharpe < best)
    figure.update_xaxes(title_text="annualised Sharpe ratio")
    figure.update_yaxes(range=[-0.16 * top, 1.3 * top], showticklabels=False, showgrid=False, zeroline=False)
    return charts.styled(figure, 330).update_layout(hovermode="closest", legend={"y": -0.25})
