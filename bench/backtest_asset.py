"""What a backtest's assets do for 500 symbols x 2,520 sessions, monthly top 50, against vectorbt's simulation alone.

Run with `python bench/backtest_asset.py`. Ours reads the feature and adjusted bars from a warehouse, decides 82
rebalances under the supervisor, simulates, takes every measure and correlation, passes the gate and stores all tables
and the trial: `targets` and `backtest_summary` less Dagster's bookkeeping and the report. vectorbt simulates the same
targets from matrices in memory and does nothing else. The best round of each counts.
"""

import tempfile
from datetime import UTC, date, datetime
from pathlib import Path
from time import perf_counter

import numpy as np
import polars as pl
from common import load, report
from features_compute import make_bars
from portfolio import with_vectorbt

from quant_assets.backtest import analysis
from quant_assets.backtest.engine import buy_and_hold, run
from quant_assets.contracts import TABLES, backtest_summary, features_daily
from quant_assets.contracts.gate import gate
from quant_assets.core.calendar import TradingCalendar
from quant_assets.defs.sources import signal_source
from quant_assets.features import feature_set
from quant_assets.market_data.history import adjusted_bars
from quant_assets.strategy.compose import decide, rebalance_dates, signal_scores
from quant_assets.strategy.ledger import Ledger, family, record
from quant_assets.strategy.spec import StrategySpec
from quant_assets.warehouse import Warehouse

ROUNDS, TOP = 5, 50
WIDE = features_daily.wide("v1", feature_set("v1").names)
SPEC = StrategySpec.model_validate(
    {
        "strategy_id": "bench",
        "version": "1.0.0",
        "universe": "bench",
        "signal": {"type": "factor_rank", "inputs": {"feature_version": "v1", "feature_name": "ret_60d"}},
        "rebalance": {"frequency": "monthly"},
        "portfolio": {"top_k": TOP},
        "supervisor": {"max_weight_per_symbol": 0.02, "max_positions": TOP, "turnover_cap": None},
        "backtest": {"from": date(2010, 1, 1)},
    }
)


def fill(warehouse: Warehouse, bars: pl.DataFrame, now: datetime) -> None:
    """Bars and features, stored as the market stage does."""
    rows = bars.with_columns(adjusted_close=None, source=pl.lit("bench"), ingested_at=now)
    values = feature_set("v1").compute(bars).with_columns(computed_at=now)
    with warehouse.write() as writer:
        writer.append(TABLES["ohlcv"], rows, run_id="bench")
        writer.ensure(WIDE)
        writer.append(WIDE, values, run_id="bench")


def backtest(warehouse: Warehouse, calendar: TradingCalendar, symbols: list[str], now: datetime) -> pl.DataFrame:
    """Load, decide, simulate, measure, store. Returns the targets."""
    sessions = calendar.sessions
    first, last = sessions[0], sessions[-1]
    bounds = dict.fromkeys(symbols, (first, None))
    source = signal_source(SPEC, warehouse, symbols, rebalance_dates("monthly", sessions, sessions))
    bars = adjusted_bars(warehouse, symbols, first, last, calendar=calendar)
    targets = decide(SPEC, signal_scores(SPEC, source), bars, {}, sessions, sessions, bounds).targets
    result = run(bars, targets, sessions, SPEC.config(252))
    tables = analysis.tables(result, buy_and_hold(bars, sessions, 100_000.0), bars, now)
    entries = Ledger(family(SPEC, "bench"), symbols, first, last)
    returns = result.equity["ret"].to_numpy()[None, :]
    trial = entries.rows([SPEC], [result.summary["sharpe"]], returns, "backtest", now)
    tables[backtest_summary.TABLE] = tables[backtest_summary.TABLE].with_columns(trial["trial_id"])
    tables[TABLES["targets"]] = targets.with_columns(generated_at=now)
    with warehouse.write() as writer:
        for table, frame in tables.items():
            writer.replace(table, gate(table, frame).good, "true", run_id="bench")
        record(writer, trial, "bench")
    return targets


def main() -> None:
    bars, now = make_bars(), datetime.now(UTC).replace(tzinfo=None)
    symbols = bars["symbol"].unique().sort().to_list()
    days = bars["ts"].unique().sort().to_list()
    calendar = TradingCalendar("BENCH", "UTC", datetime.min.time(), tuple(days))
    close = bars["close"].to_numpy().reshape(len(symbols), len(days)).T.copy()
    with tempfile.TemporaryDirectory() as place:
        warehouse = Warehouse(Path(place) / "warehouse.duckdb")
        fill(warehouse, bars, now)
        targets = backtest(warehouse, calendar, symbols, now)
        size = np.full(close.shape, np.nan)
        rows = np.searchsorted(np.array(days, "M8[D]"), targets["asof"].to_numpy().astype("M8[D]"))
        size[rows] = 0.0
        size[rows, np.searchsorted(symbols, targets["symbol"].to_list())] = targets["weight"].to_numpy()
        with_vectorbt(close, size)
        seconds = {"ours": float("inf"), "vectorbt": float("inf")}
        for _ in range(ROUNDS):
            for name, side in (
                ("ours", lambda: backtest(warehouse, calendar, symbols, now)),
                ("vectorbt", lambda: with_vectorbt(close, size)),
            ):
                start = perf_counter()
                side()
                seconds[name] = min(seconds[name], perf_counter() - start)
    print(", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in seconds.items()), load())
    report("backtest_asset_over_vectorbt", seconds["ours"] / seconds["vectorbt"], "<=3")


if __name__ == "__main__":
    main()
