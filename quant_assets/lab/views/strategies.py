"""Page Strategies: a strategy's file, what became of it so far, a new version of it, and a run."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from itertools import count
from pathlib import Path
from typing import Any

import polars as pl
import streamlit as st

from quant_assets.core.errors import ConfigError, LabError, StrategyError
from quant_assets.lab import backtests, charts, launching, notices, state, widgets
from quant_assets.lab.editor import editor, typed
from quant_assets.strategy import versions
from quant_assets.strategy.markets import Market, load_universes
from quant_assets.strategy.spec import StrategySpec, load_strategy
from quant_assets.strategy.universe import Universe
from quant_assets.strategy.versions import Checked, Opened, Part, Problem

_VIEWS = ["Overview", "Spec and lineage", "Versions", "Edit"]
_revisions = count()


@dataclass(frozen=True)
class Entry:
    """One strategy file. `name` is its strategy_id, or the file's name where it cannot be used."""

    name: str
    opened: Opened
    checked: Checked


@dataclass(frozen=True)
class Draft:
    """A text in the editor: the file it began as, what it is now, and which editor shows it."""

    opened: Opened
    text: str
    key: str


def read_folder(folder: Path, markets: Sequence[Universe]) -> dict[str, Entry]:
    """Name -> entry of each strategy file, those that cannot be used last.

    Raises:
        StrategyError: no such folder, or a file that cannot be read.
    """
    found = []
    for path in versions.strategy_files(folder):
        opened = Opened(path, versions.read_text(path))
        checked = versions.check(path, opened.text, markets)
        found.append(Entry(checked.spec.strategy_id if checked.spec else path.name, opened, checked))
    return {one.name: one for one in sorted(found, key=lambda one: (one.checked.spec is None, one.name))}


def flat(said: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and value of every field of a nested mapping that holds no further fields.

    Example:
        >>> list(flat({"a": {"b": 1}, "c": []}))
        [('a.b', 1), ('c', [])]
    """
    for name, value in said.items():
        if isinstance(value, Mapping) and value:
            yield from flat(value, f"{above}{name}.")
        else:
            yield f"{above}{name}", value


def shown(value: Any) -> str:
    """A value of a strategy file as one reads it: numbers with thousands separators, lists with commas."""
    if isinstance(value, list | tuple):
        return ", ".join(map(shown, value))
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "none"}[value]
    return f"{value:,.10g}" if isinstance(value, int | float) else str(value)


def sections(spec: StrategySpec) -> dict[str, pl.DataFrame]:
    """Section -> its fields: field, value, default (whether the file leaves it at that), meaning."""
    said = spec.model_dump(mode="json", by_alias=True, exclude={"strategy_id", "version", "description"})
    chosen = {path for path, _ in flat(spec.model_dump(mode="json", by_alias=True, exclude_defaults=True))}
    meanings = {row["field"]: row["meaning"] for row in fields(spec.signal.type).iter_rows(named=True)}
    found: dict[str, list[tuple[str, str, bool, str]]] = {}
    for path, value in flat(said):
        section, _, field = path.partition(".") if "." in path else ("strategy", "", path)
        if section == "sweep" and value is None:
            continue
        row = (field or section, shown(value), path not in chosen, meanings.get(path, ""))
        found.setdefault(section, []).append(row)
    schema = {"field": pl.String, "value": pl.String, "default": pl.Boolean, "meaning": pl.String}
    return {section: pl.DataFrame(rows, schema=schema, orient="row") for section, rows in found.items()}


def fields(kind: str | None = None) -> pl.DataFrame:
    """Every field of a strategy file, from its JSON schema: field (dotted), allowed, default, meaning.

    Args:
        kind: kind of signal whose inputs are meant; None: of all kinds.
    """
    schema = StrategySpec.model_json_schema(by_alias=True)
    rows = _fields(schema, schema["$defs"], "", kind)
    return pl.DataFrame(rows, schema=["field", "allowed", "default", "meaning"], orient="row").cast(pl.String)


def _fields(
    node: Mapping[str, Any], known: Mapping[str, Any], above: str, kind: str | None
) -> list[tuple[str, str, str, str]]:
    rows = []
    for name, field in node.get("properties", {}).items():
        choices = field.get("oneOf") or field.get("anyOf") or [field]
        targets = [known[one["$ref"].rsplit("/", 1)[-1]] for one in choices if "$ref" in one]
        tags = [target["properties"].get("type", {}).get("const") for target in targets]
        default = shown(field["default"]) if "default" in field and not targets else ""
        if not targets or len(targets) < len(choices):
            rows.append((f"{above}{name}", allowed(field), default, field.get("description", "")))
        for target, tag in zip(targets, tags, strict=True):
            if tag is None or kind in (None, tag):
                rows += _fields(target, known, f"{above}{name}.", kind)
    return rows


def allowed(field: Mapping[str, Any]) -> str:
    """What a field of a JSON schema may be, in words.

    Example:
        >>> allowed({"type": "integer", "minimum": 1})
        'integer, at least 1'
    """
    if "anyOf" in field:
        return " or ".join(dict.fromkeys(filter(None, map(allowed, field["anyOf"]))))
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return ", ".join(map(str, field["enum"]))
    if "$ref" in field:
        return ""
    limits = {
        "minimum": "at least",
        "exclusiveMinimum": "above",
        "maximum": "at most",
        "exclusiveMaximum": "below",
        "pattern": "like",
    }
    words = [field.get("format", field.get("type", "")).replace("null", "none").replace("object", "mapping")]
    if field.get("type") == "array":
        words = [f"list of {allowed(field['items'])}"]
    return ", ".join(words + [f"{told} {shown(field[name])}" for name, told in limits.items() if name in field])


def pipeline(spec: StrategySpec, universe: str) -> str:
    """What a strategy's backtest and verdict are made from, as a graph in the DOT language."""
    model, period = spec.model, spec.backtest
    nodes = {"ohlcv": [f"bars of universe {universe}"]}
    edges = [("ohlcv", "targets")]
    if spec.feature_version:
        nodes["features_daily"] = [f"set {spec.feature_version}", _read_features(spec)]
        edges = [("ohlcv", "features_daily"), ("features_daily", "predictions" if model else "targets")]
    if model:
        nodes["labels"] = [f"set {model.label_version}", model.label]
        scope = "one model for all" if model.scope == "universe" else "a model per symbol"
        nodes["predictions"] = [f"{model.algo} {model.task}", f"{scope}, retrained {model.retrain}"]
        edges += [("ohlcv", "labels"), ("labels", "predictions"), ("predictions", "targets")]
    chosen = f"best {spec.portfolio.top_k}" if spec.portfolio.top_k else spec.signal.type
    nodes["targets"] = [f"{spec.rebalance.frequency}, {chosen}", f"weights: {spec.portfolio.weighting}"]
    costs = f"{period.fee_bps:g} + {period.slippage_bps:g} bps, at {spec.execution.price}"
    nodes["backtest_summary"] = [f"{period.first} to {period.last or 'the newest'}", costs]
    nodes["validation"] = ["out of sample, walk-forward, luck"]
    edges += [("targets", "backtest_summary"), ("ohlcv", "backtest_summary"), ("backtest_summary", "validation")]
    drawn = [f"{name} [label={_label(name, lines)}]" for name, lines in nodes.items()]
    drawn += [
        f"{one} -> {other}{' [style=dashed]' if (one, other) == ('ohlcv', 'backtest_summary') else ''}"
        for one, other in edges
    ]
    return "\n".join(["digraph pipeline {", _LOOK, *drawn, "}"])


_LOOK = """rankdir=TB bgcolor=transparent nodesep=0.3 ranksep=0.3
node [shape=box style="rounded,filled" fillcolor="#2563eb" color="#2563eb" fontcolor="#ffffff" fontname="sans-serif"
      fontsize=11 margin="0.2,0.1"]
edge [color="#94a3b8" arrowsize=0.7]"""


def _read_features(spec: StrategySpec) -> str:
    if spec.model:
        names = spec.model.features
        return "all of the set" if names is None else ", ".join(names[:3]) + (" ..." if len(names) > 3 else "")
    return str(spec.signal.inputs.feature_name)  # type: ignore[union-attr]


def _label(name: str, lines: Sequence[str]) -> str:
    text = "\\n".join(line.replace("\\", "").replace('"', "'") for line in (name, *lines) if line)
    return f'"{text}"'


def versions_known(current: str | None, kept: Mapping[str, Sequence[Path]], stored: pl.DataFrame) -> pl.DataFrame:
    """A row per version of one strategy, the highest first.

    Args:
        current: the file's version; None where it cannot be used.
        kept: `versions.kept`.
        stored: `backtests.stored` of the strategy, the newest first.

    Returns:
        version, where, backtests, and of its newest backtest from_ts, to_ts, cagr, sharpe, max_dd, num_trades, verdict,
        created_at.
    """
    columns = ["from_ts", "to_ts", "cagr", "sharpe", "max_dd", "num_trades", "verdict", "created_at"]
    newest: dict[str, Mapping[str, Any]] = {}
    runs: dict[str, int] = {}
    for row in stored.iter_rows(named=True):
        newest.setdefault(row["version"], row)
        runs[row["version"]] = runs.get(row["version"], 0) + 1
    known = sorted({*newest, *kept, *([current] if current else [])}, key=versions.compared, reverse=True)
    rows = [
        {
            "version": version,
            "where": "in force" if version == current else "kept" if version in kept else "results only",
            "backtests": runs.get(version, 0),
            **{name: newest.get(version, {}).get(name) for name in columns},
        }
        for version in known
    ]
    dtypes: dict[str, Any] = {"version": pl.String, "where": pl.String, "backtests": pl.Int64, "verdict": pl.String}
    dtypes |= {"from_ts": pl.Date, "to_ts": pl.Date, "created_at": pl.Datetime("us"), "num_trades": pl.Int64}
    return pl.DataFrame(rows, schema_overrides=dtypes | dict.fromkeys(("cagr", "sharpe", "max_dd"), pl.Float64))


def last_of(stored: pl.DataFrame, version: str) -> Mapping[str, Any]:
    """The newest backtest of `version`, of any version if that has none; empty if nothing is stored.

    Args:
        stored: `backtests.stored` of the strategy, the newest first.
    """
    rows = stored.to_dicts()
    return next((row for row in rows if row["version"] == version), rows[0] if rows else {})


def choices(current: str | None, said: str | None, recommended: Part) -> dict[str, str]:
    """Version -> why, of those that a text may be saved as; the first is the one to take.

    Args:
        current: the version in force; None where the file cannot be used.
        said: the version that the text states.
        recommended: what the change calls for.
    """
    found = {}
    if said and (current is None or versions.compared(said) > versions.compared(current)):
        found[said] = "as written"
    base = current or said or versions.FIRST
    for part in sorted(versions.PARTS, key=lambda part: part != recommended):
        found.setdefault(versions.next_version(base, part), part)
    return found


def missing_market(market: Market, stored: Mapping[str, tuple[date, date]], last: date) -> list[launching.Order]:
    """Runs of the market stage that a strategy's run up to `last` needs first: bars before or after those stored.

    Args:
        stored: symbol -> first and last stored bar.
    """
    layout = market.layout
    lacking = {}
    for symbol, (first, end) in layout.universe.bounds.items():
        sessions = layout.calendar.between(first, min(last, end or last))
        low, high = stored.get(symbol, (date.max, date.min))
        outside = [day for day in sessions[:1] if day < low] or [day for day in sessions if day > high]
        if outside:
            lacking[symbol] = outside[0]
    return launching.market_orders(market, min(lacking.values(), default=last), last, list(lacking))


def page() -> None:
    """Draw the page."""
    widgets.heading("Strategies", "A strategy's file, its results so far, new versions of it, and runs.")
    folder = state.config().strategies_dir
    markets, entries = _read(folder)
    saved = _say()
    if not entries:
        widgets.nothing(
            f"There is no strategy file in {folder}",
            "Copy one that the project ships into it, or write one; its fields are those of `strategy.schema.json`.",
        )
        return
    broken = [one for one in entries.values() if one.checked.spec is None]
    for one in broken:
        _quoted(
            "A file cannot be used; until it is repaired nothing runs, and other pages may stay empty:",
            _told(one.checked.problems[0], one.opened.path.name),
        )
    names = list(entries)
    first_broken = names.index(broken[0].name) if broken else 0
    name = widgets.picked("Strategy", names, "strategy", default=first_broken, told=lambda one: _titled(entries[one]))
    spec = entries[name].checked.spec
    if spec is None:
        _edit(entries[name], markets)
    else:
        _draw(entries[name], spec, markets, broken)
    if saved:
        _reload()


def _draw(entry: Entry, spec: StrategySpec, markets: Sequence[Universe], broken: Sequence[Entry]) -> None:
    """A strategy whose file can be used."""
    stored = backtests.stored()
    stored = stored.filter(strategy_id=spec.strategy_id) if stored.height else stored
    last = last_of(stored, spec.version)
    _head(spec, last)
    if st.query_params.get("view", _VIEWS[0]) not in _VIEWS:
        del st.query_params["view"]
    overview, said, history, edit = st.tabs(_VIEWS, key="view", on_change="rerun", bind="query-params")
    with overview:
        if overview.open:
            _overview(spec, last)
            _run(spec, broken)
    with said:
        if said.open:
            _spec(spec)
    with history:
        if history.open:
            _history(entry, spec, stored)
    with edit:
        if edit.open:
            _edit(entry, markets)


def _read(folder: Path) -> tuple[Sequence[Universe], dict[str, Entry]]:
    """The markets, none where a universe file cannot be used, and the strategy files."""
    files = sorted([*folder.glob("*.y*ml"), *folder.glob("universes/*.yaml")])
    stamps = tuple((str(file), file.stat().st_mtime_ns) for file in files)
    try:
        markets: Sequence[Universe] = load_universes(state.config())
    except ConfigError as error:
        _quoted("A universe file cannot be used; until it is repaired no market is known:", str(error))
        markets = ()
    return markets, _entries(folder, stamps, tuple(one.name for one in markets), markets)


@st.cache_resource(max_entries=4, show_spinner=False)
def _entries(
    folder: Path, stamps: tuple[tuple[str, int], ...], named: tuple[str, ...], _markets: Sequence[Universe]
) -> dict[str, Entry]:
    return read_folder(folder, _markets)


def _titled(entry: Entry) -> str:
    return entry.name if entry.checked.spec else f"{entry.name} (cannot be used)"


def _told(problem: Problem, where: str = "") -> str:
    field = f"{problem.field}: " if problem.field else ""
    return f"{f'{where}, ' if where else ''}line {problem.line}: {field}{problem.message}"


def _say() -> bool:
    """Say once what became of the last save; whether there was one."""
    saved, refused = (st.session_state.pop(f"strategies_{one}", None) for one in ("saved", "refused"))
    if refused:
        st.toast("Nothing was saved.", icon=":material/error:")
        _quoted("Nothing was saved:", refused)
    if saved:
        st.toast(saved, icon=":material/save:")
        st.success(saved)
    return saved is not None


def _quoted(text: str, words: str) -> None:
    """An error, and words that came from elsewhere."""
    st.error(text)
    st.code(words, language=None, wrap_lines=True)


def _reload() -> None:
    """Have Dagster load what was saved."""
    server = state.dagster()
    if not server.alive():
        st.info("No Dagster server answers; one that is started from now on knows the new version.")
        return
    try:
        with st.spinner("Dagster loads the strategy files"):
            server.reload()
    except LabError as error:
        _quoted("Dagster does not know the new version; it goes on with what it had loaded.", str(error))


def _head(spec: StrategySpec, last: Mapping[str, Any]) -> None:
    st.text(spec.description)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.badge(f"version {spec.version}", icon=":material/sell:")
        st.badge(f"universe {_universe(spec)}", icon=":material/public:", color="gray")
        st.badge(spec.signal.type, icon=":material/sensors:", color="gray")
        verdict = last.get("verdict") or ""
        judged = f"last verdict: {verdict}" if verdict else "not validated"
        st.badge(judged, icon=":material/verified:", color=widgets.MARKS.get(verdict, widgets.UNJUDGED)[2])
        if last:
            st.badge(f"last run {last['created_at']:%Y-%m-%d}", icon=":material/history:", color="gray")


def _universe(spec: StrategySpec) -> str:
    return spec.universe if isinstance(spec.universe, str) else f"of {len(spec.universe.symbols)} symbols"


_FACTS = {
    "cagr": ("Yearly return", "{:.1%}"),
    "sharpe": ("Sharpe ratio", "{:.2f}"),
    "max_dd": ("Max drawdown", "{:.1%}"),
    "vol": ("Volatility", "{:.1%}"),
    "turnover": ("Turnover a year", "{:.1f}"),
    "num_trades": ("Trades", "{:,}"),
}


def _overview(spec: StrategySpec, last: Mapping[str, Any]) -> None:
    notices.failure(spec.strategy_id, lambda run: run.job == spec.strategy_id)
    if not last:
        widgets.nothing(
            "No backtest of this strategy is stored yet", "Run it below, or from the command line:", _line(spec)
        )
        return
    period = f"{last['from_ts']} to {last['to_ts']}"
    if last["version"] != spec.version:
        st.info(f"This backtest is of version {last['version']}; version {spec.version} has not run yet.")
    with st.container(horizontal=True):
        for name, (title, told) in _FACTS.items():
            value = last[name]
            st.metric(title, "-" if value is None else told.format(value), width="content", border=True)
    curve = state.query(
        "SELECT ts, equity, drawdown, benchmark FROM backtest_equity WHERE run_id = ? AND strategy_id = ? ORDER BY ts",
        [last["run_id"], spec.strategy_id],
    )
    st.subheader(f"Last backtest, {period}")
    curves = {f"{spec.strategy_id} {last['version']}": curve.select("ts", "equity", "drawdown")} | _benchmark(curve)
    widgets.plot(charts.equity_and_drawdown(curves), "equity", alt=f"equity and drawdown of the backtest, {period}")
    with st.container(horizontal=True):
        for page in ("compare", "validation", "targets", "trades"):
            widgets.link_to(page, page.title(), **({} if page == "compare" else {"strategy": spec.strategy_id}))


def _benchmark(curve: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """The benchmark's curve by its name, where the backtest has one."""
    held = curve.drop_nulls("benchmark").select("ts", equity="benchmark")
    fallen = held.with_columns(drawdown=pl.col("equity") / pl.col("equity").cum_max() - 1)
    return {"bought and held": fallen} if held.height else {}


def _spec(spec: StrategySpec) -> None:
    left, right = st.columns([2, 3])
    with left:
        st.subheader("What it is made from")
        st.graphviz_chart(pipeline(spec, _universe(spec)), alt=f"pipeline of {spec.strategy_id}")
        widgets.link_to("lineage", "Lineage of a target or a trade", strategy=spec.strategy_id)
    with right:
        st.subheader("What the file says")
        st.caption("Grey: left at its default.")
        for section, frame in sections(spec).items():
            st.markdown(f"**{section.replace('_', ' ')}**")
            _greyed(frame)


def _greyed(frame: pl.DataFrame) -> None:
    grey = ["color: #94a3b8" if one else "" for one in frame["default"]]
    plain = frame.select(pl.col("field", "value", "meaning").map_elements(_escaped, return_dtype=pl.String))
    st.table(plain.to_pandas().style.apply(lambda _: grey), hide_index=True, hide_header=True, border="horizontal")


def _escaped(text: str) -> str:
    """`text` as it is, where Markdown is read."""
    return re.sub(r"([^\w\s,]|_)", r"\\\1", text)


def _history(entry: Entry, spec: StrategySpec, stored: pl.DataFrame) -> None:
    kept = versions.kept(entry.opened.path.parent, spec.strategy_id)
    known = versions_known(spec.version, kept, stored)
    widgets.table(
        known,
        {
            "version": "Version",
            "where": st.column_config.TextColumn("File", help="results only: the file was replaced outside the lab"),
            "backtests": st.column_config.NumberColumn(
                "Backtests", help="the columns to the right are of the last one"
            ),
            "from_ts": st.column_config.DateColumn("From", format="YYYY-MM-DD"),
            "to_ts": st.column_config.DateColumn("To", format="YYYY-MM-DD"),
            "cagr": st.column_config.NumberColumn("Return", help="a year", format="percent"),
            "sharpe": st.column_config.NumberColumn("Sharpe", format="%.2f"),
            "max_dd": st.column_config.NumberColumn("Drawdown", help="the deepest", format="percent"),
            "num_trades": st.column_config.NumberColumn("Trades", format="localized"),
            "verdict": "Verdict",
            "created_at": st.column_config.DateColumn("Ran on", format="YYYY-MM-DD"),
        },
    )
    texts = {f"{version} ({path.name})": path for version, paths in kept.items() for path in paths}
    if not texts:
        st.caption(f"No other version is kept yet. Saving one keeps the file that it replaces in {versions.HISTORY}/.")
        return
    chosen = st.selectbox("A version that is kept", list(texts), key=f"kept_{entry.name}")
    old = versions.read_text(texts[chosen])
    changed = versions.diff(old, entry.opened.text, chosen, f"{spec.version} (in force)")
    st.markdown("What has changed since")
    st.code(changed or "nothing", language="diff", wrap_lines=True)
    with st.expander("Its text"):
        st.code(old, language="yaml", line_numbers=True)
    st.button(
        "Take it into the editor", icon=":material/edit_note:", key=f"restore_{entry.name}", on_click=_restore,
        args=(entry, old),
    )  # fmt: skip


def _drafts() -> dict[str, Draft]:
    drafts: dict[str, Draft] = st.session_state.setdefault("strategies_drafts", {})
    return drafts


def _begin(entry: Entry, text: str) -> None:
    """Put `text` into a new editor of the file."""
    _drafts()[entry.name] = Draft(entry.opened, text, f"editor_{entry.name}_{next(_revisions)}")


def _restore(entry: Entry, text: str) -> None:
    """Put `text` into a new editor of the file, and go there."""
    _begin(entry, text)
    st.session_state["view"] = "Edit"


def _edit(entry: Entry, markets: Sequence[Universe]) -> None:
    path = entry.opened.path
    drafts = _drafts()
    known = drafts.get(entry.name)
    if known is None or (known.text == known.opened.text and known.opened != entry.opened):
        _begin(entry, entry.opened.text)
    text = typed(drafts[entry.name].key, drafts[entry.name].text)
    draft = drafts[entry.name] = replace(drafts[entry.name], text=text)
    checked = versions.check(path, text, markets)
    st.caption(f"{_escaped(path.name)}: every pause in typing is checked; nothing is stored before you save.")
    editor(f"Text of {path.name}", text, checked.problems, draft.key)
    if checked.problems:
        found = len(checked.problems)
        _quoted(
            f"{found} problem{'s' if found > 1 else ''}, marked above in the line each belongs to:",
            "\n".join(map(_told, checked.problems)),
        )
    _save(entry, draft, checked, markets)
    with st.expander("Fields and allowed values", icon=":material/help:"):
        kind = checked.spec.signal.type if checked.spec else None
        st.caption(f"Of signal {kind}." if kind else "Of every kind of signal.")
        columns = {"field": "Field", "allowed": "Allowed", "default": "Default", "meaning": "Meaning"}
        widgets.table(fields(kind), columns, row_height=30)


def _save(entry: Entry, draft: Draft, checked: Checked, markets: Sequence[Universe]) -> None:
    folder, old, new = entry.opened.path.parent, entry.checked.spec, checked.spec
    used = _used(new.strategy_id) if new else {}
    reason, text, label = None, draft.text, "Save"
    if draft.opened != entry.opened:
        reason = f"{entry.opened.path.name} was changed since it was opened here; open it again and repeat the edit"
    elif new is None:
        reason = "correct the problems first"
    elif text == draft.opened.text:
        reason = "nothing is changed yet"
    else:
        renamed = old is not None and old.strategy_id != new.strategy_id
        part = versions.part_to_raise(old, new) if old else "patch"
        options = choices(old.version if old and not renamed else None, new.version, part)
        version = st.segmented_control(
            "Save as version", list(options), default=next(iter(options)), required=True,
            format_func=lambda one: f"{one} ({options[one]})", key=f"version_{draft.key}_{next(iter(options))}",
        )  # fmt: skip
        text, label = versions.set_version(text, str(version)), f"Save as version {version}"
        reason = versions.refusal(folder, text, markets, used, draft.opened)
        st.markdown("What changes")
        st.code(versions.diff(draft.opened.text, text), language="diff", wrap_lines=True)
    with st.container(horizontal=True, vertical_alignment="center"):
        st.button(
            label, type="primary", icon=":material/save:", disabled=reason is not None,
            key=f"save_{entry.name}", on_click=_saved, args=(entry, folder, text, markets, used, draft.opened),
        )  # fmt: skip
        st.button(
            "Discard the edit", icon=":material/undo:", key=f"discard_{entry.name}",
            disabled=draft.text == entry.opened.text, on_click=_begin, args=(entry, entry.opened.text),
        )  # fmt: skip
        if reason:
            st.text(reason)
    if new is not None:
        _duplicate(entry, draft.text, folder, markets)


def _duplicate(entry: Entry, text: str, folder: Path, markets: Sequence[Universe]) -> None:
    with st.expander("Duplicate as another strategy", icon=":material/content_copy:"):
        st.caption(f"What the editor holds becomes version {versions.FIRST} of a strategy of its own; this file stays.")
        name = st.text_input("Its strategy_id", f"{entry.name}_copy", key=f"copy_{entry.name}").strip()
        try:
            text = versions.set_version(versions.set_field(text, "strategy_id", name), versions.FIRST)
            reason = versions.refusal(folder, text, markets, _used(name), None)
        except StrategyError as error:
            reason = str(error)
        if reason:
            st.text(reason)
        st.button(
            "Duplicate", icon=":material/content_copy:", key=f"duplicate_{entry.name}", disabled=reason is not None,
            on_click=_saved, args=(entry, folder, text, markets, _used(name), None),
        )  # fmt: skip


def _used(strategy_id: str) -> dict[str, list[str]]:
    """Version -> configurations of a strategy's stored targets and backtests."""
    if state.snapshot() is None:
        return {}
    rows = state.query(
        "SELECT version, list(DISTINCT configuration) FILTER (configuration IS NOT NULL) FROM ("
        "SELECT version, configuration FROM backtest_summary s LEFT JOIN trials t USING (trial_id) "
        "WHERE s.strategy_id = $1 UNION ALL SELECT DISTINCT version, NULL FROM targets WHERE strategy_id = $1"
        ") GROUP BY version",
        [strategy_id],
    )
    return {version: configurations or [] for version, configurations in rows.iter_rows()}


def _saved(
    entry: Entry,
    folder: Path,
    text: str,
    markets: Sequence[Universe],
    used: Mapping[str, Sequence[str]],
    opened: Opened | None,
) -> None:
    """Save, and go on with the new version."""
    try:
        path = versions.save(folder, text, markets, used, opened)
    except StrategyError as error:
        st.session_state["strategies_refused"] = str(error)
        return
    _drafts().pop(entry.name, None)
    spec = load_strategy(path)
    st.session_state["strategy"] = spec.strategy_id
    st.session_state["strategies_saved"] = f"{_escaped(path.name)} is saved as version {spec.version}."


def _run(spec: StrategySpec, broken: Sequence[Entry]) -> None:
    st.subheader("Run it")
    if broken:
        st.warning("Nothing can run while a strategy file cannot be used; pick that file above and repair it.")
        return
    market = state.market_of(spec.strategy_id)
    layout = market.layout
    start, newest = layout.universe.start, layout.calendar.last_closed(datetime.now(UTC))
    end = min(layout.universe.end or newest, newest)
    low = min(max(spec.backtest.first, start), end)
    high = max(min(spec.backtest.last or end, end), low)
    st.caption(
        f"Version {spec.version} on market {market.name}, {start} to {end}: decisions, backtest and verdict, after the "
        "bars, features and labels that are missing."
    )
    left, right = st.columns(2)
    key = f"{spec.strategy_id} {low} {high}"
    first = left.date_input("From", low, start, end, key=f"from {key}", format="YYYY-MM-DD")
    last = right.date_input("To", high, start, end, key=f"to {key}", format="YYYY-MM-DD")
    orders: list[launching.Order] = []
    try:
        sessions = layout.calendar.snap(first, last)
        before = missing_market(market, _stored_bars(layout.universe.names), sessions[1])
        orders = [*before, launching.decision_order(market, spec.strategy_id, *sessions)]
        if before:
            st.caption(f"{len(before)} run(s) come first: {before[0].what}{', ...' if len(before) > 1 else '.'}")
    except ConfigError as error:
        st.warning(str(error), icon=":material/warning:")
    launching.run_button("Run", orders, key=f"run {spec.strategy_id}", disabled=not orders)
    with st.expander("The same from the command line", icon=":material/terminal:"):
        st.code(_line(spec, first, last), language="bash")


def _stored_bars(symbols: Sequence[str]) -> dict[str, tuple[date, date]]:
    """Symbol -> first and last stored bar."""
    if state.snapshot() is None:
        return {}
    sql = "SELECT symbol, min(ts), max(ts) FROM ohlcv WHERE symbol IN (SELECT unnest(?)) GROUP BY symbol"
    return {symbol: (first, last) for symbol, first, last in state.query(sql, [list(symbols)]).iter_rows()}


def _line(spec: StrategySpec, first: date | None = None, last: date | None = None) -> str:
    period = f" --from {first} --to {last}" if first and last else ""
    return f"quant pipeline run --strategy {spec.strategy_id}{period}"
