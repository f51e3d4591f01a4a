"""The pages of the YAML files: strategy and universe, field by field, from the JSON schemas of their models."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from quant_assets.core.settings import PROJECT_ROOT
from quant_assets.signals import RULES
from quant_assets.strategy.spec import SWEPT, StrategySpec
from quant_assets.strategy.universe import Universe

from .markdown import code, docstring, fields, sentence, value

Schema = Mapping[str, Any]

STRATEGIES = PROJECT_ROOT / "strategies"

STRATEGY = """# Strategy file

Every `*.yaml` directly in the folder of strategies is one strategy: the file's fields are these and no others. An
unknown or wrong one is refused with file, line, field and what is allowed there. The same schema is in
`strategies/strategy.schema.json`, by which editors complete and check while you type. Below, a section is titled by
its path, and by the type of the signal where that decides what it holds.
"""
UNIVERSE = """# Universe file

A market, or a part of one: `universes/<name>.yaml` in the folder of strategies. A symbol is a field list as below, or
its ticker alone: `symbols: [AAPL, {symbol: FB, from: 2012-05-18}]`.
"""


@dataclass(frozen=True)
class Part:
    """One section of a file: where it stands, what it is, its fields as rows of a table."""

    title: str
    text: str
    rows: tuple[tuple[str, ...], ...]


def strategy_page() -> str:
    """The strategy file, the formula of a rule beside its inputs."""
    swept = f"A `sweep` may vary the fields of {', '.join(code(name) for name in SWEPT)}."
    formulas = {f"signal ({kind})": docstring(rule.function) for kind, rule in RULES.items()}
    return _page(f"{STRATEGY}\n{swept}", "tsmom_us_tech.yaml", StrategySpec, formulas)


def universe_page() -> str:
    return _page(UNIVERSE, "universes/us_tech.yaml", Universe, {})


def _page(introduction: str, example: str, model: Any, formulas: Mapping[str, str]) -> str:
    texts = [introduction, f"```yaml\n{(STRATEGIES / example).read_text(encoding='utf-8')}```"]
    for part in parts(model.model_json_schema(by_alias=True)):
        formula = formulas.get(part.title, "")
        shown = fields(["Field", "Meaning", "Type", "Default", "Limits"], part.rows)
        heading = f"{'##' if '.' not in part.title else '###'} {part.title}"
        texts += [heading, part.text, *([f"```text\n{formula}\n```"] if formula else []), shown]
    return "\n\n".join(text for text in texts if text)


def parts(schema: Schema) -> Iterator[Part]:
    """The sections of a file, depth first; of a union one per kind."""
    yield from _parts(schema, schema, "", "")


def _parts(root: Schema, node: Schema, path: str, kind: str) -> Iterator[Part]:
    """`kind` is the type of the union's member that the path leads through, empty outside of one."""
    rows = []
    children: list[tuple[str, Schema]] = []
    for name, field in node["properties"].items():
        rows.append(
            (code(name), _text(root, field), type_of(root, field), default_of(node, name, field), limits_of(field))
        )
        children += [(name, root["$defs"][ref]) for ref in references(field)]
    title = f"{path or 'The file'}{f' ({kind})' if kind else ''}"
    yield Part(title, _plain(node.get("description", "")), tuple(rows))
    for name, child in children:
        below = child["properties"].get("type", {}).get("const", kind)
        yield from _parts(root, child, f"{path}.{name}" if path else name, below)


def references(field: Schema) -> list[str]:
    """Names of the sections that a field may hold, in its list or mapping included."""
    found = [field["$ref"].rsplit("/", 1)[-1]] if "$ref" in field else []
    nested = [*field.get("anyOf", ()), *field.get("oneOf", ())]
    for key in ("items", "additionalProperties"):
        if isinstance(field.get(key), dict):
            nested.append(field[key])
    for one in nested:
        found += references(one)
    return found


def type_of(root: Schema, field: Schema) -> str:
    """In words: `whole number or none`, `one of daily, weekly`, `list of dates`."""
    if "const" in field:
        return f"always {code(field['const'])}"
    if "enum" in field:
        return f"one of {', '.join(code(str(one)) for one in field['enum'])}"
    if "$ref" in field or "oneOf" in field:
        kinds = [root["$defs"][ref]["properties"].get("type", {}).get("const") for ref in references(field)]
        return f"section of type {', '.join(code(kind) for kind in kinds)}" if all(kinds) else "section"
    if "anyOf" in field:
        names = [type_of(root, one) for one in field["anyOf"]]
        names = [name for name in names if not (name == "whole number" and "number" in names)]
        return " or ".join(dict.fromkeys(names))
    kind = field.get("type")
    if kind == "array":
        return f"list of {_plural(type_of(root, field['items']))}"
    if kind == "object":
        return f"mapping of names to {type_of(root, field['additionalProperties'])}"
    if field.get("format") == "date":
        return "date"
    return {
        "integer": "whole number",
        "number": "number",
        "string": "text",
        "boolean": "true or false",
        "null": "none",
    }[str(kind)]


def default_of(node: Schema, name: str, field: Schema) -> str:
    if name in node.get("required", ()):
        return "*required*"
    if isinstance(field.get("default"), dict):
        return "*optional*"
    return code(value(field["default"])) if "default" in field else "none"


def limits_of(field: Schema) -> str:
    """Of a number its range, of a text its pattern in words where it is one of ours, else the pattern."""
    ends = {
        "minimum": "≥",
        "exclusiveMinimum": ">",
        "maximum": "≤",
        "exclusiveMaximum": "<",
        "multipleOf": "multiple of",
    }
    for one in (field, *field.get("anyOf", ())):
        found = [f"{sign} {value(one[key])}" for key, sign in ends.items() if key in one]
        if "gt" in one:
            found.append(f"> {value(one['gt'])}")
        if "pattern" in one:
            found.append(_PATTERNS.get(one["pattern"], code(one["pattern"])))
        if found:
            return ", ".join(found)
    return ""


_PATTERNS = {
    "^[a-z][a-z0-9_]{0,62}$": "`a-z`, `0-9`, `_`",
    "^[A-Za-z][A-Za-z0-9_]*$": "`A-Z`, `a-z`, `0-9`, `_`",
    r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$": "such as 1.0.0",
}


def _text(root: Schema, field: Schema) -> str:
    """A field's own description; else, if it holds one section, what that is."""
    below = references(field) if "string" not in (one.get("type") for one in field.get("anyOf", ())) else []
    described = field.get("description") or (root["$defs"][below[0]].get("description", "") if len(below) == 1 else "")
    return sentence(_plain(described).split("\n\n")[0])


def _plain(text: str) -> str:
    """A docstring's text for the reader of a file: without its example."""
    return text.split("\n\nExample")[0].strip()


def _plural(noun: str) -> str:
    return {"text": "texts", "section": "sections", "date": "dates", "number": "numbers"}.get(noun, noun)
