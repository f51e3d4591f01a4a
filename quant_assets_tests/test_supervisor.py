"""The five rules: exact answers on small portfolios, and what must hold after any input."""

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from quant_assets.core.errors import DataError
from quant_assets.portfolio import WEIGHTINGS, SupervisorRules, kernel, propose, supervise
from quant_assets.portfolio.supervisor import decisions, limits, supervise_dates
from quant_assets.portfolio.weighting import share_basis

FREE = {"gross_exposure_cap": 1.0, "max_weight_per_symbol": 1.0, "max_positions": 10, "turnover_cap": None}
NAMES = "ABCDEFGH"
TOLERANCE = 1e-9


def candidates(**weights: float | None) -> pl.DataFrame:
    """Candidates with falling scores in the order given."""
    rows = len(weights)
    return pl.DataFrame(
        {
            "symbol": list(weights),
            "score": [float(rows - n) for n in range(rows)],
            "rank": list(range(1, rows + 1)),
            "weight": list(weights.values()),
        },
        schema={"symbol": pl.String, "score": pl.Float64, "rank": pl.Int64, "weight": pl.Float64},
    )


def weights(decided: pl.DataFrame) -> dict[str, float]:
    return dict(decided.select("symbol", pl.col("weight").round(12)).iter_rows())


def row(decided: pl.DataFrame, symbol: str) -> dict[str, object]:
    return decided.filter(pl.col("symbol") == symbol).row(0, named=True)


def test_with_nothing_to_limit_the_proposal_passes_unchanged():
    decided = supervise(candidates(A=0.5, B=0.3, C=0.2), {}, SupervisorRules(**FREE))
    assert weights(decided) == {"A": 0.5, "B": 0.3, "C": 0.2}
    assert decided["approved"].all()
    assert decided["risk_flags"].to_list() == [[], [], []]


def test_r5_drops_scores_below_the_floor_and_leaves_their_share_in_cash():
    decided = supervise(candidates(A=0.5, B=0.5), {}, SupervisorRules(**FREE, score_floor=1.5))
    assert weights(decided) == {"A": 0.5, "B": 0.0}
    assert row(decided, "B") | {"score": 1.0, "approved": False, "risk_flags": ["R5"]} == row(decided, "B")
    assert row(decided, "B")["reason"] == "score is below score_floor 1.5"


def test_r5_drops_ranks_beyond_top_k():
    decided = supervise(candidates(A=0.5, B=0.5), {}, SupervisorRules(**FREE), top_k=1)
    assert weights(decided) == {"A": 0.5, "B": 0.0}
    assert row(decided, "B")["reason"] == "rank 2 is beyond top_k 1"


def test_r3_keeps_the_best_positions():
    decided = supervise(candidates(A=0.2, B=0.4, C=0.4), {}, SupervisorRules(**FREE | {"max_positions": 2}))
    assert weights(decided) == {"A": 0.2, "B": 0.4, "C": 0.0}
    assert row(decided, "C")["risk_flags"] == ["R3"]
    assert row(decided, "C")["reason"] == "rank 3 is beyond max_positions 2"


def test_r2_clips_and_r1_scales_what_r2_left():
    rules = SupervisorRules(**FREE | {"max_weight_per_symbol": 0.4, "gross_exposure_cap": 0.5})
    decided = supervise(candidates(A=0.8, B=0.2), {}, rules)
    assert weights(decided) == {"A": pytest.approx(0.4 * 0.5 / 0.6), "B": pytest.approx(0.2 * 0.5 / 0.6)}
    assert row(decided, "A")["risk_flags"] == ["R1", "R2"]
    assert row(decided, "B")["risk_flags"] == ["R1"]


def test_r4_scales_buys_and_voluntary_sells_alike():
    # the way from A to B costs a turnover of 1; a quarter of it may be gone
    decided = supervise(candidates(B=1.0), {"A": 1.0}, SupervisorRules(**FREE | {"turnover_cap": 0.25}))
    assert weights(decided) == {"A": 0.75, "B": 0.25}
    assert decided["risk_flags"].to_list() == [["R4", "missing"], ["R4"]]
    assert decided["approved"].all()
    assert row(decided, "B")["reason"] == "rank 1, limited to turnover_cap 0.25 on the way from 0.0000 to 1.0000"


def test_the_first_investment_out_of_cash_counts_half_its_weight():
    decided = supervise(candidates(A=0.5, B=0.5), {}, SupervisorRules(**FREE | {"turnover_cap": 0.3}))
    assert weights(decided) == {"A": 0.3, "B": 0.3}


def test_without_a_free_slot_r4_lets_no_new_name_in():
    rules = SupervisorRules(**FREE | {"max_positions": 1, "turnover_cap": 0.25})
    decided = supervise(candidates(B=1.0), {"A": 1.0}, rules)
    assert weights(decided) == {"A": 0.5, "B": 0.0}
    assert row(decided, "B")["reason"] == "rank 1, left out by turnover_cap 0.25 on the way from 0.0000 to 1.0000"


def test_an_exit_that_completes_frees_its_slot_for_what_is_left_of_the_cap():
    rules = SupervisorRules(**FREE | {"max_positions": 1, "turnover_cap": 0.6})
    assert weights(supervise(candidates(B=1.0), {"A": 1.0}, rules)) == {"A": 0.0, "B": 0.2}


def test_of_the_new_names_the_best_gets_the_free_slot():
    rules = SupervisorRules(**FREE | {"max_positions": 2, "turnover_cap": 0.1})
    decided = weights(supervise(candidates(B=0.5, C=0.5), {"A": 1.0}, rules))
    assert decided["C"] == 0
    assert decided["B"] > 0


def test_sells_that_a_lower_weight_cap_requires_are_not_counted_as_turnover():
    rules = SupervisorRules(**FREE | {"max_weight_per_symbol": 0.5, "turnover_cap": 0.1})
    # 0.9 must shrink to 0.5 at once; of the rest of the way out, 0.5, the cap lets 0.2 go
    decided = supervise(candidates(B=0.0), {"A": 0.9}, rules)
    assert weights(decided) == {"A": pytest.approx(0.3), "B": 0.0}
    assert row(decided, "A")["risk_flags"] == ["R2", "R4", "missing"]


def test_too_many_positions_are_sold_at_once_worst_first():
    rules = SupervisorRules(**FREE | {"max_positions": 2, "turnover_cap": 0.0})
    decided = supervise(candidates(A=0.3, B=0.3), {"A": 0.25, "B": 0.25, "C": 0.25, "D": 0.25}, rules)
    assert weights(decided) == {"A": 0.25, "B": 0.25, "C": 0.0, "D": 0.0}
    assert row(decided, "C")["risk_flags"] == ["R3", "missing"]


def test_gross_above_the_cap_is_taken_from_the_names_that_are_to_shrink_anyway():
    rules = SupervisorRules(**FREE | {"gross_exposure_cap": 0.8, "turnover_cap": 0.0})
    assert weights(supervise(candidates(A=0.5, B=0.3), {"A": 0.5, "B": 0.5}, rules)) == {"A": 0.5, "B": 0.3}


def test_a_symbol_held_but_no_candidate_any_more_is_sold_and_says_so():
    decided = supervise(candidates(A=1.0), {"A": 0.8, "Z": 0.2}, SupervisorRules(**FREE))
    assert row(decided, "Z") == {
        "symbol": "Z",
        "weight": 0.0,
        "score": None,
        "approved": False,
        "risk_flags": ["missing"],
        "reason": "no score on this date; 0.2000 sold",
    }


@pytest.mark.parametrize("score", [None, math.nan, math.inf])
def test_a_candidate_without_a_finite_score_is_rejected(score: float | None):
    table = candidates(A=0.5, B=0.5).with_columns(
        score=pl.when(pl.col("symbol") == "B").then(pl.lit(score, pl.Float64)).otherwise("score")
    )
    decided = supervise(table, {}, SupervisorRules(**FREE))
    assert weights(decided) == {"A": 0.5, "B": 0.0}
    assert row(decided, "B")["score"] is None
    assert row(decided, "B")["reason"] == "no score on this date"


def test_a_proposed_weight_that_is_no_number_is_rejected():
    decided = supervise(candidates(A=0.5, B=math.nan), {}, SupervisorRules(**FREE))
    assert row(decided, "B")["reason"] == "rank 2, but the weighting gives it no weight"


def test_damaged_last_weights_are_refused():
    with pytest.raises(DataError, match="last weight is not finite"):
        supervise(candidates(A=1.0), {"A": math.nan}, SupervisorRules(**FREE))


def test_two_rows_for_one_candidate_are_refused():
    with pytest.raises(DataError, match="more than once"):
        supervise(pl.concat([candidates(A=0.5), candidates(A=0.5)]), {}, SupervisorRules(**FREE))


def test_nothing_at_all_decides_nothing():
    assert supervise(candidates(), {}, SupervisorRules()).is_empty()


WEIGHT = st.one_of(st.floats(0, 1), st.floats(-2, 2), st.sampled_from([0.0, 1e-13, 1e300, -1e300, math.nan, math.inf]))
LAST = st.one_of(st.floats(0, 1), st.floats(-2, 2), st.sampled_from([1e-13, 1e300, 0.0]))
RULES = st.builds(
    SupervisorRules,
    gross_exposure_cap=st.floats(0.05, 2),
    max_weight_per_symbol=st.floats(0.02, 1.5),
    max_positions=st.integers(1, 6),
    turnover_cap=st.one_of(st.none(), st.just(0.0), st.floats(0, 1.5)),
    score_floor=st.one_of(st.none(), st.floats(-1, 1)),
)


@st.composite
def proposals(draw: st.DrawFn) -> pl.DataFrame:
    names = draw(st.lists(st.sampled_from(NAMES), unique=True))
    score = [draw(st.one_of(st.floats(-2, 2), st.just(math.nan))) for _ in names]
    scored = [n for n, value in enumerate(score) if math.isfinite(value)]
    order = sorted(scored, key=lambda n: (-score[n], names[n]))
    rank = [order.index(n) + 1 if n in order else 0 for n in range(len(names))]
    return pl.DataFrame(
        {"symbol": names, "score": score, "rank": rank, "weight": [draw(WEIGHT) for _ in names]},
        schema={"symbol": pl.String, "score": pl.Float64, "rank": pl.Int64, "weight": pl.Float64},
    )


LASTS = st.dictionaries(st.sampled_from(NAMES), LAST)


def goal(table: pl.DataFrame, rules: SupervisorRules, top_k: int) -> dict[str, float]:
    """R5, R3, R2 and R1 once more, in plain words."""
    kept = [
        (rank, symbol, weight)
        for symbol, score, rank, weight in table.iter_rows()
        if math.isfinite(score) and math.isfinite(weight) and abs(weight) >= 1e-12
        if rank <= top_k and (rules.score_floor is None or score >= rules.score_floor)
    ]
    kept = sorted(kept)[: rules.max_positions]
    most = rules.max_weight_per_symbol
    clipped = {symbol: min(max(weight, -most), most) for _, symbol, weight in kept}
    gross = sum(map(abs, clipped.values()))
    scale = min(1.0, rules.gross_exposure_cap / gross) if gross else 1.0
    return {symbol: weight * scale for symbol, weight in clipped.items()}


@settings(max_examples=120, deadline=None)
@given(proposals(), LASTS, RULES, st.integers(1, 6))
def test_the_caps_hold_after_any_input(table: pl.DataFrame, last: dict, rules: SupervisorRules, top_k: int):
    decided = supervise(table, last, rules, top_k)
    new = weights(decided)
    after = np.array(list(new.values()))
    assert np.isfinite(after).all()
    assert np.abs(after).sum() <= rules.gross_exposure_cap + TOLERANCE
    assert np.abs(after).max(initial=0) <= rules.max_weight_per_symbol + TOLERANCE
    assert np.count_nonzero(after) <= rules.max_positions
    assert (decided["approved"] == (decided["weight"] != 0)).all()
    assert set(new) == {*table["symbol"], *(symbol for symbol, weight in last.items() if weight != 0)}


@settings(max_examples=120, deadline=None)
@given(proposals(), LASTS, RULES, st.integers(1, 6))
def test_every_weight_lies_between_its_last_value_and_its_goal(
    table: pl.DataFrame, last: dict, rules: SupervisorRules, top_k: int
):
    aim = goal(table, rules, top_k)
    for symbol, weight in weights(supervise(table, last, rules, top_k)).items():
        ends = sorted((last.get(symbol, 0.0), aim.get(symbol, 0.0)))
        assert ends[0] - TOLERANCE <= weight <= ends[1] + TOLERANCE
        assert weight == 0 or np.sign(weight) in np.sign(ends)


@settings(max_examples=120, deadline=None)
@given(proposals(), LASTS, RULES, st.integers(1, 6))
def test_turnover_beyond_the_cap_is_only_what_r1_to_r3_require(
    table: pl.DataFrame, last: dict, rules: SupervisorRules, top_k: int
):
    new = weights(supervise(table, last, rules, top_k))
    traded = sum(abs(weight - last.get(symbol, 0.0)) for symbol, weight in new.items()) / 2
    aim = goal(table, rules, top_k)
    ranks = {symbol: rank for symbol, rank in table.select("symbol", "rank").iter_rows() if rank}
    held = [symbol for symbol, weight in last.items() if weight != 0]
    held.sort(key=lambda symbol: (symbol not in aim, ranks.get(symbol, 99), symbol))
    kept = [min(abs(last[symbol]), rules.max_weight_per_symbol) for symbol in held[: rules.max_positions]]
    required = sum(abs(last[symbol]) for symbol in held) - min(sum(kept), rules.gross_exposure_cap)
    if rules.turnover_cap is not None:
        assert traded <= (rules.turnover_cap + required / 2) * (1 + TOLERANCE) + TOLERANCE


@settings(max_examples=60, deadline=None)
@given(proposals(), LASTS, RULES, st.integers(1, 6))
def test_unlimited_turnover_gives_the_proposal_clipped_by_the_other_rules(
    table: pl.DataFrame, last: dict, rules: SupervisorRules, top_k: int
):
    unlimited = rules.model_copy(update={"turnover_cap": None})
    new, aim = weights(supervise(table, last, unlimited, top_k)), goal(table, rules, top_k)
    assert new == pytest.approx({symbol: aim.get(symbol, 0.0) for symbol in new}, abs=TOLERANCE)


@settings(max_examples=60, deadline=None)
@given(proposals(), RULES, st.integers(1, 6), st.randoms(use_true_random=False))
def test_row_order_changes_nothing(table: pl.DataFrame, rules: SupervisorRules, top_k: int, random):
    shuffled = table[random.sample(range(table.height), table.height)]
    assert supervise(shuffled, {"A": 0.5}, rules, top_k).equals(supervise(table, {"A": 0.5}, rules, top_k))


@settings(max_examples=60, deadline=None)
@given(proposals(), LASTS, RULES.filter(lambda rules: rules.turnover_cap is None or rules.turnover_cap > 0.01))
def test_the_same_proposal_again_and_again_reaches_its_goal(table: pl.DataFrame, last: dict, rules: SupervisorRules):
    held = {symbol: weight for symbol, weight in last.items() if 0 < abs(weight) <= 2}
    for _ in range(math.ceil(10 / (rules.turnover_cap or 10)) + 2):
        decided = weights(supervise(table, held, rules))
        if decided == held:
            break
        held = {symbol: weight for symbol, weight in decided.items() if weight}
    aim = goal(table, rules, 99)
    assert [held.get(s, 0.0) for s in NAMES] == pytest.approx([aim.get(s, 0.0) for s in NAMES], abs=1e-8)


class TestWeighingManyDatesAtOnce:
    """The kernel's `weigh` is `propose` and `supervise_dates` for their weights alone."""

    @settings(max_examples=150, deadline=None)
    @given(
        arrays.arrays(
            np.float64, (6, 4), elements=st.one_of(st.floats(-2, 2), st.sampled_from([0.0, math.nan, math.inf]))
        ),
        arrays.arrays(np.bool_, (6, 4), elements=st.integers(0, 4).map(bool)),
        arrays.arrays(np.float64, (6, 4), elements=st.floats(0, 1)),
        st.sampled_from(WEIGHTINGS),
        st.booleans(),
        st.one_of(st.none(), st.integers(1, 5)),
        RULES,
        st.sampled_from([0.1, 0.5, 1.0]),
    )
    def test_it_gives_the_same_bits(self, scores, listed, shares, method, exposure, top_k, rules, min_cross_section):
        masked = np.where(listed, scores, math.nan)
        enough = np.isfinite(masked).sum(axis=1) >= np.maximum(min_cross_section * listed.sum(axis=1) - 1e-9, 1e-9)
        rows = np.flatnonzero(enough)
        proposal = propose(masked[rows], method, top_k, shares[rows], shares=shares[rows], exposure=exposure)
        expected = np.full(scores.shape, math.nan)
        expected[rows] = supervise_dates(
            masked[rows], *(proposal.rank, proposal.weight), np.zeros(4), rules, top_k, listed[rows], exposure=exposure
        ).weight
        weights = np.empty(scores.shape)
        code, basis = share_basis(scores, method, shares, shares)
        kernel.weigh(scores, listed, basis, code, exposure, limits(rules, top_k, 4), min_cross_section, weights)
        assert np.array_equal(weights, expected, equal_nan=True)


def test_of_exposures_r5_compares_the_size_with_the_floor():
    scores, rules = np.array([[-0.5, 0.1]]), SupervisorRules(**FREE, score_floor=0.2)
    proposal = propose(scores, "equal", None, exposure=True)
    decided = supervise_dates(scores, proposal.rank, proposal.weight, np.zeros(2), rules, None, exposure=True)
    assert decided.weight.tolist() == [[-0.25, 0.0]]


def test_an_exposure_of_zero_has_a_rank_but_no_goal():
    scores = np.array([[0.0, -0.5]])
    proposal = propose(scores, "equal", None, exposure=True)
    decided = supervise_dates(scores, proposal.rank, proposal.weight, np.zeros(2), SupervisorRules(**FREE), None)
    rows = decisions(["A", "B"], scores, proposal.rank, decided, SupervisorRules(**FREE), None, np.ones((1, 2), bool))
    assert rows["weight"].to_list() == [0.0, -0.25]
    assert row(rows, "A")["reason"] == "rank 2, but the weighting gives it no weight"
