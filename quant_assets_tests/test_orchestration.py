"""The graph as Dagster runs it: backfills, ranges, ticks, automation, failures, retries, checks."""

import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from quant_assets.core.calendar import trading_calendar
from quant_assets.defs import failures
from quant_assets.defs.automation import daily_schedule
from quant_assets.defs.grid import Grid
from quant_assets.defs.jobs import market_job
from quant_assets.event_log import BatchedSqliteEventLogStorage
from quant_assets.market_data import retries
from quant_assets.strategy.markets import RANGE_END, RANGE_START
from quant_assets.strategy.universe import Universe
from quant_assets_tests.platform import (
    DAGSTERS_OWN,
    DECISION_ASSETS,
    LISTED,
    MARKET_ASSETS,
    QUIET,
    START,
    STRATEGIES,
    SYMBOLS,
    Platform,
    bars_of,
    same_tables,
    small_platform,
    universe,
)
from quant_assets_tests.standins import AlphaVantage, Bar, Reply

pytestmark = [pytest.mark.slow, *DAGSTERS_OWN]

WEEK_END = date(2023, 1, 10)
DAYS = [day.isoformat() for day in trading_calendar("XNYS").between(START, WEEK_END)]


def cells(days: list[str], keys: tuple[str, ...] | list[str]) -> set[str]:
    return {f"{day}|{key}" for day in days for key in keys}


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return small_platform(tmp_path)


@pytest.fixture
def week(tmp_path: Path) -> Platform:
    """Six sessions, on which all three symbols are listed."""
    small = small_platform(tmp_path)
    small.write_universe(end=WEEK_END, symbols=list(SYMBOLS))
    small.write_bars("CCC")
    for name in STRATEGIES:
        small.write_strategy(name, backtest={"from": START, "to": WEEK_END}, signal=BY_LAST_RETURN)
    return small


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as ephemeral:
        yield ephemeral


class Here:
    """Runs of a platform's graph in this process, on one instance, and the automation that looks at them."""

    def __init__(self, platform: Platform, instance: dg.DagsterInstance) -> None:
        self.platform = platform
        self.instance = instance
        self.definitions = platform.definitions()
        self.grid = platform.grid()
        self._cursor: Any = None

    def run(
        self, assets: tuple[str, ...], keys: tuple[str, ...], first: date = START, last: date | None = None
    ) -> dg.ExecuteInProcessResult:
        chosen = [dg.AssetKey(asset) for asset in assets]
        stage = "market_stage" if assets[0] in MARKET_ASSETS else keys[0]
        tags = self.grid.range_tags(first, last or self.grid.last_session, keys)
        return self.definitions.resolve_job_def(stage).execute_in_process(
            instance=self.instance, run_config=QUIET, tags=tags, asset_selection=chosen, raise_on_error=False
        )

    def report(self, asset: str, keys: set[str]) -> None:
        for key in keys:
            self.instance.report_runless_asset_event(dg.AssetMaterialization(asset, partition=key))

    def materialized(self, asset: str) -> set[str]:
        return self.instance.get_materialized_partitions(dg.AssetKey(asset))

    def wanted(self) -> dict[str, set[str]]:
        """What one automation tick requests."""
        result = dg.evaluate_automation_conditions(defs=self.definitions, instance=self.instance, cursor=self._cursor)
        self._cursor = result.cursor
        found = {asset: result.get_requested_partitions(dg.AssetKey(asset)) for asset in ALL}
        return {asset: {str(key) for key in keys} for asset, keys in found.items() if keys}

    def automatic(self) -> dict[str, set[str]]:
        """Ticks until nothing is requested, what is requested taken as run; all of it together."""
        total: dict[str, set[str]] = {}
        while wanted := self.wanted():
            for asset, keys in wanted.items():
                assert not keys & total.get(asset, set()), f"{asset} ran twice"
                total.setdefault(asset, set()).update(keys)
                self.report(asset, keys)
        return total


BY_LAST_RETURN = {"type": "factor_rank", "inputs": {"feature_version": "v1", "feature_name": "ret_1d"}}
ALL = MARKET_ASSETS + DECISION_ASSETS


def why(result: dg.ExecuteInProcessResult) -> str:
    """What went wrong, for a failed assertion."""
    return " | ".join(str(event.event_specific_data) for event in result.all_events if event.is_step_failure)[:4000]


def words_of(result: dg.ExecuteInProcessResult, step: str) -> str:
    data = result.failure_data_for_node(step)
    assert data is not None
    assert data.user_failure_data is not None
    return str(data.user_failure_data.description)


# ranges


def test_a_range_is_one_run_that_materialises_every_partition_of_it(
    week: Platform, instance: dg.DagsterInstance
) -> None:
    here = Here(week, instance)
    market = here.run(MARKET_ASSETS, SYMBOLS)
    assert market.success, why(market)
    decision = here.run(DECISION_ASSETS, ("ranks",))
    assert decision.success, why(decision)
    assert len(instance.get_runs()) == 2
    for asset in MARKET_ASSETS:
        assert here.materialized(asset) == cells(DAYS, SYMBOLS)
    for asset in DECISION_ASSETS:
        assert here.materialized(asset) == cells(DAYS, ["ranks"])
    bars = week.warehouse.query("SELECT * FROM ohlcv ORDER BY symbol, ts")
    assert bars.height == len(DAYS) * 3
    assert bars["run_id"].n_unique() == 1


def test_one_partition_is_a_range_of_one(week: Platform, instance: dg.DagsterInstance) -> None:
    here = Here(week, instance)
    result = here.definitions.resolve_job_def("market_stage").execute_in_process(
        instance=instance, partition_key=f"{DAYS[2]}|BBB"
    )
    assert result.success
    assert here.materialized("labels") == {f"{DAYS[2]}|BBB"}
    assert week.warehouse.query("SELECT symbol, ts FROM ohlcv").rows() == [("BBB", date.fromisoformat(DAYS[2]))]


def test_cells_outside_a_listing_materialise_without_rows(platform: Platform, instance: dg.DagsterInstance) -> None:
    platform.write_universe(end=date(2023, 2, 17))
    here = Here(platform, instance)
    assert here.run(MARKET_ASSETS, ("CCC",)).success
    assert len(here.materialized("ohlcv")) == len(here.grid.calendar.between(START, date(2023, 2, 17)))
    assert platform.warehouse.query("SELECT min(ts), count(*) FROM ohlcv").row(0) == (LISTED, 3)


def test_dates_before_a_strategys_period_have_no_backtest_and_are_no_failure(
    week: Platform, instance: dg.DagsterInstance
) -> None:
    week.write_strategy(STRATEGIES[0], backtest={"from": WEEK_END}, signal=BY_LAST_RETURN)
    here = Here(week, instance)
    assert here.run(MARKET_ASSETS, ("AAA", "BBB", "CCC")).success
    result = here.run(DECISION_ASSETS, (STRATEGIES[0],), last=START)
    assert result.success, why(result)
    assert week.warehouse.query("SELECT count(*) AS n FROM backtest_summary")["n"][0] == 0
    assert len(here.materialized("backtest_summary")) == 1


def test_a_strategys_job_refuses_the_partitions_of_another(week: Platform, instance: dg.DagsterInstance) -> None:
    here = Here(week, instance)
    result = here.definitions.resolve_job_def("ranks").execute_in_process(
        instance=instance, partition_key=f"{DAYS[0]}|forest", raise_on_error=False
    )
    assert not result.success
    assert "runs only the partitions of strategy ranks, not of forest" in words_of(result, "predictions")


# the daily tick


def tick(at: datetime, **changes: object) -> list[dg.RunRequest | dg.SkipReason]:
    grid = Grid(Universe.model_validate(universe(end=None, **changes)), trading_calendar("XNYS"), STRATEGIES)
    schedule = daily_schedule(grid, market_job(grid))
    assert schedule is not None
    assert schedule.execution_timezone == "America/New_York"
    context = dg.build_schedule_context(scheduled_execution_time=at)
    data = schedule.evaluate_tick(context)
    return [dg.SkipReason(data.skip_message)] if data.skip_message else list(data.run_requests or ())


def test_after_the_close_of_a_session_the_tick_asks_for_one_run_over_all_symbols() -> None:
    (request,) = tick(datetime(2026, 7, 2, 22, 0, tzinfo=UTC))
    assert isinstance(request, dg.RunRequest)
    assert request.run_key == "2026-07-02"
    assert request.tags[RANGE_START] == "2026-07-02|AAA"
    assert request.tags[RANGE_END] == "2026-07-02|CCC"
    assert request.partition_key is None


@pytest.mark.parametrize(
    ("at", "why"),
    [
        (datetime(2026, 7, 3, 22, 0, tzinfo=UTC), "2026-07-03 is no XNYS session"),
        (datetime(2026, 7, 4, 22, 0, tzinfo=UTC), "2026-07-04 is no XNYS session"),
        (datetime(2026, 7, 2, 19, 59, tzinfo=UTC), "XNYS has not closed on 2026-07-02 yet"),
    ],
    ids=["holiday", "weekend", "before the close"],
)
def test_a_tick_without_a_closed_session_skips_and_says_why(at: datetime, why: str) -> None:
    (skipped,) = tick(at)
    assert isinstance(skipped, dg.SkipReason)
    assert skipped.skip_message == why


def test_the_tick_lies_two_hours_after_the_close_in_the_exchanges_time_zone() -> None:
    grid = Grid(Universe.model_validate(universe(end=None)), trading_calendar("XNYS"), STRATEGIES)
    schedule = daily_schedule(grid, market_job(grid))
    assert schedule is not None
    assert schedule.cron_schedule == "0 18 * * 1-5"


def test_a_universe_of_past_data_has_no_schedule(platform: Platform) -> None:
    assert not platform.definitions().schedules
    platform.write_universe(end=None)
    assert [schedule.name for schedule in platform.definitions().schedules or ()] == ["daily_market"]


def test_the_ticks_run_request_is_a_run_that_the_market_job_accepts(
    week: Platform, instance: dg.DagsterInstance
) -> None:
    """The tags of a tick for today, on a live universe whose last session is today's."""
    week.write_universe(end=None, symbols=list(SYMBOLS))
    here = Here(week, instance)
    day = here.grid.last_session
    for symbol in SYMBOLS:
        week.write_bars(symbol, last=day)
    tags = here.grid.range_tags(day, day, here.grid.universe.names)
    result = here.definitions.resolve_job_def("market_stage").execute_in_process(
        instance=instance, tags=tags, asset_selection=[dg.AssetKey("ohlcv")]
    )
    assert result.success
    assert here.materialized("ohlcv") == cells([day.isoformat()], SYMBOLS)


# automation


def test_nothing_is_asked_for_on_a_fresh_instance(week: Platform, instance: dg.DagsterInstance) -> None:
    assert Here(week, instance).wanted() == {}


def test_decisions_wait_for_the_last_symbol_and_are_made_once(week: Platform, instance: dg.DagsterInstance) -> None:
    here = Here(week, instance)
    here.wanted()
    for asset in MARKET_ASSETS:
        here.report(asset, cells(DAYS, ["AAA", "BBB"]))
    assert here.wanted() == {}
    for asset in MARKET_ASSETS:
        here.report(asset, cells(DAYS, ["CCC"]))
    assert here.automatic() == dict.fromkeys(DECISION_ASSETS, cells(DAYS, STRATEGIES))
    assert here.wanted() == {}


def test_features_follow_bars_symbol_by_symbol(week: Platform, instance: dg.DagsterInstance) -> None:
    here = Here(week, instance)
    here.wanted()
    here.report("ohlcv", cells(DAYS, ["BBB"]))
    assert here.automatic() == dict.fromkeys(("features_daily", "labels"), cells(DAYS, ["BBB"]))


def test_a_restated_bar_carries_its_date_through_both_stages_once(week: Platform, instance: dg.DagsterInstance) -> None:
    here = Here(week, instance)
    here.wanted()
    for asset in MARKET_ASSETS:
        here.report(asset, cells(DAYS, SYMBOLS))
    here.automatic()
    here.report("ohlcv", {f"{DAYS[1]}|BBB"})
    assert here.automatic() == {
        **dict.fromkeys(("features_daily", "labels"), cells([DAYS[1]], ["BBB"])),
        **dict.fromkeys(DECISION_ASSETS, cells([DAYS[1]], STRATEGIES)),
    }
    assert here.wanted() == {}


def test_automation_carries_on_what_a_partial_failure_stored_and_the_rest_after_the_repair(
    week: Platform, instance: dg.DagsterInstance
) -> None:
    here = Here(week, instance)
    here.wanted()
    good = (week.files / "BBB.csv").read_text()
    (week.files / "BBB.csv").write_text("ts,open\n2023-01-03,rubbish\n")
    assert not here.run(MARKET_ASSETS, SYMBOLS).success
    wanted = here.wanted()
    assert wanted == dict.fromkeys(("features_daily", "labels"), cells(DAYS, ["AAA", "CCC"]))
    for symbol in ("AAA", "CCC"):
        assert here.run(("features_daily", "labels"), (symbol,)).success
    assert here.wanted() == {}

    (week.files / "BBB.csv").write_text(good)
    assert here.run(("ohlcv",), ("BBB",)).success
    assert here.wanted() == dict.fromkeys(("features_daily", "labels"), cells(DAYS, ["BBB"]))
    assert here.run(("features_daily", "labels"), ("BBB",)).success
    assert here.automatic() == dict.fromkeys(DECISION_ASSETS, cells(DAYS, STRATEGIES))


# failures


def test_one_symbols_permanent_failure_costs_the_others_nothing(week: Platform, instance: dg.DagsterInstance) -> None:
    (week.files / "BBB.csv").write_text("ts,open,high,low,close,volume\n2023-01-03,1,2\n")
    here = Here(week, instance)
    result = here.run(MARKET_ASSETS, SYMBOLS)
    assert not result.success
    assert here.materialized("ohlcv") == cells(DAYS, ["AAA", "CCC"])
    stored = week.warehouse.query("SELECT symbol, count(*) FROM ohlcv GROUP BY symbol ORDER BY symbol").rows()
    assert stored == [("AAA", len(DAYS)), ("CCC", len(DAYS))]
    words = words_of(result, "ohlcv")
    assert "1 symbol(s) failed (2 other(s) stored, a rerun completes what is missing)" in words
    assert "BBB.csv, line 2: 3 fields where the header has 6" in words
    assert not [event for event in result.all_events if event.is_step_up_for_retry]
    for asset in ("features_daily", "labels"):
        assert here.materialized(asset) == set()


def test_a_symbol_with_too_many_bad_rows_is_quarantined_and_costs_the_others_nothing(
    week: Platform, instance: dg.DagsterInstance
) -> None:
    bad = bars_of("BBB", last=WEEK_END).drop("symbol").with_columns(high=pl.col("low") / 2)
    bad.write_csv(week.files / "BBB.csv")
    here = Here(week, instance)
    result = here.run(("ohlcv",), SYMBOLS)
    assert not result.success
    assert here.materialized("ohlcv") == cells(DAYS, ["AAA", "CCC"])
    assert week.warehouse.query("SELECT DISTINCT symbol, table_name FROM quarantine").rows() == [("BBB", "ohlcv")]
    assert week.warehouse.query("SELECT count(*) FROM ohlcv WHERE symbol = 'BBB'").row(0) == (0,)


def served(bars: dict[str, list[Bar]], week: Platform, monkeypatch: pytest.MonkeyPatch) -> AlphaVantage:
    """A loopback Alpha Vantage that the platform's `ohlcv` asks; the client tries once, the step retries at once."""
    server = AlphaVantage(bars)
    week.write_universe(provider="alpha_vantage", end=WEEK_END, symbols=list(bars))
    monkeypatch.setenv("ALPHA_VANTAGE_API_KEY", "not-a-secret")
    monkeypatch.setenv("QUANT_ALPHA_VANTAGE_URL", server.url)
    monkeypatch.setenv("QUANT_ALPHA_VANTAGE_PER_MINUTE", "1000")
    monkeypatch.setattr(retries, "ATTEMPTS", 1)
    monkeypatch.setattr(failures, "SECONDS_BETWEEN", 0.0)
    return server


def test_a_transient_provider_error_is_retried_by_dagster(
    week: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = [Bar(day, 100 + number) for number, day in enumerate(DAYS)]
    with served({"AAA": bars}, week, monkeypatch) as server:
        server.script(Reply("busy", status=503), Reply("busy", status=429))
        here = Here(week, instance)
        result = here.run(("ohlcv",), ("AAA",))
        assert result.success
        assert len([event for event in result.all_events if event.is_step_up_for_retry]) == 2
        assert here.materialized("ohlcv") == cells(DAYS, ["AAA"])


def test_transient_errors_end_the_run_after_the_last_retry_with_nothing_stored(
    week: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served({"AAA": [Bar(day, 100) for day in DAYS]}, week, monkeypatch) as server:
        server.script(*[Reply("busy", status=503)] * (failures.MAX_RETRIES + 1))
        here = Here(week, instance)
        result = here.run(("ohlcv",), ("AAA",))
        assert not result.success
        assert len(server.queries) == failures.MAX_RETRIES + 1
    assert here.materialized("ohlcv") == set()
    assert week.warehouse.query("SELECT count(*) FROM ohlcv").row(0) == (0,)


def test_a_permanent_provider_error_is_not_retried(
    week: Platform, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    with served({"AAA": [Bar(day, 100) for day in DAYS]}, week, monkeypatch) as server:
        server.script(Reply(json.dumps({"Error Message": "the parameter apikey is invalid or missing."})))
        here = Here(week, instance)
        result = here.run(("ohlcv",), ("AAA",))
        assert not result.success
        assert not [event for event in result.all_events if event.is_step_up_for_retry]
        assert len(server.queries) == 1
    assert "check ALPHA_VANTAGE_API_KEY" in words_of(result, "ohlcv")


# checks


def test_a_failed_blocking_check_stops_what_is_downstream_in_the_same_run(
    week: Platform, instance: dg.DagsterInstance
) -> None:
    """Prices halve for good on one day and nothing adjusts for it: a split that the provider has not told."""
    bars = bars_of("BBB", last=WEEK_END).drop("symbol")
    prices = ["open", "high", "low", "close"]
    halved = [
        pl.when(pl.col("ts") >= date.fromisoformat(DAYS[3])).then(pl.col(name) / 2).otherwise(pl.col(name)).alias(name)
        for name in prices
    ]
    flat = bars.with_columns(pl.lit(100.0).alias(name) for name in prices).with_columns(halved)
    flat.write_csv(week.files / "BBB.csv")
    here = Here(week, instance)
    result = here.run(MARKET_ASSETS, SYMBOLS)
    assert not result.success
    failed = {one.check_name for one in result.get_asset_check_evaluations() if not one.passed and one.blocking}
    assert failed == {"unadjusted_splits"}
    started = {event.step_key for event in result.all_events if event.is_step_start}
    assert started == {"ohlcv", "ohlcv_checks"}
    assert here.materialized("features_daily") == set()


# real processes


@pytest.mark.slow
def test_after_a_partial_failure_a_rerun_of_ingest_fetches_only_what_is_missing(week: Platform) -> None:
    good = (week.files / "BBB.csv").read_text()
    (week.files / "BBB.csv").write_text(good.replace("2023-01-05", "2023-01-05,2023-01-05", 1))
    failed = week.quant("ingest", code=1)
    assert "1 symbol(s) failed (2 other(s) stored, a rerun completes what is missing)" in failed.stderr
    (week.files / "BBB.csv").write_text(good)
    week.quant("ingest")
    assert "nothing missing" in week.quant("ingest").stdout
    first, second = week.runs()
    assert (first.status, second.status) == (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.SUCCESS)
    assert [(run.tags[RANGE_START], run.tags[RANGE_END]) for run in (first, second)] == [
        (f"{DAYS[0]}|AAA", f"{DAYS[-1]}|CCC"),
        (f"{DAYS[0]}|BBB", f"{DAYS[-1]}|BBB"),
    ]
    writers = week.warehouse.query("SELECT symbol, run_id FROM ohlcv GROUP BY ALL ORDER BY symbol").rows()
    assert writers == [("AAA", first.run_id), ("BBB", second.run_id), ("CCC", first.run_id)]


@pytest.mark.slow
def test_dagster_asset_materialize_does_what_quant_does(week: Platform, tmp_path: Path) -> None:
    """As a CI script calls it: the environment names the places, and the event log is the batched one."""
    week.quant("pipeline", "run", "--strategy", "ranks")
    other = Platform(tmp_path, home_name="other")
    words = "asset materialize -m quant_assets.definitions --select ohlcv,features_daily,labels --partition-range"
    other.run("dagster", *words.split(), f"{DAYS[0]}|AAA...{DAYS[-1]}|CCC")
    same_tables(week.warehouse, other.warehouse, ("corporate_actions", "quarantine", *MARKET_ASSETS))
    (run,) = other.runs()
    assert run.status == dg.DagsterRunStatus.SUCCESS
    with other.instance() as instance:
        assert isinstance(instance.event_log_storage, BatchedSqliteEventLogStorage)
        planned = instance.get_records_for_run(
            run.run_id, of_type=dg.DagsterEventType.ASSET_MATERIALIZATION_PLANNED
        ).records
        assert len(planned) == len(MARKET_ASSETS), "the plan of a range is one event per asset with the batched log"
        for asset in MARKET_ASSETS:
            assert instance.get_materialized_partitions(dg.AssetKey(asset)) == cells(DAYS, SYMBOLS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning:dagster")  # Dagster's own calls
def test_a_backfill_runs_symbol_by_symbol_through_the_market_and_then_strategy_by_strategy(
    week: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Launched with the UI's own mutation for all assets and cells, carried out by the daemon's iterations."""
    for name, value in week.environment.items():
        monkeypatch.setenv(name, value)
    symbols = SYMBOLS[:2]
    week.write_universe(end=WEEK_END, symbols=list(symbols))
    with week.instance() as instance:
        backfill = backfill_by_daemon(instance, sorted(cells(DAYS, symbols)))
        assert backfill.status.value == "COMPLETED_SUCCESS"
        runs = sorted(instance.get_run_records(), key=lambda record: record.start_time or 0)
        assert [record.dagster_run.status.value for record in runs] == ["SUCCESS"] * 4
        market, decision = runs[:2], runs[2:]
        assert {span(record) for record in market} == {(f"{DAYS[0]}|{one}", f"{DAYS[-1]}|{one}") for one in symbols}
        assert {span(record) for record in decision} == {
            (f"{DAYS[0]}|{one}", f"{DAYS[-1]}|{one}") for one in STRATEGIES
        }
        for records, assets in ((market, MARKET_ASSETS), (decision, DECISION_ASSETS)):
            for record in records:
                chosen = record.dagster_run.asset_selection or set()
                assert {key.to_user_string() for key in chosen} == set(assets)
        assert max(record.end_time or 0 for record in market) <= min(record.start_time or 0 for record in decision)
        for asset in DECISION_ASSETS:
            done = instance.get_materialized_partitions(dg.AssetKey(asset))
            assert done == cells(DAYS, STRATEGIES)


def span(record: dg.RunRecord) -> tuple[str, str]:
    tags = record.dagster_run.tags
    return tags[RANGE_START], tags[RANGE_END]


def backfill_by_daemon(instance: dg.DagsterInstance, keys: list[str]) -> Any:
    """Launch a backfill of all assets as the UI does, and iterate as the daemon does until it is over."""
    from dagster._core.test_utils import create_test_daemon_workspace_context
    from dagster._core.workspace.load_target import ModuleTarget
    from dagster._daemon.backfill import execute_backfill_iteration
    from dagster._daemon.run_coordinator.queued_run_coordinator_daemon import QueuedRunCoordinatorDaemon
    from dagster_graphql.client.query import LAUNCH_PARTITION_BACKFILL_MUTATION
    from dagster_graphql.test.utils import execute_dagster_graphql

    target = ModuleTarget("quant_assets.definitions", attribute=None, working_directory=None, location_name="quant")
    logger = logging.getLogger("daemon")
    with create_test_daemon_workspace_context(target, instance) as workspace:
        request = workspace.create_request_context()
        answer = execute_dagster_graphql(
            request,
            LAUNCH_PARTITION_BACKFILL_MUTATION,
            {
                "backfillParams": {
                    "assetSelection": [{"path": [asset]} for asset in ALL],
                    "partitionNames": keys,
                    "tags": [],
                }
            },
        ).data["launchPartitionBackfill"]
        assert answer["__typename"] == "LaunchBackfillSuccess", answer
        queue = QueuedRunCoordinatorDaemon(interval_seconds=1)
        until = time.monotonic() + 150
        while time.monotonic() < until:
            assert not [error for error in execute_backfill_iteration(workspace, logger) if error]
            list(queue.run_iteration(workspace))
            backfill = instance.get_backfill(answer["backfillId"])
            assert backfill is not None
            if backfill.status.value not in ("REQUESTED",):
                return backfill
            time.sleep(0.5)
    raise AssertionError("the backfill did not end")
