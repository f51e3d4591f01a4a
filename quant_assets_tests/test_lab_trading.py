"""Page Trading: what led to an order, events in words, spans of states, the pictures, and the page."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest
from streamlit.testing.v1 import AppTest

from quant_assets.contracts import event_backtests, trading_events
from quant_assets.lab import event_figures, event_records
from quant_assets.lab.event_records import Run, Wanted
from quant_assets.lab.views import trading
from quant_assets.trading.events import (
    CashMovement,
    Decision,
    Degradation,
    Ended,
    Event,
    Fill,
    HandlerFailed,
    OperatingChange,
    OrderRequest,
    OrderState,
    RiskDenial,
    SafetyChange,
    Signal,
    Target,
)
from quant_assets.trading.journal import frame
from quant_assets.warehouse import published
from quant_assets_tests.lab_backtests import MADE, SESSIONS, store, whole
from quant_assets_tests.lab_platform import Lab, words
from quant_assets_tests.platform import Platform, small_platform

pytestmark = pytest.mark.slow


def at(session: int) -> int:
    day = SESSIONS[session]
    return int(datetime(day.year, day.month, day.day, tzinfo=UTC).timestamp()) * 10**9


def order(ts: int, seq: int, market: int, cause: int, number: int, kind: str = "market", symbol: str = "AAA") -> Event:
    reason = {"market": "rebalance", "stop": "stop loss", "last": "end of data"}[kind]
    return OrderRequest(ts, seq, market, cause, f"ranks-{number}", "ranks", symbol, 1, 10.0, kind, 100.0, reason)


def filled(ts: int, seq: int, market: int, cause: int, number: int, symbol: str = "AAA") -> list[Event]:
    """What follows an order that is filled at once."""
    name = f"ranks-{number}"
    return [
        OrderState(ts, seq, market, cause, name, symbol, "submitted", 0.0, ""),
        Fill(ts, seq + 1, market, cause, name, "f", symbol, 1, 10.0, 101.0, 100.0, 2.5, "rebalance"),
        OrderState(ts, seq + 2, market, seq + 1, name, symbol, "filled", 10.0, ""),
    ]


FIRST, SECOND, THIRD, LATER = at(0), at(1), at(2), at(40)
EVENTS: list[Event] = [
    Signal(FIRST, 3, 2, 2, "ranks", "AAA", 0.75),
    Signal(FIRST, 4, 2, 2, "ranks", "BBB", 0.25),
    Decision(FIRST, 5, 2, 2, "ranks", 0),
    Target(FIRST, 6, 2, 5, "ranks", "AAA", 0.5),
    # at the next close, which is decided on too: the order carries out the decision before
    Signal(SECOND, 11, 10, 10, "ranks", "AAA", 0.5),
    Decision(SECOND, 12, 10, 10, "ranks", 1),
    order(SECOND, 13, 10, 10, 1),
    *filled(SECOND, 14, 10, 13, 1),
    # ordered by the decision itself, to bring the weight of before back
    order(THIRD, 25, 20, 24, 2),
    Signal(THIRD, 23, 20, 20, "ranks", "AAA", 0.625),
    Decision(THIRD, 24, 20, 20, "ranks", 2),
    *filled(THIRD, 26, 20, 25, 2),
    order(LATER, 41, 40, 40, 3, "stop"),
    RiskDenial(LATER, 42, 40, 41, "ranks-3", "AAA", "order size", 0.9, 0.5, "0.9 of the equity exceeds 0.5"),
    OrderState(LATER, 43, 40, 42, "ranks-3", "AAA", "denied", 0.0, "too large"),
    Ended(LATER, 50, 50, 0, "BBB"),
    order(LATER, 52, 51, 51, 4, "last", "BBB"),
    OperatingChange(SECOND, 60, 10, 10, "BALANCED", "AGGRESSIVE", "calm"),
    OperatingChange(LATER, 61, 10, 10, "AGGRESSIVE", "DEFENSIVE", "drawdown"),
    SafetyChange(LATER, 62, 10, 10, "NORMAL", "WARNING", "prices are stale"),
]
EQUITY = [100_000.0 + 10 * number for number in range(60)]


def keep(platform: Platform, run_id: str, events: Sequence[Event], strategy: str = "ranks", **summary: object) -> None:
    """An event-driven backtest as a run of its own would have left it, and a published copy."""
    counts = [sum(isinstance(one, kind) for one in events) for kind in (OrderRequest, Fill, RiskDenial)]
    own: dict[str, object] = dict(zip(("orders", "fills", "denials"), counts, strict=True))
    own |= {"strategy_id": strategy, "from_ts": SESSIONS[0], "to_ts": SESSIONS[59], "created_at": MADE}
    with platform.warehouse.write() as writer:
        row = whole(event_backtests.TABLE, [own | {"bars": 120, "events": 400} | summary])
        writer.append(event_backtests.TABLE, row, run_id=run_id)
        writer.append(trading_events.TABLE, frame(events, strategy), run_id=run_id)
    platform.warehouse.publish()


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """`ranks` was replayed twice, once its backtest is gone; `quiet` ordered nothing; `forest` was never replayed."""
    one = small_platform(tmp_path_factory.mktemp("replayed"))
    store(one, "back-1", EQUITY)
    store(one, "back-2", EQUITY, "forest")
    store(one, "back-3", EQUITY, "quiet")
    keep(one, "new-run", EVENTS, backtest_run_id="back-1", worst_difference=2e-16)
    apart: dict[str, Any] = {
        "worst_difference": 0.1,
        "final_equity": 90.0,
        "reference_equity": 100.0,
        "trades_differ": 3,
    }
    keep(one, "old-run", EVENTS[:10], backtest_run_id="gone", created_at=datetime(2024, 1, 1), **apart)
    many = [Signal(FIRST, seq, seq, seq, "quiet", "AAA", 1.0) for seq in range(1, 251)]
    keep(one, "quiet-run", many, "quiet", backtest_run_id="back-3", to_ts=SESSIONS[30])
    return one


@pytest.fixture
def lab(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> Lab:
    return Lab(platform, monkeypatch)


RUN = Run({"run_id": "new-run", "strategy_id": "ranks"})


@pytest.mark.parametrize(
    ("number", "seqs"),
    [
        pytest.param(1, [3, 5, 6, 13, 14, 15, 16], id="the decision before, though there is a newer one"),
        pytest.param(2, [6, 23, 24, 25, 26, 27, 28], id="its own decision, and a target of before"),
        pytest.param(3, [41, 42, 43], id="nothing asked for a stop"),
        pytest.param(4, [50, 52], id="the end of the symbol"),
        pytest.param(5, [], id="no such order"),
    ],
)
def test_the_chain_of_an_order_has_what_led_to_it_and_what_became_of_it(lab: Lab, number: int, seqs: list[int]) -> None:
    assert event_records.chain(RUN, f"ranks-{number}")["seq"].to_list() == seqs


def test_the_cause_of_an_event_is_named_and_market_data_is_told_apart(lab: Lab) -> None:
    said = event_records.in_words(event_records.chain(RUN, "ranks-1"))
    assert said["cause"].to_list()[1:5] == ["market 2", "decision 5", "market 10", "order request 13"]
    assert event_records.in_words(event_records.chain(RUN, "ranks-4"))["cause"].to_list() == ["", "market 51"]


def test_every_kind_of_event_is_said_in_words() -> None:
    more = [
        CashMovement(LATER, 70, 1, 1, "AAA", -3.5, "funding"),
        Degradation(LATER, 71, 1, 1, "NORMAL", "P3_PAUSED", 0.75),
        HandlerFailed(LATER, 72, 1, 1, "portfolio", "bar", "no price"),
        Signal(LATER, 73, 1, 1, "ranks", "AAA", float("nan")),
        Target(LATER, 74, 1, 1, "ranks", "AAA", 12.0, "shares"),
    ]
    rows = frame([*EVENTS, *more], "ranks")
    said = {row["seq"]: event_records.told(row) for row in rows.iter_rows(named=True)}
    expected = {
        3: "score 0.75",
        5: "all signals of this time are out",
        6: "50.00% of the equity",
        13: "buy 10 shares, market at 100: rebalance",
        14: "submitted",
        15: "buy 10 shares at 101, fees 2.50: rebalance",
        16: "filled, 10 shares so far",
        42: "order size: 0.9 of the equity exceeds 0.5",
        43: "denied: too large",
        50: "has no bars any more",
        61: "DEFENSIVE: drawdown",
        62: "WARNING: prices are stale",
        70: "-3.50: funding",
        71: "P3_PAUSED at load 0.75",
        72: "portfolio: no price",
        73: "score \N{EN DASH}",
        74: "12 shares",
    }
    assert {seq: said[seq] for seq in expected} == expected


@pytest.mark.parametrize(
    ("wanted", "seqs"),
    [
        (Wanted(kinds=("fill", "ended")), [50, 27, 15]),
        (Wanted(symbols=("BBB",)), [52, 50, 4]),
        (Wanted(kinds=("decision",), first=SESSIONS[1], last=SESSIONS[1]), [12]),
        (Wanted(order="3"), [43, 42, 41]),
        (Wanted(order="ranks-4"), [52]),
        (Wanted(order="anks-4"), []),
    ],
)
def test_events_are_found_by_kind_symbol_day_and_order(lab: Lab, wanted: Wanted, seqs: list[int]) -> None:
    assert event_records.count(RUN, wanted) == len(seqs)
    assert event_records.page(RUN, wanted, 1, 10)["seq"].to_list() == seqs
    assert event_records.page(RUN, wanted, 2, 2)["seq"].to_list() == seqs[2:4]


def test_a_system_begins_balanced_and_each_change_lasts_to_the_next() -> None:
    changes = pl.DataFrame(
        [
            ("operating_change", datetime(2023, 3, 2), "AGGRESSIVE"),
            ("safety_change", datetime(2023, 3, 3), "WARNING"),
            ("operating_change", datetime(2023, 3, 4), "DEFENSIVE"),
        ],
        schema=["kind", "ts", "state"],
        orient="row",
    )
    spans = event_figures.operating_spans(changes, SESSIONS[0], datetime(2023, 3, 4).date())
    days = [datetime(2023, 3, day) for day in (1, 2, 4, 5)]
    assert spans.rows() == [
        ("BALANCED", days[0], days[1]),
        ("AGGRESSIVE", days[1], days[2]),
        ("DEFENSIVE", days[2], days[3]),
    ]
    assert event_figures.shares_of_time(spans) == {"AGGRESSIVE": 0.5, "BALANCED": 0.25, "DEFENSIVE": 0.25}
    only = event_figures.operating_spans(changes.clear(), SESSIONS[0], SESSIONS[1])
    assert event_figures.shares_of_time(only) == {"BALANCED": 1.0}


def test_the_picture_of_the_equity_has_fills_and_states_on_it(lab: Lab) -> None:
    curve = pl.DataFrame({"ts": SESSIONS[:60], "equity": EQUITY})
    changes, fills = event_records.changes(RUN), event_records.fills_of_days(RUN)
    safety = changes.filter(pl.col("kind") == "safety_change").with_columns(pl.col("ts").cast(pl.Date))
    spans = event_figures.operating_spans(changes, SESSIONS[0], SESSIONS[59])
    found = {one.name: one for one in event_figures.equity(curve, fills, spans, safety).data}
    assert set(found) == {"aggressive", "balanced", "defensive", "buys", "equity", "safety changes"}
    assert list(found["buys"].x) == SESSIONS[1:3]
    assert list(found["buys"].y) == EQUITY[1:3]
    assert found["buys"].text[0] == f"<b>1 buy(s)</b> {SESSIONS[1]}, worth 1010<br>AAA"
    assert found["safety changes"].text[0].endswith("prices are stale")
    assert len(found["equity"].x) == 60


def test_orders_of_a_month_are_stacked_by_what_became_of_them(lab: Lab) -> None:
    figure = event_figures.order_flow(event_records.orders_of_months(RUN), event_records.fills_of_months(RUN))
    found = {one.name: (list(map(str, one.x)), list(one.y)) for one in figure.data}
    assert found == {
        "orders filled": (["2023-03-01"], [2]),
        "orders denied": (["2023-04-01"], [1]),
        "orders open": (["2023-04-01"], [1]),
        "fills": (["2023-03-01"], [2]),
    }


def metrics(test: AppTest) -> dict[str, str]:
    return {one.label: one.value for one in test.metric}


def links(test: AppTest) -> list[str]:
    return [link.proto.query_string for link in test.get("page_link")]


def test_the_newest_run_is_shown_beside_the_backtest_that_it_repeats(lab: Lab) -> None:
    test = lab.draw(trading.page, strategy="ranks")
    assert test.selectbox(key="replay").options[0].startswith(f"{MADE:%Y-%m-%d %H:%M}")
    assert metrics(test) == {
        "Bars": "120",
        "Events": "400",
        "Orders": "4",
        "Fills": "2",
        "Denials": "1",
        "Parity": "differs",
        "Worst difference": "2.0e-16",
    }
    assert "It differs from the vectorised backtest: 1 order(s) were refused." in words(test)
    assert links(test)[:2] == ["runs=back-1", "strategy=ranks&run=back-1"]
    assert [one.key for one in test.get("plotly_chart")] == ["equity new-run"]
    assert "Safety state: 1 change(s)." in words(test)
    assert test.selectbox(key="strategy").options == ["forest", "quiet", "ranks"]


def test_a_run_whose_backtest_is_gone_says_so_and_shows_the_rest(lab: Lab) -> None:
    test = lab.draw(trading.page, strategy="ranks", replay="old-run")
    assert "ends at 90.00, not 100.00, 3 trade(s) are not the same." in words(test)
    assert "The backtest of run gone, which it repeats, is not stored" in words(test)
    assert "quant backtest --engine event -s ranks" in words(test)
    assert not test.get("plotly_chart")
    test.session_state["events"] = "Events"
    test.run()
    assert "1 to 10 of 10 events, the newest first" in words(test)


def test_the_order_of_a_link_is_shown_from_its_signal_to_its_fill(lab: Lab) -> None:
    test = lab.draw(trading.page, strategy="ranks", events="One order", order="ranks-1")
    assert test.selectbox(key="order").value == "ranks-1"
    assert test.dataframe[0].value["kind"].to_list() == [
        "signal", "decision", "target", "order request", "order state", "fill", "order state",
    ]  # fmt: skip
    assert f"strategy=ranks&symbol=AAA&asof={SESSIONS[0]}" in links(test)
    test.selectbox(key="order").set_value("ranks-3").run()
    assert "the price reached the level of the stop" in words(test)


def test_the_filters_of_events_are_in_the_link(lab: Lab) -> None:
    test = lab.draw(
        trading.page, strategy="ranks", events="Events", kinds="fill", since=f"{SESSIONS[1]}", until=f"{SESSIONS[1]}"
    )
    assert f"1 to 1 of 1 events ({len(EVENTS)} in the run)" in words(test)
    test.text_input(key="of").set_value("77").run()
    assert f"None of the {len(EVENTS)} events is so." in words(test)
    test.date_input(key="since").set_value(SESSIONS[50]).run()
    test.selectbox(key="strategy").set_value("quiet").run()  # which has neither the kind nor the day
    assert not test.exception


def test_many_events_are_shown_in_pages(lab: Lab) -> None:
    test = lab.draw(trading.page, strategy="quiet", events="Events")
    assert "1 to 200 of 250 events, the newest first" in words(test)
    test.pagination[0].set_value(2).run()
    assert "201 to 250 of 250 events" in words(test)
    assert test.dataframe[0].value["seq"].to_list() == list(range(50, 0, -1))


def test_orders_and_what_was_refused_by_which_rule_are_shown_by_month(lab: Lab) -> None:
    test = lab.draw(trading.page, strategy="ranks", events="Order flow")
    assert [one.key for one in test.get("plotly_chart")] == ["flow new-run"]
    assert test.dataframe[0].value["rule"].to_list() == ["order size"]


@pytest.mark.parametrize("view", ["Order flow", "One order"])
def test_a_run_without_orders_points_to_the_targets(lab: Lab, view: str) -> None:
    test = lab.draw(trading.page, strategy="quiet", events=view)
    assert "This run ordered nothing" in words(test)
    assert metrics(test)["Parity"] == "equal"


def test_the_equity_of_a_run_without_fills_is_drawn(lab: Lab) -> None:
    test = lab.draw(trading.page, strategy="quiet")
    assert "Nothing was filled in this run." in words(test)
    assert [one.key for one in test.get("plotly_chart")] == ["equity quiet-run"]


def test_a_strategy_that_was_never_replayed_says_how(lab: Lab) -> None:
    test = lab.draw(trading.page, strategy="forest")
    assert "forest has no event-driven backtest yet" in words(test)
    assert "quant backtest --engine event -s forest" in words(test)
    assert [button.disabled for button in test.button] == [True, True, True]


def test_an_empty_warehouse_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = Lab(small_platform(tmp_path), monkeypatch).draw(trading.page)
    assert "quant pipeline run" in words(test)
    assert [button.disabled for button in test.button] == [True, True, True]


def test_a_copy_from_before_there_were_event_driven_backtests_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = small_platform(tmp_path)
    store(old, "back-1", EQUITY)
    with duckdb.connect(published.current(old.warehouse.path)) as copy:
        copy.execute("DROP TABLE event_backtests")
    assert "ranks has no event-driven backtest yet" in words(Lab(old, monkeypatch).draw(trading.page))
