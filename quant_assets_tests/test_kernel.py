"""The portfolio kernel: path rules worked by hand bar by bar, vectorbt's trades on random markets, many as one."""

import doctest
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numba
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant_assets.backtest import kernel, metrics, simulation
from quant_assets.backtest.simulation import REASONS, Mechanics, simulate, simulate_many
from quant_assets.core.errors import ConfigError, DataError
from quant_assets.core.matrices import Matrices


def panel(bars, days=None):
    """One symbol from rows of (open, high, low, close)."""
    columns = np.array(bars, dtype=float).T
    days = np.arange(len(bars)).astype("datetime64[D]") if days is None else np.array(days, dtype="datetime64[D]")
    opens, highs, lows, closes = (np.ascontiguousarray(column[:, None]) for column in columns)
    return Matrices(days, ("A",), opens, highs, lows, closes, closes * 0, np.array([len(bars) - 1]))


def flat(closes):
    """Bars without a range: open, high, low and close are one price."""
    return panel([(close,) * 4 for close in closes])


def one(prices, targets, mechanics, cash=1000.0):
    """Simulate {session: weight} of one symbol."""
    rows = np.array(sorted(targets))
    return simulate(prices, rows, np.array([[targets[row]] for row in sorted(targets)]), cash, mechanics)


def fills_of(done):
    return [
        (int(fill["row"]), round(float(fill["shares"]), 9), round(float(fill["price"]), 9), REASONS[fill["reason"]])
        for fill in done.fills
    ]


# --- stops --------------------------------------------------------------------------------------------------------


def test_a_stop_loss_follows_the_path_bar_by_bar():
    prices = panel(
        [
            (100, 100, 100, 100),  # buy 10 shares at the close: the level is 90
            (101, 103, 99, 102),
            (102, 104, 95, 96),
            (96, 97, 89, 93),  # the low reaches 90: sold there, 900 in cash
            (93, 111, 92, 110),  # the target is still 1: stays flat
            (110, 112, 100, 101),  # the target is 0 once: armed again
            (101, 102, 99, 100),  # buy 9 shares: the level is 90
            (80, 85, 79, 84),  # the open is past 90: sold at 80, 720 in cash
            (84, 84, 70, 72),  # the target has changed sign: sell 10 short, the level is 79.2
            (73, 79, 72, 78),
            (78, 80, 70, 71),  # the high reaches 79.2: bought back there
            (71, 72, 70, 70),
        ]
    )
    done = one(prices, {0: 1.0, 4: 1.0, 5: 0.0, 6: 1.0, 8: -1.0}, Mechanics(stop_loss=0.1))
    assert fills_of(done) == [
        (0, 10.0, 100.0, "rebalance"),
        (3, -10.0, 90.0, "stop loss"),
        (6, 9.0, 100.0, "rebalance"),
        (7, -9.0, 80.0, "stop loss"),
        (8, -10.0, 72.0, "rebalance"),
        (10, 10.0, 79.2, "stop loss"),
    ]
    cash = [900.0, 900.0, 900.0, 900.0, 720.0, 720.0, 720.0 - 10 * 6, 720.0 - 10 * 7.2, 720.0 - 10 * 7.2]
    assert done.equity.tolist() == pytest.approx([1000.0, 1020.0, 960.0, *cash])
    assert done.trades["pnl"].tolist() == pytest.approx([-100.0, -180.0, -72.0])
    assert np.isnan(done.placed[1, 0])


def test_a_trailing_stop_follows_the_highest_price_of_a_long_and_the_lowest_of_a_short():
    prices = panel(
        [
            (100, 100, 100, 100),  # buy 10
            (100, 120, 95, 118),  # best before its low: 100, so the level is 90
            (119, 125, 110, 124),  # best 120, level 108
            (124, 126, 111, 112),  # best 125, level 112.5: sold there, 1125 in cash
            (112, 112, 99, 100),  # sell 11.25 short
            (98, 101, 80, 82),  # best 98, level 107.8
            (85, 87, 84, 86),  # best 80, level 88
            (90, 95, 89, 94),  # the open is past 88: bought back at 90
            (94, 95, 93, 94),  # the target is still -1: stays flat
            (94, 95, 93, 94),  # buy
            (150, 160, 140, 145),  # the open is the best before the low: level 135
            (145, 146, 144, 145),  # best 160, level 144: sold there
        ]
    )
    done = one(prices, {0: 1.0, 4: -1.0, 8: -1.0, 9: 1.0}, Mechanics(trailing_stop=0.1))
    assert [fill[0::2] for fill in fills_of(done)] == [(0, 100), (3, 112.5), (4, 100), (7, 90), (9, 94), (11, 144)]
    assert [fill[3] for fill in fills_of(done)[1::2]] == ["trailing stop"] * 3
    assert done.equity[[3, 7]].tolist() == pytest.approx([1125.0, 1125.0 + 11.25 * 10])


def test_the_nearer_of_two_stops_names_the_trade():
    prices = panel([(100,) * 4, (100, 101, 100, 101), (101, 101, 94, 95), (95,) * 4])
    assert fills_of(one(prices, {0: 1.0}, Mechanics(stop_loss=0.05, trailing_stop=0.2)))[1][2:] == (95, "stop loss")
    assert fills_of(one(prices, {0: 1.0}, Mechanics(stop_loss=0.2, trailing_stop=0.05)))[1][2:] == (
        pytest.approx(95.95),
        "trailing stop",
    )


def test_a_stop_pays_slippage_and_fee_on_top_of_its_level():
    prices = panel([(100,) * 4, (100, 100, 80, 85)])
    done = one(prices, {0: 0.5}, Mechanics(fee=0.01, slippage=0.02, stop_loss=0.1))
    bought = 5 * 102
    level = 102 * 0.9
    assert done.fills["price"].tolist() == pytest.approx([102, level * 0.98])
    assert done.equity[-1] == pytest.approx(1000 - bought * 1.01 + 5 * level * 0.98 * 0.99)


def test_a_position_entered_at_the_open_can_be_stopped_in_the_same_session_but_one_of_the_close_cannot():
    prices = panel([(100, 100, 100, 100), (100, 100, 85, 90), (90, 90, 90, 90)])
    rules = Mechanics(stop_loss=0.1)
    assert fills_of(one(prices, {0: 1.0}, replace(rules, price="next_open")))[1][:3] == (1, -10.0, 90.0)
    assert fills_of(one(prices, {0: 1.0}, replace(rules, price="next_close"))) == [
        (1, pytest.approx(1000 / 90), 90.0, "rebalance")
    ]


def test_a_stop_waits_while_there_is_no_bar():
    prices = panel([(100,) * 4, (np.nan,) * 4, (70, 75, 65, 72)])
    assert fills_of(one(prices, {0: 1.0}, Mechanics(stop_loss=0.1)))[1] == (2, -10.0, 70.0, "stop loss")


# --- threshold, hedge, funding, leverage --------------------------------------------------------------------------


def test_an_order_nearer_than_the_threshold_is_not_placed_except_to_zero():
    prices = flat([100, 120, 120, 120])
    done = one(prices, {0: 0.5, 1: 0.5, 2: 0.4, 3: 0.0}, Mechanics(threshold=0.1))
    assert fills_of(done) == [
        (0, 5.0, 100.0, "rebalance"),  # at 120 the weight is 600 / 1100, 4.5 % off: left alone
        (2, round(0.4 * 1100 / 120 - 5, 9), 120.0, "rebalance"),
        (3, round(-0.4 * 1100 / 120, 9), 120.0, "rebalance"),
    ]
    assert np.isnan(done.placed[:, 0]).tolist() == [False, True, False, False]
    small = one(prices, {0: 0.5, 1: 0.0}, Mechanics(threshold=0.4))
    assert fills_of(small)[1] == (1, -5.0, 120.0, "rebalance")


def test_a_hedge_is_short_only_while_the_equity_is_further_below_its_peak_than_allowed():
    closes = [100, 100, 95, 95, 88, 88, 80, 80]
    prices = Matrices(
        np.arange(8).astype("datetime64[D]"),
        ("A", "B"),
        *([np.array([closes, [10.0] * 8], dtype=float).T.copy()] * 4),
        np.zeros((8, 2)),
        np.array([7, 7]),
    )
    rows = np.array([0, 2, 4, 6])
    done = simulate(prices, rows, np.array([[1.0, -0.5]] * 4), 1000.0, Mechanics(hedge_drawdown=0.1))
    # Equity 1000, 950 (5 % down: no hedge), 880 (12 % down: hedged), 800 of A and a flat B: hedged still.
    assert done.placed[:, 1].tolist() == [0.0, 0.0, -0.5, -0.5]
    assert [(int(f["row"]), int(f["column"])) for f in done.fills if f["column"] == 1] == [(4, 1), (6, 1)]
    assert done.equity[:5].tolist() == pytest.approx([1000, 1000, 950, 950, 880])


def test_funding_is_paid_by_longs_and_received_by_shorts_for_every_calendar_day():
    days = ["2024-01-05", "2024-01-08", "2024-01-09"]  # Friday, Monday, Tuesday
    prices = panel([(100,) * 4, (110,) * 4, (110,) * 4], days)
    done = one(prices, {0: 0.5}, Mechanics(funding_per_day=0.01))
    assert done.equity.tolist() == pytest.approx([1000, 1050 - 0.01 * 3 * 500, 1035 - 0.01 * 550])
    assert done.outcomes.statistics["funding"][0] == pytest.approx(15 + 5.5)
    short = one(prices, {0: -0.5}, Mechanics(funding_per_day=0.01))
    assert short.equity.tolist() == pytest.approx([1000, 950 + 15, 965 + 5.5])


def test_leverage_lets_cash_go_below_zero_as_far_as_it_says():
    prices = flat([100, 110])
    assert one(prices, {0: 3.0}, Mechanics(leverage=3.0)).equity.tolist() == pytest.approx([1000, 1300])
    assert one(prices, {0: 3.0}, Mechanics(leverage=2.0)).equity.tolist() == pytest.approx([1000, 1200])
    assert one(prices, {0: 3.0}, Mechanics()).equity.tolist() == pytest.approx([1000, 1100])
    costly = one(prices, {0: 2.0}, Mechanics(leverage=2.0, fee=0.25))
    assert costly.fills["shares"].tolist() == pytest.approx([2000 / 1.25 / 100])
    assert costly.fills["fees"].tolist() == pytest.approx([400])


def test_leverage_of_one_is_the_simulation_without():
    prices, rows, weights = market(3)
    plain = simulate(prices, rows, weights, 1000.0, Mechanics(fee=0.001))
    assert (plain.equity == simulate(prices, rows, weights, 1000.0, Mechanics(fee=0.001, leverage=1.0)).equity).all()


@pytest.mark.parametrize(
    ("name", "value"),
    [("fee", 1.0), ("slippage", -0.1), ("leverage", 0.5), ("stop_loss", 1.0), ("threshold", np.nan), ("price", "now")],
)
def test_mechanics_out_of_range_are_refused_by_name(name, value):
    with pytest.raises(ConfigError, match=f"{value}"):
        Mechanics(**{name: value})


# --- against vectorbt ---------------------------------------------------------------------------------------------


def market(seed, sessions=60, symbols=8, every=3):
    """A market with gaps, a late listing and an end, and weights that lend and go short; every value distinct."""
    random = np.random.default_rng(seed)
    closes = 50 * np.exp(np.cumsum(random.normal(0, 0.03, (sessions, symbols)), axis=0))
    opens = closes * np.exp(random.normal(0, 0.01, closes.shape))
    missing = random.random(closes.shape) < 0.05
    missing[:7, 0] = missing[sessions // 2 :, 1] = True
    highs, lows = np.maximum(opens, closes) * 1.01, np.minimum(opens, closes) * 0.99
    opens, highs, lows, closes = (np.where(missing, np.nan, one) for one in (opens, highs, lows, closes))
    last = np.full(symbols, sessions - 1)
    last[1] = np.flatnonzero(~missing[:, 1])[-1]
    days = np.arange(sessions).astype("datetime64[D]")
    names = tuple(f"S{n}" for n in range(symbols))
    prices = Matrices(days, names, opens, highs, lows, closes, closes * 0, last)
    rows = np.arange(-1, sessions, every)
    return prices, rows, random.normal(0.1, 0.15, (len(rows), symbols))


@st.composite
def portfolios(draw):
    sessions, symbols = draw(st.integers(2, 14)), draw(st.integers(1, 5))
    shape = (sessions, symbols)
    number = st.floats(5, 20, width=32)
    opens, closes = (draw(arrays(np.float64, shape, elements=number)) for _ in range(2))
    wide = draw(st.sampled_from([1.0, 1.1]))
    bars = [opens, np.maximum(opens, closes) * wide, np.minimum(opens, closes) / wide, closes]
    missing = draw(arrays(np.bool_, shape, fill=st.just(False)))
    first = draw(arrays(np.int64, symbols, elements=st.integers(0, sessions // 2)))
    last = draw(arrays(np.int64, symbols, elements=st.integers(sessions // 2, sessions - 1)))
    row = np.arange(sessions)[:, None]
    missing |= (row < first) | (row > last)
    seen = np.where(missing, -1, row).max(axis=0)
    goes_on = draw(arrays(np.bool_, symbols))
    prices = Matrices(
        np.arange(sessions).astype("datetime64[D]"),
        tuple("ABCDE"[:symbols]),
        *(np.where(missing, np.nan, column) for column in bars),
        np.zeros(shape),
        np.where(goes_on, sessions - 1, seen),
    )
    rows = np.array(sorted(draw(st.sets(st.integers(-1, sessions - 1), min_size=1, max_size=8))))
    lowest = draw(st.sampled_from([0.0, -0.25]))
    weights = draw(arrays(np.float64, (len(rows), symbols), elements=st.floats(lowest, 0.625, width=32)))
    rule = st.sampled_from([None, 0.02, 0.1])
    return (prices, rows, weights), Mechanics(
        fee=draw(st.sampled_from([0.0, 0.0002, 0.01])),
        slippage=draw(st.sampled_from([0.0, 0.001])),
        threshold=draw(st.sampled_from([0.0, 0.05])),
        stop_loss=draw(rule),
        trailing_stop=draw(rule),
        hedge_drawdown=draw(rule),
        price=draw(st.sampled_from(simulation.PRICES)),
    )


def assert_same_records(ours, theirs):
    """Fills and trades one by one, equity and statistics: equal to 1e-10.

    Shares and money of one record to 1e-14 of all that was traded at least: each is a difference of such numbers.
    """
    shares, money = np.abs(ours.fills["shares"]).sum(), np.abs(ours.fills["shares"] * ours.fills["price"]).sum()
    rounding = {"shares": 1e-14 * shares, "fees": 1e-14 * money, "pnl": 1e-10, "ret": 1e-10}
    assert len(ours.fills) == len(theirs.fills)
    assert len(ours.trades) == len(theirs.trades)
    order = ["column", "exit_row", "entry_row", "reason", "side"]
    pairs = [(ours.fills, theirs.fills), (np.sort(ours.trades, order=order), np.sort(theirs.trades, order=order))]
    for mine, other in pairs:
        for name in mine.dtype.names:
            np.testing.assert_allclose(mine[name], other[name], rtol=1e-10, atol=rounding.get(name, 0), err_msg=name)
    np.testing.assert_allclose(ours.equity, theirs.equity, rtol=1e-10)
    for name, values in ours.outcomes.statistics.items():
        np.testing.assert_allclose(values, theirs.outcomes.statistics[name], rtol=1e-8, atol=1e-10, err_msg=name)


@settings(max_examples=60, deadline=None)
@pytest.mark.slow
@given(portfolios())
def test_the_kernel_trades_as_vectorbt_does(portfolio):
    from quant_assets.backtest import vectorbt_engine

    (prices, rows, weights), mechanics = portfolio
    ours = simulate(prices, rows, weights, 1000.0, mechanics)
    assume(ours.outcomes.ruined[0] < 0)
    assert_same_records(ours, vectorbt_engine.simulate(prices, rows, weights, 1000.0, mechanics))


@pytest.mark.parametrize("price", simulation.PRICES)
def test_eight_symbols_over_a_year_trade_as_in_vectorbt(price):
    from quant_assets.backtest import vectorbt_engine

    given = market(11, sessions=250)
    mechanics = Mechanics(0.0002, 0.001, stop_loss=0.08, trailing_stop=0.12, threshold=0.02, price=price)
    ours = simulate(*given, 1e5, mechanics)
    assert {REASONS[n] for n in ours.fills["reason"]} == {*REASONS} - {"open"}
    assert_same_records(ours, vectorbt_engine.simulate(*given, 1e5, mechanics))


def test_one_symbol_is_what_vectorbt_called_directly_makes_of_it():
    import pandas as pd
    import vectorbt as vbt

    random = np.random.default_rng(5)
    closes = 50 * np.exp(np.cumsum(random.normal(0, 0.02, 500)))
    rows = np.arange(0, 500, 5)
    weights = random.uniform(-0.5, 1.0, len(rows))
    size = np.full(500, np.nan)
    size[rows] = weights
    direct = vbt.Portfolio.from_orders(
        pd.Series(closes), size=size, size_type="targetpercent", fees=0.001, slippage=0.002, init_cash=1e4, freq="1D"
    )
    done = simulate(flat(closes), rows, weights[:, None], 1e4, Mechanics(0.001, 0.002))
    np.testing.assert_allclose(done.equity, direct.value().to_numpy(), rtol=1e-10)
    trades = direct.exit_trades.records_arr
    for ours, theirs in (("shares", "size"), ("entry_price", "entry_price"), ("exit_price", "exit_price")):
        np.testing.assert_allclose(done.trades[ours], trades[theirs], rtol=1e-10)
    np.testing.assert_allclose(done.trades["pnl"], trades["pnl"], rtol=1e-10, atol=1e-9)
    assert done.fills["row"].tolist() == direct.orders.records_arr["idx"].tolist()


def test_more_symbols_than_are_computed_at_once_trade_as_in_vectorbt():
    from quant_assets.backtest import vectorbt_engine

    prices, rows, weights = market(12, symbols=19)
    given = prices, rows, weights / 2, 1e5, Mechanics(0.0002, 0.001)
    assert_same_records(simulate(*given), vectorbt_engine.simulate(*given))


# --- orders at once -----------------------------------------------------------------------------------------------


@numba.njit
def rationed(book, sequence, cash, fee):
    count = kernel._sort(book, len(sequence), sequence)
    return kernel._ration(book, sequence, count, cash, 0.0, fee)


amounts = st.floats(0.01, 1e6)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([-1.0, 1.0]), amounts), min_size=1, max_size=12),
    st.floats(0, 1) | st.floats(0, 1e-8),
    st.sampled_from([0.0, 0.001, 0.1]),
)
def test_orders_that_cash_covers_are_not_cut_in_any_sequence(orders, spare, fee):
    book = np.zeros(-(-len(orders) // kernel.LANES) * kernel.FIELDS * kernel.LANES)
    tiles = book.reshape(-1, kernel.FIELDS, kernel.LANES)
    for column, (side, amount) in enumerate(orders):
        order = tiles[column // kernel.LANES, :, column % kernel.LANES]
        for field, value in {
            "VALUE": side * amount,
            "SIDE": side,
            "SIZE": amount / 7,
            "PAID": 7.0,
            "AMOUNT": amount,
            "COSTS": fee * amount,
            "SPENT": side * amount + fee * amount,
        }.items():
            order[getattr(kernel, field) // kernel.LANES] = value
    spent, traded = tiles[:, kernel.SPENT // kernel.LANES].sum(), sum(amount for _, amount in orders)
    cash = spent + spare * traded
    assume(kernel._covers(cash, cash - spent, traded))
    before = book.copy()
    assert np.isnan(rationed(book, np.empty(len(orders), np.int64), cash, fee))
    np.testing.assert_array_equal(book, before)


def test_the_column_of_a_symbol_changes_no_bit():
    prices, rows, weights = market(5, symbols=21)
    mechanics = Mechanics(0.0002, 0.001, stop_loss=0.1)
    found = []
    for column in (0, 7, 8, 20):
        order = np.roll(np.arange(21), column - 3)
        moved = {
            name: np.ascontiguousarray(getattr(prices, name)[:, order]) for name in ("open", "high", "low", "close")
        }
        only = np.where(order == 3, weights[:, order], np.nan)
        done = simulate(replace(prices, **moved, last=prices.last[order]), rows, only, 1000.0, mechanics)
        assert {*done.fills["column"]} == {column}
        found.append((done.equity.tobytes(), done.trades["pnl"].tobytes(), done.fills["fees"].tobytes()))
    assert len(done.trades) > 5
    assert found == [found[0]] * 4


# --- many portfolios ----------------------------------------------------------------------------------------------


def test_equity_does_not_depend_on_the_order_of_the_symbols():
    prices, rows, weights = market(2)
    order = np.array([5, 2, 7, 0, 3, 6, 1, 4])
    turned = Matrices(
        prices.days,
        tuple(prices.symbols[n] for n in order),
        *(np.ascontiguousarray(getattr(prices, name)[:, order]) for name in ("open", "high", "low", "close", "volume")),
        prices.last[order],
    )
    mechanics = Mechanics(0.001, 0.001, stop_loss=0.1)
    ours = simulate(prices, rows, weights, 1e4, mechanics).equity
    theirs = simulate(turned, rows, np.ascontiguousarray(weights[:, order]), 1e4, mechanics).equity
    np.testing.assert_allclose(ours, theirs, rtol=1e-12)


def mixed(count):
    """One market, and portfolios that differ in weights and in every mechanic."""
    prices, rows, weights = market(4)
    random = np.random.default_rng(9)
    many = weights + random.normal(0, 0.1, (count, *weights.shape))
    rule = (None, 0.05, 0.2)
    mechanics = [
        Mechanics(
            0.0002 * (n % 4), 0.001 * (n % 2), 0.0001 * (n % 3), 1 + n % 2, 0.02 * (n % 2),
            rule[n % 3], rule[(n + 1) % 3], rule[n // 3 % 3], simulation.PRICES[n % 3],
        )
        for n in range(count)
    ]  # fmt: skip
    return prices, rows, many, mechanics


def test_a_portfolio_among_many_has_the_bits_that_it_has_alone():
    prices, rows, weights, mechanics = mixed(40)
    many = simulate_many(prices, rows, weights, 1000.0, mechanics)
    measured = many.summary(365)
    for number, one in enumerate(mechanics):
        alone = simulate(prices, rows, weights[number], 1000.0, one).outcomes
        np.testing.assert_array_equal(many.equity[number], alone.equity[0])
        for whole, part in ((many.statistics, alone.statistics), (measured, alone.summary(365))):
            assert whole.keys() == part.keys()
            for name, values in whole.items():
                np.testing.assert_array_equal(values[number], part[name][0], err_msg=name)


def test_threads_change_no_bit():
    prices, rows, weights, mechanics = mixed(40)
    whole = simulate_many(prices, rows, weights, 1000.0, mechanics).equity
    with ThreadPoolExecutor(4) as threads:
        cut = range(0, 40, 10)
        parts = threads.map(
            lambda n: simulate_many(prices, rows, weights[n : n + 10], 1000.0, mechanics[n : n + 10]).equity, cut
        )
        np.testing.assert_array_equal(np.concatenate(list(parts)), whole)


def test_arrays_of_any_layout_run_the_same_compiled_code(tmp_path):
    prices, rows, weights = market(4)
    expected = simulate(prices, rows, weights, 1000.0, Mechanics()).equity
    np.save(tmp_path / "weights.npy", weights)
    mapped = np.load(tmp_path / "weights.npy", mmap_mode="r")
    turned = replace(prices, close=np.asfortranarray(prices.close), open=np.asfortranarray(prices.open))
    np.testing.assert_array_equal(simulate(turned, rows, mapped, 1000.0, Mechanics()).equity, expected)
    assert len(kernel.portfolios.signatures) == 1
    assert prices.close.flags.writeable


def test_statistics_are_those_of_the_recorded_trades_and_curve():
    prices, rows, weights = market(6)
    done = simulate(prices, rows, weights, 1000.0, Mechanics(0.001, 0.002))
    closed = done.trades[done.trades["reason"] != REASONS.index("open")]
    found = {name: values[0] for name, values in done.outcomes.summary(365).items()}
    assert found["num_trades"] == len(closed) > 30
    assert found["win_rate"] == pytest.approx(metrics.win_rate(closed["pnl"]))
    assert found["avg_trade"] == pytest.approx(metrics.average(closed["ret"]))
    assert found["profit_factor"] == pytest.approx(metrics.profit_factor(closed["pnl"]))
    returns = metrics.returns_of(done.equity, 1000.0)
    assert found["sharpe"] == metrics.sharpe(returns, 365)
    assert found["sortino"] == metrics.sortino(returns, 365)
    assert found["vol"] == metrics.volatility(returns, 365)
    assert found["cagr"] == metrics.cagr(done.equity[-1] / 1000, len(returns), 365)
    assert found["calmar"] == metrics.calmar(found["cagr"], found["max_dd"])
    assert done.outcomes.statistics["fees"][0] == pytest.approx(done.fills["fees"].sum())
    mid = done.fills["price"] / (1 + 0.002 * np.sign(done.fills["shares"]))
    slipped = np.abs(done.fills["shares"]) * np.abs(done.fills["price"] - mid)
    assert done.outcomes.statistics["slippage"][0] == pytest.approx(slipped.sum())


def test_a_ruined_portfolio_is_marked_and_leaves_the_others_alone():
    prices = flat([10, 40, 30, 30])
    weights = np.array([[[-1.0]], [[1.0]]])
    done = simulate_many(prices, np.array([0]), weights, 1000.0, [Mechanics()] * 2)
    assert done.ruined.tolist() == [1, -1]
    assert done.equity[0, 1] == -2000
    assert np.isnan(done.equity[0, 2:]).all()
    assert done.equity[1].tolist() == [1000, 4000, 3000, 3000]
    for name, values in done.summary().items():
        assert np.isnan(values[0]), name
    assert done.summary()["max_dd"][1] == -0.25


def test_the_future_does_not_change_the_past():
    prices, rows, weights = market(8)
    mechanics = Mechanics(0.001, stop_loss=0.05, trailing_stop=0.1, hedge_drawdown=0.02, price="next_open")
    whole = simulate(prices, rows, weights, 1000.0, mechanics).equity
    part = Matrices(
        prices.days[:30],
        prices.symbols,
        *(getattr(prices, name)[:30].copy() for name in ("open", "high", "low", "close", "volume")),
        np.minimum(prices.last, 29),
    )
    kept = rows < 30
    np.testing.assert_array_equal(simulate(part, rows[kept], weights[kept], 1000.0, mechanics).equity, whole[:30])


def test_a_weight_that_is_not_finite_orders_nothing():
    prices = flat([10, 20, 20])
    assert fills_of(one(prices, {0: 1.0, 1: np.nan}, Mechanics())) == [(0, 100.0, 10.0, "rebalance")]


def test_more_records_than_foreseen_are_kept_all():
    closes = np.tile([100.0, 80.0], 200)
    done = one(flat(closes), dict.fromkeys(range(400), 0.5), Mechanics())
    assert len(done.fills) == 400
    assert np.count_nonzero(done.trades["reason"] == 0) == 199


def test_shapes_that_do_not_fit_and_rows_out_of_order_are_refused():
    prices = flat([10, 20])
    with pytest.raises(DataError, match=r"need \(2, 1, 1\)"):
        simulate_many(prices, np.array([0]), np.ones((1, 1, 1)), 1000.0, [Mechanics()] * 2)
    with pytest.raises(DataError, match="rows must rise"):
        simulate(prices, np.array([1, 0]), np.ones((2, 1)), 1000.0, Mechanics())


def test_every_example_in_the_simulation_is_true():
    assert doctest.testmod(simulation).failed == 0
