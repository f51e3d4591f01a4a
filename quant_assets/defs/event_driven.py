"""The event-driven backtest: the strategy as a trading system, replayed, beside its vectorised backtest.

By date and strategy, after backtest_summary. Its check `parity` stops whatever comes after it.
"""

from collections.abc import Mapping
from time import perf_counter
from typing import TYPE_CHECKING, Any

import dagster as dg
import polars as pl

from quant_assets.backtest import metrics
from quant_assets.backtest.pictures import equity_png, png_markdown
from quant_assets.contracts import event_backtests, trading_events
from quant_assets.core.settings import Settings
from quant_assets.defs.automation import when_inputs_are_in
from quant_assets.defs.catalog import row_count, table_asset
from quant_assets.defs.checks import check_results
from quant_assets.defs.context import Piece, attach, pass_gate, piece_of
from quant_assets.defs.decision import GROUP, Strategies, refuse_other_strategies
from quant_assets.defs.grid import Grid
from quant_assets.defs.market import code_version
from quant_assets.defs.sources import signal_bars, signal_source
from quant_assets.defs.stored_backtests import StoredBacktest, stored_backtest
from quant_assets.strategy.compose import rebalance_dates
from quant_assets.strategy.gate import FLAG
from quant_assets.strategy.spec import StrategySpec
from quant_assets.warehouse import Warehouse

if TYPE_CHECKING:
    from quant_assets.strategy.event_driven import EventBacktest, Material, Parity

ASSET = "event_backtest"
PARITY = "parity"

EVENT_TABLES = (event_backtests.TABLE, trading_events.TABLE)

_CODE = ("trading", "strategy", "portfolio", "signals")


class EventRun(dg.Config):
    """What to replay in one run."""

    backtest_run: str | None = None
    """Run id of the backtest to repeat; none: this run's, or the newest of the partition's strategy and version."""


def event_assets(grid: Grid, strategies: Strategies, settings: Settings) -> list[dg.AssetsDefinition]:
    """event_backtest on `grid`; nothing without strategies, which are its partitions."""
    if not strategies:
        return []
    key = grid.key(ASSET)

    @table_asset(
        grid,
        ASSET,
        event_backtests.TABLE,
        group=GROUP,
        also=EVENT_TABLES[1:],
        partitions_def=grid.decision,
        deps=[grid.key("backtest_summary")],
        kinds={"duckdb", "python"},
        automation_condition=when_inputs_are_in(),
        code_version=code_version(*_CODE),
        check_specs=[
            dg.AssetCheckSpec(
                PARITY,
                asset=key,
                blocking=True,
                description="One event at a time, the strategy trades and ends as in its vectorised backtest.",
            )
        ],
    )
    def event_backtest_asset(
        context: dg.AssetExecutionContext, config: EventRun, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult:
        differs: list[str] = []
        with piece_of(context, grid) as piece:
            refuse_other_strategies(context, piece)
            for strategy_id, cell in zip(piece.slice.keys, piece.last_cells, strict=True):
                found = stored_backtest(strategies[strategy_id], config.backtest_run, warehouse, piece, settings)
                if found is None:
                    why = f"{strategy_id}: nothing to replay, it has no backtest by {piece.slice.last}"
                    piece.report(why)
                    attach(context, [cell], {"rows": 0, "why": why})
                    continue
                metadata, lines = _replay(found, strategies[strategy_id], warehouse, piece, settings)
                held = row_count(warehouse, event_backtests.TABLE.name)
                attach(context, [cell], metadata | held)
                differs += [f"{strategy_id}: {line}" for line in lines]
        return dg.MaterializeResult(check_results=check_results(key, {PARITY: differs}))

    return [event_backtest_asset]


def _replay(
    stored: StoredBacktest, file: StrategySpec, warehouse: Warehouse, piece: Piece, settings: Settings
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Replay one backtest and store what happened. Returns the partition's metadata, and what differs."""
    from quant_assets.strategy.event_driven import journal_header, parity, replay
    from quant_assets.trading.journal import Journal, frame, read

    spec, row = stored.spec, stored.row
    first, last = stored.window
    piece.report(f"{spec.strategy_id}: replaying the backtest of run {row['run_id']}, {first}..{last}")
    material = _material(stored, file, warehouse, piece)
    path = settings.journal(spec.strategy_id, piece.run_id)
    header = journal_header(spec, material, row["run_id"], code_version(*_CODE))
    began = perf_counter()
    # a step that is retried meets what it had recorded, and goes on from there
    with Journal.opened(path, header, durable=False) as journal:
        done = replay(spec, material, journal, piece.report)
        digest = journal.digest()
    seconds = perf_counter() - began
    compared = parity(
        done,
        stored.table(warehouse, "backtest_equity"),
        stored.table(warehouse, "backtest_trades"),
        row["initial_cash"],
    )
    events = frame(read(path)[1], spec.strategy_id)
    summary = _summary(done, compared, stored, piece) | {
        "journal": path.relative_to(settings.home).as_posix(),
        "digest": digest,
    }
    _store(summary, events, spec.strategy_id, warehouse, piece)
    verdict = "; ".join(compared.lines) or "equal to the vectorised backtest"
    piece.report(
        f"{spec.strategy_id}: {done.bars:,} bars, {done.events:,} events, {done.fills:,} fills in {seconds:.1f} s; "
        + verdict
    )
    return _shown(done, compared, events, stored, material, summary, seconds), compared.lines


def _material(stored: StoredBacktest, file: StrategySpec, warehouse: Warehouse, piece: Piece) -> "Material":
    """What the backtest was made from: bars, scores, and the targets that stood when it began."""
    from quant_assets.strategy.event_driven import Material

    spec, grid, bounds = stored.spec, piece.grid, stored.bounds
    first, last = stored.window
    calendar = grid.calendar
    standing = warehouse.query(
        'SELECT "asof", symbol, weight, approved, risk_flags FROM targets WHERE strategy_id = $1 AND version = $2 '
        'AND "asof" <= $4 AND "asof" >= coalesce('
        '(SELECT max("asof") FROM targets WHERE strategy_id = $1 AND version = $2 AND "asof" < $3), $3)',
        [spec.strategy_id, spec.version, first, last],
    )
    # such backtests decide anew, from cash
    anew = spec.universe != file.universe or standing["risk_flags"].list.contains(FLAG).any()
    before = standing.filter(pl.col("asof") < first, "approved")
    previous = {} if anew else dict(before.select("symbol", "weight").iter_rows())
    # the vectorised backtest reads what was decided on its first session, else what stood then
    initial = {} if (standing["asof"] == first).any() else previous
    symbols = sorted({*bounds, *previous})
    bars = signal_bars(spec, warehouse, symbols, first, last, grid)
    sessions = calendar.between(first, last)
    decided_on = rebalance_dates(spec.rebalance.frequency, sessions, calendar.sessions)
    source = signal_source(spec, warehouse, list(bounds), decided_on)
    return Material(
        bars, source, sessions, calendar.sessions, bounds, calendar.sessions_per_year, previous, initial
    )  # fmt: skip


def _summary(done: "EventBacktest", compared: "Parity", stored: StoredBacktest, piece: Piece) -> dict[str, Any]:
    first, last = stored.window
    return {
        "strategy_id": stored.spec.strategy_id,
        "version": stored.row["version"],
        "backtest_run_id": stored.row["run_id"],
        "from_ts": first,
        "to_ts": last,
        "bars": done.bars,
        "events": done.events,
        "orders": done.orders,
        "fills": done.fills,
        "denials": sum(done.denials.values()),
        "trades": done.trades["exit_ts"].count(),
        "final_equity": compared.final_equity,
        "reference_equity": compared.reference_equity,
        "difference": abs(compared.difference),
        "worst_difference": compared.worst_difference,
        "trades_differ": compared.trades_differ,
        "created_at": piece.now,
    }


def _store(
    summary: Mapping[str, Any], events: pl.DataFrame, strategy_id: str, warehouse: Warehouse, piece: Piece
) -> None:
    """Both tables in one transaction; a rerun of the run's step replaces its own rows."""
    table = event_backtests.TABLE
    row = pl.DataFrame([summary]).select(pl.col(column.name).cast(column.polars) for column in table.columns)
    passed = [
        (table, pass_gate(table, row, piece)),
        (trading_events.TABLE, pass_gate(trading_events.TABLE, events, piece)),
    ]
    with warehouse.write() as writer:
        for target, rows in passed:
            rows.quarantine(writer, piece)
            writer.replace(
                target, rows.good, "run_id = ? AND strategy_id = ?", [piece.run_id, strategy_id], run_id=piece.run_id
            )


def _shown(
    done: "EventBacktest",
    compared: "Parity",
    events: pl.DataFrame,
    stored: StoredBacktest,
    material: "Material",
    summary: Mapping[str, Any],
    seconds: float,
) -> dict[str, Any]:
    spec, cash = stored.spec, stored.row["initial_cash"]
    curve = pl.DataFrame(
        {"ts": list(material.sessions), "equity": done.equity, "drawdown": metrics.drawdowns(done.equity, cash)}
    )
    kinds = events.group_by("kind").len().sort("len", descending=True)
    table = "| event | number |\n|---|---|\n" + "\n".join(
        f"| {kind} | {count:,} |" for kind, count in kinds.iter_rows()
    )
    names = ("bars", "events", "orders", "fills", "denials", "trades", "final_equity", "reference_equity")
    return {
        "equity curve": dg.MetadataValue.md(png_markdown(equity_png(curve, f"{spec.strategy_id}, event by event"))),
        "kinds of events": dg.MetadataValue.md(table),
        "journal": dg.MetadataValue.text(summary["journal"]),
        "compared with the backtest of": stored.row["run_id"],
        "worst difference": compared.worst_difference,
        "trades that differ": compared.trades_differ,
        "bars per second": round(done.bars / seconds),
        **{name: summary[name] for name in names},
    }
