"""Every error a user can meet.

QuantError                      one clear line: the value, the limit, the remedy
├── ConfigError                 settings, command line, run config
│   └── StrategyError           a strategy or universe file: names file, line and field
├── DataError                   input that breaks a contract
│   ├── QualityError            too many bad rows in one symbol's slice
│   └── ProviderError           a data provider's answer
│       ├── TransientProviderError   a retry can mend it (429, 5xx, timeout, truncated body, rate limit)
│       └── PermanentProviderError   a retry cannot (unknown symbol, bad key, premium endpoint)
├── WarehouseError              the tables at rest
│   └── WarehouseLockedError    somebody else held the file for as long as we were willing to wait
├── ModelError                  a model that is missing, tampered with or cannot be trained
├── TradingError                the trading system: a limit that makes no sense together, an order that cannot be
│   └── JournalError            a journal that is damaged, or was written by other code or from other data
└── LabError                    the lab's sources: nothing published yet, Dagster's server does not answer or refuses
"""

from typing import ClassVar


class QuantError(Exception):
    """Base of all errors meant for the user. `transient` says whether a retry can mend it."""

    transient: ClassVar[bool] = False


class ConfigError(QuantError):
    """A setting, an argument or run config that cannot be used."""


class StrategyError(ConfigError):
    """A strategy or universe file that cannot be used; the message names file, line and field."""


class DataError(QuantError):
    """Input data that breaks its contract."""


class QualityError(DataError):
    """More bad rows in one symbol's slice than the gate allows; none of the slice is stored."""


class ProviderError(DataError):
    """An answer of a data provider that is not data. Always names provider, symbol and cause."""


class TransientProviderError(ProviderError):
    """A failure that a retry can mend."""

    transient = True


class PermanentProviderError(ProviderError):
    """A failure that no retry mends; the message names the remedy."""


class WarehouseError(QuantError):
    """The warehouse cannot be read or written."""


class WarehouseLockedError(WarehouseError):
    """Another process held the warehouse for as long as we were willing to wait, so that no further retry is made."""


class ModelError(QuantError):
    """A model file that is missing or changed, or a training that cannot be done."""


class TradingError(QuantError):
    """The trading system was asked for what contradicts itself, such as a fill of an order that has ended."""


class JournalError(TradingError):
    """A journal that is damaged before its end, or that does not fit what is replayed against it."""


class LabError(QuantError):
    """What a page of the lab needs is not there: nothing published, no Dagster server, a refusal of its."""
