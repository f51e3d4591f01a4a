"""Features: versioned sets of pure functions, adjusted bars in, one column per feature out.

`sets` lists the sets and holds the functions of the first; `alpha158` is one set with a kernel of its own. `feature`
says what a set is and computes it; `panel` holds what features are written with.
"""

from quant_assets.features.feature import Feature, FeatureSet
from quant_assets.features.sets import FEATURE_SETS, compute, feature_set

__all__ = ["FEATURE_SETS", "Feature", "FeatureSet", "compute", "feature_set"]
