"""The commands. Each imports what it needs when it runs, so that `quant --help` answers at once."""

import gc
import logging
import os
import sys
from collections.abc import Callable
from datetime import date, datetime
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from quant_assets.cli import console, lineage, research, trading, validation
from quant_assets.cli.options import (
    COST,
    ISO,
    AsOf,
    FileFrom,
    FileTo,
    Force,
    From,
    MarketOption,
    StrategiesOption,
    StrategyOption,
    Symbols,
    To,
    as_date,
)
from quant_assets.cli.session import DECISION_ASSETS, MARKET_ASSETS, MarketView, environment, session
from quant_assets.core.errors import ConfigError, QuantError

_BOTH_STAGES = ("ohlcv", "labels", "predictions", "targets", "backtest_summary", "validation_results", "quarantine")


class Commands(TyperGroup):
    """One clear line on standard error and a code that says failure (1) or Ctrl-C (130), whatever goes wrong."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except QuantError as error:
            console.fail(str(error))
        except KeyboardInterrupt:
            console.fail("interrupted; what was stored stays, rerun to go on")
            raise typer.Exit(130) from None
        except Exception as error:
            # usage errors and exits are Typer's affair
            if hasattr(error, "exit_code") or isinstance(error, typer.Abort | BrokenPipeError):
                raise
            console.fail(_unexpected(error))
        raise typer.Exit(1)


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Bars to audited backtests: runs of the asset graph.",
)
symbols_app = typer.Typer(no_args_is_help=True, help="The universe's symbols.")
pipeline_app = typer.Typer(no_args_is_help=True, help="Both stages, one after the other.")
check_app = typer.Typer(no_args_is_help=True, help="Detectors to run on features, labels and strategies.")
db_app = typer.Typer(no_args_is_help=True, help="The warehouse file.")
app.add_typer(symbols_app, name="symbols")
app.add_typer(pipeline_app, name="pipeline")
app.add_typer(check_app, name="check")
app.add_typer(db_app, name="db")
for module, names in (
    (research, ("sweep", "trials", "factors", "compare")),
    (validation, ("validate", "verdicts")),
    (lineage, ("trace", "impact")),
    (trading, ("events",)),
):
    for name in names:
        app.command(name)(getattr(module, name))


@app.command("env")
def env() -> None:
    """Print the exports that plain `dagster` commands need: eval "$(quant env)"."""
    from shlex import quote

    for name, value in environment(session.settings).items():
        console.say(f"export {name}={quote(value)}")


@app.command("init-db")
def init_db() -> None:
    """Create the warehouse and its tables."""
    created = session.warehouse.prepare()
    console.say(f"warehouse {session.settings.warehouse_path}: {len(created)} table(s) created")


@symbols_app.command("list")
def symbols_list(market: MarketOption = None) -> None:
    """The universe's symbols with their stored span."""
    _symbols_table(session.market(market))


@symbols_app.command("search")
def symbols_search(
    words: Annotated[str, typer.Argument(help="part of a symbol or of a company's name")], market: MarketOption = None
) -> None:
    """Ask the universe's provider for symbols."""
    grid, config = session.market(market).grid, session.settings
    from quant_assets.defs.market import universe_provider

    provider = universe_provider(grid, config)
    matches = provider.search(words)
    console.table(
        f"{provider.name}: {len(matches)} match(es)",
        ["symbol", "name", "kind", "region", "currency", "score"],
        [(one.symbol, one.name, one.kind, one.region, one.currency, one.score) for one in matches],
    )


@symbols_app.command("add")
def symbols_add(
    symbol: Annotated[str, typer.Argument(help="as the provider knows it")],
    first: Annotated[datetime | None, typer.Option("--from", **ISO, help="first session; default: the start")] = None,
    name: Annotated[str | None, typer.Option(help="company name")] = None,
    market: MarketOption = None,
) -> None:
    """Add a symbol to the market's universe file."""
    from quant_assets.strategy.universe import add_symbol

    config = session.settings
    stem = session.market(market).name if market else config.market
    path = config.strategies_dir / "universes" / f"{stem}.yaml"
    universe = add_symbol(path, symbol.upper(), as_date(first), name)
    console.say(f"{path}: {symbol.upper()} added, now version {universe.version} with {len(universe.names)} symbols")


@app.command("ingest")
def ingest(
    symbols: Symbols = None, first: From = None, last: To = None, force: Force = False, market: MarketOption = None
) -> None:
    """Fetch and store the bars that are missing."""
    _market(session.market(market), ("ohlcv",), symbols, first, last, force)


@app.command("features")
def features(
    symbols: Symbols = None, first: From = None, last: To = None, force: Force = False, market: MarketOption = None
) -> None:
    """Compute the features that are missing."""
    _market(session.market(market), ("features_daily",), symbols, first, last, force)


@app.command("labels")
def labels(
    symbols: Symbols = None, first: From = None, last: To = None, force: Force = False, market: MarketOption = None
) -> None:
    """Compute the labels that are missing."""
    _market(session.market(market), ("labels",), symbols, first, last, force)


@app.command("train")
def train(strategy: StrategyOption, first: FileFrom = None, last: FileTo = None) -> None:
    """Train or reuse a strategy's models for a period, and store their predictions."""
    market, spec = session.strategy(strategy)
    if spec.model is None:
        raise ConfigError(f"strategy {strategy} ranks by a feature and has no model; choose one with model_score")
    low, high = market.period_of(spec, as_date(first), as_date(last))
    run = market.launcher.run(["predictions"], low, high, [strategy])
    rows = session.warehouse.query(
        "SELECT scope, count(*), min(train_from), max(train_to), count(*) FILTER (run_id = ?) FROM models "
        "WHERE experiment_id = ? AND model_id IN (SELECT model_id FROM predictions WHERE symbol IN (SELECT unnest(?))) "
        "GROUP BY scope ORDER BY scope",
        [run.run_id, spec.model.experiment_id, market.symbols()],
    )
    console.table(
        f"models of {spec.model.experiment_id}", ["scope", "models", "from", "to", "trained now"], rows.rows()
    )
    session.finish([run], ["models", "predictions"])


@app.command("score")
def score(strategy: StrategyOption, asof: AsOf = None) -> None:
    """Predict one session and print the scores."""
    market, spec = session.strategy(strategy)
    if spec.model is None:
        raise ConfigError(f"strategy {strategy} ranks by a feature and has no model; choose one with model_score")
    day = market.day(as_date(asof))
    run = market.launcher.run(["predictions"], day, day, [strategy])
    rows = session.warehouse.query(
        "SELECT p.symbol, p.score, p.calibrated_score, p.model_id, m.train_to FROM predictions p "
        "JOIN models m USING (model_id) WHERE m.experiment_id = ? AND p.ts = ? AND p.symbol IN (SELECT unnest(?)) "
        "ORDER BY p.score DESC, p.symbol",
        [spec.model.experiment_id, day, market.symbols()],
    )
    console.table(f"{strategy} on {day}", ["symbol", "score", "calibrated", "model", "trained to"], rows.rows())
    session.finish([run], ["predictions"])


@app.command("recommend")
def recommend(strategy: StrategyOption, asof: AsOf = None) -> None:
    """Decide a strategy's latest targets on or before a date, and print them."""
    market, spec = session.strategy(strategy)
    day = market.day(as_date(asof))
    assets = ["predictions", "targets"] if spec.model else ["targets"]
    run = market.launcher.run(assets, market.last_rebalance(spec, day), day, [strategy])
    rows = session.warehouse.query(
        'SELECT "asof", symbol, approved, weight, score, risk_flags, reason FROM targets '
        'WHERE strategy_id = $1 AND version = $2 AND "asof" = (SELECT max("asof") FROM targets '
        'WHERE strategy_id = $1 AND version = $2 AND "asof" <= $3) ORDER BY weight DESC, score DESC, symbol',
        [strategy, spec.version, day],
    )
    if rows.is_empty():
        console.say(
            f"{strategy}: no targets on or before {day}; the run's metadata says which rebalances were skipped and why"
        )
    else:
        invested = float(rows["weight"].abs().sum())
        console.table(
            f"{strategy} {spec.version}: targets as of {rows['asof'][0]} "
            f"(invested {invested:.1%}, cash {1 - invested:.1%})",
            ["symbol", "approved", "weight", "score", "rules", "reason"],
            [
                (s, "yes" if ok else "no", w, x, ", ".join(flags), why)
                for _, s, ok, w, x, flags, why in rows.iter_rows()
            ],
        )
    session.finish([run], ["targets"])


@app.command("backtest")
def backtest(
    strategy: StrategiesOption = None,
    first: FileFrom = None,
    last: FileTo = None,
    fee_bps: Annotated[float | None, typer.Option(help="in place of the file's, basis points", **COST)] = None,
    slippage_bps: Annotated[float | None, typer.Option(help="in place of the file's, basis points", **COST)] = None,
    funding_bps_per_day: Annotated[float | None, typer.Option(help="in place of the file's, basis points")] = None,
    initial_cash: Annotated[float | None, typer.Option(help="in place of the file's", min=1)] = None,
    engine: Annotated[
        trading.Engine | None, typer.Option(help="in place of the file's; event: the file's, then event by event")
    ] = None,
    symbols: Annotated[
        str | None, typer.Option("--symbols", help="only these, comma-separated; targets are decided for them alone")
    ] = None,
) -> None:
    """Simulate the stored targets of strategies over a period, or what they decide on some symbols only."""
    chosen = session.chosen(strategy)
    periods = _periods(chosen, first, last)
    if not periods:
        raise ConfigError(f"no strategy in {session.settings.strategies_dir}; add a YAML file, or name one with -s")
    replay = engine == trading.Engine.EVENT
    assets = ["backtest_summary", "validation", *(["event_backtest"] if replay else [])]
    runs = []
    for market, specs in chosen:
        for spec in specs:
            low, high = periods[spec.strategy_id]
            config = _backtest_config(
                market,
                low,
                high,
                fee_bps=fee_bps,
                slippage_bps=slippage_bps,
                funding_bps_per_day=funding_bps_per_day,
                initial_cash=initial_cash,
                engine=None if replay or engine is None else engine.value,
                symbols=market.symbols(symbols) if symbols else None,
            )
            runs.append(market.launcher.run(assets, low, high, [spec.strategy_id], config=config))
    _summaries([run.run_id for run in runs])
    tables = ["backtest_summary", "backtest_trades", "validation_results", "backtest_findings"]
    if replay:
        trading.replayed([run.run_id for run in runs])
        tables += ["event_backtests", "trading_events"]
    session.finish(runs, tables)


@pipeline_app.command("run")
def pipeline_run(
    strategy: StrategiesOption = None,
    first: FileFrom = None,
    last: FileTo = None,
    force: Force = False,
    market: MarketOption = None,
) -> None:
    """Bars, features and labels where missing, then predictions, targets and backtest of each strategy."""
    chosen = session.chosen(strategy, market)
    periods = _periods(chosen, first, last)
    runs = []
    for one, specs in chosen:
        until = max((periods[spec.strategy_id][1] for spec in specs), default=as_date(last))
        runs += _market_stage(one, until, force)
        for spec in specs:
            low, high = periods[spec.strategy_id]
            config = _backtest_config(one, low, high)
            runs.append(one.launcher.run(DECISION_ASSETS, low, high, [spec.strategy_id], config=config))
    for one, _ in chosen:
        _symbols_table(one)
    _summaries([run.run_id for run in runs])
    session.finish(runs, _BOTH_STAGES)
    console.say("look around: `make dev`, then http://127.0.0.1:3000 (Dagster: assets, runs, checks, equity curves)")


@app.command("daily")
def daily(strategy: StrategiesOption = None, asof: AsOf = None, market: MarketOption = None) -> None:
    """The newest session, and those that were missed before it, through both stages: what a scheduler runs daily."""
    runs: list[Any] = []
    for one, specs in session.chosen(strategy, market):
        runs += _catch_up(one, specs, one.day(as_date(asof)))
    _summaries([run.run_id for run in runs])
    session.finish(runs, _BOTH_STAGES)


@app.command("marts")
def marts() -> None:
    """Make the tables for SQL tools from what is stored, and test them."""
    launcher = session.launcher
    from quant_assets.defs.marts import JOB, MANIFEST, stored_tables

    if not MANIFEST.exists():
        raise ConfigError(f"{MANIFEST} is missing; `make install` prepares it")
    run = launcher.run_job(JOB)
    tables = stored_tables(session.settings)
    counts = [(name, table.rows) for name, table in tables.items() if not name.startswith("int_")]
    console.table(f"marts in {session.settings.marts_path}", ["table", "rows"], counts)
    session.finish([run])


@app.command("lab")
def lab(
    host: Annotated[str, typer.Option(help="address to listen on; anyone who reaches it can start runs")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="port to listen on", min=1, max=65535)] = 8501,
) -> None:
    """Serve the lab: what is stored, in a browser. Runs are started through Dagster's server (`make dev`)."""
    import importlib.util

    from quant_assets.lab.serve import command

    if importlib.util.find_spec("streamlit") is None:
        raise ConfigError("the lab needs Streamlit, which is not installed; run `pip install 'quant_assets[lab]'`")
    if session.settings.warehouse_path.exists():
        session.warehouse.publish()
    console.say(f"lab: http://{host}:{port}")
    os.execv(sys.executable, command(host, port))


@app.command("runs")
def runs(limit: Annotated[int, typer.Option(help="how many", min=1)] = 20) -> None:
    """The newest runs in run storage."""
    instance = session.launcher.instance
    from quant_assets.defs.lineage import recent_runs

    found = recent_runs(instance, limit)
    if not found:
        console.say("no runs yet; `quant pipeline run` makes the first ones")
    for one in found:
        took = f"{one.seconds:,.1f} s" if one.seconds is not None else "-"
        started = f"{one.started:%Y-%m-%d %H:%M:%S} UTC" if one.started else "not started"
        console.say(f"{one.run_id}  {one.status:<8} {started}  {took}")
        console.say(f"    {one.what}" + (f"  pipeline {one.pipeline}" if one.pipeline else ""))


@check_app.command("leakage")
def check_leakage(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="[NAME]...", help="feature, label, version of a set, strategy id; default: all"),
    ] = None,
    synthetic: Annotated[bool, typer.Option("--synthetic", help="made bars in place of the stored ones")] = False,
    market: MarketOption = None,
) -> None:
    """Look for values that use the future, or more history than they state."""
    from pathlib import Path
    from tempfile import TemporaryDirectory

    from quant_assets.market_data.history import adjusted_bars
    from quant_assets.models.store import ModelStore
    from quant_assets.strategy import probe

    holding = [view.name for view in session.markets.values() if view.strategies.keys() & set(names or ())]
    one = session.market(market or next(iter(holding), None))
    grid, folder = one.grid, session.settings.strategies_dir / "universes"
    bounds = {name: spec.bounds(grid.universe, folder) for name, spec in one.strategies.items()}
    with TemporaryDirectory(prefix="quant-") as place:
        trainings = probe.Trainings(ModelStore(Path(place)))
        probes = probe.choose(
            probe.all_probes(one.strategies, bounds, grid.calendar, trainings), list(dict.fromkeys(names or ()))
        )
        first, last = one.period(None, None)
        if synthetic:
            bars = probe.made_bars(grid.universe.bounds, grid.calendar, last)
        else:
            bars = adjusted_bars(session.warehouse, grid.universe.names, first, last, calendar=grid.calendar)
        if bars.is_empty():
            raise ConfigError("no bars are stored; run `quant ingest` first, or pass --synthetic")
        verdicts: list[probe.Verdict] = []
        for number, each in enumerate(probes, start=1):
            console.note(f"  {number}/{len(probes)} {each.name} ...")
            verdicts += probe.run(each, bars)
    days = bars["ts"].sort()
    console.table(
        f"{bars.height:,} {'made' if synthetic else 'stored'} bars of {bars['symbol'].n_unique()} symbol(s), "
        f"{days[0]}..{days[-1]}",
        ["what", "detector", "result", "first finding"],
        [(one.name, one.detector, one.result, one.detail) for one in verdicts],
    )
    leaks = [one for one in verdicts if one.findings]
    if leaks:
        what = ", ".join(dict.fromkeys(one.name for one in leaks))
        raise QuantError(f"{what}: {leaks[0].findings[0].message}; correct the function or its stated lookback")
    untested = len([one for one in verdicts if one.untested])
    console.say(f"{len(verdicts) - untested} test(s) passed" + (f", {untested} do not apply" if untested else ""))


@db_app.command("compact")
def db_compact() -> None:
    """Rewrite the warehouse file without the space that replaced rows left behind."""
    before, after = session.warehouse.compact()
    console.say(f"{session.settings.warehouse_path}: {before / 1e6:.1f} MB -> {after / 1e6:.1f} MB")


def _symbols_table(market: MarketView) -> None:
    stored = session.warehouse.query(
        "SELECT symbol, min(ts), max(ts), count(*) FROM ohlcv GROUP BY symbol ORDER BY symbol"
    )
    spans = {row[0]: row[1:] for row in stored.iter_rows()}
    universe = market.grid.universe
    rows = []
    for listing in sorted(universe.symbols, key=lambda one: one.symbol):
        first, last, bars = spans.get(listing.symbol, (None, None, 0))
        rows.append((listing.symbol, listing.name or "", *universe.bounds[listing.symbol], first, last, bars))
    console.table(
        f"{universe.name} {universe.version} ({universe.provider})",
        ["symbol", "name", "listed from", "to", "first bar", "last bar", "bars"],
        rows,
    )


def _market(
    market: MarketView,
    assets: tuple[str, ...],
    symbols: str | None,
    first: datetime | None,
    last: datetime | None,
    force: bool,
) -> None:
    names = market.symbols(symbols)
    low, high = market.period(as_date(first), as_date(last))
    if "ohlcv" not in assets:
        without = market.launcher.without("ohlcv", names, low, high)
        names = [name for name in names if name not in without]
        told = f"no bars ingested from {low} to {high} for {', '.join(without)}"
        if not names:
            raise ConfigError(f"{told}; run `quant ingest` first")
        if without:
            console.note(f"{told}: left out")
    spans = _wanted(market, assets, names, low, high, force)
    if not spans:
        console.say(f"nothing missing: {', '.join(assets)} {low}..{high} for {len(names)} symbol(s); --force redoes it")
        return
    session.finish(market.run_groups(assets, spans), _tables_of(assets))


def _market_stage(market: MarketView, last: date | None, force: bool) -> list[Any]:
    """Whatever is missing, from the bars on where they are; then what a failure or a restatement left undone."""
    low, high = market.period(market.grid.universe.start, last)
    # bars that are there and passed their checks are not fetched again
    assets = ("ohlcv",) if market.launcher.passed_checks("ohlcv") else MARKET_ASSETS
    spans = _wanted(market, assets, market.symbols(), low, high, force)
    done = market.run_groups(MARKET_ASSETS, spans)
    _carry_on(market, done, low, high)
    if not done:
        console.say(f"market stage {low}..{high}: nothing missing")
    return done


def _catch_up(market: MarketView, specs: list[Any], day: date) -> list[Any]:
    """Both stages of one market from its newest stored session to `day`."""
    universe, names = market.grid.universe, market.symbols()
    known = session.warehouse.query(
        "SELECT max(ts) AS ts FROM ohlcv WHERE ts < ? AND symbol IN (SELECT unnest(?))", [day, names]
    )["ts"][0]
    low, high = market.period(market.grid.calendar.offset(known, 1) if known else universe.start, day)
    runs = [market.launcher.run(MARKET_ASSETS, low, high, names)]
    stored = runs[0].cells.get(market.grid.key("ohlcv").to_user_string())
    if not runs[0].succeeded or stored != len(names) * len(market.grid.date_keys(low, high)):
        _carry_on(market, runs, universe.start, high)
    for spec in specs:
        first = min(high, max(spec.backtest.first, universe.start))
        config = _backtest_config(market, first, high)
        config["ops"][market.grid.op("validation")] = {"config": {"carry": True}}
        runs.append(market.launcher.run(DECISION_ASSETS, low, high, [spec.strategy_id], config=config))
    return runs


def _carry_on(market: MarketView, done: list[Any], low: date, high: date) -> None:
    """Add to `done` the runs for what ingest stored or restated and nothing was computed from yet; end where it cannot.

    Raises:
        RunFailedError: no symbol has its bars, or a blocking check found something.
    """
    names = market.symbols()
    good = set(names) - set(market.launcher.missing(("ohlcv",), names, low, high))
    if good and not any(run.blocked for run in done):
        left = market.launcher.missing(("features_daily", "labels"), sorted(good), low, high)
        if left and done:
            console.note("carrying on with what ingest stored or restated")
        done += market.run_groups(("features_daily", "labels"), left)
    if not good or any(run.blocked for run in done):
        session.finish(done, ["ohlcv", "labels", "quarantine"])


def _periods(chosen: list[Any], first: datetime | None, last: datetime | None) -> dict[str, tuple[date, date]]:
    """Strategy id -> first and last session, of all that `Session.chosen` gave."""
    low, high = as_date(first), as_date(last)
    return {spec.strategy_id: market.period_of(spec, low, high) for market, specs in chosen for spec in specs}


def _wanted(
    market: MarketView, assets: tuple[str, ...], names: list[str], low: date, high: date, force: bool
) -> dict[str, tuple[date, date]]:
    if force:
        return dict.fromkeys(names, (low, high))
    return market.launcher.missing(assets, names, low, high)


def _backtest_config(market: MarketView, low: date, high: date, **changes: Any) -> dict[str, Any]:
    """Run config of a backtest from `low` to `high`, with what is given in place of the strategy file's."""
    given = {"from_date": low.isoformat(), "to_date": high.isoformat(), **changes}
    config = {name: value for name, value in given.items() if value is not None}
    return {"ops": {market.grid.op("backtest_summary"): {"config": config}}}


def _tables_of(assets: tuple[str, ...]) -> list[str]:
    return ["ohlcv", "corporate_actions", "quarantine"] if "ohlcv" in assets else [*assets, "quarantine"]


def _summaries(run_ids: list[str]) -> None:
    rows = session.warehouse.query(
        "WITH tried AS (SELECT s.*, t.configuration FROM backtest_summary s LEFT JOIN trials t USING (trial_id)), "
        "judged AS (SELECT strategy_id, version, from_ts, configuration, "
        "arg_max(v.verdict, (v.to_ts, v.created_at)) AS verdict FROM tried "
        "JOIN validation_results v USING (strategy_id, version, from_ts) "
        "WHERE v.backtest_run_id = tried.run_id AND method = 'verdict' GROUP BY ALL) "
        "SELECT * FROM tried LEFT JOIN judged USING (strategy_id, version, from_ts, configuration) "
        "WHERE run_id IN (SELECT unnest(?)) ORDER BY strategy_id",
        [run_ids],
    )
    found = rows.to_dicts()
    if not found:
        return
    measures: dict[str, Callable[[Any], str]] = {
        "from_ts": str,
        "to_ts": str,
        **dict.fromkeys(("cagr", "vol", "max_dd", "win_rate"), "{:.1%}".format),
        **dict.fromkeys(("sharpe", "sortino", "calmar", "turnover", "profit_factor"), "{:.2f}".format),
        "num_trades": "{:,}".format,
        "fee_bps": "{:g}".format,
        "slippage_bps": "{:g}".format,
        "initial_cash": "{:,.0f}".format,
        "final_equity": "{:,.0f}".format,
        "verdict": str,
    }
    console.table(
        "backtests",
        ["", *(f"{row['strategy_id']} {row['version']}" for row in found)],
        [[name, *("-" if row[name] is None else told(row[name]) for row in found)] for name, told in measures.items()],
    )
    for row in found:
        report = session.settings.backtest_report(row["strategy_id"], row["run_id"])
        console.say(f"report of {row['strategy_id']}: {report}")


def _unexpected(error: Exception) -> str:
    """One line for an error that is none of ours; its traceback goes to a file beside the data."""
    import traceback
    from contextlib import suppress

    config = session.settings
    secret = config.alpha_vantage_api_key.get_secret_value() if config.alpha_vantage_api_key else ""

    def scrubbed(text: str) -> str:
        return text.replace(secret, "***") if secret else text

    line = next(iter(str(error).strip().splitlines()), "")
    told = f"{type(error).__name__}: {line}"
    if isinstance(error, OSError) or "sqlite3" in told:
        places = dict.fromkeys((str(config.home), environment(config)["QUANT_DAGSTER"]))
        told += f"; check {' and '.join(places)} (QUANT_HOME, QUANT_DAGSTER): permissions, free space, damaged files"
    with suppress(OSError):
        path = config.home / "last_error.txt"
        path.write_text(scrubbed("".join(traceback.format_exception(error))))
        told += f"; traceback: {path}"
    return scrubbed(told)


def main() -> None:
    """Entry point of `quant`."""
    # half a million objects stay until the end: collecting them over and over is a quarter of all importing
    gc.set_threshold(100_000, 20, 100)
    code: object = 0
    try:
        app()
    except SystemExit as finished:
        code = finished.code
    # and taking them apart would take two seconds more
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else int(code is not None))


if __name__ == "__main__":
    main()
