"""Progress lines: into the run's log, and to whoever watches this process (the command line)."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import dagster as dg

Report = Callable[[str], None]
_listeners: list[Report] = []


@contextmanager
def listening(listener: Report) -> Iterator[None]:
    """Call `listener` with every progress line of this process while the block runs."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def reporter(context: dg.AssetExecutionContext) -> Report:
    """A function that logs a line to the run and tells the listeners."""

    def report(line: str) -> None:
        context.log.info(line)
        for listener in _listeners:
            listener(line)

    return report
