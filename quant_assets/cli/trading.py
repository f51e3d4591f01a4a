"""The commands of the event-driven engine: what happened, event by event."""

from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated

import typer

from quant_assets.cli import console
from quant_assets.cli.options import FileFrom, FileTo, StrategyOption, as_date
from quant_assets.cli.session import session
from quant_assets.contracts.trading_events import KINDS
from quant_assets.core.errors import ConfigError


class Engine(StrEnum):
    """What `quant backtest --engine` takes."""

    KERNEL = "kernel"
    VECTORBT = "vectorbt"
    EVENT = "event"
    """The file's, and then event by event."""


Kind = StrEnum("Kind", {kind.upper(): kind for kind in KINDS})  # type: ignore[misc]


def events(
    strategy: StrategyOption,
    run: Annotated[str | None, typer.Option("--run", help="run id, or its first characters; default: newest")] = None,
    kind: Annotated[list[Kind] | None, typer.Option("--kind", help="only these; may be repeated")] = None,
    symbol: Annotated[str | None, typer.Option("--symbol", help="only of this symbol")] = None,
    order: Annotated[str | None, typer.Option("--order", help="an order's id: the whole chain that it is of")] = None,
    first: FileFrom = None,
    last: FileTo = None,
    limit: Annotated[int, typer.Option(help="so many, the last ones", min=1)] = 50,
) -> None:
    """Signals, targets, orders, fills and changes of state of a strategy's event-driven backtest."""
    session.strategy(strategy)
    from quant_assets.backtest.comparison import resolve

    warehouse = session.warehouse
    known = warehouse.query(
        "SELECT run_id FROM event_backtests WHERE strategy_id = ? ORDER BY created_at DESC, run_id", [strategy]
    )["run_id"].to_list()
    if not known:
        raise ConfigError(
            f"{strategy} has no event-driven backtest; run `quant backtest --engine {Engine.EVENT} -s {strategy}` first"
        )
    (run_id,) = resolve([run], known) if run else known[:1]
    chosen = (
        "run_id = $1 AND strategy_id = $2 AND symbol IS NOT DISTINCT FROM coalesce($3, symbol) "
        "AND (len($4::VARCHAR[]) = 0 OR kind IN (SELECT unnest($4::VARCHAR[]))) "
        "AND ts::DATE BETWEEN coalesce($5, ts::DATE) AND coalesce($6, ts::DATE) "
        "AND ($7::VARCHAR IS NULL OR client_order_id = $7 OR seq IN (SELECT causation FROM trading_events "
        "WHERE run_id = $1 AND strategy_id = $2 AND client_order_id = $7))"
    )
    given = [
        run_id,
        strategy,
        symbol.upper() if symbol else None,
        [one.value for one in kind or []],
        as_date(first),
        as_date(last),
        order,
    ]
    (count,) = warehouse.query(f"SELECT count(*) FROM trading_events WHERE {chosen}", given).row(0)
    if not count:
        raise ConfigError(f"run {run_id} has no such event; leave out some of the options to see what it has")
    rows = warehouse.query(
        "SELECT seq, ts, kind, symbol, client_order_id, side, quantity, price, value, state, reason, causation "
        f"FROM trading_events WHERE {chosen} ORDER BY seq DESC LIMIT {limit}",
        given,
    ).reverse()
    console.table(
        f"{strategy}, run {run_id}: {rows.height:,} of {count:,} event(s)",
        ["seq", "time", "event", "symbol", "order", "side", "quantity", "price", "value", "state", "reason", "of"],
        rows.rows(),
    )


def replayed(run_ids: Sequence[str]) -> None:
    """Show the event-driven backtests of some runs beside the vectorised ones."""
    rows = session.warehouse.query(
        "SELECT strategy_id, bars, events, orders, fills, denials, final_equity, reference_equity, worst_difference, "
        "trades_differ FROM event_backtests WHERE run_id IN (SELECT unnest(?)) ORDER BY strategy_id",
        [list(run_ids)],
    )
    if rows.height:
        console.table(
            "event by event",
            [
                "strategy", "bars", "events", "orders", "fills", "denials",
                "final equity", "vectorised", "worst difference", "trades that differ",
            ],
            [
                (*row[:6], f"{row[6]:,.2f}", f"{row[7]:,.2f}", f"{row[8]:.1e}", row[9])
                for row in rows.iter_rows()
            ],
        )  # fmt: skip
