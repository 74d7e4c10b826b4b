"""A store that questions are asked of: one of a running peer, or one that nobody has open."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from time import time
from typing import Any, Protocol, TypeVar

from zmqrel.control.listener import ControlListener
from zmqrel.core import commands as c
from zmqrel.core import tables
from zmqrel.core.engine import Engine, read_clock
from zmqrel.core.journal import Journal
from zmqrel.core.shared import Ledger
from zmqrel.core.verification import Examined, examine
from zmqrel.errors import LONGEST_S, Error, StoreDamaged
from zmqrel.options import Options
from zmqrel.receipts import Receipts, Ticket
from zmqrel.runtime.clock import Clock
from zmqrel.runtime.loop import Loop
from zmqrel.store.directory import REDO
from zmqrel.store.in_hand import left_in_hand
from zmqrel.store.lmdb import LmdbStore

_T = TypeVar("_T")

# Whoever opens the store for a question keeps what its peer would keep: how long that is, is not in the store.
_KEEP_ALL: dict[str, Any] = {
    "outcome_retention_s": LONGEST_S,
    "dead_retention_s": LONGEST_S,
    "dead_max_bytes": 2**63 - 1,
    "outbox_max_messages": 2**63 - 1,
    "outbox_max_bytes": 2**63 - 1,
    "inbox_max_messages": 2**63 - 1,
    "inbox_max_bytes": 2**63 - 1,
}


class Asked(Protocol):
    """What the questions need of a store."""

    directory: Path

    @property
    def name(self) -> str:
        """The peer's."""
        ...

    @property
    def running(self) -> bool:
        """Its peer is running."""
        ...

    def ask(self, command: c.Command) -> Any:
        """The answer of the core. Raises what it is refused with, and PeerClosed."""
        ...

    def look(self, reader: Callable[[Engine], _T]) -> _T:
        """What `reader` makes of the core and its store, which it does not change."""
        ...

    def ticket(self, found: c.Found) -> Ticket:
        """What a receipt would know of a message that was sent from here."""
        ...

    def examine(self, behind: bytes) -> Examined:
        """Check a page of its rows, those behind a key."""
        ...

    def stats(self) -> dict[str, int]:
        """What `Peer.stats()` tells."""
        ...

    def control(self) -> dict[str, int] | None:
        """How many questions its control socket has answered, and how many connections it has dropped."""
        ...

    def to_datetime(self, store_us: int) -> datetime:
        """A time by the store clock as an aware datetime."""
        ...

    def from_posix(self, posix_s: float) -> int:
        """POSIX seconds by the store clock."""
        ...


class OfLoop:
    """The store of a loop that runs."""

    def __init__(self, loop: Loop, directory: Path) -> None:
        self.name = loop.name
        self.directory = directory
        self._listener: ControlListener | None = None
        self._loop = loop
        self.to_datetime = loop.clock.to_wall_datetime
        self.from_posix = loop.clock.from_posix

    def ask(self, command: c.Command) -> Any:
        """See Asked."""
        return self._loop.ask(command).result()

    def look(self, reader: Callable[[Engine], _T]) -> _T:
        """See Asked."""
        found: _T = self._loop.look(reader).result()
        return found

    def ticket(self, found: c.Found) -> Ticket:
        """See Asked."""
        ticket = _ticket(found)
        self._loop.post(lambda: self._loop.look_up(ticket, found)).result()
        return ticket

    def examine(self, behind: bytes) -> Examined:
        """See Asked."""
        return self.look(lambda engine: engine.examine(behind))

    def stats(self) -> dict[str, int]:
        """See Asked."""
        figures: dict[str, int] = self._loop.stats().result()
        return figures

    @property
    def running(self) -> bool:
        """See Asked."""
        return self._listener is not None

    def served_by(self, listener: ControlListener) -> None:
        """The loop is that of a running peer, with this control socket."""
        self._listener = listener

    def control(self) -> dict[str, int] | None:
        """See Asked."""
        of = self._listener
        return None if of is None else {"answered": of.answered, "dropped": of.dropped}


class OfNobody:
    """The store of a peer that does not run, opened to be looked at."""

    running = False

    def __init__(self, store: LmdbStore, directory: Path) -> None:
        self.directory = directory
        self.previous = store.previous
        """How the last life ended."""
        self._store = store

    @cached_property
    def _clock(self) -> Clock:
        with self._damage_told():
            return Clock(time, *read_clock(self._store), boot_ahead_us=self._store.clock_ahead_us)

    @cached_property
    def _engine(self) -> Engine:
        ids = random.SystemRandom()
        options = Options(**_KEEP_ALL)
        with self._damage_told():
            return Engine(
                self.name, options, random.Random(), lambda: ids.getrandbits(64) or 1, self._store, self._clock.now()
            )

    @cached_property
    def name(self) -> str:
        """The peer's; empty in a store that was made before names were kept."""
        with self._damage_told():
            data = self._store.get(tables.META)
            return "" if data is None else Ledger.decode(data).name

    @contextmanager
    def _damage_told(self) -> Iterator[None]:
        try:
            yield
        except Error:
            raise
        except Exception as error:  # rows that were not written like that: whatever decoding them raises
            raise StoreDamaged(
                f"the store {self.directory} cannot be read ({type(error).__name__}: {error}); zmqrel verify tells more"
            ) from error

    def to_datetime(self, store_us: int) -> datetime:
        """See Asked."""
        return self._clock.to_wall_datetime(store_us)

    def from_posix(self, posix_s: float) -> int:
        """See Asked."""
        return self._clock.from_posix(posix_s)

    def ask(self, command: c.Command) -> Any:
        """See Asked."""
        return self._engine.answer(command)

    def look(self, reader: Callable[[Engine], _T]) -> _T:
        """See Asked."""
        return reader(self._engine)

    def ticket(self, found: c.Found) -> Ticket:
        """See Asked."""
        ticket = _ticket(found)
        Receipts().found(ticket, found)
        return ticket

    def examine(self, behind: bytes) -> Examined:
        """See Asked. Without the core, which a damaged store may not load."""
        return examine(Journal(self._store), behind)

    def stats(self) -> dict[str, int]:
        """See Asked."""
        return self._engine.stats() | {"in_hand": len(left_in_hand(self.directory / "in-hand"))}

    def control(self) -> None:
        """See Asked."""


def _ticket(found: c.Found) -> Ticket:
    return Ticket(found.lane.peer, found.lane.queue, found.key, found.id, 1, found.sent_at_us)


@contextmanager
def looked_at(directory: Path, verify: bool = False) -> Iterator[OfNobody]:
    """A stopped peer's store, to be looked at: nothing in it changes. Raises StoreLocked, StoreDamaged and the like."""
    store = LmdbStore(directory, only_look=True, verify=verify)
    try:
        yield OfNobody(store, directory)
    finally:
        store.close()


@contextmanager
def opened(directory: Path) -> Iterator[OfLoop]:
    """A stopped peer's store, to be changed: a short life without sockets. Raises as `looked_at`."""
    with looked_at(directory) as found:
        name = found.name
    durability = "relaxed" if (directory / REDO).exists() else "fsync"
    loop = Loop(name, directory, (), Options(**_KEEP_ALL | {"durability": durability}), {})
    loop.start()
    try:
        yield OfLoop(loop, directory)
    finally:
        loop.stop()
