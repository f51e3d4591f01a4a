-- Of each measure of a backtest the newest: a run of a single test leaves what the others said before.
select
    backtest_run_id, strategy_id, version, method, measure, value, verdict, threshold as limits,
    created_at as validated_at
from {{ source('warehouse', 'validation_results') }}
qualify row_number() over (
    partition by backtest_run_id, strategy_id, method, measure order by created_at desc, run_id
) = 1
