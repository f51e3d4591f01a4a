"""Python's garbage collector, out of the way where it would only look at objects that stay."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def collector_at_rest() -> Iterator[None]:
    """No search for garbage cycles inside.

    For work that makes many objects and no cycles, such as loading compiled code or replaying a history: each search
    looks at all that is loaded, and finds nothing.
    """
    collecting = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collecting:
            gc.enable()
