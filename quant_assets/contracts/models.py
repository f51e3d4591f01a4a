"""The model registry."""

from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="models",
    key=("model_id",),
    doc="One row per trained model; `model_id` is a fingerprint of data, spec and training date.",
    columns=(
        Column("model_id", "VARCHAR", "fingerprint"),
        Column("experiment_id", "VARCHAR", "hash of the model spec"),
        Column("algo", "VARCHAR", "algorithm"),
        Column("task_id", "VARCHAR", "label, version and task"),
        Column("scope", "VARCHAR", "a symbol, or universe for a pooled model"),
        Column("params", "VARCHAR", "hyperparameters, JSON"),
        Column("train_from", "DATE", "first session trained on"),
        Column("train_to", "DATE", "last session trained on"),
        Column("feature_version", "VARCHAR", "feature set"),
        Column("label_version", "VARCHAR", "label set"),
        Column("metrics", "VARCHAR", "hold-out metrics, importances and calibration, JSON"),
        Column("path", "VARCHAR", "model file, relative to the models folder"),
        Column("sha256", "VARCHAR", "of the model file"),
        Column("created_at", "TIMESTAMP", "instant of training, UTC"),
    ),
    sort=("experiment_id", "train_to", "scope"),
    symbol=None,
)
