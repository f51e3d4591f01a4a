"""The safety state: whether the system may still take risk. It rises at once, and comes down slowly or by hand."""

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf, isfinite
from threading import Lock
from typing import Final

from quant_assets.core.errors import ConfigError
from quant_assets.trading.component import Bus, Clock, Component, Handler
from quant_assets.trading.events import (
    AccountSnapshot,
    Event,
    HandlerFailed,
    Heartbeat,
    Level,
    RiskDenial,
    SafetyChange,
)

_SECOND: Final = 1_000_000_000
_DAY: Final = 86_400 * _SECOND


class Safety(StrEnum):
    """From harmless to severe; compares in this order."""

    NORMAL = "NORMAL"
    WARNING = "WARNING"
    """Something is not as it should be: risk is taken with care."""
    FAIL = "FAIL"
    """Something is wrong: exposure may only be reduced."""
    LOCKDOWN = "LOCKDOWN"
    """As FAIL, the bus delivers what is critical only, and somebody has to look."""

    @property
    def severity(self) -> int:
        """0 to 3."""
        return _STATES.index(self)

    def __lt__(self, other: str) -> bool:
        return self.severity < Safety(other).severity

    def __le__(self, other: str) -> bool:
        return self.severity <= Safety(other).severity

    def __gt__(self, other: str) -> bool:
        return self.severity > Safety(other).severity

    def __ge__(self, other: str) -> bool:
        return self.severity >= Safety(other).severity


_STATES: Final = tuple(Safety)


@dataclass(frozen=True, slots=True)
class SafetyLimits:
    """What is not normal any more; None switches a rule off.

    A limit that is reached is broken. An equity that is no number breaks all limits on it.

    Raises:
        ConfigError: a value outside its range, or drawdowns that do not rise with their states.
    """

    warning_drawdown: float | None = None
    """WARNING at this share below the highest equity so far."""
    fail_drawdown: float | None = None
    """FAIL at this."""
    lockdown_drawdown: float | None = None
    """LOCKDOWN at this."""
    daily_loss: float | None = None
    """FAIL at this share below the last equity of the day before (UTC)."""
    denials: int | None = None
    """WARNING at this many refused orders within `window`."""
    failures: int | None = None
    """FAIL at this many failed handlers within `window`."""
    silence: int | None = None
    """FAIL when a component that has sent heartbeats has sent none for longer than this (ns)."""
    window: int = 300 * _SECOND
    """ns."""
    calm: int = 3_600 * _SECOND
    """ns without any rule asking for the present state or a worse one, after which it falls one step."""

    def __post_init__(self) -> None:
        shares = ("warning_drawdown", "fail_drawdown", "lockdown_drawdown", "daily_loss")
        for name in (*shares, "denials", "failures", "silence", "window", "calm"):
            value, most = getattr(self, name), 1 if name in shares else inf
            if value is not None and not 0 < value < most:
                raise ConfigError(f"{name} is {value}; it must lie in (0, {most:g})")
        drawdowns = [value for name in shares[:3] if (value := getattr(self, name)) is not None]
        if drawdowns != sorted(set(drawdowns)):
            raise ConfigError(
                f"drawdowns of WARNING, FAIL and LOCKDOWN are {drawdowns}; give a worse state a larger one"
            )

    @property
    def active(self) -> bool:
        """Whether any rule is on."""
        return self != SafetyLimits(window=self.window, calm=self.calm)


class SafetyMachine(Component):
    """Holds the safety state.

    It is as severe as the worst that a rule asks for, from the event on that broke it. When no rule asks for the state
    any more it stays for `limits.calm`, and then falls one step: from FAIL to WARNING, and after as long again to
    NORMAL. Time passes with account snapshots, heartbeats, denials and failures. LOCKDOWN, and what was tripped by
    hand, stays until `reset`.

    `trip` and `reset` may be called from any thread.

    Args:
        limits: the rules.
        on_lockdown: called with True on entering LOCKDOWN and with False on leaving it; to force the bus.

    Attributes:
        state: the present one.
        watchers: called after each change, before it is published.
    """

    name = "safety"

    def __init__(
        self, bus: Bus, clock: Clock, limits: SafetyLimits, on_lockdown: Callable[[bool], None] = lambda locked: None
    ) -> None:
        self._bus = bus
        self._now = clock.now
        self._limits = limits
        self._on_lockdown = on_lockdown
        self._lock = Lock()
        self.state = Safety.NORMAL
        self.watchers: list[Callable[[], None]] = []
        drawdowns = (limits.warning_drawdown, limits.fail_drawdown, limits.lockdown_drawdown)
        self._drawdowns = [
            (state, limit) for state, limit in zip(_STATES[1:], drawdowns, strict=True) if limit is not None
        ]
        self._denials: deque[int] = deque(maxlen=limits.denials)
        self._failures: deque[int] = deque(maxlen=limits.failures)
        self._alive: dict[str, int] = {}
        self._tripped: tuple[Safety, str] = Safety.NORMAL, ""
        self._asked_at = 0  # when a rule last asked for the present state
        self._equity = inf
        self._peak = self._day_began_with = -inf
        self._day_ends = 0

    def handlers(self) -> Mapping[type[Event], tuple[Handler, Level]]:
        """All at P0, for no load may keep it from hearing; and only of what a rule needs."""
        limits = self._limits
        wanted: dict[type[Event], tuple[Handler, bool]] = {
            AccountSnapshot: (self._on_snapshot, limits.active),
            RiskDenial: (self._on_denial, limits.denials is not None),
            HandlerFailed: (self._on_failure, limits.failures is not None),
            Heartbeat: (self._on_heartbeat, limits.silence is not None),
        }
        return {kind: (handler, Level.P0) for kind, (handler, needed) in wanted.items() if needed}

    def trip(self, state: Safety, reason: str) -> None:
        """Ask for at least this state by hand, until `reset`. LOCKDOWN is the kill switch."""
        with self._lock:
            self._tripped = max(self._tripped, (state, reason), key=lambda tripped: tripped[0])
        self._judge(None)

    def reset(self, reason: str) -> None:
        """Return to NORMAL by hand, whatever the state, with all rules beginning anew.

        Drawdown and daily loss are measured from the present equity on, failures and denials counted from 0, and
        heartbeats awaited of those components that send one from now on.
        """
        with self._lock:
            self._tripped = Safety.NORMAL, ""
            self._denials.clear()
            self._failures.clear()
            self._alive.clear()
            self._peak = self._day_began_with = self._equity if isfinite(self._equity) else -inf
            change = self._enter(Safety.NORMAL, reason, None)
        self._announce(change)

    def _on_snapshot(self, event: AccountSnapshot) -> None:
        with self._lock:
            before, self._equity = self._equity, event.equity
            if event.ts >= self._day_ends:
                self._day_ends = event.ts // _DAY * _DAY + _DAY
                self._day_began_with = before if isfinite(before) else event.equity
            if event.equity > self._peak:
                self._peak = event.equity
        self._judge(event)

    def _on_denial(self, event: RiskDenial) -> None:
        with self._lock:
            self._denials.append(self._now())
        self._judge(event)

    def _on_failure(self, event: HandlerFailed) -> None:
        with self._lock:
            self._failures.append(self._now())
        self._judge(event)

    def _on_heartbeat(self, event: Heartbeat) -> None:
        with self._lock:
            self._alive[event.component] = self._now()
        self._judge(event)

    def _judge(self, cause: Event | None) -> None:
        change = None
        with self._lock:
            now = self._now()
            asked, reason = self._worst(now)
            if asked == self.state:
                self._asked_at = now
            elif asked > self.state:
                change = self._enter(asked, reason, cause)
            elif self.state != Safety.LOCKDOWN and now - self._asked_at >= self._limits.calm:
                calm = f"nothing asked for {self.state} for {(now - self._asked_at) / _SECOND:g} s"
                change = self._enter(_STATES[self.state.severity - 1], calm, cause)
        self._announce(change)

    def _worst(self, now: int) -> tuple[Safety, str]:
        """What the rules ask for, and why; of equals the first."""
        limits, asked = self._limits, [self._tripped]
        for state, limit in reversed(self._drawdowns):
            if not self._equity > self._peak * (1 - limit):
                asked.append((state, f"equity {self._equity:g} is {limit:g} or more below its peak {self._peak:g}"))
                break
        if limits.daily_loss is not None and not self._equity > self._day_began_with * (1 - limits.daily_loss):
            loss = f"{limits.daily_loss:g} or more below {self._day_began_with:g}, where the day began"
            asked.append((Safety.FAIL, f"equity {self._equity:g} is {loss}"))
        for times, state, what in (
            (self._failures, Safety.FAIL, "failed handlers"),
            (self._denials, Safety.WARNING, "refused orders"),
        ):
            if len(times) == times.maxlen and now - times[0] <= limits.window:
                asked.append((state, f"{len(times)} {what} in {(now - times[0]) / _SECOND:g} s"))
        if limits.silence is not None:
            for name, last in self._alive.items():
                if now - last > limits.silence:
                    asked.append((Safety.FAIL, f"no heartbeat of {name} for {(now - last) / _SECOND:g} s"))
        return max(asked, key=lambda one: one[0].severity) if len(asked) > 1 else asked[0]

    def _enter(self, after: Safety, reason: str, cause: Event | None) -> SafetyChange | None:
        """Change the state, under the lock; the event is to be announced after it."""
        before, self.state = self.state, after
        self._asked_at = now = self._now()
        if before == after:
            return None
        seq = self._bus.next_seq()
        if cause is None:
            return SafetyChange(now, seq, seq, 0, before, after, reason)
        return SafetyChange(cause.ts, seq, cause.correlation, cause.seq, before, after, reason)

    def _announce(self, change: SafetyChange | None) -> None:
        if change is None:
            return
        for watcher in self.watchers:
            watcher()
        if Safety.LOCKDOWN in (change.before, change.after):
            self._on_lockdown(self.state == Safety.LOCKDOWN)
        self._bus.publish(change)
