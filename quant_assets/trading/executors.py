"""Where orders are executed: one protocol, and the executor of backtests."""

from typing import Protocol

from quant_assets.trading.component import Bus, Component, Handler
from quant_assets.trading.events import Bar, CancelRequest, Ended, Event, ExecutionReport, Fill, OrderRequest
from quant_assets.trading.market import Market
from quant_assets.trading.orders import CANCEL_REJECTED, TOLERANCE, State


class Executor(Protocol):
    """Takes orders that have passed all checks, and publishes what becomes of them: `Fill` and `ExecutionReport`."""

    def submit(self, request: OrderRequest) -> None:
        """Place an order; each is submitted once."""

    def cancel(self, request: CancelRequest) -> None:
        """Withdraw what is still open of an order: it is reported as canceled, or the cancel as cancel_rejected."""


class _Resting:
    """What is open of an order that could not be filled at once."""

    __slots__ = ("fills", "left", "request")

    def __init__(self, request: OrderRequest) -> None:
        self.request = request
        self.left = request.quantity
        self.fills = 0


class BacktestExecutor(Component):
    """Fills against the prices of `market`, as their events come.

    - market: at once at the symbol's price of this very time; rejected where it has none.
    - stop, last: at once and in full at the request's price, which its sender has judged to be there.
    - limit: rests, and fills on the first bar published after it whose low (buy) or high (sell) reaches the level: at
      the level, or at the bar's open where that is beyond it.

    What a fill pays is the price times (1 + side * slippage), a limit order's without slippage, for it never pays more
    than its level. Orders that still rest when their symbol ends expire. `market` must get its events first.

    Args:
        fee: fraction of the amount traded.
        slippage: fraction of the price.
        participation: share of a bar's volume that market and limit orders may take, all those of the symbol together;
            a market order that is larger fills in part, and the rest on the bars that follow, at their closes. At an
            opening the volume is that of the bar before, for the own one is not known yet. None: no limit.
    """

    name = "executor"

    def __init__(
        self, bus: Bus, market: Market, fee: float, slippage: float, participation: float | None = None
    ) -> None:
        self._next_seq, self._publish = bus.next_seq, bus.publish
        self._market = market
        self._column, self._stamp, self._price = market.column, market.stamp, market.price
        self._fee, self._participation = fee, participation
        self._paid = {1: 1 + slippage, -1: 1 - slippage}
        self._resting: dict[str, _Resting] = {}
        self._by_symbol: dict[str, dict[str, _Resting]] = {}
        self._taken = [0.0] * len(market.symbols)
        self._taken_at = [-1] * len(market.symbols)

    def handlers(self) -> dict[type[Event], Handler]:
        return {Bar: self._on_bar, Ended: self._on_ended}

    def submit(self, request: OrderRequest) -> None:
        kind, key, column = request.kind, request.client_order_id, self._column.get(request.symbol)
        if column is None:
            self._report(request, key, State.REJECTED, f"{request.symbol} is not traded here")
        elif kind == "limit":
            self._rest(request)
            self._report(request, key, State.ACCEPTED, "")
        elif kind != "market":
            self._fill(request, request, 1, request.quantity, request.price, self._paid[request.side])
        elif self._stamp[column] != request.ts:
            self._report(request, key, State.REJECTED, f"{request.symbol} has no price at this time")
        elif self._participation is None:
            self._fill(request, request, 1, request.quantity, self._price[column], self._paid[request.side])
        else:
            self._take(request, self._rest(request), self._price[column], self._paid[request.side])

    def cancel(self, request: CancelRequest) -> None:
        key = request.client_order_id
        resting = self._resting.get(key)
        if resting is None:
            self._report(request, key, CANCEL_REJECTED, "nothing of it rests")
        else:
            self._remove(resting)
            self._report(request, key, State.CANCELED, request.reason)

    def _on_bar(self, bar: Bar) -> None:
        if not self._resting or bar.symbol not in self._by_symbol:
            return
        for resting in tuple(self._by_symbol[bar.symbol].values()):
            request = resting.request
            side, level = request.side, request.price
            if request.kind == "market":
                self._take(bar, resting, bar.close, self._paid[side])
            elif side * (bar.low if side > 0 else bar.high) <= side * level:
                self._take(bar, resting, side * min(side * level, side * bar.open), 1.0)

    def _on_ended(self, event: Ended) -> None:
        for resting in tuple(self._by_symbol.get(event.symbol, {}).values()):
            self._remove(resting)
            self._report(event, resting.request.client_order_id, State.EXPIRED, f"{event.symbol} has ended")

    def _rest(self, request: OrderRequest) -> _Resting:
        resting = _Resting(request)
        self._resting[request.client_order_id] = resting
        self._by_symbol.setdefault(request.symbol, {})[request.client_order_id] = resting
        return resting

    def _remove(self, resting: _Resting) -> None:
        request = resting.request
        del self._resting[request.client_order_id], self._by_symbol[request.symbol][request.client_order_id]

    def _take(self, cause: Event, resting: _Resting, quoted: float, paid: float) -> None:
        """Fill of an order what the volume allows, and let the rest rest."""
        request, quantity = resting.request, resting.left
        if self._participation is not None:
            column = self._column[request.symbol]
            if self._taken_at[column] != cause.ts:
                self._taken_at[column], self._taken[column] = cause.ts, 0.0
            bar = self._market.bars[column]
            allowed = self._participation * bar.volume - self._taken[column] if bar else 0.0
            least = TOLERANCE * request.quantity
            if not allowed > least:
                return
            if quantity - allowed > least:
                quantity = allowed
            self._taken[column] += quantity
        resting.left -= quantity
        resting.fills += 1
        if resting.left == 0:
            self._remove(resting)
        self._fill(cause, request, resting.fills, quantity, quoted, paid)

    def _fill(
        self, cause: Event, request: OrderRequest, number: int, quantity: float, quoted: float, paid: float
    ) -> None:
        """Publish a fill at `quoted` times `paid` a share."""
        price = quoted * paid
        self._publish(
            Fill(
                cause.ts,
                self._next_seq(),
                cause.correlation,
                cause.seq,
                request.client_order_id,
                f"{request.client_order_id}/{number}",
                request.symbol,
                request.side,
                quantity,
                price,
                quoted,
                quantity * price * self._fee,
                request.reason,
            )
        )

    def _report(self, cause: Event, client_order_id: str, status: str, reason: str) -> None:
        self._publish(
            ExecutionReport(cause.ts, self._next_seq(), cause.correlation, cause.seq, client_order_id, status, reason)
        )
