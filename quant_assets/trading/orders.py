"""What an order is: its states, the ways between them, and how fills and news change it.

Whoever keeps orders goes through `Order.enter` and `Order.fill`, which refuse what cannot be: `TRANSITIONS` is the only
place that says which state may follow which.
"""

from enum import StrEnum, auto
from math import inf
from typing import Final

from quant_assets.core.errors import TradingError
from quant_assets.trading.events import Fill, OrderRequest

ORDER_KINDS: Final = ("market", "stop", "limit", "last")
"""Kinds of `OrderRequest`."""

TOLERANCE: Final = 1e-9
"""Share of an order's quantity: an order is filled where no more than this is left of it, for the sum of its fills may
miss the quantity by rounding, and overfilled where fills exceed the quantity by more than this."""


CANCEL_REJECTED: Final = "cancel_rejected"
"""Status of an `ExecutionReport`, of a cancel: the order lives on. The other statuses are states of the order."""


class State(StrEnum):
    """Of an order; the values of `OrderState.state`."""

    INITIALIZED = auto()
    """Made, and not judged yet."""
    DENIED = auto()
    """Refused by us."""
    SUBMITTED = auto()
    """With the executor, which has not said anything yet."""
    ACCEPTED = auto()
    """Resting."""
    PARTIALLY_FILLED = auto()
    FILLED = auto()
    PENDING_CANCEL = auto()
    """Withdrawn by us, and not confirmed: fills may still come, and all but the last leave this state as it is."""
    CANCELED = auto()
    REJECTED = auto()
    """Refused by the executor."""
    EXPIRED = auto()


TRANSITIONS: Final[dict[State, frozenset[State]]] = {
    State.INITIALIZED: frozenset({State.DENIED, State.SUBMITTED}),
    State.SUBMITTED: frozenset(
        {
            State.ACCEPTED,
            State.PARTIALLY_FILLED,
            State.FILLED,
            State.PENDING_CANCEL,
            State.CANCELED,
            State.REJECTED,
            State.EXPIRED,
        }
    ),
    State.ACCEPTED: frozenset(
        {State.PARTIALLY_FILLED, State.FILLED, State.PENDING_CANCEL, State.CANCELED, State.EXPIRED}
    ),
    State.PARTIALLY_FILLED: frozenset(
        {State.PARTIALLY_FILLED, State.FILLED, State.PENDING_CANCEL, State.CANCELED, State.EXPIRED}
    ),
    State.PENDING_CANCEL: frozenset(
        {
            State.PENDING_CANCEL,
            State.ACCEPTED,
            State.PARTIALLY_FILLED,
            State.FILLED,
            State.CANCELED,
            State.REJECTED,
            State.EXPIRED,
        }
    ),
    State.DENIED: frozenset(),
    State.FILLED: frozenset(),
    State.CANCELED: frozenset(),
    State.REJECTED: frozenset(),
    State.EXPIRED: frozenset(),
}
"""State -> those that may follow it. A state follows itself where a further fill leaves it as it is; PENDING_CANCEL is
left for ACCEPTED or PARTIALLY_FILLED where the executor refuses to cancel."""

_INITIALIZED: Final = State.INITIALIZED  # to look a member up by its name takes long, and each order needs these
_FILLED: Final = State.FILLED

TERMINAL: Final = frozenset(state for state, following in TRANSITIONS.items() if not following)
"""Nothing follows these."""


def fault(request: OrderRequest) -> str | None:
    """What makes a request no order at all, or None."""
    if request.kind not in ORDER_KINDS:
        return f"kind {request.kind!r} is none of {', '.join(ORDER_KINDS)}"
    if request.side != 1 and request.side != -1:
        return f"side {request.side} is neither 1 nor -1"
    if not 0 < request.quantity < inf:
        return f"quantity {request.quantity} is not a number above 0"
    if not 0 < request.price < inf:
        return f"price {request.price} is not a number above 0"
    return None


class Order:
    """One order and what has become of it.

    Attributes:
        filled: shares so far; exactly the request's quantity once the state is FILLED.
        average_price: of the fills, per share, slippage included; 0 before the first.
        fees: of the fills.
        fill_ids: of the fills that were counted.
    """

    __slots__ = ("average_price", "fees", "fill_ids", "filled", "request", "state")

    def __init__(self, request: OrderRequest) -> None:
        self.request = request
        self.state = _INITIALIZED
        self.filled = 0.0
        self.average_price = 0.0
        self.fees = 0.0
        self.fill_ids: set[str] = set()

    @property
    def remaining(self) -> float:
        """Shares that are not filled yet."""
        return self.request.quantity - self.filled

    def enter(self, state: State) -> None:
        """Go into another state.

        Raises:
            TradingError: `TRANSITIONS` has no way there; the order is as before.
        """
        if state not in TRANSITIONS[self.state]:
            raise TradingError(f"order {self.request.client_order_id} is {self.state} and cannot become {state}")
        self.state = state

    def fill(self, fill: Fill) -> bool:
        """Count a fill; False where it was counted before, which changes nothing.

        Raises:
            TradingError: the fill is of something else, exceeds what is left by more than `TOLERANCE`, or comes in a
                state that has no fills; the order is as before.
        """
        if fill.fill_id in self.fill_ids:
            return False
        request = self.request
        quantity, wanted = fill.quantity, request.quantity
        filled = self.filled + quantity
        if fill.side != request.side or fill.symbol != request.symbol or not (quantity > 0 and 0 < fill.price < inf):
            raise TradingError(
                f"fill {fill.fill_id} of {fill.quantity} {fill.symbol} at {fill.price}, side {fill.side}, does not fit "
                f"order {request.client_order_id} of {wanted} {request.symbol}, side {request.side}"
            )
        left = wanted - filled
        if left < -TOLERANCE * wanted:
            raise TradingError(
                f"fill {fill.fill_id} of {quantity} exceeds what is left of order {request.client_order_id}, which is "
                f"{self.state}: {self.remaining} of {wanted}"
            )
        if left <= TOLERANCE * wanted:
            self.enter(_FILLED)
            self.filled = wanted
        else:
            self.enter(State.PENDING_CANCEL if self.state is State.PENDING_CANCEL else State.PARTIALLY_FILLED)
            self.filled = filled
        self.average_price += (fill.price - self.average_price) * (quantity / filled)
        self.fees += fill.fees
        self.fill_ids.add(fill.fill_id)
        return True
