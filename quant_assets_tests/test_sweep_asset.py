"""The asset sweep_results: a partition per strategy with a sweep, its metadata, report, checks, jobs and reruns."""

import json
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from quant_assets.contracts import TABLES
from quant_assets.defs.grid import Grid
from quant_assets.defs.resources import resources
from quant_assets.defs.sweeps import report_path, sweep_assets, sweep_jobs
from quant_assets.strategy import StrategySpec, load_strategies
from quant_assets_tests.platform import (
    DAGSTERS_OWN,
    END,
    LISTED,
    LISTED_LATE,
    QUIET,
    START,
    SYMBOLS,
    bars_of,
    contents,
    small_platform,
)

pytestmark = [pytest.mark.slow, *DAGSTERS_OWN]

SWEEP = {"parameters": {"signal.inputs.lookback": [5, 10, 20], "signal.inputs.vol_window": [10, 20]}}
WAVES: dict[str, Any] = {
    "signal": {"type": "tsmom"},
    "rebalance": {"frequency": "weekly"},
    "portfolio": {"weighting": "equal"},
    "sweep": SWEEP,
}


class Made:
    """A platform with bars in its warehouse, strategy `waves` with a sweep, and the asset on its grid."""

    def __init__(self, root: Path, **changes: Any) -> None:
        self.platform = small_platform(root)
        self.platform.write_strategy("waves", **{**WAVES, **changes})
        self.put_bars(1.0)

    @property
    def strategies(self) -> dict[str, StrategySpec]:
        return load_strategies(self.platform.strategies)

    @property
    def grid(self) -> Grid:
        grid = self.platform.grid()
        return replace(grid, strategies=tuple(self.strategies))

    def put_bars(self, scale: float) -> None:
        bars = pl.concat([bars_of(name, LISTED if name == LISTED_LATE else START, END, scale) for name in SYMBOLS])
        rows = bars.with_columns(adjusted_close=None, source=pl.lit("files"), ingested_at=datetime(2024, 1, 2))
        with self.platform.warehouse.write() as writer:
            writer.replace(TABLES["ohlcv"], rows, "true", run_id="ingest")

    def sweep(
        self, strategy_id: str = "waves", tags: dict[str, str] | None = None, **config: Any
    ) -> dg.ExecuteInProcessResult:
        settings = self.platform.settings
        (asset,) = sweep_assets(self.grid, self.strategies, settings)
        return dg.materialize(
            [asset],
            partition_key=strategy_id,
            resources=resources(settings),
            run_config={**QUIET, "ops": {asset.op.name: {"config": config}}},
            raise_on_error=False,
            tags=tags,
        )

    def stored(self) -> dict[str, pl.DataFrame]:
        return contents(self.platform.warehouse, ("sweep_results", "trials"))


@pytest.fixture
def made(tmp_path: Path) -> Made:
    return Made(tmp_path)


def metadata_of(result: dg.ExecuteInProcessResult) -> dict[str, Any]:
    (event,) = result.get_asset_materialization_events()
    return {name: one.value for name, one in event.materialization.metadata.items()}


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    assert not result.success
    (failed,) = [event for event in result.all_events if event.is_step_failure]
    return str(failed.step_failure_data.user_failure_data.description)


def test_a_sweep_is_stored_counted_reported_and_checked(made: Made):
    result = made.sweep()
    assert result.success
    metadata = metadata_of(result)
    rows = made.platform.warehouse.query("SELECT * FROM sweep_results ORDER BY cell")
    assert rows["cell"].to_list() == list(range(6))
    assert rows["sweep_id"].unique().to_list() == [metadata["sweep"]]
    assert (metadata["cells"], metadata["trials of the family"]) == (6, 6)
    assert metadata["best Sharpe"] == rows["sharpe"].max()
    assert metadata["median Sharpe"] == pytest.approx(rows["sharpe"].median())
    assert metadata["period"] == "2023-03-01..2023-08-31"
    assert metadata["heat map"].startswith("![Sharpe ratio over parameters](data:image/png;base64,")
    page = report_path(made.platform.settings, "waves", metadata["sweep"]).read_text()
    assert metadata["report"].endswith(f"reports/sweeps/waves/{metadata['sweep']}.html")
    assert "The best of 6 cells is selected with hindsight" in page
    assert "small/tsmom" in page
    checks = result.get_asset_check_evaluations()
    assert {(one.check_name, one.passed) for one in checks} == {("contract", True), ("all_cells", True)}


def test_a_sweep_again_adds_nothing_and_changed_bars_make_another_sweep_of_the_same_trials(made: Made):
    first = metadata_of(made.sweep())
    once = made.stored()
    assert metadata_of(made.sweep())["sweep"] == first["sweep"]
    again = made.stored()
    assert all(once[name].equals(again[name]) for name in once)
    made.put_bars(2.0)
    other = metadata_of(made.sweep())
    assert other["sweep"] != first["sweep"]
    assert made.stored()["sweep_results"].height == 12
    assert other["trials of the family"] == 6, "the same configurations over the same window"


def test_another_window_is_asked_for_in_the_run_config_and_makes_other_trials(made: Made):
    made.sweep()
    metadata = metadata_of(made.sweep(from_date="2023-05-06"))
    assert (metadata["period"], metadata["trials of the family"]) == ("2023-05-08..2023-08-31", 12)
    assert "to_date is '31.12.'; write it as YYYY-MM-DD" in failure_of(made.sweep(to_date="31.12."))


def test_bad_input_is_one_clear_line_before_anything_is_stored(made: Made):
    assert "looks back 20 sessions" in failure_of(made.sweep(from_date="2023-08-15"))
    assert "lookback" in failure_of(made.sweep(to_date="2023-03-10"))
    assert all(rows.is_empty() for rows in made.stored().values())


def test_a_sweep_over_what_a_ranking_kind_reads_needs_its_features(tmp_path: Path):
    parameters = {"signal.inputs.feature_name": ["ret_5d", "ret_20d"]}
    made = Made(tmp_path, signal={"type": "factor_rank", "inputs": {"feature_version": "v1", "feature_name": "ret_5d"}},
                portfolio={"top_k": 1}, sweep={"parameters": parameters})  # fmt: skip
    (asset,) = sweep_assets(made.grid, made.strategies, made.platform.settings)
    assert asset.dependency_keys == {dg.AssetKey("ohlcv"), dg.AssetKey("features_daily")}
    assert "no features of version v1 are stored" in failure_of(made.sweep())


def test_without_a_sweep_section_there_is_neither_asset_nor_job(made: Made):
    others = {name: spec for name, spec in made.strategies.items() if name != "waves"}
    assert sweep_assets(made.grid, others, made.platform.settings) == []
    assert sweep_jobs(made.grid, others) == []


def test_another_markets_sweeps_stand_under_its_prefix(made: Made):
    grid = replace(made.grid, prefix="crypto")
    (asset,) = sweep_assets(grid, made.strategies, made.platform.settings)
    assert asset.key == dg.AssetKey(["crypto", "sweep_results"])
    assert asset.dependency_keys == {dg.AssetKey(["crypto", "ohlcv"])}
    assert asset.group_names_by_key[asset.key] == "crypto_research"
    assert asset.partitions_def == dg.StaticPartitionsDefinition(["waves"])


def test_each_sweep_has_a_job_with_the_files_dates_that_refuses_other_strategies(made: Made):
    made.platform.write_strategy("ripples", **WAVES)
    settings, grid = made.platform.settings, made.grid
    jobs = sweep_jobs(grid, made.strategies)
    assert [job.name for job in jobs] == ["sweep_ripples", "sweep_waves"]
    loaded = dg.Definitions(
        assets=sweep_assets(grid, made.strategies, settings), jobs=jobs, resources=resources(settings)
    )
    job = loaded.resolve_job_def("sweep_waves")
    refused = job.execute_in_process(partition_key="ripples", raise_on_error=False)
    assert failure_of(refused) == "job sweep_waves runs only the partition of strategy waves, not ripples"
    done = job.execute_in_process(partition_key="waves")
    assert done.success
    dates = {"from_date": "2023-03-01", "to_date": "2023-08-31"}
    assert done.dagster_run.run_config["ops"] == {"sweep_results": {"config": dates}}


@pytest.mark.slow
def test_a_sweep_then_the_backtest_of_its_best_cell_under_another_name_are_as_many_trials_as_cells(made: Made):
    platform = made.platform
    platform.quant("ingest")
    platform.quant("sweep", "--strategy", "waves")
    best = platform.warehouse.query("SELECT * FROM sweep_results ORDER BY sharpe DESC LIMIT 1").row(0, named=True)
    inputs = {path.rpartition(".")[2]: value for path, value in json.loads(best["params"]).items()}
    platform.write_strategy("best", **{**WAVES, "sweep": None, "signal": {"type": "tsmom", "inputs": inputs}})
    platform.quant("pipeline", "run", "--strategy", "best")
    told = platform.warehouse.query("SELECT sharpe, final_equity FROM backtest_summary WHERE strategy_id = 'best'")
    assert told.rows() == [(best["sharpe"], best["final_equity"])]
    assert platform.warehouse.query("SELECT source, count(*) FROM trials GROUP BY source").rows() == [("sweep", 6)]
    platform.quant("backtest", "--strategy", "best", "--fee-bps", "0")
    assert platform.warehouse.query("SELECT count(*) FROM trials").item() == 7
