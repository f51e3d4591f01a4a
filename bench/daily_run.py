"""One new session of 500 symbols with ten years of history, through the whole graph, start of the process to its exit.

Run with `python bench/daily_run.py`. Ours is `quant daily --asof <session>`, what a scheduler would run: bars, features
and labels of 500 symbols, then predictions, targets and backtest of a factor strategy, whose backtest spans all ten
years, and of a pooled model strategy with models of earlier quarters. The other side is a process that imports the
same libraries and runs the same graph in Dagster (partitions, dependencies, checks, runs) with empty bodies: plain, and
`tuned` with the garbage collector's settings and the quick exit that `quant` has. Each round takes the next session on
all sides. Date partitions are months, which keeps the number of partition keys at 60,500. Bounded by the imports (a
third of ours) and Dagster's runs, then by 500 answers of the provider and the ten years that the backtest reads.
"""

import gc
import json
import os
import re
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from common import Finished, load, median_of, process, report, temporary_home

SYMBOLS, SESSIONS, ROUNDS = 500, 2520, 5
GRAIN = "month"
FIRST = date(2010, 1, 4)
SEEDED = "seeded.json"
LIBRARIES = (
    *("typer", "rich.table", "dagster", "dagster_duckdb", "duckdb", "polars", "pandera.polars", "lightgbm"),
    *("scipy.special", "sklearn.linear_model", "vectorbt", "matplotlib.figure", "matplotlib.backends.backend_svg"),
)
"""What `quant daily` has imported at its end, beside ourselves."""
MARKET = ("ohlcv", "features_daily", "labels")
DECISION = ("predictions", "targets", "backtest_summary")

UNIVERSE = """\
name: synthetic
version: 1.0.0
provider: synthetic
grain: {grain}
start: {start}
end: {end}
symbols: [{symbols}]
"""
FACTOR = """\
strategy_id: factor
version: 1.0.0
universe: synthetic
signal: {{type: factor_rank, inputs: {{feature_version: v1, feature_name: ret_60d}}}}
rebalance: {{frequency: weekly, asof_policy: close}}
portfolio: {{top_k: 50, weighting: equal}}
supervisor: {{max_weight_per_symbol: 0.05, max_positions: 50}}
min_cross_section: 0.9
backtest: {{from: {start}, fee_bps: 2, slippage_bps: 10}}
"""
MODEL = """\
strategy_id: model
version: 1.0.0
universe: synthetic
signal:
  type: model_score
  model: {{task: classification, label: direction_60d, scope: universe, retrain: quarterly}}
rebalance: {{frequency: weekly, asof_policy: close}}
portfolio: {{top_k: 50, weighting: score_weighted}}
supervisor: {{max_weight_per_symbol: 0.05, max_positions: 50}}
min_cross_section: 0.9
backtest: {{from: {start}, fee_bps: 2, slippage_bps: 10}}
"""


def write_universe(home: Path, last: date) -> None:
    """The universe as it is on the day `last`: its partitions end there, as a live universe's do."""
    from quant_assets.market_data.synthetic import synthetic_symbols

    (home / "strategies" / "universes" / "synthetic.yaml").write_text(
        UNIVERSE.format(grain=GRAIN, start=FIRST, end=last, symbols=", ".join(synthetic_symbols(SYMBOLS)))
    )


def write_files(home: Path) -> dict[str, Any]:
    """The universe on the last day of history and the two strategies. Returns the dates that rounds need."""
    from quant_assets.core.calendar import trading_calendar

    sessions = trading_calendar().between(FIRST, date.max)[: SESSIONS + ROUNDS + 1]
    history, new = sessions[:SESSIONS], sessions[SESSIONS:]
    quarters = [day for before, day in pairwise(history) if (day.month - 1) // 3 != (before.month - 1) // 3]
    (home / "strategies" / "universes").mkdir(parents=True)
    write_universe(home, history[-1])
    (home / "strategies" / "factor.yaml").write_text(FACTOR.format(start=history[0]))
    (home / "strategies" / "model.yaml").write_text(MODEL.format(start=quarters[-2]))
    return {"first": history[0], "last": history[-1], "model_from": quarters[-2], "new": new}


def seed(home: Path) -> None:
    """Ten years in the warehouse by our own functions; targets and the model by the decision stage itself."""
    dates = write_files(home)
    from quant_assets.cli.session import DECISION_ASSETS, session
    from quant_assets.contracts import TABLES, Table, features_daily
    from quant_assets.contracts.gate import gate
    from quant_assets.defs.checks import CHECKS, feature_contracts
    from quant_assets.features import feature_set
    from quant_assets.labels import label_set, settled_between
    from quant_assets.market_data.synthetic import synthetic_bars

    first, last = dates["first"], dates["last"]
    market = session.market()
    calendar, names = market.grid.calendar, market.grid.universe.names
    import polars as pl

    now = datetime.now(UTC).replace(tzinfo=None)
    bars = synthetic_bars(names, calendar.sessions).filter(pl.col("ts").is_between(first, last))

    def store(table: Table, frame: Any, instant: str) -> None:
        with session.warehouse.write() as writer:
            writer.ensure(table)
            writer.append(table, gate(table, frame.with_columns(pl.lit(now).alias(instant))).good, run_id="seed")

    features, labels = feature_set("v1"), label_set("v1")
    store(TABLES["ohlcv"], bars, "ingested_at")
    store(features_daily.wide("v1", features.names), features.compute(bars), "computed_at")
    store(TABLES["labels"], settled_between(labels.compute(bars), first, last), "computed_at")
    for strategy, since in (("factor", first), ("model", dates["model_from"])):
        if not market.launcher.run(DECISION_ASSETS, since, last, [strategy]).succeeded:
            raise SystemExit(f"seeding {strategy} failed")
    all_checks = {**CHECKS, "features_daily": [*feature_contracts("v1"), *CHECKS["features_daily"]]}
    checks = {asset: [(one.name, one.blocking) for one in found] for asset, found in all_checks.items()}
    days = [str(day) for day in dates["new"]]
    (home / SEEDED).write_text(json.dumps({"days": days, "strategies": list(market.strategies), "checks": checks}))


def empty(home: Path, day: date) -> None:
    """The same graph, partitions, checks and runs with nothing in the bodies."""
    for name in LIBRARIES:
        import_module(name)
    import dagster as dg

    from quant_assets.core.calendar import trading_calendar
    from quant_assets.defs.grid import Grid
    from quant_assets.strategy.universe import load_universe

    told = json.loads((home / SEEDED).read_text())
    universe = load_universe(home / "strategies" / "universes" / "synthetic.yaml")
    grid = Grid(universe, trading_calendar(), tuple(told["strategies"]))
    across = dg.MultiPartitionMapping({"date": dg.DimensionPartitionMapping("date", dg.TimeWindowPartitionMapping())})

    def all_of(name: str) -> dg.AssetDep:
        return dg.AssetDep(name, partition_mapping=across)

    inputs: dict[str, list[Any]] = {
        "ohlcv": [],
        "features_daily": ["ohlcv"],
        "labels": ["ohlcv"],
        "predictions": [all_of("features_daily"), all_of("labels")],
        "targets": ["predictions", all_of("features_daily")],
        "backtest_summary": ["targets", all_of("ohlcv")],
    }
    stages = {grid.market: MARKET, grid.decision: DECISION}

    def asset(name: str, partitions: dg.PartitionsDefinition) -> dg.AssetsDefinition:
        @dg.asset(
            name=name,
            partitions_def=partitions,
            deps=inputs[name],
            backfill_policy=dg.BackfillPolicy.single_run(),
            code_version="1",
        )
        def body() -> dg.MaterializeResult:
            return dg.MaterializeResult()

        return body

    def checks(name: str) -> dg.AssetChecksDefinition:
        specs = [dg.AssetCheckSpec(one, asset=name, blocking=blocking) for one, blocking in told["checks"][name]]

        @dg.multi_asset_check(name=f"{name}_checks", specs=specs, can_subset=True)
        def body() -> Iterator[dg.AssetCheckResult]:
            for spec in specs:
                yield dg.AssetCheckResult(asset_key=name, check_name=spec.name, passed=True)

        return body

    defs = dg.Definitions(
        assets=[asset(name, partitions) for partitions, names in stages.items() for name in names],
        asset_checks=[checks(name) for names in stages.values() for name in names],
        executor=dg.in_process_executor,
    )
    instance = dg.DagsterInstance.get()
    for names, keys in ((MARKET, universe.names), *((DECISION, (strategy,)) for strategy in told["strategies"])):
        selection = [dg.AssetKey(name) for name in names]
        job = defs.get_repository_def().get_implicit_job_def_for_assets(selection)
        assert job is not None
        run = job.get_subset(asset_selection=set(selection)).execute_in_process(
            {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}},
            instance=instance,
            tags=grid.range_tags(day, day, keys),
        )
        if not run.success:
            raise SystemExit("the empty graph failed")
        made = Counter(event.asset_key.to_user_string() for event in run.get_asset_materialization_events())
        print(f"run {run.run_id}: succeeded; partitions:", ", ".join(f"{name} {count}" for name, count in made.items()))


def check(home: Path, day: date) -> None:
    """The newest session's features are those of a computation over the whole history, and targets reach it.

    Raises:
        SystemExit: they are not, or a symbol is missing.
    """
    import polars as pl

    from quant_assets.cli.session import session
    from quant_assets.features import feature_set
    from quant_assets.market_data.synthetic import synthetic_bars

    features = feature_set("v1")
    grid = session.market().grid
    sessions, names = grid.calendar.sessions, grid.universe.names
    bars = synthetic_bars(names, sessions).filter(pl.col("ts").is_between(FIRST, day))
    wanted = features.compute(bars).filter(pl.col("ts") == day).select("symbol", *features.names).sort("symbol")
    columns = ", ".join(wanted.columns)
    stored = session.warehouse.query(f"SELECT {columns} FROM features_daily__v1 WHERE ts = ? ORDER BY symbol", [day])
    if stored.height != SYMBOLS or not stored.equals(wanted):
        raise SystemExit(f"the features stored for {day} are not those of a computation over the whole history")
    scored = session.warehouse.query("SELECT count(*) AS n FROM predictions WHERE ts = ?", [day])["n"][0]
    if scored != SYMBOLS:
        raise SystemExit(f"{scored} of {SYMBOLS} symbols have a prediction on {day}")


def cells(finished: Finished) -> int:
    """Partitions that a process says it materialised: `run ...: succeeded; partitions: ohlcv 500, labels 500`."""
    told = re.findall(r"^run .*; partitions: (.*)$", finished.output, re.MULTILINE)
    return sum(int(count.replace(",", "")) for line in told for count in re.findall(r" ([\d,]+)(?:, |$)", line))


def main() -> None:
    with temporary_home() as ours, temporary_home() as theirs:
        home = {name: Path(environment["QUANT_HOME"]) for name, environment in (("ours", ours), ("theirs", theirs))}
        for name, environment in (("ours", ours), ("theirs", theirs)):
            environment |= {"QUANT_STRATEGIES_DIR": str(home[name] / "strategies"), "QUANT_MARKET": "synthetic"}

        def own(step: str, side: str, *arguments: str) -> Finished:
            environment = ours if side == "ours" else theirs
            return process([sys.executable, __file__, step, str(home[side]), *arguments], environment)

        seeded = own("seed", "ours")
        print(f"seeded {SYMBOLS} symbols x {SESSIONS} sessions in {seeded.wall:.0f} s", flush=True)
        for part in ("dagster", "strategies", "calendars", SEEDED):
            source, target = home["ours"] / part, home["theirs"] / part
            shutil.copytree(source, target, dirs_exist_ok=True) if source.is_dir() else shutil.copy(source, target)
        days = json.loads((home["ours"] / SEEDED).read_text())["days"]
        taken: dict[str, list[Finished]] = {"quant daily": [], "empty": [], "empty, tuned": []}
        for number, day in enumerate(days):
            for side in ("ours", "theirs"):
                own("universe", side, day)
            command = [sys.executable, "-m", "quant_assets.cli.app", "daily", "--asof", day]
            daily = process(command, ours)
            others = {name: own(name.replace(", ", "-"), "theirs", day) for name in ("empty", "empty, tuned")}
            made = {name: cells(one) for name, one in {"quant daily": daily, **others}.items()}
            if len(set(made.values())) != 1:
                raise SystemExit(f"{day}: the sides materialised different numbers of partitions: {made}")
            if number:  # the first session fills the file cache
                taken["quant daily"].append(daily)
                for name, one in others.items():
                    taken[name].append(one)
        own("check", "ours", days[-1])
    for name, rounds in taken.items():
        print(f"{name}: {median_of(rounds)}")
    print(f"medians of {len(days) - 1} sessions ({load()})")
    for suffix, clock in (("", "wall"), ("_cpu", "cpu")):
        value = {name: median(getattr(one, clock) for one in rounds) for name, rounds in taken.items()}
        report(f"daily_run{suffix}", value["quant daily"] / value["empty"], "<=2")
        print(f"against `empty, tuned` by {clock}: {value['quant daily'] / value['empty, tuned']:.2f}")


if __name__ == "__main__":
    if len(sys.argv) == 1:
        main()
    else:
        step, home, day = sys.argv[1], Path(sys.argv[2]), date.fromisoformat(sys.argv[3]) if sys.argv[3:] else FIRST
        if step == "seed":
            seed(home)
        elif step == "universe":
            write_universe(home, day)
        elif step == "check":
            check(home, day)
        elif step == "empty":
            empty(home, day)
        else:  # with the collector and the exit that `quant` has
            gc.set_threshold(100_000, 20, 100)
            empty(home, day)
            sys.stdout.flush()
            os._exit(0)
