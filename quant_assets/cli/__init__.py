"""`quant`, the command line: parses words, launches real Dagster runs, prints what changed. No logic of its own."""
