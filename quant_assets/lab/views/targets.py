"""Page Targets: what a strategy decided on a date, why, what it changed, and its weights over time."""

import contextlib
from bisect import bisect_right
from collections.abc import Sequence
from datetime import date

import plotly.graph_objects as go
import polars as pl
import streamlit as st

from quant_assets.core.drawing import BENCHMARK, LOSS, SERIES
from quant_assets.lab import charts, notices, state, widgets
from quant_assets.strategy.markets import STRATEGY_TAG

FLAGS = {
    "R1": "gross exposure cap",
    "R2": "weight cap of a symbol",
    "R3": "number of positions",
    "R4": "turnover cap",
    "R5": "score floor or top k",
    "missing": "no score",
    "unlisted": "not listed",
    "V1": "last verdict is fail",
}
"""What rejected, cut or delayed a weight: the supervisor's rules in their order, and the gate."""

_SAME = 1e-9
"""Weights nearer than this are the same."""
_NAMED = len(SERIES) - 1
"""More symbols than these are drawn as one, the smallest ones."""
_OTHERS = "others"
_POINTS = 5_000
_ASOF, _ASKED = "asof", "asof_asked"
_WEIGHTS = {"symbol": pl.String, "weight": pl.Float64}
_ACTIONS = {"bought": charts.GAIN, "sold": LOSS, "held": BENCHMARK}


def as_of(dates: Sequence[date], wanted: date) -> date:
    """The last of `dates` (sorted) on or before `wanted`; the first if none is."""
    return dates[max(bisect_right(dates, wanted) - 1, 0)]


def in_words(flags: pl.Expr) -> pl.Expr:
    """Names of rules as one text: `R4 turnover cap, R5 score floor or top k`."""
    words = {name: f"{name} {words}" if name[0] in "RV" else words for name, words in FLAGS.items()}
    return flags.list.eval(pl.element().replace(words)).list.join(", ")


def changes(now: pl.DataFrame, before: pl.DataFrame) -> pl.DataFrame:
    """symbol, before, weight, change, action of all symbols with a weight on either date, the largest first.

    Of short positions the weight is below 0: covering buys, and going short sells.

    Args:
        now, before: symbol, weight on a rebalance date and on the one before it (no rows: there is none).
    """
    held = pl.col("weight").abs() > _SAME
    both = now.filter(held).join(before.filter(held), on="symbol", how="full", coalesce=True, suffix="_before")
    weight, last = pl.col("weight").fill_null(0.0), pl.col("weight_before").fill_null(0.0)
    change = weight - last
    action = pl.when(change > _SAME).then(pl.lit("bought")).when(change < -_SAME).then(pl.lit("sold"))
    return both.select(
        "symbol", before=last, weight=weight, change=change, action=action.otherwise(pl.lit("held"))
    ).sort([pl.col("weight").abs(), "symbol"], descending=[True, False])  # fmt: skip


def exposures(book: pl.DataFrame) -> dict[str, float]:
    """gross, net, long, short, cash (1 less net) and one-way turnover (half of what moved), as shares of equity.

    Args:
        book: as `changes` gives it.
    """
    weight = book["weight"]
    net = float(weight.sum())
    return {
        "gross": float(weight.abs().sum()),
        "net": net,
        "long": float(weight.clip(lower_bound=0).sum()),
        "short": float(weight.clip(upper_bound=0).sum()),
        "cash": 1 - net,
        "turnover": float(book["change"].abs().sum()) / 2,
    }


def over_time(weights: pl.DataFrame) -> pl.DataFrame:
    """asof and a column of weights for each symbol, the one with the largest weights first, 0 where it is not held.

    Of many symbols the smallest are one column, `others`: their sum.

    Args:
        weights: asof, symbol, weight; a date where nothing is held has rows of weight 0.
    """
    size = weights.group_by("symbol").agg(size=pl.col("weight").abs().sum()).filter(pl.col("size") > _SAME)
    ranked = size.sort(["size", "symbol"], descending=[True, False])["symbol"].to_list()
    named = ranked if len(ranked) <= _NAMED else ranked[: _NAMED - 1]
    wide = weights.select("asof").unique().sort("asof")
    if named:
        shown = pl.when(pl.col("symbol").is_in(named)).then("symbol").otherwise(pl.lit(_OTHERS))
        cells = weights.with_columns(symbol=shown).group_by("asof", "symbol").agg(pl.col("weight").sum())
        wide = wide.join(cells.pivot("symbol", index="asof", values="weight"), on="asof", how="left")
    columns = [*named, *([_OTHERS] if len(ranked) > len(named) else [])]
    return wide.select("asof", pl.col(columns).fill_null(0.0)).sort("asof")


def touched(counts: pl.DataFrame, rebalances: int) -> pl.DataFrame:
    """rule (in words), dates, share (of the rebalances), rows: how often each rule touched, in the rules' order.

    Args:
        counts: flag, rows, dates.
    """
    order = pl.DataFrame({"flag": list(FLAGS)}).with_row_index("at")
    known = counts.join(order, on="flag", how="left").sort("at", "flag", nulls_last=True)
    return known.select(
        in_words(pl.concat_list("flag")).alias("rule"), "dates", (pl.col("dates") / rebalances).alias("share"), "rows"
    )


def changes_figure(book: pl.DataFrame) -> go.Figure:
    """Weights now as bars, coloured by what was done, and a mark where each was before."""
    symbols = book["symbol"].to_list()
    figure = go.Figure()
    for action, colour in _ACTIONS.items():
        some = book.filter(action=action)
        if some.height:
            figure.add_bar(
                y=some["symbol"], x=some["weight"], customdata=some.select("before", "change").to_numpy(), name=action,
                orientation="h", marker_color=colour, texttemplate="%{x:.1%}", textposition="auto",
                hovertemplate="%{y}: %{x:.2%}, before %{customdata[0]:.2%}, moved %{customdata[1]:+.2%}<extra></extra>",
            )  # fmt: skip
    figure.add_scatter(
        y=book["symbol"], x=book["before"], name="before", mode="markers", hoverinfo="skip",
        marker={"symbol": "line-ns-open", "size": 18, "color": SERIES[1], "line_width": 3},
    )  # fmt: skip
    figure.update_yaxes(categoryorder="array", categoryarray=symbols[::-1])
    figure.update_xaxes(tickformat=".0%", zeroline=True)
    height = 150 + 30 * max(len(symbols), 2)
    return charts.styled(figure, height).update_layout(
        barmode="overlay", hovermode="closest", legend={"y": -40 / (height - 60)}
    )


def weights_figure(wide: pl.DataFrame, chosen: date) -> go.Figure:
    """Weights over time, stacked; shorts are stacked below zero. `wide`: as `over_time` gives it."""
    few = charts.thinned(wide, _POINTS)
    symbols = [name for name in few.columns if name != "asof"]
    figure = go.Figure()
    for name, colour in (charts.colours(symbols) | {_OTHERS: SERIES[-1]}).items():
        if name not in symbols:
            continue
        weight = few[name]
        sides = {"long": weight.clip(lower_bound=0), "short": weight.clip(upper_bound=0)}
        drawn = [side for side, values in sides.items() if (values.abs() > _SAME).any()]
        for side in drawn:
            figure.add_scatter(
                x=few["asof"], y=sides[side], name=name, legendgroup=name, showlegend=side == drawn[0],
                stackgroup=side, mode="lines", line={"width": 0, "color": colour, "shape": "hv"},
                hovertemplate="%{y:.1%}",
            )  # fmt: skip
    figure.update_yaxes(tickformat=".0%")
    return charts.moment(charts.styled(figure, 380), chosen, chosen.isoformat())


def page() -> None:
    """Draw the page."""
    widgets.heading(
        "Targets", "What a strategy decided at the close of a date: weights, and why they are what they are."
    )
    ids, stored = list(state.strategies()), _strategies_with_targets()
    ids += [one for one in stored if one not in ids]
    if not ids:
        widgets.nothing("There is no strategy", f"Put a strategy file into {state.config().strategies_dir}.")
        return
    with st.columns(2)[0]:
        default = next((at for at, one in enumerate(ids) if one in stored), 0)
        strategy = widgets.picked("Strategy", ids, "strategy", default=default)
    notices.failure(f"strategy {strategy}", lambda run: strategy in (run.tags.get(STRATEGY_TAG), run.job))
    if strategy not in stored:
        widgets.nothing(
            f"{strategy} has no targets yet",
            "It decides once the bars of its market are stored: on the page Strategies, or on the command line:",
            f"quant pipeline run --strategy {strategy}",
        )
        widgets.link_to("strategies", f"Decide: {strategy}", strategy=strategy)
        return
    version = _version(strategy)
    dates: list[date] = state.query(
        'SELECT DISTINCT "asof" FROM targets WHERE strategy_id = ? AND version = ? ORDER BY 1', [strategy, version]
    )["asof"].to_list()
    chosen = _date_picker(dates)
    rows = _rows(strategy, version, chosen)
    at = dates.index(chosen)
    before = _rows(strategy, version, dates[at - 1]) if at else pl.DataFrame(schema=_WEIGHTS)
    book = changes(rows, before)
    _tiles(rows, book)
    _decisions(strategy, chosen, rows, book)
    _changed(book, dates[at - 1] if at else None)
    _history(strategy, version, chosen, rebalances=len(dates))


def _strategies_with_targets() -> list[str]:
    if state.snapshot() is None:
        return []
    return state.query("SELECT DISTINCT strategy_id FROM targets ORDER BY 1")["strategy_id"].to_list()


def _version(strategy: str) -> str:
    """The version whose targets are shown: the one that decided last, or which of several is picked."""
    versions = state.query(
        "SELECT version FROM targets WHERE strategy_id = ? GROUP BY version ORDER BY max(generated_at) DESC, version",
        [strategy],
    )["version"].to_list()
    return widgets.picked("Version", versions, "version") if len(versions) > 1 else versions[0]


def _rows(strategy: str, version: str, asof: date) -> pl.DataFrame:
    return state.query(
        "SELECT symbol, score, approved, weight, risk_flags, reason, generated_at, run_id FROM targets "
        'WHERE strategy_id = ? AND version = ? AND "asof" = ? ORDER BY symbol',
        [strategy, version, asof],
    )


def _date_picker(dates: Sequence[date]) -> date:
    """One of the rebalance dates (sorted), the newest first; a link to another date shows the last one before it."""
    options = [day.isoformat() for day in reversed(dates)]
    for asked in (st.session_state.get(_ASOF), st.query_params.get(_ASOF)):
        if asked is None or asked in options:
            continue
        with contextlib.suppress(ValueError):  # anything may stand in a URL, which has the last word
            wanted = date.fromisoformat(asked)
            found = as_of(dates, wanted).isoformat()
            st.session_state[_ASOF], st.session_state[_ASKED] = found, (wanted, found)
    picker, earlier, later = st.columns([4, 1, 1], vertical_alignment="bottom")
    with picker:
        chosen = widgets.picked("Rebalance date", options, _ASOF)
    at = options.index(chosen)
    for column, label, step, icon in ((earlier, "Earlier", 1, "arrow_back"), (later, "Later", -1, "arrow_forward")):
        other = at + step
        there = 0 <= other < len(options)
        column.button(
            label, key=label, icon=f":material/{icon}:", width="stretch", disabled=not there,
            on_click=_show, args=(options[other] if there else chosen,),
        )  # fmt: skip
    asked_for, instead = st.session_state.get(_ASKED, (None, None))
    if instead == chosen:
        then = "in force then" if date.fromisoformat(chosen) <= asked_for else "that came first"
        st.info(f"No targets of {asked_for}: shown are those {then}, as of {chosen}.", icon=":material/info:")
    return date.fromisoformat(chosen)


def _show(asof: str) -> None:
    st.session_state[_ASOF] = asof
    st.session_state.pop(_ASKED, None)


def _tiles(rows: pl.DataFrame, book: pl.DataFrame) -> None:
    shares = exposures(book)
    tiles = {
        "Held": f"{rows['approved'].sum()} of {rows.height}",
        "Gross exposure": f"{shares['gross']:.1%}",
        **({"Long": f"{shares['long']:.1%}", "Short": f"{shares['short']:.1%}"} if shares["short"] else {}),
        "Cash": f"{shares['cash']:.1%}",
        "Turnover": f"{shares['turnover']:.1%}",
    }
    helps = {
        "Cash": "one less the sum of the weights: what is sold short adds to it",
        "Turnover": "one way, of this rebalance: half the sum of what the weights moved by",
        "Gross exposure": "sum of the absolute weights",
    }
    with st.container(horizontal=True):
        for label, value in tiles.items():
            st.metric(label, value, border=True, width="content", help=helps.get(label))


def _decisions(strategy: str, chosen: date, rows: pl.DataFrame, book: pl.DataFrame) -> None:
    st.subheader("Who was chosen, and who was rejected")
    shown = (
        rows.join(book.select("symbol", "before"), on="symbol", how="left", maintain_order="left")
        .with_columns(pl.col("before").fill_null(0.0), flags=in_words(pl.col("risk_flags")))
        .sort([pl.col("approved"), pl.col("weight").abs(), pl.col("score")], descending=True, nulls_last=True)
        .select("symbol", "approved", "weight", "before", "score", "flags", "reason")
    )
    event = widgets.table(
        shown,
        {
            "symbol": st.column_config.TextColumn("Symbol", pinned=True),
            "approved": st.column_config.CheckboxColumn("Approved", help="held from here on"),
            "weight": st.column_config.NumberColumn("Weight", format="percent", help="share of equity; short below 0"),
            "before": st.column_config.NumberColumn("Before", format="percent", help="at the last rebalance"),
            "score": st.column_config.NumberColumn("Score", format="%.4g", help="what the signal said"),
            "flags": st.column_config.TextColumn("Rules that touched it"),
            "reason": st.column_config.TextColumn("Reason", width="large"),
        },
        key=f"decisions_{strategy}_{chosen}",
        on_select="rerun",
        selection_mode="single-row",
    )
    if picked := event.selection.rows:
        symbol = shown["symbol"][picked[0]]
        widgets.link_to("lineage", f"Lineage of {symbol}", strategy=strategy, symbol=symbol, asof=chosen)
    else:
        st.caption("Select a row for the way back from it to prediction, model, features and bars.")
    decided, run = rows.select(pl.col("generated_at").max(), pl.col("run_id").last()).row(0)
    st.caption(f"Decided on {decided:%Y-%m-%d at %H:%M} UTC by [this run]({state.dagster().run_url(run)}).")
    widgets.link_to("strategies", "Decide for the newest session", strategy=strategy)


def _changed(book: pl.DataFrame, last: date | None) -> None:
    st.subheader(f"Against the last rebalance, {last}" if last else "The first rebalance")
    if book.is_empty():
        st.caption("Nothing is held, and nothing was.")
        return
    widgets.plot(changes_figure(book), "changes", alt="weights of the date beside those of the rebalance before it")


def _history(strategy: str, version: str, chosen: date, rebalances: int) -> None:
    st.subheader("Weights over time")
    weights = state.query(
        'SELECT "asof", symbol, weight FROM targets WHERE strategy_id = ? AND version = ? ORDER BY "asof", symbol',
        [strategy, version],
    )
    wide = over_time(weights)
    if wide.width == 1:
        st.caption("Nothing was ever held.")
    else:
        widgets.plot(weights_figure(wide, chosen), "weights", alt="weights of all symbols over time, stacked")
    st.subheader("How often each rule touched")
    counts = state.query(
        'SELECT flag, count(*) AS rows, count(DISTINCT "asof") AS dates FROM '
        '(SELECT unnest(risk_flags) AS flag, "asof" FROM targets WHERE strategy_id = ? AND version = ?) '
        "GROUP BY flag",
        [strategy, version],
    )
    if counts.is_empty():
        st.caption(f"No rule touched a weight on any of {rebalances:,} rebalance dates.")
        return
    widgets.table(
        touched(counts, rebalances),
        {
            "rule": "Rule",
            "dates": st.column_config.NumberColumn("Dates", format="localized"),
            "share": st.column_config.ProgressColumn("Share of dates", format="percent", min_value=0, max_value=1),
            "rows": st.column_config.NumberColumn("Decisions", format="localized", help="symbols on dates"),
        },
    )
