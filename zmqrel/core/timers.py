"""Points in time at which something is to be looked at, one per key. Reading them changes nothing."""

from __future__ import annotations

from collections.abc import Hashable
from heapq import heappop, heappush, heapreplace


class Timers:
    """A heap of (time, key) that tolerates stale entries, but for its first: nobody wakes up for nothing.

    Moving a timer to a later time, or cancelling it, costs one dict write unless it is the next one to come up.
    """

    __slots__ = ("_at", "_heap", "_serial", "_stands", "next_us")

    def __init__(self) -> None:
        self._at: dict[Hashable, int] = {}
        self._heap: list[tuple[int, int, Hashable]] = []
        self._stands: dict[Hashable, int] = {}
        """Where in the heap each key will be looked at; any other entry of that key is stale."""
        self._serial = 0
        self.next_us: int | None = None
        """When the next one comes up, None if nothing is set."""

    def set(self, key: Hashable, at_us: int) -> None:
        """Let `key` come up at `at_us`, whatever was set before."""
        self._at[key] = at_us
        stands_us = self._stands.get(key)
        if stands_us is None or at_us < stands_us:
            # The serial keeps keys of different types from being compared.
            self._serial += 1
            self._stands[key] = at_us
            heappush(self._heap, (at_us, self._serial, key))
            self.next_us = self._heap[0][0]
        elif at_us > stands_us == self._heap[0][0]:
            self._settle()

    def set_earlier(self, key: Hashable, at_us: int) -> None:
        """Let `key` come up at `at_us` unless it comes up before."""
        before_us = self._at.get(key)
        if before_us is None or at_us < before_us:
            self.set(key, at_us)

    def cancel(self, key: Hashable) -> None:
        """Let `key` not come up."""
        if self._at.pop(key, None) is not None and self._stands[key] == self._heap[0][0]:
            self._settle()

    def is_set(self, key: Hashable) -> bool:
        """True if `key` will come up."""
        return key in self._at

    def due(self, now_us: int) -> list[Hashable]:
        """Keys whose time has come, earliest first; they are no longer set."""
        keys = []
        while self._heap and self._heap[0][0] <= now_us:
            key = heappop(self._heap)[2]
            del self._at[key], self._stands[key]
            keys.append(key)
            self._settle()
        return keys

    def _settle(self) -> None:
        """Let the first entry be one that comes up."""
        heap = self._heap
        while heap:
            stood_us, _, key = heap[0]
            if self._stands.get(key) != stood_us:
                heappop(heap)
                continue
            at_us = self._at.get(key)
            if at_us == stood_us:
                break
            if at_us is None:
                del self._stands[key]
                heappop(heap)
                continue
            self._serial += 1
            self._stands[key] = at_us
            heapreplace(heap, (at_us, self._serial, key))
        self.next_us = heap[0][0] if heap else None
