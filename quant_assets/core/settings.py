"""All settings, read once from the environment (`QUANT_...`, `ALPHA_VANTAGE_API_KEY`) or `.env`."""

from functools import cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from quant_assets.core.errors import ConfigError

PROJECT_ROOT = Path(__file__).resolve().parents[2]


def _pair(text: object) -> object:
    return tuple(text.split(",")) if isinstance(text, str) else text


Limits = Annotated[tuple[float, float], NoDecode, BeforeValidator(_pair)]
"""Where `pass` ends and where `fail` begins; in the environment with a comma between."""


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
    """Key of provider `alpha_vantage`; never logged."""
    alpha_vantage_url: str = "https://www.alphavantage.co/query"
    """Where provider `alpha_vantage` asks: the public address, or a stand-in."""
    alpha_vantage_per_minute: int = Field(default=5, ge=1)
    """Requests in any 60 seconds."""
    alpha_vantage_per_day: int = Field(default=25, ge=1)
    """Requests in a day of New York time."""
    ccxt_url: str | None = None
    """Takes the place of scheme and host in every address of provider `ccxt`'s exchange: a proxy, or a stand-in."""
    http_timeout_seconds: float = Field(default=30.0, gt=0)
    """For one request to a provider."""
    lock_timeout_seconds: float = Field(default=600.0, gt=0)
    """How long a writer waits for its turn at the warehouse before it gives up."""
    dagster_url: str = "http://127.0.0.1:3000"
    """Dagster's web server, where the lab starts runs and asks for them."""
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
    validation_degradation: Limits = (0.30, 0.50)
    """Loss of Sharpe ratio out of sample, as a share of that in sample."""
    validation_wfa_sharpe: Limits = (1.0, 0.5)
    """Sharpe ratio of the joined walk-forward curve."""
    validation_wfa_consistency: Limits = (0.70, 0.50)
    """Share of walk-forward windows that made money."""
    validation_pbo: Limits = (0.30, 0.50)
    """Probability of backtest overfitting."""
    validation_deflated_sharpe: Limits = (1.0, 0.5)
    """Sharpe ratio less the best that as many trials would show by luck, annualised."""
    validation_deflated_probability: Limits = (0.95, 0.80)
    """Probability that the true Sharpe ratio is above that."""
    validation_max_age_days: int = Field(default=30, ge=0)
    """A run of a single date keeps a verdict on the same configuration whose last session is at most so old."""
    validation_gate: bool = False
    """Whether targets of a strategy whose last verdict is `fail` are rejected (flag V1)."""

    @property
    def warehouse_path(self) -> Path:
        return self.home / "warehouse.duckdb"

    @property
    def marts_path(self) -> Path:
        return self.home / "marts.duckdb"

    @property
    def models_dir(self) -> Path:
        return self.home / "models"

    @property
    def reports_dir(self) -> Path:
        return self.home / "reports"

    def backtest_report(self, strategy_id: str, run_id: str) -> Path:
        """Where the report of a backtest lies."""
        return self.reports_dir / strategy_id / f"{run_id}.html"

    def verdict_report(self, strategy_id: str, run_id: str) -> Path:
        """Where the report of a validation lies."""
        return self.reports_dir / "validation" / strategy_id / f"{run_id}.html"

    def journal(self, strategy_id: str, run_id: str) -> Path:
        """Where the journal of an event-driven run lies."""
        return self.home / "journals" / strategy_id / f"{run_id}.journal"


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
        name = "_".join(part for part in first["loc"] if isinstance(part, str)).upper()
        name = name if name.startswith("ALPHA_VANTAGE_API") else f"QUANT_{name}"
        raise ConfigError(
            f"{name}: {first['msg']} (got {first['input']!r}); correct it in the environment or .env"
        ) from None
