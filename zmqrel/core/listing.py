"""What lies in the outbox and the inbox, page by page and oldest first, for people and programs that look.

A page is read in a turn, from the store as that turn finds it, and bounded in rows and bytes, so that
neither the loop nor memory feel how much lies there. Between two pages nothing is held: who asks says from where to go
on. What ended meanwhile is left out; what came after the first page was asked for does not count.
"""

from __future__ import annotations

from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from zmqrel.core import history, tables
from zmqrel.core.commands import Found, Incoming, LanePart, ListInbox, ListOutbox, Outgoing, Page
from zmqrel.core.entries import BadRecord, MessageHead, decode_head, verify
from zmqrel.core.lane import CONTROL, InLane
from zmqrel.core.row import Place
from zmqrel.core.rows import REDELIVERED
from zmqrel.core.shared import Shared

if TYPE_CHECKING:
    from collections.abc import Callable

    from zmqrel.core.rows import Rows

MOST_ROWS = 256
MOST_BYTES = 1 << 20
"""Of one page; a larger message is a page of its own."""
MOST_PASSED = 2000
"""Rows of other queues that are read for one page."""

_Next = tuple[int, LanePart]
"""When the first message of a part was sent, and the part, beginning with it."""


class _Paused(Exception):
    """Enough was read for one page; `part` is where to go on."""

    def __init__(self, part: LanePart) -> None:
        super().__init__(part)
        self.part = part


class Listing:
    """See the module."""

    def __init__(self, shared: Shared, rows: Rows, found: Callable[[int, int], Found | None]) -> None:
        self._shared = shared
        self._rows = rows
        self._found = found

    # ------------------------------------------------------------------------------------------------------ outbox

    def outbox(self, command: ListOutbox) -> Page[Outgoing]:
        """Messages sent from here that have no outcome."""
        left = command.left
        if left is None:
            lanes = self._shared.out_lanes.values()
            left = [LanePart(lane.no, 1, lane.next_seq - 1) for lane in lanes if lane.kind != CONTROL]
        heads = [item for item in map(self._next_sent, left) if item is not None]
        heapify(heads)
        items: list[Outgoing] = []
        size = 0
        while heads and len(items) < MOST_ROWS and size < MOST_BYTES:
            _, part = heappop(heads)
            record = self._record(part)
            found = self._found(part.lane, part.first)
            if found is not None and verify(record):
                items.append(Outgoing(found, record))
                size += len(record)
            following = self._next_sent(part._replace(first=part.first + 1))
            if following is not None:
                heappush(heads, following)
        return Page(items, [part for _, part in heads])

    def _next_sent(self, part: LanePart) -> _Next | None:
        while part.lane in self._shared.out_lanes:
            first = self._shared.outbox_runs.lowest(*part)
            if first is None:
                return None
            part = part._replace(first=first)
            head = _head_or_none(self._record(part))
            if head is not None:
                return head.sent_at_us, part
            part = part._replace(first=part.first + 1)  # damaged: it ends when it is to be transmitted
        return None

    def _record(self, part: LanePart) -> bytes:
        entry = self._shared.outbox_runs.get(part.lane, part.first)
        return b"" if entry is None else entry.record

    # ------------------------------------------------------------------------------------------------------- inbox

    def inbox(self, command: ListInbox) -> Page[Incoming]:
        """Messages received and not settled, of one queue or of all."""
        left = command.left
        if left is None:
            left = [LanePart(lane.no, 1, lane.floor) for lane in self._shared.in_lanes.values() if lane.count]
        passed = [0]
        heads: list[_Next] = []
        items: list[Incoming] = []
        waiting = list(left)
        size = 0
        try:
            while waiting:
                self._push_received(heads, waiting[-1], command.queue, passed)
                waiting.pop()
            while heads and len(items) < MOST_ROWS and size < MOST_BYTES:
                _, part = heappop(heads)
                item = self.received(self._shared.in_lanes[part.lane], part.first)
                if item is not None:
                    items.append(item)
                    size += len(item.record)
                self._push_received(heads, part._replace(first=part.first + 1), command.queue, passed)
        except _Paused as reached:
            if waiting:
                waiting.pop()
            waiting.append(reached.part)
        return Page(items, waiting + [part for _, part in heads])

    def _push_received(self, heads: list[_Next], part: LanePart, queue: str | None, passed: list[int]) -> None:
        """Find the first message of a part that is in `queue`. Raises _Paused after too many others."""
        lane = self._shared.in_lanes.get(part.lane)
        while lane is not None and part.first <= part.last:
            if passed[0] >= MOST_PASSED:
                raise _Paused(part)
            # A row of another lane is in this queue only if it was moved there, and then it has a state.
            moved = queue not in (None, lane.queue)
            seq = self._next_stated(part) if moved else self._shared.inbox_runs.lowest(*part)
            if seq is None:
                return
            head = self._head(lane, seq)
            if head is not None and (queue is None or self._queue_of(lane, seq) == queue):
                heappush(heads, (self._rows.sent_us(lane, head), part._replace(first=seq)))
                return
            passed[0] += 1
            part = part._replace(first=seq + 1)

    def _next_stated(self, part: LanePart) -> int | None:
        keys = self._shared.journal.keys(*tables.lane_bounds(tables.ROW_STATE, *part), 1)
        return tables.split_lane_seq(keys[0])[1] if keys else None

    def _queue_of(self, lane: InLane, seq: int) -> str:
        return self._rows.state(lane.no, seq).queue or lane.queue

    def _row(self, lane: InLane, seq: int) -> tuple[int, bytes] | None:
        """Order and record of a row of the inbox. Read past `Rows.read`, which settles a damaged one."""
        entry = self._shared.inbox_runs.get(lane.no, seq)
        return None if entry is None else (entry.order_us, entry.record)

    def _head(self, lane: InLane, seq: int) -> MessageHead | None:
        row = self._row(lane, seq)
        return None if row is None else _head_or_none(row[1])

    def received(self, lane: InLane, seq: int) -> Incoming | None:
        """A message of the inbox, None if it is not there or damaged."""
        row = self._row(lane, seq)
        head = None if row is None else _head_or_none(row[1])
        if row is None or head is None or not verify(row[1]):
            return None
        order_us, record = row
        state = self._rows.state(lane.no, seq)
        memory = lane.in_hand(seq)
        in_hand = memory is not None and memory.place in (Place.RUNNING, Place.DONE)
        attempts = memory.attempts if memory is not None and in_hand else state.attempts
        sent_us = self._rows.sent_us(lane, head)
        happened = self._rows.history(lane, order_us, head, state)
        if memory is not None and in_hand:
            happened = history.handed_over(happened, memory.handed_us, attempts)
        return Incoming(
            id=head.meta.id or f"{lane.id:016x}-{seq}",
            sender=lane.peer,
            queue=state.queue or lane.queue,
            record=record,
            sent_us=sent_us,
            deadline_us=head.deadline_us - head.sent_at_us + sent_us if head.deadline_us else 0,
            ready_us=state.waiting_at_us or order_us,
            attempts=attempts,
            redelivered=bool(seq <= lane.doubt_upto or state.flags & REDELIVERED),
            in_hand=in_hand,
            history=happened,
        )

    def named(self, message_id: str) -> list[Incoming]:
        """Messages of the inbox with an id as zmqrel makes them. Ids that were given are not indexed here."""
        lane_id, _, seq = message_id.partition("-")
        if len(lane_id) != 16 or not seq.isascii() or not seq.isdigit() or len(seq) > 20:
            return []
        lanes = [lane for lane in self._shared.in_lanes.values() if f"{lane.id:016x}" == lane_id]
        found = [self.received(lane, int(seq)) for lane in lanes if int(seq) <= lane.floor]
        return [item for item in found if item is not None]


def _head_or_none(record: bytes) -> MessageHead | None:
    try:
        return decode_head(record)
    except BadRecord:
        return None
