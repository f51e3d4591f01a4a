"""The lab's client of Dagster's server, what it starts, and the button; against a stand-in, and a real server."""

import json
import os
import signal
import socket
import subprocess
import time
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import httpx
import pytest
import streamlit as st
import yaml
from hypothesis import given, settings
from hypothesis import strategies as values
from streamlit.testing.v1 import AppTest

from quant_assets.core.calendar import trading_calendar
from quant_assets.core.settings import PROJECT_ROOT
from quant_assets.lab.dagster_api import (
    Check,
    Dagster,
    DagsterRefusedError,
    DagsterUnreachableError,
    Progress,
    Run,
    StepState,
)
from quant_assets.lab.launching import Order, decision_order, market_order, market_orders
from quant_assets.strategy.markets import RANGE_END, RANGE_START, Market, load_markets
from quant_assets_tests.lab_dagster import FakeDagster
from quant_assets_tests.lab_platform import NOBODY, Lab, words
from quant_assets_tests.platform import (
    DAGSTERS_OWN,
    END,
    MARKET_ASSETS,
    PATIENCE,
    START,
    SYMBOLS,
    Platform,
    small_platform,
)

pytestmark = [*DAGSTERS_OWN, pytest.mark.slow]

URL = "http://dagster.test"
RUN = {
    "runId": "r1",
    "jobName": "market_stage",
    "status": "SUCCESS",
    "assetSelection": [{"path": ["crypto", "ohlcv"]}, {"path": ["labels"]}],
    "tags": [{"key": "quant/period", "value": "2023-01-03..2023-01-04"}],
    "startTime": 100.0,
    "endTime": 130.5,
}


def client(answer: Callable[[str, dict[str, Any]], Any]) -> Dagster:
    """A client of a server that answers a query, by its text and its variables, with `answer` of it."""

    def serve(request: httpx.Request) -> httpx.Response:
        asked = json.loads(request.content)
        return httpx.Response(200, json={"data": {"answer": answer(asked["query"], asked["variables"])}})

    return Dagster(URL, transport=httpx.MockTransport(serve))


def saying(answer: dict[str, Any]) -> Dagster:
    return client(lambda query, variables: answer)


def breaking(error: type[httpx.HTTPError]) -> Dagster:
    def serve(request: httpx.Request) -> httpx.Response:
        raise error("no")

    return Dagster(URL, transport=httpx.MockTransport(serve))


def test_a_port_where_nobody_listens_is_no_server() -> None:
    assert not Dagster(NOBODY).alive()


@pytest.mark.parametrize(
    ("text", "answers"), [('{"dagster_version": "1.13.27"}', True), ("<html>something else</html>", False)]
)
def test_only_dagster_counts_as_a_server(text: str, answers: bool) -> None:
    dagster = Dagster(URL, transport=httpx.MockTransport(lambda request: httpx.Response(200, text=text)))
    assert dagster.alive() is answers


def test_whether_a_server_answers_is_asked_once_in_two_seconds() -> None:
    asked = []

    def serve(request: httpx.Request) -> httpx.Response:
        asked.append(request)
        return httpx.Response(200, text='{"dagster_version": "1.13.27"}')

    dagster = Dagster(URL, transport=httpx.MockTransport(serve))
    assert [dagster.alive() for _ in range(50)] == [True] * 50
    assert len(asked) == 1


def test_a_busy_server_is_a_server() -> None:
    assert breaking(httpx.ReadTimeout).alive()


def test_no_server_is_said_with_the_url_and_the_remedy() -> None:
    with pytest.raises(DagsterUnreachableError, match=rf"{URL}.*make dev.*QUANT_DAGSTER_URL"):
        breaking(httpx.ConnectError).runs()
    with pytest.raises(DagsterUnreachableError, match="make dev"):
        Dagster(URL, transport=httpx.MockTransport(lambda request: httpx.Response(404, text="<html>"))).runs()


def test_a_slow_answer_is_said_to_be_slow() -> None:
    with pytest.raises(DagsterUnreachableError, match="within 10 s; it may be busy"):
        breaking(httpx.ReadTimeout).runs()


@pytest.mark.parametrize("error", [httpx.ReadTimeout, httpx.RemoteProtocolError])
def test_a_change_that_may_have_happened_is_not_said_to_have_failed(error: type[httpx.HTTPError]) -> None:
    with pytest.raises(DagsterRefusedError, match="look there whether it has done it"):
        breaking(error).terminate("r1")


def test_runs_come_as_plain_values() -> None:
    run = Run(
        "r1",
        "market_stage",
        "SUCCESS",
        ("crypto/ohlcv", "labels"),
        {"quant/period": "2023-01-03..2023-01-04"},
        datetime.fromtimestamp(100, UTC),
        datetime.fromtimestamp(130.5, UTC),
    )
    assert saying({"__typename": "Runs", "results": [RUN]}).runs() == [run]
    assert saying({"__typename": "Run", **RUN}).run("r1") == run
    assert saying({"__typename": "RunNotFoundError", "message": "no"}).run("r1") is None
    assert saying({"__typename": "RunNotFoundError", "message": "no"}).progress("r1") is None


def test_runs_are_asked_for_by_their_tags() -> None:
    asked: list[dict[str, Any]] = []

    def answer(query: str, variables: dict[str, Any]) -> dict[str, Any]:
        asked.append(variables)
        return {"__typename": "Runs", "results": []}

    client(answer).runs(3, {"a": "b"})
    assert asked == [{"filter": {"tags": [{"key": "a", "value": "b"}]}, "limit": 3}]


def workspace(loaded: dict[str, Any]) -> dict[str, Any]:
    entries = [{"name": "quant_assets", "locationOrLoadError": loaded}]
    return {"__typename": "Workspace", "locationEntries": entries}


LOADED = {"__typename": "RepositoryLocation", "repositories": [{"name": "__repository__"}]}
NOT_LOADED = {
    "__typename": "PythonError",
    "message": "dagster._core.errors.DagsterUserCodeLoadError: it\n",
    "causes": [{"message": "quant_assets.core.errors.StrategyError: a.yaml, line 3: no such kind\n"}],
}


def test_a_launch_names_repository_job_assets_tags_and_config() -> None:
    asked = []

    def answer(query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "workspace" in query:
            return workspace(LOADED)
        asked.append(variables)
        return {"__typename": "LaunchRunSuccess", "run": {"runId": "r7"}}

    assert client(answer).launch("job", [["crypto", "ohlcv"]], {"a": "b"}, {"ops": {}}) == "r7"
    assert asked == [
        {
            "params": {
                "selector": {
                    "repositoryLocationName": "quant_assets",
                    "repositoryName": "__repository__",
                    "jobName": "job",
                    "assetSelection": [{"path": ["crypto", "ohlcv"]}],
                },
                "runConfigData": {"ops": {}},
                "executionMetadata": {"tags": [{"key": "a", "value": "b"}]},
            }
        }
    ]


@pytest.mark.parametrize(
    ("refusal", "told"),
    [
        (
            {"__typename": "RunConfigValidationInvalid", "errors": [{"message": "bad fee\n"}, {"message": "bad x"}]},
            "bad fee; bad x",
        ),
        (
            {"__typename": "PythonError", "causes": [{"message": "a.b.C: Invariant failed. Description: no job"}]},
            "no job",
        ),
        ({"__typename": "UnauthorizedError"}, "UnauthorizedError"),
    ],
)  # fmt: skip
def test_a_refusal_is_one_line_in_dagsters_words(refusal: dict[str, Any], told: str) -> None:
    dagster = client(lambda query, variables: workspace(LOADED) if "workspace" in query else refusal)
    with pytest.raises(DagsterRefusedError) as raised:
        dagster.launch("job", [], {})
    assert str(raised.value) == told


def test_a_code_location_that_cannot_be_loaded_is_said_in_our_own_words() -> None:
    broken = {"__typename": "WorkspaceLocationEntry", "locationOrLoadError": NOT_LOADED}
    dagster = client(lambda query, variables: workspace(NOT_LOADED) if "workspace" in query else broken)
    for ask in (dagster.reload, lambda: dagster.launch("job", [], {})):
        with pytest.raises(DagsterRefusedError, match=r"^a\.yaml, line 3: no such kind$"):
            ask()


def test_an_error_of_graphql_is_a_refusal() -> None:
    serve = httpx.MockTransport(lambda request: httpx.Response(400, json={"errors": [{"message": "Syntax Error\nx"}]}))
    with pytest.raises(DagsterRefusedError, match=r"^Syntax Error$"):
        Dagster(URL, transport=serve).runs()


def test_partitions_are_told_by_name_and_date() -> None:
    statuses = {
        "primaryDimensionName": "date",
        "ranges": [
            {
                "primaryDimStartKey": "2023-01-03",
                "primaryDimEndKey": "2023-01-05",
                "secondaryDim": {"materializedPartitions": ["AAA"]},
            },
            {
                "primaryDimStartKey": "2023-01-06",
                "primaryDimEndKey": "2023-01-06",
                "secondaryDim": {"materializedPartitions": ["AAA", "BBB"]},
            },
        ],
    }
    keys = [
        {"name": "date", "partitionKeys": ["2023-01-03", "2023-01-04", "2023-01-05", "2023-01-06", "2023-01-09"]},
        {"name": "symbol", "partitionKeys": ["AAA", "BBB", "CCC"]},
    ]
    node = {"__typename": "AssetNode", "partitionKeysByDimension": keys, "assetPartitionStatuses": statuses}
    assert saying(node).materialized(["ohlcv"]) == {
        "AAA": {"2023-01-03", "2023-01-04", "2023-01-05", "2023-01-06"},
        "BBB": {"2023-01-06"},
        "CCC": set(),
    }
    with pytest.raises(DagsterRefusedError, match="sweep_results is not partitioned by dates and names"):
        saying(node | {"assetPartitionStatuses": {}}).materialized(["sweep_results"])


def test_pages_of_dagsters_ui_are_named_with_what_urls_need() -> None:
    dagster = Dagster("http://127.0.0.1:3000/")
    assert dagster.run_url("r1") == "http://127.0.0.1:3000/runs/r1"
    assert dagster.asset_url(["crypto", "ohlcv"]) == "http://127.0.0.1:3000/assets/crypto/ohlcv"
    assert dagster.asset_url(["ohlcv"], "2023-01-03|BTC/USDT") == (
        "http://127.0.0.1:3000/assets/ohlcv?view=partitions&partition=2023-01-03%7CBTC%2FUSDT"
    )


# the event log


def event(kind: str, step: str | None = None, at: float = 0, **more: Any) -> dict[str, Any]:
    """An event as the server tells it; kind LOG is a line of ours."""
    names = {"ASSET_MATERIALIZATION": "MaterializationEvent"}
    told = {"eventType": None if kind == "LOG" else kind, "stepKey": step, "timestamp": str(at * 1000), "message": ""}
    return {"__typename": names.get(kind, kind), **told, "error": None, "failureMetadata": None, **more}


def materialization(asset: str) -> dict[str, Any]:
    tags = [{"key": "dagster/code_version", "value": f"version of {asset}"}]
    return event("ASSET_MATERIALIZATION", asset, assetKey={"path": [asset]}, tags=tags)


def evaluation(step: str, name: str, passed: bool, severity: str = "WARN") -> dict[str, Any]:
    told = {
        "checkName": name,
        "assetKey": {"path": [step.removesuffix("_checks")]},
        "severity": severity,
        "success": passed,
        "description": f"{name} says\nso",
    }
    return event("ASSET_CHECK_EVALUATION", step, evaluation=told)


@dataclass
class Log:
    """A server with one run, whose log may grow."""

    events: list[dict[str, Any]]
    steps: tuple[str, ...] = ("ohlcv", "ohlcv_checks", "labels")
    status: str = "STARTED"
    pages: int = 0
    told: int = 0

    def __call__(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "logsForRun" not in query:
            run = {**RUN, "status": self.status, "endTime": None if self.status == "STARTED" else 130.5}
            return {"__typename": "Run", **run, "stepKeysToExecute": list(self.steps)}
        after = json.loads(b64decode(variables["after"]))["value"]
        found = self.events[after : after + variables["limit"]]
        self.pages, self.told = self.pages + 1, self.told + len(found)
        last = min(after + len(found), len(self.events)) if found else after
        cursor = b64encode(json.dumps({"type": "STORAGE_ID", "value": last}).encode()).decode()
        more = last < len(self.events)
        return {"__typename": "EventConnection", "cursor": cursor, "hasMore": more, "events": found}

    def progress(self, before: Progress | None = None) -> Progress:
        found = client(self).progress("r1", before)
        assert found
        return found


def at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def test_a_run_that_has_not_begun_has_all_its_steps_before_it() -> None:
    progress = Log([event("RUN_ENQUEUED")], status="QUEUED").progress()
    assert [(one.step, one.state) for one in progress.steps] == [
        ("ohlcv", "WAITING"),
        ("ohlcv_checks", "WAITING"),
        ("labels", "WAITING"),
    ]


def test_progress_is_what_the_log_tells() -> None:
    log = Log(
        [
            event("RUN_START"),
            event("STEP_START", "ohlcv", 100),
            event("LOG", "ohlcv", message="1/2 AAA: 3 new bars\nmore"),
            *[materialization("ohlcv")] * 3,
            event("STEP_SUCCESS", "ohlcv", 104.5),
            event("STEP_START", "ohlcv_checks", 105),
            evaluation("ohlcv_checks", "gaps", passed=False),
            evaluation("ohlcv_checks", "contract", passed=True, severity="ERROR"),
            event("STEP_SUCCESS", "ohlcv_checks", 106),
            event("STEP_START", "labels", time.time()),
        ]
    )
    progress = log.progress()
    assert progress.steps[:2] == (
        StepState("ohlcv", "SUCCESS", 4.5, "1/2 AAA: 3 new bars", at(100)),
        StepState("ohlcv_checks", "SUCCESS", 1.0, "", at(105)),
    )
    assert progress.steps[2].state == "RUNNING"
    assert progress.steps[2].seconds == pytest.approx(0, abs=5)
    assert progress.checks == (
        Check("ohlcv", "gaps", False, "gaps says", False, "ohlcv_checks"),
        Check("ohlcv", "contract", True, "contract says", True, "ohlcv_checks"),
    )
    assert progress.failed_checks == ("ohlcv.gaps: gaps says",)
    assert progress.code_versions == {"ohlcv": "version of ohlcv"}
    assert progress.failures == ()


@pytest.mark.parametrize(
    ("failed", "told"),
    [
        ({"failureMetadata": {"description": "AAA: the key is wrong\nmore"}}, "AAA: the key is wrong"),
        ({"error": {"message": "outer", "causes": [{"message": "ValueError: inner\n"}]}}, "ValueError: inner"),
        ({"error": {"message": "ValueError: alone\n", "causes": []}}, "ValueError: alone"),
        ({"error": {"message": "dagster.DagsterExecutionInterruptedError\n", "causes": []}}, "interrupted"),
    ],
)
def test_a_failed_step_is_told_in_the_words_of_the_cause(failed: dict[str, Any], told: str) -> None:
    events = [event("STEP_START", "ohlcv", 100), event("STEP_FAILURE", "ohlcv", 101, **failed), event("RUN_FAILURE")]
    progress = Log(events, status="FAILURE").progress()
    assert progress.failures == (told,)
    assert [one.state for one in progress.steps] == ["FAILURE", "SKIPPED", "SKIPPED"]


def test_a_step_that_a_check_failed_is_told_in_the_words_of_the_check() -> None:
    events = [
        evaluation("ohlcv_checks", "gaps", passed=False),
        evaluation("ohlcv_checks", "contract", passed=False, severity="ERROR"),
        event("STEP_FAILURE", "ohlcv_checks", error={"message": "1 blocking check failed", "causes": []}),
    ]
    assert Log(events, status="FAILURE").progress().failures == ("ohlcv.contract: contract says",)


def test_a_retry_says_what_it_is_for() -> None:
    error = {"message": "x", "causes": [{"message": "quant_assets.core.errors.TransientProviderError: 503 from there"}]}
    events = [event("STEP_START", "ohlcv", 100), event("STEP_UP_FOR_RETRY", "ohlcv", 101, error=error)]
    step = Log(events).progress().steps[0]
    assert (step.state, step.said) == ("RUNNING", "503 from there; trying again")


def test_a_run_whose_process_died_has_no_running_step() -> None:
    events = [event("STEP_START", "ohlcv", 100), event("RUN_FAILURE", message="its process is gone")]
    progress = Log(events, status="FAILURE").progress()
    assert progress.failures == ("its process is gone",)
    assert progress.steps[0] == StepState("ohlcv", "FAILURE", 30.5, "", at(100))


def test_ten_years_of_materialisations_are_leapt_over() -> None:
    log = Log([])
    for step in ("ohlcv", "labels"):
        log.events += [
            event("STEP_START", step, 100),
            *[materialization(step)] * 12_590,
            event("STEP_SUCCESS", step, 110),
        ]
    log.status = "SUCCESS"
    progress = log.progress()
    assert [one.state for one in progress.steps] == ["SUCCESS", "SKIPPED", "SUCCESS"]
    assert (log.pages, log.told) < (50, 1_000)


@settings(max_examples=40)
@given(
    values.lists(values.tuples(values.integers(0, 3), values.integers(0, 900), values.booleans()), max_size=3),
    values.lists(values.integers(0, 2_500), max_size=4),
)
def test_what_is_read_bit_by_bit_is_what_is_read_at_once(steps: list[tuple[int, int, bool]], cuts: list[int]) -> None:
    events = [event("RUN_START")]
    for step, (lines, cells, good) in zip(Log([]).steps, steps, strict=False):
        events.append(event("STEP_START", step, 100))
        events += [event("LOG", step, message=f"line {number}") for number in range(lines)]
        events += [evaluation(step, f"check {number}", passed=good) for number in range(lines)]
        events += [materialization(step)] * cells
        events.append(event("STEP_SUCCESS" if good else "STEP_FAILURE", step, 100 + lines))
    progress = None
    for cut in sorted(cuts):
        progress = Log(events[:cut]).progress(progress)
    assert Log(events, status="SUCCESS").progress(progress) == Log(events, status="SUCCESS").progress()


# what is started


@pytest.fixture(scope="module")
def markets(tmp_path_factory: pytest.TempPathFactory) -> list[Market]:
    platform = small_platform(tmp_path_factory.mktemp("markets"))
    platform.write_coins()
    platform.write_strategy("coin_ranks", universe="coins", backtest={"from": date(2023, 2, 1)})
    return load_markets(platform.settings)


def test_a_market_order_covers_its_range_in_one_run(markets: list[Market]) -> None:
    order = market_order(markets[0], date(2023, 1, 4), date(2023, 2, 1), ["AAA", "BBB"], ["ohlcv", "labels"])
    assert order == Order(
        "market_stage",
        (("ohlcv",), ("labels",)),
        {RANGE_START: "2023-01-04|AAA", RANGE_END: "2023-02-01|BBB"},
        {},
        "ohlcv, labels of AAA, BBB, 2023-01-04 to 2023-02-01",
    )
    other = market_order(markets[1], date(2023, 1, 4), date(2023, 1, 8), ["ETH/USDT"])
    assert (other.job, other.assets[0]) == ("coins_market_stage", ("coins", "ohlcv"))
    assert other.tags == {RANGE_START: "2023-01-04|ETH/USDT", RANGE_END: "2023-01-08|ETH/USDT"}


def test_symbols_that_are_no_neighbours_are_ordered_apart(markets: list[Market]) -> None:
    orders = market_orders(markets[0], START, END, ["CCC", "AAA"])
    assert [(one.tags[RANGE_START][-3:], one.tags[RANGE_END][-3:]) for one in orders] == [
        ("AAA", "AAA"),
        ("CCC", "CCC"),
    ]
    assert len(market_orders(markets[0], START, END, SYMBOLS)) == 1
    assert market_orders(markets[0], START, END, []) == []


def test_a_decision_order_configures_the_backtest_that_it_contains(markets: list[Market]) -> None:
    first, last = date(2023, 3, 1), date(2023, 8, 31)
    order = decision_order(markets[0], "ranks", first, last, fee_bps=7.5, engine=None)
    period = {"from_date": "2023-03-01", "to_date": "2023-08-31"}
    assert order.job == "ranks"
    assert order.config == {"ops": {"backtest_summary": {"config": {**period, "fee_bps": 7.5}}}}
    assert order.tags == {RANGE_START: "2023-03-01|ranks", RANGE_END: "2023-08-31|ranks"}
    assert decision_order(markets[0], "ranks", first, last, ["targets"]).config == {}
    coins = decision_order(markets[1], "coin_ranks", date(2023, 2, 1), date(2023, 4, 30))
    assert list(coins.config["ops"]) == ["coins__backtest_summary"]
    assert coins.assets[0] == ("coins", "predictions")


# the button

ORDERS = [
    Order("market_stage", (("ohlcv",),), {RANGE_START: "a", RANGE_END: "b"}, what="bars"),
    Order("ranks", (("targets",),), {RANGE_START: "c", RANGE_END: "d"}, what="decisions"),
]


def button_page() -> None:
    from quant_assets.lab.launching import run_button
    from quant_assets_tests.test_lab_dagster import ORDERS

    run_button("Go", ORDERS, "trial")


def follow_page() -> None:
    from quant_assets.lab.launching import follow

    follow("run-1")


def drawn(page: Callable[[], None], **picked: str) -> AppTest:
    test = AppTest.from_function(page, default_timeout=30)
    for name, value in picked.items():
        test.query_params[name] = value
    return again(test)


def again(test: AppTest) -> AppTest:
    """The page a second later."""
    test.run()
    assert not test.exception, test.exception
    return test


def click(test: AppTest, key: str) -> AppTest:
    test.button(key).click()
    return again(test)


@pytest.fixture
def dagster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDagster:
    """A server that answers, and the lab pointed at it."""
    fake = FakeDagster()
    Lab(Platform(tmp_path), monkeypatch, dagster=fake)
    return fake


def test_the_button_starts_the_next_run_after_the_first_has_succeeded(dagster: FakeDagster) -> None:
    page = drawn(button_page)
    assert dagster.launched == []
    click(page, "trial start")
    assert [one.job for one in dagster.launched] == ["market_stage"]
    assert dagster.launched[0].tags == {RANGE_START: "a", RANGE_END: "b", "quant/lab": "trial"}
    assert page.button("trial start").disabled
    again(page)
    assert "Running" in words(page)
    assert len(dagster.launched) == 1
    again(page)
    assert [one.job for one in dagster.launched] == ["market_stage", "ranks"]
    again(again(page))
    assert "the page shows the new data" in page.success[0].value
    assert [one.value for one in page.text] == ["bars", "decisions"]
    assert not page.button("trial start").disabled
    again(again(page))
    assert len(dagster.launched) == 2


def test_what_has_ended_can_be_started_anew(dagster: FakeDagster) -> None:
    page = click(drawn(button_page), "trial start")
    for _ in range(5):
        again(page)
    click(page, "trial start")
    assert [one.job for one in dagster.launched] == ["market_stage", "ranks", "market_stage"]
    assert page.query_params["run"] == "run-3"


def test_a_failure_stops_and_says_its_words(dagster: FakeDagster) -> None:
    dagster.fails["market_stage"] = "AAA: the key is *wrong*"
    page = again(again(click(drawn(button_page), "trial start")))
    assert [one.job for one in dagster.launched] == ["market_stage"]
    assert page.code[0].value == "AAA: the key is *wrong*"
    assert "Mend what it says, then start it again" in page.error[0].value
    assert "1 of 2 runs were not started" in words(page)
    assert not page.button("trial start").disabled


def test_a_refused_launch_says_why(dagster: FakeDagster) -> None:
    dagster.refuses = "no such job"
    page = click(drawn(button_page), "trial start")
    assert page.code[0].value == "no such job"
    assert not page.button("trial start").disabled


def test_without_a_server_the_button_says_how_to_start_one(dagster: FakeDagster) -> None:
    dagster.answers = False
    page = drawn(button_page)
    assert not page.button
    assert "make dev" in words(page)
    assert NOBODY in words(page)


def test_a_server_that_dies_is_asked_until_it_is_back(dagster: FakeDagster) -> None:
    page = again(click(drawn(button_page), "trial start"))
    dagster.answers = False
    again(page)
    assert "gives no answer; it is asked again" in page.warning[0].value
    dagster.answers = True
    again(page)
    assert not page.warning
    assert len(dagster.launched) == 2


def test_a_run_can_be_stopped_and_nothing_follows_it(dagster: FakeDagster) -> None:
    page = click(drawn(button_page), "trial start")
    click(page, "trial stop")
    assert dagster.terminated == ["run-1"]
    again(page)
    assert "Stopped." in page.warning[0].value
    assert len(dagster.launched) == 1


def test_a_stop_that_nobody_heard_can_be_asked_for_again(dagster: FakeDagster) -> None:
    page = click(drawn(button_page), "trial start")
    dagster.answers = False
    click(page, "trial stop")
    assert not page.button("trial stop").disabled
    dagster.answers = True
    click(page, "trial stop")
    assert dagster.terminated == ["run-1"]


def test_a_page_that_is_loaded_again_goes_on_where_it_was(dagster: FakeDagster) -> None:
    page = click(drawn(button_page), "trial start")
    assert page.query_params["run"] == "run-1"
    other = again(drawn(button_page, run="run-1"))
    assert [one.job for one in dagster.launched] == ["market_stage", "ranks"]
    again(page)
    again(again(other))
    assert len(dagster.launched) == 2
    assert other.success
    assert again(page).success


def test_after_a_restart_of_the_lab_the_run_in_the_url_is_followed(dagster: FakeDagster) -> None:
    click(drawn(button_page), "trial start")
    st.cache_resource.clear()
    page = again(drawn(button_page, run="run-1"))
    assert page.success
    assert len(dagster.launched) == 1


def test_a_link_to_a_run_that_is_gone_is_ignored(dagster: FakeDagster) -> None:
    page = drawn(button_page, run="unknown")
    assert not page.button("trial start").disabled


def test_a_run_is_followed_to_its_end(dagster: FakeDagster) -> None:
    dagster.launch("ranks", [["targets"]], {})
    page = drawn(follow_page)
    assert "Running" in words(page)
    again(page)
    assert page.success
    assert [one.value for one in page.text] == ["targets"]
    assert "run" not in page.query_params


# a real server


@dataclass
class Server:
    """Dagster's web server for a small platform, with runs that start at once instead of waiting for a daemon."""

    platform: Platform
    dagster: Dagster

    def ended(self, run_id: str) -> Progress:
        """The run's progress at its end, as one sees who asks all the time."""
        return self.when(run_id, lambda progress: progress.run.finished)

    def when(self, run_id: str, reached: Callable[[Progress], bool]) -> Progress:
        until, progress = time.monotonic() + PATIENCE, None
        while time.monotonic() < until:
            progress = self.dagster.progress(run_id, progress)
            assert progress
            if reached(progress):
                return progress
            assert not progress.run.finished, progress
            time.sleep(0.2)
        raise AssertionError(f"still {progress}")

    def launch(self, order: Order) -> str:
        return self.dagster.launch(order.job, order.assets, order.tags, order.config)

    @property
    def market(self) -> Market:
        return load_markets(self.platform.settings)[0]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    root = tmp_path_factory.mktemp("server")
    platform = small_platform(root, DAGSTER_HOME=str(root))
    platform.dagster.mkdir(parents=True)
    instance = yaml.safe_load((PROJECT_ROOT / "dagster.yaml").read_text())
    instance.pop("run_queue", None)
    instance["run_coordinator"] = {"module": "dagster._core.run_coordinator", "class": "DefaultRunCoordinator"}
    (root / "dagster.yaml").write_text(yaml.safe_dump(instance))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    options = ["-h", "127.0.0.1", "-p", port, "-w", str(PROJECT_ROOT / "workspace.yaml")]
    with (root / "server.log").open("w") as log:
        process = subprocess.Popen(
            platform.command("dagster_webserver", *options),
            env=platform.environment, cwd=root, stdout=log, stderr=log, start_new_session=True,
        )  # fmt: skip
        try:
            dagster = Dagster(f"http://127.0.0.1:{port}", timeout=30)
            until = time.monotonic() + PATIENCE
            while not dagster.alive():
                assert process.poll() is None, (root / "server.log").read_text()
                assert time.monotonic() < until, "the server does not come up"
                time.sleep(0.2)
            yield Server(platform, dagster)
            dagster.close()
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(timeout=PATIENCE)


@pytest.mark.slow
def test_a_range_is_one_run_with_its_checks(server: Server) -> None:
    order = market_order(server.market, START, END, SYMBOLS)
    progress = server.ended(server.launch(order))
    assert progress.run.status == "SUCCESS", progress
    assert [(one.step, one.state) for one in progress.steps[:2]] == [("ohlcv", "SUCCESS"), ("ohlcv_checks", "SUCCESS")]
    assert {one.state for one in progress.steps} == {"SUCCESS"}
    assert "CCC" in progress.steps[0].said
    assert progress.run.assets == tuple(sorted(MARKET_ASSETS))
    assert progress.run.tags.items() >= {**order.tags, "quant/period": f"{START}..{END}"}.items()
    assert [one.run_id for one in server.dagster.runs(tags=order.tags)] == [progress.run.run_id]
    days = {day.isoformat() for day in trading_calendar("XNYS").between(START, END)}
    for asset in MARKET_ASSETS:
        assert server.dagster.materialized([asset]) == dict.fromkeys(SYMBOLS, days)
    checks = server.dagster.checks_of(progress.run.run_id)
    assert {"ohlcv", "features_daily", "labels"} == {one.asset for one in checks if one.passed and one.grave}
    nodes = server.platform.definitions().resolve_asset_graph()
    made_by = {key.to_user_string(): nodes.get(key).code_version for key in nodes.materializable_asset_keys}
    versions = server.dagster.code_versions(progress.run.run_id)
    assert versions == {asset: made_by[asset] for asset in MARKET_ASSETS}


@pytest.mark.slow
def test_config_that_does_not_fit_is_refused_in_words(server: Server) -> None:
    order = decision_order(server.market, "ranks", date(2023, 3, 1), END, speed=3)
    with pytest.raises(DagsterRefusedError, match='unexpected config entry "speed"'):
        server.launch(order)


@pytest.mark.slow
def test_a_run_that_fails_says_why(server: Server) -> None:
    order = decision_order(server.market, "ranks", date(2023, 3, 1), END, ["backtest_summary"], initial_cash=-5.0)
    progress = server.ended(server.launch(order))
    assert progress.run.status == "FAILURE"
    assert len(progress.failures) == 1
    assert "initial_cash = -5.0: input should be greater than 0" in progress.failures[0]
    assert [one.state for one in progress.steps] == ["FAILURE", "SKIPPED"]


@pytest.mark.slow
def test_a_run_can_be_ended(server: Server) -> None:
    order = market_order(server.market, START, END, SYMBOLS, ["labels"])
    with server.platform.warehouse.write():  # which the run then waits for
        run_id = server.launch(order)
        server.when(run_id, lambda progress: progress.steps[0].state == "RUNNING")
        server.dagster.terminate(run_id)
        server.when(run_id, lambda progress: progress.failures == ("interrupted",))
    assert server.ended(run_id).run.status == "CANCELED"
    with pytest.raises(DagsterRefusedError, match="could not be found"):
        server.dagster.terminate("unknown")


@pytest.mark.slow
def test_a_saved_strategy_is_there_after_a_reload_and_a_broken_one_is_refused(server: Server) -> None:
    server.platform.write_strategy("third")
    server.dagster.reload()
    assert set(server.dagster.materialized(["targets"])) == {"forest", "ranks", "third"}
    server.platform.write_strategy("third", signal={"type": "guess"})
    with pytest.raises(DagsterRefusedError, match=r"third\.yaml, line \d+, signal"):
        server.dagster.reload()
