"""Bars as matrices, sessions x symbols: what signals, portfolio simulation and sweeps compute on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property

import numpy as np
import numpy.typing as npt
import polars as pl

from quant_assets.core.errors import DataError

Floats = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Days = npt.NDArray[np.datetime64]

_PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True, eq=False)
class Matrices:
    """One matrix per column of the bars, of shape (sessions, symbols), C-ordered; NaN where a symbol has no bar."""

    days: Days
    """The sessions, as datetime64[D], rising."""
    symbols: tuple[str, ...]
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    last: Index
    """Per symbol the row of its last bar; the last row where bars go on after the sessions; -1 where it has none."""

    @cached_property
    def marks(self) -> Floats:
        """The last close so far; NaN before a symbol's first bar."""
        rows = np.arange(len(self.days))[:, None]
        seen = np.maximum.accumulate(np.where(np.isnan(self.close), -1, rows), axis=0)
        return np.where(seen >= 0, np.take_along_axis(self.close, np.maximum(seen, 0), axis=0), np.nan)


def days_of(sessions: Sequence[date]) -> Days:
    """Sessions as datetime64[D]."""
    return np.array(sessions, dtype="datetime64[D]")


def matrices(bars: pl.DataFrame, sessions: Sequence[date], symbols: Sequence[str]) -> Matrices:
    """The bars of `symbols` on `sessions`; others are left out.

    Args:
        bars: adjusted bars in any order: symbol, ts, open, close, and optionally high, low (else the larger and smaller
            of open and close) and volume (else NaN).
        sessions: rising and distinct.
        symbols: the columns, in this order.

    Raises:
        DataError: a price that is not a positive number, or two bars of one symbol and session.
    """
    days = days_of(sessions)
    names = tuple(symbols)
    wanted = bars.filter(pl.col("symbol").is_in(list(names))).select(
        "symbol",
        pl.col("ts").cast(pl.Date),
        *(
            pl.col(name).cast(pl.Float64) if name in bars.columns else _made(name)
            for name in (*_PRICES, "volume")
        ),
    )  # fmt: skip
    prices = pl.col(*_PRICES)
    bad = wanted.filter(pl.any_horizontal(prices.is_null() | ~prices.is_finite() | (prices <= 0)))
    if bad.height:
        symbol, day, opened, _, _, closed, _ = bad.sort("symbol", "ts").row(0)
        raise DataError(f"{symbol} on {day} has open {opened} and close {closed}; prices must be positive numbers")
    codes = {name: number for number, name in enumerate(names)}
    column = (
        wanted["symbol"].replace_strict(codes, return_dtype=pl.Int64).to_numpy() if codes else np.empty(0, np.int64)
    )
    stamps = wanted["ts"].to_numpy().astype("datetime64[D]")
    row = np.searchsorted(days, stamps)
    inside = (row < len(days)) & (days[np.minimum(row, len(days) - 1)] == stamps) if len(days) else row < 0
    row, within = row[inside], column[inside]
    shape = (len(days), len(names))
    filled = {}
    for name in (*_PRICES, "volume"):
        matrix = np.full(shape, np.nan)
        matrix[row, within] = wanted[name].fill_null(float("nan")).to_numpy()[inside]
        filled[name] = matrix
    if np.count_nonzero(~np.isnan(filled["close"])) != len(row):
        symbol, day = wanted.filter(wanted.select("symbol", "ts").is_duplicated()).sort("symbol", "ts").row(0)[:2]
        raise DataError(f"two bars for {symbol} on {day}; keep one row per symbol and ts")
    last = np.full(len(names), -1, np.int64)
    np.maximum.at(last, within, row)
    if len(days):
        last[column[stamps > days[-1]]] = len(days) - 1
    return Matrices(days, names, **filled, last=last)


def _made(name: str) -> pl.Expr:
    if name == "volume":
        return pl.lit(None, pl.Float64).alias(name)
    pair = (pl.col("open").cast(pl.Float64), pl.col("close").cast(pl.Float64))
    return (pl.max_horizontal(*pair) if name == "high" else pl.min_horizontal(*pair)).alias(name)
