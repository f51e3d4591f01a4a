"""The validation's page and pictures: what failed comes first, and whatever is missing, the rest is shown."""

import re
from dataclasses import replace
from datetime import date
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant_assets.backtest.verdict_pictures import BEST, OWN, degradation_svg, logit_counts, parameters
from quant_assets.backtest.verdict_report import VerdictContext, render, verdict_pngs, write_verdict_report
from quant_assets.validation.assessment import Assessment
from quant_assets.validation.cpcv import Combinatorial, Splits
from quant_assets.validation.doctor import Finding
from quant_assets.validation.out_of_sample import InOutSample, WalkForward, Window
from quant_assets.validation.pbo import Overfitting
from quant_assets.validation.sharpe import Deflated, Interval
from quant_assets.validation.verdict import Row, overall

pytestmark = pytest.mark.slow

NAN = float("nan")
SESSIONS = 400
DAYS = np.busday_offset("2020-01-01", np.arange(SESSIONS)).astype("datetime64[D]")
GRID = [{"signal.lookback": n, "portfolio.weighting": how} for n in (10, 20, 30) for how in ("equal", "hrp")]
FILE = {"strategy_id": "waves", "signal": {"lookback": 20}, "portfolio": {"weighting": "hrp"}}
HOSTILE = "<script>alert('x')</script>"

RETURNS = np.random.default_rng(5).normal(0.0005, 0.01, (1 + len(GRID), SESSIONS))
IN_OUT = InOutSample(date(2021, 1, 1), 2, 1.25, 0.5, 0.6, -0.031, 0.9, 0.7, 0.22, 0.05)
WALK = WalkForward(
    tuple(
        Window(day(start), day(start + 99), day(start + 100), day(start + 149), chosen, 1.5, 0.4, gained)
        for day in (lambda at: DAYS[at].astype(object),)
        for start, chosen, gained in ((0, 0, 0.05), (100, 3, -0.02), (200, 3, 0.01))
    ),
    DAYS[100:350],
    RETURNS[3, 100:350],
    0.44,
    1.5,
    0.29,
    2 / 3,
)
PATHS = Combinatorial(
    Splits(np.arange(4) * 100, np.array([[0, 1], [0, 2], [1, 2]]), np.ones((3, SESSIONS), bool), np.zeros((2, 3), int)),
    np.array([1, 4, 4]),
    RETURNS[[1, 4]],
    np.array([0.9, -0.2]),
    0.7,
)
OVERFITTED = Overfitting(
    0.5, np.array([-1.0, 0.0, 1.0, 2.0]), np.array([1.0, 1.5, 2.0, 2.5]), np.array([0.5, 0.1, -0.2, 0.3]),
    -0.18, 0.49, 0.2, 0.25, 7, 4, np.array([2, 2, 5, 1]),
)  # fmt: skip
DEFLATED = Deflated(
    0.7, SESSIONS, -0.1, 4.2, 0.81, 1234.2, 40, 6.5, 1.1, -0.4, 0.31, 0.8, -0.1, 0.45, Interval(-0.3, 1.6, 0.95, 9.0)
)
ROWS = (
    Row("is_oos", "degradation", 0.6, "fail", "pass < 30%, fail > 50%"),
    Row("wfa", "sharpe", 0.44, "fail", "pass > 1.0, fail < 0.5"),
    Row("wfa", "consistency", 2 / 3, "caution", "pass > 70%, fail < 50%"),
    Row("pbo", "pbo", None, None, "pass < 0.30, fail > 0.50", "one half never traded"),
    Row("dsr", "deflated_probability", 0.97, "pass", "pass > 0.95"),
)
WHOLE = Assessment(IN_OUT, WALK, PATHS, OVERFITTED, DEFLATED, ROWS, "fail")
NOTHING = Assessment(None, None, None, None, None, (), None, {"pbo": "one configuration; give it a sweep"})
FINDINGS = (
    Finding("late_start", "note", "Nothing was held before 2020-06-01.", "Start later."),
    Finding("one_symbol_makes_the_result", "error", "ABC earned 80% of the profit", "widen the universe"),
)


def context_of(**values: Any) -> VerdictContext:
    return VerdictContext(
        **{"run_id": "0123", "strategy_id": "waves", "version": "1.0.0", "description": "d", "strategy": FILE,
           "first": date(2020, 1, 1), "last": date(2021, 7, 13), "days": DAYS, "returns": RETURNS,
           "changes": [{}, *GRID], "year": 252, "family": "made/waves", **values}
    )  # fmt: skip


ALONE = context_of(returns=RETURNS[:1], changes=[{}])


def text_of(page: str) -> str:
    """What a reader sees: no tags, no style, spaces collapsed."""
    body = re.sub(r"<style>.*?</style>|<svg.*?</svg>", " ", page, flags=re.DOTALL)
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", body))


@pytest.fixture(scope="module")
def whole() -> str:
    return render(WHOLE, FINDINGS, context_of())


def test_the_page_begins_with_the_verdict_and_the_rows_that_decide_it(whole: str):
    assert re.search(r'<section class="card banner"[^>]*><span class="pill fail">fail</span>', whole)
    assert (
        "2 of 5 rows fail: IS/OOS degradation, Walk-forward Sharpe ratio; 1 of 5 rows asks for caution: Walk-forward "
        "consistency; 1 of 5 rows could not be judged: Probability of overfitting (PBO)."
    ) in text_of(whole)
    assert text_of(whole).index("2 of 5 rows fail") < text_of(whole).index("What was judged")


def test_a_verdict_over_some_methods_only_is_shown_as_not_judged():
    page = render(replace(NOTHING, rows=ROWS[4:]), (), ALONE)
    assert '<span class="pill unjudged">not judged</span>' in page
    assert "Not judged as a whole, which needs every method; all rows pass." in text_of(page)


def test_each_row_has_its_value_limits_verdict_and_what_it_says(whole: str):
    said = text_of(whole)
    assert (
        "IS/OOS degradation 0.60 pass &lt; 30%, fail &gt; 50% fail A Sharpe ratio of 1.25 in sample became 0.50 "
        in said
    )
    assert "2 of 3 windows made money out of sample." in said
    assert "not judged In 50% of 4 ways to halve the period" in said
    assert "below the median of the other. One half never traded." in said
    assert "Deflated Sharpe probability 0.970 pass &gt; 0.95 pass" in said


def test_the_rule_that_the_page_states_is_the_one_that_is_used(whole: str):
    stated = (
        "Together they fail where the deflated probability fails, or where the deflated ratio fails and PBO does not "
        "pass. They pass where the deflated probability and PBO pass, neither the deflated ratio nor the degradation "
        "fails, and all rows could be judged. All else asks for caution."
    )
    assert stated in text_of(whole)
    names = ("degradation", "sharpe", "consistency", "pbo", "deflated_sharpe", "deflated_probability")
    for verdicts in product(("pass", "caution", "fail", None), repeat=6):
        degradation, _, _, pbo, ratio, probability = verdicts
        failed = probability == "fail" or (ratio == "fail" and pbo != "pass")
        passed = probability == pbo == "pass" and "fail" not in (ratio, degradation) and None not in verdicts
        rows = [Row("", name, 0.0, verdict, "") for name, verdict in zip(names, verdicts, strict=True)]
        assert overall(rows) == ("fail" if failed else "pass" if passed else "caution")


def test_findings_come_by_severity_with_evidence_and_remedy(whole: str):
    said = text_of(whole)
    assert "1 error, 1 note" in said
    assert "error One symbol makes the result ABC earned 80% of the profit. Widen the universe. note Late start" in said
    assert "Nothing to look at." in render(NOTHING, (), ALONE)


def test_figures_of_every_method_are_in_the_text(whole: str):
    said = text_of(whole)
    assert "The choice changed 1 time in 3 windows and fell on 2 of 7 configurations." in said
    assert "Chosen in sample: lookback 10, weighting hrp." in said
    assert (
        "3 splits: 2 of 3 blocks out of sample at a time. Lowest \N{MINUS SIGN}0.20, mean 0.35. Not above 0: 50%"
        in said
    )
    assert "Chosen: 2 configurations, most often (2 of 3) lookback 20, weighting hrp." in said
    assert "of the best of 7 configurations in sample (3 of them were ever that), in 4 ways to halve 4 blocks." in said
    assert "Slope \N{MINUS SIGN}0.18" in said
    assert "Minimum track record 1,235 sessions, 4.9 years" in said
    assert "Interval of 95%, bootstrap \N{MINUS SIGN}0.30 to 1.60" in said


def test_the_same_input_gives_the_same_bytes_and_the_page_needs_nothing_else(whole: str, tmp_path: Path):
    path = write_verdict_report(tmp_path / "some" / "waves.html", WHOLE, FINDINGS, context_of())
    assert path.read_text(encoding="utf-8") == whole
    assert not re.search(r"""@import|<script|(src|href)=["'](?!#)|url\((?!#)""", whole)


def test_what_users_wrote_is_escaped_everywhere():
    changes = [{}, *({"signal.lookback": n, "portfolio.weighting": HOSTILE} for n in range(6))]
    page = render(
        replace(WHOLE, missing={"cpcv": HOSTILE}, rows=(replace(ROWS[0], note=HOSTILE),)),
        [Finding(HOSTILE, "warning", HOSTILE, HOSTILE)],
        context_of(strategy_id=HOSTILE, description=HOSTILE, family=HOSTILE, changes=changes, lineage={"x": HOSTILE}),
    )
    assert "<script" not in page.lower()
    assert page.count("&lt;script&gt;alert(") >= 10


@pytest.mark.parametrize("lost", [("in_out", "combinatorial", "deflated"), ("walk", "overfitting")])
def test_without_some_of_the_methods_the_rest_is_shown(lost: tuple[str, ...]):
    heads = {
        "in_out": "In sample, out of sample",
        "walk": "Windows",
        "combinatorial": "CPCV: paths",
        "overfitting": "PBO: logits",
        "deflated": "Deflated Sharpe ratio",
    }
    page = render(replace(WHOLE, **dict.fromkeys(lost), missing={"pbo": "too short"}), (), context_of())
    assert {name for name, head in heads.items() if f"<h2>{head}</h2>" in page} == set(heads) - set(lost)
    assert "PBO too short" in text_of(page)


def test_a_strategy_without_a_sweep_of_which_nothing_could_be_judged_still_has_its_page():
    said = text_of(render(NOTHING, (), ALONE))
    assert "Not judged as a whole, which needs every method; no row was judged." in said
    assert "PBO one configuration; give it a sweep" in said
    assert verdict_pngs(NOTHING, ALONE) == {}


def test_a_strategy_without_a_sweep_is_the_only_choice():
    windows = tuple(replace(window, chosen=0) for window in WALK.windows)
    page = render(
        replace(WHOLE, walk=replace(WALK, windows=windows), in_out=replace(IN_OUT, chosen=0), overfitting=None,
                combinatorial=replace(PATHS, chosen=None)), (), ALONE
    )  # fmt: skip
    assert "There is no other configuration: this is the strategy itself." in page
    assert "The models were trained anew in each split." in page
    assert "Drift of the parameters" not in page


def test_undefined_figures_are_dashes():
    broken = replace(
        WHOLE,
        in_out=replace(IN_OUT, is_sharpe=NAN, oos_sharpe=NAN, degradation=NAN),
        walk=replace(WALK, sharpe=NAN, is_sharpe=NAN, efficiency=NAN),
        combinatorial=replace(PATHS, sharpes=np.full(2, NAN), written=NAN),
        overfitting=replace(OVERFITTED, slope=NAN, intercept=NAN, r_squared=NAN, oos_sharpe=np.full(4, NAN)),
        deflated=replace(DEFLATED, sharpe=NAN, minimum_sessions=float("inf"), expected_maximum=NAN, interval=None),
    )
    still = context_of(returns=np.zeros_like(RETURNS))
    page = render(broken, (), still)
    assert not re.search(r"\bnan\b", text_of(page), re.IGNORECASE)
    assert "Minimum track record never" in text_of(page)
    assert "path distribution" not in verdict_pngs(broken, still)


def test_pictures_are_made_of_what_was_found_only():
    pictures = verdict_pngs(WHOLE, context_of())
    assert list(pictures) == ["out-of-sample curve", "path distribution", "logit histogram", "heat map of parameters"]
    assert all(picture.startswith(b"\x89PNG") for picture in pictures.values())
    assert list(verdict_pngs(replace(WHOLE, walk=None, overfitting=None), ALONE)) == ["path distribution"]


def test_the_share_of_logits_left_of_zero_in_the_histogram_is_the_pbo():
    edges, counts = logit_counts(OVERFITTED.logits)
    assert counts.sum() == 4
    assert counts[edges[1:] <= 0].sum() / 4 == OVERFITTED.pbo


def test_the_map_marks_the_best_configuration_and_the_strategy():
    found = parameters(GRID, np.array([0.3, 0.1, 0.2, 0.4, 0.8, 0.6]))
    rows, columns, matrix = found.map()
    assert (columns.name, columns.labels, rows.labels) == ("signal.lookback", ("10", "20", "30"), ("equal", "hrp"))
    np.testing.assert_array_equal(matrix, [[0.3, 0.2, 0.8], [0.1, 0.4, 0.6]])
    assert found.marks() == {(0, 2): BEST, (0, 0): OWN}


def test_a_strategy_beside_the_grid_has_a_place_of_its_own_and_one_at_an_unknown_place_none():
    ratios = np.array([0.5, 0.1, 0.2, 0.3, 0.4, 0.8, 0.6])
    beside = parameters([{"signal.lookback": 25, "portfolio.weighting": "hrp"}, *GRID], ratios)
    assert beside.map()[1].labels == ("10", "20", "25", "30")
    assert beside.map()[2][0, 2] == 0.5
    assert beside.marks() == {(1, 3): BEST, (0, 2): OWN}
    assert OWN not in "".join(parameters([{}, *GRID], ratios).marks().values())


def test_the_strategys_place_is_its_cell_or_what_its_file_says():
    cell = {"signal.lookback": 30, "portfolio.weighting": "hrp"}
    (own,) = (place for place, mark in context_of().parameters().marks().items() if OWN in mark)
    assert own == (0, 1)
    (own,) = (place for place, mark in context_of(changes=[cell, *GRID]).parameters().marks().items() if OWN in mark)
    assert own == (0, 2)
    assert context_of(changes=[cell, *GRID]).chosen(0) == "lookback 30, weighting hrp, as written"
    assert not any(OWN in mark for mark in context_of(strategy={"signal": {}}).parameters().marks().values())


@pytest.mark.parametrize("own", [{"signal.lookback": 20}, {}])
def test_one_parameter_is_a_map_of_one_row(own: dict[str, Any]):
    found = parameters([own, *({"signal.lookback": n} for n in (10, 20, 30))], np.array([NAN, 0.1, NAN, 0.3]))
    np.testing.assert_array_equal(found.map()[2], [[0.1, NAN, 0.3]])
    assert found.marks()[0, 2] == BEST


def test_the_written_curve_is_over_the_walk_forwards_own_sessions():
    np.testing.assert_array_equal(context_of().written_on(WALK.days), RETURNS[0, 100:350])


def test_a_long_period_of_many_paths_and_combinations_stays_a_small_page():
    generator = np.random.default_rng(3)
    days = np.busday_offset("2000-01-03", np.arange(5000)).astype("datetime64[D]")
    returns = generator.normal(0, 0.01, (7, 5000))
    values = generator.normal(0, 1, (3, 12870))
    many = replace(
        WHOLE,
        walk=replace(WALK, days=days[1000:], returns=returns[1, 1000:]),
        combinatorial=replace(PATHS, returns=generator.normal(0, 0.01, (84, 5000)), sharpes=generator.normal(0, 1, 84)),
        overfitting=replace(OVERFITTED, logits=values[0], is_sharpe=values[1], oos_sharpe=values[2]),
    )
    page = render(many, FINDINGS, context_of(days=days, returns=returns))
    assert len(page.encode()) < 400_000
    assert "400 of 12,870 points are drawn." in page
    assert degradation_svg(OVERFITTED).count("<use") < degradation_svg(many.overfitting).count("<use") < 450
