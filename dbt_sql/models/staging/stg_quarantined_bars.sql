select id as row_id, symbol, ts as session, rule, seen_at as first_seen_at
from {{ source('warehouse', 'quarantine') }}
where table_name = 'ohlcv'
