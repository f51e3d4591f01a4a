"""The page of the asset graph, and its drawing, from the definitions that Dagster loads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import dagster as dg

from quant_assets.contracts import TABLES
from quant_assets.core.settings import PROJECT_ROOT, Settings
from quant_assets.features import FEATURE_SETS

from .drawing import ACCENT, FAINT, TINT, Edge, arrow, box, layers, svg, words
from .markdown import code, codes, prose, sentence, table

INTRODUCTION = """# Asset graph

Everything that the code location defines for the files that come with the repository. Assets of the first market have
no prefix; those of every other market stand under its name. A check that *blocks* stops what lies downstream of its
asset in the same run. The code version is a fingerprint of the source that decides the asset's values: where it has
changed, stored partitions are out of date.
"""
PAGE = "reference/asset-graph.md"
"""Where the page lies in the site."""
_STAGES = {"market": 0, "decision": 0, "research": 1}
_WIDTH, _HEIGHT, _GAP_X, _GAP_Y, _EDGE = 148, 46, 28, 26, 14
_MARTS_HEIGHT = 118


@cache
def definitions() -> dg.Definitions:
    """The code location on the repository's own files, whatever the environment says."""
    from quant_assets.definitions import build

    return build(Settings(strategies_dir=PROJECT_ROOT / "strategies", market="us_tech", provider=None))


def writers(code_location: dg.Definitions) -> dict[str, list[str]]:
    """Table -> the assets of the first market that store it."""
    found: dict[str, list[str]] = {}
    for spec in code_location.resolve_all_asset_specs():
        if len(spec.key.path) == 1:
            main = str(spec.metadata.get("dagster/table_name", "")).removeprefix("main.")
            for name in TABLES:
                if name == main or name in spec.metadata:
                    found.setdefault(name, []).append(spec.key.to_user_string())
    return found


def page(code_location: dg.Definitions) -> str:
    """The drawing, a section per group of assets, and what starts runs."""
    graph = code_location.resolve_asset_graph()
    nodes = [graph.get(key) for key in graph.toposorted_asset_keys]
    groups: dict[str, list[Any]] = {}
    order = [*_STAGES, "marts"]
    for node in sorted(
        nodes, key=lambda node: order.index(node.group_name) if node.group_name in order else len(order)
    ):
        groups.setdefault(str(node.group_name), []).append(node)
    parts = [INTRODUCTION, picture(code_location, lambda name: f"#{anchor(name)}")]
    for group, members in groups.items():
        parts += [f"## Group {group}", *(_asset(graph, node) for node in members)]
    return "\n\n".join([*parts, *_starters(code_location)])


def _asset(graph: Any, node: Any) -> str:
    name, spec = node.key.to_user_string(), node.to_asset_spec()
    label = spec.automation_condition.get_label() if spec.automation_condition else ""
    facts = {
        "Partitions": dimensions(node.partitions_def),
        "Reads": ", ".join(
            f"[{code(one)}](#{anchor(one)})" for one in sorted(map(dg.AssetKey.to_user_string, node.parent_keys))
        ),
        "Kinds": ", ".join(sorted(node.kinds)),
        "Owners": ", ".join(node.owners),
        "Code version": code(node.code_version or ""),
        "Runs by itself when": label or "",
        "Freshness": "expected with every session" if spec.freshness_policy else "",
    }
    checks = [graph.get_check_spec(key) for key in sorted(node.check_keys, key=lambda key: key.name)]
    rows = [(code(one.name), "blocks" if one.blocking else "", sentence(one.description or "")) for one in checks]
    shown = f'??? note "{len(rows)} check{"s" * (len(rows) != 1)}"\n\n' + _indented(table(["Check", "", "Asks"], rows))
    return "\n\n".join(
        [
            f"### {name} {{ #{anchor(name)} }}",
            prose(node.description or ""),
            table([*facts], [[*facts.values()]]),
            *([shown] if rows else []),
        ]
    )


def _indented(text: str) -> str:
    return "\n".join(f"    {one}" for one in text.splitlines())


def anchor(asset: str) -> str:
    """Of an asset's section in the page."""
    return asset.replace("/", "-")


def dimensions(partitions: dg.PartitionsDefinition[Any] | None) -> str:
    """`date x symbol`, or how many named ones there are."""
    if partitions is None:
        return ""
    if isinstance(partitions, dg.MultiPartitionsDefinition):
        return " x ".join(one.name for one in partitions.partitions_defs)
    return codes(partitions.get_partition_keys())


def _starters(code_location: dg.Definitions) -> Iterator[str]:
    jobs = [job for job in code_location.resolve_all_job_defs() if not job.name.startswith("__")]
    yield "## Jobs"
    yield table(["Job", "What it runs"], ((code(job.name), sentence(job.description or "")) for job in jobs))
    yield "## Schedules and sensors"
    rows = [
        (code(one.name), f"{code(str(one.cron_schedule))} {one.execution_timezone}", one.description or "")
        for one in code_location.schedules or ()
        if isinstance(one, dg.ScheduleDefinition)
    ]
    rows += [(code(one.name), "", one.description or "") for one in code_location.sensors or ()]
    yield table(["Name", "When", "What it does"], rows)


def picture(code_location: dg.Definitions, address: Callable[[str], str]) -> str:
    """The first market's graph: market and decision stage above, research below, the marts as one box.

    Args:
        address: of an asset's section in the page.
    """
    graph = code_location.resolve_asset_graph()
    nodes = {key.to_user_string(): graph.get(key) for key in graph.toposorted_asset_keys if len(key.path) == 1}
    edges = [(parent.to_user_string(), name) for name, node in nodes.items() for parent in sorted(node.parent_keys)]
    marts = [key.path[-1] for key in graph.toposorted_asset_keys if key.path[0] == "marts"]
    return _drawn({name: str(node.group_name) for name, node in nodes.items()}, edges, nodes, marts, address)


def _drawn(
    groups: Mapping[str, str],
    edges: Sequence[Edge],
    nodes: Mapping[str, Any],
    marts: Sequence[str],
    address: Callable[[str], str],
) -> str:
    places, ways = layers({name: _STAGES[group] for name, group in groups.items()}, edges)
    stages = {stage: [name for name in groups if groups[name] == stage] for stage in dict.fromkeys(groups.values())}
    at = _points(places, groups)
    shapes = [_frame(stage, [at[name] for name in members]) for stage, members in stages.items()]
    for way in ways.values():
        points: list[tuple[float, float]] = []
        for number, name in enumerate(way):
            x, y = at[name]
            middle = y + _HEIGHT / 2
            points += [(x, middle)] * (number > 0) + [(x + _WIDTH, middle)] * (number < len(way) - 1)
        shapes.append(arrow(points))
    for name in groups:
        x, y = at[name]
        kind = words(x + 9, y + 36, _kind(nodes[name].partitions_def), size=12, colour=FAINT)
        shown = box(x, y, _WIDTH, _HEIGHT) + words(x + 9, y + 20, name, size=14, weight=600) + kind
        shapes.append(f'<a href="{address(name)}">{shown}</a>')
    right, bottom = max(x for x, _ in at.values()) + _WIDTH, max(y for _, y in at.values()) + _HEIGHT
    if marts:
        left = max(at[name][0] for name in stages["research"]) + _WIDTH + 2 * _GAP_X
        shapes += _marts(left, min(at[name][1] for name in stages["research"]), right + 12 - left, marts)
    top = min(y for _, y in at.values()) - (0 if min(places, key=lambda name: at[name][1]) not in groups else 28)
    title = "The asset graph: market stage, decision stage, research, marts"
    return svg(-_EDGE, top - 2, right + 2 * _EDGE, bottom - top + _EDGE, shapes, title, least=680)


def _points(places: Mapping[str, tuple[int, float]], groups: Mapping[str, str]) -> dict[str, tuple[float, float]]:
    """Upper left corners. What an edge passes above or below the nodes of its lane lies close to their frames."""
    found: dict[str, tuple[float, float]] = {}
    for name, (column, row) in places.items():
        lane = _lane(name, groups)
        rows = [places[node][1] for node in groups if _lane(node, groups) == lane]
        inside = min(max(row, min(rows)), max(rows))
        away = (row - inside) * 14 + (31 if row > inside else -46 if row < inside else 0)
        # the lower lane stands lower, so that the frames of two stages do not touch
        found[name] = column * (_WIDTH + _GAP_X), inside * (_HEIGHT + _GAP_Y) + lane * _GAP_Y + away
    return found


def _kind(partitions: dg.PartitionsDefinition[Any] | None) -> str:
    """`date x symbol`; of single names what they name."""
    if partitions is None or isinstance(partitions, dg.MultiPartitionsDefinition):
        return dimensions(partitions)
    return "feature set" if set(partitions.get_partition_keys()) <= set(FEATURE_SETS) else "strategy"


def _lane(name: str, groups: Mapping[str, str]) -> int:
    """Of a node, or of a place that an edge keeps free on its way to one."""
    return _STAGES[groups[name.split(">")[-1].split(":")[0]]]


def _frame(stage: str, corners: Sequence[tuple[float, float]]) -> str:
    left, top = min(x for x, _ in corners) - 12, min(y for _, y in corners) - 28
    right, bottom = max(x for x, _ in corners) + _WIDTH + 12, max(y for _, y in corners) + _HEIGHT + 12
    frame = box(left, top, right - left, bottom - top, fill=TINT, line="none")
    return frame + words(left + 12, top + 18, stage, colour=ACCENT, weight=600)


def _marts(x: float, y: float, width: float, names: Sequence[str]) -> Iterator[str]:
    yield box(x, y - 28, width, _MARTS_HEIGHT, fill=TINT, line="none")
    yield words(x + 12, y - 10, "marts, downstream of all markets", colour=ACCENT, weight=600)
    for number, name in enumerate(names):
        column, row = divmod(number, 5)
        yield words(x + 12 + column * (width / 2 - 6), y + 10 + row * 16, name)
