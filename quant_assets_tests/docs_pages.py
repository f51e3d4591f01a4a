"""What a page of the documentation tells its reader to do, taken apart, and whether a command said what the page shows.

A page is Markdown. Its fenced blocks mean:

    sh, bash, shell           a command on each line
    console                   `$ ` before each command, its output below; `...` stands for what was left out
    any with a title          the file of that name, whole
    diff with a title         an edit of that file: where its old lines stand, once, its new ones take their place;
                              a line `@@` begins another place
    other languages           something to read
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

SHELL = ("sh", "bash", "shell")
READ_ONLY = ("csv", "ini", "json", "mermaid", "python", "sql", "text", "toml", "yaml")
ID = re.compile(r"\b[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}\b")
_FENCE = re.compile(
    r"^(?P<indent> *)(?P<ticks>`{3,})(?P<about>[^`\n]*)\n(?P<text>.*?)^(?P=indent)(?P=ticks) *$", re.M | re.S
)
_COMMENT = re.compile(r"(^|\s+)#\s.*")
_TITLE = re.compile(r'\btitle="([^"]+)"')


@dataclass(frozen=True)
class Block:
    """A fenced block; `line` is the page's line of its opening fence."""

    language: str
    title: str
    text: str
    line: int


@dataclass(frozen=True)
class Command:
    """A command of a page, with the lines that the page shows as its output, if any."""

    text: str
    line: int
    shown: tuple[str, ...] = ()


@dataclass(frozen=True)
class File:
    """A file that a page gives: whole, or (`edit`) as lines that change one."""

    path: str
    text: str
    line: int
    edit: bool = False


def blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, in order."""
    found = []
    for match in _FENCE.finditer(page):
        language, _, rest = match["about"].strip().partition(" ")
        title = _TITLE.search(rest)
        text = re.sub(rf"^{match['indent']}", "", match["text"], flags=re.M)
        line = page.count("\n", 0, match.start()) + 1
        found.append(Block(language, title[1] if title else "", text, line))
    return found


def steps(page: str) -> Iterator[Command | File]:
    """What a reader does, in the page's order.

    Raises:
        ValueError: a block whose language does not say whether there is something to do.

    Example:
        >>> list(steps("```console\\n$ echo one\\none\\n```\\n"))
        [Command(text='echo one', line=2, shown=('one',))]
    """
    for block in blocks(page):
        if block.title:
            yield File(block.title, block.text, block.line, edit=block.language == "diff")
        elif block.language == "console" or block.language in SHELL:
            yield from _commands(block)
        elif block.language not in READ_ONLY:
            raise ValueError(
                f"line {block.line}: a block of language {block.language!r} is neither commands ({', '.join(SHELL)}, "
                f"console) nor a file with a title nor something to read ({', '.join(READ_ONLY)})"
            )


def _commands(block: Block) -> Iterator[Command]:
    prompt = "$ " if block.language == "console" else ""
    text, at = "", block.line
    shown: list[str] = []
    for line, words in enumerate(block.text.splitlines(), start=block.line + 1):
        if text.endswith("\\"):
            text += f"\n{words}"
        elif words.startswith(prompt):
            if text:
                yield Command(text, at, tuple(shown))
            text, at, shown = _COMMENT.sub("", words.removeprefix(prompt)), line, []
        elif text:
            shown.append(words)
        else:
            raise ValueError(f"line {line}: a console block begins with a command, `$ ...`, not with {words!r}")
    if text:
        yield Command(text, at, tuple(shown))


def apply(file: File, folder: Path) -> None:
    """Write a page's file below `folder`, or edit the one that is there.

    Raises:
        ValueError: the old lines of an edit stand there never, or more than once.
    """
    path = folder / file.path
    if not file.edit:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(file.text, encoding="utf-8")
        return
    text = path.read_text(encoding="utf-8")
    for place in re.split(r"^@@.*\n", file.text, flags=re.M):
        lines = place.splitlines(keepends=True)
        old = "".join(line[1:] or "\n" for line in lines if line[0] != "+")
        new = "".join(line[1:] or "\n" for line in lines if line[0] != "-")
        if not lines:
            continue
        if text.count(old) != 1:
            raise ValueError(f"line {file.line}: these lines stand {text.count(old)} times in {file.path}:\n{old}")
        text = text.replace(old, new)
    path.write_text(text, encoding="utf-8")


def compare(shown: Sequence[str], said: str) -> dict[str, str]:
    """Check that a command said what a page shows. Returns the id that it gave in place of each id shown.

    A line `...` stands for any number of lines, `...` within a line for any words; where neither stands, nothing may be
    missing. How many spaces there are does not count, nor do empty lines and rules of tables.

    Raises:
        ValueError: the first line shown that it did not say, or the first said behind the last one shown.

    Example:
        >>> compare(["one", "...", "run ... done"], "one\\ntwo\\nthree\\nrun 7 done")
        {}
    """
    said_lines = [words for line in said.splitlines() if (words := _plain(line))]
    reached: dict[int, dict[str, str]] = {0: {}}  # lines said so far -> ids, for each way in which all fits until here
    last = "..."
    for last in filter(None, map(_plain, shown)):
        if last == "...":
            first = min(reached)
            reached = dict.fromkeys(range(first, len(said_lines) + 1), reached[first])
            continue
        pattern = re.compile(".*".join(re.escape(ID.sub("<id>", part)) for part in last.split("...")))
        reached = {
            at + 1: known | dict(zip(ID.findall(last), ID.findall(said_lines[at]), strict=False))
            for at, known in reached.items()
            if at < len(said_lines) and pattern.fullmatch(ID.sub("<id>", said_lines[at]))
        }
        if not reached:
            raise ValueError(f"it does not say {last!r} there")
    if last != "..." and len(said_lines) not in reached:
        raise ValueError(f"it goes on with {said_lines[max(reached)]!r}")
    return reached.get(len(said_lines), {})


def _plain(line: str) -> str:
    return " ".join(re.sub("[─-]{4,}", "", line).split())
