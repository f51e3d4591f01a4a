"""The rules one bar at a time, for engines that see one bar at a time: the exposures of `Rule.exposures`, bit for bit.

Imports Numba; whoever must load fast imports it inside a function.
"""

from collections.abc import Callable
from functools import partial
from math import nan
from typing import Any

import numpy as np

from quant_assets.core.matrices import Matrices
from quant_assets.signals import rules_kernel as kernel
from quant_assets.signals.rules import BbRsiInputs, BreakoutInputs, DonchianInputs, EmaCrossInputs, TsmomInputs

_STEP = "float64(float64[:, ::1], int64, float64, float64, float64, float64)"


class Stepper:
    """A rule on the bars of some symbols, as they come.

    What it remembers of a symbol is as large as the rule's windows, however many bars it saw; a bar costs one compiled
    call, whose work grows with the windows alone.

    Args:
        inputs: of the rule.
        year: sessions in a year; annualises volatility.
        symbols: how many.
    """

    update: Callable[[int, float, float, float, float], float]
    """(column, high, low, close, volume) of a symbol's next bar -> its exposure after that bar, NaN while undefined.

    A bar without a close (NaN) is none, and changes nothing.
    """

    def __init__(self, inputs: Any, year: int, symbols: int) -> None:
        kind, own, rings = _layout(inputs, year)
        row = [kind, 0.0, nan, 0.0, *own]
        for size in rings:
            row += [size, -1.0, *[nan] * (2 * size)]
        self._state = np.tile(np.array(row, np.float64), (symbols, 1))
        # compiled now, not while a bar waits, and called without the dispatcher, which would cost as much again
        self.update = partial(kernel.step.compile(_STEP), self._state)

    def warm_up(self, panel: Matrices) -> None:
        """Take in all bars of a panel, whose columns are the symbols, in order."""
        kernel.steps(self._state, panel.high, panel.low, panel.close, panel.volume)


def _layout(inputs: Any, year: int) -> tuple[int, tuple[float, ...], tuple[int, ...]]:
    """The kernel's kind, its own cells as they begin, and the sizes of its rings, in the order the kernel has them."""
    match inputs:
        case TsmomInputs():
            volume = inputs.weighting == "volume"
            rings = (inputs.vol_window, *[inputs.lookback] * (2 if volume else 1))
            return kernel.TSMOM, (inputs.vol_target / year**0.5, inputs.leverage_cap, volume), rings
        case BreakoutInputs():
            return kernel.BREAKOUT, (inputs.width,), (inputs.window, inputs.atr_window)
        case DonchianInputs():
            return kernel.DONCHIAN, (inputs.exit,), (inputs.entry, inputs.entry)
        case BbRsiInputs():
            limits = (inputs.oversold, inputs.overbought)
            return kernel.BB_RSI, (inputs.width, inputs.rsi_window, *limits, 0.0, 0.0), (inputs.window,)
        case EmaCrossInputs():
            return kernel.EMA_CROSS, (inputs.fast, inputs.slow, nan, nan), ()
    raise TypeError(f"{type(inputs).__name__} has no incremental form; add its layout here and its step to the kernel")
