"""What decodes the bytes of strangers: each takes any bytes, and raises if what it tries does not keep its word."""

from __future__ import annotations

from zlib import crc32

from zmqrel.body import BadBody, decode_body, encode_body
from zmqrel.core import frames
from zmqrel.core.entries import BadRecord, decode_control, decode_head, encode_control, encode_meta, unpack, verify_all
from zmqrel.core.frames import BadFrame
from zmqrel.runtime.parts import MAX_PARTS, MAX_TOGETHER, join, split

_MOST_QUESTION_BYTES = 64 * 1024


def frame(data: bytes) -> None:
    """What ZeroMQ gives: one part, which may hold several frames, and in each a header and records."""
    together = split(data)
    if together is None:
        return
    assert 1 <= len(together) <= MAX_TOGETHER
    assert split(join(*together)) == together
    for parts in together:
        assert 1 <= len(parts) <= MAX_PARTS
        _frame(parts)


def _frame(parts: list[bytes]) -> None:
    try:
        said = frames.decode(parts)
        records = frames.unpack_records(said.fields[0].sizes, said.payload) if said.type == frames.DATA else []
    except BadFrame as refusal:
        _is_short(refusal)
        return
    if verify_all(records):
        for each in records:
            _head(each)
            _control(each)


def record(data: bytes) -> None:
    """A record whose checksum is right, as a peer that lies makes it: a message's head, and a control entry."""
    sealed = data + crc32(data).to_bytes(4, "little")
    assert verify_all([sealed])
    _head(sealed)
    _control(sealed)


def body(data: bytes) -> None:
    """A body, which is decoded when the application asks for it; what it was made of makes it again."""
    try:
        value = decode_body(data)
    except BadBody:
        return
    assert repr(decode_body(encode_body(value))) == repr(value)  # not ==, for NaN


def question(data: bytes) -> None:
    """What is read from the control socket."""
    try:
        unpack(data, _MOST_QUESTION_BYTES, max_list=1000)
    except BadRecord:
        return


def _head(data: bytes) -> None:
    try:
        head = decode_head(data)
    except BadRecord as refusal:
        _is_short(refusal)
        return
    assert head.body_at + 4 <= len(data)
    encode_meta(head.meta)


def _control(data: bytes) -> None:
    try:
        entry = decode_control(data)
    except BadRecord as refusal:
        _is_short(refusal)
        return
    assert decode_control(encode_control(entry)) == entry


def _is_short(refusal: Exception) -> None:
    assert len(str(refusal)) < 1000
