"""What the supervisor let through, and what it did not."""

import polars as pl

from quant_assets.contracts.schema import Column, Rule, Table

TABLE = Table(
    name="targets",
    key=("strategy_id", "version", "asof", "symbol"),
    doc="Every candidate of every rebalance: approved with its weight, or rejected with the rule and the reason.",
    columns=(
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("version", "VARCHAR", "its version"),
        Column("asof", "DATE", "rebalance session"),
        Column("symbol", "VARCHAR", "candidate"),
        Column("weight", "DOUBLE", "share of equity after the rules"),
        Column("score", "DOUBLE", "signal value", nullable=True),
        Column("approved", "BOOLEAN", "whether it is held from here on"),
        Column("risk_flags", "VARCHAR[]", "rules that touched it"),
        Column("reason", "VARCHAR", "one line"),
        Column("generated_at", "TIMESTAMP", "instant of decision, UTC"),
    ),
    row_rules=(Rule("rejected with a weight", pl.col("approved") | (pl.col("weight") == 0)),),
    sort=("strategy_id", "asof", "symbol"),
)
