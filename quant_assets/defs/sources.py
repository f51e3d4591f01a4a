"""What a strategy's signal reads from the warehouse beside bars."""

from collections.abc import Collection
from datetime import date

import polars as pl

from quant_assets.contracts import features_daily
from quant_assets.core.errors import ConfigError
from quant_assets.features import feature_set
from quant_assets.strategy.spec import StrategySpec
from quant_assets.warehouse import Warehouse


def stored_features(version: str, warehouse: Warehouse) -> str:
    """Name of the wide table of feature set `version`.

    Raises:
        ConfigError: nothing of the set was ever stored.
    """
    table = features_daily.wide(version, feature_set(version).names).name
    if table not in warehouse.tables():
        raise ConfigError(f"no features of version {version} are stored; materialise ohlcv and features_daily first")
    return table


def signal_source(
    spec: StrategySpec, warehouse: Warehouse, symbols: Collection[str], first: date, last: date
) -> pl.DataFrame | None:
    """The wide features or the predictions that the signal scores, from `first` to `last`; None for rules.

    Raises:
        ConfigError: nothing of the feature set was ever stored.
    """
    if spec.model is not None:
        return warehouse.query(
            "SELECT p.symbol, p.ts, p.score, p.calibrated_score FROM predictions p JOIN models m USING (model_id) "
            "WHERE m.experiment_id = ? AND p.ts BETWEEN ? AND ? AND p.symbol IN (SELECT unnest(?))",
            [spec.model.experiment_id, first, last, list(symbols)],
        )
    if spec.feature_version is None:
        return None
    return warehouse.query(
        f"SELECT * FROM {stored_features(spec.feature_version, warehouse)} "
        "WHERE ts BETWEEN ? AND ? AND symbol IN (SELECT unnest(?))",
        [first, last, list(symbols)],
    )
