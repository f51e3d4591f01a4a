"""Event-driven backtests as the page Trading reads them: which there are, their events, and what led to an order.

Whatever counts or picks events does so in the warehouse: a run on minutes has hundreds of thousands.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from quant_assets.core.page import NONE
from quant_assets.lab import state
from quant_assets.strategy.event_driven import TOLERANCE

MARKET = "market"
"""What is told to be the cause where that is a bar or a moment of the market: these are not journaled."""

_OF_RUN = "run_id = $1 AND strategy_id = $2"
_WITH_CAUSE = f"""
SELECT e.*, CASE WHEN e.causation > 0 THEN coalesce(c.kind, '{MARKET}') END AS cause
FROM chosen e LEFT JOIN trading_events c
    ON c.run_id = e.run_id AND c.strategy_id = e.strategy_id AND c.seq = e.causation
"""
_FILLS_OF_DAYS = f"""
SELECT ts::DATE AS ts, side, count(*) AS fills, sum(quantity * price) AS value,
    list(DISTINCT symbol ORDER BY symbol) AS symbols
FROM trading_events WHERE {_OF_RUN} AND kind = 'fill' GROUP BY ALL ORDER BY ALL
"""
_ORDERS_OF_MONTHS = f"""
WITH last_states AS (
    SELECT client_order_id, arg_max(state, seq) AS state FROM trading_events
    WHERE {_OF_RUN} AND kind = 'order_state' GROUP BY client_order_id
)
SELECT date_trunc('month', r.ts)::DATE AS month, coalesce(s.state, 'requested') AS became, count(*) AS orders
FROM trading_events r LEFT JOIN last_states s USING (client_order_id)
WHERE {_OF_RUN} AND kind = 'order_request' GROUP BY ALL ORDER BY ALL
"""
_FILLS_OF_MONTHS = f"""
SELECT date_trunc('month', ts)::DATE AS month, count(*) AS fills
FROM trading_events WHERE {_OF_RUN} AND kind = 'fill' GROUP BY ALL ORDER BY ALL
"""
_CHAIN = f"""
WITH events AS (SELECT * FROM trading_events WHERE {_OF_RUN}),
own AS (SELECT * FROM events WHERE client_order_id = $3),
request AS (SELECT * FROM own WHERE kind = 'order_request' ORDER BY seq LIMIT 1),
rebalance AS (SELECT * FROM request WHERE state NOT IN ('stop', 'last')),
decision AS (
    SELECT e.* FROM events e, rebalance r
    WHERE e.kind = 'decision' AND (e.seq = r.causation OR e.correlation < r.correlation)
    ORDER BY e.seq DESC LIMIT 1
),
target AS (
    SELECT e.* FROM events e, rebalance r
    WHERE e.kind = 'target' AND e.symbol = r.symbol
        AND (e.causation = r.causation OR e.correlation < r.correlation) AND e.seq < r.seq
    ORDER BY e.seq DESC LIMIT 1
),
signal AS (
    SELECT e.* FROM events e, rebalance r
    WHERE e.kind = 'signal' AND e.symbol = r.symbol
        AND (e.seq = r.causation OR e.correlation = (SELECT correlation FROM decision))
),
ended AS (
    SELECT e.* FROM events e, request r
    WHERE r.state = 'last' AND e.kind = 'ended' AND e.symbol = r.symbol AND e.seq < r.seq
    ORDER BY e.seq DESC LIMIT 1
),
chosen AS (
    FROM own UNION ALL FROM decision UNION ALL FROM target UNION ALL FROM signal UNION ALL FROM ended
)
{_WITH_CAUSE} ORDER BY e.seq
"""


@dataclass(frozen=True)
class Run:
    """An event-driven backtest: a row of `event_backtests`."""

    row: Mapping[str, Any]

    @property
    def key(self) -> list[str]:
        """Run and strategy, the first two parameters of a query on its events."""
        return [self.row["run_id"], self.row["strategy_id"]]

    @property
    def equal(self) -> bool:
        """Whether it traded and ended as the backtest that it repeats."""
        row = self.row
        return row["worst_difference"] <= TOLERANCE and row["trades_differ"] == 0 and row["denials"] == 0


@dataclass(frozen=True)
class Wanted:
    """Which events of a run are looked for; what is empty or None leaves none out."""

    kinds: Sequence[str] = ()
    symbols: Sequence[str] = ()
    first: date | None = None
    last: date | None = None
    order: str = ""
    """An order's id, or what follows the last dash in it."""


def stored() -> pl.DataFrame:
    """`event_backtests`, the newest first; no rows where nothing is published, or not since there is this table."""
    known = "SELECT table_name FROM duckdb_tables() WHERE table_name = 'event_backtests'"
    if state.snapshot() is None or state.query(known).is_empty():
        return pl.DataFrame(schema={"strategy_id": pl.String})
    return state.query("SELECT * FROM event_backtests ORDER BY created_at DESC, run_id, strategy_id")


def kinds(run: Run) -> dict[str, int]:
    """Kind of event -> how many the run has, the most frequent first."""
    sql = f"SELECT kind, count(*) AS n FROM trading_events WHERE {_OF_RUN} GROUP BY kind ORDER BY n DESC, kind"
    return dict(state.query(sql, run.key).iter_rows())


def symbols(run: Run) -> list[str]:
    """The symbols that its events are about, sorted."""
    sql = f"SELECT DISTINCT symbol FROM trading_events WHERE {_OF_RUN} AND symbol IS NOT NULL ORDER BY symbol"
    return state.query(sql, run.key)["symbol"].to_list()


def changes(run: Run) -> pl.DataFrame:
    """ts, kind, state and reason of each change of the safety and the operating state, in their order."""
    sql = (
        f"SELECT ts, kind, state, reason FROM trading_events WHERE {_OF_RUN} "
        "AND kind IN ('operating_change', 'safety_change') ORDER BY seq"
    )
    return state.query(sql, run.key)


def fills_of_days(run: Run) -> pl.DataFrame:
    """A row per day and side with fills: ts (the day), side, fills, value (money, before fees) and symbols (a list)."""
    return state.query(_FILLS_OF_DAYS, run.key)


def orders_of_months(run: Run) -> pl.DataFrame:
    """month (its first day), became (the last state of the orders that it began) and orders."""
    return state.query(_ORDERS_OF_MONTHS, run.key)


def fills_of_months(run: Run) -> pl.DataFrame:
    """month (its first day) and fills."""
    return state.query(_FILLS_OF_MONTHS, run.key)


def denials(run: Run) -> pl.DataFrame:
    """rule, orders that it refused, and the reason of the last of them; the rule that refused most comes first."""
    sql = (
        "SELECT state AS rule, count(*) AS orders, arg_max(reason, seq) AS reason FROM trading_events "
        f"WHERE {_OF_RUN} AND kind = 'risk_denial' GROUP BY state ORDER BY orders DESC, rule"
    )
    return state.query(sql, run.key)


def requests(run: Run, most: int, asked: str = "") -> pl.DataFrame:
    """The `most` newest orders and the one that is `asked` for: client_order_id, ts, side, quantity, symbol."""
    sql = (
        f"SELECT client_order_id, ts, side, quantity, symbol FROM trading_events WHERE {_OF_RUN} "
        f"AND kind = 'order_request' QUALIFY row_number() OVER (ORDER BY seq DESC) <= {most} OR client_order_id = $3 "
        "ORDER BY seq DESC"
    )
    return state.query(sql, [*run.key, asked])


def _chosen(wanted: Wanted) -> tuple[str, list[Any]]:
    """Condition and parameters of a query on `wanted` events, after the two of the run."""
    condition = (
        f"{_OF_RUN} AND (len($3::VARCHAR[]) = 0 OR kind IN (SELECT unnest($3::VARCHAR[]))) "
        "AND (len($4::VARCHAR[]) = 0 OR symbol IN (SELECT unnest($4::VARCHAR[]))) "
        "AND ts::DATE BETWEEN coalesce($5, ts::DATE) AND coalesce($6, ts::DATE) "
        "AND ($7 = '' OR client_order_id = $7 OR ends_with(client_order_id, '-' || $7))"
    )
    return condition, [tuple(wanted.kinds), tuple(wanted.symbols), wanted.first, wanted.last, wanted.order]


def count(run: Run, wanted: Wanted) -> int:
    """How many events of the run are `wanted`."""
    condition, given = _chosen(wanted)
    return int(state.query(f"SELECT count(*) AS n FROM trading_events WHERE {condition}", [*run.key, *given]).item())


def page(run: Run, wanted: Wanted, number: int, size: int) -> pl.DataFrame:
    """`size` of the `wanted` events of the run, the newest first, from page `number` (1 the first).

    Returns:
        `trading_events` with `cause`: kind of the event `causation`, `MARKET` where that is not journaled.
    """
    condition, given = _chosen(wanted)
    newest = (
        f"SELECT * FROM trading_events WHERE {condition} ORDER BY seq DESC LIMIT {size} OFFSET {(number - 1) * size}"
    )
    return state.query(f"WITH chosen AS ({newest}) {_WITH_CAUSE} ORDER BY e.seq DESC", [*run.key, *given])


def chain(run: Run, order: str) -> pl.DataFrame:
    """What led to an order and what became of it, as `page` but by seq; empty: no such order.

    Before the request stand the decision that it carries out, the symbol's signal in it, and the symbol's target in
    force, which an earlier decision may have set. A stop has none of these; what closes a position whose symbol has
    ended has that end.
    """
    return state.query(_CHAIN, [*run.key, order])


def told(event: Mapping[str, Any]) -> str:
    """What an event says, in words; `event`: row of `page`."""
    shares, price = f"{_number(event['quantity'])} shares", _number(event["price"])
    value, became, reason = event["value"], event["state"], event["reason"]
    match event["kind"]:
        case "ended":
            return "has no bars any more"
        case "decision":
            return "all signals of this time are out"
        case "signal":
            return f"score {_number(value)}"
        case "target":
            return f"{_number(value, '.2%')} of the equity" if became == "weight" else f"{_number(value)} {became}"
        case "order_request":
            return f"{event['side']} {shares}, {became} at {price}: {reason}"
        case "fill":
            return f"{event['side']} {shares} at {price}, fees {_number(value, ',.2f')}: {reason}"
        case "order_state":
            became = became.replace("_", " ") + (f", {shares} so far" if event["quantity"] else "")
        case "cash_movement":
            became = _number(value, "+,.2f")
        case "degradation":
            became = f"{became} at load {_number(value, '.2f')}"
    return ": ".join(one for one in (became, reason) if one)


def _number(value: float | None, shown: str = ",.6g") -> str:
    return NONE if value is None else format(value, shown)


def in_words(events: pl.DataFrame) -> pl.DataFrame:
    """Rows of `page` as one reads them: seq, ts, kind, symbol, told, client_order_id, cause, correlation."""
    plain = pl.col("kind", "cause").str.replace_all("_", " ")
    return (
        events.with_columns(plain, told=pl.Series(map(told, events.iter_rows(named=True)), dtype=pl.String))
        .with_columns(cause=pl.format("{} {}", "cause", "causation"))
        .select("seq", "ts", "kind", pl.col("symbol", "told", "client_order_id", "cause").fill_null(""), "correlation")
    )
