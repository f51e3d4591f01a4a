"""The factor report: what each feature of a set has said of forward returns, across the symbols of a market.

Definitions follow alphalens and Qlib. Per session t, feature and horizon h, over the symbols that have both numbers:

- forward return: close[t+h] / close[t] - 1 in the symbol's own sessions, as the label `fwd_ret` has it; none where t+h
  lies after the window.
- information coefficient (IC): correlation of values and forward returns; rank IC: of their ranks (Spearman, ties share
  their mean rank). Grinold and Kahn, "Active Portfolio Management" (2nd ed. 2000), chapter 6. None for fewer than three
  symbols, nor where all values or all returns are equal.
- ICIR: mean over standard deviation of the ICs, per session, not annualised.
- quantiles: symbols cut by rank into equal groups, some of which stay empty where there are fewer symbols; the spread
  is the mean return of the top group less that of the bottom one, over the horizon, before costs.
- turnover: share of the top quantile's symbols that were not in it h sessions earlier; autocorrelation: correlation of
  a session's ranks with those h sessions earlier. Both over all symbols with a value, whatever their return.
- coverage: share of listed cells, symbols x sessions, that have a value.
- correlation of two factors: mean over sessions of the correlation of their ranks, each within its own cross-section.
"""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import date
from functools import cached_property
from itertools import pairwise

import numpy as np
import polars as pl
from numpy.typing import NDArray

from quant_assets.contracts import factor_quantiles, factor_summary
from quant_assets.core.errors import ConfigError
from quant_assets.core.matrices import Matrices

Floats = NDArray[np.float64]
Index = NDArray[np.int64]
Mask = NDArray[np.bool_]

HORIZONS = (1, 5, 10, 20, 60)
QUANTILES = 5
MIN_SYMBOLS = 3
"""Fewest symbols of a cross-section that is measured."""
SIGNIFICANT = 0.05
"""Highest adjusted p-value that counts as more than chance."""

_COMMON = ("market", "feature_version")
_STRETCHES = 3
_CELLS = 1 << 23
"""Features x symbols x sessions of one part: 64 MB for each of the few copies that are alive."""

Values = Callable[[date, date], pl.DataFrame]
"""Features between two sessions, both inclusive: symbol, ts and a column per feature, in any order."""


@dataclass(frozen=True)
class FactorReport:
    """One feature set on one market. The frames have the columns of the contracts `factor_*`, less their common keys.

    `summary` has a row per feature and horizon, in the set's order; `ic` has no row where a session has none.
    """

    summary: pl.DataFrame
    ic: pl.DataFrame
    quantiles: pl.DataFrame
    correlations: pl.DataFrame

    @property
    def tests(self) -> int:
        """How many pairs of feature and horizon were tested: out of so many the best one was picked."""
        return int(self.summary["p_value"].count())

    @property
    def breadth(self) -> int:
        """Median number of symbols of a measured cross-section."""
        return int(self.ic["symbols"].median() or 0)  # type: ignore[arg-type]

    @property
    def horizons(self) -> list[int]:
        """Horizons, rising."""
        return self.summary["horizon"].unique().sort().to_list()

    @cached_property
    def ranking(self) -> pl.DataFrame:
        """The row of `summary` of each feature's strongest horizon, that of the largest |rank_ic_t|.

        By falling rank_ic_t: the most positive ones, then noise, then the most negative ones, which order the symbols
        as well, the other way round. Features without a t-statistic come last.
        """
        strongest = self.summary.sort(pl.col("rank_ic_t").abs(), descending=True, nulls_last=True, maintain_order=True)
        rows = strongest.unique("feature_name", keep="first", maintain_order=True)
        return rows.sort("rank_ic_t", descending=True, nulls_last=True, maintain_order=True)

    def strongest(self, count: int) -> pl.DataFrame:
        """The `count` rows of `ranking` with the largest |rank_ic_t|, the largest first."""
        known = self.ranking.drop_nulls("rank_ic_t")
        return known.sort(pl.col("rank_ic_t").abs(), descending=True, maintain_order=True).head(count)

    @property
    def significant(self) -> int:
        """How many pairs of feature and horizon are more than chance for as many as were tested."""
        return self.summary.filter(pl.col("p_adjusted") <= SIGNIFICANT).height


def factor_report(
    values: Values,
    names: Sequence[str],
    panel: Matrices,
    listed: Mask,
    *,
    horizons: Sequence[int] = HORIZONS,
    quantiles: int = QUANTILES,
    progress: Callable[[str], None] = lambda line: None,
) -> FactorReport:
    """Measure every feature of a set, a part of the window at a time: its values need not fit into memory at once.

    Args:
        values: reads the features, some sessions at a time.
        names: the features, columns of what `values` returns.
        panel: adjusted bars of the market's symbols over the window; nothing outside it is read.
        listed: (sessions, symbols), whether the symbol is listed; other cells are left out.
        horizons: sessions ahead.
        quantiles: groups that a cross-section is cut into, at most as many as there are symbols.
        progress: gets a line per part of the window.

    Raises:
        ConfigError: a horizon below 1 or not shorter than the window, one given twice, fewer than two quantiles, or
            fewer than three symbols.
    """
    horizons = checked_horizons(horizons, len(panel.days))
    if len(panel.symbols) < MIN_SYMBOLS:
        raise ConfigError(
            f"{len(panel.symbols)} symbol(s) make no cross-section; a factor report needs {MIN_SYMBOLS} or more"
        )
    if quantiles < 2:
        raise ConfigError(f"quantiles is {quantiles}; a spread needs 2 or more")
    study = _Study(tuple(names), panel, listed, horizons, min(quantiles, len(panel.symbols)))
    sessions = len(panel.days)
    step = max(max(horizons), _CELLS // (len(study.names) * len(panel.symbols)))
    for start in range(0, sessions, step):
        stop = min(start + step, sessions)
        first = max(start - max(horizons), 0)
        study.add(values(*panel.days[[first, stop - 1]].tolist()), first, start, stop)
        progress(f"{len(study.names)} factors, {stop} of {sessions} sessions")
    return study.report()


def checked_horizons(horizons: Sequence[int], sessions: int) -> tuple[int, ...]:
    """`horizons`, rising.

    Raises:
        ConfigError: none, one below 1, one given twice, or one that a window of `sessions` is too short for.
    """
    if not horizons or len(set(horizons)) < len(horizons):
        raise ConfigError(f"horizons are {list(horizons)}; name each once, at least one")
    low, high = min(horizons), max(horizons)
    if low < 1:
        raise ConfigError(f"horizon {low} looks back; a forward return needs 1 session or more")
    if high >= sessions:
        raise ConfigError(
            f"horizon {high} is not shorter than the window of {sessions} sessions; "
            f"choose one below {sessions}, or a longer window"
        )
    return tuple(sorted(horizons))


def forward_returns(close: Floats, horizons: Sequence[int]) -> Floats:
    """close[t+h] / close[t] - 1 in each symbol's own sessions, (horizons, sessions, symbols); NaN where not closed.

    Example: closes [1, nan, 2] of a symbol have the one-session return 1 in the first row and none in the others.
    """
    out = np.full((len(horizons), *close.shape), np.nan)
    for symbol in range(close.shape[1]):
        rows = np.flatnonzero(~np.isnan(close[:, symbol]))
        own = close[rows, symbol]
        for number, horizon in enumerate(horizons):
            out[number, rows[:-horizon], symbol] = own[horizon:] / own[:-horizon] - 1.0
    return out


def lags_of(horizon: int, dates: int) -> int:
    """Lags of the Newey-West variance of a series about returns over `horizon` sessions.

    Overlapping returns correlate over horizon - 1 lags, and Bartlett weights shrink these, so twice as many are taken.
    At least the automatic 4 (dates/100)^(2/9), for factors change slowly too (Newey and West, "Automatic Lag Selection
    in Covariance Matrix Estimation", 1994).
    """
    return max(2 * (horizon - 1), int(4 * (dates / 100) ** (2 / 9)))


def newey_west_t(series: Floats, horizon: int) -> float | None:
    """t-statistic of the mean of a series without NaN, corrected for overlap and autocorrelation.

    Newey and West, "A Simple, Positive Semi-Definite, Heteroskedasticity and Autocorrelation Consistent Covariance
    Matrix" (Econometrica 1987): variance = g[0] + 2 sum over k of (1 - k/(L+1)) g[k], with the autocovariances g and
    L = `lags_of(horizon, n)`. Two known shortfalls are made up for: with b = (L+1)/n the variance is expected to be
    1 - b + b^2/3 of the true one (Kiefer and Vogelsang, "A New Asymptotic Theory for HAC Robust Tests", 2005), and of
    the variance that overlap makes the weights keep five sixths. On overlapping noise 5 to 7 % of the p-values then lie
    below 5 %, without it up to 14 %.

    None where the series is shorter than three stretches of L + 1, for so few tell nothing, or has no variance.
    """
    count = len(series)
    lags = lags_of(horizon, count)
    if count < _STRETCHES * (lags + 1):
        return None
    weights = 1 - np.arange(1, lags + 1) / (lags + 1)
    mean = series.mean()
    apart = series - mean
    products = [(apart[lag:] * apart[:-lag]).sum() for lag in range(1, lags + 1)]
    variance = (apart * apart).sum() + 2 * float((weights * products).sum())
    share = (lags + 1) / count
    overlap = 1 - np.arange(1, horizon) / horizon
    kept = (1 + 2 * float((weights[: horizon - 1] * overlap).sum())) / horizon
    error = np.sqrt(max(variance, 0.0) / (1 - share + share**2 / 3) / kept) / count
    return float(mean / error) if error > 1e-12 * abs(mean) else None


def p_value(t: float, horizon: int, dates: int) -> float:
    """Two-sided p-value of a `newey_west_t`.

    By Student's t with 1.5 dates / (L + 1) degrees of freedom, those of a Bartlett-weighted variance (Priestley,
    "Spectral Analysis and Time Series", 1981, section 6.2): long horizons leave few, whatever the number of sessions.
    """
    from scipy.special import stdtr

    freedom = 1.5 * dates / (lags_of(horizon, dates) + 1)
    return float(2 * stdtr(freedom, -abs(t)))


def adjusted(p_values: Floats) -> Floats:
    """p-values adjusted for how many were tried; NaN stays and is not counted.

    Benjamini and Hochberg, "Controlling the False Discovery Rate" (1995): the k-th smallest of n times n / k, never
    above a larger one's. Example: [0.01, 0.04, 0.03] become [0.03, 0.04, 0.04].
    """
    out = np.full(len(p_values), np.nan)
    known = np.flatnonzero(~np.isnan(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    scaled = p_values[order] * len(order) / np.arange(1, len(order) + 1)
    out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return out


class _Study:
    """What is known so far, a part of the window at a time. Axes: features (F), horizons (H), sessions (T), symbols."""

    def __init__(
        self, names: tuple[str, ...], panel: Matrices, listed: Mask, horizons: tuple[int, ...], quantiles: int
    ) -> None:
        self.names, self.panel, self.listed, self.horizons, self.quantiles = names, panel, listed, horizons, quantiles
        self.returns = forward_returns(np.where(listed, panel.close, np.nan), horizons)
        self.return_order = self.returns.argsort(axis=-1)
        shape = (len(names), len(horizons), len(panel.days))
        self.ic, self.rank_ic, self.market, self.autocorrelation, self.turnover = np.full((5, *shape), np.nan)
        self.symbols = np.zeros(shape, np.int64)
        self.layers = np.full((*shape, quantiles), np.nan)
        self.covered = np.zeros(len(names), np.int64)
        self.correlated = np.zeros((len(names), len(names)))
        self.compared = np.zeros((len(names), len(names)), np.int64)

    def add(self, values: pl.DataFrame, first: int, start: int, stop: int) -> None:
        """Take in the sessions from `start` to `stop`; `values` begins earlier, at `first`, for what looks back."""
        cells = self._cells(values, first, stop)
        ranks = np.empty(cells.shape, np.int64)
        workers = os.cpu_count() or 1
        edges = np.linspace(0, len(self.names), min(workers, len(self.names)) + 1).astype(int).tolist()
        parts = [slice(*ends) for ends in pairwise(edges)]
        with ThreadPoolExecutor(workers) as threads:
            list(threads.map(lambda part: self._measure(part, cells[part], ranks[part], first, start), parts))
        self._correlate(ranks[:, start - first :])

    def _cells(self, values: pl.DataFrame, first: int, stop: int) -> Floats:
        """(F, sessions, symbols), NaN where there is no finite value or the symbol is not listed."""
        days, symbols = self.panel.days, self.panel.symbols
        values = values.filter(pl.col("symbol").is_in(list(symbols)))
        codes = {name: number for number, name in enumerate(symbols)}
        stamps = values["ts"].to_numpy().astype("datetime64[D]")
        row = np.searchsorted(days, stamps)
        inside = np.flatnonzero((row >= first) & (row < stop) & (days[np.minimum(row, len(days) - 1)] == stamps))
        column = values["symbol"].replace_strict(codes, return_dtype=pl.Int64).to_numpy()
        at = (row[inside] - first) * len(symbols) + column[inside]
        cells = np.full((len(self.names), stop - first, len(symbols)), np.nan)
        for number, name in enumerate(self.names):
            cells[number].reshape(-1)[at] = values[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()[inside]
        cells[~np.isfinite(cells)] = np.nan
        cells[:, ~self.listed[first:stop]] = np.nan
        return cells

    def _measure(self, part: slice, cells: Floats, ranks: Index, first: int, start: int) -> None:
        from quant_assets.validation.factors_kernel import cross_sections, persistence

        order = cells.argsort(axis=-1)
        persistence(
            cells,
            order,
            first,
            start,
            np.array(self.horizons),
            self.quantiles,
            ranks,
            self.autocorrelation[part],
            self.turnover[part],
        )
        cross_sections(
            cells,
            order,
            first,
            start,
            self.returns,
            self.return_order,
            self.quantiles,
            self.ic[part],
            self.rank_ic[part],
            self.symbols[part],
            self.market[part],
            self.layers[part],
        )
        self.covered[part] += (ranks[:, start - first :] > 0).sum(axis=(1, 2))

    def _correlate(self, ranks: Index) -> None:
        """Add each session's correlations of ranks. Sums of integers are exact, in whatever order a product adds.

        One thread each: products as small as these take many times longer where threads wait for a busy machine.
        """
        from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

        with threadpool_limits(1, "blas"), np.errstate(invalid="ignore"):
            for session in range(ranks.shape[1]):
                rank = ranks[:, session].astype(np.float64)
                has = (rank > 0).astype(np.float64)
                if (has == has[0]).all():  # the usual session, at a quarter of the products
                    count, sums, squares = has[0].sum(), rank.sum(1)[:, None], (rank * rank).sum(1)[:, None]
                else:
                    count, sums, squares = has @ has.T, rank @ has.T, (rank * rank) @ has.T
                spread = count * squares - sums * sums
                known = (count >= MIN_SYMBOLS) & (spread > 0) & (spread.T > 0)
                found = (count * (rank @ rank.T) - sums * sums.T) / np.sqrt(spread * spread.T)
                self.correlated[known] += np.clip(found[known], -1.0, 1.0)
                self.compared += known

    def report(self) -> FactorReport:
        """What the whole window says."""
        return FactorReport(self._summary(), self._ic(), self._quantiles(), self._correlations())

    def _summary(self) -> pl.DataFrame:
        days = self.panel.days[[0, -1]].tolist()
        listed = max(int(self.listed.sum()), 1)
        spreads = self.layers[..., -1] - self.layers[..., 0]
        rows = []
        for feature, name in enumerate(self.names):
            for number, horizon in enumerate(self.horizons):
                at = feature, number
                plain, by_rank, spread = (_known(matrix[at]) for matrix in (self.ic, self.rank_ic, spreads))
                t = newey_west_t(by_rank, horizon)
                rows.append(
                    {
                        "feature_name": name,
                        "horizon": horizon,
                        "from_ts": days[0],
                        "to_ts": days[1],
                        "dates": len(by_rank),
                        **_moments("ic", plain),
                        "ic_t": newey_west_t(plain, horizon),
                        **_moments("rank_ic", by_rank),
                        "rank_ic_t": t,
                        "p_value": None if t is None else p_value(t, horizon, len(by_rank)),
                        "spread": _mean(spread),
                        "spread_t": newey_west_t(spread, horizon),
                        "autocorrelation": _mean(_known(self.autocorrelation[at])),
                        "turnover": _mean(_known(self.turnover[at])),
                        "coverage": self.covered[feature] / listed,
                    }
                )
        summary = pl.DataFrame(
            rows, schema={c.name: c.polars for c in factor_summary.TABLE.columns if c.name in rows[0]}
        )
        tested = adjusted(summary["p_value"].fill_null(float("nan")).to_numpy())
        return summary.with_columns(pl.Series("p_adjusted", tested, nan_to_null=True))

    def _ic(self) -> pl.DataFrame:
        known = ~(np.isnan(self.ic) & np.isnan(self.rank_ic))
        feature, horizon, session = known.nonzero()
        return pl.DataFrame(
            {
                "feature_name": pl.Series(self.names).gather(feature),
                "horizon": np.array(self.horizons, np.int32)[horizon],
                "ts": self.panel.days[session],
                "ic": self.ic[known],
                "rank_ic": self.rank_ic[known],
                "symbols": self.symbols[known].astype(np.int32),
            }
        ).with_columns(pl.col("ts").cast(pl.Date), pl.col("ic", "rank_ic").fill_nan(None))

    def _quantiles(self) -> pl.DataFrame:
        rows = [
            (name, horizon, quantile + 1, _mean(own), _mean(own - self.market[feature, number][seen]), len(own))
            for feature, name in enumerate(self.names)
            for number, horizon in enumerate(self.horizons)
            for quantile in range(self.quantiles)
            for seen in [~np.isnan(self.layers[feature, number, :, quantile])]
            for own in [self.layers[feature, number, seen, quantile]]
        ]
        contract = factor_quantiles.TABLE.columns
        return pl.DataFrame(rows, schema={c.name: c.polars for c in contract if c.name not in _COMMON}, orient="row")

    def _correlations(self) -> pl.DataFrame:
        with np.errstate(invalid="ignore"):
            mean = self.correlated / self.compared
        one, other = (~np.eye(len(self.names), dtype=bool)).nonzero()
        names = pl.Series(self.names, dtype=pl.String)
        return pl.DataFrame(
            {
                "feature_name": names.gather(one),
                "other": names.gather(other),
                "correlation": pl.Series(mean[one, other], nan_to_null=True),
                "dates": self.compared[one, other].astype(np.int32),
            }
        )


def _known(series: Floats) -> Floats:
    return series[~np.isnan(series)]


def _mean(series: Floats) -> float | None:
    return float(series.mean()) if len(series) else None


def _moments(name: str, series: Floats) -> dict[str, float | None]:
    """Mean, sample standard deviation, and their ratio."""
    mean = _mean(series)
    spread = float(series.std(ddof=1)) if len(series) > 1 else None
    ratio = mean / spread if mean is not None and spread is not None and spread > 1e-12 * abs(mean) else None
    return {f"mean_{name}": mean, f"std_{name}": spread, f"{name}ir": ratio}
