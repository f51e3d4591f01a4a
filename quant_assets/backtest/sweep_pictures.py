"""Pictures of a parameter sweep: the Sharpe ratio over its parameters, and how it is distributed over the cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from quant_assets.core.drawing import ACCENT, INK, LOSS, MUTED, new_figure, only_axes, plain, to_png, to_svg

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Array = npt.NDArray[np.float64]

_LEVELS, _RANGES = 12, 8
"""So many values of a parameter are shown one by one; more are shown as so many ranges of about equally many cells."""


@dataclass(frozen=True)
class Dimension:
    """One parameter: a label per level, and each cell's level."""

    name: str
    labels: tuple[str, ...]
    codes: npt.NDArray[np.int64]

    @property
    def short(self) -> str:
        """The last part of the dotted name."""
        return self.name.rpartition(".")[2]

    def means(self, values: Array) -> Array:
        """Mean of the values per level, NaN where none is known."""
        known = ~np.isnan(values)
        counts = np.bincount(self.codes[known], minlength=len(self.labels))
        sums = np.bincount(self.codes[known], weights=values[known], minlength=len(self.labels))
        return np.divide(sums, counts, out=np.full(len(counts), np.nan), where=counts > 0)


def dimensions(changes: Sequence[Mapping[str, Any]], values: Array) -> list[Dimension]:
    """The parameters that take more than one value, the most influential first.

    Influence is the share of the variance of `values` that lies between a parameter's levels (eta squared); equal ones
    stay in the file's order.

    Args:
        changes: of each cell, parameter -> value.
        values: of each cell; NaN where unknown.
    """
    found = [_dimension(name, [one[name] for one in changes]) for name in (changes[0] if changes else ())]
    found = [one for one in found if len(one.labels) > 1]
    return sorted(found, key=lambda one: -round(_between(one, values), 12))


def _dimension(name: str, values: Sequence[Any]) -> Dimension:
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    levels = sorted(set(values)) if numeric else list(dict.fromkeys(map(str, values)))
    if not numeric or len(levels) <= _LEVELS:
        place = {value: number for number, value in enumerate(levels)}
        codes = np.array([place[value if numeric else str(value)] for value in values], np.int64)
        return Dimension(name, tuple(label(level) for level in levels), codes)
    numbers = np.array(values, np.float64)
    edges = np.unique(np.quantile(numbers, np.linspace(0, 1, _RANGES + 1)[1:-1]))
    codes = np.searchsorted(edges, numbers, side="right").astype(np.int64)
    used, codes = np.unique(codes, return_inverse=True)
    spans = [numbers[codes == level] for level in range(len(used))]
    ends = [(label(span.min(), 3), label(span.max(), 3)) for span in spans]
    return Dimension(name, tuple("\N{EN DASH}".join(dict.fromkeys(pair)) for pair in ends), codes)


def label(value: Any, digits: int = 4) -> str:
    """A parameter's value in a picture or table."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return "none" if value is None else str(value)
    return f"{value:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def signed(value: float) -> str:
    """A Sharpe ratio in two decimals, with a minus sign."""
    return f"{value:.2f}".replace("-", "\N{MINUS SIGN}")


def _between(one: Dimension, values: Array) -> float:
    means = one.means(values)[one.codes]
    known = ~np.isnan(values)
    total = float(np.var(values[known])) if known.any() else 0.0
    return float(np.var(means[known])) / total if total > 0 else 0.0


def grid_of(rows: Dimension, columns: Dimension, values: Array) -> Array:
    """Mean of the values per level of `rows` and of `columns`, over all other parameters; NaN where there is none."""
    flat = Dimension(
        "", ("",) * (len(rows.labels) * len(columns.labels)), rows.codes * len(columns.labels) + columns.codes
    )
    return flat.means(values).reshape(len(rows.labels), len(columns.labels))


def sweep_png(found: Sequence[Dimension], values: Array, title: str) -> bytes:
    """Sharpe ratio over the two most influential parameters (over one: its curve), and its distribution; as PNG."""
    figure = new_figure(9.6, 4.4)
    left, right = figure.subplots(1, 2, width_ratios=[3, 2])
    widest = max((len(text) for text in found[1].labels), default=0) if len(found) > 1 else 5
    figure.subplots_adjust(left=0.055 + 0.0085 * widest, right=0.985, top=0.86, bottom=0.14, wspace=0.22)
    if len(found) > 1:
        _draw_heat(left, found[1], found[0], values)
    elif found:
        _draw_marginal(left, found[0], values)
        left.set_xlabel(found[0].name, color=MUTED, fontsize=9, parse_math=False)
    else:
        left.set_axis_off()
    _draw_distribution(right, values)
    right.set_xlabel("cells by Sharpe ratio", color=MUTED, fontsize=9)
    figure.suptitle(title, x=0.02, y=0.965, ha="left", fontsize=11, fontweight="bold", color=INK, parse_math=False)
    return to_png(figure)


def marginal_svg(one: Dimension, values: Array) -> str:
    """Mean Sharpe ratio per level of a parameter, with its lowest and highest cell."""
    figure = new_figure(5.2, 2.1)
    _draw_marginal(only_axes(figure), one, values)
    return to_svg(figure, f"marginal-{one.short}", "Sharpe ratio by parameter")


def distribution_svg(values: Array, bar: float | None = None) -> str:
    """Histogram of the cells' Sharpe ratios with median and best marked, and `bar` where there is one."""
    figure = new_figure(10.0, 2.6)
    axes = only_axes(figure)
    _draw_distribution(axes, values, bar)
    return to_svg(figure, "distribution", "Distribution of the Sharpe ratio over cells")


def _draw_heat(axes: "Axes", rows: Dimension, columns: Dimension, values: Array) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    matrix = grid_of(rows, columns, values)
    reach = float(np.nanmax(np.abs(matrix), initial=0.0)) or 1.0
    colours = LinearSegmentedColormap.from_list("sharpe", [LOSS, "#ffffff", ACCENT])
    axes.imshow(matrix, cmap=colours, vmin=-reach, vmax=reach, aspect="auto", origin="lower")
    few = matrix.size <= _LEVELS * _LEVELS
    for (row, column), value in np.ndenumerate(matrix) if few else ():
        if not np.isnan(value):
            ink = "#ffffff" if abs(value) > 0.7 * reach else INK
            axes.text(column, row, signed(value), ha="center", va="center", fontsize=7.5, color=ink)
    plain(axes)
    axes.grid(visible=False)
    for axis, one in ((axes.xaxis, columns), (axes.yaxis, rows)):
        axis.set_ticks(range(len(one.labels)), one.labels, parse_math=False)
        axis.set_label_text(one.name, color=MUTED, fontsize=9, parse_math=False)
    if max(map(len, columns.labels)) > 5:
        axes.tick_params(axis="x", rotation=30)


def _draw_marginal(axes: "Axes", one: Dimension, values: Array) -> None:
    at = np.arange(len(one.labels))
    low, high = (np.array([_extreme(values[one.codes == level], which) for level in at]) for which in (np.min, np.max))
    axes.fill_between(at, low, high, color=ACCENT, alpha=0.15, linewidth=0)
    axes.plot(at, one.means(values), color=ACCENT, linewidth=1.5, marker="o", markersize=3.5)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    plain(axes)
    axes.set_xticks(at, one.labels, parse_math=False)
    if max(map(len, one.labels)) > 5:
        axes.tick_params(axis="x", labelsize=7.5)


def _extreme(values: Array, which: Any) -> float:
    known = values[~np.isnan(values)]
    return float(which(known)) if len(known) else float("nan")


def _draw_distribution(axes: "Axes", values: Array, bar: float | None = None) -> None:
    from matplotlib.ticker import MaxNLocator

    known = values[~np.isnan(values)]
    plain(axes)
    if not len(known):
        axes.set_axis_off()
        return
    axes.hist(known, bins=min(40, max(5, round(len(known) ** 0.5 * 2))), color=ACCENT, alpha=0.35)
    top = axes.get_ylim()[1]
    axes.set_ylim(0, top * 1.14)
    marks = [("median", float(np.median(known)), MUTED), ("best", float(known.max()), ACCENT)]
    if bar is not None:
        marks.append(("luck alone", bar, LOSS))
    axes.set_xlim(
        min(axes.get_xlim()[0], *(at for _, at, _ in marks)), max(axes.get_xlim()[1], *(at for _, at, _ in marks))
    )
    middle = sum(axes.get_xlim()) / 2
    for number, (name, at, colour) in enumerate(marks):
        axes.axvline(at, color=colour, linewidth=1.3, linestyle="--" if name == "luck alone" else "-")
        side = "left" if at < middle else "right"
        axes.annotate(
            f"{name} {signed(at)}",
            (at, top * (1.08 - 0.09 * number)),
            (4 if side == "left" else -4, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            color=colour,
            fontsize=8.5,
        )
    axes.xaxis.set_major_locator(MaxNLocator(6))
