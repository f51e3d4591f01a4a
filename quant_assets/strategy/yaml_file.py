"""YAML files of plain configuration: read, checked against a pydantic model, errors with file, line and field."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from quant_assets.core.errors import StrategyError

Loc = tuple[str | int, ...]
_TAGS = {"str", "int", "float", "bool", "null", "timestamp", "seq", "map"}
_TEXT = "tag:yaml.org,2002:str"
Model = TypeVar("Model", bound="Section")


class Section(BaseModel):
    """Base of everything a YAML file can say: immutable, no unknown field, no silent conversion, no NaN or infinity."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, populate_by_name=True, validate_default=True
    )


@dataclass(frozen=True)
class Document:
    """A parsed file: its data, and the line (from 1) on which each field lies."""

    path: Path
    data: Any
    lines: Mapping[Loc, int] = field(repr=False)

    def error(self, loc: Iterable[str | int], message: str) -> StrategyError:
        """An error naming file, line and field; a field that is not in the file gets the line of what holds it."""
        parts: Loc = ()
        for part in loc:
            # pydantic adds the tag of a union to the path: what the file does not have is skipped
            if (*parts, part) in self.lines:
                parts = (*parts, part)
        named = ".".join(str(part) for part in parts)
        return StrategyError(f"{self.path}, line {self.lines[parts]}{f', {named}' if named else ''}: {message}")


def read(path: Path) -> Document:
    """Parse one YAML mapping.

    Raises:
        StrategyError: no such file, not UTF-8, no valid YAML, no mapping, a key twice, a key that is no text, or an
            anchor, alias, merge or tag (the files are configuration, not programs).
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise StrategyError(f"{path}: cannot be read ({error.strerror}); check the path and its permissions") from None
    except UnicodeDecodeError as error:
        raise StrategyError(f"{path}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    return parse(path, text)


def parse(path: Path, text: str) -> Document:
    """`read`, of a text that `path` has or is going to have."""
    try:
        loader = yaml.SafeLoader(text)
        root = loader.get_single_node()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise StrategyError(f"{path}, line {line}: not valid YAML: {error.problem}; correct the line") from None
    except yaml.YAMLError as error:
        raise StrategyError(f"{path}: not valid YAML: {str(error).splitlines()[0]}; correct the file") from None
    except RecursionError:
        raise StrategyError(f"{path}: nested too deeply; a file of this kind has at most five levels") from None
    if not isinstance(root, yaml.MappingNode):
        raise StrategyError(f"{path}, line 1: must be a mapping of fields to values; write `field: value` lines")
    lines: dict[Loc, int] = {}
    _walk(path, root, (), lines, set(), loader)
    try:
        data = loader.construct_document(root)
    except (yaml.YAMLError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f", line {mark.line + 1}" if mark else ""
        raise StrategyError(f"{path}{at}: {getattr(error, 'problem', error)}; correct the value") from None
    return Document(path, data, lines)


def _walk(
    path: Path, node: yaml.Node, loc: Loc, lines: dict[Loc, int], seen: set[int], loader: yaml.SafeLoader
) -> None:
    line = node.start_mark.line + 1
    lines.setdefault(loc, line)
    if id(node) in seen:
        raise StrategyError(f"{path}, line {line}: anchors and aliases are not supported; write the value out")
    seen.add(id(node))
    if node.tag.removeprefix("tag:yaml.org,2002:") not in _TAGS:
        raise StrategyError(f"{path}, line {line}: tag {node.tag} is not supported; write a plain value")
    if isinstance(node, yaml.ScalarNode) and node.tag != _TEXT:
        try:
            loader.construct_object(node)
        except ValueError as error:
            raise StrategyError(f"{path}, line {line}: {node.value} is no value: {error}; correct it") from None
    if isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            _walk(path, item, (*loc, index), lines, seen, loader)
    elif isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            at = f"{path}, line {key.start_mark.line + 1}"
            if key.tag != _TEXT:
                shown = key.value if isinstance(key, yaml.ScalarNode) else key.id
                raise StrategyError(f"{at}: field name {shown!r} is not plain text; use a field name or quote it")
            below = (*loc, key.value)
            if below in lines:
                named = ".".join(map(str, below))
                raise StrategyError(f"{at}, {named}: stands twice (first on line {lines[below]}); keep one")
            lines[below] = key.start_mark.line + 1
            _walk(path, value, below, lines, seen, loader)


def validate(model: type[Model], document: Document) -> Model:
    """The document as `model`.

    Raises:
        StrategyError: the first field that breaks the model, with what is allowed there.
    """
    try:
        return model.model_validate(document.data)
    except ValidationError as error:
        raise document.error(*explain(model, error)) from None


def explain(model: type["Section"], error: ValidationError) -> tuple[Loc, str]:
    """Where the first broken field lies, and what is allowed there."""
    errors = error.errors(include_url=False)
    # of the branches of a union, the one that got furthest is the one that was meant: past the types to our own rules
    likely = [one for one in errors if one["loc"][:1] == errors[0]["loc"][:1]]
    told = max(likely, key=lambda one: (len(one["loc"]), one["type"] == "value_error"))
    return told["loc"], explain_one(model, told)


def explain_one(model: type[Section], error: Any) -> str:
    """What is allowed where one of pydantic's errors lies."""
    kind, loc, got = error["type"], error["loc"], error["input"]
    if kind == "extra_forbidden":
        return f"unknown field; known here: {', '.join(_known_fields(model, loc[:-1]))}"
    if kind == "missing":
        return f"field {str(loc[-1])!r} is missing; add it"
    if kind == "union_tag_not_found":
        return "field 'type' is missing; add it"
    if kind == "union_tag_invalid":
        return f"type {error['ctx']['tag']!r} is not available; use one of {error['ctx']['expected_tags']}"
    if kind == "value_error":
        return str(error["ctx"]["error"])
    if kind == "string_type":
        return f"must be text, YAML reads it as {got!r}; put it in quotes"
    if kind == "model_type":
        return f"must be a mapping of fields, got {got!r}; if it is meant as text, put it in quotes"
    if kind in ("date_type", "date_from_datetime_inexact"):
        return f"must be a date such as 2010-01-04, got {got!r}"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, got {got!r}"


def _known_fields(model: type[Section], loc: Loc) -> list[str]:
    """Names of the fields that the model has at `loc`, a path into its JSON schema."""
    schema = model.model_json_schema(by_alias=True)
    node = schema
    for part in loc:
        if isinstance(part, int):
            node = node["items"]
        elif part in node.get("properties", {}):
            node = node["properties"][part]
        choices = node.get("oneOf") or node.get("anyOf") or [node]
        targets = [schema["$defs"][choice["$ref"].rsplit("/", 1)[-1]] for choice in choices if "$ref" in choice]
        # past a union, pydantic's path names the branch: its tag, or the class
        named = [t for t in targets if part in (t["title"], t["properties"].get("type", {}).get("const"))]
        if len(targets) == 1 or named:
            node = (named or targets)[0]
    return list(node.get("properties", {}))
