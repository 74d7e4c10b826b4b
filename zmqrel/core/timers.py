"""Points in time at which something is to be looked at, one per key. Reading them changes nothing."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heappop, heappush


class Timers:
    """A heap of (time, key) that tolerates stale entries: moving a timer to a later time costs one dict write."""

    __slots__ = ("_at", "_heap", "_serial", "_stands")

    def __init__(self) -> None:
        self._at: dict[Hashable, int] = {}
        self._heap: list[tuple[int, int, Hashable]] = []
        self._stands: dict[Hashable, int] = {}
        """Where in the heap each key will be looked at; any other entry of that key is stale."""
        self._serial = 0

    def set(self, key: Hashable, at_us: int) -> None:
        """Let `key` come up at `at_us`, whatever was set before."""
        self._at[key] = at_us
        stands = self._stands.get(key)
        if stands is None or at_us < stands:
            self._push(at_us, key)

    def set_earlier(self, key: Hashable, at_us: int) -> None:
        """Let `key` come up at `at_us` unless it comes up before."""
        before = self._at.get(key)
        if before is None or at_us < before:
            self.set(key, at_us)

    def is_set(self, key: Hashable) -> bool:
        """True if `key` will come up."""
        return key in self._at

    def due(self, now_us: int) -> list[Hashable]:
        """Keys whose time has come, earliest first; they are no longer set."""
        keys = []
        while self._heap and self._heap[0][0] <= now_us:
            stood_us, _, key = heappop(self._heap)
            if self._stands.get(key) != stood_us:
                continue
            del self._stands[key]
            at_us = self._at[key]
            if at_us > stood_us:
                self._push(at_us, key)
                continue
            del self._at[key]
            keys.append(key)
        return keys

    def next_us(self) -> int | None:
        """A time before which nothing comes up, None if nothing is set. May be early, never late."""
        return self._heap[0][0] if self._at else None

    def _push(self, at_us: int, key: Hashable) -> None:
        # The serial keeps keys of different types from being compared.
        self._serial += 1
        self._stands[key] = at_us
        heappush(self._heap, (at_us, self._serial, key))
