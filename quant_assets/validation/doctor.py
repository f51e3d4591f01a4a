"""The doctor: an automatic review of a backtest. Findings from its tables; those that need another backtest stand in
`strategy/doctor.py`.

A finding is a reason to look, not a proof. `error`: the result cannot be taken at its word; `warning`: it is fragile or
says less than it seems to; `note`: something to know when reading it. A backtest without profit gets none of those that
ask where a profit comes from.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import polars as pl

from quant_assets.validation.sharpe import sharpes

Severity = Literal["note", "warning", "error"]

FEWEST_TRADES = 30
"""Closed trades below which no figure about trades means much: the usual floor for a mean's normal approximation."""
PROFIT_SHARE = 0.5
"""Share of the profit above which one part of it (a trade, a symbol, a month) makes the result."""
FEWEST_PARTS = 3
"""Trades and symbols below which one of them has half of the profit as a matter of course,"""
FEWEST_MONTHS = 12
"""and months."""
BEST_DAYS = 5
"""So many best sessions are left out together,"""
FEWEST_DAYS = 250
"""of at least so many."""
VOLUME_WARNING, VOLUME_ERROR = 0.01, 0.10
"""Share of a session's volume above which a fill moves the price, and above which it would hardly have happened."""
LIMIT_MOVE = 0.095
"""A close so far from the one before, and the session's extreme, may be locked: exchanges with limits stop at 10 %."""
LATE_START = 0.10
"""Share of the period before the first position above which the period's measures mislead."""
RARELY_INVESTED = 0.10
"""Share of sessions with a position, from the first one on, below which measures are those of a few sessions."""
HIGH_SHARPE = 3.0
"""Annualised Sharpe ratio above which daily strategies are mostly mistakes."""
HIGH_WIN_RATE = 0.90
"""Share of winning trades above which the losses are probably not there yet, or the future is."""
LARGE_MOVE = 0.20
"""Return of one session that asks for a look at its bars."""
COST_SHARE = 0.5
"""Share of the profit before costs above which costs decide."""
MARKET_CORRELATION = 0.9
"""Correlation with the benchmark above which the result is the market's."""
SHARPE_MARGIN = 0.2
"""Annualised Sharpe ratios nearer than this are alike: over ten years one has a standard error of 0.3."""

_ORDER: Mapping[Severity, int] = {"error": 0, "warning": 1, "note": 2}
_EQUAL = 1e-9  # relative difference of prices that went through slippage and back


@dataclass(frozen=True)
class Finding:
    """One thing to look at."""

    name: str
    """snake_case: `one_symbol_makes_the_result`"""
    severity: Severity
    evidence: str
    """One sentence with the figures."""
    remedy: str
    """One sentence: what to do about it."""
    value: float | None = None
    """The figure that was judged."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """Plain values (JSON)."""


def ordered(findings: Iterable[Finding]) -> list[Finding]:
    """Errors first, then warnings, then notes; by name within."""
    return sorted(findings, key=lambda one: (_ORDER[one.severity], one.name))


def review(
    summary: Mapping[str, Any],
    trades: pl.DataFrame,
    equity: pl.DataFrame,
    symbols: pl.DataFrame,
    bars: pl.DataFrame,
    year: int,
) -> list[Finding]:
    """What a careful reader of one backtest would ask about.

    Args:
        summary: the row of `backtest_summary`.
        trades, equity, symbols: the tables of that name, of this backtest alone.
        bars: the adjusted bars it ran on: symbol, ts, open, high, low, close, volume. Up to the same last bar: a later
            split or dividend would rescale all prices.
        year: sessions per year.

    Returns:
        `ordered`; none of a backtest that nothing can be said against.

    Fills are read off the trades. A position's first fill has its price there if nothing was added later, else the
    trade shows an average: its volume is then unknown and not judged. Adjusted prices are below the traded ones by the
    dividends paid since, so that the volume's share is overstated by as much, never understated.
    """
    trades, equity, symbols = trades.sort("trade_no"), equity.sort("ts"), symbols.sort("symbol")
    fills = _fills(trades, bars, summary["slippage_bps"] / 1e4)
    return ordered(
        (
            *_activity(summary, trades, equity, year),
            *_concentration(trades, equity, symbols),
            *_volumes(fills, summary["initial_cash"]),
            *_prices(fills, bars),
            *_invested(equity),
            *_implausible(summary, equity),
            *_costs(summary, symbols),
            *_benchmark(summary, equity, year),
        )
    )


def _activity(summary: Mapping[str, Any], trades: pl.DataFrame, equity: pl.DataFrame, year: int) -> Iterator[Finding]:
    sessions, closed = equity.height, int(summary["num_trades"])
    if trades.is_empty():
        yield Finding(
            "no_trades",
            "error",
            f"no position was ever opened in {sessions:,} sessions",
            "look at the targets' reasons: scores may be missing, or a limit of the supervisor may refuse all",
        )
        return
    if closed < FEWEST_TRADES:
        yield Finding(
            "too_few_trades",
            "warning",
            f"{closed} closed trade(s) in {sessions:,} sessions, fewer than {FEWEST_TRADES}",
            "test a longer period or more symbols before any figure about its trades is believed",
            closed,
        )
    if sessions < year:
        yield Finding(
            "short_period",
            "note",
            f"{sessions:,} sessions are less than one year ({year}); a Sharpe ratio of one year has a standard error "
            "of about 1",
            "test a longer period",
            sessions,
        )
    held = trades.filter(pl.col("exit_ts").is_null())
    total, unrealised = float(trades["pnl"].sum()), float(held["pnl"].sum())
    if total > 0 and unrealised > PROFIT_SHARE * total:
        share = unrealised / total
        yield Finding(
            "unrealised_profit",
            "note",
            f"{share:.0%} of the profit is in {held.height} position(s) that are still open at the end",
            "test past their exit, or to another last session",
            share,
        )


def _concentration(trades: pl.DataFrame, equity: pl.DataFrame, symbols: pl.DataFrame) -> Iterator[Finding]:
    """A position is one trade here, however many sales ended it: `trades` has a row for each."""
    positions = trades.group_by("symbol", "side", "entry_ts", maintain_order=True).agg(pl.col("pnl").sum())
    label = pl.format("{} of {}", "symbol", "entry_ts")
    growth = equity.select("ts", growth=pl.col("ret").log1p())
    by_month = growth.group_by(part=pl.col("ts").dt.strftime("%Y-%m"), maintain_order=True)
    months = by_month.agg(profit=pl.col("growth").sum())
    parts = (
        (
            "trade",
            FEWEST_PARTS,
            positions.select(part=label, profit="pnl"),
            "look at this trade's bars and news, and do not count on another like it",
        ),
        (
            "symbol",
            FEWEST_PARTS,
            symbols.select(part="symbol", profit="contribution"),
            "test the strategy without it and on more symbols: who chose this one knew how it went",
        ),
        ("month", FEWEST_MONTHS, months, "read what happened in this month, and test other periods"),
    )
    for kind, fewest, frame, remedy in parts:
        total = float(frame["profit"].sum())
        if frame.height < fewest or total <= 0:
            continue
        best, profit = frame.sort("profit", "part", descending=[True, False]).row(0)
        if profit <= PROFIT_SHARE * total:
            continue
        yield Finding(
            f"one_{kind}_makes_the_result",
            "error" if profit >= total else "warning",
            f"{best} makes {profit / total:.0%} of the {'growth' if kind == 'month' else 'profit'} of {frame.height:,} "
            f"{kind}s" + (": without it there is none" if profit >= total else ""),
            remedy,
            profit / total,
            {kind: best},
        )
    total = float(growth["growth"].sum())
    best_days = growth.sort("growth", "ts", descending=[True, False]).head(BEST_DAYS)
    share = float(best_days["growth"].sum()) / total if total > 0 else 0.0
    if growth.height >= FEWEST_DAYS and share > PROFIT_SHARE:
        yield Finding(
            "best_days_make_the_result",
            "warning" if share >= 1 else "note",
            f"the best {BEST_DAYS} of {growth.height:,} sessions make {share:.0%} of the growth",
            "look at the news and the bars of these days: could the positions have been held through them?",
            share,
            {"days": [day.isoformat() for day in sorted(best_days["ts"])]},
        )


def _fills(trades: pl.DataFrame, bars: pl.DataFrame, slippage: float) -> pl.DataFrame:
    """One row per entry and exit of a trade: symbol, ts, sign (1 bought), shares, price (without slippage), reason
    (null for entries), until (the exit's session), with the session's bar (nulls without one) and `before`, the close
    before it."""
    side = pl.when(pl.col("side") == "long").then(1.0).otherwise(-1.0)
    entries = trades.select(
        "symbol",
        ts="entry_ts",
        sign=side,
        shares="qty",
        price=pl.col("entry_price") / (1 + side * slippage),
        reason=pl.lit(None, pl.String),
        until="exit_ts",
    )
    exits = trades.filter(pl.col("exit_ts").is_not_null()).select(
        "symbol",
        ts="exit_ts",
        sign=-side,
        shares="qty",
        price=pl.col("exit_price") / (1 - side * slippage),
        reason="reason",
        until="exit_ts",
    )
    known = bars.sort("symbol", "ts").with_columns(before=pl.col("close").shift(1).over("symbol"))
    return (
        pl.concat([entries, exits])
        .join(known, on=["symbol", "ts"], how="left")
        .sort("ts", "symbol", "sign", maintain_order=True)
    )


def _volumes(fills: pl.DataFrame, initial_cash: float) -> Iterator[Finding]:
    alone = _equal("price", "open") | _equal("price", "close")
    share = pl.col("shares") / pl.col("volume")
    taken = (
        fills.filter(pl.col("volume") > 0, pl.col("reason").is_not_null() | alone)
        .group_by("symbol", "ts", "sign", maintain_order=True)
        .agg(pl.col("shares").sum(), pl.col("volume").first())
        .select("symbol", "ts", share=share)
        .sort("share", "ts", "symbol", descending=[True, False, False])
    )
    above = taken.filter(pl.col("share") > VOLUME_WARNING)
    if above.is_empty():
        return
    symbol, ts, largest = above.row(0)
    capital = initial_cash * VOLUME_WARNING / largest
    yield Finding(
        "trades_beyond_volume",
        "error" if largest > VOLUME_ERROR else "warning",
        f"{above.height:,} of {taken.height:,} fills take more than {VOLUME_WARNING:.0%} of their session's volume, "
        f"{symbol} on {ts} most: {largest:.1%}",
        f"start with at most {capital:,.0f}, spread orders over sessions, or raise slippage_bps",
        largest,
        {"symbol": symbol, "ts": ts.isoformat(), "capital": capital},
    )


def _prices(fills: pl.DataFrame, bars: pl.DataFrame) -> Iterator[Finding]:
    ended = pl.col("reason").eq_missing(pl.lit("end of data"))
    there = pl.col("close").is_not_null()
    flat = (pl.col("high") == pl.col("low")) & (pl.col("volume").fill_null(1) > 0)
    jump = pl.col("sign") * (pl.col("close") / pl.col("before") - 1)
    extreme = pl.when(pl.col("sign") > 0).then("high").otherwise("low")
    locked = _equal("price", "close") & (pl.col("close") == extreme) & (jump >= LIMIT_MOVE) & ~flat
    outside = _outside(fills.filter(there, ~ended), bars)
    kinds: tuple[tuple[str, Severity, pl.DataFrame, str, str], ...] = (
        (
            "fills_without_a_bar",
            "error",
            fills.filter(~there, ~ended),
            "on a session without a bar",
            "check the bars: nobody could have traded then",
        ),
        (
            "fills_without_volume",
            "error",
            fills.filter(there, pl.col("volume") == 0),
            "on a session without volume",
            "check the bars, or leave the symbol out while nobody trades it",
        ),
        (
            "fills_outside_the_range",
            "error",
            outside,
            "at a price outside its session's low and high",
            "check the bars, and that they are those the backtest ran on",
        ),
        (
            "fills_at_stale_prices",
            "warning",
            fills.filter(there, flat),
            "on a session whose prices are all equal",
            "check the bars: the price is probably an old one, or locked at a limit",
        ),
        (
            "fills_at_a_limit",
            "warning",
            fills.filter(locked.fill_null(False)),
            f"with a close that moved {LIMIT_MOVE:.1%} or more to the session's extreme",
            "check whether the market was locked: execution price next_open would have missed it",
        ),
        (
            "positions_outlive_their_bars",
            "note",
            fills.filter(ended),
            "at the last close, after the symbol's bars had ended",
            "check what holders were really paid: a delisting may have cost them all",
        ),
    )
    count = fills.select("symbol", "ts", "sign").n_unique()
    for name, severity, found, where, remedy in kinds:
        distinct = found.unique(["symbol", "ts", "sign"], maintain_order=True)
        if distinct.is_empty():
            continue
        symbol, ts, price = distinct.select("symbol", "ts", "price").row(0)
        yield Finding(
            name,
            severity,
            f"{distinct.height:,} of {count:,} fills {where}, the first {symbol} on {ts} at {price:.6g}",
            remedy,
            distinct.height,
            {"symbols": sorted(distinct["symbol"].unique())},
        )


def _outside(fills: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """Exits outside their session's range, and entries outside that of all sessions to the exit: they are averages."""
    above = pl.col("price") > pl.col("high") * (1 + _EQUAL)
    below = pl.col("price") < pl.col("low") * (1 - _EQUAL)
    suspects = fills.filter(above | below).with_row_index("number")
    held = pl.col("ts_bar").is_between("ts", pl.col("until").fill_null(pl.col("ts_bar").max()))
    spans = (
        suspects.filter(pl.col("reason").is_null())
        .select("number", "symbol", "ts", "until")
        .join(bars.select("symbol", pl.col("low", "high"), ts_bar="ts"), on="symbol")
        .filter(held)
        .group_by("number")
        .agg(lowest=pl.col("low").min(), highest=pl.col("high").max())
    )
    judged = suspects.join(spans, on="number", how="left").with_columns(
        low=pl.coalesce("lowest", "low"), high=pl.coalesce("highest", "high")
    )
    return judged.filter(above | below).sort("number")


def _invested(equity: pl.DataFrame) -> Iterator[Finding]:
    held = equity["gross_exposure"] > 0
    if not held.any():
        return
    first = int(held.arg_max() or 0)
    head, share = first / len(held), int(held.sum()) / (len(held) - first)
    if head > LATE_START:
        yield Finding(
            "late_start",
            "warning",
            f"the first position is of {equity['ts'][first]}, {first:,} of {len(held):,} sessions ({head:.0%}) into "
            "the period; the flat ones lower its growth and volatility",
            f"let the period begin on {equity['ts'][first]}, or ingest earlier bars for the signal to warm up on",
            head,
        )
    if share < RARELY_INVESTED:
        yield Finding(
            "rarely_invested",
            "note",
            f"a position is held on {share:.0%} of the {len(held) - first:,} sessions from the first one on",
            "read its measures as those of these few sessions",
            share,
        )


def _implausible(summary: Mapping[str, Any], equity: pl.DataFrame) -> Iterator[Finding]:
    ratio, wins, closed = summary["sharpe"], summary["win_rate"], summary["num_trades"]
    if ratio is not None and ratio > HIGH_SHARPE:
        yield Finding(
            "sharpe_too_high",
            "warning",
            f"a Sharpe ratio of {ratio:.2f} is above {HIGH_SHARPE:g}",
            "look for the future in features and labels (`quant check leakage`), for missing costs and for bad bars",
            ratio,
        )
    if wins is not None and wins > HIGH_WIN_RATE and closed >= FEWEST_TRADES:
        yield Finding(
            "win_rate_too_high",
            "warning",
            f"{wins:.0%} of {closed:,} closed trades won",
            "look for the future in the signal, and for losers that are never closed",
            wins,
        )
    moves = equity.filter(pl.col("ret").abs() > LARGE_MOVE).sort(pl.col("ret").abs(), descending=True)
    if moves.height:
        ts, ret = moves.select("ts", "ret").row(0)
        yield Finding(
            "equity_jumps",
            "warning",
            f"the equity moves by more than {LARGE_MOVE:.0%} on {moves.height:,} session(s), most on {ts}: {ret:+.0%}",
            "check the bars of that day for a missed split or a bad price, and the leverage",
            ret,
            {"ts": ts.isoformat()},
        )


def _costs(summary: Mapping[str, Any], symbols: pl.DataFrame) -> Iterator[Finding]:
    if symbols.is_empty():
        return
    if summary["fee_bps"] + summary["slippage_bps"] == 0:
        yield Finding(
            "no_costs",
            "warning",
            "fee_bps and slippage_bps are both 0: trading is free",
            "give the costs of the market and the size",
            0.0,
        )
    profit = float(symbols["contribution"].sum())
    costs = float(symbols.select(pl.sum_horizontal(pl.col("fees", "slippage", "funding").sum())).item())
    gross = profit + costs
    if gross > 0 and costs > COST_SHARE * gross:
        yield Finding(
            "costs_take_the_profit",
            "warning",
            f"fees, slippage and funding take {costs / gross:.0%} of a profit before costs of {gross:.1%} of the cash",
            "trade less: a slower rebalance, a threshold, a turnover cap",
            costs / gross,
        )


def _benchmark(summary: Mapping[str, Any], equity: pl.DataFrame, year: int) -> Iterator[Finding]:
    if equity["benchmark"].null_count():
        return
    curve = np.concatenate([[summary["initial_cash"]], equity["benchmark"].to_numpy()])
    ours, theirs = equity["ret"].to_numpy(), np.diff(curve) / curve[:-1]
    ratio = float(sharpes(theirs[None], year)[0])
    if summary["sharpe"] is None or np.isnan(ratio):
        return
    variance, covariance = float(theirs.var()), float(np.cov(ours, theirs, ddof=0)[0, 1])
    correlation = covariance / float(ours.std() * theirs.std())
    compared = f"its Sharpe ratio is {summary['sharpe']:.2f}, that of the universe bought and held {ratio:.2f}"
    if correlation > MARKET_CORRELATION:
        yield Finding(
            "follows_the_market",
            "warning",
            f"the correlation with its universe bought and held is {correlation:.2f}, beta "
            f"{covariance / variance:.2f}; {compared}",
            "judge it by what it adds to holding the universe",
            correlation,
            {"beta": covariance / variance},
        )
    elif ratio > summary["sharpe"] + SHARPE_MARGIN:
        yield Finding(
            "holding_was_better",
            "note",
            compared,
            "hold the universe, unless this is wanted for its drawdown or beside something else",
            ratio - summary["sharpe"],
        )


def _equal(one: str, other: str) -> pl.Expr:
    return (pl.col(one) / pl.col(other) - 1).abs() <= _EQUAL
