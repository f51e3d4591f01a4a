"""Daily bars, splits and dividends from the Alpha Vantage API: which endpoint to ask, and what its answer means.

A premium key gets everything from TIME_SERIES_DAILY_ADJUSTED. A free key is told that this is a premium endpoint; it
gets the last 100 bars from TIME_SERIES_DAILY, and SPLITS and DIVIDENDS. Which of the two a key is, is found out once
and remembered. HTTP and retries are `alpha_vantage_client`'s affair, limits and memory `alpha_vantage_state`'s.
"""

import time
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar

import polars as pl

from quant_assets.core.errors import ConfigError, PermanentProviderError
from quant_assets.core.settings import Settings
from quant_assets.market_data.provider import Fetched, FetchRequest, Options, SymbolMatch, actions_frame, bars_frame

if TYPE_CHECKING:
    from quant_assets.market_data.alpha_vantage_client import Client
    from quant_assets.market_data.alpha_vantage_state import KeyState

COMPACT_BARS = 100
"""Bars in an answer with outputsize=compact."""

STATE_FILE = "alpha_vantage.json"
_SERIES = "Time Series (Daily)"


def _utc_now() -> datetime:
    return datetime.now(UTC)


class AlphaVantageProvider:
    """Raw bars and corporate actions of one key. `now` and `sleep` are there for tests.

    Raises:
        ConfigError: ALPHA_VANTAGE_API_KEY is not set.
    """

    name: ClassVar[str] = "alpha_vantage"
    gives_actions: ClassVar[bool] = True
    options: ClassVar[frozenset[str]] = frozenset()

    def __init__(
        self,
        settings: Settings,
        sessions: Sequence[date],
        now: Callable[[], datetime] = _utc_now,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        key = settings.alpha_vantage_api_key
        if key is None or not key.get_secret_value().strip():
            raise ConfigError("alpha_vantage: ALPHA_VANTAGE_API_KEY is not set; put it into the environment or .env")
        self._settings = settings
        self._sessions = tuple(sessions)
        self._now = now
        self._sleep = sleep
        self._looked_for_upgrade = False

    @classmethod
    def create(cls, settings: Settings, sessions: Sequence[date], options: Options) -> "AlphaVantageProvider":
        return cls(settings, sessions)

    def fetch(self, request: FetchRequest, *, whole: bool = False) -> Fetched:
        """Bars and actions that cover `request`; with `whole`, or where 100 bars are not enough, all there are.

        One request with a premium key (two where 100 bars prove too few), three with a free one, and one more the
        first time to learn which it is.

        Raises:
            TransientProviderError: no answer in spite of retries.
            PermanentProviderError: unknown symbol, bad key, the day's requests used up, or a free key and bars wanted
                that are older than the last 100.
        """
        from quant_assets.market_data.alpha_vantage_client import PremiumEndpointError

        before = self._client.requests
        bars = None
        if self._state.plan() != "free":
            try:
                bars = self._premium_bars(request, whole)
            except PremiumEndpointError:
                self._state.remember_plan("free")
                self._looked_for_upgrade = True
        if bars is not None:
            return self._answer(request, bars, _actions_in(bars), before, actions_complete=False)
        bars = self._free_bars(request, whole)
        if "adjusted_close" in bars.columns:
            return self._answer(request, bars, _actions_in(bars), before, actions_complete=False)
        actions = [
            _actions(
                self._client.get(request.symbol, function=function, symbol=request.symbol), request.symbol, *columns
            )
            for function, *columns in (
                ("SPLITS", "split", "effective_date", "split_factor"),
                ("DIVIDENDS", "dividend", "ex_dividend_date", "amount"),
            )
        ]
        return self._answer(request, bars, pl.concat(actions), before, actions_complete=True)

    def search(self, words: str) -> list[SymbolMatch]:
        """SYMBOL_SEARCH's matches, best first.

        Raises:
            TransientProviderError, PermanentProviderError: as for `fetch`.
        """
        answer = self._client.get(words, function="SYMBOL_SEARCH", keywords=words)
        matches = [_match(entry) for entry in answer.get("bestMatches", []) if isinstance(entry, dict)]
        return sorted(matches, key=lambda match: (-match.score, match.symbol))

    def __repr__(self) -> str:
        return f"AlphaVantageProvider({self._settings.alpha_vantage_url!r})"

    @cached_property
    def _state(self) -> "KeyState":
        from quant_assets.market_data.alpha_vantage_state import KeyState

        settings = self._settings
        assert settings.alpha_vantage_api_key is not None
        return KeyState(
            settings.home / STATE_FILE,
            settings.alpha_vantage_api_key.get_secret_value(),
            settings.alpha_vantage_url,
            settings.alpha_vantage_per_minute,
            settings.alpha_vantage_per_day,
            self._now,
            self._sleep,
        )

    @cached_property
    def _client(self) -> "Client":
        from quant_assets.market_data.alpha_vantage_client import Client

        settings = self._settings
        assert settings.alpha_vantage_api_key is not None
        return Client(
            settings.alpha_vantage_api_key,
            settings.alpha_vantage_url,
            settings.http_timeout_seconds,
            self._state,
            self._now,
            self._sleep,
        )

    def _premium_bars(self, request: FetchRequest, whole: bool) -> pl.DataFrame:
        size = "full" if whole or self._sessions_since(request.first) > COMPACT_BARS else "compact"
        bars = self._series(request.symbol, "TIME_SERIES_DAILY_ADJUSTED", size)
        self._state.remember_plan("premium")
        if size == "compact" and not self._reaches(bars, request.first):
            bars = self._series(request.symbol, "TIME_SERIES_DAILY_ADJUSTED", "full")
        return bars

    def _free_bars(self, request: FetchRequest, whole: bool) -> pl.DataFrame:
        """The last 100 bars, if they are enough; a key found to have been upgraded gets the premium series instead."""
        from quant_assets.market_data.alpha_vantage_client import PremiumEndpointError

        bars = self._series(request.symbol, "TIME_SERIES_DAILY", "compact")
        needed = max(request.first, request.stored_last or request.first)
        if len(bars) < COMPACT_BARS or (not whole and self._reaches(bars, needed)):
            return bars
        if not self._looked_for_upgrade:
            self._looked_for_upgrade = True
            try:
                upgraded = self._series(request.symbol, "TIME_SERIES_DAILY_ADJUSTED", "full")
            except PremiumEndpointError:
                pass
            else:
                self._state.remember_plan("premium")
                return upgraded
        oldest = bars["ts"][0]
        wanted = "the whole history (what is stored has been restated or comes from elsewhere)"
        if not whole:
            wanted = f"bars from {needed} on"
        raise PermanentProviderError(
            f"alpha_vantage: {request.symbol}: a free key reaches back {COMPACT_BARS} bars, to {oldest}, and {wanted} "
            f"are needed; use a premium key, or ask for {oldest} and later only"
        )

    def _series(self, symbol: str, function: str, size: str) -> pl.DataFrame:
        answer = self._client.get(symbol, function=function, symbol=symbol, outputsize=size, datatype="json")
        series = answer.get(_SERIES)
        if not isinstance(series, dict) or not series:
            raise PermanentProviderError(
                f"alpha_vantage: {symbol}: {function}: no {_SERIES!r} in the answer, which has {', '.join(answer)}; "
                "check that the symbol exists (quant symbols search)"
            )
        return _bars(symbol, function, series)

    def _answer(
        self, request: FetchRequest, bars: pl.DataFrame, actions: pl.DataFrame, before: int, *, actions_complete: bool
    ) -> Fetched:
        if "adjusted_close" not in bars.columns:
            bars = bars.with_columns(adjusted_close=pl.lit(None, pl.Float64))
        complete = len(bars) != COMPACT_BARS
        return Fetched(
            bars_frame(bars), actions_frame(actions), self._client.requests - before, complete, actions_complete
        )

    def _sessions_since(self, first: date) -> int:
        """Sessions from `first` to today, both inclusive."""
        today = self._now().date()
        return bisect_right(self._sessions, today) - bisect_left(self._sessions, first)

    def _reaches(self, bars: pl.DataFrame, first: date) -> bool:
        """Whether a compact answer leaves out no session from `first` on; a short one is the whole history."""
        oldest = bars["ts"][0]
        return len(bars) < COMPACT_BARS or bisect_left(self._sessions, oldest) <= bisect_left(self._sessions, first)


def _bars(symbol: str, function: str, series: Mapping[str, Any]) -> pl.DataFrame:
    """One row per date, sorted; what is no number is null. Columns beyond the raw bar's: dividend, split, if given."""
    rows = list(series.values())
    if not all(isinstance(row, dict) for row in rows):
        raise PermanentProviderError(f"alpha_vantage: {symbol}: {function}: a bar is no object; the API has changed")
    names = {key.split(". ", 1)[-1]: key for key in rows[0]}
    wanted = {
        "open": "open",
        "high": "high",
        "low": "low",
        "close": "close",
        "adjusted close": "adjusted_close",
        "volume": "volume",
        "dividend amount": "dividend",
        "split coefficient": "split",
    }
    missing = [name for name in ("open", "high", "low", "close", "volume") if name not in names]
    if missing:
        raise PermanentProviderError(
            f"alpha_vantage: {symbol}: {function}: bars without {', '.join(missing)}; the API has changed"
        )
    columns = {
        column: _numbers(row.get(names[name]) for row in rows) for name, column in wanted.items() if name in names
    }
    frame = pl.DataFrame({"ts": _dates(series)} | columns)
    if frame["ts"].null_count():
        wrong = next(text for text, ts in zip(series, frame["ts"], strict=True) if ts is None)
        raise PermanentProviderError(f"alpha_vantage: {symbol}: {function}: {wrong!r} is no date; the API has changed")
    return frame.sort("ts")


def _actions_in(bars: pl.DataFrame) -> pl.DataFrame:
    """Actions given bar by bar, as dividend amounts and split coefficients."""
    frames = []
    for kind, none in (("split", 1.0), ("dividend", 0.0)):
        if kind in bars.columns:
            rows = bars.filter(pl.col(kind) != none)
            frames.append(rows.select(ex_date="ts", kind=pl.lit(kind), value=kind))
    return pl.concat(frames) if frames else actions_frame()


def _actions(answer: Mapping[str, Any], symbol: str, kind: str, date_field: str, value_field: str) -> pl.DataFrame:
    """Actions of a SPLITS or DIVIDENDS answer; announcements that have no ex-date or value yet are left out."""
    rows = answer.get("data")
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise PermanentProviderError(
            f"alpha_vantage: {symbol}: {kind}s: no list 'data' in the answer, which has {', '.join(answer)}; "
            "check that the symbol exists (quant symbols search)"
        )
    frame = pl.DataFrame(
        {
            "ex_date": _dates(row.get(date_field) for row in rows),
            "value": _numbers(row.get(value_field) for row in rows),
        }
    )
    none = 1.0 if kind == "split" else 0.0
    return (
        frame.drop_nulls().filter(pl.col("value") != none).select("ex_date", kind=pl.lit(kind), value="value").unique()
    )


def _numbers(values: Iterable[object]) -> pl.Series:
    texts = [None if value is None else str(value) for value in values]
    return pl.Series(texts, dtype=pl.String).str.strip_chars().cast(pl.Float64, strict=False)


def _dates(values: Iterable[object]) -> pl.Series:
    texts = [None if value is None else str(value) for value in values]
    return pl.Series(texts, dtype=pl.String).str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False)


def _match(entry: Mapping[str, Any]) -> SymbolMatch:
    field = {key.split(". ", 1)[-1]: str(value) for key, value in entry.items()}
    try:
        score = float(field.get("matchScore", 0))
    except ValueError:
        score = 0.0
    return SymbolMatch(
        field.get("symbol", ""),
        field.get("name", ""),
        field.get("type", ""),
        field.get("region", ""),
        field.get("currency", ""),
        score,
    )
