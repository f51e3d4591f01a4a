"""Page Trading: what an event-driven backtest decided, ordered and filled, event by event.

The modes in which orders would leave the house are present and disabled: nothing here can place one, for there is
nothing here that could.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any

import polars as pl
import streamlit as st

from quant_assets.contracts.trading_events import KINDS
from quant_assets.lab import backtests, event_figures, notices, state, widgets
from quant_assets.lab import event_records as records
from quant_assets.lab.event_records import Run, Wanted

_MODES = {
    "Paper": "simulated fills on live prices",
    "Shadow": "decisions beside a real account, no orders",
    "Live": "orders at a broker",
}
_ASSET = "event_backtest"
_PAGE = 200
"""Events at a time in the table."""
_OFFERED = 500
"""So many of the newest orders can be picked; older ones are reached through the events."""
_ONE = "One order"

_EVENTS = {
    "seq": st.column_config.NumberColumn("No.", format="%d", help="bars and moments of the market take numbers too"),
    "ts": st.column_config.DatetimeColumn("Time", format="YYYY-MM-DD HH:mm:ss", help="of the market, UTC"),
    "kind": st.column_config.TextColumn("Event", width=110),
    "symbol": "Symbol",
    "told": "What",
    "client_order_id": "Order",
    "cause": st.column_config.TextColumn("Caused by", help="market: a bar or a moment, which is not journaled"),
    "correlation": st.column_config.NumberColumn("Chain", format="%d", help="event of the market that began it"),
}
_RULES = {"rule": "Rule", "orders": "Orders refused", "reason": "Last reason"}


def page() -> None:
    """Draw the page."""
    widgets.heading("Trading", "What the event-driven engine decided, ordered and filled, event by event.")
    _replays()
    _modes()


def _modes() -> None:
    """Say what is not part of this release."""
    st.subheader("Trading modes")
    st.caption("Paper, shadow and live trading are not part of this release.")
    for column, (mode, means) in zip(st.columns(3), _MODES.items(), strict=True):
        with column.container(border=True):
            st.subheader(mode)
            st.caption(means)
            st.button("Not available", key=mode, icon=":material/lock:", disabled=True, width="stretch")
    st.info(
        "No order can be placed from the lab: this release has no broker connection and no order entry. "
        "What a strategy would hold stands on the page Targets.",
        icon=":material/info:",
    )
    widgets.link_to("targets", "Targets of the last rebalance")


def _replays() -> None:
    notices.failure("an event-driven backtest", lambda run: any(path.split("/")[-1] == _ASSET for path in run.assets))
    stored, repeatable = records.stored(), backtests.stored()
    if stored.is_empty() and repeatable.is_empty():
        backtests.none_yet()
        return
    replayed = set(stored["strategy_id"])
    ids = sorted({*replayed, *repeatable["strategy_id"]})
    of_strategy, of_run = st.columns([2, 3])
    with of_strategy:
        first = next((at for at, name in enumerate(ids) if name in replayed), 0)
        strategy = widgets.picked("Strategy", ids, "strategy", default=first)
    runs = {row["run_id"]: row for row in stored.filter(strategy_id=strategy).iter_rows(named=True)}
    if not runs:
        widgets.nothing(
            f"{strategy} has no event-driven backtest yet",
            "It repeats a backtest one event at a time, and holds the two against each other:",
            _command(strategy),
        )
        return
    with of_run:
        chosen = widgets.picked(
            "Event-driven backtest", list(runs), "replay", told=lambda run_id: backtests.named(runs[run_id])
        )
    run = Run(runs[chosen])
    own = repeatable.filter(run_id=run.row["backtest_run_id"], strategy_id=strategy)
    _headline(run, own.row(0, named=True) if own.height else None)
    views: dict[str, Callable[[Run], None]] = {
        "Equity": partial(_equity, stored=own.height > 0),
        "Order flow": _flow,
        "Events": _events,
        _ONE: _order,
    }
    for (_, draw), tab in zip(views.items(), st.tabs(list(views), key="events", bind="query-params"), strict=True):
        if tab.open:
            with tab:
                draw(run)


def _command(strategy: str) -> str:
    return f"quant backtest --engine event -s {strategy}"


def _headline(run: Run, repeated: Mapping[str, Any] | None) -> None:
    """What the run was, and whether it is equal to the backtest that it repeats: a row of `backtests.stored`."""
    row = run.row
    with st.container(horizontal=True):
        for name, means in _COUNTED.items():
            st.metric(name.capitalize(), f"{row[name]:,}", border=True, width="content", help=means)
        st.metric("Parity", "equal" if run.equal else "differs", border=True, width="content", help=_PARITY)
        difference = f"{row['worst_difference']:.1e}"
        st.metric("Worst difference", difference, border=True, width="content", help=_DIFFERENCE)
    if not run.equal:
        st.warning(f"It differs from the vectorised backtest: {_differences(row)}.", icon=":material/warning:")
    st.caption(
        f"Version {row['version']}, sessions {row['from_ts']} to {row['to_ts']}, {row['trades']:,} closed trades. "
        f"Journal `{row['journal']}`, SHA-256 {row['digest'][:12]}."
    )
    if repeated is None:
        st.caption(
            f":material/link_off: The backtest of run {row['backtest_run_id'][:8]}, which it repeats, is not stored "
            "(any more)."
        )
        return
    with st.container(horizontal=True):
        widgets.link_to("compare", "The backtest that it repeats", runs=repeated["key"])
        widgets.link_to("trades", "Its trades", strategy=row["strategy_id"], run=row["backtest_run_id"])


def _differences(row: Mapping[str, Any]) -> str:
    """What is not equal, in words; `row`: of `event_backtests`."""
    found = []
    if row["worst_difference"] > records.TOLERANCE:
        found.append(f"its equity ends at {row['final_equity']:,.2f}, not {row['reference_equity']:,.2f}")
    if row["trades_differ"]:
        found.append(f"{row['trades_differ']:,} trade(s) are not the same")
    if row["denials"]:
        found.append(f"{row['denials']:,} order(s) were refused")
    return ", ".join(found)


_COUNTED = {
    "bars": None,
    "events": "that were published, bars and moments of the market included; the others are journaled",
    "orders": None,
    "fills": None,
    "denials": "orders that risk management refused",
}
_PARITY = (
    f"equal: equity within {records.TOLERANCE:g}, relative, after every session, the same trades, and no order refused"
)
_DIFFERENCE = "the largest relative one of the equity after any session, from that of the vectorised backtest"


def _equity(run: Run, *, stored: bool) -> None:
    """The equity of the backtest that was repeated, with this run's fills and states on it."""
    row = run.row
    if not stored:
        widgets.nothing(
            "The equity is not stored (any more)",
            "It stands with the backtest that was repeated, which is gone. A new pair of both:",
            _command(row["strategy_id"]),
        )
        return
    curve = state.query(
        "SELECT ts, equity FROM backtest_equity WHERE run_id = ? AND strategy_id = ? ORDER BY ts",
        [row["backtest_run_id"], row["strategy_id"]],
    )
    changes, fills = records.changes(run), records.fills_of_days(run)
    spans = event_figures.operating_spans(changes, row["from_ts"], row["to_ts"])
    safety = changes.filter(pl.col("kind") == "safety_change").with_columns(pl.col("ts").cast(pl.Date))
    widgets.plot(
        event_figures.equity(curve, fills, spans, safety), f"equity {row['run_id']}",
        alt="equity with fills over the operating states",
    )  # fmt: skip
    if fills.is_empty():
        st.caption("Nothing was filled in this run.")
    elif fills.height > event_figures.DRAWN:
        st.caption(
            f"The newest {event_figures.DRAWN:,} of {fills.height:,} marks are drawn, each all buys or sells of a day."
        )
    lasted = event_figures.shares_of_time(spans)
    times = ", ".join(f"{name.lower()} {share:.0%}" for name, share in lasted.items())
    st.caption(
        f"Operating state, the background: {times} of the time. Safety state: "
        + (f"{safety.height:,} change(s)." if safety.height else "NORMAL throughout.")
    )


def _flow(run: Run) -> None:
    """Orders, fills and denials over time."""
    orders = records.orders_of_months(run)
    if orders.is_empty():
        _no_orders(run)
        return
    widgets.plot(
        event_figures.order_flow(orders, records.fills_of_months(run)), f"flow {run.row['run_id']}",
        alt="orders of each month by what became of them, and fills",
    )  # fmt: skip
    st.caption("Orders by the month they were requested in and what became of them; an order may have several fills.")
    refused = records.denials(run)
    if refused.height:
        st.markdown("**Refused before they left the house**")
        widgets.table(refused, _RULES)


def _no_orders(run: Run) -> None:
    widgets.nothing(
        "This run ordered nothing",
        "No target asked for another position. Who was chosen and who was rejected, by which rule and why, stands on "
        "the page Targets; what was signalled, among the events.",
    )
    widgets.link_to("targets", "Targets of the strategy", strategy=run.row["strategy_id"])


def _events(run: Run) -> None:
    """All events, the newest first, as many as are asked for."""
    counts = records.kinds(run)
    first, second = st.columns(2), st.columns([1, 1, 2])
    first_ts, last_ts = run.row["from_ts"], run.row["to_ts"]
    wanted = Wanted(
        _several(first[0], "Kinds", [kind for kind in KINDS if kind in counts], "kinds"),
        _several(first[1], "Symbols", records.symbols(run), "symbols"),
        _day(second[0], "From", first_ts, (first_ts, last_ts), "since"),
        _day(second[1], "To", last_ts, (first_ts, last_ts), "until"),
        second[2].text_input("Order", key="of", placeholder="its id, or its number", bind="query-params").strip(),
    )
    found, total = records.count(run, wanted), sum(counts.values())
    if not found:
        st.info(f"None of the {total:,} events is so. Leave out some of the filters.", icon=":material/search_off:")
        return
    pages = -(-found // _PAGE)
    key = f"{run.row['run_id']} {wanted}"
    number = st.pagination(pages, key=f"page of {key}") if pages > 1 else 1
    begin = (number - 1) * _PAGE
    shown = records.page(run, wanted, number, _PAGE)
    st.caption(
        f"{begin + 1:,} to {begin + shown.height:,} of {found:,} events"
        + (f" ({total:,} in the run)" if found < total else "")
        + ", the newest first. :material/ads_click: A click on a row of an order shows all of it."
    )
    table_key = f"events {number} of {key}"
    widgets.table(
        records.in_words(shown), _columns(shown), key=table_key, selection_mode="single-row", height=480,
        on_select=partial(_keep_order, table_key, shown["client_order_id"].to_list()),
    )  # fmt: skip


def _columns(events: pl.DataFrame) -> dict[str, Any]:
    """How a table of events is shown: with the time of day where that says anything."""
    daily = (events["ts"] == events["ts"].dt.truncate("1d")).all()
    return _EVENTS | ({"ts": st.column_config.DateColumn("Time", format="YYYY-MM-DD")} if daily else {})


def _several(column: Any, label: str, options: Sequence[str], key: str) -> tuple[str, ...]:
    """Some of `options`, kept in the URL; none stands for all."""
    chosen = column.multiselect(
        label, options, key=key, placeholder="all", bind="query-params", format_func=lambda one: one.replace("_", " ")
    )
    return tuple(chosen)


def _day(column: Any, label: str, default: date, within: tuple[date, date], key: str) -> date | None:
    """A day of the run, kept in the URL."""
    low, high = within
    chosen = column.date_input(
        label, default, low, high, key=key, format="YYYY-MM-DD", bind="query-params"
    )  # fmt: skip
    return chosen if isinstance(chosen, date) else None


def _keep_order(table_key: str, orders: Sequence[str | None]) -> None:
    """Show the order of the row that was selected, where it is of one."""
    rows = st.session_state[table_key]["selection"]["rows"]
    if rows and orders[rows[0]]:
        st.query_params["order"] = orders[rows[0]]
        st.session_state["events"] = _ONE


def _order(run: Run) -> None:
    """All that led to one order, and what became of it."""
    offered = records.requests(run, _OFFERED, st.query_params.get("order", ""))
    if offered.is_empty():
        _no_orders(run)
        return
    named = {row["client_order_id"]: row for row in offered.iter_rows(named=True)}

    def words(order: str) -> str:
        row = named[order]
        return f"{order} · {row['ts']:%Y-%m-%d} · {row['side']} {row['quantity']:,.6g} {row['symbol']}"

    order = widgets.picked("Order", list(named), "order", told=words)
    if run.row["orders"] > offered.height:
        st.caption(
            f"The newest {_OFFERED:,} of {run.row['orders']:,} orders; "
            "a click on a row among the events opens any other."
        )
    chain = records.chain(run, order)
    widgets.table(
        records.in_words(chain).drop("symbol", "client_order_id"), _columns(chain),
        height=min(38 + 35 * chain.height, 420),
    )  # fmt: skip
    request = chain.filter(pl.col("kind") == "order_request").row(0, named=True)
    st.caption(_LED.get(request["state"], _LED["market"]))
    row, decided = run.row, chain.filter(pl.col("kind") == "decision")
    with st.container(horizontal=True):
        if decided.height:
            widgets.link_to(
                "lineage", "Lineage of the target", strategy=row["strategy_id"], symbol=request["symbol"],
                asof=decided["ts"][0].date(),
            )  # fmt: skip
        widgets.link_to(
            "trades", "Trades of the symbol", strategy=row["strategy_id"], run=row["backtest_run_id"],
            symbol=request["symbol"],
        )  # fmt: skip


_LED = {
    "market": "The decision that it carries out, the signal and the target in force; then the order, and what became "
    "of it. A target stands until a decision changes it.",
    "stop": "No decision asked for it: the price reached the level of the stop.",
    "last": "No decision asked for it: the symbol has no bars any more, and its position was closed at the last price.",
}
