"""The drawings that explain, each made by the code that it explains: a date moves when the code does."""

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import date
from html import escape
from itertools import groupby, pairwise

import numpy as np
import polars as pl

from quant_assets.core.calendar import trading_calendar
from quant_assets.core.settings import Settings
from quant_assets.market_data.adjustment import adjust, infer_splits
from quant_assets.market_data.provider import FetchRequest, make_provider
from quant_assets.validation.plan import ValidationPlan

from . import assets
from .drawing import ACCENT, BAD, FAINT, GOOD, LINE, OTHER, PAPER, box, line, svg, words

Address = Callable[[str], str]
"""From a page of the site to what a link to it says in the page that shows the drawing."""

HORIZON = 60
TRAINED = date(2012, 10, 1)
"""A training date of the sample: the first session of a quarter."""
SPLIT = date(2005, 2, 28)
"""AAPL's 2-for-1 split of the sample."""
DECADE = 2520

_WIDTH = 700.0
_NODE = re.compile(r"(\w+)\[\"([^\"]+)\"\]")
_EDGE = re.compile(r"(\w+)(?:\[[^\]]*\])? --> (\w+)")


def label() -> str:
    """Bars, features and labels of one training date, each up to where it is known."""
    newest = trading_calendar("XNYS").offset(TRAINED, -HORIZON)
    left, end, known = 100.0, 640.0, 420.0
    shapes = [words(left, 22, "known at the close of the training date", colour=ACCENT)]
    for y, name, until in ((40, "ohlcv", end), (74, "features_daily", end), (108, "labels", known)):
        shapes.append(words(left - 8, y + 15, name, anchor="end"))
        shapes.append(box(left, y, until - left, 22, fill=GOOD, line="none"))
    shapes.append(box(known, 108, end - known, 22, dashed=True))
    shapes.append(words((known + end) / 2, 123, f"{HORIZON} sessions, label open", anchor="middle", colour=FAINT))
    for x, day, what in ((known, newest, "newest bar with a label"), (end, TRAINED, "training date")):
        shapes.append(line([(x, 34), (x, 146)], dashed=True))
        shapes.append(words(x, 162, str(day), anchor="middle", weight=600))
        shapes.append(words(x, 178, what, anchor="middle"))
    shapes.append(words(left, 162, "dates of the bars", colour=FAINT))
    title = f"On {TRAINED} the newest settled {HORIZON}-session label is that of {newest}"
    return svg(0, 0, _WIDTH, 186, shapes, title, least=560)


def purge(number: int = 7) -> str:
    """Split `number` of CPCV over ten years: test blocks, the purge around them, the embargo behind."""
    from quant_assets.validation.cpcv import splits

    made = splits(DECADE, ValidationPlan(), HORIZON)
    blocks = list(pairwise(made.edges.tolist()))
    tested = np.zeros(DECADE, bool)
    for first, last in (blocks[block] for block in made.tested[number]):
        tested[first:last] = True
    kinds = np.where(tested, 2, np.where(made.train[number], 0, 1)).tolist()
    legend = (("learnt from", GOOD), ("purged, embargo", BAD), ("tested", OTHER))
    scale = _WIDTH / DECADE
    shapes, at = [], 0
    for kind, run in groupby(kinds):
        length = len(list(run))
        shapes.append(box(at * scale, 30, length * scale, 40, fill=legend[kind][1], line=PAPER))
        at += length
    for block, (first, last) in enumerate(blocks):
        shapes.append(words((first + last) / 2 * scale, 22, f"block {block}", anchor="middle", colour=FAINT))
    for x, (name, colour) in zip((0, 150, 300), legend, strict=True):
        shapes += [box(x, 86, 14, 14, fill=colour, line="none"), words(x + 22, 98, name)]
    title = f"One of the {len(made.tested)} splits of combinatorial purged cross-validation"
    return svg(-1, 0, _WIDTH + 2, 108, shapes, title, least=480)


def adjusted() -> str:
    """AAPL as traded and adjusted over its split: the sample's own bars through the platform's own function.

    The adjusted close is scaled to end where the other does: later splits scale all of it alike.
    """
    found = make_provider("sample", Settings(), []).fetch(FetchRequest("AAPL", SPLIT, SPLIT))
    bars = found.bars.with_columns(symbol=pl.lit("AAPL"), source=pl.lit("sample"))
    bars = bars.filter(pl.col("ts").is_between(date(2004, 10, 1), date(2005, 6, 30)))
    ours = adjust(bars, infer_splits(bars).with_columns(symbol=pl.lit("AAPL")), frozenset())["close"]
    return _closes(bars["ts"].to_list(), bars["close"].to_list(), (ours * (bars["close"][-1] / ours[-1])).to_list())


def _closes(days: Sequence[date], raw: Sequence[float], ours: Sequence[float]) -> str:
    left, top, width, height, highest = 36.0, 10.0, _WIDTH - 150, 190.0, max(raw)
    across = {day: left + width * number / (len(days) - 1) for number, day in enumerate(days)}

    def down(price: float) -> float:
        return top + height * (1 - price / highest)

    shapes = []
    for price in range(0, int(highest) + 1, 20):
        shapes.append(line([(left, down(price)), (left + width, down(price))], colour=LINE, width=0.5))
        shapes.append(words(left - 6, down(price) + 4, str(price), size=11, anchor="end", colour=FAINT))
    split = across[SPLIT]
    shapes.append(line([(split, top), (split, top + height)], dashed=True))
    for closes, colour in ((raw, BAD), (ours, ACCENT)):
        points = [(across[day], down(close)) for day, close in zip(days, closes, strict=True)]
        shapes.append(line(points, colour=colour, width=1.6))
    shapes.append(words(split, top + height + 18, f"split, {SPLIT}", anchor="middle"))
    shapes.append(words(split - 60, top + 18, "close as traded", colour=BAD, anchor="end"))
    shapes.append(words(left + width + 8, down(ours[-1]) + 4, "adjusted close", colour=ACCENT))
    return svg(0, 0, _WIDTH, top + height + 26, shapes, "AAPL before and after its split of 2005", least=480)


def chain(text: str) -> str:
    """A Mermaid flowchart whose nodes follow one another, as a list from top to bottom: no script draws it.

    Raises:
        ValueError: one whose edges branch.
    """
    nodes = dict(_NODE.findall(text))
    edges = _EDGE.findall(text)
    if edges != list(pairwise(nodes)):
        raise ValueError(f"a flowchart of {len(nodes)} nodes and {len(edges)} edges is no chain; draw it in docs/pages")

    def items() -> Iterator[str]:
        for node in nodes.values():
            name, _, what = node.partition(": ")
            yield f'<li><code class="layer">{escape(name)}</code><span>{escape(what)}</span></li>'

    return f'<ol class="chain">{"".join(items())}</ol>'


def graph(address: Address) -> str:
    """The asset graph, its boxes linked to the page of the assets."""
    return assets.picture(assets.definitions(), lambda name: f"{address(assets.PAGE)}#{name}")


DRAWINGS: dict[str, Callable[[Address], str]] = {
    "graph": graph,
    "label": lambda _: label(),
    "purge": lambda _: purge(),
    "adjusted": lambda _: adjusted(),
}
"""What `<!-- drawing: name -->` may name."""
