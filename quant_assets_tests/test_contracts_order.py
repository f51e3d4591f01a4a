"""Whether rows stand in the order of their keys."""

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.contracts.order import in_order

ROWS = st.lists(st.tuples(st.sampled_from(["A", "B", "C"]), st.integers(0, 3)), max_size=6)


def frame(rows: list[tuple[str | None, float | None]]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema={"symbol": pl.String, "n": pl.Float64}, orient="row")


@settings(max_examples=60)
@given(rows=ROWS)
def test_rows_are_in_order_where_sorting_them_changes_nothing(rows: list[tuple[str, int]]):
    assert in_order(frame(rows), ["symbol", "n"]) is (rows == sorted(rows))
    assert in_order(frame(rows), ["n"]) is ([n for _, n in rows] == sorted(n for _, n in rows))


@settings(max_examples=60)
@given(rows=ROWS)
def test_rows_strictly_in_order_are_unique_as_well(rows: list[tuple[str, int]]):
    assert in_order(frame(rows), ["symbol", "n"], strictly=True) is (rows == sorted(set(rows)))


def test_a_key_that_is_missing_is_out_of_order():
    assert not in_order(frame([("A", 1.0), ("A", None)]), ["symbol", "n"])


def test_any_rows_are_in_order_of_no_key():
    rows = frame([("B", 1.0), ("A", 1.0)])
    assert in_order(rows, [])
    assert not in_order(rows, [], strictly=True)
