"""CPCV of a strategy whose model is trained: fitted anew per split, and the strategy backtested on every path."""

from collections.abc import Callable, Mapping, Sequence
from datetime import date

import numpy as np
import polars as pl

from quant_assets.core.errors import ConfigError
from quant_assets.models import cpcv
from quant_assets.strategy.evaluate import Evaluator
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.universe import Bounds
from quant_assets.validation.cpcv import Combinatorial, of_paths, splits
from quant_assets.validation.plan import ValidationPlan


def retrained(
    spec: StrategySpec,
    features: pl.DataFrame,
    labels: pl.DataFrame,
    bars: pl.DataFrame,
    sessions: Sequence[date],
    calendar: Sequence[date],
    bounds: Mapping[str, Bounds],
    year: int,
    plan: ValidationPlan,
    symbols_of_market: Sequence[str],
    written_sharpe: float,
    progress: Callable[[str], None] | None = None,
) -> Combinatorial:
    """Backtest every path of the period, each block decided by models that have seen neither it nor its purge zones.

    The purge is the larger of `plan.purge` and the labels' horizon, and by the session on which each label was really
    known (`models.cpcv.training_rows`). The backtest of a path is the strategy's, over the whole period from cash; a
    position is held over the edge of a block until the next rebalance. Once a path has lost everything its returns
    count as 0.

    Args:
        features: symbol, ts and one column per feature of the model's set, at least of `sessions`.
        labels: symbol, ts, label_value, known_on and horizon (sessions) of the model's label.
        bars, sessions, calendar, bounds, year: as `Evaluator` takes them.
        symbols_of_market: those that the strategy's models learn from, whichever it may hold.
        written_sharpe: the ratio of the strategy's backtest over `sessions`.

    Raises:
        ConfigError: a strategy without a model.
        DataError: a period too short to split, or a split with too little to learn from.
    """
    model = spec.model
    if model is None:
        raise ConfigError(f"strategy {spec.strategy_id} has no model to retrain; its signal is {spec.signal.type}")
    horizon = labels.select(pl.col("horizon").max().fill_null(0)).item()
    found = cpcv.run(
        model, features, labels, symbols_of_market, sessions, splits(len(sessions), plan, horizon), progress
    )
    returns = np.vstack(
        [
            Evaluator(bars, sessions, calendar, bounds, year, {model.experiment_id: found.path(number)})
            .evaluate([spec])
            .returns
            for number in range(len(found.splits.paths))
        ]
    )
    return of_paths(found.splits, np.nan_to_num(returns, nan=0.0), year, written_sharpe)
