"""The event-driven engine against backtrader, two generations of nautilus_trader, and a bus that does nothing else.

Run with `python bench/event_engine.py`: two to four minutes. One-minute bars of one symbol, 200,000 and 500,000 of
them, through an EMA 10/20 cross (an order on 4 % of the bars), and 8 symbols x 2,520 daily bars through 60-session
momentum. Both rules are long 100 shares or flat, and trade at the close of the bar that decides, without costs. Each
run is a process of its own, sides take turns, and the best round of each counts; the growth of the time per bar is the
median over the rounds. Figures are bars per second of the run alone, without imports and without bringing the data into
the library's form: arrays here, lists for backtrader, its own bar objects for nautilus_trader.

Every run must have made exactly the orders of a plain loop over the closes, and got their closes as prices; the first
difference ends the bench.

How each side is configured:

- ours: as `event_backtest` replays, with all pre-trade checks, all rules of the safety state, and the journal.
- backtrader: cheat-on-close, no observers and no analysers.
- nautilus_trader: the newest release and the candidate of its second generation, which is written in Rust. The risk
  engine is on; logging, persistence and the statistics at the end are off. Both slow down with each position that they
  keep and with flips, so: long or flat rather than long or short, HEDGING rather than NETTING, and closed positions and
  orders purged once they are 60 bars old. Without the purge the candidate took 5 times as long; under NETTING it is no
  faster. A CASH account spares it the margins. The release appends each closed trade to a pandas series, which no
  option switches off: here it does not, and takes a quarter of the time. Each symbol has a strategy of its own, so that
  none needs to look up whose bar it got.
- bare: a synchronous bus that carries bar, order and fill through the same rule: the bound of an engine in Python.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from shutil import which
from statistics import median
from time import perf_counter

import msgspec
import numpy as np
from common import load, other_environment, report
from event_engine_peers import CASH, FAST, LOOKBACK, RULES, SHARES, SLOW

MINUTE, DAY = 60_000_000_000, 86_400_000_000_000
CASES = {"ema_200k": (200_000, 1), "ema_500k": (500_000, 1), "tsmom": (2520, 8)}
"""Rows and symbols."""
PEERS = {
    "backtrader": ("backtrader==1.9.78.123", "numpy"),
    "nautilus": ("nautilus_trader==1.231.0",),
    "nautilus_2": ("nautilus_trader==2.0.0rc7", "numpy"),
}
TARGETS = {"nautilus_2": ">=2", "backtrader": ">=20", "nautilus": "none"}
ROUNDS = {
    ("ours", "ema_200k"): 7,
    ("ours", "ema_500k"): 7,
    ("ours", "tsmom"): 7,
    ("bare", "ema_200k"): 5,
    ("nautilus_2", "ema_200k"): 7,
    ("nautilus_2", "ema_500k"): 1,
    ("nautilus_2", "tsmom"): 7,
    ("nautilus", "ema_200k"): 1,
    ("nautilus", "tsmom"): 1,
    ("backtrader", "ema_200k"): 2,
    ("backtrader", "tsmom"): 3,
}
"""Fewer where a run takes long; the slow ones spread less."""

Arrays = Mapping[str, np.ndarray]
Fills = list[tuple[int, int, int, float, float]]
"""Row, column, side, shares, price."""


def make_bars(rows: int, symbols: int, step: int, volatility: float, seed: int) -> dict[str, np.ndarray]:
    """A random walk, prices in cents: stamps (rows,), prices and volumes (rows, symbols)."""
    random = np.random.default_rng(seed)
    close = np.round(100 * np.exp(np.cumsum(random.normal(0, volatility, (rows, symbols)), axis=0)), 2)
    opened = np.vstack([close[:1], close[:-1]])
    above, below = np.abs(random.normal(0, volatility / 2, (2, rows, symbols))) * close
    return {
        "stamps": 1_577_836_800_000_000_000 + np.arange(rows) * step,
        "open": opened,
        "high": np.round(np.maximum(opened, close) + above, 2),
        "low": np.round(np.minimum(opened, close) - below, 2),
        "close": close,
        "volume": random.integers(1_000, 100_000, (rows, symbols)).astype(float),
    }


def make_cases(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """The bars of all cases, also written to `folder`. The shorter case is the longer one's beginning."""
    minutes = make_bars(*CASES["ema_500k"], MINUTE, 0.0006, 0)
    cases = {
        "ema_200k": {name: values[: CASES["ema_200k"][0]] for name, values in minutes.items()},
        "ema_500k": minutes,
        "tsmom": make_bars(*CASES["tsmom"], DAY, 0.015, 3),
    }
    for case, bars in cases.items():
        np.savez(folder / f"{case}.npz", **bars)
    return cases


def expected(bars: Arrays, case: str) -> np.ndarray:
    """The fills (row, column, side, shares, price) that every side must have, by row and column."""
    fills = []
    for column, closes in enumerate(bars["close"].T.tolist()):
        rule = RULES[case.split("_")[0]]()
        for row, close in enumerate(closes):
            long = rule.update(close)
            if long is not None:
                fills.append((row, column, 1 if long else -1, SHARES, close))
    if max(fills)[0] == len(bars["stamps"]) - 1:
        raise SystemExit(f"{case} ends with an order, which backtrader would not fill; make the bars from another seed")
    return np.array(sorted(fills), dtype=float)


def compare(side: str, case: str, wanted: np.ndarray, found: np.ndarray) -> None:
    """End the bench unless the fills are the same, their prices to 1e-9."""
    found = found[np.lexsort((found[:, 1], found[:, 0]))]
    count = min(len(wanted), len(found))
    differs = np.flatnonzero((np.abs(wanted[:count] - found[:count]) > 1e-9).any(axis=1))
    if len(differs):
        row = differs[0]
        raise SystemExit(f"{side}, {case}: fill {row} is {found[row].tolist()}, not {wanted[row].tolist()}")
    if len(wanted) != len(found):
        raise SystemExit(f"{side}, {case}: {len(found)} fills, not {len(wanted)}")


def with_ours(bars: Arrays, case: str, folder: Path) -> tuple[float, Fills]:
    """Seconds and fills of a replay."""
    from quant_assets.signals.incremental import Stepper
    from quant_assets.signals.rules import EmaCrossInputs, TsmomInputs
    from quant_assets.trading.component import Component
    from quant_assets.trading.events import Fill, Phase
    from quant_assets.trading.feed import History
    from quant_assets.trading.journal import Journal
    from quant_assets.trading.portfolio import FixedSizeManager
    from quant_assets.trading.risk import RiskLimits
    from quant_assets.trading.safety import SafetyLimits
    from quant_assets.trading.strategies import ReactiveEngine
    from quant_assets.trading.system import Parts, Replay, SystemConfig

    rows, count = bars["close"].shape
    symbols = tuple(f"S{column}" for column in range(count))
    prices = (bars[name] for name in ("open", "high", "low", "close", "volume"))
    history = History(bars["stamps"], symbols, *prices, last=np.full(count, rows - 1))
    inputs = EmaCrossInputs(fast=FAST, slow=SLOW)
    if case == "tsmom":  # the target is never reached: 1 where the momentum is positive, -1 where it is negative
        inputs = TsmomInputs(lookback=LOOKBACK, vol_target=10, leverage_cap=1)
    update = Stepper(inputs, 252, count).update

    def strategy(parts: Parts) -> list[Component]:
        bus, market = parts.bus, parts.market
        return [
            ReactiveEngine(bus, market, case, update, long_only=True),
            FixedSizeManager(bus, market, parts.account, case, SHARES, parts.controls),
        ]

    limits = RiskLimits(
        max_position=0.5,
        max_leverage=1.0,
        max_order_value=1e6,
        max_order_share=0.5,
        max_price_age=DAY,
        allowed_symbols=frozenset(symbols),
    )
    safety = SafetyLimits(0.1, 0.2, 0.3, daily_loss=0.1, denials=10, failures=1)
    config = SystemConfig(symbols, float(CASH), limits=limits, safety=safety)
    fills: list[Fill] = []
    with Journal.create(folder / "journal", {"case": case}, durable=False) as journal:
        replay = Replay(history, config, strategy, frozenset({Phase.CLOSE}), journal)
        replay.bus.tap(fills.append, (Fill,))
        start = perf_counter()
        replay.run()
        seconds = perf_counter() - start
    row = np.searchsorted(bars["stamps"], [one.ts for one in fills]).tolist()
    return seconds, [
        (number, int(one.symbol[1:]), one.side, one.quantity, one.price) for number, one in zip(row, fills, strict=True)
    ]


class Bar(msgspec.Struct, frozen=True, gc=False):
    row: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class Order(msgspec.Struct, frozen=True, gc=False):
    row: int
    side: int
    price: float


class Fill(msgspec.Struct, frozen=True, gc=False):
    row: int
    side: int
    price: float


def with_bare(bars: Arrays, case: str, folder: Path) -> tuple[float, Fills]:
    """Seconds and fills of a bus, a rule and an executor that fills everything, on one symbol."""
    handlers: dict[type, list[Callable]] = {Bar: [], Order: [], Fill: []}
    fills = []
    update = RULES[case.split("_")[0]]().update

    def publish(event: Bar | Order | Fill) -> None:
        for handler in handlers[type(event)]:
            handler(event)

    def decide(bar: Bar) -> None:
        long = update(bar.close)
        if long is not None:
            publish(Order(bar.row, 1 if long else -1, bar.close))

    handlers[Bar].append(decide)
    handlers[Order].append(lambda order: publish(Fill(order.row, order.side, order.price)))
    handlers[Fill].append(fills.append)
    prices = (bars[name][:, 0].tolist() for name in ("open", "high", "low", "close", "volume"))
    rows = list(zip(range(len(bars["stamps"])), *prices, strict=True))
    start = perf_counter()
    for row in rows:
        publish(Bar(*row))
    return perf_counter() - start, [(one.row, 0, one.side, SHARES, one.price) for one in fills]


def peak_mb() -> float:
    """The most memory that this process has had so far."""
    return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) / 1024


def run_here(side: str, case: str, folder: Path) -> None:
    """One run in this process: writes its fills, prints its seconds and the MB that it took above data and imports."""
    import_module("quant_assets.signals.incremental")
    import_module("quant_assets.trading.system")
    bars = dict(np.load(folder / f"{case}.npz"))
    before = peak_mb()
    seconds, fills = {"ours": with_ours, "bare": with_bare}[side](bars, case, folder)
    above = peak_mb() - before
    np.save(folder / "fills.npy", np.array(fills, dtype=float))
    print(seconds, above)


def newest_python() -> str:
    """A Python that nautilus_trader has wheels for, which may be newer than ours."""
    if sys.version_info >= (3, 12):
        return sys.executable
    for name in ("3.13", "3.12"):
        installed = sorted(Path.home().glob(f".pyenv/versions/{name}.*/bin/python"))
        found = str(installed[-1]) if installed else which(f"python{name}")  # pyenv's own on the path may not run
        if found:
            return found
    raise SystemExit("nautilus_trader needs Python 3.12 or newer beside ours; install one (pyenv install 3.13)")


def main() -> None:
    here = Path(__file__)
    commands = {side: [sys.executable, here] for side in ("ours", "bare")}
    for peer, packages in PEERS.items():
        python = other_environment(peer, *packages, python=newest_python())
        commands[peer] = [python, "-W", "ignore", here.with_name("event_engine_peers.py")]
    seconds: dict[tuple[str, str], list[float]] = {key: [] for key in ROUNDS}
    memory = []
    with tempfile.TemporaryDirectory(prefix="quant-bench-") as place:
        folder = Path(place)
        cases = make_cases(folder)
        wanted = {case: expected(bars, case) for case, bars in cases.items()}
        for case, fills in wanted.items():
            print(f"{case}: {cases[case]['close'].size:,} bars, {len(fills):,} orders")
        for number in range(max(ROUNDS.values())):
            for (side, case), rounds in ROUNDS.items():
                if number >= rounds:
                    continue
                command = [*commands[side], side, case, folder]
                output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()
                compare(side, case, wanted[case], np.load(folder / "fills.npy"))
                seconds[side, case].append(float(output[0]))
                if (side, case) == ("ours", "ema_500k"):
                    memory.append(float(output[1]))
                (folder / "journal").unlink(missing_ok=True)
    speed = {}
    for (side, case), taken in seconds.items():
        speed[side, case] = cases[case]["close"].size / min(taken)
        spread = f", {min(taken):.2f} to {max(taken):.2f} s" if len(taken) > 1 else ""
        print(f"{side} {case}: {speed[side, case]:,.0f} bars/s{spread}")
    print(load())
    for peer, target in TARGETS.items():
        for case in ("ema_200k", "tsmom"):
            report(f"event_engine_{case}_vs_{peer}", speed["ours", case] / speed[peer, case], target)
    report("event_engine_of_bare_bus", speed["ours", "ema_200k"] / speed["bare", "ema_200k"], "none")
    pairs = zip(seconds["ours", "ema_500k"], seconds["ours", "ema_200k"], strict=True)
    # a longer run lies less often wholly in a fast spell of the machine: neighbours in time are compared
    growth = median(long / 500_000 / (short / 200_000) for long, short in pairs)
    report("event_engine_per_bar_500k_over_200k", growth, "<=1.1")
    report("event_engine_mb_above_data", max(memory), "<=150")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        run_here(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
    else:
        main()
