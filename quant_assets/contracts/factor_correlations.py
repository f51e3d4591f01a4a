"""How alike two features order the symbols."""

from quant_assets.contracts.factor_ic import FACTOR
from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="factor_correlations",
    key=("market", "feature_version", "feature_name", "other"),
    doc="Mean over sessions of the correlation of two features' ranks; each pair stands both ways.",
    columns=(
        *FACTOR,
        Column("other", "VARCHAR", "another feature of the set"),
        Column("correlation", "DOUBLE", "mean rank correlation", nullable=True, at_least=-1, at_most=1),
        Column("dates", "INTEGER", "sessions on which both could be ranked", at_least=0),
    ),
    sort=("market", "feature_version", "feature_name", "other"),
    symbol=None,
)
