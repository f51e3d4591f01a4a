"""Parameter sweeps: exact cells, chunks that resume, one result whatever computes them, errors before anything runs."""

import json
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from pydantic import ValidationError

from quant_assets.backtest import engine
from quant_assets.contracts import sweep_results
from quant_assets.core.calendar import trading_calendar
from quant_assets.core.errors import ConfigError, DataError, QualityError, StrategyError
from quant_assets.core.settings import PROJECT_ROOT, Settings
from quant_assets.market_data.synthetic import synthetic_bars
from quant_assets.strategy import StrategySpec, decide, sweep
from quant_assets.strategy.compose import signal_scores
from quant_assets.strategy.evaluate import Evaluator
from quant_assets.strategy.ledger import Ledger, counted
from quant_assets.strategy.sweep import Cells, Done, Search, cells_of
from quant_assets.warehouse import Warehouse

SYMBOLS = ("SYN0000", "SYN0001", "SYN0002")
SESSIONS = trading_calendar("XNYS").between(date(2022, 1, 3), date(2022, 12, 30))
BARS = synthetic_bars(list(SYMBOLS), trading_calendar("XNYS").between(date(2021, 6, 1), date(2022, 12, 30)))
BOUNDS = dict.fromkeys(SYMBOLS, (None, None))
NOW = datetime(2024, 1, 5, 22)
LEDGER = Ledger("made/tsmom", SYMBOLS, SESSIONS[0], SESSIONS[-1])
TABLES = ("sweep_results", "trials")
MEASURES = [column.name for column in sweep_results.METRICS]


def spec_of(parameters: dict[str, Any] | None, signal: dict[str, Any] | None = None, **section: Any) -> StrategySpec:
    """A strategy that sweeps `parameters`."""
    file: dict[str, Any] = {
        "strategy_id": "waves",
        "version": "1.0.0",
        "universe": {"symbols": list(SYMBOLS)},
        "signal": signal or {"type": "tsmom", "inputs": {"lookback": 20}},
        "rebalance": {"frequency": "weekly"},
        "portfolio": {"top_k": None},
        "backtest": {"from": SESSIONS[0], "to": SESSIONS[-1]},
    }
    if parameters is not None:
        file["sweep"] = {"method": "grid", "parameters": parameters, **section}
    return StrategySpec.model_validate(file)


def changes(cells: Cells) -> list[dict[str, Any]]:
    return [dict(cell.changes) for cell in cells.cells]


VALUES = {"signal.inputs.lookback": [5, 10, 20], "signal.inputs.vol_window": [10, 20]}
GRID = spec_of(VALUES)
DONCHIAN = {"type": "donchian", "inputs": {"entry": 20, "exit": 10}}


# ---- cells


def test_a_grid_has_every_combination_in_the_files_order():
    found = cells_of(GRID, 6)
    assert changes(found) == [
        {"signal.inputs.lookback": lookback, "signal.inputs.vol_window": window}
        for lookback in (5, 10, 20)
        for window in (10, 20)
    ]
    assert [cell.number for cell in found.cells] == list(range(6))
    assert [cell.spec.signal.inputs.lookback for cell in found.cells] == [5, 5, 10, 10, 20, 20]
    assert found.excluded == 0


def test_ranges_of_a_grid_step_from_low_to_high_and_keep_whole_numbers_whole():
    ranges = {
        "signal.inputs.lookback": {"low": 10, "high": 25, "step": 5},
        "signal.inputs.vol_target": {"low": 0.1, "high": 0.4, "step": 0.1},
    }
    found = cells_of(spec_of(ranges), 100)
    assert [one["signal.inputs.lookback"] for one in changes(found)][::4] == [10, 15, 20, 25]
    assert [one["signal.inputs.vol_target"] for one in changes(found)][:4] == [0.1, 0.2, 0.3, 0.4]
    assert all(type(one["signal.inputs.lookback"]) is int for one in changes(found))


def test_random_cells_come_from_the_seed_are_distinct_and_stay_within_their_ranges():
    parameters = {
        "signal.inputs.lookback": {"low": 5, "high": 200, "log": True},
        "signal.inputs.vol_target": {"low": 0.1, "high": 0.5},
        "signal.inputs.weighting": ["plain", "volume"],
    }
    one, again, other = (
        changes(cells_of(spec_of(parameters, method="random", samples=50, seed=seed), 50)) for seed in (1, 1, 2)
    )
    assert one == again != other
    assert len({json.dumps(cell) for cell in one}) == 50
    lookbacks = [cell["signal.inputs.lookback"] for cell in one]
    assert all(type(value) is int and 5 <= value <= 200 for value in lookbacks)
    assert np.median(lookbacks) < 80, "as many below the geometric mean as above it"
    assert all(0.1 <= cell["signal.inputs.vol_target"] <= 0.5 for cell in one)
    assert {cell["signal.inputs.weighting"] for cell in one} == {"plain", "volume"}


def test_as_many_random_cells_as_there_are_combinations_are_all_of_them():
    parameters = {"signal.inputs.lookback": {"low": 5, "high": 9}, "signal.inputs.vol_window": [10, 20]}
    found = changes(cells_of(spec_of(parameters, method="random", samples=10, seed=3), 10))
    assert sorted(map(str, found)) == sorted(
        str({"signal.inputs.lookback": a, "signal.inputs.vol_window": b}) for a in range(5, 10) for b in (10, 20)
    )


def test_combinations_that_the_rules_exclude_are_left_out_and_counted():
    found = cells_of(spec_of({"signal.inputs.entry": [10, 20], "signal.inputs.exit": [5, 15]}, DONCHIAN), 10)
    assert changes(found) == [
        {"signal.inputs.entry": 10, "signal.inputs.exit": 5},
        {"signal.inputs.entry": 20, "signal.inputs.exit": 5},
        {"signal.inputs.entry": 20, "signal.inputs.exit": 15},
    ]
    assert found.excluded == 1
    assert "exit 15 is longer than entry 10" in found.reason


@pytest.mark.parametrize(
    ("parameters", "signal", "section", "words"),
    [
        ({"signal.inputs.exit": [5, 30]}, DONCHIAN, {}, "signal.inputs.exit: 30 .*exit 30 is longer than entry 20"),
        ({"signal.inputs.lookback": [5, 0]}, None, {}, "signal.inputs.lookback: 0 .*greater than or equal to 1"),
        ({"signal.inputs.lookback": [5, 7.5]}, None, {}, "signal.inputs.lookback: 7.5 .*integer"),
        ({"signal.inputs.weighting": ["plain", "loud"]}, None, {}, "signal.inputs.weighting: 'loud' .*'plain'"),
        (
            {"signal.inputs.vol_target": {"low": 0.1, "high": 20.0}},
            None,
            {"method": "random", "samples": 5, "seed": 1},
            "signal.inputs.vol_target: 20.0 .*less than or equal to 10",
        ),
        ({"signal.inputs.vol_target": {"low": 0.1, "high": 0.5}}, None, {}, "vol_target.*step"),
        ({"signal.inputs.lookback": [5, 10, 5]}, None, {}, "lookback.*twice"),
        ({"signal.inputs.speed": [1, 2]}, None, {}, "speed"),
        ({"strategy_id": ["a", "b"]}, None, {}, "strategy_id"),
        ({"backtest.from": ["2022-01-03"]}, None, {}, "backtest.from makes no other configuration"),
        (
            {"signal.inputs.lookback": [5, 10]},
            None,
            {"method": "random", "samples": 5, "seed": 1},
            "samples.*5.*2 combinations",
        ),
    ],
)
def test_a_sweep_that_cannot_be_used_is_refused_with_value_and_remedy(
    parameters: dict[str, Any], signal: dict[str, Any] | None, section: dict[str, Any], words: str
):
    with pytest.raises((StrategyError, ValidationError), match=words):
        cells_of(spec_of(parameters, signal, **section), 1000)


def test_more_cells_than_allowed_are_refused_before_any_is_made():
    huge = {f"signal.inputs.{name}": {"low": 2, "high": 2001, "step": 1} for name in ("lookback", "vol_window")}
    with pytest.raises(
        StrategyError, match=r"the grid has 4,000,000 cells, the limit is 50,000.*QUANT_SWEEP_MAX_CELLS"
    ):
        cells_of(spec_of(huge), 50_000)
    many = spec_of({"signal.inputs.vol_target": {"low": 0.1, "high": 0.5}}, method="random", samples=60_000, seed=1)
    with pytest.raises(StrategyError, match="samples asks for 60,000 cells, the limit is 50,000"):
        cells_of(many, 50_000)


def test_a_strategy_without_a_sweep_section_has_no_cells():
    with pytest.raises(StrategyError, match="waves has no `sweep` section"):
        cells_of(spec_of(None), 10)


# ---- what is refused before anything runs


def refuse(
    spec: StrategySpec = GRID,
    bars: pl.DataFrame = BARS,
    sessions: Sequence[date] = SESSIONS,
    bounds: dict[str, Any] = BOUNDS,
    **settings: Any,
) -> None:
    sweep.refuse_unusable(spec, cells_of(spec, 100_000).cells, bars, sessions, bounds, Settings(**settings))


def test_a_sweep_that_can_run_is_not_refused():
    refuse()
    refuse(bounds={**BOUNDS, "LATER": (date(2023, 1, 3), None), "EARLIER": (None, date(2021, 12, 31))})


def test_a_window_shorter_than_a_lookback_is_refused_and_both_are_named():
    long = spec_of({"signal.inputs.lookback": [5, 60]})
    with pytest.raises(StrategyError, match=r'cell 1 .*lookback":60.* looks back 60 sessions.*\(60 sessions\)'):
        refuse(long, sessions=SESSIONS[:60])
    refuse(long, sessions=SESSIONS[:61])


def test_a_symbol_without_data_in_the_window_is_refused_by_name():
    with pytest.raises(DataError, match=r"no bars of SYN0001 in 2022-01-03\.\.2022-12-30"):
        refuse(bars=BARS.filter((pl.col("symbol") != "SYN0001") | (pl.col("ts") < SESSIONS[0])))
    with pytest.raises(DataError, match="no bars of any symbol"):
        refuse(bounds={"LATER": (date(2023, 1, 3), None)})


def test_zero_volume_is_refused_where_a_cell_weighs_by_it():
    silent = pl.when((pl.col("symbol") == "SYN0002") & pl.col("ts").is_in(SESSIONS[40:51])).then(0.0)
    bars = BARS.with_columns(silent.otherwise("volume").alias("volume"))
    both = {"signal.inputs.weighting": ["plain", "volume"]}
    with pytest.raises(DataError, match=rf"SYN0002 has no volume on 11 sessions from {SESSIONS[40]}.*the volume of 11"):
        refuse(spec_of({**both, "signal.inputs.lookback": [11, 20]}), bars)
    refuse(spec_of({**both, "signal.inputs.lookback": [12, 20]}), bars)
    refuse(GRID, bars)


def test_a_sweep_that_would_not_fit_into_memory_is_refused(monkeypatch: pytest.MonkeyPatch):
    import psutil

    monkeypatch.setattr(psutil, "virtual_memory", lambda: type("Memory", (), {"available": 100_000})())
    with pytest.raises(ConfigError, match=r"6 cells over 251 sessions and 3 symbols take .* MB, 0 MB are free"):
        refuse()


# ---- running and storing


@dataclass(frozen=True)
class Made:
    """Evaluates in no time: figures made of the parameters; fails at a lookback of `broken`."""

    sessions: int = len(SESSIONS)
    broken: int | None = None

    def evaluate(self, specs: Sequence[StrategySpec]) -> "Made.Result":
        inputs = [spec.signal.inputs for spec in specs]
        if any(one.lookback == self.broken for one in inputs):
            raise DataError("broken")
        base = np.array([one.lookback + one.vol_window / 100 for one in inputs])
        summary = pl.DataFrame(
            {
                column.name: (base * 0 + 5).astype(np.int64) if column.type == "BIGINT" else 1 / base
                for column in sweep_results.METRICS
            }
        ).with_columns(max_dd=-pl.col("sharpe"))
        return Made.Result(summary, base[:, None] * np.arange(self.sessions) / 1e6)

    @dataclass(frozen=True)
    class Result:
        summary: pl.DataFrame
        returns: np.ndarray


def searched(spec: StrategySpec = GRID) -> Search:
    return sweep.search(spec, cells_of(spec, 100_000), LEDGER, BARS, "code")


def run(
    warehouse: Warehouse,
    search: Search,
    evaluator: Any = Made(),
    head_start: float = 60.0,
    **settings: Any,
) -> tuple[int, list[str]]:
    """Run what is missing; returns how many cells were evaluated, and the progress lines."""
    lines: list[str] = []
    count = sweep.run(
        search.cells,
        evaluator,
        len(SESSIONS),
        Settings(**settings),
        lambda done: search.keep(warehouse, done, "run", NOW),
        lines.append,
        done=search.stored(warehouse),
        head_start=head_start,
    )
    return count, lines


def stored(warehouse: Warehouse) -> dict[str, pl.DataFrame]:
    keys = {"sweep_results": "cell", "trials": "trial_id"}
    return {name: warehouse.query(f"SELECT * FROM {name} ORDER BY {keys[name]}") for name in TABLES}


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse.duckdb")


def test_every_cell_is_stored_once_with_what_it_changed_and_its_trial(warehouse: Warehouse):
    search = searched()
    count, lines = run(warehouse, search)
    assert count == 6
    assert lines[0] == "6 cells, 0 of them stored already"
    assert lines[-1].startswith("6 of 6 cells")
    rows = stored(warehouse)["sweep_results"]
    assert rows["cell"].to_list() == list(range(6))
    assert [json.loads(text) for text in rows["params"]] == changes(cells_of(GRID, 6))
    assert rows["trial_id"].to_list() == [LEDGER.trial_id(cell.spec) for cell in search.cells]
    (found,) = counted(warehouse)
    assert (found.family, found.trials, found.configurations) == ("made/tsmom", 6, 6)
    assert (found.best, found.best_trial) == (rows["sharpe"].max(), rows["trial_id"][0])


def test_a_rerun_computes_only_what_is_missing_and_leaves_the_same_tables(tmp_path: Path):
    whole, parts = (Warehouse(tmp_path / f"{name}.duckdb") for name in ("whole", "parts"))
    search = searched()
    run(whole, search)
    run(parts, replace(search, cells=search.cells[2:5]))
    assert run(parts, search)[0] == 3
    assert run(parts, search) == (0, ["6 cells, 6 of them stored already"])
    for name in TABLES:
        assert stored(whole)[name].equals(stored(parts)[name]), name


def test_a_failure_in_the_middle_leaves_whole_chunks_only(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sweep, "_STORE_EVERY", 0.0)
    monkeypatch.setattr(sweep, "_cell_bytes", lambda *_: 1_000_000)  # one cell to a chunk
    with pytest.raises(DataError, match="broken"):
        run(warehouse, searched(), Made(broken=20), sweep_chunk_mb=1, sweep_workers=1)
    kept = stored(warehouse)
    assert kept["sweep_results"]["cell"].to_list() == [0, 1, 2, 3]
    assert set(kept["trials"]["trial_id"]) == set(kept["sweep_results"]["trial_id"])
    assert run(warehouse, searched())[0] == 2


def test_a_result_that_breaks_its_contract_stores_neither_result_nor_trial(warehouse: Warehouse):
    search = searched()
    made = Made().evaluate([cell.spec for cell in search.cells])
    broken = made.summary.with_columns(vol=pl.lit(-1.0))
    with pytest.raises(QualityError, match="vol is below 0"):
        search.keep(warehouse, Done(search.cells, broken, made.returns.astype(np.float32)), "run", NOW)
    assert all(rows.is_empty() for rows in stored(warehouse).values())


def test_a_cell_that_lost_everything_is_stored_without_figures_and_counted(warehouse: Warehouse):
    search = searched()
    made = Made().evaluate([cell.spec for cell in search.cells])
    lost = made.summary.with_columns(pl.col(pl.Float64) * float("nan"), num_trades=None)
    search.keep(warehouse, Done(search.cells, lost, made.returns.astype(np.float32) * np.nan), "run", NOW)
    assert stored(warehouse)["sweep_results"]["sharpe"].null_count() == 6
    assert counted(warehouse)[0].trials == 6


def test_a_sweep_and_the_backtest_of_its_best_cell_are_as_many_trials_as_cells(warehouse: Warehouse):
    from quant_assets.strategy.ledger import record

    search = searched()
    run(warehouse, search)
    best = spec_of(None, {"type": "tsmom", "inputs": {"lookback": 5, "vol_window": 10}})
    renamed = best.model_copy(update={"strategy_id": "best_of_waves", "version": "7.0.0"})
    with warehouse.write() as writer:
        assert record(writer, LEDGER.rows([renamed], [1.0], np.zeros((1, 2)), "backtest", NOW), "other") == 0
    assert counted(warehouse)[0].trials == 6


def test_the_id_follows_strategy_sweep_window_data_and_code_but_no_description():
    known = searched().sweep_id
    same = GRID.model_copy(update={"version": "9.9.9", "description": "new words"})
    assert searched(same).sweep_id == known
    assert sweep.search(GRID, cells_of(GRID, 6), LEDGER, BARS.reverse(), "code").sweep_id == known
    moved = BARS.with_row_index().with_columns(close=pl.col("close") + (pl.col("index") == 7) * 0.01)
    others = [
        searched(spec_of({**VALUES, "signal.inputs.vol_window": [10, 21]})).sweep_id,
        searched(spec_of(VALUES, {"type": "tsmom", "inputs": {"leverage_cap": 1.5}})).sweep_id,
        sweep.search(GRID, cells_of(GRID, 6), replace(LEDGER, last=SESSIONS[-2]), BARS, "code").sweep_id,
        sweep.search(GRID, cells_of(GRID, 6), LEDGER, moved, "code").sweep_id,
        sweep.search(GRID, cells_of(GRID, 6), LEDGER, BARS, "other code").sweep_id,
        sweep.search(GRID, cells_of(GRID, 6), LEDGER, BARS, "code", {"v1": BARS}).sweep_id,
        searched(spec_of(dict(reversed(VALUES.items())))).sweep_id,  # its cells have other numbers
    ]
    assert len({known, *others}) == 8


def test_a_cell_has_the_figures_and_returns_of_the_backtest_of_a_file_with_its_values(warehouse: Warehouse):
    parameters = {"signal.inputs.lookback": [10, 40], "portfolio.top_k": [None, 2], "backtest.fee_bps": [2.0, 30.0]}
    search = searched(spec_of(parameters))
    calendar = trading_calendar("XNYS")
    run(warehouse, search, Evaluator(BARS, SESSIONS, calendar.sessions, BOUNDS, 252))
    rows = stored(warehouse)["sweep_results"].rows(named=True)
    assert len({row["sharpe"] for row in rows}) == 8
    for row, changed in zip(rows, changes(cells_of(spec_of(parameters), 8)), strict=True):
        file = spec_of(None).model_dump(by_alias=True)
        file["signal"]["inputs"]["lookback"] = changed["signal.inputs.lookback"]
        file["portfolio"]["top_k"] = changed["portfolio.top_k"]
        file["backtest"]["fee_bps"] = changed["backtest.fee_bps"]
        spec = StrategySpec.model_validate(file)
        scores = signal_scores(spec, BARS, calendar.sessions)
        targets = decide(spec, scores, BARS, {}, SESSIONS, calendar.sessions, BOUNDS).targets
        result = engine.run(BARS, targets, SESSIONS, spec.config(252))
        assert {name: row[name] for name in MEASURES} == {name: result.summary[name] for name in MEASURES}
        (kept,) = warehouse.query("SELECT returns FROM trials WHERE trial_id = ?", [row["trial_id"]])["returns"]
        assert kept.to_list() == result.equity["ret"].cast(pl.Float32).to_list()


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sweep_backend": "dask"}, "QUANT_SWEEP_BACKEND is dask, but no cluster is named; set QUANT_DASK_ADDRESS"),
        (
            {"sweep_backend": "dask", "dask_address": "nonsense://127.0.0.1:1"},
            "no Dask scheduler answers at nonsense://127.0.0.1:1.*QUANT_DASK_ADDRESS",
        ),
    ],
)
def test_a_dask_cluster_that_is_not_there_is_one_clear_error(
    warehouse: Warehouse, settings: dict[str, Any], words: str
):
    with pytest.raises(ConfigError, match=words):
        run(warehouse, searched(), head_start=0.0, **settings)


def test_dask_that_is_not_installed_is_one_clear_error(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(ConfigError, match=r"distributed is not installed; install quant_assets\[cluster\]"):
        run(warehouse, searched(), head_start=0.0, sweep_backend="dask", dask_address="tcp://127.0.0.1:1")


MANY = spec_of({"signal.inputs.lookback": {"low": 2, "high": 41, "step": 1}, "signal.inputs.vol_window": [10, 20]})


@pytest.mark.slow
def test_threads_processes_and_a_dask_cluster_give_the_same_tables(tmp_path: Path):
    from distributed import LocalCluster

    kinds: dict[str, dict[str, Any]] = {"threads": {}, "processes": {}, "dask": {}}
    evaluator = Evaluator(BARS, SESSIONS, trading_calendar("XNYS").sessions, BOUNDS, 252)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        kinds["dask"]["dask_address"] = cluster.scheduler_address
        for kind, settings in kinds.items():
            warehouse = Warehouse(tmp_path / f"{kind}.duckdb")
            count, _ = run(
                warehouse,
                searched(MANY),
                evaluator,
                0.0,
                sweep_backend=kind,
                sweep_workers=2,
                sweep_chunk_mb=1,
                **settings,
            )
            assert count == 80
    threads = stored(Warehouse(tmp_path / "threads.duckdb"))
    for kind in ("processes", "dask"):
        other = stored(Warehouse(tmp_path / f"{kind}.duckdb"))
        assert all(threads[name].equals(other[name]) for name in TABLES), kind


KILLED = """
import os, signal, sys
from pathlib import Path

from quant_assets.strategy import ledger, sweep
from quant_assets.warehouse import Warehouse
from quant_assets_tests.test_sweep import run, searched

record, entered = ledger.record, []


def recording(writer, rows, run_id):
    entered.append(record(writer, rows, run_id))
    if len(entered) == 3:
        os.kill(os.getpid(), signal.SIGKILL)


ledger.record = recording
sweep._STORE_EVERY = 0.0
sweep._cell_bytes = lambda *_: 1_000_000
run(Warehouse(Path(sys.argv[1])), searched(), head_start=float(sys.argv[2]), sweep_chunk_mb=1, sweep_workers=2)
"""
"""A sweep of one cell per transaction, killed within the third."""


@pytest.mark.slow
@pytest.mark.parametrize("head_start", ["60", "0"], ids=["threads", "processes"])
def test_a_sweep_killed_within_a_transaction_resumes_and_leaves_the_tables_of_one_never_killed(
    tmp_path: Path, head_start: str
):
    killed, whole = (Warehouse(tmp_path / f"{name}.duckdb", lock_timeout=20) for name in ("killed", "whole"))
    died = subprocess.run([sys.executable, "-c", KILLED, str(killed.path), head_start], cwd=PROJECT_ROOT, timeout=120)
    assert died.returncode == -signal.SIGKILL
    kept = stored(killed)
    assert kept["sweep_results"]["cell"].to_list() == [0, 1]
    assert kept["trials"].height == 2
    assert run(killed, searched())[0] == 4
    run(whole, searched())
    for name in TABLES:
        assert stored(killed)[name].equals(stored(whole)[name]), name
