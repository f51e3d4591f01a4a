"""What went wrong lately, as a page says it: the last run of what it shows, where that failed, with a link to it."""

from collections.abc import Callable, Iterable

import streamlit as st

from quant_assets.core.errors import LabError
from quant_assets.lab import state
from quant_assets.lab.dagster_api import Run

_LOOKED_AT = 50
"""So many of the newest runs are looked through."""


def last_failure(runs: Iterable[Run], concerns: Callable[[Run], bool]) -> Run | None:
    """The newest finished run that `concerns` accepts, if it failed; `runs` newest first."""
    newest = next((run for run in runs if run.finished and concerns(run)), None)
    return newest if newest and newest.status == "FAILURE" else None


def failure(what: str, concerns: Callable[[Run], bool]) -> None:
    """Say that the last run of `what` failed, if it did; nothing where no server answers."""
    server = state.dagster()
    if not server.alive():
        return
    try:
        failed = last_failure(server.runs(_LOOKED_AT), concerns)
    except LabError:
        return
    if failed:
        ended = f" on {failed.ended:%Y-%m-%d at %H:%M} UTC" if failed.ended else ""
        st.error(
            f"The last run of {what} failed{ended}: [its log in Dagster]({server.run_url(failed.run_id)}) says why. "
            "What is shown here is what was stored before, or by the parts of it that succeeded.",
            icon=":material/error:",
        )
