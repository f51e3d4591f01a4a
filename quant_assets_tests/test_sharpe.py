"""Inference on the Sharpe ratio: the papers' examples, tiny ones worked by hand, and what must hold of any returns."""

import doctest
import math
import re
from collections.abc import Callable
from dataclasses import asdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.core.errors import DataError
from quant_assets.validation import sharpe
from quant_assets.validation.bootstrap_kernel import mixed, resampled
from quant_assets.validation.sharpe import (
    Deflated,
    Interval,
    block_length,
    bootstrap,
    deflated,
    effective_trials,
    expected_best,
    expected_maximum,
    kurtosis,
    minimum_track_record,
    probabilistic,
    sharpes,
    skewness,
    standard_error,
)

TINY = np.array([0.0, 0.0, 0.0, 0.04])
"""Mean 0.01, standard deviation (ddof=1) 0.02; central moments 3, 6 and 21, each times 0.01 to its power."""
NOISE = np.random.default_rng(3).standard_normal((100, 1000)) * 0.01

ratios = st.floats(-0.5, 0.5)
skews = st.floats(-2, 2)
tails = st.floats(5.1, 60)
"""Kurtoses: at least 1 + skew**2."""
lengths = st.integers(2, 5000)


def blocks(count: int, size: int, correlation: float, sessions: int = 1000) -> np.ndarray:
    """Trials in groups whose members correlate with one another, (count x size, sessions)."""
    rng = np.random.default_rng(5)
    common, own = rng.standard_normal((count, 1, sessions)), rng.standard_normal((count, size, sessions))
    return (math.sqrt(correlation) * common + math.sqrt(1 - correlation) * own).reshape(-1, sessions)


def autoregressive(rng: np.random.Generator, coefficient: float, sessions: int) -> np.ndarray:
    values = rng.standard_normal(sessions)
    for session in range(1, sessions):
        values[session] += coefficient * values[session - 1]
    return values


def momentum_grid(rng: np.random.Generator) -> np.ndarray:
    """Returns of following the trend of ten random walks, 75 combinations of look-back and holding period."""
    steps = rng.standard_normal((10, 1260)) * 0.01
    walks, sessions = np.cumsum(steps, axis=1), np.arange(1260)
    rows = []
    for look_back in range(10, 260, 10):
        trend = np.zeros_like(walks)
        trend[:, look_back:] = np.sign(walks[:, look_back:] - walks[:, :-look_back])
        rows += [(trend[:, sessions // held * held][:, :-1] * steps[:, 1:]).mean(axis=0) for held in (1, 5, 21)]
    return np.array(rows)


def test_the_documented_examples_hold():
    assert doctest.testmod(sharpe).failed == 0


def test_the_deflated_sharpe_ratio_papers_example():
    """An annualised ratio of 2.5 over five years of 250 days, the best of 100 trials whose variance is 1/2."""
    ratio, spread = 2.5 / math.sqrt(250), math.sqrt(1 / 2 / 250)
    assert round(expected_maximum(100, spread), 4) == 0.1132
    assert round(probabilistic(ratio, 1250, -3, 10, expected_maximum(100, spread)), 4) == 0.9004
    assert round(probabilistic(ratio, 1250, -3, 10, expected_maximum(46, spread)), 4) == 0.9505
    assert round(probabilistic(ratio, 1250, 0, 3, expected_maximum(88, spread)), 4) == 0.9505


def test_the_efficient_frontier_papers_example_of_the_probabilistic_sharpe_ratio():
    """Two years of months of a hedge fund: mean 0.036, standard deviation 0.079."""
    assert round(0.036 / 0.079 * math.sqrt(12), 1) == 1.6
    assert round(probabilistic(0.458, 24, -2.448, 10.164), 3) == 0.913
    assert round(probabilistic(0.458, 24, 0, 3), 3) == 0.982


@pytest.mark.parametrize(
    ("year", "skew", "tail", "years"), [(252, 0, 3, 2.73), (52, 0, 3, 2.83), (12, 0, 3, 3.24), (12, -0.72, 5.78, 4.99)]
)
def test_the_efficient_frontier_papers_years_to_tell_a_ratio_of_two_from_one(year, skew, tail, years):
    assert round(minimum_track_record(2 / year**0.5, skew, tail, 1 / year**0.5) / year, 2) == years


def test_sharpe_ratios_of_a_matrix_are_annualised_and_nan_where_there_is_no_risk():
    returns = np.array([TINY, -TINY, np.full(4, 0.01)])
    np.testing.assert_allclose(sharpes(returns, 4), [1.0, -1.0, np.nan])
    assert np.isnan(sharpes(returns[:, :1], 4)).all()


def test_skewness_and_kurtosis_are_those_of_the_population():
    assert skewness(TINY) == pytest.approx(6 / 3**1.5)
    assert kurtosis(TINY) == pytest.approx(21 / 9)
    assert math.isnan(skewness(np.full(3, 0.1)))
    assert math.isnan(kurtosis(np.full(3, 0.1)))


def test_the_probabilistic_sharpe_ratio_by_hand():
    """The root of 1 + (3 - 1) / 4 over 7 - 1 is a half: a ratio of 1 is two standard errors above 0."""
    assert standard_error(1.0, 7, 0.0, 3.0) == 0.5
    assert probabilistic(1.0, 7, 0.0, 3.0) == pytest.approx(0.9772499, abs=1e-7)
    assert probabilistic(1.0, 7, 0.0, 3.0, 0.5) == pytest.approx(0.8413447, abs=1e-7)
    assert probabilistic(0.0, 7, 1.0, 9.0) == 0.5
    assert standard_error(1.0, 5, 2.0, 5.0) == 0.0
    assert math.isnan(probabilistic(1.0, 5, 2.0, 5.0))


def test_a_ratio_below_its_benchmark_never_has_a_long_enough_track_record():
    assert minimum_track_record(0.0, 0.0, 3.0) == math.inf
    assert minimum_track_record(0.1, 0.0, 3.0, benchmark=0.1) == math.inf
    assert minimum_track_record(1.0, 0.0, 3.0) == pytest.approx(1 + 1.5 * 1.6448536**2)


@given(ratios, ratios, lengths, skews, tails)
def test_the_probability_rises_with_the_ratio(one, other, sessions, skew, tail):
    low, high = sorted((one, other))
    assert probabilistic(low, sessions, skew, tail) <= probabilistic(high, sessions, skew, tail) + 1e-15


@given(ratios, ratios, ratios, lengths, skews, tails)
def test_the_probability_falls_with_the_benchmark(ratio, one, other, sessions, skew, tail):
    low, high = sorted((one, other))
    assert probabilistic(ratio, sessions, skew, tail, low) >= probabilistic(ratio, sessions, skew, tail, high)


@given(st.floats(0.01, 0.5), skews, tails, st.floats(0.6, 0.99))
def test_after_the_minimum_track_record_the_probability_is_the_one_asked_for(ratio, skew, tail, confidence):
    sessions = math.ceil(minimum_track_record(ratio, skew, tail, confidence=confidence))
    assert probabilistic(ratio, sessions, skew, tail) >= confidence - 1e-12
    assert sessions <= 2 or probabilistic(ratio, sessions - 1, skew, tail) <= confidence + 1e-12


@given(st.integers(1, 10**6), st.integers(1, 10**6), st.floats(0.001, 2))
def test_the_expected_maximum_rises_with_the_trials_and_is_nothing_for_one(one, other, spread):
    few, many = sorted((one, other))
    assert expected_maximum(1, spread) == 0.0
    assert 0 <= expected_maximum(few, spread) <= expected_maximum(many, spread)
    assert expected_maximum(many, 2 * spread) == pytest.approx(2 * expected_maximum(many, spread))


def test_deflated_by_hand():
    """Of two trials, ratios 0 and 1: 0.7071 x 0.5772 x Z(1 - 1 / 2e), where Z is 0.90045."""
    found = deflated(TINY, 4, np.array([0.0, 1.0, np.nan]), trials=2, effective=1.0)
    error = math.sqrt((1 - 6 / 3**1.5 / 2 + (21 / 9 - 1) / 16) / 3)
    assert found.sharpe == pytest.approx(1.0)
    assert (found.sessions, found.trials, found.effective_trials, found.interval) == (4, 2, 1.0, None)
    assert found.expected_maximum == pytest.approx(math.sqrt(0.5) * 0.5772157 * 0.90045, abs=2e-6)
    assert found.ratio == found.sharpe - found.expected_maximum
    assert found.probabilistic == pytest.approx(0.5 * math.erfc(-0.5 / error / math.sqrt(2)))
    assert found.probability == pytest.approx(0.5 * math.erfc(-found.ratio / 2 / error / math.sqrt(2)))
    assert found.minimum_sessions == pytest.approx(1 + 3 * (1.6448536 * error / 0.5) ** 2)
    assert (found.effective_expected_maximum, found.effective_ratio) == (0.0, found.sharpe)
    assert found.effective_probability == found.probabilistic


def test_the_only_trial_is_not_deflated():
    found = deflated(TINY, 4, np.array([1.0]), trials=1)
    assert (found.expected_maximum, found.ratio) == (0.0, found.sharpe)
    assert found.probability == found.effective_probability == found.probabilistic


@pytest.mark.parametrize("known", [[], [0.4], [0.4, np.nan]])
def test_trials_of_which_too_few_are_known_are_spread_like_estimates_of_zero(known: list[float]):
    found = deflated(NOISE[0], 252, np.array(known), trials=30)
    assert found.expected_maximum == expected_best(30, 1000, 252) == found.effective_expected_maximum


def test_effective_trials_are_spread_like_estimates_of_zero_at_least():
    near, apart = np.array([0.1, 0.2]), np.array([-2.0, 2.0])
    assert deflated(NOISE[0], 252, near, 30, 10).effective_expected_maximum == expected_best(10, 1000, 252)
    wide = deflated(NOISE[0], 252, apart, 30, 10).effective_expected_maximum
    assert wide == expected_maximum(10, math.sqrt(8))


@given(st.integers(2, 10**5), st.integers(2, 10**5))
def test_the_deflated_ratio_and_its_probability_fall_with_the_number_of_trials(one, other):
    few, many = (deflated(NOISE[0], 252, np.array([0.5, 1.0]), trials) for trials in sorted((one, other)))
    assert few.ratio >= many.ratio
    assert few.probability >= many.probability
    assert few.effective_probability >= many.effective_probability


def test_returns_without_spread_have_no_ratio_and_no_probability():
    found = asdict(deflated(np.full(30, 0.001), 252, np.array([]), trials=3))
    undefined = {name for name, value in found.items() if isinstance(value, float) and math.isnan(value)}
    assert undefined == {
        "sharpe", "skew", "kurtosis", "probabilistic", "minimum_sessions", "ratio", "probability", "effective_ratio",
        "effective_probability",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("returns", "expected"),
    [
        (blocks(5, 20, 0.9), 5),
        (blocks(1, 30, 0.9), 1),
        (NOISE, 100),
        (NOISE[:1], 1),
        (np.repeat(NOISE[:1], 40, axis=0), 1),
        (np.array([NOISE[0], NOISE[0], -NOISE[0]]), 2),
        (np.vstack([np.zeros((3, 1000)), NOISE[:2], np.full((2, 1000), 0.01)]), 2),
        (np.zeros((3, 10)), 1),
    ],
    ids=["five groups", "one group", "unrelated", "one", "copies", "opposite", "some flat", "all flat"],
)
def test_effective_trials_are_the_groups_that_move_together(returns: np.ndarray, expected: int):
    assert effective_trials(returns) == expected


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_effective_trials_depend_neither_on_order_nor_on_scale(seed: int):
    rng = np.random.default_rng(seed)
    returns = blocks(8, 3, 0.7, 60)
    assert 8 < effective_trials(returns) < 24
    assert effective_trials(rng.permutation(returns) * rng.uniform(0.1, 9, (24, 1))) == effective_trials(returns)


def test_a_finer_grid_hardly_adds_effective_trials():
    grid = momentum_grid(np.random.default_rng(1))
    assert effective_trials(grid[::2]) <= effective_trials(grid) <= 1.5 * effective_trials(grid[::2]) < len(grid) / 2


def test_of_very_many_trials_a_sample_is_clustered(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sharpe, "CLUSTERED", 50)
    assert effective_trials(NOISE) == 100
    assert effective_trials(blocks(5, 40, 0.9)) == 5
    assert effective_trials(np.vstack([blocks(1, 100, 0.9), NOISE])) == pytest.approx(101, abs=4)


def test_luck_in_a_grid_is_what_both_counts_of_its_trials_say():
    """Related trials are close together, so many of them with their own spread, or few with that of chance."""
    best, counted, effective = [], [], []
    for seed in range(40):
        grid = momentum_grid(np.random.default_rng(seed))
        annual = sharpes(grid, 252)
        found = deflated(grid[0], 252, annual, len(grid), effective_trials(grid))
        best.append(annual.max())
        counted.append(found.expected_maximum)
        effective.append(found.effective_expected_maximum)
    assert np.mean(counted) == pytest.approx(np.mean(best), abs=0.15)
    assert np.mean(effective) == pytest.approx(np.mean(best), abs=0.15)


def test_the_generator_is_splitmix64():
    """The first number of the reference implementation's seed 0."""
    assert int(mixed(np.uint64(0x9E3779B97F4A7C15))) == 0xE220A8397B1DCDAF


def test_resampling_with_one_endless_block_turns_the_series_round_only():
    found = bootstrap(NOISE[0], 252, block=math.inf)
    assert found.low == pytest.approx(sharpes(NOISE[:1], 252)[0])
    assert found.high == pytest.approx(sharpes(NOISE[:1], 252)[0])


def test_a_resampled_series_takes_whole_blocks_of_the_original():
    """Of 1 then 99 zeros each, blocks hold about as many ones per session; those of the mean length 1 any number."""
    returns = np.where(np.arange(1000) % 100 == 0, 1.0, 0.0)
    varied = {}
    for block in (1.0, 50.0, 400.0):
        drawn = np.empty(500)
        resampled(returns - 0.01, 0.01, block, 1, drawn)
        varied[block] = np.nanstd(drawn)
    assert varied[1.0] > 1.5 * varied[50.0] > 1.5 * varied[400.0]


def test_single_sessions_of_independent_returns_give_the_analytic_standard_error():
    returns = NOISE[0]
    found = bootstrap(returns, 252, resamples=20_000, block=1.0)
    ratio = sharpes(returns[None], 252)[0]
    error = math.sqrt(252) * standard_error(ratio / math.sqrt(252), 1000, skewness(returns), kurtosis(returns))
    assert (found.high - found.low) / (2 * 1.959964 * error) == pytest.approx(1, abs=0.03)
    assert (found.high + found.low) / 2 == pytest.approx(ratio, abs=0.1 * error)


def test_the_interval_contains_the_estimate_and_is_wider_the_surer_it_is():
    for returns in NOISE[:20]:
        found, surer = bootstrap(returns, 252, 500), bootstrap(returns, 252, 500, confidence=0.99)
        assert surer.low < found.low < sharpes(returns[None], 252)[0] < found.high < surer.high


def test_trending_returns_are_less_certain_and_alternating_ones_more():
    widths = {}
    for coefficient in (-0.4, 0.0, 0.4):
        found = bootstrap(autoregressive(np.random.default_rng(2), coefficient, 2520), 252)
        widths[coefficient] = found.high - found.low
    assert 1.2 * widths[-0.4] < widths[0.0] < widths[0.4] / 1.2


def test_the_same_seed_gives_the_same_interval_and_another_one_nearly_the_same():
    one, other = bootstrap(NOISE[0], 252), bootstrap(NOISE[0], 252, seed=8)
    assert bootstrap(NOISE[0].copy(), 252) == one
    assert one != other
    assert one.low == pytest.approx(other.low, abs=0.1)


def test_the_interval_of_constant_returns_is_unknown():
    found = bootstrap(np.full(20, 0.01), 252)
    assert math.isnan(found.low)
    assert math.isnan(found.high)
    assert (found.confidence, found.block) == (0.95, 1.0)


def test_the_block_length_is_the_one_of_the_package_arch():
    """`optimal_block_length` of arch 8.0.0."""
    rng = np.random.default_rng(11)
    for coefficient, expected in ((0.5, 7.410489536152283), (0.8, 16.36846795852214), (-0.4, 9.130548427502346)):
        assert block_length(autoregressive(rng, coefficient, 500)) == pytest.approx(expected, rel=1e-9)


def test_the_block_length_lies_between_one_session_and_a_third_of_the_period():
    assert block_length(np.resize([1.0, -1.0], 20)) == 7
    assert block_length(np.diff(NOISE[0])) == math.ceil(3 * math.sqrt(999))
    assert min(block_length(returns) for returns in NOISE) == 1.0


BROKEN = np.append(NOISE[0], np.nan)
TOO_SHORT = "1 session(s) of returns, at least 2 are needed: take a longer period"
NOT_FINITE = "1 of 1001 returns are not finite: a session without a return counts as 0"
COUNT = "count every trial of the family, the strategy's own included"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: standard_error(0.1, 1, 0, 3), TOO_SHORT),
        (lambda: probabilistic(0.1, 9, 0, 0), "kurtosis is 0, with a skewness of 0 at least 1: pass it not in excess"),
        (
            lambda: minimum_track_record(1, 2, 3),
            "kurtosis is 3, with a skewness of 2 at least 5: pass it not in excess",
        ),
        (lambda: minimum_track_record(1, 0, 3, 0, 95), "confidence is 95, it lies between 0.5 and 1, say 0.95"),
        (lambda: effective_trials(NOISE[:0]), "no trial's returns, at least 1 is needed: give the strategy's own too"),
        (lambda: effective_trials(BROKEN[None]), NOT_FINITE),
        (lambda: bootstrap(NOISE[0, :19], 252), TOO_SHORT.replace("1", "19").replace("2", "20")),
        (lambda: bootstrap(BROKEN, 252), NOT_FINITE),
        (lambda: bootstrap(NOISE[0], 252, 0), "0 resamples at a confidence of 0.95: take 1 or more, between 0 and 1"),
        (lambda: bootstrap(NOISE[0], 4, block=0.5), "the mean length of a block is 0.5 sessions, it must be 1 or more"),
        (lambda: deflated(TINY[:1], 252, TINY, 9), TOO_SHORT),
        (lambda: deflated(TINY, 252, TINY, 3), f"3 trials, of which 4 are known and 3 effective: {COUNT}"),
        (lambda: deflated(TINY, 252, TINY, 9, 9.5), f"9 trials, of which 4 are known and 9.5 effective: {COUNT}"),
        (lambda: deflated(TINY, 252, TINY[:0], 0), f"0 trials, of which 0 are known and 0 effective: {COUNT}"),
    ],
)
def test_input_that_cannot_be_judged_is_refused_with_value_limit_and_remedy(
    call: Callable[[], float | Interval | Deflated], message: str
):
    with pytest.raises(DataError, match=f"^{re.escape(message)}$"):
        call()
