"""Session frames and their bytes: what two peers say to each other over one link.

A frame has one or two parts: a msgpack list, and for DATA the records of its entries, joined.
Every frame names its session, and the sender's store life (instance) and commit count at the time of sending.

    HELLO    connector: here I am                        -> WELCOME  binder: this is what I know
    OPEN     connector: this is what I know, begin
    DATA     entries of one lane        ACK   floors and grants        PING, PONG   liveness and clock readings
    BYE      the session named here is none (any more)

Limits are checked before anything is decoded deep; whatever does not fit raises BadFrame. Nothing here knows
what a frame means: channel.py does.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from itertools import accumulate
from sys import byteorder
from typing import Any, NamedTuple

from zmqrel.checks import is_name
from zmqrel.core.entries import MAX_NAME, MAX_SEQ, BadRecord, is_number, pack, unpack

PROTOCOL = 1
HELLO, WELCOME, OPEN, BYE, PING, PONG, DATA, ACK = range(1, 9)
FRAME_NAMES = {HELLO: "HELLO", WELCOME: "WELCOME", OPEN: "OPEN", BYE: "BYE"} | {
    PING: "PING",
    PONG: "PONG",
    DATA: "DATA",
    ACK: "ACK",
}

MAX_HEADER_BYTES = 4 * 1024 * 1024
"""Of WELCOME and OPEN, which tell of every lane. Decoded, hostile bytes take up to 75 times their length."""
_MAX_HEADER_BYTES = {HELLO: 1024, WELCOME: MAX_HEADER_BYTES, OPEN: MAX_HEADER_BYTES, BYE: 1024} | {
    PING: 1024,
    PONG: 1024,
    DATA: 1024 * 1024,
    ACK: 1024 * 1024,
}
MAX_ENTRIES = 65_536
"""Records and void runs in one DATA frame, lanes in any other."""
COUNT_AT = 3
"""Where the commit count stands in every header: it is filled in when the turn's commit is known."""


_INTS = {int}


class BadFrame(ValueError):
    """The frame was not made by a peer, or was damaged on its way."""


class Frame(NamedTuple):
    """A decoded frame. `fields` are what follows the common part."""

    type: int
    session: bytes
    instance: int
    commits: int
    fields: list[Any]
    payload: bytes


class Heard(NamedTuple):
    """What a peer last heard of the other: its store, the life of it, and how many commits."""

    store_id: int
    instance: int
    commits: int


class LaneInfo(NamedTuple):
    """A sender's view of one of its lanes, in WELCOME and OPEN."""

    lane_id: int
    kind: int
    queue: str
    closed: bool
    lowest: int
    next_seq: int
    doubt_upto: int


class Info(NamedTuple):
    """What both sides tell at the start of a session."""

    heard: Heard | None
    largest_entry: int
    i_am_old: bool
    you_are_old: bool
    floors: list[tuple[int, int]]
    lanes: list[LaneInfo]


class Identity(NamedTuple):
    """Who speaks, in HELLO, WELCOME and OPEN."""

    protocol: int
    name: str
    store_id: int


class Data(NamedTuple):
    """Entries first_seq, first_seq+1, ... of one lane: runs of records (positive) and of voids (negative)."""

    lane_id: int
    kind: int
    queue: str
    doubt_upto: int
    first_seq: int
    runs: list[int]
    sizes: bytes


class LaneAck(NamedTuple):
    """A receiver's floor of a lane, how far beyond it the sender may go, and whether there was a gap."""

    lane_id: int
    floor: int
    grant_seq: int
    grant_bytes: int
    gap: bool


def header(frame_type: int, session: bytes, instance: int, *fields: Any) -> list[Any]:
    """A header whose commit count is still to be filled in."""
    return [frame_type, session, instance, 0, *fields]


def encode(head: list[Any], payload: list[bytes] | None = None) -> list[bytes]:
    """The parts of a frame. A single large record is passed on without a copy."""
    packed = pack(head)
    if payload is None:
        return [packed]
    return [packed, payload[0] if len(payload) == 1 else b"".join(payload)]


def pack_sizes(records: list[bytes]) -> bytes:
    """The lengths of records as u32, big-endian."""
    if len(records) == 1:
        return len(records[0]).to_bytes(4, "big")
    sizes = array("I", map(len, records))
    if byteorder == "little":
        sizes.byteswap()
    return sizes.tobytes()


def unpack_sizes(sizes: bytes) -> array[int]:
    """The lengths that `pack_sizes` packed; a rest of less than four bytes is left out."""
    lengths = array("I")
    lengths.frombytes(sizes[: len(sizes) // 4 * 4])
    if byteorder == "little":
        lengths.byteswap()
    return lengths


def unpack_records(sizes: bytes, payload: bytes) -> list[bytes]:
    """The records of a DATA frame. Raises BadFrame unless the sizes make up the payload exactly."""
    width = len(sizes)
    if width % 4 or width > 4 * MAX_ENTRIES:
        raise BadFrame("sizes are at most 65,536 numbers of four bytes")
    if width == 4:
        length = int.from_bytes(sizes, "big")
        if length != len(payload):
            raise BadFrame(f"one record of {length} bytes in a payload of {len(payload)}")
        return [payload]
    lengths = unpack_sizes(sizes)
    ends = list(accumulate(lengths))
    if (ends[-1] if ends else 0) != len(payload):
        raise BadFrame(f"records of {ends[-1] if ends else 0} bytes in a payload of {len(payload)}")
    return [payload[end - length : end] for end, length in zip(ends, lengths, strict=True)]


def decode(parts: list[bytes]) -> Frame:
    """The frame of these parts. Raises BadFrame with what was wrong; never anything else."""
    number = len(parts)
    if not 1 <= number <= 2:
        raise BadFrame(f"a frame has one or two parts, got {number}")
    # The limit depends on the type, so the type is read before anything is decoded: a list of 4 to 15 fields,
    # the first of them a small number, begins with two bytes that say so.
    start = parts[0][:2]
    if len(start) < 2 or not 0x94 <= start[0] <= 0x9F or start[1] not in FRAME_NAMES:
        raise BadFrame("a header is a list of at least type, session, instance and commit count")
    try:
        fields = unpack(parts[0], _MAX_HEADER_BYTES[start[1]], MAX_ENTRIES, maps=False)
    except BadRecord as error:
        raise BadFrame(str(error)) from None
    frame_type, session, instance, count = fields[:4]
    if type(session) is not bytes or len(session) not in (8, 16):
        raise BadFrame("a session is named by 8 bytes in HELLO and 16 bytes after it")
    if type(instance) is not int or instance < 0 or type(count) is not int or count < 0:
        raise BadFrame("instance and commit count are numbers from 0 to 2^64-1")
    if (frame_type == DATA) != (number == 2):
        raise BadFrame("DATA has a payload, other frames have none")
    try:
        shaped = _SHAPES[frame_type](fields[4:])
    except (TypeError, ValueError) as error:
        raise BadFrame(f"{FRAME_NAMES[frame_type]}: {str(error)[:100]}") from None
    return Frame(frame_type, session, instance, count, shaped, parts[1] if number == 2 else b"")


def _need(condition: bool, rule: str) -> None:
    if not condition:
        raise ValueError(rule)


def _numbers(values: Sequence[Any], length: int) -> Sequence[Any]:
    """The values, if they are so many numbers. What msgpack decodes as an int is at most 2^64-1."""
    if len(values) != length:
        raise ValueError(f"takes {length} numbers")
    if {*map(type, values)} != _INTS or min(values) < 0:
        raise ValueError("takes numbers from 0 to 2^64-1")
    return values


def _identity(value: Any) -> Identity:
    protocol, name, store_id = value
    _need(is_number(protocol) and is_number(store_id), "protocol and store id are numbers")
    _need(isinstance(name, str) and is_name(name), "a name has 1 to 64 of a-z A-Z 0-9 . _ -")
    return Identity(protocol, name, store_id)


def _info(value: Any) -> Info:
    heard, largest, i_am_old, you_are_old, floors, lanes = value
    _need(is_number(largest), "the largest entry is a number")
    _need(type(i_am_old) is bool and type(you_are_old) is bool, "old is true or false")
    return Info(
        None if heard is None else Heard(*_numbers(heard, 3)),
        largest,
        i_am_old,
        you_are_old,
        [(lane_id, floor) for lane_id, floor in (_numbers(item, 2) for item in floors)],
        [_lane_info(item) for item in lanes],
    )


def _lane_info(value: Any) -> LaneInfo:
    lane_id, kind, queue, closed, lowest, next_seq, doubt_upto = value
    _numbers((lane_id, kind, lowest, next_seq, doubt_upto), 5)
    _need(isinstance(queue, str) and len(queue) <= MAX_NAME and type(closed) is bool, "a lane names its queue")
    _need(1 <= lowest <= next_seq <= MAX_SEQ, "lowest is from 1 to the next sequence number")
    return LaneInfo(lane_id, kind, queue, closed, lowest, next_seq, doubt_upto)


def _hello(fields: list[Any]) -> list[Any]:
    identity, sent_us = fields
    return [_identity(identity), *_numbers([sent_us], 1)]


def _welcome_or_open(fields: list[Any]) -> list[Any]:
    identity, clock, info = fields
    return [_identity(identity), _numbers(clock, 3), _info(info)]


def _bye(fields: list[Any]) -> list[Any]:
    (reason,) = fields
    _need(isinstance(reason, str) and len(reason) <= 200, "a reason is a text of at most 200 characters")
    return [reason]


def _data(fields: list[Any]) -> list[Any]:
    lane_id, kind, queue, doubt_upto, first_seq, runs, sizes = fields
    _numbers((lane_id, kind, doubt_upto, first_seq), 4)
    if type(queue) is not str or len(queue) > MAX_NAME:
        raise ValueError("a queue name has at most 64 characters")
    if type(runs) is not list or not 1 <= len(runs) <= MAX_ENTRIES:
        raise ValueError("1 to 65,536 runs")
    if {*map(type, runs)} != _INTS or 0 in runs:
        raise ValueError("a run is a number other than 0")
    if first_seq < 1 or first_seq + sum(map(abs, runs)) > MAX_SEQ:
        raise ValueError("sequence numbers are 1 to 2^63")
    if type(sizes) is not bytes:
        raise ValueError("sizes are bytes")
    if len(sizes) != 4 * sum([run for run in runs if run > 0]):
        raise ValueError("as many sizes as records")
    return [Data(lane_id, kind, queue, doubt_upto, first_seq, runs, sizes)]


def _ack(fields: list[Any]) -> list[Any]:
    (lanes,) = fields
    _need(isinstance(lanes, list), "a list of lanes")
    return [[_lane_ack(item) for item in lanes]]


def _lane_ack(value: Any) -> LaneAck:
    lane_id, floor, grant_seq, grant_bytes, gap = value
    _numbers((lane_id, floor, grant_seq, grant_bytes), 4)
    if type(gap) is not bool:
        raise ValueError("gap is true or false")
    return LaneAck(lane_id, floor, grant_seq, grant_bytes, gap)


_SHAPES = {
    HELLO: _hello,
    WELCOME: _welcome_or_open,
    OPEN: _welcome_or_open,
    BYE: _bye,
    PING: lambda fields: [*_numbers(fields, 1)],
    PONG: lambda fields: [*_numbers(fields, 3)],
    DATA: _data,
    ACK: _ack,
}
