"""Pre-trade risk: which orders are refused, and that nothing accepted leads beyond a limit."""

from dataclasses import dataclass, field
from itertools import count
from math import inf, nan
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from quant_assets.core.errors import ConfigError
from quant_assets.trading.bus import ReplayBus
from quant_assets.trading.component import ReplayClock
from quant_assets.trading.events import Bar, Fill, Opening, OrderRequest, OrderState, RiskDenial
from quant_assets.trading.market import Market
from quant_assets.trading.orders import State
from quant_assets.trading.risk import RiskLimits, RiskManager

SYMBOLS = ("AAA", "BBB", "CCC")


@dataclass
class Account:
    """What risk reads of an account; fills are booked without costs."""

    cash: float
    shares: list[float] = field(default_factory=lambda: [0.0] * len(SYMBOLS))

    @property
    def held(self) -> list[int]:
        return [column for column, shares in enumerate(self.shares) if shares]


@dataclass
class Controls:
    reduce_only: bool = False


class Desk:
    """A risk manager over prices and holdings that tests set."""

    def __init__(self, limits: RiskLimits, cash: float = 1_000.0, **shares: float) -> None:
        self.market, self.clock, self.controls, self.account = Market(SYMBOLS), ReplayClock(), Controls(), Account(cash)
        self.risk = RiskManager(limits, self.account, self.market, self.clock, self.controls, ReplayBus())
        self.limits, self.number = limits, count(1)
        for symbol in SYMBOLS:
            self.bar(symbol, 10.0)
        for symbol, quantity in shares.items():
            self.account.shares[self.market.column[symbol]] = quantity

    def bar(self, symbol: str, price: float, ts: int = 0) -> None:
        self.market.handlers()[Bar](Bar(ts, 1, 1, 0, symbol, price, price, price, price, 1.0))

    def order(self, signed: float, symbol: str = "AAA", kind: str = "market", price: float = 10.0) -> OrderRequest:
        key, side = f"o-{next(self.number)}", 1 if signed > 0 else -1
        return OrderRequest(5, 40, 30, 20, key, "test", symbol, side, abs(signed), kind, price, "rebalance")

    def rule(self, *order: Any, **fields: Any) -> str | None:
        """The rule that an order breaks."""
        denial = self.risk.review(self.order(*order, **fields))
        return denial and denial.rule

    def fill(self, order: OrderRequest, quantity: float, number: int = 1) -> None:
        """Book a part of an order, here and there."""
        column = self.market.column[order.symbol]
        if number > 0:
            self.account.shares[column] += order.side * quantity
            self.account.cash -= order.side * quantity * order.price
        fill = Fill(
            6, 41, 30, 40, order.client_order_id, f"{order.client_order_id}/{abs(number)}", order.symbol, order.side,
            quantity, order.price, order.price, 0.0, "",
        )  # fmt: skip
        self.risk.handlers()[Fill](fill)

    def settle(self, orders: list[OrderRequest]) -> None:
        """Fill all of the orders in full, and forget them."""
        for order in orders:
            self.fill(order, order.quantity)
            self.end(order, State.FILLED)
        orders.clear()

    def end(self, order: OrderRequest, state: State) -> None:
        self.risk.handlers()[OrderState](OrderState(6, 42, 30, 41, order.client_order_id, order.symbol, state, 0.0, ""))


# --- each rule ---


@pytest.mark.parametrize(
    ("limits", "signed", "rule"),
    [
        ({"max_position": 0.5}, 50.0, None),
        ({"max_position": 0.5}, 50.1, "position"),
        ({"max_position": 0.5}, -50.0, None),
        ({"max_position": 0.5}, -50.1, "position"),
        ({"max_leverage": 1.5}, 150.0, None),
        ({"max_leverage": 1.5}, 150.1, "leverage"),
        ({"max_order_value": 300.0}, 30.0, None),
        ({"max_order_value": 300.0}, 30.1, "order_value"),
        ({"max_order_share": 0.3}, -30.0, None),
        ({"max_order_share": 0.3}, -30.1, "order_share"),
        ({"allowed_symbols": frozenset({"AAA"})}, 1e9, None),
        ({"allowed_symbols": frozenset({"BBB"})}, 1.0, "symbol"),
        ({}, nan, "quantity"),
        ({}, inf, "quantity"),
        ({}, 0.0, "quantity"),
    ],
)
def test_an_order_up_to_a_limit_passes_and_above_it_is_refused(limits: dict[str, Any], signed: float, rule: str | None):
    assert Desk(RiskLimits(**limits)).rule(signed) == rule


def test_an_unknown_symbol_is_refused():
    assert Desk(RiskLimits()).rule(1.0, "ZZZ") == "symbol"


def test_a_price_may_be_as_old_as_the_limit():
    desk = Desk(RiskLimits(max_price_age=100))
    desk.clock.time = 100
    assert desk.rule(1.0) is None
    desk.clock.time = 101
    assert desk.rule(1.0) == "price_age"
    desk.market.handlers()[Opening](Opening(101, 1, 1, 0, "AAA", 10.0))
    assert desk.rule(1.0) is None


def test_without_a_price_there_is_no_market_order_and_with_a_bad_level_no_limit_order():
    desk = Desk(RiskLimits(), AAA=5.0)
    desk.market.price[0] = nan
    assert desk.rule(1.0) == desk.rule(-5.0) == "price"
    assert desk.rule(1.0, kind="limit", price=9.0) is None
    assert desk.rule(1.0, kind="limit", price=nan) == desk.rule(1.0, kind="stop", price=0.0) == "price"


def test_positions_of_other_symbols_count_at_their_newest_price_and_without_one_at_their_mark():
    desk = Desk(RiskLimits(max_leverage=1.0), cash=0.0, AAA=50.0, BBB=50.0)
    desk.bar("BBB", 30.0)  # equity 2,000, all invested
    assert desk.rule(1.0, "CCC") == "leverage"
    desk.account.cash, desk.market.price[1], desk.market.mark[1] = 100.0, nan, 20.0
    assert desk.rule(10.1, "CCC") == "leverage"
    assert desk.rule(10.0, "CCC") is None


def test_a_short_position_counts_with_its_absolute_value():
    desk = Desk(RiskLimits(max_leverage=1.0), cash=1_500.0, AAA=-50.0)  # equity 1,000
    assert desk.rule(50.1, "BBB") == "leverage"
    assert desk.rule(50.0, "BBB") is None


def test_a_limit_order_is_judged_at_its_level():
    desk = Desk(RiskLimits(max_position=0.5))
    assert desk.rule(60.0, kind="limit", price=8.0) is None
    assert Desk(RiskLimits(max_position=0.5)).rule(45.0, kind="stop", price=12.0) == "position"


def test_an_order_sized_to_a_limit_is_not_refused_for_rounding():
    desk = Desk(RiskLimits(max_position=0.1, max_leverage=0.1, max_order_share=0.1, max_order_value=100.0))
    desk.bar("AAA", 0.3)
    assert desk.rule(0.1 * 1_000 / 0.3 * (1 + 1e-15)) is None


def test_an_unknown_cash_refuses_what_needs_the_equity():
    desk = Desk(RiskLimits(max_position=10.0), cash=nan, AAA=5.0)
    assert desk.rule(1.0) == "position"
    assert desk.rule(-5.0) is None


def test_without_equity_nothing_is_bought():
    denial = Desk(RiskLimits(max_leverage=10.0), cash=-1.0).risk.review(Desk(RiskLimits()).order(1.0))
    assert denial is not None
    assert (denial.rule, denial.value) == ("leverage", inf)


# --- reducing ---

STRICT = RiskLimits(
    max_position=1e-6, max_leverage=1e-6, max_order_value=1e-6, max_order_share=1e-6, max_price_age=1
)  # fmt: skip


@given(
    st.floats(-1e4, 1e4).filter(lambda shares: abs(shares) > 1e-6),
    st.floats(0.0, 1.0, exclude_min=True),
    st.floats(-1e6, 1e6),
    st.sampled_from(["market", "stop", "limit", "last"]),
)
@settings(max_examples=60)
def test_an_order_that_reduces_a_position_passes(shares: float, part: float, cash: float, kind: str):
    desk = Desk(STRICT, cash, AAA=shares)
    desk.clock.time = 10**18
    desk.controls.reduce_only = True
    assume(shares * part)
    assert desk.rule(-shares * part, kind=kind) is None


@pytest.mark.parametrize(("signed", "rule"), [(-50.0, None), (-50.1, "reduce_only"), (0.1, "reduce_only")])
def test_reduce_only_refuses_what_opens_adds_or_crosses_zero(signed: float, rule: str | None):
    desk = Desk(RiskLimits(), AAA=50.0)
    desk.controls.reduce_only = True
    assert desk.rule(signed) == rule
    assert desk.rule(1.0, "BBB") == "reduce_only"


def test_an_order_that_crosses_zero_is_judged_by_where_it_leads():
    assert Desk(RiskLimits(max_position=0.5), cash=500.0, AAA=50.0).rule(-100.0) is None
    assert Desk(RiskLimits(max_position=0.5), cash=500.0, AAA=50.0).rule(-100.1) == "position"


# --- orders on their way ---


def test_orders_of_one_moment_are_judged_together():
    desk = Desk(RiskLimits(max_leverage=1.0))
    assert [desk.rule(40.0, symbol) for symbol in SYMBOLS] == [None, None, "leverage"]


def test_sells_of_a_moment_make_room_for_its_buys():
    desk = Desk(RiskLimits(max_leverage=1.0), cash=0.0, AAA=100.0)
    assert desk.rule(100.0, "BBB") == "leverage"
    assert desk.rule(-100.0) is None
    assert desk.rule(100.0, "BBB") is None


def test_a_position_is_closed_once_and_not_twice():
    desk = Desk(RiskLimits(), AAA=100.0)
    desk.controls.reduce_only = True
    assert [desk.rule(-100.0), desk.rule(-100.0)] == [None, "reduce_only"]


def test_a_waiting_sell_makes_no_room_and_a_waiting_buy_takes_it():
    desk = Desk(RiskLimits(max_position=1.0), cash=500.0, AAA=50.0)
    assert desk.rule(-50.0, kind="stop") is None
    assert desk.rule(50.1) == "position"
    assert desk.rule(30.0, kind="limit") is None
    assert desk.rule(20.1) == "position"
    assert desk.rule(20.0) is None


def test_of_waiting_buys_and_sells_the_larger_position_counts():
    desk = Desk(RiskLimits(max_position=1.0))
    assert desk.rule(100.0, kind="limit") is None
    assert desk.rule(-100.0, kind="limit") is None
    assert desk.rule(0.1, kind="limit") == desk.rule(-0.1, kind="limit") == "position"


@pytest.mark.parametrize("state", [State.CANCELED, State.REJECTED, State.EXPIRED])
@pytest.mark.parametrize("kind", ["market", "limit"])
def test_an_order_that_ends_unfilled_counts_no_more(kind: str, state: State):
    desk = Desk(RiskLimits(max_position=1.0))
    order, other = desk.order(60.0, kind=kind), desk.order(20.0, kind=kind)
    assert desk.risk.review(order) is None
    assert desk.risk.review(other) is None
    desk.end(order, state)
    assert desk.rule(80.1) == "position"
    assert desk.rule(80.0) is None


@pytest.mark.parametrize("kind", ["market", "limit"])
def test_a_partial_fill_counts_once_even_when_it_comes_again(kind: str):
    desk = Desk(RiskLimits(max_position=1.0))
    order = desk.order(60.0, kind=kind)
    assert desk.risk.review(order) is None
    desk.fill(order, 40.0)
    desk.fill(order, 40.0, number=-1)  # the account knows it
    assert desk.rule(40.1) == "position"
    assert desk.rule(40.0) is None
    desk.end(order, State.CANCELED)
    assert desk.rule(20.1) == "position"
    assert desk.rule(20.0) is None


limits = st.builds(
    RiskLimits,
    max_position=st.sampled_from([None, 0.3, 1.0, 1.7]),
    max_leverage=st.sampled_from([None, 0.5, 1.0, 2.3]),
    max_order_value=st.sampled_from([None, 400.0, 1_200.0]),
    max_order_share=st.sampled_from([None, 0.6, 1.1]),
)
orders = st.lists(
    st.tuples(st.sampled_from(SYMBOLS), st.integers(-15, 15).filter(bool).map(lambda tens: 10.0 * tens)), max_size=25
)


def assert_within(desk: Desk) -> None:
    """All prices are 10 and the equity is 1,000."""
    limits, values = desk.limits, [abs(shares) * 10.0 for shares in desk.account.shares]
    assert max(values) <= (limits.max_position or inf) * 1_000 * (1 + 1e-8)
    assert sum(values) <= (limits.max_leverage or inf) * 1_000 * (1 + 1e-8)


@given(limits, orders, st.randoms())
def test_market_orders_that_are_accepted_lead_beyond_no_limit(
    limits: RiskLimits, orders: list[tuple[str, float]], random: Any
):
    desk, accepted = Desk(limits), []
    for symbol, signed in orders:
        order = desk.order(signed, symbol)
        if desk.risk.review(order) is None:
            accepted.append(order)
        if random.random() < 0.3:
            desk.settle(accepted)
            assert_within(desk)
    desk.settle(accepted)
    assert_within(desk)


@given(limits, orders, st.randoms())
def test_limit_orders_that_add_lead_beyond_no_limit_whichever_are_filled(
    limits: RiskLimits, orders: list[tuple[str, float]], random: Any
):
    desk, waiting = Desk(limits), []
    for symbol, signed in orders:
        position = desk.account.shares[desk.market.column[symbol]]
        order = desk.order(signed, symbol, "limit")
        if abs(position + signed) > abs(position) and desk.risk.review(order) is None:
            assert order.quantity * 10.0 <= min(limits.max_order_value or inf, 1_000 * (limits.max_order_share or inf))
            waiting.append(order)
        if waiting and random.random() < 0.3:
            desk.settle([waiting.pop(random.randrange(len(waiting)))])
            assert_within(desk)


# --- denials ---


def test_a_denial_names_rule_value_limit_and_remedy():
    desk = Desk(RiskLimits(max_position=0.5))
    order = desk.order(60.0)
    assert desk.risk.review(order) == RiskDenial(
        5, 1, 30, 40, order.client_order_id, "AAA", "position", 0.6, 0.5,
        "AAA: its position would be too large a share of the equity; order less, or raise max_position "
        "(position 0.6, limit 0.5)",
    )  # fmt: skip


def test_denials_are_counted_by_rule():
    desk = Desk(RiskLimits(max_position=0.5, max_order_value=1_000.0))
    for signed in (60.0, 70.0, 110.0, 1.0):
        desk.risk.review(desk.order(signed))
    assert desk.risk.denials == {"position": 2, "order_value": 1}


def test_the_first_rule_broken_is_named():
    desk = Desk(STRICT)
    desk.clock.time = 10
    assert desk.rule(1.0) == "price_age"
    desk.controls.reduce_only = True
    assert desk.rule(1.0) == "reduce_only"


@pytest.mark.parametrize(
    "wrong",
    [
        {"max_position": 0.0},
        {"max_leverage": -1.0},
        {"max_order_value": nan},
        {"max_order_share": inf},
        {"max_price_age": 0},
        {"allowed_symbols": frozenset()},
    ],
)
def test_limits_that_would_allow_nothing_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        RiskLimits(**wrong)
