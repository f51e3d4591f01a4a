select
    run_id as backtest_run_id, strategy_id, ts as session, equity, ret as session_return, drawdown,
    gross_exposure, turnover
from {{ source('warehouse', 'backtest_equity') }}
