"""Tells the application the outcomes of what it sent: in order, at least once, also those of an earlier life (F11).

Outcomes lie in the store, numbered in the order in which they became known. This thread takes those that were not
told, calls back, and has the number up to which all callbacks returned committed: what was told in between is told
again if the process dies.
"""

from __future__ import annotations

import logging
import random
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from zmqrel.core import commands as c
from zmqrel.errors import PeerClosed, StoreFull
from zmqrel.escaping import escaped
from zmqrel.outcome import Outcome
from zmqrel.retry import Retry
from zmqrel.runtime.drive import Drive

if TYPE_CHECKING:
    from zmqrel.runtime.loop import Loop

_log = logging.getLogger("zmqrel")
_AT_ONCE = 100
_FULL_PAUSE_S = 0.5
_AGAIN = Retry.exponential(0.1, max_interval=30, jitter="full")


@dataclass(frozen=True, slots=True)
class Listener:
    """A callback and what it wants to hear of; empty outcomes are all."""

    callback: Callable[[c.Found], object]
    outcomes: Collection[Outcome]
    to: str | None
    queue: str | None

    def wants(self, found: c.Found) -> bool:
        """True if this outcome is to be told."""
        if found.ended is None or (self.outcomes and found.ended.outcome not in self.outcomes):
            return False
        return (self.to is None or self.to == found.lane.peer) and (
            self.queue is None or self.queue == found.lane.queue
        )


class Teller(ABC):
    """Tells the listeners of one peer what was not told before."""

    def __init__(self, drive: Drive, listeners: list[Listener]) -> None:
        """`listeners` are called in order."""
        self._drive = drive
        self._listeners = listeners
        self._rng = random.Random(drive.options.seed)

    @abstractmethod
    def _pause(self, seconds: float) -> bool:
        """Wait so long. True if the peer closes, at once if it does meanwhile."""

    @property
    @abstractmethod
    def _is_closing(self) -> bool:
        """Nothing more is to be told in this life."""

    def _tell_all(self) -> None:
        """Tell until there is no news. If the store is full nothing can be noted as told: it is told again then."""
        while not self._is_closing:
            try:
                if not self._tell_some():
                    return
            except StoreFull:
                self._pause(_FULL_PAUSE_S)

    def _tell_some(self) -> bool:
        """Tell the next outcomes. False if these were all, or the peer closes before they were told."""
        upto, found = self._drive.ask(c.TakeOutcomes(_AT_ONCE)).result()
        for item in found:
            for listener in self._listeners:
                if listener.wants(item) and not self._tell(listener, item):
                    return False
        if found:
            self._drive.ask(c.ToldOutcomes(upto)).result()
        return len(found) >= _AT_ONCE  # of others that came meanwhile there is news

    def _tell(self, listener: Listener, found: c.Found) -> bool:
        """Call until it returns. False if the peer closes before."""
        attempt = 0
        while True:
            try:
                listener.callback(found)
                return True
            except BaseException:  # as in handlers, whatever it raises: it is called again
                attempt += 1
                _log.warning("on_outcome callback failed for %s, attempt %d", escaped(found.id), attempt, exc_info=True)
            if self._pause(_AGAIN.delay(attempt, self._rng) or 0.0):
                return False


class OutcomeTeller(Teller):
    """The thread that calls the listeners of one peer."""

    def __init__(self, loop: Loop, listeners: list[Listener]) -> None:
        super().__init__(loop, listeners)
        self._loop = loop
        self._news = threading.Event()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._work, name=f"zmqrel-{loop.name}-outcomes", daemon=True)

    def start(self) -> None:
        """Begin with what was not told before."""
        self._loop.ask(c.Subscribe()).result()
        self._loop.on_ended = self._news.set
        self._loop.when_ended(self._end)
        self._news.set()
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Let a running callback return, for at most `timeout_s` seconds. The rest is told in the next life."""
        self._end()
        if self._thread.is_alive() and self._thread is not threading.current_thread():
            self._thread.join(max(0.0, timeout_s))

    def _end(self) -> None:
        self._closing.set()
        self._news.set()

    def _work(self) -> None:
        try:
            while not self._closing.is_set():
                self._news.wait()
                self._news.clear()
                self._tell_all()
        except PeerClosed:
            return  # the rest is told in the next life

    def _pause(self, seconds: float) -> bool:
        return self._closing.wait(seconds)

    @property
    def _is_closing(self) -> bool:
        return self._closing.is_set()
