"""What the core and the I/O loop need of a store, as protocols; nothing here knows how one is made.

A store is a dumb ordered map from byte keys to byte values. The core defines every key layout and writes
straight into the open transaction, so that it reads its own writes; the loop ends each turn with `commit` or
`abort`.

Keys are 1 to 511 bytes and sort as unsigned bytes. A first byte of 0 belongs to the store itself: the core
starts its tables at 1. Values are bytes of any length, also empty.
"""

from typing import Literal, NamedTuple, Protocol

KEY_LENGTH = "a key of a store has 1 to 511 bytes"
"""What a store says, as a ValueError, of any other key; the transaction is gone then too."""

Row = tuple[bytes, bytes]
"""A key and its value."""

Previous = Literal["new", "clean", "crashed", "rebooted"]
"""How the life before ended: there was none, it was closed, the process died, the machine stopped."""


class Storage(Protocol):
    """The open transaction, as the core uses it within one turn of the loop.

    Ranges are half open: `first <= key < end`. At most `limit` rows are returned; a caller that gets `limit`
    rows asks again from behind the last. Every method may raise `StoreFull` or `StoreDamaged`; then the
    transaction is gone, with all that was written since the last commit.
    """

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, or None."""
        ...

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key` to `value`, whether or not it was there."""
        ...

    def put_many(self, rows: list[Row]) -> None:
        """Set every key of `rows`, which are in ascending order; existing keys are overwritten."""
        ...

    def delete(self, key: bytes) -> bool:
        """Remove `key`; return whether it was there."""
        ...

    def scan(self, first: bytes, end: bytes, limit: int) -> list[Row]:
        """Return the first `limit` rows of the range, ascending."""
        ...

    def scan_back(self, first: bytes, end: bytes, limit: int) -> list[Row]:
        """Return the last `limit` rows of the range, descending."""
        ...

    def keys(self, first: bytes, end: bytes, limit: int) -> list[bytes]:
        """Return the first `limit` keys of the range, ascending, without reading their values."""
        ...

    def pop(self, first: bytes, end: bytes, limit: int) -> list[Row]:
        """Remove the first `limit` rows of the range and return them, ascending."""
        ...


class Store(Storage, Protocol):
    """A store as the loop owns it. All calls come from one thread.

    A transaction begins at the first access after `commit`, `abort` or opening. Each turn ends it before it
    waits.
    """

    @property
    def previous(self) -> Previous:
        """How the life before this one ended."""
        ...

    @property
    def was_relaxed(self) -> bool:
        """Whether the life before did not flush all of its commits: where the machine stopped, some are missing."""
        ...

    @property
    def unflushed(self) -> bool:
        """Whether a power cut now would take commits: under "relaxed", those since the last flush."""
        ...

    @property
    def flush_us(self) -> int | None:
        """How long the last flush took; None if there was none, or it takes no time."""
        ...

    @property
    def set_aside(self) -> str | None:
        """The path to which a damaged predecessor of this store was moved at opening, or None."""
        ...

    def commit(self) -> bool:
        """Commit what was written since the last commit; return whether there was anything.

        Raises StoreFull if there is no room and StoreDamaged if the medium failed. In both cases nothing of
        the transaction is kept and the store can be used on.
        """
        ...

    def abort(self) -> None:
        """Forget what was written since the last commit."""
        ...

    def flush(self) -> None:
        """Make every commit so far survive power loss; forget what was written since the last one.

        Under "fsync" they already do. Raises StoreFull or StoreDamaged; then it can be tried again later.
        """
        ...

    def check(self) -> None:
        """Raise StoreDamaged if somebody did to its files what makes using it on dangerous; before each turn."""
        ...

    def set_growing(self, growing: bool) -> None:
        """Say whether new rows are being accepted; call it between transactions.

        False releases the headroom that was kept, so that deletes and settlements find the room that they
        need in a full store. True takes it back; while there is none to take back, `room` stays False. A
        store opens growing. Raises what `flush` raises.
        """
        ...

    def room(self) -> bool:
        """Return whether there is room for new rows with the headroom untouched.

        It asks the disk: call it between transactions, after StoreFull, once in a while, not in every turn.
        """
        ...

    def scarce(self) -> bool:
        """Return whether less than half of the headroom is left: what is left is for what makes room."""
        ...

    def close(self, clean: bool = True) -> None:
        """Abort an open transaction and close the store; calling it again does nothing.

        With `clean` everything is flushed and the next opening says `previous == "clean"`.
        """
        ...


MOST_IN_BLOCK = 992
"""Rows that `InHandTable.reserve` makes room for."""


class InHand(NamedTuple):
    """One row that the previous life had handed over and not settled."""

    lane: int
    """The lane's local number, 0 to 2**32 - 1."""
    seq: int
    """The sequence number in that lane, 0 to 2**64 - 1."""
    attempt: int
    """Which hand-over it was, 0 to 2**32 - 1."""
    running: bool
    """True if its handler had not returned, False if it had."""


class InHandTable(Protocol):
    """The rows handed over and not yet settled by a commit; outlives the process, not the machine.

    `take`, `reserve`, `running`, `done` and `free` are called from any thread, several at once; all others from one
    thread.
    """

    @property
    def damaged(self) -> bool:
        """Whether `open` found slots, or a whole table, that it could not read."""
        ...

    @property
    def boot_matches(self) -> bool:
        """Whether `open` found a table, and it was begun on this boot of the machine."""
        ...

    def open(self) -> list[InHand]:
        """Open the table and return what the previous life left in it, in no order; it stays there until `clear`."""
        ...

    def clear(self) -> None:
        """Free every slot, those left by the previous life included: they are taken over by a commit."""
        ...

    def take(self, lane: int, seq: int, attempt: int) -> int:
        """Note that a handler is about to run on this row; return the slot."""
        ...

    def reserve(self, lane: int, first: int, count: int) -> int:
        """Slots for neighbouring rows, at most MOST_IN_BLOCK, that are about to be handed over for the first time.

        Returns the slot of the row with the number `first`; those of the others follow it. None of them counts as
        handed over before `running` says so.
        """
        ...

    def running(self, slot: int) -> None:
        """Note that a handler is about to run on the row of this slot, which was reserved."""
        ...

    def done(self, slot: int) -> None:
        """Note that the handler of this slot has returned."""
        ...

    def free(self, slot: int, count: int = 1) -> None:
        """Give slots that follow each other back, each once: the settlement of their rows is committed, or they are not
        needed any more. They are the next user's from here on."""
        ...

    def check(self) -> None:
        """Raise StoreDamaged if somebody did to its file what makes using it on dangerous; before each turn."""
        ...

    def close(self) -> None:
        """Close the table and keep what is in it; calling it again does nothing."""
        ...
