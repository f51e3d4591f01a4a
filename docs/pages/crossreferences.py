"""Links from the name of a table, a setting or a command, wherever a page sets it as code, to its reference."""

import re
from collections.abc import Callable
from functools import cache

from quant_assets.contracts import TABLES
from quant_assets.core.settings import Settings

from .command_line import commands
from .configuration import variable

_TAG = re.compile(r"<(?P<end>/?)(?P<name>h[1-6]|a|pre)\b[^>]*>|<code>(?P<code>[^<]+)</code>")


@cache
def targets() -> dict[str, str]:
    """Name -> the page of the reference and the anchor that have it."""
    found = {name: f"reference/contracts.md#{name}" for name in TABLES}
    found |= {variable(name): f"reference/settings.md#{variable(name)}" for name in Settings.model_fields}
    return found | {name: f"reference/command-line.md#{name.replace(' ', '-')}" for name in commands()}


def linked(html: str, address: Callable[[str], str | None]) -> str:
    """`html` with links around code that is such a name, or a command and its options; not in headings or other links.

    Args:
        address: from a value of `targets` to what the link says; None for no link.
    """
    depth = 0

    def replaced(found: re.Match[str]) -> str:
        nonlocal depth
        if found["name"]:
            depth += -1 if found["end"] else 1
            return found[0]
        target = targets().get(_name(found["code"]))
        where = address(target) if target and not depth else None
        return f'<a class="reference" href="{where}">{found[0]}</a>' if where else found[0]

    return _TAG.sub(replaced, html)


def _name(code: str) -> str:
    """What code names: of `quant sweep --strategy x` the command, of `QUANT_PROVIDER=sample` the setting."""
    words = code.split("=")[0].removeprefix(".venv/bin/").split()
    if not words or words[0] != "quant":
        return words[0] if len(words) == 1 else ""
    return next((name for name in (" ".join(words[:count]) for count in (3, 2)) if name in targets()), "")
