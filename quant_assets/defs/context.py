"""What every asset body starts from: its slice, run, instant and progress reporter, and the gate before storing."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime

import dagster as dg
import polars as pl

from quant_assets.contracts import Table, quarantine
from quant_assets.contracts.gate import gate
from quant_assets.core.slices import Slice
from quant_assets.defs.failures import failing_clearly
from quant_assets.defs.grid import Grid
from quant_assets.defs.progress import Report, reporter
from quant_assets.strategy.markets import PERIOD_TAG, STRATEGY_TAG
from quant_assets.warehouse import Writer


@dataclass(frozen=True)
class Piece:
    """One asset's work in one run."""

    slice: Slice
    run_id: str
    now: datetime
    report: Report
    grid: Grid

    @property
    def last_cells(self) -> list[str]:
        """The partition key of the slice's last date for each of its keys: where a range's metadata is shown."""
        last = self.grid.date_key(self.slice.last)
        return [f"{last}|{key}" for key in self.slice.keys]


@contextmanager
def piece_of(context: dg.AssetExecutionContext, grid: Grid) -> Iterator[Piece]:
    """The work of `context`, with our errors turned into Dagster's for the length of the block."""
    work = grid.slice_of(context.partition_key_range)
    tag_run(context, work.first, work.last, [key for key in work.keys if key in grid.strategies])
    now = datetime.now(UTC).replace(tzinfo=None)
    with failing_clearly():
        report = reporter(context)
        report(f"{context.asset_key.to_user_string()}: {work}")
        yield Piece(work, context.run.run_id, now, report, grid)


def tag_run(context: dg.AssetExecutionContext, first: date, last: date, strategies: Sequence[str] = ()) -> None:
    """Say in the run's tags of which sessions it is, and of which strategy if it is of one, whoever launched it.

    A tag that it has stays: that of a strategy's job decides which partitions the job refuses.
    """
    tags = {PERIOD_TAG: f"{first}..{last}", **({STRATEGY_TAG: strategies[0]} if len(strategies) == 1 else {})}
    if lacking := {name: value for name, value in tags.items() if name not in context.run.tags}:
        context.instance.add_run_tags(context.run.run_id, lacking)


@dataclass(frozen=True)
class Passed:
    """What the gate let through, and what it did not."""

    good: pl.DataFrame
    bad: pl.DataFrame
    rejected: dict[str, str]

    def quarantine(self, writer: Writer, piece: Piece) -> None:
        """Store the bad rows; one seen before keeps the instant it was first seen."""
        if self.bad.is_empty():
            return
        known = writer.query("SELECT id FROM quarantine")["id"]
        fresh = self.bad.unique("id").filter(~pl.col("id").is_in(known.implode()))
        writer.append(quarantine.TABLE, fresh.with_columns(seen_at=pl.lit(piece.now)), run_id=piece.run_id)


def pass_gate(table: Table, frame: pl.DataFrame, piece: Piece) -> Passed:
    """Put `frame` through the table's gate and say how many rows stayed behind."""
    gated = gate(table, frame)
    if not gated.bad.is_empty():
        piece.report(f"{table.name}: {gated.bad.height} bad row(s) to quarantine, e.g. {gated.bad['rule'][0]}")
    return Passed(gated.good, gated.bad, gated.rejected)


def attach(context: dg.AssetExecutionContext, cells: Sequence[str], metadata: dict[str, object]) -> None:
    """Metadata for some cells of a range only: Dagster copies a result's own metadata to every one of them."""
    first, last = context.partition_key_range
    if (cells[0], cells[-1]) == (first, last) and first.split("|")[0] == last.split("|")[0]:
        context.add_asset_metadata(metadata)  # they are the whole range
        return
    for cell in cells:
        context.add_asset_metadata(metadata, partition_key=cell)
