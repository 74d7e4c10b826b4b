"""What each event makes of a message: the stages that it passes, from acceptance to its outcome, as one table.

    STORED -> SENT -> WAITING -> RUNNING -> an outcome
                                   |  ^
                                   v  |
                                 RETRYING          RUNNING -> DOOMED -> an outcome, if it is withdrawn meanwhile

A stage is what both stores hold together of one message; the marks that say it are named with each. Steps forward are
taken by these marks themselves (a floor that rises, a row that is taken out of its buffer). Wherever a message ends, or
an event does not mean the same in each stage, the core asks this table: so it is what happens, and not a description of
it. A test holds every entry against running engines.

Doubt is no stage: of a message that may have been handed over in a life that nobody remembers, RECALLED and EXPIRED
become UNCERTAIN, wherever that is decided.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import TYPE_CHECKING

from zmqrel.core.row import Place
from zmqrel.outcome import Cause, Outcome

if TYPE_CHECKING:
    from zmqrel.core.row import Row


class Stage(Enum):
    """Where a message without an outcome is. Enumerated in the order in which it is passed."""

    STORED = 1
    """In the outbox, above `sent_upto`: it never left."""
    SENT = 2
    """At or below `sent_upto`, above the receiver's floor."""
    WAITING = 3
    """In the receiver's inbox or a buffer, never handed over."""
    RUNNING = 4
    """With a worker, or finished and not settled by a commit."""
    DOOMED = 5
    """With a worker, and withdrawn: there is no further attempt."""
    RETRYING = 6
    """In the inbox, handed over before."""


class Event(Enum):
    """What can happen to it."""

    TRANSMITTED = 1
    RECEIVED = 2
    """The receiver committed it."""
    NOT_TAKEN = 3
    """It came, and the receiver's store did not take it."""
    HANDED_OVER = 4
    ACKNOWLEDGED = 5
    REJECTED = 6
    """The application refused it."""
    REFUSED = 7
    """`admit` said no."""
    FAILED = 8
    """The attempt failed, and the Retry allows another."""
    FAILED_LAST = 9
    """The attempt failed, and it was the last one that is allowed."""
    MOVED = 10
    """The application put it into another queue."""
    RECALLED = 11
    """Its sender recalled it, and whoever decides got to know."""
    DEADLINE = 12
    """Its deadline passed, and whoever decides got to know."""
    GIVEN_UP = 13
    """It was not received for `give_up_after_s`, and whoever decides got to know."""
    DAMAGED = 14
    """Its record was read back and does not match its checksum."""
    TOO_LARGE = 15
    """The peer does not take entries of this size."""
    FORGOTTEN = 16
    """Its sender's application said that the peer will not return."""
    NOT_PERMITTED = 17
    """It came, and its sender may not send it there."""


TRANSITIONS: Mapping[Stage, Mapping[Event, Stage | Outcome]] = {
    Stage.STORED: {
        Event.TRANSMITTED: Stage.SENT,
        Event.RECALLED: Outcome.RECALLED,
        Event.DEADLINE: Outcome.EXPIRED,
        Event.GIVEN_UP: Outcome.EXHAUSTED,
        Event.DAMAGED: Outcome.EXHAUSTED,
        Event.TOO_LARGE: Outcome.EXHAUSTED,
        Event.FORGOTTEN: Outcome.RECALLED,
    },
    Stage.SENT: {
        Event.TRANSMITTED: Stage.SENT,
        Event.RECEIVED: Stage.WAITING,
        Event.NOT_TAKEN: Stage.SENT,
        Event.NOT_PERMITTED: Outcome.REJECTED,
        Event.RECALLED: Outcome.RECALLED,
        Event.DEADLINE: Outcome.EXPIRED,
        Event.GIVEN_UP: Outcome.EXHAUSTED,
        Event.DAMAGED: Outcome.UNCERTAIN,
        Event.TOO_LARGE: Outcome.EXHAUSTED,
        Event.FORGOTTEN: Outcome.UNCERTAIN,
    },
    Stage.WAITING: {
        Event.HANDED_OVER: Stage.RUNNING,
        Event.REFUSED: Outcome.REJECTED,
        Event.RECALLED: Outcome.RECALLED,
        Event.DEADLINE: Outcome.EXPIRED,
        Event.GIVEN_UP: Outcome.EXHAUSTED,
        Event.DAMAGED: Outcome.UNCERTAIN,
    },
    Stage.RUNNING: {
        Event.ACKNOWLEDGED: Outcome.HANDLED,
        Event.REJECTED: Outcome.REJECTED,
        Event.FAILED: Stage.RETRYING,
        Event.FAILED_LAST: Outcome.EXHAUSTED,
        Event.MOVED: Stage.RETRYING,
        Event.RECALLED: Stage.DOOMED,
        Event.DEADLINE: Stage.DOOMED,
        Event.GIVEN_UP: Stage.DOOMED,
    },
    Stage.DOOMED: {
        Event.ACKNOWLEDGED: Outcome.HANDLED,
        Event.REJECTED: Outcome.REJECTED,
        Event.FAILED: Outcome.EXHAUSTED,
        Event.FAILED_LAST: Outcome.EXHAUSTED,
        Event.MOVED: Outcome.EXHAUSTED,
        Event.RECALLED: Stage.DOOMED,
        Event.DEADLINE: Stage.DOOMED,
        Event.GIVEN_UP: Stage.DOOMED,
    },
    Stage.RETRYING: {
        Event.HANDED_OVER: Stage.RUNNING,
        Event.REFUSED: Outcome.REJECTED,
        Event.RECALLED: Outcome.EXHAUSTED,
        Event.DEADLINE: Outcome.EXHAUSTED,
        Event.GIVEN_UP: Outcome.EXHAUSTED,
        Event.DAMAGED: Outcome.UNCERTAIN,
    },
}
"""What is in no entry cannot happen in that stage."""

WITHDRAWN = {
    Cause.RECALL: Event.RECALLED,
    Cause.DEADLINE: Event.DEADLINE,
    Cause.GIVE_UP: Event.GIVEN_UP,
}
"""The event that a withdrawal for each cause is."""


def stage_at_receiver(row: Row) -> Stage:
    """The stage of a message of the inbox."""
    # What is DONE and was not handed over was stopped at the door, by `admit` or its deadline.
    if row.place is Place.RUNNING or (row.place is Place.DONE and row.handed_us):
        return Stage.RUNNING if row.withdrawn is None else Stage.DOOMED
    return stage_in_queue(row)


def stage_in_queue(row: Row) -> Stage:
    """The stage of one that no worker has, or that was stopped at the door."""
    return Stage.RETRYING if row.was_handed_over else Stage.WAITING


def stage_at_sender(seq: int, sent_upto: int) -> Stage:
    """The stage of a message of the outbox as far as its sender can tell by itself: the receiver knows what follows."""
    return Stage.SENT if seq <= sent_upto else Stage.STORED


def outcome_of(stage: Stage, event: Event) -> Outcome:
    """The outcome that an event ends a message with which is in this stage."""
    outcome = TRANSITIONS[stage][event]
    assert isinstance(outcome, Outcome), (stage, event)
    return outcome
