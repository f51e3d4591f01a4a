"""The safety and the operating state: when they change, when not, and what both mean for those who act."""

from itertools import pairwise
from math import nan
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.core.errors import ConfigError
from quant_assets.trading.bus import ReplayBus
from quant_assets.trading.component import ReplayClock, connect
from quant_assets.trading.controls import Controls
from quant_assets.trading.events import (
    AccountSnapshot,
    Event,
    HandlerFailed,
    Heartbeat,
    OperatingChange,
    RiskDenial,
    SafetyChange,
)
from quant_assets.trading.operating import (
    OVERRIDE,
    Figures,
    Operating,
    OperatingMachine,
    OperatingPolicy,
    OperatingRules,
)
from quant_assets.trading.safety import Safety, SafetyLimits, SafetyMachine

SECOND = 1_000_000_000
HOUR = 3_600 * SECOND
DAY = 24 * HOUR
NORMAL, WARNING, FAIL, LOCKDOWN = Safety
AGGRESSIVE, BALANCED, DEFENSIVE = Operating

DRAWDOWNS = SafetyLimits(warning_drawdown=0.1, fail_drawdown=0.2, lockdown_drawdown=0.5)


class Watched:
    """A safety machine on a bus, the changes it published, and whether it holds the bus."""

    def __init__(self, limits: SafetyLimits) -> None:
        self.bus, self.clock = ReplayBus(), ReplayClock()
        self.changes: list[SafetyChange] = []
        self.forced: list[bool] = []
        self.bus.tap(self.changes.append, [SafetyChange])
        self.safety = SafetyMachine(self.bus, self.clock, limits, self.forced.append)
        connect(self.safety, self.bus)

    def tell(self, kind: type[Event], *fields: Any, at: int | None = None) -> Safety:
        """What the state is after an event."""
        self.clock.time = self.clock.time if at is None else at
        self.bus.publish(kind(self.clock.time, self.bus.next_seq(), 1, 0, *fields))
        self.bus.drain()
        assert self.bus.first_failure is None
        return self.safety.state

    def equity(self, value: float, at: int | None = None) -> Safety:
        return self.tell(AccountSnapshot, 0, value, value, 0.0, 0, at=at)

    def denied(self, at: int | None = None) -> Safety:
        return self.tell(RiskDenial, "o-1", "AAA", "position", 2.0, 1.0, "too much", at=at)

    def failed(self, at: int | None = None) -> Safety:
        return self.tell(HandlerFailed, "portfolio", "bar", "ValueError: 1", at=at)

    def beat(self, component: str, at: int | None = None) -> Safety:
        return self.tell(Heartbeat, component, 1, at=at)


# --- safety: what raises it ---


def test_states_compare_by_severity():
    assert sorted([LOCKDOWN, NORMAL, FAIL, WARNING]) == [NORMAL, WARNING, FAIL, LOCKDOWN]
    assert FAIL > WARNING
    assert WARNING >= WARNING
    assert not LOCKDOWN <= FAIL


@pytest.mark.parametrize(
    ("equity", "state"),
    [
        (100.0, NORMAL),
        (90.5, NORMAL),
        (90.0, WARNING),
        (80.0, FAIL),
        (50.0, LOCKDOWN),
        (-1.0, LOCKDOWN),
        (nan, LOCKDOWN),
    ],
)
def test_a_drawdown_that_reaches_a_limit_raises_safety_at_once(equity: float, state: Safety):
    watched = Watched(DRAWDOWNS)
    watched.equity(100.0)
    assert watched.equity(equity) == state


def test_a_drawdown_is_measured_from_the_highest_equity():
    watched = Watched(DRAWDOWNS)
    states = [watched.equity(value) for value in (100.0, 200.0, 181.0, 180.0)]
    assert states == [NORMAL, NORMAL, NORMAL, WARNING]


def test_a_daily_loss_is_measured_from_the_last_equity_of_the_day_before():
    watched = Watched(SafetyLimits(daily_loss=0.25))
    assert watched.equity(100.0, at=0) == NORMAL
    assert watched.equity(96.0, at=23 * HOUR) == NORMAL
    assert watched.equity(73.0, at=DAY) == NORMAL
    assert watched.equity(72.0, at=DAY + HOUR) == FAIL  # a quarter below 96


def test_failures_within_the_window_raise_safety_to_fail():
    watched = Watched(SafetyLimits(failures=2, window=10 * SECOND))
    assert watched.failed(at=0) == NORMAL
    assert watched.failed(at=11 * SECOND) == NORMAL
    assert watched.failed(at=21 * SECOND) == FAIL


def test_denials_within_the_window_raise_safety_to_warning():
    watched = Watched(SafetyLimits(denials=3, window=10 * SECOND))
    assert [watched.denied(at=second * SECOND) for second in (0, 5, 10)] == [NORMAL, NORMAL, WARNING]


def test_a_component_that_falls_silent_raises_safety_to_fail():
    watched = Watched(SafetyLimits(silence=10 * SECOND))
    watched.beat("feed", at=0)
    assert watched.beat("risk", at=10 * SECOND) == NORMAL
    assert watched.beat("risk", at=11 * SECOND) == FAIL
    assert "feed" in watched.changes[-1].reason


def test_a_change_names_the_event_that_caused_it_and_why():
    watched = Watched(DRAWDOWNS)
    watched.equity(100.0)
    watched.equity(75.0, at=7)
    (change,) = watched.changes
    assert (change.ts, change.seq, change.correlation, change.causation) == (7, 3, 1, 2)
    assert (change.before, change.after) == ("NORMAL", "FAIL")
    assert change.reason == "equity 75 is 0.2 or more below its peak 100"


def test_without_rules_nothing_is_listened_to():
    assert Watched(SafetyLimits()).safety.handlers() == {}


@pytest.mark.parametrize(
    "wrong",
    [
        {"warning_drawdown": 0.0},
        {"daily_loss": 1.0},
        {"failures": 0},
        {"silence": -1},
        {"calm": nan},
        {"warning_drawdown": 0.2, "lockdown_drawdown": 0.2},
        {"warning_drawdown": 0.3, "fail_drawdown": 0.2},
    ],
)
def test_limits_that_make_no_sense_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=str(next(iter(wrong.values())))):
        SafetyLimits(**wrong)


# --- safety: what lowers it ---


def test_safety_falls_one_step_after_each_calm():
    watched = Watched(SafetyLimits(fail_drawdown=0.2, calm=HOUR))
    watched.equity(100.0, at=0)
    watched.equity(70.0, at=0)
    assert watched.equity(90.0, at=HOUR - 1) == FAIL
    assert watched.equity(90.0, at=HOUR) == WARNING
    assert watched.equity(90.0, at=2 * HOUR - 1) == WARNING
    assert watched.equity(90.0, at=2 * HOUR) == NORMAL
    assert watched.changes[1].reason == "nothing asked for FAIL for 3600 s"


def test_what_asks_again_begins_the_wait_anew():
    watched = Watched(SafetyLimits(fail_drawdown=0.2, calm=HOUR))
    watched.equity(100.0, at=0)
    watched.equity(70.0, at=0)
    watched.equity(90.0, at=HOUR // 2)
    watched.equity(70.0, at=HOUR - 1)
    assert watched.equity(90.0, at=2 * HOUR - 2) == FAIL
    assert watched.equity(90.0, at=2 * HOUR - 1) == WARNING


def test_lockdown_holds_the_bus_until_it_is_reset_by_hand():
    watched = Watched(DRAWDOWNS)
    watched.equity(100.0, at=0)
    watched.equity(40.0)
    assert watched.equity(100.0, at=365 * DAY) == LOCKDOWN
    assert watched.forced == [True]
    watched.safety.reset("looked at it")
    assert watched.safety.state == NORMAL
    assert watched.forced == [True, False]
    assert (watched.changes[-1].causation, watched.changes[-1].reason) == (0, "looked at it")


def test_a_reset_begins_drawdowns_anew():
    watched = Watched(DRAWDOWNS)
    watched.equity(100.0)
    watched.equity(40.0)
    watched.safety.reset("begin with what is left")
    assert watched.equity(40.0) == NORMAL
    assert watched.equity(36.0) == WARNING


def test_a_reset_forgets_failures_denials_and_silences():
    watched = Watched(SafetyLimits(failures=1, denials=1, silence=SECOND))
    watched.beat("feed", at=0)
    watched.beat("risk", at=2 * SECOND)
    watched.failed()
    watched.denied()
    assert watched.safety.state == FAIL
    watched.safety.reset("repaired")
    assert watched.beat("risk", at=3 * SECOND) == NORMAL


def test_what_was_tripped_by_hand_stays_until_reset():
    watched = Watched(DRAWDOWNS)
    watched.equity(100.0, at=0)
    watched.safety.trip(FAIL, "venue is down")
    watched.safety.trip(WARNING, "milder, and late")
    assert watched.equity(100.0, at=10 * DAY) == FAIL
    watched.safety.reset("venue is back")
    assert [(change.after, change.reason) for change in watched.changes] == [
        ("FAIL", "venue is down"),
        ("NORMAL", "venue is back"),
    ]


steps = st.lists(
    st.tuples(
        st.sampled_from(["equity", "denied", "failed", "trip", "reset"]),
        st.integers(0, 2 * HOUR),
        st.floats(40.0, 130.0),
        st.sampled_from(Safety),
    ),
    max_size=25,
)


@given(steps)
@settings(max_examples=60)
def test_safety_falls_only_by_reset_or_one_step_after_calm(steps: list[tuple[str, int, float, Safety]]):
    watched = Watched(
        SafetyLimits(
            warning_drawdown=0.1, fail_drawdown=0.2, lockdown_drawdown=0.5, daily_loss=0.1, denials=2, failures=2
        )
    )
    peak, last, since = 0.0, 0.0, 0
    for action, wait, equity, state in steps:
        before = watched.safety.state
        watched.clock.time += wait
        match action:
            case "equity":
                watched.equity(equity)
                peak, last = max(peak, equity), equity
                assert watched.safety.state >= (FAIL if equity <= peak * 0.8 else NORMAL)
            case "denied":
                watched.denied()
            case "failed":
                watched.failed()
            case "trip":
                watched.safety.trip(state, "by hand")
                assert watched.safety.state >= state
            case "reset":
                watched.safety.reset("by hand")
                assert watched.safety.state == NORMAL
                peak = last
        watched.bus.drain()
        after = watched.safety.state
        if after < before and action != "reset":
            assert before != LOCKDOWN
            assert after.severity == before.severity - 1
            assert watched.clock.time - since >= HOUR
        since = since if after == before else watched.clock.time
        assert not watched.changes or watched.changes[-1].after == after
    assert all(one.after == two.before for one, two in pairwise(watched.changes))
    locks = [change.after == LOCKDOWN for change in watched.changes if LOCKDOWN in (change.before, change.after)]
    assert watched.forced == locks


# --- operating ---

RULES = OperatingRules(drawdown=(0.05, 0.10), volatility=(0.2, 0.4), losing_streak=(3, 6), dwell=HOUR, cooldown=DAY)
GOOD, POOR, BAD = Figures(-0.01, 0.1, 0), Figures(-0.07, 0.1, 0), Figures(-0.12, 0.1, 0)


def evaluated(policy: OperatingPolicy, *figures: Figures, at: int) -> Operating:
    """The state after evaluations, a nanosecond apart, of which the last is at this time."""
    for early, each in zip(range(len(figures) - 1, -1, -1), figures, strict=True):
        policy.evaluate(each, at - early)
    return policy.state


def at_once(state: Operating) -> OperatingPolicy:
    """A policy that has just come to this state at time 0, without anybody's hand."""
    policy = OperatingPolicy(RULES)
    others = {AGGRESSIVE: GOOD, BALANCED: POOR, DEFENSIVE: BAD}
    if state == BALANCED:
        evaluated(policy, GOOD, GOOD, at=-10 * DAY)
    assert evaluated(policy, others[state], others[state], at=0) == state
    return policy


@pytest.mark.parametrize(
    ("figures", "state"),
    [
        (Figures(0.0, 0.0, 0), AGGRESSIVE),
        (Figures(-0.049, 0.199, 2), AGGRESSIVE),
        (Figures(-0.05, 0.0, 0), BALANCED),
        (Figures(0.0, 0.2, 0), BALANCED),
        (Figures(0.0, 0.0, 3), BALANCED),
        (Figures(-0.10, 0.2, 3), DEFENSIVE),
        (Figures(0.0, 0.4, 0), DEFENSIVE),
        (Figures(0.0, 0.0, 6), DEFENSIVE),
        (Figures(0.0, nan, 0), BALANCED),
        (Figures(-0.10, nan, 0), DEFENSIVE),
    ],
)
def test_the_most_careful_figure_counts(figures: Figures, state: Operating):
    assert RULES.wish(figures) == state


def test_a_figure_without_limits_is_left_out():
    rules = OperatingRules(drawdown=None, volatility=None, losing_streak=(3, 6))
    assert rules.wish(Figures(-0.9, nan, 0)) == AGGRESSIVE


def test_one_odd_evaluation_changes_nothing_and_two_alike_do():
    policy = at_once(AGGRESSIVE)
    assert evaluated(policy, BAD, GOOD, BAD, at=DAY) == AGGRESSIVE
    assert evaluated(policy, BAD, at=DAY + 1) == DEFENSIVE


def test_two_evaluations_that_ask_for_different_states_confirm_neither():
    assert evaluated(at_once(AGGRESSIVE), POOR, BAD, at=DAY) == AGGRESSIVE


def test_a_state_lasts_for_its_dwell_even_when_protection_is_asked_for():
    policy = at_once(AGGRESSIVE)
    assert evaluated(policy, BAD, BAD, BAD, at=HOUR - 1) == AGGRESSIVE
    assert evaluated(policy, BAD, at=HOUR) == DEFENSIVE


def test_the_cooldown_delays_a_bolder_state_and_not_a_more_careful_one():
    policy = at_once(BALANCED)
    assert evaluated(policy, GOOD, GOOD, at=DAY - 1) == BALANCED
    assert evaluated(policy, GOOD, at=DAY) == AGGRESSIVE
    assert evaluated(at_once(BALANCED), BAD, BAD, at=2 * HOUR) == DEFENSIVE


def test_the_reason_names_the_figure_its_value_and_its_limit():
    policy = at_once(AGGRESSIVE)
    policy.evaluate(Figures(-0.01, 0.45, 4), DAY)
    change = policy.evaluate(Figures(-0.01, 0.45, 4), DAY + 1)
    assert change == (AGGRESSIVE, DEFENSIVE, "volatility 0.45 reached 0.4")
    policy.evaluate(GOOD, 3 * DAY)
    change = policy.evaluate(GOOD, 3 * DAY + 1)
    assert change is not None
    assert change.reason == "drawdown -0.01 is within 0.05, volatility 0.1 is within 0.2, losing_streak 0 is within 3"


def test_an_override_waits_for_nothing_and_ends_after_exactly_seven_days():
    policy = at_once(DEFENSIVE)
    assert policy.override(AGGRESSIVE, "I know better", 5) == (DEFENSIVE, AGGRESSIVE, "by hand: I know better")
    assert OVERRIDE == 7 * DAY
    assert evaluated(policy, BAD, BAD, BAD, at=5 + 7 * DAY - 1) == AGGRESSIVE
    assert evaluated(policy, BAD, at=5 + 7 * DAY) == DEFENSIVE


def test_an_override_keeps_the_state_that_there_is():
    policy = at_once(AGGRESSIVE)
    assert policy.override(AGGRESSIVE, "stay", DAY) is None
    assert evaluated(policy, BAD, BAD, at=2 * DAY) == AGGRESSIVE


@pytest.mark.parametrize(
    "wrong",
    [
        {"drawdown": (0.1, 0.05)},
        {"volatility": (0.0, 0.4)},
        {"losing_streak": (3, nan)},
        {"scale": (0.5, 0.8, 1.0)},
        {"scale": (1.0, 0.5, -0.1)},
        {"scale": (nan, 0.5, 0.1)},
        {"scale": (1.0, 0.5)},
        {"dwell": -1},
        {"cooldown": nan},
    ],
)
def test_operating_rules_that_make_no_sense_are_refused(wrong: dict[str, Any]):
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        OperatingRules(**wrong)


cycles = st.lists(
    st.tuples(
        st.integers(0, 30 * HOUR),
        st.sampled_from([GOOD, POOR, BAD, Figures(nan, 0.0, 0), Figures(0.0, 0.3, 7)]),
        st.sampled_from([None] * 8 + list(Operating)),
    ),
    max_size=60,
)


@given(cycles)
@settings(max_examples=100)
def test_operating_changes_keep_to_confirmation_dwell_cooldown_and_override(
    cycles: list[tuple[int, Figures, Operating | None]],
):
    policy, now, changed, overridden = OperatingPolicy(RULES), 0, None, None
    wishes: list[Operating] = []
    for wait, figures, by_hand in cycles:
        now += wait
        if by_hand is not None:
            change = policy.override(by_hand, "by hand", now)
            changed, overridden = now if change else changed, now
            assert policy.state == by_hand
        before = policy.state
        change = policy.evaluate(figures, now)
        wishes.append(RULES.wish(figures))
        confirmed = len(wishes) > 1 and wishes[-1] == wishes[-2] != before
        kept = overridden is not None and now < overridden + OVERRIDE
        bolder = wishes[-1] < before  # by name, which is their order
        waiting = changed is not None and now - changed < (DAY if bolder else HOUR)
        assert (change is not None) == (confirmed and not kept and not waiting)
        assert policy.state == (wishes[-1] if change else before)
        changed = now if change else changed


def test_the_machine_publishes_each_change_with_its_cause():
    bus, clock, seen = ReplayBus(), ReplayClock(), []
    bus.tap(seen.append, [OperatingChange])
    machine = OperatingMachine(bus, clock, OperatingRules(scale=(1.0, 0.8, 0.5)))
    assert (machine.state, machine.scale) == (BALANCED, 0.8)
    cause = AccountSnapshot(3, 40, 39, 38, 0, 1.0, 1.0, 0.0, 0)
    machine.evaluate(BAD, cause)
    machine.evaluate(BAD, cause)
    assert (machine.state, machine.scale) == (DEFENSIVE, 0.5)
    clock.time = 9
    machine.override(
        AGGRESSIVE,
        "test",
    )
    assert (machine.state, machine.scale) == (AGGRESSIVE, 1.0)
    assert seen == [
        OperatingChange(3, 1, 39, 40, "BALANCED", "DEFENSIVE", "drawdown -0.12 reached 0.1"),
        OperatingChange(9, 2, 2, 0, "DEFENSIVE", "AGGRESSIVE", "by hand: test"),
    ]


# --- both ---


@pytest.mark.parametrize(
    ("safety", "operating", "scale", "reduce_only"),
    [
        (NORMAL, AGGRESSIVE, 1.0, False),
        (NORMAL, DEFENSIVE, 0.5, False),
        (WARNING, AGGRESSIVE, 0.8, False),
        (WARNING, DEFENSIVE, 0.5, False),
        (FAIL, AGGRESSIVE, 0.5, True),
        (LOCKDOWN, AGGRESSIVE, 0.5, True),
    ],
)
def test_safety_wins_over_the_operating_state(safety: Safety, operating: Operating, scale: float, reduce_only: bool):
    bus, clock = ReplayBus(), ReplayClock()
    machines = SafetyMachine(bus, clock, DRAWDOWNS), OperatingMachine(bus, clock, OperatingRules(scale=(1.0, 0.8, 0.5)))
    controls = Controls(*machines)
    machines[1].override(operating, "test")
    machines[0].trip(safety, "test")
    assert (controls.scale, controls.reduce_only) == (scale, reduce_only)
    assert controls.state == f"{safety} {operating}"
    machines[0].reset("test")
    assert not controls.reduce_only
