"""Resources configure; the plain objects they return do the work."""

import logging
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import dagster as dg
import duckdb
from dagster_duckdb import DuckDBResource

from quant_assets.core.errors import WarehouseError
from quant_assets.core.settings import Settings
from quant_assets.models.store import ModelStore
from quant_assets.warehouse import Warehouse, attached

_log = logging.getLogger(__name__)


class DuckDBFile(DuckDBResource):
    """A `DuckDBResource` that tries once, for the warehouse waits its own bounded time, and starts no new engine."""

    @contextmanager
    def get_connection(self) -> Iterator[duckdb.DuckDBPyConnection]:
        read_only = self.connection_config.get("access_mode") == "READ_ONLY"
        with attached(Path(self.database), read_only=read_only) as connection:
            yield connection


class WarehouseResource(dg.ConfigurableResource[Warehouse]):
    """The warehouse, opened through `DuckDBResource`: `writer` and `reader` name the same file."""

    writer: dg.ResourceDependency[DuckDBResource]
    reader: dg.ResourceDependency[DuckDBResource]
    lock_timeout_seconds: float = 600.0

    @contextmanager
    def yield_for_execution(self, context: dg.InitResourceContext) -> Iterator[Warehouse]:
        """The warehouse for the length of a run, which leaves a copy behind for readers that stay."""
        warehouse = self.create_resource(context)
        try:
            yield warehouse
        finally:
            try:
                warehouse.publish()
            except WarehouseError as error:  # what the run made is stored all the same
                (context.log or _log).warning("%s", error)

    def create_resource(self, context: dg.InitResourceContext) -> Warehouse:
        def connect(read_only: bool) -> AbstractContextManager[duckdb.DuckDBPyConnection]:
            return (self.reader if read_only else self.writer).get_connection()

        return Warehouse(Path(self.writer.database), connect=connect, lock_timeout=self.lock_timeout_seconds)


class ModelStoreResource(dg.ConfigurableResource[ModelStore]):
    """The folder of model files."""

    folder: str

    def create_resource(self, context: dg.InitResourceContext) -> ModelStore:
        return ModelStore(Path(self.folder))


def resources(settings: Settings) -> dict[str, dg.ConfigurableResource]:
    """Everything the assets are given."""
    database = str(settings.warehouse_path)
    writer = DuckDBFile(database=database)
    reader = DuckDBFile(database=database, connection_config={"access_mode": "READ_ONLY"})
    return {
        "warehouse": WarehouseResource(
            writer=writer, reader=reader, lock_timeout_seconds=settings.lock_timeout_seconds
        ),
        "model_store": ModelStoreResource(folder=str(settings.models_dir)),
    }
