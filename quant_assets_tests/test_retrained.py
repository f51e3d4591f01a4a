"""CPCV with models trained anew per split: what they may learn from, what they predict, and the paths' backtests."""

import math
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.backtest.engine import run
from quant_assets.core.errors import ConfigError, DataError
from quant_assets.features import compute
from quant_assets.labels import label_set
from quant_assets.market_data.synthetic import synthetic_bars
from quant_assets.models import cpcv, walkforward
from quant_assets.models.cpcv import Retrained, training_rows
from quant_assets.models.spec import ModelSpec
from quant_assets.models.training import Rows
from quant_assets.strategy.compose import decide, signal_scores
from quant_assets.strategy.retrained import retrained
from quant_assets.strategy.spec import StrategySpec
from quant_assets.validation.cpcv import Combinatorial, Splits, splits
from quant_assets.validation.plan import ValidationPlan
from quant_assets.validation.sharpe import sharpes

CALENDAR = [day for day in (date(2019, 1, 1) + timedelta(n) for n in range(900)) if day.weekday() < 5]
SESSIONS = CALENDAR[100:400]
SYMBOLS = ("AAA", "BBB", "CCC")
HORIZON = 10
PLAN = ValidationPlan(folds=5, test_folds=2, embargo=0.01)
SPLITS = splits(len(SESSIONS), PLAN, HORIZON)


def spec(**changes: Any) -> ModelSpec:
    fields: dict[str, Any] = {
        "task": "regression",
        "label": "fwd_ret_10d",
        "min_train_rows": 60,
        "params": {"num_boost_round": 8, "learning_rate": 0.3, "num_leaves": 4, "min_data_in_leaf": 10},
    }
    return ModelSpec(**(fields | changes))


def planted() -> tuple[pl.DataFrame, pl.DataFrame]:
    """Features `noise` and `signal`, of which the second drives the label; CCC lists in the last block."""
    rng = np.random.default_rng(5)
    features, labels = [], []
    for symbol in SYMBOLS:
        days = CALENDAR[370:450] if symbol == "CCC" else CALENDAR[:450]
        signal, noise, shock = rng.normal(size=(3, len(days)))
        features.append(pl.DataFrame({"symbol": symbol, "ts": days, "signal": signal, "noise": noise}))
        known = {"ts": days[:-HORIZON], "known_on": days[HORIZON:], "horizon": HORIZON}
        labels.append(pl.DataFrame({"symbol": symbol, **known, "label_value": (signal + 0.5 * shock)[:-HORIZON]}))
    return pl.concat(features), pl.concat(labels)


FEATURES, LABELS = planted()


def train(model: ModelSpec, **changes: Any) -> Retrained:
    arguments: dict[str, Any] = {
        "features": FEATURES,
        "labels": LABELS,
        "symbols": SYMBOLS,
        "sessions": SESSIONS,
        "splits": SPLITS,
    }
    return cpcv.run(model, **(arguments | changes))


@pytest.fixture(scope="module")
def pooled() -> Retrained:
    return train(spec())


def correlation(predictions: pl.DataFrame, labels: pl.DataFrame) -> float:
    joined = predictions.join(labels, on=["symbol", "ts"])
    return float(np.corrcoef(joined["score"], joined["label_value"])[0, 1])


# What may be learnt from


def rows_of(ts: list[int], known_on: list[int]) -> Rows:
    size = len(ts)
    return Rows(
        names=("AAA",),
        symbol=np.zeros(size, np.int32),
        ts=np.array(ts, np.int32),
        known_on=np.array(known_on, np.int32),
        x=np.zeros((size, 1)),
        y=np.zeros(size),
    )


def test_rows_whose_label_meets_a_test_block_or_the_labels_of_its_rows_are_purged() -> None:
    tested = np.array([[1]])
    days = np.arange(10, dtype=np.int32)
    outside = np.array([[day not in (4, 5) for day in range(10)]])
    made = Splits(np.array([0, 4, 6, 10]), tested, outside, np.zeros((1, 3), np.int64))
    rows = rows_of(list(range(10)), [day + 2 for day in range(10)])
    assert np.flatnonzero(training_rows(made, 0, days, rows)).tolist() == [0, 1]
    rows.known_on[5] = 6  # now the block's labels are known by 6, that of row 4
    assert np.flatnonzero(training_rows(made, 0, days, rows)).tolist() == [0, 1, 7]
    rows.known_on[0] = 4
    assert np.flatnonzero(training_rows(made, 0, days, rows)).tolist() == [1, 7]


@st.composite
def period(draw: st.DrawFn) -> tuple[ValidationPlan, Splits, Rows]:
    """A period split at random, and rows on some of its sessions: several symbols', each with a horizon of its own."""
    folds = draw(st.integers(3, 5))
    plan = ValidationPlan(
        folds=folds,
        test_folds=draw(st.integers(2, folds - 1)),
        purge=draw(st.integers(0, 3)),
        embargo=draw(st.sampled_from([0.0, 0.01, 0.03])),
    )
    sessions = draw(st.integers(20 * folds, 150))
    days = sorted(draw(st.lists(st.integers(0, sessions - 1), min_size=1, max_size=200)))
    horizons = draw(st.lists(st.integers(1, 12), min_size=len(days), max_size=len(days)))
    known = [day + horizon for day, horizon in zip(days, horizons, strict=True)]
    return plan, splits(sessions, plan, draw(st.integers(0, 4))), rows_of(days, known)


@settings(max_examples=60, deadline=None)
@given(period())
def test_no_training_label_touches_a_test_block_or_its_embargo_and_nothing_else_is_dropped(
    drawn: tuple[ValidationPlan, Splits, Rows],
) -> None:
    plan, made, rows = drawn
    sessions = made.train.shape[1]
    embargo = math.ceil(round(plan.embargo * sessions, 9))
    intervals = list(zip(rows.ts.tolist(), rows.known_on.tolist(), strict=True))
    settled = [(ts, known) for ts, known in intervals if known < sessions]
    for split, tested in enumerate(made.tested):
        kept = training_rows(made, split, np.arange(sessions, dtype=np.int32), rows)
        allowed = {(ts, known) for ts, known in settled if made.train[split, ts]}
        for block in tested:
            first, last = int(made.edges[block]), int(made.edges[block + 1]) - 1
            reach = max([last, *(known for ts, known in settled if first <= ts <= last)])
            allowed -= {(ts, known) for ts, known in settled if ts <= reach and known >= first}
            assert all(known < first or ts > last + embargo for ts, known in allowed)
        assert kept.tolist() == [interval in allowed for interval in intervals]


def test_where_every_session_has_a_bar_the_horizons_purge_is_the_whole_purge() -> None:
    groups = walkforward.rows_by_scope(spec(), FEATURES, LABELS, ("AAA",), ["noise", "signal"], SESSIONS[-1])
    days = np.array(SESSIONS, "M8[D]").astype(np.int32)
    rows = groups["universe"].take(groups["universe"].ts >= days[0])
    for split, mask in enumerate(SPLITS.train):
        expected = mask.copy()
        expected[-HORIZON:] = False
        assert np.array_equal(training_rows(SPLITS, split, days, rows), expected)


def test_labels_that_touch_a_test_block_change_no_model_of_its_split(pooled: Retrained) -> None:
    for split in (0, 6):
        meets = pl.lit(False)
        for block in SPLITS.tested[split]:
            first, last = (SESSIONS[edge] for edge in SPLITS.edges[[block, block + 1]] - [0, 1])
            meets |= (pl.col("ts") <= last) & (pl.col("known_on") >= first)
        turned = pl.when(meets).then(-pl.col("label_value")).otherwise("label_value")
        changed = train(spec(), labels=LABELS.with_columns(label_value=turned)).predictions
        same = [changed.filter(split=one).equals(pooled.predictions.filter(split=one)) for one in range(10)]
        assert [number for number, is_same in enumerate(same) if is_same] == [split]


def test_a_memory_of_overlapping_labels_is_of_no_use_across_the_purge() -> None:
    """Random walks, and a feature that tells which row of which walk it is: the label of the next 20 sessions is no
    secret to who has learnt those of the rows around it. Only labels that hide when they are known get past the purge.
    """
    rng, length, ahead, blocks = np.random.default_rng(0), len(SESSIONS), 20, 20
    walks = np.cumsum(rng.normal(size=(8, length)), axis=1)
    symbols = [f"S{number}" for number in range(len(walks))]
    places = 1000.0 * np.arange(len(walks))[:, None] + np.arange(length)
    features = pl.concat(
        pl.DataFrame({"symbol": symbol, "ts": SESSIONS, "place": place})
        for symbol, place in zip(symbols, places, strict=True)
    )
    known = {"ts": SESSIONS[:-ahead], "known_on": SESSIONS[ahead:], "horizon": ahead}
    labels = pl.concat(
        pl.DataFrame({"symbol": symbol, **known, "label_value": walk[ahead:] - walk[:-ahead]})
        for symbol, walk in zip(symbols, walks, strict=True)
    )
    number = np.arange(blocks)
    singly = Splits(
        edges=np.arange(blocks + 1) * length // blocks,
        tested=number[:, None],
        train=number[:, None] != np.arange(length) * blocks // length,
        paths=number[None],
    )
    trees = {"num_boost_round": 20, "learning_rate": 0.3, "num_leaves": 31, "min_data_in_leaf": 5, "max_bin": 255}

    def skill(told: pl.DataFrame) -> float:
        model = spec(holdout=0.0, params=trees)
        found = train(model, features=features, labels=told, symbols=symbols, splits=singly)
        return correlation(found.predictions, labels)

    assert skill(labels.with_columns(known_on=pl.col("ts") + timedelta(1))) > 0.4
    assert abs(skill(labels)) < 0.15


# What is predicted


def test_every_test_block_is_predicted_by_the_models_of_its_splits_and_by_no_other(pooled: Retrained) -> None:
    assert pooled.trained == 10
    assert pooled.skipped == []
    wanted = pl.concat(
        FEATURES.filter(pl.col("ts").is_in(SESSIONS[SPLITS.edges[block] : SPLITS.edges[block + 1]])).select(
            pl.lit(split, pl.Int64).alias("split"), pl.lit(int(block), pl.Int64).alias("block"), "symbol", "ts"
        )
        for split, tested in enumerate(SPLITS.tested)
        for block in tested
    )
    order = ["split", "block", "symbol", "ts"]
    assert pooled.predictions.select(order).equals(wanted.sort(order))
    assert pooled.predictions["score"].is_finite().all()


def test_a_path_takes_each_block_from_the_split_that_tests_it_there(pooled: Retrained) -> None:
    for number, by_block in enumerate(SPLITS.paths):
        path = pooled.path(number)
        expected = pl.concat(
            pooled.predictions.filter(split=int(split), block=block) for block, split in enumerate(by_block)
        )
        assert path.equals(expected.select(path.columns))
        inside = FEATURES.filter(pl.col("ts").is_in(SESSIONS)).select("symbol", "ts")
        assert path.select("symbol", "ts").sort("symbol", "ts").equals(inside.sort("symbol", "ts"))


@pytest.mark.parametrize("task", ["regression", "classification"])
def test_a_planted_signal_is_learnt_by_every_split(task: str) -> None:
    found = train(spec(task=task))
    for split in range(10):
        assert correlation(found.predictions.filter(split=split), LABELS) > 0.6
    assert found.predictions["calibrated_score"].null_count() == (len(found.predictions) if task == "regression" else 0)


def test_a_split_trains_the_strategys_own_model(pooled: Retrained) -> None:
    """The same text as `fit` makes of the split's rows, and so the same scores."""
    days = np.array(SESSIONS, "M8[D]").astype(np.int32)
    groups = walkforward.rows_by_scope(spec(), FEATURES, LABELS, SYMBOLS, ["noise", "signal"], SESSIONS[-1])
    rows = groups["universe"].take(groups["universe"].ts >= days[0])
    fitted = cpcv.fit(spec(), ["noise", "signal"], rows.take(training_rows(SPLITS, 3, days, rows)))
    scores = walkforward.predict(spec(), fitted.text, fitted.metrics, rows)
    mine = pooled.predictions.filter(split=3).drop("split", "block").sort("symbol", "ts")
    assert mine.equals(scores.join(mine.select("symbol", "ts"), on=["symbol", "ts"], how="semi").sort("symbol", "ts"))


def test_the_order_of_rows_and_the_number_of_threads_change_nothing(
    pooled: Retrained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walkforward, "_WORKERS", 1)
    again = train(
        spec(),
        features=FEATURES.select("noise", "ts", "signal", "symbol").sample(fraction=1, shuffle=True, seed=1),
        labels=LABELS.sample(fraction=1, shuffle=True, seed=2),
        symbols=SYMBOLS[::-1],
    )
    assert again.predictions.equals(pooled.predictions)


def test_nothing_outside_the_period_changes_anything(pooled: Retrained) -> None:
    inside = pl.col("ts").is_between(SESSIONS[0], SESSIONS[-1])
    again = train(
        spec(retrain="monthly", train_years=0.1),
        features=FEATURES.filter(inside),
        labels=LABELS.filter(inside, pl.col("known_on") <= SESSIONS[-1]),
    )
    assert again.predictions.equals(pooled.predictions)


def test_a_symbol_without_enough_labels_is_left_out_where_it_lacks_them_and_said() -> None:
    lines: list[str] = []
    found = train(spec(scope="symbol", min_train_rows=20), progress=lines.append)
    last = [split for split, tested in enumerate(SPLITS.tested) if 4 in tested]
    assert found.skipped == [
        f"split {split} (blocks {SPLITS.tested[split][0]}, 4 tested) CCC: 0 labelled rows known, min_train_rows is 20"
        for split in last
    ]
    assert "CCC" not in found.predictions["symbol"]
    assert found.trained == 20
    assert lines[0] == "model 1 of 24: split 0 (blocks 0, 1 tested) AAA: trained, 157 rows"
    assert [line.split(" of ")[0] for line in lines] == [f"model {number}" for number in range(1, 25)]


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"model": spec(min_train_rows=400)},
            r"split 0 \(blocks 0, 1 tested\) universe: \d+ labelled rows known, min_",
        ),
        ({"labels": LABELS.clear()}, "universe: 0 labelled rows known, min_train_rows is 60; lengthen the period, or"),
        (
            {"labels": LABELS.with_columns(label_value=1.0), "model": spec(task="classification")},
            "are of one class; le",
        ),
        (
            {"features": FEATURES.filter(pl.col("ts") >= SESSIONS[60])},
            f"block 0, from {SESSIONS[0]}, has no features; begin the period where they do",
        ),
    ],
)
def test_a_block_that_no_model_predicts_is_refused_with_the_remedy(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=said) as caught:
        train(**({"model": spec()} | changes))
    assert "\n" not in str(caught.value)


def test_splits_of_another_period_are_refused() -> None:
    with pytest.raises(ConfigError, match="the splits are of 300 sessions, the period has 299"):
        train(spec(), sessions=SESSIONS[1:])


# The strategy on the paths

YEAR = 252
FOUR = ValidationPlan(folds=4, test_folds=2, embargo=0.0)
BOUNDS = {"SYN0000": (CALENDAR[0], None), "SYN0001": (CALENDAR[0], None), "SYN0002": (SESSIONS[120], None)}
BARS = synthetic_bars(list(BOUNDS), CALENDAR[:400]).filter(
    (pl.col("symbol") != "SYN0002") | (pl.col("ts") >= SESSIONS[120])
)
SOURCE = compute(BARS, "v1")
SETTLED = label_set("v1").compute(BARS).filter(label_name="fwd_ret_20d")


def strategy(**sections: Any) -> StrategySpec:
    model = spec(label="fwd_ret_20d", scope="symbol", min_train_rows=30)
    said = {
        "strategy_id": "one",
        "version": "1.0.0",
        "universe": {"symbols": list(BOUNDS)},
        "signal": {"type": "model_score", "model": model.model_dump()},
        "rebalance": {"frequency": "weekly"},
        "portfolio": {"top_k": 1},
        "min_cross_section": 0.5,
        "backtest": {"from": SESSIONS[0]},
    }
    return StrategySpec.model_validate(said | sections)


def validated(one: StrategySpec) -> Combinatorial:
    return retrained(one, SOURCE, SETTLED, BARS, SESSIONS, CALENDAR, BOUNDS, YEAR, FOUR, list(BOUNDS), 0.5)


def test_a_path_has_the_returns_of_the_strategys_backtest_on_its_predictions() -> None:
    one = strategy()
    assert one.model is not None
    found = validated(one)
    made = splits(len(SESSIONS), FOUR, horizon=20)
    assert np.array_equal(found.splits.train, made.train)
    models = cpcv.run(one.model, SOURCE, SETTLED, list(BOUNDS), SESSIONS, made)
    assert found.returns.shape == (3, len(SESSIONS))
    for number, returns in enumerate(found.returns):
        decided = decide(one, signal_scores(one, models.path(number)), BARS, {}, SESSIONS, CALENDAR, BOUNDS)
        alone = run(BARS, decided.targets, SESSIONS, one.config(YEAR))
        assert np.array_equal(returns, alone.equity["ret"].to_numpy())
    assert len(np.unique(found.returns, axis=0)) == 3
    assert np.array_equal(found.sharpes, sharpes(found.returns, YEAR))
    assert (found.written, found.chosen) == (0.5, None)


def test_a_path_that_loses_everything_goes_on_at_0() -> None:
    ruinous = strategy(
        rebalance={"frequency": "daily"},
        supervisor={"gross_exposure_cap": 10.0, "max_weight_per_symbol": 10.0, "turnover_cap": None},
        backtest={"from": SESSIONS[0], "leverage": 10.0, "slippage_bps": 5000},
    )
    returns = validated(ruinous).returns
    assert np.isfinite(returns).all()
    assert (returns[:, -100:] == 0).all()


def test_a_strategy_without_a_model_is_refused() -> None:
    with pytest.raises(ConfigError, match="strategy one has no model to retrain; its signal is tsmom"):
        validated(strategy(signal={"type": "tsmom"}, portfolio={}))
