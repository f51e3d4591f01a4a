"""The last known prices of every symbol, as the system has seen them so far."""

from collections.abc import Mapping, Sequence
from math import nan

from quant_assets.trading.component import Component, Handler
from quant_assets.trading.events import Bar, Event, Moment, Opening


class Market(Component):
    """Prices by column; written by its own handlers only, before any other component sees the event.

    A value belongs to the time under way where `stamp[column]` is that time; `mark` keeps the last close.

    Args:
        symbols: the columns, in this order.
    """

    name = "market"

    def __init__(self, symbols: Sequence[str]) -> None:
        self.symbols = tuple(symbols)
        self.column = {symbol: column for column, symbol in enumerate(self.symbols)}
        count = len(self.symbols)
        self.bars: list[Bar | None] = [None] * count
        """The newest that have ended."""
        self.price = [nan] * count
        """The newest price: that of the opening while a bar is under way, else the close."""
        self.mark = [nan] * count
        """The last close."""
        self.stamp = [-1] * count
        """ts of the newest price."""
        self.row = -1
        """Of the newest moment."""

    def handlers(self) -> Mapping[type[Event], Handler]:
        return {Opening: self._on_opening, Bar: self._on_bar, Moment: self._on_moment}

    def _on_opening(self, event: Opening) -> None:
        column = self.column[event.symbol]
        self.price[column] = event.price
        self.stamp[column] = event.ts

    def _on_bar(self, event: Bar) -> None:
        column = self.column[event.symbol]
        self.bars[column] = event
        self.price[column] = self.mark[column] = event.close
        self.stamp[column] = event.ts

    def _on_moment(self, event: Moment) -> None:
        self.row = event.row
