"""The buses: of a replay, one thread and always the same order; and of live trading, with threads and bounded queues.

Both take events by `publish`, show those of some kinds to taps, the journal for one, and hand every event to the
subscribers of its kind, level by level. Whoever subscribes or taps does so before the first event is published.
"""

import sys
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import count
from time import monotonic
from typing import Any, Final

from quant_assets.core.errors import TradingError
from quant_assets.trading.component import Clock, Component, Handler, LiveClock
from quant_assets.trading.degradation import DegradationLevel, DegradationMachine, DegradationRules
from quant_assets.trading.events import KINDS, LEVELS, Degradation, Event, HandlerFailed, Level
from quant_assets.trading.overflow import Limits, Newest, Queue, Ring, Sample, Unlosing

Tap = Callable[[Any], None]


@dataclass(frozen=True, slots=True)
class LevelCounts:
    """What became of the events of one level; one with subscribers at two levels counts at both.

    `published` is the sum of the others.
    """

    published: int
    delivered: int
    """Handed to all subscribers, those that failed included."""
    waiting: int
    """Queued or under way."""
    dropped: int = 0
    collapsed: int = 0
    """Replaced, before they were handled, by newer ones of their key."""
    sampled: int = 0
    """Left out of a sample."""


@dataclass(frozen=True, slots=True)
class BusCounts:
    """A bus's account of itself at one moment."""

    levels: tuple[LevelCounts, LevelCounts, LevelCounts, LevelCounts]
    """By `Level`."""
    failures: Mapping[str, int]
    """Component -> handlers of its that raised."""
    degradations: int = 0
    """Changes of what is delivered."""

    @property
    def published(self) -> int:
        """Of all levels."""
        return sum(level.published for level in self.levels)


def _handler_failed(seq: int, component: str, cause: Event, error: Exception) -> HandlerFailed:
    """What a bus publishes of a handler that raised on `cause`."""
    text = f"{type(error).__name__}: {error}"
    return HandlerFailed(cause.ts, seq, cause.correlation, cause.seq, component, KINDS[type(cause)], text)


def _ignored(event: Event) -> None:
    """The route of a kind that nobody wants."""


class ReplayBus:
    """Delivers when told to, on the caller's thread.

    `publish` queues, `drain` empties: always the oldest event of the most urgent level that has any, so that what a
    handler publishes at P0 comes before the next event of P1, and P2 sees the state after all that P0 and P1 have done.

    A handler that raises does not keep the event from the others. It is counted, a `HandlerFailed` is published
    (none for a failing handler of `HandlerFailed`), and `first_failure` keeps the first exception, for a driver to
    raise after `drain`. A tap that raises is no handler: `publish` raises.

    Attributes:
        next_seq: takes the number of the next event.
        first_failure: of the handlers; None so far.
        degradation: as forced.
    """

    def __init__(self) -> None:
        self.next_seq: Callable[[], int] = count(1).__next__
        self.first_failure: Exception | None = None
        self.degradation = DegradationLevel.NORMAL
        self._failures: Counter[str] = Counter()
        self._owners: list[tuple[Handler, str]] = []
        self._taps: dict[type[Event], tuple[Tap, ...]] = dict.fromkeys(KINDS, ())
        self._routes: dict[type[Event], Callable[[Event], None]] = dict.fromkeys(KINDS, _ignored)
        self._queue0, self._queue1, self._queue2, self._queue3 = (deque[Event]() for _ in Level)
        self._handlers0, self._handlers1, self._handlers2, self._handlers3 = (_no_handlers() for _ in Level)
        self._delivered0 = self._delivered1 = self._delivered2 = self._delivered3 = 0
        self._entered: list[Callable[[], tuple[int, int, int, int]]] = []
        """Of each entrance, what it has delivered without a queue, by level."""

    def subscribe(self, component: Component, kind: type[Event], handler: Handler, level: Level | None = None) -> None:
        """Call `handler` with each event of `kind`, at the kind's level or at another, after earlier subscribers."""
        if any(owned is handler and name != component.name for owned, name in self._owners):
            handler = partial(handler)  # one of its own for each component, to know whose has failed
        self._levels()[LEVELS[kind] if level is None else level][1][kind] += (handler,)
        self._owners.append((handler, component.name))
        self._route(kind)

    def tap(self, function: Tap, kinds: Iterable[type[Event]]) -> None:
        """Call `function` with each event of the kinds as it is published, before anybody handles it."""
        for kind in kinds:
            self._taps[kind] += (function,)
            self._route(kind)

    def publish(self, event: Event) -> None:
        """Queue for all subscribers."""
        self._routes[type(event)](event)

    def entrance(self, kind: type[Event]) -> Callable[[Event], None]:
        """What a feed calls with each event of `kind` while nothing waits: `publish` and `drain` in one.

        The deliveries and their order are the same, most of them without a queue. It is resolved when it is asked for,
        so after everybody has subscribed, because a feed's events are the most numerous by far.
        """
        first, later = self._handlers1[kind], self._handlers2[kind]
        queue0, queue1, queue2, queue3 = self._queue0, self._queue1, self._queue2, self._queue3
        drain, failed = self.drain, self._failed
        at_first = at_later = 0

        def queued(event: Event) -> None:
            self.publish(event)
            drain()

        def to_first(event: Event) -> None:
            nonlocal at_first
            at_first += 1
            for handler in first:
                try:
                    handler(event)
                except Exception as error:
                    failed(handler, event, error)
            if queue0 or queue1 or queue2 or queue3:
                drain()

        def to_both(event: Event) -> None:
            nonlocal at_first, at_later
            at_first += 1
            for handler in first:
                try:
                    handler(event)
                except Exception as error:
                    failed(handler, event, error)
            if queue0 or queue1:
                queue2.appendleft(event)
                drain()
                return
            at_later += 1
            for handler in later:
                try:
                    handler(event)
                except Exception as error:
                    failed(handler, event, error)
            if queue0 or queue1 or queue2 or queue3:
                drain()

        if not first or self._taps[kind] or self._handlers0[kind] or self._handlers3[kind]:
            return queued
        self._entered.append(lambda: (0, at_first, at_later, 0))
        return to_both if later else to_first

    def drain(self) -> None:
        """Deliver all that waits and all that comes of it. Not to be called by a handler."""
        queue0, queue1 = self._queue0, self._queue1
        while True:
            if queue0:
                event = queue0.popleft()
                self._delivered0 += 1
                handlers = self._handlers0[type(event)]
            elif queue1:
                event = queue1.popleft()
                self._delivered1 += 1
                handlers = self._handlers1[type(event)]
            elif self._queue2:
                event = self._queue2.popleft()
                self._delivered2 += 1
                handlers = self._handlers2[type(event)]
            elif self._queue3:
                event = self._queue3.popleft()
                self._delivered3 += 1
                handlers = self._handlers3[type(event)]
            else:
                return
            for handler in handlers:
                try:
                    handler(event)
                except Exception as error:
                    self._failed(handler, event, error)

    def force(self, level: DegradationLevel | None) -> None:
        """Remember the level and deliver everything all the same: a replay has no load, and the time of its market
        waits for the handlers. A lockdown must not hide from the account what its positions are worth."""
        self.degradation = level or DegradationLevel.NORMAL

    @property
    def counts(self) -> BusCounts:
        """As of now."""
        queued = (self._delivered0, self._delivered1, self._delivered2, self._delivered3)
        delivered = (sum(parts) for parts in zip(queued, *(entered() for entered in self._entered), strict=True))
        p0, p1, p2, p3 = (
            LevelCounts(done + len(queue), done, len(queue))
            for done, (queue, _) in zip(delivered, self._levels(), strict=True)
        )
        return BusCounts((p0, p1, p2, p3), dict(self._failures))

    def _levels(self) -> tuple[tuple[deque[Event], dict[type[Event], tuple[Handler, ...]]], ...]:
        return (
            (self._queue0, self._handlers0),
            (self._queue1, self._handlers1),
            (self._queue2, self._handlers2),
            (self._queue3, self._handlers3),
        )

    def _route(self, kind: type[Event]) -> None:
        """Set where events of the kind go: to its taps, then into the queue of each level that has subscribers."""
        queues = (queue.append for queue, handlers in self._levels() if handlers[kind])
        stations = (*self._taps[kind], *queues)
        self._routes[kind] = stations[0] if len(stations) == 1 else _in_turn(stations)

    def _failed(self, handler: Handler, event: Event, error: Exception) -> None:
        name = next(name for owned, name in self._owners if owned is handler)
        self._failures[name] += 1
        if self.first_failure is None:
            self.first_failure = error
        if type(event) is not HandlerFailed:
            self.publish(_handler_failed(self.next_seq(), name, event, error))


def _no_handlers() -> dict[type[Event], tuple[Handler, ...]]:
    return dict.fromkeys(KINDS, ())


def _in_turn(stations: tuple[Callable[[Event], None], ...]) -> Callable[[Event], None]:
    def pass_on(event: Event) -> None:
        for station in stations:
            station(event)

    return pass_on


THREADS: Final = (1, 2, 1, 1)
"""Workers by level."""
SWITCH_SECONDS: Final = 1e-4
"""How long one thread may keep the interpreter while others wait for it. Python's own 5 ms would be what P0 waits for
each busy handler of the other levels."""
ASIDE_SECONDS: Final = 0.01
"""For how long at most one event of P2 or P3 stands aside for P0."""
WATCH_SECONDS: Final = 0.05
"""Between two looks at the load."""


class _Seat:
    """A component's: whoever runs its handlers sits in it.

    Workers of one level sit down in the order of their tickets; of several levels the most urgent one goes first.
    """

    def __init__(self, component: Component) -> None:
        self.component = component
        self._free = threading.Condition()
        self._taken = False
        self._waiting = [0 for _ in Level]
        self._tickets = [count() for _ in Level]
        self._called = [0 for _ in Level]

    def ticket(self, level: Level) -> int:
        return next(self._tickets[level])

    def enter(self, level: Level, ticket: int) -> None:
        with self._free:
            self._waiting[level] += 1
            while self._taken or self._called[level] != ticket or any(self._waiting[:level]):
                self._free.wait()
            self._waiting[level] -= 1
            self._taken = True

    def leave(self, level: Level) -> None:
        with self._free:
            self._taken = False
            self._called[level] += 1
            self._free.notify_all()


class _Lane:
    """A level's queue, and who handles what comes out of it."""

    def __init__(self, level: Level, queue: Queue) -> None:
        self.level = level
        self.stands_aside = level >= Level.P2
        """For P0."""
        self.queue = queue
        self.subscribers: dict[type[Event], tuple[tuple[_Seat, Handler], ...]] = dict.fromkeys(KINDS, ())
        self.lock = threading.RLock()
        self.ready = threading.Condition(self.lock)
        """For workers: an event waits, or the bus stops."""
        self.space = threading.Condition(self.lock)
        """For publishers at P0."""
        self.paused = False
        self.published = self.refused = self.delivered = self.under_way = 0

    def put(self, event: Event) -> None:
        with self.lock:
            self.published += 1
            if self.paused and self.level != Level.P2:
                self.refused += 1
            else:
                self.queue.put(event)
                self.ready.notify()

    def pause(self, paused: bool) -> None:
        with self.lock:
            self.paused = paused
            if paused and isinstance(self.queue, Ring):
                self.queue.clear()
            self.ready.notify_all()

    def available(self) -> bool:
        return len(self.queue) > 0 and not self.paused

    def counts(self) -> LevelCounts:
        queue = self.queue
        with self.lock:
            dropped = self.refused + queue.dropped
            waiting = len(queue) + self.under_way
            return LevelCounts(self.published, self.delivered, waiting, dropped, queue.collapsed, queue.sampled)


class _Here(threading.local):
    """What the current thread is doing."""

    level: Level | None = None
    """That it works for; None: not one of the bus's workers."""
    seat: _Seat | None = None
    """In which it sits."""


class LiveBus:
    """Delivers as events come, on threads of its own: one for P0, a pool for each other level (`THREADS`).

    Order:
        A level's events are taken out of its queue in the order of publication (P2: in that of the keys), and each is
        shown to its subscribers in the order in which they subscribed. The workers of a level follow one another: each
        component sees the level's events in order, and an event that a component sees has been seen by all that
        subscribed to its kind before. A component's handlers are never called two at a time, and the most urgent level
        goes first; a handler that has begun is not interrupted.
        Taps are called one event at a time, before it is queued: what they see is in order of publication, so each
        thread's events in order of seq and every event after its cause. Two threads that take numbers at the same
        time may publish the higher one first. A tap publishes nothing.

    Queues when full (`Limits`; `overflow` has the details; counted):
        P0 makes its publishers wait and loses nothing. Two may go beyond the limit, because waiting would be for
        themselves: handlers at P0, and a handler of another level while P0 waits for its very component.
        P1 drops the oldest, P2 keeps the newest of each key and drops the oldest key, P3 keeps a sample.

    Degradation (`degradation`): while it is paused, P3 takes nothing in (counted as dropped), P2 goes on collapsing
    but hands nothing out, P1 takes nothing in and drops what waited; who resumes after CRITICAL_ONLY has missed market
    data. Each change is published as `Degradation`, which never waits.

    Handlers that raise are isolated as in `ReplayBus`.

    Isolation of P0:
        While it runs, the process's switch interval is `SWITCH_SECONDS`. While P0 is at work, no handler of P2 and P3
        begins, and who publishes for these only, handlers apart, waits, for `ASIDE_SECONDS` at most: so few threads
        compete for the interpreter. A handler that keeps it in one call into C holds up P0 for as long.

    One bus at a time in a process, started once.

    Args:
        limits: of the queues.
        rules: of the degradation.
        clock: for the time of `Degradation` events.

    Attributes:
        next_seq: takes the number of the next event.
        first_failure: of the handlers, or of a tap on an event of the bus itself; None so far.
    """

    def __init__(
        self, limits: Limits | None = None, rules: DegradationRules | None = None, clock: Clock | None = None
    ) -> None:
        limits = limits or Limits()
        self.next_seq: Callable[[], int] = count(1).__next__
        self.first_failure: Exception | None = None
        self._clock = clock or LiveClock()
        self._urgent, *_ = self._lanes = (
            _Lane(Level.P0, Unlosing(limits.p0)),
            _Lane(Level.P1, Ring(limits.p1)),
            _Lane(Level.P2, Newest(limits.p2)),
            _Lane(Level.P3, Sample(limits.p3)),
        )
        self._seats: dict[int, _Seat] = {}
        self._taps: dict[type[Event], tuple[Tap, ...]] = dict.fromkeys(KINDS, ())
        self._order = threading.Lock()
        self._here = _Here()
        self._awaited: _Seat | None = None
        self._failures: Counter[str] = Counter()
        self._machine = DegradationMachine(rules or DegradationRules())
        self._degrading = threading.Lock()
        self._degradations = 0
        self._rested = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._calm = threading.Event()
        """P0 has nothing to do."""
        self._calm.set()
        self._stopping = threading.Event()

    def subscribe(self, component: Component, kind: type[Event], handler: Handler, level: Level | None = None) -> None:
        """Call `handler` with each event of `kind`, at the kind's level or at another, after earlier subscribers."""
        seat = self._seats.setdefault(id(component), _Seat(component))
        self._lanes[LEVELS[kind] if level is None else level].subscribers[kind] += ((seat, handler),)

    def tap(self, function: Tap, kinds: Iterable[type[Event]]) -> None:
        """Call `function` with each event of the kinds as it is published, before anybody handles it."""
        for kind in kinds:
            self._taps[kind] += (function,)

    def publish(self, event: Event) -> None:
        """Queue for all subscribers; at P0 wait for space.

        Raises:
            TradingError: the bus has been stopped; or P0 is full and nobody empties it.
        """
        self._publish(event, waits=self._here.level is not Level.P0)

    def start(self) -> None:
        """Begin to deliver, what has been published so far first.

        Raises:
            TradingError: it has been started before.
        """
        if self._threads:
            raise TradingError("the bus has been started before; make a new one")
        self._interval = sys.getswitchinterval()
        sys.setswitchinterval(SWITCH_SECONDS)
        workers = [
            threading.Thread(target=self._work, args=(lane,), name=f"bus-{lane.level.name}-{number}", daemon=True)
            for lane in self._lanes
            for number in range(THREADS[lane.level])
        ]
        self._threads = [*workers, threading.Thread(target=self._watch, name="bus-watch", daemon=True)]
        for thread in self._threads:
            thread.start()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until nothing is under way and nothing waits, but for what is paused; False: not within `timeout` s.

        Not to be called by a handler.
        """
        with self._rested:
            return self._rested.wait_for(self._resting, timeout)

    def stop(self, timeout: float = 5.0) -> bool:
        """`join`, then end the threads; what still waits stays undelivered and is counted as waiting.

        Does nothing where the bus does not run. Not to be called by a handler.

        Returns:
            Whether all was delivered and all threads have ended.
        """
        if not self._threads or self._stopping.is_set():
            return True
        end = monotonic() + timeout
        rested = self.join(timeout)
        with self._degrading:
            self._stopping.set()
        for lane in self._lanes:
            with lane.lock:
                lane.ready.notify_all()
                lane.space.notify_all()
        for thread in self._threads:
            thread.join(max(end - monotonic(), 0.1))
        sys.setswitchinterval(self._interval)
        return rested and not any(thread.is_alive() for thread in self._threads)

    def force(self, level: DegradationLevel | None) -> None:
        """Hold at least this level of degradation; None: as the load has it."""
        self._degrade(partial(self._machine.force, level))

    @property
    def degradation(self) -> DegradationLevel:
        return self._machine.level

    @property
    def shares(self) -> tuple[float, ...]:
        """How full each level's queue is; 1: holds its limit."""
        return tuple(len(lane.queue) / lane.queue.limit for lane in self._lanes)

    @property
    def counts(self) -> BusCounts:
        """As of now, each level at a moment of its own."""
        p0, p1, p2, p3 = (lane.counts() for lane in self._lanes)
        with self._order:
            return BusCounts((p0, p1, p2, p3), dict(self._failures), self._degradations)

    def _publish(self, event: Event, waits: bool) -> None:
        kind = type(event)
        lanes = [lane for lane in self._lanes if lane.subscribers[kind]]
        urgent = self._urgent in lanes
        if lanes and lanes[0].stands_aside and self._here.level is None:
            self._calm.wait(ASIDE_SECONDS)
        with self._urgent.lock if urgent else nullcontext():
            if urgent and waits:
                self._urgent.space.wait_for(self._may_publish)
            if self._stopping.is_set():
                raise TradingError(f"the bus has been stopped; {KINDS[kind]} {event.seq} is not published")
            taps = self._taps[kind]
            with self._order if taps else nullcontext():
                for tap in taps:
                    tap(event)
                if urgent:
                    self._calm.clear()
                for lane in lanes:
                    lane.put(event)

    def _may_publish(self) -> bool:
        queue = self._urgent.queue
        if len(queue) < queue.limit or self._stopping.is_set():
            return True
        if not self._threads:
            raise TradingError(f"P0 holds {queue.limit} events and the bus is not running; start it first")
        return self._awaited is not None and self._awaited is self._here.seat

    def _work(self, lane: _Lane) -> None:
        self._here.level = lane.level
        while True:
            with lane.ready:
                lane.ready.wait_for(lambda: self._stopping.is_set() or lane.available())
                if self._stopping.is_set():
                    return
                event = lane.queue.take()
                lane.under_way += 1
                lane.space.notify()
                turns = [(seat, seat.ticket(lane.level), handler) for seat, handler in lane.subscribers[type(event)]]
            for seat, ticket, handler in turns:
                if lane.stands_aside:
                    self._calm.wait(ASIDE_SECONDS)
                self._handle(lane.level, seat, ticket, handler, event)
            with lane.lock:
                lane.under_way -= 1
                lane.delivered += 1
                if lane is self._urgent and not len(lane.queue):
                    self._calm.set()
            with self._rested:
                self._rested.notify_all()

    def _handle(self, level: Level, seat: _Seat, ticket: int, handler: Handler, event: Event) -> None:
        if level is Level.P0:
            self._await(seat)
        seat.enter(level, ticket)
        if level is Level.P0:
            self._await(None)
        self._here.seat = seat
        failure = None
        try:
            handler(event)
        except Exception as error:
            failure = error
        finally:
            self._here.seat = None
            seat.leave(level)
        if failure is not None:
            self._failed(seat.component.name, event, failure)

    def _await(self, seat: _Seat | None) -> None:
        """Say which component P0 waits for: its handler must not wait for P0."""
        with self._urgent.lock:
            self._awaited = seat
            if seat is not None:
                self._urgent.space.notify_all()

    def _failed(self, name: str, event: Event, error: Exception) -> None:
        with self._order:
            self._failures[name] += 1
        self._keep(error)
        if type(event) is not HandlerFailed:
            waits = self._here.level is not Level.P0
            self._report(_handler_failed(self.next_seq(), name, event, error), waits)

    def _report(self, event: Event, waits: bool) -> None:
        """Publish an event of the bus's own. That a tap refuses it must not end a thread of the bus."""
        try:
            self._publish(event, waits)
        except Exception as error:
            self._keep(error)

    def _keep(self, error: Exception) -> None:
        with self._order:
            if self.first_failure is None:
                self.first_failure = error

    def _watch(self) -> None:
        while not self._stopping.wait(WATCH_SECONDS):
            self._degrade(partial(self._machine.update, self.shares, monotonic()))

    def _degrade(self, change: Callable[[], None]) -> None:
        with self._degrading:
            before = self._machine.level
            change()
            after = self._machine.level
            if before is after or self._stopping.is_set():
                return
            for lane in self._lanes:
                lane.pause(after.pauses(lane.level))
            self._degradations += 1
            seq = self.next_seq()
            load = self._machine.load
            self._report(Degradation(self._clock.now(), seq, seq, 0, before.name, after.name, load), waits=False)
        with self._rested:
            self._rested.notify_all()

    def _resting(self) -> bool:
        with ExitStack() as locks:
            for lane in self._lanes:
                locks.enter_context(lane.lock)
            return not any(lane.under_way or lane.available() for lane in self._lanes)
