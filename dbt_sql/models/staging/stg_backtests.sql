select
    run_id as backtest_run_id, strategy_id, version, from_ts as first_session, to_ts as last_session,
    cagr, sharpe, sortino, calmar, max_dd as max_drawdown, vol as volatility, turnover as turnover_per_year,
    win_rate, num_trades as trades, fee_bps / 1e4 as fee, slippage_bps / 1e4 as slippage, created_at as simulated_at
from {{ source('warehouse', 'backtest_summary') }}
