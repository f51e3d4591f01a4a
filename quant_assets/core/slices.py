"""A slice: the rectangle of partitions that one run computes in one vectorised pass."""

from dataclasses import dataclass
from datetime import date


@dataclass(frozen=True, slots=True)
class Slice:
    """First and last session (both inclusive) and the other dimension's keys.

    `keys` are symbols in the market stage and strategy ids in the decision stage.

    Raises:
        ValueError: dates reversed, or no key.
    """

    first: date
    last: date
    keys: tuple[str, ...]

    def __post_init__(self) -> None:
        if self.first > self.last:
            raise ValueError(f"slice runs backwards: {self.first} is after {self.last}; swap the dates")
        if not self.keys:
            raise ValueError("slice has no symbol or strategy; name at least one")

    def __str__(self) -> str:
        days = f"{self.first}" if self.first == self.last else f"{self.first}..{self.last}"
        return f"{days} x {', '.join(self.keys) if len(self.keys) <= 8 else f'{len(self.keys)} keys'}"
