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

from quant_assets.backtest import pictures
from quant_assets.backtest.engine import BacktestConfig, buy_and_hold, run
from quant_assets.backtest.report import ReportContext, render, write_report
from quant_assets.core.costs import Costs

HOSTILE = "<script>alert('$x$')</script>"


def make_result(sessions=300, symbols=("AA", "BB", "CC"), every=5, short=False):
    days = [date(2020, 1, 1) + timedelta(n) for n in range(sessions)]
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
    weights = rng.dirichlet(np.ones(len(symbols)), sessions) * (-0.3 if short else 1.0)
    rows = [(days[n], name, weights[n, k]) for n in range(0, sessions, every) for k, name in enumerate(symbols)]
    targets = pl.DataFrame(rows, schema={"asof": pl.Date, "symbol": pl.String, "weight": pl.Float64}, orient="row")
    result = run(bars, targets, days, BacktestConfig("demo", "1.0.0", 10_000, Costs()))
    return result, buy_and_hold(bars, days, 10_000)


@pytest.fixture(scope="module")
def made():
    return make_result()


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
    page = render(result, make_context(benchmark))
    titles = re.findall(r"<h2>(.*?)</h2>", page)
    assert titles == [
        "Equity",
        "Drawdown",
        "Rolling Sharpe ratio",
        "Monthly returns",
        "Weights",
        "Symbols",
        "Worst drawdowns",
        "Trades and costs",
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
        make_context(benchmark, strategy=spec, run_id=HOSTILE, notes=[HOSTILE], lineage={HOSTILE: HOSTILE}),
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
    result, _ = make_result(60, short=True)
    svg, names = pictures.weights_svg(result.weights, result.equity)
    assert "\N{MINUS SIGN}" in svg
    assert sorted(names) == ["AA", "BB", "CC"]


def test_every_colour_of_a_picture_can_be_themed(made):
    result, benchmark = made
    drawn = (
        pictures.equity_svg(result.equity, benchmark),
        pictures.drawdown_svg(result.equity),
        pictures.rolling_sharpe_svg(result.equity),
        pictures.weights_svg(result.weights, result.equity)[0],
    )
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


def test_an_equity_axis_has_round_ticks_on_any_range():
    assert pictures._money_ticks(90_000, 2_200_000) == [100_000, 200_000, 500_000, 1_000_000, 2_000_000]
    assert pictures._money_ticks(99_000, 103_000) == [99_000, 100_000, 101_000, 102_000, 103_000]
    assert [pictures._money(value) for value in (950, 12_500, 1_200_000, 2e9)] == ["950", "12.5k", "1.2M", "2B"]
