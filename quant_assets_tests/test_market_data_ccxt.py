"""Provider `ccxt`: the real library, spoken to over loopback by an exchange of our own."""

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import nullcontext
from copy import copy
from datetime import UTC, date, datetime, timedelta
from functools import cache
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.core.errors import (
    ConfigError,
    PermanentProviderError,
    TransientProviderError,
)
from quant_assets.core.settings import PROJECT_ROOT, Settings
from quant_assets.market_data.ccxt_exchange import FIRST_DAY, CcxtProvider
from quant_assets.market_data.ingest import OVERLAP, Stored, ingest_symbol
from quant_assets.market_data.provider import BARS_SCHEMA, Fetched, FetchRequest, make_provider
from quant_assets.market_data.retries import seconds_to_wait
from quant_assets.strategy.universe import load_universe
from quant_assets_tests.exchange import Candle, Exchange, candles
from quant_assets_tests.standins import Reply

pytestmark = pytest.mark.slow

FIRST = date(2019, 1, 1)
TODAY = date(2019, 3, 2)
YESTERDAY = TODAY - timedelta(1)
DAYS = (TODAY - FIRST).days + 1


@pytest.fixture(autouse=True)
def only_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name that is looked up, and any other address, is a failed test."""
    connect = socket.socket.connect

    def refuse(self: socket.socket, address: Any) -> None:
        assert address[0] == "127.0.0.1", f"a connection to {address}"
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture
def market() -> Iterator[Exchange]:
    """BTC/USDT from 2019-01-01 to today, whose day is not over; NEW/USDT lists in February; OLD/BTC has no bar."""
    bars = {"BTC/USDT": candles(FIRST, DAYS), "NEW/USDT": candles(date(2019, 2, 10), 21), "OLD/BTC": []}
    with Exchange(bars) as server:
        yield server


class Waits(list[float]):
    """Seconds that would have been slept."""

    def sleep(self, seconds: float) -> None:
        self.append(seconds)


@pytest.fixture
def waits() -> Waits:
    return Waits()


def provider(
    server: Exchange, waits: Waits | None = None, today: date = TODAY, timeout: float = 5, **options: str
) -> CcxtProvider:
    settings = Settings.model_validate({"ccxt_url": server.url, "http_timeout_seconds": timeout})
    now = datetime(today.year, today.month, today.day, 12, tzinfo=UTC)
    made = CcxtProvider(settings, **options, now=lambda: now, sleep=(waits if waits is not None else Waits()).sleep)
    made._client._exchange.rateLimit = 1  # milliseconds between requests, in place of the real exchange's 50
    return made


def fetch(source: CcxtProvider, symbol: str = "BTC/USDT", first: date = FIRST, last: date = TODAY) -> Fetched:
    return source.fetch(FetchRequest(symbol, first, last))


def every_day(first: date, last: date) -> list[date]:
    return [first + timedelta(n) for n in range((last - first).days + 1)]


def test_bars_are_the_exchanges_without_the_day_that_is_not_over(market):
    assert market.bars["BTC/USDT"][-1].day == TODAY
    fetched = fetch(provider(market))
    assert fetched.bars.schema == BARS_SCHEMA
    assert fetched.bars["ts"].to_list() == every_day(FIRST, YESTERDAY)
    assert fetched.bars.row(0) == (FIRST, 100, 101, 99, 100, None, 10)
    assert fetched.actions.is_empty()
    assert (fetched.requests, fetched.complete, fetched.actions_complete) == (2, False, True)


@pytest.mark.parametrize(
    ("hour", "newest"), [(datetime(2019, 3, 1, 23, 59, 59), date(2019, 2, 28)), (datetime(2019, 3, 2), YESTERDAY)]
)
def test_a_day_is_over_at_midnight_utc_wherever_the_clock_is(market, hour, newest):
    settings = Settings.model_validate({"ccxt_url": market.url})
    tokyo = hour.replace(tzinfo=UTC).astimezone(ZoneInfo("Asia/Tokyo"))
    assert fetch(CcxtProvider(settings, now=lambda: tokyo)).bars["ts"][-1] == newest


def test_more_bars_than_one_answer_holds_come_page_by_page_each_day_once(market):
    market.bars["BTC/USDT"] = candles(FIRST, 2100)
    today = FIRST + timedelta(2099)
    fetched = fetch(provider(market, today=today), last=today)
    assert market.limits == [1000, 1000, 99]
    assert fetched.bars["ts"].to_list() == every_day(FIRST, today - timedelta(1))
    assert fetched.requests == len(market.asked) == 4


def test_only_the_days_asked_for_are_fetched(market):
    fetched = fetch(provider(market), first=date(2019, 1, 10), last=date(2019, 1, 12))
    assert fetched.bars["ts"].to_list() == every_day(date(2019, 1, 10), date(2019, 1, 12))
    assert market.limits == [3]


def test_a_day_without_trading_stays_a_gap(market):
    del market.bars["BTC/USDT"][5:8]
    days = fetch(provider(market)).bars["ts"].to_list()
    assert days == [day for day in every_day(FIRST, YESTERDAY) if not date(2019, 1, 6) <= day <= date(2019, 1, 8)]


def test_a_symbol_listed_later_begins_with_its_first_bar(market):
    assert fetch(provider(market), "NEW/USDT").bars["ts"][0] == date(2019, 2, 10)
    assert market.paths == ["exchangeInfo", "klines"]


def test_a_number_that_is_none_is_left_to_the_quality_gate(market):
    market.bars["BTC/USDT"][2] = Candle(date(2019, 1, 3), "n/a", "-1")
    bars = fetch(provider(market)).bars
    assert bars.row(2) == (date(2019, 1, 3), None, None, None, None, None, -1)


def test_the_whole_history_is_asked_for_from_the_first_bitcoin_on(market):
    fetched = provider(market).fetch(FetchRequest("BTC/USDT", YESTERDAY, YESTERDAY), whole=True)
    assert fetched.complete
    assert fetched.bars["ts"].to_list() == every_day(FIRST, YESTERDAY)
    assert market.asked[1].query["startTime"] == str((FIRST_DAY - date(1970, 1, 1)).days * 86_400_000)


def test_markets_are_asked_for_once(market):
    source = provider(market)
    assert [fetch(source, symbol).requests for symbol in ("BTC/USDT", "NEW/USDT", "BTC/USDT")] == [2, 1, 1]


def test_perpetual_futures_are_another_market_of_the_same_symbol(market):
    fetched = fetch(provider(market, market="swap"))
    assert {one.path.rpartition("/")[0] for one in market.asked} == {"/fapi/v1"}
    assert fetched.bars["ts"].to_list() == every_day(FIRST, YESTERDAY)


# -- ingest --------------------------------------------------------------------------------------------------------


def ingested(source: CcxtProvider, stored: Stored, first: date, last: date) -> Any:
    return ingest_symbol(source, "BTC/USDT", first, last, stored)


def after(bars: Any) -> Stored:
    """What the warehouse has once `bars` are stored."""
    return Stored(bars["ts"][0], bars["ts"][-1], tail=bars.tail(OVERLAP), source="ccxt")


def test_a_second_ingest_asks_one_small_request(market):
    source = provider(market)
    stored = after(ingested(source, Stored(), FIRST, date(2019, 2, 20)).bars)
    market.asked.clear()
    again = ingested(source, stored, date(2019, 2, 21), date(2019, 2, 21))
    assert (again.requests, market.limits) == (1, [OVERLAP + 1])
    assert again.bars["ts"].to_list() == [date(2019, 2, 21)]
    assert again.note == "1 new bars, 0 read again"
    assert not again.restated


def test_a_stored_bar_that_the_exchange_has_otherwise_now_restates_the_whole_history(market):
    source = provider(market)
    stored = after(ingested(source, Stored(), FIRST, date(2019, 2, 20)).bars)
    market.bars["BTC/USDT"][45].close = 77.0
    again = ingested(source, stored, date(2019, 2, 21), date(2019, 2, 21))
    assert again.restated
    assert (again.replace_from, again.replace_to) == (FIRST, date(2019, 2, 21))
    assert again.bars["ts"].to_list() == every_day(FIRST, date(2019, 2, 21))
    assert again.note == "history restated: close of 2019-02-15 was 145, is 77"


def test_an_empty_answer_fails_by_name(market):
    with pytest.raises(PermanentProviderError, match="ccxt: OLD/BTC: an answer without any bar; check the symbol"):
        ingest_symbol(provider(market), "OLD/BTC", FIRST, YESTERDAY, Stored())


# -- pages ---------------------------------------------------------------------------------------------------------


class Pages:
    """A client whose answers are made up: the first bars from a day on, or (`window`) those of the days asked for."""

    requests = 0

    def __init__(self, days: Sequence[date], size: int, *, window: bool) -> None:
        self._days, self._size, self._window = days, size, window

    def page(self, symbol: str) -> int:
        return self._size

    def about(self, what: str) -> str:
        return what

    def daily_bars(self, symbol: str, since: date, limit: int) -> list[list[float]]:
        end = since + timedelta(limit) if self._window else date.max
        days = [day for day in self._days if since <= day < end][:limit]
        return [[(day - date(1970, 1, 1)).days * 86_400_000, 1, 1, 1, 1, 1] for day in days]


@cache
def offline() -> CcxtProvider:
    return CcxtProvider(Settings.model_validate({}))


def paged(days: Sequence[date], size: int, last: date, *, window: bool = False) -> list[date]:
    source = copy(offline())
    source._client = Pages(days, size, window=window)  # type: ignore[assignment]
    return fetch(source, last=last).bars["ts"].to_list()


@settings(deadline=None)  # the first example imports ccxt
@given(st.sets(st.integers(-5, 40)), st.integers(1, 12), st.integers(0, 40))
def test_pages_of_any_size_hold_every_bar_once_in_spite_of_gaps(offsets: set[int], size: int, span: int):
    days = [FIRST + timedelta(n) for n in sorted(offsets)]
    last = FIRST + timedelta(span)
    assert paged(days, size, last) == [day for day in days if FIRST <= day <= last]


@given(st.integers(-5, 40), st.integers(1, 12), st.integers(0, 40))
def test_empty_pages_before_the_listing_are_stepped_over(listed: int, size: int, span: int):
    last = FIRST + timedelta(span)
    days = every_day(FIRST + timedelta(listed), last)
    # bars that begin right after an empty page look held back: whoever knows better gives the listing's date
    looks_held_back = 0 < listed <= span and listed % size == 0
    with pytest.raises(TransientProviderError, match="set its from") if looks_held_back else nullcontext():
        assert paged(days, size, last, window=True) == [day for day in days if day >= FIRST]


def test_bars_that_an_answer_held_back_are_noticed(market):
    market.bars["BTC/USDT"] = candles(FIRST, 1200)
    market.script(None, Reply("[]"))
    with pytest.raises(
        TransientProviderError, match="BTC/USDT: no bar from 2019-01-01 to 2021-09-26, but from 2021-09"
    ):
        fetch(provider(market, today=date(2022, 1, 1)), last=date(2022, 1, 1))


# -- faults --------------------------------------------------------------------------------------------------------

TOO_MANY = '{"code":-1003,"msg":"Too many requests."}'
WHERE = [pytest.param((), id="markets"), pytest.param((None,), id="bars")]
"""What is answered truthfully before the fault."""


@pytest.mark.parametrize("before", WHERE)
@pytest.mark.parametrize(
    ("reply", "waited"),
    [
        pytest.param(Reply(TOO_MANY, 429, {"Retry-After": "7"}), (7, 7), id="429 with Retry-After"),
        pytest.param(Reply(TOO_MANY, 418, {"Retry-After": "90"}), (90, 90), id="418"),
        pytest.param(Reply(TOO_MANY, 429), (2.5, 5), id="429"),
        pytest.param(Reply("oops", 500), (0.5, 1), id="500"),
        pytest.param(Reply("<html>down</html>", 503, {"Content-Type": "text/html"}), (0.5, 1), id="503 page"),
        pytest.param(Reply('[[1546300800000,"1","2'), (0.5, 1), id="truncated JSON"),
        pytest.param(Reply('[[1546300800000,"1","2","1","2","1"]]', cut=15), (0.5, 1), id="connection cut"),
        pytest.param(Reply(""), (0.5, 1), id="nothing"),
    ],
)
def test_a_passing_fault_is_waited_out_and_counted(market, waits, before, reply, waited):
    market.script(*before, reply)
    fetched = fetch(provider(market, waits))
    assert fetched.bars["ts"].to_list() == every_day(FIRST, YESTERDAY)
    assert fetched.requests == len(market.asked) == 3
    assert len(waits) == 1
    assert waited[0] <= waits[0] <= waited[1]


@pytest.mark.parametrize("before", WHERE)
@pytest.mark.parametrize(
    ("reply", "says"),
    [
        pytest.param(Reply(TOO_MANY, 429), r"HTTP 429 \(tried 5 times\); rerun later", id="429"),
        pytest.param(Reply("oops", 500), r"HTTP 500 \(tried 5 times\); rerun later", id="500"),
        pytest.param(Reply("[[154630080"), "the body is cut off after 11 characters", id="truncated JSON"),
        pytest.param(Reply("[[1],[2],[3]]", cut=4), "the connection broke before the whole answer came", id="cut"),
        pytest.param(
            Reply('{"code":-1001,"msg":"Internal error."}'), "HTTP 200: .*Internal error", id="error with 200"
        ),
    ],
)
def test_a_lasting_fault_that_time_can_mend_is_transient(market, waits, before, reply, says):
    market.script(*before, *[reply] * 5)
    with pytest.raises(TransientProviderError, match=f"^ccxt: binance: BTC/USDT: {says}") as caught:
        fetch(provider(market, waits))
    assert "\n" not in str(caught.value)
    assert len(waits) == 4
    assert len(market.asked) == 5 + len(before)


def test_an_answer_that_does_not_come_in_time_is_transient(market, waits):
    held = threading.Event()
    market.script(*[Reply("[]", wait_for=held)] * 5)
    with pytest.raises(TransientProviderError, match=r"no answer within 0\.05 s \(QUANT_HTTP_TIMEOUT_SECONDS\)"):
        fetch(provider(market, waits, timeout=0.05))
    held.set()


def test_an_exchange_that_is_down_is_not_waited_for_again_by_the_next_symbol(market, waits):
    source = provider(market, waits)
    market.script(*[Reply("down", 503)] * 6, None, None, *[Reply("down", 503)] * 5)
    for tries in (5, 1):
        with pytest.raises(TransientProviderError, match=rf"HTTP 503 \(tried {tries} time"):
            fetch(source)
    assert fetch(source).requests == 2
    with pytest.raises(TransientProviderError, match=r"\(tried 5 times\)"):
        fetch(source)


def test_a_wait_of_more_than_two_minutes_is_not_waited_for(market, waits):
    market.script(Reply(TOO_MANY, 418, {"Retry-After": "3600"}))
    with pytest.raises(TransientProviderError, match=r"HTTP 418, to be tried again in 3600 s \(tried 1 time\)"):
        fetch(provider(market, waits))
    assert (waits, len(market.asked)) == ([], 1)


def test_nobody_listening_is_transient(waits):
    with Exchange({}) as gone:
        source = provider(gone, waits)
    with pytest.raises(TransientProviderError, match=r"^ccxt: binance: BTC/USDT: no answer: .*refused \(tried 5"):
        fetch(source)
    assert len(waits) == 4


@pytest.mark.parametrize("before", WHERE)
@pytest.mark.parametrize(
    ("reply", "says"),
    [
        pytest.param(
            Reply("<html>\n<h1>Sorry</h1></html>", headers={"Content-Type": "text/html"}),
            "an HTML page instead of JSON: <html> <h1>Sorry</h1></html>; check QUANT_CCXT_URL",
            id="page",
        ),
        pytest.param(Reply("hello"), "not JSON: hello; check QUANT_CCXT_URL", id="text"),
        pytest.param(Reply("gone", 404), "HTTP 404: gone; ccxt cannot read this: check QUANT_CCXT_URL", id="404"),
        pytest.param(
            Reply('{"code":-1121,"msg":"Invalid symbol."}', 400),
            r"HTTP 400: .*Invalid symbol.*; correct the symbol \(quant symbols search\)",
            id="unknown symbol",
        ),
        *(
            pytest.param(
                Reply('{"code":0,"msg":"restricted location"}', status),
                f"HTTP {status}: .*restricted location.*; the exchange does not serve this address, or not without a "
                r"key: choose another exchange \(provider_options.exchange in the universe file\)",
                id=str(status),
            )
            for status in (401, 403, 451)
        ),
    ],
)
def test_a_fault_that_no_retry_mends_is_permanent_and_names_the_remedy(market, waits, before, reply, says):
    market.script(*before, reply)
    with pytest.raises(PermanentProviderError, match=f"^ccxt: binance: BTC/USDT: {says}") as caught:
        fetch(provider(market, waits))
    assert "\n" not in str(caught.value)
    assert (waits, len(market.asked)) == ([], 1 + len(before))


@pytest.mark.parametrize(
    ("replies", "says"),
    [
        pytest.param([Reply('{"symbols":[]}')], "the exchange has no spot markets", id="no markets"),
        pytest.param(
            [None, Reply('{"result":1}')], 'HTTP 200: {"result":1}; ccxt cannot read this', id="another shape"
        ),
        pytest.param(
            [None, Reply('[[1546326000000,"1","1","1","1","1"]]')],
            "its daily bars do not begin at midnight UTC; choose another exchange",
            id="days of another zone",
        ),
    ],
)
def test_an_answer_that_is_no_data_is_permanent(market, replies, says):
    market.script(*replies)
    with pytest.raises(PermanentProviderError, match=f"^ccxt: binance: BTC/USDT: {says}"):
        fetch(provider(market))


def test_a_symbol_that_the_exchange_lacks_is_refused_with_those_it_has(market):
    with pytest.raises(
        PermanentProviderError,
        match=r"ccxt: binance: BTCC/USDT: the exchange has no such spot market, but BTC/USDT; correct the symbol",
    ):
        fetch(provider(market), "BTCC/USDT")


# -- configuration -------------------------------------------------------------------------------------------------


def urls_in(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    return [url for one in (value.values() if isinstance(value, dict) else value) for url in urls_in(one)]


@pytest.mark.parametrize("exchange", ["binance", "bybit", "coinbase", "kraken", "kucoin", "okx"])
def test_every_address_of_the_exchange_is_the_one_that_is_set(market, exchange):
    urls = urls_in(provider(market, exchange=exchange)._client._exchange.urls["api"])
    assert urls
    assert [url for url in urls if not f"{url}/".startswith(f"{market.url}/")] == []


def test_no_key_is_read_and_none_is_sent(market, monkeypatch, tmp_path):
    netrc = tmp_path / "netrc"
    netrc.write_text("default login me password s3cr3t\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("BINANCE_APIKEY", "s3cr3t")
    fetch(provider(market))
    assert [name for one in market.asked for name in one.headers if name in ("Authorization", "X-MBX-APIKEY")] == []


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"exchange": "binanze"}, "exchange 'binanze' is unknown to ccxt; use one that it has: binance"),
        ({"exchange": "bitcoin bank"}, "exchange 'bitcoin bank' is unknown to ccxt; use one that it has: "),
        ({"exchange": "paymium"}, "exchange 'paymium' gives no daily bars; use another, such as binance"),
        ({"market": "options"}, "market is 'options'; use spot or swap"),
        ({"key": "x"}, "ccxt has no option 'key'; it has: exchange, market"),
    ],
)
def test_an_option_that_cannot_be_used_is_refused_before_any_request(options, says):
    with pytest.raises(ConfigError, match=f"^provider_options: {says}"):
        make_provider("ccxt", Settings.model_validate({}), [], options)


@pytest.mark.parametrize("url", ["localhost:8080", "ftp://127.0.0.1", "http://", ""])
def test_an_address_that_is_none_is_refused_by_the_settings_name(url):
    with pytest.raises(ConfigError, match=rf"^ccxt: QUANT_CCXT_URL cannot be used \(got '{url}'\); give an http\(s\)"):
        make_provider("ccxt", Settings.model_validate({"ccxt_url": url}), [])


def test_the_provider_is_known_without_loading_ccxt_or_an_http_client():
    code = (
        "import sys; from quant_assets.market_data.provider import sources_giving_actions as known; known(); "
        "print(sorted({'ccxt', 'requests', 'tenacity'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_search_finds_markets_by_part_of_their_symbol(market):
    found = provider(market).search("btc")
    assert [(one.symbol, one.kind, one.currency) for one in found] == [
        ("BTC/USDT", "spot", "USDT"),
        ("OLD/BTC", "spot", "BTC"),
    ]
    assert provider(market).search("OLD/BTC")[0].score == 1
    assert provider(market).search("XYZ") == []


@pytest.mark.parametrize(
    ("header", "seconds"),
    [
        ("30", 30),
        ("Sat, 02 Mar 2019 12:00:45 GMT", 45),
        ("Sat, 02 Mar 2019 11:00:00 GMT", 0),
        ("soon", None),
        ("", None),
        (None, None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header, seconds):
    assert seconds_to_wait(header, datetime(2019, 3, 2, 12, tzinfo=UTC)) == seconds


def test_the_crypto_universe_works_with_its_provider_and_offline(monkeypatch):
    universe = load_universe(PROJECT_ROOT / "strategies" / "universes" / "crypto_majors.yaml")
    assert (universe.calendar, universe.end) == ("24/7", None)
    settings = Settings.model_validate({})
    assert make_provider(universe.provider, settings, [], universe.provider_options).name == "ccxt"
    made = make_provider("synthetic", settings, every_day(FIRST, TODAY))
    closes = {made.fetch(FetchRequest(symbol, FIRST, TODAY)).bars["close"][-1] for symbol in universe.names}
    assert len(closes) == 8
