"""A sweep of 1,000 TSMOM combinations x 8 symbols x 2,520 sessions: ours, vectorbt's columns, and a bare Numba loop.

Run with `python bench/sweep.py`. Each side starts from the bars and the list of combinations:

- ours: a strategy per combination, validated; signals, supervisor, kernel; every measure of `backtest_summary`; on as
  many threads as there are cores;
- vectorbt: weights with pandas, combinations as columns of one `Portfolio.from_orders`, cash shared by each
  combination's symbols, and its Sharpe ratio; a second figure takes all the measures that both sides have;
- bare: one loop that does the arithmetic of positions, costs, cash, equity and Sharpe and nothing else, on all cores.

Rebalanced daily, positions below the cash, so that all three do the same trades; their Sharpe ratios are compared.
Peak memory is what a process of its own uses above what it held after the imports and a warm-up of 8 combinations.
"""

import json
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, timedelta
from itertools import product
from pathlib import Path
from time import perf_counter
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
ROUNDS = 5
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
FIELDS = ("signal.inputs.lookback", "signal.inputs.vol_window", "signal.inputs.vol_target")


def ours(close: np.ndarray, wanted: list[Combination]) -> pl.DataFrame:
    specs = [STRATEGY.variant(dict(zip(FIELDS, one, strict=True))) for one in wanted]
    bounds = dict.fromkeys(NAMES, (None, None))
    evaluator = Evaluator(bars_of(close), DAYS[HISTORY:], DAYS, bounds, YEAR)
    size = -(-len(specs) // THREADS)
    with ThreadPoolExecutor(THREADS) as threads:
        chunks = [specs[first : first + size] for first in range(0, len(specs), size)]
        return pl.concat(one.summary for one in threads.map(evaluator.evaluate, chunks))


def our_sharpes(close: np.ndarray, wanted: list[Combination]) -> Sharpes:
    return ours(close, wanted)["sharpe"].to_numpy()


def columns_of_weights(close: np.ndarray, wanted: list[Combination]) -> np.ndarray:
    """(sessions, combinations x symbols), as pandas users make them."""
    import pandas as pd

    prices = pd.DataFrame(close)
    returns = prices.pct_change()
    signs = {lookback: np.sign(prices.pct_change(lookback)).to_numpy()[HISTORY:] for lookback in LOOKBACKS}
    risks = {window: (returns.rolling(window).std() * YEAR**0.5).to_numpy()[HISTORY:] for window in WINDOWS}
    weights = np.empty((SESSIONS, len(wanted), SYMBOLS))
    for number, (lookback, window, target) in enumerate(wanted):
        weights[:, number] = signs[lookback] * np.minimum(target / risks[window], CAP) / SYMBOLS
    return weights.reshape(SESSIONS, -1)


def with_vectorbt(close: np.ndarray, wanted: list[Combination]) -> Any:
    import pandas as pd
    import vectorbt as vbt

    weights = columns_of_weights(close, wanted)
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


def vectorbt_sharpes(close: np.ndarray, wanted: list[Combination]) -> Sharpes:
    return with_vectorbt(close, wanted).sharpe_ratio().to_numpy()


def vectorbt_measures(close: np.ndarray, wanted: list[Combination]) -> list[Any]:
    portfolio = with_vectorbt(close, wanted)
    names = ("annualized_return", "sharpe_ratio", "sortino_ratio", "calmar_ratio", "max_drawdown", "final_value")
    trades = portfolio.exit_trades.closed
    return [
        portfolio.annualized_volatility(),
        *(getattr(portfolio, name)() for name in names),
        *(getattr(trades, name)() for name in ("count", "win_rate", "profit_factor")),
        trades.returns.mean(),
    ]


@numba.njit(parallel=True, fastmath=False)
def loop(close, signs, risks, choices, targets, cap, fee, slippage, initial, year, sharpes):
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
            for n in range(symbols):
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


def bare_sharpes(close: np.ndarray, wanted: list[Combination]) -> Sharpes:
    returns = close[1:] / close[:-1] - 1
    windows = np.lib.stride_tricks.sliding_window_view
    signs = np.stack([np.sign(close[HISTORY:] / close[HISTORY - n : -n] - 1) for n in LOOKBACKS])
    risks = np.stack([windows(returns, n, axis=0)[HISTORY - n :].std(axis=2, ddof=1) * YEAR**0.5 for n in WINDOWS])
    choices = np.array([(LOOKBACKS.index(lookback), WINDOWS.index(window)) for lookback, window, _ in wanted])
    targets = np.array([target for *_, target in wanted])
    sharpes = np.empty(len(wanted))
    traded = np.ascontiguousarray(close[HISTORY:])
    loop(traded, signs, risks, choices, targets, CAP, FEE, SLIPPAGE, CASH, YEAR, sharpes)
    return sharpes


SIDES: dict[str, Callable[[np.ndarray, list[Combination]], Any]] = {
    "ours": our_sharpes,
    "vectorbt": vectorbt_sharpes,
    "vectorbt_measures": vectorbt_measures,
    "bare": bare_sharpes,
}


def seconds(side: str, close: np.ndarray, wanted: list[Combination]) -> float:
    start = perf_counter()
    SIDES[side](close, wanted)
    return perf_counter() - start


def alone(side: str, count: int) -> dict[str, Any]:
    """What one side takes for `count` combinations in a process of its own: seconds, and bytes above the start."""
    return json.loads(process([sys.executable, __file__, side, str(count)], os.environ).output.splitlines()[-1])


def in_this_process(side: str, count: int) -> None:
    """The child of `alone`."""
    close, wanted = closes(), combinations(count)
    SIDES[side](close, wanted[:8])
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = memory("VmRSS")
    taken = seconds(side, close, wanted)
    print(json.dumps({"seconds": taken, "bytes": memory("VmHWM") - before}))


def memory(name: str) -> int:
    """Bytes of this process by /proc: VmRSS now, VmHWM at the peak."""
    return next(int(line.split()[1]) for line in Path("/proc/self/status").open() if line.startswith(name)) * 1024


def main() -> None:
    close, wanted = closes(), combinations(1000)
    found = {side: SIDES[side](close, wanted) for side in ("ours", "vectorbt", "bare")}
    for side in ("vectorbt", "bare"):
        difference = float(np.abs(found["ours"] / found[side] - 1).max())
        assert difference < 1e-9, f"Sharpe ratios of ours and {side} differ by {difference:.1e}"
        print(f"all 1,000 Sharpe ratios of ours and {side} equal to {difference:.1e}, relative")

    best = {side: min(seconds(side, close, wanted) for _ in range(ROUNDS)) for side in ("ours", "bare")}
    best["vectorbt"] = min(seconds("vectorbt", close, wanted) for _ in range(2))
    best["vectorbt_measures"] = seconds("vectorbt_measures", close, wanted)
    print(", ".join(f"{side} {taken * 1e3:,.0f} ms" for side, taken in best.items()), f"({load()})")
    report("sweep_vs_vectorbt", best["vectorbt"] / best["ours"], ">=100")
    report("sweep_vs_vectorbt_same_measures", best["vectorbt_measures"] / best["ours"], ">=100")
    report("sweep_vs_bare_loop", best["ours"] / best["bare"], "<=3")

    peak = {side: alone(side, 1000)["bytes"] for side in ("ours", "vectorbt")}
    print(", ".join(f"{side} {taken / 1e6:,.0f} MB" for side, taken in peak.items()))
    report("sweep_memory_vs_vectorbt", peak["ours"] / peak["vectorbt"], "<=0.1")

    taken = {count: min(seconds("ours", close, combinations(count)) for _ in range(2)) for count in (100, 1000, 10_000)}
    print(", ".join(f"{count:,}: {one * 1e3:,.0f} ms" for count, one in taken.items()))
    report("sweep_10000_per_1000", taken[10_000] / taken[1000], "<=10")
    report("sweep_1000_per_100", taken[1000] / taken[100], "<=10")


if __name__ == "__main__":
    in_this_process(sys.argv[1], int(sys.argv[2])) if len(sys.argv) == 3 else main()
