"""Labels: versioned sets of what a model learns to predict, adjusted bars in, one row per settled label out."""

from quant_assets.labels.sets import LABEL_SETS, Label, LabelSet, compute, label_set, settled_between

__all__ = ["LABEL_SETS", "Label", "LabelSet", "compute", "label_set", "settled_between"]
