"""Back: the chain from a target, a trade, a backtest or a model to the bars, and what run storage adds to it."""

import shutil
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from quant_assets.contracts import backtest_trades, ohlcv, quarantine, targets
from quant_assets.core.errors import ConfigError
from quant_assets.defs.lineage import newest_restatement, with_runs
from quant_assets.defs.market import RESTATED
from quant_assets.strategy import lineage
from quant_assets.strategy.lineage import Node
from quant_assets.strategy.markets import Market
from quant_assets_tests import small_market
from quant_assets_tests.platform import DAGSTERS_OWN, END, SYMBOLS, Platform
from quant_assets_tests.small_market import MARKET_RUN, NOW, Made

pytestmark = [*DAGSTERS_OWN, pytest.mark.slow]
DAY = date(2023, 8, 25)
Stage = tuple[Platform, Market, Made]


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> Stage:
    platform = Platform(tmp_path_factory.mktemp("small"))
    return platform, *small_market.filled(platform)


@pytest.fixture
def own_stage(stage: Stage, tmp_path: Path) -> Stage:
    """A copy whose rows may be changed."""
    shutil.copytree(stage[0].root, tmp_path / "copy")
    return Platform(tmp_path / "copy"), *stage[1:]


def of_target(stage: Stage, strategy: str, symbol: str = "AAA", asof: date | None = DAY) -> Node:
    platform, market, _ = stage
    return lineage.of_target(platform.warehouse, market.layout, market.strategies[strategy], symbol, asof)


def test_a_target_that_ranks_by_a_feature_comes_from_its_features_and_their_bars(stage: Stage):
    node = of_target(stage, "ranks", asof=date(2023, 8, 29))
    row = stage[2].targets["ranks"].filter(asof=DAY, symbol="AAA").row(0, named=True)
    assert (node.kind, node.title, node.asset, node.partition) == (
        "target", "target ranks / AAA as of 2023-08-25", ("targets",), "2023-08-25|ranks",
    )  # fmt: skip
    assert node.run_ids == ("ranks",)
    assert node.facts["weight"] == f"{row['weight']:.4f}"
    assert node.facts["reason"] == row["reason"]
    (features,) = node.parents
    assert (features.title, features.partition) == ("features v1 of AAA 2023-08-25", "2023-08-25|AAA")
    assert "ret_5d" in features.facts["values"]
    (bars,) = features.parents
    assert bars.facts == {
        "partitions": "2023-05-31|AAA .. 2023-08-25|AAA (61 bars)",
        "provider": "files",
        "quarantined": "0",
    }
    assert (bars.run_ids, bars.parents) == ((MARKET_RUN,), ())


def test_a_model_s_target_comes_from_a_prediction_its_model_and_the_rows_that_it_was_trained_on(stage: Stage):
    node = of_target(stage, "forest")
    prediction, risk = node.parents
    model, features = prediction.parents
    trained = stage[2].models.filter(train_to=stage[2].models["train_to"].max()).row(0, named=True)
    assert [one.kind for one in (prediction, model, features, risk)] == ["prediction", "model", "features", "bars"]
    assert model.title == f"model {trained['model_id']}"
    assert model.run_ids == ("forest",)
    learnt, known = model.parents
    span = f"{trained['train_from']} .. {trained['train_to']}"
    assert [learnt.title, known.title] == [f"features v1, {span}", f"labels fwd_ret_5d v1, {span}"]
    assert known.parents[0].title == f"bars of 3 symbols, {trained['train_from']} .. 2023-08-01"
    # its weights are by volatility, which is of bars
    assert risk.facts["partitions"] == "2023-07-28|AAA .. 2023-08-25|AAA (21 bars)"


def test_a_rule_that_holds_positions_comes_from_all_bars(stage: Stage):
    (bars,) = of_target(stage, "channel").parents
    assert bars.facts["partitions"] == "2023-01-03|AAA .. 2023-08-25|AAA (163 bars)"


def test_a_symbol_without_a_row_of_features_says_so(own_stage: Stage):
    with own_stage[0].warehouse.write() as writer:
        writer._connection.execute("DELETE FROM features_daily__v1 WHERE ts = ?", [DAY])
        writer._connection.execute("DELETE FROM predictions WHERE ts = ?", [DAY])
        writer.delete(ohlcv.TABLE, "symbol = 'AAA'")
    (features,) = of_target(own_stage, "ranks").parents
    assert features.facts == {"values": "none stored"}
    assert features.parents[0].facts == {"partitions": "none stored", "provider": "", "quarantined": "0"}
    prediction, _ = of_target(own_stage, "forest").parents
    assert (prediction.facts, prediction.run_ids) == ({"score": "none stored"}, ())


def test_bars_in_quarantine_stand_behind_those_that_are_there(own_stage: Stage):
    with own_stage[0].warehouse.write() as writer:
        for table, day in (("ohlcv", DAY), ("ohlcv", date(2023, 1, 4)), ("labels", DAY)):
            row = {"id": f"{table}{day}", "table_name": table, "symbol": "AAA", "ts": day, "rule": "low is above high"}
            writer.append(quarantine.TABLE, pl.DataFrame([{**row, "row": "{}", "seen_at": NOW}]), run_id="bad")
    (features,) = of_target(own_stage, "ranks").parents
    (bars,) = features.parents
    (held,) = bars.parents
    assert bars.facts["quarantined"] == "1"
    assert (held.kind, held.title, held.run_ids) == ("quarantine", "quarantine of AAA", ("bad",))
    assert held.facts == {"low is above high": f"1 row(s), {DAY} .. {DAY}"}


def test_a_target_of_another_version_than_the_file_s_says_so(own_stage: Stage):
    with own_stage[0].warehouse.write() as writer:
        old = (
            own_stage[2]
            .targets["ranks"]
            .filter(asof=DAY)
            .with_columns(version=pl.lit("0.9.0"), asof=DAY + timedelta(3))
        )
        writer.append(targets.TABLE, old.with_columns(generated_at=pl.lit(NOW)), run_id="older")
    node = of_target(own_stage, "ranks", asof=END - timedelta(2))
    assert node.facts["strategy"] == "ranks 0.9.0; the file is 1.0.0 by now, and what it reads is shown below"


def of_trade(stage: Stage, strategy: str, **wanted: object) -> tuple[dict[str, object], Node]:
    platform, market, _ = stage
    trades = platform.warehouse.query(
        "SELECT * FROM backtest_trades WHERE strategy_id = ? ORDER BY trade_no", [strategy]
    )
    row = trades.filter(**wanted).row(0, named=True)
    spec = market.strategies[strategy]
    return row, lineage.of_trade(platform.warehouse, market.layout, spec, strategy, row["trade_no"])


@pytest.mark.parametrize(("strategy", "later"), [("ranks", 0), ("trend", 1)])
def test_a_trade_comes_from_the_targets_whose_orders_opened_and_closed_it(stage: Stage, strategy: str, later: int):
    row, node = of_trade(stage, strategy, reason="rebalance")
    calendar = stage[1].layout.calendar
    opened, closed = (calendar.offset(row[name], -later) for name in ("entry_ts", "exit_ts"))
    assert node.title == f"trade {row['trade_no']} of {strategy} / {row['symbol']}"
    assert (node.facts["opened by"], node.facts["closed by"]) == (f"target of {opened}", f"target of {closed}")
    dates = stage[2].targets[strategy]["asof"].to_list()
    assert {opened, closed} <= set(dates)
    assert [one.title for one in node.parents] == [
        f"target {strategy} / {row['symbol']} as of {opened}",
        f"target {strategy} / {row['symbol']} as of {closed}",
        f"bars of {row['symbol']}, {row['entry_ts']} .. {row['exit_ts']}",
    ]
    assert all(one.run_ids == (strategy,) for one in node.parents[:2])


def test_a_stop_closes_a_trade_without_a_target(own_stage: Stage):
    with own_stage[0].warehouse.write() as writer:
        writer._connection.execute("UPDATE backtest_trades SET reason = 'stop loss' WHERE strategy_id = 'ranks'")
    row, node = of_trade(own_stage, "ranks")
    assert "closed by" not in node.facts
    assert [one.kind for one in node.parents] == ["target", "bars"]
    assert node.facts["why"] == "stop loss"
    assert row["reason"] == "stop loss"


def test_an_open_trade_is_followed_to_the_backtest_s_end(stage: Stage):
    _, node = of_trade(stage, "ranks", reason="open")
    assert node.facts["closed"] == "still open at the end"
    assert [one.kind for one in node.parents] == ["target", "bars"]
    assert node.parents[-1].title.endswith(f".. {END}")


def test_a_target_decided_again_since_the_backtest_says_so(own_stage: Stage):
    with own_stage[0].warehouse.write() as writer:
        writer._connection.execute("UPDATE targets SET generated_at = generated_at + INTERVAL 1 DAY")
    _, node = of_trade(own_stage, "ranks", reason="rebalance")
    assert node.parents[0].facts["note"] == "decided again since the backtest, which may have had another weight"
    assert "note" not in of_target(own_stage, "ranks").facts


def test_a_backtest_of_some_symbols_decided_for_itself(own_stage: Stage):
    with own_stage[0].warehouse.write() as writer:
        only = 'UPDATE trials SET params = replace(params, \'["AAA","BBB","CCC"]\', \'["AAA","BBB"]\')'
        writer._connection.execute(only)
    platform, market, _ = own_stage
    node = lineage.of_backtest(platform.warehouse, market.layout, market.strategies["ranks"], "ranks")
    assert node.facts["targets"] == "decided by the backtest for its own symbols, and not stored"
    assert [one.title for one in node.parents] == [f"bars of 2 symbols, 2023-03-01 .. {END}"]
    _, trade = of_trade(own_stage, "ranks")
    assert [one.kind for one in trade.parents] == ["bars"]


def test_a_backtest_comes_from_all_it_was_made_of(stage: Stage):
    platform, market, made = stage
    node = lineage.of_backtest(platform.warehouse, market.layout, market.strategies["forest"], "forest")
    kinds = [one.kind for one in node.chain()]
    assert [kinds.count(one) for one in ("backtest", "target", "prediction", "model", "labels")] == [1] * 5
    by_kind = {one.kind: one for one in node.chain()}
    assert node.facts["symbols"] == ", ".join(SYMBOLS)
    assert by_kind["target"].facts["stored"].startswith(f"{made.targets['forest'].height} rows, 2023-03-03 .. ")
    experiment = market.strategies["forest"].model.experiment_id
    assert by_kind["model"].title == f"models of {experiment}"
    assert by_kind["model"].facts["models"] == f"{made.models.height}"


def test_a_model_comes_from_its_training_rows(stage: Stage):
    platform, market, made = stage
    row = made.models.row(0, named=True)
    node = lineage.of_model(platform.warehouse, market.layout, market.strategies["forest"], row["model_id"])
    assert [one.kind for one in node.parents] == ["features", "labels"]
    rows = made.features.filter(pl.col("ts").is_between(row["train_from"], row["train_to"])).height
    assert node.parents[0].facts["stored"].startswith(f"{rows} rows, ")


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (
            lambda *s: lineage.of_target(*s, "ZZZ"),
            "ranks has no target for ZZZ on or before today; run `quant pipeline",
        ),
        (lambda *s: lineage.of_trade(*s, "ranks", 999), "the backtest of ranks by run ranks has no trade 999: it has"),
        (lambda *s: lineage.of_trade(*s, "nope", 0), "run nope stored no backtest of ranks; `quant runs` lists"),
        (lambda *s: lineage.of_backtest(*s, "nope"), "run nope stored no backtest of ranks"),
        (lambda *s: lineage.of_model(*s, "m_0"), "ranks has no model m_0; `quant train -s ranks` trains some"),
    ],
)
def test_what_is_not_there_is_one_line(stage: Stage, call, told: str):
    platform, market, _ = stage
    with pytest.raises(ConfigError, match=told):
        call(platform.warehouse, market.layout, market.strategies["ranks"])


def test_a_backtest_without_trades_has_none_to_follow(own_stage: Stage):
    platform, market, _ = own_stage
    with platform.warehouse.write() as writer:
        writer.delete(backtest_trades.TABLE, "true")
    with pytest.raises(ConfigError, match="has no trade 0: it has none"):
        lineage.of_trade(platform.warehouse, market.layout, market.strategies["ranks"], "ranks", 0)


# --- what run storage adds


@pytest.fixture
def instance() -> Iterator[dg.DagsterInstance]:
    with dg.DagsterInstance.ephemeral() as made:
        yield made


def ran(instance: dg.DagsterInstance, platform: Platform, days: tuple[str, str], restated: dict[str, list[str]]) -> str:
    """A run of `ohlcv` over all symbols that says what it restated, in this process."""
    grid = platform.grid()
    last = [f"{days[1]}|{name}" for name in SYMBOLS]

    @dg.asset(
        name="ohlcv", partitions_def=grid.market, code_version="seven", backfill_policy=dg.BackfillPolicy.single_run()
    )
    def bars(context: dg.AssetExecutionContext) -> None:
        for cell in last if restated else ():
            context.add_asset_metadata({RESTATED: restated}, partition_key=cell)

    @dg.asset_check(asset=bars)
    def good() -> dg.AssetCheckResult:
        return dg.AssetCheckResult(passed=False)

    tags = {
        "dagster/asset_partition_range_start": f"{days[0]}|{SYMBOLS[0]}",
        "dagster/asset_partition_range_end": last[-1],
    }
    return dg.materialize([bars, good], instance=instance, tags=tags, raise_on_error=False).run_id


def test_run_storage_adds_state_checks_and_code_version(instance: dg.DagsterInstance, stage: Stage):
    run_id = ran(instance, stage[0], ("2023-08-24", "2023-08-25"), {})
    bars = Node("bars of AAA", {"provider": "files"}, "bars", ("ohlcv",), "2023-08-25|AAA", (run_id, "gone"))
    told = with_runs(Node("features", {}, "features", ("features_daily",), "", (), (bars,)), instance)
    assert told.facts == {}
    facts = told.parents[0].facts
    assert list(facts) == ["provider", f"run {run_id}", "code version", "run gone"]
    assert facts[f"run {run_id}"].startswith("SUCCESS ")
    assert "checks 0/1 passed, " in facts[f"run {run_id}"]
    assert facts[f"run {run_id}"].endswith(" [2023-08-24|AAA .. 2023-08-25|CCC]")
    assert facts["code version"] == "seven"
    assert facts["run gone"] == "no longer in run storage"
    other = Node("target", {}, "target", ("targets",), "2023-08-25|ranks", (run_id,))
    assert "code version" not in with_runs(other, instance).facts


def test_the_newest_restatement_of_a_symbol_is_found_in_what_runs_of_bars_say(
    instance: dg.DagsterInstance, stage: Stage
):
    grid = stage[0].grid()
    assert newest_restatement(instance, grid, "AAA") is None
    first = ran(instance, stage[0], ("2023-08-24", "2023-08-25"), {"AAA": ["2023-01-03", "2023-08-25"]})
    ran(instance, stage[0], ("2023-08-28", "2023-08-28"), {"BBB": ["2023-08-25", "2023-08-25"]})
    ran(instance, stage[0], ("2023-08-29", "2023-08-29"), {})
    assert newest_restatement(instance, grid, "AAA") == (date(2023, 1, 3), date(2023, 8, 25))
    assert newest_restatement(instance, grid, "BBB") == (date(2023, 8, 25), date(2023, 8, 25))
    assert newest_restatement(instance, grid, "CCC") is None
    assert newest_restatement(instance, grid, "AAA", first) == (date(2023, 1, 3), date(2023, 8, 25))
    assert newest_restatement(instance, grid, "BBB", first) is None
    assert newest_restatement(instance, grid, "AAA", "nope") is None
