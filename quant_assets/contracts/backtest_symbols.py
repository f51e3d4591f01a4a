"""What each symbol did for a backtest."""

from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="backtest_symbols",
    key=("run_id", "strategy_id", "symbol"),
    doc="One row per symbol; contributions, after costs, add up to the portfolio's total return.",
    columns=(
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("symbol", "VARCHAR", "instrument"),
        Column("contribution", "DOUBLE", "profit over initial cash"),
        Column("sharpe", "DOUBLE", "annualised, of the symbol's daily contribution", nullable=True),
        Column("max_dd", "DOUBLE", "of initial cash plus the symbol's profit", nullable=True, at_most=0),
        Column("turnover", "DOUBLE", "one-way, per year", nullable=True, at_least=0),
        Column("num_trades", "BIGINT", "closed trades", at_least=0),
        Column("mean_weight", "DOUBLE", "mean share of equity held"),
        Column("fees", "DOUBLE", "fees over initial cash", nullable=True, at_least=0),
        Column("slippage", "DOUBLE", "money lost to slippage over initial cash", nullable=True, at_least=0),
        Column("funding", "DOUBLE", "funding paid over initial cash; negative: received", nullable=True),
    ),
    sort=("strategy_id", "symbol"),
)
