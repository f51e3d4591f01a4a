"""Pre-trade risk: an order is judged before it leaves the house, and a refusal says why and what to do."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import inf
from typing import Final, Protocol

from quant_assets.core.errors import ConfigError
from quant_assets.trading.component import Bus, Clock, Component, Handler
from quant_assets.trading.events import Event, Fill, OrderRequest, OrderState, RiskDenial
from quant_assets.trading.market import Market
from quant_assets.trading.orders import TERMINAL

_ROOM: Final = 1 + 1e-9
"""An order that is sized to a limit must not break it by rounding."""

_AT_ONCE: Final = frozenset({"market", "last"})
"""Kinds of orders that wait for no level."""


class Holdings(Protocol):
    """What is read of the account."""

    @property
    def cash(self) -> float: ...

    @property
    def shares(self) -> Sequence[float]:
        """Signed, by column."""

    @property
    def held(self) -> Sequence[int]:
        """Columns with a position."""


class Restraint(Protocol):
    """What is read of `controls.Controls`."""

    @property
    def reduce_only(self) -> bool: ...


@dataclass(frozen=True, slots=True)
class RiskLimits:
    """What an order may lead to; None switches a rule off.

    Shares are of the equity at the order's price. A limit that is met exactly, to a relative 1e-9, is not broken.

    Raises:
        ConfigError: a limit that is not above 0, or no symbol at all.
    """

    max_position: float | None = None
    """Share of one symbol's position, of either sign, after the order."""
    max_leverage: float | None = None
    """Sum of all positions' absolute values after the order, as a multiple of the equity."""
    max_order_value: float | None = None
    """Money that one order moves."""
    max_order_share: float | None = None
    """The same as a share."""
    max_price_age: int | None = None
    """Nanoseconds since the symbol's newest price."""
    allowed_symbols: frozenset[str] | None = None
    """What may be traded."""

    def __post_init__(self) -> None:
        for name in ("max_position", "max_leverage", "max_order_value", "max_order_share", "max_price_age"):
            value = getattr(self, name)
            if value is not None and not 0 < value < inf:
                raise ConfigError(f"{name} is {value}; it must lie in (0, inf), or be none to switch the rule off")
        if self.allowed_symbols is not None and not self.allowed_symbols:
            raise ConfigError("allowed_symbols is empty; name at least one symbol, or give none to allow all")


class _OnItsWay:
    """What is left of an accepted order, and where it is added up."""

    __slots__ = ("column", "fills", "left", "sign", "sums")

    def __init__(self, column: int, sums: list[float], sign: int, quantity: float) -> None:
        self.column = column
        self.sums = sums
        self.sign = sign
        self.left = quantity
        self.fills: tuple[str, ...] = ()


class RiskManager(Component):
    """Judges orders by these rules, in this order; the first one broken refuses the order as a whole.

    ==============  ==================================================================
    symbol          it is known and allowed
    quantity        it is above 0 and finite
    price           there is one above 0 to value the order at
    reduce_only     safety allows more exposure than there is
    price_age       the symbol's newest price is young enough
    order_value     the order's value, in money
    order_share     the order's value, as a share of the equity
    position        the symbol's position after the order, as a share of the equity
    leverage        all positions after the order, as a multiple of the equity
    ==============  ==================================================================

    An order that only brings a position nearer to 0 is held to the first three: getting out must always be possible,
    however old the price and whatever the limits. One that crosses 0 is no such order: under reduce_only it is refused
    as a whole, and otherwise judged by the position that it leads to.

    A market order is valued at the symbol's newest price, others at their own. Equity is the cash and all positions:
    the order's symbol at the order's price, others at their newest one. So the figures are those just after a fill at
    that price, before costs.

    Accepted orders count until they have ended: those at the market (and at the last price) as filled, for they are
    about to be. Of those that wait for their level, the buys or the sells of a symbol count, whichever make the larger
    position; none makes room for another order. Each of several exits that wait for their levels passes by itself:
    whoever placed them cancels the others when one is filled. An unknown number (NaN) refuses what needs it.

    Args:
        limits: the rules.
        account: holdings, by the market's columns.
        market: newest prices.
        clock: what the age of a price is measured by.
        controls: asked whether only reducing orders may pass.
    """

    name = "risk"

    def __init__(
        self, limits: RiskLimits, account: Holdings, market: Market, clock: Clock, controls: Restraint, bus: Bus
    ) -> None:
        allowed = limits.allowed_symbols
        self._columns = {
            symbol: column for symbol, column in market.column.items() if allowed is None or symbol in allowed
        }
        self._max_age, self._max_value = limits.max_price_age, limits.max_order_value
        shares = limits.max_order_share, limits.max_position, limits.max_leverage
        self._max_share, self._max_position, self._max_leverage = shares
        self._by_equity = shares != (None, None, None)
        self._account = account
        self._controls = controls
        self._next_seq = bus.next_seq
        self._now = clock.now
        self._prices = market.price
        self._marks = market.mark
        self._stamps = market.stamp
        count = len(market.symbols)
        self._ways: dict[str, _OnItsWay] = {}
        self._pending: dict[int, int] = {}  # column -> accepted orders that are not over
        self._moving = [0.0] * count  # signed shares of orders that are filled at once
        self._buys = [0.0] * count  # shares of orders that wait for their level
        self._sells = [0.0] * count
        self.denials: Counter[str] = Counter()
        """Refusals by rule."""

    def handlers(self) -> Mapping[type[Event], Handler]:
        return {Fill: self._on_fill, OrderState: self._on_order_state}

    def review(self, request: OrderRequest) -> RiskDenial | None:
        """Judge an order that was not reviewed before; what is accepted counts from now on.

        Returns:
            None: it may go. Else why not, to be published by the caller.
        """
        column = self._columns.get(request.symbol)
        if column is None:
            return self._deny(
                request, "symbol", request.quantity, 0.0, "it may not be traded; add it to allowed_symbols"
            )
        quantity = request.quantity
        if not 0.0 < quantity < inf:
            return self._deny(request, "quantity", quantity, 0.0, "this is no number of shares; size the order anew")
        at_once = request.kind in _AT_ONCE
        price = self._prices[column] if request.kind == "market" else request.price
        if not 0.0 < price < inf:
            return self._deny(request, "price", price, 0.0, "there is no price for the order; wait for the next bar")
        side = request.side
        position = self._account.shares[column] + self._moving[column]
        reduces = position * side < 0.0 and quantity <= abs(position) * _ROOM
        if not reduces:
            denial = self._judge(request, column, at_once, price, position)
            if denial is not None:
                return denial
        if at_once:
            way = _OnItsWay(column, self._moving, side, quantity)
        else:
            way = _OnItsWay(column, self._buys if side > 0 else self._sells, 1, quantity)
        way.sums[column] += way.sign * quantity
        self._ways[request.client_order_id] = way
        self._pending[column] = self._pending.get(column, 0) + 1
        return None

    def _judge(
        self, request: OrderRequest, column: int, at_once: bool, price: float, position: float
    ) -> RiskDenial | None:
        """The rules for orders that add exposure."""
        signed = request.side * request.quantity
        if self._controls.reduce_only:
            closes = max(0.0, -request.side * position)
            why = "safety lets positions only be reduced; order at most what closes it, or reset safety"
            return self._deny(request, "reduce_only", request.quantity, closes, why)
        if self._max_age is not None and (age := self._now() - self._stamps[column]) > self._max_age:
            why = "its newest price is too old (ns); wait for the next bar, or raise max_price_age"
            return self._deny(request, "price_age", age, self._max_age, why)
        value = request.quantity * price
        if self._max_value is not None and not value <= self._max_value * _ROOM:
            why = "the order moves too much money; split it, or raise max_order_value"
            return self._deny(request, "order_value", value, self._max_value, why)
        if not self._by_equity:
            return None
        account, prices, marks, pending = self._account, self._prices, self._marks, self._pending
        shares = account.shares
        equity = account.cash + shares[column] * price
        gross = 0.0
        for other in account.held:
            if other != column:
                at = prices[other]
                worth = shares[other] * (at if at == at else marks[other])
                equity += worth
                gross += abs(worth)
        room = equity * _ROOM
        if self._max_share is not None and not value <= self._max_share * room:
            why = "the order moves too large a share of the equity; split it, or raise max_order_share"
            return self._deny(request, "order_share", _share(value, equity), self._max_share, why)
        if pending:
            high, low = position + self._buys[column], position - self._sells[column]
            high = high + signed if at_once or signed > 0 else high
            low = low + signed if at_once or signed < 0 else low
            after = max(high, -low) * price
            gross += self._added_by_pending(column)
        else:
            after = abs(position + signed) * price
        if self._max_position is not None and not after <= self._max_position * room:
            why = "its position would be too large a share of the equity; order less, or raise max_position"
            return self._deny(request, "position", _share(after, equity), self._max_position, why)
        if self._max_leverage is not None and not gross + after <= self._max_leverage * room:
            why = "all positions would be too large for the equity; order less, or raise max_leverage"
            return self._deny(request, "leverage", _share(gross + after, equity), self._max_leverage, why)
        return None

    def _added_by_pending(self, apart: int) -> float:
        """What the orders on their way add to the gross value of the columns, one apart."""
        added = 0.0
        for column in self._pending:
            if column != apart:
                held = self._account.shares[column]
                position = held + self._moving[column]
                worst = max(position + self._buys[column], self._sells[column] - position)
                at = self._prices[column]
                added += (worst - abs(held)) * (at if at == at else self._marks[column])
        return added

    def _deny(self, request: OrderRequest, rule: str, value: float, limit: float, why: str) -> RiskDenial:
        self.denials[rule] += 1
        return RiskDenial(
            request.ts,
            self._next_seq(),
            request.correlation,
            request.seq,
            request.client_order_id,
            request.symbol,
            rule,
            float(value),
            float(limit),
            f"{request.symbol}: {why} ({rule} {value:g}, limit {limit:g})",
        )

    def _on_fill(self, fill: Fill) -> None:
        way = self._ways.get(fill.client_order_id)
        if way is not None and fill.fill_id not in way.fills:
            way.fills += (fill.fill_id,)
            way.left -= fill.quantity
            way.sums[way.column] -= way.sign * fill.quantity

    def _on_order_state(self, event: OrderState) -> None:
        if event.state in TERMINAL and (way := self._ways.get(event.client_order_id)) is not None:
            self._end(event.client_order_id, way)

    def _end(self, client_order_id: str, way: _OnItsWay) -> None:
        del self._ways[client_order_id]
        column = way.column
        others = self._pending[column] - 1
        if others:
            self._pending[column] = others
            way.sums[column] -= way.sign * way.left
        else:  # nothing is left: nor is what rounding would leave
            del self._pending[column]
            self._moving[column] = self._buys[column] = self._sells[column] = 0.0


def _share(value: float, equity: float) -> float:
    return value / equity if equity > 0 else inf
