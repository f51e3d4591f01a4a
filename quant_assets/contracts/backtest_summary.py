"""A backtest in one row."""

import polars as pl

from quant_assets.contracts.schema import Column, Rule, Table

TABLE = Table(
    name="backtest_summary",
    key=("run_id", "strategy_id"),
    doc="One row per run and strategy. A measure that is undefined (no trade, no variance) is null.",
    columns=(
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("version", "VARCHAR", "its version"),
        Column("from_ts", "DATE", "first session"),
        Column("to_ts", "DATE", "last session"),
        Column("cagr", "DOUBLE", "compound annual growth rate", nullable=True, at_least=-1),
        Column("sharpe", "DOUBLE", "annualised Sharpe ratio at a zero risk-free rate", nullable=True),
        Column("sortino", "DOUBLE", "annualised Sortino ratio", nullable=True),
        Column("calmar", "DOUBLE", "cagr over maximum drawdown", nullable=True),
        Column("max_dd", "DOUBLE", "maximum drawdown, negative", nullable=True, at_least=-1, at_most=0),
        Column("vol", "DOUBLE", "annualised volatility", nullable=True, at_least=0),
        Column("turnover", "DOUBLE", "one-way turnover per year", nullable=True, at_least=0),
        Column("win_rate", "DOUBLE", "share of closed trades with a profit", nullable=True, at_least=0, at_most=1),
        Column("avg_trade", "DOUBLE", "mean return of closed trades", nullable=True),
        Column("num_trades", "BIGINT", "closed trades", at_least=0),
        Column("profit_factor", "DOUBLE", "gross profit over gross loss", nullable=True, at_least=0),
        Column("fee_bps", "DOUBLE", "fee", at_least=0),
        Column("slippage_bps", "DOUBLE", "slippage", at_least=0),
        Column("initial_cash", "DOUBLE", "cash at the start", above=0),
        Column("final_equity", "DOUBLE", "equity at the end", at_least=0),
        Column("created_at", "TIMESTAMP", "instant of the backtest, UTC"),
        Column("trial_id", "VARCHAR", "its trial in the ledger; none of those older than the ledger", nullable=True),
    ),
    row_rules=(Rule("to_ts is before from_ts", pl.col("from_ts") <= pl.col("to_ts")),),
    sort=("strategy_id",),
    symbol=None,
)
