"""quant_assets: an asset-graph data platform for quantitative research, built on Dagster."""
