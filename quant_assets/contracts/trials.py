"""The trial ledger: every configuration that was ever evaluated."""

import polars as pl

from quant_assets.contracts.schema import Column, Rule, Table

TABLE = Table(
    name="trials",
    key=("trial_id",),
    doc="One row per configuration and data window ever evaluated, whoever evaluated it first; no rerun deletes one.",
    columns=(
        Column("trial_id", "VARCHAR", "hash of family, configuration and data window"),
        Column("family", "VARCHAR", "market universe and kind of signal: what a best one is picked from"),
        Column("configuration", "VARCHAR", "hash of all that was evaluated, without the window"),
        Column("strategy_id", "VARCHAR", "strategy that evaluated it first"),
        Column("params", "VARCHAR", "the configuration, JSON"),
        Column("source", "VARCHAR", "what evaluated it first", among=("backtest", "sweep")),
        Column("from_ts", "DATE", "first session"),
        Column("to_ts", "DATE", "last session"),
        Column("sharpe", "DOUBLE", "annualised Sharpe ratio; null where undefined", nullable=True),
        # other methods cost DuckDB twice the time and save a tenth of the bytes of returns
        Column("returns", "FLOAT[]", "return of each session, from the first on", compression="uncompressed"),
        Column("first_seen_at", "TIMESTAMP", "instant of the first evaluation, UTC"),
    ),
    row_rules=(Rule("to_ts is before from_ts", pl.col("from_ts") <= pl.col("to_ts")),),
    symbol=None,
)
