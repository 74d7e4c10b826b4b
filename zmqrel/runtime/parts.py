"""Frames as a ZeroMQ message of one part.

One part, for a DEALER with IMMEDIATE drops what it has not read yet as soon as it hears that its connection has ended,
and libzmq looks for that with every hundredth part that is read, be it in the middle of a message. Then libzmq 4.3.5
says that the rest is not there, or fails an assertion (fq.cpp, `!_more`) that ends the whole process. One part has no
middle.

Several frames, for each message costs both ends several system calls and, where it wakes who reads it, a turn.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, chain, pairwise
from typing import Final, TypeAlias

Frame: TypeAlias = Sequence[bytes]

MAX_PARTS: Final = 8
"""Parts of one frame, at most."""
MAX_TOGETHER: Final = 16
"""Frames of one message, at most."""

# No header of a frame begins with these bytes, for it is a list of MessagePack.
_PARTS: Final = b"\xc1"
_FRAMES: Final = b"\xc2"


def join(*frames: Frame) -> bytes:
    """Frames, 1 to MAX_TOGETHER of at least one part each, as a message; a header alone stays as it is."""
    pieces = [_pieces(frame) for frame in frames]
    if len(pieces) == 1:
        return b"".join(pieces[0])
    table = _table(_FRAMES, [sum(map(len, piece)) for piece in pieces])
    return b"".join((table, *chain.from_iterable(pieces)))


def _pieces(frame: Frame) -> Sequence[bytes]:
    """A frame as it travels, in pieces."""
    if len(frame) == 1 and not frame[0].startswith((_PARTS, _FRAMES)):
        return frame
    return [_table(_PARTS, list(map(len, frame))), *frame]


def _table(mark: bytes, lengths: Sequence[int]) -> bytes:
    return mark + struct.pack(f">H{len(lengths)}I", len(lengths), *lengths)


def split(message: bytes | memoryview) -> list[list[bytes]] | None:
    """The frames that `join` joined; None if that is nothing that it makes, or has more of anything than is allowed."""
    if not _begins_with(_FRAMES, message, 0, len(message)):
        parts = _parts_of(message, 0, len(message))
        return None if parts is None else [parts]
    frames = []
    for begin, end in _apart(message, 0, len(message), MAX_TOGETHER):
        parts = None if _begins_with(_FRAMES, message, begin, end) else _parts_of(message, begin, end)
        if parts is None:
            return None
        frames.append(parts)
    return frames or None


def _begins_with(mark: bytes, message: bytes | memoryview, begin: int, end: int) -> bool:
    return begin < end and message[begin] == mark[0]


def _parts_of(message: bytes | memoryview, begin: int, end: int) -> list[bytes] | None:
    if not _begins_with(_PARTS, message, begin, end):
        return [bytes(message[begin:end])]
    return [bytes(message[first:last]) for first, last in _apart(message, begin, end, MAX_PARTS)] or None


def _apart(message: bytes | memoryview, begin: int, end: int, most: int) -> list[tuple[int, int]]:
    """Where each of the things lies whose lengths stand at `begin`; nothing if they do not add up, or are too many."""
    count = int.from_bytes(message[begin + 1 : begin + 3], "big")
    table = begin + 3
    first = table + 4 * count
    if not 0 < count <= most or first > end:
        return []
    ends = list(accumulate(struct.unpack_from(f">{count}I", message, table), initial=first))
    return list(pairwise(ends)) if ends[-1] == end else []
