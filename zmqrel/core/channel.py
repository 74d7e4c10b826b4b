"""One remote peer: its lanes both ways, and what frames of its sessions mean.

The path of a message through here: `activate` -> `transmit` (window, credit, sent_upto) -> DATA -> `on_data` at the
other side (floor) -> inbox; its ACK -> `on_ack`; its settlement comes as an entry of the other's control lane.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgpack

from zmqrel.checks import is_name
from zmqrel.core import frames
from zmqrel.core.effects import Received, Resent, Sent
from zmqrel.core.entries import (
    FRAMING_BYTES,
    LARGEST_CONTROL,
    LARGEST_META_BYTES,
    MOST_IN_WITHDRAW,
    ControlEntry,
    Deny,
    Notice,
    Settle,
    Settled,
    Withdraw,
    decode_control,
    encode_control,
    pack,
)
from zmqrel.core.frames import BadFrame, Data, Frame, Heard, Info, LaneAck, LaneInfo
from zmqrel.core.healing import Healing
from zmqrel.core.lane import CONTROL, DATA, DELAYED, MOST_UNFLUSHED, Flight, InLane, OutLane
from zmqrel.core.limits import (
    ENTRY_COST,
    FRAME_COST,
    GRANT_COST,
    LANE_COST,
    MOST_CHARGED,
    MOST_LANES,
    MOST_TOMBSTONES,
    MOST_UNHEARD,
    PING_COST,
    SESSION_COST,
    STATE_COST,
    VOID_COST,
    WINDOW_BYTES,
    new_allowance,
)
from zmqrel.core.memory import Memory
from zmqrel.core.offset import ClockOffset
from zmqrel.core.session import Session, Sessions
from zmqrel.core.shared import Shared
from zmqrel.core.transitions import Event, outcome_of, stage_at_sender
from zmqrel.core.transmit import Batch, Untransportable, next_batch
from zmqrel.retry import Retry, Rng

if TYPE_CHECKING:
    from zmqrel.core.inbox import Inbox
    from zmqrel.core.outbox import Outbox

_LEAST_RESEND_US = 100_000
"""Added to the backoff's first steps: a connection delivers in order, so this timer only matters after a loss that
the transport did not notice, and full jitter alone would now and then resend a whole window after a millisecond."""
_LEAST_GAP_US = 5_000
_MOST_ACK_DELAY_US = 20_000
"""How long the acknowledgement of control entries waits for frames to travel with, far less than a resend does."""
_ABOUT_A_BODY = FRAMING_BYTES + LARGEST_META_BYTES
_SLOWEST_BYTES_PER_S = 256 << 10
"""What is on the wire beyond a usual window may take so long to be received, before it is sent again for nothing."""
_MOST_HELD_BACK = 8
"""Intervals in a row after which it is sent again though the link is still busy: it may be busy with other things, and
who did not take it need not have said so."""


def resend_wait_us(resend: Retry, attempt: int, ack_us: int, rng: Rng) -> int:
    """How long after transmission `attempt` (the first is 1) the next one follows, if nothing is acknowledged.

    `ack_us` is how long an acknowledgement takes.
    """
    return _LEAST_RESEND_US + 4 * ack_us + _backoff_us(resend, attempt, rng)


def _backoff_us(resend: Retry, attempt: int, rng: Rng) -> int:
    return int((resend.delay(attempt, rng) or 0.0) * 1e6)


class Channel:
    """See the module. What `encode` writes is durable, the rest belongs to this run."""

    def __init__(
        self, shared: Shared, outbox: Outbox, inbox: Inbox, name: str, no: int, wake: Callable[[Channel], None]
    ) -> None:
        self._shared = shared
        self._outbox = outbox
        self._inbox = inbox
        self._wake = wake
        self.name = name
        self.no = no
        self.endpoint: str | None = None
        self.listed = False
        """Named in `peers`, or connected to by the application."""
        self.their_store = 0
        self.their_instance = 0
        self.their_count = 0
        self.clock = ClockOffset()
        self.allowance = new_allowance(shared.options.window_bytes)
        self.memory = Memory.KEPT
        self.healing = Healing(shared, self, outbox, inbox)
        self.sessions = Sessions(shared, name, self.clock, self._info, self._begin, self._session_ended)
        self.out: dict[tuple[int, str], OutLane] = {}
        """Open lanes by kind and queue."""
        self.own: dict[int, OutLane] = {}
        """All lanes to this peer by id, closed ones too."""
        self.theirs: dict[int, InLane] = {}
        """Lanes from this peer's present store, by id."""
        self._ready: dict[OutLane, None] = {}
        """Lanes that may have something to transmit, in turn."""
        self._flying: dict[OutLane, None] = {}
        """Lanes that have something on the wire, and perhaps some that had."""
        self._acks: dict[InLane, None] = {}
        self._later_acks: dict[InLane, None] = {}
        """Those that may wait for company."""
        self._next_deadline_us: int | None = None

    # ------------------------------------------------------------------------------------------ durable part

    def encode(self) -> bytes:
        """The row of table PEER."""
        row = [self.no, self.their_store, self.their_instance, self.their_count, self.clock.offset_us]
        return pack([*row, self.memory.value, *self.healing.fields()])

    def load(self, data: bytes) -> None:
        """Take the row of table PEER."""
        fields: list[Any] = msgpack.unpackb(data)
        self.no, self.their_store, self.their_instance, self.their_count, self.clock.offset_us = fields[:5]
        self.memory = Memory(fields[5])
        self.healing.load(fields[6:])

    def forget(self) -> None:
        """Nothing is known of the peer any more, but what its messages in the inbox need: its number and its clock."""
        for lanes in (self.own, self.out, self.theirs, self._ready, self._flying, self._acks, self._later_acks):
            lanes.clear()
        self.their_store = self.their_instance = self.their_count = 0
        self.healing = Healing(self._shared, self, self._outbox, self._inbox)
        self.memory = Memory.LEFTOVERS
        self.clock.forget_samples()
        if self.clock.offset_us is None:
            self.clock.offset_us = 0  # it will never be known: deadlines are judged by the own clock
        self._arm_deadline()

    @property
    def awaits_state(self) -> bool:
        """This store is an old copy: nothing from this peer is handed over until its STATE is here."""
        return self.healing.awaits_state

    # ------------------------------------------------------------------------------------------------ lanes

    def lane_for(self, queue: str, kind: int) -> OutLane:
        """The open lane of that queue, made if need be."""
        lane = self.out.get((kind, queue))
        if lane is None:
            lane = OutLane(self._shared.new_lane_no(), self.name, kind, self._shared.random_id(), queue)
            self.adopt_out(lane)
            self._shared.touch(lane)
        return lane

    def adopt_out(self, lane: OutLane) -> None:
        """A lane of ours, from the store or new."""
        self._shared.out_lanes[lane.no] = lane
        if lane.over:
            return
        self.own[lane.id] = lane
        if self._shared.options.durability == "relaxed":
            # How much of what it sent before is flushed is not known here: it goes on with the next flush.
            lane.sendable_upto = lane.sent_upto or MOST_UNFLUSHED
            self._shared.unflushed[lane] = None
        if not lane.closed:
            self.out[(lane.kind, lane.queue)] = lane

    def adopt_in(self, lane: InLane) -> None:
        """A lane of theirs, from the store or new."""
        self._shared.in_lanes[lane.no] = lane
        if lane.store_id == self.their_store and not lane.is_orphan:
            self.theirs[lane.id] = lane
        self._inbox.adopt_lane(lane)

    def own_lane(self, lane_id: int) -> OutLane | None:
        """The lane of ours with that id."""
        return self.own.get(lane_id)

    def their_lane(self, lane_id: int, kind: int, queue: str) -> InLane:
        """The lane of theirs with that id, made known if it was not. Raises BadFrame if it is told differently."""
        lane = self.theirs.get(lane_id)
        if lane is None:
            if kind not in (CONTROL, DATA, DELAYED) or not (is_name(queue) if kind != CONTROL else not queue):
                raise BadFrame(f"a lane of kind {kind} for queue {queue[:64]!r}")
            if len(self.theirs) >= MOST_LANES:
                raise BadFrame(f"more than {MOST_LANES} lanes")
            self._shared.wasted += LANE_COST
            lane = InLane(self._shared.new_lane_no(), self.name, self.their_store, kind, lane_id, queue)
            self.adopt_in(lane)
            self._shared.touch(lane)
        if (lane.kind, lane.queue) != (kind, queue):
            raise BadFrame(f"lane {lane_id:016x} is of another kind or queue")
        return lane

    def hears(self, lane: InLane) -> bool:
        """True if the sender of this lane can be told anything now; a session begins with all that it must know."""
        return bool(self.sessions.open) and lane.store_id == self.their_store

    @property
    def has_untold(self) -> bool:
        """True if there is a session and entries of a control lane that the peer has not acknowledged."""
        if not self.sessions.open:
            return False
        return any(lane.kind == CONTROL and lane.acked < lane.next_seq - 1 for lane in self.own.values())

    def append_control(self, entry: ControlEntry) -> OutLane:
        """Add an entry to the control lane. Returns the lane; the entry is its last."""
        lane = self.lane_for("", CONTROL)
        record = encode_control(entry)
        first = lane.append([record])
        self._shared.outbox_runs.put(lane.no, first, [record], plain=True)
        if isinstance(entry, Settle) and self._shared.options.durability == "relaxed" and lane.hold_after is None:
            lane.hold_after = first - 1
            self._shared.unflushed[lane] = None
        self._shared.touch(lane)
        self.activate(lane)
        return lane

    def activate(self, lane: OutLane) -> None:
        """The lane may have something to transmit."""
        self._ready[lane] = None
        self._wake(self)

    # --------------------------------------------------------------------------------------------- sessions

    def _info(self, store_id: int) -> Info:
        """What a handshake with this store of theirs says."""
        heard = Heard(self.their_store, self.their_instance, self.their_count) if self.their_instance else None
        if store_id != self.their_store and self.healing.had_gone(store_id):
            # It came back after another: it is to know before it sends anything that it cannot be the newest.
            heard = Heard(store_id, 0, 0)
        options = self._shared.options
        lanes = [self._lane_info(lane) for lane in self.own.values() if not self._is_through(lane)]
        return Info(
            heard,
            options.max_body_bytes + _ABOUT_A_BODY,
            self.healing.i_am_old,
            self.healing.you_are_old,
            [(lane.id, lane.floor) for lane in self.theirs.values() if not lane.closed],
            lanes,
        )

    def _is_through(self, lane: OutLane) -> bool:
        """True of a closed lane of which everything was received and is final."""
        return lane.closed and lane.acked >= lane.sent_upto and self._outbox.lowest(lane) > lane.sent_upto

    def _lane_info(self, lane: OutLane) -> LaneInfo:
        lowest = self._outbox.lowest(lane)
        return LaneInfo(lane.id, lane.kind, lane.queue, lane.closed, lowest, lane.next_seq, lane.doubt_upto)

    def _begin(self, session: Session, info: Info, count: int) -> bool:
        """A session begins: judge what the other says of the past, then start every lane from its floor."""
        stale = self.healing.is_late(session, count)
        self._shared.wasted += SESSION_COST
        if not self.healing.judge(session, info, count):
            return False
        floors = dict(info.floors)
        for lane in self.own.values():
            floor = min(floors.get(lane.id, 0), lane.sent_upto)
            if stale or len(self.sessions.open) > 1:
                floor = max(floor, lane.acked)
            lane.begin_session(floor)
            self._acknowledged(lane)
            self.activate(lane)
        for told in info.lanes:
            self._take_lane_info(told)
        if not stale:
            self.healing.close_unnamed({told.lane_id for told in info.lanes})
        self._inbox.claims.rewind_passed()
        self._wake(self)
        return True

    def _take_lane_info(self, told: LaneInfo) -> None:
        try:
            lane = self.their_lane(told.lane_id, told.kind, told.queue)
        except BadFrame as error:
            self._shared.event("malformed", self.name, str(error))
            return
        self._inbox.skip_to(lane, told.lowest - 1)
        if lane.closed:
            lane.closed = False  # an old copy knows it again
            self._shared.touch(lane)
        if told.doubt_upto > lane.doubt_upto:
            lane.doubt_upto = told.doubt_upto
            self._shared.touch(lane)
        self._acks[lane] = None

    def _session_ended(self) -> None:
        """What was on that link may be lost: the remaining session, if any, resends it."""
        for lane in self.own.values():
            if lane.flight:
                lane.rewind(lane.acked)
                self.activate(lane)

    # ----------------------------------------------------------------------------------------------- frames

    def on_frame(self, session: Session, frame: Frame) -> None:
        """A frame of an open session. Raises BadFrame or BadRecord if it makes no sense."""
        self.sessions.heard(session)
        if session.instance != self.their_instance:
            self.healing.opened(session.instance, frame.commits)
        elif frame.commits > self.their_count:
            self.their_count = frame.commits
            self._shared.stale_peers[self.name] = self
        if not self.healing.known_there and (session.dialled or frame.type == frames.PONG):
            # The binder speaks once it has adopted the session; a PONG shows that its connector has heard of that.
            self.healing.be_known()
            self._wake(self)
        if frame.type == frames.DATA:
            self._on_data(frame.fields[0], frame.payload)
        elif frame.type == frames.ACK:
            for ack in frame.fields[0]:
                self._on_ack(ack)
        elif frame.type == frames.PING:
            self._shared.wasted += PING_COST
            self.sessions.on_ping(session, frame.fields[0])
        elif frame.type == frames.PONG:
            self._on_pong(*frame.fields)

    def _on_pong(self, echoed_us: int, received_there_us: int, sent_there_us: int) -> None:
        self._shared.wasted += FRAME_COST
        known = self.clock.offset_us is not None
        self.sessions.read_clock(echoed_us, received_there_us, sent_there_us)
        self._shared.stale_peers[self.name] = self
        if not known:
            self._inbox.claims.rewind_passed()
        self._arm_deadline()

    def _on_data(self, data: Data, payload: bytes) -> None:
        records = frames.unpack_records(data.sizes, payload)
        if len(payload) > self._largest(data.kind):
            self._check_sizes(data.kind, records)
        else:
            self._shared.wasted += 0 if records else VOID_COST
        lane = self.their_lane(data.lane_id, data.kind, data.queue)
        if data.doubt_upto > lane.doubt_upto:
            lane.doubt_upto = data.doubt_upto
            self._shared.touch(lane)
        if lane.kind == CONTROL and data.first_seq == lane.floor + 1 and self._is_sending():
            self._ack_later(lane)
        else:
            self.ack(lane)
        if data.first_seq > lane.floor + 1:
            lane.gap = True
            self._shared.counters["gaps"] += 1
            self._shared.wasted += FRAME_COST
            return
        last = data.first_seq + sum(map(abs, data.runs)) - 1
        if last <= lane.floor:
            self._shared.counters["duplicate_batches"] += 1
            self._shared.wasted += FRAME_COST
            return
        if lane.kind == CONTROL:
            self._take_control(lane, data, records)
        elif self._shared.accepting and not self._is_unheard():
            self._inbox.accept(lane, data.first_seq, data.runs, records)
        else:
            lane.gap = True
            self._shared.wasted += FRAME_COST

    def _largest(self, kind: int) -> int:
        """Bytes of the largest entry that is taken, as the handshake says it."""
        return LARGEST_CONTROL if kind == CONTROL else self._shared.options.max_body_bytes + _ABOUT_A_BODY

    def _check_sizes(self, kind: int, records: list[bytes]) -> None:
        largest = self._largest(kind)
        if kind == CONTROL or max(map(len, records)) > largest:
            raise BadFrame(f"an entry of more than {largest} bytes, or more control entries than so much")

    def _is_unheard(self) -> bool:
        """Whether the peer does not acknowledge what is settled: it is to take that before there is more of it."""
        control = self.out.get((CONTROL, ""))
        if control is None or control.next_seq - 1 - control.acked <= MOST_UNHEARD:
            return False
        self._shared.event("limited", self.name, f"{MOST_UNHEARD} control entries are not acknowledged")
        return True

    def _take_control(self, lane: InLane, data: Data, records: list[bytes]) -> None:
        # All or none: an entry that makes no sense must not leave those before it applied and unacknowledged.
        entries = [decode_control(record) for record in records]
        for entry in entries:
            if isinstance(entry, Withdraw):
                self._check_withdraw(entry)
        seq = data.first_seq
        taken = iter(entries)
        for run in data.runs:
            if run < 0:
                seq -= run
                continue
            for _ in range(run):
                entry = next(taken)
                if seq > lane.floor:
                    if self._must_wait(entry):
                        lane.gap = True
                        self._raise_floor(lane, seq - 1)
                        return
                    self._take_entry(entry)
                seq += 1
        self._raise_floor(lane, seq - 1)

    def _raise_floor(self, lane: InLane, floor: int) -> None:
        if floor > lane.floor:
            lane.floor = floor
            self._shared.touch(lane)

    def _must_wait(self, entry: ControlEntry) -> bool:
        """Whether an entry is not to be taken yet: it comes again."""
        if self._shared.wasted > self.allowance.left(self._shared.now.mono_us):
            return True
        if not isinstance(entry, Withdraw) or self._inbox.tombstones_of[self.name] < MOST_TOMBSTONES:
            return False
        self._shared.event("limited", self.name, f"{MOST_TOMBSTONES} messages were withdrawn that have not come")
        return True

    def _take_entry(self, entry: ControlEntry) -> None:
        if isinstance(entry, Settle):
            idle = self._outbox.settle(self, entry)
            self._shared.wasted += ENTRY_COST * idle + (FRAME_COST if idle == len(entry.ranges) else 0)
        elif isinstance(entry, Withdraw):
            self._take_withdraw(entry)
        elif isinstance(entry, Notice):
            if not self._outbox.notice(self, entry):
                self._shared.wasted += FRAME_COST
        elif isinstance(entry, Deny):
            if not self._outbox.denied(self, entry):
                self._shared.wasted += FRAME_COST
        else:
            self._shared.wasted += FRAME_COST + STATE_COST * entry.things
            self.healing.take_state(entry)

    def _check_withdraw(self, entry: Withdraw) -> None:
        if entry.kind not in (DATA, DELAYED) or sum(b - a + 1 for a, b in entry.ranges) > MOST_IN_WITHDRAW:
            raise BadFrame(f"a WITHDRAW names at most {MOST_IN_WITHDRAW} messages of a data lane")
        known = self.theirs.get(entry.lane_id)
        if not is_name(entry.queue) or (known is not None and (known.kind, known.queue) != (entry.kind, entry.queue)):
            raise BadFrame(f"lane {entry.lane_id:016x} is of another kind or queue")

    def _take_withdraw(self, entry: Withdraw) -> None:
        if entry.store_id != self.their_store:
            self._shared.wasted += FRAME_COST
            return
        lane = self.their_lane(entry.lane_id, entry.kind, entry.queue)
        taken_out, entombed = self._inbox.withdraw(lane, entry.ranges, entry.cause)
        self._shared.wasted += ENTRY_COST * entombed + (0 if taken_out or entombed else FRAME_COST)

    # --------------------------------------------------------------------------------------- acknowledgement

    def _on_ack(self, ack: LaneAck) -> None:
        lane = self.own.get(ack.lane_id)
        if lane is not None and lane.closed:
            ack = ack._replace(floor=min(ack.floor, lane.sent_upto))  # beyond the boundary is what a lost life sent
        if lane is None or ack.floor > lane.sent_upto:
            self._shared.counters["stale_acks"] += 1
            self._shared.wasted += FRAME_COST
            return
        now_us = self._shared.now.mono_us
        if lane.take_ack(ack.floor, now_us):
            self._set_resend(lane)
            self._acknowledged(lane)
        else:
            is_grant = (ack.grant_seq, ack.grant_bytes) != (lane.grant_seq, lane.grant_bytes)
            self._shared.wasted += GRANT_COST if is_grant else FRAME_COST
        if ack.floor >= lane.acked:
            if lane.flight and lane.rewound_to == lane.acked and lane.grant_seq <= lane.acked < ack.grant_seq:
                # What is on the wire was refused before for want of room, and sent again without credit: there is room
                # only now, and that transmission may have come before it.
                lane.rewind(lane.acked)
            lane.grant_seq, lane.grant_bytes = ack.grant_seq, ack.grant_bytes
            lane.parked = False
        if ack.gap and ack.floor == lane.acked and self._may_rewind(lane):
            # What was sent again from here was not taken again: there is no room for it, or no luck.
            lane.parked = lane.rewound_to == ack.floor
            lane.rewound_at_us, lane.rewound_to = now_us, ack.floor
            self._shared.wasted += FRAME_COST + min(MOST_CHARGED, lane.flight_bytes)
            lane.rewind(ack.floor)
            self._shared.counters["resent_gaps"] += 1
        if lane.cursor <= lane.last_sendable:
            self.activate(lane)

    def _may_rewind(self, lane: OutLane) -> bool:
        """A gap is answered once per round trip: batches sent before the answer report it again."""
        if lane.rewound_to != lane.acked:
            return True
        round_trip_us = 2 * (self.clock.error_us or 0)
        return self._shared.now.mono_us - lane.rewound_at_us > max(_LEAST_GAP_US, 2 * round_trip_us)

    def _acknowledged(self, lane: OutLane) -> None:
        """The receiver's floor of a lane is news."""
        self._shared.touch_lazily(lane)
        if lane.kind == CONTROL:
            self.healing.control_acknowledged(lane)
        else:
            self._shared.effects.notices.append(Received(lane.no, lane.acked))
        if lane.closed and lane.acked >= lane.sent_upto:
            for other in self.own.values():
                if other.after == lane.no:
                    self.activate(other)

    def ack(self, lane: InLane) -> None:
        """Tell floor and grant of a lane at the end of this turn."""
        self._acks[lane] = None
        self._wake(self)

    def _is_sending(self) -> bool:
        """Whether messages are on the wire: then more frames will follow soon, if only those that their end brings."""
        return any(lane.flight and lane.kind != CONTROL for lane in self._flying)

    def _ack_later(self, lane: InLane) -> None:
        """Tell a floor with the next frames, or alone after a while: each message on the wire costs a turn there."""
        self._later_acks[lane] = None
        self._shared.timers.set_earlier(("acks", self.name), self._shared.now.mono_us + _MOST_ACK_DELAY_US)

    def acks_due(self) -> None:
        """Acknowledgements have waited for company long enough, or there is some."""
        if self._later_acks:
            self._acks |= self._later_acks
            self._later_acks.clear()
            self._shared.timers.cancel(("acks", self.name))
            self._wake(self)

    # ------------------------------------------------------------------------------------------ transmission

    def transmit(self) -> None:
        """Send what may leave now, within window and credit, lane by lane in turn."""
        session = self.sessions.preferred()
        if session is None:
            self._acks.clear()  # the next session begins with floors
            self._later_acks.clear()
            self._ready.clear()  # and activates every lane
            return
        if self._acks or self._ready:
            self.acks_due()
        self._send_acks(session)
        if not self.healing.known_there:
            return
        window_bytes = self._shared.options.window_bytes
        waiting = self._ready
        if not waiting:
            return
        used_bytes = self._flying_bytes()
        while waiting:
            self._ready = {}
            for lane in sorted(waiting, key=_control_first) if len(waiting) > 1 else waiting:
                # Control entries have a window of their own, so that a recall overtakes any backlog.
                room = window_bytes - (lane.flight_bytes if lane.kind == CONTROL else used_bytes)
                sent = self._transmit_lane(session, lane, room)
                if sent:
                    used_bytes += sent if lane.kind != CONTROL else 0
                    if lane.cursor <= lane.last_sendable:
                        self._ready[lane] = None
            waiting = self._ready
        self._ready = {}

    def _flying_bytes(self) -> int:
        """What is on the wire unacknowledged; lanes of which nothing is are not asked again."""
        if self._flying:
            self._flying = {lane: None for lane in self._flying if lane.flight}
        return sum([lane.flight_bytes for lane in self._flying])

    def _transmit_lane(self, session: Session, lane: OutLane, room: int) -> int:
        """One batch of a lane. Returns its bytes, or 1 for a batch of voids; 0 if nothing left."""
        if lane.after and not self._is_released(lane):
            return 0
        if lane.parked:
            self._arm_resend(lane)
            return 0
        if room <= 0 and (lane.flight or lane.kind != CONTROL) and not self._may_probe(lane):
            return 0
        largest = session.largest_entry if lane.kind != CONTROL else LARGEST_CONTROL
        batch = self._next_batch(lane, room, largest)
        if batch is None:
            self._arm_resend(lane)
            return 0
        if batch.last > lane.sent_upto:
            lane.transmitted(batch.last, batch.records_above(lane.sent_upto))
            if lane.sendable_upto is not None:
                self._shared.unflushed[lane] = None
            self._shared.touch(lane)
            if lane.kind != CONTROL:
                self._shared.effects.notices.append(Sent(lane.no, batch.last))
        else:
            self._shared.counters["resent"] += len(batch.records)
            if lane.kind != CONTROL and batch.records:
                self._shared.effects.notices.append(Resent(lane.no, batch.first, batch.last))
        lane.cursor = batch.last + 1
        self._flying[lane] = None
        lane.flight.append(Flight(batch.last, batch.size, self._shared.now.mono_us))
        lane.flight_bytes += batch.size
        self._shared.counters["sent"] += len(batch.records) if lane.kind != CONTROL else 0
        self._arm_resend(lane)
        head = frames.header(
            frames.DATA, session.id, self._shared.ledger.instance,
            lane.id, lane.kind, lane.queue, lane.doubt_upto, batch.first, batch.runs,
            frames.pack_sizes(batch.records),
        )  # fmt: skip
        self._shared.frames.append((session.link, head, batch.records))
        return batch.size or 1

    @staticmethod
    def _may_probe(lane: OutLane) -> bool:
        """The window always admits one entry when nothing of the lane is unacknowledged."""
        return not lane.flight

    def _is_released(self, lane: OutLane) -> bool:
        closed = self._shared.out_lanes.get(lane.after)
        if closed is None or closed.acked >= closed.sent_upto:
            lane.after = 0
            self._shared.touch(lane)
            return True
        return False

    def _next_batch(self, lane: OutLane, room: int, largest_entry: int) -> Batch | None:
        while True:
            try:
                return next_batch(lane, self._shared.outbox_runs, room, largest_entry)
            except Untransportable as entry:
                self._give_up(lane, entry, largest_entry)

    def _give_up(self, lane: OutLane, entry: Untransportable, largest_entry: int) -> None:
        """End a message that cannot be sent; it goes as a VOID from now on (F8, F14)."""
        if lane.kind == CONTROL:
            self._shared.outbox_runs.discard(lane.no, entry.seq, entry.seq)
            lane.forget_tail()
            self._shared.event("damaged", self.name, f"control entry {entry.seq}")
            # What it said is not known: STATE makes up for a settlement, this for a withdrawal.
            for own in self.own.values():
                self._outbox.append_again(own)
            self.healing.send_state()
            return
        if entry.damaged:
            self._outbox.end_damaged(lane, entry.seq)
        else:
            reason = f"{entry.size} bytes, but the peer takes {largest_entry}"
            now_us = self._shared.now.store_us
            outcome = outcome_of(stage_at_sender(entry.seq, lane.sent_upto), Event.TOO_LARGE)
            self._outbox.end(lane, Settled(entry.seq, entry.seq, outcome, reason, 0, 0, now_us, False))
        lane.forget_tail()

    def _send_acks(self, session: Session) -> None:
        if not self._acks:
            return
        acks = []
        for lane in self._acks:
            seq, size = (0, 0) if lane.kind == CONTROL else self._inbox.credit.grant(lane)
            acks.append([lane.id, lane.floor, seq, size, lane.gap])
            lane.gap = False
        self._acks.clear()
        head = frames.header(frames.ACK, session.id, self._shared.ledger.instance, acks)
        self._shared.frames.append((session.link, head, None))

    # ----------------------------------------------------------------------------------------------- timers

    def _arm_resend(self, lane: OutLane) -> None:
        """Make sure that what is unacknowledged, or waits for credit, is looked at again."""
        if not self._shared.timers.is_set(("resend", lane.no)):
            self._set_resend(lane)

    def _set_resend(self, lane: OutLane) -> None:
        """Look at it again after an interval without news, but at nothing for which there is no need."""
        if lane.flight or lane.cursor <= lane.last_sendable:
            self._shared.timers.set(("resend", lane.no), self._shared.now.mono_us + self._resend_wait_us(lane))
        else:
            self._shared.timers.cancel(("resend", lane.no))

    def _resend_wait_us(self, lane: OutLane) -> int:
        """As `resend_wait_us`. Nearly always the acknowledgement comes first: then the backoff serves the next time."""
        if lane.backoff_us is None:
            lane.backoff_us = _backoff_us(self._shared.options.resend, lane.resend_attempt + 1, self._shared.rng)
        wait_us = _LEAST_RESEND_US + 4 * lane.ack_us + lane.backoff_us
        # No acknowledgement comes before the bodies that other lanes have on the wire did.
        beyond = self._flying_bytes() - WINDOW_BYTES
        return wait_us if beyond <= 0 else wait_us + beyond * 1_000_000 // _SLOWEST_BYTES_PER_S

    def resend_due(self, lane: OutLane) -> None:
        """Nothing was acknowledged for one interval: send again from the floor."""
        if not lane.flight and lane.cursor > lane.last_sendable:
            return
        lane.resend_attempt += 1
        lane.backoff_us = None
        if lane.flight and lane.resend_attempt <= _MOST_HELD_BACK and self._is_link_busy():
            self._set_resend(lane)
            return
        if lane.flight:
            self._shared.counters["resend_timeouts"] += 1
        lane.rewind(lane.acked)
        lane.parked = False
        lane.grant_seq = max(lane.grant_seq, lane.acked)
        self.activate(lane)
        control = self.out.get((CONTROL, ""))
        if lane.withdrawn and control is not None and control.flight:
            # Its withdrawals may be lost too, and are to be there before it.
            control.rewind(control.acked)
            self.activate(control)

    def _is_link_busy(self) -> bool:
        """Whether the link is still busy with what was sent before: a copy would only stand behind it."""
        transport, session = self._shared.transport, self.sessions.preferred()
        return transport is not None and session is not None and transport.is_sending(session.link)

    def deadline_added(self, deadline_us: int) -> None:
        """A row of this peer has this deadline, by its clock."""
        if self._next_deadline_us is None or deadline_us < self._next_deadline_us:
            self._next_deadline_us = deadline_us
            self._arm_deadline()

    def judge_deadlines(self) -> None:
        """End the rows of this peer that are past their deadline."""
        theirs_us = self._their_now_us()
        if theirs_us is not None:
            self._inbox.judge(self.no, theirs_us)
        self._next_deadline_us = self._inbox.next_deadline_us(self.no)
        self._arm_deadline()

    def _their_now_us(self) -> int | None:
        offset_us = self.clock.offset_us
        return None if offset_us is None else self._shared.now.store_us + offset_us

    def _arm_deadline(self) -> None:
        if self._next_deadline_us is None:
            return
        local_us = self.clock.to_local(self._next_deadline_us)
        if local_us is not None:
            self._shared.clock_timers.set(("in_deadline", self.name), local_us + 1)


def _control_first(lane: OutLane) -> bool:
    return lane.kind != CONTROL
