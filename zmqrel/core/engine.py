"""The only door to the core: commands, frames, finished rows and time go in, Effects come out.

    begin(now) -> command / frame / dialled / link_down / finished, in any number and order -> finish() -> Effects

Everything of one turn is written into one open transaction, which the caller commits before it applies the effects
(see effects.py). If the commit fails the engine is thrown away and loaded anew: its memory is never ahead of the
store for longer than a turn. `next_wake_us` is a pure query.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqrel.core import commands as c
from zmqrel.core import frames, tables
from zmqrel.core.buffer import Acknowledged, Buffer, Finished
from zmqrel.core.channel import Channel
from zmqrel.core.dead import DeadLetters
from zmqrel.core.effects import Effects, Ended, HandedOver, ReceiptNotice
from zmqrel.core.entries import BadRecord
from zmqrel.core.forgetting import Forgetting
from zmqrel.core.frames import BadFrame
from zmqrel.core.inbox import Inbox
from zmqrel.core.journal import Journal
from zmqrel.core.lane import CONTROL, InLane, OutLane, decode_lane
from zmqrel.core.limits import (
    FRAME_COST,
    HELLO_COST,
    MOST_CHARGED,
    MOST_PEERS,
    Strangers,
    new_patience,
)
from zmqrel.core.listing import Listing
from zmqrel.core.memory import Memory
from zmqrel.core.outbox import Outbox
from zmqrel.core.overview import Overview, overview
from zmqrel.core.row import Row, is_overdue
from zmqrel.core.rows import Policy
from zmqrel.core.shared import Ledger, Shared
from zmqrel.core.stats import COUNTERS
from zmqrel.core.storage import InHand, Storage
from zmqrel.core.times import Now
from zmqrel.core.transport import Transport
from zmqrel.core.verification import Examined, examine
from zmqrel.errors import Error, StoreFull
from zmqrel.options import Options
from zmqrel.permissions import Permissions

if TYPE_CHECKING:
    from random import Random

_LAZY_US = 300_000
"""How long what is not worth a commit of its own waits for one."""
FLUSH_US = 50_000
"""Longest pause between flushes under "relaxed" durability; the promise is 100 ms."""


class Held(NamedTuple):
    """What may be told only after a flush."""

    notices: list[ReceiptNotice]
    replies: list[tuple[Any, Any]]


class Engine:
    """The core of one peer. Not thread-safe; one loop owns it."""

    def __init__(
        self,
        name: str,
        options: Options,
        rng: Random,
        random_id: Callable[[], int],
        store: Storage,
        now: Now,
        name_of: Callable[[int], str | None] | None = None,
        transport: Transport | None = None,
    ) -> None:
        """Open the core over a store in an open transaction; the caller commits what this writes.

        With keys, `name_of` tells who is at the other end of a link by the key of its connection, None if nobody that
        is known; without it whoever says HELLO is believed. Without `transport` only frames tell of connections.
        `now.store_us` is to be made from `read_clock`. Raises ConfigError if the store is another peer's.
        """
        journal = Journal(store)
        data = journal.get(tables.META)
        instance = random_id()
        self._ended_life: tuple[bytes, bytes] | None = None
        """The row about the life before, until it is written with the first commit: loading writes nothing, so that a
        full store can be loaded."""
        if data is None:
            ledger = Ledger(random_id(), instance)
        else:
            ledger = Ledger.decode(data)
            ended = tables.numbered(tables.INSTANCE, ledger.instance)
            self._ended_life = ended, ledger.commit_count.to_bytes(8, "big")
            ledger.instance = instance
        ledger.take_name(name)
        self.shared = Shared(name, options, rng, random_id, journal, ledger, now, transport)
        given = options.permissions
        # What a file says is told by who reads it; until then nothing is permitted.
        self.permit(given if given is None or isinstance(given, Permissions) else Permissions())
        self._name_of = name_of
        self._wall_us = 0
        self.channels: dict[str, Channel] = {}
        self._links: dict[int, Channel] = {}
        self._strangers = Strangers()
        self._patience = new_patience(options.window_bytes)
        """With those who go on though nothing of it is read, by peer or link."""
        self._busy: dict[Channel, None] = {}
        self._byes: set[int] = set()
        self._fresh = Held([], [])
        """Of the last turn, whose commit may fail yet."""
        self._held = Held([], [])
        self._released = Held([], [])
        self._telling = Held([], [])
        """What this turn tells once it is committed."""
        self._counted: dict[str, int] = {}
        """The counters before this turn, for the case that its commit fails."""
        self._unflushed = False
        self._flushed_us = now.mono_us
        self._dead = DeadLetters(self.shared)
        self._inbox = Inbox(self.shared, self._dead, self.channels)
        self._outbox = Outbox(self.shared, self._dead, self.channels, self._inbox.add_local)
        self._forgetting = Forgetting(self.shared, self.channels, self._outbox, self._inbox, self._connect)
        self._listing = Listing(self.shared, self._inbox.rows, self.found)
        self._obeys: dict[type[c.Command], Callable[[Any], Any]] = {
            c.Send: self._outbox.send,
            c.FindRepeated: lambda command: self._outbox.earlier(command.send),
            c.Find: self._outbox.find,
            c.Recall: self._outbox.recall,
            c.RecallWhere: self._outbox.start_search,
            c.Connect: self._connect,
            c.Disconnect: lambda command: self._disconnect(command.name),
            c.Revoke: lambda command: self._revoke(command.name),
            c.Authorise: lambda command: self._authorise(command.name),
            c.Forget: self._forget,
            c.Subscribe: self._subscribe,
            c.TakeOutcomes: self._outbox.untold,
            c.ToldOutcomes: self._told,
            c.ListOutbox: self._listing.outbox,
            c.ListInbox: self._listing.inbox,
            c.FindReceived: lambda command: self._listing.named(command.id),
            c.LastDead: lambda _command: self.shared.ledger.next_dead - 1,
            c.ListDead: self._dead.page,
            c.RetryDead: lambda command: self._dead.retry(command, self._inbox.add_local),
            c.PurgeDead: self._dead.purge,
        }
        self._load()
        journal.wrote = True

    # ------------------------------------------------------------------------------------------------ opening

    def _load(self) -> None:
        journal = self.shared.journal
        self._inbox.load()
        for key, value in journal.scan(*tables.table_bounds(tables.PEER), 2**31):
            channel = self._new_channel(key[1:].decode(), 0)
            channel.load(value)
            self._forgetting.adopt(channel)
        for key, value in journal.scan(*tables.table_bounds(tables.LANE), 2**31):
            self._load_lane(decode_lane(int.from_bytes(key[1:], "big"), value))
        self._inbox.count_tombstones()
        self._inbox.claims.begin()
        now_us = self.shared.now.store_us
        for name in ("out_deadline", "outcomes", "dead"):
            self.shared.clock_timers.set(name, now_us)
        for channel in self.channels.values():
            self.shared.clock_timers.set(("in_deadline", channel.name), now_us)

    def _load_lane(self, lane: OutLane | InLane) -> None:
        if isinstance(lane, InLane) and lane.peer not in self.channels:
            self.shared.in_lanes[lane.no] = lane
            self._inbox.adopt_lane(lane)
        elif isinstance(lane, InLane):
            self.channels[lane.peer].adopt_in(lane)
        else:
            self.channels[lane.peer].adopt_out(lane)

    def recover(self, left: list[InHand], trusted: bool) -> None:
        """What the previous life had handed over and not settled, after an unclean stop (F9).

        Not `trusted` if the machine went down with it: then every row may have been handed over.
        """
        if trusted:
            self._blame(left)
        else:
            self._inbox.doubt_all()
        self._inbox.end_withdrawn()
        self._inbox.claims.begin()

    def fall_behind(self) -> None:
        """The machine stopped, and the life before did not flush its commits: the last of them may be lost.

        Peers that were first met in those moments are not known any more: they are told too, when they are met again.
        """
        self.shared.ledger.fell_behind = True
        for channel in self.channels.values():
            channel.healing.fall_behind()

    def _blame(self, left: list[InHand]) -> None:
        latest: dict[tuple[int, int], InHand] = {}
        for hand in left:
            known = latest.get((hand.lane, hand.seq))
            if known is None or hand.attempt >= known.attempt:
                latest[(hand.lane, hand.seq)] = hand
        running = sum(hand.running for hand in latest.values())
        for hand in latest.values():
            self._inbox.blame(hand.lane, hand.seq, hand.attempt, hand.running, running == 1)

    def leave(self, rows: Iterable[Row]) -> None:
        """The peer closes while workers have these rows: the next life hands them over again, and says so."""
        for row in rows:
            if row.handed_us:  # not one whose deadline had passed at the door
                self._inbox.blame(row.lane.no, row.seq, row.attempts, False, False, "the peer closed before its end")
        self._inbox.end_withdrawn()

    def replace(self, other: Engine, rows: Iterable[Row]) -> None:
        """The commit of `other` failed, this engine takes its place: `rows` are still with workers."""
        self._go_on_with_life(other.shared.ledger.instance)
        self._held, self._released = other._held, _joined(other._telling, other._released)
        self._counted = other._counted
        self.shared.counters.update(other._counted)
        self._inbox.claims.take_over(other._inbox.claims)
        self._outbox.take_over(other._outbox)
        self._forgetting.take_over(other._forgetting)
        for row in rows:
            self._inbox.rebind(row)

    def _go_on_with_life(self, instance: int) -> None:
        """Nothing of a commit that failed was told, so no new life begins: a store that is short of room fails often,
        and rows about lives would fill what is left of it."""
        self.shared.ledger.instance = instance
        ended = self._ended_life
        if ended is not None and ended[0] == tables.numbered(tables.INSTANCE, instance):
            self._ended_life = None

    def spare_dead_letters(self) -> None:
        """Until the turn ends no dead letter is kept, and for each the oldest goes: the store has no room for it."""
        self._dead.spared = True

    def _new_channel(self, name: str, no: int) -> Channel:
        channel = Channel(self.shared, self._outbox, self._inbox, name, no, self._wake_channel)
        self.channels[name] = channel
        return channel

    def _wake_channel(self, channel: Channel) -> None:
        self._busy[channel] = None

    # --------------------------------------------------------------------------------------------- one turn

    def begin(self, now: Now, wall_us: int) -> None:
        """A turn begins. `wall_us` is only kept, for the store clock of the next life."""
        self.shared.now = now
        self._wall_us = wall_us
        if self._byes:
            self._byes.clear()
        if self._fresh.notices or self._fresh.replies:
            self._held, self._fresh = _joined(self._held, self._fresh), Held([], [])
        if self._telling.notices or self._telling.replies:
            self._telling = Held([], [])
        self._counted = dict(self.shared.counters)
        self._outbox.begin_turn()
        self._forgetting.begin_turn()

    def limit_intake(self, most_bytes: int | None) -> None:
        """What this turn may take in from peers, None for as much as comes. One message always goes."""
        self.shared.intake_bytes = 0
        self.shared.most_intake_bytes = most_bytes

    @property
    def intake_bytes(self) -> int:
        """Bytes of messages that this turn took in from peers."""
        return self.shared.intake_bytes

    def set_accepting(self, accepting: bool) -> None:
        """Whether the store has room: without it nothing new is taken in."""
        self.shared.accepting = accepting

    def set_scarce(self, scarce: bool) -> None:
        """Whether the rest of the room is kept for what makes room; in each turn.

        Else asking receivers for what ran out of time, or noting which attempt failed, would fill a store to the last
        byte, and nothing could ever be settled.
        """
        if scarce != self.shared.scarce:
            self.shared.scarce = scarce
            self._inbox.claims.be_wary(scarce)

    def pauses(self, queue: str) -> bool:
        """Whether nothing of a queue is handed over for the first time now, since attempts fail and room is scarce."""
        known = self._inbox.rows.queues.get(queue)
        return known is not None and self._inbox.claims.pauses(known)

    def drop_searches(self) -> list[c.RecallWhere]:
        """Give up what searches for messages to recall; returns the commands, to be answered."""
        return self._outbox.drop_searches()

    def serve(self, queue: str, buffer: Buffer, policy: Policy) -> None:
        """A handler, or the callers of `receive`, take this queue's rows from `buffer`."""
        self._inbox.claims.serve(queue, buffer, policy)
        self._inbox.credit.serve(queue)

    def finished(self, results: Sequence[Finished]) -> None:
        """Workers are through with rows, all of one buffer."""
        now_us = self.shared.now.store_us
        # Of messages that are told by ranges, none had a time limit.
        overdue = (is_overdue(item[0], now_us) for item in results if not isinstance(item, Acknowledged))
        self.shared.counters["overdue"] += sum(overdue)
        self._inbox.finish_all(results)

    def command(self, command: c.Command) -> None:
        """Something that the application asks; answered in `Effects.replies`."""
        try:
            reply = self._obeys[type(command)](command)
        except Error as error:
            # A write that found the store full has taken the whole transaction with it: that ends the turn, be it with
            # the headroom. Only what was refused before it wrote anything is answered.
            if isinstance(error, StoreFull) and (self.shared.accepting or not isinstance(command, _REFUSED_UNWRITTEN)):
                raise
            self.shared.effects.replies.append((command, error))
            return
        if not isinstance(command, _ANSWERED_LATER):
            self.shared.effects.replies.append((command, reply))

    def permit(self, permissions: Permissions | None) -> None:
        """What other peers may do here from now on. What was received before stays."""
        self.shared.permissions = permissions

    def _subscribe(self, _command: c.Subscribe) -> None:
        self.shared.ledger.subscribed = True
        self.shared.journal.wrote = True

    def _told(self, command: c.ToldOutcomes) -> None:
        self.shared.ledger.told_outcome = max(self.shared.ledger.told_outcome, command.upto)
        self.shared.clock_timers.set_earlier("outcomes", self.shared.now.store_us)
        self.shared.journal.wrote = True

    def answer(self, question: c.Command) -> Any:
        """What a command that changes nothing is answered, between two turns. Raises what it is refused with."""
        return self._obeys[type(question)](question)

    def overview(self) -> Overview:
        """Peers and queues at a glance."""
        return overview(self.shared, self.channels, self._inbox.rows.queues)

    def passed(self, message_id: str) -> str | None:
        """Who sent the message of an id that zmqrel made, if it was received here and is no longer in the inbox.

        It has ended here, or it had ended at its sender before it was sent.
        """
        lane_id, _, seq = message_id.partition("-")
        if not seq.isascii() or not seq.isdigit() or self._listing.named(message_id):
            return None
        lanes = (lane for lane in self.shared.in_lanes.values() if f"{lane.id:016x}" == lane_id)
        return next((lane.peer for lane in lanes if 1 <= int(seq[:20]) <= lane.floor), None)

    def examine(self, behind: bytes) -> Examined:
        """Check a page of the store's rows, those behind a key; see verification.py."""
        return examine(self.shared.journal, behind)

    def _connect(self, command: c.Connect) -> None:
        channel = self.channels.get(command.name) or self._introduce(command.name)
        if channel.memory is Memory.FORGETTING:
            self._forgetting.connect_later(command)
            return
        self._forgetting.remember(channel)
        if channel.endpoint is not None:
            self._hang_up(channel)
        channel.endpoint = command.endpoint
        channel.listed = True
        if command.endpoint is not None:
            self.shared.effects.dial.append(command.name)

    def _forget(self, command: c.Forget) -> None:
        self._forgetting.start(command)
        self._disconnect(command.name)
        self._unlink(self.channels[command.name])

    def _introduce(self, name: str) -> Channel:
        """A peer that this store has not heard of."""
        channel = self._new_channel(name, self.shared.ledger.next_peer)
        self.shared.ledger.next_peer += 1
        channel.healing.i_am_old = self.shared.ledger.fell_behind
        self.shared.journal.put(tables.named(tables.PEER, name), channel.encode())
        return channel

    def _disconnect(self, name: str) -> None:
        channel = self.channels.get(name)
        if channel is None:
            return
        channel.sessions.end_all("disconnected")
        self._hang_up(channel)
        channel.endpoint = None
        channel.listed = False

    def _revoke(self, name: str) -> None:
        channel = self.channels.get(name)
        if channel is None:
            return
        channel.sessions.end_all("the key is not known any more")
        self._hang_up(channel)
        self._unlink(channel)
        self.shared.event("revoked", name, "its key was removed or replaced")

    def _authorise(self, name: str) -> None:
        channel = self.channels.get(name)
        if channel is not None and channel.endpoint is not None and channel.sessions.dialled_link is None:
            self.shared.effects.dial.append(name)

    def _unlink(self, channel: Channel) -> None:
        """Nothing that comes over the links of a peer is heard any more, until they say HELLO."""
        for link in [link for link, known in self._links.items() if known is channel]:
            del self._links[link]

    def _hang_up(self, channel: Channel) -> None:
        link = channel.sessions.dialled_link
        if link is not None:
            channel.sessions.link_down(link)
            channel.sessions.dialled_link = None
            self._links.pop(link, None)
            self.shared.effects.hang_up.append(link)

    def dialled(self, name: str, link: int) -> None:
        """There is a new socket to a peer."""
        channel = self.channels[name]
        self._links[link] = channel
        channel.sessions.dialled(link)

    def link_down(self, link: int) -> None:
        """An inbound link is gone."""
        channel = self._links.pop(link, None)
        if channel is not None:
            channel.sessions.link_down(link)

    def close(self, reason: str) -> None:
        """Say BYE to everyone, as the last thing in a turn."""
        for channel in self.channels.values():
            for session in list(channel.sessions.open.values()):
                channel.sessions.end(session, reason)
        self._write_stale()

    # ----------------------------------------------------------------------------------------------- frames

    def frame(self, link: int, parts: list[bytes]) -> None:
        """A frame from a link. What no peer can have sent is counted and dropped.

        So is, without a look at it, what comes from one who sent too much that brought nothing (see limits.py).
        """
        shared = self.shared
        channel = self._links.get(link)
        if channel is None:
            self._take_from_stranger(link, parts)
            return
        now_us = shared.now.mono_us
        if channel.allowance.is_empty(now_us):
            self._drop(link, channel.name, parts)
            return
        shared.wasted = 0
        self._try(channel.name, link, parts)
        if shared.wasted:
            channel.allowance.take(now_us, shared.wasted + _charged(parts))

    def _take_from_stranger(self, link: int, parts: list[bytes]) -> None:
        now_us = self.shared.now.mono_us
        who = self._stranger(link)
        if self._strangers.must_wait(who, now_us):
            self._drop(link, who, parts)
            return
        self._try("?", link, parts)
        if link not in self._links:
            self._strangers.charge(who, now_us, len(parts[0]) if parts else 0)

    def _stranger(self, link: int) -> Hashable:
        """Who is charged for what comes over a link before HELLO: with keys all links of a key, else each link."""
        return link if self._name_of is None else self._name_of(link)

    def _drop(self, link: int, who: Hashable, parts: list[bytes]) -> None:
        """Unread. Who goes on all the same is shut out: to receive what comes costs something too."""
        shared = self.shared
        shared.counters["throttled"] += 1
        if self._patience.use_up(who, shared.now.mono_us, FRAME_COST + _charged(parts)):
            shared.event("shut_out", str(who), "it sends too much that brings nothing")
            shared.effects.shut_out.append(link)

    def no_frame(self, link: int, size: int) -> None:
        """So many bytes came over a link that were no frame at all."""
        self.frame(link, [])
        channel = self._links.get(link)
        if channel is not None:
            channel.allowance.take(self.shared.now.mono_us, size)

    def _try(self, name: str, link: int, parts: list[bytes]) -> None:
        try:
            self._take(link, frames.decode(parts))
        except (BadFrame, BadRecord) as error:
            self.shared.wasted += FRAME_COST
            self.shared.event("malformed", name, str(error)[:200])

    def _take(self, link: int, frame: frames.Frame) -> None:
        if frame.type == frames.HELLO:
            self._take_hello(link, frame)
            return
        channel = self._links.get(link)
        if channel is None:
            self._reject(link, frame)
        elif frame.type == frames.WELCOME:
            channel.sessions.on_welcome(link, frame)
        elif frame.type == frames.OPEN:
            channel.sessions.on_open(link, frame)
        elif frame.type == frames.BYE:
            channel.sessions.on_bye(link, frame)
        else:
            session = channel.sessions.current(link, frame.session)
            if session is not None and session.instance == frame.instance:
                channel.on_frame(session, frame)
            elif not channel.sessions.is_pending(link, frame.session):
                self._reject(link, frame)

    def _take_hello(self, link: int, frame: frames.Frame) -> None:
        if len(frame.session) != 8:
            raise BadFrame("a HELLO names half of a session")
        name = frame.fields[0].name
        if self._name_of is not None and self._name_of(link) != name:
            self.shared.wasted += FRAME_COST
            self.shared.event("impostors", name[:64], f"said by who has the key of {self._name_of(link)!r}")
            self._bye(link, frame.session, "the name is not that of your key")
            return
        channel = self.channels.get(name)
        known_link = self._links.get(link)
        if known_link is not None and known_link.name != name:
            raise BadFrame("one link speaks for one peer")
        if name != self.shared.name and self.shared.options.accept == "any" and channel is None:
            if len(self.channels) >= MOST_PEERS:
                self.shared.event("limited", name[:64], f"{MOST_PEERS} peers are known")
            else:
                channel = self._introduce(name)
        if channel is not None and channel.memory is Memory.LEFTOVERS and self.shared.options.accept == "any":
            self._forgetting.remember(channel)
        if channel is None or not self._is_welcome(channel):
            self.shared.wasted += FRAME_COST
            self.shared.event("refused", name[:64], "not in `peers`")
            self._bye(link, frame.session, "this peer does not know you")
            return
        now_us = self.shared.now.mono_us
        if known_link is None and channel.allowance.is_empty(now_us):
            self._drop(link, name, [])  # it asks over one new link after the other
            return
        self._strangers.forget(self._stranger(link))
        self._links[link] = channel
        channel.allowance.take(now_us, HELLO_COST)
        channel.sessions.on_hello(link, frame)

    def _is_welcome(self, channel: Channel) -> bool:
        return channel.memory is Memory.KEPT and (channel.listed or self.shared.options.accept == "any")

    def _reject(self, link: int, frame: frames.Frame) -> None:
        """A frame of no session here. One BYE a turn and link tells the other to begin anew."""
        self.shared.counters["stale_frames"] += 1
        self.shared.wasted += FRAME_COST
        if frame.type != frames.BYE and link not in self._byes:
            self._byes.add(link)
            self._bye(link, frame.session, "no such session")

    def _bye(self, link: int, session: bytes, reason: str) -> None:
        head = frames.header(frames.BYE, session, self.shared.ledger.instance, reason)
        self.shared.frames.append((link, head, None))

    # ------------------------------------------------------------------------------------------ end of a turn

    def finish(self) -> Effects:
        """The turn ends: judge what time brought, claim, transmit, and write what the commit must hold."""
        shared, forgetting = self.shared, self._forgetting
        # Most turns are about one message: who has nothing to do is not asked.
        self._run_timers()
        if self._outbox.searches:
            self._outbox.work()
        if forgetting.forgotten:
            forgetting.work()
        self._inbox.claims.claim()
        self._transmit()
        if forgetting.forgotten or self._inbox.emptied:
            forgetting.clear_away()
        if shared.journal.wrote:
            self._write_stale()
            self._write_ledger()
        elif shared.stale and not shared.timers.is_set("lazy"):
            # News of a peer's clock and commit count are worth none: two idle peers would make each other commit
            # for ever.
            shared.timers.set("lazy", shared.now.mono_us + _LAZY_US)
        effects = shared.effects
        effects.frames = self._encode_frames()
        for link in effects.hang_up:
            self._links.pop(link, None)
        if shared.options.durability == "relaxed":
            self._hold_back(effects)
        shared.effects = Effects()
        self._dead.spared = False
        return effects

    def _run_timers(self) -> None:
        shared = self.shared
        timers, clock_timers, now = shared.timers, shared.clock_timers, shared.now
        if timers.next_us is not None and timers.next_us <= now.mono_us:
            for key in timers.due(now.mono_us):
                self._timer(key)
        if clock_timers.next_us is not None and clock_timers.next_us <= now.store_us:
            for key in clock_timers.due(now.store_us):
                self._clock_timer(key)

    def _timer(self, key: Any) -> None:
        if key == "lazy":
            self._write_stale()
            return
        kind, name = key[:2]
        if kind == "resend":
            lane = self.shared.out_lanes.get(name)
            if lane is not None and not lane.over:
                self.channels[lane.peer].resend_due(lane)
        elif name not in self.channels:
            return  # it was forgotten
        elif kind == "hello":
            self.channels[name].sessions.hello_due()
        elif kind == "acks":
            self.channels[name].acks_due()
        elif kind == "pending":
            self.channels[name].sessions.pending_due(key[2])
        else:
            self.channels[name].sessions.ping_due(key[2])

    def _clock_timer(self, key: Any) -> None:
        if key == "out_deadline":
            self._outbox.judge()
        elif key == "outcomes":
            self._outbox.expire_outcomes()
        elif key == "dead":
            self._dead.expire()
        elif key[0] == "waiting":
            self._inbox.claims.waiting_due(key[1])
        elif key[1] in self.channels:
            self.channels[key[1]].judge_deadlines()

    def _transmit(self) -> None:
        """Until nothing is left to say: what is transmitted can end messages, and that can settle others."""
        outbox, settlements, credit = self._outbox, self._inbox.settlements, self._inbox.credit
        while True:
            if outbox.to_withdraw:
                outbox.write_withdrawals()
            if settlements.to_write:
                settlements.write()
            if credit.starved:
                credit.regrant()
            if credit.to_tell:
                for granted in credit.take_lanes_to_tell():
                    channel = self.channels.get(granted.peer)
                    if channel is not None and granted.store_id == channel.their_store:
                        channel.ack(granted)
            if not self._busy:
                break
            busy, self._busy = self._busy, {}
            for woken in busy:
                woken.transmit()
        for lane in self.shared.touched.values():
            if isinstance(lane, OutLane) and lane.tail:
                lane.trim_tail(self.shared.options.window_bytes)

    def _write_stale(self) -> None:
        """Rows that wait for a commit that there is a reason for."""
        shared = self.shared
        for lane in shared.stale.values():
            if isinstance(lane, OutLane) and lane.kind == CONTROL and lane.acked:
                shared.outbox_runs.discard(lane.no, 0, lane.acked)
        shared.write_lanes(list({**shared.stale, **shared.touched}.values()))
        shared.stale, shared.touched = {}, {}
        if shared.stale_peers:
            for channel in shared.stale_peers.values():
                shared.journal.put(tables.named(tables.PEER, channel.name), channel.encode())
            shared.stale_peers.clear()

    def _write_ledger(self) -> None:
        shared, ledger = self.shared, self.shared.ledger
        if self._ended_life is not None:
            shared.journal.put(*self._ended_life)
            self._ended_life = None
        ledger.commit_count += 1
        if shared.now.store_us > ledger.clock_us:
            ledger.clock_us = shared.now.store_us
        ledger.wall_us = self._wall_us
        shared.journal.put(tables.META, ledger.encode())
        shared.journal.wrote = False
        self._unflushed = True

    def _encode_frames(self) -> list[tuple[int, list[bytes]]]:
        if not self.shared.frames:
            return []
        count = self.shared.ledger.commit_count
        encoded = []
        for link, head, payload in self.shared.frames:
            head[frames.COUNT_AT] = count
            if callable(head[-1]):
                # What a handshake says is as fresh as its commit count, or a batch of the same turn that comes first by
                # another link would show lanes that it does not name, and they would count as lost.
                head[-1] = head[-1]()
            encoded.append((link, frames.encode(head, payload)))
        self.shared.frames = []
        return encoded

    # ------------------------------------------------------------------------------------ relaxed durability

    def _hold_back(self, effects: Effects) -> None:
        """Outcomes are told only after a flush that covers them (F13)."""
        if not self._unflushed:
            self.release(effects)  # everything that this turn saw was flushed before it
            return
        self._fresh.notices.extend(n for n in effects.notices if isinstance(n, Ended | HandedOver))
        self._fresh.replies.extend(item for item in effects.replies if isinstance(item[0], _TELLING))
        effects.notices = [n for n in effects.notices if not isinstance(n, Ended | HandedOver)]
        effects.replies = [item for item in effects.replies if not isinstance(item[0], _TELLING)]
        self.release(effects)

    def release(self, effects: Effects) -> None:
        """Add to `effects` what was held back and is covered by a flush now."""
        effects.notices[:0] = self._released.notices
        effects.replies[:0] = [(command, self._present(command, value)) for command, value in self._released.replies]
        self._telling, self._released = self._released, Held([], [])

    def _present(self, command: Any, value: Any) -> Any:
        """An answer that was held back, as it would be given now: the message may have moved to another lane since."""
        if not isinstance(command, c.Find) or not isinstance(value, c.Found):
            return value
        return self.found_by_id(command.id)

    def flush_due_us(self, pause_us: int = FLUSH_US) -> int | None:
        """When the store wants to be flushed (monotonic), so long after the last time; None if nothing waits for it."""
        if self.shared.options.durability != "relaxed":
            return None
        if not (self._unflushed or any(self._held) or any(self._fresh)):
            return None
        # A stream is not to wait for the next flush: the pause is there for those who send now and then.
        waits = any(lane.waits_for_flush for lane in self.shared.unflushed)
        return self._flushed_us if waits else self._flushed_us + pause_us

    def flushed(self) -> None:
        """Everything committed so far was flushed just before."""
        self._unflushed = False
        self._flushed_us = self.shared.now.mono_us
        self._released = _joined(self._released, self._held)
        self._held = Held([], [])
        flushed, self.shared.unflushed = self.shared.unflushed, {}
        for lane in flushed:
            if lane.flushed() and not lane.over:
                self.channels[lane.peer].activate(lane)

    # ---------------------------------------------------------------------------------------------- queries

    def next_wake_us(self, now: Now) -> int | None:
        """The monotonic time at which a turn is due though nothing comes in. None: never."""
        if self._busy or self._outbox.searches:
            return now.mono_us
        if self._inbox.claims.unexamined or (self._forgetting.forgotten and self._forgetting.under_way):
            return now.mono_us
        wake_us, clock_us = self.shared.timers.next_us, self.shared.clock_timers.next_us
        if clock_us is not None:
            due_us = now.mono_us + max(0, clock_us - now.store_us)
            wake_us = due_us if wake_us is None or due_us < wake_us else wake_us
        flush_us = self.flush_due_us()
        if flush_us is not None:
            wake_us = flush_us if wake_us is None else min(wake_us, flush_us)
        return wake_us

    def found(self, lane_no: int, seq: int) -> c.Found | None:
        """What is known of a message of the outbox, without what waits for a flush to be told."""
        found = self._outbox.found(lane_no, seq)
        if found is None or (found.ended is None and found.handed_at_us is None):
            return found
        held = [notice for notice in (*self._held.notices, *self._fresh.notices) if notice.lane == lane_no]
        if any(isinstance(notice, Ended) and notice.first <= seq <= notice.last for notice in held):
            found = found._replace(ended=None)
        if any(isinstance(notice, HandedOver) and notice.seq == seq for notice in held):
            found = found._replace(handed_at_us=None)
        return found

    def found_by_id(self, message_id: str) -> c.Found | None:
        """What is known of a message of the outbox, wherever it lies now; as `found`."""
        found = self._outbox.find(c.Find(message_id))
        return None if found is None else self.found(found.lane.no, found.seq)

    @property
    def has_untold(self) -> bool:
        """True if a peer with a session has not acknowledged everything that it should know."""
        return any(channel.has_untold for channel in self.channels.values())

    def has_session(self, link: int) -> bool:
        """True if frames of an open session travel over this link."""
        channel = self._links.get(link)
        return channel is not None and link in channel.sessions.open

    def _data_lanes(self) -> list[OutLane]:
        return [lane for lane in self.shared.out_lanes.values() if lane.kind != CONTROL]

    def stats(self) -> dict[str, int]:
        """What stats.py says, but for what workers have in hand."""
        ledger = self.shared.ledger
        return {name: self.shared.counters[name] for name in COUNTERS} | {
            "outbox_messages": ledger.outbox_messages,
            "outbox_unsent": sum(lane.unsent for lane in self._data_lanes()),
            "outbox_bytes": ledger.outbox_bytes,
            "inbox_messages": ledger.inbox_messages,
            "inbox_bytes": ledger.inbox_bytes,
            "dead_messages": ledger.dead_messages,
            "dead_bytes": ledger.dead_bytes,
            "commits": ledger.commit_count,
            "peers_connected": sum(bool(channel.sessions.open) for channel in self.channels.values()),
        }


def _joined(one: Held, other: Held) -> Held:
    return Held(one.notices + other.notices, one.replies + other.replies)


def _charged(parts: list[bytes]) -> int:
    """Bytes of a frame that its sender is charged with."""
    return min(MOST_CHARGED, sum(map(len, parts)))


_TELLING = (c.Find, c.Recall, c.RecallWhere, c.Forget, c.TakeOutcomes, c.ListDead)
_ANSWERED_LATER = (c.RecallWhere, c.Forget)
"""When they are through, which may be some turns later."""
_REFUSED_UNWRITTEN = (c.Send, c.RetryDead)
"""A full store refuses them before they write."""


def read_clock(store: Storage) -> tuple[int, int]:
    """The persisted store clock reading and the wall clock then, both 0 for a new store (microseconds)."""
    data = store.get(tables.META)
    if data is None:
        return 0, 0
    ledger = Ledger.decode(data)
    return ledger.clock_us, ledger.wall_us
