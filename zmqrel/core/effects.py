"""What a turn of the core asks of the world. The core itself does none of it.

The order in which the loop applies an Effects, written here once:

    1. commit what the turn wrote. If that fails nothing below happens and the core is loaded anew from the store
    2. frames                  so that no acknowledgement leaves before its commit, and no entry before its mark
    3. freed, offers           rows become visible to workers only when the commit that stored them is done
    4. replies to Send         a message that was accepted may have ended in the same turn: its receipt must be there
       notices                 receipts learn marks and outcomes
       the other replies       who asked for a recall finds in the receipt what became of it
       events                  operators are told
    5. hang_up, dial           sockets come and go last, so that a BYE still finds its link

Under "relaxed" durability a commit survives the process but not yet the machine; the engine then keeps back by
itself what may only be told after a flush.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

from zmqrel.outcome import Cause, Outcome

if TYPE_CHECKING:
    from zmqrel.core.buffer import Buffer
    from zmqrel.core.row import Row, Span


class Ended(NamedTuple):
    """Messages first to last of an own lane have their outcome."""

    lane: int
    first: int
    last: int
    outcome: Outcome
    reason: str | None
    attempts: int
    handed_at_us: int
    at_us: int


class Received(NamedTuple):
    """The peer has committed everything of an own lane up to `floor`."""

    lane: int
    floor: int


class Sent(NamedTuple):
    """Everything of an own lane up to `mark` may have left."""

    lane: int
    mark: int


class Resent(NamedTuple):
    """Messages first to last of an own lane were transmitted again."""

    lane: int
    first: int
    last: int


class Withdrawing(NamedTuple):
    """The peer has been asked not to hand this message over."""

    lane: int
    seq: int
    cause: Cause


class HandedOver(NamedTuple):
    """A message that was to be withdrawn is with a worker of the peer since then."""

    lane: int
    seq: int
    at_us: int


class Denied(NamedTuple):
    """The peer does not let this message be recalled: it goes on as before."""

    lane: int
    seq: int
    reason: str


class Moved(NamedTuple):
    """A message has a new place: its lane was closed because this store is an old copy."""

    lane: int
    seq: int
    new_lane: int
    new_seq: int


ReceiptNotice = Ended | Received | Sent | Resent | Withdrawing | HandedOver | Denied | Moved


class Event(NamedTuple):
    """Something that an operator wants to know: counted, logged, never lost in silence."""

    kind: str
    peer: str
    detail: str


@dataclass(slots=True)
class Effects:
    """Everything that one turn asks for, apart from what it wrote into the open transaction."""

    offers: list[tuple[Buffer, list[Row | Span]]] = field(default_factory=list)
    freed: list[tuple[int, int]] = field(default_factory=list)
    """Slots of the in-hand table whose rows are settled by this commit: the first, and how many."""
    frames: list[tuple[int, list[bytes]]] = field(default_factory=list)
    """Link and parts, in order."""
    replies: list[tuple[Any, Any]] = field(default_factory=list)
    """Command and what became of it: a value, or an exception to raise at the caller."""
    notices: list[ReceiptNotice] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    dial: list[str] = field(default_factory=list)
    """Names of peers to make a socket for."""
    hang_up: list[int] = field(default_factory=list)
    """Links to close."""
    shut_out: list[int] = field(default_factory=list)
    """Inbound links whose connections are to end, and whose peers are not to be let in for a while."""
