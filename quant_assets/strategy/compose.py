"""The composition that research, backtest and live share: scores to targets, rebalance date by rebalance date."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from quant_assets.core.errors import DataError
from quant_assets.features import compute
from quant_assets.portfolio.supervisor import decisions, supervise_dates
from quant_assets.portfolio.weighting import propose
from quant_assets.signals import factor_rank, model_score
from quant_assets.strategy.spec import FactorRank, StrategySpec

_TARGETS: dict[str, pl.DataType | type[pl.DataType]] = {
    "strategy_id": pl.String,
    "version": pl.String,
    "asof": pl.Date,
    "symbol": pl.String,
    "weight": pl.Float64,
    "score": pl.Float64,
    "approved": pl.Boolean,
    "risk_flags": pl.List(pl.String),
    "reason": pl.String,
}


@dataclass(frozen=True, slots=True)
class Skipped:
    """A rebalance date without targets, and why; the last targets stand."""

    asof: date
    reason: str


@dataclass(frozen=True, slots=True)
class Decisions:
    """`targets`: strategy_id, version, asof, symbol, weight, score, approved, risk_flags, reason, by (asof, symbol)."""

    targets: pl.DataFrame
    skipped: tuple[Skipped, ...]


def rebalance_dates(frequency: str, sessions: Sequence[date], calendar: Sequence[date]) -> list[date]:
    """Those of `sessions` on which a strategy decides: each (daily), or the last of its week or month.

    Whether a session is the last of its week (Monday to Sunday) or month is asked of `calendar`, which must reach past
    the last of `sessions`: of Wednesday and Thursday before a Good Friday only Thursday counts, and of a Monday alone
    nothing does.

    Args:
        frequency: daily, weekly or monthly.
        sessions: the slice, sorted.
        calendar: all sessions of the exchange, sorted, those to come included.
    """
    if frequency == "daily":
        return list(sessions)
    period = (lambda day: day.isocalendar()[:2]) if frequency == "weekly" else (lambda day: (day.year, day.month))
    following = dict(pairwise(calendar))
    return [day for day in sessions if day in following and period(following[day]) != period(day)]


def signal_scores(spec: StrategySpec, source: pl.DataFrame) -> pl.DataFrame:
    """The strategy's scores (symbol, ts, score), sorted by (symbol, ts).

    Models of one symbol each are compared by their calibrated scores. A pooled model's raw scores rank its symbols the
    same way, and still do where its calibration is constant because it ranked its hold-out backwards.

    Args:
        source: the signal's feature set, wide (factor_rank), or the predictions of its experiment (model_score).
    """
    if isinstance(spec.signal, FactorRank):
        return factor_rank(source, spec.signal.inputs)
    pooled = spec.signal.model.scope == "universe"
    return model_score(source.drop("calibrated_score", strict=False) if pooled else source)


def decide(
    spec: StrategySpec,
    scores: pl.DataFrame,
    bars: pl.DataFrame,
    previous: Mapping[str, float],
    sessions: Sequence[date],
    calendar: Sequence[date],
    bounds: Mapping[str, tuple[date | None, date | None]],
) -> Decisions:
    """Targets of every rebalance date of a slice, each starting from the last approved weights.

    A listed symbol without a score on the date is in the table as rejected and flagged `missing`. Where fewer than
    `spec.min_cross_section` of the listed symbols have one, the date has no targets. A position in a symbol that is no
    longer listed, or has left the strategy's universe, is closed on the next rebalance date and flagged `unlisted`.

    Args:
        scores: symbol, ts, score; rows of other symbols and dates are ignored.
        bars: adjusted bars up to the slice's end. Only inverse_vol reads them: it divides by feature vol_20d of set v1,
            so wants each symbol's 20 bars before the slice.
        previous: symbol -> weight last approved before the slice.
        sessions: the slice's sessions, sorted.
        calendar: all sessions of the exchange, those to come included.
        bounds: symbol -> first and last session on which it is listed, both inclusive, None: open (`spec.bounds`).

    Raises:
        DataError: two scores for one symbol and date, or a previous weight that is not finite.
    """
    dates = rebalance_dates(spec.rebalance.frequency, sessions, calendar)
    symbols = sorted(bounds)
    score = _matrix(scores, "score", dates, symbols)
    listed = _listed(dates, symbols, bounds)
    score[~listed] = np.nan

    having, wanted = np.isfinite(score).sum(axis=1), listed.sum(axis=1)
    enough = (wanted > 0) & (having >= spec.min_cross_section * wanted - 1e-9)
    skipped = tuple(
        Skipped(
            dates[row],
            f"{having[row]} of {wanted[row]} listed symbols have a score; min_cross_section asks for "
            f"{spec.min_cross_section:g} of them",
        )
        for row in np.flatnonzero(~enough)
    )
    kept = [day for day, is_kept in zip(dates, enough, strict=True) if is_kept]
    if not kept:
        return Decisions(pl.DataFrame(schema=_TARGETS), skipped)
    score, listed = score[enough], listed[enough]

    method = spec.portfolio.weighting
    vols = _matrix(compute(bars, "v1"), "vol_20d", kept, symbols) if method == "inverse_vol" else None
    proposal = propose(score, method, spec.portfolio.top_k, vols)
    # no columns of their own: a sum over more columns may round differently, and a slice must equal its single days
    gone = sorted(symbol for symbol, weight in previous.items() if weight != 0 and symbol not in bounds)
    last = np.array([previous.get(symbol, 0.0) for symbol in symbols], np.float64)
    supervised = supervise_dates(
        score, proposal.rank, proposal.weight, last, spec.supervisor, spec.portfolio.top_k, listed
    )
    rows = decisions(symbols, score, proposal.rank, supervised, spec.supervisor, spec.portfolio.top_k, listed)
    targets = rows.select(
        pl.lit(spec.strategy_id).alias("strategy_id"),
        pl.lit(spec.version).alias("version"),
        pl.Series(kept, dtype=pl.Date).gather(rows["date"]).alias("asof"),
        pl.exclude("date"),
    )
    if gone:
        targets = pl.concat([targets, _closed(spec, kept[0], gone, previous)]).sort("asof", "symbol")
    return Decisions(targets, skipped)


def _closed(spec: StrategySpec, asof: date, symbols: Sequence[str], previous: Mapping[str, float]) -> pl.DataFrame:
    return pl.DataFrame(
        [
            (spec.strategy_id, spec.version, asof, symbol, 0.0, None, False, ["unlisted"],
             f"no longer in the universe; position of {previous[symbol]:.4f} closed")
            for symbol in symbols
        ],
        schema=_TARGETS,
        orient="row",
    )  # fmt: skip


def _listed(
    dates: Sequence[date], symbols: Sequence[str], bounds: Mapping[str, tuple[date | None, date | None]]
) -> NDArray[np.bool_]:
    days = np.array([day.toordinal() for day in dates], np.int64)[:, None]
    first = [(bounds[symbol][0] or date.min).toordinal() for symbol in symbols]
    last = [(bounds[symbol][1] or date.max).toordinal() for symbol in symbols]
    return (days >= np.array(first, np.int64)) & (days <= np.array(last, np.int64))


def _matrix(frame: pl.DataFrame, column: str, dates: Sequence[date], symbols: Sequence[str]) -> NDArray[np.float64]:
    """`column` as (dates, symbols), NaN where the frame has no row."""
    at_date = pl.DataFrame({"ts": dates, "row": range(len(dates))}, schema={"ts": pl.Date, "row": pl.Int64})
    at_symbol = pl.DataFrame(
        {"symbol": symbols, "column": range(len(symbols))}, schema={"symbol": pl.String, "column": pl.Int64}
    )
    cells = frame.select("symbol", "ts", pl.col(column).cast(pl.Float64).fill_null(float("nan")))
    cells = cells.join(at_date, on="ts").join(at_symbol, on="symbol")
    place = cells["row"].to_numpy() * len(symbols) + cells["column"].to_numpy()
    counts = np.bincount(place, minlength=len(dates) * len(symbols))
    if counts.max(initial=0) > 1:
        row, at = divmod(int(counts.argmax()), len(symbols))
        raise DataError(f"more than one {column} for {symbols[at]} on {dates[row]}; pass one row each")
    matrix = np.full(len(dates) * len(symbols), np.nan)
    matrix[place] = cells[column].to_numpy()
    return matrix.reshape(len(dates), len(symbols))
