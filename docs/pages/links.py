"""Relative links as the repository has them, led to where the site has what they mean."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from .reference import PAGES

BORROWED = {"CONTRIBUTING.md": "contributing.md", "CHANGELOG.md": "changes.md"}
"""Pages of the repository's root -> their names in the site."""

_INDEX = Path("reference/index.md")
_LINK = re.compile(r"(?<!!)\[(?P<words>(?:[^\[\]]|\[[^\]]*\])*)\]\((?P<target>[^()\s]+)\)")
_CODE = re.compile(r"^(?:```|~~~).*?^(?:```|~~~)[ ]*$|`[^`\n]*`(?!\])", re.MULTILINE | re.DOTALL)


def led(markdown: str, source: Path, page: str, root: Path) -> str:
    """`markdown` with its links led to the site; a link to a file that it has not keeps its words only.

    Links in code stay, and so do those that lead nowhere: MkDocs warns of them.

    Args:
        source: the file in the repository.
        page: its place in the site, below `docs`.
        root: of the repository.
    """
    return "".join(
        part if is_code else _LINK.sub(lambda found: _led(found, source, page, root), part)
        for part, is_code in _apart(markdown)
    )


def _led(found: re.Match[str], source: Path, page: str, root: Path) -> str:
    words, docs = found["words"], root / "docs"
    name, _, anchor = found["target"].partition("#")
    if not name or "://" in name or name.startswith("mailto:"):
        return found[0]
    path = (source.parent / name).resolve()
    if path.is_relative_to(docs):
        path = path / "index.md" if path.is_dir() else path
        if path == docs / _INDEX and anchor in PAGES:
            path, anchor = path.with_name(f"{anchor}.md"), ""
    elif path.parent == root and path.name in BORROWED:
        path = docs / BORROWED[path.name]
    elif path == root / "README.md":
        path, anchor = docs / "index.md", ""
    elif path.exists():
        return words
    target = Path(os.path.relpath(path, (docs / page).parent)).as_posix()
    return f"[{words}]({target}{f'#{anchor}' if anchor else ''})"


def _apart(markdown: str) -> Iterator[tuple[str, bool]]:
    """The text in pieces, with whether each is code."""
    end = 0
    for found in _CODE.finditer(markdown):
        yield markdown[end : found.start()], False
        yield found[0], True
        end = found.end()
    yield markdown[end:], False
