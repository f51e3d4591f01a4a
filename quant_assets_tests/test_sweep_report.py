"""Pictures and report of a sweep: which parameters matter, what a best of many is worth, one page on its own."""

import json
import re
from datetime import date
from typing import Any

import numpy as np
import polars as pl
import pytest

from quant_assets.backtest.sweep_pictures import dimensions, distribution_svg, grid_of, marginal_svg, sweep_png
from quant_assets.backtest.sweep_report import SweepContext, ranked, render
from quant_assets.contracts import TABLES
from quant_assets.validation.sharpe import expected_best

CHANGES = [{"a.x": x, "a.y": y, "a.same": 1} for x in (1, 2, 3) for y in ("slow", "fast")]
SHARPES = np.array([0.1, 0.2, 0.4, 0.5, 0.8, float("nan")])


def results_of(changes: list[dict[str, Any]], sharpes: np.ndarray, **values: Any) -> pl.DataFrame:
    """Rows of `sweep_results`, less run_id."""
    fixed = {"from_ts": date(2015, 1, 2), "to_ts": date(2024, 12, 31), "max_dd": -0.2, "num_trades": 40} | values
    rows = [
        {
            **{column.name: 1.0 if column.type == "DOUBLE" else "x" for column in TABLES["sweep_results"].columns},
            **fixed,
            "cell": number,
            "params": json.dumps(changed),
            "sharpe": None if np.isnan(sharpe) else float(sharpe),
        }
        for number, (changed, sharpe) in enumerate(zip(changes, sharpes, strict=True))
    ]
    return pl.DataFrame(rows, schema=TABLES["sweep_results"].empty().schema)


def context_of(**values: Any) -> SweepContext:
    return SweepContext(**{"sweep_id": "0123", "strategy": {"description": "d"}, "sessions": 2520, "year": 252,
                           "family": "made/tsmom", "configurations": 6, "trials": 6, **values})  # fmt: skip


def test_parameters_come_by_influence_and_those_with_one_value_not_at_all():
    found = dimensions(CHANGES, SHARPES)
    assert [one.name for one in found] == ["a.x", "a.y"]
    assert [one.name for one in dimensions(CHANGES, np.array([0.0, 1.0, 0.1, 1.0, 0.0, 1.0]))] == ["a.y", "a.x"]
    np.testing.assert_allclose(found[0].means(SHARPES), [0.15, 0.45, 0.8])


def test_a_heat_map_has_the_mean_over_all_other_parameters_and_nothing_where_no_cell_is():
    x, y = dimensions(CHANGES, SHARPES)
    np.testing.assert_array_equal(grid_of(y, x, SHARPES), [[0.1, 0.4, 0.8], [0.2, 0.5, np.nan]])
    doubled = dimensions([*CHANGES, CHANGES[0]], np.append(SHARPES, 0.3))
    assert grid_of(doubled[1], doubled[0], np.append(SHARPES, 0.3))[0, 0] == pytest.approx(0.2)


def test_a_parameter_of_many_values_is_shown_in_ranges_of_about_as_many_cells():
    values = np.linspace(0.1, 0.5, 400)
    (one,) = dimensions([{"v": float(value)} for value in values], values)
    assert len(one.labels) == 8
    assert one.labels[0] == "0.1\N{EN DASH}0.149"
    assert np.bincount(one.codes).tolist() == [50] * 8


@pytest.mark.parametrize(("count", "expected"), [(1, 0.0), (10, 0.4979), (1000, 1.0294)])
def test_the_best_by_luck_alone_grows_with_the_number_of_configurations(count: int, expected: float):
    """Ten years, so that a Sharpe ratio of zero has a standard error of 1 / sqrt(10)."""
    assert expected_best(count, 2520, 252) == pytest.approx(expected, abs=5e-5)


def test_luck_alone_is_what_simulated_returns_without_an_edge_show():
    returns = np.random.default_rng(1).standard_normal((200, 100, 252))
    best = (returns.mean(axis=2) / returns.std(axis=2, ddof=1) * 252**0.5).max(axis=1).mean()
    assert best == pytest.approx(expected_best(100, 252, 252), abs=0.08)


def test_cells_are_ranked_by_sharpe_ratio_and_undefined_ones_come_last():
    frame = results_of(CHANGES, np.array([0.1, float("nan"), 0.9, 0.9, -1.0, 0.2]))
    assert ranked(frame)["cell"].to_list() == [2, 3, 5, 0, 4, 1]


def test_the_page_warns_escapes_what_users_wrote_and_needs_nothing_else():
    frame = results_of(CHANGES, SHARPES, strategy_id="waves")
    page = render(frame, context_of(strategy={"description": "<script>x</script>"}, excluded=3, configurations=5000))
    assert page == render(frame.reverse(), context_of(strategy={"description": "<script>x</script>"}, excluded=3,
                                                      configurations=5000))  # fmt: skip
    assert "<script" not in page
    assert "&lt;script&gt;x&lt;/script&gt;" in page
    assert "The best of 6 cells is selected with hindsight" in page
    assert "the best here, 0.80, is not above that" in page
    assert "3 combinations are no valid strategy" in page
    assert "1 cell(s) have no Sharpe ratio" in page
    assert not re.search(r"""@import|(src|href)=["'](?!#)|url\((?!#)""", page)


def test_a_sweep_of_which_no_cell_has_a_sharpe_ratio_still_has_its_page_and_pictures():
    nothing = np.full(6, np.nan)
    found = dimensions(CHANGES, nothing)
    assert "6 cell(s) have no Sharpe ratio" in render(results_of(CHANGES, nothing), context_of())
    for picture in (sweep_png(found, nothing, "none"), sweep_png([], nothing, "none")):
        assert picture.startswith(b"\x89PNG")
    assert marginal_svg(found[0], nothing).startswith("<svg")
    assert distribution_svg(nothing, 0.5).startswith("<svg")
