"""What one symbol's ingest asks for and what it replaces. Pure but for the provider: nothing is stored here."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date, timedelta

import polars as pl

from quant_assets.core.errors import PermanentProviderError
from quant_assets.market_data.provider import (
    ACTIONS_SCHEMA,
    BARS_SCHEMA,
    Fetched,
    FetchRequest,
    Provider,
    actions_frame,
)

OVERLAP = 10
"""Stored bars that an ingest reads again, to notice a restated history."""

UNIVERSE = "universe"
"""Source of the splits that come from the universe file."""

_RELATIVE = 1e-6
_ROUNDING = 0.5e-4 + 1e-9
"""What rounding to four decimals can move a price by."""

_COMPARED = {"close": _ROUNDING, "adjusted_close": _ROUNDING, "volume": 0.0}
_CHANGES = {"ts": pl.Date, "column": pl.String, "was": pl.Float64, "is_now": pl.Float64}


@dataclass(frozen=True)
class Stored:
    """What the warehouse has of one symbol.

    `first` and `last` are its oldest and newest bar's dates, `tail` its last OVERLAP raw bars (columns ts, close,
    adjusted_close, volume at least), `actions` all its corporate actions (ex_date, kind, value), `source` the provider
    of its newest bar. `hole_from` is the oldest session of the slice being ingested that was never ingested although
    older and newer ones were.

    `splits` are those of its splits that came from the universe file.
    """

    first: date | None = None
    last: date | None = None
    tail: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=BARS_SCHEMA))
    actions: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=ACTIONS_SCHEMA))
    source: str | None = None
    hole_from: date | None = None
    splits: Mapping[date, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Ingested:
    """What takes the place of one symbol's stored rows.

    `bars` (symbol, ts, open, high, low, close, adjusted_close, volume, source) replace all stored bars from
    `replace_from` to `replace_to`, `actions` (symbol, ex_date, kind, value, source) all stored actions from
    `actions_from` to `actions_to`; where these are None nothing is replaced. `restated` says that rows which were
    stored before, or how they are adjusted, have changed, and `restated_from` to `restated_to` on which dates: what was
    computed from those dates (features up to a lookback later) is out of date. `requests` counts requests over the
    network.
    """

    bars: pl.DataFrame
    actions: pl.DataFrame
    replace_from: date | None
    replace_to: date | None
    actions_from: date | None
    actions_to: date | None
    restated: bool = False
    restated_from: date | None = None
    restated_to: date | None = None
    requests: int = 0
    note: str = ""


def ingest_symbol(
    provider: Provider,
    symbol: str,
    first: date,
    last: date,
    stored: Stored,
    *,
    listed_from: date | None = None,
    listed_to: date | None = None,
    splits: Mapping[date, float] | None = None,
) -> Ingested:
    """Fetch what `symbol` lacks of the sessions `first` to `last` and say what it replaces.

    * Only the missing sessions are asked for, and the last OVERLAP stored ones. A slice of the past that lies within
      what is stored is read again as a whole.
    * Where an overlapping stored close, adjusted close or volume differs from the fetched one (by more than 1e-6 and
      the rounding to four decimals), or the stored bars come from another provider, the whole history is fetched and
      replaces all that is stored. A difference on the newest stored bar alone, the older ones agreeing, is a bar
      that has settled since: it is replaced, and nothing else is fetched.
    * An action that was not known, or known with another value, and lies within what is stored, restates from its
      ex-date on; raw bars are facts and stay.
    * Bars after `last` (a day that is not over) are not taken, nor older than `first` unless they are stored already:
      what a run stores depends on its slice, not on how much the provider happens to send.
    * Stored bars outside the dates of the answer stay, unless another provider's take their place.

    * Splits of the universe file that are new, gone or changed restate like an action that was not known.

    Args:
        provider: where to ask.
        symbol: its symbol there and here.
        first, last: sessions of the slice, both inclusive.
        stored: what the warehouse has.
        listed_from, listed_to: the universe's dates of the symbol; outside them it has no rows.
        splits: ex-date -> new shares per old, of splits that the provider does not know or has wrong.

    Raises:
        ValueError: `first` after `last`.
        TransientProviderError: a failure that a rerun can mend.
        PermanentProviderError: one that it cannot, an answer without any bar, an action that cannot be applied, or a
            restated history that is shorter than what is stored.
    """
    if first > last:
        raise ValueError(f"slice runs backwards: {first} is after {last}; swap the dates")
    low, high = max(first, listed_from or first), min(last, listed_to or last)
    if low > high:
        return Ingested(
            _bars(provider, symbol),
            _actions(provider, symbol),
            first,
            last,
            first,
            last,
            note="not listed in this slice",
        )
    splits = splits or {}
    foreign = stored.source is not None and stored.source != provider.name
    edited = _edited(stored, splits)
    rescaled = bool(edited) and not provider.gives_actions
    request = _request(symbol, low, high, stored)
    fetched = _fetch(provider, request, splits, whole=foreign)
    requests = fetched.requests
    changes = _changes(stored.tail, fetched.bars)
    compared = stored.tail["ts"].is_in(fetched.bars["ts"].implode()).sum()
    settled = len(changes) == 1 and compared > 1 and changes["ts"][0] == stored.last
    if foreign or rescaled or (len(changes) and not settled):
        if not fetched.complete and not foreign:
            fetched = _fetch(provider, request, splits, whole=True)
            requests += fetched.requests
        if foreign:
            why = f"stored bars come from {stored.source}"
        else:
            why = f"its splits in the universe file changed on {min(edited)}" if rescaled else _told(changes)
        restated = _restate(
            provider, symbol, low, high, stored, fetched, requests, why, foreign, listed_from, listed_to
        )
        return replace(restated, actions=_sourced(restated.actions, splits))

    replace_from = max(low, request.first)
    settled = settled and stored.last is not None and stored.last <= high
    if settled and stored.last is not None:
        replace_from = min(replace_from, stored.last)
    start, end = _within_answer(replace_from, high, stored, fetched)
    taken = _between(fetched.bars, "ts", start, end)
    if stored.last is not None and stored.last < low:
        taken = taken.filter((pl.col("ts") <= stored.last) | (pl.col("ts") >= low))
    actions_from, actions_to = _actions_range(start, end, stored, fetched)
    actions = _between(fetched.actions, "ex_date", actions_from, actions_to)
    if edited:
        actions, actions_from, actions_to = _edit(stored, actions, actions_from, actions_to, splits, edited)
    _check_actions(provider, symbol, fetched.bars, actions)
    restated_from, restated_to, told = None, None, []
    if settled:
        restated_from = restated_to = stored.last
        told.append(f"settled since: {_told(changes)}")
    changed = _changed_actions(stored, actions, actions_from, actions_to)
    if changed is not None:
        restated_from, restated_to = min(changed, restated_from or changed), stored.last
        told.append(f"corporate actions restated from {changed} on")
    new = len(taken) if stored.last is None else len(taken.filter(~pl.col("ts").is_between(stored.first, stored.last)))
    return Ingested(
        _bars(provider, symbol, taken),
        _sourced(_actions(provider, symbol, actions), splits),
        start,
        end,
        actions_from,
        actions_to,
        restated=restated_from is not None,
        restated_from=restated_from,
        restated_to=restated_to,
        requests=requests,
        note="; ".join([f"{new} new bars, {len(taken) - new} read again", *told]),
    )


def _restate(
    provider: Provider,
    symbol: str,
    low: date,
    high: date,
    stored: Stored,
    fetched: Fetched,
    requests: int,
    why: str,
    foreign: bool,
    listed_from: date | None,
    listed_to: date | None,
) -> Ingested:
    assert stored.first is not None
    assert stored.last is not None
    start: date | None = min(low, stored.first)
    end: date | None = max(high, stored.last)
    oldest, newest = fetched.bars["ts"][0], fetched.bars["ts"][-1]
    shorter = stored.first < oldest or stored.last > newest
    if shorter and not foreign:
        if not provider.gives_actions:
            raise PermanentProviderError(
                f"{provider.name}: {symbol}: its history is restated ({why}) but reaches from {oldest} to {newest} "
                f"only, while {stored.first} to {stored.last} is stored. Adjusted closes of two scales cannot be "
                "joined: restore the missing bars there, or set the symbol's from and to in the universe file"
            )
        start, end = _within_answer(min(low, stored.first), max(high, stored.last), stored, fetched)
    taken = _between(fetched.bars, "ts", start, end)
    if listed_from is not None:
        taken = taken.filter(pl.col("ts") >= listed_from)
    if listed_to is not None:
        taken = taken.filter(pl.col("ts") <= listed_to)
    actions = _between(fetched.actions, "ex_date", start, end)
    _check_actions(provider, symbol, fetched.bars, actions)
    lost = f"; {provider.name} has {oldest} to {newest} only" if shorter else ""
    return Ingested(
        _bars(provider, symbol, taken),
        _actions(provider, symbol, actions),
        start,
        end,
        start,
        end,
        restated=True,
        restated_from=stored.first if start is None else max(stored.first, start),
        restated_to=stored.last if end is None else min(stored.last, end),
        requests=requests,
        note=f"history restated: {why}{lost}",
    )


def _request(symbol: str, low: date, high: date, stored: Stored) -> FetchRequest:
    if stored.first is None or stored.last is None or stored.tail.is_empty():
        return FetchRequest(symbol, low, high)
    overlap = stored.tail["ts"].min()
    assert isinstance(overlap, date)
    last = max(high, stored.last)
    if low < stored.first or high < stored.last:
        return FetchRequest(symbol, min(low, overlap), last)
    if stored.hole_from is not None and low <= stored.hole_from <= high:
        return FetchRequest(symbol, min(stored.hole_from, overlap), last)
    return FetchRequest(symbol, overlap, last, stored.last)


def _fetch(provider: Provider, request: FetchRequest, splits: Mapping[date, float], *, whole: bool) -> Fetched:
    fetched = provider.fetch(request, whole=whole)
    if fetched.bars.is_empty():
        raise PermanentProviderError(
            f"{provider.name}: {request.symbol}: an answer without any bar; "
            "check the symbol, or take it out of the universe"
        )
    return _corrected(fetched, splits, provider.gives_actions) if splits else fetched


def _corrected(fetched: Fetched, splits: Mapping[date, float], gives_actions: bool) -> Fetched:
    """The answer with `splits` among its actions, in place of the provider's own on the same ex-dates.

    Where prices are adjusted by the provider's adjusted close, that is divided by the ratio before the ex-date.
    """
    given = _given(splits)
    others = fetched.actions.join(given, on=["ex_date", "kind"], how="anti")
    corrected = replace(fetched, actions=actions_frame(pl.concat([others, given.select(others.columns)])))
    if gives_actions:
        return corrected
    adjusted = pl.coalesce("adjusted_close", "close")
    for ex_date, ratio in splits.items():
        adjusted = pl.when(pl.col("ts") < ex_date).then(adjusted / ratio).otherwise(adjusted)
    return replace(corrected, bars=fetched.bars.with_columns(adjusted_close=adjusted))


def _edited(stored: Stored, splits: Mapping[date, float]) -> set[date]:
    """Ex-dates within the stored bars of the splits of the universe file that are new, gone or have another ratio."""
    if stored.first is None or stored.last is None:
        return set()
    dates = {day for day in {*splits, *stored.splits} if stored.first < day <= stored.last}
    return {day for day in dates if splits.get(day) != stored.splits.get(day)}


def _edit(
    stored: Stored,
    actions: pl.DataFrame,
    start: date | None,
    end: date | None,
    splits: Mapping[date, float],
    edited: set[date],
) -> tuple[pl.DataFrame, date, date]:
    """`actions`, which cover `start` to `end`, widened by what is stored to the `edited` dates and edited there."""
    low, high = min(edited | ({start} if start else set())), max(edited | ({end} if end else set()))
    covered = pl.col("ex_date").is_between(start, end) if start and end else pl.lit(False)
    stale = (pl.col("kind") == "split") & pl.col("ex_date").is_in(list(edited))
    kept = _between(stored.actions.select(*ACTIONS_SCHEMA), "ex_date", low, high).filter(~covered & ~stale)
    given = _given({day: splits[day] for day in edited if day in splits}).filter(~covered)
    return actions_frame(pl.concat([kept, given, actions.select(*ACTIONS_SCHEMA)])), low, high


def _given(splits: Mapping[date, float]) -> pl.DataFrame:
    rows = [(day, "split", ratio) for day, ratio in splits.items()]
    return pl.DataFrame(rows, schema=ACTIONS_SCHEMA, orient="row")


def _sourced(actions: pl.DataFrame, splits: Mapping[date, float]) -> pl.DataFrame:
    """`actions` with the splits of the universe file marked as such."""
    if not splits:
        return actions
    given = (pl.col("kind") == "split") & pl.col("ex_date").is_in(list(splits))
    return actions.with_columns(source=pl.when(given).then(pl.lit(UNIVERSE)).otherwise("source"))


def _changes(tail: pl.DataFrame, bars: pl.DataFrame) -> pl.DataFrame:
    """Stored bars that the answer has otherwise: ts, column, was, is_now; a bar withdrawn has column 'bar'.

    A value that the answer lacks, or that no bar can have, is for the quality gate and says nothing about history.
    """
    names = list(_COMPARED)
    inside = tail.filter(pl.col("ts").is_between(bars["ts"].min(), bars["ts"].max()))
    again = bars.filter(pl.col("ts").is_between(inside["ts"].min(), inside["ts"].max()))
    if inside.select("ts", *names).equals(again.select("ts", *names)):
        return pl.DataFrame(schema=_CHANGES)
    both = (
        inside.select("ts", *names)
        .join(
            bars.unique("ts", keep="last").select("ts", *(pl.col(name).alias(f"{name}_now") for name in names)),
            on="ts",
            how="left",
        )
        .sort("ts")
    )
    found = []
    for name, absolute in _COMPARED.items():
        was, now = pl.col(name), pl.col(f"{name}_now")
        usable = now.is_finite() & (now > 0 if name != "volume" else now >= 0)
        differs = was.is_null() | ((was - now).abs() > absolute + _RELATIVE * now.abs())
        found.append(
            both.filter(usable & differs).select("ts", column=pl.lit(name), was=was, is_now=now.cast(pl.Float64))
        )
    withdrawn = inside.join(bars, on="ts", how="anti")
    found.append(withdrawn.select("ts", column=pl.lit("bar"), was="close", is_now=pl.lit(None, pl.Float64)))
    return pl.concat(found).unique("ts", keep="first", maintain_order=True).sort("ts")


def _told(changes: pl.DataFrame) -> str:
    one = changes.row(-1, named=True)
    if one["column"] == "bar":
        return f"the bar of {one['ts']} was withdrawn"
    was = "missing" if one["was"] is None else f"{one['was']:.10g}"
    return f"{one['column']} of {one['ts']} was {was}, is {one['is_now']:.10g}"


def _within_answer(start: date, end: date, stored: Stored, fetched: Fetched) -> tuple[date | None, date | None]:
    """`start` to `end` without the stored dates that the answer does not reach; (None, None) if nothing is left."""
    oldest, newest = fetched.bars["ts"][0], fetched.bars["ts"][-1]
    if stored.first is not None and stored.first < oldest:
        start = max(start, oldest)
    if stored.last is not None and stored.last > newest:
        end = min(end, newest)
    return (start, end) if start <= end else (None, None)


def _actions_range(
    start: date | None, end: date | None, stored: Stored, fetched: Fetched
) -> tuple[date | None, date | None]:
    """The bars' range, joined to the stored bars without a gap, and back to the first of them if all actions are known.

    A split between two stored stretches scales the older one, whether or not the bars between are stored.
    """
    if start is None or end is None or stored.first is None or stored.last is None:
        return start, end
    if stored.last < start:
        start = stored.last + timedelta(1)
    if end < stored.first:
        end = stored.first - timedelta(1)
    return (min(start, stored.first), end) if fetched.actions_complete else (start, end)


def _changed_actions(stored: Stored, actions: pl.DataFrame, start: date | None, end: date | None) -> date | None:
    """The oldest ex-date, within the stored bars, of an action that is new, gone or has another value."""
    if stored.first is None or stored.last is None or start is None or end is None:
        return None
    if stored.actions.is_empty() and actions.is_empty():
        return None
    # an action on the first stored bar scales nothing
    inside = pl.col("ex_date").is_between(max(start, stored.first), min(end, stored.last), closed="both") & (
        pl.col("ex_date") > stored.first
    )
    key = ["ex_date", "kind"]
    both = (
        stored.actions.select(*key, was="value")
        .join(actions.select(*key, is_now="value"), on=key, how="full", coalesce=True)
        .filter(inside)
    )
    same = (pl.col("was") - pl.col("is_now")).abs() <= _ROUNDING
    oldest = both.filter(~same.fill_null(False))["ex_date"].min()
    return oldest if isinstance(oldest, date) else None


def _check_actions(provider: Provider, symbol: str, bars: pl.DataFrame, actions: pl.DataFrame) -> None:
    if actions.is_empty():
        return
    before = bars.select("ts", previous_close="close").filter(pl.col("previous_close") > 0).sort("ts")
    known = actions.sort("ex_date").join_asof(
        before, left_on="ex_date", right_on="ts", strategy="backward", allow_exact_matches=False
    )
    too_much = (pl.col("kind") == "dividend") & (pl.col("value") >= pl.col("previous_close")).fill_null(False)
    bad = known.filter(~(pl.col("value").is_finite() & (pl.col("value") > 0)) | too_much)
    if len(bad):
        one = bad.row(0, named=True)
        limit = f" and below the previous close {one['previous_close']}" if one["kind"] == "dividend" else ""
        raise PermanentProviderError(
            f"{provider.name}: {symbol}: {one['kind']} of {one['value']} on {one['ex_date']} cannot be applied; it "
            f"must lie above 0{limit}: take another provider for this symbol until it is corrected"
        )


def _between(rows: pl.DataFrame, column: str, start: date | None, end: date | None) -> pl.DataFrame:
    if start is None or end is None:
        return rows.clear()
    return rows.filter(pl.col(column).is_between(start, end))


def _bars(provider: Provider, symbol: str, rows: pl.DataFrame | None = None) -> pl.DataFrame:
    rows = pl.DataFrame(schema=BARS_SCHEMA) if rows is None else rows
    return rows.select(pl.lit(symbol).alias("symbol"), *BARS_SCHEMA, pl.lit(provider.name).alias("source"))


def _actions(provider: Provider, symbol: str, rows: pl.DataFrame | None = None) -> pl.DataFrame:
    rows = pl.DataFrame(schema=ACTIONS_SCHEMA) if rows is None else rows
    return rows.select(pl.lit(symbol).alias("symbol"), *ACTIONS_SCHEMA, pl.lit(provider.name).alias("source"))
