"""vectorbt as the engine: the orders that the portfolio kernel takes, filled and booked by vectorbt.

vectorbt sees one row per moment with orders, so sessions without any cost it nothing; the sessions between are valued
here. What a path rule (stop, threshold, hedge) makes of the targets is the kernel's decision; which of the resulting
orders fill, for how much, at what fee, and what the account is then worth is vectorbt's own. Import inside functions.
"""

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from quant_assets.backtest import kernel
from quant_assets.backtest.simulation import Mechanics, Simulation, fills_on_sessions, outcomes
from quant_assets.backtest.simulation import simulate as simulate_with_kernel
from quant_assets.core.matrices import Floats, Index, Matrices

_MOMENTS = 4
_STOPS = (kernel.OPEN_STOPS, kernel.WITHIN)


class _Orders(NamedTuple):
    """(moments, symbols), one row per moment with orders; the last is the last session's close."""

    session: Index
    """(moments,)"""
    moment: Index
    """(moments,): of the session, as the kernel counts."""
    size: Floats
    """Target: a share of equity, at the moments of stops an amount; NaN for no order."""
    price: Floats
    value: Floats
    """Price that a position counts with when orders are sized."""
    close: Floats
    reason: npt.NDArray[np.int64]
    """Of an order to 0."""


def simulate(prices: Matrices, rows: Index, weights: Floats, initial_cash: float, mechanics: Mechanics) -> Simulation:
    """As `simulation.simulate`, for `mechanics` without leverage and funding."""
    import vectorbt as vbt

    placed, stops = weights, np.empty(0, kernel.FILL)
    if mechanics.follows_paths:
        decided = simulate_with_kernel(prices, rows, weights, initial_cash, mechanics)
        placed, stops = decided.placed, decided.fills[np.isin(decided.fills["moment"], _STOPS)]
    orders = _orders(prices, rows, placed, mechanics, stops)
    wanted = int(np.count_nonzero(~np.isnan(orders.size) & ~np.isnan(orders.price)))
    equity = np.full(len(prices.days), float(initial_cash))
    fills, trades = np.empty(0, kernel.FILL), np.empty(0, kernel.TRADE)
    if wanted:
        sizes = vbt.portfolio.enums.SizeType
        portfolio = vbt.Portfolio.from_orders(
            orders.close,
            size=orders.size,
            size_type=np.where(np.isin(orders.moment, _STOPS), sizes.TargetAmount, sizes.TargetPercent)[:, None],
            price=orders.price,
            val_price=orders.value,
            fees=mechanics.fee,
            slippage=mechanics.slippage,
            init_cash=float(initial_cash),
            cash_sharing=True,
            group_by=True,
            call_seq="auto",
            max_orders=wanted,
        )
        current = np.searchsorted(orders.session, np.arange(len(equity)), side="right") - 1
        shares = portfolio.assets().to_numpy()[current]
        values = np.where(shares == 0, 0.0, shares * np.nan_to_num(prices.marks))
        equity = np.where(current < 0, equity, portfolio.cash().to_numpy()[current] + values.sum(axis=1))
        fills = _fills(portfolio.orders.records_arr, orders)
        trades = _trades(portfolio.exit_trades.records_arr, orders)
    account = _account(fills, trades, equity, initial_cash, mechanics)
    return Simulation(outcomes(equity[None], account, initial_cash), fills, trades, placed)


def _orders(prices: Matrices, rows: Index, placed: Floats, mechanics: Mechanics, stops: Any) -> _Orders:
    at = kernel.OPEN if mechanics.price == "next_open" else kernel.CLOSE
    sessions = len(prices.days)
    fills_on = fills_on_sessions(rows, sessions, int(mechanics.price != "close"))
    filled = np.flatnonzero(fills_on >= 0)
    ending = np.flatnonzero((prices.last >= 0) & (prices.last + 1 < sessions))
    closing = (prices.last[ending] + 1) * _MOMENTS + at
    stopping = stops["row"] * _MOMENTS + stops["moment"]
    final = (sessions - 1) * _MOMENTS + kernel.CLOSE
    moments = np.unique(np.concatenate((filled * _MOMENTS + at, closing, stopping, [final])))
    session, moment = np.divmod(moments, _MOMENTS)
    before = prices.marks[np.maximum(session - 1, 0)]
    close = prices.marks[session]
    at_close = (moment == kernel.CLOSE)[:, None]
    price = np.where(at_close, prices.close[session], prices.open[session])
    value = np.where(np.isnan(price), np.where(at_close, close, before), price)
    size = np.full(price.shape, np.nan)
    reason = np.full(price.shape, kernel.REBALANCE)
    size[np.searchsorted(moments, filled * _MOMENTS + at)] = placed[fills_on[filled]]
    for cell, paid, why in (
        ((np.searchsorted(moments, closing), ending), prices.marks[prices.last[ending], ending], kernel.END_OF_DATA),
        (
            (np.searchsorted(moments, stopping), stops["column"]),
            stops["price"] / (1 + np.sign(stops["shares"]) * mechanics.slippage),
            stops["reason"],
        ),
    ):
        size[cell], price[cell], value[cell], reason[cell] = 0.0, paid, paid, why
    return _Orders(session, moment, size, price, value, close, reason)


def _fills(records: Any, orders: _Orders) -> Any:
    fills = np.zeros(len(records), kernel.FILL)
    row, column = records["idx"], records["col"]
    fills["row"], fills["moment"], fills["column"] = orders.session[row], orders.moment[row], column
    fills["shares"] = np.where(records["side"] == 0, 1.0, -1.0) * records["size"]
    fills["price"], fills["fees"], fills["reason"] = records["price"], records["fees"], orders.reason[row, column]
    return fills


def _trades(records: Any, orders: _Orders) -> Any:
    trades = np.zeros(len(records), kernel.TRADE)
    row, column, closed = records["exit_idx"], records["col"], records["status"] == 1
    trades["column"], trades["side"] = column, np.where(records["direction"] == 0, 1, -1)
    trades["entry_row"], trades["exit_row"] = orders.session[records["entry_idx"]], orders.session[row]
    for name in ("entry_price", "exit_price", "pnl"):
        trades[name] = records[name]
    trades["shares"], trades["ret"] = records["size"], records["return"]
    trades["fees"] = records["entry_fees"] + records["exit_fees"]
    trades["reason"] = np.where(closed, orders.reason[row, column], kernel.STILL_OPEN)
    return trades


def _account(fills: Any, trades: Any, equity: Floats, initial_cash: float, mechanics: Mechanics) -> Any:
    account = np.zeros(1, kernel.ACCOUNT)
    closed = trades[trades["reason"] != kernel.STILL_OPEN]
    account["num_trades"], account["wins"] = len(closed), np.count_nonzero(closed["pnl"] > 0)
    account["returns"] = closed["ret"].sum()
    account["gained"], account["lost"] = np.maximum(closed["pnl"], 0).sum(), -np.minimum(closed["pnl"], 0).sum()
    traded = np.abs(fills["shares"]) * fills["price"]
    before = np.concatenate(([initial_cash], equity[:-1]))
    account["turnover"] = (traded / 2 / before[fills["row"]]).sum()
    account["fees"] = fills["fees"].sum()
    slipped = mechanics.slippage / (1 + np.sign(fills["shares"]) * mechanics.slippage)
    account["slippage"] = (traded * slipped).sum()
    ruined = np.flatnonzero(equity <= 0)
    account["ruined"] = ruined[0] if len(ruined) else -1
    return account
