"""The incremental form of every rule kind: the bits of the vectorised one, bar after bar."""

import math
from dataclasses import replace
from datetime import date
from functools import cache
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from quant_assets.core.matrices import Floats, Matrices, matrices
from quant_assets.market_data.provider import FetchRequest
from quant_assets.market_data.sample import SampleProvider
from quant_assets.signals import (
    RULES,
    BbRsiInputs,
    BreakoutInputs,
    DonchianInputs,
    EmaCrossInputs,
    FactorRankInputs,
    TsmomInputs,
)
from quant_assets.signals.incremental import Stepper

NAN = math.nan
YEAR = 252
COLUMNS = ("high", "low", "close", "volume")
kinds = pytest.mark.parametrize("kind", RULES)

FEW = st.integers(1, 9)
INPUTS: dict[str, st.SearchStrategy[Any]] = {
    "tsmom": st.builds(
        TsmomInputs,
        lookback=FEW,
        weighting=st.sampled_from(["plain", "volume"]),
        vol_window=st.integers(2, 9),
        leverage_cap=st.sampled_from([0.5, 10.0]),
    ),
    "breakout": st.builds(BreakoutInputs, window=FEW, atr_window=FEW, width=st.sampled_from([0.3, 1.0])),
    "donchian": st.builds(lambda entry, less: DonchianInputs(entry=entry, exit=max(1, entry - less)), FEW, FEW),
    "bb_rsi": st.builds(
        BbRsiInputs,
        window=st.integers(2, 9),
        rsi_window=FEW,
        width=st.sampled_from([0.5, 1.0]),
        oversold=st.just(45.0),
        overbought=st.just(55.0),
    ),
    "ema_cross": st.builds(lambda fast, more: EmaCrossInputs(fast=fast, slow=fast + more), FEW, FEW),
}


@st.composite
def panels(draw: st.DrawFn) -> Matrices:
    """Two symbols, listed for a while each, with gaps, days without trade and days whose volume nobody told."""
    shape = (draw(st.integers(1, 40)), 2)
    ticks = draw(arrays(np.int64, shape, elements=st.integers(1, 30)))
    close = ticks / draw(st.sampled_from([1, 7, 10]))
    reach = draw(arrays(np.int64, shape, elements=st.integers(0, 3))) / 10
    volume = draw(arrays(np.float64, shape, elements=st.sampled_from([0.0, 0.0, 1.0, 3.0, NAN])))
    there = draw(arrays(np.bool_, shape, elements=st.integers(0, 5).map(bool)))
    for column in range(2):
        there[: draw(st.integers(0, 5)), column] = False
        there[shape[0] - draw(st.integers(0, 5)) :, column] = False
    columns = (close, close * (1 + reach), close * (1 - reach), close, volume)
    gapped = [np.where(there, values, NAN) for values in columns]
    days = np.datetime64(date(2024, 1, 1), "D") + np.arange(shape[0])
    return Matrices(days, ("A", "B"), *gapped, last=np.full(2, shape[0] - 1))


def rows(panel: Matrices, first: int, end: int) -> Matrices:
    part = {name: getattr(panel, name)[first:end] for name in ("days", "open", *COLUMNS)}
    return replace(panel, **part)


def stepped(stepper: Stepper, panel: Matrices) -> Floats:
    """The exposures after each bar of the panel; NaN where there is none, of which the stepper is not told."""
    bars = [getattr(panel, name).tolist() for name in COLUMNS]
    out = np.full(panel.close.shape, NAN)
    for row, column in np.argwhere(~np.isnan(panel.close)).tolist():
        out[row, column] = stepper.update(column, *(values[row][column] for values in bars))
    return out


def assert_same_bits(found: Floats, expected: Floats) -> None:
    defined = ~np.isnan(expected)
    np.testing.assert_array_equal(~np.isnan(found), defined)
    np.testing.assert_array_equal(found[defined].view(np.int64), expected[defined].view(np.int64))


@cache
def sample() -> Matrices:
    """The bars of the sample: five shares, two of which list later."""
    provider = SampleProvider()
    symbols = ("AAPL", "FB", "GOOG", "IBM", "MSFT")
    span = (date(2000, 1, 1), date(2014, 1, 1))
    bars = pl.concat(
        provider.fetch(FetchRequest(symbol, *span)).bars.with_columns(symbol=pl.lit(symbol)) for symbol in symbols
    )
    return matrices(bars, bars["ts"].unique().sort().to_list(), symbols)


@kinds
@settings(max_examples=40)
@given(data=st.data(), panel=panels())
def test_bar_by_bar_a_rule_gives_the_bits_it_gives_for_all_bars_at_once(
    kind: str, data: st.DataObject, panel: Matrices
):
    inputs = data.draw(INPUTS[kind])
    expected = RULES[kind].exposures(panel, inputs, YEAR)
    assert_same_bits(stepped(RULES[kind].stepper(inputs, YEAR, 2), panel), expected)
    warmed = RULES[kind].stepper(inputs, YEAR, 2)
    split = data.draw(st.integers(0, len(panel.days)))
    warmed.warm_up(rows(panel, 0, split))
    assert_same_bits(stepped(warmed, rows(panel, split, len(panel.days))), expected[split:])


@kinds
def test_on_real_bars_both_forms_have_the_same_bits(kind: str):
    panel, rule = sample(), RULES[kind]
    inputs = TsmomInputs(weighting="volume") if kind == "tsmom" else rule.inputs()
    expected = rule.exposures(panel, inputs, YEAR)
    assert_same_bits(stepped(rule.stepper(inputs, YEAR, 5), panel), expected)
    warmed = rule.stepper(inputs, YEAR, 5)
    warmed.warm_up(rows(panel, 0, 3_000))
    assert_same_bits(stepped(warmed, rows(panel, 3_000, len(panel.days))), expected[3_000:])


@kinds
def test_a_bar_without_a_close_changes_nothing(kind: str):
    panel, rule = sample(), RULES[kind]
    silent, told = (rule.stepper(rule.inputs(), YEAR, 5) for _ in range(2))
    for stepper in (silent, told):
        stepper.warm_up(rows(panel, 0, 100))
    assert math.isnan(told.update(0, 1.0, 1.0, NAN, 5.0))
    assert_same_bits(stepped(told, rows(panel, 100, 150)), stepped(silent, rows(panel, 100, 150)))


def test_whole_numbers_are_numbers():
    stepper = RULES["ema_cross"].stepper(EmaCrossInputs(fast=1, slow=2), YEAR, 1)
    assert [stepper.update(0, close, close, close, 0) for close in (3, 4, 2)][1:] == [1.0, -1.0]


@pytest.mark.parametrize("column", [-1, 2])
def test_a_column_that_is_none_is_refused(column: int):
    stepper = RULES["donchian"].stepper(DonchianInputs(), YEAR, 2)
    with pytest.raises(IndexError, match="no such column"):
        stepper.update(column, 1.0, 1.0, 1.0, 1.0)


def test_inputs_of_no_rule_have_no_incremental_form():
    with pytest.raises(TypeError, match="FactorRankInputs has no incremental form; add its layout"):
        Stepper(FactorRankInputs(feature_version="v1", feature_name="ret_5d"), YEAR, 1)
