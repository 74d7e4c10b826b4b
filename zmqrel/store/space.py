"""Room for the data file, on the disk and in the map, kept ahead of need.

LMDB never writes over a page in use, so a delete needs free pages as much as a put does: a store that is
filled to the last page can no longer be emptied. So growth is refused while a headroom of pages is still
free, and those are real blocks, given to the file beforehand. A second file that is deleted in need would
give its blocks to whoever asks first, and would have to be won back.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT, errno.EFBIG))
"""What a write says when there is no room: the disk, the user's quota, or the limit of a file's size."""

DISK_IS_FULL: Final = "the disk is full; make room on it, or settle or recall messages"

WAS_REMOVED: Final = "was removed while it was in use"
WAS_CUT: Final = "was cut while it was in use,"

# One turn rewrites at most every page of a store, and seldom more than 2,000: a thousand messages settled,
# each with a leaf of its own in an index by random ids, and the tables in order.
_HEADROOM_BYTES: Final = 8 * MIB
_SMALLEST_HEADROOM_BYTES: Final = 256 * KIB
_MARGIN_BYTES: Final = 256 * KIB
_LARGEST_STEP_BYTES: Final = 64 * MIB


class Space:
    """The blocks of one data file; all sizes are bytes."""

    def __init__(self, path: Path, limit: int, written: int) -> None:
        """Look at the file, of which the first `written` are written, and which is to take at most `limit`.

        Raises OSError.
        """
        self.limit = limit
        self.map_bytes = limit
        """Larger than the limit for a store that was fuller before."""
        self._fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        disk = os.fstatvfs(self._fd)
        self.most_headroom = min(_HEADROOM_BYTES, limit // 4, disk.f_blocks * disk.f_frsize // 8)
        """The headroom of a large store."""
        self._allocated = written
        self._size = 0
        self._free = self._free_on_disk()

    def headroom(self, in_use: int) -> int:
        """Return how much a store with `in_use` bytes of pages keeps free."""
        return min(max(_SMALLEST_HEADROOM_BYTES, in_use), self.most_headroom)

    def admits(self, in_use: int, margin: bool = False) -> bool:
        """Whether a store may grow to `in_use` bytes of pages; allocates what that takes.

        With `margin`, whether it may do so and grow on for a while.
        """
        wanted = in_use + self.headroom(in_use)
        if margin:
            wanted += min(_MARGIN_BYTES, self.most_headroom // 2)
        return wanted <= self.limit and self._allocate(wanted)

    def roomy(self, in_use: int, more: int) -> bool:
        """Whether a store with `in_use` bytes of pages could take `more`, by the last look at the disk."""
        wanted = in_use + self.headroom(in_use) + more
        return wanted <= self.limit and wanted - self._allocated <= self._free

    def scarce(self, in_use: int) -> bool:
        """Whether a store with `in_use` bytes of pages has less than half of its headroom left."""
        wanted = in_use + self.headroom(in_use) // 2
        return wanted > self.map_bytes or not self._allocate(wanted)

    def lead(self, end: int, in_use: int) -> None:
        """Try to have the headroom allocated behind `end`, the end of the last page used so far."""
        self._allocate(min(end + self.headroom(in_use), self.limit))
        self._free = self._free_on_disk()

    def what_is_full(self, in_use: int) -> str:
        """Return why `admits` refused, and what helps."""
        return self.map_is_full() if in_use + self.headroom(in_use) > self.limit else DISK_IS_FULL

    def map_is_full(self) -> str:
        """Return that the map is full, and what helps."""
        return f"its map is full (map_size_bytes={self.limit}); raise that, or settle or recall messages"

    def disk_is_full(self) -> bool:
        """Whether the file cannot grow by a little: LMDB reports the short write to a full disk as EIO."""
        end = os.fstat(self._fd).st_size
        grown = self._extend(end, end + _MARGIN_BYTES)
        if grown:
            os.ftruncate(self._fd, end)
        return not grown

    def fault(self) -> str | None:
        """Return what somebody did to the file since the last look, None if nothing."""
        status = os.fstat(self._fd)
        if not status.st_nlink:
            return WAS_REMOVED
        if status.st_size < self._size:
            return f"{WAS_CUT} from {self._size} to {status.st_size} bytes"
        self._size = status.st_size
        return None

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)
        self._fd = -1

    def _free_on_disk(self) -> int:
        disk = os.fstatvfs(self._fd)
        return disk.f_bavail * disk.f_frsize

    def _allocate(self, end: int) -> bool:
        if end <= self._allocated:
            return True
        # In steps, to spare system calls; on a disk that has no step left, just enough.
        step = min(max(end // 16, _SMALLEST_HEADROOM_BYTES), _LARGEST_STEP_BYTES)
        for wanted in (min(end + step, self.limit), end):
            if wanted >= end and self._extend(self._allocated, wanted):
                self._allocated = wanted
                return True
        return False

    def _extend(self, start: int, end: int) -> bool:
        size = os.fstat(self._fd).st_size
        try:
            fill(self._fd, start, end, size)
        except OSError:
            # A refused one may have taken what was left of the disk.
            with suppress(OSError):
                os.ftruncate(self._fd, size)
            return False
        return True


def fill(fd: int, start: int, end: int, size: int) -> None:
    """Allocate blocks from `start` to `end` of a file of `size` bytes, changing nothing in it.

    Raises OSError.
    """
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, start, end - start)
            return
    except OSError as error:
        if error.errno in FULL:
            raise
    # The system or the file system cannot allocate without writing.
    for offset in range(max(start, size), end, MIB):
        length = min(MIB, end - offset)
        if os.pwrite(fd, bytes(length), offset) < length:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
