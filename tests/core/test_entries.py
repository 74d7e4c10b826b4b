"""Records: messages and control entries arrive as they were made, and damage is noticed wherever it is read back."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise, product
from typing import Any
from zlib import crc32

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqrel.core import entries
from zmqrel.core.entries import (
    FRAMING_BYTES,
    LARGEST_META_BYTES,
    MAX_META_BYTES,
    MAX_SEQ,
    MAX_TIME_US,
    NO_META,
    BadRecord,
    ControlEntry,
    Deny,
    InLaneState,
    Meta,
    Notice,
    OutLaneState,
    Settle,
    Settled,
    State,
    Withdraw,
    decode_control,
    decode_head,
    encode_control,
    encode_messages,
    encode_meta,
    to_ranges,
    verify,
    verify_all,
)
from zmqrel.outcome import Cause, Outcome

U64 = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 2**64 - 1]))
SEQ = st.integers(1, MAX_SEQ)
TIME = st.one_of(st.integers(0, MAX_TIME_US), st.sampled_from([0, MAX_TIME_US]))
TEXT = st.text(max_size=20)
HEADERS = st.dictionaries(
    TEXT,
    st.one_of(TEXT, st.integers(-(2**63), 2**64 - 1), st.floats(allow_nan=False), st.booleans(), st.binary(max_size=9)),
)
EXPIRY = st.sampled_from(["drop", "dead", "queue:q", "queue:" + "x" * 64])
METAS = st.builds(
    Meta,
    st.none() | TEXT,
    st.none() | TEXT,
    st.none() | HEADERS,
    TIME,
    EXPIRY,
    st.none() | U64,
    st.none() | TEXT,
    st.none() | TEXT,
)
RANGE = st.tuples(SEQ, SEQ).map(lambda ends: (min(ends), max(ends)))
RANGES = st.lists(RANGE, max_size=4)
SETTLED = st.builds(
    lambda ends, *rest: Settled(*ends, *rest),
    RANGE, st.sampled_from(Outcome), st.none() | TEXT, U64, TIME, TIME, st.booleans(),
)  # fmt: skip
ANY_SEQ = st.integers(0, MAX_SEQ)
TOMBSTONES = st.lists(st.tuples(SEQ, st.sampled_from(Cause).map(lambda cause: cause.value)), max_size=3)
CONTROL_ENTRIES = st.one_of(
    st.builds(Withdraw, U64, U64, U64, st.text(max_size=64), RANGES, st.sampled_from(Cause)),
    st.builds(Settle, U64, U64, st.lists(SETTLED, max_size=4)),
    st.builds(Notice, U64, U64, SEQ, TIME),
    st.builds(Deny, U64, U64, RANGES, st.text(max_size=50)),
    st.builds(
        State,
        U64,
        U64,
        st.lists(st.builds(InLaneState, U64, ANY_SEQ, ANY_SEQ, RANGES, TOMBSTONES), max_size=3),
        st.lists(st.builds(OutLaneState, U64, ANY_SEQ, ANY_SEQ, ANY_SEQ, st.booleans(), RANGES), max_size=3),
        st.booleans(),
    ),
)


# --------------------------------------------------------------------------------------------------- messages


@given(st.lists(st.binary(max_size=60), min_size=1, max_size=5), TIME, TIME, METAS)
def test_a_message_arrives_as_it_was_made(bodies: list[bytes], sent_at: int, deadline: int, meta: Meta) -> None:
    for body, record in zip(bodies, encode_messages(bodies, sent_at, deadline, encode_meta(meta)), strict=True):
        assert verify(record)
        head = decode_head(record)
        assert (head.sent_at_us, head.deadline_us, head.meta) == (sent_at, deadline, meta)
        assert record[head.body_at : -4] == body


def test_what_says_nothing_takes_no_room() -> None:
    assert encode_meta(NO_META) == b""
    assert len(encode_messages([b"body"], 1, 2, b"")[0]) == FRAMING_BYTES + 4


@pytest.mark.parametrize("meta", [b"", encode_meta(Meta(key="k", headers={"a": 1}))])
def test_every_flipped_bit_is_noticed(meta: bytes) -> None:
    record = encode_messages([b"body of it"], 1_700_000_000_000_000, 5, meta)[0]
    for bit in range(8 * len(record)):
        damaged = bytearray(record)
        damaged[bit // 8] ^= 1 << bit % 8
        assert not verify(bytes(damaged))


def test_a_flipped_bit_of_a_control_entry_is_noticed() -> None:
    record = encode_control(Notice(2**63, 5, 6, 7))
    for bit in range(8 * len(record)):
        damaged = bytearray(record)
        damaged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(BadRecord, match="checksum"):
            decode_control(bytes(damaged))


@pytest.mark.parametrize("field", ["key", "id", "origin_id", "cause"])
def test_a_label_of_any_length_is_no_label(field: str) -> None:
    for length in (128, 129):
        record = encode_messages([b"x"], 1, 0, encode_meta(Meta(**{field: "x" * length})))[0]
        if length == 128:
            assert getattr(decode_head(record).meta, field) == "x" * length
        else:
            with pytest.raises(BadRecord, match="at most 128 characters"):
                decode_head(record)


@given(st.binary(max_size=100))
def test_garbage_is_no_record(garbage: bytes) -> None:
    sealed = garbage + crc32(garbage).to_bytes(4, "little")
    assert verify(sealed)
    with pytest.raises(BadRecord):
        decode_control(sealed)
    with suppress(BadRecord):
        assert decode_head(sealed).body_at <= len(sealed)


@pytest.mark.parametrize("length", range(FRAMING_BYTES))
def test_what_is_shorter_than_a_header_is_no_message(length: int) -> None:
    record = encode_messages([b""], 1, 0, b"")[0][:length]
    with pytest.raises(BadRecord):
        decode_head(record)


def head_of(meta: Any, meta_length: int | None = None, sent_at: int = 1, deadline: int = 0) -> entries.MessageHead:
    packed = meta if isinstance(meta, bytes) else msgpack.packb(meta)
    length = len(packed) if meta_length is None else meta_length
    return decode_head(entries.HEADER.pack(length, sent_at, deadline) + packed + bytes(4))


@pytest.mark.parametrize("length", [3, 2**32 - 1])
def test_meta_longer_than_its_record_is_refused(length: int) -> None:
    with pytest.raises(BadRecord, match="does not fit"):
        head_of(b"\x01\x02", length)


def test_meta_beyond_its_limit_is_refused() -> None:
    with pytest.raises(BadRecord, match="does not fit"):
        head_of(b"\xc0" * (LARGEST_META_BYTES + 1))


def test_the_largest_meta_that_may_be_sent_has_room_for_what_a_move_adds() -> None:
    meta = Meta(headers={"h": "x" * (MAX_META_BYTES - 30)})
    assert len(encode_meta(meta)) <= MAX_META_BYTES
    moved = meta._replace(id="i" * 128, origin_id="\u20ac" * 128, cause="expired")
    assert decode_head(encode_messages([b""], 1, 0, encode_meta(moved))[0]).meta == moved


@pytest.mark.parametrize("times", [(MAX_TIME_US + 1, 0), (1, 2**64 - 1)])
def test_times_that_no_date_can_tell_are_refused(times: tuple[int, int]) -> None:
    with pytest.raises(BadRecord, match="9999"):
        head_of(b"", None, *times)


@pytest.mark.parametrize(
    "meta",
    [
        None,
        {},
        [],
        [None] * 7,
        [None] * 9,
        [1, None, None, 0, "dead", None, None, None],
        [None, b"id", None, 0, "dead", None, None, None],
        [None, None, [1], 0, "dead", None, None, None],
        [None, None, {"a": []}, 0, "dead", None, None, None],
        [None, None, {"a": None}, 0, "dead", None, None, None],
        [None, None, {b"a": 1}, 0, "dead", None, None, None],
        [None, None, None, -1, "dead", None, None, None],
        [None, None, None, True, "dead", None, None, None],
        [None, None, None, MAX_TIME_US + 1, "dead", None, None, None],
        [None, None, None, 0, None, None, None, None],
        [None, None, None, 0, "elsewhere", None, None, None],
        [None, None, None, 0, "queue:", None, None, None],
        [None, None, None, 0, "queue:" + "x" * 65, None, None, None],
        [None, None, None, 0, "dead", 1.5, None, None],
        [None, None, None, 0, "dead", None, 5, None],
        [None, None, None, 0, "dead", None, None, []],
    ],
)
def test_meta_of_another_shape_is_refused(meta: Any) -> None:
    with pytest.raises(BadRecord):
        head_of(meta)


# --------------------------------------------------------------------------------------------- control entries


@given(CONTROL_ENTRIES)
def test_a_control_entry_arrives_as_it_was_made(entry: ControlEntry) -> None:
    assert decode_control(encode_control(entry)) == entry


def sealed(fields: Any) -> bytes:
    packed = msgpack.packb(fields)
    return bytes(packed) + crc32(packed).to_bytes(4, "little")


VALID: list[list[Any]] = [
    [1, 5, 6, 1, "q", [[1, 2]], 1],
    [2, 5, 6, [[1, 2, 1, None, 0, 0, 9, False]]],
    [3, 5, 6, 7, 8],
    [4, 5, 6, [[1, 1, 2, [[1, 2]], [[3, 1]]]], [[1, 1, 2, 2, True, [[1, 2]]]], True],
]
WRONG: list[Any] = [None, True, -1, 0, 99, 2**64 - 1, 1.5, "x" * 65, b"x", [], [[]], [[2, 1]], [[True, True]], {"a": 1}]


def places(value: Any) -> list[tuple[int, ...]]:
    if not isinstance(value, list):
        return [()]
    return [(), *((at, *place) for at, item in enumerate(value) for place in places(item))]


def replaced(value: Any, place: tuple[int, ...], by: Any) -> Any:
    if not place:
        return by
    return [replaced(item, place[1:], by) if at == place[0] else item for at, item in enumerate(value)]


@pytest.mark.parametrize("fields", VALID, ids=["withdraw", "settle", "notice", "state"])
def test_a_control_entry_of_another_shape_raises_bad_record_only(fields: list[Any]) -> None:
    decode_control(sealed(fields))
    for place, wrong in product(places(fields), WRONG):
        try:
            entry = decode_control(sealed(replaced(fields, place, wrong)))
        except BadRecord:
            continue
        assert decode_control(encode_control(entry)) == entry, "what is taken can be told again"
        assert max(numbers(entry), default=0) < 2**64


def numbers(value: Any) -> list[int]:
    if isinstance(value, (list, tuple)):
        return [number for item in value for number in numbers(item)]
    return [value] if type(value) is int else []


@pytest.mark.parametrize("place", [(0,), (1,), (2,), (3,), (6,), (5, 0, 0)])
def test_a_truth_value_is_no_number(place: tuple[int, ...]) -> None:
    with pytest.raises(BadRecord):
        decode_control(sealed(replaced(VALID[0], place, True)))


@pytest.mark.parametrize(
    "fields", [None, 5, "text", b"\x03\x01\x02\x03\x04", {}, {"a": 1}, [], [0], [5, 1], [1], [4, 1, 2]]
)
def test_what_is_no_entry_at_all_is_refused(fields: Any) -> None:
    with pytest.raises(BadRecord):
        decode_control(sealed(fields))


@pytest.mark.parametrize("last", [MAX_SEQ + 1, 2**64 - 1])
def test_ranges_end_where_sequence_numbers_do(last: int) -> None:
    for fields in (
        [1, 5, 6, 1, "q", [[1, last]], 1],
        [2, 5, 6, [[1, last, 1, None, 0, 0, 9, False]]],
        [3, 5, 6, last, 0],
    ):
        with pytest.raises(BadRecord):
            decode_control(sealed(fields))


def test_what_is_too_long_is_not_decoded() -> None:
    with pytest.raises(BadRecord, match="at most 10 are allowed"):
        entries.unpack(bytes(11), 10)


# ------------------------------------------------------------------------------------------------------ ranges


@given(st.sets(st.integers(1, 60)))
def test_ranges_say_exactly_what_they_were_made_of(seqs: set[int]) -> None:
    ranges = to_ranges(sorted(seqs))
    assert {seq for first, last in ranges for seq in range(first, last + 1)} == seqs
    assert all(one[1] + 1 < other[0] for one, other in pairwise(ranges))


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=30), st.data())
def test_many_records_are_good_if_each_is(contents: list[bytes], data: st.DataObject) -> None:
    records = [content + crc32(content).to_bytes(4, "little") for content in contents]
    assert verify_all(records)
    assert verify_all([*records, *records[::-1]])
    at = data.draw(st.integers(0, len(records) - 1))
    spoilt = bytearray(records[at])
    spoilt[data.draw(st.integers(0, len(spoilt) - 1))] ^= data.draw(st.integers(1, 255))
    for bad in (bytes(spoilt), records[at][:-1], b"", b"abc"):
        some = [*records[:at], bad, *records[at + 1 :]]
        assert verify_all(some) == all(map(verify, some)) is False


def test_large_records_among_small_ones_are_checked_too() -> None:
    records = encode_messages([b"x" * length for length in (*range(20), 5000, 100_000)], 1, 0, b"")
    assert verify_all(records)
    assert not verify_all([*records[:-1], records[-1][:-1] + b"?"])
