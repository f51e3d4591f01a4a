"""Made markets and strategies for the event-driven engine, and what the vectorised one makes of them.

Belongs here: what tests of whole replays share. Run as a module it writes the journal of one replay to a path.
"""

import sys
from collections.abc import Mapping, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from quant_assets.backtest.engine import BacktestResult, run
from quant_assets.features import compute
from quant_assets.strategy.compose import decide, signal_scores
from quant_assets.strategy.event_driven import Material, journal_header, replay
from quant_assets.strategy.spec import StrategySpec
from quant_assets.trading.journal import Journal

HISTORY = 45
"""Sessions before the period: no rule or window of these tests is longer."""
CALENDAR = [day for n in range(500) if (day := date(2020, 1, 1) + timedelta(n)).weekday() < 5]
YEAR = 252
FREE = {"gross_exposure_cap": 1.0, "max_weight_per_symbol": 1.0, "turnover_cap": None}
MODEL = {"type": "model_score", "model": {"task": "regression", "label": "fwd_ret_20d", "scope": "universe"}}


def made_bars(
    seed: int, sessions: int, spans: Mapping[str, tuple[int, int]], gaps: float = 0.0, volatility: float = 0.02
) -> pl.DataFrame:
    """Random walks of `HISTORY` and so many sessions.

    Args:
        spans: symbol -> numbers of its first and last session.
        gaps: share of the bars that are missing.
        volatility: of one session.
    """
    generator, count = np.random.default_rng(seed), HISTORY + sessions
    frames = []
    for symbol, (first, last) in spans.items():
        close = 50 * np.exp(np.cumsum(generator.normal(0, volatility, count)))
        opened = close * np.exp(generator.normal(0, volatility / 3, count))
        reach = np.exp(np.abs(generator.normal(0, volatility / 2, (2, count))))
        there = generator.random(count) >= gaps
        there[:first] = there[last + 1 :] = False
        bars = pl.DataFrame(
            {
                "symbol": [symbol] * count,
                "ts": CALENDAR[:count],
                "open": opened,
                "high": np.maximum(opened, close) * reach[0],
                "low": np.minimum(opened, close) / reach[1],
                "close": close,
                "volume": generator.integers(1, 1000, count).astype(float),
            }
        )
        frames.append(bars.filter(pl.Series(there)))
    return pl.concat(frames)


def strategy(signal: Mapping[str, Any], symbols: Sequence[str], **sections: Any) -> StrategySpec:
    said = {
        "strategy_id": "one",
        "version": "1.0.0",
        "universe": {"symbols": list(symbols)},
        "signal": signal,
        "rebalance": {"frequency": "daily"},
        "portfolio": {},
        "min_cross_section": 0.1,
        "supervisor": FREE,
        "backtest": {"from": CALENDAR[HISTORY]},
    }
    return StrategySpec.model_validate({**said, **sections})


def material(bars: pl.DataFrame, sessions: int, **changes: Any) -> Material:
    """Of the sessions after the history, all symbols listed throughout, from cash."""
    period = CALENDAR[HISTORY : HISTORY + sessions]
    bounds = dict.fromkeys(sorted(bars["symbol"].unique()), (CALENDAR[0], None))
    given: dict[str, Any] = {"source": None, "bounds": bounds, "previous": {}, "initial": {}, **changes}
    return Material(bars=bars, sessions=period, calendar=CALENDAR, year=YEAR, **given)


def vectorised(spec: StrategySpec, given: Material) -> BacktestResult:
    """The backtest as the asset makes it: targets of all dates, then the kernel."""
    source = given.bars if given.source is None else given.source
    scores = signal_scores(spec, source, given.calendar, given.year)
    targets = decide(
        spec, scores, given.bars, given.previous, given.sessions, given.calendar, given.bounds
    ).targets.select("asof", "symbol", "weight", "approved")
    if given.initial:
        before = given.calendar[given.calendar.index(given.sessions[0]) - 1]
        stood = [(before, symbol, weight, True) for symbol, weight in given.initial.items()]
        targets = pl.concat([pl.DataFrame(stood, targets.schema, orient="row"), targets])
    return run(given.bars, targets, given.sessions, spec.config(given.year))


def busy(sessions: int = 150) -> tuple[StrategySpec, Material]:
    """A strategy that uses all there is: longs and shorts, funding, stops, a listing, an end and gaps."""
    spans = {"A": (0, HISTORY + sessions), "B": (0, HISTORY + sessions), "C": (HISTORY + 20, HISTORY + sessions),
             "D": (0, HISTORY + sessions - 30)}  # fmt: skip
    spec = strategy(
        {"type": "tsmom", "inputs": {"lookback": 5, "vol_window": 10, "vol_target": 0.6}},
        "ABCD",
        portfolio={"weighting": "inverse_vol", "short": "full"},
        supervisor={"gross_exposure_cap": 1.5, "max_weight_per_symbol": 0.6, "turnover_cap": 0.8},
        exits={"stop_loss": 0.04, "trailing_stop": 0.06},
        execution={"price": "next_open"},
        backtest={"from": CALENDAR[HISTORY], "funding_bps_per_day": 3.0},
    )
    return spec, material(made_bars(11, sessions, spans, gaps=0.05), sessions)


def ranked(sessions: int = 150) -> tuple[StrategySpec, Material]:
    """Ranks by a feature, at the close."""
    spans = dict.fromkeys("ABCDE", (0, HISTORY + sessions))
    bars = made_bars(5, sessions, spans, gaps=0.02)
    signal = {"type": "factor_rank", "inputs": {"feature_version": "v1", "feature_name": "ret_5d"}}
    spec = strategy(signal, "ABCDE", portfolio={"top_k": 2, "weighting": "score_weighted"})
    return spec, material(bars, sessions, source=compute(bars, "v1"))


def write_journal(path: Path) -> None:
    """That of `busy`."""
    spec, given = busy()
    with Journal.create(path, journal_header(spec, given, "the run", "the code")) as journal:
        replay(spec, given, journal)


if __name__ == "__main__":
    write_journal(Path(sys.argv[1]))
