"""The page of the command line: every command with its options, from the Typer application itself."""

from collections.abc import Iterator
from typing import Any

import typer

from quant_assets.cli.app import app

from .markdown import code, fields, sentence, table, value

INTRODUCTION = """# Command line

`quant` lies in `.venv/bin`. Its commands start real Dagster runs where they compute something. Dates snap to
sessions, and it says so. A failure is one line on standard error and exit code 1; interrupted, it is 130. `--help`
with any command shows what stands here.
"""


def commands(application: typer.Typer = app) -> dict[str, Any]:
    """`quant symbols add` and the like -> its click command, in the order of the application."""

    def walk(group: Any, prefix: str) -> Iterator[tuple[str, Any]]:
        for name, command in group.commands.items():
            if hasattr(command, "commands"):
                yield from walk(command, f"{prefix} {name}")
            elif not command.hidden:
                yield f"{prefix} {name}", command

    return dict(walk(typer.main.get_command(application), "quant"))


def page() -> str:
    found = commands()
    index = table(
        ["Command", "What it does"],
        ((f"[{code(name)}](#{name.replace(' ', '-')})", summary(command)) for name, command in found.items()),
    )
    return "\n\n".join([INTRODUCTION, index, *(section(name, command) for name, command in found.items())])


def summary(command: Any) -> str:
    return sentence((command.help or "").split("\n\n")[0])


def section(name: str, command: Any) -> str:
    """One command: its help, and a table of its arguments and options."""
    context = typer.Context(command, info_name=name)
    rows = []
    for one in command.params:
        shown = one.get_help_record(context)
        if shown is None or one.name == "help":
            continue
        words, text = shown[0].replace(" <list[str]>", " ..."), (one.help or "").removesuffix(".")
        default = "*required*" if one.required else _default(one, context, text)
        rows.append((code(words), sentence(text.split("; default:")[0]), default))
    options = fields(["Option", "Meaning", "Default"], rows) if rows else "It has no options."
    return "\n\n".join([f"## {name}", (command.help or "").strip(), options])


def _default(one: Any, context: Any, text: str) -> str:
    """The option's own default, else what its help says of it."""
    found = one.get_default(context)
    if found is None or found == []:
        return text.split("; default:")[1].strip() if "; default:" in text else ""
    return code(value(getattr(found, "value", found)))
