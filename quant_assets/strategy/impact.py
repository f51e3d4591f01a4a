"""Forward: from bars that were restated, or held back, to everything stored that was made from them.

*Touched* is a row that could have another value, could come to be or cease to be, because bars of one symbol between
two dates have other adjusted prices or volumes (other than by one factor common to all older bars, which a later split
or dividend brings), or came or went. It is an upper bound by construction: made of what each asset states that it
reads, not of what it happened to read.

- *Features* of the symbol, from the first changed bar to the set's lookback, in the symbol's own bars, after the last.
- *Labels* of the symbol, by `known_on` likewise, to horizon and lookback after the last. They describe bars up to the
  horizon before the first.
- *Models* trained on or after the first changed bar, of the symbol or of all symbols, whose window holds a touched
  label or feature. As a model's id is a hash of its rows, training again gives another id.
- *Predictions* from touched features of the symbol, and all of touched models.
- *Targets* of a strategy from the first rebalance on that reads touched values, of those since its file's first session
  or its first targets: every later one starts from the weights before it, under a turnover cap. Rules and weightings by
  risk read bars themselves, over their own lookback; a rule that holds positions until they are closed reads all of
  them.
- *Backtests* of touched targets, and those with the symbol whose period holds a changed bar. *Validations* and *sweeps*
  that end on or after the first changed bar: what they try may look back further than the file does. *Factor reports*
  likewise.

Of strategies and versions that no file has any more, everything from the first changed bar on. Left out: what the
validation gate would say of new verdicts, and the marts, which are always made as a whole.
"""

import json
from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import ValidationError

from quant_assets.contracts import features_daily
from quant_assets.core.errors import ConfigError
from quant_assets.features import FEATURE_SETS, feature_set
from quant_assets.labels import LABEL_SETS, Label, label_set
from quant_assets.market_data.ingest import OVERLAP
from quant_assets.models.spec import ModelSpec
from quant_assets.models.walkforward import UNIVERSE, training_dates
from quant_assets.strategy.compose import feature_lookback, history, rebalance_dates
from quant_assets.strategy.lineage import stored
from quant_assets.strategy.markets import Market
from quant_assets.strategy.spec import FactorRank, StrategySpec
from quant_assets.warehouse import Source

Stage = Literal["market", "decision"]
Span = tuple[date, date]


@dataclass(frozen=True)
class Touched:
    """Rows of one asset's table that were made from the changed bars, directly or not."""

    asset: str
    what: str
    """Version, experiment, or strategy with version."""
    keys: tuple[str, ...]
    """Symbols, model ids or run ids: what the rows are filed under beside dates."""
    first: date
    last: date
    rows: int
    run_ids: tuple[str, ...]
    """The runs that wrote them, newest first."""
    reads: tuple[str, ...] = ()
    """Names of what they were made from, among the touched."""

    @property
    def name(self) -> str:
        return f"{self.asset} {self.what}"


@dataclass(frozen=True)
class Rerun:
    """One run that makes touched rows anew."""

    stage: Stage
    key: str
    """The symbol, or the strategy."""
    first: date
    last: date
    assets: tuple[str, ...]
    period: Span | None = None
    """Of the backtest, where there is one among the assets."""


@dataclass(frozen=True)
class Impact:
    """What a symbol's bars from `first` to `last` touched, the bars themselves first, and the runs that redo it."""

    symbol: str
    first: date
    last: date
    touched: tuple[Touched, ...]
    orders: tuple[Rerun, ...]
    quarantined: int
    """Bars of the span that were held back."""


@dataclass(frozen=True)
class Suspect:
    """Bars whose consequences are worth a look, and why."""

    symbol: str
    first: date
    last: date
    why: str


def reach(bars: Sequence[date], first: date, last: date, lookback: int | None) -> Span | None:
    """First and last of a symbol's own sessions whose value reads a bar between `first` and `last`; None if none does.

    A value reads the bar of its session and `lookback` bars before it; None: all of them. The changed bars may be
    among `bars` or not: one that came or went moves the windows of as many bars after it.

    Example: five sessions, the second changed, one bar of lookback: the second and third.
        >>> days = [date(2024, 1, day) for day in range(1, 6)]
        >>> reach(days, days[1], days[1], 1) == (days[1], days[2])
        True
    """
    start = bisect_left(bars, first)
    end = len(bars) if lookback is None else min(bisect_right(bars, last) + lookback, len(bars))
    return (bars[start], bars[end - 1]) if start < end else None


def described(bars: Sequence[date], first: date, last: date, label: Label) -> Span | None:
    """First and last session whose label reads a bar between `first` and `last`, at the bar itself or after it."""
    start = max(bisect_left(bars, first) - label.horizon, 0)
    end = min(bisect_right(bars, last) + label.lookback, len(bars))
    return (bars[start], bars[end - 1]) if start < end else None


def suspects(source: Source, market: Market) -> list[Suspect]:
    """Bars in quarantine, and histories that were rewritten after the features on them were computed.

    That an ingest reads the newest bars again, which rewrites them as they were, is no reason to suspect them.
    """
    symbols = list(market.layout.universe.names)
    found = [
        Suspect(symbol, first, last, f"{n} bar(s) in quarantine")
        for symbol, first, last, n in source.query(
            "SELECT symbol, min(ts), max(ts), count(*) FROM quarantine WHERE table_name = 'ohlcv' "
            "AND ts IS NOT NULL AND symbol IN (SELECT unnest(?)) GROUP BY symbol ORDER BY symbol",
            [symbols],
        ).iter_rows()
    ]
    for table in _feature_tables(source).values():
        rewritten = source.query(
            f"SELECT symbol, min(ts), max(ts), count(*) FROM ohlcv b JOIN {table} f USING (symbol, ts) "
            "WHERE b.ingested_at > f.computed_at AND symbol IN (SELECT unnest(?)) GROUP BY symbol, b.run_id "
            "HAVING count(*) > ? ORDER BY symbol",
            [symbols, OVERLAP],
        )
        found += [
            Suspect(symbol, first, last, f"{n:,} bars rewritten since their features were computed")
            for symbol, first, last, n in rewritten.iter_rows()
        ]
    return list(dict.fromkeys(found))


def impact(source: Source, market: Market, universes: Path, symbol: str, first: date, last: date) -> Impact:
    """What the symbol's bars from `first` to `last` touched.

    Args:
        source: the warehouse, or a copy of it.
        universes: folder of universe files, for strategies on a part of the market.

    Raises:
        ConfigError: a symbol that the market has not, dates reversed or without a session, or no bars of the symbol.
    """
    universe = market.layout.universe
    if symbol not in universe.names:
        raise ConfigError(
            f"symbol {symbol} is not in universe {universe.name} ({', '.join(universe.names[:20])}); "
            "choose one of these, or another market"
        )
    low, high = market.layout.calendar.snap(first, last)
    found = source.query("SELECT ts FROM ohlcv WHERE symbol = ? ORDER BY ts", [symbol])["ts"].to_list()
    if not found:
        raise ConfigError(f"no bars of {symbol} are stored; run `quant ingest --symbols {symbol}` first")
    return _Forward(source, market, universes, symbol, low, high, found).impact()


def _feature_tables(source: Source) -> dict[str, str]:
    """Version -> table of the feature sets of which something was ever stored."""
    tables = {version: features_daily.wide(version, one.names).name for version, one in FEATURE_SETS.items()}
    return {version: table for version, table in tables.items() if stored(source, table)}


@dataclass(frozen=True)
class _Learning:
    """An experiment's touched features, training rows and models."""

    features: Span | None
    rows: Span | None
    """Sessions of training rows whose features or label are touched."""
    pooled: bool
    feature_version: str | None = None
    label_version: str | None = None


_EVERYTHING = (date.min, date.max)


@dataclass(frozen=True)
class _Forward:
    """Looks for the touched rows, stage by stage."""

    source: Source
    market: Market
    universes: Path
    symbol: str
    first: date
    last: date
    bars: Sequence[date]
    """The symbol's own sessions."""

    def impact(self) -> Impact:
        held = self.source.query(
            "SELECT q.ts, b.ts IS NULL AS lacking FROM quarantine q LEFT JOIN ohlcv b USING (symbol, ts) "
            "WHERE q.table_name = 'ohlcv' AND q.symbol = ? AND q.ts BETWEEN ? AND ?",
            [self.symbol, self.first, self.last],
        )
        found = [*self._market_stage(), *self._learned(), *self._targets(), *self._backtests(), *self._tries()]
        names = {one.name for one in found}
        touched = tuple(replace(one, reads=tuple(name for name in one.reads if name in names)) for one in found)
        lacking = held.filter("lacking")["ts"]
        orders = (*self._market_orders(touched, lacking.to_list()), *self._decision_orders(touched))
        return Impact(self.symbol, self.first, self.last, touched, orders, held.height)

    def _market_stage(self) -> Iterator[Touched]:
        mine, given = "symbol = ? AND {} BETWEEN ? AND ?", [self.symbol, self.first]
        yield from self._rows("ohlcv", self.symbol, "ohlcv", "ts", "ingested_at", mine, [*given, self.last])
        made_of = [f"ohlcv {self.symbol}"]
        for version, table in _feature_tables(self.source).items():
            if span := reach(self.bars, self.first, self.last, feature_set(version).lookback):
                to = [*given, span[1]]
                yield from self._rows("features_daily", version, table, "ts", "computed_at", mine, to, reads=made_of)
        for version, labels in LABEL_SETS.items():
            if span := reach(self.bars, self.first, self.last, labels.lookback):
                where, to = f"{mine} AND label_version = ?", [*given, span[1], version]
                yield from self._rows("labels", version, "labels", "known_on", "computed_at", where, to, reads=made_of)

    def _learned(self) -> Iterator[Touched]:
        names = list(self.market.layout.universe.names)
        models = self.source.query(
            "SELECT model_id, experiment_id, scope, train_from, train_to, params, metrics FROM models "
            "WHERE scope IN (?, ?) AND model_id NOT IN "
            "(SELECT model_id FROM predictions GROUP BY model_id HAVING NOT bool_or(symbol IN (SELECT unnest(?)))) "
            "ORDER BY experiment_id, train_to, model_id",
            [self.symbol, UNIVERSE, names],
        )
        for (experiment,), group in models.group_by("experiment_id", maintain_order=True):
            learning = self._learning(_model_spec(group["params"][0]))
            ids = [row["model_id"] for row in group.to_dicts() if self._is_touched(row, learning)]
            inputs = [f"features_daily {learning.feature_version}", f"labels {learning.label_version}"]
            yield from self._rows(
                "models", experiment, "models", "train_to", "created_at", "model_id IN (SELECT unnest(?))", [ids],
                key="model_id", reads=inputs,
            )  # fmt: skip
            low, high = learning.features or (date.max, date.min)
            yield from self._rows(
                "predictions", experiment, "predictions", "ts", "generated_at",
                "model_id IN (SELECT model_id FROM models WHERE experiment_id = ?) "
                "AND ((symbol = ? AND {} BETWEEN ? AND ?) OR model_id IN (SELECT unnest(?)))",
                [experiment, self.symbol, low, high, ids], reads=[f"models {experiment}", inputs[0]],
            )  # fmt: skip

    def _learning(self, spec: ModelSpec | None) -> _Learning:
        """What is touched of an experiment; everything, where its spec is none that this program has."""
        if spec is None:
            return _Learning((self.first, date.max), _EVERYTHING, pooled=True)
        label = next(one for one in label_set(spec.label_version).labels if one.name == spec.label)
        features = reach(self.bars, self.first, self.last, _lookback(spec.feature_version, spec.features))
        spans = [span for span in (features, described(self.bars, self.first, self.last, label)) if span]
        rows = (min(low for low, _ in spans), max(high for _, high in spans)) if spans else None
        return _Learning(features, rows, spec.scope == UNIVERSE, spec.feature_version, spec.label_version)

    def _is_touched(self, model: Mapping[str, Any], learning: _Learning) -> bool:
        trained = date.fromisoformat(json.loads(model["metrics"])["training_date"])
        if trained < self.first or learning.rows is None:
            return False
        return bool(model["train_from"] <= learning.rows[1] and learning.rows[0] <= model["train_to"])

    def _targets(self) -> Iterator[Touched]:
        for strategy_id, version in self._held:
            first = self._decided_from(strategy_id, version)
            if first is not None:
                yield from self._rows(
                    "targets", f"{strategy_id} {version}", "targets", '"asof"', "generated_at",
                    "strategy_id = ? AND version = ? AND {} >= ?", [strategy_id, version, first],
                    reads=self._read_by(strategy_id),
                )  # fmt: skip

    @cached_property
    def _held(self) -> dict[tuple[str, str], date]:
        """Strategy and version -> the first rebalance that there are targets of, on any of the market's symbols."""
        rows = self.source.query(
            'SELECT strategy_id, version, min("asof") FROM targets WHERE symbol IN (SELECT unnest(?)) '
            "GROUP BY ALL ORDER BY ALL",
            [list(self.market.layout.universe.names)],
        )
        return {(strategy_id, version): first for strategy_id, version, first in rows.iter_rows()}

    def _decided_from(self, strategy_id: str, version: str) -> date | None:
        """The first day from which on the strategy's targets are touched; None where none are."""
        spec = self._spec(strategy_id, version)
        return self._first_rebalance[strategy_id] if spec else self.first

    def _spec(self, strategy_id: str, version: str) -> StrategySpec | None:
        """The strategy's file, where it is of that version."""
        spec = self.market.strategies.get(strategy_id)
        return spec if spec and spec.version == version else None

    @cached_property
    def _first_rebalance(self) -> dict[str, date | None]:
        """Strategy -> its first rebalance that reads a touched value, of the strategies that there are files of."""
        calendar = self.market.layout.calendar
        found: dict[str, date | None] = {}
        for strategy_id, spec in self.market.strategies.items():
            spans = list(self._read_spans(spec))
            begun = min(self._held.get((strategy_id, spec.version), date.max), spec.backtest.first)
            sessions = calendar.between(max(self.first, begun), self._newest)
            days = rebalance_dates(spec.rebalance.frequency, sessions, calendar.sessions)
            found[strategy_id] = next((day for day in days if any(low <= day <= high for low, high in spans)), None)
        return found

    def _read_spans(self, spec: StrategySpec) -> Iterator[Span]:
        """The spans on whose rebalances the strategy reads touched values."""
        listed = spec.bounds(self.market.layout.universe, self.universes).get(self.symbol)
        own: list[Span | None] = []
        if (bars := history(spec)) != 0:
            own.append(reach(self.bars, self.first, self.last, bars))
        if isinstance(spec.signal, FactorRank):
            inputs = spec.signal.inputs
            lookback = feature_lookback(inputs.feature_version, inputs.feature_name)
            own.append(reach(self.bars, self.first, self.last, lookback))
        if spec.model is not None:
            learning = self._learning(spec.model)
            own.append(learning.features)
            if retrained := self._first_training(spec.model, learning):
                if learning.pooled:
                    yield retrained, date.max
                own.append((retrained, date.max))
        for span in own:
            if span and listed:
                yield max(span[0], listed[0]), min(span[1], listed[1] or date.max)

    def _first_training(self, spec: ModelSpec, learning: _Learning) -> date | None:
        """The first training date on which a touched row is known and young enough."""
        dates = training_dates(spec, self.market.layout.calendar.sessions)
        at = bisect_left(dates, self.first)
        if learning.rows is None or at == len(dates):
            return None
        years = spec.train_years
        oldest = date.min if years is None else dates[at] - timedelta(round(365.25 * years))
        return dates[at] if oldest <= learning.rows[1] else None

    def _read_by(self, strategy_id: str) -> list[str]:
        """Names of what a strategy's decisions read."""
        spec, bars = self.market.strategies.get(strategy_id), f"ohlcv {self.symbol}"
        if spec is None:
            return [bars]
        direct = [bars] if history(spec) != 0 else []
        if spec.model is not None:
            return [f"predictions {spec.model.experiment_id}", *direct]
        return [f"features_daily {spec.feature_version}", *direct] if spec.feature_version else direct

    def _backtests(self) -> Iterator[Touched]:
        rows = self.source.query(
            "SELECT s.run_id, s.strategy_id, s.version, s.from_ts, s.to_ts, t.params FROM backtest_summary s "
            "LEFT JOIN trials t USING (trial_id) WHERE s.to_ts >= ? ORDER BY s.created_at DESC, s.run_id",
            [self.first],
        )
        kept = [row for row in rows.to_dicts() if self._concerns(row["params"]) and self._simulates(row)]
        yield from self._grouped("backtest_summary", kept, key="run_id", reads="targets")

    def _simulates(self, row: Mapping[str, Any]) -> bool:
        """Whether a backtest is of touched targets or over changed bars."""
        decided = self._decided_from(row["strategy_id"], row["version"])
        over_bars = row["from_ts"] <= self.last and self.first <= row["to_ts"]
        return over_bars or (decided is not None and decided <= row["to_ts"])

    def _tries(self) -> Iterator[Touched]:
        """What evaluates more than the strategy's file: validations, sweeps and factor reports."""
        validations = self.source.query(
            "SELECT v.run_id, v.strategy_id, v.version, v.from_ts, v.to_ts, any_value(t.params) AS params, "
            "count(*) AS n FROM validation_results v "
            "LEFT JOIN backtest_summary s ON s.run_id = v.backtest_run_id AND s.strategy_id = v.strategy_id "
            "LEFT JOIN trials t USING (trial_id) WHERE v.to_ts >= ? GROUP BY ALL ORDER BY max(v.created_at) DESC",
            [self.first],
        )
        sweeps = self.source.query(
            "SELECT w.run_id, w.sweep_id, w.strategy_id, w.version, w.from_ts, w.to_ts, any_value(t.params) AS params, "
            "count(*) AS n FROM sweep_results w LEFT JOIN trials t USING (trial_id) WHERE w.to_ts >= ? "
            "GROUP BY ALL ORDER BY max(t.first_seen_at) DESC",
            [self.first],
        )
        for asset, rows, key, reads in (
            ("validation_results", validations, "run_id", "backtest_summary"),
            ("sweep_results", sweeps, "sweep_id", ""),
        ):
            kept = [row for row in rows.to_dicts() if self._concerns(row["params"])]
            yield from self._grouped(asset, kept, key=key, reads=reads)
        for version in FEATURE_SETS:
            yield from self._rows(
                "factor_summary", version, "factor_summary", "to_ts", "computed_at",
                "market = ? AND feature_version = ? AND {} >= ?",
                [self.market.name, version, self.first], key="feature_name", reads=[f"features_daily {version}"],
            )  # fmt: skip

    def _concerns(self, params: str | None) -> bool:
        """Whether a configuration (`trials.params`) reads the symbol; one older than the ledger is taken to."""
        if params is None:
            return True
        said = json.loads(params)
        model = said["signal"].get("model")
        pooled = model is not None and model.get("scope", UNIVERSE) == UNIVERSE
        wanted = self.market.layout.universe.names if pooled else [self.symbol]
        return not set(wanted).isdisjoint(said["symbols"])

    def _grouped(self, asset: str, rows: Sequence[Mapping[str, Any]], *, key: str, reads: str) -> Iterator[Touched]:
        """One for each strategy and version among `rows`, which are sorted from the newest to the oldest."""
        for strategy, version in sorted({(row["strategy_id"], row["version"]) for row in rows}):
            mine = [row for row in rows if (row["strategy_id"], row["version"]) == (strategy, version)]
            inputs = {
                "targets": (f"targets {strategy} {version}", f"ohlcv {self.symbol}"),
                "backtest_summary": (f"backtest_summary {strategy} {version}",),
            }.get(reads, tuple(self._read_by(strategy)))
            yield Touched(
                asset,
                f"{strategy} {version}",
                tuple(dict.fromkeys(row[key] for row in mine)),
                min(row["from_ts"] for row in mine),
                max(row["to_ts"] for row in mine),
                sum(row.get("n", 1) for row in mine),
                tuple(dict.fromkeys(row["run_id"] for row in mine)),
                inputs,
            )

    def _rows(
        self,
        asset: str,
        what: str,
        table: str,
        column: str,
        at: str,
        where: str,
        params: Sequence[Any],
        *,
        key: str = "symbol",
        reads: Sequence[str] = (),
    ) -> Iterator[Touched]:
        """The rows of `table` for which `where` holds, if any; `{}` in it stands for `column`, their date."""
        found = self.source.query(
            f"SELECT run_id, min({column}) AS first, max({column}) AS last, count(*) AS n, "
            f"list(DISTINCT {key}) AS keys FROM {table} WHERE {where.format(column)} "
            f"GROUP BY run_id ORDER BY max({at}) DESC, run_id",
            params,
        )
        if found.is_empty():
            return
        keys = sorted(set(found["keys"].explode().to_list()))
        first, last = found["first"].min(), found["last"].max()
        assert isinstance(first, date)
        assert isinstance(last, date)
        rows = int(found["n"].sum())
        yield Touched(asset, what, tuple(keys), first, last, rows, tuple(found["run_id"]), tuple(reads))

    @cached_property
    def _newest(self) -> date:
        """The newest session with a bar of the market."""
        names = list(self.market.layout.universe.names)
        found = self.source.query("SELECT max(ts) AS day FROM ohlcv WHERE symbol IN (SELECT unnest(?))", [names])
        day = found["day"][0]
        assert isinstance(day, date)
        return day

    def _market_orders(self, touched: Sequence[Touched], lacking: Collection[date]) -> Iterator[Rerun]:
        """Bars that were held back and are not there are asked for again, then what was made of the symbol's bars."""
        if lacking:
            yield Rerun("market", self.symbol, min(lacking), max(lacking), ("ohlcv",))
        made = [one for one in touched if one.asset in ("features_daily", "labels")]
        if made:
            assets = tuple(dict.fromkeys(one.asset for one in made))
            yield Rerun("market", self.symbol, self.first, max(one.last for one in made), assets)

    def _decision_orders(self, touched: Sequence[Touched]) -> Iterator[Rerun]:
        by_name = {one.name: one for one in touched}
        for strategy_id, spec in self.market.strategies.items():
            own = f"{strategy_id} {spec.version}"
            names = [f"targets {own}"] + ([f"predictions {spec.model.experiment_id}"] if spec.model else [])
            decided = [by_name[name] for name in names if name in by_name]
            assets = ["predictions", "targets"] if decided else []
            period = self._period(spec)
            if period and f"backtest_summary {own}" in by_name:
                assets.append("backtest_summary")
            if period and ("backtest_summary" in assets or f"validation_results {own}" in by_name):
                assets.append("validation")
            if assets:
                tested = period if "validation" in assets else None
                ends = [(one.first, one.last) for one in decided] + ([tested[1:] * 2] if tested else [])
                first, last = min(low for low, _ in ends), max(high for _, high in ends)
                yield Rerun("decision", strategy_id, first, last, tuple(assets), tested)

    def _period(self, spec: StrategySpec) -> Span | None:
        """The file's period, as far as there are bars."""
        low = max(spec.backtest.first, self.market.layout.universe.start)
        high = min(spec.backtest.last or self._newest, self._newest)
        return self.market.layout.calendar.snap(low, high) if low <= high else None


def _model_spec(params: str) -> ModelSpec | None:
    """The spec of a registry row; None where it is of another version of the program."""
    try:
        return ModelSpec.model_validate_json(params)
    except ValidationError:
        return None


def _lookback(version: str, names: Collection[str] | None) -> int:
    """The longest lookback of some features of a set, of all of them without names."""
    return max(feature_lookback(version, name) for name in names or feature_set(version).names)
