"""The commands of research as a user meets them: sweeps, trials, factor reports, backtests of some symbols."""

import shutil
from pathlib import Path

import pytest

from quant_assets_tests.command_line import CommandLine
from quant_assets_tests.platform import DAGSTERS_OWN, Platform, small_platform

pytestmark = [pytest.mark.slow, *DAGSTERS_OWN]

WAVES = {
    "signal": {"type": "tsmom"},
    "portfolio": {"weighting": "equal", "short": "full"},
    "sweep": {"parameters": {"signal.inputs.lookback": [5, 10, 60], "signal.inputs.vol_window": [10, 20]}},
}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """A platform on which strategies `waves` (with a sweep) and `ranks` have run."""
    small = small_platform(tmp_path_factory.mktemp("research"))
    small.write_strategy("waves", **WAVES)
    small.quant("pipeline", "run", "-s", "waves", "-s", "ranks")
    return small


@pytest.fixture
def quant(finished: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """Commands to a copy of `finished`."""
    shutil.copytree(finished.root, tmp_path / "copy")
    return CommandLine(Platform(tmp_path / "copy"), monkeypatch)


def test_a_sweep_shows_its_best_cells_and_what_luck_would_have_brought_and_counts_its_trials_once(
    quant: CommandLine,
) -> None:
    assert "small/tsmom" in quant("trials").out  # the pipeline's backtest
    said = quant("sweep", "-s", "waves")
    assert "the best 6 of 6 cells" in said.out
    # of six cells one is the file's own values, which the pipeline has tried
    assert "rows written (held): sweep_results 6 (6), trials 5 (7)" in said.out
    assert "6 configurations of the family were tried so far" in said.out
    report = said.out.split("report: ")[1].splitlines()[0]
    assert Path(report).read_text().startswith("<!doctype html>")
    assert "sweep_results 0 (6), trials 0 (7)" in quant("sweep", "-s", "waves").out  # nothing was missing


def test_a_strategy_without_a_sweep_section_says_so(quant: CommandLine) -> None:
    assert "has no `sweep` section; add one to its file" in quant("sweep", "-s", "ranks", code=1).error


def test_factors_are_measured_and_their_report_lies_where_it_says(quant: CommandLine) -> None:
    said = quant("factors")
    assert "small, feature set v1: the strongest 10 pairs" in said.out
    report = said.out.split("report: ")[1].splitlines()[0]
    assert "ret_5d" in Path(report).read_text()
    assert "feature set 'v9' is not computed for small; use: v1" in quant("factors", "v9", code=1).error


def test_a_backtest_of_some_symbols_decides_for_them_alone_and_leaves_the_targets_as_they_were(
    quant: CommandLine,
) -> None:
    warehouse = quant.platform.warehouse
    before = warehouse.query("SELECT * FROM targets ORDER BY ALL")
    said = quant("backtest", "-s", "waves", "-s", "ranks", "--symbols", "AAA", "--engine", "vectorbt")
    assert said.out.count("report of ") == 2
    assert warehouse.query("SELECT * FROM targets ORDER BY ALL").equals(before)
    held = warehouse.query("SELECT DISTINCT symbol FROM backtest_symbols JOIN backtest_summary USING (run_id) "
                           "ORDER BY created_at DESC, symbol LIMIT 1")  # fmt: skip
    assert held["symbol"].to_list() == ["AAA"]
    known = warehouse.query("SELECT count(*) AS n FROM trials WHERE family = 'small/tsmom'")["n"][0]
    assert known == 2  # the subset is another configuration of the family


def test_runs_are_compared_by_the_first_characters_of_their_ids(quant: CommandLine) -> None:
    quant("backtest", "-s", "waves", "--fee-bps", "50")
    warehouse = quant.platform.warehouse
    runs = warehouse.query("SELECT run_id FROM backtest_summary WHERE strategy_id = 'waves' ORDER BY created_at")
    said = quant("compare", *(run_id[:8] for run_id in runs["run_id"]))
    assert "Sharpe" in said.out
    assert "backtest.fee_bps" in said.out  # what differs
    page = said.out.split("page: ")[1].splitlines()[0]
    assert "waves" in Path(page).read_text()
    assert "nosuchrun" in quant("compare", "nosuchrun", runs["run_id"][0], code=1).error


def test_the_two_engines_leave_the_same_backtest(quant: CommandLine) -> None:
    first = quant("backtest", "-s", "waves").out.split("final_equity")[1].split()[0]
    assert quant("backtest", "-s", "waves", "--engine", "vectorbt").out.split("final_equity")[1].split()[0] == first


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--engine", "abacus"], "execution.engine = 'abacus': input should be 'kernel' or 'vectorbt'"),
        (["--engine", "vectorbt", "--funding-bps-per-day", "3"], "engine vectorbt knows neither leverage nor funding"),
        (["--symbols", "ZZZ"], "symbol ZZZ is not in universe small"),
    ],
)
def test_what_a_backtest_cannot_do_is_said_before_anything_is_stored(
    quant: CommandLine, words: list[str], told: str
) -> None:
    warehouse = quant.platform.warehouse
    before = warehouse.query("SELECT * FROM backtest_summary ORDER BY ALL")
    assert told in quant("backtest", "-s", "waves", *words, code=1).error
    assert warehouse.query("SELECT * FROM backtest_summary ORDER BY ALL").equals(before)
