"""The composition that research, backtest and live share: scores to targets, rebalance date by rebalance date.

`decide` does it for one strategy with a reason for every symbol; `evaluate` for many configurations, by the same
compiled code.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from quant_assets.core.errors import DataError
from quant_assets.core.matrices import Floats, Matrices, matrices
from quant_assets.features import compute, feature_set
from quant_assets.portfolio.allocation import allocate
from quant_assets.portfolio.supervisor import decisions, supervise_dates
from quant_assets.portfolio.weighting import propose
from quant_assets.signals import RULES, factor_rank, model_score
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


def signal_scores(
    spec: StrategySpec, source: pl.DataFrame, calendar: Sequence[date] = (), year: int = 252
) -> pl.DataFrame:
    """The strategy's scores (symbol, ts, score), sorted by (symbol, ts); those of a rule are its exposures.

    Models of one symbol each are compared by their calibrated scores. A pooled model's raw scores rank its symbols the
    same way, and still do where its calibration is constant because it ranked its hold-out backwards.

    Args:
        source: the signal's feature set, wide (factor_rank), the predictions of its experiment (model_score), or
            adjusted bars with `history` before the first date wanted (rules).
        calendar: sessions of the exchange; only rules read it, and the next.
        year: sessions per year.
    """
    if isinstance(spec.signal, FactorRank):
        return factor_rank(source, spec.signal.inputs)
    if spec.model is not None:
        pooled = spec.model.scope == "universe"
        return model_score(source.drop("calibrated_score", strict=False) if pooled else source)
    assert spec.rule is not None
    panel = panel_of(source, calendar, sorted(source["symbol"].unique()))
    exposure = RULES[spec.rule.type].exposures(panel, spec.rule.inputs, year)
    column, row = np.nonzero(~np.isnan(exposure.T))
    return pl.DataFrame(
        {
            "symbol": pl.Series(panel.symbols, dtype=pl.String).gather(column),
            "ts": pl.Series(panel.days[row], dtype=pl.Date),
            "score": exposure[row, column],
        }
    )


def panel_of(bars: pl.DataFrame, calendar: Sequence[date], symbols: Sequence[str]) -> Matrices:
    """The bars of `symbols` on all sessions from the first bar to the last."""
    first, last = bars["ts"].min(), bars["ts"].max()
    days = [day for day in calendar if first <= day <= last] if bars.height else []  # type: ignore[operator]
    return matrices(bars, days, symbols)


def history(spec: StrategySpec) -> int | None:
    """The symbol's own bars before a date that its decision reads; None: all of them."""
    weighting, rule = spec.portfolio.weighting, spec.rule
    needed = {
        "inverse_vol": feature_lookback("v1", "vol_20d"),
        "risk_parity": spec.portfolio.risk_window,
        "hrp": spec.portfolio.risk_window,
    }.get(weighting, 0)
    if rule is None:
        return needed
    own = RULES[rule.type].lookback(rule.inputs)
    return None if own is None else max(own, needed)


def feature_lookback(version: str, name: str) -> int:
    """The lookback of one feature of a set."""
    return next(one.lookback for one in feature_set(version).features if one.name == name)


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
        bars: adjusted bars up to the slice's end, with `history` before it. Only weightings by risk read them:
            inverse_vol divides by feature vol_20d of set v1, risk_parity and hrp take returns of `risk_window`.
        previous: symbol -> weight last approved before the slice.
        sessions: the slice's sessions, sorted.
        calendar: all sessions of the exchange, those to come included.
        bounds: symbol -> first and last session on which it is listed, both inclusive, None: open (`spec.bounds`).

    Raises:
        DataError: two scores for one symbol and date, or a previous weight that is not finite.
    """
    dates = rebalance_dates(spec.rebalance.frequency, sessions, calendar)
    symbols = sorted(bounds)
    score = matrix_of(scores, "score", dates, symbols)
    listed = listed_on(dates, symbols, bounds)
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

    sized = spec.rule is not None
    wanted_score = np.maximum(score, 0.0) if sized and spec.portfolio.short == "none" else score
    proposal = propose(
        wanted_score,
        spec.portfolio.weighting,
        spec.portfolio.top_k,
        _volatilities(spec, bars, kept, symbols),
        shares=_shares(spec, bars, calendar, kept, symbols, listed),
        exposure=sized,
    )
    top_k = spec.portfolio.top_k or len(symbols)
    # no columns of their own: a sum over more columns may round differently, and a slice must equal its single days
    gone = sorted(symbol for symbol, weight in previous.items() if weight != 0 and symbol not in bounds)
    last = np.array([previous.get(symbol, 0.0) for symbol in symbols], np.float64)
    supervised = supervise_dates(
        wanted_score, proposal.rank, proposal.weight, last, spec.supervisor, top_k, listed, exposure=sized
    )
    rows = decisions(symbols, score, proposal.rank, supervised, spec.supervisor, top_k, listed)
    targets = rows.select(
        pl.lit(spec.strategy_id).alias("strategy_id"),
        pl.lit(spec.version).alias("version"),
        pl.Series(kept, dtype=pl.Date).gather(rows["date"]).alias("asof"),
        pl.exclude("date"),
    )
    if gone:
        targets = pl.concat([targets, _closed(spec, kept[0], gone, previous)]).sort("asof", "symbol")
    return Decisions(targets, skipped)


def _volatilities(
    spec: StrategySpec, bars: pl.DataFrame, dates: Sequence[date], symbols: Sequence[str]
) -> Floats | None:
    if spec.portfolio.weighting != "inverse_vol":
        return None
    return matrix_of(compute(bars, "v1"), "vol_20d", dates, symbols)


def _shares(
    spec: StrategySpec,
    bars: pl.DataFrame,
    calendar: Sequence[date],
    dates: Sequence[date],
    symbols: Sequence[str],
    listed: NDArray[np.bool_],
) -> Floats | None:
    method = spec.portfolio.weighting
    if method != "risk_parity" and method != "hrp":
        return None
    panel = panel_of(bars, calendar, symbols)
    rows = np.searchsorted(panel.days, np.array(dates, "M8[D]"))
    return allocate(method, panel.returns, rows, listed, spec.portfolio.risk_window)


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


def listed_on(
    dates: Sequence[date], symbols: Sequence[str], bounds: Mapping[str, tuple[date | None, date | None]]
) -> NDArray[np.bool_]:
    """Which symbols are listed on which dates, (dates, symbols)."""
    days = np.array([day.toordinal() for day in dates], np.int64)[:, None]
    first = [(bounds[symbol][0] or date.min).toordinal() for symbol in symbols]
    last = [(bounds[symbol][1] or date.max).toordinal() for symbol in symbols]
    return (days >= np.array(first, np.int64)) & (days <= np.array(last, np.int64))


def matrix_of(frame: pl.DataFrame, column: str, dates: Sequence[date], symbols: Sequence[str]) -> NDArray[np.float64]:
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
