"""What happened to a message, as far as a store remembers it: a few words with a time, newest last.

Nothing is written for it that would not be written anyway: a received message keeps what went wrong in its ROW_STATE,
which exists only for rows that were retried, moved or interrupted, and a dead letter takes that along.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, NamedTuple

STORED = "stored"
SENT = "sent"
RESENT = "resent"
RECEIVED = "received"
HANDED_OVER = "handed over"
ATTEMPT_FAILED = "attempt failed"
MOVED = "moved"
RECALLED = "recalled"
EXPIRED = "expired"
GIVEN_UP = "given up"
SETTLED = "settled"

_WHILE_AT_WORK = (RECALLED, EXPIRED, GIVEN_UP)

MOST_KEPT = 20
"""Happenings that a row of the inbox keeps: the latest. `attempts` tells whether there were more."""
_MOST_DETAIL = 200


class Happened(NamedTuple):
    """One thing that happened to a message."""

    at_us: int
    """By the store clock."""
    what: str
    """One of the words above."""
    detail: str | None = None
    """Which attempt and why it failed, from which queue to which, the outcome and its reason."""


History = tuple[Happened, ...]


def happened(at_us: int, what: str, detail: str | None = None) -> Happened:
    """A happening whose detail is short enough to be written again with each attempt."""
    return Happened(at_us, what, None if detail is None else detail[:_MOST_DETAIL])


def handed_over(before: History, at_us: int, attempt: int) -> History:
    """The history with the hand-over of the attempt that is running, or that ended it.

    It is not kept with the rest: only what was noted while the attempt ran comes after it.
    """
    place = len(before)
    while place and before[place - 1].what in _WHILE_AT_WORK:
        place -= 1
    return (*before[:place], Happened(at_us, HANDED_OVER, f"attempt {attempt}"), *before[place:])


def failed(at_us: int, attempt: int, reason: str) -> Happened:
    """An attempt that did not settle its message."""
    return happened(at_us, ATTEMPT_FAILED, f"attempt {attempt}: {reason}")


def settled(at_us: int, outcome: str, reason: str | None) -> Happened:
    """The outcome."""
    return happened(at_us, SETTLED, f"{outcome}: {reason}" if reason else outcome)


def added(before: History, *news: Happened) -> History:
    """The history with `news`; the oldest is given up beyond MOST_KEPT."""
    return (before + news)[-MOST_KEPT:]


def decode_history(rows: Iterable[list[Any]]) -> History:
    """The history of what msgpack made of one."""
    return tuple(Happened(*row) for row in rows)
