"""The doctor's review of a backtest's tables: a healthy one, and one for each thing that can be wrong."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.validation.doctor import Finding, ordered, review

YEAR = 252
SESSIONS = [day for n in range(728) if (day := date(2020, 1, 1) + timedelta(n)).weekday() < 5]
SYMBOLS = ("A", "B", "C", "D")


def healthy_bars() -> pl.DataFrame:
    """Every bar opens and closes at 10, between 9 and 11, with a volume of 100,000."""
    numbers = {"open": 10.0, "high": 11.0, "low": 9.0, "close": 10.0, "volume": 100_000.0}
    keys = pl.DataFrame({"symbol": SYMBOLS}).join(pl.DataFrame({"ts": SESSIONS}), how="cross")
    return keys.with_columns(pl.lit(value).alias(name) for name, value in numbers.items())


def healthy_trades() -> pl.DataFrame:
    """40 long trades of 100 shares, half a month each, symbol after symbol; three of four win twice what one loses."""
    numbers = range(40)
    return pl.DataFrame(
        {
            "trade_no": numbers,
            "symbol": [SYMBOLS[n % 4] for n in numbers],
            "side": "long",
            "entry_ts": [SESSIONS[12 * n] for n in numbers],
            "entry_price": 10.0 * 1.001,
            "qty": 100.0,
            "exit_ts": [SESSIONS[12 * n + 6] for n in numbers],
            "exit_price": 10.0 * 0.999,
            "pnl": [-50.0 if n % 4 == n // 4 % 4 else 100.0 for n in numbers],
            "reason": "rebalance",
        }
    )


def healthy_equity() -> pl.DataFrame:
    """Gains of 0.6 % and losses of 0.5 % in turns, beside a benchmark of as little sense and less profit."""
    count = len(SESSIONS)
    market = np.resize([0.01, 0.01, -0.0098, -0.0098], count)
    return pl.DataFrame(
        {
            "ts": SESSIONS,
            "ret": np.resize([0.006, -0.005], count),
            "gross_exposure": np.ones(count),
            "benchmark": 1000.0 * np.cumprod(1 + market),
        }
    )


@dataclass
class Backtest:
    """Tables with what the review reads; fields are changed to make it ill."""

    trades: pl.DataFrame = field(default_factory=healthy_trades)
    equity: pl.DataFrame = field(default_factory=healthy_equity)
    symbols: pl.DataFrame = field(
        default_factory=lambda: pl.DataFrame(
            {
                "symbol": SYMBOLS,
                "contribution": [0.07, 0.06, 0.06, 0.05],
                "fees": 0.002,
                "slippage": 0.008,
                "funding": 0.0,
            }
        )
    )
    bars: pl.DataFrame = field(default_factory=healthy_bars)
    summary: dict[str, Any] = field(
        default_factory=lambda: {
            "sharpe": 1.4,
            "win_rate": 0.75,
            "num_trades": 40,
            "fee_bps": 2.0,
            "slippage_bps": 10.0,
            "initial_cash": 1000.0,
        }
    )

    @property
    def findings(self) -> list[Finding]:
        return review(self.summary, self.trades, self.equity, self.symbols, self.bars, YEAR)

    @property
    def finding(self) -> Finding:
        """The only one."""
        (found,) = self.findings
        json.dumps(dict(found.details))
        return found

    def trade(self, number: int, **values: Any) -> None:
        """Change one trade."""
        self.trades = changed(self.trades, number, values)

    def bar(self, symbol: str, session: int, **values: Any) -> None:
        """Change one bar."""
        (number,) = self.bars.with_row_index().filter(symbol=symbol, ts=SESSIONS[session])["index"]
        self.bars = changed(self.bars, number, values)

    def returns(self, values: Mapping[int, float]) -> None:
        """Change the returns of some sessions."""
        ret = self.equity["ret"].to_numpy().copy()
        ret[list(values)] = list(values.values())
        self.equity = self.equity.with_columns(ret=ret)


def changed(frame: pl.DataFrame, number: int, values: Mapping[str, Any]) -> pl.DataFrame:
    at = pl.int_range(pl.len()) == number
    return frame.with_columns(
        pl.when(at).then(pl.lit(value, frame.schema[name])).otherwise(name).alias(name)
        for name, value in values.items()
    )


@pytest.fixture
def ill() -> Backtest:
    return Backtest()


def test_nothing_is_said_of_a_healthy_backtest():
    assert Backtest().findings == []


def test_the_order_of_rows_changes_nothing():
    one, other = Backtest(), Backtest()
    for each in (one, other):
        each.bar("A", 0, volume=5000.0)
        each.bar("B", 12, volume=0.0)
        each.trade(5, pnl=9_000.0)
    other.bars, other.trades = other.bars.reverse(), other.trades.reverse()
    other.symbols = other.symbols.reverse()
    assert one.findings == other.findings
    assert [found.name for found in one.findings] == [
        "fills_without_volume", "one_trade_makes_the_result", "trades_beyond_volume"
    ]  # fmt: skip


def test_errors_come_first_and_names_in_order():
    made = [
        Finding("d", "note", "", ""),
        Finding("c", "warning", "", ""),
        Finding("b", "error", "", ""),
        Finding("a", "error", "", ""),
    ]
    assert [found.name for found in ordered(made)] == ["a", "b", "c", "d"]


def test_no_trade_is_an_error(ill: Backtest):
    ill.trades = ill.trades.clear()
    ill.symbols = ill.symbols.clear()
    ill.equity = ill.equity.with_columns(ret=0.0, gross_exposure=0.0)
    ill.summary |= {"num_trades": 0, "win_rate": None, "sharpe": None}
    assert (ill.finding.name, ill.finding.severity) == ("no_trades", "error")
    assert ill.finding.evidence == "no position was ever opened in 520 sessions"


def test_29_trades_are_too_few_and_30_are_not(ill: Backtest):
    ill.summary["num_trades"] = 29
    assert ill.finding.name == "too_few_trades"
    assert ill.finding.evidence == "29 closed trade(s) in 520 sessions, fewer than 30"
    ill.summary["num_trades"] = 30
    assert ill.findings == []


def test_less_than_a_year_is_noted(ill: Backtest):
    ill.equity = ill.equity.head(251)
    assert (ill.finding.name, ill.finding.value) == ("short_period", 251)
    ill.equity = healthy_equity().head(252)
    assert ill.findings == []


def test_profit_that_nobody_has_taken_yet_is_noted(ill: Backtest):
    # 30 win 100, 10 lose 50: 2,500; the last trade is open with 2,600 of then 5,000
    ill.trade(39, pnl=2_600.0, exit_ts=None)
    names = {found.name: found for found in ill.findings}
    assert set(names) == {"one_trade_makes_the_result", "unrealised_profit"}
    assert names["unrealised_profit"].value == 2_600 / 5_000
    assert names["unrealised_profit"].evidence == "52% of the profit is in 1 position(s) that are still open at the end"


def test_one_trade_makes_the_result_where_it_has_more_than_half_of_the_profit(ill: Backtest):
    # the 39 others have 30 x 100 - 9 x 50 = 2,550
    ill.trade(0, pnl=2_550.0)
    assert ill.findings == []
    ill.trade(0, pnl=7_650.0)
    assert (ill.finding.name, ill.finding.severity) == ("one_trade_makes_the_result", "warning")
    assert ill.finding.evidence == "A of 2020-01-01 makes 75% of the profit of 40 trades"
    assert ill.finding.value == 0.75


def test_sales_of_one_position_are_one_trade(ill: Backtest):
    ill.trade(0, pnl=2_550.0)
    ill.trades = pl.concat([ill.trades, ill.trades.head(1)])
    assert ill.finding.name == "one_trade_makes_the_result"
    assert ill.finding.value == 2 / 3


def test_a_symbol_without_which_there_is_no_profit_is_an_error(ill: Backtest):
    ill.symbols = ill.symbols.with_columns(contribution=pl.Series([0.3, -0.04, -0.04, -0.02]))
    assert (ill.finding.name, ill.finding.severity) == ("one_symbol_makes_the_result", "error")
    assert ill.finding.evidence == "A makes 150% of the profit of 4 symbols: without it there is none"
    assert ill.finding.details == {"symbol": "A"}


def test_of_two_symbols_one_always_has_half(ill: Backtest):
    ill.symbols = ill.symbols.head(2).with_columns(contribution=pl.Series([0.19, 0.01]))
    assert ill.findings == []


def test_one_month_makes_the_result(ill: Backtest):
    # March 2020 is sessions 43 to 64; log growth of the rest is about 0.24
    ill.returns(dict.fromkeys(range(43, 65), 0.015))
    march = 22 * np.log1p(0.015)
    total = march + sum(np.log1p([0.006, -0.005][n % 2]) for n in range(520) if not 43 <= n < 65)
    assert ill.finding.name == "one_month_makes_the_result"
    assert ill.finding.value == pytest.approx(march / total)
    assert ill.finding.evidence == f"2020-03 makes {march / total:.0%} of the growth of 24 months"


def test_the_best_days_make_the_result(ill: Backtest):
    # each in a month of its own
    ill.returns(dict.fromkeys((10, 110, 210, 310, 410), 0.1))
    total = float(ill.equity["ret"].log1p().sum())
    assert (ill.finding.name, ill.finding.severity) == ("best_days_make_the_result", "note")
    assert ill.finding.value == pytest.approx(5 * np.log(1.1) / total)
    assert ill.finding.details == {"days": [SESSIONS[n].isoformat() for n in (10, 110, 210, 310, 410)]}


def test_a_loss_is_made_by_nothing(ill: Backtest):
    ill.trades = ill.trades.with_columns(pnl=-pl.col("pnl") * 10)
    ill.symbols = ill.symbols.with_columns(contribution=-pl.col("contribution"))
    ill.equity = ill.equity.with_columns(ret=-pl.col("ret"))
    ill.summary["sharpe"] = -1.5
    assert [found.name for found in ill.findings] == ["holding_was_better"]


@pytest.mark.parametrize(
    ("volume", "severity", "evidence"),
    [
        (10_000.0, None, ""),
        (
            5_000.0,
            "warning",
            "1 of 80 fills take more than 1% of their session's volume, B on 2020-01-17 most: 2.0%",
        ),
        (500.0, "error", "1 of 80 fills take more than 1% of their session's volume, B on 2020-01-17 most: 20.0%"),
    ],
)
def test_fills_beyond_a_share_of_the_volume(ill: Backtest, volume: float, severity: str | None, evidence: str):
    ill.bar("B", 12, volume=volume)
    if severity is None:
        assert ill.findings == []
        return
    assert (ill.finding.severity, ill.finding.evidence) == (severity, evidence)
    assert ill.finding.value == pytest.approx(100 / volume)
    assert ill.finding.details["capital"] == pytest.approx(1000 * 0.01 * volume / 100)


def test_the_volume_of_an_average_entry_is_not_judged(ill: Backtest):
    ill.bar("B", 12, volume=500.0)
    ill.trade(1, entry_price=10.5 * 1.001)
    assert ill.findings == []


def test_two_sales_of_a_session_take_their_volume_together(ill: Backtest):
    ill.bar("A", 6, volume=15_000.0)
    assert ill.findings == []
    ill.trades = pl.concat([ill.trades, ill.trades.head(1)])
    assert ill.finding.value == pytest.approx(200 / 15_000)


def test_a_fill_needs_a_bar(ill: Backtest):
    ill.bars = ill.bars.remove((pl.col("symbol") == "B") & (pl.col("ts") == SESSIONS[12]))
    assert (ill.finding.name, ill.finding.severity) == ("fills_without_a_bar", "error")
    assert ill.finding.evidence == "1 of 80 fills on a session without a bar, the first B on 2020-01-17 at 10"


def test_a_position_closed_after_its_last_bar_is_noted(ill: Backtest):
    ill.bars = ill.bars.remove((pl.col("symbol") == "D") & (pl.col("ts") >= SESSIONS[474]))
    ill.trade(39, reason="end of data")
    assert (ill.finding.name, ill.finding.severity) == ("positions_outlive_their_bars", "note")
    assert ill.finding.details == {"symbols": ["D"]}


def test_a_fill_needs_volume(ill: Backtest):
    ill.bar("A", 6, volume=0.0)
    assert (ill.finding.name, ill.finding.value) == ("fills_without_volume", 1)
    ill.bar("A", 6, volume=None)  # unknown
    assert ill.findings == []


def test_a_price_that_stood_still_is_doubtful(ill: Backtest):
    ill.bar("A", 6, high=10.0, low=10.0)
    assert (ill.finding.name, ill.finding.severity) == ("fills_at_stale_prices", "warning")


def test_an_exit_lies_within_its_session(ill: Backtest):
    ill.trade(0, exit_price=11.5 * 0.999)
    assert ill.finding.name == "fills_outside_the_range"
    assert ill.finding.evidence.endswith("the first A on 2020-01-09 at 11.5")


def test_an_entry_lies_within_the_sessions_it_may_be_an_average_of(ill: Backtest):
    ill.trade(0, entry_price=11.5 * 1.001)
    assert ill.finding.name == "fills_outside_the_range"
    ill.bar("A", 3, high=12.0)
    assert ill.findings == []


def test_slippage_is_taken_off_before_a_price_is_judged(ill: Backtest):
    ill.trade(0, exit_price=9.0 * 0.999)
    ill.trade(1, side="short", entry_price=9.0 * 0.999, exit_price=11.0 * 1.001)
    assert ill.findings == []
    ill.trade(1, exit_price=11.0 * 1.002)
    assert ill.finding.name == "fills_outside_the_range"


@pytest.mark.parametrize(("side", "found"), [("long", ["fills_at_a_limit"]), ("short", [])])
def test_a_purchase_at_a_limit_up_close_could_not_be_made(ill: Backtest, side: str, found: list[str]):
    sign = 1 if side == "long" else -1
    ill.bar("B", 12, close=11.0)
    ill.trade(1, side=side, entry_price=11.0 * (1 + sign * 0.001))
    assert [one.name for one in ill.findings] == found


def test_a_late_start_is_told(ill: Backtest):
    ill.equity = ill.equity.with_columns(gross_exposure=pl.Series([0.0] * 53 + [1.0] * 467))
    assert ill.finding.name == "late_start"
    assert ill.finding.value == 53 / 520
    assert ill.finding.evidence.startswith("the first position is of 2020-03-16, 53 of 520 sessions (10%) into")
    ill.equity = ill.equity.with_columns(gross_exposure=pl.Series([0.0] * 52 + [1.0] * 468))
    assert ill.findings == []


def test_a_strategy_that_is_hardly_ever_invested_is_noted(ill: Backtest):
    ill.equity = ill.equity.with_columns(gross_exposure=pl.Series(([1.0] + [0.0] * 10) * 47 + [0.0] * 3))
    assert (ill.finding.name, ill.finding.severity) == ("rarely_invested", "note")
    assert ill.finding.value == 47 / 520


def test_figures_too_good_to_be_true(ill: Backtest):
    ill.summary |= {"sharpe": 3.01, "win_rate": 0.91}
    sharpe, wins = ill.findings
    assert (sharpe.name, sharpe.evidence) == ("sharpe_too_high", "a Sharpe ratio of 3.01 is above 3")
    assert (wins.name, wins.evidence) == ("win_rate_too_high", "91% of 40 closed trades won")


def test_a_jump_of_the_equity_is_told(ill: Backtest):
    ill.returns({100: -0.21, 101: -0.3})
    assert ill.finding.name == "equity_jumps"
    assert ill.finding.evidence == f"the equity moves by more than 20% on 2 session(s), most on {SESSIONS[101]}: -30%"


def test_free_trading_is_told(ill: Backtest):
    ill.summary |= {"fee_bps": 0.0, "slippage_bps": 0.0}
    ill.trades = ill.trades.with_columns(entry_price=10.0, exit_price=10.0)
    assert ill.finding.name == "no_costs"


def test_costs_that_take_most_of_the_profit_are_told(ill: Backtest):
    # 0.24 earned; 0.04 paid, and 0.24 with more slippage
    ill.symbols = ill.symbols.with_columns(slippage=0.0581)
    assert ill.finding.name == "costs_take_the_profit"
    assert ill.finding.value == pytest.approx(0.2404 / 0.4804)


def test_a_market_that_was_bought_and_held_is_told(ill: Backtest):
    ill.equity = ill.equity.with_columns(benchmark=1000 * (1 + pl.col("ret") / 2).cum_prod())
    assert (ill.finding.name, ill.finding.severity) == ("follows_the_market", "warning")
    assert ill.finding.evidence.startswith("the correlation with its universe bought and held is 1.00, beta 2.00; its")
    assert ill.finding.details["beta"] == pytest.approx(2)


def test_a_universe_that_did_better_alone_is_noted(ill: Backtest):
    ill.summary["sharpe"] = 0.2
    drift = ill.equity["benchmark"].to_numpy() * np.cumprod(np.full(520, 1.001))
    ill.equity = ill.equity.with_columns(benchmark=drift)
    assert (ill.finding.name, ill.finding.severity) == ("holding_was_better", "note")
    ill.equity = ill.equity.with_columns(benchmark=pl.lit(None, pl.Float64))
    assert ill.findings == []


@settings(max_examples=25, deadline=None)
@given(
    st.lists(st.floats(-100, 100), min_size=3, max_size=12),
    st.lists(st.floats(0, 1e6), min_size=80, max_size=80),
)
def test_a_part_is_named_exactly_where_the_others_have_less_than_it(profits: list[float], volumes: list[float]):
    made = Backtest()
    made.symbols = pl.DataFrame(
        {"symbol": [f"S{n}" for n in range(len(profits))], "contribution": profits}
    ).with_columns(fees=0.0, slippage=0.0, funding=0.0)
    made.bars = made.bars.with_columns(volume=pl.Series(np.resize(volumes, made.bars.height)))
    named = {found.name: found for found in made.findings}
    total = sum(profits)
    found = named.get("one_symbol_makes_the_result")
    assert (found is not None) == (total > 0 and max(profits) > total / 2)
    if found is not None:
        assert (found.severity == "error") == (total - max(profits) <= 0)
    fills = {(row["symbol"], row[end]) for row in made.trades.to_dicts() for end in ("entry_ts", "exit_ts")}
    taken = [row["volume"] for row in made.bars.to_dicts() if (row["symbol"], row["ts"]) in fills]
    assert ("fills_without_volume" in named) == (0 in taken)
    assert ("trades_beyond_volume" in named) == any(0 < volume < 10_000 for volume in taken)
