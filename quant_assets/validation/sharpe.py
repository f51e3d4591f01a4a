"""Inference on the Sharpe ratio: how sure one can be of it, given the returns and the trials that it is the best of.

The small functions take ratios per session, as the papers do: mean over standard deviation (ddof=1), not annualised.
Skewness and kurtosis are those of the population (no correction for the sample's size), kurtosis not in excess.
`sharpes`, `expected_best`, `bootstrap` and `deflated` speak of annualised ratios: times the square root of the sessions
per year. The risk-free rate is zero.
"""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from quant_assets.core.errors import DataError

Floats = NDArray[np.float64]

NO_SPREAD = 1e-12
"""Below it a standard deviation is rounding, not risk."""
CONFIDENCE = 0.95
"""Probability at which a ratio counts as above its benchmark."""
SAME = math.sqrt(1 / 2)
"""Correlation from which on two trials count as one: they share half of their variance."""
CLUSTERED = 1_000
"""Most trials whose correlations are looked at; of more, so many evenly spaced ones."""

_EULER = 0.5772156649015329
_FEWEST = 20
_INSIGNIFICANT = 5  # autocorrelations in a row: max(5, sqrt(log10 n)) of Politis and White, 5 for any n there can be
_NORMAL = NormalDist()


@dataclass(frozen=True)
class Interval:
    """A confidence interval of the annualised Sharpe ratio by stationary bootstrap; `block` is the mean length."""

    low: float
    high: float
    confidence: float
    block: float


@dataclass(frozen=True)
class Deflated:
    """One strategy's Sharpe ratio against chance and against the trials that it was picked from.

    Ratios are annualised; probabilities lie between 0 and 1; NaN where undefined.
    """

    sharpe: float
    sessions: int
    skew: float
    kurtosis: float
    """Not in excess: 3 of a normal distribution."""
    probabilistic: float
    """Probability that the true Sharpe ratio is above 0."""
    minimum_sessions: float
    """Minimum track record: sessions after which `probabilistic` would be 0.95; infinite of a ratio not above 0."""
    trials: int
    """Configurations ever tried in the family, this one included."""
    effective_trials: float
    """After clustering those that move together."""
    expected_maximum: float
    """Highest ratio that as many trials without skill would show."""
    ratio: float
    """`sharpe - expected_maximum`."""
    probability: float
    """Deflated Sharpe ratio: probability that the true ratio is above `expected_maximum`."""
    effective_expected_maximum: float
    effective_ratio: float
    effective_probability: float
    """The same with `effective_trials`; see `deflated` for their spread."""
    interval: Interval | None


def spreads(returns: Floats) -> Floats:
    """Sample standard deviation (ddof=1) of each row of (curves, sessions); NaN of fewer than two sessions."""
    return np.std(returns, axis=1, ddof=1) if returns.shape[1] > 1 else np.full(len(returns), np.nan)


def annual_ratios(means: Floats, risks: Floats, year: int) -> Floats:
    """means / risks * sqrt(year), each per session; NaN where there is no risk."""
    risky = risks >= NO_SPREAD
    return np.where(risky, means / np.where(risky, risks, 1.0) * math.sqrt(year), np.nan)


def sharpes(returns: Floats, year: int) -> Floats:
    """Annualised Sharpe ratio of each row of (curves, sessions), to (curves,); NaN where undefined.

    mean / std(ddof=1) * sqrt(year). Sharpe, "The Sharpe Ratio" (1994).

    Example:
        >>> sharpes(np.array([[0.02, 0.0], [0.01, 0.01]]), 200).round(6).tolist()
        [10.0, nan]
    """
    return annual_ratios(np.mean(returns, axis=1), spreads(returns), year)


def skewness(returns: Floats) -> float:
    """Third central moment of (sessions,) over the second to the power of 3/2; NaN without spread.

    Example: 0, 0, 0, 4 have the moments 3 and 6, and with them 6 / 3**1.5 = 1.1547.
    """
    return _standardised_moment(returns, 3)


def kurtosis(returns: Floats) -> float:
    """Fourth central moment of (sessions,) over the square of the second, 3 of a normal one; NaN without spread.

    Example: 0, 0, 0, 4 have the moments 3 and 21, and with them 21 / 9 = 2.3333.
    """
    return _standardised_moment(returns, 4)


def standard_error(ratio: float, sessions: int, skew: float, kurtosis: float) -> float:
    """Of a Sharpe ratio per session: sqrt((1 - skew x ratio + (kurtosis - 1) / 4 x ratio**2) / (sessions - 1)).

    Mertens (2002) as in Bailey and López de Prado, "The Sharpe Ratio Efficient Frontier" (2012).

    Example:
        >>> standard_error(1.0, 7, 0.0, 3.0)
        0.5
    """
    if sessions < 2:
        raise DataError(f"{sessions} session(s) of returns, at least 2 are needed: take a longer period")
    return math.sqrt(_dispersion(ratio, skew, kurtosis) / (sessions - 1))


def probabilistic(ratio: float, sessions: int, skew: float, kurtosis: float, benchmark: float = 0.0) -> float:
    """Probabilistic Sharpe ratio: probability that the true ratio is above `benchmark`, both per session.

    Bailey and López de Prado, "The Sharpe Ratio Efficient Frontier" (2012). NaN where undefined.

    Example, of that paper: 24 months of a fund, less sure for their tail of losses than normal ones would be.
        >>> round(probabilistic(0.458, 24, -2.448, 10.164), 3), round(probabilistic(0.458, 24, 0.0, 3.0), 3)
        (0.913, 0.982)
    """
    error = standard_error(ratio, sessions, skew, kurtosis)
    return _NORMAL.cdf((ratio - benchmark) / error) if error > 0 else math.nan


def minimum_track_record(
    ratio: float, skew: float, kurtosis: float, benchmark: float = 0.0, confidence: float = CONFIDENCE
) -> float:
    """Sessions after which `probabilistic` reaches `confidence`, a fraction; infinite of a ratio that is not higher.

    Bailey and López de Prado, "The Sharpe Ratio Efficient Frontier" (2012). NaN where undefined.

    Example, of that paper: 3.24 years of months to tell an annualised ratio of 2 from 1.
        >>> round(minimum_track_record(2 / 12**0.5, 0.0, 3.0, 1 / 12**0.5) / 12, 2)
        3.24
    """
    if not 0.5 < confidence < 1:
        raise DataError(f"confidence is {confidence}, it lies between 0.5 and 1, say 0.95")
    if ratio <= benchmark:
        return math.inf
    return 1 + _dispersion(ratio, skew, kurtosis) * (_NORMAL.inv_cdf(confidence) / (ratio - benchmark)) ** 2


def expected_maximum(trials: float, spread: float) -> float:
    """Expected highest Sharpe ratio of independent trials without skill; `spread` is the ratios' standard deviation.

    spread x ((1 - g) Z(1 - 1/n) + g Z(1 - 1/(n e))), g Euler's constant, Z the normal quantile; 0 of fewer than two.
    Bailey and López de Prado, "The Deflated Sharpe Ratio" (2014).

    Example, of that paper: per day, of 100 trials with an annualised variance of 1/2.
        >>> round(expected_maximum(100, (1 / 2 / 250) ** 0.5), 4)
        0.1132
    """
    if trials < 2:
        return 0.0
    highest = (1 - _EULER) * _NORMAL.inv_cdf(1 - 1 / trials) + _EULER * _NORMAL.inv_cdf(1 - 1 / (trials * math.e))
    return spread * highest


def expected_best(trials: float, sessions: int, year: int) -> float:
    """`expected_maximum`, annualised, of trials that are spread like estimates of zero: by sqrt(year / sessions).

    Example:
        >>> round(expected_best(1000, 2520, 252), 2)
        1.03
    """
    return expected_maximum(trials, math.sqrt(year / sessions))


def effective_trials(returns: Floats) -> float:
    """Number of clusters of (trials, sessions) that move together: between 1 and the number of trials.

    The idea and the distance, sqrt((1 - correlation) / 2), are those of López de Prado and Lewis, "Detection of False
    Investment Strategies Using Unsupervised Learning Methods" (2018). Instead of by k-means, whose quality measure
    finds clusters even in noise, trials are joined hierarchically (average linkage), as long as they are nearer than
    two that share half of their variance (correlation 0.71). So unrelated trials stay apart, however many, and a grid
    of parameters has hardly more effective trials for being finer. Trials without spread are left out: none could have
    been picked for its ratio.

    Of more than 1,000 trials, as many evenly spaced ones are clustered; each of those that are alone in their cluster
    then stands for its share of all, whereas a cluster of several is one whatever the others are.

    Example: two equal trials and their opposite are 2.

    Raises:
        DataError: no trial, fewer than two sessions or values that are not finite.
    """
    _check_finite(returns, 2)
    if not len(returns):
        raise DataError("no trial's returns, at least 1 is needed: give the strategy's own too")
    moving = returns[spreads(returns) >= NO_SPREAD]
    if len(moving) < 2:
        return 1.0
    share = max(len(moving) / CLUSTERED, 1.0)
    if share > 1:
        moving = moving[np.arange(CLUSTERED) * len(moving) // CLUSTERED]
    members = np.bincount(_clusters(moving))[1:]
    alone = int(np.sum(members == 1))
    return len(members) - alone + alone * share


def bootstrap(
    returns: Floats,
    year: int,
    resamples: int = 2000,
    seed: int = 7,
    confidence: float = CONFIDENCE,
    block: float | None = None,
) -> Interval:
    """Confidence interval of the annualised Sharpe ratio of (sessions,) by stationary bootstrap, percentile method.

    Politis and Romano, "The Stationary Bootstrap" (1994). The same seed gives the same interval; NaN without spread.

    Args:
        block: mean length of a block, in sessions; none: `block_length`.

    Raises:
        DataError: fewer than 20 sessions, values that are not finite, or arguments out of range.
    """
    from quant_assets.validation.bootstrap_kernel import resampled

    _check_finite(returns, _FEWEST)
    if resamples < 1 or not 0 < confidence < 1:
        raise DataError(f"{resamples} resamples at a confidence of {confidence}: take 1 or more, between 0 and 1")
    length = block_length(returns) if block is None else block
    if not length >= 1:
        raise DataError(f"the mean length of a block is {length} sessions, it must be 1 or more")
    mean = float(np.mean(returns))
    if spreads(returns[None])[0] < NO_SPREAD:
        return Interval(math.nan, math.nan, confidence, length)
    ratios = np.empty(resamples)
    resampled(returns - mean, mean, length, seed, ratios)
    low, high = np.nanquantile(ratios, [(1 - confidence) / 2, (1 + confidence) / 2]) * math.sqrt(year)
    return Interval(float(low), float(high), confidence, length)


def block_length(returns: Floats) -> float:
    """Mean block length of the stationary bootstrap that fits the autocorrelation of (sessions,): 1 or more.

    Politis and White, "Automatic Block-Length Selection for the Dependent Bootstrap" (2004) as corrected by Patton,
    Politis and White (2009): (G**2 x sessions / long-run variance**2) ** (1/3) with a flat-top lag window over twice
    the lags before five autocorrelations in a row are insignificant; no more than 3 sqrt(sessions), or a third of them.
    """
    _check_finite(returns, _FEWEST)
    sessions = len(returns)
    centred = returns - np.mean(returns)
    if np.std(centred) < NO_SPREAD:
        return 1.0
    lags = math.ceil(math.sqrt(sessions)) + _INSIGNIFICANT
    pairs = [(centred[lag:], centred[: sessions - lag]) for lag in range(lags + 1)]
    covariances = np.array([late @ early for late, early in pairs]) / sessions
    powers = np.array([(late @ late) * (early @ early) for late, early in pairs])
    correlated = np.abs(covariances) * sessions >= 2 * math.sqrt(math.log10(sessions) / sessions) * np.sqrt(powers)
    runs = np.lib.stride_tricks.sliding_window_view(correlated[1:], _INSIGNIFICANT).any(axis=1)
    window = lags if runs.all() else min(2 * (1 + int(np.argmin(runs))), lags)
    lag = np.arange(1, window + 1)
    weighted = 2 * np.minimum(1.0, 2 * (1 - lag / window)) * covariances[1 : window + 1]
    slope, variance = weighted @ lag, covariances[0] + weighted.sum()
    longest = math.ceil(min(3 * math.sqrt(sessions), sessions / 3))
    if variance**2 * longest**3 <= slope**2 * sessions:
        return float(longest)
    return max(float((slope**2 / variance**2 * sessions) ** (1 / 3)), 1.0)


def deflated(
    returns: Floats,
    year: int,
    trial_sharpes: Floats,
    trials: int,
    effective: float | None = None,
    interval: Interval | None = None,
) -> Deflated:
    """Judge (sessions,) returns of the strategy against its trials.

    Bailey and López de Prado, "The Deflated Sharpe Ratio" (2014): `probabilistic` with `expected_maximum` as benchmark,
    from the variance (ddof=1) of the trials' ratios; where fewer than two of these are known, trials are spread like
    estimates of zero, as in `expected_best`.

    Trials that move together lie closer to one another, so that their spread already allows for it. Effective trials
    do so by their lower number, and are spread like estimates of zero at least: the same must not be deducted twice.
    In grids of trading rules on random walks, both come close to the mean of the highest ratio found.

    Args:
        trial_sharpes: annualised ratios of the trials that are known, the strategy's own included; NaN is ignored.
        trials: how many were ever tried.
        effective: `effective_trials`; none: as many as there are trials.

    Raises:
        DataError: fewer than two sessions, values that are not finite, more known or effective trials than trials.
    """
    _check_finite(returns, 2)
    counted = float(trials) if effective is None else effective
    known = trial_sharpes[~np.isnan(trial_sharpes)]
    if not 1 <= counted <= trials or len(known) > trials:
        raise DataError(
            f"{trials} trials, of which {len(known)} are known and {counted:g} effective: count every trial of the "
            "family, the strategy's own included"
        )
    sessions, annual = len(returns), math.sqrt(year)
    sharpe = float(sharpes(returns[None], year)[0])
    skew, tails = skewness(returns), kurtosis(returns)
    chance = math.sqrt(year / sessions)
    spread = float(np.std(known, ddof=1)) if len(known) > 1 else chance
    best, effective_best = expected_maximum(trials, spread), expected_maximum(counted, max(spread, chance))

    def above(benchmark: float) -> float:
        return probabilistic(sharpe / annual, sessions, skew, tails, benchmark / annual)

    return Deflated(
        sharpe=sharpe,
        sessions=sessions,
        skew=skew,
        kurtosis=tails,
        probabilistic=above(0.0),
        minimum_sessions=minimum_track_record(sharpe / annual, skew, tails),
        trials=trials,
        effective_trials=counted,
        expected_maximum=best,
        ratio=sharpe - best,
        probability=above(best),
        effective_expected_maximum=effective_best,
        effective_ratio=sharpe - effective_best,
        effective_probability=above(effective_best),
        interval=interval,
    )


def _standardised_moment(returns: Floats, order: int) -> float:
    _check_finite(returns, 1)
    deviations = returns - np.mean(returns)
    spread = math.sqrt(np.mean(deviations**2))
    return float(np.mean((deviations / spread) ** order)) if spread >= NO_SPREAD else math.nan


def _dispersion(ratio: float, skew: float, kurtosis: float) -> float:
    """Variance of the estimated ratio times (sessions - 1). No distribution has a kurtosis below 1 + skew**2."""
    if kurtosis < (1 + skew**2) * (1 - 1e-9):
        raise DataError(
            f"kurtosis is {kurtosis}, with a skewness of {skew} at least {1 + skew**2:g}: pass it not in excess"
        )
    return max(1 - skew * ratio + (kurtosis - 1) / 4 * ratio**2, 0.0)


def _clusters(returns: Floats) -> NDArray[np.int32]:
    """Number of the cluster, from 1 on, of each row of (trials, sessions)."""
    from scipy.cluster.hierarchy import fcluster, linkage

    pairs = np.asarray(np.corrcoef(returns))[np.triu_indices(len(returns), 1)]
    tree = linkage(_distance(pairs), "average")
    return np.asarray(fcluster(tree, _distance(np.array(SAME)), "distance"))


def _distance(correlations: Floats) -> Floats:
    return np.sqrt(np.maximum(1 - correlations, 0.0) / 2)


def _check_finite(returns: Floats, fewest: int) -> None:
    sessions = returns.shape[-1]
    if sessions < fewest:
        raise DataError(f"{sessions} session(s) of returns, at least {fewest} are needed: take a longer period")
    wrong = returns.size - np.count_nonzero(np.isfinite(returns))
    if wrong:
        raise DataError(f"{wrong} of {returns.size} returns are not finite: a session without a return counts as 0")
