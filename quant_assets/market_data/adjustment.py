"""Adjusted prices, derived from raw bars and corporate actions. Pure: nothing here fetches or stores."""

from collections.abc import Collection

import numpy as np
import polars as pl

from quant_assets.core.errors import DataError

_PRICES = ("open", "high", "low", "close")
_RATIO_TOLERANCE = 1e-3
_SIMPLE_RATIOS = sorted(
    {p / q for q in range(1, 6) for p in range(1, 51) if q == 1 or p <= 10} | {1 / n for n in range(2, 101)}
)
_SMALLEST_STEP = 0.19


def adjust(bars: pl.DataFrame, actions: pl.DataFrame, gives_actions: Collection[str]) -> pl.DataFrame:
    """Prices and volumes of all symbols as if every split and dividend inside `bars` had happened before its first bar.

    Rows whose `source` is in `gives_actions` are scaled by the actions that follow them: a bar at t by the product,
    over all ex-dates after t, of 1 / value for a split and 1 - value / (as-traded close of the bar before the
    ex-date) for a dividend [1]_. An ex-date without a bar counts from the next bar. Other rows are scaled by
    adjusted_close / close (a missing adjusted close takes the next bar's ratio; a symbol that has none is left as it
    is). Volumes before a split are multiplied by its value, whatever the source; dividends leave volume alone.

    Only later rows decide a row's factors, so the adjustment of a date needs no bars before it, and actions after the
    last bar would only multiply all prices of a symbol by one constant: adjusted *returns* do not depend on them.

    Args:
        bars: columns symbol, ts, open, high, low, close, adjusted_close, volume, source; any row order.
        actions: columns symbol, ex_date, kind ('split' or 'dividend'), value; any row order.
        gives_actions: sources to adjust from `actions` (see `provider.sources_giving_actions`).

    Returns:
        Columns symbol, ts, open, high, low, close, volume; sorted by symbol and ts, unique.

    Raises:
        DataError: a symbol has two bars on one date, or an action's factor would not be positive.

    Example: a 2-for-1 split on the second of two days, closes 100 and 51 as traded
        >>> from datetime import date
        >>> day = [date(2024, 1, 2), date(2024, 1, 3)]
        >>> price = {name: [100.0, 51.0] for name in ("open", "high", "low", "close")}
        >>> raw = pl.DataFrame({"symbol": ["A", "A"], "ts": day, **price, "adjusted_close": [None, None],
        ...     "volume": [10.0, 20.0], "source": ["x", "x"]}, schema_overrides={"adjusted_close": pl.Float64})
        >>> split = pl.DataFrame({"symbol": ["A"], "ex_date": day[1:], "kind": ["split"], "value": [2.0]})
        >>> adjust(raw, split, {"x"}).select("close", "volume").rows()
        [(50.0, 20.0), (51.0, 20.0)]

    .. [1] CRSP, "Calculations: Adjusted Data", factors to adjust price and volume.
    """
    by_source = pl.any_horizontal(pl.lit(False), *(pl.col("source") == source for source in sorted(gives_actions)))
    if bars.is_empty():
        return bars.select("symbol", "ts", *_PRICES, "volume")
    bars = _sorted(bars.select("symbol", "ts", *_PRICES, "adjusted_close", "volume", by_actions=by_source))
    events = _events(bars, actions)
    splits = events.filter(pl.col("kind") == "split")
    shares = _product_of_later(len(bars), splits["at"], splits["value"], splits["from"])
    by_actions = bars["by_actions"].to_numpy()
    factor = np.ones(len(bars))
    if by_actions.any():
        factor = _product_of_later(len(bars), events["at"], events["factor"], events["from"])
    if not by_actions.all():
        factor = np.where(by_actions, factor, _ratio(bars))
    return bars.select("symbol", "ts").with_columns(
        *(pl.Series(name, bars[name].to_numpy() * factor) for name in _PRICES),
        pl.Series("volume", bars["volume"].to_numpy() * shares),
    )


def compare_with_provider(bars: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Our adjusted close from `actions` beside the provider's, for a check of either.

    Both are scaled to agree on the symbol's last bar that has a provider's value, because a provider's level also
    holds actions after the window. Rows without a provider's adjusted close are left out.

    Args:
        bars, actions: as for `adjust`.

    Returns:
        Columns symbol, ts, ours, theirs, rel_diff (ours / theirs - 1); sorted by symbol and ts. A missed split of 2
        shows as 1.0 or -0.5 on every bar before it, four-decimal rounding as 0.00005 / theirs.
    """
    ours = adjust(bars, actions, bars["source"].unique().to_list()).select("symbol", "ts", ours="close")
    theirs = bars.select("symbol", "ts", theirs="adjusted_close").drop_nulls()
    level = pl.col("theirs").last().over("symbol") / pl.col("ours").last().over("symbol")
    return (
        ours.join(theirs, on=["symbol", "ts"], how="inner")
        .sort("symbol", "ts")
        .with_columns(ours=pl.col("ours") * level)
        .with_columns(rel_diff=pl.col("ours") / pl.col("theirs") - 1)
    )


def infer_splits(bars: pl.DataFrame) -> pl.DataFrame:
    """Splits of one symbol, read off the steps of adjusted_close / close.

    A step is a split where it is a simple ratio (2, 3/2, 1/10, ...; to 0.1 %, at least a fifth up or down) and the raw
    close's own jump lies nearer to that split than to no event. So a dividend is not taken for one, however large,
    unless it is worth exactly such a share of the price.

    Args:
        bars: columns ts, close, adjusted_close of one symbol, sorted by ts.

    Returns:
        Columns ex_date, kind ('split'), value (new shares per old).

    Example: closes 100 and 51 with adjusted closes 50 and 51
        >>> from datetime import date
        >>> infer_splits(pl.DataFrame({"ts": [date(2024, 1, 2), date(2024, 1, 3)], "close": [100.0, 51.0],
        ...     "adjusted_close": [50.0, 51.0]}))["value"].to_list()
        [2.0]
    """
    known = bars.filter((pl.col("close") > 0) & (pl.col("adjusted_close") > 0))
    close, adjusted = known["close"].to_numpy(), known["adjusted_close"].to_numpy()
    ratio = adjusted / close
    step, jump = ratio[1:] / ratio[:-1], close[1:] / close[:-1]
    simple = np.asarray(_SIMPLE_RATIOS)
    right = np.clip(np.searchsorted(simple, step), 1, len(simple) - 1)
    nearest = np.where(step - simple[right - 1] < simple[right] - step, simple[right - 1], simple[right])
    # an adjusted close rounded to four decimals moves the step by up to this much
    rounding = 0.5e-4 * (1 / adjusted[1:] + 1 / adjusted[:-1])
    found = (
        (np.abs(np.log(nearest)) >= np.log1p(_SMALLEST_STEP))
        & (np.abs(step / nearest - 1) <= _RATIO_TOLERANCE + np.minimum(rounding, 0.02))
        & (np.abs(np.log(jump * nearest)) < np.abs(np.log(jump)))
    )
    return pl.DataFrame(
        {"ex_date": known["ts"][1:].filter(pl.Series(found)), "kind": "split", "value": nearest[found]},
        schema={"ex_date": pl.Date, "kind": pl.String, "value": pl.Float64},
    )


def _sorted(bars: pl.DataFrame) -> pl.DataFrame:
    border, day = _borders(bars["symbol"]), _days(bars["ts"])
    first = np.flatnonzero(border)
    in_order = bars["symbol"].gather(first).is_sorted() and (border[1:] | (np.diff(day) >= 0)).all()
    if not in_order:
        names = bars["symbol"].unique().sort()
        code = bars["symbol"].cast(pl.Enum(names)).to_physical().to_numpy()
        # radix sorts, which NumPy has for 16 bits only
        span, count = int(day.max() - day.min()), len(names)
        by_day = np.argsort((day - day.min()).astype(np.uint16 if span < 2**16 else np.int64), kind="stable")
        order = by_day[np.argsort(code[by_day].astype(np.uint16 if count < 2**16 else np.int64), kind="stable")]
        bars = bars.drop("symbol")[order].insert_column(0, names.gather(np.sort(code)).alias("symbol"))
        border, day = _borders(bars["symbol"]), _days(bars["ts"])
    twice = ~border[1:] & (np.diff(day) == 0)
    if twice.any():
        symbol, ts = bars.row(int(np.argmax(twice)))[:2]
        raise DataError(f"{symbol} has two bars on {ts}; a symbol has one bar a session, remove one")
    return bars


def _borders(symbol: pl.Series) -> np.ndarray:
    """Whether a row's symbol differs from the row before it."""
    border = np.empty(len(symbol), dtype=bool)
    border[:1] = True
    border[1:] = (symbol[1:] != symbol[:-1]).to_numpy()
    return border


def _days(ts: pl.Series) -> np.ndarray:
    return ts.to_physical().to_numpy().astype(np.int64)


def _events(bars: pl.DataFrame, actions: pl.DataFrame) -> pl.DataFrame:
    """Actions that have bars on both sides, sorted by the ex-date's bar.

    Columns symbol, ex_date, kind, value; at: the position in sorted `bars` of the first bar on or after the ex-date;
    from: that of its symbol's first bar; factor: what prices before `at` are multiplied by.
    """
    first = np.flatnonzero(_borders(bars["symbol"]))
    segments = pl.DataFrame(
        {"symbol": bars["symbol"].gather(first), "from": first, "to": np.append(first, len(bars))[1:]}
    )
    known = actions.select("symbol", "ex_date", "kind", "value").join(segments, on="symbol", how="inner")
    known = known.sort("from", "ex_date", "kind", "value")
    # one ascending key over all symbols: bars of a later segment always come after
    length = np.diff(np.append(first, len(bars)))
    key = np.repeat(np.arange(len(first)) * 2**32, length) + _days(bars["ts"])
    wanted = np.searchsorted(first, known["from"].to_numpy()) * 2**32 + _days(known["ex_date"])
    known = known.with_columns(at=pl.Series(np.searchsorted(key, wanted), dtype=pl.Int64))
    events = known.filter((pl.col("at") > pl.col("from")) & (pl.col("at") < pl.col("to")))
    previous_close = bars["close"].gather(events["at"] - 1)
    events = events.with_columns(previous_close=previous_close).with_columns(
        factor=pl.when(pl.col("kind") == "split")
        .then(1 / pl.col("value"))
        .otherwise(1 - pl.col("value") / pl.col("previous_close"))
    )
    bad = events.filter(~((pl.col("factor") > 0) & pl.col("factor").is_finite()).fill_null(False))
    if not bad.is_empty():
        one = bad.row(0, named=True)
        limit = "0" if one["kind"] == "split" else f"0 and below the previous close {one['previous_close']}"
        raise DataError(
            f"{one['symbol']}: {one['kind']} of {one['value']} on {one['ex_date']} cannot be applied; "
            f"it must lie above {limit}: correct it in corporate_actions or ingest the symbol again"
        )
    return events


def _product_of_later(rows: int, at: pl.Series, factors: pl.Series, start: pl.Series) -> np.ndarray:
    """For every row the product of the factors at later rows of its symbol, which starts at row `start`."""
    result = np.ones(rows)
    positions, starts = at.to_list(), start.to_list()
    running, previous = 1.0, -1
    for position, begin, factor in zip(reversed(positions), reversed(starts), reversed(factors.to_list()), strict=True):
        running = factor * running if begin == previous else factor
        previous = begin
        # the earlier events of the symbol overwrite what lies before them
        result[begin:position] = running
    return result


def _ratio(bars: pl.DataFrame) -> np.ndarray:
    ratio = bars["adjusted_close"] / bars["close"]
    if ratio.null_count():
        filled = pl.col("ratio").fill_null(strategy="backward").fill_null(strategy="forward").over("symbol")
        ratio = bars.select("symbol", ratio=ratio).select(filled.fill_null(1.0)).to_series()
    return ratio.to_numpy()
