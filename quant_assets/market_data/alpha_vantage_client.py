"""HTTP to the Alpha Vantage API: one request in, a JSON object or a typed error out. What the object means is not here.

    TransientProviderError          429, 5xx, timeout, connection error, truncated body, rate-limit body; retried
    PermanentProviderError          everything else that is no data; never retried
    └── PremiumEndpointError        the key's plan does not have this endpoint or parameter

The key goes into the URL at the last moment and is struck out of every log line and message.
"""

import json
import logging
import re
import ssl
import time
from collections.abc import Callable, Generator
from datetime import datetime
from functools import cache
from typing import Any

import httpx
from pydantic import SecretStr

from quant_assets.core.errors import ConfigError, PermanentProviderError
from quant_assets.market_data.alpha_vantage_state import KeyState, utc_now
from quant_assets.market_data.retries import RetryableError, http_failure, with_retries

_RATE = re.compile(r"rate limit|call frequency|requests? per|calls? per|sparingly", re.IGNORECASE)
_KEY_IN_TEXT = re.compile(r"(apikey=|api key as )[^&\s\"']+", re.IGNORECASE)


class PremiumEndpointError(PermanentProviderError):
    """The key's plan does not have this endpoint or parameter."""


class _Key(httpx.Auth):
    def __init__(self, key: SecretStr) -> None:
        self._key = key

    def auth_flow(self, request: httpx.Request) -> Generator[httpx.Request, httpx.Response, None]:
        request.url = request.url.copy_set_param("apikey", self._key.get_secret_value())
        yield request


class _Scrub(logging.Filter):
    def filter(self, record: logging.LogRecord) -> bool:
        record.msg, record.args = _KEY_IN_TEXT.sub(r"\1***", record.getMessage()), ()
        return True


_SCRUB = _Scrub()


class Client:
    """GET requests within `state`'s limits, each tried up to five times."""

    def __init__(
        self,
        key: SecretStr,
        url: str,
        timeout: float,
        state: KeyState,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._key = key
        self._url = url
        self._timeout = timeout
        self._state = state
        self._now = now
        self._sleep = sleep
        self.requests = 0
        # httpx logs whole URLs, and this one ends in the key
        logging.getLogger("httpx").addFilter(_SCRUB)

    def get(self, what: str, **params: str) -> dict[str, Any]:
        """The JSON object that answers `params`; `what` names symbol or words in messages.

        Raises:
            TransientProviderError: still no answer after five tries, or Retry-After asks for more than two minutes.
            PremiumEndpointError, PermanentProviderError: an answer that no retry mends.
            ConfigError: the base URL cannot be used.
        """
        return with_retries(lambda: self._once(what, params), self._sleep)

    def _once(self, what: str, params: dict[str, str]) -> dict[str, Any]:
        self._state.take(what)
        self.requests += 1
        about = f"alpha_vantage: {what}: {params['function']}"
        try:
            response = httpx.get(
                self._url, params=params, auth=_Key(self._key), timeout=self._timeout, verify=_trusted_roots()
            )
        except httpx.HTTPError as error:
            failure = self._not_answered(about, error)
        except httpx.InvalidURL as error:
            failure = ConfigError(self._bad_url(error))
        else:
            return self._read(about, response)
        raise failure

    def _not_answered(self, about: str, error: httpx.HTTPError) -> Exception:
        if isinstance(error, httpx.UnsupportedProtocol):
            return ConfigError(self._bad_url(error))
        if isinstance(error, httpx.TimeoutException):
            return RetryableError(f"{about}: no answer within {self._timeout:g} s (QUANT_HTTP_TIMEOUT_SECONDS)")
        if isinstance(error, httpx.RemoteProtocolError | httpx.ReadError | httpx.DecodingError):
            return RetryableError(f"{about}: the connection broke before the whole answer came")
        return RetryableError(f"{about}: {type(error).__name__}: {self.scrub(str(error))}")

    def _bad_url(self, error: Exception) -> str:
        return f"alpha_vantage: QUANT_ALPHA_VANTAGE_URL cannot be used ({self.scrub(str(error))}); give an http(s) URL"

    def _read(self, about: str, response: httpx.Response) -> dict[str, Any]:
        status = response.status_code
        if status == 429 or status >= 500:
            raise http_failure(about, status, response.headers.get("Retry-After"), self._now())
        if status in (401, 403):
            raise PermanentProviderError(f"{about}: HTTP {status}; check ALPHA_VANTAGE_API_KEY")
        if status != 200:
            raise PermanentProviderError(f"{about}: HTTP {status}; check QUANT_ALPHA_VANTAGE_URL")
        text = response.text.strip()
        if text.startswith("<"):
            raise PermanentProviderError(
                f"{about}: an HTML page instead of JSON: {self._shown(text)}; check QUANT_ALPHA_VANTAGE_URL"
            )
        try:
            answer = json.loads(text)
        except ValueError:
            if text and not text.startswith("{"):
                raise PermanentProviderError(
                    f"{about}: not JSON: {self._shown(text)}; check QUANT_ALPHA_VANTAGE_URL"
                ) from None
            raise RetryableError(f"{about}: the body is cut off after {len(text)} characters") from None
        if not isinstance(answer, dict):
            raise PermanentProviderError(
                f"{about}: a JSON object was due, not {self._shown(text)}; the API has changed"
            )
        self._refuse(about, answer)
        return answer

    def _refuse(self, about: str, answer: dict[str, Any]) -> None:
        """Raise for the errors that arrive with HTTP 200."""
        if not answer:
            raise PermanentProviderError(
                f"{about}: an empty answer; check that the symbol exists (quant symbols search)"
            )
        if "Error Message" in answer:
            said = self._shown(answer["Error Message"])
            remedy = (
                "check ALPHA_VANTAGE_API_KEY"
                if "apikey" in said.lower()
                else "check that the symbol exists (quant symbols search)"
            )
            raise PermanentProviderError(f"{about}: {said}; {remedy}")
        for field in ("Note", "Information"):
            if field not in answer:
                continue
            said = self._shown(answer[field])
            # the free plan's rate-limit text advertises the premium plans too: rate decides first
            if field == "Note" or _RATE.search(said):
                raise RetryableError(
                    f"{about}: rate limit: {said} (the day's requests come back at {self._state.resets()})",
                    rate_limit=True,
                )
            if "premium" in said.lower():
                raise PremiumEndpointError(f"{about}: {said}; use a premium key")
            raise PermanentProviderError(f"{about}: {said}; check ALPHA_VANTAGE_API_KEY")

    def scrub(self, text: str) -> str:
        """`text` without the key, in whatever form it appears."""
        return _KEY_IN_TEXT.sub(r"\1***", text).replace(self._key.get_secret_value(), "***")

    def _shown(self, value: object, limit: int = 200) -> str:
        text = self.scrub(" ".join(str(value).split()))
        return text.rstrip(".") if len(text) <= limit else f"{text[:limit]}..."


@cache
def _trusted_roots() -> ssl.SSLContext:
    return httpx.create_ssl_context()
