"""The store in memory, for `zmqrel.MEMORY` and for the simulator, which fills, damages and restores it."""

from __future__ import annotations

from typing import NoReturn, TypeAlias

from zmqrel.core.storage import KEY_LENGTH, Previous, Row
from zmqrel.errors import StoreFull
from zmqrel.options import Durability
from zmqrel.store.redo import MOST_LOGGED_BYTES
from zmqrel.store.sorted_keys import SortedKeys

_Undo: TypeAlias = "list[tuple[bytes, bytes | None]]"

# What LMDB takes for a row besides the key and the value.
_ROW_BYTES = 16


class MemoryStore:
    """A store that ends with its object; see `zmqrel.core.storage.Store` for what its methods mean.

    It may be used on after `close`: that is its next life, and `previous` tells it how the one before ended.
    """

    previous: Previous
    """How the life before this one ended; to be set by who simulates it."""
    set_aside: str | None
    """None, unless who simulates it says otherwise."""

    def __init__(
        self,
        *,
        durability: Durability = "fsync",
        capacity: int | None = None,
        most_logged_bytes: int = MOST_LOGGED_BYTES,
    ) -> None:
        """Make an empty store, of at most `capacity` bytes; None is without limit.

        Keys and values count, and 16 bytes for each row. An eighth is headroom, which growing leaves alone. Under
        "relaxed" a commit of more than `most_logged_bytes` of values is a flush too, as it is on the disk.
        """
        self.previous = "new"
        self.set_aside = None
        self.capacity = capacity
        self._relaxed = durability == "relaxed"
        self._most_logged_bytes = most_logged_bytes
        self._values: dict[bytes, bytes] = {}
        self._keys = SortedKeys()
        self._size = 0
        self._committed_size = 0
        self._growing = True
        self._undo: _Undo = []
        self._unflushed: _Undo = []

    # Reading and writing

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, or None."""
        return self._values.get(key)

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key` to `value`."""
        length = len(key)
        if not 1 <= length <= 511:
            self.abort()
            raise ValueError(KEY_LENGTH)
        old = self._values.get(key)
        self._undo.append((key, old))
        if old is None:
            self._keys.add(key)
            self._size += length + len(value) + _ROW_BYTES
        else:
            self._size += len(value) - len(old)
        self._values[key] = value
        if self.capacity is not None and self._size > self.capacity:
            self._refuse()

    def put_many(self, rows: list[Row]) -> None:
        """Set every key of `rows`, which are ascending; existing keys are overwritten."""
        for key, value in rows:
            self.put(key, value)

    def delete(self, key: bytes) -> bool:
        """Remove `key`; return whether it was there."""
        old = self._values.pop(key, None)
        if old is None:
            return False
        self._undo.append((key, old))
        self._keys.remove(key)
        self._size -= len(key) + len(old) + _ROW_BYTES
        return True

    def scan(self, first: bytes, end: bytes, limit: int) -> list[Row]:
        """Return the first `limit` rows of the range, ascending."""
        values = self._values
        return [(key, values[key]) for key in self._keys.take(first, end, limit)]

    def scan_back(self, first: bytes, end: bytes, limit: int) -> list[Row]:
        """Return the last `limit` rows of the range, descending."""
        values = self._values
        return [(key, values[key]) for key in self._keys.take_back(first, end, limit)]

    def keys(self, first: bytes, end: bytes, limit: int) -> list[bytes]:
        """Return the first `limit` keys of the range, ascending."""
        return self._keys.take(first, end, limit)

    def pop(self, first: bytes, end: bytes, limit: int) -> list[Row]:
        """Remove the first `limit` rows of the range and return them, ascending."""
        rows = self.scan(first, end, limit)
        for key, _ in rows:
            self.delete(key)
        return rows

    # Transactions

    def commit(self) -> bool:
        """Commit what was written since the last commit; return whether there was anything.

        Raises StoreFull; then nothing of the transaction is kept and the store can be used on.
        """
        if not self._undo:
            return False
        if self._growing and self._size > self._committed_size and not self._admits(self._size):
            self._refuse()
        if self._relaxed:
            self._unflushed += self._undo
            if sum([len(self._values.get(key, b"")) for key, _ in self._undo]) > self._most_logged_bytes:
                self._unflushed.clear()
        self._undo.clear()
        self._committed_size = self._size
        return True

    def abort(self) -> None:
        """Forget what was written since the last commit."""
        self._roll_back(self._undo)

    def flush(self) -> None:
        """Make every commit so far survive `lose_unflushed`; forget what was written since the last one."""
        self.abort()
        self._unflushed.clear()

    @property
    def unflushed(self) -> bool:
        """Whether `lose_unflushed` would lose commits."""
        return bool(self._unflushed)

    @property
    def flush_us(self) -> int | None:
        """None: it takes no time."""
        return None

    def check(self) -> None:
        """Do nothing: there are no files."""

    def set_growing(self, growing: bool) -> None:
        """Say whether new rows are being accepted; False releases the headroom, and flushes."""
        self._growing = growing
        if not growing:
            self.flush()

    def room(self) -> bool:
        """Return whether there is room for new rows with the headroom untouched."""
        return self.capacity is None or self._admits(self._size + self.capacity // 16)

    def scarce(self) -> bool:
        """Return whether less than half of the headroom is left."""
        return self.capacity is not None and self._size + self.capacity // 16 > self.capacity

    def close(self, clean: bool = True) -> None:
        """End this life; `clean` flushes, and decides what the next life finds in `previous`."""
        self.abort()
        if clean:
            self.flush()
        self.previous = "clean" if clean else "crashed"
        self._growing = True  # as a store is when it is opened

    # Simulation

    @property
    def was_relaxed(self) -> bool:
        """Whether the life before did not flush all of its commits."""
        return self._relaxed

    def lose_unflushed(self) -> None:
        """Lose power: under "relaxed", go back to the last flush. `previous` says "rebooted"."""
        self.abort()
        self._roll_back(self._unflushed)
        self._committed_size = self._size
        self.previous = "rebooted"

    def snapshot(self) -> MemoryStore:
        """Return a copy of what is committed, all of it flushed."""
        copy = MemoryStore(durability="relaxed" if self._relaxed else "fsync", capacity=self.capacity)
        copy._take(self._committed())
        copy.previous, copy.set_aside = self.previous, self.set_aside
        return copy

    def restore(self, snapshot: MemoryStore) -> None:
        """Go back to what was committed in `snapshot`, as after putting back an old copy of a disk."""
        self._take(snapshot._committed())

    def damage(self, key: bytes, at: int = 0) -> None:
        """Flip all bits of the byte `at` of the value of `key`, in place, outside of any transaction.

        Raises KeyError if the key is not there, IndexError if the value is shorter.
        """
        value = bytearray(self._values[key])
        value[at] ^= 0xFF
        self._values[key] = bytes(value)

    def _committed(self) -> dict[bytes, bytes]:
        values = dict(self._values)
        for key, old in reversed(self._undo):
            if old is None:
                values.pop(key, None)
            else:
                values[key] = old
        return values

    def _take(self, values: dict[bytes, bytes]) -> None:
        self._values = values
        self._keys = SortedKeys(sorted(values))
        self._size = sum(len(key) + len(value) + _ROW_BYTES for key, value in values.items())
        self._committed_size = self._size
        self._undo.clear()
        self._unflushed.clear()

    def _admits(self, size: int) -> bool:
        return self.capacity is None or size + self.capacity // 8 <= self.capacity

    def _refuse(self) -> NoReturn:
        self.abort()
        raise StoreFull(
            f"the store in memory is full (capacity={self.capacity} bytes); raise that, or settle or recall messages"
        )

    def _roll_back(self, undo: _Undo) -> None:
        while undo:
            key, old = undo.pop()
            now = self._values.pop(key, None)
            if now is not None:
                self._size -= len(key) + len(now) + _ROW_BYTES
            if old is not None:
                self._size += len(key) + len(old) + _ROW_BYTES
                self._values[key] = old
            if now is None and old is not None:
                self._keys.add(key)
            elif old is None and now is not None:
                self._keys.remove(key)
