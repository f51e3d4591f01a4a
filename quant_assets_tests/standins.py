"""Loopback servers that stand in for the outside world in tests. Each listens on a free port of 127.0.0.1."""

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import parse_qsl, urlsplit

PREMIUM = (
    "Thank you for using Alpha Vantage! This is a premium endpoint. You may subscribe to any of the premium plans to "
    "instantly unlock all premium endpoints"
)
RATE_LIMIT = (
    "We have detected your API key as {key} and our standard API rate limit is 25 requests per day. Please subscribe "
    "to any of the premium plans to instantly remove all daily rate limits."
)
INVALID = "Invalid API call. Please retry or visit the documentation."


@dataclass(frozen=True)
class Reply:
    """One HTTP answer; `cut` closes the connection after that many bytes, `wait_for` holds the answer back."""

    body: str
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    cut: int | None = None
    wait_for: threading.Event | None = None


@dataclass
class Bar:
    """One raw bar as the API gives it; numbers may be any text."""

    ts: str
    close: float | str
    adjusted: float | str | None = None
    volume: float | str = 1000
    dividend: float | str = 0.0
    split: float | str = 1.0


class AlphaVantage:
    """The API over `bars` (symbol -> oldest first). Use as a context manager; `queries` records what was asked.

    `replies` is a queue of answers to give instead of the true one, None meaning the true one.
    """

    def __init__(self, bars: dict[str, list[Bar]], *, premium: bool = True) -> None:
        self.bars = bars
        self.premium = premium
        self.replies: deque[Reply | None] = deque()
        self.queries: list[dict[str, str]] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                query = dict(parse_qsl(urlsplit(self.path).query))
                stand_in.queries.append(query)
                scripted = stand_in.replies.popleft() if stand_in.replies else None
                reply = scripted or Reply(json.dumps(stand_in.answer(query)))
                if reply.wait_for is not None:
                    reply.wait_for.wait(10)
                body = reply.body.encode()
                self.send_response(reply.status)
                for name, value in {"Content-Type": "application/json", **reply.headers}.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(body)))
                self.send_header("Connection", "close")
                self.end_headers()
                self.wfile.write(body[: reply.cut])
                self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                pass  # a client that gave up waiting

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_port}/query"

    @property
    def asked(self) -> list[str]:
        """Functions asked for, in order, with the output size where there was one."""
        return [" ".join(filter(None, (query["function"], query.get("outputsize")))) for query in self.queries]

    def script(self, *replies: Reply | None) -> None:
        self.replies.extend(replies)

    def answer(self, query: dict[str, str]) -> dict[str, Any]:
        function, symbol = query["function"], query.get("symbol", "")
        if not query.get("apikey"):
            return {"Error Message": "the parameter apikey is invalid or missing."}
        if function == "SYMBOL_SEARCH":
            return {"bestMatches": [self._match(one, query["keywords"]) for one in self.bars]}
        if symbol not in self.bars:
            return {"Error Message": INVALID}
        bars = self.bars[symbol]
        if function == "SPLITS":
            return self._actions(symbol, ("effective_date", "split_factor"), lambda bar: bar.split, 1.0)
        if function == "DIVIDENDS":
            return self._actions(symbol, ("ex_dividend_date", "amount"), lambda bar: bar.dividend, 0.0)
        full = query["outputsize"] == "full"
        adjusted = function == "TIME_SERIES_DAILY_ADJUSTED"
        if not self.premium and (adjusted or full):
            return {"Information": PREMIUM}
        chosen: Iterable[Bar] = reversed(bars if full else bars[-100:])
        return {
            "Meta Data": {"2. Symbol": symbol},
            "Time Series (Daily)": {bar.ts: self._fields(bar, adjusted) for bar in chosen},
        }

    def _actions(
        self, symbol: str, names: tuple[str, str], value: Callable[[Bar], float | str], none: float
    ) -> dict[str, Any]:
        rows = [bar for bar in reversed(self.bars[symbol]) if value(bar) != none]
        return {"symbol": symbol, "data": [{names[0]: bar.ts, names[1]: str(value(bar))} for bar in rows]}

    @staticmethod
    def _fields(bar: Bar, adjusted: bool) -> dict[str, str]:
        prices = {f"{n}. {name}": str(bar.close) for n, name in enumerate(("open", "high", "low", "close"), 1)}
        if not adjusted:
            return prices | {"5. volume": str(bar.volume)}
        return prices | {
            "5. adjusted close": str(bar.close if bar.adjusted is None else bar.adjusted),
            "6. volume": str(bar.volume),
            "7. dividend amount": str(bar.dividend),
            "8. split coefficient": str(bar.split),
        }

    @staticmethod
    def _match(symbol: str, words: str) -> dict[str, str]:
        return {
            "1. symbol": symbol,
            "2. name": f"{symbol} Inc",
            "3. type": "Equity",
            "4. region": "United States",
            "8. currency": "USD",
            "9. matchScore": "1.0000" if symbol == words else "0.2500",
        }

    def __enter__(self) -> "AlphaVantage":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
