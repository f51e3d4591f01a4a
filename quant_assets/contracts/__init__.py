"""One schema module per table: DDL, gate, checks and documentation come from it; nothing else decides columns."""

from quant_assets.contracts import (
    backtest_correlations,
    backtest_equity,
    backtest_findings,
    backtest_measures,
    backtest_summary,
    backtest_symbols,
    backtest_trades,
    corporate_actions,
    event_backtests,
    factor_correlations,
    factor_ic,
    factor_quantiles,
    factor_summary,
    features_daily,
    labels,
    models,
    ohlcv,
    predictions,
    quarantine,
    sweep_results,
    targets,
    trading_events,
    trials,
    validation_curves,
    validation_results,
)
from quant_assets.contracts.schema import Column, Rule, Table

TABLES: dict[str, Table] = {
    module.TABLE.name: module.TABLE
    for module in (
        ohlcv,
        corporate_actions,
        features_daily,
        labels,
        models,
        predictions,
        targets,
        backtest_summary,
        backtest_trades,
        backtest_equity,
        backtest_symbols,
        backtest_correlations,
        backtest_measures,
        sweep_results,
        trials,
        validation_results,
        validation_curves,
        backtest_findings,
        event_backtests,
        trading_events,
        factor_summary,
        factor_ic,
        factor_quantiles,
        factor_correlations,
        quarantine,
    )
}
VIEWS = frozenset({features_daily.TABLE.name})
"""Contracts that a reader sees as a view over other tables."""

__all__ = ["Column", "Rule", "TABLES", "Table", "VIEWS"]
