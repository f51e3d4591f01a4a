"""The portfolio kernel: prices and target weights in, equity and trades out. Compiled code only.

`simulation` is its front: it documents the rules, checks the input and packs it. Import this module inside functions,
for Numba takes long to load. Orders are sized, sorted and filled by the rules of vectorbt's `from_orders` (size type
`targetpercent`, shared cash, automatic call sequence), and trades are recorded as its `exit_trades`; nearness is judged
with its tolerances. Sums are taken by column: they differ from its own in the last digits.

The orders of a moment are sized together, eight symbols at a time. Only where cash does not cover all of them are they
sorted and cut one by one (`_ration`); then all enter the trades under way together. Sessions without a rebalance only
visit the symbols held, so the time of a portfolio grows with what it holds, not with the universe.
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
        ("turnover", "f8"),
        ("fees", "f8"),
        ("slippage", "f8"),
        ("funding", "f8"),
    ]
)
"""One portfolio. `before`: its equity at the close before the session. `num_records` counts trades, open ones too;
the sums after it run over the whole period."""

LANES = 8
FIELDS = 31
"""The book has this many fields of as many symbols side by side."""

(
    SHARES, MARK, ENTRY_ROW, ENTRY_PRICE, ENTRY_FEES, EXTREME, STOPPED,
    CLOSED, WINS, RETURNS, GAINED, LOST, TURNOVER, FEES, SLIPPAGE,
    TARGET, PRICE, REASON, VALUE, SIDE, SIZE, PAID, AMOUNT, COSTS, SPENT,
    LEFT, LEFT_ROW, LEFT_PRICE, LEFT_FEES, PNL, RET,
) = range(0, FIELDS * LANES, LANES)  # fmt: skip
_TILE = FIELDS * LANES
"""The book of a portfolio: one flat array of tiles, each of eight symbols; in a tile every field has eight neighbours,
so that the processor does the arithmetic of eight symbols at once. `_at` finds a symbol.

- Position: signed shares and last close; of the trade under way its first session, average price, the fees of what is
  left of it, and its best price so far; in STOPPED the side of a position that a stop closed.
- Sums over the period, those of ACCOUNT.
- The order under way: weight it is for (NaN: none), price before slippage, reason; then the value that sorts it, side,
  shares, price with slippage, their product, fees, and what cash pays (negative: receives).
- What leaves the trade under way by it: shares, their first session, average price, fees of both sides, profit and
  return."""

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
def _at(column: int) -> int:
    """Where a symbol's fields start in the book."""
    return column // LANES * _TILE + column % LANES


@_inlined
def _size(tile: Any, value: float, terms: Any) -> None:
    """Size the orders of one tile, as if cash covered all."""
    for lane in range(LANES):
        target, price, shares = tile[TARGET + lane], tile[PRICE + lane], tile[SHARES + lane]
        wanted = target * value / price - shares
        side = 1.0 if wanted > 0 else -1.0
        size = abs(wanted)
        placed = size >= _SMALLEST and size < np.inf
        paid = price * (1 + side * terms.slippage)
        amount = size * paid
        costs = amount * terms.fee
        tile[VALUE + lane] = target * value - shares * price
        tile[SIDE + lane] = side
        tile[SIZE + lane] = size if placed else 0.0
        tile[PAID + lane] = paid if placed else 0.0
        tile[AMOUNT + lane] = amount if placed else 0.0
        tile[COSTS + lane] = costs if placed else 0.0
        tile[SPENT + lane] = side * amount + costs if placed else 0.0


@_inlined
def _sort(book: Any, symbols: int, sequence: Any) -> int:
    """The symbols with an order, lowest value first (sells before buys), ties by column; returns how many."""
    count = 0
    for column in range(symbols):
        at = _at(column)
        if book[at + SIZE] > 0:
            place = count
            while place > 0 and book[_at(sequence[place - 1]) + VALUE] > book[at + VALUE]:
                sequence[place] = sequence[place - 1]
                place -= 1
            sequence[place] = column
            count += 1
    return count


@_inlined
def _covers(cash: float, left: float, traded: float) -> bool:
    """Whether cash that pays all orders (then it is `left`) pays them in any sequence, without coming near zero.

    Then `_ration` has nothing to cut and nothing to round off: it need not be asked, nor the orders be sorted.
    """
    return left > _ABSOLUTE + 2 * _RELATIVE * (abs(cash) + traded)


@_inlined
def _ration(book: Any, sequence: Any, count: int, cash: float, credit: float, fee: float) -> float:
    """Cut the orders, in sequence, as far as cash and `credit` reach.

    Returns the cash left, NaN where no order was cut and no cash rounded to 0.
    """
    short = False
    for number in range(count):
        at = _at(sequence[number])
        cash = 0.0 if _near(cash, 0.0) else cash
        spent = book[at + SPENT]
        if book[at + SIDE] > 0:
            limit = cash + credit
            if spent > limit and not _near(spent, limit):
                short = True
                amount, spent = max(limit, 0.0) / (1 + fee), limit
                size, costs = amount / book[at + PAID], limit - amount
                if size < _SMALLEST:
                    size = amount = costs = spent = 0.0
                book[at + SIZE], book[at + AMOUNT], book[at + COSTS], book[at + SPENT] = size, amount, costs, spent
            short = short or _near(cash, spent)
            cash = _add(cash, -spent)
        else:
            cash -= spent
    return cash if short else np.nan


@_inlined
def _enter(row: int, tile: Any, rate: float) -> None:
    """Enter the sized orders of one tile into the trades under way.

    No branch depends on an order's side: a processor would guess every other one wrong.
    """
    for lane in range(LANES):
        side, size, price, fees = tile[SIDE + lane], tile[SIZE + lane], tile[PAID + lane], tile[COSTS + lane]
        shares, entry_price, entry_fees = tile[SHARES + lane], tile[ENTRY_PRICE + lane], tile[ENTRY_FEES + lane]
        entry_row, extreme, quoted = tile[ENTRY_ROW + lane], tile[EXTREME + lane], tile[PRICE + lane]
        placed = size > 0
        before = side * shares
        after = _add(before, size)
        leaves, stays = placed and before < 0, after > 0
        left = size if after < 0 else -before
        exit_fees = fees * left / size if stays else fees
        exit_fees = exit_fees if leaves else 0.0
        left_fees = left / -before * entry_fees
        left_fees = left_fees if leaves else 0.0
        left_value = left * entry_price
        pnl = side * _add(left_value, -left * price) - left_fees - exit_fees
        pnl = pnl if leaves else 0.0
        ret = pnl / left_value
        ret = ret if leaves else 0.0
        tile[LEFT + lane] = left if leaves else 0.0
        tile[LEFT_ROW + lane] = entry_row
        tile[LEFT_PRICE + lane] = entry_price
        tile[LEFT_FEES + lane] = left_fees + exit_fees
        tile[PNL + lane] = pnl
        tile[RET + lane] = ret
        tile[CLOSED + lane] += 1.0 if leaves else 0.0
        tile[WINS + lane] += 1.0 if pnl > 0 else 0.0
        tile[RETURNS + lane] += ret
        tile[GAINED + lane] += pnl if pnl > 0 else 0.0
        tile[LOST + lane] -= pnl if pnl < 0 else 0.0
        tile[TURNOVER + lane] += tile[AMOUNT + lane] * rate
        tile[FEES + lane] += fees
        slipped = size * abs(price - quoted)
        tile[SLIPPAGE + lane] += slipped if placed else 0.0

        opens, adds = placed and stays and not before > 0, placed and before > 0
        mean = (before * entry_price + size * price) / after
        mean = mean if adds else entry_price
        tile[ENTRY_PRICE + lane] = price if opens else mean
        kept = entry_fees + fees if adds else entry_fees - left_fees
        tile[ENTRY_FEES + lane] = fees - exit_fees if opens else kept
        tile[ENTRY_ROW + lane] = row if opens else entry_row
        tile[EXTREME + lane] = quoted if opens else extreme
        tile[SHARES + lane] = side * after if placed else shares


@_inlined
def _record_trade(row: int, column: int, reason: int, book: Any, account: Any, trades: Any) -> None:
    at = _at(column)
    trade = trades[min(account.num_records, len(trades) - 1)]
    trade.column, trade.side, trade.reason = column, -book[at + SIDE], reason
    trade.entry_row, trade.entry_price, trade.shares = book[at + LEFT_ROW], book[at + LEFT_PRICE], book[at + LEFT]
    trade.exit_row, trade.exit_price, trade.fees = row, book[at + PAID], book[at + LEFT_FEES]
    trade.pnl, trade.ret = book[at + PNL], book[at + RET]
    account.num_records += 1


@_inlined
def _execute(
    row: int,
    moment: int,
    value: float,
    credit: float,
    book: Any,
    sequence: Any,
    held: Any,
    account: Any,
    terms: Any,
    fills: Any,
    trades: Any,
) -> None:
    """Fill the orders under way, sized on `value`: lowest value first where cash and `credit` do not reach for all."""
    symbols = len(held)
    for start in range(0, len(book), _TILE):
        _size(book[start : start + _TILE], value, terms)
    cash, traded = account.cash, 0.0
    for column in range(symbols):
        at = _at(column)
        cash -= book[at + SPENT]
        traded += book[at + AMOUNT]
    count = 0
    covered = _covers(account.cash, cash, traded)
    if len(fills) or not covered:
        count = _sort(book, symbols, sequence)
    if not covered:
        left = _ration(book, sequence, count, account.cash, credit, terms.fee)
        cash = cash if np.isnan(left) else left
    account.cash = cash
    for start in range(0, len(book), _TILE):
        _enter(row, book[start : start + _TILE], 0.5 / account.before)
    for number in range(count if len(fills) else 0):
        column = sequence[number]
        at = _at(column)
        if book[at + SIZE] > 0:
            fill = fills[min(account.num_fills, len(fills) - 1)]
            fill.row, fill.moment, fill.column, fill.reason = row, moment, column, book[at + REASON]
            fill.shares = book[at + SIDE] * book[at + SIZE]
            fill.price, fill.fees = book[at + PAID], book[at + COSTS]
            account.num_fills += 1
        if book[at + LEFT] > 0:
            _record_trade(row, column, book[at + REASON], book, account, trades)
    number = 0
    for column in range(symbols):
        held[number] = column
        number += book[_at(column) + SHARES] != 0
    account.num_held = number


@_inlined
def _value(prices: Any, book: Any, held: Any, account: Any) -> float:
    """Cash and positions at these prices, and at the last close where there is none."""
    value = account.cash
    for number in range(account.num_held):
        at = _at(held[number])
        price = prices[held[number]]
        value += book[at + SHARES] * (book[at + MARK] if np.isnan(price) else price)
    return value


@_inlined
def _rebalance(
    row: int,
    moment: int,
    prices: Any,
    last: Any,
    weights: Any,
    at_row: int,
    placed: Any,
    book: Any,
    sequence: Any,
    held: Any,
    account: Any,
    terms: Any,
    fills: Any,
    trades: Any,
) -> None:
    """Order the weights of row `at_row` (-1: none) at the session's `prices`, and close what has ended."""
    value = _value(prices, book, held, account)
    if value <= _ABSOLUTE:
        return
    hedging = not value >= account.peak * (1 - terms.hedge_drawdown)
    for column in range(len(held)):
        at = _at(column)
        price = prices[column]
        reason = REBALANCE
        target = np.nan
        if at_row >= 0:
            target = weights[at_row, column]
            if target < 0 and not hedging:
                target = 0.0
            if book[at + STOPPED] != 0 and not np.isnan(target):
                if target * book[at + STOPPED] > 0:
                    target = np.nan
                else:
                    book[at + STOPPED] = 0.0
            near = terms.threshold > 0 and abs(target - book[at + SHARES] * price / value) < terms.threshold
            if near and target != 0:
                target = np.nan
            if len(placed):
                placed[at_row, column] = target
        if last[column] == row - 1:
            target, price, reason = 0.0, book[at + MARK], END_OF_DATA
        book[at + TARGET], book[at + PRICE], book[at + REASON] = target, price, reason
    credit = (terms.leverage - 1) * value
    _execute(row, moment, value, credit, book, sequence, held, account, terms, fills, trades)


@_inlined
def _stop(
    row: int,
    moment: int,
    opens: Any,
    lows: Any,
    highs: Any,
    book: Any,
    sequence: Any,
    held: Any,
    account: Any,
    terms: Any,
    fills: Any,
    trades: Any,
) -> None:
    """Close the positions whose level is reached: a long's by its low, a short's by its high."""
    for column in range(len(held)):
        book[_at(column) + TARGET] = np.nan
    reached = False
    for number in range(account.num_held):
        column = held[number]
        if np.isnan(opens[column]):
            continue
        at = _at(column)
        side = 1 if book[at + SHARES] > 0 else -1
        book[at + EXTREME] = side * max(side * book[at + EXTREME], side * opens[column])
        level = book[at + ENTRY_PRICE] * (1 - side * terms.stop_loss)
        trailing = book[at + EXTREME] * (1 - side * terms.trailing_stop)
        reason = STOP_LOSS
        if np.isnan(level) or side * trailing > side * level:
            level, reason = trailing, TRAILING_STOP
        if side * (lows[column] if side > 0 else highs[column]) <= side * level:
            book[at + TARGET], book[at + REASON] = 0.0, reason
            book[at + PRICE] = side * min(side * level, side * opens[column])
            book[at + STOPPED] = side
            reached = True
    if reached:
        value = max(0.0, _value(opens, book, held, account))
        credit = (terms.leverage - 1) * value
        _execute(row, moment, value, credit, book, sequence, held, account, terms, fills, trades)


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
    sequence: Any,
    held: Any,
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
                at = _at(held[number])
                paid = share * book[at + SHARES] * book[at + MARK]
                account.funding += paid
                account.cash -= paid
        at_row = fills_on[row]
        due = at_row >= 0 or ends[row]
        if stops:
            now = opens[row]
            _stop(row, OPEN_STOPS, now, now, now, book, sequence, held, account, terms, fills, trades)
        if due and at_open:
            _rebalance(
                row, OPEN, opens[row], last, weights, at_row, placed,
                book, sequence, held, account, terms, fills, trades,
            )  # fmt: skip
        if stops:
            _stop(
                row, WITHIN, opens[row], lows[row], highs[row],
                book, sequence, held, account, terms, fills, trades,
            )  # fmt: skip
            for number in range(account.num_held):
                column = held[number]
                if not np.isnan(opens[row, column]):
                    at = _at(column)
                    side = 1 if book[at + SHARES] > 0 else -1
                    best = highs[row, column] if side > 0 else lows[row, column]
                    book[at + EXTREME] = side * max(side * book[at + EXTREME], side * best)
        if due and not at_open:
            _rebalance(
                row, CLOSE, closes[row], last, weights, at_row, placed,
                book, sequence, held, account, terms, fills, trades,
            )  # fmt: skip
        value = account.cash
        for number in range(account.num_held):
            at = _at(held[number])
            price = closes[row, held[number]]
            if not np.isnan(price):
                book[at + MARK] = price
            value += book[at + SHARES] * book[at + MARK]
        equity[row] = account.before = value
        account.peak = max(account.peak, value)
        if value <= 0:
            account.ruined = row
            equity[row + 1 :] = np.nan
            return


@_inlined
def _add_up(book: Any, symbols: int, account: Any) -> None:
    """The sums of the symbols, for the portfolio."""
    for column in range(symbols):
        at = _at(column)
        account.num_trades += int(book[at + CLOSED])
        account.wins += int(book[at + WINS])
        account.returns += book[at + RETURNS]
        account.gained += book[at + GAINED]
        account.lost += book[at + LOST]
        account.turnover += book[at + TURNOVER]
        account.fees += book[at + FEES]
        account.slippage += book[at + SLIPPAGE]


@_inlined
def _record_open(row: int, book: Any, held: Any, account: Any, trades: Any) -> None:
    """Record the trades under way, at the last close."""
    for number in range(account.num_held):
        at = _at(held[number])
        shares, mark = book[at + SHARES], book[at + MARK]
        book[at + SIDE], book[at + SIZE] = -1.0 if shares > 0 else 1.0, abs(shares)
        book[at + PAID], book[at + PRICE], book[at + COSTS] = mark, mark, 0.0
    for start in range(0, len(book), _TILE):
        _enter(row, book[start : start + _TILE], 0.0)
    for number in range(account.num_held):
        _record_trade(row, held[number], STILL_OPEN, book, account, trades)


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
        equity: (portfolios, sessions), written; NaN after a ruin.
        fills, trades: of FILL and TRADE, of a single portfolio; the last is overwritten by whatever does not fit, and
            ACCOUNT counts all. Empty: nothing is recorded.
        placed: (rows, symbols), or empty: the targets as ordered, of a single portfolio.
    """
    symbols = closes.shape[1]
    held = np.empty(symbols, np.int64)
    sequence = np.empty(symbols, np.int64)
    book = np.empty((symbols + LANES - 1) // LANES * _TILE)
    for number in range(len(accounts)):
        account = accounts[number]
        book[:] = 0.0
        for start in range(TARGET, len(book), _TILE):
            book[start : start + LANES] = np.nan
        _portfolio(
            opens, highs, lows, closes, last, nights, ends, fills_on[terms[number].later], weights[number],
            terms[number], account, equity[number], book, sequence, held, fills, trades, placed,
        )  # fmt: skip
        _add_up(book, symbols, account)
        if len(trades) and account.ruined < 0:
            _record_open(len(closes) - 1, book, held, account, trades)
