"""All settings, read once from the environment (`QUANT_...`, `ALPHA_VANTAGE_API_KEY`) or `.env`."""

from functools import cache
from pathlib import Path
from typing import Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from quant_assets.core.errors import ConfigError

PROJECT_ROOT = Path(__file__).resolve().parents[2]


class Settings(BaseSettings):
    """Where things lie and how the outside world is reached. Every field can be set as `QUANT_<FIELD>`."""

    model_config = SettingsConfigDict(
        env_prefix="QUANT_", env_file=PROJECT_ROOT / ".env", extra="ignore", populate_by_name=True, frozen=True
    )

    home: Path = PROJECT_ROOT / ".quant"
    """Folder of everything a run makes: warehouse, models, reports, Dagster's storages."""
    strategies_dir: Path = PROJECT_ROOT / "strategies"
    """Folder of strategy YAML files, with `universes/` inside."""
    market: str = "us_tech"
    """The universe whose symbols and calendar span the market stage's partitions."""
    provider: str | None = None
    """Overrides the universe's provider for every ingest (`sample`, `alpha_vantage`, `files`, `synthetic`, `ccxt`)."""
    files_dir: Path | None = None
    """Folder that the `files` provider reads, one CSV or Parquet per symbol."""
    alpha_vantage_api_key: SecretStr | None = Field(default=None, validation_alias="ALPHA_VANTAGE_API_KEY")
    alpha_vantage_url: str = "https://www.alphavantage.co/query"
    alpha_vantage_per_minute: int = Field(default=5, ge=1)
    alpha_vantage_per_day: int = Field(default=25, ge=1)
    ccxt_url: str | None = None
    """Takes the place of scheme and host in every address of provider `ccxt`'s exchange: a proxy, or a stand-in."""
    http_timeout_seconds: float = Field(default=30.0, gt=0)
    lock_timeout_seconds: float = Field(default=600.0, gt=0)
    """How long a writer waits for its turn at the warehouse before it gives up."""
    sweep_backend: Literal["processes", "threads", "dask"] = "processes"
    """Where the cells of a sweep are computed once it outlasts its first seconds."""
    sweep_workers: int | None = Field(default=None, ge=1)
    """How many processes or threads at once; None: as many as there are cores. A Dask cluster has its own number."""
    sweep_max_cells: int = Field(default=50_000, ge=1)
    """A sweep of more cells is refused."""
    sweep_chunk_mb: int = Field(default=64, ge=1)
    """Memory for the results of the cells that a worker computes together."""
    dask_address: str | None = None
    """Scheduler of the Dask cluster, such as tcp://10.0.0.1:8786."""

    @property
    def warehouse_path(self) -> Path:
        return self.home / "warehouse.duckdb"

    @property
    def models_dir(self) -> Path:
        return self.home / "models"

    @property
    def reports_dir(self) -> Path:
        return self.home / "reports"


@cache
def settings() -> Settings:
    """The process's settings.

    Raises:
        ConfigError: a variable whose value cannot be used; names the variable.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        name = name if name.startswith("ALPHA_VANTAGE_API") else f"QUANT_{name}"
        raise ConfigError(
            f"{name}: {first['msg']} (got {first['input']!r}); correct it in the environment or .env"
        ) from None
