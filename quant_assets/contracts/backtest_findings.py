"""What the doctor found in a backtest."""

from quant_assets.contracts.schema import Column, Table

SEVERITIES = ("note", "warning", "error")

TABLE = Table(
    name="backtest_findings",
    key=("run_id", "strategy_id", "finding_no"),
    doc="One row per finding of the review of a backtest, the gravest first.",
    columns=(
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("backtest_run_id", "VARCHAR", "run of the backtest that was reviewed"),
        Column("finding_no", "BIGINT", "number of the finding, from 0", at_least=0),
        Column("finding", "VARCHAR", "its name"),
        Column("severity", "VARCHAR", "how grave it is", among=SEVERITIES),
        Column("evidence", "VARCHAR", "the figures, in a sentence"),
        Column("remedy", "VARCHAR", "what to do about it"),
        Column("value", "DOUBLE", "the figure that was judged", nullable=True),
        Column("details", "VARCHAR", "further figures, JSON"),
        Column("created_at", "TIMESTAMP", "instant of the review, UTC"),
    ),
    sort=("strategy_id", "finding_no"),
    symbol=None,
)
