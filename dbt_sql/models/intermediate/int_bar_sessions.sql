-- Bars with the number of their session among all those on which a symbol of the same week has a bar.
with weeks as (
    select symbol, bool_or(isodow(session) > 5) as trades_weekends from {{ ref('stg_bars') }} group by symbol
)
select
    bars.symbol,
    weeks.trades_weekends,
    bars.session,
    bars.ingested_at,
    dense_rank() over (partition by weeks.trades_weekends order by bars.session) as session_no
from {{ ref('stg_bars') }} as bars
join weeks using (symbol)
