"""The decision stage: predictions, targets, backtests, by date and strategy. Rows stay keyed by date and symbol."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import dagster as dg
import polars as pl

from quant_assets.backtest import analysis
from quant_assets.backtest.engine import BacktestResult, buy_and_hold, run
from quant_assets.backtest.pictures import equity_png, png_markdown, tear_png
from quant_assets.backtest.report import ReportContext, write_report
from quant_assets.contracts import (
    backtest_correlations,
    backtest_equity,
    backtest_measures,
    backtest_summary,
    backtest_symbols,
    backtest_trades,
    models,
    predictions,
    targets,
    trials,
)
from quant_assets.contracts.schema import Table
from quant_assets.core.errors import ConfigError
from quant_assets.core.settings import Settings
from quant_assets.defs.automation import when_inputs_are_in
from quant_assets.defs.catalog import row_count, table_asset
from quant_assets.defs.context import Piece, attach, pass_gate, piece_of
from quant_assets.defs.grid import Grid
from quant_assets.defs.market import code_version
from quant_assets.defs.sources import labelled_features, signal_bars, signal_source
from quant_assets.market_data.history import adjusted_bars
from quant_assets.models import walkforward
from quant_assets.models.spec import ModelSpec
from quant_assets.models.store import ModelStore
from quant_assets.strategy.compose import Decisions, decide, rebalance_dates, signal_scores
from quant_assets.strategy.gate import FLAG, gated, own_verdict
from quant_assets.strategy.ledger import Ledger, family, record, tried
from quant_assets.strategy.markets import STRATEGY_TAG
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.universe import Bounds
from quant_assets.warehouse import Warehouse

GROUP = "decision"
BACKTEST_TABLES = tuple(
    module.TABLE
    for module in (
        backtest_summary,
        backtest_trades,
        backtest_equity,
        backtest_symbols,
        backtest_correlations,
        backtest_measures,
    )
)

Strategies = Mapping[str, StrategySpec]


class TargetRun(dg.Config):
    """How targets are approved in one run."""

    gate: bool | None = None
    """Whether those of a strategy whose last verdict is `fail` are rejected; none: as QUANT_VALIDATION_GATE says."""


class BacktestRun(dg.Config):
    """Overrides of a strategy file's `backtest` and `execution` sections, for one run."""

    from_date: str | None = None
    to_date: str | None = None
    initial_cash: float | None = None
    fee_bps: float | None = None
    slippage_bps: float | None = None
    funding_bps_per_day: float | None = None
    price: str | None = None
    engine: str | None = None
    symbols: list[str] | None = None
    """Only these of the strategy's symbols, if not all; the targets are then decided anew and not stored."""

    @property
    def asks_for_dates(self) -> bool:
        """Whether the period was chosen for this run, so that one that cannot be simulated is an error."""
        return self.from_date is not None or self.to_date is not None

    def applied_to(self, spec: StrategySpec, own: Collection[str]) -> StrategySpec:
        """The strategy with what was chosen for this run.

        Args:
            own: symbols of its file's universe.

        Raises:
            StrategyError: a value that the field does not allow.
        """
        chosen = {
            "backtest.initial_cash": self.initial_cash,
            "backtest.fee_bps": self.fee_bps,
            "backtest.slippage_bps": self.slippage_bps,
            "backtest.funding_bps_per_day": self.funding_bps_per_day,
            "execution.price": self.price,
            "execution.engine": self.engine,
        }
        changed = spec.variant({path: value for path, value in chosen.items() if value is not None})
        return changed if self.symbols is None or set(self.symbols) == set(own) else changed.only(self.symbols)


def decision_assets(grid: Grid, strategies: Strategies, settings: Settings) -> list[dg.AssetsDefinition]:
    """predictions, targets and backtest_summary on `grid`; none without strategies, which are their partitions."""
    if not strategies:
        return []
    all_symbols = dg.MultiPartitionMapping(
        {"date": dg.DimensionPartitionMapping("date", dg.TimeWindowPartitionMapping())}
    )
    common: dict[str, Any] = {
        "group": GROUP,
        "partitions_def": grid.decision,
        "automation_condition": when_inputs_are_in(),
    }

    @table_asset(
        grid,
        "predictions",
        predictions.TABLE,
        also=[models.TABLE],
        deps=[
            dg.AssetDep(grid.key("features_daily"), partition_mapping=all_symbols),
            dg.AssetDep(grid.key("labels"), partition_mapping=all_symbols),
        ],
        kinds={"duckdb", "lightgbm"},
        code_version=code_version("models"),
        **common,
    )
    def predictions_asset(
        context: dg.AssetExecutionContext,
        warehouse: dg.ResourceParam[Warehouse],
        model_store: dg.ResourceParam[ModelStore],
    ) -> dg.MaterializeResult:
        with piece_of(context, grid) as piece:
            refuse_other_strategies(context, piece)
            done: dict[str, dict[str, object]] = {}
            for strategy_id in piece.slice.keys:
                spec = strategies[strategy_id].model
                if spec is not None and spec.experiment_id not in done:
                    done[spec.experiment_id] = _predict(spec, warehouse, model_store, piece)
            held = row_count(warehouse, predictions.TABLE.name)
            for strategy_id, cell in zip(piece.slice.keys, piece.last_cells, strict=True):
                spec = strategies[strategy_id].model
                attach(context, [cell], {**held, **({"rows": 0} if spec is None else done[spec.experiment_id])})
            return dg.MaterializeResult()

    @table_asset(
        grid,
        "targets",
        targets.TABLE,
        deps=[predictions_asset, dg.AssetDep(grid.key("features_daily"), partition_mapping=all_symbols)],
        kinds={"duckdb", "polars"},
        code_version=code_version("strategy", "signals", "portfolio"),
        **common,
    )
    def targets_asset(
        context: dg.AssetExecutionContext, config: TargetRun, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult:
        gate = settings.validation_gate if config.gate is None else config.gate
        with piece_of(context, grid) as piece:
            refuse_other_strategies(context, piece)
            for strategy_id, cell in zip(piece.slice.keys, piece.last_cells, strict=True):
                metadata = _target(strategies[strategy_id], warehouse, piece, settings, gate)
                attach(context, [cell], metadata | row_count(warehouse, targets.TABLE.name))
            return dg.MaterializeResult()

    @table_asset(
        grid,
        "backtest_summary",
        backtest_summary.TABLE,
        also=[*BACKTEST_TABLES[1:], trials.TABLE],
        deps=[targets_asset, dg.AssetDep(grid.key("ohlcv"), partition_mapping=all_symbols)],
        kinds={"duckdb", "numba"},
        code_version=code_version("backtest"),
        **{**common, "automation_condition": when_inputs_are_in(except_updates_of=grid.key("ohlcv"))},
    )
    def backtest_summary_asset(
        context: dg.AssetExecutionContext, config: BacktestRun, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult:
        with piece_of(context, grid) as piece:
            refuse_other_strategies(context, piece)
            done: list[Simulated] = []
            shown: dict[str, dict[str, object]] = {}
            for strategy_id, cell in zip(piece.slice.keys, piece.last_cells, strict=True):
                file = strategies[strategy_id]
                own = file.bounds(grid.universe, settings.strategies_dir / "universes")
                spec = config.applied_to(file, own)
                if not config.asks_for_dates and (reason := _nothing_to_test(spec, warehouse, piece)):
                    piece.report(reason)
                    shown[cell] = {"rows": 0, "why": reason}
                    continue
                done.append(_backtest(spec, file, config, warehouse, piece, settings))
                shown[cell] = _show(done[-1], spec, warehouse, piece, settings)
            if done:
                _store_backtests(done, warehouse, piece)
            held = row_count(warehouse, backtest_summary.TABLE.name)
            for cell, metadata in shown.items():
                attach(context, [cell], metadata | held)
            return dg.MaterializeResult()

    return [predictions_asset, targets_asset, backtest_summary_asset]


def refuse_other_strategies(context: dg.AssetExecutionContext, piece: Piece) -> None:
    """Refuse partitions of other strategies in a strategy's own job.

    Raises:
        ConfigError: there is one.
    """
    only = context.run.tags.get(STRATEGY_TAG)
    others = [name for name in piece.slice.keys if only and name != only]
    if others:
        raise ConfigError(
            f"job {only} runs only the partitions of strategy {only}, not of {others[0]}; use that one's job"
        )


def _predict(spec: ModelSpec, warehouse: Warehouse, store: ModelStore, piece: Piece) -> dict[str, object]:
    """Walk forward over the slice for one experiment on all the market's symbols; store models and predictions."""
    first, last = piece.slice.first, piece.slice.last
    symbols = piece.grid.universe.names
    values, known = labelled_features(spec, warehouse, symbols, last)
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
            "ts BETWEEN ? AND ? AND symbol IN (SELECT unnest(?)) "
            "AND model_id IN (SELECT model_id FROM models WHERE experiment_id = ?)",
            [first, last, list(symbols), spec.experiment_id],  # another market may share the experiment
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


def _target(
    spec: StrategySpec, warehouse: Warehouse, piece: Piece, settings: Settings, gate: bool
) -> dict[str, object]:
    """Decide every rebalance of the slice for one strategy and store the targets."""
    first, last = piece.slice.first, piece.slice.last
    grid = piece.grid
    universes = settings.strategies_dir / "universes"
    bounds = spec.bounds(grid.universe, universes)
    previous = warehouse.query(
        'SELECT symbol, weight FROM targets WHERE strategy_id = $1 AND version = $2 AND approved AND "asof" = '
        '(SELECT max("asof") FROM targets WHERE strategy_id = $1 AND version = $2 AND "asof" < $3)',
        [spec.strategy_id, spec.version, first],
    )
    decided = _decided(spec, bounds, first, last, dict(previous.iter_rows()), warehouse, grid)
    verdict = own_verdict(warehouse, spec, grid.universe, grid.calendar, universes) if gate else None
    wanted = gated(decided.targets, verdict)
    passed = pass_gate(targets.TABLE, wanted.with_columns(generated_at=pl.lit(piece.now)), piece)
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
    if held_back := int(passed.good["risk_flags"].list.contains(FLAG).sum()):
        piece.report(f"{spec.strategy_id}: {held_back} target(s) held back, its last verdict is fail")
        metadata["held back by the verdict"] = held_back
    if decided.skipped:
        metadata["skipped"] = dg.MetadataValue.md(
            "\n".join(f"- {one.asof}: {one.reason}" for one in decided.skipped[:50])
        )
    return metadata


def _decided(
    spec: StrategySpec,
    bounds: Mapping[str, Bounds],
    first: date,
    last: date,
    previous: Mapping[str, float],
    warehouse: Warehouse,
    grid: Grid,
) -> Decisions:
    """Every rebalance from `first` to `last`, from what is stored."""
    symbols, calendar = list(bounds), grid.calendar
    bars = signal_bars(spec, warehouse, symbols, first, last, grid)
    sessions = calendar.between(first, last)
    decided_on = rebalance_dates(spec.rebalance.frequency, sessions, calendar.sessions)
    source = signal_source(spec, warehouse, symbols, decided_on)
    scores = signal_scores(spec, bars if source is None else source, calendar.sessions, calendar.sessions_per_year)
    return decide(spec, scores, bars, previous, sessions, calendar.sessions, bounds)


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


@dataclass(frozen=True)
class Simulated:
    """A backtest, the universe bought and held over its period, what is stored, and its row of the trial ledger."""

    result: BacktestResult
    benchmark: pl.DataFrame
    tables: dict[Table, pl.DataFrame]
    trial: pl.DataFrame


def _backtest(
    spec: StrategySpec,
    file: StrategySpec,
    config: BacktestRun,
    warehouse: Warehouse,
    piece: Piece,
    settings: Settings,
) -> Simulated:
    """The backtest of stored targets, or of those decided for the symbols that were asked for."""
    first, last = period_of(spec, config, piece)
    grid = piece.grid
    bounds = spec.bounds(grid.universe, settings.strategies_dir / "universes")
    anew = spec.universe != file.universe
    if not anew:
        decided = warehouse.query(
            'SELECT "asof", symbol, weight, approved, risk_flags FROM targets WHERE strategy_id = $1 AND version = $2 '
            'AND "asof" <= $4 AND "asof" >= coalesce('
            '(SELECT max("asof") FROM targets WHERE strategy_id = $1 AND version = $2 AND "asof" <= $3), $3) '
            'ORDER BY "asof", symbol',
            [spec.strategy_id, spec.version, first, last],
        )
    if anew or decided["risk_flags"].list.contains(FLAG).any():
        decided = _decided(spec, bounds, first, last, {}, warehouse, grid).targets
    if decided.is_empty():
        raise ConfigError(
            f"{spec.strategy_id} {spec.version} has no targets from {first} to {last}; "
            f"materialise targets for these dates first, or choose others"
        )
    bars = adjusted_bars(warehouse, sorted({*bounds, *decided["symbol"]}), first, last, calendar=grid.calendar)
    piece.report(f"{spec.strategy_id}: backtest {first}..{last}")
    sessions = grid.calendar.between(first, last)
    result = run(bars, decided, sessions, spec.config(grid.calendar.sessions_per_year), piece.report)
    entries = Ledger(family(spec, grid.universe.name), list(bounds), first, last)
    returns = result.equity["ret"].to_numpy()[None, :]
    trial = entries.rows([spec], [result.summary["sharpe"]], returns, "backtest", piece.now)
    listed = bars.filter(pl.col("symbol").is_in(list(bounds)))
    benchmark = buy_and_hold(listed, sessions, result.config.initial_cash)
    tables = analysis.tables(result, benchmark, bars, piece.now)
    tables[backtest_summary.TABLE] = tables[backtest_summary.TABLE].with_columns(trial["trial_id"])
    return Simulated(result, benchmark, tables, trial)


def _store_backtests(done: Sequence[Simulated], warehouse: Warehouse, piece: Piece) -> None:
    """All rows of all strategies in one transaction, their trials too; a rerun of the run's step replaces its own."""
    passed = [
        (table, pass_gate(table, pl.concat([one.tables[table] for one in done]), piece)) for table in BACKTEST_TABLES
    ]
    with warehouse.write() as writer:
        for table, rows in passed:
            rows.quarantine(writer, piece)
            writer.replace(table, rows.good, "run_id = ?", [piece.run_id], run_id=piece.run_id)
        record(writer, pl.concat([one.trial for one in done]), piece.run_id)


def _show(
    simulated: Simulated, spec: StrategySpec, warehouse: Warehouse, piece: Piece, settings: Settings
) -> dict[str, object]:
    """Write the report, and return the run's metadata: headline figures, the equity curve, the report's place."""
    result, benchmark = simulated.result, simulated.benchmark
    first, last = result.summary["from_ts"], result.summary["to_ts"]
    correlations = simulated.tables[backtest_correlations.TABLE]
    configurations = tried(warehouse, simulated.trial)
    context = ReportContext(
        run_id=piece.run_id,
        strategy=spec.model_dump(mode="json", by_alias=True),
        code_version=code_version("backtest", "strategy", "signals", "portfolio", "models"),
        benchmark=benchmark,
        correlations=correlations,
        trials=configurations,
        lineage={
            "strategy file": f"sha256 {spec.source_hash[:16]}",
            **({"experiment": spec.model.experiment_id} if spec.model else {}),
            **({"feature set": spec.feature_version} if spec.feature_version else {}),
            "tried so far": f"{configurations:,} configuration(s) of {simulated.trial['family'][0]}, this one included",
            "universe": f"{piece.grid.universe.name} {piece.grid.universe.version}",
        },
    )
    path = write_report(settings.backtest_report(spec.strategy_id, piece.run_id), result, context)
    piece.report(f"{spec.strategy_id}: report {path}")
    title, config = f"{spec.strategy_id} {spec.version}", result.config
    picture = equity_png(result.equity, title, benchmark)
    tear = tear_png(result.equity, title, benchmark, correlations, config.initial_cash, config.year)
    shown = ("cagr", "sharpe", "max_dd", "turnover", "num_trades", "final_equity")
    return {
        "equity curve": dg.MetadataValue.md(png_markdown(picture)),
        "tear sheet": dg.MetadataValue.md(png_markdown(tear, "rolling Sharpe ratio, drawdown, months, correlations")),
        "report": dg.MetadataValue.path(str(path)),
        "period": f"{first}..{last}",
        "configurations tried in the family": configurations,
        **{name: result.summary[name] for name in shown if result.summary[name] is not None},
        **({"unfilled targets": result.unfilled.height} if result.unfilled.height else {}),
    }
