"""How alike what a backtest held moved."""

from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="backtest_correlations",
    key=("run_id", "strategy_id", "symbol", "other"),
    doc="One row per pair, once, of the portfolio, its benchmark and the 50 symbols held most; over the whole period.",
    columns=(
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("symbol", "VARCHAR", "instrument, (portfolio) or (benchmark)"),
        Column("other", "VARCHAR", "another, of less weight"),
        Column("correlation", "DOUBLE", "of daily returns; null where undefined", True, at_least=-1, at_most=1),
        Column("sessions", "BIGINT", "sessions on which both have a return", at_least=0),
    ),
    sort=("strategy_id", "symbol", "other"),
)
