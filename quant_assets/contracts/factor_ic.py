"""How well each feature ordered the symbols, session by session."""

from quant_assets.contracts.schema import Column, Table

FACTOR = (
    Column("market", "VARCHAR", "universe whose symbols make the cross-sections"),
    Column("feature_version", "VARCHAR", "feature set"),
    Column("feature_name", "VARCHAR", "name within the set"),
)
"""What every table of the factor report begins with."""

HORIZON = Column("horizon", "INTEGER", "of the forward return, in the symbol's own sessions", at_least=1)

TABLE = Table(
    name="factor_ic",
    key=("market", "feature_version", "feature_name", "horizon", "ts"),
    doc="Information coefficients over time; no row for a session whose cross-section is too small or constant.",
    columns=(
        *FACTOR,
        HORIZON,
        Column("ts", "DATE", "session of the feature; its forward return closes later"),
        Column("ic", "DOUBLE", "correlation of feature and forward return", nullable=True, at_least=-1, at_most=1),
        Column("rank_ic", "DOUBLE", "the same of their ranks", nullable=True, at_least=-1, at_most=1),
        Column("symbols", "INTEGER", "symbols with both numbers", at_least=3),
    ),
    sort=("market", "feature_version", "feature_name", "horizon", "ts"),
    symbol=None,
)
