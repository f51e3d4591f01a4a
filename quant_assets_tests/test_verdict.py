"""The verdict table and what its rows say together."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_assets.core.errors import ConfigError
from quant_assets.validation.verdict import Judgement, Limits, Row, Thresholds, judged, overall

MEASURES = {
    "degradation": "is_oos",
    "sharpe": "wfa",
    "consistency": "wfa",
    "pbo": "pbo",
    "deflated_sharpe": "dsr",
    "deflated_probability": "dsr",
}
ORDER: list[Judgement] = ["fail", "caution", "pass"]
LIMITS = Thresholds()


def rows(**verdicts: Judgement | None) -> list[Row]:
    """Six rows that pass, but for those named."""
    found: dict[str, Judgement | None] = {**dict.fromkeys(MEASURES, "pass"), **verdicts}
    return [Row(MEASURES[name], name, 0.0, verdict, "") for name, verdict in found.items()]


@pytest.mark.parametrize(
    ("measure", "limits", "passing", "cautions", "failing"),
    [
        ("degradation", LIMITS.degradation, (-0.4, 0.29), (0.3, 0.5), (0.51, 1.7)),
        ("sharpe", LIMITS.wfa_sharpe, (1.01, 3.0), (0.5, 1.0), (0.49, -2.0)),
        ("consistency", LIMITS.wfa_consistency, (0.71, 1.0), (0.5, 0.7), (0.49, 0.0)),
        ("pbo", LIMITS.pbo, (0.0, 0.29), (0.3, 0.5), (0.51, 1.0)),
        ("deflated_sharpe", LIMITS.deflated_sharpe, (1.01, 3.0), (0.5, 1.0), (0.49, -2.0)),
        ("deflated_probability", LIMITS.deflated_probability, (0.95, 1.0), (0.8, 0.949), (0.799, 0.0)),
    ],
)
def test_every_row_of_the_table_has_its_limits(
    measure: str, limits: Limits, passing: Limits, cautions: Limits, failing: Limits
) -> None:
    for verdict, values in (("pass", passing), ("caution", cautions), ("fail", failing)):
        assert [judged("method", measure, value, limits).verdict for value in values] == [verdict, verdict]


def test_a_row_says_its_limits() -> None:
    assert judged("pbo", "pbo", 0.2, LIMITS.pbo).threshold == "pass < 0.3, fail > 0.5"
    assert judged("wfa", "sharpe", 0.2, LIMITS.wfa_sharpe).threshold == "pass > 1, fail < 0.5"
    assert judged("dsr", "deflated_probability", 0.2, LIMITS.deflated_probability).threshold == (
        "pass >= 0.95, fail < 0.8"
    )


def test_what_could_not_be_measured_has_neither_value_nor_verdict() -> None:
    assert judged("pbo", "pbo", math.nan, LIMITS.pbo, "why") == Row(
        "pbo", "pbo", None, None, "pass < 0.3, fail > 0.5", "why"
    )


def test_what_is_worse_than_any_limit_fails_without_a_value() -> None:
    row = judged("is_oos", "degradation", math.inf, LIMITS.degradation, "why")
    assert (row.value, row.verdict, row.note) == (None, "fail", "why")


def test_swapped_limits_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"pbo passes from 0.5 and fails from 0.3, .*: swap them"):
        Thresholds(pbo=(0.5, 0.3))
    with pytest.raises(ConfigError, match=r"deflated_probability passes from 0.8 and fails from 0.95"):
        Thresholds(deflated_probability=(0.8, 0.95))


def test_six_passed_rows_pass() -> None:
    assert overall(rows()) == "pass"


@pytest.mark.parametrize("measure", ["sharpe", "consistency"])
def test_a_failed_walk_forward_row_takes_no_pass_away(measure: str) -> None:
    failed: dict[str, Judgement | None] = {measure: "fail"}
    assert overall(rows(**failed)) == "pass"


@pytest.mark.parametrize(
    "doubt",
    [
        {"deflated_probability": "caution"},
        {"pbo": "caution"},
        {"pbo": "fail"},
        {"deflated_sharpe": "fail"},
        {"degradation": "fail"},
        {"deflated_probability": "caution", "deflated_sharpe": "fail"},
    ],
    ids=str,
)
def test_a_doubt_about_luck_or_decay_is_a_caution(doubt: dict[str, Judgement | None]) -> None:
    assert overall(rows(**doubt)) == "caution"


@pytest.mark.parametrize(
    "luck",
    [
        {"deflated_probability": "fail"},
        {"deflated_sharpe": "fail", "pbo": "caution"},
        {"deflated_sharpe": "fail", "pbo": "fail"},
        {"deflated_sharpe": "fail", "pbo": None},
    ],
    ids=str,
)
def test_what_luck_explains_fails(luck: dict[str, Judgement | None]) -> None:
    assert overall(rows(**luck)) == "fail"


@pytest.mark.parametrize("measure", MEASURES)
def test_a_row_that_could_not_be_judged_is_at_best_a_caution(measure: str) -> None:
    assert overall(rows(**{measure: None})) == "caution"
    assert overall([row for row in rows() if row.measure != measure]) == "caution"


@given(
    st.fixed_dictionaries({name: st.sampled_from([None, *ORDER]) for name in MEASURES}), st.sampled_from(list(MEASURES))
)
def test_a_better_row_never_makes_a_worse_verdict(verdicts: dict[str, Judgement | None], measure: str) -> None:
    judgements = [overall(rows(**{**verdicts, measure: verdict})) for verdict in ORDER]
    assert judgements == sorted(judgements, key=ORDER.index)
