"""How the account does, row by row, and what the operating state is judged by."""

from array import array
from collections import deque
from collections.abc import Collection, Mapping
from math import nan, sqrt
from typing import Final

from quant_assets.trading.account import Account
from quant_assets.trading.component import Bus, Component, Handler
from quant_assets.trading.events import AccountSnapshot, Event, Level, Moment, Phase
from quant_assets.trading.market import Market
from quant_assets.trading.operating import Figures, OperatingMachine

WINDOW: Final = 20
"""Returns that the volatility is made of."""

CYCLE: Final = 86_400_000_000_000
"""Nanoseconds from one evaluation of the operating state to the next: a day."""


_CLOSE: Final = int(Phase.CLOSE)


class Analytics(Component):
    """Settles the account after each row, and once per cycle evaluates the operating state and publishes a snapshot.

    Args:
        year: cycles per year; annualises volatility.
    """

    name = "analytics"

    def __init__(
        self, bus: Bus, market: Market, account: Account, operating: OperatingMachine, year: int, cycle: int = CYCLE
    ) -> None:
        self._bus = bus
        self._market = market
        self._account = account
        self._operating = operating
        self._year = year
        self._cycle = cycle
        self._due = 0
        self._last = account.cash
        self._returns: deque[float] = deque(maxlen=WINDOW)
        self._judged_trades = 0
        self._losses = 0
        self.equity = array("d")
        """After each row."""

    def handlers(self) -> Mapping[type[Event], tuple[Handler, Level]]:
        return {Moment: (self._on_moment, Level.P2)}

    def _on_moment(self, moment: Moment) -> None:
        if moment.phase != _CLOSE:
            return
        equity = self._account.settle()
        self.equity.append(equity)
        if moment.ts >= self._due:
            self._due = moment.ts + self._cycle
            self._evaluate(moment, equity)

    def _evaluate(self, moment: Moment, equity: float) -> None:
        account, bus, mark = self._account, self._bus, self._market.mark
        self._returns.append(equity / self._last - 1 if self._last > 0 else 0.0)
        self._last = equity
        for trade in account.trades[self._judged_trades :]:
            self._losses = self._losses + 1 if trade.pnl < 0 else 0
        self._judged_trades = len(account.trades)
        volatility = _stdev(self._returns) * sqrt(self._year) if len(self._returns) == WINDOW else nan
        self._operating.evaluate(Figures(equity / account.peak - 1, volatility, self._losses), moment)
        bus.publish(
            AccountSnapshot(
                moment.ts,
                bus.next_seq(),
                moment.correlation,
                moment.seq,
                moment.row,
                account.cash,
                equity,
                sum(abs(account.shares[column] * mark[column]) for column in account.held),
                len(account.held),
            )
        )


def _stdev(values: Collection[float]) -> float:
    """Sample standard deviation. `statistics.stdev` computes in fractions, and takes thirty times as long."""
    mean = sum(values) / len(values)
    return sqrt(sum([(value - mean) ** 2 for value in values]) / (len(values) - 1))
