"""What pages share: headings, pickers that live in the URL, empty states, tables, figures, links to other pages."""

from collections.abc import Callable, Sequence
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import polars as pl
import streamlit as st

from quant_assets.core.page import NONE
from quant_assets.lab import state

if TYPE_CHECKING:
    import plotly.graph_objects as go

Colour = Literal["green", "orange", "red", "gray"]
MARKS: dict[str, tuple[str, str, Colour]] = {
    "pass": ("\N{CHECK MARK}", "check_circle", "green"),
    "caution": ("!", "warning", "orange"),
    "fail": ("\N{MULTIPLICATION X}", "cancel", "red"),
}
"""Verdict -> sign in a table, icon, Streamlit's colour."""
UNJUDGED: tuple[str, str, Colour] = (NONE, "help", "gray")

_PLAIN = {"displaylogo": False, "modeBarButtonsToRemove": ["lasso2d", "select2d", "autoScale2d"]}


def heading(title: str, shows: str) -> None:
    """A page's title, and one line on what it shows."""
    st.title(title)
    st.caption(shows)


def nothing(what: str, do: str, command: str | None = None) -> None:
    """In place of something that is not there: what is missing, what to do, and the command for it."""
    with st.container(border=True):
        st.markdown(f":material/inbox: **{what}**")
        st.markdown(do)
        if command:
            st.code(command, language="bash")


def no_dagster(why: str) -> None:
    """In place of something that needs Dagster's server, which does not answer: why it is needed."""
    nothing(
        f"No Dagster server answers at {state.config().dagster_url}",
        f"{why} Start it in another terminal, then press R here. A server elsewhere: set `QUANT_DAGSTER_URL`.",
        "make dev",
    )


def picked(
    label: str,
    options: Sequence[str],
    key: str,
    *,
    told: Callable[[str], str] = str,
    default: int = 0,
    meant: str | None = None,
) -> str:
    """One of `options` (at least one), kept in the URL as `key`: Streamlit's own binding would keep what is told there.

    Args:
        told: what an option is called.
        meant: what a link means that does not name one.
    """
    asked, seen = st.query_params.get(key, meant), f"{key} in the URL"
    if asked not in options or asked == st.session_state.get(seen):  # no link to follow
        asked = st.session_state.get(key)
    st.session_state[key] = asked if asked in options else options[default]  # anew: a widget of another page has it
    chosen = str(st.selectbox(label, list(options), key=key, format_func=told, persist_state="session"))
    st.query_params[key] = st.session_state[seen] = chosen
    return chosen


def symbol_picker(symbols: Sequence[str], key: str = "symbol") -> str:
    """One symbol of `symbols`, kept in the URL."""
    return picked("Symbol", symbols, key)


def strategy_picker(ids: Sequence[str], key: str = "strategy") -> str:
    """One strategy id of `ids`, kept in the URL."""
    return picked("Strategy", ids, key)


def table(frame: pl.DataFrame, columns: dict[str, Any] | None = None, **options: Any) -> Any:
    """A table without row numbers; `columns` is Streamlit's column_config. Returns what `st.dataframe` does."""
    return st.dataframe(frame, hide_index=True, column_config=columns, width="stretch", **options)


def plot(figure: "go.Figure", key: str, *, alt: str, **options: Any) -> Any:
    """A figure in the lab's look; `alt` says in words what it shows. Returns what `st.plotly_chart` does."""
    return st.plotly_chart(figure, key=key, config=_PLAIN, alt=alt, **options)


def link_to(page: str, label: str, **params: str | date | None) -> None:
    """A link to another page of the lab (its name in the URL), with what is picked there."""
    chosen = {name: str(value) for name, value in params.items() if value is not None}
    st.page_link(pages()[page], label=label, query_params=chosen, icon=":material/arrow_forward:")


def pages() -> dict[str, Any]:
    """Name in the URL -> `st.Page`, in the order of the navigation."""
    return st.session_state["pages"]
