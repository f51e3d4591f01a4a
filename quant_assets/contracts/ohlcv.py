"""Daily bars as traded."""

import polars as pl

from quant_assets.contracts.schema import Column, Rule, Table

TABLE = Table(
    name="ohlcv",
    key=("symbol", "ts"),
    doc="Daily bars as the provider gave them: prices as traded, with its adjusted close where it has one.",
    columns=(
        Column("symbol", "VARCHAR", "ticker of the universe"),
        Column("ts", "DATE", "session"),
        Column("open", "DOUBLE", "as traded", above=0),
        Column("high", "DOUBLE", "as traded", above=0),
        Column("low", "DOUBLE", "as traded", above=0),
        Column("close", "DOUBLE", "as traded", above=0),
        Column(
            "adjusted_close", "DOUBLE", "split and dividend adjusted, as the provider has it", nullable=True, above=0
        ),
        Column("volume", "DOUBLE", "shares (or units), as traded", at_least=0),
        Column("source", "VARCHAR", "provider"),
        Column("ingested_at", "TIMESTAMP", "instant of ingest, UTC"),
    ),
    row_rules=(
        Rule("low is above high", pl.col("low") <= pl.col("high")),
        Rule("open is outside low..high", pl.col("open").is_between(pl.col("low"), pl.col("high"))),
        Rule("close is outside low..high", pl.col("close").is_between(pl.col("low"), pl.col("high"))),
    ),
    sort=("ts", "symbol"),
)
