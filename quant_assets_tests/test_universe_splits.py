"""Splits of the universe file: they take the place of what a provider does not know or has wrong."""

from datetime import date, timedelta
from pathlib import Path
from typing import ClassVar

import polars as pl
import pytest

from quant_assets.core.errors import StrategyError
from quant_assets.core.settings import Settings
from quant_assets.market_data.adjustment import adjust
from quant_assets.market_data.ingest import UNIVERSE, Ingested, Stored, ingest_symbol
from quant_assets.market_data.provider import Fetched, FetchRequest, SymbolMatch, actions_frame, bars_frame
from quant_assets.strategy.universe import Universe, load_universe

DAYS = [date(2024, 1, 1) + timedelta(n) for n in range(40)]
SPLIT, OTHER = DAYS[5], DAYS[30]


class Source:
    """Closes of 100, and of 50 from SPLIT on, of which the source says nothing; OTHER is a split it does know."""

    name: ClassVar[str] = "source"
    gives_actions: ClassVar[bool] = True

    def __init__(self) -> None:
        self.asked: list[FetchRequest] = []

    @classmethod
    def create(cls, settings: Settings, sessions: object) -> "Source":
        return cls()

    def fetch(self, request: FetchRequest, *, whole: bool = False) -> Fetched:
        self.asked.append(request)
        days = [day for day in DAYS if whole or request.first <= day]
        close = [100.0 if day < SPLIT else 50.0 for day in days]
        bars = pl.DataFrame({"ts": days} | dict.fromkeys(("open", "high", "low", "close"), close) | {"volume": close})
        known = pl.DataFrame({"ex_date": [OTHER], "kind": ["split"], "value": [3.0]}).filter(
            pl.col("ex_date") >= days[0]
        )
        return Fetched(
            bars_frame(bars.with_columns(adjusted_close=pl.lit(None, pl.Float64))),
            actions_frame(known if self.gives_actions else None),
            requests=1,
            complete=whole,
        )

    def search(self, words: str) -> list[SymbolMatch]:
        return []


class WithoutActions(Source):
    name: ClassVar[str] = "plain"
    gives_actions: ClassVar[bool] = False


def stored(got: Ingested) -> Stored:
    """The warehouse after `got`, onto nothing."""
    corrections = got.actions.filter(source=UNIVERSE).select("ex_date", "value")
    return Stored(
        DAYS[0],
        DAYS[-1],
        tail=got.bars.tail(10),
        actions=got.actions,
        source=got.bars["source"][0],
        splits=dict(corrections.iter_rows()),
    )


def actions(got: Ingested) -> list[tuple[object, ...]]:
    return got.actions.select("ex_date", "value", "source").rows()


def closes(got: Ingested, gives_actions: bool) -> set[float]:
    adjusted = adjust(got.bars, got.actions, {"source"} if gives_actions else set())
    return set(adjusted.filter(pl.col("ts") < OTHER)["close"].round(6))


@pytest.mark.parametrize("source", [Source, WithoutActions])
def test_a_split_of_the_universe_file_leaves_no_jump(source: type[Source]) -> None:
    got = ingest_symbol(source(), "A", DAYS[0], DAYS[-1], Stored(), splits={SPLIT: 2.0})
    assert (SPLIT, 2.0, UNIVERSE) in actions(got)
    assert len(closes(got, source.gives_actions)) == 1


def test_a_split_given_later_restates_from_its_date_on_without_reading_old_bars_again() -> None:
    before = stored(ingest_symbol(Source(), "A", DAYS[0], DAYS[-1], Stored()))
    source = Source()
    got = ingest_symbol(source, "A", DAYS[0], DAYS[-1], before, splits={SPLIT: 2.0})
    assert [request.first for request in source.asked] == [DAYS[-10]]
    assert actions(got) == [(SPLIT, 2.0, UNIVERSE), (OTHER, 3.0, "source")]
    assert (got.actions_from, got.actions_to) == (SPLIT, DAYS[-1])
    assert (got.restated_from, got.restated_to) == (SPLIT, DAYS[-1])


def test_a_split_given_later_restates_the_whole_history_where_prices_are_adjusted_by_ratio() -> None:
    before = stored(ingest_symbol(WithoutActions(), "A", DAYS[0], DAYS[-1], Stored()))
    got = ingest_symbol(WithoutActions(), "A", DAYS[0], DAYS[-1], before, splits={SPLIT: 2.0})
    assert got.note == f"history restated: its splits in the universe file changed on {SPLIT}"
    assert closes(got, gives_actions=False) == {50.0}


def test_a_split_taken_out_of_the_file_is_taken_out_of_the_actions() -> None:
    before = stored(ingest_symbol(Source(), "A", DAYS[0], DAYS[-1], Stored(), splits={SPLIT: 2.0}))
    got = ingest_symbol(Source(), "A", DAYS[0], DAYS[-1], before)
    assert actions(got) == [(OTHER, 3.0, "source")]
    assert got.restated_from == SPLIT


def test_a_split_that_is_applied_restates_nothing_again() -> None:
    before = stored(ingest_symbol(Source(), "A", DAYS[0], DAYS[-1], Stored(), splits={SPLIT: 2.0}))
    got = ingest_symbol(Source(), "A", DAYS[0], DAYS[-1], before, splits={SPLIT: 2.0})
    assert not got.restated


def test_the_file_wins_over_the_provider_on_the_same_date() -> None:
    got = ingest_symbol(Source(), "A", DAYS[0], DAYS[-1], Stored(), splits={OTHER: 1.5})
    assert actions(got) == [(OTHER, 1.5, UNIVERSE)]


def test_a_universe_gives_its_splits_by_symbol() -> None:
    listed = [{"symbol": "A", "splits": [{"date": SPLIT, "ratio": 2.0}]}, "B"]
    universe = Universe.model_validate(
        {"name": "u", "version": "1.0.0", "provider": "files", "start": DAYS[0], "symbols": listed}
    )
    assert universe.splits == {"A": {SPLIT: 2.0}}


def test_a_split_twice_on_one_date_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "u.yaml"
    path.write_text(
        "name: u\nversion: 1.0.0\nprovider: files\nstart: 2024-01-01\nsymbols:\n"
        "  - {symbol: A, splits: [{date: 2024-01-06, ratio: 2.0}, {date: 2024-01-06, ratio: 3.0}]}\n"
    )
    with pytest.raises(StrategyError, match=r"line 6.*A has two splits on 2024-01-06; keep one"):
        load_universe(path)
