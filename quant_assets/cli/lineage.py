"""The commands of lineage: back from a number to what it was made from, forward from bars to what they touched."""

from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from quant_assets.cli import console
from quant_assets.cli.options import ISO, AsOf, MarketOption, StrategyOption, as_date
from quant_assets.cli.session import MarketView, session
from quant_assets.core.errors import ConfigError

if TYPE_CHECKING:
    from quant_assets.strategy.impact import Impact, Rerun
    from quant_assets.strategy.markets import Market


def trace(
    strategy: StrategyOption,
    symbol: Annotated[str | None, typer.Option("--symbol", help="symbol of a target")] = None,
    asof: AsOf = None,
    run: Annotated[str | None, typer.Option("--run", help="run id of a backtest, or its first characters")] = None,
    trade: Annotated[int | None, typer.Option("--trade", help="number of one of its trades", min=0)] = None,
) -> None:
    """From a target, backtest or trade back to prediction, model, features and bars, with the runs that made them."""
    market, spec = session.strategy(strategy)
    if (symbol is None) == (run is None) or (trade is not None and run is None):
        raise ConfigError("give --symbol for a target, --run for a backtest, or --run and --trade for a trade of it")
    instance = session.launcher.instance
    from quant_assets.backtest.comparison import resolve
    from quant_assets.defs.lineage import with_runs
    from quant_assets.strategy import lineage

    warehouse, grid = session.warehouse, market.grid
    if run is None:
        node = lineage.of_target(warehouse, grid, spec, str(symbol).upper(), as_date(asof))
    else:
        known = warehouse.query(
            "SELECT run_id FROM backtest_summary WHERE strategy_id = ? ORDER BY created_at DESC, run_id", [strategy]
        )
        (run_id,) = resolve([run], known["run_id"].to_list())
        if trade is None:
            node = lineage.of_backtest(warehouse, grid, spec, run_id)
        else:
            node = lineage.of_trade(warehouse, grid, spec, run_id, trade)
    console.tree(with_runs(node, instance))


def impact(
    symbol: Annotated[str, typer.Argument(help="symbol whose bars changed")],
    first: Annotated[datetime | None, typer.Option("--from", **ISO, help="first bar that changed")] = None,
    last: Annotated[datetime | None, typer.Option("--to", **ISO, help="last bar that changed")] = None,
    restated: Annotated[str | None, typer.Option("--restated", help="run id: the bars that it restated")] = None,
    rerun: Annotated[bool, typer.Option("--rerun", help="then run what is out of date, and nothing else")] = False,
    market: MarketOption = None,
) -> None:
    """From bars to all that was made from them; by default those of the symbol restated last, or in quarantine."""
    view = session.market(market)
    (name,) = view.symbols(symbol.strip() or ",")
    from quant_assets.strategy import impact as forward
    from quant_assets.strategy.markets import Market

    chosen = Market(view.grid, view.strategies)
    if first or last:
        low, high = view.period(as_date(first), as_date(last))
    else:
        low, high = _changed(view, chosen, name, restated)
    universes = session.settings.strategies_dir / "universes"
    found = forward.impact(session.warehouse, chosen, universes, name, low, high)
    _show(found)
    if rerun:
        _rerun(view, found)


def _changed(view: MarketView, market: "Market", symbol: str, run_id: str | None) -> tuple[date, date]:
    """The bars that a run restated; without one those of the newest that did, else those the warehouse shows.

    Raises:
        ConfigError: there are none.
    """
    instance = session.launcher.instance
    from quant_assets.defs.lineage import newest_restatement
    from quant_assets.strategy.impact import suspects

    if span := newest_restatement(instance, view.grid, symbol, run_id):
        return span
    if run_id is not None:
        raise ConfigError(f"run {run_id} restated no bars of {symbol}; give --from and --to for others")
    for one in suspects(session.warehouse, market):
        if one.symbol == symbol:
            console.say(f"{symbol}: {one.why}")
            return one.first, one.last
    raise ConfigError(f"no bars of {symbol} were restated or are in quarantine; give --from and --to for others")


def _show(found: "Impact") -> None:
    held = f", {found.quarantined} in quarantine" if found.quarantined else ""
    console.table(
        f"bars of {found.symbol} from {found.first} to {found.last}{held}, and what they touched",
        ["asset", "of", "rows", "from", "to", "runs"],
        [
            (one.asset, one.what, one.rows, one.first, one.last, _few([run[:8] for run in one.run_ids]))
            for one in found.touched
        ],
    )
    console.table(
        "the runs that redo it; --rerun starts them",
        ["run", "assets", "from", "to", "backtest"],
        [
            (f"{one.stage} {one.key}", ", ".join(one.assets), one.first, one.last, _span(one.period))
            for one in found.orders
        ],
    )


def _rerun(view: MarketView, found: "Impact") -> None:
    """The orders one after the other, up to one that fails.

    Raises:
        RunFailedError: its words.
    """
    runs = []
    for order in found.orders:
        runs.append(view.launcher.run(order.assets, order.first, order.last, [order.key], config=_config(view, order)))
        if not runs[-1].succeeded or runs[-1].blocked:
            break
    tables = {"validation": "validation_results"}
    made = dict.fromkeys(tables.get(asset, asset) for order in found.orders for asset in order.assets)
    session.finish(runs, [*(name for name in made if name != "features_daily"), "quarantine"])


def _config(view: MarketView, order: "Rerun") -> dict[str, Any]:
    """Run config: the backtest of the file's period, and a new verdict on it."""
    given: dict[str, Any] = {"validation": {"carry": False}}
    if order.period:
        low, high = order.period
        given["backtest_summary"] = {"from_date": f"{low}", "to_date": f"{high}"}
    return {"ops": {view.grid.op(asset): {"config": given[asset]} for asset in order.assets if asset in given}}


def _span(dates: tuple[date, date] | None) -> str:
    return f"{dates[0]} .. {dates[1]}" if dates else "-"


def _few(texts: list[str], most: int = 3) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
