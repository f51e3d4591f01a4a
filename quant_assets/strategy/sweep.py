"""Parameter sweeps: the cells of a strategy's `sweep` section, computed in chunks, stored as they come, resumed later.

A *cell* is one combination of parameters. Every cell is also a trial (see `ledger`), entered in the transaction that
stores its result.
"""

import hashlib
import json
import math
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from itertools import chain, product
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import polars as pl
import polars.selectors as cs

from quant_assets.contracts import sweep_results, trials
from quant_assets.contracts.gate import gate
from quant_assets.core.errors import ConfigError, DataError, StrategyError
from quant_assets.core.settings import Settings
from quant_assets.signals.rules import RULES, TsmomInputs
from quant_assets.strategy import ledger
from quant_assets.strategy.ledger import Ledger
from quant_assets.strategy.spec import Range, StrategySpec
from quant_assets.strategy.universe import Bounds
from quant_assets.warehouse import Warehouse

HEAD_START = 4.0
"""Seconds that a sweep first runs in threads of this process: workers take about as long to start, so that a sweep that
is done by then never starts any."""

_STORE_EVERY = 1.0  # seconds of results are stored in one transaction,
_STORE_BYTES = 64_000_000  # or so much of them
_TELL_EVERY = 2.0
_ORPHAN_SECONDS = 30  # after which workers whose parent was killed end by themselves
_CHUNKS = 4  # at least so many per worker, so that none waits long for the others
_COLUMNS, _MATRICES = 3, 16  # of numbers that a cell's returns, and an evaluator's data, take while they are computed


@dataclass(frozen=True)
class Cell:
    """One combination: its number in the sweep, what it changes (dotted field -> value) and the strategy with that."""

    number: int
    changes: Mapping[str, Any]
    spec: StrategySpec


@dataclass(frozen=True)
class Cells:
    """All cells of a sweep, and how many combinations are no strategy (`reason` is the first one's)."""

    cells: tuple[Cell, ...]
    excluded: int = 0
    reason: str = ""


class Evaluations(Protocol):
    """What an evaluator returns: one row of measures and one row of returns per spec."""

    @property
    def summary(self) -> pl.DataFrame: ...

    @property
    def returns(self) -> npt.NDArray[np.floating[Any]]: ...


class Evaluates(Protocol):
    """Backtests many variants of a strategy at once; is sent to other processes."""

    def evaluate(self, specs: Sequence[StrategySpec]) -> Evaluations: ...


@dataclass(frozen=True)
class Done:
    """Results of some cells: `summary` has `sweep_results.METRICS`, `returns` is (cells, sessions)."""

    cells: Sequence[Cell]
    summary: pl.DataFrame
    returns: npt.NDArray[np.float32]


@dataclass(frozen=True)
class Search:
    """One sweep over one window of one state of the data."""

    sweep_id: str
    cells: tuple[Cell, ...]
    ledger: Ledger

    def stored(self, warehouse: Warehouse) -> set[int]:
        """Numbers of the cells whose results are stored."""
        known = warehouse.query("SELECT cell FROM sweep_results WHERE sweep_id = ?", [self.sweep_id])
        return set(known["cell"].to_list())

    def keep(self, warehouse: Warehouse, done: Done, run_id: str, now: datetime) -> None:
        """Store results and enter their trials, in one transaction.

        Raises:
            QualityError: a result that breaks its contract.
        """
        specs = [cell.spec for cell in done.cells]
        entered = self.ledger.rows(specs, done.summary["sharpe"].to_list(), done.returns, "sweep", now)
        rows = done.summary.with_columns(
            pl.lit(self.sweep_id).alias("sweep_id"),
            pl.Series("cell", [cell.number for cell in done.cells]),
            pl.Series("strategy_id", [spec.strategy_id for spec in specs]),
            pl.Series("version", [spec.version for spec in specs]),
            pl.Series("params", [json.dumps(cell.changes, separators=(",", ":")) for cell in done.cells]),
            pl.lit(self.ledger.first).alias("from_ts"),
            pl.lit(self.ledger.last).alias("to_ts"),
            entered["trial_id"],
        )
        rows = gate(sweep_results.TABLE, rows.with_columns(pl.col(pl.Float64).fill_nan(None))).good
        entered = gate(trials.TABLE, entered.unique("trial_id", keep="first", maintain_order=True)).good
        with warehouse.write() as writer:
            writer.replace(
                sweep_results.TABLE,
                rows,
                "sweep_id = ? AND cell IN (SELECT unnest(?))",
                [self.sweep_id, rows["cell"].to_list()],
                run_id=run_id,
            )
            ledger.record(writer, entered, run_id)


def search(
    spec: StrategySpec,
    cells: Cells,
    entries: Ledger,
    bars: pl.DataFrame,
    code_version: str,
    sources: Mapping[str, pl.DataFrame] | None = None,
) -> Search:
    """The sweep with its id: a hash of what the strategy computes, its `sweep` section, the window, the data, and the
    code that evaluates them. Where any of these differs it is another sweep.

    Args:
        bars: adjusted, as the evaluator reads them.
        code_version: a fingerprint of the code.
        sources: what the evaluator reads besides.
    """
    said = spec.model_dump(mode="json", by_alias=True, exclude={"version", "description", "validation"})
    said["backtest"] = {name: value for name, value in said["backtest"].items() if name not in ("from", "to")}
    told = {
        "strategy": said,
        "parameters": list(spec.sweep.parameters) if spec.sweep else [],  # their order numbers the cells
        "window": [entries.first, entries.last],
        "symbols": sorted(entries.symbols),
        "data": {name: fingerprint(frame) for name, frame in {"bars": bars, **(sources or {})}.items()},
        "code": code_version,
    }
    return Search(ledger.digest(ledger.canonical(told)), cells.cells, entries)


def fingerprint(frame: pl.DataFrame) -> str:
    """The hash of numbers by symbol and ts, whatever the order of rows and columns: 24 hex digits."""
    ordered = frame.sort("symbol", "ts")
    runs = ordered["symbol"].rle().struct.unnest()
    hashed = hashlib.sha256(ledger.canonical(runs.rows()).encode())
    for column in sorted(ordered.select("ts", cs.numeric()), key=lambda one: one.name):
        hashed.update(column.name.encode() + np.ascontiguousarray(column.to_physical().to_numpy()).tobytes())
    return hashed.hexdigest()[:24]


def cells_of(spec: StrategySpec, limit: int) -> Cells:
    """The cells of the strategy's `sweep` section.

    A grid has every combination, the last parameter changing fastest, in the file's order. Random ones are drawn from
    the seed, no two alike: values of a list and steps of a range alike often, a range without steps uniformly, or its
    logarithm with `log`; whole numbers where both ends are. A combination that the strategy's rules exclude (an exit
    channel longer than the entry's) is left out and counted.

    Args:
        limit: most combinations.

    Raises:
        StrategyError: no sweep section, an unknown field, a value that no valid combination has, or too many
            combinations.
    """
    if spec.sweep is None:
        raise spec.error("strategy_id", f"{spec.strategy_id} has no `sweep` section; add one with its parameters")
    section = spec.sweep
    idle = {f"{name}.{field}" for name, fields in ledger.NOT_CHOSEN.items() for field in fields} & {*section.parameters}
    if idle:
        raise spec.error(
            "sweep.parameters", f"{min(idle)} makes no other configuration, all cells share it; leave it out"
        )
    if section.method == "grid":
        values = {path: _listed(spec, path, one) for path, one in section.parameters.items()}
        _refuse_many(spec, "the grid has", math.prod(len(one) for one in values.values()), limit)
        drawn: Iterable[tuple[Any, ...]] = product(*values.values())
    else:
        _refuse_many(spec, "samples asks for", section.samples or 0, limit)
        drawn = _drawn(spec)
    _refuse_useless(spec)
    found: list[Cell] = []
    excluded, reason = 0, ""
    for combination in drawn:
        changes = dict(zip(section.parameters, combination, strict=True))
        try:
            found.append(Cell(len(found), changes, spec.variant(changes)))
        except StrategyError as error:
            excluded, reason = excluded + 1, reason or str(error)
    return Cells(tuple(found), excluded, reason)


def _refuse_many(spec: StrategySpec, what: str, count: int, limit: int) -> None:
    if count > limit:
        raise spec.error(
            "sweep",
            f"{what} {count:,} cells, the limit is {limit:,}; name fewer values, use `method: random` with fewer "
            f"samples, or raise QUANT_SWEEP_MAX_CELLS",
        )


def _listed(spec: StrategySpec, path: str, one: Sequence[Any] | Range) -> Sequence[Any]:
    values = _finite(one)
    assert values is not None  # a range of a grid has steps
    if len({ledger.canonical(value) for value in values}) < len(values):
        raise spec.error("sweep.parameters", f"{path}: a value stands twice in {list(values)}; name each once")
    return values


def _finite(one: Sequence[Any] | Range) -> Sequence[Any] | None:
    """The values of a list, of a range with steps and of one of whole numbers; None of a continuous range."""
    if not isinstance(one, Range):
        return one
    whole = isinstance(one.low, int) and isinstance(one.high, int)
    if one.step is None:
        return range(int(one.low), int(one.high) + 1) if whole else None
    count = math.floor((one.high - one.low) / one.step + 1e-9) + 1
    if whole and isinstance(one.step, int):
        return range(int(one.low), int(one.high) + 1, one.step)
    return [float(f"{one.low + n * one.step:.12g}") for n in range(count)]


def _drawn(spec: StrategySpec) -> list[tuple[Any, ...]]:
    assert spec.sweep is not None
    parameters = list(spec.sweep.parameters.values())
    wanted, generator = spec.sweep.samples or 0, np.random.default_rng(spec.sweep.seed)
    finite = [None if isinstance(one, Range) and one.log else _finite(one) for one in parameters]
    known = [one for one in finite if one is not None]
    if len(known) == len(finite):
        shape = [len(one) for one in known]
        if math.prod(shape) < wanted:
            raise spec.error("sweep.samples", f"is {wanted}, but there are {math.prod(shape)} combinations; ask fewer")
        places = np.unravel_index(generator.choice(math.prod(shape), wanted, replace=False), shape)
        return [
            tuple(one[int(at)] for one, at in zip(known, place, strict=True)) for place in zip(*places, strict=True)
        ]
    distinct: dict[tuple[Any, ...], None] = {}
    for _ in range(100 * wanted + 1000):
        if len(distinct) == wanted:
            return list(distinct)
        distinct[tuple(_draw(one, values, generator) for one, values in zip(parameters, finite, strict=True))] = None
    raise spec.error("sweep.samples", f"is {wanted}, but only {len(distinct)} distinct ones were drawn; ask fewer")


def _draw(one: Sequence[Any] | Range, values: Sequence[Any] | None, generator: np.random.Generator) -> Any:
    if values is not None:
        return values[int(generator.integers(len(values)))]
    assert isinstance(one, Range)
    low, high = one.low, one.high
    drawn = math.exp(generator.uniform(math.log(low), math.log(high))) if one.log else generator.uniform(low, high)
    nearest = round(drawn) if isinstance(low, int) and isinstance(high, int) else float(f"{drawn:.6g}")
    return min(max(nearest, low), high)


def _refuse_useless(spec: StrategySpec) -> None:
    """Refuse a value (of a range: an end) that is out of range whatever the other parameters are.

    A value counts as usable if some combination of it with ends of the other parameters is a strategy.
    """
    assert spec.sweep is not None
    ends: dict[str, Sequence[Any]] = {}
    for path, one in spec.sweep.parameters.items():
        values: list[Any] = [one.low, one.high] if isinstance(one, Range) else list(one)
        ends[path] = [min(values), max(values)] if all(isinstance(value, int | float) for value in values) else values
    for path, one in spec.sweep.parameters.items():
        others = [name for name in ends if name != path]
        for value in [one.low, one.high] if isinstance(one, Range) else one:
            reason = ""
            for combination in product(*(ends[name] for name in others)):
                try:
                    spec.variant({path: value, **dict(zip(others, combination, strict=True))})
                    break
                except StrategyError as error:
                    reason = reason or str(error)
            else:
                raise spec.error("sweep.parameters", f"{path}: {value!r} cannot be used: {reason}")


def refuse_unusable(
    spec: StrategySpec,
    cells: Sequence[Cell],
    bars: pl.DataFrame,
    sessions: Sequence[date],
    bounds: Mapping[str, Bounds],
    settings: Settings,
) -> None:
    """Refuse a sweep that could not give a result, or not on this machine, before anything runs.

    Args:
        bars: adjusted, of the window and before.
        sessions: the window's.
        bounds: symbol -> first and last session on which it is listed.

    Raises:
        StrategyError: no cell, or a window shorter than a cell's lookback.
        DataError: a listed symbol without a bar in the window, or without volume where a signal weighs by it.
        ConfigError: the results would not fit into memory.
    """
    if not cells:
        raise spec.error("sweep.parameters", "no combination is a valid strategy; widen the values")
    window = f"{sessions[0]}..{sessions[-1]} ({len(sessions)} sessions)"
    longest = max(cells, key=lambda cell: _history(cell.spec))
    if _history(longest.spec) >= len(sessions):
        raise spec.error(
            "sweep.parameters",
            f"cell {longest.number} ({ledger.canonical(longest.changes)}) looks back {_history(longest.spec)} "
            f"sessions, the window {window} is not longer; widen the backtest's from and to, or lower the parameter",
        )
    inside = bars.filter(pl.col("ts").is_between(sessions[0], sessions[-1]))
    wanted = {
        symbol for symbol, (first, last) in bounds.items()
        if (first is None or first <= sessions[-1]) and (last is None or last >= sessions[0])
    }  # fmt: skip
    absent = sorted(wanted - set(inside["symbol"].unique()))
    if absent or not wanted:
        raise DataError(
            f"{spec.strategy_id}: no bars of {', '.join(absent) or 'any symbol'} in {window}; ingest them, correct "
            f"their listing in the universe file, or choose another window"
        )
    _refuse_no_volume(spec, cells, bars)
    _refuse_too_large(spec, len(cells), len(sessions), len(bounds), settings)


def _history(spec: StrategySpec) -> int:
    rule = spec.rule
    return 0 if rule is None else RULES[rule.type].warm_up(rule.inputs)


def _refuse_no_volume(spec: StrategySpec, cells: Sequence[Cell], bars: pl.DataFrame) -> None:
    weighted = [
        rule.inputs.lookback
        for rule in (cell.spec.rule for cell in cells)
        if rule is not None and isinstance(rule.inputs, TsmomInputs) and rule.inputs.weighting == "volume"
    ]
    if not weighted:
        return
    traded = pl.col("volume").fill_null(0).fill_nan(0) > 0
    runs = (
        bars.sort("symbol", "ts")
        .with_columns(run=(traded != traded.shift(1)).fill_null(True).cum_sum().over("symbol"))
        .filter(~traded)
        .group_by("symbol", "run")
        .agg(pl.len().alias("sessions"), pl.col("ts").min().alias("first"))
        .filter(pl.col("sessions") >= min(weighted))
        .sort("symbol", "first")
    )
    if runs.height:
        symbol, _, count, first = runs.row(0)
        raise DataError(
            f"{spec.strategy_id}: {symbol} has no volume on {count} sessions from {first}, and tsmom weighs by the "
            f"volume of {min(weighted)}; use `weighting: plain` or leave the symbol out"
        )


def _cell_bytes(sessions: int) -> int:
    return 8 * _COLUMNS * sessions


def _refuse_too_large(spec: StrategySpec, cells: int, sessions: int, symbols: int, settings: Settings) -> None:
    import psutil

    worker = 8 * _MATRICES * sessions * symbols + min(
        cells * _cell_bytes(sessions), settings.sweep_chunk_mb * 1_000_000
    )
    needed = 4 * cells * sessions + workers(settings) * worker
    free = int(psutil.virtual_memory().available)
    if needed > free:
        raise ConfigError(
            f"{spec.strategy_id}: {cells:,} cells over {sessions:,} sessions and {symbols:,} symbols take "
            f"{needed / 1e6:,.0f} MB, {free / 1e6:,.0f} MB are free; sweep fewer values or a shorter window"
        )


def workers(settings: Settings) -> int:
    """Threads or processes of a sweep."""
    import joblib

    return settings.sweep_workers or int(joblib.cpu_count())


def run(
    cells: Sequence[Cell],
    evaluator: Evaluates,
    sessions: int,
    settings: Settings,
    store: Callable[[Done], None],
    report: Callable[[str], None],
    *,
    done: Collection[int] = (),
    head_start: float = HEAD_START,
) -> int:
    """Evaluate the cells that are not done, in chunks of bounded memory; `store` gets the results as they come.

    For the first `head_start` seconds chunks run in threads of this process; what is left then goes to the backend that
    the settings name. Which one changes no figure. Returns how many cells were evaluated.

    Args:
        evaluator: goes to every worker.
        sessions: of the window.
        store: called in this thread with the cells of about a second, in order.
        done: numbers of cells that are stored already.

    Raises:
        ConfigError: the backend cannot be used.
    """
    missing = [cell for cell in cells if cell.number not in done]
    report(f"{len(cells):,} cells, {len(cells) - len(missing):,} of them stored already")
    if not missing:
        return 0
    count = workers(settings)
    size = min(settings.sweep_chunk_mb * 1_000_000 // _cell_bytes(sessions), -(-len(missing) // (_CHUNKS * count)))
    size = max(1, size)
    chunks = [missing[first : first + size] for first in range(0, len(missing), size)]
    progress = _Progress(len(missing), report)
    waiting: list[Done] = []
    since = time.monotonic()
    for one in _evaluated(chunks, evaluator, settings, head_start):
        waiting.append(one)
        progress.add(len(one.cells))
        if time.monotonic() - since > _STORE_EVERY or sum(each.returns.nbytes for each in waiting) > _STORE_BYTES:
            store(_joined(waiting))
            waiting, since = [], time.monotonic()
    if waiting:
        store(_joined(waiting))
    return len(missing)


def _joined(parts: Sequence[Done]) -> Done:
    return Done(
        list(chain.from_iterable(part.cells for part in parts)),
        pl.concat([part.summary for part in parts]),
        np.concatenate([part.returns for part in parts]),
    )


def _evaluated(
    chunks: Sequence[Sequence[Cell]], evaluator: Evaluates, settings: Settings, head_start: float
) -> Iterator[Done]:
    """Results chunk by chunk, in order."""
    from joblib import Parallel, delayed

    began, taken, token = time.monotonic(), 0, uuid.uuid4().hex

    def first() -> Iterator[Sequence[Cell]]:
        nonlocal taken
        while taken < len(chunks) and (settings.sweep_backend == "threads" or time.monotonic() - began < head_start):
            taken += 1
            yield chunks[taken - 1]

    def calls(some: Iterable[Sequence[Cell]]) -> Iterator[Any]:
        return (delayed(_evaluate)(token, evaluator, [cell.spec for cell in chunk]) for chunk in some)

    def results(parallel: Parallel, some: Iterable[Sequence[Cell]], offset: int) -> Iterator[Done]:
        for number, (summary, returns) in enumerate(parallel(calls(some)), start=offset):
            yield Done(chunks[number], summary, returns)

    here = Parallel(workers(settings), backend="threading", return_as="generator", batch_size=1, pre_dispatch="n_jobs")
    try:
        yield from results(here, first(), 0)
        if taken < len(chunks):
            with _elsewhere(settings, evaluator) as parallel:
                yield from results(parallel, chunks[taken:], taken)
    finally:
        _kept.clear()


_kept: dict[str, Evaluates] = {}
"""The evaluator of the run that this process works for: each chunk brings a copy, the first has learnt most."""


def _evaluate(
    run_token: str, evaluator: Evaluates, specs: Sequence[StrategySpec]
) -> tuple[pl.DataFrame, npt.NDArray[np.float32]]:
    if run_token not in _kept:
        _kept.clear()
    evaluations = _kept.setdefault(run_token, evaluator).evaluate(specs)
    names = [column.name for column in sweep_results.METRICS]
    return evaluations.summary.select(names), evaluations.returns.astype(np.float32)


@contextmanager
def _elsewhere(settings: Settings, evaluator: Evaluates) -> Iterator[Any]:
    """joblib's `Parallel` over worker processes or a Dask cluster."""
    from joblib import Parallel, parallel_config

    if settings.sweep_backend == "processes":
        from joblib.externals.loky import get_reusable_executor

        try:
            with parallel_config("loky", n_jobs=workers(settings), idle_worker_timeout=_ORPHAN_SECONDS):
                yield Parallel(return_as="generator", batch_size=1)
        finally:
            get_reusable_executor().shutdown(wait=True)
        return
    with (
        _dask_client(settings.dask_address) as client,
        parallel_config("dask", client=client, scatter=[evaluator]),
    ):
        yield Parallel(return_as="generator", batch_size=1)


@contextmanager
def _dask_client(address: str | None) -> Iterator[Any]:
    try:
        from distributed import Client
    except ImportError:
        raise ConfigError(
            "QUANT_SWEEP_BACKEND is dask, but the package distributed is not installed; install quant_assets[cluster]"
        ) from None
    if not address:
        raise ConfigError(
            "QUANT_SWEEP_BACKEND is dask, but no cluster is named; set QUANT_DASK_ADDRESS to its scheduler's address"
        )
    try:
        client = Client(address, timeout="10s")
    except (OSError, TimeoutError, ValueError) as error:
        raise ConfigError(
            f"no Dask scheduler answers at {address} ({str(error).splitlines()[0]}); correct QUANT_DASK_ADDRESS"
        ) from None
    with client:
        yield client


class _Progress:
    """Lines of how far a sweep is: cells done, their rate, the time left."""

    def __init__(self, total: int, report: Callable[[str], None]) -> None:
        self._total, self._report = total, report
        self._done = 0
        self._began = self._told = time.monotonic()

    def add(self, cells: int) -> None:
        self._done += cells
        now = time.monotonic()
        if self._done < self._total and now - self._told < _TELL_EVERY:
            return
        self._told = now
        rate = self._done / max(now - self._began, 1e-9)
        left = f", {(self._total - self._done) / rate:,.0f} s left" if self._done < self._total else ""
        self._report(f"{self._done:,} of {self._total:,} cells, {rate:,.0f} per second{left}")
