"""The life of received messages: acceptance, attempts, withdrawal, deadlines and settlement.

rows.py         what lies in the store of each message
credit.py       how much may come in
claims.py       what is handed to which worker next
settlements.py  how outcomes travel back
authorisation.py  what is refused, for its sender may not send it
transitions.py  what each event makes of a message
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import itemgetter
from typing import TYPE_CHECKING, cast

from zmqrel.core import history, tables
from zmqrel.core.authorisation import Authorisation
from zmqrel.core.buffer import (
    HANDLED,
    Acknowledged,
    Expired,
    Failed,
    Finished,
    Handled,
    MoveTo,
    Refused,
    Rejected,
    Result,
    RetryAt,
    Returned,
)
from zmqrel.core.claims import Claims
from zmqrel.core.credit import Credit
from zmqrel.core.dead import DeadLetters
from zmqrel.core.entries import (
    FRAMING_BYTES,
    HEADER,
    MAX_TIME_US,
    BadRecord,
    Range,
    Settled,
    decode_head,
    to_ranges,
    verify_all,
)
from zmqrel.core.history import Happened, added, failed
from zmqrel.core.lane import DATA, DELAYED, LOCAL, InLane
from zmqrel.core.limits import FRAME_COST
from zmqrel.core.row import Place, Row, Span
from zmqrel.core.rows import REDELIVERED, Policy, Queue, Rows, RowState, decode_state
from zmqrel.core.runs import MOST_BYTES
from zmqrel.core.settlements import Settlements
from zmqrel.core.shared import Shared
from zmqrel.core.transitions import TRANSITIONS, WITHDRAWN, Event, Stage, outcome_of, stage_at_receiver, stage_in_queue
from zmqrel.outcome import Cause, Outcome

if TYPE_CHECKING:
    from zmqrel.core.channel import Channel

_KEPT_IN_STORE = ("waiting_at_us", "queue", "first_handed_us", "stated", "withdrawn", "redelivered", "keyed_us")
"""Attributes of a Row that `Rows.read` sets from the store."""

_TOMBSTONES_AT_ONCE = 10_000

_HANDLED = outcome_of(Stage.RUNNING, Event.ACKNOWLEDGED)

_CONDITION = "condition"
_DIED = "the process ended before it was settled"

_WHAT_OF_CAUSE = {
    Cause.RECALL: history.RECALLED,
    Cause.DEADLINE: history.EXPIRED,
    Cause.GIVE_UP: history.GIVEN_UP,
}


class Inbox:
    """See the module."""

    def __init__(self, shared: Shared, dead: DeadLetters, channels: Mapping[str, Channel]) -> None:
        self._shared = shared
        self._dead = dead
        self.rows = Rows(shared, channels, self._quarantine)
        self.credit = Credit(shared, channels)
        self.claims = Claims(shared, self.rows, channels, self._exhausted)
        self.settlements = Settlements(shared, channels)
        self._authorisation = Authorisation(shared, self.settlements)
        self.tombstones_of: Counter[str] = Counter()
        """How many there are of each peer, those of stores that are gone aside."""
        self._local: dict[str, InLane] = {}
        self.emptied: list[InLane] = []
        """Lanes of forgotten peers that hold nothing more."""

    # -------------------------------------------------------------------------------------------- opening

    def load(self) -> None:
        """Read queues and suspects from the store; lanes are given by `adopt_lane`."""
        self.rows.load()
        self.claims.load()

    def count_tombstones(self) -> None:
        """Once all lanes were adopted: how many of each peer there are."""
        first, end = tables.table_bounds(tables.TOMBSTONE)
        while keys := self._shared.journal.keys(first, end, _TOMBSTONES_AT_ONCE):
            lanes = (self._shared.in_lanes.get(tables.split_lane_seq(key)[0]) for key in keys)
            self.tombstones_of.update(lane.peer for lane in lanes if lane is not None)
            first = keys[-1] + b"\0"

    def adopt_lane(self, lane: InLane) -> None:
        """A lane read from the store, or new."""
        if lane.kind == LOCAL:
            self._local[lane.queue] = lane
        self.claims.add_lane(lane)

    def blame(self, lane_no: int, seq: int, attempts: int, running: bool, sole: bool, why: str = _DIED) -> None:
        """The previous life had handed this row over and not settled it (F9).

        `running`: its handler had not returned; `sole`: it was the only such row; `why` goes into its history.
        """
        row = self.rows.read(lane_no, seq)
        if row is None:
            return
        state = self.rows.state(lane_no, seq)
        state = state._replace(
            attempts=max(state.attempts, attempts),
            first_handed_us=state.first_handed_us or self._shared.now.store_us,
            flags=state.flags | REDELIVERED,
            history=added(state.history, failed(self._shared.now.store_us, attempts, why)),
        )
        self.rows.put_state(lane_no, seq, state)
        if running and not state.withdrawn:
            self.claims.suspect(lane_no, seq, sole)

    def doubt_all(self) -> None:
        """Whoever was at work when the machine stopped is not known: any row of the inbox may have been handed over.

        By number, not by time: a delayed row bears the time at which it becomes due, and once the wall clock was set
        back the store clock may stand before that, though the row was handed over.
        """
        for lane in self._shared.in_lanes.values():
            if lane.queue and lane.doubt_upto < lane.floor:
                lane.doubt_upto = lane.floor
                self._shared.touch(lane)

    def end_withdrawn(self) -> None:
        """After an unclean stop: rows withdrawn while a worker had them get no further attempt."""
        for key, value in self._shared.journal.scan(*tables.table_bounds(tables.ROW_STATE), 2**31):
            state = decode_state(value)
            row = self.rows.read(*tables.split_lane_seq(key)) if state.withdrawn else None
            if row is not None:
                self._end_handed(row, Cause(state.withdrawn), outcome_of(Stage.DOOMED, Event.FAILED))

    def rebind(self, row: Row) -> None:
        """After the core was loaded anew: this row is still with a worker."""
        lane = self._shared.in_lanes.get(row.lane.no)
        if lane is None:
            return
        row.lane = lane
        row.clock = self.rows.clock_of(lane) if row.deadline_us else None
        self._restore(row)
        self.claims.hold_running(row)

    def _restore(self, row: Row) -> None:
        """Forget what the turn that was not committed made of a row: its hand-over stands, the rest is as it was."""
        stored = self.rows.read(row.lane.no, row.seq)
        if stored is None:
            return
        row.place = Place.DONE if row.place is Place.GONE else row.place
        for name in _KEPT_IN_STORE:
            setattr(row, name, getattr(stored, name))
        # A withdrawal while it ran wrote the attempt that runs; else the store knows those before it. A row that
        # expired or was refused at the door was not handed over; one of a span that a worker has just taken was,
        # though the worker has not noted yet when.
        was_handed_over = row.handed_us or row.place is Place.RUNNING
        row.attempts = stored.attempts + (1 if was_handed_over and not stored.withdrawn else 0)

    # ---------------------------------------------------------------------------------------------------- acceptance

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
        may_send = self._authorisation.may_send(lane)
        fitting = self.credit.fitting(lane, records) if may_send else len(records)
        if fitting < len(records):
            last = seqs[fitting] - 1
            seqs, records = seqs[:fitting], records[:fitting]
            lane.gap = True
            self._shared.wasted += 0 if fitting else FRAME_COST
        self.credit.tell(lane)
        if last <= floor:
            return
        plain = _check(records) and lane.kind == DATA
        dropped = self._pop_tombstones(lane, floor + 1, last)
        if dropped:
            pairs = [pair for pair in zip(seqs, records, strict=True) if pair[0] not in dropped]
            seqs, records = [seq for seq, _ in pairs], [record for _, record in pairs]
        if not may_send:
            self._authorisation.refuse(lane, seqs)
            seqs, records = [], []
        elif not plain:
            seqs, records = self._authorisation.without_detours(lane, seqs, records)
        self._store(lane, seqs, records, plain)
        caught_up = lane.scan_seq == floor + 1
        lane.floor = last
        if caught_up and not records:
            lane.scan_seq = last + 1
        self._shared.touch(lane)

    def _store(self, lane: InLane, seqs: Sequence[int], records: list[bytes], plain: bool) -> None:
        if not records:
            return
        shared = self._shared
        size = sum(map(len, records))
        shared.intake_bytes += size  # first, so that it is known if the store refuses them
        # One frame of ours always fits a row; another's may not.
        together = plain and size <= MOST_BYTES
        rows = self._store_plain(lane, seqs, records) if together else self._store_singly(lane, seqs, records)
        self._count(lane, len(records), size)
        shared.counters["received"] += len(records)
        queue = self.rows.queue(lane.queue)
        queue.examine = True
        if lane.kind != DELAYED:
            self.claims.look_ahead(queue, lane, rows, seqs[-1], size)

    def _store_plain(self, lane: InLane, seqs: Sequence[int], records: list[bytes]) -> list[Span]:
        """Messages that have nothing but their records: looked at together as long as nothing happens to one."""
        spans: list[Span] = []
        order_us = self._shared.now.store_us
        start = 0
        for first, last in to_ranges(seqs):
            some = records[start : start + last - first + 1]
            start += len(some)
            self._shared.inbox_runs.put(lane.no, first, some, order_us, plain=True)
            spans.append(Span(lane, first, order_us, some))
        return spans

    def _store_singly(self, lane: InLane, seqs: Sequence[int], records: list[bytes]) -> list[Row]:
        order_us = self._shared.now.store_us
        rows = [Row(lane, seq, order_us, record) for seq, record in zip(seqs, records, strict=True)]
        for row in rows:
            meta_length, _, deadline_us = HEADER.unpack_from(row.record)
            if meta_length or deadline_us:
                self._index(row, deadline_us)
        for first, neighbours in _neighbours(rows):
            run = [row.record for row in neighbours]
            self._shared.inbox_runs.put(lane.no, first, run, neighbours[0].order_us)
        return rows

    def _index(self, row: Row, deadline_us: int) -> None:
        """The rows beside INBOX of a message that has a key, a deadline or a delay."""
        lane, meta = row.lane, row.head.meta
        queue = self.rows.queue(lane.queue)
        if lane.kind == DELAYED:
            ready_at = self.rows.to_local(lane, meta.not_before_us)
            row.order_us = self.rows.put_waiting(queue, lane.no, row.seq, max(ready_at, row.order_us))
        if deadline_us:
            row.deadline_us = deadline_us
            row.clock = self.rows.clock_of(lane)
            self.rows.put_deadline(row)
        if meta.key is not None:
            row.key = meta.key
            self.rows.put_key(queue, row)

    def add_local(self, queue: str, record: bytes) -> str:
        """A message that this peer makes itself, behind what waits in `queue`. Returns its id."""
        lane = self._local.get(queue)
        shared = self._shared
        if lane is None:
            lane_no = shared.new_lane_no()
            lane = InLane(lane_no, shared.name, shared.ledger.store_id, LOCAL, shared.random_id(), queue)
            shared.in_lanes[lane_no] = lane
            self.adopt_lane(lane)
        seq = lane.floor + 1
        self._store(lane, [seq], [record], plain=False)
        lane.floor = seq
        shared.touch(lane)
        return f"{lane.id:016x}-{seq}"

    def skip_to(self, lane: InLane, floor: int) -> None:
        """Everything up to `floor` is final at the sender: raise the floor without having received it."""
        if floor <= lane.floor:
            return
        caught_up = lane.scan_seq == lane.floor + 1
        self._pop_tombstones(lane, lane.floor + 1, floor)
        lane.floor = floor
        if caught_up:
            lane.scan_seq = floor + 1
        self._shared.touch(lane)

    # ------------------------------------------------------------------------------------------------------- results

    def finish_all(self, results: Iterable[Finished]) -> None:
        """What workers made of rows, in the order in which they were through."""
        plain: list[Row] = []
        for item in results:
            if isinstance(item, Acknowledged) and not item.span.is_apart:
                self._end_part(item)
                continue
            for row, result in self._apart(item):
                if type(result) is Handled and row.is_plain:
                    plain.append(row)
                else:
                    self.finish(row, result)
        if plain:
            self._finish_plain(plain)

    def _apart(self, item: Finished) -> list[tuple[Row, Result]]:
        """Of each message by itself: nothing else stands for it any more."""
        if isinstance(item, Acknowledged):
            rows = [self.claims.find(item.span.lane, seq) for seq in item.seqs]
            return [(row, HANDLED) for row in rows if row is not None]
        row, _ = item
        if row.span is not None and self._shared.in_lanes.get(row.lane.no) is row.lane:
            self.claims.find(row.lane, row.seq)
        return [item]

    def _end_part(self, part: Acknowledged) -> None:
        """HANDLED, at the first attempt, for neighbours in a span."""
        span, start, stop = part
        lane, shared = span.lane, self._shared
        shared.effects.freed.append((span.slot + start, stop - start))
        shared.counters["handled"] += stop - start
        span.settle(start, stop)
        if span.settled == len(span.records):
            lane.spans.remove(span)
        self._end_neighbours(lane, span.first + start, span.records[start:stop], span.handed_us[stop - 1])
        self.rows.queue(lane.queue).examine = True

    def _finish_plain(self, rows: list[Row]) -> None:
        """Settle rows that were acknowledged and have no more than their row in INBOX: in runs, not one by one."""
        shared = self._shared
        shared.effects.freed += [(row.slot, 1) for row in rows]
        rows = [row for row in rows if row.lane.rows.pop(row.seq, None) is row]
        if not rows:
            return
        shared.counters["handled"] += len(rows)
        rows.sort(key=_lane_and_seq)
        start = 0
        for at, row in enumerate(rows):
            following = rows[at + 1] if at + 1 < len(rows) else None
            if following is None or following.lane is not row.lane or following.seq != row.seq + 1:
                run = rows[start : at + 1]
                self._end_neighbours(row.lane, run[0].seq, [row.record for row in run], row.handed_us)
                start = at + 1
        for row in rows:
            row.place = Place.GONE
        for name in {row.queue for row in rows}:
            self.rows.queue(name).examine = True

    def _end_neighbours(self, lane: InLane, first: int, records: list[bytes], handed_us: int) -> None:
        """HANDLED, at the first attempt, for neighbours of one lane; `handed_us` is when the last was handed over."""
        last = first + len(records) - 1
        self.claims.relieve(self.rows.queue(lane.queue))
        self._shared.inbox_runs.discard(lane.no, first, last)
        self._count(lane, -len(records), -sum(map(len, records)))
        settled = Settled(first, last, _HANDLED, None, 1, handed_us, self._shared.now.store_us, False)
        self.settlements.add(lane, settled)

    def finish(self, row: Row, result: Result) -> None:
        """What a worker made of a row."""
        if isinstance(result, Returned):
            if row.suspect and row.lane.rows.get(row.seq) is row:
                self.claims.suspect_is_through(row)
            return
        if row.lane.rows.get(row.seq) is not row:
            # The peer was forgotten or its store was replaced meanwhile: nobody waits for this.
            self._free(row)
            return
        if row.suspect:
            self.claims.suspect_is_through(row)
        self._free(row)
        if isinstance(result, Handled):
            self._shared.counters["handled"] += 1
            self.claims.relieve(self.rows.queue(row.queue))
            self._end(row, outcome_of(stage_at_receiver(row), Event.ACKNOWLEDGED), None, row.attempts)
        elif isinstance(result, Rejected):
            outcome = outcome_of(stage_at_receiver(row), Event.REJECTED)
            self._end_buried(row, "rejected", outcome, result.reason)
        elif isinstance(result, Expired):
            self._expire(row)
        elif isinstance(result, Refused):
            self._end_buried(row, "rejected", outcome_of(stage_in_queue(row), Event.REFUSED), _CONDITION)
        elif isinstance(result, MoveTo):
            self._move(row, result.queue)
        elif isinstance(result, Failed | RetryAt):
            self._retry(row, result)
        queue = self.rows.queue(row.queue)
        queue.examine = True

    def _free(self, row: Row) -> None:
        if row.slot >= 0:
            self._shared.effects.freed.append((row.slot, 1))

    def _retry(self, row: Row, result: Failed | RetryAt) -> None:
        queue = self.rows.queue(row.queue)
        now_us = self._shared.now.store_us
        row.first_handed_us = row.first_handed_us or row.handed_us
        if row.withdrawn is not None:
            self._end_handed(row, row.withdrawn, outcome_of(Stage.DOOMED, Event.FAILED))
            return
        if row.expired(now_us):
            self._end_handed(row, Cause.DEADLINE, outcome_of(Stage.DOOMED, Event.FAILED))
            return
        delay_us = self._delay_us(queue, row, result)
        reason = result.reason or "retry"
        news = failed(now_us, row.attempts, reason)
        if delay_us is None:
            self._end_buried(row, "exhausted", outcome_of(Stage.RUNNING, Event.FAILED_LAST), reason, news)
            return
        self._shared.counters["retried"] += 1
        self._park(row, queue, now_us + delay_us, news)

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

    def _exhausted(self, queue: Queue, row: Row) -> bool:
        """End a row that was at work alone when the process died, if that was its last attempt."""
        limit = self._most_attempts(queue, row)
        if limit is None or row.attempts < limit:
            return False
        outcome = outcome_of(Stage.RUNNING, Event.FAILED_LAST)
        self._bury(row, "crash", outcome, "the process died in the handler")
        self._end(row, outcome, "crash", row.attempts)
        return True

    def _park(self, row: Row, queue: Queue, ready_at_us: int, news: Happened) -> None:
        """Let a row wait in `queue` until `ready_at_us`. Its key stays blocked: KEYED is not touched."""
        self.rows.remove_waiting(row)
        at_us = self.rows.put_waiting(queue, row.lane.no, row.seq, ready_at_us)
        flags = REDELIVERED if row.redelivered else 0
        moved_to = queue.name if queue.name != row.lane.queue else None
        before = self.rows.state(row.lane.no, row.seq).history if row.stated else ()
        # While room is scarce a row's state must not grow with its attempts.
        happened = before if self._shared.scarce else added(before, news)
        state = RowState(row.attempts, row.first_handed_us, at_us, flags, moved_to, happened, 0, row.keyed_us)
        self.rows.put_state(row.lane.no, row.seq, state)
        self.claims.pass_over(row)
        if self._shared.scarce and not row.stated:
            self.claims.pause(self.rows.queue(row.queue))

    def _move(self, row: Row, to: str) -> None:
        """The same message in another queue: attempts start again, its key is a key of that queue."""
        now_us = self._shared.now.store_us
        if row.withdrawn is not None or row.expired(now_us):
            self._end_handed(row, row.withdrawn or Cause.DEADLINE, outcome_of(Stage.DOOMED, Event.MOVED))
            return
        if row.key is not None:
            self._free_key(row)
        queue = self.rows.queue(to)
        news = Happened(now_us, history.MOVED, f"attempt {row.attempts}: from {row.queue} to {to}")
        row.attempts = 0
        if row.key is not None:
            row.keyed_us = now_us  # behind those of its key that are there
            self.rows.put_key(queue, row)
        row.first_handed_us = row.first_handed_us or row.handed_us
        self._park(row, queue, now_us, news)

    # ---------------------------------------------------------------------------------------------------- withdrawal

    def withdraw(self, lane: InLane, ranges: list[Range], cause: Cause) -> tuple[int, int]:
        """The sender's request that these never be handed over.

        Of a sender that may not recall, nothing is taken back that was received: a deadline is judged here in any
        case, and calling a recall one must not be a way around.

        Returns for how many this changed something, and how many have not come yet.
        """
        may_recall = self._authorisation.may_recall(lane)
        if cause is Cause.RECALL and not may_recall:
            self._authorisation.deny(lane, ranges)
            return 0, 0
        changed = entombed = 0
        for first, last in ranges:
            if may_recall:
                held = list(self._shared.inbox_runs.spans(lane.no, first, min(last, lane.floor)))
                for start, stop in held:
                    for seq in range(start, stop + 1):
                        changed += self._withdraw_row(lane, seq, cause)
            above = max(first, lane.floor + 1)
            if above <= last:
                self._entomb(lane, above, last, cause)
                entombed += last - above + 1
        return changed, entombed

    def _entomb(self, lane: InLane, first: int, last: int, cause: Cause) -> None:
        """They were not received: remember until they or their VOIDs come that they must not be handed over."""
        shared = self._shared
        bounds = tables.lane_bounds(tables.TOMBSTONE, lane.no, first, last)
        known = {tables.split_lane_seq(key)[1] for key in shared.journal.keys(*bounds, 2**31)}
        seqs = [seq for seq in range(first, last + 1) if seq not in known]
        stone = bytes((cause.value,))
        shared.journal.put_many([(tables.lane_seq(tables.TOMBSTONE, lane.no, seq), stone) for seq in seqs])
        shared.counters["tombstones"] += len(seqs)
        self.tombstones_of[lane.peer] += len(seqs)
        for start, stop in to_ranges(seqs):
            self._settle_unseen(lane, start, min(stop, lane.doubt_upto), cause, doubt=True)
            self._settle_unseen(lane, max(start, lane.doubt_upto + 1), stop, cause, doubt=False)

    def _settle_unseen(self, lane: InLane, first: int, last: int, cause: Cause, doubt: bool) -> None:
        if first <= last:
            outcome, reason = _withdrawn_outcome(Stage.SENT, cause, doubt)
            self.settlements.add(lane, Settled(first, last, outcome, reason, 0, 0, self._shared.now.store_us, False))

    def _withdraw_row(self, lane: InLane, seq: int, cause: Cause) -> bool:
        """False if it was withdrawn before."""
        row = self.claims.find(lane, seq) or self.rows.read(lane.no, seq)
        if row is None:
            return False
        self.claims.take_back(row)
        following = TRANSITIONS[stage_at_receiver(row)][WITHDRAWN[cause]]
        if isinstance(following, Stage):
            first = row.withdrawn is None
            if first:
                self._forbid_retry(row, cause)
            self.settlements.notice(row)
            return first
        if row.was_handed_over:
            self._end_handed(row, cause, following)
        else:
            self._end(row, *_withdrawn_outcome(Stage.WAITING, cause, row.doubt), 0)
        return True

    def _forbid_retry(self, row: Row, cause: Cause) -> None:
        """The row is with a worker: it will not be handed over again, not even after a crash."""
        row.withdrawn = cause
        row.stated = True
        state = self.rows.state(row.lane.no, row.seq)
        first_us = row.first_handed_us or row.handed_us
        news = Happened(self._shared.now.store_us, _WHAT_OF_CAUSE[cause], "while a worker had it")
        happened = added(state.history, news)
        state = state._replace(attempts=row.attempts, first_handed_us=first_us, withdrawn=cause.value, history=happened)
        self.rows.put_state(row.lane.no, row.seq, state)

    def _end_handed(self, row: Row, cause: Cause, outcome: Outcome) -> None:
        """Withdrawn after it was handed over: no further attempt (F10)."""
        if cause is Cause.DEADLINE:
            self._bury(row, "deadline", outcome, cause.reason)
        self._end(row, outcome, cause.reason, row.attempts)

    # ----------------------------------------------------------------------------------------------------- deadlines

    def judge(self, channel_no: int, now_theirs_us: int) -> None:
        """End the rows of this sender whose deadline has passed by its own clock."""
        bounds = tables.u32_bounds(tables.IN_DEADLINE, channel_no)
        for key in self._shared.journal.keys(*bounds, 1000):
            deadline_us, lane_no, seq = tables.split_waiting(key)
            if now_theirs_us <= deadline_us:
                return
            self._shared.journal.delete(key)
            lane = self._shared.in_lanes.get(lane_no)
            row = None if lane is None else self.claims.find(lane, seq) or self.rows.read(lane_no, seq)
            if row is not None:
                self._judge_row(row)

    def next_deadline_us(self, channel_no: int) -> int | None:
        """The earliest deadline among this sender's rows, by its clock."""
        keys = self._shared.journal.keys(*tables.u32_bounds(tables.IN_DEADLINE, channel_no), 1)
        return tables.split_waiting(keys[0])[0] if keys else None

    def _judge_row(self, row: Row) -> None:
        self.claims.take_back(row)
        if isinstance(TRANSITIONS[stage_at_receiver(row)][Event.DEADLINE], Stage):
            if row.withdrawn is None:
                self._forbid_retry(row, Cause.DEADLINE)
            return
        self._expire(row)

    def _expire(self, row: Row) -> None:
        """Its deadline has passed and no worker has it."""
        if row.was_handed_over:
            self._end_handed(row, Cause.DEADLINE, outcome_of(Stage.RETRYING, Event.DEADLINE))
            return
        outcome, reason = _withdrawn_outcome(Stage.WAITING, Cause.DEADLINE, row.doubt)
        self._on_expiry(row, outcome)
        self._shared.counters["expired"] += 1
        self._end(row, outcome, reason, 0, applied=True)

    def _on_expiry(self, row: Row, outcome: Outcome) -> None:
        on_expiry = row.head.meta.on_expiry
        if on_expiry == "dead":
            self._bury(row, "expired", outcome, Cause.DEADLINE.reason)
        elif on_expiry.startswith("queue:"):
            self.add_local(on_expiry[6:], self._dead.as_local(row.record, self.message_id(row), "expired"))

    # ---------------------------------------------------------------------------------------------------- settlement

    def _end(self, row: Row, outcome: Outcome, reason: str | None, attempts: int, applied: bool = False) -> None:
        """Remove a row and tell its sender the outcome."""
        self._remove(row)
        handed_us = row.handed_us or row.first_handed_us
        if attempts and not handed_us:
            handed_us = 1
        self._note_settled(row.lane, row.seq, outcome, reason, attempts, handed_us, applied)

    def _end_buried(self, row: Row, cause: str, outcome: Outcome, reason: str, *news: Happened) -> None:
        """Keep it as a dead letter and end it for the same reason."""
        self._bury(row, cause, outcome, reason, *news)
        self._end(row, outcome, reason, row.attempts)

    def _remove(self, row: Row) -> None:
        """Remove a row and everything that hangs on it."""
        journal, lane, seq = self._shared.journal, row.lane, row.seq
        self._shared.inbox_runs.discard(lane.no, seq, seq)
        if row.stated or row.waiting_at_us or row.suspect:
            self.rows.remove_waiting(row)
            journal.delete(tables.lane_seq(tables.ROW_STATE, lane.no, seq))
            self.claims.clear_suspect(lane.no, seq)
        if row.suspect:
            self.claims.suspect_is_through(row)
        if row.deadline_us:
            self.rows.remove_deadline(row)
        lane.rows.pop(seq, None)
        row.place = Place.GONE
        if row.key is not None:
            self._free_key(row)
        self._count(lane, -1, -len(row.record))

    def _free_key(self, row: Row) -> None:
        """The row no longer holds its key: the next one may be claimed if it was passed over."""
        following = self.rows.remove_key(row)
        if following is not None:
            self.claims.promote(self.rows.queue_of(row), following)

    def _count(self, lane: InLane, messages: int, size: int) -> None:
        lane.count += messages
        lane.size += size
        ledger = self._shared.ledger
        ledger.inbox_messages += messages
        ledger.inbox_bytes += size
        self._shared.touch(lane)
        if lane.is_orphan and not lane.count:
            self.emptied.append(lane)

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
        now_us = self._shared.now.store_us
        self.settlements.add(lane, Settled(seq, seq, outcome, reason, attempts, handed_us, now_us, applied))

    def _bury(self, row: Row, cause: str, outcome: Outcome, reason: str, *news: Happened) -> None:
        """Keep it as a dead letter, with its history."""
        head = row.head
        state = self.rows.state(row.lane.no, row.seq) if row.stated else RowState()
        happened = self.rows.history(row.lane, row.order_us, head, state)
        end = history.settled(self._shared.now.store_us, outcome.name, reason)
        sent_us = self.rows.sent_us(row.lane, head)
        if row.handed_us:
            happened = history.handed_over(happened, row.handed_us, row.attempts)
        self._dead.add(row, cause, reason, sent_us, (*happened, *news, end))

    def _quarantine(self, row: Row, why: str) -> None:
        """A damaged row: keep its bytes apart and tell the sender that nobody knows (F14)."""
        lane, seq = row.lane, row.seq
        journal = self._shared.journal
        journal.put(tables.lane_seq(tables.QUARANTINE, lane.no, seq), row.record)
        self._shared.event("damaged", lane.peer, f"inbox row {seq} of lane {lane.id:016x}: {why}")
        row.stated = True
        state = self.rows.state(lane.no, seq)
        row.waiting_at_us = state.waiting_at_us or (row.order_us if lane.kind == DELAYED else 0)
        row.queue = state.queue or row.queue
        following = self.rows.forget_keyed(row)
        if following is not None:
            self.claims.promote(self.rows.queue_of(row), following)
        row.attempts = state.attempts
        self._end(row, outcome_of(stage_in_queue(row), Event.DAMAGED), "damaged", state.attempts)

    # --------------------------------------------------------------------------------------------------- lost stores

    def tombstones(self, lane: InLane) -> list[tuple[int, int]]:
        """Sequence numbers and causes of a lane's tombstones."""
        rows = self._shared.journal.scan(*tables.lane_bounds(tables.TOMBSTONE, lane.no), 2**31)
        return [(tables.split_lane_seq(key)[1], value[0]) for key, value in rows]

    def may_recall(self, lane: InLane) -> bool:
        """Whether the lane's sender may take back what was received."""
        return self._authorisation.may_recall(lane)

    def drop(self, lane: InLane, seq: int) -> None:
        """Remove a row whose outcome the sender knows already, without telling it again."""
        row = self.claims.find(lane, seq) or self.rows.read(lane.no, seq)
        if row is None or row.place in (Place.RUNNING, Place.DONE):
            return
        if row.place in (Place.CLAIMED, Place.ASKED) and not self.claims.take_back(row):
            return
        self._remove(row)

    def forget_lane(self, lane: InLane) -> None:
        """Its sender was forgotten: its messages stay, and nobody is told what becomes of them."""
        self.credit.forget(lane)
        lane.closed = True
        lane.store_id = 0
        self._shared.touch(lane)
        if not lane.count:
            self.emptied.append(lane)

    def delete_emptied(self) -> list[str]:
        """Delete the lanes of forgotten peers that hold nothing more; returns the names of the peers."""
        emptied, self.emptied = self.emptied, []
        for lane in emptied:
            self.delete_lane(lane)
        return [lane.peer for lane in emptied]

    def delete_lane(self, lane: InLane) -> None:
        """Nobody speaks of it any more, and it holds nothing."""
        self.credit.forget(lane)
        self.claims.remove_lane(lane)
        self._shared.delete_lane(lane)

    def drop_tombstones(self, lane: InLane, above: int) -> None:
        """Remove the lane's tombstones above a sequence number."""
        self._pop_tombstones(lane, above + 1)

    def _pop_tombstones(self, lane: InLane, *numbers: int) -> set[int]:
        """Remove those of these numbers, and return which there were: looked up only where there are some at all."""
        if not self.tombstones_of[lane.peer]:
            return set()
        popped = self._shared.journal.pop(*tables.lane_bounds(tables.TOMBSTONE, lane.no, *numbers))
        self.tombstones_of[lane.peer] -= len(popped)
        return {tables.split_lane_seq(key)[1] for key, _ in popped}

    def message_id(self, row: Row) -> str:
        """The id of a message: the sender's own, or made of lane and sequence number."""
        return row.head.meta.id or f"{row.lane.id:016x}-{row.seq}"


def _check(records: list[bytes]) -> bool:
    """Whether none has a meta or a deadline.

    Raises BadRecord unless all are MESSAGEs: nothing is written before all are known to be good.
    """
    if not verify_all(records):
        raise BadRecord("the checksum of a record does not match")
    shortest = min(map(len, records), default=FRAMING_BYTES)
    if shortest < FRAMING_BYTES:
        raise BadRecord(f"a MESSAGE record has at least {FRAMING_BYTES} bytes, got {shortest}")
    # Messages of one send call have the same header.
    plain = all(_is_plain(*HEADER.unpack(head)) for head in set(map(_HEAD, records)))
    if not plain:
        for record in records:
            decode_head(record)
    return plain


_HEAD = itemgetter(slice(HEADER.size))


def _is_plain(meta_length: int, sent_at_us: int, deadline_us: int) -> bool:
    return not meta_length and not deadline_us and sent_at_us <= MAX_TIME_US


def _lane_and_seq(row: Row) -> tuple[int, int]:
    return row.lane.no, row.seq


def _neighbours(rows: list[Row]) -> Iterator[tuple[int, list[Row]]]:
    """Rows of one lane whose numbers follow each other and that became ready at one time, and the first number."""
    start = 0
    for at in range(1, len(rows) + 1):
        if at == len(rows) or rows[at].seq != rows[at - 1].seq + 1 or rows[at].order_us != rows[start].order_us:
            yield rows[start].seq, rows[start:at]
            start = at


def _withdrawn_outcome(stage: Stage, cause: Cause, doubt: bool) -> tuple[Outcome, str]:
    """The outcome of a message withdrawn for `cause` that this life never handed over."""
    if doubt:
        return Outcome.UNCERTAIN, cause.reason
    return outcome_of(stage, WITHDRAWN[cause]), cause.reason


def _seqs_of_records(first: int, runs: list[int]) -> Sequence[int]:
    if len(runs) == 1 and runs[0] > 0:
        return range(first, first + runs[0])
    seqs: list[int] = []
    for run in runs:
        if run > 0:
            seqs.extend(range(first, first + run))
        first += abs(run)
    return seqs
