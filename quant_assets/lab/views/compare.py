"""Page Compare: stored backtests side by side, over the sessions that they have in common."""

from collections.abc import Mapping, Sequence
from typing import Any

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from quant_assets.backtest import comparison
from quant_assets.backtest.analysis import MEASURES
from quant_assets.backtest.comparison import MOST, Comparison, Line
from quant_assets.backtest.report import value_text
from quant_assets.core.errors import DataError
from quant_assets.core.page import NONE
from quant_assets.lab import backtests, charts, state, widgets

_AT_FIRST = 4
_SYMBOLS = 15
"""So many symbols have bars of their own in the picture of contributions."""
_COSTS = ("fees", "slippage", "funding")
_OTHERS = "(others)"
_TWICE = ("backtest.fee_bps", "backtest.slippage_bps")
"""Fields of a file that stand in the summary too, defaults written out."""

_LIST = {
    "strategy_id": "Strategy",
    "version": st.column_config.TextColumn("Version", width="small"),
    "sharpe": st.column_config.NumberColumn("Sharpe", format="%.2f"),
    "cagr": st.column_config.NumberColumn("CAGR", format="percent"),
    "max_dd": st.column_config.NumberColumn("Max drawdown", format="percent"),
    "verdict": "Verdict",
    "differs": st.column_config.TextColumn("Differs from its file", help="a what-if, or the file was changed since"),
    "from_ts": st.column_config.DateColumn("From", format="YYYY-MM-DD"),
    "to_ts": st.column_config.DateColumn("To", format="YYYY-MM-DD"),
    "created_at": st.column_config.DatetimeColumn("Run at, UTC", format="YYYY-MM-DD HH:mm"),
    "run_id": st.column_config.TextColumn("Run", width="small"),
}


def usual(stored: pl.DataFrame) -> list[str]:
    """Keys of what is compared unless something is picked: the newest backtest of each strategy, at most four."""
    return stored.unique("strategy_id", keep="first", maintain_order=True)["key"].head(_AT_FIRST).to_list()


def wanted(text: str, known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Keys that the parts of a URL's `text` begin, each once, and the parts that begin none.

    Example:
        >>> wanted("ab,zz", ["abc", "def"])
        (['abc'], ['zz'])
    """
    parts = [part for part in text.split(",") if part]
    found = [key for part in parts for key in known if key.startswith(part)]
    return list(dict.fromkeys(found)), [part for part in parts if not any(key.startswith(part) for key in known)]


def drawn_down(curves: pl.DataFrame, labels: Sequence[str]) -> dict[str, pl.DataFrame]:
    """Label -> ts, equity and drawdown since the first common session."""
    return {
        label: curves.select("ts", equity=label, drawdown=pl.col(label) / pl.col(label).cum_max() - 1)
        for label in labels
    }


def yearly(curves: pl.DataFrame, labels: Sequence[str]) -> pl.DataFrame:
    """Year, and each one's return in it, under its label; the first and last year may be incomplete."""
    ends = curves.group_by(pl.col("ts").dt.year().alias("year"), maintain_order=True).agg(pl.col(labels).last())
    return ends.with_columns(pl.col(label) / pl.col(label).shift(1, fill_value=1.0) - 1 for label in labels)


def grouped(frame: pl.DataFrame, by: str, labels: Sequence[str], height: int) -> go.Figure:
    """Upright bars, one group for each row of `frame` and a bar in it for each label, in percent."""
    figure = go.Figure()
    for label, colour in charts.colours(labels).items():
        figure.add_bar(x=frame[by].cast(pl.String), y=frame[label], name=label, marker_color=colour)
    figure.update_layout(barmode="group").update_xaxes(type="category")
    return charts.styled(figure.update_yaxes(tickformat=".0%", hoverformat=".1%"), height)


def rolling(equity: pl.DataFrame, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> go.Figure:
    """The Sharpe ratio of the last half year, of each of `rows` of `stored`."""
    figure = go.Figure()
    for (label, colour), row in zip(charts.colours(labels).items(), rows, strict=True):
        own = (pl.col("run_id") == row["run_id"]) & (pl.col("strategy_id") == row["strategy_id"])
        curve = charts.thinned(equity.filter(own).drop_nulls("rolling_sharpe"))
        line = {"color": colour, "width": 1.6}
        figure.add_scatter(x=curve["ts"], y=curve["rolling_sharpe"], name=label, line=line, hovertemplate="%{y:.2f}")
    return charts.level(charts.styled(figure, 320), 0.0, "")


def correlated(found: Comparison) -> go.Figure:
    """How alike the returns per session were; columns have the numbers of the rows."""
    rows = [f"{number} {label}" for number, label in enumerate(found.labels, start=1)]
    values = [[None if value != value else value for value in line] for line in found.correlations.tolist()]
    columns = [str(number) for number in range(1, len(rows) + 1)]
    figure = charts.heat(values, columns, rows, height=110 + 44 * len(rows), low=-1.0, high=1.0, middle=0.0)
    return figure.update_xaxes(type="category", side="top").update_yaxes(automargin=True)


def measures_table(lines: Sequence[Line], labels: Sequence[str], *, against_first: bool = False) -> pl.DataFrame:
    """One row per measure that any has, as text; a star marks the best. `against_first`: less the first one's value."""
    kept = [line for line in lines if any(value is not None for value in line.values)]
    cells = [(line.measure.label, *(_differences(line) if against_first else _marked(line))) for line in kept]
    return pl.DataFrame(cells, schema=dict.fromkeys(("Measure", *labels), pl.String), orient="row")


def _marked(line: Line) -> list[str]:
    return [f"★ {text}" if best else text for text, best in zip(line.texts, line.best, strict=True)]


def _differences(line: Line) -> list[str]:
    base, *others = line.values
    differences = [None if base is None or value is None else value - base for value in others]
    texts = [value_text(line.measure, value) for value in differences]
    return [
        line.texts[0],
        *(f"+{text}" if value and value > 0 else text for value, text in zip(differences, texts, strict=True)),
    ]


def costs(measures: pl.DataFrame, rows: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Fees, slippage and funding per year, of each of `rows` of `stored`.

    Args:
        measures: their rows of `backtest_measures`.
    """
    known = {
        (run, strategy, name): value
        for run, strategy, name, value in measures.select("run_id", "strategy_id", "measure", "value").iter_rows()
    }
    return [
        Line(one, tuple(known.get((row["run_id"], row["strategy_id"], one.name)) for row in rows))
        for one in MEASURES
        if one.name in _COSTS
    ]


def contributions(symbols: pl.DataFrame, rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> pl.DataFrame:
    """Symbol, and what it earned for each over its initial cash, under its label; what moved most comes first.

    Args:
        symbols: rows of `backtest_symbols` of the `rows` of `stored`.
    """
    names = pl.DataFrame(
        {
            "run_id": [row["run_id"] for row in rows],
            "strategy_id": [row["strategy_id"] for row in rows],
            "label": labels,
        }
    )
    wide = symbols.join(names, on=["run_id", "strategy_id"]).pivot("label", index="symbol", values="contribution")
    absent = [pl.lit(None, pl.Float64).alias(label) for label in labels if label not in wide.columns]
    most = pl.max_horizontal(pl.col(labels).abs())
    return wide.with_columns(absent).select("symbol", *labels).sort(most, "symbol", descending=[True, False])


def heaviest(earned: pl.DataFrame, count: int = _SYMBOLS) -> pl.DataFrame:
    """The first rows of `contributions`, and the sum of the others as one more."""
    if earned.height <= count:
        return earned
    others = earned[count:].select(pl.lit(_OTHERS).alias("symbol"), pl.exclude("symbol").sum())
    return pl.concat([earned.head(count), others])


def page() -> None:
    """Draw the page."""
    widgets.heading("Compare", "Stored backtests side by side, over the sessions that they have in common.")
    backtests.failure()
    stored = backtests.stored()
    if stored.is_empty():
        backtests.none_yet()
        return
    rows = _picked(stored)
    if stored.height == 1:
        only = stored["strategy_id"][0]
        widgets.nothing(
            "One backtest is stored; a comparison needs two",
            "Run another strategy, or this one with something in place of what its file says, such as other costs:",
            f"quant backtest -s {only} --fee-bps 10",
        )
        return
    if not 2 <= len(rows) <= MOST:
        st.info(f"{len(rows)} picked: pick 2 to {MOST} rows of the table.", icon=":material/checklist:")
        return
    _compared(rows)


def _picked(stored: pl.DataFrame) -> list[dict[str, Any]]:
    """The table of all backtests; the rows that are picked in it, in the URL as run ids."""
    known = stored["key"].to_list()
    keys, gone = wanted(st.query_params.get("runs", ""), known)
    files, trouble = backtests.files()
    if trouble:
        st.warning(f"What runs differ in from their files is unknown: {trouble}", icon=":material/warning:")
    rows = stored.rows(named=True)
    differs = [backtests.departures(row, files.get(row["strategy_id"])) if not trouble else "" for row in rows]
    listed = stored.with_columns(
        differs=pl.Series(differs, dtype=pl.String), verdict=pl.col("verdict").fill_null("not judged")
    )
    # a new run moves all rows down: then it is another table, which begins with what is in the URL
    table_key = f"backtests of {hash(tuple(known))}"

    def keep() -> None:
        chosen = st.session_state[table_key]["selection"]["rows"]
        st.query_params["runs"] = ",".join(known[at] for at in chosen)

    begin = [known.index(key) for key in keys or usual(stored)]
    chosen = widgets.table(
        listed.select(list(_LIST)), _LIST, key=table_key, on_select=keep, selection_mode="multi-row",
        selection_default={"selection": {"rows": begin}}, height=min(38 + 35 * stored.height, 320),
    )["selection"]["rows"]  # fmt: skip
    if gone:
        st.caption(f":material/link_off: {len(gone)} of the runs in the link are not stored (any more).")
    if "runs" in st.query_params and set(keys) == {known[at] for at in chosen}:
        return [rows[known.index(key)] for key in keys]  # the order of the link
    return [rows[at] for at in chosen]


def _compared(rows: Sequence[Mapping[str, Any]]) -> None:
    runs = list(dict.fromkeys(row["run_id"] for row in rows))
    read = "SELECT * FROM {} WHERE run_id IN (SELECT unnest(?))"
    equity, symbols, measures = (
        state.query(read.format(name), [runs]) for name in ("backtest_equity", "backtest_symbols", "backtest_measures")
    )
    settings = {(row["run_id"], row["strategy_id"]): backtests.configured(row) for row in rows if row["params"]}
    try:
        found = comparison.compare(runs, pl.DataFrame(rows, infer_schema_length=None), equity, settings)
    except DataError as error:
        st.warning(f"{error}; pick others", icon=":material/event_busy:")
        return
    rows = _in_order(rows, found)
    _pictures(found, rows, equity)
    _tables(found, costs(measures, rows))
    _symbols(contributions(symbols, rows, found.labels), found.labels)
    _links(rows, found.labels)


def _in_order(rows: Sequence[Mapping[str, Any]], found: Comparison) -> list[Mapping[str, Any]]:
    """The rows in the order of the comparison: that of runs, then of strategies."""
    place = {run: at for at, run in enumerate(dict.fromkeys(found.runs))}
    return sorted(rows, key=lambda row: (place[row["run_id"]], row["strategy_id"]))


def _pictures(found: Comparison, rows: Sequence[Mapping[str, Any]], equity: pl.DataFrame) -> None:
    st.subheader("Equity and drawdown")
    periods = {(row["from_ts"], row["to_ts"]) for row in rows}
    told = f"{found.curves.height:,} common sessions, {found.first} to {found.last}, 1 at the first of them"
    if len(periods) > 1:
        st.info(f"Their periods differ. Compared over the {told}.", icon=":material/date_range:")
    else:
        st.caption(f"{told}.")
    log = st.toggle("Logarithmic", key="log", bind="query-params")
    curves = drawn_down(found.curves, found.labels)
    widgets.plot(charts.equity_and_drawdown(curves, log=log), "equity", alt="equity and drawdown of each backtest")
    left, right = st.columns(2)
    with left:
        st.subheader("Correlation")
        st.caption("of returns per session, on the common sessions")
        widgets.plot(correlated(found), "correlation", alt="correlations of daily returns")
    with right:
        st.subheader("Over time")
        by_year, by_half = st.tabs(
            ["Return of each year", "Sharpe of the last half year"], key="over", bind="query-params"
        )
        if by_year.open:
            bars = grouped(yearly(found.curves, found.labels), "year", found.labels, 320)
            with by_year:
                widgets.plot(bars, "years", alt="return of each backtest in each year")
        else:
            common = equity.filter(pl.col("ts").is_between(found.first, found.last)).sort("ts")
            with by_half:
                widgets.plot(
                    rolling(common, rows, found.labels), "rolling", alt="rolling Sharpe ratio of each backtest"
                )


def _tables(found: Comparison, paid: Sequence[Line]) -> None:
    st.subheader("Measures")
    st.caption("★ the best of a line. A year has the market's sessions, the risk-free rate is zero.")
    against = st.toggle("Differences from the first", key="differences", bind="query-params")
    columns = {"Measure": st.column_config.TextColumn(pinned=True)}
    columns |= {label: st.column_config.TextColumn(alignment="right") for label in found.labels}
    groups = (
        ("Over the common sessions", found.common),
        ("Trades and costs, each over its own period", (*found.own, *paid)),
    )
    for name, lines in groups:
        st.caption(f"**{name}**")
        table = measures_table(lines, found.labels, against_first=against)
        widgets.table(table, columns, height=38 + 35 * table.height)
    st.subheader("What differs")
    if not found.differences:
        st.caption("Nothing that was recorded: the same configuration, period, cash and costs.")
        return
    st.caption(f"Fields that are not the same in all; {NONE}: not set, so the default, or no part of its signal.")
    fields = pl.DataFrame(
        sorted((name, *values) for name, values in found.differences if name not in _TWICE),
        schema=dict.fromkeys(("Field", *found.labels), pl.String),
        orient="row",
    )
    widgets.table(fields, {"Field": st.column_config.TextColumn(pinned=True)}, height=38 + 35 * fields.height)


def _symbols(earned: pl.DataFrame, labels: Sequence[str]) -> None:
    st.subheader("What each symbol earned")
    if earned.is_empty():
        st.caption("None of them traded.")
        return
    st.caption("Profit after costs over initial cash; all symbols of a backtest add up to its total return.")
    widgets.plot(grouped(heaviest(earned), "symbol", labels, 340), "symbols", alt="contribution of each symbol")
    with st.expander(f"All {earned.height} symbols"):
        percent = {label: st.column_config.NumberColumn(format="percent") for label in labels}
        widgets.table(earned, {"symbol": "Symbol", **percent})


def _links(rows: Sequence[Mapping[str, Any]], labels: Sequence[str]) -> None:
    st.subheader("Runs")
    served = state.dagster().alive()
    for row, label in zip(rows, labels, strict=True):
        report = state.config().backtest_report(row["strategy_id"], row["run_id"])
        with st.container(border=True):
            st.text(f"{label} · {backtests.named(row)}")
            with st.container(horizontal=True):
                st.download_button(
                    "Report", report.read_bytes, report.name, "text/html", key=f"report {row['key']}",
                    on_click="ignore", icon=":material/download:", disabled=not report.is_file(), help=f"{report}",
                )  # fmt: skip
                st.link_button(
                    "Run in Dagster", state.dagster().run_url(row["run_id"]), icon=":material/open_in_new:",
                    disabled=not served, help=None if served else "no Dagster server answers",
                )  # fmt: skip
                widgets.link_to("trades", "Trades", strategy=row["strategy_id"], run=row["run_id"])
