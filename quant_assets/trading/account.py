"""Cash, positions and trades, of one account: what fills and cash movements have made of the initial cash.

Positions are bought and sold at their average entry price, by the arithmetic of `backtest.kernel`. All money is in one
currency, all prices are per share.
"""

from bisect import insort
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec

from quant_assets.trading.component import Bus, Component, Handler
from quant_assets.trading.events import CashMovement, Event, Fill, Moment, Phase
from quant_assets.trading.market import Market
from quant_assets.trading.sizing import add

REASONS: Final = ("rebalance", "end of data", "stop loss", "trailing stop", "open")
"""Why an order was placed, or a trade ended: those of `backtest.simulation`. The last is of trades still open."""

FUNDING: Final = "funding"
"""Reason of the cash movements that `Account` publishes."""

_NIGHT: Final = int(Phase.NIGHT)
_DAY: Final = 86_400 * 10**9


class Trade(msgspec.Struct, frozen=True, gc=False):
    """Shares that one fill took out of a position, or that are held at the end."""

    column: int
    side: int
    """1 long, -1 short."""
    entry_row: int
    """Of the fill that opened the position, as `entry_ts`: the row of the newest moment when it came."""
    entry_ts: int
    entry_price: float
    """Average, with slippage."""
    shares: float
    """Above 0."""
    exit_row: int
    exit_ts: int
    exit_price: float
    """With slippage; of an open trade the last close."""
    fees: float
    """Of both sides."""
    pnl: float
    """After fees."""
    ret: float
    """`pnl` by the value at entry."""
    reason: str
    """One of `REASONS`."""


class Account(Component):
    """Follows `Fill` and `CashMovement`; a repeated fill is ignored. Lists are by the market's columns.

    Args:
        market: gives columns, rows and last closes.
        initial_cash: money.
        funding_per_day: share of a position's signed value at the last close that it pays per day since the row
            before; longs pay and shorts receive where it is positive.
        bus: where funding is published. None: funding only comes from outside, as when a journal is replayed.
    """

    name = "account"

    def __init__(
        self, market: Market, initial_cash: float, funding_per_day: float = 0.0, bus: Bus | None = None
    ) -> None:
        count = len(market.symbols)
        self.cash = initial_cash
        self.shares = [0.0] * count
        """Signed."""
        self.entry_price = [0.0] * count
        """Average, with slippage."""
        self.entry_fees = [0.0] * count
        """Of what is left of the position."""
        self.entry_row = [0] * count
        self.entry_ts = [0] * count
        self.extreme = [0.0] * count
        """Best price since entry, before slippage; from the entry on it is advanced by who judges the stops."""
        self.held: list[int] = []
        """Columns with a position, ascending."""
        self.peak = self.before = initial_cash
        """Highest equity after a row so far, and equity after the row before (the newest that left any)."""
        self.ruined = -1
        """The first row after which no equity was left."""
        self.trades: list[Trade] = []
        """Closed ones, in the order of their exits."""
        self.fills = 0
        self.wins = 0
        self.returns = 0.0
        """Sum of the trades' returns."""
        self.gained = 0.0
        self.lost = 0.0
        """Sums of what trades won and lost; both positive."""
        self.turnover = 0.0
        """Half of the traded value, by `before`."""
        self.fees = 0.0
        self.slippage = 0.0
        self.funding = 0.0
        """Money paid over the whole period."""
        self._market = market
        self._column = market.column
        self._mark = market.mark
        self._funding_per_day = funding_per_day
        self._bus = bus
        self._night: int | None = None
        self._booked: set[str] = set()

    def handlers(self) -> Mapping[type[Event], Handler]:
        wanted: dict[type[Event], Handler] = {Fill: self._on_fill, CashMovement: self._on_cash_movement}
        if self._bus is not None and self._funding_per_day:
            wanted[Moment] = self._on_moment
        return wanted

    def equity(self, prices: Sequence[float]) -> float:
        """Cash and positions at `prices`, by column."""
        shares, value = self.shares, self.cash
        for column in self.held:
            value += shares[column] * prices[column]
        return value

    def gross(self) -> float:
        """Sum of the positions' absolute values at the last closes."""
        shares, mark = self.shares, self._market.mark
        return sum(abs(shares[column]) * mark[column] for column in self.held)

    def settle(self) -> float:
        """End a row: the equity at the last closes, which is from now on that of the row before."""
        shares, mark, value = self.shares, self._mark, self.cash
        for column in self.held:
            value += shares[column] * mark[column]
        if value > 0:
            self.before = value
            if value > self.peak:
                self.peak = value
        elif self.ruined < 0:
            self.ruined = self._market.row
        return value

    def open_trades(self, row: int) -> list[Trade]:
        """The positions held as trades that end at the last close of `row`, by column."""
        mark, stamp = self._market.mark, max(self._market.stamp, default=-1)
        return [
            self._trade(
                column, abs(self.shares[column]), row, stamp, mark[column], self.entry_fees[column], REASONS[-1]
            )
            for column in self.held
        ]

    def _trade(self, column: int, shares: float, row: int, ts: int, price: float, fees: float, reason: str) -> Trade:
        side = 1 if self.shares[column] > 0 else -1
        entry_price = self.entry_price[column]
        value = shares * entry_price
        pnl = -side * add(value, -shares * price) - fees
        return Trade(
            column,
            side,
            self.entry_row[column],
            self.entry_ts[column],
            entry_price,
            shares,
            row,
            ts,
            price,
            fees,
            pnl,
            pnl / value,
            reason,
        )

    def _on_fill(self, event: Fill) -> None:
        if event.fill_id in self._booked:
            return
        self._booked.add(event.fill_id)
        column = self._column[event.symbol]
        side, size, price, fees = event.side, event.quantity, event.price, event.fees
        amount = size * price
        spent = side * amount + fees
        self.cash = add(self.cash, -spent) if side > 0 else self.cash - spent
        self.fills += 1
        self.turnover += amount * (0.5 / self.before)
        self.fees += fees
        self.slippage += size * abs(price - event.quoted)
        before = side * self.shares[column]
        after = add(before, size)
        if before > 0:
            self.entry_price[column] = (before * self.entry_price[column] + amount) / after
            self.entry_fees[column] += fees
        else:
            if before < 0:
                fees -= self._leave(column, event, before, after)
            if after > 0:
                self.entry_price[column] = price
                self.entry_fees[column] = fees
                self.entry_row[column] = self._market.row
                self.entry_ts[column] = event.ts
                self.extreme[column] = event.quoted
                if before == 0:
                    insort(self.held, column)
            elif after == 0 and before < 0:
                self.held.remove(column)
        self.shares[column] = side * after or 0.0

    def _leave(self, column: int, event: Fill, before: float, after: float) -> float:
        """Close as much of the position as the fill takes out of it; returns the part of its fees that this paid."""
        left = event.quantity if after < 0 else -before
        exit_fees = event.fees * left / event.quantity if after > 0 else event.fees
        left_fees = left / -before * self.entry_fees[column]
        fees = left_fees + exit_fees
        trade = self._trade(column, left, self._market.row, event.ts, event.price, fees, event.reason)
        self.entry_fees[column] -= left_fees
        self.trades.append(trade)
        self.returns += trade.ret
        if trade.pnl > 0:
            self.wins += 1
            self.gained += trade.pnl
        else:
            self.lost -= trade.pnl
        return exit_fees

    def _on_cash_movement(self, event: CashMovement) -> None:
        self.cash += event.amount
        if event.reason == FUNDING:
            self.funding -= event.amount

    def _on_moment(self, event: Moment) -> None:
        if event.phase != _NIGHT:
            return
        before, self._night = self._night, event.ts
        if before is None or self._bus is None or self.ruined >= 0:
            return
        share = self._funding_per_day * ((event.ts - before) / _DAY)
        mark, symbols = self._market.mark, self._market.symbols
        for column in self.held:
            amount = -share * self.shares[column] * mark[column]
            self._bus.publish(
                CashMovement(
                    event.ts, self._bus.next_seq(), event.correlation, event.seq, symbols[column], amount, FUNDING
                )
            )
