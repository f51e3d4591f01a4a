"""The set alpha158: the 158 price and volume factors that Qlib publishes under that name.

Names and formulas are those of `qlib.contrib.data.loader.Alpha158DL` without configuration: nine of the bar's shape,
four prices, and 29 families over five windows. Values differ from pyqlib's in five points (bench/alpha158.py compares
them cell by cell):

- Qlib stores and returns float32; here all is float64.
- Qlib gives values for windows that are not full, or that hold missing numbers or a division by zero; here they are
  null.
- Qlib leaves out RSQR, CORR and CORD where a standard deviation is below 2e-5 in the price's own unit; here where it is
  below 1e-12 of the newest value, so that a coin at 0.00001 counts like a share at 1,000.
- Where the session's volume is zero VMA and VSTD divide by zero: Qlib's 1e-12 in the denominator then gives numbers
  around 1e18, here they are null.
- Qlib's standard deviation keeps the rounding of the rows that left the window. Over a window without any volume WVMA
  is that rounding over 1e-12, up to 1e10; here it is 0.

Bars have no volume-weighted price: VWAP0 has the typical price, (high + low + close) / 3, in its place.
"""

import numpy as np

from quant_assets.features.feature import Feature
from quant_assets.features.panel import Columns, FloatArray

WINDOWS = (5, 10, 20, 30, 60)

_BAR = {
    "KMID": "(close - open) / open",
    "KLEN": "(high - low) / open",
    "KMID2": "(close - open) / (high - low + 1e-12)",
    "KUP": "(high - max(open, close)) / open",
    "KUP2": "(high - max(open, close)) / (high - low + 1e-12)",
    "KLOW": "(min(open, close) - low) / open",
    "KLOW2": "(min(open, close) - low) / (high - low + 1e-12)",
    "KSFT": "(2 close - high - low) / open",
    "KSFT2": "(2 close - high - low) / (high - low + 1e-12)",
    "OPEN0": "open / close",
    "HIGH0": "high / close",
    "LOW0": "low / close",
    "VWAP0": "(high + low + close) / 3 / close: the typical price in place of a volume-weighted one",
}
"""Name -> formula of what one bar gives, in the kernel's order."""

_GAIN, _LOSS = "sum(max(close - previous close, 0))", "sum(max(previous close - close, 0))"
_MORE, _LESS = _GAIN.replace("close", "volume"), _LOSS.replace("close", "volume")
_ROLLING = {
    "ROC": (1, "close[t-{d}] / close[t]"),
    "MA": (0, "mean(close) / close[t]"),
    "STD": (0, "std(close) / close[t], divisor {d} - 1"),
    "BETA": (0, "slope of the least-squares line of close against the session's number, / close[t]"),
    "RSQR": (0, "squared correlation of close with the session's number; null where close stands still"),
    "RESI": (0, "(close[t] - the value at t of the least-squares line of close) / close[t]"),
    "MAX": (0, "max(high) / close[t]"),
    "MIN": (0, "min(low) / close[t]"),
    "QTLU": (0, "0.8 quantile of close, linear between neighbours, / close[t]"),
    "QTLD": (0, "0.2 quantile of close, linear between neighbours, / close[t]"),
    "RANK": (0, "rank of close[t] in close, from 1 for the lowest, mean rank where tied, / {d}"),
    "RSV": (0, "(close[t] - min(low)) / (max(high) - min(low) + 1e-12)"),
    "IMAX": (0, "place of the highest high, from 1 for the oldest session, the oldest where tied, / {d}"),
    "IMIN": (0, "place of the lowest low, from 1 for the oldest session, the oldest where tied, / {d}"),
    "IMXD": (0, "(place of the highest high - place of the lowest low) / {d}"),
    "CORR": (0, "correlation of close with log(volume + 1); null where one stands still"),
    "CORD": (1, "correlation of close / previous close with log(volume / previous volume + 1); null likewise"),
    "CNTP": (1, "share of sessions with close > previous close"),
    "CNTN": (1, "share of sessions with close < previous close"),
    "CNTD": (1, "CNTP - CNTN"),
    "SUMP": (1, f"{_GAIN} / (sum(|close - previous close|) + 1e-12)"),
    "SUMN": (1, f"{_LOSS} / (sum(|close - previous close|) + 1e-12)"),
    "SUMD": (1, "SUMP - SUMN"),
    "VMA": (0, "mean(volume) / (volume[t] + 1e-12); null where volume[t] is zero"),
    "VSTD": (0, "std(volume) / (volume[t] + 1e-12), divisor {d} - 1; null where volume[t] is zero"),
    "WVMA": (1, "std(x) / (mean(x) + 1e-12), x = |close / previous close - 1| volume, divisor of std {d} - 1"),
    "VSUMP": (1, f"{_MORE} / (sum(|volume - previous volume|) + 1e-12)"),
    "VSUMN": (1, f"{_LESS} / (sum(|volume - previous volume|) + 1e-12)"),
    "VSUMD": (1, "VSUMP - VSUMN"),
}
"""Family -> (sessions read before its window of d sessions, formula over them), in the kernel's order."""


def features() -> tuple[Feature, ...]:
    """The 158 features, in the published order."""
    listed = [(name, 0, formula) for name, formula in _BAR.items()]
    listed += [
        (f"{family}{d}", d - 1 + before, f"over {d} sessions: {formula.format(d=d)}")
        for family, (before, formula) in _ROLLING.items()
        for d in WINDOWS
    ]
    return tuple(Feature(name, lookback, factors, row, text) for row, (name, lookback, text) in enumerate(listed))


def factors(bars: Columns) -> FloatArray:
    """All factors: one row per factor, in the order of `features`, one column per bar."""
    from quant_assets.features.alpha158_kernel import fill

    rows, deepest = len(bars.close), WINDOWS[-1]
    padded = np.full((5, deepest + rows), np.nan)
    padded[:, deepest:] = bars.open, bars.high, bars.low, bars.close, bars.volume
    close, volume = padded[3:]
    change, volume_change = np.diff(close, prepend=np.nan), np.diff(volume, prepend=np.nan)
    ratio, volume_ratio = close / _previous(close), volume / _previous(volume)
    derived = np.stack(
        [
            np.log(volume + 1),
            ratio,
            np.log(volume_ratio + 1),
            change,
            np.sign(change),
            volume_change,
            np.abs(ratio - 1) * volume,
        ]
    )
    out = np.empty((len(_BAR) + len(_ROLLING) * len(WINDOWS), rows))
    rolling = out[len(_BAR) :].reshape(len(_ROLLING), len(WINDOWS), rows)
    fill(np.array(WINDOWS), padded, derived, out[: len(_BAR)], rolling)
    return out


def _previous(values: FloatArray) -> FloatArray:
    return np.concatenate([[np.nan], values[:-1]])
