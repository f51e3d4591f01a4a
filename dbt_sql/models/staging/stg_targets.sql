select
    strategy_id, version, "asof" as rebalanced_on, symbol, weight, score, approved,
    array_to_string(risk_flags, ', ') as rules, reason, generated_at as decided_at
from {{ source('warehouse', 'targets') }}
