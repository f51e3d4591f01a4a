"""Strategy and universe files, and the composition of signal, weighting and supervisor."""

import json
import re
from datetime import date, timedelta
from pathlib import Path

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.core.errors import DataError, StrategyError
from quant_assets.market_data.synthetic import synthetic_bars, synthetic_symbols
from quant_assets.signals import DonchianInputs
from quant_assets.strategy import (
    StrategySpec,
    Universe,
    add_symbol,
    decide,
    load_strategies,
    load_strategy,
    load_universe,
    rebalance_dates,
)
from quant_assets.strategy.compose import history, signal_scores
from quant_assets.strategy.spec import SCHEMA_FILE, Donchian, schema_text

SHIPPED = Path(__file__).parents[1] / "strategies"
UNIVERSES = SHIPPED / "universes"

STRATEGY = """\
strategy_id: momentum
version: 1.0.0
universe: us_tech
signal:
  type: factor_rank
  inputs: {feature_version: v1, feature_name: ret_60d}
rebalance: {frequency: daily}
portfolio: {top_k: 2}
backtest: {from: 2010-01-04}
"""
MODEL = """\
strategy_id: learner
version: 1.0.0
universe: us_tech
signal:
  type: model_score
  model:
    task: classification
    label: direction_60d
rebalance: {frequency: weekly}
portfolio: {top_k: 2}
backtest: {from: 2010-01-04, to: 2012-12-31}
"""
UNIVERSE = """\
name: small
version: 1.2.3
provider: sample
start: 2020-01-01
symbols:
  # the big one
  - AAPL    # Apple
  - symbol: MSFT
    from: 2020-06-01

# the end
"""


@pytest.fixture
def market() -> Universe:
    return load_universe(UNIVERSES / "us_tech.yaml")


def strategy(tmp_path: Path, text: str = STRATEGY) -> StrategySpec:
    path = tmp_path / "momentum.yaml"
    path.write_text(text, encoding="utf-8")
    return load_strategy(path)


def universe_file(tmp_path: Path, text: str = UNIVERSE) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(text, encoding="utf-8")
    return path


class TestStrategyFiles:
    def test_the_shipped_strategies_load_and_fit_the_shipped_universe(self, market: Universe):
        shipped = load_strategies(SHIPPED)
        on_shares = ["donchian_us_tech", "lgbm_per_symbol", "lgbm_pooled", "momentum_topk", "tsmom_us_tech"]
        assert list(shipped) == ["crypto_tsmom", *on_shares]
        assert all(spec.description for spec in shipped.values())
        for name in on_shares:
            assert tuple(shipped[name].bounds(market, UNIVERSES)) == market.names
        crypto = load_universe(UNIVERSES / "crypto_majors.yaml")
        assert len(shipped["crypto_tsmom"].bounds(crypto, UNIVERSES)) == 8
        assert shipped["momentum_topk"].model is None
        assert shipped["lgbm_pooled"].model.scope == "universe"
        assert shipped["lgbm_per_symbol"].model.scope == "symbol"

    def test_what_a_file_leaves_out_has_the_documented_default(self, tmp_path: Path):
        spec = strategy(tmp_path)
        rules = spec.supervisor
        assert (rules.gross_exposure_cap, rules.max_weight_per_symbol, rules.max_positions) == (1.0, 0.15, 10)
        assert (rules.turnover_cap, rules.score_floor) == (0.3, None)
        assert (spec.execution.price, spec.portfolio.weighting, spec.min_cross_section) == ("close", "equal", 1.0)
        assert spec.backtest.last is None
        assert (spec.backtest.costs.fee_bps, spec.backtest.costs.slippage_bps) == (2.0, 10.0)
        assert spec.signal.inputs.descending

    @pytest.mark.parametrize(
        ("old", "new", "line", "said"),
        [
            ("top_k: 2", "top_k: 2, top_n: 3", 8, "portfolio.top_n: unknown field; known here: top_k, weighting"),
            ("version: 1.0.0", "version: 1.0.0\nnotes: x", 3, "notes: unknown field; known here: strategy_id,"),
            ("ret_60d}", "ret_60d, x: 1}", 6, "signal.inputs.x: unknown field; known here: feature_version,"),
            ("top_k: 2", "top_k: 0", 8, "portfolio.top_k: input should be greater than or equal to 1, got 0"),
            ("top_k: 2", "top_k: true", 8, "portfolio.top_k: input should be a valid integer, got True"),
            ("top_k: 2", "weighting: equal", 1, "portfolio.top_k is missing; factor_rank ranks symbols"),
            ("top_k: 2", "top_k: 2, weighting: kelly", 8, "'kelly' is not available; use one of: equal,"),
            ("top_k: 2", "top_k: 2, short: full", 1, "portfolio.short is 'full', but factor_rank never sells short"),
            ("version: 1.0.0", "version: 1.0", 2, "version: must be text, YAML reads it as 1.0; put it in quotes"),
            ("version: 1.0.0", "version: '1.0'", 2, "version: string should match pattern"),
            ("strategy_id: momentum", "strategy_id: Momentum", 1, "strategy_id: string should match"),
            ("factor_rank", "carry", 4, "type 'carry' is not available; use one of 'factor_rank', 'model_score'"),
            ("  type: factor_rank\n", "", 4, "signal: field 'type' is missing"),
            ("ret_60d", "ret_61d", 6, "signal.inputs.feature_name: 'ret_61d' is not in the set; use one of: ret_1d,"),
            (
                "feature_version: v1",
                "feature_version: v9",
                6,
                "feature_version: version 'v9' is unknown; use one of: v1",
            ),
            ("universe: us_tech", "universe: {symbols: []}", 3, "no symbols; list at least one"),
            ("universe: us_tech", "universe: {symbols: [AAPL, AAPL]}", 3, "symbol AAPL is listed twice"),
            ("universe: us_tech", "universe: {symbols: [aapl]}", 3, "symbol 'aapl' is not valid"),
            ("universe: us_tech", "universe: {symbols: [ON]}", 3, "YAML reads it as True; put it in quotes"),
            ("from: 2010-01-04", "from: 2010-01-04, to: 2009-01-04", 9, "from 2010-01-04 is after to 2009-01-04; swap"),
            ("from: 2010-01-04", "from: yesterday", 9, "must be a date such as 2010-01-04, got 'yesterday'"),
            ("from: 2010-01-04", "from: 2010-02-30", 9, "day is out of range for month"),
            ("from: 2010-01-04", "from: 2010-01-04, fee_bps: -1", 9, "backtest.fee_bps: input should be greater than"),
            ("from: 2010-01-04", "from: 2010-01-04, initial_cash: .inf", 9, "backtest.initial_cash: input should be"),
            (
                "frequency: daily",
                "frequency: hourly",
                7,
                "input should be 'daily', 'weekly' or 'monthly', got 'hourly'",
            ),
            ("universe: us_tech", "version: 2.0.0\nuniverse: us_tech", 3, "version: stands twice (first on line 2)"),
            ("universe: us_tech", "on: us_tech", 3, "field name 'on' is not plain text"),
            ("universe: us_tech", "universe: &a us_tech\ndescription: *a", 3, "anchors and aliases are not supported"),
            ("universe: us_tech", "universe: !!python/name:os.system x", 3, "is not supported; write a plain value"),
            ("universe: us_tech", "universe: [us_tech", 4, "not valid YAML"),
            ("universe: us_tech", "universe: {<<: {symbols: [A]}}", 3, "field name '<<' is not plain text"),
        ],
    )
    def test_an_error_names_file_line_field_and_remedy(self, tmp_path: Path, old: str, new: str, line: int, said: str):
        assert old in STRATEGY
        with pytest.raises(StrategyError) as caught:
            strategy(tmp_path, STRATEGY.replace(old, new, 1))
        message = str(caught.value)
        assert message.startswith(f"{tmp_path / 'momentum.yaml'}, line {line}"), message
        assert said in message
        assert "\n" not in message

    @pytest.mark.parametrize(
        ("old", "new", "line", "said"),
        [
            ("direction_60d", "direction_61d", 8, "signal.model.label: 'direction_61d' is not in the set; use one of:"),
            ("task:", "label_version: v7\n    task:", 7, "signal.model.label_version: version 'v7' is unknown"),
            ("task:", "features: [ret_1d, nope]\n    task:", 7, "signal.model.features: 'nope' is not in the set"),
            ("task: classification", "task: guess", 7, "input should be 'regression' or 'classification', got 'guess'"),
            ("task:", "colour: red\n    task:", 7, "signal.model.colour: unknown field; known here: algo, task,"),
            ("task:", "params: {depth: 3}\n    task:", 7, "signal.model.params.depth: unknown field; known here: num_"),
        ],
    )
    def test_a_model_spec_is_checked_alike(self, tmp_path: Path, old: str, new: str, line: int, said: str):
        with pytest.raises(StrategyError, match=rf"line {line}, ") as caught:
            strategy(tmp_path, MODEL.replace(old, new, 1))
        assert said in str(caught.value)

    @pytest.mark.parametrize("content", [b"", b"- a\n- b\n", b"text", b"\xff\xfe\x00", b"a: \x00", b"[" * 500])
    def test_a_file_that_is_no_mapping_is_refused(self, tmp_path: Path, content: bytes):
        (tmp_path / "x.yaml").write_bytes(content)
        with pytest.raises(StrategyError, match=re.escape(str(tmp_path / "x.yaml"))):
            load_strategy(tmp_path / "x.yaml")

    def test_a_file_or_folder_that_is_not_there_is_named(self, tmp_path: Path):
        with pytest.raises(StrategyError, match=r"none\.yaml: cannot be read \(No such file"):
            load_strategy(tmp_path / "none.yaml")
        with pytest.raises(StrategyError, match="no such folder"):
            load_strategies(tmp_path / "none")

    def test_two_files_with_one_id_are_refused_naming_both(self, tmp_path: Path):
        for name in ("a.yaml", "b.yaml"):
            (tmp_path / name).write_text(STRATEGY)
        with pytest.raises(StrategyError, match=r"b\.yaml, line 1, strategy_id: momentum is taken by .*a\.yaml"):
            load_strategies(tmp_path)

    def test_the_source_hash_follows_meaning_and_not_layout(self, tmp_path: Path):
        original = strategy(tmp_path)
        same = STRATEGY.replace("portfolio: {top_k: 2}", "# two\nportfolio:\n  weighting: equal\n  top_k: 2")
        assert strategy(tmp_path, same).source_hash == original.source_hash
        assert strategy(tmp_path, STRATEGY.replace("top_k: 2", "top_k: 3")).source_hash != original.source_hash

    def test_the_schema_for_editors_is_current(self):
        assert (SHIPPED / SCHEMA_FILE).read_text(encoding="utf-8") == schema_text(), (
            "run python -m quant_assets.strategy.schema"
        )
        assert json.loads(schema_text())["additionalProperties"] is False


RULE = STRATEGY.replace("factor_rank", "tsmom").replace("{feature_version: v1, feature_name: ret_60d}", "{lookback: 5}")


class TestVariants:
    def test_a_variant_has_other_values_where_it_was_told_and_the_rest_as_it_was(self, tmp_path: Path):
        spec = strategy(tmp_path)
        changed = spec.variant({"portfolio.top_k": 3, "supervisor.turnover_cap": None, "min_cross_section": 0.5})
        assert (changed.portfolio.top_k, changed.supervisor.turnover_cap, changed.min_cross_section) == (3, None, 0.5)
        back = changed.variant({"portfolio.top_k": 2, "supervisor.turnover_cap": 0.3, "min_cross_section": 1.0})
        assert back == spec

    @pytest.mark.parametrize(
        ("changes", "told"),
        [
            ({"portfolio.top_k": 0}, "line 8, portfolio.top_k: portfolio.top_k = 0: input should be greater than"),
            ({"portfolio.top_n": 1}, "portfolio.top_n is no field to sweep; portfolio has: top_k, weighting"),
            ({"version": "2.0.0"}, "version is no field to sweep; a strategy has: signal, rebalance"),
            ({"supervisor.max_positions": "many"}, "input should be a valid integer"),
            ({"portfolio.short": "full"}, "factor_rank never sells short; use none"),
        ],
    )
    def test_a_value_that_cannot_be_is_refused_with_the_field_and_the_remedy(
        self, tmp_path: Path, changes: dict[str, object], told: str
    ):
        with pytest.raises(StrategyError, match=re.escape(told)):
            strategy(tmp_path).variant(changes)

    def test_a_sweep_of_a_field_that_is_not_there_is_refused_when_the_file_is_read(self, tmp_path: Path):
        swept = STRATEGY + "sweep: {parameters: {portfolio.top_n: [1, 2]}}\n"
        with pytest.raises(StrategyError, match="top_n is no field to sweep"):
            strategy(tmp_path, swept)

    @pytest.mark.parametrize(
        ("section", "told"),
        [
            ("{method: random, parameters: {portfolio.top_k: [1, 2]}}", "a random search needs `samples`"),
            ("{samples: 3, parameters: {portfolio.top_k: [1, 2]}}", "`samples` belongs to method random"),
            ("{parameters: {portfolio.top_k: {low: 1, high: 3}}}", "a grid needs a list of values, or low, high and"),
            ("{parameters: {portfolio.top_k: {low: 3, high: 1, step: 1}}}", "low 3 is not below high 1; swap them"),
            ("{parameters: {strategy_id: [a, b]}}", "strategy_id cannot be swept; use fields of: signal,"),
        ],
    )
    def test_a_sweep_section_that_makes_no_sense_is_refused(self, tmp_path: Path, section: str, told: str):
        with pytest.raises(StrategyError, match=re.escape(told)):
            strategy(tmp_path, f"{STRATEGY}sweep: {section}\n")

    def test_the_account_may_hold_as_much_as_the_gross_cap_asks_for_unless_the_file_says_how_much(self, tmp_path: Path):
        spec = strategy(tmp_path, RULE)
        assert spec.config(252).leverage == 1.0
        assert spec.variant({"supervisor.gross_exposure_cap": 2.0}).config(252).leverage == 2.0
        assert spec.variant({"backtest.leverage": 1.5}).config(365).leverage == 1.5

    def test_only_a_hedging_strategy_has_a_drawdown_that_lets_it_sell_short(self, tmp_path: Path):
        spec = strategy(tmp_path, RULE)
        assert spec.config(252).hedge_drawdown is None
        hedging = spec.variant({"portfolio.short": "hedge", "portfolio.hedge_drawdown": 0.2})
        assert hedging.config(252).hedge_drawdown == 0.2


class TestBounds:
    def test_an_inline_universe_takes_its_dates_from_the_market(self, tmp_path: Path, market: Universe):
        spec = strategy(tmp_path, STRATEGY.replace("us_tech", "{symbols: [MSFT, FB]}"))
        assert spec.bounds(market, UNIVERSES) == {
            "FB": (date(2012, 5, 18), date(2013, 3, 1)),
            "MSFT": (date(2000, 3, 1), date(2013, 3, 1)),
        }

    def test_symbols_outside_the_market_are_refused(self, tmp_path: Path, market: Universe):
        spec = strategy(tmp_path, STRATEGY.replace("us_tech", "{symbols: [MSFT, TSLA]}"))
        with pytest.raises(StrategyError, match=r"line 3, universe\.symbols: TSLA not in market universe us_tech"):
            spec.bounds(market, UNIVERSES)

    def test_a_universe_that_is_not_there_is_named_with_those_that_are(self, tmp_path: Path, market: Universe):
        spec = strategy(tmp_path, STRATEGY.replace("us_tech", "us_banks"))
        with pytest.raises(StrategyError, match="'us_banks' is unknown; use one of: crypto_majors, us_tech"):
            spec.bounds(market, UNIVERSES)

    def test_another_universe_narrows_the_dates_of_the_market(self, tmp_path: Path, market: Universe):
        universe_file(tmp_path, UNIVERSE.replace("2020", "2012"))
        bounds = strategy(tmp_path, STRATEGY.replace("us_tech", "small")).bounds(market, tmp_path)
        assert bounds == {
            "AAPL": (date(2012, 1, 1), date(2013, 3, 1)),
            "MSFT": (date(2012, 6, 1), date(2013, 3, 1)),
        }

    def test_a_universe_on_another_calendar_is_refused(self, tmp_path: Path, market: Universe):
        universe_file(tmp_path, UNIVERSE.replace("provider", "calendar: XLON\nprovider"))
        with pytest.raises(StrategyError, match="is on calendar XLON, market us_tech on XNYS"):
            strategy(tmp_path, STRATEGY.replace("us_tech", "small")).bounds(market, tmp_path)


class TestUniverseFiles:
    def test_listings_have_the_universe_s_dates_unless_they_say_otherwise(self, tmp_path: Path):
        universe = load_universe(universe_file(tmp_path))
        assert universe.names == ("AAPL", "MSFT")
        assert universe.bounds == {"AAPL": (date(2020, 1, 1), None), "MSFT": (date(2020, 6, 1), None)}

    @pytest.mark.parametrize(
        ("old", "new", "line", "said"),
        [
            ("symbol: MSFT", "symbol: AAPL", 5, "symbols: symbol AAPL is listed twice"),
            ("symbol: MSFT", "symbol: msft", 8, "symbols.1.symbol: symbol 'msft' is not valid"),
            ("symbol: MSFT", "symbol: A|B", 8, "symbol 'A|B' is not valid"),
            ("symbol: MSFT", "symbol: ON", 8, "YAML reads it as True; put it in quotes"),
            ("- AAPL", "- ON", 7, "if it is meant as text, put it in quotes"),
            ("from: 2020-06-01", "from: 2020-06-01\n    to: 2020-05-01", 8, "listed from 2020-06-01 to 2020-05-01"),
            ("from: 2020-06-01", "to: 2019-06-01", 1, "MSFT is listed only outside 2020-01-01 to None"),
            (
                "from: 2020-06-01",
                "since: 2020-06-01",
                9,
                "symbols.1.since: unknown field; known here: symbol, from, to",
            ),
            ("start: 2020-01-01", "start: 2020-01-01\nend: 2019-01-01", 1, "start 2020-01-01 is after end 2019-01-01"),
            ("name: small", "name: large", 1, "is 'large' but the file is small.yaml"),
            ("version: 1.2.3", "version: 1", 2, "version: must be text"),
        ],
    )
    def test_an_error_names_file_line_and_field(self, tmp_path: Path, old: str, new: str, line: int, said: str):
        path = universe_file(tmp_path, UNIVERSE.replace(old, new, 1))
        with pytest.raises(StrategyError) as caught:
            load_universe(path)
        assert str(caught.value).startswith(f"{path}, line {line}")
        assert said in str(caught.value)

    def test_a_universe_without_symbols_is_refused(self, tmp_path: Path):
        text = UNIVERSE[: UNIVERSE.index("symbols:")] + "symbols: []\n"
        with pytest.raises(StrategyError, match="line 5, symbols: no symbols; list at least one"):
            load_universe(universe_file(tmp_path, text))

    def test_provider_options_are_plain_values(self, tmp_path: Path):
        options = "provider: synthetic\nprovider_options: {seed: 7, years: 10}"
        universe = load_universe(universe_file(tmp_path, UNIVERSE.replace("provider: sample", options)))
        assert universe.provider_options == {"seed": 7, "years": 10}

    def test_adding_a_symbol_keeps_comments_and_raises_the_version(self, tmp_path: Path):
        path = universe_file(tmp_path)
        changed = add_symbol(path, "ON", date(2021, 3, 1), "ON Semiconductor")
        assert changed == load_universe(path)
        assert path.read_text() == UNIVERSE.replace("1.2.3", "1.3.0").replace(
            "from: 2020-06-01\n",
            "from: 2020-06-01\n  - {symbol: 'ON', from: 2021-03-01, name: ON Semiconductor}\n",
        )
        assert [file.name for file in tmp_path.iterdir()] == ["small.yaml"]

    @pytest.mark.parametrize(
        ("symbols", "after"),
        [
            ("symbols: [AAPL, MSFT] # two", "symbols: [AAPL, MSFT, {symbol: IBM}] # two"),
            ("symbols:\n- AAPL", "symbols:\n- AAPL\n- {symbol: IBM}"),
            ("symbols: [\n  AAPL,\n]\n", "symbols: [\n  AAPL, {symbol: IBM},\n]\n"),
            ("symbols:\n  - {symbol: AAPL}   # one\n", "symbols:\n  - {symbol: AAPL}   # one\n  - {symbol: IBM}\n"),
        ],
    )
    def test_a_symbol_can_be_added_to_a_list_of_any_style(self, tmp_path: Path, symbols: str, after: str):
        head = UNIVERSE[: UNIVERSE.index("symbols:")]
        path = universe_file(tmp_path, head + symbols)
        assert "IBM" in add_symbol(path, "IBM").names
        assert path.read_text() == head.replace("1.2.3", "1.3.0") + after

    def test_adding_a_symbol_keeps_the_line_ends(self, tmp_path: Path):
        path = universe_file(tmp_path)
        path.write_bytes(UNIVERSE.replace("\n", "\r\n").encode())
        add_symbol(path, "IBM")
        assert path.read_bytes().count(b"\n") == path.read_bytes().count(b"\r\n") == UNIVERSE.count("\n") + 1

    def test_the_shipped_universe_takes_another_symbol(self, tmp_path: Path):
        path = tmp_path / "us_tech.yaml"
        path.write_bytes((UNIVERSES / "us_tech.yaml").read_bytes())
        assert add_symbol(path, "AMZN").names == ("AAPL", "AMZN", "FB", "GOOG", "IBM", "MSFT")
        assert load_universe(path).version == "1.1.0"

    @pytest.mark.parametrize("symbol", ["AAPL", "aapl", "", "A B", "TOOLONGFORASYMBOL"])
    def test_a_symbol_that_cannot_be_added_leaves_the_file_as_it_was(self, tmp_path: Path, symbol: str):
        path = universe_file(tmp_path)
        with pytest.raises(StrategyError, match=re.escape(str(path))):
            add_symbol(path, symbol)
        assert path.read_text() == UNIVERSE


# 2024: Monday 15 January and Good Friday 29 March are holidays
CALENDAR = tuple(
    day
    for day in (date(2024, 1, 1) + timedelta(n) for n in range(120))
    if day.weekday() < 5 and day not in (date(2024, 1, 1), date(2024, 1, 15), date(2024, 3, 29))
)


class TestRebalanceDates:
    def test_daily_is_every_session(self):
        assert rebalance_dates("daily", CALENDAR[3:5], CALENDAR) == list(CALENDAR[3:5])

    def test_weekly_is_the_last_session_of_the_week_also_before_a_holiday(self):
        sessions = [day for day in CALENDAR if date(2024, 3, 18) <= day <= date(2024, 4, 5)]
        assert rebalance_dates("weekly", sessions, CALENDAR) == [date(2024, 3, d) for d in (22, 28)] + [
            date(2024, 4, 5)
        ]

    def test_a_slice_that_ends_within_a_week_has_no_end_of_it(self):
        assert rebalance_dates("weekly", [date(2024, 1, 8), date(2024, 1, 9)], CALENDAR) == []

    def test_monthly_is_the_last_session_of_the_month(self):
        assert rebalance_dates("monthly", CALENDAR, CALENDAR) == [
            date(2024, 1, 31),
            date(2024, 2, 29),
            date(2024, 3, 28),
        ]

    @given(st.sampled_from(["daily", "weekly", "monthly"]), st.integers(0, len(CALENDAR)))
    @settings(max_examples=30, deadline=None)
    def test_two_slices_have_the_dates_of_the_whole(self, frequency: str, cut: int):
        whole = rebalance_dates(frequency, CALENDAR, CALENDAR)
        parts = [rebalance_dates(frequency, part, CALENDAR) for part in (CALENDAR[:cut], CALENDAR[cut:])]
        assert parts[0] + parts[1] == whole


DAYS = CALENDAR[:30]
OPEN = dict.fromkeys("ABCDE", (None, None))
AB, ABC = ({symbol: OPEN[symbol] for symbol in symbols} for symbols in ("AB", "ABC"))


def scores(*rows: tuple[date, dict[str, float]]) -> pl.DataFrame:
    return pl.DataFrame(
        [(symbol, day, score) for day, by_symbol in rows for symbol, score in by_symbol.items()],
        schema={"symbol": pl.String, "ts": pl.Date, "score": pl.Float64},
        orient="row",
    )


def bars(days: tuple[date, ...], closes: dict[str, list[float]]) -> pl.DataFrame:
    frames = [
        pl.DataFrame({"symbol": symbol, "ts": days, **dict.fromkeys(("open", "high", "low", "close"), close)})
        for symbol, close in closes.items()
    ]
    return pl.concat(frames).with_columns(volume=pl.lit(1.0))


NO_BARS = pl.DataFrame()


def weights(targets: pl.DataFrame, day: date) -> dict[str, float]:
    return dict(targets.filter(pl.col("asof") == day).select("symbol", pl.col("weight").round(12)).iter_rows())


class TestDecide:
    @pytest.fixture
    def spec(self, tmp_path: Path) -> StrategySpec:
        text = STRATEGY + "supervisor: {max_weight_per_symbol: 0.5, max_positions: 2, turnover_cap: null}\n"
        return strategy(tmp_path, text)

    def test_targets_have_the_contracted_columns_and_every_candidate(self, spec: StrategySpec):
        decided = decide(spec, scores((DAYS[0], {"A": 1, "B": 3, "C": 2})), NO_BARS, {}, DAYS[:1], CALENDAR, ABC)
        assert decided.targets.rows() == [
            ("momentum", "1.0.0", DAYS[0], "A", 0.0, 1.0, False, ["R5"], "rank 3 is beyond top_k 2"),
            ("momentum", "1.0.0", DAYS[0], "B", 0.5, 3.0, True, [], "rank 1"),
            ("momentum", "1.0.0", DAYS[0], "C", 0.5, 2.0, True, [], "rank 2"),
        ]
        assert decided.skipped == ()

    def test_a_share_not_yet_listed_is_no_candidate_and_costs_the_others_nothing(self, spec: StrategySpec):
        bounds = {"A": (None, None), "B": (None, None), "C": (DAYS[1], None)}
        table = scores((DAYS[0], {"A": 1, "B": 2, "C": 9}), (DAYS[1], {"A": 1, "B": 2, "C": 9}))
        targets = decide(spec, table, NO_BARS, {}, DAYS[:2], CALENDAR, bounds).targets
        assert weights(targets, DAYS[0]) == {"A": 0.5, "B": 0.5}
        assert weights(targets, DAYS[1]) == {"A": 0.0, "B": 0.5, "C": 0.5}

    def test_a_position_in_a_share_whose_listing_ended_is_closed_and_says_so(self, spec: StrategySpec):
        limited = spec.model_copy(update={"supervisor": spec.supervisor.model_copy(update={"turnover_cap": 0.0})})
        bounds = {"A": (None, None), "B": (None, DAYS[0])}
        table = scores((DAYS[0], {"A": 1, "B": 2}), (DAYS[1], {"A": 1}), (DAYS[2], {"A": 1}))
        targets = decide(limited, table, NO_BARS, {"A": 0.4, "B": 0.5}, DAYS[:3], CALENDAR, bounds).targets
        assert weights(targets, DAYS[0]) == {"A": 0.4, "B": 0.5}
        assert weights(targets, DAYS[1]) == {"A": 0.4, "B": 0.0}
        assert weights(targets, DAYS[2]) == {"A": 0.4}
        closed = targets.filter(pl.col("asof") == DAYS[1], pl.col("symbol") == "B").row(0, named=True)
        assert closed["risk_flags"] == ["missing", "unlisted"]
        assert closed["reason"] == "not listed on this date; position of 0.5000 closed"

    def test_a_position_in_a_symbol_that_left_the_universe_is_closed_on_the_first_date(self, spec: StrategySpec):
        table = scores(*((day, {"A": 1}) for day in DAYS[:2]))
        targets = decide(spec, table, NO_BARS, {"Z": 0.3}, DAYS[:2], CALENDAR, {"A": (None, None)}).targets
        assert weights(targets, DAYS[0]) == {"A": 0.5, "Z": 0.0}
        assert weights(targets, DAYS[1]) == {"A": 0.5}
        assert targets.filter(pl.col("symbol") == "Z")["risk_flags"].to_list() == [["unlisted"]]

    def test_a_date_with_too_few_scores_is_skipped_and_the_last_weights_stand(self, spec: StrategySpec):
        table = scores((DAYS[0], {"A": 1, "B": 2}), (DAYS[1], {"A": 1}), (DAYS[2], {"A": 2, "B": 1}))
        decided = decide(spec, table, NO_BARS, {}, DAYS[:3], CALENDAR, AB)
        assert decided.targets["asof"].unique(maintain_order=True).to_list() == [DAYS[0], DAYS[2]]
        (skipped,) = decided.skipped
        assert skipped.asof == DAYS[1]
        assert skipped.reason == "1 of 2 listed symbols have a score; min_cross_section asks for 1 of them"

    def test_enough_of_the_cross_section_decides_and_flags_what_is_missing(self, spec: StrategySpec):
        lenient = spec.model_copy(update={"min_cross_section": 0.5})
        targets = decide(lenient, scores((DAYS[0], {"A": 1})), NO_BARS, {}, DAYS[:1], CALENDAR, AB).targets
        assert targets.select("symbol", "weight", "score", "approved", "risk_flags", "reason").rows() == [
            ("A", 0.5, 1.0, True, ["R2"], "rank 1, clipped to max_weight_per_symbol 0.5"),
            ("B", 0.0, None, False, ["missing"], "no score on this date"),
        ]

    def test_a_date_on_which_nothing_is_listed_has_no_targets(self, spec: StrategySpec):
        decided = decide(spec, scores(), NO_BARS, {}, DAYS[:1], CALENDAR, {"A": (DAYS[1], None)})
        assert decided.targets.is_empty()
        assert decided.targets.columns == [
            "strategy_id",
            "version",
            "asof",
            "symbol",
            "weight",
            "score",
            "approved",
            "risk_flags",
            "reason",
        ]
        assert [skip.asof for skip in decided.skipped] == [DAYS[0]]

    def test_days_that_are_no_rebalance_day_write_nothing(self, spec: StrategySpec):
        weekly = spec.model_copy(update={"rebalance": spec.rebalance.model_copy(update={"frequency": "weekly"})})
        decided = decide(weekly, scores((DAYS[0], {"A": 1})), NO_BARS, {}, DAYS[:1], CALENDAR, {"A": (None, None)})
        assert decided.targets.is_empty()
        assert decided.skipped == ()

    def test_scores_of_other_symbols_and_days_are_ignored(self, spec: StrategySpec):
        table = scores((DAYS[0], {"A": 1, "Z": 9}), (DAYS[5], {"A": 1}))
        targets = decide(spec, table, NO_BARS, {}, DAYS[:1], CALENDAR, {"A": (None, None)}).targets
        assert weights(targets, DAYS[0]) == {"A": 0.5}

    def test_two_scores_for_one_symbol_and_date_are_refused(self, spec: StrategySpec):
        with pytest.raises(DataError, match=f"more than one score for A on {DAYS[0]}"):
            decide(spec, pl.concat([scores((DAYS[0], {"A": 1}))] * 2), NO_BARS, {}, DAYS[:1], CALENDAR, OPEN)

    def test_inverse_vol_weighs_by_the_returns_known_on_the_date(self, spec: StrategySpec):
        calm = spec.model_copy(update={"portfolio": spec.portfolio.model_copy(update={"weighting": "inverse_vol"})})
        calm = calm.model_copy(update={"supervisor": spec.supervisor.model_copy(update={"max_weight_per_symbol": 1.0})})
        swing = [100.0 * (1.01 if n % 2 else 1.0) for n in range(30)]
        wild = [100.0 * (1.03 if n % 2 else 1.0) for n in range(30)]
        prices = bars(DAYS, {"A": swing, "B": wild})
        day = DAYS[25]
        targets = decide(calm, scores((day, {"A": 1, "B": 2})), prices, {}, [day], CALENDAR, AB).targets
        returns = {s: [p[n] / p[n - 1] - 1 for n in range(6, 26)] for s, p in (("A", swing), ("B", wild))}
        vol = {symbol: pl.Series(values).std() for symbol, values in returns.items()}
        assert weights(targets, day)["A"] == pytest.approx(vol["B"] / (vol["A"] + vol["B"]))
        early = decide(calm, scores((DAYS[19], {"A": 1, "B": 2})), prices, {}, [DAYS[19]], CALENDAR, AB).targets
        assert weights(early, DAYS[19]) == {"A": 0.0, "B": 0.0}

    @settings(max_examples=30, deadline=None)
    @given(
        st.lists(st.lists(st.one_of(st.none(), st.floats(-1, 1)), min_size=5, max_size=5), min_size=8, max_size=8),
        st.integers(0, 8),
        st.sampled_from([0.1, 0.3, None]),
    )
    def test_a_slice_cut_in_two_or_shuffled_gives_the_same_targets(self, tmp_path_factory, table, cut, turnover_cap):
        base = strategy(tmp_path_factory.getbasetemp(), STRATEGY)
        rules = base.supervisor.model_copy(update={"turnover_cap": turnover_cap, "max_positions": 2})
        spec = base.model_copy(update={"supervisor": rules, "min_cross_section": 0.4})
        rows = [(day, dict(zip("ABCDE", values, strict=True))) for day, values in zip(DAYS, table, strict=False)]
        frame = scores(*rows).drop_nulls()
        bounds = OPEN | {"B": (DAYS[3], None), "C": (None, DAYS[4])}
        whole = decide(spec, frame, NO_BARS, {"Z": 0.1, "C": 0.2}, DAYS[:8], CALENDAR, bounds)
        first = decide(spec, frame.reverse(), NO_BARS, {"Z": 0.1, "C": 0.2}, DAYS[:cut], CALENDAR, bounds)
        held = {"Z": 0.1, "C": 0.2}
        if not first.targets.is_empty():
            latest = first.targets.filter(pl.col("asof") == pl.col("asof").max(), "approved")
            held = dict(latest.select("symbol", "weight").iter_rows())
        second = decide(spec, frame, NO_BARS, held, DAYS[cut:8], CALENDAR, bounds)
        assert pl.concat([first.targets, second.targets]).equals(whole.targets)
        assert first.skipped + second.skipped == whole.skipped

    def test_the_future_changes_nothing(self, spec: StrategySpec):
        table = scores(*((day, {"A": n % 3, "B": n % 5, "C": 1.5}) for n, day in enumerate(DAYS)))
        bounds = ABC
        whole = decide(spec, table, NO_BARS, {}, DAYS, CALENDAR, bounds).targets
        early = decide(spec, table.filter(pl.col("ts") <= DAYS[9]), NO_BARS, {}, DAYS[:10], CALENDAR, bounds).targets
        assert whole.filter(pl.col("asof") <= DAYS[9]).equals(early)


def test_the_signal_kind_says_what_the_scores_are_read_from(tmp_path: Path):
    features = pl.DataFrame({"symbol": ["A"], "ts": [DAYS[0]], "ret_60d": [0.1]})
    predictions = pl.DataFrame({"symbol": ["A"], "ts": [DAYS[0]], "score": [0.2], "calibrated_score": [0.3]})
    assert signal_scores(strategy(tmp_path), features)["score"].to_list() == [0.1]
    assert signal_scores(strategy(tmp_path, MODEL), predictions)["score"].to_list() == [0.2]
    own_models = MODEL.replace("label: direction_60d", "label: direction_60d\n    scope: symbol")
    assert signal_scores(strategy(tmp_path, own_models), predictions)["score"].to_list() == [0.3]


class TestRules:
    def prices(self, *closes: float) -> pl.DataFrame:
        return pl.DataFrame({"symbol": "A", "ts": DAYS[: len(closes)], "open": closes, "close": closes})

    def decided(self, spec: StrategySpec, bars: pl.DataFrame) -> pl.DataFrame:
        days = bars["ts"].unique().sort().to_list()
        scores = signal_scores(spec, bars, CALENDAR)
        return decide(
            spec, scores, bars, {}, days, CALENDAR, dict.fromkeys(bars["symbol"].unique(), (None, None))
        ).targets

    def test_a_rule_holds_its_exposure_of_the_symbols_share(self, tmp_path: Path):
        # breaks its channel of two closes upwards on the third day, downwards on the fourth
        spec = strategy(tmp_path, RULE).variant({"portfolio.top_k": None, "supervisor.max_weight_per_symbol": 1.0})
        donchian = spec.model_copy(update={"signal": Donchian(type="donchian", inputs=DonchianInputs(entry=2, exit=1))})
        daily = donchian.variant({"rebalance.frequency": "daily", "supervisor.turnover_cap": None})
        bars = self.prices(10, 11, 12, 9)
        assert self.decided(daily, bars).select("asof", "weight").rows() == [(DAYS[2], 1.0), (DAYS[3], 0.0)]
        short = daily.variant({"portfolio.short": "full"})
        assert self.decided(short, bars)["weight"].to_list() == [1.0, -1.0]

    def test_the_score_of_a_target_says_what_the_rule_wanted_even_where_it_may_not_sell_short(self, tmp_path: Path):
        spec = strategy(tmp_path, RULE).variant({"portfolio.top_k": None, "rebalance.frequency": "daily"})
        rows = self.decided(spec, self.prices(*range(60, 30, -1)))
        assert rows["score"].min() < 0
        assert rows["weight"].min() == 0.0

    @pytest.mark.parametrize(
        ("kind", "weighting", "reach"),
        [("tsmom", "equal", 20), ("tsmom", "hrp", 60), ("donchian", "equal", None)],
    )
    def test_a_decision_says_how_much_history_it_reads(
        self, tmp_path: Path, kind: str, weighting: str, reach: int | None
    ):
        text = RULE if kind == "tsmom" else RULE.replace("tsmom", "donchian").replace("{lookback: 5}", "{entry: 20}")
        assert history(strategy(tmp_path, text).variant({"portfolio.weighting": weighting})) == reach

    @pytest.mark.parametrize(
        ("kind", "weighting"),
        [("tsmom", "equal"), ("tsmom", "inverse_vol"), ("tsmom", "hrp"), ("donchian", "equal"), ("ema_cross", "equal")],
    )
    def test_a_slice_decided_from_its_history_equals_the_same_dates_of_the_whole(
        self, tmp_path: Path, kind: str, weighting: str
    ):
        text = RULE.replace("tsmom", kind).replace("  inputs: {lookback: 5}\n", "")
        spec = strategy(tmp_path, text).variant(
            {
                "portfolio.top_k": None,
                "portfolio.weighting": weighting,
                "portfolio.risk_window": 15,
                "portfolio.short": "full",
            }
        )
        bars = synthetic_bars(synthetic_symbols(3), CALENDAR)
        whole, days = self.decided(spec, bars), list(CALENDAR)
        cut, end = 66, 70
        reach = history(spec)
        kept = days[0 if reach is None else cut - reach]
        some = bars.filter(pl.col("ts").is_between(kept, days[end - 1]))
        held = dict(whole.filter(pl.col("asof") == days[cut - 1]).select("symbol", "weight").iter_rows())
        scores = signal_scores(spec, some, CALENDAR)
        bounds = dict.fromkeys(sorted(bars["symbol"].unique()), (None, None))
        part = decide(spec, scores, some, held, days[cut:end], CALENDAR, bounds).targets
        assert part.height > 0
        assert part.equals(whole.filter(pl.col("asof").is_between(days[cut], days[end - 1])))
