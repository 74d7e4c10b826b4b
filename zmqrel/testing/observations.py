"""What a checker is told, as plain data, and what it may ask: it does not matter who saw it.

The simulator observes as it runs. Whoever can tell as much may do so in its place. An
observation is a word and its details:

| word | details |
| --- | --- |
| accepted, not accepted | Sent |
| recalling | Sent: it is about to be recalled |
| recalling where | sender, queue, key |
| outcome | Sent, outcome, reason, attempts |
| told | sender, id, outcome: a callback was told |
| told handed over | Sent: it is too late to recall it |
| asking, refused | HandOver: `admit` is asked about it; it said no |
| handed over | HandOver |
| finished | HandOver, result of its handler |
| turn | name of the peer that had one |
| stopped | name of the peer, whether it was closed |
| impersonated | name of the peer, and of another that takes a process with a store of its own for it |
| store lost, rolled back, power lost, damaged, forgot | name of the peer, and what is said of it in network.py |
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from zmqrel.outcome import Outcome


@dataclass(slots=True, eq=False)
class Sent:
    """What the sending application knows of a message."""

    sender: str
    to: str
    queue: str
    key: str | None
    body: Any
    sent_us: int
    """True time at which it was handed to `send`."""
    sent_store_us: int = 0
    """The sender's store clock at that time."""
    deadline_us: int = 0
    """By the sender's store clock; 0: none."""
    not_before_us: int = 0
    """Likewise."""
    max_attempts: int | None = None
    id: str | None = None
    on_expiry: str = "dead"
    error: BaseException | None = None
    """Why it was not accepted."""
    outcome: Outcome | None = None
    forgotten: bool = False
    """The sending store does not know it any more: it was lost, or put back to an older copy."""
    given_again: bool = False
    """Its number was another message's, in a life of the sender that is lost: who met that one may doubt this one."""

    @property
    def delayed(self) -> bool:
        """It travels in the lane of delayed messages."""
        return bool(self.not_before_us)


@dataclass(slots=True, eq=False)
class HandOver:
    """A message as a handler sees it, and when it was handed over: in true time, somewhere between two instants."""

    sender: str
    to: str
    queue: str
    id: str
    key: str | None
    origin_id: str | None
    body: Any
    attempt: int
    redelivered: bool
    after_us: int
    """It was not handed over yet."""
    by_us: int
    """It was."""


class World(Protocol):
    """Where observations come from."""

    @property
    def now(self) -> float:
        """Seconds since it began."""

    def true_us(self) -> int:
        """True time (microseconds since 1970)."""

    def watch(self, observer: Callable[..., None]) -> None:
        """Call `observer(what, *details)` with every observation from now on."""

    def names(self) -> Iterable[str]:
        """Its peers."""

    def life(self, name: str) -> int:
        """Which life a peer is in."""

    def agree(self, one: str, other: str) -> bool:
        """True if two peers have a session and nothing is to be healed."""

    def held_up_s(self, one: str, other: str, since_us: int) -> float:
        """For how long, at most, something that a clock exchange of two peers had to wait for was stopped since then.

        Half of that is added to what they may be wrong about each other's clock.
        """

    def stalled(self, name: str) -> bool:
        """True while the store of a peer takes nothing, so that what it decides is to be decided again."""

    def was_found_old(self, name: str, by: str, since: float) -> bool:
        """True if a peer reported, after that time, that the other called its store an old copy."""
