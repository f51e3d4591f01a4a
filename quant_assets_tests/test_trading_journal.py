"""The journal: what is recorded survives, damage is noticed, and a replay must be what was recorded."""

import contextlib
import math
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from quant_assets.contracts import TABLES, trading_events
from quant_assets.contracts.gate import gate
from quant_assets.core.errors import JournalError
from quant_assets.trading import journal as module
from quant_assets.trading.account import Account
from quant_assets.trading.events import (
    KINDS,
    CashMovement,
    Decision,
    Degradation,
    Ended,
    Event,
    ExecutionReport,
    Fill,
    HandlerFailed,
    OrderRequest,
    OrderState,
    RiskDenial,
    Signal,
    Target,
    encode,
)
from quant_assets.trading.journal import BLOCK, JOURNALED, MAGIC, Journal, frame, read, rebuild
from quant_assets.trading.market import Market
from quant_assets.trading.oms import OrderManager

HEADER = {"strategy_id": "trend", "code": "abc", "commit_rows": 256}
STAMP = 1_700_000_000_000_000_000
HEAD = 12  # bytes in front of a block's content


def signals(count: int, first: int = 1) -> list[Event]:
    return [Signal(STAMP + seq, seq, seq, 0, "trend", "A", seq / 7) for seq in range(first, first + count)]


def write(path: Path, events: Iterable[Event], every: int = 3) -> bytes:
    """A journal of `events`, a commit after each `every` of them; its bytes."""
    with Journal.create(path, HEADER, durable=False) as journal:
        for number, event in enumerate(events, start=1):
            journal.append(event)
            if number % every == 0:
                journal.commit()
    return path.read_bytes()


def resume(path: Path, events: Iterable[Event], every: int = 3) -> Journal:
    """The run of `write` again, over what is there."""
    with Journal.resume(path, HEADER, durable=False) as journal:
        for number, event in enumerate(events, start=1):
            journal.append(event)
            if number % every == 0:
                journal.commit()
    return journal


def stored(path: Path) -> list[Event]:
    return list(read(path)[1])


def blocks(path: Path) -> list[int]:
    """Where the header and each block end."""
    return [block.end for block in module._blocks(path)]


def test_what_is_written_is_read_back_with_its_header(tmp_path: Path):
    events = [
        *signals(2),
        Target(STAMP, 3, 1, 2, "trend", "A", -0.5, "weight"),
        OrderRequest(STAMP, 4, 1, 2, "t-1", "trend", "A", -1, 2.5, "market", 10.0, "rebalance"),
        Fill(STAMP, 5, 1, 4, "t-1", "t-1/1", "A", -1, 2.5, 9.9, 10.0, 0.01, "rebalance"),
    ]
    write(tmp_path / "journals/one", events)
    header, found = read(tmp_path / "journals/one")
    assert list(found) == events
    assert header == {"schema_version": 1, **HEADER}


def test_all_is_recorded_but_what_was_fed_and_what_follows_from_the_rest():
    left_out = {name for kind, name in KINDS.items() if kind not in JOURNALED}
    assert left_out == {"opening", "bar", "moment", "heartbeat", "account_snapshot"}


def test_nothing_is_in_the_file_before_its_commit_and_all_of_it_is_after(tmp_path: Path):
    journal = Journal.create(tmp_path / "one", HEADER)
    for event in signals(5):
        journal.append(event)
    assert stored(tmp_path / "one") == []
    journal.commit()
    assert stored(tmp_path / "one") == signals(5)
    journal.close()
    journal.close()


def test_so_many_events_are_written_without_a_commit(tmp_path: Path):
    with Journal.create(tmp_path / "one", HEADER) as journal:
        for event in signals(BLOCK + 1):
            journal.append(event)
        assert stored(tmp_path / "one") == signals(BLOCK)
    assert stored(tmp_path / "one") == signals(BLOCK + 1)


def test_a_run_that_fails_leaves_what_it_has_committed(tmp_path: Path):
    def run() -> None:
        with Journal.create(tmp_path / "one", HEADER) as journal:
            for event in signals(2):
                journal.append(event)
                if event.seq == 2:
                    raise ZeroDivisionError
                journal.commit()

    with pytest.raises(ZeroDivisionError):
        run()
    assert stored(tmp_path / "one") == signals(1)


def test_two_journals_of_one_run_are_the_same_bytes(tmp_path: Path):
    assert write(tmp_path / "one", signals(100)) == write(tmp_path / "two", signals(100))


def test_the_digest_is_of_the_events_wherever_the_blocks_end(tmp_path: Path):
    digests = set()
    for every in (1, 7, 50, 1000):
        write(tmp_path / str(every), signals(100), every)
        with Journal.resume(tmp_path / str(every), HEADER) as journal:
            digests.add(journal.digest())
            for event in signals(100):
                journal.append(event)
            digests.add(journal.digest())
    with Journal.create(tmp_path / "other", HEADER) as journal:
        for event in signals(99):
            journal.append(event)
        journal.commit()
        assert journal.digest() not in digests
        journal.append(signals(1, first=100)[0])
        journal.commit()
        digests.add(journal.digest())
    assert len(digests) == 1


def test_a_file_that_exists_is_not_written_over(tmp_path: Path):
    before = write(tmp_path / "one", signals(3))
    with pytest.raises(JournalError, match=r"one exists: resume it, or write under another name"):
        Journal.create(tmp_path / "one", HEADER)
    assert (tmp_path / "one").read_bytes() == before


def test_a_file_that_does_not_exist_cannot_be_resumed(tmp_path: Path):
    with pytest.raises(JournalError, match=r"one does not exist: create it"):
        Journal.resume(tmp_path / "one", HEADER)


def test_two_cannot_write_one_journal_and_the_second_can_once_the_first_has_ended(tmp_path: Path):
    with Journal.create(tmp_path / "one", HEADER):
        with pytest.raises(JournalError, match="is being written by another process: wait for its end, or stop it"):
            Journal.resume(tmp_path / "one", HEADER)
        assert stored(tmp_path / "one") == []
    Journal.resume(tmp_path / "one", HEADER).close()


def test_another_header_is_refused_and_the_differences_are_named(tmp_path: Path):
    before = write(tmp_path / "one", signals(3))
    other = HEADER | {"code": "xyz", "period": "2020"}
    with pytest.raises(JournalError, match=r"code 'abc', not 'xyz', period None, not '2020': replay it with what it"):
        Journal.resume(tmp_path / "one", other)
    assert (tmp_path / "one").read_bytes() == before
    resume(tmp_path / "one", signals(3))


def test_events_of_another_schema_version_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write(tmp_path / "one", signals(3))
    monkeypatch.setattr(module, "SCHEMA_VERSION", 2)
    with pytest.raises(JournalError, match="events of schema version 1, not 2: read it with the code that wrote it"):
        read(tmp_path / "one")
    with pytest.raises(JournalError, match="schema_version 1, not 2"):
        Journal.resume(tmp_path / "one", HEADER)


@pytest.mark.parametrize("content", [b"PAR1" * 8, b"quant journal 2\n", b""])
def test_what_is_no_journal_of_this_version_is_refused(tmp_path: Path, content: bytes):
    (tmp_path / "one").write_bytes(content)
    with pytest.raises(JournalError, match="no journal of this version"):
        read(tmp_path / "one")


def test_a_replay_meets_what_is_recorded_and_goes_on_where_it_ends(tmp_path: Path):
    whole = write(tmp_path / "whole", signals(10))
    write(tmp_path / "one", signals(6))
    with Journal.resume(tmp_path / "one", HEADER) as journal:
        for number, event in enumerate(signals(10)):
            assert journal.replaying == (number < 6)
            journal.append(event)
            if number % 3 == 2:
                journal.commit()
    assert (tmp_path / "one").read_bytes() == whole


def test_an_event_without_a_number_is_met_too(tmp_path: Path):
    none = [Signal(STAMP, 1, 1, 0, "trend", "A", math.nan)]
    write(tmp_path / "one", none)
    assert not resume(tmp_path / "one", none).replaying


def test_a_replay_that_differs_is_refused_and_both_events_are_named(tmp_path: Path):
    before = write(tmp_path / "one", signals(6))
    changed = [*signals(4), Signal(STAMP + 5, 5, 5, 0, "trend", "A", math.nextafter(5 / 7, 1))]
    with pytest.raises(JournalError, match=r"at seq 5 the journal has Signal\(.*0\.714.*the replay Signal\(.*0\.714"):
        resume(tmp_path / "one", changed)
    assert (tmp_path / "one").read_bytes() == before


def test_after_an_event_that_differs_no_other_is_taken(tmp_path: Path):
    write(tmp_path / "one", signals(6))
    with pytest.raises(JournalError) as first, Journal.resume(tmp_path / "one", HEADER) as journal:
        journal.append(signals(1, first=2)[0])
    with pytest.raises(JournalError) as second:
        journal.append(signals(1)[0])
    assert second.value is first.value


def test_a_replay_that_ends_before_the_journal_is_refused(tmp_path: Path):
    before = write(tmp_path / "one", signals(6))
    with pytest.raises(JournalError, match=r"ended before Signal\(.*seq=5.*replay it over the same data"):
        resume(tmp_path / "one", signals(4))
    assert (tmp_path / "one").read_bytes() == before
    resume(tmp_path / "one", signals(6))


def test_cut_at_any_byte_the_whole_blocks_are_read_and_a_replay_completes_the_file(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    whole = write(tmp_path / "whole", signals(8))
    ends = blocks(tmp_path / "whole")
    assert len(ends) == 4
    for size in range(len(whole) + 1):
        path = tmp_path / f"cut at {size}"
        path.write_bytes(whole[:size])
        caplog.clear()
        with contextlib.nullcontext() if size >= ends[0] else pytest.raises(JournalError):
            assert stored(path) == signals(8)[: 3 * sum(end <= size for end in ends[1:])]
            torn = size - max(end for end in ends if end <= size)
            assert caplog.messages == ([f"{path}: left out {torn} bytes of a torn end"] if torn else [])
        assert path.read_bytes() == whole[:size]
        resumed = resume(path, signals(8))
        assert resumed.cut == size - max(end for end in (0, *ends) if end <= size)
        assert path.read_bytes() == whole


def test_a_byte_changed_anywhere_is_noticed_and_only_the_last_block_may_be_cut(tmp_path: Path):
    whole = write(tmp_path / "whole", signals(8))
    ends = blocks(tmp_path / "whole")
    for place in range(len(whole)):
        path = tmp_path / f"changed at {place}"
        changed = bytearray(whole)
        changed[place] ^= 1 << place % 8
        path.write_bytes(changed)
        if place >= ends[-2] + HEAD:
            assert stored(path) == signals(6)
            assert resume(path, signals(8)).cut == ends[-1] - ends[-2]
            assert path.read_bytes() == whole
        else:
            damaged = max((end for end in (len(MAGIC), *ends) if end <= place), default=None)
            said = f"damaged at byte {damaged}:" if damaged else "no journal of this version"
            with pytest.raises(JournalError, match=said):
                stored(path)
            with pytest.raises(JournalError, match=said):
                Journal.resume(path, HEADER)
            assert path.read_bytes() == changed


@pytest.mark.parametrize("order", [(0, 2, 1), (0, 1, 1, 2), (0, 2)], ids=["swapped", "repeated", "missing"])
def test_blocks_that_stand_elsewhere_are_noticed(tmp_path: Path, order: tuple[int, ...]):
    whole = write(tmp_path / "whole", [*signals(3), *signals(3)])
    ends = [0, *blocks(tmp_path / "whole")]
    path = tmp_path / "one"
    path.write_bytes(b"".join(whole[ends[number] : ends[number + 1]] for number in order))
    with pytest.raises(JournalError, match="damaged at byte"):
        stored(path)


def test_space_that_was_reserved_and_never_written_is_a_torn_end(tmp_path: Path):
    whole = write(tmp_path / "one", signals(6))
    (tmp_path / "one").write_bytes(whole + bytes(4096))
    assert stored(tmp_path / "one") == signals(6)
    assert resume(tmp_path / "one", signals(6)).cut == 4096
    assert (tmp_path / "one").read_bytes() == whole


def test_a_full_disk_leaves_the_file_as_it_was_and_the_events_for_the_next_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    whole = write(tmp_path / "whole", signals(6))
    real = os.write

    def half(file: int, data: memoryview) -> int:
        if len(data) < 40:
            raise OSError(28, "No space left on device")
        return real(file, data[:40])

    with Journal.create(tmp_path / "one", HEADER, durable=False) as journal:
        for event in signals(3):
            journal.append(event)
        journal.commit()
        before = (tmp_path / "one").read_bytes()
        for event in signals(3, first=4):
            journal.append(event)
        with monkeypatch.context() as patch:
            patch.setattr(os, "write", half)
            with pytest.raises(JournalError, match=r"one: \d+ bytes could not be written: .*No space left"):
                journal.commit()
        assert (tmp_path / "one").read_bytes() == before
    assert (tmp_path / "one").read_bytes() == whole


def test_a_number_that_is_not_pythons_is_refused(tmp_path: Path):
    journal = Journal.create(tmp_path / "one", HEADER)
    journal.append(Signal(STAMP, 1, 1, 0, "trend", "A", np.float64(1)))
    with pytest.raises(TypeError, match=r"numpy\.float64"):
        journal.commit()
    with pytest.raises(TypeError):
        journal.close()
    assert stored(tmp_path / "one") == []


texts = st.text(max_size=5)
numbers = st.floats(allow_nan=False)
counts = st.integers(0, 2**63 - 1)
places = st.tuples(counts, counts, counts, counts)
anything = st.one_of(
    st.builds(lambda at, *rest: Signal(*at, *rest), places, texts, texts, numbers),
    st.builds(lambda at, *rest: Decision(*at, *rest), places, texts, counts),
    st.builds(lambda at, symbol: Ended(*at, symbol), places, texts),
    st.builds(lambda at, *rest: RiskDenial(*at, *rest), places, texts, texts, texts, numbers, numbers, texts),
    st.builds(lambda at, *rest: HandlerFailed(*at, *rest), places, texts, texts, texts),
)


@settings(max_examples=50, deadline=None)
@given(runs=st.lists(st.lists(anything, max_size=40), max_size=5), kept=st.floats(0, 1))
def test_any_events_are_read_back_and_completed_after_a_cut(
    tmp_path_factory: pytest.TempPathFactory, runs: list[list[Event]], kept: float
):
    folder = tmp_path_factory.mktemp("journals")

    def run(make: Callable[..., Journal], path: Path) -> bytes:
        with make(path, HEADER, durable=False) as journal:
            for events in runs:
                for event in events:
                    journal.append(event)
                journal.commit()
        return path.read_bytes()

    whole = run(Journal.create, folder / "one")
    assert stored(folder / "one") == [event for events in runs for event in events]
    os.truncate(folder / "one", int(kept * len(whole)))
    assert run(Journal.resume, folder / "one") == whole


# What the account and its orders were


class Everything:
    """A bus that only takes down what is published, and an executor that does nothing."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def next_seq(self) -> int:
        return len(self.events) + 1

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def subscribe(self, *_: Any) -> None:
        raise AssertionError

    def submit(self, request: OrderRequest) -> None:
        pass

    def cancel(self, request: Any) -> None:
        pass


def deny_large(request: OrderRequest) -> RiskDenial | None:
    if request.quantity < 9:
        return None
    return RiskDenial(
        request.ts, 1, 1, 1, request.client_order_id, request.symbol, "order size", request.quantity, 9.0, "too large"
    )


amounts = st.sampled_from([0.1, 0.2, 0.3, 1 / 3, 1.0, 2.7, 9.5])
steps = st.one_of(
    st.tuples(st.just("order"), st.sampled_from("AB"), st.sampled_from([1, -1]), amounts),
    st.tuples(st.just("fill"), st.integers(0, 9), st.integers(0, 3), amounts),
    st.tuples(st.just("report"), st.integers(0, 9), st.sampled_from(["accepted", "canceled", "rejected", "expired"])),
    st.tuples(st.just("cash"), st.sampled_from("AB"), st.floats(-5, 5)),
)


@settings(max_examples=100, deadline=None)
@given(done=st.lists(steps, max_size=40))
def test_cash_positions_and_open_orders_are_rebuilt_to_the_last_bit(done: list[tuple[Any, ...]]):
    bus, market = Everything(), Market("AB")
    account = Account(market, 1_000.0)
    orders = OrderManager(bus, deny_large, bus)
    placed: list[OrderRequest] = []

    def hand_on(event: Event) -> None:
        bus.publish(event)
        for component in (orders, account):
            handler = component.handlers().get(type(event))
            if handler:
                with contextlib.suppress(Exception):  # as a bus would
                    handler(event)

    for kind, what, *rest in done:
        seq = bus.next_seq()
        if kind == "order":
            side, quantity = rest
            name = f"t-{len(placed)}"
            request = OrderRequest(STAMP, seq, 1, 0, name, "t", what, side, quantity, "market", 10.0, "rebalance")
            placed.append(request)
            hand_on(request)
        elif kind == "cash":
            hand_on(CashMovement(STAMP, seq, 1, 0, what, *rest, "funding"))
        elif what < len(placed):
            order = placed[what]
            if kind == "fill":
                number, quantity = rest
                price = 10.0 + number / 3
                name = f"{order.client_order_id}/{number}"
                said = (order.client_order_id, name, order.symbol, order.side, quantity, price, 10.0, 0.01, "rebalance")
                hand_on(Fill(STAMP, seq, 1, 0, *said))
            else:
                hand_on(ExecutionReport(STAMP, seq, 1, 0, order.client_order_id, *rest, ""))
        rebuilt = rebuild(bus.events, 1_000.0)
        assert rebuilt.cash == account.cash
        assert rebuilt.positions == {market.symbols[column]: account.shares[column] for column in account.held}
        open_orders = {order.request.client_order_id: order.remaining for order in orders.open_orders()}
        assert rebuilt.open_orders == open_orders


def test_nothing_is_rebuilt_from_nothing():
    assert rebuild([], 50.0) == (50.0, {}, {})


def test_what_was_filled_counts_before_its_order_says_so():
    request = OrderRequest(STAMP, 1, 1, 0, "t-1", "t", "A", 1, 10.0, "market", 5.0, "rebalance")
    placed = OrderState(STAMP, 2, 1, 1, "t-1", "A", "submitted", 0.0, "")
    fill = Fill(STAMP, 3, 1, 1, "t-1", "t-1/1", "A", 1, 4.0, 5.0, 5.0, 1.0, "rebalance")
    assert rebuild([request], 50.0) == (50.0, {}, {})
    assert rebuild([request, placed], 50.0) == (50.0, {}, {"t-1": 10.0})
    assert rebuild([request, placed, fill], 50.0) == (29.0, {"A": 4.0}, {"t-1": 6.0})


# As a table


def test_the_table_names_every_kind_that_is_journaled():
    assert tuple(KINDS[kind] for kind in JOURNALED) == trading_events.KINDS


def test_the_table_leads_from_a_fill_back_to_its_signal():
    events = [
        Fill(STAMP, 9, 2, 8, "t-1", "t-1/1", "A", -1, 2.5, 9.9, 10.0, 0.01, "rebalance"),
        Signal(STAMP, 3, 2, 2, "trend", "A", 0.5),
        OrderRequest(STAMP, 8, 2, 3, "t-1", "trend", "A", -1, 2.5, "market", 10.0, "rebalance"),
        OrderState(STAMP, 10, 2, 9, "t-1", "A", "filled", 2.5, ""),
    ]
    table = frame(events, "trend")
    assert table["kind"].to_list() == ["signal", "order_request", "fill", "order_state"]
    by_seq = {row["seq"]: row for row in table.iter_rows(named=True)}
    order = by_seq[by_seq[9]["causation"]]
    assert (order["kind"], order["client_order_id"], order["side"], order["quantity"]) == (
        "order_request",
        "t-1",
        "sell",
        2.5,
    )
    assert by_seq[order["causation"]]["value"] == 0.5
    assert by_seq[9] == {
        "strategy_id": "trend",
        "seq": 9,
        "ts": datetime(2023, 11, 14, 22, 13, 20),
        "kind": "fill",
        "level": 0,
        "symbol": "A",
        "client_order_id": "t-1",
        "correlation": 2,
        "causation": 8,
        "side": "sell",
        "quantity": 2.5,
        "price": 9.9,
        "value": 0.01,
        "state": None,
        "reason": "rebalance",
    }
    assert by_seq[10]["state"] == "filled"
    assert gate(TABLES["trading_events"], table).good.height == 4


def test_every_kind_and_what_is_no_number_passes_the_contract():
    made = {"int": 1, "float": math.nan, "str": ""}
    events = [
        kind(
            *(
                seq if name == "seq" else made[kind.__annotations__.get(name, int).__name__]
                for name in kind.__struct_fields__
            )
        )
        for seq, kind in enumerate(JOURNALED, start=1)
    ]
    events.append(Degradation(STAMP, 99, 0, 0, "NORMAL", "P3_PAUSED", math.inf))
    table = frame(events, "trend")
    gated = gate(TABLES["trading_events"], table)
    assert gated.good.height == len(JOURNALED) + 1
    assert set(table["kind"]) == set(trading_events.KINDS)
    assert table["value"].null_count() == table.height


def test_no_events_are_a_table_without_rows():
    assert frame([], "trend").equals(TABLES["trading_events"].empty())


# Death

RUN = """
import sys
from itertools import count
from pathlib import Path
from quant_assets_tests.test_trading_journal import HEADER, Journal, signals

path, marks = map(Path, sys.argv[1:])
make = Journal.resume if path.exists() else Journal.create
with make(path, HEADER, durable=False) as journal, marks.open("wb", buffering=0) as committed:
    for seq in count(1):
        recorded = journal.replaying
        journal.append(signals(1, first=seq)[0])
        if seq % 3 == 0:
            journal.commit()
            if not recorded:
                committed.write(b".")
"""


@pytest.mark.slow
def test_a_writer_killed_at_any_time_loses_nothing_that_was_committed(tmp_path: Path):
    chance = random.Random(7)
    path, marks = tmp_path / "one", tmp_path / "marks"
    known = 0
    for _ in range(5):
        marks.write_bytes(b"")
        with subprocess.Popen([sys.executable, "-c", RUN, path, marks]) as writer:
            wanted, deadline = chance.randrange(1, 300), time.monotonic() + 60
            while marks.stat().st_size < wanted and time.monotonic() < deadline:
                time.sleep(0.0005)
            if not known:
                while_written = stored(path)
                assert while_written == signals(len(while_written))
            writer.kill()
        committed, survived = known + 3 * marks.stat().st_size, stored(path)
        assert known < committed <= len(survived)
        assert survived == signals(len(survived))
        known = len(survived)
    events = signals(known + 100)
    resumed = resume(path, events)
    assert path.read_bytes() == write(tmp_path / "whole", events)
    assert resumed.digest() == sha256(b"".join(map(encode, events))).hexdigest()
