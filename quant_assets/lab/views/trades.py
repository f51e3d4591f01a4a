"""Page Trades: where a backtest bought and sold a symbol, the signal behind it, and what came of it."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date
from functools import partial
from typing import Any

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from quant_assets.lab import backtests, state, trade_charts, widgets
from quant_assets.lab.trade_records import (
    as_texts,
    by_symbol,
    headline,
    stop_levels,
    with_extremes,
    with_signals,
)
from quant_assets.market_data.adjustment import adjust
from quant_assets.market_data.provider import sources_giving_actions

_WHOLE = "whole period"

_TABLE = {
    "trade_no": st.column_config.NumberColumn("No.", width="small", help="in order of entry, of all symbols"),
    "side": "Side",
    "entry_ts": st.column_config.DateColumn("Entry", format="YYYY-MM-DD"),
    "exit_ts": st.column_config.DateColumn("Exit", format="YYYY-MM-DD"),
    "days": st.column_config.NumberColumn("Days", help="from entry to exit, weekends included"),
    "entry_price": st.column_config.NumberColumn("Entry price", format="%.2f", help="average price of the position"),
    "exit_price": st.column_config.NumberColumn("Exit price", format="%.2f"),
    "pnl": st.column_config.NumberColumn("Profit", format="%,.0f"),
    "pnl_pct": st.column_config.NumberColumn("Return", format="percent"),
    "worst": st.column_config.NumberColumn("Worst", format="percent", help="lowest return at a close until the exit"),
    "best": st.column_config.NumberColumn("Best", format="percent", help="highest return at a close until the exit"),
    "reason": "Ended by",
    "entry_asof": st.column_config.DateColumn("Signal of", format="YYYY-MM-DD"),
    "entry_score": st.column_config.NumberColumn("Score", format="%.4f"),
    "entry_reason": st.column_config.TextColumn("Signal said"),
}
_SYMBOLS = {
    "symbol": "Symbol",
    "trades": "Closed trades",
    "open": "Still open",
    "winners": st.column_config.NumberColumn("Winners", format="percent"),
    "mean": st.column_config.NumberColumn("Mean return", format="percent"),
    "profit": st.column_config.NumberColumn("Profit", format="%,.0f"),
    "stops": "Ended by a stop",
}
_SLATE = {
    "symbol": "Symbol",
    "score": st.column_config.NumberColumn("Score", format="%.4f"),
    "weight": st.column_config.NumberColumn("Weight", format="percent"),
    "approved": "Held",
    "reason": "Reason",
}


_PICTURES: dict[str, tuple[Callable[[pl.DataFrame], go.Figure], str]] = {
    "Returns": (trade_charts.returns, "How many trades returned how much, by how they ended."),
    "Profit over time": (
        trade_charts.profit,
        "What the exits of a day earned, and their sum; less what is still open.",
    ),
    "Days held": (partial(trade_charts.against, column="days", title="days held"), "Return against days held."),
    "Excursions": (
        partial(trade_charts.against, column="worst", title="worst close", shown=".0%"),
        "Return against the worst close on the way, the maximum adverse excursion.",
    ),
}


def signal_words(configured: Mapping[str, Any]) -> str:
    """What the score of a signal is, from the configuration of a backtest; empty where that is unknown.

    Example:
        >>> signal_words({"signal": {"type": "tsmom", "inputs": {"lookback": 126}}})
        'tsmom, lookback 126'
    """
    said = configured.get("signal")
    if not said:
        return ""
    inputs = said.get("inputs") or said.get("model") or {}
    shown = (f"{name} {value}" for name, value in inputs.items() if isinstance(value, str | int | float))
    return ", ".join((said["type"], *shown))


def periods(bars: pl.DataFrame) -> list[str]:
    """What can be looked at: the whole period, and each year of it, the last one first."""
    return [_WHOLE, *(str(year) for year in bars["ts"].dt.year().unique().sort(descending=True))]


def within(period: str, bars: pl.DataFrame, trades: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The bars of one of `periods`, and the trades that were held for some of it."""
    if period == _WHOLE:
        return bars, trades
    year = int(period)
    held = (pl.col("entry_ts").dt.year() <= year) & (pl.col("exit_ts").dt.year().fill_null(year) >= year)
    return bars.filter(pl.col("ts").dt.year() == year), trades.filter(held)


def page() -> None:
    """Draw the page."""
    widgets.heading("Trades", "Where a backtest bought and sold a symbol, the signal behind it, and what came of it.")
    backtests.failure()
    stored = backtests.stored()
    if stored.is_empty():
        backtests.none_yet()
        return
    of_strategy, of_run, of_symbol, of_period = st.columns([3, 5, 2, 2])
    with of_strategy:
        strategy = widgets.strategy_picker(stored["strategy_id"].unique().sort().to_list())
    runs = {row["run_id"]: row for row in stored.filter(pl.col("strategy_id") == strategy).iter_rows(named=True)}
    with of_run:
        run = runs[widgets.picked("Backtest", list(runs), "run", told=lambda run_id: backtests.named(runs[run_id]))]
    traded = state.query(
        "SELECT * FROM backtest_trades WHERE run_id = ? AND strategy_id = ? ORDER BY trade_no",
        [run["run_id"], strategy],
    )
    if traded.is_empty():
        widgets.nothing(
            "This backtest did not trade",
            "No target of its period was filled. Who was chosen and who was rejected, by which rule and why, stands on "
            "the page Targets.",
        )
        widgets.link_to("targets", "Targets of the strategy", strategy=strategy)
        return
    with of_symbol:
        symbol = widgets.symbol_picker(traded["symbol"].unique().sort().to_list())
    bars = _bars(run, symbol)
    if bars.is_empty():
        widgets.nothing(
            f"No bars of {symbol} are stored (any more)",
            "The trades of the other symbols can be picked above. To see these on their price, fetch the bars again:",
            f"quant ingest --symbols {symbol}",
        )
        return
    with of_period:
        period = widgets.picked("Period", periods(bars), "period")
    trades = _trades(run, symbol, bars, traded)
    _shown(run, symbol, period, bars, trades)
    with st.expander("Trades by symbol"):
        widgets.table(by_symbol(traded), _SYMBOLS)


def _bars(run: Mapping[str, Any], symbol: str) -> pl.DataFrame:
    """The symbol's bars over the period of a backtest, adjusted as it saw them."""
    bars = state.query(
        "SELECT symbol, ts, open, high, low, close, adjusted_close, volume, source FROM ohlcv "
        "WHERE symbol = ? AND ts BETWEEN ? AND ? ORDER BY ts",
        [symbol, run["from_ts"], run["to_ts"]],
    )
    actions = state.query(
        "SELECT symbol, ex_date, kind, value FROM corporate_actions WHERE symbol = ? AND ex_date <= ?",
        [symbol, run["to_ts"]],
    )
    return adjust(bars, actions, sources_giving_actions())


def _trades(run: Mapping[str, Any], symbol: str, bars: pl.DataFrame, traded: pl.DataFrame) -> pl.DataFrame:
    """The trades of the symbol, with their signals and excursions."""
    targets = state.query(
        'SELECT "asof", weight, score, reason FROM targets '
        'WHERE strategy_id = ? AND version = ? AND symbol = ? AND "asof" <= ?',
        [run["strategy_id"], run["version"], symbol, run["to_ts"]],
    )
    own = traded.filter(pl.col("symbol") == symbol)
    return with_extremes(with_signals(own, targets, same_session=_price(run) == "close"), bars)


def _price(run: Mapping[str, Any]) -> str:
    """Where targets fill: `execution.price` of the backtest."""
    return str(backtests.configured(run).get("execution", {}).get("price", "close"))


def _shown(run: Mapping[str, Any], symbol: str, period: str, bars: pl.DataFrame, trades: pl.DataFrame) -> None:
    seen, listed = within(period, bars, trades)
    with st.container(horizontal=True):
        for name, value in headline(listed).items():
            st.metric(name, value, border=True, width="content")
    numbers = listed["trade_no"].to_list()
    chosen = next((number for number in numbers if str(number) == st.query_params.get("trade")), None)
    chart_key, table_key = (f"{what} {run['run_id']} {symbol} {period}" for what in ("price", "trades"))
    log = st.toggle("Logarithmic price", key="log", bind="query-params")
    widgets.plot(
        trade_charts.price(seen, listed, chosen, at_open=_price(run) == "next_open", log=log), chart_key,
        alt=f"price of {symbol} with entries, exits and stops",
        selection_mode="points", on_select=partial(_keep_point, chart_key, table_key, numbers),
    )  # fmt: skip
    if listed.is_empty():
        st.caption(f"No trade of {symbol} in {period}.")
        return
    if listed.height > trade_charts.DRAWN:
        st.caption(f"The newest {trade_charts.DRAWN:,} of {listed.height:,} are drawn; pick a year to see the others.")
    if chosen is None:
        st.caption(":material/ads_click: Click an entry, an exit or a row of the table to see all of its trade.")
    else:
        _one(run, listed.row(numbers.index(chosen), named=True), bars)
    names = ("Trades", *_PICTURES)
    for name, tab in zip(names, st.tabs(names, key="below", bind="query-params"), strict=True):
        if not tab.open:
            continue
        with tab:
            if name == "Trades":
                widgets.table(
                    listed.select(list(_TABLE)), _TABLE, key=table_key, selection_mode="single-row",
                    on_select=partial(_keep_row, table_key, numbers), height=min(38 + 35 * listed.height, 420),
                    selection_default={"selection": {"rows": [] if chosen is None else [numbers.index(chosen)]}},
                )  # fmt: skip
            else:
                figure, told = _PICTURES[name]
                st.caption(told)
                widgets.plot(figure(listed), name, alt=told)


def _keep_point(chart_key: str, table_key: str, numbers: Sequence[int]) -> None:
    """Take the trade of the point that was clicked into the URL, and select its row."""
    points = st.session_state[chart_key]["selection"]["points"]
    clicked = next((point["customdata"] for point in points if "customdata" in point), None)
    if clicked in numbers:
        st.query_params["trade"] = str(clicked)
        st.session_state[table_key] = {"selection": {"rows": [numbers.index(clicked)]}}


def _keep_row(table_key: str, numbers: Sequence[int]) -> None:
    """Take the trade of the row that was selected into the URL, or none."""
    rows = st.session_state[table_key]["selection"]["rows"]
    if rows:
        st.query_params["trade"] = str(numbers[rows[0]])
    else:
        st.query_params.pop("trade", None)


def _one(run: Mapping[str, Any], trade: Mapping[str, Any], bars: pl.DataFrame) -> None:
    """All there is about one trade."""
    with st.container(border=True):
        until = trade["exit_ts"] or "now, still open"
        st.subheader(f"Trade {trade['trade_no']}: {trade['side']}, {trade['entry_ts']} to {until}")
        picture, row = st.columns([3, 2])
        with picture:
            exits = backtests.configured(run).get("exits", {})
            levels = stop_levels(bars, trade, exits, at_open=_price(run) == "next_open")
            widgets.plot(trade_charts.close_up(bars, trade, levels), "trade", alt="the trade on its price")
        with row:
            widgets.table(as_texts({name: value for name, value in trade.items() if name != "until"}), height=400)
        _decision(run, trade, "Opened by the signal of", trade["entry_asof"], "entry")
        if trade["exit_asof"]:
            _decision(run, trade, "Closed by the signal of", trade["exit_asof"], "exit")
        else:
            st.markdown("**No signal closed it**")
            st.text("It is still open." if trade["exit_ts"] is None else f"It ended by: {trade['reason']}.")


def _decision(run: Mapping[str, Any], trade: Mapping[str, Any], what: str, asof: date | None, end: str) -> None:
    """The target behind one end of a trade, those beside it, and the ways to where it comes from."""
    if asof is None:
        st.markdown("**No target is stored from before its entry**")
        st.caption("The backtest decided for some symbols only, or the targets were removed.")
        return
    strategy, symbol = run["strategy_id"], trade["symbol"]
    st.markdown(f"**{what} {asof}**")
    score = "none" if trade[f"{end}_score"] is None else f"{trade[f'{end}_score']:.6g}"
    words = signal_words(backtests.configured(run))
    st.text(
        f"{trade[f'{end}_reason']} · weight {trade[f'{end}_weight']:.1%} · score {score}"
        + (f" ({words})" if words else "")
    )
    model = _model(symbol, asof, trade[f"{end}_score"])
    if model:
        st.text(model)
    with st.container(horizontal=True):
        widgets.link_to("lineage", "Lineage of this target", strategy=strategy, symbol=symbol, asof=asof)
        widgets.link_to("targets", "All targets of the day", strategy=strategy, asof=asof)
    with st.expander("The symbols beside it"):
        slate = state.query(
            "SELECT symbol, score, weight, approved, reason FROM targets "
            'WHERE strategy_id = ? AND version = ? AND "asof" = ? ORDER BY weight DESC, score DESC NULLS LAST, symbol',
            [strategy, run["version"], asof],
        )
        widgets.table(slate, _SLATE)


def _model(symbol: str, asof: date, score: float | None) -> str:
    """Which model gave the score of the day, where one did."""
    found = state.query(
        "SELECT p.model_id, p.score, p.calibrated_score, m.scope, m.train_to FROM predictions p "
        "JOIN models m USING (model_id) WHERE p.symbol = ? AND p.ts = ? AND ? IN (p.score, p.calibrated_score)",
        [symbol, asof, score],
    )
    if found.is_empty():
        return ""
    one = found.row(0, named=True)
    calibrated = "" if one["calibrated_score"] is None else f", {one['calibrated_score']:.6g} calibrated"
    told = f"said {one['score']:.6g}{calibrated}"
    return f"model {one['model_id']} ({one['scope']}, trained on sessions to {one['train_to']}) {told}"
