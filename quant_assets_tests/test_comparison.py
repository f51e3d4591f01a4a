"""Backtests side by side: what is common, what is best, what differs, and run ids that a user may shorten."""

from datetime import date, timedelta

import numpy as np
import polars as pl
import pytest

from quant_assets.backtest.analysis import MEASURES
from quant_assets.backtest.comparison import Line, compare, comparison_png, render, resolve, write_comparison
from quant_assets.core.errors import ConfigError, DataError

MONDAY = date(2024, 1, 1)
FIRST, SECOND = "aaaa0000-1", "bbbb0000-2"


def make_run(run, equity, strategy="demo", start=MONDAY, version="1.0.0", **changes):
    days = [start + timedelta(n) for n in range(len(equity))]
    summary = {
        "strategy_id": strategy,
        "version": version,
        "from_ts": days[0],
        "to_ts": days[-1],
        **dict.fromkeys(("turnover", "win_rate", "avg_trade", "profit_factor"), 0.5),
        "num_trades": 3,
        "fee_bps": 2.0,
        "slippage_bps": 10.0,
        "initial_cash": 100.0,
        "run_id": run,
    } | changes
    curve = pl.DataFrame({"ts": days, "equity": np.asarray(equity, np.float64)})
    return pl.DataFrame([summary]), curve.with_columns(run_id=pl.lit(run), strategy_id=pl.lit(strategy))


def put_together(*runs, order=(FIRST, SECOND), **changes):
    summary, equity = (pl.concat(frames) for frames in zip(*runs, strict=True))
    return compare(order, summary, equity, **changes)


def value(compared, name):
    return next(line for line in (*compared.common, *compared.own) if line.measure.name == name)


def test_curves_start_at_one_on_the_first_common_session():
    early = make_run(FIRST, [50, 100, 110, 121])
    late = make_run(SECOND, [200, 180, 360, 400], "other", start=MONDAY + timedelta(1))
    found = put_together(early, late)
    assert found.curves.columns == ["ts", "demo", "other"]
    assert found.curves.rows() == [
        (MONDAY + timedelta(1), 1.0, 1.0),
        (MONDAY + timedelta(2), 1.1, 0.9),
        (MONDAY + timedelta(3), 1.21, 1.8),
    ]
    assert value(found, "total_return").values == pytest.approx((0.21, 0.8))
    assert value(found, "max_dd").values == pytest.approx((0.0, -0.1))
    assert (found.first, found.last) == (MONDAY + timedelta(1), MONDAY + timedelta(3))


def test_the_best_of_a_line_depends_on_what_is_better():
    named = {one.name: one for one in MEASURES}
    assert Line(named["sharpe"], (1.0, None, 2.0)).best == (False, False, True)
    assert Line(named["vol"], (0.1, 0.2)).best == (True, False)
    assert Line(named["max_dd"], (-0.1, -0.2)).best == (True, False)
    assert Line(named["sharpe"], (1.0, 1.0)).best == (False, False)
    assert Line(named["sharpe"], (1.0, None)).best == (False, False)
    assert Line(named["num_trades"], (1.0, 2.0)).best == (False, False)


def test_only_what_differs_is_listed_with_the_strategy_files_own_names():
    runs = make_run(FIRST, [1, 2, 3]), make_run(SECOND, [1, 2, 3], fee_bps=5.0)
    files = {
        (FIRST, "demo"): {"signal": {"type": "tsmom", "inputs": {"lookback": 20}}, "exits": {"stop_loss": None}},
        (SECOND, "demo"): {"signal": {"type": "tsmom", "inputs": {"lookback": 60}}},
    }
    found = dict(put_together(*runs, configurations=files).differences)
    assert found == {"signal.inputs.lookback": ("20", "60"), "fee_bps": ("2", "5")}
    files.pop((FIRST, "demo"))
    assert dict(put_together(*runs, configurations=files).differences) == {"fee_bps": ("2", "5")}


@pytest.mark.parametrize(
    ("second", "labels"),
    [
        ({"strategy": "other"}, ("demo", "other")),
        ({"version": "1.1.0"}, ("demo 1.0.0", "demo 1.1.0")),
        ({}, ("demo (aaaa0000)", "demo (bbbb0000)")),
    ],
)
def test_labels_are_as_short_as_tells_them_apart(second, labels):
    assert put_together(make_run(FIRST, [1, 2]), make_run(SECOND, [1, 2], **second)).labels == labels


def test_runs_stand_in_the_order_asked_for():
    runs = make_run(FIRST, [1, 2], "a"), make_run(SECOND, [1, 2], "b")
    assert put_together(*runs, order=(SECOND, FIRST)).labels == ("b", "a")


def test_weekends_among_the_sessions_make_a_year_of_365():
    week, fortnight = [1, 2, 3, 4, 5], list(range(1, 15))
    assert put_together(make_run(FIRST, fortnight), make_run(SECOND, fortnight)).year == 365
    assert put_together(make_run(FIRST, week), make_run(SECOND, fortnight)).year == 252


def test_returns_are_correlated_on_common_sessions():
    up = [1, 1.1, 1.1 * 1.2, 1.1 * 1.2 * 1.1]
    down = [1, 0.9, 0.9 * 0.8, 0.9 * 0.8 * 0.9]
    found = put_together(make_run(FIRST, up), make_run(SECOND, down, "other")).correlations
    assert found.tolist() == [[1.0, pytest.approx(-1)], [pytest.approx(-1), 1.0]]


def test_one_backtest_or_too_many_cannot_be_compared():
    with pytest.raises(ConfigError, match=r"1 backtest\(s\) to compare; give runs with 2 to 10"):
        put_together(make_run(FIRST, [1, 2]))
    many = [make_run(FIRST, [1, 2], f"s{n:02d}") for n in range(11)]
    with pytest.raises(ConfigError, match="11 backtest"):
        put_together(*many)


def test_periods_that_do_not_meet_are_an_error_with_both():
    apart = make_run(SECOND, [1, 2], "other", start=date(2025, 1, 1))
    with pytest.raises(DataError, match=r"0 common.*demo 2024-01-01 to 2024-01-02; other 2025-01-01 to 2025-01-02"):
        put_together(make_run(FIRST, [1, 2]), apart)


def test_a_prefix_stands_for_the_one_run_that_it_begins():
    known = ["abc1", "abd2", "x", "xyz"]
    assert resolve(["abd", "abc1", "abd2"], known) == ["abd2", "abc1"]
    assert resolve(["x"], known) == ["x"]
    with pytest.raises(ConfigError, match=r"'ab' begins 2 run ids \(abc1, abd2\); give more"):
        resolve(["ab"], known)
    with pytest.raises(ConfigError, match="begins with 'q'; the newest is abc1"):
        resolve(["q"], known)
    with pytest.raises(ConfigError, match="none is stored yet; run `quant backtest` first"):
        resolve(["q"], [])


def test_the_page_is_whole_and_names_are_escaped(tmp_path):
    hostile = "<script>$x$</script>"
    rng = np.random.default_rng(2)
    runs = [make_run(run, 100 * np.exp(np.cumsum(rng.normal(0, 0.02, 300))), hostile) for run in (FIRST, SECOND)]
    found = put_together(*runs, configurations={(FIRST, hostile): {hostile: hostile}, (SECOND, hostile): {}})
    path = write_comparison(tmp_path / "compare.html", found)
    page = path.read_text(encoding="utf-8")
    assert page == render(found)
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 5
    assert page.count('class="best"') > 5
    assert "nan" not in page.lower().split("<main>")[1]
    png = comparison_png(found)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert len(png) < 60_000
