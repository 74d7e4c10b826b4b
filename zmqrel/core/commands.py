"""What the application asks of the core, as values. The loop hands them over; `Effects.replies` answers each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, NamedTuple, TypeVar

from zmqrel.core.history import History
from zmqrel.core.lane import OutLane
from zmqrel.outcome import Cause, Outcome


@dataclass(eq=False, slots=True)
class Send:
    """Accept messages for a peer's queue, all or none. Answered by Stored, or an exception."""

    to: str
    queue: str
    delayed: bool
    records: list[bytes]
    deadline_us: int = 0
    """By the store clock; 0: none."""
    id: str | None = None
    digest: bytes = b""
    """Of the arguments, to tell a repeated send from a different one under the same id."""


class Stored(NamedTuple):
    """Where messages of a Send lie, once committed: `count` entries from `first` on."""

    lane: OutLane
    first: int
    messages: int
    repeated: bool = False
    """An earlier send with this id and these arguments is meant."""


@dataclass(eq=False, slots=True)
class FindRepeated:
    """Was this send made before? Answered by Stored, None, or DuplicateId if its id was used for another."""

    send: Send


@dataclass(eq=False, slots=True)
class Find:
    """What is known of a message by its id. Answered by Found, or None."""

    id: str


class EndedAs(NamedTuple):
    """The outcome of a message, from the outcomes table."""

    outcome: Outcome
    reason: str | None
    attempts: int
    handed_at_us: int
    at_us: int


class Found(NamedTuple):
    """A message of the own outbox, or one that ended not too long ago."""

    lane: OutLane
    seq: int
    id: str
    key: str | None
    headers: dict[str, Any]
    sent_at_us: int
    ended: EndedAs | None
    withdrawn: Cause | None
    withdrawn_us: int = 0
    """When, by the store clock."""
    handed_at_us: int | None = None
    """When it was handed over, if its withdrawal was answered so and it has not ended; 0: not known when."""


@dataclass(eq=False, slots=True)
class Recall:
    """Withdraw messages. Answered by a list of Found as they are after it."""

    places: list[tuple[int, int]]
    """(lane number, seq)"""
    ids: Sequence[str] = ()
    """What the messages are called, in the same order: one that got another place meanwhile is found by it."""


@dataclass(eq=False, slots=True)
class RecallWhere:
    """Withdraw every unsettled message that matches. Answered by a list of Found."""

    to: str | None = None
    queue: str | None = None
    key: str | None = None
    matches: Callable[[Found], bool] | None = None
    """Asked last."""
    withdraw: bool = True
    """False: only find them."""


@dataclass(eq=False, slots=True)
class Connect:
    """Know a peer, and dial it if there is an endpoint."""

    name: str
    endpoint: str | None


@dataclass(eq=False, slots=True)
class Disconnect:
    """End the sessions with a peer and do not dial it; what waits stays."""

    name: str


@dataclass(eq=False, slots=True)
class Revoke:
    """The key of a peer is gone: end what goes on with it and do not dial it; what waits stays."""

    name: str


@dataclass(eq=False, slots=True)
class Authorise:
    """There is a key of a peer (again): dial it if there is an endpoint."""

    name: str


@dataclass(eq=False, slots=True)
class Forget:
    """End what waits for a peer that will not return, and delete what is known of it. Answered by how many ended."""

    name: str


@dataclass(eq=False, slots=True)
class Subscribe:
    """From now on outcomes wait until they were told to the application (TakeOutcomes, ToldOutcomes)."""


@dataclass(eq=False, slots=True)
class TakeOutcomes:
    """The next outcomes that were not told. Answered by (number of the last, list of Found)."""

    limit: int = 100


@dataclass(eq=False, slots=True)
class ToldOutcomes:
    """Outcomes up to this number were told, in a commit after the callbacks returned (F11)."""

    upto: int


class LanePart(NamedTuple):
    """Sequence numbers `first` to `last` of a lane."""

    lane: int
    first: int
    last: int


@dataclass(eq=False, slots=True)
class ListOutbox:
    """Messages sent from here that have no outcome, oldest first. Answered by a Page of Outgoing."""

    left: list[LanePart] | None = None
    """Where to go on, as the page before said; None: from the start."""


@dataclass(eq=False, slots=True)
class ListInbox:
    """Messages received and not settled, oldest first. Answered by a Page of Incoming."""

    queue: str | None = None
    left: list[LanePart] | None = None


@dataclass(eq=False, slots=True)
class FindReceived:
    """What lies in the inbox under an id made by zmqrel. Answered by a list of Incoming."""

    id: str


_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Page(Generic[_Item]):
    """A part of a listing; empty `left` is its end."""

    items: list[_Item]
    left: list[LanePart]


class Outgoing(NamedTuple):
    """A message of the outbox."""

    found: Found
    record: bytes


class Incoming(NamedTuple):
    """A message of the inbox. All times are by the own clock."""

    id: str
    sender: str
    queue: str
    record: bytes
    sent_us: int
    deadline_us: int
    """0 without one."""
    ready_us: int
    """When it came, or may be handed over, whichever is later."""
    attempts: int
    redelivered: bool
    in_hand: bool
    """A worker has it."""
    history: History


@dataclass(eq=False, slots=True)
class LastDead:
    """The number of the latest dead letter. Answered by it, 0 if there never was one."""


@dataclass(eq=False, slots=True)
class ListDead:
    """Dead letters, oldest first. Answered by (list of (number, DeadLetter), True if there are more)."""

    after: int = 0
    upto: int = 2**63


@dataclass(eq=False, slots=True)
class RetryDead:
    """Make a new message of this peer's own out of a dead letter. Answered by its id, None if the letter is gone."""

    number: int
    queue: str | None = None
    """Where to put it, if not in the queue that it died in."""


@dataclass(eq=False, slots=True)
class PurgeDead:
    """Delete dead letters `first` to `last` that died before a time. Answered by how many, and whether to ask again."""

    first: int
    last: int
    before_us: int | None = None


Command = (
    Send
    | FindRepeated
    | Find
    | Recall
    | RecallWhere
    | Connect
    | Disconnect
    | Revoke
    | Authorise
    | Forget
    | Subscribe
    | TakeOutcomes
    | ToldOutcomes
    | ListOutbox
    | ListInbox
    | FindReceived
    | LastDead
    | ListDead
    | RetryDead
    | PurgeDead
)
