"""Page Data: bars, features and labels of a market as they are stored, what is missing, and the button to ingest it."""

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import Any

import numpy as np
import plotly.graph_objects as go
import polars as pl
import streamlit as st
from plotly.subplots import make_subplots

from quant_assets.contracts import features_daily, quarantine
from quant_assets.core.drawing import ACCENT, BENCHMARK, LOSS, SERIES
from quant_assets.core.errors import ConfigError, DataError, LabError
from quant_assets.features import FEATURE_SETS
from quant_assets.lab import charts, launching, notices, partitions, state, widgets
from quant_assets.lab.dagster_api import Run
from quant_assets.market_data.adjustment import adjust
from quant_assets.market_data.provider import sources_giving_actions
from quant_assets.strategy.markets import MARKET_JOB, Market
from quant_assets.strategy.universe import Universe

ASSETS = {"bars": "ohlcv", "features": "features_daily", "labels": "labels"}
RANGES = {"3 months": 92, "1 year": 366, "3 years": 1096, "all": None}
"""Calendar days up to the last bar."""

_CANDLES = 300
"""More bars than these are drawn as a line."""
_BINS = 40
_POINTS = 5_000
"""Bars beyond these are thinned, which loses extremes."""
_ASKED_AGAIN = timedelta(minutes=1)
_ROWS = 40
"""So many symbols fit into one map."""
_TICKS = 12
"""So many months are named each."""
_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")


def symbols_table(
    universe: Universe, bars: pl.DataFrame, missing: pl.DataFrame, quarantined: pl.DataFrame
) -> pl.DataFrame:
    """One row per symbol of the universe: symbol, name, listed_from, listed_to, first, last, bars, missing, ...

    Args:
        bars: symbol, first, last, bars, ingested_at, provider, of the symbols that have bars.
        missing: `partitions.holes` of the bars.
        quarantined: symbol, ts of bad rows.
    """
    table = pl.DataFrame(
        [(one.symbol, one.name, *universe.bounds[one.symbol]) for one in universe.symbols],
        schema={"symbol": pl.String, "name": pl.String, "listed_from": pl.Date, "listed_to": pl.Date},
        orient="row",
    ).sort("symbol")
    for frame in (
        bars,
        missing.group_by("symbol").agg(missing=pl.col("sessions").sum()),
        quarantined.group_by("symbol").agg(quarantined=pl.len()),
    ):
        table = table.join(frame, on="symbol", how="left", maintain_order="left")
    ends = ("name", "listed_from", "listed_to", "first", "last")
    counts = ("bars", "missing", "quarantined")
    return table.select("symbol", *ends, pl.col(counts).fill_null(0), "ingested_at", "provider")


def bad_partitions(rows: pl.DataFrame) -> pl.DataFrame:
    """symbol, ts: the partitions that rows of `quarantine` were meant for; a label's is the day it was known on."""
    known_on = pl.col("row").str.extract(r'"known_on": "(\d{4}-\d\d-\d\d)"').str.to_date()
    return rows.select("symbol", ts=pl.coalesce(known_on, "ts"))


def within(frame: pl.DataFrame, days: int | None) -> pl.DataFrame:
    """The rows of the last so many calendar days up to the newest `ts`; all where None."""
    if days is None or frame.is_empty():
        return frame
    return frame.filter(pl.col("ts") > pl.col("ts").max() - timedelta(days=days))


def events(actions: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """ts, close, kind, told: corporate actions at the first bar on or after their ex-date, those that have one.

    Args:
        actions: ex_date, kind, value.
        bars: ts, close; sorted.
    """
    amount = pl.col("value").round(4).cast(pl.String).str.strip_suffix(".0")
    told = (
        pl.when(pl.col("kind") == "split")
        .then(pl.format("split: {} new for 1 old", amount))
        .otherwise(pl.format("dividend: {} per share", amount))
    )
    known = actions.filter(pl.col("ex_date") >= bars["ts"].min()).sort("ex_date")
    at = known.join_asof(
        bars.select("close", ex_date="ts", ts="ts"), on="ex_date", strategy="forward", check_sortedness=False
    )
    return at.drop_nulls("ts").select("ts", "close", "kind", told=told)


def price_figure(
    bars: pl.DataFrame, marked: pl.DataFrame, feature: pl.DataFrame, name: str, *, every_day: bool
) -> go.Figure:
    """Price, volume and a feature, one below the other on one time axis.

    Args:
        bars: ts, open, high, low, close, volume of one symbol; candles where they are few.
        marked: as `events` gives them.
        feature: ts, value.
        every_day: weekends are sessions.
    """
    figure = make_subplots(rows=3, cols=1, shared_xaxes=True, row_heights=[0.55, 0.15, 0.3], vertical_spacing=0.04)
    candles, few = bars.height <= _CANDLES, charts.thinned(bars, _POINTS)
    if candles:
        prices = {one: bars[one] for one in ("open", "high", "low", "close")}
        figure.add_candlestick(
            x=bars["ts"], **prices, name="price", increasing_line_color=charts.GAIN, decreasing_line_color=LOSS,
            showlegend=False, row=1, col=1,
        )  # fmt: skip
    else:
        figure.add_scatter(
            x=few["ts"], y=few["close"], name="close", line={"color": ACCENT, "width": 1.5}, row=1, col=1,
            showlegend=False, hovertemplate="%{y:,.2f}",
        )  # fmt: skip
    for kind, shape, colour in (("split", "diamond", SERIES[3]), ("dividend", "circle", SERIES[1])):
        some = marked.filter(kind=kind)
        if some.height:
            figure.add_scatter(
                x=some["ts"], y=some["close"], customdata=some["told"], name=f"{kind}s", mode="markers",
                marker={"symbol": shape, "size": 10 if kind == "split" else 6, "color": colour},
                hovertemplate="%{customdata}<extra></extra>", row=1, col=1,
            )  # fmt: skip
    figure.add_bar(
        x=few["ts"], y=few["volume"], name="volume", marker={"color": BENCHMARK, "line_width": 0}, row=2, col=1,
        showlegend=False, hovertemplate="%{y:,.3s}",
    )  # fmt: skip
    values = charts.thinned(feature, _POINTS)
    figure.add_scatter(
        x=values["ts"], y=values["value"], name=name, line={"color": SERIES[4], "width": 1.2}, row=3, col=1,
        showlegend=False, hovertemplate="%{y:.4g}",
    )  # fmt: skip
    for row, title in enumerate(("price", "volume", name), start=1):
        figure.update_yaxes(title_text=title, row=row, col=1)
    if candles and not every_day:
        figure.update_xaxes(rangebreaks=[{"bounds": ["sat", "mon"]}])
    figure.update_xaxes(rangeslider_visible=False)
    return charts.styled(figure, 600)


def distribution(values: pl.Series, *, height: int) -> go.Figure:
    """How often a feature has which value, the values upright."""
    counts, edges = np.histogram(values.drop_nulls().to_numpy(), _BINS)
    figure = go.Figure(
        go.Bar(
            x=counts, y=(edges[1:] + edges[:-1]) / 2, orientation="h", marker={"color": SERIES[4], "line_width": 0},
            hovertemplate="%{y:.4g}: %{x:,} sessions<extra></extra>",
        )
    )  # fmt: skip
    return charts.styled(figure, height, legend=False).update_layout(bargap=0.05, hovermode="closest")


def month_map(cells: pl.DataFrame) -> go.Figure:
    """Symbols by months, each in the state of its gravest partition; of many symbols those that lack most."""
    told = pl.format("{} {}: {} of {} stored", "symbol", pl.col("month").dt.strftime("%Y-%m"), "stored", "sessions")
    frame = partitions.months(cells).with_columns(told=told)
    lacking = frame.group_by("symbol").agg(lacking=pl.col("sessions").sum() - pl.col("stored").sum())
    symbols = lacking.sort(["lacking", "symbol"], descending=[True, False])["symbol"].head(_ROWS).sort().to_list()
    few = frame.filter(pl.col("symbol").is_in(symbols))
    figure = partitions.state_map(few, "month", "symbol", symbols, height=110 + 22 * max(len(symbols), 3))
    named = frame["month"].n_unique() <= _TICKS
    return figure.update_xaxes(dtick="M1", tickformat="%b %y") if named else figure


def year_map(cells: pl.DataFrame, year: int, sessions: Sequence[date]) -> go.Figure:
    """One symbol's year, weeks by weekdays; days of the week that are never a session are left out."""
    days = partitions.year_of(cells, year, sessions)
    open_ = days.filter(pl.col("state") != partitions.CLOSED)["weekday"].unique().to_list()
    weekdays = [number for number in range(7) if number < 5 or number in open_]
    frame = days.filter(pl.col("weekday").is_in(weekdays)).with_columns(
        weekday=pl.col("weekday").replace_strict(dict(enumerate(_DAYS)), return_dtype=pl.String),
        told=pl.format("{}: {}", pl.col("day").dt.strftime("%a %Y-%m-%d"), pl.col("state").cast(pl.String)),
    )
    figure = partitions.state_map(frame, "week", "weekday", [_DAYS[at] for at in weekdays], height=240)
    return figure.update_xaxes(dtick="M1", tickformat="%b")


@dataclass(frozen=True)
class Holding:
    """One asset of a market: its partitions, those that have rows, and its rows in quarantine."""

    wanted: pl.DataFrame
    stored: pl.DataFrame
    bad: pl.DataFrame
    grain: str

    def states(self, made: pl.DataFrame | None) -> pl.DataFrame:
        """As `partitions.states`, with what Dagster calls materialised where it was asked."""
        if made is None:
            return self.unasked
        return partitions.states(self.wanted, self.stored, bad_partitions(self.bad), made, self.grain)

    @cached_property
    def unasked(self) -> pl.DataFrame:
        """Their states by what is stored alone."""
        return partitions.states(self.wanted, self.stored, bad_partitions(self.bad), None, self.grain)

    @cached_property
    def missing(self) -> pl.DataFrame:
        """The `partitions.holes` in it, by what is stored alone."""
        return partitions.holes(self.unasked)


def page() -> None:
    """Draw the page."""
    widgets.heading("Data", "Daily bars, features and labels of a market: what is stored, and what is missing.")
    markets = {market.name: market for market in state.markets()}
    with st.columns(3)[0]:
        name = widgets.picked("Market", list(markets), "market") if len(markets) > 1 else next(iter(markets))
    market = markets[name]
    notices.failure(f"market {market.name}", lambda run: _concerns(market, run))
    sessions = _sessions(market)
    if not sessions:
        widgets.nothing(
            f"{market.name} has no session yet",
            f"It starts on {market.layout.universe.start}, and no session has closed since: see its universe file.",
        )
        return
    known = (str(state.snapshot()), repr(market.layout.universe), sessions[-1])
    holdings = {name: _holding(market, asset, sessions, known) for name, asset in ASSETS.items()}
    stored = _symbols(market, holdings["bars"])
    _ingest(market, sessions, [one.missing for one in holdings.values()])
    if stored:
        symbol = _symbol(market, stored)
        _quarantine(symbol, pl.concat([one.bad for one in holdings.values()]).filter(symbol=symbol))
        _calendar(market, symbol, holdings, sessions)


def _symbols(market: Market, holding: Holding) -> list[str]:
    """Draw tiles and the table of symbols; those that have bars."""
    universe = market.layout.universe
    bars = _rows(
        market,
        "SELECT symbol, min(ts) AS first, max(ts) AS last, count(*) AS bars, max(ingested_at) AS ingested_at, "
        "string_agg(DISTINCT source, ', ' ORDER BY source) AS provider FROM ohlcv "
        "WHERE symbol IN (SELECT unnest(?)) GROUP BY symbol ORDER BY symbol",
        {"symbol": pl.String, "first": pl.Date, "last": pl.Date, "bars": pl.Int64, "ingested_at": pl.Datetime("us"),
         "provider": pl.String},
    )  # fmt: skip
    table = symbols_table(universe, bars, holding.missing, holding.bad)
    newest: date | None = bars["last"].max()  # type: ignore[assignment]
    tiles = {
        "Symbols": f"{len(universe.names)}",
        "Last bar": newest.isoformat() if newest else "none",
        "Bars": f"{table['bars'].sum():,}",
        "Bars missing": f"{table['missing'].sum():,}",
        "Quarantined": f"{table['quarantined'].sum():,}",
    }
    with st.container(horizontal=True):
        for label, value in tiles.items():
            st.metric(label, value, border=True, width="content")
    if bars.is_empty():
        widgets.nothing(
            f"No bar of market {market.name} is stored",
            "Ingest its bars with the button below, or on the command line:",
            f"quant ingest --market {universe.name}" if market.layout.prefix else "quant ingest",
        )
    widgets.table(
        table,
        {
            "symbol": st.column_config.TextColumn("Symbol", pinned=True),
            "name": "Name",
            "listed_from": st.column_config.DateColumn("Listed from", help="as the universe file has it"),
            "listed_to": st.column_config.DateColumn("to", help="none: still listed"),
            "first": st.column_config.DateColumn("First bar"),
            "last": st.column_config.DateColumn("Last bar"),
            "bars": st.column_config.NumberColumn("Bars", format="localized"),
            "missing": st.column_config.NumberColumn(
                "Missing", format="localized", help="sessions while listed, up to the last that has closed, without bar"
            ),
            "quarantined": st.column_config.NumberColumn("Quarantined", format="localized", help="rows of bars"),
            "ingested_at": st.column_config.DatetimeColumn("Last ingest, UTC", format="YYYY-MM-DD HH:mm"),
            "provider": "Provider",
        },
    )
    return bars["symbol"].to_list()


def _ingest(market: Market, sessions: Sequence[date], missing: Sequence[pl.DataFrame]) -> None:
    names = market.layout.universe.names
    found = partitions.to_ingest(missing)
    st.subheader("Ingest")
    if found:
        symbols, first, last = found
        st.caption(f"Missing: {', '.join(symbols[:8])}{' ...' if len(symbols) > 8 else ''}, {first} to {last}.")
    else:
        symbols, first, last = list(names), sessions[-1], sessions[-1]
        st.caption("Nothing is missing. A period that is stored is fetched again, and compared.")
    one, other = st.columns([2, 1])
    chosen = one.multiselect("Symbols", names, symbols, key=f"ingest_symbols_{market.name}")
    period = other.date_input(
        "Sessions", (first, last), sessions[0], sessions[-1], key=f"ingest_period_{market.name}", format="YYYY-MM-DD"
    )
    covered = partitions.neighbours(names, chosen)
    if more := sorted(set(covered) - set(chosen)):
        st.caption(f"A run covers neighbours in the universe: also {', '.join(more)}.")
    orders = []
    if covered and len(period) == 2:
        try:
            orders = [launching.market_order(market, *market.layout.calendar.snap(*period), covered)]
        except ConfigError as error:
            st.warning(str(error), icon=":material/warning:")
    launching.run_button("Ingest", orders, key="ingest", disabled=not orders)


def _symbol(market: Market, symbols: Sequence[str]) -> str:
    """Draw one symbol's chart; which it is."""
    st.header("Symbol", divider=True)
    universe = market.layout.universe
    pickers = st.columns(3)
    with pickers[0]:
        symbol = widgets.symbol_picker(symbols)
    with pickers[1]:
        version = widgets.picked("Feature set", universe.feature_sets, "set")
    with pickers[2]:
        name = widgets.picked("Feature", FEATURE_SETS[version].names, "feature")
    left, right = st.columns(2)
    with left:
        days = RANGES[_chosen("Range", list(RANGES), "range", "1 year")]
    with right:
        adjusted = _chosen("Prices", ["adjusted", "as traded"], "prices", "adjusted") == "adjusted"
    raw = state.query(
        "SELECT symbol, ts, open, high, low, close, adjusted_close, volume, source FROM ohlcv "
        "WHERE symbol = ? ORDER BY ts",
        [symbol],
    )
    actions = state.query("SELECT symbol, ex_date, kind, value FROM corporate_actions WHERE symbol = ?", [symbol])
    bars = raw
    if adjusted:
        try:
            bars = adjust(raw, actions, sources_giving_actions())
        except DataError as error:
            st.warning(f"Prices as traded: {error}", icon=":material/warning:")
    shown = within(bars, days)
    feature = _feature(symbol, version, name).filter(pl.col("ts") >= shown["ts"].min())
    drawn, beside = st.columns([3, 1])
    with drawn:
        figure = price_figure(shown, events(actions, shown), feature, name, every_day=market.layout.calendar.every_day)
        told = f"{symbol}: price, volume and feature {name}, up to {shown['ts'][-1]}"
        widgets.plot(figure, "price", alt=told)
    with beside:
        _distribution(name, feature["value"].drop_nulls(), FEATURE_SETS[version].features)
    return symbol


def _distribution(name: str, values: pl.Series, features: Sequence[Any]) -> None:
    st.markdown("**Distribution**")
    formula = next(one.formula for one in features if one.name == name)
    st.caption("of the feature over the range that is shown")
    if values.is_empty():
        widgets.nothing("No value in this range", "Too little history, or not computed yet: ingest computes it.")
        return
    widgets.plot(distribution(values, height=330), "distribution", alt=f"distribution of {name}")
    st.text(formula)
    measures = {
        "mean": values.mean(),
        "std": values.std(),
        "min": values.min(),
        "median": values.median(),
        "max": values.max(),
    }
    widgets.table(
        pl.DataFrame(
            {"measure": list(measures), "value": list(measures.values())}, schema_overrides={"value": pl.Float64}
        ),
        {
            "measure": st.column_config.TextColumn("Measure", width="small"),
            "value": st.column_config.NumberColumn("Value", format="%.4g", width="small"),
        },
    )


def _quarantine(symbol: str, rows: pl.DataFrame) -> None:
    if rows.is_empty():
        st.caption(f":material/verified_user: No row of {symbol} is in quarantine.")
        return
    with st.expander(f"{rows.height:,} row(s) of {symbol} in quarantine", icon=":material/gpp_maybe:", expanded=True):
        widgets.table(
            rows.select("ts", "table_name", "rule", "row", "seen_at").sort("ts", descending=True),
            {
                "ts": st.column_config.DateColumn("Session"),
                "table_name": "Table",
                "rule": "What is wrong",
                "row": st.column_config.TextColumn("Row", width="large"),
                "seen_at": st.column_config.DatetimeColumn("First seen, UTC", format="YYYY-MM-DD HH:mm"),
            },
        )


def _calendar(market: Market, symbol: str, holdings: Mapping[str, Holding], sessions: Sequence[date]) -> None:
    st.header("Partitions", divider=True)
    st.caption("Each is a session and a symbol. What is missing can be ingested above.")
    name = _chosen("Partitions of", list(ASSETS), "asset", "bars")
    holding, made = holdings[name], _materialised(market, ASSETS[name])
    cells = holding.states(made)
    if made is None:
        st.caption(":material/info: No Dagster server answers: which partitions it calls materialised is not shown.")
    who = f"The {_ROWS} symbols that lack most" if len(market.layout.universe.names) > _ROWS else "All symbols"
    st.markdown(f"**{who}** by month, in the colour of its gravest day")
    widgets.plot(month_map(cells), "months", alt=f"{name} of all symbols by month")
    own = cells.filter(symbol=symbol)
    lacking = own.filter(pl.col("state").is_in(partitions.LACKING))["ts"]
    years = [str(year) for year in range(sessions[-1].year, sessions[0].year - 1, -1)]
    newest: date = (own["ts"] if lacking.is_empty() else lacking).max() or sessions[-1]  # type: ignore[assignment]
    left, right = st.columns([5, 1], vertical_alignment="bottom")
    left.markdown(f"**{symbol}** by day")
    with right:
        year = int(widgets.picked("Year", years, "year", default=years.index(str(newest.year))))
    widgets.plot(year_map(own, year, sessions), "days", alt=f"{name} of {symbol} in {year} by day")
    missing = partitions.holes(cells)
    with st.expander(f"What is missing: {missing['sessions'].sum():,} partition(s)"):
        if missing.is_empty():
            st.caption("Nothing.")
            return
        widgets.table(
            missing,
            {
                "symbol": "Symbol",
                "first": st.column_config.DateColumn("From"),
                "last": st.column_config.DateColumn("To"),
                "sessions": st.column_config.NumberColumn("Sessions", format="localized"),
                "state": "State",
            },
        )


def _chosen(label: str, options: Sequence[str], key: str, default: str) -> str:
    """One of a few `options`, side by side, kept in the URL as `key`."""
    chosen = st.segmented_control(
        label, options, default=default, key=key, required=True, bind="query-params",
        persist_state="session",
    )  # fmt: skip
    return chosen or default


def _concerns(market: Market, run: Run) -> bool:
    """Whether a run is one of the market stage."""
    own = {"/".join(market.layout.path(asset)) for asset in ASSETS.values()}
    return run.job == market.layout.name(MARKET_JOB) or not own.isdisjoint(run.assets)


def _sessions(market: Market) -> Sequence[date]:
    """The market's sessions from its start up to the newest that has closed, or to its end."""
    universe, calendar = market.layout.universe, market.layout.calendar
    return calendar.between(universe.start, min(universe.end or date.max, calendar.last_closed(datetime.now(UTC))))


@st.cache_resource(max_entries=12, show_spinner=False)
def _holding(_market: Market, asset: str, _sessions: Sequence[date], known: tuple[object, ...]) -> Holding:
    """An asset's partitions, kept while what is `known` of the market stays."""
    universe = _market.layout.universe
    bad = _rows(
        _market,
        f"SELECT * FROM {quarantine.TABLE.name} WHERE symbol IN (SELECT unnest(?)) ORDER BY ts, symbol",
        quarantine.TABLE.empty(stored=True).schema,
    )
    return Holding(
        partitions.partitions(universe.bounds, _sessions, partitions.history_needed(asset, universe.feature_sets)),
        _stored(_market, asset),
        bad.filter(pl.col("table_name").str.starts_with(asset)),
        universe.grain,
    )


def _stored(market: Market, asset: str) -> pl.DataFrame:
    """symbol, ts of the partitions that have rows: of features, in every set of the universe."""
    day = "known_on" if asset == "labels" else "ts"
    tables = _wide_tables(market.layout.universe.feature_sets) if asset == "features_daily" else [asset]
    each = [f"SELECT DISTINCT symbol, {day} AS ts FROM {one} WHERE symbol IN (SELECT unnest($1))" for one in tables]
    return _rows(market, " INTERSECT ".join(each), {"symbol": pl.String, "ts": pl.Date}, tables)


def _feature(symbol: str, version: str, name: str) -> pl.DataFrame:
    """ts, value of one feature; no rows where its set is not computed yet."""
    (table,) = _wide_tables([version])
    if not _exist([table]):
        return pl.DataFrame(schema={"ts": pl.Date, "value": pl.Float64})
    return state.query(f'SELECT ts, "{name}" AS value FROM {table} WHERE symbol = ? ORDER BY ts', [symbol])


def _wide_tables(versions: Sequence[str]) -> list[str]:
    return [features_daily.wide(version, FEATURE_SETS[version].names).name for version in versions]


def _rows(market: Market, sql: str, schema: Mapping[str, Any], tables: Sequence[str] = ()) -> pl.DataFrame:
    """What `sql` says of the market's symbols, its parameter; no rows where nothing is published, or not `tables`."""
    if state.snapshot() is None or not _exist(tables):
        return pl.DataFrame(schema=schema)
    return state.query(sql, [list(market.layout.universe.names)])


def _exist(tables: Sequence[str]) -> bool:
    return set(tables) <= set(state.query("SELECT table_name FROM information_schema.tables")["table_name"])


def _materialised(market: Market, asset: str) -> pl.DataFrame | None:
    """symbol, key of the partitions that Dagster calls materialised; None where it cannot be asked."""
    if not state.dagster().alive():
        return None
    with contextlib.suppress(LabError):
        return _asked(tuple(market.layout.path(asset)), str(state.snapshot()))
    return None


@st.cache_data(ttl=_ASKED_AGAIN, max_entries=30, show_spinner="Dagster is asked what is materialised")
def _asked(path: tuple[str, ...], copy: str) -> pl.DataFrame:
    """What Dagster says of an asset, kept for a moment; anew for another published `copy`."""
    return partitions.materialised(state.dagster().materialized(path))
