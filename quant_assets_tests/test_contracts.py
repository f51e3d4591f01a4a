"""Table contracts: the gate in front of storage, and the DDL behind it."""

import json
import math
from datetime import date, datetime, timedelta
from typing import Any

import duckdb
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.contracts import TABLES, VIEWS, Column, Rule, Table, features_daily
from quant_assets.contracts.gate import conform, gate, schema
from quant_assets.core.errors import DataError, QualityError

OHLCV = TABLES["ohlcv"]
NOW = datetime(2024, 1, 5, 22)
FIRST = date(2024, 1, 1)


def bar(day: int = 0, symbol: str = "A", **changes: Any) -> dict[str, Any]:
    good = {"open": 10.0, "high": 11.0, "low": 9.0, "close": 10.5, "adjusted_close": None, "volume": 100.0}
    key = {"symbol": symbol, "ts": FIRST + timedelta(day)}
    return key | good | {"source": "sample", "ingested_at": NOW} | changes


def frame(rows: list[dict[str, Any]], table: Table = OHLCV) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=table.empty().schema, orient="row")


def good_bars(count: int, symbol: str = "A") -> list[dict[str, Any]]:
    return [bar(day, symbol) for day in range(count)]


def test_rows_that_keep_every_rule_pass_as_they_are():
    bars = frame([*good_bars(3), bar(0, "B", adjusted_close=5.0, volume=0.0)])
    gated = gate(OHLCV, bars)
    assert gated.good.equals(bars)
    assert gated.bad.is_empty()
    assert gated.rejected == {}


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"source": None}, "source is null"),
        ({"open": None}, "open is null; open is outside low..high"),
        ({"volume": math.nan}, "volume is NaN or infinite"),
        ({"volume": math.inf}, "volume is NaN or infinite"),
        ({"adjusted_close": -math.inf}, "adjusted_close is NaN or infinite; adjusted_close is not above 0"),
        ({"adjusted_close": 0.0}, "adjusted_close is not above 0"),
        ({"volume": -1.0}, "volume is below 0"),
        ({"low": 10.2}, "open is outside low..high"),
        ({"high": 10.4}, "close is outside low..high"),
        ({"low": 12.0}, "low is above high; open is outside low..high; close is outside low..high"),
    ],
)
def test_a_bad_bar_is_quarantined_with_the_rules_it_broke(changes: dict[str, Any], rule: str):
    gated = gate(OHLCV, frame([*good_bars(3), bar(9, **changes)]))
    assert gated.bad["rule"].to_list() == [rule]
    assert gated.good.equals(frame(good_bars(3)))
    assert gated.rejected == {}


@pytest.mark.parametrize(
    ("table", "good", "changes", "rule"),
    [
        pytest.param(
            "corporate_actions",
            {"symbol": "A", "ex_date": FIRST, "kind": "split", "value": 2.0, "source": "x", "ingested_at": NOW},
            {"kind": "merger"},
            "kind is none of split, dividend",
            id="a value that is not among the allowed",
        ),
        pytest.param(
            "predictions",
            {
                "symbol": "A",
                "ts": FIRST,
                "model_id": "m",
                "task_id": "t",
                "score": 0.1,
                "calibrated_score": 0.5,
                "generated_at": NOW,
            },
            {"calibrated_score": 1.01},
            "calibrated_score is above 1",
            id="above the maximum",
        ),
        pytest.param(
            "labels",
            {
                "symbol": "A",
                "ts": FIRST,
                "label_name": "l",
                "label_version": "v1",
                "label_value": 0.1,
                "horizon": 5,
                "known_on": FIRST + timedelta(5),
                "computed_at": NOW,
            },
            {"known_on": FIRST},
            "known_on is not after ts",
            id="a rule over two columns",
        ),
        pytest.param(
            "targets",
            {
                "strategy_id": "s",
                "version": "1.0.0",
                "asof": FIRST,
                "symbol": "A",
                "weight": 0.0,
                "score": None,
                "approved": False,
                "risk_flags": ["R4"],
                "reason": "x",
                "generated_at": NOW,
            },
            {"weight": 0.1},
            "rejected with a weight",
            id="a rule over a condition",
        ),
    ],
)
def test_rules_of_other_tables(table: str, good: dict[str, Any], changes: dict[str, Any], rule: str):
    found = gate(TABLES[table], frame([good | changes], TABLES[table]))
    assert found.bad["rule"].to_list() == [rule]
    assert gate(TABLES[table], frame([good], TABLES[table])).bad.is_empty()


def test_of_rows_with_one_key_all_are_bad():
    gated = gate(OHLCV, frame([*good_bars(300), bar(7, close=10.6)]))
    assert gated.good.height == 299
    assert gated.bad["rule"].to_list() == ["duplicate key (symbol, ts)"] * 2
    assert {json.loads(row)["close"] for row in gated.bad["row"]} == {10.5, 10.6}


def test_a_quarantined_row_keeps_where_it_belongs_and_what_it_said():
    gated = gate(OHLCV, frame([*good_bars(3), bar(9, volume=-1.0)]))
    row = gated.bad.row(0, named=True)
    assert (row["table_name"], row["symbol"], row["ts"]) == ("ohlcv", "A", FIRST + timedelta(9))
    assert json.loads(row["row"])["volume"] == -1.0
    assert set(gated.bad.columns) == set(TABLES["quarantine"].empty().columns) - {"seen_at"}


def test_the_same_bad_row_has_the_same_id_whenever_it_is_seen():
    def seen(**changes: Any) -> str:
        return str(gate(OHLCV, frame([bar(**{"volume": -1.0} | changes)])).bad["id"].item())

    assert seen() == seen(ingested_at=NOW + timedelta(1))
    assert seen() != seen(volume=-2.0)


@pytest.mark.parametrize(("rows", "bad", "rejected"), [(1, 1, False), (99, 2, True), (200, 2, False), (299, 3, True)])
def test_a_symbol_is_rejected_whole_above_one_row_and_one_per_cent(rows: int, bad: int, rejected: bool):
    other = good_bars(2, "B")
    mixed = [bar(day, volume=-1.0 if day < bad else 1.0) for day in range(rows)]
    gated = gate(OHLCV, frame(mixed + other))
    assert gated.good.height == len(other) + (0 if rejected else rows - bad)
    assert list(gated.rejected) == (["A"] if rejected else [])
    assert gated.bad.height == bad


def test_a_rejection_says_how_many_of_how_many_and_the_first_rule():
    gated = gate(OHLCV, frame([bar(1, volume=-1.0), bar(0, close=20.0)]))
    assert gated.rejected["A"] == (
        "ohlcv: A has 2 bad rows of 2 (limit 1), first: close is outside low..high; "
        "nothing of the slice was stored, see table quarantine"
    )


def test_a_table_without_symbols_allows_no_bad_row():
    table = TABLES["backtest_equity"]
    row = {"strategy_id": "s", "ts": FIRST, "equity": 1.0, "ret": 0.0, "drawdown": 0.0, "gross_exposure": 1.0}
    good, bad = row | {"turnover": 0.0}, row | {"turnover": -1.0, "ts": FIRST + timedelta(1)}
    assert gate(table, frame([good], table)).good.height == 1
    with pytest.raises(QualityError, match=r"backtest_equity: 1 bad row.*turnover is below 0"):
        gate(table, frame([good, bad], table))


def test_a_missing_column_is_named():
    with pytest.raises(DataError, match=r"ohlcv: column volume is missing \(found symbol, ts"):
        gate(OHLCV, frame(good_bars(1)).drop("volume"))


def test_columns_come_out_in_the_contracts_order_and_types_and_others_are_dropped():
    bars = frame(good_bars(2)).with_columns(pl.col("volume").cast(pl.Int64), extra=1).select(pl.all().reverse())
    conformed = conform(OHLCV, bars)
    assert conformed.schema == OHLCV.empty().schema


NUMBERS = st.sampled_from([None, math.nan, math.inf, -math.inf, -1.0, 0.0, 9.0, 10.0, 11.0])
BARS = st.lists(
    st.builds(
        bar,
        day=st.integers(0, 8),
        symbol=st.sampled_from("AB"),
        open=NUMBERS,
        high=NUMBERS,
        low=NUMBERS,
        close=NUMBERS,
        volume=NUMBERS,
        source=st.sampled_from([None, "x"]),
    )
    | st.builds(bar, day=st.integers(0, 400), symbol=st.sampled_from("AB")),
    max_size=12,
)


@settings(max_examples=25, deadline=None)
@given(BARS)
def test_good_bad_and_rejected_rows_make_up_the_input(rows: list[dict[str, Any]]):
    bars = frame(rows)
    gated = gate(OHLCV, bars)
    dropped = bars.filter(pl.col("symbol").is_in(list(gated.rejected))).height
    bad_elsewhere = gated.bad.filter(~pl.col("symbol").is_in(list(gated.rejected))).height
    assert gated.good.height + dropped + bad_elsewhere == bars.height
    assert gate(OHLCV, gated.good).bad.is_empty()
    assert gate(OHLCV, gated.good).good.equals(gated.good)


@settings(max_examples=25, deadline=None)
@given(BARS)
def test_panderas_schema_and_the_gate_agree(rows: list[dict[str, Any]]):
    from pandera.errors import SchemaErrors

    bars = frame(rows)
    try:
        schema(OHLCV).validate(bars, lazy=True)
        valid = True
    except SchemaErrors:
        valid = False
    duplicated = bars.select(OHLCV.key).is_duplicated().any()
    assert gate(OHLCV, bars).bad.is_empty() == (valid and not duplicated)


@pytest.mark.parametrize("name", sorted(set(TABLES) - VIEWS))
def test_the_ddl_of_every_table_makes_the_contracts_columns(name: str):
    table = TABLES[name]
    with duckdb.connect(":memory:") as connection:
        connection.execute(table.ddl())
        connection.execute(table.ddl())
        made = connection.execute(f"DESCRIBE {name}").fetchall()
        stored = connection.sql(f"SELECT * FROM {name}").pl()
    assert [(row[0], row[1], row[2] == "YES") for row in made] == [
        (column.name, column.type, column.nullable) for column in table.all_columns
    ]
    assert stored.schema == table.empty(stored=True).schema


@pytest.mark.parametrize("table", TABLES.values(), ids=list(TABLES))
def test_every_contract_is_consistent_in_itself(table: Table):
    names = [column.name for column in table.all_columns]
    assert len(set(names)) == len(names)
    assert set(table.key) <= set(names)
    assert set(table.sort) <= set(names)
    assert table.symbol in (*names, None)
    assert all(column.doc for column in table.columns)
    assert table.doc
    assert len({rule.name for rule in table.rules}) == len(table.rules)
    schema(table).validate(table.empty())


def test_the_wide_form_of_a_feature_set_has_a_nullable_column_per_feature():
    table = features_daily.wide("v9", ("one", "two"))
    assert (table.name, table.key) == ("features_daily__v9", ("symbol", "ts"))
    assert [column.name for column in table.columns if column.nullable] == ["one", "two"]


def test_a_rule_that_is_unknown_because_of_a_null_is_broken():
    table = Table("t", ("symbol",), (Column("symbol", "VARCHAR", "s"), Column("x", "DOUBLE", "x", nullable=True)), "d",
                  row_rules=(Rule("x is not above 1", pl.col("x") > 1),))  # fmt: skip
    assert gate(table, pl.DataFrame({"symbol": ["A"], "x": [None]})).bad["rule"].to_list() == ["x is not above 1"]
