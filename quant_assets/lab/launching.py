"""Starting runs from a page: what to run, the button, the progress, the link to Dagster's UI."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any

import streamlit as st

from quant_assets.core.errors import LabError
from quant_assets.lab import state, widgets
from quant_assets.lab.dagster_api import Dagster, DagsterRefusedError, Progress, StepState
from quant_assets.strategy.markets import MARKET_JOB, Market

BUTTON_TAG = "quant/lab"
"""Tag of a run with the key of the button that started it."""
_IN_URL = "run"
_SECONDS_BETWEEN = 1.0
_SECONDS_QUEUED = 30.0
"""Whoever waits longer is told what for."""
_ICONS = {
    "WAITING": ":gray[:material/radio_button_unchecked:]",
    "RUNNING": ":blue[:material/progress_activity:]",
    "SUCCESS": ":green[:material/check_circle:]",
    "FAILURE": ":red[:material/error:]",
    "SKIPPED": ":gray[:material/remove_circle_outline:]",
}
_STATUS = {
    "QUEUED": "**Waiting** in Dagster's queue",
    "NOT_STARTED": "**Waiting** in Dagster's queue",
    "STARTING": "**Starting** its process",
    "STARTED": "**Running**",
    "CANCELING": "**Stopping**",
    "SUCCESS": ":green[:material/check_circle:] **Done**",
    "FAILURE": ":red[:material/error:] **Failed**",
    "CANCELED": ":orange[:material/stop_circle:] **Stopped**",
}


@dataclass(frozen=True)
class Order:
    """One run to start."""

    job: str
    assets: tuple[tuple[str, ...], ...]
    tags: Mapping[str, str]
    config: Mapping[str, Any] = field(default_factory=dict)
    what: str = ""
    """In words, for the progress."""


def market_order(
    market: Market,
    first: date,
    last: date,
    symbols: Sequence[str],
    assets: Sequence[str] = ("ohlcv", "features_daily", "labels"),
) -> Order:
    """Bars, features and labels of neighbouring `symbols`, sessions `first` to `last`."""
    layout = market.layout
    return Order(
        layout.name(MARKET_JOB),
        tuple(tuple(layout.path(asset)) for asset in assets),
        layout.range_tags(first, last, symbols),
        what=f"{', '.join(assets)} of {', '.join(symbols)}, {first} to {last}",
    )


def market_orders(
    market: Market,
    first: date,
    last: date,
    symbols: Sequence[str],
    assets: Sequence[str] = ("ohlcv", "features_daily", "labels"),
) -> list[Order]:
    """`market_order` for any `symbols` of the market: one for each stretch of neighbours."""
    stretches: list[list[str]] = [[]]
    for name in market.layout.universe.names:
        if name in symbols:
            stretches[-1].append(name)
        elif stretches[-1]:
            stretches.append([])
    return [market_order(market, first, last, names, assets) for names in stretches if names]


def decision_order(
    market: Market,
    strategy_id: str,
    first: date,
    last: date,
    assets: Sequence[str] = ("predictions", "targets", "backtest_summary", "validation"),
    **changes: Any,
) -> Order:
    """A strategy's decisions, backtest and verdict, sessions `first` to `last`; `changes`: config of the backtest.

    The backtest takes the same sessions, unless `changes` say otherwise (`from_date`, `to_date`: ISO).
    """
    layout = market.layout
    config: dict[str, Any] = {}
    if "backtest_summary" in assets:
        given = {"from_date": first.isoformat(), "to_date": last.isoformat(), **changes}
        chosen = {name: value for name, value in given.items() if value is not None}
        config = {"ops": {layout.op("backtest_summary"): {"config": chosen}}}
    return Order(
        strategy_id,
        tuple(tuple(layout.path(asset)) for asset in assets),
        layout.range_tags(first, last, [strategy_id]),
        config,
        what=f"{', '.join(assets)} of {strategy_id}, {first} to {last}",
    )


@dataclass
class Chain:
    """Runs that follow one another, started by one click. The process keeps it: any tab that shows it drives it on.

    `key` is that of the button; `words` say why it ended early or could not be stopped, `unheard` that the server does
    not answer at present.
    """

    orders: Sequence[Order]
    key: str
    run_ids: list[str] = field(default_factory=list)
    progress: list[Progress | None] = field(default_factory=list)
    begun: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: bool = False
    words: str = ""
    unheard: str = ""
    stopped: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def advance(self, dagster: Dagster) -> None:
        """Ask how far it is; start the next run if the one before has succeeded."""
        with self._lock:
            if self.ended:
                return
            try:
                if not self.run_ids or self._may_go_on(dagster):
                    self._launch(dagster, self.orders[len(self.run_ids)])
                self.unheard = ""
            except LabError as error:  # the next time may be better
                self.unheard = str(error)

    def stop(self, dagster: Dagster) -> None:
        """Start no further run, and ask the one that goes to stop."""
        with self._lock:
            try:
                if self.run_ids:
                    dagster.terminate(self.run_ids[-1])
                else:
                    self.ended = True
                self.stopped, self.words = True, ""
            except LabError as error:
                self.words = str(error)

    @property
    def succeeded(self) -> bool:
        """Whether all of it has been done."""
        last = self.progress[-1] if self.progress else None
        return self.ended and last is not None and last.run.status == "SUCCESS" and not self.left

    @property
    def left(self) -> int:
        """How many runs have not been started."""
        return max(0, len(self.orders) - len(self.run_ids))

    @property
    def seconds(self) -> float:
        """From the click to the end of the newest run."""
        last = self.progress[-1] if self.progress else None
        return ((last and last.run.ended) or datetime.now(UTC)).timestamp() - self.begun.timestamp()

    def _may_go_on(self, dagster: Dagster) -> bool:
        """Whether another run is to follow the newest one now."""
        now = dagster.progress(self.run_ids[-1], self.progress[-1])
        if now is None:
            self.words, self.ended = f"run {self.run_ids[-1]} is not in Dagster's storage; it was deleted there", True
            return False
        self.progress[-1] = now
        self.ended = now.run.finished and (self.stopped or now.run.status != "SUCCESS" or not self.left)
        return now.run.finished and not self.ended

    def _launch(self, dagster: Dagster, order: Order) -> None:
        tags = {**order.tags, BUTTON_TAG: self.key}
        try:
            self.run_ids.append(dagster.launch(order.job, order.assets, tags, order.config))
            self.progress.append(None)
        except DagsterRefusedError as error:
            self.words, self.ended = str(error), True


def run_button(label: str, orders: Sequence[Order], key: str, *, disabled: bool = False) -> None:
    """A button that starts `orders` one after the other, each once the one before has succeeded, and their progress.

    Without a Dagster server it says how to start one. What was started under `key` stays on the page over reruns, and
    its id is in the URL. Ends with a rerun of the page, so that it reads what the runs have published.
    """
    chain = _remembered(key)
    going = chain is not None and not chain.ended
    if going or state.dagster().alive():
        st.button(
            label, key=f"{key} start", type="primary", icon=":material/play_arrow:",
            disabled=going or disabled or not orders, on_click=_begin, args=(tuple(orders), key),
        )  # fmt: skip
    else:
        widgets.no_dagster("Runs are started by Dagster's server.")
    if chain:
        _show(chain)


def follow(run_id: str) -> None:
    """A run's progress, drawn again every second until it ends: steps, words of failure, link to Dagster's UI."""
    key = f"follow {run_id}"
    _show(st.session_state.setdefault(_slot(key), Chain((), key, [run_id], [None])))


@st.cache_resource(max_entries=1, show_spinner=False)
def _chains() -> dict[str, Chain]:
    """First run's id -> chain, of this process."""
    return {}


def _slot(key: str) -> str:
    return f"chain of {key}"


def _begin(orders: tuple[Order, ...], key: str) -> None:
    """Answer a click; a second one finds that it has begun."""
    before: Chain | None = st.session_state.get(_slot(key))
    if before is None or before.ended:
        st.session_state[_slot(key)] = Chain(orders, key)
        others = [one for one in st.query_params.get_all(_IN_URL) if before is None or one not in before.run_ids]
        st.query_params[_IN_URL] = others


def _remembered(key: str) -> Chain | None:
    """What the button `key` has started: in this session, or, after the page was loaded again, by the URL."""
    chain: Chain | None = st.session_state.get(_slot(key))
    if chain is None:
        for run_id in st.query_params.get_all(_IN_URL):
            found = _chains().get(run_id) or _recovered(run_id)
            if found and found.key == key:
                chain = st.session_state[_slot(key)] = found
    return chain


def _recovered(run_id: str) -> Chain | None:
    """The run of a chain that another process began; what was to follow is not known."""
    try:
        run = state.dagster().run(run_id)
    except LabError:
        return None
    if run is None:
        return None
    begun = run.started or datetime.now(UTC)
    chain = Chain((), run.tags.get(BUTTON_TAG, ""), [run_id], [None], begun=begun)
    return _chains().setdefault(run_id, chain)


def _show(chain: Chain) -> None:
    if chain.ended:
        _draw(chain)
    else:
        st.fragment(_drive, run_every=_SECONDS_BETWEEN)(chain)


def _drive(chain: Chain) -> None:
    """Once a second: drive the chain on and draw it; at its end draw the page anew."""
    if chain.run_ids:
        chain.advance(state.dagster())
    else:
        with st.spinner("Dagster is asked to start the run"):
            chain.advance(state.dagster())
    if chain.orders and chain.run_ids:
        first = chain.run_ids[0]
        _chains()[first] = chain
        if first not in (known := st.query_params.get_all(_IN_URL)):
            st.query_params[_IN_URL] = [*known, first]
    _draw(chain)
    if chain.ended:
        st.rerun()


def _draw(chain: Chain) -> None:
    dagster = state.dagster()
    with st.container(border=True, gap="xsmall"):
        for number, (run_id, progress) in enumerate(zip(chain.run_ids, chain.progress, strict=True)):
            what = chain.orders[number].what if chain.orders else ", ".join(progress.run.assets if progress else ())
            _draw_run(
                f"{number + 1} of {max(1, len(chain.orders))}", what, dagster.run_url(run_id), progress, chain.seconds
            )
        if chain.unheard:
            st.warning("Dagster's server gives no answer; it is asked again every second.", icon=":material/cloud_off:")
            _quote(chain.unheard)
        if not chain.ended:
            if chain.words:
                _quote(chain.words)
            st.button(
                "Stop the run", key=f"{chain.key} stop", icon=":material/stop:", disabled=chain.stopped,
                on_click=chain.stop, args=(dagster,),
            )  # fmt: skip
        else:
            _draw_end(chain)


def _draw_run(number: str, what: str, url: str, progress: Progress | None, seconds: float) -> None:
    status = progress.run.status if progress else "QUEUED"
    st.markdown(f"{_STATUS.get(status, status)} · run {number} · [open in Dagster]({url})")
    if what:
        st.text(what)
    if progress and progress.run.status == "QUEUED" and seconds > _SECONDS_QUEUED:
        st.caption("Dagster's daemon takes runs from the queue; `make dev` runs it beside the server.")
    if progress is None or not progress.steps:
        return
    over = [step for step in progress.steps if step.state not in ("WAITING", "RUNNING")]
    told = progress.steps
    if progress.run.finished:
        told = tuple(step for step in over if step.state != "SUCCESS")
    else:
        st.progress(len(over) / len(progress.steps), f"{len(over)} of {len(progress.steps)} steps")
    if told:
        st.markdown("  \n".join(_step_line(step) for step in told))
    for step in progress.steps:
        if step.state == "RUNNING" and step.said:
            st.text(step.said)


def _step_line(step: StepState) -> str:
    took = f" {step.seconds:,.1f} s" if step.seconds is not None else ""
    return f"{_ICONS.get(step.state, '')} `{step.step}`{took}"


def _draw_end(chain: Chain) -> None:
    """What came of it, and what to do."""
    progress = chain.progress[-1] if chain.progress else None
    status = progress.run.status if progress else ""
    again = " What was stored stays. Mend what it says, then start it again."
    if chain.succeeded:
        st.success(f"done in {chain.seconds:,.1f} s: the page shows the new data", icon=":material/check_circle:")
    elif chain.words:
        st.error("Dagster did not start or follow the run." + again, icon=":material/error:")
        _quote(chain.words)
    elif status == "FAILURE" and progress:
        st.error("The run failed." + again, icon=":material/error:")
        _quote("\n".join(progress.failures) or "it gave no reason; its log in Dagster may say more")
    else:
        st.warning("Stopped. What was stored stays; start it again to go on.", icon=":material/stop_circle:")
    if chain.left and chain.run_ids:
        st.caption(f"{chain.left} of {len(chain.orders)} runs were not started.")
    if found := [words for one in chain.progress if one for words in one.failed_checks]:
        with st.expander(f"{len(found)} checks found something", icon=":material/rule:"):
            _quote("\n".join(found))


def _quote(words: str) -> None:
    """Text that came from elsewhere, as it is."""
    st.code(words, language=None, wrap_lines=True)
