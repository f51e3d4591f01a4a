"""How commands speak: progress while a run goes, tables after it."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from quant_assets.defs.launch import Launched, Step

_NARROW = 12
"""Columns of at most so many characters are never wrapped."""

_WIDE = 160
"""Columns of a table that goes to a file or a pipe."""

_out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else _WIDE)
_err = Console(stderr=True, highlight=False, soft_wrap=True)


def say(text: str = "") -> None:
    """A line of result."""
    _out.print(text, markup=False)


def note(text: str) -> None:
    """A line of progress, to standard error."""
    _err.print(text, markup=False, style="dim")


def fail(text: str) -> None:
    """The one line of a failure, to standard error."""
    _err.print(f"[bold red]error:[/] {_escaped(text)}")


@contextmanager
def status(text: str) -> Iterator[None]:
    """A spinner on a terminal; silent elsewhere."""
    if _err.is_terminal:
        with _err.status(text):
            yield
    else:
        yield


def watch(event: "Step | str") -> None:
    """Show what a run does: its steps, its progress lines, the partitions stored."""
    if isinstance(event, str):
        note(f"    {event}")
    elif event.state == "start":
        note(f"  {event.asset} ...")
    elif event.state == "cells":
        if event.cells % 5000 == 0:
            note(f"    {event.asset}: {event.cells:,} partitions recorded")
    else:
        mark = "[green]done[/]" if event.state == "done" else "[red]failed[/]"
        plural = "" if event.cells == 1 else "s"
        counted = f", {event.cells:,} partition{plural}" if event.cells and not event.asset.endswith("_checks") else ""
        _err.print(f"  {event.asset} {mark}{counted}")


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table; numbers to the right."""
    shown = Table(title=title, title_justify="left", header_style="bold", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for index, column in enumerate(columns):
        numeric = index > 0 and all(_is_number(row[index]) for row in rows)
        narrow = index == 0 or all(len(_text(row[index])) <= _NARROW for row in rows)
        shown.add_column(column, justify="right" if numeric else "left", overflow="fold", no_wrap=narrow)
    for row in rows:
        shown.add_row(*(_escaped(_text(value)) for value in row))
    _out.print(shown)


def changed(runs: "Sequence[Launched]", tables: Sequence[tuple[str, int, int]] = ()) -> None:
    """What runs changed: partitions by asset, checks that found something, rows written and held by table."""
    for one in runs:
        cells = ", ".join(f"{asset} {count:,}" for asset, count in one.cells.items()) or "none"
        say(f"run {one.run_id}: {'succeeded' if one.succeeded else 'FAILED'}; partitions: {cells}")
        for check in one.failed_checks:
            told = "FAILED" if check.blocking else f"{'fails' if check.grave else 'warns'}: {check.words}"
            say(f"  check {check.name} {told}")
    if tables:
        say("rows written (held): " + ", ".join(f"{name} {new:,} ({held:,})" for name, new, held in tables))


def tree(root: Any) -> None:
    """A chain of `lineage.Node`s."""
    from rich.tree import Tree

    def grow(branch: Tree, node: Any) -> Tree:
        for name, value in node.facts.items():
            branch.add(f"[dim]{_escaped(name)}[/]  {_escaped(str(value))}")
        for parent in node.parents:
            grow(branch.add(f"[bold]{_escaped(parent.title)}[/]"), parent)
        return branch

    _out.print(grow(Tree(f"[bold]{_escaped(root.title)}[/]"), root), soft_wrap=False)


def _escaped(text: str) -> str:
    return text.replace("[", "\\[")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float | None) or str(value).strip("-%").replace(",", "").replace(".", "").isdigit()


def _text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.2f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
