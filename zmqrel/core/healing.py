"""Lost, replaced and rolled-back stores: how two peers find out, and what they do (F3, F5).

Detection, at the start of a session: every frame says its sender's life (instance) and commit count. The other tells
what it last heard of us; a life that we do not know, or that ended earlier by our own record, means that this store
is an old copy. So does a floor above what we sent. A floor below what was acknowledged before means that theirs is.
Another store id means that theirs is gone.

Healing: the old copy closes its lanes and both say in a STATE entry what they hold; see protocol.md for the reasons.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from zmqrel.core import tables
from zmqrel.core.entries import (
    MAX_SEQ,
    BadRecord,
    ControlEntry,
    Range,
    Settle,
    Settled,
    State,
    decode_control,
    to_ranges,
)
from zmqrel.core.frames import Heard, Info
from zmqrel.core.lane import CONTROL, OutLane
from zmqrel.core.limits import MOST_GONE_STORES, STORES_PER_HOUR, Bucket
from zmqrel.core.shared import Shared
from zmqrel.core.state import States
from zmqrel.outcome import Outcome

if TYPE_CHECKING:
    from zmqrel.core.channel import Channel
    from zmqrel.core.inbox import Inbox
    from zmqrel.core.outbox import Outbox
    from zmqrel.core.session import Session

_NUMBER = attrgetter("no")
_NEVER_KNOWN = (Outcome.RECALLED, Outcome.EXPIRED)


class Healing:
    """What one channel knows of lost lives. `fields` are durable."""

    def __init__(self, shared: Shared, channel: Channel, outbox: Outbox, inbox: Inbox) -> None:
        self._shared = shared
        self._channel = channel
        self._outbox = outbox
        self._inbox = inbox
        self._states = States(shared, outbox, inbox)
        self._stores = Bucket(STORES_PER_HOUR / 3600, STORES_PER_HOUR)
        self.i_am_old = False
        """This store is an old copy; said in every handshake until our STATE is acknowledged."""
        self.you_are_old = False
        """Theirs is; said likewise."""
        self.awaits_state = False
        self._state_lane = 0
        self._state_seq = 0
        """Where our STATE ends."""
        self._healed_instance = 0
        """The own life in which this store was last found to be an old copy by this peer."""
        self._last_told = (0, 0)
        """Instance and commit count of the newest handshake: an older one may come later, on the other link."""
        self._met = 0
        """The store of theirs that this life of ours compared notes with, not kept."""
        self._healed_them = 0
        """The life of theirs for which we last did our part."""
        self.known_there = False
        """Their store has committed that it knows this one, and says so in every handshake. Nothing is sent before: if
        it says so no more, it forgot, and what was sent is in doubt, though nothing of it was acknowledged."""

    def fields(self) -> list[Any]:
        """The durable part."""
        return [
            self.i_am_old, self.you_are_old, self.awaits_state, self._state_lane, self._state_seq,
            self._healed_instance, self._healed_them, self.known_there,
        ]  # fmt: skip

    def load(self, fields: list[Any]) -> None:
        """Take the durable part."""
        self.i_am_old, self.you_are_old, self.awaits_state, self._state_lane, self._state_seq = fields[:5]
        self._healed_instance, self._healed_them, self.known_there = fields[5:]

    def fall_behind(self) -> None:
        """A power cut took the last moments of the life before, in which this peer may have been spoken to.

        What that life may have sent is in doubt, and the peer is told that this store may be an old copy, so that what
        it sent is in doubt too. No lane is closed before the handshake shows that something is missing.
        """
        self.i_am_old = True
        self._state_lane = self._state_seq = 0
        for lane in self._data_lanes():
            lane.doubt_unflushed()
            self._shared.touch(lane)
        self._write_peer()

    def _data_lanes(self) -> list[OutLane]:
        """The own lanes, closed ones too, that carry messages."""
        return [lane for lane in self._channel.own.values() if lane.kind != CONTROL]

    # ---------------------------------------------------------------------------------------------- detection

    def judge(self, session: Session, info: Info, count: int) -> bool:
        """Compare what both sides know of the past. False if the session was ended to begin anew."""
        channel = self._channel
        came_back = channel.their_store != session.store_id and self.had_gone(session.store_id)
        if self._is_costly(session, info) and not self._stores.take_one(self._shared.now.mono_us):
            self._shared.event("limited", channel.name, f"more than {STORES_PER_HOUR} stores and old copies in an hour")
            channel.sessions.end(session, "too many stores")
            return False
        if channel.their_store not in (0, session.store_id):
            self._store_gone(session.store_id)
        # Until they heard a frame of a session (see `opened`), nothing of them is known but what they say now.
        first_contact = not channel.their_instance and not came_back
        new_life = channel.their_instance != session.instance
        overtaken = self._is_overtaken(session, count)
        knows_us = self._knows_us(info)
        forgot = self.known_there and not knows_us and (new_life or count > channel.their_count)
        fell = channel.their_store == session.store_id and not overtaken and self._floors_fell(info)
        # What was heard of a store before another took its place is not kept: one that comes back counts as old.
        they_are_old = info.i_am_old or came_back or (new_life and fell and knows_us)
        if knows_us and info.heard is not None and not info.heard.instance:
            # Another store had our place there: what was compared with this one, and what we told then, is forgotten.
            self._healed_them = 0
        if not overtaken:
            self._last_told = session.instance, count
        channel.their_store = self._met = session.store_id
        if not new_life:
            channel.their_count = max(count, channel.their_count)
        elif not session.dialled or came_back:
            channel.their_instance, channel.their_count = session.instance, count
        # Else OPEN is still to say what was heard of their earlier life, or that nothing was: see `opened`.
        if forgot:
            self._be_met_anew(session, info)
        if first_contact:
            self._doubt_orphans()
        self.known_there = knows_us or self.known_there
        self._write_peer()
        # Which lanes a peer that is met anew, or a late handshake, speaks of may have been forgotten.
        i_am_old = self._am_old(info, remembers=not (first_contact or overtaken))
        if i_am_old:
            self._heal_self()
        elif self.i_am_old and not self._state_lane:
            self.send_state()
        if they_are_old and self._healed_them != session.instance:
            self._heal_them(session.instance, told=info.i_am_old)
            # What they acknowledged in a life that is lost must not pass for known, whatever else is under way.
            self._take_floors(info)
        if i_am_old:
            # OPEN is still to say so. Whoever judged by a WELCOME of before, or is about to, learns it by another one.
            channel.sessions.end_all("this store is an old copy", spared=session if session.dialled else None)
        return channel.sessions.current(session.link, session.id) is session

    def is_late(self, session: Session, count: int) -> bool:
        """Whether a handshake tells less than what was heard since: it comes late, or another one overtook it."""
        channel = self._channel
        known_better = session.instance == channel.their_instance and count < channel.their_count
        return known_better or self._is_overtaken(session, count)

    def _is_overtaken(self, session: Session, count: int) -> bool:
        """Whether a later handshake came before it, on the other link."""
        instance, told_count = self._last_told
        return session.instance == instance and count < told_count

    def _is_costly(self, session: Session, info: Info) -> bool:
        """Whether it comes with another store, or may with an old copy: everything between the two is looked at."""
        channel = self._channel
        if channel.their_store != session.store_id:
            return channel.their_store != 0
        if self._floors_fell(info) or (self.known_there and not self._knows_us(info)):
            return True
        return info.i_am_old and session.instance != self._healed_them

    def _knows_us(self, info: Info) -> bool:
        return info.heard is not None and info.heard.store_id == self._shared.ledger.store_id

    def had_gone(self, store_id: int) -> bool:
        """True if lanes of this store of theirs were known before another took its place."""
        lanes = self._shared.in_lanes.values()
        return any(lane.peer == self._channel.name and lane.store_id == store_id for lane in lanes)

    def be_known(self) -> None:
        """The other has committed that it knows this store."""
        self.known_there = True
        self._write_peer()

    def opened(self, instance: int, count: int) -> None:
        """The other has adopted the session, so it knows by now what was heard of its earlier life."""
        self._channel.their_instance, self._channel.their_count = instance, count
        self._write_peer()

    def _am_old(self, info: Info, remembers: bool) -> bool:
        ledger = self._shared.ledger
        if self._healed_instance == ledger.instance:
            return False
        if info.heard is None or info.heard.store_id != ledger.store_id:
            # A new store of theirs, to which a lost life of ours may have named its lanes without a frame after that.
            return self._floors_above(info, remembers=False)
        # While our STATE is not acknowledged they may say it for the last time or for another: look for oneself then.
        told = info.you_are_old and not self.i_am_old
        return told or self._ended_before(info.heard) or self._floors_above(info, remembers)

    def _ended_before(self, heard: Heard) -> bool:
        """They heard of commits that this store does not know."""
        ledger = self._shared.ledger
        if heard.instance == ledger.instance:
            return heard.commits > ledger.commit_count
        ended = self._shared.journal.get(tables.numbered(tables.INSTANCE, heard.instance))
        return ended is None or int.from_bytes(ended, "big") < heard.commits

    def _floors_above(self, info: Info, remembers: bool) -> bool:
        """They received more than this store knows to have sent; on an unknown lane only if it `remembers` them all."""
        for lane_id, floor in info.floors:
            lane = self._channel.own_lane(lane_id)
            if floor and (remembers if lane is None else floor > lane.sent_upto and not lane.closed):
                return True
        return False

    def _floors_fell(self, info: Info) -> bool:
        """They acknowledged more than they know of now."""
        floors = dict(info.floors)
        return any(floors.get(lane.id, 0) < lane.acked for lane in self._channel.own.values() if not lane.closed)

    def _take_floors(self, info: Info) -> None:
        floors = dict(info.floors)
        for lane in self._channel.own.values():
            lane.acked = min(lane.acked, floors.get(lane.id, 0))

    # ------------------------------------------------------------------------------------- this store is old

    def _heal_self(self) -> None:
        channel, shared = self._channel, self._shared
        self._healed_instance = shared.ledger.instance
        at_risk = sum(_count(self._outbox.unsettled(lane, MAX_SEQ)) for lane in channel.own.values())
        for received in shared.in_lanes.values():  # those of an earlier store of theirs too
            if received.peer == channel.name:
                at_risk += received.count
                received.doubt_upto = max(received.doubt_upto, received.floor)
                shared.touch(received)
        for lane in list(channel.out.values()):
            self._close(lane)
        shared.event("old_copy", channel.name, f"this store is an old copy; {at_risk} messages are at risk")
        self.i_am_old = True
        self.awaits_state = True
        self._inbox.claims.recall_claims(channel.name)
        self.send_state()

    def _close(self, old: OutLane) -> None:
        """End a lane at its boundary; what lies above goes to a new one, so that no number has two bodies."""
        old.closed = True
        old.doubt_upto = max(old.doubt_upto, old.sent_upto)
        old.forget_tail()
        del self._channel.out[(old.kind, old.queue)]
        new = self._channel.lane_for(old.queue, old.kind)
        # A lane that never sent anything waits for another itself: so does its successor.
        new.after = old.after if old.after and not old.sent_upto else old.no
        if old.kind == CONTROL:
            self._renumber_control(old)
        else:
            self._outbox.renumber(old, new)
        self._shared.touch(old)
        self._channel.activate(old)
        self._channel.activate(new)

    def _renumber_control(self, old: OutLane) -> None:
        """Control entries not yet sent, with certainty taken out of their settlements."""
        pieces = self._shared.outbox_runs.remove(old.no, old.sent_upto + 1, MAX_SEQ)
        old.next_seq = old.sent_upto + 1
        for record in (record for piece in pieces for record in piece.records):
            try:
                entry = decode_control(record)
            except BadRecord:
                continue  # STATE follows and says what it said
            if not isinstance(entry, State):
                self._channel.append_control(_uncertain(entry))

    # ------------------------------------------------------------------------------------------ theirs is old

    def _heal_them(self, instance: int, told: bool) -> None:
        channel = self._channel
        self._healed_them = instance
        at_risk = self._doubt_what_was_sent()
        self._shared.event("peer_old_copy", channel.name, f"its store is an old copy; {at_risk} messages are at risk")
        self.you_are_old = not told
        self._withdraw_again()
        self.send_state()
        if not told:
            channel.sessions.end_all("your store is an old copy")

    def _withdraw_again(self) -> None:
        for lane in self._data_lanes():
            self._outbox.append_again(lane)

    def _doubt_what_was_sent(self) -> int:
        at_risk = 0
        for lane in self._data_lanes():
            at_risk += _count(self._outbox.unsettled(lane, lane.sent_upto))
            lane.doubt_upto = max(lane.doubt_upto, lane.sent_upto)
            self._shared.touch(lane)
        return at_risk

    # ------------------------------------------------------------------------------------- this peer is forgotten

    def _be_met_anew(self, session: Session, info: Info) -> None:
        """They were told to forget this peer: what was sent comes again, in doubt, as do the withdrawals in force.

        It is the same life of theirs, so its sessions of before are still open here: a late acknowledgement in one of
        them would say of what they have forgotten that they have it.
        """
        channel = self._channel
        self.known_there = False
        at_risk = self._doubt_what_was_sent()
        self._shared.event("peer_forgot", channel.name, f"it forgot this peer; {at_risk} messages are at risk")
        self._withdraw_again()
        self._take_floors(info)
        channel.sessions.end_all("this peer was forgotten since", spared=session)

    def _doubt_orphans(self) -> None:
        """What came from them before they were forgotten may come again, and be handed over before it."""
        for received in self._shared.in_lanes.values():
            if received.peer == self._channel.name and received.is_orphan and received.doubt_upto < received.floor:
                received.doubt_upto = received.floor
                self._shared.touch(received)

    # ----------------------------------------------------------------------------------------- theirs is gone

    def _store_gone(self, store_id: int) -> None:
        """Their store was replaced: what was sent is resent in doubt, or ends UNCERTAIN."""
        channel, shared = self._channel, self._shared
        at_risk = self._doubt_what_was_sent()
        shared.event("peer_store_gone", channel.name, f"it has a new store; {at_risk} messages are at risk")
        give_up = shared.options.on_store_loss == "uncertain"
        for lane in self._data_lanes():
            withdrawn = to_ranges(self._outbox.withdrawn_seqs(lane))
            lost = self._outbox.unsettled(lane, lane.sent_upto) if give_up else withdrawn
            self._end_uncertain(lane, lost, "store lost")
        if self._met != channel.their_store:
            # It never told this life whether it is an old copy. Should it come back, it may remember numbers that a
            # lost life of ours gave: what was not sent yet gets numbers that it cannot know.
            for lane in [lane for lane in channel.out.values() if lane.kind != CONTROL]:
                self._close(lane)
        for theirs in channel.theirs.values():
            self._inbox.drop_tombstones(theirs, 0)
            theirs.closed = True
            shared.touch(theirs)
        channel.theirs.clear()
        channel.clock.forget_samples()
        self.you_are_old = self.awaits_state = self.known_there = False
        # It may have met a lost life of ours that the one before it did not: that is to be found out once more.
        self._healed_instance = 0
        channel.their_instance = channel.their_count = 0
        self._forget_gone_stores()
        for theirs in shared.in_lanes.values():
            if theirs.peer == channel.name and theirs.store_id == store_id:
                channel.theirs[theirs.id] = theirs

    def _forget_gone_stores(self) -> None:
        """Of all but the latest, lanes that hold nothing."""
        own = [lane for lane in self._shared.in_lanes.values() if lane.peer == self._channel.name and lane.store_id]
        stores = list(dict.fromkeys(lane.store_id for lane in sorted(own, key=_NUMBER)))
        for lane in own:
            if lane.store_id in stores[:-MOST_GONE_STORES] and not lane.count:
                self._inbox.delete_lane(lane)

    def _end_uncertain(self, lane: OutLane, ranges: Iterable[Range], reason: str) -> None:
        now_us = self._shared.now.store_us
        for first, last in ranges:
            self._outbox.end(lane, Settled(first, last, Outcome.UNCERTAIN, reason, 0, 0, now_us, False))

    # -------------------------------------------------------------------------------------------------- STATE

    def send_state(self) -> None:
        """Append a STATE with everything held; it stands behind every SETTLE appended before it."""
        self._inbox.settlements.write()
        channel = self._channel
        received = [lane for lane in channel.theirs.values() if lane.kind != CONTROL]
        for part in self._states.tell(self._shared.ledger.store_id, channel.their_store, received, self._data_lanes()):
            lane = channel.append_control(part)
            lane.forget_tail()  # it may be many: they lie in the store, memory holds one
            self._state_lane, self._state_seq = lane.no, lane.next_seq - 1
        self._write_peer()

    def control_acknowledged(self, lane: OutLane) -> None:
        """Who is old need not be said any more once our STATE was received."""
        if lane.no == self._state_lane and lane.acked >= self._state_seq and (self.i_am_old or self.you_are_old):
            self.i_am_old = self.you_are_old = False
            self._write_peer()

    def take_state(self, part: State) -> None:
        """A part of what the other holds, after one of us lost memory."""
        if part.store_id != self._channel.their_store or part.peer_store_id != self._shared.ledger.store_id:
            return
        for received in part.received:
            lane = self._channel.own_lane(received.lane_id)
            if lane is not None:
                self._states.compare_sent(lane, received)
        for sent in part.sent:
            theirs = self._channel.theirs.get(sent.lane_id)
            if theirs is not None and theirs.kind != CONTROL:
                # Without this: a recall that is not permitted would only have to call itself a STATE.
                may_drop = self.awaits_state or self.i_am_old or self._inbox.may_recall(theirs)
                self._states.compare_received(theirs, sent, may_drop)
                self._shared.touch(theirs)
        if part.final:
            self._finish_state()

    def _finish_state(self) -> None:
        self._shared.counters["states"] += 1
        if self.awaits_state:
            self.awaits_state = False
            self._inbox.claims.rewind_passed()
        self._write_peer()

    def close_unnamed(self, named: set[int]) -> None:
        """Lanes that their sender does not name any more were made in a life that it lost, or are through."""
        for lane in self._channel.theirs.values():
            if lane.id not in named and not lane.closed:
                lane.closed = True
                lane.doubt_upto = max(lane.doubt_upto, lane.floor)
                self._inbox.drop_tombstones(lane, 0)
                self._shared.touch(lane)

    def _write_peer(self) -> None:
        self._shared.journal.put(tables.named(tables.PEER, self._channel.name), self._channel.encode())


def _count(ranges: Iterable[Range]) -> int:
    return sum(last - first + 1 for first, last in ranges)


def _uncertain(entry: ControlEntry) -> ControlEntry:
    """A settlement of an old copy that claims never to have handed over: the lost life may have."""
    if not isinstance(entry, Settle):
        return entry
    ranges = [
        r._replace(outcome=Outcome.UNCERTAIN, reason="old copy") if r.outcome in _NEVER_KNOWN else r
        for r in entry.ranges
    ]
    return entry._replace(ranges=ranges)
