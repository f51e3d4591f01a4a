"""Weights one rebalance date at a time, for engines that see one date at a time."""

from collections.abc import Sequence
from functools import partial
from math import isnan

import numpy as np
from numpy.typing import NDArray

from quant_assets.core.errors import DataError
from quant_assets.portfolio.supervisor import SupervisorRules, limits
from quant_assets.portfolio.weighting import Weighting

Numbers = Sequence[float] | NDArray[np.float64]


class DateDecider:
    """What `weighting.propose` and `supervisor.supervise_dates` make of consecutive dates, bit for bit.

    Imports Numba when it is made, so that a date costs one compiled call.

    Args:
        method: `propose`'s.
        rules: the supervisor's.
        top_k: of the proposal and of R5; None: all.
        min_cross_section: share of the listed symbols that must have a score for a date to have targets.
        last: (symbols,) weights held before the first date, sorted by symbol as all that follow.
        exposure: the scores are exposures (`propose`).

    Raises:
        DataError: a last weight that is not finite.
    """

    def __init__(
        self,
        method: Weighting,
        rules: SupervisorRules,
        top_k: int | None,
        min_cross_section: float,
        last: Numbers,
        *,
        exposure: bool,
    ) -> None:
        from numba import typeof

        from quant_assets.portfolio import kernel

        self._held = np.array(last, np.float64)
        if not np.isfinite(self._held).all():
            raise DataError("a last weight is not finite; read it again from the targets approved last")
        count = len(self._held)
        self._score, self._basis, weight = np.empty((3, 1, count))
        self._listed = np.empty((1, count), np.bool_)
        codes = {"equal": kernel.EQUAL, "score_weighted": kernel.BY_SCORE, "inverse_vol": kernel.INVERSE}
        self._method = method
        self._needs_basis = method not in ("equal", "score_weighted")
        arguments = (
            self._score,
            self._listed,
            self._basis,
            codes.get(method, kernel.GIVEN),
            exposure,
            limits(rules, top_k, count),
            float(min_cross_section),
            weight,
            self._held,
        )
        # the compiled function itself: its dispatcher would look up the types of every date
        self._weigh = partial(kernel.weigh.compile(tuple(map(typeof, arguments))), *arguments)
        self._weight = weight[0]

    @property
    def held(self) -> list[float]:
        """(symbols,) weights after the dates so far."""
        weights: list[float] = self._held.tolist()
        return weights

    def decide(
        self, score: Numbers, listed: Sequence[bool] | NDArray[np.bool_], basis: Numbers | None = None
    ) -> list[float] | None:
        """The approved weights of the next date; None where it has no targets, so that the last ones stand.

        Args:
            score: (symbols,), NaN or infinite where there is none; that of a symbol that is not listed counts for
                nothing.
            listed: (symbols,)
            basis: (symbols,) volatilities (`inverse_vol`) or shares (`risk_parity`, `hrp`); others need none.

        Raises:
            DataError: the weighting needs a basis, and there is none.
        """
        self._score[0] = score
        self._listed[0] = listed
        if self._needs_basis:
            if basis is None:
                raise DataError(f"{self._method} needs the volatility or share of each symbol, got none")
            self._basis[0] = basis
        self._weigh()
        weights: list[float] = self._weight.tolist()
        return weights if weights and not isnan(weights[0]) else None
