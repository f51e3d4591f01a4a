select
    backtests.strategy_id,
    backtests.version,
    date_trunc('month', equity.session)::date as month,
    count(*) as sessions,
    avg(equity.gross_exposure) as mean_exposure,
    max(equity.gross_exposure) as max_exposure,
    avg((equity.gross_exposure > 0)::int) as invested_share,
    min(equity.drawdown) as deepest_drawdown
from {{ ref('stg_equity') }} as equity
join {{ ref('int_latest_backtests') }} as backtests using (backtest_run_id, strategy_id)
group by all
