"""Rows the gate kept out."""

from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="quarantine",
    key=("id",),
    doc="Bad rows with the rule they broke; a row seen twice is kept once, with the instant it was first seen.",
    columns=(
        Column("id", "VARCHAR", "hash of table, row and rule"),
        Column("table_name", "VARCHAR", "table the row was meant for"),
        Column("symbol", "VARCHAR", "its symbol", nullable=True),
        Column("ts", "DATE", "its session", nullable=True),
        Column("rule", "VARCHAR", "what is wrong with it"),
        Column("row", "VARCHAR", "the row, JSON"),
        Column("seen_at", "TIMESTAMP", "instant it was first seen, UTC"),
    ),
    sort=("table_name", "symbol", "ts"),
)
