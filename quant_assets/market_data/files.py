"""Bars from a folder of CSV or Parquet files, one per symbol, named after it (`AAPL.csv`, `msft.parquet`)."""

import csv
from collections.abc import Sequence
from datetime import date
from functools import cached_property
from pathlib import Path
from typing import ClassVar

import polars as pl

from quant_assets.core.errors import ConfigError, PermanentProviderError
from quant_assets.core.settings import PROJECT_ROOT, Settings
from quant_assets.market_data.adjustment import infer_splits
from quant_assets.market_data.provider import (
    Fetched,
    FetchRequest,
    Options,
    SymbolMatch,
    actions_frame,
    bars_frame,
    matching,
)

_READ = (".csv", ".parquet")
_ALIASES = {
    "date": "ts",
    "timestamp": "ts",
    "datetime": "ts",
    "time": "ts",
    "adj_close": "adjusted_close",
    "adjclose": "adjusted_close",
    "adjustedclose": "adjusted_close",
}
_NUMBERS = ("open", "high", "low", "close", "adjusted_close", "volume")
_COLUMNS = ("ts", *_NUMBERS)
_NO_VALUE = ("", "null", "none", "na", "n/a", "nan", "-")


class FilesProvider:
    """One file per symbol in `folder`, re-read at each fetch.

    Columns, in any order and case: ts (or date, timestamp, datetime, time), open, high, low, close, volume, and
    optionally adjusted_close (or adj_close). Others are ignored. Dates are ISO 8601 (a time of day is cut off) or
    YYYYMMDD. Without adjusted_close prices are taken as they are; with it splits are inferred to adjust volumes.
    """

    name: ClassVar[str] = "files"
    gives_actions: ClassVar[bool] = False
    options: ClassVar[frozenset[str]] = frozenset({"folder"})

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ConfigError(f"files: {folder} is not a folder; set QUANT_FILES_DIR to one with a CSV or Parquet each")
        self._folder = folder

    @classmethod
    def create(cls, settings: Settings, sessions: Sequence[date], options: Options) -> "FilesProvider":
        folder = options.get("folder", settings.files_dir)
        if folder is None:
            raise ConfigError(
                "files: no folder is set; set QUANT_FILES_DIR, or provider_options.folder in the universe file, "
                "to one with a CSV or Parquet per symbol"
            )
        return cls(PROJECT_ROOT / str(folder))

    def fetch(self, request: FetchRequest, *, whole: bool = False) -> Fetched:
        """All bars of the symbol's file, whatever the dates asked for.

        Raises:
            PermanentProviderError: no file, two of them, or one that cannot be read; names file, line and cause.
        """
        path = self._path(request.symbol)
        bars = _read(request.symbol, path)
        return Fetched(bars, actions_frame(infer_splits(bars)), requests=0, complete=True)

    def search(self, words: str) -> list[SymbolMatch]:
        return matching(sorted(self._paths), words)

    @cached_property
    def _paths(self) -> dict[str, list[Path]]:
        paths: dict[str, list[Path]] = {}
        for path in sorted(self._folder.iterdir()):
            if path.suffix.lower() in _READ:
                paths.setdefault(path.stem.upper(), []).append(path)
        return paths

    def _path(self, symbol: str) -> Path:
        found = self._paths.get(symbol.upper(), [])
        if len(found) == 1:
            return found[0]
        if found:
            raise PermanentProviderError(
                f"files: {symbol}: {' and '.join(path.name for path in found)} both hold it in {self._folder}; keep one"
            )
        raise PermanentProviderError(
            f"files: {symbol}: no {symbol}.csv or {symbol}.parquet in {self._folder}, which has {len(self._paths)} "
            "symbols; add the file or take the symbol out of the universe"
        )


def _read(symbol: str, path: Path) -> pl.DataFrame:
    is_csv = path.suffix.lower() == ".csv"
    try:
        table = pl.read_csv(path, infer_schema=False) if is_csv else pl.read_parquet(path)
    except (pl.exceptions.PolarsError, OSError, UnicodeError) as error:
        place, cause = (_torn_line(path) if is_csv else None) or ("", str(error).strip().split("\n")[0])
        raise _corrupt(symbol, path, place, cause) from None
    columns: dict[str, str] = {}
    for name in table.columns:
        plain = name.strip().strip("\ufeff").lower().replace(" ", "_")
        plain = _ALIASES.get(plain, plain)
        if plain in _COLUMNS:
            if plain in columns:
                raise _corrupt(symbol, path, "line 1", f"columns {columns[plain]!r} and {name!r} both mean {plain}")
            columns[plain] = name
    missing = [name for name in _COLUMNS if name not in columns and name != "adjusted_close"]
    if missing:
        raise _corrupt(symbol, path, "line 1", f"no column {', '.join(missing)} among {', '.join(table.columns)}")
    if table.is_empty():
        raise _corrupt(symbol, path, "", "it holds no bar")
    try:
        read = table.select(
            _dates(table.schema[columns["ts"]], columns["ts"]).alias("ts"),
            *(
                _number(table.schema[columns[name]], columns[name]).alias(name)
                if name in columns
                else pl.lit(None, pl.Float64).alias(name)
                for name in _NUMBERS
            ),
        )
    except pl.exceptions.PolarsError as error:  # a Parquet column of lists, structs, ...
        raise _corrupt(symbol, path, "", str(error).strip().split("\n")[0]) from None
    _refuse_unreadable(symbol, path, table.rename({old: new for new, old in columns.items() if old != new}), read)
    return bars_frame(read)


def _dates(dtype: pl.DataType, name: str) -> pl.Expr:
    column = pl.col(name)
    if dtype == pl.Date:
        return column
    if isinstance(dtype, pl.Datetime):
        return column.dt.date()
    text = column.cast(pl.String).str.strip_chars()
    return pl.coalesce(
        text.str.slice(0, 10).str.to_date("%Y-%m-%d", strict=False), text.str.to_date("%Y%m%d", strict=False)
    )


def _number(dtype: pl.DataType, name: str) -> pl.Expr:
    column = pl.col(name)
    return column.str.strip_chars().cast(pl.Float64, strict=False) if dtype == pl.String else column.cast(pl.Float64)


def _refuse_unreadable(symbol: str, path: Path, table: pl.DataFrame, read: pl.DataFrame) -> None:
    """A value left out is a row for the quality gate; a value that is not one, or a torn line, is a corrupt file."""
    if not any(read[name].null_count() for name in _COLUMNS if name in table.columns):
        return
    is_csv = path.suffix.lower() == ".csv"
    torn = _torn_line(path) if is_csv else None
    if torn:
        raise _corrupt(symbol, path, *torn)
    for name in _COLUMNS:
        if name not in table.columns:
            continue
        text = table[name].cast(pl.String).fill_null("").str.strip_chars().str.to_lowercase()
        allowed = text.is_in(_NO_VALUE) if name != "ts" else pl.Series([False]).new_from_index(0, len(text))
        wrong = read[name].is_null() & ~allowed
        if wrong.any():
            row = int(wrong.arg_max() or 0)
            place = f"line {row + 2}" if is_csv else f"row {row + 1}"
            raise _corrupt(symbol, path, place, f"{name} is {table[name][row]!r}, not a {_kind(name)}")


def _kind(name: str) -> str:
    return "date (YYYY-MM-DD)" if name == "ts" else "number"


def _torn_line(path: Path) -> tuple[str, str] | None:
    """The first line of a CSV that does not have the header's number of fields, or bytes that are no text."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            lines = csv.reader(file)
            width = len(next(lines, []))
            for fields in lines:
                if fields and len(fields) != width:
                    return f"line {lines.line_num}", f"{len(fields)} fields where the header has {width}"
    except UnicodeDecodeError as error:
        return "", f"it is not UTF-8 text ({error.reason} at byte {error.start})"
    except (csv.Error, OSError) as error:
        return "", str(error)
    return None


def _corrupt(symbol: str, path: Path, place: str, cause: str) -> PermanentProviderError:
    where = f"{path}, {place}" if place else str(path)
    return PermanentProviderError(f"files: {symbol}: {where}: {cause}; correct the file or write it again")
