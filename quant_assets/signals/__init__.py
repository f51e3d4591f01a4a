"""Signals: bars, features or predictions in, one score or exposure per symbol and session out. Pure.

A *score* ranks symbols on a date, the higher the better; an *exposure* says how much of its allocation a rule wants
to hold of a symbol, whatever the others do.
"""

from quant_assets.signals.kinds import FactorRankInputs, factor_rank, model_score
from quant_assets.signals.rules import (
    RULES,
    BbRsiInputs,
    BreakoutInputs,
    DonchianInputs,
    EmaCrossInputs,
    Memo,
    Rule,
    TsmomInputs,
)

__all__ = [
    "BbRsiInputs",
    "BreakoutInputs",
    "DonchianInputs",
    "EmaCrossInputs",
    "FactorRankInputs",
    "Memo",
    "RULES",
    "Rule",
    "TsmomInputs",
    "factor_rank",
    "model_score",
]
