"""Labels, filed under the session that settled them."""

import polars as pl

from quant_assets.contracts.schema import Column, Rule, Table

TABLE = Table(
    name="labels",
    key=("symbol", "ts", "label_name", "label_version"),
    doc="What a model learns to predict. `ts` is the bar described, `known_on` the session whose close settled it.",
    columns=(
        Column("symbol", "VARCHAR", "ticker of the universe"),
        Column("ts", "DATE", "session the label describes"),
        Column("label_name", "VARCHAR", "name within the set"),
        Column("label_version", "VARCHAR", "version of the set"),
        Column("label_value", "DOUBLE", "value"),
        Column("horizon", "INTEGER", "longest time to settle, in the symbol's own sessions", at_least=1),
        Column("known_on", "DATE", "session whose close settled the value"),
        Column("computed_at", "TIMESTAMP", "instant of computation, UTC"),
    ),
    row_rules=(Rule("known_on is not after ts", pl.col("known_on") > pl.col("ts")),),
    sort=("known_on", "symbol", "ts", "label_name"),
)
