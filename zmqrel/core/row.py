"""A message of the inbox in memory: by itself, or in a span of neighbours that nobody has looked at one by one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from enum import Enum
from operator import length_hint
from typing import TYPE_CHECKING

from zmqrel.core.entries import CHECK_BYTES, HEADER, MessageHead, decode_head
from zmqrel.outcome import Cause

if TYPE_CHECKING:
    from zmqrel.core.lane import InLane
    from zmqrel.core.offset import ClockOffset


class Place(Enum):
    """Where a row in memory is."""

    AHEAD = 1
    """Read from the store, not claimed."""
    CLAIMED = 2
    """In a buffer, to be taken by a worker or by a withdrawal."""
    ASKED = 3
    """Out of its buffer while `admit` is asked: it can still be withdrawn."""
    RUNNING = 4
    """Handed over."""
    DONE = 5
    """The worker is through; the settlement is not committed."""
    GONE = 6
    """Withdrawn, passed over or settled: memory only."""


class Row:
    """One message of the inbox in memory. What is rarely set has its default in the class."""

    deadline_us = 0
    """By the sender's clock; 0 is none."""
    clock: ClockOffset | None = None
    """Knows the sender's clock; None for messages of this peer's own."""
    key: str | None = None
    keyed_us = 0
    """Its place among the rows of its key, 0 if that is `order_us`."""
    attempts = 0
    """Hand-overs, the running one included."""
    handed_us = 0
    first_handed_us = 0
    redelivered = False
    suspect = False
    """It was with a worker when the process died."""
    returned = False
    """Its handler has returned and left it to be settled later."""
    waiting_at_us = 0
    """Where it stands in the table WAITING, 0 if it does not."""
    stated = False
    """It has a row in the table ROW_STATE."""
    slot = -1
    withdrawn: Cause | None = None
    overdue_us = 0
    """When its handler's time limit is over, 0 without one."""
    span: Span | None = None
    """The span that it was handed over from."""
    messages = 1

    def __init__(self, lane: InLane, seq: int, order_us: int, record: bytes) -> None:
        self.lane = lane
        self.seq = seq
        self.order_us = order_us
        """When it became ready the first time: its place in the queue, and part of its key in the store."""
        self.record = record
        self.queue = lane.queue
        self.place = Place.AHEAD

    @property
    def size(self) -> int:
        """Bytes of the record."""
        return len(self.record)

    @property
    def is_plain(self) -> bool:
        """It has nothing in the store but its row, and is at its first attempt."""
        if self.key is not None or self.deadline_us or self.stated or self.waiting_at_us or self.suspect:
            return False
        return self.attempts == 1

    @property
    def is_settled(self) -> bool:
        """A worker had it, and is through with it."""
        if self.span is not None:
            return self.seq - self.span.first not in self.span.running
        return self.place is not Place.RUNNING

    @property
    def doubt(self) -> bool:
        """It may have been handed over in a life that nobody remembers."""
        return self.seq <= self.lane.doubt_upto

    @property
    def was_handed_over(self) -> bool:
        """A worker has it or had it, be it in another queue."""
        return bool(self.attempts or self.first_handed_us)

    @property
    def head(self) -> MessageHead:
        """The decoded head of the record."""
        return decode_head(self.record)

    @property
    def body(self) -> memoryview:
        """The encoded body."""
        return memoryview(self.record)[HEADER.size + HEADER.unpack_from(self.record)[0] : -CHECK_BYTES]

    def local_deadline_us(self) -> int | None:
        """The deadline by the own clock; None without one, or while it cannot be judged."""
        if not self.deadline_us:
            return None
        return self.deadline_us if self.clock is None else self.clock.to_local(self.deadline_us)

    def expired(self, now_us: int) -> bool:
        """True after the deadline; a message is live at exactly its deadline."""
        deadline_us = self.local_deadline_us()
        return deadline_us is not None and now_us > deadline_us


OPEN, ACKNOWLEDGED, COLLECTED, SETTLED = range(4)
"""How far a message of a span is: with nobody or with a worker; acknowledged; known to the loop as such; ended."""


class Span:
    """Neighbours of one lane that have nothing but their records, and have one time of readiness.

    It stands for their Rows, which are made for those who want to look at one: so what is received, handed over and
    acknowledged is never looked at one by one by the loop, and a worker needs no lock for it. Whoever needs one of its
    rows by itself has it broken up (`Claims.find`).

    Messages are named by their position. `left` is what makes a hand-over one step: whoever takes a position out of it
    decides, be it a worker or who breaks the span up. In the same way, who takes a position out of `running` settles.
    """

    __slots__ = (
        "first", "handed_us", "is_apart", "lane", "left", "order_us", "place", "records", "rows", "running", "settled",
        "size", "slot", "stopped_at", "through",
    )  # fmt: skip

    def __init__(self, lane: InLane, first: int, order_us: int, records: list[bytes]) -> None:
        self.lane = lane
        self.first = first
        self.order_us = order_us
        self.records = records
        self.size = sum(map(len, records))
        self.place = Place.AHEAD
        self.is_apart = False
        """Its messages stand by themselves."""
        self.stopped_at = -1
        """How many had been handed over by then."""
        self.slot = -1
        """Of the first one, in the in-hand table; those of the others follow. -1 until something is handed over."""
        self.left: Iterator[int] = iter(())
        """Those that are to be handed over, in order, once this has begun."""
        self.running: set[int] = set()
        """Those that a worker has and that are not settled."""
        self.through = bytearray()
        """How far each one is: OPEN, ACKNOWLEDGED, COLLECTED or SETTLED."""
        self.handed_us: list[int] = []
        """When each one was handed over; 0 while it is not."""
        self.rows: dict[int, Row] = {}
        """Those that somebody wanted to look at."""
        self.settled = 0
        """How many have ended."""

    @property
    def messages(self) -> int:
        """How many messages it stands for, those included that were handed over."""
        return len(self.records)

    @property
    def last(self) -> int:
        """The number of the last one."""
        return self.first + len(self.records) - 1

    @property
    def taken(self) -> int:
        """How many were handed over: the first ones, in order."""
        if self.is_apart:
            return self.stopped_at
        return len(self.records) - length_hint(self.left) if self.slot >= 0 else 0

    @property
    def is_collected(self) -> bool:
        """All of it was handed over, and the loop has learnt what became of it."""
        return min(self.through) >= COLLECTED

    def begin(self, slot: int) -> None:
        """Its messages are handed over from now on; `slot` is that of the first."""
        count = len(self.records)
        self.left = iter(range(count))
        self.through = bytearray(count)
        self.handed_us = [0] * count
        self.slot = slot

    def row(self, at: int) -> Row:
        """One that was handed over, or is being so just now."""
        row = self.rows.get(at)
        if row is None:
            row = Row(self.lane, self.first + at, self.order_us, self.records[at])
            row.span = self
            row.slot = self.slot + at
            row.attempts = 1
            row.handed_us = self.handed_us[at]
            row.place = Place.RUNNING
            row = self.rows.setdefault(at, row)  # a worker and the loop may want it at once
        return row

    def body(self, at: int) -> bytes | memoryview:
        """The encoded body of one."""
        record = self.records[at]
        return record[_BODY] if len(record) < _LARGE_BYTES else memoryview(record)[_BODY]

    def collect(self) -> list[tuple[int, int]]:
        """Positions (first, behind the last) of neighbours that were acknowledged since they were last collected."""
        found = [match.span() for match in _SOME_ACKNOWLEDGED.finditer(bytes(self.through))]
        for start, stop in found:
            self.through[start:stop] = bytes((COLLECTED,)) * (stop - start)
        return found

    def settle(self, start: int, stop: int) -> None:
        """These positions have ended."""
        self.through[start:stop] = bytes((SETTLED,)) * (stop - start)
        self.settled += stop - start
        if self.settled == len(self.records):
            self.rows.clear()  # each of them refers to this

    def stop(self) -> None:
        """Hand over nothing more of it: from now on its messages stand by themselves."""
        # First, for a worker that acknowledges without a lock looks at it afterwards.
        self.is_apart = True
        if self.stopped_at < 0:
            self.stopped_at = len(self.records) - len(list(self.left)) if self.slot >= 0 else 0

    def rest(self) -> list[Row]:
        """Rows of those that were not handed over before it was stopped, to stand where it stood."""
        rows = [
            Row(self.lane, seq, self.order_us, record)
            for seq, record in enumerate(self.records[self.taken :], self.first + self.taken)
        ]
        for row in rows:
            row.place = self.place
        return rows

    def cut(self, count: int) -> Span:
        """Keep the first `count` of a span of which nothing was handed over; returns the others."""
        others = Span(self.lane, self.first + count, self.order_us, self.records[count:])
        self.records = self.records[:count]
        self.size -= others.size
        return others


_LARGE_BYTES = 16 * 1024
"""A copy of so much costs more than a view."""
_BODY = slice(HEADER.size, -CHECK_BYTES)
"""Of a record without a meta."""
_SOME_ACKNOWLEDGED = re.compile(bytes((ACKNOWLEDGED,)) + b"+")


def is_overdue(row: Row, now_us: int) -> bool:
    """True if its handler has, or had, it for longer than the handler's time limit."""
    return bool(row.overdue_us) and now_us > row.overdue_us
