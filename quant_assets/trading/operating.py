"""The operating state: how much risk the system wants to take, judged by how it does."""

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from math import inf
from threading import Lock
from typing import Final, NamedTuple

from quant_assets.core.errors import ConfigError
from quant_assets.trading.component import Bus, Clock, Component
from quant_assets.trading.events import Event, OperatingChange

_HOUR: Final = 3_600_000_000_000

OVERRIDE: Final = 7 * 24 * _HOUR
"""Nanoseconds for which an override holds."""

CONFIRMATIONS: Final = 2
"""Evaluations in a row that must ask for the same state."""


class Operating(StrEnum):
    """From bold to careful."""

    AGGRESSIVE = "AGGRESSIVE"
    BALANCED = "BALANCED"
    DEFENSIVE = "DEFENSIVE"


_CARE: Final = {state: care for care, state in enumerate(Operating)}


class Figures(NamedTuple):
    """How the system does; NaN: unknown."""

    drawdown: float
    """Equity over its highest so far, less 1: 0 or negative."""
    volatility: float
    """Standard deviation of the returns, annualised."""
    losing_streak: float
    """Trades closed at a loss since the last one that was not."""


@dataclass(frozen=True, slots=True)
class OperatingRules:
    """When the state changes, and what it means.

    Figures have two limits: one that reaches the first asks for BALANCED, one that reaches the second for DEFENSIVE, an
    unknown one for BALANCED; None leaves the figure out. The most careful wish counts; where there is none it is
    AGGRESSIVE.

    Raises:
        ConfigError: limits that are not positive and rising, scales that rise with care, or a negative time.
    """

    drawdown: tuple[float, float] | None = (0.05, 0.10)
    """Sizes: 0.05 is 5 % below the highest equity."""
    volatility: tuple[float, float] | None = (0.25, 0.40)
    losing_streak: tuple[int, int] | None = (4, 8)
    scale: tuple[float, float, float] = (1.0, 1.0, 1.0)
    """Factors for new targets when AGGRESSIVE, BALANCED and DEFENSIVE. All 1: the state is observed, and acts not."""
    dwell: int = _HOUR
    """ns that a state lasts at least, whatever is asked for."""
    cooldown: int = 24 * _HOUR
    """ns after a change before the next one to a bolder state."""

    def __post_init__(self) -> None:
        for name in Figures._fields:
            limits = getattr(self, name)
            if limits is not None and not (len(limits) == 2 and 0 < limits[0] < limits[1] < inf):
                raise ConfigError(
                    f"{name} is {limits}; give two limits above 0, for BALANCED and a larger for DEFENSIVE"
                )
        falls = all(bold >= careful for bold, careful in pairwise(self.scale))
        if not (len(self.scale) == len(Operating) and falls and self.scale[-1] >= 0 and self.scale[0] < inf):
            raise ConfigError(f"scale is {self.scale}; give three factors, none negative or above the one before")
        for name in ("dwell", "cooldown"):
            if not 0 <= getattr(self, name) < inf:
                raise ConfigError(f"{name} is {getattr(self, name)}; it must lie in [0, inf) ns")

    def wish(self, figures: Figures) -> Operating:
        """The state that the figures ask for."""
        wish = Operating.AGGRESSIVE
        for size, limits in (
            (-figures.drawdown, self.drawdown),
            (figures.volatility, self.volatility),
            (figures.losing_streak, self.losing_streak),
        ):
            if limits is not None and not size < limits[0]:
                if size >= limits[1]:
                    return Operating.DEFENSIVE
                wish = Operating.BALANCED
        return wish

    def reason(self, figures: Figures, wish: Operating) -> str:
        """Which figures ask for `wish`."""
        told = []
        for name, value in zip(Figures._fields, figures, strict=True):
            limits = getattr(self, name)
            if limits is None:
                continue
            size = -value if name == "drawdown" else value
            if wish is Operating.AGGRESSIVE:
                told.append(f"{name} {value:.4g} is within {limits[0]:g}")
            elif size != size:
                told.append(f"{name} is unknown")
            elif size >= (limit := limits[wish is Operating.DEFENSIVE]):
                told.append(f"{name} {value:.4g} reached {limit:g}")
        return ", ".join(told)


class Change(NamedTuple):
    """Of the operating state."""

    before: Operating
    after: Operating
    reason: str


class OperatingPolicy:
    """The state, from one evaluation to the next. Begins BALANCED, for nothing is known yet.

    A change is made where the last two evaluations ask for the same other state, and

    - the present state has lasted for `rules.dwell`;
    - to a bolder state: no change was made within `rules.cooldown`. A move to a more careful state does not wait for
      the cooldown: what protects must not be late. It is confirmed and waits for the dwell all the same, so that one
      odd figure moves nothing; what cannot wait is the safety state's.

    An override changes the state at once and keeps it for seven days. Evaluations go on being counted; the first one
    after its end may change the state by the rules above.
    """

    def __init__(self, rules: OperatingRules) -> None:
        self.state = Operating.BALANCED
        self._rules = rules
        self._wish = self.state
        self._times = 0  # evaluations in a row that asked for the wish
        self._changed_at = -inf
        self._kept_until = -inf

    def evaluate(self, figures: Figures, now: int) -> Change | None:
        """Judge the figures of a cycle that ends at `now` (ns), which does not fall from call to call."""
        rules = self._rules
        wish = rules.wish(figures)
        self._times = self._times + 1 if wish == self._wish else 1
        self._wish = wish
        bolder = _CARE[wish] < _CARE[self.state]
        lasts = max(rules.dwell, rules.cooldown) if bolder else rules.dwell
        waits = now < self._kept_until or now - self._changed_at < lasts
        if wish == self.state or self._times < CONFIRMATIONS or waits:
            return None
        return self._change(wish, rules.reason(figures, wish), now)

    def override(self, state: Operating, reason: str, now: int) -> Change | None:
        """Set the state by hand and keep it until `now` + 7 days, or until the next override.

        Returns:
            None where that is the state already.
        """
        self._kept_until = now + OVERRIDE
        return None if state == self.state else self._change(state, f"by hand: {reason}", now)

    def _change(self, after: Operating, reason: str, now: int) -> Change:
        before, self.state = self.state, after
        self._changed_at = now
        return Change(before, after, reason)


class OperatingMachine(Component):
    """The policy in a system: publishes each change. `evaluate` is called once per cycle, `override` from any thread.

    Attributes:
        state: the present one.
        scale: its factor for new targets.
        scales: every state's.
        watchers: called after each change, before it is published.
    """

    name = "operating"

    def __init__(self, bus: Bus, clock: Clock, rules: OperatingRules) -> None:
        self._bus = bus
        self._clock = clock
        self._policy = OperatingPolicy(rules)
        self._lock = Lock()
        self.scales = dict(zip(Operating, rules.scale, strict=True))
        self.state = self._policy.state
        self.scale = self.scales[self.state]
        self.watchers: list[Callable[[], None]] = []

    def evaluate(self, figures: Figures, cause: Event) -> None:
        """Judge the figures of a cycle, known by `cause`."""
        with self._lock:
            change = self._enter(self._policy.evaluate(figures, self._clock.now()))
        if change is not None:
            self._announce(change, cause)

    def override(self, state: Operating, reason: str) -> None:
        """Set the state by hand, and keep it for seven days."""
        with self._lock:
            change = self._enter(self._policy.override(state, reason, self._clock.now()))
        if change is not None:
            self._announce(change, None)

    def _enter(self, change: Change | None) -> Change | None:
        self.state = self._policy.state
        self.scale = self.scales[self.state]
        return change

    def _announce(self, change: Change, cause: Event | None) -> None:
        for watcher in self.watchers:
            watcher()
        seq = self._bus.next_seq()
        if cause is None:
            self._bus.publish(OperatingChange(self._clock.now(), seq, seq, 0, *change))
        else:
            self._bus.publish(OperatingChange(cause.ts, seq, cause.correlation, cause.seq, *change))
