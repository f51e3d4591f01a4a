"""A strategy's side of its validation: candidates, stored measures, the ledger's trials, the strategy as it was run."""

import json
import math
from collections.abc import Sequence
from dataclasses import fields
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from quant_assets.contracts import TABLES
from quant_assets.contracts.gate import gate
from quant_assets.contracts.sweep_results import METRICS
from quant_assets.core.errors import ConfigError
from quant_assets.core.settings import Settings, settings
from quant_assets.strategy import StrategySpec
from quant_assets.strategy.evaluate import Evaluations
from quant_assets.strategy.gate import FLAG, LastVerdict, gated, last_verdict
from quant_assets.strategy.ledger import Ledger, as_run, canonical, configuration
from quant_assets.strategy.sweep import cells_of
from quant_assets.strategy.universe import Bounds
from quant_assets.strategy.validate import Candidates, candidates, curves, measured, reviewed, thresholds, usable_cells
from quant_assets.validation.assessment import METHODS, Assessment, Trials, assess
from quant_assets.validation.cpcv import Combinatorial, Splits
from quant_assets.validation.doctor import Finding
from quant_assets.validation.plan import ValidationPlan
from quant_assets.validation.sharpe import sharpes
from quant_assets.validation.verdict import Thresholds
from quant_assets.warehouse import Warehouse
from quant_assets_tests.platform import START, SYMBOLS, bars_of, strategy

FIRST, LAST = date(2023, 3, 1), date(2023, 8, 31)
NOW = datetime(2024, 1, 5, 22)
FAMILY = "small/tsmom"
BOUNDS: dict[str, Bounds] = dict.fromkeys(SYMBOLS, (START, None))
SIGNAL = {"type": "tsmom", "inputs": {"lookback": 10, "vol_window": 10}}
SWEEP = {"parameters": {"signal.inputs.lookback": [5, 10], "signal.inputs.vol_window": [10, 20]}}
LEDGER = Ledger(FAMILY, SYMBOLS, FIRST, LAST)


def spec_of(**changes: Any) -> StrategySpec:
    usual = {"signal": SIGNAL, "portfolio": {"weighting": "equal"}, "sweep": SWEEP}
    return StrategySpec.model_validate(strategy("waves", **{**usual, **changes}))


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse.duckdb")


# candidates


class Flat:
    """Returns of 1 % x the lookback in every session; a lookback of 20 loses everything in the second one."""

    def __init__(self, sessions: int) -> None:
        self.sessions = sessions
        self.seen: list[tuple[int, int]] = []

    def evaluate(self, specs: Sequence[StrategySpec]) -> Evaluations:
        inputs = [(one.signal.inputs.lookback, one.signal.inputs.vol_window) for one in specs]
        self.seen += inputs
        returns = np.array([[lookback / 100.0] * self.sessions for lookback, _ in inputs])
        ruined = np.array([lookback == 20 for lookback, _ in inputs])
        returns[ruined, 1:] = np.nan
        ratios = [None if lookback == 20 else float(lookback) for lookback, _ in inputs]
        summary = pl.DataFrame({name: pl.Series(ratios, dtype=pl.Float64) for name in (one.name for one in METRICS)})
        return Evaluations(summary, returns)


def picked(spec: StrategySpec, written: list[float], sharpe: float | None = 1.0) -> tuple[Candidates, Flat]:
    evaluator = Flat(len(written))
    cells = cells_of(spec, 100).cells if spec.sweep else ()
    inline = Settings(sweep_workers=1)
    return candidates(spec, cells, np.array(written), sharpe, evaluator, BOUNDS, inline, lambda _: None), evaluator


def test_row_0_is_the_backtest_as_it_is_stored_and_a_cell_that_is_the_strategy_is_not_evaluated_again() -> None:
    found, evaluator = picked(spec_of(), [0.5, -0.25, 0.125], 1.5)
    assert sorted(evaluator.seen) == [(5, 10), (5, 20), (10, 20)]
    assert found.changes == (
        {"signal.inputs.lookback": 10, "signal.inputs.vol_window": 10},
        {"signal.inputs.lookback": 5, "signal.inputs.vol_window": 10},
        {"signal.inputs.lookback": 5, "signal.inputs.vol_window": 20},
        {"signal.inputs.lookback": 10, "signal.inputs.vol_window": 20},
    )
    assert found.returns[0].tolist() == [0.5, -0.25, 0.125]
    assert found.returns[1:, 0].tolist() == pytest.approx([0.05, 0.05, 0.1])
    assert found.sharpes.tolist() == [1.5, 5.0, 5.0, 10.0]
    assert [one.signal.inputs.lookback for one in found.specs] == [10, 5, 5, 10]


def test_a_strategy_that_is_no_cell_of_its_sweep_stands_beside_all_of_them() -> None:
    found, evaluator = picked(spec_of(signal={"type": "tsmom", "inputs": {"lookback": 60}}), [0.0, 0.0])
    assert len(evaluator.seen) == 4
    assert found.changes[0] == {}
    assert found.returns.shape == (5, 2)


def test_without_a_sweep_there_is_the_strategy_alone_and_nothing_is_evaluated() -> None:
    found, evaluator = picked(spec_of(sweep=None), [0.1, math.nan], None)
    assert evaluator.seen == []
    assert (found.changes, found.returns.tolist()) == (({},), [[0.1, 0.0]])
    assert np.isnan(found.sharpes).tolist() == [True]


def test_a_ruined_cell_returns_nothing_from_then_on_and_has_no_sharpe_ratio() -> None:
    found, _ = picked(spec_of(sweep={"parameters": {"signal.inputs.lookback": [20]}}), [0.1, 0.1, 0.1])
    assert found.returns[1].tolist() == pytest.approx([0.2, 0.0, 0.0])
    assert np.isnan(found.sharpes).tolist() == [False, True]


def test_cells_that_look_back_longer_than_the_window_are_left_out_with_the_reason() -> None:
    bars = pl.concat([bars_of(name) for name in SYMBOLS])
    sessions = bars.filter(pl.col("symbol") == "AAA")["ts"].to_list()
    cells, why = usable_cells(spec_of(), bars, sessions, BOUNDS, Settings())
    assert ([cell.number for cell in cells], why) == ([0, 1, 2, 3], "")
    cells, why = usable_cells(spec_of(), bars, sessions[:15], BOUNDS, Settings())
    assert cells == ()
    assert "looks back 20 sessions" in why
    assert usable_cells(spec_of(sweep=None), bars, sessions[:15], BOUNDS, Settings()) == ((), "")
    cells, why = usable_cells(spec_of(), bars, sessions, BOUNDS, Settings(sweep_max_cells=3))
    assert cells == ()
    assert "3" in why


# what was measured


DAYS = np.array([START + timedelta(day) for day in range(400)], "M8[D]")
PLAN = ValidationPlan(min_oos_days=60, train_days=100, test_days=40, step_days=20, blocks=4, resamples=100)
CHANGES = ({}, {"a": 1}, {"a": 2})
NO_SPLITS = Splits(*[np.empty((0, 0), np.int64)] * len(fields(Splits)))  # type: ignore[arg-type]
"""Not needed for what is stored."""


@pytest.fixture(scope="module")
def assessment() -> Assessment:
    returns = 0.01 * np.random.default_rng(5).standard_normal((3, len(DAYS)))
    paths = Combinatorial(NO_SPLITS, None, returns[:2], sharpes(returns[:2], 252), 0.0)
    return assess(returns, DAYS, 252, Trials(3, sharpes(returns, 252), returns), PLAN, combinatorial=lambda: paths)


def stored(rows: pl.DataFrame) -> dict[tuple[str, str], dict[str, Any]]:
    return {(row["method"], row["measure"]): row for row in rows.iter_rows(named=True)}


def test_every_measure_is_one_row_judged_ones_first_and_the_verdict_last(assessment: Assessment) -> None:
    rows = measured(assessment, CHANGES)
    assert not rows.select("method", "measure").is_duplicated().any()
    judged = [(row.method, row.measure) for row in assessment.rows]
    assert rows.select("method", "measure").rows()[:6] == judged
    assert rows.row(-1, named=True)["verdict"] == assessment.verdict
    assert rows.select("method", "measure").row(-1) == ("verdict", "overall")
    assert set(rows["method"]) == {*METHODS, "verdict"}
    found = stored(rows)
    for row in assessment.rows:
        one = found[row.method, row.measure]
        assert (one["value"], one["verdict"], one["threshold"]) == (row.value, row.verdict, row.threshold)
    assert assessment.combinatorial
    assert found["cpcv", "median_sharpe"]["value"] == np.median(assessment.combinatorial.sharpes)
    assert found["cpcv", "paths"]["verdict"] is None


def test_measures_and_curves_pass_the_gates_of_their_tables(assessment: Assessment) -> None:
    own = {"strategy_id": pl.lit("waves"), "created_at": pl.lit(NOW)}
    rows = measured(assessment, CHANGES).with_columns(
        version=pl.lit("1.0.0"), backtest_run_id=pl.lit("run"), from_ts=pl.lit(FIRST), to_ts=pl.lit(LAST), **own
    )
    assert gate(TABLES["validation_results"], rows).bad.is_empty()
    assert gate(TABLES["validation_curves"], curves(assessment, DAYS.tolist()).with_columns(**own)).bad.is_empty()


def test_details_name_the_configurations_that_were_chosen_and_stand_once_per_method(assessment: Assessment) -> None:
    rows = measured(assessment, CHANGES)
    told = {method: [json.loads(one) for one in group["details"]] for (method,), group in rows.group_by("method")}
    assert {method: sum(map(bool, each)) for method, each in told.items()} == dict.fromkeys(told, 1)
    split = next(filter(None, told["is_oos"]))
    assert assessment.in_out
    assert split["chosen"] == CHANGES[assessment.in_out.chosen]
    windows = next(filter(None, told["wfa"]))["windows"]
    assert assessment.walk
    assert [one["chosen"] for one in windows] == [CHANGES[one.chosen] for one in assessment.walk.windows]
    logits = next(filter(None, told["pbo"]))["logits"]
    assert sum(logits["counts"]) == 6, "4 choose 2"


def test_what_was_not_asked_for_or_not_possible_leaves_no_rows_of_its_own_but_the_reason() -> None:
    returns = 0.01 * np.random.default_rng(5).standard_normal((1, 30))
    found = assess(returns, DAYS[:30], 252, Trials(1, sharpes(returns, 252), returns), PLAN, methods=("is_oos",))
    rows = measured(found, CHANGES)
    (row,) = rows.iter_rows(named=True)
    assert (row["method"], row["measure"], row["value"], row["verdict"]) == ("is_oos", "degradation", None, None)
    assert json.loads(row["details"])["note"] == found.missing["is_oos"]
    assert curves(found, []).schema == {"curve": pl.String, "ts": pl.Date, "ret": pl.Float64}
    assert curves(found, []).is_empty()


def test_an_infinite_degradation_is_stored_as_null_and_fails() -> None:
    returns = np.full((1, 400), -0.01)
    returns[0, ::2] = 0.005
    found = assess(returns, DAYS, 252, Trials(1, sharpes(returns, 252), returns), PLAN, methods=("is_oos",))
    row = stored(measured(found, CHANGES))["is_oos", "degradation"]
    assert (row["value"], row["verdict"]) == (None, "fail")
    assert "not above 0" in json.loads(row["details"])["note"]
    assert "NaN" not in row["details"]
    assert "Infinity" not in row["details"]


def test_curves_are_the_walk_forwards_and_each_path(assessment: Assessment) -> None:
    found = curves(assessment, DAYS.tolist())
    assert assessment.walk
    assert assessment.combinatorial
    walk = found.filter(pl.col("curve") == "walk_forward")
    assert walk["ret"].to_list() == assessment.walk.returns.tolist()
    assert walk["ts"].to_list() == assessment.walk.days.tolist()
    second = found.filter(pl.col("curve") == "path_2")
    assert second["ret"].to_list() == assessment.combinatorial.returns[1].tolist()
    assert (second["ts"].to_list(), found["curve"].n_unique()) == (DAYS.tolist(), 3)


# thresholds


def test_a_finding_is_a_row_with_its_number_and_undefined_figures_are_null() -> None:
    found = reviewed(
        [
            Finding("no_trades", "error", "none", "trade"),
            Finding("late_start", "warning", "late", "early", 0.2, {"sharpes": [1.0, float("nan")], "on": FIRST}),
        ]
    )
    assert found.select("finding_no", "finding", "severity", "value").rows() == [
        (0, "no_trades", "error", None),
        (1, "late_start", "warning", 0.2),
    ]
    assert [json.loads(text) for text in found["details"]] == [{}, {"on": f"{FIRST}", "sharpes": [1.0, None]}]
    assert reviewed([]).height == 0


def test_thresholds_are_the_settings_and_these_the_verdicts_own_unless_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert thresholds(Settings()) == Thresholds()
    monkeypatch.setenv("QUANT_VALIDATION_PBO", "0.1,0.2")
    assert thresholds(Settings()) == Thresholds(pbo=(0.1, 0.2))


@pytest.mark.parametrize("text", ["0.1", "0.1,0.2,0.3", "much,more", ""])
def test_a_malformed_threshold_is_one_line_that_names_the_variable(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_VALIDATION_PBO", text)
    settings.cache_clear()
    with pytest.raises(ConfigError, match=r"\AQUANT_VALIDATION_PBO: .*correct it in the environment or .env\Z"):
        settings()


def test_thresholds_the_wrong_way_round_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_VALIDATION_WFA_SHARPE", "0.5,1")
    with pytest.raises(ConfigError, match=r"wfa_sharpe passes from 0\.5 and fails from 1, more is better: swap them"):
        thresholds(Settings())


def test_the_age_of_a_verdict_that_stands_is_no_negative_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUANT_VALIDATION_MAX_AGE_DAYS", "-1")
    settings.cache_clear()
    with pytest.raises(ConfigError, match="QUANT_VALIDATION_MAX_AGE_DAYS"):
        settings()


# the ledger


def enter(
    warehouse: Warehouse,
    specs: Sequence[StrategySpec],
    ratios: Sequence[float | None],
    returns: list[list[float]] | None = None,
    into: Ledger = LEDGER,
    now: datetime = NOW,
) -> None:
    values = np.array(returns if returns is not None else [[0.5, 0.25]] * len(specs))
    with warehouse.write() as writer:
        writer.append(TABLES["trials"], into.rows(specs, ratios, values, "sweep", now), run_id="run")


def fee(bps: float, **changes: Any) -> StrategySpec:
    return spec_of(backtest={"from": FIRST, "to": LAST, "fee_bps": bps}, **changes)


def test_known_trials_count_each_configuration_once_and_those_without_a_ratio_too(warehouse: Warehouse) -> None:
    empty = LEDGER.known(warehouse, 2)
    assert (empty.count, empty.sharpes.tolist(), empty.returns.shape) == (0, [], (0, 2))
    enter(warehouse, [fee(1.0), fee(2.0), fee(3.0)], [1.0, None, 3.0])
    later = Ledger(FAMILY, SYMBOLS, FIRST, LAST + timedelta(1))
    enter(warehouse, [fee(1.0)], [1.5], into=later, now=NOW + timedelta(1))
    known = LEDGER.known(warehouse, 2)
    assert known.count == 3
    assert sorted(known.sharpes.tolist()) == [1.5, 3.0], "what it showed last"


def test_known_trials_are_the_familys_alone(warehouse: Warehouse) -> None:
    enter(warehouse, [fee(1.0)], [1.0])
    enter(warehouse, [fee(2.0)], [2.0], into=Ledger("coins/tsmom", SYMBOLS, FIRST, LAST))
    known = LEDGER.known(warehouse, 2)
    assert (known.count, known.sharpes.tolist(), known.returns.shape) == (1, [1.0], (1, 2))


def test_known_returns_are_those_of_the_same_window_and_ruin_is_0(warehouse: Warehouse) -> None:
    enter(warehouse, [fee(1.0), fee(2.0)], [1.0, None], [[0.5, 0.25], [-1.0, math.nan]])
    enter(warehouse, [fee(3.0)], [1.0], into=Ledger(FAMILY, SYMBOLS, FIRST, LAST - timedelta(7)))
    known = LEDGER.known(warehouse, 2)
    assert known.count == 3
    assert sorted(known.returns.tolist()) == [[-1.0, 0.0], [0.5, 0.25]]
    assert LEDGER.known(warehouse, 3).returns.shape == (0, 3), "a calendar with other sessions"


def test_known_trials_do_not_depend_on_the_order_of_rows(tmp_path: Path) -> None:
    specs, ratios = [fee(bps) for bps in range(6)], [float(n) for n in range(6)]
    windows = [LEDGER, Ledger(FAMILY, SYMBOLS, FIRST, LAST - timedelta(7))]
    found = []
    for step in (1, -1):
        one = Warehouse(tmp_path / f"{step}.duckdb")
        for number, into in list(enumerate(windows))[::step]:
            enter(one, specs[::step], [ratio + number for ratio in ratios[::step]], into=into)
        found.append(LEDGER.known(one, 2))
    assert found[0].sharpes.tolist() == found[1].sharpes.tolist(), "of two trials of one instant as well"
    assert found[0].returns.tolist() == found[1].returns.tolist()


# as it was run


def run_again(spec: StrategySpec, file: StrategySpec | None = None, symbols: Sequence[str] = SYMBOLS) -> StrategySpec:
    """What `as_run` makes of `spec` run on `symbols`, when the file says `file` by now."""
    said = canonical(configuration(spec, symbols))
    return as_run(file or spec, said, (FIRST, LAST), 5_000.0, SYMBOLS)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"backtest": {"from": FIRST, "to": LAST, "fee_bps": 50.0, "slippage_bps": 0.0}},
        {"execution": {"price": "next_open"}},
        {"supervisor": {"max_weight_per_symbol": 0.5, "turnover_cap": 0.25}, "rebalance": {"frequency": "monthly"}},
        {"signal": {"type": "donchian", "inputs": {"entry": 30, "exit": 7}}, "sweep": None},
        {"signal": {"type": "factor_rank", "inputs": {"feature_version": "v1", "feature_name": "ret_5d"}},
         "sweep": None, "portfolio": {"top_k": 2}},
        {"signal": {"type": "model_score", "model": {"task": "regression", "label": "fwd_ret_5d", "retrain": "monthly",
                                                     "params": {"num_boost_round": 10}}},
         "sweep": None, "portfolio": {"top_k": 2}},
    ],
    ids=["defaults", "costs", "price", "rules", "donchian", "factor", "model"],
)  # fmt: skip
def test_a_trial_gives_the_strategy_back_that_it_is_of(changes: dict[str, Any]) -> None:
    spec = spec_of(**changes)
    again = run_again(spec)
    assert configuration(again, SYMBOLS) == configuration(spec, SYMBOLS)
    assert (again.backtest.first, again.backtest.last, again.backtest.initial_cash) == (FIRST, LAST, 5_000.0)
    names = ("strategy_id", "version", "universe", "sweep", "validation", "signal", "portfolio", "supervisor")
    assert all(getattr(again, name) == getattr(spec, name) for name in names)


def test_what_the_file_says_now_matters_only_for_names_sweep_and_validation() -> None:
    old = spec_of(backtest={"from": FIRST, "to": LAST, "fee_bps": 50.0})
    new = spec_of(
        version="2.0.0",
        signal={"type": "tsmom", "inputs": {"lookback": 99}},
        rebalance={"frequency": "monthly"},
        sweep={"parameters": {"signal.inputs.lookback": [5, 30]}},
        validation={"folds": 10},
    )
    again = run_again(old, new)
    assert configuration(again, SYMBOLS) == configuration(old, SYMBOLS)
    assert (again.version, again.sweep, again.validation) == (new.version, new.sweep, new.validation)


def test_some_of_the_symbols_are_kept_and_all_of_them_are_the_files_universe() -> None:
    assert run_again(spec_of()).universe == "small"
    some = run_again(spec_of(), symbols=["CCC", "AAA"])
    assert some.universe.symbols == ("AAA", "CCC")  # type: ignore[union-attr]


def test_a_trial_that_no_strategy_file_could_say_any_more_is_one_clear_line() -> None:
    said = canonical({**configuration(spec_of(), SYMBOLS), "moon_phase": "full"})
    with pytest.raises(ConfigError, match=r"\Awaves: the backtest's configuration .*; run the backtest again\Z"):
        as_run(spec_of(), said, (FIRST, LAST), 1.0, SYMBOLS)


# the gate


def wanted(*rows: tuple[date, str, float, bool, list[str]]) -> pl.DataFrame:
    made = [
        ("waves", "1.0.0", asof, symbol, weight, 1.0, approved, flags, "" if approved else "beyond top_k")
        for asof, symbol, weight, approved, flags in rows
    ]
    names = [column.name for column in TABLES["targets"].columns if column.name != "generated_at"]
    return pl.DataFrame(made, schema=names, orient="row", schema_overrides={"risk_flags": pl.List(pl.String)})


TARGETS = wanted(
    (date(2023, 3, 3), "AAA", 0.5, True, []),
    (date(2023, 3, 10), "AAA", 0.5, True, ["R1"]),
    (date(2023, 3, 10), "BBB", 0.0, False, ["R2"]),
    (date(2023, 3, 17), "AAA", 0.0, True, []),
)


def judged(verdict: str, last: date = date(2023, 3, 10)) -> LastVerdict:
    return LastVerdict(verdict, "run-9", "run-8", last)


def test_after_a_fail_nothing_is_approved_and_the_supervisors_own_rejections_keep_their_reason() -> None:
    found = gated(TARGETS, judged("fail"))
    assert found.schema == TARGETS.schema
    assert found.head(1).equals(TARGETS.head(1)), "decided before the verdict could be known"
    assert found.row(2) == TARGETS.row(2)
    late = found[[1, 3]]
    assert late["approved"].to_list() == [False, False]
    assert late["weight"].to_list() == [0.0, 0.0]
    assert late["risk_flags"].to_list() == [["R1", FLAG], [FLAG]]
    assert all("V1" in reason and "run-9" in reason for reason in late["reason"])
    stamped = found.with_columns(generated_at=pl.lit(NOW))
    assert gate(TABLES["targets"], stamped).bad.is_empty()


@pytest.mark.parametrize("verdict", [None, judged("caution"), judged("pass"), judged("fail", date(2023, 3, 18))])
def test_without_a_fail_or_before_it_targets_are_as_they_were(verdict: LastVerdict | None) -> None:
    assert gated(TARGETS, verdict).equals(TARGETS)


def test_no_target_is_no_trouble() -> None:
    assert gated(TARGETS.clear(), judged("fail")).equals(TARGETS.clear())


def verdict_row(run_id: str, verdict: str, at: datetime = NOW, **changes: Any) -> dict[str, Any]:
    return {
        "run_id": run_id, "strategy_id": "waves", "version": "1.0.0", "backtest_run_id": f"b-{run_id}",
        "from_ts": FIRST, "to_ts": LAST, "method": "verdict", "measure": "overall", "value": None, "verdict": verdict,
        "threshold": None, "details": "{}", "created_at": at, **changes,
    }  # fmt: skip


def backtest_row(run_id: str, **changes: Any) -> dict[str, Any]:
    """The backtest that `verdict_row(run_id)` judges, of trial `own`."""
    row = {column.name: None for column in TABLES["backtest_summary"].all_columns}
    numbers = dict.fromkeys(("num_trades", "fee_bps", "slippage_bps", "final_equity"), 1) | {"initial_cash": 1.0}
    named = {"run_id": f"b-{run_id}", "strategy_id": "waves", "version": "1.0.0", "trial_id": "own"}
    return {**row, **numbers, **named, "from_ts": FIRST, "to_ts": LAST, "created_at": NOW, **changes}


def trial_row(trial_id: str) -> dict[str, Any]:
    return {
        "trial_id": trial_id, "family": "f", "configuration": f"c-{trial_id}", "strategy_id": "waves", "params": "{}",
        "source": "backtest", "from_ts": FIRST, "to_ts": LAST, "sharpe": 1.0, "returns": [0.0], "first_seen_at": NOW,
        "run_id": "r",
    }  # fmt: skip


def test_the_last_verdict_is_the_one_on_the_same_configuration_and_start_that_has_seen_most(
    warehouse: Warehouse,
) -> None:
    assert last_verdict(warehouse, "waves", "1.0.0", "c-own", FIRST) is None
    later, day = NOW + timedelta(hours=1), timedelta(1)
    rows = [
        verdict_row("a", "pass"),
        verdict_row("b", "fail", later),
        verdict_row("earlier_end", "pass", later + day, to_ts=LAST - day),
        verdict_row("later_start", "pass", later + day, from_ts=FIRST + day),
        verdict_row("other_costs", "pass", later + day),
        verdict_row("other_strategy", "pass", later + day, strategy_id="tides"),
        verdict_row("d", "caution", later + day, version="1.0.1"),
        verdict_row("one_test", "pass", later + day, method="pbo", measure="pbo"),
    ]
    of = {"other_costs": {"trial_id": "dear"}, "other_strategy": {"strategy_id": "tides"}, "d": {"version": "1.0.1"}}
    backtests = [backtest_row(row["run_id"], **of.get(row["run_id"], {})) for row in rows]
    stored = {"backtest_summary": backtests, "trials": [trial_row("own"), trial_row("dear")]}
    with warehouse.write() as writer:
        for name, found in stored.items():
            table = TABLES[name]
            whole = pl.DataFrame(found, schema={one.name: one.polars for one in table.all_columns})
            for (run_id,), some in whole.group_by("run_id"):
                writer.append(table, some.drop("run_id"), run_id=str(run_id))
    frame = pl.DataFrame(rows, schema_overrides={"value": pl.Float64, "threshold": pl.String})
    with warehouse.write() as writer:
        for (run_id,), some in frame.group_by("run_id"):
            writer.append(TABLES["validation_results"], some.drop("run_id"), run_id=str(run_id))
    assert last_verdict(warehouse, "waves", "1.0.0", "c-own", FIRST) == LastVerdict("fail", "b", "b-b", LAST)
    assert last_verdict(warehouse, "waves", "1.0.1", "c-own", FIRST) == LastVerdict("caution", "d", "b-d", LAST)
    assert last_verdict(warehouse, "waves", "2.0.0", "c-own", FIRST) is None
    assert last_verdict(warehouse, "waves", "1.0.0", "c-other", FIRST) is None
