"""The life of received messages: acceptance, order, keys, claims, attempts, withdrawal and settlement.

Tables of one message (see tables.py):

    INBOX       always; the key holds its `order`, the time at which it became ready
    WAITING     if it does not stand in its lane's natural order: delayed, retried, moved
    KEYED       if it has a key; only the first row of each key may be claimed
    ROW_STATE   once it was handed over, retried or moved
    IN_DEADLINE if it has a deadline

A queue is the merge, by time of readiness, of its lanes' natural order and its waiting rows. Rows are looked at in
that order and claimed into the queue's buffer, or passed over: a row behind its key comes up again when the key is
free, a row of a peer that may not be handed over now when `rewind` lets the queue be looked at again from the start.
Memory holds what is looked ahead at and what is claimed, never the backlog.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, NamedTuple, cast

import msgpack

from zmqrel.core import tables
from zmqrel.core.buffer import (
    Buffer,
    Expired,
    Failed,
    Handled,
    MoveTo,
    Place,
    Rejected,
    Result,
    RetryAt,
    Row,
)
from zmqrel.core.dead import DeadLetters
from zmqrel.core.entries import (
    FRAMING_BYTES,
    HEADER,
    MAX_TIME_US,
    BadRecord,
    Notice,
    Range,
    Settle,
    Settled,
    decode_head,
    verify,
    verify_all,
)
from zmqrel.core.lane import DATA, DELAYED, LOCAL, InLane
from zmqrel.core.offset import ClockOffset
from zmqrel.core.shared import Shared
from zmqrel.outcome import Cause, Outcome
from zmqrel.retry import Retry

if TYPE_CHECKING:
    from zmqrel.core.channel import Channel

NEVER = 2**63
_MOST_AHEAD = 4096
_AHEAD_BYTES = 1 << 20
_MOST_PROMOTED = 10_000
_EXAMINED_PER_TURN = 4096
_MOST_GRANTED = 65_536
_MOST_IN_ENTRY = 1000
"""Ranges in one SETTLE, so that it fits a frame whatever their reasons are."""
MOST_WITHDRAWN = 1_000_000
"""Sequence numbers that one WITHDRAW may name."""

_REDELIVERED, _DOUBT = 1, 2

_OUTCOME_OF_CAUSE = {
    Cause.RECALL: Outcome.RECALLED,
    Cause.DEADLINE: Outcome.EXPIRED,
    Cause.GIVE_UP: Outcome.EXHAUSTED,
}


class RowState(NamedTuple):
    """What is kept of a row beside the message itself."""

    attempts: int = 0
    first_handed_us: int = 0
    waiting_at_us: int = 0
    flags: int = 0
    queue: str | None = None
    """The queue that it was moved to."""
    reason: str | None = None
    """Why the last attempt failed."""
    withdrawn: int = 0
    """The Cause for which it was withdrawn while a worker had it: there is no further attempt."""

    def encode(self) -> bytes:
        """The bytes of the row."""
        return cast(bytes, msgpack.packb(tuple(self)))


def _decode_state(data: bytes) -> RowState:
    return RowState(*msgpack.unpackb(data))


@dataclass(frozen=True, slots=True)
class Policy:
    """How a queue's handler treats failures."""

    retry: Retry
    push: bool = True
    """Workers take rows as they come; False for `receive`, which may never be called again."""


@dataclass(slots=True)
class Queue:
    """One named queue: where its rows come from and who takes them."""

    name: str
    no: int
    buffer: Buffer | None = None
    policy: Policy | None = None
    lanes: dict[int, InLane] = field(default_factory=dict)
    heap: list[tuple[int, int]] = field(default_factory=list)
    """(order of the first row ahead, lane number) of lanes with rows ahead."""
    active: set[int] = field(default_factory=set)
    """Numbers of the lanes in `heap`."""
    waiting: deque[tuple[int, int, int]] = field(default_factory=deque)
    """(ready_at, lane number, seq) of waiting rows that are due and not looked at."""
    waiting_from: bytes = b""
    """Key in WAITING behind the last one read."""
    waiting_next_us: int = 0
    """When the next waiting row that was not read is due; 0: not known."""
    promoted: list[tuple[int, int, int]] = field(default_factory=list)
    """(order, lane number, seq) of rows that were passed over and whose key is free now."""
    passed: bool = False
    """Rows were passed over for another reason than their key."""
    examine: bool = True
    """There may be something to claim."""


class Inbox:
    """See the module."""

    def __init__(self, shared: Shared, dead: DeadLetters, channels: Mapping[str, Channel]) -> None:
        self._shared = shared
        self._dead = dead
        self._channels = channels
        self.queues: dict[str, Queue] = {}
        self._local: dict[str, InLane] = {}
        self._settled: dict[InLane, list[tuple[int, Settled]]] = {}
        self._suspects: dict[tuple[int, int], bool] = {}
        """(lane, seq) -> it was the only row running."""
        self._suspect_out: Row | None = None
        self._starved: dict[int, InLane] = {}
        self._grants: set[InLane] = set()

    # -------------------------------------------------------------------------------------------- opening

    def load(self) -> None:
        """Read queues and suspects from the store; lanes are given by `adopt_lane`."""
        for key, value in self._shared.journal.scan(*tables.table_bounds(tables.QUEUE), limit=2**31):
            name = key[1:].decode()
            self.queues[name] = Queue(name, int.from_bytes(value, "big"))
        for key, value in self._shared.journal.scan(*tables.table_bounds(tables.SUSPECT), limit=2**31):
            self._suspects[tables.split_lane_seq(key)] = value == b"\x01"

    def adopt_lane(self, lane: InLane) -> None:
        """A lane read from the store, or new."""
        if lane.kind == LOCAL:
            self._local[lane.queue] = lane
        if lane.kind in (DATA, LOCAL) and lane.queue:
            self.queue(lane.queue).lanes[lane.no] = lane

    def forget_lane(self, lane: InLane) -> None:
        """The lane is deleted: its rows are gone."""
        queue = self.queues.get(lane.queue)
        if queue is not None:
            queue.lanes.pop(lane.no, None)
            queue.active.discard(lane.no)
            queue.heap = [item for item in queue.heap if item[1] != lane.no]
            heapify(queue.heap)

    def queue(self, name: str) -> Queue:
        """The queue of that name, made if need be."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self.queues[name] = Queue(name, self._shared.ledger.next_queue)
            self._shared.ledger.next_queue += 1
            self._shared.journal.put(tables.named(tables.QUEUE, name), queue.no.to_bytes(4, "big"))
        return queue

    def serve(self, name: str, buffer: Buffer, policy: Policy) -> None:
        """Workers, or callers of `receive`, take this queue's rows out of `buffer` from now on."""
        queue = self.queue(name)
        queue.buffer = buffer
        queue.policy = policy
        queue.examine = True

    def blame(self, lane_no: int, seq: int, attempts: int, running: bool, sole: bool) -> None:
        """The previous life had handed this row over and not settled it (F9).

        `running`: its handler had not returned; `sole`: it was the only such row.
        """
        row = self._read_row(lane_no, seq)
        if row is None:
            return
        state = self._state(lane_no, seq)
        state = state._replace(
            attempts=max(state.attempts, attempts),
            first_handed_us=state.first_handed_us or self._shared.now.store_us,
            flags=state.flags | _REDELIVERED,
        )
        self._put_state(lane_no, seq, state)
        if running and not state.withdrawn:
            self._suspects[(lane_no, seq)] = sole
            key = tables.lane_seq(tables.SUSPECT, lane_no, seq)
            self._shared.journal.put(key, b"\x01" if sole else b"\x00")

    def end_withdrawn(self) -> None:
        """After an unclean stop: rows withdrawn while a worker had them get no further attempt."""
        for key, value in self._shared.journal.scan(*tables.table_bounds(tables.ROW_STATE), 2**31):
            state = _decode_state(value)
            row = self._read_row(*tables.split_lane_seq(key)) if state.withdrawn else None
            if row is not None:
                self._end_handed(row, Cause(state.withdrawn))

    def rebind(self, row: Row) -> None:
        """After the core was loaded anew: this row is still with a worker."""
        lane = self._shared.in_lanes.get(row.lane.no)
        if lane is None:
            return
        row.lane = lane
        row.clock = self._clock(lane) if row.deadline_us else None
        self._hold_alone(row)
        if row.suspect and row.place is Place.RUNNING:
            self._suspect_out = row

    # --------------------------------------------------------------------------------------- acceptance

    def accept(self, lane: InLane, first: int, runs: list[int], records: list[bytes]) -> None:
        """Entries first, first+1, ... of a data lane, the first at or below floor+1; raises the floor.

        What does not fit the limits is left out: the lane's gap makes the sender send it again.
        Raises BadRecord if a record is damaged; then nothing is taken.
        """
        seqs = _seqs_of_records(first, runs)
        last = first + sum(map(abs, runs)) - 1
        floor = lane.floor
        if seqs and seqs[0] <= floor:
            skipped = sum(1 for seq in seqs if seq <= floor)
            seqs, records = seqs[skipped:], records[skipped:]
        fitting = self._fitting(lane, records)
        if fitting < len(records):
            last = seqs[fitting] - 1
            seqs, records = seqs[:fitting], records[:fitting]
            lane.gap = True
        self._grants.add(lane)
        if last <= floor:
            return
        _check(records)
        tombstones = self._shared.journal.pop(*tables.lane_bounds(tables.TOMBSTONE, lane.no, floor + 1, last))
        if tombstones:
            dropped = {tables.split_lane_seq(key)[1] for key, _ in tombstones}
            pairs = [pair for pair in zip(seqs, records, strict=True) if pair[0] not in dropped]
            seqs, records = [seq for seq, _ in pairs], [record for _, record in pairs]
        self._store(lane, seqs, records)
        caught_up = lane.scan_seq == floor + 1
        lane.floor = last
        if caught_up and not records:
            lane.scan_seq = last + 1
        self._shared.touch(lane)

    def _store(self, lane: InLane, seqs: list[int], records: list[bytes]) -> None:
        if not records:
            return
        shared = self._shared
        shared.intake_bytes += sum(map(len, records))  # first, so that it is known if the store refuses them
        order = shared.now.store_us
        rows = [Row(lane, seq, order, record) for seq, record in zip(seqs, records, strict=True)]
        for row in rows:
            meta_length, _, deadline_us = HEADER.unpack_from(row.record)
            if meta_length or deadline_us:
                self._index(row, deadline_us)
        no = lane.no
        key_of = tables.inbox_key
        shared.journal.put_many([(key_of(tables.INBOX, no, row.seq, row.order_us), row.record) for row in rows])
        size = sum(map(len, records))
        self._count(lane, len(rows), size)
        shared.counters["received"] += len(rows)
        queue = self.queue(lane.queue)
        queue.examine = True
        if lane.kind != DELAYED:
            self._look_ahead(queue, lane, rows, size)

    def _index(self, row: Row, deadline_us: int) -> None:
        """The rows beside INBOX of a message that has a key, a deadline or a delay."""
        journal, lane = self._shared.journal, row.lane
        meta = row.head.meta
        queue = self.queue(lane.queue)
        if lane.kind == DELAYED:
            ready_at = self._to_local(lane, meta.not_before_us)
            row.order_us = self._put_waiting(queue, lane.no, row.seq, max(ready_at, row.order_us))
        if deadline_us:
            row.deadline_us = deadline_us
            row.clock = self._clock(lane)
            self._put_deadline(row)
        if meta.key is not None:
            row.key = meta.key
            key_hash = tables.key_hash(meta.key)
            key = tables.keyed_key(tables.KEYED, queue.no, key_hash, row.order_us, lane.no, row.seq)
            journal.put(key, b"")

    def _look_ahead(self, queue: Queue, lane: InLane, rows: list[Row], size: int) -> None:
        """Spare reading rows back that will be looked at next; only if all before them are in memory."""
        if lane.scan_seq != lane.floor + 1 or len(lane.head) + len(rows) > _MOST_AHEAD:
            return
        if size > _AHEAD_BYTES and lane.head:
            return
        lane.head.extend(rows)
        lane.rows.update((row.seq, row) for row in rows)
        lane.scan_seq = rows[-1].seq + 1
        self._activate(queue, lane)

    def add_local(self, queue: str, record: bytes) -> None:
        """A message that this peer makes itself, behind what waits in `queue`."""
        lane = self._local.get(queue)
        shared = self._shared
        if lane is None:
            lane_no = shared.new_lane_no()
            lane = InLane(lane_no, shared.name, shared.ledger.store_id, LOCAL, shared.random_id(), queue)
            shared.in_lanes[lane_no] = lane
            self.adopt_lane(lane)
        seq = lane.floor + 1
        self._store(lane, [seq], [record])
        lane.floor = seq
        shared.touch(lane)

    # --------------------------------------------------------------------------------------- credit

    def _fitting(self, lane: InLane, records: list[bytes]) -> int:
        """How many of these records fit the limits. One always does if the lane holds none (F7)."""
        messages, size = self._credit(lane)
        if len(records) <= messages and sum(map(len, records)) <= size:
            return len(records)
        fitting = 0
        for record in records[:messages]:
            size -= len(record)
            if size < 0:
                break
            fitting += 1
        if not fitting and records and self._takes_one(lane):
            return 1
        return fitting

    def _takes_one(self, lane: InLane) -> bool:
        """Whether one message may come however large it is: there is none, or it is the first after a full store."""
        shared = self._shared
        if not shared.accepting:
            return False
        return not lane.count or (
            shared.most_intake_bytes is not None and not shared.intake_bytes and any(self._room(lane))
        )

    def _credit(self, lane: InLane) -> tuple[int, int]:
        """Messages and bytes of the lane that this turn may still take in."""
        messages, size = self._room(lane)
        shared = self._shared
        if shared.most_intake_bytes is None:
            return messages, size
        return messages, max(0, min(size, shared.most_intake_bytes - shared.intake_bytes))

    def _room(self, lane: InLane) -> tuple[int, int]:
        """Messages and bytes that the lane may still add.

        A lane may take everything but half of the fair share of each other lane that has not used that much,
        so that a queue which nobody serves leaves room for the others.
        """
        shared, options = self._shared, self._shared.options
        if not shared.accepting:
            return 0, 0
        messages = options.inbox_max_messages - shared.ledger.inbox_messages
        size = options.inbox_max_bytes - shared.ledger.inbox_bytes
        free, free_size = messages - options.inbox_max_messages // 2, size - options.inbox_max_bytes // 2
        if free > _MOST_GRANTED and free_size > options.max_body_bytes + _AHEAD_BYTES:
            return free, free_size  # the others' halves of their shares are not more than half of all
        others = [other for other in shared.in_lanes.values() if other.kind in (DATA, DELAYED) and other is not lane]
        share = 2 * (len(others) + 1)
        messages -= sum(max(0, options.inbox_max_messages // share - other.count) for other in others)
        size -= sum(max(0, options.inbox_max_bytes // share - other.size) for other in others)
        return max(0, messages), max(0, size)

    def grant(self, lane: InLane) -> tuple[int, int]:
        """How far the sender of this lane may go now: an absolute sequence number, and bytes beyond the floor."""
        messages, size = self._grantable(lane)
        if messages < _MOST_GRANTED or size < _AHEAD_BYTES:
            self._starved[lane.no] = lane
        else:
            self._starved.pop(lane.no, None)
        if not messages and not lane.count and self._shared.accepting:
            messages, size = 1, max(size, 1)
        lane.granted = lane.floor + min(messages, _MOST_GRANTED)
        lane.granted_bytes = size
        return lane.granted, size

    def _grantable(self, lane: InLane) -> tuple[int, int]:
        messages, size = self._room(lane)
        most = self._shared.most_intake_bytes
        return messages, size if most is None else min(size, most)

    def regrant(self) -> None:
        """Tell the senders of lanes that were short of credit when there is room again."""
        options = self._shared.options
        worth_messages = max(1, min(256, options.inbox_max_messages // 8))
        worth_bytes = max(1, min(_AHEAD_BYTES // 8, options.inbox_max_bytes // 8))
        for lane in self._starved.values():
            messages, size = self._grantable(lane)
            more = lane.floor + min(messages, _MOST_GRANTED) >= lane.granted + worth_messages
            larger = messages > 0 and min(size, _AHEAD_BYTES) >= lane.granted_bytes + worth_bytes
            if more or larger or (not lane.count and lane.granted <= lane.floor and self._shared.accepting):
                self._grants.add(lane)

    def take_grants(self) -> set[InLane]:
        """Lanes whose sender is to be told floor and grant."""
        lanes, self._grants = self._grants, set()
        return lanes

    # --------------------------------------------------------------------------------------- claims

    def claim(self) -> None:
        """Fill the buffers of all queues that may have something to claim.

        A full store does not stop it: what is settled makes room, and the headroom is there for that.
        """
        gate = self._suspect_gate()
        for queue in self.queues.values():
            if queue.examine and queue.buffer is not None and not (gate and cast(Policy, queue.policy).push):
                self._claim_queue(queue, queue.buffer)

    def _claim_queue(self, queue: Queue, buffer: Buffer) -> None:
        room = buffer.room()
        rows: list[Row] = []
        examined = 0
        while len(rows) < room and examined < _EXAMINED_PER_TURN:
            lane = self._only_source(queue)
            if lane is not None:
                examined += self._claim_ahead(queue, lane, rows, room)
                continue
            row = self._next_row(queue)
            examined += 1
            if row is None:
                queue.examine = False
                break
            if self._claimable(queue, row):
                row.place = Place.CLAIMED
                rows.append(row)
        if rows:
            self._shared.effects.offers.append((buffer, rows))

    def _only_source(self, queue: Queue) -> InLane | None:
        """The lane that all rows come from now, if there is just one with rows ahead: then nothing is to be merged."""
        if len(queue.heap) != 1 or queue.waiting or queue.promoted:
            return None
        if self._shared.now.store_us >= queue.waiting_next_us:
            return None
        return self._shared.in_lanes[queue.heap[0][1]]

    def _claim_ahead(self, queue: Queue, lane: InLane, rows: list[Row], room: int) -> int:
        """Claim what lies ahead of one lane into `rows`, up to `room`. Returns how many rows were looked at."""
        head = lane.head
        channel = self._channels.get(lane.peer)
        may_claim = channel is None or not channel.awaits_state
        examined = 0
        while head and len(rows) < room:
            row = head.popleft()
            examined += 1
            plain = may_claim and row.place is Place.AHEAD and row.key is None and row.clock is None
            if plain or self._claimable(queue, row):
                row.place = Place.CLAIMED
                rows.append(row)
        if not head:
            self._refill(lane)
        if head:
            queue.heap[0] = (head[0].order_us, lane.no)
        else:
            queue.heap.clear()
            queue.active.discard(lane.no)
        return examined

    @property
    def unexamined(self) -> bool:
        """True if a queue has room and rows that this turn did not get to."""
        gate = self._suspect_out is not None
        return any(
            queue.examine
            and queue.buffer is not None
            and queue.buffer.has_room
            and not (gate and cast(Policy, queue.policy).push)
            for queue in self.queues.values()
        )

    def _claimable(self, queue: Queue, row: Row) -> bool:
        if row.place is not Place.AHEAD:
            return False
        channel = self._channels.get(row.lane.peer)
        if (channel is not None and channel.awaits_state) or (row.clock is not None and row.clock.offset_us is None):
            queue.passed = True
            self._pass(row)
            return False
        if row.key is not None and not self._is_first_of_key(queue, row):
            self._pass(row)
            return False
        return True

    @staticmethod
    def _pass(row: Row) -> None:
        row.place = Place.GONE
        row.lane.rows.pop(row.seq, None)

    def _is_first_of_key(self, queue: Queue, row: Row) -> bool:
        prefix = tables.keyed_prefix(tables.KEYED, queue.no, tables.key_hash(cast(str, row.key)))
        first = self._shared.journal.keys(prefix, prefix + b"\xff" * 21, 1)
        return not first or tables.split_keyed(first[0])[1:] == (row.lane.no, row.seq)

    def _next_row(self, queue: Queue) -> Row | None:
        """The next row to look at: the earliest of the lanes' rows ahead, waiting rows and promoted rows."""
        while True:
            self._read_waiting(queue)
            natural = queue.heap[0] if queue.heap else (NEVER, 0)
            waiting = queue.waiting[0] if queue.waiting else (NEVER, 0, 0)
            promoted = queue.promoted[0] if queue.promoted else (NEVER, 0, 0)
            if natural[0] <= waiting[0] and natural[0] <= promoted[0]:
                if natural[0] == NEVER:
                    return None
                return self._pop_ahead(queue)
            _, lane_no, seq = queue.waiting.popleft() if waiting[0] < promoted[0] else heappop(queue.promoted)
            lane = self._shared.in_lanes.get(lane_no)
            if lane is None or seq in lane.rows:
                continue
            row = self._read_row(lane_no, seq)
            if row is not None and row.queue == queue.name:
                lane.rows[seq] = row
                return row

    def _pop_ahead(self, queue: Queue) -> Row:
        lane = self._shared.in_lanes[queue.heap[0][1]]
        row = lane.head.popleft()
        if not lane.head:
            self._refill(lane)
        if lane.head:
            heapreplace(queue.heap, (lane.head[0].order_us, lane.no))
        else:
            heappop(queue.heap)
            queue.active.discard(lane.no)
        return row

    def _activate(self, queue: Queue, lane: InLane) -> None:
        """Let the lane take part in the queue's merge if it has rows that were not looked at."""
        if lane.no in queue.active:
            return
        if not lane.head:
            self._refill(lane)
        if lane.head:
            queue.active.add(lane.no)
            heappush(queue.heap, (lane.head[0].order_us, lane.no))

    def _refill(self, lane: InLane) -> None:
        """Read rows ahead from the store."""
        while not lane.head and lane.scan_seq <= lane.floor:
            average = lane.size // lane.count if lane.count else 0
            limit = max(1, min(256, _AHEAD_BYTES // max(1, average)))
            bounds = tables.lane_bounds(tables.INBOX, lane.no, lane.scan_seq, lane.floor)
            found = self._shared.journal.scan(*bounds, limit)
            if not found:
                lane.scan_seq = lane.floor + 1
                return
            first, last = tables.split_inbox(found[0][0])[1], tables.split_inbox(found[-1][0])[1]
            lane.scan_seq = last + 1 if len(found) == limit else lane.floor + 1
            state_bounds = tables.lane_bounds(tables.ROW_STATE, lane.no, first, last)
            states = {
                tables.split_lane_seq(key)[1]: _decode_state(value)
                for key, value in self._shared.journal.scan(*state_bounds, len(found))
            }
            for key, record in found:
                _, seq, order = tables.split_inbox(key)
                state = states.get(seq)
                if seq in lane.rows or (state is not None and state.waiting_at_us):
                    continue
                row = self._make_row(lane, seq, order, record, state)
                if row is not None:
                    lane.head.append(row)
                    lane.rows[seq] = row

    def _read_waiting(self, queue: Queue) -> None:
        now_us = self._shared.now.store_us
        if queue.waiting or now_us < queue.waiting_next_us:
            return
        first, end = tables.u32_bounds(tables.WAITING, queue.no)
        keys = self._shared.journal.keys(queue.waiting_from or first, end, 64)
        for key in keys:
            item = tables.split_waiting(key)
            if item[0] > now_us:
                queue.waiting_next_us = item[0]
                break
            queue.waiting.append(item)
            queue.waiting_from = key + b"\x00"
        else:
            queue.waiting_next_us = 0 if len(keys) == 64 else NEVER
        if now_us < queue.waiting_next_us < NEVER:
            self._shared.clock_timers.set_earlier(("waiting", queue.name), queue.waiting_next_us)

    def _read_row(self, lane_no: int, seq: int) -> Row | None:
        """A row from the store, None if there is none (any more)."""
        lane = self._shared.in_lanes.get(lane_no)
        if lane is None:
            return None
        found = self._shared.journal.scan(*tables.lane_bounds(tables.INBOX, lane_no, seq, seq), 1)
        if not found:
            return None
        key, record = found[0]
        return self._make_row(lane, seq, tables.split_inbox(key)[2], record, self._state(lane_no, seq))

    def _make_row(self, lane: InLane, seq: int, order_us: int, record: bytes, state: RowState | None) -> Row | None:
        """A row as it was read back, with what is known of it. A damaged one is settled here (F14)."""
        row = Row(lane, seq, order_us, record)
        try:
            if not verify(record):
                raise BadRecord("the checksum of a row of the inbox does not match")
            head = decode_head(record)
        except BadRecord as error:
            self._quarantine(row, str(error))
            return None
        row.key = head.meta.key
        if head.deadline_us:
            row.deadline_us = head.deadline_us
            row.clock = self._clock(lane)
        if lane.kind == DELAYED:
            row.waiting_at_us = order_us
        row.old = order_us < self._shared.ledger.doubt_before_us
        if state is not None and state != RowState():
            row.stated = True
            row.attempts = state.attempts
            row.first_handed_us = state.first_handed_us
            row.waiting_at_us = state.waiting_at_us or row.waiting_at_us
            row.redelivered = row.redelivered or bool(state.flags & _REDELIVERED)
            row.old = row.old or bool(state.flags & _DOUBT)
            row.queue = state.queue or row.queue
            row.withdrawn = Cause(state.withdrawn) if state.withdrawn else None
        return row

    def rewind(self, queue: Queue) -> None:
        """Look at the queue again from its start: rows that were passed over may be claimed now."""
        queue.passed = False
        queue.waiting.clear()
        queue.promoted.clear()
        queue.waiting_from = b""
        queue.waiting_next_us = 0
        queue.heap.clear()
        queue.active.clear()
        queue.examine = True
        for lane in queue.lanes.values():
            for row in lane.head:
                if row.place is Place.AHEAD:
                    self._pass(row)
            lane.head.clear()
            lane.scan_seq = 1
            self._activate(queue, lane)

    def recall_claims(self, peer: str) -> None:
        """Take back what was claimed of this peer: it may not be handed over for now."""
        for lane in self._shared.in_lanes.values():
            if lane.peer != peer:
                continue
            for row in list(lane.rows.values()):
                if row.place is Place.CLAIMED and self._buffer_of(row).withdraw(row):
                    self._pass(row)
                    self.queue(row.queue).passed = True
                    self._suspect_out = None if row is self._suspect_out else self._suspect_out

    def rewind_passed(self) -> None:
        """Rewind the queues that passed rows over for another reason than their key."""
        for queue in self.queues.values():
            if queue.passed:
                self.rewind(queue)

    def begin(self) -> None:
        """After loading: look at every lane from its start."""
        for queue in self.queues.values():
            self.rewind(queue)

    def waiting_due(self, name: str) -> None:
        """A waiting row of this queue may be due."""
        self.queues[name].examine = True

    # --------------------------------------------------------------------------------------- suspects

    def _suspect_gate(self) -> bool:
        """Offer the next suspect. True while one is out: then nothing else is handed to workers."""
        if self._suspect_out is not None:
            return True
        for (lane_no, seq), sole in list(self._suspects.items()):
            row = self._read_row(lane_no, seq)
            if row is None:
                self._clear_suspect(lane_no, seq)
                continue
            queue = self.queue(row.queue)
            if queue.buffer is None or queue.policy is None:
                continue
            row.suspect = True
            self._hold_alone(row)
            limit = self._most_attempts(queue, row)
            if sole and limit is not None and row.attempts >= limit:
                self._bury(row, "crash", "the process died in the handler")
                self._end(row, Outcome.EXHAUSTED, "crash", row.attempts)
                continue
            if not queue.policy.push:
                # Nobody may ever call `receive` again: it holds back its own queue only, by being first there.
                self._clear_suspect(lane_no, seq)
            else:
                self._suspect_out = row
            row.place = Place.CLAIMED
            self._shared.effects.offers.append((queue.buffer, [row]))
            return queue.policy.push
        return False

    def _hold_alone(self, row: Row) -> None:
        """Take the place of a row that was looked ahead at."""
        ahead = row.lane.rows.get(row.seq)
        if ahead is not None:
            ahead.place = Place.GONE
        row.lane.rows[row.seq] = row

    def _clear_suspect(self, lane_no: int, seq: int) -> None:
        if self._suspects.pop((lane_no, seq), None) is not None:
            self._shared.journal.delete(tables.lane_seq(tables.SUSPECT, lane_no, seq))

    # --------------------------------------------------------------------------------------- results

    def finish_all(self, results: list[tuple[Row, Result]]) -> None:
        """What workers made of rows, in the order in which they were through."""
        plain = [row for row, result in results if type(result) is Handled and row.is_plain]
        if len(plain) < len(results):
            for row, result in results:
                if not (type(result) is Handled and row.is_plain):
                    self.finish(row, result)
        if plain:
            self._finish_plain(plain)

    def _finish_plain(self, rows: list[Row]) -> None:
        """Settle rows that were acknowledged and have no more than their row in INBOX: in runs, not one by one."""
        shared = self._shared
        shared.effects.freed.extend([row.slot for row in rows])
        rows = [row for row in rows if row.lane.rows.pop(row.seq, None) is row]
        if not rows:
            return
        shared.counters["handled"] += len(rows)
        rows.sort(key=_lane_and_seq)
        start = 0
        for at, row in enumerate(rows):
            following = rows[at + 1] if at + 1 < len(rows) else None
            if following is None or following.lane is not row.lane or following.seq != row.seq + 1:
                self._end_run(rows[start : at + 1])
                start = at + 1
        for name in {row.queue for row in rows}:
            self.queue(name).examine = True

    def _end_run(self, rows: list[Row]) -> None:
        """HANDLED, at the first attempt, for neighbours of one lane."""
        lane, first, last = rows[0].lane, rows[0].seq, rows[-1].seq
        self._shared.journal.pop(*tables.lane_bounds(tables.INBOX, lane.no, first, last))
        for row in rows:
            row.place = Place.GONE
        self._count(lane, -len(rows), -sum([len(row.record) for row in rows]))
        now_us = self._shared.now.store_us
        settled = Settled(first, last, Outcome.HANDLED, None, 1, rows[-1].handed_us, now_us, False)
        self._settled.setdefault(lane, []).append((first, settled))

    def finish(self, row: Row, result: Result) -> None:
        """What a worker made of a row."""
        if row.lane.rows.get(row.seq) is not row:
            # The peer was forgotten or its store was replaced meanwhile: nobody waits for this.
            self._shared.effects.freed.append(row.slot)
            return
        if row.suspect:
            self._suspect_out = None
            self._clear_suspect(row.lane.no, row.seq)
            self._examine_all()
        if row.slot >= 0:
            self._shared.effects.freed.append(row.slot)
        if isinstance(result, Handled):
            self._shared.counters["handled"] += 1
            self._end(row, Outcome.HANDLED, None, row.attempts)
        elif isinstance(result, Rejected):
            self._bury(row, "rejected", result.reason)
            self._end(row, Outcome.REJECTED, result.reason, row.attempts)
        elif isinstance(result, Expired):
            self._expire(row)
        elif isinstance(result, MoveTo):
            self._move(row, result.queue)
        else:
            self._retry(row, result)
        queue = self.queue(row.queue)
        queue.examine = True

    def _examine_all(self) -> None:
        for queue in self.queues.values():
            queue.examine = True

    def _retry(self, row: Row, result: Failed | RetryAt) -> None:
        queue = self.queue(row.queue)
        now_us = self._shared.now.store_us
        row.first_handed_us = row.first_handed_us or row.handed_us
        if row.withdrawn is not None:
            self._end_handed(row, row.withdrawn)
            return
        if row.expired(now_us):
            self._end_handed(row, Cause.DEADLINE)
            return
        delay_us = self._delay_us(queue, row, result)
        reason = result.reason or "retry"
        if delay_us is None:
            self._bury(row, "exhausted", reason)
            self._end(row, Outcome.EXHAUSTED, reason, row.attempts)
            return
        self._shared.counters["retried"] += 1
        self._park(row, queue, now_us + delay_us, reason)

    def _delay_us(self, queue: Queue, row: Row, result: Failed | RetryAt) -> int | None:
        """How long to wait for the next attempt; None if there is none."""
        limit = self._most_attempts(queue, row)
        if limit is not None and row.attempts >= limit:
            return None
        if isinstance(result, RetryAt) and result.delay_us is not None:
            return result.delay_us
        elapsed_s = (self._shared.now.store_us - row.first_handed_us) / 1e6
        retry = cast(Policy, queue.policy).retry
        delay_s = retry.delay(row.attempts, self._shared.rng, elapsed_s)
        return None if delay_s is None else int(delay_s * 1e6)

    @staticmethod
    def _most_attempts(queue: Queue, row: Row) -> int | None:
        limits = (row.head.meta.max_attempts, queue.policy.retry.max_attempts if queue.policy else None)
        return min((limit for limit in limits if limit is not None), default=None)

    def _park(self, row: Row, queue: Queue, ready_at_us: int, reason: str) -> None:
        """Let a row wait in `queue` until `ready_at_us`. Its key stays blocked: KEYED is not touched."""
        self._remove_waiting(row)
        at_us = self._put_waiting(queue, row.lane.no, row.seq, ready_at_us)
        flags = (_REDELIVERED if row.redelivered else 0) | (_DOUBT if row.old else 0)
        moved_to = queue.name if queue.name != row.lane.queue else None
        state = RowState(row.attempts, row.first_handed_us, at_us, flags, moved_to, reason)
        self._put_state(row.lane.no, row.seq, state)
        self._pass(row)

    def _move(self, row: Row, to: str) -> None:
        """The same message in another queue: attempts start again, its key is a key of that queue."""
        now_us = self._shared.now.store_us
        if row.withdrawn is not None or row.expired(now_us):
            self._end_handed(row, row.withdrawn or Cause.DEADLINE)
            return
        if row.key is not None:
            self._free_key(row)
        queue = self.queue(to)
        row.attempts = 0
        if row.key is not None:
            key = tables.keyed_key(tables.KEYED, queue.no, tables.key_hash(row.key), row.order_us, row.lane.no, row.seq)
            self._shared.journal.put(key, b"")
        row.first_handed_us = row.first_handed_us or row.handed_us
        self._park(row, queue, now_us, "moved")

    def _put_waiting(self, queue: Queue, lane_no: int, seq: int, ready_at_us: int) -> int:
        """Returns the time used, which is behind everything in WAITING that was looked at."""
        if queue.waiting_from:
            ready_at_us = max(ready_at_us, tables.split_waiting(queue.waiting_from[:-1])[0] + 1)
        key = tables.waiting_key(tables.WAITING, queue.no, ready_at_us, lane_no, seq)
        self._shared.journal.put(key, b"")
        queue.waiting_next_us = min(queue.waiting_next_us, ready_at_us)
        self._shared.clock_timers.set_earlier(("waiting", queue.name), ready_at_us)
        return ready_at_us

    def _remove_waiting(self, row: Row) -> None:
        if row.waiting_at_us:
            queue = self.queue(row.queue)
            key = tables.waiting_key(tables.WAITING, queue.no, row.waiting_at_us, row.lane.no, row.seq)
            self._shared.journal.delete(key)

    def _state(self, lane_no: int, seq: int) -> RowState:
        data = self._shared.journal.get(tables.lane_seq(tables.ROW_STATE, lane_no, seq))
        return RowState() if data is None else _decode_state(data)

    def _put_state(self, lane_no: int, seq: int, state: RowState) -> None:
        self._shared.journal.put(tables.lane_seq(tables.ROW_STATE, lane_no, seq), state.encode())

    # --------------------------------------------------------------------------------------- withdrawal

    def withdraw(self, lane: InLane, ranges: list[Range], cause: Cause) -> None:
        """The sender's request that these never be handed over."""
        for first, last in ranges:
            for seq in range(first, last + 1):
                if seq > lane.floor:
                    self._entomb(lane, seq, cause)
                else:
                    self._withdraw_row(lane, seq, cause)

    def _entomb(self, lane: InLane, seq: int, cause: Cause) -> None:
        """It was not received: remember until it or its VOID comes that it must not be handed over."""
        key = tables.lane_seq(tables.TOMBSTONE, lane.no, seq)
        if self._shared.journal.get(key) is not None:
            return
        self._shared.journal.put(key, bytes((cause.value,)))
        self._shared.counters["tombstones"] += 1
        doubt = seq <= lane.doubt_upto
        self._note_settled(lane, seq, *_withdrawn_outcome(cause, doubt), 0, 0, False)

    def _withdraw_row(self, lane: InLane, seq: int, cause: Cause) -> None:
        row = lane.rows.get(seq) or self._read_row(lane.no, seq)
        if row is None:
            return
        if row.place is Place.CLAIMED and self._buffer_of(row).withdraw(row):
            row.place = Place.AHEAD
            if row is self._suspect_out:
                self._suspect_out = None
                self._examine_all()
        if row.place in (Place.RUNNING, Place.DONE):
            if row.withdrawn is None:
                self._forbid_retry(row, cause)
            self._notice(row)
            return
        if row.was_handed_over:
            self._end_handed(row, cause)
        else:
            self._end(row, *_withdrawn_outcome(cause, row.doubt), 0)

    def _forbid_retry(self, row: Row, cause: Cause) -> None:
        """The row is with a worker: it will not be handed over again, not even after a crash."""
        row.withdrawn = cause
        row.stated = True
        state = self._state(row.lane.no, row.seq)
        first_us = row.first_handed_us or row.handed_us
        state = state._replace(attempts=row.attempts, first_handed_us=first_us, withdrawn=cause.value)
        self._put_state(row.lane.no, row.seq, state)

    def _buffer_of(self, row: Row) -> Buffer:
        return cast(Buffer, self.queue(row.queue).buffer)

    def _notice(self, row: Row) -> None:
        channel = self._channels.get(row.lane.peer)
        if channel is not None and row.lane.kind != LOCAL and row.lane.store_id == channel.their_store:
            channel.append_control(Notice(row.lane.store_id, row.lane.id, row.seq, row.handed_us))

    def _end_handed(self, row: Row, cause: Cause) -> None:
        """Withdrawn after it was handed over: no further attempt (F10)."""
        if cause is Cause.DEADLINE:
            self._dead.add(row, "deadline", cause.reason)
        self._end(row, Outcome.EXHAUSTED, cause.reason, row.attempts)

    # --------------------------------------------------------------------------------------- deadlines

    def judge(self, channel_no: int, now_theirs_us: int) -> None:
        """End the rows of this sender whose deadline has passed by its own clock."""
        bounds = tables.u32_bounds(tables.IN_DEADLINE, channel_no)
        for key in self._shared.journal.keys(*bounds, 1000):
            deadline_us, lane_no, seq = tables.split_waiting(key)
            if now_theirs_us <= deadline_us:
                return
            self._shared.journal.delete(key)
            lane = self._shared.in_lanes.get(lane_no)
            row = None if lane is None else lane.rows.get(seq) or self._read_row(lane_no, seq)
            if row is not None:
                self._judge_row(row)

    def next_deadline_us(self, channel_no: int) -> int | None:
        """The earliest deadline among this sender's rows, by its clock."""
        keys = self._shared.journal.keys(*tables.u32_bounds(tables.IN_DEADLINE, channel_no), 1)
        return tables.split_waiting(keys[0])[0] if keys else None

    def _judge_row(self, row: Row) -> None:
        if row.place is Place.CLAIMED and self._buffer_of(row).withdraw(row):
            row.place = Place.AHEAD
            if row is self._suspect_out:
                self._suspect_out = None
        if row.place in (Place.RUNNING, Place.DONE):
            if row.withdrawn is None:
                self._forbid_retry(row, Cause.DEADLINE)
            return
        self._expire(row)

    def _expire(self, row: Row) -> None:
        """Its deadline has passed and no worker has it."""
        if row.was_handed_over:
            self._end_handed(row, Cause.DEADLINE)
            return
        outcome, reason = _withdrawn_outcome(Cause.DEADLINE, row.doubt)
        self._on_expiry(row)
        self._shared.counters["expired"] += 1
        self._end(row, outcome, reason, 0, applied=True)

    def _on_expiry(self, row: Row) -> None:
        on_expiry = row.head.meta.on_expiry
        if on_expiry == "dead":
            self._dead.add(row, "expired", "deadline")
        elif on_expiry.startswith("queue:"):
            self.add_local(on_expiry[6:], self._dead.as_local(row.record, self.message_id(row), "expired"))

    def _put_deadline(self, row: Row) -> None:
        channel = self._channels.get(row.lane.peer)
        if channel is None:
            return
        key = tables.in_deadline_key(tables.IN_DEADLINE, channel.no, row.deadline_us, row.lane.no, row.seq)
        self._shared.journal.put(key, b"")
        channel.deadline_added(row.deadline_us)

    # --------------------------------------------------------------------------------------- settlement

    def _end(self, row: Row, outcome: Outcome, reason: str | None, attempts: int, applied: bool = False) -> None:
        """Remove a row and tell its sender the outcome."""
        journal, lane, seq = self._shared.journal, row.lane, row.seq
        journal.delete(tables.inbox_key(tables.INBOX, lane.no, seq, row.order_us))
        if row.stated or row.waiting_at_us or row.suspect:
            self._remove_waiting(row)
            journal.delete(tables.lane_seq(tables.ROW_STATE, lane.no, seq))
            self._clear_suspect(lane.no, seq)
        if row.deadline_us:
            channel = self._channels.get(lane.peer)
            if channel is not None:
                journal.delete(tables.in_deadline_key(tables.IN_DEADLINE, channel.no, row.deadline_us, lane.no, seq))
        lane.rows.pop(seq, None)
        row.place = Place.GONE
        if row.key is not None:
            self._free_key(row)
        self._count(lane, -1, -len(row.record))
        handed_us = row.handed_us or row.first_handed_us
        if attempts and not handed_us:
            handed_us = 1
        self._note_settled(lane, seq, outcome, reason, attempts, handed_us, applied)

    def _free_key(self, row: Row) -> None:
        """The row no longer holds its key: the next one may be claimed if it was passed over."""
        queue = self.queue(row.queue)
        key_hash = tables.key_hash(cast(str, row.key))
        journal, lane = self._shared.journal, row.lane
        journal.delete(tables.keyed_key(tables.KEYED, queue.no, key_hash, row.order_us, lane.no, row.seq))
        prefix = tables.keyed_prefix(tables.KEYED, queue.no, key_hash)
        following = journal.keys(prefix, prefix + b"\xff" * 21, 1)
        if not following:
            return
        order_us, lane_no, seq = tables.split_keyed(following[0])
        other = self._shared.in_lanes.get(lane_no)
        if other is None or seq in other.rows or order_us > self._shared.now.store_us:
            return
        heappush(queue.promoted, (order_us, lane_no, seq))
        queue.examine = True
        if len(queue.promoted) > _MOST_PROMOTED:
            self.rewind(queue)

    def _count(self, lane: InLane, messages: int, size: int) -> None:
        lane.count += messages
        lane.size += size
        ledger = self._shared.ledger
        ledger.inbox_messages += messages
        ledger.inbox_bytes += size
        self._shared.touch(lane)

    def _note_settled(
        self,
        lane: InLane,
        seq: int,
        outcome: Outcome,
        reason: str | None,
        attempts: int,
        handed_us: int,
        applied: bool,
    ) -> None:
        if outcome is Outcome.RECALLED:
            self._shared.counters["recalled"] += 1
        settled = Settled(seq, seq, outcome, reason, attempts, handed_us, self._shared.now.store_us, applied)
        self._settled.setdefault(lane, []).append((seq, settled))

    def write_settlements(self) -> None:
        """Append what this turn settled to the control lanes, as ranges."""
        for lane, items in self._settled.items():
            channel = self._channels.get(lane.peer)
            if lane.kind == LOCAL or channel is None or lane.store_id != channel.their_store:
                continue  # nobody waits for it: its own message, or one of a store that is gone (F4)
            ranges = _merge(items)
            for start in range(0, len(ranges), _MOST_IN_ENTRY):
                channel.append_control(Settle(lane.store_id, lane.id, ranges[start : start + _MOST_IN_ENTRY]))
        self._settled.clear()

    # --------------------------------------------------------------------------------------- dead letters

    def _bury(self, row: Row, cause: str, reason: str) -> None:
        self._dead.add(row, cause, reason)

    def _quarantine(self, row: Row, why: str) -> None:
        """A damaged row: keep its bytes apart and tell the sender that nobody knows (F14)."""
        lane, seq = row.lane, row.seq
        journal = self._shared.journal
        journal.put(tables.lane_seq(tables.QUARANTINE, lane.no, seq), row.record)
        self._shared.event("damaged", lane.peer, f"inbox row {seq} of lane {lane.id:016x}: {why}")
        row.stated = True
        state = self._state(lane.no, seq)
        row.waiting_at_us = state.waiting_at_us or (row.order_us if lane.kind == DELAYED else 0)
        row.queue = state.queue or row.queue
        self._forget_keyed(row)
        self._end(row, Outcome.UNCERTAIN, "damaged", state.attempts)

    def _forget_keyed(self, row: Row) -> None:
        """Remove the row from KEYED though its key cannot be read; rows behind it are looked at again."""
        queue = self.queue(row.queue)
        suffix = (row.lane.no, row.seq)
        first, end = tables.u32_bounds(tables.KEYED, queue.no)
        for key in self._shared.journal.keys(first, end, 2**31):
            if tables.split_keyed(key)[1:] == suffix:
                self._shared.journal.delete(key)
                queue.passed = True
                return

    # --------------------------------------------------------------------------------------- lost stores

    def held(self, lane: InLane) -> list[int]:
        """Sequence numbers of a lane's rows in the inbox."""
        keys = self._shared.journal.keys(*tables.lane_bounds(tables.INBOX, lane.no), 2**31)
        return [tables.split_inbox(key)[1] for key in keys]

    def tombstones(self, lane: InLane) -> list[tuple[int, int]]:
        """Sequence numbers and causes of a lane's tombstones."""
        rows = self._shared.journal.scan(*tables.lane_bounds(tables.TOMBSTONE, lane.no), 2**31)
        return [(tables.split_lane_seq(key)[1], value[0]) for key, value in rows]

    def drop(self, lane: InLane, seq: int) -> None:
        """Remove a row whose outcome the sender knows already, without telling it again."""
        row = lane.rows.get(seq) or self._read_row(lane.no, seq)
        if row is None or row.place in (Place.RUNNING, Place.DONE):
            return
        if row.place is Place.CLAIMED and not self._buffer_of(row).withdraw(row):
            return
        self._end(row, Outcome.UNCERTAIN, "store replaced", 0)
        self._settled[lane] = [item for item in self._settled[lane] if item[0] != seq]

    def drop_tombstones(self, lane: InLane, above: int) -> None:
        """Remove the lane's tombstones above a sequence number."""
        self._shared.journal.pop(*tables.lane_bounds(tables.TOMBSTONE, lane.no, above + 1))

    def skip_to(self, lane: InLane, floor: int) -> None:
        """Everything up to `floor` is final at the sender: raise the floor without having received it."""
        if floor <= lane.floor:
            return
        caught_up = lane.scan_seq == lane.floor + 1
        self._shared.journal.pop(*tables.lane_bounds(tables.TOMBSTONE, lane.no, lane.floor + 1, floor))
        lane.floor = floor
        if caught_up:
            lane.scan_seq = floor + 1
        self._shared.touch(lane)

    # --------------------------------------------------------------------------------------- small things

    def message_id(self, row: Row) -> str:
        """The id of a message: the sender's own, or made of lane and sequence number."""
        return row.head.meta.id or f"{row.lane.id:016x}-{row.seq}"

    def _clock(self, lane: InLane) -> ClockOffset | None:
        channel = self._channels.get(lane.peer)
        return None if channel is None or lane.kind == LOCAL else channel.clock

    def _to_local(self, lane: InLane, their_us: int) -> int:
        clock = self._clock(lane)
        local_us = their_us if clock is None else clock.to_local(their_us)
        return their_us if local_us is None else local_us


def _check(records: list[bytes]) -> None:
    """Raises BadRecord unless all are MESSAGEs: nothing is written before all are known to be good."""
    if not verify_all(records):
        raise BadRecord("the checksum of a record does not match")
    for record in records:
        if len(record) < FRAMING_BYTES:
            raise BadRecord(f"a MESSAGE record has at least {FRAMING_BYTES} bytes, got {len(record)}")
        meta_length, sent_at_us, deadline_us = HEADER.unpack_from(record)
        if meta_length or sent_at_us > MAX_TIME_US or deadline_us > MAX_TIME_US:
            decode_head(record)


def _lane_and_seq(row: Row) -> tuple[int, int]:
    return row.lane.no, row.seq


def _withdrawn_outcome(cause: Cause, doubt: bool) -> tuple[Outcome, str]:
    """The outcome of a message withdrawn for `cause` that this life never handed over."""
    if doubt:
        return Outcome.UNCERTAIN, cause.reason
    return _OUTCOME_OF_CAUSE[cause], cause.reason


def _seqs_of_records(first: int, runs: list[int]) -> list[int]:
    if len(runs) == 1 and runs[0] > 0:
        return list(range(first, first + runs[0]))
    seqs: list[int] = []
    for run in runs:
        if run > 0:
            seqs.extend(range(first, first + run))
        first += abs(run)
    return seqs


def _merge(items: list[tuple[int, Settled]]) -> list[Settled]:
    """Settlements of single messages as ranges: neighbours with the same outcome, reason and attempts."""
    items.sort(key=lambda item: item[0])
    merged: list[Settled] = []
    for _, settled in items:
        last = merged[-1] if merged else None
        if last is not None and last.last + 1 == settled.first and _alike(last, settled):
            merged[-1] = Settled(last.first, settled.last, *settled[2:])
            continue
        merged.append(settled)
    return merged


def _alike(one: Settled, other: Settled) -> bool:
    return one[2:5] == other[2:5] and one.applied == other.applied and bool(one[5]) == bool(other[5])
