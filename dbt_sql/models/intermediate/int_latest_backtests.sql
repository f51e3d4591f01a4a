select *
from {{ ref('stg_backtests') }}
qualify row_number() over (partition by strategy_id, version order by simulated_at desc, backtest_run_id) = 1
