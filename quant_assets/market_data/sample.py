"""The embedded provider: real daily bars of five US stocks, 2000-03-01 to 2013-03-01, without key or network.

They come with the `bokeh_sampledata` package (its stock data is in the public domain): prices as traded and a split-
and dividend-adjusted close, no list of actions. Splits are inferred, so that volumes can be adjusted.
"""

from collections.abc import Sequence
from datetime import date
from functools import cached_property
from typing import ClassVar

import polars as pl

from quant_assets.core.errors import PermanentProviderError
from quant_assets.core.settings import Settings
from quant_assets.market_data.adjustment import infer_splits
from quant_assets.market_data.provider import (
    Fetched,
    FetchRequest,
    Options,
    SymbolMatch,
    actions_frame,
    bars_frame,
    matching,
)


class SampleProvider:
    """AAPL, FB, GOOG, IBM and MSFT; FB lists on 2012-05-18, GOOG on 2004-08-19."""

    name: ClassVar[str] = "sample"
    gives_actions: ClassVar[bool] = False
    options: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def create(cls, settings: Settings, sessions: Sequence[date], options: Options) -> "SampleProvider":
        return cls()

    def fetch(self, request: FetchRequest, *, whole: bool = False) -> Fetched:
        """All bars of `request.symbol`, whatever its dates.

        Raises:
            PermanentProviderError: not one of the five symbols.
        """
        if request.symbol not in self._bars:
            raise PermanentProviderError(
                f"sample: {request.symbol}: no such symbol in the sample data ({', '.join(self._bars)}); "
                "take one of these, or another provider"
            )
        bars = self._bars[request.symbol]
        return Fetched(bars, actions_frame(infer_splits(bars)), requests=0, complete=True)

    def search(self, words: str) -> list[SymbolMatch]:
        return matching(list(self._bars), words)

    @cached_property
    def _bars(self) -> dict[str, pl.DataFrame]:
        from bokeh_sampledata import package_path

        table = pl.read_csv(package_path("stocks.csv.gz"), try_parse_dates=True)
        table = table.rename({"Ticker": "symbol", "Date": "ts", "Adj Close": "adjusted_close"})
        table = table.rename(str.lower).sort("symbol", "ts")
        return {str(key[0]): bars_frame(rows) for key, rows in table.group_by("symbol", maintain_order=True)}
