"""What the models said."""

from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="predictions",
    key=("symbol", "ts", "model_id", "task_id"),
    doc="Model scores by session; strategies with the same model spec share them.",
    columns=(
        Column("symbol", "VARCHAR", "ticker of the universe"),
        Column("ts", "DATE", "session at whose close the score was known"),
        Column("model_id", "VARCHAR", "model that scored"),
        Column("task_id", "VARCHAR", "label, version and task"),
        Column("score", "DOUBLE", "raw model output: a probability, or the label's own unit"),
        Column("calibrated_score", "DOUBLE", "calibrated probability", nullable=True, at_least=0, at_most=1),
        Column("generated_at", "TIMESTAMP", "instant of scoring, UTC"),
    ),
    sort=("ts", "symbol", "model_id"),
)
