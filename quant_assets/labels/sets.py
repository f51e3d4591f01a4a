"""The label functions, and the versioned sets that list them.

To add a label, write one function and add one line to a set of a new version; a set that has been used is never
changed, because stored values carry its version. A function gets the closes of all symbols, and returns for every row
t the label's value and the number of sessions after t whose close settled it. Counting is in the symbol's own bars.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl
from numpy.typing import NDArray

from quant_assets.core.errors import ConfigError, DataError

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

_VOLATILITY_SESSIONS = 20


@dataclass(frozen=True, slots=True)
class Closes:
    """One row per bar, sorted by (symbol, ts); `before` and `after` count the symbol's bars on either side."""

    close: FloatArray
    before: IntArray
    after: IntArray


@dataclass(frozen=True, slots=True)
class Label:
    """`horizon`: sessions after t at which the label is settled at the latest. `lookback`: sessions before t it reads.

    `function` returns (value, sessions from t to the close that settled it); a value that is not finite is no label,
    nor is one that is settled after the symbol's last bar.
    """

    name: str
    horizon: int
    lookback: int
    function: Callable[[Closes], tuple[FloatArray, IntArray]]

    @property
    def formula(self) -> str:
        """The function's docstring."""
        return self.function.__doc__ or ""


@dataclass(frozen=True, slots=True)
class LabelSet:
    version: str
    labels: tuple[Label, ...]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(label.name for label in self.labels)

    @property
    def lookback(self) -> int:
        """Bars of each symbol to read before the first session wanted, so that every label it settles is there."""
        return max(label.horizon + label.lookback for label in self.labels)

    def compute(self, bars: pl.DataFrame) -> pl.DataFrame:
        """All settled labels of the set for all bars.

        Args:
            bars: adjusted bars of any number of symbols; symbol, ts and close are read, rows may be in any order.

        Returns:
            symbol, ts, label_name, label_version (String), label_value (Float64), horizon (Int32, sessions), known_on
            (Date, the session whose close settled the label), in the order of the set's labels, then symbol, then ts.
            A label that is not settled by the symbol's last bar has no row, nor has one without a finite value.

        Raises:
            DataError: bars lack a column, have a null key, or have two rows with one key.
        """
        keys, closes = _closes(bars)
        return pl.concat([self._settled(label, keys, closes) for label in self.labels])

    def _settled(self, label: Label, keys: pl.DataFrame, closes: Closes) -> pl.DataFrame:
        with np.errstate(all="ignore"):
            value, steps = label.function(closes)
        rows = np.flatnonzero(np.isfinite(value) & (closes.before >= label.lookback) & (steps <= closes.after))
        return keys[rows].select(
            "symbol",
            "ts",
            pl.lit(label.name).alias("label_name"),
            pl.lit(self.version).alias("label_version"),
            pl.Series("label_value", value[rows]),
            pl.lit(label.horizon, pl.Int32).alias("horizon"),
            keys["ts"].gather(rows + steps[rows]).alias("known_on"),
        )


def _closes(bars: pl.DataFrame) -> tuple[pl.DataFrame, Closes]:
    missing = [name for name in ("symbol", "ts", "close") if name not in bars.columns]
    if missing:
        raise DataError(f"bars lack the columns {missing}, they have {bars.columns}; pass adjusted daily bars")
    bars = bars.select("symbol", "ts", pl.col("close").cast(pl.Float64)).sort("symbol", "ts")
    keys = bars.select("symbol", "ts")
    if keys.null_count().row(0) != (0, 0):
        raise DataError("bars have a row without symbol or ts; drop or quarantine it")
    if (repeated := keys.filter(pl.all_horizontal(pl.all() == pl.all().shift(1)))).height:
        symbol, ts = repeated.row(0)
        raise DataError(f"bars have more than one row for {symbol} on {ts}; keep one")
    counted = bars.select(
        pl.int_range(pl.len()).over("symbol").alias("before"),
        (pl.len().over("symbol") - pl.int_range(pl.len()).over("symbol") - 1).alias("after"),
    )
    close = bars["close"].fill_null(float("nan")).to_numpy()
    return keys, Closes(close, counted["before"].to_numpy(), counted["after"].cast(pl.Int64).to_numpy())


def _forward_return(close: FloatArray, horizon: int) -> FloatArray:
    out = np.full_like(close, np.nan)
    np.divide(close[horizon:], close[:-horizon], out=out[:-horizon])
    return out - 1.0


def _volatility(close: FloatArray) -> FloatArray:
    """Sample standard deviation of the 20 one-session returns that end at each row, each window summed from scratch."""
    out = np.full_like(close, np.nan)
    count = _VOLATILITY_SESSIONS
    if len(close) > count:
        daily = close[1:] / close[:-1] - 1.0
        lagged = [daily[first : len(daily) - count + 1 + first] for first in range(count)]
        mean = sum(lagged) / count
        out[count:] = np.sqrt(sum((returns - mean) ** 2 for returns in lagged) / (count - 1))
    return out


def fwd_ret(horizon: int) -> Label:
    def function(bars: Closes) -> tuple[FloatArray, IntArray]:
        return _forward_return(bars.close, horizon), np.full(len(bars.close), horizon)

    function.__doc__ = f"close[t+{horizon}] / close[t] - 1"
    return Label(f"fwd_ret_{horizon}d", horizon, 0, function)


def direction(horizon: int) -> Label:
    def function(bars: Closes) -> tuple[FloatArray, IntArray]:
        forward = _forward_return(bars.close, horizon)
        value = np.where(np.isfinite(forward), forward > 0, np.nan)
        return value, np.full(len(value), horizon)

    function.__doc__ = f"1 where close[t+{horizon}] > close[t], else 0"
    return Label(f"direction_{horizon}d", horizon, 0, function)


def triple_barrier(horizon: int, profit: float = 1.0, stop: float = 1.0) -> Label:
    """Which of three barriers the close reaches first: profit (1), stop (-1), or time (0).

    Lopez de Prado, "Advances in Financial Machine Learning" (2018), section 3.4. The horizontal barriers lie at
    close[t] * (1 + profit * width) and close[t] * (1 - stop * width), and reaching counts. The book's width is an
    exponentially weighted daily volatility, whose value depends on all history; here it is the sample standard
    deviation of the 20 one-session returns that end at t, times sqrt(horizon): the spread of the return over the time
    that the barriers stand, so that one multiple fits every horizon. At the time barrier the value is 0 (the book's
    alternative to the return's sign). Without volatility there are no barriers and no label.

    Example: volatility 0.01 and horizon 4 give a width of 0.02; from close 100, the closes 101, 102.5 reach the profit
    barrier 102 after 2 sessions: value 1, known 2 sessions after t.
    """

    def function(bars: Closes) -> tuple[FloatArray, IntArray]:
        close = bars.close
        width = _volatility(close) * np.sqrt(horizon)
        upper, lower = close * (1 + profit * width), close * (1 - stop * width)
        value = np.where(width > 0, 0.0, np.nan)
        steps = np.full(len(close), horizon)
        waiting = np.flatnonzero((width > 0) & (bars.after > 0))
        for step in range(1, horizon + 1):
            then = close[waiting + step]
            won, lost = then >= upper[waiting], then <= lower[waiting]
            value[waiting[won]], value[waiting[lost]] = 1.0, -1.0
            steps[waiting[won | lost]] = step
            waiting = waiting[~(won | lost) & (bars.after[waiting] > step)]
        return value, steps

    function.__doc__ = (
        f"1, -1 or 0: close[t+1..t+{horizon}] first reaches close[t] * (1 + {profit} * width), "
        f"close[t] * (1 - {stop} * width), or neither; width = vol_20d[t] * sqrt({horizon})"
    )
    return Label(f"triple_barrier_{horizon}d", horizon, _VOLATILITY_SESSIONS, function)


LABEL_SETS: dict[str, LabelSet] = {
    "v1": LabelSet(
        "v1",
        (
            fwd_ret(5),
            fwd_ret(20),
            fwd_ret(60),
            direction(5),
            direction(20),
            direction(60),
            triple_barrier(20),
        ),
    ),
}


def label_set(version: str) -> LabelSet:
    """The set named `version`.

    Raises:
        ConfigError: no such version; names the known ones.
    """
    try:
        return LABEL_SETS[version]
    except KeyError:
        known = ", ".join(LABEL_SETS)
        raise ConfigError(f"label version {version!r} is unknown; use one of: {known}") from None


def compute(bars: pl.DataFrame, version: str) -> pl.DataFrame:
    """`label_set(version).compute(bars)`"""
    return label_set(version).compute(bars)


def settled_between(labels: pl.DataFrame, first: date, last: date) -> pl.DataFrame:
    """The labels whose `known_on` lies from `first` to `last`, both inclusive."""
    return labels.filter(pl.col("known_on").is_between(first, last))
