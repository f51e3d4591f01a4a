"""What every page reads: settings, the published copy of the warehouse, the strategy files, Dagster's server."""

from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import streamlit as st

from quant_assets.core.errors import LabError
from quant_assets.core.settings import Settings, settings
from quant_assets.lab.dagster_api import Dagster
from quant_assets.strategy.markets import Market, load_markets
from quant_assets.strategy.spec import StrategySpec
from quant_assets.warehouse import published

_TRIES = 3
"""Between learning a copy's name and opening it, it may have been replaced twice."""


def config() -> Settings:
    """The process's settings."""
    return settings()


def snapshot() -> Path | None:
    """The newest published copy of the warehouse; None before the first run."""
    return published.current(config().warehouse_path)


def published_at() -> datetime | None:
    """When what the lab shows was stored, an aware instant."""
    try:
        copy = snapshot()
        return datetime.fromtimestamp(copy.stat().st_mtime, UTC) if copy else None
    except OSError:  # replaced in between
        return None


def query(sql: str, params: Sequence[Any] = ()) -> pl.DataFrame:
    """Read the published copy. An answer is kept until the next one is published; treat it as immutable.

    Raises:
        LabError: nothing is published yet, or it cannot be read.
    """
    for tried in range(_TRIES):
        copy = snapshot()
        if copy is None:
            raise LabError("nothing is stored yet; run `quant pipeline run`, and this page fills itself")
        try:
            return _answer(str(copy), sql, tuple(params))
        except duckdb.IOException as error:
            if tried == _TRIES - 1:
                why = str(error).splitlines()[0]
                raise LabError(f"cannot read {copy} ({why}); any run, such as `quant daily`, publishes anew") from error
    raise AssertionError("unreachable")


@st.cache_resource(max_entries=512, show_spinner=False)
def _answer(copy: str, sql: str, params: tuple[Any, ...]) -> pl.DataFrame:
    return _connection(copy).cursor().sql(sql, params=list(params)).pl()


@st.cache_resource(max_entries=3, show_spinner=False)
def _connection(copy: str) -> duckdb.DuckDBPyConnection:
    return duckdb.connect(copy, read_only=True)


def markets() -> list[Market]:
    """The markets of the strategy folder, the primary one first; read again when a file has changed.

    Raises:
        ConfigError, StrategyError: a file that cannot be used.
    """
    folder = config().strategies_dir
    files = sorted([*folder.glob("*.y*ml"), *folder.glob("universes/*.yaml")])
    return _markets(tuple((str(file), file.stat().st_mtime_ns) for file in files))


@st.cache_resource(max_entries=1, show_spinner=False)
def _markets(files: tuple[tuple[str, int], ...]) -> list[Market]:
    return load_markets(config())


def strategies() -> dict[str, StrategySpec]:
    """strategy_id -> spec, of all markets, sorted by id; raises as `markets`."""
    return dict(sorted((name, spec) for market in markets() for name, spec in market.strategies.items()))


def market_of(strategy_id: str) -> Market:
    """The market that a strategy is on."""
    return next(market for market in markets() if strategy_id in market.strategies)


def dagster() -> Dagster:
    """Dagster's server, whether it answers or not."""
    return _dagster(config().dagster_url)


@st.cache_resource(max_entries=1, show_spinner=False)
def _dagster(url: str) -> Dagster:
    return Dagster(url)
