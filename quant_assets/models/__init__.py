"""What a strategy asks of LightGBM: the spec, the fitting, walk-forward prediction and the files of models at rest."""
