"""Forward lineage: what changed bars touch is enough, and not more than what reads them; the runs that redo it."""

from dataclasses import replace
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quant_assets.contracts import ohlcv, quarantine, validation_results
from quant_assets.core.errors import ConfigError
from quant_assets.features import FEATURE_SETS, feature_set
from quant_assets.labels import LABEL_SETS, label_set
from quant_assets.strategy.impact import Impact, Rerun, Touched, described, impact, reach, suspects
from quant_assets.strategy.markets import Market, load_markets
from quant_assets_tests import small_market
from quant_assets_tests.command_line import CommandLine, two_months
from quant_assets_tests.platform import DAGSTERS_OWN, END, START, SYMBOLS, Platform
from quant_assets_tests.small_market import MARKET_RUN, NOW, Made

pytestmark = [*DAGSTERS_OWN, pytest.mark.slow]
PRICES = ("open", "high", "low", "close")
DAYS = [date(2024, 1, day) for day in range(1, 11)]
RAN = (NOW + timedelta(days=1)).replace(microsecond=0)


# --- windows


@pytest.mark.parametrize(
    ("first", "last", "lookback", "expected"),
    [
        (DAYS[1], DAYS[1], 0, (DAYS[1], DAYS[1])),
        (DAYS[1], DAYS[2], 3, (DAYS[1], DAYS[5])),
        (DAYS[8], DAYS[8], 3, (DAYS[8], DAYS[9])),
        (DAYS[1], DAYS[1], None, (DAYS[1], DAYS[9])),
        (date(2023, 12, 1), DAYS[0], 1, (DAYS[0], DAYS[1])),
        (date(2023, 12, 1), date(2023, 12, 5), 2, (DAYS[0], DAYS[1])),
        (date(2024, 2, 1), date(2024, 2, 2), 5, None),
    ],
)
def test_a_window_reaches_so_many_own_bars_on(
    first: date, last: date, lookback: int | None, expected: tuple[date, date] | None
):
    assert reach(DAYS, first, last, lookback) == expected


def test_own_bars_are_counted_and_not_calendar_days_and_a_bar_that_went_is_a_change():
    own = DAYS[:3] + DAYS[6:]
    assert reach(own, DAYS[2], DAYS[2], 2) == (DAYS[2], DAYS[7])
    assert reach(own, DAYS[4], DAYS[4], 2) == (DAYS[6], DAYS[7])
    assert reach(own, DAYS[4], DAYS[4], 0) is None


def test_labels_describe_bars_up_to_their_horizon_before():
    fwd, barrier = (
        next(one for one in label_set("v1").labels if one.name == name) for name in ("fwd_ret_5d", "triple_barrier_20d")
    )
    assert described(DAYS, DAYS[7], DAYS[7], fwd) == (DAYS[2], DAYS[7])
    assert described(DAYS, DAYS[7], DAYS[7], barrier) == (DAYS[0], DAYS[9])
    assert described(DAYS, date(2024, 2, 1), date(2024, 2, 1), fwd) == (DAYS[5], DAYS[9])


# --- features and labels that differ are touched


@st.composite
def changed_bars(draw: st.DrawFn) -> tuple[pl.DataFrame, pl.DataFrame, date, date]:
    """Bars of two symbols, the same with some of the first one's changed or gone, and the span of those."""
    sessions = [START + timedelta(days=n) for n in range(150)]
    noise = np.random.default_rng(draw(st.integers(0, 2**16)))
    kept = np.sort(noise.choice(150, draw(st.integers(90, 150)), replace=False))
    close = 100 * np.exp(noise.normal(0, 0.02, len(kept)).cumsum())
    rows = pl.DataFrame(
        {"ts": [sessions[at] for at in kept], "close": close, "volume": noise.uniform(1e5, 1e6, len(kept))}
    )
    rows = rows.with_columns(open=pl.col("close") * 0.99, high=pl.col("close") * 1.02, low=pl.col("close") * 0.97)
    bars = pl.concat([rows.with_columns(symbol=pl.lit(name)) for name in ("A", "B")])
    first = draw(st.integers(0, rows.height - 1))
    last = draw(st.integers(first, min(first + 3, rows.height - 1)))
    low, high = rows["ts"][first], rows["ts"][last]
    hit = (pl.col("symbol") == "A") & pl.col("ts").is_between(low, high)
    if draw(st.booleans()):
        return bars, bars.filter(~hit), low, high
    factor = draw(st.sampled_from([0.5, 1.1, 3.0]))
    scaled = [pl.when(hit).then(pl.col(name) * factor).otherwise(name).alias(name) for name in (*PRICES, "volume")]
    return bars, bars.with_columns(scaled), low, high


def differing(one: pl.DataFrame, other: pl.DataFrame) -> pl.DataFrame:
    """Rows of either that the other has not."""
    return pl.concat([a.join(b, on=a.columns, how="anti", nulls_equal=True) for a, b in ((one, other), (other, one))])


def own(bars: pl.DataFrame) -> list[date]:
    return bars.filter(symbol="A")["ts"].to_list()


@pytest.mark.parametrize("version", FEATURE_SETS)
@settings(max_examples=15, deadline=None)
@given(changed=changed_bars())
def test_every_feature_that_differs_is_touched_by_its_own_lookback(
    version: str, changed: tuple[pl.DataFrame, pl.DataFrame, date, date]
):
    bars, after, low, high = changed
    chosen = feature_set(version)
    one, other = (chosen.compute(frame).with_columns(there=True) for frame in (bars, after))
    both = one.join(other, on=["symbol", "ts"], how="full", coalesce=True, suffix="_after")
    for lookback in {feature.lookback for feature in chosen.features}:
        names = ["there", *(feature.name for feature in chosen.features if feature.lookback == lookback)]
        found = both.filter(pl.any_horizontal(pl.col(name).ne_missing(pl.col(f"{name}_after")) for name in names))
        assert set(found["symbol"]) <= {"A"}
        # what was stored is judged by the bars of then or of now
        for days in (own(bars), own(after)):
            span = reach(days, low, high, lookback) or (low, high)
            assert found["ts"].is_between(low, max(high, span[1])).all(), lookback


@settings(max_examples=25, deadline=None)
@given(changed=changed_bars())
def test_every_label_that_differs_is_touched_by_what_it_is_known_on_and_describes(
    changed: tuple[pl.DataFrame, pl.DataFrame, date, date],
):
    bars, after, low, high = changed
    for version, labels in LABEL_SETS.items():
        found = differing(labels.compute(bars), labels.compute(after))
        assert set(found["symbol"]) <= {"A"}
        for days in (own(bars), own(after)):
            span = reach(days, low, high, label_set(version).lookback) or (low, high)
            assert found.filter(~pl.col("known_on").is_between(low, span[1])).is_empty()
            for label in labels.labels:
                ts = found.filter(label_name=label.name)["ts"]
                about = described(days, low, high, label)
                assert about is None or ts.is_between(about[0], max(about[1], high)).all(), label.name


def test_the_first_and_the_last_date_that_a_bar_touches_do_differ():
    bars = small_market.all_bars().filter(symbol="AAA")
    days = bars["ts"].to_list()
    at = 70
    hit = pl.col("ts") == days[at]
    after = bars.with_columns(pl.when(hit).then(pl.col(name) * 1.1).otherwise(name).alias(name) for name in PRICES)
    features = differing(feature_set("v1").compute(bars), feature_set("v1").compute(after))["ts"]
    assert (features.min(), features.max()) == reach(days, days[at], days[at], feature_set("v1").lookback)
    labels = differing(label_set("v1").compute(bars), label_set("v1").compute(after))
    assert (labels["known_on"].min(), labels["known_on"].max()) == reach(
        days, days[at], days[at], label_set("v1").lookback
    )
    fwd = next(one for one in label_set("v1").labels if one.name == "fwd_ret_60d")
    about = labels.filter(label_name="fwd_ret_60d")["ts"]
    assert (about.min(), about.max()) == described(days, days[at], days[at], fwd)


# --- the whole way, on a market whose warehouse was filled by the domain's functions


@pytest.fixture(scope="module")
def stage(tmp_path_factory: pytest.TempPathFactory) -> tuple[Platform, Market, Made]:
    platform = Platform(tmp_path_factory.mktemp("small"))
    return platform, *small_market.filled(platform)


def touched(stage: tuple[Platform, Market, Made], symbol: str, first: date, last: date) -> Impact:
    platform, market, _ = stage
    return impact(platform.warehouse, market, platform.strategies / "universes", symbol, first, last)


def named(found: Impact) -> dict[str, Touched]:
    return {one.name: one for one in found.touched}


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(symbol=st.sampled_from(SYMBOLS), at=st.integers(0, 130), count=st.integers(1, 3), gone=st.booleans())
def test_every_model_prediction_and_target_that_differs_is_touched(
    stage: tuple[Platform, Market, Made], tmp_path: Path, symbol: str, at: int, count: int, gone: bool
):
    _, market, before = stage
    bars = small_market.all_bars()
    days = bars.filter(symbol=symbol)["ts"].to_list()[at : at + count]
    hit = (pl.col("symbol") == symbol) & pl.col("ts").is_in(days)
    scaled = [pl.when(hit).then(pl.col(name) * 1.3).otherwise(name).alias(name) for name in PRICES]
    after = small_market.make(market, bars.filter(~hit) if gone else bars.with_columns(scaled), tmp_path)
    rows = named(touched(stage, symbol, days[0], days[-1]))

    experiment = market.strategies["forest"].model.experiment_id
    models = rows.get(f"models {experiment}")
    assert set(before.models["model_id"]) - set(after.models["model_id"]) == set(models.keys if models else ())
    scores = differing(*(one.predictions.drop("model_id", "task_id") for one in (before, after)))
    found = rows[f"predictions {experiment}"]
    assert scores.is_empty() or (found.first <= scores["ts"].min() and scores["ts"].max() <= found.last)
    for name, targets in before.targets.items():
        changed = differing(*(one.drop("risk_flags") for one in (targets, after.targets[name])))
        row = rows.get(f"targets {name} 1.0.0")
        assert changed.is_empty() or (row is not None and row.first <= changed["asof"].min()), name


def test_what_a_bar_touches_is_told_with_its_rows_dates_runs_and_what_they_were_made_from(
    stage: tuple[Platform, Market, Made],
):
    _, market, made = stage
    days = small_market.all_bars().filter(symbol="AAA")["ts"].to_list()
    first, last = date(2023, 6, 6), date(2023, 6, 7)
    found = touched(stage, "AAA", first, last)
    rows = named(found)
    assert list(rows)[:3] == ["ohlcv AAA", "features_daily v1", "labels v1"]
    assert rows["ohlcv AAA"] == Touched("ohlcv", "AAA", ("AAA",), first, last, 2, (MARKET_RUN,))
    end = days[min(days.index(last) + 60, len(days) - 1)]
    assert rows["features_daily v1"] == Touched(
        "features_daily", "v1", ("AAA",), first, end, days.index(end) - days.index(first) + 1, (MARKET_RUN,),
        ("ohlcv AAA",),
    )  # fmt: skip
    experiment = market.strategies["forest"].model.experiment_id
    models = rows[f"models {experiment}"]
    assert models.rows == 2  # those of July and August
    assert models.reads == ("features_daily v1", "labels v1")
    assert rows[f"predictions {experiment}"].keys == SYMBOLS
    # donchian holds positions, so that all bars count; no month ends within ten bars
    starts = {name: row.first for name in small_market.SIGNALS if (row := rows.get(f"targets {name} 1.0.0"))}
    assert starts == {"channel": first, "forest": date(2023, 6, 9), "ranks": date(2023, 6, 9)}
    assert {name: rows[f"targets {name} 1.0.0"].reads for name in starts} == {
        "channel": ("ohlcv AAA",),
        "forest": (f"predictions {experiment}", "ohlcv AAA"),
        "ranks": ("features_daily v1",),
    }
    assert rows["backtest_summary ranks 1.0.0"] == Touched(
        "backtest_summary", "ranks 1.0.0", ("ranks",), date(2023, 3, 1), END, 1, ("ranks",),
        ("targets ranks 1.0.0", "ohlcv AAA"),
    )  # fmt: skip
    assert made.targets["ranks"].filter(pl.col("asof") >= date(2023, 6, 9)).height == rows["targets ranks 1.0.0"].rows


def test_the_runs_are_the_symbol_and_then_each_strategy_from_its_first_touched_date(
    stage: tuple[Platform, Market, Made],
):
    found = touched(stage, "BBB", date(2023, 8, 24), date(2023, 8, 24))
    period = (date(2023, 3, 1), END)
    assets = ("predictions", "targets", "backtest_summary", "validation")
    assert found.orders == (
        Rerun("market", "BBB", date(2023, 8, 24), END, ("features_daily", "labels")),
        Rerun("decision", "channel", date(2023, 8, 24), END, assets, period),
        Rerun("decision", "forest", date(2023, 8, 24), END, assets, period),
        Rerun("decision", "ranks", date(2023, 8, 25), END, assets, period),
        Rerun("decision", "trend", date(2023, 8, 31), END, assets, period),
    )


def test_a_bar_before_what_a_strategy_reads_leaves_it_alone(stage: tuple[Platform, Market, Made]):
    rows = named(touched(stage, "AAA", START, START))
    strategies = {one.what.split()[0] for one in rows.values() if one.asset == "targets"}
    # trend looks back ten bars and ranks five; forest's models were trained on the bar, and channel's path begins there
    assert strategies == {"channel", "forest"}
    assert {one.what.split()[0] for one in rows.values() if one.asset == "backtest_summary"} == strategies


def test_a_backtest_over_the_bar_is_touched_where_no_target_is(stage: tuple[Platform, Market, Made]):
    rows = named(touched(stage, "AAA", date(2023, 7, 3), date(2023, 7, 3)))
    assert "targets trend 1.0.0" not in rows
    assert rows["backtest_summary trend 1.0.0"].reads == ("ohlcv AAA",)


@pytest.fixture
def own_stage(stage: tuple[Platform, Market, Made], tmp_path: Path) -> tuple[Platform, Market, Made]:
    """A copy whose rows may be changed."""
    import shutil

    shutil.copytree(stage[0].root, tmp_path / "copy")
    return Platform(tmp_path / "copy"), *stage[1:]


def quarantined(platform: Platform, symbol: str, day: date, table: str = "ohlcv") -> None:
    with platform.warehouse.write() as writer:
        rows = {
            "id": f"{symbol}{day}{table}",
            "table_name": table,
            "symbol": symbol,
            "ts": day,
            "rule": "low is above high",
        }
        writer.append(quarantine.TABLE, pl.DataFrame([{**rows, "row": "{}", "seen_at": NOW}]), run_id="bad")


def test_a_bar_that_was_held_back_is_asked_for_again_first(own_stage: tuple[Platform, Market, Made]):
    platform, day = own_stage[0], date(2023, 8, 24)
    with platform.warehouse.write() as writer:
        writer.delete(ohlcv.TABLE, "symbol = 'BBB' AND ts = ?", [day])
    quarantined(platform, "BBB", day)
    quarantined(platform, "BBB", day, "labels")
    found = touched(own_stage, "BBB", day, day)
    assert found.quarantined == 1
    assert "ohlcv BBB" not in named(found)
    assert found.orders[0] == Rerun("market", "BBB", day, day, ("ohlcv",))
    assert found.orders[1] == Rerun("market", "BBB", day, END, ("features_daily", "labels"))
    told = suspects(platform.warehouse, own_stage[1])
    assert [(one.symbol, one.first, one.last, one.why) for one in told] == [("BBB", day, day, "1 bar(s) in quarantine")]


def test_a_history_rewritten_after_its_features_is_suspect_and_bars_read_again_are_not(
    own_stage: tuple[Platform, Market, Made],
):
    platform, market, _ = own_stage
    assert suspects(platform.warehouse, market) == []
    bars = platform.warehouse.query("SELECT * EXCLUDE (run_id) FROM ohlcv ORDER BY ts")
    for symbol, count in (("AAA", 10), ("BBB", 11)):
        some = bars.filter(symbol=symbol).tail(count).with_columns(ingested_at=pl.lit(RAN))
        with platform.warehouse.write() as writer:
            writer.delete(ohlcv.TABLE, "symbol = ? AND ts >= ?", [symbol, some["ts"][0]])
            writer.append(ohlcv.TABLE, some, run_id="again")
    (one,) = suspects(platform.warehouse, market)
    assert (one.symbol, one.last, one.why) == ("BBB", END, "11 bars rewritten since their features were computed")


def test_validations_that_end_after_the_bar_are_touched_and_those_before_are_not(
    own_stage: tuple[Platform, Market, Made],
):
    platform = own_stage[0]
    row = {"strategy_id": "ranks", "version": "1.0.0", "from_ts": date(2023, 3, 1), "method": "pbo", "measure": "pbo"}
    row |= {"value": 0.1, "verdict": "pass", "threshold": None, "details": "{}", "created_at": NOW}
    with platform.warehouse.write() as writer:
        for run_id, last in (("early", date(2023, 3, 31)), ("late", END)):
            frame = pl.DataFrame([{**row, "backtest_run_id": "ranks", "to_ts": last}], infer_schema_length=None)
            writer.append(validation_results.TABLE, frame, run_id=run_id)
    found = named(touched(own_stage, "AAA", date(2023, 4, 3), date(2023, 4, 3)))["validation_results ranks 1.0.0"]
    assert (found.keys, found.rows, found.reads) == (("late",), 1, ("backtest_summary ranks 1.0.0",))


def test_of_a_version_without_a_file_everything_from_the_bar_on_is_touched(own_stage: tuple[Platform, Market, Made]):
    platform, market, _ = own_stage
    newer = market.strategies["ranks"].model_copy(update={"version": "2.0.0"})
    changed = replace(market, strategies={**market.strategies, "ranks": newer})
    day = date(2023, 6, 6)
    found = impact(platform.warehouse, changed, platform.strategies / "universes", "AAA", day, day)
    assert named(found)["targets ranks 1.0.0"].first == date(2023, 6, 9)
    assert "ranks" not in [one.key for one in found.orders]


def test_a_backtest_of_other_symbols_is_touched_through_a_pooled_model_only(own_stage: tuple[Platform, Market, Made]):
    platform = own_stage[0]
    with platform.warehouse.write() as writer:
        for name in ("ranks", "forest"):
            only = (
                'UPDATE trials SET params = replace(params, \'["AAA","BBB","CCC"]\', \'["BBB"]\') WHERE strategy_id = ?'
            )
            writer._connection.execute(only, [name])
    day = date(2023, 6, 6)
    rows = named(touched(own_stage, "AAA", day, day))
    assert "backtest_summary ranks 1.0.0" not in rows
    assert "backtest_summary forest 1.0.0" in rows


def test_nothing_stored_unknown_symbols_and_reversed_dates_are_one_line_each(
    stage: tuple[Platform, Market, Made], tmp_path: Path
):
    platform, market, _ = stage
    with pytest.raises(ConfigError, match=r"symbol ZZZ is not in universe small \(AAA, BBB, CCC\)"):
        touched(stage, "ZZZ", START, END)
    with pytest.raises(ConfigError, match="dates reversed"):
        touched(stage, "AAA", END, START)
    with pytest.raises(ConfigError, match="no XNYS session between"):
        touched(stage, "AAA", date(2023, 1, 7), date(2023, 1, 8))
    empty = Platform(tmp_path).warehouse
    with pytest.raises(ConfigError, match="no bars of AAA are stored; run `quant ingest --symbols AAA` first"):
        impact(empty, market, platform.strategies, "AAA", START, END)


# --- the command


@pytest.fixture
def quant(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CommandLine:
    platform = two_months(tmp_path)
    model = {**small_market.FOREST["model"], "min_train_rows": 20}
    platform.write_strategy("forest", signal={"type": "model_score", "model": model}, backtest={"from": FEBRUARY})
    return CommandLine(platform, monkeypatch)


FEBRUARY = date(2023, 2, 1)
REFUSED = {
    "impact aaa --from 2023-02-01": "no bars of AAA are stored; run `quant ingest --symbols AAA` first",
    "impact aaa": "no bars of AAA were restated or are in quarantine; give --from and --to for others",
    "impact aaa --restated nope": "run nope restated no bars of AAA; give --from and --to for others",
    "trace -s ranks": "give --symbol for a target, --run for a backtest, or --run and --trade for a trade of it",
    "trace -s ranks --run ab": "no stored backtest's run id begins with 'ab'; none is stored yet",
}


@pytest.mark.parametrize("words", REFUSED)
def test_what_cannot_be_followed_is_refused_in_one_line(quant: CommandLine, words: str):
    assert REFUSED[words] in quant(*words.split(), code=1).error
    assert quant.runs() == []


@pytest.mark.thorough
def test_what_a_restated_history_touched_is_run_again_and_is_then_as_if_made_from_it_at_once(quant: CommandLine):
    platform = quant.platform
    quant("pipeline", "run")
    path = platform.files / "AAA.csv"
    bars = pl.read_csv(path, try_parse_dates=True)
    hit = pl.col("ts") == date(2023, 2, 22)
    bars = bars.with_columns(pl.when(hit).then(pl.col(name) * 1.05).otherwise(name).alias(name) for name in PRICES)
    bars.write_csv(path)
    assert "AAA: history restated: close of 2023-02-22" in quant("ingest", "--symbols", "AAA", "--force").err
    ingested = quant.runs()[-1].run_id

    told = quant("impact", "aaa")
    assert "bars of AAA from 2023-01-03 to 2023-02-28, and what they touched" in told.out
    assert told.out == quant("impact", "aaa", "--restated", ingested).out
    before = len(quant.runs())
    quant("impact", "aaa", "--rerun")
    assert len(quant.runs()) == before + 3  # the symbol, and each strategy

    market = load_markets(platform.settings)[0]
    everything = platform.warehouse.query("SELECT symbol, ts, open, high, low, close, volume FROM ohlcv")
    made = small_market.make(market, everything, platform.root / "models", everything["ts"].max())
    stored = platform.warehouse.query("SELECT * EXCLUDE (run_id, computed_at) FROM features_daily__v1")
    assert differing(stored, made.features).is_empty()
    stored = platform.warehouse.query("SELECT symbol, ts, score FROM predictions")
    assert differing(
        stored, made.predictions.filter(pl.col("ts") >= FEBRUARY).select("symbol", "ts", "score")
    ).is_empty()
    for name, rows in made.targets.items():
        held = platform.warehouse.query(
            'SELECT "asof", symbol, weight, score FROM targets WHERE strategy_id = ?', [name]
        )
        assert differing(held, rows.select(held.columns)).is_empty(), name
