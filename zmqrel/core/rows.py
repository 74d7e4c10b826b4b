"""Rows of the inbox as they lie in the store: what hangs on one message, and how it is read back.

    INBOX       always; the run that it is in holds its `order`, the time at which it became ready
    WAITING     if it does not stand in its lane's natural order: delayed, retried, moved
    KEYED       if it has a key; only the first row of each key may be claimed
    ROW_STATE   once it was handed over, retried or moved
    IN_DEADLINE if it has a deadline

inbox.py decides when these change, claims.py in which order rows are looked at.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, cast

import msgpack

from zmqrel.core import tables
from zmqrel.core.buffer import Buffer
from zmqrel.core.entries import MAX_TIME_US, BadRecord, MessageHead, decode_head, pack, verify
from zmqrel.core.history import RECEIVED, STORED, Happened, History, decode_history
from zmqrel.core.lane import DATA, DELAYED, LOCAL, InLane
from zmqrel.core.offset import ClockOffset
from zmqrel.core.row import Row
from zmqrel.core.runs import Entry
from zmqrel.core.shared import Shared
from zmqrel.outcome import Cause
from zmqrel.retry import Retry

if TYPE_CHECKING:
    from zmqrel.core.channel import Channel

NEVER = 2**63
"""Behind every time and order."""

REDELIVERED = 1
"""Flag of a RowState."""


class RowState(NamedTuple):
    """What is kept of a row beside the message itself."""

    attempts: int = 0
    first_handed_us: int = 0
    waiting_at_us: int = 0
    flags: int = 0
    queue: str | None = None
    """The queue that it was moved to."""
    history: History = ()
    """What became of it here: failed attempts, moves."""
    withdrawn: int = 0
    """The Cause for which it was withdrawn while a worker had it: there is no further attempt."""
    keyed_us: int = 0
    """Its place among the rows of its key, if it was moved to where others of that key may be at work."""

    def encode(self) -> bytes:
        """The bytes of the row."""
        return pack(tuple(self))


def decode_state(data: bytes) -> RowState:
    """The state of these bytes."""
    attempts, first_handed_us, waiting_at_us, flags, queue, happened, withdrawn, keyed_us = msgpack.unpackb(data)
    past = decode_history(happened)
    return RowState(attempts, first_handed_us, waiting_at_us, flags, queue, past, withdrawn, keyed_us)


@dataclass(frozen=True, slots=True)
class Policy:
    """How a queue's handler treats failures."""

    retry: Retry
    workers: int = 1
    """How many messages are handled at a time."""
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
    resume_us: int = 0
    """While room is scarce: until when, since an attempt failed, no message is handed over for the first time."""
    pause_us: int = 0
    """How long that is, since it is twice as long after each failure."""
    skipped: list[tuple[int, int, int]] = field(default_factory=list)
    """Rows out of `waiting` that were never handed over, until then."""
    passed: bool = False
    """Rows were passed over for another reason than their key."""
    awake: dict[str, Queue] = field(default_factory=dict, repr=False)
    """All queues of the peer in which there may be something to claim, so that a turn does not ask each of them."""

    def has_nothing_ahead(self, now_us: int) -> bool:
        """Whether nothing is at hand that could be looked at, and no waiting row is due that was not read."""
        return not (self.heap or self.waiting or self.skipped or self.promoted) and now_us < self.waiting_next_us

    @property
    def examine(self) -> bool:
        """There may be something to claim."""
        return self.name in self.awake

    @examine.setter
    def examine(self, there_may_be: bool) -> None:
        if there_may_be:
            self.awake[self.name] = self
        else:
            self.awake.pop(self.name, None)


class Rows:
    """The tables of the inbox. `damaged` is called with a row that cannot be read, and why."""

    def __init__(self, shared: Shared, channels: Mapping[str, Channel], damaged: Callable[[Row, str], None]) -> None:
        self._shared = shared
        self._channels = channels
        self._damaged = damaged
        self.queues: dict[str, Queue] = {}
        self.awake: dict[str, Queue] = {}
        """Those in which there may be something to claim; others cost a turn nothing."""

    def load(self) -> None:
        """Read the queues."""
        for key, value in self._shared.journal.scan(*tables.table_bounds(tables.QUEUE), limit=2**31):
            name = key[1:].decode()
            self._add(Queue(name, int.from_bytes(value, "big"), awake=self.awake))

    def queue(self, name: str) -> Queue:
        """The queue of that name, made if need be."""
        queue = self.queues.get(name)
        if queue is None:
            queue = self._add(Queue(name, self._shared.ledger.next_queue, awake=self.awake))
            self._shared.ledger.next_queue += 1
            self._shared.journal.put(tables.named(tables.QUEUE, name), queue.no.to_bytes(4, "big"))
        return queue

    def _add(self, queue: Queue) -> Queue:
        self.queues[queue.name] = queue
        queue.examine = True
        return queue

    def queue_of(self, row: Row) -> Queue:
        """The queue that a row is in."""
        return self.queue(row.queue)

    def buffer_of(self, row: Row) -> Buffer:
        """The buffer that a claimed row is in."""
        return cast(Buffer, self.queue(row.queue).buffer)

    # ------------------------------------------------------------------------------------------------------- reading

    def read(self, lane_no: int, seq: int) -> Row | None:
        """A row from the store, None if there is none (any more)."""
        lane = self._shared.in_lanes.get(lane_no)
        if lane is None:
            return None
        entry = self._shared.inbox_runs.get(lane_no, seq)
        if entry is None:
            return None
        return self.make(lane, entry, self.state(lane_no, seq))

    def make(self, lane: InLane, entry: Entry, state: RowState | None) -> Row | None:
        """A row as it was read back, with what is known of it. A damaged one is settled here (F14)."""
        seq, order_us, record = entry
        row = Row(lane, seq, order_us, record)
        try:
            if not verify(record):
                raise BadRecord("the checksum of a row of the inbox does not match")
            head = decode_head(record)
        except BadRecord as error:
            self._damaged(row, str(error))
            return None
        row.key = head.meta.key
        if head.deadline_us:
            row.deadline_us = head.deadline_us
            row.clock = self.clock_of(lane)
        if lane.kind == DELAYED:
            row.waiting_at_us = order_us
        if state is not None and state != RowState():
            row.stated = True
            row.attempts = state.attempts
            row.first_handed_us = state.first_handed_us
            row.waiting_at_us = state.waiting_at_us or row.waiting_at_us
            row.redelivered = row.redelivered or bool(state.flags & REDELIVERED)
            row.queue = state.queue or row.queue
            row.withdrawn = Cause(state.withdrawn) if state.withdrawn else None
            row.keyed_us = state.keyed_us
        return row

    def state(self, lane_no: int, seq: int) -> RowState:
        """What is kept of a row beside its message."""
        data = self._shared.journal.get(tables.lane_seq(tables.ROW_STATE, lane_no, seq))
        return RowState() if data is None else decode_state(data)

    def put_state(self, lane_no: int, seq: int, state: RowState) -> None:
        """Keep it."""
        self._shared.journal.put(tables.lane_seq(tables.ROW_STATE, lane_no, seq), state.encode())

    def history(self, lane: InLane, order_us: int, head: MessageHead, state: RowState) -> History:
        """What happened to a message up to now; when a delayed one came is not kept."""
        before: History = (Happened(self.sent_us(lane, head), STORED),)
        if lane.kind == DATA:
            before += (Happened(order_us, RECEIVED),)
        return before + state.history

    # ------------------------------------------------------------------------------------------------------- waiting

    def put_waiting(self, queue: Queue, lane_no: int, seq: int, ready_at_us: int) -> int:
        """Let a row wait; returns the time used, which is behind everything in WAITING that was looked at."""
        if queue.waiting_from:
            ready_at_us = max(ready_at_us, tables.split_waiting(queue.waiting_from[:-1])[0] + 1)
        key = tables.waiting_key(tables.WAITING, queue.no, ready_at_us, lane_no, seq)
        self._shared.journal.put(key, b"")
        queue.waiting_next_us = min(queue.waiting_next_us, ready_at_us)
        self._shared.clock_timers.set_earlier(("waiting", queue.name), ready_at_us)
        return ready_at_us

    def remove_waiting(self, row: Row) -> None:
        """The row does not wait any more."""
        if row.waiting_at_us:
            queue = self.queue(row.queue)
            key = tables.waiting_key(tables.WAITING, queue.no, row.waiting_at_us, row.lane.no, row.seq)
            self._shared.journal.delete(key)

    # ---------------------------------------------------------------------------------------------------------- keys

    def put_key(self, queue: Queue, row: Row) -> None:
        """The row takes its place among those of its key."""
        key_hash = tables.key_hash(cast(str, row.key))
        order_us = row.keyed_us or row.order_us
        key = tables.keyed_key(tables.KEYED, queue.no, key_hash, order_us, row.lane.no, row.seq)
        self._shared.journal.put(key, b"")

    def remove_key(self, row: Row) -> tuple[int, int, int] | None:
        """The row gives its key free; returns (order, lane number, seq) of the first row that has it now."""
        queue = self.queue(row.queue)
        key_hash = tables.key_hash(cast(str, row.key))
        order_us = row.keyed_us or row.order_us
        key = tables.keyed_key(tables.KEYED, queue.no, key_hash, order_us, row.lane.no, row.seq)
        self._shared.journal.delete(key)
        return self._first_of_key(queue, key_hash)

    def is_first_of_key(self, queue: Queue, row: Row) -> bool:
        """True if no row before this one has its key."""
        first = self._first_of_key(queue, tables.key_hash(cast(str, row.key)))
        return first is None or first[1:] == (row.lane.no, row.seq)

    def _first_of_key(self, queue: Queue, key_hash: bytes) -> tuple[int, int, int] | None:
        prefix = tables.keyed_prefix(tables.KEYED, queue.no, key_hash)
        keys = self._shared.journal.keys(prefix, prefix + b"\xff" * 21, 1)
        return tables.split_keyed(keys[0]) if keys else None

    def forget_keyed(self, row: Row) -> tuple[int, int, int] | None:
        """Give its key free though it cannot be read; returns the first row that has that key now."""
        queue = self.queue(row.queue)
        suffix = (row.lane.no, row.seq)
        first, end = tables.u32_bounds(tables.KEYED, queue.no)
        for key in self._shared.journal.keys(first, end, 2**31):
            if tables.split_keyed(key)[1:] == suffix:
                self._shared.journal.delete(key)
                return self._first_of_key(queue, key[5:13])
        return None

    # -------------------------------------------------------------------------------------------------------- clocks

    def put_deadline(self, row: Row) -> None:
        """The row is to be judged at its deadline."""
        channel = self._channels.get(row.lane.peer)
        if channel is None:
            return
        key = tables.in_deadline_key(tables.IN_DEADLINE, channel.no, row.deadline_us, row.lane.no, row.seq)
        self._shared.journal.put(key, b"")
        channel.deadline_added(row.deadline_us)

    def remove_deadline(self, row: Row) -> None:
        """The row need not be judged any more."""
        channel = self._channels.get(row.lane.peer)
        if channel is not None:
            key = tables.in_deadline_key(tables.IN_DEADLINE, channel.no, row.deadline_us, row.lane.no, row.seq)
            self._shared.journal.delete(key)

    def clock_of(self, lane: InLane) -> ClockOffset | None:
        """What knows the clock of the lane's sender; None for own messages."""
        channel = self._channels.get(lane.peer)
        return None if channel is None or lane.kind == LOCAL else channel.clock

    def sent_us(self, lane: InLane, head: MessageHead) -> int:
        """When a message was sent, by the own clock. A clock that lies gives a time, too, that can be stored."""
        return min(max(0, self.to_local(lane, head.sent_at_us)), MAX_TIME_US)

    def to_local(self, lane: InLane, their_us: int) -> int:
        """A time of the lane's sender by the own clock, as far as that is known."""
        clock = self.clock_of(lane)
        local_us = their_us if clock is None else clock.to_local(their_us)
        return their_us if local_us is None else local_us
