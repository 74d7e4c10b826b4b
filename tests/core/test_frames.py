"""Frames: what was said arrives as it was said, and whatever else comes in raises BadFrame, at a bounded price."""

from __future__ import annotations

import tracemalloc
from itertools import product
from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zmqrel.core import frames
from zmqrel.core.entries import MAX_SEQ
from zmqrel.core.frames import BadFrame, Frame, decode, encode, header, pack_sizes, unpack_records

U64 = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**32, 2**63, 2**64 - 1]))
SEQ = st.integers(1, MAX_SEQ)
NAME = st.text("abcXYZ019._-", min_size=1, max_size=64)
FLAG = st.booleans()
IDENTITY = st.tuples(U64, NAME, U64).map(list)
CLOCK = st.tuples(U64, U64, U64).map(list)
LANE_INFO = st.tuples(U64, U64, st.text(max_size=64), FLAG, SEQ, SEQ, U64).map(
    lambda info: [*info[:4], min(info[4:6]), max(info[4:6]), info[6]]
)
INFO = st.tuples(
    st.none() | CLOCK,
    U64,
    FLAG,
    FLAG,
    st.lists(st.tuples(U64, U64).map(list), max_size=3),
    st.lists(LANE_INFO, max_size=3),
).map(list)
RUNS = st.lists(st.integers(-1000, 5).filter(bool), min_size=1, max_size=8)
RECORDS = st.lists(st.binary(max_size=40), min_size=40, max_size=40)


@st.composite
def spoken(draw: st.DrawFn) -> tuple[list[Any], list[bytes] | None]:
    """A header and the records of its payload: one frame that a peer may send."""
    frame_type = draw(st.sampled_from(list(frames.FRAME_NAMES)))
    records = None
    fields: list[Any]
    if frame_type == frames.HELLO:
        fields = [draw(IDENTITY), draw(U64)]
    elif frame_type in (frames.WELCOME, frames.OPEN):
        fields = [draw(IDENTITY), draw(CLOCK), draw(INFO)]
    elif frame_type == frames.BYE:
        fields = [draw(st.text(max_size=200))]
    elif frame_type == frames.PING:
        fields = [draw(U64)]
    elif frame_type == frames.PONG:
        fields = draw(CLOCK)
    elif frame_type == frames.DATA:
        runs = draw(RUNS)
        records = draw(RECORDS)[: sum(run for run in runs if run > 0)]
        first = draw(st.integers(1, MAX_SEQ - sum(map(abs, runs))))
        lane = [draw(U64), draw(U64), draw(st.text(max_size=64)), draw(U64)]
        fields = [*lane, first, runs, pack_sizes(records)]
    else:
        fields = [draw(st.lists(st.tuples(U64, U64, U64, U64, FLAG).map(list), max_size=4))]
    session = draw(st.binary(min_size=8, max_size=8) | st.binary(min_size=16, max_size=16))
    return [frame_type, session, draw(U64), draw(U64), *fields], records


def plain(value: Any) -> Any:
    """Tuples of any kind as lists."""
    return [plain(item) for item in value] if isinstance(value, (list, tuple)) else value


@given(spoken())
def test_every_frame_arrives_as_it_was_said(said: tuple[list[Any], list[bytes] | None]) -> None:
    head, records = said
    frame = decode(encode(head, records))
    fields = plain(frame.fields[0]) if frame.type == frames.DATA else plain(frame.fields)
    assert [frame.type, frame.session, frame.instance, frame.commits, *fields] == head
    assert frame.payload == b"".join(records or [])
    if records is not None:
        assert unpack_records(frame.fields[0].sizes, frame.payload) == records


def test_a_header_leaves_room_for_the_commit_count() -> None:
    head = header(frames.PING, bytes(16), 5, 77)
    head[frames.COUNT_AT] = 9
    assert decode(encode(head)) == Frame(frames.PING, bytes(16), 5, 9, [77], b"")


def test_a_single_record_is_passed_on_without_a_copy() -> None:
    record = bytes(100_000)
    parts = encode([0], [record])
    assert parts[1] is record
    assert unpack_records(pack_sizes([record]), record)[0] is record


@given(st.lists(st.binary(max_size=200), max_size=4))
def test_garbage_is_refused(parts: list[bytes]) -> None:
    with pytest.raises(BadFrame):
        decode(parts)


@given(spoken(), st.data())
def test_a_truncated_frame_is_refused(said: tuple[list[Any], list[bytes] | None], data: st.DataObject) -> None:
    parts = encode(*said)
    cut = data.draw(st.integers(0, len(parts[0]) - 1))
    with pytest.raises(BadFrame):
        decode([parts[0][:cut], *parts[1:]])
    with pytest.raises(BadFrame):
        decode([*parts, b""] if len(parts) == 2 else [])


@given(spoken(), st.data())
def test_a_mutated_frame_is_refused_or_makes_sense(
    said: tuple[list[Any], list[bytes] | None], data: st.DataObject
) -> None:
    parts = encode(*said)
    head = bytearray(parts[0])
    for _ in range(data.draw(st.integers(1, 4))):
        head[data.draw(st.integers(0, len(head) - 1))] = data.draw(st.integers(0, 255))
    try:
        frame = decode([bytes(head), *parts[1:]])
        if frame.type == frames.DATA:
            unpack_records(frame.fields[0].sizes, frame.payload)
    except BadFrame:
        return
    assert frame.type in frames.FRAME_NAMES


VALID: dict[int, list[Any]] = {
    frames.HELLO: [[1, "a", 5], 7],
    frames.WELCOME: [[1, "a", 5], [1, 2, 3], [[1, 2, 3], 9, False, True, [[1, 2]], [[1, 1, "q", False, 3, 4, 0]]]],
    frames.BYE: ["why"],
    frames.PING: [7],
    frames.PONG: [1, 2, 3],
    frames.DATA: [1, 1, "q", 0, 1, [2, -3], bytes(8)],
    frames.ACK: [[[1, 2, 3, 4, True]]],
}
WRONG: list[Any] = [None, True, -1, 2**64 - 1, 1.5, "x" * 300, b"x", [], [[]], [0], [True], [[1, 2, 3, 4, 5]]]


def paths(value: Any) -> list[tuple[int, ...]]:
    """The places of everything inside of a list."""
    if not isinstance(value, list):
        return [()]
    return [(), *((at, *path) for at, item in enumerate(value) for path in paths(item))]


def replaced(value: Any, path: tuple[int, ...], by: Any) -> Any:
    if not path:
        return by
    return [replaced(item, path[1:], by) if at == path[0] else item for at, item in enumerate(value)]


@pytest.mark.parametrize("frame_type", VALID)
def test_a_field_of_another_kind_is_refused(frame_type: int) -> None:
    fields = VALID[frame_type]
    payload = [b""] if frame_type == frames.DATA else None
    assert decode(encode([frame_type, bytes(16), 1, 1, *fields], payload)).type == frame_type
    for path, wrong in product(paths(fields)[1:], WRONG):
        head = [frame_type, bytes(16), 1, 1, *replaced(fields, path, wrong)]
        try:
            frame = decode(encode(head, payload))
        except BadFrame:
            continue
        told = plain(frame.fields[0]) if frame_type == frames.DATA else plain(frame.fields)
        assert told == replaced(fields, path, wrong), "what is taken is taken as it was said"


@pytest.mark.parametrize("field", [0, 1, 2, 3])
@pytest.mark.parametrize("wrong", [None, True, -1, "x", b"x", [], 99])
def test_a_wrong_beginning_is_refused(field: int, wrong: Any) -> None:
    head = [frames.PING, bytes(16), 1, 1, 7]
    head[field] = wrong
    if wrong == 99 and field in (2, 3):
        assert decode(encode(head)).fields == [7]
        return
    with pytest.raises(BadFrame):
        decode(encode(head))


@pytest.mark.parametrize("number", [0, 2**63, 2**64 - 1])
def test_numbers_of_64_bits_arrive(number: int) -> None:
    frame = decode(encode([frames.PONG, bytes(16), number, number, number, number, number]))
    assert (frame.instance, frame.commits, frame.fields) == (number, number, [number] * 3)


@pytest.mark.parametrize("flag", [True, False])
@pytest.mark.parametrize("place", range(3))
def test_a_truth_value_is_no_number(flag: bool, place: int) -> None:
    fields: list[Any] = [1, 2, 3]
    fields[place] = flag
    with pytest.raises(BadFrame, match="numbers"):
        decode(encode([frames.PONG, bytes(16), 1, 1, *fields]))


def data_frame(first: int, runs: list[Any], sizes: bytes, payload: bytes = b"") -> list[bytes]:
    return encode([frames.DATA, bytes(16), 1, 1, 1, 1, "q", 0, first, runs, sizes], [payload])


def test_sequence_numbers_end_where_a_grant_beyond_them_still_fits() -> None:
    assert decode(data_frame(MAX_SEQ - 5, [-5], b"")).fields[0].first_seq == MAX_SEQ - 5
    for first, run in [(MAX_SEQ - 5, -6), (0, -1), (1, -MAX_SEQ), (1, -(2**63))]:
        with pytest.raises(BadFrame, match="sequence numbers"):
            decode(data_frame(first, [run], b""))


@pytest.mark.parametrize("runs", [[], [0], [1, 0], [True], ["1"], [1.0], [1, None], list(range(1, 2)) * 65_537])
def test_runs_that_say_nothing_are_refused(runs: list[Any]) -> None:
    with pytest.raises(BadFrame):
        decode(data_frame(1, runs, bytes(4)))


@pytest.mark.parametrize(
    ("sizes", "payload"),
    [
        ([1], b""),
        ([1], b"12"),
        ([1, 1], b"1"),
        ([1, 1], b"123"),
        ([2**32 - 1] * 3, b"1"),
        ([], b"1"),
    ],
)
def test_sizes_that_do_not_make_up_the_payload_are_refused(sizes: list[int], payload: bytes) -> None:
    packed = b"".join(size.to_bytes(4, "big") for size in sizes)
    with pytest.raises(BadFrame):
        unpack_records(packed, payload)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_sizes_as_records(count: int) -> None:
    with pytest.raises(BadFrame, match="sizes"):
        decode(data_frame(1, [2, -5], bytes(4 * count)))


@pytest.mark.parametrize("sizes", [b"123", bytes(4 * (frames.MAX_ENTRIES + 1))])
def test_sizes_are_numbers_of_four_bytes_and_not_too_many(sizes: bytes) -> None:
    with pytest.raises(BadFrame, match="65,536"):
        unpack_records(sizes, b"")


def test_only_data_has_a_payload() -> None:
    with pytest.raises(BadFrame, match="payload"):
        decode([*encode([frames.PING, bytes(16), 1, 1, 7]), b"x"])
    with pytest.raises(BadFrame, match="payload"):
        decode(data_frame(1, [-1], b"")[:1])


HOSTILE = {
    "nested lists": b"\x91" * 1_000_000,
    "a list that claims four billion": b"\xdd\xff\xff\xff\xff",
    "lists that claim many each, one in the other": b"\xdd\x00\x01\x00\x00" * 20_000,
    "lists that claim millions each, one in the other": b"\xdd\x00\x30\x00\x00" * 800_000,
    "a text that claims four billion": b"\xdb\xff\xff\xff\xff" + b"x" * 1000,
    "a map that claims a hundred thousand": b"\xdf\x00\x01\x86\xa0" + b"\x00" * 200_000,
    "an extension": b"\xc7\x05\x01hello",
    "a point in time": b"\xd6\xff\x00\x00\x00\x01",
    "empty lists": b"\xdd\x00\x01\x86\xa0" + b"\x90" * 100_000,
    "zeros without end": bytes(8_000_000),
}


@pytest.mark.parametrize("attack", HOSTILE)
@pytest.mark.parametrize("frame_type", frames.FRAME_NAMES)
def test_hostile_bytes_cost_a_bounded_amount_of_memory(attack: str, frame_type: int) -> None:
    head = msgpack.packb([frame_type, bytes(16), 1, 1])[1:]
    part = bytes([0x95]) + head + HOSTILE[attack]
    tracemalloc.start()
    try:
        with pytest.raises(BadFrame):
            decode([part] if frame_type != frames.DATA else [part, b""])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 100_000_000
