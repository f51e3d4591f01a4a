with current_version as (
    select strategy_id, version
    from {{ ref('stg_targets') }}
    group by strategy_id, version
    qualify row_number() over (partition by strategy_id order by max(decided_at) desc, version desc) = 1
),
rebalances as (
    select
        *,
        dense_rank() over (partition by strategy_id order by rebalanced_on desc) as nth
    from {{ ref('stg_targets') }}
    join current_version using (strategy_id, version)
)
select
    newest.strategy_id,
    newest.version,
    newest.rebalanced_on,
    newest.symbol,
    newest.approved,
    newest.weight,
    coalesce(previous.weight, 0) as previous_weight,
    newest.weight - coalesce(previous.weight, 0) as change,
    newest.score,
    newest.rules,
    newest.reason
from rebalances as newest
left join rebalances as previous
    on previous.strategy_id = newest.strategy_id and previous.symbol = newest.symbol and previous.nth = 2
where newest.nth = 1
