"""Page Trades: signals behind trades, positions, stops and excursions on tiny markets, the pictures, and the page."""

from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as hst

from quant_assets.backtest.simulation import REASONS
from quant_assets.contracts import models, ohlcv, predictions, targets
from quant_assets.core.page import NONE
from quant_assets.lab import trade_charts
from quant_assets.lab.trade_records import (
    OPEN,
    STOPS,
    as_texts,
    by_symbol,
    headline,
    positions,
    stop_levels,
    with_extremes,
    with_signals,
)
from quant_assets.lab.views import trades
from quant_assets_tests.lab_backtests import SESSIONS, store, trade, whole
from quant_assets_tests.lab_platform import Lab, words
from quant_assets_tests.platform import Platform, small_platform

pytestmark = pytest.mark.slow

DAYS = SESSIONS[:8]
CLOSES = [100.0, 104.0, 96.0, 108.0, 110.0, 90.0, 120.0, 121.0]
BARS = pl.DataFrame(
    {
        "ts": DAYS,
        "open": [close - 1 for close in CLOSES],
        "high": [close + 2 for close in CLOSES],
        "low": [close - 3 for close in CLOSES],
        "close": CLOSES,
    }
)
TARGETS = pl.DataFrame(
    {
        "asof": [DAYS[4], DAYS[0], DAYS[2]],
        "weight": [0.0, 0.5, 0.4],
        "score": [None, 1.5, 2.5],
        "reason": ["no score on this date", "rank 1", "rank 2"],
    }
)


def frame(*rows):
    return pl.DataFrame(list(rows), infer_schema_length=None, schema_overrides={"exit_ts": pl.Date})


def signalled(*rows, same_session=True):
    return with_extremes(with_signals(frame(*rows), TARGETS, same_session=same_session), BARS)


def test_the_reasons_that_are_told_apart_are_those_of_the_simulation():
    assert {*STOPS, OPEN} < set(REASONS)


def test_a_fill_at_the_close_is_caused_by_the_target_of_its_own_session():
    found = signalled(trade(0, 2, 4)).row(0, named=True)
    assert (found["entry_asof"], found["entry_score"], found["entry_reason"]) == (DAYS[2], 2.5, "rank 2")
    assert (found["exit_asof"], found["exit_score"], found["exit_reason"]) == (DAYS[4], None, "no score on this date")


def test_a_fill_on_the_next_session_is_caused_by_the_target_before_it():
    found = signalled(trade(0, 2, 4), same_session=False).row(0, named=True)
    assert (found["entry_asof"], found["exit_asof"]) == (DAYS[0], DAYS[2])


def test_a_stop_and_an_open_trade_have_no_signal_that_closed_them():
    found = signalled(trade(0, 2, 4, reason="stop loss"), trade(1, 3, None))
    assert found["exit_asof"].to_list() == [None, None]
    assert found["exit_reason"].to_list() == [None, None]
    assert found["entry_asof"].to_list() == [DAYS[2], DAYS[2]]


def test_an_entry_before_all_targets_has_no_signal():
    found = with_signals(frame(trade(0, 2, 4)), TARGETS.filter(pl.col("asof") > DAYS[3]), same_session=True)
    assert found.row(0, named=True)["entry_asof"] is None
    assert with_signals(frame(trade(0, 2, 4)), TARGETS.clear(), same_session=True)["entry_reason"].to_list() == [None]


def test_the_worst_and_the_best_close_until_the_exit():
    found = with_extremes(frame(trade(0, 0, 4, exit_price=109.0)), BARS).row(0, named=True)
    assert (found["worst"], found["best"]) == pytest.approx((-0.04, 0.09))
    assert found["days"] == (DAYS[4] - DAYS[0]).days


def test_for_a_short_a_higher_price_is_worse():
    found = with_extremes(frame(trade(0, 0, 6, side="short", exit_price=95.0)), BARS).row(0, named=True)
    assert (found["worst"], found["best"]) == pytest.approx((-0.1, 0.1))


def test_an_open_trade_is_held_to_the_last_bar_and_one_of_a_session_knows_its_exit_only():
    open_one, short_one = with_extremes(frame(trade(0, 5, None), trade(1, 3, 3, exit_price=98.0)), BARS).rows(
        named=True
    )
    assert (open_one["worst"], open_one["best"]) == pytest.approx((-0.1, 0.21))
    assert open_one["days"] == (DAYS[-1] - DAYS[5]).days
    assert (short_one["worst"], short_one["best"], short_one["days"]) == (pytest.approx(-0.02), pytest.approx(-0.02), 0)
    assert with_extremes(frame(trade(0, 1, 2)).clear(), BARS).is_empty()


@given(hst.lists(hst.tuples(hst.integers(0, 6), hst.integers(1, 7)), min_size=1, max_size=20))
def test_the_return_of_the_exit_lies_between_the_worst_and_the_best(spans):
    rows = [trade(at, begin, begin + more) for at, (begin, more) in enumerate(spans) if begin + more < len(DAYS)]
    found = with_extremes(frame(*rows, trade(99, 0, 1)), BARS)
    for row in found.iter_rows(named=True):
        held = CLOSES[DAYS.index(row["entry_ts"]) : DAYS.index(row["exit_ts"])]
        assert row["worst"] == pytest.approx(min(*held, row["exit_price"]) / 100 - 1)
        assert row["worst"] <= row["exit_price"] / 100 - 1 <= row["best"]


def test_a_position_sold_in_parts_is_one_and_an_open_rest_keeps_it_open():
    found = signalled(trade(0, 0, 2), trade(1, 0, 4), trade(2, 3, 3, side="short"), trade(3, 5, 6), trade(4, 5, None))
    assert positions(found).select("side", "entry_ts", "until", "trade_no").rows() == [
        ("long", DAYS[0], DAYS[4], 0),
        ("short", DAYS[3], DAYS[3], 2),
        ("long", DAYS[5], DAYS[-1], 3),
    ]


def test_a_fixed_stop_stands_still_and_a_trailing_one_follows_the_best_price():
    row = trade(0, 1, 4, entry_price=100.0)
    fixed = stop_levels(BARS, row, {"stop_loss": 0.1}, at_open=True)
    assert fixed.rows() == [(day, pytest.approx(90.0)) for day in DAYS[1:5]]
    trailing = stop_levels(BARS, row, {"trailing_stop": 0.1}, at_open=True)
    best = [103.0, 106.0, 107.0, 110.0]  # the open of its first session, highs before each other, opens
    assert trailing["level"].to_list() == pytest.approx([0.9 * price for price in best])
    both = stop_levels(BARS, row, {"stop_loss": 0.05, "trailing_stop": 0.1}, at_open=True)
    assert both["level"].to_list() == pytest.approx([95.0, 95.4, 96.3, 99.0])


def test_of_an_entry_at_the_close_what_came_before_it_does_not_count():
    levels = stop_levels(BARS, trade(0, 1, 3), {"trailing_stop": 0.1}, at_open=False)
    assert levels["ts"].to_list() == DAYS[2:4]
    assert levels["level"].to_list() == pytest.approx([0.9 * 104, 0.9 * 107])


def test_the_stop_of_a_short_stands_above_and_falls():
    row = trade(0, 4, 6, side="short", entry_price=110.0)
    levels = stop_levels(BARS, row, {"stop_loss": 0.2, "trailing_stop": 0.1}, at_open=True)
    assert levels["level"].to_list() == pytest.approx([1.1 * 109, 1.1 * 89, 1.1 * 87])
    assert stop_levels(BARS, row, {}, at_open=True).is_empty()


def test_headline_figures_count_closed_trades_and_sum_all_profits():
    rows = [
        trade(0, 0, 2),
        trade(1, 2, 3, pnl=-50.0, pnl_pct=-0.05, reason="trailing stop"),
        trade(2, 4, None, pnl=7.0),
    ]
    assert headline(with_extremes(frame(*rows), BARS)) == {
        "Closed": "2",
        "Still open": "1",
        "Winners": "50.0%",
        "Mean return": "+2.5%",
        "Profit": "+57",
        "Median days": f"{((DAYS[2] - DAYS[0]).days + (DAYS[3] - DAYS[2]).days) / 2:.0f}",
        "By a stop": "1",
    }
    only_open = headline(with_extremes(frame(trade(0, 0, None)), BARS))
    assert (only_open["Winners"], only_open["Median days"], only_open["Still open"]) == (NONE, NONE, "1")


def test_symbols_stand_by_what_they_earned():
    rows = [trade(0, 0, 2), trade(1, 2, 3, symbol="BBB", pnl=500.0), trade(2, 4, None, pnl=-300.0)]
    assert by_symbol(frame(*rows)).select("symbol", "trades", "open", "winners", "profit").rows() == [
        ("BBB", 1, 0, 1.0, 500.0),
        ("AAA", 1, 1, 1.0, -200.0),
    ]


def test_every_column_of_a_trade_is_told_in_words():
    told = dict(as_texts(trade(3, 0, None, pnl=1234.5678, pnl_pct=0.1234)).rows())
    assert (told["trade_no"], told["pnl"], told["pnl_pct"], told["exit_ts"]) == ("3", "1,234.57", "12.34%", NONE)


def test_a_year_shows_what_was_held_in_it():
    bars = pl.DataFrame({"ts": [date(2022, 12, 30), date(2023, 3, 1), date(2023, 8, 31)]})
    assert trades.periods(bars) == ["whole period", "2023", "2022"]
    old = trade(0, 0, 1, entry_ts=date(2022, 1, 3), exit_ts=date(2022, 2, 1))
    across = trade(1, 0, 1, entry_ts=date(2022, 12, 1))
    rows = frame(old, across, trade(2, 1, None))
    assert trades.within("2023", bars, rows)[1]["trade_no"].to_list() == [1, 2]
    seen, held = trades.within("2022", bars, rows)
    assert (seen.height, held["trade_no"].to_list()) == (1, [0, 1])
    assert trades.within("whole period", bars, rows) == (bars, rows)


def test_what_a_score_is_comes_from_the_configuration():
    ranks = {"signal": {"type": "factor_rank", "inputs": {"feature_name": "ret_5d"}}}
    assert trades.signal_words(ranks) == "factor_rank, feature_name ret_5d"
    assert trades.signal_words({"signal": {"type": "model_score", "model": {"label": "x", "params": {}}}}) == (
        "model_score, label x"
    )
    assert trades.signal_words({}) == ""


def drawn(figure):
    return {one.name: one for one in figure.data}


def test_entries_exits_and_stops_are_drawn_apart_with_the_signal_in_their_hover():
    rows = [
        trade(0, 0, 2),
        trade(1, 3, 4, side="short", reason="stop loss"),
        trade(2, 5, None),
    ]
    figure = trade_charts.price(BARS, signalled(*rows), chosen=1, at_open=False)
    found = drawn(figure)
    names = {"held long", "held short", "price", "entry long", "entry short", "exit", "stop", "still open", "trade 1"}
    assert set(found) == names
    assert found["price"].type == "candlestick"
    assert list(found["entry long"].x) == [DAYS[0], DAYS[5]]
    assert list(found["entry long"].y) == [100.0, 90.0]
    assert list(found["entry long"].customdata) == [0, 2]
    assert "signal of 2023-03-01: score 1.5, weight 50.0 %<br>rank 1" in found["entry long"].text[0]
    assert found["exit"].text[0].endswith(f"signal of {DAYS[2]}: rank 2")
    assert found["stop"].text[0].startswith("<b>stop loss</b>")
    assert list(found["still open"].x) == [DAYS[-1]]
    assert list(found["trade 1"].x) == [DAYS[3], DAYS[4]]
    assert [str(day) for day in found["held long"].x[:5]] == [*(f"{DAYS[at]}" for at in (0, 0, 2, 2)), "NaT"]


def test_a_position_that_is_sold_in_parts_is_reduced_before_it_ends():
    figure = trade_charts.price(BARS, signalled(trade(0, 0, 2), trade(1, 0, 4), trade(2, 5, 6)), at_open=False)
    assert {name: list(drawn(figure)[name].customdata) for name in ("reduced", "exit")} == {
        "reduced": [0],
        "exit": [1, 2],
    }


def test_of_a_part_of_the_period_only_what_happened_in_it_is_drawn():
    rows = [trade(0, 0, 3), trade(1, 1, None), trade(2, 6, 7)]
    found = drawn(trade_charts.price(BARS[2:5], signalled(*rows), at_open=False))
    assert set(found) == {"held long", "price", "exit"}
    assert list(found["exit"].x) == [DAYS[3]]
    assert [str(day) for day in found["held long"].x[::5]] == [f"{DAYS[0]}", f"{DAYS[1]}"]


def test_an_entry_without_a_target_is_drawn_and_says_so():
    alone = with_extremes(with_signals(frame(trade(0, 0, None)), TARGETS.clear(), same_session=True), BARS)
    assert "no target is stored" in drawn(trade_charts.price(BARS, alone, at_open=True))["entry long"].text[0]


def test_thousands_of_trades_on_a_long_price_are_few_traces_and_a_line():
    days = pl.date_range(date(2000, 1, 1), date(2012, 12, 31), eager=True)
    price = np.linspace(10.0, 90.0, len(days))
    bars = pl.DataFrame({"ts": days, **dict.fromkeys(("open", "high", "low", "close"), price)})
    starts = days[: 2 * 2_000 : 2]
    rows = [trade(at, 0, 1, entry_ts=day, exit_ts=day + timedelta(1), exit_price=50.0) for at, day in enumerate(starts)]
    known = with_extremes(with_signals(frame(*rows), TARGETS, same_session=True), bars)
    found = drawn(trade_charts.price(bars, known, at_open=True))
    assert set(found) == {"held long", "close", "entry long", "exit"}
    assert len(found["close"].x) <= 2_501
    assert list(found["exit"].customdata) == list(range(2_000 - trade_charts.DRAWN, 2_000))


def test_a_close_up_has_the_signal_the_fills_and_the_stop():
    row = signalled(trade(0, 3, 4, reason="trailing stop"), same_session=False).row(0, named=True)
    figure = trade_charts.close_up(BARS, row, stop_levels(BARS, row, {"trailing_stop": 0.1}, at_open=True))
    assert set(drawn(figure)) == {"price", "stop level", "entry, average price", "trailing stop"}
    assert [note.text for note in figure.layout.annotations] == ["signal"]
    still_open = signalled(trade(0, 3, None)).row(0, named=True)
    assert set(drawn(trade_charts.close_up(BARS, still_open, BARS.clear()))) == {"price", "entry, average price"}


def test_pictures_below_split_by_reason_and_by_sign():
    found = with_extremes(frame(trade(0, 0, 2), trade(1, 2, 3, pnl=-50.0, reason="stop loss"), trade(2, 4, None)), BARS)
    assert set(drawn(trade_charts.returns(found))) == {"rebalance", "stop loss", "open"}
    assert list(drawn(trade_charts.profit(found))["sum"].y) == [100.0, 50.0]
    assert list(drawn(trade_charts.against(found, "days", "days held"))["losers"].customdata) == [1]


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """`ranks` traded AAA and BBB, its model said so; `forest` never traded; CCC has lost its bars."""
    one = small_platform(tmp_path_factory.mktemp("traded"))
    close = [100.0 + at % 20 for at in range(len(SESSIONS))]
    bars = [
        {
            "symbol": name,
            "ts": day,
            "open": price,
            "high": price + 2,
            "low": price - 2,
            "close": price,
            "source": "files",
        }
        for name in ("AAA", "BBB")
        for day, price in zip(SESSIONS, close, strict=True)
    ]
    said = {"strategy_id": "ranks", "version": "1.0.0", "asof": SESSIONS[3], "reason": "rank 1", "weight": 0.5}
    scores = [{**said, "symbol": "AAA", "score": 0.625}, {**said, "symbol": "BBB", "score": 0.25}]
    model = {"model_id": "m1", "scope": "universe", "train_to": SESSIONS[0]}
    score = {"model_id": "m1", "symbol": "AAA", "ts": SESSIONS[3], "score": 0.5, "calibrated_score": 0.625}
    with one.warehouse.write() as writer:
        writer.append(ohlcv.TABLE, whole(ohlcv.TABLE, bars), run_id="bars")
        writer.append(targets.TABLE, whole(targets.TABLE, scores), run_id="targets")
        writer.append(models.TABLE, whole(models.TABLE, [model]), run_id="models")
        writer.append(predictions.TABLE, whole(predictions.TABLE, [score]), run_id="models")
    rows = [
        trade(0, 5, 8),
        trade(1, 10, 20, reason="trailing stop", pnl=-40.0, pnl_pct=-0.04),
        trade(2, 30, None),
        trade(3, 30, None, symbol="BBB"),
        trade(4, 1, 2, symbol="CCC"),
        trade(5, 1, 2, symbol="AAA"),
    ]
    price = {"execution": {"price": "next_open"}, "exits": {"trailing_stop": 0.1}, "signal": {"type": "model_score"}}
    equity = [100_000.0] * len(SESSIONS)
    store(one, "older-run", equity, trades=rows[:1], minute=1)
    store(one, "newer-run", equity, trades=rows, params=price, minute=2)
    store(one, "idle-run", equity, "forest")
    return one


def values(test):
    return {one.label: one.value for one in test.metric}


def test_the_newest_backtest_and_its_first_symbol_are_shown(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(trades.page, strategy="ranks")
    assert test.selectbox(key="run").value == "newer-run"
    assert test.selectbox(key="symbol").options == ["AAA", "BBB", "CCC"]
    assert values(test)["Closed"] == "3"
    assert values(test)["By a stop"] == "1"
    assert test.dataframe[0].value["trade_no"].to_list() == [0, 1, 2, 5]
    assert "Click an entry, an exit or a row" in words(test)
    test.selectbox(key="run").set_value("older-run").run()
    assert values(test)["Closed"] == "1"


def test_a_trade_of_the_link_is_shown_with_its_signal_and_model(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(trades.page, strategy="ranks", trade="0")
    assert f"Trade 0: long, {SESSIONS[5]} to {SESSIONS[8]}" in words(test)
    assert dict(test.dataframe[0].value.to_numpy())["pnl_pct"] == "10.00%"
    texts = "\n".join(one.value for one in test.text)
    assert "rank 1 · weight 50.0% · score 0.625 (model_score)" in texts
    assert f"model m1 (universe, trained on sessions to {SESSIONS[0]}) said 0.5, 0.625 calibrated" in texts
    links = [link.proto.query_string for link in test.get("page_link")]
    assert f"strategy=ranks&symbol=AAA&asof={SESSIONS[3]}" in links


@pytest.mark.parametrize(
    ("number", "told"),
    [
        ("1", "It ended by: trailing stop."),
        ("2", "It is still open."),
        ("5", "No target is stored from before its entry"),
    ],
)
def test_what_no_signal_did_is_said(platform: Platform, monkeypatch: pytest.MonkeyPatch, number, told):
    test = Lab(platform, monkeypatch).draw(trades.page, strategy="ranks", trade=number)
    assert told in words(test) + "\n".join(one.value for one in test.text)


@pytest.mark.parametrize("below", ["Returns", "Profit over time", "Days held", "Excursions"])
def test_only_the_picture_that_is_picked_is_drawn(platform: Platform, monkeypatch: pytest.MonkeyPatch, below: str):
    test = Lab(platform, monkeypatch).draw(trades.page, strategy="ranks", below=below)
    assert [one.key for one in test.get("plotly_chart")][1:] == [below]


@pytest.mark.parametrize("number", ["3", "77", "x"])
def test_a_trade_that_is_not_the_symbols_is_not_shown(platform: Platform, monkeypatch: pytest.MonkeyPatch, number):
    test = Lab(platform, monkeypatch).draw(trades.page, strategy="ranks", trade=number)
    assert "Click an entry, an exit or a row" in words(test)


def test_a_strategy_that_never_traded_points_to_its_targets(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(trades.page, strategy="forest")
    assert "This backtest did not trade" in words(test)
    assert [link.proto.query_string for link in test.get("page_link")] == ["strategy=forest"]


def test_a_symbol_without_bars_says_how_to_fetch_them(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(trades.page, strategy="ranks", symbol="CCC")
    assert "No bars of CCC are stored" in words(test)
    assert "quant ingest --symbols CCC" in words(test)


def test_an_empty_warehouse_says_what_to_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert "quant pipeline run" in words(Lab(small_platform(tmp_path), monkeypatch).draw(trades.page))


def test_a_symbol_that_another_backtest_has_not_gives_way(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(trades.page, strategy="ranks", symbol="BBB")
    assert test.selectbox(key="symbol").value == "BBB"
    test.selectbox(key="run").set_value("older-run").run()
    assert not test.exception
    assert test.selectbox(key="symbol").value == "AAA"


def test_a_link_may_name_an_older_backtest(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(trades.page, strategy="ranks", run="older-run")
    assert test.selectbox(key="run").value == "older-run"
