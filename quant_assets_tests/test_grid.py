"""Partitions: which dates there are, which slice a key range means, and that Dagster takes them for its own."""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from dagster._core.definitions.partitions.context import partition_loading_context
from dagster._core.definitions.partitions.snap import PartitionsSnap
from dagster_shared.serdes import deserialize_value, serialize_value
from hypothesis import given
from hypothesis import strategies as st

from quant_assets.core.calendar import TradingCalendar
from quant_assets.core.slices import Slice
from quant_assets.defs import grid as grid_module
from quant_assets.defs.grid import PARTITION, Grid, SessionDates
from quant_assets.strategy.markets import RANGE_END, RANGE_START
from quant_assets.strategy.universe import Universe

warnings.simplefilter("ignore", dg.BetaWarning)

NEW_YORK = ZoneInfo("America/New_York")
HOLIDAYS = {date(2024, 5, 27), date(2024, 6, 19), date(2024, 7, 4), date(2024, 9, 2)}
DAYS = [date(2024, 1, 1) + timedelta(n) for n in range(366)]
SESSIONS = tuple(day for day in DAYS if day.weekday() < 5 and day not in HOLIDAYS)
CALENDAR = TradingCalendar("XNYS", "America/New_York", time(16), SESSIONS)
MAY_24, MAY_28, JULY_3, JULY_5 = date(2024, 5, 24), date(2024, 5, 28), date(2024, 7, 3), date(2024, 7, 5)
"""The sessions around Memorial Day and Independence Day."""


def make(start: date = date(2024, 5, 15), end: date | None = date(2024, 7, 12), grain: Any = "day") -> Grid:
    universe = Universe.model_validate(
        {
            "name": "small",
            "version": "1.0.0",
            "provider": "sample",
            "start": start,
            "end": end,
            "grain": grain,
            "symbols": ["C", "A", "B"],
        }
    )
    return Grid(universe, CALENDAR, ("one", "two"))


def days(keys: Sequence[str]) -> list[date]:
    return [date.fromisoformat(key) for key in keys]


@contextmanager
def at(moment: datetime, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Dagster and the grid at `moment`, New York time."""
    monkeypatch.setattr(grid_module, "_today", lambda timezone: moment.date())
    with partition_loading_context(effective_dt=moment.replace(tzinfo=NEW_YORK)):
        yield


def test_the_days_are_the_calendars_sessions_of_the_universe():
    assert days(make().dates.get_partition_keys()) == list(CALENDAR.between(date(2024, 5, 15), date(2024, 7, 12)))


@pytest.mark.parametrize(
    "end",
    [
        pytest.param(MAY_24, id="a Friday before a holiday"),
        pytest.param(date(2024, 5, 17), id="a Friday"),
        pytest.param(JULY_3, id="the day before a holiday"),
        pytest.param(date(2024, 7, 4), id="a holiday"),
        pytest.param(date(2024, 7, 6), id="a Saturday"),
        pytest.param(date(2024, 7, 7), id="a Sunday"),
        pytest.param(date(2024, 7, 8), id="a Monday"),
        pytest.param(date(2024, 5, 31), id="the last day of a month"),
    ],
)
@pytest.mark.parametrize("grain", ["day", "week", "month"])
def test_a_universe_that_has_ended_ends_with_its_last_session(end: date, grain: str):
    grid = make(end=end, grain=grain)
    last = CALENDAR.between(date(2024, 5, 15), end)[-1]
    assert grid.last_session == last
    assert grid.dates.get_last_partition_key() == grid.date_key(last)


@pytest.mark.parametrize("start", [date(2024, 5, 15), date(2024, 5, 25), date(2024, 5, 27), date(2024, 6, 1)])
@pytest.mark.parametrize("grain", ["day", "week", "month"])
def test_every_session_from_the_universes_start_has_a_partition(start: date, grain: str):
    grid = make(start, grain=grain)
    keys = grid.dates.get_partition_keys()
    covered = [day for key in keys for day in CALENDAR.between(*grid.window(key))]
    wanted = CALENDAR.between(start, date(2024, 7, 12))
    assert set(wanted) <= set(covered)
    assert sorted(set(covered)) == covered
    assert {grid.date_key(day) for day in wanted} == set(keys)


def test_weeks_and_months_are_named_by_their_first_day_and_hold_only_sessions():
    weeks, months = make(grain="week"), make(grain="month")
    assert list(weeks.dates.get_partition_keys())[:3] == ["2024-05-13", "2024-05-20", "2024-05-27"]
    assert weeks.window("2024-05-27") == (MAY_28, date(2024, 5, 31))
    assert list(months.dates.get_partition_keys()) == ["2024-05-01", "2024-06-01", "2024-07-01"]
    assert months.window("2024-06-01") == (date(2024, 6, 3), date(2024, 6, 28))


@given(st.sampled_from(["day", "week", "month"]), st.data())
def test_the_window_of_a_sessions_partition_holds_the_session(grain: str, data: st.DataObject):
    grid = make(grain=grain)
    session = data.draw(st.sampled_from(CALENDAR.between(date(2024, 5, 15), date(2024, 7, 12))))
    first, last = grid.window(grid.date_key(session))
    assert first <= session <= last
    assert CALENDAR.is_session(first)
    assert CALENDAR.is_session(last)


@pytest.mark.parametrize(
    ("moment", "last"),
    [
        pytest.param(datetime(2024, 5, 24, 0, 1), MAY_24, id="just after midnight of a session"),
        pytest.param(datetime(2024, 5, 24, 12), MAY_24, id="on a session"),
        pytest.param(datetime(2024, 5, 25, 12), MAY_24, id="on Saturday"),
        pytest.param(datetime(2024, 5, 26, 23, 59), MAY_24, id="on Sunday"),
        pytest.param(datetime(2024, 5, 27, 12), MAY_24, id="on a holiday"),
        pytest.param(datetime(2024, 5, 28, 9), MAY_28, id="on the session after it"),
        pytest.param(datetime(2024, 7, 4, 12), JULY_3, id="on a holiday within the week"),
    ],
)
@pytest.mark.parametrize("grain", ["day", "week", "month"])
def test_a_live_universe_reaches_to_todays_session(
    monkeypatch: pytest.MonkeyPatch, grain: str, moment: datetime, last: date
):
    with at(moment, monkeypatch):
        grid = make(end=None, grain=grain)
        assert grid.last_session == last
        assert grid.date_key(last) in grid.dates.get_partition_keys()


def test_a_live_universe_grows_without_being_made_anew(monkeypatch: pytest.MonkeyPatch):
    grid = make(end=None)
    for moment, last in ((datetime(2024, 5, 24, 12), MAY_24), (datetime(2024, 5, 28, 12), MAY_28)):
        with at(moment, monkeypatch):
            assert grid.last_session == last


def test_markets_are_by_symbol_and_decisions_by_strategy():
    grid = make()
    assert grid.market.get_partition_keys()[:3] == ["2024-05-15|A", "2024-05-15|B", "2024-05-15|C"]
    assert grid.decision.get_partition_keys()[:2] == ["2024-05-15|one", "2024-05-15|two"]


@pytest.mark.parametrize(
    ("start", "end", "expected"),
    [
        ("2024-05-24|A", "2024-05-28|C", Slice(MAY_24, MAY_28, ("A", "B", "C"))),
        ("2024-05-24|B", "2024-05-24|B", Slice(MAY_24, MAY_24, ("B",))),
        ("2024-05-24|B", "2024-07-05|C", Slice(MAY_24, JULY_5, ("B", "C"))),
        ("2024-05-24|one", "2024-05-28|two", Slice(MAY_24, MAY_28, ("one", "two"))),
    ],
)
def test_a_key_range_is_all_dates_between_by_all_keys_between(start: str, end: str, expected: Slice):
    assert make().slice_of(dg.PartitionKeyRange(start, end)) == expected


@pytest.mark.parametrize("grain", ["day", "week", "month"])
def test_a_runs_tags_lead_back_to_its_slice(grain: str):
    grid = make(grain=grain)
    first, last = date(2024, 5, 28), date(2024, 6, 28)
    tags = grid.range_tags(first, last, ["A", "B"])
    assert set(tags) == {RANGE_START, RANGE_END}
    found = grid.slice_of_tags(tags)
    assert found is not None
    assert found.keys == ("A", "B")
    assert found.first == {"day": first, "week": first, "month": date(2024, 5, 1)}[grain]
    assert found.last == last
    assert grid.slice_of_tags({PARTITION: tags[RANGE_START]}) == Slice(
        *grid.window(tags[RANGE_START].split("|")[0]), ("A",)
    )
    assert grid.slice_of_tags({"dagster/backfill": "x"}) is None


@pytest.mark.parametrize("grain", ["day", "week", "month"])
def test_the_date_keys_between_two_sessions_are_dagsters(grain: str):
    grid = make(grain=grain)
    first, last = date(2024, 5, 23), date(2024, 7, 5)
    between = dg.PartitionKeyRange(grid.date_key(first), grid.date_key(last))
    assert list(grid.date_keys(first, last)) == list(grid.dates.get_partition_keys_in_range(between))


def parent_of(dates: SessionDates) -> dg.TimeWindowPartitionsDefinition:
    """The same windows as Dagster's own class makes them."""
    return dg.TimeWindowPartitionsDefinition(
        start=dates.start,
        end=dates.end,
        fmt=dates.fmt,
        cron_schedule=dates.cron_schedule,
        timezone=dates.timezone,
        end_offset=dates.end_offset,
        exclusions=dates.exclusions,
    )


@pytest.mark.parametrize("end", [date(2024, 7, 12), None])
def test_session_dates_are_what_dagsters_own_class_would_be(end: date | None):
    mine = make(end=end).dates
    parent = parent_of(mine)
    assert type(mine) is not type(parent)
    assert mine == parent
    assert parent == mine
    assert mine != parent_of(make(date(2024, 5, 16)).dates)
    assert hash(mine) == hash(make(end=end).dates)
    with partition_loading_context(effective_dt=datetime(2024, 7, 1, 12, tzinfo=NEW_YORK)):
        assert mine.get_partition_keys() == parent.get_partition_keys()
        assert mine.get_last_partition_key() == parent.get_last_partition_key()
        assert mine.get_num_partitions() == parent.get_num_partitions()
        assert mine.get_partition_keys_in_range(dg.PartitionKeyRange("2024-05-24", "2024-05-28")) == [
            "2024-05-24",
            "2024-05-28",
        ]


def test_two_grids_of_one_universe_are_one_definition_to_dagster():
    assert make().market == make().market
    assert len({make().dates, make().dates, make(end=MAY_24).dates}) == 2
    assert make().dates != make(end=MAY_24).dates


@pytest.mark.parametrize("grain", ["day", "week", "month"])
def test_the_definition_survives_the_way_to_the_daemon_and_back(grain: str):
    grid = make(grain=grain)
    for definition in (grid.dates, grid.market, grid.decision):
        snap = deserialize_value(serialize_value(PartitionsSnap.from_def(definition)), PartitionsSnap)
        remote = snap.get_partitions_definition()
        assert remote == definition
        assert definition == remote
        assert list(remote.get_partition_keys()) == list(definition.get_partition_keys())
        assert remote.get_serializable_unique_identifier() == definition.get_serializable_unique_identifier()


def test_hash_and_exclusions_are_worked_out_once(monkeypatch: pytest.MonkeyPatch):
    dates = make().dates
    hash(dates)

    def again(self: object) -> str:
        raise AssertionError("the parent's text was built again")

    monkeypatch.setattr(dg.TimeWindowPartitionsDefinition, "__repr__", again)
    hash(dates)
    for session, excluded in ((MAY_24, False), (date(2024, 5, 27), True)):
        assert dates.is_window_start_excluded(datetime.combine(session, time(), NEW_YORK)) is excluded


EVERY_DAY = TradingCalendar("24/7", "UTC", time(0), tuple(date(2024, 1, 1) + timedelta(n) for n in range(731)))
JULY_1, JULY_6 = date(2024, 7, 1), date(2024, 7, 6)


def without_weekends(start: date = date(2024, 5, 15), end: date | None = JULY_6, grain: Any = "day") -> Grid:
    return replace(make(start, end, grain), calendar=EVERY_DAY, prefix="coins")


@pytest.mark.parametrize("end", [JULY_1 + timedelta(n) for n in range(7)], ids=lambda day: f"{day:%A}")
@pytest.mark.parametrize("grain", ["day", "week", "month"])
def test_on_a_calendar_without_weekends_every_day_has_a_partition(end: date, grain: str):
    grid = without_weekends(end=end, grain=grain)
    first, keys = date(2024, 5, 15), grid.dates.get_partition_keys()
    assert grid.last_session == end
    assert grid.dates.get_last_partition_key() == grid.date_key(end)
    assert list(keys) == list(dict.fromkeys(grid.date_key(day) for day in EVERY_DAY.between(first, end)))
    assert list(grid.date_keys(first, end)) == list(keys)
    assert len(keys) == {"day": (end - first).days + 1, "week": 8, "month": 3}[grain]
    assert grid.slice_of(dg.PartitionKeyRange(f"{keys[0]}|A", f"{keys[-1]}|C")).last == end
    covered = [day for key in keys for day in EVERY_DAY.between(*grid.window(key))]
    assert sorted(set(covered)) == covered


@pytest.mark.parametrize(
    ("moment", "last", "closed"),
    [
        (datetime(2024, 7, 6, 0, 0), JULY_6, date(2024, 7, 5)),
        (datetime(2024, 7, 6, 23, 59), JULY_6, date(2024, 7, 5)),
        (datetime(2024, 7, 7, 0, 0), date(2024, 7, 7), JULY_6),
        (datetime(2024, 7, 8, 0, 15), date(2024, 7, 8), date(2024, 7, 7)),
    ],
)
def test_on_a_calendar_without_weekends_today_has_begun_and_yesterday_has_closed(
    monkeypatch: pytest.MonkeyPatch, moment: datetime, last: date, closed: date
):
    now = moment.replace(tzinfo=UTC)
    monkeypatch.setattr(grid_module, "_today", lambda timezone: now.astimezone(ZoneInfo(timezone)).date())
    with partition_loading_context(effective_dt=now):
        grid = without_weekends(end=None)
        assert grid.dates.get_last_partition_key() == last.isoformat()
        assert (grid.last_session, grid.last_closed(now)) == (last, closed)


def test_session_dates_without_exclusions_are_what_dagsters_own_class_would_be():
    grid = without_weekends()
    assert grid.dates == parent_of(grid.dates)
    assert not grid.dates.exclusions
    assert grid.dates.get_partition_keys() == parent_of(grid.dates).get_partition_keys()


def test_names_of_the_primary_market_have_no_prefix_and_those_of_others_do():
    first, second = make(), without_weekends()
    assert (first.key("ohlcv"), first.op("ohlcv"), first.name("market")) == (dg.AssetKey("ohlcv"), "ohlcv", "market")
    assert second.key("ohlcv") == dg.AssetKey(["coins", "ohlcv"])
    assert (second.op("ohlcv"), second.name("market")) == ("coins__ohlcv", "coins_market")
