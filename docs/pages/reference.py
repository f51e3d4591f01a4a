"""The list of generated pages."""

from collections.abc import Callable

from . import assets, command_line, configuration, contracts, files, vocabulary

PAGES: dict[str, Callable[[], str]] = {
    "strategy-file": files.strategy_page,
    "universe-file": files.universe_page,
    "vocabulary": vocabulary.page,
    "command-line": command_line.page,
    "settings": configuration.page,
    "contracts": lambda: contracts.page(assets.writers(assets.definitions())),
    "asset-graph": lambda: assets.page(assets.definitions()),
}
"""Name of a page in `reference/`, which is the anchor of its section in `reference/index.md` -> its text."""
