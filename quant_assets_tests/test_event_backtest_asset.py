"""The asset event_backtest and its commands: what is stored, which backtest is replayed, and the check of parity."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from quant_assets.backtest.pictures import equity_png
from quant_assets.contracts import TABLES
from quant_assets.core.calendar import trading_calendar
from quant_assets.definitions import load
from quant_assets.defs import decision, event_driven
from quant_assets.defs.decision import decision_assets
from quant_assets.defs.event_driven import event_assets
from quant_assets.defs.resources import resources
from quant_assets.market_data.synthetic import synthetic_bars
from quant_assets.strategy import event_driven as replays
from quant_assets.strategy.gate import FLAG
from quant_assets.trading.journal import Journal, read
from quant_assets.trading.market import Market
from quant_assets.warehouse import Warehouse
from quant_assets_tests import small_market
from quant_assets_tests.command_line import CommandLine
from quant_assets_tests.platform import (
    COINS,
    COINS_END,
    COINS_START,
    DAGSTERS_OWN,
    END,
    QUIET,
    Platform,
    small_platform,
)

pytestmark = [pytest.mark.slow, *DAGSTERS_OWN]

NAMES = ("channel", "forest", "ranks", "trend")
"""Stops and a path, a model, a feature, next_open: see `small_market.SIGNALS`."""
FIRST = date(2023, 3, 1)
MIDDLE = date(2023, 6, 14)
"""A Wednesday: only the daily strategy decides on it."""
FRIDAY = date(2023, 6, 16)
COINS_TREND: dict[str, Any] = {
    "universe": "coins",
    "signal": {"type": "tsmom", "inputs": {"lookback": 5, "vol_window": 5}},
    "portfolio": {"short": "full"},
    "execution": {"price": "next_open"},
    "exits": {"stop_loss": 0.03},
    "backtest": {"from": date(2023, 2, 1), "funding_bps_per_day": 3.0},
}


@dataclass
class Made:
    """A platform of two markets with targets and backtests, and runs of the decision stage on it."""

    platform: Platform

    @property
    def warehouse(self) -> Warehouse:
        return self.platform.warehouse

    def run(
        self,
        *names: str,
        strategies: Sequence[str] = ("channel",),
        first: date = END,
        last: date = END,
        market: int = 0,
        **config: dict[str, Any],
    ) -> dg.ExecuteInProcessResult:
        """Materialise assets in one run; `config` is asset -> run config. A single date stands for all up to it."""
        settings = self.platform.settings
        one = load(settings)[market]
        prefix = f"{one.grid.prefix}__" if one.grid.prefix else ""
        assets = {
            asset.key.path[-1]: asset
            for make in (decision_assets, event_assets)
            for asset in make(one.grid, one.strategies, settings)
        }
        return dg.materialize(
            [assets[name] for name in names],
            resources=resources(settings),
            run_config={**QUIET, "ops": {prefix + name: {"config": said} for name, said in config.items()}},
            raise_on_error=False,
            tags=one.grid.range_tags(first, last, strategies),
        )

    def replay(self, **changes: Any) -> dg.ExecuteInProcessResult:
        return self.run("event_backtest", **changes)

    def again(self, **changes: Any) -> dg.ExecuteInProcessResult:
        """A backtest and its replay in one run."""
        return self.run("backtest_summary", "event_backtest", **changes)

    def rows(self, result: dg.ExecuteInProcessResult, table: str = "event_backtests") -> pl.DataFrame:
        return self.warehouse.query(f"SELECT * FROM {table} WHERE run_id = ? ORDER BY ALL", [result.run_id])

    def change(self, sql: str) -> None:
        with self.warehouse.write() as writer:
            writer._connection.execute(sql)


@pytest.fixture(autouse=True)
def _no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reports of backtests take most of a run's time, and are not what is tested here."""
    monkeypatch.setattr(decision, "_show", lambda *_: {})
    monkeypatch.setattr(event_driven, "equity_png", lambda *_: b"")


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Made:
    made = Made(small_platform(tmp_path_factory.mktemp("events")))
    small_market.filled(made.platform)
    made.platform.write_coins()
    made.platform.write_strategy("coins_trend", **COINS_TREND)
    days = trading_calendar("24/7").between(COINS_START, COINS_END)
    bars = synthetic_bars(COINS, days).with_columns(adjusted_close=None, ingested_at=datetime(2024, 1, 2))
    with made.warehouse.write() as writer:
        writer.append(TABLES["ohlcv"], bars, run_id="coins")
    return made


@pytest.fixture
def made(filled: Made, tmp_path: Path) -> Made:
    """A copy to work on."""
    shutil.copytree(filled.platform.root, tmp_path / "copy")
    return Made(Platform(tmp_path / "copy"))


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, dict[str, Any]]:
    """Strategy -> metadata of its newest partition."""
    found = [one.materialization for one in result.get_asset_materialization_events()]
    kept = [one for one in found if one.metadata and one.asset_key.path[-1] == "event_backtest"]
    return {
        str(one.partition).split("|")[-1]: {name: value.value for name, value in one.metadata.items()} for one in kept
    }


def parity_of(result: dg.ExecuteInProcessResult) -> dg.AssetCheckEvaluation:
    (check,) = [one for one in result.get_asset_check_evaluations() if one.check_name == "parity"]
    assert check.blocking
    return check


def assert_equal(made: Made, result: dg.ExecuteInProcessResult) -> None:
    """The run succeeded, its check passed, and what was replayed is what is stored of the backtest it names."""
    assert result.success, failure_of(result)
    assert parity_of(result).passed
    rows = made.rows(result)
    assert rows.height
    for row in rows.iter_rows(named=True):
        assert row["worst_difference"] <= 1e-9
        assert (row["trades_differ"], row["denials"]) == (0, 0)
        kept = made.warehouse.query(
            "SELECT num_trades, final_equity, from_ts, to_ts FROM backtest_summary "
            "WHERE run_id = ? AND strategy_id = ?",
            [row["backtest_run_id"], row["strategy_id"]],
        ).row(0)
        assert (row["trades"], row["reference_equity"], row["from_ts"], row["to_ts"]) == kept
        assert row["fills"] > 0


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    data = failed.step_failure_data
    return str(data.user_failure_data.description if data.user_failure_data else data.error)


# what is stored


def test_a_range_of_several_strategies_is_replayed_as_it_was_backtested(made: Made, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(event_driven, "equity_png", equity_png)
    result = made.replay(strategies=NAMES, first=FIRST)
    assert_equal(made, result)
    assert made.warehouse.query("SELECT count(*) FROM quarantine").item() == 0
    rows = made.rows(result)
    assert rows["strategy_id"].to_list() == rows["backtest_run_id"].to_list() == list(NAMES)
    shown = metadata_of(result)
    assert sorted(shown) == list(NAMES)
    for row in rows.iter_rows(named=True):
        events = made.warehouse.query(
            "SELECT * FROM trading_events WHERE run_id = ? AND strategy_id = ? ORDER BY seq",
            [result.run_id, row["strategy_id"]],
        )
        path = made.platform.home / row["journal"]
        header, recorded = read(path)
        journaled = list(recorded)
        assert header["backtest"] == row["backtest_run_id"]
        assert events["seq"].to_list() == [one.seq for one in journaled]
        counts = dict(events.group_by("kind").len().iter_rows())
        assert (counts["order_request"], counts["fill"]) == (row["orders"], row["fills"])
        assert events.height < row["events"], "bars are not journaled"
        assert row["digest"] == digest_of(path, header)
        metadata = shown[row["strategy_id"]]
        assert (metadata["orders"], metadata["journal"]) == (row["orders"], row["journal"])
        assert f"| fill | {row['fills']} |" in metadata["kinds of events"]
        assert metadata["equity curve"].startswith("![")


def digest_of(path: Path, header: dict[str, Any]) -> str:
    """That of the journal as it lies there."""
    kept = {name: value for name, value in header.items() if name != "schema_version"}
    journal = Journal.resume(path, kept, durable=False)
    try:
        return journal.digest()
    finally:
        journal._release()


def test_a_single_date_is_replayed_from_the_strategys_beginning(made: Made):
    result = made.again(strategies=NAMES, first=MIDDLE, last=MIDDLE)
    assert_equal(made, result)
    assert made.rows(result).select("from_ts", "to_ts", "backtest_run_id").unique().rows() == [
        (FIRST, MIDDLE, result.run_id)
    ]


def test_a_run_whose_step_is_done_again_replaces_its_own_rows_and_meets_its_journal(
    made: Made, monkeypatch: pytest.MonkeyPatch
):
    """The rows cannot be stored at first, and Dagster retries."""
    stored, shown, failed = event_driven._store, event_driven._shown, []

    def once(*args: Any) -> Any:
        if len(failed) < 2:
            failed.append("disk full")
            raise dg.RetryRequested(max_retries=2, seconds_to_wait=0)
        return (stored if len(args) == 5 else shown)(*args)

    monkeypatch.setattr(event_driven, "_store", lambda *args: stored(*args) if failed else once(*args))
    monkeypatch.setattr(event_driven, "_shown", once)
    result = made.replay()
    assert failed == ["disk full"] * 2, "before the rows were stored, and after"
    assert_equal(made, result)
    assert made.rows(result).height == 1
    assert not made.rows(result, "trading_events")["seq"].is_duplicated().any()
    again = made.replay()
    assert_equal(made, again)
    known = made.warehouse.query("SELECT run_id, digest FROM event_backtests")
    assert known["run_id"].n_unique() == 2
    assert known["digest"].n_unique() == 1
    assert made.rows(again, "trading_events").drop("run_id").equals(made.rows(result, "trading_events").drop("run_id"))


def test_a_run_that_breaks_leaves_no_rows(made: Made, monkeypatch: pytest.MonkeyPatch):
    def broken(*_: Any) -> Any:
        raise OSError("no space left")

    monkeypatch.setattr(Market, "_on_bar", broken)
    result = made.replay()
    assert not result.success
    assert "no space left" in failure_of(result)
    assert not made.rows(result).height
    assert not made.rows(result, "trading_events").height


# the check


@pytest.mark.parametrize(
    ("sql", "line"),
    [
        (
            "UPDATE backtest_equity SET equity = equity * 1.01 WHERE run_id = 'channel' AND ts >= DATE '2023-05-15'",
            r"channel: equity differs by 0\.0099\d* at the most, first on 2023-05-15: [\d,.]+ here, [\d,.]+ there",
        ),
        (
            "UPDATE backtest_trades SET exit_price = 55.5 WHERE run_id = 'channel' AND trade_no = 1",
            r"channel: 1 of (\d+) trades differ \(\1 here\), first [ABC]{3} long from [\d-]+ to [\d-]+: "
            r"exit_price [\d.]+ here, 55\.5 there",
        ),
        (
            "DELETE FROM backtest_trades WHERE run_id = 'channel' AND trade_no = 1",
            r"channel: 1 of \d+ trades differ \(\d+ here\), first [ABC]{3} long from [\d-]+ to [\d-]+: only here",
        ),
    ],
    ids=["equity", "a price", "a trade"],
)
def test_what_was_changed_by_hand_fails_the_check_and_is_named(made: Made, sql: str, line: str):
    made.change(sql)
    result = made.replay(strategies=["channel", "forest"])
    check = parity_of(result)
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert re.fullmatch(line, check.description or ""), check.description
    rows = made.rows(result)
    assert rows["strategy_id"].to_list() == ["channel", "forest"], "what was found is stored"
    channel, forest = rows.select(pl.col("worst_difference") > 1e-9, pl.col("trades_differ") > 0).rows()
    assert any(channel)
    assert not any(forest)


# which backtest


def test_a_strategy_without_a_backtest_has_no_rows_and_says_why(made: Made):
    made.platform.write_strategy("idle", **small_market.SIGNALS["channel"])
    result = made.replay(strategies=["idle"])
    assert result.success
    why = f"idle: nothing to replay, it has no backtest by {END}"
    assert metadata_of(result) == {"idle": {"rows": 0, "why": why}}
    assert parity_of(result).passed
    assert not made.rows(result).height


def test_the_backtest_to_replay_can_be_named_and_must_exist(made: Made):
    assert made.run("backtest_summary", backtest_summary={"fee_bps": 50.0}).success
    newest, named = made.replay(), made.replay(event_backtest={"backtest_run": "channel"})
    assert_equal(made, named)
    assert made.rows(named)["backtest_run_id"].to_list() == ["channel"]
    assert made.rows(newest)["final_equity"].item() < made.rows(named)["final_equity"].item()
    failed = made.replay(event_backtest={"backtest_run": "nobodys"})
    assert "run nobodys has no backtest of channel; name one that `quant runs` lists" in failure_of(failed)


def test_a_what_if_is_replayed_as_it_was_run(made: Made):
    config = {
        "fee_bps": 50.0,
        "slippage_bps": 0.0,
        "funding_bps_per_day": 3.0,
        "initial_cash": 5_000.0,
        "from_date": "2023-04-12",
        "to_date": "2023-07-31",
        "symbols": ["AAA", "CCC"],
    }
    result = made.again(strategies=["channel", "forest"], backtest_summary=config)
    assert_equal(made, result)
    assert set(made.rows(result, "trading_events")["symbol"].drop_nulls()) <= {"AAA", "CCC"}
    assert made.rows(result)["final_equity"].to_list() == pytest.approx([5_000.0] * 2, rel=0.5)
    repeated = made.replay(event_backtest={"backtest_run": result.run_id})
    assert_equal(made, repeated)


@pytest.mark.parametrize(
    ("first", "price"),
    [(MIDDLE, "next_open"), (FRIDAY, "close"), (date(2023, 6, 30), "next_close")],
)
def test_a_backtest_that_begins_later_starts_with_what_stood_then(made: Made, first: date, price: str):
    """On the first day only one of the strategies decides; on the second those of each week, on the last all."""
    config = {"from_date": first.isoformat(), "price": price}
    assert_equal(made, made.again(strategies=NAMES, backtest_summary=config))


def test_targets_that_the_gate_held_back_are_decided_anew_on_both_sides(made: Made):
    made.change(
        f"UPDATE targets SET risk_flags = list_append(risk_flags, '{FLAG}'), approved = false, weight = 0 "
        "WHERE strategy_id = 'channel' AND approved AND \"asof\" >= DATE '2023-05-31'"
    )
    for config in ({}, {"from_date": MIDDLE.isoformat()}):
        result = made.again(backtest_summary=config)
        assert_equal(made, result)
        late = made.rows(result, "trading_events").filter(pl.col("ts") > datetime(2023, 6, 20), kind="fill")
        assert late.height, "not flat from the verdict on"


def test_a_partition_of_the_second_market_is_replayed(made: Made):
    given: dict[str, Any] = {"strategies": ["coins_trend"], "market": 1, "first": date(2023, 2, 1), "last": COINS_END}
    assert made.run("targets", **given).success
    result = made.again(**given)
    assert_equal(made, result)
    assert {one.asset_key.to_user_string() for one in result.get_asset_materialization_events()} == {
        "coins/backtest_summary",
        "coins/event_backtest",
    }
    events = made.rows(result, "trading_events")
    assert set(events["symbol"].drop_nulls()) == set(COINS)
    assert {"cash_movement", "fill"} <= set(events["kind"])


def test_a_strategys_job_replays_no_other_strategy(made: Made):
    one = load(made.platform.settings)[0]
    (asset,) = event_assets(one.grid, one.strategies, made.platform.settings)
    tags = {**one.grid.range_tags(FIRST, END, ["channel"]), "quant/strategy": "trend"}
    result = dg.materialize(
        [asset], resources=resources(made.platform.settings), run_config=QUIET, raise_on_error=False, tags=tags
    )
    assert "strategy trend" in failure_of(result)


# the commands


@pytest.fixture
def quant(made: Made, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(made.platform, monkeypatch)


def test_quant_backtest_replays_and_quant_events_shows_what_happened(quant: CommandLine, made: Made):
    said = quant("events", "-s", "channel", code=1)
    assert said.error == "channel has no event-driven backtest; run `quant backtest --engine event -s channel` first"

    said = quant("backtest", "--engine", "event", "-s", "channel")
    (row,) = made.warehouse.query("SELECT * FROM event_backtests").iter_rows(named=True)
    assert (row["trades_differ"], row["denials"]) == (0, 0)
    shown = " ".join(said.out.split())
    assert "event by event" in shown
    for figure in (f"{row['bars']}", f"{row['fills']}", f"{row['final_equity']:,.2f}"):
        assert figure in shown
    assert re.search(r"trading_events\W+[\d,]+", shown)

    count = made.warehouse.query("SELECT count(*) FROM trading_events").item()
    said = quant("events", "-s", "channel")
    assert f"50 of {count:,} event(s)" in said.out
    fills = quant("events", "-s", "channel", "--kind", "fill", "--symbol", "aaa", "--limit", "3")
    wanted = made.warehouse.query(
        "SELECT seq FROM trading_events WHERE kind = 'fill' AND symbol = 'AAA' ORDER BY seq DESC LIMIT 3"
    )["seq"]
    assert all(f"{seq:,}" in fills.out for seq in wanted)
    assert "signal" not in fills.out
    order = quant("events", "-s", "channel", "--order", "channel-1", "--run", row["run_id"][:8])
    for kind in ("decision", "order_request", "order_state", "fill"):
        assert kind in order.out

    assert "has no such event" in quant("events", "-s", "channel", "--symbol", "ZZZ", code=1).error
    assert "nobodys" in quant("events", "-s", "channel", "--run", "nobodys", code=1).error
    assert "Invalid value for '--kind'" in quant("events", "-s", "channel", "--kind", "bar", code=2).err
    assert "nope" in quant("events", "-s", "nope", code=1).error


def test_quant_backtest_fails_where_the_engines_differ(quant: CommandLine, monkeypatch: pytest.MonkeyPatch):
    told = ("equity differs by 1 at the most",)
    compared = replays.parity

    def differing(*args: Any) -> Any:
        return type(found := compared(*args))(**{**vars(found), "lines": told})

    monkeypatch.setattr(replays, "parity", differing)
    said = quant("backtest", "--engine", "event", "-s", "channel", code=1)
    assert "equity differs by 1 at the most" in said.out + said.err
    assert "parity" in said.out + said.err


def test_all_symbols_named_are_no_other_universe(made: Made):
    config = {"from_date": MIDDLE.isoformat(), "symbols": ["AAA", "BBB", "CCC"]}
    result = made.again(strategies=NAMES, backtest_summary=config)
    assert_equal(made, result)
