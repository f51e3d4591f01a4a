"""HTTP to crypto exchanges through `ccxt`: daily bars and markets out, or a typed error. What they mean is not here.

TransientProviderError    429, 418, 5xx, timeout, connection error, truncated body; retried
PermanentProviderError    an unknown symbol, an exchange that does not serve us, anything else that is no data
"""

import time
from collections.abc import Callable, Mapping
from datetime import date, datetime
from difflib import get_close_matches
from typing import Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

from quant_assets.core.errors import ConfigError, PermanentProviderError, TransientProviderError
from quant_assets.core.settings import Settings
from quant_assets.market_data.retries import RetryableError, http_failure, with_retries

_MARKETS = {"spot": ("spot",), "swap": ("swap", "linear")}
"""Type of market -> names that exchanges give it where ccxt can be told which markets to load."""

_ELSEWHERE = "choose another exchange (provider_options.exchange in the universe file)"
_EPOCH = date(1970, 1, 1)
_DAY_MS = 86_400_000
_PAGE = 200
"""Bars to ask for at once where ccxt does not know how many the exchange gives."""
_MISSHAPEN = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)
"""What ccxt raises on JSON that is not of the shape it knows."""

T = TypeVar("T")


class _Answer(NamedTuple):
    status: int
    retry_after: str | None
    body: str


class _NotJsonError(Exception):
    """HTTP 200 with a body that is no JSON."""


class Client:
    """Public requests to one exchange, at its own pace, each tried up to five times.

    Once five tries have failed, the next request is tried once only, so that many symbols do not wait for an exchange
    that is down one after the other.

    Raises:
        ConfigError: an exchange that ccxt does not know or that gives no daily bars, a type of market other than spot
            and swap, or a QUANT_CCXT_URL that is none.
    """

    def __init__(
        self,
        exchange: str,
        market_type: str,
        settings: Settings,
        now: Callable[[], datetime],
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._id = exchange
        self._type = market_type
        self._timeout = settings.http_timeout_seconds
        self._now = now
        self._sleep = sleep
        self._exchange = _exchange(exchange, market_type, settings)
        self._markets: dict[str, Mapping[str, Any]] = {}
        self._is_down = False

    @property
    def requests(self) -> int:
        """HTTP requests made so far, failed ones included."""
        return int(self._exchange.requests)

    def about(self, what: str) -> str:
        """How a message about `what` begins."""
        return f"ccxt: {self._id}: {what}"

    def markets(self, what: str) -> Mapping[str, Mapping[str, Any]]:
        """`BASE/QUOTE` -> the market of the client's type as ccxt has it; `what` names symbol or words in messages."""
        if not self._markets:
            loaded = self._ask(what, self._exchange.load_markets).values()
            swap = self._type == "swap"
            self._markets = {
                f"{market['base']}/{market['quote']}": market
                for market in loaded
                if market[self._type] and not (swap and market["settle"] != market["quote"])
            }
            if not self._markets:
                raise PermanentProviderError(
                    f"{self.about(what)}: the exchange has no {self._type} markets; {_ELSEWHERE}"
                )
        return self._markets

    def page(self, symbol: str) -> int:
        """How many daily bars the exchange gives at once."""
        market = self._market(symbol)
        return int(self._exchange.feature_value(market["symbol"], "fetchOHLCV", "limit") or _PAGE)

    def daily_bars(self, symbol: str, since: date, limit: int) -> list[list[Any]]:
        """Up to `limit` daily bars from `since` on: [midnight UTC in Unix milliseconds, o, h, l, c, volume], sorted.

        Raises:
            TransientProviderError: still no answer after five tries, or Retry-After asks for more than two minutes.
            PermanentProviderError: an answer that no retry mends.
        """
        market = self._market(symbol)
        start = (since - _EPOCH).days * _DAY_MS
        bars = self._ask(symbol, lambda: self._exchange.fetch_ohlcv(market["symbol"], "1d", start, limit))
        if any(bar[0] % _DAY_MS for bar in bars):
            raise PermanentProviderError(
                f"{self.about(symbol)}: its daily bars do not begin at midnight UTC; {_ELSEWHERE}"
            )
        return [bar[:6] for bar in bars]

    def _market(self, symbol: str) -> Mapping[str, Any]:
        markets = self.markets(symbol)
        if symbol not in markets:
            near = get_close_matches(symbol, markets, 3)
            hint = f", but {', '.join(near)}" if near else ""
            raise PermanentProviderError(
                f"{self.about(symbol)}: the exchange has no such {self._type} market{hint}; "
                "correct the symbol (quant symbols search)"
            )
        return markets[symbol]

    def _ask(self, what: str, call: Callable[[], T]) -> T:
        attempts, self._is_down = 1 if self._is_down else None, False
        try:
            return with_retries(lambda: self._once(self.about(what), call), self._sleep, attempts)
        except TransientProviderError:
            self._is_down = True
            raise

    def _once(self, about: str, call: Callable[[], T]) -> T:
        import ccxt

        self._exchange.answer = None
        try:
            return call()
        except (ccxt.BaseError, _NotJsonError, *_MISSHAPEN) as error:
            failure = self._failure(about, error)
        raise failure

    def _failure(self, about: str, error: Exception) -> Exception:
        import ccxt
        from requests.exceptions import ChunkedEncodingError

        answer: _Answer | None = self._exchange.answer
        if answer is None:
            if isinstance(error, ccxt.RequestTimeout):
                return RetryableError(f"{about}: no answer within {self._timeout:g} s (QUANT_HTTP_TIMEOUT_SECONDS)")
            if isinstance(error.__cause__, ChunkedEncodingError):
                return RetryableError(f"{about}: the connection broke before the whole answer came")
            said = f"{about}: no answer: {_shown(_root(error))}"
            if isinstance(error, ccxt.NetworkError):
                return RetryableError(said)
            return PermanentProviderError(f"{said}; check the network and QUANT_CCXT_URL")
        if answer.status in (418, 429) or answer.status >= 500:
            return http_failure(about, answer.status, answer.retry_after, self._now())
        if isinstance(error, _NotJsonError):
            return _not_json(about, answer.body)
        said = f"{about}: HTTP {answer.status}: {_shown(answer.body)}"
        if answer.status in (401, 403, 451) or isinstance(error, ccxt.AuthenticationError):
            return PermanentProviderError(
                f"{said}; the exchange does not serve this address, or not without a key: {_ELSEWHERE}"
            )
        if isinstance(error, ccxt.BadSymbol):
            return PermanentProviderError(f"{said}; correct the symbol (quant symbols search)")
        limited = isinstance(error, ccxt.RateLimitExceeded | ccxt.DDoSProtection)
        if limited or (answer.status == 200 and isinstance(error, ccxt.OperationFailed)):
            return RetryableError(said, rate_limit=limited)
        return PermanentProviderError(f"{said}; ccxt cannot read this: check QUANT_CCXT_URL, or update ccxt")


def _exchange(name: str, market_type: str, settings: Settings) -> Any:
    """ccxt's exchange, which counts its `requests` and keeps the last one's `answer` (None: there was none)."""
    import ccxt

    if market_type not in _MARKETS:
        raise ConfigError(f"provider_options: market is {market_type!r}; use {' or '.join(_MARKETS)}")
    if name not in ccxt.exchanges:
        near = ", ".join(get_close_matches(name, ccxt.exchanges, 3)) or "binance, kraken, ..."
        raise ConfigError(f"provider_options: exchange {name!r} is unknown to ccxt; use one that it has: {near}")

    class Exchange(getattr(ccxt, name)):  # type: ignore[misc]
        requests = 0
        answer: _Answer | None = None

        def fetch(self, *args: Any, **named: Any) -> Any:
            self.requests += 1
            self.answer = None
            parsed = super().fetch(*args, **named)
            if isinstance(parsed, str):
                raise _NotJsonError
            return parsed

        def on_rest_response(
            self, code: int, reason: str, url: str, method: str, headers: Mapping[str, str], body: str, *sent: Any
        ) -> str:
            self.answer = _Answer(code, headers.get("Retry-After"), body)
            return str(super().on_rest_response(code, reason, url, method, headers, body, *sent))

    exchange = Exchange(
        {
            "enableRateLimit": True,
            "timeout": int(settings.http_timeout_seconds * 1000),
            "requests_trust_env": True,  # proxies and certificates, as for any other HTTP client
            "options": {"fetchMargins": False},
        }
    )
    if exchange.has["fetchOHLCV"] is not True or "1d" not in (exchange.timeframes or {}):
        raise ConfigError(f"provider_options: exchange {name!r} gives no daily bars; use another, such as binance")
    exchange.session.auth = lambda request: request  # else one is looked for in ~/.netrc
    exchange.has["fetchCurrencies"] = False
    kinds = exchange.options.get("fetchMarkets")
    if isinstance(kinds, dict) and isinstance(kinds.get("types"), list):
        kinds["types"] = [kind for kind in kinds["types"] if kind in _MARKETS[market_type]]
    if settings.ccxt_url is not None:
        exchange.urls["api"] = _rebased(exchange.urls["api"], settings.ccxt_url)
    return exchange


def _rebased(urls: Any, base: str) -> Any:
    """`urls` (a URL, or lists and dictionaries of them) with `base` in place of scheme and host, however deep.

    Raises:
        ConfigError: `base` is no http(s) URL.

    Example:
        >>> _rebased({"public": "https://api.example.com/v3"}, "http://127.0.0.1:8080/")
        {'public': 'http://127.0.0.1:8080/v3'}
    """
    if isinstance(urls, dict):
        return {name: _rebased(url, base) for name, url in urls.items()}
    if isinstance(urls, list):
        return [_rebased(url, base) for url in urls]
    parts = urlsplit(base)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise ConfigError(f"ccxt: QUANT_CCXT_URL cannot be used (got {base!r}); give an http(s) URL")
    return base.rstrip("/") + urlsplit(urls).path if isinstance(urls, str) else urls


def _not_json(about: str, body: str) -> Exception:
    text = body.strip()
    if not text or text[0] in "[{":
        return RetryableError(f"{about}: the body is cut off after {len(text)} characters")
    kind = "an HTML page instead of JSON" if text.startswith("<") else "not JSON"
    return PermanentProviderError(f"{about}: {kind}: {_shown(text)}; check QUANT_CCXT_URL")


def _root(error: BaseException) -> BaseException:
    inner = error.__cause__ or error.__context__
    return error if inner is None else _root(inner)


def _shown(value: object, limit: int = 200) -> str:
    text = " ".join(str(value).split())
    return text.rstrip(".") if len(text) <= limit else f"{text[:limit]}..."
