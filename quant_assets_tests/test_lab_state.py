"""What pages read: the published copy, never the live file, and an answer of it only once."""

import re
from collections.abc import Iterator
from datetime import date, datetime
from importlib import import_module
from pathlib import Path
from uuid import uuid4

import polars as pl
import pytest
import streamlit as st

from quant_assets.contracts import quarantine
from quant_assets.core.errors import LabError
from quant_assets.core.settings import settings
from quant_assets.lab import app, serve, state, widgets
from quant_assets.lab.views import trading
from quant_assets.warehouse import Warehouse, published
from quant_assets_tests.lab_platform import NOBODY, Lab, words
from quant_assets_tests.platform import Platform, small_platform

pytestmark = pytest.mark.slow

STORED = "SELECT count(*) AS n FROM quarantine"


def _store(warehouse: Warehouse) -> Path:
    row = {
        "id": uuid4().hex,
        "table_name": "ohlcv",
        "symbol": "AAA",
        "ts": date(2024, 1, 2),
        "rule": "high",
        "row": "{}",
    }
    with warehouse.write() as writer:
        writer.append(
            quarantine.TABLE, pl.DataFrame([row | {"row": "{}", "seen_at": datetime(2024, 1, 3)}]), run_id="run"
        )
    return warehouse.publish()


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    small = small_platform(tmp_path)
    Lab(small, monkeypatch)
    yield small
    settings.cache_clear()


def test_before_the_first_run_a_query_says_what_to_do(platform: Platform) -> None:
    assert state.published_at() is None
    with pytest.raises(LabError, match=r"nothing is stored yet; run `quant pipeline run`"):
        state.query(STORED)


def test_a_query_reads_the_newest_copy_and_what_is_not_published_is_not_seen(platform: Platform) -> None:
    _store(platform.warehouse)
    assert state.query(STORED)["n"].to_list() == [1]
    with platform.warehouse.write() as writer:  # nobody can read the live file now
        writer.delete(quarantine.TABLE, "true")
        assert state.query("SELECT symbol FROM quarantine")["symbol"].to_list() == ["AAA"]
    platform.warehouse.publish()
    assert state.query(STORED)["n"].to_list() == [0]


def test_an_answer_is_kept_until_the_next_copy(platform: Platform) -> None:
    _store(platform.warehouse)
    first = state.query(STORED)
    assert state.query(STORED) is first
    _store(platform.warehouse)
    assert state.query(STORED) is not first


def test_a_copy_that_goes_between_learning_its_name_and_opening_it_is_asked_for_again(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = _store(platform.warehouse)
    names = [copy.with_name("warehouse-1.duckdb"), copy]
    monkeypatch.setattr(published, "current", lambda _: names.pop(0))
    assert state.query(STORED)["n"].to_list() == [1]


def test_a_copy_that_stays_away_is_named(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    gone = _store(platform.warehouse).with_name("warehouse-1.duckdb")
    monkeypatch.setattr(published, "current", lambda _: gone)
    with pytest.raises(LabError, match=rf"cannot read {re.escape(str(gone))}"):
        state.query(STORED)


def test_a_strategy_file_is_read_again_when_it_has_changed(platform: Platform) -> None:
    assert sorted(state.strategies()) == ["forest", "ranks"]
    assert state.markets() is state.markets()
    platform.write_strategy("another")
    assert sorted(state.strategies()) == ["another", "forest", "ranks"]
    assert state.market_of("another").name == "small"


def test_an_error_of_ours_is_one_line_on_the_page(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken() -> None:
        raise LabError("a clear line")

    page_function = trading.page
    monkeypatch.setattr(trading, "page", broken)
    page = Lab(platform, monkeypatch).draw(page_function)
    assert [error.value for error in page.error] == ["a clear line"]


def test_every_page_of_the_menu_is_there(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [name for group in app._PAGES.values() for name in group]
    assert len(names) == 10
    for name in names:
        assert Lab(platform, monkeypatch).draw(import_module(f"quant_assets.lab.views.{name}").page).title


def test_no_order_can_be_placed_on_the_trading_page(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Lab(platform, monkeypatch).draw(trading.page)
    assert "Paper, shadow and live trading are not part of this release." in words(page)
    assert [button.disabled for button in page.button] == [True, True, True]


def test_the_lab_listens_where_it_is_told_and_reports_nothing_home() -> None:
    command = serve.command("127.0.0.1", 8501)
    assert "--server.address=127.0.0.1" in command
    assert "--server.port=8501" in command
    assert "--browser.gatherUsageStats=false" in command


def test_all_options_of_the_lab_are_known_to_streamlit() -> None:
    known = set(st.config._config_options_template)
    given = {word.split("=")[0].removeprefix("--") for word in serve.command("127.0.0.1", 1) if word.startswith("--")}
    assert given <= known


def test_what_is_missing_is_said_with_the_command_that_makes_it(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    page_function = trading.page
    monkeypatch.setattr(trading, "page", lambda: widgets.no_dagster("Runs are started through it."))
    said = words(Lab(platform, monkeypatch).draw(page_function))
    assert f"No Dagster server answers at {NOBODY}" in said
    assert "make dev" in said
