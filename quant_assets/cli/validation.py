"""The commands of validation: whether to believe a backtest."""

from enum import StrEnum
from typing import Annotated

import typer

from quant_assets.cli import console
from quant_assets.cli.options import MarketOption, StrategiesOption, StrategyOption
from quant_assets.cli.session import session
from quant_assets.core.errors import ConfigError

MEASURES = {
    "is_oos.degradation": "IS/OOS degradation",
    "wfa.sharpe": "walk-forward Sharpe",
    "wfa.consistency": "walk-forward consistency",
    "pbo.pbo": "PBO",
    "dsr.deflated_sharpe": "deflated Sharpe",
    "dsr.deflated_probability": "DSR probability",
    "verdict.overall": "verdict",
}


class Method(StrEnum):
    """What `--method` takes."""

    IS_OOS = "is_oos"
    WFA = "wfa"
    CPCV = "cpcv"
    PBO = "pbo"
    DSR = "dsr"
    DOCTOR = "doctor"
    ALL = "all"


def validate(
    strategy: StrategyOption,
    method: Annotated[Method, typer.Option(help="one test, the review by the doctor, or all")] = Method.ALL,
    run: Annotated[str | None, typer.Option("--run", help="run id of the backtest; default: the newest")] = None,
) -> None:
    """Whether to believe a strategy's backtest: tests out of sample, overfitting, deflated Sharpe ratio, verdict."""
    market, spec = session.strategy(strategy)
    found = session.warehouse.query(
        "SELECT run_id, to_ts FROM backtest_summary WHERE strategy_id = ? AND version = coalesce(?, version) "
        "AND run_id = coalesce(?, run_id) ORDER BY created_at DESC, run_id LIMIT 1",
        [strategy, None if run else spec.version, run],
    )
    if found.is_empty():
        which = f"no backtest of run {run}" if run else f"no backtest of version {spec.version}"
        raise ConfigError(f"{strategy} has {which}; run `quant pipeline run --strategy {strategy}` first")
    backtest_run, last = found.row(0)
    methods = [one.value for one in Method if one is not Method.ALL] if method is Method.ALL else [method.value]
    config = {"methods": methods, "backtest_run": backtest_run, "carry": False}
    launched = market.launcher.run(
        ["validation"], last, last, [strategy], config={"ops": {market.grid.op("validation"): {"config": config}}}
    )
    if launched.succeeded:
        _results(strategy, launched.run_id)
    session.finish([launched], ["validation_results", "backtest_findings"])


def _results(strategy: str, run_id: str) -> None:
    import polars as pl

    rows = session.warehouse.query(
        "SELECT method, measure, value, verdict, threshold, threshold IS NOT NULL OR method = 'verdict' AS judged "
        "FROM validation_results WHERE run_id = ? AND strategy_id = ?",
        [run_id, strategy],
    )
    behind = rows.filter(~pl.col("judged")).select("method", "measure", "value")
    console.table(f"{strategy}: the figures behind", behind.columns, behind.rows())
    judged = rows.filter("judged").select("method", "measure", "value", "verdict", pl.col("threshold").fill_null(""))
    console.table(f"{strategy}: validation", ["method", "measure", "value", "verdict", "limits"], judged.rows())
    findings = session.warehouse.query(
        "SELECT severity, finding, evidence, remedy FROM backtest_findings WHERE run_id = ? AND strategy_id = ? "
        "ORDER BY finding_no",
        [run_id, strategy],
    )
    if findings.height:
        console.table(
            f"{strategy}: the doctor's findings", ["severity", "finding", "evidence", "remedy"], findings.rows()
        )
    console.say(f"report: {session.settings.verdict_report(strategy, run_id)}")


def verdicts(
    strategy: StrategiesOption = None,
    market: MarketOption = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="as a table for a README")] = False,
) -> None:
    """The last verdict on each strategy as its file is, with the figures behind it."""
    from quant_assets.strategy.gate import own_verdict

    rows = []
    universes = session.settings.strategies_dir / "universes"
    for one, specs in session.chosen(strategy, market):
        for spec in specs:
            last = own_verdict(session.warehouse, spec, one.grid.universe, one.grid.calendar, universes)
            stored = session.warehouse.query(
                "SELECT method || '.' || measure, value, verdict FROM validation_results "
                "WHERE strategy_id = ? AND run_id = ?",
                [spec.strategy_id, last.run_id if last else None],
            )
            known = {name: (value, verdict) for name, value, verdict in stored.iter_rows()}
            rows.append((spec.strategy_id, *(_judged(*known.get(name, (None, None))) for name in MEASURES)))
    columns = ["strategy", *MEASURES.values()]
    if not markdown:
        console.table("last verdicts; `quant validate` makes new ones", columns, rows)
        return
    for line in (columns, ["---"] * len(columns), *rows):
        console.say(f"| {' | '.join(line)} |")


def _judged(value: float | None, verdict: str | None) -> str:
    told = verdict or "not judged"
    return told if value is None else f"{value:.2f} {told}"
