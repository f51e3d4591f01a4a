"""The options that commands share."""

from datetime import date, datetime
from typing import Annotated, Any

import typer

ISO: Any = {"formats": ["%Y-%m-%d"], "metavar": "YYYY-MM-DD"}
From = Annotated[datetime | None, typer.Option("--from", **ISO, help="first date; default: the universe's start")]
To = Annotated[datetime | None, typer.Option("--to", **ISO, help="last date; default: the newest session")]
FileFrom = Annotated[datetime | None, typer.Option("--from", **ISO, help="first date; default: the strategy file's")]
FileTo = Annotated[datetime | None, typer.Option("--to", **ISO, help="last date; default: the strategy file's")]
AsOf = Annotated[datetime | None, typer.Option("--asof", **ISO, help="date; default: the newest")]
Symbols = Annotated[str | None, typer.Option("--symbols", help="comma-separated; default: all of the universe")]
Force = Annotated[bool, typer.Option("--force", help="also what is there and up to date")]
MarketOption = Annotated[str | None, typer.Option("--market", help="its universe's name; default: the primary market")]
StrategyOption = Annotated[str, typer.Option("--strategy", "-s", help="strategy id")]
COST: Any = {"min": 0, "max": 10_000}
StrategiesOption = Annotated[
    list[str] | None, typer.Option("--strategy", "-s", help="strategy id; default: all of the market")
]


def as_date(moment: datetime | None) -> date | None:
    """The day of a date option."""
    return moment.date() if moment else None
