"""Daily bars of crypto exchanges: which days to ask for, and what the answers mean. Public data: no key is read.

A bar is a day from midnight to midnight UTC. The day that is not over has none, and a day without trading neither.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any, ClassVar

import polars as pl

from quant_assets.core.errors import TransientProviderError
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

FIRST_DAY = date(2009, 1, 3)
"""Bitcoin's first block: no bar is older."""

_DAY = timedelta(1)
_COLUMNS = {"ts": pl.Int64} | dict.fromkeys(("open", "high", "low", "close", "volume"), pl.Float64)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class CcxtProvider:
    """Bars of one exchange, options `exchange` (binance) and `market` (spot). `now` and `sleep` are there for tests.

    A symbol is base and quote, such as BTC/USDT: of the spot market, or (`market: swap`) the perpetual future that
    settles in the quote currency. Prices are as traded; there are no corporate actions and no adjusted close.

    Raises:
        ConfigError: an unknown exchange or type of market, or a QUANT_CCXT_URL that is none.
    """

    name: ClassVar[str] = "ccxt"
    gives_actions: ClassVar[bool] = False
    options: ClassVar[frozenset[str]] = frozenset({"exchange", "market"})

    def __init__(
        self,
        settings: Settings,
        exchange: str = "binance",
        market: str = "spot",
        now: Callable[[], datetime] = _utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        from quant_assets.market_data.ccxt_client import Client

        self._client = Client(exchange, market, settings, now, sleep)
        self._now = now

    @classmethod
    def create(cls, settings: Settings, sessions: Sequence[date], options: Options) -> "CcxtProvider":
        return cls(settings, str(options.get("exchange", "binance")), str(options.get("market", "spot")))

    def fetch(self, request: FetchRequest, *, whole: bool = False) -> Fetched:
        """Bars of the days of `request` that are over, or (`whole`) of all days that are.

        One HTTP request for as many days as the exchange gives at once, and before the first one another for its
        markets.

        Raises:
            TransientProviderError: no answer in spite of retries, or bars held back.
            PermanentProviderError: an unknown symbol, an exchange that does not serve us, an answer that is no data.
        """
        before = self._client.requests
        over = self._now().astimezone(UTC).date() - _DAY
        first, last = (FIRST_DAY, over) if whole else (request.first, min(request.last, over))
        bars = self._bars(request.symbol, first, last)
        return Fetched(bars, actions_frame(), self._client.requests - before, complete=whole, actions_complete=True)

    def search(self, words: str) -> list[SymbolMatch]:
        """The exchange's markets whose symbol has `words` in it: those that begin with it first, then shorter ones.

        Raises:
            TransientProviderError, PermanentProviderError: as for `fetch`.
        """
        markets = self._client.markets(words)
        active = [symbol for symbol, market in markets.items() if market["active"] is not False]
        hits = sorted(
            matching(active, words),
            key=lambda hit: (not hit.symbol.startswith(words.strip().upper()), -hit.score, hit.symbol),
        )
        return [replace(hit, kind=markets[hit.symbol]["type"], currency=markets[hit.symbol]["quote"]) for hit in hits]

    def _bars(self, symbol: str, first: date, last: date) -> pl.DataFrame:
        """Bars from `first` to `last`, page by page.

        Some exchanges answer with the first bars from a day on, others with those of the days asked for, which are none
        before the listing: an empty page is stepped over.
        """
        pages = [_frame([])]
        since, empty_from = first, None
        while since <= last:
            days = min(self._client.page(symbol), (last - since).days + 1)
            page = _frame(self._client.daily_bars(symbol, since, days)).filter(pl.col("ts").is_between(since, last))
            if page.is_empty():
                since, empty_from = since + days * _DAY, empty_from or since
                continue
            if empty_from is not None and page["ts"][0] == since:
                raise TransientProviderError(
                    f"{self._client.about(symbol)}: no bar from {empty_from} to {since - _DAY}, but from {since} on; "
                    "rerun later, or set its from in the universe file if it was listed on that day"
                )
            pages.append(page)
            since, empty_from = page["ts"][-1] + _DAY, None
        return pl.concat(pages)


def _frame(bars: list[list[Any]]) -> pl.DataFrame:
    frame = pl.DataFrame(bars, schema=_COLUMNS, orient="row", strict=False)
    return bars_frame(frame.with_columns(pl.from_epoch("ts", "ms"), adjusted_close=pl.lit(None)))
