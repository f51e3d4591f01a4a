"""One backtest of 500 symbols x 2,520 days, monthly top 50: ours against vectorbt, bt and backtrader.

Run with `python bench/portfolio.py` (backtrader takes minutes; `python bench/portfolio.py bt` leaves it out). The first
figures are simulations alone, matrices to equity and trades, each from data already in its library's form; then the
whole step `engine.run`, frames to tables with all statistics, against vectorbt's simulation alone. vectorbt runs in
this process, in turn with ours; the other two in environments of their own. The best round of each counts.

All four get the same prices, targets of 98 % of the equity (so that no buy falls short of cash, and none depends on how
a library cuts one), a fee of 12 bp and no slippage, which bt does not have. vectorbt sizes orders itself; for the other
two `portfolio_others.py` sizes them by the rule that ours documents, because bt's own takes the fee off the order and
backtrader's rounds to whole shares. Every fill is compared with ours one by one, and the final equity; what differs is
the rounding of sums taken in another order, some 1e-12 of the value.
"""

import subprocess
import sys
import tempfile
from datetime import date, timedelta
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import polars as pl
from common import load, other_environment, report

from quant_assets.backtest.engine import BacktestConfig, run
from quant_assets.backtest.simulation import Mechanics, simulate
from quant_assets.core.costs import Costs
from quant_assets.core.matrices import Matrices, days_of

SYMBOLS, SESSIONS, TOP, MONTH, ROUNDS = 500, 2520, 50, 21, 7
CASH, FEE = 1e6, 0.0012
TARGETS = {"bt": ">=50", "backtrader": ">=1000"}
DIFFERENCE = 1e-9
"""Largest relative difference allowed, of the final equity and of a fill's shares over the largest fill."""


def make_input() -> tuple[Matrices, np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    close = 100 * np.exp(np.cumsum(random.normal(0.0003, 0.02, (SESSIONS, SYMBOLS)), axis=0))
    rows = np.arange(0, SESSIONS - 1, MONTH)
    weights = np.zeros((len(rows), SYMBOLS))
    for target in weights:
        target[random.choice(SYMBOLS, TOP, replace=False)] = 0.98 / TOP
    days = days_of([date(2010, 1, 1) + timedelta(day) for day in range(SESSIONS)])
    names = tuple(f"S{number:04d}" for number in range(SYMBOLS))
    prices = Matrices(days, names, close, close, close, close, close, np.full(SYMBOLS, SESSIONS - 1))
    return prices, rows, weights


def with_vectorbt(close: np.ndarray, size: np.ndarray) -> Any:
    import vectorbt as vbt

    return vbt.Portfolio.from_orders(
        close,
        size=size,
        size_type="targetpercent",
        fees=FEE,
        init_cash=CASH,
        cash_sharing=True,
        group_by=True,
        call_seq="auto",
    )


def as_frames(prices: Matrices, rows: np.ndarray, weights: np.ndarray) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Bars and targets as `engine.run` takes them."""
    sessions = pl.Series(prices.days)
    price = prices.close.T.ravel()
    bars = pl.DataFrame(
        {
            "symbol": pl.Series(prices.symbols).gather(np.repeat(np.arange(SYMBOLS), SESSIONS)),
            "ts": pl.concat([sessions] * SYMBOLS),
            **dict.fromkeys(("open", "high", "low", "close"), price),
        }
    )
    row, column = np.nonzero(weights)
    targets = pl.DataFrame(
        {
            "asof": sessions.gather(rows[row]),
            "symbol": pl.Series(prices.symbols).gather(column),
            "weight": weights[row, column],
        }
    )
    return bars, targets


def compare(library: str, ours: Any, fills: np.ndarray, final: float) -> None:
    """Print how far the other's fills (row, column, shares, price) and final equity are from ours.

    Raises:
        SystemExit: another number of fills, a fill of another symbol or session, or a difference that is not rounding.
    """
    mine = np.stack([ours.fills[name].astype(float) for name in ("row", "column", "shares", "price")], axis=1)
    mine, fills = (one[np.lexsort((one[:, 1], one[:, 0]))] for one in (mine, np.asarray(fills, dtype=float)))
    if mine.shape != fills.shape or not np.array_equal(mine[:, :2], fills[:, :2]):
        raise SystemExit(f"{library} has {len(fills)} fills, ours {len(mine)}, or of other symbols or sessions")
    shares = np.abs(mine[:, 2] - fills[:, 2]).max() / np.abs(mine[:, 2]).max()
    equity = abs(final / ours.equity[-1] - 1)
    print(f"{library}: {len(fills)} fills, shares within {shares:.1e}, final equity {final:,.6f}, within {equity:.1e}")
    if max(shares, equity) > DIFFERENCE:
        raise SystemExit(f"{library} differs by more than rounding")


def main() -> None:
    prices, rows, weights = make_input()
    mechanics = Mechanics(fee=FEE)
    size = np.full(prices.close.shape, np.nan)
    size[rows] = weights
    bars, targets = as_frames(prices, rows, weights)
    config = BacktestConfig("bench", "1", CASH, Costs(FEE * 1e4, 0))
    sides = {
        "ours": lambda: simulate(prices, rows, weights, CASH, mechanics),
        "vectorbt": lambda: with_vectorbt(prices.close, size),
        "run": lambda: run(bars, targets, prices.days.tolist(), config),
    }
    seconds = dict.fromkeys(sides, float("inf"))
    done = {name: side() for name, side in sides.items()}
    for _ in range(ROUNDS):
        for name, side in sides.items():
            start = perf_counter()
            side()
            seconds[name] = min(seconds[name], perf_counter() - start)
    ours = done["ours"]
    records = done["vectorbt"].orders.records_arr
    signed = np.where(records["side"] == 0, 1, -1) * records["size"]
    compare(
        "vectorbt",
        ours,
        np.stack([records["idx"], records["col"], signed, records["price"]], axis=1),
        float(done["vectorbt"].value().iloc[-1]),
    )
    if abs(done["run"].summary["final_equity"] / ours.equity[-1] - 1) > DIFFERENCE:
        raise SystemExit("engine.run and simulate differ")
    print(", ".join(f"{name} {value * 1e3:.1f} ms" for name, value in seconds.items()), load())
    report("portfolio_vs_vectorbt", seconds["vectorbt"] / seconds["ours"], ">=30")
    report("portfolio_run_over_vectorbt", seconds["run"] / seconds["vectorbt"], "<=1")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        np.savez(folder / "input.npz", close=prices.close, rows=rows, weights=weights, cash=CASH, fee=FEE)
        script = Path(__file__).with_name("portfolio_others.py")
        for library in sys.argv[1:] or TARGETS:
            python = other_environment(library, library, "pandas")
            command = [python, script, library, folder]
            taken = float(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
            print(f"{library} {taken:.1f} s", load())
            found = np.load(folder / f"{library}.npz")
            compare(library, ours, found["fills"], float(found["final"]))
            report(f"portfolio_vs_{library}", taken / seconds["ours"], TARGETS[library])


if __name__ == "__main__":
    main()
