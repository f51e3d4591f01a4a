"""Stored bars as the layers above want them: adjusted, with the history that a slice's computation looks back on."""

from collections.abc import Sequence
from datetime import date, timedelta

import polars as pl

from quant_assets.contracts.order import in_order
from quant_assets.core.calendar import TradingCalendar
from quant_assets.market_data.adjustment import adjust
from quant_assets.market_data.provider import sources_giving_actions
from quant_assets.warehouse import Reader, Warehouse

_SLACK = 5
"""Sessions read beyond the lookback, so that a few missing bars do not cost a second query."""


def adjusted_bars(
    warehouse: Warehouse,
    symbols: Sequence[str],
    first: date,
    last: date,
    *,
    calendar: TradingCalendar,
    lookback: int = 0,
) -> pl.DataFrame:
    """Adjusted bars from `lookback` of each symbol's own sessions before `first`, or from its first bar, up to `last`.

    Returns:
        Columns symbol, ts, open, high, low, close, volume; sorted by symbol and ts.
    """
    start = calendar.offset(first, -(lookback + lookback // 20 + _SLACK)) if lookback else first
    with warehouse.read() as reader:
        bars = _raw(reader, symbols, start, last)
        short = _short_of(bars, symbols, first, lookback) if lookback else []
        if short:
            bars = pl.concat([bars, _raw(reader, short, date.min, start - timedelta(1))])
        actions = reader.query(
            "SELECT symbol, ex_date, kind, value FROM corporate_actions "
            "WHERE symbol IN (SELECT unnest(?)) AND ex_date <= ?",
            [list(symbols), last],
        )
    by_name = pl.col("symbol").cast(pl.Enum(sorted(symbols)))  # numbers sort faster than texts
    bars = bars.sort(by_name if in_order(bars, ["ts"]) else [by_name, pl.col("ts")], maintain_order=True)
    return adjust(bars, actions, sources_giving_actions())


def _raw(reader: Reader, symbols: Sequence[str], first: date, last: date) -> pl.DataFrame:
    return reader.query(
        "SELECT symbol, ts, open, high, low, close, adjusted_close, volume, source FROM ohlcv "
        "WHERE ts BETWEEN ? AND ? AND symbol IN (SELECT unnest(?))",
        [first, last, list(symbols)],
    )


def _short_of(bars: pl.DataFrame, symbols: Sequence[str], first: date, lookback: int) -> list[str]:
    before = dict(bars.filter(pl.col("ts") < first).group_by("symbol").len().iter_rows())
    return [symbol for symbol in symbols if before.get(symbol, 0) < lookback]
