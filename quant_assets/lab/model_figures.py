"""Figures of trained models for the lab, from the registry and from predictions whose labels have settled.

Frames in, figures out.
"""

import json
from collections.abc import Sequence
from datetime import date

import numpy as np
import plotly.graph_objects as go
import polars as pl
from plotly.subplots import make_subplots

from quant_assets.core.drawing import ACCENT, BENCHMARK, LOSS
from quant_assets.lab import charts

METRICS = {
    "classification": {"auc": "AUC", "brier": "Brier score", "logloss": "log loss", "accuracy": "accuracy"},
    "regression": {"rank_ic": "rank IC", "ic": "IC", "rmse": "RMSE"},
}
"""Task -> measure on the hold-out -> its name, as `models.training.fit` keeps them; the first is the one to look at."""
_NOTHING_LEARNT = {"auc": 0.5, "rank_ic": 0.0, "ic": 0.0}

_LINES, _FEATURES, _FEWEST = 8, 25, 3
_BAND = "rgba(37, 99, 235, 0.13)"


def registered(rows: pl.DataFrame, task: str) -> pl.DataFrame:
    """Registry rows with what their JSON holds beside: `training_date`, `rows`, and the task's hold-out measures.

    Args:
        rows: of `models`, with `metrics`; a measure that could not be had is null.
    """
    told = [json.loads(text) for text in rows["metrics"]]
    held = [one.get("holdout") or {} for one in told]
    return rows.with_columns(
        pl.Series("training_date", [date.fromisoformat(one["training_date"]) for one in told], pl.Date),
        pl.Series("rows", [one["rows"] for one in told], pl.Int64),
        *(pl.Series(name, [one.get(name) for one in held], pl.Float64) for name in METRICS[task]),
    )


def importances(rows: pl.DataFrame) -> pl.DataFrame:
    """Share of a model's total gain that each feature has: scope, training_date, feature, share (0 where it has none).

    Example: gains of 3 and 1 are shares of 0.75 and 0.25.
    """
    found = []
    for scope, text in rows.select("scope", "metrics").iter_rows():
        told = json.loads(text)
        gains = told["feature_importance"]
        total = sum(gains.values()) or 1.0
        found += [
            (scope, date.fromisoformat(told["training_date"]), name, gain / total) for name, gain in gains.items()
        ]
    schema = {"scope": pl.String, "training_date": pl.Date, "feature": pl.String, "share": pl.Float64}
    return pl.DataFrame(found, schema=schema, orient="row")


def importance_figure(shares: pl.DataFrame) -> go.Figure:
    """Mean share of gain by feature and training date, the most important feature on top, at most 25 of them."""
    order = (shares.group_by("feature").agg(pl.col("share").mean()).sort("share", "feature", descending=[True, False]))[
        "feature"
    ].to_list()[:_FEATURES]
    grid = shares.pivot("training_date", index="feature", values="share", aggregate_function="mean", sort_columns=True)
    grid = pl.DataFrame({"feature": order}).join(grid, on="feature", how="left", maintain_order="left")
    dates = sorted(grid.columns[1:])
    figure = charts.heat(
        [list(row) for row in grid.select(dates).iter_rows()], dates, order, height=90 + 26 * len(order), low=0.0,
        shown=".0%" if len(dates) <= 14 else "", hover="%{y}, trained %{x}: %{z:.1%} of the gain<extra></extra>",
    )  # fmt: skip
    if len(dates) > 14:
        figure.update_traces(texttemplate=None, xgap=0.5)
    figure.update_xaxes(type="category", nticks=12)
    return figure.update_layout(hovermode="closest")


def metrics_figure(models: pl.DataFrame, metric: str, name: str) -> go.Figure:
    """A hold-out measure by training date: a line per scope; of many scopes their median and middle 80 %."""
    known = models.filter(pl.col(metric).is_not_null()).sort("training_date")
    scopes = known["scope"].unique().sort().to_list()
    figure = go.Figure()
    if len(scopes) > _LINES:
        spread = known.group_by("training_date", maintain_order=True).agg(
            low=pl.col(metric).quantile(0.1), middle=pl.col(metric).median(), high=pl.col(metric).quantile(0.9)
        )
        around = {"x": spread["training_date"], "line": {"width": 0}, "mode": "lines", "hoverinfo": "skip"}
        figure.add_scatter(y=spread["low"], showlegend=False, **around)
        label = f"middle 80% of {len(scopes)} scopes"
        figure.add_scatter(y=spread["high"], fill="tonexty", fillcolor=_BAND, name=label, **around)
        figure.add_scatter(x=spread["training_date"], y=spread["middle"], name="median", line={"color": ACCENT})
    else:
        for scope, colour in charts.colours(scopes).items():
            one = known.filter(pl.col("scope") == scope)
            figure.add_scatter(
                x=one["training_date"], y=one[metric], name=scope, mode="lines+markers", hovertemplate="%{y:.3f}",
                line={"color": colour, "width": 1.8}, marker={"size": 5},
            )  # fmt: skip
    if metric in _NOTHING_LEARNT:
        charts.level(figure, _NOTHING_LEARNT[metric], "nothing learnt")
    figure.update_yaxes(title_text=name)
    return charts.styled(figure, 340)


def reliability(predicted: pl.DataFrame, column: str, width: float = 0.05) -> pl.DataFrame:
    """Predicted probabilities against what came of them, in spans of equal width.

    Args:
        predicted: `column`, a probability, and `label_value`, above 0 where the event came; rows without either are
            left out.

    Returns:
        One row per span that has any: `predicted` (their mean), `realised` (share of events), `count`; rising.

    Example: of 0.51 and 0.53, one of which came true: 0.52, 0.5, 2.
    """
    last = round(1 / width) - 1
    return (
        predicted.drop_nulls([column, "label_value"])
        .with_columns(span=(pl.col(column) / width + 1e-9).floor().clip(0, last))
        .group_by("span")
        .agg(
            predicted=pl.col(column).mean(),
            realised=(pl.col("label_value") > 0).mean(),
            count=pl.len().cast(pl.Int64),
        )
        .sort("span")
        .drop("span")
    )


def brier(predicted: pl.DataFrame, column: str) -> float | None:
    """Mean squared error of probabilities: 0 is perfect, 0.25 a coin's; None without a settled one.

    Source: Brier, "Verification of forecasts expressed in terms of probability" (1950), for two outcomes, halved.
    """
    known = predicted.drop_nulls([column, "label_value"])
    error = known.select(((pl.col(column) - (pl.col("label_value") > 0).cast(pl.Float64)) ** 2).mean()).item()
    return None if error is None else float(error)


def brier_of_base_rate(predicted: pl.DataFrame) -> float | None:
    """Brier score of always saying the share of events: what a model has to beat; None without a settled label."""
    rate = predicted.drop_nulls("label_value").select((pl.col("label_value") > 0).mean()).item()
    return None if rate is None else float(rate * (1 - rate))


def reliability_figure(spans: dict[str, pl.DataFrame]) -> go.Figure:
    """`reliability` of each name above, and below how many predictions stand behind the first one's points."""
    figure = make_subplots(rows=2, cols=1, shared_xaxes=True, row_heights=[0.74, 0.26], vertical_spacing=0.06)
    straight = {"color": BENCHMARK, "dash": "dot", "width": 1.3}
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", line=straight, name="as often as said", hoverinfo="skip")
    for (name, frame), colour in zip(spans.items(), (ACCENT, "#f59e0c"), strict=False):
        figure.add_scatter(
            x=frame["predicted"], y=frame["realised"], name=name, mode="lines+markers", row=1, col=1,
            line={"color": colour, "width": 1.8}, customdata=frame["count"],
            hovertemplate="said %{x:.0%}, came %{y:.0%}, %{customdata:,} predictions",
        )  # fmt: skip
    first = next(iter(spans.values()))
    figure.add_bar(
        x=first["predicted"], y=first["count"], marker_color=ACCENT, opacity=0.5, showlegend=False, row=2, col=1,
        width=0.03, hovertemplate="%{y:,} predictions<extra></extra>",
    )  # fmt: skip
    ends = [frame["predicted"] for frame in spans.values() if frame.height]
    low = min((float(one[0]) for one in ends), default=0.0) - 0.05
    high = max((float(one[-1]) for one in ends), default=1.0) + 0.05
    figure.update_xaxes(range=[max(low, 0.0), min(high, 1.0)], tickformat=".0%")
    figure.update_xaxes(title_text="predicted probability", row=2, col=1)
    figure.update_yaxes(title_text="came true", tickformat=".0%", rangemode="tozero", row=1, col=1)
    figure.update_yaxes(title_text="count", row=2, col=1)
    return charts.styled(figure, 430).update_layout(hovermode="closest", legend={"y": -0.2})


def deciles(predicted: pl.DataFrame) -> pl.DataFrame:
    """Settled predictions in ten parts of equal size by their score: `decile` (1 the lowest), score, realised, count.

    Fewer than ten have a part each; ties are parted in order of date and symbol.
    """
    known = predicted.drop_nulls(["score", "label_value"]).sort("score", "ts", "symbol")
    parts = min(10, max(known.height, 1))
    return (
        known.with_columns(decile=pl.int_range(pl.len()) * parts // pl.len() + 1)
        .group_by("decile")
        .agg(
            score=pl.col("score").mean(),
            realised=pl.col("label_value").mean(),
            count=pl.len().cast(pl.Int64),
        )
        .sort("decile")
    )


def deciles_figure(found: pl.DataFrame) -> go.Figure:
    """Mean of what came of each decile of the predictions, and what they had said."""
    figure = go.Figure(
        go.Bar(
            x=found["decile"], y=found["realised"], name="realised, mean", customdata=found["count"],
            marker_color=[charts.GAIN if value > 0 else LOSS for value in found["realised"]],
            hovertemplate="%{y:.2%} (%{customdata:,} predictions)",
        )
    )  # fmt: skip
    line = {"color": ACCENT, "width": 1.6}
    figure.add_scatter(x=found["decile"], y=found["score"], name="predicted, mean", line=line, hovertemplate="%{y:.2%}")
    figure.update_xaxes(title_text="decile of the prediction", dtick=1)
    figure.update_yaxes(title_text="label", tickformat=".1%")
    return charts.styled(figure, 430).update_layout(legend={"y": -0.2})


def monthly_rank_ic(predicted: pl.DataFrame) -> pl.DataFrame:
    """Spearman correlation of scores and labels over the symbols of a session, as mean per month: month, ic, sessions.

    Sessions with fewer than three settled symbols, or without any spread, have none.
    """
    known = predicted.drop_nulls(["score", "label_value"])
    daily = (
        known.group_by("ts")
        .agg(ic=pl.corr("score", "label_value", method="spearman"), symbols=pl.len())
        .filter(pl.col("symbols") >= _FEWEST, pl.col("ic").is_finite())
    )
    return (
        daily.group_by(month=pl.col("ts").dt.truncate("1mo"))
        .agg(ic=pl.col("ic").mean(), sessions=pl.len().cast(pl.Int64))
        .sort("month")
    )


def rank_ic_figure(monthly: pl.DataFrame) -> go.Figure:
    """`monthly_rank_ic` as bars, and the mean of the last twelve months."""
    year = monthly.with_columns(mean=pl.col("ic").rolling_mean(12, min_samples=3))
    figure = go.Figure(
        go.Bar(
            x=year["month"], y=year["ic"], name="month",
            marker_color=[charts.GAIN if value > 0 else LOSS for value in year["ic"]], opacity=0.6,
            hovertemplate="%{y:.2f}",
        )
    )  # fmt: skip
    line = {"color": ACCENT, "width": 2.2}
    figure.add_scatter(x=year["month"], y=year["mean"], name="mean of 12 months", line=line, hovertemplate="%{y:.2f}")
    figure.update_yaxes(title_text="rank IC")
    return charts.styled(figure, 320)


def coverage(predicted: pl.DataFrame) -> pl.DataFrame:
    """Per session: how many symbols were scored, and of how many the label has settled: ts, scored, settled."""
    return (
        predicted.group_by("ts")
        .agg(scored=pl.len().cast(pl.Int64), settled=pl.col("label_value").is_not_null().sum().cast(pl.Int64))
        .sort("ts")
    )


def coverage_figure(found: pl.DataFrame) -> go.Figure:
    """`coverage` over time, as steps: where neither count changes from one session to the next, no point is drawn."""
    counts = pl.struct("scored", "settled")
    edge = (counts != counts.shift(1)).fill_null(True) | (counts != counts.shift(-1)).fill_null(True)
    few = charts.thinned(found.filter(edge))
    figure = go.Figure()
    for column, name, colour in (
        ("scored", "symbols scored", ACCENT),
        ("settled", "whose label has settled", charts.GAIN),
    ):
        line = {"color": colour, "width": 1.6, "shape": "hv"}
        figure.add_scatter(x=few["ts"], y=few[column], name=name, mode="lines", line=line)
    figure.update_yaxes(rangemode="tozero", title_text="symbols")
    return charts.styled(figure, 320)


def scores_figure(predicted: pl.DataFrame, columns: Sequence[tuple[str, str]], shown: str) -> go.Figure:
    """How the scores are distributed: 50 spans of equal width over all of `columns` (column, name)."""
    values = {name: predicted[column].drop_nulls().to_numpy() for column, name in columns}
    values = {name: some for name, some in values.items() if len(some)}
    figure = go.Figure()
    if values:
        low, high = (
            min(float(some.min()) for some in values.values()),
            max(float(some.max()) for some in values.values()),
        )
        edges = np.linspace(low, high if high > low else low + 1.0, 51)
        for (name, some), colour in zip(values.items(), (BENCHMARK, ACCENT), strict=False):
            counts = np.histogram(some, edges)[0]
            middle = (edges[:-1] + edges[1:]) / 2
            figure.add_bar(x=middle, y=counts, name=name, marker_color=colour, opacity=0.6, hovertemplate="%{y:,}")
    figure.update_layout(barmode="overlay", bargap=0)
    figure.update_xaxes(title_text="score", tickformat=shown)
    figure.update_yaxes(title_text="predictions")
    return charts.styled(figure, 320).update_layout(legend={"y": -0.25})


def splits_figure(names: Sequence[str], splits: Sequence[int]) -> go.Figure:
    """In how many splits of a model's trees each feature is used, the most used on top, at most 25."""
    pairs = sorted(zip(names, splits, strict=True), key=lambda pair: (-pair[1], pair[0]))[:_FEATURES]
    return charts.bars({name: float(count) for name, count in pairs}, height=80 + 26 * len(pairs), shown=",.0f")
