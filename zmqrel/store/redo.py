"""The redo log of "relaxed": the turns committed since the last flush, in a file that is never synced.

The page cache keeps them through the death of the process, so that a commit costs one small write. LMDB
without flushes would do as much for process death, but it writes over its pages in place: with half of the
pages written since the last flush lost, as in a power cut, it was left unreadable in 22 of 40 trials after
one commit and in 40 of 40 after five. So LMDB only ever commits with a flush, and this log holds what it does
not have yet. After a power cut its valid beginning counts, and the store is as it was at some recent commit.

Each record names the LMDB commit that it follows by a token, random and stored in that commit; so records
left over from before it, or from another copy of the store, are never applied.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator, Sequence
from pathlib import Path
from struct import Struct
from typing import TypeAlias
from zlib import crc32

import msgpack

from zmqrel.store.space import WAS_CUT, WAS_REMOVED

Change: TypeAlias = tuple[bytes, "bytes | None"]
"""A key and the value that it was set to, or None if it was deleted."""

TOKEN_BYTES = 16
MOST_LOGGED_BYTES = 256 * 1024
"""Of a turn. To flush more than that takes hardly longer than to log it, and LMDB is to write all of it anyway."""
_HEAD = Struct("<I16sI")  # CRC of all behind it, token, length of what follows


def new_token() -> bytes:
    """Return a token that was never used before."""
    return secrets.token_bytes(TOKEN_BYTES)


class RedoLog:
    """The log in one file; `position` is where the next record goes, in bytes."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises OSError."""
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self.position = 0
        self._token = b""
        self._size = os.fstat(self._fd).st_size

    def restart(self, token: bytes) -> None:
        """Forget all records, once LMDB has committed all that they hold and `token`, the mark of those to
        come.
        """
        self.position, self._token = 0, token

    def append(self, changes: Sequence[Change], limit: int) -> bool:
        """Write one record of `changes`; return False if the log would pass `limit` bytes, or on any failure.

        Then nothing is added, and the caller lets LMDB commit instead, which also tells what is wrong with
        the disk.
        """
        body = msgpack.packb(changes)
        if self.position + len(body) > limit:
            return False
        head = _HEAD.pack(0, self._token, len(body))
        record = _HEAD.pack(crc32(body, crc32(head[4:])), self._token, len(body)) + body
        try:
            written = os.pwrite(self._fd, record, self.position)
        except OSError:
            return False
        if written < len(record):
            return False
        self.position += written
        self._size = max(self._size, self.position)
        return True

    def records(self, token: bytes) -> Iterator[Sequence[Change]]:
        """Yield the records that follow the commit of `token`, oldest first, up to the first that is not
        whole.

        Further records are appended behind the last one yielded.
        """
        self.position, self._token = 0, token
        while (body := self._body()) is not None:
            self.position += _HEAD.size + len(body)
            yield msgpack.unpackb(body, use_list=False)

    def _body(self) -> bytes | None:
        head = os.pread(self._fd, _HEAD.size, self.position)
        if len(head) < _HEAD.size:
            return None
        check, token, length = _HEAD.unpack(head)
        if token != self._token or length > os.fstat(self._fd).st_size - self.position - _HEAD.size:
            return None
        body = os.pread(self._fd, length, self.position + _HEAD.size)
        return body if crc32(body, crc32(head[4:])) == check else None

    def fault(self) -> str | None:
        """Return what somebody did to the file, None if nothing."""
        status = os.fstat(self._fd)
        if not status.st_nlink:
            return WAS_REMOVED
        # Also of one that holds nothing just now, or it would depend on the moment.
        return f"{WAS_CUT} from {self._size} to {status.st_size} bytes" if status.st_size < self._size else None

    def close(self) -> None:
        """Close the file; its records stay."""
        os.close(self._fd)
        self._fd = -1
