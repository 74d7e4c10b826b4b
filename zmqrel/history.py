"""What happened to a message, as users see it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import NamedTuple

from zmqrel.core.history import Happened


class HistoryEvent(NamedTuple):
    """One thing that happened to a message."""

    at: datetime
    """When: aware, UTC, by the local clock."""
    what: str
    """"stored", "sent", "resent", "received", "handed over", "attempt failed", "moved", "recalled", "expired",
    "given up" or "settled"."""
    detail: str | None = None
    """Which attempt and why it failed, from which queue to which, the outcome and its reason."""


def told(happened: Iterable[Happened], to_datetime: Callable[[int], datetime]) -> tuple[HistoryEvent, ...]:
    """The events of what happened."""
    return tuple(HistoryEvent(to_datetime(at_us), what, detail) for at_us, what, detail in happened)
