"""Fitting one model on the rows known at one training date: hold-out metrics, calibration, final fit, fingerprint."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from datetime import date
from typing import Any

import numpy as np
import numpy.typing as npt

from quant_assets.models.spec import ModelSpec

PROCEDURE = 1
"""Part of every fingerprint: raise it when `fit` makes another model, metric or calibration of the same rows."""

_BLOCK = 1 << 16
"""Rows that are hashed at a time, so that what is made of them stays in the processor's cache."""

Floats = npt.NDArray[np.float64]
Days = npt.NDArray[np.int32]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Rows:
    """n rows of k features, sorted by (ts, symbol). Days count from 1970-01-01.

    `symbol` (n) indexes `names`, which is sorted. `known_on` (n) is the day a row's label became known, the largest
    int32 where there is none; `y` (n) is its value, NaN where there is none. `x` (n, k) has NaN for a missing value.
    """

    names: tuple[str, ...]
    symbol: npt.NDArray[np.int32]
    ts: Days
    known_on: Days
    x: Floats
    y: Floats

    def take(self, where: Mask | slice) -> "Rows":
        return Rows(self.names, self.symbol[where], self.ts[where], self.known_on[where], self.x[where], self.y[where])

    def __len__(self) -> int:
        return len(self.ts)


@dataclass(frozen=True)
class Calibration:
    """Platt scaling of a raw score (log-odds) s: 1 / (1 + exp(-(slope * s + intercept))), with slope >= 0."""

    slope: float
    intercept: float

    def apply(self, raw: Floats) -> Floats:
        from scipy.special import expit

        return np.asarray(expit(self.slope * raw + self.intercept))


@dataclass(frozen=True)
class Fitted:
    """A model in LightGBM's text format and what is to be known of it (JSON values only)."""

    text: str
    metrics: dict[str, Any]


def fingerprint(spec: ModelSpec, scope: str, training_date: date, features: Sequence[str], rows: Rows) -> str:
    """sha256 (hex) of everything a model is made of: the training rows' bytes, spec, date and LightGBM's version.

    Equal rows give equal bytes whatever universe they were cut from; every NaN and both zeros count as one value.
    """
    import lightgbm

    codes = np.flatnonzero(np.bincount(rows.symbol, minlength=len(rows.names)))
    place = np.zeros(len(rows.names), np.int32)
    place[codes] = np.arange(len(codes))
    head = {
        "spec": spec.canonical_json(),
        "scope": scope,
        "training_date": training_date.isoformat(),
        "features": list(features),
        "symbols": [rows.names[code] for code in codes],
        "rows": len(rows),
        "lightgbm": lightgbm.__version__,
        "procedure": PROCEDURE,
    }
    digest = hashlib.sha256(json.dumps(head, sort_keys=True).encode())
    for days in (rows.ts, rows.known_on, place[rows.symbol]):
        digest.update(np.ascontiguousarray(days, "<i4").data)
    for values in (rows.x, rows.y):
        for start in range(0, len(rows), _BLOCK):
            block = np.add(values[start : start + _BLOCK], 0.0, dtype="<f8")
            block[np.isnan(block)] = np.nan
            digest.update(np.ascontiguousarray(block).data)
    return digest.hexdigest()


def holdout_split(rows: Rows, share: float) -> tuple[Mask, Mask]:
    """Masks of the fit part and of the hold-out, the newest `share` of the training dates (rounded, none if 0).

    The fit part is purged: it has only rows whose label was known before the first hold-out date, for a label that
    reaches into the hold-out period describes the same prices as the hold-out's own labels (López de Prado, Advances
    in Financial Machine Learning, 2018, section 7.4.1).

    Example: dates 1 to 10, each label known 2 days later, share 0.2: hold-out 9 and 10, fit part 1 to 6.
    """
    days = np.unique(rows.ts)
    held = round(share * len(days))
    if held == 0:
        return np.ones(len(rows), bool), np.zeros(len(rows), bool)
    start = days[-held]
    return (rows.ts < start) & (rows.known_on < start), rows.ts >= start


def fit(spec: ModelSpec, features: Sequence[str], rows: Rows) -> Fitted:
    """Judge the spec on a purged hold-out, then fit the model that predicts on all `rows`.

    The model that predicts is refitted on every row known, the newest included, because those are nearest to what it
    will meet; the metrics therefore describe the same spec fitted on the older part. Calibration is learnt from that
    older model's scores on the hold-out, which it has not seen, and applied to the refitted model's: what
    scikit-learn's `CalibratedClassifierCV(ensemble=False)` does, with one forward split in the place of folds.

    Bins (the histogram edges of each feature) are found anew from the rows at hand in both fits. Sharing them between
    training dates would be faster and would let values from the future decide where a tree may split.

    Hold-out metrics are over all its rows together: AUC, log loss, accuracy at 0.5 and Brier score of the uncalibrated
    probability for classification; RMSE, IC (Pearson) and rank IC (Spearman) for regression. One that cannot be had
    (one class only, constant scores, too few rows left to fit on) is null.
    """
    y = _target(spec, rows)
    fit_part, held = holdout_split(rows, spec.holdout)
    metrics: dict[str, Any] = {
        "rows": len(rows),
        "holdout": {"rows": int(held.sum()), "fit_rows": int(fit_part.sum())},
        "calibration": None,
    }
    if held.any():
        metrics["holdout"]["from"] = str(np.datetime64(int(rows.ts[held][0]), "D"))
        raw = None
        if fit_part.sum() >= 2 * spec.params.min_data_in_leaf and is_trainable(spec, rows.take(fit_part)):
            raw = raw_scores(_train(spec, features, rows.x[fit_part], y[fit_part]), rows.x[held])
        if spec.task == "classification":
            metrics["holdout"] |= _classification_metrics(raw, y[held])
            calibration = None if raw is None else platt(raw, y[held])
            metrics["calibration"] = None if calibration is None else asdict(calibration)
        else:
            metrics["holdout"] |= _regression_metrics(raw, y[held])
    text = _train(spec, features, rows.x, y)
    gains = load_booster(text).feature_importance("gain")
    metrics["feature_importance"] = {name: float(gain) for name, gain in zip(features, gains, strict=True)}
    return Fitted(text, metrics)


def is_trainable(spec: ModelSpec, rows: Rows) -> bool:
    """Whether there are two classes to tell apart; always true for regression."""
    return spec.task == "regression" or len(np.unique(_target(spec, rows))) == 2


def untrainable(spec: ModelSpec, rows: Rows) -> str:
    """Why no model is trained on these labelled rows; empty where one is."""
    if len(rows) < spec.min_train_rows:
        return f"{len(rows)} labelled rows known, min_train_rows is {spec.min_train_rows}"
    return "" if is_trainable(spec, rows) else f"all {len(rows)} labels known are of one class"


def load_booster(text: str) -> Any:
    """A `lightgbm.Booster` from its text."""
    import lightgbm

    return lightgbm.Booster(model_str=text)


def raw_scores(text: str, x: Floats) -> Floats:
    """Scores (n) of x (n, k) before any link function: log-odds for classification, the prediction for regression.

    Always from the text, fresh or stored, so that a reused model scores to the last bit as it did when new.
    """
    return np.asarray(load_booster(text).predict(x, raw_score=True, num_threads=1), np.float64)


def one_blas_thread() -> AbstractContextManager[Any]:
    """Holds BLAS, whose sums depend on its thread count, to one thread in the whole process while `fit` is at work."""
    import sklearn.linear_model  # noqa: F401  a BLAS that is loaded later would not be held
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="blas")
    return limits


def platt(raw: Floats, y: Floats) -> Calibration | None:
    """Platt's scaling of hold-out scores (n) to the outcomes y (n, 0 or 1), with his smoothed targets.

    Targets are (N1 + 1) / (N1 + 2) for ones and 1 / (N0 + 2) for zeros, so that separable scores still give a finite
    slope (Platt, Probabilistic Outputs for Support Vector Machines, 1999). The slope is kept from turning negative:
    where the scores rank the hold-out the wrong way or not at all, the likeliest monotone answer is a constant, the
    mean target. None where there is one class only.
    """
    ones = int(y.sum())
    zeros = len(y) - ones
    if not ones or not zeros:
        return None
    target = np.where(y == 1, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    mean = float(target.mean())
    flat = Calibration(0.0, float(np.log(mean / (1 - mean))))
    scale = float(raw.std())
    if np.ptp(raw) == 0 or scale < 1e-300:  # squares of the smallest numbers vanish, and a slope must stay finite
        return flat
    from sklearn.linear_model import LogisticRegression

    # A soft target t is a row of class 1 with weight t and one of class 0 with weight 1 - t. Scaling conditions lbfgs.
    model = LogisticRegression(C=np.inf, tol=1e-8, max_iter=1000).fit(
        np.concatenate([raw, raw])[:, None] / scale,
        np.repeat([1, 0], len(raw)),
        sample_weight=np.concatenate([target, 1 - target]),
    )
    slope = float(model.coef_[0, 0]) / scale
    return Calibration(slope, float(model.intercept_[0])) if slope > 0 else flat


def _train(spec: ModelSpec, features: Sequence[str], x: Floats, y: Floats) -> str:
    import lightgbm

    params = spec.params.model_dump(exclude={"num_boost_round"}) | {
        "objective": "binary" if spec.task == "classification" else "regression",
        "seed": spec.seed,
        "deterministic": True,
        "force_row_wise": True,
        "num_threads": 1,
        "verbosity": -1,
    }
    data = lightgbm.Dataset(x, label=y, feature_name=list(features), params=params)
    booster = lightgbm.train(params, data, spec.params.num_boost_round, keep_training_booster=True)
    return str(booster.model_to_string())


def _target(spec: ModelSpec, rows: Rows) -> Floats:
    return (rows.y > 0).astype(np.float64) if spec.task == "classification" else rows.y


def _classification_metrics(raw: Floats | None, y: Floats) -> dict[str, float | None]:
    if raw is None:
        return dict.fromkeys(("auc", "logloss", "accuracy", "brier"))
    from scipy.special import expit
    from sklearn.metrics import log_loss, roc_auc_score

    p = expit(raw)
    return {
        "auc": float(roc_auc_score(y, raw)) if 0 < y.sum() < len(y) else None,
        "logloss": float(log_loss(y, p, labels=[0, 1])),
        "accuracy": float(np.mean((p > 0.5) == (y == 1))),
        "brier": float(np.mean((p - y) ** 2)),
    }


def _regression_metrics(raw: Floats | None, y: Floats) -> dict[str, float | None]:
    if raw is None:
        return dict.fromkeys(("rmse", "ic", "rank_ic"))
    from scipy.stats import rankdata

    return {
        "rmse": float(np.sqrt(np.mean((raw - y) ** 2))),
        "ic": _correlation(raw, y),
        "rank_ic": _correlation(rankdata(raw), rankdata(y)),
    }


def _correlation(a: Floats, b: Floats) -> float | None:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum()) / scale if scale > 0 else None
