"""The quality gate: a frame in, its good rows and its bad rows out, judged by the table's contract through Pandera."""

import hashlib
import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

import polars as pl

from quant_assets.contracts import quarantine
from quant_assets.contracts.order import in_order
from quant_assets.contracts.schema import Table
from quant_assets.core.errors import DataError, QualityError

if TYPE_CHECKING:
    import pandera.polars as pa

BAD_SHARE = 0.01
"""Share of bad rows per symbol above which (and above one row) the symbol's slice fails."""


@dataclass(frozen=True)
class Gated:
    """`good` rows in the input's order; `bad` ones as `quarantine` rows (less run_id, seen_at); `rejected` symbols."""

    good: pl.DataFrame
    bad: pl.DataFrame
    rejected: dict[str, str]


@cache
def schema(table: Table, *, by_rule: bool = True) -> "pa.DataFrameSchema":
    """The Pandera (Polars) schema of a table: dtypes, column order, and one named check per rule of the contract.

    With `by_rule` off one check holds all rules: a tenth of the time on a session's rows, for who asks yes or no.
    """
    import pandera.polars as pa

    def check(rule_expr: pl.Expr, name: str) -> pa.Check:
        return pa.Check(lambda data, expr=rule_expr: data.lazyframe.select(expr.alias("ok")), name=name, error=name)

    rules = [(rule.name, rule.expr.fill_null(False)) for rule in table.rules]
    if not by_rule:
        rules = [("every rule", pl.all_horizontal(expr for _, expr in rules))]
    return pa.DataFrameSchema(
        columns={c.name: pa.Column(c.polars, nullable=True) for c in table.columns},
        checks=[check(expr, name) for name, expr in rules],
        name=table.name,
        strict=True,
        ordered=True,
    )


def conform(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """`frame` with the contract's columns, in its order and types.

    Raises:
        DataError: a column is missing.
    """
    missing = [c.name for c in table.columns if c.name not in frame.columns]
    if missing:
        raise DataError(f"{table.name}: column {missing[0]} is missing (found {', '.join(frame.columns)})")
    return frame.select(pl.col(c.name).cast(c.polars) for c in table.columns)


def gate(table: Table, frame: pl.DataFrame) -> Gated:
    """Split `frame` by the contract's rules and key.

    Of rows with the same key all are bad: which one is right cannot be known. A symbol with more than
    max(1 row, 1 %) bad rows is rejected whole. Tables without a symbol allow no bad row.

    Raises:
        DataError: a missing column, or a dtype that cannot be the contract's.
        QualityError: a bad row in a table whose rows belong to no symbol.

    Example:
        >>> from quant_assets.contracts import TABLES
        >>> gate(TABLES["corporate_actions"], TABLES["corporate_actions"].empty()).good.height
        0
    """
    from pandera.errors import SchemaErrors

    frame = conform(table, frame)
    key = [name for name in table.key if name in frame.columns]
    unique = in_order(frame, key, strictly=True)
    duplicated = pl.repeat(False, frame.height, eager=True) if unique else frame.select(key).is_duplicated()
    clean = unique or not duplicated.any()
    if clean:
        try:
            schema(table, by_rule=False).validate(frame, lazy=True)
        except SchemaErrors:
            clean = False
    if clean:
        return Gated(frame, quarantine.TABLE.empty().drop("seen_at"), {})

    broken = [~rule.expr.fill_null(False) for rule in table.rules] + [pl.lit(duplicated)]
    names = [rule.name for rule in table.rules] + [f"duplicate key ({', '.join(key)})"]
    is_bad = frame.select(pl.any_horizontal(broken)).to_series()
    marks = frame.select(flag.alias(str(n)) for n, flag in enumerate(broken)).filter(is_bad)
    rules = [[name for name, hit in zip(names, row, strict=True) if hit] for row in marks.iter_rows()]
    bad, good = (
        frame.filter(is_bad).with_columns(pl.Series("__rules", rules, pl.List(pl.String))),
        frame.filter(~is_bad),
    )
    rows = [_quarantined(table, row) for row in bad.to_dicts()]
    if table.symbol is None:
        raise QualityError(f"{table.name}: {len(rows)} bad row(s), first: {rows[0]['rule']} in {rows[0]['row']}")
    rejected = _rejected(table, frame, bad)
    good = good.filter(~pl.col(table.symbol).is_in(list(rejected)))
    return Gated(good, pl.DataFrame(rows, schema=quarantine.TABLE.empty().drop("seen_at").schema), rejected)


def _quarantined(table: Table, row: dict[str, Any]) -> dict[str, Any]:
    rules = "; ".join(row.pop("__rules"))
    steady = {k: v for k, v in row.items() if not k.endswith("_at")}
    text = json.dumps(steady, default=str, sort_keys=True)
    return {
        "id": hashlib.sha256(f"{table.name}|{rules}|{text}".encode()).hexdigest()[:24],
        "table_name": table.name,
        "symbol": row.get("symbol"),
        "ts": row.get("ts"),
        "rule": rules,
        "row": text,
    }


def _rejected(table: Table, frame: pl.DataFrame, bad: pl.DataFrame) -> dict[str, str]:
    assert table.symbol is not None
    total = dict(frame.group_by(table.symbol).len().iter_rows())
    found = {}
    for symbol, count in sorted(bad.group_by(table.symbol).len().iter_rows()):
        allowed = max(1, int(total[symbol] * BAD_SHARE))
        if count > allowed:
            first = bad.filter(pl.col(table.symbol) == symbol).sort("ts" if "ts" in bad.columns else table.key[0])
            example = first["__rules"][0].to_list()[0]
            found[symbol] = (
                f"{table.name}: {symbol} has {count} bad rows of {total[symbol]} (limit {allowed}), first: {example}; "
                f"nothing of the slice was stored, see table quarantine"
            )
    return found
