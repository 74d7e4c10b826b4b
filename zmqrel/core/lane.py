"""The two halves of a lane: a durable, numbered log of entries from one peer to another.

The sending half knows what may be transmitted next (window, credit) and from where to resend; the receiving half
knows its floor. Both are values with a durable part, written as one row of the store; they write nothing themselves.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import msgpack

from zmqrel.core.entries import pack
from zmqrel.core.row import SETTLED

if TYPE_CHECKING:
    from zmqrel.core.row import Row, Span

CONTROL, DATA, DELAYED, LOCAL = range(4)
"""Kinds of lanes. LOCAL is an inbox lane of messages that this peer made itself (moved expired ones, retried dead)."""
MOST_UNFLUSHED = 16_384
"""Under "relaxed", entries of a lane that may leave between two flushes: so few are in doubt after a power cut. A store
may be opened by another version than the one that sent: this is part of the store's layout."""
_MOST_TAIL = 65_536
_TAIL_BYTES = 4 << 20
_MOST_TAIL_BYTES = 64 << 20
"""Of records that were not transmitted, kept at hand: two windows, but not less and not more than this. Where a stream
has more waiting, what leaves is read back from the store, which doubles its price."""
FIRST_GRANT = 1024
"""Entries that may be sent on a lane before its receiver granted anything: it takes or drops them."""


_FIRST = attrgetter("first")


class Flight(NamedTuple):
    """A transmitted batch that is not acknowledged: its last entry and its bytes."""

    last: int
    size: int
    sent_us: int
    """When, monotonic."""


class OutLane:
    """The sending half. `next_seq`, `sent_upto`, `acked`, `closed` and `doubt_upto` are durable."""

    __slots__ = (
        "ack_us",
        "acked",
        "after",
        "backoff_us",
        "closed",
        "cursor",
        "doubt_upto",
        "ended_unsent",
        "flight",
        "flight_bytes",
        "grant_bytes",
        "grant_seq",
        "hold_after",
        "id",
        "kind",
        "next_seq",
        "no",
        "over",
        "parked",
        "peer",
        "queue",
        "resend_attempt",
        "rewound_at_us",
        "rewound_to",
        "sendable_upto",
        "sent_upto",
        "tail",
        "tail_bytes",
        "withdrawn",
    )

    def __init__(self, no: int, peer: str, kind: int, lane_id: int, queue: str) -> None:
        self.no = no
        self.peer = peer
        self.kind = kind
        self.id = lane_id
        self.queue = queue
        self.next_seq = 1
        self.sent_upto = 0
        self.acked = 0
        self.closed = False
        """The lane belongs to a store life that was lost: `sent_upto` is its boundary, nothing is added."""
        self.over = False
        """Its peer was forgotten: it is kept for the outcomes that name it, and never spoken of."""
        self.doubt_upto = 0
        """Entries up to here may have been handed over in a life that nobody remembers."""
        self.after = 0
        """Number of the closed lane that this one replaces, and waits for; 0: none."""
        self.ended_unsent = 0
        """Entries above `sent_upto` that have ended: they are VOIDs already."""
        self.withdrawn = 0
        """Messages with a withdrawal in force; a hint that keeps the common case from looking them up."""
        self.hold_after: int | None = None
        """Settlements above this one wait for a flush ("relaxed" durability)."""
        self.sendable_upto: int | None = None
        """Under "relaxed" durability: entries above this one wait for a flush that covers `sent_upto`."""
        self.begin_session(0)

    def begin_session(self, acked: int) -> None:
        """A session begins: the receiver's floor is `acked`, everything above it is sent again."""
        self.acked = acked
        self.cursor = acked + 1
        self.forget_tail()
        self.flight: deque[Flight] = deque()
        self.flight_bytes = 0
        self.grant_seq = acked + FIRST_GRANT
        self.grant_bytes = 2**62
        self.resend_attempt = 0
        self.backoff_us: int | None = None
        """Drawn for the present attempt, None if none was."""
        self.rewound_at_us = 0
        self.rewound_to = -1
        self.parked = False
        """The receiver drops what it is sent for want of room: wait until it says more, or for the resend timer."""
        self.ack_us = 0
        """How long an acknowledgement takes, smoothed."""

    def append(self, records: list[bytes]) -> int:
        """Number new entries; returns the first number. They stay at hand if all before them was transmitted."""
        first = self.next_seq
        if self.cursor >= first - len(self.tail):
            self.tail.extend(records)
            self.tail_bytes += sum(map(len, records))
        self.next_seq = first + len(records)
        return first

    def forget_tail(self) -> None:
        """What leaves next is read from the store."""
        self.tail: list[bytes] = []
        """The last records, which need not be read back from the store; they begin at the cursor or before it."""
        self.tail_bytes = 0

    def trim_tail(self, window_bytes: int) -> None:
        """Keep at hand only what may leave soon: memory holds some windows, never the backlog."""
        untransmitted = self.next_seq - self.cursor
        gone = len(self.tail) - untransmitted
        if gone > 0:
            self.tail_bytes -= sum(map(len, self.tail[:gone]))
            del self.tail[:gone]
        most_bytes = min(max(_TAIL_BYTES, 2 * window_bytes), _MOST_TAIL_BYTES)
        if untransmitted > _MOST_TAIL or self.tail_bytes > most_bytes:
            self.forget_tail()

    def retire(self) -> None:
        """Everything on it has ended, and nobody is to hear of it any more."""
        self.closed = self.over = True
        self.hold_after = None
        self.begin_session(self.next_seq - 1)

    def rewind(self, floor: int) -> None:
        """Resend from behind `floor`."""
        self.cursor = floor + 1
        self.flight.clear()
        self.flight_bytes = 0
        self.forget_tail()

    def take_ack(self, floor: int, now_us: int) -> bool:
        """The receiver's floor. True if it is news."""
        if floor <= self.acked:
            return False
        self.acked = floor
        flight = self.flight
        while flight and flight[0].last <= floor:
            landed = flight.popleft()
            self.flight_bytes -= landed.size
            # Smoothed as TCP does (RFC 6298): an eighth of the news.
            self.ack_us += (now_us - landed.sent_us - self.ack_us) // 8
        self.cursor = max(self.cursor, floor + 1)
        if self.resend_attempt:
            self.resend_attempt, self.backoff_us = 0, None
        return True

    @property
    def unsent(self) -> int:
        """Messages that were never transmitted and have not ended."""
        return self.next_seq - 1 - self.sent_upto - self.ended_unsent

    def transmitted(self, last: int, records_beyond: int) -> None:
        """Raise `sent_upto` to `last`; `records_beyond` of the entries between are records, the others VOIDs."""
        self.ended_unsent -= last - self.sent_upto - records_beyond
        self.sent_upto = last

    @property
    def last_sendable(self) -> int:
        """The last entry that exists and may leave, credit aside."""
        last = self.sent_upto if self.closed else self.next_seq - 1
        if self.hold_after is not None:
            last = min(last, self.hold_after)
        return last if self.sendable_upto is None else min(last, self.sendable_upto)

    def flushed(self) -> bool:
        """`sent_upto` survives a power cut ("relaxed" durability). True if more may leave now than before."""
        before, self.hold_after = self.last_sendable, None
        self.sendable_upto = self.sent_upto + MOST_UNFLUSHED
        return self.last_sendable > before

    @property
    def waits_for_flush(self) -> bool:
        """All that may leave before a flush has left, and there is more ("relaxed" durability)."""
        upto = self.sendable_upto
        return upto is not None and not self.closed and self.cursor > upto and self.next_seq - 1 > upto

    def doubt_unflushed(self) -> None:
        """What the life before did last is lost: of what it may have sent, nobody may know."""
        if not self.closed:
            self.doubt_upto = max(self.doubt_upto, min(self.next_seq - 1, self.sent_upto + MOST_UNFLUSHED))

    def encode(self) -> bytes:
        """The durable row."""
        row = [0, self.peer, self.kind, self.id, self.queue, self.next_seq, self.sent_upto, self.acked]
        return pack([*row, self.closed, self.doubt_upto, self.after, self.withdrawn, self.ended_unsent, self.over])

    @classmethod
    def decode(cls, no: int, row: list[Any]) -> OutLane:
        """The lane of a durable row."""
        (
            _,
            peer,
            kind,
            lane_id,
            queue,
            next_seq,
            sent_upto,
            acked,
            closed,
            doubt_upto,
            after,
            withdrawn,
            ended_unsent,
            over,
        ) = row
        lane = cls(no, peer, kind, lane_id, queue)
        lane.next_seq, lane.sent_upto, lane.closed, lane.doubt_upto = next_seq, sent_upto, closed, doubt_upto
        lane.after, lane.withdrawn, lane.ended_unsent, lane.over = after, withdrawn, ended_unsent, over
        lane.begin_session(acked)
        return lane


class InLane:
    """The receiving half. `floor`, `doubt_upto`, `count` and `size` are durable."""

    __slots__ = (
        "closed",
        "count",
        "doubt_upto",
        "floor",
        "gap",
        "granted",
        "granted_bytes",
        "head",
        "head_bytes",
        "head_messages",
        "id",
        "kind",
        "no",
        "peer",
        "queue",
        "rows",
        "scan_seq",
        "size",
        "spans",
        "store_id",
    )

    def __init__(self, no: int, peer: str, store_id: int, kind: int, lane_id: int, queue: str) -> None:
        self.no = no
        self.peer = peer
        self.store_id = store_id
        """The sender's store that the lane belongs to; 0 if the sender was forgotten."""
        self.kind = kind
        self.id = lane_id
        self.queue = queue
        self.floor = 0
        self.doubt_upto = 0
        self.closed = False
        """Its sender no longer knows it, or never will add to it: a life that was lost had made it."""
        self.count = 0
        self.size = 0
        """Messages and bytes of this lane in the inbox."""
        self.rows: dict[int, Row] = {}
        """Rows in memory: looked ahead at, in a buffer, or with a worker."""
        self.spans: list[Span] = []
        """Neighbours in memory that stand together, ascending; none of them is in `rows`."""
        self.head: deque[Row | Span] = deque()
        """Rows looked ahead at, in order; `scan_seq` is the next one that is not."""
        self.head_bytes = self.head_messages = 0
        self.scan_seq = 1
        self.gap = False
        self.granted = 0
        self.granted_bytes = 0

    @property
    def is_orphan(self) -> bool:
        """Its sender was forgotten: it is kept for the messages that it holds."""
        return not self.store_id

    def encode(self) -> bytes:
        """The durable row."""
        row = [1, self.peer, self.store_id, self.kind, self.id, self.queue, self.floor, self.doubt_upto]
        return pack([*row, self.count, self.size, self.closed])

    @classmethod
    def decode(cls, no: int, row: list[Any]) -> InLane:
        """The lane of a durable row."""
        _, peer, store_id, kind, lane_id, queue, floor, doubt_upto, count, size, closed = row
        lane = cls(no, peer, store_id, kind, lane_id, queue)
        lane.floor, lane.doubt_upto, lane.count, lane.size = floor, doubt_upto, count, size
        lane.closed = closed
        return lane

    def span_of(self, seq: int) -> Span | None:
        """The span in memory that this number is in."""
        at = bisect_right(self.spans, seq, key=_FIRST) - 1
        return self.spans[at] if at >= 0 and seq <= self.spans[at].last else None

    def in_hand(self, seq: int) -> Row | None:
        """The row with this number, if it is in memory by itself or was handed over. It is only to be looked at."""
        span = self.span_of(seq)
        if span is not None and seq - span.first < span.taken:
            return None if span.through[seq - span.first] == SETTLED else span.row(seq - span.first)
        return self.rows.get(seq)


def decode_lane(no: int, data: bytes) -> OutLane | InLane:
    """The lane of a row of the store."""
    row = msgpack.unpackb(data, strict_map_key=True)
    return OutLane.decode(no, row) if row[0] == 0 else InLane.decode(no, row)
