"""What runs a peer's core, as the calls and workers of the peer see it: the I/O thread, or the simulator."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Protocol

from zmqrel.core import commands as c
from zmqrel.core.engine import Engine
from zmqrel.core.memory import Memory
from zmqrel.errors import PeerClosed
from zmqrel.options import Options
from zmqrel.receipts import Receipts, Ticket
from zmqrel.runtime.clock import Clock


class Answer(Protocol):
    """The answer to a question, once it is there."""

    def result(self, timeout_s: float | None = None) -> Any:
        """Wait for the answer. Raises it if it is an exception, and TimeoutError after `timeout_s`."""
        ...


class Drive(ABC):
    """One life of one peer. Commands go in, answers come out after the commit of their turn."""

    def __init__(self, name: str, options: Options) -> None:
        """`name` is the peer's."""
        self.name = name
        self.options = options
        self.receipts = Receipts()
        self.clock: Clock
        self.shrinks = 0
        """How many turns have left the outbox with fewer messages or bytes than the turn before."""
        self.finished_rows = False
        """`row_finished` was called and no turn has begun since: the next one learns of what is finished now, too."""
        self.forked = False
        """True in a child of the process that it runs in. Workers ask after each message: a look, not a call."""
        self.failure: BaseException | None = None
        """What ended it, if nobody asked it to end."""

    @property
    @abstractmethod
    def engine(self) -> Engine:
        """The core. What is read of it, is read between two turns."""

    @property
    @abstractmethod
    def closed(self) -> bool:
        """True once nothing is taken any more."""

    @abstractmethod
    def ask(self, command: c.Command) -> Answer:
        """Queue a command; its answer comes after the commit of its turn."""

    @abstractmethod
    def accept(self, command: c.Send, ticket: Ticket, room_timeout_s: float = 0.0) -> None:
        """Queue a send; the ticket learns what becomes of it, after `room_timeout_s` if the outbox stays full."""

    @abstractmethod
    def post(self, action: Callable[[], Any]) -> Answer:
        """Have something done between two turns."""

    @abstractmethod
    def wait_for_room(self, shrinks: int, timeout_s: float) -> None:
        """Wait until the outbox is smaller than when `shrinks` was read, before the send that found it full.

        Raises TimeoutError after `timeout_s`, and PeerClosed.
        """

    @abstractmethod
    def stats(self) -> Answer:
        """The core's counters."""

    @abstractmethod
    def row_finished(self) -> None:
        """A worker has finished a row, or taken the last one that was claimed."""

    def refusal(self, consequence: str = "") -> PeerClosed:
        """The error for whoever asks something of a peer that has ended: it says why, and what that means."""
        happened = "is closed" if self.failure is None else f"stopped: {self.failure!r}"
        error = PeerClosed(f"peer {self.name!r} {happened}" + (f"; {consequence}" if consequence else ""))
        error.__cause__ = self.failure
        return error

    def check(self) -> None:
        """Raise PeerClosed if it has failed."""
        if self.failure is not None:
            raise self.refusal()

    def look_up(self, ticket: Ticket, found: c.Found) -> None:
        """Between two turns: tie a ticket to a message that was found."""
        current = self.engine.found_by_id(found.id)
        self.receipts.found(ticket, current or found)

    def knows(self, peer: str) -> bool:
        """True if the peer is known to the store: it was listed, or has connected, at some time, and not forgotten."""
        channel = self.engine.channels.get(peer)
        return channel is not None and channel.memory is Memory.KEPT

    def offset_us(self, peer: str) -> int:
        """How far the peer's store clock is ahead of ours, 0 if unknown."""
        channel = self.engine.channels.get(peer)
        return (channel.clock.offset_us or 0) if channel is not None else 0

    def _tell_sender(self, ticket: Ticket, value: c.Stored | Exception) -> None:
        """What became of a send call."""
        if isinstance(value, Exception):
            ticket.fail(value)
            return
        ticket.repeated = value.repeated
        found = self.engine.found(value.lane.no, value.first) if value.repeated else None
        if found is not None:
            self.receipts.found(ticket, found)
        else:
            self.receipts.stored(ticket, value)
