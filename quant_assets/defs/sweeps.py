"""Parameter sweeps as an asset: one partition per strategy file that has a `sweep` section."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from quant_assets.backtest.sweep_pictures import dimensions, sweep_png
from quant_assets.backtest.sweep_report import (
    SweepContext,
    changes_of,
    ranked,
    sharpes_of,
    write_sweep_report,
)
from quant_assets.contracts import sweep_results, trials
from quant_assets.contracts.gate import gate
from quant_assets.core.drawing import png_markdown
from quant_assets.core.errors import ConfigError, QualityError
from quant_assets.core.settings import Settings
from quant_assets.defs.catalog import OWNERS, row_count, table_asset
from quant_assets.defs.checks import check_results
from quant_assets.defs.context import tag_run
from quant_assets.defs.failures import failing_clearly
from quant_assets.defs.grid import Grid
from quant_assets.defs.market import code_version
from quant_assets.defs.progress import reporter
from quant_assets.defs.sources import sources_of
from quant_assets.market_data.history import adjusted_bars
from quant_assets.strategy import ledger, sweep
from quant_assets.strategy.evaluate import Evaluator
from quant_assets.strategy.markets import STRATEGY_TAG
from quant_assets.strategy.spec import StrategySpec
from quant_assets.validation.sharpe import expected_best
from quant_assets.warehouse import Warehouse

GROUP = "research"
ASSET = "sweep_results"
_CODE = ("signals", "portfolio", "backtest", "strategy")
_CHECKS = {"contract": "Every rule of the schema holds.", "all_cells": "Every cell of the sweep is stored, once."}


class SweepRun(dg.Config):
    """Another window than the strategy file's, for one run."""

    from_date: str | None = None
    to_date: str | None = None


def swept(strategies: Mapping[str, StrategySpec]) -> dict[str, StrategySpec]:
    """The strategies that have a sweep section."""
    return {name: spec for name, spec in strategies.items() if spec.sweep is not None}


def sweep_assets(grid: Grid, strategies: Mapping[str, StrategySpec], settings: Settings) -> list[dg.AssetsDefinition]:
    """sweep_results on a partition per strategy with a sweep section; nothing where there is none."""
    sweeps = swept(strategies)
    if not sweeps:
        return []
    key = grid.key(ASSET)
    read = {"features_daily": lambda spec: spec.feature_version, "predictions": lambda spec: spec.model}
    inputs = ["ohlcv", *(name for name, of in read.items() if any(map(of, sweeps.values())))]

    @table_asset(
        grid,
        ASSET,
        sweep_results.TABLE,
        group=GROUP,
        also=[trials.TABLE],
        partitions_def=dg.StaticPartitionsDefinition(list(sweeps)),
        deps=[dg.AssetDep(grid.key(name), partition_mapping=dg.AllPartitionMapping()) for name in inputs],
        kinds={"duckdb", "numba"},
        code_version=code_version(*_CODE),
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=doc) for name, doc in _CHECKS.items()],
    )
    def sweep_results_asset(
        context: dg.AssetExecutionContext, config: SweepRun, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult:
        only = context.run.tags.get(STRATEGY_TAG)
        offending: dict[str, list[str]] = {name: [] for name in _CHECKS}
        with failing_clearly():
            for strategy_id in context.partition_keys:
                if only and strategy_id != only:
                    raise ConfigError(f"job sweep_{only} runs only the partition of strategy {only}, not {strategy_id}")
                metadata, found = _sweep(context, sweeps[strategy_id], grid, config, warehouse, settings)
                context.add_asset_metadata(metadata, partition_key=strategy_id)
                for name, text in found.items():
                    offending[name] += [f"{strategy_id}: {text}"] if text else []
        return dg.MaterializeResult(check_results=check_results(key, offending))

    return [sweep_results_asset]


def sweep_jobs(grid: Grid, strategies: Mapping[str, StrategySpec]) -> list[UnresolvedAssetJobDefinition]:
    """`sweep_<strategy_id>` per strategy with a sweep section; it refuses the partitions of other strategies."""
    return [
        dg.define_asset_job(
            f"sweep_{strategy_id}",
            dg.AssetSelection.assets(grid.key(ASSET)),
            executor_def=dg.in_process_executor,
            description=f"The parameter sweep of {strategy_id}.",
            owners=OWNERS,
            tags={STRATEGY_TAG: strategy_id},
            metadata={"version": spec.version, "strategy file": f"sha256 {spec.source_hash[:16]}"},
            config=dg.RunConfig(
                ops={
                    grid.op(ASSET): SweepRun(
                        from_date=spec.backtest.first.isoformat(),
                        to_date=spec.backtest.last.isoformat() if spec.backtest.last else None,
                    )
                }
            ),
        )
        for strategy_id, spec in swept(strategies).items()
    ]


def report_path(settings: Settings, strategy_id: str, sweep_id: str) -> Path:
    """Where a sweep's report lies."""
    return settings.reports_dir / "sweeps" / strategy_id / f"{sweep_id}.html"


def _sweep(
    context: dg.AssetExecutionContext,
    spec: StrategySpec,
    grid: Grid,
    config: SweepRun,
    warehouse: Warehouse,
    settings: Settings,
) -> tuple[dict[str, object], dict[str, str]]:
    """Evaluate the cells that are missing. Returns the partition's metadata, and what the checks found, by check."""
    report, now = reporter(context), datetime.now(UTC)
    sessions = grid.calendar.between(*_window(spec, grid, config, now))
    first, last = sessions[0], sessions[-1]
    tag_run(context, first, last, context.partition_keys)
    cells = sweep.cells_of(spec, settings.sweep_max_cells)
    bounds = spec.bounds(grid.universe, settings.strategies_dir / "universes")
    bars = adjusted_bars(warehouse, list(bounds), grid.universe.start, last, calendar=grid.calendar)
    sweep.refuse_unusable(spec, cells.cells, bars, sessions, bounds, settings)
    sources = sources_of((cell.spec for cell in cells.cells), warehouse, bounds, sessions)
    report(f"{spec.strategy_id}: sweep of {len(cells.cells):,} cells over {first}..{last}")
    if cells.excluded:
        report(f"{spec.strategy_id}: {cells.excluded:,} combinations left out, e.g. {cells.reason}")
    entries = ledger.Ledger(ledger.family(spec, grid.universe.name), list(bounds), first, last)
    search = sweep.search(spec, cells, entries, bars, code_version(*_CODE), sources)
    sweep.run(
        search.cells,
        Evaluator(bars, sessions, grid.calendar.sessions, bounds, grid.calendar.sessions_per_year, sources),
        len(sessions),
        settings,
        lambda done: search.keep(warehouse, done, context.run.run_id, datetime.now(UTC).replace(tzinfo=None)),
        report,
        done=search.stored(warehouse),
    )
    results = warehouse.query("SELECT * FROM sweep_results WHERE sweep_id = ? ORDER BY cell", [search.sweep_id])
    shown = _show(search, cells, results, spec, grid, len(sessions), warehouse, settings)
    return shown, _checked(results, len(cells.cells))


def _window(spec: StrategySpec, grid: Grid, config: SweepRun, now: datetime) -> tuple[date, date]:
    """First and last session: the config's, else the file's, else up to the newest closed one."""
    days = []
    for name, text in (("from_date", config.from_date), ("to_date", config.to_date)):
        try:
            days.append(date.fromisoformat(text) if text else None)
        except ValueError:
            raise ConfigError(f"{name} is {text!r}; write it as YYYY-MM-DD") from None
    newest = grid.last_closed(now)
    last = min(days[1] or spec.backtest.last or newest, newest)
    return grid.calendar.snap(max(days[0] or spec.backtest.first, grid.universe.start), last)


def _checked(results: pl.DataFrame, cells: int) -> dict[str, str]:
    try:
        gate(sweep_results.TABLE, results.drop("run_id"))
        broken = ""
    except QualityError as error:
        broken = str(error)
    whole = sorted(results["cell"].to_list()) == list(range(cells))
    return {"contract": broken, "all_cells": "" if whole else f"{results.height:,} rows of {cells:,} cells"}


def _show(
    search: sweep.Search,
    cells: sweep.Cells,
    results: pl.DataFrame,
    spec: StrategySpec,
    grid: Grid,
    sessions: int,
    warehouse: Warehouse,
    settings: Settings,
) -> dict[str, object]:
    """Write the report, and return the metadata: heat map, headline figures, and of how many trials the best one is."""
    family, year = search.ledger.family, grid.calendar.sessions_per_year
    (counted,) = ledger.counted(warehouse, family)
    path = write_sweep_report(
        report_path(settings, spec.strategy_id, search.sweep_id),
        results,
        SweepContext(
            search.sweep_id,
            spec.model_dump(mode="json", by_alias=True, exclude_defaults=True),
            sessions,
            year,
            family,
            counted.configurations,
            counted.trials,
            cells.excluded,
            {
                "Strategy file": f"sha256 {spec.source_hash[:16]}",
                "Universe": f"{grid.universe.name} {grid.universe.version}",
                "Code version": code_version(*_CODE),
            },
        ),
    )
    sharpes = sharpes_of(results)
    picture = sweep_png(dimensions(changes_of(results), sharpes), sharpes, f"{spec.strategy_id} {spec.version}")
    best = ranked(results).row(0, named=True)
    known = sharpes[~np.isnan(sharpes)]
    return {
        "heat map": dg.MetadataValue.md(png_markdown(picture, "Sharpe ratio over parameters")),
        "report": dg.MetadataValue.path(str(path)),
        "sweep": search.sweep_id,
        "period": f"{search.ledger.first}..{search.ledger.last}",
        "cells": results.height,
        **row_count(warehouse, sweep_results.TABLE.name),
        **({"excluded combinations": cells.excluded} if cells.excluded else {}),
        **(
            {"best Sharpe": best["sharpe"], "best cell": best["params"], "median Sharpe": float(np.median(known))}
            if len(known)
            else {}
        ),
        "configurations tried in the family": counted.configurations,
        "trials of the family": counted.trials,
        "best Sharpe by luck alone": expected_best(counted.configurations, sessions, year),
    }
