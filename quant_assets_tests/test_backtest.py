"""The backtest engine and its measures: exact answers on tiny markets, rules on random ones."""

import doctest
import math
import subprocess
import sys
from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quant_assets.backtest import metrics
from quant_assets.backtest.engine import BacktestConfig, BacktestResult, buy_and_hold, run
from quant_assets.contracts import backtest_equity, backtest_summary, backtest_symbols, backtest_trades
from quant_assets.core.costs import Costs
from quant_assets.core.errors import ConfigError, DataError

FREE = Costs(0, 0)
DAYS = [date(2024, 1, 2) + timedelta(n) for n in range(40)]


def make_bars(closes, opens=None):
    """Bars from {symbol: [close or None per session]}; opens default to the closes."""
    opens = opens or {}
    rows = [
        (symbol, DAYS[n], float(opens.get(symbol, prices)[n]), float(close))
        for symbol, prices in closes.items()
        for n, close in enumerate(prices)
        if close is not None
    ]
    return pl.DataFrame(
        rows, schema={"symbol": pl.String, "ts": pl.Date, "open": pl.Float64, "close": pl.Float64}, orient="row"
    )


def make_targets(weights):
    """Targets from {session number: {symbol: weight}}; a session with no symbol is one row of weight 0."""
    rows = [
        (DAYS[0] + timedelta(n), symbol, float(weight))
        for n, row in weights.items()
        for symbol, weight in (row or {"A": 0.0}).items()
    ]
    return pl.DataFrame(rows, schema={"asof": pl.Date, "symbol": pl.String, "weight": pl.Float64}, orient="row")


def simulate(
    closes, weights, costs=FREE, cash=1000.0, price="close", opens=None, first=0, last=None, **settings
) -> BacktestResult:
    last = len(next(iter(closes.values()))) if last is None else last
    config = BacktestConfig("s", "1.0.0", cash, costs, price, **settings)
    return run(make_bars(closes, opens), make_targets(weights), DAYS[first:last], config)


def equity_of(result):
    return result.equity["equity"].to_list()


# --- simulation ---------------------------------------------------------------------------------------------------


def test_a_full_position_follows_its_price():
    result = simulate({"A": [10, 11, 12]}, {0: {"A": 1.0}})
    assert equity_of(result) == [1000.0, 1100.0, 1200.0]
    assert result.equity["ret"].to_list() == pytest.approx([0.0, 0.1, 1200 / 1100 - 1])


def test_fees_and_slippage_are_paid_on_both_sides():
    result = simulate({"A": [10, 20, 20]}, {0: {"A": 0.5}, 1: {}}, Costs(100, 200))
    bought = 500 / 10
    paid = bought * 10.2
    got = bought * 20 * 0.98
    assert equity_of(result)[-1] == pytest.approx(1000 - paid * 1.01 + got * 0.99)
    trade = result.trades.row(0, named=True)
    assert trade["entry_price"] == pytest.approx(10.2)
    assert trade["exit_price"] == pytest.approx(19.6)
    assert trade["fees"] == pytest.approx(paid * 0.01 + got * 0.01)
    assert trade["slippage_est"] == pytest.approx(bought * 0.2 + bought * 0.4)
    assert trade["pnl"] == pytest.approx(equity_of(result)[-1] - 1000)
    assert trade["pnl_pct"] == pytest.approx(trade["pnl"] / paid)
    assert (trade["reason"], trade["side"], trade["exit_ts"]) == ("rebalance", "long", DAYS[1])


def test_slippage_of_a_short_is_the_money_lost_against_the_unslipped_prices():
    result = simulate({"A": [10, 8]}, {0: {"A": -0.5}, 1: {}}, Costs(0, 100))
    trade = result.trades.row(0, named=True)
    assert trade["side"] == "short"
    assert trade["entry_price"] == pytest.approx(9.9)
    assert trade["exit_price"] == pytest.approx(8.08)
    assert trade["slippage_est"] == pytest.approx(50 * 0.1 + 50 * 0.08)
    assert trade["pnl"] == pytest.approx(50 * (9.9 - 8.08))


def test_sells_release_the_cash_that_buys_need():
    result = simulate({"A": [10, 10, 10], "Z": [10, 10, 20]}, {0: {"A": 1.0}, 1: {"Z": 1.0}})
    assert equity_of(result) == [1000.0, 1000.0, 2000.0]
    result = simulate({"A": [10, 10, 20], "Z": [10, 10, 10]}, {0: {"Z": 1.0}, 1: {"A": 1.0}})
    assert equity_of(result) == [1000.0, 1000.0, 2000.0]


def test_a_symbol_missing_on_a_rebalance_date_is_sold():
    result = simulate({"A": [10, 10, 20], "B": [5, 5, 5]}, {0: {"A": 0.5, "B": 0.5}, 1: {"B": 0.5}})
    assert equity_of(result)[-1] == pytest.approx(1000.0)


def test_a_candidate_that_is_not_approved_has_no_weight():
    bars = make_bars({"A": [10, 20], "B": [10, 30]})
    targets = make_targets({0: {"A": 0.5, "B": 0.5}}).with_columns(approved=pl.Series([True, False]))
    result = run(bars, targets, DAYS[:2], BacktestConfig("s", "1", 1000, FREE))
    assert equity_of(result)[-1] == pytest.approx(1500)
    assert result.symbols["symbol"].to_list() == ["A"]


def test_a_symbol_that_lists_late_costs_the_others_nothing():
    alone = simulate({"A": [10, 11, 12, 13]}, {0: {"A": 0.5}, 2: {"A": 0.5}}, Costs(2, 10))
    late = simulate({"A": [10, 11, 12, 13], "B": [None, None, None, 7]}, {0: {"A": 0.5}, 2: {"A": 0.5}}, Costs(2, 10))
    assert_frame_equal(alone.equity, late.equity)
    assert_frame_equal(alone.trades, late.trades)


def test_a_weight_before_listing_is_reported_and_left_in_cash():
    result = simulate({"A": [10, 20, 20], "B": [None, 5, 10]}, {0: {"A": 0.5, "B": 0.5}})
    assert equity_of(result) == [1000.0, 1500.0, 1500.0]
    assert result.unfilled.rows() == [(DAYS[0], "B", 0.5)]


def test_a_symbol_can_be_bought_on_its_first_session():
    result = simulate({"A": [10, 10, 10], "B": [None, 5, 10]}, {0: {"A": 1.0}, 1: {"B": 1.0}})
    assert equity_of(result) == [1000.0, 1000.0, 2000.0]


def test_a_position_whose_symbol_ends_is_closed_at_its_last_price_on_the_next_session():
    result = simulate({"A": [10, 12, None, None], "B": [5, 5, 5, 5]}, {0: {"A": 0.5, "B": 0.5}})
    assert equity_of(result) == pytest.approx([1000, 1100, 1100, 1100])
    ended = result.trades.filter(symbol="A").row(0, named=True)
    assert (ended["exit_ts"], ended["exit_price"], ended["reason"]) == (DAYS[2], 12.0, "end of data")
    assert result.equity["gross_exposure"].to_list()[2] == pytest.approx(500 / 1100)


def test_the_cash_of_an_ended_symbol_can_be_spent_on_a_rebalance_of_the_same_session():
    result = simulate({"A": [10, 12, None, None], "B": [5, 5, 5, 10]}, {0: {"A": 1.0}, 2: {"A": 0.5, "B": 0.5}})
    assert equity_of(result) == pytest.approx([1000, 1200, 1200, 1800])
    assert result.trades["reason"].to_list() == ["end of data", "open"]
    assert result.unfilled.rows() == [(DAYS[2], "A", 0.5)]


def test_a_symbol_whose_bars_go_on_after_the_period_has_not_ended():
    result = simulate({"A": [10, 12, None, 14]}, {0: {"A": 1.0}}, last=3)
    assert equity_of(result) == pytest.approx([1000, 1200, 1200])
    assert result.trades["reason"].to_list() == ["open"]


def test_a_missing_bar_keeps_the_last_value_and_lets_no_order_through():
    closes = {"A": [10, 12, None, 15], "B": [10, 10, 10, 10]}
    result = simulate(closes, {0: {"A": 0.5, "B": 0.5}, 2: {"B": 0.5}})
    assert equity_of(result) == pytest.approx([1000, 1100, 1100, 1250])
    assert result.trades.filter(symbol="A")["reason"].to_list() == ["open"]


def test_next_close_fills_one_session_later():
    result = simulate({"A": [10, 20, 40]}, {0: {"A": 1.0}}, price="next_close")
    assert equity_of(result) == [1000.0, 1000.0, 2000.0]
    assert result.trades["entry_ts"].to_list() == [DAYS[1]]


def test_next_open_fills_at_the_open_one_session_later():
    result = simulate({"A": [10, 20, 40]}, {0: {"A": 1.0}}, price="next_open", opens={"A": [9, 16, 30]})
    assert equity_of(result) == pytest.approx([1000, 1250, 2500])
    assert result.trades["entry_price"].to_list() == [16.0]


def test_orders_at_the_open_are_sized_with_prices_of_that_open():
    opens = {"A": [10, 20, 20], "B": [10, 10, 10]}
    result = simulate(
        {"A": [10, 10, 20], "B": [10, 10, 10]}, {-1: {"A": 1.0}, 0: {"B": 1.0}}, price="next_open", opens=opens
    )
    assert equity_of(result) == pytest.approx([1000, 2000, 2000])


@pytest.mark.parametrize("price", ["next_open", "next_close"])
def test_a_target_of_the_last_session_fills_after_the_period_and_so_not(price):
    assert simulate({"A": [10, 20]}, {1: {"A": 1.0}}, price=price).trades.is_empty()


@pytest.mark.parametrize("price", ["close", "next_open", "next_close"])
def test_the_latest_target_before_the_period_applies_on_its_first_session(price):
    closes = {"A": [10, 10, 10, 20], "B": [10, 10, 10, 30]}
    result = simulate(closes, {-9: {"A": 1.0}, 1: {"B": 1.0}}, price=price, first=2)
    assert equity_of(result) == pytest.approx([1000, 3000])


def test_a_target_between_sessions_fills_on_the_next_one():
    bars = make_bars({"A": [10, 99, 10, 20]})
    sessions = [DAYS[0], DAYS[2], DAYS[3]]
    result = run(bars, make_targets({1: {"A": 1.0}}), sessions, BacktestConfig("s", "1", 1000, FREE))
    assert equity_of(result) == pytest.approx([1000, 1000, 2000])


def test_a_partial_sell_is_a_trade_of_its_own_at_the_average_entry_price():
    result = simulate({"A": [10, 20, 20, 40]}, {0: {"A": 1.0}, 1: {"A": 0.5}, 3: {}})
    assert result.trades.select("trade_no", "qty", "entry_price", "exit_price", "pnl").rows() == [
        (0, 50.0, 10.0, 20.0, 500.0),
        (1, 50.0, 10.0, 40.0, 1500.0),
    ]


def test_an_open_position_is_a_trade_without_exit_date_marked_at_the_last_close():
    trade = simulate({"A": [10, 20]}, {0: {"A": 1.0}}, Costs(0, 100)).trades.row(0, named=True)
    assert trade["exit_ts"] is None
    assert (trade["exit_price"], trade["reason"]) == (20.0, "open")
    assert trade["slippage_est"] == pytest.approx(trade["qty"] * 0.1)


def test_without_targets_the_cash_stays_and_measures_are_undefined():
    result = simulate({"A": [10, 20]}, {})
    assert equity_of(result) == [1000.0, 1000.0]
    assert result.trades.is_empty()
    assert result.symbols.is_empty()
    undefined = ("sharpe", "sortino", "calmar", "win_rate", "avg_trade", "profit_factor")
    assert [result.summary[name] for name in undefined] == [None] * 6
    assert (result.summary["cagr"], result.summary["max_dd"], result.summary["turnover"]) == (0.0, 0.0, 0.0)


def test_turnover_is_one_way_and_per_year():
    result = simulate({"A": [10] * 4, "B": [10] * 4}, {0: {"A": 1.0}, 2: {"B": 1.0}})
    assert result.equity["turnover"].to_list() == [0.5, 0.0, 1.0, 0.0]
    assert result.summary["turnover"] == pytest.approx(1.5 / 4 * 252)
    assert result.symbols["turnover"].to_list() == pytest.approx([1.0 / 4 * 252, 0.5 / 4 * 252])


def test_the_symbol_table_splits_the_profit():
    result = simulate({"A": [10, 12, 12], "B": [10, 10, 5]}, {0: {"A": 0.5, "B": 0.5}, 2: {}})
    rows = {row["symbol"]: row for row in result.symbols.iter_rows(named=True)}
    assert rows["A"]["contribution"] == pytest.approx(0.1)
    assert rows["B"]["contribution"] == pytest.approx(-0.25)
    assert rows["B"]["max_dd"] == pytest.approx(-0.25)
    assert rows["A"]["num_trades"] == 1
    assert rows["A"]["mean_weight"] == pytest.approx((0.5 + 600 / 1100 + 0) / 3)
    assert rows["A"]["sharpe"] == pytest.approx(metrics.sharpe(np.array([0, 0.1, 0])))


def test_weights_are_shares_of_equity_at_the_close():
    result = simulate({"A": [10, 12], "B": [10, 10]}, {0: {"A": 0.5, "B": 0.5}})
    assert result.weights.rows()[2:] == [(DAYS[1], "A", 600 / 1100), (DAYS[1], "B", 500 / 1100)]


def test_the_summary_agrees_with_the_measures_of_its_own_tables():
    result = simulate({"A": [10, 12, 9, 11], "B": [10, 9, 9, 10]}, {0: {"A": 0.6, "B": 0.4}, 2: {"A": 1.0}, 3: {}})
    returns = result.equity["ret"].to_numpy()
    pnl = result.trades["pnl"].to_numpy()
    summary = result.summary
    assert summary["sharpe"] == pytest.approx(metrics.sharpe(returns))
    assert summary["max_dd"] == result.equity["drawdown"].min()
    assert summary["calmar"] == pytest.approx(summary["cagr"] / -summary["max_dd"])
    assert (summary["win_rate"], summary["profit_factor"]) == (metrics.win_rate(pnl), metrics.profit_factor(pnl))
    assert (summary["from_ts"], summary["to_ts"], summary["num_trades"]) == (DAYS[0], DAYS[3], len(pnl))


def test_rows_in_any_order_give_the_same_bits():
    closes = {name: [10 + (n * seed) % 7 for n in range(20)] for seed, name in enumerate("ABCD", start=1)}
    bars = make_bars(closes)
    targets = make_targets({n: dict.fromkeys("DCBA", 0.25) for n in range(0, 20, 3)})
    config = BacktestConfig("s", "1", 1000, Costs(2, 10))
    one = run(bars, targets, DAYS[:20], config)
    other = run(bars.sample(fraction=1, shuffle=True, seed=1), targets.reverse(), DAYS[:20][::-1], config)
    assert one.summary == other.summary
    for table in ("trades", "equity", "symbols", "weights"):
        assert getattr(one, table).equals(getattr(other, table))


@pytest.mark.slow
def test_orders_are_those_of_a_vectorbt_simulation_of_every_session():
    import pandas as pd
    import vectorbt as vbt

    rng = np.random.default_rng(7)
    closes = 50 * np.exp(np.cumsum(rng.normal(0, 0.03, (40, 6)), axis=0))
    size = np.full((40, 6), np.nan)
    size[::4] = rng.dirichlet(np.ones(6), 10)
    names = list("ABCDEF")
    whole = vbt.Portfolio.from_orders(
        pd.DataFrame(closes),
        size=size,
        size_type="targetpercent",
        price=closes,
        val_price=closes,
        fees=0.0002,
        slippage=0.001,
        init_cash=1000.0,
        cash_sharing=True,
        group_by=True,
        call_seq="auto",
    )
    result = simulate(
        {name: closes[:, n].tolist() for n, name in enumerate(names)},
        {n: dict(zip(names, size[n], strict=True)) for n in range(0, 40, 4)},
        Costs(2, 10),
    )
    expected = whole.exit_trades.records_arr
    assert len(expected) == result.trades.height > 30
    assert result.trades["pnl"].sum() == pytest.approx(expected["pnl"].sum(), rel=1e-12)
    assert sorted(result.trades["qty"].to_list()) == sorted(expected["size"].tolist())
    orders = whole.orders.records_arr
    sign = np.where(orders["side"] == 0, 1.0, -1.0)
    cash = 1000.0 - np.sum(sign * orders["size"] * orders["price"] + orders["fees"])
    held = np.bincount(orders["col"], weights=sign * orders["size"], minlength=6)
    assert result.summary["final_equity"] == pytest.approx(cash + held @ closes[-1], rel=1e-12)


@st.composite
def markets(draw):
    sessions = draw(st.integers(2, 14))
    closes = {}
    for name in "ABC"[: draw(st.integers(1, 3))]:
        first = draw(st.integers(0, sessions - 1))
        last = draw(st.integers(first, sessions - 1))
        prices = draw(st.lists(st.floats(5, 20), min_size=sessions, max_size=sessions))
        gap = draw(st.integers(0, sessions))
        closes[name] = [p if first <= n <= last and n != gap else None for n, p in enumerate(prices)]
    rebalances = draw(st.lists(st.integers(-1, sessions - 1), max_size=5, unique=True))
    weight = st.floats(draw(st.sampled_from([0.0, -0.1])), 0.33)
    weights = {n: {name: draw(weight) for name in closes} for n in rebalances}
    costs = Costs(draw(st.sampled_from([0, 2, 50])), draw(st.sampled_from([0, 10, 100])))
    return closes, weights, costs, draw(st.sampled_from(["close", "next_open", "next_close"]))


@settings(max_examples=80, deadline=None)
@given(markets())
def test_profit_is_accounted_for_whatever_lists_late_ends_early_or_pauses(market):
    closes, weights, costs, price = market
    result = simulate(closes, weights, costs, price=price)
    summary = result.summary
    earned = summary["final_equity"] - summary["initial_cash"]
    assert result.trades["pnl"].sum() == pytest.approx(earned, rel=1e-6, abs=1e-6)
    assert result.symbols["contribution"].sum() == pytest.approx(earned / 1000, rel=1e-6, abs=1e-9)
    assert np.prod(1 + result.equity["ret"].to_numpy()) == pytest.approx(summary["final_equity"] / 1000)
    held = result.weights.group_by("ts").agg(pl.col("weight").abs().sum())
    both = result.equity.join(held, on="ts", how="left").with_columns(pl.col("weight").fill_null(0))
    assert both["gross_exposure"].to_list() == pytest.approx(both["weight"].to_list())
    for table, frame in (
        (backtest_equity.TABLE, result.equity),
        (backtest_trades.TABLE, result.trades),
        (backtest_symbols.TABLE, result.symbols),
    ):
        assert [(c.name, c.polars) for c in table.columns] == list(frame.schema.items())
        for rule in table.rules:
            assert frame.filter(~rule.expr).is_empty(), rule.name
    assert list(summary) == [c.name for c in backtest_summary.TABLE.columns if c.name not in ("created_at", "trial_id")]
    assert all(math.isfinite(v) for v in summary.values() if isinstance(v, float))


@settings(max_examples=25, deadline=None)
@given(markets(), st.integers(1, 5))
def test_equity_so_far_does_not_change_when_the_future_is_deleted(market, kept):
    closes, weights, costs, price = market
    whole = simulate(closes, weights, costs, price=price)
    bars = make_bars(closes)
    config = BacktestConfig("s", "1.0.0", 1000.0, costs, price)
    sessions = DAYS[: whole.equity.height][:kept]
    part = run(bars, make_targets(weights), sessions, config)
    assert_frame_equal(part.equity, whole.equity.head(len(sessions)))


TABLES = ("trades", "equity", "symbols", "weights", "unfilled")


def assert_same_tables(one, other):
    for table in TABLES:
        assert_frame_equal(getattr(one, table), getattr(other, table), rel_tol=1e-10, abs_tol=1e-9)
    assert one.summary.keys() == other.summary.keys()
    for name, value in one.summary.items():
        expected = pytest.approx(value, rel=1e-8, abs=1e-9) if isinstance(value, float) else value
        assert other.summary[name] == expected, name


@settings(max_examples=40, deadline=None)
@given(markets(), st.sampled_from([{}, {"stop_loss": 0.05, "threshold": 0.02}, {"hedge_drawdown": 0.01}]))
def test_both_engines_leave_the_same_tables(market, rules):
    closes, weights, costs, price = market
    ours = simulate(closes, weights, costs, price=price, **rules)
    assert_same_tables(ours, simulate(closes, weights, costs, price=price, engine="vectorbt", **rules))


def test_a_stopped_position_names_its_stop_and_is_not_unfilled():
    bars = make_bars({"A": [100, 80, 90, 90]})
    for engine in ("kernel", "vectorbt"):
        config = BacktestConfig("s", "1", 1000, FREE, engine=engine, stop_loss=0.1)
        result = run(bars, make_targets({0: {"A": 1.0}, 2: {"A": 1.0}}), DAYS[:4], config)
        assert result.trades.select("reason", "exit_ts", "exit_price").rows() == [("stop loss", DAYS[1], 80.0)]
        assert result.unfilled.is_empty()


def test_costs_are_broken_down_by_symbol_as_shares_of_the_initial_cash():
    closes = {"A": [10, 10, 20], "B": [10, 10, 10]}
    weights = {0: {"A": 0.5, "B": -0.25}, 2: {"A": 0.0, "B": -0.25}}
    result = simulate(closes, weights, Costs(100, 200, funding_bps_per_day=10))
    costs = {row["symbol"]: row for row in result.symbols.iter_rows(named=True)}
    sold = 50 * 20 * 0.98
    assert costs["A"]["fees"] == pytest.approx((50 * 10.2 + sold) * 0.01 / 1000)
    assert costs["A"]["slippage"] == pytest.approx((50 * 0.2 + 50 * 0.4) / 1000)
    assert costs["A"]["funding"] == pytest.approx(0.001 * (500 + 500) / 1000)
    assert costs["B"]["funding"] == pytest.approx(-0.001 * (250 + 250) / 1000)
    earned = result.summary["final_equity"] - 1000
    assert result.symbols["contribution"].sum() == pytest.approx(earned / 1000)
    assert result.trades["pnl"].sum() == pytest.approx(earned + 0.5)


def test_a_year_of_365_sessions_scales_the_measures():
    closes = {"A": [10, 12, 9, 11]}
    summary = simulate(closes, {0: {"A": 1.0}}).summary
    always = simulate(closes, {0: {"A": 1.0}}, year=365).summary
    assert always["sharpe"] == pytest.approx(summary["sharpe"] * math.sqrt(365 / 252))
    assert always["turnover"] == pytest.approx(summary["turnover"] * 365 / 252)
    assert always["cagr"] == pytest.approx(1.1 ** (365 / 4) - 1)


def test_loading_the_engine_loads_neither_numba_nor_vectorbt():
    code = "import sys, quant_assets.backtest.engine; sys.exit(bool({'numba', 'vectorbt'} & {*sys.modules}))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# --- refusals -----------------------------------------------------------------------------------------------------


def test_a_duplicate_bar_is_refused_by_symbol_and_date():
    bars = make_bars({"A": [10, 11]})
    with pytest.raises(DataError, match="two bars for A on 2024-01-02"):
        run(pl.concat([bars, bars]), make_targets({0: {"A": 1}}), DAYS[:2], BacktestConfig("s", "1"))


def test_a_duplicate_target_is_refused():
    targets = make_targets({0: {"A": 1}})
    with pytest.raises(DataError, match="two targets for A on 2024-01-02"):
        run(make_bars({"A": [10]}), pl.concat([targets, targets]), DAYS[:1], BacktestConfig("s", "1"))


@pytest.mark.parametrize("price", [0.0, -1.0, math.nan, math.inf])
def test_a_price_that_is_no_positive_number_is_refused(price):
    with pytest.raises(DataError, match="A on 2024-01-03"):
        simulate({"A": [10, price, 11]}, {0: {"A": 1}})


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_a_weight_that_is_not_finite_is_refused(weight):
    with pytest.raises(DataError, match="weight of A on 2024-01-02"):
        simulate({"A": [10, 11]}, {0: {"A": weight}})


def test_targets_that_use_up_the_equity_are_refused_with_the_day():
    with pytest.raises(DataError, match=r"equity falls to .* on 2024-01-03.*gross exposure"):
        simulate({"A": [10, 40, 40]}, {0: {"A": -1.0}})


def test_a_period_without_sessions_and_unusable_settings_are_refused():
    with pytest.raises(ConfigError, match="no session"):
        run(make_bars({"A": [10]}), make_targets({}), [], BacktestConfig("s", "1"))
    with pytest.raises(ConfigError, match="initial_cash is 0"):
        BacktestConfig("s", "1", initial_cash=0)
    with pytest.raises(ConfigError, match="'open' is unknown"):
        BacktestConfig("s", "1", price="open")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="'zipline' is unknown; use one of kernel, vectorbt"):
        BacktestConfig("s", "1", engine="zipline")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"stop_loss is 1\.5; it must lie in \[0, 1\)"):
        BacktestConfig("s", "1", stop_loss=1.5)


@pytest.mark.parametrize("settings", [{"leverage": 2.0}, {"costs": Costs(funding_bps_per_day=1)}])
def test_vectorbt_refuses_what_it_does_not_know(settings):
    with pytest.raises(ConfigError, match=r"vectorbt knows neither leverage nor funding .*use engine: kernel"):
        BacktestConfig("s", "1", engine="vectorbt", **settings)


@pytest.mark.parametrize("value", [math.nan, 10_000.0, -10_000.0])
def test_funding_out_of_range_is_refused(value):
    with pytest.raises(ValueError, match="funding_bps_per_day is"):
        Costs(funding_bps_per_day=value)


# --- benchmark ----------------------------------------------------------------------------------------------------


def test_the_benchmark_holds_equal_amounts_and_waits_in_cash_for_late_listings():
    bars = make_bars({"A": [10, 20, 20, 20], "B": [None, 5, 10, None]})
    assert buy_and_hold(bars, DAYS[:4], 100.0)["equity"].to_list() == [100.0, 150.0, 200.0, 200.0]


def test_the_benchmark_of_nothing_is_cash():
    assert buy_and_hold(make_bars({}), DAYS[:2], 100.0)["equity"].to_list() == [100.0, 100.0]


# --- measures -----------------------------------------------------------------------------------------------------


def test_every_example_in_the_measures_is_true():
    assert doctest.testmod(metrics).failed == 0


def test_two_years_of_ten_per_cent_compound():
    assert metrics.cagr(1.21, 504) == pytest.approx(0.10)
    assert metrics.cagr(0.0, 10) == -1.0
    assert metrics.cagr(1e9, 1) is None


def test_sortino_counts_only_losses_but_over_all_sessions():
    returns = np.array([0.02, -0.01, 0.03, -0.02])
    downside = math.sqrt((0.01**2 + 0.02**2) / 4)
    assert metrics.sortino(returns) == pytest.approx(0.005 / downside * math.sqrt(252))
    assert metrics.sortino(np.array([0.01, 0.02])) is None


def test_returns_without_spread_have_no_sharpe():
    assert metrics.sharpe(np.full(10, 0.01)) is None
    assert metrics.sharpe(np.array([0.01])) is None
    assert metrics.volatility(np.array([0.01])) is None


def test_drawdowns_start_at_the_initial_cash():
    assert metrics.drawdowns(np.array([90.0, 120.0, 60.0]), 100.0).tolist() == pytest.approx([-0.1, 0.0, -0.5])


def test_trades_without_a_loss_have_no_profit_factor():
    assert metrics.profit_factor(np.array([1.0, 2.0])) is None
    assert metrics.profit_factor(np.array([])) is None
    assert metrics.win_rate(np.array([])) is None


def test_worst_drawdowns_name_peak_trough_and_recovery():
    equity = np.array([100.0, 90.0, 80.0, 100.0, 99.0, 110.0, 50.0])
    worst, second, third = metrics.worst_drawdowns(DAYS[:7], equity, 100.0)
    assert (worst.peak, worst.trough, worst.end, worst.sessions) == (DAYS[5], DAYS[6], None, 1)
    assert (second.peak, second.trough, second.end, second.sessions) == (DAYS[0], DAYS[2], DAYS[3], 2)
    assert third.depth == pytest.approx(-0.01)


def test_months_compound_to_their_year():
    days = [date(2023, 12, 29), date(2024, 1, 31), date(2024, 2, 28), date(2024, 2, 29)]
    months = metrics.monthly_returns(days, np.array([110.0, 121.0, 5.0, 60.5]), 100.0)
    assert {key: round(value, 9) for key, value in months.items()} == {
        (2023, 0): 0.1,
        (2023, 12): 0.1,
        (2024, 0): -0.45,
        (2024, 1): 0.1,
        (2024, 2): -0.5,
    }


def test_measures_of_many_curves_are_those_of_each():
    rng = np.random.default_rng(1)
    curves = 100 * np.exp(np.cumsum(rng.normal(0, 0.02, (50, 300)), axis=1))
    curves[3], curves[4] = 100.0, np.linspace(100, 200, 300)
    found = metrics.measures(curves, 100.0, 365)
    for number, curve in enumerate(curves):
        returns = metrics.returns_of(curve, 100.0)
        growth, worst = metrics.cagr(curve[-1] / 100, 300, 365), metrics.drawdowns(curve, 100.0).min()
        expected = {
            "cagr": growth,
            "sharpe": metrics.sharpe(returns, 365),
            "sortino": metrics.sortino(returns, 365),
            "calmar": metrics.calmar(growth, worst),
            "max_dd": worst,
            "vol": metrics.volatility(returns, 365),
        }
        assert {
            name: None if np.isnan(values[number]) else values[number] for name, values in found.items()
        } == expected


def test_rolling_sharpe_is_the_sharpe_of_each_window():
    returns = np.array([0.01, -0.02, 0.03, 0.0, 0.0])
    rolled = metrics.rolling_sharpe(returns, 3)
    assert rolled.tolist() == pytest.approx([metrics.sharpe(returns[n : n + 3]) for n in range(3)])
    assert metrics.rolling_sharpe(returns, 6).size == 0
