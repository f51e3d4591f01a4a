"""The doctor's findings that need further backtests: crafted markets that have one, and strategies that have none."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.backtest import analysis
from quant_assets.backtest.engine import buy_and_hold, run
from quant_assets.core.calendar import TradingCalendar, trading_calendar
from quant_assets.core.settings import PROJECT_ROOT
from quant_assets.features import FEATURE_SETS, Feature, FeatureSet, compute
from quant_assets.features.panel import Columns, FloatArray
from quant_assets.market_data.adjustment import adjust
from quant_assets.market_data.provider import FetchRequest
from quant_assets.market_data.sample import SampleProvider
from quant_assets.market_data.synthetic import synthetic_bars
from quant_assets.strategy import doctor
from quant_assets.strategy.compose import decide, signal_scores
from quant_assets.strategy.doctor import diagnose, examine, named
from quant_assets.strategy.evaluate import Evaluator
from quant_assets.strategy.spec import StrategySpec, load_strategy
from quant_assets.strategy.universe import load_universe
from quant_assets.validation.doctor import Finding

pytestmark = pytest.mark.slow

YEAR = 252
DAYS = tuple(day for n in range(800) if (day := date(2020, 1, 6) + timedelta(n)).weekday() < 5)
CALENDAR = TradingCalendar("TEST", "UTC", time(16), DAYS)
WINDOW = list(DAYS[100:500])
"""80 whole weeks, from Monday 2020-05-25."""
SYNTHETIC = [f"SYN{number:04d}" for number in range(5)]
LOOSE = {"gross_exposure_cap": 1.0, "max_weight_per_symbol": 1.0, "turnover_cap": None}
TSMOM = {"type": "tsmom", "inputs": {"lookback": 40, "vol_window": 20}}
FACTOR = {"type": "factor_rank", "inputs": {"feature_version": "v1", "feature_name": "ret_20d"}}


def strategy(signal: Mapping[str, Any], frequency: str = "weekly", **sections: Any) -> StrategySpec:
    said: dict[str, Any] = {
        "strategy_id": "one",
        "version": "1.0.0",
        "universe": {"symbols": SYNTHETIC},
        "signal": signal,
        "rebalance": {"frequency": frequency},
        "portfolio": {} if signal["type"] in ("tsmom", "donchian") else {"top_k": 1},
        "supervisor": LOOSE,
        "backtest": {"from": WINDOW[0], "fee_bps": 0.0, "slippage_bps": 0.0},
    }
    return StrategySpec.model_validate(said | sections)


def bars_of(closes: Mapping[str, Sequence[float]], days: Sequence[date] = DAYS[:500]) -> pl.DataFrame:
    """Bars that open at the close before."""
    frames = []
    for symbol, values in closes.items():
        close = np.asarray(values, np.float64)
        opened = np.concatenate([close[:1], close[:-1]])
        prices = {"open": opened, "high": np.maximum(opened, close), "low": np.minimum(opened, close), "close": close}
        frames.append(pl.DataFrame({"symbol": [symbol] * len(close), "ts": days, **prices, "volume": 1e6}))
    return pl.concat(frames)


def made(symbols: Sequence[str] = SYNTHETIC) -> pl.DataFrame:
    bars = synthetic_bars(symbols, DAYS[:500])
    return bars.select("symbol", "ts", "open", "high", "low", "close", "volume")


MADE = made()
BOUNDS = dict.fromkeys(SYNTHETIC, (None, None))
SOURCES = {"v1": compute(MADE, "v1")}


def examined(spec: StrategySpec, bars: pl.DataFrame, **arguments: Any) -> dict[str, Finding]:
    bounds = dict.fromkeys(bars["symbol"].unique().sort(), (None, None))
    found = examine(spec, bars, WINDOW, CALENDAR, bounds, **arguments)
    for one in found:
        json.dumps(dict(one.details))
    return {one.name: one for one in found}


def evaluator() -> doctor._Moved:
    return doctor._Moved(MADE, WINDOW, DAYS, BOUNDS, YEAR, SOURCES)


CONFIGURATIONS = [
    strategy(TSMOM, "daily"),
    strategy(TSMOM, portfolio={"weighting": "inverse_vol"}, execution={"price": "next_open"}),
    strategy(TSMOM, "monthly", portfolio={"short": "full"}),
    strategy({"type": "donchian"}, "daily", exits={"trailing_stop": 0.05}),
    strategy(FACTOR, supervisor=LOOSE | {"turnover_cap": 0.2}),
]


@pytest.mark.parametrize("spec", CONFIGURATIONS)
@pytest.mark.parametrize("shift", [1, 21])
def test_beginning_later_is_a_backtest_of_the_sessions_that_are_left(spec: StrategySpec, shift: int):
    alone = Evaluator(MADE, WINDOW[shift:], DAYS, BOUNDS, YEAR, SOURCES).evaluate([spec])
    assert np.array_equal(evaluator().begun_later(shift).evaluate([spec]).returns, alone.returns)


@pytest.mark.parametrize("spec", CONFIGURATIONS[1:4])
def test_a_rebalance_later_decides_by_the_scores_of_that_session(spec: StrategySpec):
    dates = evaluator()._dates(spec.rebalance.frequency)
    if spec.rebalance.frequency != "daily":
        dates = [WINDOW[WINDOW.index(day) + 2] for day in dates if day < WINDOW[-2]]
    scores = signal_scores(spec, MADE, DAYS, YEAR)
    daily = spec.variant({"rebalance.frequency": "daily"})
    targets = decide(daily, scores, MADE, {}, dates, DAYS, BOUNDS).targets
    expected = run(MADE, targets, WINDOW, spec.config(YEAR)).equity["ret"].to_numpy()
    assert np.array_equal(evaluator().rebalanced_later(2).evaluate([spec]).returns[0], expected)


@pytest.mark.parametrize("spec", [CONFIGURATIONS[0], CONFIGURATIONS[2], CONFIGURATIONS[4]])
def test_a_fill_one_session_later_at_the_close_is_the_next_close(spec: StrategySpec):
    following = evaluator().evaluate([spec.variant({"execution.price": "next_close"})]).returns[0]
    assert np.array_equal(evaluator().filled_later().evaluate([spec]).returns[0], following[1:])


def rising(seed: int, sessions: int = 500) -> list[float]:
    """0.1 % a session, and noise of 1 %."""
    noise = np.random.default_rng(seed).normal(0, 0.01, sessions)
    return (100 * np.exp(np.cumsum(0.001 + noise - noise.mean()))).tolist()


TREND = {"type": "tsmom", "inputs": {"lookback": 100, "vol_window": 20, "vol_target": 5.0, "leverage_cap": 1.0}}
"""All of the money while the price is above that of 100 sessions ago."""


def test_nothing_is_said_of_a_strategy_that_holds_what_rises():
    bars = bars_of({f"S{number}": rising(number) for number in range(4)})
    costs = {"backtest": {"from": WINDOW[0], "fee_bps": 2.0, "slippage_bps": 10.0}}
    for frequency in ("daily", "weekly", "monthly"):
        assert examined(strategy(TREND, frequency, **costs), bars) == {}


def test_the_order_of_rows_changes_nothing_and_findings_are_the_same_again():
    spec = strategy(TSMOM, backtest={"from": WINDOW[0]})
    once = examine(spec, MADE, WINDOW, CALENDAR, BOUNDS)
    assert once
    assert examine(spec, MADE.sample(fraction=1, shuffle=True, seed=1), WINDOW, CALENDAR, BOUNDS) == once


def weekly_turns(seed: int = 1) -> pl.DataFrame:
    """Fridays tell the sign of the Monday that follows, by name of 1 %; nothing else moves but noise of 0.05 %."""
    random = np.random.default_rng(seed)
    sign = random.permutation(np.resize([1.0, -1.0], 100))
    moves = random.normal(0, 0.0005, (100, 5))
    moves[:, 4] = 0.01 * np.append(sign[1:], 1.0)
    moves[:, 0] = 0.01 * sign
    return bars_of({"A": 100 * np.exp(np.cumsum(moves.ravel()))})


LAST_RETURN = {"type": "tsmom", "inputs": {"lookback": 1, "vol_window": 20, "vol_target": 5.0, "leverage_cap": 1.0}}


def test_the_day_of_the_rebalance_matters_where_only_fridays_know():
    found = examined(strategy(LAST_RETURN), weekly_turns())
    one = found["rebalance_day_matters"]
    assert one.severity == "warning"
    assert one.evidence.startswith("rebalanced ")
    assert set(one.details["sharpes"]) == {"1", "2", "3"}
    assert one.value is not None
    assert one.value < -3
    assert "start_date_matters" not in found


def test_an_edge_of_one_session_is_gone_a_session_later():
    found = examined(strategy(LAST_RETURN), weekly_turns())
    one = found["edge_gone_a_session_later"]
    spec, bounds = strategy(LAST_RETURN), {"A": (None, None)}
    both = Evaluator(weekly_turns(), WINDOW, DAYS, bounds, YEAR).evaluate(
        [spec, spec.variant({"execution.price": "next_close"})]
    )
    before, after = (float(row[1:].mean() / row[1:].std(ddof=1) * YEAR**0.5) for row in both.returns)
    assert one.evidence.endswith(f"the Sharpe ratio is {after:.2f} instead of {before:.2f}")
    assert one.value == pytest.approx(after)
    assert "look_ahead_in_signal" not in found


def test_a_start_matters_where_a_stop_of_the_first_week_lasts():
    # both rise; A falls by 5 % on the fourth session, is stopped out, and stays so: its signal never changes
    steady, noisy = (np.random.default_rng(seed).normal(0, size, 500) for seed, size in ((1, 0.002), (2, 0.01)))
    rise = np.full(500, 0.004)
    rise[103] = -0.05
    bars = bars_of({"A": np.exp(np.cumsum(rise + steady)), "B": np.exp(np.cumsum(noisy - noisy.mean() + 0.001))})
    one = examined(strategy(TREND, "daily", exits={"stop_loss": 0.03}), bars)["start_date_matters"]
    assert one.severity == "warning"
    assert one.details["sharpes"].keys() == {"5", "10", "21", "63"}
    assert one.value is not None
    assert one.value > 1


def turning(bps: float) -> StrategySpec:
    return strategy(LAST_RETURN, "daily", backtest={"from": WINDOW[0], "fee_bps": bps, "slippage_bps": 2 * bps})


@settings(max_examples=15, deadline=None)
@given(st.floats(0.5, 60))
def test_costs_lose_money_exactly_where_twice_of_them_do(bps: float):
    bars, spec = weekly_turns(), turning(bps)
    mine = Evaluator(bars, WINDOW, DAYS, {"A": (None, None)}, YEAR)

    def profit(times: float) -> float:
        changes = {"backtest.fee_bps": bps * times, "backtest.slippage_bps": 2 * bps * times}
        return float(mine.evaluate([spec.variant(changes)]).summary["final_equity"][0]) - spec.backtest.initial_cash

    found = list(doctor._costs(spec, doctor._Moved(bars, WINDOW, DAYS, {"A": (None, None)}, YEAR)))
    assert bool(found) == (profit(1) > 0 >= profit(2))
    for one in found:
        assert one.value is not None
        assert profit(one.value) <= 0 < profit(one.value - 0.011)


def test_doubled_costs_say_where_the_profit_ends():
    one = examined(turning(5.0), weekly_turns())["costs_doubled_lose_money"]
    assert one.evidence == (
        "a profit of 17.0% becomes a loss of 8.6% at 2 times the fee and slippage; it is gone at 1.64 times"
    )
    assert one.value == 1.64
    assert "costs_doubled_lose_money" not in examined(turning(2.0), weekly_turns())


def grid_of(ratios: Mapping[tuple[int, str], float | None]) -> list[tuple[dict[str, Any], float | None]]:
    return [({"signal.inputs.lookback": n, "portfolio.weighting": name}, ratio) for (n, name), ratio in ratios.items()]


def neighbourhood(cells: Sequence[tuple[Mapping[str, Any], float | None]], lookback: int = 40) -> dict[str, Finding]:
    spec = strategy({"type": "tsmom", "inputs": {"lookback": lookback}})
    return {one.name: one for one in doctor._neighbourhood(spec, cells)}


PLATEAU = {
    (20, "equal"): 0.9,
    (40, "equal"): 1.0,
    (60, "equal"): 0.8,
    (20, "hrp"): 0.8,
    (40, "hrp"): 0.9,
    (60, "hrp"): 0.7,
}


def test_a_plateau_is_no_cliff():
    assert neighbourhood(grid_of(PLATEAU)) == {}
    assert neighbourhood([]) == {}


def test_a_strategy_that_changes_nothing_is_no_cell():
    assert neighbourhood([({}, 1.0)]) == {}
    cliff = grid_of(PLATEAU | {(60, "equal"): 0.3})
    assert neighbourhood([({}, 5.0), *cliff], lookback=47) == neighbourhood(cliff, lookback=47)


def test_a_cliff_names_the_parameter_and_its_values():
    found = neighbourhood(grid_of(PLATEAU | {(60, "equal"): 0.3, (40, "hrp"): -0.2}))
    assert set(found) == {"parameter_cliff", "best_cell_stands_alone"}
    assert found["parameter_cliff"].evidence == (
        "the strategy as written (lookback 40, weighting equal) has a Sharpe ratio of 1.00; portfolio.weighting from "
        "equal to hrp leaves -0.20, and 2 of 3 neighbours lose more than 50%"
    )
    assert found["parameter_cliff"].details["worst"] == {"signal.inputs.lookback": 40, "portfolio.weighting": "hrp"}


def test_a_ruined_neighbour_is_a_cliff_and_cells_further_away_are_none():
    assert set(neighbourhood(grid_of(PLATEAU | {(60, "equal"): None}))) == {"parameter_cliff"}
    assert neighbourhood(grid_of(PLATEAU | {(60, "hrp"): -1.0, (20, "hrp"): float("nan")})) == {}


def test_a_strategy_between_the_cells_is_judged_at_the_nearest():
    found = neighbourhood(grid_of(PLATEAU | {(20, "equal"): 0.1}), lookback=47)["parameter_cliff"]
    assert found.evidence.startswith(
        "the cell nearest to the strategy as written (lookback 40, weighting equal) has a Sharpe ratio of 1.00; "
        "signal.inputs.lookback from 40 to 20 leaves 0.10"
    )


def test_the_best_cell_may_stand_alone_elsewhere():
    cells = grid_of({(n, "equal"): 0.3 for n in range(20, 120, 10)} | {(100, "equal"): 1.4})
    found = neighbourhood(cells)
    assert set(found) == {"best_cell_stands_alone"}
    assert found["best_cell_stands_alone"].evidence == (
        "the best of 10 cells (lookback 100, weighting equal) has a Sharpe ratio of 1.40, the median of its 2 "
        "neighbours is 0.30"
    )


def test_a_strategy_without_profit_has_no_cliff():
    assert neighbourhood(grid_of({cell: ratio - 1.0 for cell, ratio in PLATEAU.items()})) == {}


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 6), st.sampled_from([0.1, 0.2, 0.5]), st.sampled_from(["a", "b", None])),
        min_size=1,
        max_size=30,
        unique=True,
    )
)
def test_neighbours_differ_in_one_parameter_by_one_step_and_know_each_other(
    places: list[tuple[int, float, str | None]],
):
    cells = [(dict(zip(("x", "y", "z"), place, strict=True)), 1.0) for place in places]
    grid = doctor._Grid(cells)
    axes = [sorted({place[n] for place in places}) for n in (0, 1)]
    for number, place in enumerate(places):
        around = grid.neighbours(number)
        assert all(number in grid.neighbours(other) for other in around)
        for other, there in enumerate(places):
            steps = [abs(axis.index(one) - axis.index(two)) for axis, one, two in zip(axes, place, there, strict=False)]
            assert (other in around) == (sum(steps) + (place[2] != there[2]) == 1)


def test_a_cell_is_named_by_the_last_part_of_its_fields():
    assert named({"signal.inputs.lookback": 63, "portfolio.weighting": "hrp"}) == "lookback 63, weighting hrp"


def tomorrow(bars: Columns) -> FloatArray:
    return np.append(bars.close[1:], np.nan) / bars.close - 1


def five_sessions(bars: Columns) -> FloatArray:
    return bars.close / np.append(np.full(5, np.nan), bars.close[:-5]) - 1


@pytest.fixture
def faulty(monkeypatch: pytest.MonkeyPatch) -> FeatureSet:
    """Feature set v9: one that reads tomorrow's close, one that reads four sessions more than it states."""
    features = FeatureSet("v9", (Feature("tomorrow", 0, tomorrow), Feature("five_sessions", 1, five_sessions)))
    monkeypatch.setitem(FEATURE_SETS, "v9", features)
    return features


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tomorrow", {"look_ahead_in_signal", "look_ahead_in_targets", "edge_gone_a_session_later"}),
        ("five_sessions", {"warm_up_in_signal"}),
    ],
)
def test_a_leak_is_found_in_the_strategys_own_function(faulty: FeatureSet, name: str, expected: set[str]):
    signal = {"type": "factor_rank", "inputs": {"feature_version": "v9", "feature_name": name}}
    found = examined(strategy(signal, "daily"), MADE, sources={"v9": faulty.compute(MADE)})
    errors = {each.name for each in found.values() if each.severity == "error"}
    assert errors >= expected
    assert all("quant check leakage" in found[each].remedy for each in expected)


def test_a_model_is_not_trained_again():
    signal = {"type": "model_score", "model": {"task": "regression", "label": "fwd_ret_20d", "scope": "universe"}}
    spec = strategy(signal, "monthly")
    assert spec.model is not None
    predictions = SOURCES["v1"].select("symbol", "ts", score="ret_20d", calibrated_score="ret_20d")
    found = examined(spec, MADE, sources={spec.model.experiment_id: predictions})
    assert found["leakage_not_tested"].severity == "note"
    assert found["leakage_not_tested"].evidence.endswith("trained again on changed bars, which takes minutes")


@pytest.mark.parametrize("count", [1, 2, 3, 30])
def test_a_short_backtest_is_examined_as_far_as_it_goes(count: int):
    bars = MADE.filter(pl.col("ts") <= DAYS[count - 1])
    (one,) = examine(strategy(TSMOM), bars, DAYS[:count], CALENDAR, BOUNDS)
    assert (one.name, one.severity) == ("leakage_not_tested", "note")


def test_a_diagnosis_is_the_review_and_the_examination_of_one_backtest():
    spec = strategy(TSMOM, backtest={"from": WINDOW[0], "initial_cash": 1e9})
    targets = decide(spec, signal_scores(spec, MADE, DAYS, YEAR), MADE, {}, WINDOW, DAYS, BOUNDS).targets
    result = run(MADE, targets, WINDOW, spec.config(YEAR))
    inside = MADE.filter(pl.col("ts") >= WINDOW[0])
    stored = analysis.tables(result, buy_and_hold(inside, WINDOW, 1e9), inside, datetime.now(UTC).replace(tzinfo=None))
    tables = {table.name: frame for table, frame in stored.items()}
    lines: list[str] = []
    found = diagnose(spec, tables, MADE, WINDOW, CALENDAR, BOUNDS, progress=lines.append)
    names = [one.name for one in found]
    assert "trades_beyond_volume" in names
    assert {one.name for one in examine(spec, MADE, WINDOW, CALENDAR, BOUNDS)} <= set(names)
    assert not {name for name in names if name.startswith("fills_")}
    order = [("error", "warning", "note").index(one.severity) for one in found]
    assert order == sorted(order)
    assert lines == ["one: higher costs, other starts, later fills", "one: leakage probes"]
    assert diagnose(spec, tables, MADE.reverse(), WINDOW, CALENDAR, BOUNDS) == found


@pytest.fixture(scope="module")
def sample() -> pl.DataFrame:
    """Adjusted bars of the sample data."""
    provider = SampleProvider()
    bars, actions = [], []
    for symbol in ("AAPL", "FB", "GOOG", "IBM", "MSFT"):
        fetched = provider.fetch(FetchRequest(symbol, date(2000, 3, 1), date(2013, 3, 1)))
        bars.append(fetched.bars.with_columns(symbol=pl.lit(symbol)))
        actions.append(fetched.actions.with_columns(symbol=pl.lit(symbol)))
    return adjust(pl.concat(bars), pl.concat(actions), set())


@pytest.mark.parametrize("strategy_id", ["donchian_us_tech", "momentum_topk", "tsmom_us_tech"])
def test_of_the_shipped_strategies_the_sample_data_say_that_one_share_made_it(strategy_id: str, sample: pl.DataFrame):
    folder = PROJECT_ROOT / "strategies"
    spec, market = load_strategy(folder / f"{strategy_id}.yaml"), load_universe(folder / "universes" / "us_tech.yaml")
    calendar, bounds = trading_calendar("XNYS"), spec.bounds(market, folder / "universes")
    sessions = calendar.between(spec.backtest.first, date(2013, 3, 1))
    features = {"v1": compute(sample, "v1")}
    scores = signal_scores(spec, features["v1"] if spec.feature_version else sample, calendar.sessions, YEAR)
    targets = decide(spec, scores, sample, {}, sessions, calendar.sessions, bounds).targets
    result = run(sample, targets, sessions, spec.config(YEAR))
    inside = sample.filter(pl.col("ts") >= sessions[0])
    stored = analysis.tables(
        result, buy_and_hold(inside, sessions, spec.backtest.initial_cash), inside, datetime(2026, 1, 2)
    )
    tables = {table.name: frame for table, frame in stored.items()}
    found = {one.name: one for one in diagnose(spec, tables, sample, sessions, calendar, bounds, features)}
    assert found.pop("one_symbol_makes_the_result").details == {"symbol": "AAPL"}
    assert set(found) <= {"holding_was_better"}
