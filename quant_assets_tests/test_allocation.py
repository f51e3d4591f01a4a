"""Allocations: shares of equity from the risk of returns."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_assets.core.errors import DataError
from quant_assets.core.matrices import Floats
from quant_assets.portfolio import allocation
from quant_assets.portfolio.allocation import Allocation, allocate

UNCORRELATED = np.array([[0.01, 0.03], [0.01, -0.03], [-0.01, 0.03], [-0.01, -0.03]])
"""Two symbols with mean 0 and covariance 0, the second one three times as volatile."""
methods = pytest.mark.parametrize("method", ["inverse_vol", "risk_parity", "hrp"])


def shares(method: Allocation, returns: Floats, usable: list[bool] | None = None) -> Floats:
    """Shares of the last session, from all of the returns."""
    choice = np.ones((1, returns.shape[1]), np.bool_) if usable is None else np.array([usable])
    return allocate(method, returns, np.array([len(returns) - 1]), choice, len(returns))[0]


def random_returns(sessions: int, symbols: int, seed: int = 0) -> Floats:
    random = np.random.default_rng(seed)
    market = random.normal(0, 0.01, (sessions, 1))
    return market + random.normal(0, 1, (sessions, symbols)) * random.uniform(0.005, 0.05, symbols)


def contributions(weights: Floats, returns: Floats) -> Floats:
    """Each symbol's share of the portfolio's variance."""
    covariance = np.cov(returns, rowvar=False)
    return weights * (covariance @ weights) / (weights @ covariance @ weights)


# --- worked by hand ---


@pytest.mark.parametrize(
    ("method", "expected"),
    [
        ("inverse_vol", [0.75, 0.25]),  # 1 / 1 to 1 / 3
        ("risk_parity", [0.75, 0.25]),  # of two symbols the same, whatever their correlation
        ("hrp", [0.9, 0.1]),  # each split by variance: 1 / 1 to 1 / 9
    ],
)
def test_two_uncorrelated_symbols(method: Allocation, expected: list[float]):
    assert shares(method, UNCORRELATED) == pytest.approx(expected, abs=1e-6)


def test_two_correlated_symbols_are_in_risk_parity_when_weighed_by_inverse_volatility():
    # .01 x (1, 1, -1, -1) and .02 x (1, 1, -1, 1): the sums of squared deviations are 4 and 4 x 3 (of mean .01)
    returns = np.array([[0.01, 0.02], [0.01, 0.02], [-0.01, -0.02], [-0.01, 0.02]])
    ratio = 1 / math.sqrt(3)
    assert shares("risk_parity", returns) == pytest.approx([1 / (1 + ratio), ratio / (1 + ratio)], abs=1e-6)


@pytest.mark.parametrize("symbols", [2, 3, 8])
def test_risk_parity_has_equal_risk_contributions(symbols: int):
    returns = random_returns(60, symbols)
    found = contributions(shares("risk_parity", returns), returns)
    assert found == pytest.approx(np.full(symbols, 1 / symbols), abs=1e-6)


def test_inverse_vol_has_equal_risk_contributions_where_nothing_is_correlated():
    assert contributions(shares("inverse_vol", UNCORRELATED), UNCORRELATED) == pytest.approx([0.5, 0.5])


def test_hrp_treats_a_cluster_like_a_symbol():
    a, b = UNCORRELATED.T
    twins = np.column_stack([a, a, b / 3])
    # a and its twin share what one of two equally volatile symbols gets
    assert shares("hrp", twins) == pytest.approx([0.25, 0.25, 0.5], abs=1e-6)


# --- who is allocated ---


@methods
def test_only_usable_symbols_with_a_complete_window_are_allocated(method: Allocation):
    returns = random_returns(30, 4)
    returns[10, 2] = np.nan
    whole = shares(method, returns, [True, True, True, False])
    assert whole[2:].tolist() == [0.0, 0.0]
    assert whole[:2].tolist() == shares(method, returns[:, :2]).tolist()
    later = allocate(method, returns, np.array([29]), np.ones((1, 4), np.bool_), 19)[0]
    assert (later > 0).all()


@methods
def test_a_single_symbol_gets_all_and_none_get_nothing(method: Allocation):
    returns = random_returns(10, 3)
    assert shares(method, returns, [False, True, False]).tolist() == [0.0, 1.0, 0.0]
    assert shares(method, returns, [False, False, False]).tolist() == [0.0, 0.0, 0.0]


@methods
def test_a_row_with_too_few_sessions_before_it_has_no_shares(method: Allocation):
    found = allocate(method, random_returns(10, 2), np.array([3, 4]), np.ones((2, 2), np.bool_), 5)
    assert found[0].tolist() == [0.0, 0.0]
    assert found[1].sum() == pytest.approx(1)


# --- where risk says nothing ---


@methods
def test_a_price_that_does_not_move_gets_nothing_beside_one_that_moves(method: Allocation):
    still = np.column_stack([UNCORRELATED, np.zeros(4), np.full(4, 0.001)])
    assert shares(method, still)[2:].tolist() == [0.0, 0.0]
    assert shares(method, still)[:2] == pytest.approx(shares(method, UNCORRELATED))
    assert shares(method, np.zeros((4, 2))).tolist() == [0.5, 0.5]
    assert shares(method, np.zeros((4, 1))).tolist() == [1.0]


@methods
def test_symbols_with_equal_returns_get_equal_shares(method: Allocation):
    a = random_returns(30, 1)[:, 0]
    assert shares(method, np.column_stack([a, a])) == pytest.approx([0.5, 0.5], abs=1e-6)


@methods
def test_fewer_sessions_than_symbols_are_allocated(method: Allocation):
    found = shares(method, random_returns(5, 8))
    assert found.sum() == pytest.approx(1)
    assert (found > 0).all()


def test_returns_that_cancel_each_other_have_no_risk_parity_and_fall_back_to_inverse_volatility():
    a, b = random_returns(30, 2).T
    returns = np.column_stack([a, -2 * a, b])
    assert shares("risk_parity", returns).tolist() == shares("inverse_vol", returns).tolist()


def test_an_hrp_without_a_solution_falls_back_to_inverse_volatility():
    a, b = random_returns(30, 2).T
    returns = np.column_stack([a * 1e-9, b])  # a variance that skfolio takes for none
    assert shares("hrp", returns).tolist() == shares("inverse_vol", returns).tolist()


# --- properties ---


@given(
    returns=st.lists(
        st.lists(st.sampled_from([0.0, 0.01, -0.02, 0.05, math.nan]), min_size=3, max_size=3), min_size=4, max_size=8
    ),
    usable=st.lists(st.booleans(), min_size=3, max_size=3),
)
def test_shares_are_not_negative_and_sum_to_one_over_the_symbols_allocated(
    returns: list[list[float]], usable: list[bool]
):
    table = np.array(returns)
    found = allocate("inverse_vol", table, np.array([len(table) - 1]), np.array([usable]), 4)[0]
    allocated = np.array(usable) & np.isfinite(table[-4:]).all(axis=0)
    assert (found >= 0).all()
    assert (found[~allocated] == 0).all()
    assert found.sum() == pytest.approx(1.0 if allocated.any() else 0.0)


@methods
@pytest.mark.parametrize("seed", range(3))
def test_shares_depend_on_neither_the_order_of_symbols_nor_the_scale_of_returns(method: Allocation, seed: int):
    returns = random_returns(40, 5, seed)
    found = shares(method, returns)
    assert found.sum() == pytest.approx(1)
    assert (found > 0).all()
    order = np.array([3, 0, 4, 1, 2])
    assert shares(method, returns[:, order]) == pytest.approx(found[order], abs=1e-6)
    assert shares(method, returns * 0.01) == pytest.approx(found, abs=1e-6)


@methods
def test_a_row_reads_nothing_outside_its_window(method: Allocation):
    returns = random_returns(60, 3)
    rows, usable = np.array([30, 40]), np.ones((2, 3), np.bool_)
    found = allocate(method, returns, rows, usable, 20)
    np.testing.assert_array_equal(allocate(method, returns, rows, usable, 20), found)
    changed = returns.copy()
    changed[:11], changed[41:] = 0.5, np.nan
    np.testing.assert_array_equal(allocate(method, changed, rows, usable, 20), found)
    np.testing.assert_array_equal(allocate(method, returns, rows[::-1].copy(), usable, 20), found[::-1])


# --- many rows ---


def test_equal_rows_are_computed_once(monkeypatch: pytest.MonkeyPatch):
    calls = []
    monkeypatch.setattr(
        allocation, "_shares", lambda method, returns: calls.append(method) or np.ones(returns.shape[1])
    )
    usable = np.array([[True, True], [True, True], [True, False], [True, True]])
    allocate("hrp", random_returns(30, 2), np.array([20, 20, 20, 25]), usable, 5)
    assert len(calls) == 3


def test_progress_is_reported():
    lines: list[str] = []
    usable = np.ones((120, 2), np.bool_)
    allocate("inverse_vol", random_returns(30, 2), np.arange(120) % 30, usable, 5, lines.append)
    assert lines == [f"inverse_vol: {done} of 120 dates" for done in (0, 50, 100)]


@pytest.mark.parametrize(
    ("rows", "usable", "window", "message"),
    [
        ([3], [[True, True]], 1, "a window of 1 returns has no volatility; use 2 or more"),
        ([3], [[True]], 2, r"usable has shape \(1, 1\), needs one row per date: \(1, 2\)"),
        ([4], [[True, True]], 2, "rows 4 to 4 lie outside the 4 sessions of returns"),
        ([-1], [[True, True]], 2, "rows -1 to -1 lie outside"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(rows: list[int], usable: list[list[bool]], window: int, message: str):
    with pytest.raises(DataError, match=message):
        allocate("inverse_vol", UNCORRELATED, np.array(rows), np.array(usable), window)


@methods
def test_no_rows_have_no_shares(method: Allocation):
    assert allocate(method, UNCORRELATED, np.empty(0, np.int64), np.empty((0, 2), np.bool_), 3).shape == (0, 2)
