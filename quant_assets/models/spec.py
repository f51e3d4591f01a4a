"""What a model is asked to learn, and how: the spec that is hashed into an experiment id. Nothing is fitted here."""

import hashlib
import json
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$")]


class LightGBMParams(BaseModel):
    """Hyperparameters under LightGBM's own names; what is not listed here keeps LightGBM's default.

    The defaults are small, strongly regularised trees: daily returns carry little signal and overlapping labels make
    rows look more numerous than they are.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_boost_round: int = Field(default=60, ge=1, le=10_000)
    learning_rate: float = Field(default=0.05, gt=0, le=1)
    num_leaves: int = Field(default=15, ge=2, le=4096)
    max_depth: int = Field(default=-1, ge=-1, description="-1 or 0: no limit")
    min_data_in_leaf: int = Field(default=50, ge=1)
    min_gain_to_split: float = Field(default=0.0, ge=0)
    feature_fraction: float = Field(default=0.8, gt=0, le=1)
    bagging_fraction: float = Field(default=0.8, gt=0, le=1)
    bagging_freq: int = Field(default=1, ge=0, description="0: no bagging")
    lambda_l1: float = Field(default=0.0, ge=0)
    lambda_l2: float = Field(default=1.0, ge=0)
    max_bin: int = Field(default=63, ge=2, le=255)


class ModelSpec(BaseModel):
    """One experiment: algorithm, task, label, features, retraining cadence, hyperparameters and seed.

    Example:
        >>> ModelSpec(task="classification", label="direction_60d").task_id
        'direction_60d.v1.classification'
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    algo: Literal["lightgbm"] = "lightgbm"
    task: Literal["regression", "classification"] = Field(
        description="regression predicts label_value; classification the probability that label_value > 0"
    )
    label: Name = Field(description="a label of the label set, such as fwd_ret_60d or direction_60d")
    label_version: Name = Field(default="v1", description="the label set")
    feature_version: Name = Field(default="v1", description="a feature set of the universe")
    features: tuple[Name, ...] | None = Field(default=None, description="none: every feature of the set")
    scope: Literal["symbol", "universe"] = Field(
        default="universe", description="one model per symbol, or one pooled model for all of them"
    )
    retrain: Literal["monthly", "quarterly", "yearly"] = Field(
        default="quarterly", description="trained anew on the first session of each"
    )
    train_years: float | None = Field(default=None, gt=0, description="none: an expanding window")
    min_train_rows: int = Field(default=252, ge=2, description="with fewer labelled rows known no model is trained")
    holdout: float = Field(
        default=0.2, ge=0, lt=1, description="newest share of training dates on which metrics and calibration are taken"
    )
    params: LightGBMParams = LightGBMParams()
    seed: int = Field(default=7, ge=0, le=2**31 - 1, description="of all that training draws at random")

    @field_validator("features")
    @classmethod
    def _sorted_features(cls, features: tuple[str, ...] | None) -> tuple[str, ...] | None:
        if features is None:
            return None
        if not features:
            raise ValueError("features is empty; name at least one, or leave it out for the whole set")
        if len(set(features)) < len(features):
            raise ValueError(f"features {list(features)} names one twice; name each once")
        return tuple(sorted(features))

    def canonical_json(self) -> str:
        """All fields, defaults included, as JSON with sorted keys and no spaces; the `params` of a registry row."""
        return json.dumps(self.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))

    @property
    def experiment_id(self) -> str:
        """`exp_` and the first 12 hex digits of the sha256 of `canonical_json()`: equal specs share their models."""
        return "exp_" + hashlib.sha256(self.canonical_json().encode()).hexdigest()[:12]

    @property
    def task_id(self) -> str:
        """`<label>.<label_version>.<task>`."""
        return f"{self.label}.{self.label_version}.{self.task}"
