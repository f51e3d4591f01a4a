"""What the leakage detectors are run on: features, labels, signals and whole strategies as functions of bars."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date

import polars as pl

from quant_assets.core.calendar import TradingCalendar
from quant_assets.core.errors import ConfigError
from quant_assets.features import FEATURE_SETS, Feature, FeatureSet, compute, feature_set
from quant_assets.labels import LABEL_SETS, LabelSet, label_set
from quant_assets.market_data.synthetic import synthetic_bars, synthetic_symbols
from quant_assets.models import walkforward
from quant_assets.models.spec import ModelSpec
from quant_assets.models.store import ModelStore
from quant_assets.signals import RULES
from quant_assets.strategy.compose import decide, feature_lookback, rebalance_dates, signal_scores
from quant_assets.strategy.spec import FactorRank, ModelScore, RuleSignal, StrategySpec
from quant_assets.strategy.universe import Bounds
from quant_assets.validation.leakage import Finding, FrameFunction, look_ahead, warm_up

_LABEL_KEYS = ("symbol", "ts", "label_name")


@dataclass(frozen=True)
class Probe:
    """One function of adjusted bars, and what it is said to need.

    `answers_to` are the names by which a user may ask for it. `lookback` counts the symbol's own sessions before
    `known_on`; where it is None, `endless` says why no finite history settles a value. `decides_on` are the dates at
    which a leak of a single session would show, and `cuts` says at how many of them the future is taken away; without
    `decides_on` the detector chooses.
    """

    name: str
    answers_to: tuple[str, ...]
    fn: FrameFunction
    keys: tuple[str, ...] = ("symbol", "ts")
    known_on: str = "ts"
    lookback: int | None = None
    endless: str = ""
    decides_on: tuple[date, ...] = ()
    cuts: int = 6


@dataclass(frozen=True)
class Verdict:
    """What one detector found on one probe; `untested` says why it could not be run, and is empty where it was."""

    name: str
    detector: str
    findings: tuple[Finding, ...] = ()
    untested: str = ""

    @property
    def result(self) -> str:
        """`passed`, `not applicable`, or how many findings there are."""
        if self.untested:
            return "not applicable"
        return f"{len(self.findings)} finding(s)" if self.findings else "passed"

    @property
    def detail(self) -> str:
        """The first finding, or why nothing was tested."""
        return self.findings[0].message if self.findings else self.untested


@dataclass
class Trainings:
    """Models trained while probing, in a folder of their own: an identical training is reused between cuts.

    A model is reused by the fingerprint of all that its training is given, so that one whose training rows have moved
    is trained anew.
    """

    store: ModelStore
    registry: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=walkforward.MODELS_SCHEMA))

    def predictions(self, spec: ModelSpec, bars: pl.DataFrame, calendar: TradingCalendar) -> pl.DataFrame:
        """Walk-forward predictions for all of `bars`, from features and labels computed of `bars`."""
        labels = label_set(spec.label_version).compute(bars).filter(pl.col("label_name") == spec.label)
        walked = walkforward.run(
            spec,
            feature_set(spec.feature_version).compute(bars),
            labels,
            bars["symbol"].unique().to_list(),
            calendar.sessions,
            *_span(bars),
            self.store,
            self.registry,
        )
        self.registry = pl.concat([self.registry, walked.new_models])
        return walked.predictions


def run(probe: Probe, bars: pl.DataFrame) -> Iterator[Verdict]:
    """Both detectors on `probe`: look-ahead, then warm-up.

    Args:
        bars: adjusted bars (symbol, ts, open, high, low, close, volume), long enough for the probe's lookback.

    Raises:
        ConfigError: bars too short for anything to be tested.
        DataError: the function returns no row, or its result cannot be compared.
    """
    cuts = _cuts(probe, bars) if probe.decides_on else None
    if cuts == []:
        yield Verdict(probe.name, "look-ahead", untested="no row is known before the last decision; pass longer bars")
    else:
        found = look_ahead(probe.fn, bars, cuts=cuts, known_on=probe.known_on, keys=probe.keys)
        yield Verdict(probe.name, "look-ahead", tuple(found))
    if probe.lookback is None:
        yield Verdict(probe.name, "warm-up", untested=probe.endless)
    else:
        found = warm_up(probe.fn, bars, probe.lookback, known_on=probe.known_on, keys=probe.keys)
        yield Verdict(probe.name, "warm-up", tuple(found))


def feature_probes(features: FeatureSet) -> list[Probe]:
    """One probe per feature of the set, with its own lookback; those of one function and lookback share a probe."""
    groups: dict[object, list[Feature]] = {}
    for one in features.features:
        groups.setdefault((one.function, one.lookback), []).append(one)
    return [
        Probe(
            f"feature {group[0].name} {f'and {len(group) - 1} more of ' if len(group) > 1 else ''}{features.version}",
            (*(one.name for one in group), features.version),
            FeatureSet(features.version, tuple(group)).compute,
            lookback=group[0].lookback,
        )
        for group in groups.values()
    ]


def label_probes(labels: LabelSet) -> list[Probe]:
    """One probe per label of the set: a value may move only before the session that settled it."""
    probes = []
    for one in labels.labels:
        alone = LabelSet(labels.version, (one,))
        names = (one.name, labels.version)
        name = f"label {one.name} {labels.version}"
        probes.append(Probe(name, names, alone.compute, _LABEL_KEYS, "known_on", alone.lookback))
    return probes


def strategy_probes(
    spec: StrategySpec,
    bounds: Mapping[str, Bounds],
    calendar: TradingCalendar,
    trainings: Trainings,
) -> list[Probe]:
    """The strategy's signal, and its targets from bars to approved weights.

    Args:
        bounds: symbol -> first and last session on which it is listed (`spec.bounds`).
    """

    def scores(bars: pl.DataFrame) -> pl.DataFrame:
        if spec.model is not None:
            return signal_scores(spec, trainings.predictions(spec.model, bars, calendar))
        if spec.feature_version is not None:
            return signal_scores(spec, compute(bars, spec.feature_version))
        return signal_scores(spec, bars, calendar.sessions, calendar.sessions_per_year)

    def targets(bars: pl.DataFrame) -> pl.DataFrame:
        sessions = calendar.between(*_span(bars))
        decided = decide(spec, scores(bars), bars, {}, sessions, calendar.sessions, bounds)
        return decided.targets.drop("strategy_id", "version").rename({"asof": "ts"})

    days = tuple(rebalance_dates(spec.rebalance.frequency, calendar.sessions, calendar.sessions))
    if isinstance(spec.signal, ModelScore):
        cuts = 2
        learns = tuple(walkforward.training_dates(spec.signal.model, calendar.sessions))
        lookback = _model_lookback(spec.signal.model, calendar)
        endless = "" if lookback is not None else "the model learns from all history; train_years would bound it"
    else:
        cuts, learns = 6, days
        lookback = _lookback(spec.signal)
        endless = "" if lookback is not None else "a position is held until it is closed, however long ago it began"
    name, ids = f"{spec.strategy_id} {spec.version}", (spec.strategy_id,)
    return [
        Probe(f"signal of {name}", ids, scores, lookback=lookback, endless=endless, decides_on=learns, cuts=cuts),
        Probe(
            f"targets of {name}",
            ids,
            targets,
            endless="every rebalance starts from the weights of the one before",
            decides_on=days,
            cuts=cuts,
        ),
    ]


def all_probes(
    strategies: Mapping[str, StrategySpec],
    bounds: Mapping[str, Mapping[str, Bounds]],
    calendar: TradingCalendar,
    trainings: Trainings,
) -> list[Probe]:
    """Probes of every feature, label and strategy there is.

    Args:
        strategies, bounds: by strategy id.
    """
    found = [probe for features in FEATURE_SETS.values() for probe in feature_probes(features)]
    found += [probe for labels in LABEL_SETS.values() for probe in label_probes(labels)]
    for strategy_id, spec in strategies.items():
        found += strategy_probes(spec, bounds[strategy_id], calendar, trainings)
    return found


def made_bars(
    bounds: Mapping[str, Bounds], calendar: TradingCalendar, last: date, sessions: int = 1000
) -> pl.DataFrame:
    """Synthetic bars under the names of `bounds`: the newest `sessions` sessions up to `last`, as far as listed."""
    days = calendar.between(date.min, last)[-sessions:]
    names = dict(zip(synthetic_symbols(len(bounds)), bounds, strict=True))
    bars = synthetic_bars(list(names), days).with_columns(pl.col("symbol").replace_strict(names))
    listed = [(symbol, first, end or date.max) for symbol, (first, end) in bounds.items()]
    spans = pl.DataFrame(listed, schema={"symbol": pl.String, "first": pl.Date, "end": pl.Date}, orient="row")
    return (
        bars.join(spans, on="symbol")
        .filter(pl.col("ts").is_between("first", "end"))
        .select("symbol", "ts", "open", "high", "low", "close", "volume")
        .sort("symbol", "ts")
    )


def choose(probes: Iterable[Probe], names: Collection[str]) -> list[Probe]:
    """Those of `probes` that answer to one of `names`; all without names.

    Raises:
        ConfigError: a name that nothing answers to; lists the known ones.
    """
    probes = list(probes)
    known = list(dict.fromkeys(name for probe in probes for name in reversed(probe.answers_to)))
    unknown = [name for name in names if name not in known]
    if unknown:
        raise ConfigError(f"nothing to check is called {unknown[0]!r}; use one of: {', '.join(known)}")
    return [probe for probe in probes if not names or set(names) & set(probe.answers_to)]


def _cuts(probe: Probe, bars: pl.DataFrame) -> list[date]:
    """Decision dates by which something is known, from the middle one to the last, and the session before that."""
    known = probe.fn(bars.sort("symbol", "ts"))[probe.known_on].unique()
    sessions = bars["ts"].unique().sort().to_list()
    days = [day for day in known.filter(known.is_in(probe.decides_on)).sort().to_list() if day < sessions[-1]]
    if not days:
        return []
    half, last = len(days) // 2, len(days) - 1
    chosen = {days[half + (last - half) * step // max(probe.cuts - 1, 1)] for step in range(probe.cuts)}
    before = sessions.index(days[last]) - 1
    return sorted(chosen | {sessions[max(before, 0)]})


def _lookback(signal: FactorRank | RuleSignal) -> int | None:
    if isinstance(signal, FactorRank):
        return feature_lookback(signal.inputs.feature_version, signal.inputs.feature_name)
    return RULES[signal.type].lookback(signal.inputs)


def _model_lookback(spec: ModelSpec, calendar: TradingCalendar) -> int | None:
    """Sessions from the oldest bar that a model's oldest training row reads to the last session it predicts."""
    if spec.train_years is None:
        return None
    features = feature_set(spec.feature_version).features
    reads = max(one.lookback for one in features if spec.features is None or one.name in spec.features)
    labels = label_set(spec.label_version).labels
    reads = max([reads, *(one.lookback for one in labels if one.name == spec.label)])
    days = round(365.25 * spec.train_years) + {"monthly": 31, "quarterly": 92, "yearly": 366}[spec.retrain]
    return reads + _most_sessions(calendar.sessions, days)


def _most_sessions(sessions: Sequence[date], days: int) -> int:
    """The largest number of sessions that any stretch of so many days and a session holds."""
    first = most = 0
    for at, day in enumerate(sessions):
        while (day - sessions[first]).days > days:
            first += 1
        most = max(most, at - first + 1)
    return most


def _span(bars: pl.DataFrame) -> tuple[date, date]:
    first, last = bars["ts"].min(), bars["ts"].max()
    assert isinstance(first, date)  # the detectors pass no empty bars
    assert isinstance(last, date)
    return first, last
