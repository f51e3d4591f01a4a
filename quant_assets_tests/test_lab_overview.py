"""The page Overview: one row per strategy, its newest backtest, and the newest runs."""

from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest

from quant_assets.lab.dagster_api import Run
from quant_assets.lab.views import overview
from quant_assets_tests.lab_platform import Lab, words
from quant_assets_tests.platform import small_platform

pytestmark = pytest.mark.slow

START = datetime(2024, 1, 2, 8, 0, tzinfo=UTC)


def _backtest(strategy: str, run: str, sharpe: float | None, verdict: str | None) -> dict[str, object]:
    row = {"strategy_id": strategy, "run_id": run, "version": "1.0.0", "verdict": verdict, "sharpe": sharpe}
    return row | {"cagr": 0.1, "max_dd": -0.2, "num_trades": 3, "from_ts": date(2023, 1, 3), "to_ts": date(2023, 2, 1)}


def test_a_strategy_stands_with_its_newest_backtest_the_best_sharpe_ratio_first() -> None:
    stored = pl.DataFrame(
        [
            _backtest("slow", "r3", 0.5, "caution"),
            _backtest("fast", "r2", 0.9, None),
            _backtest("slow", "r1", 2.0, "pass"),
        ]
    )
    curves = pl.DataFrame(
        {"run_id": ["r3", "r2", "r3"], "strategy_id": ["slow", "fast", "slow"], "equity": [1.0, 5.0, 2.0]}
    )
    found = overview.newest(stored, curves)
    assert found.select("strategy_id", "verdict", "sharpe").rows() == [
        ("fast", "not judged", 0.9),
        ("slow", "! caution", 0.5),
    ]
    assert found["equity"].to_list() == [[5.0], [1.0, 2.0]]


def test_a_backtest_without_a_curve_or_a_sharpe_ratio_stands_last() -> None:
    stored = pl.DataFrame([_backtest("ruined", "r2", None, "fail"), _backtest("calm", "r1", 0.1, "fail")])
    none = pl.DataFrame(schema={"run_id": pl.String, "strategy_id": pl.String, "equity": pl.Float64})
    assert overview.newest(stored, none).select("strategy_id", "equity").rows() == [("calm", None), ("ruined", None)]


def test_a_curve_is_thinned() -> None:
    curves = pl.DataFrame({"run_id": "r", "strategy_id": "s", "equity": [float(n) for n in range(1000)]})
    (thin,) = overview.newest(pl.DataFrame([_backtest("s", "r", 1.0, None)]), curves)["equity"].to_list()
    assert 100 < len(thin) <= 120
    assert thin[0] == 0.0


def test_runs_have_status_time_and_a_link() -> None:
    ended = START.replace(minute=2)
    runs = [
        Run("r2", "forest", "STARTED", started=START),
        Run("r1", "market_stage", "FAILURE", (), {"quant/period": "2024-01-02..2024-01-02"}, START, ended),
    ]
    assert overview.runs_table(runs, "http://x").rows() == [
        ("started", "forest", "", START, None, "http://x/runs/r2"),
        ("✕ failed", "market_stage", "2024-01-02..2024-01-02", START, 120.0, "http://x/runs/r1"),
    ]


def test_of_an_empty_platform_the_page_says_how_to_fill_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    said = words(Lab(small_platform(tmp_path), monkeypatch).draw(overview.page))
    assert "No backtest is stored yet" in said
    assert "quant pipeline run" in said
    assert "make dev" in said
