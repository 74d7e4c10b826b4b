"""A process that has used up its file descriptors, but for so many."""

from __future__ import annotations

import os
import resource

_MOST = 256


class Descriptors:
    """While entered, this process has `left` descriptors to open; the lowest of its limits that allows that."""

    def __init__(self, left: int = 0) -> None:
        self._left = left
        self._held: list[int] = []

    def __enter__(self) -> Descriptors:
        self._limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (_MOST, self._limits[1]))
        self.take_all()
        for _ in range(self._left):
            os.close(self._held.pop())
        return self

    def take_all(self) -> None:
        """Let nothing be left."""
        try:
            while True:
                self._held.append(os.dup(0))
        except OSError:
            return

    def __exit__(self, *_: object) -> None:
        for fd in self._held:
            os.close(fd)
        self._held.clear()
        resource.setrlimit(resource.RLIMIT_NOFILE, self._limits)
