"""The report of one backtest: a single HTML file that needs nothing else, neither network nor script."""

import os
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

import polars as pl

from quant_assets.backtest import metrics, pictures
from quant_assets.backtest.engine import BacktestResult
from quant_assets.backtest.report_page import PAGE

FEW_TRADES = 30
"""Below so many closed trades the figures say little; the report warns."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_NONE = "\N{EN DASH}"
_SYMBOLS = 40
_TRADES = 12
_DARK = {
    "ink": "#e6ebf4",
    "muted": "#93a1b8",
    "grid": "#253149",
    "accent": "#6ea8ff",
    "bench": "#8291ab",
    "loss": "#f07878",
}
_FILLS = {"close": "at the close", "next_open": "at the next open", "next_close": "at the next close"}
_METHOD = (
    "A year has 252 sessions and the risk-free rate is zero. Sharpe and Sortino come from returns per session. "
    "Turnover is one-way: half of the traded value over equity, per year. A trade is one sale out of a position (for "
    "a short, one purchase) at the position's average entry price. Prices are adjusted for splits and dividends. Past "
    "results say nothing certain about the future."
)


@dataclass(frozen=True)
class ReportContext:
    """What the report says beside the result itself. All of it is shown as text, escaped."""

    run_id: str
    strategy: Mapping[str, Any]
    """The strategy's file as a plain dict; its `description`, if any, stands under the title."""
    code_version: str = ""
    benchmark: pl.DataFrame | None = None
    """ts, equity (see `engine.buy_and_hold`)."""
    benchmark_name: str = "equal-weight buy and hold of the universe"
    notes: Sequence[str] = ()
    """Further caveats, one sentence each."""
    lineage: Mapping[str, str] = field(default_factory=dict)
    """Further lines of the lineage table, such as model or data partitions."""


def write_report(path: Path, result: BacktestResult, context: ReportContext) -> Path:
    """Write the report to `path` (its folder is made), whole or not at all.

    Returns:
        `path`.
    """
    page = render(result, context)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, part = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(page)
        Path(part).chmod(0o644)
        Path(part).replace(path)
    except BaseException:
        Path(part).unlink(missing_ok=True)
        raise
    return path


def render(result: BacktestResult, context: ReportContext) -> str:
    """The report as HTML. The same result and context give the same text."""
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    summary, equity = result.summary, result.equity
    window = metrics.YEAR if equity.height >= 2 * metrics.YEAR else metrics.YEAR // 2
    sharpe_svg = pictures.rolling_sharpe_svg(equity, window)
    weights_svg, names = pictures.weights_svg(result.weights, equity)
    rest = len(pictures.SERIES) - 1
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True).from_string(
        PAGE
    )
    return page.render(
        title=summary["strategy_id"],
        description=str(context.strategy.get("description") or ""),
        light=Markup(_declarations(pictures.THEME)),
        dark=Markup(_declarations(_DARK)),
        summary=summary,
        sessions=f"{equity.height:,}",
        tiles=_tiles(result, context),
        caveats=[*_caveats(result), *context.notes],
        benchmark=context.benchmark_name if context.benchmark is not None else "",
        equity_svg=Markup(pictures.equity_svg(equity, context.benchmark)),
        drawdown_svg=Markup(pictures.drawdown_svg(equity)),
        sharpe_svg=Markup(sharpe_svg) if sharpe_svg else "",
        window=window,
        months=_MONTHS,
        years=_years(result),
        weights_svg=Markup(weights_svg),
        weight_names=[
            {"text": name, "colour": rest if n == len(names) - 1 and n == rest else n} for n, name in enumerate(names)
        ],
        costs=_costs(result),
        lineage=_lineage(result, context),
        spec=_spec(context.strategy),
        method=_METHOD,
        **_symbol_table(result),
        **_drawdown_table(result),
        **_trade_table(result),
    )


def _declarations(colours: Mapping[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())


def _tiles(result: BacktestResult, context: ReportContext) -> list[dict[str, str]]:
    summary = result.summary
    returns = _returns(context.benchmark, summary["initial_cash"])
    other = {"cagr": "per year", "sharpe": "per year", "sortino": "downside only", "max_dd": "peak to trough"}
    other["vol"] = "per year"
    if returns is not None and context.benchmark is not None:
        held = context.benchmark["equity"].to_numpy()
        growth = metrics.cagr(float(held[-1]) / summary["initial_cash"], len(held))
        other = {
            "cagr": _percent(growth),
            "sharpe": _ratio(metrics.sharpe(returns)),
            "sortino": _ratio(metrics.sortino(returns)),
            "max_dd": _percent(float(metrics.drawdowns(held, summary["initial_cash"]).min())),
            "vol": _percent(metrics.volatility(returns)),
        }
        other = {name: f"buy and hold {value}" for name, value in other.items()}
    still = result.trades.height - summary["num_trades"]
    closed = f"closed; {still} still open" if still else "closed"
    rows = (
        ("CAGR", _percent(summary["cagr"]), other["cagr"]),
        ("Sharpe ratio", _ratio(summary["sharpe"]), other["sharpe"]),
        ("Sortino ratio", _ratio(summary["sortino"]), other["sortino"]),
        ("Maximum drawdown", _percent(summary["max_dd"]), other["max_dd"]),
        ("Volatility", _percent(summary["vol"]), other["vol"]),
        ("Turnover", _times(summary["turnover"]), "one-way, per year"),
        ("Trades", f"{summary['num_trades']:,}", closed),
        ("Final equity", _money(summary["final_equity"]), f"from {_money(summary['initial_cash'])}"),
    )
    return [{"name": name, "value": value, "note": note} for name, value, note in rows]


def _returns(benchmark: pl.DataFrame | None, initial: float) -> Any:
    if benchmark is None:
        return None
    return benchmark.select(pl.col("equity") / pl.col("equity").shift(1, fill_value=initial) - 1)["equity"].to_numpy()


def _caveats(result: BacktestResult) -> list[str]:
    summary = result.summary
    found = []
    if summary["num_trades"] < FEW_TRADES:
        found.append(
            f"Only {summary['num_trades']} closed trades: with fewer than {FEW_TRADES}, chance explains a lot."
        )
    if result.equity.height < metrics.YEAR:
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


def _years(result: BacktestResult) -> list[dict[str, Any]]:
    days, equity = result.equity["ts"].to_list(), result.equity["equity"].to_numpy()
    found = metrics.monthly_returns(days, equity, result.summary["initial_cash"])
    scale = {0: 0.4, 1: 0.1}

    def cell(year: int, month: int) -> dict[str, str] | None:
        value = found.get((year, month))
        if value is None:
            return None
        strength = min(abs(value) / scale[min(month, 1)], 1.0)
        return {
            "text": _signed(value * 100, 1) if value else "0.0",
            "sign": "gain" if value > 0 else "loss" if value < 0 else "",
            "alpha": f"{0.06 + 0.54 * strength:.2f}",
        }

    years = sorted({year for year, _ in found})
    return [{"name": year, "cells": [cell(year, month) for month in (*range(1, 13), 0)]} for year in years]


def _cell(text: str, value: float | None = None, bar: float | None = None) -> dict[str, Any]:
    sign = "" if value is None or value == 0 else "gain" if value > 0 else "loss"
    return {"text": text, "sign": sign, "bar": None if bar is None else f"{bar:.0f}"}


def _symbol_table(result: BacktestResult) -> dict[str, Any]:
    ordered = result.symbols.sort("contribution", "symbol", descending=[True, False])
    shown = ordered
    note = "contributions add up to the total return"
    if ordered.height > _SYMBOLS:
        half = _SYMBOLS // 2
        shown = pl.concat([ordered.head(half), ordered.tail(half)])
        note = f"the best and worst {half} of {ordered.height:,}; all contributions add up to the total return"
    longest = max((abs(value) for value in shown["contribution"]), default=0.0) or 1.0
    rows = [
        [
            _cell(row["symbol"]),
            _cell(_percent(row["contribution"]), row["contribution"], 80 * abs(row["contribution"]) / longest),
            _cell(_ratio(row["sharpe"])),
            _cell(_percent(row["max_dd"])),
            _cell(_percent(row["mean_weight"])),
            _cell(_times(row["turnover"])),
            _cell(f"{row['num_trades']:,}"),
        ]
        for row in shown.iter_rows(named=True)
    ]
    shape = [("Symbol", "left"), ("Contribution", ""), ("Sharpe", ""), ("Max drawdown", ""), ("Mean weight", "")]
    return {
        "symbols_note": note,
        "symbol_shape": [*shape, ("Turnover", ""), ("Trades", "")],
        "symbol_rows": rows,
    }


def _drawdown_table(result: BacktestResult) -> dict[str, Any]:
    days, equity = result.equity["ts"].to_list(), result.equity["equity"].to_numpy()
    falls = metrics.worst_drawdowns(days, equity, result.summary["initial_cash"])
    return {
        "drawdown_shape": [("Depth", "left"), ("Peak", ""), ("Trough", ""), ("Recovered", ""), ("Sessions", "")],
        "drawdown_rows": [
            [
                _cell(_percent(fall.depth), fall.depth),
                _cell(_day(fall.peak, "start")),
                _cell(_day(fall.trough)),
                _cell(_day(fall.end, "not yet")),
                _cell(f"{fall.sessions:,}"),
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
                _cell(row["symbol"]),
                _cell(row["side"]),
                _cell(_day(row["entry_ts"])),
                _cell(f"{row['entry_price']:,.2f}"),
                _cell(_day(row["exit_ts"], "open")),
                _cell(f"{row['exit_price']:,.2f}"),
                _cell(f"{row['qty']:,.4g}" if row["qty"] < 100 else f"{row['qty']:,.0f}"),
                _cell(_signed(row["pnl"], 0), row["pnl"]),
                _cell(_percent(row["pnl_pct"]), row["pnl_pct"]),
                _cell(row["reason"]),
            ]
            for row in largest.iter_rows(named=True)
        ],
    }


def _costs(result: BacktestResult) -> list[tuple[str, str]]:
    summary, trades = result.summary, result.trades
    fees, slippage = float(trades["fees"].sum()), float(trades["slippage_est"].sum())
    years = result.equity.height / metrics.YEAR
    drag = (fees + slippage) / float(result.equity["equity"].mean() or 1.0) / years  # type: ignore[arg-type]
    return [
        ("Winning trades", _percent(summary["win_rate"])),
        ("Average trade", _percent(summary["avg_trade"])),
        ("Profit factor", _ratio(summary["profit_factor"])),
        ("Calmar ratio", _ratio(summary["calmar"])),
        ("Mean exposure", _percent(float(result.equity["gross_exposure"].mean()))),  # type: ignore[arg-type]
        ("Fees paid", f"{_money(fees)} at {summary['fee_bps']:g} bps"),
        ("Lost to slippage", f"{_money(slippage)} at {summary['slippage_bps']:g} bps"),
        ("Cost drag", f"{_percent(drag)} of mean equity per year"),
    ]


def _lineage(result: BacktestResult, context: ReportContext) -> list[tuple[str, str]]:
    summary = result.summary
    lines = [
        ("Run", context.run_id),
        ("Strategy", f"{summary['strategy_id']} {summary['version']}"),
        ("Code version", context.code_version or "unknown"),
        ("Period", f"{summary['from_ts']} to {summary['to_ts']}"),
        ("Fills", _FILLS[result.config.price]),
        ("Initial cash", _money(summary["initial_cash"])),
        ("Costs", f"fee {summary['fee_bps']:g} bps, slippage {summary['slippage_bps']:g} bps"),
    ]
    return [*lines, *context.lineage.items()]


def _spec(strategy: Mapping[str, Any]) -> str:
    import yaml

    return yaml.safe_dump(dict(strategy), sort_keys=False, allow_unicode=True, width=1000).strip()


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")


def _percent(value: float | None) -> str:
    return _NONE if value is None else _minus(f"{value * 100:,.1f}%")


def _ratio(value: float | None) -> str:
    return _NONE if value is None else _minus(f"{value:,.2f}")


def _times(value: float) -> str:
    return f"{value:,.2f}\N{MULTIPLICATION SIGN}"


def _signed(value: float, digits: int) -> str:
    return _minus(f"{value:+,.{digits}f}")


def _money(value: float) -> str:
    return f"{value:,.0f}"


def _day(day: date | None, missing: str = _NONE) -> str:
    return missing if day is None else day.isoformat()
