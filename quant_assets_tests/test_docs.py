"""The documents name what exists: commands, make targets, settings, files, the version."""

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer

from quant_assets.cli.app import app
from quant_assets.cli.validation import MEASURES
from quant_assets.core.settings import PROJECT_ROOT, Settings
from quant_assets.strategy import load_strategies

README = (PROJECT_ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted([*PROJECT_ROOT.glob("*.md"), *(PROJECT_ROOT / "docs").rglob("*.md")])
LINK = re.compile(r"!?\[[^\]]*\]\(([^)\s]+)\)")
OUTSIDE = ("http://", "https://", "mailto:")
LARGEST_PICTURE = 250_000


def _commands(group: typer.Typer, prefix: str = "quant") -> Iterator[str]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield f"{prefix} {command.name or command.callback.__name__.replace('_', '-')}"
    for child in group.registered_groups:
        assert child.typer_instance is not None
        yield from _commands(child.typer_instance, f"{prefix} {child.name}")


def _anchors(text: str) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def _known(words: str, commands: set[str]) -> bool:
    return any(words == one or words.startswith(f"{one} ") for one in commands)


def test_the_commands_table_is_the_app() -> None:
    table = re.findall(r"^\| `(quant [a-z -]+)` \|", README, re.MULTILINE)
    assert sorted(table) == sorted(_commands(app))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_quant_command_that_a_page_names_exists(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = re.findall(r"(?:`|\.venv/bin/)(quant(?: [a-z][a-z-]*)+)", text)
    assert [words for words in named if not _known(words, set(_commands(app)))] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_make_target_that_a_page_names_exists(page: Path) -> None:
    targets = set(re.findall(r"^([a-z]+):", (PROJECT_ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    named = re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(named) <= targets


def test_every_bench_that_the_readme_names_exists() -> None:
    named = re.findall(r"make bench B=(\w+)", README)
    assert named
    assert [name for name in named if not (PROJECT_ROOT / "bench" / f"{name}.py").is_file()] == []


def test_the_settings_table_has_every_setting() -> None:
    table = set(re.findall(r"^\| `([A-Z_]+)` \|", README, re.MULTILINE))
    own = {
        "ALPHA_VANTAGE_API_KEY" if name == "alpha_vantage_api_key" else f"QUANT_{name.upper()}"
        for name in Settings.model_fields
    }
    assert table == own | {"DAGSTER_HOME", "QUANT_DAGSTER"}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_resolves(page: Path) -> None:
    broken = []
    for link in LINK.findall(page.read_text(encoding="utf-8")):
        if link.startswith(OUTSIDE):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in _anchors(target.read_text(encoding="utf-8"))):
            broken.append(link)
    assert broken == []


def test_every_picture_is_shown_somewhere_and_light() -> None:
    pictures = set((PROJECT_ROOT / "docs" / "img").iterdir())
    linked = {
        (page.parent / link).resolve()
        for page in PAGES
        for link in LINK.findall(page.read_text(encoding="utf-8"))
        if link.endswith(".png")
    }
    assert pictures == linked
    assert [picture.name for picture in pictures if picture.stat().st_size > LARGEST_PICTURE] == []


def test_the_changelog_has_the_version_of_the_package() -> None:
    version = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    assert f"## [{version}]" in (PROJECT_ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_decisions_are_numbered_without_gaps() -> None:
    pages = sorted((PROJECT_ROOT / "docs" / "decisions").glob("*.md"))
    assert [page.name[:4] for page in pages] == [f"{number:04d}" for number in range(1, len(pages) + 1)]
    titles = [page.read_text(encoding="utf-8").splitlines()[0] for page in pages]
    assert [title[2:6] for title in titles] == [page.name[:4] for page in pages]


def test_the_table_of_verdicts_is_one_that_the_command_prints() -> None:
    (table,) = re.findall(r"^\| strategy \| IS/OOS.*?\n\n", README, re.MULTILINE | re.DOTALL)
    title, _, *rows = table.strip().splitlines()
    assert title == f"| {' | '.join(['strategy', *MEASURES.values()])} |"
    demo = [name for name, spec in load_strategies(PROJECT_ROOT / "strategies").items() if spec.universe == "us_tech"]
    cells = [row.strip("| ").split(" | ") for row in rows]
    assert [name for name, *_ in cells] == demo
    assert {words.split()[-1] for _, *judged in cells for words in judged} <= {"pass", "caution", "fail"}


def test_the_power_that_the_readme_claims_is_the_one_that_was_measured() -> None:
    measured = (PROJECT_ROOT / "docs" / "validation.md").read_text(encoding="utf-8")
    shares = r" (\d+) % \|" * 3
    claimed = re.findall(rf"^\| (?:all of them noise|one with a true [^|]*) \|{shares}$", README, re.MULTILINE)
    ((*found,),) = re.findall(r"^\| 100 trials over ten years \|" + r" (\d+) \|" * 6 + "$", measured, re.MULTILINE)
    assert [list(one) for one in claimed] == [found[:3], found[3:]]


def test_every_finding_of_the_doctor_is_documented() -> None:
    page = (PROJECT_ROOT / "docs" / "validation.md").read_text(encoding="utf-8").split("## The doctor")[1]
    code = "".join(
        (PROJECT_ROOT / "quant_assets" / folder / "doctor.py").read_text(encoding="utf-8")
        for folder in ("validation", "strategy")
    )
    named = re.findall(r'(?:Finding\(|yield _\w+\(|name = )\s*"([a-z_]+)"', code)
    assert len(named) > 15
    assert [name for name in named if f"`{name}`" not in page] == []
