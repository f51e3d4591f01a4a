"""Strategies: YAML files to typed specs, and the one composition of signal, weighting and supervisor."""

from quant_assets.strategy.compose import Decisions, Skipped, decide, rebalance_dates
from quant_assets.strategy.spec import StrategySpec, load_strategies, load_strategy
from quant_assets.strategy.universe import Listing, Universe, add_symbol, load_universe

__all__ = [
    "Decisions",
    "Listing",
    "Skipped",
    "StrategySpec",
    "Universe",
    "add_symbol",
    "decide",
    "load_strategies",
    "load_strategy",
    "load_universe",
    "rebalance_dates",
]
