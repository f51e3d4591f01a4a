"""The offline providers (sample, synthetic, files) and the table of all of them."""

import subprocess
import sys
from datetime import date, timedelta
from itertools import pairwise
from pathlib import Path

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from quant_assets.core.errors import ConfigError, PermanentProviderError
from quant_assets.core.settings import Settings
from quant_assets.market_data.adjustment import adjust
from quant_assets.market_data.files import FilesProvider
from quant_assets.market_data.provider import (
    ACTIONS_SCHEMA,
    BARS_SCHEMA,
    PROVIDERS,
    Fetched,
    FetchRequest,
    Provider,
    make_provider,
    sources_giving_actions,
)
from quant_assets.market_data.sample import SampleProvider
from quant_assets.market_data.synthetic import SyntheticProvider, synthetic_bars, synthetic_symbols

SESSIONS = [date(2020, 1, 1) + timedelta(n) for n in range(300)]


def fetch(provider: Provider, symbol: str) -> Fetched:
    return provider.fetch(FetchRequest(symbol, SESSIONS[0], SESSIONS[-1]))


def test_an_unknown_provider_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'yahoo' is unknown; use one of sample, alpha_vantage, files, synthetic"):
        make_provider("yahoo", Settings(), SESSIONS)


def test_the_provider_table_and_the_classes_agree(tmp_path):
    settings = Settings.model_validate({"home": tmp_path, "files_dir": tmp_path, "ALPHA_VANTAGE_API_KEY": "key"})
    for name in PROVIDERS:
        assert make_provider(name, settings, SESSIONS).name == name
    assert sources_giving_actions() == {"alpha_vantage"}


def test_asking_which_sources_give_actions_loads_no_http_client():
    code = (
        "import sys; from quant_assets.market_data.provider import sources_giving_actions; "
        "sources_giving_actions(); print('httpx' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.fixture(scope="module")
def sample() -> SampleProvider:
    return SampleProvider()


@pytest.mark.parametrize(
    ("symbol", "first", "bars"),
    [("AAPL", date(2000, 3, 1), 3270), ("GOOG", date(2004, 8, 19), 2148), ("FB", date(2012, 5, 18), 196)],
)
def test_the_sample_has_each_symbol_from_its_listing_on(sample, symbol, first, bars):
    fetched = fetch(sample, symbol)
    assert (fetched.bars["ts"][0], fetched.bars["ts"][-1], len(fetched.bars)) == (first, date(2013, 3, 1), bars)
    assert dict(fetched.bars.schema) == BARS_SCHEMA
    assert dict(fetched.actions.schema) == ACTIONS_SCHEMA
    assert fetched.complete
    assert fetched.requests == 0


def test_the_samples_splits_are_found_and_a_special_dividend_is_not_one(sample):
    assert fetch(sample, "AAPL").actions.rows() == [
        (date(2000, 6, 21), "split", 2.0),
        (date(2005, 2, 28), "split", 2.0),
    ]
    assert fetch(sample, "MSFT").actions.rows() == [(date(2003, 2, 18), "split", 2.0)]  # not 2004-11-15
    for symbol in ("FB", "GOOG", "IBM"):
        assert fetch(sample, symbol).actions.is_empty()


def test_the_samples_splits_leave_no_jump_in_adjusted_returns(sample):
    fetched = fetch(sample, "AAPL")
    bars = fetched.bars.select(pl.lit("AAPL").alias("symbol"), pl.all(), pl.lit("sample").alias("source"))
    adjusted = adjust(bars, fetched.actions.select(pl.lit("AAPL").alias("symbol"), pl.all()), sources_giving_actions())
    change = adjusted.select("ts", ret=pl.col("close").pct_change())
    for ex_date, ret in ((date(2000, 6, 21), 0.0989), (date(2005, 2, 28), 0.0082)):
        row = change.row(by_predicate=pl.col("ts") == ex_date, named=True)
        assert row["ret"] == pytest.approx(ret, abs=1e-4)
    shares = (adjusted["volume"] / bars["volume"]).rle().struct.field("value")
    assert shares.to_list() == [4.0, 2.0, 1.0]


def test_the_sample_refuses_other_symbols_and_names_its_own(sample):
    with pytest.raises(PermanentProviderError, match=r"TSLA: no such symbol .*AAPL, FB, GOOG, IBM, MSFT"):
        fetch(sample, "TSLA")
    assert [match.symbol for match in sample.search("g")] == ["GOOG"]
    assert [match.symbol for match in sample.search("b")] == ["FB", "IBM"]
    assert sample.search(" ") == []


def test_a_synthetic_symbol_does_not_depend_on_the_others_nor_on_the_end():
    alone = synthetic_bars(["SYN0003"], SESSIONS[:100])
    among = synthetic_bars(synthetic_symbols(6), SESSIONS).filter(
        (pl.col("symbol") == "SYN0003") & (pl.col("ts") < SESSIONS[100])
    )
    assert_frame_equal(alone, among, check_exact=True)
    assert_frame_equal(fetch(SyntheticProvider(SESSIONS), "SYN0003").bars.head(100), alone.select(*BARS_SCHEMA))


def test_synthetic_bars_are_sound_and_differ_by_symbol_and_seed():
    bars = synthetic_bars(synthetic_symbols(20), SESSIONS)
    body_low, body_high = pl.min_horizontal("open", "close"), pl.max_horizontal("open", "close")
    assert (
        bars.select((pl.col("low") > 0) & (pl.col("low") <= body_low) & (body_high <= pl.col("high"))).to_series().all()
    )
    assert (bars["volume"] > 0).all()
    assert bars["close"].equals(bars["adjusted_close"])
    assert bars.select(pl.struct("symbol", "ts").is_duplicated().any()).item() is False
    firsts = bars.filter(pl.col("ts") == SESSIONS[0])["close"]
    assert firsts.n_unique() == 20
    assert not bars.equals(synthetic_bars(synthetic_symbols(20), SESSIONS, seed=1))
    moves = bars.select(pl.col("close").log().diff().over("symbol")).to_series().std()
    assert isinstance(moves, float)
    assert 0.008 < moves < 0.022


@pytest.mark.parametrize("symbol", ["AAPL", "SYN1", "syn0001", "SYN00x1"])
def test_other_symbols_are_not_synthetic(symbol):
    with pytest.raises(PermanentProviderError, match=f"{symbol}: no such symbol; use SYN and four digits"):
        fetch(SyntheticProvider(SESSIONS), symbol)


GOOD = "date,open,high,low,close,volume\n2020-01-02,1,3,1,2,10\n2020-01-03,2,4,2,3,20\n"


@pytest.fixture
def files(tmp_path: Path) -> FilesProvider:
    return FilesProvider(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        GOOD,
        GOOD.replace("date", "Timestamp").replace("open", " Open").replace("volume", "VOLUME"),
        GOOD.replace("-0", "-0").replace("2020-01-02", "2020-01-02T00:00:00-05:00").replace("date", "ts"),
        GOOD.replace("2020-01-0", "2020010"),
        "\ufeff" + GOOD.replace("date", "time,note").replace("-02,", "-02,a,").replace("-03,", "-03,b,"),
    ],
)
def test_headers_and_dates_may_be_written_in_several_ways(files, tmp_path, text):
    (tmp_path / "aaa.csv").write_text(text)
    bars = fetch(files, "AAA").bars
    assert bars.rows() == [
        (date(2020, 1, 2), 1, 3, 1, 2, None, 10),
        (date(2020, 1, 3), 2, 4, 2, 3, None, 20),
    ]
    assert dict(bars.schema) == BARS_SCHEMA


def test_an_adjusted_close_brings_its_splits(files, tmp_path):
    lines = ["ts,open,high,low,close,adj close,volume", "2020-01-03,5,5,5,5,5,1", "2020-01-02,10,10,10,10,5,1"]
    (tmp_path / "AAA.csv").write_text("\n".join(lines))
    fetched = fetch(files, "AAA")
    assert fetched.bars["ts"].is_sorted()
    assert fetched.bars["adjusted_close"].to_list() == [5.0, 5.0]
    assert fetched.actions.rows() == [(date(2020, 1, 3), "split", 2.0)]


@pytest.mark.parametrize("dtype", [pl.Date, pl.Datetime("us"), pl.String])
def test_parquet_is_read_too(files, tmp_path, dtype):
    (tmp_path / "AAA.csv").write_text(GOOD)
    expected = fetch(files, "AAA").bars
    (tmp_path / "AAA.csv").unlink()
    expected.drop("adjusted_close").with_columns(pl.col("ts").cast(dtype)).write_parquet(tmp_path / "AAA.parquet")
    assert_frame_equal(fetch(FilesProvider(tmp_path), "AAA").bars, expected)


def test_a_parquet_column_of_another_kind_is_named(files, tmp_path):
    names = ("open", "high", "low", "close", "volume")
    pl.DataFrame({"ts": [date(2020, 1, 2)], **{name: [[1.0]] for name in names}}).write_parquet(
        tmp_path / "AAA.parquet"
    )
    with pytest.raises(PermanentProviderError, match=r"AAA\.parquet.*; correct the file"):
        fetch(files, "AAA")


def test_a_value_left_out_is_a_row_for_the_gate(files, tmp_path):
    (tmp_path / "AAA.csv").write_text(GOOD.replace("3,20\n", "null,\n"))
    assert fetch(files, "AAA").bars.row(-1) == (date(2020, 1, 3), 2, 4, 2, None, None, None)


CORRUPT = {
    "torn line": (GOOD + "2020-01-06,1,2", r"line 4: 3 fields where the header has 6"),
    "too many fields": (GOOD + "2020-01-06,1,2,3,4,5,6,7\n", r"line 4: 8 fields where the header has 6"),
    "no number": (GOOD.replace("3,20", "abc,20"), r"line 3: close is 'abc', not a number"),
    "no date": (GOOD.replace("2020-01-03", "soon"), r"line 3: ts is 'soon', not a date"),
    "no close": (GOOD.replace("close", "last"), r"line 1: no column close among date, open"),
    "two closes": (
        GOOD.replace("volume", "volume,Close").replace("0\n", "0,1\n"),
        r"line 1: columns .* both mean close",
    ),
    "empty": ("", r"AAA\.csv"),
    "header only": (GOOD.split("\n")[0] + "\n", r"it holds no bar"),
}


@pytest.mark.parametrize("kind", CORRUPT)
def test_a_corrupt_csv_is_named_with_line_cause_and_remedy(files, tmp_path, kind):
    text, cause = CORRUPT[kind]
    (tmp_path / "AAA.csv").write_text(text)
    with pytest.raises(
        PermanentProviderError, match=rf"files: AAA: .*AAA\.csv.*{cause}|files: AAA: .*{cause}"
    ) as caught:
        fetch(files, "AAA")
    assert "correct the file or write it again" in str(caught.value)


@pytest.mark.parametrize("name", ["AAA.csv", "AAA.parquet"])
def test_bytes_that_are_no_table_are_named(files, tmp_path, name):
    (tmp_path / name).write_bytes(b"date,open\n\xff\xfe\x00\x81,1\n")
    with pytest.raises(PermanentProviderError, match=f"{name}.*; correct the file or write it again"):
        fetch(files, "AAA")


def test_a_symbol_without_a_file_or_with_two_is_refused(files, tmp_path):
    (tmp_path / "AAA.csv").write_text(GOOD)
    (tmp_path / "aaa.parquet").write_bytes(b"")
    with pytest.raises(PermanentProviderError, match=r"AAA: AAA.csv and aaa.parquet both hold it"):
        fetch(files, "AAA")
    for symbol in ("BBB", "../AAA", ""):
        with pytest.raises(PermanentProviderError, match=r"which has 1 symbols; add the file"):
            fetch(files, symbol)


def test_a_folder_that_is_not_set_or_not_there_is_a_setting_to_correct(tmp_path):
    for folder in (None, tmp_path / "nowhere"):
        settings = Settings.model_validate({"files_dir": folder})
        with pytest.raises(ConfigError, match="set QUANT_FILES_DIR"):
            make_provider("files", settings, SESSIONS)


def test_search_among_files_finds_the_exact_symbol_first(files, tmp_path):
    for name in ("AB.csv", "A.csv", "BA.parquet", "notes.txt"):
        (tmp_path / name).write_text(GOOD)
    found = files.search("a")
    assert [match.symbol for match in found] == ["A", "AB", "BA"]
    assert all(one.score >= two.score for one, two in pairwise(found))
