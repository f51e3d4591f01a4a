"""Page Models: the registry of trained models, how good they were on what they had not seen, and what came of them."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import polars as pl
import streamlit as st

from quant_assets.core.errors import ModelError
from quant_assets.lab import model_figures as figures
from quant_assets.lab import state, widgets
from quant_assets.models.store import ModelStore
from quant_assets.models.training import load_booster
from quant_assets.models.walkforward import UNIVERSE
from quant_assets.strategy.spec import StrategySpec

ALL, _SHOWN = "all", 500


def users_of(specs: Mapping[str, StrategySpec]) -> dict[str, list[str]]:
    """Experiment -> the strategies whose files ask for it, sorted."""
    found: dict[str, list[str]] = {}
    for name, spec in sorted(specs.items()):
        if spec.model is not None:
            found.setdefault(spec.model.experiment_id, []).append(name)
    return found


def named(experiment: Mapping[str, Any], users: Sequence[str]) -> str:
    """An experiment in words.

    Example: `exp_2fc984be62a6: classification of direction_60d (v1), one for all symbols; lgbm_pooled`.
    """
    label, version, task = experiment["task_id"].split(".")
    scope = "one for all symbols" if experiment["pooled"] else "one per symbol"
    whose = ", ".join(users) or "no strategy file asks for it any more"
    return f"{experiment['experiment_id']}: {task} of {label} ({version}), {scope}; {whose}"


def sizes(folder: Path) -> dict[str, int]:
    """Name -> bytes of every file in `folder`; nothing where it is not there."""
    return {file.name: file.stat().st_size for file in folder.iterdir() if file.is_file()} if folder.is_dir() else {}


def registry(models: pl.DataFrame, files: Mapping[str, int], metrics: Mapping[str, str]) -> pl.DataFrame:
    """The registry as a table, the newest training first.

    Args:
        models: `model_figures.registered`.
        files: `sizes` of the folder of models; a file that is not there, or empty, is said so.
        metrics: hold-out measure -> its name.
    """
    size = pl.Series("size", [files.get(path, 0) for path in models["path"]], pl.Int64)
    ordered = models.with_columns(size).sort(
        "training_date", "scope", "model_id", descending=[True, False, False], maintain_order=True
    )
    return ordered.select(
        pl.col("model_id").alias("Model"),
        pl.col("scope").alias("Scope"),
        pl.col("training_date").alias("Trained on"),
        pl.col("train_from").alias("From"),
        pl.col("train_to").alias("To"),
        pl.col("rows").alias("Rows"),
        *(pl.col(name).alias(said) for name, said in metrics.items()),
        _there(pl.col("size")).alias("File"),
        pl.col("sha256").str.head(12).alias("sha256"),
        pl.col("created_at").alias("Created, UTC"),
    )


def _there(size: pl.Expr) -> pl.Expr:
    there = pl.format("\N{CHECK MARK} {} kB", (size / 1000).ceil().cast(pl.Int64))
    return pl.when(size > 0).then(there).otherwise(pl.lit("\N{MULTIPLICATION X} missing"))


def changed_files(store: ModelStore, models: pl.DataFrame) -> list[str]:
    """What is wrong with the files of registry rows (`path`, `sha256`), one line each; reads all of them."""
    found = []
    for path, sha256 in models.select("path", "sha256").iter_rows():
        try:
            store.load(path, sha256)
        except ModelError as error:
            found.append(str(error))
    return found


def _experiments() -> pl.DataFrame:
    """One row per experiment, that of the newest training first."""
    return state.query(
        "SELECT experiment_id, any_value(task_id) AS task_id, bool_or(scope = $1) AS pooled, count(*) AS models, "
        "count(DISTINCT scope) AS scopes FROM models GROUP BY experiment_id "
        "ORDER BY max(created_at) DESC, experiment_id",
        [UNIVERSE],
    )


def _predicted(experiment_id: str) -> pl.DataFrame:
    """The experiment's predictions, each with its label's value where that has settled."""
    return state.query(
        "SELECT p.symbol, p.ts, p.score, p.calibrated_score, l.label_value FROM predictions p "
        "JOIN models m USING (model_id) LEFT JOIN labels l ON l.symbol = p.symbol AND l.ts = p.ts "
        "AND l.label_name = split_part(m.task_id, '.', 1) AND l.label_version = m.label_version "
        "WHERE m.experiment_id = ? ORDER BY p.ts, p.symbol",
        [experiment_id],
    )


@st.cache_resource(max_entries=8, show_spinner="Opening the file\N{HORIZONTAL ELLIPSIS}")
def _opened(folder: str, path: str, sha256: str) -> tuple[int, list[str], list[int]]:
    """Trees, names of the features, and in how many splits each is used.

    Raises:
        ModelError: the file is missing or changed.
    """
    booster = load_booster(ModelStore(Path(folder)).load(path, sha256))
    splits = [int(count) for count in booster.feature_importance("split")]
    return int(booster.num_trees()), list(booster.feature_name()), splits


def page() -> None:
    """Draw the page."""
    widgets.heading("Models", "What was trained, how good it was on days it had not seen, and what came of its scores.")
    specs = state.strategies()
    users = users_of(specs)
    found = _experiments() if state.snapshot() is not None else pl.DataFrame()
    if found.is_empty():
        _show_none(users)
        return
    known = {row["experiment_id"]: row for row in found.iter_rows(named=True)}
    strategies = sorted(name for one in known for name in users.get(one, []))
    left, right = st.columns([1, 3])
    with left:
        strategy = widgets.picked("Strategy", [ALL, *strategies], "strategy")
    offered = [one for one in known if strategy == ALL or strategy in users.get(one, [])]
    with right:
        chosen = widgets.picked(
            "Experiment", offered, "experiment", told=lambda one: named(known[one], users.get(one, []))
        )
    _show_experiment(known[chosen], users.get(chosen, []))


def _show_none(users: Mapping[str, Sequence[str]]) -> None:
    names = sorted(name for some in users.values() for name in some)
    why = "Only strategies whose signal is of the type `model_score` train any: the run that decides for them does it."
    if names:
        widgets.nothing("No model was trained yet", why, f"quant pipeline run --strategy {names[0]}")
    else:
        widgets.nothing("No model was trained yet", f"{why} There is no such strategy file yet.")


def _show_experiment(experiment: Mapping[str, Any], users: Sequence[str]) -> None:
    experiment_id, task = experiment["experiment_id"], experiment["task_id"].rpartition(".")[2]
    rows = state.query("SELECT * FROM models WHERE experiment_id = ? ORDER BY train_to, scope", [experiment_id])
    models = figures.registered(rows, task)
    metrics = figures.METRICS[task]
    store = ModelStore(state.config().models_dir)
    files = sizes(store.folder)
    missing = sum(not files.get(path) for path in models["path"])
    first, second, third, fourth = st.columns(4)
    first.metric("Models", f"{models.height:,}")
    second.metric("Scopes", f"{experiment['scopes']:,}")
    third.metric("Trained on", f"{models['training_date'].n_unique():,} dates")
    fourth.metric("Files missing", f"{missing:,}")
    if missing:
        st.warning(
            f"{missing:,} of {models.height:,} files are not in the folder of models; a run that needs one trains it.",
            icon=":material/warning:",
        )
    with st.container(horizontal=True):
        for name in users:
            widgets.link_to("strategies", name, strategy=name)
            widgets.link_to("validation", f"Validation of {name}", strategy=name)
    _show_metrics(models, metrics)
    _show_importances(rows)
    predicted = _predicted(experiment_id)
    if predicted.is_empty():
        widgets.nothing(
            "Nothing was predicted with these models",
            "Predictions are stored by the run that decides for the strategy.",
            f"quant pipeline run --strategy {users[0]}" if users else None,
        )
    else:
        _show_calibration(predicted, task)
        _show_over_time(predicted, task)
    _show_registry(models, files, metrics, store)
    _show_model(models, store)


def _show_metrics(models: pl.DataFrame, metrics: Mapping[str, str]) -> None:
    st.subheader(
        "On the hold-out, over time",
        help="Each training judges the spec on its newest days, by a fit on those whose labels were known before them.",
    )
    known = [name for name in metrics if models[name].is_not_null().any()]
    if not known:
        st.caption("No model has a hold-out: `holdout` is 0, or too few rows were known to fit without it.")
        return
    metric = widgets.picked("Measure", known, "holdout", told=lambda one: metrics[one])
    widgets.plot(figures.metrics_figure(models, metric, metrics[metric]), "metrics", alt=f"{metrics[metric]} over time")
    better = "less is better" if metric in ("brier", "logloss", "rmse") else "more is better"
    st.caption(f"Median {cast(float, models[metric].median()):.3f} over {models[metric].count():,} models; {better}.")


def _show_importances(rows: pl.DataFrame) -> None:
    st.subheader("Feature importance", help="Share of the gain of a model's trees; says nothing about cause.")
    shares = figures.importances(rows)
    scopes = shares["scope"].unique().sort().to_list()
    if len(scopes) > 1:
        scope = widgets.picked(
            "Of", [ALL, *scopes], "scope", told=lambda one: "all scopes, mean" if one == ALL else one
        )
        shares = shares.filter(pl.lit(scope == ALL) | (pl.col("scope") == scope))
    alt = "Share of the gain by feature and training date"
    widgets.plot(figures.importance_figure(shares), "importance", alt=alt)
    st.caption("Share of the gain by feature and training date. What leaps from date to date is not to be relied on.")


def _show_calibration(predicted: pl.DataFrame, task: str) -> None:
    settled = predicted.drop_nulls("label_value").height
    open_ones = predicted.height - settled
    told = f"{settled:,} predictions whose label has settled" + (f"; {open_ones:,} are still open" if open_ones else "")
    if task == "classification":
        st.subheader("Calibration", help="Of all times that 60 % was said: did it come true in 60 % of them?")
        if not settled:
            st.caption("No label of a prediction has settled yet.")
            return
        columns = {"calibrated": "calibrated_score", "uncalibrated": "score"}
        spans = {name: figures.reliability(predicted, column) for name, column in columns.items()}
        spans = {name: frame for name, frame in spans.items() if frame.height}
        widgets.plot(
            figures.reliability_figure(spans), "reliability", alt="Predicted probability against what came true"
        )
        scores = {name: figures.brier(predicted, columns[name]) for name in spans}
        scores["always the mean"] = figures.brier_of_base_rate(predicted)
        shown = ", ".join(f"{name} {value:.4f}" for name, value in scores.items() if value is not None)
        st.caption(f"{told}. Brier score, less is better: {shown}.")
    else:
        st.subheader("Prediction and outcome", help="Did what was predicted high turn out high?")
        if not settled:
            st.caption("No label of a prediction has settled yet.")
            return
        widgets.plot(
            figures.deciles_figure(figures.deciles(predicted)), "deciles", alt="Mean label by decile of the score"
        )
        st.caption(f"{told}, over all symbols and sessions together.")
    st.caption("Labels of neighbouring sessions overlap: there is less evidence than the count says.")


def _show_over_time(predicted: pl.DataFrame, task: str) -> None:
    st.subheader("Rank IC over time", help="Did the order of the scores on a day foretell the order of the labels?")
    monthly = figures.monthly_rank_ic(predicted)
    sessions = int(monthly["sessions"].sum())
    if sessions:
        widgets.plot(figures.rank_ic_figure(monthly), "rank-ic", alt="Mean rank IC per month")
        mean = float((monthly["ic"] * monthly["sessions"]).sum()) / sessions
        st.caption(f"Mean {mean:.3f} over {sessions:,} sessions with three settled symbols or more.")
    else:
        st.caption("There is none: no session has three symbols whose labels have settled and differ.")
    left, right = st.columns(2)
    with left:
        st.subheader("Coverage")
        widgets.plot(figures.coverage_figure(figures.coverage(predicted)), "coverage", alt="Symbols scored by session")
    with right:
        st.subheader("Scores")
        columns, shown = [("score", "score")], ".1%"
        if task == "classification":
            columns, shown = [("score", "uncalibrated"), ("calibrated_score", "calibrated")], ".0%"
        widgets.plot(figures.scores_figure(predicted, columns, shown), "scores", alt="Distribution of the scores")


def _show_registry(
    models: pl.DataFrame, files: Mapping[str, int], metrics: Mapping[str, str], store: ModelStore
) -> None:
    st.subheader("Registry")
    table = registry(models, files, metrics)
    formats: dict[str, Any] = {name: st.column_config.NumberColumn(format="%.3f") for name in metrics.values()}
    formats |= {name: st.column_config.DateColumn(format="YYYY-MM-DD") for name in ("Trained on", "From", "To")}
    formats["Rows"] = st.column_config.NumberColumn(format="localized")
    formats["Created, UTC"] = st.column_config.DatetimeColumn(format="YYYY-MM-DD HH:mm")
    widgets.table(table.head(_SHOWN), formats)
    if table.height > _SHOWN:
        st.caption(f"The newest {_SHOWN:,} of {table.height:,}.")
    if st.button(
        "Check all files", icon=":material/fingerprint:", help="Compares each file with its registered sha256"
    ):
        wrong = changed_files(store, models)
        if wrong:
            st.error(f"{len(wrong):,} of {models.height:,} files are not what was registered:", icon=":material/error:")
            st.code("\n".join(wrong[:20]), language=None, wrap_lines=True)
        else:
            st.success(f"All {models.height:,} files are what was registered.", icon=":material/check_circle:")


def _show_model(models: pl.DataFrame, store: ModelStore) -> None:
    st.subheader("One model")
    by_id = {row["model_id"]: row for row in models.sort("training_date", "scope", descending=True).to_dicts()}
    left, right = st.columns([3, 1], vertical_alignment="bottom")
    with left:
        model = by_id[
            widgets.picked(
                "Model",
                list(by_id),
                "model",
                told=lambda one: f"{by_id[one]['training_date']}, {by_id[one]['scope']}, {one}",
            )
        ]
    with right:
        widgets.link_to("lineage", "Lineage", model=model["model_id"])
    told = json.loads(model["metrics"])
    facts = [
        ("Trained on", f"{model['train_from']} to {model['train_to']}, {model['rows']:,} rows"),
        ("Hold-out", _held(told.get("holdout") or {})),
        ("Calibration", _calibrated(told.get("calibration"))),
        ("Feature set, label set", f"{model['feature_version']}, {model['label_version']}"),
        ("File", model["path"]),
        ("sha256", model["sha256"]),
        ("Run", model["run_id"]),
    ]
    widgets.table(pl.DataFrame(facts, schema=["Fact", "Value"], orient="row"))
    with st.expander("Its spec"):
        st.code(json.dumps(json.loads(model["params"]), indent=2), language="json")
    if st.toggle(
        "Open its file", key="open-file", help="Checks the sha256 and counts the splits; takes a second or two"
    ):
        try:
            trees, names, splits = _opened(str(store.folder), model["path"], model["sha256"])
        except ModelError as error:
            st.error(str(error), icon=":material/error:")
            return
        widgets.plot(figures.splits_figure(names, splits), "splits", alt="Splits by feature")
        st.caption(f"The file is what was registered: {trees:,} trees, {sum(splits):,} splits, drawn by feature.")


def _held(held: Mapping[str, Any]) -> str:
    if not held.get("rows"):
        return "none"
    return f"{held['rows']:,} rows from {held['from']}, judged by a fit on {held['fit_rows']:,} rows before"


def _calibrated(calibration: Mapping[str, float] | None) -> str:
    if calibration is None:
        return "none"
    return f"Platt: slope {calibration['slope']:.3f}, intercept {calibration['intercept']:.3f}"
