"""How many shares the orders of one moment are for: the rules of `backtest.kernel`, on the few floats of one time."""

from math import inf
from typing import Final, NamedTuple

RELATIVE: Final = 1e-9
ABSOLUTE: Final = 1e-12
SMALLEST: Final = 1e-8 - ABSOLUTE
"""Shares; smaller orders are not placed."""


def near(a: float, b: float) -> bool:
    return abs(a - b) <= max(RELATIVE * max(abs(a), abs(b)), ABSOLUTE)


def add(a: float, b: float) -> float:
    """a + b, and 0 where they cancel out but for rounding."""
    total = a + b
    if ABSOLUTE < total > RELATIVE * (abs(a) + abs(b)):
        return total
    return 0.0 if abs(total) <= ABSOLUTE or abs(total) <= RELATIVE * max(abs(a), abs(b)) else total


def reducing(wanted: float, shares: float) -> float:
    """As much of a signed order as brings a position of `shares` nearer to 0.

    Example:
        >>> reducing(-15.0, 10.0), reducing(-5.0, 10.0), reducing(5.0, 10.0)
        (-10.0, -5.0, 0.0)
    """
    if wanted * shares >= 0:
        return 0.0
    return max(wanted, -shares) if shares > 0 else min(wanted, -shares)


class Sized(NamedTuple):
    """An order. Orders sort in the sequence in which they are placed: lowest value first, so that sells pay for buys,
    and by column where values are equal."""

    value: float
    """Money that would move into the symbol, at `price`."""
    column: int
    side: int
    """1 buys, -1 sells."""
    quantity: float
    """Shares, above 0."""
    price: float
    """Before slippage."""
    kind: str
    reason: str


def sized(column: int, wanted: float, value: float, price: float, kind: str, reason: str) -> Sized | None:
    """The order for `wanted` signed shares; None where they are too few, or no number."""
    if not SMALLEST <= abs(wanted) < inf:
        return None
    return Sized(value, column, 1 if wanted > 0 else -1, abs(wanted), price, kind, reason)


def rationed(orders: list[Sized], cash: float, credit: float, fee: float, slippage: float) -> list[Sized]:
    """The orders in sequence, buys cut as far as cash and `credit` reach when fills cost `fee` and `slippage`."""
    orders.sort()
    left, traded = cash, 0.0
    for _, _, side, quantity, price, _, _ in orders:
        amount = quantity * price * (1 + side * slippage)
        left -= side * amount + amount * fee
        traded += amount
    if left > ABSOLUTE + 2 * RELATIVE * (abs(cash) + traded):
        return orders
    kept = []
    for order in orders:
        cash = 0.0 if near(cash, 0.0) else cash
        paid = order.price * (1 + order.side * slippage)
        amount = order.quantity * paid
        spent = order.side * amount + amount * fee
        if order.side < 0:
            cash -= spent
        else:
            limit = cash + credit
            if spent > limit and not near(spent, limit):
                quantity, spent = max(limit, 0.0) / (1 + fee) / paid, limit
                if quantity < SMALLEST:
                    continue
                order = order._replace(quantity=quantity)
            cash = add(cash, -spent)
        kept.append(order)
    return kept
