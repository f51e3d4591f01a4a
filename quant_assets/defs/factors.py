"""The research stage: what is asked of a market's features as a whole, by feature set."""

from datetime import UTC, date, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import polars as pl
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition
from pydantic import Field

from quant_assets.contracts import (
    factor_correlations,
    factor_ic,
    factor_quantiles,
    factor_summary,
    features_daily,
)
from quant_assets.contracts.gate import gate
from quant_assets.core.drawing import png_markdown
from quant_assets.core.errors import ConfigError, QualityError
from quant_assets.core.matrices import Matrices, matrices
from quant_assets.core.settings import Settings
from quant_assets.defs.catalog import OWNERS, row_count, table_asset
from quant_assets.defs.checks import check_results
from quant_assets.defs.context import tag_run
from quant_assets.defs.failures import failing_clearly
from quant_assets.defs.grid import Grid
from quant_assets.defs.market import code_version
from quant_assets.defs.progress import reporter
from quant_assets.features import feature_set
from quant_assets.market_data.history import adjusted_bars
from quant_assets.validation.factor_page import FactorContext, write_factor_page
from quant_assets.validation.factor_pictures import factor_png
from quant_assets.validation.factors import HORIZONS, QUANTILES, FactorReport, Mask, checked_horizons, factor_report
from quant_assets.warehouse import Warehouse

GROUP = "research"
ASSET, JOB = "factor_report", "factors"
FACTOR_TABLES = (factor_summary.TABLE, factor_ic.TABLE, factor_quantiles.TABLE, factor_correlations.TABLE)
_CHECKS = {
    "contract": "Every rule of the tables' schemas holds, and every key is there once.",
    "forward_returns_closed": "No IC stands less than its horizon before the report's last session.",
}
_OWN_ROWS = "market = ? AND feature_version = ?"


class FactorRun(dg.Config):
    """The report's window (without dates: all stored features), horizons in sessions, and quantiles."""

    from_date: str | None = None
    to_date: str | None = None
    horizons: list[int] = Field(default=list(HORIZONS))
    quantiles: int = QUANTILES


def factor_assets(grid: Grid, settings: Settings) -> list[dg.AssetsDefinition]:
    """factor_report on the market of `grid`, by feature set."""
    key, everything = grid.key(ASSET), dg.AllPartitionMapping()

    @table_asset(
        grid,
        ASSET,
        factor_summary.TABLE,
        group=GROUP,
        also=FACTOR_TABLES[1:],
        partitions_def=dg.StaticPartitionsDefinition(list(grid.universe.feature_sets)),
        deps=[dg.AssetDep(grid.key(name), partition_mapping=everything) for name in ("features_daily", "ohlcv")],
        kinds={"duckdb", "numba"},
        code_version=code_version("validation"),
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=doc) for name, doc in _CHECKS.items()],
    )
    def factor_report_asset(
        context: dg.AssetExecutionContext, config: FactorRun, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult:
        wrong: dict[str, list[str]] = {name: [] for name in _CHECKS}
        with failing_clearly():
            for version in context.partition_keys:
                metadata = _report(version, config, grid, warehouse, settings, context)
                context.add_asset_metadata(metadata, partition_key=version)
                wrong["contract"] += _contract_broken(version, grid, warehouse)
                wrong["forward_returns_closed"] += _not_closed(version, grid, warehouse)
        return dg.MaterializeResult(check_results=check_results(key, wrong))

    return [factor_report_asset]


def factor_job(grid: Grid) -> UnresolvedAssetJobDefinition:
    """The market's factor reports, a partition per feature set."""
    return dg.define_asset_job(
        grid.name(JOB),
        dg.AssetSelection.assets(grid.key(ASSET)),
        executor_def=dg.in_process_executor,
        owners=OWNERS,
        description=f"What the features of universe {grid.universe.name} have said of forward returns.",
    )


def factor_page_path(settings: Settings, market: str, version: str) -> Path:
    """Where the page of a market's feature set lies."""
    return settings.reports_dir / "factors" / market / f"{version}.html"


def _report(
    version: str,
    config: FactorRun,
    grid: Grid,
    warehouse: Warehouse,
    settings: Settings,
    context: dg.AssetExecutionContext,
) -> dict[str, object]:
    """Measure, store and show one feature set; returns the partition's metadata."""
    symbols, names = list(grid.universe.names), feature_set(version).names
    run_id, progress = context.run.run_id, reporter(context)
    table = features_daily.wide(version, names).name
    first, last = _window(config, table, version, grid, warehouse)
    tag_run(context, first, last)
    sessions = grid.calendar.between(first, last)
    checked_horizons(config.horizons, len(sessions))
    progress(f"factors {version}: {len(names)} on {len(symbols)} symbols, {first}..{last}")
    panel = matrices(adjusted_bars(warehouse, symbols, first, last, calendar=grid.calendar), sessions, symbols)
    columns = ", ".join(f'"{name}"' for name in names)
    with warehouse.read() as reader:
        report = factor_report(
            lambda begin, end: reader.query(
                f"SELECT symbol, ts, {columns} FROM {table} WHERE ts BETWEEN ? AND ? AND symbol IN (SELECT unnest(?))",
                [begin, end, symbols],
            ),
            names,
            panel,
            _listed(panel, grid),
            horizons=config.horizons,
            quantiles=config.quantiles,
            progress=progress,
        )
    _store(report, version, grid, warehouse, run_id)
    about = FactorContext(
        run_id=run_id,
        market=f"{grid.universe.name} {grid.universe.version}",
        version=version,
        code_version=code_version("validation", "features"),
        symbols=len(symbols),
    )
    path = write_factor_page(factor_page_path(settings, grid.universe.name, version), report, about)
    progress(f"factors {version}: report {path}")
    picture = factor_png(report, f"{grid.universe.name} {version}: rank IC of {len(names)} factors")
    return {
        "rank IC": dg.MetadataValue.md(png_markdown(picture, "rank information coefficients")),
        "report": dg.MetadataValue.path(str(path)),
        "period": f"{first}..{last}",
        "factors": len(names),
        **row_count(warehouse, factor_summary.TABLE.name),
        "pairs tested": report.tests,
        "more than chance": report.significant,
        **_headline(report),
    }


def _headline(report: FactorReport) -> dict[str, object]:
    """The strongest factor in figures; none where the window is too short for a t-statistic."""
    found: dict[str, object] = {}
    for row in report.strongest(1).iter_rows(named=True):
        found["strongest factor"] = f"{row['feature_name']}, {row['horizon']} sessions"
        found |= {name: row[name] for name in ("mean_rank_ic", "rank_ic_t", "p_adjusted")}
    return found


def _window(config: FactorRun, table: str, version: str, grid: Grid, warehouse: Warehouse) -> tuple[date, date]:
    """First and last session: those of the stored features, or between the config's dates.

    Raises:
        ConfigError: a date that is none, reversed dates, or no features between them.
    """
    try:
        asked = [date.fromisoformat(text) if text else None for text in (config.from_date, config.to_date)]
    except ValueError as error:
        raise ConfigError(f"{error}; write from_date and to_date as YYYY-MM-DD") from None
    first, last = asked[0] or grid.universe.start, asked[1] or grid.last_session
    if first > last:
        raise ConfigError(f"dates reversed: from {first} is after to {last}; swap them")
    stored: tuple[date | None, date | None] = (None, None)
    if table in warehouse.tables():
        stored = warehouse.query(
            f"SELECT min(ts), max(ts) FROM {table} WHERE ts BETWEEN ? AND ? AND symbol IN (SELECT unnest(?))",
            [first, last, list(grid.universe.names)],
        ).row(0)
    if stored[0] is None or stored[1] is None:
        raise ConfigError(
            f"no features of version {version} are stored from {first} to {last}; "
            "materialise ohlcv and features_daily for these dates first, or choose others"
        )
    return grid.calendar.snap(stored[0], stored[1])


def _listed(panel: Matrices, grid: Grid) -> Mask:
    """(sessions, symbols), whether the symbol is listed on the session."""
    bounds = grid.universe.bounds
    begun = np.array([bounds[symbol][0] for symbol in panel.symbols], "datetime64[D]")
    ended = np.array([bounds[symbol][1] or date.max for symbol in panel.symbols], "datetime64[D]")
    days = panel.days[:, None]
    return (begun <= days) & (days <= ended)


def _store(report: FactorReport, version: str, grid: Grid, warehouse: Warehouse, run_id: str) -> None:
    """Replace the market's rows of the feature set in all tables, in one transaction."""
    now = datetime.now(UTC).replace(tzinfo=None)
    constant = {"market": pl.lit(grid.universe.name), "feature_version": pl.lit(version), "computed_at": pl.lit(now)}
    frames = (report.summary, report.ic, report.quantiles, report.correlations)
    good = {
        table: gate(table, frame.with_columns(**constant)).good
        for table, frame in zip(FACTOR_TABLES, frames, strict=True)
    }
    with warehouse.write() as writer:
        for table, rows in good.items():
            writer.replace(table, rows, _OWN_ROWS, [grid.universe.name, version], run_id=run_id)


def _contract_broken(version: str, grid: Grid, warehouse: Warehouse) -> list[str]:
    """What the stored rows of the feature set break, read again."""
    found = []
    for table in FACTOR_TABLES:
        rows = warehouse.query(f"SELECT * FROM {table.name} WHERE {_OWN_ROWS}", [grid.universe.name, version])
        try:
            gate(table, rows.drop("run_id"))
        except QualityError as error:
            found.append(f"{version}: {error}")
    return found


def _not_closed(version: str, grid: Grid, warehouse: Warehouse) -> list[str]:
    """Horizons whose newest IC could not be known by the report's last session."""
    newest = warehouse.query(
        f"SELECT horizon, max(ts), max(to_ts) FROM factor_ic JOIN factor_summary "
        f"USING (market, feature_version, feature_name, horizon) WHERE {_OWN_ROWS} GROUP BY horizon ORDER BY horizon",
        [grid.universe.name, version],
    )
    return [
        f"{version}: an IC of {day} at horizon {horizon}, after {known}"
        for horizon, day, last in newest.iter_rows()
        if day > (known := grid.calendar.offset(last, -horizon))
    ]
