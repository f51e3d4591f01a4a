"""The commands of research as a user meets them: sweeps, trials, factor reports, some symbols, validation."""

import shutil
from pathlib import Path

import pytest

from quant_assets_tests.command_line import CommandLine
from quant_assets_tests.platform import DAGSTERS_OWN, SHORT_PLAN, Platform, small_platform

pytestmark = [pytest.mark.slow, *DAGSTERS_OWN]

WAVES = {
    "signal": {"type": "tsmom"},
    "portfolio": {"weighting": "equal", "short": "full"},
    "sweep": {"parameters": {"signal.inputs.lookback": [5, 10, 60], "signal.inputs.vol_window": [10, 20]}},
    "validation": SHORT_PLAN,
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
    # one of six cells is the file's own values; the pipeline's backtest has tried it, and its validation the others
    assert "rows written (held): sweep_results 6 (6), trials 0 (7)" in said.out
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
    assert known == 12  # on the subset the strategy is another configuration of the family, and so is each other cell


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


# validation


def test_validate_makes_a_new_verdict_each_time_and_shows_its_measures_findings_and_report(quant: CommandLine) -> None:
    warehouse = quant.platform.warehouse
    backtest = warehouse.query("SELECT run_id FROM backtest_summary WHERE strategy_id = 'waves'").item()
    for number in (2, 3):
        said = quant("validate", "-s", "waves")
        for words in ("waves: validation", "deflated_probability", "overall", "the doctor's findings", "short_period"):
            assert words in said.out
        report = said.out.split("report: ")[1].splitlines()[0]
        assert Path(report).read_text().startswith("<!doctype html>")
        verdicts = warehouse.query("SELECT run_id, backtest_run_id FROM validation_results WHERE method = 'verdict' "
                                   "AND strategy_id = 'waves'")  # fmt: skip
        assert verdicts["run_id"].n_unique() == verdicts.height == number
        assert verdicts["backtest_run_id"].unique().to_list() == [backtest]


def test_validate_makes_one_test_of_the_backtest_that_is_named(quant: CommandLine) -> None:
    warehouse = quant.platform.warehouse
    quant("backtest", "-s", "waves", "--fee-bps", "50")
    older = "SELECT run_id FROM backtest_summary WHERE strategy_id = 'waves' ORDER BY created_at LIMIT 1"
    first = warehouse.query(older).item()
    said = quant("validate", "-s", "waves", "--method", "pbo", "--run", first)
    assert "rows written (held): validation_results 6" in said.out
    rows = warehouse.query("SELECT DISTINCT method, backtest_run_id FROM validation_results WHERE run_id = ?",
                           [quant.runs()[-1].run_id])  # fmt: skip
    assert rows.rows() == [("pbo", first)]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["-s", "nosuch"], "strategy 'nosuch' is unknown"),
        (["-s", "waves", "--run", "nosuchrun"], "waves has no backtest of run nosuchrun"),
    ],
)
def test_validate_of_what_is_not_there_is_one_clear_line(quant: CommandLine, words: list[str], told: str) -> None:
    assert told in quant("validate", *words, code=1).error


def test_validate_without_a_backtest_of_the_files_version_names_the_remedy(quant: CommandLine) -> None:
    quant.platform.write_strategy("waves", **WAVES, version="2.0.0")
    told = quant("validate", "-s", "waves", code=1).error
    assert told == "waves has no backtest of version 2.0.0; run `quant pipeline run --strategy waves` first"


def test_a_method_that_is_none_is_a_usage_error(quant: CommandLine) -> None:
    assert "'luck' is not one of" in quant("validate", "-s", "waves", "--method", "luck", code=2).err


def test_verdicts_are_a_table_that_can_stand_in_a_readme(quant: CommandLine) -> None:
    stored = quant.platform.warehouse.query(
        "SELECT value, verdict FROM validation_results WHERE strategy_id = 'waves' AND measure = 'pbo'"
    ).row(0)
    quant("validate", "-s", "waves", "--method", "pbo")  # no verdict: the last one stays
    quant("backtest", "-s", "waves", "--fee-bps", "500")  # nor one on the strategy as its file has it
    lines = quant("verdicts", "--markdown").out.splitlines()
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    assert all(line.startswith("| ") and line.endswith(" |") for line in lines)
    assert cells[0] == ["strategy", "IS/OOS degradation", "walk-forward Sharpe", "walk-forward consistency", "PBO",
                        "deflated Sharpe", "DSR probability", "verdict"]  # fmt: skip
    assert set(cells[1]) == {"---"}
    rows = {cell[0]: cell[1:] for cell in cells[2:]}
    assert sorted(rows) == ["forest", "ranks", "waves"]
    assert set(rows["forest"]) == {"not judged"}
    assert rows["waves"][3] == f"{stored[0]:.2f} {stored[1]}"
    assert rows["waves"][-1] in ("pass", "caution", "fail")
    assert "last verdicts" in quant("verdicts", "-s", "waves").out


def test_limits_come_from_the_environment_and_a_malformed_one_is_named(quant: CommandLine) -> None:
    quant.platform.extra["QUANT_VALIDATION_PBO"] = "-2,-1"
    said = quant("validate", "-s", "waves", "--method", "pbo")
    assert "pass < -2, fail > -1" in said.out
    assert "check validation.pbo fails: waves: fail" in said.out
    quant.platform.extra["QUANT_VALIDATION_PBO"] = "low"
    assert quant("validate", "-s", "waves", code=1).error.startswith("QUANT_VALIDATION_PBO: ")


def test_daily_keeps_a_recent_verdict_and_backtest_makes_a_new_one(quant: CommandLine) -> None:
    count = "SELECT count(DISTINCT run_id) FROM validation_results WHERE strategy_id = 'waves'"
    assert quant.platform.warehouse.query(count).item() == 1
    quant("daily", "-s", "waves", "--asof", "2023-08-31")
    backtests = "SELECT count(*) FROM backtest_summary WHERE strategy_id = 'waves'"
    assert quant.platform.warehouse.query(backtests).item() == 2
    assert quant.platform.warehouse.query(count).item() == 1
    said = quant("backtest", "-s", "waves")
    assert quant.platform.warehouse.query(count).item() == 2
    assert "verdict" in said.out
