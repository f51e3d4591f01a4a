"""What a strategy's signal, and its model's training, read from the warehouse beside bars."""

from collections.abc import Collection, Iterable, Sequence
from datetime import date

import polars as pl

from quant_assets.contracts import features_daily
from quant_assets.core.errors import ConfigError
from quant_assets.defs.grid import Grid
from quant_assets.features import feature_set
from quant_assets.market_data.history import adjusted_bars
from quant_assets.models.spec import ModelSpec
from quant_assets.strategy.compose import history
from quant_assets.strategy.evaluate import source_of
from quant_assets.strategy.spec import FactorRank, StrategySpec
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


def signal_bars(
    spec: StrategySpec, warehouse: Warehouse, symbols: Sequence[str], first: date, last: date, grid: Grid
) -> pl.DataFrame:
    """Adjusted bars of a slice, with the history before it that the strategy's decisions read."""
    calendar, reach = grid.calendar, history(spec)
    if reach is None:
        return adjusted_bars(warehouse, symbols, grid.universe.start, last, calendar=calendar)
    return adjusted_bars(warehouse, symbols, first, last, calendar=calendar, lookback=reach)


def signal_source(
    spec: StrategySpec,
    warehouse: Warehouse,
    symbols: Collection[str],
    days: Sequence[date],
    *,
    whole_set: bool = False,
) -> pl.DataFrame | None:
    """The feature (or its whole set) or the predictions that the signal scores on sorted `days`; None for rules.

    Raises:
        ConfigError: nothing of the feature set was ever stored.
    """
    if spec.rule is not None:
        return None
    given = [days[0], days[-1], list(days), list(symbols)] if days else [date.max, date.min, [], []]
    chosen = "ts BETWEEN $1 AND $2 AND ts IN (SELECT unnest($3::DATE[])) AND symbol IN (SELECT unnest($4::VARCHAR[]))"
    if isinstance(spec.signal, FactorRank):
        inputs = spec.signal.inputs
        table = stored_features(inputs.feature_version, warehouse)
        columns = "*" if whole_set else f'symbol, ts, "{inputs.feature_name}"'
        return warehouse.query(f"SELECT {columns} FROM {table} WHERE {chosen}", given)
    assert spec.model is not None
    return warehouse.query(
        "SELECT p.symbol, p.ts, p.score, p.calibrated_score FROM predictions p JOIN models m USING (model_id) "
        f"WHERE m.experiment_id = $5 AND {chosen}",
        [*given, spec.model.experiment_id],
    )


def sources_of(
    specs: Iterable[StrategySpec], warehouse: Warehouse, symbols: Collection[str], sessions: Sequence[date]
) -> dict[str, pl.DataFrame]:
    """What the signals of variants of a strategy read besides bars, as `Evaluator` names it.

    Raises:
        ConfigError: features that are not stored, or a model without predictions in the window.
    """
    found: dict[str, pl.DataFrame] = {}
    for spec in specs:
        name = source_of(spec)
        if name is None or name in found:
            continue
        frame = signal_source(spec, warehouse, symbols, sessions, whole_set=True)
        if frame is None or frame.is_empty():
            raise ConfigError(
                f"{spec.strategy_id} or a cell of its sweep reads {name}, of which nothing is stored "
                f"from {sessions[0]} to {sessions[-1]}; run `quant pipeline run` on a file with these values first"
            )
        found[name] = frame
    return found


def labelled_features(
    spec: ModelSpec, warehouse: Warehouse, symbols: Collection[str], last: date
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """All features of the model's set, and its label's values, that were known on `last`.

    Raises:
        ConfigError: nothing of the feature set was ever stored.
    """
    columns = ", ".join(f'"{name}"' for name in feature_set(spec.feature_version).names)
    values = warehouse.query(
        f"SELECT symbol, ts, {columns} FROM {stored_features(spec.feature_version, warehouse)} "
        "WHERE ts <= ? AND symbol IN (SELECT unnest(?))",
        [last, list(symbols)],
    )
    known = warehouse.query(
        "SELECT symbol, ts, label_value, known_on, horizon FROM labels "
        "WHERE label_name = ? AND label_version = ? AND known_on <= ? AND symbol IN (SELECT unnest(?))",
        [spec.label, spec.label_version, last, list(symbols)],
    )
    return values, known
