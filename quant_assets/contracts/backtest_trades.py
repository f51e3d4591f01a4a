"""The trades of a backtest."""

from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="backtest_trades",
    key=("run_id", "strategy_id", "trade_no"),
    doc="One row per trade, in order of entry. A trade still open at the end has no exit.",
    columns=(
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("trade_no", "BIGINT", "from 0", at_least=0),
        Column("symbol", "VARCHAR", "instrument"),
        Column("side", "VARCHAR", "direction", among=("long", "short")),
        Column("entry_ts", "DATE", "session of entry"),
        Column("entry_price", "DOUBLE", "adjusted, slippage included", above=0),
        Column("qty", "DOUBLE", "adjusted shares", above=0),
        Column("exit_ts", "DATE", "session of exit", nullable=True),
        Column("exit_price", "DOUBLE", "as entry_price; the last close where still open", nullable=True, above=0),
        Column("pnl", "DOUBLE", "profit after fees and slippage"),
        Column("pnl_pct", "DOUBLE", "pnl over entry value"),
        Column("fees", "DOUBLE", "fees paid", at_least=0),
        Column("slippage_est", "DOUBLE", "money lost to slippage", at_least=0),
        Column("reason", "VARCHAR", "why it ended"),
    ),
    sort=("strategy_id", "trade_no"),
)
