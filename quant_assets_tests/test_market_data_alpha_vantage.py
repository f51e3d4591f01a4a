"""The Alpha Vantage provider against a loopback stand-in: plans, faults, limits, and the key that nobody sees."""

import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest

from quant_assets.core.errors import ConfigError, PermanentProviderError, TransientProviderError
from quant_assets.core.settings import Settings
from quant_assets.market_data.alpha_vantage import STATE_FILE, AlphaVantageProvider
from quant_assets.market_data.alpha_vantage_client import PremiumEndpointError
from quant_assets.market_data.alpha_vantage_state import KeyState
from quant_assets.market_data.provider import FetchRequest, make_provider
from quant_assets_tests.standins import INVALID, PREMIUM, RATE_LIMIT, AlphaVantage, Bar, Reply

KEY = "K3Y+OF/SOMEONE"
SESSIONS = [day for n in range(400) if (day := date(2023, 1, 2) + timedelta(n)).weekday() < 5]
NEWEST = SESSIONS[-1]


class Clock:
    """Time that passes only while somebody sleeps."""

    def __init__(self, at: datetime) -> None:
        self.at = at
        self.slept: list[float] = []

    def now(self) -> datetime:
        return self.at

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.at += timedelta(seconds=seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock(datetime(NEWEST.year, NEWEST.month, NEWEST.day, 22, tzinfo=UTC))


@pytest.fixture
def market() -> Iterator[AlphaVantage]:
    bars = [Bar(day.isoformat(), 100 + n) for n, day in enumerate(SESSIONS)]
    bars[-3].split, bars[-2].dividend = 2.0, 0.5
    with AlphaVantage({"AAA": bars, "NEW": bars[-20:]}) as server:
        yield server


@pytest.fixture
def free_market(market: AlphaVantage) -> AlphaVantage:
    market.premium = False
    return market


def provider(market: AlphaVantage, home: Path, clock: Clock, key: str = KEY, **changes: object) -> AlphaVantageProvider:
    values: dict[str, object] = {
        "home": home,
        "ALPHA_VANTAGE_API_KEY": key,
        "alpha_vantage_url": market.url,
        "alpha_vantage_per_minute": 1000,
        "alpha_vantage_per_day": 1000,
        "http_timeout_seconds": 5,
    }
    return AlphaVantageProvider(Settings.model_validate(values | changes), SESSIONS, clock.now, clock.sleep)


def recent(symbol: str = "AAA", sessions: int = 5) -> FetchRequest:
    return FetchRequest(symbol, SESSIONS[-sessions], NEWEST)


def test_a_premium_key_gets_bars_and_actions_in_one_request(market, tmp_path, clock):
    fetched = provider(market, tmp_path, clock).fetch(recent())
    assert market.asked == ["TIME_SERIES_DAILY_ADJUSTED compact"]
    assert (fetched.requests, fetched.complete, len(fetched.bars)) == (1, False, 100)
    assert fetched.bars.row(-1) == (NEWEST, *[100 + len(SESSIONS) - 1] * 5, 1000)
    assert fetched.actions.rows() == [(SESSIONS[-3], "split", 2.0), (SESSIONS[-2], "dividend", 0.5)]


@pytest.mark.parametrize(("sessions", "size"), [(100, "compact"), (101, "full")])
def test_output_size_follows_from_how_much_is_missing(market, tmp_path, clock, sessions, size):
    fetched = provider(market, tmp_path, clock).fetch(recent(sessions=sessions))
    assert market.asked == [f"TIME_SERIES_DAILY_ADJUSTED {size}"]
    assert fetched.complete == (size == "full")
    assert fetched.bars["ts"][0] <= SESSIONS[-sessions]


def test_the_whole_history_is_asked_for_in_full(market, tmp_path, clock):
    fetched = provider(market, tmp_path, clock).fetch(recent(), whole=True)
    assert market.asked == ["TIME_SERIES_DAILY_ADJUSTED full"]
    assert len(fetched.bars) == len(SESSIONS)


def test_a_compact_answer_that_does_not_reach_is_followed_by_a_full_one(market, tmp_path, clock):
    market.bars["AAA"] += [Bar("2024-02-10", 1), Bar("2024-02-11", 1)]
    fetched = provider(market, tmp_path, clock).fetch(recent(sessions=100))
    assert market.asked == ["TIME_SERIES_DAILY_ADJUSTED compact", "TIME_SERIES_DAILY_ADJUSTED full"]
    assert fetched.requests == 2


def test_a_free_key_is_found_out_once_and_remembered_by_later_runs(free_market, tmp_path, clock):
    fetched = provider(free_market, tmp_path, clock).fetch(recent())
    free = ["TIME_SERIES_DAILY compact", "SPLITS", "DIVIDENDS"]
    assert free_market.asked == ["TIME_SERIES_DAILY_ADJUSTED compact", *free]
    assert fetched.requests == 4
    assert fetched.bars["adjusted_close"].null_count() == 100
    assert fetched.actions_complete
    assert fetched.actions.rows() == [(SESSIONS[-3], "split", 2.0), (SESSIONS[-2], "dividend", 0.5)]
    free_market.queries.clear()
    assert provider(free_market, tmp_path, clock).fetch(recent()).requests == 3
    assert free_market.asked == free


def test_another_key_is_not_taken_for_the_remembered_one(free_market, tmp_path, clock):
    provider(free_market, tmp_path, clock).fetch(recent())
    free_market.queries.clear()
    provider(free_market, tmp_path, clock, key="ANOTHER").fetch(recent())
    assert free_market.asked[0] == "TIME_SERIES_DAILY_ADJUSTED compact"


def test_a_key_that_lost_its_premium_plan_falls_back(market, tmp_path, clock):
    provider(market, tmp_path, clock).fetch(recent())
    market.premium = False
    assert provider(market, tmp_path, clock).fetch(recent()).requests == 4
    assert provider(market, tmp_path, clock).fetch(recent()).requests == 3


def test_a_free_key_that_was_upgraded_is_noticed_where_it_matters(free_market, tmp_path, clock):
    provider(free_market, tmp_path, clock).fetch(recent())
    free_market.premium = True
    free_market.queries.clear()
    fetched = provider(free_market, tmp_path, clock).fetch(recent(sessions=150))
    assert free_market.asked == ["TIME_SERIES_DAILY compact", "TIME_SERIES_DAILY_ADJUSTED full"]
    assert len(fetched.bars) == len(SESSIONS)
    assert fetched.bars["adjusted_close"].null_count() == 0
    assert provider(free_market, tmp_path, clock).fetch(recent()).requests == 1


def test_a_free_key_refuses_an_older_gap_and_names_the_remedy(free_market, tmp_path, clock):
    with pytest.raises(PermanentProviderError, match=r"AAA.*100 bars, to .* needed; use a premium key"):
        provider(free_market, tmp_path, clock).fetch(recent(sessions=101))
    assert "SPLITS" not in free_market.asked
    assert len(provider(free_market, tmp_path, clock).fetch(recent(sessions=100)).bars) == 100


def test_a_free_key_only_needs_one_stored_bar_to_compare_with(free_market, tmp_path, clock):
    request = FetchRequest("AAA", SESSIONS[-105], NEWEST, stored_last=SESSIONS[-100])
    assert len(provider(free_market, tmp_path, clock).fetch(request).bars) == 100


def test_a_free_key_gets_all_of_a_symbol_that_listed_lately(free_market, tmp_path, clock):
    fetched = provider(free_market, tmp_path, clock).fetch(recent("NEW", sessions=200), whole=True)
    assert (len(fetched.bars), fetched.complete) == (20, True)


RETRIED = {
    "500": Reply("trouble", 500),
    "503": Reply("trouble", 503),
    "429": Reply("trouble", 429),
    "note": Reply('{"Note": "Our standard API call frequency is 5 calls per minute."}'),
    "information": Reply(json.dumps({"Information": RATE_LIMIT.format(key=KEY)})),
    "connection cut": Reply('{"Time Series (Daily)": {', cut=8),
    "body cut": Reply('{"Time Series (Daily)": {"2024'),
    "empty body": Reply(""),
}


@pytest.mark.parametrize("fault", RETRIED)
def test_a_failure_that_a_retry_can_mend_is_retried(market, tmp_path, clock, fault):
    market.script(RETRIED[fault], RETRIED[fault])
    fetched = provider(market, tmp_path, clock).fetch(recent())
    assert fetched.requests == 3
    assert len(clock.slept) == 2
    assert clock.slept[0] < clock.slept[1]


@pytest.mark.parametrize("fault", RETRIED)
def test_it_is_given_up_after_five_tries_as_transient(market, tmp_path, clock, fault):
    market.script(*[RETRIED[fault]] * 5)
    with pytest.raises(TransientProviderError, match=r"AAA: TIME_SERIES_DAILY_ADJUSTED: .*tried 5 times"):
        provider(market, tmp_path, clock).fetch(recent())
    assert len(market.queries) == 5


def test_a_timeout_is_retried(market, tmp_path, clock):
    release = threading.Event()
    market.script(Reply("{}", wait_for=release))
    fetched = provider(market, tmp_path, clock, http_timeout_seconds=0.2).fetch(recent())
    release.set()
    assert fetched.requests == 2


def test_a_refused_connection_is_transient(market, tmp_path, clock):
    with AlphaVantage({}) as gone:
        pass
    with pytest.raises(TransientProviderError, match="ConnectError"):
        provider(gone, tmp_path, clock).fetch(recent())


PERMANENT = {
    "error message": (Reply(json.dumps({"Error Message": INVALID})), "Invalid API call"),
    "bad key": (Reply('{"Error Message": "the parameter apikey is invalid."}'), "check ALPHA_VANTAGE_API_KEY"),
    "html": (Reply("<html>Service unavailable</html>"), "an HTML page"),
    "empty": (Reply("{}"), "an empty answer"),
    "no object": (Reply("[]"), "a JSON object was due|not JSON"),
    "unknown information": (Reply('{"Information": "The **demo** key is for demos."}'), "demo"),
    "no series": (Reply('{"Meta Data": {}}'), "no 'Time Series"),
    "no bar": (Reply('{"Time Series (Daily)": {}}'), "no 'Time Series"),
    "no date": (Reply('{"Time Series (Daily)": {"soon": {"1. open": "1", "2. high": "1", "3. low": "1",'
                      ' "4. close": "1", "5. volume": "1"}}}'), "'soon' is no date"),
    "no close": (Reply('{"Time Series (Daily)": {"2024-01-02": {"1. open": "1"}}}'), "bars without high"),
    "forbidden": (Reply("no", 403), "HTTP 403"),
    "moved": (Reply("", 301, {"Location": "http://127.0.0.1:1/"}), "HTTP 301"),
}  # fmt: skip


@pytest.mark.parametrize("fault", PERMANENT)
def test_a_permanent_answer_is_never_retried_and_names_symbol_and_cause(market, tmp_path, clock, fault):
    reply, cause = PERMANENT[fault]
    market.script(reply)
    with pytest.raises(PermanentProviderError, match=f"AAA: .*({cause})"):
        provider(market, tmp_path, clock).fetch(recent())
    assert len(market.queries) == 1
    assert clock.slept == []


def test_an_unknown_symbol_is_permanent(market, tmp_path, clock):
    with pytest.raises(PermanentProviderError, match=r"NOPE: .*check that the symbol exists"):
        provider(market, tmp_path, clock).fetch(recent("NOPE"))


def test_a_premium_answer_to_the_last_endpoint_left_is_permanent(free_market, tmp_path, clock):
    free_market.script(None, Reply(json.dumps({"Information": PREMIUM})))
    with pytest.raises(PremiumEndpointError, match="use a premium key"):
        provider(free_market, tmp_path, clock).fetch(recent())


def test_a_rate_limit_text_that_advertises_premium_plans_is_still_a_rate_limit(market, tmp_path, clock):
    market.script(Reply(json.dumps({"Information": RATE_LIMIT.format(key=KEY)})))
    provider(market, tmp_path, clock).fetch(recent())
    assert market.asked == ["TIME_SERIES_DAILY_ADJUSTED compact"] * 2


@pytest.mark.parametrize("as_date", [False, True])
def test_retry_after_decides_how_long_to_wait(market, tmp_path, clock, as_date):
    at = (clock.now() + timedelta(seconds=17)).strftime("%a, %d %b %Y %H:%M:%S GMT")
    market.script(Reply("", 503, {"Retry-After": at if as_date else "17"}))
    provider(market, tmp_path, clock).fetch(recent())
    assert clock.slept == [17.0]


def test_a_retry_after_beyond_patience_is_not_waited_for(market, tmp_path, clock):
    market.script(Reply("", 429, {"Retry-After": "3600"}))
    with pytest.raises(TransientProviderError, match="HTTP 429, to be tried again in 3600 s"):
        provider(market, tmp_path, clock).fetch(recent())
    assert clock.slept == []


def test_bad_rows_reach_the_gate_as_rows(market, tmp_path, clock):
    market.bars["AAA"][-1].volume = "None"
    market.bars["AAA"][-2].close = -5.0
    market.bars["AAA"][-4].close = "n/a"
    bars = provider(market, tmp_path, clock).fetch(recent()).bars
    assert bars["volume"][-1] is None
    assert bars["close"][-2] == -5.0
    assert bars["close"][-4] is None
    assert len(bars) == 100


def test_announced_actions_without_a_date_or_value_are_left_out(free_market, tmp_path, clock):
    rows = [{"ex_dividend_date": "None", "amount": "1"}, {"ex_dividend_date": "2024-01-02", "amount": "None"}]
    free_market.script(None, None, None, Reply(json.dumps({"data": rows})))
    assert provider(free_market, tmp_path, clock).fetch(recent()).actions["kind"].to_list() == ["split"]


def test_search_gives_the_best_match_first(market, tmp_path, clock):
    matches = provider(market, tmp_path, clock).search("NEW")
    assert [(match.symbol, match.score) for match in matches] == [("NEW", 1.0), ("AAA", 0.25)]
    assert matches[0].name == "NEW Inc"


def test_the_minute_limit_makes_the_next_request_wait_for_its_turn(market, tmp_path, clock):
    for _ in range(3):
        provider(market, tmp_path, clock, alpha_vantage_per_minute=2).fetch(recent())
        clock.at += timedelta(seconds=10)
    assert clock.slept == [pytest.approx(40)]


def test_a_used_up_day_is_not_waited_for_and_says_when_it_resets(market, tmp_path, clock):
    for _ in range(2):
        provider(market, tmp_path, clock, alpha_vantage_per_day=2).fetch(recent())
    with pytest.raises(PermanentProviderError, match=r"AAA: all 2 requests of .* from 2024-02-06 00:00 New York time"):
        provider(market, tmp_path, clock, alpha_vantage_per_day=2).fetch(recent())
    assert (len(market.queries), clock.slept) == (2, [])
    clock.at += timedelta(hours=7)
    provider(market, tmp_path, clock, alpha_vantage_per_day=2).fetch(recent())


def test_retries_count_against_the_day(market, tmp_path, clock):
    market.script(Reply("", 500))
    provider(market, tmp_path, clock).fetch(recent())
    state = KeyState(tmp_path / STATE_FILE, KEY, market.url, 5, 25, clock.now)
    assert state.used_today() == 2


def test_requests_of_several_processes_are_counted_together(tmp_path, clock):
    states = [KeyState(tmp_path / STATE_FILE, KEY, "url", 1000, 1000, clock.now) for _ in range(4)]
    threads = [threading.Thread(target=lambda s=state: [s.take("x") for _ in range(10)]) for state in states]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert states[0].used_today() == 40


def test_a_damaged_state_file_is_forgotten(market, tmp_path, clock):
    (tmp_path / STATE_FILE).write_text('{"half')
    assert provider(market, tmp_path, clock).fetch(recent()).requests == 1
    assert json.loads((tmp_path / STATE_FILE).read_text())


def test_a_home_that_cannot_be_written_is_named(market, tmp_path, clock):
    (tmp_path / "home").write_text("a file")
    with pytest.raises(ConfigError, match=r"alpha_vantage\.json cannot be written.*make QUANT_HOME writable"):
        provider(market, tmp_path / "home", clock).fetch(recent())
    assert market.queries == []


@pytest.mark.parametrize("fault", [*RETRIED, *PERMANENT])
def test_the_key_appears_in_no_message_log_or_file(market, tmp_path, clock, fault, caplog):
    caplog.set_level(logging.DEBUG)
    reply = RETRIED[fault] if fault in RETRIED else PERMANENT[fault][0]
    market.script(*[reply] * 5)
    one = provider(market, tmp_path, clock)
    with pytest.raises((TransientProviderError, PermanentProviderError)) as caught:
        one.fetch(recent())
    said = [str(caught.value), repr(caught.value), repr(one), caplog.text, (tmp_path / STATE_FILE).read_text()]
    assert "apikey=***" in caplog.text
    for text in said:
        assert KEY not in text
        assert "K3Y" not in text
    assert caught.value.__cause__ is None
    assert market.queries[0]["apikey"] == KEY


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/query", "http://[::1/query", "query"])
def test_a_base_url_that_cannot_be_used_is_a_setting_to_correct(market, tmp_path, clock, url):
    with pytest.raises(ConfigError, match="QUANT_ALPHA_VANTAGE_URL"):
        provider(market, tmp_path, clock, alpha_vantage_url=url).fetch(recent())


@pytest.mark.parametrize("key", [None, "", " "])
def test_a_missing_key_is_one_clear_error(tmp_path, key):
    settings = Settings.model_validate({"home": tmp_path, "ALPHA_VANTAGE_API_KEY": key})
    with pytest.raises(ConfigError, match="ALPHA_VANTAGE_API_KEY is not set"):
        make_provider("alpha_vantage", settings, SESSIONS)
