"""The documentation site: what is generated says all that the code has, and what is built holds together offline."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
import typer

from docs.pages import assets, command_line, configuration, contracts, crossreferences, files, links, markdown, pictures
from docs.pages.drawing import layers
from docs.pages.reference import PAGES
from quant_assets.contracts import TABLES
from quant_assets.contracts.schema import Column, Rule, Table
from quant_assets.core.calendar import trading_calendar
from quant_assets.core.settings import PROJECT_ROOT, Settings
from quant_assets.signals import RULES
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.universe import Universe
from quant_assets_tests.platform import DAGSTERS_OWN

pytestmark = [*DAGSTERS_OWN, pytest.mark.slow]

DOCS = PROJECT_ROOT / "docs"
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data", "link": "href"}
"""Attributes from which a browser loads something, and not at a click only."""


def test_a_table_leaves_out_empty_columns_and_keeps_bars_apart() -> None:
    text = markdown.table(["a", "b", "c"], [("x | y", "", "`p | q`"), ("1", "", "2\n3")])
    assert text.splitlines() == ["| a | c |", "| --- | --- |", r"| x \| y | `p | q` |", "| 1 | 2 3 |"]


def test_what_looks_like_html_in_a_docstring_is_text() -> None:
    assert markdown.prose("features__<version>, `a < b`") == "features__&lt;version>, `a < b`"


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("share of it", "Share of it."),
        ("`a` is b", "`a` is b."),
        ("-1 or 0: no limit.", "-1 or 0: no limit."),
        ("fwd_ret rises", "fwd_ret rises."),
        ("", ""),
    ],
)
def test_a_description_becomes_a_sentence(text: str, shown: str) -> None:
    assert markdown.sentence(text) == shown


@pytest.mark.parametrize(
    ("of", "shown"),
    [(None, "none"), (True, "true"), (0.05, "0.05"), (100_000.0, "100000"), (["v1"], "[v1]"), ("x", "x")],
)
def test_a_default_is_written_as_a_file_has_it(of: object, shown: str) -> None:
    assert markdown.value(of) == shown


def test_a_tables_section_has_its_key_limits_and_rules() -> None:
    columns = (Column("ts", "DATE", "session"), Column("price", "DOUBLE", "paid", nullable=True, above=0))
    rules = (Rule("price is odd", None),)  # type: ignore[arg-type]
    text = contracts.section(Table("sales", ("ts",), columns, "What was sold.", rules, run_id=False), ["till"])
    assert "Key: `ts`. Stored by asset `till`." in text
    assert "| `price` | paid | `DOUBLE` | > 0, may be null |" in text
    assert "- Never: price is odd." in text


def test_a_schemas_sections_are_titled_by_path_and_kind() -> None:
    schema = {
        "properties": {"signal": {"oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}]}, "n": {"type": "integer"}},
        "required": ["n"],
        "$defs": {
            "A": {"properties": {"type": {"const": "a"}, "inputs": {"$ref": "#/$defs/C"}}, "required": ["type"]},
            "B": {"properties": {"type": {"const": "b"}}, "required": ["type"]},
            "C": {"properties": {"days": {"anyOf": [{"type": "number", "exclusiveMinimum": 0}, {"type": "null"}]}}},
        },
    }
    found = {part.title: part.rows for part in files.parts(schema)}
    assert list(found) == ["The file", "signal (a)", "signal.inputs (a)", "signal (b)"]
    assert found["The file"][1] == ("`n`", "", "whole number", "*required*", "")
    assert found["signal.inputs (a)"] == (("`days`", "", "number or none", "none", "> 0"),)


def test_layers_keep_a_place_free_for_what_passes() -> None:
    places, ways = layers({"a": 0, "b": 0, "c": 0}, [("a", "b"), ("b", "c"), ("a", "c")])
    assert {name: column for name, (column, _) in places.items()} == {"a": 0, "b": 1, "c": 2, "a>c:1": 1}
    assert places["b"][1] != places["a>c:1"][1]
    assert ways["a", "c"] == ["a", "a>c:1", "c"]


def test_a_lower_lane_lies_below_all_of_the_upper_one() -> None:
    places, _ = layers({"a": 0, "b": 0, "c": 0, "d": 1}, [("a", "b"), ("a", "c"), ("a", "d")])
    assert places["d"][1] > max(places["b"][1], places["c"][1])


def test_a_flowchart_that_branches_is_refused() -> None:
    assert pictures.chain('a["x: first"] --> b["y"]').count("<li>") == 2
    with pytest.raises(ValueError, match="no chain"):
        pictures.chain('a["x"] --> b["y"]\na --> c["z"]')


@pytest.mark.parametrize(
    ("html", "linked"),
    [
        ("<p><code>trials</code></p>", True),
        ("<p><code>QUANT_HOME=/x</code></p>", True),
        ("<p><code>quant symbols add NFLX</code></p>", True),
        ("<h2><code>trials</code></h2>", False),
        ('<a href="x"><code>trials</code></a>', False),
        ("<pre><code>trials</code></pre>", False),
        ("<p><code>quant</code></p>", False),
    ],
)
def test_code_that_names_something_of_the_reference_links_to_it(html: str, linked: bool) -> None:
    assert ('<a class="reference"' in crossreferences.linked(html, lambda target: target)) == linked


@pytest.mark.parametrize(
    ("link", "led"),
    [
        ("[a](architecture.md#layers)", "[a](architecture.md#layers)"),
        ("[a](decisions)", "[a](decisions/index.md)"),
        ("[a](../CHANGELOG.md)", "[a](changes.md)"),
        ("[a](../README.md#limits)", "[a](index.md)"),
        ("[`a`](../pyproject.toml)", "`a`"),
        ("[a](reference/index.md#settings)", "[a](reference/settings.md)"),
        ("[a](reference/index.md)", "[a](reference/index.md)"),
        ("[a](nowhere.md)", "[a](nowhere.md)"),
        ("[a](https://example.org/x)", "[a](https://example.org/x)"),
        ("![a](img/graph.png)", "![a](img/graph.png)"),
        ("`[a](../README.md)`", "`[a](../README.md)`"),
        ("```sh\n[a](../README.md)\n```", "```sh\n[a](../README.md)\n```"),
    ],
)
def test_a_link_of_the_repository_is_led_to_the_site(link: str, led: str) -> None:
    assert links.led(link, DOCS / "page.md", "page.md", PROJECT_ROOT) == led


def test_a_page_of_the_root_has_its_links_led_from_its_place_in_the_site() -> None:
    assert (
        links.led("[a](docs/glossary.md)", PROJECT_ROOT / "CHANGELOG.md", "changes.md", PROJECT_ROOT)
        == "[a](glossary.md)"
    )


def test_every_table_and_column_is_in_the_reference() -> None:
    page = contracts.page({})
    for name, table in TABLES.items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        assert [one.name for one in table.all_columns if f"| `{one.name}` |" not in section] == []
        assert markdown.prose(table.doc) in section


def test_every_setting_is_in_the_reference() -> None:
    page = configuration.page()
    assert [name for name in Settings.model_fields if f"`{configuration.variable(name)}`" not in page] == []


def test_every_command_and_option_is_in_the_reference() -> None:
    page = command_line.page()
    for name, command in command_line.commands().items():
        section = page.split(f"\n## {name}\n")[1].split("\n## ")[0]
        options = [
            one.metavar if one.param_type_name == "argument" and one.metavar else one.opts[-1]
            for one in command.params
            if one.name != "help"
        ]
        assert [option for option in options if option not in section] == []


def test_hidden_commands_are_not_in_the_reference() -> None:
    application = typer.Typer()
    application.command("seen")(lambda: None)
    application.command("hidden", hidden=True)(lambda: None)
    assert list(command_line.commands(application)) == ["quant seen"]


@pytest.mark.parametrize("model", [StrategySpec, Universe])
def test_every_field_of_a_file_is_in_the_reference(model: type) -> None:
    schema = model.model_json_schema(by_alias=True)  # type: ignore[attr-defined]
    shown = {row[0].strip("`") for part in files.parts(schema) for row in part.rows}
    sections = [schema, *schema["$defs"].values()]
    assert {name for section in sections for name in section["properties"]} == shown


def test_the_index_of_the_reference_has_a_section_per_page() -> None:
    titles = re.findall("^## (.+)$", (DOCS / "reference" / "index.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert [title.lower().replace(" ", "-") for title in titles] == list(PAGES)


def test_a_rules_formula_stands_beside_its_inputs() -> None:
    page = files.strategy_page()
    assert [kind for kind, rule in RULES.items() if rule.formula.strip().splitlines()[0] not in page] == []


def test_the_worked_example_of_a_label_is_what_the_calendar_says() -> None:
    newest = str(trading_calendar("XNYS").offset(pictures.TRAINED, -pictures.HORIZON))
    page = (DOCS / "concepts" / "knowledge-time.md").read_text(encoding="utf-8")
    assert f"bar of {newest}" in page
    assert f"trained on {pictures.TRAINED}" in page
    assert newest in pictures.label()


def test_the_adjusted_drawing_shows_a_split_that_moves_one_of_two_curves() -> None:
    raw, ours = re.findall(r'points="([^"]+)"', pictures.adjusted())[-2:]
    falls = [_largest_fall(curve) for curve in (raw, ours)]
    assert falls[0] > 90
    assert falls[1] < 15


def _largest_fall(points: str) -> float:
    heights = [float(point.split(",")[1]) for point in points.split()]
    return max(after - before for before, after in pairwise(heights))


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` builds it: a warning of MkDocs is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    environment = {**os.environ, "QUANT_HOME": str(tmp_path_factory.mktemp("home")), "NO_MKDOCS_2_WARNING": "true"}
    done = subprocess.run(command, cwd=PROJECT_ROOT, env=environment, capture_output=True, text=True, timeout=180)
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr
    return folder


@dataclass
class _Built(HTMLParser):
    """What a built page offers and asks for."""

    path: Path
    anchors: set[str] = field(default_factory=set)
    links: list[str] = field(default_factory=list)
    loads: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        super().__init__()
        self.feed(self.path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        self.anchors |= {given[name] for name in ("id", "name") if name in given}
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADING and LOADING[tag] in given:
            self.loads.append(given[LOADING[tag]])


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[Path, _Built]:
    return {path: _Built(path) for path in sorted(site.rglob("*.html"))}


def test_every_page_of_docs_and_every_generated_one_is_built(pages: dict[Path, _Built], site: Path) -> None:
    sources = {path.relative_to(DOCS).with_suffix(".html") for path in DOCS.rglob("*.md")}
    built = {path.relative_to(site) for path in pages}
    assert sources <= built
    assert {Path(f"reference/{name}.html") for name in PAGES} <= built
    assert not list(site.rglob("*.py"))


def test_every_link_and_anchor_inside_the_site_resolves(pages: dict[Path, _Built]) -> None:
    assert list(_broken(pages)) == []


def _broken(pages: dict[Path, _Built]) -> Iterator[str]:
    for path, page in pages.items():
        if path.name == "404.html":  # its links start at the root of a server
            continue
        for link in [*page.links, *page.loads]:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            target = target / "index.html" if target.is_dir() else target
            if not target.exists() or (parts.fragment and unquote(parts.fragment) not in pages[target].anchors):
                yield f"{path.name}: {link}"


def test_no_page_loads_anything_from_outside(pages: dict[Path, _Built], site: Path) -> None:
    outside = [f"{path.name}: {one}" for path, page in pages.items() for one in page.loads if urlsplit(one).netloc]
    assert outside == []
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        assert re.findall(r"(?:url\(|@import)\s*[\"']?(?:https?:)?//[^)\"']*", text) == [], sheet.name
    assert not [path.name for path in pages if "mermaid" in path.read_text(encoding="utf-8").split("</head>")[-1]]


def test_every_page_can_be_reached_from_the_first_one(pages: dict[Path, _Built], site: Path) -> None:
    reached, waiting = set(), [site / "index.html"]
    while waiting:
        path = waiting.pop()
        if path in reached or path not in pages:
            continue
        reached.add(path)
        waiting += [(path.parent / urlsplit(link).path).resolve() for link in pages[path].links if urlsplit(link).path]
    assert set(pages) - reached <= {site / "404.html"}


def test_the_first_page_has_four_doors_and_the_two_commands(site: Path) -> None:
    text = (site / "index.html").read_text(encoding="utf-8")
    doors = text.split('class="doors"')[1].split("</article>")[0]
    assert re.findall(r">(\w[\w-]+)</a>", doors) == ["Tutorial", "How-to", "Concepts", "Reference"]
    assert "make demo" in re.sub("<[^>]+>", "", text)
    assert "make test" in re.sub("<[^>]+>", "", text)


def test_every_asset_and_check_is_in_the_reference(site: Path) -> None:
    text = (site / "reference" / "asset-graph.html").read_text(encoding="utf-8")
    graph = assets.definitions().resolve_asset_graph()
    assert [
        key for key in graph.get_all_asset_keys() if f'id="{assets.anchor(key.to_user_string())}"' not in text
    ] == []
    assert [key.name for key in graph.asset_check_keys if f"<code>{key.name}</code>" not in text] == []
