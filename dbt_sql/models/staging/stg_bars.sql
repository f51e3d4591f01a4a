select symbol, ts as session, close, volume, source as provider, ingested_at
from {{ source('warehouse', 'ohlcv') }}
