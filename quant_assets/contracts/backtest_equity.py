"""The equity curve of a backtest."""

from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="backtest_equity",
    key=("run_id", "strategy_id", "ts"),
    doc="One row per session of a backtest, after that session's close.",
    columns=(
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("ts", "DATE", "session"),
        Column("equity", "DOUBLE", "cash plus positions", at_least=0),
        Column("ret", "DOUBLE", "return of the session", at_least=-1),
        Column("drawdown", "DOUBLE", "equity over its running maximum, minus one", at_least=-1, at_most=0),
        Column("gross_exposure", "DOUBLE", "absolute position value over equity", at_least=0),
        Column("turnover", "DOUBLE", "one-way traded value over equity", at_least=0),
        Column("benchmark", "DOUBLE", "equity of the universe bought and held", nullable=True, at_least=0),
        Column("rolling_sharpe", "DOUBLE", "annualised, of the last half year; null before", nullable=True),
    ),
    sort=("strategy_id", "ts"),
    symbol=None,
)
