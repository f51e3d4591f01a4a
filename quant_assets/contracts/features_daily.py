"""Features, long as read and wide as stored."""

from functools import cache

from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="features_daily",
    key=("symbol", "ts", "feature_name", "feature_version"),
    doc="A view: one row per bar and feature, over one wide table per version (features_daily__<version>).",
    columns=(
        Column("symbol", "VARCHAR", "ticker of the universe"),
        Column("ts", "DATE", "session whose close settled the value"),
        Column("feature_name", "VARCHAR", "name within the set"),
        Column("feature_version", "VARCHAR", "version of the set"),
        Column("feature_value", "DOUBLE", "value; where history is too short there is no row"),
        Column("computed_at", "TIMESTAMP", "instant of computation, UTC"),
    ),
    sort=("ts", "symbol"),
)


@cache
def wide(version: str, names: tuple[str, ...]) -> Table:
    """The stored form of one feature set: a row per bar, a nullable column per feature."""
    return Table(
        name=f"{TABLE.name}__{version}",
        key=("symbol", "ts"),
        doc=f"Feature set {version}, one row per bar.",
        columns=(
            Column("symbol", "VARCHAR", "ticker of the universe"),
            Column("ts", "DATE", "session whose close settled the values"),
            *(Column(name, "DOUBLE", "feature", nullable=True, compression="alprd") for name in names),
            Column("computed_at", "TIMESTAMP", "instant of computation, UTC"),
        ),
        sort=("ts", "symbol"),
    )
