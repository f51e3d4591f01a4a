"""The cells of parameter sweeps."""

from dataclasses import replace

import polars as pl

from quant_assets.contracts import backtest_summary
from quant_assets.contracts.schema import Column, Rule, Table

_OTHERS = ("strategy_id", "version", "from_ts", "to_ts", "created_at", "trial_id")
METRICS = tuple(
    replace(column, nullable=True) for column in backtest_summary.TABLE.columns if column.name not in _OTHERS
)
"""The measures of `backtest_summary`, with its costs and cash; those of a combination that lost everything are null."""

TABLE = Table(
    name="sweep_results",
    key=("sweep_id", "cell"),
    doc="One row per parameter combination of a sweep, with the measures of its backtest.",
    columns=(
        Column("sweep_id", "VARCHAR", "hash of strategy, sweep section, window, data and code"),
        Column("cell", "BIGINT", "number of the combination, from 0", at_least=0),
        Column("strategy_id", "VARCHAR", "strategy"),
        Column("version", "VARCHAR", "its version"),
        Column("params", "VARCHAR", "what the combination changes in the strategy file, JSON"),
        Column("from_ts", "DATE", "first session"),
        Column("to_ts", "DATE", "last session"),
        *METRICS,
        Column("trial_id", "VARCHAR", "its trial in the ledger"),
    ),
    row_rules=(Rule("to_ts is before from_ts", pl.col("from_ts") <= pl.col("to_ts")),),
    sort=("sweep_id", "cell"),
    symbol=None,
)
