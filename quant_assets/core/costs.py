"""Trading costs, in basis points (1 bp = 0.0001 of traded value)."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Costs:
    """`fee_bps` is paid on traded value; `slippage_bps` moves the fill price against the trader.

    `funding_bps_per_day` is what a long position pays, and a short one receives, on its value for every calendar day
    held, as perpetual futures do; negative where shorts pay.

    Raises:
        ValueError: a fee or slippage that is negative, not finite, or 10,000 bp (100 %) and more; funding that is not
            finite, or as large in either direction.
    """

    fee_bps: float = 2.0
    slippage_bps: float = 10.0
    funding_bps_per_day: float = 0.0

    def __post_init__(self) -> None:
        for name in ("fee_bps", "slippage_bps"):
            value = getattr(self, name)
            if not 0 <= value < 10_000:
                raise ValueError(f"{name} is {value}; it must lie in [0, 10000) basis points")
        if not -10_000 < self.funding_bps_per_day < 10_000:
            raise ValueError(
                f"funding_bps_per_day is {self.funding_bps_per_day}; it must lie in (-10000, 10000) basis points"
            )

    @property
    def fee(self) -> float:
        """Fee as a fraction of traded value."""
        return self.fee_bps / 1e4

    @property
    def slippage(self) -> float:
        """Slippage as a fraction of price."""
        return self.slippage_bps / 1e4

    @property
    def funding_per_day(self) -> float:
        """Funding as a fraction of a position's value."""
        return self.funding_bps_per_day / 1e4
