"""Weighting: exact answers, ties, and what holds for any scores."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quant_assets.core.errors import DataError
from quant_assets.portfolio import WEIGHTINGS, propose

NAN = math.nan


def test_equal_shares_the_money_among_the_best():
    proposal = propose(np.array([[1.0, 3.0, 2.0]]), "equal", 2)
    assert proposal.rank.tolist() == [[3, 1, 2]]
    assert proposal.weight.tolist() == [[0.0, 0.5, 0.5]]


def test_with_fewer_candidates_than_top_k_those_there_are_get_all():
    assert propose(np.array([[NAN, 3.0, 2.0]]), "equal", 5).weight.tolist() == [[0.0, 0.5, 0.5]]


def test_score_weighted_is_proportional_and_gives_nothing_to_scores_that_are_not_positive():
    assert propose(np.array([[3.0, 1.0, -1.0]]), "score_weighted", 3).weight.tolist() == [[0.75, 0.25, 0.0]]
    assert propose(np.array([[-3.0, 0.0]]), "score_weighted", 2).weight.tolist() == [[0.0, 0.0]]


def test_inverse_vol_gives_half_the_volatility_twice_the_weight():
    proposal = propose(np.array([[2.0, 1.0]]), "inverse_vol", 2, np.array([[0.02, 0.01]]))
    assert proposal.weight[0] == pytest.approx([1 / 3, 2 / 3])


@pytest.mark.parametrize("vol", [NAN, 0.0, -1.0, math.inf])
def test_a_symbol_without_a_volatility_gets_no_weight(vol: float):
    proposal = propose(np.array([[2.0, 1.0]]), "inverse_vol", 2, np.array([[vol, 0.01]]))
    assert proposal.weight.tolist() == [[0.0, 1.0]]


def test_inverse_vol_without_volatilities_is_an_error():
    with pytest.raises(DataError, match=r"needs volatilities of shape \(1, 2\)"):
        propose(np.array([[2.0, 1.0]]), "inverse_vol", 2)


def test_of_equal_scores_the_first_symbol_wins():
    assert propose(np.array([[1.0, 1.0, 1.0]]), "equal", 2).weight.tolist() == [[0.5, 0.5, 0.0]]


def test_a_score_that_is_not_finite_has_no_rank():
    assert propose(np.array([[NAN, math.inf, 1.0, -math.inf]]), "equal", 4).rank.tolist() == [[0, 0, 1, 0]]


@pytest.mark.parametrize("shape", [(0, 3), (2, 0)])
def test_no_date_or_no_symbol_proposes_nothing(shape: tuple[int, int]):
    for method in WEIGHTINGS:
        assert propose(np.empty(shape), method, 2, np.empty(shape), shares=np.empty(shape)).weight.shape == shape


@pytest.mark.parametrize("method", ["risk_parity", "hrp", "inverse_vol"])
def test_shares_of_the_whole_universe_are_spread_over_the_chosen(method: str):
    shares = np.array([[0.5, 0.3, 0.2]])
    assert propose(np.array([[1.0, 3.0, 2.0]]), method, 2, shares=shares).weight[0] == pytest.approx([0.0, 0.6, 0.4])


@pytest.mark.parametrize("share", [NAN, 0.0, -1.0, math.inf])
def test_what_is_no_positive_share_gets_no_weight(share: float):
    proposal = propose(np.array([[2.0, 1.0]]), "hrp", 2, shares=np.array([[share, 0.2]]))
    assert proposal.weight.tolist() == [[0.0, 1.0]]


@pytest.mark.parametrize("method", ["risk_parity", "hrp"])
def test_an_allocation_without_shares_is_an_error(method: str):
    with pytest.raises(DataError, match=rf"{method} needs shares of shape \(1, 2\), got None"):
        propose(np.array([[2.0, 1.0]]), method, 2)


class TestExposures:
    def test_a_weight_is_the_share_times_the_exposure(self):
        proposal = propose(np.array([[0.5, -2.0, NAN, 0.0]]), "equal", None, exposure=True)
        assert proposal.weight[0] == pytest.approx([0.5 / 3, -2 / 3, 0.0, 0.0])

    def test_the_larger_of_either_sign_ranks_first_and_of_equal_ones_the_left(self):
        assert propose(np.array([[1.0, -2.0, -1.0, 0.0]]), "equal", None, exposure=True).rank.tolist() == [[2, 1, 3, 4]]

    def test_only_the_chosen_share_the_money(self):
        assert propose(np.array([[0.5, -2.0, 1.0]]), "equal", 2, exposure=True).weight.tolist() == [[0.0, -1.0, 0.5]]

    def test_shares_may_follow_the_size_of_the_exposure(self):
        proposal = propose(np.array([[1.0, -3.0]]), "score_weighted", None, exposure=True)
        assert proposal.weight[0] == pytest.approx([0.25, -2.25])

    def test_shares_come_from_the_volatilities_or_the_allocation(self):
        scores, exposed = np.array([[-1.0, 0.5]]), [[-0.8, 0.1]]
        vols, shares = np.array([[0.01, 0.04]]), np.array([[0.8, 0.2]])
        assert propose(scores, "inverse_vol", None, vols, exposure=True).weight == pytest.approx(np.array(exposed))
        assert propose(scores, "hrp", None, shares=shares, exposure=True).weight == pytest.approx(np.array(exposed))


SHAPE = (3, 5)
SCORES = arrays.arrays(np.float64, SHAPE, elements=st.floats(allow_nan=True, allow_infinity=True))
VOLS = arrays.arrays(np.float64, SHAPE, elements=st.floats())


@settings(max_examples=100, deadline=None)
@given(SCORES, VOLS, st.sampled_from(WEIGHTINGS), st.integers(1, 6))
def test_weights_are_no_shorts_and_add_up_to_one_or_nothing(scores, vols, method, top_k):
    proposal = propose(scores, method, top_k, vols, shares=vols if method in ("risk_parity", "hrp") else None)
    assert np.isfinite(proposal.weight).all()
    assert (proposal.weight >= 0).all()
    total = proposal.weight.sum(axis=1)
    assert (np.isclose(total, 1) | (total == 0)).all()
    assert ((proposal.weight > 0).sum(axis=1) <= top_k).all()
    assert not (proposal.weight > 0)[(proposal.rank == 0) | (proposal.rank > top_k)].any()


@settings(max_examples=60, deadline=None)
@given(SCORES, VOLS, st.sampled_from(WEIGHTINGS), st.one_of(st.none(), st.integers(1, 6)), st.booleans())
def test_all_dates_at_once_give_the_same_bits_as_one_by_one(scores, vols, method, top_k, exposure):
    together = propose(scores, method, top_k, vols, shares=vols, exposure=exposure)
    for date in range(len(scores)):
        row = slice(date, date + 1)
        alone = propose(scores[row], method, top_k, vols[row], shares=vols[row], exposure=exposure)
        assert alone.weight[0].tobytes() == together.weight[date].tobytes()
        assert alone.rank[0].tolist() == together.rank[date].tolist()
