"""What of a lane may leave now: window, credit, what is held back, and entries that can never be transported.

Pure selection: it reads the store, raises nothing and sends nothing. channel.py raises `sent_upto` over what was
selected, in the same commit, before it leaves.
"""

from __future__ import annotations

from dataclasses import dataclass

from zmqrel.core import tables
from zmqrel.core.entries import verify
from zmqrel.core.lane import CONTROL, OutLane
from zmqrel.core.storage import Storage

FRAME_BYTES = 256 * 1024
"""A frame is filled up to here; a larger entry travels alone."""
FRAME_ENTRIES = 8192


@dataclass(slots=True)
class Batch:
    """Entries first, first+1, ... of a lane that may leave now."""

    first: int
    last: int
    runs: list[int]
    records: list[bytes]
    size: int


class Untransportable(Exception):
    """An entry that can never be sent as itself: its outcome comes first, then it goes as a VOID."""

    def __init__(self, seq: int, damaged: bool, size: int) -> None:
        super().__init__(seq)
        self.seq = seq
        self.damaged = damaged
        self.size = size


def next_batch(lane: OutLane, store: Storage, window_bytes: int, largest_entry: int) -> Batch | None:
    """The next entries of a lane, None if there are none, or no window or credit for them.

    `window_bytes` is what the channel's window has left. Raises Untransportable for the first entry that is
    damaged or larger than the peer takes.
    """
    last = lane.last_sendable
    if lane.cursor > last:
        return None
    room = min(window_bytes, FRAME_BYTES)
    grant_last = last
    if lane.kind != CONTROL:
        room = min(room, lane.grant_bytes - lane.flight_bytes)
        grant_last = min(last, lane.grant_seq)
    # The grant and the window always admit one entry when nothing is unacknowledged.
    admit_one = not lane.flight
    batch = Batch(lane.cursor, lane.cursor - 1, [], [], 0)
    tail_first = lane.next_seq - len(lane.tail)
    if lane.tail and lane.cursor >= tail_first:
        _fill_from_tail(batch, lane, tail_first, grant_last, room, admit_one, largest_entry)
    else:
        _fill_from_store(batch, lane, store, last, grant_last, room, admit_one, largest_entry)
    return batch if batch.last >= batch.first else None


def _fill_from_tail(
    batch: Batch, lane: OutLane, tail_first: int, grant_last: int, room: int, admit_one: bool, largest_entry: int
) -> None:
    start = batch.first - tail_first
    stop = min(grant_last - tail_first + 1, start + FRAME_ENTRIES, len(lane.tail))
    if stop <= start and admit_one:
        stop = start + 1
    records = lane.tail[start:stop]
    sizes = list(map(len, records))
    if sum(sizes) > room or max(sizes, default=0) > largest_entry:
        records = _fitting(records, sizes, batch.first, room, admit_one, largest_entry)
    if records:
        batch.records = records
        batch.runs = [len(records)]
        batch.last = batch.first + len(records) - 1
        batch.size = sum(map(len, records))


def _fitting(
    records: list[bytes], sizes: list[int], first: int, room: int, admit_one: bool, largest_entry: int
) -> list[bytes]:
    fitting = 0
    for index, size in enumerate(sizes):
        if size > largest_entry:
            if not index:
                raise Untransportable(first, False, size)
            break
        room -= size
        if room < 0 and not (admit_one and not index):
            break
        fitting += 1
    return records[:fitting]


def _fill_from_store(
    batch: Batch,
    lane: OutLane,
    store: Storage,
    last: int,
    grant_last: int,
    room: int,
    admit_one: bool,
    largest_entry: int,
) -> None:
    limit = 4
    position = batch.first
    while position <= last and len(batch.records) < FRAME_ENTRIES:
        rows = store.scan(*tables.lane_bounds(tables.OUTBOX, lane.no, position, last), limit)
        for key, record in rows:
            seq = tables.split_lane_seq(key)[1]
            _add_void(batch, seq - 1)
            damaged = not verify(record)
            if damaged or len(record) > largest_entry:
                if batch.last < batch.first:
                    raise Untransportable(seq, damaged, len(record))
                return
            first_of_all = admit_one and not batch.records
            if (seq > grant_last or batch.size + len(record) > room) and not first_of_all:
                return
            _add_record(batch, seq, record)
        if len(rows) < limit:
            _add_void(batch, last)
            return
        position = batch.last + 1
        # Small rows are read in larger steps, without ever reading far more than the room takes.
        limit = min(4 * limit, FRAME_ENTRIES - len(batch.records) or 1)


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
