"""The two states of the system as one answer to those who act: how much, and whether only less."""

from threading import Lock
from typing import Final

from quant_assets.trading.operating import Operating, OperatingMachine
from quant_assets.trading.safety import Safety, SafetyMachine

_AT_MOST: Final = {
    Safety.WARNING: Operating.BALANCED,
    Safety.FAIL: Operating.DEFENSIVE,
    Safety.LOCKDOWN: Operating.DEFENSIVE,
}


class Controls:
    """What portfolio and risk read. Safety wins over the operating state:

    ========  ==================================  ==================
    safety    scale                               orders
    ========  ==================================  ==================
    NORMAL    the operating state's               all
    WARNING   the same, but at most BALANCED's    all
    FAIL      the same, but at most DEFENSIVE's   only reducing ones
    LOCKDOWN  the same, but at most DEFENSIVE's   only reducing ones
    ========  ==================================  ==================

    Attributes:
        scale: factor for new targets.
        reduce_only: orders may only bring positions nearer to 0.
        state: both states, for people.
    """

    def __init__(self, safety: SafetyMachine, operating: OperatingMachine) -> None:
        self._safety = safety
        self._operating = operating
        self._lock = Lock()
        safety.watchers.append(self._refresh)
        operating.watchers.append(self._refresh)
        self._refresh()

    def _refresh(self) -> None:
        with self._lock:  # either state may change in a thread of its own
            safety, operating, scales = self._safety.state, self._operating.state, self._operating.scales
            self.scale = min(scales[operating], scales[_AT_MOST.get(safety, operating)])
            self.reduce_only = safety >= Safety.FAIL
            self.state = f"{safety} {operating}"
