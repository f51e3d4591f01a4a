"""Models of combinatorial purged cross-validation: fitted anew per split, to predict its test blocks."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from functools import partial

import numpy as np
import polars as pl
from numpy.typing import NDArray

from quant_assets.core.errors import ConfigError, DataError
from quant_assets.models.spec import ModelSpec
from quant_assets.models.training import Days, Mask, Rows, fit, untrainable
from quant_assets.models.walkforward import SCORES_SCHEMA, feature_names, predict, rows_by_scope, side_by_side
from quant_assets.validation.cpcv import Splits

_PREDICTIONS = pl.Schema([("split", pl.Int64()), ("block", pl.Int64()), *SCORES_SCHEMA.items()])


@dataclass(frozen=True)
class Retrained:
    """What the models of all splits say of their test blocks.

    `predictions` has split, block, symbol, ts, score and calibrated_score, sorted by the first four. `skipped` says in
    one line each which model was not trained and why.
    """

    splits: Splits
    predictions: pl.DataFrame
    trained: int
    skipped: list[str]

    def path(self, number: int) -> pl.DataFrame:
        """SCORES_SCHEMA: one path's predictions, each block's from the split that tests it there; by (symbol, ts)."""
        split = self.splits.paths[number]
        tests = pl.DataFrame({"split": split, "block": np.arange(len(split))})
        return self.predictions.join(tests, on=["split", "block"], how="semi").select(SCORES_SCHEMA.names())


@dataclass(frozen=True)
class _Task:
    split: int
    scope: str
    rows: Rows


@dataclass(frozen=True)
class _Outcome:
    split: int
    message: str
    predictions: pl.DataFrame | None = None


def run(
    spec: ModelSpec,
    features: pl.DataFrame,
    labels: pl.DataFrame,
    symbols: Sequence[str],
    sessions: Sequence[date],
    splits: Splits,
    progress: Callable[[str], None] | None = None,
) -> Retrained:
    """Fit one model per split and scope on what is left to learn from, and predict the split's test blocks.

    The period is closed: a row before its first session is not used, nor a label known after its last, so that bars
    that come later change nothing. `spec.retrain` and `spec.train_years` are about walking forward and do not count
    here: a split's models learn from all of its training rows, those after a test block included. No model is stored.

    `fit` is the strategy's own. Its hold-out, on which a probability is calibrated, is the newest share of the split's
    training dates and so lies outside the test blocks. Its fit part, purged by `known_on` too, lies wholly before it,
    whatever gaps the test blocks leave in either.

    Args:
        features, labels, symbols: as `walkforward.run` takes them.
        sessions: the period's, rising.
        splits: of so many sessions.

    Predictions depend neither on the order of rows nor on thread counts.

    Raises:
        ConfigError: splits of another number of sessions, or a feature that `features` does not have.
        DataError: a test block that no model predicts, or what `rows_by_scope` refuses.
    """
    if splits.train.shape[1] != len(sessions):
        raise ConfigError(
            f"the splits are of {splits.train.shape[1]} sessions, the period has {len(sessions)}; split that period"
        )
    days = np.array(sessions, "M8[D]").astype(np.int32)
    names = feature_names(spec, features)
    groups = {
        scope: rows.take(np.isin(rows.ts, days))
        for scope, rows in rows_by_scope(spec, features, labels, symbols, names, sessions[-1]).items()
    }
    tasks = [_Task(split, scope, rows) for split in range(len(splits.tested)) for scope, rows in groups.items()]
    done = side_by_side(
        partial(_step, spec, names, splits, days),
        [task for task in tasks if np.isin(_blocks(splits, days, task.rows), splits.tested[task.split]).any()],
        progress,
    )
    frames = [outcome.predictions for outcome in done if outcome.predictions is not None]
    skipped = [outcome for outcome in done if outcome.predictions is None]
    predictions = pl.concat([pl.DataFrame(schema=_PREDICTIONS), *frames]).sort("split", "block", "symbol", "ts")
    tests = {(split, int(block)) for split, tested in enumerate(splits.tested) for block in tested}
    without = sorted(tests - set(predictions.select("split", "block").unique().iter_rows()))
    if without:
        split, block = without[0]
        why = [outcome.message for outcome in skipped if outcome.split == split]
        raise DataError(
            f"{why[0]}; lengthen the period, or test fewer folds at a time"
            if why
            else f"block {block}, from {sessions[splits.edges[block]]}, has no features; begin the period where they do"
        )
    return Retrained(splits, predictions, len(frames), [outcome.message for outcome in skipped])


def training_rows(splits: Splits, split: int, days: Days, rows: Rows) -> Mask:
    """Which of n rows the models of a split may learn from, (n,).

    Those of `splits.train`, purged by when labels were really known: the sessions from a row's own to the one that
    settled its label, both inclusive, may meet neither a test block nor what the labels of the block's own rows reach
    into (López de Prado, Advances in Financial Machine Learning, 2018, section 7.4.1). A label counts in its symbol's
    own sessions and may span more of the market's than its horizon says; `splits.train` knows the horizon only.

    Example: sessions 0 to 9, labels known 2 sessions later, test block 4 and 5, no purge or embargo in `splits`: rows
    0 and 1 are kept (known by 3), 2 to 7 are not (the block's labels are known by 7), 8 and 9 have no label yet.

    Args:
        days: (sessions,): rising, days since 1970-01-01.
        rows: on those sessions only.
    """
    known = rows.known_on <= days[-1]
    kept = known & splits.train[split, np.searchsorted(days, rows.ts)]
    blocks = _blocks(splits, days, rows)
    for block in splits.tested[split]:
        first, last = days[splits.edges[block]], days[splits.edges[block + 1] - 1]
        reach = rows.known_on[known & (blocks == block)].max(initial=last)
        kept &= (rows.known_on < first) | (rows.ts > reach)
    return kept


def _step(spec: ModelSpec, names: Sequence[str], splits: Splits, days: Days, task: _Task) -> _Outcome:
    tested = splits.tested[task.split]
    training = task.rows.take(training_rows(splits, task.split, days, task.rows))
    label = f"split {task.split} (blocks {', '.join(map(str, tested))} tested) {task.scope}"
    if reason := untrainable(spec, training):
        return _Outcome(task.split, f"{label}: {reason}")
    fitted = fit(spec, names, training)
    blocks = _blocks(splits, days, task.rows)
    wanted = np.isin(blocks, tested)
    predictions = predict(spec, fitted.text, fitted.metrics, task.rows.take(wanted)).with_columns(
        split=pl.lit(task.split, pl.Int64), block=pl.Series(blocks[wanted], dtype=pl.Int64)
    )
    return _Outcome(task.split, f"{label}: trained, {len(training)} rows", predictions.select(_PREDICTIONS.names()))


def _blocks(splits: Splits, days: Days, rows: Rows) -> NDArray[np.intp]:
    """(n,): the block of each row."""
    return np.searchsorted(splits.edges, np.searchsorted(days, rows.ts), side="right") - 1
