"""A sweep of 1,000 TSMOM combinations x 8 symbols x 2,520 sessions: ours, vectorbt's columns, and a bare Numba loop.

Run with `python bench/sweep.py`. What each side does, from the same closes and the same list of combinations:

- ours: bars as a frame; a strategy per combination, validated; indicators, exposures, supervisor, kernel with stops,
  thresholds, gaps, cash limits and trades; every measure of `backtest_summary` and the return of every session; on as
  many threads as there are cores, as a sweep runs;
- vectorbt: indicators and weights with pandas, combinations as columns of one `Portfolio.from_orders`, cash shared by
  each combination's symbols, and its Sharpe ratio; a second figure takes all the measures that both sides have;
- bare: indicators with NumPy, once per window; then one loop over combinations, on all cores, that does the arithmetic
  of positions, costs, cash, equity and Sharpe ratio and nothing else: it knows no gap, no limit of cash and no trade,
  and keeps no curve.

Everything is shown rebalanced daily, where orders take most of the time, and weekly, where valuing and measuring do;
the targets hold for daily. Positions stay below the cash, so that all three do the same trades; their Sharpe ratios are
compared. Beside the best wall time stands the processor time of that run, for a busy machine. Peak memory is what a
process of its own uses above what it held after the imports and a warm-up of 8 combinations.
"""

import json
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from functools import partial
from itertools import product
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import numba
import numpy as np
import polars as pl
from common import load, process, report

from quant_assets.strategy.evaluate import Evaluator
from quant_assets.strategy.spec import StrategySpec

SYMBOLS, SESSIONS, HISTORY = 8, 2520, 252
YEAR, CASH, FEE, SLIPPAGE, CAP = 365, 100_000.0, 2e-4, 1e-3, 0.9
LOOKBACKS, WINDOWS = [20 * n for n in range(1, 11)], [10 * n for n in range(1, 11)]
ROUNDS = 7
DIFFERENCE = 1e-9
THREADS = os.cpu_count() or 1
NAMES = tuple(f"S{number}" for number in range(SYMBOLS))
DAYS = [date(2015, 1, 1) + timedelta(n) for n in range(HISTORY + SESSIONS)]

Combination = tuple[int, int, float]
Sharpes = np.ndarray


def combinations(count: int) -> list[Combination]:
    """`count` of them: 10 lookbacks x 10 volatility windows x count / 100 volatility targets."""
    targets = [float(target) for target in np.linspace(0.1, 0.6, count // 100)]
    return list(product(LOOKBACKS, WINDOWS, targets))


def closes() -> np.ndarray:
    """(sessions, symbols), a year of history first."""
    random = np.random.default_rng(0)
    return 100 * np.exp(np.cumsum(random.normal(3e-4, 0.03, (HISTORY + SESSIONS, SYMBOLS)), axis=0))


def bars_of(close: np.ndarray) -> pl.DataFrame:
    return pl.concat(
        pl.DataFrame({"symbol": [name] * len(DAYS), "ts": DAYS, "open": one, "high": one, "low": one, "close": one})
        for name, one in zip(NAMES, close.T, strict=True)
    ).with_columns(volume=pl.lit(1e6))


STRATEGY = StrategySpec.model_validate(
    {
        "strategy_id": "sweep",
        "version": "1.0.0",
        "universe": {"symbols": NAMES},
        "signal": {"type": "tsmom", "inputs": {"leverage_cap": CAP}},
        "rebalance": {"frequency": "daily"},
        "portfolio": {"short": "full"},
        "supervisor": {"max_weight_per_symbol": 1.0, "max_positions": SYMBOLS, "turnover_cap": None},
        "backtest": {"from": DAYS[HISTORY], "initial_cash": CASH, "fee_bps": FEE * 1e4, "slippage_bps": SLIPPAGE * 1e4},
    }
)
FREQUENCIES = ("daily", "weekly")
TRADED = {"daily": np.ones(SESSIONS, np.bool_), "weekly": np.array([day.weekday() == 6 for day in DAYS[HISTORY:]])}
"""Sessions with a rebalance: every one, or the last of its week."""
FIELDS = ("signal.inputs.lookback", "signal.inputs.vol_window", "signal.inputs.vol_target")


def ours(frequency: str, close: np.ndarray, wanted: list[Combination]) -> pl.DataFrame:
    strategy = STRATEGY.variant({"rebalance.frequency": frequency})
    specs = [strategy.variant(dict(zip(FIELDS, one, strict=True))) for one in wanted]
    bounds = dict.fromkeys(NAMES, (None, None))
    evaluator = Evaluator(bars_of(close), DAYS[HISTORY:], DAYS, bounds, YEAR)
    size = min(1000, -(-len(specs) // (4 * THREADS)))  # as a sweep cuts them
    with ThreadPoolExecutor(THREADS) as threads:
        chunks = [specs[first : first + size] for first in range(0, len(specs), size)]
        return pl.concat(one.summary for one in threads.map(evaluator.evaluate, chunks))


def our_sharpes(frequency: str, close: np.ndarray, wanted: list[Combination]) -> Sharpes:
    return ours(frequency, close, wanted)["sharpe"].to_numpy()


def columns_of_weights(frequency: str, close: np.ndarray, wanted: list[Combination]) -> np.ndarray:
    """(sessions, combinations x symbols), as pandas users make them."""
    import pandas as pd

    prices = pd.DataFrame(close)
    returns = prices.pct_change()
    signs = {lookback: np.sign(prices.pct_change(lookback)).to_numpy()[HISTORY:] for lookback in LOOKBACKS}
    risks = {window: (returns.rolling(window).std() * YEAR**0.5).to_numpy()[HISTORY:] for window in WINDOWS}
    weights = np.empty((SESSIONS, len(wanted), SYMBOLS))
    for number, (lookback, window, target) in enumerate(wanted):
        weights[:, number] = signs[lookback] * np.minimum(target / risks[window], CAP) / SYMBOLS
    weights[~TRADED[frequency]] = np.nan
    return weights.reshape(SESSIONS, -1)


def with_vectorbt(frequency: str, close: np.ndarray, wanted: list[Combination]) -> Any:
    import pandas as pd
    import vectorbt as vbt

    weights = columns_of_weights(frequency, close, wanted)
    index = pd.DatetimeIndex(DAYS[HISTORY:])
    return vbt.Portfolio.from_orders(
        pd.DataFrame(np.tile(close[HISTORY:], len(wanted)), index=index),
        size=weights,
        size_type="targetpercent",
        fees=FEE,
        slippage=SLIPPAGE,
        init_cash=CASH,
        cash_sharing=True,
        group_by=np.repeat(np.arange(len(wanted)), SYMBOLS),
        call_seq="auto",
        freq="1D",
    )


def vectorbt_sharpes(frequency: str, close: np.ndarray, wanted: list[Combination]) -> Sharpes:
    return with_vectorbt(frequency, close, wanted).sharpe_ratio().to_numpy()


def vectorbt_measures(frequency: str, close: np.ndarray, wanted: list[Combination]) -> list[Any]:
    portfolio = with_vectorbt(frequency, close, wanted)
    names = ("annualized_return", "sharpe_ratio", "sortino_ratio", "calmar_ratio", "max_drawdown", "final_value")
    trades = portfolio.exit_trades.closed
    return [
        portfolio.annualized_volatility(),
        *(getattr(portfolio, name)() for name in names),
        *(getattr(trades, name)() for name in ("count", "win_rate", "profit_factor")),
        trades.returns.mean(),
    ]


@numba.njit(parallel=True, fastmath=False)
def loop(close, rebalanced, signs, risks, choices, targets, cap, fee, slippage, initial, year, sharpes):
    sessions, symbols = close.shape
    for cell in numba.prange(len(choices)):
        sign, risk, target = signs[choices[cell, 0]], risks[choices[cell, 1]], targets[cell]
        shares = np.zeros(symbols)
        cash = before = initial
        total = squares = 0.0
        for t in range(sessions):
            equity = cash
            for n in range(symbols):
                equity += shares[n] * close[t, n]
            for n in range(symbols if rebalanced[t] else 0):
                weight = sign[t, n] * min(target / risk[t, n], cap) / symbols
                bought = weight * equity / close[t, n] - shares[n]
                price = close[t, n] * (1 + slippage if bought > 0 else 1 - slippage)
                cash -= bought * price + abs(bought) * price * fee
                shares[n] += bought
            equity = cash
            for n in range(symbols):
                equity += shares[n] * close[t, n]
            change = equity / before - 1
            before = equity
            total += change
            squares += change * change
        mean = total / sessions
        sharpes[cell] = mean / np.sqrt((squares - sessions * mean * mean) / (sessions - 1)) * np.sqrt(year)


def bare_sharpes(frequency: str, close: np.ndarray, wanted: list[Combination]) -> Sharpes:
    returns = close[1:] / close[:-1] - 1
    windows = np.lib.stride_tricks.sliding_window_view
    signs = np.stack([np.sign(close[HISTORY:] / close[HISTORY - n : -n] - 1) for n in LOOKBACKS])
    risks = np.stack([windows(returns, n, axis=0)[HISTORY - n :].std(axis=2, ddof=1) * YEAR**0.5 for n in WINDOWS])
    choices = np.array([(LOOKBACKS.index(lookback), WINDOWS.index(window)) for lookback, window, _ in wanted])
    targets = np.array([target for *_, target in wanted])
    sharpes = np.empty(len(wanted))
    traded = np.ascontiguousarray(close[HISTORY:])
    loop(traded, TRADED[frequency], signs, risks, choices, targets, CAP, FEE, SLIPPAGE, CASH, YEAR, sharpes)
    return sharpes


SIDES: dict[str, Callable[[str, np.ndarray, list[Combination]], Any]] = {
    "ours": our_sharpes,
    "vectorbt": vectorbt_sharpes,
    "vectorbt_measures": vectorbt_measures,
    "bare": bare_sharpes,
}


def seconds(run: Callable[[], object]) -> tuple[float, float]:
    """Wall and processor time."""
    start, used = perf_counter(), process_time()
    run()
    return perf_counter() - start, process_time() - used


def best(rounds: int, sides: dict[str, Callable[[], object]]) -> dict[str, tuple[float, float]]:
    """Of each side the times of its best round; the sides take turns."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
    for _ in range(rounds):
        for name, run in sides.items():
            taken[name].append(seconds(run))
    return {name: min(rounds) for name, rounds in taken.items()}


def show(taken: dict[str, tuple[float, float]]) -> None:
    told = (f"{name} {wall * 1e3:,.0f} ms ({cpu * 1e3:,.0f} ms CPU)" for name, (wall, cpu) in taken.items())
    print(", ".join(told), load(), flush=True)


def alone(side: str, count: int) -> int:
    """Bytes above the start that one side takes for `count` combinations in a process of its own."""
    return json.loads(process([sys.executable, __file__, side, str(count)], os.environ).output.splitlines()[-1])


def in_this_process(side: str, count: int) -> None:
    """The child of `alone`."""
    close, wanted = closes(), combinations(count)
    SIDES[side]("daily", close, wanted[:8])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    SIDES[side]("daily", close, wanted)
    print(memory("VmHWM") - before)


def memory(name: str) -> int:
    """Bytes of this process by /proc: VmRSS now, VmHWM at the peak."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(name)) * 1024


def compare(frequency: str, close: np.ndarray, wanted: list[Combination], sides: Sequence[str]) -> dict[str, float]:
    """Print how far the Sharpe ratios are apart, and times; returns the wall times.

    Raises:
        SystemExit: a difference that is not rounding.
    """
    runs: dict[str, Callable[[], Any]] = {side: partial(SIDES[side], frequency, close, wanted) for side in SIDES}
    found = {side: runs[side]() for side in ("ours", "vectorbt", "bare")}
    for side in ("vectorbt", "bare"):
        difference = float(np.abs(found["ours"] / found[side] - 1).max())
        if not difference < DIFFERENCE:
            raise SystemExit(f"{frequency}: Sharpe ratios of ours and {side} differ by {difference:.1e}")
        print(f"{frequency}: {len(wanted):,} Sharpe ratios of ours and {side} equal to {difference:.1e}, relative")
    quick = ("ours", "bare")
    taken = best(ROUNDS, {side: runs[side] for side in quick})
    taken |= best(1, {side: runs[side] for side in sides if side not in quick})
    show(taken)
    return {side: wall for side, (wall, _) in taken.items()}


def main() -> None:
    close, wanted = closes(), combinations(1000)
    daily = compare("daily", close, wanted, ("vectorbt", "vectorbt_measures"))
    report("sweep_vs_vectorbt", daily["vectorbt"] / daily["ours"], ">=100")
    report("sweep_vs_vectorbt_same_measures", daily["vectorbt_measures"] / daily["ours"], ">=100")
    report("sweep_vs_bare_loop", daily["ours"] / daily["bare"], "<=3")
    weekly = compare("weekly", close, wanted, ("vectorbt",))
    report("sweep_weekly_vs_vectorbt", weekly["vectorbt"] / weekly["ours"], "none")
    report("sweep_weekly_vs_bare_loop", weekly["ours"] / weekly["bare"], "none")

    peak = {side: alone(side, 1000) for side in ("ours", "vectorbt")}
    print(", ".join(f"{side} {taken / 1e6:,.0f} MB" for side, taken in peak.items()))
    report("sweep_memory_vs_vectorbt", peak["ours"] / peak["vectorbt"], "<=0.1")

    counts = (100, 1000, 10_000)
    taken = best(3, {f"{count:,}": partial(our_sharpes, "daily", close, combinations(count)) for count in counts})
    show(taken)
    few, some, many = (wall for wall, _ in taken.values())
    report("sweep_10000_per_1000", many / some, "<=10")
    report("sweep_1000_per_100", some / few, "<=10")


if __name__ == "__main__":
    in_this_process(sys.argv[1], int(sys.argv[2])) if len(sys.argv) == 3 else main()
