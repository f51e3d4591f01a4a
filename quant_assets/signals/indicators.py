"""What the rules are made of: indicators of a panel, each computed once per parameter value.

Imports Numba; whoever must load fast imports it inside a function.
"""

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Self

import numpy as np

from quant_assets.core.matrices import Floats, Index, Matrices
from quant_assets.signals import rules_kernel as kernel
from quant_assets.signals.rules import Memo


@dataclass(frozen=True, eq=False)
class Indicators:
    """What the rules are made of, each computed once per parameter value; matrices of (sessions, symbols).

    NaN where the symbol has no bar and where its history is too short. `memo` may be shared by calls on one panel; it
    holds one matrix or two per entry, under these keys:

        ("bars",)                       the panel and its bars symbol by symbol
        ("momentum", weighting, n)      `momentum`
        ("volatility", n)               `volatility`
        ("centre", n), ("atr", n)       `centre`, `atr`
        ("channel", n)                  `channel`
        ("band", n), ("rsi", n)         `band`, `rsi`
        ("exponential", n)              `exponential`
    """

    panel: Matrices
    memo: Memo = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self._bars.panel is not self.panel:
            raise ValueError("the memo was filled from another panel; pass an empty dict with each new panel")

    def momentum(self, weighting: str, sessions: int) -> Floats:
        """Plain: close[t] / close[t-n] - 1. Volume: sum(volume x one-session return) / sum(volume), over t-n+1..t; NaN
        where no volume was traded in all of the window."""

        def compute() -> Floats:
            bars = self._bars
            if weighting == "plain":
                return bars.scatter(kernel.changes(bars.close, bars.lagged(bars.close, sessions)))
            traded = bars.mean(bars.volume, sessions)
            weighed = bars.mean(bars.volume * bars.returns, sessions)
            return bars.scatter(kernel.weighted(weighed, traded))

        return self._once(("momentum", weighting, sessions), compute)

    def volatility(self, sessions: int) -> Floats:
        """Sample standard deviation (divisor n - 1) of the n one-session returns that end at t; not annualised."""

        def compute() -> Floats:
            bars = self._bars
            return bars.scatter(bars.std(bars.returns, sessions, 1))

        return self._once(("volatility", sessions), compute)

    def centre(self, sessions: int) -> Floats:
        """Mean of the n closes before t."""

        def compute() -> Floats:
            bars = self._bars
            return bars.scatter(bars.lagged(bars.mean(bars.close, sessions)))

        return self._once(("centre", sessions), compute)

    def atr(self, sessions: int) -> Floats:
        """Mean of the n true ranges before t.

        The true range of a session is the largest of high - low, |high - previous close| and |low - previous close|.
        """

        def compute() -> Floats:
            bars = self._bars
            ranges = kernel.true_ranges(bars.high, bars.low, bars.lagged(bars.close))
            return bars.scatter(bars.lagged(bars.mean(ranges, sessions)))

        return self._once(("atr", sessions), compute)

    def channel(self, sessions: int) -> tuple[Floats, Floats]:
        """Lowest low and highest high of the n sessions before t."""

        def compute() -> tuple[Floats, Floats]:
            bars = self._bars
            lowest = -bars.maximum(-bars.low, sessions)
            return bars.scatter(bars.lagged(lowest)), bars.scatter(bars.lagged(bars.maximum(bars.high, sessions)))

        return self._once(("channel", sessions), compute)

    def band(self, sessions: int) -> tuple[Floats, Floats]:
        """Mean and population standard deviation (divisor n) of the n closes that end at t."""

        def compute() -> tuple[Floats, Floats]:
            bars = self._bars
            return bars.scatter(bars.mean(bars.close, sessions)), bars.scatter(bars.std(bars.close, sessions, 0))

        return self._once(("band", sessions), compute)

    def rsi(self, sessions: int) -> Floats:
        """Wilder's relative strength index, 100 x gain / (gain + loss); 50 where neither was.

        Gain and loss are averages of the rises and falls of the close: first the mean of the symbol's first n changes,
        then ((n - 1) x average + new) / n.
        """

        def compute() -> Floats:
            bars = self._bars
            return bars.scatter(kernel.relative_strength(bars.close, bars.starts, sessions))

        return self._once(("rsi", sessions), compute)

    def exponential(self, sessions: int) -> Floats:
        """Exponential mean of the closes since the symbol's first, which it begins at; defined from the n-th bar on.

        mean[t] = mean[t-1] + 2 / (n + 1) x (close[t] - mean[t-1])
        """

        def compute() -> Floats:
            bars = self._bars
            return bars.scatter(kernel.exponential_mean(bars.close, bars.starts, sessions))

        return self._once(("exponential", sessions), compute)

    @property
    def _bars(self) -> "_Bars":
        return self._once(("bars",), lambda: _Bars.of(self.panel))

    def _once(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        if key not in self.memo:
            self.memo[key] = compute()
        return self.memo[key]


@dataclass(frozen=True, eq=False)
class _Bars:
    """A panel's bars one symbol after the other, without gaps; `starts` are the symbols' first places, and the end."""

    panel: Matrices
    place: Index
    starts: Index
    high: Floats
    low: Floats
    close: Floats
    volume: Floats

    @classmethod
    def of(cls, panel: Matrices) -> Self:
        there = ~np.isnan(panel.close.T)
        symbol, session = np.nonzero(there)
        starts = np.concatenate([[0], np.cumsum(there.sum(axis=1))]).astype(np.int64)
        columns = (getattr(panel, name)[session, symbol] for name in ("high", "low", "close", "volume"))
        return cls(panel, session * len(panel.symbols) + symbol, starts, *columns)

    @cached_property
    def returns(self) -> Floats:
        return kernel.changes(self.close, self.lagged(self.close))

    def lagged(self, values: Floats, sessions: int = 1) -> Floats:
        """The value that many of the symbol's own sessions earlier."""
        out = np.full(len(values), np.nan)
        for first, end in zip(self.starts[:-1], self.starts[1:], strict=True):
            out[first + sessions : end] = values[first : max(end - sessions, first)]
        return out

    def mean(self, values: Floats, sessions: int) -> Floats:
        return kernel.window_mean(values, self.starts, sessions)

    def std(self, values: Floats, sessions: int, less: int) -> Floats:
        """Standard deviation with divisor `sessions - less`."""
        return kernel.window_std(values, self.mean(values, sessions), self.starts, sessions, less)

    def maximum(self, values: Floats, sessions: int) -> Floats:
        return kernel.window_max(values, self.starts, sessions)

    def scatter(self, values: Floats) -> Floats:
        """As a matrix of the panel's shape, NaN where there is no bar."""
        out = np.full(self.panel.close.shape, np.nan)
        out.reshape(-1)[self.place] = values
        return out
