"""What Dagster's catalog tells of every asset beside its values: group, owner, tables, columns, source, rows held."""

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg

from quant_assets.contracts import Column, Table
from quant_assets.defs.grid import Grid
from quant_assets.warehouse import Warehouse

OWNERS = ["team:quant"]
ROW_COUNT = "dagster/row_count"


def table_asset(
    grid: Grid, name: str, table: Table, *, group: str, also: Sequence[Table] = (), **options: Any
) -> Callable[[Callable[..., Any]], dg.AssetsDefinition]:
    """`dg.asset` for a body that stores `table` and `also` others, a range of partitions in one run.

    Args:
        name: of the asset in its market.
        group: of the asset in its market, which is its stage too.
        options: further arguments of `dg.asset`.
    """

    def define(body: Callable[..., Any]) -> dg.AssetsDefinition:
        return dg.asset(
            key=grid.key(name),
            group_name=grid.name(group),
            owners=OWNERS,
            tags={"stage": group, "universe": grid.universe.name},
            description="\n".join([table.doc, *_others(also)]),
            metadata={
                "dagster/table_name": f"main.{table.name}",
                "dagster/column_schema": table_schema(table),
                "dagster/code_references": _source_of(body),
                **{other.name: table_schema(other) for other in also},
            },
            backfill_policy=dg.BackfillPolicy.single_run(),
            **options,
        )(body)

    return define


@cache
def table_schema(table: Table) -> dg.TableSchema:
    """The contract's columns as stored, those of its key marked, and the rules of its rows."""
    columns = [
        dg.TableColumn(
            column.name,
            column.type,
            column.doc,
            dg.TableColumnConstraints(column.nullable, other=["key"] * (column.name in table.key) + _limits(column)),
        )
        for column in table.all_columns
    ]
    return dg.TableSchema(columns, dg.TableConstraints([f"never: {rule.name}" for rule in table.row_rules]))


def row_count(warehouse: Warehouse, *tables: str) -> dict[str, int]:
    """Metadata: the rows that `tables` hold together by now, of all markets and runs."""
    counts = " + ".join(f"(SELECT count(*) FROM {table})" for table in tables)
    return {ROW_COUNT: warehouse.query(f"SELECT {counts}").item()}


def _others(tables: Sequence[Table]) -> list[str]:
    return ["\nStored with it:\n", *(f"- `{table.name}`: {table.doc}" for table in tables)] if tables else []


def _limits(column: Column) -> list[str]:
    ends = {">": column.above, ">=": column.at_least, "<=": column.at_most}
    among = [f"one of {', '.join(column.among)}"] if column.among else []
    return [f"{sign} {limit:g}" for sign, limit in ends.items() if limit is not None] + among


def _source_of(body: Callable[..., Any]) -> dg.CodeReferencesMetadataValue:
    """Where `body` stands, as its code object knows it: `dg.with_source_code_references` would read every file."""
    code = body.__code__
    file, line = Path(code.co_filename).resolve(), code.co_firstlineno
    reference = dg.LocalFileCodeReference(file_path=str(file), line_number=line, label=f"{file.name}:{line}")
    return dg.CodeReferencesMetadataValue(code_references=[reference])
