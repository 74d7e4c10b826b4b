"""Whether a store is whole, asked again and again: rows that nothing happened to are not looked at twice."""

from __future__ import annotations

from collections import defaultdict
from typing import cast

from zmqrel.core import tables
from zmqrel.core.journal import Journal
from zmqrel.core.lane import decode_lane
from zmqrel.core.storage import Storage
from zmqrel.core.verification import UNREADABLE, Fault, RowChecks, Totals, compare

_FIRST, _BEHIND_ALL = b"\x01", b"\xff" * 2
_LANE_PREFIX = 5
"""Table and lane, with which every key begins that is looked for as one of a range."""
_NOTHING = (0,) * len(Totals._fields)


class WholeStore:
    """The rows of one store and what `examine` would say of them.

    A row is checked again if it changed, if a row changed that was read to check it, or if one came or went where it
    looked for one. `faults` finds what a look at all rows finds.
    """

    def __init__(self) -> None:
        """Nothing was looked at yet."""
        self._rows: dict[bytes, bytes] = {}
        self._faults: dict[bytes, list[Fault]] = {}
        self._totals: dict[bytes, tuple[int, ...]] = {}
        self._sums = list(_NOTHING)
        self._reads: dict[bytes, set[bytes]] = {}
        """Row -> keys, and beginnings of keys, that were read to check it."""
        self._readers: defaultdict[bytes, set[bytes]] = defaultdict(set)
        """The other way round."""

    def faults(self, store: Storage) -> list[Fault]:
        """Everything that is wrong with the store now."""
        before, now = self._rows, dict(store.scan(_FIRST, _BEHIND_ALL, 2**31))
        changed = [key for key, value in now.items() if before.get(key) != value]
        changed += before.keys() - now.keys()
        concerned = set(changed)
        for key in changed:
            readers = self._readers.get(key, set()) | self._readers.get(key[:_LANE_PREFIX], set())
            if readers and key in before and key in now:
                content = _content_with(key, before[key], now[key])
                readers = {row for row in readers if row[0] != content}
            concerned |= readers
        self._rows = now
        reading = _Reading(store)
        checks = RowChecks(Journal(cast(Storage, reading)))
        for row in sorted(concerned):
            self._forget(row)
            if row in now:
                checks.begin()
                reading.read = set()
                checks.row(row, now[row])
                self._keep(row, checks, reading.read)
        found = [fault for faults in self._faults.values() for fault in faults]
        ledger = checks.ledger()
        if ledger is not None and ledger.commit_count:
            found += compare(Totals(*self._sums), Totals.of(ledger))
        return found

    def _keep(self, row: bytes, checks: RowChecks, read: set[bytes]) -> None:
        if checks.faults:
            self._faults[row] = checks.faults
        if any(checks.totals):
            self._totals[row] = totals = tuple(checks.totals)
            self._sums = [one + more for one, more in zip(self._sums, totals, strict=True)]
        if read:
            self._reads[row] = read
        for key in read:
            self._readers[key].add(row)

    def _forget(self, row: bytes) -> None:
        self._faults.pop(row, None)
        totals = self._totals.pop(row, None)
        if totals is not None:
            self._sums = [one - less for one, less in zip(self._sums, totals, strict=True)]
        for read in self._reads.pop(row, ()):
            self._readers[read].discard(row)


class _Reading:
    """A store that remembers what was read of it."""

    def __init__(self, store: Storage) -> None:
        self._store = store
        self.read: set[bytes] = set()
        self.scan, self.scan_back = store.scan, store.scan_back

    def get(self, key: bytes) -> bytes | None:
        self.read.add(key)
        return self._store.get(key)

    def keys(self, first: bytes, end: bytes, limit: int) -> list[bytes]:
        self.read.add(first[:_LANE_PREFIX])
        return self._store.keys(first, end, limit)


def _content_with(key: bytes, before: bytes, now: bytes) -> int | None:
    """The table whose rows still find what they need in a row that changed; None if there is no such table."""
    if key[0] == tables.PEER:
        return tables.LANE  # that it is there
    if key[0] == tables.LANE and _way(before) == _way(now) is not None:
        return tables.ID
    return None


def _way(lane: bytes) -> type | None:
    """Which way a lane goes, None if that cannot be read."""
    try:
        return type(decode_lane(0, lane))
    except UNREADABLE:
        return None
