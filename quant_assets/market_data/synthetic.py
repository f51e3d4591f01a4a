"""Seeded random bars of any number of symbols and sessions, for scale and for tests."""

import re
from collections.abc import Sequence
from datetime import date
from typing import ClassVar

import numpy as np
import polars as pl

from quant_assets.core.errors import ConfigError, PermanentProviderError
from quant_assets.core.settings import Settings
from quant_assets.market_data.provider import (
    Fetched,
    FetchRequest,
    Options,
    SymbolMatch,
    actions_frame,
    bars_frame,
    matching,
)

SEED = 20_000_301
_SYMBOL = re.compile(r"SYN(\d{4,9})")
_PAIR = re.compile(r"[A-Z0-9]+/[A-Z0-9]+")
_MAX_SEARCHED = 500


def synthetic_symbols(count: int) -> list[str]:
    """SYN0000, SYN0001, ... (`count` of them)."""
    return [f"SYN{number:04d}" for number in range(count)]


def synthetic_bars(symbols: Sequence[str], sessions: Sequence[date], seed: int = SEED) -> pl.DataFrame:
    """Raw bars of `symbols` on all `sessions`: geometric random walks with volume.

    A symbol's bars depend on its name, the seed and the first session only: not on the other symbols, nor on how many
    sessions follow.

    Returns:
        Columns symbol, ts, open, high, low, close, adjusted_close (= close), volume, source; sorted by symbol and ts
        in the order given. Prices have four decimals and lie above zero.

    Raises:
        PermanentProviderError: a symbol that is neither SYN and at least four digits nor a pair.
    """
    days, count = len(sessions), len(symbols)
    noise = np.empty((count, days, 4))
    level, spread, traded = np.empty((count, 1)), np.empty((count, 1)), np.empty((count, 1))
    for row, symbol in enumerate(symbols):
        generator = np.random.Generator(np.random.PCG64([seed, _number(symbol)]))
        level[row], spread[row], traded[row] = generator.uniform((20, 0.008, 12), (200, 0.022, 16))
        generator.standard_normal(out=noise[row])
    close = level * np.exp(np.cumsum(spread * noise[..., 0] + 0.0002, axis=1))
    open_ = np.concatenate([level, close[:, :-1]], axis=1) * np.exp(0.3 * spread * noise[..., 1])
    reach = np.exp(0.5 * spread * np.abs(noise[..., 2]))
    open_, close = (np.maximum(np.round(price, 4), 0.01) for price in (open_, close))
    high = np.round(np.maximum(open_, close) * reach, 4)
    low = np.maximum(np.round(np.minimum(open_, close) / reach, 4), 0.01)
    volume = np.round(np.exp(traded + 0.4 * noise[..., 3] + 0.3 * np.abs(noise[..., 0])))
    days_column = pl.Series(sessions, dtype=pl.Date)
    bars = pl.DataFrame(
        {
            "symbol": np.repeat(np.arange(count), days),
            "ts": days_column.gather(np.tile(np.arange(days), count)),
            "open": open_.ravel(),
            "high": high.ravel(),
            "low": low.ravel(),
            "close": close.ravel(),
            "adjusted_close": close.ravel(),
            "volume": volume.ravel(),
        }
    )
    names = pl.Series("symbol", list(symbols), dtype=pl.String)
    return bars.with_columns(names.gather(bars["symbol"]), source=pl.lit(SyntheticProvider.name))


class SyntheticProvider:
    """Symbols SYN0000 to SYN999999999, and pairs such as BTC/USDT, on the sessions it is given."""

    name: ClassVar[str] = "synthetic"
    gives_actions: ClassVar[bool] = False
    options: ClassVar[frozenset[str]] = frozenset({"seed"})

    def __init__(self, sessions: Sequence[date], seed: int = SEED) -> None:
        self._sessions = tuple(sessions)
        self._seed = seed

    @classmethod
    def create(cls, settings: Settings, sessions: Sequence[date], options: Options) -> "SyntheticProvider":
        seed = options.get("seed", SEED)
        if not isinstance(seed, int) or seed < 0:
            raise ConfigError(f"provider_options: seed is {seed!r}; give a whole number, 0 or above")
        return cls(sessions, seed)

    def fetch(self, request: FetchRequest, *, whole: bool = False) -> Fetched:
        """Bars on all the provider's sessions, whatever the dates asked for.

        Raises:
            PermanentProviderError: a symbol that is neither SYN and at least four digits nor a pair.
        """
        bars = synthetic_bars([request.symbol], self._sessions, self._seed)
        return Fetched(bars_frame(bars), actions_frame(), requests=0, complete=True, actions_complete=True)

    def search(self, words: str) -> list[SymbolMatch]:
        return matching(synthetic_symbols(_MAX_SEARCHED), words)


def _number(symbol: str) -> int:
    if found := _SYMBOL.fullmatch(symbol):
        return int(found[1])
    if _PAIR.fullmatch(symbol):
        return int.from_bytes(symbol.encode(), "big")
    raise PermanentProviderError(
        f"synthetic: {symbol}: no such symbol; use SYN and four digits, such as SYN0000, or a pair, such as BTC/USDT"
    )
