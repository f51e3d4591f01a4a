"""A loopback stand-in for a crypto exchange, which speaks Binance's public REST API over HTTP to whoever asks."""

import asyncio
import json
import threading
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from types import TracebackType
from typing import Any, NamedTuple

from aiohttp import web

from quant_assets_tests.standins import Reply

MOST_BARS = {"/api/v3": 1000, "/fapi/v1": 1500}
"""Root of the API of each kind of market (spot, perpetual futures) -> bars that one answer holds at most."""


@dataclass
class Candle:
    """One day's bar. Prices other than the close follow from it; numbers may be any text."""

    day: date
    close: float | str
    volume: float | str = 10.0


class Asked(NamedTuple):
    """One request."""

    path: str
    query: dict[str, str]
    headers: dict[str, str]


def candles(first: date, days: int, level: float = 100.0) -> list[Candle]:
    """A bar a day, each close 1 above the one before."""
    return [Candle(first + timedelta(n), level + n) for n in range(days)]


class Exchange:
    """The API over `bars` (`BTC/USDT` -> oldest first). Use as a context manager; `asked` records every request.

    Bars are given as they stand, an unfinished last one too. `replies` is a queue of answers to give instead of the
    true one, None meaning the true one.
    """

    def __init__(self, bars: dict[str, list[Candle]]) -> None:
        self.bars = bars
        self.replies: deque[Reply | None] = deque()
        self.asked: list[Asked] = []
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever)
        self._runner: web.AppRunner | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @property
    def paths(self) -> list[str]:
        """Last part of each path asked for, in order: exchangeInfo, klines."""
        return [one.path.rsplit("/", 1)[1] for one in self.asked]

    @property
    def limits(self) -> list[int]:
        """How many bars each request for bars asked for, in order."""
        return [int(one.query["limit"]) for one in self.asked if one.path.endswith("/klines")]

    def script(self, *replies: Reply | None) -> None:
        self.replies.extend(replies)

    def __enter__(self) -> "Exchange":
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(10)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.run_until_complete(self._loop.shutdown_default_executor())
        self._loop.close()

    async def _start(self) -> None:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        query = dict(request.query)
        self.asked.append(Asked(request.path, query, dict(request.headers)))
        reply = (self.replies.popleft() if self.replies else None) or self._true(request.path, query)
        if reply.wait_for is not None:
            await asyncio.to_thread(reply.wait_for.wait, 10)
        body = reply.body.encode()
        headers = {"Content-Type": "application/json;charset=UTF-8", "Content-Length": str(len(body)), **reply.headers}
        response = web.StreamResponse(status=reply.status, headers=headers)
        with suppress(ConnectionResetError):  # a client that gave up waiting
            await response.prepare(request)
            await response.write(body[: reply.cut])
        if reply.cut is not None and request.transport is not None:
            request.transport.abort()
        return response

    def _true(self, path: str, query: dict[str, str]) -> Reply:
        root, _, what = path.rpartition("/")
        if root in MOST_BARS and what == "klines":
            return self._klines(query, MOST_BARS[root])
        if root in MOST_BARS and what == "exchangeInfo":
            symbols = [self._symbol(symbol, swap=root == "/fapi/v1") for symbol in self.bars]
            return _json({"timezone": "UTC", "serverTime": _now(), "symbols": symbols})
        if root in MOST_BARS and what == "time":
            return _json({"serverTime": _now()})
        return _json({}) if what == "ping" else Reply("<html><h1>404 Not Found</h1></html>", status=404)

    def _klines(self, query: dict[str, str], most: int) -> Reply:
        bars = {symbol.replace("/", ""): bars for symbol, bars in self.bars.items()}.get(query.get("symbol", ""))
        if bars is None:
            return _json({"code": -1121, "msg": "Invalid symbol."}, status=400)
        if query.get("interval") != "1d":
            return _json({"code": -1120, "msg": "Invalid interval."}, status=400)
        limit = min(int(query.get("limit", 500)), most)
        low, high = int(query.get("startTime", 0)), int(query.get("endTime", 2**62))
        inside = [bar for bar in bars if low <= _instant(bar.day) <= high]
        return _json([_kline(bar) for bar in (inside[:limit] if "startTime" in query else inside[-limit:])])

    @staticmethod
    def _symbol(symbol: str, *, swap: bool) -> dict[str, Any]:
        base, quote = symbol.split("/")
        contract = {"contractType": "PERPETUAL", "marginAsset": quote, "pair": base + quote, "deliveryDate": 4e12}
        return {
            "symbol": base + quote,
            "status": "TRADING",
            "baseAsset": base,
            "quoteAsset": quote,
            "isSpotTradingAllowed": not swap,
            "permissions": [],
            "filters": [
                {"filterType": "PRICE_FILTER", "minPrice": "0.01", "maxPrice": "1000000", "tickSize": "0.01"},
                {"filterType": "LOT_SIZE", "minQty": "0.00001", "maxQty": "9000", "stepSize": "0.00001"},
            ],
            **(contract if swap else {}),
        }


def _kline(bar: Candle) -> list[Any]:
    opens, close = _instant(bar.day), bar.close
    high, low = (close, close) if isinstance(close, str) else (close + 1, close - 1)
    prices = [str(value) for value in (close, high, low, close, bar.volume)]
    return [opens, *prices, opens + 86_399_999, "0", 1, "0", "0", "0"]


def _json(value: Any, status: int = 200) -> Reply:
    return Reply(json.dumps(value), status=status)


def _instant(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp()) * 1000


def _now() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
