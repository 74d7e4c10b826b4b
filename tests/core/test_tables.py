"""Keys of the store: their order is the order of the numbers in them, and bounds hold exactly what they say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from zmqrel.core import tables

U32 = st.one_of(st.integers(0, 2**32 - 2), st.sampled_from([0, 1, 255, 256, 2**31, 2**32 - 2]))
U64 = st.one_of(st.integers(0, 2**64 - 2), st.sampled_from([0, 1, 255, 256, 2**32, 2**63, 2**64 - 2]))
LANE_SEQ = st.tuples(U32, U64)
TIMED = st.tuples(U64, U32, U64)


@given(LANE_SEQ, LANE_SEQ)
def test_lane_and_seq_sort_as_numbers(one: tuple[int, int], other: tuple[int, int]) -> None:
    keys = [tables.lane_seq(tables.OUTBOX, *place) for place in (one, other)]
    assert (keys[0] < keys[1]) == (one < other)
    assert tables.split_lane_seq(keys[0]) == one


@given(TIMED, TIMED)
def test_deadlines_sort_by_time(one: tuple[int, int, int], other: tuple[int, int, int]) -> None:
    outs = [tables.out_deadline_key(tables.OUT_DEADLINE, *item) for item in (one, other)]
    ins = [tables.in_deadline_key(tables.IN_DEADLINE, 7, *item) for item in (one, other)]
    assert (outs[0] < outs[1]) == (ins[0] < ins[1]) == (one < other)
    assert tables.split_lane_seq(outs[0]) == tables.split_lane_seq(ins[0]) == one[1:]
    assert tables.split_waiting(ins[0]) == one


@given(U32, U32, st.lists(TIMED, min_size=2, max_size=6))
def test_everything_of_one_queue_stands_together_by_time(
    queue: int, other: int, items: list[tuple[int, int, int]]
) -> None:
    keys = sorted(tables.waiting_key(tables.WAITING, queue, *item) for item in items)
    assert [tables.split_waiting(key) for key in keys] == sorted(items)
    first, end = tables.u32_bounds(tables.WAITING, queue)
    assert all(first <= key < end for key in keys)
    foreign = tables.waiting_key(tables.WAITING, other, *items[0])
    assert (first <= foreign < end) == (other == queue)


@given(U32, st.text(max_size=5), st.text(max_size=5), st.lists(TIMED, min_size=1, max_size=6))
def test_rows_of_one_key_stand_together_in_order(
    queue: int, key: str, other: str, items: list[tuple[int, int, int]]
) -> None:
    key_hash = tables.key_hash(key)
    keys = sorted(tables.keyed_key(tables.KEYED, queue, key_hash, *item) for item in items)
    assert [tables.split_keyed(found) for found in keys] == sorted(items)
    prefix = tables.keyed_prefix(tables.KEYED, queue, key_hash)
    end = prefix + b"\xff" * 21
    assert all(prefix <= found < end for found in keys)
    foreign = tables.keyed_key(tables.KEYED, queue, tables.key_hash(other), *items[0])
    assert (prefix <= foreign < end) == (other == key)


@given(U32, U64, U64, U64)
def test_bounds_of_a_lane_hold_exactly_their_range(lane: int, first: int, last: int, seq: int) -> None:
    lower, upper = tables.lane_bounds(tables.INBOX, lane, first, last)
    inside = first <= seq <= last
    assert (lower <= tables.lane_seq(tables.INBOX, lane, seq) < upper) == inside
    assert not lower <= tables.lane_seq(tables.INBOX, lane + 1, seq) < upper
    assert not lower <= tables.lane_seq(tables.ROW_STATE, lane, seq) < upper


@given(U32, U64)
def test_bounds_of_a_whole_lane_and_of_a_table_leave_nothing_out(lane: int, seq: int) -> None:
    key = tables.lane_seq(tables.OUTBOX, lane, seq)
    for first, end in (tables.lane_bounds(tables.OUTBOX, lane), tables.table_bounds(tables.OUTBOX)):
        assert first <= key < end
    first, end = tables.table_bounds(tables.OUTBOX)
    assert not first <= tables.lane_seq(tables.WITHDRAWN, lane, seq) < end


@given(st.text(min_size=1, max_size=64), st.text(min_size=1, max_size=64))
def test_names_have_keys_of_their_own(one: str, other: str) -> None:
    assert (tables.named(tables.PEER, one) == tables.named(tables.PEER, other)) == (one == other)
    assert tables.named(tables.PEER, one)[1:].decode() == one
    assert len(tables.named(tables.ID, one)) <= 511


def test_no_two_tables_share_a_first_byte_and_none_takes_the_stores_own() -> None:
    numbers = [value for name, value in vars(tables).items() if name.isupper() and isinstance(value, int)]
    assert len(numbers) == len(set(numbers)) > 15
    assert tables.META[0] not in numbers
    assert min([*numbers, tables.META[0]]) >= 1
