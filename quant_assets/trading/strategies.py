"""Strategy engines: bars in, signals out, and the word that all signals of a time are out."""

from collections.abc import Callable, Mapping, Sequence
from math import inf, nan
from typing import Final

from quant_assets.trading.component import Bus, Component, Handler
from quant_assets.trading.events import Bar, Decision, Event, Moment, Phase, Signal
from quant_assets.trading.market import Market

Update = Callable[[int, float, float, float, float], float]
"""(column, high, low, close, volume) of a bar -> the symbol's exposure after it, NaN where undefined."""


_CLOSE: Final = int(Phase.CLOSE)


class RuleEngine(Component):
    """A rule on the bars of each symbol, whose exposures are published where the strategy decides.

    Args:
        update: called with every bar, in order (`signals.incremental.Stepper.update`).
        decision_times: ts of the moments at which the strategy decides; None: all.
    """

    name = "strategy"

    def __init__(
        self, bus: Bus, market: Market, strategy_id: str, update: Update, decision_times: frozenset[int] | None
    ) -> None:
        self._bus = bus
        self._market = market
        self._strategy_id = strategy_id
        self._update = update
        self._decision_times = decision_times
        self._column = market.column
        self._values = [nan] * len(market.symbols)

    def handlers(self) -> Mapping[type[Event], Handler]:
        return {Bar: self._on_bar, Moment: self._on_moment}

    def _on_bar(self, bar: Bar) -> None:
        column = self._column[bar.symbol]
        self._values[column] = self._update(column, bar.high, bar.low, bar.close, bar.volume)

    def _on_moment(self, moment: Moment) -> None:
        if moment.phase != _CLOSE:
            return
        ts = moment.ts
        if self._decision_times is None or ts in self._decision_times:
            stamps = self._market.stamp
            values = [value if stamp == ts else nan for value, stamp in zip(self._values, stamps, strict=True)]
            decide(self._bus, moment, self._strategy_id, self._market.symbols, values)


class ScoreEngine(Component):
    """Scores that were computed elsewhere, published at the time at which they were known.

    Args:
        scores: ts of each moment at which the strategy decides -> the symbols' scores, NaN where there is none.
    """

    name = "strategy"

    def __init__(self, bus: Bus, market: Market, strategy_id: str, scores: Mapping[int, Sequence[float]]) -> None:
        self._bus = bus
        self._market = market
        self._strategy_id = strategy_id
        self._scores = scores

    def handlers(self) -> Mapping[type[Event], Handler]:
        return {Moment: self._on_moment}

    def _on_moment(self, moment: Moment) -> None:
        if moment.phase == _CLOSE and moment.ts in self._scores:
            decide(self._bus, moment, self._strategy_id, self._market.symbols, self._scores[moment.ts])


class ReactiveEngine(Component):
    """A rule on the bars of each symbol, whose exposure is published whenever it changes.

    Args:
        update: as of `RuleEngine`.
        long_only: negative exposures are taken as 0.
    """

    name = "strategy"

    def __init__(self, bus: Bus, market: Market, strategy_id: str, update: Update, *, long_only: bool = False) -> None:
        self._publish = bus.publish
        self._next_seq = bus.next_seq
        self._strategy_id = strategy_id
        self._update = update
        self._least = 0.0 if long_only else -inf
        self._column = market.column
        self._values = [nan] * len(market.symbols)

    def handlers(self) -> Mapping[type[Event], Handler]:
        return {Bar: self._on_bar}

    def _on_bar(self, bar: Bar) -> None:
        symbol = bar.symbol
        column = self._column[symbol]
        value = self._update(column, bar.high, bar.low, bar.close, bar.volume)
        if value < self._least:
            value = self._least
        if value != self._values[column] and value == value:
            self._values[column] = value
            self._publish(
                Signal(bar.ts, self._next_seq(), bar.correlation, bar.seq, self._strategy_id, symbol, value)
            )  # fmt: skip


def decide(bus: Bus, cause: Moment, strategy_id: str, symbols: Sequence[str], values: Sequence[float]) -> None:
    """Publish a Signal for each symbol that has a value, and then the Decision that is made of them."""
    for symbol, value in zip(symbols, values, strict=True):
        if value == value:
            bus.publish(Signal(cause.ts, bus.next_seq(), cause.correlation, cause.seq, strategy_id, symbol, value))
    bus.publish(Decision(cause.ts, bus.next_seq(), cause.correlation, cause.seq, strategy_id, cause.row))
