"""Exchange calendars: which days are sessions, and when they close.

Sessions come from `exchange_calendars`. Importing it takes half a second, so its answer is kept as a small text file
under `QUANT_HOME/calendars` and asked for again only when that file ends too soon. The calendar of markets that never
close, `24/7`, is made here.
"""

import os
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from functools import cache
from pathlib import Path
from zoneinfo import ZoneInfo

from quant_assets.core.errors import ConfigError
from quant_assets.core.settings import settings

FIRST_YEAR = 1998
EVERY_DAY = "24/7"
"""Name of the calendar on which every day is a session, from midnight to midnight UTC."""

_MIN_DAYS_AHEAD = 45
_DAYS_AHEAD = 365


@dataclass(frozen=True)
class TradingCalendar:
    """Sessions of one exchange, oldest first, with the hour at which a regular session closes.

    A close at midnight is the one that ends the session's day.

    Example:
        >>> cal = TradingCalendar("XNYS", "America/New_York", time(16), (date(2024, 1, 2), date(2024, 1, 3)))
        >>> cal.offset(date(2024, 1, 3), -1)
        datetime.date(2024, 1, 2)
    """

    name: str
    timezone: str
    close: time
    sessions: tuple[date, ...]

    @property
    def every_day(self) -> bool:
        """Whether every day is a session, so that no weekend and no holiday is left out."""
        return self.name == EVERY_DAY

    @property
    def sessions_per_year(self) -> int:
        """Sessions that a yearly figure counts: 365, or the 252 of an exchange that closes at weekends."""
        return 365 if self.every_day else 252

    def is_session(self, day: date) -> bool:
        at = bisect_left(self.sessions, day)
        return at < len(self.sessions) and self.sessions[at] == day

    def between(self, first: date, last: date) -> Sequence[date]:
        """Sessions from `first` to `last`, both inclusive."""
        return self.sessions[bisect_left(self.sessions, first) : bisect_right(self.sessions, last)]

    def snap(self, first: date, last: date) -> tuple[date, date]:
        """The first session on or after `first` and the last one on or before `last`.

        Raises:
            ConfigError: dates reversed, outside the calendar, or no session between them.
        """
        if first > last:
            raise ConfigError(f"dates reversed: from {first} is after to {last}; swap them")
        inside = self.between(first, last)
        if not inside:
            raise ConfigError(
                f"no {self.name} session between {first} and {last} "
                f"(calendar: {self.sessions[0]} to {self.sessions[-1]}); widen the range"
            )
        return inside[0], inside[-1]

    def offset(self, day: date, sessions: int) -> date:
        """The session so many after (negative: before) the last one on or before `day`, clipped to the calendar."""
        at = bisect_right(self.sessions, day) - 1 + sessions
        return self.sessions[min(max(at, 0), len(self.sessions) - 1)]

    def closes_at(self, session: date) -> datetime:
        """The aware instant of `session`'s regular close."""
        day = session if self.close > time.min else session + timedelta(1)
        return datetime.combine(day, self.close, ZoneInfo(self.timezone))

    def has_closed(self, session: date, now: datetime) -> bool:
        """Whether `session`'s regular close lies before the aware instant `now`."""
        return now >= self.closes_at(session)

    def last_closed(self, now: datetime) -> date:
        """The newest session that has closed at the aware instant `now`."""
        today = now.astimezone(ZoneInfo(self.timezone)).date()
        newest = self.offset(today, 0)
        return newest if self.has_closed(newest, now) else self.offset(newest, -1)

    def holidays(self) -> list[date]:
        """Mondays to Fridays inside the calendar that are no session."""
        known = set(self.sessions)
        span = (self.sessions[-1] - self.sessions[0]).days
        days = (self.sessions[0] + timedelta(n) for n in range(span + 1))
        return [day for day in days if day.weekday() < 5 and day not in known]


def window_start(day: date, grain: str) -> date:
    """The first day of the day, week (from Monday) or month that holds `day`."""
    if grain == "month":
        return day.replace(day=1)
    return day - timedelta(days=day.weekday()) if grain == "week" else day


@cache
def trading_calendar(name: str = "XNYS") -> TradingCalendar:
    """The calendar of exchange `name` (an ISO 10383 code, or `24/7`), from 1998 to about a year ahead.

    Raises:
        ConfigError: an exchange that `exchange_calendars` does not know.
    """
    if name == EVERY_DAY:
        return _every_day()
    path = settings().home / "calendars" / f"{name.replace('/', '-')}.txt"
    cached = _read(name, path)
    if cached is not None and cached.sessions[-1] >= date.today() + timedelta(_MIN_DAYS_AHEAD):
        return cached
    fresh = _build(name)
    _write(fresh, path)
    return fresh


def _every_day() -> TradingCalendar:
    last = datetime.now(UTC).date().toordinal() + _DAYS_AHEAD
    days = range(date(FIRST_YEAR, 1, 1).toordinal(), last + 1)
    return TradingCalendar(EVERY_DAY, "UTC", time.min, tuple(map(date.fromordinal, days)))


def _build(name: str) -> TradingCalendar:
    import exchange_calendars

    if name not in exchange_calendars.get_calendar_names():
        raise ConfigError(
            f"calendar {name!r} is unknown; use an ISO 10383 exchange code such as XNYS or XLON, "
            f"or {EVERY_DAY} for a market that never closes"
        )
    calendar = exchange_calendars.get_calendar(name, start=f"{FIRST_YEAR}-01-01")
    return TradingCalendar(
        name, str(calendar.tz), calendar.close_times[-1][1], tuple(stamp.date() for stamp in calendar.sessions)
    )


def _read(name: str, path: Path) -> TradingCalendar | None:
    try:
        head, first, *others = path.read_text().split()
        timezone, close = head.split("@")
        days = tuple(map(date.fromisoformat, (first, *others)))
        return TradingCalendar(name, timezone, time.fromisoformat(close), days)
    except (OSError, ValueError):
        return None


def _write(calendar: TradingCalendar, path: Path) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}")
        days = "\n".join(day.isoformat() for day in calendar.sessions)
        part.write_text(f"{calendar.timezone}@{calendar.close.isoformat()}\n{days}\n")
        part.replace(path)
    except OSError:
        return  # a read-only home costs the cache, nothing else
