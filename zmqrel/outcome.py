"""The words for what can become of a message. Imports nothing, so that every layer can use it."""

from enum import Enum


class Outcome(Enum):
    """The one final outcome of a message. It is never reversed."""

    HANDLED = 1
    """The receiving application acknowledged it."""
    REJECTED = 2
    """The receiving application refused it; the reason says why."""
    EXHAUSTED = 3
    """Attempts ran out, or it was withdrawn between two attempts, or it could not be transported."""
    EXPIRED = 4
    """Its deadline passed before any hand-over."""
    RECALLED = 5
    """It was recalled before any hand-over."""
    UNCERTAIN = 6
    """The store that knew was lost or damaged."""


class State(Enum):
    """Where a message is on its way, as its sender knows it."""

    QUEUED = 1
    """Handed to the peer, not yet committed."""
    STORED = 2
    """Committed to the sender's outbox."""
    SENT = 3
    """May have left this machine."""
    RECEIVED = 4
    """Committed by the receiving peer."""
    EXPIRING = 5
    """Past its deadline; the receiver has been asked not to hand it over."""
    RECALLING = 6
    """Recalled; the receiver has been asked not to hand it over."""
    SETTLED = 7
    """It has its outcome."""


class Verdict(Enum):
    """The answer to a recall."""

    PENDING = 1
    """Not yet known. The recall stays in force."""
    RECALLED = 2
    """It was not and never will be handed over."""
    TOO_LATE = 3
    """It was handed over, or had ended before."""
    UNCERTAIN = 4
    """The store that knew was lost."""


class Cause(Enum):
    """Why a sender withdraws a message."""

    RECALL = 1
    DEADLINE = 2
    GIVE_UP = 3

    @property
    def reason(self) -> str:
        """The reason that a settlement after this withdrawal carries."""
        return _REASONS[self]


_REASONS = {Cause.RECALL: "recalled", Cause.DEADLINE: "deadline", Cause.GIVE_UP: "gave up"}
