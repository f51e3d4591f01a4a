"""Probability of backtest overfitting: small searches worked by hand, slower ways to the same, what must not matter."""

import math
from fractions import Fraction
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant_assets.core.errors import ConfigError, DataError
from quant_assets.validation.pbo import Overfitting, backtest_overfitting


def around(*means: float) -> list[float]:
    """Blocks of two sessions, one above and one below their mean by 1.

    Two such blocks with means a and b have the mean (a + b) / 2 and, ddof 1, the variance (4 + (a - b)^2) / 3.
    """
    return [mean + side for mean in means for side in (1.0, -1.0)]


def noise(seed: int, configurations: int = 10, sessions: int = 160) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.01, (configurations, sessions))


def halves(returns: np.ndarray, blocks: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """(in sample, out of sample) of every combination."""
    length = returns.shape[1] // blocks
    parts = [returns[:, block * length : (block + 1) * length] for block in range(blocks)]
    return [
        tuple(
            np.hstack([parts[block] for block in range(blocks) if (block in inside) is wanted])
            for wanted in (True, False)
        )
        for inside in combinations(range(blocks), blocks // 2)
    ]


def logit(rank: float, configurations: int) -> float:
    return math.log(rank / (configurations + 1 - rank))


def same(one: Overfitting, other: Overfitting) -> bool:
    return all(np.array_equal(value, vars(other)[name], equal_nan=True) for name, value in vars(one).items())


def test_two_blocks_by_hand() -> None:
    found = backtest_overfitting(np.array([[1, 3, 1, 3], [2, 3, -1, 0], [0, 1, 0, 2]]), year=4, blocks=2)
    root = math.sqrt(2)
    assert found.chosen.tolist() == [1, 0]
    assert found.logits == pytest.approx([-math.log(3), 0])
    assert found.pbo == 1
    assert found.is_sharpe == pytest.approx([5 * root, 2 * root])
    assert found.oos_sharpe == pytest.approx([-root, 2 * root])
    assert (found.slope, found.intercept, found.r_squared) == pytest.approx((-1, 4 * root, 1))
    assert found.loss_probability == 0.5
    assert (found.configurations, found.blocks) == (3, 2)


def test_four_blocks_by_hand() -> None:
    returns = np.array([around(0.5, 0.5, 0.5, 0.5), around(3, 0, 0, 0), around(1, 0, 2, 2)])
    found = backtest_overfitting(returns, year=1, blocks=4)
    # Blocks in sample: 0 1, 0 2, 0 3, 1 2, 1 3, 2 3.
    mixed, high = 1 / math.sqrt(8 / 3), 1.5 / math.sqrt(5 / 3)
    assert found.chosen.tolist() == [1, 2, 2, 2, 2, 2]
    assert found.is_sharpe == pytest.approx([1.5 / math.sqrt(13 / 3), high, high, mixed, mixed, math.sqrt(3)])
    assert found.oos_sharpe == pytest.approx([0, mixed, mixed, high, high, 0.5 / math.sqrt(5 / 3)])
    assert found.logits == pytest.approx(np.log([1 / 3, 3, 3, 3, 3, 1 / 3]))
    assert found.pbo == pytest.approx(1 / 3)
    assert found.loss_probability == 0


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(2, 6), st.sampled_from([2, 4, 6, 8]), st.integers(2, 4), st.floats(-2, 2))
def test_it_equals_a_loop_over_combinations(seed: int, count: int, blocks: int, length: int, mean: float) -> None:
    returns = np.random.default_rng(seed).normal(mean, 1, (count, blocks * length + seed % blocks))
    ratios = [
        tuple(half.mean(axis=1) / half.std(axis=1, ddof=1) * math.sqrt(252) for half in split)
        for split in halves(returns, blocks)
    ]
    best = [int(np.argmax(inside)) for inside, _ in ratios]
    logits = [logit(np.sum(out <= out[at]), count) for at, (_, out) in zip(best, ratios, strict=True)]
    found = backtest_overfitting(returns, 252, blocks)
    assert found.chosen.tolist() == best
    assert found.logits == pytest.approx(logits)
    assert found.pbo == np.mean(np.array(logits) <= 0)
    inside = [ratio[at] for at, (ratio, _) in zip(best, ratios, strict=True)]
    outside = [ratio[at] for at, (_, ratio) in zip(best, ratios, strict=True)]
    assert found.is_sharpe == pytest.approx(inside, rel=1e-9, abs=1e-9)
    assert found.oos_sharpe == pytest.approx(outside, rel=1e-9, abs=1e-9)
    if blocks > 2:
        slope, intercept = np.polyfit(inside, outside, 1)
        assert (found.slope, found.intercept) == pytest.approx((slope, intercept), rel=1e-6, abs=1e-6)
        assert found.r_squared == pytest.approx(np.corrcoef(inside, outside)[0, 1] ** 2, rel=1e-6, abs=1e-6)


@settings(deadline=None)
@given(arrays(np.int64, st.tuples(st.integers(2, 5), st.integers(8, 14)), elements=st.integers(-2, 2)))
def test_equal_ratios_share_their_mean_rank_and_the_first_is_chosen(returns: np.ndarray) -> None:
    """In whole numbers, where equal ratios are common and can be told exactly, by x|x| / q, which rises with them."""

    def scores(half: np.ndarray) -> list[Fraction]:
        rows = [[int(value) for value in row] for row in half]
        return [Fraction(sum(row) * abs(sum(row)), max(sum(value**2 for value in row), 1)) for row in rows]

    best, logits, infinite = [], [], False
    for inside, outside in (map(scores, split) for split in halves(returns, 4)):
        at = inside.index(max(inside))
        mine = outside[at]
        rank = sum(score < mine for score in outside) + Fraction(sum(score == mine for score in outside) + 1, 2)
        best.append(at)
        logits.append(logit(float(rank), len(returns)))
        infinite |= len(returns[0]) // 4 * 2 in (abs(inside[at]), abs(mine))
    if infinite:
        with pytest.raises(DataError, match="infinite"):
            backtest_overfitting(returns, 252, 4)
    else:
        found = backtest_overfitting(returns, 252, 4)
        assert found.chosen.tolist() == best
        assert found.logits == pytest.approx(logits)
        assert found.pbo == np.mean(np.array(logits) <= 0)


def test_noise_is_overfit_half_of_the_time() -> None:
    found = [backtest_overfitting(noise(seed, configurations=50, sessions=512), 252, 16).pbo for seed in range(200)]
    assert np.mean(found) == pytest.approx(0.5, abs=3 * np.std(found) / math.sqrt(len(found)))
    assert np.std(found) < 0.25


def test_one_configuration_better_than_all_others_everywhere_is_never_overfit() -> None:
    returns = noise(1)
    returns[3] += 0.02
    found = backtest_overfitting(returns, 252, 8)
    assert found.pbo == 0
    assert set(found.chosen) == {3}
    assert found.logits == pytest.approx(np.full(70, math.log(10)))
    assert found.loss_probability == 0


def test_configurations_that_each_shine_in_one_block_and_lose_in_the_others_are_always_overfit() -> None:
    returns = noise(2, configurations=8) / 100
    returns += np.where(np.repeat(np.eye(8), 20, axis=1) > 0, 0.1, -0.001)
    found = backtest_overfitting(returns, 252, 8)
    assert found.pbo == 1
    assert found.loss_probability == 1
    assert np.all(found.is_sharpe > 0)


def test_a_configuration_that_shines_in_the_first_half_only_is_chosen_there_and_worst_in_the_second() -> None:
    returns = noise(3)
    returns[0] += np.repeat([0.02, -0.02], 80)
    found = backtest_overfitting(returns, 252, 8)
    assert found.chosen[0] == 0
    assert found.logits[0] == pytest.approx(-math.log(10))


def test_a_better_choice_in_sample_shows_as_a_falling_line_where_halves_sum_to_nothing() -> None:
    returns = noise(4)
    found = backtest_overfitting(returns - returns.mean(axis=1, keepdims=True), 252, 8)
    assert found.slope == pytest.approx(-1, abs=0.1)
    assert found.r_squared > 0.9


def test_copies_of_one_configuration_are_at_the_median_which_counts_as_overfit() -> None:
    found = backtest_overfitting(np.tile(noise(5, configurations=1), (3, 1)), 252, 8)
    assert not found.logits.any()
    assert not found.chosen.any()
    assert found.pbo == 1


def test_a_configuration_that_did_not_trade_has_the_ratio_0() -> None:
    idle, losing = np.zeros(16), -np.array(around(*[2] * 8))
    found = backtest_overfitting(np.array([losing, idle]), 252, 8)
    assert set(found.chosen) == {1}
    assert not found.is_sharpe.any()
    assert not found.oos_sharpe.any()
    assert found.pbo == 0
    assert math.isnan(found.slope)
    assert math.isnan(found.r_squared)


def test_a_choice_that_is_worth_the_same_whatever_it_promised_gives_a_level_line() -> None:
    found = backtest_overfitting(np.array([[*around(1), 0, 0], [0, 0, *around(2)]]), 252, 2)
    assert found.chosen.tolist() == [0, 1]
    assert found.is_sharpe[0] < found.is_sharpe[1]
    assert not found.oos_sharpe.any()
    assert (found.slope, found.intercept) == (0, 0)
    assert math.isnan(found.r_squared)


@given(st.permutations(range(10)), st.lists(st.integers(-20, 20), min_size=10, max_size=10))
@settings(deadline=None, max_examples=25)
def test_neither_the_order_nor_the_leverage_of_configurations_matters(order: list[int], powers: list[int]) -> None:
    returns = noise(6)
    plain = backtest_overfitting(returns, 252, 8)
    moved = backtest_overfitting((returns * 2.0 ** np.array(powers)[:, None])[order], 252, 8)
    assert np.array_equal(np.array(order)[moved.chosen], plain.chosen)
    for name in ("logits", "is_sharpe", "oos_sharpe"):
        assert np.array_equal(vars(moved)[name], vars(plain)[name])


def test_neither_the_layout_of_the_matrix_nor_a_second_run_changes_a_bit() -> None:
    returns = noise(7)
    readonly = returns.copy()
    readonly.flags.writeable = False
    first = backtest_overfitting(returns, 252)
    for other in (returns, np.asfortranarray(returns), readonly, np.repeat(returns, 2, axis=0)[::2]):
        assert same(first, backtest_overfitting(other, 252))


def test_sessions_that_fill_no_block_are_left_out_at_the_end() -> None:
    returns = noise(8)
    longer = np.hstack([returns, np.full((10, 7), 0.5)])
    assert same(backtest_overfitting(returns, 252, 8), backtest_overfitting(longer, 252, 8))


def test_a_year_only_scales_the_ratios() -> None:
    daily, annual = (backtest_overfitting(noise(9), year, 8) for year in (1, 252))
    assert annual.is_sharpe == pytest.approx(daily.is_sharpe * math.sqrt(252))
    assert annual.oos_sharpe == pytest.approx(daily.oos_sharpe * math.sqrt(252))
    assert np.array_equal(annual.logits, daily.logits)
    assert annual.slope == pytest.approx(daily.slope)


@pytest.mark.parametrize("blocks", [-2, 0, 1, 15, 22])
def test_another_number_of_blocks_than_an_even_one_up_to_20_is_refused(blocks: int) -> None:
    with pytest.raises(ConfigError, match=f"blocks is {blocks}: .* from 2 to 20"):
        backtest_overfitting(noise(0), 252, blocks)


def test_a_single_configuration_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2 configurations, there is 1: give the strategy a sweep"):
        backtest_overfitting(noise(0, configurations=1), 252)


def test_a_period_too_short_for_the_blocks_is_refused() -> None:
    with pytest.raises(DataError, match="at least 2 sessions in each of 16 blocks, there are 31 in all"):
        backtest_overfitting(noise(0, sessions=31), 252)
    assert backtest_overfitting(noise(0, sessions=32), 252).logits.shape == (12870,)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_returns_that_are_not_finite_are_refused(value: float) -> None:
    returns = noise(0)
    returns[4, [20, 30]] = value, -value
    with pytest.raises(DataError, match="NaN or infinite"):
        backtest_overfitting(returns, 252)


@pytest.mark.parametrize("value", [0.001, -0.001])
def test_a_riskless_return_that_would_be_chosen_or_follow_the_choice_is_refused(value: float) -> None:
    returns = noise(0)
    returns[4] = [*np.full(80, value), *noise(1)[0, 80:] + 0.05]
    with pytest.raises(DataError, match="configuration 4 has the same return, not 0, in all 80 sessions of a half"):
        backtest_overfitting(returns, 252, 8)
