"""What a backtest says beside its headline figures: exact on tiny inputs, QuantStats' numbers on a long one."""

import math
from dataclasses import replace
from datetime import date, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from quant_assets.backtest import analysis, metrics
from quant_assets.backtest.analysis import BENCHMARK, MEASURES, PORTFOLIO, Curve, correlations
from quant_assets.backtest.engine import BacktestConfig, buy_and_hold, run
from quant_assets.contracts import TABLES
from quant_assets.core.costs import Costs
from quant_assets.core.errors import DataError
from quant_assets.core.matrices import days_of

NOW = datetime(2026, 1, 2, 3, 4, 5)


def days_from(first, count):
    return [first + timedelta(n) for n in range(count)]


def make_curve(returns, first=date(2024, 1, 1), year=252):
    equity = 100.0 * np.cumprod(1 + np.asarray(returns))
    return Curve(days_of(days_from(first, len(equity))), equity, 100.0, year)


def make_backtest(sessions=40, symbols=("A", "B", "C"), sign=1.0, **config):
    days = days_from(date(2024, 1, 1), sessions)
    rng = np.random.default_rng(7)
    closes = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, (sessions, len(symbols))), axis=0))
    bars = pl.DataFrame(
        {
            "symbol": np.repeat(np.array(symbols), sessions).tolist(),
            "ts": days * len(symbols),
            "open": closes.T.ravel(),
            "close": closes.T.ravel(),
        }
    )
    shares = rng.dirichlet(np.ones(len(symbols)), sessions) * sign
    rows = [(days[n], name, shares[n, k]) for n in range(0, sessions, 5) for k, name in enumerate(symbols)]
    targets = pl.DataFrame(rows, schema={"asof": pl.Date, "symbol": pl.String, "weight": pl.Float64}, orient="row")
    result = run(bars, targets, days, BacktestConfig("demo", "1.0.0", 10_000, **config))
    return result, buy_and_hold(bars, days, 10_000), bars


def test_measures_of_four_days_by_hand():
    found = analysis.measures(make_curve([0.1, -0.2, 0.0, 0.25], date(2024, 1, 30), year=4))
    # equity 110, 88, 88, 110: one drawdown of 20 % over two sessions; January ends after two days at 88
    assert found["total_return"] == pytest.approx(0.1)
    assert found["cagr"] == pytest.approx(0.1)
    assert (found["best_day"], found["worst_day"], found["positive_days"]) == pytest.approx((0.25, -0.2, 0.5))
    assert (found["best_month"], found["worst_month"], found["positive_months"]) == pytest.approx((0.25, -0.12, 0.5))
    assert (found["best_year"], found["worst_year"], found["positive_years"]) == pytest.approx((0.1, 0.1, 1.0))
    assert (found["max_dd"], found["average_dd"], found["longest_dd"]) == pytest.approx((-0.2, -0.2, 2))
    assert found["ulcer"] == pytest.approx(math.sqrt(2 * 0.04 / 4))
    assert found["omega"] == pytest.approx(0.35 / 0.2)
    assert found["recovery"] == pytest.approx(0.5)
    assert found["calmar"] == pytest.approx(0.5)
    assert found["var_95"] == pytest.approx(-0.17)  # 0.15 of the way from -0.2 to 0
    assert found["cvar_95"] == pytest.approx(-0.2)
    assert found["tail_ratio"] == pytest.approx((0.1 + 0.85 * 0.15) / 0.17)


def test_measures_against_a_benchmark_by_hand():
    theirs = [0.01, -0.01, 0.03]
    ours = [0.03, -0.01, 0.07]  # 0.01 + 2 x theirs
    found = analysis.relative(make_curve(ours, year=10), make_curve(theirs, year=10))
    assert found["beta"] == pytest.approx(2.0)
    assert found["alpha"] == pytest.approx(0.1)
    assert found["correlation"] == pytest.approx(1.0)
    active = np.array([0.02, 0.0, 0.04])
    assert found["tracking_error"] == pytest.approx(0.02 * math.sqrt(10))
    assert found["information_ratio"] == pytest.approx(active.mean() / 0.02 * math.sqrt(10))
    assert found["up_capture"] == pytest.approx((1.03 * 0.99 * 1.07 - 1) / (1.01 * 0.99 * 1.03 - 1))
    assert found["down_capture"] is None


def test_capture_is_a_ratio_of_geometric_means():
    ours, theirs = np.array([0.1, 0.2, -0.1]), np.array([0.05, 0.05, -0.2])
    assert analysis.capture(ours, theirs, up=True) == pytest.approx((math.sqrt(1.1 * 1.2) - 1) / 0.05)
    assert analysis.capture(ours, theirs, up=False) == pytest.approx(0.5)


def test_calendar_periods_end_with_their_last_session():
    friday = date(2024, 5, 31)
    curve = Curve(
        days_of([friday, friday + timedelta(3), friday + timedelta(4)]), np.array([110.0, 121.0, 99.0]), 100.0
    )
    assert curve.every("day").tolist() == pytest.approx([0.1, 0.1, 99 / 121 - 1])
    assert curve.every("week").tolist() == pytest.approx([0.1, -0.1])  # the week ends on Sunday
    assert curve.every("month").tolist() == pytest.approx([0.1, -0.1])
    assert curve.every("year").tolist() == pytest.approx([-0.01])


def test_a_curve_that_never_moves_has_no_ratio():
    flat = make_curve([0.0] * 5)
    found = analysis.measures(flat) | analysis.relative(flat, flat)
    undefined = ("sharpe", "sortino", "calmar", "omega", "recovery", "tail_ratio", "skew", "kurtosis")
    relative = ("alpha", "beta", "correlation", "information_ratio", "up_capture", "down_capture")
    assert {name for name, value in found.items() if value is None} == {*undefined, *relative}
    assert found["max_dd"] == found["average_dd"] == found["longest_dd"] == 0


def test_one_session_is_enough_for_what_can_be_said():
    found = analysis.measures(make_curve([0.1]))
    assert found["total_return"] == pytest.approx(0.1)
    assert found["var_95"] == pytest.approx(0.1)
    assert found["vol"] is None


@settings(max_examples=60, deadline=None)
@given(hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-0.5, 0.5)))
def test_no_measure_is_ever_nan_or_infinite(returns):
    curve, other = make_curve(returns), make_curve(returns[::-1])
    for value in (analysis.measures(curve) | analysis.relative(curve, other)).values():
        assert value is None or math.isfinite(value)


def test_rolling_measures_are_the_plain_ones_of_each_window():
    rng = np.random.default_rng(1)
    ours, theirs = rng.normal(0, 0.01, 50), rng.normal(0, 0.01, 50)
    beta, spread = analysis.rolling_beta(ours, theirs, 20), analysis.rolling_volatility(ours, 20, 252)
    for number in range(31):
        window = slice(number, number + 20)
        assert beta[number] == pytest.approx(analysis.slope(ours[window], theirs[window]))
        assert spread[number] == pytest.approx(metrics.volatility(ours[window], 252))
    assert analysis.rolling_beta(ours, np.zeros(50), 20).tolist() == [0.0] * 31
    assert analysis.rolling_volatility(ours, 51, 252).tolist() == []


def test_shared_definitions_are_those_of_quantstats():
    """Against quantstats-lumi 1.1.5 with pandas 3.1.1: its values on these returns, 252 periods a year."""
    k = np.arange(400)
    ours = 0.012 * np.sin(1.7 * k) + 0.004 * np.cos(0.37 * k) + 0.0005 + 0.02 * (k % 97 == 13) - 0.03 * (k % 89 == 40)
    theirs = 0.009 * np.sin(1.7 * k + 0.4) + 0.003 * np.cos(0.11 * k) + 0.0003
    curve, other = make_curve(ours, date(2021, 1, 4)), make_curve(theirs, date(2021, 1, 4))
    found = analysis.measures(curve) | analysis.relative(curve, other)
    expected = {
        "sharpe": 0.520021894016,
        "sortino": 0.738277028039,
        "vol": 0.156034876041,
        "omega": 1.0808843724,
        "skew": -0.284095297095,
        "kurtosis": 0.660077474202,
        "tail_ratio": 1.07413705903,
        "max_dd": -0.0592894120349,
        "average_dd": -0.0269636066536,
        "best_month": 0.0578324794586,
        "worst_month": -0.0391512395285,
        "best_year": 0.1483876058,
        "positive_months": 0.642857142857,
        "alpha": -0.00272984724944,
        "beta": 1.08703359031,
        "correlation": 0.742337605455,
        "information_ratio": 0.0379707795411,
        "total_return": 0.115691159912,
    }
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-10)
    rolling = metrics.rolling_sharpe(curve.returns, 126, 252)
    assert rolling[[0, -1]].tolist() == pytest.approx([1.0235362036143043, 0.2033857124844887], rel=1e-10)
    beta = analysis.rolling_beta(curve.returns, other.returns, 126)
    assert beta[-1] == pytest.approx(1.0483805474097416, rel=1e-10)


def test_correlation_needs_three_common_rows_and_movement():
    nan = np.nan
    returns = np.array([[1, 2, 1, 5, nan], [2, 1, nan, 5, 1], [3, 0, 2, 5, 2], [4, -1, nan, 5, nan]])
    matrix, rows = correlations(returns)
    assert matrix[0, 1] == pytest.approx(-1)
    assert np.isnan(matrix[0, 2])
    assert np.isnan(matrix[0, 3])
    assert np.isnan(matrix[3, 3])
    assert rows[0].tolist() == [4, 4, 2, 4, 2]
    assert rows[2, 4] == 1


@settings(max_examples=60, deadline=None)
@given(
    hnp.arrays(
        np.float64,
        st.tuples(st.integers(0, 12), st.integers(1, 5)),
        elements=st.one_of(st.floats(-0.2, 0.2), st.just(np.nan)),
    )
)
def test_correlations_are_symmetric_and_within_one(returns):
    matrix, rows = correlations(returns)
    assert np.array_equal(matrix, matrix.T, equal_nan=True)
    assert np.array_equal(rows, rows.T)
    known = matrix[~np.isnan(matrix)]
    assert (np.abs(known) <= 1).all()
    for i in range(returns.shape[1]):
        for j in range(returns.shape[1]):
            both = returns[~np.isnan(returns[:, [i, j]]).any(axis=1)][:, [i, j]]
            assert rows[i, j] == len(both)
            if len(both) >= 3 and (both.std(axis=0) > 1e-6).all():
                assert matrix[i, j] == pytest.approx(np.corrcoef(both.T)[0, 1], abs=1e-6)


@pytest.mark.parametrize("sign", [1.0, -0.4])
def test_contributions_and_costs_add_up_to_the_portfolio(sign):
    result, benchmark, _ = make_backtest(sign=sign, costs=Costs(5, 20, 3), year=365)
    found = analysis.all_measures(result, benchmark)
    assert result.symbols["contribution"].sum() == pytest.approx(found["total_return"][0])
    paid = analysis.costs(result)
    assert paid["fees"] == pytest.approx(result.trades["fees"].sum())
    yearly = result.equity["equity"].mean() * 40 / 365
    assert {name: found[name][0] for name in paid} == pytest.approx({n: money / yearly for n, money in paid.items()})
    assert (paid["funding"] > 0) == (sign > 0)


def test_measures_agree_with_the_stored_summary():
    result, benchmark, _ = make_backtest()
    found = analysis.all_measures(result, benchmark)
    for name, (ours, _) in found.items():
        if name in result.summary:
            assert ours == pytest.approx(result.summary[name])
    assert list(found) == [one.name for one in MEASURES]
    assert "beta" not in analysis.all_measures(result, None)


def test_exposure_splits_long_and_short():
    days = days_of(days_from(date(2024, 1, 1), 3))
    rows = [(days[0].item(), "A", 0.5), (days[0].item(), "B", -0.2), (days[2].item(), "A", 0.1)]
    weights = pl.DataFrame(rows, schema=["ts", "symbol", "weight"], orient="row")
    long, short = analysis.exposure(weights, days)
    assert long.tolist() == [0.5, 0.0, 0.1]
    assert short.tolist() == [-0.2, 0.0, 0.0]


def test_every_table_passes_its_contract():
    result, benchmark, bars = make_backtest(200)
    frames = analysis.tables(result, benchmark, bars, NOW)
    assert {table.name for table in frames} == {name for name in TABLES if name.startswith("backtest_")} - {
        "backtest_findings"
    }
    for table, frame in frames.items():
        assert frame.schema == table.empty().schema
        for rule in table.rules:
            assert frame.filter(~rule.expr).is_empty(), rule.name
        assert not frame.select(table.key[1:]).is_duplicated().any()


def test_pairs_stand_once_and_heaviest_first():
    result, benchmark, bars = make_backtest(200)
    found = analysis.correlation_table(result, benchmark, bars)
    names = [PORTFOLIO, BENCHMARK, *analysis.heaviest(result.weights, 10)]
    assert found.select("symbol", "other").rows() == [(a, b) for n, a in enumerate(names) for b in names[n + 1 :]]
    assert found["sessions"].to_list() == [200, *[199] * 9]
    whole = analysis.all_measures(result, benchmark)["correlation"][0]
    assert found["correlation"][0] == pytest.approx(whole)


def test_only_the_symbols_held_most_enter_the_correlations():
    names = tuple(f"S{n:02d}" for n in range(60))
    result, benchmark, bars = make_backtest(30, names)
    found = analysis.correlation_table(result, benchmark, bars)
    assert found.height == 52 * 51 // 2
    assert set(found["other"]) - {BENCHMARK} == set(analysis.heaviest(result.weights, analysis.HEAVIEST))


def test_a_backtest_without_trades_still_has_its_tables():
    result, benchmark, bars = make_backtest(30, sign=0.0)
    frames = {table.name: frame for table, frame in analysis.tables(result, benchmark, bars, NOW).items()}
    assert frames["backtest_correlations"]["other"].to_list() == [BENCHMARK]
    assert frames["backtest_correlations"]["correlation"].to_list() == [None]
    values = dict(frames["backtest_measures"].select("measure", "value").iter_rows())
    assert (values["fees"], values["exposure"], values["win_rate"]) == (0.0, 0.0, None)


def test_a_benchmark_over_other_sessions_is_refused():
    result, benchmark, bars = make_backtest()
    with pytest.raises(DataError, match="the benchmark has 39 sessions that are not the backtest's 40"):
        analysis.tables(result, benchmark.head(39), bars, NOW)


def test_the_same_backtest_gives_the_same_tables_whatever_the_order_of_bars():
    result, benchmark, bars = make_backtest()
    again = analysis.tables(replace(result), benchmark, bars.reverse(), NOW)
    for table, frame in analysis.tables(result, benchmark, bars, NOW).items():
        assert frame.equals(again[table])
