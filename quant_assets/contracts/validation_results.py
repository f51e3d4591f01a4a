"""What the validation of a backtest measured, and how it was judged."""

from quant_assets.contracts.schema import Column, Table

VERDICTS = ("pass", "caution", "fail")

TABLE = Table(
    name="validation_results",
    key=("run_id", "strategy_id", "method", "measure"),
    doc="One row per measure of a validation; `verdict.overall` is what all judged ones say together.",
    columns=(
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("version", "VARCHAR", "its version"),
        Column("backtest_run_id", "VARCHAR", "run of the backtest that was validated"),
        Column("from_ts", "DATE", "first session of the backtest"),
        Column("to_ts", "DATE", "last session of the backtest"),
        Column("method", "VARCHAR", "test", among=("is_oos", "wfa", "cpcv", "pbo", "dsr", "verdict")),
        Column("measure", "VARCHAR", "what was measured"),
        Column("value", "DOUBLE", "its value; null where undefined", nullable=True),
        Column("verdict", "VARCHAR", "judgement; null where it is not judged", nullable=True, among=VERDICTS),
        Column("threshold", "VARCHAR", "the limits that it was judged by", nullable=True),
        Column("details", "VARCHAR", "what else the method found, JSON"),
        Column("created_at", "TIMESTAMP", "instant of the validation, UTC"),
    ),
    sort=("strategy_id", "method"),
    symbol=None,
)
