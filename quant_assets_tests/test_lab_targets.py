"""Page Targets: what changed at a rebalance, exposures, weights over time, the rules in words, and the page itself."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_assets.contracts import targets as contract
from quant_assets.lab.dagster_api import Dagster, Run
from quant_assets.lab.views import targets
from quant_assets.portfolio import supervisor
from quant_assets.strategy.gate import FLAG
from quant_assets_tests.lab_platform import Lab, words
from quant_assets_tests.platform import Platform, small_platform

pytestmark = pytest.mark.slow

D = [date(2023, 6, day) for day in (2, 9, 16)]


def weights(**held: float) -> pl.DataFrame:
    return pl.DataFrame({"symbol": list(held), "weight": list(held.values())}, schema=targets._WEIGHTS)


def test_each_flag_that_a_decision_can_carry_has_words():
    assert list(targets.FLAGS) == [*supervisor._FLAGS.values(), FLAG]
    flags = pl.DataFrame({"flags": [["R1", "V1"], ["missing"], []]})
    told = flags.select(targets.in_words(pl.col("flags")))["flags"].to_list()
    assert told == ["R1 gross exposure cap, V1 last verdict is fail", "no score", ""]


def test_a_change_is_bought_sold_or_held_and_what_never_was_is_left_out():
    now, before = weights(A=0.5, B=0.2, C=0.0, D=0.1, E=0.0), weights(A=0.3, B=0.2, C=0.4, E=0.0)
    book = targets.changes(now, before)
    assert book.select("symbol", "before", "weight", "action").rows() == [
        ("A", 0.3, 0.5, "bought"),
        ("B", 0.2, 0.2, "held"),
        ("D", 0.0, 0.1, "bought"),
        ("C", 0.4, 0.0, "sold"),
    ]
    assert book["change"].to_list() == pytest.approx([0.2, 0.0, 0.1, -0.4])


def test_covering_a_short_buys_and_going_short_sells():
    book = targets.changes(weights(A=-0.1, B=-0.5, C=0.2), weights(A=-0.3, B=0.1, C=-0.2))
    assert dict(book.select("symbol", "action").rows()) == {"A": "bought", "B": "sold", "C": "bought"}


def test_exposures_of_a_book_with_shorts():
    shares = targets.exposures(targets.changes(weights(A=0.6, B=-0.2), weights(A=0.5, C=0.1)))
    assert shares == pytest.approx({"gross": 0.8, "net": 0.4, "long": 0.6, "short": -0.2, "cash": 0.6, "turnover": 0.2})
    nothing = targets.exposures(targets.changes(weights(), weights()))
    assert nothing == {"gross": 0.0, "net": 0.0, "long": 0.0, "short": 0.0, "cash": 1.0, "turnover": 0.0}


shares_of_equity = st.dictionaries(st.sampled_from("ABCDE"), st.floats(-1, 1), max_size=5)


@given(shares_of_equity, shares_of_equity)
def test_turning_back_costs_the_same_turnover_and_exposures_add_up(now: dict[str, float], before: dict[str, float]):
    there = targets.exposures(targets.changes(weights(**now), weights(**before)))
    back = targets.exposures(targets.changes(weights(**before), weights(**now)))
    assert there["turnover"] == pytest.approx(back["turnover"])
    assert there["long"] - there["short"] == pytest.approx(there["gross"])
    assert there["long"] + there["short"] == pytest.approx(there["net"])


def test_the_targets_of_a_date_are_those_of_the_last_rebalance_on_or_before_it():
    assert [targets.as_of(D, day) for day in (D[1], date(2023, 6, 15), date(2024, 1, 1))] == [D[1], D[1], D[2]]
    assert targets.as_of(D, date(2020, 1, 1)) == D[0]


def long_form(rows: Mapping[date, Mapping[str, float]]) -> pl.DataFrame:
    cells = [(asof, symbol, weight) for asof, held in rows.items() for symbol, weight in held.items()]
    return pl.DataFrame(cells, schema={"asof": pl.Date, **targets._WEIGHTS}, orient="row")


def test_weights_over_time_are_zero_where_a_symbol_is_not_held():
    wide = targets.over_time(long_form({D[0]: {"A": 0.2, "B": 0.0}, D[1]: {"A": 0.0, "B": 0.0}, D[2]: {"B": -0.5}}))
    assert wide.columns == ["asof", "B", "A"]
    assert wide.rows() == [(D[0], 0.0, 0.2), (D[1], 0.0, 0.0), (D[2], -0.5, 0.0)]
    assert targets.over_time(long_form({D[0]: {"A": 0.0}})).columns == ["asof"]


def test_the_smallest_of_many_symbols_are_drawn_as_one():
    held = {f"S{at:02d}": 0.01 * (at + 1) for at in range(12)}
    wide = targets.over_time(long_form({D[0]: held}))
    assert wide.columns == ["asof", *(f"S{at:02d}" for at in range(11, 3, -1)), "others"]
    assert wide["others"][0] == pytest.approx(0.01 + 0.02 + 0.03 + 0.04)


def test_longs_are_stacked_above_zero_and_shorts_below_under_one_name():
    wide = targets.over_time(long_form({D[0]: {"A": 0.5, "B": -0.25}, D[1]: {"A": -0.5, "B": -0.25}}))
    drawn = targets.weights_figure(wide, D[1]).data
    assert [(one.name, one.stackgroup, list(one.y), one.showlegend) for one in drawn] == [
        ("A", "long", [0.5, 0.0], True),
        ("A", "short", [0.0, -0.5], False),
        ("B", "short", [-0.25, -0.25], True),
    ]


def test_bars_are_coloured_by_what_was_done():
    book = targets.changes(weights(A=0.5, B=-0.2), weights(A=0.5, C=0.1))
    drawn = targets.changes_figure(book).data
    assert {one.name: list(one.y) for one in drawn} == {"held": ["A"], "sold": ["B", "C"], "before": ["A", "B", "C"]}


def test_rules_are_counted_in_their_order_and_an_unknown_flag_comes_last():
    counts = pl.DataFrame({"flag": ["X9", "R5", "R2"], "rows": [1, 8, 3], "dates": [1, 4, 2]})
    assert targets.touched(counts, 8).rows() == [
        ("R2 weight cap of a symbol", 2, 0.25, 3),
        ("R5 score floor or top k", 4, 0.5, 8),
        ("X9", 1, 0.125, 1),
    ]


class Server(Dagster):
    """Takes the place of a Dagster server whose last run of `ranks` failed."""

    def __init__(self) -> None:
        super().__init__("http://dagster.test")

    def alive(self) -> bool:
        return True

    def runs(self, *_: Any, **__: Any) -> list[Run]:
        ended = datetime(2023, 9, 1, 12, tzinfo=UTC)
        return [
            Run("r2", "forest", "SUCCESS"),
            Run("r1", "any", "FAILURE", (), {"quant/strategy": "ranks"}, ended=ended),
        ]


DECIDED = {
    D[0]: {"AAA": (0.5, []), "BBB": (0.0, ["R5"])},
    D[1]: {"AAA": (0.3, ["R4"]), "BBB": (-0.2, [])},
}


@pytest.fixture(scope="module")
def platform(tmp_path_factory: pytest.TempPathFactory) -> Platform:
    """`ranks` has decided on two dates, on the second one short; so has `gone`, whose file is no more."""
    one = small_platform(tmp_path_factory.mktemp("decided"))
    rows = [
        (name, "1.0.0", asof, symbol, weight, 0.1, weight != 0, flags, f"{symbol} on {asof}", datetime(2023, 9, 1))
        for name in ("gone", "ranks")
        for asof, held in DECIDED.items()
        for symbol, (weight, flags) in held.items()
    ]
    frame = pl.DataFrame(rows, schema=contract.TABLE.empty().schema, orient="row")
    with one.warehouse.write() as writer:
        writer.append(contract.TABLE, frame, run_id="run-1")
    one.warehouse.publish()
    return one


def tiles(test: Any) -> dict[str, str]:
    return {one.label: one.value for one in test.metric}


def test_an_empty_warehouse_says_how_to_decide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    test = Lab(small_platform(tmp_path), monkeypatch).draw(targets.page)
    assert "forest has no targets yet" in words(test)
    assert "quant pipeline run --strategy forest" in words(test)


def test_the_newest_rebalance_of_the_first_strategy_with_targets_is_shown(
    platform: Platform, monkeypatch: pytest.MonkeyPatch
):
    test = Lab(platform, monkeypatch).draw(targets.page)
    assert test.selectbox(key="strategy").value == "ranks"
    assert test.selectbox(key="asof").value == "2023-06-09"
    assert tiles(test) == {
        "Held": "2 of 2",
        "Gross exposure": "50.0%",
        "Long": "30.0%",
        "Short": "-20.0%",
        "Cash": "90.0%",
        "Turnover": "20.0%",
    }
    decisions, counts = test.dataframe[0].value, test.dataframe[1].value
    assert decisions["symbol"].to_list() == ["AAA", "BBB"]
    assert decisions["flags"].to_list() == ["R4 turnover cap", ""]
    assert counts["rule"].to_list() == ["R4 turnover cap", "R5 score floor or top k"]
    assert "/runs/run-1" in words(test)


def test_earlier_and_later_walk_through_the_rebalances(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(targets.page)
    assert test.button(key="Later").disabled
    test.button(key="Earlier").click().run()
    assert test.selectbox(key="asof").value == "2023-06-02"
    assert test.button(key="Earlier").disabled
    assert "The first rebalance" in words(test)
    assert tiles(test)["Turnover"] == "25.0%"
    test.button(key="Later").click().run()
    assert test.selectbox(key="asof").value == "2023-06-09"


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("2023-06-08", "in force then, as of 2023-06-02"),
        ("2024-01-01", "in force then, as of 2023-06-09"),
        ("2020-01-01", "that came first, as of 2023-06-02"),
    ],
)
def test_a_date_without_targets_shows_those_in_force(
    platform: Platform, monkeypatch: pytest.MonkeyPatch, asked: str, told: str
):
    test = Lab(platform, monkeypatch).draw(targets.page, strategy="ranks", asof=asked)
    assert test.selectbox(key="asof").value == told[-10:]
    assert test.info[0].value == f"No targets of {asked}: shown are those {told}."


def test_a_link_followed_later_has_the_last_word(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(targets.page, strategy="ranks")
    assert test.selectbox(key="asof").value == "2023-06-09"
    test.query_params["asof"] = "2023-06-08"
    test.run()
    assert test.selectbox(key="asof").value == "2023-06-02"
    assert "No targets of 2023-06-08" in test.info[0].value
    test.button(key="Later").click().run()
    assert test.selectbox(key="asof").value == "2023-06-09"
    assert not test.info


def test_a_link_to_what_is_no_date_shows_the_newest(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(targets.page, strategy="ranks", asof="[soon](x)")
    assert test.selectbox(key="asof").value == "2023-06-09"
    assert not test.info


def test_a_link_to_a_rebalance_shows_it(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(targets.page, strategy="ranks", asof="2023-06-02")
    assert test.selectbox(key="asof").value == "2023-06-02"
    assert not test.info


def test_a_failed_run_of_the_strategy_is_said_with_its_link(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    lab = Lab(platform, monkeypatch, Server())
    assert "http://dagster.test/runs/r1" in lab.draw(targets.page, strategy="ranks").error[0].value
    assert not lab.draw(targets.page, strategy="forest").error


def test_a_strategy_whose_file_is_gone_still_shows_its_targets(platform: Platform, monkeypatch: pytest.MonkeyPatch):
    test = Lab(platform, monkeypatch).draw(targets.page, strategy="gone")
    assert test.selectbox(key="strategy").options == ["forest", "ranks", "gone"]
    assert tiles(test)["Held"] == "2 of 2"
