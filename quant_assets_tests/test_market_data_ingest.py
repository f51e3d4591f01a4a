"""One symbol's ingest: what it asks for, what it replaces, and when it restates history."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from typing import ClassVar

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quant_assets.core.errors import PermanentProviderError
from quant_assets.market_data.adjustment import adjust
from quant_assets.market_data.ingest import OVERLAP, Ingested, Stored, ingest_symbol
from quant_assets.market_data.provider import (
    Fetched,
    FetchRequest,
    SymbolMatch,
    actions_frame,
    bars_frame,
)

FIRST = date(2024, 1, 1)
DAYS = 60


def day(number: int) -> date:
    return FIRST + timedelta(number)


def history(days: int = DAYS, scale: float = 1.0) -> pl.DataFrame:
    closes = [100.0 + n for n in range(days)]
    return bars_frame(
        pl.DataFrame(
            {
                "ts": [day(n) for n in range(days)],
                **dict.fromkeys(("open", "high", "low", "close"), closes),
                "adjusted_close": [close * scale for close in closes],
                "volume": 1000.0,
            }
        )
    )


def change(bars: pl.DataFrame, at: int, **values: float | None) -> pl.DataFrame:
    here = pl.col("ts") == day(at)
    return bars.with_columns(pl.when(here).then(pl.lit(v)).otherwise(pl.col(k)).alias(k) for k, v in values.items())


def action(at: int, kind: str, value: float) -> pl.DataFrame:
    return actions_frame(pl.DataFrame({"ex_date": [day(at)], "kind": [kind], "value": [value]}))


@dataclass
class FakeProvider:
    """Serves `bars` from the first session asked for on, and counts."""

    bars: pl.DataFrame
    actions: pl.DataFrame = field(default_factory=actions_frame)
    actions_complete: bool = False
    requests: list[tuple[FetchRequest, bool]] = field(default_factory=list)
    name: ClassVar[str] = "fake"
    gives_actions: ClassVar[bool] = True

    @classmethod
    def create(cls, settings: object, sessions: object) -> "FakeProvider":
        raise NotImplementedError

    def fetch(self, request: FetchRequest, *, whole: bool = False) -> Fetched:
        self.requests.append((request, whole))
        # a few bars more than asked for, as providers do
        sent = self.bars if whole else self.bars.filter(pl.col("ts") >= request.first - timedelta(3))
        known = self.actions
        if not (whole or self.actions_complete) and len(sent):
            known = known.filter(pl.col("ex_date") >= sent["ts"][0])
        return Fetched(sent, known, 1, whole, self.actions_complete)

    def search(self, words: str) -> list[SymbolMatch]:
        return []


class RatioProvider(FakeProvider):
    name: ClassVar[str] = "ratio"
    gives_actions: ClassVar[bool] = False


class Store:
    """A table of one symbol's bars and one of its actions, replaced as `Ingested` says."""

    def __init__(self) -> None:
        self.bars = pl.DataFrame()
        self.actions = pl.DataFrame()

    def state(self, hole_from: date | None = None) -> Stored:
        if self.bars.is_empty():
            return Stored()
        bars = self.bars.sort("ts")
        return Stored(
            bars["ts"][0],
            bars["ts"][-1],
            bars.tail(OVERLAP).drop("symbol", "source"),
            self.actions.select("ex_date", "kind", "value"),
            bars["source"][-1],
            hole_from,
        )

    def put(self, new: Ingested) -> None:
        self.bars = self._replace(self.bars, new.bars, "ts", new.replace_from, new.replace_to)
        self.actions = self._replace(self.actions, new.actions, "ex_date", new.actions_from, new.actions_to)

    @staticmethod
    def _replace(old: pl.DataFrame, new: pl.DataFrame, on: str, start: date | None, end: date | None) -> pl.DataFrame:
        if start is None or old.is_empty():
            return pl.concat([old, new], how="diagonal")
        return pl.concat([old.filter(~pl.col(on).is_between(start, end)), new]).sort(on)

    def ingest(self, provider: FakeProvider, first: int, last: int, hole_from: date | None = None) -> Ingested:
        result = ingest_symbol(provider, "AAA", day(first), day(last), self.state(hole_from))
        self.put(result)
        return result


def stored_through(last: int, provider: FakeProvider, first: int = 0) -> Store:
    store = Store()
    store.ingest(provider, first, last)
    provider.requests.clear()
    return store


def test_the_first_ingest_stores_the_slice_and_nothing_beside_it():
    provider = FakeProvider(history())
    result = ingest_symbol(provider, "AAA", day(10), day(20), Stored())
    assert (result.bars["ts"][0], result.bars["ts"][-1], len(result.bars)) == (day(10), day(20), 11)
    assert (result.replace_from, result.replace_to) == (day(10), day(20))
    assert result.bars.columns == [
        "symbol", "ts", "open", "high", "low", "close", "adjusted_close", "volume", "source",
    ]  # fmt: skip
    assert set(result.bars["source"]) == {"fake"}
    assert (result.requests, result.restated) == (1, False)


def test_a_later_ingest_asks_for_what_is_missing_and_the_overlap():
    provider = FakeProvider(history())
    store = stored_through(30, provider)
    result = store.ingest(provider, 0, 40)
    assert provider.requests == [(FetchRequest("AAA", day(21), day(40), stored_last=day(30)), False)]
    assert (result.replace_from, result.replace_to, result.restated) == (day(21), day(40), False)
    assert_frame_equal(store.bars.select(history().columns), history(41))
    assert result.note == "10 new bars, 10 read again"


def test_a_daily_ingest_writes_its_own_day_only():
    provider = FakeProvider(history())
    store = stored_through(30, provider)
    result = store.ingest(provider, 31, 31)
    assert (result.replace_from, result.replace_to, len(result.bars)) == (day(31), day(31), 1)


def test_nothing_missing_costs_one_request_and_changes_nothing():
    provider = FakeProvider(history())
    store = stored_through(30, provider)
    before = store.bars
    result = store.ingest(provider, 0, 30)
    assert len(provider.requests) == result.requests == 1
    assert_frame_equal(store.bars, before, check_exact=True)


def test_a_past_slice_is_read_again_and_gives_the_same_rows():
    provider = FakeProvider(history())
    store = stored_through(50, provider)
    before = store.bars
    result = store.ingest(provider, 5, 15)
    assert provider.requests[0][0].first == day(5)
    assert (result.replace_from, result.replace_to, len(result.bars)) == (day(5), day(15), 11)
    assert_frame_equal(store.bars, before, check_exact=True)


def test_an_older_slice_can_be_added_before_what_is_stored():
    provider = FakeProvider(history())
    store = stored_through(50, provider, first=30)
    store.ingest(provider, 0, 29)
    assert_frame_equal(store.bars.select(history().columns), history(51))


def test_days_between_slices_that_nobody_asked_for_stay_out():
    provider = FakeProvider(history())
    store = stored_through(20, provider)
    store.ingest(provider, 30, 40)
    assert store.bars["ts"].to_list() == [day(n) for n in (*range(21), *range(30, 41))]


def test_a_hole_is_filled_when_it_is_pointed_out():
    provider = FakeProvider(history())
    store = stored_through(20, provider)
    store.ingest(provider, 30, 45)
    store.ingest(provider, 0, 50, hole_from=day(21))
    assert_frame_equal(store.bars.select(history().columns), history(51))


@pytest.mark.parametrize(
    "restate",
    [
        lambda bars: bars.with_columns(pl.col("adjusted_close") * 0.5),
        lambda bars: change(bars, 25, close=1.0),
        lambda bars: change(bars, 22, volume=1001.0),
        lambda bars: bars.filter(pl.col("ts") != day(25)),
        lambda bars: bars.with_columns(pl.when(pl.col("ts") <= day(29)).then(1.0).otherwise("close").alias("close")),
    ],
    ids=["adjusted close", "close", "volume", "withdrawn", "many"],
)
def test_an_overlap_that_differs_restates_the_whole_history(restate: Callable[[pl.DataFrame], pl.DataFrame]):
    provider = FakeProvider(history())
    store = stored_through(30, provider)
    provider.bars = restate(history())
    result = store.ingest(provider, 31, 40)
    assert [whole for _, whole in provider.requests] == [False, True]
    assert (result.restated, result.restated_from, result.restated_to) == (True, day(0), day(30))
    assert (result.replace_from, result.replace_to, result.requests) == (day(0), day(40), 2)
    assert "history restated: " in result.note
    assert_frame_equal(store.bars.select(history().columns), provider.bars.filter(pl.col("ts") <= day(40)))


def test_a_restatement_stores_nothing_older_than_was_asked_for_or_stored():
    provider = FakeProvider(history())
    store = stored_through(30, provider, first=10)
    provider.bars = history(scale=0.5)
    result = store.ingest(provider, 31, 40)
    assert (result.bars["ts"][0], result.bars["ts"][-1]) == (day(10), day(40))


def test_rounding_to_four_decimals_is_no_restatement():
    provider = FakeProvider(history(scale=1 / 3))
    store = stored_through(30, provider)
    provider.bars = history().with_columns((pl.col("adjusted_close") / 3).round(4))
    assert not store.ingest(provider, 31, 40).restated


def test_a_newest_bar_that_has_settled_since_is_replaced_without_another_request():
    provider = FakeProvider(history())
    store = stored_through(30, provider)
    provider.bars = change(history(), 30, volume=1500.0)
    result = store.ingest(provider, 31, 31)
    assert result.requests == 1
    assert (result.restated, result.restated_from, result.restated_to) == (True, day(30), day(30))
    assert result.note == "1 new bars, 1 read again; settled since: volume of 2024-01-31 was 1000, is 1500"
    assert store.bars["volume"].to_list() == [1000.0] * 30 + [1500.0, 1000.0]


def test_an_invalid_fetched_value_is_for_the_gate_and_restates_nothing():
    provider = FakeProvider(history())
    store = stored_through(30, provider)
    provider.bars = change(change(history(), 28, volume=None), 29, close=-5.0)
    assert not store.ingest(provider, 31, 40).restated


def test_bars_of_another_provider_are_replaced_as_a_whole():
    store = stored_through(30, RatioProvider(history()))
    provider = FakeProvider(history().tail(DAYS - 5))
    result = store.ingest(provider, 31, 40)
    assert [whole for _, whole in provider.requests] == [True]
    assert result.restated
    assert set(store.bars["source"]) == {"fake"}
    assert store.bars["ts"][0] == day(5)
    assert "stored bars come from ratio; fake has" in result.note


def test_a_shorter_restated_history_keeps_stored_raw_bars_where_actions_adjust_them():
    provider = FakeProvider(history())
    store = stored_through(30, provider)
    provider.bars = history(scale=0.5).tail(DAYS - 15)
    result = store.ingest(provider, 31, 40)
    assert (result.replace_from, result.restated_from) == (day(15), day(15))
    assert len(store.bars) == 41


def test_a_shorter_restated_history_is_refused_where_only_a_ratio_adjusts():
    provider = RatioProvider(history())
    store = stored_through(30, provider)
    provider.bars = history(scale=0.5).tail(DAYS - 15)
    with pytest.raises(
        PermanentProviderError, match=r"reaches from 2024-01-16 .* only, while 2024-01-01 to 2024-01-31"
    ):
        store.ingest(provider, 31, 40)


def test_stored_bars_that_the_answer_does_not_reach_stay():
    provider = FakeProvider(history())
    store = stored_through(40, provider)
    provider.bars = history().filter(pl.col("ts").is_between(day(10), day(38)))
    store.ingest(provider, 0, 50)
    assert_frame_equal(store.bars.select(history().columns), history(41))


def test_a_complete_answer_is_not_fetched_twice():
    class Whole(FakeProvider):
        def fetch(self, request: FetchRequest, *, whole: bool = False) -> Fetched:
            return replace(super().fetch(request, whole=True), complete=True)

    provider = Whole(history())
    store = stored_through(30, provider)
    provider.bars = history(scale=0.5)
    assert store.ingest(provider, 31, 40).requests == 1


def test_a_symbol_that_lists_late_has_no_rows_before_and_no_error():
    provider = FakeProvider(history().tail(10))
    result = ingest_symbol(provider, "AAA", day(0), day(20), Stored())
    assert (len(result.bars), result.replace_from, result.replace_to) == (0, day(0), day(20))


def test_an_answer_without_any_bar_is_an_error():
    with pytest.raises(PermanentProviderError, match="fake: AAA: an answer without any bar"):
        ingest_symbol(FakeProvider(history(0)), "AAA", day(0), day(20), Stored())


def test_outside_its_listing_a_symbol_has_no_rows_and_nobody_is_asked():
    provider = FakeProvider(history())
    result = ingest_symbol(provider, "AAA", day(0), day(9), Stored(), listed_from=day(10))
    assert (len(result.bars), result.requests, provider.requests) == (0, 0, [])
    inside = ingest_symbol(provider, "AAA", day(0), day(30), Stored(), listed_from=day(10), listed_to=day(19))
    assert (inside.bars["ts"][0], inside.bars["ts"][-1]) == (day(10), day(19))


def test_a_slice_that_runs_backwards_is_refused():
    with pytest.raises(ValueError, match="runs backwards"):
        ingest_symbol(FakeProvider(history()), "AAA", day(9), day(1), Stored())


def test_actions_of_the_slice_are_stored_with_it():
    provider = FakeProvider(history(), pl.concat([action(5, "dividend", 1.0), action(35, "split", 2.0)]))
    store = stored_through(30, provider)
    assert store.actions["ex_date"].to_list() == [day(5)]
    result = store.ingest(provider, 31, 40)
    assert store.actions["ex_date"].to_list() == [day(5), day(35)]
    assert set(store.actions["source"]) == {"fake"}
    assert not result.restated


def test_a_split_between_two_stored_slices_is_not_lost():
    provider = FakeProvider(history(), action(25, "split", 2.0))
    store = stored_through(20, provider)
    store.ingest(provider, 30, 40)
    assert store.actions["ex_date"].to_list() == [day(25)]


@pytest.mark.parametrize("late", [action(5, "dividend", 1.0), action(5, "dividend", 2.0), actions_frame()])
def test_an_older_action_that_changed_restates_from_its_ex_date_on(late: pl.DataFrame):
    provider = FakeProvider(history(), action(12, "dividend", 1.0), actions_complete=True)
    store = stored_through(30, provider)
    provider.actions = late
    result = store.ingest(provider, 31, 40)
    oldest = 5 if len(late) else 12
    assert (result.restated, result.restated_from, result.restated_to) == (True, day(oldest), day(30))
    assert (result.replace_from, result.requests) == (day(31), 1)
    assert store.actions.select("ex_date", "kind", "value").equals(late)


@pytest.mark.parametrize(("kind", "value"), [("dividend", 500.0), ("dividend", -1.0), ("split", 0.0)])
def test_an_action_that_cannot_be_applied_fails_the_symbol(kind, value):
    provider = FakeProvider(history(), action(5, kind, value))
    with pytest.raises(PermanentProviderError, match=f"AAA: {kind} of {value} on 2024-01-06 cannot be applied"):
        ingest_symbol(provider, "AAA", day(0), day(20), Stored())


def world(known_until: int, splits: dict[int, float]) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The market as known on a day: raw closes that split, adjusted closes restated to that day."""
    rows, factor = [], 1.0
    for n in range(DAYS - 1, -1, -1):
        after = 1.0
        for at, ratio in splits.items():
            after /= ratio if n < at <= known_until else 1.0
        traded = 1.0
        for at, ratio in splits.items():
            traded /= ratio if at <= n else 1.0
        close = (1000.0 + n) * traded * factor
        rows.append((day(n), close, close, close, close, close * after, 1000.0 / traded))
    bars = pl.DataFrame(rows, schema=list(history().columns), orient="row").filter(pl.col("ts") <= day(known_until))
    known = [action(at, "split", ratio) for at, ratio in sorted(splits.items()) if at <= known_until]
    return bars_frame(bars), pl.concat([actions_frame(), *known])


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(1, DAYS - 1), min_size=1, max_size=5, unique=True).map(sorted),
    st.dictionaries(st.integers(1, DAYS - 1), st.sampled_from([0.5, 2.0, 3.0, 7.0]), max_size=3),
    st.booleans(),
)
def test_ingesting_day_by_day_as_history_is_restated_equals_one_ingest_at_the_end(runs, splits, actions_complete):
    store = Store()
    provider = FakeProvider(history(), actions_complete=actions_complete)
    for until in runs:
        provider.bars, provider.actions = world(until, splits)
        store.ingest(provider, 0, until)
    once = Store()
    once.ingest(provider, 0, runs[-1])
    assert_frame_equal(store.bars, once.bars)
    assert_frame_equal(store.actions.sort("ex_date"), once.actions.sort("ex_date"))
    adjusted = adjust(store.bars, store.actions, {"fake"})
    assert adjusted["close"].pct_change().abs().max() < 0.01 if len(adjusted) > 1 else True
