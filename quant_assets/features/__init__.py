"""Features: versioned sets of pure functions, adjusted bars in, one column per feature out.

`sets` holds the functions and lists them; `panel` holds what they are written with.
"""

from quant_assets.features.sets import FEATURE_SETS, Feature, FeatureSet, compute, feature_set

__all__ = ["FEATURE_SETS", "Feature", "FeatureSet", "compute", "feature_set"]
