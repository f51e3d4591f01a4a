"""A small platform of its own for a test: a market of three symbols in CSV files, two strategies, a home, an instance.

Belongs here: what tests need to drive real runs, in this process or in others, and the comparison of two warehouses.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import dagster as dg
import polars as pl
import pytest
import yaml

from quant_assets.contracts import TABLES
from quant_assets.core.calendar import trading_calendar
from quant_assets.core.settings import PROJECT_ROOT, Settings
from quant_assets.defs.grid import Grid
from quant_assets.market_data.synthetic import synthetic_bars
from quant_assets.warehouse import Warehouse
from quant_assets_tests import fork_server

SYMBOLS = ("AAA", "BBB", "CCC")
LISTED_LATE = "CCC"
START, LISTED, END = date(2023, 1, 3), date(2023, 2, 15), date(2023, 8, 31)
STRATEGIES = ("forest", "ranks")
COINS = ("BTC/USDT", "ETH/USDT")
COINS_START, COINS_END = date(2023, 1, 1), date(2023, 4, 30)
MARKET_ASSETS = ("ohlcv", "features_daily", "labels")
DECISION_ASSETS = ("predictions", "targets", "backtest_summary", "validation")
SHORT_PLAN = {
    "min_oos_days": 30,
    "train_days": 60,
    "test_days": 20,
    "step_days": 10,
    "purge": 1,
    "blocks": 4,
    "resamples": 100,
}
"""Section `validation` of a strategy file for the half year that the small market's backtests take."""
PATIENCE = fork_server.PATIENCE
"""Seconds after which a process counts as hanging."""
QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}
"""Run config of a run in this process."""
DAGSTERS_OWN = [
    pytest.mark.filterwarnings("ignore::dagster.BetaWarning"),
    pytest.mark.filterwarnings("ignore::dagster.PreviewWarning"),
    pytest.mark.filterwarnings("ignore:InitResourceContext.dagster_run:DeprecationWarning"),
]
"""Marks for tests that run the graph in this process: warnings about what Dagster itself calls."""


def universe(**changes: object) -> dict[str, object]:
    """The text of a universe file, as data: the market `small` unless changed."""
    return {
        "name": "small",
        "version": "1.0.0",
        "calendar": "XNYS",
        "provider": "files",
        "start": START,
        "end": END,
        "symbols": ["AAA", "BBB", {"symbol": LISTED_LATE, "from": LISTED}],
        **changes,
    }


def strategy(name: str, **changes: object) -> dict[str, object]:
    """The text of a strategy file, as data: a `...forest` scores by a pooled model, any other ranks by a feature."""
    signal: dict[str, object] = {
        "type": "factor_rank",
        "inputs": {"feature_version": "v1", "feature_name": "ret_5d"},
    }
    if name.endswith("forest"):
        model = {
            "task": "regression",
            "label": "fwd_ret_60d",
            "retrain": "monthly",
            "min_train_rows": 40,
            "params": {"num_boost_round": 10, "min_data_in_leaf": 5},
        }
        signal = {"type": "model_score", "model": model}
    return {
        "strategy_id": name,
        "version": "1.0.0",
        "universe": "small",
        "signal": signal,
        "rebalance": {"frequency": "weekly"},
        "portfolio": {"top_k": 2},
        "min_cross_section": 0.5,
        "supervisor": {"max_weight_per_symbol": 0.5},
        "backtest": {"from": date(2023, 3, 1), "to": END},
        **changes,
    }


@dataclass
class Platform:
    """A home, strategy files and bar files under `root`, and the ways to run something on them."""

    root: Path
    extra: dict[str, str] = field(default_factory=dict)
    home_name: str = "home"

    @property
    def home(self) -> Path:
        return self.root / self.home_name

    @property
    def dagster(self) -> Path:
        return self.home / "dagster"

    @property
    def strategies(self) -> Path:
        return self.root / "strategies"

    @property
    def files(self) -> Path:
        return self.root / "files"

    @property
    def warehouse(self) -> Warehouse:
        return Warehouse(self.home / "warehouse.duckdb", lock_timeout=30)

    @property
    def settings(self) -> Settings:
        return Settings(home=self.home, strategies_dir=self.strategies, market="small", files_dir=self.files)

    @property
    def environment(self) -> dict[str, str]:
        """All that a process gets."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("QUANT_", "DAGSTER_"))}
        return {
            **kept,
            "QUANT_HOME": str(self.home),
            "QUANT_DAGSTER": str(self.dagster),
            "DAGSTER_HOME": str(PROJECT_ROOT),
            "QUANT_STRATEGIES_DIR": str(self.strategies),
            "QUANT_MARKET": "small",
            "QUANT_FILES_DIR": str(self.files),
            "PYTHONPATH": str(PROJECT_ROOT),
            **self.extra,
        }

    def write_universe(self, name: str = "small", **changes: object) -> None:
        path = self.strategies / "universes" / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(universe(name=name, **changes)))

    def write_coins(self, **changes: object) -> None:
        """The universe of a second market, `coins`: every day a session, synthetic bars."""
        usual = {"calendar": "24/7", "provider": "synthetic", "start": COINS_START, "end": COINS_END}
        self.write_universe("coins", **{**usual, "symbols": list(COINS), **changes})

    def write_strategy(self, name: str, **changes: object) -> None:
        (self.strategies / f"{name}.yaml").write_text(yaml.safe_dump(strategy(name, **changes)))

    def write_bars(self, symbol: str, first: date = START, last: date = END, scale: float = 1.0) -> None:
        """The symbol's CSV: a seeded random walk on the sessions from `first` to `last`, prices times `scale`."""
        self.files.mkdir(parents=True, exist_ok=True)
        bars_of(symbol, first, last, scale).drop("symbol").write_csv(self.files / f"{symbol}.csv")

    def grid(self) -> Grid:
        from quant_assets.definitions import load

        return load(self.settings)[0].grid

    def definitions(self) -> dg.Definitions:
        """The code location on this platform's files and home, for runs in this process."""
        from quant_assets.definitions import build

        return build(self.settings)

    @contextmanager
    def instance(self) -> Iterator[dg.DagsterInstance]:
        """The instance that this platform's processes use."""
        self.dagster.mkdir(parents=True, exist_ok=True)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("QUANT_DAGSTER", str(self.dagster))
            with dg.DagsterInstance.from_config(str(PROJECT_ROOT)) as instance:
                yield instance

    def runs(self) -> list[dg.DagsterRun]:
        """All runs, oldest first."""
        with self.instance() as instance:
            return list(reversed(instance.get_runs()))

    def quant(self, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `quant`; it must end with exit code `code` (None: any)."""
        return self._finish(self.command("quant_assets.cli.app", *words), code)

    def run(self, module: str, *words: str, code: int | None = 0) -> subprocess.CompletedProcess[str]:
        """Run `python -m module`."""
        return self._finish(self.command(module, *words), code)

    @staticmethod
    def command(module: str, *words: str) -> list[str]:
        return [sys.executable, "-m", module, *words]

    def _finish(self, command: Sequence[str], code: int | None) -> subprocess.CompletedProcess[str]:
        self.dagster.mkdir(parents=True, exist_ok=True)
        done = fork_server.finished(command, self.environment, self.root)
        assert code in (None, done.returncode), f"exit code {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def start(self, command: Sequence[str]) -> fork_server.Piped:
        """Start a process whose output, standard error included, can be read line by line."""
        self.dagster.mkdir(parents=True, exist_ok=True)
        return fork_server.Piped(command, self.environment, self.root)

    def kill_when(self, reached: Callable[[str], bool], command: Sequence[str]) -> list[str]:
        """Start `command`, kill it with SIGKILL at the first line that `reached` accepts. Returns the lines until then.

        Raises:
            AssertionError: it ended by itself.
        """
        process = self.start(command)
        lines = []
        with process.stdout as output:
            for line in output:
                lines.append(line.strip())
                if reached(line):
                    process.send_signal(signal.SIGKILL)
                    break
        code = process.wait()
        assert code == -signal.SIGKILL, f"exit code {code}: {lines}"
        return lines


def small_platform(root: Path, **extra: str) -> Platform:
    """Three symbols, the last of which lists late; strategies `forest` (a pooled model) and `ranks` (a feature)."""
    platform = Platform(root, extra)
    platform.write_universe()
    for name in STRATEGIES:
        platform.write_strategy(name)
    for symbol in SYMBOLS:
        platform.write_bars(symbol, LISTED if symbol == LISTED_LATE else START)
    return platform


def bars_of(symbol: str, first: date = START, last: date = END, scale: float = 1.0) -> pl.DataFrame:
    """Seeded bars: symbol, ts, open, high, low, close, volume."""
    number = SYMBOLS.index(symbol)
    sessions = trading_calendar("XNYS").between(START, last)
    bars = synthetic_bars([f"SYN{number:04d}"], sessions).filter(pl.col("ts") >= first)
    prices = pl.col("open", "high", "low", "close") * scale
    return bars.select(pl.lit(symbol).alias("symbol"), "ts", prices, "volume")


def contents(warehouse: Warehouse, tables: Sequence[str] = tuple(TABLES)) -> dict[str, pl.DataFrame]:
    """The contracts' tables by name, without run ids and the *_at columns, sorted by all columns that are left."""
    found = {}
    for name in tables:
        left_out = [c.name for c in TABLES[name].all_columns if c.name.endswith(("run_id", "_at"))]
        found[name] = warehouse.query(f"SELECT * FROM {name}").drop(left_out).sort(pl.all(), nulls_last=True)
    return found


def same_tables(one: Warehouse, other: Warehouse, tables: Sequence[str] = tuple(TABLES)) -> None:
    """Assert that two warehouses are the same: equal to the last bit apart from run ids and the *_at columns."""
    left, right = contents(one, tables), contents(other, tables)
    for name in tables:
        assert left[name].equals(right[name]), f"{name} differs:\n{_differing(left[name], right[name])}"


def _differing(left: pl.DataFrame, right: pl.DataFrame) -> str:
    if left.schema != right.schema:
        return f"{left.schema}\n{right.schema}"
    plain = [pl.col(pl.List(pl.String)).list.join(",")]
    one, other = left.with_columns(plain), right.with_columns(plain)
    only = [a.join(b, on=a.columns, how="anti", nulls_equal=True) for a, b in ((one, other), (other, one))]
    return f"{left.height} and {right.height} rows; only in the first: {only[0]}; only in the second: {only[1]}"
