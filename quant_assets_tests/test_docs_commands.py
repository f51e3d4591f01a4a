"""Every command in the documentation runs, in the order of its page, and says what the page shows."""

import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
import yaml

from quant_assets.core.calendar import trading_calendar
from quant_assets.core.settings import PROJECT_ROOT
from quant_assets_tests.browser import free_port
from quant_assets_tests.docs_pages import Command, File, apply, compare, steps
from quant_assets_tests.docs_tree import Reader, copy_tree, write_client
from quant_assets_tests.exchange import Exchange, candles
from quant_assets_tests.standins import AlphaVantage, Bar

PAGES = [
    page
    for page in (*sorted(PROJECT_ROOT.glob("*.md")), *sorted((PROJECT_ROOT / "docs").rglob("*.md")))
    if any(isinstance(step, Command) for step in steps(page.read_text(encoding="utf-8")))
]
DEMO = "quant pipeline run --strategy momentum_topk"
"""What stands for `make demo`: its command, for one strategy of the five. Run once, for all pages."""
DEMO_LOG = ".quant/demo.log"

INSTEAD = {
    "git clone <the repository's address> quant_assets": ":",
    "cd quant_assets": ":",
    "make demo": f"cat {DEMO_LOG}",
    "crontab research.cron": "sed -n 's/^[0-9]* [0-9]* . . [-0-9]* //p' research.cron | HOME=$PWD/.. sh",
}
"""Command of a page -> what is run in its place: the reader is in a copy of the repository, which has had its demo."""

ELSEWHERE = {
    ".ci/run": "what runs this test",
    "make check": ".ci/run runs it",
    "make lab": "`make dev` and `quant lab` at once; pages have both",
    "make test": "this is one of its tests",
    "make unit": "a part of `make test`",
    ".venv/bin/python docs/decisions/experiments/verdict_power.py": "two minutes; what it measures is in the page",
    "dbt build --project-dir dbt_sql --profiles-dir dbt_sql": "test_marts runs it on a small warehouse",
    "dbt docs generate --project-dir dbt_sql --profiles-dir dbt_sql": "test_marts runs it on a small warehouse",
    ".venv/bin/dbt build --project-dir dbt_sql --profiles-dir dbt_sql": "test_marts runs it on a small warehouse",
    (
        ".venv/bin/dbt docs generate --project-dir dbt_sql --profiles-dir dbt_sql"
    ): "test_marts runs it on a small warehouse",
    (
        ".venv/bin/python -c \"import duckdb; print(duckdb.connect('.quant/marts.duckdb', read_only=True)"
        ".sql('FROM strategy_leaderboard'))\""
    ): "how-to/marts.md reads the same table",
    (
        ".venv/bin/dagster asset materialize --select 'ohlcv,features_daily,labels' -m quant_assets.definitions "
        "--partition-range '2000-03-01|AAPL...2013-03-01|MSFT'"
    ): "how-to/ci.md runs it over a month",
    (
        ".venv/bin/dagster asset materialize --select 'predictions,targets,backtest_summary,validation' "
        "-m quant_assets.definitions --partition-range '2003-03-03|momentum_topk...2013-03-01|momentum_topk'"
    ): "how-to/ci.md runs it over a month",
    (
        ".venv/bin/quant pipeline run --strategy momentum_topk --from 2005-01-03 --to 2012-12-31"
    ): "tutorial.md runs its own strategy over these years",
    ".venv/bin/quant validate --strategy tsmom_us_tech": "tutorial.md validates its own strategy",
    ".venv/bin/quant validate --strategy tsmom_us_tech --method pbo": "README validates momentum_topk so",
    ".venv/bin/quant pipeline run --strategy crypto_tsmom": "it needs the network; how-to/crypto.md has a stand-in",
    (
        "QUANT_PROVIDER=synthetic QUANT_HOME=.quant/made .venv/bin/quant pipeline run --strategy crypto_tsmom"
    ): "how-to/crypto.md runs its like on fewer bars",
    ".venv/bin/quant ingest": "it needs a key and the network; how-to/alpha-vantage.md has a stand-in",
}
"""Command that this test does not run -> why."""

SERVED = {
    "make dev": "sed -i.bak 's/-p 3000/-p {port}/' Makefile && make dev",
    "quant lab": "python -m quant_assets.cli.app lab --port {port}",
}
"""Command that serves until it is stopped -> the same on another port of 127.0.0.1."""


@contextmanager
def an_api_for_a_free_key() -> Iterator[dict[str, str]]:
    """Alpha Vantage of two symbols, up to the last session that has closed."""
    calendar = trading_calendar("XNYS")
    sessions = calendar.between(date(2024, 1, 2), calendar.last_closed(datetime.now(UTC)))
    bars = [Bar(day.isoformat(), 100 + number % 7) for number, day in enumerate(sessions)]
    with AlphaVantage({"IBM": bars, "MSFT": bars}, premium=False) as api:
        yield {"QUANT_ALPHA_VANTAGE_URL": api.url, "QUANT_ALPHA_VANTAGE_PER_MINUTE": "1000"}


@contextmanager
def an_exchange() -> Iterator[dict[str, str]]:
    """An exchange with the symbols of the page about crypto universes."""
    first, late = candles(date(2023, 1, 1), 600), candles(date(2023, 3, 1), 540)
    with Exchange({"LTC/USDT": first, "XRP/USDT": first, "DOT/USDT": late}) as exchange:
        yield {"QUANT_CCXT_URL": exchange.url}


SURROUNDINGS: dict[str, Callable[[], AbstractContextManager[dict[str, str]]]] = {
    "alpha-vantage.md": an_api_for_a_free_key,
    "crypto.md": an_exchange,
}
"""Page -> what its reader has besides the repository: variables, and who stands behind them."""


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_client(tmp_path_factory.mktemp("programs"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Path:
    """A copy of the repository after `make demo`."""
    root = tmp_path_factory.mktemp("demo")
    copy_tree(root, programs)
    reader = Reader(root)
    command = ["make", "-n", "demo"]
    recipe = subprocess.run(
        command, cwd=root, env=reader.environment, capture_output=True, text=True, check=True
    ).stdout
    assert recipe.strip() == ".venv/bin/quant pipeline run"
    code, said = reader.run(f".venv/bin/{DEMO}")
    assert code == 0, said
    (root / DEMO_LOG).write_text(said)
    return root


@pytest.fixture(scope="module")
def answered() -> set[str]:
    """Commands of SERVED that a page has started: on others they would do the same."""
    return set()


@pytest.mark.thorough
@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(PROJECT_ROOT)))
def test_a_reader_can_follow_the_page(page: Path, demo: Path, answered: set[str], tmp_path: Path) -> None:
    root = tmp_path / "quant_assets"
    shutil.copytree(demo, root, symlinks=True)
    known: dict[str, str] = {}
    with ExitStack() as stack:
        surroundings = SURROUNDINGS.get(page.name)
        reader = Reader(root, stack.enter_context(surroundings()) if surroundings else {})
        for step in steps(page.read_text(encoding="utf-8")):
            if isinstance(step, File):
                apply(step, root)
                for command in _workflow(step):
                    _run(reader, command, step.line, known)
            elif step.text in SERVED:
                if step.text not in answered:
                    command, port = SERVED[step.text], free_port()
                    reader.serve(command.format(port=port), f"http://127.0.0.1:{port}")
                    answered.add(step.text)
            elif step.text not in ELSEWHERE:
                _run(reader, step.text, step.line, known, step.shown)


def _run(reader: Reader, command: str, line: int, known: dict[str, str], shown: tuple[str, ...] = ()) -> None:
    """Run one command, check what it says, and remember the ids that it gave in place of those shown."""
    text = INSTEAD.get(command, command)
    for theirs, ours in known.items():
        text = text.replace(theirs, ours).replace(theirs[:8], ours[:8])
    code, said = reader.run(text)
    failing = any(words.startswith("error: ") for words in shown)
    assert bool(code) == failing, f"line {line}: {command}: exit code {code}\n{said}"
    if shown:
        try:
            known |= compare(shown, said)
        except ValueError as error:
            raise AssertionError(f"line {line}: {command}: {error}\n{said}") from None


def _workflow(file: File) -> list[str]:
    """The commands of a CI workflow's steps, in order."""
    if not file.path.startswith(".github/workflows/"):
        return []
    jobs = yaml.safe_load(file.text)["jobs"].values()
    return [step["run"] for job in jobs for step in job["steps"] if "run" in step]


def test_a_page_is_taken_apart_into_what_its_reader_does() -> None:
    page = """
```sh
one  # with a comment
two \\
  --more
```
```console
$ three
said

$ four
```
```yaml title="a/b.yaml"
c: 1
```
  ```diff title="a/b.yaml"
  -c: 1
  +c: 2
  ```
```yaml
shown: only
```
"""
    assert list(steps(page)) == [
        Command("one", 3),
        Command("two \\\n  --more", 4),
        Command("three", 8, ("said", "")),
        Command("four", 11),
        File("a/b.yaml", "c: 1\n", 13),
        File("a/b.yaml", "-c: 1\n+c: 2\n", 16, edit=True),
    ]


@pytest.mark.parametrize(
    ("page", "words"),
    [("```\nls\n```\n", "neither commands"), ("```console\nls\n```\n", "begins with a command")],
    ids=["no language", "no prompt"],
)
def test_a_block_that_nobody_would_run_is_refused(page: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        list(steps(page))


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        ("one\ntwo", "one\n\n two \n"),
        ("...\nthree", "one\ntwo\nthree"),
        ("one\n...", "one"),
        ("a ... c", "a b c"),
        (" a   b\n ──────\n 1   2", "a b\n────────────\n1 2"),
        ("...\nsame\nlast", "same\nother\nsame\nlast"),
    ],
    ids=["spaces", "lines left out", "no more lines", "words left out", "table", "a line said twice"],
)
def test_what_is_shown_may_leave_out_only_what_it_says(shown: str, said: str) -> None:
    compare(shown.splitlines(), said)


@pytest.mark.parametrize(
    ("shown", "said", "words"),
    [
        ("one\nthree", "one\ntwo\nthree", "does not say 'three'"),
        ("one", "one\ntwo", "goes on with 'two'"),
        ("0.41 fail", "0.42 fail", "does not say '0.41 fail'"),
        ("error: ...", "", "does not say"),
    ],
    ids=["a line between", "more lines", "another figure", "nothing said"],
)
def test_what_is_shown_must_be_said(shown: str, said: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        compare(shown.splitlines(), said)


def test_ids_that_a_page_shows_stand_for_those_of_the_reader() -> None:
    theirs, ours = "1ee789b3-6048-4caa-bfdc-7b4b43c230f6", "fbd859b2-4fad-4cb2-ac72-d618284ca9d8"
    other = "00000000-4fad-4cb2-ac72-d618284ca9d8"
    assert compare(["...", f"run {theirs}", "of mine"], f"run {other}\nof others\nrun {ours}\nof mine") == {
        theirs: ours
    }


def test_an_edit_finds_its_place_or_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntwo\nthree\ntwo\n")
    apply(File("a", " one\n-two\n+2\n@@\n three\n+3\n", 1, edit=True), tmp_path)
    assert (tmp_path / "a").read_text() == "one\n2\nthree\n3\ntwo\n"
    (tmp_path / "a").write_text("one\none\n")
    for text, times in (("-four\n+4\n", 0), ("-one\n", 2)):
        with pytest.raises(ValueError, match=f"stand {times} times in a"):
            apply(File("a", text, 1, edit=True), tmp_path)


def test_commands_that_are_not_run_as_they_stand_are_on_a_page() -> None:
    told = {
        step.text for page in PAGES for step in steps(page.read_text(encoding="utf-8")) if isinstance(step, Command)
    }
    assert {*INSTEAD, *ELSEWHERE, *SERVED} - told == set()
