"""The buses: order and isolation in a replay against a model, full queues, degradation, and the live bus's threads."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from math import inf
from time import monotonic, sleep

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from quant_assets.core.errors import ConfigError, TradingError
from quant_assets.trading import bus as buses
from quant_assets.trading.bus import LevelCounts, LiveBus, ReplayBus
from quant_assets.trading.component import Bus, Component
from quant_assets.trading.degradation import DegradationLevel, DegradationMachine, DegradationRules
from quant_assets.trading.events import (
    LEVELS,
    AccountSnapshot,
    Bar,
    Degradation,
    Event,
    Fill,
    HandlerFailed,
    Heartbeat,
    Level,
    Moment,
    OrderState,
    Phase,
    SafetyChange,
    Signal,
)
from quant_assets.trading.overflow import SAMPLE, Limits, Newest, Queue, Ring, Sample, Unlosing, key

P0, P1, P2, P3 = Level
NORMAL, P3_PAUSED, P2_P3_PAUSED, CRITICAL_ONLY = DegradationLevel
CALM = DegradationRules(enter=inf)
"""Never degrades by load."""
WAIT = 10.0
"""Seconds after which a test gives up; none takes that long."""


class Part(Component):
    def __init__(self, name: str = "part") -> None:
        self.name = name


def order_state(seq: int, cause: Event | None = None) -> OrderState:
    return OrderState(7, seq, cause.correlation if cause else seq, cause.seq if cause else 0, "o", "A", "FILLED", 1, "")


def bar(seq: int, symbol: str = "A") -> Bar:
    return Bar(7, seq, seq, 0, symbol, 1, 1, 1, 1, 1)


def snapshot(seq: int) -> AccountSnapshot:
    return AccountSnapshot(7, seq, seq, 0, 0, 1, 1, 0, 0)


def heartbeat(seq: int, component: str = "c") -> Heartbeat:
    return Heartbeat(7, seq, seq, 0, component, seq)


def signal(seq: int, symbol: str = "A", strategy: str = "s") -> Signal:
    return Signal(7, seq, seq, 0, strategy, symbol, 1)


def moment(seq: int, phase: Phase = Phase.CLOSE) -> Moment:
    return Moment(7, seq, seq, 0, phase, 0)


def publish(bus: Bus, make: Callable[..., Event], *arguments: object) -> Event:
    event = make(bus.next_seq(), *arguments)
    bus.publish(event)
    return event


@contextmanager
def running(bus: LiveBus) -> Iterator[LiveBus]:
    bus.start()
    try:
        yield bus
    finally:
        bus.stop(0)


def wait_until(condition: Callable[[], bool]) -> None:
    end = monotonic() + WAIT
    while not condition():
        assert monotonic() < end
        sleep(0.001)


# Replay


def test_the_more_urgent_level_comes_first_and_each_level_in_order() -> None:
    bus, seen = ReplayBus(), []
    for kind in (Heartbeat, AccountSnapshot, Bar, OrderState):
        bus.subscribe(Part(), kind, seen.append)
    published = [publish(bus, make) for make in (heartbeat, snapshot, bar, order_state) for _ in range(2)]
    assert seen == []
    bus.drain()
    assert [event.seq for event in seen] == [7, 8, 5, 6, 3, 4, 1, 2]
    assert sorted(seen, key=lambda event: event.seq) == published


def test_what_a_handler_publishes_at_p0_comes_before_the_next_event_of_p1() -> None:
    bus, seen = ReplayBus(), []

    def on_bar(event: Bar) -> None:
        seen.append(event)
        bus.publish(order_state(bus.next_seq(), event))

    bus.subscribe(Part(), Bar, on_bar)
    bus.subscribe(Part(), OrderState, seen.append)
    first, second = publish(bus, bar), publish(bus, bar)
    bus.drain()
    assert seen == [first, order_state(3, first), second, order_state(4, second)]


def test_subscribers_of_a_level_are_called_in_turn_and_those_of_a_later_level_after_all_that_came_of_it() -> None:
    bus, seen = ReplayBus(), []
    bus.subscribe(Part(), Moment, lambda event: seen.append("late"), P2)
    bus.subscribe(Part(), Moment, lambda event: publish(bus, order_state))
    bus.subscribe(Part(), Moment, lambda event: seen.append("second"))
    bus.subscribe(Part(), OrderState, lambda event: seen.append("order"))
    publish(bus, moment)
    bus.drain()
    assert seen == ["second", "order", "late"]
    assert [level.delivered for level in bus.counts.levels] == [1, 1, 1, 0]


def test_a_tap_sees_its_kinds_at_publishing_even_where_nobody_else_does() -> None:
    bus, seen = ReplayBus(), []
    bus.subscribe(Part(), Bar, seen.append)
    bus.tap(lambda event: seen.append(("tapped", event)), [Bar, OrderState])
    events = [publish(bus, make) for make in (order_state, bar, heartbeat)]
    assert seen == [("tapped", event) for event in events[:2]]
    bus.drain()
    assert seen[2:] == [events[1]]
    assert bus.counts.published == 1


def test_a_tap_that_raises_keeps_the_event_from_being_queued() -> None:
    def full(event: Event) -> None:
        raise OSError("no space left")

    bus, seen = ReplayBus(), []
    bus.tap(full, [Bar])
    bus.subscribe(Part(), Bar, seen.append)
    with pytest.raises(OSError, match="no space left"):
        publish(bus, bar)
    bus.drain()
    assert seen == []


def fails(event: Event) -> None:
    raise ValueError("not today")


def test_a_handler_that_raises_is_counted_and_published_and_the_others_get_the_event() -> None:
    bus, seen, failures = ReplayBus(), [], []
    bus.subscribe(Part("first"), Bar, seen.append)
    bus.subscribe(Part("broken"), Bar, fails)
    bus.subscribe(Part("last"), Bar, seen.append)
    bus.subscribe(Part(), HandlerFailed, failures.append)
    events = [bar(bus.next_seq()), bar(bus.next_seq())]
    for event in events:
        bus.publish(event)
    bus.drain()
    assert seen == [events[0], events[0], events[1], events[1]]
    assert bus.counts.failures == {"broken": 2}
    assert failures[0] == HandlerFailed(7, 3, 1, 1, "broken", "bar", "ValueError: not today")
    assert [failure.causation for failure in failures] == [1, 2]
    assert isinstance(bus.first_failure, ValueError)


def test_a_failing_handler_of_failures_is_counted_only() -> None:
    bus, tapped = ReplayBus(), []
    bus.tap(tapped.append, [HandlerFailed])
    bus.subscribe(Part("a"), HandlerFailed, fails)
    bus.subscribe(Part("b"), Bar, fails)
    publish(bus, bar)
    bus.drain()
    assert len(tapped) == 1
    assert bus.counts.failures == {"a": 1, "b": 1}


def test_a_replay_goes_on_delivering_everything_when_forced() -> None:
    bus, seen = ReplayBus(), []
    for kind in (Bar, AccountSnapshot, Heartbeat):
        bus.subscribe(Part(), kind, seen.append)
    bus.force(CRITICAL_ONLY)
    assert bus.degradation is CRITICAL_ONLY
    events = [publish(bus, make) for make in (bar, snapshot, heartbeat)]
    bus.drain()
    bus.force(None)
    assert bus.degradation is NORMAL
    assert seen == events


def test_a_replay_counts_what_waits() -> None:
    bus = ReplayBus()
    bus.subscribe(Part(), Bar, lambda event: None)
    for _ in range(3):
        publish(bus, bar)
    assert bus.counts.levels[P1] == LevelCounts(published=3, delivered=0, waiting=3)
    bus.drain()
    assert bus.counts.levels[P1] == LevelCounts(published=3, delivered=3, waiting=0)


MAKERS = {OrderState: order_state, Bar: bar, AccountSnapshot: snapshot, Heartbeat: heartbeat, Moment: moment}
AT = {kind: (LEVELS[kind],) for kind in MAKERS} | {Moment: (P1, P2)}
"""Kind -> levels with a subscriber."""
TAPPED = [OrderState, AccountSnapshot, Heartbeat]
CONSEQUENCES = st.recursive(
    st.just(()), lambda after: st.lists(st.tuples(st.sampled_from(list(MAKERS)), after), max_size=3).map(tuple)
)
"""What the handler of an event publishes: kinds, each with its own consequences."""


class ReplayAgainstAList(RuleBasedStateMachine):
    """The model: one list, of which the first of the most urgent level is taken."""

    def __init__(self) -> None:
        super().__init__()
        self.bus = ReplayBus()
        self.plans: dict[int, tuple] = {}
        self.kinds: dict[int, type[Event]] = {}
        self.failing: set[int] = set()
        self.seen: list[tuple[int, Level]] = []
        self.tapped: list[int] = []
        self.expected: list[tuple[int, Level]] = []
        self.published: list[int] = []
        self.waiting: list[tuple[Level, int, int]] = []
        for kind, levels in AT.items():
            for level in levels:
                self.bus.subscribe(Part(), kind, lambda event, level=level: self.handle(event, level), level)
                self.bus.subscribe(Part("other"), kind, lambda event: self.seen.append((event.seq, -1)), level)
        self.bus.tap(lambda event: self.tapped.append(event.seq), TAPPED)
        self.entrances = {kind: self.bus.entrance(kind) for kind in MAKERS}

    def handle(self, event: Event, level: Level) -> None:
        self.seen.append((event.seq, level))
        if level is AT[type(event)][0]:
            for kind, after in self.plans[event.seq]:
                self.publish(kind, after)
        if event.seq in self.failing:
            raise ValueError(event.seq)

    def publish(self, kind: type[Event], after: tuple) -> None:
        self.bus.publish(self.make(kind, after))

    def make(self, kind: type[Event], after: tuple, fails: bool = False) -> Event:
        event = MAKERS[kind](self.bus.next_seq())
        self.plans[event.seq] = after
        self.kinds[event.seq] = kind
        self.published.append(event.seq)
        if fails:
            self.failing.add(event.seq)
        return event

    @rule(kind=st.sampled_from(list(MAKERS)), after=CONSEQUENCES, fails=st.booleans())
    def publish_one(self, kind: type[Event], after: tuple, fails: bool) -> None:
        event = self.make(kind, after, fails)
        self.bus.publish(event)
        self.waiting.extend((level, event.seq, kind) for level in AT[kind])

    @precondition(lambda self: not self.waiting)
    @rule(kind=st.sampled_from(list(MAKERS)), after=CONSEQUENCES, fails=st.booleans())
    def enter(self, kind: type[Event], after: tuple, fails: bool) -> None:
        event = self.make(kind, after, fails)
        self.entrances[kind](event)
        self.waiting.extend((level, event.seq, kind) for level in AT[kind])
        self.drain_the_model()

    @rule()
    def drain(self) -> None:
        self.bus.drain()
        self.drain_the_model()

    def drain_the_model(self) -> None:
        number = max((seq for _, seq, _ in self.waiting), default=0)
        while self.waiting:
            taken = min(self.waiting, key=lambda entry: entry[0])
            self.waiting.remove(taken)
            level, seq, kind = taken
            self.expected += [(seq, level), (seq, -1)]
            if level is AT[kind][0]:
                for consequence, _ in self.plans[seq]:
                    number += 1
                    self.waiting.extend((at, number, consequence) for at in AT[consequence])
            number += seq in self.failing
        assert self.seen == self.expected

    @invariant()
    def taps_saw_all_at_publishing_and_the_counts_agree(self) -> None:
        assert self.published == sorted(self.published)
        assert self.tapped == [seq for seq in self.published if self.kinds[seq] in TAPPED]
        counts = self.bus.counts
        assert sum(level.delivered for level in counts.levels) == len(self.expected) / 2
        assert sum(level.waiting for level in counts.levels) == len(self.waiting)
        failed = sum(1 for seq, level in self.expected if level >= 0 and seq in self.failing)
        assert counts.failures.get("part", 0) == failed


TestReplayAgainstAList = ReplayAgainstAList.TestCase
TestReplayAgainstAList.settings = settings(max_examples=40, stateful_step_count=15, deadline=None)


# Queues


def put_all(queue: Queue, *events: Event) -> None:
    for event in events:
        queue.put(event)


def take_all(queue: Queue) -> list[int]:
    return [queue.take().seq for _ in range(len(queue))]


def lost(queue: Queue) -> tuple[int, int, int]:
    return queue.dropped, queue.collapsed, queue.sampled


def test_p0_loses_nothing_beyond_its_limit() -> None:
    queue = Unlosing(2)
    put_all(queue, *map(bar, range(5)))
    assert take_all(queue) == [0, 1, 2, 3, 4]
    assert lost(queue) == (0, 0, 0)


def test_a_full_ring_drops_the_oldest() -> None:
    queue = Ring(3)
    put_all(queue, *map(bar, range(5)))
    assert take_all(queue) == [2, 3, 4]
    put_all(queue, bar(5))
    queue.clear()
    assert len(queue) == 0
    assert lost(queue) == (3, 0, 0)


def test_of_each_key_the_newest_stays_in_the_place_of_the_first_and_the_oldest_key_goes() -> None:
    queue = Newest(2)
    put_all(queue, bar(1, "A"), bar(2, "B"), bar(3, "A"))
    assert lost(queue) == (0, 1, 0)
    put_all(queue, bar(4, "C"))
    assert take_all(queue) == [2, 4]
    assert lost(queue) == (1, 1, 0)


def test_a_full_sample_takes_one_in_so_many() -> None:
    queue = Sample(2)
    put_all(queue, *map(bar, range(2 + 2 * SAMPLE)))
    assert take_all(queue) == [1 + SAMPLE, 1 + 2 * SAMPLE]
    assert lost(queue) == (0, 0, 2 * SAMPLE)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (bar(1), bar(2), True),
        (bar(1), bar(2, "B"), False),
        (bar(1), signal(2), False),
        (signal(1), signal(2, strategy="t"), False),
        (moment(1), moment(2), True),
        (moment(1), moment(2, Phase.NIGHT), False),
        (heartbeat(1), heartbeat(2), True),
        (heartbeat(1), heartbeat(2, "d"), False),
        (snapshot(1), snapshot(2), True),
        (order_state(1), order_state(2), True),
        (
            Fill(7, 1, 1, 0, "o", "f1", "A", 1, 1, 1, 1, 0, ""),
            Fill(7, 2, 2, 0, "o", "f2", "A", 1, 1, 1, 1, 0, ""),
            False,
        ),
        (SafetyChange(7, 1, 1, 0, "NORMAL", "FAIL", ""), SafetyChange(7, 2, 2, 0, "FAIL", "NORMAL", ""), True),
    ],
)
def test_events_are_pictures_of_one_thing_when_all_that_identifies_them_agrees(
    one: Event, other: Event, same: bool
) -> None:
    assert (key(one) == key(other)) is same


class QueuesAgainstLists(RuleBasedStateMachine):
    """The models: what waits, in a list, and how many were lost in which way."""

    LIMIT = 3

    def __init__(self) -> None:
        super().__init__()
        self.queues = {"P0": Unlosing(self.LIMIT), "P1": Ring(self.LIMIT), "P2": Newest(self.LIMIT)}
        self.queues["P3"] = Sample(self.LIMIT)
        self.models: dict[str, list[Bar]] = {name: [] for name in self.queues}
        self.lost = {name: [0, 0, 0] for name in self.queues}
        self.put_in = 0
        self.taken = dict.fromkeys(self.queues, 0)

    @rule(symbol=st.sampled_from("ABCDE"), times=st.integers(1, 12))
    def put(self, symbol: str, times: int) -> None:
        for _ in range(times):
            self.put_in += 1
            event = bar(self.put_in, symbol)
            for queue in self.queues.values():
                queue.put(event)
            p0, p1, p2, p3 = self.models.values()
            p0.append(event)
            p1.append(event)
            if len(p1) > self.LIMIT:
                del p1[0]
                self.lost["P1"][0] += 1
            symbols = [waiting.symbol for waiting in p2]
            if symbol in symbols:
                p2[symbols.index(symbol)] = event
                self.lost["P2"][1] += 1
            else:
                self.lost["P2"][0] += len(p2) == self.LIMIT
                p2[:] = [*p2[len(p2) == self.LIMIT :], event]
            if len(p3) < self.LIMIT:
                p3.append(event)
            else:
                self.lost["P3"][2] += 1
                if self.lost["P3"][2] % SAMPLE == 0:
                    p3[:] = [*p3[1:], event]

    @rule(name=st.sampled_from(["P0", "P1", "P2", "P3"]))
    def take(self, name: str) -> None:
        if self.models[name]:
            assert self.queues[name].take() == self.models[name].pop(0)
            self.taken[name] += 1

    @invariant()
    def exactly_the_counted_are_lost(self) -> None:
        for name, queue in self.queues.items():
            assert len(queue) == len(self.models[name])
            assert [*lost(queue)] == self.lost[name]
            assert self.put_in == self.taken[name] + len(queue) + sum(lost(queue))
            assert name == "P0" or len(queue) <= self.LIMIT
        assert sum(self.lost["P0"]) == 0

    def teardown(self) -> None:
        for name, queue in self.queues.items():
            assert take_all(queue) == [event.seq for event in self.models[name]]


TestQueuesAgainstLists = QueuesAgainstLists.TestCase
TestQueuesAgainstLists.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def test_a_limit_below_one_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"p2=0.*1 event at least"):
        Limits(p2=0)


# Degradation


@pytest.mark.parametrize("rules", [{"enter": 0.4, "leave": 0.4}, {"leave": -0.1}, {"dwell": -1}])
def test_rules_without_hysteresis_are_refused(rules: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="0 <= leave < enter"):
        DegradationRules(**rules)


def test_each_step_pauses_one_level_more() -> None:
    paused = [[level for level in Level if step.pauses(level)] for step in DegradationLevel]
    assert paused == [[], [P3], [P2, P3], [P1, P2, P3]]


def levels(machine: DegradationMachine, *updates: tuple[float, tuple[float, ...]]) -> list[DegradationLevel]:
    found = []
    for now, shares in updates:
        machine.update(shares, now)
        found.append(machine.level)
    return found


def test_it_steps_up_and_back_one_level_at_a_time_and_dwells_at_each() -> None:
    machine = DegradationMachine(DegradationRules(enter=0.8, leave=0.4, dwell=1))
    full, half, empty = (1.0, 0.0, 0.0, 0.0), (0.5, 0.0, 0.0, 0.0), (0.0,) * 4
    up = levels(machine, (0, full), (0.9, full), (1, full), (2, full), (3, full))
    assert up == [P3_PAUSED, P3_PAUSED, P2_P3_PAUSED, CRITICAL_ONLY, CRITICAL_ONLY]
    back = levels(machine, (4, half), (5, empty), (5.5, empty), (6, empty), (7, half), (8, empty))
    assert back == [CRITICAL_ONLY, P2_P3_PAUSED, P2_P3_PAUSED, P3_PAUSED, P3_PAUSED, NORMAL]


def test_a_level_is_paused_for_the_sake_of_those_above_it_only() -> None:
    machine = DegradationMachine(DegradationRules(dwell=0))
    assert levels(machine, (0, (0, 0, 0, 1)), (1, (0, 0, 1, 1)), (2, (0, 0, 1, 1)), (3, (0, 1, 1, 1))) == [
        NORMAL,
        P3_PAUSED,
        P3_PAUSED,
        P2_P3_PAUSED,
    ]
    assert levels(machine, (4, (0, 1, 1, 1)), (5, (0, 0, 1, 1)), (6, (0, 0, 1, 1)), (7, (0, 0, 0, 1))) == [
        P2_P3_PAUSED,
        P3_PAUSED,
        P3_PAUSED,
        NORMAL,
    ]


def test_a_forced_level_is_the_least_there_is_until_it_is_released() -> None:
    machine = DegradationMachine(DegradationRules(dwell=0))
    machine.force(P2_P3_PAUSED)
    assert machine.level is P2_P3_PAUSED
    assert levels(machine, *((now, (1, 0, 0, 0)) for now in range(3))) == [P2_P3_PAUSED, P2_P3_PAUSED, CRITICAL_ONLY]
    machine.force(None)
    assert machine.level is CRITICAL_ONLY
    machine.update((0, 0, 0, 0), 4)
    assert machine.level is P2_P3_PAUSED


SHARES = st.tuples(*[st.floats(0, 1.5)] * 4)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.tuples(st.floats(0, 2), SHARES), max_size=40), st.floats(0, 3))
def test_every_step_has_its_cause_and_its_dwell(updates: list[tuple[float, tuple[float, ...]]], dwell: float) -> None:
    rules = DegradationRules(enter=0.8, leave=0.4, dwell=dwell)
    machine = DegradationMachine(rules)
    now, changed = 0.0, -inf
    for elapsed, shares in updates:
        now += elapsed
        before = machine.level
        machine.update(shares, now)
        step = machine.level - before
        above = max(before, machine.level)
        assert abs(step) <= 1
        if step:
            assert now - changed >= dwell
            load = max(shares[: 4 - above])
            assert load >= rules.enter if step > 0 else load <= rules.leave
            changed = now


@settings(deadline=None, max_examples=60)
@given(st.lists(SHARES, max_size=12), SHARES)
def test_a_paused_queue_delays_no_step_back(updates: list[tuple[float, ...]], paused: tuple[float, ...]) -> None:
    machine, other = (DegradationMachine(DegradationRules(dwell=0)) for _ in range(2))
    for now, shares in enumerate(updates):
        machine.update(shares, now)
        delivered = sum(not other.level.pauses(level) for level in Level)
        other.update((*shares[:delivered], *paused[delivered:]), now)
        assert other.level is machine.level
    for now in range(3):
        machine.update((0.4, 0.4, 0.4, 1), len(updates) + now)
    assert machine.level is NORMAL


# Live


def test_the_live_bus_delivers_at_each_level_and_rests() -> None:
    bus, seen = LiveBus(rules=CALM), {level: [] for level in Level}
    for level, kind in zip(Level, (OrderState, Bar, Moment, Heartbeat), strict=True):
        bus.subscribe(Part(), kind, seen[level].append, level)
    interval = sys.getswitchinterval()
    with running(bus):
        assert sys.getswitchinterval() < interval
        events = [publish(bus, make) for make in (order_state, bar, moment, heartbeat)]
        assert bus.join(WAIT)
        assert bus.stop()
    assert sys.getswitchinterval() == interval
    assert [seen[level] for level in Level] == [[event] for event in events]
    assert bus.counts.levels == (LevelCounts(1, 1, 0),) * 4
    with pytest.raises(TradingError, match="has been stopped"):
        publish(bus, order_state)
    with pytest.raises(TradingError, match="started before"):
        bus.start()


@pytest.mark.parametrize(
    ("level", "expected", "counts"),
    [
        (P1, [5, 6], LevelCounts(6, 2, 0, dropped=4)),
        (P2, [5, 6], LevelCounts(6, 2, 0, dropped=1, collapsed=3)),
        (P3, [1, 2], LevelCounts(6, 2, 0, sampled=4)),
    ],
)
def test_each_level_overflows_in_its_own_way(level: Level, expected: list[int], counts: LevelCounts) -> None:
    bus, seen = LiveBus(Limits(p1=2, p2=2, p3=2), CALM), []
    bus.subscribe(Part(), Bar, lambda event: seen.append(event.seq), level)
    for symbol in "AABCBC":
        publish(bus, bar, symbol)
    with running(bus):
        assert bus.join(WAIT)
    assert seen == expected
    assert bus.counts.levels[level] == counts


def test_p0_makes_its_publishers_wait_and_loses_nothing() -> None:
    bus, seen, go = LiveBus(Limits(p0=2), CALM), [], threading.Event()

    def on_order_state(event: OrderState) -> None:
        go.wait(WAIT)
        seen.append(event.seq)

    bus.subscribe(Part(), OrderState, on_order_state)
    with running(bus):
        publisher = threading.Thread(target=lambda: [publish(bus, order_state) for _ in range(6)])
        publisher.start()
        wait_until(lambda: bus.counts.levels[P0].waiting == 3)
        publisher.join(0.02)
        assert publisher.is_alive()
        assert bus.counts.levels[P0] == LevelCounts(published=3, delivered=0, waiting=3)
        go.set()
        publisher.join(WAIT)
        assert bus.join(WAIT)
    assert seen == [1, 2, 3, 4, 5, 6]
    assert bus.counts.levels[P0] == LevelCounts(6, 6, 0)


def test_a_handler_at_p0_publishes_beyond_the_limit_in_order() -> None:
    bus, seen = LiveBus(Limits(p0=1), CALM), []

    def on_order_state(event: OrderState) -> None:
        seen.append(event.seq)
        if event.seq == 1:
            for _ in range(5):
                bus.publish(order_state(bus.next_seq(), event))

    bus.subscribe(Part(), OrderState, on_order_state)
    with running(bus):
        publish(bus, order_state)
        assert bus.join(WAIT)
    assert seen == [1, 2, 3, 4, 5, 6]


def test_a_handler_that_p0_waits_for_does_not_wait_for_p0() -> None:
    bus, part, seen = LiveBus(Limits(p0=1), CALM), Part(), []
    bus.subscribe(part, Bar, lambda event: [publish(bus, order_state) for _ in range(5)])
    bus.subscribe(part, OrderState, lambda event: seen.append(event.seq))
    with running(bus):
        for _ in range(20):
            publish(bus, bar)
        assert bus.join(WAIT)
    assert len(seen) == 100
    assert bus.counts.levels[P0] == LevelCounts(100, 100, 0)


def test_publishers_that_wait_are_told_when_the_bus_stops() -> None:
    bus, go, told = LiveBus(Limits(p0=1), CALM), threading.Event(), []
    bus.subscribe(Part(), OrderState, lambda event: go.wait(WAIT))

    def keep_publishing() -> None:
        try:
            while True:
                publish(bus, order_state)
        except TradingError as error:
            told.append(str(error))

    publisher = threading.Thread(target=keep_publishing)
    with running(bus):
        publisher.start()
        wait_until(lambda: bus.counts.levels[P0].waiting == 2)
        assert not bus.stop(0.01)
        publisher.join(WAIT)
        go.set()
    assert told == ["the bus has been stopped; order_state 3 is not published"]


def test_a_full_p0_that_nobody_empties_is_refused() -> None:
    bus = LiveBus(Limits(p0=1), CALM)
    bus.subscribe(Part(), OrderState, lambda event: None)
    publish(bus, order_state)
    with pytest.raises(TradingError, match="P0 holds 1 events and the bus is not running"):
        publish(bus, order_state)


def test_from_many_producers_every_event_of_p0_is_handled_once_and_tapped_after_its_cause() -> None:
    bus, seen, tapped = LiveBus(Limits(p0=5), CALM), [], []

    def on_order_state(event: OrderState) -> None:
        seen.append(event.seq)
        if event.causation == 0:
            bus.publish(order_state(bus.next_seq(), event))

    bus.subscribe(Part(), OrderState, on_order_state)
    bus.tap(tapped.append, [OrderState])
    mine: list[list[int]] = [[] for _ in range(4)]

    def produce(numbers: list[int]) -> None:
        numbers.extend(publish(bus, order_state).seq for _ in range(100))

    with running(bus):
        producers = [threading.Thread(target=produce, args=(numbers,)) for numbers in mine]
        for producer in producers:
            producer.start()
        for producer in producers:
            producer.join(WAIT)
        assert bus.join(WAIT)
    assert sorted(seen) == list(range(1, 801))
    assert seen == [event.seq for event in tapped]
    place = {event.seq: number for number, event in enumerate(tapped)}
    assert all(place[event.causation] < place[event.seq] for event in tapped if event.causation)
    assert all(place[one] < place[other] for numbers in mine for one, other in pairwise(numbers))


def test_a_component_handles_one_event_at_a_time_and_each_level_in_order() -> None:
    bus, part, inside, seen = LiveBus(rules=CALM), Part(), [], {level: [] for level in Level}

    def handle(event: Event, level: Level) -> None:
        assert inside == []
        inside.append(event)
        sleep(0)
        seen[level].append(event.seq)
        assert inside.pop() is event

    kinds = {OrderState: P0, Bar: P1, Signal: P1, Fill: P2, Heartbeat: P3}
    for kind, level in kinds.items():
        bus.subscribe(part, kind, lambda event, level=level: handle(event, level), level)
    with running(bus):
        for number in range(60):
            for make in (order_state, bar, signal, heartbeat):
                publish(bus, make)
            seq = bus.next_seq()
            bus.publish(Fill(7, seq, seq, 0, "o", str(number), "A", 1, 1, 1, 1, 0, ""))
        assert bus.join(WAIT)
    assert bus.first_failure is None
    assert {level: len(numbers) for level, numbers in seen.items()} == {P0: 60, P1: 120, P2: 60, P3: 60}
    assert all(numbers == sorted(numbers) for numbers in seen.values())


def test_subscribers_of_a_level_follow_one_another_though_two_workers_serve_it() -> None:
    bus, seen = LiveBus(rules=CALM), []
    market, engine = Part("market"), Part("engine")

    def note(name: str) -> Callable[[Event], None]:
        def handler(event: Event) -> None:
            sleep(0.0002 * (event.seq % 3))
            seen.append((name, event.seq))

        return handler

    bus.subscribe(market, Bar, note("market"))
    bus.subscribe(engine, Bar, note("engine"))
    bus.subscribe(market, Moment, note("market"))
    bus.subscribe(engine, Moment, note("engine"))
    with running(bus):
        for number in range(120):
            publish(bus, moment if number % 4 == 3 else bar)
        assert bus.join(WAIT)
    for name in ("market", "engine"):
        assert [seq for who, seq in seen if who == name] == list(range(1, 121))
    place = {entry: number for number, entry in enumerate(seen)}
    assert all(place["market", seq] < place["engine", seq] for seq in range(1, 121))


def test_a_slow_handler_of_p2_holds_up_no_other_level() -> None:
    bus, seen, go = LiveBus(rules=CALM), [], threading.Event()
    bus.subscribe(Part("slow"), AccountSnapshot, lambda event: go.wait(WAIT))
    for kind in (OrderState, Bar, Heartbeat):
        bus.subscribe(Part(), kind, seen.append)
    with running(bus):
        for make in (snapshot, order_state, bar, heartbeat):
            publish(bus, make)
        wait_until(lambda: len(seen) == 3)
        assert bus.counts.levels[P2] == LevelCounts(1, 0, 1)
        go.set()


def test_p2_and_p3_begin_nothing_while_p0_is_at_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buses, "ASIDE_SECONDS", WAIT)
    bus, seen, go = LiveBus(rules=CALM), [], threading.Event()

    def on_order_state(event: OrderState) -> None:
        publish(bus, snapshot)
        publish(bus, heartbeat)
        go.wait(WAIT)
        seen.append("P0")

    bus.subscribe(Part(), OrderState, on_order_state)
    bus.subscribe(Part(), AccountSnapshot, lambda event: seen.append("late"))
    bus.subscribe(Part(), Heartbeat, lambda event: seen.append("late"))
    with running(bus):
        publish(bus, order_state)
        wait_until(lambda: [level.waiting for level in bus.counts.levels] == [1, 0, 1, 1])
        publisher = threading.Thread(target=publish, args=(bus, heartbeat))
        publisher.start()
        publisher.join(0.02)
        assert publisher.is_alive()
        go.set()
        publisher.join(WAIT)
        assert bus.join(WAIT)
    assert seen == ["P0", "late", "late", "late"]


def test_the_most_urgent_level_gets_a_component_first() -> None:
    bus, part, seen, go = LiveBus(rules=CALM), Part(), [], threading.Event()

    def on_bar(event: Bar) -> None:
        seen.append("P1")
        go.wait(WAIT)

    bus.subscribe(part, Bar, on_bar)
    bus.subscribe(part, OrderState, lambda event: seen.append("P0"))
    bus.subscribe(part, Heartbeat, lambda event: seen.append("P3"))
    with running(bus):
        publish(bus, bar)
        wait_until(lambda: seen == ["P1"])
        publish(bus, heartbeat)
        publish(bus, order_state)
        publish(bus, bar)
        seat = next(iter(bus._seats.values()))
        wait_until(lambda: seat._waiting == [1, 1, 0, 1])
        go.set()
        assert bus.join(WAIT)
    assert seen == ["P1", "P0", "P1", "P3"]


def test_a_live_handler_that_raises_is_counted_and_published() -> None:
    bus, seen, failures = LiveBus(rules=CALM), [], []
    bus.subscribe(Part("broken"), Bar, fails)
    bus.subscribe(Part(), Bar, seen.append)
    bus.subscribe(Part(), HandlerFailed, failures.append)
    bus.subscribe(Part("worse"), HandlerFailed, fails)
    with running(bus):
        event = publish(bus, bar)
        assert bus.join(WAIT)
    assert seen == [event]
    assert failures == [HandlerFailed(7, 2, 1, 1, "broken", "bar", "ValueError: not today")]
    assert bus.counts.failures == {"broken": 1, "worse": 1}
    assert isinstance(bus.first_failure, ValueError)


def test_a_tap_that_raises_ends_no_thread_of_the_live_bus() -> None:
    def full(event: Event) -> None:
        raise OSError("no space left")

    bus, seen = LiveBus(rules=CALM), []
    bus.tap(full, [Degradation, OrderState])
    bus.subscribe(Part(), OrderState, seen.append)
    with running(bus):
        with pytest.raises(OSError, match="no space left"):
            publish(bus, order_state)
        bus.force(P3_PAUSED)
        assert isinstance(bus.first_failure, OSError)
        assert bus.degradation is P3_PAUSED
        assert bus.join(WAIT)
    assert seen == []


def test_a_paused_p3_takes_nothing_in_and_a_paused_p2_collapses_until_it_is_released() -> None:
    bus, seen = LiveBus(rules=CALM), []
    for kind, level in {Bar: P2, Heartbeat: P3}.items():
        bus.subscribe(Part(), kind, seen.append, level)
    with running(bus):
        bus.force(P2_P3_PAUSED)
        first, second, _ = (publish(bus, make) for make in (bar, bar, heartbeat))
        assert bus.join(WAIT)
        assert seen == []
        assert bus.counts.levels[P2] == LevelCounts(2, 0, 1, collapsed=1)
        assert bus.counts.levels[P3] == LevelCounts(1, 0, 0, dropped=1)
        bus.force(None)
        assert bus.join(WAIT)
    assert seen == [second]
    assert first != second


def test_critical_only_handles_p0_and_drops_p1_and_what_waited_there() -> None:
    bus, seen, changes = LiveBus(rules=CALM), [], []
    for kind in (Bar, OrderState):
        bus.subscribe(Part(), kind, seen.append)
    bus.tap(changes.append, [Degradation])
    for _ in range(3):
        publish(bus, bar)
    bus.force(CRITICAL_ONLY)
    with running(bus):
        publish(bus, bar)
        event = publish(bus, order_state)
        assert bus.join(WAIT)
        assert seen == [event]
        assert bus.counts.levels[P1] == LevelCounts(4, 0, 0, dropped=4)
        bus.force(None)
        after = publish(bus, bar)
        assert bus.join(WAIT)
    assert seen == [event, after]
    assert [(change.before, change.after) for change in changes] == [
        ("NORMAL", "CRITICAL_ONLY"),
        ("CRITICAL_ONLY", "NORMAL"),
    ]
    assert bus.counts.degradations == 2


def test_it_degrades_by_load_and_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buses, "WATCH_SECONDS", 0.001)
    bus, begun, go, changes = LiveBus(Limits(p0=2), DegradationRules(dwell=0)), threading.Event(), threading.Event(), []

    def hold(event: OrderState) -> None:
        begun.set()
        go.wait(WAIT)

    bus.subscribe(Part(), OrderState, hold)
    bus.subscribe(Part(), Degradation, changes.append)
    with running(bus):
        publish(bus, order_state)
        assert begun.wait(WAIT)
        for _ in range(2):
            publish(bus, order_state)
        wait_until(lambda: bus.degradation is CRITICAL_ONLY)
        go.set()
        wait_until(lambda: bus.degradation is NORMAL)
        wait_until(lambda: bus.counts.degradations == 6)
        assert bus.join(WAIT)
    names = [level.name for level in DegradationLevel]
    assert [(change.before, change.after) for change in changes] == [*pairwise(names), *pairwise(names[::-1])]
    assert [change.load >= 0.8 for change in changes] == [True, True, True, False, False, False]


def test_a_handler_may_force_a_level_while_p0_is_full() -> None:
    bus, changes = LiveBus(Limits(p0=1), CALM), []
    bus.subscribe(Part(), OrderState, lambda event: bus.force(CRITICAL_ONLY))
    bus.subscribe(Part(), Degradation, changes.append)
    with running(bus):
        for _ in range(5):
            publish(bus, order_state)
        assert bus.join(WAIT)
    assert [change.after for change in changes] == ["CRITICAL_ONLY"]
