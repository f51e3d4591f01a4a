"""Figures of an event-driven backtest. Frames of `event_records` in, figures out."""

from datetime import date, datetime, timedelta

import plotly.graph_objects as go
import polars as pl

from quant_assets.core.drawing import ACCENT, BENCHMARK, LOSS, SERIES
from quant_assets.lab import charts
from quant_assets.trading.operating import Operating, OperatingPolicy, OperatingRules

DRAWN = 2_000
"""So many marks of fills at most are drawn, the newest; one is all buys or all sells of a day."""
_MANY, _SIZES = 300, (8, 5)
"""Beyond so many, marks of fills are smaller: pixels of few and of many."""
_NAMED = 6
"""So many symbols at most are named in the words of a day's fills."""
_BANDS = {
    Operating.AGGRESSIVE: "rgba(22, 150, 90, 0.18)",
    Operating.BALANCED: "rgba(148, 163, 184, 0.18)",
    Operating.DEFENSIVE: "rgba(245, 158, 12, 0.24)",
}
_SIDES = {"buy": ("triangle-up", charts.GAIN), "sell": ("triangle-down", SERIES[4])}
_BECAME = {
    "filled": ACCENT,
    "denied": LOSS,
    "rejected": SERIES[3],
    "canceled": SERIES[4],
    "expired": SERIES[8],
    "partially_filled": SERIES[2],
}
"""Last state of an order -> colour; any other is still open."""


def operating_spans(changes: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """In which operating state the system was when: state, begin and end (both datetime), in their order.

    Args:
        changes: `event_records.changes`.
        first, last: days of the run, both within it.
    """
    begun, over = (datetime.combine(day, datetime.min.time()) for day in (first, last + timedelta(1)))
    initial = str(OperatingPolicy(OperatingRules()).state)
    moved = changes.filter(pl.col("kind") == "operating_change").select(
        "state", begin=pl.col("ts").cast(pl.Datetime("us"))
    )
    start = pl.DataFrame({"state": [initial], "begin": [begun]}, schema=moved.schema)
    spans = pl.concat([start, moved]).with_columns(end=pl.col("begin").shift(-1, fill_value=over))
    return spans.filter(pl.col("end") > pl.col("begin"))


def shares_of_time(spans: pl.DataFrame) -> dict[str, float]:
    """Operating state -> fraction of the time, those that there were, from bold to careful; `spans` as above."""
    lasted = spans.group_by("state").agg((pl.col("end") - pl.col("begin")).sum().dt.total_seconds().alias("seconds"))
    seconds = dict(lasted.iter_rows())
    return {state: seconds[state] / sum(seconds.values()) for state in _BANDS if state in seconds}


def equity(curve: pl.DataFrame, fills: pl.DataFrame, spans: pl.DataFrame, safety: pl.DataFrame) -> go.Figure:
    """Equity with the days of fills on it, over the operating states; changes of the safety state are marked.

    Args:
        curve: ts (days) and equity, sorted.
        fills: `event_records.fills_of_days`.
        spans: `operating_spans`.
        safety: ts (days), state and reason of the changes.
    """
    figure = go.Figure()
    for state, colour in _BANDS.items():
        own = spans.filter(pl.col("state") == state)
        if own.height:
            figure.add_bar(
                x=own["begin"], y=[1.0] * own.height, offset=0, name=state.lower(), yaxis="y2", hoverinfo="skip",
                width=(own["end"] - own["begin"]).dt.total_milliseconds(), marker={"color": colour, "line_width": 0},
            )  # fmt: skip
    at_close = curve.select("ts", "equity")
    drawn = fills.join(at_close, on="ts", maintain_order="left").tail(DRAWN)
    size = _SIZES[drawn.height > _MANY]
    for side, (symbol, colour) in _SIDES.items():
        own = drawn.filter(pl.col("side") == side)
        _marks(figure, own.with_columns(words=_fill_words(side)), f"{side}s", symbol, colour, size)
    few = charts.thinned(at_close)
    figure.add_scatter(
        x=few["ts"], y=few["equity"], name="equity", mode="lines", line={"color": ACCENT, "width": 1.6},
        hovertemplate="%{x}: %{y:,.0f}<extra></extra>",
    )  # fmt: skip
    changed = safety.join(at_close, on="ts", maintain_order="left").with_columns(
        words=pl.format("<b>safety {}</b> {}<br>{}", "state", "ts", pl.col("reason").fill_null(""))
    )
    _marks(figure, changed, "safety changes", "diamond", LOSS, 12)
    figure.update_layout(
        xaxis={"range": [curve["ts"][0], curve["ts"][-1]]},
        yaxis={"title": "equity"},
        yaxis2={"overlaying": "y", "range": [0, 1], "visible": False, "fixedrange": True},
        barmode="overlay",
    )
    return charts.styled(figure, 440).update_layout(hovermode="closest")


def _marks(figure: go.Figure, rows: pl.DataFrame, name: str, symbol: str, colour: str, size: int) -> None:
    if rows.height:
        figure.add_scatter(
            x=rows["ts"], y=rows["equity"], name=name, mode="markers", text=rows["words"],
            hovertemplate="%{text}<extra></extra>", marker={"symbol": symbol, "color": colour, "size": size},
        )  # fmt: skip


def _fill_words(side: str) -> pl.Expr:
    """What the hover says of a day's fills of one side."""
    symbols = pl.col("symbols")
    rest = pl.when(symbols.list.len() > _NAMED).then(pl.format(" and {} more", symbols.list.len() - _NAMED))
    return pl.format(
        f"<b>{{}} {side}(s)</b> {{}}, worth {{}}<br>{{}}{{}}",
        "fills",
        "ts",
        pl.col("value").round(0).cast(pl.Int64),
        symbols.list.head(_NAMED).list.join(", "),
        rest.otherwise(pl.lit("")),
    )


def order_flow(orders: pl.DataFrame, fills: pl.DataFrame) -> go.Figure:
    """Orders of each month, stacked by what became of them, and the fills of the month as a mark.

    Args:
        orders: `event_records.orders_of_months`, at least one row.
        fills: `event_records.fills_of_months`.
    """
    figure = go.Figure()
    known = pl.col("became").is_in(list(_BECAME))
    named = orders.with_columns(pl.when(known).then("became").otherwise(pl.lit("open")))
    counted = named.group_by("became", "month").agg(pl.col("orders").sum()).sort("month")
    for became, colour in {**_BECAME, "open": BENCHMARK}.items():
        own = counted.filter(pl.col("became") == became)
        if own.height:
            figure.add_bar(
                x=own["month"], y=own["orders"], name=f"orders {became.replace('_', ' ')}", marker_color=colour
            )
    figure.add_scatter(
        x=fills["month"], y=fills["fills"], name="fills", mode="markers", marker={"color": SERIES[1], "size": 5}
    )  # fmt: skip
    figure.update_layout(barmode="stack", bargap=0.15, yaxis={"title": "a month"}).update_xaxes(hoverformat="%B %Y")
    return charts.styled(figure, 400)
