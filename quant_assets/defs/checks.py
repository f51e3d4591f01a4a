"""Asset checks: what was stored, read again.

Every asset has its contract's schema as a check, and hand-written ones for what a schema cannot say. A check looks at
the slice of its own run, or at everything when it runs alone; it has no partitions of its own, for a failed partitioned
check leaves its cells marked as materialised. Blocking ones stop what lies downstream in the same run.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import dagster as dg
import polars as pl

from quant_assets.contracts import TABLES, Table, features_daily
from quant_assets.contracts.gate import gate
from quant_assets.core.errors import QualityError
from quant_assets.core.slices import Slice
from quant_assets.defs.failures import failing_clearly
from quant_assets.defs.grid import Grid
from quant_assets.features import FeatureSet, feature_set
from quant_assets.labels import LABEL_SETS
from quant_assets.market_data.adjustment import compare_with_provider
from quant_assets.market_data.history import adjusted_bars
from quant_assets.market_data.ingest import UNIVERSE
from quant_assets.market_data.provider import sources_giving_actions
from quant_assets.strategy.spec import StrategySpec
from quant_assets.validation.doctor import FEWEST_TRADES
from quant_assets.warehouse import Warehouse

STALE_SESSIONS = 5
"""Sessions in a row with the same close and no volume, or the same four prices, that make a price stale."""
OUTLIER_RETURN = 0.4
"""Adjusted one-session return, absolute, that is listed for a look."""
SPLIT_RATIOS = (1.5, 2.0, 3.0, 4.0, 5.0, 7.0, 8.0, 10.0, 15.0, 20.0, 25.0, 30.0, 50.0)
SPLIT_TOLERANCE = 0.02
PROVIDER_TOLERANCE = 0.01
_SHOWN = 20


@dataclass(frozen=True)
class Scope:
    """What a check reads: the warehouse, its slice, and the grid with its strategies."""

    warehouse: Warehouse
    slice: Slice
    run_id: str | None
    grid: Grid
    strategies: Mapping[str, StrategySpec]

    @property
    def symbols(self) -> list[str]:
        """The market's symbols; tables hold those of other markets as well."""
        return list(self.grid.universe.names)

    @property
    def feature_sets(self) -> list[FeatureSet]:
        """Those that the market computes."""
        return [feature_set(version) for version in self.grid.universe.feature_sets]

    def select(self, table: str, date_column: str = "ts", key_column: str = "symbol") -> pl.DataFrame:
        """The slice's rows of `table`."""
        return self.warehouse.query(
            f'SELECT * FROM {table} WHERE "{date_column}" BETWEEN ? AND ? AND "{key_column}" IN (SELECT unnest(?))',
            [self.slice.first, self.slice.last, list(self.slice.keys)],
        )

    def backtests(self, table: str) -> pl.DataFrame:
        """The run's rows of a backtest table; of all runs where the check runs alone."""
        return self.warehouse.query(
            f"SELECT * FROM {table} WHERE strategy_id IN (SELECT unnest(?)) AND run_id = coalesce(?, run_id)",
            [list(self.slice.keys), self.run_id],
        )


Find = Callable[[Scope], pl.DataFrame]
"""Returns the offending rows; none means passed."""


@dataclass(frozen=True)
class Check:
    """One check: `find` returns the offending rows. `blocking` checks are errors, the others warnings.

    `remedy` says what to do about them.
    """

    name: str
    find: Find
    doc: str
    blocking: bool = False
    remedy: str = ""


def _contract_rows(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    found = []
    for part in rows.partition_by("run_id") if "run_id" in table.key and rows.height else [rows]:
        try:
            found.append(gate(table, part.drop("run_id")).bad.select("symbol", "ts", "rule"))
        except QualityError as error:
            found.append(pl.DataFrame({"rule": [str(error)]}))
    return pl.concat(found, how="diagonal")


def _duplicates(table: Table, rows: pl.DataFrame) -> pl.DataFrame:
    return rows.select(table.key).filter(pl.struct(table.key).is_duplicated()).unique().sort(table.key)


def _both(table: Table, read: Callable[[Scope], pl.DataFrame]) -> list[Check]:
    return [
        Check("contract", lambda scope: _contract_rows(table, read(scope)), "Every rule of the schema holds.", True),
        Check(
            "unique_key", lambda scope: _duplicates(table, read(scope)), f"One row per {', '.join(table.key)}.", True
        ),
    ]


def calendar_gaps(scope: Scope) -> pl.DataFrame:
    """Closed sessions without a bar, from the symbol's first bar (of one that has none: its listing) to its end."""
    stored = scope.select("ohlcv").select("symbol", "ts")
    begun = dict(
        scope.warehouse.query(
            "SELECT symbol, min(ts) FROM ohlcv WHERE symbol IN (SELECT unnest(?)) GROUP BY symbol",
            [list(scope.slice.keys)],
        ).iter_rows()
    )
    closed = scope.grid.calendar.last_closed(datetime.now(UTC))
    spans = []
    for symbol in scope.slice.keys:
        listed, ended = scope.grid.universe.bounds[symbol]
        spans.append((symbol, max(listed, begun.get(symbol, listed)), min(ended or closed, closed)))
    span = pl.DataFrame(spans, schema={"symbol": pl.String, "first": pl.Date, "last": pl.Date}, orient="row")
    sessions = pl.DataFrame({"ts": scope.grid.calendar.between(scope.slice.first, scope.slice.last)})
    wanted = span.join(sessions, how="cross").filter(pl.col("ts").is_between(pl.col("first"), pl.col("last")))
    return wanted.select("symbol", "ts").join(stored, on=["symbol", "ts"], how="anti").sort("symbol", "ts")


def stale_prices(scope: Scope) -> pl.DataFrame:
    """Runs of sessions whose four prices repeat to the last digit."""
    bars = scope.select("ohlcv").sort("symbol", "ts")
    same = pl.all_horizontal(
        pl.col(name) == pl.col(name).shift(1).over("symbol") for name in ("open", "high", "low", "close")
    ).fill_null(False)
    runs = bars.with_columns(same=same).with_columns(block=(~pl.col("same")).cum_sum().over("symbol"))
    return (
        runs.group_by("symbol", "block")
        .agg(pl.col("ts").first().alias("since"), pl.len().alias("sessions"))
        .filter(pl.col("sessions") >= STALE_SESSIONS)
        .drop("block")
        .sort("symbol", "since")
    )


def _returns(scope: Scope) -> pl.DataFrame:
    bars = adjusted_bars(
        scope.warehouse,
        scope.slice.keys,
        scope.slice.first,
        scope.slice.last,
        calendar=scope.grid.calendar,
        lookback=1,
    )
    ratio = pl.col("close") / pl.col("close").shift(1).over("symbol")
    return bars.with_columns(ratio=ratio).filter(pl.col("ts") >= scope.slice.first).drop_nulls("ratio")


def outlier_returns(scope: Scope) -> pl.DataFrame:
    """Adjusted one-session returns beyond 40 %: real crashes and takeovers, or a bad price."""
    moves = _returns(scope).select("symbol", "ts", ret=pl.col("ratio") - 1)
    return moves.filter(pl.col("ret").abs() > OUTLIER_RETURN).sort("symbol", "ts")


def unadjusted_splits(scope: Scope) -> pl.DataFrame:
    """Adjusted prices that still jump by a split's ratio: a split that nothing adjusts for."""
    ratios = () if scope.grid.calendar.every_day else SPLIT_RATIOS  # what trades round the clock is not split
    factors = pl.Series([*ratios, *(1 / ratio for ratio in ratios)], dtype=pl.Float64)
    jumps = _returns(scope).filter((pl.col("ratio") - 1).abs() > OUTLIER_RETURN / 2).select("symbol", "ts", "ratio")
    near = jumps.join(pl.DataFrame({"split": factors}), how="cross")
    found = near.filter((pl.col("ratio") * pl.col("split") - 1).abs() < SPLIT_TOLERANCE).sort("symbol", "ts")
    real = [(one.symbol, day) for one in scope.grid.universe.symbols for day in one.real_moves]
    known = pl.DataFrame(real, schema={"symbol": pl.String, "ts": pl.Date}, orient="row")
    return found.join(known, on=["symbol", "ts"], how="anti")


def adjustment_matches_provider(scope: Scope) -> pl.DataFrame:
    """Our adjusted close, from corporate actions, beside the provider's."""
    bars = scope.select("ohlcv").filter(pl.col("source").is_in(list(sources_giving_actions())))
    if bars.is_empty():
        return bars
    actions = scope.warehouse.query(
        "SELECT symbol, ex_date, kind, value FROM corporate_actions "
        "WHERE symbol IN (SELECT unnest(?)) AND source <> ?",  # what the provider lacks, its adjusted close lacks too
        [list(scope.slice.keys), UNIVERSE],
    )
    compared = compare_with_provider(bars, actions)
    return compared.filter(pl.col("rel_diff").abs() > PROVIDER_TOLERANCE)


def freshness(scope: Scope) -> pl.DataFrame:
    """Symbols without a bar of the last session that has closed; for a universe without an end."""
    if scope.grid.universe.end is not None:
        return pl.DataFrame()
    expected = scope.grid.calendar.last_closed(datetime.now(UTC))
    newest = scope.warehouse.query(
        "SELECT symbol, max(ts) AS newest FROM (SELECT unnest(?) AS symbol) LEFT JOIN ohlcv USING (symbol) "
        "GROUP BY symbol",
        [list(scope.slice.keys)],
    )
    ends = {symbol: last for symbol, (_, last) in scope.grid.universe.bounds.items() if last is not None}
    due = newest.filter(~pl.col("symbol").is_in(list(ends)))
    late = due.filter((pl.col("newest") < expected).fill_null(True))
    return late.with_columns(expected=pl.lit(expected)).sort("symbol")


def feature_rows_missing(scope: Scope) -> pl.DataFrame:
    """Bars without a feature row, per feature set."""
    frames = []
    for one in scope.feature_sets:
        wide = features_daily.wide(one.version, one.names).name
        frames.append(
            scope.warehouse.query(
                f"SELECT symbol, ts, '{one.version}' AS feature_version FROM ohlcv ANTI JOIN {wide} USING (symbol, ts) "
                "WHERE ts BETWEEN ? AND ? AND symbol IN (SELECT unnest(?)) ORDER BY symbol, ts",
                [scope.slice.first, scope.slice.last, list(scope.slice.keys)],
            )
        )
    return pl.concat(frames)


def feature_nulls(scope: Scope) -> pl.DataFrame:
    """Features of which more than 1 % are missing after the symbol's own warm-up."""
    found = []
    for one in scope.feature_sets:
        wide = features_daily.wide(one.version, one.names).name
        shares = ", ".join(f'avg(CASE WHEN "{name}" IS NULL THEN 1.0 ELSE 0 END) AS "{name}"' for name in one.names)
        row = scope.warehouse.query(
            f"WITH born AS (SELECT symbol, min(ts) AS first FROM ohlcv GROUP BY symbol) "
            f"SELECT {shares} FROM {wide} JOIN born USING (symbol) "
            "WHERE ts BETWEEN ? AND ? AND symbol IN (SELECT unnest(?)) AND ts > first + ?::INTEGER",
            [scope.slice.first, scope.slice.last, list(scope.slice.keys), one.lookback * 2],
        )
        shares_of = row.row(0, named=True)
        found += [(one.version, name, share) for name, share in shares_of.items() if share is not None and share > 0.01]
    return pl.DataFrame(found, schema=["feature_version", "feature_name", "null_share"], orient="row")


def label_horizon(scope: Scope) -> pl.DataFrame:
    """Labels whose known_on is not as many of the symbol's own sessions after ts as the horizon says, or beyond it."""
    fixed = [
        one.name for labels in LABEL_SETS.values() for one in labels.labels if not one.name.startswith("triple_barrier")
    ]
    return scope.warehouse.query(
        "WITH numbered AS (SELECT symbol, ts, row_number() OVER (PARTITION BY symbol ORDER BY ts) AS n FROM ohlcv "
        "WHERE symbol IN (SELECT unnest($3))) "
        "SELECT l.symbol, l.ts, l.label_name, l.horizon, l.known_on, b.n - a.n AS sessions FROM labels l "
        "LEFT JOIN numbered a ON a.symbol = l.symbol AND a.ts = l.ts "
        "LEFT JOIN numbered b ON b.symbol = l.symbol AND b.ts = l.known_on "
        "WHERE l.known_on BETWEEN $1 AND $2 AND l.symbol IN (SELECT unnest($3)) AND NOT coalesce("
        "CASE WHEN l.label_name IN (SELECT unnest($4)) THEN b.n - a.n = l.horizon "
        "ELSE b.n - a.n BETWEEN 1 AND l.horizon END, false) ORDER BY l.symbol, l.ts",
        [scope.slice.first, scope.slice.last, list(scope.slice.keys), fixed],
    )


def _predictions(scope: Scope) -> pl.DataFrame:
    specs = [scope.strategies[key].model for key in scope.slice.keys]
    experiments = sorted({spec.experiment_id for spec in specs if spec})
    return scope.warehouse.query(
        "SELECT p.* FROM predictions p JOIN models m USING (model_id) "
        "WHERE m.experiment_id IN (SELECT unnest(?::VARCHAR[])) AND p.ts BETWEEN ? AND ? "
        "AND p.symbol IN (SELECT unnest(?))",
        [experiments, scope.slice.first, scope.slice.last, scope.symbols],
    )


def predicted_before_trained(scope: Scope) -> pl.DataFrame:
    """Predictions by a model of a later training date, or one that learnt from that day's bar or later ones."""
    return scope.warehouse.query(
        "SELECT p.symbol, p.ts, p.model_id, m.train_to, m.metrics ->> '$.training_date' AS training_date "
        "FROM predictions p JOIN models m USING (model_id) WHERE p.ts BETWEEN ? AND ? "
        "AND p.symbol IN (SELECT unnest(?)) "
        "AND (m.train_to >= p.ts OR CAST(m.metrics ->> '$.training_date' AS DATE) > p.ts) ORDER BY p.ts, p.symbol",
        [scope.slice.first, scope.slice.last, scope.symbols],
    )


def incomplete_cross_section(scope: Scope) -> pl.DataFrame:
    """Sessions on which fewer listed symbols have a prediction than the strategies ask for."""
    frames = []
    for key in scope.slice.keys:
        spec = scope.strategies[key]
        if spec.model is None:
            continue
        counted = scope.warehouse.query(
            "SELECT b.ts, count(*) AS listed, count(p.known) AS predicted FROM ohlcv b LEFT JOIN "
            "(SELECT DISTINCT p.symbol, p.ts, true AS known FROM predictions p JOIN models m USING (model_id) "
            "WHERE m.experiment_id = ?) p USING (symbol, ts) "
            "WHERE b.ts BETWEEN ? AND ? AND b.symbol IN (SELECT unnest(?)) GROUP BY b.ts ORDER BY b.ts",
            [spec.model.experiment_id, scope.slice.first, scope.slice.last, scope.symbols],
        )
        thin = counted.filter(pl.col("predicted") < pl.col("listed") * spec.min_cross_section)
        frames.append(thin.with_columns(strategy=pl.lit(key)))
    return pl.concat(frames) if frames else pl.DataFrame()


def _targets(scope: Scope) -> pl.DataFrame:
    return scope.select("targets", "asof", "strategy_id")


def caps_broken(scope: Scope) -> pl.DataFrame:
    """Rebalances whose approved weights break R1, R2 or R3 of the strategy file; those of its other versions may."""
    rows = _targets(scope).filter(pl.col("approved"))
    per_date = rows.group_by("strategy_id", "version", "asof").agg(
        gross=pl.col("weight").abs().sum(), largest=pl.col("weight").abs().max(), positions=pl.len()
    )
    frames = []
    for key in scope.slice.keys:
        spec = scope.strategies[key]
        rules = spec.supervisor
        mine = per_date.filter(strategy_id=key, version=spec.version).drop("version")
        frames.append(
            mine.filter(
                (pl.col("gross") > rules.gross_exposure_cap + 1e-9)
                | (pl.col("largest") > rules.max_weight_per_symbol + 1e-9)
                | (pl.col("positions") > rules.max_positions)
            )
        )
    return pl.concat(frames).sort("strategy_id", "asof")


def accounts_do_not_add_up(scope: Scope) -> pl.DataFrame:
    """Backtests whose equity curve, trades less funding, or contributions do not add up to their final equity.

    To 1e-6 of the initial cash.
    """
    return scope.warehouse.query(
        "WITH curve AS (SELECT run_id, strategy_id, arg_max(equity, ts) AS at_end FROM backtest_equity GROUP BY ALL), "
        "traded AS (SELECT run_id, strategy_id, sum(pnl) AS pnl FROM backtest_trades GROUP BY ALL), "
        "parts AS (SELECT run_id, strategy_id, sum(contribution) AS part, coalesce(sum(funding), 0) AS funding "
        "FROM backtest_symbols GROUP BY ALL) "
        "SELECT s.run_id, s.strategy_id, s.initial_cash, s.final_equity, at_end, coalesce(pnl, 0) AS pnl, "
        "funding, coalesce(part, 0) AS contribution FROM backtest_summary s "
        "LEFT JOIN curve USING (run_id, strategy_id) LEFT JOIN traded USING (run_id, strategy_id) "
        "LEFT JOIN parts USING (run_id, strategy_id) "
        "WHERE s.strategy_id IN (SELECT unnest(?)) AND s.run_id = coalesce(?, s.run_id) AND ("
        "at_end IS NULL OR abs(at_end - s.final_equity) > 1e-6 * s.initial_cash "
        "OR abs(coalesce(pnl, 0) - coalesce(funding, 0) * s.initial_cash - (s.final_equity - s.initial_cash)) "
        "> 1e-6 * s.initial_cash "
        "OR abs(coalesce(part, 0) - (s.final_equity / s.initial_cash - 1)) > 1e-6)",
        [list(scope.slice.keys), scope.run_id],
    )


def few_trades(scope: Scope) -> pl.DataFrame:
    """Backtests with fewer than 30 closed trades: their statistics say little."""
    rows = scope.backtests("backtest_summary")
    return rows.filter(pl.col("num_trades") < FEWEST_TRADES).select("run_id", "strategy_id", "num_trades")


def _named(find: Find, *, blocking: bool = False, remedy: str = "") -> Check:
    return Check(find.__name__, find, " ".join((find.__doc__ or "").split()), blocking, remedy)


def feature_contracts(version: str) -> list[Check]:
    """The schema of one feature set's table as checks."""
    table = features_daily.wide(version, feature_set(version).names)
    return [replace(one, name=f"{one.name}_{version}") for one in _both(table, lambda scope: scope.select(table.name))]


CHECKS: dict[str, Sequence[Check]] = {
    "ohlcv": [
        *_both(TABLES["ohlcv"], lambda scope: scope.select("ohlcv")),
        _named(calendar_gaps),
        _named(stale_prices),
        _named(outlier_returns),
        _named(
            unadjusted_splits,
            blocking=True,
            remedy="put the split under the symbol's `splits` in the universe file ({date: ..., ratio: new shares per "
            "old}), or a jump that is real under its `real_moves`, then run `quant ingest --force --symbols <symbol>`",
        ),
        _named(adjustment_matches_provider),
        _named(freshness),
    ],
    "features_daily": [_named(feature_rows_missing, blocking=True), _named(feature_nulls)],
    "labels": [
        *_both(TABLES["labels"], lambda scope: scope.select("labels", "known_on")),
        _named(label_horizon, blocking=True),
    ],
    "predictions": [
        *_both(TABLES["predictions"], _predictions),
        _named(predicted_before_trained, blocking=True),
        _named(incomplete_cross_section),
    ],
    "targets": [*_both(TABLES["targets"], _targets), _named(caps_broken, blocking=True)],
    "backtest_summary": [
        *_both(TABLES["backtest_summary"], lambda scope: scope.backtests("backtest_summary")),
        _named(accounts_do_not_add_up, blocking=True),
        _named(few_trades),
    ],
    "validation": [
        *_both(TABLES["validation_results"], lambda scope: scope.backtests("validation_results")),
        *(
            replace(one, name=f"{one.name}_findings")
            for one in _both(TABLES["backtest_findings"], lambda scope: scope.backtests("backtest_findings"))
        ),
    ],
    "event_backtest": [
        *_both(TABLES["event_backtests"], lambda scope: scope.backtests("event_backtests")),
        *(
            replace(one, name=f"{one.name}_events")
            for one in _both(TABLES["trading_events"], lambda scope: scope.backtests("trading_events"))
        ),
    ],
}
"""Asset -> its checks, but for those that it makes itself.

Adding one is a function that returns the offending rows, and a line here. A market adds to those of features_daily
the `feature_contracts` of each of its sets.
"""
_OF_STRATEGIES = ("predictions", "targets", "backtest_summary", "validation", "event_backtest")


def asset_checks(grid: Grid, strategies: Mapping[str, StrategySpec]) -> list[dg.AssetChecksDefinition]:
    """One step of checks per asset of the market."""
    contracts = [check for version in grid.universe.feature_sets for check in feature_contracts(version)]
    return [
        _checks_of(asset, [*contracts, *checks] if asset == "features_daily" else checks, grid, strategies)
        for asset, checks in CHECKS.items()
        if strategies or asset not in _OF_STRATEGIES
    ]


def _checks_of(
    asset: str, checks: Sequence[Check], grid: Grid, strategies: Mapping[str, StrategySpec]
) -> dg.AssetChecksDefinition:
    key = grid.key(asset)
    specs = [dg.AssetCheckSpec(one.name, asset=key, blocking=one.blocking, description=one.doc) for one in checks]

    @dg.multi_asset_check(name=grid.op(f"{asset}_checks"), specs=specs, can_subset=True)
    def run_checks(
        context: dg.AssetCheckExecutionContext, warehouse: dg.ResourceParam[Warehouse]
    ) -> Iterator[dg.AssetCheckResult]:
        wanted = {one.name for one in context.selected_asset_check_keys}
        own = grid.slice_of_tags(dict(context.run.tags))
        keys = tuple(strategies) if asset in _OF_STRATEGIES else grid.universe.names
        everything = Slice(grid.universe.start, grid.last_session, keys)
        scope = Scope(warehouse, own or everything, context.run.run_id if own else None, grid, strategies)
        for one in checks:
            if one.name not in wanted:
                continue
            with failing_clearly():
                offending = one.find(scope)
            yield dg.AssetCheckResult(
                asset_key=key,
                check_name=one.name,
                passed=offending.is_empty(),
                severity=dg.AssetCheckSeverity.ERROR if one.blocking else dg.AssetCheckSeverity.WARN,
                description=_told(offending, one.remedy),
                metadata={"slice": str(scope.slice), "offending": offending.height, **_table(offending)},
            )

    return run_checks


def check_results(asset: dg.AssetKey, found: Mapping[str, Sequence[str]]) -> list[dg.AssetCheckResult]:
    """Of checks that an asset makes itself: check -> what it found, nothing where it passed."""
    return [
        dg.AssetCheckResult(asset_key=asset, check_name=name, passed=not lines, description="; ".join(lines) or None)
        for name, lines in found.items()
    ]


def _told(rows: pl.DataFrame, remedy: str) -> str | None:
    """The offending rows in one line."""
    if rows.is_empty():
        return None
    examples = [
        " ".join(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row)
        for row in rows.head(3).iter_rows()
    ]
    named = f"{rows.height:,} row(s) ({', '.join(rows.columns)}): {'; '.join(examples)}"
    return named + ("; ..." if rows.height > len(examples) else "") + (f"; {remedy}" if remedy else "")


def _table(rows: pl.DataFrame) -> dict[str, dg.MetadataValue]:
    if rows.is_empty():
        return {}
    shown = rows.head(_SHOWN)
    head = "| " + " | ".join(shown.columns) + " |\n|" + "---|" * len(shown.columns) + "\n"
    body = "\n".join("| " + " | ".join(str(value) for value in row) + " |" for row in shown.iter_rows())
    return {"offending rows": dg.MetadataValue.md(head + body)}
