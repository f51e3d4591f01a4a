"""Splits and dividends."""

from quant_assets.contracts.schema import Column, Table

TABLE = Table(
    name="corporate_actions",
    key=("symbol", "ex_date", "kind"),
    doc="Splits and cash dividends by ex-date.",
    columns=(
        Column("symbol", "VARCHAR", "ticker of the universe"),
        Column("ex_date", "DATE", "first session that trades without the right"),
        Column("kind", "VARCHAR", "what happened", among=("split", "dividend")),
        Column("value", "DOUBLE", "new shares per old (split); cash per share (dividend)", above=0),
        Column("source", "VARCHAR", "provider, or provider:inferred"),
        Column("ingested_at", "TIMESTAMP", "instant of ingest, UTC"),
    ),
    sort=("symbol", "ex_date"),
)
