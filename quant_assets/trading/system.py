"""The trading system: the components, connected; and its replay over a history.

What trades in a backtest is what trades later. Only the clock, the feed and the executor are plugged in.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from quant_assets.core.collector import collector_at_rest
from quant_assets.core.errors import DataError
from quant_assets.trading.account import Account
from quant_assets.trading.analytics import Analytics
from quant_assets.trading.bus import LiveBus, ReplayBus
from quant_assets.trading.component import Clock, Component, ReplayClock, connect
from quant_assets.trading.controls import Controls
from quant_assets.trading.degradation import DegradationLevel
from quant_assets.trading.events import Phase
from quant_assets.trading.executors import BacktestExecutor, Executor
from quant_assets.trading.feed import HistoricalFeed, History
from quant_assets.trading.journal import JOURNALED, Journal
from quant_assets.trading.market import Market
from quant_assets.trading.oms import OrderManager
from quant_assets.trading.operating import OperatingMachine, OperatingRules
from quant_assets.trading.risk import RiskLimits, RiskManager
from quant_assets.trading.safety import SafetyLimits, SafetyMachine

COMMIT_ROWS = 1024
"""Rows of a replay after which the journal is made to last."""


@dataclass(frozen=True)
class SystemConfig:
    """What a system is made of, its strategy apart. Fees and slippage are fractions."""

    symbols: tuple[str, ...]
    initial_cash: float
    fee: float = 0.0
    slippage: float = 0.0
    funding_per_day: float = 0.0
    participation: float | None = None
    """Share of a bar's volume that may be filled; None: any size."""
    limits: RiskLimits = field(default_factory=RiskLimits)
    safety: SafetyLimits = field(default_factory=SafetyLimits)
    operating: OperatingRules = field(default_factory=OperatingRules)
    year: int = 252
    """Cycles per year, for the volatility that the operating state is judged by."""


@dataclass(frozen=True)
class Parts:
    """What a strategy's components are built from."""

    bus: ReplayBus | LiveBus
    clock: Clock
    market: Market
    account: Account
    controls: Controls


Strategy = Callable[[Parts], list[Component]]
"""Builds the strategy engine and the portfolio manager."""

PluggedExecutor = Callable[[Parts], Executor]
"""Builds where orders go."""


class TradingSystem:
    """All components over one bus.

    Args:
        config: cash, costs and limits.
        strategy: builds what makes signals and orders.
        bus, clock: of a replay, or live.
        executor: builds where orders go; None: the backtest's.
        journal: receives what is published, market data apart.
    """

    def __init__(
        self,
        config: SystemConfig,
        strategy: Strategy,
        bus: ReplayBus | LiveBus,
        clock: Clock,
        executor: PluggedExecutor | None = None,
        journal: Journal | None = None,
    ) -> None:
        self.config = config
        self.bus = bus
        self.clock = clock
        self.journal = journal
        self.market = Market(config.symbols)
        self.account = Account(self.market, config.initial_cash, config.funding_per_day, bus)
        self.safety = SafetyMachine(bus, clock, config.safety, self._lock)
        self.operating = OperatingMachine(bus, clock, config.operating)
        self.controls = Controls(self.safety, self.operating)
        self.parts = Parts(bus, clock, self.market, self.account, self.controls)
        self.risk = RiskManager(config.limits, self.account, self.market, clock, self.controls, bus)
        built = (executor or self._backtest_executor)(self.parts)
        self.orders = OrderManager(bus, self.risk.review, built)
        self.analytics = Analytics(bus, self.market, self.account, self.operating, config.year)
        self.components: list[Component] = [
            self.market,
            self.account,
            self.orders,
            *([built] if isinstance(built, Component) else []),
            self.risk,
            self.safety,
            self.operating,
            *strategy(self.parts),
            self.analytics,
        ]
        for component in self.components:
            connect(component, bus)
        if journal is not None:
            bus.tap(journal.append, JOURNALED)

    def _backtest_executor(self, parts: Parts) -> Executor:
        config = self.config
        return BacktestExecutor(parts.bus, parts.market, config.fee, config.slippage, config.participation)

    def _lock(self, locked: bool) -> None:
        self.bus.force(DegradationLevel.CRITICAL_ONLY if locked else None)

    def start(self) -> None:
        """Start the components, in their order."""
        for component in self.components:
            component.start()

    def stop(self) -> None:
        """Stop the components, the last one first."""
        for component in reversed(self.components):
            component.stop()


@dataclass
class Replay:
    """A system over a history, single-threaded: the same history gives the same events.

    Attributes:
        events: that `run` has published.
    """

    history: History
    config: SystemConfig
    strategy: Strategy
    phases: frozenset[Phase]
    journal: Journal | None = None
    system: TradingSystem = field(init=False)
    events: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        self.bus = ReplayBus()
        self.clock = ReplayClock()
        self.system = TradingSystem(self.config, self.strategy, self.bus, self.clock, journal=self.journal)

    def run(self, progress: Callable[[int], None] | None = None) -> TradingSystem:
        """Replay from the first row to the last.

        Args:
            progress: receives the number of rows done, every so often.

        Raises:
            DataError: nothing is left of the cash.
            Exception: what a handler raised first; its event was handed on to the others all the same.
        """
        system = self.system
        feed = HistoricalFeed(self.bus, self.clock, self.history, self.phases)
        system.start()
        try:
            with collector_at_rest():
                for rows in feed.replay():
                    if rows % COMMIT_ROWS == 0:
                        self._rest()
                        if progress:
                            progress(rows)
            self._rest()
        finally:
            system.stop()
            self.events = self.bus.next_seq() - 1
        return system

    def _rest(self) -> None:
        """Make what happened since last, and look at it."""
        if self.journal is not None:
            self.journal.commit()
        if self.bus.first_failure is not None:
            raise self.bus.first_failure
        ruined = self.system.account.ruined
        if ruined >= 0:
            raise DataError(
                f"equity falls to {self.system.analytics.equity[ruined]:,.2f} on {_told(self.history.stamps[ruined])}; "
                "lower the gross exposure, or drop short positions"
            )


def _told(stamp: int) -> str:
    """A time as a date, or to the second."""
    return str(np.datetime64(int(stamp), "ns").astype("M8[s]")).removesuffix("T00:00:00")
