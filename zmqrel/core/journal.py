"""The open transaction of a turn, as the core writes into it."""

from __future__ import annotations

from zmqrel.core.storage import Row, Storage


class Journal:
    """The open transaction; remembers whether the turn has written anything that must be committed."""

    __slots__ = ("_store", "get", "keys", "scan", "scan_back", "wrote")

    def __init__(self, store: Storage) -> None:
        self._store = store
        self.wrote = False
        self.get = store.get
        self.scan = store.scan
        self.scan_back = store.scan_back
        self.keys = store.keys

    def put(self, key: bytes, value: bytes) -> None:
        self.wrote = True
        self._store.put(key, value)

    def put_many(self, rows: list[Row]) -> None:
        if rows:
            self.wrote = True
            self._store.put_many(rows)

    def delete(self, key: bytes) -> bool:
        self.wrote = True
        return self._store.delete(key)

    def pop(self, first: bytes, end: bytes, limit: int = 2**31) -> list[Row]:
        rows = self._store.pop(first, end, limit)
        if rows:
            self.wrote = True
        return rows
