"""In sample, out of sample and walk-forward: where the period is cut, what is chosen, what it was worth afterwards."""

import math
from datetime import date

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.core.errors import DataError
from quant_assets.validation.out_of_sample import Days, in_out_of_sample, walk_forward
from quant_assets.validation.plan import ValidationPlan
from quant_assets.validation.segments import best, masked_sharpes

FIRST = np.datetime64("2024-01-01")
HALVES = ValidationPlan(train_ratio=0.5, min_oos_days=4)
SMALL = ValidationPlan(train_days=4, test_days=4, step_days=2, min_windows=2)


def days(count: int) -> Days:
    return FIRST + np.arange(count)


def ratio(returns: np.ndarray, year: int = 1) -> float:
    return float(returns.mean() / returns.std(ddof=1) * math.sqrt(year))


def test_the_best_in_sample_is_looked_at_out_of_sample_beside_the_strategy_as_written() -> None:
    """Deviations of 1 and 2 % around the means: standard deviations 2 / sqrt(3) and 4 / sqrt(3) %."""
    written = [-0.01, 0.03, -0.01, 0.03, 0.03, 0.01, 0.03, 0.01]
    better = [0.01, 0.03, 0.01, 0.03, 0.0, 0.02, 0.0, 0.02]
    found = in_out_of_sample(np.array([written, better]), days(8), HALVES, 4)
    assert found.split == date(2024, 1, 5)
    assert found.chosen == 1
    root = 2 * math.sqrt(3)
    assert (found.is_sharpe, found.oos_sharpe) == pytest.approx((root, root / 2))
    assert found.degradation == pytest.approx(0.5)
    assert found.oos_return == pytest.approx(1.02**2 - 1)
    assert found.profitable
    assert (found.written_is_sharpe, found.written_oos_sharpe) == pytest.approx((root / 4, root))
    assert found.written_degradation == pytest.approx(-3)
    assert found.written_oos_return == pytest.approx((1.03 * 1.01) ** 2 - 1)


def test_degradation_is_undefined_where_nothing_was_earned_in_sample() -> None:
    losing = np.array([[-0.01, -0.03, -0.01, -0.03, 0.01, 0.02, 0.01, 0.02]])
    assert math.isnan(in_out_of_sample(losing, days(8), HALVES, 4).degradation)
    assert math.isnan(in_out_of_sample(np.zeros((1, 8)), days(8), HALVES, 4).degradation)


@pytest.mark.parametrize(
    ("length", "plan", "first_out"),
    [
        (1000, {}, 635),  # 0.7 would leave 300 days, 365 are wanted
        (2000, {}, 1400),
        (730, {}, 365),
        (100, {"train_ratio": 0.29, "min_oos_days": 1}, 29),  # 0.29 * 100 is 28.999999999999996 in binary
        (11, {"train_ratio": 0.7, "min_oos_days": 1}, 7),
    ],
)
def test_the_split_is_a_share_of_the_days_that_leaves_enough_of_them(
    length: int, plan: dict[str, float], first_out: int
) -> None:
    returns = np.random.default_rng(1).normal(0, 0.01, (2, length))
    found = in_out_of_sample(returns, days(length), ValidationPlan(**plan), 365)
    assert found.split == (FIRST + first_out).item()
    assert found.is_sharpe == pytest.approx(ratio(returns[found.chosen, :first_out], 365), rel=1e-12)


def test_days_are_those_of_the_calendar_not_sessions() -> None:
    sessions = FIRST + np.array([0, 1, 4, 6, 7, 8])  # nine days, the fifth of which is a session and starts the test
    returns = np.array([[0.01, 0.02, 0.05, 0.01, 0.02, 0.03]])
    assert in_out_of_sample(returns, sessions, HALVES, 1).split == date(2024, 1, 5)
    later = FIRST + np.array([0, 1, 2, 6, 7, 8])
    assert in_out_of_sample(returns, later.astype("datetime64[us]"), HALVES, 1).split == date(2024, 1, 7)


@pytest.mark.parametrize(
    ("length", "plan", "said"),
    [(729, {}, "364 of 729 days"), (200, {}, "0 of 200 days"), (1000, {"train_ratio": 0.3}, "300 of 1000 days")],
)
def test_periods_too_short_to_choose_on_are_refused(length: int, plan: dict[str, float], said: str) -> None:
    with pytest.raises(DataError, match=f"{said} would be in sample, at least 365 are needed"):
        in_out_of_sample(np.ones((1, length)), days(length), ValidationPlan(**plan), 365)


def test_ten_days_walk_forward_in_two_windows() -> None:
    """The first row is best on days 0 to 3, the second one on days 2 to 5."""
    first = [0.02, 0.04, 0.01, 0.03, -0.02, -0.01, 0.01, 0.02, 0.0, 0.01]
    second = [-0.01, 0.0, 0.01, 0.02, 0.02, 0.03, -0.03, -0.01, 0.02, 0.01]
    found = walk_forward(np.array([first, second]), days(10), SMALL, 4)
    one, two = found.windows
    assert (one.train_first, one.train_last) == (date(2024, 1, 1), date(2024, 1, 4))
    assert (one.test_first, one.test_last) == (date(2024, 1, 5), date(2024, 1, 8))
    assert (two.train_first, two.test_first, two.test_last) == (date(2024, 1, 3), date(2024, 1, 7), date(2024, 1, 10))
    assert (one.chosen, two.chosen) == (0, 1)
    assert one.is_sharpe == pytest.approx(2 * 0.025 / math.sqrt(0.0005 / 3))
    assert two.is_sharpe == pytest.approx(2 * 0.02 / math.sqrt(0.0002 / 3))
    assert one.oos_return == pytest.approx(0.98 * 0.99 * 1.01 * 1.02 - 1)
    assert two.oos_return == pytest.approx(0.97 * 0.99 * 1.02 * 1.01 - 1)
    assert found.returns.tolist() == [-0.02, -0.01, -0.03, -0.01]
    assert found.days.tolist() == [date(2024, 1, 5 + n) for n in range(4)]
    assert found.sharpe == pytest.approx(2 * -0.0175 / math.sqrt(0.000275 / 3))
    assert found.is_sharpe == pytest.approx((one.is_sharpe + two.is_sharpe) / 2)
    assert found.efficiency == pytest.approx(found.sharpe / found.is_sharpe)
    assert found.consistency == 0


def test_a_window_counts_up_to_the_day_on_which_its_test_ends() -> None:
    returns = np.random.default_rng(2).normal(0, 0.01, (2, 12))
    counts = [len(walk_forward(returns[:, :length], days(length), SMALL, 1).windows) for length in (10, 11, 12)]
    assert counts == [2, 2, 3]


def test_too_few_windows_are_refused_with_the_days_that_are_needed() -> None:
    with pytest.raises(DataError, match=r"2 windows in 1000 days, at least 4 are needed, which take 1170 days"):
        walk_forward(np.ones((1, 1000)), days(1000), ValidationPlan(), 365)
    assert len(walk_forward(np.zeros((1, 1170)), days(1170), ValidationPlan(), 365).windows) == 4


def test_windows_without_sessions_are_refused() -> None:
    holed = np.delete(days(20), np.arange(7, 13))
    with pytest.raises(DataError, match="a window has 0 sessions to choose or be tested on"):
        walk_forward(np.ones((1, 14)), holed, SMALL, 365)


def test_days_that_are_no_calendar_of_the_returns_are_refused() -> None:
    for wrong in (days(9), days(10)[::-1], np.repeat(days(5), 2)):
        with pytest.raises(DataError, match="days for 10 returns"):
            walk_forward(np.ones((1, 10)), wrong, SMALL, 365)


@st.composite
def walks(draw: st.DrawFn) -> tuple[np.ndarray, Days, ValidationPlan]:
    """Returns and the days of a market with closed ones, and a plan that fits them."""
    test = draw(st.integers(14, 40))
    plan = ValidationPlan(
        train_days=draw(st.integers(14, 60)), test_days=test, step_days=draw(st.integers(1, test)), min_windows=1
    )
    calendar = days(plan.train_days + test + 14 + draw(st.integers(0, 100)))
    random = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    open_ = calendar[(np.arange(len(calendar)) % 7 < 5) & (random.random(len(calendar)) < 0.95)]
    return random.normal(0.001, 0.02, (draw(st.integers(1, 6)), len(open_))), open_, plan


@given(walks())
def test_walking_forward_is_a_plain_loop_over_windows(case: tuple[np.ndarray, Days, ValidationPlan]) -> None:
    returns, sessions, plan = case
    found = walk_forward(returns, sessions, plan, 252)
    start, curve, chosen = sessions[0], [], []
    for window in found.windows:
        split, stop = start + plan.train_days, start + plan.train_days + plan.test_days
        inside, tested = (sessions >= start) & (sessions < split), (sessions >= split) & (sessions < stop)
        ratios = [ratio(row[inside], 252) for row in returns]
        chosen.append(int(np.argmax(ratios)))
        assert window.chosen == chosen[-1]
        assert window.is_sharpe == pytest.approx(max(ratios), rel=1e-10, abs=1e-10)
        assert window.oos_sharpe == pytest.approx(ratio(returns[chosen[-1], tested], 252), rel=1e-10, abs=1e-10)
        assert window.oos_return == pytest.approx(np.prod(1 + returns[chosen[-1], tested]) - 1)
        assert np.array([window.train_first, window.train_last], "datetime64[D]").tolist() == [
            sessions[inside][0].item(),
            sessions[inside][-1].item(),
        ]
        assert window.train_last < split.item() <= window.test_first <= window.test_last < stop.item()
        curve.append(returns[chosen[-1], tested & (sessions < split + plan.step_days)])
        start = start + plan.step_days
    assert start + plan.train_days + plan.test_days > sessions[-1] + 1
    np.testing.assert_array_equal(found.returns, np.concatenate(curve))
    assert len(found.days) == len(found.returns) == len(np.unique(found.days))
    assert found.consistency == np.mean([window.oos_return > 0 for window in found.windows])


@given(walks(), st.integers(0, 2**32 - 1))
def test_no_return_from_a_windows_test_on_changes_its_choice(
    case: tuple[np.ndarray, Days, ValidationPlan], seed: int
) -> None:
    returns, sessions, plan = case
    random = np.random.default_rng(seed)
    found = walk_forward(returns, sessions, plan, 252).windows
    number = int(random.integers(len(found)))
    later = sessions >= np.datetime64(found[number].test_first)
    changed = np.where(later, random.normal(0, 1, returns.shape), returns)
    for before, after in zip(found[: number + 1], walk_forward(changed, sessions, plan, 252).windows, strict=False):
        assert (after.chosen, after.is_sharpe) == (before.chosen, before.is_sharpe)


@settings(max_examples=50)
@given(st.integers(0, 2**32 - 1), st.sampled_from([0.0, 1e-3, 10.0]))
def test_ratios_from_pieces_are_those_of_the_sessions_even_where_the_mean_dwarfs_the_deviation(
    seed: int, mean: float
) -> None:
    random = np.random.default_rng(seed)
    returns = mean + random.normal(0, 0.01, (3, 60))
    edges = np.sort(random.integers(0, 61, (4, 4)), axis=1)
    masks = np.array([[a <= n < b or c <= n < d for n in range(60)] for a, b, c, d in edges])
    masks = masks[masks.sum(axis=1) >= 2]
    found = masked_sharpes(returns, masks, 252)
    for mask, ratios in zip(masks, found, strict=True):
        np.testing.assert_allclose(ratios, [ratio(row[mask], 252) for row in returns], rtol=1e-10, atol=1e-10)


def test_a_mask_over_two_pieces_by_hand() -> None:
    found = masked_sharpes(np.array([[0.01, 0.03, 0.09, 0.05]]), np.array([[True, True, False, True]]), 4)
    assert found == pytest.approx(np.array([[3.0]]))


def test_the_first_of_equals_is_best_and_the_undefined_is_last() -> None:
    nan = math.nan
    assert best(np.array([[nan, -1, 2, 2], [nan, nan, -9, nan], [nan] * 4])).tolist() == [2, 2, 0]
    still = masked_sharpes(np.array([[0.0] * 4, [0.1] * 4, [-0.1, -0.2, 0.0, 0.0]]), np.ones((1, 4), np.bool_), 4)
    assert best(still).tolist() == [2]
