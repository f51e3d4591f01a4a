"""Stored validations as the page reads them: measures, curves, findings, and the cells that were chosen among.

The returns of a sweep's cells are not stored with a validation; the trial ledger has them.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import numpy as np
import polars as pl
import streamlit as st

from quant_assets.core.errors import QuantError
from quant_assets.lab import state
from quant_assets.lab.sweep_cells import Cells
from quant_assets.strategy.gate import own_verdict
from quant_assets.strategy.ledger import Ledger, family
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.sweep import cells_of
from quant_assets.validation.pbo import Overfitting, backtest_overfitting

NONE = "\N{EN DASH}"
"""What stands for a number that is undefined."""

_MOST_CELLS = 2_000
"""Cells beyond which their returns are not read."""


@dataclass(frozen=True)
class Stored:
    """The measures of one validation."""

    rows: Mapping[tuple[str, str], Mapping[str, Any]]
    """(method, measure) -> its row of `validation_results`."""
    details: Mapping[str, Mapping[str, Any]]
    """Method -> what is no single number."""

    @classmethod
    def of(cls, rows: pl.DataFrame) -> "Stored":
        """Of the rows of one run and strategy."""
        details: dict[str, dict[str, Any]] = {}
        for method, text in rows.select("method", "details").iter_rows():
            details.setdefault(method, {}).update(json.loads(text))
        return cls({(row["method"], row["measure"]): row for row in rows.iter_rows(named=True)}, details)

    def has(self, method: str) -> bool:
        """Whether the method measured anything; one that could not has rows that only say why."""
        return any(one == method and row["value"] is not None for (one, _), row in self.rows.items())

    def value(self, method: str, measure: str) -> float:
        """NaN where it is undefined or not there."""
        found = self.rows.get((method, measure), {}).get("value")
        return math.nan if found is None else found

    def shown(self, method: str, measure: str, form: str = ".2f") -> str:
        """The value as text."""
        value = self.value(method, measure)
        return f"{value:{form}}" if math.isfinite(value) else NONE


@dataclass(frozen=True)
class Validation:
    """One run's validation of a strategy. What has no default is null of one that only asked the doctor."""

    spec: StrategySpec | None
    """Of the strategy's file as it is now; None where there is none any more."""
    strategy_id: str
    run_id: str
    backtest_run_id: str
    made: datetime
    version: str | None
    first: date | None
    last: date | None
    verdict: str | None

    @cached_property
    def stored(self) -> Stored:
        """Its measures."""
        return Stored.of(
            state.query(
                "SELECT method, measure, value, verdict, threshold, details FROM validation_results "
                "WHERE run_id = ? AND strategy_id = ?",
                [self.run_id, self.strategy_id],
            )
        )

    @cached_property
    def written(self) -> pl.DataFrame:
        """The backtest's own returns as the curve `as written`: curve, ts, ret."""
        return state.query(
            "SELECT 'as written' AS curve, ts, ret FROM backtest_equity WHERE run_id = ? AND strategy_id = ? "
            "ORDER BY ts",
            [self.backtest_run_id, self.strategy_id],
        )

    def curves(self, names: Sequence[str]) -> pl.DataFrame:
        """Returns out of sample of some curves: curve, ts, ret."""
        return state.query(
            "SELECT curve, ts, ret FROM validation_curves WHERE run_id = ? AND strategy_id = ? "
            "AND curve IN (SELECT unnest(?)) ORDER BY curve, ts",
            [self.run_id, self.strategy_id, list(names)],
        )

    @property
    def findings(self) -> pl.DataFrame:
        """The doctor's, the gravest first: finding, severity, evidence, remedy."""
        return state.query(
            "SELECT finding, severity, evidence, remedy FROM backtest_findings WHERE run_id = ? AND strategy_id = ? "
            "ORDER BY finding_no",
            [self.run_id, self.strategy_id],
        )

    @property
    def report(self) -> Path:
        """Where its report lies."""
        return state.config().verdict_report(self.strategy_id, self.run_id)

    @cached_property
    def cells(self) -> Cells | None:
        """The cells of the file's sweep that the ledger has over the same period; None where there are none."""
        return self._in_ledger[0] if self._in_ledger else None

    @cached_property
    def chosen(self) -> pl.DataFrame | None:
        """Returns of the cell that was best in sample, as the curve `chosen`; None where the ledger has none."""
        wanted = self.stored.details["is_oos"]["chosen"]
        if not wanted or self._in_ledger is None:
            return None
        cells, trials = self._in_ledger
        at = next((at for at, changes in enumerate(cells.changes) if dict(changes) == wanted), None)
        returns = _returns([trials[at]])["returns"].explode() if at is not None else pl.Series()
        if len(returns) != self.written.height:
            return None
        return self.written.select(pl.lit("chosen").alias("curve"), "ts", returns.cast(pl.Float64).alias("ret"))

    @cached_property
    def overfitting(self) -> Overfitting | None:
        """PBO once more, of the strategy and its cells as the ledger has them: for the ratios of every halving."""
        if self._in_ledger is None or len(self._in_ledger[1]) > _MOST_CELLS:
            return None
        trials = {*self._in_ledger[1], self._own_trial} - {None}
        year = state.market_of(self.strategy_id).layout.calendar.sessions_per_year
        blocks = self.stored.details["pbo"]["blocks"]
        return _overfitting(str(state.snapshot()), tuple(sorted(cast(set[str], trials))), year, blocks)

    def sweeps(self) -> pl.DataFrame:
        """The sweeps of the strategy that are stored, the newest first: sweep_id, first, last, cells."""
        return state.query(
            "SELECT sweep_id, s.from_ts AS first, s.to_ts AS last, count(*) AS cells "
            "FROM sweep_results s LEFT JOIN trials t USING (trial_id) WHERE s.strategy_id = ? "
            "GROUP BY ALL ORDER BY max(t.first_seen_at) DESC, sweep_id",
            [self.strategy_id],
        )

    def swept(self, sweep_id: str) -> Cells:
        """The cells of one of `sweeps`."""
        rows = state.query("SELECT * FROM sweep_results WHERE sweep_id = ? ORDER BY cell", [sweep_id])
        trials = rows["trial_id"].to_list()
        own = trials.index(self._own_trial) if self._own_trial in trials else None
        return Cells(tuple(json.loads(text) for text in rows["params"]), rows, own)

    @cached_property
    def _own_trial(self) -> str | None:
        """The backtest's."""
        rows = state.query(
            "SELECT trial_id FROM backtest_summary WHERE run_id = ? AND strategy_id = ?",
            [self.backtest_run_id, self.strategy_id],
        )
        return cast(str | None, rows.item(0, 0)) if rows.height else None

    @cached_property
    def _in_ledger(self) -> tuple[Cells, list[str]] | None:
        """The cells and the ids of their trials."""
        if self.spec is None or self.first is None or self.last is None:
            return None
        universe = state.market_of(self.strategy_id).layout.universe
        symbols = tuple(self.spec.bounds(universe, state.config().strategies_dir / "universes"))
        try:
            changes, ids = _trials_of(self.strategy_id, self.spec.source_hash, symbols, self.first, self.last)
        except QuantError:  # a sweep that cannot be run as the file is now
            return None
        found = state.query("SELECT trial_id, sharpe FROM trials WHERE trial_id IN (SELECT unnest(?))", [ids])
        sharpes = dict(found.iter_rows())
        kept = [at for at, trial in enumerate(ids) if trial in sharpes]
        if not kept:
            return None
        trials = [ids[at] for at in kept]
        measures = pl.DataFrame({"sharpe": pl.Series([sharpes[trial] for trial in trials], dtype=pl.Float64)})
        own = trials.index(self._own_trial) if self._own_trial in trials else None
        return Cells(tuple(changes[at] for at in kept), measures, own), trials


def validations(strategy_id: str, spec: StrategySpec | None) -> list[Validation]:
    """Those of a strategy, the newest first."""
    rows = state.query(
        "SELECT run_id, any_value(backtest_run_id) AS backtest_run_id, max(created_at) AS made, "
        "any_value(version) AS version, any_value(from_ts) AS first, any_value(to_ts) AS last, "
        "max(verdict) FILTER (method = 'verdict') AS verdict FROM ("
        "SELECT run_id, backtest_run_id, created_at, version, from_ts, to_ts, method, verdict "
        "FROM validation_results WHERE strategy_id = $1 UNION ALL "
        "SELECT run_id, backtest_run_id, created_at, NULL, NULL, NULL, 'doctor', NULL "
        "FROM backtest_findings WHERE strategy_id = $1) GROUP BY run_id ORDER BY made DESC, run_id",
        [strategy_id],
    )
    return [Validation(spec, strategy_id, **row) for row in rows.iter_rows(named=True)]


def last_verdicts() -> dict[str, pl.DataFrame]:
    """Strategy -> rows of the last verdict on it as its file is: method, measure, value, verdict, to_ts, created_at."""
    universes = state.config().strategies_dir / "universes"
    found = {}
    for market in state.markets():
        for strategy_id, spec in market.strategies.items():
            last = own_verdict(state, spec, market.layout.universe, market.layout.calendar, universes)
            found[strategy_id] = state.query(
                "SELECT method, measure, value, verdict, to_ts, created_at FROM validation_results "
                "WHERE strategy_id = ? AND run_id = ?",
                [strategy_id, last.run_id if last else None],
            )
    return dict(sorted(found.items()))


def newest_backtest(strategy_id: str, spec: StrategySpec | None) -> tuple[str, date] | None:
    """Run and last session of the newest backtest of the version that the strategy's file has."""
    rows = state.query(
        "SELECT run_id, to_ts FROM backtest_summary WHERE strategy_id = ? AND version = ? "
        "ORDER BY created_at DESC, run_id LIMIT 1",
        [strategy_id, spec.version if spec else None],
    )
    return cast(tuple[str, date], rows.row(0)) if rows.height else None


@st.cache_resource(max_entries=32, show_spinner=False)
def _trials_of(
    strategy_id: str, source: str, symbols: tuple[str, ...], first: date, last: date
) -> tuple[list[Mapping[str, Any]], list[str]]:
    """What each cell of the strategy's sweep changes, and its id as a trial; nothing where there is no sweep.

    Args:
        source: hash of the file, for the cache.
        symbols: those that the strategy may hold.

    Raises:
        QuantError: the sweep cannot be run.
    """
    market = state.market_of(strategy_id)
    spec = market.strategies[strategy_id]
    if spec.sweep is None:
        return [], []
    ledger = Ledger(family(spec, market.name), symbols, first, last)
    cells = cells_of(spec, state.config().sweep_max_cells).cells
    return [cell.changes for cell in cells], [ledger.trial_id(cell.spec) for cell in cells]


def _returns(trials: Sequence[str]) -> pl.DataFrame:
    """Returns of trials: trial_id, returns."""
    return state.query(
        "SELECT trial_id, returns FROM trials WHERE trial_id IN (SELECT unnest(?)) ORDER BY trial_id", [list(trials)]
    )


@st.cache_resource(max_entries=16, show_spinner="Halving the period in all ways\N{HORIZONTAL ELLIPSIS}")
def _overfitting(copy: str, trials: tuple[str, ...], year: int, blocks: int) -> Overfitting | None:
    """PBO of the trials' returns as `copy` of the warehouse has them; None where it cannot be had of them."""
    lists = _returns(trials)["returns"]
    if lists.list.len().n_unique() != 1:
        return None
    matrix = np.nan_to_num(lists.explode().to_numpy().astype(np.float64).reshape(len(lists), -1))
    try:
        return backtest_overfitting(matrix, year, blocks)
    except QuantError:
        return None
