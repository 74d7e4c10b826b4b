"""What all parts of one peer's core share: identity, the open transaction, the present turn and its effects."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import TYPE_CHECKING, Any

import msgpack

from zmqrel.core import tables
from zmqrel.core.effects import Effects, Event
from zmqrel.core.entries import pack
from zmqrel.core.journal import Journal
from zmqrel.core.lane import InLane, OutLane
from zmqrel.core.limits import REPORTS, REPORTS_PER_S, Buckets
from zmqrel.core.runs import Runs
from zmqrel.core.timers import Timers
from zmqrel.core.times import Now
from zmqrel.core.transport import Transport
from zmqrel.errors import ConfigError
from zmqrel.options import Options
from zmqrel.permissions import Permissions

if TYPE_CHECKING:
    from random import Random


@dataclass(slots=True)
class Ledger:
    """The one row that says whose store this is and how much is in it; written by every commit."""

    store_id: int
    instance: int
    commit_count: int = 0
    clock_us: int = 0
    wall_us: int = 0
    next_lane: int = 1
    next_queue: int = 1
    next_peer: int = 1
    next_outcome: int = 1
    next_dead: int = 1
    told_outcome: int = 0
    """Outcomes up to this number were told to the application, or there was nobody to tell."""
    subscribed: bool = False
    """Someone once asked to be told outcomes: keep them for the next life until they are told."""
    outbox_messages: int = 0
    outbox_bytes: int = 0
    inbox_messages: int = 0
    inbox_bytes: int = 0
    dead_messages: int = 0
    dead_bytes: int = 0
    name: str = ""
    """The peer whose store this is; empty in one that was made before names were kept."""
    fell_behind: bool = False
    """A power cut once took what was not flushed, and with it, it may be, the memory of some peer."""

    def encode(self) -> bytes:
        """The bytes of the row."""
        return pack(_LEDGER_VALUES(self))

    @classmethod
    def decode(cls, data: bytes) -> Ledger:
        """The ledger of these bytes."""
        return cls(**dict(zip(_LEDGER_FIELDS, msgpack.unpackb(data), strict=False)))

    def take_name(self, name: str) -> None:
        """Note whose store this is. Raises ConfigError if it is another peer's."""
        if self.name not in ("", name):
            raise ConfigError(
                f"name: the store is that of peer {self.name!r} and takes no peer {name!r}; give each a directory of "
                "its own"
            )
        self.name = name


_PROVOKED = ("malformed", "refused", "limited", "impostors", "shut_out")

_LEDGER_FIELDS = tuple(Ledger.__dataclass_fields__)
_LEDGER_VALUES = attrgetter(*_LEDGER_FIELDS)


@dataclass(slots=True)
class Shared:
    """See the module. `now` and `effects` are those of the present turn."""

    name: str
    options: Options
    rng: Random
    """For jitter."""
    random_id: Callable[[], int]
    """64 random bits, never 0: the names of stores, lives, lanes and sessions."""
    journal: Journal
    ledger: Ledger
    now: Now
    transport: Transport | None = None
    effects: Effects = field(default_factory=Effects)
    timers: Timers = field(default_factory=Timers)
    """On the monotonic clock: backoff, heartbeats, liveness."""
    clock_timers: Timers = field(default_factory=Timers)
    """On the store clock: deadlines, delays, retention."""
    counters: Counter[str] = field(default_factory=Counter)
    out_lanes: dict[int, OutLane] = field(default_factory=dict)
    in_lanes: dict[int, InLane] = field(default_factory=dict)
    frames: list[tuple[int, list[Any], list[bytes] | None]] = field(default_factory=list)
    """Frames of this turn whose headers still lack the commit count."""
    permissions: Permissions | None = None
    """What other peers may do here, None: everything."""
    accepting: bool = True
    """False while the store is full: nothing new is taken in."""
    scarce: bool = False
    """True while a full store has so little left that nothing may be written which does not make room soon."""
    intake_bytes: int = 0
    """Bytes of messages that this turn took in from peers."""
    most_intake_bytes: int | None = None
    """The limit of it, None while there is none."""
    wasted: int = 0
    """What the present frame made necessary though it brought nothing, in bytes: see limits.py."""
    reports: Buckets = field(default_factory=lambda: Buckets(REPORTS_PER_S, REPORTS))
    """Of events that others provoke, by kind and peer."""
    touched: dict[int, OutLane | InLane] = field(default_factory=dict)
    """Lanes whose row this turn's commit must hold."""
    stale: dict[int, OutLane | InLane] = field(default_factory=dict)
    """Lanes whose row is to be written with the next commit, but is not worth one."""

    unflushed: dict[OutLane, None] = field(default_factory=dict)
    """Under "relaxed" durability: lanes that sent, or hold back, something that no flush covers yet."""
    stale_peers: dict[str, Any] = field(default_factory=dict)
    """Channels whose row is to be written with the next commit."""
    outbox_runs: Runs = field(init=False)
    """Records of the own lanes."""
    inbox_runs: Runs = field(init=False)
    """Records of the others' lanes, and of own messages in own queues."""

    def __post_init__(self) -> None:
        self.outbox_runs = Runs(self.journal, tables.OUTBOX, tables.OUTBOX_HOLES)
        self.inbox_runs = Runs(self.journal, tables.INBOX, tables.INBOX_HOLES)

    def touch(self, lane: OutLane | InLane) -> None:
        """The lane's row goes into this turn's commit."""
        self.touched[lane.no] = lane
        self.journal.wrote = True

    def touch_lazily(self, lane: OutLane | InLane) -> None:
        """The lane's row goes into the next commit that there is a reason for."""
        self.stale[lane.no] = lane

    def delete_lane(self, lane: OutLane | InLane) -> None:
        """The lane is over and nothing refers to it."""
        lanes: dict[int, Any] = self.out_lanes if isinstance(lane, OutLane) else self.in_lanes
        for rows in (lanes, self.touched, self.stale):
            rows.pop(lane.no, None)
        self.journal.delete(tables.numbered_u32(tables.LANE, lane.no))

    def new_lane_no(self) -> int:
        """A local number for a new lane."""
        number = self.ledger.next_lane
        self.ledger.next_lane += 1
        return number

    def event(self, kind: str, peer: str, detail: str) -> None:
        """Report something that an operator wants to know, and count it.

        What others can bring about as often as they like is reported now and then only.
        """
        self.counters[kind] += 1
        if kind not in _PROVOKED or self.reports.take_one((kind, peer), self.now.mono_us):
            self.effects.events.append(Event(kind, peer, detail))

    def write_lanes(self, lanes: list[OutLane | InLane]) -> None:
        """Put the rows of `lanes`."""
        lane_key = tables.numbered_u32
        self.journal.put_many(sorted([(lane_key(tables.LANE, lane.no), lane.encode()) for lane in lanes]))
