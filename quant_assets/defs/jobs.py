"""Jobs: each stage whole, and per strategy the decision stage with the file's backtest settings, ready to override."""

from collections.abc import Mapping

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from quant_assets.defs.catalog import OWNERS
from quant_assets.defs.decision import GROUP as DECISION
from quant_assets.defs.decision import BacktestRun
from quant_assets.defs.grid import Grid
from quant_assets.defs.market import GROUP as MARKET
from quant_assets.strategy.markets import MARKET_JOB, STRATEGY_TAG
from quant_assets.strategy.spec import StrategySpec


def market_job(grid: Grid) -> UnresolvedAssetJobDefinition:
    """ohlcv, features_daily and labels in one run."""
    return dg.define_asset_job(
        grid.name(MARKET_JOB),
        dg.AssetSelection.groups(grid.name(MARKET)),
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        description=f"Bars, features and labels of universe {grid.universe.name}.",
    )


def strategy_jobs(grid: Grid, strategies: Mapping[str, StrategySpec]) -> list[UnresolvedAssetJobDefinition]:
    """One job per strategy file; it refuses the partitions of other strategies."""
    return [
        dg.define_asset_job(
            strategy_id,
            dg.AssetSelection.groups(grid.name(DECISION)),
            executor_def=dg.in_process_executor,
            description=spec.description or f"Strategy {strategy_id}, from predictions to the verdict on its backtest.",
            owners=OWNERS,
            tags={STRATEGY_TAG: strategy_id},
            metadata={"version": spec.version, "strategy file": f"sha256 {spec.source_hash[:16]}"},
            config=dg.RunConfig(
                ops={
                    grid.op("backtest_summary"): BacktestRun(
                        from_date=spec.backtest.first.isoformat(),
                        to_date=spec.backtest.last.isoformat() if spec.backtest.last else None,
                        initial_cash=spec.backtest.initial_cash,
                        fee_bps=spec.backtest.fee_bps,
                        slippage_bps=spec.backtest.slippage_bps,
                        price=spec.execution.price,
                    )
                }
            ),
        )
        for strategy_id, spec in strategies.items()
    ]
