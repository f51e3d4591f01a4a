"""Page Lineage: back from a number to what it was made from, and forward from bars to all they touched."""

import textwrap
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from datetime import date
from typing import Any

import polars as pl
import streamlit as st

from quant_assets.core.drawing import ACCENT, LOSS, SERIES
from quant_assets.lab import backtests, launching, state, widgets
from quant_assets.lab.dagster_api import Check, Progress
from quant_assets.strategy import impact, lineage
from quant_assets.strategy.impact import Impact, Rerun, Suspect, Touched
from quant_assets.strategy.lineage import Node
from quant_assets.strategy.markets import Market
from quant_assets.strategy.spec import StrategySpec

COLOURS = {
    "quarantine": LOSS,
    "bars": ACCENT,
    "features": SERIES[2],
    "labels": SERIES[1],
    "model": SERIES[4],
    "prediction": SERIES[7],
    "target": SERIES[3],
    "trade": SERIES[6],
    "backtest": SERIES[6],
    "validation": SERIES[8],
    "sweep": SERIES[9],
    "factors": SERIES[9],
}
"""Kind of thing -> colour of its box."""
KINDS = {
    "ohlcv": "bars",
    "features_daily": "features",
    "labels": "labels",
    "models": "model",
    "predictions": "prediction",
    "targets": "target",
    "backtest_summary": "backtest",
    "validation_results": "validation",
    "sweep_results": "sweep",
    "factor_summary": "factors",
}
"""Table of what bars touched -> kind of thing."""

BACK, FORWARD = "Back", "Forward"
STARTS = ("target", "trade", "backtest", "model")
_INKS = {"light": "#334155", "dark": "#cbd5e1"}
_INK = "#7385a0"
"""Text and lines in a graph where the page's theme is not known: readable on either."""
_GRAPH = "lineage_graph"
_SCROLLS = f"""<style>
.st-key-{_GRAPH} {{ overflow-x: auto; }}
.st-key-{_GRAPH} svg {{ max-width: none; }}
</style>"""
"""A graph keeps the size of its text, and is scrolled where it is wider than the page."""
_WIDE = 22
"""Characters of a line in a box."""
_BY_HAND = "other bars"
_OLDEST = date(1990, 1, 1)
_RUN = ("run", "state", "code version", "began")
_PATIENCE = 0.3
"""Seconds that a page waits for what is known of runs before it shows the rest."""
_ASKING = ThreadPoolExecutor(2, thread_name_prefix="lineage")
_COUNTED = {
    "features_daily": "features",
    "labels": "labels",
    "models": "models",
    "predictions": "predictions",
    "targets": "targets",
    "backtest_summary": "backtests",
    "validation_results": "validations",
    "sweep_results": "sweeps",
    "factor_summary": "factor reports",
}
_DATES = {
    "first": st.column_config.DateColumn("from", format="YYYY-MM-DD"),
    "last": st.column_config.DateColumn("to", format="YYYY-MM-DD"),
}
_ORDERS = {**_DATES, "run": "of", "backtest": "backtest of"}
_TOUCHED = {**_DATES, "of": "version, experiment or strategy"}
_MEANING = """
Every stored row that could have another value because these bars changed, came or went: made of what each asset states
that it reads, so rather too many than too few.

- **Features and labels** of the symbol, as long as a window reaches back to the bars.
- **Models** whose training rows hold one of these, and **predictions** from such features or models.
- **Targets** of a strategy from the first rebalance on that reads one of these; every later one starts from the weights
  before it.
- **Backtests** of such targets or over these bars, and validations, sweeps and factor reports that end after them.

Sweeps and factor reports are not among the runs: `quant sweep` and `quant factors` make them anew.
"""


@dataclass(frozen=True)
class Box:
    """One box of a graph: its kind, and the lines in it."""

    kind: str
    lines: tuple[str, ...]


def dot(boxes: Sequence[Box], arrows: Sequence[tuple[int, int]], ink: str = _INK) -> str:
    """A graph in Graphviz's language, from left to right, on no ground of its own.

    Args:
        arrows: from one box to another, by number.
        ink: colour of text and arrows.
    """
    lines = [
        'digraph { bgcolor="transparent" rankdir="LR" nodesep="0.15" ranksep="0.3"',
        f'node [shape="box" style="rounded,filled" penwidth="1.4" fontname="sans-serif" fontsize="11" '
        f'fontcolor="{ink}" margin="0.1,0.06"]',
        f'edge [color="{ink}99" arrowsize="0.7"]',
    ]
    for number, box in enumerate(boxes):
        colour = COLOURS[box.kind]
        lines.append(f'n{number} [label={_quoted(box.lines)} color="{colour}" fillcolor="{colour}1f"]')
    lines += [f"n{one} -> n{other}" for one, other in arrows]
    return "\n".join([*lines, "}"])


def _quoted(lines: Sequence[str]) -> str:
    """Lines as one label: nothing in them is Graphviz's language, nor an entity of HTML."""
    wrapped = [part for line in lines for part in textwrap.wrap(line, _WIDE, break_on_hyphens=False)]
    safe = [part.replace("\\", "\\\\").replace('"', '\\"').replace("&", "&amp;") for part in wrapped]
    return '"' + "\\n".join(safe) + '"'


def chain_dot(nodes: Sequence[Node], ink: str = _INK) -> str:
    """The chain of `Node.chain`: to the right of a thing what it was made from."""
    boxes = [Box(node.kind, (node.title, *_dates(node))) for node in nodes]
    arrows = [(number, nodes.index(parent)) for number, node in enumerate(nodes) for parent in node.parents]
    return dot(boxes, arrows, ink)


def _dates(node: Node) -> tuple[str, ...]:
    """The partitions of bars whose title does not tell their dates."""
    return (node.facts["partitions"],) if node.kind == "bars" and " .. " not in node.title else ()


def impact_dot(found: Impact, ink: str = _INK) -> str:
    """What bars touched, with counts and spans; to the right of a thing what was made from it."""
    boxes = [
        Box(KINDS[one.asset], (f"{one.asset} {one.what}", f"{one.rows:,} row{'s' * (one.rows > 1)}", _span(one)))
        for one in found.touched
    ]
    return dot(boxes, arrows_of(found), ink)


def _span(one: Touched) -> str:
    return f"{one.first}" if one.first == one.last else f"{one.first} .. {one.last}"


def arrows_of(found: Impact) -> list[tuple[int, int]]:
    """From what is read to what reads it, by number; without those that others lead to as well."""
    names = [one.name for one in found.touched]
    above: dict[str, set[str]] = {}
    for one in found.touched:
        above[one.name] = set(one.reads).union(*(above[read] for read in one.reads))
    return [
        (names.index(read), number)
        for number, one in enumerate(found.touched)
        for read in one.reads
        if not any(read in above[other] for other in one.reads)
    ]


def facts_text(node: Node) -> str:
    """What is stored of a link, a line for each fact, values below each other."""
    asset = {"asset": "/".join(node.asset), "partition": node.partition}
    facts = {**node.facts, **{name: value for name, value in asset.items() if value}}
    width = max(map(len, facts))
    return "\n".join(f"{name:<{width}}  {value}" for name, value in facts.items())


def impact_frame(found: Impact) -> pl.DataFrame:
    """asset, of, rows, first, last, keys, runs: a row for each of the touched."""
    rows = [
        (one.asset, one.what, one.rows, one.first, one.last, _few(one.keys), _few([run[:8] for run in one.run_ids]))
        for one in found.touched
    ]
    return pl.DataFrame(rows, schema=["asset", "of", "rows", "first", "last", "keys", "runs"], orient="row")


def launch_orders(market: Market, orders: Sequence[Rerun]) -> list[launching.Order]:
    """The runs that redo what was touched, as the server is asked for them; verdicts are made anew."""
    return [_launch_order(market, one) for one in orders]


def _launch_order(market: Market, one: Rerun) -> launching.Order:
    if one.stage == "market":
        return launching.market_order(market, one.first, one.last, [one.key], one.assets)
    dates = dict(zip(("from_date", "to_date"), map(str, one.period or ()), strict=False))
    order = launching.decision_order(market, one.key, one.first, one.last, one.assets, **dates)
    if "validation" not in one.assets:
        return order
    ops = {**order.config.get("ops", {}), market.layout.op("validation"): {"config": {"carry": False}}}
    return replace(order, config={**order.config, "ops": ops})


def orders_frame(orders: Sequence[Rerun]) -> pl.DataFrame:
    """run, assets, first, last, backtest: in the order in which they run."""
    rows = [
        (
            one.key,
            ", ".join(one.assets),
            one.first,
            one.last,
            f"{one.period[0]} to {one.period[1]}" if one.period else "-",
        )
        for one in orders
    ]
    schema = {"run": pl.String, "assets": pl.String, "first": pl.Date, "last": pl.Date, "backtest": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row")


def checks_frame(checks: Sequence[Check], asset: str) -> pl.DataFrame:
    """check, result, words: those of one asset, what found something first."""
    rows = [(one.name, "passed" if one.passed else "found", one.words) for one in checks if one.asset == asset]
    schema = {"check": pl.String, "result": pl.String, "words": pl.String}
    return pl.DataFrame(rows, schema=schema, orient="row").sort("result", "check")


def page() -> None:
    """Draw the page."""
    widgets.heading("Lineage", "Back from a number to what it was made from, forward from bars to all they touched.")
    if state.snapshot() is None:
        widgets.nothing("Nothing is stored yet", "Run everything there is a strategy for.", "quant pipeline run")
        return
    way = st.segmented_control(
        "Direction", [BACK, FORWARD], key="way", default=BACK, required=True,
        label_visibility="collapsed", bind="query-params", persist_state="session",
    )  # fmt: skip
    if way == FORWARD:
        _forward()
    else:
        _back()


def _back() -> None:
    picks = st.columns(4)
    with picks[0]:
        start = widgets.picked("Start from a", STARTS, "of", meant=_asked_for())
    node = {"target": _target, "trade": _trade, "backtest": _backtest, "model": _model}[start](picks[1:])
    if node is None:
        return
    nodes = list(node.chain())
    told = f"what {node.title} was made from: " + ", ".join(one.title for one in nodes[1:])
    _graph(chain_dot(nodes, _ink()), told)
    facts, runs = st.columns(2)
    with facts:
        chosen = st.selectbox("Look at", range(len(nodes)), format_func=lambda number: nodes[number].title)
        st.code(facts_text(nodes[chosen]), language=None, wrap_lines=True)
    with runs:
        _runs(nodes[chosen])


def _graph(text: str, told: str) -> None:
    st.html(_SCROLLS)
    with st.container(key=_GRAPH):
        st.graphviz_chart(text, width="content", alt=told)


def _ink() -> str:
    return _INKS.get(st.context.theme.type or "", _INK)


def _asked_for() -> str:
    """Which of the starts a link means that does not say it."""
    given = next((name for name in ("trade", "model", "run") if name in st.query_params), "target")
    return "backtest" if given == "run" else given


def _among(columns: Sequence[Any], ids: Sequence[str], what: str) -> tuple[Market, StrategySpec] | None:
    """The strategy picked among those of `ids` that have a file; None, and said so, where none has."""
    specs = state.strategies()
    known = sorted(specs.keys() & set(ids))
    if not known:
        widgets.nothing(
            f"No {what} is stored of a strategy that has a file",
            "Run one on the page Strategies, or all of them.",
            "quant pipeline run",
        )
        return None
    with columns[0]:
        strategy = widgets.strategy_picker(known)
    return state.market_of(strategy), specs[strategy]


def _target(columns: Sequence[Any]) -> Node | None:
    held = state.query("SELECT DISTINCT strategy_id FROM targets")["strategy_id"].to_list()
    if (found := _among(columns, held, "target")) is None:
        return None
    market, spec = found
    given = [spec.strategy_id]
    symbols = state.query("SELECT DISTINCT symbol FROM targets WHERE strategy_id = ? ORDER BY symbol", given)
    with columns[1]:
        symbol = widgets.symbol_picker(symbols["symbol"].to_list())
    dates = state.query(
        'SELECT DISTINCT "asof" FROM targets WHERE strategy_id = ? AND symbol = ? ORDER BY "asof" DESC',
        [*given, symbol],
    )
    options = [str(day) for day in dates["asof"]]
    asked = st.query_params.get("asof")
    if asked and asked not in options:
        st.session_state["asof"] = next((day for day in options if day <= asked), options[-1])
    with columns[2]:
        asof = widgets.picked("Rebalance date", options, "asof")
    return lineage.of_target(state, market.layout, spec, symbol, date.fromisoformat(asof))


def _backtest_of(columns: Sequence[Any]) -> tuple[Market, StrategySpec, str] | None:
    stored = backtests.stored()
    if (found := _among(columns, stored["strategy_id"].to_list(), "backtest")) is None:
        return None
    market, spec = found
    rows = {row["run_id"]: row for row in stored.filter(strategy_id=spec.strategy_id).to_dicts()}
    with columns[1]:
        run_id = widgets.picked("Backtest", list(rows), "run", told=lambda run: backtests.named(rows[run]))
    return market, spec, run_id


def _backtest(columns: Sequence[Any]) -> Node | None:
    if (found := _backtest_of(columns)) is None:
        return None
    market, spec, run_id = found
    return lineage.of_backtest(state, market.layout, spec, run_id)


def _trade(columns: Sequence[Any]) -> Node | None:
    if (found := _backtest_of(columns)) is None:
        return None
    market, spec, run_id = found
    trades = state.query(
        "SELECT trade_no, symbol, side, entry_ts, exit_ts FROM backtest_trades "
        "WHERE run_id = ? AND strategy_id = ? ORDER BY trade_no",
        [run_id, spec.strategy_id],
    )
    if trades.is_empty():
        widgets.nothing("This backtest made no trade", "Pick another backtest, or start from a target of the strategy.")
        return None
    told = {
        str(number): f"{number}: {symbol} {side}, {opened} to {closed or 'the end'}"
        for number, symbol, side, opened, closed in trades.iter_rows()
    }
    with columns[2]:
        number = widgets.picked("Trade", list(told), "trade", told=told.__getitem__)
    return lineage.of_trade(state, market.layout, spec, run_id, int(number))


def _model(columns: Sequence[Any]) -> Node | None:
    models = state.query("SELECT model_id, experiment_id, scope, train_to FROM models ORDER BY train_to DESC, model_id")
    experiments = {spec.model.experiment_id: name for name, spec in state.strategies().items() if spec.model}
    rows = {row["model_id"]: row for row in models.to_dicts() if row["experiment_id"] in experiments}
    if not rows:
        widgets.nothing(
            "No model is stored of a strategy that has a file",
            "Run a strategy that scores by a model on the page Strategies.",
            "quant pipeline run",
        )
        return None
    with columns[0]:
        chosen = widgets.picked(
            "Model", list(rows), "model", told=lambda one: f"{rows[one]['scope']} to {rows[one]['train_to']}, {one}"
        )
    strategy = experiments[rows[chosen]["experiment_id"]]
    return lineage.of_model(state, state.market_of(strategy).layout, state.strategies()[strategy], chosen)


def _runs(node: Node) -> None:
    """The runs that wrote a link: their state, code and checks, as far as Dagster's server tells."""
    if not node.run_ids:
        return
    st.markdown("**Runs that wrote it**" if len(node.run_ids) > 1 else "**The run that wrote it**")
    if not state.dagster().alive():
        st.caption("No Dagster server answers; with one (`make dev`) its state, checks and code version stand here.")
        st.text("\n".join(node.run_ids))
        return
    if wait(_answers(node), _PATIENCE).not_done:
        st.fragment(_draw_runs, run_every=1.0)(node, waiting=True)
    else:
        _draw_runs(node)


def _answers(node: Node) -> list[Future[Progress | None]]:
    """What the server says of a link's runs, once it has: the log of a run of ten years takes it seconds to read."""
    server = state.dagster()
    return [_answer(server.url, run_id) for run_id in node.run_ids]


@st.cache_resource(max_entries=64, show_spinner=False)
def _answer(url: str, run_id: str) -> Future[Progress | None]:
    return _ASKING.submit(state.dagster().progress, run_id)


def _draw_runs(node: Node, waiting: bool = False) -> None:
    """Draw what the server has said; the page anew when it has said all that was waited for."""
    server, asset, answers = state.dagster(), "/".join(node.asset), _answers(node)
    pending = not all(answer.done() for answer in answers)
    if waiting and not pending:
        st.rerun()
    if pending:
        st.caption("Dagster's server is reading their logs for state, checks and code version.")
        for run_id in node.run_ids:
            st.link_button(run_id[:8], server.run_url(run_id), icon=":material/open_in_new:")
        return
    found = {run_id: _said(server.url, run_id) for run_id in node.run_ids}
    rows = [_run_row(server.run_url(run_id), asset, one) for run_id, one in found.items()]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(_RUN, pl.String), orient="row")
    widgets.table(frame, {"run": st.column_config.LinkColumn(display_text=r"/runs/(.{8})")})
    checks = checks_frame([check for one in found.values() if one for check in one.checks], asset)
    if checks.height:
        passed = checks["result"].eq("passed").sum()
        with st.expander(f"Checks of {asset}: {passed} of {checks.height} passed", icon=":material/rule:"):
            widgets.table(checks)
    partition = node.partition or None
    st.link_button("The asset in Dagster", server.asset_url(node.asset, partition), icon=":material/open_in_new:")


def _said(url: str, run_id: str) -> Progress | None:
    """What the server said of a run; it is asked again next time where the run goes on, or the server failed."""
    answer = _answer(url, run_id)
    progress = None if answer.exception() else answer.result()
    if progress is None or not progress.run.finished:
        _answer.clear(url, run_id)
    return progress


def _run_row(link: str, asset: str, progress: Progress | None) -> tuple[str | None, ...]:
    if progress is None:
        return link, "not in run storage", None, None
    began = f"{progress.run.started:%Y-%m-%d %H:%M} UTC" if progress.run.started else None
    return link, progress.run.status, progress.code_versions.get(asset), began


def _forward() -> None:
    markets = {market.name: market for market in state.markets()}
    picks = st.columns(4)
    with picks[0]:
        market = markets[widgets.picked("Market", list(markets), "market")]
    bars = state.query(
        "SELECT symbol, max(ts) AS last FROM ohlcv WHERE symbol IN (SELECT unnest(?)) GROUP BY symbol ORDER BY symbol",
        [list(market.layout.universe.names)],
    )
    newest = dict(bars.iter_rows())
    if not newest:
        widgets.nothing(f"No bars of {market.name} are stored yet", "Ingest them first.", "quant ingest")
        return
    symbol, first, last = _bars(picks[1:], impact.suspects(state, market), newest)
    found = impact.impact(state, market, state.config().strategies_dir / "universes", symbol, first, last)
    counts = {asset: sum(one.rows for one in found.touched if one.asset == asset) for asset in KINDS}
    told = ", ".join(f"{name} {rows:,}" for asset, name in _COUNTED.items() if (rows := counts[asset]))
    held = f", {found.quarantined} in quarantine," if found.quarantined else ""
    plural = "" if counts["ohlcv"] == 1 else "s"
    span = f"{counts['ohlcv']:,} bar{plural} from {found.first} to {found.last}{held}"
    st.markdown(f"**{span} touched** " + (f"these rows: {told}." if told else "nothing yet."))
    _graph(impact_dot(found, _ink()), f"what the bars touched: {told}")
    if found.orders:
        st.subheader("Redo just those")
        widgets.table(orders_frame(found.orders), _ORDERS)
        launching.run_button("Re-run what it touched", launch_orders(market, found.orders), "impact")
    with st.expander("All that was touched"):
        widgets.table(impact_frame(found), _TOUCHED)
    with st.expander("What counts as touched"):
        st.markdown(_MEANING)


def _bars(columns: Sequence[Any], suspected: Sequence[Suspect], newest: Mapping[str, date]) -> tuple[str, date, date]:
    """Symbol, first and last date: what is suspected is offered first."""
    offered = {f"{one.symbol} {one.first} to {one.last}: {one.why}": one for one in suspected}
    if offered:
        one = offered.get(widgets.picked("Bars", [*offered, _BY_HAND], "bars", default=_hand_picked(offered)))
        if one is not None:
            return one.symbol, one.first, one.last
    with columns[0]:
        symbol = widgets.symbol_picker(list(newest))
    first, last = (_day(*one, newest) for one in ((columns[1], "First bar", "from"), (columns[2], "Last bar", "to")))
    return symbol, first or newest[symbol], last or newest[symbol]


def _hand_picked(offered: Collection[str]) -> int:
    """The last option, where a link names other bars."""
    return len(offered) if {"symbol", "from", "to"} & set(st.query_params) else 0


def _day(column: Any, label: str, key: str, newest: Mapping[str, date]) -> date | None:
    """A date picked in a column, kept in the URL; the newest bar's until then."""
    ends = max(newest.values())
    chosen = column.date_input(
        label, ends, min_value=_OLDEST, max_value=ends, key=key, format="YYYY-MM-DD",
        bind="query-params", persist_state="session",
    )  # fmt: skip
    return chosen if isinstance(chosen, date) else None


def _few(texts: Sequence[str], most: int = 3) -> str:
    return ", ".join(texts[:most]) + (f" and {len(texts) - most} more" if len(texts) > most else "")
