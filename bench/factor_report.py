"""The factor report against the same figures by pandas, a session at a time as alphalens has them.

Prints how many times longer pandas takes for IC, rank IC, spread and turnover of 2 factors on 500 symbols x 252
sessions, with a check that both agree, and how long the report takes for 500 symbols x 2,520 sessions x 8 factors and
for 100 x 2,520 x 158.
"""

from time import perf_counter, process_time

import numpy as np
import pandas as pd
import polars as pl
from common import load, median_seconds, report

from quant_assets.core.calendar import trading_calendar
from quant_assets.core.matrices import Matrices, matrices
from quant_assets.market_data.synthetic import synthetic_bars
from quant_assets.validation.factors import HORIZONS, QUANTILES, FactorReport, factor_report

TARGET = ">=30"


def market(symbols: int, sessions: int, factors: int) -> tuple[Matrices, pl.DataFrame]:
    """Synthetic bars and seeded random factors, a column each."""
    days = trading_calendar("XNYS").sessions[-sessions - 400 : -400]
    names = [f"SYN{number:04d}" for number in range(symbols)]
    bars = synthetic_bars(names, days)
    random = np.random.default_rng(1)
    values = bars.select("symbol", "ts").with_columns(
        pl.Series(f"factor_{number}", random.normal(size=bars.height)) for number in range(factors)
    )
    return matrices(bars, days, names), values


def ours(panel: Matrices, values: pl.DataFrame) -> FactorReport:
    listed = np.ones(panel.close.shape, bool)
    return factor_report(
        lambda first, last: values.filter(pl.col("ts").is_between(first, last)), values.columns[2:], panel, listed
    )


def by_session(panel: Matrices, values: pl.DataFrame) -> pd.DataFrame:
    """Mean IC, rank IC, spread and turnover by factor and horizon: groups of one session, merged with their returns."""
    close = pd.DataFrame(panel.close, panel.days, panel.symbols)
    found = []
    for name in values.columns[2:]:
        factor = values.select("ts", "symbol", name).to_pandas().set_index(["ts", "symbol"])[name]
        for horizon in HORIZONS:
            ahead = (close.shift(-horizon) / close - 1).stack().rename("ahead").rename_axis(["ts", "symbol"])
            ahead.index = ahead.index.set_levels(pd.to_datetime(ahead.index.levels[0]), level=0)
            factor.index = factor.index.set_levels(pd.to_datetime(factor.index.levels[0]), level=0)
            both = pd.concat([factor.rename("factor"), ahead], axis=1, join="inner").dropna()
            groups = both.groupby("ts")
            ic = groups.apply(lambda group: group["factor"].corr(group["ahead"]))
            rank_ic = groups.apply(lambda group: group["factor"].corr(group["ahead"], method="spearman"))
            both["quantile"] = groups["factor"].transform(lambda one: pd.qcut(one, QUANTILES, labels=False))
            layers = both.groupby(["quantile", "ts"])["ahead"].mean().unstack(0)
            tops = both[both["quantile"] == QUANTILES - 1].reset_index().groupby("ts")["symbol"].apply(set)
            fresh = [len(now - then) / len(now) for now, then in zip(tops[horizon:], tops[:-horizon], strict=True)]
            spread = (layers[QUANTILES - 1] - layers[0]).mean()
            found.append((name, horizon, ic.mean(), rank_ic.mean(), spread, float(np.mean(fresh))))
    return pd.DataFrame(found, columns=["feature_name", "horizon", "mean_ic", "mean_rank_ic", "spread", "turnover"])


def check(mine: FactorReport, theirs: pd.DataFrame) -> None:
    for name in ("mean_ic", "mean_rank_ic", "spread"):
        if not np.allclose(mine.summary[name].to_numpy(), theirs[name].to_numpy(), rtol=1e-9, atol=1e-12):
            raise SystemExit(f"{name} differs")


def main() -> None:
    small = market(500, 252, 2)
    ours(*small)  # compiles
    start = perf_counter()
    theirs = by_session(*small)
    slow = perf_counter() - start
    fast = median_seconds(5, {"ours": lambda: ours(*small)})["ours"]
    check(ours(*small), theirs)
    print(f"500 symbols x 252 sessions x 2 factors: {fast:.2f} s, pandas {slow:.1f} s; {load()}")
    report("factor_report", slow / fast, TARGET)
    for symbols, factors in ((500, 8), (100, 158)):
        large = market(symbols, 2520, factors)
        start, used = perf_counter(), process_time()
        ours(*large)
        wall, cpu = perf_counter() - start, process_time() - used
        print(f"{symbols} symbols x 2,520 sessions x {factors} factors: {wall:.1f} s, {cpu:.1f} s CPU; {load()}")


if __name__ == "__main__":
    main()
