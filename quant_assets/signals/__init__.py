"""Signals: features or predictions in, one score per symbol and session out; the higher the better. Pure."""

from quant_assets.signals.kinds import FactorRankInputs, factor_rank, model_score

__all__ = ["FactorRankInputs", "factor_rank", "model_score"]
