"""Rule kinds: what exposure a rule wants, from bars."""

import math
from datetime import date, timedelta
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from quant_assets.core.matrices import Floats, Matrices, matrices
from quant_assets.signals import (
    RULES,
    BbRsiInputs,
    BreakoutInputs,
    DonchianInputs,
    EmaCrossInputs,
    Memo,
    Rule,
    TsmomInputs,
)
from quant_assets.signals.indicators import Indicators
from quant_assets.validation import leakage

NAN = math.nan
FIRST = date(2024, 1, 1)
SHORT = {
    "tsmom": TsmomInputs(lookback=7, weighting="volume", vol_window=5),
    "breakout": BreakoutInputs(window=6, atr_window=4, width=1.0),
    "donchian": DonchianInputs(entry=6, exit=3),
    "bb_rsi": BbRsiInputs(window=5, width=1.0, rsi_window=4, oversold=40.0, overbought=60.0),
    "ema_cross": EmaCrossInputs(fast=3, slow=6),
}
"""Windows so short that a few sessions open, turn and close positions."""
kinds = pytest.mark.parametrize("kind", RULES)


def one(closes: list[float], *, reach: float = 1.0, volumes: list[float] | None = None) -> Matrices:
    """A panel of one symbol, its highs and lows `reach` from the close."""
    close = np.array(closes, np.float64)[:, None]
    volume = np.ones(close.shape) if volumes is None else np.array(volumes, np.float64)[:, None]
    days = np.datetime64(FIRST, "D") + np.arange(len(close))
    return Matrices(days, ("A",), close, close + reach, close - reach, close, volume, np.array([len(close) - 1]))


def rule_of(inputs: object) -> Rule[Any]:
    return next(rule for rule in RULES.values() if rule.inputs is type(inputs))


def exposures(kind: str, inputs: object, panel: Matrices, year: int = 252, memo: Memo | None = None) -> list[float]:
    return RULES[kind].exposures(panel, inputs, year, memo)[:, 0].tolist()


def random_bars(sessions: int = 120, symbols: str = "ABC", missing: float = 0.1, seed: int = 0) -> pl.DataFrame:
    random = np.random.default_rng(seed)
    frames = []
    for symbol in symbols:
        close = 50 * np.exp(np.cumsum(random.normal(0, 0.03, sessions)))
        opened = close * np.exp(random.normal(0, 0.01, sessions))
        frame = pl.DataFrame(
            {
                "symbol": symbol,
                "ts": [FIRST + timedelta(days) for days in range(sessions)],
                "open": opened,
                "high": np.maximum(opened, close) * (1 + random.uniform(0, 0.02, sessions)),
                "low": np.minimum(opened, close) * (1 - random.uniform(0, 0.02, sessions)),
                "close": close,
                "volume": random.integers(0, 5, sessions).astype(float),
            }
        )
        frames.append(frame.filter(pl.Series(random.random(sessions) >= missing)))
    return pl.concat(frames)


def panel_of(bars: pl.DataFrame) -> Matrices:
    return matrices(bars, bars["ts"].unique().sort().to_list(), bars["symbol"].unique().sort().to_list())


# --- worked by hand ---


def test_tsmom_worked_by_hand():
    # one-session returns    .1    -.1   .1     0      0      .1      0       -.1      -.1      0        .1
    closes = [100.0, 110.0, 99.0, 108.9, 108.9, 108.9, 119.79, 119.79, 107.811, 97.0299, 97.0299, 106.73289]
    # the sample deviation of two returns a and b is |a - b| / sqrt(2): .2 / sqrt(2) of .1 and -.1, .1 / sqrt(2) of
    # .1 and 0; a target of .1 over them gives sqrt(2) / 2 and sqrt(2), and over none the cap of 2
    half, whole = math.sqrt(2) / 2, math.sqrt(2)
    expected = [
        NAN,
        NAN,
        -half,  #   99   / 100   - 1 = -.01; returns .1, -.1
        -half,  #  108.9 / 110   - 1 = -.01; returns -.1, .1
        whole,  #  108.9 / 99    - 1 =  .1;  returns .1, 0
        0.0,  #    108.9 / 108.9 - 1 =  0;   returns 0, 0: the cap in no direction
        whole,  # returns 0, .1
        whole,  # returns .1, 0
        -whole,  # returns 0, -.1
        -2.0,  #    97.0299 / 119.79 - 1 = -.19; returns -.1, -.1: the cap
        -whole,  # returns -.1, 0
        whole,  # returns 0, .1
    ]
    inputs = TsmomInputs(lookback=2, vol_window=2, vol_target=0.1)
    assert exposures("tsmom", inputs, one(closes), year=1) == pytest.approx(expected, abs=1e-12, nan_ok=True)
    by_quarter = exposures("tsmom", inputs, one(closes), year=4)  # annual volatility is twice the session's
    assert by_quarter[2:5] == pytest.approx([-half / 2, -half / 2, whole / 2])


def test_volume_decides_the_direction_of_volume_weighted_momentum():
    # returns .1, -.1, .1, 0; plain momentum over two sessions: -.01, -.01, .1
    closes = [100.0, 110.0, 99.0, 108.9, 108.9]
    # (3 x .1 - 1 x .1) / 4 = .05; (1 x -.1 + 0 x .1) / 1 = -.1; no volume at t = 3 and 4: undefined
    panel = one(closes, volumes=[9.0, 3.0, 1.0, 0.0, 0.0])
    assert Indicators(panel).momentum("volume", 2)[:, 0] == pytest.approx([NAN, NAN, 0.05, -0.1, NAN], nan_ok=True)
    assert Indicators(panel).momentum("plain", 2)[:, 0] == pytest.approx([NAN, NAN, -0.01, -0.01, 0.1], nan_ok=True)


def test_breakout_worked_by_hand():
    # true range: the larger of 2 (high - low) and |change| + 1
    closes = [10.0, 10.0, 10.0, 13.0, 12.0, 11.0, 12.0, 9.0, 10.0, 14.0, 11.0, 20.0]
    # ranges        2     2     4     2     2     2     4    2     5     4
    expected = [
        NAN,
        NAN,
        NAN,
        1.0,  # 13 > 10 + 2: centre (10 + 10 + 10) / 3, range (2 + 2) / 2
        1.0,  # 12 >= 11, the centre (10 + 10 + 13) / 3
        0.0,  # 11 < 11.67, the centre (10 + 13 + 12) / 3
        0.0,  # within 12 +- (2 + 2) / 2
        -1.0,  # 9 < 11.67 - 2
        -1.0,  # 10 <= 10.67, the centre (11 + 12 + 9) / 3
        1.0,  # 14 > 10.33 + (4 + 2) / 2: turned round
        1.0,  # 11 is the centre (9 + 10 + 14) / 3, not below it
        1.0,
    ]
    inputs = BreakoutInputs(window=3, atr_window=2, width=1.0)
    assert exposures("breakout", inputs, one(closes)) == pytest.approx(expected, nan_ok=True)


def test_donchian_worked_by_hand():
    # highs are 1 above the closes, lows 1 below
    closes = [10.0, 11.0, 10.0, 13.0, 12.0, 10.0, 8.0, 9.0, 11.0, 12.0, 14.0, 10.0]
    expected = [
        NAN,
        NAN,
        NAN,
        1.0,  # 13 > 12, the highest of the highs 11, 12, 11
        1.0,  # 12 >= 9, the lower of the lows 9, 12
        0.0,  # 10 < 11, the lower of the lows 12, 11; but not below 9, the lowest of 9, 12, 11
        -1.0,  # 8 < 9, the lowest of 12, 11, 9
        -1.0,  # 9 <= 11, the higher of the highs 11, 9
        0.0,  # 11 > 10, the higher of 9, 10; but not above 11, the highest of 11, 9, 10
        0.0,  # 12 is the highest of 9, 10, 12, not above it
        1.0,  # 14 > 13, the highest of 10, 12, 13
        0.0,  # 10 < 11, the lower of 11, 13; but not below 10, the lowest of 10, 11, 13
    ]
    assert exposures("donchian", DonchianInputs(entry=3, exit=2), one(closes)) == pytest.approx(expected, nan_ok=True)


def test_bb_rsi_worked_by_hand():
    closes = [10.0, 12.0, 11.0, 9.0, 9.5, 11.0, 10.0, 8.0, 7.0, 7.0, 7.5, 9.0]
    # changes       2    -1    -2    .5   1.5    -1    -2   -1    0    .5   1.5
    # Wilder's average of two: at first (2 + 0) / 2 and (0 + 1) / 2, then (average + new) / 2
    # gain                1    .5    .5    1     .5    .25   .125 .0625 .281 .891
    # loss               .5   1.25  .625  .3125 .656  1.328 1.164 .582  .291 .146
    index = [NAN, NAN, 200 / 3, 200 / 7, 400 / 9, 1600 / 21, 43.24, 15.84, 9.70, 9.70, 49.15, 85.96]
    strength = Indicators(one(closes)).rsi(2)[:, 0]
    assert strength == pytest.approx(index, abs=0.005, nan_ok=True)
    expected = [
        NAN,
        NAN,
        0.0,  # 11 is the mean of 10, 12, 11
        1.0,  # 9 < 10.67 - 1.25 = 9.42 and 28.6 < 30: of 12, 11, 9 the variance is (1.33^2 + .33^2 + 1.67^2) / 3
        1.0,  # 9.5 < 9.83, the middle of 11, 9, 9.5
        -1.0,  # 11 > 9.83 + .85 = 10.68 and 76.2 > 70: turned round
        0.0,  # 10 <= 10.17, the middle of 9.5, 11, 10
        1.0,  # 8 < 9.67 - 1.25 = 8.42 and 15.8 < 30
        1.0,
        1.0,  # 7 < 7.33, the middle of 8, 7, 7
        0.0,  # 7.5 >= 7.17; above the upper band, 7.40, but the index is 49
        -1.0,  # 9 > 7.83 + .85 = 8.68 and 86 > 70
    ]
    inputs = BbRsiInputs(window=3, width=1.0, rsi_window=2)
    assert exposures("bb_rsi", inputs, one(closes)) == pytest.approx(expected, nan_ok=True)


def test_ema_cross_worked_by_hand():
    closes = [8.0, 8.0, 16.0, 4.0, 8.0, 4.0, 5.0, 6.0]
    # fast, half of each distance:      8, 8, 12, 8,  8,   6,     5.5,    5.75
    # slow, a quarter of each distance: 8, 8, 10, 8.5, 8.375, 7.28, 6.71, 6.53
    expected = [NAN, NAN, NAN, NAN, NAN, NAN, -1.0, -1.0]
    assert exposures("ema_cross", EmaCrossInputs(fast=3, slow=7), one(closes)) == pytest.approx(expected, nan_ok=True)
    # fast, all of each distance: the closes; slow, two thirds: 8, 8, 13.33, 7.11, 7.70, 5.23, 5.08, 5.69
    expected = [NAN, 0.0, 1.0, -1.0, 1.0, -1.0, -1.0, 1.0]
    assert exposures("ema_cross", EmaCrossInputs(fast=1, slow=2), one(closes)) == pytest.approx(expected, nan_ok=True)
    means = Indicators(one(closes)).exponential(3)[:, 0]
    assert means == pytest.approx([NAN, NAN, 12.0, 8.0, 8.0, 6.0, 5.5, 5.75], nan_ok=True)


@pytest.mark.parametrize(("closes", "index"), [([1.0, 2.0, 3.0], 100.0), ([3.0, 2.0, 1.0], 0.0), ([2.0] * 3, 50.0)])
def test_the_relative_strength_index_of_closes_that_only_rise_fall_or_rest(closes: list[float], index: float):
    assert Indicators(one(closes)).rsi(2)[2, 0] == index


@kinds
def test_a_price_that_never_moves_asks_for_no_position(kind: str):
    price = 0.1  # its mean, summed up and divided, would differ from it
    found = exposures(kind, SHORT[kind], one([price] * 40, reach=0.0))
    assert set(found[RULES[kind].warm_up(SHORT[kind]) :]) == {0.0}


# --- against other implementations ---


def reference(inputs: object, bars: pd.DataFrame) -> pd.Series:
    """One symbol's exposures, written with pandas windows and plain loops."""
    close, high, low, volume = (bars[name] for name in ("close", "high", "low", "volume"))
    change = close.pct_change()
    match inputs:
        case EmaCrossInputs():
            fast, slow = (close.ewm(span=n, adjust=False, min_periods=n).mean() for n in (inputs.fast, inputs.slow))
            return np.sign(fast - slow)
        case TsmomInputs():
            if inputs.weighting == "plain":
                momentum = close.pct_change(inputs.lookback)
            else:
                total = volume.where(change.notna()).rolling(inputs.lookback).sum()
                momentum = (volume * change).rolling(inputs.lookback).sum() / total.where(total > 0.5)
            risk = change.rolling(inputs.vol_window).std() * math.sqrt(252)
            return np.sign(momentum) * (inputs.vol_target / risk).clip(upper=inputs.leverage_cap)
        case BreakoutInputs():
            previous = close.shift()
            ranges = pd.concat([high - low, (high - previous).abs(), (low - previous).abs()], axis=1).max(axis=1)
            ranges[previous.isna()] = NAN
            centre = close.rolling(inputs.window).mean().shift()
            spread = inputs.width * ranges.rolling(inputs.atr_window).mean().shift()
            enter = (close > centre + spread).astype(int) - (close < centre - spread).astype(int)
            leave_long, leave_short, known = close < centre, close > centre, (centre + spread).notna()
        case DonchianInputs():
            top, bottom = high.rolling(inputs.entry).max().shift(), low.rolling(inputs.entry).min().shift()
            enter = (close > top).astype(int) - (close < bottom).astype(int)
            leave_long = close < low.rolling(inputs.exit).min().shift()
            leave_short = close > high.rolling(inputs.exit).max().shift()
            known = top.notna()
        case BbRsiInputs():
            middle = close.rolling(inputs.window).mean()
            spread = inputs.width * close.rolling(inputs.window).std(ddof=0)
            index = wilder(close, inputs.rsi_window)
            enter = ((close < middle - spread) & (index < inputs.oversold)).astype(int) - (
                (close > middle + spread) & (index > inputs.overbought)
            ).astype(int)
            leave_long, leave_short, known = close >= middle, close <= middle, middle.notna() & index.notna()
    held, out = 0, []
    for entering, from_long, from_short, defined in zip(enter, leave_long, leave_short, known, strict=True):
        leaves = (held > 0 and from_long) or (held < 0 and from_short)
        held = entering or (0 if leaves else held)
        out.append(float(held) if defined else NAN)
    return pd.Series(out, close.index)


def wilder(close: pd.Series, sessions: int) -> pd.Series:
    rises, falls = ([sign * change for change in close.diff()[1:]] for sign in (1, -1))
    out = [NAN] * sessions
    gain, loss = (sum(max(change, 0) for change in changes[:sessions]) / sessions for changes in (rises, falls))
    for up, down in zip(rises[sessions:], falls[sessions:], strict=True):
        out.append(100 - 100 / (1 + gain / loss))
        gain = ((sessions - 1) * gain + max(up, 0)) / sessions
        loss = ((sessions - 1) * loss + max(down, 0)) / sessions
    return pd.Series([*out, 100 - 100 / (1 + gain / loss)], close.index)


@pytest.mark.parametrize(
    "inputs",
    [
        *SHORT.values(),
        TsmomInputs(),
        BreakoutInputs(),
        DonchianInputs(),
        BbRsiInputs(),
        EmaCrossInputs(),
        TsmomInputs(lookback=1),
    ],
    ids=str,
)
def test_exposures_equal_those_of_another_implementation(inputs: object):
    rule = rule_of(inputs)
    bars = random_bars(600)
    panel = panel_of(bars)
    found = rule.exposures(panel, inputs, 252)
    for column, symbol in enumerate(panel.symbols):
        own = bars.filter(pl.col("symbol") == symbol).to_pandas().set_index("ts")
        expected = reference(inputs, own).reindex(panel.days).to_numpy()
        assert found[:, column] == pytest.approx(expected, rel=1e-9, abs=1e-12, nan_ok=True)
    always_in = rule.kind in ("tsmom", "ema_cross")
    assert {-1.0, 0.0, 1.0} <= set(np.sign(found[~np.isnan(found)])) | ({0.0} if always_in else set())


@pytest.mark.parametrize("sessions", [1, 2, 10, 26])
def test_the_exponential_mean_is_that_of_pandas(sessions: int):
    bars = random_bars(300)
    panel = panel_of(bars)
    found = Indicators(panel).exponential(sessions)
    for column, symbol in enumerate(panel.symbols):
        close = bars.filter(pl.col("symbol") == symbol).to_pandas().set_index("ts")["close"]
        expected = close.ewm(span=sessions, adjust=False, min_periods=sessions).mean().reindex(panel.days).to_numpy()
        assert found[:, column] == pytest.approx(expected, rel=1e-12, nan_ok=True)


# --- what holds for every kind ---


def frame(kind: str):
    """Bars to a frame of exposures, as the leakage detectors want it."""

    def compute(bars: pl.DataFrame) -> pl.DataFrame:
        panel = panel_of(bars)
        found = RULES[kind].exposures(panel, SHORT[kind], 252)
        rows, columns = np.nonzero(~np.isnan(panel.close))
        return pl.DataFrame(
            {
                "symbol": [panel.symbols[column] for column in columns],
                "ts": panel.days[rows],
                "exposure": found[rows, columns],
            }
        )

    return compute


@kinds
def test_no_exposure_looks_ahead(kind: str):
    assert leakage.look_ahead(frame(kind), random_bars()) == []


def test_tsmom_has_the_same_bits_however_much_history_precedes_its_lookback():
    lookback = RULES["tsmom"].lookback(SHORT["tsmom"])
    assert lookback == 7
    bars = random_bars()
    kept = frame("tsmom")
    assert leakage.warm_up(kept, bars, lookback) == []
    assert leakage.warm_up(kept, bars, lookback - 1)[0].column == "exposure"


@pytest.mark.parametrize(
    ("inputs", "sessions"),
    [
        (TsmomInputs(lookback=7, vol_window=5), 7),
        (TsmomInputs(lookback=5, vol_window=8), 8),
        (BreakoutInputs(window=6, atr_window=4), 6),
        (BreakoutInputs(window=4, atr_window=6), 7),  # the first true range needs a close before it
        (DonchianInputs(entry=6, exit=6), 6),
        (BbRsiInputs(window=6, rsi_window=4), 5),  # the band includes t
        (BbRsiInputs(window=4, rsi_window=6), 6),
        (EmaCrossInputs(fast=4, slow=6), 5),
    ],
    ids=str,
)
def test_the_first_defined_exposure_is_that_after_the_warm_up(inputs: object, sessions: int):
    rule = rule_of(inputs)
    assert rule.warm_up(inputs) == sessions
    panel = panel_of(random_bars())
    found = rule.exposures(panel, inputs, 252)
    for column in range(3):
        own = found[~np.isnan(panel.close[:, column]), column]
        assert np.flatnonzero(~np.isnan(own)).tolist() == list(range(sessions, len(own)))
    assert np.isnan(found[np.isnan(panel.close)]).all()


@kinds
def test_only_tsmom_forgets(kind: str):
    assert (RULES[kind].lookback(SHORT[kind]) is None) == (kind != "tsmom")


@kinds
def test_a_symbol_alone_has_the_exposures_it_has_among_many(kind: str):
    bars = random_bars()
    panel = panel_of(bars)
    found = RULES[kind].exposures(panel, SHORT[kind], 252)
    for column, symbol in enumerate(panel.symbols):
        alone = matrices(bars, panel.days.tolist(), [symbol])
        np.testing.assert_array_equal(RULES[kind].exposures(alone, SHORT[kind], 252)[:, 0], found[:, column])


@kinds
def test_sessions_without_a_bar_are_skipped_over(kind: str):
    bars = random_bars(symbols="A", missing=0.3)
    gaps = panel_of(bars.filter(pl.col("symbol") == "A"))
    sessions = [FIRST + timedelta(days) for days in range(130)]
    spread = RULES[kind].exposures(matrices(bars, sessions, ["A"]), SHORT[kind], 252)[:, 0]
    there = np.isin(np.array(sessions, "datetime64[D]"), gaps.days)
    np.testing.assert_array_equal(spread[there], RULES[kind].exposures(gaps, SHORT[kind], 252)[:, 0])
    assert np.isnan(spread[~there]).all()


@kinds
def test_no_symbols_no_sessions_and_symbols_without_bars_have_no_exposures(kind: str):
    def shape_of(sessions: int, symbols: list[str]) -> Floats:
        days = [FIRST + timedelta(day) for day in range(sessions)]
        return RULES[kind].exposures(matrices(random_bars(40), days, symbols), SHORT[kind], 252)

    assert shape_of(40, []).shape == (40, 0)
    assert shape_of(0, ["A"]).shape == (0, 1)
    found = shape_of(40, ["Y", "A", "Z"])
    assert np.isnan(found[:, [0, 2]]).all()
    assert not np.isnan(found[:, 1]).all()


@kinds
def test_a_memo_changes_no_value_and_serves_one_panel(kind: str):
    panel = panel_of(random_bars())
    memo: Memo = {}
    inputs = [SHORT[kind], RULES[kind].inputs()]
    for given_inputs in [*inputs, *inputs]:
        np.testing.assert_array_equal(
            RULES[kind].exposures(panel, given_inputs, 252, memo), RULES[kind].exposures(panel, given_inputs, 252)
        )
    with pytest.raises(ValueError, match="filled from another panel"):
        RULES[kind].exposures(panel_of(random_bars()), SHORT[kind], 252, memo)


def test_a_memo_computes_each_parameter_value_once():
    panel, memo = panel_of(random_bars()), {}
    for lookback in (5, 10):
        for vol_window in (5, 10, 20):
            for cap in (1.0, 2.0):
                inputs = TsmomInputs(lookback=lookback, vol_window=vol_window, leverage_cap=cap)
                RULES["tsmom"].exposures(panel, inputs, 252, memo)
    assert {key[0] for key in memo} == {"bars", "momentum", "volatility"}
    assert len(memo) == 1 + 2 + 3


def test_symbols_that_a_rule_can_say_nothing_about_are_named_with_the_reason():
    bars = random_bars(30, missing=0.0).with_columns(
        volume=pl.when(pl.col("symbol") == "B").then(0.0).otherwise(pl.col("volume") + 1)
    )
    panel = matrices(
        bars.remove((pl.col("symbol") == "A") & (pl.col("ts") >= FIRST + timedelta(7))),
        [FIRST + timedelta(day) for day in range(30)],
        ["A", "B", "C", "Z"],
    )
    assert RULES["tsmom"].unfit(panel, SHORT["tsmom"]) == {
        "A": "7 sessions with a bar, tsmom needs 8",
        "B": "no volume traded over the lookback of any session",
        "Z": "0 sessions with a bar, tsmom needs 8",
    }
    assert RULES["donchian"].unfit(panel, SHORT["donchian"]) == {"Z": "0 sessions with a bar, donchian needs 7"}


closes = st.lists(st.integers(1, 40), min_size=12, max_size=60)


@kinds
@given(closes=closes, seed=st.integers(0, 9))
def test_exposures_stay_within_the_cap(kind: str, closes: list[int], seed: int):
    volumes = np.random.default_rng(seed).integers(0, 3, len(closes)).tolist()
    found = np.array(exposures(kind, SHORT[kind], one(closes, reach=0.5, volumes=volumes)))
    cap = SHORT[kind].leverage_cap if kind == "tsmom" else 1.0
    assert np.nanmax(np.abs(found), initial=0.0) <= cap
    assert not np.isinf(found).any()
    if kind != "tsmom":
        assert set(found[~np.isnan(found)]) <= {-1.0, 0.0, 1.0}


@kinds
@given(closes=closes, power=st.integers(-20, 20))
def test_the_currency_of_prices_does_not_matter(kind: str, closes: list[int], power: int):
    scaled = one([close * 2.0**power for close in closes], reach=0.5 * 2.0**power)
    np.testing.assert_array_equal(
        exposures(kind, SHORT[kind], scaled), exposures(kind, SHORT[kind], one(closes, reach=0.5))
    )


@pytest.mark.parametrize(
    ("kind", "inputs"),
    [
        ("breakout", BreakoutInputs(window=4, atr_window=4, width=0.75)),
        ("donchian", SHORT["donchian"]),
        ("bb_rsi", BbRsiInputs(window=4, width=0.75, rsi_window=4, oversold=41.7, overbought=58.3)),
    ],
)
@given(closes=closes)
def test_prices_turned_upside_down_turn_the_position(kind: str, inputs: object, closes: list[int]):
    # windows of four and a width of three quarters: nothing is rounded, so that no close misses its limit by a bit
    upside_down = exposures(kind, inputs, one([64.0 - close for close in closes]))
    assert [-value for value in upside_down] == pytest.approx(exposures(kind, inputs, one(closes)), nan_ok=True)


@given(returns=st.lists(st.sampled_from([-0.04, -0.02, 0.01, 0.03]), min_size=10, max_size=30))
def test_volume_weighted_returns_turned_upside_down_turn_the_position(returns: list[float]):
    inputs = TsmomInputs(lookback=5, weighting="volume", vol_window=5)
    volumes = [3.0 ** (number % 4) for number in range(len(returns) + 1)]

    def sized(sign: int) -> list[float]:
        prices = np.cumprod([50.0, *(1 + sign * value for value in returns)])
        return exposures("tsmom", inputs, one(prices.tolist(), volumes=volumes))

    momentum = Indicators(one(np.cumprod([50.0, *(1 + value for value in returns)]).tolist(), volumes=volumes))
    clear = np.abs(momentum.momentum("volume", 5)[:, 0]) > 1e-9
    assert np.array(sized(-1))[clear] == pytest.approx(-np.array(sized(1))[clear], rel=1e-6)


# --- parameters ---


@pytest.mark.parametrize(
    ("model", "values", "message"),
    [
        (TsmomInputs, {"lookback": 0}, "greater than or equal to 1"),
        (TsmomInputs, {"vol_window": 1}, "greater than or equal to 2"),
        (TsmomInputs, {"weighting": "value"}, "'plain' or 'volume'"),
        (TsmomInputs, {"vol_target": 0.0}, "greater than 0"),
        (TsmomInputs, {"leverage_cap": 10.5}, "less than or equal to 10"),
        (TsmomInputs, {"leverage_cap": NAN}, "finite number"),
        (TsmomInputs, {"look_back": 5}, "Extra inputs are not permitted"),
        (TsmomInputs, {"lookback": 20.0}, "valid integer"),
        (BreakoutInputs, {"width": 0.0}, "greater than 0"),
        (BreakoutInputs, {"window": 2521}, "less than or equal to 2520"),
        (DonchianInputs, {"entry": 20, "exit": 30}, "exit 30 is longer than entry 20; shorten exit or lengthen entry"),
        (EmaCrossInputs, {"fast": 0}, "greater than or equal to 1"),
        (EmaCrossInputs, {"fast": 20, "slow": 20}, "fast 20 is not below slow 20; shorten fast or lengthen slow"),
        (BbRsiInputs, {"window": 1}, "greater than or equal to 2"),
        (BbRsiInputs, {"oversold": 70, "overbought": 30}, "oversold 70 is not below overbought 30; move them apart"),
        (BbRsiInputs, {"overbought": 100.0}, "less than 100"),
    ],
)
def test_a_parameter_out_of_range_is_refused(model: type, values: dict[str, object], message: str):
    with pytest.raises(ValidationError, match=message):
        model(**values)


@kinds
def test_a_kind_says_its_formula(kind: str):
    assert "close" in RULES[kind].formula or "momentum" in RULES[kind].formula
    assert RULES[kind].kind == kind
