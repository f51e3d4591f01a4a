"""Event-driven backtests, each beside the vectorised one of the same strategy."""

import polars as pl

from quant_assets.contracts.schema import Column, Rule, Table

TABLE = Table(
    name="event_backtests",
    key=("run_id", "strategy_id"),
    doc="One row per run and strategy: the event-driven backtest, and how far it is from the vectorised one.",
    columns=(
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("version", "VARCHAR", "its version"),
        Column("backtest_run_id", "VARCHAR", "run of the vectorised backtest that it is compared with"),
        Column("from_ts", "DATE", "first session"),
        Column("to_ts", "DATE", "last session"),
        Column("bars", "BIGINT", "bars that were fed", at_least=0),
        Column("events", "BIGINT", "events that were published, bars included", at_least=0),
        Column("orders", "BIGINT", "orders that were requested", at_least=0),
        Column("fills", "BIGINT", "fills", at_least=0),
        Column("denials", "BIGINT", "orders that risk management refused", at_least=0),
        Column("trades", "BIGINT", "closed trades", at_least=0),
        Column("final_equity", "DOUBLE", "equity at the end"),
        Column("reference_equity", "DOUBLE", "that of the vectorised backtest"),
        Column("difference", "DOUBLE", "of the two, relative to the latter", at_least=0),
        Column("worst_difference", "DOUBLE", "the largest relative one of the equity after any session", at_least=0),
        Column("trades_differ", "BIGINT", "trades that one has and the other has not, or not the same", at_least=0),
        Column("journal", "VARCHAR", "its file, relative to QUANT_HOME"),
        Column("digest", "VARCHAR", "SHA-256 of the journaled events"),
        Column("created_at", "TIMESTAMP", "instant of the backtest, UTC"),
    ),
    row_rules=(Rule("to_ts is before from_ts", pl.col("from_ts") <= pl.col("to_ts")),),
    sort=("strategy_id",),
    symbol=None,
)
