"""What every data provider offers, and the table of those that exist. How one works is its own module's affair."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import cache
from importlib import import_module
from typing import ClassVar, Protocol, cast

import polars as pl

from quant_assets.core.errors import ConfigError
from quant_assets.core.settings import Settings

Options = Mapping[str, str | int | float | bool]

BARS_SCHEMA: dict[str, pl.DataType] = {
    "ts": pl.Date(),
    "open": pl.Float64(),
    "high": pl.Float64(),
    "low": pl.Float64(),
    "close": pl.Float64(),
    "adjusted_close": pl.Float64(),
    "volume": pl.Float64(),
}
"""Columns of `Fetched.bars`: one symbol's raw bars."""

ACTIONS_SCHEMA: dict[str, pl.DataType] = {"ex_date": pl.Date(), "kind": pl.String(), "value": pl.Float64()}
"""Columns of `Fetched.actions`. `value` is new shares per old for a split, cash per share for a dividend."""

PROVIDERS = {
    "sample": "sample:SampleProvider",
    "alpha_vantage": "alpha_vantage:AlphaVantageProvider",
    "files": "files:FilesProvider",
    "synthetic": "synthetic:SyntheticProvider",
    "ccxt": "ccxt_exchange:CcxtProvider",
}
"""Provider name -> module of this package and class in it. A new provider is its module and a line here."""


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """Sessions `first` to `last` (inclusive) of `symbol`.

    `stored_last`, if given, is the newest session already stored, and those before it are wanted for comparison only:
    an answer that begins there will do.
    """

    symbol: str
    first: date
    last: date
    stored_last: date | None = None


@dataclass(frozen=True)
class Fetched:
    """A provider's answer, which may hold more than was asked for.

    `bars` has BARS_SCHEMA's columns, sorted by ts; values that the provider gave but that are no number are null, so
    that the quality gate sees the row. `actions` has ACTIONS_SCHEMA's columns, sorted by ex_date and kind.
    `requests` counts requests over the network. `complete` says that `bars` are the provider's whole history;
    `actions_complete` says the same of `actions`, otherwise they cover the dates of `bars`.
    """

    bars: pl.DataFrame
    actions: pl.DataFrame
    requests: int
    complete: bool
    actions_complete: bool = False


@dataclass(frozen=True, slots=True)
class SymbolMatch:
    """One hit of a symbol search; `score` lies in [0, 1], 1 for the exact symbol."""

    symbol: str
    name: str
    kind: str = ""
    region: str = ""
    currency: str = ""
    score: float = 1.0


class Provider(Protocol):
    """A source of daily bars.

    `gives_actions`: splits and dividends too, not just an adjusted close. `options`: names that a universe file may
    set under `provider_options`.
    """

    name: ClassVar[str]
    gives_actions: ClassVar[bool]
    options: ClassVar[frozenset[str]]

    @classmethod
    def create(cls, settings: Settings, sessions: Sequence[date], options: Options) -> "Provider":
        """The provider as `settings` and `options` configure it; `sessions` are the calendar's, oldest first.

        Raises:
            ConfigError: a setting that it needs is missing or cannot be used.
        """
        ...

    def fetch(self, request: FetchRequest, *, whole: bool = False) -> Fetched:
        """Bars and actions that cover `request`, or (`whole`) all there are.

        Raises:
            TransientProviderError: a failure that a later run can mend.
            PermanentProviderError: one that it cannot; names symbol, cause and remedy.
        """
        ...

    def search(self, words: str) -> list[SymbolMatch]:
        """Symbols whose symbol or name has `words` in it, best first."""
        ...


def make_provider(
    name: str, settings: Settings, calendar_sessions: Sequence[date], options: Options | None = None
) -> Provider:
    """The provider called `name`, with a universe file's `provider_options`.

    Raises:
        ConfigError: no such provider or option, or a setting that it needs is missing.
    """
    provider, chosen = _provider_class(name), options or {}
    for unknown in sorted(set(chosen) - provider.options):
        known = ", ".join(sorted(provider.options)) or "none"
        raise ConfigError(f"provider_options: {name} has no option {unknown!r}; it has: {known}")
    return provider.create(settings, calendar_sessions, chosen)


@cache
def sources_giving_actions() -> frozenset[str]:
    """Names of the providers whose bars are adjusted from their corporate actions."""
    return frozenset(name for name in PROVIDERS if _provider_class(name).gives_actions)


def matching(symbols: Sequence[str], words: str) -> list[SymbolMatch]:
    """Search among `symbols` for a provider that has no names: the exact symbol first, then those that contain it."""
    wanted = words.strip().upper()
    hits = [symbol for symbol in symbols if wanted and wanted in symbol.upper()]
    hits.sort(key=lambda symbol: (symbol.upper() != wanted, symbol))
    return [SymbolMatch(symbol, symbol, score=len(wanted) / len(symbol)) for symbol in hits]


def bars_frame(bars: pl.DataFrame) -> pl.DataFrame:
    """`bars` with exactly BARS_SCHEMA's columns and types, sorted by ts; rows that share a ts keep their order."""
    return bars.select(pl.col(name).cast(dtype) for name, dtype in BARS_SCHEMA.items()).sort("ts", maintain_order=True)


def actions_frame(actions: pl.DataFrame | None = None) -> pl.DataFrame:
    """`actions` with exactly ACTIONS_SCHEMA's columns and types, sorted by ex_date and kind; empty without argument."""
    if actions is None:
        return pl.DataFrame(schema=ACTIONS_SCHEMA)
    return actions.select(pl.col(name).cast(dtype) for name, dtype in ACTIONS_SCHEMA.items()).sort("ex_date", "kind")


def _provider_class(name: str) -> type[Provider]:
    if name not in PROVIDERS:
        raise ConfigError(
            f"provider {name!r} is unknown; use one of {', '.join(PROVIDERS)} in the universe file or QUANT_PROVIDER"
        )
    module, class_name = PROVIDERS[name].split(":")
    return cast(type[Provider], getattr(import_module(f"{__package__}.{module}"), class_name))
