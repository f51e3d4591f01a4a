"""The tear sheet of a backtest."""

from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="backtest_measures",
    key=("run_id", "strategy_id", "measure"),
    doc="One row per measure of a backtest, and the same of its benchmark; null where undefined.",
    columns=(
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("measure", "VARCHAR", "its name, as in `analysis.MEASURES`"),
        Column("value", "DOUBLE", "of the strategy", nullable=True),
        Column("benchmark", "DOUBLE", "of the benchmark; null where it has none", nullable=True),
    ),
    sort=("strategy_id", "measure"),
    symbol=None,
)
