"""How a strategy is validated: the section `validation` of its file."""

import math

from pydantic import BaseModel, ConfigDict, Field, model_validator

_MOST_SPLITS = 5_000  # 12 choose 6 are 924, 20 choose 4 are 4,845


class ValidationPlan(BaseModel):
    """Lengths and counts of the tests. Days are calendar days, sessions are the market's."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    train_ratio: float = Field(default=0.7, gt=0, lt=1, description="IS/OOS: share of the period to choose on")
    min_oos_days: int = Field(default=365, ge=1, description="IS/OOS: fewest days out of sample")
    train_days: int = Field(default=720, ge=2, description="walk-forward: days to choose on")
    test_days: int = Field(default=180, ge=2, description="walk-forward: days out of sample")
    step_days: int = Field(default=90, ge=1, description="walk-forward: days between windows")
    min_windows: int = Field(default=4, ge=1, description="walk-forward: fewest windows")
    folds: int = Field(default=6, ge=3, le=20, description="CPCV: blocks of the period")
    test_folds: int = Field(default=2, ge=2, description="CPCV: blocks out of sample at a time")
    purge: int = Field(default=5, ge=0, description="CPCV: fewest sessions left out on both sides of a test block")
    embargo: float = Field(default=0.01, ge=0, lt=0.5, description="CPCV: share of the period left out after one")
    blocks: int = Field(default=16, ge=2, le=20, multiple_of=2, description="PBO: blocks of the period")
    resamples: int = Field(default=2000, ge=100, le=100_000, description="bootstrap: resampled curves")
    seed: int = Field(default=7, ge=0, le=2**31 - 1, description="bootstrap: seed")

    @model_validator(mode="after")
    def _fitting(self) -> "ValidationPlan":
        if self.test_folds >= self.folds:
            raise ValueError(f"test_folds is {self.test_folds}, folds {self.folds}: leave at least one to choose on")
        if (splits := math.comb(self.folds, self.test_folds)) > _MOST_SPLITS:
            raise ValueError(
                f"folds {self.folds} choose test_folds {self.test_folds} are {splits:,} splits, the limit is "
                f"{_MOST_SPLITS:,}; use fewer"
            )
        if self.step_days > self.test_days:
            raise ValueError(f"step_days is {self.step_days}, test_days {self.test_days}: days between would be lost")
        return self
