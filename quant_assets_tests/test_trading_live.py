"""The same components on the live bus, with threads: what a replay does is what they do."""

from pathlib import Path

import numpy as np
import pytest

from quant_assets.signals.incremental import Stepper
from quant_assets.signals.rules import EmaCrossInputs
from quant_assets.trading.bus import LiveBus
from quant_assets.trading.component import Component, ReplayClock
from quant_assets.trading.degradation import DegradationLevel
from quant_assets.trading.events import Bar, Event, Fill, Moment, Phase, SafetyChange
from quant_assets.trading.feed import DAY, History
from quant_assets.trading.journal import JOURNALED, Journal, read, rebuild
from quant_assets.trading.portfolio import FixedSizeManager
from quant_assets.trading.safety import Safety
from quant_assets.trading.strategies import ReactiveEngine
from quant_assets.trading.system import Parts, Replay, SystemConfig, TradingSystem

ROWS = 60


@pytest.fixture
def closes() -> list[float]:
    return (100 + 5 * np.sin(np.arange(ROWS) / 4)).round(2).tolist()


def strategy(parts: Parts) -> list[Component]:
    update = Stepper(EmaCrossInputs(fast=2, slow=5), 252, 1).update
    return [
        ReactiveEngine(parts.bus, parts.market, "ema", update, long_only=True),
        FixedSizeManager(parts.bus, parts.market, parts.account, "ema", 10.0, parts.controls),
    ]


CONFIG = SystemConfig(("A",), 10_000.0, fee=0.001, slippage=0.001)


def feed(bus: LiveBus, row: int, close: float) -> None:
    """One bar, when all that came of the one before is done: as slow as a market."""
    for make in (
        lambda seq: Bar(row * DAY, seq, seq, 0, "A", close, close, close, close, 1.0),
        lambda seq: Moment(row * DAY, seq, seq, 0, int(Phase.CLOSE), row),
    ):
        bus.publish(make(bus.next_seq()))
        assert bus.join(5)


def replayed(closes: list[float]) -> TradingSystem:
    prices = np.array(closes)[:, None]
    history = History(np.arange(ROWS) * DAY, ("A",), *[prices] * 5, last=np.array([ROWS - 1]))
    return Replay(history, CONFIG, strategy, frozenset({Phase.CLOSE})).run()


def test_threads_trade_what_a_replay_trades_and_journal_it(closes: list[float], tmp_path: Path):
    bus, path = LiveBus(), tmp_path / "live.journal"
    with Journal.create(path, {}, durable=False) as journal:
        system = TradingSystem(CONFIG, strategy, bus, ReplayClock(), journal=journal)
        seen: list[Event] = []
        bus.tap(seen.append, JOURNALED)
        system.start()
        bus.start()
        try:
            for row, close in enumerate(closes):
                feed(bus, row, close)
        finally:
            assert bus.stop()
            system.stop()
    calm = replayed(closes)
    assert sum(isinstance(event, Fill) for event in seen) > 4
    assert system.account.cash == calm.account.cash
    assert system.account.trades == calm.account.trades
    assert system.analytics.equity == calm.analytics.equity
    assert list(read(path)[1]) == seen
    assert rebuild(seen, CONFIG.initial_cash).cash == system.account.cash


def test_a_lockdown_stops_new_risk_and_leaves_what_is_critical(closes: list[float]):
    bus, changes = LiveBus(), []
    system = TradingSystem(CONFIG, strategy, bus, ReplayClock())
    bus.tap(changes.append, [SafetyChange])
    system.start()
    bus.start()
    try:
        for row, close in enumerate(closes[:20]):
            feed(bus, row, close)
        fills = system.account.fills
        system.safety.trip(Safety.LOCKDOWN, "by hand")
        assert system.controls.reduce_only
        for row, close in enumerate(closes[20:], start=20):
            feed(bus, row, close)
        assert system.account.fills == fills
        assert bus.counts.levels[1].dropped > 0
        system.safety.reset("looked at")
        assert not system.controls.reduce_only
        assert bus.join(5)
    finally:
        bus.stop()
        system.stop()
    assert [change.after for change in changes] == ["LOCKDOWN", "NORMAL"]
    assert bus.degradation is DegradationLevel.NORMAL
