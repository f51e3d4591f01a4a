"""When assets run without being asked: the automation condition, the daily schedule, and the sensor that evaluates."""

from collections.abc import Iterator
from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
from dagster._core.definitions.unresolved_asset_job_definition import UnresolvedAssetJobDefinition

from quant_assets.defs.grid import Grid

AFTER_CLOSE = timedelta(hours=2)
"""What an exchange's data providers are given to have its bars."""
AFTER_MIDNIGHT = timedelta(minutes=15)
"""The same on a calendar without weekends, whose sessions end at midnight."""
_GRACE = timedelta(hours=1)
"""What the daily run is given until its bars count as late."""


def when_inputs_are_in(*, except_updates_of: dg.AssetKey | None = None) -> dg.AutomationCondition:
    """A cell runs once all of its inputs are there and one of them is new; each change of inputs is handled once.

    `since_last_handled` keeps a full market run from making features run twice; `~any_deps_missing` makes a decision
    cell wait for the last symbol; `eager` would look at the latest date only and so skip a restated bar of last week.
    Dagster's own `any_deps_updated` passes over the last cell of a run that was to update the asset too: after a failed
    one nobody would.

    Args:
        except_updates_of: an input whose updates reach the asset again through another one; it must be there, but the
            cell waits for the other one's update, and does not run once with each.
    """
    condition = dg.AutomationCondition
    updated = condition.any_deps_match(condition.newly_updated() | condition.will_be_requested())
    if except_updates_of is not None:
        updated = updated.ignore(dg.AssetSelection.assets(except_updates_of))
    return (
        (updated | condition.missing().newly_true()).since_last_handled()
        & ~condition.any_deps_missing()
        & ~condition.any_deps_in_progress()
        & ~condition.in_progress()
    ).with_label("all inputs are in and one is new")


def automation_sensor() -> dg.AutomationConditionSensorDefinition:
    """Evaluates the conditions; runs by default wherever a daemon does."""
    return dg.AutomationConditionSensorDefinition(
        "automation",
        target=dg.AssetSelection.all(),
        default_status=dg.DefaultSensorStatus.RUNNING,
        description="Runs features, labels and the decision stage once their inputs are in.",
    )


def freshness(grid: Grid) -> dg.FreshnessPolicy | None:
    """Bars of a universe without an end come with every session: a warning where one was missed, later a failure.

    At weekends an exchange has three days from one close to the next, and a fourth with a holiday.
    """
    if grid.universe.end is not None:
        return None
    pause = timedelta(days=1 if grid.calendar.every_day else 3)
    return dg.FreshnessPolicy.time_window(pause + timedelta(days=1) + _GRACE, pause + _GRACE)


def daily_schedule(grid: Grid, market_job: UnresolvedAssetJobDefinition) -> dg.ScheduleDefinition | None:
    """One run of the market stage over all symbols for the session that ends today, a while after its regular close.

    On a calendar without weekends that is yesterday's, which closed at midnight. Skips, saying why, where there is none
    or it has not closed. None for a universe of past data.
    """
    if grid.universe.end is not None:
        return None
    calendar = grid.calendar
    every_day = calendar.every_day
    at = datetime.combine(date.today(), calendar.close) + (AFTER_MIDNIGHT if every_day else AFTER_CLOSE)

    @dg.schedule(
        name=grid.name("daily_market"),
        cron_schedule=f"{at.minute} {at.hour} * * {'*' if every_day else '1-5'}",
        execution_timezone=calendar.timezone,
        job=market_job,
        description=f"The session of {calendar.name} that closed last, for all symbols of {grid.universe.name}.",
    )
    def daily_market(context: dg.ScheduleEvaluationContext) -> Iterator[dg.RunRequest | dg.SkipReason]:
        tick = context.scheduled_execution_time
        today = tick.astimezone(ZoneInfo(calendar.timezone)).date()
        session = today - timedelta(days=1) if every_day else today
        if not calendar.is_session(session):
            yield dg.SkipReason(f"{session} is no {calendar.name} session")
        elif not calendar.has_closed(session, tick):
            yield dg.SkipReason(f"{calendar.name} has not closed on {session} yet")
        else:
            tags = grid.range_tags(session, session, grid.universe.names)
            yield dg.RunRequest(run_key=session.isoformat(), tags=tags)

    return daily_market
