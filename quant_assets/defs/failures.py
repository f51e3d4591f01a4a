"""How our errors reach Dagster: what a retry can mend is retried, everything else fails at once with its one line."""

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from quant_assets.core.errors import QuantError

MAX_RETRIES = 3
SECONDS_BETWEEN = 5.0


@contextmanager
def failing_clearly() -> Iterator[None]:
    """Turn a `QuantError` into `RetryRequested` (transient) or `Failure(allow_retries=False)` (anything else)."""
    try:
        yield
    except QuantError as error:
        if error.transient:
            raise dg.RetryRequested(max_retries=MAX_RETRIES, seconds_to_wait=SECONDS_BETWEEN) from error
        raise dg.Failure(description=str(error), allow_retries=False) from error
