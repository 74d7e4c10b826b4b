"""The life of sent messages: acceptance, expiry, withdrawal, settlement, outcome.

A message lies in OUTBOX until its outcome is final at this peer; from then on its absence is what makes the entry a
VOID. Outcomes are kept by ranges in OUTCOME, in the order in which they became known.

Who decides: what was never transmitted (seq > sent_upto) ends here and at once. Anything else is asked of the
receiver with a WITHDRAW and ends when its SETTLE comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import zip_longest
from typing import TYPE_CHECKING, NamedTuple, cast

import msgpack

from zmqrel.core import tables
from zmqrel.core.commands import EndedAs, Find, Found, Recall, RecallWhere, Send, Stored, TakeOutcomes
from zmqrel.core.dead import DeadLetters
from zmqrel.core.effects import Denied, Ended, HandedOver, Moved, Withdrawing
from zmqrel.core.entries import (
    CHECK_BYTES,
    HEADER,
    MAX_SEQ,
    MOST_IN_WITHDRAW,
    BadRecord,
    Deny,
    MessageHead,
    Meta,
    Notice,
    Range,
    Settle,
    Settled,
    Withdraw,
    decode_head,
    encode_messages,
    encode_meta,
    pack,
    to_ranges,
    verify,
)
from zmqrel.core.lane import CONTROL, DATA, DELAYED, OutLane
from zmqrel.core.memory import Memory
from zmqrel.core.runs import Piece
from zmqrel.core.shared import Shared
from zmqrel.core.transitions import WITHDRAWN, Event, Stage, outcome_of, stage_at_sender
from zmqrel.errors import DuplicateId, OutboxFull, StoreFull, UnknownPeer
from zmqrel.outcome import Cause, Outcome

if TYPE_CHECKING:
    from zmqrel.core.channel import Channel

_SCANNED_PER_TURN = 2000
_JUDGED_PER_TURN = 1000
_JUDGED_WHEN_FULL = 50
"""A withdrawal takes room until it is answered."""
_ASK_AGAIN_US = 1_000_000


class Withdrawal(NamedTuple):
    """What is kept of a withdrawal in force."""

    cause: Cause
    at_us: int
    handed_at_us: int | None = None
    """When its receiver had handed the message over before (0: not known), None if it has not said so."""

    def encode(self) -> bytes:
        """The bytes of the row."""
        times = (self.at_us,) if self.handed_at_us is None else (self.at_us, self.handed_at_us)
        return bytes((self.cause.value,)) + b"".join(time_us.to_bytes(8, "big") for time_us in times)

    @classmethod
    def decode(cls, data: bytes) -> Withdrawal:
        """The withdrawal of these bytes."""
        handed_at_us = int.from_bytes(data[9:], "big") if len(data) > 9 else None
        return cls(Cause(data[0]), int.from_bytes(data[1:9], "big"), handed_at_us)


class RecallSearch:
    """A RecallWhere that is being worked through, a part of the outbox a turn, so that no turn is long."""

    def __init__(self, command: RecallWhere, lanes: list[OutLane]) -> None:
        self.command = command
        self.places: list[tuple[int, int]] = []
        self._left = [(lane, 0, lane.next_seq - 1) for lane in lanes]
        self._left_before, self._found_before = list(self._left), 0

    def begin_turn(self) -> None:
        """A turn begins: so far it is committed."""
        self._left_before, self._found_before = list(self._left), len(self.places)

    def as_before(self, lanes: Mapping[int, OutLane]) -> RecallSearch:
        """As it was when this turn began, over lanes that were loaded anew, by number."""
        search = RecallSearch(self.command, [])
        search.places = self.places[: self._found_before]
        search._left = [(lanes[lane.no], first, last) for lane, first, last in self._left_before if lane.no in lanes]
        return search

    def next_part(self) -> tuple[OutLane, int, int] | None:
        """Lane, first and last sequence number to look at; what was sent after the call does not count."""
        return self._left[-1] if self._left else None

    def went_to(self, seq: int | None) -> None:
        """Everything up to `seq` of the part was looked at; None: all of it."""
        lane, _, last = self._left.pop()
        if seq is not None:
            self._left.append((lane, seq + 1, last))


class Outbox:
    """See the module."""

    def __init__(
        self,
        shared: Shared,
        dead: DeadLetters,
        channels: Mapping[str, Channel],
        add_local: Callable[[str, bytes], str],
    ) -> None:
        self._shared = shared
        self._dead = dead
        self._channels = channels
        self._add_local = add_local
        self.to_withdraw: dict[tuple[OutLane, Cause], list[int]] = {}
        """What `write_withdrawals` is to append."""
        self._left_upto = b""
        """While room is scarce: key in OUT_DEADLINE behind what has run out and is asked for later."""
        self.searches: list[RecallSearch] = []
        """Those under way, for `work`."""
        self._searches_before: list[RecallSearch] = []
        """Those that were when this turn began, for the case that its commit fails."""

    # --------------------------------------------------------------------------------------- acceptance

    def send(self, command: Send) -> Stored:
        """Accept messages. Raises UnknownPeer, DuplicateId, OutboxFull or StoreFull before anything is written."""
        shared, ledger, options = self._shared, self._shared.ledger, self._shared.options
        channel = self._channels.get(command.to)
        if channel is None or channel.memory is not Memory.KEPT:
            raise UnknownPeer(f"to: no peer {command.to!r} is known here; name it in `peers` or connect to it")
        if command.id is not None:
            earlier = self.earlier(command)
            if earlier is not None:
                return earlier
        records = command.records
        count, size = len(records), sum(map(len, records))
        if not shared.accepting:
            raise StoreFull("the store is full: nothing more is accepted until there is room")
        if ledger.outbox_messages + count > options.outbox_max_messages:
            raise OutboxFull(
                f"the outbox holds {ledger.outbox_messages} messages and {count} more are over "
                f"outbox_max_messages={options.outbox_max_messages}"
            )
        if ledger.outbox_bytes + size > options.outbox_max_bytes:
            raise OutboxFull(
                f"the outbox holds {ledger.outbox_bytes} bytes and {size} more are over "
                f"outbox_max_bytes={options.outbox_max_bytes}"
            )
        lane = channel.lane_for(command.queue, DELAYED if command.delayed else DATA)
        plain = not command.deadline_us and not HEADER.unpack_from(records[0])[0]
        first = self._append(channel, lane, records, size, plain)
        if command.deadline_us or options.give_up_after_s is not None:
            self._index_deadlines(lane, first, count, command.deadline_us)
        if command.id is not None:
            place = pack([lane.no, first, command.digest])
            shared.journal.put(tables.named(tables.ID, command.id), place)
        shared.counters["accepted"] += count
        return Stored(lane, first, count)

    def earlier(self, command: Send) -> Stored | None:
        """The first send with this id and these arguments. Raises DuplicateId if the id is another message's."""
        data = self._shared.journal.get(tables.named(tables.ID, cast(str, command.id)))
        if data is None:
            if self._lane_of(cast(str, command.id)) is None:
                return None
            raise DuplicateId(f"id: {command.id!r} is an id that zmqrel gives to messages of this store by itself")
        lane_no, seq, digest = msgpack.unpackb(data)
        if digest != command.digest:
            raise DuplicateId(f"id: {command.id!r} was used for a message with other arguments")
        return Stored(self._shared.out_lanes[lane_no], seq, 1, repeated=True)

    def _append(self, channel: Channel, lane: OutLane, records: list[bytes], size: int, plain: bool) -> int:
        first = lane.append(records)
        self._shared.outbox_runs.put(lane.no, first, records, plain=plain)
        self._shared.ledger.outbox_messages += len(records)
        self._shared.ledger.outbox_bytes += size
        self._shared.touch(lane)
        channel.activate(lane)
        return first

    def _index_deadlines(self, lane: OutLane, first: int, count: int, deadline_us: int) -> None:
        at_us = deadline_us or 2**63
        if self._shared.options.give_up_after_s is not None:
            at_us = min(at_us, self._shared.now.store_us + int(self._shared.options.give_up_after_s * 1e6))
        rows = [
            (tables.out_deadline_key(tables.OUT_DEADLINE, at_us, lane.no, seq), b"")
            for seq in range(first, first + count)
        ]
        self._shared.journal.put_many(rows)
        self._shared.clock_timers.set_earlier("out_deadline", at_us + 1)

    # --------------------------------------------------------------------------------------- looking up

    def find(self, command: Find) -> Found | None:
        """What is known of a message by its id."""
        place = self._place_of(command.id)
        return None if place is None else self.found(*place)

    def _place_of(self, message_id: str) -> tuple[int, int] | None:
        data = self._shared.journal.get(tables.named(tables.ID, message_id))
        if data is not None:
            lane_no, seq, _ = msgpack.unpackb(data)
            return lane_no, seq
        made = self._lane_of(message_id)
        return None if made is None or not 1 <= made[1] < made[0].next_seq else (made[0].no, made[1])

    def _lane_of(self, message_id: str) -> tuple[OutLane, int] | None:
        """Lane and number of an id as zmqrel makes them, whether or not it was given to a message yet."""
        lane_id, dash, seq_text = message_id.partition("-")
        if not dash or len(lane_id) != 16 or not seq_text.isascii() or not seq_text.isdigit():
            return None
        for lane in self._shared.out_lanes.values():
            if f"{lane.id:016x}" == lane_id and lane.queue:
                return lane, int(seq_text)
        return None

    def found(self, lane_no: int, seq: int) -> Found | None:
        """What is known of the message at this place, None if its outcome is no longer kept."""
        lane = self._shared.out_lanes.get(lane_no)
        if lane is None:
            return None
        entry = self._shared.outbox_runs.get(lane_no, seq)
        if entry is None:
            return self._found_ended(lane, seq)
        head = _head_or_none(entry.record)
        meta = head.meta if head else Meta()
        data = self._shared.journal.get(tables.lane_seq(tables.WITHDRAWN, lane_no, seq))
        withdrawal = None if data is None else Withdrawal.decode(data)
        return Found(
            lane,
            seq,
            meta.id or f"{lane.id:016x}-{seq}",
            meta.key,
            meta.headers or {},
            head.sent_at_us if head else 0,
            None,
            withdrawal.cause if withdrawal else None,
            withdrawal.at_us if withdrawal else 0,
            withdrawal.handed_at_us if withdrawal else None,
        )

    def _found_ended(self, lane: OutLane, seq: int) -> Found | None:
        journal = self._shared.journal
        numbers = journal.scan(*tables.lane_bounds(tables.OUTCOME_OF, lane.no, seq), 1)
        if not numbers:
            return None
        data = journal.get(tables.numbered(tables.OUTCOME, int.from_bytes(numbers[0][1], "big")))
        if data is None or msgpack.unpackb(data)[1] > seq:
            return None
        return next(found for found in self._found_in(data) if found.seq == seq)

    def _found_in(self, data: bytes) -> Iterator[Found]:
        """The messages of one row of OUTCOME."""
        lane_no, first, last, outcome, reason, attempts, handed_at_us, at_us, named = msgpack.unpackb(data)
        lane = self._shared.out_lanes[lane_no]
        names = {seq: (message_id, key) for seq, message_id, key in named}
        ended = EndedAs(Outcome(outcome), reason, attempts, handed_at_us, at_us)
        for seq in range(first, last + 1):
            message_id, key = names.get(seq, (None, None))
            yield Found(lane, seq, message_id or f"{lane.id:016x}-{seq}", key, {}, 0, ended, None)

    # --------------------------------------------------------------------------------------- withdrawal

    def recall(self, command: Recall) -> list[Found | None]:
        """Withdraw messages; what is known of each after it."""
        places = [self._present_place(place, id) for place, id in zip_longest(command.places, command.ids)]
        for lane_no, seq in places:
            lane = self._shared.out_lanes.get(lane_no)
            if lane is not None:
                self.withdraw(lane, seq, Cause.RECALL)
        return [self.found(lane_no, seq) for lane_no, seq in places]

    def _present_place(self, place: tuple[int, int], message_id: str | None) -> tuple[int, int]:
        """Where a message is now: its lane may have been closed since the caller looked (F3)."""
        lane = self._shared.out_lanes.get(place[0])
        if message_id is None or lane is None or not lane.closed or place[1] <= lane.sent_upto:
            return place
        return self._place_of(message_id) or place

    def withdraw(self, lane: OutLane, seq: int, cause: Cause) -> None:
        """End a message that has not ended: at once if it never left, else by asking its receiver.

        One withdrawal per message is in force: the first cause wins.
        """
        journal = self._shared.journal
        if not self._shared.outbox_runs.has(lane.no, seq):
            return
        if seq > lane.sent_upto:
            self.end_here(lane, seq, seq, cause)
            return
        key = tables.lane_seq(tables.WITHDRAWN, lane.no, seq)
        if journal.get(key) is not None:
            return
        journal.put(key, Withdrawal(cause, self._shared.now.store_us).encode())
        lane.withdrawn += 1
        self._shared.touch(lane)
        self.to_withdraw.setdefault((lane, cause), []).append(seq)
        self._shared.effects.notices.append(Withdrawing(lane.no, seq, cause))

    def end_here(self, lane: OutLane, first: int, last: int, cause: Cause) -> None:
        """End messages that never left this store. In doubt (an old copy's sends) nobody knows."""
        for start, stop, doubt in _split_at(first, last, lane.doubt_upto):
            outcome = Outcome.UNCERTAIN if doubt else outcome_of(Stage.STORED, WITHDRAWN[cause])
            self.end(lane, Settled(start, stop, outcome, cause.reason, 0, 0, self._shared.now.store_us, False))

    def end_forgotten(self, lane: OutLane, most: int) -> int:
        """End the next messages of a lane whose peer will not return; returns how many, 0 if there are none left.

        What never left was never handed over. Of the rest nobody will know.
        """
        first = self._shared.outbox_runs.lowest(lane.no)
        if first is None:
            return 0
        before = self._shared.ledger.outbox_messages
        last, known_from = first + most - 1, max(lane.sent_upto, lane.doubt_upto) + 1
        now_us = self._shared.now.store_us
        for start, stop, outcome in (
            (first, min(last, known_from - 1), outcome_of(Stage.SENT, Event.FORGOTTEN)),
            (max(first, known_from), last, outcome_of(Stage.STORED, Event.FORGOTTEN)),
        ):
            if start <= stop:
                self.end(lane, Settled(start, stop, outcome, "forgotten", 0, 0, now_us, False))
        return before - self._shared.ledger.outbox_messages

    def retire(self, lane: OutLane) -> None:
        """The peer of a lane was forgotten, and nothing waits on it any more: it stays as long as its outcomes."""
        lane.retire()
        for cause in Cause:
            self.to_withdraw.pop((lane, cause), None)
        if lane.kind == CONTROL:
            self._shared.outbox_runs.discard(lane.no, 0, MAX_SEQ)
        self._shared.touch(lane)
        self._delete_if_over(lane)

    def _delete_if_over(self, lane: OutLane) -> None:
        if lane.over and not self._shared.journal.keys(*tables.lane_bounds(tables.OUTCOME_OF, lane.no), 1):
            self._shared.delete_lane(lane)

    def end_damaged(self, lane: OutLane, seq: int) -> None:
        """End a message whose record cannot be read any more; if it may have left, nobody knows (F14)."""
        self._shared.event("damaged", lane.peer, f"outbox entry {seq} of lane {lane.id:016x}")
        outcome = outcome_of(stage_at_sender(seq, max(lane.sent_upto, lane.doubt_upto)), Event.DAMAGED)
        self.end(lane, Settled(seq, seq, outcome, "damaged", 0, 0, self._shared.now.store_us, False))

    def write_withdrawals(self) -> None:
        """Append this turn's WITHDRAW entries."""
        store_id = self._shared.ledger.store_id
        for (lane, cause), seqs in self.to_withdraw.items():
            seqs.sort()
            for start in range(0, len(seqs), MOST_IN_WITHDRAW):
                ranges = to_ranges(seqs[start : start + MOST_IN_WITHDRAW])
                entry = Withdraw(store_id, lane.id, lane.kind, lane.queue, ranges, cause)
                self._channels[lane.peer].append_control(entry)
        self.to_withdraw.clear()

    def append_again(self, lane: OutLane) -> None:
        """The receiver forgot what it was told: say the withdrawals in force again."""
        for key, value in self._shared.journal.scan(*tables.lane_bounds(tables.WITHDRAWN, lane.no), 2**31):
            _, seq = tables.split_lane_seq(key)
            self.to_withdraw.setdefault((lane, Withdrawal.decode(value).cause), []).append(seq)

    def withdrawn_seqs(self, lane: OutLane) -> list[int]:
        """Messages of the lane with a withdrawal in force."""
        keys = self._shared.journal.keys(*tables.lane_bounds(tables.WITHDRAWN, lane.no), 2**31)
        return [tables.split_lane_seq(key)[1] for key in keys]

    # --------------------------------------------------------------------------------------- recall_where

    def start_search(self, command: RecallWhere) -> None:
        """Recall what matches; `work` answers the command when it is through."""
        lanes = [
            lane
            for lane in self._shared.out_lanes.values()
            if lane.kind in (DATA, DELAYED)
            and (command.to is None or lane.peer == command.to)
            and (command.queue is None or lane.queue == command.queue)
        ]
        self.searches.append(RecallSearch(command, lanes))

    def begin_turn(self) -> None:
        """A turn begins."""
        if self.searches or self._searches_before:
            self._searches_before = list(self.searches)
            for search in self.searches:
                search.begin_turn()

    def take_over(self, other: Outbox) -> None:
        """The commit of a turn failed, and this takes the place of `other`; what began in that turn is asked again."""
        lanes = self._shared.out_lanes
        self.searches = [search.as_before(lanes) for search in other._searches_before]
        self.begin_turn()

    def drop_searches(self) -> list[RecallWhere]:
        """Give them up; returns their commands."""
        dropped = [search.command for search in self.searches]
        self.searches.clear()
        self._searches_before.clear()
        return dropped

    def work(self) -> None:
        """Go on with the searches, within the bounds of a turn."""
        for search in self.searches[:1]:
            if self._shared.scarce and search.command.withdraw:
                self.searches.remove(search)
                error = StoreFull("the store is all but full, and asking others takes room until they answer")
                self._shared.effects.replies.append((search.command, error))
                continue
            part = search.next_part()
            if part is None:
                self.searches.remove(search)
                found = [self.found(*place) for place in search.places]
                self._shared.effects.replies.append((search.command, found))
                continue
            lane, first, last = part
            entries, through = self._shared.outbox_runs.read(lane.no, first, last, _SCANNED_PER_TURN)
            for seq, _, record in entries:
                if self._matches(search.command, lane, seq, record):
                    if search.command.withdraw:
                        self.withdraw(lane, seq, Cause.RECALL)
                    search.places.append((lane.no, seq))
            search.went_to(None if through else entries[-1].seq)

    def _matches(self, command: RecallWhere, lane: OutLane, seq: int, record: bytes) -> bool:
        if command.key is not None:
            head = _head_or_none(record)
            if head is None or head.meta.key != command.key:
                return False
        if command.matches is None:
            return True
        found = self.found(lane.no, seq)
        return found is not None and command.matches(found)

    # --------------------------------------------------------------------------------------- deadlines

    def judge(self) -> None:
        """End or withdraw what is past its deadline and not received."""
        shared = self._shared
        first, end = tables.table_bounds(tables.OUT_DEADLINE)
        most = _JUDGED_PER_TURN if shared.accepting else _JUDGED_WHEN_FULL
        keys = shared.journal.keys(self._left_upto or first, end, most)
        for key in keys:
            at_us = int.from_bytes(key[1:9], "big")
            if at_us >= shared.now.store_us:
                shared.clock_timers.set_earlier("out_deadline", at_us + 1)
                break
            lane_no, seq = tables.split_lane_seq(key)
            lane = shared.out_lanes.get(lane_no)
            if shared.scarce and lane is not None and lane.acked < seq <= lane.sent_upto:
                self._left_upto = key + b"\0"
                continue
            shared.journal.delete(key)
            entry = shared.outbox_runs.get(lane_no, seq)
            if lane is not None and entry is not None:
                self._judge_message(lane, seq, entry.record)
        else:
            if shared.journal.keys(self._left_upto or first, end, 1):
                shared.clock_timers.set_earlier("out_deadline", shared.now.store_us)
                return
        if self._left_upto:
            self._left_upto = b""
            shared.clock_timers.set_earlier("out_deadline", shared.now.store_us + _ASK_AGAIN_US)

    def _judge_message(self, lane: OutLane, seq: int, record: bytes) -> None:
        if not verify(record):
            self.end_damaged(lane, seq)  # who knows what its deadline was
            return
        _, _, deadline_us = HEADER.unpack_from(record)
        overdue = deadline_us and deadline_us < self._shared.now.store_us
        if deadline_us and not overdue:
            # It was given up before its deadline, unless it was received: look again at the deadline.
            key = tables.out_deadline_key(tables.OUT_DEADLINE, deadline_us, lane.no, seq)
            self._shared.journal.put(key, b"")
        if seq <= lane.acked:
            return  # received: its receiver judges it
        self.withdraw(lane, seq, Cause.DEADLINE if overdue else Cause.GIVE_UP)

    # --------------------------------------------------------------------------------------- settlement

    def settle(self, channel: Channel, entry: Settle) -> int:
        """The receiver's outcomes. One about a lane that is not of this store is ignored (F4).

        Returns how many of the ranges ended nothing.
        """
        lane = channel.own_lane(entry.lane_id)
        if entry.store_id != self._shared.ledger.store_id or lane is None:
            return len(entry.ranges)
        idle = 0
        for settled in entry.ranges:
            if settled.first > lane.sent_upto:
                idle += 1
                continue
            handed_at_us = channel.clock.to_local(settled.handed_at_us) if settled.handed_at_us > 1 else None
            last = min(settled.last, lane.sent_upto)
            settled = settled._replace(last=last, handed_at_us=handed_at_us or settled.handed_at_us)
            if settled.handed_at_us or settled.outcome not in _NEVER_HANDED_OVER:
                idle += not self.end(lane, settled)
                continue
            for first, upto, doubt in _split_at(settled.first, last, lane.doubt_upto):
                # The receiver may not have heard yet that a life which it does not remember had these.
                outcome = Outcome.UNCERTAIN if doubt else settled.outcome
                idle += not self.end(lane, settled._replace(first=first, last=upto, outcome=outcome))
        return idle

    def notice(self, channel: Channel, entry: Notice) -> bool:
        """The receiver says that a message was handed over: its recall is too late. False if nobody asked."""
        lane = channel.own_lane(entry.lane_id)
        if entry.store_id != self._shared.ledger.store_id or lane is None:
            return False
        key = tables.lane_seq(tables.WITHDRAWN, lane.no, entry.seq)
        data = self._shared.journal.get(key)
        if data is None:
            return False  # it has ended already
        local_us = channel.clock.to_local(entry.handed_at_us) if entry.handed_at_us else None
        at_us = max(0, local_us if local_us is not None else entry.handed_at_us)
        # Kept, so that the verdict stands after a restart: the receiver does not say it again.
        self._shared.journal.put(key, Withdrawal.decode(data)._replace(handed_at_us=at_us).encode())
        self._shared.effects.notices.append(HandedOver(lane.no, entry.seq, at_us))
        return True

    def denied(self, channel: Channel, entry: Deny) -> bool:
        """The receiver does not let these be recalled: the messages are as if they had not been.

        So a deadline can still withdraw them, and a recall can ask once more, should it be permitted by then. False if
        none was asked for.
        """
        lane = channel.own_lane(entry.lane_id)
        if entry.store_id != self._shared.ledger.store_id or lane is None:
            return False
        denied = False
        for first, last in entry.ranges:
            rows = self._shared.journal.scan(*tables.lane_bounds(tables.WITHDRAWN, lane.no, first, last), 2**31)
            for key, data in rows:
                if Withdrawal.decode(data).cause is not Cause.RECALL:
                    continue  # nobody has to permit a deadline
                self._shared.journal.delete(key)
                lane.withdrawn -= 1
                denied = True
                self._shared.touch(lane)
                self._shared.effects.notices.append(Denied(lane.no, tables.split_lane_seq(key)[1], entry.reason))
        return denied

    def end(self, lane: OutLane, settled: Settled) -> bool:
        """Give messages their outcome and forget their bodies. Those that have one already keep it.

        False if all have one.
        """
        first, last, outcome, reason, attempts, handed_at_us, _, applied = settled
        pieces = self._shared.outbox_runs.remove(lane.no, first, last, outcome in _NEVER_HANDED_OVER)
        if not pieces:
            return False
        named = self._leave(lane, pieces)
        if outcome is Outcome.EXPIRED and not applied:
            self._apply_expiry(lane, pieces)
        elif outcome is Outcome.EXHAUSTED and not handed_at_us and not attempts:
            for seq, record in _numbered(pieces):
                self._bury(lane, seq, record, "transport", reason or "", outcome)
        at_us = self._shared.now.store_us
        ended = EndedAs(outcome, reason, attempts, handed_at_us, at_us)
        for start, stop in _joined(pieces):
            self._put_outcome(lane, start, stop, ended, [n for n in named if start <= n[0] <= stop])
        if last >= lane.cursor:
            lane.forget_tail()
        if last > lane.acked:
            self._channels[lane.peer].activate(lane)
        return True

    def _leave(self, lane: OutLane, pieces: list[Piece]) -> list[tuple[int, str | None, str | None]]:
        """Remove everything that hangs on these messages; returns (seq, id, key) of those with either."""
        ledger, journal = self._shared.ledger, self._shared.journal
        ledger.outbox_messages -= sum(piece.messages for piece in pieces)
        ledger.outbox_bytes -= sum(piece.size for piece in pieces)
        first, last = pieces[0].first, pieces[-1].last
        if last > lane.sent_upto:
            unsent = (piece.last - max(piece.first - 1, lane.sent_upto) for piece in pieces)
            lane.ended_unsent += sum(count for count in unsent if count > 0)
            self._shared.touch(lane)
        if lane.withdrawn:
            popped = journal.pop(*tables.lane_bounds(tables.WITHDRAWN, lane.no, first, last))
            lane.withdrawn -= len(popped)
        named: list[tuple[int, str | None, str | None]] = []
        for seq, record in _numbered([piece for piece in pieces if not piece.plain]):
            meta_length, _, deadline_us = HEADER.unpack_from(record) if len(record) >= HEADER.size else (0, 0, 0)
            if deadline_us:
                journal.delete(tables.out_deadline_key(tables.OUT_DEADLINE, deadline_us, lane.no, seq))
            head = _head_or_none(record) if meta_length else None
            if head is not None and (head.meta.id is not None or head.meta.key is not None):
                named.append((seq, head.meta.id, head.meta.key))
        return named

    def _put_outcome(
        self, lane: OutLane, first: int, last: int, ended: EndedAs, named: list[tuple[int, str | None, str | None]]
    ) -> None:
        shared, ledger = self._shared, self._shared.ledger
        number = ledger.next_outcome
        ledger.next_outcome += 1
        row = [lane.no, first, last, ended.outcome.value, *ended[1:], named]
        shared.journal.put(tables.numbered(tables.OUTCOME, number), pack(row))
        shared.journal.put(tables.lane_seq(tables.OUTCOME_OF, lane.no, last), number.to_bytes(8, "big"))
        if not ledger.subscribed:
            ledger.told_outcome = number
        shared.counters["settled"] += last - first + 1
        shared.counters[f"outcome_{ended.outcome.name.lower()}"] += last - first + 1
        shared.effects.notices.append(Ended(lane.no, first, last, *ended))
        shared.clock_timers.set_earlier("outcomes", shared.now.store_us + int(shared.options.outcome_retention_s * 1e6))

    def _apply_expiry(self, lane: OutLane, pieces: list[Piece]) -> None:
        """This peer judged the deadline: what `on_expiry` asks for happens in this store."""
        for seq, record in _numbered(pieces):
            head = _head_or_none(record)
            if head is None:
                continue
            if head.meta.on_expiry == "dead":
                self._bury(lane, seq, record, "expired", "deadline", Outcome.EXPIRED)
            elif head.meta.on_expiry.startswith("queue:"):
                origin_id = head.meta.id or f"{lane.id:016x}-{seq}"
                self._add_local(head.meta.on_expiry[6:], self._dead.as_local(record, origin_id, "expired"))

    def _bury(self, lane: OutLane, seq: int, record: bytes, cause: str, reason: str, outcome: Outcome) -> None:
        if verify(record) and _head_or_none(record) is not None:
            self._dead.add_sent(lane, seq, record, cause, reason, outcome.name)

    # --------------------------------------------------------------------------------------- telling outcomes

    def untold(self, command: TakeOutcomes) -> tuple[int, list[Found]]:
        """Outcomes that the application was not told, in order, and the number of the last."""
        ledger = self._shared.ledger
        first = tables.numbered(tables.OUTCOME, ledger.told_outcome + 1)
        rows = self._shared.journal.scan(first, tables.table_bounds(tables.OUTCOME)[1], command.limit)
        if not rows:
            return ledger.told_outcome, []
        found = [item for _, data in rows for item in self._found_in(data)]
        return int.from_bytes(rows[-1][0][1:], "big"), found

    def expire_outcomes(self) -> None:
        """Forget outcomes that were kept for `outcome_retention_s`, and the ids that belonged to them."""
        shared, journal = self._shared, self._shared.journal
        retention_us = int(shared.options.outcome_retention_s * 1e6)
        rows = journal.scan(*tables.table_bounds(tables.OUTCOME), 500)
        for key, data in rows:
            lane_no, _, last, _, _, _, _, at_us, named = msgpack.unpackb(data)
            if int.from_bytes(key[1:], "big") > shared.ledger.told_outcome:
                return  # however long the application was away, it is told first
            if at_us + retention_us > shared.now.store_us:
                shared.clock_timers.set_earlier("outcomes", at_us + retention_us)
                return
            journal.delete(key)
            journal.delete(tables.lane_seq(tables.OUTCOME_OF, lane_no, last))
            for _, message_id, _ in named:
                if message_id is not None:
                    journal.delete(tables.named(tables.ID, message_id))
            if shared.out_lanes[lane_no].over:
                self._delete_if_over(shared.out_lanes[lane_no])
        if rows:
            shared.clock_timers.set_earlier("outcomes", shared.now.store_us)

    # --------------------------------------------------------------------------------------- old copies

    def unsettled(self, lane: OutLane, last: int) -> Iterator[Range]:
        """The messages with numbers up to `last` that have no outcome."""
        return self._shared.outbox_runs.spans(lane.no, 0, last)

    def lowest(self, lane: OutLane) -> int:
        """The lowest entry of the lane that is not final, never above `sent_upto` + 1."""
        lowest = self._shared.outbox_runs.lowest(lane.no)
        return min(lowest or lane.next_seq, lane.sent_upto + 1)

    def renumber(self, old: OutLane, new: OutLane) -> int:
        """Move what lies above the boundary of a closed lane to a new one, in doubt (F3). Returns how many."""
        pieces = self._shared.outbox_runs.remove(old.no, old.sent_upto + 1, MAX_SEQ)
        for seq, record in _numbered(pieces):
            head = _head_or_none(record)
            if head is None:
                self._leave(old, [Piece(seq, seq, 0, len(record), True, [])])
                ended = EndedAs(Outcome.EXHAUSTED, "damaged", 0, 0, self._shared.now.store_us)
                self._put_outcome(old, seq, seq, ended, [])
                continue
            self._renumber_one(old, seq, new, head, record)
        old.next_seq = old.sent_upto + 1
        old.ended_unsent = 0
        new.doubt_upto = new.next_seq - 1
        self._shared.touch(old)
        self._shared.touch(new)
        return sum(piece.messages for piece in pieces)

    def _renumber_one(self, old: OutLane, seq: int, new: OutLane, head: MessageHead, record: bytes) -> None:
        """The message keeps the id that its sender was told, so the id is written into it from now on."""
        journal = self._shared.journal
        message_id = head.meta.id or f"{old.id:016x}-{seq}"
        meta = encode_meta(head.meta._replace(id=message_id))
        body = record[head.body_at : -CHECK_BYTES]
        moved = encode_messages([body], head.sent_at_us, head.deadline_us, meta)[0]
        new_seq = new.append([moved])
        self._shared.outbox_runs.put(new.no, new_seq, [moved])
        self._shared.ledger.outbox_bytes += len(moved) - len(record)
        id_key = tables.named(tables.ID, message_id)
        known = journal.get(id_key)
        digest = msgpack.unpackb(known)[2] if known is not None else b""
        journal.put(id_key, pack([new.no, new_seq, digest]))
        if head.deadline_us:
            journal.delete(tables.out_deadline_key(tables.OUT_DEADLINE, head.deadline_us, old.no, seq))
        if head.deadline_us or self._shared.options.give_up_after_s is not None:
            self._index_deadlines(new, new_seq, 1, head.deadline_us)
        self._shared.effects.notices.append(Moved(old.no, seq, new.no, new_seq))


def _head_or_none(record: bytes) -> MessageHead | None:
    """The head of a record of the own outbox; None if it was damaged on disk."""
    try:
        return decode_head(record)
    except BadRecord:
        return None


def _numbered(pieces: list[Piece]) -> Iterator[tuple[int, bytes]]:
    """Number and record of each message."""
    return ((seq, record) for piece in pieces for seq, record in enumerate(piece.records, piece.first))


def _joined(pieces: list[Piece]) -> list[Range]:
    """The numbers of the pieces, neighbours together."""
    ranges: list[Range] = []
    for piece in pieces:
        if ranges and ranges[-1][1] + 1 == piece.first:
            ranges[-1] = ranges[-1][0], piece.last
        else:
            ranges.append((piece.first, piece.last))
    return ranges


def _split_at(first: int, last: int, doubt_upto: int) -> Iterator[tuple[int, int, bool]]:
    """The range as its part in doubt and the rest."""
    if first <= doubt_upto:
        yield first, min(last, doubt_upto), True
    if last > doubt_upto:
        yield max(first, doubt_upto + 1), last, False


_NEVER_HANDED_OVER = (Outcome.RECALLED, Outcome.EXPIRED, Outcome.EXHAUSTED)
"""Outcomes that say so, unless there is a time of hand-over."""
