"""Weights decided date by date: those of all dates at once."""

import math
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant_assets.core.errors import DataError
from quant_assets.core.matrices import Floats
from quant_assets.features import compute
from quant_assets.portfolio.deciding import DateDecider
from quant_assets.portfolio.supervisor import SupervisorRules, supervise_dates
from quant_assets.portfolio.weighting import WEIGHTINGS, propose
from quant_assets.strategy.compose import decide, listed_on, matrix_of, rebalance_dates
from quant_assets.strategy.spec import StrategySpec

NAN = math.nan
DATES, SYMBOLS = 8, 4
FREE = SupervisorRules(max_weight_per_symbol=1.0, turnover_cap=None)
SUPERVISORS = st.builds(
    SupervisorRules,
    gross_exposure_cap=st.floats(0.05, 2),
    max_weight_per_symbol=st.floats(0.02, 1.5),
    max_positions=st.integers(1, 6),
    turnover_cap=st.one_of(st.none(), st.just(0.0), st.floats(0, 1.5)),
    score_floor=st.one_of(st.none(), st.floats(-1, 1)),
)
SCORES = arrays(
    np.float64, (DATES, SYMBOLS), elements=st.one_of(st.floats(-2, 2), st.sampled_from([0.0, NAN, math.inf]))
)
LISTED = arrays(np.bool_, (DATES, SYMBOLS), elements=st.integers(0, 4).map(bool))
LAST = arrays(np.float64, SYMBOLS, elements=st.one_of(st.just(0.0), st.floats(-1, 1)))
SHARES = [0.5, 1.0]
TOP_K = st.one_of(st.none(), st.integers(1, 5))


@settings(max_examples=100)
@given(
    SCORES,
    LISTED,
    arrays(np.float64, (DATES, SYMBOLS), elements=st.floats(0, 1)),
    st.sampled_from(WEIGHTINGS),
    st.booleans(),
    TOP_K,
    SUPERVISORS,
    st.sampled_from(SHARES),
    LAST,
)
def test_date_by_date_the_weights_have_the_bits_of_all_dates_at_once(
    scores, listed, basis, method, exposure, top_k, rules, min_cross_section, last
):
    masked = np.where(listed, scores, NAN)
    having, wanted = np.isfinite(masked).sum(axis=1), listed.sum(axis=1)
    enough = (wanted > 0) & (having >= min_cross_section * wanted - 1e-9)
    shares = None if method == "inverse_vol" else basis[enough]
    proposal = propose(masked[enough], method, top_k, basis[enough], shares=shares, exposure=exposure)
    expected = supervise_dates(
        masked[enough], proposal.rank, proposal.weight, last, rules, top_k, listed[enough], exposure=exposure
    ).weight.tolist()
    decider = DateDecider(method, rules, top_k, min_cross_section, last, exposure=exposure)
    for row in range(DATES):
        found = decider.decide(scores[row].tolist(), listed[row], basis[row])
        assert found == (expected.pop(0) if enough[row] else None)
        if found is not None:
            assert decider.held == found


CALENDAR = [day for n in range(140) if (day := date(2020, 1, 1) + timedelta(n)).weekday() < 5]
SESSIONS = CALENDAR[40:90]
BOUNDS = {"A": (None, None), "B": (None, None), "C": (SESSIONS[12], None), "D": (None, SESSIONS[33])}


def spec_of(signal: str, **sections: Any) -> StrategySpec:
    factor = {"type": signal, "inputs": {"feature_version": "v1", "feature_name": "ret_5d"}}
    said = {
        "strategy_id": "one",
        "version": "1.0.0",
        "universe": {"symbols": list(BOUNDS)},
        "signal": factor if signal == "factor_rank" else {"type": signal},
        "rebalance": {"frequency": "daily"},
        "portfolio": {"top_k": 2} if signal == "factor_rank" else {"short": "full"},
        "min_cross_section": 0.5,
        "backtest": {"from": SESSIONS[0]},
    }
    return StrategySpec.model_validate({**said, **sections})


def market() -> pl.DataFrame:
    random = np.random.default_rng(5)
    frames = []
    for symbol in BOUNDS:
        close = 50 * np.exp(np.cumsum(random.normal(0, 0.02, len(CALENDAR))))
        prices = dict.fromkeys(("open", "high", "low", "close"), close)
        frame = pl.DataFrame({"symbol": symbol, "ts": CALENDAR, **prices, "volume": 1.0})
        frames.append(frame.filter(pl.Series(random.random(len(CALENDAR)) > 0.03)))
    return pl.concat(frames)


def scores_of(sessions: list[date]) -> pl.DataFrame:
    """Random ones, some of them missing, and none on the tenth session."""
    random = np.random.default_rng(6)
    frame = pl.DataFrame([(symbol, day) for symbol in BOUNDS for day in sessions], ["symbol", "ts"], orient="row")
    frame = frame.with_columns(score=pl.Series(random.normal(0, 1, frame.height)))
    return frame.filter(pl.Series(random.random(frame.height) > 0.15), pl.col("ts") != sessions[9])


@pytest.mark.parametrize(
    "spec",
    [
        spec_of("tsmom"),
        spec_of("donchian", portfolio={"short": "none"}, rebalance={"frequency": "weekly"}),
        spec_of("tsmom", supervisor={"turnover_cap": 0.1, "score_floor": 0.3}, min_cross_section=1.0),
        spec_of("ema_cross", portfolio={"short": "full", "weighting": "inverse_vol", "top_k": 3}),
        spec_of("factor_rank", supervisor={"max_positions": 1, "turnover_cap": None}),
        spec_of("factor_rank", portfolio={"top_k": 3, "weighting": "score_weighted"}),
        spec_of("factor_rank", portfolio={"top_k": 3, "weighting": "inverse_vol"}, supervisor={"turnover_cap": 0.05}),
    ],
    ids=lambda spec: f"{spec.signal.type}-{spec.portfolio.weighting}",
)
def test_a_strategy_decides_date_by_date_what_it_decides_at_once(spec: StrategySpec):
    bars, scores, symbols = market(), scores_of(SESSIONS), sorted(BOUNDS)
    previous = {"A": 0.1, "D": -0.05}
    decided = decide(spec, scores, bars, previous, SESSIONS, CALENDAR, BOUNDS).targets
    dates = rebalance_dates(spec.rebalance.frequency, SESSIONS, CALENDAR)
    expected = dict(zip(decided["asof"].unique().sort(), weights_of(decided), strict=True))

    score = matrix_of(scores, "score", dates, symbols)
    if spec.rule is not None and spec.portfolio.short == "none":
        score = np.maximum(score, 0.0)
    listed = listed_on(dates, symbols, BOUNDS)
    basis = matrix_of(compute(bars, "v1"), "vol_20d", dates, symbols)
    decider = DateDecider(
        spec.portfolio.weighting,
        spec.supervisor,
        spec.portfolio.top_k,
        spec.min_cross_section,
        [previous.get(symbol, 0.0) for symbol in symbols],
        exposure=spec.rule is not None,
    )
    found = {}
    for row, day in enumerate(dates):
        weights = decider.decide(score[row].tolist(), listed[row], basis[row])
        if weights is not None:
            found[day] = weights
    assert found == expected
    assert 0 < len(found) < len(dates) or spec.rebalance.frequency == "weekly"


def weights_of(targets: pl.DataFrame) -> list[list[float]]:
    """By date and symbol; a symbol that is neither listed nor held has no row and no weight."""
    days = targets["asof"].unique().sort().to_list()
    weights: Floats = matrix_of(targets.rename({"asof": "ts"}), "weight", days, sorted(BOUNDS))
    return np.nan_to_num(weights).tolist()


def test_a_weight_by_risk_without_the_risk_is_refused():
    decider = DateDecider("inverse_vol", FREE, None, 1.0, [0.0, 0.0], exposure=True)
    with pytest.raises(DataError, match="inverse_vol needs the volatility or share of each symbol, got none"):
        decider.decide([1.0, 1.0], [True, True])


def test_a_last_weight_that_is_no_number_is_refused():
    with pytest.raises(DataError, match="a last weight is not finite"):
        DateDecider("equal", FREE, None, 1.0, [0.0, NAN], exposure=True)


def test_without_symbols_no_date_has_targets():
    assert DateDecider("equal", FREE, None, 1.0, [], exposure=True).decide([], []) is None
