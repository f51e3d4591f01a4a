"""The report of a backtest: one file, safe, complete and legible whatever the result."""

import base64
import re
import struct
from dataclasses import replace
from datetime import date, timedelta
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest

from quant_assets.backtest import analysis, pictures, report
from quant_assets.backtest.engine import BacktestConfig, buy_and_hold, run
from quant_assets.backtest.report import ReportContext, render, write_report
from quant_assets.core.costs import Costs

pytestmark = pytest.mark.slow

HOSTILE = "<script>alert('$x$')</script>"


def make_backtest(sessions=300, symbols=("AA", "BB", "CC"), every=5, scale=1.0, first=date(2020, 1, 1), **config):
    """A result, its benchmark and its bars."""
    days = [first + timedelta(n) for n in range(sessions)]
    rng = np.random.default_rng(3)
    closes = 50 * np.exp(np.cumsum(rng.normal(0.0005, 0.02, (sessions, len(symbols))), axis=0))
    bars = pl.DataFrame(
        {
            "symbol": np.repeat(np.array(symbols), sessions).tolist(),
            "ts": days * len(symbols),
            "open": closes.T.ravel(),
            "close": closes.T.ravel(),
        }
    )
    weights = rng.dirichlet(np.ones(len(symbols)), sessions) * scale
    rows = [(days[n], name, weights[n, k]) for n in range(0, sessions, every) for k, name in enumerate(symbols)]
    targets = pl.DataFrame(rows, schema={"asof": pl.Date, "symbol": pl.String, "weight": pl.Float64}, orient="row")
    result = run(bars, targets, days, BacktestConfig("demo", "1.0.0", 10_000, **config))
    return result, buy_and_hold(bars, days, 10_000), bars


def make_result(*given, **changes):
    return make_backtest(*given, **changes)[:2]


@pytest.fixture(scope="module")
def made():
    return make_result()


def correlated(result):
    """Rows of `backtest_correlations` in which everything goes together a little."""
    names = [analysis.PORTFOLIO, analysis.BENCHMARK, *result.symbols["symbol"]]
    rows = [("demo", a, b, 0.25, 9) for n, a in enumerate(names) for b in names[n + 1 :]]
    return pl.DataFrame(rows, schema=["strategy_id", "symbol", "other", "correlation", "sessions"], orient="row")


def make_context(benchmark=None, **changes):
    spec = {"strategy_id": "demo", "description": "Buys things.", "portfolio": {"top_k": 3}}
    return replace(ReportContext(run_id="run-42", strategy=spec, code_version="abc", benchmark=benchmark), **changes)


class Reader(HTMLParser):
    """Collects what a browser would fetch or run, the ids, and checks that tags close in order."""

    VOID = frozenset({"meta", "link", "br", "hr", "img", "input"})

    def __init__(self, page):
        super().__init__()
        self.open, self.tags, self.ids, self.links, self.text = [], [], [], [], []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attrs:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href", "xlink:href", "srcset", "action", "data"):
                self.links.append(value)

    def handle_startendtag(self, tag, attrs):
        self.handle_starttag(tag, attrs)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_the_page_is_well_formed_and_fetches_nothing(made):
    result, benchmark = made
    page = render(result, make_context(benchmark))
    reader = Reader(page)
    assert reader.open == []
    assert all(link.startswith("#") for link in reader.links)
    assert not {"script", "link", "img", "iframe", "image", "object"} & set(reader.tags)
    assert "@import" not in page
    assert re.findall(r"url\((?!#)", page) == []
    assert len(page.encode()) < 600_000


def test_ids_of_the_pictures_do_not_collide(made):
    ids = Reader(render(made[0], make_context(made[1]))).ids
    assert len(ids) == len(set(ids))


def test_every_section_is_there(made):
    result, benchmark = made
    page = render(result, make_context(benchmark, correlations=correlated(result)))
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Equity",
        "Drawdown",
        "Rolling Sharpe ratio",
        "Monthly returns",
        "Yearly returns",
        "Distribution of monthly returns",
        "Rolling volatility",
        "Rolling beta",
        "Measures",
        "Returns by period",
        "Weights",
        "Exposure",
        "Turnover",
        "Symbols",
        "Correlation",
        "Costs",
        "Trades",
        "Worst drawdowns",
        "Largest trades",
        "Lineage",
        "Configuration",
    ]
    text = " ".join(Reader(page).text)
    for shown in (
        "run-42",
        "abc",
        "top_k: 3",
        "Buys things.",
        "fee 2 bps, slippage 10 bps",
        "2020-01-01 to 2020-10-26",
    ):
        assert shown in text
    assert f"{result.summary['final_equity']:,.0f}" in text


def test_names_and_descriptions_cannot_inject_markup():
    result, benchmark = make_result(60, (HOSTILE, "B&B", "'\""))
    spec = {"strategy_id": "demo", "description": HOSTILE, HOSTILE: HOSTILE}
    page = render(
        replace(result, summary=result.summary | {"strategy_id": HOSTILE, "version": HOSTILE}),
        make_context(
            benchmark,
            strategy=spec,
            run_id=HOSTILE,
            correlations=correlated(result),
            notes=[HOSTILE],
            lineage={HOSTILE: HOSTILE},
        ),
    )
    reader = Reader(page)
    assert "script" not in reader.tags
    assert "<script" not in page
    assert page.count("&lt;script&gt;") > 10


def test_the_same_result_gives_the_same_page(made):
    result, benchmark = made
    assert render(result, make_context(benchmark)) == render(result, make_context(benchmark))


@pytest.mark.parametrize("sessions", [1, 2, 5])
def test_a_period_of_a_few_sessions_still_makes_a_report(sessions):
    result, benchmark = make_result(sessions)
    page = render(result, make_context(benchmark))
    assert "shorter than 126 sessions" in page
    assert "Only" in page
    assert pictures.equity_png(result.equity, "few", benchmark)


def test_a_backtest_without_trades_says_so():
    result, _ = make_result(30, every=1)
    empty = replace(
        result, trades=result.trades.clear(), symbols=result.symbols.clear(), weights=result.weights.clear()
    )
    page = render(empty, make_context())
    for said in ("There was no trade.", "No symbol was traded.", "Nothing was held."):
        assert said in page


def test_few_trades_free_trading_and_gaps_are_caveats(made):
    result = made[0]
    unfilled = pl.DataFrame({"ts": [date(2020, 1, 1)], "symbol": ["ZZ"], "weight": [0.1]})
    summary = result.summary | {"num_trades": 29, "fee_bps": 0.0, "slippage_bps": 0.0}
    page = render(replace(result, summary=summary, unfilled=unfilled), make_context(notes=["Mind the tide."]))
    for said in ("Only 29 closed trades", "Trading is free", "ZZ on 2020-01-01", "Mind the tide."):
        assert said in page
    assert "closed trades: with fewer" not in render(result, make_context())


@pytest.mark.parametrize(
    ("trials", "said"),
    [
        (1, "the only configuration of its family"),
        (2, "1 other configuration of this family was evaluated too"),
        (9, "8 other configurations of this family were evaluated too: the best of several"),
        (1200, "up to 1.05 over these sessions"),
    ],
)
def test_the_more_trials_a_result_was_picked_from_the_louder_the_warning(trials, said):
    assert said in report._trials(trials, 2520, 252)


def test_trials_are_told_where_they_are_known(made):
    assert report._trials(40, 300, 252) in render(made[0], make_context(trials=40))
    assert "of this family" not in render(made[0], make_context())


def test_a_market_that_never_closes_has_a_year_of_365_sessions():
    result, benchmark = make_result(320, year=365)
    page = render(result, make_context(benchmark))
    for said in ("A year has 365 sessions", "Only 320 sessions", "182 sessions"):
        assert said in page
    assert "252" not in " ".join(Reader(page).text)
    assert "Only 320 sessions" not in render(*(make_result(320)[0], make_context()))


def test_stops_and_rules_of_trading_are_told():
    result, benchmark = make_result(
        300, scale=-0.5, costs=Costs(2, 10, -1.5), leverage=2.0, threshold=0.02, stop_loss=0.03, trailing_stop=0.05
    )
    text = " ".join(Reader(render(result, make_context(benchmark))).text)
    for said in (
        "stop loss",
        "trailing stop",
        "up to 2.00\N{MULTIPLICATION SIGN}",
        "3.0%",
        "\N{MINUS SIGN}1.5 bps per day",
        "short",
    ):
        assert said in text


def test_one_symbol_makes_a_whole_report():
    result, benchmark, bars = make_backtest(300, ("AA",))
    page = render(result, make_context(benchmark, correlations=analysis.correlation_table(result, benchmark, bars)))
    assert "<h2>Correlation</h2>" in page
    assert Reader(page).open == []


def test_without_a_benchmark_nothing_is_compared(made):
    page = render(made[0], make_context())
    for unsaid in ("buy and hold", "Against the benchmark", "strategy and benchmark", "Information ratio"):
        assert unsaid not in page
    assert "There is no benchmark." in page


def test_the_total_of_the_symbols_is_the_total_return(made):
    result, benchmark = made
    total = result.summary["final_equity"] / 10_000 - 1
    rows = re.findall(r"<tr>(.*?)</tr>", render(result, make_context(benchmark)), re.DOTALL)
    [line] = [row for row in rows if ">Total\n" in row or ">Total<" in row]
    assert f"{total * 100:,.1f}%".replace("-", "\N{MINUS SIGN}") in line


def test_undefined_measures_are_dashes_not_none(made):
    result = made[0]
    undefined = dict.fromkeys(("sharpe", "sortino", "calmar", "profit_factor", "win_rate", "avg_trade"))
    page = render(replace(result, summary=result.summary | undefined), make_context())
    assert "None" not in page
    assert "nan" not in page.lower().split("<main>")[1]


def test_many_symbols_are_cut_to_the_best_and_worst_and_the_page_stays_small():
    result, benchmark = make_result(200, tuple(f"S{n:03d}" for n in range(90)))
    page = render(result, make_context(benchmark))
    assert "the best and worst 20 of 90" in page
    assert ">other<" in page
    assert len(page.encode()) < 600_000


def test_short_weights_are_drawn_below_zero():
    result, _ = make_result(60, scale=-0.3)
    svg, names = pictures.weights_svg(result.weights, result.equity)
    assert "\N{MINUS SIGN}" in svg
    assert sorted(names) == ["AA", "BB", "CC"]


def test_every_colour_of_a_picture_can_be_themed(made):
    result, benchmark = made
    page = render(result, make_context(benchmark))
    drawn = re.findall(r"<svg.*?</svg>", page, re.DOTALL)
    assert len(drawn) == 10
    for svg in drawn:
        bare = re.sub(r"var\(--\w+, #[0-9a-f]{6}\)", "", svg)
        assert re.findall(r"#[0-9a-f]{6}\b(?!\w)(?=[;\"])", bare) == []
        assert "var(--" in svg


def test_the_report_replaces_an_older_one_and_leaves_no_other_file(made, tmp_path):
    path = tmp_path / "reports" / "demo.html"
    path.parent.mkdir()
    path.write_text("old")
    assert write_report(path, made[0], make_context()) == path
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert [file.name for file in path.parent.iterdir()] == ["demo.html"]


def test_a_report_that_cannot_be_put_in_place_leaves_nothing(made, tmp_path):
    path = tmp_path / "demo.html"
    path.mkdir()
    with pytest.raises(OSError):
        write_report(path, made[0], make_context())
    assert [file.name for file in tmp_path.iterdir()] == ["demo.html"]


def test_the_picture_is_a_small_png_and_markdown_carries_its_bytes(made):
    result, benchmark = made
    png = pictures.equity_png(result.equity, HOSTILE, benchmark)
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", png[16:24]) == (900, 460)
    assert len(png) < 60_000
    markdown = pictures.png_markdown(png)
    assert base64.b64decode(markdown.removeprefix("![equity curve](data:image/png;base64,").removesuffix(")")) == png


def test_the_tear_sheet_picture_is_small_whatever_there_is_to_draw():
    for sessions, symbols in ((1, ("A",)), (2, ("A", "B")), (2000, tuple(f"LONGNAME{n}" for n in range(12)))):
        result, benchmark, bars = make_backtest(sessions, symbols)
        rows = analysis.correlation_table(result, benchmark, bars)
        png = pictures.tear_png(result.equity, HOSTILE, benchmark, rows, 10_000, 365)
        assert struct.unpack(">II", png[16:24]) == (1100, 620)
        assert len(png) < 80_000


def test_a_square_of_correlations_is_symmetric_with_ones_on_its_diagonal(made):
    names, matrix = pictures.square(correlated(made[0]), 2)
    assert names == [analysis.PORTFOLIO, analysis.BENCHMARK, "AA", "BB"]
    assert (matrix == matrix.T).all()
    assert matrix.diagonal().tolist() == [1.0] * 4
    assert matrix[0, 1] == 0.25


def test_an_equity_axis_has_round_ticks_on_any_range():
    assert pictures._money_ticks(90_000, 2_200_000) == [100_000, 200_000, 500_000, 1_000_000, 2_000_000]
    assert pictures._money_ticks(99_000, 103_000) == [99_000, 100_000, 101_000, 102_000, 103_000]
    assert [pictures._money(value) for value in (950, 12_500, 1_200_000, 2e9)] == ["950", "12.5k", "1.2M", "2B"]
