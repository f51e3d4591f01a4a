"""Eight features for 500 symbols x 2,520 sessions, computed and stored; and the same for one more session.

Run with `python bench/features_store.py`. First both sides start from bars in memory and a new file: ours computes,
passes the gate and writes one wide row per bar as the asset does; the other groups with pandas, melts, and inserts
into a DuckDB table with the contract's primary key. Then the asset's own way, reading the bars too: all sessions,
against one more session and its lookback in a warehouse that holds everything. Ours is bounded by DuckDB's writing
(half, on both cores) and by sorting, one session by three turns at DuckDB's file; the other side by its index. The
ratios are of the best rounds, because other work on the cores that only ours uses both of would count against it.
"""

import tempfile
from collections.abc import Callable
from datetime import UTC, date, datetime
from functools import partial
from pathlib import Path
from time import perf_counter

import duckdb
import pandas as pd
import polars as pl
from common import load, report
from features_compute import NAMES, SYMBOLS, make_bars, with_pandas

from quant_assets.contracts import TABLES, features_daily
from quant_assets.contracts.gate import gate
from quant_assets.core.calendar import TradingCalendar
from quant_assets.features import feature_set
from quant_assets.market_data.history import adjusted_bars
from quant_assets.warehouse import Warehouse

ROUNDS, OURS_PER_ROUND, DAY_ROUNDS = 3, 5, 9
FEATURES = feature_set("v1")
WIDE = features_daily.wide("v1", FEATURES.names)


def store(warehouse: Warehouse, values: pl.DataFrame, first: object, last: object, symbols: list[str]) -> None:
    """What the asset features_daily does with its values."""
    gated = gate(WIDE, values.with_columns(computed_at=pl.lit(datetime.now(UTC).replace(tzinfo=None))))
    if not gated.bad.is_empty():
        raise SystemExit(f"the gate refuses {gated.bad.height} rows")
    with warehouse.write() as writer:
        writer.ensure(WIDE)
        where = "ts BETWEEN ? AND ? AND symbol IN (SELECT unnest(?))"
        writer.replace(WIDE, gated.good, where, [first, last, symbols], run_id="bench")


def with_index(bars: pd.DataFrame, path: Path) -> None:
    """pandas, melt, insert: the long table as the contract words it, with its key."""
    long = with_pandas(bars).melt(["symbol", "ts"], list(NAMES), "feature_name", "feature_value").dropna()
    long["feature_version"] = "v1"
    long["computed_at"] = pd.Timestamp.now()
    long["run_id"] = "bench"
    columns = ", ".join(f'"{column.name}" {column.type} NOT NULL' for column in features_daily.TABLE.all_columns)
    with duckdb.connect(str(path)) as connection:
        key = ", ".join(features_daily.TABLE.key)
        connection.execute(f"CREATE TABLE features_daily ({columns}, PRIMARY KEY ({key}))")
        connection.register("long", long)
        connection.execute("INSERT INTO features_daily BY NAME SELECT * FROM long")


def same_rows(ours: Path, theirs: Path) -> None:
    """Both files answer by the contract's name with the same rows.

    Raises:
        SystemExit: they do not.
    """
    with duckdb.connect(str(ours), read_only=True) as connection:
        connection.execute(f"ATTACH '{theirs}' AS other (READ_ONLY)")
        counts = connection.execute(
            "SELECT (SELECT count(*) FROM features_daily), (SELECT count(*) FROM other.features_daily), "
            "(SELECT count(*) FROM features_daily a JOIN other.features_daily b USING "
            "(symbol, ts, feature_name, feature_version) "
            "WHERE abs(a.feature_value - b.feature_value) <= 1e-9 * abs(b.feature_value) + 1e-12)"
        ).fetchone()
    if counts is None or len(set(counts)) != 1:
        raise SystemExit(f"the stored features differ: rows of ours, of theirs, equal: {counts}")


def timed(work: Callable[[], None]) -> float:
    start = perf_counter()
    work()
    return perf_counter() - start


def main() -> None:
    bars = make_bars()
    plain = pd.DataFrame({name: bars[name].to_numpy() for name in bars.columns if name != "symbol"})
    plain.insert(0, "symbol", bars["symbol"].to_list())
    symbols = bars["symbol"].unique().sort().to_list()
    sessions = bars["ts"].unique().sort().to_list()
    calendar = TradingCalendar("BENCH", "UTC", datetime.min.time(), tuple(sessions))
    taken: dict[str, list[float]] = {"ours": [], "pandas": [], "all": [], "day": []}

    def from_memory(warehouse: Warehouse) -> None:
        store(warehouse, FEATURES.compute(bars), sessions[0], sessions[-1], symbols)

    def from_bars(warehouse: Warehouse, first: date) -> None:
        window = adjusted_bars(warehouse, symbols, first, sessions[-1], calendar=calendar, lookback=FEATURES.lookback)
        values = FEATURES.compute(window).filter(pl.col("ts") >= first)
        store(warehouse, values, first, sessions[-1], symbols)

    with tempfile.TemporaryDirectory(prefix="quant-bench-") as folder:
        for number in range(ROUNDS):
            theirs = Path(folder) / f"theirs{number}.duckdb"
            taken["pandas"].append(timed(partial(with_index, plain, theirs)))
            for again in range(OURS_PER_ROUND):
                warehouse = Warehouse(Path(folder) / f"ours{number}_{again}.duckdb")
                warehouse.prepare()
                taken["ours"].append(timed(partial(from_memory, warehouse)))
            if number == 0:
                same_rows(warehouse.path, theirs)
            theirs.unlink()

        raw = bars.with_columns(
            adjusted_close="close", source=pl.lit("bench"), ingested_at=pl.lit(datetime(2024, 1, 1))
        )
        built = f"SELECT * EXCLUDE (computed_at) FROM {WIDE.name} ORDER BY symbol, ts"
        expected = warehouse.query(built)
        for number in range(ROUNDS):
            warehouse = Warehouse(Path(folder) / f"asset{number}.duckdb")
            with warehouse.write() as writer:
                writer.append(TABLES["ohlcv"], raw, run_id="bench")
            taken["all"].append(timed(partial(from_bars, warehouse, sessions[0])))
            taken["day"] += [timed(partial(from_bars, warehouse, sessions[-1])) for _ in range(DAY_ROUNDS)]
            if not warehouse.query(built).equals(expected):
                raise SystemExit("the features stored through the bars' table, or of one session alone, differ")

    took = {name: min(seconds) for name, seconds in taken.items()}
    print(
        f"{SYMBOLS} symbols x {len(sessions)} sessions: ours {took['ours']:.2f} s, pandas with a key "
        f"{took['pandas']:.1f} s; from stored bars {took['all']:.2f} s, one more session {took['day'] * 1e3:.0f} ms "
        f"({load()})"
    )
    report("features_store", took["pandas"] / took["ours"], ">=25")
    report("features_one_more_day", took["day"] / took["all"], "<=0.05")


if __name__ == "__main__":
    main()
