"""Drawings as inline SVG that take their colours from the page, so that they are right in light and in dark.

Belongs here: shapes, and the layered layout of a graph. What is drawn stands in the modules that draw.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from itertools import pairwise

INK, FAINT, LINE = (
    "var(--md-default-fg-color)",
    "var(--md-default-fg-color--light)",
    "var(--md-default-fg-color--lighter)",
)
PAPER, TINT, ACCENT = "var(--md-default-bg-color)", "var(--quant-tint)", "var(--md-typeset-a-color)"
GOOD, BAD, OTHER = "var(--quant-good)", "var(--quant-bad)", "var(--quant-other)"

Edge = tuple[str, str]


def svg(
    left: float, top: float, width: float, height: float, shapes: Iterable[str], title: str, *, least: int = 0
) -> str:
    """A picture that shrinks with the page to `least` pixels and scrolls below; on one line, as Markdown needs it."""
    style = f' style="min-width:{least}px"' if least else ""
    return (
        f'<div class="drawing"><svg viewBox="{left:g} {top:g} {width:g} {height:g}" role="img"{style}>'
        f"<title>{escape(title)}</title>{''.join(shapes)}</svg></div>"
    )


def box(
    x: float, y: float, width: float, height: float, *, fill: str = PAPER, line: str = LINE, dashed: bool = False
) -> str:
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    place = f'x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}"'
    return f'<rect {place} rx="6" fill="{fill}" stroke="{line}"{dashes}/>'


def words(
    x: float, y: float, text: str, *, size: float = 12, colour: str = INK, anchor: str = "start", weight: int = 400
) -> str:
    return (
        f'<text x="{x:g}" y="{y:g}" font-size="{size:g}" fill="{colour}" text-anchor="{anchor}" font-weight="{weight}">'
        f"{escape(text)}</text>"
    )


def line(
    points: Sequence[tuple[float, float]], *, colour: str = FAINT, width: float = 1.2, dashed: bool = False
) -> str:
    dashes = ' stroke-dasharray="4 3"' if dashed else ""
    path = " ".join(f"{x:g},{y:g}" for x, y in points)
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashes}/>'


def arrow(points: Sequence[tuple[float, float]], *, colour: str = FAINT) -> str:
    """Through the points from left to right, level at each of them, with a head at the last one."""
    (x, y), *rest = points
    path = [f"M{x:g},{y:g}"]
    for to_x, to_y in rest:
        middle = (x + to_x) / 2
        path.append(f"C{middle:g},{y:g} {middle:g},{to_y:g} {to_x:g},{to_y:g}")
        x, y = to_x, to_y
    head = f"M{x - 7:g},{y - 4:g}L{x:g},{y:g}L{x - 7:g},{y + 4:g}"
    return f'<path d="{" ".join(path)}{head}" fill="none" stroke="{colour}" stroke-width="1.2"/>'


def layers(
    lanes: Mapping[str, int], edges: Sequence[Edge]
) -> tuple[dict[str, tuple[int, float]], dict[Edge, list[str]]]:
    """Where the nodes of a graph without cycles stand: in the column of their longest way from a source, few crossings.

    An edge over several columns keeps a place free in each of those between, as Sugiyama, Tagawa and Toda (1981) do.

    Args:
        lanes: node -> its lane; lanes lie below one another, 0 on top, and nodes do not leave theirs.
        edges: (from, to).

    Returns:
        Node, or place kept free, -> (column, row); and each edge -> all it passes, both ends included.

    Example: of a -> b -> c and a -> c, in one lane, a is in column 0, b in 1, c in 2, and a -> c passes "a>c:1" in 1.
    """
    parents: dict[str, list[str]] = {name: [one for one, other in edges if other == name] for name in lanes}
    column: dict[str, int] = {}

    def depth(name: str) -> int:
        if name not in column:
            column[name] = max((depth(parent) + 1 for parent in parents[name]), default=0)
        return column[name]

    for name in lanes:
        depth(name)
    lane, ways = dict(lanes), {}
    for one, other in edges:
        between = [f"{one}>{other}:{at}" for at in range(column[one] + 1, column[other])]
        for at, place in enumerate(between, start=column[one] + 1):
            column[place], lane[place] = at, lanes[other]
        ways[one, other] = [one, *between, other]
    return _rows(column, lane, [pair for way in ways.values() for pair in pairwise(way)]), ways


def _rows(column: Mapping[str, int], lane: Mapping[str, int], steps: Sequence[Edge]) -> dict[str, tuple[int, float]]:
    """Order each column and lane by the mean place of the neighbours, back and forth, and centre what is narrower."""
    neighbours: dict[str, list[str]] = defaultdict(list)
    for one, other in steps:
        neighbours[one].append(other)
        neighbours[other].append(one)
    groups: dict[tuple[int, int], list[str]] = defaultdict(list)
    for name in column:
        groups[column[name], lane[name]].append(name)
    tall = {at: max(len(group) for (_, other), group in groups.items() if other == at) for at in set(lane.values())}
    top = {at: sum(tall[above] for above in tall if above < at) for at in tall}
    row: dict[str, float] = {}
    for _ in range(8):
        for key in sorted(groups):
            group = groups[key]
            known = {name: [row[one] for one in neighbours[name] if one in row] for name in group}
            group.sort(key=lambda name: (sum(known[name]) / len(known[name]) if known[name] else 0.0, ">" in name))
            first = top[key[1]] + (tall[key[1]] - len(group)) / 2
            row |= {name: first + at for at, name in enumerate(group)}
    return {name: (column[name], row[name]) for name in column}
