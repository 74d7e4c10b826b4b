"""Forgetting a peer that will not return: its waiting messages end, and what is known of it is deleted.

That may be millions of messages, so it goes on turn by turn, and a mark in the peer's row lets the next life go on
where this one stopped. Until it is through, the peer is unknown to senders and not spoken with; a `connect` meanwhile
takes effect at the end.

Messages that came from the peer stay and can be handled; nobody is told what becomes of them. The lanes that they came
on, the peer's number and its clock are kept for them, and the lanes of ended messages for their outcomes. With the last
of these the peer's row goes too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, MutableMapping
from typing import TYPE_CHECKING

from zmqrel.core import tables
from zmqrel.core.commands import Connect, Forget
from zmqrel.core.lane import CONTROL
from zmqrel.core.memory import Memory
from zmqrel.core.shared import Shared
from zmqrel.errors import UnknownPeer

if TYPE_CHECKING:
    from zmqrel.core.channel import Channel
    from zmqrel.core.inbox import Inbox
    from zmqrel.core.outbox import Outbox

MOST_AT_ONCE = 2000
"""Messages, or tombstones, that one turn ends."""


class Forgetting:
    """See the module. `connect` is called with what was asked meanwhile."""

    def __init__(
        self,
        shared: Shared,
        channels: MutableMapping[str, Channel],
        outbox: Outbox,
        inbox: Inbox,
        connect: Callable[[Connect], None],
    ) -> None:
        self._shared = shared
        self._channels = channels
        self._outbox = outbox
        self._inbox = inbox
        self._connect = connect
        self.forgotten: dict[str, Channel] = {}
        """Peers that are being forgotten, or were and have left something."""
        self._asked: defaultdict[str, dict[Forget, None]] = defaultdict(dict)
        self._asked_before: dict[str, dict[Forget, None]] = {}
        self._ended: Counter[str] = Counter()
        self._ended_before: Counter[str] = Counter()
        """Both as they were when this turn began, for the case that its commit fails."""
        self._connects: dict[str, Connect] = {}

    @property
    def under_way(self) -> bool:
        """True while a peer is being forgotten."""
        return bool(self.forgotten) and any(channel.memory is Memory.FORGETTING for channel in self.forgotten.values())

    def adopt(self, channel: Channel) -> None:
        """A peer read from the store."""
        if channel.memory is not Memory.KEPT:
            self.forgotten[channel.name] = channel

    def remember(self, channel: Channel) -> None:
        """A peer that was forgotten is known again, as one that was never heard of."""
        if self.forgotten.pop(channel.name, None) is not None:
            channel.memory = Memory.KEPT
            self._write(channel)

    def begin_turn(self) -> None:
        """A turn begins."""
        if self._asked or self._asked_before:
            self._asked_before = {name: asked.copy() for name, asked in self._asked.items()}
        if self._ended or self._ended_before:
            self._ended_before = self._ended.copy()

    def start(self, command: Forget) -> None:
        """Begin with a peer; `work` answers. Raises UnknownPeer for one that is not known, or forgotten already."""
        channel = self._channels.get(command.name)
        if channel is None or channel.memory is Memory.LEFTOVERS:
            raise UnknownPeer(f"name: no peer {command.name!r} is known here")
        self._asked[command.name][command] = None
        if channel.memory is Memory.KEPT:
            channel.memory = Memory.FORGETTING
            self.forgotten[channel.name] = channel
            self._write(channel)

    def connect_later(self, command: Connect) -> None:
        """A peer that is being forgotten is to be known anew after that."""
        self._connects[command.name] = command

    def take_over(self, other: Forgetting) -> None:
        """The commit of a turn failed, and this takes the place of `other`; what began in that turn is asked again."""
        self._ended = other._ended_before
        self._asked.update(other._asked_before)
        self.begin_turn()

    def work(self) -> None:
        """Go on with one peer, within the bounds of a turn."""
        for channel in self.forgotten.values():
            if channel.memory is Memory.FORGETTING:
                if self._step(channel):
                    self._finish(channel)
                return

    def _step(self, channel: Channel) -> bool:
        """End some of what there is. True if nothing is left."""
        room = MOST_AT_ONCE
        for lane in channel.own.values():
            while lane.kind != CONTROL and (count := self._outbox.end_forgotten(lane, room)):
                self._ended[channel.name] += count
                room -= count
                if room <= 0:
                    return False
        return self._drop_tombstones(channel)

    def _drop_tombstones(self, channel: Channel) -> bool:
        for lane in self._shared.in_lanes.values():
            bounds = tables.lane_bounds(tables.TOMBSTONE, lane.no)
            if lane.peer == channel.name and len(self._shared.journal.pop(*bounds, MOST_AT_ONCE)) == MOST_AT_ONCE:
                return False
        return True

    def _finish(self, channel: Channel) -> None:
        self._inbox.settlements.write()  # into control lanes that go now
        for lane in list(channel.own.values()):
            self._outbox.retire(lane)
        for received in list(self._shared.in_lanes.values()):
            if received.peer == channel.name and not received.is_orphan:
                self._inbox.forget_lane(received)
        channel.forget()
        self._write(channel)
        self._inbox.claims.rewind_passed()  # what waited for its STATE, or its clock
        ended = self._ended.pop(channel.name, 0)
        for command in self._asked.pop(channel.name, {}):
            self._shared.effects.replies.append((command, ended))
        connect = self._connects.pop(channel.name, None)
        if connect is not None:
            self._connect(connect)

    def _write(self, channel: Channel) -> None:
        self._shared.journal.put(tables.named(tables.PEER, channel.name), channel.encode())

    def clear_away(self) -> None:
        """Delete lanes that nothing refers to any more, and the rows of forgotten peers that have none left."""
        self._inbox.delete_emptied()
        for channel in list(self.forgotten.values()) if self.forgotten else ():
            if channel.memory is Memory.LEFTOVERS and not self._has_lanes(channel):
                del self._channels[channel.name], self.forgotten[channel.name]
                self._shared.stale_peers.pop(channel.name, None)
                self._shared.journal.delete(tables.named(tables.PEER, channel.name))

    def _has_lanes(self, channel: Channel) -> bool:
        received, sent = self._shared.in_lanes.values(), self._shared.out_lanes.values()
        name = channel.name
        return any(lane.peer == name for lane in received) or any(lane.peer == name for lane in sent)
