"""Returns out of sample, session by session."""

from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="validation_curves",
    key=("run_id", "strategy_id", "curve", "ts"),
    doc="The curves of a validation: the walk-forward's joined one, and each path of the cross-validation.",
    columns=(
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("curve", "VARCHAR", "walk_forward, or path_1, path_2, ..."),
        Column("ts", "DATE", "session"),
        Column("ret", "DOUBLE", "return of the session"),
    ),
    sort=("strategy_id", "curve", "ts"),
    symbol=None,
)
