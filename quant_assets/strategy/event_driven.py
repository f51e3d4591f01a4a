"""A strategy file as a trading system, its backtest event by event, and how that compares with the vectorised one."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from time import monotonic
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from quant_assets.backtest.simulation import Mechanics
from quant_assets.core.errors import DataError
from quant_assets.core.matrices import Floats, Matrices, days_of, matrices
from quant_assets.features import compute
from quant_assets.portfolio.allocation import allocate
from quant_assets.portfolio.deciding import DateDecider
from quant_assets.signals import RULES
from quant_assets.strategy.compose import listed_on, matrix_of, panel_of, rebalance_dates, signal_scores
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.universe import Bounds
from quant_assets.trading.component import Component
from quant_assets.trading.events import Phase
from quant_assets.trading.feed import DAY, History
from quant_assets.trading.journal import Journal
from quant_assets.trading.portfolio import Decide, PortfolioConfig, PortfolioManager
from quant_assets.trading.risk import RiskLimits
from quant_assets.trading.strategies import RuleEngine, ScoreEngine
from quant_assets.trading.system import COMMIT_ROWS, Parts, Replay, Strategy, SystemConfig

TOLERANCE = 1e-9
"""Relative difference of equity, prices, shares and profits up to which two engines agree."""

DUST = 1e-12
"""Share of the initial cash: shares worth less are what rounding leaves. A buy that is cut to the cash left over is a
difference of large sums, so one for a fraction of a cent may have few digits that both engines agree on."""

SLACK = 1.5
"""A backtest's risk limits are the supervisor's caps times this: weights drift between two rebalances."""

_SECONDS_BETWEEN = 2.0  # messages of progress
_TRADE_KEY = ("symbol", "side", "entry_ts", "exit_ts", "reason")
_TRADE_FIGURES = ("entry_price", "qty", "exit_price", "pnl", "fees")


@dataclass(frozen=True)
class Material:
    """What a strategy is simulated on.

    Attributes:
        bars: adjusted bars up to the last session, with the `history` that its signal needs before the first.
        source: scores or features that the signal reads (`compose.signal_scores`); None for rules.
        sessions: the period, sorted.
        calendar: all sessions of the exchange, those to come included.
        bounds: symbol -> first and last session on which it is listed.
        year: sessions per year.
        previous: symbol -> weight approved last before the first decision of the period.
        initial: symbol -> weight that fills on the first session, unless that session decides anew; empty: none.
    """

    bars: pl.DataFrame
    source: pl.DataFrame | None
    sessions: Sequence[date]
    calendar: Sequence[date]
    bounds: Mapping[str, Bounds]
    year: int
    previous: Mapping[str, float]
    initial: Mapping[str, float]


@dataclass(frozen=True)
class EventBacktest:
    """What a replay left."""

    equity: Floats
    """(sessions,)"""
    trades: pl.DataFrame
    """The columns of `backtest_trades` that both engines have, sorted by entry, symbol and exit."""
    bars: int
    events: int
    orders: int
    fills: int
    denials: Mapping[str, int]
    """Rule -> orders that it refused."""


@dataclass(frozen=True)
class Parity:
    """The replay beside a stored backtest."""

    final_equity: float
    reference_equity: float
    difference: float
    """Of the final equity, relative."""
    worst_difference: float
    """Largest relative difference on any session."""
    trades_differ: int
    lines: tuple[str, ...]
    """What differs, in words; empty: nothing does."""


def risk_limits(spec: StrategySpec, symbols: Sequence[str]) -> RiskLimits:
    """Pre-trade limits that a strategy within its own caps does not meet: the caps with `SLACK`, and its symbols.

    What an order leads to is bounded by `max_position`. What it leaves may have drifted, and orders of one moment are
    judged one by one, sells first: on its way from one portfolio to another the account may hold both. So what an order
    moves, and all positions together, have twice the room of the leverage.
    """
    caps = spec.supervisor
    room = 2 * SLACK * max(spec.backtest.leverage or 1.0, caps.gross_exposure_cap)
    return RiskLimits(
        max_position=SLACK * caps.max_weight_per_symbol,
        max_leverage=room,
        max_order_share=room,
        allowed_symbols=frozenset(symbols),
        max_price_age=DAY,
    )


def replay(
    spec: StrategySpec,
    material: Material,
    journal: Journal | None = None,
    progress: Callable[[str], None] | None = None,
) -> EventBacktest:
    """The strategy over the sessions, one event at a time: bars in, orders and fills out.

    Raises:
        DataError: bars that are not as they should be, or equity that is used up.
        JournalError: the journal was written from something else.
    """
    return _replayed(replay_of(spec, material, journal), spec, material, progress)


def journal_header(
    spec: StrategySpec, material: Material, backtest_run_id: str, code_version: str
) -> dict[str, str | int | float]:
    """What a replay's events follow from; a journal is resumed under the same header only."""
    first, last = material.sessions[0], material.sessions[-1]
    bars = material.bars.sort("symbol", "ts").hash_rows(seed=0).to_numpy()
    return {
        "strategy_id": spec.strategy_id,
        "version": spec.version,
        "strategy": spec.source_hash,
        "backtest": backtest_run_id,
        "sessions": f"{first}..{last}",
        "bars": hashlib.sha256(bars.tobytes()).hexdigest(),
        "code": code_version,
        "commit_rows": COMMIT_ROWS,
    }


def replay_of(spec: StrategySpec, material: Material, journal: Journal | None = None) -> Replay:
    """The system of `replay`, not yet run."""
    symbols = sorted({*material.bounds, *material.previous, *material.initial})
    panel = matrices(material.bars, material.sessions, symbols)
    history = History.of_sessions(panel)
    mechanics = spec.config(material.year).mechanics
    config = SystemConfig(
        tuple(symbols),
        spec.backtest.initial_cash,
        mechanics.fee,
        mechanics.slippage,
        mechanics.funding_per_day,
        limits=risk_limits(spec, symbols),
        year=material.year,
    )
    strategy = _strategy(spec, material, symbols, mechanics)
    return Replay(history, config, strategy, _phases(mechanics), journal)


def _replayed(
    running: Replay, spec: StrategySpec, material: Material, progress: Callable[[str], None] | None
) -> EventBacktest:
    count, due = len(material.sessions), monotonic() + _SECONDS_BETWEEN

    def told(rows: int) -> None:
        nonlocal due
        if progress and monotonic() >= due:
            due += _SECONDS_BETWEEN
            progress(f"{spec.strategy_id}: {rows:,} of {count:,} sessions replayed")

    system = running.run(told)
    account = system.account
    return EventBacktest(
        np.array(system.analytics.equity),
        _trades(running),
        int(np.count_nonzero(~np.isnan(running.history.close))),
        running.events,
        system.orders.requested,
        account.fills,
        dict(system.risk.denials),
    )


def _phases(mechanics: Mechanics) -> frozenset[Phase]:
    stops = mechanics.stop_loss is not None or mechanics.trailing_stop is not None
    wanted = {
        Phase.NIGHT: mechanics.funding_per_day != 0,
        Phase.OPEN_STOPS: stops,
        Phase.OPEN: mechanics.price == "next_open",
        Phase.WITHIN: stops,
        Phase.CLOSE: True,
    }
    return frozenset(phase for phase, is_wanted in wanted.items() if is_wanted)


def _strategy(spec: StrategySpec, material: Material, symbols: Sequence[str], mechanics: Mechanics) -> Strategy:
    """Builds the strategy engine and the portfolio manager of `spec`."""
    dates = rebalance_dates(spec.rebalance.frequency, material.sessions, material.calendar)
    stamps = (days_of(dates).astype("M8[D]").astype(np.int64) * DAY).tolist()
    times = frozenset(stamps)
    decide = _decide(spec, material, symbols, dates)
    initial = [material.initial.get(symbol, 0.0) for symbol in symbols] if material.initial else None
    config = PortfolioConfig(
        spec.strategy_id,
        mechanics.price,
        mechanics.fee,
        mechanics.slippage,
        mechanics.leverage,
        mechanics.threshold,
        mechanics.stop_loss,
        mechanics.trailing_stop,
        mechanics.hedge_drawdown,
    )

    def build(parts: Parts) -> list[Component]:
        bus, market = parts.bus, parts.market
        engine: Component
        if spec.rule is None:
            assert material.source is not None
            scores = matrix_of(signal_scores(spec, material.source), "score", dates, symbols)
            engine = ScoreEngine(bus, market, spec.strategy_id, dict(zip(stamps, scores.tolist(), strict=True)))
        else:
            stepper = RULES[spec.rule.type].stepper(spec.rule.inputs, material.year, len(symbols))
            stepper.warm_up(_before(material, symbols))
            engine = RuleEngine(bus, market, spec.strategy_id, stepper.update, times)
        return [
            engine,
            PortfolioManager(bus, market, parts.account, config, decide, times, initial, parts.controls),
        ]

    return build


def _before(material: Material, symbols: Sequence[str]) -> Matrices:
    """The bars before the period, which a rule warms up on."""
    bars = material.bars.filter(pl.col("ts") < material.sessions[0])
    return panel_of(bars, material.calendar, symbols)


def _decide(spec: StrategySpec, material: Material, symbols: Sequence[str], dates: Sequence[date]) -> Decide:
    """From the signals of a row to the approved weights, as `compose.decide` makes them."""
    own = sorted(material.bounds)
    columns = [symbols.index(symbol) for symbol in own]
    days = {day: number for number, day in enumerate(dates)}
    listed = listed_on(dates, own, material.bounds)
    decider = DateDecider(
        spec.portfolio.weighting,
        spec.supervisor,
        spec.portfolio.top_k,
        spec.min_cross_section,
        [material.previous.get(symbol, 0.0) for symbol in own],
        exposure=spec.rule is not None,
    )
    floored = spec.rule is not None and spec.portfolio.short == "none"
    basis = _basis(spec, material, own, dates, listed)

    def decide(row: int, signals: list[float]) -> list[float] | None:
        number = days[material.sessions[row]]
        score = [signals[column] for column in columns]
        if all(value != value for value in score):
            return None  # there may be no bar to take a basis from either
        if floored:
            score = [max(value, 0.0) if value == value else value for value in score]
        weights = decider.decide(score, listed[number], basis(number))
        if weights is None:
            return None
        wanted = [0.0] * len(symbols)
        for column, weight in zip(columns, weights, strict=True):
            wanted[column] = weight
        return wanted

    return decide


def _basis(
    spec: StrategySpec, material: Material, symbols: Sequence[str], dates: Sequence[date], listed: NDArray[np.bool_]
) -> Callable[[int], Floats | None]:
    """Number of a decision -> what its shares are made of: volatilities, an allocation's shares, or nothing."""
    method = spec.portfolio.weighting
    if method == "inverse_vol":
        vols = matrix_of(compute(material.bars, "v1"), "vol_20d", dates, symbols)
        return lambda number: vols[number]
    if method != "risk_parity" and method != "hrp":
        return lambda number: None
    panel = panel_of(material.bars, material.calendar, symbols)
    rows = np.searchsorted(panel.days, days_of(dates))
    window = spec.portfolio.risk_window

    def shares(number: int) -> Floats:
        now = slice(number, number + 1)
        found: Floats = allocate(method, panel.returns[: rows[number] + 1], rows[now], listed[now], window)[0]
        return found

    return shares


def _trades(running: Replay) -> pl.DataFrame:
    """Closed trades, and what is held at the end, sorted as `backtest_trades` is."""
    account, history = running.system.account, running.history
    last = len(history.stamps) - 1
    trades = [(trade, True) for trade in account.trades]
    trades += [(trade, False) for trade in account.open_trades(last)]
    sides = {1: "long", -1: "short"}
    rows = [
        (
            history.symbols[one.column], sides[one.side], one.entry_ts, one.entry_price, one.shares,
            one.exit_ts, one.exit_price, one.pnl, one.fees, one.reason, closed,
        )
        for one, closed in trades
    ]  # fmt: skip
    schema = {
        "symbol": pl.String, "side": pl.String, "entry_ts": pl.Int64, "entry_price": pl.Float64, "qty": pl.Float64,
        "exit_ts": pl.Int64, "exit_price": pl.Float64, "pnl": pl.Float64, "fees": pl.Float64, "reason": pl.String,
        "closed": pl.Boolean,
    }  # fmt: skip
    return (
        pl.DataFrame(rows, schema, orient="row")
        .with_columns(pl.from_epoch(pl.col("entry_ts", "exit_ts"), "ns").cast(pl.Date))
        .sort("entry_ts", "symbol", "closed", "exit_ts", descending=[False, False, True, False])
        .with_columns(exit_ts=pl.when("closed").then("exit_ts"))
        .drop("closed")
    )


def parity(done: EventBacktest, equity: pl.DataFrame, trades: pl.DataFrame, initial_cash: float) -> Parity:
    """Hold a replay against the rows of a backtest in `backtest_equity` and `backtest_trades`, in any order.

    Trades agree where symbol, side, dates and reason are the same and prices and shares lie within `TOLERANCE`,
    relative, or shares within `DUST`; fees and profits within it relative to the initial cash.
    """
    sessions, reference = equity.sort("ts")["ts"], equity.sort("ts")["equity"].to_numpy()
    if len(reference) != len(done.equity):
        raise DataError(
            f"the backtest has {len(reference)} sessions, the replay {len(done.equity)}; replay the backtest's period"
        )
    off = np.abs(done.equity / reference - 1)
    away = np.flatnonzero(~(off <= TOLERANCE))
    lines = []
    if len(away):
        first = int(away[0])
        lines.append(
            f"equity differs by {off.max():.3g} at the most, first on {sessions[first]}: "
            f"{done.equity[first]:,.6f} here, {reference[first]:,.6f} there"
        )
    differing = _differing(done.trades, trades, initial_cash)
    if differing.height:
        lines.append(
            f"{differing.height} of {trades.height} trades differ ({done.trades.height} here), "
            f"first {_told(differing.row(0, named=True))}"
        )
    lines += [f"risk rule {rule} refused {count} order(s)" for rule, count in done.denials.items()]
    return Parity(
        float(done.equity[-1]), float(reference[-1]), float(off[-1]), float(off.max()), differing.height, tuple(lines)
    )


def _differing(found: pl.DataFrame, wanted: pl.DataFrame, cash: float) -> pl.DataFrame:
    """The trades that only one side has or that are not the same, by entry; the other side's figures as `<name>_there`.

    A symbol has at most one exit per session, entry and reason, so that these tell all trades apart.
    """
    money = pl.lit(TOLERANCE * cash)
    least = {"qty": DUST * cash / pl.col("entry_price_there"), "pnl": money, "fees": money}
    columns = (*_TRADE_KEY, *_TRADE_FIGURES)
    return (
        found.select(columns)
        .join(wanted.select(columns), on=_TRADE_KEY, how="full", nulls_equal=True, coalesce=True, suffix="_there")
        .with_columns(_agreeing(name, least.get(name, pl.lit(0.0))) for name in _TRADE_FIGURES)
        .filter(~pl.all_horizontal(pl.col("^.*_agrees$")))
        .sort("entry_ts", "symbol", "exit_ts", "reason")
    )


def _agreeing(name: str, least: pl.Expr) -> pl.Expr:
    """Whether a figure of both sides is the same, to `TOLERANCE` or to a difference of `least`."""
    there = pl.col(f"{name}_there")
    off = (pl.col(name) - there).abs()
    return ((off <= TOLERANCE * there.abs()) | (off <= least)).fill_null(False).alias(f"{name}_agrees")


def _told(trade: Mapping[str, Any]) -> str:
    """What differs of a row of `_differing`."""
    name = f"{trade['symbol']} {trade['side']} from {trade['entry_ts']} to {trade['exit_ts'] or 'the end'}"
    for side, other in (("qty", "there"), ("qty_there", "here")):
        if trade[side] is None:
            return f"{name}: only {other}"
    figure = next(one for one in _TRADE_FIGURES if not trade[f"{one}_agrees"])
    return f"{name}: {figure} {trade[figure]:.12g} here, {trade[f'{figure}_there']:.12g} there"
