"""Combinatorial purged cross-validation: what may be learnt from, which paths there are, what is chosen."""

import math
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from quant_assets.core.errors import DataError
from quant_assets.validation.cpcv import Splits, combinatorial, of_paths, splits
from quant_assets.validation.plan import ValidationPlan

OPEN = ValidationPlan(folds=4, test_folds=2, purge=0, embargo=0.0)


def drawn(made: Splits) -> list[str]:
    """Each split as a line: T is tested, + learnt from, - left out."""
    marks = np.where(made.train, "+", "-")
    for line, blocks in zip(marks, made.tested, strict=True):
        for block in blocks:
            line[made.edges[block] : made.edges[block + 1]] = "T"
    return ["".join(line) for line in marks]


def test_twelve_sessions_in_four_blocks_choose_two_make_six_splits_and_three_paths() -> None:
    made = splits(12, OPEN)
    assert made.edges.tolist() == [0, 3, 6, 9, 12]
    assert made.tested.tolist() == [[0, 1], [0, 2], [0, 3], [1, 2], [1, 3], [2, 3]]
    assert drawn(made) == [
        "TTTTTT++++++",
        "TTT+++TTT+++",
        "TTT++++++TTT",
        "+++TTTTTT+++",
        "+++TTT+++TTT",
        "++++++TTTTTT",
    ]
    assert made.paths.tolist() == [[0, 0, 1, 2], [1, 3, 3, 4], [2, 4, 5, 5]]


def test_purge_lies_on_both_sides_of_a_test_and_the_embargo_after_the_purge() -> None:
    made = splits(26, OPEN.model_copy(update={"purge": 1, "embargo": 0.04}))  # 1.04 sessions of embargo, so 2
    assert made.edges.tolist() == [0, 6, 12, 18, 26]
    assert drawn(made) == [
        "TTTTTTTTTTTT---+++++++++++",
        "TTTTTT---++-TTTTTT---+++++",
        "TTTTTT---++++++++-TTTTTTTT",
        "+++++-TTTTTTTTTTTT---+++++",
        "+++++-TTTTTT---++-TTTTTTTT",
        "+++++++++++-TTTTTTTTTTTTTT",
    ]


def test_a_horizon_longer_than_the_purge_replaces_it() -> None:
    plan = OPEN.model_copy(update={"purge": 2})
    np.testing.assert_array_equal(splits(60, plan, 5).train, splits(60, plan.model_copy(update={"purge": 5})).train)
    np.testing.assert_array_equal(splits(60, plan, 1).train, splits(60, plan).train)


def test_an_embargo_that_is_a_whole_number_of_sessions_is_not_rounded_up() -> None:
    made = splits(700, OPEN.model_copy(update={"embargo": 0.01}))  # 0.01 * 700 is 7.000000000000001 in binary
    assert (~made.train[5]).sum() == 350
    assert (~made.train[0]).sum() == 350 + 7


@st.composite
def periods(draw: st.DrawFn) -> tuple[int, ValidationPlan, int]:
    """Sessions, plan and horizon that fit, shortest blocks included."""
    folds = draw(st.integers(3, 8))
    plan = ValidationPlan(
        folds=folds,
        test_folds=draw(st.integers(2, folds - 1)),
        purge=draw(st.integers(0, 6)),
        embargo=draw(st.integers(0, 30)) / 1000,
    )
    horizon = draw(st.integers(0, 9))
    gone = 2 * max(plan.purge, horizon)
    fitting = (n for n in range(folds, 2000) if n // folds >= gone + math.ceil(plan.embargo * n) + 2)
    return next(islice(fitting, draw(st.integers(0, 50)), None)), plan, horizon


@given(periods())
def test_training_sets_are_all_sessions_but_the_tests_and_their_purge_and_embargo(
    period: tuple[int, ValidationPlan, int],
) -> None:
    sessions, plan, horizon = period
    made = splits(sessions, plan, horizon)
    purge, embargo = max(plan.purge, horizon), math.ceil(round(plan.embargo * sessions, 9))
    for train, blocks in zip(made.train, made.tested, strict=True):
        forbidden = {
            near
            for block in blocks
            for tested in range(made.edges[block], made.edges[block + 1])
            for near in range(tested - purge, tested + purge + embargo + 1)
        }
        assert set(np.flatnonzero(train).tolist()) == set(range(sessions)) - forbidden
        assert train.sum() >= 2


@given(periods())
def test_every_path_covers_every_session_once_by_a_split_that_tests_it(period: tuple[int, ValidationPlan, int]) -> None:
    sessions, plan, horizon = period
    made = splits(sessions, plan, horizon)
    count = math.comb(plan.folds, plan.test_folds)
    assert len(made.tested) == len(made.train) == count
    assert made.paths.shape == (count * plan.test_folds // plan.folds, plan.folds)
    sizes = np.diff(made.edges)
    assert sizes.sum() == sessions
    assert len({*sizes[:-1].tolist()}) == 1
    used = [(split, block) for path in made.paths for block, split in enumerate(path.tolist())]
    assert sorted(used) == [(split, block) for split, blocks in enumerate(made.tested.tolist()) for block in blocks]


def test_six_choose_two_make_fifteen_splits_and_five_paths() -> None:
    made = splits(2520, ValidationPlan())
    assert made.train.shape == (15, 2520)
    assert made.paths.shape == (5, 6)


@pytest.mark.parametrize(
    ("sessions", "plan", "said"),
    [
        (11, {"purge": 0}, "blocks of 2, of which purge and embargo take 1; at least 2 must be left"),
        (50, {"purge": 5}, "blocks of 12, of which purge and embargo take 11"),
    ],
)
def test_periods_that_cannot_be_split_are_refused(sessions: int, plan: dict[str, int], said: str) -> None:
    with pytest.raises(DataError, match=said):
        splits(sessions, ValidationPlan(**{"folds": 4, "test_folds": 2, **plan}))


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        ({"test_folds": 1}, "greater than or equal to 2"),
        ({"folds": 4, "test_folds": 4}, "test_folds is 4, folds 4: leave at least one to choose on"),
        ({"folds": 20, "test_folds": 10}, "184,756 splits, the limit is 5,000"),
        ({"step_days": 181}, "step_days is 181, test_days 180: days between would be lost"),
        ({"blocks": 15}, "multiple of 2"),
    ],
)
def test_a_plan_that_cannot_be_carried_out_is_refused_when_it_is_written(plan: dict[str, int], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        ValidationPlan(**plan)


UP, DOWN = [0.01, 0.02, 0.03], [-0.04, -0.03, -0.02]


def test_what_is_best_in_training_is_followed_in_the_test() -> None:
    """One is good in the first half and one in the second; trained on a block of each they are equal."""
    found = combinatorial(np.array([UP * 2 + DOWN * 2, DOWN * 2 + UP * 2]), OPEN, 1)
    assert found.chosen is not None
    assert found.chosen.tolist() == [1, 0, 0, 0, 0, 0]
    assert found.returns.tolist() == [DOWN * 4, UP * 2 + DOWN * 2, UP * 2 + DOWN * 2]
    both = -0.5 / math.sqrt(83 / 11)
    np.testing.assert_allclose(found.sharpes, [-3 / math.sqrt(8 / 11), both, both])
    assert found.written == pytest.approx(both)
    assert found.loss_share == 1


def test_a_configuration_that_does_nothing_is_chosen_last_and_the_ratio_is_annualised() -> None:
    found = combinatorial(np.array([[0.0] * 12, UP * 4]), OPEN, 4, written=1)
    assert found.chosen is not None
    assert found.chosen.tolist() == [1] * 6
    ratio = 2 / math.sqrt(8 / 11) * 2
    np.testing.assert_allclose(found.sharpes, [ratio] * 3)
    assert found.written == pytest.approx(ratio)
    assert found.loss_share == 0
    assert math.isnan(combinatorial(np.array([[0.0] * 12, UP * 4]), OPEN, 4).written)


@settings(max_examples=30)
@given(periods(), st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_choices_are_those_of_a_plain_loop_and_know_nothing_outside_their_training(
    period: tuple[int, ValidationPlan, int], rows: int, seed: int
) -> None:
    sessions, plan, _ = period
    random = np.random.default_rng(seed)
    returns = random.normal(0.001, 0.02, (rows, sessions))
    found = combinatorial(returns, plan, 252)
    made, chosen = found.splits, found.chosen
    assert chosen is not None
    for train, row in zip(made.train, chosen, strict=True):
        learnt = returns[:, train]
        assert row == np.argmax(learnt.mean(axis=1) / learnt.std(axis=1, ddof=1))
    for path, curve, ratio in zip(made.paths, found.returns, found.sharpes, strict=True):
        joined = [returns[chosen[split], made.edges[block] : made.edges[block + 1]] for block, split in enumerate(path)]
        np.testing.assert_array_equal(curve, np.concatenate(joined))
        assert ratio == pytest.approx(curve.mean() / curve.std(ddof=1) * math.sqrt(252), rel=1e-10)
    split = int(random.integers(len(chosen)))
    changed = np.where(made.train[split], returns, random.normal(0.001, 0.02, returns.shape))
    again = combinatorial(changed, plan, 252).chosen
    assert again is not None
    assert again[split] == chosen[split]


def test_paths_joined_elsewhere_are_judged_alike() -> None:
    returns = np.random.default_rng(5).normal(0.001, 0.01, (4, 300))
    found = combinatorial(returns, ValidationPlan(), 365, written=2)
    alike = of_paths(found.splits, found.returns, 365, found.written)
    assert alike.chosen is None
    np.testing.assert_array_equal(alike.sharpes, found.sharpes)
    with pytest.raises(DataError, match=r"shape \(4, 300\), the splits make \(5, 300\)"):
        of_paths(found.splits, found.returns[:4], 365, found.written)


@pytest.mark.parametrize("wrong", [np.full((2, 300), np.inf), np.zeros(300), np.zeros((0, 300))])
def test_matrices_that_cannot_be_compared_are_refused(wrong: np.ndarray) -> None:
    with pytest.raises(DataError, match=r"make it a number|pass one row of sessions"):
        combinatorial(wrong, ValidationPlan(), 365)
