"""Two processes that write at once: both finish, and no row is lost."""

from pathlib import Path

import dagster as dg
import pytest

from quant_assets_tests.platform import (
    DAGSTERS_OWN,
    END,
    QUIET,
    START,
    SYMBOLS,
    Platform,
    same_tables,
    small_platform,
)

pytestmark = [pytest.mark.slow, *DAGSTERS_OWN]


def together(platform: Platform, *commands: tuple[str, ...]) -> None:
    """Run `quant` commands at the same time; all must succeed."""
    processes = [platform.start(platform.command("quant_assets.cli.app", *words)) for words in commands]
    for process in processes:
        with process.stdout as output:
            said = output.read()
        assert process.wait() == 0, said


def test_the_first_commands_on_a_fresh_home_may_start_together(tmp_path: Path) -> None:
    platform = small_platform(tmp_path)
    together(platform, *[("runs",)] * 4)
    platform.quant("runs")


def test_two_commands_at_once_lose_no_row_on_different_symbols_nor_on_the_same(tmp_path: Path) -> None:
    platform = small_platform(tmp_path)
    together(platform, ("ingest", "--symbols", "AAA"), ("ingest", "--symbols", "BBB,CCC"))
    together(platform, ("features",), ("features", "--force"))
    assert {run.status for run in platform.runs()} == {dg.DagsterRunStatus.SUCCESS}
    with platform.instance() as instance:
        for asset in ("ohlcv", "features_daily"):
            assert len(instance.get_materialized_partitions(dg.AssetKey(asset))) == 3 * 167

    alone = Platform(tmp_path, home_name="alone")
    with dg.DagsterInstance.ephemeral() as instance:
        result = (
            alone.definitions()
            .resolve_job_def("market_stage")
            .execute_in_process(instance=instance, run_config=QUIET, tags=alone.grid().range_tags(START, END, SYMBOLS))
        )
    assert result.success
    same_tables(platform.warehouse, alone.warehouse, ("ohlcv", "features_daily", "corporate_actions", "quarantine"))
