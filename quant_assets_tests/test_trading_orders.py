"""Orders: their states, who keeps them, and the executor of backtests."""

from collections.abc import Callable
from itertools import product
from math import inf, nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from quant_assets.core.errors import TradingError
from quant_assets.trading.bus import ReplayBus
from quant_assets.trading.component import connect
from quant_assets.trading.events import (
    Bar,
    CancelRequest,
    Ended,
    Event,
    ExecutionReport,
    Fill,
    HandlerFailed,
    Opening,
    OrderRequest,
    OrderState,
    RiskDenial,
    decode,
    encode,
)
from quant_assets.trading.executors import BacktestExecutor
from quant_assets.trading.market import Market
from quant_assets.trading.oms import OrderManager
from quant_assets.trading.orders import TERMINAL, TRANSITIONS, Order, State, fault

LIVE = (State.SUBMITTED, State.ACCEPTED, State.PARTIALLY_FILLED, State.PENDING_CANCEL)


def request_of(key: str = "one", ts: int = 1, seq: int = 0, **changes: Any) -> OrderRequest:
    fields = {"symbol": "AAA", "side": 1, "quantity": 10.0, "kind": "market", "price": 100.0, "reason": "rebalance"}
    return OrderRequest(ts, seq, 0, 0, key, "trend", **fields | changes)


def fill_of(quantity: float, number: int = 1, key: str = "one", seq: int = 0, **changes: Any) -> Fill:
    fields = {"symbol": "AAA", "side": 1, "price": 100.0, "quoted": 100.0, "fees": 0.0, "reason": "rebalance"}
    return Fill(1, seq, 0, 0, key, f"{key}/{number}", quantity=quantity, **fields | changes)


def order_in(state: State) -> Order:
    order = Order(request_of())
    order.state = state
    return order


# The order.


@pytest.mark.parametrize(("present", "asked"), [*product(State, State)])
def test_an_order_goes_only_where_the_table_leads(present: State, asked: State) -> None:
    order = order_in(present)
    if asked in TRANSITIONS[present]:
        order.enter(asked)
        assert order.state is asked
    else:
        with pytest.raises(TradingError, match=f"one is {present} and cannot become {asked}"):
            order.enter(asked)
        assert order.state is present


def test_what_has_ended_stays_and_all_else_can_end() -> None:
    assert {State.DENIED, State.FILLED, State.CANCELED, State.REJECTED, State.EXPIRED} == TERMINAL
    for state in LIVE:
        assert {State.FILLED, State.CANCELED, State.EXPIRED, State.PENDING_CANCEL} - {state} <= TRANSITIONS[state]
    assert not any(State.INITIALIZED in following for following in TRANSITIONS.values())


def test_fills_add_up_to_an_average_price() -> None:
    order = order_in(State.SUBMITTED)
    assert order.fill(fill_of(4.0, 1, price=100.0, fees=0.4))
    assert (order.state, order.filled, order.average_price, order.remaining) == ("partially_filled", 4.0, 100.0, 6.0)
    assert order.fill(fill_of(6.0, 2, price=110.0, fees=0.6))
    assert (order.state, order.filled, order.average_price, order.fees) == ("filled", 10.0, 106.0, 1.0)


def test_an_order_is_filled_although_its_fills_miss_the_quantity_by_rounding() -> None:
    order = Order(request_of(quantity=1.0))
    order.enter(State.SUBMITTED)
    for number in range(10):
        order.fill(fill_of(0.1, number))
    assert sum([0.1] * 10) < 1.0
    assert (order.state, order.filled, order.remaining) == ("filled", 1.0, 0.0)


def test_the_same_fill_again_changes_nothing_even_after_the_end() -> None:
    order = order_in(State.SUBMITTED)
    order.fill(fill_of(10.0))
    assert not order.fill(fill_of(10.0))
    assert (order.state, order.filled, len(order.fill_ids)) == ("filled", 10.0, 1)


@pytest.mark.parametrize(
    ("fill", "message"),
    [
        (fill_of(6.1, 2), "exceeds what is left"),
        (fill_of(1.0, 2, symbol="BBB"), "does not fit"),
        (fill_of(1.0, 2, side=-1), "does not fit"),
        (fill_of(0.0, 2), "does not fit"),
        (fill_of(nan, 2), "does not fit"),
        (fill_of(1.0, 2, price=nan), "does not fit"),
    ],
)
def test_a_fill_that_contradicts_its_order_is_refused(fill: Fill, message: str) -> None:
    order = order_in(State.SUBMITTED)
    order.fill(fill_of(4.0, 1))
    with pytest.raises(TradingError, match=message):
        order.fill(fill)
    assert (order.state, order.filled, order.fill_ids) == ("partially_filled", 4.0, {"one/1"})


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_no_fill_comes_after_the_end(state: State) -> None:
    with pytest.raises(TradingError, match=f"one is {state} and cannot become partially_filled"):
        order_in(state).fill(fill_of(1.0))


def test_the_state_travels_as_its_name() -> None:
    event = OrderState(1, 2, 3, 4, "one", "AAA", State.PARTIALLY_FILLED, 4.0, "")
    assert decode(encode(event)) == event


# The manager.


class Quiet:
    """An executor that only remembers what it was given; tests say what it answers."""

    def __init__(self) -> None:
        self.submitted: list[str] = []
        self.canceled: list[str] = []

    def submit(self, request: OrderRequest) -> None:
        self.submitted.append(request.client_order_id)

    def cancel(self, request: CancelRequest) -> None:
        self.canceled.append(request.client_order_id)


class Desk:
    """An order manager on a bus, and everything that was published."""

    def __init__(self, gate: Callable[[OrderRequest], RiskDenial | None] = lambda request: None, kept: int = 9) -> None:
        self.bus, self.executor = ReplayBus(), Quiet()
        self.events: list[Event] = []
        kinds = (OrderRequest, CancelRequest, ExecutionReport, OrderState, Fill, RiskDenial, HandlerFailed)
        self.bus.tap(self.events.append, kinds)
        self.manager = OrderManager(self.bus, gate, self.executor, kept)
        connect(self.manager, self.bus)

    def send(self, event: Event) -> None:
        self.bus.publish(event)
        self.bus.drain()

    def request(self, key: str = "one", **changes: Any) -> None:
        self.send(request_of(key, seq=self.bus.next_seq(), **changes))

    def cancel(self, key: str = "one") -> None:
        self.send(CancelRequest(1, self.bus.next_seq(), 0, 0, key, "changed our mind"))

    def report(self, status: str, key: str = "one", reason: str = "") -> None:
        self.send(ExecutionReport(1, self.bus.next_seq(), 0, 0, key, status, reason))

    def fill(self, quantity: float, number: int = 1, key: str = "one", **changes: Any) -> None:
        self.send(fill_of(quantity, number, key, seq=self.bus.next_seq(), **changes))

    def states(self, key: str = "one") -> list[str]:
        return [event.state for event in self.of(OrderState) if event.client_order_id == key]

    def of(self, kind: type[Event]) -> list[Any]:
        return [event for event in self.events if type(event) is kind]


def denial_of(request: OrderRequest) -> RiskDenial:
    return RiskDenial(1, 2, 0, 1, request.client_order_id, request.symbol, "leverage", 3.0, 2.0, "leverage 3 exceeds 2")


def test_an_order_that_is_filled_at_once_makes_three_events() -> None:
    bus, market, events = ReplayBus(), Market(["AAA"]), []
    bus.tap(events.append, (OrderState, Fill, ExecutionReport, HandlerFailed))
    executor = BacktestExecutor(bus, market, 0.001, 0.01)
    for component in (market, executor, manager := OrderManager(bus, lambda request: None, executor)):
        connect(component, bus)
    bus.publish(Bar(1, bus.next_seq(), 1, 0, "AAA", 99.0, 101.0, 98.0, 100.0, 1e6))
    bus.drain()
    bus.publish(OrderRequest(1, bus.next_seq(), 1, 1, "one", "trend", "AAA", 1, 10.0, "market", 100.0, "rebalance"))
    bus.drain()
    assert events == [
        OrderState(1, 3, 1, 2, "one", "AAA", "submitted", 0.0, ""),
        Fill(1, 4, 1, 2, "one", "one/1", "AAA", 1, 10.0, 101.0, 100.0, 1.01, "rebalance"),
        OrderState(1, 5, 1, 4, "one", "AAA", "filled", 10.0, ""),
    ]
    assert manager.open_orders() == []


@pytest.mark.parametrize("kept", [9, 0])
def test_the_same_request_again_is_not_placed_again(kept: int) -> None:
    desk = Desk(kept=kept)
    desk.request()
    desk.request(quantity=20.0)
    desk.fill(10.0)
    desk.request()
    assert (desk.executor.submitted, desk.manager.counts.repeated_requests) == (["one"], 2)
    assert desk.states() == ["submitted", "filled"]


@pytest.mark.parametrize(
    "changes",
    [
        {"quantity": 0.0},
        {"quantity": -1.0},
        {"quantity": nan},
        {"quantity": inf},
        {"side": 0},
        {"kind": "maket"},
        {"price": nan},
    ],
)
def test_what_is_no_order_is_denied_before_anybody_is_asked(changes: dict[str, Any]) -> None:
    asked: list[str] = []
    desk = Desk(lambda request: asked.append(request.client_order_id))
    desk.request(**changes)
    assert (desk.states(), asked, desk.executor.submitted) == (["denied"], [], [])
    assert desk.of(OrderState)[0].reason == fault(request_of(**changes))
    assert str(next(iter(changes.values()))) in desk.of(OrderState)[0].reason


def test_a_denied_order_never_leaves_and_says_why() -> None:
    desk = Desk(denial_of)
    desk.request()
    assert [type(event) for event in desk.events] == [OrderRequest, RiskDenial, OrderState]
    assert desk.of(OrderState)[0].reason == "leverage 3 exceeds 2"
    assert (desk.states(), desk.executor.submitted, desk.manager.open_orders()) == (["denied"], [], [])


def test_where_the_gate_fails_the_order_is_denied_and_the_failure_known() -> None:
    def broken(request: OrderRequest) -> None:
        raise ZeroDivisionError("no equity")

    desk = Desk(broken)
    desk.request()
    assert (desk.states(), desk.executor.submitted) == (["denied"], [])
    assert desk.of(OrderState)[0].reason == "the risk gate failed: no equity"
    assert len(desk.of(HandlerFailed)) == 1


def test_fills_after_a_cancel_count_until_the_executor_confirms() -> None:
    desk = Desk()
    desk.request()
    desk.report("accepted")
    desk.fill(4.0, 1)
    desk.cancel()
    desk.fill(2.0, 2)
    desk.report("canceled")
    assert desk.states() == [
        "submitted",
        "accepted",
        "partially_filled",
        "pending_cancel",
        "pending_cancel",
        "canceled",
    ]
    assert desk.manager.orders["one"].filled == 6.0
    desk.fill(1.0, 3)
    assert desk.manager.orders["one"].filled == 6.0
    assert "one is canceled" in desk.of(HandlerFailed)[0].error


def test_a_fill_may_overtake_the_cancel_and_the_acceptance() -> None:
    desk = Desk()
    desk.request()
    desk.cancel()
    desk.report("accepted")
    desk.fill(10.0)
    desk.report("cancel_rejected")
    assert desk.states() == ["submitted", "pending_cancel", "filled"]
    assert (desk.manager.counts.repeated_reports, desk.manager.counts.rejected_cancels) == (1, 1)
    assert not desk.of(HandlerFailed)


@pytest.mark.parametrize(("filled", "after"), [(0.0, "accepted"), (4.0, "partially_filled")])
def test_an_order_lives_on_where_its_cancel_is_refused(filled: float, after: str) -> None:
    desk = Desk()
    desk.request()
    if filled:
        desk.fill(filled)
    desk.cancel()
    desk.report("cancel_rejected", reason="too late")
    assert (desk.states()[-1], desk.of(OrderState)[-1].reason) == (after, "too late")
    desk.cancel()
    assert desk.executor.canceled == ["one", "one"]


def test_a_cancel_of_what_is_not_open_is_counted_and_goes_nowhere() -> None:
    desk = Desk()
    desk.cancel("never requested")
    desk.request()
    desk.report("rejected", reason="no price")
    desk.cancel()
    desk.request("two")
    desk.cancel("two")
    desk.cancel("two")
    assert (desk.manager.counts.refused_cancels, desk.manager.counts.repeated_cancels) == (2, 1)
    assert desk.executor.canceled == ["two"]
    assert desk.states() == ["submitted", "rejected"]
    assert not desk.of(HandlerFailed)


def test_a_fill_of_an_order_nobody_requested_is_a_failure() -> None:
    desk = Desk()
    desk.fill(1.0, key="stray")
    assert desk.manager.counts.strays == 1
    assert "stray was never requested" in desk.of(HandlerFailed)[0].error
    assert desk.manager.orders == {}


def test_a_status_that_does_not_exist_is_a_failure() -> None:
    desk = Desk()
    desk.request()
    desk.report("filled")
    assert "'filled' is none of accepted, rejected, canceled, expired" in desk.of(HandlerFailed)[0].error
    assert desk.states() == ["submitted"]


def test_of_orders_long_ended_only_the_last_state_is_kept() -> None:
    desk = Desk(kept=2)
    for key in "abc":
        desk.request(key)
        desk.fill(10.0, key=key)
    desk.request("d")
    assert list(desk.manager.orders) == ["b", "c", "d"]
    assert [desk.manager.state(key) for key in "abcde"] == ["filled", "filled", "filled", "submitted", None]
    desk.fill(10.0, key="b")
    desk.fill(10.0, key="a")
    assert desk.manager.counts.repeated_fills == 1
    assert "a is filled and ended long ago" in desk.of(HandlerFailed)[0].error


# The executor of backtests.


class Floor:
    """A market and its executor; `send` brings events, and `events` are the executor's."""

    def __init__(self, fee: float = 0.0, slippage: float = 0.0, participation: float | None = None) -> None:
        self.bus, self.events = ReplayBus(), []
        self.bus.tap(self.events.append, (Fill, ExecutionReport))
        market = Market(["AAA", "BBB"])
        self.executor = BacktestExecutor(self.bus, market, fee, slippage, participation)
        connect(market, self.bus)
        connect(self.executor, self.bus)

    def send(self, event: Event) -> None:
        self.bus.publish(event)
        self.bus.drain()
        assert self.bus.first_failure is None

    def bar(self, ts: int, low: float, high: float, volume: float = 1e6, symbol: str = "AAA", **prices: float) -> None:
        middle = {"open": (low + high) / 2, "close": (low + high) / 2} | prices
        self.send(Bar(ts, self.bus.next_seq(), 0, 0, symbol, middle["open"], high, low, middle["close"], volume))

    def submit(self, key: str = "one", ts: int = 1, **changes: Any) -> None:
        self.executor.submit(request_of(key, ts, self.bus.next_seq(), **changes))

    def cancel(self, key: str = "one", ts: int = 1) -> None:
        self.executor.cancel(CancelRequest(ts, self.bus.next_seq(), 0, 0, key, "changed our mind"))

    def fills(self) -> list[tuple[int, str, float, float]]:
        """When, which, how many, at which price."""
        return [(event.ts, event.fill_id, event.quantity, event.price) for event in self.events if type(event) is Fill]

    def statuses(self) -> list[tuple[str, str]]:
        return [(event.client_order_id, event.status) for event in self.events if type(event) is ExecutionReport]


@pytest.mark.parametrize(("side", "price", "fees"), [(1, 102.0, 1.02), (-1, 98.0, 0.98)])
def test_a_market_order_fills_at_the_newest_price_and_pays_slippage_and_fee(
    side: int, price: float, fees: float
) -> None:
    floor = Floor(fee=0.001, slippage=0.02)
    floor.bar(1, 90.0, 110.0)
    floor.submit(side=side)
    (fill,) = floor.events
    assert (fill.price, fill.quoted, fill.fees, fill.quantity, fill.side) == (price, 100.0, fees, 10.0, side)


def test_an_order_at_the_open_fills_at_the_opening() -> None:
    floor = Floor()
    floor.bar(1, 90.0, 110.0)
    floor.send(Opening(2, floor.bus.next_seq(), 0, 0, "AAA", 104.0))
    floor.submit(ts=2)
    assert floor.fills() == [(2, "one/1", 10.0, 104.0)]


@pytest.mark.parametrize("symbol", ["AAA", "BBB", "CCC"])
def test_without_a_price_at_this_time_a_market_order_is_rejected(symbol: str) -> None:
    floor = Floor()
    floor.bar(1, 90.0, 110.0)
    floor.submit(ts=2, symbol=symbol)
    assert floor.statuses() == [("one", "rejected")]
    assert symbol in floor.events[0].reason


@pytest.mark.parametrize("kind", ["stop", "last"])
def test_stops_and_the_last_orders_of_a_symbol_fill_at_the_price_they_bring(kind: str) -> None:
    floor = Floor(slippage=0.02)
    floor.submit(kind=kind, side=-1, price=50.0)
    assert floor.fills() == [(1, "one/1", 10.0, 49.0)]


@pytest.mark.parametrize(
    ("side", "reached", "price"),
    [
        (1, {"low": 94.0, "high": 99.0}, 95.0),
        (1, {"low": 90.0, "high": 99.0, "open": 92.0}, 92.0),
        (-1, {"low": 101.0, "high": 105.0}, 105.0),
        (-1, {"low": 101.0, "high": 110.0, "open": 107.0}, 107.0),
    ],
)
def test_a_limit_order_waits_for_its_level_and_never_pays_more(
    side: int, reached: dict[str, float], price: float
) -> None:
    floor = Floor(slippage=0.02)
    floor.bar(1, 90.0, 110.0)
    floor.submit(kind="limit", side=side, price=100.0 - 5 * side)
    floor.bar(2, 96.0, 104.0)
    floor.bar(2, 1.0, 1_000.0, symbol="BBB")
    assert (floor.statuses(), floor.fills()) == ([("one", "accepted")], [])
    floor.bar(3, **reached)
    floor.bar(4, **reached)
    assert floor.fills() == [(3, "one/1", 10.0, price)]


def test_a_fill_names_the_event_that_made_it_possible() -> None:
    floor = Floor()
    floor.send(Bar(1, 11, 11, 0, "AAA", 100.0, 100.0, 100.0, 100.0, 1e6))
    floor.executor.submit(OrderRequest(1, 13, 11, 12, "one", "trend", "AAA", 1, 1.0, "market", 100.0, "rebalance"))
    floor.executor.submit(OrderRequest(1, 14, 11, 12, "two", "trend", "AAA", 1, 1.0, "limit", 95.0, "rebalance"))
    floor.send(Bar(2, 21, 21, 0, "AAA", 100.0, 100.0, 90.0, 100.0, 1e6))
    fills = [event for event in floor.events if type(event) is Fill]
    assert [(fill.ts, fill.correlation, fill.causation) for fill in fills] == [(1, 11, 13), (2, 21, 21)]


def test_what_the_volume_does_not_allow_is_filled_on_the_bars_that_follow() -> None:
    floor = Floor(participation=0.1)
    floor.bar(1, 100.0, 100.0, volume=40.0)
    floor.submit()
    floor.bar(2, 101.0, 101.0, volume=0.0)
    floor.bar(3, 102.0, 102.0, volume=nan)
    floor.bar(4, 99.0, 105.0, volume=50.0, open=100.0, close=103.0)
    floor.bar(5, 104.0, 104.0, volume=50.0)
    floor.bar(6, 105.0, 105.0, volume=50.0)
    assert floor.fills() == [(1, "one/1", 4.0, 100.0), (4, "one/2", 5.0, 103.0), (5, "one/3", 1.0, 104.0)]


def test_no_dust_is_left_to_fill_where_the_parts_miss_the_quantity_by_rounding() -> None:
    floor = Floor(participation=1.0)
    floor.bar(0, 100.0, 100.0, volume=0.1)
    floor.submit(ts=0, quantity=1.0)
    for ts in range(1, 12):
        floor.bar(ts, 100.0, 100.0, volume=0.1)
    assert len(floor.fills()) == 10


def test_orders_of_a_symbol_share_the_volume_of_a_bar() -> None:
    floor = Floor(participation=0.1)
    floor.bar(1, 100.0, 100.0, volume=120.0)
    floor.submit("one")
    floor.submit("two", side=-1)
    floor.bar(2, 100.0, 100.0, volume=120.0)
    assert floor.fills() == [(1, "one/1", 10.0, 100.0), (1, "two/1", 2.0, 100.0), (2, "two/2", 8.0, 100.0)]


def test_at_an_opening_the_volume_is_that_of_the_bar_before() -> None:
    floor = Floor(participation=0.1)
    floor.bar(1, 100.0, 100.0, volume=40.0)
    floor.send(Opening(2, floor.bus.next_seq(), 0, 0, "AAA", 104.0))
    floor.submit(ts=2)
    floor.bar(2, 105.0, 105.0, volume=50.0)
    assert floor.fills() == [(2, "one/1", 4.0, 104.0), (2, "one/2", 1.0, 105.0)]


def test_a_cancel_withdraws_what_rests_and_is_refused_where_nothing_does() -> None:
    floor = Floor(participation=0.1)
    floor.bar(1, 100.0, 100.0, volume=40.0)
    floor.submit()
    floor.cancel()
    floor.cancel()
    floor.bar(2, 100.0, 100.0)
    assert floor.fills() == [(1, "one/1", 4.0, 100.0)]
    assert floor.statuses() == [("one", "canceled"), ("one", "cancel_rejected")]


def test_what_rests_expires_when_its_symbol_ends() -> None:
    floor = Floor()
    floor.submit("one", kind="limit")
    floor.submit("two", kind="limit", symbol="BBB")
    floor.send(Ended(2, floor.bus.next_seq(), 0, 0, "AAA"))
    floor.bar(3, 90.0, 110.0)
    assert floor.statuses() == [("one", "accepted"), ("two", "accepted"), ("one", "expired")]
    assert floor.fills() == []


@given(
    st.lists(st.floats(0.1, 1e4), min_size=1, max_size=4),
    st.lists(st.floats(0.0, 1e5), min_size=1, max_size=8),
    st.floats(0.01, 1.0),
)
@settings(max_examples=60)
def test_no_order_is_filled_beyond_its_quantity_nor_any_bar_beyond_its_share(
    quantities: list[float], volumes: list[float], participation: float
) -> None:
    floor = Floor(participation=participation)
    keeper = OrderManager(floor.bus, lambda request: None, floor.executor)
    connect(keeper, floor.bus)
    floor.bar(0, 100.0, 100.0, volume=volumes[0])
    for number, quantity in enumerate(quantities):
        floor.send(request_of(str(number), 0, floor.bus.next_seq(), quantity=quantity))
    for ts, volume in enumerate(volumes[1:], 1):
        floor.bar(ts, 100.0, 100.0, volume=volume)
    fills = [event for event in floor.events if type(event) is Fill]
    for ts, volume in enumerate(volumes):
        assert sum(fill.quantity for fill in fills if fill.ts == ts) <= participation * volume * (1 + 1e-9)
    for number, quantity in enumerate(quantities):
        order = keeper.orders[str(number)]
        assert order.filled == pytest.approx(sum(f.quantity for f in fills if f.client_order_id == str(number)))
        assert order.filled <= quantity
        assert (order in keeper.open_orders()) == (order.filled < quantity)


# Whatever happens in whatever order.

KEYS = st.sampled_from("abcdefgh")
SYMBOLS = st.sampled_from(["AAA", "AAA", "AAA", "BBB"])
QUANTITIES = st.sampled_from([1.0, 1.0, 1.0, 0.0])
STATUSES = st.sampled_from(["accepted", "accepted", "rejected", "canceled", "expired", "cancel_rejected"])
KEPT = 3


class AnyOrder(RuleBasedStateMachine):
    """Requests, news and fills of eight orders in any order, some of them twice, against a model of a few lines."""

    def __init__(self) -> None:
        super().__init__()
        self.desk = Desk(lambda request: denial_of(request) if request.symbol == "BBB" else None, KEPT)
        self.state: dict[str, State] = {}
        self.filled: dict[str, float] = {}
        self.seen: set[str] = set()
        self.ended: list[str] = []
        self.submitted: list[str] = []
        self.told = 0
        self.ignored = 0
        self.failed = 0

    def moves(self, key: str, state: State) -> None:
        self.state[key] = state
        self.told += 1
        if state in TERMINAL:
            self.ended.append(key)

    def is_known(self, key: str) -> bool:
        return key in self.state and key not in self.ended[:-KEPT]

    @rule(
        key=KEYS, symbol=st.sampled_from(["AAA", "AAA", "AAA", "BBB"]), quantity=st.sampled_from([1.0, 1.0, 1.0, 0.0])
    )
    def request(self, key: str, symbol: str, quantity: float) -> None:
        self.desk.request(key, symbol=symbol, quantity=quantity)
        if key in self.state:
            self.ignored += 1
        elif symbol == "BBB" or quantity == 0.0:
            self.filled[key] = 0.0
            self.moves(key, State.DENIED)
        else:
            self.filled[key] = 0.0
            self.submitted.append(key)
            self.moves(key, State.SUBMITTED)

    @rule(key=KEYS, number=st.integers(1, 4), share=st.sampled_from([0.1, 0.3, 0.7, 1.0]))
    def fill(self, key: str, number: int, share: float) -> None:
        self.desk.fill(share, number, key)
        total = self.filled.get(key, 0.0) + share
        if not self.is_known(key):
            self.failed += 1
        elif f"{key}/{number}" in self.seen:
            self.ignored += 1
        elif self.state[key] not in LIVE or total > 1.0 + 1e-6:
            self.failed += 1
        else:
            self.seen.add(f"{key}/{number}")
            self.filled[key] = total
            waiting = self.state[key] is State.PENDING_CANCEL
            partly = State.PENDING_CANCEL if waiting else State.PARTIALLY_FILLED
            self.moves(key, partly if total < 1.0 - 1e-6 else State.FILLED)

    @rule(
        key=KEYS, status=st.sampled_from(["accepted", "accepted", "rejected", "canceled", "expired", "cancel_rejected"])
    )
    def report(self, key: str, status: str) -> None:
        self.desk.report(status, key)
        present = self.state.get(key)
        if present is None or not self.is_known(key):
            self.failed += 1
        elif status == "cancel_rejected":
            self.ignored += 1
            if present is State.PENDING_CANCEL:
                self.moves(key, State.PARTIALLY_FILLED if self.filled[key] else State.ACCEPTED)
        elif status == present or (status == "accepted" and present not in (State.SUBMITTED, State.DENIED)):
            self.ignored += 1
        elif status in TRANSITIONS[present]:
            self.moves(key, State(status))
        else:
            self.failed += 1

    @rule(key=KEYS)
    def cancel(self, key: str) -> None:
        self.desk.cancel(key)
        if self.state.get(key) in LIVE and self.state[key] is not State.PENDING_CANCEL:
            self.moves(key, State.PENDING_CANCEL)
        else:
            self.ignored += 1

    @invariant()
    def no_order_is_lost_and_none_is_two(self) -> None:
        manager = self.desk.manager
        assert {key: manager.state(key) for key in "abcdefgh" if manager.state(key)} == self.state
        assert set(manager.orders) == set(self.state) - set(self.ended[:-KEPT])
        assert [order.request.client_order_id for order in manager.open_orders()] == [
            key for key in self.state if self.state[key] not in TERMINAL
        ]
        assert self.desk.executor.submitted == self.submitted

    @invariant()
    def no_share_is_filled_twice(self) -> None:
        for key, order in self.desk.manager.orders.items():
            assert order.filled == pytest.approx(self.filled[key], abs=1e-12)
            assert order.filled <= order.request.quantity
            assert order.fill_ids == {fill_id for fill_id in self.seen if fill_id.startswith(key)}

    @invariant()
    def nothing_goes_by_unnoticed(self) -> None:
        counts = self.desk.manager.counts
        assert len(self.desk.of(OrderState)) == self.told
        assert len(self.desk.of(HandlerFailed)) == self.failed
        assert self.ignored == (
            counts.repeated_requests
            + counts.repeated_fills
            + counts.repeated_reports
            + counts.repeated_cancels
            + counts.refused_cancels
            + counts.rejected_cancels
        )

    @invariant()
    def the_states_that_were_told_follow_the_table(self) -> None:
        for key, last in self.state.items():
            told = [State(state) for state in self.desk.states(key)]
            assert all(
                after in TRANSITIONS[before] for before, after in zip([State.INITIALIZED, *told], told, strict=False)
            )
            assert told[-1] is last


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
