"""Walk-forward prediction: on each training date fit on what is known by then, predict until the next."""

import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from itertools import pairwise
from typing import Any, Protocol, TypeVar

import numpy as np
import polars as pl

from quant_assets.core.errors import ConfigError, DataError
from quant_assets.models.spec import ModelSpec
from quant_assets.models.store import ModelStore
from quant_assets.models.training import (
    Calibration,
    Floats,
    Rows,
    fingerprint,
    fit,
    one_blas_thread,
    raw_scores,
    untrainable,
)

UNIVERSE = "universe"
"""`scope` of a pooled model's registry row; a per-symbol model's is its symbol."""

PREDICTIONS_SCHEMA = pl.Schema(
    {
        "symbol": pl.String,
        "ts": pl.Date,
        "model_id": pl.String,
        "task_id": pl.String,
        "score": pl.Float64,
        "calibrated_score": pl.Float64,
    }
)
SCORES_SCHEMA = pl.Schema({name: PREDICTIONS_SCHEMA[name] for name in ("symbol", "ts", "score", "calibrated_score")})
MODELS_SCHEMA = pl.Schema(
    {
        "model_id": pl.String,
        "experiment_id": pl.String,
        "algo": pl.String,
        "task_id": pl.String,
        "scope": pl.String,
        "params": pl.String,
        "train_from": pl.Date,
        "train_to": pl.Date,
        "feature_version": pl.String,
        "label_version": pl.String,
        "metrics": pl.String,
        "path": pl.String,
        "sha256": pl.String,
    }
)

_WORKERS = min(8, os.cpu_count() or 1)
_EPOCH = date(1970, 1, 1)
_NEVER = np.iinfo(np.int32).max


class Told(Protocol):
    """What a training came to."""

    @property
    def message(self) -> str: ...


Task = TypeVar("Task")
Outcome = TypeVar("Outcome", bound=Told)


@dataclass(frozen=True)
class WalkForward:
    """What one walk-forward gave.

    `predictions` has PREDICTIONS_SCHEMA, sorted by (symbol, ts). `models_used` and `new_models`, the part of it that
    was trained now, have MODELS_SCHEMA, in order of training date and scope. `skipped` says in one line each what
    could not be predicted and why.
    """

    predictions: pl.DataFrame
    models_used: pl.DataFrame
    new_models: pl.DataFrame
    reused: int
    trained: int
    skipped: list[str]


def training_dates(spec: ModelSpec, sessions: Sequence[date]) -> list[date]:
    """The first session of each month, quarter or year, from the calendar alone: whoever asks for which dates.

    A model of training date T is fitted on labels with known_on <= T, the close of T included: whoever acts on the
    partition T acts on what was known at its close. It predicts the sessions from T up to the one before the next
    training date. The calendar's first period has none, for its first session may lie before the calendar.

    Example: yearly, sessions 2023-12-29, 2024-01-02, 2024-01-03: 2024-01-02.
    """
    months = {"monthly": 1, "quarterly": 3, "yearly": 12}[spec.retrain]

    def period(day: date) -> int:
        return (day.year * 12 + day.month - 1) // months

    return [day for before, day in pairwise(sorted(sessions)) if period(before) != period(day)]


def known_rows(spec: ModelSpec, rows: Rows, training_date: date) -> Rows:
    """The rows a model of `training_date` may learn from: known_on <= it, and ts within `train_years` before it."""
    day = _day(training_date)
    oldest = day - round(365.25 * spec.train_years) if spec.train_years is not None else -_NEVER
    known = (rows.known_on <= day) & (rows.ts >= oldest)
    first, count = int(known.argmax()) if len(known) else 0, int(known.sum())
    stretch = slice(first, first + count)
    return rows.take(stretch if known[stretch].all() else known)


def run(
    spec: ModelSpec,
    features: pl.DataFrame,
    labels: pl.DataFrame,
    symbols: Sequence[str],
    sessions: Sequence[date],
    first: date,
    last: date,
    store: ModelStore,
    existing: pl.DataFrame,
    progress: Callable[[str], None] | None = None,
) -> WalkForward:
    """Predict `symbols` on the sessions `first` to `last`, training or reusing one model per training date and scope.

    Args:
        features: symbol, ts and one column per feature, with all history up to `last`. Null is a missing value, which
            LightGBM handles; a row without any value is neither learnt from nor predicted.
        labels: symbol, ts, label_value, known_on of the spec's label; more columns are ignored.
        sessions: the calendar's sessions, reaching back before the first training date needed, and on to `last`.
        existing: registry rows (MODELS_SCHEMA's columns) whose models may be reused. One is reused when its id, a hash
            of training rows and spec, is the one wanted and its file is there; a missing file is trained anew.

    Predictions do not depend on the order of rows, on `first` and `last`, on what was reused, nor on thread counts:
    every training runs on one thread, several of them side by side.

    Raises:
        ConfigError: `first` after `last`, sessions that end before `last`, or a feature that `features` does not have.
        DataError: a duplicate (symbol, ts), or a label known on or before the session it describes.
        ModelError: a reused model's file was tampered with, or a file cannot be written.
    """
    if first > last:
        raise ConfigError(f"dates reversed: from {first} is after to {last}; swap them")
    if not sessions or max(sessions) < last:
        raise ConfigError(f"sessions end before {last}, the last date to predict; pass a calendar that reaches it")
    names = feature_names(spec, features)
    groups = rows_by_scope(spec, features, labels, symbols, names, last)
    known = {row["model_id"]: row for row in existing.select(MODELS_SCHEMA.names()).to_dicts()}
    dates = training_dates(spec, sessions)
    tasks = list(_tasks(groups, dates, first, last))
    skipped = []
    if not dates or first < dates[0]:
        skipped.append(
            f"sessions before {dates[0] if dates else last}: no {spec.retrain} training date lies before them"
        )

    done = side_by_side(partial(_step, spec, names, store, known), tasks, progress)
    used = [outcome for outcome in done if outcome.model is not None]
    new = [outcome for outcome in used if outcome.trained]
    frames = [outcome.predictions for outcome in used if outcome.predictions is not None]
    return WalkForward(
        predictions=pl.concat([pl.DataFrame(schema=PREDICTIONS_SCHEMA), *frames]).sort("symbol", "ts"),
        models_used=pl.DataFrame([outcome.model for outcome in used], schema=MODELS_SCHEMA, orient="row"),
        new_models=pl.DataFrame([outcome.model for outcome in new], schema=MODELS_SCHEMA, orient="row"),
        reused=len(used) - len(new),
        trained=len(new),
        skipped=skipped + [outcome.message for outcome in done if outcome.model is None],
    )


def side_by_side(
    step: Callable[[Task], Outcome], tasks: Sequence[Task], progress: Callable[[str], None] | None = None
) -> list[Outcome]:
    """`step` of each training task on threads, told and returned in the order of the tasks."""
    done = []
    with one_blas_thread(), ThreadPoolExecutor(_WORKERS) as pool:
        for at, outcome in enumerate(pool.map(step, tasks), start=1):
            done.append(outcome)
            if progress:
                progress(f"model {at} of {len(tasks)}: {outcome.message}")
    return done


@dataclass(frozen=True)
class _Task:
    scope: str
    training_date: date
    rows: Rows
    first: int
    last: int


@dataclass(frozen=True)
class _Outcome:
    message: str
    model: dict[str, Any] | None = None
    predictions: pl.DataFrame | None = None
    trained: bool = False


def _step(spec: ModelSpec, names: Sequence[str], store: ModelStore, known: dict[str, Any], task: _Task) -> _Outcome:
    training = known_rows(spec, task.rows, task.training_date)
    label = f"{task.scope} {task.training_date}"
    if reason := untrainable(spec, training):
        return _Outcome(f"{label}: {reason}")
    digest = fingerprint(spec, task.scope, task.training_date, names, training)
    model_id = f"m_{digest[:16]}"
    model = known.get(model_id)
    reuse = model is not None and store.exists(model["path"])
    if model is not None and reuse:
        text = store.load(model["path"], model["sha256"])
        metrics = json.loads(model["metrics"])
    else:
        fitted = fit(spec, names, training)
        text = fitted.text
        metrics = fitted.metrics | {"training_date": task.training_date.isoformat(), "fingerprint": digest}
        path, sha256 = store.save(model_id, text)
        model = {
            "model_id": model_id,
            "experiment_id": spec.experiment_id,
            "algo": spec.algo,
            "task_id": spec.task_id,
            "scope": task.scope,
            "params": spec.canonical_json(),
            "train_from": _EPOCH + timedelta(int(training.ts[0])),
            "train_to": _EPOCH + timedelta(int(training.ts[-1])),
            "feature_version": spec.feature_version,
            "label_version": spec.label_version,
            "metrics": json.dumps(metrics, sort_keys=True, allow_nan=False),
            "path": path,
            "sha256": sha256,
        }
    message = f"{label}: {'reused' if reuse else 'trained'}, {len(training)} rows"
    wanted = task.rows.take((task.rows.ts >= task.first) & (task.rows.ts <= task.last))
    named = predict(spec, text, metrics, wanted).with_columns(model_id=pl.lit(model_id), task_id=pl.lit(spec.task_id))
    return _Outcome(message, model, named.select(PREDICTIONS_SCHEMA.names()), trained=not reuse)


def predict(spec: ModelSpec, text: str, metrics: dict[str, Any], rows: Rows) -> pl.DataFrame:
    """SCORES_SCHEMA: scores of `rows`, in their order, by a fitted model."""
    from scipy.special import expit

    raw = raw_scores(text, rows.x)
    calibrated: Floats | None = None
    if metrics["calibration"] is not None:
        calibrated = Calibration(**metrics["calibration"]).apply(raw)
    return pl.DataFrame(
        {
            "symbol": pl.Series(rows.names, dtype=pl.String).gather(rows.symbol),
            "ts": pl.Series(rows.ts, dtype=pl.Int32).cast(pl.Date),
            "score": expit(raw) if spec.task == "classification" else raw,
            "calibrated_score": calibrated,
        },
        schema=SCORES_SCHEMA,
    )


def _tasks(groups: dict[str, Rows], dates: Sequence[date], first: date, last: date) -> Iterator[_Task]:
    """One task per training date and scope that has something to predict from `first` to `last`."""
    for training_date, following in zip(dates, [*dates[1:], date.max], strict=True):
        begin, end = max(training_date, first), min(following - timedelta(1), last)
        if begin > end:
            continue
        for scope, rows in groups.items():
            if np.any((rows.ts >= _day(begin)) & (rows.ts <= _day(end))):
                yield _Task(scope, training_date, rows, _day(begin), _day(end))


def feature_names(spec: ModelSpec, features: pl.DataFrame) -> list[str]:
    """The columns of `features` that the spec's models read, sorted.

    Raises:
        ConfigError: one that is not there.
    """
    have = sorted(set(features.columns) - {"symbol", "ts"})
    missing = sorted(set(spec.features or ()) - set(have))
    if missing or not have:
        raise ConfigError(
            f"feature {', '.join(missing) or 'set'} is not in version {spec.feature_version} "
            f"(there: {', '.join(have) or 'none'}); correct the model's features or compute them first"
        )
    return list(spec.features) if spec.features else have


def rows_by_scope(
    spec: ModelSpec,
    features: pl.DataFrame,
    labels: pl.DataFrame,
    symbols: Sequence[str],
    names: list[str],
    last: date,
) -> dict[str, Rows]:
    """Rows up to `last` per scope, features joined to the labels they are to predict.

    Raises:
        DataError: a duplicate (symbol, ts), or a label known on or before the session it describes.
    """
    wanted = tuple(sorted(set(symbols)))
    mine = pl.col("symbol").is_in(wanted)
    code = pl.col("symbol").cast(pl.Enum(wanted)).to_physical().cast(pl.Int32)
    values = [pl.col(name).cast(pl.Float64).fill_nan(None) for name in names]
    usable = features.filter(mine, pl.col("ts") <= last).select(code, "ts", *values)
    targets = labels.filter(mine, pl.col("label_value").is_finite()).select(
        code, "ts", "known_on", pl.col("label_value").cast(pl.Float64)
    )
    early = targets.filter(pl.col("known_on") <= pl.col("ts")).sort("symbol", "ts")
    if len(early):
        row = early.row(0, named=True)
        raise DataError(
            f"label of {wanted[row['symbol']]} {row['ts']} is known on {row['known_on']}, which is not after it; "
            "compute the labels anew"
        )
    frame = (
        usable.filter(~pl.all_horizontal(pl.col(names).is_null()))
        .with_columns(cell=_cell())
        .join(targets.select("known_on", "label_value", cell=_cell()), on="cell", how="left")
        .sort("cell")
    )
    if spec.scope == "universe":
        frame = frame.sort("ts", maintain_order=True)
    rows = Rows(
        names=wanted,
        symbol=frame["symbol"].to_numpy(),
        ts=frame["ts"].to_physical().to_numpy(),
        known_on=frame["known_on"].to_physical().fill_null(_NEVER).to_numpy(),
        x=np.ascontiguousarray(frame.select(names).to_numpy(), np.float64),
        y=frame["label_value"].to_numpy(),
    )
    twice = np.flatnonzero((rows.symbol[1:] == rows.symbol[:-1]) & (rows.ts[1:] == rows.ts[:-1]))
    if len(twice):
        symbol, day = wanted[rows.symbol[twice[0]]], _EPOCH + timedelta(int(rows.ts[twice[0]]))
        raise DataError(f"{symbol} {day} has two rows of features or of labels; compute the sets anew")
    if spec.scope == "universe":
        return {UNIVERSE: rows}
    edges = np.searchsorted(rows.symbol, np.arange(len(wanted) + 1))
    return {name: rows.take(slice(*edges[at : at + 2])) for at, name in enumerate(wanted)}


def _cell() -> pl.Expr:
    """(symbol, ts) as one number in their order: four times as fast to join and sort by."""
    return pl.col("symbol").cast(pl.Int64) * 2**32 + pl.col("ts").to_physical().cast(pl.Int64)


def _day(day: date) -> int:
    return (day - _EPOCH).days
