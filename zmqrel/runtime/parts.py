"""A frame of several parts as one part of a ZeroMQ message.

A DEALER with IMMEDIATE drops what it has not read yet as soon as it hears that its connection has ended, and libzmq
looks for that with every hundredth part that is read, be it in the middle of a message. Then libzmq 4.3.5 says that the
rest is not there, or fails an assertion (fq.cpp, `!_more`) that ends the whole process. One part has no middle.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Final

MAX_PARTS: Final = 8
"""Parts of one frame, at most."""

_MARK: Final = b"\xc1"
"""The one byte that MessagePack never uses: no header of a frame begins with it."""


def join(parts: Sequence[bytes]) -> bytes:
    """The parts of a frame, at least one and at most 65,535, as one; a header alone stays as it is."""
    if len(parts) == 1 and not parts[0].startswith(_MARK):
        return parts[0]
    lengths = struct.pack(f">H{len(parts)}I", len(parts), *map(len, parts))
    return b"".join((_MARK, lengths, *parts))


def split(joined: bytes) -> list[bytes] | None:
    """What `join` joined; None if that are more than MAX_PARTS, or nothing that it makes."""
    if not joined.startswith(_MARK):
        return [joined]
    count = int.from_bytes(joined[1:3], "big")
    begin = 3 + 4 * count
    if not 0 < count <= MAX_PARTS or len(joined) < begin:
        return None
    ends = list(accumulate(struct.unpack_from(f">{count}I", joined, 3), initial=begin))
    if ends[-1] != len(joined):
        return None
    return [joined[first:last] for first, last in pairwise(ends)]
