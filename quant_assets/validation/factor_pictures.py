"""Pictures of a factor report: a PNG for the run's metadata and SVGs for the page (see `core.drawing`)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from quant_assets.core.drawing import (
    INK,
    MUTED,
    SERIES,
    Array,
    heat_map,
    new_figure,
    only_axes,
    plain,
    thin,
    time_axes,
    to_png,
    to_svg,
)
from quant_assets.core.page import minus, ratio
from quant_assets.validation.factors import FactorReport

if TYPE_CHECKING:
    from matplotlib.axes import Axes

CURVES = 5
"""So many of the strongest factors are drawn as curves."""
_ROWS = 20


def ends(ranking: pl.DataFrame, count: int) -> pl.DataFrame:
    """The first and last `count` rows of a ranking; all of one that is not longer."""
    return ranking if ranking.height <= 2 * count else pl.concat([ranking.head(count), ranking.tail(count)])


def means(report: FactorReport, names: Sequence[str]) -> Array:
    """Mean rank IC of `names`, (names, horizons); NaN where there is none."""
    wide = report.summary.pivot(on="horizon", index="feature_name", values="mean_rank_ic", maintain_order=True)
    rows = pl.DataFrame({"feature_name": names}, schema={"feature_name": pl.String}).join(
        wide, on="feature_name", how="left", maintain_order="left"
    )
    return rows.drop("feature_name").fill_null(float("nan")).to_numpy()


def factor_png(report: FactorReport, title: str) -> bytes:
    """Mean rank IC by factor and horizon, beside the cumulative rank IC of the strongest factors; as PNG.

    Of many factors those at both ends of the ranking are shown.
    """
    shown = ends(report.ranking, _ROWS // 2)["feature_name"].to_list()
    figure = new_figure(10.5, 1.3 + max(0.22 * len(shown), 2.6))
    left, right = figure.subplots(1, 2, width_ratios=[2, 3])
    widest = max(map(len, shown))
    height = float(figure.get_size_inches()[1])
    figure.subplots_adjust(
        left=0.025 + 0.0072 * widest, right=0.985, top=1 - 0.72 / height, bottom=0.45 / height, wspace=0.14
    )
    columns = [str(horizon) for horizon in report.horizons]
    heat_map(left, means(report, shown), shown, columns, lambda value: ratio(value, 3))
    names = _draw_cumulative(right, report)
    figure.suptitle(
        title, x=0.02, y=1 - 0.16 / height, ha="left", fontsize=11, fontweight="bold", color=INK, parse_math=False
    )
    left.set_title("mean rank IC by horizon (sessions)", loc="left", fontsize=9, color=MUTED)
    right.set_title("cumulative rank IC of the strongest", loc="left", fontsize=9, color=MUTED)
    if names:
        right.legend(right.lines[1:], names, loc="best", frameon=False, fontsize=8.5, labelcolor="linecolor")
    return to_png(figure, 256)


def cumulative_svg(report: FactorReport) -> tuple[str, list[str]]:
    """Running sum of the rank IC of the strongest factors, each at its strongest horizon.

    Returns:
        The SVG and the names of its curves, in the order of `SERIES`.
    """
    figure = new_figure(10.0, 3.2)
    names = _draw_cumulative(only_axes(figure), report)
    return to_svg(figure, "cumulative", "Cumulative rank IC over time"), names


def rolling_svg(report: FactorReport, window: int) -> str:
    """Mean rank IC over the last `window` measured sessions, of the same factors."""
    figure = new_figure(10.0, 2.6)
    axes = only_axes(figure)
    curves = []
    for days, series, _ in _series(report):
        if len(series) > window:
            total = np.cumsum(np.concatenate([[0.0], series]))
            curves.append((days[window - 1 :], (total[window:] - total[:-window]) / window))
    _draw_curves(axes, curves)
    return to_svg(figure, "rolling", f"Rank IC over time, mean of {window} sessions")


def decay_svg(report: FactorReport) -> str:
    """Mean rank IC over horizons, of the same factors."""
    figure = new_figure(5.2, 2.6)
    axes = only_axes(figure)
    horizons = report.horizons
    for colour, line in zip(SERIES, means(report, report.strongest(CURVES)["feature_name"].to_list()), strict=False):
        axes.plot(range(len(horizons)), line, color=colour, linewidth=1.5, marker="o", markersize=3.5)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    plain(axes)
    axes.set_xticks(range(len(horizons)), [str(horizon) for horizon in horizons])
    axes.yaxis.set_major_formatter(lambda value, _: minus(f"{value:.2g}"))
    return to_svg(figure, "decay", "Mean rank IC by horizon")


def quantiles_svg(report: FactorReport) -> str:
    """Mean excess return per session of each quantile, lowest values first, in basis points, of the same factors."""
    figure = new_figure(5.2, 2.6)
    axes = only_axes(figure)
    rows = report.strongest(CURVES).select("feature_name", "horizon")
    groups = rows.join(report.quantiles, on=["feature_name", "horizon"], how="left", maintain_order="left")
    for at, (colour, group) in enumerate(
        zip(SERIES, groups.partition_by("feature_name", maintain_order=True), strict=False)
    ):
        excess = (group["mean_excess"].fill_null(float("nan")) / group["horizon"] * 1e4).to_numpy()
        width = 0.8 / len(excess)
        axes.bar(at + width * (np.arange(len(excess)) - (len(excess) - 1) / 2), excess, width * 0.85, color=colour)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    plain(axes)
    axes.set_xticks([])
    axes.yaxis.set_major_formatter(lambda value, _: minus(f"{value:.3g}"))
    return to_svg(figure, "quantiles", "Excess return by quantile, basis points per session")


def _series(report: FactorReport) -> list[tuple[Array, Array, str]]:
    """Sessions, rank ICs and name of each of the strongest factors, at its strongest horizon."""
    found = []
    for name, horizon in report.strongest(CURVES).select("feature_name", "horizon").iter_rows():
        rows = report.ic.filter(feature_name=name, horizon=horizon).drop_nulls("rank_ic")
        found.append(
            (rows["ts"].to_numpy().astype("datetime64[D]"), rows["rank_ic"].to_numpy(), f"{name}, {horizon} d")
        )
    return found


def _draw_cumulative(axes: "Axes", report: FactorReport) -> list[str]:
    """Draw, and return the names of the curves."""
    found = _series(report)
    _draw_curves(axes, [(days, np.cumsum(series)) for days, series, _ in found])
    return [name for _, _, name in found]


def _draw_curves(axes: "Axes", curves: Sequence[tuple[Array, Array]]) -> None:
    if not curves:
        axes.set_axis_off()
        return
    axes.axhline(0, color=MUTED, linewidth=0.8)
    for (days, line), colour in zip(curves, SERIES, strict=False):
        axes.plot(*thin(days, line), color=colour, linewidth=1.3)
    low, high = (float(pick([pick(line) for _, line in curves] + [0.0])) for pick in (min, max))
    span = np.array([min(days[0] for days, _ in curves), max(days[-1] for days, _ in curves)])
    time_axes(axes, span, low, max(high, low + 1e-9))
