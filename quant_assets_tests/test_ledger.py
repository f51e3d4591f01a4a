"""The trial ledger: what counts as one trial, as another, and that nothing takes one away."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from quant_assets.contracts import TABLES
from quant_assets.contracts.gate import gate
from quant_assets.strategy import StrategySpec
from quant_assets.strategy.ledger import Counted, Ledger, configuration, counted, family, record
from quant_assets.warehouse import Warehouse
from quant_assets_tests.platform import END, START, strategy

SYMBOLS = ("AAA", "BBB", "CCC")
NOW = datetime(2024, 1, 5, 22)
FAMILY = "small/factor_rank"


def spec_of(**changes: Any) -> StrategySpec:
    return StrategySpec.model_validate(strategy("ranks", **changes))


def entered(spec: StrategySpec, symbols: Sequence[str] = SYMBOLS) -> dict[str, Any]:
    return configuration(spec, symbols)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse.duckdb")


LEDGER = Ledger(FAMILY, SYMBOLS, START, END)


def enter(
    warehouse: Warehouse,
    specs: Sequence[StrategySpec],
    sharpes: Sequence[float | None] | None = None,
    into: Ledger = LEDGER,
    source: Any = "backtest",
    run_id: str = "run",
) -> int:
    returns = np.arange(2.0 * len(specs)).reshape(-1, 2)
    rows = into.rows(specs, sharpes or [1.0] * len(specs), returns, source, NOW)
    with warehouse.write() as writer:
        return record(writer, rows, run_id)


@pytest.mark.parametrize(
    "changes",
    [
        {"strategy_id": "copied"},
        {"version": "2.0.0"},
        {"description": "another one"},
        {"universe": {"symbols": ["CCC", "AAA", "BBB"]}},
        {"backtest": {"from": date(2023, 4, 3), "initial_cash": 5.0}},
        {"backtest": {"from": date(2023, 3, 1), "to": END, "fee_bps": 2.0}},
        {"execution": {"price": "close"}},
    ],
    ids=["id", "version", "description", "the same symbols", "window and cash", "a default", "another default"],
)
def test_names_window_cash_and_defaults_written_out_make_no_other_configuration(changes: dict[str, Any]):
    assert entered(spec_of(**changes)) == entered(spec_of())
    assert LEDGER.trial_id(spec_of(**changes)) == LEDGER.trial_id(spec_of())


@pytest.mark.parametrize(
    "changes",
    [
        {"portfolio": {"top_k": 1}},
        {"rebalance": {"frequency": "monthly"}},
        {"backtest": {"from": date(2023, 3, 1), "to": END, "fee_bps": 0.0}},
        {"execution": {"price": "next_open"}},
        {"supervisor": {"max_weight_per_symbol": 0.4}},
        {"signal": {"type": "factor_rank", "inputs": {"feature_version": "v1", "feature_name": "ret_60d"}}},
    ],
    ids=["portfolio", "rebalance", "costs", "fills", "supervisor", "signal"],
)
def test_whatever_changes_the_result_is_another_configuration(changes: dict[str, Any]):
    assert entered(spec_of(**changes)) != entered(spec_of())
    assert LEDGER.trial_id(spec_of(**changes)) != LEDGER.trial_id(spec_of())


def test_other_symbols_and_another_window_are_other_trials_and_another_market_is_another_family():
    spec = spec_of()
    others = [
        replace(LEDGER, symbols=("AAA", "BBB")),
        replace(LEDGER, last=date(2023, 8, 30)),
        replace(LEDGER, family=family(spec, "large")),
    ]
    assert family(spec, "small") == FAMILY
    assert len({one.trial_id(spec) for one in (LEDGER, *others)}) == 4
    assert replace(LEDGER, symbols=("CCC", "BBB", "AAA")).trial_id(spec) == LEDGER.trial_id(spec)


def test_a_trial_entered_again_is_counted_once_and_keeps_who_came_first(warehouse: Warehouse):
    assert enter(warehouse, [spec_of()], source="sweep", run_id="first") == 1
    assert enter(warehouse, [spec_of(strategy_id="copied"), spec_of(portfolio={"top_k": 1})], run_id="second") == 1
    assert enter(warehouse, [spec_of(), spec_of()], [9.0, 9.0], run_id="third") == 0
    stored = warehouse.query("SELECT strategy_id, source, sharpe, run_id FROM trials ORDER BY run_id")
    assert stored.rows() == [("ranks", "sweep", 1.0, "first"), ("ranks", "backtest", 1.0, "second")]


def test_a_grown_window_is_another_trial_of_the_same_configuration(warehouse: Warehouse):
    enter(warehouse, [spec_of()], [0.5])
    enter(warehouse, [spec_of()], [0.75], replace(LEDGER, last=date(2023, 9, 1)))
    enter(warehouse, [spec_of(portfolio={"top_k": 1})], [None])
    enter(warehouse, [spec_of()], [3.0], replace(LEDGER, family="large/factor_rank"))
    best = replace(LEDGER, last=date(2023, 9, 1)).trial_id(spec_of())
    small = Counted(FAMILY, 2, 3, 2, 0.75, 0.625, best, "ranks")
    assert counted(warehouse, FAMILY) == [small]
    assert [(one.family, one.trials) for one in counted(warehouse)] == [("large/factor_rank", 1), (FAMILY, 3)]
    assert counted(warehouse, "none/tsmom") == []


def test_a_trial_without_a_sharpe_ratio_counts_too(warehouse: Warehouse):
    assert enter(warehouse, [spec_of(), spec_of(portfolio={"top_k": 1})], [float("nan"), None]) == 2
    (found,) = counted(warehouse)
    assert (found.trials, found.best, found.best_trial) == (2, None, None)


def test_returns_are_kept_one_float_per_session(warehouse: Warehouse):
    rows = LEDGER.rows([spec_of()], [1.0], np.array([[0.1, np.nan, -0.25]]), "backtest", NOW)
    assert gate(TABLES["trials"], rows).good.equals(rows)
    with warehouse.write() as writer:
        record(writer, rows, "run")
    (kept,) = warehouse.query("SELECT returns FROM trials")["returns"].to_list()
    np.testing.assert_array_equal(np.array(kept, np.float32), np.array([0.1, np.nan, -0.25], np.float32))


def test_trials_of_a_transaction_that_fails_are_not_entered(warehouse: Warehouse):
    rows = LEDGER.rows([spec_of()], [1.0], np.zeros((1, 2)), "sweep", NOW)

    def failing() -> None:
        with warehouse.write() as writer:
            record(writer, rows, "run")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        failing()
    assert counted(warehouse) == []


def test_the_configuration_can_be_read_back(warehouse: Warehouse):
    enter(warehouse, [spec_of()])
    told = warehouse.query(
        "SELECT params ->> '$.signal.inputs.feature_name' AS feature, params -> 'symbols' AS s FROM trials"
    )
    assert told.rows() == [("ret_5d", '["AAA","BBB","CCC"]')]
