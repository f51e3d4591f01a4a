"""The market stage: bars, features, labels, by date and symbol."""

import hashlib
from collections.abc import Sequence
from datetime import UTC, date
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

import quant_assets
from quant_assets.contracts import corporate_actions as actions_contract
from quant_assets.contracts import features_daily as features_contract
from quant_assets.contracts import labels as labels_contract
from quant_assets.contracts import ohlcv as ohlcv_contract
from quant_assets.core.errors import ConfigError, ProviderError, QualityError, QuantError
from quant_assets.core.settings import Settings
from quant_assets.defs.automation import freshness, when_inputs_are_in
from quant_assets.defs.catalog import row_count, table_asset
from quant_assets.defs.context import Piece, attach, pass_gate, piece_of
from quant_assets.defs.grid import Grid
from quant_assets.features import feature_set
from quant_assets.labels import LABEL_SETS, settled_between
from quant_assets.market_data.history import adjusted_bars
from quant_assets.market_data.ingest import OVERLAP, UNIVERSE, Ingested, Stored, ingest_symbol
from quant_assets.market_data.provider import Provider, make_provider
from quant_assets.warehouse import Warehouse

GROUP = "market"
_TOLD = 3
"""Failed symbols whose cause the run's one line tells; the log has them all."""
RESTATED = "restated"
"""Metadata of ohlcv: symbol -> first and last date whose stored bars the run has changed."""


@cache
def code_version(*packages: str) -> str:
    """A fingerprint of the source of our `packages`: what decides an asset's values beside its inputs."""
    root = Path(quant_assets.__file__).parent
    digest = hashlib.sha256()
    for package in packages:
        for path in sorted((root / package).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:12]


def universe_provider(grid: Grid, settings: Settings) -> Provider:
    """The market universe's provider, or the one that `QUANT_PROVIDER` puts in its place.

    Raises:
        ConfigError: an unknown provider or option, or a setting that it needs is missing.
    """
    universe = grid.universe
    if settings.provider and settings.provider != universe.provider:
        return make_provider(settings.provider, settings, grid.calendar.sessions)
    return make_provider(universe.provider, settings, grid.calendar.sessions, universe.provider_options)


def market_assets(grid: Grid, settings: Settings) -> list[dg.AssetsDefinition]:
    """ohlcv, features_daily and labels on `grid`."""
    universe = grid.universe
    feature_sets = [feature_set(version) for version in universe.feature_sets]

    @table_asset(
        grid,
        "ohlcv",
        ohlcv_contract.TABLE,
        group=GROUP,
        also=[actions_contract.TABLE],
        partitions_def=grid.market,
        kinds={"duckdb", settings.provider or universe.provider},
        code_version=code_version("market_data"),
        freshness_policy=freshness(grid),
    )
    def ohlcv(context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
        with piece_of(context, grid) as piece:
            _refuse_open_session(piece)
            provider = universe_provider(grid, settings)
            stored = _stored(warehouse, piece)
            done: dict[str, Ingested] = {}
            failed: dict[str, QuantError] = {}
            for number, symbol in enumerate(piece.slice.keys, start=1):
                listed_from, listed_to = universe.bounds[symbol]
                try:
                    done[symbol] = ingest_symbol(
                        provider,
                        symbol,
                        piece.slice.first,
                        piece.slice.last,
                        stored[symbol],
                        listed_from=listed_from,
                        listed_to=listed_to,
                        splits=universe.splits.get(symbol),
                    )
                    if number % 50 == 0 or len(piece.slice.keys) <= 20:
                        piece.report(f"{number}/{len(piece.slice.keys)} {symbol}: {done[symbol].note}")
                except ProviderError as error:
                    failed[symbol] = error
                    piece.report(f"{number}/{len(piece.slice.keys)} {symbol} failed: {error}")
            rejected = _store_bars(warehouse, done, piece)
            failed |= {symbol: QualityError(text) for symbol, text in rejected.items()}
            good = [symbol for symbol in done if symbol not in rejected]
            stored_now = {symbol: done[symbol] for symbol in good}
            metadata = _ingest_metadata(stored_now, provider.name)
            from quant_assets.event_log import materialize_partitions  # SQLAlchemy: 0.3 s that loading can do without

            if touched := _restated_cells(grid, piece, stored_now):
                materialize_partitions(context, touched)
            if failed:
                days = grid.date_keys(piece.slice.first, piece.slice.last)
                if good:
                    materialize_partitions(context, [f"{day}|{symbol}" for symbol in good for day in days], metadata)
                raise _failure(failed, good)
            attach(context, piece.last_cells, metadata | row_count(warehouse, ohlcv_contract.TABLE.name))
            return dg.MaterializeResult()

    @table_asset(
        grid,
        "features_daily",
        features_contract.TABLE,
        group=GROUP,
        partitions_def=grid.market,
        deps=[ohlcv],
        kinds={"duckdb", "polars"},
        code_version="-".join((code_version("features"), *universe.feature_sets)),
        automation_condition=when_inputs_are_in(),
    )
    def features_daily(
        context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult:
        with piece_of(context, grid) as piece:
            first, last = piece.slice.first, piece.slice.last
            metadata: dict[str, object] = {}
            stored: list[str] = []
            bars = adjusted_bars(
                warehouse,
                piece.slice.keys,
                first,
                last,
                calendar=grid.calendar,
                lookback=max(one.lookback for one in feature_sets),
            )
            for one in feature_sets:
                table = features_contract.wide(one.version, one.names)
                values = one.compute(bars).filter(pl.col("ts").is_between(first, last))
                passed = pass_gate(table, values.with_columns(computed_at=pl.lit(piece.now)), piece)
                with warehouse.write() as writer:
                    writer.ensure(table)
                    passed.quarantine(writer, piece)
                    writer.replace(table, passed.good, *_rectangle(piece, "ts"), run_id=piece.run_id)
                if passed.rejected:
                    raise QualityError(next(iter(passed.rejected.values())))
                metadata[f"rows {one.version}"] = passed.good.height
                stored.append(table.name)
            attach(context, piece.last_cells, metadata | row_count(warehouse, *stored))
            return dg.MaterializeResult()

    @table_asset(
        grid,
        "labels",
        labels_contract.TABLE,
        group=GROUP,
        partitions_def=grid.market,
        deps=[ohlcv],
        kinds={"duckdb", "polars"},
        code_version=code_version("labels"),
        automation_condition=when_inputs_are_in(),
    )
    def labels(context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]) -> dg.MaterializeResult:
        with piece_of(context, grid) as piece:
            first, last = piece.slice.first, piece.slice.last
            bars = adjusted_bars(
                warehouse,
                piece.slice.keys,
                first,
                last,
                calendar=grid.calendar,
                lookback=max(one.lookback for one in LABEL_SETS.values()),
            )
            found = pl.concat([settled_between(one.compute(bars), first, last) for one in LABEL_SETS.values()])
            passed = pass_gate(labels_contract.TABLE, found.with_columns(computed_at=pl.lit(piece.now)), piece)
            with warehouse.write() as writer:
                passed.quarantine(writer, piece)
                writer.replace(
                    labels_contract.TABLE,
                    passed.good,
                    *_rectangle(piece, "known_on"),
                    run_id=piece.run_id,
                    keys_move=True,
                )
            if passed.rejected:
                raise QualityError(next(iter(passed.rejected.values())))
            attach(
                context,
                piece.last_cells,
                {"rows": passed.good.height, **row_count(warehouse, labels_contract.TABLE.name)},
            )
            return dg.MaterializeResult()

    return [ohlcv, features_daily, labels]


def _refuse_open_session(piece: Piece) -> None:
    calendar, last = piece.grid.calendar, piece.slice.last
    if last > (closed := calendar.last_closed(piece.now.replace(tzinfo=UTC))):
        raise ConfigError(f"{calendar.name} has not closed on {last}; its bars are not final: ask up to {closed}")


def _rectangle(piece: Piece, date_column: str) -> tuple[str, list[object]]:
    where = f'"{date_column}" BETWEEN ? AND ? AND symbol IN (SELECT unnest(?))'
    return where, [piece.slice.first, piece.slice.last, list(piece.slice.keys)]


def _stored(warehouse: Warehouse, piece: Piece) -> dict[str, Stored]:
    """What the warehouse has of each symbol of the slice."""
    symbols = list(piece.slice.keys)
    spans = warehouse.query(
        "SELECT symbol, min(ts), max(ts), arg_max(source, ts) FROM ohlcv "
        "WHERE symbol IN (SELECT unnest(?)) GROUP BY symbol",
        [symbols],
    )
    tails = warehouse.query(
        "SELECT * EXCLUDE (run_id, ingested_at) FROM ohlcv WHERE symbol IN (SELECT unnest(?)) "
        "QUALIFY row_number() OVER (PARTITION BY symbol ORDER BY ts DESC) <= ? ORDER BY symbol, ts",
        [symbols, OVERLAP],
    )
    actions = warehouse.query(
        "SELECT symbol, ex_date, kind, value, source FROM corporate_actions WHERE symbol IN (SELECT unnest(?)) "
        "ORDER BY symbol, ex_date, kind",
        [symbols],
    )
    span_of = {row[0]: row[1:] for row in spans.iter_rows()}
    tail_of = {key[0]: frame for key, frame in tails.partition_by("symbol", as_dict=True).items()}
    actions_of = {key[0]: frame for key, frame in actions.partition_by("symbol", as_dict=True).items()}
    holes = _holes(warehouse, piece, spans)
    found = {}
    for symbol in symbols:
        first, last, source = span_of.get(symbol, (None, None, None))
        found[symbol] = Stored(
            first,
            last,
            tail=tail_of.get(symbol, tails.clear()),
            actions=actions_of.get(symbol, actions.clear()),
            source=source,
            hole_from=holes.get(symbol),
            splits=dict(
                actions_of.get(symbol, actions.clear())
                .filter(source=UNIVERSE, kind="split")
                .select("ex_date", "value")
                .iter_rows()
            ),
        )
    return found


def _holes(warehouse: Warehouse, piece: Piece, spans: pl.DataFrame) -> dict[str, date]:
    """Symbol -> the slice's oldest session without a bar that lies between the symbol's stored ones."""
    have = warehouse.query(
        "SELECT symbol, ts FROM ohlcv WHERE ts BETWEEN ? AND ? AND symbol IN (SELECT unnest(?))",
        [piece.slice.first, piece.slice.last, list(piece.slice.keys)],
    )
    sessions = pl.DataFrame({"ts": piece.grid.calendar.between(piece.slice.first, piece.slice.last)})
    first, last = spans.columns[1:3]
    wanted = spans.join(sessions, how="cross").filter(pl.col("ts").is_between(pl.col(first), pl.col(last)))
    lacking = wanted.join(have, on=["symbol", "ts"], how="anti").group_by("symbol").agg(pl.col("ts").min())
    return dict(lacking.iter_rows())


def _store_bars(warehouse: Warehouse, done: dict[str, Ingested], piece: Piece) -> dict[str, str]:
    """Store what was ingested in one transaction. Returns the symbols the gate rejected whole, with its words."""
    if not done:
        return {}
    bars = pl.concat([one.bars for one in done.values()]).with_columns(ingested_at=pl.lit(piece.now))
    passed = pass_gate(ohlcv_contract.TABLE, bars, piece)
    kept = {symbol: one for symbol, one in done.items() if symbol not in passed.rejected}
    actions = [one.actions for one in kept.values() if one.actions_from is not None]
    bar_ranges = [(symbol, one.replace_from, one.replace_to) for symbol, one in kept.items() if one.replace_from]
    action_ranges = [(symbol, one.actions_from, one.actions_to) for symbol, one in kept.items() if one.actions_from]
    with warehouse.write() as writer:
        passed.quarantine(writer, piece)
        for table, column, ranges in (
            (ohlcv_contract.TABLE, "ts", bar_ranges),
            (actions_contract.TABLE, "ex_date", action_ranges),
        ):
            writer.delete_matching(
                table,
                pl.DataFrame(ranges, schema={"symbol": pl.String, "first": pl.Date, "last": pl.Date}, orient="row"),
                f"kept.symbol = wanted.symbol AND kept.{column} BETWEEN wanted.first AND wanted.last",
            )
        writer.append(ohlcv_contract.TABLE, passed.good, run_id=piece.run_id)
        if actions:
            known = pl.concat(actions).with_columns(ingested_at=pl.lit(piece.now))
            writer.append(actions_contract.TABLE, known, run_id=piece.run_id)
    return passed.rejected


def _ingest_metadata(done: dict[str, Ingested], provider: str) -> dict[str, Any]:
    metadata: dict[str, Any] = {
        "provider": provider,
        "bars": sum(one.bars.height for one in done.values()),
        "requests": sum(one.requests for one in done.values()),
    }
    restated = {symbol: [str(one.restated_from), str(one.restated_to)] for symbol, one in done.items() if one.restated}
    if restated:
        metadata[RESTATED] = restated
        metadata["stale downstream"] = "features_daily and labels of the restated dates, and what was made from them"
    return metadata


def _restated_cells(grid: Grid, piece: Piece, done: dict[str, Ingested]) -> list[str]:
    """Partitions outside the slice whose bars this run has changed."""
    cells = []
    for symbol, one in done.items():
        if not one.restated or one.restated_from is None or one.restated_to is None:
            continue
        known = grid.date_keys(max(one.restated_from, grid.universe.start), min(one.restated_to, grid.last_session))
        inside = set(grid.date_keys(piece.slice.first, piece.slice.last))
        cells += [f"{key}|{symbol}" for key in known if key not in inside]
    return cells


def _failure(failed: dict[str, QuantError], good: Sequence[str]) -> Exception:
    """Retried where nothing is stored and a retry can mend all of it; else final, and a rerun adds what is missing."""
    if not good and all(error.transient for error in failed.values()):
        return next(iter(failed.values()))
    words = "; ".join(f"{symbol}: {error}" for symbol, error in list(failed.items())[:_TOLD])
    if len(failed) > _TOLD:
        words += f"; and {len(failed) - _TOLD} more: {', '.join(list(failed)[_TOLD:])}"
    kept = f"{len(good)} other(s) stored, a rerun completes what is missing" if good else "nothing stored"
    return dg.Failure(f"{len(failed)} symbol(s) failed ({kept}): {words}", allow_retries=False)
