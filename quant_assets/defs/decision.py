"""The decision stage: predictions, targets, backtests, by date and strategy. Rows stay keyed by date and symbol."""

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl

from quant_assets.backtest.engine import BacktestConfig, BacktestResult, buy_and_hold, run
from quant_assets.backtest.pictures import equity_png, png_markdown
from quant_assets.backtest.report import ReportContext, write_report
from quant_assets.contracts import (
    backtest_equity,
    backtest_summary,
    backtest_symbols,
    backtest_trades,
    features_daily,
    models,
    predictions,
    targets,
)
from quant_assets.core.costs import Costs
from quant_assets.core.errors import ConfigError
from quant_assets.core.settings import Settings
from quant_assets.defs.automation import when_inputs_are_in
from quant_assets.defs.context import Piece, attach, pass_gate, piece_of
from quant_assets.defs.grid import Grid
from quant_assets.defs.market import code_version
from quant_assets.features import feature_set
from quant_assets.market_data.history import adjusted_bars
from quant_assets.models import walkforward
from quant_assets.models.spec import ModelSpec
from quant_assets.models.store import ModelStore
from quant_assets.strategy.compose import decide, signal_scores
from quant_assets.strategy.spec import StrategySpec
from quant_assets.warehouse import Warehouse

GROUP = "decision"
STRATEGY_TAG = "quant/strategy"
BACKTEST_TABLES = (backtest_summary.TABLE, backtest_trades.TABLE, backtest_equity.TABLE, backtest_symbols.TABLE)

Strategies = Mapping[str, StrategySpec]


class BacktestRun(dg.Config):
    """Overrides of a strategy file's `backtest` and `execution` sections, for one run."""

    from_date: str | None = None
    to_date: str | None = None
    initial_cash: float | None = None
    fee_bps: float | None = None
    slippage_bps: float | None = None
    price: str | None = None

    @property
    def asks_for_dates(self) -> bool:
        """Whether the period was chosen for this run, so that one that cannot be simulated is an error."""
        return self.from_date is not None or self.to_date is not None


def decision_assets(grid: Grid, strategies: Strategies, settings: Settings) -> list[dg.AssetsDefinition]:
    """predictions, targets and backtest_summary on `grid`."""
    all_symbols = dg.MultiPartitionMapping(
        {"date": dg.DimensionPartitionMapping("date", dg.TimeWindowPartitionMapping())}
    )
    common: dict[str, Any] = {
        "partitions_def": grid.decision,
        "backfill_policy": dg.BackfillPolicy.single_run(),
        "group_name": GROUP,
        "tags": {"stage": GROUP},
        "automation_condition": when_inputs_are_in(),
    }

    @dg.asset(
        name="predictions",
        deps=[
            dg.AssetDep("features_daily", partition_mapping=all_symbols),
            dg.AssetDep("labels", partition_mapping=all_symbols),
        ],
        kinds={"duckdb", "lightgbm"},
        code_version=code_version("models"),
        description=predictions.TABLE.doc,
        **common,
    )
    def predictions_asset(
        context: dg.AssetExecutionContext,
        warehouse: dg.ResourceParam[Warehouse],
        model_store: dg.ResourceParam[ModelStore],
    ) -> dg.MaterializeResult:
        with piece_of(context, grid) as piece:
            _refuse_other_strategies(context, piece)
            done: dict[str, dict[str, object]] = {}
            for strategy_id in piece.slice.keys:
                spec = strategies[strategy_id].model
                if spec is not None and spec.experiment_id not in done:
                    done[spec.experiment_id] = _predict(spec, warehouse, model_store, piece)
            for strategy_id, cell in zip(piece.slice.keys, piece.last_cells, strict=True):
                spec = strategies[strategy_id].model
                attach(context, [cell], {"rows": 0} if spec is None else done[spec.experiment_id])
            return dg.MaterializeResult()

    @dg.asset(
        name="targets",
        deps=[predictions_asset, dg.AssetDep("features_daily", partition_mapping=all_symbols)],
        kinds={"duckdb", "polars"},
        code_version=code_version("strategy", "signals", "portfolio"),
        description=targets.TABLE.doc,
        **common,
    )
    def targets_asset(
        context: dg.AssetExecutionContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult:
        with piece_of(context, grid) as piece:
            _refuse_other_strategies(context, piece)
            for strategy_id, cell in zip(piece.slice.keys, piece.last_cells, strict=True):
                attach(context, [cell], _target(strategies[strategy_id], warehouse, piece, settings))
            return dg.MaterializeResult()

    @dg.asset(
        name="backtest_summary",
        deps=[targets_asset, dg.AssetDep("ohlcv", partition_mapping=all_symbols)],
        kinds={"duckdb", "vectorbt"},
        code_version=code_version("backtest"),
        description=backtest_summary.TABLE.doc,
        **{**common, "automation_condition": when_inputs_are_in(except_updates_of="ohlcv")},
    )
    def backtest_summary_asset(
        context: dg.AssetExecutionContext, config: BacktestRun, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult:
        with piece_of(context, grid) as piece:
            _refuse_other_strategies(context, piece)
            done: list[BacktestResult] = []
            for strategy_id, cell in zip(piece.slice.keys, piece.last_cells, strict=True):
                spec = strategies[strategy_id]
                if not config.asks_for_dates and (reason := _nothing_to_test(spec, warehouse, piece)):
                    piece.report(reason)
                    attach(context, [cell], {"rows": 0, "why": reason})
                    continue
                result, benchmark = _backtest(spec, config, warehouse, piece, settings)
                attach(context, [cell], _show(result, benchmark, spec, piece, settings))
                done.append(result)
            if done:
                _store_backtests(done, warehouse, piece)
            return dg.MaterializeResult()

    return [predictions_asset, targets_asset, backtest_summary_asset]


def _refuse_other_strategies(context: dg.AssetExecutionContext, piece: Piece) -> None:
    only = context.run.tags.get(STRATEGY_TAG)
    others = [name for name in piece.slice.keys if only and name != only]
    if others:
        raise ConfigError(
            f"job {only} runs only the partitions of strategy {only}, not of {others[0]}; use that one's job"
        )


def _stored_features(version: str, warehouse: Warehouse) -> str:
    """Name of the wide table of feature set `version`.

    Raises:
        ConfigError: nothing of the set was ever stored.
    """
    table = features_daily.wide(version, feature_set(version).names).name
    if table not in warehouse.tables():
        raise ConfigError(f"no features of version {version} are stored; materialise ohlcv and features_daily first")
    return table


def _predict(spec: ModelSpec, warehouse: Warehouse, store: ModelStore, piece: Piece) -> dict[str, object]:
    """Walk forward over the slice for one experiment on all the market's symbols; store models and predictions."""
    first, last = piece.slice.first, piece.slice.last
    symbols = piece.grid.universe.names
    names = feature_set(spec.feature_version).names
    wide = _stored_features(spec.feature_version, warehouse)
    values = warehouse.query(
        f"SELECT symbol, ts, {', '.join(names)} FROM {wide} WHERE ts <= ? AND symbol IN (SELECT unnest(?))",
        [last, list(symbols)],
    )
    known = warehouse.query(
        "SELECT symbol, ts, label_value, known_on, horizon FROM labels "
        "WHERE label_name = ? AND label_version = ? AND known_on <= ? AND symbol IN (SELECT unnest(?))",
        [spec.label, spec.label_version, last, list(symbols)],
    )
    existing = warehouse.query("SELECT * FROM models WHERE experiment_id = ?", [spec.experiment_id])
    walked = walkforward.run(
        spec, values, known, symbols, piece.grid.calendar.sessions, first, last, store, existing, piece.report
    )
    passed = pass_gate(predictions.TABLE, walked.predictions.with_columns(generated_at=pl.lit(piece.now)), piece)
    with warehouse.write() as writer:
        passed.quarantine(writer, piece)
        new = walked.new_models.with_columns(created_at=pl.lit(piece.now))
        writer.delete_matching(models.TABLE, new.select("model_id"), "kept.model_id = wanted.model_id")
        writer.append(models.TABLE, new, run_id=piece.run_id)
        writer.replace(
            predictions.TABLE,
            passed.good,
            "ts BETWEEN ? AND ? AND model_id IN (SELECT model_id FROM models WHERE experiment_id = ?)",
            [first, last, spec.experiment_id],
            run_id=piece.run_id,
        )
    piece.report(f"{spec.task_id}: {walked.trained} model(s) trained, {walked.reused} reused")
    metadata: dict[str, object] = {
        "rows": passed.good.height,
        "experiment": spec.experiment_id,
        "trained": walked.trained,
        "reused": walked.reused,
    }
    if walked.skipped:
        metadata["skipped"] = dg.MetadataValue.md("\n".join(f"- {line}" for line in walked.skipped[:50]))
    return metadata


def _target(spec: StrategySpec, warehouse: Warehouse, piece: Piece, settings: Settings) -> dict[str, object]:
    """Decide every rebalance of the slice for one strategy and store the targets."""
    first, last = piece.slice.first, piece.slice.last
    grid = piece.grid
    bounds = spec.bounds(grid.universe, settings.strategies_dir / "universes")
    if spec.model is None:
        wide = _stored_features(spec.feature_version, warehouse)
        source = warehouse.query(
            f"SELECT * FROM {wide} WHERE ts BETWEEN ? AND ? AND symbol IN (SELECT unnest(?))",
            [first, last, list(bounds)],
        )
    else:
        source = warehouse.query(
            "SELECT p.symbol, p.ts, p.score, p.calibrated_score FROM predictions p JOIN models m USING (model_id) "
            "WHERE m.experiment_id = ? AND p.ts BETWEEN ? AND ? AND p.symbol IN (SELECT unnest(?))",
            [spec.model.experiment_id, first, last, list(bounds)],
        )
    previous = warehouse.query(
        'SELECT symbol, weight FROM targets WHERE strategy_id = $1 AND version = $2 AND approved AND "asof" = '
        '(SELECT max("asof") FROM targets WHERE strategy_id = $1 AND version = $2 AND "asof" < $3)',
        [spec.strategy_id, spec.version, first],
    )
    bars = adjusted_bars(
        warehouse, list(bounds), first, last, calendar=grid.calendar, lookback=feature_set("v1").lookback
    )
    decided = decide(
        spec,
        signal_scores(spec, source),
        bars,
        dict(previous.iter_rows()),
        grid.calendar.between(first, last),
        grid.calendar.sessions,
        bounds,
    )
    passed = pass_gate(targets.TABLE, decided.targets.with_columns(generated_at=pl.lit(piece.now)), piece)
    with warehouse.write() as writer:
        passed.quarantine(writer, piece)
        writer.replace(
            targets.TABLE,
            passed.good,
            'strategy_id = ? AND version = ? AND "asof" BETWEEN ? AND ?',
            [spec.strategy_id, spec.version, first, last],
            run_id=piece.run_id,
        )
    rebalances = passed.good["asof"].n_unique()
    piece.report(f"{spec.strategy_id}: {rebalances} rebalance(s) decided, {len(decided.skipped)} skipped")
    metadata: dict[str, object] = {
        "rows": passed.good.height,
        "rebalances": rebalances,
        "approved": int(passed.good["approved"].sum()),
    }
    if decided.skipped:
        metadata["skipped"] = dg.MetadataValue.md(
            "\n".join(f"- {one.asof}: {one.reason}" for one in decided.skipped[:50])
        )
    return metadata


def period_of(spec: StrategySpec, config: BacktestRun, piece: Piece) -> tuple[date, date]:
    """The backtest's sessions: the config's from/to, else the file's, else the slice's; snapped to the calendar.

    A single date means the file's `from` up to it.

    Raises:
        ConfigError: a date that is none, reversed dates, or no session between them.
    """
    first = _date(config.from_date, "from_date") or spec.backtest.first
    last = _date(config.to_date, "to_date")
    if last is None:
        single = piece.slice.first == piece.slice.last
        last = piece.slice.last if single or spec.backtest.last is None else spec.backtest.last
    return piece.grid.calendar.snap(max(first, piece.grid.universe.start), last)


def _date(text: str | None, name: str) -> date | None:
    try:
        return date.fromisoformat(text) if text else None
    except ValueError:
        raise ConfigError(f"{name} is {text!r}; write it as YYYY-MM-DD") from None


def _nothing_to_test(spec: StrategySpec, warehouse: Warehouse, piece: Piece) -> str | None:
    """Why dates that a daemon or a backfill came by have no backtest: before the file's period, or no targets yet."""
    if piece.slice.last < spec.backtest.first:
        return f"{spec.strategy_id}: no backtest, {piece.slice} lies before its period ({spec.backtest.first})"
    decided = warehouse.query(
        'SELECT 1 FROM targets WHERE strategy_id = ? AND version = ? AND "asof" <= ? LIMIT 1',
        [spec.strategy_id, spec.version, piece.slice.last],
    )
    return f"{spec.strategy_id}: no backtest, it has no targets by {piece.slice.last}" if decided.is_empty() else None


def _backtest(
    spec: StrategySpec, config: BacktestRun, warehouse: Warehouse, piece: Piece, settings: Settings
) -> tuple[BacktestResult, pl.DataFrame]:
    """The backtest, and the universe bought and held over its period."""
    first, last = period_of(spec, config, piece)
    decided = warehouse.query(
        'SELECT "asof", symbol, weight, approved FROM targets WHERE strategy_id = $1 AND version = $2 AND "asof" <= $4 '
        'AND "asof" >= coalesce('
        '(SELECT max("asof") FROM targets WHERE strategy_id = $1 AND version = $2 AND "asof" <= $3), $3) '
        'ORDER BY "asof", symbol',
        [spec.strategy_id, spec.version, first, last],
    )
    if decided.is_empty():
        raise ConfigError(
            f"{spec.strategy_id} {spec.version} has no targets from {first} to {last}; "
            f"materialise targets for these dates first, or choose others"
        )
    bounds = spec.bounds(piece.grid.universe, settings.strategies_dir / "universes")
    bars = adjusted_bars(warehouse, sorted({*bounds, *decided["symbol"]}), first, last, calendar=piece.grid.calendar)
    costs = Costs(
        spec.backtest.fee_bps if config.fee_bps is None else config.fee_bps,
        spec.backtest.slippage_bps if config.slippage_bps is None else config.slippage_bps,
    )
    piece.report(f"{spec.strategy_id}: backtest {first}..{last}")
    sessions = piece.grid.calendar.between(first, last)
    result = run(
        bars,
        decided,
        sessions,
        BacktestConfig(
            spec.strategy_id,
            spec.version,
            initial_cash=config.initial_cash or spec.backtest.initial_cash,
            costs=costs,
            price=config.price or spec.execution.price,  # type: ignore[arg-type]
        ),
        piece.report,
    )
    listed = bars.filter(pl.col("symbol").is_in(list(bounds)))
    return result, buy_and_hold(listed, sessions, result.config.initial_cash)


def _store_backtests(done: Sequence[BacktestResult], warehouse: Warehouse, piece: Piece) -> None:
    """All rows of all strategies in one transaction; a rerun of the same run's step replaces its own."""
    summary = pl.DataFrame(
        [{**result.summary, "created_at": piece.now} for result in done],
        schema={column.name: column.polars for column in backtest_summary.TABLE.columns},
    )
    frames = {
        backtest_summary.TABLE: summary,
        backtest_trades.TABLE: pl.concat([result.trades for result in done]),
        backtest_equity.TABLE: pl.concat([result.equity for result in done]),
        backtest_symbols.TABLE: pl.concat([result.symbols for result in done]),
    }
    passed = [(table, pass_gate(table, frame, piece)) for table, frame in frames.items()]
    with warehouse.write() as writer:
        for table, rows in passed:
            rows.quarantine(writer, piece)
            writer.replace(table, rows.good, "run_id = ?", [piece.run_id], run_id=piece.run_id)


def _show(
    result: BacktestResult, benchmark: pl.DataFrame, spec: StrategySpec, piece: Piece, settings: Settings
) -> dict[str, object]:
    """Write the report, and return the run's metadata: headline figures, the equity curve, the report's place."""
    first, last = result.summary["from_ts"], result.summary["to_ts"]
    context = ReportContext(
        run_id=piece.run_id,
        strategy=spec.model_dump(mode="json", by_alias=True),
        code_version=code_version("backtest", "strategy", "signals", "portfolio", "models"),
        benchmark=benchmark,
        lineage={
            "strategy file": f"sha256 {spec.source_hash[:16]}",
            **({"experiment": spec.model.experiment_id} if spec.model else {}),
            "feature set": spec.feature_version,
            "universe": f"{piece.grid.universe.name} {piece.grid.universe.version}",
        },
    )
    path = write_report(report_path(settings, spec.strategy_id, piece.run_id), result, context)
    piece.report(f"{spec.strategy_id}: report {path}")
    picture = equity_png(result.equity, f"{spec.strategy_id} {spec.version}", benchmark)
    shown = ("cagr", "sharpe", "max_dd", "turnover", "num_trades", "final_equity")
    return {
        "equity curve": dg.MetadataValue.md(png_markdown(picture)),
        "report": dg.MetadataValue.path(str(path)),
        "period": f"{first}..{last}",
        **{name: result.summary[name] for name in shown if result.summary[name] is not None},
        **({"unfilled targets": result.unfilled.height} if result.unfilled.height else {}),
    }


def report_path(settings: Settings, strategy_id: str, run_id: str) -> Path:
    """Where a backtest's report lies."""
    return settings.reports_dir / strategy_id / f"{run_id}.html"
