"""Simulated connections between peers: delay, loss, duplication, breaks, partitions and late frames.

A connection keeps the order of its frames, as TCP does. When it breaks it is made anew: the end that dialled keeps its
link, as a DEALER does, the other end sees a new one, as a ROUTER does; frames that were under way are lost, or come
late, in any order, on the link that they were meant for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from random import Random
from typing import Protocol


@dataclass(slots=True)
class LinkFaults:
    """How bad the network is. Chances are from 0 to 1 and per frame, times are seconds."""

    delay_s: tuple[float, float] = (0.0002, 0.002)
    """A frame takes so long, evenly drawn."""
    loss: float = 0.0
    """A frame is lost though its connection stays, as at a full queue."""
    duplication: float = 0.0
    """A frame comes twice."""
    breaks: float = 0.0
    """The connection breaks as the frame is sent."""
    late: float = 0.0
    """A frame lost in a break or a partition comes later after all."""
    late_s: float = 5.0
    """At most so much later."""


class Process(Protocol):
    """What the network knows of a peer."""

    name: str
    life: int
    """Raised by every start and every death."""
    running: bool

    @property
    def is_impostor(self) -> bool:
        """True if it only has the name of a peer of the network."""
        ...

    def new_link(self, dialled: bool) -> int:
        """A number for a link, never used before in this life; even if it was dialled, odd if it was accepted."""
        ...

    def deliver(self, link: int, parts: list[bytes]) -> None:
        """A frame has come."""
        ...


@dataclass(slots=True, eq=False)
class Connection:
    """One dialled socket and whatever connection it has at present."""

    dialler: Process
    dialler_life: int
    link: int
    endpoint: str
    open: bool = True
    inbound: int = 0
    """The accepting side's link, 0 while there is none."""
    acceptor: Process | None = None
    acceptor_life: int = 0
    arrives_us: list[int] | None = None
    """When the last frame of each direction arrives."""
    number: int = 0
    """Raised by every break: frames of an older number are late ones."""
    deaf: tuple[int, ...] = ()
    """Ways in which it carries nothing more, though it stays: 0 from who dialled, 1 to it."""


class Links:
    """All connections of a simulated network."""

    def __init__(
        self, rng: Random, now_us: Callable[[], int], at: Callable[[int, Callable[[], None]], None], faults: LinkFaults
    ) -> None:
        """`at(time_us, action)` runs an action at a point in virtual time."""
        self.faults = faults
        self._rng = rng
        self._now_us = now_us
        self._at = at
        self._bound: dict[str, Process] = {}
        self._dialled: dict[tuple[str, int, int], Connection] = {}
        self._accepted: dict[tuple[str, int, int], Connection] = {}
        self._diallers: dict[tuple[str, int, int], Process] = {}
        """Who made each connection that was ever accepted: late frames come over connections that are no more."""
        self._blocked: set[tuple[str, str]] = set()
        self.frames = 0
        self.lost = 0
        self.censor: Callable[[str, str, list[bytes]], bool] | None = None
        """Loses the frames for which it returns True: called with sender, receiver and parts."""
        self.tap: Callable[[Process, str | None, list[bytes]], None] | None = None
        """Sees every frame as it leaves, lost or not: called with sender, receiver (None if that is gone) and parts."""
        self.arrival_tap: Callable[[Process, list[bytes]], None] | None = None
        """Sees every frame that is delivered: called with receiver and parts, the same list that left."""

    def bind(self, endpoint: str, process: Process) -> None:
        """Whoever dials `endpoint` reaches `process` whenever it runs."""
        self._bound[endpoint] = process

    def dial(self, process: Process, endpoint: str) -> int:
        """A new socket. Returns its link."""
        link = process.new_link(dialled=True)
        connection = Connection(process, process.life, link, endpoint)
        self._dialled[(process.name, process.life, link)] = connection
        return link

    def hang_up(self, process: Process, link: int) -> None:
        """Close a socket that was dialled; what is an accepted link is left alone, as by a ROUTER."""
        connection = self._dialled.pop((process.name, process.life, link), None)
        if connection is not None:
            connection.open = False

    def died(self, process: Process) -> None:
        """The process is gone, and its sockets with it. To be called before its life is raised."""
        for key in [key for key in self._dialled if key[:2] == (process.name, process.life)]:
            self._dialled.pop(key).open = False
        for key in [key for key in self._accepted if key[:2] == (process.name, process.life)]:
            connection = self._accepted.pop(key)
            connection.inbound = 0

    def other_end(self, process: Process, link: int) -> Process | None:
        """Who is at the other end of a link of the process's present life."""
        key = (process.name, process.life, link)
        dialled = self._dialled.get(key)
        return self._diallers.get(key) if dialled is None else self._bound.get(dialled.endpoint)

    def block(self, sender: str, receiver: str) -> None:
        """From now on nothing gets from the one to the other."""
        self._blocked.add((sender, receiver))

    def unblock(self, sender: str, receiver: str) -> None:
        """Frames get through again."""
        self._blocked.discard((sender, receiver))

    def unblock_all(self) -> None:
        """End every partition."""
        self._blocked.clear()

    def break_all(self, one: str, other: str) -> None:
        """Break every connection between two peers; they are made anew at once."""
        for connection in list(self._dialled.values()):
            acceptor = self._bound.get(connection.endpoint)
            if acceptor is not None and {connection.dialler.name, acceptor.name} == {one, other}:
                self._break(connection)

    def deafen(self, one: str, other: str, to_dialler: bool, to_acceptor: bool) -> None:
        """Let every connection between two peers carry nothing more in these directions, until it is dialled anew."""
        for connection in self._dialled.values():
            acceptor = self._bound.get(connection.endpoint)
            if acceptor is not None and {connection.dialler.name, acceptor.name} == {one, other}:
                connection.deaf = (0,) * to_acceptor + (1,) * to_dialler

    # ------------------------------------------------------------------------------------------------ frames

    def send(self, process: Process, link: int, parts: list[bytes]) -> None:
        """Pass a frame on; whatever cannot be routed is lost without a word."""
        self.frames += 1
        key = (process.name, process.life, link)
        dialled = self._dialled.get(key)
        accepted = self._accepted.get(key)
        if self.tap is not None:
            self.tap(process, self._other_end(dialled, accepted), parts)
        if dialled is not None:
            self._send_out(dialled, parts)
            return
        if accepted is not None and accepted.open and accepted.inbound == link:
            self._send_back(accepted, parts)
        else:
            self.lost += 1

    def _other_end(self, dialled: Connection | None, accepted: Connection | None) -> str | None:
        if dialled is not None:
            acceptor = self._bound.get(dialled.endpoint)
            return None if acceptor is None else acceptor.name
        return None if accepted is None else accepted.dialler.name

    def _send_out(self, connection: Connection, parts: list[bytes]) -> None:
        acceptor = self._bound.get(connection.endpoint)
        if acceptor is None or not acceptor.running:
            self.lost += 1
            return
        if connection.inbound == 0 or connection.acceptor_life != acceptor.life:
            self._connect(connection, acceptor)
        self._pass(connection, 0, connection.dialler, acceptor, connection.inbound, parts)

    def _send_back(self, connection: Connection, parts: list[bytes]) -> None:
        assert connection.acceptor is not None
        self._pass(connection, 1, connection.acceptor, connection.dialler, connection.link, parts)

    def _connect(self, connection: Connection, acceptor: Process) -> None:
        connection.inbound = acceptor.new_link(dialled=False)
        connection.acceptor, connection.acceptor_life = acceptor, acceptor.life
        connection.arrives_us = [0, 0]
        connection.number += 1
        self._accepted[(acceptor.name, acceptor.life, connection.inbound)] = connection
        self._diallers[(acceptor.name, acceptor.life, connection.inbound)] = connection.dialler

    def _break(self, connection: Connection) -> None:
        if connection.inbound and connection.acceptor is not None:
            self._accepted.pop((connection.acceptor.name, connection.acceptor_life, connection.inbound), None)
        connection.inbound = 0
        connection.number += 1

    def _pass(
        self, connection: Connection, way: int, sender: Process, receiver: Process, link: int, parts: list[bytes]
    ) -> None:
        faults, chance = self.faults, self._rng.random
        if self.censor is not None and self.censor(sender.name, receiver.name, parts):
            self.lost += 1
            return
        if connection.deaf and way in connection.deaf:
            self.lost += 1
            return
        if (sender.name, receiver.name) in self._blocked:
            self._lose(connection, sender, receiver, link, parts)
            return
        if faults.breaks and chance() < faults.breaks:
            self._break(connection)
            self._lose(connection, sender, receiver, link, parts)
            return
        if faults.loss and chance() < faults.loss:
            self.lost += 1
            return
        self._schedule(connection, way, sender, receiver, link, parts)
        if faults.duplication and chance() < faults.duplication:
            self._schedule(connection, way, sender, receiver, link, parts)

    def _schedule(
        self, connection: Connection, way: int, sender: Process, receiver: Process, link: int, parts: list[bytes]
    ) -> None:
        assert connection.arrives_us is not None
        delay_us = int(self._rng.uniform(*self.faults.delay_s) * 1e6)
        at_us = max(self._now_us() + delay_us, connection.arrives_us[way] + 1)
        connection.arrives_us[way] = at_us
        number, life = connection.number, receiver.life

        def arrive() -> None:
            if connection.number == number and (sender.name, receiver.name) not in self._blocked:
                self._hand_in(receiver, life, link, parts)
            else:
                self._lose(connection, sender, receiver, link, parts)

        self._at(at_us, arrive)

    def _lose(self, connection: Connection, sender: Process, receiver: Process, link: int, parts: list[bytes]) -> None:
        """The frame is lost, or comes when nobody expects it any more, from a connection that is no more."""
        if not (self.faults.late and self._rng.random() < self.faults.late):
            self.lost += 1
            return
        self._break(connection)
        life = receiver.life
        at_us = self._now_us() + int(self._rng.uniform(0, self.faults.late_s) * 1e6)

        def arrive() -> None:
            if (sender.name, receiver.name) in self._blocked:
                self.lost += 1
            else:
                self._hand_in(receiver, life, link, parts)

        self._at(at_us, arrive)

    def _hand_in(self, receiver: Process, life: int, link: int, parts: list[bytes]) -> None:
        closed = link % 2 == 0 and (receiver.name, life, link) not in self._dialled
        if receiver.running and receiver.life == life and not closed:
            if self.arrival_tap is not None:
                self.arrival_tap(receiver, parts)
            receiver.deliver(link, parts)
