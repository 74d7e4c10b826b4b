"""Where everything lies in the store: one ordered space of keys, the first byte names the table.

Numbers in keys are big-endian, so that the order of keys is the order of numbers. Lane and queue numbers (u32)
are local to the store; lane ids (u64, random) are what the two ends of a lane call it.
"""

from __future__ import annotations

from hashlib import blake2b
from struct import Struct

META = b"\x01meta"
INSTANCE = 0x02  # instance u64 -> commit count at which it ended
PEER = 0x03  # name -> what is known of a peer
LANE = 0x04  # lane number -> what is known of a lane
QUEUE = 0x05  # name -> queue number
OUTBOX = 0x10  # runs of records, see runs.py
WITHDRAWN = 0x11  # lane, seq -> cause u8, time u64, time u64 of the hand-over if that was the answer
OUT_DEADLINE = 0x12  # deadline, lane, seq ->
ID = 0x13  # id given by the user -> lane, seq, digest of the arguments
OUTBOX_HOLES = 0x14  # lane, last seq of a run -> which of it are gone
OUTCOME = 0x15  # outcome number -> a range that ended
OUTCOME_OF = 0x16  # lane, last seq of the range -> outcome number
INBOX = 0x20  # runs of records, see runs.py
ROW_STATE = 0x21  # lane, seq -> attempts and the like, for rows that were handed over or wait
WAITING = 0x22  # queue, ready_at, lane, seq -> : delayed rows and retries, by the time they become ready
KEYED = 0x23  # queue, hash of the key, order, lane, seq -> : rows of one key, the first is at work or next
IN_DEADLINE = 0x24  # peer number, deadline by the sender's clock, lane, seq ->
TOMBSTONE = 0x25  # lane, seq -> cause: withdrawn before it came
SUSPECT = 0x26  # lane, seq -> 1 if it was the only row running when the process died
INBOX_HOLES = 0x27  # lane, last seq of a run -> which of it are gone
DEAD = 0x30  # dead letter number -> dead letter
QUARANTINE = 0x31  # lane, seq -> bytes of a damaged row

_U64 = Struct(">BQ")
_U32 = Struct(">BI")
_LANE_SEQ = Struct(">BIQ")
_TIME_LANE_SEQ = Struct(">BQIQ")
_WAITING = Struct(">BIQIQ")
_KEYED = Struct(">BI8sQIQ")
_KEYED_PREFIX = Struct(">BI8s")

lane_seq = _LANE_SEQ.pack
"""Key (table, lane, seq)."""
out_deadline_key = _TIME_LANE_SEQ.pack
"""Key (OUT_DEADLINE, deadline, lane, seq)."""
in_deadline_key = _WAITING.pack
"""Key (IN_DEADLINE, peer number, deadline, lane, seq)."""
waiting_key = _WAITING.pack
"""Key (WAITING, queue, ready_at, lane, seq)."""
keyed_key = _KEYED.pack
"""Key (KEYED, queue, hash, order, lane, seq)."""
keyed_prefix = _KEYED_PREFIX.pack
"""Prefix (KEYED, queue, hash) of all rows of one message key."""
numbered = _U64.pack
"""Key (table, u64)."""
numbered_u32 = _U32.pack
"""Key (table, u32), also the prefix of everything of one lane, queue or peer."""


def named(table: int, name: str) -> bytes:
    """Key (table, name)."""
    return bytes((table,)) + name.encode()


def table_bounds(table: int) -> tuple[bytes, bytes]:
    """First key of a table and the key behind its last."""
    return bytes((table,)), bytes((table + 1,))


def lane_bounds(table: int, lane: int, first: int = 0, last: int = 2**64 - 2) -> tuple[bytes, bytes]:
    """Key bounds of the sequence numbers first to last of a lane."""
    return _LANE_SEQ.pack(table, lane, first), _LANE_SEQ.pack(table, lane, last + 1)


def u32_bounds(table: int, number: int) -> tuple[bytes, bytes]:
    """Key bounds of everything under one u32, for WAITING, KEYED, IN_DEADLINE."""
    return _U32.pack(table, number), _U32.pack(table, number + 1)


def key_hash(key: str) -> bytes:
    """Eight bytes that stand for a message key. Two keys that collide only wait for each other."""
    return blake2b(key.encode(), digest_size=8).digest()


def split_lane_seq(key: bytes) -> tuple[int, int]:
    """Lane and seq at the end of a key."""
    return int.from_bytes(key[-12:-8], "big"), int.from_bytes(key[-8:], "big")


def split_waiting(key: bytes) -> tuple[int, int, int]:
    """ready_at, lane and seq of a WAITING key."""
    _, _, ready_at, lane, seq = _WAITING.unpack(key)
    return ready_at, lane, seq


def split_keyed(key: bytes) -> tuple[int, int, int]:
    """order, lane and seq of a KEYED key."""
    _, _, _, order, lane, seq = _KEYED.unpack(key)
    return order, lane, seq
