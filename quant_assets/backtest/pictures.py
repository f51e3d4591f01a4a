"""Pictures of a backtest: a PNG for the run's metadata and SVGs for the report, all drawn by matplotlib.

An SVG names its colours as CSS variables (`var(--accent, #2563eb)`), so that the page it stands in sets light and dark;
alone it shows in the light colours given here. Text that comes from a user never enters an SVG.
"""

import base64
import io
import math
import re
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quant_assets.backtest import metrics

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = npt.NDArray[Any]

INK, MUTED, GRID = "#1e293b", "#64748b", "#e2e8f0"
ACCENT, BENCHMARK, LOSS = "#2563eb", "#94a3b8", "#dc4c4c"
SERIES = (
    "#3b82f7",
    "#f59e0c",
    "#14b8a7",
    "#ec4898",
    "#8b5cf5",
    "#84cc17",
    "#f97317",
    "#06b6d5",
    "#a16208",
    "#94a3b9",
)
"""Colours of stacked weights; the last is that of the rest."""

THEME = {
    "ink": INK,
    "muted": MUTED,
    "grid": GRID,
    "accent": ACCENT,
    "bench": BENCHMARK,
    "loss": LOSS,
} | {f"s{n}": colour for n, colour in enumerate(SERIES)}
"""CSS variable (without its dashes) of each colour."""

_POINTS = 500  # a curve is thinned to the extremes of this many spans, two to a pixel


def equity_png(equity: pl.DataFrame, title: str, benchmark: pl.DataFrame | None = None) -> bytes:
    """Equity on a logarithmic axis with its drawdown below, as PNG (below 60 kB).

    Args:
        equity: `backtest_equity` rows: ts, equity, drawdown.
        title: shown as it is.
        benchmark: ts, equity of something to compare with, drawn grey.
    """
    figure = _figure(9.0, 4.6)
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    figure.subplots_adjust(left=0.075, right=0.985, top=0.9, bottom=0.075, hspace=0.09)
    _draw_equity(top, equity, benchmark)
    _draw_drawdown(bottom, equity)
    top.tick_params(labelbottom=False)
    top.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=10, parse_math=False)
    if benchmark is not None:
        for label, colour, right in (("strategy", ACCENT, 0.86), ("buy and hold", MUTED, 1.0)):
            top.text(right, 1.04, label, transform=top.transAxes, ha="right", color=colour, fontsize=9)
    return _png(figure)


def png_markdown(png: bytes, text: str = "equity curve") -> str:
    """A picture as Markdown with the bytes inside it, as metadata of a run shows it."""
    return f"![{text}](data:image/png;base64,{base64.b64encode(png).decode()})"


def equity_svg(equity: pl.DataFrame, benchmark: pl.DataFrame | None = None) -> str:
    """Equity on a logarithmic axis, the benchmark behind it."""
    figure = _figure(10.0, 3.6)
    _draw_equity(_only_axes(figure), equity, benchmark)
    return _svg(figure, "equity", "Equity over time")


def drawdown_svg(equity: pl.DataFrame) -> str:
    """Equity below its running maximum."""
    figure = _figure(5.2, 2.1)
    _draw_drawdown(_only_axes(figure), equity)
    return _svg(figure, "drawdown", "Drawdown over time")


def rolling_sharpe_svg(equity: pl.DataFrame, window: int = metrics.YEAR) -> str | None:
    """Sharpe ratio of the last `window` sessions; None where the period is shorter."""
    values = metrics.rolling_sharpe(equity["ret"].to_numpy(), window)
    if len(values) < 2:
        return None
    figure = _figure(5.2, 2.1)
    axes = _only_axes(figure)
    days, line = _thin(_days(equity)[window - 1 :], values)
    axes.axhline(0, color=MUTED, linewidth=0.8)
    axes.plot(days, line, color=ACCENT, linewidth=1.2)
    _limits(axes, _days(equity), float(min(values.min(), 0)), float(max(values.max(), 0)))
    return _svg(figure, "sharpe", f"Sharpe ratio of {window} sessions over time")


def weights_svg(weights: pl.DataFrame, equity: pl.DataFrame) -> tuple[str, list[str]]:
    """Weights stacked over time, shorts below zero.

    Args:
        weights: ts, symbol, weight, without zeros.
        equity: its ts are the sessions shown.

    Returns:
        The SVG and the symbols in the order of `SERIES`: the nine heaviest on average, then "other" where more
        were held.
    """
    heavy = (
        weights.group_by("symbol").agg(pl.col("weight").abs().sum()).sort("weight", "symbol", descending=[True, False])
    )
    names = heavy["symbol"].to_list()
    shown = names if len(names) <= len(SERIES) - 1 else names[: len(SERIES) - 1]
    days = _days(equity)
    spans = np.unique(np.linspace(0, len(days) - 1, min(len(days), _POINTS // 2)).astype(np.int64))
    picked = weights.filter(pl.col("ts").is_in(equity["ts"].gather(spans).implode()))
    stack = np.zeros((2, len(shown) + 1, len(spans)))
    code = {name: n for n, name in enumerate(shown)}
    at = np.searchsorted(days[spans], picked["ts"].to_numpy().astype("datetime64[D]"))
    layer = np.array([code.get(name, len(shown)) for name in picked["symbol"]], dtype=np.int64)
    share = picked["weight"].to_numpy()
    np.add.at(stack, ((share < 0).astype(np.int64), layer, at), share)
    figure = _figure(10.0, 2.6)
    axes = _only_axes(figure)
    for side in stack:
        upper = np.cumsum(side, axis=0)
        for n, edge in enumerate(upper):
            if side[n].any():
                colour = SERIES[n] if n < len(shown) else SERIES[-1]
                below = upper[n - 1] if n else np.zeros(len(spans))
                axes.fill_between(days[spans], below, edge, color=colour, alpha=0.9, linewidth=0, step="post")
    _limits(axes, days, float(stack[1].sum(axis=0).min()), max(float(stack[0].sum(axis=0).max()), 0.01), pad=0.0)
    axes.yaxis.set_major_formatter(_percent)
    return _svg(figure, "weights", "Weights over time"), shown + (["other"] if len(names) > len(shown) else [])


def _figure(width: float, height: float) -> "Figure":
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def _only_axes(figure: "Figure") -> "Axes":
    axes = figure.subplots()
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left=0.52 / width, right=1 - 0.08 / width, top=1 - 0.1 / height, bottom=0.27 / height)
    return axes


def _draw_equity(axes: "Axes", equity: pl.DataFrame, benchmark: pl.DataFrame | None) -> None:
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

    values = equity["equity"].to_numpy()
    low, high = float(values.min()), float(values.max())
    axes.set_yscale("log")
    if benchmark is not None:
        other = benchmark["equity"].to_numpy()
        low, high = min(low, float(other.min())), max(high, float(other.max()))
        axes.plot(*_thin(_days(benchmark), other), color=BENCHMARK, linewidth=1.1)
    axes.plot(*_thin(_days(equity), values), color=ACCENT, linewidth=1.5)
    span = max(math.log(high / low), 0.02) * 0.06
    low, high = low * math.exp(-span), high * math.exp(span)
    _limits(axes, _days(equity), low, high, pad=0.0)
    axes.yaxis.set_major_locator(FixedLocator(_money_ticks(low, high)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _money(value)))


def _draw_drawdown(axes: "Axes", equity: pl.DataFrame) -> None:
    days, line = _thin(_days(equity), equity["drawdown"].to_numpy())
    axes.fill_between(days, line, 0.0, color=LOSS, alpha=0.25, linewidth=0)
    axes.plot(days, line, color=LOSS, linewidth=0.9)
    _limits(axes, _days(equity), min(float(line.min()), -0.01), 0.0)
    axes.yaxis.set_major_formatter(_percent)


def _limits(axes: "Axes", days: Array, low: float, high: float, pad: float = 0.06) -> None:
    """Axes' limits, ticks and the common look."""
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter
    from matplotlib.ticker import MaxNLocator

    margin = (high - low) * pad
    axes.set_ylim(low - (margin if low else 0.0), high + (margin if high else 0.0))
    axes.set_xlim(days[0], days[-1] if len(days) > 1 else days[0] + np.timedelta64(1, "D"))
    if axes.get_yscale() == "linear":
        axes.yaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 2.5, 5, 10]))
    dates = AutoDateLocator(minticks=3, maxticks=10 if axes.bbox.width > 600 else 7)
    axes.xaxis.set_major_locator(dates)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(dates, show_offset=False))
    axes.set_facecolor("none")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=MUTED, labelsize=9, pad=5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _days(frame: pl.DataFrame) -> Array:
    return frame["ts"].to_numpy().astype("datetime64[D]")


def _thin(days: Array, values: Array) -> tuple[Array, Array]:
    """The first and last point, and each span's lowest and highest."""
    if len(values) <= 2 * _POINTS:
        return days, values
    edges = np.linspace(0, len(values), _POINTS + 1).astype(np.int64)
    kept = {0, len(values) - 1}
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        kept |= {start + int(values[start:end].argmin()), start + int(values[start:end].argmax())}
    chosen = sorted(kept)
    return days[chosen], values[chosen]


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


def _percent(value: float, _: float) -> str:
    return f"{value * 100:.3g}%".replace("-", "\N{MINUS SIGN}")


def _png(figure: "Figure") -> bytes:
    """The figure at 100 dpi in 64 colours: a quarter of the bytes of full colour, and no difference to the eye."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(64, dither=Image.Dither.NONE)
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def _svg(figure: "Figure", name: str, label: str) -> str:
    """The figure as an inline SVG element. `name` keeps its ids apart from other pictures' in the same page."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    FigureCanvasSVG(figure)
    buffer = io.StringIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>\s*", "", text, flags=re.DOTALL)
    text = re.sub(r' id="[\w.]+_\d+"', "", text)
    text = re.sub(r"(\d\.\d)\d+", r"\1", text)
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r">\s+<", "><", text).replace("\n", " ")
    for variable, colour in THEME.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg ", f'<svg class="chart" role="img" aria-label="{label}" ', 1).strip()
