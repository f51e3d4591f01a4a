"""The commands of research: sweeps, the trial ledger, factor reports."""

import json
from typing import Annotated, Any

import typer

from quant_assets.cli import console
from quant_assets.cli.options import FileFrom, FileTo, From, MarketOption, StrategyOption, To, as_date
from quant_assets.cli.session import session
from quant_assets.core.errors import ConfigError

_TOP = 10


def sweep(strategy: StrategyOption, first: FileFrom = None, last: FileTo = None) -> None:
    """Backtest every combination of a strategy's `sweep` section; a sweep that was interrupted goes on."""
    market, spec = session.strategy(strategy)
    if spec.sweep is None:
        raise ConfigError(f"strategy {strategy} has no `sweep` section; add one to its file")
    low, high = market.period_of(spec, as_date(first), as_date(last))
    config = {market.grid.op("sweep_results"): {"config": {"from_date": f"{low}", "to_date": f"{high}"}}}
    run = market.launcher.run_partition(f"sweep_{strategy}", "sweep_results", strategy, config={"ops": config})
    if run.succeeded:
        _sweep_table(strategy, run.run_id)
    session.finish([run], ["sweep_results", "trials"])


def _sweep_table(strategy: str, run_id: str) -> None:
    from quant_assets.defs.lineage import metadata_of
    from quant_assets.defs.sweeps import report_path

    told = metadata_of(session.launcher.instance, run_id)
    rows = session.warehouse.query(
        "SELECT params, sharpe, cagr, max_dd, turnover, num_trades FROM sweep_results WHERE sweep_id = ? "
        "ORDER BY sharpe DESC NULLS LAST, cell LIMIT ?",
        [told["sweep"], _TOP],
    )
    console.table(
        f"{strategy}: the best {rows.height} of {told['cells']:,} cells, {told['period']}",
        ["parameters", "Sharpe", "CAGR", "max drawdown", "turnover", "trades"],
        [
            (params.strip("{}").replace('"', ""), sharpe, _percent(cagr), _percent(fall), turnover, trades)
            for params, sharpe, cagr, fall, turnover, trades in rows.iter_rows()
        ],
    )
    console.say(
        f"{told['configurations tried in the family']:,} configurations of the family were tried so far; the best "
        f"of as many without any skill would show a Sharpe ratio of about {told['best Sharpe by luck alone']:.2f}"
    )
    console.say(f"report: {report_path(session.settings, strategy, told['sweep'])}")


def compare(
    runs: Annotated[
        list[str], typer.Argument(help="run ids of backtests, or their first characters", metavar="RUN RUN...")
    ],
) -> None:
    """Put backtests side by side: measures, what differs, correlation; and a page with their curves."""
    from hashlib import sha256

    from quant_assets.backtest import comparison

    read = session.warehouse.query
    known = read("SELECT run_id FROM backtest_summary GROUP BY run_id ORDER BY max(created_at) DESC, run_id")
    chosen = comparison.resolve(runs, known["run_id"].to_list())
    rows, equity = (
        read(f"SELECT * FROM {table} WHERE run_id IN (SELECT unnest(?))", [chosen])
        for table in ("backtest_summary", "backtest_equity")
    )
    tried = read(
        "SELECT s.run_id, s.strategy_id, t.params FROM backtest_summary s JOIN trials t USING (trial_id) "
        "WHERE s.run_id IN (SELECT unnest(?))",
        [chosen],
    )
    configured = {(run_id, strategy_id): json.loads(params) for run_id, strategy_id, params in tried.iter_rows()}
    found = comparison.compare(chosen, rows, equity, configured)
    marked = [
        (line.measure.label, *(f"{text} *" if best else text for text, best in zip(line.texts, line.best, strict=True)))
        for line in (*found.common, *found.own)
    ]
    console.table(f"{found.first} to {found.last}, * the best", ["", *found.labels], marked)
    if found.differences:
        console.table("what differs", ["", *found.labels], [(name, *values) for name, values in found.differences])
    name = sha256(" ".join(chosen).encode()).hexdigest()[:16]
    path = session.settings.reports_dir / "compare" / f"{name}.html"
    console.say(f"page: {comparison.write_comparison(path, found)}")


def trials() -> None:
    """How many configurations of each family were ever evaluated, by sweeps and backtests."""
    from quant_assets.strategy.ledger import counted

    found = counted(session.warehouse)
    if not found:
        console.say("no trials yet; a backtest or a sweep enters the first ones")
        return
    console.table(
        "trials by family: a market and a kind of signal",
        ["family", "configurations", "windows", "trials", "best Sharpe", "of strategy", "median Sharpe"],
        [
            (one.family, one.configurations, one.windows, one.trials, one.best, one.best_strategy, one.median)
            for one in found
        ],
    )


def factors(
    versions: Annotated[
        list[str] | None, typer.Argument(metavar="[VERSION]...", help="feature sets; default: all of the market")
    ] = None,
    first: From = None,
    last: To = None,
    market: MarketOption = None,
) -> None:
    """What each feature of a set has said of forward returns: information coefficients, decay, spreads, turnover."""
    view = session.market(market)
    known = view.grid.universe.feature_sets
    unknown = [one for one in versions or () if one not in known]
    if unknown:
        raise ConfigError(f"feature set {unknown[0]!r} is not computed for {view.name}; use: {', '.join(known)}")
    low, high = view.period(as_date(first), as_date(last))
    config = {view.grid.op("factor_report"): {"config": {"from_date": f"{low}", "to_date": f"{high}"}}}
    from quant_assets.defs.factors import JOB, factor_page_path

    runs: list[Any] = []
    for version in versions or known:
        runs.append(view.launcher.run_partition(view.grid.name(JOB), "factor_report", version, config={"ops": config}))
        if not runs[-1].succeeded:
            break
        rows = session.warehouse.query(
            "SELECT feature_name, horizon, mean_rank_ic, rank_ic_t, p_adjusted, spread, turnover, coverage "
            "FROM factor_summary WHERE market = ? AND feature_version = ? "
            "ORDER BY abs(rank_ic_t) DESC NULLS LAST, feature_name, horizon LIMIT ?",
            [view.name, version, _TOP],
        )
        console.table(
            f"{view.name}, feature set {version}: the strongest {rows.height} pairs of feature and horizon",
            ["feature", "horizon", "rank IC", "t", "adjusted p", "spread", "turnover", "coverage"],
            rows.rows(),
        )
        console.say(f"report: {factor_page_path(session.settings, view.name, version)}")
    session.finish(runs, ["factor_summary", "factor_ic"])


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
