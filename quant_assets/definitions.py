"""The code location: assembles what `defs` defines, in the order data flows. The only place with global policy."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from quant_assets.core.calendar import trading_calendar
from quant_assets.core.errors import ConfigError, StrategyError
from quant_assets.core.settings import Settings, settings
from quant_assets.defs.automation import automation_sensor, daily_schedule
from quant_assets.defs.checks import asset_checks
from quant_assets.defs.decision import decision_assets
from quant_assets.defs.factors import factor_assets, factor_job
from quant_assets.defs.grid import Grid
from quant_assets.defs.jobs import market_job, strategy_jobs
from quant_assets.defs.market import market_assets
from quant_assets.defs.marts import mart_assets, mart_job
from quant_assets.defs.resources import resources
from quant_assets.defs.sweeps import sweep_assets, sweep_jobs
from quant_assets.defs.validation import validation_assets
from quant_assets.strategy.spec import StrategySpec, load_strategies
from quant_assets.strategy.universe import Universe, load_universe

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
    """The markets, the primary one (`QUANT_MARKET`) first, then by name.

    Each universe file on another calendar than the primary market's is a market of its own, its assets prefixed with
    its name. Universes on the primary's calendar are parts of it.

    Raises:
        ConfigError: an unknown market universe or calendar.
        StrategyError: a universe or strategy file that cannot be used.
    """
    folder = config.strategies_dir / "universes"
    path = folder / f"{config.market}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise ConfigError(f"QUANT_MARKET is {config.market!r}, but {path} does not exist (there are: {known})")
    primary = load_universe(path)
    others = [load_universe(file) for file in sorted(folder.glob("*.yaml")) if file != path]
    universes = [primary, *(one for one in others if one.calendar != primary.calendar)]
    _refuse_shared_symbols(universes)
    strategies = load_strategies(config.strategies_dir)
    markets = []
    for universe in universes:
        own = {name: spec for name, spec in strategies.items() if _universe_of(spec, universes) is universe}
        for spec in own.values():
            spec.bounds(universe, folder)
            _refuse_unknown_features(spec, universe)
        prefix = "" if universe is primary else universe.name
        markets.append(Market(Grid(universe, trading_calendar(universe.calendar), tuple(own), prefix), own))
    return markets


def _universe_of(spec: StrategySpec, markets: Sequence[Universe]) -> Universe:
    """The market that the strategy names; the primary one if what it names is none, but symbols or a part of it."""
    return next((one for one in markets if one.name == spec.universe), markets[0])


def _refuse_unknown_features(spec: StrategySpec, market: Universe) -> None:
    if spec.feature_version and spec.feature_version not in market.feature_sets:
        raise spec.error(
            "signal",
            f"reads feature set {spec.feature_version}, but market {market.name} computes "
            f"{', '.join(market.feature_sets)}; add it to feature_sets in the file of universe {market.name}",
        )


def _refuse_shared_symbols(universes: Sequence[Universe]) -> None:
    """Rows are kept by symbol and date, whatever the market.

    Raises:
        StrategyError: a symbol is in two markets.
    """
    markets: dict[str, str] = {}
    for universe in universes:
        for symbol in universe.names:
            if (other := markets.setdefault(symbol, universe.name)) != universe.name:
                raise StrategyError(
                    f"{symbol} is in universes {other} and {universe.name}, each a market of its own; "
                    "drop it from one of them"
                )


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
