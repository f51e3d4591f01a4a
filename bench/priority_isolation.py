"""How long events of P0 and P1 wait, from publishing to the start of their handler, while P2 and P3 are saturated.

Run with `python bench/priority_isolation.py`. One thread publishes an event of P0 and one an event of P1 about every
2 ms. At first they have the live bus to themselves. Then one thread publishes at P2 and one at P3 as fast as they can,
more than the workers can handle: both queues stay full, and each handler computes in Python for 1 ms, without ever
giving up the interpreter. Degradation, which would pause P3 and P2, is turned off. Waits are in milliseconds; the
queue's share is the median of what was seen while probing. The same at Python's own switch interval is for information.
"""

import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from math import inf
from random import Random
from statistics import median
from time import perf_counter, perf_counter_ns, sleep

import numpy as np
from common import load, report

from quant_assets.trading import bus as buses
from quant_assets.trading.bus import LiveBus
from quant_assets.trading.component import Component
from quant_assets.trading.degradation import DegradationRules
from quant_assets.trading.events import Bar, Event, Heartbeat, Level, Opening, OrderState

SECONDS, PERIOD, BUSY_SECONDS, SYMBOLS = 15.0, 0.002, 0.001, 5_000
QUANTILES = (0.5, 0.9, 0.99, 0.999, 1.0)
EDGES = (0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0)
"""Of the histogram, ms."""
WIDTH = 40


class Probe(Component):
    """Notes how long its events, which carry the time of publishing, have waited."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.waits: list[float] = []

    def on_event(self, event: Event) -> None:
        self.waits.append((perf_counter_ns() - event.ts) / 1e6)


class Busy(Component):
    """Computes for `BUSY_SECONDS`."""

    def __init__(self, name: str) -> None:
        self.name = name

    def on_event(self, event: Event) -> None:
        end = perf_counter() + BUSY_SECONDS
        while perf_counter() < end:
            pass


@dataclass
class Load:
    """A live bus with probes at P0 and P1, busy handlers at P2 and P3, and what publishes."""

    saturated: bool
    bus: LiveBus = field(default_factory=lambda: LiveBus(rules=DegradationRules(enter=inf)))
    shares: list[tuple[float, ...]] = field(default_factory=list)

    def run(self) -> dict[str, np.ndarray]:
        """Waits of each probe."""
        bus, urgent, market = self.bus, Probe("P0"), Probe("P1")
        bus.subscribe(urgent, OrderState, urgent.on_event)
        bus.subscribe(market, Bar, market.on_event)
        pictures, signs = Busy("P2"), Busy("P3")
        bus.subscribe(pictures, Opening, pictures.on_event, Level.P2)
        bus.subscribe(signs, Heartbeat, signs.on_event)
        bus.start()
        stop = threading.Event()
        if self.saturated:
            start(self._flood, stop, lambda seq: Opening(0, seq, seq, 0, f"S{seq % SYMBOLS}", 1.0))
            start(self._flood, stop, lambda seq: Heartbeat(0, seq, seq, 0, "c", seq))
            while min(bus.shares[Level.P2 :]) < 1:
                sleep(0.05)
        end = perf_counter() + SECONDS
        probing = [
            start(self._probe, end, 0, lambda ts, seq: OrderState(ts, seq, seq, 0, "o", "A", "FILLED", 1.0, "")),
            start(self._probe, end, 1, lambda ts, seq: Bar(ts, seq, seq, 0, "A", 1.0, 1.0, 1.0, 1.0, 1.0)),
        ]
        for thread in probing:
            thread.join()
        stop.set()
        bus.stop(timeout=0.5)
        return {probe.name: np.array(probe.waits) for probe in (urgent, market)}

    def _flood(self, stop: threading.Event, make: Callable[[int], Event]) -> None:
        while not stop.is_set():
            self.bus.publish(make(self.bus.next_seq()))

    def _probe(self, end: float, seed: int, make: Callable[[int, int], Event]) -> None:
        random = Random(seed)
        while perf_counter() < end:
            sleep(random.uniform(0.5, 1.5) * PERIOD)
            seq = self.bus.next_seq()
            self.bus.publish(make(perf_counter_ns(), seq))
            self.shares.append(self.bus.shares)


def start(function: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def show(title: str, waits: dict[str, np.ndarray], shares: list[tuple[float, ...]]) -> None:
    *_, p2, p3 = (median(share) for share in zip(*shares, strict=True))
    print(f"{title}; P2 {p2:.0%} full, P3 {p3:.0%}; {load()}")
    for name, values in waits.items():
        table = "  ".join(
            f"{'max' if share == 1 else f'p{share * 100:g}'} {value:.3f}"
            for share, value in zip(QUANTILES, np.quantile(values, QUANTILES), strict=True)
        )
        print(f"  {name}, {len(values):,} events: {table} ms")
        counts = np.histogram(values, (0, *EDGES, inf))[0]
        for edge, count in zip((*EDGES, inf), counts, strict=True):
            print(f"    < {edge:>6g} ms {count:>7,} {'#' * round(WIDTH * count / len(values))}".rstrip())


def measure(title: str, saturated: bool) -> dict[str, np.ndarray]:
    trial = Load(saturated)
    waits = trial.run()
    show(title, waits, trial.shares)
    return waits


def main() -> None:
    measure("P0 and P1 alone", saturated=False)
    waits = measure("P2 and P3 saturated", saturated=True)
    ours, buses.SWITCH_SECONDS = buses.SWITCH_SECONDS, sys.getswitchinterval()
    measure(f"P2 and P3 saturated, switch interval {buses.SWITCH_SECONDS * 1e3:g} ms, not {ours * 1e3:g}", True)
    for name, target in (("P0", 10), ("P1", 50)):
        report(f"{name.lower()}_wait_p99_ms", float(np.quantile(waits[name], 0.99)), f"<{target}")


if __name__ == "__main__":
    main()
