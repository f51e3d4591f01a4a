"""What a command works with: settings, the grid, the warehouse and a launcher, each made when first asked for."""

import os
from datetime import date
from functools import cached_property
from typing import TYPE_CHECKING

from quant_assets.cli import console
from quant_assets.core.errors import ConfigError
from quant_assets.core.settings import PROJECT_ROOT, Settings, settings

if TYPE_CHECKING:
    from quant_assets.defs.grid import Grid
    from quant_assets.defs.launch import Launched, Launcher
    from quant_assets.strategy.spec import StrategySpec
    from quant_assets.warehouse import Warehouse

MARKET_ASSETS = ("ohlcv", "features_daily", "labels")
DECISION_ASSETS = ("predictions", "targets", "backtest_summary")


def environment(config: Settings) -> dict[str, str]:
    """What plain `dagster` commands need to find the same instance."""
    return {
        "DAGSTER_HOME": os.environ.get("DAGSTER_HOME", str(PROJECT_ROOT)),
        "QUANT_HOME": str(config.home.resolve()),
        "QUANT_DAGSTER": os.environ.get("QUANT_DAGSTER", str(config.home.resolve() / "dagster")),
    }


class Session:
    """One command's view of the platform."""

    @cached_property
    def settings(self) -> Settings:
        config = settings()
        os.environ.update(environment(config))
        return config

    @cached_property
    def _loaded(self) -> "tuple[Grid, dict[str, StrategySpec]]":
        config = self.settings
        with console.status("loading the code location"):
            from quant_assets.definitions import load

        return load(config)

    @property
    def grid(self) -> "Grid":
        return self._loaded[0]

    @property
    def strategies(self) -> "dict[str, StrategySpec]":
        return self._loaded[1]

    @cached_property
    def warehouse(self) -> "Warehouse":
        from quant_assets.warehouse import Warehouse

        return Warehouse(self.settings.warehouse_path, lock_timeout=self.settings.lock_timeout_seconds)

    @cached_property
    def launcher(self) -> "Launcher":
        """The launcher; runs whose process is gone are marked as failed when it is first used."""
        grid = self.grid
        from quant_assets.defs.launch import Launcher

        launcher = Launcher(grid, self.warehouse, console.watch)
        for run_id in launcher.fail_dead_runs():
            console.say(f"run {run_id} was left behind by a process that is gone; marked as failed")
        return launcher

    def strategy(self, strategy_id: str) -> "StrategySpec":
        """The strategy of that id.

        Raises:
            ConfigError: unknown; names the known ones.
        """
        if strategy_id not in self.strategies:
            known = ", ".join(self.strategies) or "none"
            raise ConfigError(f"strategy {strategy_id!r} is unknown; use one of: {known}")
        return self.strategies[strategy_id]

    def symbols(self, wanted: str | None) -> list[str]:
        """The symbols of a comma-separated list, all of the market's without one.

        Raises:
            ConfigError: a symbol that is not in the universe.
        """
        names = list(self.grid.universe.names)
        if not wanted:
            return names
        chosen = [word.strip().upper() for word in wanted.split(",") if word.strip()]
        absent = [symbol for symbol in chosen if symbol not in names]
        if absent or not chosen:
            raise ConfigError(
                f"symbol {', '.join(absent) or '(none given)'} is not in universe {self.grid.universe.name} "
                f"({', '.join(names[:20])}); add it with `quant symbols add`"
            )
        return [name for name in names if name in chosen]

    def period(self, first: date | None, last: date | None) -> tuple[date, date]:
        """`first` and `last` as sessions that have partitions; says so where it had to snap.

        Raises:
            ConfigError: reversed, outside the universe's dates, or no session between.
        """
        start, end = self.grid.universe.start, self.grid.last_session
        low, high = first or start, last or end
        if low > high:
            raise ConfigError(f"dates reversed: from {low} is after to {high}; swap them")
        if high < start or low > end:
            raise ConfigError(f"{low}..{high} lies outside universe {self.grid.universe.name} ({start}..{end})")
        snapped = self.grid.calendar.snap(max(low, start), min(high, end))
        for name, given, used in (("from", first, snapped[0]), ("to", last, snapped[1])):
            if given is not None and given != used:
                console.say(f"{name} {given} is no session with a partition: using {used}")
        return snapped

    def run_groups(
        self, assets: tuple[str, ...], spans: dict[str, tuple[date, date]], order: list[str]
    ) -> "list[Launched]":
        """One run per stretch of neighbouring keys that share their dates."""
        launched = []
        group: list[str] = []
        for key in [*order, None]:
            if group and (key is None or spans.get(key) != spans[group[0]]):
                launched.append(self.launcher.run(assets, *spans[group[0]], group))
                group = []
            if key is not None and key in spans:
                group.append(key)
        return launched


session = Session()
