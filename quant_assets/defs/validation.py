"""The validation of backtests: whether to believe them. By date and strategy, after backtest_summary."""

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import dagster as dg
import polars as pl
from pydantic import Field

from quant_assets.backtest.verdict_report import VerdictContext, verdict_pngs, write_verdict_report
from quant_assets.contracts import backtest_findings, trials, validation_curves, validation_results
from quant_assets.contracts.gate import gate
from quant_assets.core.drawing import png_markdown
from quant_assets.core.errors import ConfigError
from quant_assets.core.settings import Settings
from quant_assets.defs.automation import when_inputs_are_in
from quant_assets.defs.catalog import row_count, table_asset
from quant_assets.defs.context import Piece, attach, pass_gate, piece_of
from quant_assets.defs.decision import BACKTEST_TABLES, GROUP, Strategies, refuse_other_strategies
from quant_assets.defs.grid import Grid
from quant_assets.defs.market import code_version
from quant_assets.defs.sources import labelled_features, sources_of
from quant_assets.defs.stored_backtests import StoredBacktest, stored_backtest
from quant_assets.market_data.history import adjusted_bars
from quant_assets.strategy.doctor import diagnose
from quant_assets.strategy.evaluate import Evaluator
from quant_assets.strategy.gate import LastVerdict, last_verdict
from quant_assets.strategy.ledger import Ledger, family, record
from quant_assets.strategy.retrained import retrained
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.validate import Candidates, candidates, curves, measured, reviewed, thresholds, usable_cells
from quant_assets.validation.assessment import METHODS, Assessment, assess
from quant_assets.validation.cpcv import Combinatorial
from quant_assets.validation.doctor import Finding
from quant_assets.warehouse import Warehouse

ASSET = "validation"
VALIDATION_TABLES = (validation_results.TABLE, validation_curves.TABLE, backtest_findings.TABLE)
DOCTOR = "doctor"
CHOICES: tuple[str, ...] = (*METHODS, DOCTOR)

_CODE = ("validation", "strategy", "backtest", "models", "portfolio", "signals")
_MEASURES = {
    "is_oos_degradation": ("is_oos", "degradation"),
    "wfa_sharpe": ("wfa", "sharpe"),
    "wfa_consistency": ("wfa", "consistency"),
    "pbo": ("pbo", "pbo"),
    "dsr_deflated_sharpe": ("dsr", "deflated_sharpe"),
    "dsr_deflated_probability": ("dsr", "deflated_probability"),
    "verdict": ("verdict", "overall"),
}
_CHECKS = {
    "is_oos_degradation": "What was best in sample keeps its Sharpe ratio out of sample.",
    "wfa_sharpe": "Parameters chosen as one walks forward have a Sharpe ratio out of sample.",
    "wfa_consistency": "Most walk-forward windows make money.",
    "pbo": "What is best in sample is above the median out of sample.",
    "dsr_deflated_sharpe": "The Sharpe ratio is above what luck gives the best of as many trials.",
    "dsr_deflated_probability": "The true Sharpe ratio is above that with high probability.",
    "verdict": "What the judged measures say together.",
    DOCTOR: "The review of the backtest finds nothing that asks for a remedy.",
}


class ValidationRun(dg.Config):
    """What to validate in one run."""

    methods: list[str] = Field(default=list(CHOICES))
    """Of is_oos, wfa, cpcv, pbo, dsr, doctor. There is an overall verdict only where all tests are asked for."""
    backtest_run: str | None = None
    """Run id of the backtest; none: the newest of the partition's strategy and version."""
    carry: bool | None = None
    """Whether a verdict on the same configuration stands while it is recent (QUANT_VALIDATION_MAX_AGE_DAYS); none: in
    runs of a single date, as a daemon makes them."""

    def checked_methods(self) -> list[str]:
        """The methods, in their order.

        Raises:
            ConfigError: none, or an unknown one.
        """
        unknown = [name for name in self.methods if name not in CHOICES]
        if unknown or not self.methods:
            raise ConfigError(f"method {', '.join(unknown) or '(none)'} is unknown; use some of: {', '.join(CHOICES)}")
        return [name for name in CHOICES if name in self.methods]


def validation_assets(grid: Grid, strategies: Strategies, settings: Settings) -> list[dg.AssetsDefinition]:
    """validation on `grid`; nothing without strategies, which are its partitions."""
    if not strategies:
        return []
    key = grid.key(ASSET)

    @table_asset(
        grid,
        ASSET,
        validation_results.TABLE,
        group=GROUP,
        also=VALIDATION_TABLES[1:],
        partitions_def=grid.decision,
        deps=[grid.key("backtest_summary")],
        kinds={"duckdb", "numba"},
        automation_condition=when_inputs_are_in(),
        code_version=code_version(*_CODE),
        check_specs=[dg.AssetCheckSpec(name, asset=key, description=doc) for name, doc in _CHECKS.items()],
    )
    def validation_asset(
        context: dg.AssetExecutionContext, config: ValidationRun, warehouse: dg.ResourceParam[Warehouse]
    ) -> dg.MaterializeResult:
        judged: dict[str, _Stored] = {}
        with piece_of(context, grid) as piece:
            refuse_other_strategies(context, piece)
            methods = config.checked_methods()
            carry = config.carry if config.carry is not None else piece.slice.first == piece.slice.last
            for strategy_id, cell in zip(piece.slice.keys, piece.last_cells, strict=True):
                work = _Work.of(strategies[strategy_id], config.backtest_run, warehouse, piece, settings)
                if isinstance(work, str):
                    piece.report(work)
                    attach(context, [cell], {"rows": 0, "why": work})
                    continue
                standing = work.standing() if carry else None
                if standing is None:
                    backtest_run, metadata = work.backtest["run_id"], work.validate(methods)
                else:
                    why = f"the verdict of run {standing.run_id} is recent enough"
                    backtest_run, metadata = standing.backtest_run_id, {"rows": 0, "why": why}
                    piece.report(f"{strategy_id}: {why}")
                judged[strategy_id] = _Stored.of(warehouse, strategy_id, backtest_run)
                held = row_count(warehouse, validation_results.TABLE.name)
                attach(context, [cell], {**judged[strategy_id].headline, **metadata, **held})
        return dg.MaterializeResult(check_results=list(_check_results(key, judged)))

    return [validation_asset]


@dataclass
class _Work:
    """One backtest to validate, with all that was read for it."""

    stored: StoredBacktest
    warehouse: Warehouse
    piece: Piece
    settings: Settings
    seconds: dict[str, float] = field(default_factory=dict)

    @classmethod
    def of(
        cls, spec: StrategySpec, run_id: str | None, warehouse: Warehouse, piece: Piece, settings: Settings
    ) -> "_Work | str":
        """The backtest of that run, or else the newest one; a line where there is none.

        Raises:
            ConfigError: the run named has no backtest of the strategy, or one from before the ledger.
        """
        found = stored_backtest(spec, run_id, warehouse, piece, settings)
        if found is None:
            return f"{spec.strategy_id}: nothing to validate, it has no backtest by {piece.slice.last}"
        return cls(found, warehouse, piece, settings)

    @property
    def spec(self) -> StrategySpec:
        return self.stored.spec

    @property
    def backtest(self) -> Mapping[str, Any]:
        return self.stored.row

    def standing(self) -> LastVerdict | None:
        """A verdict on the same configuration that is recent enough."""
        last = last_verdict(
            self.warehouse,
            self.spec.strategy_id,
            self.spec.version,
            self.stored.configuration,
            self.backtest["from_ts"],
        )
        oldest = self.backtest["to_ts"] - timedelta(days=self.settings.validation_max_age_days)
        return last if last is not None and last.last >= oldest else None

    @contextmanager
    def timed(self, part: str) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.seconds[part] = time.perf_counter() - began

    def validate(self, methods: Sequence[str]) -> dict[str, Any]:
        """Test, review, store and show. Returns the partition's metadata."""
        spec, grid, report = self.spec, self.piece.grid, self.piece.report
        calendar, limits = grid.calendar, thresholds(self.settings)
        first, last = self.backtest["from_ts"], self.backtest["to_ts"]
        report(f"{spec.strategy_id}: validating the backtest of run {self.backtest['run_id']}, {first}..{last}")
        with self.timed("reading"):
            bounds = self.stored.bounds
            bars = adjusted_bars(self.warehouse, list(bounds), grid.universe.start, last, calendar=calendar)
            equity = self.stored.table(self.warehouse, "backtest_equity", "ts")
            sessions = equity["ts"].to_list()
            cells, alone = usable_cells(spec, bars, sessions, bounds, self.settings)
            sources = sources_of([spec], self.warehouse, bounds, sessions)
            try:
                sources |= sources_of((cell.spec for cell in cells), self.warehouse, bounds, sessions)
            except ConfigError as error:
                cells, alone = (), str(error)
            evaluator = Evaluator(bars, sessions, calendar.sessions, bounds, calendar.sessions_per_year, sources)
        with self.timed("sweep"):
            found = candidates(
                spec, cells, equity["ret"].to_numpy(), self.backtest["sharpe"], evaluator, bounds, self.settings, report
            )
            entries = Ledger(family(spec, grid.universe.name), list(bounds), first, last)
            self._enter(found, entries)
            known = entries.known(self.warehouse, len(sessions))
        tests = [name for name in METHODS if name in methods]
        with self.timed("tests"):
            assessment = assess(
                found.returns,
                equity["ts"].to_numpy().astype("M8[D]"),
                calendar.sessions_per_year,
                known,
                spec.validation,
                limits,
                tests,
                self._retraining(bars, sessions, bounds) if spec.model else None,
                report,
            )
        if alone:
            assessment.missing["sweep"] = alone
        findings: list[Finding] = []
        if DOCTOR in methods:
            with self.timed("doctor"):
                tables = {table.name: self.stored.table(self.warehouse, table.name) for table in BACKTEST_TABLES}
                swept = list(zip(found.changes, found.sharpes.tolist(), strict=True)) if cells else None
                findings = diagnose(spec, tables, bars, sessions, calendar, bounds, sources, swept, report)
        self._store(assessment, findings, found, sessions)
        return self._show(assessment, findings, found, equity)

    def _enter(self, found: Candidates, entries: Ledger) -> None:
        """What was evaluated was tried, whatever becomes of the validation."""
        others = slice(1, None)
        if len(found.specs) == 1:
            return
        rows = entries.rows(
            found.specs[others], found.sharpes[others].tolist(), found.returns[others], "sweep", self.piece.now
        )
        good = gate(trials.TABLE, rows.unique("trial_id", keep="first", maintain_order=True)).good
        with self.warehouse.write() as writer:
            record(writer, good, self.piece.run_id)

    def _retraining(
        self, bars: pl.DataFrame, sessions: Sequence[date], bounds: Mapping[str, Any]
    ) -> Callable[[], Combinatorial]:
        spec, grid = self.spec, self.piece.grid
        assert spec.model is not None
        names = grid.universe.names
        features, labels = labelled_features(spec.model, self.warehouse, names, sessions[-1])
        sharpe = self.backtest["sharpe"]

        def make() -> Combinatorial:
            return retrained(
                spec,
                features,
                labels,
                bars,
                sessions,
                grid.calendar.sessions,
                bounds,
                grid.calendar.sessions_per_year,
                spec.validation,
                names,
                float("nan") if sharpe is None else sharpe,
                self.piece.report,
            )

        return make

    def _store(
        self, assessment: Assessment, findings: Sequence[Finding], found: Candidates, sessions: Sequence[date]
    ) -> None:
        """All tables in one transaction; a rerun of the run's step replaces its own rows."""
        own = {"strategy_id": pl.lit(self.spec.strategy_id), "created_at": pl.lit(self.piece.now)}
        backtest = pl.lit(self.backtest["run_id"]).alias("backtest_run_id")
        rows = measured(assessment, found.changes).with_columns(
            backtest,
            version=pl.lit(self.spec.version),
            from_ts=pl.lit(self.backtest["from_ts"]),
            to_ts=pl.lit(self.backtest["to_ts"]),
            **own,
        )
        out_of_sample, found_wrong = curves(assessment, sessions), reviewed(findings).with_columns(backtest)
        frames = rows, out_of_sample.with_columns(**own), found_wrong.with_columns(**own)
        passed = [
            (table, pass_gate(table, frame, self.piece)) for table, frame in zip(VALIDATION_TABLES, frames, strict=True)
        ]
        with self.warehouse.write() as writer:
            for table, one in passed:
                one.quarantine(writer, self.piece)
                writer.replace(
                    table,
                    one.good,
                    "run_id = ? AND strategy_id = ?",
                    [self.piece.run_id, self.spec.strategy_id],
                    run_id=self.piece.run_id,
                )

    def _show(
        self, assessment: Assessment, findings: Sequence[Finding], found: Candidates, equity: pl.DataFrame
    ) -> dict[str, Any]:
        """Write the report, and return the pictures and its place as metadata."""
        spec, piece = self.spec, self.piece
        with self.timed("report"):
            context = VerdictContext(
                run_id=piece.run_id,
                strategy_id=spec.strategy_id,
                version=spec.version,
                description=spec.description,
                strategy=spec.model_dump(mode="json", by_alias=True, exclude_defaults=True),
                first=self.backtest["from_ts"],
                last=self.backtest["to_ts"],
                days=equity["ts"].to_numpy().astype("M8[D]"),
                returns=found.returns,
                changes=found.changes,
                year=piece.grid.calendar.sessions_per_year,
                family=family(spec, piece.grid.universe.name),
                timings=dict(self.seconds),
                lineage={
                    "Backtest": f"run {self.backtest['run_id']}",
                    "Strategy file": f"sha256 {spec.source_hash[:16]}",
                    "Universe": f"{piece.grid.universe.name} {piece.grid.universe.version}",
                    "Code version": code_version(*_CODE),
                },
            )
            path = write_verdict_report(
                self.settings.verdict_report(spec.strategy_id, piece.run_id), assessment, findings, context
            )
            pictures = verdict_pngs(assessment, context)
        took = ", ".join(f"{part} {seconds:.2f} s" for part, seconds in self.seconds.items())
        piece.report(f"{spec.strategy_id}: {assessment.verdict or 'not judged'} ({took}); report {path}")
        return {
            **{name: dg.MetadataValue.md(png_markdown(png, name)) for name, png in pictures.items()},
            "report": dg.MetadataValue.path(str(path)),
            "backtest run": self.backtest["run_id"],
            "period": f"{self.backtest['from_ts']}..{self.backtest['to_ts']}",
            "configurations": len(found.changes),
            **({"not judged": dg.MetadataValue.md(_listed(assessment.missing))} if assessment.missing else {}),
            **(
                {"findings": dg.MetadataValue.md(_listed({one.name: one.evidence for one in findings}))}
                if findings
                else {}
            ),
        }


def _listed(lines: Mapping[str, str]) -> str:
    return "\n".join(f"- **{name}**: {text}" for name, text in lines.items())


@dataclass(frozen=True)
class _Stored:
    """What is stored of the validation of one backtest, read again: of each measure the newest.

    So a run of a single test leaves what the others said before.
    """

    results: pl.DataFrame
    findings: pl.DataFrame

    @classmethod
    def of(cls, warehouse: Warehouse, strategy_id: str, backtest_run: str) -> "_Stored":
        results, findings = (
            warehouse.query(
                f"SELECT * FROM {table.name} WHERE strategy_id = ? AND backtest_run_id = ? "
                f"QUALIFY {rank}() OVER ({part} ORDER BY created_at DESC, run_id) = 1",
                [strategy_id, backtest_run],
            )
            for table, rank, part in (
                (validation_results.TABLE, "row_number", "PARTITION BY method, measure"),
                (backtest_findings.TABLE, "dense_rank", ""),
            )
        )
        order = {pair: place for place, pair in enumerate(_MEASURES.values())}
        places = [order.get(pair, len(order)) for pair in results.select("method", "measure").iter_rows()]
        return cls(
            results.with_columns(pl.Series("place", places, pl.Int64)).sort("place", "method", "measure"),
            findings.sort("finding_no"),
        )

    @property
    def headline(self) -> dict[str, Any]:
        """The verdict, and the judged measures as a table."""
        judged = self.results.filter(pl.col("threshold").is_not_null())
        lines = ["| measure | value | verdict | limits |", "|---|---|---|---|"]
        lines += [
            f"| {method} {name} | {'-' if value is None else f'{value:.4g}'} | {verdict or 'not judged'} | {limits} |"
            for method, name, value, verdict, limits in judged.select(
                "method", "measure", "value", "verdict", "threshold"
            ).iter_rows()
        ]
        overall = self.results.filter(pl.col("method") == "verdict")["verdict"]
        return {
            "verdict": next(iter(overall), None) or "not judged",
            **({"measures": dg.MetadataValue.md("\n".join(lines))} if judged.height else {}),
        }

    def outcome(self, check: str) -> tuple[str, str] | None:
        """`fail`, `caution` or `not judged` and the words for it; None where the check passed or was not asked for."""
        if check == DOCTOR:
            grave = self.findings.filter(pl.col("severity") != "note")
            worst = "fail" if "error" in grave["severity"] else "caution"
            return (worst, "; ".join(grave["evidence"])) if grave.height else None
        method, measure = _MEASURES[check]
        rows = self.results.filter((pl.col("method") == method) & (pl.col("measure") == measure))
        if rows.is_empty() or rows["verdict"][0] == "pass":
            return None
        row = rows.row(0, named=True)
        note = json.loads(row["details"]).get("note", "")
        facts = [f"{row['value']:.4g}" if row["value"] is not None else "", row["threshold"] or self._behind(), note]
        return row["verdict"] or "not judged", "; ".join(filter(None, facts))

    def _behind(self) -> str:
        """The judged measures that did not pass."""
        rows = self.results.filter(pl.col("threshold").is_not_null() & pl.col("verdict").ne_missing("pass"))
        verdicts = rows.select("method", "measure", pl.col("verdict").fill_null("not judged")).iter_rows()
        return ", ".join(f"{method} {measure} {verdict}" for method, measure, verdict in verdicts)


def _check_results(asset: dg.AssetKey, judged: Mapping[str, _Stored]) -> Iterator[dg.AssetCheckResult]:
    """A failed measure is an error, caution a warning; neither stops anything."""
    for name in _CHECKS:
        found = {strategy: told for strategy, one in judged.items() if (told := one.outcome(name)) is not None}
        failed = any(verdict == "fail" for verdict, _ in found.values())
        lines = [f"{strategy}: {verdict} ({words})" for strategy, (verdict, words) in found.items()]
        yield dg.AssetCheckResult(
            asset_key=asset,
            check_name=name,
            passed=not found,
            severity=dg.AssetCheckSeverity.ERROR if failed else dg.AssetCheckSeverity.WARN,
            description="; ".join(lines) or None,
        )
