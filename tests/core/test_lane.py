"""Lanes: what may leave, in which order, and what comes again; against a plain list of entries."""

from __future__ import annotations

from copy import copy

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from zmqrel.core import tables
from zmqrel.core.entries import encode_messages
from zmqrel.core.journal import Journal
from zmqrel.core.lane import CONTROL, DATA, FIRST_GRANT, Flight, InLane, OutLane, decode_lane
from zmqrel.core.runs import Runs
from zmqrel.core.transmit import FRAME_BYTES, FRAME_ENTRIES, Batch, Untransportable, next_batch
from zmqrel.store import MemoryStore

LARGEST = 400_000
WINDOW = 2**40


def records_of(*sizes: int) -> list[bytes]:
    return [encode_messages([bytes([size % 251]) * size], 1, 0, b"")[0] for size in sizes]


def outbox() -> tuple[MemoryStore, Runs]:
    memory = MemoryStore()
    return memory, Runs(Journal(memory), tables.OUTBOX, tables.OUTBOX_HOLES)


def damage(disk: MemoryStore, lane: OutLane, seq: int) -> None:
    """Damage one record where it lies in its run."""
    [(key, value)] = disk.scan(*tables.lane_bounds(tables.OUTBOX, lane.no, seq), 1)
    records = Runs(Journal(disk), tables.OUTBOX, 0xFF).read(lane.no, 0, 2**62, 2**31)[0]
    first = int.from_bytes(key[13:21], "big")
    before = sum(len(entry.record) for entry in records if first <= entry.seq < seq)
    count = int.from_bytes(key[5:13], "big") - first + 1
    disk.damage(key, before + 5 + (4 * count if count > 1 else 0))
    assert len(value) > before


def append(lane: OutLane, store: Runs, records: list[bytes]) -> None:
    store.put(lane.no, lane.append(records), records)


def sent(lane: OutLane, batch: Batch) -> Batch:
    """What a channel notes of a batch that leaves."""
    lane.sent_upto = max(lane.sent_upto, batch.last)
    lane.cursor = batch.last + 1
    lane.flight.append(Flight(batch.last, batch.size, 0))
    lane.flight_bytes += batch.size
    return batch


def laid_out(batch: Batch) -> dict[int, bytes | None]:
    """Sequence number -> record, or None for a VOID."""
    found: dict[int, bytes | None] = {}
    seq, records = batch.first, iter(batch.records)
    for run in batch.runs:
        for _ in range(abs(run)):
            found[seq] = next(records) if run > 0 else None
            seq += 1
    assert (seq - 1, next(records, None)) == (batch.last, None)
    return found


class LaneMachine(RuleBasedStateMachine):
    """A lane, a store, and a list that says what every entry is."""

    def __init__(self) -> None:
        super().__init__()
        self.lane = OutLane(7, "b", DATA, 99, "q")
        self.disk, self.store = outbox()
        self.model: list[bytes | None] = [None]
        """By sequence number; None where the outcome is final."""
        self.damaged: set[int] = set()

    @rule(sizes=st.lists(st.sampled_from([0, 1, 9, 100, 3000, 100_000, 300_000, LARGEST + 1]), min_size=1, max_size=7))
    def append(self, sizes: list[int]) -> None:
        records = records_of(*sizes)
        append(self.lane, self.store, records)
        self.model += records

    @rule()
    def append_many(self) -> None:
        records = records_of(*[3] * 300)
        append(self.lane, self.store, records)
        self.model += records

    @precondition(lambda self: len(self.model) > 1)
    @rule(data=st.data())
    def end(self, data: st.DataObject) -> None:
        """Some entries get their outcome; their rows go, and what is at hand of them with them."""
        first = data.draw(st.integers(1, len(self.model) - 1))
        last = min(len(self.model) - 1, first + data.draw(st.sampled_from([0, 1, 5, 1000])))
        for seq in range(first, last + 1):
            self.model[seq] = None
            self.store.discard(self.lane.no, seq, seq)
            self.damaged.discard(seq)
        if last >= self.lane.cursor:
            self.lane.forget_tail()

    @precondition(lambda self: any(record is not None for record in self.model))
    @rule(data=st.data())
    def damage(self, data: st.DataObject) -> None:
        seq = data.draw(st.sampled_from([seq for seq, record in enumerate(self.model) if record is not None]))
        if seq not in self.damaged:
            damage(self.disk, self.lane, seq)
            self.damaged.add(seq)

    @rule(window=st.sampled_from([0, 50, 5000, 200_000, 10**6, WINDOW]))
    def transmit(self, window: int) -> None:
        lane = self.lane
        try:
            batch = next_batch(lane, self.store, window, LARGEST)
        except Untransportable as entry:
            self.check_untransportable(entry)
            return
        if batch is None:
            self.check_silence(window)
            return
        self.check_batch(batch, window)
        self.check_store_says_the_same(batch, window)
        sent(lane, batch)

    def check_untransportable(self, entry: Untransportable) -> None:
        record = self.model[entry.seq]
        assert record is not None
        assert entry.seq == self.lane.cursor, "the first in line, and none behind it"
        assert entry.damaged == (entry.seq in self.damaged) or not entry.damaged
        assert entry.damaged or len(record) > LARGEST
        self.model[entry.seq] = None
        self.store.discard(self.lane.no, entry.seq, entry.seq)
        self.damaged.discard(entry.seq)
        self.lane.forget_tail()

    def check_silence(self, window: int) -> None:
        lane = self.lane
        if lane.cursor > lane.last_sendable:
            return
        record = self.model[lane.cursor]
        assert record is not None, "a VOID needs neither window nor credit"
        assert lane.flight, "one entry always goes when nothing is unacknowledged"
        assert len(record) > min(window, lane.grant_bytes - lane.flight_bytes) or lane.cursor > lane.grant_seq

    def check_batch(self, batch: Batch, window: int) -> None:
        lane = self.lane
        assert batch.first == lane.cursor, "no number is skipped"
        assert batch.last <= lane.last_sendable
        found = laid_out(batch)
        assert found == {seq: self.model[seq] for seq in found}
        records = [(seq, record) for seq, record in found.items() if record is not None]
        assert batch.size == sum(len(record) for _, record in records)
        assert len(records) <= FRAME_ENTRIES
        if len(records) > 1 or lane.flight:
            assert all(seq <= lane.grant_seq for seq, _ in records[0 if lane.flight else 1 :])
            assert batch.size <= min(window, lane.grant_bytes - lane.flight_bytes) or not records
        assert len(records) <= 1 or batch.size <= FRAME_BYTES

    def check_store_says_the_same(self, batch: Batch, window: int) -> None:
        if any(batch.first <= seq <= batch.last for seq in self.damaged):
            return
        other = copy(self.lane)
        other.forget_tail()  # as it is after a restart
        again = next_batch(other, self.store, window, LARGEST)
        assert again is not None
        upto = min(batch.last, again.last)
        one, two = laid_out(batch), laid_out(again)
        assert {s: r for s, r in one.items() if s <= upto} == {s: r for s, r in two.items() if s <= upto}

    @rule(data=st.data(), entries=st.sampled_from([0, 1, 3, 2000]), size=st.sampled_from([0, 10, 5000, 2**40]))
    def ack(self, data: st.DataObject, entries: int, size: int) -> None:
        lane = self.lane
        floor = data.draw(st.integers(0, lane.sent_upto))
        news = floor > lane.acked
        flying = [flight for flight in lane.flight if flight.last > floor]
        assert lane.take_ack(floor, 0) is news
        assert lane.acked >= floor
        assert list(lane.flight) == (flying if news else list(lane.flight))
        lane.grant_seq, lane.grant_bytes = lane.acked + entries, size

    @rule()
    def rewind(self) -> None:
        self.lane.rewind(self.lane.acked)
        assert self.lane.cursor == self.lane.acked + 1

    @rule(data=st.data())
    def begin_session(self, data: st.DataObject) -> None:
        """The receiver may name a floor below what it once acknowledged: its store is an old copy."""
        self.lane.begin_session(data.draw(st.integers(0, self.lane.sent_upto)))
        assert not self.lane.flight

    @rule()
    def hold(self) -> None:
        if self.lane.hold_after is None:
            self.lane.hold_after = self.lane.next_seq - 1

    @rule()
    def release(self) -> None:
        self.lane.hold_after = None

    @rule()
    def turn_ends(self) -> None:
        self.lane.trim_tail(1)

    @rule()
    def reopen(self) -> None:
        found = decode_lane(self.lane.no, self.lane.encode())
        assert isinstance(found, OutLane)
        self.lane = found

    @invariant()
    def flight_is_what_is_unacknowledged(self) -> None:
        lane = self.lane
        assert lane.next_seq == len(self.model)
        assert lane.flight_bytes == sum(flight.size for flight in lane.flight)
        assert lane.tail_bytes == sum(map(len, lane.tail))
        assert lane.acked < lane.cursor <= lane.next_seq
        assert all(lane.acked < flight.last < lane.cursor for flight in lane.flight)

    @rule()
    def everything_gets_out_in_the_end(self) -> None:
        """With window and credit without end the rest of the lane leaves whole."""
        lane = copy(self.lane)
        lane.flight = lane.flight.copy()
        lane.grant_seq, lane.grant_bytes = 2**62, 2**62
        position = lane.cursor
        while lane.cursor <= lane.last_sendable:
            try:
                batch = next_batch(lane, self.store, WINDOW, LARGEST)
            except Untransportable:
                lane.cursor += 1
                lane.forget_tail()
                continue
            assert batch is not None
            assert all(self.model[seq] == record for seq, record in laid_out(batch).items())
            sent(lane, batch)
        assert lane.cursor == max(position, lane.last_sendable + 1)


LaneMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
TestLane = LaneMachine.TestCase


# ------------------------------------------------------------------------------------------------ the edges


def lane_with(*sizes: int, kind: int = DATA) -> tuple[OutLane, Runs]:
    lane, (_, store) = OutLane(7, "b", kind, 99, "q"), outbox()
    append(lane, store, records_of(*sizes))
    return lane, store


def test_a_new_session_does_not_mistake_what_is_at_hand_for_what_comes_next() -> None:
    lane, store = lane_with(1, 2, 3)
    lane.begin_session(0)
    append(lane, store, records_of(4))
    batch = next_batch(lane, store, WINDOW, LARGEST)
    assert batch is not None
    assert batch.records == records_of(1, 2, 3, 4)


def test_before_the_first_grant_a_bounded_number_leaves() -> None:
    lane, store = lane_with(*[1] * (FIRST_GRANT + 5))
    batch = next_batch(lane, store, WINDOW, LARGEST)
    assert batch is not None
    assert batch.last == FIRST_GRANT


def test_the_control_lane_needs_no_credit() -> None:
    lane, store = lane_with(*[1] * 20, kind=CONTROL)
    lane.grant_seq = lane.grant_bytes = 0
    lane.flight.append(Flight(0, 0, 0))
    batch = next_batch(lane, store, WINDOW, LARGEST)
    assert batch is not None
    assert batch.last == 20


def test_a_frame_is_filled_only_so_far_and_a_larger_entry_uses_the_window() -> None:
    lane, store = lane_with(*[FRAME_BYTES // 2] * 3, FRAME_BYTES + 1, FRAME_BYTES + 1, 5)
    sizes = []
    while batch := next_batch(lane, store, WINDOW, 2**30):
        sizes.append(len(sent(lane, batch).records))
    assert sizes == [1, 1, 1, 1, 1, 1]
    assert len(lane.flight) == 6, "none of them waited for an acknowledgement"


def test_credit_that_ends_before_what_is_at_hand_lets_nothing_of_it_leave() -> None:
    lane, store = lane_with(50, 50)
    sent(lane, next_batch(lane, store, WINDOW, LARGEST))
    lane.grant_seq = 1
    lane.forget_tail()
    append(lane, store, records_of(50, 50, 50))
    assert next_batch(lane, store, WINDOW, LARGEST) is None


def test_voids_pass_the_grant_and_cost_no_bytes() -> None:
    lane, store = lane_with(*[10] * 6)
    for seq in (2, 3, 4, 6):
        store.discard(lane.no, seq, seq)
    lane.rewind(0)
    lane.grant_seq = 1
    batch = next_batch(lane, store, WINDOW, LARGEST)
    assert batch is not None
    assert (batch.runs, batch.last) == ([1, -3], 4)
    sent(lane, batch)
    assert next_batch(lane, store, WINDOW, LARGEST) is None
    lane.grant_seq = 5
    batch = next_batch(lane, store, WINDOW, LARGEST)
    assert batch is not None
    assert (batch.runs, batch.last) == ([1, -1], 6)


def test_a_lane_of_nothing_but_voids_is_one_run() -> None:
    lane, store = lane_with(*[10] * 50)
    store.discard(lane.no, 1, 100)
    lane.rewind(0)
    lane.grant_seq = 0
    batch = next_batch(lane, store, 0, LARGEST)
    assert batch is not None
    assert (batch.runs, batch.records, batch.size) == ([-50], [], 0)


@pytest.mark.parametrize("at_hand", [True, False])
def test_a_too_large_entry_is_given_up_only_when_it_is_its_turn(at_hand: bool) -> None:
    lane, store = lane_with(1, LARGEST, 1)
    if not at_hand:
        lane.rewind(0)
    batch = next_batch(lane, store, WINDOW, LARGEST)
    assert batch is not None
    assert batch.last == 1
    sent(lane, batch)
    with pytest.raises(Untransportable) as raised:
        next_batch(lane, store, WINDOW, LARGEST)
    assert (raised.value.seq, raised.value.damaged) == (2, False)
    assert raised.value.size == len(records_of(LARGEST)[0])


def test_a_closed_lane_ends_at_its_boundary() -> None:
    lane, store = lane_with(1, 2, 3)
    batch = next_batch(lane, store, WINDOW, LARGEST)
    assert batch is not None
    lane.sent_upto = 2
    lane.closed = True
    lane.rewind(0)
    batch = next_batch(lane, store, WINDOW, LARGEST)
    assert batch is not None
    assert batch.last == 2


def test_what_waits_for_a_flush_stays() -> None:
    lane, store = lane_with(1, 2, 3)
    lane.hold_after = 1
    batch = next_batch(lane, store, WINDOW, LARGEST)
    assert batch is not None
    assert sent(lane, batch).last == 1
    assert next_batch(lane, store, WINDOW, LARGEST) is None
    lane.hold_after = None
    batch = next_batch(lane, store, WINDOW, LARGEST)
    assert batch is not None
    assert (batch.first, batch.last) == (2, 3)


# ------------------------------------------------------------------------------------------------- the rows


def test_a_sending_half_comes_back_as_it_was() -> None:
    lane = OutLane(7, "b", DATA, 2**64 - 1, "q")
    append(lane, outbox()[1], records_of(1, 2, 3))
    lane.sent_upto, lane.doubt_upto, lane.after, lane.withdrawn, lane.closed = 2, 1, 5, 1, True
    lane.take_ack(1, 0)
    found = decode_lane(7, lane.encode())
    assert isinstance(found, OutLane)
    durable = ("no", "peer", "kind", "id", "queue", "next_seq", "sent_upto", "acked", "closed", "doubt_upto")
    for name in (*durable, "after", "withdrawn"):
        assert getattr(found, name) == getattr(lane, name), name
    assert (found.cursor, list(found.flight), found.tail) == (2, [], [])


def test_a_receiving_half_comes_back_as_it_was() -> None:
    lane = InLane(8, "a", 2**64 - 1, DATA, 77, "q")
    lane.floor, lane.doubt_upto, lane.count, lane.size, lane.closed = 2**63, 5, 6, 7, True
    found = decode_lane(8, lane.encode())
    assert isinstance(found, InLane)
    durable = ("no", "peer", "store_id", "kind", "id", "queue", "floor", "doubt_upto", "count", "size", "closed")
    for name in durable:
        assert getattr(found, name) == getattr(lane, name), name
