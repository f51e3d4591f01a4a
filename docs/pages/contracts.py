"""The page of the tables: one section per contract, as its module in `quant_assets/contracts` states it."""

from collections.abc import Mapping

from quant_assets.contracts import TABLES, VIEWS, Table
from quant_assets.defs.catalog import table_schema

from .markdown import code, codes, fields, prose, sentence, table

INTRODUCTION = """# Contracts

One contract per table decides its columns, types and rules; the DDL, the gate before every write, the asset checks
after it, Dagster's catalog and this page come from it. Ratios are plain fractions (0.01 is 1 %), costs are basis
points unless a column says otherwise, dates are sessions of the market's calendar, instants are UTC. *Never* names
what a row must not be: such a row goes to `quarantine` instead.
"""


def page(writers: Mapping[str, list[str]]) -> str:
    """All contracts.

    Args:
        writers: table -> the assets that store it.
    """
    index = table(
        ["Table", "One row per", "Stored by"],
        (
            (f"[{code(name)}](#{name})", ", ".join(one.key).replace("_", r"\_"), codes(writers.get(name, [])))
            for name, one in TABLES.items()
        ),
    )
    sections = [section(one, writers.get(name, [])) for name, one in TABLES.items()]
    return "\n\n".join([INTRODUCTION, index, *sections])


def section(one: Table, writers: list[str]) -> str:
    """One table: what it is, its key, its columns with their limits, and the rules of its rows."""
    schema = table_schema(one)
    assert schema.constraints is not None
    facts = [f"Key: {codes(one.key)}."]
    if writers:
        facts.append(f"Stored by asset {codes(writers)}.")
    if one.name in VIEWS:
        facts.append("A view.")
    rows = []
    for column in schema.columns:
        limits = [limit for limit in column.constraints.other if limit != "key"]
        if column.constraints.nullable:
            limits.append("may be null")
        rows.append((code(column.name), column.description or "", code(column.type), ", ".join(limits)))
    rules = "\n".join(f"- {sentence(rule)}" for rule in schema.constraints.other)
    parts = [
        f"## {one.name}",
        prose(one.doc),
        " ".join(facts),
        fields(["Column", "Meaning", "Type", "Limits"], rows),
        rules,
    ]
    return "\n\n".join(part for part in parts if part)
