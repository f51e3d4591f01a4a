"""Strategy files: strategies/*.yaml as typed, immutable specs, and the variants of one that a sweep runs through."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    PrivateAttr,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from quant_assets.backtest.engine import BacktestConfig
from quant_assets.core.costs import Costs
from quant_assets.core.errors import StrategyError
from quant_assets.features import FEATURE_SETS
from quant_assets.labels import LABEL_SETS
from quant_assets.models.spec import ModelSpec
from quant_assets.portfolio.supervisor import SupervisorRules
from quant_assets.portfolio.weighting import WEIGHTINGS, Weighting
from quant_assets.signals import (
    BbRsiInputs,
    BreakoutInputs,
    DonchianInputs,
    EmaCrossInputs,
    FactorRankInputs,
    TsmomInputs,
)
from quant_assets.strategy.universe import Bounds, Name, Symbol, Universe, Version, distinct, load_universe
from quant_assets.strategy.yaml_file import Document, Section, explain, read, validate
from quant_assets.validation.plan import ValidationPlan

SCHEMA_FILE = "strategy.schema.json"


class InlineUniverse(Section):
    """Symbols of the market universe, named in the strategy file itself."""

    symbols: Annotated[tuple[Symbol, ...], Field(strict=False, description="tickers, at least one")]

    @field_validator("symbols")
    @classmethod
    def _distinct(cls, symbols: tuple[str, ...]) -> tuple[str, ...]:
        return distinct(symbols)


class FactorRank(Section):
    """Ranks symbols by one feature."""

    type: Literal["factor_rank"]
    inputs: FactorRankInputs


class ModelScore(Section):
    """Ranks symbols by a model's walk-forward predictions."""

    type: Literal["model_score"]
    model: ModelSpec


class Tsmom(Section):
    """Follows each symbol's own trend, sized by its volatility."""

    type: Literal["tsmom"]
    inputs: TsmomInputs = TsmomInputs()


class Breakout(Section):
    """Follows a price that leaves its volatility-adjusted channel."""

    type: Literal["breakout"]
    inputs: BreakoutInputs = BreakoutInputs()


class Donchian(Section):
    """Follows a price beyond its highest or lowest of some sessions."""

    type: Literal["donchian"]
    inputs: DonchianInputs = DonchianInputs()


class BbRsi(Section):
    """Bets on the return of a price that is stretched by its bands and its RSI."""

    type: Literal["bb_rsi"]
    inputs: BbRsiInputs = BbRsiInputs()


class EmaCross(Section):
    """Follows the side of its slow exponential mean that the fast one is on."""

    type: Literal["ema_cross"]
    inputs: EmaCrossInputs = EmaCrossInputs()


RuleSignal = Tsmom | Breakout | Donchian | BbRsi | EmaCross
"""Kinds that say how much of each symbol to hold; the others say which symbols are better."""

Signal = Annotated[FactorRank | ModelScore | RuleSignal, Field(discriminator="type")]
"""To add a kind, write its class, with `type` as its tag, and add it here."""


class Rebalance(Section):
    frequency: Literal["daily", "weekly", "monthly"] = Field(
        description="decides on every session, or on the last one of each week or month"
    )
    asof_policy: Literal["close"] = Field(default="close", description="decided at the session's close")
    threshold: float = Field(
        default=0.0, ge=0, lt=1, description="an order that moves a weight by less is not placed, unless it closes"
    )


def _known_weighting(weighting: Any) -> Any:
    if weighting == "equal_weight":
        return "equal"
    if isinstance(weighting, str) and weighting not in WEIGHTINGS:
        raise ValueError(f"weighting {weighting!r} is not available; use one of: {', '.join(WEIGHTINGS)}")
    return weighting


class Portfolio(Section):
    """How scores become weights.

    A kind that ranks holds the `top_k` best; a rule holds each symbol's share of the money times its exposure.
    """

    top_k: int | None = Field(default=None, ge=1, description="none, for rules only: all symbols")
    weighting: Annotated[Weighting, BeforeValidator(_known_weighting)] = Field(
        default="equal", description="how the money is shared among what is held"
    )
    risk_window: int = Field(default=60, ge=2, le=2520, description="sessions of returns for risk_parity and hrp")
    short: Literal["none", "hedge", "full"] = Field(
        default="none", description="hedge: short positions only while the account is hedge_drawdown below its peak"
    )
    hedge_drawdown: float = Field(
        default=0.1, gt=0, lt=1, description="fall of equity below its peak from which on `hedge` sells short"
    )


class Exits(Section):
    """Stops, judged on every session's open, high and low; a symbol stopped out waits for its signal to change."""

    stop_loss: float | None = Field(default=None, gt=0, lt=1, description="loss from the average entry price")
    trailing_stop: float | None = Field(default=None, gt=0, lt=1, description="fall from the best price since entry")


class Execution(Section):
    price: Literal["close", "next_open", "next_close"] = Field(
        default="close",
        description="where a target fills: at the close it was decided on, or the next session's open or close",
    )
    engine: Literal["kernel", "vectorbt"] = Field(
        default="kernel", description="vectorbt: the same orders through its Portfolio.from_orders, to compare"
    )


class Backtest(Section):
    """The period (both inclusive; without `to` it is open), the cash and the costs of a strategy's backtest."""

    first: date = Field(alias="from", description="first date")
    last: date | None = Field(default=None, alias="to", description="last date; none: the newest session")
    initial_cash: float = Field(default=100_000.0, gt=0, description="before the first session")
    fee_bps: float = Field(default=2.0, ge=0, lt=10_000, description="paid on traded value, basis points")
    slippage_bps: float = Field(
        default=10.0, ge=0, lt=10_000, description="moves every fill price against the trader, basis points"
    )
    funding_bps_per_day: float = Field(
        default=0.0,
        gt=-10_000,
        lt=10_000,
        description="what longs pay and shorts receive for a calendar day, basis points",
    )

    leverage: float | None = Field(
        default=None, ge=1, le=10, description="positions the account may hold per equity; none: gross_exposure_cap"
    )

    @model_validator(mode="after")
    def _ordered(self) -> "Backtest":
        if self.last and self.first > self.last:
            raise ValueError(f"dates reversed: from {self.first} is after to {self.last}; swap them")
        return self

    @property
    def costs(self) -> Costs:
        return Costs(self.fee_bps, self.slippage_bps, self.funding_bps_per_day)


Scalar = int | float | bool | str | None


class Range(Section):
    """Values of a swept parameter from `low` to `high`: every `step` in a grid; anywhere between for random search."""

    low: int | float = Field(description="lowest value")
    high: int | float = Field(description="no value is above it")
    step: int | float | None = Field(default=None, gt=0, description="from one value of a grid to the next")
    log: bool = Field(default=False, description="random search draws evenly over magnitudes")

    @model_validator(mode="after")
    def _ordered(self) -> "Range":
        if self.low >= self.high:
            raise ValueError(f"low {self.low} is not below high {self.high}; swap them")
        if self.log and self.low <= 0:
            raise ValueError(f"log needs a low above 0, got {self.low}")
        return self


class Sweep(Section):
    """Which fields of the file to vary, by dotted path (`signal.inputs.lookback`), and how to choose among the values.

    A grid runs every combination; a random search draws `samples` of them with `seed`.
    """

    method: Literal["grid", "random"] = Field(default="grid", description="every combination, or some drawn at random")
    samples: int | None = Field(default=None, ge=1, le=1_000_000, description="how many to draw; random only")
    seed: int = Field(default=7, ge=0, le=2**31 - 1, description="of the drawing")
    parameters: dict[str, Annotated[tuple[Scalar, ...], Field(strict=False, min_length=1)] | Range] = Field(
        min_length=1, description="dotted path of a field: its values, or a range of them"
    )

    @model_validator(mode="after")
    def _complete(self) -> "Sweep":
        if (self.method == "random") != (self.samples is not None):
            raise ValueError(
                "a random search needs `samples`, how many combinations to draw"
                if self.method == "random"
                else "`samples` belongs to method random; a grid runs every combination"
            )
        for path, values in self.parameters.items():
            if path.split(".")[0] not in SWEPT:
                raise ValueError(f"{path} cannot be swept; use fields of: {', '.join(SWEPT)}")
            if isinstance(values, Range) and self.method == "grid" and values.step is None:
                raise ValueError(f"{path}: a grid needs a list of values, or low, high and step")
        return self


SWEPT = ("signal", "rebalance", "portfolio", "min_cross_section", "supervisor", "exits", "execution", "backtest")
"""Fields of a strategy file that a sweep may vary."""


class StrategySpec(Section):
    """One strategy.

    `min_cross_section` is the share of the symbols listed on a rebalance date that must have a score; below it the
    date has no targets and the last ones stand.
    """

    strategy_id: Name = Field(description="names its partition, job and rows; no two files have the same")
    version: Version = Field(description="stored with every result; raise it when the strategy changes")
    description: str = Field(default="", description="what it does, for reports and Dagster")
    universe: Name | InlineUniverse = Field(description="a market, a part of one by its name, or symbols of it")
    signal: Signal = Field(description="what scores the symbols, or says how much of each to hold")
    rebalance: Rebalance = Field(description="when it decides")
    portfolio: Portfolio
    min_cross_section: float = Field(
        default=1.0,
        gt=0,
        le=1,
        description="share of the listed symbols that must have a score for a date to have targets",
    )
    supervisor: SupervisorRules = Field(default=SupervisorRules(), description="limits of weights and turnover")
    exits: Exits = Exits()
    execution: Execution = Field(default=Execution(), description="where orders fill, and what simulates them")
    backtest: Backtest
    sweep: Sweep | None = None
    validation: ValidationPlan = ValidationPlan()

    _document: Document | None = PrivateAttr(default=None)

    @model_validator(mode="after")
    def _checked(self) -> "StrategySpec":
        return self._fitting()

    def _fitting(self) -> "StrategySpec":
        """Itself, if what it says of the portfolio fits its kind of signal."""
        kind, portfolio = self.signal.type, self.portfolio
        if self.rule is None and portfolio.top_k is None:
            raise ValueError(f"portfolio.top_k is missing; {kind} ranks symbols, say how many of the best to hold")
        if self.rule is None and portfolio.short != "none":
            raise ValueError(f"portfolio.short is {portfolio.short!r}, but {kind} never sells short; use none")
        if self.rule is not None and portfolio.weighting == "score_weighted":
            raise ValueError(f"portfolio.weighting score_weighted ranks, but {kind} sizes by itself; use equal")
        return self

    @property
    def rule(self) -> RuleSignal | None:
        """The signal of a strategy whose kind says how much to hold."""
        return None if isinstance(self.signal, FactorRank | ModelScore) else self.signal

    @property
    def source_hash(self) -> str:
        """sha256, in hex, of what the file says: comments, order, layout and defaults written out change nothing."""
        said = self.model_dump(mode="json", by_alias=True, exclude_defaults=True)
        return hashlib.sha256(json.dumps(said, sort_keys=True, separators=(",", ":")).encode()).hexdigest()

    @property
    def model(self) -> ModelSpec | None:
        """The model spec of a `model_score` strategy."""
        return self.signal.model if isinstance(self.signal, ModelScore) else None

    @property
    def feature_version(self) -> str | None:
        """The feature set that the signal reads, itself or through its model; rules read bars."""
        if isinstance(self.signal, ModelScore):
            return self.signal.model.feature_version
        return self.signal.inputs.feature_version if isinstance(self.signal, FactorRank) else None

    def variant(self, changes: Mapping[str, Any]) -> "StrategySpec":
        """The same strategy with other values at some dotted paths, and without its sweep.

        Raises:
            StrategyError: a path that leads nowhere, or a value that the field does not allow.

        Example:
            >>> spec.variant({"portfolio.top_k": 3}).portfolio.top_k
            3
        """
        sections: dict[str, Any] = {}
        for path, value in changes.items():
            top = path.split(".")[0]
            if top in SWEPT and top not in sections:
                sections[top] = _said(getattr(self, top))
            holder, field = self._held(path, sections)
            holder[field] = value
        try:
            checked = {top: _adapter(top).validate_python(said) for top, said in sections.items()}
            return self.model_copy(update=checked | {"sweep": None})._fitting()
        except (ValidationError, ValueError) as error:
            told = ", ".join(f"{path} = {value!r}" for path, value in changes.items())
            why = explain(StrategySpec, error)[1] if isinstance(error, ValidationError) else str(error)
            raise self.error(next(iter(changes)), f"{told}: {why}") from None

    def only(self, symbols: Sequence[str]) -> "StrategySpec":
        """The same strategy on some symbols only."""
        return self.model_copy(update={"universe": InlineUniverse(symbols=tuple(symbols))})

    def _held(self, path: str, said: dict[str, Any]) -> tuple[dict[str, Any], str]:
        """The mapping that holds a dotted path's last field, and that field.

        Raises:
            StrategyError: the path leads nowhere.
        """
        *parents, field = path.split(".")
        holder: Any = said
        for parent in parents:
            holder = holder.get(parent) if isinstance(holder, dict) else None
        if not isinstance(holder, dict) or field not in holder:
            known = ", ".join(holder if parents else SWEPT) if isinstance(holder, dict) else "no fields"
            place = ".".join(parents) or "a strategy"
            raise self.error("sweep.parameters", f"{path} is no field to sweep; {place} has: {known}")
        return holder, field

    def config(self, year: int, **changes: Any) -> BacktestConfig:
        """What the backtest is simulated with.

        Args:
            year: sessions per year.
            changes: fields of the config in place of the file's.

        Raises:
            ConfigError: a value that cannot be used, or an engine that cannot do what the file asks for.
        """
        said: dict[str, Any] = {
            "initial_cash": self.backtest.initial_cash,
            "costs": self.backtest.costs,
            "price": self.execution.price,
            "engine": self.execution.engine,
            "leverage": self.backtest.leverage or max(1.0, self.supervisor.gross_exposure_cap),
            "threshold": self.rebalance.threshold,
            "stop_loss": self.exits.stop_loss,
            "trailing_stop": self.exits.trailing_stop,
            "hedge_drawdown": self.portfolio.hedge_drawdown if self.portfolio.short == "hedge" else None,
        }
        return BacktestConfig(self.strategy_id, self.version, year=year, **said | changes)

    def error(self, field: str, message: str) -> StrategyError:
        """An error about the dotted `field`, naming file and line where the spec came from a file."""
        if self._document is None:
            return StrategyError(f"strategy {self.strategy_id}, {field}: {message}")
        return self._document.error(field.split("."), message)

    def bounds(self, market: Universe, universes: Path) -> dict[str, Bounds]:
        """Symbol -> first and last session on which the strategy may hold it, sorted by symbol.

        Args:
            market: the universe whose bars exist.
            universes: folder of universe files, for a universe named other than `market`.

        Raises:
            StrategyError: no such universe, another calendar, or a symbol that the market has not.
        """
        if self.universe == market.name:
            return market.bounds
        if isinstance(self.universe, InlineUniverse):
            wanted: Collection[str] = self.universe.symbols
            own: Mapping[str, Bounds] = market.bounds
        else:
            path = universes / f"{self.universe}.yaml"
            if not path.is_file():
                known = ", ".join(sorted(file.stem for file in universes.glob("*.yaml")))
                raise self.error("universe", f"universe {self.universe!r} is unknown; use one of: {known}")
            named = load_universe(path)
            if named.calendar != market.calendar:
                raise self.error(
                    "universe",
                    f"universe {named.name} is on calendar {named.calendar}, market {market.name} on "
                    f"{market.calendar}; use a universe of the market's calendar",
                )
            wanted, own = named.names, named.bounds
        absent = sorted(set(wanted) - set(market.names))
        if absent:
            raise self.error(
                "universe.symbols" if isinstance(self.universe, InlineUniverse) else "universe",
                f"{', '.join(absent)} not in market universe {market.name}; use its symbols "
                f"({_few(market.names)}) or add the symbol to it",
            )
        return {symbol: _overlap(own[symbol], market.bounds[symbol]) for symbol in sorted(wanted)}


def _said(section: Any) -> Any:
    return section.model_dump(by_alias=True) if isinstance(section, BaseModel) else section


@cache
def _adapter(field: str) -> TypeAdapter[Any]:
    """Checks one field of a strategy file by itself."""
    info = StrategySpec.model_fields[field]
    return TypeAdapter(Annotated[info.annotation, info])  # type: ignore[arg-type]


def _overlap(one: Bounds, other: Bounds) -> Bounds:
    return max(one[0], other[0]), min((day for day in (one[1], other[1]) if day), default=None)


def _few(names: Collection[str]) -> str:
    listed = list(names)
    return ", ".join(listed) if len(listed) <= 20 else f"{', '.join(listed[:20])} and {len(listed) - 20} more"


def load_strategy(path: Path) -> StrategySpec:
    """The strategy of one file, with the features and labels it names known to exist.

    Raises:
        StrategyError: names file, line and field.
    """
    spec = of_document(read(path))
    check_names(spec)
    check_sweep(spec)
    return spec


def of_document(document: Document) -> StrategySpec:
    """The strategy that a document says; names of features, labels and swept fields are not checked.

    Raises:
        StrategyError: names file, line and field.
    """
    spec = validate(StrategySpec, document)
    spec._document = document
    return spec


def strategy_files(folder: Path) -> list[Path]:
    """Every `*.yaml` and `*.yml` directly in `folder`, sorted.

    Raises:
        StrategyError: no such folder.
    """
    if not folder.is_dir():
        raise StrategyError(f"{folder}: no such folder; create it or correct QUANT_STRATEGIES_DIR")
    return sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml"))


def load_strategies(folder: Path) -> dict[str, StrategySpec]:
    """strategy_id -> spec of every strategy file directly in `folder`, sorted by id.

    Raises:
        StrategyError: no such folder, a file that is not valid, or two files with one strategy_id.
    """
    found: dict[str, tuple[Path, StrategySpec]] = {}
    for path in strategy_files(folder):
        spec = load_strategy(path)
        if spec.strategy_id in found:
            raise spec.error("strategy_id", f"{spec.strategy_id} is taken by {found[spec.strategy_id][0]}; rename one")
        found[spec.strategy_id] = path, spec
    return {strategy_id: found[strategy_id][1] for strategy_id in sorted(found)}


def check_sweep(spec: StrategySpec) -> None:
    """Check that the fields a strategy's sweep varies exist.

    Raises:
        StrategyError: the first that does not; lists the known ones.
    """
    for swept in spec.sweep.parameters if spec.sweep else ():
        spec._held(swept, spec.model_dump(by_alias=True))


def check_names(spec: StrategySpec) -> None:
    """Check that the features and the label that a strategy names exist.

    Raises:
        StrategyError: an unknown version or name; lists the known ones.
    """
    signal = spec.signal
    if spec.rule is not None:
        return
    if isinstance(signal, FactorRank):
        inputs = signal.inputs
        _check_version(spec, "signal.inputs.feature_version", inputs.feature_version, FEATURE_SETS)
        _check_name(spec, "signal.inputs.feature_name", inputs.feature_name, FEATURE_SETS[inputs.feature_version].names)
        return
    model = spec.model
    assert model is not None  # the kind that is left
    _check_version(spec, "signal.model.feature_version", model.feature_version, FEATURE_SETS)
    for name in model.features or ():
        _check_name(spec, "signal.model.features", name, FEATURE_SETS[model.feature_version].names)
    _check_version(spec, "signal.model.label_version", model.label_version, LABEL_SETS)
    _check_name(spec, "signal.model.label", model.label, LABEL_SETS[model.label_version].names)


def _check_version(spec: StrategySpec, field: str, version: str, known: Collection[str]) -> None:
    if version not in known:
        raise spec.error(field, f"version {version!r} is unknown; use one of: {', '.join(known)}")


def _check_name(spec: StrategySpec, field: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise spec.error(field, f"{name!r} is not in the set; use one of: {', '.join(known)}")


def schema_text() -> str:
    """The JSON schema of a strategy file, for editors; what `strategies/strategy.schema.json` must hold."""
    schema = {"$schema": "https://json-schema.org/draft/2020-12/schema"} | StrategySpec.model_json_schema(by_alias=True)
    return json.dumps(schema, indent=2, ensure_ascii=False) + "\n"
