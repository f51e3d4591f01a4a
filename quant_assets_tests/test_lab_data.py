"""Page Data: what each partition is, what is missing, a symbol's chart, and the page in all situations."""

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_assets.contracts import corporate_actions, features_daily, labels, ohlcv, quarantine
from quant_assets.core.calendar import trading_calendar
from quant_assets.core.errors import LabError
from quant_assets.features import FEATURE_SETS, compute
from quant_assets.lab import launching, notices, partitions
from quant_assets.lab.dagster_api import Dagster, Run
from quant_assets.lab.partitions import EARLY, EMPTY, MISSING, QUARANTINED, STORED, UNKNOWN
from quant_assets.lab.views import data
from quant_assets.strategy.markets import load_markets
from quant_assets.strategy.universe import Universe
from quant_assets_tests.lab_platform import Lab, words
from quant_assets_tests.platform import END, LISTED, START, Platform, bars_of, small_platform

pytestmark = pytest.mark.slow

D = [date(2024, 1, day) for day in (2, 3, 4, 5, 8)]
"""Five sessions, a weekend before the last."""
NO_BAD = pl.DataFrame(schema={"symbol": pl.String, "ts": pl.Date})


def cells_of(text: str, days: Sequence[date] = D, symbol: str = "A") -> pl.DataFrame:
    """States by letter: s stored, m missing, q quarantined, e materialised without rows, u stored but unknown."""
    names = {"s": STORED, "m": MISSING, "q": QUARANTINED, "e": EMPTY, "u": UNKNOWN}
    values = pl.Series([names[one] for one in text], dtype=pl.Enum(list(partitions.STATES)))
    return pl.DataFrame({"symbol": symbol, "ts": days[: len(text)], "state": values})


def stored(symbol: str, days: Sequence[date]) -> pl.DataFrame:
    return pl.DataFrame({"symbol": symbol, "ts": days}, schema={"symbol": pl.String, "ts": pl.Date})


def test_a_symbol_has_partitions_while_it_is_listed_and_the_first_are_not_due():
    found = partitions.partitions({"A": (D[0], None), "B": (D[1], D[3])}, D, history=1)
    assert found.rows() == [
        *[("A", day, day != D[0]) for day in D],
        ("B", D[1], False),
        ("B", D[2], True),
        ("B", D[3], True),
    ]


def test_labels_need_the_shortest_horizon_and_features_nothing():
    assert [partitions.history_needed(asset, ["v1"]) for asset in ("ohlcv", "features_daily", "labels")] == [0, 0, 5]


def test_each_partition_is_in_the_state_that_rows_quarantine_and_dagster_say():
    wanted = partitions.partitions({"A": (D[0], None)}, D, history=1)
    bad = stored("A", [D[2], D[3]])
    unasked = partitions.states(wanted, stored("A", [D[1], D[3]]), bad, None)
    assert unasked["state"].to_list() == [EARLY, STORED, QUARANTINED, STORED, MISSING]
    made = partitions.materialised({"A": {D[3].isoformat(), D[4].isoformat()}})
    asked = partitions.states(wanted, stored("A", [D[1], D[3]]), bad, made)
    assert asked["state"].to_list() == [EARLY, UNKNOWN, QUARANTINED, STORED, EMPTY]


def test_nothing_materialised_is_known_where_dagster_answers_with_nothing():
    wanted = partitions.partitions({"A": (D[0], None)}, D[:1], history=0)
    assert partitions.states(wanted, stored("A", D[:1]), NO_BAD, partitions.materialised({}))["state"][0] == UNKNOWN


@pytest.mark.parametrize(("grain", "key"), [("week", "2024-01-01"), ("month", "2024-01-01")])
def test_a_session_is_materialised_with_the_window_that_holds_it(grain: str, key: str):
    wanted = partitions.partitions({"A": (D[0], None)}, D, history=0)
    states = partitions.states(wanted, stored("A", D), NO_BAD, partitions.materialised({"A": {key}}), grain)["state"]
    assert states.to_list() == [STORED] * 4 + [STORED if grain == "month" else UNKNOWN]


def test_holes_are_runs_of_neighbouring_sessions_and_weekends_do_not_part_them():
    cells = pl.concat([cells_of("smsmm"), cells_of("smqss", symbol="B")])
    assert partitions.holes(cells).rows() == [
        ("A", D[3], D[4], 2, MISSING),
        ("B", D[2], D[2], 1, QUARANTINED),
        ("A", D[1], D[1], 1, MISSING),
        ("B", D[1], D[1], 1, MISSING),
    ]


@given(st.lists(st.sampled_from("smqeu"), min_size=1, max_size=40).map("".join))
def test_holes_hold_each_lacking_partition_once(text: str):
    days = [date(2024, 1, 1) + timedelta(days=at) for at in range(len(text))]
    found = partitions.holes(cells_of(text, days))
    covered = [
        first + timedelta(days=at)
        for _, first, last, sessions, _ in found.rows()
        for at in range((last - first).days + 1)
        if sessions
    ]
    assert sorted(covered) == [day for day, letter in zip(days, text, strict=True) if letter in "mqe"]
    assert found["sessions"].sum() == len(covered)


def test_an_ingest_covers_what_any_asset_lacks():
    first, second = partitions.holes(cells_of("ssmss")), partitions.holes(cells_of("sssmm", symbol="C"))
    assert partitions.to_ingest([first, second]) == (["A", "C"], D[2], D[4])
    assert partitions.to_ingest([partitions.holes(cells_of("sssss"))]) is None


def test_a_run_covers_the_symbols_between_those_that_are_chosen():
    assert partitions.neighbours(["A", "B", "C", "D"], ["D", "B"]) == ["B", "C", "D"]
    assert partitions.neighbours(["A", "B"], []) == []


def test_a_month_has_the_state_of_its_gravest_session():
    days = [date(2024, 1, 30), date(2024, 1, 31), date(2024, 2, 1), date(2024, 2, 2)]
    assert partitions.months(cells_of("usms", days)).rows() == [
        ("A", date(2024, 1, 1), UNKNOWN, 2, 2),
        ("A", date(2024, 2, 1), MISSING, 1, 2),
    ]


def test_a_year_has_a_state_for_each_day_up_to_the_last_session():
    year = partitions.year_of(cells_of("sm", D[1:3]), 2024, D)
    by_day = {row["day"]: row for row in year.iter_rows(named=True)}
    assert year.height == 366
    assert [by_day[day]["state"] for day in D] == ["not listed", STORED, MISSING, "not listed", "not listed"]
    assert by_day[date(2024, 1, 6)]["state"] == "no session"
    assert by_day[date(2024, 1, 9)]["state"] is None
    assert (by_day[D[4]]["week"], by_day[D[4]]["weekday"]) == (date(2024, 1, 8), 0)
    assert by_day[date(2024, 1, 7)]["week"] == date(2024, 1, 1)


def test_a_map_colours_each_state_and_names_those_it_shows():
    frame = cells_of("sm").with_columns(told=pl.col("state").cast(pl.String))
    heat, *names = partitions.state_map(frame, "ts", "symbol", ["A", "B"], height=200).data
    order = list(partitions.STATES)
    assert heat.z[0].tolist() == [order.index(STORED), order.index(MISSING)]
    assert [name.name for name in names] == [MISSING, STORED]  # the gravest first
    assert list(heat.customdata[0]) == [STORED, MISSING]
    edges = dict.fromkeys(position for position, _ in heat.colorscale)
    assert (min(edges), max(edges), len(heat.colorscale)) == (0.0, 1.0, 2 * len(order))


def test_of_many_symbols_the_map_shows_those_that_lack_most():
    cells = pl.concat([cells_of("m" if at % 2 else "s", symbol=f"S{at:02d}") for at in range(60)])
    shown = list(data.month_map(cells).data[0].y)
    assert len(shown) == 40
    assert [one for one in shown if int(one[1:]) % 2] == [f"S{at:02d}" for at in range(1, 60, 2)]
    assert shown == sorted(shown)


def test_a_years_map_leaves_out_weekends_that_are_never_sessions():
    usual = data.year_map(cells_of("sssss"), 2024, D)
    daily = [date(2024, 1, 1) + timedelta(days=at) for at in range(7)]
    always = data.year_map(cells_of("sssssss", daily), 2024, daily)
    assert [len(figure.data[0].y) for figure in (usual, always)] == [5, 7]


def universe(**changes: Any) -> Universe:
    usual = {"name": "u", "version": "1.0.0", "provider": "files", "start": D[0], "symbols": ["B", "A"]}
    return Universe(**(usual | changes))


def test_the_table_has_each_symbol_of_the_universe_with_or_without_bars():
    instant = datetime(2024, 1, 9)
    bars = pl.DataFrame(
        {"symbol": ["A"], "first": [D[0]], "last": [D[4]], "bars": [3], "ingested_at": [instant], "provider": ["x"]}
    )
    missing = partitions.holes(pl.concat([cells_of("smsms"), cells_of("mmmmm", symbol="B")]))
    table = data.symbols_table(universe(end=D[4]), bars, missing, stored("A", D[1:2]))
    assert table.rows() == [
        ("A", None, D[0], D[4], D[0], D[4], 3, 2, 1, instant, "x"),
        ("B", None, D[0], D[4], None, None, 0, 5, 0, None, None),
    ]


def test_a_bad_label_belongs_to_the_partition_on_which_it_was_known():
    rows = pl.DataFrame(
        {
            "symbol": ["A", "A"],
            "ts": [D[0], D[0]],
            "row": ['{"close": NaN, "ts": "2024-01-02"}', '{"known_on": "2024-01-08", "ts": "2024-01-02"}'],
        }
    )
    assert data.bad_partitions(rows).rows() == [("A", D[0]), ("A", D[4])]


def test_a_range_ends_at_the_last_bar():
    frame = stored("A", D)
    assert data.within(frame, 4)["ts"].to_list() == [D[3], D[4]]
    assert data.within(frame, None).height == 5
    assert data.within(frame.clear(), 4).is_empty()


def test_corporate_actions_stand_at_the_first_bar_on_or_after_their_date():
    bars = pl.DataFrame({"ts": D, "close": [1.0, 2.0, 3.0, 4.0, 5.0]})
    actions = pl.DataFrame(
        {
            "ex_date": [date(2024, 1, 6), D[1], date(2023, 12, 1), date(2024, 2, 1)],
            "kind": ["split", "dividend", "split", "split"],
            "value": [2.0, 0.25, 7.0, 3.0],
        }
    )
    assert data.events(actions, bars).rows() == [
        (D[1], 2.0, "dividend", "dividend: 0.25 per share"),
        (D[4], 5.0, "split", "split: 2 new for 1 old"),
    ]


def test_few_bars_are_candles_and_many_are_a_thinned_line():
    def kinds(bars: int) -> tuple[list[str], int]:
        days = [date(2000, 1, 1) + timedelta(days=at) for at in range(bars)]
        prices = dict.fromkeys(("open", "high", "low", "close", "volume"), [1.0] * bars)
        frame = pl.DataFrame({"ts": days, **prices})
        no_event = data.events(pl.DataFrame(schema={"ex_date": pl.Date, "kind": pl.String, "value": pl.Float64}), frame)
        feature = frame.select("ts", value="close")
        figure = data.price_figure(frame, no_event, feature, "ret_1d", every_day=True)
        return [one.type for one in figure.data], max(len(one.x) for one in figure.data)

    assert kinds(5) == (["candlestick", "bar", "scatter"], 5)
    names, points = kinds(12_001)
    assert names == ["scatter", "bar", "scatter"]
    assert points <= 5_001


def test_the_distribution_counts_each_value_once():
    (bars,) = data.distribution(pl.Series([0.0, 1.0, 1.0, None]), height=200).data
    assert sum(bars.x) == 3
    assert (bars.x[0], bars.x[-1]) == (1, 2)


def test_the_last_run_counts_as_failed_only_until_another_has_succeeded():
    def run(name: str, status: str, job: str = "market_stage") -> Run:
        return Run(name, job, status)

    def failed(*runs: Run) -> str | None:
        found = notices.last_failure(runs, lambda one: one.job == "market_stage")
        return found and found.run_id

    assert failed(run("2", "STARTED"), run("1", "FAILURE")) == "1"
    assert failed(run("2", "SUCCESS"), run("1", "FAILURE")) is None
    assert failed(run("2", "FAILURE", "other"), run("1", "SUCCESS")) is None
    assert failed() is None


class Server(Dagster):
    """Takes the place of a Dagster server: the last market run failed; of AAA all but one day is materialised."""

    def __init__(self, *, broken: bool = False) -> None:
        super().__init__("http://dagster.test")
        self.broken = broken

    def alive(self) -> bool:
        return True

    def runs(self, *_: Any, **__: Any) -> list[Run]:
        if self.broken:
            raise LabError("no answer in time")
        return [Run("r1", "market_stage", "FAILURE", ended=datetime(2023, 9, 1, 12, tzinfo=UTC))]

    def materialized(self, asset: Sequence[str]) -> dict[str, set[str]]:
        if self.broken:
            raise LabError("no answer in time")
        return {"AAA": {day.isoformat() for day in trading_calendar("XNYS").between(START, END)} - {END.isoformat()}}


@pytest.fixture
def orders(monkeypatch: pytest.MonkeyPatch) -> list[launching.Order]:
    """What the page would start."""
    shown: list[launching.Order] = []

    def button(label: str, orders: Sequence[launching.Order], key: str, *, disabled: bool = False) -> None:
        shown[:] = orders

    monkeypatch.setattr(launching, "run_button", button)
    return shown


def fill(platform: Platform, *symbols: str, without: Sequence[date] = ()) -> None:
    """Store bars, features and labels as a run would, and publish them."""
    with platform.warehouse.write() as writer:
        for symbol in symbols:
            bars = bars_of(symbol).filter(~pl.col("ts").is_in(list(without)))
            now = datetime(2023, 9, 1)
            raw = bars.with_columns(
                adjusted_close=pl.lit(None, pl.Float64), source=pl.lit("files"), ingested_at=pl.lit(now)
            )
            writer.append(ohlcv.TABLE, raw, run_id="r")
            table = features_daily.wide("v1", FEATURE_SETS["v1"].names)
            writer.ensure(table)
            writer.append(table, compute(bars, "v1").with_columns(computed_at=pl.lit(now)), run_id="r")
            label = bars.select(
                "symbol", "ts", label_name=pl.lit("fwd_ret_5d"), label_version=pl.lit("v1"), label_value=pl.lit(0.1),
                horizon=pl.lit(5, pl.Int32), known_on=pl.col("ts").shift(-5), computed_at=pl.lit(now),
            ).drop_nulls("known_on")  # fmt: skip
            writer.append(labels.TABLE, label, run_id="r")
        split = {"symbol": "AAA", "ex_date": date(2023, 8, 1), "kind": "split", "value": 2.0, "source": "files"}
        writer.append(corporate_actions.TABLE, pl.DataFrame([split | {"ingested_at": now}]), run_id="r")
        bad = {"id": "1", "table_name": "ohlcv", "symbol": "AAA", "ts": END, "rule": "low is above high", "row": "{}"}
        writer.append(quarantine.TABLE, pl.DataFrame([bad | {"seen_at": now}]), run_id="r")
    platform.warehouse.publish()


HOLE = date(2023, 6, 1)


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """Two markets: of `small` AAA and BBB are stored but for one session, of `coins` nothing."""
    one = small_platform(tmp_path_factory.mktemp("stored"))
    one.write_coins()
    fill(one, "AAA", "BBB", without=[HOLE])
    return one


@pytest.fixture(scope="module")
def empty(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    return small_platform(tmp_path_factory.mktemp("empty"))


def tiles(test: Any) -> dict[str, str]:
    return {one.label: one.value for one in test.metric}


def test_an_empty_warehouse_says_what_to_do_and_offers_to_ingest_everything(
    empty: Platform, monkeypatch: pytest.MonkeyPatch, orders: list[launching.Order]
):
    test = Lab(empty, monkeypatch).draw(data.page)
    assert "quant ingest" in words(test)
    assert tiles(test)["Last bar"] == "none"
    assert [one.tags for one in orders] == [
        {
            "dagster/asset_partition_range_start": f"{START}|AAA",
            "dagster/asset_partition_range_end": f"{END}|CCC",
        }
    ]


def test_the_page_shows_what_is_stored_and_offers_to_ingest_what_is_missing(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, orders: list[launching.Order]
):
    test = Lab(platform, monkeypatch).draw(data.page)
    sessions = trading_calendar("XNYS").between(START, END)
    unlisted = trading_calendar("XNYS").between(LISTED, END)
    assert tiles(test) == {
        "Symbols": "3",
        "Last bar": "2023-08-31",
        "Bars": f"{2 * (len(sessions) - 1):,}",
        "Bars missing": f"{2 + len(unlisted):,}",
        "Quarantined": "1",
    }
    assert orders[0].tags["dagster/asset_partition_range_end"] == f"{END}|CCC"
    assert "low is above high" in test.dataframe[2].value["rule"].to_list()
    assert "No Dagster server answers" in words(test)


def test_a_failed_run_is_said_with_its_link_and_what_dagster_does_not_know_shows(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, orders: list[launching.Order]
):
    test = Lab(platform, monkeypatch, Server()).draw(data.page, symbol="AAA")
    assert "failed on 2023-09-01 at 12:00 UTC" in test.error[0].value
    assert "http://dagster.test/runs/r1" in test.error[0].value
    assert "No Dagster server" not in words(test)


def test_a_server_that_stops_answering_costs_only_what_it_would_have_said(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, orders: list[launching.Order]
):
    test = Lab(platform, monkeypatch, Server(broken=True)).draw(data.page)
    assert not test.error
    assert "No Dagster server answers" in words(test)


def test_one_symbol_and_every_way_to_look_at_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, orders: list[launching.Order]
):
    platform = small_platform(tmp_path)
    platform.write_universe(symbols=["AAA"])
    fill(platform, "AAA")
    lab = Lab(platform, monkeypatch)
    picked = {"range": "all", "prices": "as traded", "feature": "ret_20d", "asset": "labels", "year": "2023"}
    test = lab.draw(data.page, **picked)
    assert tiles(test)["Bars missing"] == "0"
    assert orders[0].what.endswith(f"of AAA, {END} to {END}")
    assert test.selectbox(key="feature").value == "ret_20d"


def test_a_chosen_period_without_a_session_cannot_be_ingested(
    empty: Platform, monkeypatch: pytest.MonkeyPatch, orders: list[launching.Order]
):
    test = Lab(empty, monkeypatch).draw(data.page)
    saturday = date(2023, 6, 3)
    test.date_input[0].set_value((saturday, saturday)).run()
    assert not orders
    assert "no XNYS session" in test.warning[0].value
    test.multiselect[0].set_value(["CCC", "AAA"])
    test.date_input[0].set_value((saturday, date(2023, 6, 5))).run()
    assert orders[0].what.endswith("of AAA, BBB, CCC, 2023-06-05 to 2023-06-05")
    assert "also BBB" in words(test)


def test_each_market_has_its_own_page(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, orders: list[launching.Order]
):
    test = Lab(platform, monkeypatch).draw(data.page, market="coins")
    assert "quant ingest --market coins" in words(test)
    assert orders[0].job == "coins_market_stage"


def test_a_run_is_of_a_market_by_its_job_or_by_what_it_made(platform: Platform):
    small, coins = load_markets(platform.settings)
    by_sensor = Run("1", "__ASSET_JOB", "FAILURE", ("coins/labels",))
    assert [data._concerns(market, by_sensor) for market in (small, coins)] == [False, True]
    by_hand = Run("2", "market_stage", "FAILURE")
    assert [data._concerns(market, by_hand) for market in (small, coins)] == [True, False]


def test_what_was_picked_in_one_market_is_let_go_in_another(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, orders: list[launching.Order]
):
    with platform.warehouse.write() as writer:
        coin = bars_of("AAA").with_columns(
            symbol=pl.lit("BTC/USDT"), adjusted_close=pl.lit(None, pl.Float64), source=pl.lit("x"),
            ingested_at=pl.lit(datetime(2023, 9, 1)),
        )  # fmt: skip
        writer.append(ohlcv.TABLE, coin, run_id="r")
    platform.warehouse.publish()
    test = Lab(platform, monkeypatch).draw(data.page, symbol="BBB", feature="gone")
    assert [test.selectbox(key=key).value for key in ("symbol", "feature")] == ["BBB", "ret_1d"]
    test.selectbox(key="market").set_value("coins").run()
    assert not test.exception
    assert test.selectbox(key="symbol").value == "BTC/USDT"
