"""The whole validation of a strategy from returns alone."""

import math

import numpy as np
import pytest
from numpy.typing import NDArray

from quant_assets.core.errors import DataError
from quant_assets.validation.assessment import METHODS, Assessment, Method, Trials, assess
from quant_assets.validation.cpcv import Combinatorial
from quant_assets.validation.cpcv import combinatorial as cross_validated
from quant_assets.validation.plan import ValidationPlan
from quant_assets.validation.sharpe import sharpes
from quant_assets.validation.verdict import Judgement, Thresholds

Floats = NDArray[np.float64]

YEAR = 252
QUICK = ValidationPlan(resamples=100, blocks=8)


def days(sessions: int) -> NDArray[np.datetime64]:
    return np.datetime64("2015-01-01") + np.arange(sessions) * 365 // YEAR


def noise(trials: int, sessions: int = 2520, seed: int = 1) -> Floats:
    return 0.01 * np.random.default_rng([3, seed]).standard_normal((trials, sessions))


def validated(returns: Floats, trials: Trials | None = None, methods: tuple[Method, ...] = METHODS) -> Assessment:
    ledger = trials or Trials(len(returns), sharpes(returns, YEAR), returns)
    return assess(returns, days(returns.shape[1]), YEAR, ledger, QUICK, methods=methods)


def verdicts(found: Assessment) -> dict[str, Judgement | None]:
    return {row.measure: row.verdict for row in found.rows}


def test_all_methods_give_six_rows_in_the_order_of_the_table_and_a_verdict() -> None:
    found = validated(noise(10))
    assert [(row.method, row.measure) for row in found.rows] == [
        ("is_oos", "degradation"),
        ("wfa", "sharpe"),
        ("wfa", "consistency"),
        ("pbo", "pbo"),
        ("dsr", "deflated_sharpe"),
        ("dsr", "deflated_probability"),
    ]
    assert (found.verdict, found.missing) == ("fail", {})
    assert found.in_out
    assert found.walk
    assert found.overfitting
    assert found.deflated
    assert found.deflated.interval
    assert [row.value for row in found.rows] == [
        found.in_out.degradation,
        found.walk.sharpe,
        found.walk.consistency,
        found.overfitting.pbo,
        found.deflated.ratio,
        found.deflated.probability,
    ]


def test_the_same_returns_are_judged_the_same_bit_for_bit() -> None:
    first, second = validated(noise(10)), validated(noise(10))
    assert first.rows == second.rows
    assert first.deflated == second.deflated


@pytest.mark.parametrize(
    ("method", "measures"),
    [
        ("is_oos", ["degradation"]),
        ("wfa", ["sharpe", "consistency"]),
        ("cpcv", []),
        ("pbo", ["pbo"]),
        ("dsr", ["deflated_sharpe", "deflated_probability"]),
    ],
)
def test_one_method_gives_its_own_rows_and_no_verdict(method: Method, measures: list[str]) -> None:
    found = validated(noise(10), methods=(method,))
    assert list(verdicts(found)) == measures
    assert (found.verdict, found.missing) == (None, {})
    parts = (found.in_out, found.walk, found.combinatorial, found.overfitting, found.deflated)
    assert [part is not None for part in parts] == [name == method for name in METHODS]


def test_thresholds_decide_the_rows() -> None:
    returns = noise(10)
    trials = Trials(10, sharpes(returns, YEAR), returns)
    kind = Thresholds(pbo=(1.01, 1.02), wfa_sharpe=(-9.0, -10.0))
    found = verdicts(assess(returns, days(2520), YEAR, trials, QUICK, kind))
    assert (found["pbo"], found["sharpe"]) == ("pass", "pass")


def test_one_configuration_ever_tried_was_not_selected_from_anything() -> None:
    found = validated(noise(1) + 0.002)
    assert "nothing was selected" in found.missing["pbo"]
    assert verdicts(found)["pbo"] is None
    assert found.rows[3].note == found.missing["pbo"]
    assert found.deflated
    assert found.deflated.expected_maximum == 0
    assert found.verdict == "caution"


def test_without_a_sweep_the_ledgers_trials_are_what_the_strategy_was_selected_from() -> None:
    family = noise(12)
    alone, swept = validated(family[:1], Trials(12, sharpes(family, YEAR), family)), validated(family)
    assert alone.overfitting
    assert swept.overfitting
    assert alone.overfitting.pbo == swept.overfitting.pbo
    assert alone.deflated == swept.deflated


def test_trials_whose_returns_are_of_other_sessions_count_all_the_same() -> None:
    family = noise(12)
    found = validated(family[:1], Trials(12, sharpes(family, YEAR), family[:1]))
    assert "at least 2 configurations" in found.missing["pbo"]
    assert found.deflated
    assert found.deflated.expected_maximum > 0.3
    assert found.deflated.effective_trials == 12


def test_trials_that_move_together_are_fewer_and_unknown_ones_are_not() -> None:
    family = np.repeat(noise(3), 4, axis=0)
    found = validated(family, Trials(20, sharpes(family, YEAR), family), methods=("dsr",))
    assert found.deflated
    assert (found.deflated.trials, found.deflated.effective_trials) == (20, 3 + 8)


def test_a_loss_in_sample_fails_whatever_came_after() -> None:
    returns = noise(1)
    returns[:, :1764] -= 0.001
    returns[:, 1764:] += 0.003
    row = validated(returns, methods=("is_oos",)).rows[0]
    assert (row.value, row.verdict) == (None, "fail")
    assert "not above 0" in row.note


def test_a_strategy_that_never_traded_is_not_judged_where_it_has_no_ratio() -> None:
    found = validated(np.zeros((1, 2520)))
    assert verdicts(found) == dict.fromkeys(verdicts(found), None) | {"consistency": "fail"}
    assert found.verdict == "caution"
    assert {row.note for row in found.rows if row.verdict is None} == {
        "undefined: the returns do not vary",
        found.missing["pbo"],
    }


def test_a_short_period_says_what_each_method_needs() -> None:
    found = validated(noise(3, 200))
    assert sorted(found.missing) == ["is_oos", "wfa"]
    assert all("days" in text and "\n" not in text for text in found.missing.values())
    assert found.in_out is None
    assert found.verdict != "pass"


def test_retrained_paths_take_the_place_of_the_matrix() -> None:
    returns = noise(4)
    paths = cross_validated(returns, QUICK, YEAR)
    calls = []

    def retrained() -> Combinatorial:
        calls.append("retrained")
        return paths

    trials = Trials(4, sharpes(returns, YEAR), returns)
    found = assess(returns, days(2520), YEAR, trials, QUICK, combinatorial=retrained)
    assert found.combinatorial is paths
    assert calls == ["retrained"]


def test_retraining_that_cannot_be_done_is_missing_and_costs_the_others_nothing() -> None:
    returns = noise(4)

    def retrained() -> Combinatorial:
        raise DataError("too short")

    trials = Trials(4, sharpes(returns, YEAR), returns)
    found = assess(returns, days(2520), YEAR, trials, QUICK, combinatorial=retrained)
    assert found.missing == {"cpcv": "too short"}
    assert found.rows == validated(returns).rows


def test_each_method_asked_for_is_announced() -> None:
    returns, said = noise(4), list[str]()
    trials = Trials(30, sharpes(returns, YEAR), returns)
    assess(returns, days(2520), YEAR, trials, QUICK, methods=("pbo", "dsr"), progress=said.append)
    assert said == ["PBO of 4 configurations", "deflated Sharpe ratio against 30 trials"]


def best_of(trials: int, seed: int, true: float = 0.0) -> Floats:
    """The one with the best ratio first, of which one may truly have an edge."""
    returns = noise(trials, seed=seed)
    returns[0] += 0.01 * true / math.sqrt(YEAR)
    best = int(np.argmax(sharpes(returns, YEAR)))
    return np.concatenate([returns[[best]], np.delete(returns, best, axis=0)])


def judgements(panels: int, true: float) -> list[Judgement | None]:
    return [validated(best_of(100, seed, true)).verdict for seed in range(panels)]


def test_the_best_of_noise_fails() -> None:
    found = judgements(20, 0.0)
    assert "pass" not in found
    assert found.count("fail") >= 17


def test_a_true_edge_among_noise_is_not_failed() -> None:
    found = judgements(20, 1.5)
    assert found.count("fail") <= 4
    assert found.count("pass") >= 7


@pytest.mark.thorough
@pytest.mark.slow
def test_of_200_panels_at_most_5_percent_of_noise_pass_and_20_percent_of_edges_fail() -> None:
    lucky, planted = judgements(200, 0.0), judgements(200, 1.5)
    assert lucky.count("pass") <= 10
    assert planted.count("fail") <= 40
