"""Bars as matrices, sessions x symbols: what signals, portfolio simulation and sweeps compute on."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quant_assets.core.errors import DataError

Floats = npt.NDArray[np.float64]
Index = npt.NDArray[np.int64]
Days = npt.NDArray[np.datetime64]

_PRICES = ("open", "high", "low", "close")
_COLUMNS = (*_PRICES, "volume")


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

    @cached_property
    def returns(self) -> Floats:
        """Simple return of each bar over the symbol's bar before it; NaN without either."""
        before = np.vstack([np.full((min(1, len(self.days)), len(self.symbols)), np.nan), self.marks[:-1]])
        return self.close / before - 1.0


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
    column = _codes(bars["symbol"], names)
    row = _rows(bars["ts"].cast(pl.Date), days)
    known = column >= 0
    columns = {name: bars[name].cast(pl.Float64) if name in bars.columns else _made(bars, name) for name in _COLUMNS}
    values = {name: one.fill_null(float("nan")).to_numpy() for name, one in columns.items()}
    for name in _PRICES:
        bad = known & ~((values[name] > 0) & (values[name] < np.inf))
        if bad.any():
            symbol, day, opened, closed = _first(bars, bad, "open", "close")
            raise DataError(f"{symbol} on {day} has open {opened} and close {closed}; prices must be positive numbers")
    inside = known & (row >= 0) & (row < len(days))
    within = row[inside] * len(names) + column[inside]
    if len(within) and np.bincount(within).max() > 1:
        doubled = inside & np.isin(row * len(names) + column, np.flatnonzero(np.bincount(within) > 1))
        symbol, day = _first(bars, doubled)
        raise DataError(f"two bars for {symbol} on {day}; keep one row per symbol and ts")
    filled = {}
    for name, cells in values.items():
        matrix = np.full(len(days) * len(names), np.nan)
        matrix[within] = cells[inside]
        filled[name] = matrix.reshape(len(days), len(names))
    last = np.full(len(names), -1, np.int64)
    np.maximum.at(last, column[inside], row[inside])
    if len(days):
        last[column[known & (row == len(days))]] = len(days) - 1
    return Matrices(days, names, **filled, last=last)


def _codes(symbols: pl.Series, names: Sequence[str]) -> Index:
    """The number of each bar's symbol among `names`; -1 for others. Bars of one symbol that follow each other cost one
    look."""
    runs = symbols.rle().struct.unnest()
    numbers = {name: number for number, name in enumerate(names)}
    codes = np.array([numbers.get(name, -1) for name in runs["value"].to_list()], np.int64)
    return np.repeat(codes, runs["len"].to_numpy())


def _rows(stamps: pl.Series, days: Days) -> Index:
    """The number of each date among `days`: -1 for dates that are none of them, len(days) for those after the last."""
    dates, wanted = stamps.to_physical().to_numpy().astype(np.int64), days.astype(np.int64)
    if not len(dates) or not len(days):
        return np.full(len(dates), -1, np.int64)
    numbers = np.full(wanted[-1] - wanted[0] + 1, -1, np.int64)
    numbers[wanted - wanted[0]] = np.arange(len(wanted))
    at = np.clip(dates - wanted[0], -1, len(numbers))
    return np.where(at < 0, -1, np.where(at == len(numbers), len(days), numbers[np.clip(at, 0, len(numbers) - 1)]))


def _first(bars: pl.DataFrame, bad: npt.NDArray[np.bool_], *columns: str) -> tuple[Any, ...]:
    """Symbol, date and columns of the first bad bar by symbol and date."""
    return (
        bars.filter(pl.Series(bad)).sort("symbol", "ts").select("symbol", pl.col("ts").cast(pl.Date), *columns).row(0)
    )


def _made(bars: pl.DataFrame, name: str) -> pl.Series:
    if name == "volume":
        return pl.Series(name, [None], dtype=pl.Float64).new_from_index(0, bars.height)
    pair = (pl.col("open").cast(pl.Float64), pl.col("close").cast(pl.Float64))
    return bars.select(pl.max_horizontal(*pair) if name == "high" else pl.min_horizontal(*pair)).to_series()
