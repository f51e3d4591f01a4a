-- One-way turnover counts half of what is bought and sold, and costs are paid on all of it.
select
    backtests.strategy_id,
    backtests.version,
    year(equity.session) as year,
    count(*) as sessions,
    product(1 + equity.session_return) - 1 as net_return,
    sum(equity.turnover) as turnover,
    2 * sum(equity.turnover) * any_value(backtests.fee) as fees,
    2 * sum(equity.turnover) * any_value(backtests.slippage) as slippage
from {{ ref('stg_equity') }} as equity
join {{ ref('int_latest_backtests') }} as backtests using (backtest_run_id, strategy_id)
group by all
