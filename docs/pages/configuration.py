"""The page of the settings: every field of `Settings`, with the text that stands below it in the source."""

import ast
import inspect
from pathlib import Path
from textwrap import dedent
from typing import Any, Literal, get_args, get_origin

from quant_assets.core.settings import PROJECT_ROOT, Settings

from .markdown import code, codes, fields, sentence, value

INTRODUCTION = """# Settings

Read once when a process starts, from the environment or from a file `.env` at the root of the repository; the
environment wins. An unusable value is refused by name. Two more variables are Dagster's, and set by `quant`, by
`make` and by the exports that `quant env` prints: `DAGSTER_HOME`, where `dagster.yaml` lies (the repository), and
`QUANT_DAGSTER`, the folder of Dagster's storages (`dagster` in `QUANT_HOME`).
"""


def variable(name: str) -> str:
    """The environment variable of a field."""
    alias = Settings.model_fields[name].validation_alias
    return str(alias) if alias else f"{Settings.model_config['env_prefix']}{name.upper()}"


def page() -> str:
    texts = docs_of(Settings)
    rows = []
    for name, field in Settings.model_fields.items():
        kind, limits = _kind(field.annotation, field.metadata)
        shown = f"{code(variable(name))}{{: #{variable(name)} }}"
        rows.append((shown, sentence(texts.get(name, "")), kind, code(_default(field.default)), limits))
    return f"{INTRODUCTION}\n\n{fields(['Variable', 'Meaning', 'Type', 'Default', 'Limits'], rows)}"


def docs_of(model: type) -> dict[str, str]:
    """Field -> the string that stands below it in the class's source."""
    (tree,) = ast.parse(dedent(inspect.getsource(model))).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        said = isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant) and below.value.value
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name) and isinstance(said, str):
            found[field.target.id] = said
    return found


def _kind(annotation: Any, metadata: list[Any]) -> tuple[str, str]:
    """Type and limits in words."""
    if annotation == tuple[float, float]:
        return "two numbers", "where *pass* ends, where *fail* begins; a comma between"
    if get_origin(annotation) is Literal:
        return f"one of {codes(get_args(annotation))}", ""
    options = [one for one in get_args(annotation) or (annotation,) if one is not type(None)]
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    limits = [
        f"{sign} {value(getattr(one, key))}" for one in metadata for key, sign in signs.items() if hasattr(one, key)
    ]
    names = {
        "str": "text",
        "SecretStr": "text, never shown",
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
    }
    return names.get(options[0].__name__, "folder" if issubclass(options[0], Path) else options[0].__name__), ", ".join(
        limits
    )


def _default(of: Any) -> str:
    if isinstance(of, Path):
        return str(of.relative_to(PROJECT_ROOT))
    return ",".join(value(one) for one in of) if isinstance(of, tuple) else value(of)
