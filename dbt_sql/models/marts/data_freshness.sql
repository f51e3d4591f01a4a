with spans as (
    select
        symbol,
        min(session) as first_session,
        max(session) as last_session,
        count(*) as bars,
        max(session_no) - min(session_no) + 1 - count(*) as missing_sessions,
        max(session_no) as last_no,
        any_value(trades_weekends) as trades_weekends,
        max(ingested_at) as ingested_at
    from {{ ref('int_bar_sessions') }}
    group by symbol
),
quarantined as (
    select symbol, count(*) as rows_kept_out from {{ ref('stg_quarantined_bars') }} group by symbol
)
select
    spans.symbol,
    spans.first_session,
    spans.last_session,
    spans.bars,
    spans.missing_sessions,
    max(spans.last_no) over (partition by spans.trades_weekends) - spans.last_no as sessions_behind,
    coalesce(quarantined.rows_kept_out, 0) as quarantined_rows,
    spans.ingested_at
from spans
left join quarantined using (symbol)
