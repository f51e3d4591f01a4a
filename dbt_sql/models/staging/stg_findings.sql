-- Of each backtest the newest review.
select backtest_run_id, strategy_id, finding_no, finding, severity, evidence, remedy, created_at as reviewed_at
from {{ source('warehouse', 'backtest_findings') }}
qualify dense_rank() over (partition by backtest_run_id, strategy_id order by created_at desc, run_id) = 1
