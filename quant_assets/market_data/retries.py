"""When a failed request is tried again, and after how long. Which failures these are is its client's affair."""

import random
import time
from collections.abc import Callable
from datetime import datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from quant_assets.core.errors import TransientProviderError

ATTEMPTS = 5
LONGEST_WAIT = 120.0
"""Seconds; where Retry-After asks for more, the request fails at once and says so."""

T = TypeVar("T")


class RetryableError(TransientProviderError):
    """A failure that another try may mend, `after` so many seconds where the server said so."""

    def __init__(self, message: str, *, after: float | None = None, rate_limit: bool = False) -> None:
        super().__init__(message)
        self.after = after
        self.rate_limit = rate_limit


def with_retries(once: Callable[[], T], sleep: Callable[[float], None] = time.sleep, attempts: int | None = None) -> T:
    """What `once` returns, called up to `attempts` times (five) where it raises RetryableError.

    Backoff doubles from 1 s (5 s after a rate limit), at most 60 s, with jitter; `after` wins.

    Raises:
        TransientProviderError: still a RetryableError after the last try, or `after` is more than two minutes.
    """
    retrying = Retrying(
        stop=stop_after_attempt(attempts or ATTEMPTS),
        wait=_wait,
        retry=retry_if_exception(_worth_waiting),
        sleep=sleep,
        reraise=True,
    )
    try:
        return retrying(once)
    except RetryableError as error:
        tries = retrying.statistics["attempt_number"]
        failure = TransientProviderError(f"{error} (tried {tries} time{'s'[: tries > 1]}); rerun later")
    raise failure


def http_failure(about: str, status: int, retry_after: str | None, now: datetime) -> RetryableError:
    """The error of an answer with status 418, 429 or 5xx, whose Retry-After header is `retry_after`."""
    after = seconds_to_wait(retry_after, now)
    told = "" if after is None else f", to be tried again in {after:.0f} s"
    return RetryableError(f"{about}: HTTP {status}{told}", after=after, rate_limit=status in (418, 429))


def seconds_to_wait(header: str | None, now: datetime) -> float | None:
    """Seconds that a Retry-After header asks for (RFC 9110, 10.2.3: delay in seconds or HTTP date); None if unreadable.

    Example:
        >>> from datetime import timezone
        >>> seconds_to_wait("Fri, 31 Dec 1999 23:59:59 GMT", datetime(1999, 12, 31, 23, 59, 49, tzinfo=timezone.utc))
        10.0
    """
    if not header:
        return None
    if header.strip().isdigit():
        return float(header)
    try:
        at = parsedate_to_datetime(header)
    except ValueError:
        return None
    return max((at.replace(tzinfo=at.tzinfo or now.tzinfo) - now).total_seconds(), 0.0)


def _wait(attempt: RetryCallState) -> float:
    error = attempt.outcome.exception() if attempt.outcome else None
    if isinstance(error, RetryableError) and error.after is not None:
        return error.after
    first = 5.0 if isinstance(error, RetryableError) and error.rate_limit else 1.0
    # half of it for certain, half of it by chance: never at once, never in step with other processes
    longest = min(first * 2 ** (attempt.attempt_number - 1), 60.0)
    return random.uniform(longest / 2, longest)


def _worth_waiting(error: BaseException) -> bool:
    return isinstance(error, RetryableError) and (error.after is None or error.after <= LONGEST_WAIT)
