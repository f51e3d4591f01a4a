"""What an event-driven run decided and did, one event per row."""

from quant_assets.contracts.schema import Column, Table

KINDS = (
    "ended",
    "signal",
    "decision",
    "target",
    "order_request",
    "cancel_request",
    "execution_report",
    "order_state",
    "fill",
    "cash_movement",
    "risk_denial",
    "safety_change",
    "operating_change",
    "degradation",
    "handler_failed",
)

TABLE = Table(
    name="trading_events",
    key=("run_id", "strategy_id", "seq"),
    doc=(
        "One row per journaled event of a run. From a fill, `causation` leads back to the order, the decision and the "
        "market; the same `correlation` is all that came of one event of the market."
    ),
    columns=(
        Column("strategy_id", "VARCHAR", "strategy of the run"),
        Column("seq", "BIGINT", "number of the event in its run, from 1; market data takes numbers too", at_least=1),
        Column("ts", "TIMESTAMP", "instant of the market that it happened at, UTC"),
        Column("kind", "VARCHAR", "kind of event", among=KINDS),
        Column("level", "INTEGER", "priority, 0 the most urgent", at_least=0, at_most=3),
        Column("symbol", "VARCHAR", "instrument", nullable=True),
        Column("client_order_id", "VARCHAR", "the order that it is about", nullable=True),
        Column("correlation", "BIGINT", "seq of the event from outside that began the chain", at_least=0),
        Column("causation", "BIGINT", "seq of the event that it is the answer to; 0: none", at_least=0),
        Column("side", "VARCHAR", "direction of an order or a fill", nullable=True, among=("buy", "sell")),
        Column("quantity", "DOUBLE", "shares wanted, filled, or of a state filled so far", nullable=True),
        Column("price", "DOUBLE", "that an order was sized on, its level, or of a fill", nullable=True),
        Column(
            "value",
            "DOUBLE",
            "signal: score; target: weight; fill: fees; cash_movement: amount; risk_denial: what exceeded the limit; "
            "degradation: load",
            nullable=True,
        ),
        Column(
            "state",
            "VARCHAR",
            "of an order or the system, after the event; order_request: kind of order; target: unit; "
            "risk_denial: rule; handler_failed: component",
            nullable=True,
        ),
        Column("reason", "VARCHAR", "why, where something says so", nullable=True),
    ),
    sort=("strategy_id", "seq"),
    symbol=None,
)
