"""Eight features for 500 symbols x 2,520 sessions: ours (frame to frame), pandas groupby, and a bare Numba kernel.

Run with `python bench/features_compute.py`. Prints the median ratio of interleaved warm runs.
"""

from datetime import date, timedelta

import numba
import numpy as np
import pandas as pd
import polars as pl
from common import median_seconds, report

from quant_assets.features import compute, feature_set

SYMBOLS, SESSIONS, RUNS = 500, 2520, 9
NUMBERS = ("open", "high", "low", "close", "volume")
NAMES = feature_set("v1").names


def make_bars() -> pl.DataFrame:
    random = np.random.default_rng(0)
    rows = SYMBOLS * SESSIONS
    close = (100 * np.exp(np.cumsum(random.normal(0, 0.02, (SYMBOLS, SESSIONS)), axis=1))).ravel()
    open_ = close * np.exp(random.normal(0, 0.01, rows))
    sessions = pl.Series([date(2010, 1, 1) + timedelta(day) for day in range(SESSIONS)])
    return pl.DataFrame(
        {
            "symbol": np.repeat([f"S{number:04d}" for number in range(SYMBOLS)], SESSIONS),
            "ts": pl.concat([sessions] * SYMBOLS),
            "open": open_,
            "high": np.maximum(open_, close) * 1.01,
            "low": np.minimum(open_, close) * 0.99,
            "close": close,
            "volume": random.integers(100_000, 10_000_000, rows).astype(float),
        }
    )


def with_pandas(bars: pd.DataFrame) -> pd.DataFrame:
    groups = bars.groupby("symbol")
    out = bars[["symbol", "ts"]].copy()
    for sessions in (1, 5, 20, 60):
        out[f"ret_{sessions}d"] = groups["close"].pct_change(sessions)
    out["vol_20d"] = out.groupby("symbol")["ret_1d"].rolling(20).std().reset_index(level=0, drop=True)
    out["gap_open"] = bars["open"] / groups["close"].shift(1) - 1
    out["hl_range"] = (bars["high"] - bars["low"]) / bars["close"]
    means = groups["volume"].rolling(20).mean().reset_index(level=0, drop=True)
    out["volume_ratio_20d"] = bars["volume"] / means
    return out


@numba.njit
def kernel(starts, open_, high, low, close, volume, out):
    """Running sums that add the newest row and remove the oldest: the least arithmetic there is."""
    out[:] = np.nan
    for symbol in range(len(starts) - 1):
        first = starts[symbol]
        total = squares = volumes = 0.0
        for row in range(first, starts[symbol + 1]):
            age = row - first
            out[6, row] = (high[row] - low[row]) / close[row]
            volumes += volume[row]
            if age >= 20:
                volumes -= volume[row - 20]
            if age >= 19:
                out[7, row] = volume[row] / (volumes / 20)
            if age >= 1:
                ret = close[row] / close[row - 1] - 1
                out[0, row] = ret
                out[5, row] = open_[row] / close[row - 1] - 1
                total += ret
                squares += ret * ret
            if age >= 5:
                out[1, row] = close[row] / close[row - 5] - 1
            if age >= 20:
                if age > 20:
                    old = out[0, row - 20]
                    total -= old
                    squares -= old * old
                out[2, row] = close[row] / close[row - 20] - 1
                out[4, row] = np.sqrt(max(0.0, (squares - total * total / 20) / 19))
            if age >= 60:
                out[3, row] = close[row] / close[row - 60] - 1


def with_numba(columns: list[np.ndarray]) -> np.ndarray:
    out = np.empty((len(NAMES), SYMBOLS * SESSIONS))
    kernel(np.arange(SYMBOLS + 1) * SESSIONS, *columns, out)
    return out


def main() -> None:
    bars = make_bars()
    pandas_bars = pd.DataFrame({name: bars[name].to_numpy() for name in bars.columns if name != "symbol"})
    pandas_bars.insert(0, "symbol", bars["symbol"].to_list())
    columns = [bars[name].to_numpy() for name in NUMBERS]

    ours = compute(bars, "v1").select(pl.all().exclude("symbol", "ts").fill_null(float("nan"))).to_numpy().T
    theirs = with_pandas(pandas_bars)[list(NAMES)].to_numpy().T
    np.testing.assert_allclose(theirs, ours, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(with_numba(columns), ours, rtol=1e-9, atol=1e-12)

    increment = compute(bars.filter(pl.col("ts") >= bars["ts"].unique().sort()[-1 - feature_set("v1").lookback]), "v1")
    newest = pl.col("ts") == pl.col("ts").max()
    if not increment.filter(newest).equals(compute(bars, "v1").filter(newest)):
        raise SystemExit("the newest session differs in its bits when computed from its lookback alone")

    median = median_seconds(
        RUNS,
        {
            "ours": lambda: compute(bars, "v1"),
            "pandas": lambda: with_pandas(pandas_bars),
            "numba": lambda: with_numba(columns),
        },
    )
    print(", ".join(f"{name} {value * 1e3:.0f} ms" for name, value in median.items()))
    report("features_compute_vs_pandas", median["pandas"] / median["ours"], ">=5")
    report("features_compute_vs_numba", median["ours"] / median["numba"], "<=2.5")


if __name__ == "__main__":
    main()
