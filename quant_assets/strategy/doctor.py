"""The doctor's findings that need further backtests, or the leakage probes.

All backtests are variants of the strategy in `evaluate`'s matrices. They ask how far the one result depends on what
nobody chose it for, none of them is a candidate to be picked: so none enters the trial ledger.
"""

import copy
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from quant_assets.backtest import metrics
from quant_assets.core.calendar import TradingCalendar
from quant_assets.core.errors import ConfigError, DataError
from quant_assets.core.matrices import Floats, days_of, matrices
from quant_assets.models.store import ModelStore
from quant_assets.signals.rules import RULES
from quant_assets.strategy import probe
from quant_assets.strategy.evaluate import Evaluator
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.universe import Bounds
from quant_assets.validation.doctor import SHARPE_MARGIN, Finding, ordered, review

COSTS_TIMES = 2.0
"""Multiple of fee and slippage that a profit should survive."""
START_SHIFTS = (5, 10, 21, 63)
"""Sessions by which the start is put off: a week, two, a month, a quarter."""
REBALANCE_SHIFTS: Mapping[str, tuple[int, ...]] = {"daily": (), "weekly": (1, 2, 3), "monthly": (5, 10, 15)}
"""Sessions by which all rebalance dates are put off: other days of the same week or month."""
SHARPE_SHIFT = 0.25
"""Share of the Sharpe ratio that another start or rebalance day may move it by; `SHARPE_MARGIN` is always allowed."""
SHARPE_LOSS = 0.5
"""Share of the Sharpe ratio whose loss, one step of a parameter or one session later, is a cliff."""
SHARPE_GONE = 0.9
"""Share of it whose loss one session later is an error."""
FEWEST_NEIGHBOURS = 2
"""Neighbours of the best cell that are asked for its surroundings to be judged."""
PROBED_SESSIONS = 500
"""Newest sessions, beside the lookback, that the leakage probes change,"""
PROBE_CUTS = 2
"""at so many decisions, and before the last one."""

Cells = Sequence[tuple[Mapping[str, Any], float | None]]


def diagnose(
    spec: StrategySpec,
    result_tables: Mapping[str, pl.DataFrame],
    bars: pl.DataFrame,
    sessions: Sequence[date],
    calendar: TradingCalendar,
    bounds: Mapping[str, Bounds],
    sources: Mapping[str, pl.DataFrame] | None = None,
    cells: Cells | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Finding]:
    """`review` of a stored backtest and `examine` of its strategy, together and `ordered`.

    Args:
        result_tables: rows of this one backtest, by name of their contract: backtest_summary, backtest_trades,
            backtest_equity and backtest_symbols.

    The other arguments and the errors are those of `examine`.
    """
    summary, trades, equity, symbols = (
        result_tables[f"backtest_{name}"] for name in ("summary", "trades", "equity", "symbols")
    )
    found = review(summary.row(0, named=True), trades, equity, symbols, bars, calendar.sessions_per_year)
    return ordered([*found, *examine(spec, bars, sessions, calendar, bounds, sources, cells, progress)])


def examine(
    spec: StrategySpec,
    bars: pl.DataFrame,
    sessions: Sequence[date],
    calendar: TradingCalendar,
    bounds: Mapping[str, Bounds],
    sources: Mapping[str, pl.DataFrame] | None = None,
    cells: Cells | None = None,
    progress: Callable[[str], None] | None = None,
) -> list[Finding]:
    """What further backtests over the same window say about a strategy's.

    Args:
        bars: adjusted bars of the window and before it, as `Evaluator` takes them.
        sessions: the window's, sorted.
        calendar: of the exchange, reaching past the window.
        bounds: symbol -> first and last session on which it is listed.
        sources: what the signal reads besides bars, on all sessions: other rebalance dates are tried.
        cells: of the strategy's sweep over this window, if there is one: what each changes (dotted field -> value), and
            its Sharpe ratio, None or NaN where undefined. One that changes nothing is no cell.
        progress: receives one-line messages.

    Returns:
        `ordered`. Models are not trained again: their leakage is a note, to be tested by itself.

    Raises:
        KeyError: a source that the signal reads was not given.
    """
    tell = progress or (lambda line: None)
    spec = spec.variant({})
    year = calendar.sessions_per_year
    evaluator = _Moved(bars, sessions, calendar.sessions, bounds, year, sources)
    written = evaluator.evaluate([spec]).returns[0]
    tell(f"{spec.strategy_id}: higher costs, other starts, later fills")
    found = [
        *_costs(spec, evaluator),
        *_starts(spec, evaluator, written, year),
        *_rebalances(spec, evaluator, written, year),
        *_later(spec, evaluator, written, year),
        *_neighbourhood(spec, cells or ()),
    ]
    if spec.model is None:
        tell(f"{spec.strategy_id}: leakage probes")
    return ordered([*found, *_leaks(spec, bars, sessions, calendar, bounds)])


class _Moved(Evaluator):
    """An evaluator with copies that begin, rebalance or fill some sessions later; all else is the same."""

    _rebalances = 0

    def begun_later(self, sessions: int) -> "_Moved":
        """Over the window without its first sessions."""
        return self._over(slice(sessions, None), slice(sessions, None))._knowing(self)

    def rebalanced_later(self, sessions: int) -> "_Moved":
        """Deciding so many sessions after each of its rebalance dates; a daily strategy has no others."""
        other = copy.copy(self)
        other._rebalances = sessions
        return other._knowing(self)

    def filled_later(self) -> "_Moved":
        """On the prices of the session after each, so without the last session."""
        return self._over(slice(-1), slice(1, None))

    def first_rebalance(self, frequency: str) -> int:
        """Its session's number; that of no session where there is none."""
        return next(iter(self._rows(frequency).tolist()), len(self._sessions))

    def _over(self, sessions: slice, priced_on: slice) -> "_Moved":
        other = copy.copy(self)
        other._sessions = self._sessions[sessions]
        prices = matrices(self._bars, self._sessions[priced_on], self._symbols)
        other._prices = dataclasses.replace(prices, days=self._prices.days[sessions])
        return other

    def _knowing(self, other: "_Moved") -> "_Moved":
        """Itself, with what `other` knows of the same sessions and those before."""
        self._memo["panel"], self._indicators = other._panel, other._indicators
        return self

    def _dates(self, frequency: str) -> list[date]:
        dates = super()._dates(frequency)
        if frequency == "daily":
            return dates
        numbers = np.searchsorted(self._prices.days, days_of(dates)) + self._rebalances
        return [self._sessions[number] for number in numbers if number < len(self._sessions)]


def _costs(spec: StrategySpec, evaluator: Evaluator) -> Iterator[Finding]:
    """Funding is left as it is: it is a market's price, fee and slippage are what a backtest assumes."""
    charged = {f"backtest.{name}": getattr(spec.backtest, name) for name in ("fee_bps", "slippage_bps")}

    def profits(multiples: Floats) -> Floats:
        """Over the initial cash; of a ruined account -1."""
        variants = [{name: min(bps * times, 9_999.0) for name, bps in charged.items()} for times in multiples.tolist()]
        final = evaluator.evaluate([spec.variant(changes) for changes in variants]).summary["final_equity"]
        return final.fill_null(0.0).to_numpy() / spec.backtest.initial_cash - 1

    once, more = profits(np.array([1.0, COSTS_TIMES])).tolist()
    if once <= 0 or more > 0:
        return
    low, high = 1.0, COSTS_TIMES
    for _ in range(2):
        tried = np.linspace(low, high, 11)
        at = int(np.argmax(profits(tried[1:]) <= 0))
        low, high = float(tried[at]), float(tried[at + 1])
    yield Finding(
        "costs_doubled_lose_money",
        "warning",
        f"a profit of {once:.1%} becomes a loss of {-more:.1%} at {COSTS_TIMES:g} times the fee and slippage; it is "
        f"gone at {high:.2f} times",
        "trade less, or measure what the market really charges before it is believed",
        round(high, 2),
        {"profit": once, "doubled": more},
    )


def _starts(spec: StrategySpec, evaluator: _Moved, written: Floats, year: int) -> Iterator[Finding]:
    yield from _moving(
        "start_date_matters",
        [
            (shift, *_sharpes(written[shift:], evaluator.begun_later(shift).evaluate([spec]).returns[0], year))
            for shift in START_SHIFTS
            if shift < len(written)
        ],
        "begun {} sessions later",
        "look at the first positions and at limits that depend on the past; test several starts and believe the middle",
    )


def _rebalances(spec: StrategySpec, evaluator: _Moved, written: Floats, year: int) -> Iterator[Finding]:
    frequency = spec.rebalance.frequency
    shifts = REBALANCE_SHIFTS[frequency]
    common = slice(evaluator.first_rebalance(frequency) + max(shifts, default=0), None)
    yield from _moving(
        "rebalance_day_matters",
        [
            (
                shift,
                *_sharpes(written[common], evaluator.rebalanced_later(shift).evaluate([spec]).returns[0, common], year),
            )
            for shift in shifts
        ],
        f"rebalanced {{}} session(s) after the last of each {frequency.removesuffix('ly')}",
        "believe the middle of these, or split the money over several rebalance days",
    )


def _moving(name: str, tried: Sequence[tuple[int, float, float]], what: str, remedy: str) -> Iterator[Finding]:
    """Of (shift, Sharpe ratio as written, and shifted) over common sessions, the largest move."""
    known = [one for one in tried if np.isfinite(one).all()]
    if not known:
        return
    shift, before, after = max(known, key=lambda one: abs(one[2] - one[1]))
    if abs(after - before) <= max(SHARPE_MARGIN, SHARPE_SHIFT * abs(before)):
        return
    others = ", ".join(f"{moved:.2f} after {one}" for one, _, moved in known)
    yield Finding(
        name,
        "warning",
        f"{what.format(shift)} the Sharpe ratio over the common sessions is {after:.2f} instead of {before:.2f}"
        f" ({others})",
        remedy,
        after - before,
        {"sharpes": {str(one): moved for one, _, moved in known}},
    )


def _later(spec: StrategySpec, evaluator: _Moved, written: Floats, year: int) -> Iterator[Finding]:
    if len(written) < 3:
        return
    before, after = _sharpes(written[1:], evaluator.filled_later().evaluate([spec]).returns[0], year)
    if not _lost(before, after):
        return
    yield Finding(
        "edge_gone_a_session_later",
        "error" if after <= (1 - SHARPE_GONE) * before else "warning",
        f"with every order filled one session later the Sharpe ratio is {after:.2f} instead of {before:.2f}",
        "look for the future in the signal (`quant check leakage`); if there is none, the edge is too short-lived for "
        "daily orders",
        after,
        {"as_written": before},
    )


def _sharpes(one: Floats, other: Floats, year: int) -> tuple[float, float]:
    before, after = metrics.sharpes(np.stack([one, other]), year).tolist() if len(one) > 1 else (np.nan, np.nan)
    return before, after


def _lost(before: float, after: float) -> bool:
    """Whether most of a Sharpe ratio is gone. Of one that is not positive nothing is."""
    return before > 0 and after < (1 - SHARPE_LOSS) * before and before - after > SHARPE_MARGIN


def _neighbourhood(spec: StrategySpec, cells: Cells) -> Iterator[Finding]:
    """An undefined Sharpe ratio counts as 0."""
    cells = [cell for cell in cells if cell[0]]
    if not cells:
        return
    grid = _Grid(cells)
    ratios, (chosen, steps) = grid.ratios, grid.nearest(spec)
    here = "the strategy as written" if steps == 0 else "the cell nearest to the strategy as written"
    neighbours = grid.neighbours(chosen)
    fallen = [number for number in neighbours if _lost(ratios[chosen], ratios[number])]
    if fallen:
        worst = min(fallen, key=lambda number: ratios[number])
        yield Finding(
            "parameter_cliff",
            "warning",
            f"{here} ({named(cells[chosen][0])}) has a Sharpe ratio of {ratios[chosen]:.2f}; "
            f"{grid.step(chosen, worst)} leaves {ratios[worst]:.2f}, and {len(fallen)} of {len(neighbours)} neighbours "
            f"lose more than {SHARPE_LOSS:.0%}",
            "choose a cell amid a plateau, or find out why so much depends on this parameter",
            ratios[worst],
            {"cell": dict(cells[chosen][0]), "worst": dict(cells[worst][0])},
        )
    best = int(np.argmax(ratios))
    around = [ratios[number] for number in grid.neighbours(best)]
    if len(around) >= FEWEST_NEIGHBOURS and _lost(ratios[best], middle := float(np.median(around))):
        yield Finding(
            "best_cell_stands_alone",
            "warning",
            f"the best of {len(cells):,} cells ({named(cells[best][0])}) has a Sharpe ratio of {ratios[best]:.2f}, the "
            f"median of its {len(around)} neighbours is {middle:.2f}",
            "do not choose it: a peak without a plateau is what the best of many random ones looks like",
            middle,
            {"cell": dict(cells[best][0])},
        )


def named(changes: Mapping[str, Any]) -> str:
    """`lookback 63, weighting hrp`"""
    return ", ".join(f"{path.rsplit('.', 1)[-1]} {value}" for path, value in changes.items())


class _Grid:
    """Cells by their place on the axis of each parameter: numbers in order; of other values each is beside each."""

    def __init__(self, cells: Cells) -> None:
        self.ratios = [0.0 if ratio is None or not np.isfinite(ratio) else float(ratio) for _, ratio in cells]
        self._changes = [changes for changes, _ in cells]
        self._axes = {path: _axis([changes[path] for changes in self._changes]) for path in self._changes[0]}
        numbered = {path: {value: at for at, value in enumerate(axis)} for path, axis in self._axes.items()}
        self._places = np.array([[numbered[path][one[path]] for path in numbered] for one in self._changes], np.float64)

    def nearest(self, spec: StrategySpec) -> tuple[int, float]:
        """Of all cells the one that is fewest steps from what the file says, the first of several; and the steps."""
        said = spec.model_dump(by_alias=True)
        steps = self._steps([_place(axis, _at(said, path)) for path, axis in self._axes.items()]).sum(axis=1)
        return int(np.argmin(steps)), float(steps.min())

    def neighbours(self, number: int) -> list[int]:
        """Cells that differ in one parameter, by one step."""
        found: list[int] = np.flatnonzero(self._steps(self._places[number].tolist()).sum(axis=1) == 1).tolist()
        return found

    def step(self, one: int, other: int) -> str:
        """`lookback 63 to 84`, of neighbours."""
        before, after = self._changes[one], self._changes[other]
        path = next(path for path in self._axes if before[path] != after[path])
        return f"{path} from {before[path]} to {after[path]}"

    def _steps(self, place: Sequence[float]) -> Floats:
        """(cells, parameters): from a place to each cell."""
        steps = np.abs(self._places - np.array(place))
        ordered_axes = np.array([all(map(_is_number, axis)) for axis in self._axes.values()], np.bool_)
        return np.where(ordered_axes, steps, np.minimum(np.ceil(steps), 1.0))


def _axis(values: Sequence[Any]) -> list[Any]:
    """Distinct values: numbers in order, others as they come first."""
    distinct = list(dict.fromkeys(values))
    return sorted(distinct) if all(map(_is_number, distinct)) else distinct


def _place(axis: Sequence[Any], value: Any) -> float:
    """Of a value on its axis; between two numbers in proportion, outside by the last step; -1 for what is not there."""
    if value in axis:
        return axis.index(value)
    if not (_is_number(value) and all(map(_is_number, axis))):
        return -1.0
    return float(np.interp(value, axis, range(len(axis)))) + (value > axis[-1]) - (value < axis[0])


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _at(said: Any, path: str) -> Any:
    for name in path.split("."):
        said = said[name]
    return said


def _leaks(
    spec: StrategySpec,
    bars: pl.DataFrame,
    sessions: Sequence[date],
    calendar: TradingCalendar,
    bounds: Mapping[str, Bounds],
) -> Iterator[Finding]:
    """The strategy's signal and targets as functions of the newest stored bars."""
    if spec.model is not None:
        yield _untested(spec, "a model would have to be trained again on changed bars, which takes minutes")
        return
    # nothing is trained here, so that the folder is never made
    probes = probe.strategy_probes(spec, bounds, calendar, probe.Trainings(ModelStore(Path("models"))))
    reach = [spec.portfolio.risk_window, *(one.lookback or 0 for one in probes)]
    if spec.rule is not None:
        reach.append(RULES[spec.rule.type].warm_up(spec.rule.inputs))
    first = calendar.offset(sessions[-1], -PROBED_SESSIONS - max(reach))
    recent = bars.filter(pl.col("symbol").is_in(list(bounds)), pl.col("ts").is_between(first, sessions[-1]))
    for one in probes:
        try:
            verdicts = list(probe.run(dataclasses.replace(one, cuts=PROBE_CUTS), recent))
        except (ConfigError, DataError) as error:
            yield _untested(spec, str(error))
            return
        for verdict in verdicts:
            if verdict.findings:
                yield Finding(
                    f"{verdict.detector.replace('-', '_')}_in_{one.name.split()[0]}",
                    "error",
                    verdict.detail,
                    f"correct what the strategy reads; `quant check leakage {spec.strategy_id}` lists all that moves",
                    len(verdict.findings),
                )


def _untested(spec: StrategySpec, why: str) -> Finding:
    return Finding(
        "leakage_not_tested",
        "note",
        f"look-ahead and warm-up were not tested: {why}",
        f"run `quant check leakage {spec.strategy_id}`",
    )
