"""Markets: a universe with a calendar of its own and the strategies on it, and the names it goes by in the asset graph.

Belongs here: what those who read the graph from outside share with those who define it. Nothing of Dagster's.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from quant_assets.core.calendar import TradingCalendar, trading_calendar, window_start
from quant_assets.core.errors import ConfigError, StrategyError
from quant_assets.core.settings import Settings
from quant_assets.strategy.spec import StrategySpec, load_strategies
from quant_assets.strategy.universe import Universe, load_universe

RANGE_START, RANGE_END = "dagster/asset_partition_range_start", "dagster/asset_partition_range_end"
MARKET_JOB = "market_stage"
STRATEGY_TAG, PERIOD_TAG = "quant/strategy", "quant/period"
"""Tags of runs: the strategy that one is of, and its sessions."""


@dataclass(frozen=True)
class Layout:
    """What a market's assets, steps, jobs and partitions are called.

    `prefix` sets a market apart from the primary one, which has none.
    """

    universe: Universe
    calendar: TradingCalendar
    strategies: tuple[str, ...]
    prefix: str = ""

    def path(self, asset: str) -> list[str]:
        """The path of the key of this market's `asset`: `ohlcv`, or `crypto_majors/ohlcv` with that prefix."""
        return [self.prefix, asset] if self.prefix else [asset]

    def op(self, asset: str) -> str:
        """The name that Dagster gives to the step of `asset`, in run config too: `crypto_majors__ohlcv`."""
        return "__".join(self.path(asset))

    def name(self, name: str) -> str:
        """The name of this market's job, schedule or group `name`: `crypto_majors_market`."""
        return f"{self.prefix}_{name}" if self.prefix else name

    def date_key(self, session: date) -> str:
        """The date partition that holds `session`."""
        return window_start(session, self.universe.grain).isoformat()

    def range_tags(self, first: date, last: date, keys: Sequence[str]) -> dict[str, str]:
        """Tags of the one run that covers `first`..`last` for `keys`, neighbours in the static dimension."""
        return {
            RANGE_START: f"{self.date_key(first)}|{keys[0]}",
            RANGE_END: f"{self.date_key(last)}|{keys[-1]}",
        }


@dataclass(frozen=True)
class Market:
    """A universe on a calendar of its own, and the strategies on it."""

    layout: Layout
    strategies: dict[str, StrategySpec]

    @property
    def name(self) -> str:
        return self.layout.universe.name


def load_markets(config: Settings) -> list[Market]:
    """The markets, the primary one (`QUANT_MARKET`) first, then by name.

    Each universe file on another calendar than the primary market's is a market of its own, its assets prefixed with
    its name. Universes on the primary's calendar are parts of it.

    Raises:
        ConfigError: an unknown market universe or calendar.
        StrategyError: a universe or strategy file that cannot be used.
    """
    universes = load_universes(config)
    _refuse_shared_symbols(universes)
    strategies = load_strategies(config.strategies_dir)
    for spec in strategies.values():
        check_market(spec, universes, config.strategies_dir)
    markets = []
    for universe in universes:
        own = {name: spec for name, spec in strategies.items() if universe_of(spec, universes) is universe}
        prefix = "" if universe is universes[0] else universe.name
        markets.append(Market(Layout(universe, trading_calendar(universe.calendar), tuple(own), prefix), own))
    return markets


def load_universes(config: Settings) -> list[Universe]:
    """The universes that are markets, the primary one first, then by name, whatever the strategy files say.

    Raises:
        ConfigError: an unknown market universe.
        StrategyError: a universe file that cannot be used.
    """
    folder = config.strategies_dir / "universes"
    path = folder / f"{config.market}.yaml"
    if not path.is_file():
        known = ", ".join(sorted(file.stem for file in folder.glob("*.yaml"))) or "none"
        raise ConfigError(f"QUANT_MARKET is {config.market!r}, but {path} does not exist (there are: {known})")
    primary = load_universe(path)
    others = [load_universe(file) for file in sorted(folder.glob("*.yaml")) if file != path]
    return [primary, *(one for one in others if one.calendar != primary.calendar)]


def check_market(spec: StrategySpec, markets: Sequence[Universe], folder: Path) -> None:
    """Check that the strategy's market has its symbols and its features.

    Args:
        markets: as `load_universes` gives them.
        folder: of the strategy files.

    Raises:
        StrategyError: a universe or symbol that is not there, another calendar, or a feature set of no use there.
    """
    market = universe_of(spec, markets)
    spec.bounds(market, folder / "universes")
    _refuse_unknown_features(spec, market)


def universe_of(spec: StrategySpec, markets: Sequence[Universe]) -> Universe:
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
