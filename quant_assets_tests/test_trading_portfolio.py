"""Account and portfolio: orders worked by hand on tiny markets, then the kernel's own fills on random ones."""

import doctest
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant_assets.backtest import simulation
from quant_assets.backtest.simulation import Mechanics, simulate
from quant_assets.core.errors import ConfigError
from quant_assets.core.matrices import Matrices
from quant_assets.trading import sizing
from quant_assets.trading.account import REASONS, Account
from quant_assets.trading.bus import ReplayBus
from quant_assets.trading.component import Component, ReplayClock, connect
from quant_assets.trading.events import (
    CashMovement,
    Decision,
    Event,
    Fill,
    Level,
    Moment,
    Opening,
    OrderRequest,
    OrderState,
    Phase,
    Signal,
    Target,
)
from quant_assets.trading.feed import DAY, HistoricalFeed, History
from quant_assets.trading.market import Market
from quant_assets.trading.portfolio import FixedSizeManager, PortfolioConfig, PortfolioManager

ID = "trend"


class Broker(Component):
    """Fills every order at once; `part` is the share of it that is filled, and `denied` says that none is."""

    name = "broker"

    def __init__(self, bus, market, fee=0.0, slippage=0.0):
        self.bus, self.market, self.fee, self.slippage = bus, market, fee, slippage
        self.part, self.denied = 1.0, False
        self.requests, self.fills, self.targets = [], [], []

    def handlers(self):
        return {OrderRequest: self.fill, Target: self.targets.append}

    def fill(self, request):
        self.requests.append(request)
        if not self.denied:
            column = self.market.column[request.symbol]
            market = request.kind == "market"
            assert not market or self.market.stamp[column] == request.ts
            quoted = self.market.price[column] if market else request.price
            price, quantity = quoted * (1 + request.side * self.slippage), self.part * request.quantity
            self.publish(Fill, request, f"{len(self.fills)}", request.symbol, request.side, quantity, price, quoted,
                         quantity * price * self.fee, request.reason)  # fmt: skip
            self.fills.append((self.market.row, column, request.side, quantity, price))
        state = "denied" if self.denied else "filled" if self.part == 1 else "partially_filled"
        self.publish(
            OrderState, request, request.symbol, state, 0.0 if self.denied else request.quantity * self.part, ""
        )

    def publish(self, kind, request, *fields):
        cause = (request.ts, self.bus.next_seq(), request.correlation, request.seq)
        self.bus.publish(kind(*cause, request.client_order_id, *fields))


class Decider(Component):
    """Announces the rows that have targets."""

    name = "decider"

    def __init__(self, bus, rows):
        self.bus, self.rows = bus, rows

    def handlers(self):
        return {Moment: self.decide}

    def decide(self, moment):
        if moment.phase == Phase.CLOSE and moment.row in self.rows:
            self.bus.publish(Decision(moment.ts, self.bus.next_seq(), moment.correlation, moment.seq, ID, moment.row))


def controls(scale=1.0, reduce_only=False):
    return SimpleNamespace(scale=scale, reduce_only=reduce_only)


def replayed(prices, rows, weights, cash, mechanics, state=None, prepare=None):
    """Replay {row: weights}; the components, with what they saw in `broker`, and the equity after each row."""
    bus, market = ReplayBus(), Market(prices.symbols)
    decided = dict(zip(np.asarray(rows).tolist(), np.asarray(weights, float).tolist(), strict=True))
    initial = decided.pop(-1, None)
    config = PortfolioConfig(
        ID, mechanics.price, mechanics.fee, mechanics.slippage, mechanics.leverage, mechanics.threshold,
        mechanics.stop_loss, mechanics.trailing_stop, mechanics.hedge_drawdown,
    )  # fmt: skip
    history = History.of_sessions(prices)
    times = frozenset(history.stamps[sorted(decided)].tolist())
    account = Account(market, cash, mechanics.funding_per_day, bus)
    broker = Broker(bus, market, mechanics.fee, mechanics.slippage)
    manager = PortfolioManager(
        bus, market, account, config, lambda row, _: decided[row], times, initial, state or controls()
    )
    for component in (market, account, broker, Decider(bus, decided), manager):
        connect(component, bus)
    equity = []

    def settle(moment):
        if moment.phase == Phase.CLOSE and account.ruined < 0:
            equity.append(account.settle())

    bus.subscribe(broker, Moment, settle, Level.P2)
    if prepare:
        prepare(broker)
    for _ in HistoricalFeed(bus, ReplayClock(), history, frozenset(Phase)).replay():
        pass
    assert bus.first_failure is None
    return SimpleNamespace(broker=broker, account=account, manager=manager, equity=equity, market=market)


def panel(*symbols):
    """Symbols of rows (open, high, low, close), or of one price that is all four; NaN: no bar."""
    bars = np.array([[row if np.ndim(row) else (row,) * 4 for row in rows] for rows in symbols], float)
    opens, highs, lows, closes = (np.ascontiguousarray(bars[:, :, n].T) for n in range(4))
    last = np.full(len(symbols), len(closes) - 1)
    days = np.arange(len(closes)).astype("datetime64[D]")
    return Matrices(days, tuple("ABCDEFGH"[: len(symbols)]), opens, highs, lows, closes, closes * 0, last)


def assert_as_the_kernel(prices, rows, weights, cash, mechanics):
    """Fill by fill, trade by trade, equity row by row: to 1e-9 relative.

    Shares and money of one record to 1e-14 of all that was traded at least: each is a difference of such numbers.
    """
    theirs = simulate(prices, rows, weights, cash, mechanics)
    ours = replayed(prices, rows, weights, cash, mechanics)
    fills = theirs.fills
    assert [fill[:3] for fill in ours.broker.fills] == [
        (int(fill["row"]), int(fill["column"]), int(np.sign(fill["shares"]))) for fill in fills
    ]
    assert [REASONS.index(request.reason) for request in ours.broker.requests] == fills["reason"].tolist()
    traded, money = np.abs(fills["shares"]).sum(), np.abs(fills["shares"] * fills["price"]).sum()
    same = np.testing.assert_allclose
    same([fill[3] for fill in ours.broker.fills], np.abs(fills["shares"]), 1e-9, 1e-14 * traded)
    same([fill[4] for fill in ours.broker.fills], fills["price"], 1e-9)
    ruined = int(theirs.outcomes.ruined[0])
    assert ours.account.ruined == ruined
    same(ours.equity, theirs.equity[: ruined + 1 or None], 1e-9, 1e-14 * money)
    found = ours.account.trades + (ours.account.open_trades(len(prices.days) - 1) if ruined < 0 else [])
    assert len(found) == len(theirs.trades)
    rounding = {"shares": 1e-14 * traded, "fees": 1e-14 * money, "pnl": 1e-12 * money, "ret": 1e-9}
    for name in theirs.trades.dtype.names:
        values = [REASONS.index(one.reason) if name == "reason" else getattr(one, name) for one in found]
        same(values, theirs.trades[name], 1e-9, rounding.get(name, 0), err_msg=name)
    for name, value in totals(ours.account).items():
        same(value, theirs.outcomes.statistics[name][0], 1e-9, 1e-12 * money, err_msg=name)
    unfilled = theirs.placed.copy()
    for number, row in enumerate(rows):
        filled = max(row + (mechanics.price != "close"), 0)
        source = prices.open if mechanics.price == "next_open" else prices.close
        without = np.isnan(source[filled]) if filled < len(source) else np.zeros(len(prices.symbols), bool)
        unfilled[number] = np.where(without & (unfilled[number] != 0), unfilled[number], np.nan)
    assert len(ours.manager.unfilled) == np.count_nonzero(~np.isnan(unfilled))
    return ours


def totals(account):
    closed = len(account.trades)
    return {
        "num_trades": closed,
        "win_rate": account.wins / closed if closed else np.nan,
        "avg_trade": account.returns / closed if closed else np.nan,
        "profit_factor": account.gained / account.lost if account.lost > 0 else np.nan,
        **{name: getattr(account, name) for name in ("turnover", "fees", "slippage", "funding")},
    }


# --- the account ---------------------------------------------------------------------------------------------------


def booked(*fills, cash=1000.0):
    """An account of A and B after fills (symbol, side, quantity, price, fees), one per row."""
    market = Market(("A", "B"))
    account = Account(market, cash)
    for row, (symbol, side, quantity, price, fees) in enumerate(fills):
        market.row = row
        fill = Fill(
            row * DAY, row + 1, row + 1, 0, "x-1", f"{row}", symbol, side, quantity, price, price, fees, "rebalance"
        )
        account.handlers()[Fill](fill)
    return account


def test_a_position_is_held_and_sold_at_its_average_price_with_its_share_of_the_fees():
    account = booked(("B", 1, 2.0, 10.0, 2.0), ("B", 1, 6.0, 14.0, 6.0), ("B", -1, 2.0, 15.0, 1.0))
    assert (account.cash, account.shares, account.held) == (1000 - 22 - 90 + 29, [0.0, 6.0], [1])
    assert (account.entry_price[1], account.entry_fees[1], account.entry_row[1]) == (13.0, 6.0, 0)
    (trade,) = account.trades
    assert (trade.column, trade.side, trade.shares, trade.reason) == (1, 1, 2.0, "rebalance")
    assert (trade.entry_row, trade.entry_ts, trade.entry_price) == (0, 0, 13.0)
    assert (trade.exit_row, trade.exit_ts, trade.exit_price) == (2, 2 * DAY, 15.0)
    assert (trade.fees, trade.pnl, trade.ret) == (3.0, 1.0, 1 / 26)
    assert (account.fills, account.wins, account.gained, account.lost, account.fees) == (3, 1, 1.0, 0.0, 9.0)
    assert account.turnover == pytest.approx((20 + 84 + 30) / 2 / 1000)


def test_a_fill_through_zero_closes_one_trade_and_opens_another_with_the_rest_of_its_fees():
    account = booked(("A", -1, 4.0, 10.0, 1.0), ("A", 1, 6.0, 12.0, 3.0))
    (trade,) = account.trades
    assert (trade.side, trade.shares, trade.fees, trade.pnl) == (-1, 4.0, 1.0 + 2.0, -8.0 - 3.0)
    assert (account.shares[0], account.entry_price[0], account.entry_fees[0], account.entry_row[0]) == (2, 12, 1, 1)
    assert (account.lost, account.wins, account.held) == (11.0, 0, [0])


def test_a_position_and_the_cash_cancel_to_exactly_nothing():
    account = booked(("A", 1, 0.1, 1.0, 0.0), ("A", 1, 0.2, 1.0, 0.0), ("A", -1, 0.3, 1.0, 0.0), cash=0.3)
    assert (account.shares, account.held) == ([0.0, 0.0], [])
    assert booked(("A", 1, 0.1, 1.0, 0.0), ("A", 1, 0.2, 1.0, 0.0), cash=0.3).cash == 0.0


def test_a_repeated_fill_changes_nothing():
    account = booked(("A", 1, 2.0, 10.0, 1.0))
    again = Fill(0, 9, 9, 0, "x-1", "0", "A", 1, 2.0, 10.0, 10.0, 1.0, "rebalance")
    account.handlers()[Fill](again)
    assert (account.shares[0], account.fills) == (2.0, 1)


def test_positions_pay_funding_for_every_day_since_the_row_before():
    prices = panel([100, 110, 110], [50, 50, 50])
    prices.days[:] = np.array(["2024-01-05", "2024-01-08", "2024-01-09"], dtype="datetime64[D]")  # Friday to Tuesday
    moved = []
    done = replayed(
        prices, [0], [[0.5, -0.25]], 1000.0, Mechanics(funding_per_day=0.01),
        prepare=lambda broker: broker.bus.subscribe(broker, CashMovement, moved.append),
    )  # fmt: skip
    assert [(move.symbol, round(move.amount, 9), move.reason) for move in moved] == [
        ("A", -15.0, "funding"),
        ("B", 7.5, "funding"),
        ("A", -5.5, "funding"),
        ("B", 2.5, "funding"),
    ]
    assert moved[0].causation == moved[1].causation > 0
    assert done.account.funding == pytest.approx(10.5)
    assert done.equity == pytest.approx([1000, 1050 - 7.5, 1050 - 10.5])


def test_fills_and_cash_movements_alone_rebuild_the_account_to_the_last_bit():
    events = []
    prices, rows, weights, cash, _ = random_portfolio(1)
    mechanics = Mechanics(0.001, 0.001, 0.0003, stop_loss=0.05)
    done = replayed(
        prices, rows, weights, cash, mechanics,
        prepare=lambda broker: broker.bus.tap(events.append, (Fill, CashMovement)),
    )  # fmt: skip
    copy = Account(Market(prices.symbols), cash)
    for event in events:
        copy.handlers()[type(event)](event)
    for name in ("cash", "shares", "held", "entry_price", "entry_fees", "entry_ts", "fees", "funding", "fills"):
        assert getattr(copy, name) == getattr(done.account, name), name
    assert {type(event) for event in events} == {Fill, CashMovement}
    assert [trade.pnl for trade in copy.trades] == [trade.pnl for trade in done.account.trades]


def test_what_is_held_at_the_end_is_an_open_trade_at_the_last_close():
    done = replayed(panel([100, 110, 120]), [0], [[0.5]], 1000.0, Mechanics(fee=0.01))
    (trade,) = done.account.open_trades(2)
    assert done.account.trades == []
    assert (trade.exit_row, trade.exit_ts, trade.exit_price, trade.reason) == (2, 2 * DAY, 120.0, "open")
    assert (trade.shares, trade.fees, trade.pnl, trade.ret) == (5.0, 5.0, 95.0, 0.19)
    assert (done.account.gross(), done.account.equity([130.0])) == (600.0, 495 + 650)


# --- orders worked by hand -----------------------------------------------------------------------------------------


def orders_of(done):
    """(ts in days, symbol, signed shares, kind, price, reason)"""
    return [
        (one.ts // DAY, one.symbol, round(one.side * one.quantity, 9), one.kind, round(one.price, 9), one.reason)
        for one in done.broker.requests
    ]


def test_reasons_and_tolerances_are_those_of_the_vectorised_engine():
    from quant_assets.backtest import kernel

    assert REASONS == simulation.REASONS
    assert (sizing.RELATIVE, sizing.ABSOLUTE, sizing.SMALLEST) == (
        kernel._RELATIVE,
        kernel._ABSOLUTE,
        kernel._SMALLEST,
    )


@pytest.mark.parametrize(
    ("price", "first", "second"),
    [("close", (0, 5.0, 100.0), (2, -5.0, 130.0)), ("next_open", (1, 5.0, 100.0), (3, -5.0, 140.0)),
     ("next_close", (1, round(500 / 110, 9), 110.0), (3, round(-500 / 110, 9), 150.0))],
)  # fmt: skip
def test_a_target_fills_at_the_price_that_was_asked_for(price, first, second):
    bars = [(90, 100, 90, 100), (100, 110, 100, 110), (120, 130, 120, 130), (140, 150, 140, 150)]
    done = replayed(panel(bars), [0, 2], [[0.5], [0.0]], 1000.0, Mechanics(price=price))
    assert orders_of(done) == [(day, "A", shares, "market", at, "rebalance") for day, shares, at in (first, second)]


def test_sells_come_before_buys_and_equal_orders_by_column():
    done = replayed(panel([10, 10], [10, 10], [10, 10]), [0, 1], [[0, 0.5, 0], [0.25, 0, 0.25]], 1000.0, Mechanics())
    assert [order[1:3] for order in orders_of(done)] == [("B", 50.0), ("B", -50.0), ("A", 25.0), ("C", 25.0)]
    assert [request.client_order_id for request in done.broker.requests] == ["trend-1", "trend-2", "trend-3", "trend-4"]


def test_the_last_buy_is_cut_where_the_cash_ends():
    done = replayed(panel([10], [10], [10]), [0], [[0.5, 0.5, 0.5]], 1000.0, Mechanics())
    assert [order[2] for order in orders_of(done)] == [50.0, 50.0]
    assert done.account.cash == 0.0
    levered = replayed(panel([10], [10], [10]), [0], [[0.5, 0.5, 0.5]], 1000.0, Mechanics(fee=0.25, leverage=1.5))
    assert [order[2] for order in orders_of(levered)] == [50.0, 50.0, 20.0]


@pytest.mark.parametrize(("first", "shares"), [({}, 5.0), ({0: [0.2]}, 2.0)])
def test_weights_decided_before_the_first_row_fill_on_it_unless_it_decides_itself(first, shares):
    decided = {-1: [0.5], **first, 1: [0.0]}
    done = replayed(panel([100, 100]), list(decided), list(decided.values()), 1000.0, Mechanics())
    assert [order[:3] for order in orders_of(done)] == [(0, "A", shares), (1, "A", -shares)]


@pytest.mark.parametrize("rows", [[0], [0, 2]])
def test_what_has_ended_is_closed_a_row_later_at_its_last_close_with_that_rows_orders(rows):
    prices = panel([100, 120, np.nan, np.nan], [10, 10, 10, 10])
    prices.last[0] = 1
    done = replayed(prices, rows, [[0.5, 0.0], [0.0, 0.5]][: len(rows)], 1000.0, Mechanics(slippage=0.01))
    closed, *others = orders_of(done)[1:]
    assert closed == (2, "A", round(-500 / 100, 9), "last", 120.0, "end of data")
    assert [order[0:2] for order in others] == [(2, "B")] * (len(rows) - 1)
    assert done.broker.fills[1][4] == pytest.approx(120 * 0.99)


def test_a_stop_is_ordered_at_its_level_or_at_the_open_beyond_it_and_the_symbol_stays_flat_until_its_target_turns():
    bars = [(100, 100, 100, 100), (96, 97, 89, 93), (93, 95, 92, 95), (95, 95, 95, 95), (100, 100, 100, 100),
            (80, 85, 79, 84)]  # fmt: skip
    weights = [[1.0], [1.0], [0.0], [1.0]]
    done = replayed(panel(bars), [0, 2, 3, 4], weights, 1000.0, Mechanics(stop_loss=0.1))
    assert orders_of(done) == [
        (0, "A", 10.0, "market", 100.0, "rebalance"),
        (1, "A", -10.0, "stop", 90.0, "stop loss"),
        (4, "A", 9.0, "market", 100.0, "rebalance"),
        (5, "A", -9.0, "stop", 80.0, "stop loss"),
    ]
    trailing = replayed(panel([(100,) * 4, (100, 120, 99, 110), (110, 111, 100, 101)]), [0], [[1.0]], 1000.0,
                        Mechanics(trailing_stop=0.1))  # fmt: skip
    assert orders_of(trailing)[1] == (2, "A", -10.0, "stop", 108.0, "trailing stop")


def test_targets_without_a_price_are_kept_as_unfilled():
    done = replayed(panel([100, np.nan]), [0, 1], [[0.5], [0.3]], 1000.0, Mechanics())
    assert done.manager.unfilled == [(DAY, "A", 0.3)]


def test_nothing_is_ordered_once_the_equity_is_used_up():
    done = assert_as_the_kernel(
        panel([10, 40, 30, 30]), np.array([0, 1]), np.array([[-1.0], [0.5]]), 1000.0, Mechanics()
    )
    assert (done.account.ruined, done.equity, done.account.before) == (1, [1000.0, -2000.0], 1000.0)


def test_only_weights_that_changed_are_published_and_the_operating_state_scales_them():
    state = controls()
    done = replayed(
        panel([10] * 3, [10] * 3), [0, 1, 2], [[0.5, 0.0], [0.5, 0.2], [np.nan, 0.2]], 1000.0, Mechanics(), state,
        lambda broker: broker.bus.tap(lambda moment: setattr(state, "scale", 0.5 if moment.row == 2 else 1), [Moment]),
    )  # fmt: skip
    targets = [(target.ts // DAY, target.symbol, target.value, target.unit) for target in done.broker.targets]
    assert targets == [(0, "A", 0.5, "weight"), (1, "B", 0.2, "weight"), (2, "B", 0.1, "weight")]
    assert orders_of(done)[-1][:3] == (2, "B", -10.0)


def test_under_a_safety_stop_positions_only_become_smaller():
    rows, weights = [0, 1, 2, 3], [[0.5, -0.3], [0.6, -0.4], [-0.2, -0.1], [0.1, 0.3]]
    state = controls()
    done = replayed(
        panel([10] * 4, [10] * 4), rows, weights, 1000.0, Mechanics(), state,
        lambda broker: broker.bus.tap(lambda moment: setattr(state, "reduce_only", moment.row > 0), [Moment]),
    )  # fmt: skip
    assert [order[:3] for order in orders_of(done)] == [
        (0, "B", -30.0),
        (0, "A", 50.0),
        (2, "A", -50.0),
        (2, "B", 20.0),
        (3, "B", 10.0),
    ]


def test_what_an_order_still_works_on_is_not_ordered_again_and_a_denied_one_is():
    rows, weights = [0, 1, 2], [[0.8], [0.8], [0.9]]

    def part(broker):
        broker.part = 0.25

    done = replayed(panel([10] * 3), rows, weights, 1000.0, Mechanics(), prepare=part)
    assert [order[2] for order in orders_of(done)] == [80.0, 10.0]
    assert done.account.shares == [22.5]
    assert done.manager.ordered == [90.0]

    def denied(broker):
        broker.denied = True

    done = replayed(panel([10] * 3), rows, weights, 1000.0, Mechanics(), prepare=denied)
    assert [order[2] for order in orders_of(done)] == [80.0, 80.0, 90.0]
    assert done.manager.ordered == [0.0]


def test_cash_that_working_buys_will_take_is_not_spent_twice():
    def part(broker):
        broker.part = 0.25

    done = replayed(panel([10, 10], [10, 10]), [0, 1], [[0.8, 0.0], [0.8, 0.5]], 1000.0, Mechanics(), prepare=part)
    assert [order[1:3] for order in orders_of(done)] == [("A", 80.0), ("B", 20.0)]


def test_a_stop_closes_no_more_than_the_position_while_an_order_works():
    def part(broker):
        broker.part = 0.5

    bars = [(10,) * 4, (10, 10, 8, 9), (9, 9, 7, 8)]
    done = replayed(panel(bars), [0], [[1.0]], 1000.0, Mechanics(stop_loss=0.1), prepare=part)
    assert [order[2:4] for order in orders_of(done)] == [(100.0, "market"), (-50.0, "stop")]


def test_orders_equal_but_for_rounding_may_swap_which_changes_no_money():
    """Cash is summed fill by fill here and by column in the kernel. So the equity may differ in its last bit, and with
    it the sequence of orders of which only that bit says which is the smaller."""
    prices = panel([8, 8, 8], [10, 10, 10], [9, 10, 9])
    rows, weights = np.arange(3), np.array([[-0.5, 0.25, 0.5], [-0.5, 0.25, 0.0], [0.0, -0.5, 0.5]])
    theirs = simulate(prices, rows, weights, 1000.0, Mechanics())
    ours = replayed(prices, rows, weights, 1000.0, Mechanics())
    kernels = [(fill["row"], fill["column"]) for fill in theirs.fills]
    assert [fill[:2] for fill in ours.broker.fills] != kernels
    assert sorted(fill[:2] for fill in ours.broker.fills) == sorted(kernels)
    np.testing.assert_allclose(ours.equity, theirs.equity, 1e-14)


def test_a_decision_sees_the_signals_of_its_own_time_and_of_its_own_strategy():
    bus, market, seen = ReplayBus(), Market(("A", "B")), []
    config = PortfolioConfig(ID, "close", 0.0, 0.0)

    def decide(row, values):
        seen.append((row, values))

    manager = PortfolioManager(bus, market, Account(market, 1.0), config, decide, None, None, controls())
    connect(manager, bus)
    for row, signals in enumerate([((ID, "A", 1.0), ("other", "B", 2.0)), ((ID, "B", 3.0),), ()]):
        for strategy, symbol, value in signals:
            bus.publish(Signal(row, bus.next_seq(), 0, 0, strategy, symbol, value))
        bus.publish(Decision(row, bus.next_seq(), 0, 0, "other", row))
        bus.publish(Decision(row, bus.next_seq(), 0, 0, ID, row))
    bus.drain()
    np.testing.assert_equal(seen, [(0, [1.0, np.nan]), (1, [np.nan, 3.0]), (2, [np.nan, np.nan])])


def test_an_unknown_price_is_refused():
    with pytest.raises(ConfigError, match="'now' is unknown; use one of close, next_open, next_close"):
        PortfolioConfig(ID, "now", 0.0, 0.0)


def test_every_example_in_sizing_is_true():
    assert doctest.testmod(sizing) == (0, 1)


# --- fixed sizes ---------------------------------------------------------------------------------------------------


def signalled(values, state=None, part=1.0, denied=False):
    """A manager of 10 shares a signal, that saw `values` of B at prices 100, 101, ..."""
    bus, market = ReplayBus(), Market(("A", "B"))
    account, broker = Account(market, 1e4), Broker(bus, market)
    broker.part, broker.denied = part, denied
    manager = FixedSizeManager(bus, market, account, ID, 10.0, state or controls())
    for component in (market, account, broker, manager):
        connect(component, bus)
    for ts, value in enumerate(values):
        events: list[Event] = [Opening(ts, bus.next_seq(), ts, 0, "B", 100.0 + ts)]
        events.append(Signal(ts, bus.next_seq(), ts, 0, ID, "B", value))
        for event in events:
            bus.publish(event)
        bus.drain()
    assert bus.first_failure is None
    return SimpleNamespace(broker=broker, account=account, manager=manager)


def test_a_signal_is_ordered_at_once_as_a_number_of_shares():
    done = signalled([1.0, 1.0, np.nan, -1.0, 0.0])
    assert [(one.ts, one.side * one.quantity, one.kind, one.price) for one in done.broker.requests] == [
        (0, 10.0, "market", 100.0),
        (3, -20.0, "market", 103.0),
        (4, 10.0, "market", 104.0),
    ]
    assert [(one.ts, one.symbol, one.value, one.unit) for one in done.broker.targets] == [
        (0, "B", 10.0, "shares"),
        (3, "B", -10.0, "shares"),
        (4, "B", 0.0, "shares"),
    ]
    first, target = done.broker.requests[0], done.broker.targets[0]
    assert (first.client_order_id, first.reason, first.causation) == ("trend-1", "rebalance", target.causation)


def test_a_fixed_size_counts_what_still_works_follows_the_scale_and_under_a_safety_stop_only_reduces():
    assert [one.side * one.quantity for one in signalled([1.0, 1.0, -1.0], part=0.5).broker.requests] == [10.0, -20.0]
    assert [one.side * one.quantity for one in signalled([1.0, 1.0], denied=True).broker.requests] == [10.0, 10.0]
    assert signalled([1.0], controls(scale=0.5)).account.shares == [0.0, 5.0]
    assert signalled([1.0], controls(reduce_only=True)).broker.requests == []


# --- the kernel's fills --------------------------------------------------------------------------------------------


def market_of(seed, sessions=60, symbols=8):
    """A market with gaps, a late listing and an end; prices and weights are all distinct."""
    random = np.random.default_rng(seed)
    closes = 50 * np.exp(np.cumsum(random.normal(0, 0.03, (sessions, symbols)), axis=0))
    opens = closes * np.exp(random.normal(0, 0.01, closes.shape))
    missing = random.random(closes.shape) < 0.05
    missing[:7, 0] = missing[sessions // 2 :, 1] = True
    highs, lows = np.maximum(opens, closes) * 1.01, np.minimum(opens, closes) * 0.99
    bars = (np.where(missing, np.nan, one) for one in (opens, highs, lows, closes))
    last = np.full(symbols, sessions - 1)
    last[1] = np.flatnonzero(~missing[:, 1])[-1]
    days = np.cumsum(random.integers(1, 4, sessions)).astype("datetime64[D]")
    return Matrices(days, tuple(f"S{n}" for n in range(symbols)), *bars, closes * 0, last)


def rules_of(random):
    rule = (None, 0.03, 0.1)
    return Mechanics(
        fee=random.choice([0.0, 0.0002, 0.01]),
        slippage=random.choice([0.0, 0.001]),
        funding_per_day=random.choice([0.0, 0.0003]),
        leverage=random.choice([1.0, 1.5, 3.0]),
        threshold=random.choice([0.0, 0.05]),
        stop_loss=random.choice(rule),
        trailing_stop=random.choice(rule),
        hedge_drawdown=random.choice(rule),
        price=str(random.choice(simulation.PRICES)),
    )


def random_portfolio(seed):
    random = np.random.default_rng(seed)
    prices = market_of(seed)
    rows = np.arange(-1, 60, random.integers(1, 5))
    weights = random.normal(0.1, 0.2, (len(rows), 8))
    weights[random.random(weights.shape) < 0.2] = 0.0
    weights[random.random(weights.shape) < 0.05] = np.nan
    return prices, rows, weights, 1e4, rules_of(random)


@pytest.mark.parametrize("seed", range(12))
def test_random_portfolios_are_traded_as_by_the_kernel(seed):
    assert_as_the_kernel(*random_portfolio(seed))


@pytest.mark.slow
@pytest.mark.parametrize("first", range(100, 400, 100))
def test_hundreds_of_random_portfolios_are_traded_as_by_the_kernel(first):
    for seed in range(first, first + 100):
        assert_as_the_kernel(*random_portfolio(seed))


@st.composite
def portfolios(draw):
    """Few round weights, so that orders tie and cash is used up to the last cent; no two symbols share a price."""
    sessions, symbols = draw(st.integers(2, 12)), draw(st.integers(1, 4))
    shape = (sessions, symbols)
    noise = np.random.default_rng(0).normal(0, 0.01, (2, *shape))
    levels = arrays(np.float64, shape, elements=st.sampled_from([8.0, 9.0, 10.0, 12.0]))
    opens, closes = (draw(levels) * np.exp(part) for part in noise)
    wide = draw(st.sampled_from([1.0, 1.125]))
    bars = [opens, np.maximum(opens, closes) * wide, np.minimum(opens, closes) / wide, closes]
    missing = draw(arrays(np.bool_, shape, fill=st.just(False)))
    row = np.arange(sessions)[:, None]
    seen = np.where(missing, -1, row).max(axis=0)
    last = np.where(draw(arrays(np.bool_, symbols)), sessions - 1, seen)
    days = np.arange(sessions).astype("datetime64[D]")
    given = (np.where(missing, np.nan, column) for column in bars)
    prices = Matrices(days, tuple("ABCD"[:symbols]), *given, np.zeros(shape), last)
    rows = np.array(sorted(draw(st.sets(st.integers(-1, sessions - 1), min_size=1, max_size=8))))
    elements = st.sampled_from([-0.5, 0.0, 0.25, 0.5, 1.0, np.nan])
    weights = draw(arrays(np.float64, (len(rows), symbols), elements=elements))
    rule = st.sampled_from([None, 0.0625, 0.125])
    return (prices, rows, weights), Mechanics(
        draw(st.sampled_from([0.0, 0.01])),
        draw(st.sampled_from([0.0, 0.01])),
        draw(st.sampled_from([0.0, 0.001])),
        draw(st.sampled_from([1.0, 2.0])),
        draw(st.sampled_from([0.0, 0.05])),
        draw(rule),
        draw(rule),
        draw(rule),
        draw(st.sampled_from(simulation.PRICES)),
    )


@settings(max_examples=60, deadline=None)
@given(portfolios())
def test_any_portfolio_of_round_weights_is_traded_as_by_the_kernel(portfolio):
    assert_as_the_kernel(*portfolio[0], 1000.0, portfolio[1])


@pytest.mark.slow
@settings(max_examples=500, deadline=None)
@given(portfolios())
def test_many_portfolios_of_round_weights_are_traded_as_by_the_kernel(portfolio):
    assert_as_the_kernel(*portfolio[0], 1000.0, portfolio[1])
