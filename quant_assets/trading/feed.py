"""Bars of the past, published one event at a time."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from quant_assets.core.errors import DataError
from quant_assets.core.matrices import Floats, Index, Matrices
from quant_assets.trading.bus import ReplayBus
from quant_assets.trading.component import Component, ReplayClock
from quant_assets.trading.events import Bar, Ended, Moment, Opening, Phase

CHUNK: Final = 256
"""Rows that are Python numbers at a time: many more are too many for the processor's cache."""

DAY = 86_400_000_000_000
"""Nanoseconds."""


@dataclass(frozen=True, eq=False)
class History:
    """Bars as matrices of shape (rows, symbols), NaN where a symbol has none.

    Raises:
        DataError: shapes that do not fit, or times that do not rise.
    """

    stamps: Index
    """(rows,): the time of each row, nanoseconds since 1970 UTC, rising."""
    symbols: tuple[str, ...]
    open: Floats
    high: Floats
    low: Floats
    close: Floats
    volume: Floats
    last: Index
    """(symbols,): row of the last bar; the last row where bars go on after it; -1 without bars."""

    def __post_init__(self) -> None:
        shape = (len(self.stamps), len(self.symbols))
        for name in ("open", "high", "low", "close", "volume"):
            if (found := getattr(self, name).shape) != shape:
                raise DataError(f"{name} has the shape {found}; {shape[0]} times and {shape[1]} symbols need {shape}")
        falls = np.flatnonzero(np.diff(self.stamps) <= 0)
        if len(falls):
            raise DataError(f"time {self.stamps[falls[0] + 1]} does not come after {self.stamps[falls[0]]}; sort rows")

    @classmethod
    def of_sessions(cls, panel: Matrices) -> "History":
        """Daily bars, each stamped 00:00 UTC of its session."""
        stamps = panel.days.astype("M8[ns]").astype(np.int64)
        return cls(
            stamps, panel.symbols, panel.open, panel.high, panel.low, panel.close, panel.volume, panel.last
        )  # fmt: skip


class HistoricalFeed(Component):
    """Publishes a history's events in the order of their times, and sets the clock.

    Each time has, of the phases asked for: Moment(NIGHT), an Ended for symbols whose last bar was the time before,
    the Openings, Moment(OPEN_STOPS), Moment(OPEN), the Bars, Moment(WITHIN), Moment(CLOSE). Openings are published only
    where a phase at the open is asked for. Of one time, events come by column.

    Args:
        history: what to publish.
        phases: moments to mark.
    """

    name = "feed"

    def __init__(self, bus: ReplayBus, clock: ReplayClock, history: History, phases: frozenset[Phase]) -> None:
        self._bus = bus
        self._clock = clock
        self._history = history
        self._phases = phases

    def replay(self) -> Iterator[int]:
        """Publish everything, each event when all that came of those before it is done.

        Yields:
            Rows done, after every `CHUNK` of them.
        """
        one = len(self._history.symbols) == 1 and self._phases == {Phase.CLOSE}
        return self._bars_of_one() if one else self._bars_of_many()

    def _bars_of_one(self) -> Iterator[int]:
        clock, next_seq = self._clock, self._bus.next_seq
        bar, moment, ended = (self._bus.entrance(kind) for kind in (Bar, Moment, Ended))
        (symbol,), close = self._history.symbols, int(Phase.CLOSE)
        ends = self._history.last[0] + 1
        row = -1
        for rows in self._chunks(0):
            for ts, opened, high, low, closed, volume in rows:
                row += 1
                clock.time = ts
                if opened == opened:
                    seq = next_seq()
                    bar(Bar(ts, seq, seq, 0, symbol, opened, high, low, closed, volume))
                elif row == ends and row:
                    seq = next_seq()
                    ended(Ended(ts, seq, seq, 0, symbol))
                seq = next_seq()
                moment(Moment(ts, seq, seq, 0, close, row))
            yield row + 1

    def _bars_of_many(self) -> Iterator[int]:
        clock, next_seq = self._clock, self._bus.next_seq
        bar, moment, opening, ended = (self._bus.entrance(kind) for kind in (Bar, Moment, Opening, Ended))
        symbols, phases = self._history.symbols, self._phases
        columns = range(len(symbols))
        last_ones = self._ended()

        before_open = [int(phase) for phase in (Phase.OPEN_STOPS, Phase.OPEN) if phase in phases]
        at_end = [int(phase) for phase in (Phase.WITHIN, Phase.CLOSE) if phase in phases]
        night = [int(Phase.NIGHT)] if Phase.NIGHT in phases else []

        def mark(wanted: list[int]) -> None:
            for phase in wanted:
                seq = next_seq()
                moment(Moment(ts, seq, seq, 0, phase, row))

        rows = (row for chunk in self._chunks(slice(None)) for row in chunk)
        for row, (ts, opens, highs, lows, closes, volumes) in enumerate(rows):
            clock.time = ts
            mark(night)
            for column in last_ones.get(row, ()):
                seq = next_seq()
                ended(Ended(ts, seq, seq, 0, symbols[column]))
            if before_open:
                for column in columns:
                    if opens[column] == opens[column]:
                        seq = next_seq()
                        opening(Opening(ts, seq, seq, 0, symbols[column], opens[column]))
            mark(before_open)
            for column in columns:
                opened = opens[column]
                if opened == opened:
                    seq = next_seq()
                    bar(
                        Bar(
                            ts, seq, seq, 0, symbols[column],
                            opened, highs[column], lows[column], closes[column], volumes[column],
                        )
                    )  # fmt: skip
            mark(at_end)
            if not (row + 1) % CHUNK:
                yield row + 1

    def _chunks(self, columns: int | slice) -> Iterator[Iterable[tuple[Any, ...]]]:
        """Times, opens, highs, lows, closes and volumes: numbers of one column, or lists of those of some."""
        history = self._history
        for first in range(0, len(history.stamps), CHUNK):
            part = slice(first, first + CHUNK)
            prices = (history.open, history.high, history.low, history.close, history.volume)
            yield zip(
                history.stamps[part].tolist(), *(values[part, columns].tolist() for values in prices), strict=True
            )

    def _ended(self) -> dict[int, list[int]]:
        """Row -> columns whose last bar was the row before."""
        found: dict[int, list[int]] = {}
        for column, last in enumerate(self._history.last.tolist()):
            if last >= 0:
                found.setdefault(last + 1, []).append(column)
        return found
