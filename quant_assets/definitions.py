"""The code location: assembles what `defs` defines, in the order data flows. The only place with global policy."""

import warnings
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from quant_assets.core.settings import Settings, settings
from quant_assets.defs.automation import automation_sensor, daily_schedule
from quant_assets.defs.checks import asset_checks
from quant_assets.defs.decision import decision_assets
from quant_assets.defs.event_driven import event_assets
from quant_assets.defs.factors import factor_assets, factor_job
from quant_assets.defs.grid import Grid
from quant_assets.defs.jobs import market_job, strategy_jobs
from quant_assets.defs.market import market_assets
from quant_assets.defs.marts import mart_assets, mart_job
from quant_assets.defs.resources import resources
from quant_assets.defs.sweeps import sweep_assets, sweep_jobs
from quant_assets.defs.validation import validation_assets
from quant_assets.strategy.markets import load_markets
from quant_assets.strategy.spec import StrategySpec

# single-run backfills and multi-partition mappings: pinned versions, and tests that drive them
warnings.filterwarnings("ignore", category=dg.BetaWarning)


@dataclass(frozen=True)
class Market:
    """A universe with a grid of its own, and the strategies on it."""

    grid: Grid
    strategies: dict[str, StrategySpec]

    @property
    def name(self) -> str:
        return self.grid.universe.name


def load(config: Settings) -> list[Market]:
    """The markets of `load_markets`, with their partitions; raises as it does."""
    return [
        Market(Grid(layout.universe, layout.calendar, layout.strategies, layout.prefix), one.strategies)
        for one in load_markets(config)
        for layout in [one.layout]
    ]


def build(config: Settings) -> dg.Definitions:
    """Everything Dagster loads."""
    assets: list[dg.AssetsDefinition] = []
    checks: list[dg.AssetChecksDefinition] = []
    jobs: list[UnresolvedAssetJobDefinition] = []
    schedules: list[dg.ScheduleDefinition] = []
    for market in load(config):
        grid, strategies = market.grid, market.strategies
        stage = market_job(grid)
        assets += [*market_assets(grid, config), *decision_assets(grid, strategies, config)]
        assets += validation_assets(grid, strategies, config)
        assets += event_assets(grid, strategies, config)
        assets += [*sweep_assets(grid, strategies, config), *factor_assets(grid, config)]
        checks += asset_checks(grid, strategies)
        jobs += [stage, *strategy_jobs(grid, strategies), *sweep_jobs(grid, strategies), factor_job(grid)]
        schedules += filter(None, [daily_schedule(grid, stage)])
    if marts := mart_assets([key for one in assets for key in one.keys], config):
        assets += marts
        jobs.append(mart_job())
    return dg.Definitions(
        assets=assets,
        asset_checks=checks,
        jobs=jobs,
        schedules=schedules,
        sensors=[automation_sensor()],
        resources=resources(config),
        executor=dg.in_process_executor,
    )


defs = build(settings())
