"""What every part of the system looks like: made of a frozen config, started, fed through handlers, stopped."""

import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from quant_assets.trading.events import Event, Level

Handler = Callable[[Any], None]


class Bus(Protocol):
    """What components need of a bus; `bus.ReplayBus` and `bus.LiveBus` are two."""

    next_seq: Callable[[], int]
    """The number of the next event to publish. Whoever makes an event takes one and publishes it."""

    def publish(self, event: Event) -> None:
        """Hand on to all subscribers, after the events of their level that came before."""

    def subscribe(
        self, component: "Component", kind: type[Event], handler: Handler, level: Level | None = None
    ) -> None:
        """Call `handler` with each event of `kind`, at the kind's level or at another. Subscribers of one level are
        called in the order in which they subscribed; in a replay a later level's after all work of the earlier ones."""


class Clock(Protocol):
    """The time that decisions are made by."""

    def now(self) -> int:
        """Nanoseconds since 1970 UTC."""


class ReplayClock:
    """Stands at the newest event of the feed, which sets it."""

    def __init__(self, now: int = 0) -> None:
        self.time = now

    def now(self) -> int:
        return self.time


class LiveClock:
    """The machine's."""

    def now(self) -> int:
        return time.time_ns()


class Component:
    """A part of the system. Holds no thread of its own; its handlers are never called two at a time.

    Attributes:
        name: unique in a system; failures and heartbeats carry it.
    """

    name: str = ""

    def handlers(self) -> Mapping[type[Event], Handler | tuple[Handler, Level]]:
        """What it listens to: kind of event -> handler, or handler and the level at which it wants them."""
        return {}

    def start(self) -> None:
        """Called once, before the first event."""

    def stop(self) -> None:
        """Called once, after the last event; must not fail where `start` has not been called."""


def connect(component: Component, bus: Bus) -> None:
    """Subscribe all handlers of a component."""
    for kind, wanted in component.handlers().items():
        handler, level = wanted if isinstance(wanted, tuple) else (wanted, None)
        bus.subscribe(component, kind, handler, level)
