"""What happens in a trading system, as immutable records: one class per kind of event, and nothing else travels.

Every event says when it happened (`ts`, nanoseconds since 1970 UTC, of the market's time), its place in the stream
(`seq`, from 1, without gaps), and where it comes from: `causation` is the `seq` of the event that made a component
publish it (0: none), `correlation` the `seq` of the event from outside that began the chain, so that a fill leads back
to its bar.

Events are MessagePack arrays at rest (`encode`, `decode`), in the order of their fields with the class's name first.
`SCHEMA_VERSION` is raised whenever a field is added, removed or changes its meaning.
"""

from enum import IntEnum
from typing import Final, get_args

import msgspec

SCHEMA_VERSION: Final = 1


class Level(IntEnum):
    """Priorities of the bus, most urgent first."""

    P0 = 0
    """What must never be lost: orders, fills, denials, changes of state."""
    P1 = 1
    """What the market does and what is wanted because of it; old news is worth nothing."""
    P2 = 2
    """Pictures of a state, of which the newest is enough."""
    P3 = 3
    """Signs of life."""


class Event(msgspec.Struct, frozen=True, gc=False, array_like=True):
    """What all events have."""

    ts: int
    seq: int
    correlation: int
    causation: int


class Opening(Event, frozen=True, gc=False, array_like=True, tag="opening"):
    """The first price of a bar that is under way."""

    symbol: str
    price: float


class Bar(Event, frozen=True, gc=False, array_like=True, tag="bar"):
    """A bar that has ended."""

    symbol: str
    open: float
    high: float
    low: float
    close: float
    volume: float


class Phase(IntEnum):
    """Moments of a bar's time, in their order; a feed marks those that its subscribers act on."""

    NIGHT = 0
    """Before the first price: positions held over the night pay funding."""
    OPEN_STOPS = 1
    """All openings are in: stops that they have passed."""
    OPEN = 2
    """Orders at the open."""
    WITHIN = 3
    """All bars are in: stops whose level lows and highs reached."""
    CLOSE = 4
    """Orders at the close."""


class Moment(Event, frozen=True, gc=False, array_like=True, tag="moment"):
    """All events of one time up to this phase have been published: what waits for all symbols may act."""

    phase: int
    row: int
    """Number of the bar's time in the replay, from 0; live: since the start."""


class Ended(Event, frozen=True, gc=False, array_like=True, tag="ended"):
    """The symbol has no bars any more: its last one was that of the time before."""

    symbol: str


class Signal(Event, frozen=True, gc=False, array_like=True, tag="signal"):
    """A strategy's score or exposure of a symbol; NaN: none."""

    strategy_id: str
    symbol: str
    value: float


class Decision(Event, frozen=True, gc=False, array_like=True, tag="decision"):
    """All signals of this time are out: the portfolio may be decided."""

    strategy_id: str
    row: int


class Target(Event, frozen=True, gc=False, array_like=True, tag="target"):
    """What a strategy wants to hold of a symbol: a share of the equity, or with `unit` "shares" a number of them."""

    strategy_id: str
    symbol: str
    value: float
    unit: str = "weight"


class OrderRequest(Event, frozen=True, gc=False, array_like=True, tag="order_request"):
    """An order that is wanted. The same `client_order_id` again is the same order, and is not placed twice."""

    client_order_id: str
    strategy_id: str
    symbol: str
    side: int
    """1 buys, -1 sells."""
    quantity: float
    """Shares, above 0."""
    kind: str
    """market, stop, limit, or last: at the last price there was, for a symbol that has ended."""
    price: float
    """market and last: the price that it was sized on; stop and limit: the level."""
    reason: str
    """Why: one of `portfolio.REASONS`."""


class CancelRequest(Event, frozen=True, gc=False, array_like=True, tag="cancel_request"):
    """What is still open of an order is to be withdrawn."""

    client_order_id: str
    reason: str


class ExecutionReport(Event, frozen=True, gc=False, array_like=True, tag="execution_report"):
    """What an executor says of an order, fills apart."""

    client_order_id: str
    status: str
    """accepted, rejected, canceled, expired, or cancel_rejected: the order lives on."""
    reason: str


class OrderState(Event, frozen=True, gc=False, array_like=True, tag="order_state"):
    """An order has changed its state (`orders.State`)."""

    client_order_id: str
    symbol: str
    state: str
    filled: float
    """Shares so far."""
    reason: str


class Fill(Event, frozen=True, gc=False, array_like=True, tag="fill"):
    """A part of an order was executed, or all of it."""

    client_order_id: str
    fill_id: str
    symbol: str
    side: int
    quantity: float
    price: float
    """Per share, slippage included."""
    quoted: float
    """Per share, before slippage."""
    fees: float
    reason: str


class CashMovement(Event, frozen=True, gc=False, array_like=True, tag="cash_movement"):
    """Money that moved without a fill: funding, for instance."""

    symbol: str
    amount: float
    """Received where positive."""
    reason: str


class RiskDenial(Event, frozen=True, gc=False, array_like=True, tag="risk_denial"):
    """An order that was refused before it left the house, and why."""

    client_order_id: str
    symbol: str
    rule: str
    value: float
    limit: float
    reason: str


class SafetyChange(Event, frozen=True, gc=False, array_like=True, tag="safety_change"):
    """The safety state changed: NORMAL, WARNING, FAIL, LOCKDOWN."""

    before: str
    after: str
    reason: str


class OperatingChange(Event, frozen=True, gc=False, array_like=True, tag="operating_change"):
    """The operating state changed: AGGRESSIVE, BALANCED, DEFENSIVE."""

    before: str
    after: str
    reason: str


class Degradation(Event, frozen=True, gc=False, array_like=True, tag="degradation"):
    """The bus changed what it still delivers."""

    before: str
    after: str
    load: float


class HandlerFailed(Event, frozen=True, gc=False, array_like=True, tag="handler_failed"):
    """A handler raised on the event `causation`; the others got it all the same."""

    component: str
    kind: str
    """The event's tag."""
    error: str


class AccountSnapshot(Event, frozen=True, gc=False, array_like=True, tag="account_snapshot"):
    """The account after a bar's time."""

    row: int
    cash: float
    equity: float
    gross: float
    """Sum of the positions' absolute values."""
    positions: int


class Heartbeat(Event, frozen=True, gc=False, array_like=True, tag="heartbeat"):
    """A component is alive."""

    component: str
    cycle: int


AnyEvent = (
    Opening
    | Bar
    | Moment
    | Ended
    | Signal
    | Decision
    | Target
    | OrderRequest
    | CancelRequest
    | ExecutionReport
    | OrderState
    | Fill
    | CashMovement
    | RiskDenial
    | SafetyChange
    | OperatingChange
    | Degradation
    | HandlerFailed
    | AccountSnapshot
    | Heartbeat
)

KINDS: Final[dict[type[Event], str]] = {kind: str(kind.__struct_config__.tag) for kind in get_args(AnyEvent)}
"""Every kind of event and its name at rest."""

_URGENT: Final[tuple[type[Event], ...]] = (
    OrderRequest,
    CancelRequest,
    ExecutionReport,
    OrderState,
    Fill,
    CashMovement,
    RiskDenial,
    SafetyChange,
    OperatingChange,
    Degradation,
    HandlerFailed,
)

LEVELS: Final[dict[type[Event], Level]] = {
    **dict.fromkeys(KINDS, Level.P1),
    **dict.fromkeys(_URGENT, Level.P0),
    AccountSnapshot: Level.P2,
    Heartbeat: Level.P3,
}
"""The priority at which subscribers get an event, unless they ask for another."""

_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(AnyEvent)
encode = _encoder.encode


def decode(record: bytes) -> Event:
    """The event of `encode`.

    Raises:
        msgspec.DecodeError: no event of this schema version.
    """
    event: Event = _decoder.decode(record)
    return event
