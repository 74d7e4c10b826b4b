"""In which order rows of a queue are looked at, and which of them are claimed for its workers.

A queue is the merge, by time of readiness, of its lanes' natural order and its waiting rows. Rows are looked at in
that order and claimed into the queue's buffer, or passed over: a row behind its key comes up again when the key is
free, a row of a peer that may not be handed over now when `rewind` lets the queue be looked at again from the start.
Memory holds what is looked ahead at and what is claimed, never the backlog.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from heapq import heapify, heappop, heappush, heapreplace
from typing import TYPE_CHECKING, cast

from zmqrel.core import tables
from zmqrel.core.buffer import Buffer
from zmqrel.core.entries import verify_all
from zmqrel.core.lane import DATA, LOCAL, InLane
from zmqrel.core.row import Place, Row, Span
from zmqrel.core.rows import NEVER, Policy, Queue, Rows, RowState, decode_state
from zmqrel.core.runs import Entry, Piece
from zmqrel.core.shared import Shared
from zmqrel.core.storage import MOST_IN_BLOCK

if TYPE_CHECKING:
    from zmqrel.core.channel import Channel

_MOST_AHEAD = 65_536
_MOST_ROWS_AHEAD = 4096
"""However few messages they stand for: to take one out all are gone through."""
_ROWS_AT_ONCE = 256
_AHEAD_BYTES = 1 << 20
"""Read ahead from the store in one step."""
_MOST_AHEAD_BYTES = 4 << 20
"""Of one lane, kept at hand as they arrive."""
_MOST_PROMOTED = 10_000
_EXAMINED_PER_TURN = 4096
_FIRST_PAUSE_US = 1_000_000
_LONGEST_PAUSE_US = 600_000_000
_MOST_SKIPPED = 1000


class Claims:
    """See the module. `exhausted(row)` ends a suspect that has crashed its process once too often, and says so."""

    def __init__(
        self, shared: Shared, rows: Rows, channels: Mapping[str, Channel], exhausted: Callable[[Queue, Row], bool]
    ) -> None:
        self._shared = shared
        self._rows = rows
        self._channels = channels
        self._exhausted = exhausted
        self._suspects: dict[tuple[int, int], bool] = {}
        """(lane, seq) -> it was the only row running."""
        self._suspect_out: Row | None = None
        """Nothing else is handed to workers meanwhile."""
        self._held: set[str] = set()
        """Queues of which nothing is, until one of their workers is free for a suspect."""

    def load(self) -> None:
        """Read the suspects."""
        for key, value in self._shared.journal.scan(*tables.table_bounds(tables.SUSPECT), limit=2**31):
            self._suspects[tables.split_lane_seq(key)] = value == b"\x01"

    def add_lane(self, lane: InLane) -> None:
        """The lane feeds its queue."""
        if lane.kind in (DATA, LOCAL) and lane.queue:
            self._rows.queue(lane.queue).lanes[lane.no] = lane

    def remove_lane(self, lane: InLane) -> None:
        """The lane is deleted: its rows are gone."""
        queue = self._rows.queues.get(lane.queue)
        if queue is not None:
            queue.lanes.pop(lane.no, None)
            queue.active.discard(lane.no)
            queue.heap = [item for item in queue.heap if item[1] != lane.no]
            heapify(queue.heap)

    def serve(self, name: str, buffer: Buffer, policy: Policy) -> None:
        """Workers, or callers of `receive`, take this queue's rows out of `buffer` from now on."""
        queue = self._rows.queue(name)
        queue.buffer = buffer
        queue.policy = policy
        queue.examine = True

    def look_ahead(self, queue: Queue, lane: InLane, rows: list[Row] | list[Span], last: int, size: int) -> None:
        """Spare reading back what comes next, up to the number `last`; only if all before it is in memory."""
        messages = sum([row.messages for row in rows])
        if lane.scan_seq != lane.floor + 1 or lane.head_messages + messages > _MOST_AHEAD:
            return
        if len(lane.head) >= _MOST_ROWS_AHEAD:
            return
        if lane.head and lane.head_bytes + size > _MOST_AHEAD_BYTES:
            return
        for row in rows:
            _hold(lane, row)
        lane.scan_seq = last + 1
        self._activate(queue, lane)

    def find(self, lane: InLane, seq: int) -> Row | None:
        """The row with this number if it is in memory; the span that it is in is broken up."""
        span = lane.span_of(seq)
        if span is not None:
            self.break_up(span)
        return lane.rows.get(seq)

    def break_up(self, span: Span) -> None:
        """Let each of a span's rows stand by itself, as far as it has not ended."""
        lane = span.lane
        lane.spans.remove(span)
        if span.place is Place.AHEAD:
            span.stop()
            rows = span.rest()
            at = lane.head.index(span)
            lane.head.rotate(-at)
            lane.head.popleft()
            lane.head.extendleft(reversed(rows))
            lane.head.rotate(at)
        else:
            rows = cast(Buffer, self._rows.queue(lane.queue).buffer).break_up(span)
            for _, offered in self._shared.effects.offers:
                if span in offered:
                    at = offered.index(span)
                    offered[at : at + 1] = rows
        lane.rows.update((row.seq, row) for row in rows)

    # ------------------------------------------------------------------------------------------------------ claiming

    def claim(self) -> None:
        """Fill the buffers of all queues that may have something to claim.

        A full store does not stop it: what is settled makes room, and the headroom is there for that.
        """
        held, self._held = self._held, set()
        if self._suspects:
            self._offer_suspects(held)
        if not self._rows.awake:
            return
        for queue in list(self._rows.awake.values()):
            if queue.buffer is None:
                queue.examine = False  # until somebody serves it
            elif queue.has_nothing_ahead(self._shared.now.store_us):
                queue.examine = queue.buffer.more = False
            elif not self._is_held(queue):
                self._claim_queue(queue, queue.buffer)

    def _is_held(self, queue: Queue) -> bool:
        """Whether nothing of a queue is handed over now, since a suspect is to be alone, or room is scarce."""
        if self._shared.scarce and queue.buffer is not None and queue.buffer.has_claimed:
            return True
        return cast(Policy, queue.policy).push and (self._suspect_out is not None or queue.name in self._held)

    def be_wary(self, scarce: bool) -> None:
        """Room has become scarce: messages are handed over one at a time; or there is enough again."""
        if scarce:
            self._take_back_all({queue.name for queue in self._rows.queues.values() if queue.buffer is not None})
        else:
            for queue in self._rows.queues.values():
                self.relieve(queue)
            self.examine_all()

    def relieve(self, queue: Queue) -> None:
        """An attempt made room."""
        if queue.resume_us:
            queue.pause_us = queue.resume_us = 0
            queue.examine = True

    def pause(self, queue: Queue) -> None:
        """A first attempt failed while room is scarce, and took some."""
        if self.pauses(queue):
            return  # it began with the one before
        queue.pause_us = min(max(2 * queue.pause_us, _FIRST_PAUSE_US), _LONGEST_PAUSE_US)
        queue.resume_us = self._shared.now.store_us + queue.pause_us

    def pauses(self, queue: Queue) -> bool:
        """Whether nothing of it is handed over for the first time."""
        return self._shared.scarce and self._shared.now.store_us < queue.resume_us

    def take_over(self, other: Claims) -> None:
        """The commit of a turn failed, and this takes the place of `other`."""
        for name, queue in other._rows.queues.items():
            if queue.resume_us and name in self._rows.queues:
                mine = self._rows.queues[name]
                mine.pause_us, mine.resume_us = queue.pause_us, queue.resume_us

    def _claim_queue(self, queue: Queue, buffer: Buffer) -> None:
        room, room_bytes = 1 if self._shared.scarce else buffer.room(), buffer.room_bytes()
        rows: list[Row | Span] = []
        examined = 0
        while room > 0 and room_bytes > 0 and examined < _EXAMINED_PER_TURN:
            lane = self._only_source(queue)
            if lane is not None:
                before = len(rows)
                examined += self._claim_ahead(queue, lane, rows, room, room_bytes)
                room -= sum([row.messages for row in rows[before:]])
                room_bytes -= sum([row.size for row in rows[before:]])
                continue
            row = self._next_row(queue, room)
            examined += 1
            if row is None:
                queue.examine = False
                if self.pauses(queue):
                    self._shared.clock_timers.set_earlier(("waiting", queue.name), queue.resume_us)
                break
            if self._claimable(queue, row):
                row.place = Place.CLAIMED
                rows.append(row)
                room -= row.messages
                room_bytes -= row.size
        buffer.more = queue.examine
        if rows:
            self._shared.effects.offers.append((buffer, rows))

    def _only_source(self, queue: Queue) -> InLane | None:
        """The lane that all rows come from now, if there is just one with rows ahead: then nothing is to be merged."""
        if len(queue.heap) != 1 or queue.waiting or queue.promoted or queue.skipped or self.pauses(queue):
            return None
        if self._shared.now.store_us >= queue.waiting_next_us:
            return None
        return self._shared.in_lanes[queue.heap[0][1]]

    def _claim_ahead(self, queue: Queue, lane: InLane, rows: list[Row | Span], room: int, room_bytes: int) -> int:
        """Claim what lies ahead of one lane into `rows`, up to `room`, and to the row that passes `room_bytes`.

        Returns how much was looked at.
        """
        head = lane.head
        channel = self._channels.get(lane.peer)
        may_claim = channel is None or not channel.awaits_state
        examined = 0
        while head and room > 0 and room_bytes > 0:
            row = _first(lane, room)
            examined += 1
            simple = isinstance(row, Span) or (row.key is None and row.clock is None)
            if (simple and may_claim and row.place is Place.AHEAD) or self._claimable(queue, row):
                row.place = Place.CLAIMED
                rows.append(row)
                room -= row.messages
                room_bytes -= row.size
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
        if not self._rows.awake:
            return False
        return any(
            queue.buffer is not None and queue.buffer.has_room and not self._is_held(queue)
            for queue in self._rows.awake.values()
        )

    def _claimable(self, queue: Queue, row: Row | Span) -> bool:
        if row.place is not Place.AHEAD:
            return False
        if self._may_not_be_judged(row):
            queue.passed = True
            self.pass_over(row)
            return False
        if isinstance(row, Row) and row.key is not None and not self._rows.is_first_of_key(queue, row):
            self.pass_over(row)
            return False
        return True

    def _may_not_be_judged(self, row: Row | Span) -> bool:
        """True while its sender's STATE, or its sender's clock, has to be known first."""
        channel = self._channels.get(row.lane.peer)
        if channel is not None and channel.awaits_state:
            return True
        return isinstance(row, Row) and row.clock is not None and row.clock.offset_us is None

    @staticmethod
    def pass_over(row: Row | Span) -> None:
        """Leave a row that was looked at; it is read again when its time comes."""
        row.place = Place.GONE
        if isinstance(row, Span):
            row.lane.spans.remove(row)
        else:
            row.lane.rows.pop(row.seq, None)

    def _next_row(self, queue: Queue, room: int) -> Row | Span | None:
        """The next row, or span of at most `room`, to look at.

        It is the earliest of the lanes' rows ahead, waiting rows and promoted rows.
        """
        pauses = self.pauses(queue)
        if queue.skipped and not pauses:
            queue.waiting.extendleft(reversed(queue.skipped))
            queue.skipped.clear()
        while len(queue.skipped) < _MOST_SKIPPED:
            self._read_waiting(queue)
            natural = queue.heap[0] if queue.heap and not pauses else (NEVER, 0)
            waiting = queue.waiting[0] if queue.waiting else (NEVER, 0, 0)
            promoted = queue.promoted[0] if queue.promoted and not pauses else (NEVER, 0, 0)
            if natural[0] <= waiting[0] and natural[0] <= promoted[0]:
                if natural[0] == NEVER:
                    return None
                return self._pop_ahead(queue, room)
            item = queue.waiting.popleft() if waiting[0] < promoted[0] else heappop(queue.promoted)
            _, lane_no, seq = item
            lane = self._shared.in_lanes.get(lane_no)
            if lane is None or seq in lane.rows:
                continue
            row = self._rows.read(lane_no, seq)
            # It may have been claimed from its other place meanwhile, and wait for another attempt now.
            if row is not None and row.queue == queue.name and row.waiting_at_us <= self._shared.now.store_us:
                if pauses and not row.stated:
                    queue.skipped.append(item)
                    continue
                lane.rows[seq] = row
                return row
        return None

    def _pop_ahead(self, queue: Queue, room: int) -> Row | Span:
        lane = self._shared.in_lanes[queue.heap[0][1]]
        row = _first(lane, room)
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
            pieces, all_of_them = self._shared.inbox_runs.read_pieces(
                lane.no, lane.scan_seq, lane.floor, _ROWS_AT_ONCE, _AHEAD_BYTES
            )
            if not pieces:
                lane.scan_seq = lane.floor + 1
                return
            first, last = pieces[0].first, pieces[-1].last
            lane.scan_seq = lane.floor + 1 if all_of_them else last + 1
            state_bounds = tables.lane_bounds(tables.ROW_STATE, lane.no, first, last)
            states = {
                tables.split_lane_seq(key)[1]: decode_state(value)
                for key, value in self._shared.journal.scan(*state_bounds, last - first + 1)
            }
            for piece in pieces:
                if piece.plain and not states and not lane.rows and verify_all(piece.records):
                    _hold(lane, Span(lane, piece.first, piece.order_us, piece.records))
                else:
                    self._refill_singly(lane, piece, states)

    def _refill_singly(self, lane: InLane, piece: Piece, states: dict[int, RowState]) -> None:
        for seq, record in enumerate(piece.records, piece.first):
            state = states.get(seq)
            if seq in lane.rows or (state is not None and state.waiting_at_us):
                continue
            row = self._rows.make(lane, Entry(seq, piece.order_us, record), state)
            if row is not None:
                _hold(lane, row)

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

    def promote(self, queue: Queue, row: tuple[int, int, int]) -> None:
        """Let (order, lane number, seq), whose key is free now, be looked at again if it was passed over."""
        order_us, lane_no, seq = row
        lane = self._shared.in_lanes.get(lane_no)
        if lane is None or seq in lane.rows or order_us > self._shared.now.store_us:
            return
        heappush(queue.promoted, row)
        queue.examine = True
        if len(queue.promoted) > _MOST_PROMOTED:
            self.rewind(queue)

    # ------------------------------------------------------------------------------------------------- looking again

    def rewind(self, queue: Queue) -> None:
        """Look at the queue again from its start: rows that were passed over may be claimed now."""
        queue.passed = False
        queue.waiting.clear()
        queue.skipped.clear()
        queue.promoted.clear()
        queue.waiting_from = b""
        queue.waiting_next_us = 0
        queue.heap.clear()
        queue.active.clear()
        queue.examine = True
        for lane in queue.lanes.values():
            for row in lane.head:
                if row.place is Place.AHEAD:
                    self.pass_over(row)
            lane.head.clear()
            lane.head_bytes = lane.head_messages = 0
            for span in list(lane.spans):  # what is read again from the start has to miss them one by one
                self.break_up(span)
            lane.scan_seq = 1
            self._activate(queue, lane)

    def rewind_passed(self) -> None:
        """Rewind the queues that passed rows over for another reason than their key."""
        for queue in self._rows.queues.values():
            if queue.passed:
                self.rewind(queue)

    def begin(self) -> None:
        """After loading: look at every lane from its start."""
        for queue in self._rows.queues.values():
            self.rewind(queue)

    def waiting_due(self, name: str) -> None:
        """A waiting row of this queue may be due."""
        queue = self._rows.queues[name]
        queue.examine = True
        if self._shared.now.store_us < queue.waiting_next_us < NEVER:
            # It was set for a row that has ended meanwhile.
            self._shared.clock_timers.set_earlier(("waiting", name), queue.waiting_next_us)

    def examine_all(self) -> None:
        """There may be something to claim everywhere."""
        for queue in self._rows.queues.values():
            queue.examine = True

    def recall_claims(self, peer: str) -> None:
        """Take back what was claimed of this peer: it may not be handed over for now."""
        for lane in self._shared.in_lanes.values():
            if lane.peer != peer:
                continue
            for span in list(lane.spans):
                self.break_up(span)
            for row in list(lane.rows.values()):
                if self.take_back(row):
                    self.pass_over(row)
                    self._rows.queue(row.queue).passed = True

    def _take_back_all(self, names: Collection[str]) -> None:
        """Take back what was claimed of these queues; what workers have already stays with them."""
        queues: dict[str, Queue] = {}
        for lane in self._shared.in_lanes.values():
            if lane.queue in names:
                for span in [span for span in lane.spans if span.place is Place.CLAIMED]:
                    self.break_up(span)
            for row in [row for row in lane.rows.values() if row.place in (Place.CLAIMED, Place.ASKED)]:
                if row.queue in names and self.take_back(row):  # no queue of its lane, if it was moved
                    self.pass_over(row)
                    queues[row.queue] = self._rows.queue(row.queue)
        for queue in queues.values():
            self.rewind(queue)

    def take_back(self, row: Row) -> bool:
        """Take a claimed row out of its buffer. False if a worker has it, or it is in none."""
        if row.place not in (Place.CLAIMED, Place.ASKED) or not self._rows.buffer_of(row).withdraw(row):
            return False
        row.place = Place.AHEAD
        if row is self._suspect_out:
            self._suspect_out = None
            self.examine_all()
        return True

    # ------------------------------------------------------------------------------------------------------ suspects

    def suspect(self, lane_no: int, seq: int, sole: bool) -> None:
        """The process died while a worker had this row; `sole`: no other had one."""
        self._suspects[(lane_no, seq)] = sole
        key = tables.lane_seq(tables.SUSPECT, lane_no, seq)
        self._shared.journal.put(key, b"\x01" if sole else b"\x00")

    def hold_running(self, row: Row) -> None:
        """A worker still has this row though the core was loaded anew."""
        self._hold_alone(row)
        if row.suspect and not row.returned and row.place in (Place.ASKED, Place.RUNNING):
            self._suspect_out = row

    def suspect_is_through(self, row: Row) -> None:
        """A suspect's handler has returned."""
        if row is self._suspect_out:
            self._suspect_out = None
        self.clear_suspect(row.lane.no, row.seq)
        self.examine_all()

    def _offer_suspects(self, held: Collection[str]) -> None:
        """Offer the next suspect; nothing else is handed to workers while it is out. `held` are queues held till now.

        Mostly that is at the start. A suspect whose queue is served later, or whose sender's STATE is awaited, finds
        workers busy, and what is claimed for others: its queue is held until one of its workers is free, the others
        only then, for who holds everything back may have to wait for somebody who waits for a message.
        """
        for (lane_no, seq), sole in list(self._suspects.items()):
            if self._is_in_hand(lane_no, seq):
                continue  # what its handler made of it waits for room
            row = self._rows.read(lane_no, seq)
            if row is None:
                self.clear_suspect(lane_no, seq)
                continue
            queue = self._rows.queue(row.queue)
            if queue.buffer is None or queue.policy is None or self._may_not_be_judged(row):
                continue
            if queue.policy.push and self._suspect_out is not None:
                continue
            row.suspect = True
            self._hold_alone(row)
            if sole and self._exhausted(queue, row):
                continue
            if queue.policy.push:
                if queue.name in self._held:
                    continue
                if queue.buffer.busy >= queue.policy.workers:
                    self._held.add(queue.name)
                    if queue.name not in held:  # of others everything was taken back, and nothing claimed since
                        self._take_back_all({queue.name})
                    continue
                self._take_back_all(
                    {each.name for each in self._rows.queues.values() if each.policy and each.policy.push}
                )
            row.place = Place.CLAIMED
            self._shared.effects.offers.append((queue.buffer, [row]))
            if queue.policy.push:
                self._suspect_out = row
            else:
                # Nobody may ever call `receive` again: it holds back its own queue only, by being first there. So it
                # is offered while another is out too, or it would be claimed as any other row, and be out twice.
                self.clear_suspect(lane_no, seq)

    def _is_in_hand(self, lane_no: int, seq: int) -> bool:
        lane = self._shared.in_lanes.get(lane_no)
        row = None if lane is None else lane.rows.get(seq)
        return row is not None and row.place in (Place.RUNNING, Place.DONE)

    def _hold_alone(self, row: Row) -> None:
        """Take the place of a row that was looked ahead at."""
        ahead = self.find(row.lane, row.seq)
        if ahead is not None:
            ahead.place = Place.GONE
        row.lane.rows[row.seq] = row

    def clear_suspect(self, lane_no: int, seq: int) -> None:
        """The row is no suspect any more."""
        if self._suspects.pop((lane_no, seq), None) is not None:
            self._shared.journal.delete(tables.lane_seq(tables.SUSPECT, lane_no, seq))


def _hold(lane: InLane, row: Row | Span) -> None:
    """Keep what lies ahead of a lane in memory."""
    lane.head.append(row)
    lane.head_bytes += row.size
    lane.head_messages += row.messages
    if isinstance(row, Span):
        lane.spans.append(row)
    else:
        lane.rows[row.seq] = row


def _first(lane: InLane, room: int) -> Row | Span:
    """Take the first out of what lies ahead of a lane: of a span, as much as there is room for."""
    row = lane.head.popleft()
    if isinstance(row, Span) and row.messages > min(room, MOST_IN_BLOCK):
        others = row.cut(min(room, MOST_IN_BLOCK))
        lane.spans.insert(lane.spans.index(row) + 1, others)
        lane.head.appendleft(others)
    lane.head_bytes -= row.size
    lane.head_messages -= row.messages
    return row
