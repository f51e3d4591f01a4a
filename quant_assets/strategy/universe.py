"""Universes: versioned YAML files of symbols, with the sessions on which each is listed, calendar and provider."""

import os
import re
import shutil
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BeforeValidator, Field, StringConstraints, field_validator, model_validator

from quant_assets.core.errors import StrategyError
from quant_assets.features import FEATURE_SETS
from quant_assets.strategy.yaml_file import Document, Section, parse, read, validate

Name = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,62}$")]
Version = Annotated[str, StringConstraints(pattern=r"^(0|[1-9]\d*)\.(0|[1-9]\d*)\.(0|[1-9]\d*)$")]
_SYMBOL = re.compile(r"[A-Z0-9][A-Z0-9.\-/^]{0,14}")

Bounds = tuple[date, date | None]
"""First and last session on which a symbol may be held, both inclusive; None: no end."""


def _checked_symbol(symbol: Any) -> Any:
    if isinstance(symbol, str) and not _SYMBOL.fullmatch(symbol):
        raise ValueError(
            f"symbol {symbol!r} is not valid; use 1 to 15 capital letters, digits, '.', '-', '/' or '^', "
            "the first of them a letter or digit"
        )
    return symbol


Symbol = Annotated[str, BeforeValidator(_checked_symbol)]


def distinct(symbols: tuple[str, ...]) -> tuple[str, ...]:
    """`symbols` unchanged.

    Raises:
        ValueError: there is none, or one stands twice.
    """
    if not symbols:
        raise ValueError("no symbols; list at least one")
    twice = sorted({symbol for symbol in symbols if symbols.count(symbol) > 1})
    if twice:
        raise ValueError(f"symbol {', '.join(twice)} is listed twice; keep one")
    return symbols


class Split(Section):
    """A split that the provider does not know or has wrong: `ratio` new shares per old, from `date` on."""

    date: Annotated[date, Field(description="first session at the new price")]
    ratio: float = Field(gt=0, description="new shares per old")


class Listing(Section):
    """One symbol, and the first and last session on which it is listed (both inclusive; None: as the universe).

    `splits` correct the provider's; `real_moves` are sessions whose jump looks like a split and is none.
    """

    symbol: Symbol = Field(description="as the provider knows it")
    first: date | None = Field(
        default=None, alias="from", description="first session listed; none: the universe's start"
    )
    last: date | None = Field(default=None, alias="to", description="last session listed; none: the universe's end")
    name: str | None = Field(default=None, description="of the company or asset")
    splits: Annotated[tuple[Split, ...], Field(strict=False, description="in place of the provider's")] = ()
    real_moves: Annotated[
        tuple[date, ...], Field(strict=False, description="sessions whose jump looks like a split and is none")
    ] = ()

    @model_validator(mode="after")
    def _ordered(self) -> "Listing":
        if self.first and self.last and self.first > self.last:
            raise ValueError(f"{self.symbol} is listed from {self.first} to {self.last}; swap the dates")
        dates = [split.date for split in self.splits]
        twice = [day for day in dates if dates.count(day) > 1]
        if twice:
            raise ValueError(f"{self.symbol} has two splits on {twice[0]}; keep one")
        return self


class Universe(Section):
    """`start` and `end` span the date partitions; a universe of past data has an end, a live one has none.

    `grain` is the length of a date partition: with hundreds of symbols, `month` keeps their number low. `feature_sets`
    are those computed for its bars.
    """

    name: Name = Field(description="the file's name without `.yaml`")
    version: Version = Field(description="raise it when the universe changes; `quant symbols add` does")
    description: str = Field(default="", description="what it is")
    calendar: str = Field(default="XNYS", description="of an exchange, as exchange-calendars names it, or 24/7")
    provider: str = Field(description="where its bars come from")
    provider_options: dict[str, str | int | float | bool] = Field(
        default_factory=dict, description="the provider's own settings"
    )
    grain: Literal["day", "week", "month"] = Field(default="day", description="length of a date partition")
    feature_sets: Annotated[tuple[str, ...], Field(strict=False, description="sets to compute for its bars")] = ("v1",)
    start: date = Field(description="first date with a partition")
    end: date | None = Field(default=None, description="last one, of past data; none: goes on with every session")
    symbols: Annotated[tuple[Listing, ...], Field(strict=False, description="tickers, or sections for what differs")]

    @field_validator("feature_sets")
    @classmethod
    def _known_sets(cls, versions: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [one for one in versions if one not in FEATURE_SETS]
        if unknown or not versions:
            raise ValueError(f"feature set {', '.join(unknown) or '(none)'} is unknown; use: {', '.join(FEATURE_SETS)}")
        return tuple(dict.fromkeys(versions))

    @field_validator("symbols", mode="before")
    @classmethod
    def _plain_symbols(cls, symbols: Any) -> Any:
        if isinstance(symbols, list):
            return [{"symbol": item} if isinstance(item, str) else item for item in symbols]
        return symbols

    @field_validator("symbols")
    @classmethod
    def _distinct_symbols(cls, symbols: tuple[Listing, ...]) -> tuple[Listing, ...]:
        distinct(tuple(listing.symbol for listing in symbols))
        return symbols

    @model_validator(mode="after")
    def _dates_fit(self) -> "Universe":
        if self.end and self.start > self.end:
            raise ValueError(f"start {self.start} is after end {self.end}; swap them")
        for listing in self.symbols:
            if (self.end and listing.first and listing.first > self.end) or (
                listing.last and listing.last < self.start
            ):
                raise ValueError(
                    f"{listing.symbol} is listed only outside {self.start} to {self.end}; correct its dates or drop it"
                )
        return self

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The symbols, sorted."""
        return tuple(sorted(listing.symbol for listing in self.symbols))

    @cached_property
    def bounds(self) -> dict[str, Bounds]:
        """Symbol -> first and last session on which it is listed, clipped to the universe's start and end.

        Of a universe 2000-03-01 to 2013-03-01, a symbol `from: 2012-05-18` has (2012-05-18, 2013-03-01).
        """
        return {
            listing.symbol: (
                max(self.start, listing.first or self.start),
                min((day for day in (self.end, listing.last) if day), default=None),
            )
            for listing in sorted(self.symbols, key=lambda listing: listing.symbol)
        }

    @cached_property
    def splits(self) -> dict[str, dict[date, float]]:
        """Symbol -> ex-date -> new shares per old, of the symbols whose provider is corrected."""
        return {one.symbol: {split.date: split.ratio for split in one.splits} for one in self.symbols if one.splits}


def load_universe(path: Path) -> Universe:
    """The universe of one file.

    Raises:
        StrategyError: names file, line and field.
    """
    return _universe(read(path))


def _universe(document: Document) -> Universe:
    universe = validate(Universe, document)
    if universe.name != document.path.stem:
        raise document.error(("name",), f"is {universe.name!r} but the file is {document.path.name}; make them equal")
    return universe


def add_symbol(path: Path, symbol: str, first: date | None = None, name: str | None = None) -> Universe:
    """Add a symbol to a universe file, keep its comments, and raise the minor version (1.2.3 becomes 1.3.0).

    Args:
        first: first session on which it is listed; None: the universe's start.

    Raises:
        StrategyError: the file or the symbol is not valid, or the symbol is in it. The file is then unchanged.
    """
    document = read(path)
    universe = _universe(document)
    if symbol in universe.names:
        raise document.error(("symbols",), f"{symbol} is in universe {universe.name} {universe.version} already")
    text = path.read_bytes().decode("utf-8")  # line ends as they are
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    assert isinstance(root, yaml.MappingNode)  # `read` saw to it
    fields = {key.value: value for key, value in root.value}
    major, minor, _ = universe.version.split(".")
    item = yaml.safe_dump(
        {"symbol": symbol} | ({"from": first} if first else {}) | ({"name": name} if name else {}),
        default_flow_style=True,
        sort_keys=False,
        width=10_000,
        allow_unicode=True,
    ).strip()
    edits = [
        (fields["version"].start_mark.index, fields["version"].end_mark.index, f"{major}.{int(minor) + 1}.0"),
        _insertion(text, fields["symbols"], item),
    ]
    for begin, end, new in sorted(edits, reverse=True):
        text = text[:begin] + new + text[end:]
    changed = _universe(parse(path, text))
    part = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        part.write_bytes(text.encode("utf-8"))
        shutil.copymode(path, part)
        part.replace(path)
    except OSError as error:
        raise StrategyError(f"{path}: cannot be written ({error.strerror}); check permissions and space") from None
    finally:
        part.unlink(missing_ok=True)
    return changed


def _insertion(text: str, symbols: yaml.SequenceNode, item: str) -> tuple[int, int, str]:
    """Where in `text` the new item goes (begin, end), and what goes there."""
    end = _last_leaf(symbols.value[-1])
    if symbols.flow_style:
        return end, end, f", {item}"
    newline = "\r\n" if "\r\n" in text else "\n"
    line_end = text.find(newline, end)
    line_end = len(text) if line_end < 0 else line_end
    return line_end, line_end, f"{newline}{' ' * symbols.start_mark.column}- {item}"


def _last_leaf(node: yaml.Node) -> int:
    """Index after the last character of `node`; a block's own end mark lies behind the comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _last_leaf(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)
