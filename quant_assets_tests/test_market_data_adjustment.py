"""Adjusted prices from raw bars and actions, and splits read off an adjusted close."""

import doctest
from datetime import date, timedelta

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from quant_assets.core.errors import DataError
from quant_assets.market_data import adjustment
from quant_assets.market_data.adjustment import adjust, compare_with_provider, infer_splits

FIRST = date(2024, 1, 1)
GIVES = {"giver"}


def day(number: int) -> date:
    return FIRST + timedelta(number)


def raw(
    symbol: str,
    closes: list[float],
    *,
    adjusted: list[float | None] | None = None,
    source: str = "giver",
    days: list[int] | None = None,
) -> pl.DataFrame:
    closes = [float(close) for close in closes]
    return pl.DataFrame(
        {
            "symbol": symbol,
            "ts": [day(n) for n in days or range(len(closes))],
            **dict.fromkeys(("open", "high", "low", "close"), closes),
            "adjusted_close": adjusted if adjusted is not None else [None] * len(closes),
            "volume": 100.0,
            "source": source,
        },
        schema_overrides={"adjusted_close": pl.Float64},
    )


def actions(*rows: tuple[str, int, str, float]) -> pl.DataFrame:
    data = [(symbol, day(at), kind, value) for symbol, at, kind, value in rows]
    schema = {"symbol": pl.String, "ex_date": pl.Date, "kind": pl.String, "value": pl.Float64}
    return pl.DataFrame(data, schema=schema, orient="row")


def test_the_docstrings_examples_hold():
    assert doctest.testmod(adjustment).failed == 0


def test_a_split_divides_earlier_prices_and_multiplies_earlier_volumes():
    result = adjust(raw("A", [700, 700, 100]), actions(("A", 2, "split", 7.0)), GIVES)
    assert result["close"].to_list() == [100.0, 100.0, 100.0]
    assert result["low"].to_list() == [100.0, 100.0, 100.0]
    assert result["volume"].to_list() == [700.0, 700.0, 100.0]
    assert result.columns == ["symbol", "ts", "open", "high", "low", "close", "volume"]


def test_a_dividend_scales_by_the_previous_close_and_leaves_volume_alone():
    result = adjust(raw("A", [80, 100, 96]), actions(("A", 2, "dividend", 4.0)), GIVES)
    assert result["close"].to_list() == [80 * 0.96, 96.0, 96.0]
    assert result["volume"].to_list() == [100.0] * 3


def test_factors_of_several_actions_multiply_symbol_by_symbol():
    bars = pl.concat([raw("A", [40, 20, 10]), raw("B", [40, 20, 10])])
    result = adjust(bars, actions(("A", 1, "split", 2.0), ("A", 2, "split", 2.0), ("B", 2, "split", 2.0)), GIVES)
    assert result["close"].to_list() == [10.0, 10.0, 10.0, 20.0, 10.0, 10.0]
    assert result["volume"].to_list() == [400.0, 200.0, 100.0, 200.0, 200.0, 100.0]


def test_a_split_and_a_dividend_on_one_day_both_count():
    result = adjust(raw("A", [100, 48]), actions(("A", 1, "split", 2.0), ("A", 1, "dividend", 4.0)), GIVES)
    assert result["close"].to_list() == [pytest.approx(48.0), 48.0]


def test_an_ex_date_without_a_bar_counts_from_the_next_bar():
    result = adjust(raw("A", [20, 10], days=[0, 5]), actions(("A", 3, "split", 2.0)), GIVES)
    assert result["close"].to_list() == [10.0, 10.0]


def test_actions_on_the_first_bar_or_outside_the_bars_change_nothing():
    around = actions(*(("A", at, "split", 2.0) for at in (-3, 0, 9)), ("Z", 1, "split", 2.0))
    assert adjust(raw("A", [10, 11]), around, GIVES)["close"].to_list() == [10.0, 11.0]


def test_a_source_without_actions_goes_by_its_adjusted_close_and_its_splits_scale_volume():
    bars = raw("A", [100, 60], adjusted=[25.0, 30.0], source="ratio")
    result = adjust(bars, actions(("A", 1, "split", 2.0)), GIVES)
    assert result["close"].to_list() == [25.0, 30.0]
    assert result["volume"].to_list() == [200.0, 100.0]


def test_a_missing_adjusted_close_takes_the_next_bars_ratio():
    bars = pl.concat(
        [
            raw("A", [100, 100, 60, 60], adjusted=[None, 50.0, None, 30.0], source="ratio"),
            raw("B", [7, 8], source="ratio"),
        ]
    )
    assert adjust(bars, actions(), GIVES)["close"].to_list() == [50.0, 50.0, 30.0, 30.0, 7.0, 8.0]


def test_symbols_of_both_kinds_of_source_are_adjusted_side_by_side():
    bars = pl.concat([raw("A", [20, 10]), raw("B", [20, 10], adjusted=[5.0, 10.0], source="ratio")])
    assert adjust(bars, actions(("A", 1, "split", 2.0)), GIVES)["close"].to_list() == [10.0, 10.0, 5.0, 10.0]


def test_no_bars_give_no_bars():
    assert adjust(raw("A", []), actions(("A", 1, "split", 2.0)), GIVES).is_empty()


@pytest.mark.parametrize(
    ("kind", "value", "limit"),
    [("dividend", 100.0, "below the previous close 100.0"), ("split", 0.0, "above 0"), ("split", -2.0, "above 0")],
)
def test_an_action_that_cannot_be_applied_is_named(kind, value, limit):
    with pytest.raises(DataError, match=f"A: {kind} of {value} on 2024-01-02 .*{limit}"):
        adjust(raw("A", [100, 50]), actions(("A", 1, kind, value)), GIVES)


def test_two_bars_of_a_symbol_on_one_date_are_refused():
    with pytest.raises(DataError, match="A has two bars on 2024-01-01"):
        adjust(pl.concat([raw("A", [1, 2]), raw("A", [1])]), actions(), GIVES)


@st.composite
def markets(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame]:
    frames, rows = [], []
    for symbol in draw(st.sets(st.sampled_from("ABCD"), min_size=1)):
        closes = draw(st.lists(st.floats(10, 1000), min_size=1, max_size=12))
        ratios = draw(st.lists(st.floats(0.1, 1), min_size=len(closes), max_size=len(closes)))
        source = draw(st.sampled_from(["giver", "ratio"]))
        frames.append(raw(symbol, closes, adjusted=[c * r for c, r in zip(closes, ratios, strict=True)], source=source))
        for at in draw(st.sets(st.integers(-2, 13), max_size=4)):
            kind, values = draw(st.sampled_from([("split", st.floats(0.1, 10)), ("dividend", st.floats(0.01, 9))]))
            rows.append((symbol, at, kind, draw(values)))
    return pl.concat(frames), actions(*rows)


@settings(max_examples=40, deadline=None)
@given(markets(), st.randoms(use_true_random=False))
def test_row_order_does_not_matter(market, random):
    bars, known = market
    order = list(range(len(bars)))
    random.shuffle(order)
    expected = adjust(bars, known, GIVES)
    assert_frame_equal(adjust(bars[order], known.reverse(), GIVES), expected, check_exact=True)
    assert expected.equals(expected.sort("symbol", "ts"))


@settings(max_examples=40, deadline=None)
@given(markets(), st.integers(0, 12))
def test_a_dates_adjustment_needs_no_bar_before_it(market, start):
    bars, known = market
    later = bars.filter(pl.col("ts") >= day(start))
    expected = adjust(bars, known, GIVES).filter(pl.col("ts") >= day(start))
    assert_frame_equal(adjust(later, known, GIVES), expected, check_exact=True)


@settings(max_examples=40, deadline=None)
@given(markets(), st.integers(1, 12))
def test_actions_after_the_window_only_scale_a_symbols_prices_by_a_constant(market, end):
    bars, known = market
    window = pl.col("ts") < day(end)
    short = adjust(bars.filter(window), known, GIVES)
    long = adjust(bars, known, GIVES).filter(window)
    scale = (long["close"] / short["close"]).alias("scale")
    spread = short.with_columns(scale).group_by("symbol").agg(pl.col("scale").max() / pl.col("scale").min())
    assert spread["scale"].to_list() == pytest.approx([1.0] * len(spread))


def test_our_adjusted_close_is_compared_with_the_providers_whatever_its_level():
    # the provider knows of a later split: its level is half of ours, the returns are the same
    bars = raw("A", [100, 50, 51], adjusted=[25.0, 25.0, 25.5])
    told = compare_with_provider(bars, actions(("A", 1, "split", 2.0)))
    assert told["rel_diff"].to_list() == [0.0, 0.0, 0.0]
    missed = compare_with_provider(bars, actions())
    assert missed["rel_diff"].to_list() == pytest.approx([1.0, 0.0, 0.0])
    assert missed.columns == ["symbol", "ts", "ours", "theirs", "rel_diff"]


@pytest.mark.parametrize(
    ("closes", "adjusted", "expected"),
    [
        ([100, 51], [50, 51], [2.0]),
        ([1, 10.2], [10, 10.2], [0.1]),
        ([100, 67], [66.6667, 67], [1.5]),
        ([100, 14.5], [14.2857, 14.5], [7.0]),
        ([29.97, 27.39], [26.94, 27.39], []),  # a dividend of 3.03
        ([100, 101], [50, 101], []),  # a step that the raw close does not share
        ([100, 99], [99, 99], []),
        ([100], [100], []),
    ],
)
def test_a_split_is_a_simple_step_that_the_raw_close_confirms(closes, adjusted, expected):
    bars = raw("A", closes, adjusted=[float(price) for price in adjusted])
    found = infer_splits(bars)
    assert found["value"].to_list() == pytest.approx(expected)
    assert found["ex_date"].to_list() == [day(1)] * len(expected)


def test_bars_without_an_adjusted_close_have_no_splits_to_infer():
    assert infer_splits(raw("A", [100, 50])).is_empty()
    assert infer_splits(raw("A", [])).is_empty()
