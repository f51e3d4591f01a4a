"""The lab's entry point for Streamlit: navigation, the state of the platform in the sidebar, and one page."""

from collections.abc import Callable
from datetime import UTC, datetime
from importlib import import_module
from typing import Any

import streamlit as st

from quant_assets.core.errors import QuantError, StrategyError
from quant_assets.core.page import DARK
from quant_assets.lab import state, widgets

_PAGES = {
    "Research": {
        "overview": "dashboard",
        "data": "database",
        "strategies": "description",
        "compare": "compare_arrows",
        "targets": "target",
        "models": "neurology",
        "validation": "verified",
        "trades": "candlestick_chart",
        "lineage": "account_tree",
    },
    "Trading": {"trading": "receipt_long"},
}
"""Group of the menu -> module in `views`, which is the page's name in the URL, and its icon."""

_LOGO = f"""<svg xmlns="http://www.w3.org/2000/svg" width="200" height="32" viewBox="0 0 200 32">
<g fill="{DARK["accent"]}"><rect x="2" y="18" width="6" height="10" rx="1.5"/><rect x="11" y="11" width="6" height="17"
rx="1.5"/><rect x="20" y="4" width="6" height="24" rx="1.5"/><text x="36" y="23" font-size="20" font-weight="600"
font-family="system-ui, sans-serif">quant_assets</text></g></svg>"""


def page_of(name: str) -> Callable[[], None]:
    """The page that module `name` of `views` draws, an error of ours shown as its one line, which names the remedy."""

    def draw() -> None:
        try:
            import_module(f"quant_assets.lab.views.{name}").page()
        except QuantError as error:
            st.error(str(error), icon=":material/error:")
            if isinstance(error, StrategyError) and name != "strategies":
                widgets.link_to("strategies", "Repair a strategy file")

    return draw


def navigation() -> Any:
    """Make the pages known, and draw the menu; the page that the URL names."""
    pages = {
        name: st.Page(
            page_of(name), title=name.title(), icon=f":material/{icon}:", url_path=name, default=name == "overview"
        )
        for group in _PAGES.values()
        for name, icon in group.items()
    }
    st.session_state["pages"] = pages
    return st.navigation({group: [pages[name] for name in names] for group, names in _PAGES.items()})


def main() -> None:
    """One run of the script: what Streamlit does for every visit and every click."""
    st.set_page_config("quant_assets", ":material/finance:", layout="wide")
    st.logo(_LOGO, size="large")
    chosen = navigation()
    _status()
    chosen.run()


def _status() -> None:
    with st.sidebar:
        stored = state.published_at()
        told = f"{stored:%Y-%m-%d %H:%M} UTC ({_ago(datetime.now(UTC), stored)})" if stored else "nothing yet"
        st.caption(f":material/save: stored: {told}")
        if state.dagster().alive():
            st.caption(f":material/check_circle: [Dagster]({state.dagster().url}) answers")
        else:
            st.caption(":material/cancel: no Dagster server: runs cannot be started")


def _ago(now: datetime, then: datetime) -> str:
    minutes = int((now - then).total_seconds() // 60)
    if minutes < 1:
        return "just now"
    if minutes < 120:
        return f"{minutes} min ago"
    return f"{minutes // 60} h ago" if minutes < 2880 else f"{minutes // 1440} days ago"


if __name__ == "__main__":
    main()
