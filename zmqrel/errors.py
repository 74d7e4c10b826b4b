"""Every exception of zmqrel.

Each class says who is at fault: the caller (mend the call), the peer (look at the other side) or the store
(look at the disk). Nothing here imports more than the names of outcomes, so that every layer may raise these;
for the same reason the check of durations stands here, where `RetryLater` needs it.
"""

from __future__ import annotations

import reprlib
from datetime import timedelta
from typing import Final

from zmqrel.escaping import escaped
from zmqrel.outcome import Outcome

__all__ = [
    "LONGEST_S",
    "AlreadySettled",
    "ConfigError",
    "DeadlinePassed",
    "DuplicateId",
    "Error",
    "ForkedPeer",
    "MessageTooLarge",
    "NotHandled",
    "NotSerializable",
    "OutboxFull",
    "PeerClosed",
    "Reject",
    "RetryLater",
    "StoreDamaged",
    "StoreFull",
    "StoreLocked",
    "StoreTooNew",
    "UnknownMessage",
    "UnknownPeer",
    "duration_s",
    "shown",
]

# A century. Beyond it, sums of instants and durations leave what datetime and 64-bit integers hold.
LONGEST_S: Final = 3_155_760_000.0
_LEAST_ABOVE_0 = 5e-324

_short = reprlib.Repr()
_short.maxstring = _short.maxother = 80


def shown(value: object) -> str:
    """What a message shows of a value: its repr, cut short."""
    try:
        return _short.repr(value)
    except ValueError:  # an int of more digits than Python converts
        return f"<{type(value).__name__}>"


class Error(Exception):
    """Above every error that zmqrel raises on purpose."""


class ConfigError(Error, ValueError):
    """The caller is at fault: an argument or option has a wrong type or value, or two contradict each other.

    The message names the parameter, what it takes and what it was given. Nothing was accepted or changed.
    """

    @classmethod
    def of(cls, parameter: str, takes: str, value: object) -> ConfigError:
        """The error for one parameter: its name, what it takes and, cut short, what it was given."""
        return cls(f"{parameter} takes {takes}, not {shown(value)}")


def duration_s(parameter: str, value: object, *, zero: bool = True) -> float:
    """A duration in seconds, from a number or a timedelta: 0 (unless `zero` is false) to a century.

    Raises ConfigError naming `parameter` for anything else: a bool is not a number, nor are NaN and infinity.
    """
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    least = 0.0 if zero else _LEAST_ABOVE_0
    if isinstance(seconds, (int, float)) and not isinstance(seconds, bool) and least <= seconds <= LONGEST_S:
        return float(seconds)
    limits = "from 0" if zero else "above 0"
    raise ConfigError.of(parameter, f"seconds, {limits} to {LONGEST_S:.0f}, or a timedelta of as much", value)


class UnknownPeer(Error, LookupError):
    """The caller is at fault: no peer of that name is listed, or it is the peer's own name."""


class UnknownMessage(Error, LookupError):
    """The caller is at fault: this store has no such id, or forgot it after `outcome_retention_s`."""


class DuplicateId(Error):
    """The caller is at fault: the id was used for a send with other arguments. The first message stands."""


class MessageTooLarge(Error):
    """The caller is at fault: the encoded body is above `max_body_bytes`. Nothing was accepted."""


class NotSerializable(Error, TypeError):
    """The caller is at fault: the body holds something that cannot be sent.

    The message names the path to it, such as `$.order.when`, and what is allowed. Nothing was accepted.
    """


class OutboxFull(Error):
    """The peer is at fault, or a caller is too fast: `outbox_max_messages` or `outbox_max_bytes` is reached.

    What was accepted stays. Room comes when messages are settled, recalled or forgotten.
    """


class DeadlinePassed(Error):
    """The caller is at fault: the deadline is in the past or before the start time. Nothing was accepted."""


class PeerClosed(Error):
    """The caller is at fault: the peer was not started, or was closed. What was accepted is in its store."""


class AlreadySettled(Error):
    """The caller is at fault: the message was acked, retried, rejected or moved before. That stands."""


class NotHandled(Error):
    """The peer is at fault, or the message was withdrawn: it ended without having been handled.

    `outcome` is what it ended with, `reason` the words that came with it, or None.
    """

    outcome: Outcome
    reason: str | None

    def __init__(self, outcome: Outcome, reason: str | None = None) -> None:
        super().__init__(outcome, reason)
        self.outcome = outcome
        self.reason = reason

    def __str__(self) -> str:
        because = f": {escaped(self.reason)}" if self.reason else ""
        return f"the message ended {self.outcome.name}, not HANDLED{because}"


class ForkedPeer(Error):
    """The caller is at fault: the peer was used in a forked child. Make a new one there, on another store."""


class StoreLocked(Error):
    """The caller is at fault: another process, or another peer of this one, has the store directory open."""


class StoreFull(Error):
    """The store is at fault: the disk or `map_size_bytes` is full. What was accepted stays."""


class StoreDamaged(Error):
    """The store is at fault: it cannot be read, or what it holds fails its checks."""


class StoreTooNew(Error):
    """The store is at fault: a newer zmqrel wrote it. It was left as it is; open it with that version."""


class Reject(Exception):
    """Raised by a handler: do not try this message again. It ends REJECTED; its sender is told `reason`.

    Raises ConfigError if `reason` is not a str.
    """

    reason: str

    def __init__(self, reason: str) -> None:
        if not isinstance(reason, str):
            raise ConfigError.of("reason", "a str", reason)
        super().__init__(reason)
        self.reason = reason


class RetryLater(Exception):
    """Raised by a handler: hand this message over again after `delay` seconds, not after the Retry's wait.

    The hand-over counts as an attempt, so `max_attempts` still ends it. `delay` is seconds, from 0 to a
    century, or a timedelta; the attribute is a float. Raises ConfigError for anything else.
    """

    delay: float

    def __init__(self, delay: float | timedelta) -> None:
        self.delay = duration_s("delay", delay)
        super().__init__(self.delay)
