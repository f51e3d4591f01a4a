"""Bad input: one clear line with the value, the limit and the remedy, a code that is not 0, and nothing stored half."""

import subprocess
import sys
import textwrap
from collections.abc import Callable
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from filelock import FileLock

from quant_assets_tests.command_line import CommandLine, two_months
from quant_assets_tests.platform import DAGSTERS_OWN, Platform

pytestmark = [pytest.mark.slow, *DAGSTERS_OWN]

Spoil = Callable[[Platform], None]


@pytest.fixture
def platform(tmp_path: Path) -> Platform:
    return two_months(tmp_path)


@pytest.fixture
def quant(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    return CommandLine(platform, monkeypatch)


def rows(platform: Platform, table: str = "ohlcv") -> int:
    return platform.warehouse.query(f"SELECT * FROM {table}").height


def append(path: str, text: str) -> Spoil:
    def spoil(platform: Platform) -> None:
        with (platform.strategies / path).open("a") as file:
            file.write(text)

    return spoil


def replace(path: str, old: str, new: str) -> Spoil:
    def spoil(platform: Platform) -> None:
        file = platform.strategies / path
        assert old in file.read_text()
        file.write_text(file.read_text().replace(old, new))

    return spoil


def environment(**variables: str) -> Spoil:
    return lambda platform: platform.extra.update(variables)


def together(*spoils: Spoil) -> Spoil:
    def spoil(platform: Platform) -> None:
        for one in spoils:
            one(platform)

    return spoil


UNIVERSE = "universes/small.yaml"

FILES = {
    "yaml that is none": (append("ranks.yaml", "a: [b"), ["ranks.yaml, line ", "not valid YAML", "correct the line"]),
    "unknown field": (
        append("ranks.yaml", "colour: red\n"),
        ["ranks.yaml, line ", "colour: unknown field; known here: strategy_id"],
    ),
    "missing feature version": (
        replace("ranks.yaml", "feature_version: v1", "feature_version: v9"),
        ["ranks.yaml, line ", "signal.inputs.feature_version: version 'v9' is unknown; use one of: v1"],
    ),
    "missing feature": (
        replace("ranks.yaml", "ret_5d", "ret_6d"),
        ["signal.inputs.feature_name: 'ret_6d' is not in the set; use one of: ret_1d"],
    ),
    "no such date": (
        replace("ranks.yaml", "2023-02-01", "2023-02-30"),
        ["ranks.yaml, line ", "2023-02-30 is no value: day is out of range for month"],
    ),
    "dates of a file reversed": (
        lambda platform: platform.write_strategy("ranks", backtest={"from": date(2023, 3, 1), "to": date(2023, 2, 1)}),
        ["dates reversed: from 2023-03-01 is after to 2023-02-01; swap them"],
    ),
    "strategy on a universe that is none": (
        replace("ranks.yaml", "universe: small", "universe: nowhere"),
        ["universe 'nowhere' is unknown; use one of: small"],
    ),
    "strategy with a symbol that is none": (
        replace("ranks.yaml", "universe: small", "universe: {symbols: [ZZZ]}"),
        ["ZZZ not in market universe small; use its symbols (AAA, BBB, CCC) or add the symbol to it"],
    ),
    "empty universe": (
        lambda platform: platform.write_universe(symbols=[]),
        ["small.yaml, line ", "symbols: no symbols; list at least one"],
    ),
    "unknown calendar": (
        replace(UNIVERSE, "XNYS", "XNOWHERE"),
        ["calendar 'XNOWHERE' is unknown; use an ISO 10383 exchange code"],
    ),
    "a split that cannot be": (
        lambda platform: platform.write_universe(
            symbols=[{"symbol": "AAA", "splits": [{"date": date(2023, 2, 1), "ratio": 0.0}]}]
        ),
        ["symbols.0.splits.0.ratio", "greater than 0", "got 0.0"],
    ),
    "unknown market": (
        environment(QUANT_MARKET="nowhere"),
        ["QUANT_MARKET is 'nowhere'", "nowhere.yaml does not exist (there are: small)"],
    ),
    "no strategies folder": (
        environment(QUANT_STRATEGIES_DIR="/nowhere"),
        ["/nowhere/universes/small.yaml does not exist (there are: none)"],
    ),
    "a variable that is no number": (
        environment(QUANT_LOCK_TIMEOUT_SECONDS="soon"),
        ["QUANT_LOCK_TIMEOUT_SECONDS: ", "(got 'soon'); correct it in the environment or .env"],
    ),
    "a variable out of range": (
        environment(QUANT_ALPHA_VANTAGE_PER_DAY="0"),
        ["QUANT_ALPHA_VANTAGE_PER_DAY: Input should be greater than or equal to 1 (got '0')"],
    ),
}


@pytest.mark.parametrize("what", FILES)
def test_a_file_or_setting_that_cannot_be_used_is_named_before_any_run(quant: CommandLine, what: str) -> None:
    spoil, words = FILES[what]
    spoil(quant.platform)
    error = quant("pipeline", "run", code=1).error
    assert [word for word in words if word not in error] == [], error
    assert quant.runs() == []
    assert not (quant.platform.home / "warehouse.duckdb").exists()


ARGUMENTS = {
    "ingest --symbols AAA,ZZZ": "symbol ZZZ is not in universe small (AAA, BBB, CCC); add it with `quant symbols add`",
    "ingest --symbols ,": "symbol (none given) is not in universe small",
    "ingest --from 2023-02-10 --to 2023-02-01": "from 2023-02-10 is after to 2023-02-01; swap them",
    "ingest --to 2022-12-30": "2022-12-30 lies outside universe small, which has 2023-01-03 to 2023-02-28; choose",
    "features --from 2023-03-01 --to 2023-03-31": "2023-03-01..2023-03-31 lies outside universe small",
    "labels --from 2023-02-18 --to 2023-02-20": "no XNYS session between 2023-02-18 and 2023-02-20",
    "recommend -s nope": "strategy 'nope' is unknown; use one of: forest, ranks",
    "recommend -s ranks --asof 2022-12-30": "asof 2022-12-30 lies before universe small, which has 2023-01-03",
    "train -s ranks": "strategy ranks ranks by a feature and has no model; choose one with model_score",
    "score -s ranks": "strategy ranks ranks by a feature and has no model; choose one with model_score",
    "backtest -s ranks --to 2023-01-20": "to 2023-01-20 lies before from 2023-02-01 of strategy ranks's file; give",
    "trace -s ranks --symbol AAA": "ranks has no target for AAA on or before today; run `quant pipeline run",
    "symbols add a!": "symbol 'A!' is not valid; use 1 to 15 capital letters",
}


@pytest.mark.parametrize("words", ARGUMENTS)
def test_an_argument_that_cannot_be_used_is_named_before_any_run(quant: CommandLine, words: str) -> None:
    assert ARGUMENTS[words] in quant(*words.split(), code=1).error
    assert quant.runs() == []


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("ingest --from 2023/02/01", "'2023/02/01' does not match"),
        ("ingest --from 2023-02-30", "'2023-02-30' does not match"),
        ("backtest --fee-bps -1", "greater than or equal to 0"),
        ("backtest --initial-cash 0", "greater than or equal to 1"),
        ("backtest --engine abacus", "'abacus' is not one of 'kernel', 'vectorbt', 'event'"),
        ("runs --limit 0", "greater than or equal to 1"),
        ("trace --symbol AAA", "Missing option '--strategy'"),
    ],
)
def test_an_argument_of_the_wrong_form_is_a_usage_error(quant: CommandLine, words: str, told: str) -> None:
    said = quant(*words.split(), code=2)
    assert told in " ".join(said.err.replace("│", " ").split())
    assert "Traceback" not in said.err


def test_a_home_below_a_file_cannot_be_written(quant: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    quant.platform.extra["QUANT_HOME"] = str(tmp_path / "file" / "home")
    assert f"cannot write beside {tmp_path}/file/home/warehouse.duckdb" in quant("init-db", code=1).error
    assert "make the folder writable or set QUANT_HOME" in quant("ingest", code=1).error


def test_a_dagster_folder_below_a_file_is_named(quant: CommandLine, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    quant.platform.extra["QUANT_DAGSTER"] = str(tmp_path / "file" / "dagster")
    error = quant("runs", code=1).error
    assert f"{tmp_path}/file/dagster (QUANT_HOME, QUANT_DAGSTER): permissions, free space" in error


PROVIDERS = {
    "unknown": (
        environment(QUANT_PROVIDER="nope"),
        "provider 'nope' is unknown; use one of sample, alpha_vantage, files, synthetic",
    ),
    "no key": (
        environment(QUANT_PROVIDER="alpha_vantage", ALPHA_VANTAGE_API_KEY=""),
        "alpha_vantage: ALPHA_VANTAGE_API_KEY is not set; put it into the environment or .env",
    ),
    "no folder": (
        environment(QUANT_FILES_DIR="/nowhere"),
        "files: /nowhere is not a folder; set QUANT_FILES_DIR to one with a CSV or Parquet each",
    ),
}


@pytest.mark.parametrize("what", PROVIDERS)
def test_a_provider_that_cannot_be_used_fails_its_run_and_stores_nothing(quant: CommandLine, what: str) -> None:
    spoil, told = PROVIDERS[what]
    spoil(quant.platform)
    assert told in quant("ingest", code=1).error
    assert rows(quant.platform) == 0


def cut(platform: Platform) -> None:
    path = platform.files / "BBB.csv"
    path.write_text(path.read_text()[:2000])


def noise(platform: Platform) -> None:
    (platform.files / "BBB.csv").write_bytes(bytes(range(256)) * 8)


def headless(platform: Platform) -> None:
    path = platform.files / "BBB.csv"
    path.write_text(path.read_text().split("\n", 1)[1])


def negative(platform: Platform) -> None:
    path = platform.files / "BBB.csv"
    pl.read_csv(path).with_columns(close=pl.lit(-1.0)).write_csv(path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (cut, "BBB.csv, line "),
        (noise, "BBB.csv: it is not UTF-8 text"),
        (headless, "BBB.csv, line 1: no column ts"),
        (negative, "BBB has 39 bad rows of 39 (limit 1)"),
    ],
    ids=["cut off", "noise", "without a head", "negative prices"],
)
def test_a_corrupt_file_costs_its_symbol_all_and_the_others_nothing(
    quant: CommandLine, spoil: Spoil, told: str
) -> None:
    spoil(quant.platform)
    assert told in quant("ingest", code=1).error
    stored = quant.platform.warehouse.query("SELECT symbol, count(*) FROM ohlcv GROUP BY symbol ORDER BY symbol")
    assert stored.rows() == [("AAA", 39), ("CCC", 9)]
    quant.platform.write_bars("BBB")
    assert "partitions: ohlcv 39" in quant("ingest").out


@pytest.mark.slow
def test_a_backtest_without_targets_names_the_dates_and_leaves_no_row(quant: CommandLine) -> None:
    quant("ingest")
    error = quant("backtest", "-s", "ranks", code=1).error
    assert error.startswith("ranks 1.0.0 has no targets from 2023-02-01 to 2023-02-28; materialise targets")
    assert rows(quant.platform, "backtest_summary") == 0


@pytest.mark.parametrize("words", ["recommend -s ranks", "train -s forest", "score -s forest"])
def test_decisions_without_features_say_what_comes_first(quant: CommandLine, words: str) -> None:
    error = quant(*words.split(), code=1).error
    assert error == "no features of version v1 are stored; materialise ohlcv and features_daily first"


# a warehouse that cannot be used


@contextmanager
def held(script: str):  # type: ignore[no-untyped-def]
    """Another process that runs `script` up to where it prints, and then waits."""
    waiting = textwrap.dedent(script) + "\nprint('held', flush=True)\nimport sys\nsys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", waiting], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        try:
            yield
        finally:
            process.communicate("")


@pytest.mark.parametrize("words", ["symbols list", "ingest"])
def test_a_warehouse_that_another_run_writes_is_waited_for_and_then_named(quant: CommandLine, words: str) -> None:
    quant("init-db")
    quant.platform.extra["QUANT_LOCK_TIMEOUT_SECONDS"] = "0.2"
    path = quant.platform.home / "warehouse.duckdb"
    with held(f"from filelock import FileLock\nlock = FileLock({f'{path}.lock'!r})\nlock.acquire()"):
        error = quant(*words.split(), code=1).error
    assert f"warehouse {path} is in use by another run for over 0.2 s; wait for it, or raise" in error
    assert FileLock(f"{path}.lock").acquire(timeout=1)
    quant.platform.extra["QUANT_LOCK_TIMEOUT_SECONDS"] = "30"
    quant(*words.split())


@pytest.mark.slow
def test_a_warehouse_open_in_another_program_is_waited_for_and_then_named(quant: CommandLine) -> None:
    quant("init-db")
    quant.platform.extra["QUANT_LOCK_TIMEOUT_SECONDS"] = "0.2"
    path = quant.platform.home / "warehouse.duckdb"
    with held(f"import duckdb\nconnection = duckdb.connect({str(path)!r})"):
        error = quant("ingest", code=1).error
    assert f"warehouse {path} is open in another program for over 0.2 s" in error
    assert "close it there and rerun" in error
    quant("ingest")


@pytest.mark.slow
@pytest.mark.parametrize("kept", [0, 4096], ids=["all of it", "all but its head"])
def test_a_corrupt_warehouse_is_named_and_left_as_it_is(quant: CommandLine, kept: int) -> None:
    quant("ingest", "--symbols", "AAA")
    path = quant.platform.home / "warehouse.duckdb"
    spoilt = path.read_bytes()[:kept] + b"spoilt" * 50_000
    path.write_bytes(spoilt)
    for words in ("symbols list", "ingest", "db compact"):
        error = quant(*words.split(), code=1).error
        assert error.startswith(f"{path} is damaged or no DuckDB database (")
        assert error.endswith("move it away and restore a copy, or rerun the pipeline")
    assert path.read_bytes() == spoilt


def test_a_damaged_run_storage_is_one_line(quant: CommandLine) -> None:
    quant("ingest", "--symbols", "AAA")
    (quant.platform.dagster / "runs.db").write_bytes(b"spoilt" * 5000)
    error = quant("runs", code=1).error
    assert "DatabaseError" in error
    assert f"{quant.platform.dagster} (QUANT_HOME, QUANT_DAGSTER): permissions, free space, damaged files" in error


@pytest.mark.slow
@pytest.mark.parametrize("limit", [20_000, 300_000, 600_000, 900_000])
def test_a_full_disk_is_told_and_the_rerun_leaves_what_an_unharmed_run_does(
    platform: Platform, tmp_path: Path, limit: int
) -> None:
    """No file may grow beyond `limit` bytes: the sizes at which storage, warehouse and event log each give up first."""
    script = f"""
        import resource, runpy, signal, sys
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
        sys.argv = ["quant", "ingest"]
        runpy.run_module("quant_assets.cli.app", run_name="__main__")
        """
    platform.write_universe()
    full = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)], env=platform.environment, capture_output=True, text=True
    )
    last = full.stderr.splitlines()[-1]
    if full.returncode:
        assert last.startswith("error: "), full.stderr
        assert "free" in last
    assert "Traceback" not in full.stdout + full.stderr
    held_rows = {
        row[0]: row[1] for row in platform.warehouse.query("SELECT symbol, count(*) FROM ohlcv GROUP BY 1").rows()
    }
    assert held_rows in ({}, {"AAA": 167, "BBB": 167, "CCC": 137})
    platform.quant("ingest")
    assert rows(platform) == 471
