"""A platform's warehouse filled without runs: the domain's own functions, from bars to backtests, in a second.

Belongs here: what tests of lineage need that look at rows and not at how runs made them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path

import polars as pl

from quant_assets.backtest import analysis
from quant_assets.backtest.engine import buy_and_hold, run
from quant_assets.contracts import backtest_summary, features_daily, labels, models, ohlcv, predictions, targets
from quant_assets.features import feature_set
from quant_assets.labels import label_set
from quant_assets.models import walkforward
from quant_assets.models.store import ModelStore
from quant_assets.strategy.compose import decide, signal_scores
from quant_assets.strategy.ledger import Ledger, family, record
from quant_assets.strategy.markets import Market, load_markets
from quant_assets.strategy.spec import StrategySpec
from quant_assets.warehouse import Warehouse
from quant_assets_tests.platform import END, LISTED, LISTED_LATE, START, SYMBOLS, Platform, bars_of

MARKET_RUN = "run-of-the-market"
NOW = datetime(2026, 1, 5, 12)
FOREST = {
    "type": "model_score",
    "model": {
        "task": "regression",
        "label": "fwd_ret_5d",
        "retrain": "monthly",
        "min_train_rows": 40,
        "params": {"num_boost_round": 5, "min_data_in_leaf": 5},
    },
}
SIGNALS: Mapping[str, dict[str, object]] = {
    "channel": {
        "signal": {"type": "donchian", "inputs": {"entry": 10, "exit": 5}},
        "rebalance": {"frequency": "daily"},
    },
    "forest": {"signal": FOREST, "portfolio": {"top_k": 2, "weighting": "inverse_vol"}},
    "ranks": {},
    "trend": {
        "signal": {"type": "tsmom", "inputs": {"lookback": 10, "vol_window": 5}},
        "rebalance": {"frequency": "monthly"},
        "portfolio": {},
        "execution": {"price": "next_open"},
    },
}
"""Strategy -> what its file has in place of the usual: a rule that holds positions, a pooled model, a rank, a rule."""


@dataclass(frozen=True)
class Made:
    """What was made of bars: rows as the domain's functions return them; `targets` by strategy."""

    features: pl.DataFrame
    labels: pl.DataFrame
    models: pl.DataFrame
    predictions: pl.DataFrame
    targets: dict[str, pl.DataFrame]


def market_of(platform: Platform) -> Market:
    """The market `small` with the four strategies, whose files it writes."""
    platform.write_universe()
    for name, changes in SIGNALS.items():
        platform.write_strategy(name, **changes)
    return load_markets(platform.settings)[0]


def all_bars() -> pl.DataFrame:
    """symbol, ts, open, high, low, close, volume."""
    return pl.concat([bars_of(name, LISTED if name == LISTED_LATE else START) for name in SYMBOLS])


def make(market: Market, bars: pl.DataFrame, folder: Path, last: date = END) -> Made:
    """Everything up to the targets of `last`, from adjusted bars; models go to `folder`."""
    features, found = feature_set("v1").compute(bars), label_set("v1").compute(bars)
    spec = market.strategies["forest"].model
    assert spec is not None
    calendar = market.layout.calendar
    walked = walkforward.run(
        spec,
        features,
        found.filter(label_name=spec.label),
        market.layout.universe.names,
        calendar.sessions,
        START,
        last,
        ModelStore(folder),
        pl.DataFrame(schema=walkforward.MODELS_SCHEMA),
    )
    sources = {"ranks": features, "forest": walked.predictions}
    decided = {
        name: _decided(one, market, bars, sources.get(name, bars), last) for name, one in market.strategies.items()
    }
    return Made(features, found, walked.new_models, walked.predictions, decided)


def _decided(spec: StrategySpec, market: Market, bars: pl.DataFrame, source: pl.DataFrame, last: date) -> pl.DataFrame:
    calendar = market.layout.calendar
    sessions = calendar.between(spec.backtest.first, last)
    scores = signal_scores(spec, source, calendar.sessions)
    bounds = spec.bounds(market.layout.universe, Path())
    return decide(spec, scores, bars, {}, sessions, calendar.sessions, bounds).targets


def store(warehouse: Warehouse, market: Market, bars: pl.DataFrame, made: Made) -> None:
    """All of it, and a backtest of each strategy over its file's period: each strategy by a run of its name."""
    wide = features_daily.wide("v1", feature_set("v1").names)
    raw = bars.with_columns(adjusted_close=pl.lit(None, pl.Float64), source=pl.lit("files"), ingested_at=pl.lit(NOW))
    with warehouse.write() as writer:
        writer.ensure(wide)
        writer.append(ohlcv.TABLE, raw, run_id=MARKET_RUN)
        writer.append(wide, made.features.with_columns(computed_at=pl.lit(NOW)), run_id=MARKET_RUN)
        writer.append(labels.TABLE, made.labels.with_columns(computed_at=pl.lit(NOW)), run_id=MARKET_RUN)
        writer.append(models.TABLE, made.models.with_columns(created_at=pl.lit(NOW)), run_id="forest")
        writer.append(predictions.TABLE, made.predictions.with_columns(generated_at=pl.lit(NOW)), run_id="forest")
        for name, rows in made.targets.items():
            writer.append(targets.TABLE, rows.with_columns(generated_at=pl.lit(NOW)), run_id=name)
            spec = market.strategies[name]
            sessions = market.layout.calendar.between(spec.backtest.first, END)
            result = run(bars, rows, sessions, spec.config(252))
            ledger = Ledger(family(spec, market.name), SYMBOLS, sessions[0], sessions[-1])
            returns = result.equity["ret"].to_numpy()[None, :]
            trial = ledger.rows([spec], [result.summary["sharpe"]], returns, "backtest", NOW)
            tables = analysis.tables(result, buy_and_hold(bars, sessions, 100_000.0), bars, NOW)
            tables[backtest_summary.TABLE] = tables[backtest_summary.TABLE].with_columns(trial["trial_id"])
            for table, frame in tables.items():
                writer.append(table, frame, run_id=name)
            record(writer, trial, name)


def filled(platform: Platform) -> tuple[Market, Made]:
    """The platform with all of it stored and published."""
    market, bars = market_of(platform), all_bars()
    made = make(market, bars, platform.settings.models_dir)
    store(platform.warehouse, market, bars, made)
    platform.warehouse.publish()
    return market, made
