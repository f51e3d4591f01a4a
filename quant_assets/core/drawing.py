"""Drawing with matplotlib for reports and run metadata: the common look, and figures as PNG and as SVG.

An SVG names its colours as CSS variables (`var(--accent, #2563eb)`), so that the page it stands in sets light and dark;
alone it shows in the light colours given here. Text that comes from a user never enters an SVG.
"""

import base64
import io
import math
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

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
"""Colours of things side by side; the last is that of the rest."""

THEME = {
    "ink": INK,
    "muted": MUTED,
    "grid": GRID,
    "accent": ACCENT,
    "bench": BENCHMARK,
    "loss": LOSS,
} | {f"s{n}": colour for n, colour in enumerate(SERIES)}
"""CSS variable (without its dashes) of each colour."""

POINTS = 500
"""A curve is thinned to the extremes of this many spans, two to a pixel."""


def png_markdown(png: bytes, text: str = "equity curve") -> str:
    """A picture as Markdown with the bytes inside it, as metadata of a run shows it."""
    return f"![{text}](data:image/png;base64,{base64.b64encode(png).decode()})"


def new_figure(width: float, height: float) -> "Figure":
    """An empty figure, size in inches; of no window and no global state."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def only_axes(figure: "Figure") -> "Axes":
    """The axes of a figure that has just one, with room for tick labels on the left and below."""
    axes = figure.subplots()
    width, height = figure.get_size_inches()
    figure.subplots_adjust(left=0.52 / width, right=1 - 0.08 / width, top=1 - 0.1 / height, bottom=0.27 / height)
    return axes


def time_axes(axes: "Axes", days: Array, low: float, high: float, pad: float = 0.06) -> None:
    """Limits and ticks for values from `low` to `high` over `days`, and the common look; `pad`: share of the span."""
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
    plain(axes)


def log_time_axes(axes: "Axes", days: Array, low: float, high: float) -> tuple[float, float]:
    """`time_axes` on a logarithmic scale from `low` to `high`, with room around them; returns its ends."""
    from matplotlib.ticker import NullLocator

    axes.set_yscale("log")
    space = max(math.log(high / low), 0.02) * 0.06
    low, high = low * math.exp(-space), high * math.exp(space)
    time_axes(axes, days, low, high, pad=0.0)
    axes.yaxis.set_minor_locator(NullLocator())
    return low, high


def plain(axes: "Axes") -> None:
    """The common look: no frame, faint horizontal lines, muted labels."""
    axes.set_facecolor("none")
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, colors=MUTED, labelsize=9, pad=5)
    for spine in axes.spines.values():
        spine.set_visible(False)


def heat_map(
    axes: "Axes", matrix: Array, rows: Sequence[str], columns: Sequence[str], text: Callable[[float], str] | None = None
) -> None:
    """Numbers around zero as colours, `LOSS` below and `ACCENT` above, NaN empty; with their `text` where given."""
    from matplotlib.colors import LinearSegmentedColormap

    reach = float(np.nanmax(np.abs(matrix), initial=0.0)) or 1.0
    colours = LinearSegmentedColormap.from_list("heat", [LOSS, "#ffffff", ACCENT])
    axes.imshow(matrix, cmap=colours, vmin=-reach, vmax=reach, aspect="auto")
    for (row, column), value in np.ndenumerate(matrix) if text else ():
        if text and not np.isnan(value):
            ink = "#ffffff" if abs(value) > 0.7 * reach else INK
            axes.text(column, row, text(value), ha="center", va="center", fontsize=7.5, color=ink)
    plain(axes)
    axes.grid(visible=False)
    axes.xaxis.set_ticks(range(len(columns)), columns, parse_math=False)
    axes.yaxis.set_ticks(range(len(rows)), rows, parse_math=False)


def thin(days: Array, values: Array) -> tuple[Array, Array]:
    """The first and last point, and each span's lowest and highest."""
    if len(values) <= 2 * POINTS:
        return days, values
    edges = np.linspace(0, len(values), POINTS + 1).astype(np.int64)
    kept = {0, len(values) - 1}
    for start, end in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        kept |= {start + int(values[start:end].argmin()), start + int(values[start:end].argmax())}
    chosen = sorted(kept)
    return days[chosen], values[chosen]


def percent(value: float, _: float) -> str:
    """A tick's label: 0.125 is 12.5%."""
    return f"{value * 100:.3g}%".replace("-", "\N{MINUS SIGN}")


def to_png(figure: "Figure", colours: int = 64) -> bytes:
    """The figure at 100 dpi in few colours: a quarter of the bytes of all of them, and no difference to the eye.

    A heat map beside curves needs 256, the most there are.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from PIL import Image

    figure.set_dpi(100)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    picture = (
        Image.fromarray(np.asarray(canvas.buffer_rgba())).convert("RGB").quantize(colours, dither=Image.Dither.NONE)
    )
    buffer = io.BytesIO()
    picture.save(buffer, format="png", optimize=True)
    return buffer.getvalue()


def to_svg(figure: "Figure", name: str, label: str) -> str:
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
    text = re.sub(r"<[^>]+>", lambda tag: re.sub(r"(\d\.\d)\d+", r"\1", tag[0]), text)  # tags only: labels stay
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = re.sub(r">\s+<", "><", text).replace("\n", " ")
    for variable, colour in THEME.items():
        text = text.replace(colour, f"var(--{variable}, {colour})")
    text = re.sub(r' (?:width|height)="[\d.]+pt"', "", text, count=2)
    return text.replace("<svg ", f'<svg class="chart" role="img" aria-label="{label}" ', 1).strip()
