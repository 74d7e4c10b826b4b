"""What users see of messages that lie in a peer's store: in its outbox, its inbox, and among its dead letters.

Listings are read in pages, each in a turn of the I/O thread, so they hold up nothing and hold no more than a page.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any, Protocol

from zmqrel.body import decode_body
from zmqrel.checks import Instant, check_queue, instant_posix
from zmqrel.core import commands as c
from zmqrel.core import dead
from zmqrel.core.entries import CHECK_BYTES, MessageHead, decode_head
from zmqrel.errors import UnknownMessage
from zmqrel.escaping import escaped
from zmqrel.history import HistoryEvent, told
from zmqrel.message import Recalls, Receipt
from zmqrel.receipts import Ticket


class StoreAccess(Protocol):
    """What a listing needs of its peer."""

    def ask(self, command: c.Command) -> Any:
        """The answer of the core, waited for. Raises PeerClosed."""
        ...

    def to_datetime(self, store_us: int) -> datetime:
        """A time by the store clock as an aware datetime."""
        ...

    def from_posix(self, posix_s: float) -> int:
        """POSIX seconds by the store clock."""
        ...


class _Record:
    """The parts of a stored message that lie in its record."""

    __slots__ = ("_access", "_head", "_record", "_sent_us")

    def __init__(self, access: StoreAccess, record: bytes, sent_us: int) -> None:
        self._access = access
        self._record = record
        self._head: MessageHead = decode_head(record)
        self._sent_us = sent_us

    @property
    def key(self) -> str | None:
        """Its key."""
        return self._head.meta.key

    @property
    def body(self) -> Any:
        """What was sent; a tuple is a list by now."""
        return decode_body(memoryview(self._record)[self._head.body_at : -CHECK_BYTES])

    @property
    def headers(self) -> dict[str, Any]:
        """Its headers."""
        return dict(self._head.meta.headers or {})

    @property
    def sent_at(self) -> datetime:
        """When it was sent: aware, UTC, by the local clock."""
        return self._access.to_datetime(self._sent_us)

    @property
    def deadline(self) -> datetime | None:
        """Its deadline: aware, UTC, by the local clock; None without one."""
        head = self._head
        if not head.deadline_us:
            return None
        return self._access.to_datetime(self._sent_us + head.deadline_us - head.sent_at_us)

    @property
    def origin_id(self) -> str | None:
        """The id of the message that this one was made of: of one that expired, or of a dead letter."""
        return self._head.meta.origin_id


class OutboxMessage(Receipt):
    """A message of the own outbox: its receipt, with what was sent. It can be recalled and waited for."""

    __slots__ = ("_record",)

    def __init__(self, peer: Recalls, ticket: Ticket, record: _Record) -> None:
        super().__init__(peer, ticket)
        self._record = record

    @property
    def body(self) -> Any:
        """What was sent; a tuple is a list by now."""
        return self._record.body

    @property
    def headers(self) -> dict[str, Any]:
        """Its headers."""
        return self._record.headers

    @property
    def sent_at(self) -> datetime:
        """When it was sent: aware, UTC, by the local clock."""
        return self._record.sent_at

    @property
    def deadline(self) -> datetime | None:
        """Its deadline: aware, UTC, by the local clock; None without one."""
        return self._record.deadline


def outbox_record(access: StoreAccess, outgoing: c.Outgoing) -> _Record:
    """What an OutboxMessage shows of its record."""
    return _Record(access, outgoing.record, outgoing.found.sent_at_us)


class InboxMessage(_Record):
    """A message of the own inbox, as it lay there when it was listed. To settle it, receive it."""

    __slots__ = ("_incoming",)

    def __init__(self, access: StoreAccess, incoming: c.Incoming) -> None:
        super().__init__(access, incoming.record, incoming.sent_us)
        self._incoming = incoming

    @property
    def id(self) -> str:
        """Its id at the sender."""
        return self._incoming.id

    @property
    def sender(self) -> str:
        """The peer that sent it; the own name for a message made here."""
        return self._incoming.sender

    @property
    def queue(self) -> str:
        """The queue that it is in."""
        return self._incoming.queue

    @property
    def due_at(self) -> datetime:
        """When it came here, or may be handed over (next), whichever is later: aware, UTC, by the local clock."""
        return self._access.to_datetime(self._incoming.ready_us)

    @property
    def attempts(self) -> int:
        """How often it was handed over, the running attempt included."""
        return self._incoming.attempts

    @property
    def redelivered(self) -> bool:
        """True if it was, or may have been, handed over without the application asking for it again."""
        return self._incoming.redelivered

    @property
    def in_hand(self) -> bool:
        """True if it was handed over and not settled when it was listed."""
        return self._incoming.in_hand

    @property
    def cause(self) -> str | None:
        """Why it was made of another."""
        return self._head.meta.cause

    @property
    def history(self) -> tuple[HistoryEvent, ...]:
        """What happened to it, oldest first, also in earlier lives of this process.

        When it was stored at its sender and received here (unless it was sent with a delay), and the latest 20 of:
        failed attempts with their reasons, moves, a recall or deadline that came while it was at work.
        """
        return told(self._incoming.history, self._access.to_datetime)

    def __repr__(self) -> str:
        return f"<InboxMessage {escaped(self.id)} from {self.sender} in {self.queue}, {self.attempts} attempts>"


class DeadLetter(_Record):
    """A message that ended badly, kept with its body by the peer that judged it. Its outcome stands."""

    __slots__ = ("_letter", "_number")

    def __init__(self, access: StoreAccess, number: int, letter: dead.DeadLetter) -> None:
        super().__init__(access, letter.record, letter.sent_us)
        self._number = number
        self._letter = letter

    @property
    def id(self) -> str:
        """The id of the message."""
        return self._letter.id

    @property
    def sender(self) -> str:
        """The peer that sent it."""
        return self._letter.sender

    @property
    def to(self) -> str:
        """The peer that it was sent to."""
        return self._letter.to

    @property
    def queue(self) -> str:
        """The queue that it was in."""
        return self._letter.queue

    @property
    def cause(self) -> str:
        """Why it died: "expired", "rejected", "exhausted", "crash" (the process died in its last attempt),
        "deadline" (which passed between two attempts) or "transport" (it was given up, or cannot be sent)."""
        return self._letter.cause

    @property
    def reason(self) -> str:
        """What was said of it: the reason of a rejection, the last exception."""
        return self._letter.reason

    @property
    def at(self) -> datetime:
        """When it died: aware, UTC, by the local clock."""
        return self._access.to_datetime(self._letter.at_us)

    @property
    def attempts(self) -> int:
        """How often it was handed over."""
        return self._letter.attempts

    @property
    def history(self) -> tuple[HistoryEvent, ...]:
        """What happened to it, oldest first: as `InboxMessage.history`, and how it was settled."""
        return told(self._letter.history, self._access.to_datetime)

    def retry(self, queue: str | None = None) -> str:
        """Turn it into a new message in the own inbox, in `queue` or the one that it was in; returns the new id.

        The new message has the body, key and headers, no deadline, and attempts from 1; its `origin_id` is the id of
        this one, whose outcome stands, and its `cause` the same. The letter is gone with the same commit. Raises
        UnknownMessage if it was gone before: retried, purged or no longer kept.
        """
        to = None if queue is None else check_queue(queue)
        new_id: str | None = self._access.ask(c.RetryDead(self._number, to))
        if new_id is None:
            raise UnknownMessage(f"dead letter {self.id!r} was retried or purged before, or is no longer kept")
        return new_id

    def purge(self) -> bool:
        """Delete it. False if it was gone before."""
        purged, _ = self._access.ask(c.PurgeDead(self._number, self._number))
        return bool(purged)

    def __repr__(self) -> str:
        return f"<DeadLetter {escaped(self.id)} from {self.sender} to {self.to}/{self.queue}: {self.cause}>"


class DeadLetters:
    """An iterator over the dead letters of a peer, oldest first; those of its start, and not deleted since."""

    def __init__(self, access: StoreAccess) -> None:
        self._access = access
        self._letters = self._listed()

    def _listed(self) -> Iterator[DeadLetter]:
        last, more = _last_number(self._access), True
        after = 0
        while more and after < last:
            page, more = self._access.ask(c.ListDead(after, last))
            for number, letter in page:
                after = number
                yield DeadLetter(self._access, number, letter)

    def __iter__(self) -> Iterator[DeadLetter]:
        return self

    def __next__(self) -> DeadLetter:
        return next(self._letters)

    def purge(self, before: Instant | None = None) -> int:
        """Delete all dead letters, or those that died before `before`; returns how many.

        `before` is an aware datetime or POSIX seconds. Those that come meanwhile stay. Each part is a commit of its
        own: if the process dies in it, some are left.
        """
        before_us = None if before is None else self._access.from_posix(instant_posix("before", before))
        last, more = _last_number(self._access), True
        purged = 0
        while more:
            count, more = self._access.ask(c.PurgeDead(1, last, before_us))
            purged += count
        return purged


def _last_number(access: StoreAccess) -> int:
    last: int = access.ask(c.LastDead())
    return last


def pages(ask: Callable[[list[c.LanePart] | None], c.Page[Any]]) -> Iterator[list[Any]]:
    """The pages of a listing, each asked for when it is wanted."""
    left: list[c.LanePart] | None = None
    while left is None or left:
        page = ask(left)
        left = page.left
        yield page.items
