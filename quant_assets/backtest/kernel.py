"""The portfolio kernel: prices and target weights in, equity and trades out. Compiled code only.

`simulation` is its front: it documents the rules, checks the input and packs it. Import this module inside functions,
for Numba takes long to load. Orders are sized, sorted and filled with the arithmetic of vectorbt's `from_orders`
(size type `targetpercent`, shared cash, automatic call sequence), to the last digit, and trades are recorded as its
`exit_trades`; nearness is judged with its tolerances.

One record per symbol and portfolio (`HOLDING`) and per portfolio (`ACCOUNT`) hold the state. Sessions without a
rebalance only visit the symbols held, so the time of a portfolio grows with what it holds, not with the universe.
"""

from typing import Any

import numba
import numpy as np

TERMS = np.dtype(
    [
        ("fee", "f8"),
        ("slippage", "f8"),
        ("funding", "f8"),
        ("leverage", "f8"),
        ("threshold", "f8"),
        ("stop_loss", "f8"),
        ("trailing_stop", "f8"),
        ("hedge_drawdown", "f8"),
        ("at_open", "i8"),
        ("later", "i8"),
    ]
)
"""`simulation.Mechanics` of one portfolio; NaN for None. `later`: targets fill one session after their row."""

ACCOUNT = np.dtype(
    [
        ("cash", "f8"),
        ("peak", "f8"),
        ("before", "f8"),
        ("ruined", "i8"),
        ("num_held", "i8"),
        ("num_fills", "i8"),
        ("num_records", "i8"),
        ("num_trades", "i8"),
        ("wins", "i8"),
        ("returns", "f8"),
        ("gained", "f8"),
        ("lost", "f8"),
        ("traded", "f8"),
        ("turnover", "f8"),
        ("fees", "f8"),
        ("slippage", "f8"),
        ("funding", "f8"),
    ]
)
"""One portfolio. `before`: its equity at the close before the session. `num_records` counts trades, open ones too.
`traded`: value of the orders just filled; the sums after it run over the whole period."""

HOLDING = np.dtype(
    [
        ("shares", "f8"),
        ("mark", "f8"),
        ("entry_row", "i8"),
        ("entry_price", "f8"),
        ("entry_fees", "f8"),
        ("extreme", "f8"),
        ("stopped", "i8"),
    ]
)
"""One symbol of one portfolio: signed shares and last close; of the trade under way its first session, average price,
the fees of what is left of it, and its best price so far; in `stopped` the side of a position that a stop closed."""

ORDER = np.dtype([("column", "i8"), ("value", "f8"), ("shares", "f8"), ("price", "f8"), ("reason", "i8")])
"""One order: its value sorts it; `shares` is signed, `price` before slippage."""

FILL = np.dtype(
    [
        ("row", "i8"),
        ("moment", "i8"),
        ("column", "i8"),
        ("shares", "f8"),
        ("price", "f8"),
        ("fees", "f8"),
        ("reason", "i8"),
    ]
)
"""One filled order: session, moment (below), symbol, signed shares, price with slippage, fees, why it was placed."""

TRADE = np.dtype(
    [
        ("column", "i8"),
        ("side", "i8"),
        ("entry_row", "i8"),
        ("entry_price", "f8"),
        ("shares", "f8"),
        ("exit_row", "i8"),
        ("exit_price", "f8"),
        ("fees", "f8"),
        ("pnl", "f8"),
        ("ret", "f8"),
        ("reason", "i8"),
    ]
)
"""One trade: `side` 1 or -1, prices with slippage, `shares` positive, `fees` of both sides, `ret` on entry value."""

OPEN_STOPS, OPEN, WITHIN, CLOSE = range(4)
"""Moments of a session, in order: stops at the open, orders at the open, stops after it, orders at the close."""

REBALANCE, END_OF_DATA, STOP_LOSS, TRAILING_STOP, STILL_OPEN = range(5)
"""Reasons: positions in `simulation.REASONS`."""

_RELATIVE, _ABSOLUTE = 1e-9, 1e-12
_SMALLEST = 1e-8 - _ABSOLUTE  # shares; smaller orders are not placed

_compiled = numba.njit(cache=True, nogil=True, error_model="numpy")
_inlined = numba.njit(error_model="numpy", forceinline=True)  # passing many arrays costs as much as an order


@_inlined
def _near(a: float, b: float) -> bool:
    return abs(a - b) <= max(_RELATIVE * max(abs(a), abs(b)), _ABSOLUTE)


@_inlined
def _add(a: float, b: float) -> float:
    """a + b, and 0 where they cancel out but for rounding."""
    total = a + b
    return 0.0 if abs(total) <= max(_RELATIVE * max(abs(a), abs(b)), _ABSOLUTE) else total


@_inlined
def _leave(
    row: int, size: float, price: float, fees: float, column: int, reason: int, holding: Any, account: Any, trade: Any
) -> None:
    """Record that `size` of the trade under way leaves it at `price` (STILL_OPEN: is worth that)."""
    side = 1 if holding.shares > 0 else -1
    entry_fees = size / abs(holding.shares) * holding.entry_fees
    entry_value = size * holding.entry_price
    pnl = side * _add(size * price, -entry_value) - entry_fees - fees
    ret = pnl / entry_value
    trade.column, trade.side, trade.reason = column, side, reason
    trade.entry_row, trade.entry_price, trade.shares = holding.entry_row, holding.entry_price, size
    trade.exit_row, trade.exit_price, trade.fees = row, price, entry_fees + fees
    trade.pnl, trade.ret = pnl, ret
    account.num_records += 1
    if reason != STILL_OPEN:
        account.num_trades += 1
        account.wins += pnl > 0
        account.returns += ret
        account.gained += max(pnl, 0.0)
        account.lost -= min(pnl, 0.0)


@_inlined
def _fill(
    row: int,
    moment: int,
    order: Any,
    credit: float,
    holding: Any,
    account: Any,
    terms: Any,
    fill: Any,
    trade: Any,
) -> None:
    """Execute an order as far as cash and `credit` reach; enter it into the trade under way of its symbol."""
    cash = 0.0 if _near(account.cash, 0.0) else account.cash
    side = 1 if order.shares > 0 else -1
    size = abs(order.shares)
    price = order.price * (1 + side * terms.slippage)
    value = size * price
    fees = value * terms.fee
    limit = cash + credit
    spent = value + fees
    if side > 0 and spent > limit and not _near(spent, limit):
        value = max(limit, 0.0) / (1 + terms.fee)
        size, fees, spent = value / price, limit - value, limit
    if size < _SMALLEST:
        return
    account.cash = _add(cash, -spent) if side > 0 else cash + _add(value, -fees)
    fill.row, fill.moment, fill.column, fill.reason = row, moment, order.column, order.reason
    fill.shares, fill.price, fill.fees = side * size, price, fees
    account.num_fills += 1
    account.traded += value
    account.fees += fees
    account.slippage += size * abs(price - order.price)
    before = side * holding.shares
    after = _add(before, size)
    if before < 0:
        left = size if after < 0 else -before
        paid = fees * left / size if after > 0 else fees
        _leave(row, left, price, paid, order.column, order.reason, holding, account, trade)
        fees -= paid
        holding.entry_fees *= after / before
    holding.shares = side * after
    if after > 0:
        if before <= 0:
            holding.entry_row, holding.entry_price, holding.entry_fees = row, price, fees
            holding.extreme = order.price
        else:
            holding.entry_price = (before * holding.entry_price + size * price) / after
            holding.entry_fees += fees


@_inlined
def _execute(
    row: int,
    moment: int,
    count: int,
    credit: float,
    queue: Any,
    sequence: Any,
    book: Any,
    held: Any,
    account: Any,
    terms: Any,
    fills: Any,
    trades: Any,
) -> None:
    """Fill the first `count` orders of the queue, lowest value first (sells before buys), ties by column."""
    for number in range(count):
        place = number
        value = queue[number].value
        while place > 0 and queue[sequence[place - 1]].value > value:
            sequence[place] = sequence[place - 1]
            place -= 1
        sequence[place] = number
    account.traded = 0.0
    for number in range(count):
        order = queue[sequence[number]]
        fill = fills[min(account.num_fills, len(fills) - 1)]
        trade = trades[min(account.num_records, len(trades) - 1)]
        _fill(row, moment, order, credit, book[order.column], account, terms, fill, trade)
    account.turnover += account.traded / 2 / account.before
    number = 0
    for column in range(len(book)):
        if book[column].shares != 0:
            held[number] = column
            number += 1
    account.num_held = number


@_inlined
def _value(prices: Any, book: Any, held: Any, account: Any) -> float:
    """Cash and positions at these prices, and at the last close where there is none."""
    value = account.cash
    for number in range(account.num_held):
        column = held[number]
        price = prices[column]
        value += book[column].shares * (book[column].mark if np.isnan(price) else price)
    return value


@_inlined
def _rebalance(
    row: int,
    moment: int,
    prices: Any,
    last: Any,
    weights: Any,
    at: int,
    placed: Any,
    queue: Any,
    sequence: Any,
    book: Any,
    held: Any,
    account: Any,
    terms: Any,
    fills: Any,
    trades: Any,
) -> None:
    """Order the weights of row `at` (-1: none) at the session's `prices`, and close what has ended."""
    value = _value(prices, book, held, account)
    if value <= _ABSOLUTE:
        return
    hedging = not value >= account.peak * (1 - terms.hedge_drawdown)
    count = 0
    for column in range(len(book)):
        holding = book[column]
        price = prices[column]
        reason = REBALANCE
        target = np.nan
        if at >= 0:
            target = weights[at, column]
            if target < 0 and not hedging:
                target = 0.0
            if holding.stopped != 0 and not np.isnan(target):
                if target * holding.stopped > 0:
                    target = np.nan
                else:
                    holding.stopped = 0
            if terms.threshold > 0 and target != 0 and abs(target - holding.shares * price / value) < terms.threshold:
                target = np.nan
            if len(placed):
                placed[at, column] = target
        if last[column] == row - 1:
            target, price, reason = 0.0, holding.mark, END_OF_DATA
        if np.isfinite(target) and not np.isnan(price) and (target != 0 or holding.shares != 0):
            order = queue[count]
            order.column, order.price, order.reason = column, price, reason
            order.value = target * value - holding.shares * price
            order.shares = target * value / price - holding.shares
            count += 1
    credit = (terms.leverage - 1) * value
    _execute(row, moment, count, credit, queue, sequence, book, held, account, terms, fills, trades)


@_inlined
def _stop(
    row: int,
    moment: int,
    opens: Any,
    lows: Any,
    highs: Any,
    queue: Any,
    sequence: Any,
    book: Any,
    held: Any,
    account: Any,
    terms: Any,
    fills: Any,
    trades: Any,
) -> None:
    """Close the positions whose level is reached: a long's by its low, a short's by its high."""
    count = 0
    for number in range(account.num_held):
        column = held[number]
        if np.isnan(opens[column]):
            continue
        holding = book[column]
        side = 1 if holding.shares > 0 else -1
        holding.extreme = side * max(side * holding.extreme, side * opens[column])
        level = holding.entry_price * (1 - side * terms.stop_loss)
        trailing = holding.extreme * (1 - side * terms.trailing_stop)
        reason = STOP_LOSS
        if np.isnan(level) or side * trailing > side * level:
            level, reason = trailing, TRAILING_STOP
        if side * (lows[column] if side > 0 else highs[column]) <= side * level:
            order = queue[count]
            order.column, order.reason = column, reason
            order.price = side * min(side * level, side * opens[column])
            order.shares = -holding.shares
            order.value = order.shares * order.price
            holding.stopped = side
            count += 1
    if count:
        credit = (terms.leverage - 1) * max(0.0, _value(opens, book, held, account))
        _execute(row, moment, count, credit, queue, sequence, book, held, account, terms, fills, trades)


@_inlined
def _portfolio(
    opens: Any,
    highs: Any,
    lows: Any,
    closes: Any,
    last: Any,
    nights: Any,
    ends: Any,
    fills_on: Any,
    weights: Any,
    terms: Any,
    account: Any,
    equity: Any,
    book: Any,
    held: Any,
    queue: Any,
    sequence: Any,
    fills: Any,
    trades: Any,
    placed: Any,
) -> None:
    """One portfolio from the first session to the last, or to its ruin."""
    stops = not (np.isnan(terms.stop_loss) and np.isnan(terms.trailing_stop))
    at_open = terms.at_open != 0
    account.peak = account.before = account.cash
    account.ruined = -1
    for row in range(len(closes)):
        if terms.funding != 0:
            share = terms.funding * nights[row]
            for number in range(account.num_held):
                column = held[number]
                paid = share * book[column].shares * book[column].mark
                account.funding += paid
                account.cash -= paid
        at = fills_on[row]
        due = at >= 0 or ends[row]
        if stops:
            now = opens[row]
            _stop(row, OPEN_STOPS, now, now, now, queue, sequence, book, held, account, terms, fills, trades)
        if due and at_open:
            _rebalance(
                row, OPEN, opens[row], last, weights, at, placed,
                queue, sequence, book, held, account, terms, fills, trades,
            )  # fmt: skip
        if stops:
            _stop(
                row, WITHIN, opens[row], lows[row], highs[row],
                queue, sequence, book, held, account, terms, fills, trades,
            )  # fmt: skip
            for number in range(account.num_held):
                column = held[number]
                if not np.isnan(opens[row, column]):
                    holding = book[column]
                    side = 1 if holding.shares > 0 else -1
                    best = highs[row, column] if side > 0 else lows[row, column]
                    holding.extreme = side * max(side * holding.extreme, side * best)
        if due and not at_open:
            _rebalance(
                row, CLOSE, closes[row], last, weights, at, placed,
                queue, sequence, book, held, account, terms, fills, trades,
            )  # fmt: skip
        value = account.cash
        for number in range(account.num_held):
            holding = book[held[number]]
            price = closes[row, held[number]]
            if not np.isnan(price):
                holding.mark = price
            value += holding.shares * holding.mark
        equity[row] = account.before = value
        account.peak = max(account.peak, value)
        if value <= 0:
            account.ruined = row
            return
    for number in range(account.num_held):
        column = held[number]
        holding = book[column]
        trade = trades[min(account.num_records, len(trades) - 1)]
        _leave(len(closes) - 1, abs(holding.shares), holding.mark, 0.0, column, STILL_OPEN, holding, account, trade)


@_compiled
def portfolios(
    opens: Any,
    highs: Any,
    lows: Any,
    closes: Any,
    last: Any,
    nights: Any,
    ends: Any,
    fills_on: Any,
    weights: Any,
    terms: Any,
    accounts: Any,
    equity: Any,
    fills: Any,
    trades: Any,
    placed: Any,
) -> None:
    """Simulate every portfolio of `weights`, one after the other.

    Args:
        opens, highs, lows, closes: (sessions, symbols), NaN without a bar.
        last: (symbols,): row of the last bar.
        nights: (sessions,): calendar days since the session before, 0 for the first.
        ends: (sessions + 1,): whether a symbol had its last bar the session before.
        fills_on: (2, sessions): the row of `weights` that fills on each session or -1, where targets fill on their own
            session and where one later.
        weights: (portfolios, rows, symbols).
        terms: (portfolios,) of TERMS; all of these read-only.
        accounts: (portfolios,) of ACCOUNT with the initial cash, else zeros.
        equity: (portfolios, sessions) of NaN, filled.
        fills, trades: of FILL and TRADE, at least one long; the last is overwritten by whatever does not fit. They are
            meant for a single portfolio; ACCOUNT counts what was recorded.
        placed: (rows, symbols), or empty: the targets as ordered, of a single portfolio.
    """
    symbols = closes.shape[1]
    held = np.empty(symbols, np.int64)
    sequence = np.empty(symbols, np.int64)
    queue = np.empty(symbols, ORDER)
    for number in range(len(accounts)):
        book = np.zeros(symbols, HOLDING)
        _portfolio(
            opens, highs, lows, closes, last, nights, ends, fills_on[terms[number].later], weights[number],
            terms[number], accounts[number], equity[number], book, held, queue, sequence, fills, trades, placed,
        )  # fmt: skip
