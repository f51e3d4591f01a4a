"""The factor report: figures by hand and against pandas and scipy, what must not move them, pictures, the asset."""

import html
import math
import re
from collections.abc import Sequence
from datetime import date, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from quant_assets.contracts import TABLES, features_daily
from quant_assets.core.calendar import trading_calendar
from quant_assets.core.errors import ConfigError
from quant_assets.core.matrices import matrices
from quant_assets.definitions import load
from quant_assets.defs.factors import FACTOR_TABLES, factor_assets, factor_job, factor_page_path
from quant_assets.defs.resources import resources
from quant_assets.features import feature_set
from quant_assets.labels import label_set
from quant_assets.validation import factors
from quant_assets.validation.factor_page import FactorContext, render_factor_page
from quant_assets.validation.factor_pictures import factor_png
from quant_assets.validation.factors import (
    FactorReport,
    adjusted,
    factor_report,
    forward_returns,
    lags_of,
    newey_west_t,
    p_value,
)
from quant_assets_tests.platform import (
    DAGSTERS_OWN,
    LISTED,
    LISTED_LATE,
    QUIET,
    START,
    SYMBOLS,
    Platform,
    contents,
    small_platform,
)
from quant_assets_tests.platform import bars_of as bars_of_symbol

pytestmark = DAGSTERS_OWN

NAN = math.nan
SESSIONS = trading_calendar("XNYS").between(date(2020, 1, 2), date(2021, 12, 31))


def bars_of(close: np.ndarray) -> pl.DataFrame:
    """Bars of symbols A, B, ... from closes, (sessions, symbols), NaN where there is no bar."""
    rows = [
        (chr(65 + symbol), SESSIONS[row], close[row, symbol])
        for row, symbol in zip(*(~np.isnan(close)).nonzero(), strict=True)
    ]
    bars = pl.DataFrame(rows, schema={"symbol": pl.String, "ts": pl.Date, "close": pl.Float64}, orient="row")
    return bars.with_columns(open="close")


def measured(
    values: np.ndarray,
    close: np.ndarray,
    horizons: Sequence[int] = (1,),
    *,
    listed: np.ndarray | None = None,
    q: int = 3,
) -> FactorReport:
    """The report on features `f0`, `f1`, ... from (features, sessions, symbols) and closes, (sessions, symbols)."""
    names = [f"f{number}" for number in range(len(values))]
    days = SESSIONS[: len(close)]
    symbols = [chr(65 + symbol) for symbol in range(close.shape[1])]
    table = (
        pl.DataFrame({"symbol": symbols})
        .join(pl.DataFrame({"ts": days}), how="cross")
        .with_columns(pl.Series(name, feature.T.ravel()) for name, feature in zip(names, values, strict=True))
    )
    return factor_report(
        lambda first, last: table.filter(pl.col("ts").is_between(first, last)),
        names,
        matrices(bars_of(close), days, symbols),
        np.ones(close.shape, bool) if listed is None else listed,
        horizons=horizons,
        quantiles=q,
    )


def random_market(sessions: int, symbols: int, features: int = 2, holes: float = 0.1, seed: int = 1):
    random = np.random.default_rng(seed)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.02, (sessions, symbols)), axis=0))
    values = random.normal(size=(features, sessions, symbols)).round(1)
    close[random.random(close.shape) < holes / 2] = NAN
    values[random.random(values.shape) < holes] = NAN
    return values, close


# three symbols, three sessions: the value of the first session ranks them B < A < C
CLOSE = np.array([[10.0, 10.0, 10.0], [11.0, 10.0, 13.0], [11.0, 12.0, 13.0]])
VALUES = np.array([[[2.0, 1.0, 4.0], [3.0, 2.0, 1.0], [NAN, NAN, NAN]]])


def test_a_cross_section_by_hand():
    report = measured(VALUES, CLOSE)
    first, second = report.ic.iter_rows(named=True)
    # values 2, 1, 4 and returns 0.1, 0, 0.3: deviations -1/3, -4/3, 5/3 and -1/30, -4/30, 5/30
    assert (first["ts"], first["symbols"]) == (SESSIONS[0], 3)
    assert first["ic"] == pytest.approx(1.0, abs=1e-15)
    assert first["rank_ic"] == 1.0
    # values 3, 2, 1 and returns 0, 0.2, 0: ranks 3, 2, 1 and 1.5, 3, 1.5
    assert second["ic"] == pytest.approx(0.0, abs=1e-15)
    assert second["rank_ic"] == 0.0
    row = report.summary.row(0, named=True)
    assert (row["dates"], row["mean_rank_ic"], row["std_rank_ic"]) == (2, 0.5, pytest.approx(math.sqrt(0.5)))
    assert row["rank_icir"] == pytest.approx(math.sqrt(0.5))
    assert row["coverage"] == pytest.approx(6 / 9)
    assert (row["from_ts"], row["to_ts"]) == (SESSIONS[0], SESSIONS[2])


def test_quantile_returns_and_spread_by_hand():
    report = measured(VALUES, CLOSE)
    # lowest to highest: B, A, C earn 0, 0.1, 0.3; then C, B, A earn 0, 0.2, 0
    assert report.quantiles["mean_ret"].to_list() == pytest.approx([0.0, 0.15, 0.15])
    assert report.quantiles["mean_excess"].to_list() == pytest.approx([-0.1, 0.05, 0.05])
    assert report.quantiles["dates"].to_list() == [2, 2, 2]
    assert report.summary["spread"][0] == pytest.approx(0.15)


def test_turnover_and_autocorrelation_by_hand():
    # the top symbol is C, then A; ranks 2, 1, 3 become 3, 2, 1: deviations 0, -1, 1 and 1, 0, -1
    row = measured(VALUES, CLOSE).summary.row(0, named=True)
    assert row["turnover"] == 1.0
    assert row["autocorrelation"] == pytest.approx(-0.5)


def test_the_correlation_of_two_factors_by_hand():
    other = VALUES.copy()
    other[0, 1] = [2.0, 3.0, 1.0]
    report = measured(np.concatenate([VALUES, other]), CLOSE)
    # ranks agree in the first session; 3, 2, 1 and 2, 3, 1 correlate by 0.5 in the second
    assert report.correlations.rows() == [("f0", "f1", 0.75, 2), ("f1", "f0", 0.75, 2)]


def test_forward_returns_count_the_symbols_own_sessions():
    close = np.array([[1.0], [NAN], [2.0], [3.0]])
    assert forward_returns(close, [1, 2])[0, :, 0].tolist() == pytest.approx([1.0, NAN, 0.5, NAN], nan_ok=True)
    assert forward_returns(close, [1, 2])[1, :, 0].tolist() == pytest.approx([2.0, NAN, NAN, NAN], nan_ok=True)


def test_forward_returns_are_the_labels_bit_for_bit():
    _, close = random_market(60, 4)
    labels = label_set("v1").compute(bars_of(close)).filter(label_name="fwd_ret_5d")
    ahead = forward_returns(close, [5])[0]
    rows = [SESSIONS.index(day) for day in labels["ts"]]
    columns = [ord(symbol) - 65 for symbol in labels["symbol"]]
    assert ahead[rows, columns].tolist() == labels["label_value"].to_list()
    assert np.count_nonzero(~np.isnan(ahead)) == labels.height


def test_too_few_symbols_and_constant_cross_sections_have_no_ic():
    close = np.array([[10.0, 10, 10], [11, 12, 13], [12, 13, 15], [12, 13, 15], [12, 13, 16]])
    values = np.array([[[1.0, 2, NAN], [5, 5, 5], [1, 2, 3], [1, 2, 3], [1, 2, 3]]])
    report = measured(values, close)
    # in the third session every return is zero
    assert report.ic["ts"].to_list() == [SESSIONS[3]]
    assert report.quantiles["dates"].to_list() == [2, 2, 2]


def test_equal_values_share_their_mean_rank_and_their_quantile():
    close = np.array([[10.0, 10, 10, 10], [11, 12, 13, 14]])
    report = measured(np.array([[[1.0, 1, 2, 3], [NAN] * 4]]), close, q=4)
    expected = stats.spearmanr([1, 1, 2, 3], [1, 2, 3, 4]).statistic
    assert report.ic["rank_ic"].to_list() == pytest.approx([expected])
    # ranks 1.5, 1.5, 3, 4 fill the quantiles 1, 1, 3, 4
    assert report.quantiles["mean_ret"].to_list() == [pytest.approx(0.15), None, pytest.approx(0.3), pytest.approx(0.4)]
    assert report.summary["spread"][0] == pytest.approx(0.25)


def test_quantiles_are_those_of_pandas():
    random = np.random.default_rng(3)
    for symbols in (5, 7, 11, 20):
        value, close = random.normal(size=symbols), np.array([[10.0] * symbols, 10 + random.random(symbols)])
        report = measured(np.array([[value, [NAN] * symbols]]), close, q=5)
        expected = pd.Series(close[1] / close[0] - 1).groupby(pd.qcut(value, 5, labels=False)).mean()
        assert report.quantiles["mean_ret"].to_list() == pytest.approx(expected.to_list())


def test_with_fewer_symbols_than_quantiles_the_middle_ones_stay_empty():
    values, close = np.full((1, 2, 5), NAN), np.array([[10.0] * 5, [11, 12, 13, NAN, NAN]])
    values[0, 0, :3] = [3, 1, 2]
    report = measured(values, close, q=5)
    assert report.quantiles["dates"].to_list() == [1, 0, 1, 0, 1]
    assert report.summary["spread"][0] == pytest.approx(-0.1)


def naive(values: np.ndarray, close: np.ndarray, horizon: int) -> dict[str, float]:
    """Figures of one feature by pandas and scipy, a session at a time; closes without holes."""
    ahead = pd.DataFrame(close).shift(-horizon) / close - 1
    plain, by_rank, kept, fresh = [], [], [], []
    for t in range(len(close)):
        both = np.isfinite(values[t]) & ahead.iloc[t].notna().to_numpy()
        if both.sum() >= 3:
            plain.append(stats.pearsonr(values[t][both], ahead.iloc[t][both]).statistic)
            by_rank.append(stats.spearmanr(values[t][both], ahead.iloc[t][both]).statistic)
        if t >= horizon:
            now, then = pd.Series(values[t]).rank(), pd.Series(values[t - horizon]).rank()
            kept.append(now.corr(then))
            tops = [set(np.flatnonzero(pd.qcut(ranks, 4, labels=False) == 3)) for ranks in (now, then)]
            fresh.append(len(tops[0] - tops[1]) / len(tops[0]))
    return {
        "mean_ic": float(np.mean(plain)),
        "std_ic": float(np.std(plain, ddof=1)),
        "mean_rank_ic": float(np.mean(by_rank)),
        "rank_icir": float(np.mean(by_rank) / np.std(by_rank, ddof=1)),
        "autocorrelation": float(np.mean(kept)),
        "turnover": float(np.mean(fresh)),
    }


@pytest.mark.parametrize("horizon", [1, 5])
def test_the_summary_is_that_of_pandas_and_scipy(horizon: int):
    random = np.random.default_rng(5)
    close = 100 * np.exp(np.cumsum(random.normal(0, 0.02, (40, 9)), axis=0))
    values = random.normal(size=(1, 40, 9))
    values[random.random(values.shape) < 0.1] = NAN
    row = measured(values, close, [horizon], q=4).summary.row(0, named=True)
    expected = naive(values[0], close, horizon)
    assert {name: row[name] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_the_correlation_of_factors_is_that_of_ranks_over_common_symbols():
    values, close = random_market(30, 8, features=3)
    found = measured(values, close).correlations
    for one, other, correlation, dates in found.iter_rows():
        pair = [pd.DataFrame(values[int(name[1:])]).rank(axis=1) for name in (one, other)]
        expected = pair[0].corrwith(pair[1], axis=1)
        assert dates == 30
        assert correlation == pytest.approx(expected.mean(), rel=1e-12)


def test_the_t_statistic_is_newey_wests():
    series = np.random.default_rng(0).normal(0.1, 1.0, 50)
    assert (lags_of(1, 50), lags_of(20, 50)) == (3, 38)
    apart = series - series.mean()
    covariance = [float(apart[lag:] @ apart[: 50 - lag]) / 50 for lag in range(4)]
    variance = covariance[0] + 2 * sum((1 - lag / 4) * covariance[lag] for lag in (1, 2, 3))
    variance /= 1 - 4 / 50 + (4 / 50) ** 2 / 3
    assert newey_west_t(series, 1) == pytest.approx(series.mean() / math.sqrt(variance / 50))


def test_overlapping_returns_do_not_make_noise_significant():
    random = np.random.default_rng(11)
    shares = {}
    for horizon in (1, 5, 20):
        noise = random.normal(size=(1000, 400 + horizon - 1))
        summed = np.lib.stride_tricks.sliding_window_view(noise, horizon, axis=1).sum(axis=2)
        p_values = [p_value(newey_west_t(series, horizon) or 0.0, horizon, 400) for series in summed]
        shares[horizon] = float(np.mean(np.array(p_values) < 0.05))
    assert all(0.03 <= share <= 0.08 for share in shares.values()), shares


def test_a_window_of_few_independent_stretches_has_no_t_statistic():
    assert newey_west_t(np.arange(100.0), 60) is None
    assert newey_west_t(np.ones(50), 1) is None
    assert newey_west_t(np.empty(0), 1) is None


def test_p_values_are_adjusted_for_how_many_were_tried():
    assert adjusted(np.array([0.01, 0.04, 0.03])).tolist() == pytest.approx([0.03, 0.04, 0.04])
    assert adjusted(np.array([NAN, 0.5, 0.9])).tolist() == pytest.approx([NAN, 0.9, 0.9], nan_ok=True)
    p_values = np.random.default_rng(2).random(30)
    assert adjusted(p_values).tolist() == pytest.approx(stats.false_discovery_control(p_values).tolist())


def same(one: FactorReport, other: FactorReport, *frames: str) -> None:
    for frame in frames or ("summary", "ic", "quantiles", "correlations"):
        assert getattr(one, frame).equals(getattr(other, frame)), frame


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_a_rising_function_of_a_feature_changes_nothing_but_the_plain_ic(seed: int):
    values, close = random_market(25, 6, seed=seed)
    one, other = measured(values, close, [1, 3]), measured(np.exp(values) * 7 - 2, close, [1, 3])
    plain = ["mean_ic", "std_ic", "icir", "ic_t"]
    assert one.summary.drop(plain).equals(other.summary.drop(plain))
    assert one.ic.drop("ic").equals(other.ic.drop("ic"))
    same(one, other, "quantiles", "correlations")


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 1000))
def test_the_opposite_feature_has_the_opposite_ic(seed: int):
    values, close = random_market(25, 6, seed=seed)
    one, other = measured(values, close), measured(-values, close)
    assert one.ic["rank_ic"].to_list() == (-other.ic["rank_ic"]).to_list()
    assert one.summary["mean_ic"].to_list() == pytest.approx((-other.summary["mean_ic"]).to_list())
    same(one, other, "correlations")


def test_the_order_of_symbols_does_not_move_ranks():
    values, close = random_market(40, 7)
    turned = np.random.default_rng(0).permutation(7)
    one, other = measured(values, close), measured(values[:, :, turned], close[:, turned])
    assert one.ic["rank_ic"].equals(other.ic["rank_ic"])
    same(one, other, "correlations")


def test_nothing_reads_past_the_window():
    values, close = random_market(80, 6)
    changed, future = values.copy(), close.copy()
    changed[:, 50:], future[50:] = 99.0, 1.0
    short = measured(values[:, :50], close[:50], [1, 10])
    whole, other = measured(values, close, [1, 10]), measured(changed, future, [1, 10])
    assert short.ic.filter(horizon=10)["ts"].max() == SESSIONS[39]
    known = (pl.col("horizon") == 1) & (pl.col("ts") < SESSIONS[44]) | (pl.col("ts") < SESSIONS[35])
    for report in (whole, other):
        assert report.ic.filter(known).equals(short.ic.filter(known))


def test_the_report_does_not_depend_on_how_many_sessions_are_read_at_a_time(monkeypatch: pytest.MonkeyPatch):
    values, close = random_market(90, 6, features=3)
    whole = measured(values, close, [1, 7])
    monkeypatch.setattr(factors, "_CELLS", 1)
    same(whole, measured(values, close, [1, 7]))
    monkeypatch.setattr(factors.os, "cpu_count", lambda: 7)
    same(whole, measured(values, close, [1, 7]))


def test_cells_outside_the_listing_do_not_count():
    values, close = random_market(30, 5, holes=0.0)
    listed = np.ones(close.shape, bool)
    listed[:10, 4] = False
    gone, hidden = values.copy(), close.copy()
    gone[:, :10, 4], hidden[:10, 4] = NAN, NAN
    one = measured(values, close, listed=listed)
    assert one.summary["coverage"].to_list() == [1.0, 1.0]
    same(one, measured(gone, hidden, listed=listed))


def test_values_that_are_no_numbers_count_as_missing():
    values, close = random_market(20, 4, holes=0.0)
    gone, odd = values.copy(), values.copy()
    gone[0, 3, 1], odd[0, 3, 1] = NAN, math.inf
    same(measured(gone, close), measured(odd, close))


def test_huge_and_tiny_values_have_the_ic_of_plain_ones():
    values, close = random_market(20, 5, holes=0.0)
    for factor in (1e200, 1e-200):
        assert measured(values * factor, close).ic["ic"].to_list() == pytest.approx(
            measured(values, close).ic["ic"].to_list()
        )


def test_values_further_apart_than_a_float_can_say_have_a_rank_ic_only():
    report = measured(np.array([[[1.7e308, -1.7e308, -1.6e308], [NAN] * 3, [NAN] * 3]]), CLOSE)
    assert report.ic.select("ic", "rank_ic").row(0) == (None, 0.5)


def test_a_feature_without_a_value_has_a_row_that_says_so():
    values, close = random_market(20, 5)
    values[1] = NAN
    report = measured(values, close)
    empty = report.summary.row(1, named=True)
    assert (empty["dates"], empty["coverage"]) == (0, 0.0)
    assert all(empty[name] is None for name in ("mean_ic", "rank_ic_t", "p_adjusted", "spread", "turnover"))
    assert report.correlations["correlation"].to_list() == [None, None]
    assert report.ranking["feature_name"].to_list() == ["f0", "f1"]
    assert report.strongest(5)["feature_name"].to_list() == ["f0"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"horizons": (0,)}, "horizon 0 looks back"),
        ({"horizons": (1, 20)}, "horizon 20 is not shorter than the window of 20 sessions"),
        ({"horizons": (5, 5)}, r"horizons are \[5, 5\]; name each once"),
        ({"horizons": ()}, "at least one"),
        ({"q": 1}, "quantiles is 1"),
    ],
)
def test_what_cannot_be_measured_is_refused(changes: dict, words: str):
    values, close = random_market(20, 5)
    with pytest.raises(ConfigError, match=words):
        measured(values, close, **changes)


def test_two_symbols_are_no_cross_section():
    with pytest.raises(ConfigError, match=r"2 symbol\(s\) make no cross-section"):
        measured(np.ones((1, 20, 2)), np.ones((20, 2)))


CONTEXT = FactorContext(market="<b>market</b> 1.0.0", version="v1", symbols=6, run_id="run-1", code_version="abc")


def page_of(report: FactorReport) -> str:
    return render_factor_page(report, CONTEXT)


@pytest.fixture(scope="module")
def report() -> FactorReport:
    values, close = random_market(120, 6, features=4)
    return measured(values, close, [1, 5, 50])


def test_the_page_fetches_nothing_and_escapes_what_it_is_given(report: FactorReport):
    page = page_of(report)
    assert "&lt;b&gt;market" in page
    assert "<script" not in page
    assert not re.search(r"src=|href=\"(?!#)|url\((?!#)|@import", page)
    ids = re.findall(r" id=\"([^\"]+)\"", page)
    assert len(ids) == len(set(ids))


def test_the_page_says_how_many_were_tried_and_what_chance_explains(report: FactorReport):
    page = html.unescape(page_of(report))
    assert report.tests == 8
    assert "8 pairs of factor and horizon were tried" in page
    assert "Bonferroni's rule asks for a plain one below 0.0063" in page
    assert "A cross-section of 5 symbols says little: pure noise has a rank IC of ±0.50" in page
    assert "The window holds too few independent stretches of 50 sessions" in page
    assert page.count("chance explains it") + page.count("more than chance<") == 4


def test_the_same_report_gives_the_same_page_and_picture(report: FactorReport):
    assert page_of(report) == page_of(report)
    assert factor_png(report, "a $title$") == factor_png(report, "a $title$")


def test_of_many_factors_the_page_shows_both_ends():
    values, close = random_market(60, 6, features=50)
    page = page_of(measured(values, close))
    assert "the first and last 20 of 50" in page
    assert page.count('scope="row"') == 80
    assert len(factor_png(measured(values, close), "many")) < 100_000


def test_a_window_without_a_t_statistic_still_makes_a_page_and_a_picture():
    values, close = random_market(6, 5)
    few = measured(values, close)
    assert few.tests == 0
    assert "too few dates" in page_of(few)
    assert factor_png(few, "few").startswith(b"\x89PNG")


def stored(root: Path, version: str = "v1") -> Platform:
    """A small platform with bars and features of `version`, put there without a run."""
    platform = small_platform(root)
    bars = pl.concat(bars_of_symbol(symbol, LISTED if symbol == LISTED_LATE else START) for symbol in SYMBOLS)
    now = pl.lit(datetime(2024, 1, 1))
    features = feature_set(version)
    table = features_daily.wide(version, features.names)
    raw = bars.with_columns(adjusted_close="close", source=pl.lit("files"), ingested_at=now)
    with platform.warehouse.write() as writer:
        writer.ensure(table)
        writer.append(TABLES["ohlcv"], raw, run_id="r")
        writer.append(table, features.compute(bars).with_columns(computed_at=now), run_id="r")
    return platform


def run_report(platform: Platform, partition: str = "v1", **config: object) -> dg.ExecuteInProcessResult:
    assets = factor_assets(platform.grid(), platform.settings)
    return dg.materialize(
        assets,
        partition_key=partition,
        resources=resources(platform.settings),
        run_config={**QUIET, "ops": {"factor_report": {"config": {"horizons": [1, 5], **config}}}},
        raise_on_error=False,
    )


def stored_by(platform: Platform) -> dict[str, pl.DataFrame]:
    return contents(platform.warehouse, [table.name for table in FACTOR_TABLES])


def failure_of(result: dg.ExecuteInProcessResult) -> str:
    failed = result.filter_events(lambda event: event.is_step_failure)[0]
    return str(failed.step_failure_data.user_failure_data.description)


@pytest.mark.slow
def test_a_run_stores_the_report_writes_its_page_and_shows_a_picture(tmp_path: Path):
    platform = stored(tmp_path)
    result = run_report(platform)
    assert result.success
    tables = stored_by(platform)
    names = feature_set("v1").names
    assert {name: frame.height for name, frame in tables.items() if name != "factor_ic"} == {
        "factor_summary": 2 * len(names),
        "factor_quantiles": 2 * len(names) * 3,
        "factor_correlations": len(names) * (len(names) - 1),
    }
    assert set(tables["factor_ic"]["feature_name"]) == set(names)
    assert tables["factor_ic"]["ts"].min() == LISTED
    summary = platform.warehouse.query("SELECT * FROM factor_summary")
    assert set(summary["run_id"]) == {result.run_id}
    assert set(summary["market"]) == {"small"}
    page = factor_page_path(platform.settings, "small", "v1")
    assert page == platform.home / "reports" / "factors" / "small" / "v1.html"
    assert "A cross-section of 3 symbols says little" in page.read_text()
    (materialized,) = result.asset_materializations_for_node("factor_report")
    assert materialized.partition == "v1"
    assert "data:image/png;base64," in str(materialized.metadata["rank IC"].value)
    assert materialized.metadata["pairs tested"].value == 16
    assert {one.check_name: one.passed for one in result.get_asset_check_evaluations()} == {
        "contract": True,
        "forward_returns_closed": True,
    }


@pytest.mark.slow
def test_a_rerun_replaces_the_report_and_leaves_other_sets_and_markets(tmp_path: Path):
    platform = stored(tmp_path)
    assert run_report(platform).success
    once = stored_by(platform)
    with platform.warehouse.write() as writer:
        for name in once:
            other = once[name].with_columns(market=pl.lit("coins"), computed_at=pl.lit(datetime(2024, 1, 1)))
            writer.append(TABLES[name], other, run_id="other")
    assert run_report(platform).success
    twice = stored_by(platform)
    for name in once:
        assert twice[name].filter(market="small").equals(once[name])
        assert twice[name].height == 2 * once[name].height
    assert run_report(platform, horizons=[1], from_date="2023-04-01").success
    assert set(stored_by(platform)["factor_ic"].filter(market="small")["horizon"]) == {1}


@pytest.mark.slow
def test_bad_input_is_one_clear_line_before_anything_is_stored(tmp_path: Path):
    platform = stored(tmp_path)
    for config, words in (
        ({"horizons": [0]}, "horizon 0 looks back"),
        ({"horizons": [200]}, "horizon 200 is not shorter than the window of 167 sessions"),
        ({"quantiles": 1}, "quantiles is 1"),
        ({"from_date": "yesterday"}, "write from_date and to_date as YYYY-MM-DD"),
        ({"from_date": "2023-06-01", "to_date": "2023-05-01"}, "dates reversed"),
        ({"from_date": "2024-06-01", "to_date": "2024-07-01"}, "no features of version v1 are stored from 2024-06-01"),
    ):
        assert words in failure_of(run_report(platform, **config))
    assert all(frame.is_empty() for frame in stored_by(platform).values())


@pytest.mark.slow
def test_a_feature_set_that_is_not_stored_is_named(tmp_path: Path):
    platform = small_platform(tmp_path)
    assert "no features of version v1 are stored" in failure_of(run_report(platform))


def test_each_market_has_a_report_and_a_job_of_its_own(tmp_path: Path):
    platform = small_platform(tmp_path)
    platform.write_coins()
    grids = [market.grid for market in load(platform.settings)]
    definitions = dg.Definitions(
        assets=[asset for grid in grids for asset in factor_assets(grid, platform.settings)],
        jobs=[factor_job(grid) for grid in grids],
        resources=resources(platform.settings),
    )
    repository = definitions.get_repository_def()
    assert {"factors", "coins_factors"} <= set(repository.job_names)
    graph = repository.asset_graph
    assert graph.get(dg.AssetKey(["coins", "factor_report"])).group_name == "coins_research"
    parents = {key.to_user_string() for key in graph.get(dg.AssetKey("factor_report")).parent_keys}
    assert parents == {"features_daily", "ohlcv"}
