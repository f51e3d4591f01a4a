"""Figures of the trades of one symbol. Points carry their `trade_no` as custom data, so that a click tells which."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import plotly.graph_objects as go
import polars as pl

from quant_assets.core.drawing import ACCENT, BENCHMARK, LOSS, SERIES
from quant_assets.lab import charts
from quant_assets.lab.trade_records import OPEN, STOPS, positions

DRAWN = 1_000
"""So many of the newest entries and exits at most are drawn."""
_CANDLES = 300
"""So many sessions at most are drawn as candles."""
_AROUND = 15
"""Sessions before and after a trade in its close-up."""
_SIDES = {"long": ("triangle-up", charts.GAIN), "short": ("triangle-down", SERIES[4])}
_HEIGHT, _BELOW_TITLE = 340, -0.3
"""Of the smaller figures: pixels, and where the legend has room below an axis with a title."""


def price(
    bars: pl.DataFrame, trades: pl.DataFrame, chosen: int | None = None, *, at_open: bool, log: bool = False
) -> go.Figure:
    """The price of a symbol with its entries, exits and stops; the time in which it was held is shaded.

    Args:
        bars: adjusted bars of the symbol, sorted, at least one; candles where they are few.
        trades: `with_signals` and `with_extremes`; what lies outside the bars is left out.
        chosen: `trade_no` of the trade to mark.
        at_open: whether positions are opened at the open, not at the close.
        log: a logarithmic scale of the price.
    """
    first, last = bars["ts"][0], bars["ts"][-1]
    held = positions(trades).filter((pl.col("until") >= first) & (pl.col("entry_ts") <= last))
    opened = bars.select(entry_ts="ts", quoted="open" if at_open else "close")
    entries = held.join(opened, on="entry_ts", maintain_order="left").with_columns(_entry_words())
    ended = trades.with_columns(
        _exit_words(), closing=pl.col("until") == pl.col("until").max().over("side", "entry_ts")
    )
    ended = ended.filter(pl.col("until").is_between(first, last))
    figure = go.Figure()
    for side, (_, colour) in _SIDES.items():
        _shade(figure, held.tail(DRAWN).filter(pl.col("side") == side), f"held {side}", colour)
    _draw(figure, bars)
    drawn = entries.tail(DRAWN)
    for side, (symbol, colour) in _SIDES.items():
        _points(figure, drawn.filter(pl.col("side") == side), "entry_ts", "quoted", f"entry {side}", symbol, colour)
    drawn, stopped, still_open = ended.tail(DRAWN), pl.col("reason").is_in(STOPS), pl.col("reason") == OPEN
    sold, closing = drawn.filter(~stopped & ~still_open), pl.col("closing")
    _points(figure, sold.filter(~closing), "until", "exit_price", "reduced", "circle-open", ACCENT)
    _points(figure, sold.filter(closing), "until", "exit_price", "exit", "circle", ACCENT)
    _points(figure, drawn.filter(stopped), "until", "exit_price", "stop", "x", LOSS)
    _points(figure, drawn.filter(still_open), "until", "exit_price", "still open", "diamond-open", ACCENT)
    if chosen is not None:
        trade = ended.filter(pl.col("trade_no") == chosen)
        begun = entries.join(trade, on=["side", "entry_ts"], how="semi")
        figure.add_scatter(
            x=[*begun["entry_ts"], *trade["until"]], y=[*begun["quoted"], *trade["exit_price"]], mode="markers",
            name=f"trade {chosen}", hoverinfo="skip",
            marker={"symbol": "circle-open", "size": 22, "color": ACCENT, "line": {"width": 2.5}},
        )  # fmt: skip
    room = timedelta(max(2, (last - first).days // 60))
    figure.update_layout(
        xaxis={"range": [first - room, last + room], "rangeslider": {"visible": False}},
        yaxis={"title": "price, adjusted", "type": "log" if log else "linear"},
        uirevision="kept",  # a click that marks a trade does not undo the zoom
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
    )
    return charts.styled(figure, 480).update_layout(hovermode="closest")


def close_up(bars: pl.DataFrame, trade: Mapping[str, Any], levels: pl.DataFrame) -> go.Figure:
    """Some sessions before a trade's signal to some after its exit, with where its stop stood.

    Args:
        bars: adjusted bars of the symbol, sorted.
        trade: row of `with_signals`.
        levels: `stop_levels`.
    """
    begin = bars["ts"].search_sorted(trade["entry_asof"] or trade["entry_ts"])
    end = bars["ts"].search_sorted(trade["exit_ts"] or bars["ts"][-1])
    figure = go.Figure()
    _draw(figure, bars[max(0, begin - _AROUND) : end + _AROUND + 1])
    if not levels.is_empty():
        line = {"color": LOSS, "width": 1.6, "dash": "dash", "shape": "hv"}
        figure.add_scatter(x=levels["ts"], y=levels["level"], name="stop level", mode="lines", line=line)
    symbol, colour = _SIDES[trade["side"]]
    stopped = trade["reason"] in STOPS
    ends = [("entry, average price", trade["entry_ts"], trade["entry_price"], symbol, colour)]
    if trade["exit_ts"]:
        end_symbol, end_colour = ("x", LOSS) if stopped else ("circle", ACCENT)
        ends.append((trade["reason"], trade["exit_ts"], trade["exit_price"], end_symbol, end_colour))
    for name, ts, paid, shape, shade in ends:
        figure.add_scatter(
            x=[ts], y=[paid], name=name, mode="markers", marker={"symbol": shape, "size": 13, "color": shade}
        )
    if trade["entry_asof"]:
        charts.moment(figure, trade["entry_asof"], "signal")
    figure.update_layout(xaxis_rangeslider_visible=False).update_yaxes(hoverformat=",.4~f")
    return charts.styled(figure, 400)


def _draw(figure: go.Figure, bars: pl.DataFrame) -> None:
    """The price: candles in grey, hollow where it rose, or a line of closes."""
    if bars.height > _CANDLES:
        few = charts.thinned(bars)
        line = {"color": BENCHMARK, "width": 1.4}
        figure.add_scatter(x=few["ts"], y=few["close"], name="close", mode="lines", line=line, hoverinfo="skip")
        return
    rose, fell = (
        {"line": {"color": BENCHMARK, "width": 1}, "fillcolor": fill} for fill in ("rgba(0,0,0,0)", BENCHMARK)
    )
    figure.add_candlestick(
        x=bars["ts"], open=bars["open"], high=bars["high"], low=bars["low"], close=bars["close"], name="price",
        increasing=rose, decreasing=fell,
    )  # fmt: skip


def _shade(figure: go.Figure, held: pl.DataFrame, name: str, colour: str) -> None:
    """One area for all periods: a shape for each would be slow."""
    if held.is_empty():
        return
    nowhere, levels = pl.lit(None, pl.Date), (0.0, 1.0, 1.0, 0.0, None)
    corners = held.select(
        x=pl.concat_list("entry_ts", "entry_ts", "until", "until", nowhere),
        y=pl.concat_list(pl.lit(value, pl.Float64) for value in levels),
    ).explode("x", "y")
    red, green, blue = (int(colour[at : at + 2], 16) for at in (1, 3, 5))
    figure.add_scatter(
        x=corners["x"], y=corners["y"], name=name, yaxis="y2", mode="lines", line={"width": 0}, fill="tozeroy",
        fillcolor=f"rgba({red}, {green}, {blue}, 0.12)", hoverinfo="skip",
    )  # fmt: skip


def _points(figure: go.Figure, rows: pl.DataFrame, x: str, y: str, name: str, symbol: str, colour: str) -> None:
    if rows.is_empty():
        return
    figure.add_scatter(
        x=rows[x], y=rows[y], name=name, mode="markers", text=rows["words"], hovertemplate="%{text}<extra></extra>",
        marker={"symbol": symbol, "color": colour, "size": 10, "line": {"width": 1.6, "color": colour}},
        customdata=rows["trade_no"].to_list(), unselected={"marker": {"opacity": 1}},
    )  # fmt: skip


def _entry_words() -> pl.Expr:
    """What the hover says of the entry of a position."""
    signal = pl.format(
        "<br>signal of {}: score {}, weight {} %<br>{}",
        "entry_asof",
        pl.col("entry_score").round_sig_figs(4).cast(pl.String).fill_null("none"),
        (pl.col("entry_weight") * 100).round(1),
        "entry_reason",
    )
    told = signal.fill_null("<br>no target is stored from before it")
    return pl.format("<b>entry {}</b> {} at {}{}", "side", "entry_ts", _price("quoted"), told).alias("words")


def _exit_words() -> pl.Expr:
    """What the hover says of the end of a trade."""
    return pl.format(
        "<b>{}</b> {} at {}<br>trade {}: return {} %, profit {}{}",
        pl.when(pl.col("reason") == OPEN).then(pl.lit("still open")).otherwise("reason"),
        "until",
        _price("exit_price"),
        "trade_no",
        (pl.col("pnl_pct") * 100).round(1),
        pl.col("pnl").round(0).cast(pl.Int64),
        pl.format("<br>signal of {}: {}", "exit_asof", "exit_reason").fill_null(""),
    ).alias("words")


def _price(column: str) -> pl.Expr:
    return pl.col(column).round_sig_figs(6)


def returns(trades: pl.DataFrame) -> go.Figure:
    """How many trades returned how much, coloured by how they ended."""
    figure = go.Figure()
    for reason, colour in charts.colours(trades["reason"].unique().sort().to_list()).items():
        own = trades.filter(pl.col("reason") == reason)
        figure.add_histogram(x=own["pnl_pct"], name=reason, marker_color=colour, bingroup=1)
    figure.update_layout(barmode="stack", xaxis={"tickformat": ".0%", "title": "return"}, yaxis={"title": "trades"})
    return charts.styled(figure, _HEIGHT).update_layout(legend_y=_BELOW_TITLE)


def profit(trades: pl.DataFrame) -> go.Figure:
    """What the exits of each day earned, and their sum so far; without what is still open."""
    days = trades.drop_nulls("exit_ts").group_by("exit_ts").agg(pl.col("pnl").sum()).sort("exit_ts")
    sums = charts.thinned(days.with_columns(total=pl.col("pnl").cum_sum()))
    line = {"color": ACCENT, "width": 2, "shape": "hv"}
    figure = go.Figure(go.Scatter(x=sums["exit_ts"], y=sums["total"], name="sum", mode="lines", line=line))
    for name, own, colour in (
        ("gains of a day", sums.filter(pl.col("pnl") > 0), charts.GAIN),
        ("losses of a day", sums.filter(pl.col("pnl") <= 0), LOSS),
    ):
        figure.add_scatter(
            x=own["exit_ts"], y=own["pnl"], name=name, mode="markers", marker={"color": colour, "size": 7}
        )
    figure.update_yaxes(title="profit", hoverformat=",.0f")
    return charts.styled(figure, _HEIGHT)


def against(trades: pl.DataFrame, column: str, title: str, shown: str = "") -> go.Figure:
    """The return of each trade against another of its columns: `days`, or `worst`."""
    figure = go.Figure()
    few = charts.thinned(trades.drop_nulls(column))
    for name, own, colour in (
        ("winners", few.filter(pl.col("pnl") > 0), charts.GAIN),
        ("losers", few.filter(pl.col("pnl") <= 0), LOSS),
    ):
        figure.add_scatter(
            x=own[column], y=own["pnl_pct"], name=name, mode="markers", customdata=own["trade_no"].to_list(),
            marker={"color": colour, "size": 7, "opacity": 0.7},
            hovertemplate=f"trade %{{customdata}}: %{{y:.1%}}, {title} %{{x:{shown}}}<extra></extra>",
        )  # fmt: skip
    figure.update_layout(xaxis={"title": title, "tickformat": shown}, yaxis={"title": "return", "tickformat": ".0%"})
    return charts.styled(figure, _HEIGHT).update_layout(hovermode="closest", legend_y=_BELOW_TITLE)
