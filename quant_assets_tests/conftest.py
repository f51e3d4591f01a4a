"""What holds for all tests: properties have no deadline, for a first example may compile or import for seconds."""

import sys
from collections.abc import Iterator

import pytest
from hypothesis import settings

settings.register_profile("quant_assets", deadline=None)
settings.load_profile("quant_assets")

LONGEST = (
    "test_docs_commands",
    "test_lab_browser",
    "test_crash",
    "test_validation_asset",
    "test_cli",
    "test_orchestration",
)
"""Files that take minutes: begun first, so that no process is left with one while the others have nothing to do."""


@pytest.fixture(autouse=True)
def _own_main() -> Iterator[None]:
    """Streamlit puts the page that it draws in the place of `__main__`, which processes started later would import."""
    main = sys.modules["__main__"]
    yield
    sys.modules["__main__"] = main


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put the longest files first; `--no-loadscope-reorder` keeps it so among processes."""
    places = {name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))
