"""Each check on a tiny warehouse: it passes what is right and shows what was planted."""

import shutil
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest

from quant_assets.contracts import TABLES, Table, features_daily
from quant_assets.core.calendar import TradingCalendar
from quant_assets.core.slices import Slice
from quant_assets.defs import checks
from quant_assets.defs.checks import CHECKS, Check, Scope
from quant_assets.defs.grid import Grid
from quant_assets.features import FEATURE_SETS, feature_set
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.universe import Universe
from quant_assets.warehouse import Warehouse

warnings.simplefilter("ignore", dg.BetaWarning)

NOW = datetime(2024, 1, 5, 22)
SESSIONS = tuple(day for day in (date(2024, 1, 1) + timedelta(n) for n in range(120)) if day.weekday() < 5)
CALENDAR = TradingCalendar("TEST", "UTC", time(16), SESSIONS)
D = SESSIONS
"""D[0], D[1], ...: sessions."""
V1 = features_daily.wide("v1", feature_set("v1").names)

DEFAULTS: dict[str, Any] = {
    "VARCHAR": "x",
    "DATE": D[0],
    "TIMESTAMP": NOW,
    "DOUBLE": 1.0,
    "BIGINT": 50,
    "INTEGER": 5,
    "BOOLEAN": True,
    "VARCHAR[]": [],
}


def strategy(strategy_id: str, **model: Any) -> StrategySpec:
    signal: dict[str, Any] = {
        "type": "factor_rank",
        "inputs": {"feature_version": "v1", "feature_name": "ret_5d"},
    }
    if model:
        signal = {"type": "model_score", "model": model}
    return StrategySpec.model_validate(
        {
            "strategy_id": strategy_id,
            "version": "1.0.0",
            "universe": "small",
            "signal": signal,
            "rebalance": {"frequency": "weekly"},
            "portfolio": {"top_k": 2},
            "supervisor": {"gross_exposure_cap": 1.0, "max_weight_per_symbol": 0.6, "max_positions": 2},
            "backtest": {"from": D[0]},
        }
    )


RANKS, MODEL = strategy("ranks"), strategy("model", task="regression", label="fwd_ret_60d")
assert MODEL.model is not None
EXPERIMENT = MODEL.model.experiment_id


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with all its tables and no row."""
    empty = Warehouse(tmp_path_factory.mktemp("prepared") / "warehouse.duckdb")
    empty.prepare()
    return empty.path


@pytest.fixture
def warehouse(prepared: Path, tmp_path: Path) -> Warehouse:
    return Warehouse(Path(shutil.copy(prepared, tmp_path)))


def scope_of(
    warehouse: Warehouse,
    keys: Sequence[str] = ("A", "B"),
    first: date = D[0],
    last: date = D[9],
    run_id: str | None = None,
    end: date | None = SESSIONS[-1],
    symbols: Sequence[Any] = ("A", "B"),
) -> Scope:
    universe = Universe.model_validate(
        {
            "name": "small",
            "version": "1.0.0",
            "provider": "sample",
            "start": D[0],
            "end": end,
            "symbols": list(symbols),
        }
    )
    strategies = {"model": MODEL, "ranks": RANKS}
    grid = Grid(universe, CALENDAR, tuple(strategies))
    return Scope(warehouse, Slice(first, last, tuple(keys)), run_id, grid, strategies)


def put(warehouse: Warehouse, table: Table | str, *rows: dict[str, Any], run_id: str = "r") -> None:
    """Store rows past the gate; what a row does not say is null where it may be, else some value of the type."""
    table = TABLES[table] if isinstance(table, str) else table
    usual = {column.name: None if column.nullable else DEFAULTS[column.type] for column in table.columns}
    frame = pl.DataFrame([usual | row for row in rows], schema=table.empty().schema, orient="row")
    with warehouse.write() as writer:
        writer.ensure(table)
        writer.append(table, frame, run_id=run_id)


def bar(symbol: str, day: date, close: float = 10.0, **changes: Any) -> dict[str, Any]:
    prices = {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close}
    return {"symbol": symbol, "ts": day, **prices, "adjusted_close": close} | changes


def walk(symbol: str, days: Sequence[date] = D[:10], **changes: Any) -> list[dict[str, Any]]:
    """Bars that rise by a hundredth a session."""
    return [bar(symbol, day, 10.0 * 1.01**n, **changes) for n, day in enumerate(days)]


def found(check: Callable[[Scope], pl.DataFrame], scope: Scope, *columns: str) -> list[tuple[Any, ...]]:
    rows = check(scope)
    return rows.select(columns).rows() if rows.height else []


def named(asset: str, name: str) -> Check:
    return next(one for one in [*CHECKS[asset], *checks.feature_contracts("v1")] if one.name == name)


def test_every_check_has_a_name_of_its_own_and_says_what_it_is_for():
    for one in CHECKS.values():
        assert len({check.name for check in one}) == len(one)
        assert all(check.doc for check in one)
    assert set(CHECKS) == {
        "ohlcv",
        "features_daily",
        "labels",
        "predictions",
        "targets",
        "backtest_summary",
        "validation",
        "event_backtest",
    }


@pytest.mark.parametrize("asset", CHECKS)
def test_on_empty_tables_no_blocking_check_fails(warehouse: Warehouse, asset: str):
    put(warehouse, V1)
    keys = ("A", "B") if asset in ("ohlcv", "features_daily", "labels") else ("model", "ranks")
    scope = scope_of(warehouse, keys)
    assert [one.name for one in CHECKS[asset] if one.blocking and not one.find(scope).is_empty()] == []


@pytest.mark.parametrize(
    ("asset", "suffix", "table", "good", "bad"),
    [
        pytest.param("ohlcv", "", "ohlcv", bar("A", D[0]), {"low": 20.0}, id="ohlcv"),
        pytest.param("features_daily", "_v1", V1, {"symbol": "A"}, {"ret_1d": float("inf")}, id="features"),
        pytest.param(
            "labels", "", "labels", {"symbol": "A", "known_on": D[5]}, {"label_value": float("nan")}, id="labels"
        ),
        pytest.param(
            "targets", "", "targets", {"strategy_id": "ranks", "asof": D[0]}, {"approved": False}, id="targets"
        ),
        pytest.param(
            "predictions",
            "",
            "predictions",
            {"symbol": "A", "model_id": "m", "ts": D[4]},
            {"score": float("nan")},
            id="predictions",
        ),
        pytest.param(
            "backtest_summary", "", "backtest_summary", {"strategy_id": "ranks"}, {"from_ts": D[3]}, id="backtests"
        ),
    ],
)
def test_contract_and_key_are_checked_again_on_what_is_stored(
    warehouse: Warehouse, asset: str, suffix: str, table: Table | str, good: dict[str, Any], bad: dict[str, Any]
):
    put(warehouse, "models", {"model_id": "m", "experiment_id": EXPERIMENT})
    keys = ("A", "B") if asset in ("ohlcv", "features_daily", "labels") else ("model", "ranks")
    scope = scope_of(warehouse, keys)
    contract, key = named(asset, f"contract{suffix}"), named(asset, f"unique_key{suffix}")
    put(warehouse, table, good)
    assert [contract.find(scope).height, key.find(scope).height] == [0, 0]
    put(warehouse, table, good | bad)
    assert contract.find(scope).height
    assert key.find(scope).height == 1
    assert contract.blocking
    assert key.blocking


def test_backtests_of_several_runs_are_no_duplicates(warehouse: Warehouse):
    for run_id in ("r1", "r2"):
        put(warehouse, "backtest_summary", {"strategy_id": "ranks"}, run_id=run_id)
    for name in ("contract", "unique_key"):
        assert named("backtest_summary", name).find(scope_of(warehouse, ("ranks",))).is_empty()


def test_a_check_of_a_run_looks_at_its_own_backtests_only(warehouse: Warehouse):
    put(warehouse, "backtest_summary", {"strategy_id": "ranks", "num_trades": 3}, run_id="old")
    put(warehouse, "backtest_summary", {"strategy_id": "ranks", "num_trades": 30}, run_id="new")
    assert found(checks.few_trades, scope_of(warehouse, ("ranks",), run_id="new")) == []
    assert found(checks.few_trades, scope_of(warehouse, ("ranks",)), "run_id", "num_trades") == [("old", 3)]


def test_a_session_without_a_bar_is_a_gap(warehouse: Warehouse):
    put(warehouse, "ohlcv", *walk("A"), *walk("B", [*D[:4], *D[5:10]]))
    assert found(checks.calendar_gaps, scope_of(warehouse), "symbol", "ts") == [("B", D[4])]
    assert found(checks.calendar_gaps, scope_of(warehouse, last=D[3])) == []


def test_a_gap_at_the_end_or_on_the_only_session_of_a_slice_is_seen(warehouse: Warehouse):
    put(warehouse, "ohlcv", *walk("A", D[:9]), *walk("B"))
    assert found(checks.calendar_gaps, scope_of(warehouse), "symbol", "ts") == [("A", D[9])]
    assert found(checks.calendar_gaps, scope_of(warehouse, first=D[9]), "symbol", "ts") == [("A", D[9])]


def test_before_its_first_bar_and_after_its_listing_a_symbol_has_no_gaps(warehouse: Warehouse):
    put(warehouse, "ohlcv", *walk("A", D[:6]), *walk("B", D[3:10]))
    listed = [{"symbol": "A", "to": D[5]}, "B"]
    assert found(checks.calendar_gaps, scope_of(warehouse, symbols=listed)) == []


def test_of_a_symbol_without_any_bar_every_listed_session_is_a_gap(warehouse: Warehouse):
    put(warehouse, "ohlcv", *walk("A"))
    listed = ["A", {"symbol": "B", "from": D[8]}]
    assert found(checks.calendar_gaps, scope_of(warehouse, symbols=listed), "symbol", "ts") == [
        ("B", D[8]),
        ("B", D[9]),
    ]


def test_a_session_that_has_not_closed_is_no_gap(warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch):
    put(warehouse, "ohlcv", *walk("A", D[:8]), *walk("B", D[:7]))
    monkeypatch.setattr(TradingCalendar, "last_closed", lambda self, now: D[7])
    assert found(checks.calendar_gaps, scope_of(warehouse, end=None), "symbol", "ts") == [("B", D[7])]


def test_five_sessions_with_the_same_four_prices_are_stale_and_four_are_not(warehouse: Warehouse):
    still = [bar("A", day) for day in D[2:7]]
    put(warehouse, "ohlcv", *walk("A", D[:2]), *still, *[bar("B", day) for day in D[:4]])
    assert found(checks.stale_prices, scope_of(warehouse), "symbol", "since", "sessions") == [("A", D[2], 5)]


def test_the_same_prices_of_two_symbols_are_not_stale(warehouse: Warehouse):
    put(warehouse, "ohlcv", *[bar(symbol, day) for symbol in "AB" for day in D[:3]])
    assert found(checks.stale_prices, scope_of(warehouse)) == []


def test_a_jump_beyond_two_fifths_is_an_outlier_unless_it_is_adjusted_for(warehouse: Warehouse):
    fall = [bar("A", D[0], 10.0), bar("A", D[1], 5.5)]
    adjusted = [bar("B", D[0], 10.0, adjusted_close=5.0), bar("B", D[1], 5.0)]
    put(warehouse, "ohlcv", *fall, *adjusted)
    assert found(checks.outlier_returns, scope_of(warehouse), "symbol", "ts") == [("A", D[1])]
    assert checks.outlier_returns(scope_of(warehouse))["ret"].item() == pytest.approx(-0.45)


def test_an_outlier_on_the_first_session_of_a_slice_is_seen_from_the_bar_before(warehouse: Warehouse):
    put(warehouse, "ohlcv", *walk("A", D[:4]), bar("A", D[4], 30.0))
    assert found(checks.outlier_returns, scope_of(warehouse, first=D[4]), "symbol", "ts") == [("A", D[4])]
    assert found(checks.outlier_returns, scope_of(warehouse, last=D[3])) == []


@pytest.mark.parametrize(("after", "split"), [(5.0, 2.0), (1.43, 7.0), (100.0, 0.1), (6.7, 1.5)])
def test_a_jump_by_a_splits_ratio_is_an_unadjusted_split(warehouse: Warehouse, after: float, split: float):
    put(warehouse, "ohlcv", bar("A", D[0], 10.0), bar("A", D[1], after))
    rows = checks.unadjusted_splits(scope_of(warehouse))
    assert rows.select("symbol", "ts").rows() == [("A", D[1])]
    assert rows["split"].item() == pytest.approx(split)


@pytest.mark.parametrize("after", [9.0, 5.5, 12.0])
def test_another_jump_is_none(warehouse: Warehouse, after: float):
    put(warehouse, "ohlcv", bar("A", D[0], 10.0), bar("A", D[1], after))
    assert found(checks.unadjusted_splits, scope_of(warehouse)) == []


def test_a_jump_that_the_universe_calls_real_is_none(warehouse: Warehouse):
    put(warehouse, "ohlcv", bar("A", D[0], 10.0), bar("A", D[1], 5.0))
    assert (
        found(checks.unadjusted_splits, scope_of(warehouse, symbols=[{"symbol": "A", "real_moves": [D[1]]}, "B"])) == []
    )


def test_our_adjustment_is_held_against_the_providers(warehouse: Warehouse):
    halved = [
        bar("A", D[0], 10.0, adjusted_close=5.0, source="alpha_vantage"),
        bar("A", D[1], 5.0, source="alpha_vantage"),
    ]
    put(warehouse, "ohlcv", *halved, *walk("B", source="sample"))
    assert found(checks.adjustment_matches_provider, scope_of(warehouse), "symbol", "ts") == [("A", D[0])]
    put(warehouse, "corporate_actions", {"symbol": "A", "ex_date": D[1], "kind": "split", "value": 2.0})
    assert found(checks.adjustment_matches_provider, scope_of(warehouse)) == []


def test_a_live_universe_is_stale_where_the_last_closed_session_has_no_bar(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
):
    put(warehouse, "ohlcv", *walk("A", D[:10]), *walk("B", D[:9]), *walk("D", D[:3]))
    monkeypatch.setattr(TradingCalendar, "last_closed", lambda self, now: D[9])
    symbols = ["A", "B", "C", {"symbol": "D", "to": D[2]}]
    live = scope_of(warehouse, ("A", "B", "C", "D"), end=None, symbols=symbols)
    assert found(checks.freshness, live, "symbol", "newest", "expected") == [("B", D[8], D[9]), ("C", None, D[9])]
    assert found(checks.freshness, scope_of(warehouse, ("A", "B"))) == []


def test_a_bar_without_a_feature_row_is_found(warehouse: Warehouse):
    put(warehouse, "ohlcv", *walk("A", D[:3]))
    put(warehouse, V1, *[{"symbol": "A", "ts": day} for day in D[:2]])
    assert found(checks.feature_rows_missing, scope_of(warehouse), "symbol", "ts", "feature_version") == [
        ("A", D[2], "v1")
    ]


def test_features_missing_after_the_warm_up_are_found_and_before_it_are_not(warehouse: Warehouse):
    long = D[0] + timedelta(2 * FEATURE_SETS["v1"].lookback + 1)
    late = [long + timedelta(n) for n in range(50)]
    full = dict.fromkeys(feature_set("v1").names, 0.1)
    put(warehouse, "ohlcv", bar("A", D[0]), *walk("A", late))
    put(warehouse, V1, {"symbol": "A", "ts": D[0]}, *[{"symbol": "A", "ts": day} | full for day in late])
    scope = scope_of(warehouse, last=late[-1])
    assert found(checks.feature_nulls, scope) == []
    put(warehouse, V1, {"symbol": "A", "ts": late[-1] + timedelta(1)} | full | {"vol_20d": None})
    scope = replace(scope, slice=Slice(D[0], late[-1] + timedelta(1), ("A",)))
    assert found(checks.feature_nulls, scope, "feature_name") == [("vol_20d",)]


@pytest.mark.parametrize(
    ("name", "known_on", "wrong"),
    [
        ("fwd_ret_5d", D[5], False),
        ("fwd_ret_5d", D[4], True),
        ("fwd_ret_5d", D[6], True),
        ("fwd_ret_5d", date(2024, 1, 6), True),
        ("triple_barrier_20d", D[1], False),
        ("triple_barrier_20d", D[5], False),
        ("triple_barrier_20d", D[6], True),
    ],
)
def test_a_label_is_settled_by_the_session_its_horizon_says(
    warehouse: Warehouse, name: str, known_on: date, wrong: bool
):
    put(warehouse, "ohlcv", *walk("A"))
    put(warehouse, "labels", {"symbol": "A", "ts": D[0], "label_name": name, "horizon": 5, "known_on": known_on})
    assert bool(found(checks.label_horizon, scope_of(warehouse), "symbol")) is wrong


def test_the_horizon_counts_the_symbols_own_bars(warehouse: Warehouse):
    put(warehouse, "ohlcv", *walk("A", [*D[:3], *D[4:10]]))
    put(warehouse, "labels", {"symbol": "A", "ts": D[0], "label_name": "fwd_ret_5d", "horizon": 5, "known_on": D[6]})
    assert found(checks.label_horizon, scope_of(warehouse)) == []


def model(train_to: date, training_date: date) -> dict[str, Any]:
    metrics = f'{{"training_date": "{training_date}"}}'
    return {"model_id": "m", "experiment_id": EXPERIMENT, "train_to": train_to, "metrics": metrics}


@pytest.mark.parametrize(
    ("train_to", "training_date", "wrong"),
    [(D[2], D[4], False), (D[4], D[4], True), (D[5], D[4], True), (D[2], D[5], True)],
)
def test_a_prediction_by_a_model_that_knew_its_day_or_later_is_found(
    warehouse: Warehouse, train_to: date, training_date: date, wrong: bool
):
    put(warehouse, "models", model(train_to, training_date))
    put(warehouse, "predictions", {"symbol": "A", "ts": D[4], "model_id": "m"})
    rows = found(checks.predicted_before_trained, scope_of(warehouse, ("model",)), "symbol", "ts")
    assert rows == ([("A", D[4])] if wrong else [])


def test_predictions_for_another_markets_symbols_are_that_ones_affair(warehouse: Warehouse):
    put(warehouse, "models", model(D[4], D[4]))
    put(warehouse, "predictions", {"symbol": "BTC/USDT", "ts": D[4], "model_id": "m", "score": float("nan")})
    for name in ("predicted_before_trained", "contract"):
        assert named("predictions", name).find(scope_of(warehouse, ("model",))).is_empty()


def test_bars_of_another_market_are_not_waited_for(warehouse: Warehouse):
    put(warehouse, "ohlcv", *walk("A", D[:1]), *walk("B", D[:1]), *walk("BTC/USDT", [*D[:1], D[0] + timedelta(5)]))
    put(warehouse, "models", model(D[0], D[0]))
    put(warehouse, "predictions", *[{"symbol": one, "ts": D[0], "model_id": "m"} for one in "AB"])
    assert found(checks.incomplete_cross_section, scope_of(warehouse, ("model",))) == []


def test_a_session_on_which_too_few_symbols_are_predicted_is_found(warehouse: Warehouse):
    put(warehouse, "ohlcv", *walk("A", D[:3]), *walk("B", D[:3]))
    put(warehouse, "models", model(D[0], D[0]))
    have = [("A", D[0]), ("B", D[0]), ("A", D[1])]
    put(warehouse, "predictions", *[{"symbol": symbol, "ts": day, "model_id": "m"} for symbol, day in have])
    rows = found(checks.incomplete_cross_section, scope_of(warehouse, ("model",)), "ts", "listed", "predicted")
    assert rows == [(D[1], 2, 1), (D[2], 2, 0)]
    assert found(checks.incomplete_cross_section, scope_of(warehouse, ("ranks",))) == []


def weights(day: date, **held: float) -> list[dict[str, Any]]:
    return [
        {"strategy_id": "ranks", "version": "1.0.0", "asof": day, "symbol": symbol, "weight": weight, "approved": True}
        for symbol, weight in held.items()
    ]


@pytest.mark.parametrize(
    ("held", "broken"),
    [
        pytest.param({"A": 0.6, "B": 0.4}, False, id="within the rules"),
        pytest.param({"A": 0.6, "B": 0.5}, True, id="R1, the gross cap"),
        pytest.param({"A": 0.61}, True, id="R2, the largest weight"),
        pytest.param({"A": 0.3, "B": 0.3, "C": 0.3}, True, id="R3, the number of positions"),
        pytest.param({"A": 0.6, "B": -0.5}, True, id="R1 with a short position"),
    ],
)
def test_approved_weights_that_break_a_cap_are_found(warehouse: Warehouse, held: dict[str, float], broken: bool):
    put(warehouse, "targets", *weights(D[1], **held), *weights(D[2], A=0.5))
    rows = found(checks.caps_broken, scope_of(warehouse, ("ranks",)), "strategy_id", "asof")
    assert rows == ([("ranks", D[1])] if broken else [])


def test_targets_of_another_version_of_the_file_count_for_no_cap(warehouse: Warehouse):
    before = [one | {"version": "0.9.0"} for one in weights(D[1], A=0.9, B=0.4)]
    put(warehouse, "targets", *before, *weights(D[1], A=0.6, B=0.4))
    assert found(checks.caps_broken, scope_of(warehouse, ("ranks",))) == []


def test_rejected_candidates_count_for_no_cap(warehouse: Warehouse):
    rejected = [one | {"approved": False, "weight": 0.0} for one in weights(D[1], C=0.0, E=0.0)]
    put(warehouse, "targets", *weights(D[1], A=0.6, B=0.4), *rejected)
    assert found(checks.caps_broken, scope_of(warehouse, ("model", "ranks"))) == []


@pytest.mark.parametrize(
    ("table", "column", "change"),
    [
        (None, "", 0.0),
        ("backtest_summary", "final_equity", 1.0),
        ("backtest_equity", "equity", 1.0),
        ("backtest_trades", "pnl", -1.0),
        ("backtest_symbols", "contribution", 0.01),
    ],
)
def test_accounts_that_do_not_add_up_are_found(warehouse: Warehouse, table: str | None, column: str, change: float):
    rows: dict[str, dict[str, Any]] = {
        "backtest_summary": {"initial_cash": 100.0, "final_equity": 110.0},
        "backtest_equity": {"ts": D[1], "equity": 110.0},
        "backtest_trades": {"pnl": 10.0},
        "backtest_symbols": {"symbol": "A", "contribution": 0.1},
    }
    for name, row in rows.items():
        planted = {column: row[column] + change} if name == table else {}
        put(warehouse, name, {"strategy_id": "ranks"} | row | planted)
    put(warehouse, "backtest_equity", {"strategy_id": "ranks", "ts": D[0], "equity": 100.0})
    scope = scope_of(warehouse, ("ranks",))
    assert found(checks.accounts_do_not_add_up, scope, "strategy_id") == ([("ranks",)] if table else [])


def test_a_backtest_without_a_trade_or_a_curve(warehouse: Warehouse):
    put(warehouse, "backtest_summary", {"strategy_id": "ranks", "initial_cash": 100.0, "final_equity": 100.0})
    scope = scope_of(warehouse, ("ranks",))
    assert found(checks.accounts_do_not_add_up, scope, "strategy_id") == [("ranks",)]
    put(warehouse, "backtest_equity", {"strategy_id": "ranks", "equity": 100.0})
    assert found(checks.accounts_do_not_add_up, scope) == []


def test_fewer_than_thirty_trades_are_said_to_be_few(warehouse: Warehouse):
    put(warehouse, "backtest_summary", {"strategy_id": "ranks", "num_trades": 29}, {"strategy_id": "model"})
    assert found(checks.few_trades, scope_of(warehouse, ("ranks", "model")), "strategy_id", "num_trades") == [
        ("ranks", 29)
    ]
