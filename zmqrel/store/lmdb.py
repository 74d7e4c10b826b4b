"""The store on disk: one LMDB database, one write transaction per turn of the I/O loop.

Pages are what LMDB commits; nothing here knows what the keys mean, but for the few below `b"\\x01"` that are
the store's own. Under "fsync" every commit is LMDB's, flushed. Under "relaxed" the turns between two flushes
share one LMDB transaction, which stays open, and a redo log keeps them for the case that the process dies;
see redo.py for the reason.

The transaction is always open. It costs nothing while nothing is written, for there are no readers that it
could keep from anything: the directory's own lock keeps every other process out, so LMDB's lock file and
reader table are switched off.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from itertools import islice
from pathlib import Path
from time import monotonic_ns
from typing import Final

import lmdb

from zmqrel.core.storage import KEY_LENGTH, Previous, Row
from zmqrel.errors import StoreDamaged, StoreFull
from zmqrel.options import GIB, Durability
from zmqrel.store import environment
from zmqrel.store.directory import DATA, LOCK, REDO, StoreDirectory
from zmqrel.store.redo import MOST_LOGGED_BYTES, Change, RedoLog, new_token
from zmqrel.store.space import DISK_IS_FULL, FULL, Space

_TOKEN_KEY: Final = b"\x00redo"


class LmdbStore:
    """A store in a directory of its own; see `zmqrel.core.storage.Store` for what its methods mean."""

    previous: Previous
    """How the life before this one ended."""
    was_relaxed: bool
    """Whether the life before did not flush all of its commits."""
    flush_us: int | None
    """How long the last flush took, None if there was none."""
    set_aside: str | None
    """Where a damaged predecessor was moved at opening, or None."""

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        durability: Durability = "fsync",
        map_size_bytes: int = 128 * GIB,
        only_look: bool = False,
        verify: bool = False,
    ) -> None:
        """Open the store in `directory`, or make it. At most `map_size_bytes` are used on the disk, sparsely.

        With `only_look` it is not made, and nothing on the disk is changed, not even by `commit`: what is
        written is read back until it is closed, and is gone then. The next life begins as if this had not been.
        With `verify` too, the whole file is checked first.

        Raises ConfigError if the directory cannot hold a store, StoreLocked if another peer has it,
        StoreTooNew if a later version wrote it, StoreFull if there is no room to make it, StoreDamaged if it
        cannot be read. Under "relaxed" and after an unclean stop of the machine it is verified as a whole,
        about 100 MB/s; damaged, it is then set aside instead of raised.
        """
        self.set_aside = None
        self.flush_us = None
        self._only_look = only_look
        self._verify = verify
        self._relaxed = durability == "relaxed"
        self._map_size = map_size_bytes
        self._directory = StoreDirectory(directory, only_look=only_look)
        self._path = self._directory.path
        self._data = self._path / DATA
        self._opened = ExitStack()
        self._redo: RedoLog | None = None
        self._token: bytes | None = None
        self._turn: list[Change] | None = [] if self._relaxed else None
        self._pending = 0
        self.was_relaxed = False
        self._wrote = False
        self._growing = True
        self._in_use = 0
        self._open = False
        try:
            self._start()
        except BaseException as error:
            self._release()
            if isinstance(error, (lmdb.Error, OSError)):
                raise environment.failed(self._data, error) from error
            raise

    # Reading and writing

    def get(self, key: bytes) -> bytes | None:
        """Return the value of `key`, or None."""
        try:
            return self._txn.get(key)
        except lmdb.Error as error:
            raise self._failed(error) from error

    def put(self, key: bytes, value: bytes) -> None:
        """Set `key` to `value`."""
        try:
            self._set(key, value)
        except lmdb.Error as error:
            raise self._failed(error) from error
        self._wrote = True
        if self._turn is not None:
            self._turn.append((key, value))

    def put_many(self, rows: list[Row]) -> None:
        """Set every key of `rows`, which are ascending; existing keys are overwritten."""
        if not rows:
            return
        try:
            # append=True would be of use to the last table only: elsewhere LMDB refuses it.
            self._cursor.putmulti(rows)
        except lmdb.Error as error:
            raise self._failed(error) from error
        self._wrote = True
        if self._turn is not None:
            self._turn.extend(rows)

    def delete(self, key: bytes) -> bool:
        """Remove `key`; return whether it was there."""
        try:
            if not self._txn.delete(key):
                return False
        except lmdb.Error as error:
            raise self._failed(error) from error
        self._wrote = True
        if self._turn is not None:
            self._turn.append((key, None))
        return True

    def scan(self, first: bytes, end: bytes, limit: int) -> list[Row]:
        """Return the first `limit` rows of the range, ascending."""
        cursor = self._cursor
        rows: list[Row] = []
        try:
            if cursor.set_range(first):
                # Keys first: the one behind the range may have a value of megabytes, which items would copy.
                value = cursor.value
                for key in islice(cursor.iternext(values=False), limit):
                    if key >= end:
                        break
                    rows.append((key, value()))
        except lmdb.Error as error:
            raise self._failed(error) from error
        return rows

    def scan_back(self, first: bytes, end: bytes, limit: int) -> list[Row]:
        """Return the last `limit` rows of the range, descending."""
        cursor = self._cursor
        rows: list[Row] = []
        try:
            if cursor.prev() if cursor.set_range(end) else cursor.last():
                value = cursor.value
                for key in islice(cursor.iterprev(values=False), limit):
                    if key < first:
                        break
                    rows.append((key, value()))
        except lmdb.Error as error:
            raise self._failed(error) from error
        return rows

    def keys(self, first: bytes, end: bytes, limit: int) -> list[bytes]:
        """Return the first `limit` keys of the range, ascending."""
        cursor = self._cursor
        keys: list[bytes] = []
        try:
            if cursor.set_range(first):
                for key in islice(cursor.iternext(values=False), limit):
                    if key >= end:
                        break
                    keys.append(key)
        except lmdb.Error as error:
            raise self._failed(error) from error
        return keys

    def pop(self, first: bytes, end: bytes, limit: int) -> list[Row]:
        """Remove the first `limit` rows of the range and return them, ascending."""
        rows = self.scan(first, end, limit)
        if not rows:
            return rows
        # All reads, then all deletes: in turns they take three times as long.
        delete = self._cursor.delete
        try:
            self._cursor.set_range(rows[0][0])
            for _ in rows:
                delete()
        except lmdb.Error as error:
            raise self._failed(error) from error
        self._wrote = True
        if self._turn is not None:
            self._turn.extend([(key, None) for key, _ in rows])
        return rows

    # Transactions

    def commit(self) -> bool:
        """Commit what was written since the last commit; return whether there was anything.

        Raises StoreFull or StoreDamaged; then nothing of the transaction is kept and the store can be used
        on.
        """
        if not self._wrote or self._only_look:
            return False
        try:
            in_use = self._bytes_in_use()
            if self._growing and in_use > self._in_use and not self._space.admits(in_use):
                self.abort()
                raise StoreFull(f"the store {self._path} takes nothing new: {self._space.what_is_full(in_use)}")
            if not self._append_to_redo(in_use):
                self._commit_pages()
        except lmdb.Error as error:
            raise self._failed(error) from error
        self._in_use = in_use
        self._end_turn()
        return True

    def abort(self) -> None:
        """Forget what was written since the last commit."""
        if self._wrote:
            self._restart()

    @property
    def unflushed(self) -> bool:
        """Whether there are commits that only the log holds."""
        return self._redo is not None and self._redo.position > 0

    def flush(self) -> None:
        """Make every commit so far survive power loss. What was written since the last commit is forgotten.

        Raises StoreFull or StoreDamaged; then all commits are kept, and may be flushed later.
        """
        self.abort()
        if self._redo is None or not self._redo.position:
            return
        started_us = monotonic_ns() // 1000
        try:
            self._commit_pages()
        except lmdb.Error as error:
            failure = self._failed(error)
            if not isinstance(failure, StoreFull):
                raise failure from error
            self._flush_turn_by_turn()
        self.flush_us = monotonic_ns() // 1000 - started_us

    def check(self) -> None:
        """Raise StoreDamaged if somebody removed or cut one of the files; then it is to be closed.

        What is written to a file without a name is lost with the process, and reading a map behind the end of its
        file is not an error but SIGBUS. The instant between this look and the reading is left.
        """
        faults = [(DATA, self._space.fault()), (LOCK, self._directory.fault())]
        if self._redo is not None:
            faults.append((REDO, self._redo.fault()))
        for name, fault in faults:
            if fault is not None:
                raise environment.damaged(self._data, f"{name} {fault}")

    def set_growing(self, growing: bool) -> None:
        """Say whether new rows are being accepted; False releases the headroom.

        Under "relaxed" False also flushes, and raises what `flush` raises.
        """
        self._growing = growing
        if not growing and self._redo is not None:
            self.flush()

    def room(self) -> bool:
        """Return whether there is room for new rows with the headroom untouched."""
        return self._open and self._space.admits(self._in_use, margin=True)

    def scarce(self) -> bool:
        """Return whether less than half of the headroom is left."""
        return self._space.scarce(self._in_use)

    @property
    def clock_ahead_us(self) -> int | None:
        """How far the store clock was ahead of the boot-time clock in the life before, None if in another boot."""
        return None if self.previous == "new" else self._directory.clock_ahead_us

    def note_clock(self, ahead_us: int) -> None:
        """Note how far it is ahead in this life, for the next. Raises StoreFull or StoreDamaged."""
        try:
            self._directory.note_clock(ahead_us)
        except OSError as error:
            raise environment.failed(self._data, error) from error

    def close(self, clean: bool = True) -> None:
        """Close the store; calling it again does nothing.

        With `clean` all commits are flushed first and the next opening says "clean". Raises what `flush`
        raises; the store is closed even so.
        """
        if not self._open:
            return
        try:
            if clean and not self._only_look:
                self.flush()
                self._directory.end_life()
        except OSError as error:
            raise environment.failed(self._data, error) from error
        finally:
            self._release()

    # Opening

    def _start(self) -> None:
        self.previous = self._directory.previous()
        if self._only_look:
            self._look()
            return
        try:
            self._open_data()
        except StoreDamaged:
            if not (self._relaxed and self.previous == "rebooted"):
                raise
            self._opened.close()
            self.set_aside = str(self._directory.set_aside())
            self.previous = "new"
            self._open_data()
        self._open_redo()
        self._in_use = self._bytes_in_use()
        self._directory.begin_life()
        self._open = True

    def _look(self) -> None:
        redo = self._path / REDO
        if self._verify or (self.previous == "rebooted" and redo.exists()):
            environment.verify(self._data)
        self._map(environment.open_checked(self._data, self._map_size))
        self._token = self._txn.get(_TOKEN_KEY)
        if self._token is not None and redo.exists():
            self._redo = RedoLog(redo)
            self._opened.callback(self._redo.close)
            self._replay()
        self._open = True

    def _open_data(self) -> None:
        if self.previous == "new":
            environment.create(self._data)
        elif not self._data.exists():
            raise environment.damaged(self._data, f"{DATA} is missing")
        if self._relaxed and self.previous == "rebooted":
            environment.verify(self._data)
        self._map(environment.open_checked(self._data, self._map_size))
        self._widen_map()

    def _map(self, opened: lmdb.Environment) -> None:
        self._env = opened
        self._opened.callback(lambda: self._env.close())
        self._page_size = self._env.stat()["psize"]
        self._space = Space(self._data, self._map_size, environment.end_of_pages(self._env))
        self._opened.callback(self._space.close)
        self._begin()
        self._in_use = self._bytes_in_use()

    def _widen_map(self) -> None:
        # A store that is fuller than the map it is given now must still be able to empty itself.
        least = self._in_use + self._space.headroom(self._in_use)
        if least > self._map_size:
            self._txn.abort()
            self._map_size = self._space.map_bytes = least
            self._env.set_mapsize(least)
            self._begin()

    def _open_redo(self) -> None:
        path = self._path / REDO
        self._token = self._txn.get(_TOKEN_KEY)
        self.was_relaxed = self._token is not None
        if not self._relaxed and self._token is None:
            return
        self._redo = RedoLog(path)
        self._opened.callback(self._redo.close)
        if self._token is not None:
            self._replay()
        # After a power cut the log may be torn, and whole records may stand behind the tear: they are not to follow
        # those that this life appends, so it appends under another token.
        if self._token is None or (self._relaxed and self.previous == "rebooted"):
            self._commit_pages()
        if not self._relaxed:
            self._leave_redo(path)

    def _leave_redo(self, path: Path) -> None:
        # The life before was relaxed and this one is not. Should this one end before it has noted what may be
        # missing, the next must be able to tell: so the token stays, changed, for nothing old may be replayed.
        if self.previous == "rebooted":
            self._commit_pages()
            self._redo = None
            return
        self._redo = None
        self._txn.delete(_TOKEN_KEY)
        self._commit_pages()
        path.unlink()

    # Inside of transactions

    def _begin(self) -> None:
        self._txn = self._env.begin(write=True)
        self._cursor = self._txn.cursor()

    def _bytes_in_use(self) -> int:
        pages = self._txn.stat()
        return (pages["branch_pages"] + pages["leaf_pages"] + pages["overflow_pages"]) * self._page_size

    def _append_to_redo(self, in_use: int) -> bool:
        if self._redo is None or self._turn is None or not self._growing:
            return False
        if sum([len(value) for _, value in self._turn if value is not None]) > MOST_LOGGED_BYTES:
            return False
        # Until it is flushed, no page that a turn freed serves another, nor do those that the flush before it
        # freed. Each change frees a leaf and part of a branch. Where there may not be room for that, every turn
        # is a flush by itself, and what it frees serves the next but one.
        changes = self._pending + len(self._turn)
        if not self._space.roomy(in_use, min(4 * changes * self._page_size, 2 * in_use)):
            return False
        # A turn that does not fit in is a flush by itself, too.
        if not self._redo.append(self._turn, self._space.most_headroom):
            return False
        self._pending = changes
        return True

    def _commit_pages(self) -> None:
        token = None
        if self._redo is not None:
            token = new_token()
            self._txn.put(_TOKEN_KEY, token)
        self._txn.commit()
        if self._redo is not None and token is not None:
            self._token = token
            self._redo.restart(token)
            self._pending = 0
        self._begin()
        if self._growing:
            self._space.lead(environment.end_of_pages(self._env), self._in_use)

    def _flush_turn_by_turn(self) -> None:
        # The pages of all turns at once do not fit; one at a time, each uses those that the one before it
        # freed. Should it end half way, all are replayed upon it, which changes nothing: they set and delete,
        # and the last one counts.
        try:
            self._txn.abort()
            self._begin()
            for changes in list(self._redo_records()):
                self._apply(changes)
                self._txn.commit()
                self._begin()
            self._commit_pages()
        except lmdb.Error as error:
            raise self._failed(error) from error
        except OSError as error:
            # The log cannot be read: going on would write over what it holds.
            self._release()
            raise environment.failed(self._data, error) from error

    def _redo_records(self) -> Iterator[Sequence[Change]]:
        if self._redo is None or self._token is None:
            return iter(())
        return self._redo.records(self._token)

    def _replay(self) -> None:
        self._pending = 0
        for changes in self._redo_records():
            self._apply(changes)
            self._pending += len(changes)

    def _apply(self, changes: Sequence[Change]) -> None:
        for key, value in changes:
            if value is None:
                self._txn.delete(key)
            else:
                self._set(key, value)

    def _set(self, key: bytes, value: bytes) -> None:
        # A value that takes fewer pages than the one before it, written in the same transaction, is left on all of them
        # by LMDB. That does no harm, but `verify` takes it for damage. Without a log a turn has its own transaction.
        if self._redo is not None:
            self._txn.delete(key)
        self._txn.put(key, value)

    def _end_turn(self) -> None:
        self._wrote = False
        if self._turn is not None:
            self._turn.clear()

    # Failures

    def _restart(self) -> None:
        """Begin again from the last commit."""
        self._end_turn()
        with suppress(lmdb.Error):
            self._txn.abort()
        try:
            self._begin_anew()
            self._replay()
        except (lmdb.Error, OSError) as error:
            self._release()
            raise environment.damaged(self._data, f"{error}, and it was closed") from error

    def _begin_anew(self) -> None:
        try:
            self._begin()
        except lmdb.PanicError:
            # The write of a meta page failed. The page before it is good, but LMDB wants to be opened again.
            self._env.close()
            self._env = environment.open_checked(self._data, self._map_size)
            self._begin()

    def _failed(self, error: lmdb.Error) -> Exception:
        """Undo the turn in which LMDB raised `error`, and return what to raise instead."""
        if not self._open:
            return ValueError(f"the store {self._path} is closed")
        failure = self._explain(error)
        self._restart()
        return failure

    def _explain(self, error: lmdb.Error) -> Exception:
        if isinstance(error, lmdb.BadValsizeError):
            return ValueError(KEY_LENGTH)
        if isinstance(error, lmdb.MapFullError):
            return StoreFull(f"the store {self._path} cannot be written: {self._space.map_is_full()}")
        code = environment.error_number(error)
        # A write that the disk takes a part of is told as EIO.
        if code in FULL or (code == errno.EIO and self._space.disk_is_full()):
            return StoreFull(f"the store {self._path} cannot be written: {DISK_IS_FULL}")
        return environment.failed(self._data, error)

    def _release(self) -> None:
        self._open = False
        self._opened.close()
        self._directory.unlock()
