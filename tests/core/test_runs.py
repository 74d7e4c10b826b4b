"""Runs of records: whatever is written, removed and read, against a plain dictionary."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from zmqrel.core import tables
from zmqrel.core.entries import encode_messages, to_ranges, verify
from zmqrel.core.journal import Journal
from zmqrel.core.runs import MOST_BYTES, MOST_RECORDS, Entry, Runs
from zmqrel.store import MemoryStore

LANES = (1, 2)
SEQ = st.integers(0, 60)


def records_of(*sizes: int) -> list[bytes]:
    return encode_messages([bytes([size % 251]) * size for size in sizes], 1, 0, b"")


def made() -> tuple[MemoryStore, Runs]:
    store = MemoryStore()
    return store, Runs(Journal(store), tables.INBOX, tables.INBOX_HOLES)


class RunsMachine(RuleBasedStateMachine):
    """Two lanes of one table, and what they hold."""

    def __init__(self) -> None:
        super().__init__()
        self.store, self.runs = made()
        self.held: dict[int, dict[int, Entry]] = {lane: {} for lane in LANES}
        self.next = dict.fromkeys(LANES, 1)

    @rule(
        lane=st.sampled_from(LANES),
        sizes=st.lists(st.integers(0, 40), min_size=1, max_size=12),
        order=st.integers(0, 2**64 - 1),
        plain=st.booleans(),
        gap=st.integers(0, 3),
    )
    def put(self, lane: int, sizes: list[int], order: int, plain: bool, gap: int) -> None:
        first = self.next[lane] + gap
        records = records_of(*sizes)
        self.runs.put(lane, first, records, order, plain)
        self.held[lane].update({seq: Entry(seq, order, record) for seq, record in enumerate(records, first)})
        self.next[lane] = first + len(records)

    @rule(lane=st.sampled_from(LANES), first=SEQ, length=st.integers(0, 15), read_plain=st.booleans())
    def remove(self, lane: int, first: int, length: int, read_plain: bool) -> None:
        held = self.held[lane]
        expected = {seq: held.pop(seq) for seq in range(first, first + length + 1) if seq in held}
        pieces = self.runs.remove(lane, first, first + length, read_plain)
        assert [seq for piece in pieces for seq in range(piece.first, piece.last + 1)] == list(expected)
        for piece in pieces:
            entries = [expected[seq] for seq in range(piece.first, piece.last + 1)]
            assert piece.messages == len(entries)
            assert piece.size == sum(len(entry.record) for entry in entries)
            assert {entry.order_us for entry in entries} == {piece.order_us}
            if piece.records or read_plain or not piece.plain:
                assert piece.records == [entry.record for entry in entries]

    @rule(lane=st.sampled_from(LANES), first=SEQ, length=st.integers(0, 15))
    def discard(self, lane: int, first: int, length: int) -> None:
        for seq in range(first, first + length + 1):
            self.held[lane].pop(seq, None)
        self.runs.discard(lane, first, first + length)

    @rule(lane=st.sampled_from(LANES), first=SEQ, last=SEQ, limit=st.integers(1, 20))
    def read(self, lane: int, first: int, last: int, limit: int) -> None:
        found, all_of_them = self.runs.read(lane, first, last, limit)
        expected = [entry for seq, entry in self.held[lane].items() if first <= seq <= last]
        assert found == expected[: len(found)]
        assert len(found) >= min(limit, len(expected))
        assert not all_of_them or len(found) == len(expected)

    @rule(lane=st.sampled_from(LANES), first=SEQ, last=SEQ, most=st.integers(1, 200))
    def read_bytes(self, lane: int, first: int, last: int, most: int) -> None:
        found, all_of_them = self.runs.read(lane, first, last, 10_000, most)
        expected = [entry for seq, entry in self.held[lane].items() if first <= seq <= last]
        assert found == expected[: len(found)]
        assert all_of_them == (len(found) == len(expected)) or not all_of_them
        assert found or not expected

    @rule(lane=st.sampled_from(LANES), first=SEQ, last=SEQ)
    def span(self, lane: int, first: int, last: int) -> None:
        held = to_ranges(seq for seq in self.held[lane] if first <= seq <= last)
        assert list(self.runs.spans(lane, first, last)) == held

    @rule(lane=st.sampled_from(LANES), seq=SEQ)
    def look(self, lane: int, seq: int) -> None:
        assert self.runs.get(lane, seq) == self.held[lane].get(seq)
        assert self.runs.has(lane, seq) == (seq in self.held[lane])

    @invariant()
    def numbers(self) -> None:
        for lane in LANES:
            assert list(self.runs.spans(lane)) == to_ranges(self.held[lane])
            assert self.runs.lowest(lane) == next(iter(self.held[lane]), None)

    @invariant()
    def nothing_is_left_of_what_is_gone(self) -> None:
        if not any(self.held.values()):
            assert self.store.keys(b"\x00", b"\xff", 1) == []


TestRuns = RunsMachine.TestCase
TestRuns.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)


def test_a_row_is_bounded_and_a_thousand_small_records_are_one() -> None:
    store, runs = made()
    runs.put(1, 1, records_of(*[10] * MOST_RECORDS))
    assert len(store.keys(b"\x00", b"\xff", 9)) == 1
    large = records_of(*[30_000] * 3, MOST_BYTES * 2, 5, *[10] * MOST_RECORDS)
    runs.put(2, 1, large)
    values = [value for _, value in store.scan(*tables.lane_bounds(tables.INBOX, 2), 99)]
    assert sum(len(value) > MOST_BYTES + 4 * MOST_RECORDS for value in values) == 1
    assert [entry.record for entry in runs.read(2, 1, 2**63, 2**31)[0]] == large


def test_whole_plain_runs_are_removed_unread() -> None:
    store, runs = made()
    runs.put(1, 1, records_of(1, 2, 3), plain=True)
    [key] = store.keys(b"\x00", b"\xff", 9)
    store.put(key, b"not what was written")
    [piece] = runs.remove(1, 1, 3, read_plain=False)
    assert (piece.messages, piece.records) == (3, [])
    assert piece.size == sum(map(len, records_of(1, 2, 3)))


def _shorten(value: bytes) -> bytes:
    return value[:-30]


def _garble_lengths(value: bytes) -> bytes:
    return b"\xff" * 16 + value[16:]


def _garble_a_record_and_the_lengths(value: bytes) -> bytes:
    return b"\x00" * 16 + value[:40][16:] + b"?" + value[41:]


@pytest.mark.parametrize(
    ("harm", "good"), [(_shorten, 3), (_garble_lengths, 4), (_garble_a_record_and_the_lengths, 0), (lambda _: b"", 0)]
)
def test_of_a_damaged_row_every_number_is_there_and_what_can_be_read_is(
    harm: Callable[[bytes], bytes], good: int
) -> None:
    store, runs = made()
    records = records_of(5, 6, 7, 8)
    runs.put(1, 1, records)
    [(key, value)] = store.scan(b"\x00", b"\xff", 9)
    store.put(key, harm(value))
    found, _ = runs.read(1, 1, 4, 9)
    assert [entry.seq for entry in found] == [1, 2, 3, 4]
    assert [entry.record for entry in found if verify(entry.record)] == records[:good]
