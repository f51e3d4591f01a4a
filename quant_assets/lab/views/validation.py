"""Page Validation: the last verdict on every strategy, and what one validation asked, measured and found, drawn."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from typing import Any, cast

import polars as pl
import streamlit as st

from quant_assets.lab import launching, state, widgets
from quant_assets.lab import verdict_figures as figures
from quant_assets.lab.sweep_cells import METRICS, Cells, cells_figure, parallel_figure
from quant_assets.lab.validations import Stored, Validation, last_verdicts, newest_backtest, validations
from quant_assets.lab.widgets import MARKS, UNJUDGED
from quant_assets.strategy.markets import Market
from quant_assets.strategy.spec import StrategySpec
from quant_assets.validation.verdict import RULE


@dataclass(frozen=True)
class Measure:
    """A judged measure: what it is called, the question that it answers, and when the answer misleads."""

    label: str
    short: str
    """Of a column of the verdict table."""
    asks: str
    lies: str


MEASURES = {
    ("is_oos", "degradation"): Measure(
        "IS/OOS degradation",
        "IS/OOS loss",
        "How much of the chosen one's Sharpe ratio was lost after the day it was chosen?",
        "The last days had another regime than the rest, or somebody had looked at them before.",
    ),
    ("wfa", "sharpe"): Measure(
        "Walk-forward Sharpe",
        "WFA Sharpe",
        "What if one had chosen again in every window?",
        "It is hard to pass: what was best in two years is seldom what is truly good.",
    ),
    ("wfa", "consistency"): Measure(
        "Walk-forward consistency",
        "WFA wins",
        "In how many windows did choosing again make money?",
        "Windows overlap, and whoever is always long has many good ones in a bull market.",
    ),
    ("pbo", "pbo"): Measure(
        "PBO",
        "PBO",
        "How often is the best of one half of the period no better than the median in the other?",
        "It ranks: where every cell loses money it can be 0. It judges the sweep more than the strategy.",
    ),
    ("dsr", "deflated_sharpe"): Measure(
        "Deflated Sharpe",
        "Deflated SR",
        "How far is the Sharpe ratio above what the luckiest of as many trials would show?",
        "Trials outside the ledger are not counted; a region of good neighbours is counted as luck.",
    ),
    ("dsr", "deflated_probability"): Measure(
        "Deflated probability",
        "DSR prob.",
        "How sure is it that the true Sharpe ratio is above that?",
        "A long history makes a small edge certain; sessions are taken as independent.",
    ),
}
OVERALL = ("verdict", "overall")

_TINTS = {
    "\N{CHECK MARK}": "background-color: rgba(22, 150, 90, 0.20)",
    "!": "background-color: rgba(217, 119, 6, 0.20)",
    "\N{MULTIPLICATION X}": "background-color: rgba(220, 76, 76, 0.22)",
}

SEVERITIES = {"error": ("cancel", "red"), "warning": ("warning", "orange"), "note": ("info", "blue")}


def told(verdict: str | None, value: float | None) -> str:
    """A cell of the verdict table: sign, then the value or, without one, the word.

    Example:
        >>> told("fail", 0.672), told("pass", None)
        ('✕ 0.67', '✓ pass')
    """
    sign = MARKS.get(verdict or "", UNJUDGED)[0]
    return f"{sign} {verdict or 'not judged'}" if value is None else f"{sign} {value:.2f}"


def badge(verdict: str | None) -> str:
    """A verdict as Markdown: icon, word, colour."""
    _, icon, colour = MARKS.get(verdict or "", UNJUDGED)
    return f":{colour}-badge[:material/{icon}: {verdict if verdict in MARKS else 'not judged'}]"


def age(then: datetime, now: datetime) -> str:
    """Whole days between two instants, in words."""
    days = (now - then).days
    return "today" if days < 1 else "1 day" if days == 1 else f"{days:,} days"


def overview(judged: Mapping[str, pl.DataFrame], now: datetime) -> pl.DataFrame:
    """The verdict table, all text: one row per strategy.

    Args:
        judged: strategy -> the rows of its last verdict (method, measure, value, verdict, to_ts, created_at); no row
            where there is none on the strategy as its file is.
        now: UTC, naive.
    """
    rows = []
    for strategy_id, frame in judged.items():
        known = {(row["method"], row["measure"]): row for row in frame.iter_rows(named=True)}
        nothing: dict[str, Any] = {"verdict": None, "value": None}
        cells = {one.short: told(**_of(known.get(place, nothing))) for place, one in MEASURES.items()}
        first = frame.row(0, named=True) if frame.height else None
        rows.append(
            {
                "Strategy": strategy_id,
                "Verdict": told(known.get(OVERALL, nothing)["verdict"], None),
                "Age": age(first["created_at"], now) if first else "",
                **(cells if first else dict.fromkeys(cells, "")),
                "Seen until": f"{first['to_ts']}" if first else "",
            }
        )
    return pl.DataFrame(rows)


def _of(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: row[name] for name in ("verdict", "value")}


def tinted(table: pl.DataFrame) -> Any:
    """A pandas Styler of `table`: cells that begin with a verdict's sign have its colour behind them."""
    return table.to_pandas().style.map(lambda text: _TINTS.get(str(text)[:1], ""))


def page() -> None:
    """Draw the page."""
    widgets.heading(
        "Validation", "Whether to believe the backtests: the last verdict on each strategy, and its reasons."
    )
    if state.snapshot() is None:
        widgets.nothing(
            "Nothing was validated yet",
            "A run of the pipeline ends with the validation of the backtests that it made.",
            "quant pipeline run",
        )
        return
    specs = state.strategies()
    if specs:
        _show_overview()
    stored = state.query("SELECT DISTINCT strategy_id FROM validation_results")["strategy_id"].to_list()
    ids = sorted({*specs, *stored})
    if not ids:
        widgets.nothing(
            "There is no strategy yet",
            "Write a strategy file, or start from one that ships: the page Strategies shows how.",
        )
        return
    first = next((at for at, name in enumerate(ids) if name in stored), 0)
    left, right = st.columns([2, 3])
    with left:
        strategy_id = widgets.picked("Strategy", ids, "strategy", default=first)
    spec = specs.get(strategy_id)
    known = {one.run_id: one for one in validations(strategy_id, spec)}
    if not known:
        _show_unvalidated(strategy_id, spec)
        return
    seen, newest = f"newest validation of {strategy_id}", next(iter(known))
    if st.session_state.get(seen, newest) != newest:  # one was made since: it is what to look at
        st.session_state.pop("validation", None)
    st.session_state[seen] = newest
    with right:
        chosen = widgets.picked("Validation", list(known), "validation", told=lambda one: named(known[one]))
    _show(known[chosen])


def named(one: Validation) -> str:
    """A validation in words."""
    return f"{one.made:%Y-%m-%d %H:%M} UTC, {one.verdict or 'no overall verdict'}, run {one.run_id[:8]}"


def _show_overview() -> None:
    table = overview(last_verdicts(), datetime.now(UTC).replace(tzinfo=None))
    st.dataframe(tinted(table), hide_index=True, width="stretch", alt="The last verdict on each strategy")
    signs = ", ".join(f"{sign} {word}" for word, (sign, *_) in MARKS.items())
    st.caption(f"{signs}. Of each strategy as its file is now: one whose file has changed since has no verdict.")
    held = [row["Strategy"] for row in table.iter_rows(named=True) if row["Verdict"].endswith("fail")]
    if state.config().validation_gate:
        st.markdown(
            ":material/lock: **The gate is on**: targets of a strategy whose last verdict is *fail* get weight 0."
        )
        if held:
            st.text(f"Held back: {', '.join(held)}")
    else:
        st.caption(
            ":material/lock_open: The gate is off: a verdict of *fail* rejects no target. "
            "`QUANT_VALIDATION_GATE=true` turns it on."
        )
    with st.expander("How the measures make a verdict"):
        st.markdown(RULE)


def _show(one: Validation) -> None:
    st.subheader("Verdict")
    period = f", sessions {one.first} to {one.last}" if one.first else ""
    st.markdown(badge(one.verdict) + f" version {one.version or 'unknown'}{period}")
    _show_links(one)
    if one.stored.rows:
        _show_measures(one.stored)
        for method, show in _METHODS.items():
            if one.stored.has(method):
                show(one)
        _show_cells(one)
    else:
        st.info("This run only asked the doctor.", icon=":material/info:")
    _show_doctor(one)


def _show_links(one: Validation) -> None:
    with st.container(horizontal=True):
        if one.report.is_file():
            st.download_button(
                "Full report",
                one.report.read_bytes,
                file_name=f"validation-{one.strategy_id}-{one.run_id[:8]}.html",
                mime="text/html",
                icon=":material/download:",
                on_click="ignore",
            )
        widgets.link_to("trades", "Trades of the backtest", strategy=one.strategy_id, run=one.backtest_run_id)
        widgets.link_to("lineage", "Lineage of the backtest", strategy=one.strategy_id, run=one.backtest_run_id)
        widgets.link_to("strategies", "The strategy", strategy=one.strategy_id)
        st.link_button("Its run in Dagster", state.dagster().run_url(one.run_id), icon=":material/open_in_new:")
        if one.version and one.spec and one.spec.version != one.version:
            st.markdown(":orange-badge[:material/history: the file has another version now]")
    _show_validate(one.strategy_id, one.spec)


def _show_unvalidated(strategy_id: str, spec: StrategySpec | None) -> None:
    if newest_backtest(strategy_id, spec) is None:
        widgets.nothing(
            f"{strategy_id} has no backtest to validate",
            "The backtest comes first, and is validated in the same run.",
            f"quant pipeline run --strategy {strategy_id}",
        )
    else:
        widgets.nothing(
            f"{strategy_id} was never validated",
            "Every backtest is validated in the run that makes it; an older one by the button, or by this command.",
            f"quant validate --strategy {strategy_id}",
        )
        _show_validate(strategy_id, spec)


def _show_validate(strategy_id: str, spec: StrategySpec | None) -> None:
    """A button that validates the newest backtest of the strategy's version, if there is one."""
    newest = newest_backtest(strategy_id, spec)
    if newest is None:
        return
    order = validation_order(state.market_of(strategy_id), strategy_id, *newest)
    with st.expander("Validate the newest backtest again", icon=":material/play_arrow:"):
        st.caption("All tests and the doctor, by today's limits; a few seconds, more where models are trained anew.")
        launching.run_button("Validate now", [order], f"validate {strategy_id}")


def validation_order(market: Market, strategy_id: str, backtest_run: str, last: date) -> launching.Order:
    """The run that validates a backtest anew, whatever verdict stands."""
    order = launching.decision_order(market, strategy_id, last, last, assets=("validation",))
    config = {"ops": {market.layout.op("validation"): {"config": {"backtest_run": backtest_run, "carry": False}}}}
    return replace(order, config=config, what=f"validation of {strategy_id}")


def _show_measures(stored: Stored) -> None:
    places = list(MEASURES)
    for start in range(0, len(places), 3):
        for place, column in zip(places[start : start + 3], st.columns(3), strict=True):
            measure, row = MEASURES[place], stored.rows.get(place)
            value = stored.shown(*place, ".3f")
            with column.container(border=True, height="stretch"):
                st.markdown(f"**{measure.label}** {badge(row['verdict'] if row else None)}")
                st.markdown(f"### {value}")
                st.caption(row["threshold"] if row else "not part of this validation")
                st.markdown(measure.asks)
                st.caption(f"It misleads: {measure.lies}")
    notes = {one: json.loads(row["details"]).get("note") for one, row in stored.rows.items()}
    missing = stored.details.get("verdict", {}).get("missing") or {}
    why = {MEASURES[one].label: note for one, note in notes.items() if note and one in MEASURES}
    why |= {method: note for method, note in missing.items() if note not in why.values()}
    if why:
        st.markdown(":material/info: **What could not be judged**")
        for name, note in why.items():
            st.text(f"{name}: {note}")


def _show_walk(one: Validation) -> None:
    st.subheader("Walk-forward", help=MEASURES["wfa", "sharpe"].asks)
    stored, joined = one.stored, one.curves(["walk_forward"])
    windows = stored.details["wfa"]["windows"]
    same = one.written.filter(pl.col("ts").is_in(joined["ts"].implode()))
    figure = figures.walk_figure(figures.grown(pl.concat([joined, same])), windows)
    widgets.plot(figure, "walk", alt="Walk-forward curve out of sample, with each window's return below")
    st.caption(
        f"Sharpe ratio {stored.shown('wfa', 'sharpe')} out of sample, {stored.shown('wfa', 'is_sharpe')} in "
        f"sample on average: efficiency {stored.shown('wfa', 'efficiency')}. Every other window is shaded; below, "
        "what each one returned out of sample."
    )
    with st.expander(f"The {len(windows)} windows"):
        _show_windows(windows)


def changed(changes: Mapping[str, Any]) -> str:
    """What a cell changes, in words; the strategy as its file has it changes nothing."""
    words = [f"{name.rpartition('.')[2]} {value}" for name, value in changes.items()]
    return ", ".join(words) or "as written"


def _show_windows(windows: Sequence[Mapping[str, Any]]) -> None:
    rows = [
        {
            "Chosen from": one["train_first"],
            "Applied on": f"{one['test_first']} to {one['test_last']}",
            "Chosen": changed(one["chosen"]),
            "Sharpe in sample": one["is_sharpe"],
            "Sharpe out of sample": one["oos_sharpe"],
            "Return": one["oos_return"],
        }
        for one in windows
    ]
    ratio = st.column_config.NumberColumn(format="%.2f")
    widgets.table(
        pl.DataFrame(rows, infer_schema_length=None),
        {
            "Sharpe in sample": ratio,
            "Sharpe out of sample": ratio,
            "Return": st.column_config.NumberColumn(format="percent"),
        },
    )


def _show_split(one: Validation) -> None:
    st.subheader("In sample, out of sample", help=MEASURES["is_oos", "degradation"].asks)
    stored, details = one.stored, one.stored.details["is_oos"]
    if one.written.height:
        curves = [one.written, *([one.chosen] if one.chosen is not None else [])]
        figure = figures.split_figure(figures.grown(pl.concat(curves)), date.fromisoformat(details["split"]))
        widgets.plot(figure, "split", alt="Growth in and out of sample")
    st.caption(
        f"Chosen in sample: Sharpe ratio {stored.shown('is_oos', 'is_sharpe')}, out of sample "
        f"{stored.shown('is_oos', 'oos_sharpe')} with a return of {stored.shown('is_oos', 'oos_return', '.1%')}. "
        f"As written: {stored.shown('is_oos', 'written_is_sharpe')} and "
        f"{stored.shown('is_oos', 'written_oos_sharpe')}; its parameters may have been chosen on all of the period."
    )
    st.text(f"Chosen: {changed(details['chosen'])}")


def _show_paths(one: Validation) -> None:
    st.subheader(
        "Combinatorial cross-validation (CPCV)",
        help="How much does the result depend on what was learnt when? Each path is a whole history out of sample.",
    )
    stored, details = one.stored, one.stored.details["cpcv"]
    paths = figures.shown_paths(details["sharpes"])
    curves = figures.grown(pl.concat([one.curves(paths), one.written]))
    left, right = st.columns(2)
    with left:
        figure = figures.path_sharpes_figure(details["sharpes"], stored.value("dsr", "sharpe"))
        widgets.plot(figure, "path-sharpes", alt="Sharpe ratio of each path")
    with right:
        widgets.plot(figures.paths_figure(curves, paths), "paths", alt="Growth along each path")
    how = "Models were trained anew in each split." if details["retrained"] else "Each split chose among the cells."
    st.caption(
        f"{stored.shown('cpcv', 'paths', '.0f')} paths, Sharpe ratios {stored.shown('cpcv', 'lowest_sharpe')} to "
        f"{stored.shown('cpcv', 'highest_sharpe')}, {stored.shown('cpcv', 'loss_share', '.0%')} not above 0. "
        f"{how} Reported, not judged: the paths share every session's market."
    )


def _show_overfitting(one: Validation) -> None:
    st.subheader("Probability of backtest overfitting (PBO)", help=MEASURES["pbo", "pbo"].asks)
    stored, details, pbo = one.stored, one.stored.details["pbo"], one.stored.value("pbo", "pbo")
    again = one.overfitting
    left, right = st.columns(2)
    with left:
        bars = figures.logit_bars(details["logits"]["counts"], details["logits"]["edges"], pbo)
        alt = f"Logits of the rank out of sample, {pbo:.0%} not above 0"
        widgets.plot(figures.logits_figure(bars, pbo), "logits", alt=alt)
    with right:
        if again is not None:
            alt = "Sharpe ratio out of sample over that in sample"
            widgets.plot(figures.degradation_figure(again), "degradation", alt=alt)
        else:
            st.caption("The ratios of the halvings are not drawn: the ledger does not have the returns of the cells.")
    slope = f"slope {stored.shown('pbo', 'slope')}, R\N{SUPERSCRIPT TWO} {stored.shown('pbo', 'r_squared')}"
    st.caption(
        "The best of one half of the period, looked at in the other, among "
        f"{stored.shown('pbo', 'configurations', ',.0f')} configurations. Right: did more in sample promise "
        f"more out of sample? Stored: {slope}; {stored.shown('pbo', 'loss_probability', '.0%')} of the halvings lost "
        "money." + (f" Drawn from the returns of {again.configurations:,} in the ledger." if again is not None else "")
    )


def _show_deflated(one: Validation) -> None:
    st.subheader("Deflated Sharpe ratio", help=MEASURES["dsr", "deflated_sharpe"].asks)
    stored = one.stored
    sharpe, trials, best = (stored.value("dsr", name) for name in ("sharpe", "trials", "expected_maximum"))
    figure = figures.deflated_figure(sharpe, trials, best, stored.details["dsr"].get("interval"))
    left, right = st.columns([3, 2])
    with left:
        widgets.plot(figure, "deflated", alt="Observed Sharpe ratio and what luck alone would show")
    sessions = stored.value("dsr", "minimum_sessions")
    rows = [
        ("Observed", stored.shown("dsr", "sharpe")),
        (
            "Interval, bootstrap",
            f"{stored.shown('dsr', 'interval_low')} to {stored.shown('dsr', 'interval_high')}",
        ),
        ("Probability that it is above 0", stored.shown("dsr", "probabilistic", ".3f")),
        ("Trials in the family", stored.shown("dsr", "trials", ",.0f")),
        ("Best of these by luck", stored.shown("dsr", "expected_maximum")),
        ("Effective trials", stored.shown("dsr", "effective_trials", ",.1f")),
        ("Best of the effective ones by luck", stored.shown("dsr", "effective_expected_maximum")),
        ("Skewness, kurtosis", f"{stored.shown('dsr', 'skew')}, {stored.shown('dsr', 'kurtosis')}"),
        ("Sessions; needed to tell it from 0", _sessions(stored.value("dsr", "sessions"), sessions)),
    ]
    with right:
        widgets.table(pl.DataFrame(rows, schema=["Figure", "Value"], orient="row"))


def _sessions(had: float, needed: float) -> str:
    return f"{had:,.0f}; {f'{math.ceil(needed):,}' if math.isfinite(needed) else 'never'}"


def _show_cells(one: Validation) -> None:
    st.subheader("Parameters", help="A good cell among poor neighbours is luck more often than skill.")
    sweeps = {row["sweep_id"]: row for row in one.sweeps().iter_rows(named=True)}
    sources = {
        name: f"sweep {name[:8]}, {row['cells']:,} cells, {row['first']} to {row['last']}"
        for name, row in sweeps.items()
    }
    if one.cells is not None:
        sources["ledger"] = f"cells of this validation, {len(one.cells.changes):,}, Sharpe ratio only"
    if not sources:
        if one.spec is not None and one.spec.sweep is None:
            widgets.nothing(
                "The strategy has no sweep",
                "Add a section `sweep` to its file, such as this, and validate it again: what it varies is drawn here.",
            )
            st.code("sweep:\n  parameters:\n    portfolio.top_k: [1, 2, 3]\n", language="yaml")
        else:
            command = f"quant sweep --strategy {one.strategy_id}"
            widgets.nothing("No cell is stored", "Run the sweep of its file.", command)
        return
    first = st.columns([2, 1, 1])
    with first[0]:
        source = widgets.picked("Cells", list(sources), "cells", told=sources.__getitem__)
    cells = one.swept(source) if source in sweeps else cast(Cells, one.cells)
    metrics = [name for name in METRICS if name in cells.measures.columns]
    with first[1]:
        metric = widgets.picked("Measure", metrics, "metric", told=lambda name: METRICS[name][0])
    with first[2]:
        others = widgets.picked("Over the others", ["mean", "best"], "over")
    found = {one.name: one for one in cells.dimensions(metric)}
    if not found:
        st.caption("Nothing varies over these cells.")
        return
    second = st.columns(2)
    names = list(found)
    with second[0]:
        across = widgets.picked("Across", names, "across")
    rest = [name for name in names if name != across]
    with second[1]:
        down = widgets.picked("Down", rest, "down") if rest else None
    figure, words = cells_figure(cells, found[down] if down else None, found[across], metric, best=others == "best")
    widgets.plot(figure, "cell-map", alt=words)
    mark = " The frame is where the strategy stands." if cells.own is not None else ""
    st.caption(f"{words[0].upper()}{words[1:]}.{mark}")
    if len(found) > 2:
        with st.expander("All parameters at once"):
            widgets.plot(parallel_figure(cells, metric), "parallel", alt="Every cell as a line through its parameters")


def _show_doctor(one: Validation) -> None:
    st.subheader("The doctor", help="An automatic review of the backtest: reasons to look, not proofs.")
    findings = one.findings
    if findings.is_empty():
        asked = one.verdict is not None
        st.caption("Nothing found that asks for a remedy." if asked else "This run has no findings of the doctor.")
        return
    for severity, (icon, colour) in SEVERITIES.items():
        some = findings.filter(pl.col("severity") == severity)
        if some.is_empty():
            continue
        st.markdown(f":{colour}-badge[:material/{icon}: {severity}] {some.height}")
        for row in some.iter_rows(named=True):
            with st.container(border=True):
                st.text(f"{row['finding'].replace('_', ' ').capitalize()}: {row['evidence']}.")
                st.text(f"\N{RIGHTWARDS ARROW} {row['remedy']}.")


_METHODS: Mapping[str, Callable[[Validation], None]] = {
    "wfa": _show_walk,
    "is_oos": _show_split,
    "cpcv": _show_paths,
    "pbo": _show_overfitting,
    "dsr": _show_deflated,
}
"""Method -> what draws it, in the page's order."""
