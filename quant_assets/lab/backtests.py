"""Stored backtests as pages pick from them: which there are, what they were configured with, where they left a file."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from quant_assets.core.errors import QuantError
from quant_assets.lab import notices, state, widgets
from quant_assets.strategy.ledger import configuration, configuration_id

_ASSET = "backtest_summary"
_STORED = """
SELECT s.*, v.verdict, t.configuration, t.params
FROM backtest_summary s
LEFT JOIN trials t ON t.trial_id = s.trial_id
LEFT JOIN (
    SELECT backtest_run_id, strategy_id, arg_max(verdict, created_at) AS verdict
    FROM validation_results WHERE method = 'verdict' AND measure = 'overall' GROUP BY ALL
) v ON v.backtest_run_id = s.run_id AND v.strategy_id = s.strategy_id
ORDER BY s.created_at DESC, s.run_id, s.strategy_id
"""


@dataclass(frozen=True)
class File:
    """What a strategy's file says of its backtest."""

    version: str
    configuration: str
    """`ledger.configuration_id`."""
    first: date
    """Its first session."""
    last: date | None
    """Its last session; None where the period is open."""
    initial_cash: float
    fee_bps: float
    slippage_bps: float


def stored() -> pl.DataFrame:
    """Every stored backtest, the newest first; no rows where nothing is published.

    Returns:
        `backtest_summary` with `verdict` (null: not judged), `configuration` and `params` of its trial, and `key`: its
        run id, with the strategy where the run has several.
    """
    if state.snapshot() is None:
        return pl.DataFrame(schema={"key": pl.String})
    alone = pl.len().over("run_id") == 1
    return state.query(_STORED).with_columns(
        key=pl.when(alone).then("run_id").otherwise(pl.format("{}:{}", "run_id", "strategy_id"))
    )


def none_yet() -> None:
    """What to say where no backtest is stored."""
    widgets.nothing(
        "No backtest is stored yet",
        "Run everything there is a strategy for, or one strategy on the page Strategies; this page fills itself.",
        "quant pipeline run",
    )


def failure() -> None:
    """Say that the last run of a backtest failed, if it did: it stored none."""
    notices.failure("a backtest", lambda run: any(path.split("/")[-1] == _ASSET for path in run.assets))


def files() -> tuple[dict[str, File], str | None]:
    """strategy_id -> what its file says now, and why there is none where the files cannot be used."""
    folder = state.config().strategies_dir / "universes"
    found = {}
    try:
        for market in state.markets():
            universe, calendar = market.layout.universe, market.layout.calendar
            for name, spec in market.strategies.items():
                said = spec.backtest
                sessions = calendar.between(max(said.first, universe.start), said.last or date.max)
                found[name] = File(
                    spec.version,
                    configuration_id(configuration(spec, spec.bounds(universe, folder))),
                    sessions[0] if sessions else said.first,
                    sessions[-1] if sessions and said.last else said.last,
                    said.initial_cash,
                    said.fee_bps,
                    said.slippage_bps,
                )
    except QuantError as error:
        return {}, str(error)
    return found, None


def departures(row: Mapping[str, Any], file: File | None) -> str:
    """How a backtest differs from its strategy's file as it is now; empty where it does not.

    Args:
        row: of `stored`.
        file: None where there is no such file any more.
    """
    if file is None:
        return "its file is gone"
    first, last = row["from_ts"], row["to_ts"]
    found = [f"version {row['version']}, now {file.version}"] if row["version"] != file.version else []
    if first != file.first or (file.last and last != file.last):
        found.append("other period")
    if row["initial_cash"] != file.initial_cash:
        found.append(f"cash {row['initial_cash']:,.0f}")
    costs = [f"{name} {row[f'{name}_bps']:g} bps" for name in ("fee", "slippage") if _moved(row, file, f"{name}_bps")]
    found += costs
    if row["configuration"] not in (None, file.configuration) and not costs and row["version"] == file.version:
        found.append("other settings")
    return ", ".join(found)


def _moved(row: Mapping[str, Any], file: File, name: str) -> bool:
    return bool(row[name] != getattr(file, name))


def configured(row: Mapping[str, Any]) -> dict[str, Any]:
    """What a backtest was configured with, nested as in a strategy file, less what is a default; `row`: of `stored`."""
    return json.loads(row["params"]) if row["params"] else {}


def named(row: Mapping[str, Any]) -> str:
    """A backtest among those of its strategy: when it ran, its period, the beginning of its run id."""
    return f"{row['created_at']:%Y-%m-%d %H:%M} · {row['from_ts']} to {row['to_ts']} · {row['run_id']:.8}"
