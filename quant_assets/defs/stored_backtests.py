"""Stored backtests as those find them who judge or repeat them."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

import polars as pl

from quant_assets.core.errors import ConfigError
from quant_assets.core.settings import Settings
from quant_assets.defs.context import Piece
from quant_assets.strategy.ledger import as_run
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.universe import Bounds
from quant_assets.warehouse import Warehouse


@dataclass(frozen=True)
class StoredBacktest:
    """One backtest.

    Attributes:
        spec: the strategy as it was simulated.
        row: its row of `backtest_summary`.
        configuration: of its trial.
        bounds: symbol -> first and last session on which it could be held.
    """

    spec: StrategySpec
    row: Mapping[str, Any]
    configuration: str
    bounds: Mapping[str, Bounds]

    @property
    def window(self) -> tuple[date, date]:
        """First and last session."""
        return self.row["from_ts"], self.row["to_ts"]

    def table(self, warehouse: Warehouse, name: str, order: str = "strategy_id") -> pl.DataFrame:
        """The backtest's rows of a table."""
        return warehouse.query(
            f'SELECT * FROM {name} WHERE run_id = ? AND strategy_id = ? ORDER BY "{order}"',
            [self.row["run_id"], self.row["strategy_id"]],
        )


def stored_backtest(
    spec: StrategySpec, run_id: str | None, warehouse: Warehouse, piece: Piece, settings: Settings
) -> StoredBacktest | None:
    """The strategy's backtest of that run; without one this run's own, else the newest by the end of the slice.

    Raises:
        ConfigError: the run named has no backtest of the strategy, or one from before the ledger.
    """
    rows = warehouse.query(
        "SELECT s.*, t.params, t.configuration FROM backtest_summary s LEFT JOIN trials t USING (trial_id) "
        "WHERE s.strategy_id = $1 AND s.run_id = coalesce($2, s.run_id) AND ($2 IS NOT NULL OR "
        "(s.version = $3 AND s.to_ts <= $4)) ORDER BY s.run_id = $5 DESC, s.created_at DESC, s.run_id LIMIT 1",
        [spec.strategy_id, run_id, spec.version, piece.slice.last, piece.run_id],
    )
    if rows.is_empty():
        if run_id:
            raise ConfigError(f"run {run_id} has no backtest of {spec.strategy_id}; name one that `quant runs` lists")
        return None
    row = rows.row(0, named=True)
    if row["params"] is None:
        raise ConfigError(f"the backtest of run {row['run_id']} is not in the trial ledger; run it again")
    universe, folder = piece.grid.universe, settings.strategies_dir / "universes"
    own = spec.bounds(universe, folder)
    ran = as_run(spec, row["params"], (row["from_ts"], row["to_ts"]), row["initial_cash"], own)
    ran = ran.model_copy(update={"version": row["version"]})
    return StoredBacktest(ran, row, row["configuration"], ran.bounds(universe, folder))
