"""The asset validation: what it stores and shows, its checks, which backtest it judges, standing verdicts, the gate."""

import json
import math
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from quant_assets.contracts import TABLES
from quant_assets.defs import validation
from quant_assets.defs.decision import decision_assets
from quant_assets.defs.resources import resources
from quant_assets.defs.validation import VALIDATION_TABLES, validation_assets
from quant_assets.strategy import StrategySpec, load_strategies
from quant_assets.warehouse import Warehouse, Writer
from quant_assets_tests.platform import (
    DAGSTERS_OWN,
    END,
    LISTED,
    LISTED_LATE,
    QUIET,
    SHORT_PLAN,
    START,
    SYMBOLS,
    Platform,
    bars_of,
    contents,
    small_platform,
)

pytestmark = [pytest.mark.slow, *DAGSTERS_OWN]

FIRST = date(2023, 3, 1)
MIDDLE = date(2023, 6, 30)
"""A Friday: the last session of a week."""
NAMES = tuple(table.name for table in VALIDATION_TABLES)
SWEEP = {"parameters": {"signal.inputs.lookback": [5, 10, 20], "signal.inputs.vol_window": [10, 20]}}
WAVES: dict[str, Any] = {
    "signal": {"type": "tsmom", "inputs": {"lookback": 10, "vol_window": 10}},
    "rebalance": {"frequency": "weekly"},
    "portfolio": {"weighting": "equal", "short": "full"},
    "sweep": SWEEP,
    "validation": SHORT_PLAN,
}
GENEROUS: dict[str, Any] = {
    "validation_degradation": (math.inf, math.inf),
    "validation_wfa_sharpe": (-99.0, -99.0),
    "validation_wfa_consistency": (-1.0, -1.0),
    "validation_pbo": (2.0, 2.0),
    "validation_deflated_sharpe": (-99.0, -99.0),
    "validation_deflated_probability": (0.0, 0.0),
}
"""Limits under which every measure passes, but for a degradation that is undefined."""
STRICT: dict[str, Any] = {"validation_deflated_probability": (1.0, 1.0)}
"""A limit that no strategy reaches."""


class Made:
    """A platform with bars in its warehouse, strategy `waves` with a sweep, and the decision stage on its grid."""

    def __init__(self, platform: Platform) -> None:
        self.platform = platform

    @property
    def warehouse(self) -> Warehouse:
        return self.platform.warehouse

    @property
    def strategies(self) -> dict[str, StrategySpec]:
        return load_strategies(self.platform.strategies)

    def put_bars(self) -> None:
        bars = pl.concat([bars_of(name, LISTED if name == LISTED_LATE else START, END) for name in SYMBOLS])
        rows = bars.with_columns(adjusted_close=None, source=pl.lit("files"), ingested_at=datetime(2024, 1, 2))
        with self.warehouse.write() as writer:
            writer.replace(TABLES["ohlcv"], rows, "true", run_id="ingest")

    def run(
        self,
        *names: str,
        strategies: Sequence[str] = ("waves",),
        first: date = FIRST,
        last: date = END,
        config: dict[str, dict[str, Any]] | None = None,
        tags: dict[str, str] | None = None,
        **changes: Any,
    ) -> dg.ExecuteInProcessResult:
        """Materialise assets in one run, under settings with `changes`; `config` is asset -> run config."""
        settings = self.platform.settings.model_copy(update=changes)
        grid = replace(self.platform.grid(), strategies=tuple(self.strategies))
        assets = {
            one.key.path[-1]: one
            for make in (decision_assets, validation_assets)
            for one in make(grid, self.strategies, settings)
        }
        return dg.materialize(
            [assets[name] for name in names],
            resources=resources(settings),
            run_config={**QUIET, "ops": {name: {"config": one} for name, one in (config or {}).items()}},
            raise_on_error=False,
            tags={**grid.range_tags(first, last, strategies), **(tags or {})},
        )

    def backtest(self, *, last: date = END, **config: Any) -> dg.ExecuteInProcessResult:
        """The backtest of waves in a run of its own."""
        return self.run("backtest_summary", last=last, config={"backtest_summary": config})

    def validate(self, **changes: Any) -> dg.ExecuteInProcessResult:
        """Validate the newest backtest; `changes` as `run` takes them."""
        return self.run("validation", **changes)

    def verdict(self, result: dg.ExecuteInProcessResult, strategy_id: str = "waves") -> list[str]:
        return self.warehouse.query(
            "SELECT verdict FROM validation_results WHERE run_id = ? AND strategy_id = ? AND method = 'verdict'",
            [result.run_id, strategy_id],
        )["verdict"].to_list()

    def measures(self, result: dg.ExecuteInProcessResult) -> dict[str, float | None]:
        """`method.measure` -> value of a run."""
        rows = self.warehouse.query(
            "SELECT method || '.' || measure, value FROM validation_results WHERE run_id = ?", [result.run_id]
        )
        return dict(rows.iter_rows())

    def tried(self) -> list[dict[str, Any]]:
        """The configurations in the ledger."""
        rows = self.warehouse.query("SELECT params FROM trials ORDER BY trial_id")["params"]
        return [json.loads(one) for one in rows]

    def count(self, table: str) -> int:
        return int(self.warehouse.query(f"SELECT count(*) FROM {table}").item())


def copied(finished: Made, root: Path) -> Made:
    shutil.copytree(finished.platform.root, root)
    return Made(Platform(root))


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Bars and targets are stored, no backtest."""
    made = Made(small_platform(tmp_path_factory.mktemp("decided")))
    made.platform.write_strategy("waves", **WAVES)
    made.put_bars()
    assert made.run("targets").success
    return made


@pytest.fixture(scope="module")
def tested(decided: Made, tmp_path_factory: pytest.TempPathFactory) -> Made:
    """And the backtest."""
    made = copied(decided, tmp_path_factory.mktemp("tested") / "copy")
    assert made.backtest().success
    return made


@pytest.fixture
def before(decided: Made, tmp_path: Path) -> Made:
    """A copy to work on, without a backtest."""
    return copied(decided, tmp_path / "copy")


@pytest.fixture
def made(tested: Made, tmp_path: Path) -> Made:
    """A copy to work on, with a backtest."""
    return copied(tested, tmp_path / "copy")


def metadata_of(result: dg.ExecuteInProcessResult, asset: str = "validation") -> dict[str, Any]:
    """That of the one partition which has some: the last one of a range."""
    assert result.success, failure_of(result)
    events = [one for one in result.get_asset_materialization_events() if one.asset_key == dg.AssetKey(asset)]
    (found,) = [one.materialization.metadata for one in events if one.materialization.metadata]
    return {name: one.value for name, one in found.items()}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    data = failed.step_failure_data
    return str(data.user_failure_data.description if data.user_failure_data else data.error)


def checks_of(result: dg.ExecuteInProcessResult) -> dict[str, dg.AssetCheckEvaluation]:
    found = {one.check_name: one for one in result.get_asset_check_evaluations()}
    assert not any(one.blocking for one in found.values())
    return found


# what is stored


def test_a_backtest_and_its_validation_in_one_run_leave_measures_curves_findings_and_a_report(before: Made):
    result = before.run("backtest_summary", "validation")
    metadata = metadata_of(result)
    rows = before.warehouse.query("SELECT * FROM validation_results")
    assert rows["run_id"].unique().to_list() == rows["backtest_run_id"].unique().to_list() == [result.run_id]
    assert rows.select("strategy_id", "version", "from_ts", "to_ts").unique().rows() == [("waves", "1.0.0", FIRST, END)]
    judged = rows.filter(pl.col("threshold").is_not_null()).select("method", "measure", "threshold")
    assert sorted(judged.rows()) == [
        ("dsr", "deflated_probability", "pass >= 0.95, fail < 0.8"),
        ("dsr", "deflated_sharpe", "pass > 1, fail < 0.5"),
        ("is_oos", "degradation", "pass < 0.3, fail > 0.5"),
        ("pbo", "pbo", "pass < 0.3, fail > 0.5"),
        ("wfa", "consistency", "pass > 0.7, fail < 0.5"),
        ("wfa", "sharpe", "pass > 1, fail < 0.5"),
    ]
    assert before.verdict(result) == [metadata["verdict"]]
    curves = before.warehouse.query("SELECT curve, count(*), min(ts), max(ts) FROM validation_curves GROUP BY 1")
    sessions = before.count("backtest_equity")
    paths = {curve: rest for curve, *rest in curves.iter_rows()}
    walk = paths.pop("walk_forward")
    assert paths == {f"path_{number}": [sessions, FIRST, END] for number in range(1, 6)}
    assert walk[0] < sessions
    findings = before.warehouse.query("SELECT * FROM backtest_findings ORDER BY finding_no")
    assert findings["finding_no"].to_list() == list(range(findings.height))
    assert "short_period" in findings["finding"].to_list()
    page = before.platform.settings.verdict_report("waves", result.run_id).read_text()
    assert metadata["report"].endswith(f"reports/validation/waves/{result.run_id}.html")
    assert "small/tsmom" in page
    assert metadata["period"] == f"{FIRST}..{END}"
    assert metadata["backtest run"] == result.run_id
    assert [name for name, one in metadata.items() if str(one).startswith("![")], "pictures"


def test_the_same_validation_twice_gives_the_same_rows(made: Made):
    first, second = made.validate(), made.validate()
    assert first.success
    assert second.success
    for name in NAMES:
        one, other = (
            made.warehouse.query(f"SELECT * FROM {name} WHERE run_id = ?", [run.run_id]).drop(
                "run_id", "created_at", strict=False
            )
            for run in (first, second)
        )
        assert one.height
        assert one.sort(pl.all()).equals(other.sort(pl.all())), name


def test_a_run_whose_step_is_done_again_replaces_its_own_rows(made: Made, monkeypatch: pytest.MonkeyPatch):
    """The report cannot be written at first, and Dagster retries."""
    shown = validation.write_verdict_report
    failed: list[str] = []

    def once(*args: Any) -> Path:
        if not failed:
            failed.append("disk full")
            raise dg.RetryRequested(max_retries=1, seconds_to_wait=0)
        return shown(*args)

    monkeypatch.setattr(validation, "write_verdict_report", once)
    result = made.validate()
    assert result.success
    assert failed
    for name in NAMES:
        key = [column for column in TABLES[name].key if column != "run_id"]
        rows = made.warehouse.query(f"SELECT * FROM {name}")
        assert rows["run_id"].unique().to_list() == [result.run_id]
        assert not rows.select(key).is_duplicated().any(), name
    assert len(made.verdict(result)) == 1


@pytest.mark.parametrize("where", ["assess", "diagnose", "the last table"])
def test_a_validation_that_breaks_leaves_none_of_its_rows_and_keeps_the_backtest_and_the_trials(
    made: Made, monkeypatch: pytest.MonkeyPatch, where: str
):
    kept = contents(made.warehouse, ("backtest_summary", "backtest_equity", "targets"))

    def broken(*_: Any) -> Any:
        raise OSError("no space left")

    if where == "the last table":
        replaced = Writer.replace

        def replace_all_but_the_last(self: Writer, table: Any, *args: Any, **kwargs: Any) -> Any:
            return broken() if table.name == NAMES[-1] else replaced(self, table, *args, **kwargs)

        monkeypatch.setattr(Writer, "replace", replace_all_but_the_last)
    else:
        monkeypatch.setattr(validation, where, broken)
    assert "no space left" in failure_of(made.validate())
    assert [made.count(name) for name in NAMES] == [0, 0, 0]
    assert all(rows.equals(kept[name]) for name, rows in contents(made.warehouse, tuple(kept)).items())
    assert made.count("trials") == 6


# trials


def test_the_cells_of_the_sweep_are_counted_once_and_the_one_that_is_the_strategy_itself_not_twice(made: Made):
    assert made.count("trials") == 1
    first = made.validate()
    assert made.count("trials") == 6
    measures = made.measures(first)
    assert (measures["dsr.trials"], measures["pbo.configurations"]) == (6, 6)
    assert metadata_of(first)["configurations"] == 6
    sources = made.warehouse.query("SELECT source, run_id, count(*) FROM trials GROUP BY ALL ORDER BY source").rows()
    assert sources[0][0] == "backtest"
    assert sources[1] == ("sweep", first.run_id, 5)
    again = made.validate()
    assert made.count("trials") == 6
    assert made.measures(again) == measures


def test_what_is_validated_are_the_stored_returns_of_the_backtest(made: Made):
    summary = made.warehouse.query("SELECT sharpe FROM backtest_summary").item()
    first = made.measures(made.validate(config={"validation": {"methods": ["dsr"]}}))
    assert first["dsr.sharpe"] == pytest.approx(summary)
    equity = made.warehouse.query("SELECT * FROM backtest_equity").with_columns(pl.col("ret") + 0.001)
    with made.warehouse.write() as writer:
        writer.replace(TABLES["backtest_equity"], equity.drop("run_id"), "true", run_id=equity["run_id"][0])
    assert made.measures(made.validate(config={"validation": {"methods": ["dsr"]}}))["dsr.sharpe"] > summary + 1.0


# which backtest


def test_a_backtest_with_other_costs_period_and_symbols_is_validated_as_it_was_run(made: Made):
    backtest = made.backtest(fee_bps=50.0, from_date="2023-03-15", to_date="2023-07-31", symbols=["AAA", "BBB"])
    assert backtest.success
    old = made.count("trials")
    result = made.validate()
    assert result.success
    rows = made.warehouse.query(
        "SELECT DISTINCT backtest_run_id, from_ts, to_ts FROM validation_results WHERE run_id = ?", [result.run_id]
    )
    assert rows.rows() == [(backtest.run_id, date(2023, 3, 15), date(2023, 7, 31))]
    assert made.count("trials") == old + 5
    cells = made.warehouse.query("SELECT * FROM trials WHERE source = 'sweep'")
    told = [json.loads(one) for one in cells["params"]]
    assert {(one["backtest"]["fee_bps"], *one["symbols"]) for one in told} == {(50.0, "AAA", "BBB")}
    assert cells.select("from_ts", "to_ts").unique().rows() == [(date(2023, 3, 15), date(2023, 7, 31))]


def test_a_file_edited_since_does_not_change_what_its_old_backtest_was(made: Made):
    old = made.warehouse.query("SELECT run_id FROM backtest_summary").item()
    inputs = {"lookback": 20, "vol_window": 20}
    edited = {**WAVES, "version": "1.1.0", "signal": {"type": "tsmom", "inputs": inputs}, "sweep": None}
    made.platform.write_strategy("waves", **{**edited, "sweep": {"parameters": {"signal.inputs.lookback": [5, 30]}}})
    told = metadata_of(made.validate())
    assert told == {"rows": 0, "why": f"waves: nothing to validate, it has no backtest by {END}"}
    result = made.validate(config={"validation": {"backtest_run": old}})
    assert result.success
    rows = made.warehouse.query("SELECT DISTINCT version, backtest_run_id FROM validation_results").rows()
    assert rows == [("1.0.0", old)]
    tried = [(one["signal"]["inputs"]["lookback"], one["signal"]["inputs"]["vol_window"]) for one in made.tried()]
    assert sorted(tried) == [(5, 10), (10, 10), (30, 10)], "the new sweep around the old strategy"


def test_the_bounds_of_a_named_universe_are_kept(before: Made):
    before.platform.write_universe("late", symbols=["AAA", {"symbol": "BBB", "from": date(2023, 5, 2)}])
    before.platform.write_strategy("waves", **WAVES, universe="late")
    assert before.run("targets", "backtest_summary", "validation").success
    cells = before.warehouse.query("SELECT sharpe, params FROM trials WHERE source = 'sweep'")
    inputs = {"lookback": 20, "vol_window": 20}
    (swept,) = [one for one, said in cells.iter_rows() if json.loads(said)["signal"]["inputs"] == {"lookback": 20}]
    sharpes = []
    for number, universe in enumerate(("late", {"symbols": ["AAA", "BBB"]})):
        changes = {"universe": universe, "signal": {"type": "tsmom", "inputs": inputs}, "sweep": None}
        before.platform.write_strategy(f"cell_{number}", **{**WAVES, **changes})
        assert before.run("targets", "backtest_summary", strategies=[f"cell_{number}"]).success
        sharpes += before.warehouse.query(
            "SELECT sharpe FROM backtest_summary WHERE strategy_id = ?", [f"cell_{number}"]
        )["sharpe"].to_list()
    assert swept == pytest.approx(sharpes[0])
    assert swept != pytest.approx(sharpes[1])


def test_a_run_that_is_no_backtest_of_the_strategy_is_one_clear_line(made: Made):
    told = failure_of(made.validate(config={"validation": {"backtest_run": "nosuchrun"}}))
    assert told == "run nosuchrun has no backtest of waves; name one that `quant runs` lists"
    told = failure_of(made.validate(config={"validation": {"methods": ["luck"]}}))
    assert told == "method luck is unknown; use some of: is_oos, wfa, cpcv, pbo, dsr, doctor"
    assert "method (none) is unknown" in failure_of(made.validate(config={"validation": {"methods": []}}))
    assert [made.count(name) for name in NAMES] == [0, 0, 0]


def test_a_strategys_job_validates_no_other_strategy(made: Made):
    told = failure_of(made.validate(tags={"quant/strategy": "ranks"}))
    assert "strategy ranks" in told


# checks


def test_what_passes_passes_and_caution_warns_and_fail_is_an_error_and_none_blocks(made: Made):
    asked = {"validation": {"methods": ["pbo"]}}
    outcomes = {}
    for verdict, limits in {"pass": (2.0, 2.0), "caution": (-1.0, 2.0), "fail": (-1.0, -1.0)}.items():
        result = made.validate(config=asked, validation_pbo=limits)
        assert result.success
        check = checks_of(result)["pbo"]
        outcomes[verdict] = check.passed, check.severity, check.description or ""
    value = made.warehouse.query("SELECT DISTINCT value FROM validation_results WHERE measure = 'pbo'").item()
    assert outcomes["pass"][::2] == (True, "")
    assert outcomes["caution"] == (
        False,
        dg.AssetCheckSeverity.WARN,
        f"waves: caution ({value:.4g}; pass < -1, fail > 2)",
    )
    assert outcomes["fail"] == (False, dg.AssetCheckSeverity.ERROR, f"waves: fail ({value:.4g}; pass < -1, fail > -1)")


def test_a_method_that_was_not_asked_for_is_silent_and_gives_no_verdict(made: Made):
    result = made.validate(config={"validation": {"methods": ["pbo"]}}, validation_pbo=(2.0, 2.0))
    assert all(one.passed for one in checks_of(result).values())
    assert {name.split(".")[0] for name in made.measures(result)} == {"pbo"}
    assert made.verdict(result) == []
    assert metadata_of(result)["verdict"] == "not judged"
    assert made.count("backtest_findings") == 0


def test_the_verdict_of_all_measures_is_a_check_of_its_own(made: Made):
    good = made.validate(**GENEROUS)
    assert made.verdict(good) == ["pass"]
    assert checks_of(good)["verdict"].passed
    bad = made.validate(**STRICT)
    assert made.verdict(bad) == ["fail"]
    check = checks_of(bad)["verdict"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.ERROR)
    assert (check.description or "").startswith("waves: fail")
    between = made.validate(**{**GENEROUS, "validation_pbo": (-1.0, 2.0)})
    assert made.verdict(between) == ["caution"]
    assert checks_of(between)["verdict"].severity == dg.AssetCheckSeverity.WARN


def test_the_doctors_findings_are_a_check(made: Made):
    result = made.validate(config={"validation": {"methods": ["doctor"]}})
    findings = made.warehouse.query("SELECT severity, evidence FROM backtest_findings ORDER BY finding_no")
    grave = findings.filter(pl.col("severity") != "note")
    check = checks_of(result)["doctor"]
    assert grave.height
    assert not check.passed
    assert (check.severity == dg.AssetCheckSeverity.ERROR) == ("error" in grave["severity"])
    assert all(one in (check.description or "") for one in grave["evidence"])
    assert made.measures(result) == {}


def test_a_run_for_several_strategies_names_each(made: Made):
    made.platform.write_strategy("tides", **{**WAVES, "portfolio": {"weighting": "equal"}})
    assert made.run("targets", "backtest_summary", strategies=["tides"]).success
    result = made.validate(strategies=["tides", "waves"], **STRICT)
    assert result.success
    told = checks_of(result)["dsr_deflated_probability"].description or ""
    assert re.findall(r"(\w+): (\w+) \(0\.\d+; pass >= 1, fail < 1\)", told) == [("tides", "fail"), ("waves", "fail")]
    assert made.verdict(result, "tides") == made.verdict(result, "waves") == ["fail"]
    cells = [
        one for one in result.get_asset_materialization_events() if one.materialization.metadata
    ]  # the last session's of each
    assert sorted(str(one.partition) for one in cells) == [f"{END}|tides", f"{END}|waves"]


# what cannot be judged


def test_what_could_not_be_judged_warns_and_says_why(made: Made):
    made.platform.write_strategy("waves", **{**WAVES, "validation": {**SHORT_PLAN, "min_oos_days": 365}})
    result = made.validate()
    assert result.success
    check = checks_of(result)["is_oos_degradation"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert "waves: not judged" in (check.description or "")
    assert "at least 365 are needed" in (check.description or "")
    assert "at least 365 are needed" in metadata_of(result)["not judged"]
    note = made.warehouse.query("SELECT details FROM validation_results WHERE measure = 'degradation'").item()
    assert "at least 365 are needed" in json.loads(note)["note"]


def test_a_window_too_short_for_any_test_is_not_judged_and_the_run_succeeds(made: Made):
    assert made.backtest(from_date="2023-08-30", to_date="2023-08-31").success
    result = made.validate()
    assert result.success, failure_of(result)
    rows = made.warehouse.query(
        "SELECT verdict FROM validation_results WHERE run_id = ? AND method <> 'verdict'", [result.run_id]
    )
    assert rows["verdict"].unique().to_list() == [None]
    metadata = metadata_of(result)
    for method in ("is_oos", "wfa", "cpcv", "pbo", "dsr"):
        assert f"**{method}**" in metadata["not judged"]
    check = checks_of(result)["dsr_deflated_sharpe"]
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    assert made.verdict(result) == []
    assert metadata["verdict"] == "not judged"


def test_a_strategy_without_a_backtest_has_no_rows_and_says_why(before: Made):
    result = before.validate()
    assert metadata_of(result) == {"rows": 0, "why": f"waves: nothing to validate, it has no backtest by {END}"}
    assert all(one.passed for one in checks_of(result).values())
    assert [before.count(name) for name in (*NAMES, "trials")] == [0, 0, 0, 0]


def test_a_strategy_without_a_sweep_is_judged_by_what_its_own_curve_says(before: Made):
    before.platform.write_strategy("waves", **{**WAVES, "sweep": None})
    result = before.run("backtest_summary", "validation")
    assert result.success, failure_of(result)
    assert before.count("trials") == 1
    measures = before.measures(result)
    assert measures["dsr.trials"] == 1
    assert measures["pbo.pbo"] is None
    assert "one configuration was ever tried" in metadata_of(result)["not judged"]
    assert "sweep" not in metadata_of(result)["not judged"].replace("a sweep gives", "")


def test_cells_that_cannot_be_backtested_over_the_window_are_told(before: Made):
    sweep = {"parameters": {"signal.inputs.lookback": [5, 200]}}
    before.platform.write_strategy("waves", **{**WAVES, "sweep": sweep})
    result = before.run("backtest_summary", "validation")
    assert result.success, failure_of(result)
    assert "**sweep**" in metadata_of(result)["not judged"]
    assert "looks back 200 sessions" in metadata_of(result)["not judged"]
    assert before.count("trials") == 1
    assert before.measures(result)["dsr.trials"] == 1


# verdicts that stand


def made_by_middle(made: Made, **changes: Any) -> dg.ExecuteInProcessResult:
    """Backtest and validation up to MIDDLE."""
    result = made.run("backtest_summary", "validation", last=MIDDLE, config=up_to(MIDDLE), **changes)
    assert result.success
    return result


def up_to(last: date, **config: Any) -> dict[str, dict[str, Any]]:
    return {"backtest_summary": {"to_date": last.isoformat(), **config}}


def next_day(
    made: Made, day: date, config: dict[str, dict[str, Any]] | None = None, **changes: Any
) -> dg.ExecuteInProcessResult:
    """A run of a single date, as a daemon makes it."""
    return made.run("backtest_summary", "validation", first=day, last=day, config=config, **changes)


def test_a_single_dates_run_keeps_a_recent_verdict_on_the_same_configuration(before: Made):
    old = made_by_middle(before, **STRICT)
    result = next_day(before, date(2023, 7, 10))
    metadata = metadata_of(result)
    assert (metadata["rows"], metadata["verdict"]) == (0, "fail")
    assert metadata["why"] == f"the verdict of run {old.run_id} is recent enough"
    assert before.verdict(result) == []
    assert checks_of(result)["verdict"].severity == dg.AssetCheckSeverity.ERROR, "it is shown failing still"
    assert before.count("backtest_summary") == 2


@pytest.mark.parametrize(
    ("day", "config", "changes"),
    [
        (date(2023, 8, 1), {}, {}),
        (date(2023, 7, 10), {}, {"validation_max_age_days": 9}),
        (date(2023, 7, 10), {"backtest_summary": {"fee_bps": 50.0}}, {}),
        (date(2023, 7, 10), {"validation": {"carry": False}}, {}),
    ],
    ids=["older than 30 days", "older than the setting", "other costs", "a new one asked for"],
)
def test_any_other_single_date_is_validated_anew(
    before: Made, day: date, config: dict[str, Any], changes: dict[str, Any]
):
    made_by_middle(before)
    result = next_day(before, day, config, **changes)
    assert result.success
    assert len(before.verdict(result)) == 1
    assert "why" not in metadata_of(result)


def test_a_verdict_of_just_the_age_allowed_stands(before: Made):
    made_by_middle(before)
    what_if = before.run("backtest_summary", "validation", last=MIDDLE, config=up_to(MIDDLE, fee_bps=50.0))
    assert len(before.verdict(what_if)) == 1, "another configuration's, and newer"
    result = next_day(before, date(2023, 7, 10), validation_max_age_days=10)
    assert before.verdict(result) == []


def test_a_range_makes_a_new_verdict_unless_told_to_carry_one(before: Made):
    old = made_by_middle(before)
    assert len(before.verdict(made_by_middle(before))) == 1
    carried = before.run("validation", last=MIDDLE, config={"validation": {"carry": True}})
    assert before.verdict(carried) == []
    assert old.run_id not in metadata_of(carried)["why"], "the newest one stands"


# the gate


def targets_of(made: Made, strategy_id: str = "waves") -> pl.DataFrame:
    return made.warehouse.query(
        'SELECT * FROM targets WHERE strategy_id = ? ORDER BY "asof", symbol', [strategy_id]
    ).drop("run_id", "generated_at")


def decide_again(made: Made, strategy_id: str = "waves", gate: bool | None = None, **changes: Any) -> dict[str, Any]:
    config = {} if gate is None else {"targets": {"gate": gate}}
    return metadata_of(made.run("targets", strategies=[strategy_id], config=config, **changes), "targets")


def test_after_a_verdict_of_fail_no_target_is_approved_and_earlier_decisions_are_as_they_were(before: Made):
    free = targets_of(before)
    failed = made_by_middle(before, **STRICT)
    told = decide_again(before, validation_gate=True)
    held = targets_of(before)
    early = pl.col("asof") < MIDDLE
    assert held.filter(early).equals(free.filter(early))
    late, late_free = held.filter(~early), free.filter(~early)
    assert late["asof"].min() == MIDDLE
    assert not late["approved"].any()
    assert late["weight"].unique().to_list() == [0.0]
    was_approved = late_free["approved"]
    assert told["held back by the verdict"] == was_approved.sum() > 0
    flagged = late.filter(was_approved)
    assert flagged["risk_flags"].list.last().unique().to_list() == ["V1"]
    assert all(failed.run_id in reason for reason in flagged["reason"])
    others = late.filter(~was_approved)
    assert others.equals(late_free.filter(~was_approved)), "the supervisor's own rejections"


def test_the_gate_is_a_setting_and_a_runs_config_says_otherwise(before: Made):
    free = targets_of(before)
    made_by_middle(before, **STRICT)
    decide_again(before)
    assert targets_of(before).equals(free), "off unless switched on"
    decide_again(before, gate=True)
    assert not targets_of(before).equals(free)
    decide_again(before, gate=False, validation_gate=True)
    assert targets_of(before).equals(free)


def test_a_fail_with_other_costs_than_the_files_holds_nothing_back(before: Made):
    free = targets_of(before)
    what_if = before.run("backtest_summary", "validation", last=MIDDLE, config=up_to(MIDDLE, fee_bps=50.0), **STRICT)
    assert before.verdict(what_if) == ["fail"]
    decide_again(before, validation_gate=True)
    assert targets_of(before).equals(free)


@pytest.mark.thorough
def test_a_better_verdict_lifts_the_gate(before: Made):
    free = targets_of(before)
    made_by_middle(before, **STRICT)
    decide_again(before, validation_gate=True)
    assert not targets_of(before).equals(free)
    assert before.verdict(made_by_middle(before, **GENEROUS)) != ["fail"]
    assert "held back by the verdict" not in decide_again(before, validation_gate=True)
    assert targets_of(before).equals(free)


def test_a_backtest_of_targets_that_were_held_back_is_the_strategys_as_ever(before: Made):
    """Else it would lie flat from the verdict on, and no later verdict could lift the gate."""
    assert before.backtest().success
    made_by_middle(before, **STRICT)
    assert decide_again(before, validation_gate=True)["held back by the verdict"]
    assert before.backtest().success
    kept = "SELECT DISTINCT sharpe, final_equity FROM backtest_summary WHERE to_ts = ?"
    assert before.warehouse.query(kept, [END]).height == 1


def test_the_gate_is_for_the_strategy_and_version_that_failed(before: Made):
    before.platform.write_strategy("tides", **WAVES)
    made_by_middle(before, **STRICT)
    decide_again(before, "tides", validation_gate=True)
    assert targets_of(before, "tides").drop("strategy_id").equals(targets_of(before).drop("strategy_id"))
    before.platform.write_strategy("waves", **{**WAVES, "version": "1.0.1"})
    assert "held back by the verdict" not in decide_again(before, validation_gate=True)


# a model


def test_a_strategy_with_a_model_is_cross_validated_by_training_it_again(tmp_path: Path):
    platform = small_platform(tmp_path)
    signal = {
        "type": "model_score",
        "model": {
            "task": "regression",
            "label": "fwd_ret_5d",
            "retrain": "monthly",
            "min_train_rows": 40,
            "params": {"num_boost_round": 10, "min_data_in_leaf": 5},
        },
    }
    plan = {**SHORT_PLAN, "folds": 4}
    sweep = {"parameters": {"signal.model.min_train_rows": [40, 60]}}
    platform.write_strategy("forest", signal=signal, validation=plan, sweep=sweep)
    said = platform.quant("pipeline", "run", "--strategy", "forest")
    assert "CPCV, models retrained" in said.stderr
    rows = platform.warehouse.query("SELECT * FROM validation_results WHERE method = 'cpcv'")
    assert dict(rows.select("measure", "value").iter_rows())["paths"] == 3
    assert json.loads(next(one for one in rows["details"] if one != "{}"))["retrained"] is True
    paths = platform.warehouse.query("SELECT DISTINCT curve FROM validation_curves WHERE curve LIKE 'path%'")
    assert paths.height == 3
    verdict = platform.warehouse.query("SELECT details FROM validation_results WHERE method = 'verdict'").item()
    assert "a cell of its sweep reads" in json.loads(verdict)["missing"]["sweep"], "nobody trained the other model"
