"""The signal kinds. Each returns a frame (symbol, ts, score), sorted by (symbol, ts), whose scores are all finite."""

import polars as pl
from pydantic import BaseModel, ConfigDict, Field

from quant_assets.core.errors import DataError

_KEY = ("symbol", "ts")


class FactorRankInputs(BaseModel):
    """The feature that ranks, and whether a high value of it is good."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    feature_version: str = Field(min_length=1, description="a feature set of the universe")
    feature_name: str = Field(min_length=1, description="the feature of the set whose value is the score")
    descending: bool = Field(default=True, description="true: the highest value ranks first; false: the lowest")


def factor_rank(features: pl.DataFrame, inputs: FactorRankInputs) -> pl.DataFrame:
    """One feature as score, its sign turned where low values are good.

    Of values 0.1 and -0.2 with `descending=False` the scores are -0.1 and 0.2.

    Args:
        features: symbol, ts and the feature's column, in any row order.

    Raises:
        DataError: the feature's column is missing, or two rows have one key.
    """
    if inputs.feature_name not in features.columns:
        raise DataError(
            f"feature {inputs.feature_name!r} ({inputs.feature_version}) is not among {features.columns}; "
            "compute it first"
        )
    value = pl.col(inputs.feature_name)
    # 0 - 0 is 0 where -(0) is -0
    return _scores(features, value if inputs.descending else 0.0 - value)


def model_score(predictions: pl.DataFrame) -> pl.DataFrame:
    """A model's predictions as score: the calibrated score where there is one, else the raw one.

    Args:
        predictions: symbol, ts, score and, optional, calibrated_score, of one experiment; in any row order.

    Raises:
        DataError: a column is missing, or two rows have one key.
    """
    if "score" not in predictions.columns:
        raise DataError(f"predictions have no column 'score', they have {predictions.columns}")
    if "calibrated_score" not in predictions.columns:
        return _scores(predictions, pl.col("score"))
    return _scores(predictions, pl.coalesce(pl.col("calibrated_score").fill_nan(None), pl.col("score")))


def _scores(frame: pl.DataFrame, score: pl.Expr) -> pl.DataFrame:
    scores = frame.select(*_KEY, score=score.cast(pl.Float64)).filter(pl.col("score").is_finite()).sort(_KEY)
    twice = scores.filter(pl.struct(_KEY).is_duplicated()) if scores.select(_KEY).n_unique() < scores.height else None
    if twice is not None:
        symbol, ts, _ = twice.row(0)
        raise DataError(f"more than one score for {symbol} on {ts}; pass the rows of one feature set or one experiment")
    return scores
