"""Pieces of Markdown: tables, code, values as a reader writes them."""

import inspect
import re
from collections.abc import Iterable, Sequence

_CODE = re.compile(r"(`[^`]*`)")


def table(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table, without the columns that are empty in every row."""
    cells = [[cell(value) for value in row] for row in rows]
    kept = [column for column in range(len(titles)) if any(row[column] for row in cells)]
    lines = [[titles[column] for column in kept], ["---"] * len(kept)]
    lines += [[row[column] for column in kept] for row in cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def fields(titles: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of names and what they mean: the second column is wide, so that it can be read on a phone."""
    return f'<div class="fields" markdown>\n\n{table(titles, rows)}\n\n</div>'


def cell(text: str) -> str:
    """`text` on one line, its bars escaped; code may hold some."""
    parts = _CODE.split(prose(" ".join(text.split())))
    return "".join(part if part.startswith("`") else part.replace("|", r"\|") for part in parts)


def prose(text: str) -> str:
    """`text` of a docstring without HTML in it: `table__<version>` outside of code is meant as it is written."""
    return "".join(part if part.startswith("`") else part.replace("<", "&lt;") for part in _CODE.split(text))


def code(text: str) -> str:
    return f"`{text}`" if text else ""


def codes(values: Iterable[str]) -> str:
    return ", ".join(code(value) for value in values)


def sentence(text: str) -> str:
    """With a capital at its beginning and a full stop at its end; a name in code or in lower case and digits stays."""
    text = text.strip()
    if not text:
        return ""
    first = text.split()[0]
    text = text if re.search(r"[`_\d=]", first) else text[0].upper() + text[1:]
    return text if text[-1] in ".:!?" else f"{text}."


def docstring(owner: object) -> str:
    """The text of a docstring up to its first section (Args, Raises, Example...), code marked as such."""
    text = inspect.cleandoc(inspect.getdoc(owner) or "")
    return re.split(r"\n\n?(?:Args|Returns|Raises|Yields|Example|Source|Sources)\b[^\n]*:", text)[0].strip()


def value(of: object) -> str:
    """A default as a file has it: `none`, `true`, `0.05`, `daily`."""
    if of is None or of == "":
        return "none"
    if isinstance(of, bool):
        return str(of).lower()
    if isinstance(of, float):
        return f"{of:g}" if abs(of) < 1e6 else f"{of:,.0f}"
    if isinstance(of, int):
        return str(of)
    if isinstance(of, list | tuple):
        return f"[{', '.join(value(one) for one in of)}]"
    return str(of)
