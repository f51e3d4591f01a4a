"""Figures that pages share."""

from datetime import date, timedelta

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from quant_assets.lab import charts


def _curve(values: list[float | None]) -> pl.DataFrame:
    days = [date(2020, 1, 1) + timedelta(n) for n in range(len(values))]
    return pl.DataFrame({"ts": days, "equity": values}, schema={"ts": pl.Date, "equity": pl.Float64})


def test_a_curve_of_few_points_stays_as_it_is() -> None:
    curve = _curve([1.0, 2.0, 3.0])
    assert charts.thinned(curve, 3).equals(curve)


def test_a_single_crash_survives_thinning() -> None:
    values = [100.0] * 1_000
    values[517] = 1.0
    few = charts.thinned(_curve(list(values)), 20)
    assert few.height <= 23
    assert 1.0 in few["equity"]
    assert few["ts"].is_sorted()


@given(st.lists(st.one_of(st.none(), st.floats(-1e6, 1e6)), min_size=1, max_size=300), st.integers(4, 60))
def test_ends_and_extremes_of_a_curve_survive_thinning(values: list[float | None], points: int) -> None:
    curve = _curve(values)
    few = charts.thinned(curve, points)
    assert few.height <= points + 2 or few.height == curve.height
    assert few.row(0) == curve.row(0)
    assert few.row(-1) == curve.row(-1)
    assert (few["equity"].min(), few["equity"].max()) == (curve["equity"].min(), curve["equity"].max())


def test_a_frame_without_fractions_is_not_thinned() -> None:
    names = pl.DataFrame({"name": ["a"] * 10})
    assert charts.thinned(names, 2).height == 10


def test_equity_stands_above_drawdown_in_one_colour_per_curve() -> None:
    curve = _curve([1.0, 2.0]).with_columns(drawdown=pl.lit(0.0))
    figure = charts.equity_and_drawdown({"one": curve, "other": curve})
    assert [trace.name for trace in figure.data] == ["one", "one", "other", "other"]
    assert len({trace.line.color for trace in figure.data}) == 2
    assert [trace.showlegend for trace in figure.data] == [None, False, None, False]
