"""Partitions: one calendar's dates, crossed with symbols (market stage) or with strategies (decision stage)."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from functools import cached_property
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.instance.types import DynamicPartitionsStore

from quant_assets.core.calendar import window_start
from quant_assets.core.slices import Slice
from quant_assets.strategy.markets import RANGE_END, RANGE_START, Layout

PARTITION = "dagster/partition"


class SessionDates(dg.TimeWindowPartitionsDefinition):
    """Time windows with hundreds of exclusions (holidays) that answer as fast as windows with none.

    The parent builds its text from every exclusion each time it is hashed, and searches them one by one; partition
    mappings do both thousands of times a run. Dagster stores and sends it as the parent it is.
    """

    @cached_property
    def _text(self) -> str:
        return super().__repr__()

    @cached_property
    def _hash(self) -> int:
        return hash(tuple(self._text))

    @cached_property
    def _excluded(self) -> frozenset[float]:
        return frozenset(one.timestamp for one in self.exclusions or () if not isinstance(one, str))

    def __repr__(self) -> str:
        return self._text

    def __hash__(self) -> int:
        return self._hash

    def is_window_start_excluded(self, window_start: datetime) -> bool:
        return window_start.timestamp() in self._excluded


class Cells(dg.MultiPartitionsDefinition):
    """Dates crossed with names, whose keys are made once.

    Dagster asks for all of them in every step of checks, and for those of a range with every cell's metadata. It stores
    and sends it as the parent it is.
    """

    _all: tuple[str | None, Sequence[dg.MultiPartitionKey]] | None = None
    _of_range: tuple[dg.PartitionKeyRange, Sequence[str]] | None = None

    def get_partition_keys(
        self,
        current_time: datetime | None = None,
        dynamic_partitions_store: DynamicPartitionsStore | None = None,
    ) -> Sequence[dg.MultiPartitionKey]:
        if current_time is not None:
            return super().get_partition_keys(current_time, dynamic_partitions_store)
        newest = self.time_window_partitions_def.get_last_partition_key()
        if self._all is None or self._all[0] != newest:
            self._all = newest, super().get_partition_keys(None, dynamic_partitions_store)
        return self._all[1]

    def get_partition_keys_in_range(  # type: ignore[override]  # as the parent has it
        self,
        partition_key_range: dg.PartitionKeyRange,
        dynamic_partitions_store: DynamicPartitionsStore | None = None,
    ) -> Sequence[str]:
        if self._of_range is None or self._of_range[0] != partition_key_range:
            found = super().get_partition_keys_in_range(partition_key_range, dynamic_partitions_store)
            self._of_range = partition_key_range, found
        return self._of_range[1]


@dataclass(frozen=True)
class Grid(Layout):
    """The partitions that one market universe and the strategies on it span.

    The date dimension holds the calendar's sessions at the universe's grain (`day`, `week`, `month`); a key is the
    first day of its window. With a universe of no end it grows by itself, today's session included.
    """

    def key(self, asset: str) -> dg.AssetKey:
        """The key of this market's `asset`."""
        return dg.AssetKey(self.path(asset))

    @cached_property
    def dates(self) -> SessionDates:
        every_day, start, end = self.calendar.every_day, self.universe.start, self.universe.end
        days = "*" if every_day else "1-5"
        cron = {"day": f"0 0 * * {days}", "week": "0 0 * * 1", "month": "0 0 1 * *"}[self.universe.grain]
        first = next(iter(self.calendar.between(start, date.max)), start)
        exclusions = None
        if self.universe.grain == "day" and not every_day:
            closed = (day for day in self.calendar.holidays() if start <= day <= (end or date.max))
            exclusions = [datetime.combine(day, time()) for day in closed]
        return SessionDates(
            start=window_start(first, self.universe.grain).isoformat(),
            end=_next_window(end, self.universe.grain, every_day).isoformat() if end else None,
            fmt="%Y-%m-%d",
            cron_schedule=cron,
            timezone=self.calendar.timezone,
            end_offset=0 if end else 1,
            exclusions=exclusions,
        )

    @cached_property
    def market(self) -> dg.MultiPartitionsDefinition:
        """date x symbol."""
        return Cells({"date": self.dates, "symbol": dg.StaticPartitionsDefinition(list(self.universe.names))})

    @cached_property
    def decision(self) -> dg.MultiPartitionsDefinition:
        """date x strategy."""
        return Cells({"date": self.dates, "strategy": dg.StaticPartitionsDefinition(list(self.strategies))})

    @property
    def last_session(self) -> date:
        """The newest session that has a partition and has begun: on a holiday Dagster has the next one's already."""
        newest = self.window(self.dates.get_last_partition_key() or self.date_key(self.universe.start))[1]
        return self.calendar.offset(min(newest, self.universe.end or _today(self.calendar.timezone)), 0)

    def last_closed(self, now: datetime) -> date:
        """The newest session that has a partition and has closed at the aware instant `now`: its bar is final."""
        return min(self.last_session, self.calendar.last_closed(now))

    def window(self, key: str) -> tuple[date, date]:
        """First and last session of the date partition `key`."""
        if self.universe.grain == "day":
            day = date.fromisoformat(key)
            return day, day
        span = self.dates.time_window_for_partition_key(key)
        sessions = self.calendar.between(span.start.date(), span.end.date() - timedelta(days=1))
        return sessions[0], sessions[-1]

    def date_keys(self, first: date, last: date) -> Sequence[str]:
        """The date partitions from the one that holds `first` to the one that holds `last`."""
        if self.universe.grain == "day":
            return [day.isoformat() for day in self.calendar.between(first, last)]
        return self.dates.get_partition_keys_in_range(dg.PartitionKeyRange(self.date_key(first), self.date_key(last)))

    def slice_of(self, keys: dg.PartitionKeyRange) -> Slice:
        """The slice between two `date|symbol` or `date|strategy` keys: all dates between by all keys between."""
        first, low = keys.start.split("|", 1)
        last, high = keys.end.split("|", 1)
        names = self.universe.names if low in self.universe.names else self.strategies
        end = self.window(last)[1]
        if self.universe.grain != "day":
            end = min(end, self.last_session)  # the rest of the newest window is yet to come
        return Slice(self.window(first)[0], end, names[names.index(low) : names.index(high) + 1])

    def slice_of_tags(self, tags: dict[str, str]) -> Slice | None:
        """The slice of a run by its tags; None for a run without partitions."""
        if RANGE_START in tags:
            return self.slice_of(dg.PartitionKeyRange(tags[RANGE_START], tags[RANGE_END]))
        if PARTITION in tags:
            return self.slice_of(dg.PartitionKeyRange(tags[PARTITION], tags[PARTITION]))
        return None


def _today(timezone: str) -> date:
    return datetime.now(ZoneInfo(timezone)).date()


def _next_window(day: date, grain: str, every_day: bool) -> date:
    """The first day of the date partition after the one that holds `day`."""
    if grain == "month":
        return (day.replace(day=1) + timedelta(days=32)).replace(day=1)
    if grain == "week":
        return day + timedelta(days=7 - day.weekday())
    return day + timedelta(days=7 - day.weekday() if day.weekday() >= 4 and not every_day else 1)
