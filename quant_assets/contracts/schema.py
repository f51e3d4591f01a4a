"""What a table contract is made of. The tables themselves stand in one module each beside this one."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import polars as pl

_POLARS: dict[str, pl.DataType] = {
    "VARCHAR": pl.String(),
    "DATE": pl.Date(),
    "TIMESTAMP": pl.Datetime("us"),
    "DOUBLE": pl.Float64(),
    "BIGINT": pl.Int64(),
    "INTEGER": pl.Int32(),
    "BOOLEAN": pl.Boolean(),
    "VARCHAR[]": pl.List(pl.String()),
    "FLOAT[]": pl.List(pl.Float32()),
}


@dataclass(frozen=True, slots=True)
class Column:
    """One column: DuckDB type, whether it may be null, its range (ends inclusive unless `above`) or its values."""

    name: str
    type: str
    doc: str
    nullable: bool = False
    at_least: float | None = None
    at_most: float | None = None
    above: float | None = None
    among: tuple[str, ...] | None = None
    compression: str | None = None
    """DuckDB's method for the column, where trying them all costs more than it saves."""

    @property
    def polars(self) -> pl.DataType:
        return _POLARS[self.type]

    def rules(self) -> list["Rule"]:
        """The rules that this column alone implies."""
        value = pl.col(self.name)
        found = []
        if not self.nullable:
            found.append(Rule(f"{self.name} is null", value.is_not_null()))
        if self.type == "DOUBLE":
            found.append(Rule(f"{self.name} is NaN or infinite", value.is_finite() | value.is_null()))
        if self.above is not None:
            found.append(Rule(f"{self.name} is not above {self.above:g}", (value > self.above) | value.is_null()))
        if self.at_least is not None:
            found.append(Rule(f"{self.name} is below {self.at_least:g}", (value >= self.at_least) | value.is_null()))
        if self.at_most is not None:
            found.append(Rule(f"{self.name} is above {self.at_most:g}", (value <= self.at_most) | value.is_null()))
        if self.among is not None:
            allowed = f"{self.name} is none of {', '.join(self.among)}"
            found.append(Rule(allowed, value.is_in(list(self.among)) | value.is_null()))
        return found


@dataclass(frozen=True, eq=False)
class Rule:
    """A row is good where `expr` is true; `name` says what is wrong where it is not."""

    name: str
    expr: pl.Expr


@dataclass(frozen=True, eq=False)
class Table:
    """A table as its readers see it.

    `run_id` tables carry the Dagster run that wrote the row as their last column. `sort` is the order rows are
    written in, so that a reader of a few dates touches few row groups.
    """

    name: str
    key: tuple[str, ...]
    columns: tuple[Column, ...]
    doc: str
    row_rules: tuple[Rule, ...] = ()
    sort: tuple[str, ...] = ()
    run_id: bool = True
    symbol: str | None = "symbol"
    """The column by whose value bad rows are counted and quarantined; None where rows belong to no symbol."""
    _all: tuple[Column, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        tail = (Column("run_id", "VARCHAR", "Dagster run that wrote the row"),) if self.run_id else ()
        object.__setattr__(self, "_all", self.columns + tail)

    @property
    def all_columns(self) -> tuple[Column, ...]:
        """The columns as stored, `run_id` included."""
        return self._all

    @property
    def rules(self) -> tuple[Rule, ...]:
        """Every rule a row must satisfy, the column's own first."""
        return tuple(rule for column in self.columns for rule in column.rules()) + self.row_rules

    def ddl(self) -> str:
        """`CREATE TABLE IF NOT EXISTS` for DuckDB. Replace-slice writes and checks uphold the key, not an index."""
        lines = [
            f'    "{c.name}" {c.type}{"" if c.nullable else " NOT NULL"}'
            f"{f' USING COMPRESSION {c.compression}' if c.compression else ''}"
            for c in self.all_columns
        ]
        return f"CREATE TABLE IF NOT EXISTS {self.name} (\n" + ",\n".join(lines) + "\n)"

    def empty(self, *, stored: bool = False) -> pl.DataFrame:
        """A frame of no rows with this table's columns."""
        columns: Sequence[Column] = self.all_columns if stored else self.columns
        return pl.DataFrame(schema={c.name: c.polars for c in columns})
