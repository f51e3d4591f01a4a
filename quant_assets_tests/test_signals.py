"""Signal kinds: what becomes a score."""

from datetime import date

import polars as pl
import pytest

from quant_assets.core.errors import DataError
from quant_assets.signals import FactorRankInputs, factor_rank, model_score

DAY = date(2024, 1, 2)
RET = FactorRankInputs(feature_version="v1", feature_name="ret_60d")


def features(**values: float | None) -> pl.DataFrame:
    return pl.DataFrame(
        {"symbol": list(values), "ts": DAY, "ret_60d": list(values.values())}, schema_overrides={"ret_60d": pl.Float64}
    )


def test_factor_rank_scores_by_the_feature():
    assert factor_rank(features(B=-0.2, A=0.1), RET).rows() == [("A", DAY, 0.1), ("B", DAY, -0.2)]


def test_factor_rank_turns_the_sign_where_low_values_are_good():
    low = RET.model_copy(update={"descending": False})
    assert factor_rank(features(A=0.1, B=-0.2, C=0.0), low)["score"].to_list() == [-0.1, 0.2, 0.0]


def test_a_feature_that_is_missing_or_not_finite_gives_no_score():
    table = features(A=None, B=float("nan"), C=float("inf"), D=1.0)
    assert factor_rank(table, RET)["symbol"].to_list() == ["D"]


def test_a_feature_that_was_not_computed_is_named():
    with pytest.raises(DataError, match=r"'ret_60d' \(v1\) is not among \['symbol', 'ts'\]"):
        factor_rank(features(A=1.0).drop("ret_60d"), RET)


def test_model_score_takes_the_calibrated_score_where_there_is_one():
    predictions = pl.DataFrame(
        {"symbol": ["C", "B", "A"], "ts": DAY, "score": [0.7, 0.6, 0.5], "calibrated_score": [float("nan"), None, 0.4]}
    )
    assert model_score(predictions).rows() == [("A", DAY, 0.4), ("B", DAY, 0.6), ("C", DAY, 0.7)]
    assert model_score(predictions.drop("calibrated_score"))["score"].to_list() == [0.5, 0.6, 0.7]


def test_two_scores_for_one_symbol_and_session_are_refused():
    with pytest.raises(DataError, match=f"more than one score for A on {DAY}"):
        model_score(pl.DataFrame({"symbol": ["A", "A"], "ts": DAY, "score": [0.7, 0.6]}))


def test_no_rows_give_no_scores():
    assert factor_rank(features(), RET).is_empty()
