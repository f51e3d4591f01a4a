"""Trades of one symbol in a backtest as a page tells of them: the signals behind them, positions, stops, excursions.

Pure: frames in, frames out.
"""

from collections.abc import Mapping
from datetime import date
from typing import Any

import numpy as np
import polars as pl

from quant_assets.core.page import NONE

STOPS = ("stop loss", "trailing stop")
OPEN = "open"
"""Reasons of `backtest_trades` that are drawn and told of in their own way; see `simulation.REASONS`."""

_SIGNAL = ("asof", "weight", "score", "reason")
_SHARES = ("pnl_pct", "worst", "best", "entry_weight", "exit_weight")


def with_signals(trades: pl.DataFrame, targets: pl.DataFrame, *, same_session: bool) -> pl.DataFrame:
    """`trades` with the target that opened each and the one that closed it: the last that could fill on that day.

    Args:
        trades: `backtest_trades` of one symbol.
        targets: asof, weight, score and reason of the symbol, in any order.
        same_session: whether a target fills at the close of its own session, not on the next one.

    Returns:
        Also entry_asof, entry_weight, entry_score, entry_reason; and the same with exit_, null unless a rebalance
        ended the trade. Sorted by trade_no.
    """
    known = targets.select(_SIGNAL).sort("asof")
    found = trades.sort("trade_no")
    for end in ("entry", "exit"):
        said = known.rename({name: f"{end}_{name}" for name in _SIGNAL})
        dated = found.select("trade_no", on=f"{end}_ts").drop_nulls("on").sort("on")
        caused = dated.join_asof(
            said, left_on="on", right_on=f"{end}_asof", allow_exact_matches=same_session, coalesce=False
        )
        found = found.join(caused.drop("on"), on="trade_no", how="left", maintain_order="left")
    rebalanced = pl.col("reason") == "rebalance"
    return found.with_columns(pl.when(rebalanced).then(f"exit_{name}").alias(f"exit_{name}") for name in _SIGNAL)


def with_extremes(trades: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """`trades` with `worst` and `best`: the return at the worst and the best close until the exit.

    Also `until`, the exit or the last bar of an open one, and the `days` to it. The two returns are the maximum adverse
    and favourable excursion of Sweeney, "Maximum Adverse Excursion" (1997), by closes; the price of the exit counts.

    Args:
        trades: of one symbol.
        bars: ts and close, adjusted, of the symbol's sessions up to the backtest's last, sorted, at least one.
    """
    last = bars["ts"][-1]
    begin = bars["ts"].search_sorted(trades["entry_ts"]).to_numpy()
    end = bars["ts"].search_sorted(trades["exit_ts"].fill_null(date.max)).to_numpy()
    closes, spans = np.append(bars["close"].to_numpy(), np.nan), np.column_stack((begin, end)).ravel()
    reached = {
        name: np.where(begin < end, of.reduceat(closes, spans)[::2], np.nan) if len(spans) else np.empty(0)
        for name, of in (("lowest", np.minimum), ("highest", np.maximum))
    }
    low, high = (pl.Series(values).fill_nan(None) for values in reached.values())
    found = trades.with_columns(
        lowest=pl.min_horizontal(low, "exit_price"),
        highest=pl.max_horizontal(high, "exit_price"),
        until=pl.col("exit_ts").fill_null(last),
    )
    long, paid = pl.col("side") == "long", pl.col("entry_price")
    return found.with_columns(
        days=(pl.col("until") - pl.col("entry_ts")).dt.total_days(),
        worst=pl.when(long).then(pl.col("lowest") / paid - 1).otherwise(1 - pl.col("highest") / paid),
        best=pl.when(long).then(pl.col("highest") / paid - 1).otherwise(1 - pl.col("lowest") / paid),
    ).drop("lowest", "highest")


def positions(trades: pl.DataFrame) -> pl.DataFrame:
    """One row for each position of a symbol, whether it was sold in one trade or in several, by entry.

    Args:
        trades: `with_signals` and `with_extremes`.

    Returns:
        side, entry_ts, `until` (its last exit, or the last bar), and of its first trade trade_no and the signal that
        opened it.
    """
    first = ("trade_no", *(f"entry_{name}" for name in _SIGNAL))
    by = trades.sort("trade_no").group_by("side", "entry_ts", maintain_order=True)
    return by.agg(pl.col("until").max(), pl.col(first).first())


def stop_levels(
    bars: pl.DataFrame, trade: Mapping[str, Any], exits: Mapping[str, Any], *, at_open: bool
) -> pl.DataFrame:
    """Where the stop of a trade stood in each session that it was held: ts, level. No rows without stops.

    The rules are those of `simulation.Mechanics`: of a fixed stop, from the average entry price, and a trailing one,
    from the best price so far, the nearer to the price counts.

    Args:
        bars: adjusted bars of the symbol, sorted.
        trade: row of `backtest_trades`.
        exits: section `exits` of the strategy; stop_loss and trailing_stop are read.
        at_open: whether positions are opened at the open, not at the close.
    """
    fixed, trailing = exits.get("stop_loss"), exits.get("trailing_stop")
    held = bars.filter(pl.col("ts").is_between(trade["entry_ts"], trade["exit_ts"] or date.max))
    if held.is_empty() or (fixed is None and trailing is None):
        return pl.DataFrame(schema={"ts": pl.Date, "level": pl.Float64})
    side = 1.0 if trade["side"] == "long" else -1.0
    begin = held["open" if at_open else "close"][0] * side
    held = held if at_open else held[1:]
    before = (pl.col("high" if side > 0 else "low") * side).cum_max().shift(1)
    best = pl.max_horizontal(before, pl.col("open") * side, pl.lit(begin))  # of a short the negative of its lowest
    levels = [] if trailing is None else [best * (1 - side * trailing)]
    levels += [] if fixed is None else [pl.lit(trade["entry_price"] * side * (1 - side * fixed))]
    return held.select("ts", level=pl.max_horizontal(levels) * side)


def headline(trades: pl.DataFrame) -> dict[str, str]:
    """Headline figures of `with_extremes`, as text."""
    closed = trades.drop_nulls("exit_ts")
    won, mean, days = closed.select(pl.col("pnl").gt(0).mean(), pl.col("pnl_pct").mean(), pl.col("days").median()).row(
        0
    )
    return {
        "Closed": f"{closed.height:,}",
        "Still open": f"{trades.height - closed.height:,}",
        "Winners": NONE if won is None else f"{won:.1%}",
        "Mean return": NONE if mean is None else f"{mean:+.1%}",
        "Profit": f"{trades['pnl'].sum():+,.0f}",
        "Median days": NONE if days is None else f"{days:,.0f}",
        "By a stop": f"{closed['reason'].is_in(STOPS).sum():,}",
    }


def by_symbol(trades: pl.DataFrame) -> pl.DataFrame:
    """One row per symbol of all trades of a backtest: how many, how they ended, what they earned; the best first."""
    closed = pl.col("exit_ts").is_not_null()
    return (
        trades.group_by("symbol")
        .agg(
            trades=closed.sum(),
            open=(~closed).sum(),
            winners=(pl.col("pnl") > 0).filter(closed).mean(),
            mean=pl.col("pnl_pct").filter(closed).mean(),
            profit=pl.col("pnl").sum(),
            stops=pl.col("reason").is_in(STOPS).sum(),
        )
        .sort("profit", "symbol", descending=[True, False])
    )


def as_texts(trade: Mapping[str, Any]) -> pl.DataFrame:
    """Every column of a trade and its value in words: Field, Value."""
    return pl.DataFrame({"Field": list(trade), "Value": [_text(name, value) for name, value in trade.items()]})


def _text(name: str, value: Any) -> str:
    if value is None:
        return NONE
    if name in _SHARES:
        return f"{value:.2%}"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
