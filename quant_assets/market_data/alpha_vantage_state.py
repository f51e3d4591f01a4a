"""What is remembered about an Alpha Vantage key between runs and processes: its plan and how much of it is used up.

One small JSON file under `QUANT_HOME`, changed under a file lock and swapped in whole. Keys are known by a hash only.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from zoneinfo import ZoneInfo

from filelock import FileLock, Timeout

from quant_assets.core.errors import ConfigError, PermanentProviderError, TransientProviderError

MARKET_TIME = ZoneInfo("America/New_York")
_WINDOW = timedelta(seconds=60)
_LOCK_SECONDS = 30.0
_T = TypeVar("_T")


def utc_now() -> datetime:
    return datetime.now(UTC)


class KeyState:
    """Plan and limits of one key at one base URL, shared by all processes that use the same file.

    The limiter allows `per_minute` requests in any 60 seconds and `per_day` in a day of New York time, where the
    provider's day ends. A request counts from before it is sent, so that a killed run cannot lose count.

    Raises (any method):
        ConfigError: the file cannot be written.
        TransientProviderError: another process holds the file's lock for more than 30 s.
    """

    def __init__(
        self,
        path: Path,
        key: str,
        url: str,
        per_minute: int,
        per_day: int,
        now: Callable[[], datetime] = utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._path = path
        self._id = hashlib.sha256(f"quant_assets\0{url}\0{key}".encode()).hexdigest()[:32]
        self._per_minute = per_minute
        self._per_day = per_day
        self._now = now
        self._sleep = sleep

    def plan(self) -> str | None:
        """'free', 'premium', or None while unknown."""
        plan = self._entry(self._read()).get("plan")
        return plan if plan in ("free", "premium") else None

    def remember_plan(self, plan: str) -> None:
        if self.plan() != plan:
            self._change(lambda entry: entry.update(plan=plan))

    def used_today(self) -> int:
        return _used(self._entry(self._read()), self._today())

    def take(self, what: str) -> None:
        """Count one request, waiting until the minute's allowance has room for it.

        Raises:
            PermanentProviderError: the day's requests are used up; says when they are there again. Does not wait.
        """
        while wait := self._change(lambda entry: self._reserve(entry, what)):
            self._sleep(wait)

    def resets(self) -> str:
        """When the day's allowance is there again."""
        midnight = datetime.combine(self._now().astimezone(MARKET_TIME).date() + timedelta(1), datetime.min.time())
        return f"{midnight:%Y-%m-%d %H:%M} New York time"

    def _reserve(self, entry: dict[str, Any], what: str) -> float:
        now, today = self._now().timestamp(), self._today()
        used = _used(entry, today)
        if used >= self._per_day:
            raise PermanentProviderError(
                f"alpha_vantage: {what}: all {self._per_day} requests of {today} are used up, more from "
                f"{self.resets()} on; rerun then, or raise QUANT_ALPHA_VANTAGE_PER_DAY if the key allows more"
            )
        window = _WINDOW.total_seconds()
        recent = sorted(
            at for at in entry.get("recent", []) if isinstance(at, int | float) and now - window < at <= now
        )
        if len(recent) >= self._per_minute:
            return max(recent[-self._per_minute] + window - now, 0.01)
        entry.update(day=today, used=used + 1, recent=[*recent, now])
        return 0.0

    def _today(self) -> str:
        return self._now().astimezone(MARKET_TIME).date().isoformat()

    def _entry(self, state: dict[str, Any]) -> dict[str, Any]:
        entry = state.setdefault(self._id, {})
        if not isinstance(entry, dict):
            entry = state[self._id] = {}
        return entry

    def _read(self) -> dict[str, Any]:
        """The file's content; a file that is missing or unreadable is forgotten, at the cost of asking again."""
        with suppress(OSError, ValueError):
            state = json.loads(self._path.read_text())
            if isinstance(state, dict):
                return state
        return {}

    def _change(self, change: Callable[[dict[str, Any]], _T]) -> _T:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with FileLock(self._path.with_suffix(".lock"), timeout=_LOCK_SECONDS):
                state = self._read()
                result = change(self._entry(state))
                part = self._path.with_suffix(f".{os.getpid()}.part")
                try:
                    part.write_text(json.dumps(state, indent=1, sort_keys=True))
                    part.replace(self._path)
                finally:
                    part.unlink(missing_ok=True)
        except Timeout:
            raise TransientProviderError(
                f"alpha_vantage: {self._path} is locked for more than {_LOCK_SECONDS:.0f} s by another process; rerun"
            ) from None
        except OSError as error:
            raise ConfigError(
                f"alpha_vantage: the request count in {self._path} cannot be written ({error.strerror}); "
                "make QUANT_HOME writable or free space there"
            ) from None
        return result


def _used(entry: dict[str, Any], today: str) -> int:
    used = entry.get("used")
    return used if entry.get("day") == today and isinstance(used, int) else 0
