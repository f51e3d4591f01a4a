"""The trial ledger: every configuration of a strategy family ever evaluated, so that a best one has its number.

A *trial* is one configuration over one data window; a *configuration* is all that a strategy file says about what is
computed, of the symbols it was computed on. Trials are counted by *family*: a market universe and a kind of signal, so
that neither a copy of a file under another id nor a grown window makes a best result look less searched for.
"""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import polars as pl
from pydantic import ValidationError

from quant_assets.contracts import trials
from quant_assets.core.errors import ConfigError
from quant_assets.strategy.spec import StrategySpec
from quant_assets.validation.assessment import Trials
from quant_assets.warehouse import Warehouse, Writer

Source = Literal["backtest", "sweep"]

_MOST_RETURNS = 2_000

_IDENTITY = {"strategy_id", "version", "description", "universe", "sweep", "validation"}
NOT_CHOSEN = {"backtest": ("from", "to", "initial_cash"), "execution": ("engine",)}
"""Per section what makes no other configuration: the window, the size of the account, which of two equal engines."""


def family(spec: StrategySpec, market: str) -> str:
    """`<market universe>/<kind of signal>`: what a best result was picked from.

    Example:
        >>> family(momentum_topk, "us_tech")
        'us_tech/factor_rank'
    """
    return f"{market}/{spec.signal.type}"


def configuration(spec: StrategySpec, symbols: Iterable[str]) -> dict[str, Any]:
    """What `spec` computes, on which symbols: the file less its names, its sweep, its window and its cash.

    Defaults that are written out change nothing, nor does the order of fields or symbols.
    """
    said = spec.model_dump(mode="json", by_alias=True, exclude_defaults=True, exclude=_IDENTITY)
    for section, fields in NOT_CHOSEN.items():
        kept = {name: value for name, value in said.pop(section, {}).items() if name not in fields}
        if kept:
            said[section] = kept
    return {**said, "symbols": sorted(symbols)}


def configuration_id(said: Mapping[str, Any]) -> str:
    """The hash of a `configuration`: 24 hex digits."""
    return digest(canonical(said))


def trial_id(family: str, configuration_id: str, first: date, last: date) -> str:
    """The hash of one configuration over one window: 24 hex digits."""
    return digest(f"{family}|{configuration_id}|{first}|{last}")


def canonical(data: object) -> str:
    """`data` as JSON with sorted keys and no spaces."""
    return json.dumps(data, sort_keys=True, separators=(",", ":"), default=str)


def digest(text: str) -> str:
    """24 hex digits of the text's sha256."""
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def as_run(
    spec: StrategySpec, params: str, window: tuple[date, date], initial_cash: float, own: Collection[str]
) -> StrategySpec:
    """The strategy as a trial had it: its file may have been changed since, or overridden for the run.

    Args:
        spec: the file, for what a trial does not say: names, sweep, validation.
        params: `configuration` of the trial, as JSON.
        window: first and last session.
        own: symbols of the file's universe.

    Raises:
        ConfigError: the trial is of a version of the program whose strategy files said other things.
    """
    said = json.loads(params)
    symbols = said.pop("symbols")
    kept = {name: getattr(spec, name) for name in sorted(_IDENTITY)}
    first, last = window
    backtest = {**said.pop("backtest", {}), "from": f"{first}", "to": f"{last}", "initial_cash": initial_cash}
    written = spec.model_dump(mode="json", by_alias=True, include=_IDENTITY)
    try:
        run = StrategySpec.model_validate_json(canonical({**written, **said, "backtest": backtest}))
    except ValidationError as error:
        raise ConfigError(
            f"{spec.strategy_id}: the backtest's configuration is none of this version's ({error.errors()[0]['msg']}); "
            "run the backtest again"
        ) from None
    run = run.model_copy(update=kept)
    return run if sorted(own) == symbols else run.only(symbols)


@dataclass(frozen=True)
class Ledger:
    """Where the trials of one strategy file and its variants are entered.

    `symbols` are those that the strategy may hold (`spec.bounds`), `first` and `last` the sessions of its window.
    """

    family: str
    symbols: Collection[str]
    first: date
    last: date

    def trial_id(self, spec: StrategySpec) -> str:
        """The id of `spec` as a trial."""
        return trial_id(self.family, configuration_id(configuration(spec, self.symbols)), self.first, self.last)

    def known(self, warehouse: Warehouse, sessions: int) -> Trials:
        """What was tried in the family so far, each configuration once, by what it showed last.

        Of the returns over this ledger's window at most 2,000 are read, the same ones each time.
        """
        count, sharpes = warehouse.query(
            "SELECT count(*), list(sharpe ORDER BY configuration) FILTER (sharpe IS NOT NULL) FROM "
            "(SELECT configuration, "
            "arg_max(sharpe, (first_seen_at, trial_id)) AS sharpe FROM trials WHERE family = ? GROUP BY configuration)",
            [self.family],
        ).row(0)
        aligned = warehouse.query(
            "SELECT returns FROM trials WHERE family = ? AND from_ts = ? AND to_ts = ? AND len(returns) = ? "
            "ORDER BY trial_id LIMIT ?",
            [self.family, self.first, self.last, sessions, _MOST_RETURNS],
        )["returns"]
        returns = aligned.explode().to_numpy().astype(np.float64).reshape(-1, sessions)
        return Trials(count, np.array(sharpes or [], np.float64), np.nan_to_num(returns, nan=0.0))

    def rows(
        self,
        specs: Sequence[StrategySpec],
        sharpes: Sequence[float | None],
        returns: npt.NDArray[np.floating[Any]],
        source: Source,
        now: datetime,
    ) -> pl.DataFrame:
        """Rows of `trials`, one per spec in the given order, less `run_id`.

        Args:
            sharpes: annualised; None or NaN where undefined. Such a trial counts like any other.
            returns: (specs, sessions), stored as float32.
        """
        texts = [canonical(configuration(spec, self.symbols)) for spec in specs]
        ids = [digest(text) for text in texts]
        frame = pl.DataFrame(
            {
                "trial_id": [trial_id(self.family, one, self.first, self.last) for one in ids],
                "configuration": ids,
                "strategy_id": [spec.strategy_id for spec in specs],
                "params": texts,
                "sharpe": pl.Series(sharpes, dtype=pl.Float64).fill_nan(None),
                "returns": pl.Series(np.ascontiguousarray(returns, np.float32)).arr.to_list(),
            },
            schema_overrides={"returns": pl.List(pl.Float32)},
        )
        constants = {
            "family": self.family,
            "source": source,
            "from_ts": self.first,
            "to_ts": self.last,
            "first_seen_at": now,
        }
        frame = frame.with_columns(pl.lit(value).alias(name) for name, value in constants.items())
        return frame.select(pl.col(column.name).cast(column.polars) for column in trials.TABLE.columns)


def record(writer: Writer, rows: pl.DataFrame, run_id: str) -> int:
    """Enter the trials that are not in the ledger yet, in the transaction that stores their results.

    Whoever evaluated a trial first stays its source; nothing is replaced. Returns how many were new.

    Args:
        rows: `Ledger.rows`.
    """
    rows = rows.unique("trial_id", keep="first", maintain_order=True)
    ids = rows["trial_id"].to_list()
    known = writer.query("SELECT trial_id FROM trials WHERE trial_id IN (SELECT unnest(?))", [ids])["trial_id"]
    return writer.append(trials.TABLE, rows.filter(~pl.col("trial_id").is_in(known.implode())), run_id=run_id)


@dataclass(frozen=True)
class Counted:
    """The ledger of one family. `best` is the highest Sharpe ratio ever seen, of trial `best_trial`."""

    family: str
    configurations: int
    trials: int
    windows: int
    best: float | None
    median: float | None
    best_trial: str | None
    best_strategy: str | None


def tried(warehouse: Warehouse, trial: pl.DataFrame) -> int:
    """Configurations of a family ever evaluated, with a row of `Ledger.rows` that is about to be entered."""
    family, one = trial.select("family", "configuration").row(0)
    known = warehouse.query("SELECT DISTINCT configuration FROM trials WHERE family = ?", [family])["configuration"]
    return len({*known, one})


def counted(warehouse: Warehouse, family: str | None = None) -> list[Counted]:
    """The families' ledgers, by name; one family's where it is named (empty if it has no trial)."""
    rows = warehouse.query(
        "SELECT family, count(DISTINCT configuration) AS configurations, count(*) AS trials, "
        "count(DISTINCT (from_ts, to_ts)) AS windows, max(sharpe) AS best, median(sharpe) AS median, "
        "arg_max(trial_id, (sharpe, trial_id)) FILTER (sharpe IS NOT NULL) AS best_trial, "
        "arg_max(strategy_id, (sharpe, trial_id)) FILTER (sharpe IS NOT NULL) AS best_strategy "
        "FROM trials WHERE family = coalesce(?, family) GROUP BY family ORDER BY family",
        [family],
    )
    return [Counted(**row) for row in rows.iter_rows(named=True)]
