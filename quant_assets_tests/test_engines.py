"""The two engines on every shipped strategy: what the kernel fills, vectorbt fills, trade by trade."""

from datetime import date
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from quant_assets.backtest.engine import run
from quant_assets.core.calendar import trading_calendar
from quant_assets.core.settings import PROJECT_ROOT
from quant_assets.features import compute
from quant_assets.strategy.compose import decide, signal_scores
from quant_assets.strategy.probe import made_bars
from quant_assets.strategy.spec import StrategySpec, load_strategies
from quant_assets.strategy.universe import load_universe

pytestmark = pytest.mark.slow

FOLDER = PROJECT_ROOT / "strategies"
UNIVERSES = {path.stem: load_universe(path) for path in (FOLDER / "universes").glob("*.yaml")}
SHIPPED = load_strategies(FOLDER)
YEARS = 5


def scores_of(spec: StrategySpec, bars: pl.DataFrame, calendar: list[date], year: int) -> pl.DataFrame:
    """The strategy's scores; where a model would have to be trained, momentum stands in for it."""
    if spec.rule is not None:
        return signal_scores(spec, bars, calendar, year)
    if spec.model is not None:
        return compute(bars, "v1").select("symbol", "ts", score="ret_60d").drop_nulls()
    return signal_scores(spec, compute(bars, "v1"))


@pytest.mark.parametrize("name", SHIPPED)
def test_vectorbt_makes_the_same_trades_of_every_shipped_strategy(name: str):
    spec = SHIPPED[name].variant({"backtest.funding_bps_per_day": 0.0})  # vectorbt knows no funding
    universe = UNIVERSES[str(spec.universe)]
    calendar = trading_calendar(universe.calendar)
    year = calendar.sessions_per_year
    last = universe.end or date(2024, 12, 31)
    bars = made_bars(universe.bounds, calendar, last, YEARS * year)
    sessions = calendar.between(bars["ts"].min(), last)[year:]
    scores = scores_of(spec, bars, list(calendar.sessions), year)
    bounds = spec.bounds(universe, Path(FOLDER / "universes"))
    targets = decide(spec, scores, bars, {}, sessions, calendar.sessions, bounds).targets
    kernel, vectorbt = (
        run(bars, targets, sessions, spec.config(year, engine=engine)) for engine in ("kernel", "vectorbt")
    )
    assert kernel.trades.height > 20
    for table in ("trades", "equity", "symbols"):
        assert_frame_equal(getattr(kernel, table), getattr(vectorbt, table), rel_tol=1e-9, abs_tol=1e-9)
    assert_frame_equal(pl.DataFrame([kernel.summary]), pl.DataFrame([vectorbt.summary]), rel_tol=1e-9)
