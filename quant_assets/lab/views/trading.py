"""Page Trading: present and disabled. Nothing here can place an order, for there is nothing here that could."""

import streamlit as st

from quant_assets.lab import widgets

_MODES = {
    "Paper": "simulated fills on live prices",
    "Shadow": "decisions beside a real account, no orders",
    "Live": "orders at a broker",
}


def page() -> None:
    """Say what is not part of this release."""
    widgets.heading("Trading", "Paper, shadow and live trading are not part of this release.")
    for column, (mode, means) in zip(st.columns(3), _MODES.items(), strict=True):
        with column.container(border=True):
            st.subheader(mode)
            st.caption(means)
            st.button("Not available", key=mode, icon=":material/lock:", disabled=True, width="stretch")
    st.info(
        "No order can be placed from the lab: this release has no broker connection and no order entry. "
        "What a strategy would hold stands on the page Targets.",
        icon=":material/info:",
    )
    widgets.link_to("targets", "Targets of the last rebalance")
