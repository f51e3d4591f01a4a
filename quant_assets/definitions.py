"""The code location: assembles what `defs` defines, in the order data flows. The only place with global policy."""

import warnings

import dagster as dg

from quant_assets.core.calendar import trading_calendar
from quant_assets.core.errors import ConfigError
from quant_assets.core.settings import Settings, settings
from quant_assets.defs.automation import automation_sensor, daily_schedule
from quant_assets.defs.checks import asset_checks
from quant_assets.defs.decision import decision_assets
from quant_assets.defs.grid import Grid
from quant_assets.defs.jobs import market_job, strategy_jobs
from quant_assets.defs.market import market_assets
from quant_assets.defs.resources import resources
from quant_assets.strategy.spec import StrategySpec, load_strategies
from quant_assets.strategy.universe import load_universe

# single-run backfills and multi-partition mappings: pinned versions, and tests that drive them
warnings.filterwarnings("ignore", category=dg.BetaWarning)


def load(config: Settings) -> tuple[Grid, dict[str, StrategySpec]]:
    """The market's grid and the strategies on it.

    Raises:
        ConfigError: an unknown market universe or calendar.
        StrategyError: a universe or strategy file that cannot be used.
    """
    path = config.strategies_dir / "universes" / f"{config.market}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in path.parent.glob("*.yaml"))) or "none"
        raise ConfigError(f"QUANT_MARKET is {config.market!r}, but {path} does not exist (there are: {known})")
    universe = load_universe(path)
    strategies = load_strategies(config.strategies_dir)
    for spec in strategies.values():
        spec.bounds(universe, path.parent)
    return Grid(universe, trading_calendar(universe.calendar), tuple(strategies)), strategies


def build(config: Settings) -> dg.Definitions:
    """Everything Dagster loads."""
    grid, strategies = load(config)
    market = market_job(grid)
    schedule = daily_schedule(grid, market)
    return dg.Definitions(
        assets=[*market_assets(grid, config), *decision_assets(grid, strategies, config)],
        asset_checks=asset_checks(grid, strategies),
        jobs=[market, *strategy_jobs(strategies)],
        schedules=[schedule] if schedule else [],
        sensors=[automation_sensor()],
        resources=resources(config),
        executor=dg.in_process_executor,
    )


defs = build(settings())
