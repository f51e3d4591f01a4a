"""Pages of the lab in this process, without a browser: what they show, pointed at a platform's home.

Belongs here: what tests of pages share. Dagster's server is either absent (the URL's port is closed) or a stand-in.
"""

from collections.abc import Callable

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from quant_assets.core.calendar import trading_calendar
from quant_assets.core.settings import settings
from quant_assets.lab import state
from quant_assets.lab.dagster_api import Dagster
from quant_assets_tests.platform import Platform

NOBODY = "http://127.0.0.1:9"
"""A URL at which nothing answers."""


class Lab:
    """Draws pages for `platform`; `dagster` takes the place of the client of Dagster's server."""

    def __init__(self, platform: Platform, monkeypatch: pytest.MonkeyPatch, dagster: Dagster | None = None) -> None:
        for name, value in platform.environment.items():
            if name.startswith(("QUANT_", "DAGSTER_")):
                monkeypatch.setenv(name, value)
        monkeypatch.setenv("QUANT_DAGSTER_URL", NOBODY)
        if dagster is not None:
            monkeypatch.setattr(state, "dagster", lambda: dagster)
        for remembering in (settings, trading_calendar):
            remembering.cache_clear()
        st.cache_resource.clear()
        st.cache_data.clear()

    def draw(self, page: Callable[[], None], **picked: str) -> AppTest:
        """The page with what is picked in its URL, after its first run; no exception may have come out of it."""
        test = AppTest.from_function(_drawn, default_timeout=60, args=(page.__module__,))
        for name, value in picked.items():
            test.query_params[name] = value
        test.run()
        assert not test.exception, test.exception
        return test


def _drawn(module: str) -> None:
    from quant_assets.lab.app import navigation, page_of

    navigation()
    page_of(module.rsplit(".", 1)[1])()


def words(test: AppTest) -> str:
    """All text that a page shows, in order."""
    kinds = (
        "title",
        "header",
        "subheader",
        "caption",
        "markdown",
        "info",
        "warning",
        "error",
        "success",
        "code",
        "text",
    )
    return "\n".join(str(one.value) for kind in kinds for one in test.get(kind))
