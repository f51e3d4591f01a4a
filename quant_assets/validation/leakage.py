"""Leakage detectors: does a feature, label, signal or strategy use what it cannot know?

Both take any function from bars to a frame, run it on changed bars, and report every value that should not have moved.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np
import polars as pl

from quant_assets.core.errors import ConfigError, DataError

FrameFunction = Callable[[pl.DataFrame], pl.DataFrame]

_RANDOM_DATES = 4
_AFTER = " after the change"
_PRICES = ("open", "high", "low", "close")


@dataclass(frozen=True, slots=True)
class Finding:
    """One column that moved under one change of the bars.

    `symbol` and `ts` are of the first row that moved; `expected` is its value with all bars, `got` the value after the
    change. `column` is "(row)" for a row that exists only with all bars or only after the change, and names the series
    where keys beyond symbol and ts tell several apart: "label_value[fwd_ret_5d]".
    """

    detector: str
    column: str
    symbol: str
    ts: date
    expected: object
    got: object
    message: str


def look_ahead(
    fn: FrameFunction,
    bars: pl.DataFrame,
    *,
    cuts: Sequence[date] | None = None,
    known_on: str = "ts",
    keys: Sequence[str] = ("symbol", "ts"),
    rtol: float = 0.0,
    seed: int = 0,
) -> list[Finding]:
    """Rows known by a date must stay the same, value for value, when the bars after it are deleted or replaced.

    Args:
        fn: bars in, out a frame with `keys`, `known_on` and any other columns, which are the values compared. It gets
            bars sorted by (symbol, ts).
        bars: adjusted bars of at least two sessions: symbol, ts and numbers.
        cuts: dates after which the future is deleted, then filled with random numbers. Without: the sessions at a
            quarter, half and three quarters of the bars, the last but one, and four random ones.
        known_on: output column with the session on which a row became known.
        keys: output columns that identify a row: symbol, ts, and `label_name` and the like in a long frame.
        rtol: relative difference up to which two numbers count as the same; by default none.
        seed: of the random cuts and the random future.

    Returns:
        One finding per cut, change, column and series that moved; none if nothing moved.

    Raises:
        ConfigError: fewer than two sessions, or a cut outside the bars.
        DataError: `fn` returns no row, lacks `keys` or `known_on`, repeats a key, or returns other columns for
            other bars.

    Example:
        >>> tomorrow = lambda bars: bars.select("symbol", "ts", x=pl.col("close").shift(-1).over("symbol"))
        >>> look_ahead(tomorrow, bars)[0].column
        'x'
    """
    random = np.random.default_rng(seed)
    bars = bars.sort("symbol", "ts")
    sessions = bars["ts"].unique().sort().to_list()
    cuts = _checked(cuts, sessions) if cuts is not None else _spread(sessions[:-1], random)
    if not cuts:
        raise ConfigError(f"bars have {len(sessions)} session(s); look_ahead needs 2 or more, pass more bars")
    probe = _Probe("look_ahead", fn, known_on, tuple(keys), rtol)
    complete = probe.run(bars)
    findings = []
    for cut in cuts:
        future = pl.col("ts") > cut
        changes = {
            "are deleted": bars.remove(future),
            "are replaced": pl.concat([bars.remove(future), _randomised(bars.filter(future), random)]),
        }
        for what, changed in changes.items():
            findings += probe.compare(complete, changed, pl.col(known_on) <= cut, f"when the bars after {cut} {what}")
    return findings


def warm_up(
    fn: FrameFunction,
    bars: pl.DataFrame,
    lookback: int,
    *,
    starts: Sequence[date] | None = None,
    known_on: str = "ts",
    keys: Sequence[str] = ("symbol", "ts"),
    rtol: float = 0.0,
    seed: int = 0,
) -> list[Finding]:
    """Rows known from a date on must stay the same when each symbol keeps only its last `lookback` bars before it.

    Args:
        lookback: how many of the symbol's own sessions before `known_on` the function is said to need.
        starts: dates before which history is cut. Without, of the sessions with more than `lookback` before them: those
            at a quarter, half and three quarters, the last, and four random ones.

    The other arguments, the result and the errors are those of `look_ahead`.

    Raises:
        ConfigError: a negative lookback, or bars so short that nothing lies before it.

    Example:
        >>> total = lambda bars: bars.select("symbol", "ts", x=pl.col("volume").cum_sum().over("symbol"))
        >>> warm_up(total, bars, lookback=20)[0].column
        'x'
    """
    if lookback < 0:
        raise ConfigError(f"lookback is {lookback}; it counts sessions: state 0 or more")
    random = np.random.default_rng(seed)
    bars = bars.sort("symbol", "ts")
    sessions = bars["ts"].unique().sort().to_list()
    starts = _checked(starts, sessions) if starts is not None else _spread(sessions[lookback + 1 :], random)
    probe = _Probe("warm_up", fn, known_on, tuple(keys), rtol)
    complete = probe.run(bars)
    findings = []
    shortened = False
    for start in starts:
        old = pl.col("ts") < start
        history = bars.filter(old).filter(pl.int_range(pl.len(), 0, -1).over("symbol") <= lookback)
        kept = pl.concat([history, bars.remove(old)])
        shortened |= kept.height < bars.height
        findings += probe.compare(
            complete, kept, pl.col(known_on) >= start, f"when each symbol keeps {lookback} bars before {start}"
        )
    if not shortened:
        raise ConfigError(
            f"no symbol has a bar before its lookback of {lookback} sessions ({len(sessions)} sessions in all), "
            "so that nothing was tested; pass longer bars"
        )
    return findings


@dataclass(frozen=True, slots=True)
class _Probe:
    """Runs one function on changed bars and says what moved."""

    detector: str
    fn: FrameFunction
    known_on: str
    keys: tuple[str, ...]
    rtol: float

    def run(self, bars: pl.DataFrame) -> pl.DataFrame:
        frame = self.fn(bars.sort("symbol", "ts"))
        missing = sorted({*self.keys, self.known_on, "symbol", "ts"} - set(frame.columns))
        if missing:
            raise DataError(f"the function's result lacks the columns {missing}, it has {frame.columns}; add them")
        if frame.select(self.keys).is_duplicated().any():
            raise DataError(f"the function's result has rows with the same {', '.join(self.keys)}; extend `keys`")
        return frame

    def compare(self, complete: pl.DataFrame, bars: pl.DataFrame, known: pl.Expr, change: str) -> list[Finding]:
        if complete.is_empty():
            raise DataError("the function returned no row, so that nothing can be tested; pass more bars")
        changed = self.run(bars)
        if set(changed.columns) != set(complete.columns):
            raise DataError(
                f"the function returned the columns {changed.columns} {change}, and {complete.columns} with all bars; "
                "let it always return the same ones"
            )
        changed = changed.select(complete.columns).cast(complete.schema).filter(known)
        values = [name for name in complete.columns if name not in self.keys]
        row, row_after = "(row)", "(row)" + _AFTER
        both = (
            complete.filter(known)
            .with_columns(pl.lit("present").alias(row))
            .join(
                changed.with_columns(pl.lit("present").alias(row)).rename(
                    {name: name + _AFTER for name in [*values, row]}
                ),
                on=self.keys,
                how="full",
                coalesce=True,
            )
            .sort("ts", *self.keys)
        )
        findings = self._findings(both, row, pl.col(row).is_null() | pl.col(row_after).is_null(), change)
        both = both.drop_nulls([row, row_after])
        for name in values:
            findings += self._findings(both, name, ~self._same(name, complete.schema[name]), change)
        return findings

    def _same(self, name: str, dtype: pl.DataType) -> pl.Expr:
        before, after = pl.col(name), pl.col(name + _AFTER)
        same = before.eq_missing(after)
        if self.rtol and dtype.is_numeric():
            before, after = before.cast(pl.Float64), after.cast(pl.Float64)
            limit = self.rtol * pl.max_horizontal(before.abs(), after.abs())
            close = before.is_finite() & after.is_finite() & ((before - after).abs() <= limit)
            same |= close.fill_null(False)
        return same

    def _findings(self, both: pl.DataFrame, name: str, moved: pl.Expr, change: str) -> list[Finding]:
        rows = both.filter(moved)
        if rows.is_empty():
            return []
        series = [key for key in self.keys if key not in ("symbol", "ts")]
        first_of_each = rows.group_by(series or pl.lit(0).alias("one series"), maintain_order=True).agg(
            pl.col("symbol", "ts", name, name + _AFTER).first(), pl.len().alias("rows moved")
        )
        findings = []
        for row in first_of_each.iter_rows(named=True):
            column = f"{name}[{', '.join(str(row[key]) for key in series)}]" if series else name
            expected, got = row[name], row[name + _AFTER]
            message = (
                f"{column} of {row['symbol']} on {row['ts']} is {expected} with all bars and {got} {change} "
                f"({row['rows moved']} rows moved)"
            )
            findings.append(Finding(self.detector, column, row["symbol"], row["ts"], expected, got, message))
        return findings


def _checked(dates: Sequence[date], sessions: list[date]) -> list[date]:
    for day in dates:
        if not sessions or not sessions[0] <= day <= sessions[-1]:
            span = f"{sessions[0]} to {sessions[-1]}" if sessions else "empty"
            raise ConfigError(f"date {day} lies outside the bars ({span}); choose one inside")
    return list(dates)


def _spread(sessions: list[date], random: np.random.Generator) -> list[date]:
    """The sessions at a quarter, half and three quarters, the last one, and some random ones."""
    count = len(sessions)
    if not count:
        return []
    chosen = {count // 4, count // 2, 3 * count // 4, count - 1, *random.integers(count, size=_RANDOM_DATES).tolist()}
    return [sessions[at] for at in sorted(chosen)]


def _randomised(bars: pl.DataFrame, random: np.random.Generator) -> pl.DataFrame:
    """Bars with the same keys and other numbers: positive, and low <= open, close <= high as in true bars."""
    numbers = {
        name: np.exp(random.normal(4.0, 1.0, bars.height)) for name, dtype in bars.schema.items() if dtype.is_float()
    }
    if set(_PRICES) <= numbers.keys():
        prices = np.sort([numbers[name] for name in _PRICES], axis=0)
        numbers |= {"low": prices[0], "open": prices[1], "close": prices[2], "high": prices[3]}
    return bars.with_columns(pl.Series(name, values, bars.schema[name]) for name, values in numbers.items())
