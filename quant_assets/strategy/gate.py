"""The gate: targets of a strategy whose last verdict is `fail` are not approved."""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl

from quant_assets.core.calendar import TradingCalendar
from quant_assets.strategy.ledger import configuration, configuration_id
from quant_assets.strategy.spec import StrategySpec
from quant_assets.strategy.universe import Universe
from quant_assets.warehouse import Source

FLAG = "V1"


@dataclass(frozen=True)
class LastVerdict:
    """An overall verdict on a strategy."""

    verdict: str
    run_id: str
    backtest_run_id: str
    last: date
    """Last session of the backtest that it judges: at its close it could be known."""


def own_verdict(
    warehouse: Source, spec: StrategySpec, market: Universe, calendar: TradingCalendar, universes: Path
) -> LastVerdict | None:
    """The last verdict on a strategy as its file is: its configuration, its version, its period's first session.

    So neither what was overridden for a run nor a shorter period speaks for it.

    Args:
        universes: folder of universe files.
    """
    first, *_ = calendar.between(max(spec.backtest.first, market.start), date.max)
    own = configuration_id(configuration(spec, spec.bounds(market, universes)))
    return last_verdict(warehouse, spec.strategy_id, spec.version, own, first)


def last_verdict(warehouse: Source, strategy_id: str, version: str, configured: str, first: date) -> LastVerdict | None:
    """The verdict that has seen most, of several the newest; None without any.

    Args:
        configured: `ledger.configuration_id` of what the backtest ran.
        first: first session of the backtest.
    """
    rows = warehouse.query(
        "SELECT v.verdict, v.run_id, v.backtest_run_id, v.to_ts FROM validation_results v "
        "JOIN backtest_summary s ON s.run_id = v.backtest_run_id AND s.strategy_id = v.strategy_id "
        "JOIN trials t USING (trial_id) WHERE v.strategy_id = ? AND v.version = ? AND v.method = 'verdict' "
        "AND t.configuration = ? AND v.from_ts = ? ORDER BY v.to_ts DESC, v.created_at DESC, v.run_id LIMIT 1",
        [strategy_id, version, configured, first],
    )
    return LastVerdict(*rows.row(0)) if rows.height else None


def gated(targets: pl.DataFrame, verdict: LastVerdict | None) -> pl.DataFrame:
    """`targets` as they may be stored: after a verdict of `fail` none is approved, all have weight 0 and flag V1.

    Decisions on dates before the verdict could be known stay as they were, so that history computed anew is the same.

    Args:
        targets: as `compose.decide` gives them.
    """
    if verdict is None or verdict.verdict != "fail":
        return targets
    held_back = pl.col("approved") & (pl.col("asof") >= verdict.last)
    reason = f"{FLAG}: the strategy's last verdict is fail (run {verdict.run_id}); validate a better version"
    return targets.with_columns(
        approved=pl.col("approved") & ~held_back,
        weight=pl.when(held_back).then(0.0).otherwise("weight"),
        risk_flags=pl.when(held_back).then(pl.col("risk_flags").list.concat(pl.lit([FLAG]))).otherwise("risk_flags"),
        reason=pl.when(held_back).then(pl.lit(reason)).otherwise("reason"),
    )
