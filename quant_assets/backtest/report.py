"""The report of one backtest, a tear sheet: one HTML file that needs nothing else, neither network nor script."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from quant_assets.backtest import analysis, metrics, pictures
from quant_assets.backtest.analysis import MEASURES, Curve, Measure
from quant_assets.backtest.engine import BacktestResult
from quant_assets.backtest.report_page import PAGE
from quant_assets.core import page
from quant_assets.core.files import write_whole
from quant_assets.core.page import NONE, cell, minus, percent, ratio
from quant_assets.validation.sharpe import expected_best

FEW_TRADES = 30
"""Below so many closed trades the figures say little; the report warns."""
MANY_TRIALS = 10
"""From so many tried configurations on the report warns."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_SYMBOLS, _TRADES, _DRAWDOWNS, _SHADED, _CORRELATED = 40, 12, 10, 5, 11
_QUANTILES = (0.0, 0.05, 0.25, 0.5, 0.75, 0.95, 1.0)
_FILLS = {"close": "at the close", "next_open": "at the next open", "next_close": "at the next close"}
_METHOD = (
    "A year has {year} sessions and the risk-free rate is zero. Sharpe and Sortino come from returns per session. "
    "Turnover is one-way: half of the traded value over equity, per year. A trade is one sale out of a position (for "
    "a short, one purchase) at the position's average entry price. Value at risk is the 5% quantile of the daily "
    "returns as they were, the expected shortfall the mean of those at or below it. Alpha and beta are of the line of "
    "least squares through daily returns; capture compares geometric mean returns of the months in which the "
    "benchmark rose or fell. Correlations are of daily returns over the whole period, held or not. Prices are "
    "adjusted for splits and dividends. Past results say nothing certain about the future."
)


@dataclass(frozen=True)
class ReportContext:
    """What the report says beside the result itself. All of it is shown as text, escaped."""

    run_id: str
    strategy: Mapping[str, Any]
    """The strategy's file as a plain dict; its `description`, if any, stands under the title."""
    code_version: str = ""
    benchmark: pl.DataFrame | None = None
    """ts, equity over the result's sessions (see `engine.buy_and_hold`)."""
    benchmark_name: str = "equal-weight buy and hold of the universe"
    correlations: pl.DataFrame | None = None
    """`backtest_correlations` rows (see `analysis.correlation_table`)."""
    trials: int | None = None
    """Configurations of the strategy's family that were ever evaluated, this one among them."""
    notes: Sequence[str] = ()
    """Further caveats, one sentence each."""
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Further lines of the lineage table, such as model or data partitions."""


def write_report(path: Path, result: BacktestResult, context: ReportContext) -> Path:
    """Write the report to `path` (its folder is made), whole or not at all. Returns `path`."""
    return write_whole(path, render(result, context))


def render(result: BacktestResult, context: ReportContext) -> str:
    """The report as HTML. The same result and context give the same text.

    Raises:
        DataError: a benchmark over other sessions than the result's.
    """
    summary, equity, config = result.summary, result.equity, result.config
    curve = analysis.curve_of(equity, config.initial_cash, config.year)
    other = None if context.benchmark is None else analysis.benchmark_of(result, context.benchmark)
    found = analysis.all_measures(result, context.benchmark)
    return page.render(
        PAGE,
        title=summary["strategy_id"],
        description=str(context.strategy.get("description") or ""),
        summary=summary,
        sessions=f"{equity.height:,}",
        tiles=_tiles(result, found),
        caveats=[*_caveats(result, context), *context.notes],
        benchmark=context.benchmark_name if other else "",
        both="strategy and benchmark" if other else "",
        months=[*_MONTHS, "Year"],
        years=_years(curve),
        cost_shape=[("", "left"), ("Money", ""), ("Per year, of equity", ""), ("Rate", "")],
        trades=_trade_lines(result),
        lineage=_lineage(result, context),
        spec=page.yaml_text(context.strategy),
        method=_METHOD.format(year=config.year),
        **_pictures(result, curve, other, context.benchmark),
        **_measure_tables(found, other is not None),
        **_period_table(curve),
        **_symbol_table(result),
        **_correlation_map(context.correlations),
        **_cost_table(result, found),
        **_drawdown_table(curve),
        **_trade_table(result),
    )


def _pictures(
    result: BacktestResult, curve: Curve, other: Curve | None, benchmark: pl.DataFrame | None
) -> dict[str, Any]:
    from markupsafe import Markup

    curves = [one for one in (curve, other) if one]
    year, window = curve.year, analysis.rolling_window(curve.year)
    falls = curve.falls[:_SHADED]
    yearly = [_calendar(one) for one in curves]
    years = [key[0] for key in yearly[0] if key[1] == 0]
    months = [one.every("month") for one in curves]
    number = f"{len(months[0])} month{'s' if len(months[0]) > 1 else ''}"
    weights, names = pictures.weights_svg(result.weights, result.equity)
    rest = len(pictures.SERIES) - 1
    rolled = {
        "sharpe": [metrics.rolling_sharpe(one.returns, window, year) for one in curves],
        "volatility": [analysis.rolling_volatility(one.returns, window, year) for one in curves],
        "beta": [analysis.rolling_beta(curve.returns, other.returns, window)] if other else [np.empty(0)],
    }
    drawn: dict[str, str | None] = {
        "equity_svg": pictures.equity_svg(result.equity, benchmark, falls),
        "drawdown_svg": pictures.drawdown_svg(
            result.equity, metrics.drawdowns(other.equity, other.initial) if other else None
        ),
        "yearly_svg": pictures.yearly_svg(years, [[one[year, 0] for year in years] for one in yearly]),
        "distribution_svg": pictures.distribution_svg(*months),
        "exposure_svg": pictures.exposure_svg(curve.days, *analysis.exposure(result.weights, curve.days)),
        "turnover_svg": pictures.turnover_svg(result.equity),
        "weights_svg": weights,
        **{
            f"{name}_svg": pictures.rolling_svg(
                curve.days, lines, name, f"Rolling {name} over time", share=name == "volatility"
            )
            for name, lines in rolled.items()
        },
    }
    return {
        **{name: Markup(svg or "") for name, svg in drawn.items()},
        "shaded": f"the {len(falls)} worst drawdowns" if len(falls) > 1 else "the worst drawdown" if falls else "",
        "window_note": f"{window} sessions",
        "too_short": f"The period is shorter than {window} sessions.",
        "distribution_note": f"{number}, mean {percent(float(months[0].mean()))}",
        "weight_names": [
            {"text": name, "colour": rest if n == len(names) - 1 and n == rest else n} for n, name in enumerate(names)
        ],
    }


def _tiles(result: BacktestResult, found: Mapping[str, tuple[float | None, float | None]]) -> list[dict[str, str]]:
    summary = result.summary

    def note(name: str, alone: str) -> str:
        theirs = found[name][1]
        measure = next(one for one in MEASURES if one.name == name)
        return alone if "beta" not in found else f"buy and hold {value_text(measure, theirs)}"

    still = result.trades.height - summary["num_trades"]
    closed = f"closed; {still} still open" if still else "closed"
    rows = (
        ("CAGR", percent(summary["cagr"]), note("cagr", "per year")),
        ("Sharpe ratio", ratio(summary["sharpe"]), note("sharpe", "per year")),
        ("Sortino ratio", ratio(summary["sortino"]), note("sortino", "downside only")),
        ("Maximum drawdown", percent(summary["max_dd"]), note("max_dd", "peak to trough")),
        ("Volatility", percent(summary["vol"]), note("vol", "per year")),
        ("Turnover", _times(summary["turnover"]), "one-way, per year"),
        ("Trades", f"{summary['num_trades']:,}", closed),
        ("Final equity", _money(summary["final_equity"]), f"from {_money(summary['initial_cash'])}"),
    )
    return [{"name": name, "value": value, "note": text} for name, value, text in rows]


def _caveats(result: BacktestResult, context: ReportContext) -> list[str]:
    summary = result.summary
    found = []
    if context.trials is not None:
        found.append(_trials(context.trials, result.equity.height, result.config.year))
    if summary["num_trades"] < FEW_TRADES:
        found.append(
            f"Only {summary['num_trades']} closed trades: with fewer than {FEW_TRADES}, chance explains a lot."
        )
    if result.equity.height < result.config.year:
        found.append(f"Only {result.equity.height} sessions: yearly figures are extrapolated from less than a year.")
    if summary["fee_bps"] == 0 and summary["slippage_bps"] == 0:
        found.append("Trading is free here: neither fee nor slippage is charged.")
    earned = summary["final_equity"] - summary["initial_cash"]
    best = result.symbols.sort("contribution", "symbol", descending=[True, False]).head(1)
    if earned > 0 and result.symbols.height > 2:
        name, share = best["symbol"][0], best["contribution"][0] * summary["initial_cash"] / earned
        if share > 0.5:
            found.append(f"{name} alone earned {share * 100:.0f}% of the profit.")
    if result.unfilled.height:
        day, symbol, _ = result.unfilled.row(0)
        found.append(
            f"{result.unfilled.height} targets found no price on their session and were left out: "
            f"the first is {symbol} on {day}."
        )
    return found


def _trials(count: int, sessions: int, year: int) -> str:
    if count <= 1:
        return "This is the only configuration of its family that was evaluated so far."
    before = f"{count - 1:,} other configuration{'s' if count > 2 else ''} of this family "
    if count < MANY_TRIALS:
        return before + f"{'were' if count > 2 else 'was'} evaluated too: the best of several looks better than it is."
    luck = ratio(expected_best(count, sessions, year))
    return (
        before
        + f"were evaluated too: a result picked from {count:,} is biased upwards. The best of as many without any "
        f"edge would show a Sharpe ratio of up to {luck} over these sessions."
    )


def _calendar(curve: Curve) -> dict[tuple[int, int], float]:
    return metrics.monthly_returns(curve.days.tolist(), curve.equity, curve.initial)


def _years(curve: Curve) -> list[dict[str, Any]]:
    found = _calendar(curve)
    years = sorted({year for year, _ in found})
    return [
        {
            "name": year,
            "cells": [
                shade(found.get((year, month)), 0.1 if month else 0.4, _hundredths) for month in (*range(1, 13), 0)
            ],
        }
        for year in years
    ]


def _hundredths(value: float) -> str:
    return _signed(value * 100, 1) if round(value, 3) else "0.0"


def shade(value: float | None, full: float, text: Callable[[float], str]) -> dict[str, str] | None:
    """A cell of a heat map whose colour is strongest from `full` on."""
    if value is None:
        return None
    return {
        "text": text(value),
        "sign": "gain" if value > 0 else "loss" if value < 0 else "",
        "alpha": f"{0.06 + 0.54 * min(abs(value) / full, 1.0):.2f}",
    }


def value_text(measure: Measure, value: float | None) -> str:
    """A measure's value as it is shown.

    Example:
        >>> value_text(MEASURES[0], 0.125)
        '12.5%'
    """
    if value is None:
        return NONE
    if measure.unit == "percent":
        return percent(value, 2 if abs(value) < 0.1 else 1)
    return ratio(value, 2 if measure.unit == "ratio" else 0)


def _measure_tables(found: Mapping[str, tuple[float | None, float | None]], against: bool) -> dict[str, Any]:
    """A table per group, in two columns of about equal length."""
    groups: dict[str, list[Measure]] = {}
    for one in MEASURES:
        if one.name in found:
            groups.setdefault(one.group, []).append(one)
    halves: list[list[dict[str, Any]]] = [[], []]
    before = 0
    for name, group in groups.items():
        compared = against and any(found[one.name][1] is not None for one in group)
        rows = [[value_text(one, value) for value in found[one.name][: 1 + compared]] for one in group]
        halves[2 * before + len(group) >= len(found)].append(
            {
                "shape": [(name, "left"), ("Strategy", ""), *([("Benchmark", "")] if compared else [])],
                "rows": [[cell(one.label), *map(cell, texts)] for one, texts in zip(group, rows, strict=True)],
            }
        )
        before += len(group)
    return {"measure_tables": halves}


def _period_table(curve: Curve) -> dict[str, Any]:
    heads = ("Worst", "5%", "25%", "Median", "75%", "95%", "Best")
    rows = []
    for period in analysis.PERIODS:
        values = curve.every(period)
        quantiles = np.quantile(values, _QUANTILES).tolist()
        shown = [cell(percent(value, 2 if period == "day" else 1), value) for value in quantiles]
        rows.append(
            [
                cell(period.capitalize()),
                cell(f"{len(values):,}"),
                *shown,
                cell(percent(float(np.mean(values > 0)), 0)),
            ]
        )
    shape = [("", "left"), ("Number", ""), *((head, "") for head in heads), ("Positive", "")]
    return {"period_shape": shape, "period_rows": rows}


def _symbol_table(result: BacktestResult) -> dict[str, Any]:
    ordered = result.symbols.sort("contribution", "symbol", descending=[True, False])
    shown = ordered
    note = "contributions, after costs, add up to the total return"
    if ordered.height > _SYMBOLS:
        half = _SYMBOLS // 2
        shown = pl.concat([ordered.head(half), ordered.tail(half)])
        note = f"the best and worst {half} of {ordered.height:,}; all contributions add up to the total return"
    longest = max((abs(value) for value in shown["contribution"]), default=0.0) or 1.0
    rows = [
        [
            cell(row["symbol"]),
            cell(percent(row["contribution"]), row["contribution"], 80 * abs(row["contribution"]) / longest),
            cell(ratio(row["sharpe"])),
            cell(percent(row["max_dd"])),
            cell(percent(row["mean_weight"])),
            cell(_times(row["turnover"])),
            cell(f"{row['num_trades']:,}"),
            cell(percent(row["fees"] + row["slippage"] + row["funding"])),
        ]
        for row in shown.iter_rows(named=True)
    ]
    if rows:
        paid = analysis.costs(result)
        rows.append(
            [
                cell("Total"),
                cell(percent(float(ordered["contribution"].sum())), float(ordered["contribution"].sum()), 0.0),
                cell(ratio(result.summary["sharpe"])),
                cell(percent(result.summary["max_dd"])),
                cell(percent(float(ordered["mean_weight"].sum()))),
                cell(_times(result.summary["turnover"])),
                cell(f"{result.summary['num_trades']:,}"),
                cell(percent(sum(paid.values()) / result.config.initial_cash)),
            ]
        )
    shape = [("Symbol", "left"), ("Contribution", ""), ("Sharpe", ""), ("Max drawdown", ""), ("Mean weight", "")]
    return {
        "symbols_note": note,
        "symbol_shape": [*shape, ("Turnover", ""), ("Trades", ""), ("Costs", "")],
        "symbol_rows": rows,
    }


def _correlation_map(correlations: pl.DataFrame | None) -> dict[str, Any]:
    if correlations is None or correlations.height < 3:
        return {"correlation_rows": [], "correlation_heads": [], "correlation_note": ""}
    names, matrix = pictures.square(correlations, _CORRELATED)
    held = correlations["other"].n_unique() - 1
    note = "of daily returns over the whole period"
    if held > _CORRELATED:
        note += f"; the {_CORRELATED} symbols held most, of more"
    heads = [name.strip("()") for name in names]
    return {
        "correlation_note": note,
        "correlation_heads": heads,
        "correlation_rows": [
            {"name": head, "cells": [None if np.isnan(value) else shade(value, 1.0, ratio) for value in line]}
            for head, line in zip(heads, matrix.tolist(), strict=True)
        ],
    }


def _cost_table(result: BacktestResult, found: Mapping[str, tuple[float | None, float | None]]) -> dict[str, Any]:
    costs, paid = result.config.costs, analysis.costs(result)
    rates = {
        "fees": f"{costs.fee_bps:g} bps",
        "slippage": f"{costs.slippage_bps:g} bps",
        "funding": minus(f"{costs.funding_bps_per_day:g} bps per day"),
    }
    rows = [
        [cell(name.capitalize()), cell(_money(paid[name])), cell(percent(found[name][0], 2)), cell(rate)]
        for name, rate in rates.items()
    ]
    drag = sum(found[name][0] or 0.0 for name in rates)
    total = [cell("All"), cell(_money(sum(paid.values()))), cell(percent(drag, 2)), cell("")]
    return {"cost_rows": [*rows, total]}


def _drawdown_table(curve: Curve) -> dict[str, Any]:
    falls = curve.falls[:_DRAWDOWNS]
    longest = min((fall.depth for fall in falls), default=0.0) or 1.0
    return {
        "drawdown_shape": [("Peak", "left"), ("Trough", ""), ("Recovered", ""), ("Sessions", ""), ("Depth", "")],
        "drawdown_rows": [
            [
                cell(_day(fall.peak, "start")),
                cell(_day(fall.trough)),
                cell(_day(fall.end, "not yet")),
                cell(f"{fall.sessions:,}"),
                cell(percent(fall.depth), fall.depth, 80 * fall.depth / longest),
            ]
            for fall in falls
        ],
    }


def _trade_table(result: BacktestResult) -> dict[str, Any]:
    largest = result.trades.sort(pl.col("pnl").abs(), "trade_no", descending=[True, False]).head(_TRADES)
    shape = [("Symbol", "left"), ("Side", "left"), ("Entry", ""), ("Price", ""), ("Exit", ""), ("Price", "")]
    return {
        "trades_note": f"the {largest.height} of {result.trades.height:,} with the largest profit or loss",
        "trade_shape": [*shape, ("Quantity", ""), ("Profit", ""), ("Return", ""), ("Closed by", "left")],
        "trade_rows": [
            [
                cell(row["symbol"]),
                cell(row["side"]),
                cell(_day(row["entry_ts"])),
                cell(_price(row["entry_price"])),
                cell(_day(row["exit_ts"], "open")),
                cell(_price(row["exit_price"])),
                cell(f"{row['qty']:,.4g}" if row["qty"] < 100 else f"{row['qty']:,.0f}"),
                cell(_signed(row["pnl"], 0), row["pnl"]),
                cell(percent(row["pnl_pct"]), row["pnl_pct"]),
                cell(row["reason"]),
            ]
            for row in largest.iter_rows(named=True)
        ],
    }


def _trade_lines(result: BacktestResult) -> list[tuple[str, str]]:
    summary, trades = result.summary, result.trades
    closed = trades.filter(pl.col("exit_ts").is_not_null())
    held = closed.select((pl.col("exit_ts") - pl.col("entry_ts")).dt.total_days().median()).item()
    reasons = closed.group_by("reason").len().sort("len", "reason", descending=[True, False])
    return [
        ("Closed", f"{summary['num_trades']:,}, {trades.height - closed.height:,} still open"),
        ("Winning", percent(summary["win_rate"])),
        ("Average", percent(summary["avg_trade"], 2)),
        ("Profit factor", ratio(summary["profit_factor"])),
        ("Held, median", NONE if held is None else f"{held:,.0f} days"),
        ("Short", f"{closed.filter(pl.col('side') == 'short').height:,}"),
        ("Closed by", ", ".join(f"{reason} {count:,}" for reason, count in reasons.iter_rows()) or NONE),
    ]


def _lineage(result: BacktestResult, context: ReportContext) -> list[tuple[str, str]]:
    summary = result.summary
    lines = [
        ("Run", context.run_id),
        ("Strategy", f"{summary['strategy_id']} {summary['version']}"),
        ("Code version", context.code_version or "unknown"),
        ("Period", f"{summary['from_ts']} to {summary['to_ts']}"),
        ("Fills", _FILLS[result.config.price]),
        ("Engine", result.config.engine),
        ("Initial cash", _money(summary["initial_cash"])),
        ("Costs", f"fee {summary['fee_bps']:g} bps, slippage {summary['slippage_bps']:g} bps"),
        *_mechanics(result),
    ]
    return [*lines, *context.lineage.items()]


def _mechanics(result: BacktestResult) -> list[tuple[str, str]]:
    """The rules of trading that are in use."""
    config = result.config
    rules = (
        ("Leverage", f"up to {_times(config.leverage)}", config.leverage > 1),
        ("Threshold", f"no order for less than {percent(config.threshold)} of equity", config.threshold > 0),
        ("Stop loss", percent(config.stop_loss), config.stop_loss is not None),
        ("Trailing stop", percent(config.trailing_stop), config.trailing_stop is not None),
        ("Shorts", f"in drawdowns over {percent(config.hedge_drawdown)}", config.hedge_drawdown is not None),
    )
    return [(name, text) for name, text, used in rules if used]


def _times(value: float) -> str:
    return f"{value:,.2f}\N{MULTIPLICATION SIGN}"


def _signed(value: float, digits: int) -> str:
    return minus(f"{value:+,.{digits}f}")


def _money(value: float) -> str:
    return minus(f"{round(value) + 0:,.0f}")


def _price(value: float) -> str:
    """Two decimals, or five digits of a price below 10."""
    return f"{value:,.2f}" if value >= 10 else f"{value:.5g}"


def _day(day: date | None, missing: str = NONE) -> str:
    return missing if day is None else day.isoformat()
