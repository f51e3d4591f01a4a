"""What a live bus stops delivering under load, and when it takes it up again; a state machine without threads."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from math import inf

from quant_assets.core.errors import ConfigError
from quant_assets.trading.events import Level


class DegradationLevel(IntEnum):
    """How little is delivered; each step leaves out one level of priority more."""

    NORMAL = 0
    P3_PAUSED = 1
    P2_P3_PAUSED = 2
    CRITICAL_ONLY = 3

    def pauses(self, level: Level) -> bool:
        return level > Level.P3 - self


@dataclass(frozen=True)
class DegradationRules:
    """When to step.

    Raises:
        ConfigError: shares not 0 <= `leave` < `enter`, or a negative dwell.
    """

    enter: float = 0.8
    """Load from which the next level is paused."""
    leave: float = 0.4
    """Load up to which the last one paused is taken up again."""
    dwell: float = 1.0
    """Seconds between two steps at least, so that a burst of orders pauses no more than P3."""

    def __post_init__(self) -> None:
        if not (0 <= self.leave < self.enter and self.dwell >= 0):
            raise ConfigError(
                f"enter={self.enter}, leave={self.leave}, dwell={self.dwell}: needs 0 <= leave < enter and dwell >= 0"
            )


class DegradationMachine:
    """Steps by load, one level at a time, and holds what is forced.

    A level is paused for the sake of the more urgent ones: the load that pauses it, and the load that must have gone
    for it to be taken up again, is the fullest share among the queues of the levels above it. All of those are
    delivered while it is paused, so that no step waits for a queue that nobody empties.

    Attributes:
        load: that the newest update went by.
    """

    def __init__(self, rules: DegradationRules) -> None:
        self.rules = rules
        self.load = 0.0
        self._by_load = self._forced = DegradationLevel.NORMAL
        self._changed = -inf

    @property
    def level(self) -> DegradationLevel:
        """The further of the one by load and the one that is forced."""
        return max(self._by_load, self._forced)

    def force(self, level: DegradationLevel | None) -> None:
        """Hold at least this level; None: that of the load again."""
        self._forced = level or DegradationLevel.NORMAL

    def update(self, shares: Sequence[float], now: float) -> None:
        """Look at the load.

        Args:
            shares: by `Level`, how full its queue is; 1 at its limit.
            now: seconds on a clock that never goes back.
        """
        here = self._by_load
        further, kept = (max(shares[: Level.P3 - level], default=0.0) for level in (here, here - 1))
        self.load = further if here < DegradationLevel.CRITICAL_ONLY else kept
        if now - self._changed < self.rules.dwell:
            return
        if here < DegradationLevel.CRITICAL_ONLY and further >= self.rules.enter:
            self._by_load = DegradationLevel(here + 1)
        elif here > DegradationLevel.NORMAL and kept <= self.rules.leave:
            self._by_load = DegradationLevel(here - 1)
        else:
            return
        self._changed = now
