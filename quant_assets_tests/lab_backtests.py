"""Stored backtests for tests of pages: rows written straight into a platform's warehouse, and published."""

import json
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

import polars as pl

from quant_assets.contracts import (
    backtest_equity,
    backtest_measures,
    backtest_summary,
    backtest_symbols,
    backtest_trades,
    trials,
    validation_results,
)
from quant_assets.contracts.schema import Column, Table
from quant_assets_tests.platform import Platform

FIRST, LAST = date(2023, 3, 1), date(2023, 8, 31)
"""The period in the files of `platform.strategy`."""
SESSIONS = [day for day in pl.date_range(FIRST, LAST, eager=True).to_list() if day.weekday() < 5]
MADE = datetime(2024, 1, 2, 8)


def whole(table: Table, rows: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """`rows` with a plain value, or null where that may be, in each column of `table` that they do not say."""
    filled = [{one.name: row.get(one.name, _plain(one)) for one in table.columns} for row in rows]
    return pl.DataFrame(filled, schema=table.empty().schema)


def _plain(column: Column) -> Any:
    if column.nullable:
        return None
    if column.among:
        return column.among[0]
    plain = {"VARCHAR": "plain", "DATE": FIRST, "TIMESTAMP": MADE, "BOOLEAN": True, "BIGINT": 0, "DOUBLE": 0.0}
    return plain.get(column.type, []) if column.above is None else column.above + 1.0


def trade(number: int, entry: int, exit: int | None, **changes: Any) -> dict[str, Any]:
    """A row of `backtest_trades`: of AAA, from session `entry` of `SESSIONS` to `exit`, bought at 100, sold at 110."""
    return {
        "trade_no": number,
        "symbol": "AAA",
        "side": "long",
        "entry_ts": SESSIONS[entry],
        "entry_price": 100.0,
        "qty": 10.0,
        "exit_ts": None if exit is None else SESSIONS[exit],
        "exit_price": 110.0,
        "pnl": 100.0,
        "pnl_pct": 0.1,
        "reason": "open" if exit is None else "rebalance",
        **changes,
    }


def store(
    platform: Platform,
    run_id: str,
    equity: Sequence[float],
    strategy: str = "ranks",
    *,
    trades: Sequence[Mapping[str, Any]] = (),
    symbols: Mapping[str, float] | None = None,
    params: Mapping[str, Any] | None = None,
    verdict: str | None = None,
    first: date = FIRST,
    minute: int = 0,
    **summary: Any,
) -> None:
    """One backtest as a run of its own would have left it, and a published copy.

    Args:
        equity: after each session from `first` on.
        symbols: symbol -> contribution.
        params: configuration of its trial; none: it has no trial.
        minute: after `MADE`, to order backtests by.
        summary: columns of `backtest_summary`.
    """
    days = [day for day in SESSIONS if day >= first][: len(equity)]
    own = {"strategy_id": strategy, "version": "1.0.0", "from_ts": days[0], "to_ts": days[-1]}
    own |= {"created_at": MADE + timedelta(minutes=minute), "backtest_run_id": run_id}
    if params is not None:
        own["trial_id"] = f"trial of {run_id}"
    highest = pl.Series(equity).cum_max().to_list()
    curve = [
        {"ts": day, "equity": value, "drawdown": value / most - 1.0, "rolling_sharpe": 1.0}
        for day, value, most in zip(days, equity, highest, strict=True)
    ]
    costs = {"fee_bps": 2.0, "slippage_bps": 10.0, "initial_cash": 100_000.0}
    rows: dict[Table, Sequence[Mapping[str, Any]]] = {
        backtest_summary.TABLE: [{**costs, **summary}],
        backtest_equity.TABLE: curve,
        backtest_trades.TABLE: trades,
        backtest_measures.TABLE: [{"measure": "fees", "value": 0.01}],
        backtest_symbols.TABLE: [{"symbol": name, "contribution": value} for name, value in (symbols or {}).items()],
        trials.TABLE: [] if params is None else [{"params": json.dumps(params), "configuration": f"of {run_id}"}],
        validation_results.TABLE: [{"method": "verdict", "measure": "overall", "verdict": verdict}] if verdict else [],
    }
    with platform.warehouse.write() as writer:
        for table, some in rows.items():
            writer.append(table, whole(table, [{**own, **row} for row in some]), run_id=run_id)
    platform.warehouse.publish()
