"""The rule kinds: trading rules that give an *exposure* per symbol and session, from the symbol's own bars alone.

An exposure is the signed share of the symbol's allocation that the rule wants to hold after the session's close: 1 all
of it, 0 none, -0.5 half of it short. It is NaN while undefined: no bar on that session, or too short a history.

The value at t reads bars up to t and no further. A symbol's own sessions are consecutive: one without a bar is skipped
over, it is neither a zero return nor a break.

Every kind has two forms with the same values to the bit: `Rule.exposures` of all bars at once and `Rule.stepper`, which
gets them one by one. To add a kind, write its inputs, its function, its step (`rules_kernel`, `incremental`) and a line
of `RULES`.

Sources:
    Moskowitz, Ooi, Pedersen, "Time series momentum", Journal of Financial Economics 104 (2012): `tsmom`.
    Keltner, "How to Make Money in Commodities" (1960); Wilder, "New Concepts in Technical Trading Systems" (1978), for
        the true range: `breakout`.
    Faith, "The Original Turtle Trading Rules" (2003), after Donchian's four-week rule: `donchian`.
    Bollinger, "Bollinger on Bollinger Bands" (2001); Wilder (1978) for the relative strength index: `bb_rsi`.
    Appel, "The Moving Average Convergence-Divergence Trading Method" (1979), for the difference of two exponential
        means; Brock, Lakonishok, LeBaron, "Simple technical trading rules and the stochastic properties of stock
        returns", Journal of Finance 47 (1992), for holding its side: `ema_cross`.
"""

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, Literal, Self, TypeVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from quant_assets.core.matrices import Floats, Matrices

if TYPE_CHECKING:
    from quant_assets.signals.incremental import Stepper
    from quant_assets.signals.indicators import Indicators

Memo = dict[Hashable, Any]
_LONGEST = 2520
"""Sessions of the longest window: ten years of an exchange."""


class _Inputs(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class TsmomInputs(_Inputs):
    """Parameters of `tsmom`."""

    lookback: int = Field(default=60, ge=1, le=_LONGEST, description="sessions whose momentum gives the direction")
    weighting: Literal["plain", "volume"] = Field(
        default="plain", description="plain: return over the lookback; volume: its one-session returns, volume-weighted"
    )
    vol_window: int = Field(default=20, ge=2, le=_LONGEST, description="one-session returns the volatility is made of")
    vol_target: float = Field(default=0.2, gt=0, le=10, description="annualised volatility that the exposure aims at")
    leverage_cap: float = Field(default=2.0, gt=0, le=10, description="largest absolute exposure")


class BreakoutInputs(_Inputs):
    """Parameters of `breakout`."""

    window: int = Field(default=20, ge=1, le=_LONGEST, description="sessions whose mean close is the centre")
    atr_window: int = Field(default=20, ge=1, le=_LONGEST, description="sessions of the average true range")
    width: float = Field(default=2.0, gt=0, le=20, description="average true ranges from the centre to either side")


class DonchianInputs(_Inputs):
    """Parameters of `donchian`."""

    entry: int = Field(
        default=20, ge=1, le=_LONGEST, description="sessions of the channel whose break opens a position"
    )
    exit: int = Field(default=10, ge=1, le=_LONGEST, description="sessions of the channel whose break closes it")

    @model_validator(mode="after")
    def _exit_within_entry(self) -> Self:
        if self.exit > self.entry:
            raise ValueError(f"exit {self.exit} is longer than entry {self.entry}; shorten exit or lengthen entry")
        return self


class BbRsiInputs(_Inputs):
    """Parameters of `bb_rsi`."""

    window: int = Field(default=20, ge=2, le=_LONGEST, description="sessions of the Bollinger band, t included")
    width: float = Field(default=2.0, gt=0, le=20, description="standard deviations from the middle to either side")
    rsi_window: int = Field(default=14, ge=1, le=_LONGEST, description="period of Wilder's smoothing")
    oversold: float = Field(default=30.0, gt=0, lt=100, description="long only below this relative strength index")
    overbought: float = Field(default=70.0, gt=0, lt=100, description="short only above this relative strength index")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.oversold >= self.overbought:
            raise ValueError(f"oversold {self.oversold:g} is not below overbought {self.overbought:g}; move them apart")
        return self


class EmaCrossInputs(_Inputs):
    """Parameters of `ema_cross`."""

    fast: int = Field(default=12, ge=1, le=_LONGEST, description="sessions n of the fast mean")
    slow: int = Field(default=26, ge=2, le=_LONGEST, description="sessions n of the slow mean")

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.fast >= self.slow:
            raise ValueError(f"fast {self.fast} is not below slow {self.slow}; shorten fast or lengthen slow")
        return self


InputsT = TypeVar("InputsT", bound=_Inputs)


def tsmom(indicators: "Indicators", inputs: TsmomInputs, year: int) -> Floats:
    """sign(momentum[t]) x min(vol_target / (volatility[t] x sqrt(year)), leverage_cap)

    Momentum over `lookback` sessions, plain or volume-weighted; volatility of the last `vol_window` one-session
    returns. Without any volatility the exposure is the capped one: vol_target / 0 is above every cap. A momentum of
    zero gives 0.

    A close that rose, a volatility of 1 % a session, 252 sessions: 0.2 / (0.01 x 15.87) = 1.26.
    """
    from quant_assets.signals.rules_kernel import scaled_sign

    return scaled_sign(
        indicators.momentum(inputs.weighting, inputs.lookback),
        indicators.volatility(inputs.vol_window),
        inputs.vol_target / year**0.5,
        inputs.leverage_cap,
    )


def breakout(indicators: "Indicators", inputs: BreakoutInputs, year: int) -> Floats:
    """1 from close[t] > centre + width x atr, -1 from close[t] < centre - width x atr, 0 once close crosses the centre

    Keltner's channel around the mean of the `window` closes before t, its width in average true ranges of the
    `atr_window` sessions before t; simple means, as in Keltner's own channel, so that it forgets what left its window.
    A long position ends with close[t] < centre, a short one with close[t] > centre.
    """
    from quant_assets.signals.rules_kernel import channel_positions

    centre = indicators.centre(inputs.window)
    spread = inputs.width * indicators.atr(inputs.atr_window)
    return channel_positions(indicators.panel.close, centre - spread, centre + spread, centre, centre)


def donchian(indicators: "Indicators", inputs: DonchianInputs, year: int) -> Floats:
    """1 from close[t] above the highest high of the `entry` sessions before t, -1 from below their lowest low

    A long position ends with a close below the lowest low of the `exit` sessions before t, a short one with a close
    above their highest high: the turtles' channels, decided on closes, without their sizing and pyramids.
    """
    from quant_assets.signals.rules_kernel import channel_positions

    return channel_positions(
        indicators.panel.close, *indicators.channel(inputs.entry), *indicators.channel(inputs.exit)
    )


def bb_rsi(indicators: "Indicators", inputs: BbRsiInputs, year: int) -> Floats:
    """1 from close[t] < middle - width x std and rsi[t] < oversold, -1 from the mirror image, 0 back at the middle

    Bollinger's band: mean and population standard deviation of the `window` closes that end at t. Short from
    close[t] > middle + width x std with rsi[t] > overbought. A long position ends with close[t] >= middle, a short one
    with close[t] <= middle.
    """
    from quant_assets.signals.rules_kernel import band_positions

    return band_positions(
        indicators.panel.close,
        *indicators.band(inputs.window),
        indicators.rsi(inputs.rsi_window),
        inputs.width,
        inputs.oversold,
        inputs.overbought,
    )


def ema_cross(indicators: "Indicators", inputs: EmaCrossInputs, year: int) -> Floats:
    """sign(fast mean[t] - slow mean[t])

    Exponential means of the closes, mean[t] = mean[t-1] + 2 / (n + 1) x (close[t] - mean[t-1]), which begin at the
    symbol's first close; fast with n = `fast`, slow with n = `slow`. Defined from the `slow`-th bar on; equal means
    give 0.
    """
    return np.sign(indicators.exponential(inputs.fast) - indicators.exponential(inputs.slow))


@dataclass(frozen=True)
class Rule(Generic[InputsT]):
    """A registered kind.

    `windowed` says that a value reads the `warm_up` sessions before t and nothing older; the other kinds hold a
    position until it is closed, or a mean that never quite forgets, so that theirs depends on the path from the
    symbol's first bar.
    """

    kind: str
    inputs: type[InputsT]
    function: "Callable[[Indicators, InputsT, int], Floats]"
    _warm_up: Callable[[InputsT], int]
    windowed: bool = False

    @property
    def formula(self) -> str:
        """The function's docstring."""
        return self.function.__doc__ or ""

    def exposures(self, panel: Matrices, inputs: InputsT, year: int, memo: Memo | None = None) -> Floats:
        """Exposure of each session and symbol of the panel, (sessions, symbols); NaN where undefined.

        Args:
            year: sessions in a year; annualises volatility.
            memo: intermediates of this panel, read and extended: a dict of the caller's, passed to many calls, makes
                each parameter value cost once (its keys: `Indicators`).
        """
        from quant_assets.signals.indicators import Indicators

        return self.function(Indicators(panel, {} if memo is None else memo), inputs, year)

    def stepper(self, inputs: InputsT, year: int, symbols: int) -> "Stepper":
        """The rule's incremental form, for so many symbols without a bar yet; `year` as for `exposures`."""
        from quant_assets.signals.incremental import Stepper

        return Stepper(inputs, year, symbols)

    def warm_up(self, inputs: InputsT) -> int:
        """The symbol's own sessions before its first defined value."""
        return self._warm_up(inputs)

    def lookback(self, inputs: InputsT) -> int | None:
        """The symbol's own sessions before t that the value at t reads; None: all of them."""
        return self.warm_up(inputs) if self.windowed else None

    def unfit(self, panel: Matrices, inputs: InputsT) -> dict[str, str]:
        """Symbols without a single defined exposure in the panel, each with the reason."""
        defined = ~np.isnan(self.exposures(panel, inputs, 1))
        sessions = np.count_nonzero(~np.isnan(panel.close), axis=0)
        needed = self.warm_up(inputs) + 1
        return {
            panel.symbols[column]: f"{sessions[column]} sessions with a bar, {self.kind} needs {needed}"
            if sessions[column] < needed
            else "no volume traded over the lookback of any session"
            for column in np.flatnonzero(~defined.any(axis=0))
        }


RULES: Mapping[str, Rule[Any]] = {
    rule.kind: rule
    for rule in (
        Rule("tsmom", TsmomInputs, tsmom, lambda inputs: max(inputs.lookback, inputs.vol_window), windowed=True),
        Rule("breakout", BreakoutInputs, breakout, lambda inputs: max(inputs.window, inputs.atr_window + 1)),
        Rule("donchian", DonchianInputs, donchian, lambda inputs: inputs.entry),
        Rule("bb_rsi", BbRsiInputs, bb_rsi, lambda inputs: max(inputs.window - 1, inputs.rsi_window)),
        Rule("ema_cross", EmaCrossInputs, ema_cross, lambda inputs: inputs.slow - 1),
    )
}
