"""Allocations: the share of equity that each symbol gets, from the risk of its returns and whatever its score is.

Sources:
    inverse_vol: 1 / volatility; equal risk contributions where all correlations are equal.
    risk_parity: Maillard, Roncalli, Teiletche, "The properties of equally weighted risk contribution portfolios",
        Journal of Portfolio Management 36 (2010); solved by skfolio's `RiskBudgeting`.
    hrp: López de Prado, "Building diversified portfolios that outperform out of sample", Journal of Portfolio
        Management 42 (2016); skfolio's `HierarchicalRiskParity` with its defaults: variance as risk, Pearson distance,
        Ward linkage.
"""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from quant_assets.core.errors import DataError
from quant_assets.core.matrices import Floats, Index

Allocation = Literal["inverse_vol", "risk_parity", "hrp"]

_STILL = 1e-12
"""A volatility up to this is none: what rounding leaves of a price that never moves."""
_SOLVER = {"tol_gap_abs": 1e-11, "tol_gap_rel": 1e-11, "tol_feas": 1e-10}
"""Brings the risk contributions within 1e-6 of each other; the solver's defaults only within 1e-4."""
_UNEQUAL = 1e-4
"""Risk contributions further apart, as shares of the whole, are not those of risk parity."""
_REPORT_EVERY = 50


def allocate(
    method: Allocation,
    returns: Floats,
    rows: Index,
    usable: NDArray[np.bool_],
    window: int,
    report: Callable[[str], None] | None = None,
) -> Floats:
    """The shares of each row, of shape (rows, symbols): not negative, with sum 1, or 0 where nothing can be allocated.

    A row is allocated over its usable symbols with `window` complete returns up to and with the row itself; the others
    get 0, and a single one gets 1. Where risk says nothing:

    - a symbol whose price did not move in the window gets nothing beside one that moved; where none did, all get the
      same;
    - where there is no solution, the row is allocated by `inverse_vol`: skfolio finds none, or the risk contributions
      of its `risk_parity` differ, as they must where some of the returns cancel each other exactly. (Symbols with
      equal returns are no such case: their singular covariance matrix is replaced by the nearest regular one.)

    The shares depend on the values in the window alone, not on the order of rows; equal rows are computed once. A fit
    of skfolio takes around 10 ms, so that a caller with many rows may want to say how far it is.

    Volatilities of 1 % and 3 % a session: `inverse_vol` gives 0.75 and 0.25.

    Args:
        returns: one-session returns, (sessions, symbols), NaN where there is none.
        rows: sessions on which to allocate.
        usable: which symbols to choose from, (rows, symbols).
        window: sessions of returns, at least 2.
        report: gets a line of progress now and then.

    Raises:
        DataError: a window below 2, a row outside the returns, or `usable` of another shape.
    """
    if window < 2:
        raise DataError(f"a window of {window} returns has no volatility; use 2 or more")
    if usable.shape != (len(rows), returns.shape[1]):
        raise DataError(f"usable has shape {usable.shape}, needs one row per date: {(len(rows), returns.shape[1])}")
    if len(rows) and not 0 <= rows.min() <= rows.max() < len(returns):
        raise DataError(f"rows {rows.min()} to {rows.max()} lie outside the {len(returns)} sessions of returns")
    shares = np.zeros(usable.shape)
    done: dict[tuple[int, bytes], Floats] = {}
    for number, (row, choice) in enumerate(zip(rows.tolist(), usable, strict=True)):
        if report and number % _REPORT_EVERY == 0:
            report(f"{method}: {number} of {len(rows)} dates")
        if row + 1 < window:
            continue
        key = (row, choice.tobytes())
        if key not in done:
            recent = returns[row + 1 - window : row + 1]
            complete = choice & np.isfinite(recent).all(axis=0)
            done[key] = np.zeros(len(choice))
            done[key][complete] = _shares(method, recent[:, complete])
        shares[number] = done[key]
    return shares


def _shares(method: Allocation, returns: Floats) -> Floats:
    """Shares of symbols without a missing return."""
    volatility = returns.std(axis=0, ddof=1)
    moves = volatility > _STILL
    shares = np.zeros(len(volatility))
    if not moves.any():
        shares[:] = 1.0
    else:
        risk = volatility[moves]
        solved = None
        if method != "inverse_vol" and len(risk) > 1:
            solved = _risk_parity(returns[:, moves], risk) if method == "risk_parity" else _hrp(returns[:, moves], risk)
        shares[moves] = 1.0 / risk if solved is None else solved
    return shares / shares.sum() if len(shares) else shares


def _risk_parity(returns: Floats, risk: Floats) -> Floats | None:
    """Solved for returns of volatility 1, where the problem is well scaled: shares are those divided by volatility."""
    from skfolio.optimization import RiskBudgeting

    scaled = returns / risk
    weights = _fitted(RiskBudgeting(solver_params=_SOLVER, raise_on_failure=False), scaled)
    if weights is None:
        return None
    contributions = weights * (np.cov(scaled, rowvar=False) @ weights)
    if np.ptp(contributions) > _UNEQUAL * contributions.sum():
        return None
    return weights / risk


def _hrp(returns: Floats, risk: Floats) -> Floats | None:
    from skfolio.optimization import HierarchicalRiskParity

    return _fitted(HierarchicalRiskParity(raise_on_failure=False), returns / risk.mean())


def _fitted(estimator: Any, returns: Floats) -> Floats | None:
    """The estimator's weights; none where it finds no portfolio."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        weights = estimator.fit(returns).weights_
    if weights is None or not np.isfinite(weights).all() or not weights.sum() > 0:
        return None
    return np.maximum(weights, 0.0)
