"""A store whose commits can fail, or end the process, for the simulator."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from zmqrel.core import tables
from zmqrel.errors import StoreFull
from zmqrel.options import Durability
from zmqrel.store.memory import MemoryStore

CrashPoint = Literal["before commit", "after commit", "while sending"]
"""Before the commit nothing of the turn is kept and nobody hears of it. After it all is kept and nobody hears of
it. While sending: the commit is kept and some of the turn's frames have left."""


_MOST_LOGGED_BYTES = 2_000
"""So few that runs of small messages have both: turns that are flushed for their size, and turns that are not."""


class ProcessDied(BaseException):
    """The simulated process ended here. No production code may catch it, so it is no Exception."""


class SimulatedDisk(MemoryStore):
    """A MemoryStore whose next commits can end the process that makes them."""

    def __init__(self, *, durability: Durability = "fsync", capacity: int | None = None) -> None:
        """See MemoryStore."""
        super().__init__(durability=durability, capacity=capacity, most_logged_bytes=_MOST_LOGGED_BYTES)
        self._dies: CrashPoint | None = None
        self._commits_left = 0
        self._failures_left = 0
        self._usual_capacity = capacity
        self.commits = 0
        """Commits that wrote something."""
        self.refuses: Callable[[], bool] | None = None
        """Asked at each commit that takes a message into the inbox: True makes it fail, as a full disk does."""

    def die_at(self, point: CrashPoint, commits: int = 0) -> None:
        """Let the process die at a commit that writes something, after so many more have gone well."""
        self._dies, self._commits_left = point, commits

    def survive(self) -> None:
        """Take `die_at` back."""
        self._dies = None

    def new(self) -> SimulatedDisk:
        """An empty one in its place."""
        return SimulatedDisk(durability="relaxed" if self.was_relaxed else "fsync", capacity=self._usual_capacity)

    def fill(self, bytes_left: int) -> None:
        """Let others take all of the disk but so many bytes."""
        self.capacity = self._size + bytes_left

    def free(self) -> None:
        """Take `fill` back."""
        self.capacity = self._usual_capacity

    def fail(self, commits: int) -> None:
        """Let so many of the next commits that write something fail."""
        self._failures_left = commits

    @property
    def dying(self) -> CrashPoint | None:
        """The point at which the process is to die with the next commit that writes something."""
        return self._dies if self._commits_left <= 0 else None

    @property
    def uncommitted(self) -> bool:
        """True if something was written since the last commit."""
        return bool(self._undo)

    def commit(self) -> bool:
        """Commit, unless the process is to die here, or the commit is to fail."""
        if not self._undo:
            return False
        dies = None if self._dies is None else self.dying
        if dies == "before commit":
            self._dies = None
            raise ProcessDied
        if self.refuses is not None and self._takes_in and self.refuses():
            self.abort()
            raise StoreFull("the simulated disk does not take what came in")
        if self._failures_left:
            self._failures_left -= 1
            self.abort()
            raise StoreFull("the simulated disk did not take this commit")
        super().commit()
        self.commits += 1
        if dies == "after commit":
            self._dies = None
            raise ProcessDied
        self._commits_left -= 1
        return True

    @property
    def _takes_in(self) -> bool:
        return any(before is None and key[0] == tables.INBOX for key, before in self._undo)
