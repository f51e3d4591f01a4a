"""From scores to approved weights: `weighting` proposes, `supervisor` disposes, both by `kernel`; `allocation` shares.

Pure; knows no files and no tables.
"""

from quant_assets.portfolio.supervisor import SupervisorRules, supervise
from quant_assets.portfolio.weighting import WEIGHTINGS, Proposal, Weighting, propose

__all__ = ["Proposal", "SupervisorRules", "WEIGHTINGS", "Weighting", "propose", "supervise"]
