"""What dbt-duckdb loads before it opens the warehouse: dbt takes its turn as every other process does.

Named in `dbt_sql/profiles.yml`, so that it holds for dbt started by hand as well.
"""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

from dbt.adapters.duckdb.plugins import BasePlugin

from quant_assets.core.settings import settings
from quant_assets.warehouse.duckdb_file import Warehouse


class Plugin(BasePlugin):
    """Holds the warehouse's lock from before dbt's first connection until its process ends."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Create tables that are missing, wait for the turn, and keep it.

        Raises:
            WarehouseError: the warehouse cannot be read or made.
            WarehouseLockedError: another process held it for `QUANT_LOCK_TIMEOUT_SECONDS`.
        """
        path = Path(plugin_config["warehouse"])
        warehouse = Warehouse(path, lock_timeout=settings().lock_timeout_seconds)
        warehouse.prepare()
        self._held = ExitStack()
        self._held.enter_context(warehouse.turn())
