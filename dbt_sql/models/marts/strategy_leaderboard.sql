with judged as (
    select
        backtest_run_id,
        strategy_id,
        max(verdict) filter (method = 'verdict') as verdict,
        max(value) filter (method = 'is_oos' and measure = 'degradation') as degradation,
        max(value) filter (method = 'wfa' and measure = 'sharpe') as walk_forward_sharpe,
        max(value) filter (method = 'pbo' and measure = 'pbo') as pbo,
        max(value) filter (method = 'dsr' and measure = 'deflated_sharpe') as deflated_sharpe,
        max(value) filter (method = 'dsr' and measure = 'deflated_probability') as deflated_probability
    from {{ ref('stg_validations') }}
    group by all
),
reviewed as (
    select
        backtest_run_id,
        strategy_id,
        count(*) filter (severity = 'error') as errors,
        count(*) filter (severity = 'warning') as warnings
    from {{ ref('stg_findings') }}
    group by all
)
select
    row_number() over (
        order by
            case judged.verdict when 'pass' then 1 when 'caution' then 2 when 'fail' then 3 else 4 end,
            judged.deflated_sharpe desc nulls last,
            backtests.sharpe desc nulls last,
            backtests.strategy_id,
            backtests.version
    ) as place,
    backtests.strategy_id,
    backtests.version,
    judged.verdict,
    backtests.first_session,
    backtests.last_session,
    backtests.cagr,
    backtests.sharpe,
    backtests.max_drawdown,
    backtests.turnover_per_year,
    backtests.trades,
    judged.degradation,
    judged.walk_forward_sharpe,
    judged.pbo,
    judged.deflated_sharpe,
    judged.deflated_probability,
    coalesce(reviewed.errors, 0) as errors,
    coalesce(reviewed.warnings, 0) as warnings,
    backtests.backtest_run_id
from {{ ref('int_latest_backtests') }} as backtests
left join judged using (backtest_run_id, strategy_id)
left join reviewed using (backtest_run_id, strategy_id)
