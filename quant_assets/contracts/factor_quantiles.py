"""What the symbols earned that a feature put into each quantile."""

from quant_assets.contracts.factor_ic import FACTOR, HORIZON
from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="factor_quantiles",
    key=("market", "feature_version", "feature_name", "horizon", "quantile"),
    doc="Mean forward return per quantile, over the horizon, before costs.",
    columns=(
        *FACTOR,
        HORIZON,
        Column("quantile", "INTEGER", "1 has the lowest values", at_least=1),
        Column("mean_ret", "DOUBLE", "mean over sessions of the quantile's mean forward return", nullable=True),
        Column("mean_excess", "DOUBLE", "the same less that of all symbols of the session", nullable=True),
        Column("dates", "INTEGER", "sessions on which the quantile held a symbol", at_least=0),
    ),
    sort=("market", "feature_version", "feature_name", "horizon", "quantile"),
    symbol=None,
)
