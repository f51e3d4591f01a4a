"""Page Overview: where the platform stands. The newest backtest of each strategy, the newest runs, what to do next."""

from collections.abc import Sequence

import polars as pl
import streamlit as st

from quant_assets.core.errors import LabError
from quant_assets.lab import backtests, charts, state, widgets
from quant_assets.lab.dagster_api import Run
from quant_assets.strategy.markets import PERIOD_TAG

_POINTS = 120
"""A curve in a table is thinned to as many."""
_RUNS = 8
_STATES = {"SUCCESS": "✓ succeeded", "FAILURE": "✕ failed", "CANCELED": "canceled"}
_VERDICTS = {verdict: f"{sign} {verdict}" for verdict, (sign, *_) in widgets.MARKS.items()}


def newest(stored: pl.DataFrame, curves: pl.DataFrame) -> pl.DataFrame:
    """One row per strategy, its newest backtest, by Sharpe ratio.

    Args:
        stored: of `backtests.stored`.
        curves: `run_id`, `strategy_id`, `equity`, by session.

    Returns:
        `strategy_id`, `version`, `verdict` in words, `sharpe`, `cagr`, `max_dd`, `num_trades`, `from_ts`, `to_ts` and
        `equity`, a short list.
    """
    longest = curves.group_by("run_id", "strategy_id").len()["len"].max()
    step = -(-int(longest or 1) // _POINTS)  # type: ignore[arg-type]  # polars: of any column
    growth = curves.group_by("run_id", "strategy_id", maintain_order=True).agg(pl.col("equity").gather_every(step))
    columns = ["strategy_id", "version", "verdict", "sharpe", "cagr", "max_dd", "num_trades", "from_ts", "to_ts"]
    return (
        stored.unique("strategy_id", keep="first", maintain_order=True)
        .join(growth, on=["run_id", "strategy_id"], how="left")
        .with_columns(verdict=pl.col("verdict").cast(pl.String).replace_strict(_VERDICTS, default="not judged"))
        .sort("sharpe", descending=True, nulls_last=True)
        .select(*columns, "equity")
    )


def runs_table(runs: Sequence[Run], url: str) -> pl.DataFrame:
    """Status, job, assets, start, seconds and address of each run; `url`: of Dagster's UI."""
    return pl.DataFrame(
        [
            (
                _STATES.get(run.status, run.status.lower()),
                run.job,
                run.tags.get(PERIOD_TAG, ""),
                run.started,
                (run.ended - run.started).total_seconds() if run.started and run.ended else None,
                f"{url}/runs/{run.run_id}",
            )
            for run in runs
        ],
        schema={
            "status": pl.String,
            "job": pl.String,
            "period": pl.String,
            "started": pl.Datetime(time_zone="UTC"),
            "seconds": pl.Float64,
            "run": pl.String,
        },
        orient="row",
    )


def page() -> None:
    """Draw the page."""
    widgets.heading("Overview", "The newest backtest of each strategy, and the newest runs.")
    stored = backtests.stored()
    if stored.is_empty():
        backtests.none_yet()
    else:
        _backtests(stored)
    _runs()


def _backtests(stored: pl.DataFrame) -> None:
    ids = stored.unique("strategy_id", keep="first")["run_id"].unique().sort().to_list()
    curves = state.query(
        "SELECT run_id, strategy_id, ts, equity FROM backtest_equity WHERE run_id IN (SELECT unnest(?)) ORDER BY ts",
        [tuple(ids)],
    )
    found = newest(stored, curves)
    bars = state.query("SELECT count(DISTINCT symbol) AS symbols, max(ts) AS last, count(*) AS bars FROM ohlcv")
    symbols, last, count = bars.row(0)
    with st.container(horizontal=True):
        for label, value in (
            ("Symbols", f"{symbols:,}"),
            ("Last bar", str(last or "none")),
            ("Bars", f"{count:,}"),
            ("Strategies backtested", f"{found.height:,}"),
            ("Backtests stored", f"{stored.height:,}"),
        ):
            st.metric(label, value, border=True, width="content")
    column = st.column_config
    widgets.table(
        found,
        {
            "strategy_id": column.TextColumn("Strategy", pinned=True),
            "version": "Version",
            "verdict": "Verdict",
            "sharpe": column.NumberColumn("Sharpe", format="%.2f"),
            "cagr": column.NumberColumn("CAGR", format="percent"),
            "max_dd": column.NumberColumn("Max drawdown", format="percent"),
            "num_trades": column.NumberColumn("Trades", format="localized"),
            "from_ts": column.DateColumn("From"),
            "to_ts": column.DateColumn("To"),
            "equity": column.LineChartColumn("Equity", color=charts.ACCENT),
        },
        key="newest",
    )
    best = found.filter(pl.col("verdict") != _VERDICTS["fail"])["strategy_id"]
    with st.container(horizontal=True):
        widgets.link_to("compare", "Compare them")
        widgets.link_to("validation", "Whether to believe them")
        if len(best):
            widgets.link_to("targets", f"Targets of {best[0]}", strategy=best[0])


def _runs() -> None:
    st.subheader("Runs")
    server = state.dagster()
    try:
        runs = server.runs(_RUNS) if server.alive() else None
    except LabError:
        runs = None
    if runs is None:
        widgets.no_dagster("It keeps the runs, and starts them.")
    elif not runs:
        widgets.nothing("No run yet", "Run a strategy on the page Strategies, or all of them:", "quant pipeline run")
    else:
        column = st.column_config
        widgets.table(
            runs_table(runs, server.url),
            {
                "status": "Status",
                "job": "Job",
                "period": "Sessions",
                "started": column.DatetimeColumn("Started, UTC", format="YYYY-MM-DD HH:mm:ss", timezone="UTC"),
                "seconds": column.NumberColumn("Seconds", format="%.1f"),
                "run": column.LinkColumn("In Dagster", display_text="open"),
            },
            key="runs",
        )
