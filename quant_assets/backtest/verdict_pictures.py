"""Pictures of a validation: PNGs for the run's metadata and SVGs for the page (see `core.drawing`).

What was chosen without having seen the days it is drawn over has the accent colour; the strategy as its file has it is
grey.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from quant_assets.backtest.sweep_pictures import Dimension, dimensions, grid_of
from quant_assets.core.drawing import (
    ACCENT,
    BENCHMARK,
    GRID,
    INK,
    LOSS,
    MUTED,
    Array,
    heat_map,
    log_time_axes,
    new_figure,
    only_axes,
    plain,
    thin,
    time_axes,
    to_png,
    to_svg,
)
from quant_assets.core.page import minus, ratio
from quant_assets.validation.cpcv import Combinatorial
from quant_assets.validation.out_of_sample import InOutSample, WalkForward
from quant_assets.validation.pbo import Overfitting
from quant_assets.validation.sharpe import Deflated

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

BEST, OWN = "\N{BLACK STAR}", "\N{BLACK CIRCLE}"
"""Marks in the map of parameters: the best configuration, and the strategy as its file has it."""
SCATTERED = 400
"""So many combinations are drawn of PBO, spread evenly over the ratio in sample."""
PATHS = 40
"""So many paths are drawn as curves, spread evenly over their ratios."""

_PATH_POINTS, _DOTS, _RUINED, _LETTERS = 4_000, 20, 1e-3, 18


@dataclass(frozen=True)
class Parameters:
    """What the rows of a returns matrix vary, and where the strategy stands in it."""

    found: tuple[Dimension, ...]
    """The most influential first; the level of a row whose values are unknown is -1."""
    sharpes: Array
    """(configurations,); NaN where undefined, and of row 0 where its values are unknown."""

    @property
    def best(self) -> int | None:
        """The row of the highest ratio, the first of equal ones."""
        return None if np.isnan(self.sharpes).all() else int(np.nanargmax(self.sharpes))

    def map(self) -> tuple[Dimension, Dimension, Array]:
        """Rows, columns and mean ratio of the two parameters that matter most; of one, a single row."""
        columns = self.found[0]
        rows = self.found[1] if len(self.found) > 1 else Dimension("", ("",), np.zeros_like(columns.codes))
        return rows, columns, grid_of(rows, columns, self.sharpes)

    def marks(self) -> dict[tuple[int, int], str]:
        """(row, column) of the map -> its marks."""
        rows, columns, _ = self.map()
        found: dict[tuple[int, int], str] = {}
        for number, mark in ((self.best, BEST), (0, OWN)):
            if number is not None and columns.codes[number] >= 0:
                place = int(rows.codes[number]), int(columns.codes[number])
                found[place] = found.get(place, "") + mark
        return found


def parameters(changes: Sequence[Mapping[str, Any]], sharpes: Array) -> Parameters:
    """The parameters that take more than one value over the rows of a returns matrix.

    Args:
        changes: of each row, parameter -> value; nothing of row 0, the strategy, where its values are unknown.
        sharpes: of each row.
    """
    if changes[0]:
        return Parameters(tuple(dimensions(changes, sharpes)), sharpes)
    known = np.append(np.nan, sharpes[1:])
    found = [replace(one, codes=np.append(-1, one.codes)) for one in dimensions(changes[1:], known[1:])]
    return Parameters(tuple(found), known)


def walk_svg(walk: WalkForward, written: Array) -> str:
    """The joined curve and the strategy's own returns over the same sessions, both 1 before the first of them."""
    figure = new_figure(10.0, 3.4)
    _draw_walk(only_axes(figure), walk, written)
    return to_svg(figure, "walk", "Walk-forward curve out of sample over time")


def in_out_svg(split: InOutSample, days: Array, chosen: Array, written: Array) -> str:
    """Growth of the configuration chosen in sample, and of the strategy, with the days out of sample shaded."""
    figure = new_figure(10.0, 2.6)
    axes = only_axes(figure)
    axes.axvspan(*np.array([split.split, days[-1]], "datetime64[D]"), color=ACCENT, alpha=0.1, linewidth=0)
    _draw_growth(axes, days, [(written, BENCHMARK, 1.1), (chosen, ACCENT, 1.3)])
    return to_svg(figure, "in-out", "Growth in and out of sample over time")


def drift_svg(walk: WalkForward, found: Sequence[Dimension]) -> str:
    """The level of each parameter in each window as steps; the strategy's own as a dashed line."""
    from matplotlib.dates import date2num

    heights = [0.55 + 0.13 * min(len(one.labels), 12) for one in found]
    figure = new_figure(10.0, sum(heights) + 0.3)
    panels = figure.subplots(len(found), 1, sharex=True, squeeze=False, height_ratios=heights)[:, 0]
    widest = max(len(text[:_LETTERS]) for one in found for text in one.labels)
    figure.subplots_adjust(
        left=0.03 + 0.0072 * widest, right=0.992, top=1 - 0.24 / sum(heights), bottom=0.27 / sum(heights), hspace=0.42
    )
    edges = _edges(walk)
    chosen = [window.chosen for window in walk.windows]
    for axes, one in zip(panels, found, strict=True):
        levels = np.where(one.codes[chosen] < 0, np.nan, one.codes[chosen])
        if one.codes[0] >= 0:
            axes.axhline(one.codes[0], color=MUTED, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.stairs(levels, date2num(edges), baseline=None, color=ACCENT, linewidth=2.0)
        time_axes(axes, edges, 0.0, 1.0)
        axes.set_ylim(-0.5, len(one.labels) - 0.5)
        shown = range(0, len(one.labels), math.ceil(len(one.labels) / 6))
        axes.set_yticks(shown, [one.labels[level][:_LETTERS] for level in shown], parse_math=False)
        axes.set_title(one.short, loc="left", fontsize=9, color=INK, pad=3, parse_math=False)
    return to_svg(figure, "drift", "Parameters chosen in each window over time")


def paths_svg(found: Combinatorial, days: Array, written: Array) -> str:
    """Growth along each path, and of the strategy."""
    figure = new_figure(5.2, 2.6)
    _draw_paths(only_axes(figure), found, days, written)
    return to_svg(figure, "paths", "Growth along each path over time")


def path_sharpes_svg(found: Combinatorial) -> str | None:
    """The ratios of the paths, as dots or, of many, as a histogram; None where none is defined."""
    if not np.isfinite(found.sharpes).any():
        return None
    figure = new_figure(5.2, 2.6)
    _draw_path_sharpes(only_axes(figure), found)
    return to_svg(figure, "path-sharpes", "Sharpe ratio of each path")


def logits_svg(found: Overfitting) -> str:
    """Histogram of the logits; those at or below 0, whose share is the PBO, in red."""
    figure = new_figure(5.2, 2.6)
    _draw_logits(only_axes(figure), found)
    return to_svg(figure, "logits", "Distribution of logits")


def logit_counts(logits: Array) -> tuple[Array, Array]:
    """Edges of 40 spans around 0, and how many logits lie in each: a span has its upper edge, so that 0 is overfitted.

    Example:
        >>> edges, counts = logit_counts(np.array([-1.0, 0.0, 2.0]))
        >>> int(counts[edges[1:] <= 0].sum()), int(counts.sum())
        (2, 3)
    """
    known = logits[np.isfinite(logits)]
    edges = np.arange(-20, 21) * ((float(np.abs(known).max(initial=0.0)) or 1.0) * 1.0001 / 20)
    return edges, np.histogram(-known, edges)[0][::-1]


def degradation_svg(found: Overfitting) -> str:
    """Ratio out of sample over that in sample of the configuration chosen in each combination; least squares."""
    figure = new_figure(5.2, 2.6)
    axes = only_axes(figure)
    figure.subplots_adjust(bottom=0.19)
    defined = np.flatnonzero(np.isfinite(found.is_sharpe) & np.isfinite(found.oos_sharpe))
    order = defined[np.argsort(found.is_sharpe[defined], kind="stable")]
    shown = order[_spread(len(order), SCATTERED)]
    size = 3 if len(shown) > 100 else 6
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.plot(found.is_sharpe[shown], found.oos_sharpe[shown], "o", color=ACCENT, alpha=0.3, markersize=size, mew=0)
    if len(shown) and math.isfinite(found.slope):
        ends = found.is_sharpe[shown[[0, -1]]]
        axes.plot(ends, found.intercept + found.slope * ends, color=INK, linewidth=1.3)
    plain(axes)
    _number_ticks(axes)
    axes.set_xlabel("in sample", color=MUTED, fontsize=9)
    return to_svg(figure, "degradation", "Sharpe ratio out of sample over that in sample")


def deflated_svg(found: Deflated) -> str:
    """The observed ratio with its interval, above the best that trials without skill would show."""
    figure = new_figure(10.0, 1.7)
    axes = only_axes(figure)
    figure.subplots_adjust(left=0.2)
    rows = [
        ("observed", found.sharpe, ACCENT, "o"),
        (f"luck, {found.trials:,} trials", found.expected_maximum, LOSS, "D"),
        (f"luck, {ratio(found.effective_trials, 1)} effective", found.effective_expected_maximum, LOSS, "d"),
    ]
    for line, (_, value, colour, marker) in enumerate(rows):
        axes.plot([value], [line], marker, color=colour, markersize=8)
        if math.isfinite(value):
            axes.annotate(
                ratio(value), (value, line), (0, 8), textcoords="offset points", ha="center", color=colour, fontsize=8.5
            )
    if found.interval is not None:
        axes.plot([found.interval.low, found.interval.high], [0, 0], color=ACCENT, alpha=0.35, linewidth=6)
    axes.axvline(0, color=MUTED, linewidth=0.8)
    plain(axes)
    axes.grid(visible=False, axis="y")
    axes.set_yticks(range(len(rows)), [name for name, *_ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.75)
    axes.margins(x=0.08)
    _number_ticks(axes)
    return to_svg(figure, "deflated", "Observed Sharpe ratio and what luck alone would show")


def walk_png(walk: WalkForward, written: Array, title: str) -> bytes:
    """As `walk_svg`."""
    figure, axes = _titled(title, (("walk-forward", ACCENT), ("as written", MUTED)))
    _draw_walk(axes, walk, written)
    return to_png(figure)


def paths_png(found: Combinatorial, title: str) -> bytes:
    """As `path_sharpes_svg`."""
    figure, axes = _titled(title, ())
    _draw_path_sharpes(axes, found)
    return to_png(figure)


def logits_png(found: Overfitting, title: str) -> bytes:
    """As `logits_svg`."""
    figure, axes = _titled(title, ())
    _draw_logits(axes, found)
    return to_png(figure)


def parameters_png(found: Parameters, title: str) -> bytes:
    """Mean ratio over the two parameters that matter most, with the best cell and the strategy marked."""
    rows, columns, matrix = found.map()
    figure, axes = _titled(title, ((f"{BEST} best of all", MUTED), (f"{OWN} as written", MUTED)))
    down, across = ([text[:_LETTERS] for text in one.labels] for one in (rows, columns))
    widest = max(map(len, down))
    figure.subplots_adjust(left=0.07 + 0.0085 * widest, bottom=0.14)
    heat_map(axes, matrix, down, across, ratio if matrix.size <= 200 else None)
    reach = float(np.nanmax(np.abs(matrix), initial=0.0))
    for (row, column), marks in found.marks().items():
        ink = "#ffffff" if abs(matrix[row, column]) > 0.7 * reach else INK
        axes.text(column, row - 0.3, marks, ha="center", va="center", fontsize=8, color=ink)
    for axis, one in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_label_text(one.name, color=MUTED, fontsize=9, parse_math=False)
    return to_png(figure, 256)


def _titled(title: str, names: Sequence[tuple[str, str]]) -> tuple["Figure", "Axes"]:
    """A figure for a PNG; `names` and their colours stand on the right, above the axes."""
    figure = new_figure(9.0, 4.2)
    axes = figure.subplots()
    figure.subplots_adjust(left=0.06, right=0.985, top=0.88, bottom=0.08)
    figure.text(0.012, 0.94, title, fontsize=11, fontweight="bold", color=INK, parse_math=False)
    for number, (name, colour) in enumerate(reversed(names)):
        figure.text(0.985 - 0.13 * number, 0.94, name, ha="right", color=colour, fontsize=9)
    return figure, axes


def _growth(returns: Array) -> Array:
    """1, then what it has become after each session; a ruined account stays at a thousandth."""
    return np.maximum(np.append(1.0, np.cumprod(1.0 + np.maximum(returns, -1.0))), _RUINED)


def _spread(count: int, shown: int) -> Array:
    """Up to `shown` places, evenly spread over `count`, both ends among them."""
    return np.unique(np.linspace(0, count - 1, min(count, shown)).round().astype(np.int64))


def _edges(walk: WalkForward) -> Array:
    """First session of each window's part of the joined curve, and the last of all."""
    starts = [np.datetime64(window.test_first, "D") for window in walk.windows]
    return np.array([*starts, walk.days[-1].astype("datetime64[D]")])


def _draw_growth(
    axes: "Axes", days: Array, lines: Sequence[tuple[Array, str, float]], points: int | None = None
) -> None:
    """Growth of 1 on a logarithmic axis by (returns, colour, line width) of each line, at so many `points` of it."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator

    days = np.append(days[0] - np.timedelta64(1, "D"), days)
    curves = [_growth(returns) for returns, *_ in lines]
    some = _spread(len(days), points or len(days))
    for curve, (_, colour, width) in zip(curves, lines, strict=True):
        axes.plot(*thin(days[some], curve[some]), color=colour, linewidth=width)
    low, high = min(curve.min() for curve in curves), max(curve.max() for curve in curves)
    log_time_axes(axes, days, low, high)
    wide = high > 5 * low
    axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)) if wide else MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))


def _draw_walk(axes: "Axes", walk: WalkForward, written: Array) -> None:
    edges = _edges(walk)
    for start, end in zip(edges[:-1:2], edges[1::2], strict=False):
        axes.axvspan(start, end, color=GRID, alpha=0.55, linewidth=0)
    _draw_growth(axes, walk.days, [(written, BENCHMARK, 1.1), (walk.returns, ACCENT, 1.5)])


def _draw_paths(axes: "Axes", found: Combinatorial, days: Array, written: Array) -> None:
    shown = np.argsort(found.sharpes, kind="stable")[_spread(len(found.sharpes), PATHS)]
    lines = [(found.returns[path], ACCENT, 0.8) for path in np.sort(shown)]
    _draw_growth(axes, days, [*lines, (written, BENCHMARK, 1.3)], max(_PATH_POINTS // len(shown), 60))
    for line in axes.lines[:-1]:
        line.set_alpha(0.55)


def _draw_path_sharpes(axes: "Axes", found: Combinatorial) -> None:
    known = found.sharpes[np.isfinite(found.sharpes)]
    plain(axes)
    if len(known) > _DOTS:
        axes.hist(known, bins=min(40, round(len(known) ** 0.5 * 2)), color=ACCENT, alpha=0.35)
        _whole_ticks(axes)
    else:
        axes.plot(known, np.zeros(len(known)), "o", color=ACCENT, alpha=0.7, markersize=9, mew=0)
        axes.set_ylim(-1, 1)
        axes.set_yticks([])
    _mark(axes, [("as written", found.written, INK), ("median", float(np.median(known)), ACCENT)])


def _draw_logits(axes: "Axes", found: Overfitting) -> None:
    edges, counts = logit_counts(found.logits)
    middles, width = edges[:-1] + np.diff(edges) / 2, edges[1] - edges[0]
    colours = [LOSS if middle < 0 else ACCENT for middle in middles]
    axes.bar(middles, counts, width * 0.9, color=colours, alpha=0.75, linewidth=0)
    plain(axes)
    _whole_ticks(axes)
    shares = ((f"{found.pbo * 100:.0f}% at or below 0", 0.02, LOSS), ("above the median", 0.98, ACCENT))
    axes.set_ylim(0, max(counts.max() * 1.2, 1))
    for text, place, colour in shares:
        side = "left" if place < 0.5 else "right"
        axes.text(place, 0.96, text, ha=side, va="top", color=colour, fontsize=8.5, transform=axes.transAxes)
    axes.axvline(0, color=MUTED, linewidth=1.0)
    axes.xaxis.set_major_formatter(lambda value, _: minus(f"{value:g}"))


def _mark(axes: "Axes", marks: Sequence[tuple[str, float, str]]) -> None:
    """Zero, and lines at (name, place, colour) of the x axis with room for their names, outwards and one below another.

    Args:
        marks: two; one at NaN is left out.
    """
    known = sorted((mark for mark in marks if math.isfinite(mark[1])), key=lambda mark: mark[1])
    places = [0.0, *(at for _, at, _ in known), *axes.get_xlim()]
    span = max(places) - min(places)
    ends = min(min(places) - 0.03 * span, known[0][1] - 0.3 * span), max(*places, known[-1][1] + 0.3 * span)
    axes.set_xlim(*ends)
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, bottom + (top - bottom) / (1 - 0.1 * len(known)))
    axes.axvline(0, color=MUTED, linewidth=1.2, linestyle=(0, (4, 3)))
    for number, (name, at, colour) in enumerate(known):
        axes.axvline(at, color=colour, linewidth=1.2)
        axes.annotate(
            f"{name} {ratio(at)}",
            (at, 0.94 - 0.1 * number),
            (4 if number else -4, 0),
            xycoords=axes.get_xaxis_transform(),
            textcoords="offset points",
            ha="left" if number else "right",
            va="center",
            color=colour,
            fontsize=8.5,
        )
    _number_ticks(axes)


def _number_ticks(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(lambda value, _: minus(f"{value:.3g}"))


def _whole_ticks(axes: "Axes") -> None:
    from matplotlib.ticker import MaxNLocator

    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
