"""Markets side by side: one on another calendar has assets, jobs and rows of its own and leaves the first as it was."""

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from quant_assets.cli import app as commands
from quant_assets.contracts import TABLES
from quant_assets.core.calendar import trading_calendar
from quant_assets.core.errors import StrategyError
from quant_assets.definitions import load
from quant_assets.defs import marts
from quant_assets.defs.automation import daily_schedule
from quant_assets.defs.grid import Grid
from quant_assets.defs.jobs import market_job
from quant_assets.features import FEATURE_SETS, FeatureSet
from quant_assets.features.sets import ret
from quant_assets.strategy.markets import RANGE_END, RANGE_START
from quant_assets.strategy.universe import Universe
from quant_assets_tests.command_line import CommandLine, two_months
from quant_assets_tests.platform import (
    COINS,
    DAGSTERS_OWN,
    DECISION_ASSETS,
    MARKET_ASSETS,
    STRATEGIES,
    SYMBOLS,
    Platform,
    small_platform,
    universe,
)

pytestmark = DAGSTERS_OWN

COINS_STRATEGIES = ("coins_forest", "coins_ranks")


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return small_platform(tmp_path)


@pytest.fixture
def quant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A command line on a platform of two markets, no strategy on the second."""
    small = two_months(tmp_path)
    small.write_coins(end=date(2023, 1, 10))
    return CommandLine(small, monkeypatch)


def write_coins_strategies(platform: Platform) -> None:
    for name in COINS_STRATEGIES:
        platform.write_strategy(name, universe="coins", backtest={"from": date(2023, 3, 20)})


def keys_of(definitions: dg.Definitions) -> set[str]:
    return {key.to_user_string() for key in of_markets(definitions.get_repository_def().asset_graph)}


def of_markets(graph: Any) -> list[dg.AssetKey]:
    """All assets but the marts, which are of all markets together."""
    return [key for key in graph.get_all_asset_keys() if graph.get(key).group_name != marts.GROUP]


def described(definitions: dg.Definitions, prefix: str = "") -> dict[str, Any]:
    """All that Dagster is told of the assets, checks, jobs and schedules whose names do not begin with `prefix`."""
    repository = definitions.get_repository_def()
    graph = repository.asset_graph
    mine = [key for key in of_markets(graph) if not prefix or key.path[0] != prefix]
    return {
        "assets": {
            key.to_user_string(): (
                node.code_version,
                node.partitions_def,
                node.group_name,
                node.parent_keys,
                node.automation_condition,
                node.tags,
                node.metadata,
                node.description,
                node.backfill_policy,
                {parent: str(node.partition_mappings.get(parent)) for parent in node.parent_keys},
            )
            for key in mine
            for node in [graph.get(key)]
        },
        "checks": {
            key: (graph.get(key).blocking, graph.get(key).description)
            for key in graph.asset_check_keys
            if key.asset_key in mine
        },
        "jobs": {
            name: repository.get_job(name).get_job_snapshot_id()
            for name in repository.job_names
            if name != marts.JOB and not name.startswith(("__", prefix or "__"))
        },
        "schedules": {
            one.name: (one.cron_schedule, one.execution_timezone, one.job_name)
            for one in repository.schedule_defs
            if not prefix or not one.name.startswith(prefix)
        },
        "sensors": [one.name for one in repository.sensor_defs],
    }


@pytest.mark.parametrize("with_strategies", [False, True])
def test_a_market_on_another_calendar_changes_nothing_of_the_first(platform: Platform, with_strategies: bool) -> None:
    platform.write_universe(end=None)
    before = described(platform.definitions())
    assert before["schedules"] == {"daily_market": ("0 18 * * 1-5", "America/New_York", "market_stage")}
    platform.write_coins(end=None)
    if with_strategies:
        write_coins_strategies(platform)
    both = platform.definitions()
    assert described(both, "coins") == before
    first, of_strategies = set(before["assets"]), {*DECISION_ASSETS, "event_backtest"}
    assert first >= {*MARKET_ASSETS, *of_strategies}
    twice = first if with_strategies else first - of_strategies
    assert keys_of(both) == first | {f"coins/{name}" for name in twice}


def test_a_second_market_has_the_same_assets_checks_and_jobs_under_its_name(platform: Platform) -> None:
    platform.write_coins(end=None)
    write_coins_strategies(platform)
    both = platform.definitions()
    repository, graph = both.get_repository_def(), both.get_repository_def().asset_graph
    for asset in (*MARKET_ASSETS, *DECISION_ASSETS, "event_backtest"):
        first, second = graph.get(dg.AssetKey(asset)), graph.get(dg.AssetKey(["coins", asset]))
        assert second.code_version == first.code_version
        assert second.group_name == f"coins_{first.group_name}"
        assert {key.path[-1] for key in second.parent_keys} == {key.path[-1] for key in first.parent_keys}
        assert {key.path[0] for key in second.parent_keys} <= {"coins"}
        names = [{key.name for key in graph.asset_check_keys if key.asset_key == node.key} for node in (first, second)]
        assert names[0] == names[1] != set()
    assert {*COINS_STRATEGIES, "coins_market_stage"} <= set(repository.job_names)
    assert [one.name for one in repository.schedule_defs] == ["coins_daily_market"]
    steps = [node.name for node in repository.get_job("coins_market_stage").graph.nodes]
    assert {"coins__ohlcv", "coins__ohlcv_checks"} <= set(steps)


def test_a_second_markets_partitions_are_its_own_days_and_symbols(platform: Platform) -> None:
    platform.write_coins()
    write_coins_strategies(platform)
    first, second = load(platform.settings)
    assert (first.name, first.grid.prefix, first.grid.strategies) == ("small", "", STRATEGIES)
    assert (second.name, second.grid.prefix, second.grid.strategies) == ("coins", "coins", COINS_STRATEGIES)
    assert second.grid.dates.get_partition_keys()[:2] == ["2023-01-01", "2023-01-02"]
    assert set(second.grid.market.get_partition_keys()[:2]) == {f"2023-01-01|{coin}" for coin in COINS}


def test_universes_on_the_first_markets_calendar_stay_parts_of_it(platform: Platform) -> None:
    platform.write_universe("pair", symbols=["AAA", "BBB"])
    platform.write_strategy("of_pair", universe="pair")
    platform.write_strategy("inline", universe={"symbols": ["AAA", "CCC"]})
    platform.write_coins()
    first, second = load(platform.settings)
    assert first.grid.strategies == ("forest", "inline", "of_pair", "ranks")
    assert second.grid.strategies == ()


def test_any_universe_can_be_the_primary_market(platform: Platform) -> None:
    platform.write_coins()
    turned = platform.settings.model_copy(update={"market": "coins"})
    assert [(one.name, one.grid.prefix, one.grid.strategies) for one in load(turned)] == [
        ("coins", "", ()),
        ("small", "small", STRATEGIES),
    ]


def test_a_symbol_of_two_markets_is_refused(platform: Platform) -> None:
    platform.write_coins(symbols=["AAA", *COINS])
    with pytest.raises(StrategyError, match="AAA is in universes small and coins, each a market of its own; drop it"):
        load(platform.settings)


def test_a_market_computes_and_checks_its_own_feature_sets(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FEATURE_SETS, "v9", FeatureSet("v9", (ret(2),)))
    before = described(platform.definitions())
    platform.write_coins(feature_sets=["v1", "v9"])
    both = platform.definitions()
    assert described(both, "coins") == before
    graph = both.get_repository_def().asset_graph
    coins = dg.AssetKey(["coins", "features_daily"])
    checks = {key.name for key in graph.asset_check_keys if key.asset_key == coins}
    assert {"contract_v1", "unique_key_v1", "contract_v9", "unique_key_v9"} <= checks
    assert graph.get(coins).code_version != graph.get(dg.AssetKey("features_daily")).code_version


def test_a_strategy_that_reads_features_its_market_does_not_compute_is_refused(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(FEATURE_SETS, "v9", FeatureSet("v9", (ret(2),)))
    platform.write_coins(feature_sets=["v9"])
    write_coins_strategies(platform)
    with pytest.raises(StrategyError, match=r"coins_forest\.yaml.* reads feature set v1, but market coins computes v9"):
        load(platform.settings)


# the tick


def live(**changes: object) -> Grid:
    coins = universe(name="coins", calendar="24/7", start=date(2024, 1, 1), end=None, symbols=["BTC", "ETH"], **changes)
    return Grid(Universe.model_validate(coins), trading_calendar("24/7"), (), "coins")


@pytest.mark.parametrize("grain", ["day", "week", "month"])
@pytest.mark.parametrize("day", [date(2026, 6, 29) + timedelta(n) for n in range(7)], ids=lambda day: f"{day:%A}")
def test_a_quarter_past_midnight_the_tick_asks_for_the_day_that_has_just_ended(day: date, grain: str) -> None:
    grid = live(grain=grain)
    schedule = daily_schedule(grid, market_job(grid))
    assert schedule is not None
    assert (schedule.name, schedule.cron_schedule, schedule.execution_timezone) == (
        "coins_daily_market",
        "15 0 * * *",
        "UTC",
    )
    at = datetime(day.year, day.month, day.day, 0, 15, tzinfo=UTC)
    data = schedule.evaluate_tick(dg.build_schedule_context(scheduled_execution_time=at))
    (request,) = data.run_requests or ()
    ended = day - timedelta(1)
    assert request.run_key == ended.isoformat()
    assert request.tags[RANGE_START] == f"{grid.date_key(ended)}|BTC"
    assert request.tags[RANGE_END] == f"{grid.date_key(ended)}|ETH"
    assert grain != "day" or grid.date_key(ended) == ended.isoformat()


# the command line


def test_an_unknown_market_is_told_the_known_ones(quant: CommandLine) -> None:
    for words in (["symbols", "list"], ["ingest"], ["daily"], ["pipeline", "run"], ["check", "leakage"]):
        error = quant(*words, "--market", "nope", code=1).error
        assert error == "market 'nope' is unknown; use one of: small, coins"
    assert "use one of: small, coins" in quant("symbols", "add", "X", "--market", "nope", code=1).error


def test_market_commands_take_the_market_that_is_named(quant: CommandLine) -> None:
    assert "small 1.0.0 (files)" in quant("symbols", "list").out
    said = quant("symbols", "list", "--market", "coins").out
    assert "coins 1.0.0 (synthetic)" in said
    assert "BTC/USDT" in said
    assert "AAA" not in said
    added = quant("symbols", "add", "sol/usdt", "--market", "coins").out
    assert "SOL/USDT added, now version 1.1.0 with 3 symbols" in added
    assert "coins.yaml" in added


def test_a_strategy_of_another_market_than_the_one_named_is_refused(quant: CommandLine) -> None:
    error = quant("pipeline", "run", "-s", "ranks", "--market", "coins", code=1).error
    assert error == "strategy ranks is on market small, not coins; choose one"


def test_a_symbol_of_another_market_is_refused(quant: CommandLine) -> None:
    error = quant("ingest", "--symbols", "AAA", "--market", "coins", code=1).error
    assert "symbol AAA is not in universe coins (BTC/USDT, ETH/USDT)" in error


@pytest.mark.slow
def test_ingest_of_a_market_stores_weekends_too(quant: CommandLine) -> None:
    said = quant("ingest", "--market", "coins", "--symbols", "BTC/USDT")
    assert "partitions: coins/ohlcv 10" in said.out
    assert "coins/ohlcv: 2023-01-01..2023-01-10 x BTC/USDT" in said.err
    assert "nothing missing" in quant("ingest", "--market", "coins", "--symbols", "BTC/USDT").out
    assert quant.platform.warehouse.query("SELECT count(*) FROM ohlcv").item() == 10
    (run,) = quant.runs()
    assert run.job_name == "coins_market_stage"
    said = quant("features", "--market", "coins")
    assert "no bars ingested from 2023-01-01 to 2023-01-10 for ETH/USDT: left out" in said.err


@pytest.mark.slow
def test_one_partition_can_be_run_by_its_key(quant: CommandLine) -> None:
    quant("init-db")
    coins = commands.session.market("coins")
    launched = coins.launcher.run_partition("coins_market_stage", "ohlcv", "2023-01-07|ETH/USDT")
    assert (launched.succeeded, launched.cells) == (True, {"coins/ohlcv": 1})
    assert quant.platform.warehouse.query("SELECT symbol, ts FROM ohlcv").rows() == [("ETH/USDT", date(2023, 1, 7))]


def rows(platform: Platform) -> dict[str, pl.DataFrame]:
    return {name: platform.warehouse.query(f"SELECT * FROM {name}") for name in TABLES}


def added(before: dict[str, pl.DataFrame], after: dict[str, pl.DataFrame]) -> dict[str, pl.DataFrame]:
    """What was added; nothing may have gone or changed."""
    new = {}
    for name, old in before.items():
        assert old.join(after[name], on=old.columns, how="anti", nulls_equal=True).is_empty(), name
        new[name] = after[name].join(old, on=old.columns, how="anti", nulls_equal=True)
    return new


@pytest.mark.slow
@pytest.mark.thorough
def test_two_markets_run_through_both_stages_and_keep_their_rows_apart(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both have a strategy with the same model spec, so that both write predictions of one experiment."""
    quant = CommandLine(platform, monkeypatch)
    quant("pipeline", "run")
    before = rows(platform)
    platform.write_coins()
    write_coins_strategies(platform)
    said = quant("pipeline", "run", "--market", "coins")
    assert "partitions: coins/ohlcv 240, coins/features_daily 240, coins/labels 240" in said.out
    assert "coins_forest 1.0.0" in said.out
    assert all(run.tags["quant/pipeline"] for run in quant.runs())
    both = rows(platform)
    new = added(before, both)
    for name in ("ohlcv", "labels", "features_daily", "predictions"):
        assert set(new[name]["symbol"]) == set(COINS), name
    for name in ("targets", "backtest_summary", "backtest_equity"):
        assert set(new[name]["strategy_id"]) == set(COINS_STRATEGIES), name
    assert set(new["ohlcv"]["ts"].dt.weekday()) == set(range(1, 8))
    assert before["models"]["experiment_id"].unique().to_list() == new["models"]["experiment_id"].unique().to_list()

    quant("train", "-s", "forest")
    again = rows(platform)
    for symbols in (SYMBOLS, COINS):
        mine = pl.col("symbol").is_in(list(symbols))
        left, right = (
            one["predictions"].filter(mine).drop("run_id", "generated_at").sort("symbol", "ts") for one in (both, again)
        )
        assert left.height
        assert left.equals(right)
    scored = quant("score", "-s", "coins_forest", "--asof", "2023-04-29").out
    assert "coins_forest on 2023-04-29" in scored
    assert "BTC/USDT" in scored
    assert "AAA" not in scored
    assert "target coins_ranks / BTC/USDT" in quant("trace", "-s", "coins_ranks", "--symbol", "btc/usdt").out
    assert [run.job_name for run in quant.runs()].count("coins_forest") == 2


@pytest.mark.thorough
@pytest.mark.slow
def test_strategies_of_both_markets_in_one_command_bring_their_markets_along(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small = two_months(tmp_path)
    small.write_coins(end=date(2023, 1, 31))
    small.write_strategy("coins_ranks", universe="coins", backtest={"from": date(2023, 1, 20)})
    quant = CommandLine(small, monkeypatch)
    said = quant("pipeline", "run", "-s", "ranks", "-s", "coins_ranks")
    assert [run.job_name for run in quant.runs()] == ["market_stage", "ranks", "coins_market_stage", "coins_ranks"]
    assert "small 1.0.0 (files)" in said.out
    assert "coins 1.0.0 (synthetic)" in said.out
    assert len({run.tags["quant/pipeline"] for run in quant.runs()}) == 1
    small.write_coins(end=date(2023, 2, 1))
    said = quant("daily", "--market", "coins", "--asof", "2023-02-01")
    assert "partitions: coins/ohlcv 2, coins/features_daily 2, coins/labels 2" in said.out
    assert "partitions: coins/predictions 1, coins/targets 1, coins/backtest_summary 1, coins/validation 1" in said.out
