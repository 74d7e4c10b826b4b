"""Keys kept in order, in memory."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterable, Iterator

_MOST = 2048


class SortedKeys:
    """A set of keys in ascending order, as a list of lists of at most 2,048.

    Adding at the end, and adding and removing anywhere, cost about a microsecond at a million keys. One plain
    list would be moved as a whole by every removal at its front.
    """

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        """Hold `keys`, which are ascending and distinct."""
        ordered = list(keys)
        half = _MOST // 2
        self._chunks = [ordered[i : i + half] for i in range(0, len(ordered), half)]
        self._lasts = [chunk[-1] for chunk in self._chunks]

    def __iter__(self) -> Iterator[bytes]:
        """Yield all keys, ascending."""
        for chunk in self._chunks:
            yield from chunk

    def add(self, key: bytes) -> None:
        """Add a key that is not there."""
        chunks, lasts = self._chunks, self._lasts
        if not chunks:
            chunks.append([key])
            lasts.append(key)
            return
        at = bisect_left(lasts, key)
        if at == len(chunks):
            at -= 1
        chunk = chunks[at]
        insort(chunk, key)
        if len(chunk) > _MOST:
            self._split(at)
        else:
            lasts[at] = chunk[-1]

    def remove(self, key: bytes) -> None:
        """Remove a key that is there."""
        at = bisect_left(self._lasts, key)
        chunk = self._chunks[at]
        del chunk[bisect_left(chunk, key)]
        if chunk:
            self._lasts[at] = chunk[-1]
        else:
            del self._chunks[at], self._lasts[at]

    def take(self, first: bytes, end: bytes, limit: int) -> list[bytes]:
        """Return the first `limit` keys of `first <= key < end`, ascending."""
        chunks, lasts = self._chunks, self._lasts
        at = bisect_left(lasts, first)
        if at == len(lasts):
            return []
        start = bisect_left(chunks[at], first)
        taken: list[bytes] = []
        while end > lasts[at]:
            taken += chunks[at][start : start + limit - len(taken)]
            at, start = at + 1, 0
            if at == len(lasts) or len(taken) >= limit:
                return taken
        stop = bisect_left(chunks[at], end, start)
        return taken + chunks[at][start : min(stop, start + limit - len(taken))]

    def take_back(self, first: bytes, end: bytes, limit: int) -> list[bytes]:
        """Return the last `limit` keys of `first <= key < end`, descending."""
        taken: list[bytes] = []
        at = min(bisect_left(self._lasts, end), len(self._chunks) - 1)
        while at >= 0 and len(taken) < limit:
            chunk = self._chunks[at]
            stop = bisect_left(chunk, end)
            start = max(bisect_left(chunk, first), stop - (limit - len(taken)))
            taken += reversed(chunk[start:stop])
            if chunk[0] <= first:
                break
            at -= 1
        return taken

    def _split(self, at: int) -> None:
        chunk = self._chunks[at]
        # Keys that come in ascending order leave full lists behind, not halves.
        middle = _MOST if at == len(self._chunks) - 1 else _MOST // 2
        self._chunks[at : at + 1] = [chunk[:middle], chunk[middle:]]
        self._lasts[at : at + 1] = [chunk[middle - 1], chunk[-1]]
