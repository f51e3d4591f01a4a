"""Tables at rest: one DuckDB file, written a slice at a time. Knows contracts, not what the numbers mean."""

from quant_assets.warehouse.duckdb_file import Reader, Replaced, Source, Warehouse, Writer
from quant_assets.warehouse.engine import attached

__all__ = ["Reader", "Replaced", "Source", "Warehouse", "Writer", "attached"]
