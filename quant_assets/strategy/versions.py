"""Versions of strategy files: a text checked for all its problems at once, and saved as a new version of its strategy.

A save keeps the file that it replaces in `history/` beside it, which nothing else reads: no text is ever lost.
"""

import difflib
import fcntl
import os
import re
import shutil
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import ValidationError

from quant_assets.core.errors import StrategyError
from quant_assets.core.files import write_whole
from quant_assets.strategy.ledger import configuration, configuration_id
from quant_assets.strategy.markets import check_market, universe_of
from quant_assets.strategy.spec import StrategySpec, check_names, check_sweep, of_document, strategy_files
from quant_assets.strategy.universe import Universe
from quant_assets.strategy.yaml_file import Document, Loc, explain_one, parse

HISTORY = "history"
FIRST = "1.0.0"
"""The version of a strategy that is new."""

Part = Literal["patch", "minor", "major"]
PARTS: tuple[Part, ...] = ("patch", "minor", "major")
_VERSION = re.compile(r"(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)")
_KEPT = re.compile(rf"(?P<id>[a-z][a-z0-9_]*)-(?P<version>{_VERSION.pattern})(-[0-9a-f]{{8}})?\.yaml")


@dataclass(frozen=True)
class Problem:
    """One thing wrong in a text: the line (from 1) and the dotted field that it belongs to (empty: none), in words."""

    line: int
    field: str
    message: str


@dataclass(frozen=True)
class Checked:
    """A text as a strategy (None if it is none), and all that is wrong with it, by line."""

    spec: StrategySpec | None
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True)
class Opened:
    """A strategy file as an editor has it: its text when it was opened (`read_text`)."""

    path: Path
    text: str


def read_text(path: Path) -> str:
    """The text of a file for an editor: line ends are line feeds, bytes that are not UTF-8 become U+FFFD.

    Raises:
        StrategyError: the file cannot be read.
    """
    return _bytes(path).decode("utf-8", "replace").replace("\r\n", "\n")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StrategyError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None


def check(path: Path, text: str, markets: Sequence[Universe]) -> Checked:
    """A text that the strategy file `path` has, or is going to have.

    Args:
        path: its folder holds the other strategies, and `universes/`.
        markets: `markets.load_universes`; with none of them the text is not held against a market.
    """
    try:
        document = parse(path, text)
    except StrategyError as error:
        return Checked(None, (_problem(path, error),))
    try:
        StrategySpec.model_validate(document.data)
    except ValidationError as error:
        return Checked(None, _problems(document, error))
    spec = of_document(document)
    found = []
    for passes in (check_names, check_sweep, lambda spec: _free(spec, path), lambda spec: _fits(spec, path, markets)):
        try:
            passes(spec)
        except StrategyError as error:
            found.append(_problem(path, error))
    return Checked(None if found else spec, tuple(sorted(found, key=lambda one: one.line)))


def _problems(document: Document, error: ValidationError) -> tuple[Problem, ...]:
    """Each broken field, by line; of a union only the branch that was meant, of a field only what got furthest."""
    branches: dict[Loc, dict[Any, list[Any]]] = {}
    for one in error.errors(include_url=False):
        own = one["loc"][:-1] if one["type"] == "missing" else one["loc"]
        at = next((at for at in range(len(own)) if own[: at + 1] not in document.lines), len(own))
        branches.setdefault(own[:at], {}).setdefault(own[at] if at < len(own) else None, []).append(one)
    found: dict[Any, tuple[Any, Problem]] = {}
    for options in branches.values():
        for one in max(options.values(), key=lambda errors: max(map(_likely, errors))):
            problem = _problem(document.path, document.error(_meant(one), explain_one(StrategySpec, one)))
            place = problem.line, problem.field, one["loc"] if one["type"] == "missing" else None
            if place not in found or _likely(found[place][0]) < _likely(one):
                found[place] = one, problem
    return tuple(sorted((problem for _, problem in found.values()), key=lambda problem: problem.line))


def _likely(one: Any) -> tuple[int, bool]:
    """How far an error got in its branch of a union, past the types to our own rules."""
    return len(one["loc"]), one["type"] == "value_error"


def _meant(one: Any) -> Loc:
    """Where an error lies; a rule on the whole file begins with the field that it is about."""
    field = re.match(r"[a-z_]+(\.[a-z_]+)+", one["msg"].removeprefix("Value error, "))
    return tuple(field[0].split(".")) if not one["loc"] and field else one["loc"]


def _problem(path: Path, error: StrategyError) -> Problem:
    told = re.fullmatch(r"(?:, line (\d+))?(?:, (.+?))?: (.*)", str(error).removeprefix(str(path)), re.DOTALL)
    return Problem(int(told[1] or 1), told[2] or "", told[3]) if told else Problem(1, "", str(error))


def _free(spec: StrategySpec, path: Path) -> None:
    holder = holders(path.parent, besides=path).get(spec.strategy_id)
    if holder is not None:
        raise spec.error("strategy_id", f"{spec.strategy_id} is taken by {holder}; choose another")


def _fits(spec: StrategySpec, path: Path, markets: Sequence[Universe]) -> None:
    if markets:
        check_market(spec, markets, path.parent)


def holders(folder: Path, besides: Path | None = None) -> dict[str, Path]:
    """strategy_id -> the file in `folder` that says it has it, of all files but one that are YAML at all."""
    said = {path: _said(path).get("strategy_id") for path in strategy_files(folder) if path != besides}
    return {name: path for path, name in said.items() if isinstance(name, str)}


def _said(path: Path) -> dict[str, Any]:
    """What a file says, to be read only; nothing if it is no YAML."""
    stamp = path.stat()
    return _data(path, stamp.st_mtime_ns, stamp.st_size)


@lru_cache(maxsize=1024)
def _data(path: Path, modified: int, size: int) -> dict[str, Any]:
    with suppress(StrategyError):
        return dict(parse(path, read_text(path)).data)
    return {}


def compared(version: str) -> tuple[int, ...]:
    """A version as numbers, to order by: 1.10.0 is above 1.9.9."""
    return tuple(map(int, version.split(".")))


def next_version(version: str, part: Part) -> str:
    """The version after `version` with `part` raised.

    Example:
        >>> next_version("1.4.2", "minor")
        '1.5.0'
    """
    at = 2 - PARTS.index(part)
    numbers = compared(version)
    return ".".join(map(str, (*numbers[:at], numbers[at] + 1, *(0 for _ in numbers[at + 1 :]))))


def part_to_raise(old: StrategySpec, new: StrategySpec) -> Part:
    """What a change calls for: another kind of signal a major version, another configuration a minor one."""
    if old.signal.type != new.signal.type or old.universe != new.universe:
        return "major"
    return "patch" if configuration(old, ()) == configuration(new, ()) else "minor"


def set_version(text: str, version: str) -> str:
    """`text` with another version, its comments and layout as they are; raises as `set_field`."""
    return set_field(text, "version", version)


def set_field(text: str, field: str, value: str) -> str:
    """`text` with another plain value of a field at its top, its comments and layout as they are.

    Raises:
        StrategyError: the text is no YAML mapping, or has no such field on a line of its own.
    """
    with suppress(yaml.YAMLError):
        root = yaml.compose(text, Loader=yaml.SafeLoader)
        fields = {key.value: node for key, node in root.value} if isinstance(root, yaml.MappingNode) else {}
        if field in fields:
            begin, end = fields[field].start_mark.index, fields[field].end_mark.index
            changed = text[:begin] + value + text[end:]
            if yaml.safe_load(changed) == yaml.safe_load(text) | {field: value}:
                return changed
    raise StrategyError(f"{field} cannot be set to {value}; write `{field}: {value}` on a line of its own")


def diff(old: str, new: str, old_name: str = "saved", new_name: str = "edited") -> str:
    """The lines that differ, as a unified diff; empty if none does."""
    lines = difflib.unified_diff(old.splitlines(), new.splitlines(), old_name, new_name, lineterm="")
    return "\n".join(lines)


def kept(folder: Path, strategy_id: str) -> dict[str, list[Path]]:
    """Version -> files in the history of one strategy, the highest version first."""
    found: dict[str, list[Path]] = {}
    for path in sorted((folder / HISTORY).glob("*.yaml")):
        name = _KEPT.fullmatch(path.name)
        if name and name["id"] == strategy_id:
            found.setdefault(name["version"], []).append(path)
    return dict(sorted(found.items(), key=lambda item: compared(item[0]), reverse=True))


def refusal(
    folder: Path, text: str, markets: Sequence[Universe], used: Mapping[str, Collection[str]], opened: Opened | None
) -> str | None:
    """Why `save` would refuse; None if it would not."""
    try:
        _target(folder, text, markets, used, opened)
    except StrategyError as error:
        return str(error)
    return None


def save(
    folder: Path,
    text: str,
    markets: Sequence[Universe],
    used: Mapping[str, Collection[str]],
    opened: Opened | None = None,
) -> Path:
    """Store `text` as a new version of its strategy, or as a new strategy in a file of its own; whole or not at all.

    Args:
        markets: `markets.load_universes`.
        used: version -> configurations (`ledger.configuration_id`) of the strategy's stored targets and backtests.
        opened: the file that was edited; None for a strategy that is new.

    Returns:
        The file, which has the line ends that it had.

    Raises:
        StrategyError: a problem in the text; a strategy_id of another file; a version that is not above the file's, or
            stands for something else already; a file that was changed since it was opened, or cannot be written.
    """
    try:
        with _alone(folder):
            path = _target(folder, text, markets, used, opened)
            if path.exists():
                _keep(path)
                if b"\r\n" in _bytes(path):
                    text = text.replace("\n", "\r\n")
            return write_whole(path, text)
    except OSError as error:
        raise StrategyError(f"{folder}: cannot be written ({error.strerror}); check permissions and space") from None


def _target(
    folder: Path, text: str, markets: Sequence[Universe], used: Mapping[str, Collection[str]], opened: Opened | None
) -> Path:
    """The file that `text` is to be saved in; raises as `save`."""
    if opened and (not opened.path.exists() or read_text(opened.path) != opened.text):
        raise StrategyError(f"{opened.path.name} was changed since it was opened; open it again and repeat the edit")
    before = check(opened.path, opened.text, markets).spec if opened else None
    path = opened.path if opened else folder / ".new"
    checked = check(path, text, markets)
    if checked.spec is None:
        first = checked.problems[0]
        raise StrategyError(f"line {first.line}{f', {first.field}' if first.field else ''}: {first.message}")
    spec = checked.spec
    if opened is None or (before and before.strategy_id != spec.strategy_id):
        before, path = None, folder / f"{spec.strategy_id}.yaml"
        if path.exists():
            raise StrategyError(f"{path.name} exists; choose another strategy_id than {spec.strategy_id}")
    _refuse_version(folder, text, spec, before, markets, used)
    return path


def _refuse_version(
    folder: Path,
    text: str,
    spec: StrategySpec,
    before: StrategySpec | None,
    markets: Sequence[Universe],
    used: Mapping[str, Collection[str]],
) -> None:
    """Raises: StrategyError: the version is not above the one in force, or what it stood for was something else."""
    version = spec.version
    known = [*used, *kept(folder, spec.strategy_id), *([before.version] if before else [])]
    free = next_version(max([version, *known], key=compared), "patch")
    if before and compared(version) <= compared(before.version):
        raise StrategyError(f"version {version} is not above {before.version}, the file's; use {free}")
    if version in used:
        symbols = spec.bounds(universe_of(spec, markets), folder / "universes") if markets else ()
        if configuration_id(configuration(spec, symbols)) not in used[version]:
            raise StrategyError(f"version {version} has stored results of another configuration; use {free}")
    if any(read_text(old) != text for old in kept(folder, spec.strategy_id).get(version, ())):
        raise StrategyError(f"version {version} is in {HISTORY}/ with another text; use {free}")


def _keep(path: Path) -> None:
    """Copy a file, byte by byte, into the history beside it, unless it is there."""
    said, content = _said(path), _bytes(path)
    mark = sha256(content).hexdigest()[:8]
    name, version = str(said.get("strategy_id")), str(said.get("version"))
    stem = f"{name}-{version}" if _KEPT.fullmatch(f"{name}-{version}.yaml") else f"{path.stem}-unusable-{mark}"
    copy = path.parent / HISTORY / f"{stem}.yaml"
    if copy.exists() and _bytes(copy) != content:
        copy = copy.with_name(f"{stem}-{mark}.yaml")
    if not copy.exists():
        copy.parent.mkdir(exist_ok=True)
        part = copy.with_suffix(".part")
        shutil.copyfile(path, part)
        part.replace(copy)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the folder against others who save in it."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
