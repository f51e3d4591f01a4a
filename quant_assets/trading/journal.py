"""The record of what happened: an append-only file of events that survives the death of its writer.

The file begins with a line that names the format, then come blocks. A block is the length of its content, the content's
checksum and a checksum of these two (CRC-32, each continued from the block before, so that none can be missing or
stand elsewhere), then the content: a MessagePack map for the first block, the header, and an array of events for the
others. A block is written at every `Journal.commit` and after every `BLOCK` events in between: where one ends depends
on the events and commits alone, so that a run that was killed and resumed leaves the same bytes as one that was not.

A block that ends before its length says, or the last one where its checksum is wrong, is torn: its write was under way
when the writer died, so nothing in it had been committed. `read` leaves it out, `Journal.resume` cuts it off. Anything
wrong before that is damage, and refused.
"""

import fcntl
import hashlib
import logging
import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from itertools import islice
from operator import attrgetter
from pathlib import Path
from struct import Struct
from types import TracebackType
from typing import Final, NamedTuple, Self
from zlib import crc32

import msgspec
import polars as pl
from polars import selectors as cs

from quant_assets.contracts import trading_events
from quant_assets.core.errors import JournalError, TradingError
from quant_assets.trading.account import Account
from quant_assets.trading.events import (
    KINDS,
    LEVELS,
    SCHEMA_VERSION,
    AccountSnapshot,
    AnyEvent,
    Bar,
    CashMovement,
    Degradation,
    Event,
    ExecutionReport,
    Fill,
    HandlerFailed,
    Heartbeat,
    Moment,
    Opening,
    OperatingChange,
    OrderRequest,
    OrderState,
    RiskDenial,
    SafetyChange,
    Target,
    decode,
    encode,
)
from quant_assets.trading.market import Market
from quant_assets.trading.orders import TERMINAL, Order, State

Header = Mapping[str, str | int | float]

JOURNALED: Final = tuple(kind for kind in KINDS if kind not in (Opening, Bar, Moment, Heartbeat, AccountSnapshot))
"""What is recorded: all that the system decided and did. What it was fed is at rest elsewhere; the rest follows."""

BLOCK: Final = 1024
"""Events, about 64 KB: so many at most wait in memory for the next commit."""

MAGIC: Final = b"quant journal 1\n"
_HEAD = Struct("<III")

_COLUMNS: Final = {
    name: pl.Int64() if name in ("ts", "side") else type
    for name, type in trading_events.TABLE.empty().drop("strategy_id").schema.items()
}
"""Of `frame`, as events have them."""
_SOURCES: Final[dict[type[Event], dict[str, str]]] = {
    Target: {"state": "unit"},
    OrderRequest: {"state": "kind"},
    ExecutionReport: {"state": "status"},
    OrderState: {"quantity": "filled"},
    Fill: {"value": "fees"},
    CashMovement: {"value": "amount"},
    RiskDenial: {"state": "rule"},
    SafetyChange: {"state": "after"},
    OperatingChange: {"state": "after"},
    Degradation: {"state": "after", "value": "load"},
    HandlerFailed: {"state": "component", "reason": "error"},
}
"""Where the fields of a kind of event have other names than their columns."""

_log = logging.getLogger(__name__)
_events = msgspec.msgpack.Decoder(list[AnyEvent]).decode
_raw = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


class _Block(NamedTuple):
    content: bytes
    end: int
    """Where it ends in the file."""
    checksum: int
    """That the next one's continues."""


class Journal:
    """A journal that is being written, by this process alone. `create` or `resume` one.

    As a context manager it is closed at the end; left by an error it drops what is not committed, as death would.

    Attributes:
        replaying: there are recorded events that have not been met again.
        cut: bytes of a torn end that `resume` cut off.
    """

    def __init__(self, path: Path, flags: int, durable: bool) -> None:
        """For `create` and `resume`."""
        self.path = path
        self.replaying = False
        self.cut = 0
        self._durable = durable
        self._pending: list[Event] = []
        self._recorded: Iterator[bytes] = iter(())
        self._expected = b""
        self._refused: JournalError | None = None
        self._records = hashlib.sha256()
        self._end = self._checksum = 0
        try:
            self._file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o644)
        except FileExistsError:
            raise JournalError(f"{path} exists: resume it, or write under another name") from None
        except FileNotFoundError:
            raise JournalError(f"{path} does not exist: create it") from None
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._release()
            raise JournalError(f"{path} is being written by another process: wait for its end, or stop it") from None

    @classmethod
    def create(cls, path: Path, header: Header, *, durable: bool = True) -> Self:
        """A new file.

        Args:
            path: its name; folders are made.
            header: what the events follow from: strategy, hashes of code, configuration and data, commit interval.
            durable: what is committed survives the death of the machine too, not only of the process.

        Raises:
            JournalError: the file exists.
        """
        path.parent.mkdir(parents=True, exist_ok=True)
        journal = cls(path, os.O_CREAT | os.O_EXCL, durable)
        journal._begin(_complete(header))
        return journal

    @classmethod
    def resume(cls, path: Path, header: Header, *, durable: bool = True) -> Self:
        """Go on with a file: cut a torn end, then meet what is recorded event by event, then write on.

        Raises:
            JournalError: there is no such file, another process writes it, it is damaged, or its header is another.
        """
        journal = cls(path, 0, durable)
        try:
            journal._take_up(_complete(header))
        except BaseException:
            journal._release()
            raise
        return journal

    @classmethod
    def opened(cls, path: Path, header: Header, *, durable: bool = True) -> Self:
        """`resume` where there is such a file, else `create`; raises as these do."""
        return (cls.resume if path.exists() else cls.create)(path, header, durable=durable)

    def append(self, event: Event) -> None:
        """Record an event; where `replaying`, see that it is the recorded one.

        Raises:
            JournalError: it, or one before it, is not; or it could not be written.
        """
        if self.replaying:
            self._meet(event)
            return
        pending = self._pending
        pending.append(event)
        if len(pending) == BLOCK:
            self._write()

    def commit(self) -> None:
        """Make sure of all events so far: from here on they survive.

        Raises:
            JournalError: they could not be written; they are kept, and the file is as it was.
        """
        if self._pending:
            self._write()
        if self._durable and not self.replaying:
            os.fsync(self._file)

    def digest(self) -> str:
        """SHA-256 (hex) of the events in the file: those of `resume` and those written since, wherever blocks end."""
        return self._records.hexdigest()

    def close(self) -> None:
        """Commit and let go of the file. The second time does nothing.

        Raises:
            JournalError: the run ended before it met all recorded events.
        """
        if self._file < 0:
            return
        try:
            if self.replaying:
                raise JournalError(
                    f"{self.path}: the run ended before {decode(self._expected)}, which is recorded: "
                    "replay it over the same data, or write a new journal"
                )
            self.commit()
        finally:
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self._release()

    def _begin(self, header: dict[str, str | int | float]) -> None:
        self._put(*_beginning(header))
        if self._durable:
            os.fsync(self._file)
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)

    def _take_up(self, header: dict[str, str | int | float]) -> None:
        size = os.fstat(self._file).st_size
        beginning, _ = _beginning(header)
        if size < len(beginning) and self.path.read_bytes() == beginning[:size]:
            self._cut(size)
            self._begin(header)
            return
        found = _header(self.path)
        if found != header:
            raise JournalError(
                f"{self.path} was written with {_differences(found, header)}: "
                "replay it with what it was written with, or write a new journal"
            )
        for number, block in enumerate(_blocks(self.path)):
            self._end, self._checksum = block.end, block.checksum
            if number:
                self._records.update(_records(block.content))
        self._cut(size - self._end)
        self._recorded = (bytes(record) for content in _contents(self.path) for record in _raw(content))
        self._advance()

    def _cut(self, torn: int) -> None:
        if torn:
            self.cut = torn
            os.ftruncate(self._file, self._end)

    def _advance(self) -> None:
        self._expected = next(self._recorded, b"")
        self.replaying = bool(self._expected)

    def _meet(self, event: Event) -> None:
        if self._refused is None and encode(event) != self._expected:
            recorded = decode(self._expected)
            self._refused = JournalError(
                f"{self.path}: at seq {recorded.seq} the journal has {recorded}, the replay {event}: "
                "code or data have changed; write a new journal"
            )
        if self._refused is not None:
            raise self._refused
        self._advance()

    def _write(self) -> None:
        content = encode(self._pending)
        records = self._records.copy()
        records.update(_records(content))
        self._put(*_block(content, self._checksum))
        self._records, self._pending = records, []

    def _put(self, data: bytes, checksum: int) -> None:
        """Append all of it, or nothing."""
        end, rest = self._end + len(data), memoryview(data)
        try:
            while rest:
                rest = rest[os.write(self._file, rest) :]
        except BaseException as error:
            os.ftruncate(self._file, self._end)
            if isinstance(error, OSError):
                raise JournalError(f"{self.path}: {len(data)} bytes could not be written: {error}") from error
            raise
        self._end, self._checksum = end, checksum

    def _release(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def read(path: Path) -> tuple[dict[str, str | int | float], Iterator[Event]]:
    """The header and the events of a journal, which may be being written; a torn end is left out, and logged.

    Raises:
        JournalError: no journal, or one of another version; while the events are read: damage, with its offset.
    """
    header = _header(path)
    if header["schema_version"] != SCHEMA_VERSION:
        raise JournalError(
            f"{path} has events of schema version {header['schema_version']}, not {SCHEMA_VERSION}: "
            "read it with the code that wrote it"
        )
    return header, (event for content in _contents(path) for event in _events(content))


class Rebuilt(NamedTuple):
    """What an account and its orders are after some events."""

    cash: float
    positions: dict[str, float]
    """Symbol -> signed shares; only what is held."""
    open_orders: dict[str, float]
    """client_order_id -> shares not filled yet, of orders that were placed and have not ended."""


def rebuild(events: Iterable[Event], initial_cash: float) -> Rebuilt:
    """Cash, positions and open orders from orders, fills and cash movements alone: what `Account` and `OrderManager`
    have at the same event, to the last bit, for it is their arithmetic."""
    orders: dict[str, Order] = {}
    money: list[Event] = []
    for event in events:
        if isinstance(event, OrderRequest):
            orders.setdefault(event.client_order_id, Order(event))
        elif isinstance(event, OrderState):
            order = orders[event.client_order_id]
            order.state, order.filled = State(event.state), event.filled
            if order.state in TERMINAL:
                del orders[event.client_order_id]
        elif isinstance(event, Fill | CashMovement):
            money.append(event)
            if isinstance(event, Fill) and event.client_order_id in orders:
                with suppress(TradingError):  # refused by the order's keeper too
                    orders[event.client_order_id].fill(event)
    market = Market(tuple({event.symbol: None for event in money if isinstance(event, Fill)}))
    account = Account(market, initial_cash)
    handlers = account.handlers()
    for event in money:
        handlers[type(event)](event)
    return Rebuilt(
        account.cash,
        {market.symbols[column]: account.shares[column] for column in account.held},
        {key: order.remaining for key, order in orders.items() if order.state not in (State.INITIALIZED, *TERMINAL)},
    )


def frame(events: Iterable[Event], strategy_id: str) -> pl.DataFrame:
    """Rows of `trading_events`, by seq. Empty strings, and numbers that are none, are null."""
    kinds: dict[type[Event], list[Event]] = {}
    for event in events:
        kinds.setdefault(type(event), []).append(event)
    parts = [pl.DataFrame(schema=_COLUMNS)]
    for kind, found in kinds.items():
        sources = {field: field for field in kind.__struct_fields__ if field in _COLUMNS} | _SOURCES.get(kind, {})
        columns = {column: list(map(attrgetter(source), found)) for column, source in sources.items()}
        part = pl.DataFrame(columns, schema={column: _COLUMNS[column] for column in columns})
        parts.append(part.with_columns(kind=pl.lit(KINDS[kind]), level=pl.lit(LEVELS[kind].value, pl.Int32)))
    number, text, side = cs.float(), cs.string(), pl.col("side")
    return (
        pl.concat(parts, how="diagonal")
        .sort("seq")
        .with_columns(
            pl.when(number.is_finite()).then(number),
            pl.when(text != "").then(text),
            pl.from_epoch("ts", "ns").cast(pl.Datetime("us")),
            pl.when(side > 0).then(pl.lit("buy")).when(side < 0).then(pl.lit("sell")).alias("side"),
            strategy_id=pl.lit(strategy_id),
        )
        .select(trading_events.TABLE.empty().columns)
    )


def _complete(header: Header) -> dict[str, str | int | float]:
    return {"schema_version": SCHEMA_VERSION, **header}


def _differences(found: Header, wanted: Header) -> str:
    keys = [key for key in {**found, **wanted} if found.get(key) != wanted.get(key)]
    return ", ".join(f"{key} {found.get(key)!r}, not {wanted.get(key)!r}" for key in keys)


def _beginning(header: Header) -> tuple[bytes, int]:
    """A file without events, and the checksum that its first block continues."""
    block, checksum = _block(encode(header), crc32(MAGIC))
    return MAGIC + block, checksum


def _block(content: bytes, before: int) -> tuple[bytes, int]:
    """A block as it is written, and its checksum; `before` is that of the block before."""
    checksum = crc32(content, before)
    return _HEAD.pack(len(content), checksum, _seal(len(content), checksum, before)) + content, checksum


def _seal(length: int, checksum: int, before: int) -> int:
    return crc32(length.to_bytes(4, "little") + checksum.to_bytes(4, "little"), before)


def _blocks(path: Path) -> Iterator[_Block]:
    """All whole blocks, the header first. A torn end ends them, and is logged."""
    with path.open("rb") as file:
        magic = file.read(len(MAGIC))
        if magic != MAGIC:
            raise JournalError(f"{path} begins with {magic!r}, not {MAGIC!r}: no journal of this version")
        end, before = len(MAGIC), crc32(magic)
        while head := file.read(_HEAD.size):
            content, sound, torn = b"", False, len(head) < _HEAD.size
            if not torn:
                length, checksum, seal = _HEAD.unpack(head)
                if seal == _seal(length, checksum, before):
                    content = file.read(length)
                    sound = crc32(content, before) == checksum
                    torn = len(content) < length or not (sound or file.read(1))
                else:
                    content = file.read()
                    torn = not any(head + content)  # space that the file was given and nothing was written to
            if torn:
                _log.warning("%s: left out %d bytes of a torn end", path, len(head) + len(content))
                return
            if not sound:
                raise JournalError(f"{path} is damaged at byte {end}: restore a copy, or write it anew by a replay")
            before = checksum
            end += len(head) + length
            yield _Block(content, end, checksum)


def _header(path: Path) -> dict[str, str | int | float]:
    first = next(_blocks(path), None)
    if first is None:
        raise JournalError(f"{path} ends within its header, nothing is recorded: delete it")
    header: dict[str, str | int | float] = msgspec.msgpack.decode(first.content)
    return header


def _contents(path: Path) -> Iterator[bytes]:
    """Those of the blocks of events."""
    return (block.content for block in islice(_blocks(path), 1, None))


def _records(content: bytes) -> memoryview:
    """The events of a block, without the head of the array: that of 16 events and more takes three bytes, not one."""
    return memoryview(content)[3 if content[0] == 0xDC else 1 :]
