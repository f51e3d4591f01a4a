"""Many configurations at once: each has the figures of its own backtest."""

import copy
import math
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.backtest.engine import run
from quant_assets.features import compute
from quant_assets.strategy.compose import decide, signal_scores
from quant_assets.strategy.evaluate import Evaluator, source_of
from quant_assets.strategy.spec import StrategySpec

pytestmark = pytest.mark.slow

YEAR = 252
HISTORY, LENGTH = 70, 130
CALENDAR = [day for n in range(400) if (day := date(2020, 1, 1) + timedelta(n)).weekday() < 5]
SESSIONS = CALENDAR[HISTORY : HISTORY + LENGTH]
BOUNDS = {"A": (None, None), "B": (None, None), "C": (None, None), "D": (SESSIONS[30], None), "E": (None, SESSIONS[90])}


def market() -> pl.DataFrame:
    """Five symbols: D lists late, E ends early, B misses some sessions."""
    generator = np.random.default_rng(3)
    frames = []
    for number, (symbol, (first, last)) in enumerate(BOUNDS.items()):
        days = [day for day in CALENDAR[: HISTORY + LENGTH + 5] if (first or day) <= day <= (last or day)]
        close = 50 * np.exp(np.cumsum(generator.normal(0.001 * (number - 2), 0.02, len(days))))
        opened = close * np.exp(generator.normal(0, 0.005, len(days)))
        frame = pl.DataFrame(
            {
                "symbol": [symbol] * len(days),
                "ts": days,
                "open": opened,
                "high": np.maximum(opened, close) * 1.01,
                "low": np.minimum(opened, close) * 0.99,
                "close": close,
                "volume": generator.integers(1, 1000, len(days)).astype(float),
            }
        )
        frames.append(frame.filter(pl.lit(symbol != "B") | (generator.random(len(days)) > 0.05)))
    return pl.concat(frames)


BARS = market()
FEATURES = compute(BARS, "v1")
FACTOR = {"type": "factor_rank", "inputs": {"feature_version": "v1", "feature_name": "ret_5d"}}
MODEL = {"type": "model_score", "model": {"task": "regression", "label": "fwd_ret_20d", "scope": "symbol"}}
POOLED = {"type": "model_score", "model": {"task": "regression", "label": "fwd_ret_20d", "scope": "universe"}}
TSMOM = {"type": "tsmom", "inputs": {"lookback": 20, "vol_window": 10}}
LOOSE = {"max_weight_per_symbol": 1.0, "gross_exposure_cap": 2.0, "turnover_cap": None}


def strategy(signal: dict[str, Any], **sections: Any) -> StrategySpec:
    said = {
        "strategy_id": "one",
        "version": "1.0.0",
        "universe": {"symbols": list(BOUNDS)},
        "signal": signal,
        "rebalance": {"frequency": "daily"},
        "portfolio": {"top_k": 2} if signal in (FACTOR, MODEL, POOLED) else {"short": "full"},
        "min_cross_section": 0.5,
        "backtest": {"from": SESSIONS[0]},
    }
    return StrategySpec.model_validate({**said, **sections})


PREDICTIONS = FEATURES.select(
    "symbol", "ts", score=pl.col("ret_5d"), calibrated_score=pl.when(pl.col("ret_1d") > 0).then(pl.col("vol_20d"))
)
"""Some rows without a score, some without a calibrated one."""
SOURCES = {"v1": FEATURES} | {source_of(strategy(one)) or "": PREDICTIONS for one in (MODEL, POOLED)}


def evaluator(**arguments: Any) -> Evaluator:
    return Evaluator(BARS, SESSIONS, CALENDAR, BOUNDS, YEAR, SOURCES, **arguments)


def alone(spec: StrategySpec) -> tuple[dict[str, Any], np.ndarray]:
    """What `decide` and `run` make of it."""
    source = source_of(spec)
    scores = signal_scores(spec, SOURCES[source] if source else BARS, CALENDAR, YEAR)
    decided = decide(spec, scores, BARS, {}, SESSIONS, CALENDAR, BOUNDS)
    result = run(BARS, decided.targets, SESSIONS, spec.config(YEAR))
    return result.summary, result.equity["ret"].to_numpy()


def assert_same(specs: list[StrategySpec]) -> None:
    evaluated = evaluator().evaluate(specs)
    for row, returns, spec in zip(evaluated.summary.iter_rows(named=True), evaluated.returns, specs, strict=True):
        summary, expected = alone(spec)
        assert np.array_equal(returns, expected)
        assert row == {name: summary[name] for name in row}


@pytest.mark.parametrize(
    "spec",
    [
        strategy(FACTOR),
        strategy(FACTOR, rebalance={"frequency": "weekly"}, execution={"price": "next_open"}),
        strategy(FACTOR, rebalance={"frequency": "monthly"}, execution={"price": "next_close"}),
        strategy(FACTOR, portfolio={"top_k": 3, "weighting": "inverse_vol"}, supervisor=LOOSE),
        strategy(FACTOR, portfolio={"top_k": 3, "weighting": "score_weighted"}),
        strategy(FACTOR, min_cross_section=1.0),
        strategy(MODEL),
        strategy(POOLED, supervisor=LOOSE),
        strategy(MODEL, portfolio={"top_k": 3, "weighting": "risk_parity", "risk_window": 20}),
        strategy(TSMOM),
        strategy(TSMOM, supervisor=LOOSE, portfolio={"short": "none"}),
        strategy(TSMOM, supervisor=LOOSE, portfolio={"short": "hedge", "hedge_drawdown": 0.01}),
        strategy(TSMOM, exits={"stop_loss": 0.03, "trailing_stop": 0.05}, rebalance={"frequency": "weekly"}),
        strategy(TSMOM, rebalance={"frequency": "daily", "threshold": 0.02}),
        strategy(TSMOM, portfolio={"short": "full", "top_k": 2, "weighting": "inverse_vol"}, supervisor=LOOSE),
        strategy(
            TSMOM,
            portfolio={"short": "full", "weighting": "hrp", "risk_window": 20},
            rebalance={"frequency": "monthly"},
        ),
        strategy(
            TSMOM,
            portfolio={"short": "hedge", "hedge_drawdown": 0.02, "weighting": "risk_parity", "risk_window": 30},
            rebalance={"frequency": "weekly"},
            supervisor=LOOSE,
        ),
        strategy({"type": "breakout", "inputs": {"window": 10}}, supervisor={"max_positions": 2}),
        strategy({"type": "donchian"}, supervisor={"score_floor": 0.5}),
        strategy({"type": "bb_rsi", "inputs": {"window": 10}}, supervisor=LOOSE, execution={"price": "next_open"}),
        strategy({"type": "ema_cross", "inputs": {"fast": 5, "slow": 15}}, portfolio={"short": "full"}),
        strategy(TSMOM, backtest={"from": SESSIONS[0], "fee_bps": 50, "initial_cash": 1000.0, "leverage": 2.0}),
    ],
)
def test_a_configuration_among_many_has_the_bits_of_its_backtest(spec: StrategySpec):
    assert_same([spec])


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "signal.inputs.lookback": st.integers(1, 80),
                "signal.inputs.vol_window": st.integers(2, 30),
                "signal.inputs.vol_target": st.floats(0.01, 1),
                "rebalance.frequency": st.sampled_from(["daily", "weekly", "monthly"]),
                "rebalance.threshold": st.floats(0, 0.2),
                "portfolio.top_k": st.integers(1, 6),
                "portfolio.short": st.sampled_from(["none", "hedge", "full"]),
                "supervisor.turnover_cap": st.one_of(st.none(), st.floats(0, 0.5)),
                "supervisor.max_weight_per_symbol": st.floats(0.05, 1),
                "exits.stop_loss": st.one_of(st.none(), st.floats(0.01, 0.2)),
                "execution.price": st.sampled_from(["close", "next_open", "next_close"]),
                "backtest.initial_cash": st.sampled_from([1_000.0, 100_000.0]),
                "min_cross_section": st.sampled_from([0.3, 1.0]),
            },
        ),
        min_size=1,
        max_size=6,
    )
)
def test_whatever_varies_each_configuration_keeps_its_place_and_its_figures(changes: list[dict[str, Any]]):
    assert_same([strategy(TSMOM).variant(change) for change in changes])


def grid() -> list[StrategySpec]:
    spec = strategy(TSMOM)
    return [
        spec.variant({"signal.inputs.lookback": lookback, "portfolio.top_k": top_k})
        for top_k in (1, 3, 5)
        for lookback in (5, 10, 20)
    ]


def test_the_size_of_a_block_and_the_order_of_configurations_change_nothing():
    specs = grid()
    together, singly = evaluator().evaluate(specs), evaluator(block_bytes=1).evaluate(specs[::-1])
    assert together.summary.equals(singly.summary.reverse())
    assert np.array_equal(together.returns, singly.returns[::-1])


def test_threads_and_copies_get_the_same_figures():
    specs, shared = grid(), evaluator()
    with ThreadPoolExecutor(3) as threads:
        in_threads = list(threads.map(shared.evaluate, [specs[:3], specs[3:6], specs[6:]]))
    elsewhere = copy.deepcopy(shared).evaluate(specs)
    assert pl.concat([one.summary for one in in_threads]).equals(elsewhere.summary)
    assert np.array_equal(np.concatenate([one.returns for one in in_threads]), elsewhere.returns)


def test_a_configuration_that_loses_everything_has_no_measures_and_harms_no_other():
    ruinous = strategy(
        {"type": "tsmom", "inputs": {"lookback": 20, "vol_window": 10, "vol_target": 10.0, "leverage_cap": 10.0}},
        portfolio={"short": "full"},
        supervisor={"gross_exposure_cap": 10.0, "max_weight_per_symbol": 10.0, "turnover_cap": None},
        backtest={"from": SESSIONS[0], "leverage": 10.0, "slippage_bps": 900},
    )
    evaluated = evaluator().evaluate([ruinous, strategy(TSMOM)])
    lost, other = evaluated.summary.iter_rows(named=True)
    assert {name for name, value in lost.items() if value is not None} == {"fee_bps", "slippage_bps", "initial_cash"}
    assert math.isnan(evaluated.returns[0, -1])
    assert other == {name: alone(strategy(TSMOM))[0][name] for name in other}


def test_no_configuration_gives_no_row():
    evaluated = evaluator().evaluate([])
    assert evaluated.summary.height == 0
    assert evaluated.returns.shape == (0, LENGTH)


def test_a_signal_says_what_it_reads_besides_bars():
    assert source_of(strategy(FACTOR)) == "v1"
    assert source_of(strategy(TSMOM)) is None
    assert source_of(strategy(MODEL)) == strategy(MODEL).model.experiment_id
