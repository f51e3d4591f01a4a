"""Pictures of a backtest: a PNG for the run's metadata and SVGs for the report (see `core.drawing`)."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from quant_assets.backtest import analysis, metrics
from quant_assets.core.drawing import (
    ACCENT,
    BENCHMARK,
    INK,
    LOSS,
    MUTED,
    POINTS,
    SERIES,
    Array,
    heat_map,
    log_time_axes,
    new_figure,
    only_axes,
    percent,
    plain,
    thin,
    time_axes,
    to_png,
    to_svg,
)
from quant_assets.core.drawing import THEME as THEME
from quant_assets.core.drawing import png_markdown as png_markdown
from quant_assets.core.page import ratio

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def equity_png(equity: pl.DataFrame, title: str, benchmark: pl.DataFrame | None = None) -> bytes:
    """Equity on a logarithmic axis with its drawdown below, as PNG (below 60 kB).

    Args:
        equity: `backtest_equity` rows: ts, equity, drawdown.
        title: shown as it is.
        benchmark: ts, equity of something to compare with, drawn grey.
    """
    figure = new_figure(9.0, 4.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    figure.subplots_adjust(left=0.075, right=0.985, top=0.9, bottom=0.075, hspace=0.09)
    _draw_equity(top, equity, benchmark)
    _draw_drawdown(bottom, equity)
    top.tick_params(labelbottom=False)
    top.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10, parse_math=False)
    if benchmark is not None:
        for label, colour, right in (("strategy", ACCENT, 0.86), ("buy and hold", MUTED, 1.0)):
            top.text(right, 1.04, label, transform=top.transAxes, ha="right", color=colour, fontsize=9)
    return to_png(figure)


def tear_png(
    equity: pl.DataFrame, title: str, benchmark: pl.DataFrame, correlations: pl.DataFrame, initial: float, year: int
) -> bytes:
    """Rolling Sharpe ratio, drawdown, monthly returns and correlations in one PNG (below 80 kB).

    Args:
        equity: `backtest_equity` rows: ts, equity, ret, drawdown.
        title: shown as it is.
        benchmark: ts, equity over the same sessions, drawn grey.
        correlations: `backtest_correlations` rows.
        initial: equity before the first session.
        year: sessions per year.
    """
    figure = new_figure(11.0, 6.2)
    grid = figure.add_gridspec(2, 2, width_ratios=[1, 1.05], left=0.05, right=0.985, top=0.875, bottom=0.06)
    grid.update(hspace=0.3, wspace=0.19)
    panels = [figure.add_subplot(grid[row, column]) for row in range(2) for column in range(2)]
    window = analysis.rolling_window(year)
    heads = (f"Sharpe ratio of {window} sessions", "Monthly returns, %", "Drawdown", "Correlation of daily returns")
    for axes, head in zip(panels, heads, strict=True):
        axes.set_title(head, loc="left", fontsize=9.5, color=MUTED, pad=7)
    sharpe, months, fall, pairs = panels
    curve = analysis.curve_of(equity, initial, year)
    other = analysis.curve_of(benchmark, initial, year)
    lines = [metrics.rolling_sharpe(one.returns, window, year) for one in (curve, other)]
    if len(lines[0]) > 1:
        _draw_rolling(sharpe, curve.days, lines)
    else:
        _say(sharpe, "the period is shorter")
    _draw_drawdown(fall, equity, metrics.drawdowns(other.equity, initial))
    _draw_months(months, equity, initial)
    _draw_correlations(pairs, correlations)
    figure.text(0.012, 0.955, title, fontsize=11, fontweight="bold", color=INK, parse_math=False)
    for label, colour, right in (("strategy", ACCENT, 0.9), ("buy and hold", MUTED, 0.985)):
        figure.text(right, 0.955, label, ha="right", color=colour, fontsize=9)
    return to_png(figure, 256)


def equity_svg(
    equity: pl.DataFrame, benchmark: pl.DataFrame | None = None, falls: Sequence[metrics.Drawdown] = ()
) -> str:
    """Equity on a logarithmic axis, the benchmark behind it, and `falls` as shades from peak to recovery."""
    figure = new_figure(10.0, 3.6)
    axes = only_axes(figure)
    days = _days(equity)
    for fall in falls:
        ends = np.datetime64(fall.peak or days[0], "D"), np.datetime64(fall.end or days[-1], "D")
        axes.axvspan(*ends, color=LOSS, alpha=0.1, linewidth=0)  # type: ignore[arg-type]
    _draw_equity(axes, equity, benchmark)
    return to_svg(figure, "equity", "Equity over time")


def drawdown_svg(equity: pl.DataFrame, benchmark: Array | None = None) -> str:
    """Equity below its running maximum, and the same of the benchmark, one value per session."""
    figure = new_figure(5.2, 2.1)
    _draw_drawdown(only_axes(figure), equity, benchmark)
    return to_svg(figure, "drawdown", "Drawdown over time")


def rolling_svg(days: Array, lines: Sequence[Array], name: str, label: str, *, share: bool = False) -> str | None:
    """Values of the last sessions of `days` over time, a benchmark's second; None where there are fewer than two.

    Args:
        days: every session of the period, which the axis shows.
        lines: equally long.
        name: keeps ids apart.
        label: for those who cannot see it.
        share: ticks are percentages.
    """
    if len(lines[0]) < 2:
        return None
    figure = new_figure(5.2, 2.1)
    axes = only_axes(figure)
    _draw_rolling(axes, days, lines)
    if share:
        axes.yaxis.set_major_formatter(percent)
    return to_svg(figure, name, label)


def yearly_svg(years: Sequence[int], lines: Sequence[Sequence[float]]) -> str:
    """Return of each year as bars, a benchmark's beside them."""
    figure = new_figure(5.2, 2.4)
    axes = only_axes(figure)
    _draw_bars(axes, np.arange(len(years)), [np.array(line) for line in lines])
    step = math.ceil(len(years) / 12)
    axes.set_xticks(range(0, len(years), step), [str(year) for year in years[::step]])
    return to_svg(figure, "yearly", "Return of each year")


def distribution_svg(values: Array, benchmark: Array | None = None) -> str:
    """Histogram of monthly returns with its mean; a benchmark's as an outline."""
    figure = new_figure(5.2, 2.4)
    axes = only_axes(figure)
    every = values if benchmark is None else np.concatenate((values, benchmark))
    low, high = float(every.min()), float(every.max())
    width = max((high - low) / 24, 0.0025)
    edges = np.arange(math.floor(low / width), math.ceil(high / width) + 2) * width
    counts, _ = np.histogram(values, edges)
    colours = [ACCENT if middle >= 0 else LOSS for middle in edges[:-1] + width / 2]
    axes.bar(edges[:-1] + width / 2, counts, width * 0.86, color=colours, alpha=0.85, linewidth=0)
    if benchmark is not None:
        axes.stairs(np.histogram(benchmark, edges)[0], edges, color=BENCHMARK, linewidth=1.2)
    axes.axvline(float(values.mean()), color=INK, linewidth=1.0, linestyle=(0, (3, 2)))
    plain(axes)
    axes.yaxis.get_major_locator().set_params(integer=True, nbins=5)  # type: ignore[call-arg]
    axes.xaxis.set_major_formatter(percent)
    return to_svg(figure, "distribution", "Distribution of monthly returns")


def exposure_svg(days: Array, long: Array, short: Array) -> str:
    """Long weights above zero and short ones below, and their sum as a line."""
    figure = new_figure(5.2, 2.1)
    axes = only_axes(figure)
    for side, colour in ((long, ACCENT), (short, LOSS)):
        at, line = thin(days, side)
        axes.fill_between(at, line, 0.0, color=colour, alpha=0.3, linewidth=0)
    axes.plot(*thin(days, long + short), color=INK, linewidth=0.9)
    time_axes(axes, days, float(short.min()), max(float(long.max()), 0.01))
    axes.yaxis.set_major_formatter(percent)
    return to_svg(figure, "exposure", "Long, short and net exposure over time")


def turnover_svg(equity: pl.DataFrame) -> str:
    """One-way turnover of each month, a share of equity, as steps."""
    from matplotlib.dates import date2num

    monthly = equity.group_by(pl.col("ts").dt.truncate("1mo"), maintain_order=True).agg(pl.col("turnover").sum())
    days, values = _days(monthly), monthly["turnover"].to_numpy()
    ends = np.append(days, days[-1].astype("datetime64[M]") + 1).astype("datetime64[D]")
    figure = new_figure(5.2, 2.1)
    axes = only_axes(figure)
    axes.stairs(values, date2num(ends), fill=True, color=ACCENT, alpha=0.8, linewidth=0)
    time_axes(axes, ends, 0.0, max(float(values.max()), 0.01))
    axes.yaxis.set_major_formatter(percent)
    return to_svg(figure, "turnover", "Turnover of each month")


def rebased_svg(curves: pl.DataFrame) -> str:
    """Several curves on a logarithmic axis: ts, then one column each, in the order of `SERIES`."""
    figure = new_figure(10.0, 3.8)
    _draw_rebased(only_axes(figure), curves)
    return to_svg(figure, "rebased", "Equity of each over time, 1 at the start")


def rebased_png(curves: pl.DataFrame, labels: Sequence[str]) -> bytes:
    """As `rebased_svg`, with the labels above, as PNG (below 60 kB)."""
    figure = new_figure(9.0, 4.6)
    axes = figure.subplots()
    rows = math.ceil(len(labels) / 3)
    figure.subplots_adjust(left=0.06, right=0.985, top=0.95 - 0.05 * rows, bottom=0.07)
    _draw_rebased(axes, curves)
    for number, label in enumerate(labels):
        place = (0.008 + 0.33 * (number % 3), 0.97 - 0.05 * (number // 3))
        figure.text(*place, label[:44], color=SERIES[number % len(SERIES)], fontsize=9.5, va="top", parse_math=False)
    return to_png(figure)


def weights_svg(weights: pl.DataFrame, equity: pl.DataFrame) -> tuple[str, list[str]]:
    """Weights stacked over time, shorts below zero.

    Args:
        weights: ts, symbol, weight, without zeros.
        equity: its ts are the sessions shown.

    Returns:
        The SVG and the symbols in the order of `SERIES`: the nine heaviest on average, then "other" where more
        were held.
    """
    names = analysis.heaviest(weights, weights.height)
    shown = names if len(names) <= len(SERIES) - 1 else names[: len(SERIES) - 1]
    days = _days(equity)
    spans = np.unique(np.linspace(0, len(days) - 1, min(len(days), POINTS // 2)).astype(np.int64))
    picked = weights.filter(pl.col("ts").is_in(equity["ts"].gather(spans).implode()))
    stack = np.zeros((2, len(shown) + 1, len(spans)))
    code = {name: n for n, name in enumerate(shown)}
    at = np.searchsorted(days[spans], picked["ts"].to_numpy().astype("datetime64[D]"))
    layer = np.array([code.get(name, len(shown)) for name in picked["symbol"]], dtype=np.int64)
    share = picked["weight"].to_numpy()
    np.add.at(stack, ((share < 0).astype(np.int64), layer, at), share)
    figure = new_figure(10.0, 2.6)
    axes = only_axes(figure)
    for side in stack:
        upper = np.cumsum(side, axis=0)
        for n, edge in enumerate(upper):
            if side[n].any():
                colour = SERIES[n] if n < len(shown) else SERIES[-1]
                below = upper[n - 1] if n else np.zeros(len(spans))
                axes.fill_between(days[spans], below, edge, color=colour, alpha=0.9, linewidth=0, step="post")
    time_axes(axes, days, float(stack[1].sum(axis=0).min()), max(float(stack[0].sum(axis=0).max()), 0.01), pad=0.0)
    axes.yaxis.set_major_formatter(percent)
    return to_svg(figure, "weights", "Weights over time"), shown + (["other"] if len(names) > len(shown) else [])


def _draw_equity(axes: "Axes", equity: pl.DataFrame, benchmark: pl.DataFrame | None) -> None:
    values = equity["equity"].to_numpy()
    low, high = float(values.min()), float(values.max())
    if benchmark is not None:
        other = benchmark["equity"].to_numpy()
        low, high = min(low, float(other.min())), max(high, float(other.max()))
        axes.plot(*thin(_days(benchmark), other), color=BENCHMARK, linewidth=1.1)
    axes.plot(*thin(_days(equity), values), color=ACCENT, linewidth=1.5)
    _log_axis(axes, _days(equity), low, high)


def _log_axis(axes: "Axes", days: Array, low: float, high: float) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter

    axes.yaxis.set_major_locator(FixedLocator(_money_ticks(*log_time_axes(axes, days, low, high))))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _money(value)))


def _draw_drawdown(axes: "Axes", equity: pl.DataFrame, benchmark: Array | None = None) -> None:
    days, line = thin(_days(equity), equity["drawdown"].to_numpy())
    low = float(line.min())
    if benchmark is not None:
        low = min(low, float(benchmark.min()))
        axes.plot(*thin(_days(equity), benchmark), color=BENCHMARK, linewidth=0.8)
    axes.fill_between(days, line, 0.0, color=LOSS, alpha=0.25, linewidth=0)
    axes.plot(days, line, color=LOSS, linewidth=0.9)
    time_axes(axes, _days(equity), min(low, -0.01), 0.0)
    axes.yaxis.set_major_formatter(percent)


def _draw_rolling(axes: "Axes", days: Array, lines: Sequence[Array]) -> None:
    axes.axhline(0, color=MUTED, linewidth=0.8)
    looks = ((ACCENT, 1.2), (BENCHMARK, 0.9))
    for line, (colour, width) in reversed(list(zip(lines, looks, strict=False))):
        axes.plot(*thin(days[len(days) - len(line) :], line), color=colour, linewidth=width)
    low, high = min(line.min() for line in lines), max(line.max() for line in lines)
    time_axes(axes, days, float(min(low, 0)), float(max(high, 0)))


def _draw_bars(axes: "Axes", places: Array, lines: Sequence[Array]) -> None:
    """Bars side by side, the second in the benchmark's colour."""
    width = 0.8 / len(lines)
    for number, (values, colour) in enumerate(zip(lines, (ACCENT, BENCHMARK), strict=False)):
        axes.bar(places + (number + 0.5) * width - 0.4, values, width * 0.92, color=colour, linewidth=0)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    plain(axes)
    axes.yaxis.set_major_formatter(percent)


def _draw_rebased(axes: "Axes", curves: pl.DataFrame) -> None:
    values = curves.drop("ts").to_numpy()
    for number in reversed(range(values.shape[1])):
        line = thin(_days(curves), values[:, number])
        axes.plot(*line, color=SERIES[number % len(SERIES)], linewidth=1.4)
    _log_axis(axes, _days(curves), float(values.min()), float(values.max()))


def _draw_months(axes: "Axes", equity: pl.DataFrame, initial: float) -> None:
    found = metrics.monthly_returns(equity["ts"].to_list(), equity["equity"].to_numpy(), initial)
    years = sorted({year for year, _ in found})
    matrix = np.array([[found.get((year, month), np.nan) for month in range(1, 13)] for year in years])
    small = len(years) <= 12
    heat_map(
        axes,
        matrix,
        [str(year) for year in years],
        list("JFMAMJJASOND"),
        (lambda value: ratio(value * 100, 1)) if small else None,
    )


def _draw_correlations(axes: "Axes", correlations: pl.DataFrame) -> None:
    names, matrix = square(correlations, 8)
    if len(names) < 3:
        _say(axes, "nothing was held")
        return
    rows = [name.strip("()")[:9] for name in names]
    few = len(rows) <= 7
    heat_map(axes, matrix, rows, rows if few else [name.partition("/")[0] for name in rows], ratio)
    if not few:
        axes.tick_params(labelsize=6.5)


def square(correlations: pl.DataFrame, symbols: int) -> tuple[list[str], Array]:
    """Portfolio, benchmark and the first `symbols` symbols of `backtest_correlations` rows as a full matrix.

    The diagonal is 1, an unknown correlation NaN.
    """
    found = list(dict.fromkeys([*correlations["symbol"], *correlations["other"]]))[: symbols + 2]
    place = {name: number for number, name in enumerate(found)}
    matrix = np.full((len(found), len(found)), np.nan)
    np.fill_diagonal(matrix, 1.0)
    for one, other, value in correlations.select("symbol", "other", "correlation").iter_rows():
        if one in place and other in place and value is not None:
            matrix[place[one], place[other]] = matrix[place[other], place[one]] = value
    return found, matrix


def _say(axes: "Axes", text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color=MUTED, fontsize=9, transform=axes.transAxes)
    axes.set_axis_off()


def _days(frame: pl.DataFrame) -> Array:
    return frame["ts"].to_numpy().astype("datetime64[D]")


def _money_ticks(low: float, high: float) -> list[float]:
    """Round values between two equities, three to eight of them, even steps on a narrow range."""
    from matplotlib.ticker import MaxNLocator

    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    for steps in ((1, 1.5, 2, 3, 5, 7), (1, 2, 5), (1, 3), (1,)):
        ticks = [step * 10.0**decade for decade in decades for step in steps if low <= step * 10.0**decade <= high]
        if 3 <= len(ticks) <= 8:
            return ticks
    return [
        float(tick) for tick in MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high
    ]


def _money(value: float) -> str:
    """An amount in three digits or so: 950, 12.5k, 1.2M."""
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size * 0.9995:
            return f"{value / size:.4g}{unit}"
    return f"{value:.4g}"
