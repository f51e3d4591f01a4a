"""The factor report's headline: one row per feature and horizon."""

from quant_assets.contracts.factor_ic import FACTOR, HORIZON
from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="factor_summary",
    key=("market", "feature_version", "feature_name", "horizon"),
    doc="What a feature said of forward returns over the report's window. t-statistics are Newey-West ones, and null "
    "where the window is too short for the horizon.",
    columns=(
        *FACTOR,
        HORIZON,
        Column("from_ts", "DATE", "first session of the report"),
        Column("to_ts", "DATE", "last session; forward returns that had not closed by it are left out"),
        Column("dates", "INTEGER", "sessions with a rank IC", at_least=0),
        Column("mean_ic", "DOUBLE", "information coefficient", nullable=True, at_least=-1, at_most=1),
        Column("std_ic", "DOUBLE", "its sample standard deviation", nullable=True, at_least=0),
        Column("icir", "DOUBLE", "mean_ic over std_ic, per session", nullable=True),
        Column("ic_t", "DOUBLE", "t-statistic of mean_ic", nullable=True),
        Column("mean_rank_ic", "DOUBLE", "rank information coefficient", nullable=True, at_least=-1, at_most=1),
        Column("std_rank_ic", "DOUBLE", "its sample standard deviation", nullable=True, at_least=0),
        Column("rank_icir", "DOUBLE", "mean_rank_ic over std_rank_ic, per session", nullable=True),
        Column("rank_ic_t", "DOUBLE", "t-statistic of mean_rank_ic", nullable=True),
        Column("p_value", "DOUBLE", "of rank_ic_t, two-sided", nullable=True, at_least=0, at_most=1),
        Column(
            "p_adjusted",
            "DOUBLE",
            "p_value for the number of features and horizons tried (Benjamini-Hochberg)",
            nullable=True,
            at_least=0,
            at_most=1,
        ),
        Column("spread", "DOUBLE", "mean return over the horizon, top less bottom quantile", nullable=True),
        Column("spread_t", "DOUBLE", "its t-statistic", nullable=True),
        Column("autocorrelation", "DOUBLE", "of ranks, a horizon apart", nullable=True, at_least=-1, at_most=1),
        Column(
            "turnover", "DOUBLE", "share of the top quantile new since a horizon", nullable=True, at_least=0, at_most=1
        ),
        Column("coverage", "DOUBLE", "share of listed cells with a value", at_least=0, at_most=1),
        Column("computed_at", "TIMESTAMP", "instant of computation, UTC"),
    ),
    sort=("market", "feature_version", "feature_name", "horizon"),
    symbol=None,
)
