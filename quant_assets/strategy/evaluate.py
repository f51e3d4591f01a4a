"""Many configurations of a strategy over one window: of each the measures that its backtest would have, without tables.

What `compose.decide` and `engine.run` do for one configuration in frames is done here for many in matrices, by the same
compiled code: the figures are the same, bit for bit.
"""

from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from threading import RLock
from typing import Any, TypeVar

import numpy as np
import polars as pl
from numpy.typing import NDArray

from quant_assets.backtest import metrics
from quant_assets.backtest.simulation import Mechanics, Outcomes, simulate_many
from quant_assets.contracts import sweep_results
from quant_assets.core.matrices import Floats, Index, Matrices, matrices
from quant_assets.features import compute
from quant_assets.portfolio.allocation import allocate
from quant_assets.portfolio.supervisor import limits
from quant_assets.portfolio.weighting import share_basis
from quant_assets.signals.rules import RULES
from quant_assets.strategy.compose import listed_on, matrix_of, rebalance_dates, signal_scores
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.universe import Bounds

_BLOCK_BYTES = 4_000_000
"""Weights of configurations that are simulated in one call: little enough to stay in the processor's cache."""

Value = TypeVar("Value")


@dataclass(frozen=True)
class Evaluations:
    """One row per configuration, in the order asked for."""

    summary: pl.DataFrame
    """`sweep_results.METRICS`. Undefined measures are null; where nothing was left of the cash, all but the costs."""
    returns: Floats
    """(configurations, sessions): the portfolio's return of each session; NaN once nothing was left."""


class Evaluator:
    """Backtests of many configurations of one strategy. May be used by threads at once, and sent to processes.

    What configurations share (scores, indicators, allocations, rebalance dates) is computed once and kept.

    Args:
        bars: adjusted bars of the window and before it, as `decide` and `run` take them.
        sessions: the window's, sorted.
        calendar: all sessions of the exchange, those to come included.
        bounds: symbol -> first and last session on which it is listed (`spec.bounds`).
        year: sessions per year.
        sources: what signals read besides bars, by `source_of`: wide feature sets, predictions of experiments.
        block_bytes: memory for the weights of configurations that are simulated in one call.
    """

    def __init__(
        self,
        bars: pl.DataFrame,
        sessions: Sequence[date],
        calendar: Sequence[date],
        bounds: Mapping[str, Bounds],
        year: int,
        sources: Mapping[str, pl.DataFrame] | None = None,
        block_bytes: int = _BLOCK_BYTES,
    ) -> None:
        self._symbols = sorted(bounds)
        self._bounds = dict(bounds)
        self._sessions = list(sessions)
        self._calendar = calendar
        self._year = year
        self._sources = dict(sources or {})
        self._block_bytes = block_bytes
        self._bars = bars.filter(pl.col("symbol").is_in(self._symbols), pl.col("ts") <= self._sessions[-1])
        self._prices = matrices(bars, self._sessions, self._symbols)
        self._memo: dict[Hashable, Any] = {}
        self._indicators: dict[Hashable, Any] = {}
        self._lock = RLock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_memo", "_indicators", "_lock")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__ |= state | {"_memo": {}, "_indicators": {}, "_lock": RLock()}

    def evaluate(self, specs: Sequence[StrategySpec]) -> Evaluations:
        """Backtest each of `specs` from cash, over the window.

        Raises:
            KeyError: a source that a signal reads was not given.
        """
        values = {column.name: np.full(len(specs), np.nan) for column in sweep_results.METRICS}
        returns = np.empty((len(specs), len(self._sessions)))
        for numbers in self._blocks(specs):
            block = [specs[number] for number in numbers]
            outcomes = self._simulated(block)
            found = outcomes.summary(self._year)
            for name in ("fee_bps", "slippage_bps", "initial_cash"):
                found[name] = np.array([getattr(spec.backtest, name) for spec in block])
            for name, column in values.items():
                column[numbers] = found[name]
            returns[numbers] = metrics.returns_of(outcomes.equity, outcomes.initial_cash)
        summary = pl.DataFrame(values).with_columns(pl.all().fill_nan(None))
        return Evaluations(summary.cast({column.name: column.polars for column in sweep_results.METRICS}), returns)

    def _blocks(self, specs: Sequence[StrategySpec]) -> Iterator[list[int]]:
        """Numbers of the specs that are simulated in one call; those with the same signal are neighbours."""
        groups: dict[tuple[str, float], dict[Hashable, list[int]]] = {}
        for number, spec in enumerate(specs):
            group = groups.setdefault((spec.rebalance.frequency, spec.backtest.initial_cash), {})
            group.setdefault(_signal_key(spec), []).append(number)
        for (frequency, _), signals in groups.items():
            numbers = [number for same in signals.values() for number in same]
            size = max(1, self._block_bytes // (8 * max(1, self._listed(frequency).size)))
            for first in range(0, len(numbers), size):
                yield numbers[first : first + size]

    def _simulated(self, specs: Sequence[StrategySpec]) -> Outcomes:
        """Of specs with the same rebalance dates and cash."""
        frequency, cash = specs[0].rebalance.frequency, specs[0].backtest.initial_cash
        weights = np.empty((len(specs), *self._listed(frequency).shape))
        known, scores = None, np.empty(0)
        for spec, weight in zip(specs, weights, strict=True):
            key = _signal_key(spec)
            if key != known:
                known, scores = key, self._scores(spec)
            self._weigh(spec, scores, weight)
        mechanics = [self._mechanics(spec) for spec in specs]
        return simulate_many(self._prices, self._rows(frequency), weights, cash, mechanics)

    def _mechanics(self, spec: StrategySpec) -> Mechanics:
        sections = (spec.backtest, spec.execution, spec.exits, spec.rebalance, spec.portfolio, spec.supervisor)
        return self._once(("mechanics", *sections), lambda: spec.config(self._year).mechanics)

    def _weigh(self, spec: StrategySpec, scores: Floats, weight: Floats) -> None:
        """Write the approved weights of every rebalance date, NaN where it has no targets."""
        from quant_assets.portfolio import kernel

        frequency, portfolio = spec.rebalance.frequency, spec.portfolio
        exposure = spec.rule is not None
        if exposure and portfolio.short == "none":
            scores = np.maximum(scores, 0.0)
        code, basis = share_basis(scores, portfolio.weighting, self._vols(spec), self._shares(spec))
        bounds = limits(spec.supervisor, portfolio.top_k, len(self._symbols))
        kernel.weigh(scores, self._listed(frequency), basis, code, exposure, bounds, spec.min_cross_section, weight)

    def _scores(self, spec: StrategySpec) -> Floats:
        """(rebalance dates, symbols); kept, but for those of rules: they may be as many as there are specs."""
        frequency, rule = spec.rebalance.frequency, spec.rule
        if rule is None:
            source = self._sources[source_of(spec) or ""]
            return self._once(
                ("scores", _signal_key(spec), frequency),
                lambda: matrix_of(signal_scores(spec, source), "score", self._dates(frequency), self._symbols),
            )
        panel = self._panel
        exposures = RULES[rule.type].exposures(panel, rule.inputs, self._year, self._indicators)
        exposures = exposures[len(panel.days) - len(self._sessions) :]
        return exposures if frequency == "daily" else exposures[self._rows(frequency)]

    def _vols(self, spec: StrategySpec) -> Floats | None:
        if spec.portfolio.weighting != "inverse_vol":
            return None
        frequency = spec.rebalance.frequency
        return self._once(
            ("vols", frequency),
            lambda: matrix_of(compute(self._bars, "v1"), "vol_20d", self._dates(frequency), self._symbols),
        )

    def _shares(self, spec: StrategySpec) -> Floats | None:
        method, frequency, window = spec.portfolio.weighting, spec.rebalance.frequency, spec.portfolio.risk_window
        if method != "risk_parity" and method != "hrp":
            return None
        panel = self._panel
        rows = self._rows(frequency) + len(panel.days) - len(self._sessions)
        return self._once(
            ("shares", method, frequency, window),
            lambda: allocate(method, panel.returns, rows, self._listed(frequency), window),
        )

    @property
    def _panel(self) -> Matrices:
        """The window's sessions and those before it from the first bar on."""

        def made() -> Matrices:
            first: Any = self._bars["ts"].min() or self._sessions[0]
            before = [day for day in self._calendar if first <= day < self._sessions[0]]
            return matrices(self._bars, [*before, *self._sessions], self._symbols)

        return self._once("panel", made)

    def _dates(self, frequency: str) -> list[date]:
        return self._once(("dates", frequency), lambda: rebalance_dates(frequency, self._sessions, self._calendar))

    def _rows(self, frequency: str) -> Index:
        """The sessions' numbers of the rebalance dates."""
        return self._once(
            ("rows", frequency), lambda: np.searchsorted(self._prices.days, np.array(self._dates(frequency), "M8[D]"))
        )

    def _listed(self, frequency: str) -> NDArray[np.bool_]:
        """(rebalance dates, symbols)"""
        return self._once(("listed", frequency), lambda: listed_on(self._dates(frequency), self._symbols, self._bounds))

    def _once(self, key: Hashable, compute: Callable[[], Value]) -> Value:
        with self._lock:
            if key not in self._memo:
                self._memo[key] = compute()
            found: Value = self._memo[key]
            return found


def source_of(spec: StrategySpec) -> str | None:
    """What the signal reads besides bars: the experiment of its model, the version of its feature set, or nothing."""
    return spec.model.experiment_id if spec.model else spec.feature_version


def _signal_key(spec: StrategySpec) -> Hashable:
    return spec.model.experiment_id if spec.model else spec.signal.inputs  # type: ignore[union-attr]
