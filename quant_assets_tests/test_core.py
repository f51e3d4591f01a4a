"""Calendars, settings, slices and costs."""

import sys
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_assets.core import calendar as calendar_module
from quant_assets.core.calendar import TradingCalendar, trading_calendar
from quant_assets.core.costs import Costs
from quant_assets.core.errors import ConfigError, QuantError, WarehouseError
from quant_assets.core.settings import Settings, settings
from quant_assets.core.slices import Slice

TUE, WED, FRI, MON = date(2024, 7, 2), date(2024, 7, 3), date(2024, 7, 5), date(2024, 7, 8)
WEEK = TradingCalendar("XNYS", "America/New_York", time(16), (TUE, WED, FRI, MON))
"""Around Independence Day, a Thursday."""
THURSDAY = date(2024, 7, 4)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A home of the test's own, with nothing read or kept from before."""
    monkeypatch.setenv("QUANT_HOME", str(tmp_path))
    settings.cache_clear()
    trading_calendar.cache_clear()
    yield tmp_path
    settings.cache_clear()
    trading_calendar.cache_clear()


def again(name: str = "XNYS") -> TradingCalendar:
    """The calendar as a new process would get it."""
    trading_calendar.cache_clear()
    return trading_calendar(name)


@pytest.mark.parametrize(
    ("day", "expected"), [(TUE, True), (THURSDAY, False), (date(2024, 7, 6), False), (date(2030, 1, 1), False)]
)
def test_only_the_calendars_days_are_sessions(day: date, expected: bool):
    assert WEEK.is_session(day) is expected


def test_dates_snap_inwards_to_sessions():
    assert WEEK.snap(THURSDAY, date(2024, 7, 7)) == (FRI, FRI)
    assert WEEK.snap(date(1990, 1, 1), THURSDAY) == (TUE, WED)
    assert WEEK.snap(TUE, MON) == (TUE, MON)


def test_a_range_without_a_session_is_refused_with_the_calendars_span():
    with pytest.raises(ConfigError, match=r"no XNYS session .* \(calendar: 2024-07-02 to 2024-07-08\); widen"):
        WEEK.snap(THURSDAY, THURSDAY)


def test_reversed_dates_are_refused():
    with pytest.raises(ConfigError, match="dates reversed: from 2024-07-08 is after to 2024-07-02; swap them"):
        WEEK.snap(MON, TUE)


@pytest.mark.parametrize(
    ("day", "sessions", "expected"),
    [
        (WED, 0, WED),
        (WED, 1, FRI),
        (FRI, -1, WED),
        (THURSDAY, 0, WED),
        (THURSDAY, 1, FRI),
        (THURSDAY, -1, TUE),
        (MON, 5, MON),
        (TUE, -5, TUE),
        (date(1990, 1, 1), 0, TUE),
    ],
)
def test_offsets_count_sessions_from_the_last_one_and_stay_in_the_calendar(day: date, sessions: int, expected: date):
    assert WEEK.offset(day, sessions) == expected


@given(st.integers(0, 3), st.integers(-5, 5))
def test_an_offset_there_and_back_returns_where_the_calendar_did_not_clip(at: int, sessions: int):
    if 0 <= at + sessions <= 3:
        assert WEEK.offset(WEEK.offset(WEEK.sessions[at], sessions), -sessions) == WEEK.sessions[at]


@pytest.mark.parametrize(
    ("session", "closes_utc"),
    [
        pytest.param(date(2024, 3, 8), datetime(2024, 3, 8, 21), id="the Friday before summer time"),
        pytest.param(date(2024, 3, 11), datetime(2024, 3, 11, 20), id="the Monday after"),
        pytest.param(date(2024, 11, 1), datetime(2024, 11, 1, 20), id="the Friday before winter time"),
        pytest.param(date(2024, 11, 4), datetime(2024, 11, 4, 21), id="the Monday after that"),
        pytest.param(WED, datetime(2024, 7, 3, 20), id="a half day, by its regular close"),
    ],
)
def test_a_session_has_closed_at_four_in_new_york_in_summer_and_winter(session: date, closes_utc: datetime):
    closes = closes_utc.replace(tzinfo=UTC)
    assert not WEEK.has_closed(session, closes - timedelta(seconds=1))
    assert WEEK.has_closed(session, closes)


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        pytest.param(datetime(2024, 7, 5, 19, 59, tzinfo=UTC), WED, id="before the close"),
        pytest.param(datetime(2024, 7, 5, 20, 0, tzinfo=UTC), FRI, id="at the close"),
        pytest.param(datetime(2024, 7, 4, 23, 0, tzinfo=UTC), WED, id="on the holiday"),
        pytest.param(datetime(2024, 7, 6, 1, 0, tzinfo=UTC), FRI, id="Saturday in UTC, Friday evening there"),
        pytest.param(datetime(2024, 7, 7, 12, 0, tzinfo=UTC), FRI, id="on Sunday"),
    ],
)
def test_the_last_closed_session_is_asked_in_the_exchanges_own_time(now: datetime, expected: date):
    assert WEEK.last_closed(now) == expected


def test_holidays_are_the_weekdays_without_a_session():
    assert WEEK.holidays() == [THURSDAY]


def test_the_new_york_calendar_knows_its_holidays_and_reaches_into_the_future(home: Path):
    calendar = trading_calendar("XNYS")
    assert (calendar.timezone, calendar.close) == ("America/New_York", time(16))
    assert calendar.sessions[0] == date(1998, 1, 2)
    assert calendar.sessions[-1] > date.today() + timedelta(300)
    for closed in (date(2001, 9, 11), date(2012, 10, 29), date(2024, 3, 29), THURSDAY):
        assert not calendar.is_session(closed)
    assert calendar.is_session(date(2024, 11, 29))


def test_the_calendar_is_kept_in_a_file_that_spares_the_next_process_the_import(
    home: Path, monkeypatch: pytest.MonkeyPatch
):
    first = trading_calendar("XNYS")
    assert [path.name for path in (home / "calendars").iterdir()] == ["XNYS.txt"]
    monkeypatch.setitem(sys.modules, "exchange_calendars", None)  # an import would raise
    assert again() == first


@pytest.mark.parametrize(
    "text",
    [
        pytest.param("", id="empty"),
        pytest.param("America/New_York@16:00:00\n", id="without sessions"),
        pytest.param("America/New_York@16:00:00\n2024-01-02\n2024-0", id="cut off"),
        pytest.param("America/New_York@16:00:00\n2024-01-02\n2024-01-03\n", id="out of date"),
        pytest.param("\x00\x01", id="something else"),
    ],
)
def test_a_kept_calendar_that_cannot_serve_is_made_anew(home: Path, monkeypatch: pytest.MonkeyPatch, text: str):
    path = home / "calendars" / "XNYS.txt"
    path.parent.mkdir()
    path.write_text(text)
    fresh = TradingCalendar("XNYS", "America/New_York", time(16), (date.today(), date.today() + timedelta(90)))
    monkeypatch.setattr(calendar_module, "_build", lambda name: fresh)
    assert trading_calendar("XNYS") == fresh
    assert path.read_text().split()[1:] == [day.isoformat() for day in fresh.sessions]


def test_a_home_that_cannot_be_written_costs_only_the_kept_file(home: Path, monkeypatch: pytest.MonkeyPatch):
    (home / "calendars").write_text("a file where the folder should be")
    fresh = TradingCalendar("XNYS", "America/New_York", time(16), (date.today(), date.today() + timedelta(90)))
    monkeypatch.setattr(calendar_module, "_build", lambda name: fresh)
    assert trading_calendar("XNYS") == fresh


INSTANTS = st.datetimes(datetime(2000, 1, 1), datetime(2026, 1, 1), timezones=st.just(UTC))


def test_on_the_calendar_that_never_closes_every_day_is_a_session(home: Path):
    calendar = trading_calendar("24/7")
    first, last = calendar.sessions[0], calendar.sessions[-1]
    assert (first, calendar.timezone, calendar.every_day) == (date(1998, 1, 1), "UTC", True)
    assert last >= date.today() + timedelta(360)
    assert len(calendar.sessions) == (last - first).days + 1
    assert calendar.holidays() == []
    assert not (home / "calendars").exists()


@given(INSTANTS, st.timezones())
def test_without_a_close_the_last_session_that_has_closed_is_yesterday_in_utc(now: datetime, zone: ZoneInfo):
    calendar = trading_calendar("24/7")
    yesterday = now.date() - timedelta(1)
    assert calendar.last_closed(now.astimezone(zone)) == yesterday
    assert calendar.has_closed(yesterday, now)
    assert not calendar.has_closed(now.date(), now)


@given(st.datetimes(datetime(2024, 7, 2, 20), datetime(2024, 7, 8, 19, 59), timezones=st.just(UTC)))
def test_a_session_is_the_last_closed_from_its_close_to_the_next_ones(now: datetime):
    for calendar in (WEEK, trading_calendar("24/7")):
        last = calendar.last_closed(now)
        assert calendar.closes_at(last) <= now < calendar.closes_at(calendar.offset(last, 1))


@given(st.dates(date(2000, 1, 1), date(2026, 1, 1)), st.integers(-400, 400))
def test_without_a_close_sessions_are_days(day: date, sessions: int):
    assert trading_calendar("24/7").offset(day, sessions) == day + timedelta(sessions)


def test_a_year_has_365_sessions_where_every_day_is_one_and_252_elsewhere():
    assert trading_calendar("24/7").sessions_per_year == 365
    assert WEEK.sessions_per_year == 252
    assert not WEEK.every_day


def test_a_calendar_whose_name_has_a_slash_is_kept_in_one_file(home: Path):
    calendar = trading_calendar("24/5")
    assert [path.name for path in (home / "calendars").iterdir()] == ["24-5.txt"]
    assert again("24/5") == calendar
    assert calendar.closes_at(FRI) == datetime(2024, 7, 6, tzinfo=UTC)


@pytest.mark.parametrize("name", ["../../XNYS", "/etc/hosts", ""])
def test_a_calendar_name_that_is_a_path_is_refused_and_writes_nothing(home: Path, name: str):
    with pytest.raises(ConfigError, match=f"calendar '{name}' is unknown"):
        trading_calendar(name)
    assert list(home.iterdir()) == []


def test_an_unknown_exchange_is_refused_with_an_example(home: Path):
    with pytest.raises(
        ConfigError, match="calendar 'XXXX' is unknown; use an ISO 10383 exchange code such as XNYS or XLON, or 24/7"
    ):
        trading_calendar("XXXX")
    assert not (home / "calendars").exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("QUANT_ALPHA_VANTAGE_PER_MINUTE", "0"),
        ("QUANT_ALPHA_VANTAGE_PER_DAY", "many"),
        ("QUANT_LOCK_TIMEOUT_SECONDS", "-1"),
        ("QUANT_HTTP_TIMEOUT_SECONDS", "soon"),
    ],
)
def test_a_setting_that_cannot_be_used_is_named_as_the_variable_it_is(
    home: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
):
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"^{name}: .*\(got '{value}'\); correct it in the environment or \.env$"):
        settings()


def test_everything_a_run_makes_lies_under_home(home: Path):
    assert settings().warehouse_path == home / "warehouse.duckdb"
    assert settings().models_dir == home / "models"
    assert settings().reports_dir == home / "reports"


def test_the_key_is_read_from_the_environment_and_never_shown(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALPHA_VANTAGE_API_KEY", "s3cr3t")
    key = settings().alpha_vantage_api_key
    assert key is not None
    assert key.get_secret_value() == "s3cr3t"
    for text in (repr(settings()), str(settings()), settings().model_dump_json()):
        assert "s3cr3t" not in text


def test_another_settings_error_does_not_show_the_key(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("ALPHA_VANTAGE_API_KEY", "s3cr3t")
    monkeypatch.setenv("QUANT_ALPHA_VANTAGE_PER_DAY", "-3")
    with pytest.raises(ConfigError) as caught:
        settings()
    assert "s3cr3t" not in str(caught.value)


def test_settings_cannot_be_changed_by_accident(home: Path):
    with pytest.raises(ValueError, match="frozen"):
        settings().home = Path("elsewhere")  # type: ignore[misc]


def test_unknown_variables_are_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("QUANT_SOMETHING_ELSE", "1")
    assert isinstance(settings(), Settings)


def test_a_slice_tells_its_dates_and_keys_or_their_number():
    assert str(Slice(TUE, MON, ("A", "B"))) == "2024-07-02..2024-07-08 x A, B"
    assert str(Slice(TUE, TUE, ("A",) * 9)) == "2024-07-02 x 9 keys"


def test_a_slice_that_runs_backwards_or_has_no_key_is_refused():
    with pytest.raises(ValueError, match="slice runs backwards: 2024-07-08 is after 2024-07-02; swap the dates"):
        Slice(MON, TUE, ("A",))
    with pytest.raises(ValueError, match="slice has no symbol or strategy"):
        Slice(TUE, MON, ())


def test_costs_are_fractions_of_what_is_traded():
    costs = Costs(fee_bps=2, slippage_bps=10)
    assert (costs.fee, costs.slippage) == (0.0002, 0.001)
    assert Costs(0, 0).fee == 0


@pytest.mark.parametrize("bad", [-0.1, 10_000.0, float("nan"), float("inf")])
@pytest.mark.parametrize("name", ["fee_bps", "slippage_bps"])
def test_costs_that_are_none_are_refused_by_name(name: str, bad: float):
    with pytest.raises(ValueError, match=rf"{name} is .*; it must lie in \[0, 10000\) basis points"):
        Costs(**{name: bad})


def test_only_errors_that_time_can_mend_are_transient():
    def all_of(kind: type[QuantError]) -> set[type[QuantError]]:
        return {kind}.union(*(all_of(one) for one in kind.__subclasses__()))

    transient = {one.__name__ for one in all_of(QuantError) if one.transient}
    assert "TransientProviderError" in transient
    assert not transient & {"PermanentProviderError", "ConfigError", "StrategyError", "QualityError", "ModelError"}
    assert not WarehouseError.transient
