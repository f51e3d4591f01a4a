"""Backtests side by side, from their stored tables: measures, configuration, correlation, curves; page and picture."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import polars as pl

from quant_assets.backtest import analysis, pictures
from quant_assets.backtest.analysis import MEASURES, Curve, Measure
from quant_assets.backtest.comparison_page import PAGE
from quant_assets.backtest.report import shade, value_text
from quant_assets.core import page
from quant_assets.core.errors import ConfigError, DataError
from quant_assets.core.files import write_whole
from quant_assets.core.matrices import days_of
from quant_assets.core.page import NONE, ratio

Array = npt.NDArray[np.float64]

MOST = len(pictures.SERIES)
"""So many backtests at most have a colour each."""

_COMMON = (
    *("total_return", "cagr", "vol", "sharpe", "sortino", "calmar", "max_dd", "longest_dd", "ulcer", "var_95"),
    *("cvar_95", "skew", "worst_month", "best_month", "positive_months", "omega", "recovery"),
)
_OWN = ("turnover", "num_trades", "win_rate", "avg_trade", "profit_factor")
_SETTINGS = ("strategy_id", "version", "from_ts", "to_ts", "initial_cash", "fee_bps", "slippage_bps")
_WEEKEND = 5  # Monday is 0


@dataclass(frozen=True)
class Line:
    """One measure of every backtest."""

    measure: Measure
    values: tuple[float | None, ...]

    @property
    def best(self) -> tuple[bool, ...]:
        """Which are the best; none where the measure has no better or all are equal."""
        known = [value for value in self.values if value is not None]
        if not self.measure.better or len(set(known)) < 2:
            return (False,) * len(self.values)
        winner = max(known) if self.measure.better > 0 else min(known)
        return tuple(value == winner for value in self.values)

    @property
    def texts(self) -> tuple[str, ...]:
        """The values as they are shown."""
        return tuple(value_text(self.measure, value) for value in self.values)


@dataclass(frozen=True, eq=False)
class Comparison:
    """Backtests side by side, in the order they were asked for."""

    runs: tuple[str, ...]
    """The run of each."""
    labels: tuple[str, ...]
    """A name of each, no two alike."""
    year: int
    """Sessions per year of the common ones."""
    curves: pl.DataFrame
    """ts, then each one's equity over that of the first common session, under its label; on common sessions only."""
    common: tuple[Line, ...]
    """Measures over the common sessions after the first."""
    own: tuple[Line, ...]
    """Measures of trades, each over its backtest's own period."""
    differences: tuple[tuple[str, tuple[str, ...]], ...]
    """Fields of the configuration that are not the same in all, and their values."""
    correlations: Array
    """(backtests, backtests): of returns over common sessions; NaN where undefined."""

    @property
    def first(self) -> date:
        return self.curves["ts"][0]

    @property
    def last(self) -> date:
        return self.curves["ts"][-1]


def resolve(prefixes: Sequence[str], known: Sequence[str]) -> list[str]:
    """The run id that each prefix begins, each run once.

    Args:
        prefixes: run ids or beginnings of them.
        known: ids of the runs that stored a backtest, the newest first.

    Raises:
        ConfigError: a prefix that begins no id, or several.

    Example:
        >>> resolve(["ab", "c"], ["abc", "cde", "xyz"])
        ['abc', 'cde']
    """
    found = []
    for prefix in prefixes:
        fits = [run for run in dict.fromkeys(known) if run.startswith(prefix)]
        exact = [run for run in fits if run == prefix]
        if not fits:
            newest = f"the newest is {known[0]}" if known else "none is stored yet; run `quant backtest` first"
            raise ConfigError(f"no stored backtest's run id begins with {prefix!r}; {newest}")
        if len(fits) > 1 and not exact:
            raise ConfigError(f"{prefix!r} begins {len(fits)} run ids ({_some(fits)}); give more of the one you mean")
        found.append((exact or fits)[0])
    return list(dict.fromkeys(found))


def _some(names: Sequence[str], count: int = 3) -> str:
    return ", ".join(names[:count]) + (", ..." if len(names) > count else "")


def compare(
    runs: Sequence[str],
    summary: pl.DataFrame,
    equity: pl.DataFrame,
    configurations: Mapping[tuple[str, str], Mapping[str, Any]] | None = None,
) -> Comparison:
    """Put the backtests of `runs` side by side. A run of several strategies stands once for each.

    Args:
        runs: run ids, in the order wanted.
        summary: their `backtest_summary` rows, `run_id` included.
        equity: their `backtest_equity` rows, `run_id` included.
        configurations: (run_id, strategy_id) -> what was configured, nested as in a strategy file. Left out unless it
            is known of all.

    Raises:
        ConfigError: fewer than two backtests, or more than there are colours for.
        DataError: fewer than two common sessions.
    """
    place = {run: number for number, run in enumerate(runs)}
    chosen = [row for row in summary.sort("strategy_id").iter_rows(named=True) if row["run_id"] in place]
    chosen.sort(key=lambda row: place[row["run_id"]])
    if not 2 <= len(chosen) <= MOST:
        raise ConfigError(f"{len(chosen)} backtest(s) to compare; give runs with 2 to {MOST} between them")
    labels = _labels(chosen)
    curves = _common_curves(chosen, labels, equity)
    days = days_of(curves["ts"].to_list())
    year = _year(days.tolist())
    columns = [Curve(days[1:], curves[label].to_numpy()[1:], 1.0, year) for label in labels]
    measured = [analysis.measures(curve) for curve in columns]
    named = {one.name: one for one in MEASURES}
    return Comparison(
        runs=tuple(row["run_id"] for row in chosen),
        labels=labels,
        year=year,
        curves=curves,
        common=tuple(Line(named[name], tuple(one[name] for one in measured)) for name in _COMMON),
        own=tuple(Line(named[name], tuple(row[name] for row in chosen)) for name in _OWN),
        differences=_differences(chosen, configurations or {}),
        correlations=analysis.correlations(np.column_stack([curve.returns for curve in columns]))[0],
    )


def _labels(rows: Sequence[Mapping[str, Any]]) -> tuple[str, ...]:
    """Strategy, with its version where that tells all apart, else with as much of the run id as does."""
    shapes = ("{strategy_id}", "{strategy_id} {version}", "{strategy_id} ({run_id:.8})", "{strategy_id} ({run_id})")
    found = [tuple(shape.format(**row) for row in rows) for shape in shapes]
    return next((names for names in found if len(set(names)) == len(names)), found[-1])


def _common_curves(rows: Sequence[Mapping[str, Any]], labels: Sequence[str], equity: pl.DataFrame) -> pl.DataFrame:
    common: pl.DataFrame | None = None
    for row, label in zip(rows, labels, strict=True):
        own = (pl.col("run_id") == row["run_id"]) & (pl.col("strategy_id") == row["strategy_id"])
        curve = equity.filter(own).select("ts", pl.col("equity").alias(label)).sort("ts")
        common = curve if common is None else common.join(curve, on="ts", how="inner", maintain_order="left")
    assert common is not None
    if common.height < 2:
        periods = "; ".join(
            f"{label} {row['from_ts']} to {row['to_ts']}" for row, label in zip(rows, labels, strict=True)
        )
        raise DataError(f"the backtests have {common.height} common session(s), 2 are needed: {periods}")
    return common.with_columns(pl.col(label) / pl.col(label).first() for label in labels)


def _year(days: Sequence[date]) -> int:
    """365 where there are weekends among the sessions, else 252."""
    return 365 if any(day.weekday() >= _WEEKEND for day in days) else 252


def _differences(
    rows: Sequence[Mapping[str, Any]], configurations: Mapping[tuple[str, str], Mapping[str, Any]]
) -> tuple[tuple[str, tuple[str, ...]], ...]:
    files = [configurations.get((row["run_id"], row["strategy_id"])) for row in rows]
    flat = [
        (dict(_flattened(file)) if file is not None and None not in files else {})
        | {name: row[name] for name in _SETTINGS}
        for row, file in zip(rows, files, strict=True)
    ]
    names = dict.fromkeys(name for one in flat for name in one)
    texts = {name: tuple(_text(one.get(name)) for one in flat) for name in names}
    return tuple((name, values) for name, values in texts.items() if len(set(values)) > 1)


def _flattened(nested: Mapping[str, Any], path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of each leaf."""
    for name, value in nested.items():
        if isinstance(value, Mapping):
            yield from _flattened(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", value


def _text(value: Any) -> str:
    if value is None:
        return NONE
    return f"{value:,.12g}" if isinstance(value, int | float) and not isinstance(value, bool) else str(value)


def comparison_png(compared: Comparison) -> bytes:
    """The curves of all on the common sessions, 1 at the first (below 60 kB)."""
    return pictures.rebased_png(compared.curves, compared.labels)


def write_comparison(path: Path, compared: Comparison) -> Path:
    """Write the page to `path`, whole or not at all. Returns `path`."""
    return write_whole(path, render(compared))


def render(compared: Comparison) -> str:
    """The page as HTML. The same comparison gives the same text."""
    from markupsafe import Markup

    labels = compared.labels
    groups = (("over the common sessions", compared.common), ("each over its own period", compared.own))
    return page.render(
        PAGE,
        title=" against ".join(labels) if len(labels) == 2 else f"{len(labels)} backtests",
        first=compared.first,
        last=compared.last,
        sessions=f"{compared.curves.height:,}",
        labels=labels,
        runs=list(zip(labels, compared.runs, strict=True)),
        curves_svg=Markup(pictures.rebased_svg(compared.curves)),
        groups=[{"name": name, "lines": _rows(lines)} for name, lines in groups],
        differences=compared.differences,
        correlations=[
            {
                "name": f"{number} {label}",
                "cells": [None if np.isnan(value) else shade(value, 1.0, ratio) for value in line],
            }
            for number, (label, line) in enumerate(zip(labels, compared.correlations.tolist(), strict=True), start=1)
        ],
        year=compared.year,
    )


def _rows(lines: Sequence[Line]) -> list[dict[str, Any]]:
    return [
        {"name": line.measure.label, "cells": list(zip(line.texts, line.best, strict=True))}
        for line in lines
        if any(value is not None for value in line.values)
    ]
