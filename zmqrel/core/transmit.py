"""What of a lane may leave now: window, credit, what is held back, and entries that can never be transported.

Pure selection: it reads the store, raises nothing and sends nothing. channel.py raises `sent_upto` over what was
selected, in the same commit, before it leaves.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from itertools import accumulate

from zmqrel.core.entries import verify, verify_all
from zmqrel.core.lane import CONTROL, OutLane
from zmqrel.core.runs import Piece, Runs

FRAME_BYTES = 64 * 1024
"""A frame is filled up to here; a larger entry travels alone, if the window has room for it."""
FRAME_ENTRIES = 8192
_NEIGHBOURS = 64


@dataclass(slots=True)
class Batch:
    """Entries first, first+1, ... of a lane that may leave now."""

    first: int
    last: int
    runs: list[int]
    records: list[bytes]
    size: int

    def records_above(self, seq: int) -> int:
        """How many of the records have a higher number than `seq`."""
        if self.first > seq:
            return len(self.records)
        count, at = 0, self.first
        for run in self.runs:
            if run > 0:
                count += max(0, min(run, at + run - 1 - seq))
            at += abs(run)
        return count


class Untransportable(Exception):
    """An entry that can never be sent as itself: its outcome comes first, then it goes as a VOID."""

    def __init__(self, seq: int, damaged: bool, size: int) -> None:
        super().__init__(seq)
        self.seq = seq
        self.damaged = damaged
        self.size = size


class _Room:
    """What a batch may still take: bytes of the window and of credit, and sequence numbers of credit."""

    __slots__ = ("_admit_one", "grant_last", "largest_entry", "size")

    def __init__(self, lane: OutLane, last: int, window_bytes: int, largest_entry: int) -> None:
        # The grant and the window always admit one entry when nothing is unacknowledged.
        self._admit_one = not lane.flight
        self.largest_entry = largest_entry
        if lane.kind == CONTROL:
            self.size, self.grant_last = window_bytes, last
        else:
            self.size = min(window_bytes, lane.grant_bytes - lane.flight_bytes)
            self.grant_last = min(last, lane.grant_seq)

    def takes(self, batch: Batch, seq: int, size: int) -> bool:
        """True if the batch may grow by this record."""
        if not batch.records:
            return self._admit_one or (seq <= self.grant_last and size <= self.size)
        return seq <= self.grant_last and batch.size + size <= min(self.size, FRAME_BYTES)


def next_batch(lane: OutLane, store: Runs, window_bytes: int, largest_entry: int) -> Batch | None:
    """The next entries of a lane, None if there are none, or no window or credit for them.

    `window_bytes` is what the channel's window has left. Raises Untransportable for the first entry that is
    damaged or larger than the peer takes.
    """
    last = lane.last_sendable
    if lane.cursor > last:
        return None
    room = _Room(lane, last, window_bytes, largest_entry)
    batch = Batch(lane.cursor, lane.cursor - 1, [], [], 0)
    if lane.tail and lane.cursor >= lane.next_seq - len(lane.tail):
        _fill_from_tail(batch, lane, last, room)
    else:
        _fill_from_store(batch, lane, store, last, room)
    return batch if batch.last >= batch.first else None


def _fill_from_tail(batch: Batch, lane: OutLane, last: int, room: _Room) -> None:
    tail_first = lane.next_seq - len(lane.tail)
    start = batch.first - tail_first
    # Credit may end before the tail begins: a negative stop would count from the tail's end.
    stop = max(start, min(room.grant_last - tail_first + 1, start + FRAME_ENTRIES))
    most = min(room.size, FRAME_BYTES)
    # Behind it may lie thousands that this frame has no room for: neighbours are mostly about as large as each other.
    likely = most // len(lane.tail[start]) + _NEIGHBOURS
    records = lane.tail[start : min(stop, start + likely)]
    sizes = list(map(len, records))
    ends = list(accumulate(sizes))
    fitting = bisect_right(ends, most)
    if fitting and max(sizes) <= room.largest_entry:
        batch.records, batch.runs, batch.size = records[:fitting], [fitting], ends[fitting - 1]
        batch.last = batch.first + fitting - 1
        return
    for seq in range(batch.first, min(last, batch.first + FRAME_ENTRIES - 1) + 1):
        record = lane.tail[seq - tail_first]
        if len(record) > room.largest_entry:
            if not batch.records:
                raise Untransportable(seq, False, len(record))
            return
        if not room.takes(batch, seq, len(record)):
            return
        _add_record(batch, seq, record)


def _fill_from_store(batch: Batch, lane: OutLane, store: Runs, last: int, room: _Room) -> None:
    limit = 4
    while batch.last < last and len(batch.records) < FRAME_ENTRIES:
        pieces, all_of_them = store.read_pieces(lane.no, batch.last + 1, last, limit, FRAME_BYTES)
        for piece in pieces:
            if not _extend(batch, piece, room) and not _add_each(batch, piece, room):
                return
        if all_of_them:
            _add_void(batch, last)
            return
        # Small records are read in larger steps, without ever reading far more than the room takes.
        limit = min(4 * limit, FRAME_ENTRIES - len(batch.records) or 1)


def _extend(batch: Batch, piece: Piece, room: _Room) -> bool:
    """Add good neighbours that all fit, as nearly always; False, and nothing added, if they do not."""
    records = piece.records
    size = batch.size + piece.size
    if piece.last > room.grant_last or size > min(room.size, FRAME_BYTES):
        return False
    if max(map(len, records)) > room.largest_entry or not verify_all(records):
        return False
    _add_void(batch, piece.first - 1)
    if batch.runs and batch.runs[-1] > 0:
        batch.runs[-1] += len(records)
    else:
        batch.runs.append(len(records))
    batch.records += records
    batch.size = size
    batch.last = piece.last
    return True


def _add_each(batch: Batch, piece: Piece, room: _Room) -> bool:
    """Add neighbours and the voids before them, one by one; False when the batch takes no more."""
    for seq, record in enumerate(piece.records, piece.first):
        _add_void(batch, seq - 1)
        damaged = not verify(record)
        if damaged or len(record) > room.largest_entry:
            if batch.last < batch.first:
                raise Untransportable(seq, damaged, len(record))
            return False
        if not room.takes(batch, seq, len(record)):
            return False
        _add_record(batch, seq, record)
    return True


def _add_void(batch: Batch, upto: int) -> None:
    """Everything behind the batch up to `upto` is final: it goes as a VOID (RFC 3758, forward cumulative TSN)."""
    missing = upto - batch.last
    if missing <= 0:
        return
    if batch.runs and batch.runs[-1] < 0:
        batch.runs[-1] -= missing
    else:
        batch.runs.append(-missing)
    batch.last = upto


def _add_record(batch: Batch, seq: int, record: bytes) -> None:
    if batch.runs and batch.runs[-1] > 0:
        batch.runs[-1] += 1
    else:
        batch.runs.append(1)
    batch.records.append(record)
    batch.size += len(record)
    batch.last = seq
