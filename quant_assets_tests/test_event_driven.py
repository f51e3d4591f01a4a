"""Strategies event by event: trades and equity of the vectorised engine, the same bytes each time, deaths survived."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant_assets.backtest.engine import BacktestResult
from quant_assets.core.calendar import trading_calendar
from quant_assets.core.errors import DataError, JournalError
from quant_assets.core.settings import PROJECT_ROOT, Settings
from quant_assets.features import compute
from quant_assets.market_data.adjustment import adjust
from quant_assets.market_data.provider import FetchRequest
from quant_assets.market_data.sample import SampleProvider
from quant_assets.strategy import probe
from quant_assets.strategy.event_driven import (
    DUST,
    EventBacktest,
    Material,
    journal_header,
    parity,
    replay,
    replay_of,
    risk_limits,
)
from quant_assets.strategy.spec import StrategySpec, load_strategies
from quant_assets.strategy.universe import load_universe
from quant_assets.trading import feed, system
from quant_assets.trading.component import Component, connect
from quant_assets.trading.events import (
    KINDS,
    Bar,
    CashMovement,
    Ended,
    Event,
    Fill,
    HandlerFailed,
    Level,
    Moment,
    Opening,
    OrderRequest,
    Signal,
)
from quant_assets.trading.feed import DAY
from quant_assets.trading.journal import JOURNALED, Journal, read, rebuild
from quant_assets.trading.orders import State
from quant_assets.trading.system import Replay
from quant_assets_tests import event_market
from quant_assets_tests.event_market import (
    CALENDAR,
    FREE,
    HISTORY,
    MODEL,
    busy,
    made_bars,
    material,
    ranked,
    strategy,
    vectorised,
    write_journal,
)
from quant_assets_tests.platform import PATIENCE

HEADER = {"test": "whole replays"}


def assert_parity(spec: StrategySpec, given: Material) -> int:
    """Same trades, same equity, nothing refused; or both lose everything. Returns the number of trades."""
    try:
        reference = vectorised(spec, given)
    except DataError:
        with pytest.raises(DataError, match="equity falls to"):
            replay(spec, given)
        return 0
    done = replay(spec, given)
    found = parity(done, reference.equity, reference.trades, spec.backtest.initial_cash)
    assert found.lines == ()
    assert found.worst_difference <= 1e-9
    return reference.trades.height


# --- the shipped strategies ----------------------------------------------------------------------------------------

FOLDER = PROJECT_ROOT / "strategies"
SHIPPED = load_strategies(FOLDER)
UNIVERSES = {path.stem: load_universe(path) for path in (FOLDER / "universes").glob("*.yaml")}


def sample_bars() -> pl.DataFrame:
    """The embedded provider's, adjusted."""
    provider = SampleProvider.create(Settings(), [], {})
    symbols = UNIVERSES["us_tech"].names
    fetched = {one: provider.fetch(FetchRequest(one, date.min, date.max)) for one in symbols}
    named = pl.lit("sample").alias("source")
    bars = pl.concat(one.bars.with_columns(named, symbol=pl.lit(symbol)) for symbol, one in fetched.items())
    actions = pl.concat(one.actions.with_columns(symbol=pl.lit(symbol)) for symbol, one in fetched.items())
    return adjust(bars, actions, ())


def predictions(bars: pl.DataFrame) -> pl.DataFrame:
    """Made ones: a tenth of the rows is missing."""
    generator = np.random.default_rng(2)
    kept = bars.select("symbol", "ts").filter(pl.Series(generator.random(bars.height) > 0.1))
    score, calibrated = generator.normal(0, 0.05, kept.height), generator.random(kept.height)
    return kept.with_columns(score=pl.Series(score), calibrated_score=pl.Series(calibrated))


@pytest.mark.slow
@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_strategy_trades_as_in_its_vectorised_backtest(name: str):
    spec = SHIPPED[name]
    universe = UNIVERSES[str(spec.universe)]
    calendar, bounds = trading_calendar(universe.calendar), spec.bounds(universe, FOLDER / "universes")
    last = universe.end or date(2022, 12, 31)
    bars = sample_bars() if universe.name == "us_tech" else probe.made_bars(bounds, calendar, last, 1400)
    source = None if spec.rule else predictions(bars) if spec.model else compute(bars, "v1")
    sessions = calendar.between(spec.backtest.first, last)
    year = calendar.sessions_per_year
    assert assert_parity(spec, Material(bars, source, sessions, calendar.sessions, bounds, year, {}, {})) > 20


# --- random strategies ---------------------------------------------------------------------------------------------

SMALL = st.integers(1, 20)
RULES: dict[str, dict[str, st.SearchStrategy[Any]]] = {
    "tsmom": {
        "lookback": st.integers(1, 40),
        "weighting": st.sampled_from(["plain", "volume"]),
        "vol_window": st.integers(2, 20),
        "vol_target": st.sampled_from([0.1, 0.6, 2.0]),
        "leverage_cap": st.sampled_from([1.0, 3.0]),
    },
    "breakout": {"window": SMALL, "atr_window": SMALL, "width": st.sampled_from([0.25, 1.0, 2.0])},
    "donchian": {"entry": st.integers(10, 20), "exit": st.integers(1, 10)},
    "bb_rsi": {
        "window": st.integers(2, 20),
        "width": st.sampled_from([0.5, 1.0, 2.0]),
        "rsi_window": SMALL,
        "oversold": st.sampled_from([30.0, 50.0]),
        "overbought": st.sampled_from([55.0, 70.0]),
    },
    "ema_cross": {"fast": st.integers(1, 8), "slow": st.integers(9, 30)},
}
RANK = {"feature_version": st.just("v1"), "feature_name": st.sampled_from(["ret_1d", "ret_5d", "vol_20d"])}
QUICK, FITTED = ("equal", "inverse_vol", "score_weighted"), ("risk_parity", "hrp")
"""Weightings; each date of the others takes milliseconds."""


def one_of(*values: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from(values)


@st.composite
def cases(draw: st.DrawFn, weightings: tuple[str, ...]) -> tuple[StrategySpec, Material]:
    """A strategy, and bars with listings, ends and gaps, some of them beyond what the strategy may hold."""
    kind = draw(one_of("factor_rank", "model_score", *RULES))
    is_rule, sessions = kind in RULES, draw(st.integers(60, 200))
    count = HISTORY + sessions
    symbols = "ABCDEF"[: draw(st.integers(3, 6))]
    spans, bounds = {}, {}
    for symbol in symbols:
        first = draw(st.just(0) | st.integers(0, count - 60))
        last = draw(st.just(count - 1) | st.integers(count - 50, count - 1))
        spans[symbol] = first, last
        bounds[symbol] = (
            draw(st.just(CALENDAR[first]) | st.sampled_from(CALENDAR[first : first + 30])),
            draw(st.none() | st.just(CALENDAR[last]) | st.sampled_from(CALENDAR[count - 30 : count])),
        )
    bars = made_bars(
        draw(st.integers(0, 2**31)), sessions, spans, draw(one_of(0.0, 0.05, 0.3)), draw(one_of(0.01, 0.03, 0.08))
    )
    source, inputs = None, draw(st.fixed_dictionaries(RULES.get(kind, RANK)))
    if kind == "factor_rank":
        source = compute(bars, "v1")
    if kind == "model_score":
        source = predictions(bars)
    weighting = draw(st.sampled_from([one for one in weightings if not (is_rule and one == "score_weighted")]))
    often = ["monthly"] if weighting in FITTED else ["daily", "weekly", "monthly"]
    previous = draw(st.fixed_dictionaries({}, optional=dict.fromkeys(symbols[1:], one_of(-0.1, 0.1, 0.15))))
    if draw(st.booleans()):
        del bounds[symbols[-1]]  # what is held of it has left the universe
    spec = strategy(
        MODEL if kind == "model_score" else {"type": kind, "inputs": inputs},
        list(bounds),
        rebalance={"frequency": draw(st.sampled_from(often)), "threshold": draw(one_of(0.0, 0.01, 0.05))},
        portfolio={
            "top_k": draw(st.integers(1, 6) | st.none() if is_rule else st.integers(1, 6)),
            "weighting": weighting,
            "risk_window": draw(st.integers(2, 30)),
            "short": draw(one_of("none", "hedge", "full")) if is_rule else "none",
            "hedge_drawdown": draw(one_of(0.01, 0.1)),
        },
        min_cross_section=draw(one_of(0.1, 0.5, 1.0)),
        supervisor={
            "gross_exposure_cap": draw(one_of(0.5, 1.0, 2.0)),
            "max_weight_per_symbol": draw(one_of(0.15, 0.5, 1.0)),
            "max_positions": draw(st.integers(1, 6)),
            "turnover_cap": draw(one_of(None, 0.0, 0.1, 0.5)),
            "score_floor": draw(one_of(None, 0.0, 0.02)),
        },
        exits={"stop_loss": draw(one_of(None, 0.02, 0.1)), "trailing_stop": draw(one_of(None, 0.02, 0.1))},
        execution={"price": draw(one_of("close", "next_open", "next_close"))},
        backtest={
            "from": CALENDAR[HISTORY],
            "initial_cash": draw(one_of(1_000.0, 100_000.0)),
            "fee_bps": draw(one_of(0.0, 2.0, 50.0)),
            "slippage_bps": draw(one_of(0.0, 10.0, 50.0)),
            "funding_bps_per_day": draw(one_of(0.0, 3.0, -5.0)),
            "leverage": draw(one_of(None, 1.0, 1.5, 3.0)),
        },
    )
    initial = previous if draw(st.booleans()) else {}
    return spec, material(bars, sessions, source=source, bounds=bounds, previous=previous, initial=initial)


LIKELY = {"deadline": None, "suppress_health_check": [HealthCheck.too_slow, HealthCheck.data_too_large]}


@settings(max_examples=40, **LIKELY)
@given(cases(QUICK))
def test_any_strategy_trades_as_in_its_vectorised_backtest(case: tuple[StrategySpec, Material]):
    assert_parity(*case)


@pytest.mark.slow
@settings(max_examples=220, **LIKELY)
@given(cases((*QUICK, *QUICK, *FITTED)))
def test_many_strategies_trade_as_in_their_vectorised_backtests(case: tuple[StrategySpec, Material]):
    assert_parity(*case)


@pytest.mark.parametrize("case", [busy, ranked])
def test_a_busy_strategy_trades_as_in_its_vectorised_backtest(case: Callable[[], tuple[StrategySpec, Material]]):
    assert assert_parity(*case()) > 100


def test_dates_after_the_last_bar_of_all_symbols_have_no_targets():
    """There is nothing to allocate either."""
    bars = made_bars(1, 60, {"A": (0, HISTORY + 20)})
    spec = strategy(
        {"type": "ema_cross", "inputs": {"fast": 2, "slow": 10}},
        "A",
        portfolio={"weighting": "risk_parity", "risk_window": 5},
        rebalance={"frequency": "weekly"},
    )
    assert assert_parity(spec, material(bars, 60)) > 0


# --- what fills where, in both engines -----------------------------------------------------------------------------

NAN = float("nan")


def tiny(
    bars: dict[str, list[tuple[float, float, float, float]]], scores: dict[str, list[float]], **sections: Any
) -> tuple[BacktestResult, EventBacktest]:
    """Both engines on bars (open, high, low, close) of the first sessions: the higher of positive scores has it all."""
    days = CALENDAR[HISTORY:]
    rows = [(symbol, day, *bar) for symbol, found in bars.items() for day, bar in zip(days, found, strict=False)]
    columns = ["symbol", "ts", "open", "high", "low", "close"]
    frame = pl.DataFrame(rows, columns, orient="row").with_columns(volume=pl.lit(10.0))
    source = pl.DataFrame(
        [(symbol, day, one) for symbol, found in scores.items() for day, one in zip(days, found, strict=False)],
        ["symbol", "ts", "score"],
        orient="row",
    ).filter(pl.col("score").is_not_nan())
    costs = {"fee_bps": 0.0, "slippage_bps": 0.0, "initial_cash": 1000.0}
    sections["backtest"] = {"from": days[0], **costs, **sections.get("backtest", {})}
    spec = strategy(
        MODEL, list(bars), portfolio={"top_k": 1}, **{"supervisor": {**FREE, "score_floor": 0.0}, **sections}
    )
    given = material(frame, max(map(len, bars.values())), source=source)
    reference, done = vectorised(spec, given), replay(spec, given)
    assert parity(done, reference.equity, reference.trades, 1000.0).lines == ()
    return reference, done


def told(done: BacktestResult | EventBacktest) -> list[tuple[Any, ...]]:
    """(symbol, entry, price, exit, price, reason) of each trade; sessions count from 0, None: held at the end."""
    numbers: dict[date | None, int | None] = {day: n for n, day in enumerate(CALENDAR[HISTORY:])}
    columns = ("symbol", "entry_ts", "entry_price", "exit_ts", "exit_price", "reason")
    return [
        (symbol, numbers[entry], round(paid, 9), numbers.get(left), round(got, 9), reason)
        for symbol, entry, paid, left, got, reason in done.trades.select(columns).iter_rows()
    ]


def flat(*prices: float) -> list[tuple[float, float, float, float]]:
    return [(price,) * 4 for price in prices]


@pytest.mark.parametrize(
    ("price", "trade"),
    [
        ("close", ("A", 0, 101.0, 2, 121.0, "rebalance")),
        ("next_open", ("A", 1, 110.0, 3, 130.0, "rebalance")),
        ("next_close", ("A", 1, 111.0, 3, 131.0, "rebalance")),
    ],
)
def test_what_is_decided_at_a_close_fills_there_or_a_session_later_in_both_engines(price: str, trade: tuple[Any, ...]):
    bars = [(100.0 + n, 102.0 + n, 99.0 + n, 101.0 + n) for n in (0, 10, 20, 30)]
    for done in tiny({"A": bars}, {"A": [1.0, 1.0, -1.0, 1.0]}, execution={"price": price}):
        trades = told(done)
        assert trades[0] == trade
        assert len(trades) == 1 + (price == "close"), "what is decided at the last close fills there or never"


@pytest.mark.parametrize(
    ("second", "exit_price"),
    [
        ((98.0, 99.0, 89.0, 97.0), 90.0),
        ((98.0, 99.0, 90.0, 97.0), 90.0),
        ((85.0, 99.0, 84.0, 97.0), 85.0),
    ],
    ids=["a low beyond the level", "a low at the level", "an open beyond the level"],
)
def test_a_stop_fills_within_the_bar_at_its_level_or_at_the_open_beyond_it_in_both_engines(
    second: tuple[float, ...], exit_price: float
):
    """Neither knows the path between open and close: the low is taken to come before the close, whatever came first."""
    bars = {"A": [*flat(100), second, *flat(100, 100)], "B": flat(10, 10, 10, 10)}
    for done in tiny(bars, {"A": [1.0] * 4}, exits={"stop_loss": 0.1}):
        assert told(done) == [("A", 0, 100.0, 1, exit_price, "stop loss")], "and waits for its target to change"


def test_a_stop_at_the_open_comes_before_the_orders_of_that_open_in_both_engines():
    bars = {"A": flat(100, 100, 80, 80), "B": flat(10, 10, 20, 20)}
    decided = {"A": [1.0, -1.0, -1.0, -1.0], "B": [NAN, 1.0, 1.0, 1.0]}
    trades = [("A", 1, 100.0, 2, 80.0, "stop loss"), ("B", 2, 20.0, None, 20.0, "open")]
    for done in tiny(bars, decided, exits={"stop_loss": 0.1}, execution={"price": "next_open"}):
        assert told(done) == trades


def test_a_trailing_stop_follows_the_high_of_the_bars_before_in_both_engines():
    bars = {"A": [*flat(100), (100.0, 150.0, 96.0, 140.0), (141.0, 142.0, 134.0, 140.0)]}
    for done in tiny(bars, {"A": [1.0] * 3}, exits={"trailing_stop": 0.1}):
        assert told(done) == [("A", 0, 100.0, 2, 135.0, "trailing stop")]


def test_what_has_ended_is_sold_a_session_later_at_its_last_close_in_both_engines():
    bars = {"A": flat(100, 90), "B": flat(10, 10, 10, 10)}
    for done in tiny(bars, {"A": [1.0, 1.0], "B": [0.5] * 4}):
        assert told(done)[0] == ("A", 0, 100.0, 2, 90.0, "end of data")


def test_a_part_of_the_volume_is_all_that_a_bar_fills_which_the_vectorised_engine_does_not_know():
    spec = strategy(MODEL, "A", portfolio={"top_k": 1}, backtest={"from": CALENDAR[HISTORY], "initial_cash": 1000.0,
                    "fee_bps": 0.0, "slippage_bps": 0.0})  # fmt: skip
    days = CALENDAR[HISTORY : HISTORY + 3]
    bars = pl.DataFrame({"symbol": ["A"] * 3, "ts": days, "open": 100.0, "close": [100.0, 110.0, 120.0], "volume": 8.0})
    given = material(bars, 3, source=pl.DataFrame({"symbol": ["A"], "ts": days[:1], "score": [1.0]}))
    (whole,) = vectorised(spec, given).trades.select("qty", "entry_price").rows()
    assert whole == (10.0, 100.0)
    limited = with_participation(replay_of(spec, given), 0.5)
    fills: list[Fill] = []
    limited.bus.tap(fills.append, [Fill])
    limited.run()
    assert [(one.quantity, one.price) for one in fills] == [(4.0, 100.0), (4.0, 110.0), (2.0, 120.0)]


# --- the limits of a backtest --------------------------------------------------------------------------------------


def test_a_turn_from_all_long_to_all_short_in_another_symbol_meets_no_limit():
    """On the way the account holds both."""
    rising, falling = (np.linspace(100, end, 30) for end in (130, 70))
    prices = {"A": np.append(rising, rising[::-1]), "B": np.append(rising, falling[::-1])}
    days = CALENDAR[HISTORY - 20 : HISTORY + 40]
    bars = pl.concat(
        pl.DataFrame({"symbol": [symbol] * 60, "ts": days, "open": one, "close": one, "volume": 1.0})
        for symbol, one in prices.items()
    )
    spec = strategy(
        {"type": "ema_cross", "inputs": {"fast": 1, "slow": 2}},
        "AB",
        portfolio={"short": "full", "top_k": 1},
        supervisor={**FREE, "max_positions": 1},
    )
    assert assert_parity(spec, material(bars, 40)) > 1
    limits = risk_limits(spec, "AB")
    assert (limits.max_position, limits.max_leverage, limits.max_order_share) == (1.5, 3.0, 3.0)


def test_a_refused_order_makes_the_backtests_differ_and_the_rule_is_named():
    spec, given = busy(40)
    reference = vectorised(spec, given)
    allowed = replay_of(spec, given)
    strict = replace(allowed.config, limits=replace(allowed.config.limits, max_position=0.05))
    refused = Replay(allowed.history, strict, allowed.strategy, allowed.phases).run()
    done = replace(
        replay(spec, given), equity=np.array(refused.analytics.equity), denials=dict(refused.risk.denials)
    )  # fmt: skip
    equity, denied = parity(done, reference.equity, reference.trades, 1e5).lines
    assert equity.startswith("equity differs by ")
    assert denied == f"risk rule position refused {refused.risk.denials['position']} order(s)"


# --- the comparison ------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compared() -> tuple[EventBacktest, BacktestResult]:
    spec, given = busy(60)
    return replay(spec, given), vectorised(spec, given)


def lines_of(
    compared: tuple[EventBacktest, BacktestResult],
    trades: pl.DataFrame | None = None,
    equity: pl.DataFrame | None = None,
) -> tuple[str, ...]:
    done, reference = compared
    given = reference.equity if equity is None else equity, reference.trades if trades is None else trades
    return parity(done, *given, 100_000.0).lines


def changed(frame: pl.DataFrame, row: int, **values: Any) -> pl.DataFrame:
    here = pl.int_range(pl.len()) == row
    return frame.with_columns(pl.when(here).then(value).otherwise(name).alias(name) for name, value in values.items())


def test_rows_in_any_order_agree(compared: tuple[EventBacktest, BacktestResult]):
    _, reference = compared
    assert lines_of(compared, reference.trades.reverse(), reference.equity.reverse()) == ()


def test_an_equity_that_differs_is_told_with_its_first_session(compared: tuple[EventBacktest, BacktestResult]):
    done, reference = compared
    at = reference.equity["equity"]
    two = changed(changed(reference.equity, 7, equity=at * (1 + 1e-8)), 20, equity=at * 1.25)
    (line,) = lines_of(compared, equity=two)
    day = reference.equity["ts"][7]
    here, there = done.equity[7], at[7] * (1 + 1e-8)
    assert line == f"equity differs by 0.2 at the most, first on {day}: {here:,.6f} here, {there:,.6f} there"
    assert lines_of(compared, equity=changed(reference.equity, 7, equity=at * (1 + 1e-10))) == ()


def test_an_equity_that_is_no_number_differs(compared: tuple[EventBacktest, BacktestResult]):
    done, reference = compared
    lost = replace(done, equity=np.append(done.equity[:-1], np.nan))
    (line,) = lines_of((lost, reference))
    assert f"first on {CALENDAR[HISTORY + 59]}: nan here" in line


@pytest.mark.parametrize("name", ["entry_price", "qty", "exit_price", "pnl", "fees"])
def test_a_trade_that_differs_is_told_with_the_figure(compared: tuple[EventBacktest, BacktestResult], name: str):
    done, reference = compared
    trades, row = reference.trades, reference.trades.row(3, named=True)
    (line,) = lines_of(
        compared, changed(trades, 3, **{name: pl.col(name) + (1.0 if name in ("pnl", "fees") else 1e-4)})
    )
    place = f"{row['symbol']} {row['side']} from {row['entry_ts']} to {row['exit_ts']}: {name} "
    assert line.startswith(f"1 of {trades.height} trades differ ({done.trades.height} here), first {place}")
    assert line.endswith(" there")
    least = 1e-6 if name in ("pnl", "fees") else pl.col(name).abs() * 1e-11
    assert lines_of(compared, changed(trades, 3, **{name: pl.col(name) + least})) == ()


def test_a_trade_that_one_side_has_not_is_told(compared: tuple[EventBacktest, BacktestResult]):
    done, reference = compared
    trades = reference.trades
    (line,) = lines_of(compared, trades.filter(pl.col("trade_no") != 3))
    assert line.startswith(f"1 of {trades.height - 1} trades differ ({done.trades.height} here), first ")
    assert line.endswith(": only here")
    (line,) = lines_of(compared, changed(trades, 3, symbol=pl.lit("Z")))
    assert line.startswith(f"2 of {trades.height} trades differ")
    (line,) = lines_of((replace(done, trades=done.trades.head(0)), reference))
    assert line.endswith(": only there")


def test_shares_that_are_what_rounding_leaves_of_the_cash_agree(compared: tuple[EventBacktest, BacktestResult]):
    """A buy cut to the cash left over is a difference of large sums: of a ten-thousandth share, worth half a cent of an
    account of 100,000, two engines that sum in another sequence agree on fewer than nine digits."""
    done, reference = compared
    dust = {"qty": 8.3e-5, "pnl": 0.0, "fees": 0.0}
    here, there = (changed(one.trades, 3, **dust) for one in (done, reference))
    left = replace(done, trades=here), reference
    worth = DUST * 100_000.0 / pl.col("entry_price")
    assert lines_of(left, changed(there, 3, qty=pl.col("qty") + 0.9 * worth)) == ()
    assert len(lines_of(left, changed(there, 3, qty=pl.col("qty") + 1.1 * worth))) == 1


def test_backtests_of_different_periods_are_not_compared(compared: tuple[EventBacktest, BacktestResult]):
    done, reference = compared
    with pytest.raises(DataError, match="the backtest has 59 sessions, the replay 60; replay the backtest's period"):
        parity(done, reference.equity.head(59), reference.trades, 1e5)


# --- the journal ---------------------------------------------------------------------------------------------------


def with_participation(running: Replay, share: float) -> Replay:
    config = replace(running.config, participation=share)
    return Replay(running.history, config, running.strategy, running.phases)


def journaled(running: Replay, journal: Journal) -> Replay:
    """Record a replay that was made without a journal."""
    running.journal = journal
    running.bus.tap(journal.append, JOURNALED)
    return running


def account_of(done: system.TradingSystem) -> dict[str, Any]:
    """All that an account has, to the bit, and the equity after each row."""
    known = {name: value for name, value in vars(done.account).items() if not name.startswith("_")}
    return {**known, "equity": done.analytics.equity, "orders": done.orders.requested}


def test_two_replays_write_the_same_bytes(tmp_path: Path):
    for name in ("one", "two"):
        write_journal(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    kinds = {type(event) for event in read(tmp_path / "one")[1]}
    assert {Signal, OrderRequest, Fill, CashMovement, Ended} <= kinds


@pytest.mark.slow
def test_processes_that_hash_otherwise_write_the_same_bytes(tmp_path: Path):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT_ROOT)}
    command = [sys.executable, "-m", event_market.__name__]  # a forked process would hash as its parent does
    running = [
        subprocess.Popen([*command, str(tmp_path / seed)], env={**environment, "PYTHONHASHSEED": seed})
        for seed in ("0", "1")
    ]
    assert [process.wait(PATIENCE) for process in running] == [0, 0]
    write_journal(tmp_path / "here")
    assert (tmp_path / "0").read_bytes() == (tmp_path / "1").read_bytes() == (tmp_path / "here").read_bytes()


class Watcher(Component):
    """Takes the account's and the orders' state after each fill and movement, and when all is at rest."""

    name = "watcher"

    def __init__(self, running: Replay) -> None:
        self.account, self.orders = running.system.account, running.system.orders
        self.symbols = running.system.market.symbols
        self.published = 0
        self.money: list[tuple[int, float, dict[str, float]]] = []
        self.rest: list[tuple[int, float, dict[str, float], dict[str, float]]] = []
        running.bus.tap(self.count, JOURNALED)

    def handlers(self) -> dict[type[Event], Any]:
        at_rest = dict.fromkeys((Opening, Bar, Moment, Ended), (self.resting, Level.P3))
        return {Fill: self.moved, CashMovement: self.moved, **at_rest}

    def count(self, event: Event) -> None:
        self.published = event.seq

    def positions(self) -> dict[str, float]:
        return {self.symbols[column]: self.account.shares[column] for column in self.account.held}

    def moved(self, event: Event) -> None:
        self.money.append((event.seq, self.account.cash, self.positions()))

    def resting(self, event: Event) -> None:
        orders = self.orders.open_orders()
        assert all(one.state is not State.INITIALIZED for one in orders)
        left = {one.request.client_order_id: one.remaining for one in orders}
        self.rest.append((self.published, self.account.cash, self.positions(), left))


def test_the_journal_up_to_any_event_rebuilds_cash_positions_and_open_orders(tmp_path: Path):
    spec, given = busy(100)
    running = with_participation(replay_of(spec, given), 0.2)
    watcher = Watcher(running)
    connect(watcher, running.bus)
    with Journal.create(tmp_path / "journal", HEADER) as journal:
        journaled(running, journal).run()
    assert running.bus.first_failure is None
    events = list(read(tmp_path / "journal")[1])
    chosen = random.Random(3)
    assert sum(bool(one[-1]) for one in watcher.rest) > 200, "orders stay open over bars"
    for seq, cash, positions in chosen.sample(watcher.money, 40):
        rebuilt = rebuild((event for event in events if event.seq <= seq), spec.backtest.initial_cash)
        assert (rebuilt.cash, rebuilt.positions) == (cash, positions)
    for seq, *state in [*chosen.sample(watcher.rest, 40), watcher.rest[-1]]:
        assert list(rebuild((event for event in events if event.seq <= seq), spec.backtest.initial_cash)) == state


# --- killed --------------------------------------------------------------------------------------------------------


def commit_every(patch: pytest.MonkeyPatch, rows: int) -> None:
    patch.setattr(feed, "CHUNK", rows)
    patch.setattr(system, "COMMIT_ROWS", rows)


class Killed:
    """A replay that is killed by SIGKILL, in processes forked from this one: nothing in them starts a thread."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spec, self.given = busy()
        self.pristine = replay_of(self.spec, self.given)  # forks run copies
        whole = folder / "whole"
        with Journal.create(whole, HEADER) as journal:
            began = time.perf_counter()
            done = replay_of(self.spec, self.given, journal)
            self.state = account_of(done.run())
            self.seconds = time.perf_counter() - began
        self.bytes, self.events = whole.read_bytes(), done.events

    def killed(self, path: Path, at: int | float) -> bool:
        """Run, or go on, until the `at`-th event is published (whole numbers) or for so many seconds.

        Returns whether it was killed: it may have ended before.
        """
        child = os.fork()
        if not child:
            try:
                self._run(path, at if isinstance(at, int) else 0)
            finally:
                os._exit(0)
        if isinstance(at, float):
            time.sleep(at)
            os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        return os.WIFSIGNALED(status)

    def _run(self, path: Path, last: int) -> None:
        def die(event: Event) -> None:
            if event.seq == last:
                os.kill(os.getpid(), signal.SIGKILL)

        running = self.pristine
        if last % 2:
            running.bus.tap(die, KINDS)  # before the journal has the event, or after
        with Journal.opened(path, HEADER) as journal:
            journaled(running, journal)
            running.bus.tap(die, KINDS)
            running.run()

    def assert_recovers(self, path: Path) -> None:
        with Journal.opened(path, HEADER) as journal:
            running = replay_of(self.spec, self.given, journal)
            assert account_of(running.run()) == self.state
        assert path.read_bytes() == self.bytes
        events = list(read(path)[1])
        rebuilt = rebuild(events, self.spec.backtest.initial_cash)
        assert rebuilt.cash == self.state["cash"]


@pytest.fixture(scope="module")
def replays(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Killed]:
    with pytest.MonkeyPatch.context() as patch:
        commit_every(patch, 8)
        yield Killed(tmp_path_factory.mktemp("killed"))


@pytest.mark.slow
def test_killed_at_any_event_a_replay_recovers_to_the_same_state_and_bytes(replays: Killed):
    chosen = random.Random(7)
    begun = 0
    for number, last in enumerate(sorted(chosen.sample(range(1, replays.events), 32))):
        path = replays.folder / f"event-{number}"
        assert replays.killed(path, last)
        assert path.stat().st_size < len(replays.bytes)
        begun += path.stat().st_size > 1_000
        replays.assert_recovers(path)
    assert begun > 20, "most had written events"


@pytest.mark.slow
def test_killed_at_any_time_a_replay_recovers_to_the_same_state_and_bytes(replays: Killed):
    chosen = random.Random(8)
    killed = 0
    for number in range(10):
        path = replays.folder / f"time-{number}"
        killed += replays.killed(path, chosen.uniform(0.05, 0.9) * replays.seconds)
        replays.assert_recovers(path)
    assert killed, "some were killed before their end"


@pytest.mark.slow
def test_killed_again_while_it_recovers_a_replay_recovers_all_the_same(replays: Killed):
    chosen = random.Random(9)
    for number in range(8):
        path = replays.folder / f"twice-{number}"
        first, second = chosen.sample(range(1, replays.events), 2)  # the second death before the first one's place too
        assert replays.killed(path, first)
        known = path.read_bytes()
        assert replays.killed(path, second)
        assert path.read_bytes().startswith(known)
        replays.assert_recovers(path)


# --- what stops a replay -------------------------------------------------------------------------------------------


def test_a_replay_whose_equity_is_used_up_stops_and_says_when(tmp_path: Path):
    days = CALENDAR[HISTORY : HISTORY + 3]
    falling = CALENDAR[HISTORY - 20 : HISTORY]
    bars = pl.DataFrame({"symbol": ["A"] * 23, "ts": [*falling, *days]}).with_columns(
        close=pl.Series([*np.linspace(100, 50, 20), 49.0, 150.0, 150.0]), volume=pl.lit(1.0)
    ).with_columns(open=pl.col("close"))  # fmt: skip
    spec = strategy(
        {"type": "ema_cross", "inputs": {"fast": 1, "slow": 2}}, "A", portfolio={"short": "full"},
        backtest={"from": days[0], "fee_bps": 0.0, "slippage_bps": 0.0},
    )  # fmt: skip
    with pytest.raises(DataError, match=rf"equity falls to -106,122\.45 on {days[1]}; lower the .* gross exposure"):
        vectorised(spec, material(bars, 3))
    path = tmp_path / "journal"
    with (
        pytest.raises(DataError, match=rf"equity falls to -106,122\.45 on {days[1]}; lower the gross exposure"),
        Journal.create(path, HEADER) as journal,
    ):
        replay(spec, material(bars, 3), journal)
    fills = [(one.side, one.ts) for one in read(path)[1] if isinstance(one, Fill)]
    assert fills == [(-1, stamp_of(days[0]))], "it is recorded how it came to this"


def stamp_of(day: date) -> int:
    return (day - date(1970, 1, 1)).days * DAY


class Broken(Component):
    """Fails on every fill from the third on."""

    name = "broken"

    def __init__(self) -> None:
        self.fills = 0

    def handlers(self) -> dict[type[Event], Any]:
        return {Fill: self.on_fill}

    def on_fill(self, fill: Fill) -> None:
        self.fills += 1
        if self.fills >= 3:
            raise ValueError(f"no room for fill {self.fills}")


def test_a_replay_raises_what_a_component_raised_first_and_its_journal_says_so(tmp_path: Path):
    running = replay_of(*busy(30))
    path = tmp_path / "journal"
    journal = Journal.create(path, HEADER)
    broken = Replay(
        running.history, running.config, lambda parts: [*running.strategy(parts), Broken()], running.phases, journal
    )
    with pytest.raises(ValueError, match="no room for fill 3"), journal:
        broken.run()
    failed = [one for one in read(path)[1] if isinstance(one, HandlerFailed)]
    assert (failed[0].component, failed[0].kind, failed[0].error) == (
        "broken",
        "fill",
        "ValueError: no room for fill 3",
    )
    causes = {one.seq: one for one in read(path)[1]}
    assert isinstance(causes[failed[0].causation], Fill)


def test_a_replay_over_other_bars_does_not_go_on_with_a_journal(tmp_path: Path):
    spec, given = busy(40)
    path, header = tmp_path / "journal", journal_header(spec, given, "the run", "the code")
    with Journal.create(path, header) as journal:
        replay(spec, given, journal)
    risen = given.bars.with_columns(close=pl.col("close") * 1.001, high=pl.col("high") * 1.001)
    other = replace(given, bars=risen)
    assert journal_header(spec, replace(given, bars=given.bars.reverse()), "the run", "the code") == header
    with pytest.raises(JournalError, match="was written with bars"):
        Journal.resume(path, journal_header(spec, other, "the run", "the code"))
    with pytest.raises(JournalError, match=r"the journal has .*, the replay "), Journal.resume(path, header) as journal:
        replay(spec, other, journal)


def test_progress_is_told_at_intervals(monkeypatch: pytest.MonkeyPatch):
    spec, given = busy(40)
    commit_every(monkeypatch, 10)
    monkeypatch.setattr("quant_assets.strategy.event_driven._SECONDS_BETWEEN", 0.0)
    lines: list[str] = []
    replay(spec, given, progress=lines.append)
    assert lines == [f"one: {rows} of 40 sessions replayed" for rows in (10, 20, 30, 40)]
