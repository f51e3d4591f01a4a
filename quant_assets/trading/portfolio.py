"""From decided targets to orders: when they are sized, how many shares they are for, and what stops positions.

`PortfolioManager` orders shares of the equity, by the rules of `backtest.simulation`; `FixedSizeManager` a number of
shares per signal. Both order against what they hold once all of their orders that still work are filled, so that
nothing is ordered twice.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import nan
from typing import Final, Literal, Protocol, get_args

from quant_assets.core.errors import ConfigError
from quant_assets.trading.account import REASONS, Account
from quant_assets.trading.component import Bus, Component, Handler
from quant_assets.trading.events import Decision, Ended, Event, Moment, OrderRequest, OrderState, Phase, Signal, Target
from quant_assets.trading.market import Market
from quant_assets.trading.orders import TERMINAL
from quant_assets.trading.sizing import ABSOLUTE, SMALLEST, Sized, add, rationed, reducing, sized

Price = Literal["close", "next_open", "next_close"]

Decide = Callable[[int, list[float]], Sequence[float] | None]
"""(row, signals by column, NaN where there is none) -> target weights by column, NaN for no order; None: no targets."""

REBALANCE, END_OF_DATA, STOP_LOSS, TRAILING_STOP, _ = REASONS

_OPEN_STOPS: Final = int(Phase.OPEN_STOPS)
_WITHIN: Final = int(Phase.WITHIN)


class Controls(Protocol):
    """What the safety and the operating state say, at this moment."""

    @property
    def scale(self) -> float:
        """Factor of new targets."""

    @property
    def reduce_only(self) -> bool:
        """Whether positions may only become smaller."""


@dataclass(frozen=True)
class PortfolioConfig:
    """What a `PortfolioManager` follows. From `fee` on as in `backtest.simulation.Mechanics`; None switches a rule off.

    Raises:
        ConfigError: a price that is none.
    """

    strategy_id: str
    price: Price
    """Where a target fills: at the close of the row it is decided on, the next open or the next close."""
    fee: float
    """Fraction of traded value that fills are expected to cost, as `slippage` of the price."""
    slippage: float
    leverage: float = 1.0
    threshold: float = 0.0
    stop_loss: float | None = None
    trailing_stop: float | None = None
    hedge_drawdown: float | None = None

    def __post_init__(self) -> None:
        if self.price not in get_args(Price):
            raise ConfigError(f"execution price {self.price!r} is unknown; use one of {', '.join(get_args(Price))}")

    @property
    def stops(self) -> bool:
        """Whether positions are stopped: then a feed must mark OPEN_STOPS and WITHIN."""
        return self.stop_loss is not None or self.trailing_stop is not None


class _Manager(Component):
    """Numbers orders, and knows what becomes of them.

    Attributes:
        ordered: signed shares by column, once all orders that still work are filled.
    """

    name = "portfolio"

    def __init__(self, bus: Bus, market: Market, account: Account, strategy_id: str, controls: Controls) -> None:
        self._publish = bus.publish
        self._next_seq = bus.next_seq
        self._market = market
        self._account = account
        self._strategy_id = strategy_id
        self._controls = controls
        self._number = 0
        self._working: dict[str, tuple[int, float, float]] = {}
        """Orders that have not ended: column, signed shares, and how many of these are left."""
        self.ordered = account.shares.copy()

    def start(self) -> None:
        self.ordered[:] = self._account.shares

    def handlers(self) -> Mapping[type[Event], Handler]:
        return {OrderState: self._on_order_state}

    def _order(
        self, cause: Event, column: int, side: int, quantity: float, kind: str, price: float, reason: str
    ) -> None:
        self._number += 1
        key = f"{self._strategy_id}-{self._number}"
        shares = side * quantity
        self._working[key] = column, shares, shares
        self.ordered[column] = add(self.ordered[column], shares)
        self._publish(
            OrderRequest(
                cause.ts,
                self._next_seq(),
                cause.correlation,
                cause.seq,
                key,
                self._strategy_id,
                self._market.symbols[column],
                side,
                quantity,
                kind,
                price,
                reason,
            )
        )

    def _on_order_state(self, event: OrderState) -> None:
        order = self._working.get(event.client_order_id)
        if order is None:
            return
        column, shares, _ = order
        left = shares - event.filled if shares > 0 else shares + event.filled
        if event.state in TERMINAL:
            del self._working[event.client_order_id]
            self.ordered[column] = add(self.ordered[column], -left)
        else:
            self._working[event.client_order_id] = column, shares, left

    def _aim(self, cause: Event, column: int, target: float, unit: str) -> None:
        self._publish(
            Target(
                cause.ts,
                self._next_seq(),
                cause.correlation,
                cause.seq,
                self._strategy_id,
                self._market.symbols[column],
                target,
                unit,
            )
        )


class PortfolioManager(_Manager):
    """Orders target weights. On the same bars and weights it trades as `backtest.simulation.simulate`.

    Only cash is summed in another sequence (fill by fill, there by column), so equity may differ in its last bit. That
    can swap orders whose values are equal but for rounding.

    Args:
        decide: makes target weights of the signals of a decision.
        decision_times: ts of the rows that have a Decision; None: all. With price "close", what ends on another row is
            closed without waiting for one.
        initial: weights by column that were decided before the first row, and fill on it unless its own do.
        controls: `scale` multiplies weights when they are decided; `reduce_only` applies when they are sized.

    Attributes:
        unfilled: (ts, symbol, weight) of targets other than 0 that met no price at the time they should have filled.
    """

    def __init__(
        self,
        bus: Bus,
        market: Market,
        account: Account,
        config: PortfolioConfig,
        decide: Decide,
        decision_times: frozenset[int] | None,
        initial: Sequence[float] | None,
        controls: Controls,
    ) -> None:
        super().__init__(bus, market, account, config.strategy_id, controls)
        self.config = config
        self.unfilled: list[tuple[int, str, float]] = []
        self._decide = decide
        self._decision_times = decision_times
        self._initial = initial
        self._phase = int(Phase.OPEN if config.price == "next_open" else Phase.CLOSE)
        self._at_decision = config.price == "close"
        self._stop_loss = nan if config.stop_loss is None else config.stop_loss
        self._trailing_stop = nan if config.trailing_stop is None else config.trailing_stop
        self._signals = [nan] * len(market.symbols)
        self._signalled = -1
        self._weights = [0.0] * len(market.symbols)
        """Last decided."""
        self._pending: Sequence[float] | None = None
        self._ended: list[int] = []
        self._stopped = [0] * len(market.symbols)
        """Side of a position that a stop closed, until its target changes sign or is 0 once."""

    def handlers(self) -> Mapping[type[Event], Handler]:
        return {
            Signal: self._on_signal,
            Decision: self._on_decision,
            Moment: self._on_moment,
            Ended: self._on_ended,
            **super().handlers(),
        }

    def _on_signal(self, event: Signal) -> None:
        if event.strategy_id == self._strategy_id:
            self._signals_of(event.ts)[self._market.column[event.symbol]] = event.value

    def _signals_of(self, ts: int) -> list[float]:
        if ts != self._signalled:
            self._signals, self._signalled = [nan] * len(self._signals), ts
        return self._signals

    def _on_decision(self, event: Decision) -> None:
        if event.strategy_id != self._strategy_id:
            return
        weights = self._decide(event.row, self._signals_of(event.ts))
        if weights is not None:
            self._take(weights, event)
        if self._at_decision:
            self._rebalance(event)

    def _on_moment(self, event: Moment) -> None:
        if self._initial is not None:
            self._take(self._initial, event)
            self._initial = None
        phase = event.phase
        if phase == self._phase:
            times = self._decision_times
            if not (self._at_decision and (times is None or event.ts in times)):
                self._rebalance(event)
        elif phase in (_OPEN_STOPS, _WITHIN) and self.config.stops:
            self._stop(event)

    def _on_ended(self, event: Ended) -> None:
        self._ended.append(self._market.column[event.symbol])

    def _take(self, weights: Sequence[float], cause: Event) -> None:
        """Keep decided weights until they are ordered."""
        scale = self._controls.scale
        self._pending = weights = weights if scale == 1 else [scale * weight for weight in weights]
        for column, (weight, before) in enumerate(zip(weights, self._weights, strict=True)):
            if weight != before and weight == weight:
                self._weights[column] = weight
                self._aim(cause, column, weight, "weight")

    def _rebalance(self, cause: Event) -> None:
        """Order the weights that wait, and close what has ended."""
        weights, ended = self._pending, self._ended
        if weights is None and not ended:
            return
        self._pending, self._ended = None, []
        value = self._account.equity(self._market.price)
        if value <= ABSOLUTE or self._account.ruined >= 0:
            return
        orders = [] if weights is None else self._sized(cause.ts, weights, value)
        mark = self._market.mark
        orders += [self._closing(column, mark[column], "last", END_OF_DATA) for column in ended]
        self._place(cause, orders, value)

    def _sized(self, ts: int, weights: Sequence[float], value: float) -> list[Sized | None]:
        config, ordered, stopped, reduce_only = self.config, self.ordered, self._stopped, self._controls.reduce_only
        prices, stamps, symbols = self._market.price, self._market.stamp, self._market.symbols
        threshold, hedge = config.threshold, config.hedge_drawdown
        hedging = hedge is None or value < self._account.peak * (1 - hedge)
        orders: list[Sized | None] = []
        for column, target in enumerate(weights):
            if target != target:
                continue
            if target < 0 and not hedging:
                target = 0.0
            if stopped[column]:
                if target * stopped[column] > 0:
                    continue
                stopped[column] = 0
            price = prices[column]
            if stamps[column] != ts:
                if target:
                    self.unfilled.append((ts, symbols[column], target))
            elif not (threshold and target and abs(target - ordered[column] * price / value) < threshold):
                wanted = target * value / price - ordered[column]
                wanted = reducing(wanted, ordered[column]) if reduce_only else wanted
                moved = target * value - ordered[column] * price
                orders.append(sized(column, wanted, moved, price, "market", REBALANCE))
        return orders

    def _stop(self, cause: Moment) -> None:
        """Close the positions whose level is reached: a long's by its low, a short's by its high."""
        account, market = self._account, self._market
        if account.ruined >= 0:
            return
        shares, entries, extremes, within = account.shares, account.entry_price, account.extreme, cause.phase == _WITHIN
        # at a moment within the bar, what is known is its opening, and how far it went
        reached = [
            (bar.open, bar.low, bar.high) if within and bar else (price, price, price)
            for bar, price in zip(market.bars, market.price, strict=True)
        ]
        orders = []
        for column in account.held:
            if market.stamp[column] != cause.ts:
                continue
            opened, low, high = reached[column]
            side, worst, best = (1, low, high) if shares[column] > 0 else (-1, high, low)
            opened *= side
            extreme = max(side * extremes[column], opened)
            level, reason = side * entries[column] * (1 - side * self._stop_loss), STOP_LOSS
            trailing = extreme * (1 - side * self._trailing_stop)
            if level != level or trailing > level:
                level, reason = trailing, TRAILING_STOP
            if side * worst <= level:
                orders.append(self._closing(column, side * min(level, opened), "stop", reason))
                self._stopped[column] = side
            extremes[column] = side * max(extreme, side * best)
        if orders:
            newest = zip(reached, market.stamp, market.mark, strict=True)
            value = account.equity([prices[0] if stamp == cause.ts else mark for prices, stamp, mark in newest])
            self._place(cause, orders, max(value, 0.0))

    def _closing(self, column: int, price: float, kind: str, reason: str) -> Sized | None:
        """The order that closes a position, but for what is being closed already."""
        shares = self._account.shares[column]
        for number, _, left in self._working.values():
            if number == column and left * self._account.shares[column] < 0:
                shares += left
        wanted = reducing(-shares, self._account.shares[column])
        return sized(column, wanted, -shares * price, price, kind, reason)

    def _place(self, cause: Event, orders: list[Sized | None], value: float) -> None:
        """Order what cash and credit cover, `value` being the equity."""
        config, account = self.config, self._account
        placed = [order for order in orders if order is not None]
        cash = account.cash - self._reserved() if self._working else account.cash
        credit = (config.leverage - 1) * value
        for _, column, side, quantity, price, kind, reason in rationed(
            placed, cash, credit, config.fee, config.slippage
        ):
            self._order(cause, column, side, quantity, kind, price, reason)

    def _reserved(self) -> float:
        """What buys that still work will cost, slippage and fees apart."""
        prices = self._market.price
        return sum(left * prices[column] for column, _, left in self._working.values() if left > 0)


class FixedSizeManager(_Manager):
    """Orders a number of shares per signal, at once and at the market.

    Args:
        size: shares that a signal of 1 stands for.
        controls: as of `PortfolioManager`.
    """

    def __init__(
        self, bus: Bus, market: Market, account: Account, strategy_id: str, size: float, controls: Controls
    ) -> None:
        super().__init__(bus, market, account, strategy_id, controls)
        self._size = size
        self._column = market.column
        self._targets = [0.0] * len(market.symbols)

    def handlers(self) -> Mapping[type[Event], Handler]:
        return {Signal: self._on_signal, **super().handlers()}

    def _on_signal(self, event: Signal) -> None:
        value, controls = event.value, self._controls
        if value != value or event.strategy_id != self._strategy_id:
            return
        column = self._column[event.symbol]
        target = value * self._size * controls.scale
        if target != self._targets[column]:
            self._targets[column] = target
            self._aim(event, column, target, "shares")
        wanted = target - self.ordered[column]
        if controls.reduce_only:
            wanted = reducing(wanted, self.ordered[column])
        if abs(wanted) >= SMALLEST:
            price = self._market.price[column]
            self._order(event, column, 1 if wanted > 0 else -1, abs(wanted), "market", price, REBALANCE)
