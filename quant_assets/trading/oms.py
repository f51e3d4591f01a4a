"""Keeps the orders: takes requests, has them judged, hands them to the executor, and follows what becomes of them.

Nothing is placed twice and nothing is counted twice: a `client_order_id` or a fill that was seen before is ignored and
counted, for messages may come again after a connection was lost. What contradicts the order it is about raises
TradingError, which the bus journals, and leaves the order as it is.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from quant_assets.core.errors import TradingError
from quant_assets.trading.component import Bus, Component, Handler
from quant_assets.trading.events import (
    CancelRequest,
    Event,
    ExecutionReport,
    Fill,
    OrderRequest,
    OrderState,
    RiskDenial,
)
from quant_assets.trading.executors import Executor
from quant_assets.trading.orders import CANCEL_REJECTED, TERMINAL, Order, State, fault

Gate = Callable[[OrderRequest], RiskDenial | None]
"""Judges an order before it leaves; a denial comes back unpublished."""

_SUBMITTED: Final = State.SUBMITTED  # to look a member up by its name takes long, and each order needs this one
_REPORTED: dict[str, State] = {
    state.value: state for state in (State.ACCEPTED, State.REJECTED, State.CANCELED, State.EXPIRED)
}


@dataclass(slots=True)
class OrderCounts:
    """What was ignored or refused, and why."""

    repeated_requests: int = 0
    repeated_fills: int = 0
    repeated_reports: int = 0
    """Reports that say what was known already, late acceptances included."""
    repeated_cancels: int = 0
    """Of orders that are being canceled."""
    refused_cancels: int = 0
    """Of orders that are unknown or have ended."""
    rejected_cancels: int = 0
    """Refused by the executor."""
    strays: int = 0
    """Fills and reports of orders that were never requested here."""


class OrderManager(Component):
    """The only writer of orders.

    Args:
        gate: is asked before an order leaves. Where it raises, the order is denied.
        kept: so many ended orders stay in `orders`, the last ones. Of all others only the id and the last state are
            kept: such an order is not placed again, and a late fill of it is refused.

    Attributes:
        orders: open and recently ended ones, by client_order_id.
        counts: what was ignored or refused.
    """

    name = "orders"

    def __init__(self, bus: Bus, gate: Gate, executor: Executor, kept: int = 1_000) -> None:
        self._next_seq, self._publish = bus.next_seq, bus.publish
        self._gate, self._submit, self._cancel = gate, executor.submit, executor.cancel
        self._kept = kept
        self._open: dict[str, Order] = {}
        self._ended: dict[str, State] = {}
        self._recent: deque[str] = deque()
        self.orders: dict[str, Order] = {}
        self.counts = OrderCounts()

    def handlers(self) -> dict[type[Event], Handler]:
        return {
            OrderRequest: self._on_request,
            CancelRequest: self._on_cancel,
            ExecutionReport: self._on_report,
            Fill: self._on_fill,
        }

    def open_orders(self) -> list[Order]:
        """Those that are not in a terminal state, in the order of their requests."""
        return list(self._open.values())

    @property
    def requested(self) -> int:
        """Orders that were ever requested here, those that were denied too."""
        return len(self._open) + len(self._ended)

    def state(self, client_order_id: str) -> State | None:
        """The present or last state of any order that was ever requested here, else None."""
        order = self._open.get(client_order_id)
        return order.state if order is not None else self._ended.get(client_order_id)

    def _on_request(self, request: OrderRequest) -> None:
        key = request.client_order_id
        if key in self._open or key in self._ended:
            self.counts.repeated_requests += 1
            return
        order = Order(request)
        self.orders[key] = self._open[key] = order
        wrong = fault(request)
        if wrong is not None:
            self._move(order, State.DENIED, request, wrong)
            return
        try:
            denial = self._gate(request)
        except Exception as error:
            self._move(order, State.DENIED, request, f"the risk gate failed: {error}")
            raise
        if denial is not None:
            self._publish(denial)
            self._move(order, State.DENIED, denial, denial.reason)
        else:
            self._move(order, _SUBMITTED, request, "")
            self._submit(request)

    def _on_cancel(self, request: CancelRequest) -> None:
        order = self._open.get(request.client_order_id)
        if order is None:
            self.counts.refused_cancels += 1
        elif order.state is State.PENDING_CANCEL:
            self.counts.repeated_cancels += 1
        else:
            self._move(order, State.PENDING_CANCEL, request, request.reason)
            self._cancel(request)

    def _on_report(self, report: ExecutionReport) -> None:
        order = self._order(report)
        status, present = report.status, order.state
        if status == CANCEL_REJECTED:
            self.counts.rejected_cancels += 1
            if present is State.PENDING_CANCEL:
                after = State.PARTIALLY_FILLED if order.filled else State.ACCEPTED
                self._move(order, after, report, report.reason)
            return
        asked = _REPORTED.get(status)
        if asked is None:
            raise TradingError(f"order {report.client_order_id}: {status!r} is none of {', '.join(_REPORTED)}")
        late = asked is State.ACCEPTED and present not in (State.SUBMITTED, State.DENIED)
        if late or asked is present:
            self.counts.repeated_reports += 1
        else:
            self._move(order, asked, report, report.reason)

    def _on_fill(self, fill: Fill) -> None:
        order = self._order(fill)
        if order.fill(fill):
            self._tell(order, fill, "")
        else:
            self.counts.repeated_fills += 1

    def _order(self, event: ExecutionReport | Fill) -> Order:
        key = event.client_order_id
        order = self.orders.get(key)
        if order is not None:
            return order
        if key in self._ended:
            raise TradingError(f"order {key} is {self._ended[key]} and ended long ago; nothing can become of it now")
        self.counts.strays += 1
        raise TradingError(f"order {key} was never requested here; find out who placed it")

    def _move(self, order: Order, state: State, cause: Event, reason: str) -> None:
        order.enter(state)
        self._tell(order, cause, reason)

    def _tell(self, order: Order, cause: Event, reason: str) -> None:
        """Publish the state of an order that has changed, and put it away if it has ended."""
        key, state = order.request.client_order_id, order.state
        self._publish(
            OrderState(
                cause.ts,
                self._next_seq(),
                cause.correlation,
                cause.seq,
                key,
                order.request.symbol,
                state,
                order.filled,
                reason,
            )
        )
        if state in TERMINAL:
            del self._open[key]
            self._ended[key] = state
            self._recent.append(key)
            if len(self._recent) > self._kept:
                del self.orders[self._recent.popleft()]
