"""What the application asks of the core, as values. The loop hands them over; `Effects.replies` answers each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

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


@dataclass(eq=False, slots=True)
class Recall:
    """Withdraw messages. Answered by a list of Found as they are after it."""

    places: list[tuple[int, int]]
    """(lane number, seq)"""


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


Command = (
    Send | FindRepeated | Find | Recall | RecallWhere | Connect | Disconnect | Subscribe | TakeOutcomes | ToldOutcomes
)
