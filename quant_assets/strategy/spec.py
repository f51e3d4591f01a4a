"""Strategy files: strategies/*.yaml as typed, immutable specs."""

import hashlib
import json
from collections.abc import Collection, Mapping
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, PrivateAttr, field_validator, model_validator

from quant_assets.core.costs import Costs
from quant_assets.core.errors import StrategyError
from quant_assets.features import FEATURE_SETS
from quant_assets.labels import LABEL_SETS
from quant_assets.models.spec import ModelSpec
from quant_assets.portfolio.supervisor import SupervisorRules
from quant_assets.portfolio.weighting import WEIGHTINGS, Weighting
from quant_assets.signals import FactorRankInputs
from quant_assets.strategy.universe import Bounds, Name, Symbol, Universe, Version, distinct, load_universe
from quant_assets.strategy.yaml_file import Document, Section, read, validate

SCHEMA_FILE = "strategy.schema.json"


class InlineUniverse(Section):
    """Symbols of the market universe, named in the strategy file itself."""

    symbols: Annotated[tuple[Symbol, ...], Field(strict=False)]

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


Signal = Annotated[FactorRank | ModelScore, Field(discriminator="type")]
"""To add a kind, write its class, with `type` as its tag, and add it here."""


class Rebalance(Section):
    frequency: Literal["daily", "weekly", "monthly"]
    asof_policy: Literal["close"] = "close"


def _known_weighting(weighting: Any) -> Any:
    if isinstance(weighting, str) and weighting not in WEIGHTINGS:
        raise ValueError(f"weighting {weighting!r} is not available; use one of: {', '.join(WEIGHTINGS)}")
    return weighting


class Portfolio(Section):
    top_k: int = Field(ge=1)
    weighting: Annotated[Weighting, BeforeValidator(_known_weighting)] = "equal"


class Execution(Section):
    price: Literal["close", "next_open", "next_close"] = "close"


class Backtest(Section):
    """The period (both inclusive; without `to` it is open), the cash and the costs of a strategy's backtest."""

    first: date = Field(alias="from")
    last: date | None = Field(default=None, alias="to")
    initial_cash: float = Field(default=100_000.0, gt=0)
    fee_bps: float = Field(default=2.0, ge=0, lt=10_000)
    slippage_bps: float = Field(default=10.0, ge=0, lt=10_000)

    @model_validator(mode="after")
    def _ordered(self) -> "Backtest":
        if self.last and self.first > self.last:
            raise ValueError(f"dates reversed: from {self.first} is after to {self.last}; swap them")
        return self

    @property
    def costs(self) -> Costs:
        return Costs(self.fee_bps, self.slippage_bps)


class StrategySpec(Section):
    """One strategy.

    `min_cross_section` is the share of the symbols listed on a rebalance date that must have a score; below it the
    date has no targets and the last ones stand.
    """

    strategy_id: Name
    version: Version
    description: str = ""
    universe: Name | InlineUniverse
    signal: Signal
    rebalance: Rebalance
    portfolio: Portfolio
    min_cross_section: float = Field(default=1.0, gt=0, le=1)
    supervisor: SupervisorRules = SupervisorRules()
    execution: Execution = Execution()
    backtest: Backtest

    _document: Document | None = PrivateAttr(default=None)

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
    def feature_version(self) -> str:
        """The feature set that the signal reads, itself or through its model."""
        if isinstance(self.signal, ModelScore):
            return self.signal.model.feature_version
        return self.signal.inputs.feature_version

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
    document = read(path)
    spec = validate(StrategySpec, document)
    spec._document = document
    check_names(spec)
    return spec


def load_strategies(folder: Path) -> dict[str, StrategySpec]:
    """strategy_id -> spec of every `*.yaml` and `*.yml` directly in `folder`, sorted by id.

    Raises:
        StrategyError: no such folder, a file that is not valid, or two files with one strategy_id.
    """
    if not folder.is_dir():
        raise StrategyError(f"{folder}: no such folder; create it or correct QUANT_STRATEGIES_DIR")
    found: dict[str, tuple[Path, StrategySpec]] = {}
    for path in sorted(file for file in folder.iterdir() if file.suffix in (".yaml", ".yml")):
        spec = load_strategy(path)
        if spec.strategy_id in found:
            raise spec.error("strategy_id", f"{spec.strategy_id} is taken by {found[spec.strategy_id][0]}; rename one")
        found[spec.strategy_id] = path, spec
    return {strategy_id: found[strategy_id][1] for strategy_id in sorted(found)}


def check_names(spec: StrategySpec) -> None:
    """Check that the features and the label that a strategy names exist.

    Raises:
        StrategyError: an unknown version or name; lists the known ones.
    """
    signal = spec.signal
    if isinstance(signal, FactorRank):
        inputs = signal.inputs
        _check_version(spec, "signal.inputs.feature_version", inputs.feature_version, FEATURE_SETS)
        _check_name(spec, "signal.inputs.feature_name", inputs.feature_name, FEATURE_SETS[inputs.feature_version].names)
        return
    model = signal.model
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
