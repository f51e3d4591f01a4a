"""What the queues of a live bus do when they are full. No threads here: whoever shares a queue locks it."""

from collections import OrderedDict, deque
from collections.abc import Callable
from dataclasses import astuple, dataclass
from operator import attrgetter
from typing import Any, Final, Protocol

from quant_assets.core.errors import ConfigError
from quant_assets.trading.events import KINDS, Event

SAMPLE: Final = 10
"""Of the events that come while a sampling queue is full, it keeps one in so many."""

_IDENTITY: Final = ("client_order_id", "fill_id", "strategy_id", "symbol", "phase", "component")


def _identify(kind: type[Event]) -> Callable[[Event], Any]:
    fields = [name for name in _IDENTITY if name in kind.__struct_fields__]
    return attrgetter(*fields) if fields else lambda event: None


_IDENTIFY: Final = {kind: _identify(kind) for kind in KINDS}


def key(event: Event) -> tuple[type[Event], Any]:
    """What an event is a picture of: two of the same key show the same thing at two times."""
    kind = type(event)
    return kind, _IDENTIFY[kind](event)


@dataclass(frozen=True)
class Limits:
    """Events that wait at most, by level.

    Raises:
        ConfigError: one is below 1.
    """

    p0: int = 100
    p1: int = 10_000
    p2: int = 1_000
    p3: int = 50_000

    def __post_init__(self) -> None:
        if min(astuple(self)) < 1:
            raise ConfigError(f"{self}: every level must hold 1 event at least")


class Queue(Protocol):
    """First in, first out, with `limit` events at most; counts those that it loses.

    Of all that was put in, what has not been taken and does not wait is `dropped`, `collapsed` or `sampled`.
    """

    limit: int
    dropped: int
    collapsed: int
    sampled: int

    def put(self, event: Event) -> None: ...

    def take(self) -> Event:
        """The first of those that wait; IndexError or KeyError: none does."""

    def __len__(self) -> int: ...


class _Counted:
    dropped = collapsed = sampled = 0

    def __init__(self, limit: int) -> None:
        self.limit = limit


class Unlosing(_Counted):
    """P0: keeps everything. Who puts in waits first while `limit` events do."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._events: deque[Event] = deque()
        self.put = self._events.append
        self.take = self._events.popleft

    def __len__(self) -> int:
        return len(self._events)


class Ring(_Counted):
    """P1: drops the oldest."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._events: deque[Event] = deque(maxlen=limit)
        self.take = self._events.popleft

    def put(self, event: Event) -> None:
        self.dropped += len(self._events) == self.limit
        self._events.append(event)

    def clear(self) -> None:
        """Drop all that wait."""
        self.dropped += len(self._events)
        self._events.clear()

    def __len__(self) -> int:
        return len(self._events)


class Newest(_Counted):
    """P2: of each `key` only the newest, at the place of the first; beyond `limit` keys drops the oldest key.

    The place is kept so that a key that changes faster than it is handled comes up all the same.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._events: OrderedDict[tuple[type[Event], Any], Event] = OrderedDict()

    def put(self, event: Event) -> None:
        same = key(event)
        if same in self._events:
            self.collapsed += 1
        elif len(self._events) == self.limit:
            self._events.popitem(last=False)
            self.dropped += 1
        self._events[same] = event

    def take(self) -> Event:
        return self._events.popitem(last=False)[1]

    def __len__(self) -> int:
        return len(self._events)


class Sample(_Counted):
    """P3: while it is full, every `SAMPLE`-th event that comes takes the place of the oldest, the others go."""

    def __init__(self, limit: int) -> None:
        super().__init__(limit)
        self._events: deque[Event] = deque(maxlen=limit)
        self.take = self._events.popleft

    def put(self, event: Event) -> None:
        if len(self._events) == self.limit:
            self.sampled += 1
            if self.sampled % SAMPLE:
                return
        self._events.append(event)

    def __len__(self) -> int:
        return len(self._events)
