"""Where a number came from, by what is stored: from a trade, a backtest or a target back to model, features and bars.

Belongs here: the chain, read from the warehouse or a copy of it. What is known of the runs that made its links (their
state, checks, code) is for those to add who have run storage at hand.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

import polars as pl

from quant_assets.contracts import features_daily
from quant_assets.core.errors import ConfigError
from quant_assets.features import feature_set
from quant_assets.strategy.compose import history
from quant_assets.strategy.markets import Layout
from quant_assets.strategy.spec import StrategySpec
from quant_assets.warehouse import Source

RUNS = 3
"""Of what many runs wrote, so many are named."""


@dataclass(frozen=True)
class Node:
    """One link of the chain: what it is, what is stored of it, which runs wrote it, and what it was made from."""

    title: str
    facts: Mapping[str, str]
    kind: str
    """trade, backtest, target, prediction, model, features, labels, bars or quarantine."""
    asset: tuple[str, ...] = ()
    """Path of the key of the asset that wrote it."""
    partition: str = ""
    """The partition it lies in; the newest of several, empty where that is not known."""
    run_ids: tuple[str, ...] = ()
    """Newest first."""
    parents: tuple["Node", ...] = ()

    def chain(self) -> Iterator["Node"]:
        """Itself and all it was made from, each once."""
        seen: list[Node] = []
        waiting = [self]
        while waiting:
            node = waiting.pop(0)
            if node not in seen:
                seen.append(node)
                yield node
                waiting += node.parents


def of_target(source: Source, layout: Layout, spec: StrategySpec, symbol: str, asof: date | None = None) -> Node:
    """The chain behind a strategy's target for `symbol`: the latest rebalance on or before `asof`.

    Raises:
        ConfigError: no such target.
    """
    rows = source.query(
        'SELECT * FROM targets WHERE strategy_id = $1 AND symbol = $2 AND "asof" <= $3 '
        'ORDER BY "asof" DESC, version = $4 DESC, generated_at DESC LIMIT 1',
        [spec.strategy_id, symbol, asof or date.max, spec.version],
    )
    if rows.is_empty():
        raise ConfigError(
            f"{spec.strategy_id} has no target for {symbol} on or before {asof or 'today'}; "
            f"run `quant pipeline run --strategy {spec.strategy_id}` or choose another symbol or date"
        )
    return _Chain(source, layout, spec).target(rows.row(0, named=True))


def of_model(source: Source, layout: Layout, spec: StrategySpec, model_id: str) -> Node:
    """The chain behind a model of a strategy's experiment: the features and labels that it was trained on.

    Raises:
        ConfigError: the strategy has no such model.
    """
    rows = source.query(
        "SELECT * FROM models WHERE model_id = ? AND experiment_id = ?",
        [model_id, spec.model.experiment_id if spec.model else None],
    )
    if rows.is_empty():
        raise ConfigError(
            f"{spec.strategy_id} has no model {model_id}; `quant train -s {spec.strategy_id}` trains some"
        )
    return _Chain(source, layout, spec).model(rows.row(0, named=True))


def of_trade(source: Source, layout: Layout, spec: StrategySpec, run_id: str, trade_no: int) -> Node:
    """The chain behind a trade of a backtest: the targets whose orders opened and closed it, and the bars it lived on.

    Targets in between may have added to the position or taken from it. A stop and the end of data close a trade without
    a target.

    Raises:
        ConfigError: no such backtest or trade.
    """
    backtest = _backtest_row(source, spec, run_id)
    rows = source.query(
        "SELECT * FROM backtest_trades WHERE run_id = ? AND strategy_id = ? AND trade_no = ?",
        [run_id, spec.strategy_id, trade_no],
    )
    if rows.is_empty():
        held = source.query(
            "SELECT count(*) AS n FROM backtest_trades WHERE run_id = ? AND strategy_id = ?", [run_id, spec.strategy_id]
        )["n"][0]
        there = f"it has {held} trades, numbered from 0" if held else "it has none"
        raise ConfigError(f"the backtest of {spec.strategy_id} by run {run_id} has no trade {trade_no}: {there}")
    return _Chain(source, layout, spec).trade(rows.row(0, named=True), backtest)


def of_backtest(source: Source, layout: Layout, spec: StrategySpec, run_id: str) -> Node:
    """The chain behind a backtest as a whole: its targets, and what these were made from, of all its symbols.

    Raises:
        ConfigError: no such backtest.
    """
    return _Chain(source, layout, spec).backtest(_backtest_row(source, spec, run_id))


def stored(source: Source, table: str) -> bool:
    """Whether there is a table of that name."""
    return not source.query("SELECT 1 FROM information_schema.tables WHERE table_name = ?", [table]).is_empty()


def _backtest_row(source: Source, spec: StrategySpec, run_id: str) -> dict[str, Any]:
    rows = source.query(
        "SELECT s.*, t.params FROM backtest_summary s LEFT JOIN trials t USING (trial_id) "
        "WHERE s.run_id = ? AND s.strategy_id = ?",
        [run_id, spec.strategy_id],
    )
    if rows.is_empty():
        raise ConfigError(
            f"run {run_id} stored no backtest of {spec.strategy_id}; `quant runs` lists the newest runs, "
            f"`quant backtest -s {spec.strategy_id}` makes one"
        )
    return rows.row(0, named=True)


@dataclass(frozen=True)
class _Written:
    """Rows of a table: their first and last date, how many, and the runs that wrote them, newest first."""

    first: date | None
    last: date | None
    rows: int
    run_ids: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.rows:,} rows, {self.first} .. {self.last}" if self.rows else "none stored"


@dataclass(frozen=True)
class _Chain:
    """Makes the nodes of one strategy's chains."""

    source: Source
    layout: Layout
    spec: StrategySpec

    def trade(self, row: Mapping[str, Any], backtest: Mapping[str, Any]) -> Node:
        symbol, opened, closed = row["symbol"], row["entry_ts"], row["exit_ts"]
        said = json.loads(backtest["params"]) if backtest["params"] else {}
        price = said.get("execution", {}).get("price", "close") if said else self.spec.execution.price
        facts = {
            "side": row["side"],
            "opened": f"{opened} at {row['entry_price']:.4f}, {row['qty']:,.2f} shares, executed at {price}",
            "closed": f"{closed} at {row['exit_price']:.4f}" if closed else "still open at the end",
            "why": row["reason"],
            "profit": f"{row['pnl']:,.2f} ({row['pnl_pct']:.2%})",
        }
        decided = {"opened": opened, "closed": closed if row["reason"] == "rebalance" else None}
        found = {name: day and self._filled_on(day, price, symbol, backtest) for name, day in decided.items()}
        if self._decides_for_itself(said):
            found = {}
            facts["targets"] = "decided by the backtest for its own symbols, and not stored"
        facts |= {f"{name} by": f"target of {target['asof']}" for name, target in found.items() if target}
        bars = self._all_bars([symbol], opened, closed or backtest["to_ts"])
        distinct = {one["asof"]: one for one in found.values() if one}
        targets = [self.target(one, backtest["created_at"]) for one in distinct.values()]
        return self._node(
            "trade",
            f"trade {row['trade_no']} of {self.spec.strategy_id} / {symbol}",
            facts | self._strategy(backtest["version"]),
            "backtest_summary",
            (backtest["to_ts"], self.spec.strategy_id),
            (row["run_id"],),
            (*targets, bars),
        )

    def backtest(self, row: Mapping[str, Any]) -> Node:
        strategy_id, first, last = self.spec.strategy_id, row["from_ts"], row["to_ts"]
        said = json.loads(row["params"]) if row["params"] else {}
        listed = self.source.query(
            "SELECT symbol FROM backtest_symbols WHERE run_id = ? AND strategy_id = ? ORDER BY symbol",
            [row["run_id"], strategy_id],
        )
        symbols = said.get("symbols") or listed["symbol"].to_list()
        facts = {
            "period": f"{first} .. {last}",
            "symbols": ", ".join(symbols),
            "Sharpe": "undefined" if row["sharpe"] is None else f"{row['sharpe']:.2f}",
            "final equity": f"{row['final_equity']:,.0f} of {row['initial_cash']:,.0f}",
            "trades": f"{row['num_trades']:,}",
            **self._strategy(row["version"]),
        }
        bars = self._all_bars(symbols, first, last)
        targets: tuple[Node, ...] = ()
        if self._decides_for_itself(said):
            facts["targets"] = "decided by the backtest for its own symbols, and not stored"
        else:
            targets = (self._all_targets(row["version"], symbols, first, last),)
        return self._node(
            "backtest",
            f"backtest of {strategy_id} {first} .. {last}",
            facts,
            "backtest_summary",
            (last, strategy_id),
            (row["run_id"],),
            (*targets, bars),
        )

    def target(self, row: Mapping[str, Any], backtested_at: datetime | None = None) -> Node:
        """The target of a row of `targets`, with what it was made from."""
        symbol, asof = row["symbol"], row["asof"]
        facts = {
            "weight": f"{row['weight']:.4f}",
            "approved": str(row["approved"]),
            "score": "none" if row["score"] is None else f"{row['score']:.6g}",
            "rules": ", ".join(row["risk_flags"]) or "none",
            "reason": row["reason"],
            **self._strategy(row["version"]),
        }
        if backtested_at and row["generated_at"] > backtested_at:
            facts["note"] = "decided again since the backtest, which may have had another weight"
        reach = history(self.spec)
        parents: list[Node] = []
        if self.spec.feature_version is not None:
            features = self._features(self.spec.feature_version, symbol, asof)
            parents.append(self._prediction(symbol, asof, features) if self.spec.model else features)
        if reach != 0:
            parents.append(self._bars(symbol, asof, reach))
        return self._node(
            "target",
            f"target {self.spec.strategy_id} / {symbol} as of {asof}",
            facts,
            "targets",
            (asof, self.spec.strategy_id),
            (row["run_id"],),
            tuple(parents),
        )

    def model(self, row: Mapping[str, Any]) -> Node:
        """The model of a row of `models`, with what it was trained on."""
        metrics = json.loads(row["metrics"])
        facts = {
            "experiment": row["experiment_id"],
            "scope": row["scope"],
            "trained on": f"{row['train_from']} .. {row['train_to']} ({metrics.get('rows')} rows, "
            f"as known on {metrics.get('training_date')})",
            "hold-out": json.dumps(metrics.get("holdout")),
            "file": f"{row['path']} (sha256 {row['sha256'][:16]})",
        }
        symbols = [row["scope"]] if row["scope"] in self.layout.universe.names else self.layout.universe.names
        learnt = self._training_rows(symbols, row["train_from"], row["train_to"], metrics.get("training_date"))
        return self._node("model", f"model {row['model_id']}", facts, "predictions", None, (row["run_id"],), learnt)

    def _prediction(self, symbol: str, day: date, features: Node) -> Node:
        assert self.spec.model is not None
        title, cell = f"prediction {symbol} {day}", (day, self.spec.strategy_id)
        rows = self.source.query(
            "SELECT p.score, p.calibrated_score, p.run_id AS scored_by, m.run_id AS trained_by, m.* EXCLUDE (run_id) "
            "FROM predictions p JOIN models m USING (model_id) "
            "WHERE p.symbol = ? AND p.ts = ? AND m.experiment_id = ?",
            [symbol, day, self.spec.model.experiment_id],
        )
        if rows.is_empty():
            return self._node("prediction", title, {"score": "none stored"}, "predictions", cell, (), (features,))
        row = rows.row(0, named=True)
        model = self.model({**row, "run_id": row["trained_by"]})
        facts = {
            "score": f"{row['score']:.6g}",
            "calibrated": "none" if row["calibrated_score"] is None else f"{row['calibrated_score']:.4f}",
        }
        return self._node("prediction", title, facts, "predictions", cell, (row["scored_by"],), (model, features))

    def _features(self, version: str, symbol: str, day: date) -> Node:
        chosen = feature_set(version)
        table = features_daily.wide(version, chosen.names).name
        bars = (self._bars(symbol, day, chosen.lookback),)
        title, cell = f"features {version} of {symbol} {day}", (day, symbol)
        rows = pl.DataFrame()
        if stored(self.source, table):
            rows = self.source.query(f"SELECT * FROM {table} WHERE symbol = ? AND ts = ?", [symbol, day])
        if rows.is_empty():
            return self._node("features", title, {"values": "none stored"}, "features_daily", cell, (), bars)
        row = rows.row(0, named=True)
        values = ", ".join(f"{name} {row[name]:.4g}" for name in chosen.names if row[name] is not None)
        facts = {"values": values, "partition": f"{self.layout.date_key(day)}|{symbol}"}
        return self._node("features", title, facts, "features_daily", cell, (row["run_id"],), bars)

    def _bars(self, symbol: str, day: date, lookback: int | None) -> Node:
        """The bar of `day` and `lookback` before it; None: all of them."""
        limit = None if lookback is None else lookback + 1
        return self._bar_node(
            f"bars of {symbol}",
            "(SELECT * FROM ohlcv WHERE symbol = ? AND ts <= ? ORDER BY ts DESC LIMIT ?)",
            [symbol, day, limit],
            [symbol],
            day,
        )

    def _all_bars(self, symbols: Sequence[str], first: date, last: date) -> Node:
        return self._bar_node(
            f"bars of {_named(symbols)}, {first} .. {last}",
            "(SELECT * FROM ohlcv WHERE symbol IN (SELECT unnest(?)) AND ts BETWEEN ? AND ?)",
            [list(symbols), first, last],
            symbols,
            last,
        )

    def _bar_node(self, title: str, rows: str, params: Sequence[Any], symbols: Sequence[str], day: date) -> Node:
        found = self._written(rows, "ts", "ingested_at", params)
        providers = self.source.query(f"SELECT DISTINCT source FROM {rows} ORDER BY source", params)["source"]
        held = self.source.query(
            "SELECT rule, count(*) AS n, min(ts) AS first, max(ts) AS last, arg_max(run_id, seen_at) AS run_id "
            "FROM quarantine WHERE table_name = 'ohlcv' AND symbol IN (SELECT unnest(?)) AND ts BETWEEN ? AND ? "
            "GROUP BY rule ORDER BY n DESC, rule",
            [list(symbols), found.first or day, day],
        )
        name = _named(symbols)
        span = f"{found.first}|{name} .. {found.last}|{name} ({found.rows:,} bars)"
        facts = {
            "partitions": span if found.rows else "none stored",
            "provider": ", ".join(providers),
            "quarantined": str(held["n"].sum()),
        }
        parents: tuple[Node, ...] = ()
        if held.height:
            rules = {rule: f"{n} row(s), {low} .. {high}" for rule, n, low, high, _ in held.iter_rows()}
            runs = tuple(dict.fromkeys(held["run_id"]))[:RUNS]
            parents = (self._node("quarantine", f"quarantine of {name}", rules, "ohlcv", None, runs),)
        cell = (found.last, symbols[-1]) if found.last and symbols else None
        return self._node("bars", title, facts, "ohlcv", cell, found.run_ids, parents)

    def _all_targets(self, version: str, symbols: Sequence[str], first: date, last: date) -> Node:
        """What a backtest took: the targets of its period, and the last ones before it."""
        spec = self.spec
        before = self.source.query(
            'SELECT max("asof") AS day FROM targets WHERE strategy_id = ? AND version = ? AND "asof" <= ?',
            [spec.strategy_id, version, first],
        )["day"][0]
        begin = before or first
        rows = '(SELECT * FROM targets WHERE strategy_id = ? AND version = ? AND "asof" BETWEEN ? AND ?)'
        found = self._written(rows, '"asof"', "generated_at", [spec.strategy_id, version, begin, last])
        parents: list[Node] = []
        if spec.feature_version is not None:
            of_all = self._all_predictions if spec.model else self._all_features
            parents.append(of_all(symbols, begin, last))
        if history(spec) != 0:
            parents.append(self._all_bars(symbols, begin, last))
        cell = (found.last, spec.strategy_id) if found.last else None
        facts = {"stored": str(found), **self._strategy(version)}
        title = f"targets of {spec.strategy_id}"
        return self._node("target", title, facts, "targets", cell, found.run_ids, tuple(parents))

    def _all_predictions(self, symbols: Sequence[str], first: date, last: date) -> Node:
        assert self.spec.model is not None
        experiment = self.spec.model.experiment_id
        mine = "SELECT p.* FROM predictions p JOIN models m USING (model_id) WHERE m.experiment_id = ?"
        mine += " AND p.symbol IN (SELECT unnest(?)) AND p.ts BETWEEN ? AND ?"
        params = [experiment, list(symbols), first, last]
        found = self._written(f"({mine})", "ts", "generated_at", params)
        used = f"(SELECT * FROM models WHERE model_id IN (SELECT model_id FROM ({mine})))"
        trained = self._written(used, "train_to", "created_at", params)
        begin = self.source.query(f"SELECT min(train_from) AS day FROM {used}", params)["day"][0]
        about = {"experiment": experiment, "scope": self.spec.model.scope, "models": f"{trained.rows:,}"}
        learnt: tuple[Node, ...] = ()
        if trained.last:
            about["trained on"] = f"{begin} .. {trained.last}, the first of them up to {trained.first}"
            learnt = self._training_rows(self.layout.universe.names, begin, trained.last, None)
        model = self._node("model", f"models of {experiment}", about, "predictions", None, trained.run_ids, learnt)
        cell = (found.last, self.spec.strategy_id) if found.last else None
        return self._node(
            "prediction",
            f"predictions of {experiment}",
            {"stored": str(found)},
            "predictions",
            cell,
            found.run_ids,
            (model, self._all_features(symbols, first, last)),
        )

    def _training_rows(
        self, symbols: Sequence[str], first: date, last: date, known_by: str | None
    ) -> tuple[Node, Node]:
        """The features and labels of sessions `first` to `last` that a model was fitted on."""
        model = self.spec.model
        assert model is not None
        rows = "(SELECT * FROM labels WHERE label_name = ? AND label_version = ? AND symbol IN (SELECT unnest(?)) "
        rows += "AND ts BETWEEN ? AND ? AND known_on <= ?)"
        known = date.fromisoformat(known_by) if known_by else date.max
        given = [model.label, model.label_version, list(symbols), first, last, known]
        found = self._written(rows, "known_on", "computed_at", given)
        labels = self._node(
            "labels",
            f"labels {model.label} {model.label_version}, {first} .. {last}",
            {"stored": f"{found.rows:,} rows, known on {found.first} .. {found.last}" if found.rows else "none stored"},
            "labels",
            (found.last, symbols[-1]) if found.last else None,
            found.run_ids,
            (self._all_bars(symbols, first, found.last or last),),
        )
        return self._all_features(symbols, first, last), labels

    def _all_features(self, symbols: Sequence[str], first: date, last: date) -> Node:
        version = self.spec.feature_version
        assert version is not None
        table = features_daily.wide(version, feature_set(version).names).name
        found = _Written(None, None, 0, ())
        if stored(self.source, table):
            rows = f"(SELECT * FROM {table} WHERE symbol IN (SELECT unnest(?)) AND ts BETWEEN ? AND ?)"
            found = self._written(rows, "ts", "computed_at", [list(symbols), first, last])
        return self._node(
            "features",
            f"features {version}, {first} .. {last}",
            {"stored": str(found)},
            "features_daily",
            (found.last, symbols[-1]) if found.last else None,
            found.run_ids,
            (self._all_bars(symbols, first, last),),
        )

    def _filled_on(self, day: date, price: str, symbol: str, backtest: Mapping[str, Any]) -> dict[str, Any] | None:
        """The target whose order filled on `day`: decided at its close, or on a session before where `price` is next's.

        What was decided before a backtest's first session fills on it.
        """
        asof = day if price == "close" else self.layout.calendar.offset(day, -1)
        rows = self.source.query(
            'SELECT * FROM targets WHERE strategy_id = ? AND version = ? AND symbol = ? AND "asof" <= ? '
            'ORDER BY "asof" DESC LIMIT 1',
            [self.spec.strategy_id, backtest["version"], symbol, asof],
        )
        return None if rows.is_empty() else rows.row(0, named=True)

    def _decides_for_itself(self, said: Mapping[str, Any]) -> bool:
        """Whether a backtest with configuration `said` was of fewer symbols than the strategy's stored targets."""
        if "symbols" not in said:
            return False
        known = self.source.query("SELECT DISTINCT symbol FROM targets WHERE strategy_id = ?", [self.spec.strategy_id])[
            "symbol"
        ]
        return set(said["symbols"]) < set(known)

    def _strategy(self, version: str) -> dict[str, str]:
        spec = self.spec
        told = f"{spec.strategy_id} {version} (file sha256 {spec.source_hash[:16]})"
        if version != spec.version:
            told = f"{spec.strategy_id} {version}; the file is {spec.version} by now, and what it reads is shown below"
        return {"strategy": told}

    def _written(self, rows: str, column: str, at: str, params: Sequence[Any]) -> _Written:
        """Of `rows`, a table or a query in brackets; `column` is its date and `at` the instant of writing."""
        found = self.source.query(
            f"SELECT run_id, min({column}) AS first, max({column}) AS last, count(*) AS n FROM {rows} "
            f"GROUP BY run_id ORDER BY max({at}) DESC, run_id",
            params,
        )
        runs = tuple(found["run_id"][:RUNS])
        return _Written(found["first"].min(), found["last"].max(), int(found["n"].sum()), runs)  # type: ignore[arg-type]

    def _node(
        self,
        kind: str,
        title: str,
        facts: Mapping[str, str],
        asset: str,
        cell: tuple[date, str] | None,
        run_ids: tuple[str, ...],
        parents: tuple[Node, ...] = (),
    ) -> Node:
        partition = f"{self.layout.date_key(cell[0])}|{cell[1]}" if cell else ""
        return Node(title, facts, kind, tuple(self.layout.path(asset)), partition, run_ids, parents)


def _named(symbols: Sequence[str]) -> str:
    return symbols[0] if len(symbols) == 1 else f"{len(symbols)} symbols"
