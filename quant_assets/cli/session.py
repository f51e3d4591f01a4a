"""What a command works with: settings, markets, the warehouse and launchers, each made when first asked for."""

import os
from collections.abc import Sequence
from datetime import UTC, date, datetime
from functools import cached_property
from typing import TYPE_CHECKING

from quant_assets.cli import console
from quant_assets.core.errors import ConfigError
from quant_assets.core.settings import PROJECT_ROOT, Settings, settings

if TYPE_CHECKING:
    from quant_assets.definitions import Market
    from quant_assets.defs.launch import Launched, Launcher
    from quant_assets.strategy.spec import StrategySpec
    from quant_assets.warehouse import Warehouse

MARKET_ASSETS = ("ohlcv", "features_daily", "labels")
DECISION_ASSETS = ("predictions", "targets", "backtest_summary", "validation")


def environment(config: Settings) -> dict[str, str]:
    """What plain `dagster` commands need to find the same instance."""
    return {
        "DAGSTER_HOME": os.environ.get("DAGSTER_HOME", str(PROJECT_ROOT)),
        "QUANT_HOME": str(config.home.resolve()),
        "QUANT_DAGSTER": os.environ.get("QUANT_DAGSTER", str(config.home.resolve() / "dagster")),
    }


_MONTH = 25
"""Sessions among which there is the last one of a month."""


class MarketView:
    """One market as a command sees it: its grid and strategies, its launcher, and what words mean on it."""

    def __init__(self, session: "Session", market: "Market") -> None:
        self.grid, self.strategies, self.name = market.grid, market.strategies, market.name
        self._session = session
        self._told: set[str] = set()

    @cached_property
    def launcher(self) -> "Launcher":
        """Runs this market's assets."""
        return self._session.launcher.on(self.grid)

    def symbols(self, wanted: str | None = None) -> list[str]:
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
        start, end = self.grid.universe.start, self.grid.last_closed(datetime.now(UTC))
        low, high = first or start, last or end
        if high < start or low > end:
            given = "..".join(str(day) for day in (first, last) if day)
            raise ConfigError(
                f"{given} lies outside universe {self.grid.universe.name}, which has {start} to {end}; "
                "choose dates inside, or change start and end in its file"
            )
        if low > high:
            raise ConfigError(f"dates reversed: from {low} is after to {high}; swap them")
        snapped = self.grid.calendar.snap(max(low, start), min(high, end))
        for name, given_day, used in (("from", first, snapped[0]), ("to", last, snapped[1])):
            self._tell(name, given_day, used)
        return snapped

    def period_of(self, spec: "StrategySpec", first: date | None, last: date | None) -> tuple[date, date]:
        """`period`, with the strategy file's dates where none are given.

        Raises:
            ConfigError: as for `period`, or a date given lies on the wrong side of the file's other one.
        """
        low, high = first or spec.backtest.first, last or spec.backtest.last
        if high and low > high and (first is None) != (last is None):
            name, day, other = ("from", first, "to") if first else ("to", last, "from")
            raise ConfigError(
                f"{name} {day} lies {'after' if first else 'before'} {other} {high if first else low} of strategy "
                f"{spec.strategy_id}'s file; give --{other} as well"
            )
        return self.period(low, high)

    def day(self, asof: date | None) -> date:
        """The newest session on or before `asof` that has a partition; says so where it had to snap.

        Raises:
            ConfigError: before the universe's start.
        """
        start, end = self.grid.universe.start, self.grid.last_closed(datetime.now(UTC))
        if asof and asof < start:
            raise ConfigError(
                f"asof {asof} lies before universe {self.grid.universe.name}, which has {start} to {end}; "
                "choose a later date"
            )
        day = self.grid.calendar.snap(start, min(asof or end, end))[1]
        self._tell("asof", asof, day)
        return day

    def last_rebalance(self, spec: "StrategySpec", day: date) -> date:
        """The strategy's newest rebalance session on or before `day`, `day` itself if there is none."""
        from quant_assets.strategy.compose import rebalance_dates

        calendar = self.grid.calendar
        sessions = calendar.between(max(self.grid.universe.start, calendar.offset(day, -_MONTH)), day)
        return next(reversed(rebalance_dates(spec.rebalance.frequency, sessions, calendar.sessions)), day)

    def _tell(self, name: str, given: date | None, used: date) -> None:
        line = f"{name} {given} is no session of universe {self.grid.universe.name}: using {used}"
        if given is not None and given != used and line not in self._told:
            self._told.add(line)
            console.say(line)

    def run_groups(self, assets: tuple[str, ...], spans: dict[str, tuple[date, date]]) -> "list[Launched]":
        """One run per stretch of neighbouring keys that share their dates, up to one that a check blocks."""
        launched = []
        group: list[str] = []
        for key in [*self.grid.universe.names, None]:
            if group and (key is None or spans.get(key) != spans[group[0]]):
                launched.append(self.launcher.run(assets, *spans[group[0]], group))
                if launched[-1].blocked:
                    break
                group = []
            if key is not None and key in spans:
                group.append(key)
        return launched


class Session:
    """One command's view of the platform."""

    @cached_property
    def settings(self) -> Settings:
        config = settings()
        os.environ.update(environment(config))
        return config

    @cached_property
    def markets(self) -> dict[str, MarketView]:
        """Name -> market, the primary one first."""
        config = self.settings
        with console.status("loading the code location"):
            from quant_assets.definitions import load

        return {market.name: MarketView(self, market) for market in load(config)}

    @cached_property
    def warehouse(self) -> "Warehouse":
        from quant_assets.warehouse import Warehouse

        return Warehouse(self.settings.warehouse_path, lock_timeout=self.settings.lock_timeout_seconds)

    @cached_property
    def launcher(self) -> "Launcher":
        """The primary market's; runs whose process is gone are marked as failed when it is first used."""
        grid = self.market().grid
        from quant_assets.defs.launch import Launcher

        launcher = Launcher(grid, self.warehouse, console.watch)
        for run_id in launcher.fail_dead_runs():
            console.say(f"run {run_id} was left behind by a process that is gone; marked as failed")
        return launcher

    def market(self, name: str | None = None) -> MarketView:
        """The market of that name, the primary one without.

        Raises:
            ConfigError: unknown; names the known ones.
        """
        if name is None:
            return next(iter(self.markets.values()))
        if name not in self.markets:
            raise ConfigError(f"market {name!r} is unknown; use one of: {', '.join(self.markets)}")
        return self.markets[name]

    def strategy(self, strategy_id: str) -> "tuple[MarketView, StrategySpec]":
        """The strategy of that id, and the market it is on.

        Raises:
            ConfigError: unknown; names the known ones.
        """
        for market in self.markets.values():
            if strategy_id in market.strategies:
                return market, market.strategies[strategy_id]
        known = ", ".join(sorted(name for market in self.markets.values() for name in market.strategies)) or "none"
        raise ConfigError(f"strategy {strategy_id!r} is unknown; use one of: {known}")

    def chosen(
        self, strategies: Sequence[str] | None, market: str | None = None
    ) -> "list[tuple[MarketView, list[StrategySpec]]]":
        """The strategies named, market by market; without names all of `market`, the primary one by default.

        Raises:
            ConfigError: an unknown market or strategy, or a strategy on another market than the one named.
        """
        if not strategies:
            view = self.market(market)
            return [(view, list(view.strategies.values()))]
        found: dict[str, list[StrategySpec]] = {}
        for view, spec in map(self.strategy, dict.fromkeys(strategies)):
            if self.market(market or view.name) is not view:
                raise ConfigError(f"strategy {spec.strategy_id} is on market {view.name}, not {market}; choose one")
            found.setdefault(view.name, []).append(spec)
        return [(self.markets[name], specs) for name, specs in found.items()]

    def finish(self, runs: "Sequence[Launched]", tables: Sequence[str] = ()) -> None:
        """Print what changed, and how many rows of `tables`.

        Raises:
            RunFailedError: a run failed; its words.
        """
        counts = " UNION ALL ".join(
            f"SELECT '{name}' AS name, count(*) FILTER (run_id IN (SELECT unnest($1))) AS written, "
            f"count(*) AS held FROM {name}"
            for name in tables
        )
        rows = self.warehouse.query(counts, [[run.run_id for run in runs]]).rows() if tables else ()
        console.changed(runs, rows)
        failed = [one for one in runs if not one.succeeded]
        if failed:
            from quant_assets.defs.launch import RunFailedError

            words = " | ".join(dict.fromkeys(text for one in failed for text in one.failures)) or "see the run's log"
            raise RunFailedError(words if len(runs) == 1 else f"{len(failed)} of {len(runs)} runs failed: {words}")


session = Session()
