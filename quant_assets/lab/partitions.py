"""Partitions of the market stage: what each (date, symbol) is, by what is stored and what Dagster calls materialised.

Frames in, frames and figures out; nothing of Streamlit.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date

import numpy as np
import plotly.graph_objects as go
import polars as pl

from quant_assets.core.drawing import ACCENT, LOSS, SERIES
from quant_assets.features import FEATURE_SETS
from quant_assets.lab import charts
from quant_assets.labels import LABEL_SETS
from quant_assets.strategy.universe import Bounds

STORED, UNKNOWN, MISSING, EMPTY, QUARANTINED, EARLY, UNLISTED, CLOSED = (
    "stored",
    "stored, not materialised",
    "missing",
    "materialised, no rows",
    "quarantined",
    "too little history",
    "not listed",
    "no session",
)
STATES = {
    MISSING: LOSS,
    QUARANTINED: SERIES[1],
    EMPTY: SERIES[4],
    UNKNOWN: SERIES[7],
    STORED: ACCENT,
    EARLY: "rgba(148, 163, 184, 0.6)",
    UNLISTED: "rgba(148, 163, 184, 0.35)",
    CLOSED: "rgba(148, 163, 184, 0.12)",
}
"""What a partition can be, the gravest first, and its colour."""

LACKING = (MISSING, EMPTY, QUARANTINED)
_STATE = pl.Enum(list(STATES))
_APART = 60
"""More columns than these touch."""
_WINDOW = {"day": "1d", "week": "1w", "month": "1mo"}


def history_needed(asset: str, versions: Sequence[str]) -> int:
    """Sessions of its own that a symbol must have before the first on which `asset` can have rows.

    Args:
        versions: feature sets of the universe.
    """
    if asset == "features_daily":
        return max(min(one.lookback for one in FEATURE_SETS[version].features) for version in versions)
    if asset == "labels":
        return min(one.lookback + one.horizon for labels in LABEL_SETS.values() for one in labels.labels)
    return 0


def partitions(bounds: Mapping[str, Bounds], sessions: Sequence[date], history: int) -> pl.DataFrame:
    """symbol, ts, due: each symbol's sessions while it is listed; the first `history` of them are not `due`.

    Args:
        sessions: those of the market up to the newest that has closed, sorted.
    """
    listed = pl.DataFrame(
        [(symbol, first, last or date.max) for symbol, (first, last) in bounds.items()],
        schema={"symbol": pl.String, "first": pl.Date, "last": pl.Date},
        orient="row",
    )
    days = pl.DataFrame({"ts": sessions}, schema={"ts": pl.Date})
    inside = pl.col("ts").is_between("first", "last")
    cells = listed.join(days, how="cross").filter(inside).sort("symbol", "ts").select("symbol", "ts")
    return cells.with_columns(due=pl.int_range(pl.len()).over("symbol") >= history)


def materialised(keys: Mapping[str, Collection[str]]) -> pl.DataFrame:
    """symbol, key: date keys by symbol, as Dagster's client gives them, as rows."""
    columns = {"symbol": list(keys), "key": [list(days) for days in keys.values()]}
    rows = pl.DataFrame(columns, schema={"symbol": pl.String, "key": pl.List(pl.String)}).explode("key").drop_nulls()
    return rows.with_columns(pl.col("key").str.to_date())


def states(
    wanted: pl.DataFrame,
    stored: pl.DataFrame,
    quarantined: pl.DataFrame,
    made: pl.DataFrame | None,
    grain: str = "day",
) -> pl.DataFrame:
    """symbol, ts, state of each partition, a day each whatever the grain.

    Args:
        wanted: as `partitions` gives them.
        stored: symbol, ts of the partitions that have rows.
        quarantined: symbol, ts of bad rows.
        made: symbol, key (first day of the date partition) of what is materialised; None: nobody knows.
        grain: length of a date partition: `day`, `week`, `month`.
    """
    cells = wanted.with_columns(key=pl.col("ts").dt.truncate(_WINDOW[grain]))
    for frame, name, day in (
        (stored.select("symbol", "ts"), "stored", "ts"),
        (quarantined.select("symbol", "ts"), "bad", "ts"),
        (materialised({}) if made is None else made, "made", "key"),
    ):
        marked = frame.unique().with_columns(pl.lit(True).alias(name))
        cells = cells.join(marked, on=["symbol", day], how="left", maintain_order="left")
    stored_, bad, done = (pl.col(name).fill_null(False) for name in ("stored", "bad", "made"))
    known = pl.lit(made is not None)
    state = (
        pl.when(stored_ & known & ~done)
        .then(pl.lit(UNKNOWN))
        .when(stored_)
        .then(pl.lit(STORED))
        .when(bad)
        .then(pl.lit(QUARANTINED))
        .when(~pl.col("due"))
        .then(pl.lit(EARLY))
        .when(done)
        .then(pl.lit(EMPTY))
        .otherwise(pl.lit(MISSING))
    )
    return cells.select("symbol", "ts", state=state.cast(_STATE))


def holes(cells: pl.DataFrame) -> pl.DataFrame:
    """symbol, first, last, sessions, state: neighbouring partitions of a symbol that lack rows, newest first.

    Args:
        cells: as `states` gives them, sorted by symbol and ts.
    """
    at = pl.int_range(pl.len()).over("symbol")
    lacking = cells.with_columns(at=at).filter(pl.col("state").is_in(LACKING))
    run = pl.col("at") - pl.int_range(pl.len()).over("symbol", "state")
    spans = lacking.with_columns(run=run).group_by("symbol", "state", "run")
    found = spans.agg(first=pl.col("ts").min(), last=pl.col("ts").max(), sessions=pl.len())
    return found.select("symbol", "first", "last", "sessions", "state").sort(
        ["last", "symbol"], descending=[True, False]
    )


def to_ingest(found: Sequence[pl.DataFrame]) -> tuple[list[str], date, date] | None:
    """Symbols and the period that hold all of several assets' `holes`; None if there are none."""
    spans = pl.concat(found)
    if spans.is_empty():
        return None
    first, last = spans.select(pl.col("first").min(), pl.col("last").max()).row(0)
    return spans["symbol"].unique().sort().to_list(), first, last


def neighbours(names: Sequence[str], chosen: Sequence[str]) -> list[str]:
    """`chosen` and what lies between them in `names`: a run covers a range of symbols."""
    at = [names.index(one) for one in chosen]
    return list(names[min(at) : max(at) + 1]) if at else []


def months(cells: pl.DataFrame) -> pl.DataFrame:
    """symbol, month (its first day), state (the gravest of its partitions), stored, sessions."""
    return (
        cells.group_by("symbol", month=pl.col("ts").dt.truncate("1mo"))
        .agg(
            state=pl.col("state").min(),
            stored=pl.col("state").is_in([STORED, UNKNOWN]).sum(),
            sessions=pl.len(),
        )
        .sort("symbol", "month")
    )


def year_of(cells: pl.DataFrame, year: int, sessions: Sequence[date]) -> pl.DataFrame:
    """day, week (its Monday), weekday (0: Monday), state of each day of a year; null after the last of `sessions`.

    Args:
        cells: `states` of one symbol.
        sessions: those of the market up to the newest that has closed, sorted.
    """
    days = pl.DataFrame({"day": pl.date_range(date(year, 1, 1), date(year, 12, 31), eager=True)})
    day, known = pl.col("day"), cells.select(day="ts", state="state")
    otherwise = (
        pl.when(day.is_in(list(sessions)))
        .then(pl.lit(UNLISTED))
        .when(day <= sessions[-1])
        .then(pl.lit(CLOSED))
        .cast(_STATE)
    )
    return days.join(known, on="day", how="left", maintain_order="left").select(
        "day",
        week=day.dt.truncate("1w"),
        weekday=day.dt.weekday() - 1,
        state=pl.col("state").fill_null(otherwise),
    )


def state_map(frame: pl.DataFrame, x: str, y: str, rows: Sequence[object], *, height: int) -> go.Figure:
    """A heat map of states with their names below.

    Args:
        frame: `x`, `y`, state (null: nothing there), told (what a cell's label says).
        rows: values of `y`, the first on top.
    """
    columns = frame[x].unique().sort().to_list()
    at_x, at_y = ({value: at for at, value in enumerate(values)} for values in (columns, rows))
    z = np.full((len(rows), len(columns)), np.nan)
    told = np.full(z.shape, "", dtype=object)
    place = tuple(
        frame[name].replace_strict(at, return_dtype=pl.Int64).to_numpy() for name, at in ((y, at_y), (x, at_x))
    )
    z[place] = frame["state"].to_physical().cast(pl.Float64).fill_null(float("nan")).to_numpy()
    told[place] = frame["told"].to_numpy()
    edges = np.repeat(np.arange(len(STATES) + 1) / len(STATES), 2)[1:-1].tolist()
    scale = list(zip(edges, np.repeat(list(STATES.values()), 2).tolist(), strict=True))
    gap = 1 if len(columns) <= _APART else 0
    figure = go.Figure(
        go.Heatmap(
            z=z, x=columns, y=[str(row) for row in rows], customdata=told, colorscale=scale, zmin=-0.5,
            zmax=len(STATES) - 0.5, showscale=False, xgap=gap, ygap=1, hovertemplate="%{customdata}<extra></extra>",
            hoverongaps=False,
        )
    )  # fmt: skip
    for state in frame["state"].drop_nulls().unique().sort():
        marker = {"color": STATES[state], "symbol": "square", "size": 11}
        figure.add_scatter(x=[None], y=[None], mode="markers", marker=marker, name=state)
    figure.update_yaxes(autorange="reversed", showgrid=False, zeroline=False)
    figure.update_xaxes(showgrid=False, side="top")
    legend = {"y": -16 / (height - 60), "itemclick": False, "itemdoubleclick": False}
    return charts.styled(figure, height).update_layout(hovermode="closest", legend=legend)
