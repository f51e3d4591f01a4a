"""The command line as a user meets it: every command launches real runs, says what changed, and ends with a code."""

import re
import shutil
import signal
from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
import pytest

from quant_assets.cli import app as commands
from quant_assets.warehouse import Warehouse
from quant_assets_tests.command_line import CommandLine, two_months
from quant_assets_tests.platform import (
    DAGSTERS_OWN,
    END,
    LISTED,
    LISTED_LATE,
    START,
    SYMBOLS,
    Platform,
    small_platform,
)
from quant_assets_tests.standins import INVALID, AlphaVantage, Bar, Reply

pytestmark = [pytest.mark.slow, *DAGSTERS_OWN]

COMMANDS = [
    ["env"],
    ["lab"],
    ["impact"],
    ["init-db"],
    ["symbols", "list"],
    ["symbols", "search"],
    ["symbols", "add"],
    ["ingest"],
    ["features"],
    ["labels"],
    ["train"],
    ["score"],
    ["recommend"],
    ["backtest"],
    ["validate"],
    ["verdicts"],
    ["sweep"],
    ["compare"],
    ["trials"],
    ["factors"],
    ["pipeline", "run"],
    ["daily"],
    ["marts"],
    ["runs"],
    ["events"],
    ["trace"],
    ["check", "leakage"],
    ["db", "compact"],
]
SECRET = "SK-live-9d2f"


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return two_months(tmp_path)


@pytest.fixture
def quant(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(platform, monkeypatch)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """A platform on which the whole pipeline has run; `lines` of its output lie in `out.txt`."""
    small = small_platform(tmp_path_factory.mktemp("finished"))
    (small.root / "out.txt").write_text(small.quant("pipeline", "run").stdout)
    return small


@pytest.fixture
def done(finished: Platform, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    """A copy of `finished` to give commands to."""
    shutil.copytree(finished.root, tmp_path / "copy")
    return CommandLine(Platform(tmp_path / "copy"), monkeypatch)


def count(platform: Platform, sql: str) -> int:
    return int(platform.warehouse.query(sql).item())


# without a run


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_every_command_explains_itself(quant: CommandLine, words: list[str]) -> None:
    said = quant(*words, "--help")
    assert f"Usage: root {' '.join(words)}" in " ".join(said.out.split())
    assert said.err == ""


def test_a_command_that_is_none_is_a_usage_error(quant: CommandLine) -> None:
    said = quant("nonsense", code=2)
    assert "No such command 'nonsense'" in said.err


def test_env_prints_what_dagster_needs_and_no_secret(quant: CommandLine) -> None:
    quant.platform.extra["ALPHA_VANTAGE_API_KEY"] = SECRET
    said = quant("env")
    assert f"export QUANT_HOME={quant.platform.home}" in said.out
    assert f"export QUANT_DAGSTER={quant.platform.dagster}" in said.out
    assert "export DAGSTER_HOME=" in said.out
    assert SECRET not in said.out + said.err


def test_init_db_makes_the_tables_once(quant: CommandLine) -> None:
    said = quant("init-db")
    made = int(re.search(r"(\d+) table\(s\) created", said.out)[1])  # type: ignore[index]
    assert made > 10
    assert "0 table(s) created" in quant("init-db").out


def test_a_fresh_home_lists_the_universe_without_bars(quant: CommandLine) -> None:
    said = quant("symbols", "list")
    assert re.search(r"small 1\.0\.0 \(files\)", said.out)
    rows = [line.split() for line in said.out.splitlines() if line.strip().startswith(("AAA", "BBB", "CCC"))]
    assert rows == [
        ["AAA", "2023-01-03", "2023-02-28", "-", "-", "0"],
        ["BBB", "2023-01-03", "2023-02-28", "-", "-", "0"],
        ["CCC", "2023-02-15", "2023-02-28", "-", "-", "0"],
    ]


def test_a_fresh_home_has_no_runs_and_says_how_to_make_one(quant: CommandLine) -> None:
    assert quant("runs").out == "no runs yet; `quant pipeline run` makes the first ones\n"


def test_search_asks_the_universes_provider(quant: CommandLine) -> None:
    said = quant("symbols", "search", "aa")
    assert "files: 1 match(es)" in said.out
    assert "AAA" in said.out


def test_an_added_symbol_raises_the_universes_version(quant: CommandLine) -> None:
    said = quant("symbols", "add", "ddd", "--from", "2023-02-01", "--name", "D Corp")
    assert "DDD added, now version 1.1.0 with 4 symbols" in said.out
    assert "DDD" in quant("symbols", "list").out


def test_a_symbol_that_is_there_is_not_added_again(quant: CommandLine) -> None:
    path = quant.platform.strategies / "universes" / "small.yaml"
    before = path.read_text()
    assert "AAA is in universe small 1.0.0 already" in quant("symbols", "add", "AAA", code=1).error
    assert path.read_text() == before


def test_an_error_that_is_none_of_ours_is_one_line_and_a_traceback_in_a_file(
    quant: CommandLine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(self: Warehouse) -> list[str]:
        raise RuntimeError(f"the moon, {SECRET}\nsecond line")

    monkeypatch.setattr(Warehouse, "prepare", broken)
    quant.platform.extra["ALPHA_VANTAGE_API_KEY"] = SECRET
    error = quant("init-db", code=1).error
    trace = quant.platform.home / "last_error.txt"
    assert error == f"RuntimeError: the moon, ***; traceback: {trace}"
    assert "in broken" in trace.read_text()
    assert SECRET not in trace.read_text()


def test_ctrl_c_outside_a_run_ends_with_130(quant: CommandLine, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self: Warehouse) -> list[str]:
        raise KeyboardInterrupt

    monkeypatch.setattr(Warehouse, "prepare", interrupted)
    assert quant("init-db", code=130).error.startswith("interrupted")


# runs of the market stage


def test_ingest_is_a_run_in_run_storage_and_says_what_it_changed(quant: CommandLine) -> None:
    said = quant("ingest", "--symbols", "AAA,CCC", "--from", "2023-02-01", "--to", "2023-02-27")
    first, second = quant.runs()
    assert {run.status for run in (first, second)} == {dg.DagsterRunStatus.SUCCESS}
    assert first.tags["quant/pipeline"] == second.tags["quant/pipeline"]
    assert f"run {first.run_id}: succeeded; partitions: ohlcv 18" in said.out
    assert "rows written (held): ohlcv 26 (26), corporate_actions 0 (0), quarantine 0 (0)" in said.out
    assert "ohlcv: 2023-02-01..2023-02-27 x AAA" in said.err


def test_dates_that_are_no_session_are_snapped_and_said(quant: CommandLine) -> None:
    said = quant("ingest", "--symbols", "AAA", "--from", "2023-01-07", "--to", "2023-01-16")
    assert "from 2023-01-07 is no session of universe small: using 2023-01-09" in said.out
    assert "to 2023-01-16 is no session of universe small: using 2023-01-13" in said.out
    assert count(quant.platform, "SELECT count(*) FROM ohlcv") == 5


@pytest.mark.slow
def test_what_is_there_is_not_ingested_again_unless_forced(quant: CommandLine) -> None:
    quant("ingest", "--symbols", "AAA")
    assert "nothing missing: ohlcv 2023-01-03..2023-02-28 for 1 symbol(s)" in quant("ingest", "--symbols", "AAA").out
    assert len(quant.runs()) == 1
    quant("ingest", "--symbols", "AAA", "--force")
    assert len(quant.runs()) == 2


def test_features_need_bars(quant: CommandLine) -> None:
    error = quant("features", code=1).error
    assert error == ("no bars ingested from 2023-01-03 to 2023-02-28 for AAA, BBB, CCC; run `quant ingest` first")
    assert quant.runs() == []


@pytest.mark.slow
def test_labels_of_the_symbols_that_have_bars_are_computed_and_the_others_named(quant: CommandLine) -> None:
    quant("ingest", "--symbols", "BBB")
    said = quant("labels")
    assert "no bars ingested from 2023-01-03 to 2023-02-28 for AAA, CCC: left out" in said.err
    assert "partitions: labels 39" in said.out


@pytest.mark.slow
def test_features_of_bars_ingested_anew_are_out_of_date(quant: CommandLine) -> None:
    quant("ingest", "--symbols", "AAA")
    quant("features", "--symbols", "AAA")
    assert "nothing missing" in quant("features", "--symbols", "AAA").out
    quant("ingest", "--symbols", "AAA", "--from", "2023-02-06", "--to", "2023-02-07", "--force")
    said = quant("features", "--symbols", "AAA")
    assert "features_daily: 2023-02-06..2023-02-28 x AAA" in said.err


@pytest.mark.slow
def test_piped_output_has_no_colours(quant: CommandLine) -> None:
    said = quant("ingest", "--symbols", "AAA")
    assert "\x1b" not in said.out + said.err
    assert "\x1b" not in quant("symbols", "list").out


def test_one_symbols_failure_is_told_and_leaves_the_others_stored(quant: CommandLine) -> None:
    (quant.platform.files / "BBB.csv").unlink()
    said = quant("ingest", code=1)
    assert said.error.startswith("1 symbol(s) failed (2 other(s) stored, a rerun completes what is missing): BBB: ")
    assert "no BBB.csv or BBB.parquet" in said.error
    assert "FAILED; partitions: ohlcv 78" in said.out
    assert count(quant.platform, "SELECT count(DISTINCT symbol) FROM ohlcv") == 2


def test_a_key_that_the_provider_echoes_is_never_shown_nor_stored(quant: CommandLine) -> None:
    with AlphaVantage({"AAA": [Bar("2023-01-03", 10.0)]}) as api:
        quant.platform.extra |= {
            "QUANT_PROVIDER": "alpha_vantage",
            "QUANT_ALPHA_VANTAGE_URL": api.url,
            "ALPHA_VANTAGE_API_KEY": SECRET,
        }
        api.script(Reply(f'{{"Error Message": "the key {SECRET} is odd. {INVALID}"}}'))
        said = quant("ingest", "--symbols", "AAA", code=1)
    assert "the key *** is odd" in said.error
    assert SECRET not in said.out + said.err
    found = [path for path in quant.platform.home.rglob("*") if path.is_file() and SECRET.encode() in path.read_bytes()]
    assert found == []


# blocking checks


def halve(platform: Platform, symbol: str, at: int) -> str:
    """Halve the prices of `symbol` from its session number `at` on, which the function returns."""
    path = platform.files / f"{symbol}.csv"
    bars = pl.read_csv(path).with_row_index()
    prices = pl.col("open", "high", "low", "close")
    bars.with_columns(pl.when(pl.col("index") >= at).then(prices / 2).otherwise(prices)).drop("index").write_csv(path)
    return str(bars["ts"][at])


def correct(platform: Platform, **field: object) -> None:
    symbols = [{"symbol": "AAA", **field}, "BBB", {"symbol": "CCC", "from": date(2023, 2, 15)}]
    platform.write_universe(end=date(2023, 2, 28), symbols=symbols)


@pytest.mark.slow
@pytest.mark.parametrize("field", ["splits", "real_moves"])
def test_a_jump_like_a_split_stops_the_pipeline_until_the_universe_explains_it(quant: CommandLine, field: str) -> None:
    day = halve(quant.platform, "AAA", at=15)
    said = quant("pipeline", "run", "-s", "ranks", code=1)
    assert f"check ohlcv.unadjusted_splits: 1 row(s) (symbol, ts, ratio, split): AAA {day} 0.4949 2; " in said.error
    assert "under the symbol's `splits` in the universe file" in said.error
    assert [run.status for run in quant.runs()] == [dg.DagsterRunStatus.FAILURE]
    assert "blocked by check ohlcv.unadjusted_splits" in quant("features", code=1).error
    assert count(quant.platform, "SELECT count(*) FROM labels") == 0

    known = date.fromisoformat(day)
    correct(quant.platform, **{field: [{"date": known, "ratio": 2.0}] if field == "splits" else [known]})
    quant("pipeline", "run", "-s", "ranks")
    moved = quant.platform.warehouse.query(
        "SELECT abs(feature_value) FROM features_daily WHERE symbol = 'AAA' AND feature_name = 'ret_1d' AND ts = ?",
        [known],
    ).item()
    assert (moved < 0.1) == (field == "splits")


@pytest.mark.slow
def test_a_split_taken_out_of_the_universe_file_is_taken_back(quant: CommandLine) -> None:
    day = date.fromisoformat(halve(quant.platform, "AAA", at=15))
    quant("ingest", code=1)
    correct(quant.platform, splits=[{"date": day, "ratio": 2.0}])
    quant("ingest", "--force")
    stored = quant.platform.warehouse.query("SELECT ex_date, kind, value, source FROM corporate_actions")
    assert (day, "split", 2.0, "universe") in stored.rows()
    correct(quant.platform)
    assert "unadjusted_splits" in quant("ingest", "--force", code=1).error


@pytest.mark.slow
def test_where_one_symbol_fails_the_others_are_checked_before_they_are_used(quant: CommandLine) -> None:
    day = halve(quant.platform, "AAA", at=15)
    (quant.platform.files / "CCC.csv").unlink()
    said = quant("pipeline", "run", "-s", "ranks", code=1)
    assert "no CCC.csv" in said.error
    assert f"check ohlcv.unadjusted_splits: 1 row(s) (symbol, ts, ratio, split): AAA {day}" in said.error
    assert count(quant.platform, "SELECT count(*) FROM features_daily") == 0
    assert count(quant.platform, "SELECT count(*) FROM targets") == 0


@pytest.mark.slow
def test_bars_that_passed_their_checks_are_not_fetched_again_by_the_pipeline(quant: CommandLine) -> None:
    quant("ingest")
    said = quant("pipeline", "run", "-s", "ranks")
    assert "ohlcv ..." not in said.err
    assert [sorted(key.to_user_string() for key in run.asset_selection or ()) for run in quant.runs()[1:]] == [
        ["features_daily", "labels"],
        ["backtest_summary", "predictions", "targets", "validation"],
    ]


# the whole pipeline


@pytest.mark.slow
def test_the_pipeline_shows_for_each_strategy_its_figures_report_and_run(finished: Platform) -> None:
    out = (finished.root / "out.txt").read_text()
    assert "forest 1.0.0" in out
    assert "ranks 1.0.0" in out
    reports = [Path(line.split(": ", 1)[1]) for line in out.splitlines() if line.startswith("report of ")]
    assert [path.parent.name for path in reports] == ["forest", "ranks"]
    assert all(path.is_file() for path in reports)
    runs = finished.runs()
    assert len({run.tags["quant/pipeline"] for run in runs}) == 1
    assert all(f"run {run.run_id}: succeeded" in out for run in runs)
    assert {path.stem for path in reports} <= {run.run_id for run in runs}
    assert "rows written (held): ohlcv 471 (471), labels 2,675 (2,675)" in out


@pytest.mark.slow
def test_a_second_pipeline_finds_nothing_missing_and_adds_a_set_of_backtests(done: CommandLine) -> None:
    said = done("pipeline", "run")
    assert "market stage 2023-01-03..2023-08-31: nothing missing" in said.out
    assert "backtest_summary 2 (4)" in said.out
    same = "SELECT count(DISTINCT (strategy_id, sharpe, final_equity, num_trades)) FROM backtest_summary"
    assert count(done.platform, same) == 2


@pytest.mark.slow
def test_runs_lists_the_newest_first_with_whole_ids(done: CommandLine) -> None:
    ids = [run.run_id for run in done.runs()]
    said = done("runs")
    assert [line.split()[0] for line in said.out.splitlines()[::2]] == ids[::-1]
    assert "ohlcv [2023-01-03|AAA .. 2023-08-31|CCC]  pipeline " in said.out
    assert len(done("runs", "--limit", "1").out.splitlines()) == 2


@pytest.mark.slow
def test_train_reuses_what_is_trained_already(done: CommandLine) -> None:
    said = done("train", "-s", "forest")
    assert re.search(r"universe +\d+ +2023-01-03 +\d{4}-\d\d-\d\d +0\b", said.out)
    assert "models 0 (4)" in said.out


@pytest.mark.slow
def test_a_tampered_model_fails_and_the_remedy_it_names_works(done: CommandLine) -> None:
    model = min((done.platform.home / "models").glob("*.txt"))
    before = model.read_text()
    model.write_text(before.replace("0.", "1."))
    predictions = count(done.platform, "SELECT count(*) FROM predictions")
    error = done("train", "-s", "forest", code=1).error
    assert f"model file {model} has changed: expected sha256" in error
    assert error.endswith("delete the file and rerun the training")
    assert count(done.platform, "SELECT count(*) FROM predictions") == predictions
    model.unlink()
    done("train", "-s", "forest")
    assert model.read_text() == before


@pytest.mark.slow
def test_score_shows_the_scores_of_one_session(done: CommandLine) -> None:
    said = done("score", "-s", "forest", "--asof", "2023-08-27")
    assert "asof 2023-08-27 is no session of universe small: using 2023-08-25" in said.out
    assert "forest on 2023-08-25" in said.out
    assert {line.split()[0] for line in said.out.splitlines() if line.startswith((" AAA", " BBB", " CCC"))} == {
        "AAA",
        "BBB",
        "CCC",
    }


@pytest.mark.slow
def test_recommend_decides_the_last_rebalance_on_or_before_a_date(done: CommandLine) -> None:
    stored = (
        "SELECT symbol, weight FROM targets WHERE strategy_id = 'ranks' AND \"asof\" = DATE '2023-08-25' ORDER BY 1"
    )
    before = done.platform.warehouse.query(stored)
    said = done("recommend", "-s", "ranks", "--asof", "2023-08-29")
    assert "ranks 1.0.0: targets as of 2023-08-25 (invested 100.0%, cash 0.0%)" in said.out
    assert "beyond top_k 2" in said.out
    assert done.platform.warehouse.query(stored).equals(before)


@pytest.mark.slow
def test_a_backtest_takes_other_costs_and_dates(done: CommandLine) -> None:
    done("backtest", "-s", "ranks", "--from", "2023-04-03", "--fee-bps", "50", "--initial-cash", "5000")
    newest = done.platform.warehouse.query("SELECT * FROM backtest_summary ORDER BY created_at DESC LIMIT 1").row(
        0, named=True
    )
    assert (newest["from_ts"], newest["to_ts"], newest["fee_bps"]) == (date(2023, 4, 3), END, 50.0)
    assert newest["initial_cash"] == 5000.0


@pytest.mark.slow
def test_trace_leads_from_a_target_to_the_bars_and_cuts_nothing_off(done: CommandLine) -> None:
    said = done("trace", "-s", "forest", "--symbol", "aaa")
    words = " ".join(re.sub("[│├└─]", " ", said.out).split())
    for link in ("target forest / AAA as of", "prediction AAA", "model m_", "features v1 of AAA", "bars of AAA"):
        assert link in words
    for run in done.runs()[:2]:
        assert run.run_id in words
    assert "volume_ratio_20d" in words


@pytest.mark.slow
def test_compact_keeps_every_row(done: CommandLine) -> None:
    before = done.platform.warehouse.query("SELECT * FROM targets ORDER BY ALL")
    assert re.search(r"warehouse\.duckdb: [\d.]+ MB -> [\d.]+ MB", done("db", "compact").out)
    assert done.platform.warehouse.query("SELECT * FROM targets ORDER BY ALL").equals(before)


@pytest.mark.slow
@pytest.mark.parametrize("reached", ["ohlcv ...", "labels ...", "model 3 of 6"])
def test_ctrl_c_ends_the_run_and_the_command_at_once(
    finished: Platform, tmp_path: Path, reached: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(finished.root, tmp_path / "copy")
    platform = Platform(tmp_path / "copy")
    before = len(platform.runs())
    process = platform.start(platform.command("quant_assets.cli.app", "pipeline", "run", "--force"))
    with process.stdout as output:
        lines = []
        for line in output:
            lines.append(line)
            if reached in line:
                process.send_signal(signal.SIGINT)
                reached = "\0"
    assert process.wait() == 130, "".join(lines)
    assert lines[-1] == "error: interrupted; what was stored stays, rerun to go on\n"
    new = platform.runs()[before:]
    assert new[-1].status in (dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)
    assert all(run.is_finished for run in new)


def extend(platform: Platform, last: date, *, restated: str = "") -> None:
    """Let the universe and its bars go on to `last`; the prices of `restated` are halved throughout."""
    platform.write_universe(end=last)
    for symbol in SYMBOLS:
        first = LISTED if symbol == LISTED_LATE else START
        platform.write_bars(symbol, first, last, scale=0.5 if symbol == restated else 1.0)


@pytest.mark.slow
def test_a_restated_history_is_recomputed_downstream(done: CommandLine) -> None:
    last = date(2023, 9, 15)
    extend(done.platform, last, restated="AAA")
    said = done("pipeline", "run", "-s", "ranks", "--to", str(last))
    assert "AAA: history restated" in said.err
    assert "BBB: 10 new bars, 0 read again" in said.err
    assert "carrying on with what ingest stored or restated" in said.err
    assert "features_daily: 2023-01-03..2023-09-15 x AAA" in said.err
    older = "SELECT count(*) FROM features_daily f JOIN ohlcv o USING (symbol, ts) WHERE f.computed_at < o.ingested_at"
    assert count(done.platform, older) == 0


@pytest.mark.slow
def test_daily_makes_the_session_that_is_new_and_nothing_else(done: CommandLine) -> None:
    before = len(done.runs())
    last = date(2023, 9, 1)
    extend(done.platform, last)
    said = done("daily", "-s", "ranks", "--asof", str(last))
    assert "partitions: ohlcv 3, features_daily 3, labels 3" in said.out
    assert "partitions: predictions 1, targets 1, backtest_summary 1, validation 1" in said.out
    assert len(done.runs()) == before + 2
    assert count(done.platform, f"SELECT count(*) FROM ohlcv WHERE ts = DATE '{last}'") == 3


def test_the_commands_that_exist_are_all_tested() -> None:
    app = commands.app
    groups = {group.name: group.typer_instance for group in app.registered_groups}
    found = [[command.name] for command in app.registered_commands]
    found += [[name, command.name] for name, group in groups.items() if group for command in group.registered_commands]
    assert sorted(found) == sorted(COMMANDS)
