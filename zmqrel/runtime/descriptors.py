"""Waiting for descriptors, and one that another thread can make readable."""

from __future__ import annotations

import os
import select
import socket
import sys
import threading
from contextlib import suppress
from typing import Final

import zmq

# An eventfd takes eight bytes, a number in the order of this machine; to a socket they are as good as one.
_ONE: Final = (1).to_bytes(8, sys.byteorder)
_CAN_BE_READ: Final = int(zmq.POLLIN)


class Descriptors:
    """Descriptors that are waited for until one of them can be read.

    Not zmq.Poller, which asks each socket twice in each wait, whether anything came to it or not: a peer with a
    thousand idle connections would do nothing else.
    """

    def __init__(self) -> None:
        self._poll: select.epoll | select.poll = select.poll()
        self._unit_s = 0.001
        if sys.platform == "linux":
            self._poll, self._unit_s = select.epoll(), 1.0

    def add(self, fd: int) -> None:
        """Wait for this one too."""
        self._poll.register(fd, _CAN_BE_READ)

    def remove(self, fd: int) -> None:
        """Wait for it no more. Before it is closed."""
        self._poll.unregister(fd)

    def wait(self, timeout_s: float) -> list[int]:
        """Those that can be read, at once or within `timeout_s`.

        Python rounds up to milliseconds: a timer that ends early would make the loop spin until it is due.
        """
        return [fd for fd, _ in self._poll.poll(timeout_s / self._unit_s)]

    def close(self) -> None:
        """Wait for none any more. May be repeated."""
        if sys.platform == "linux" and isinstance(self._poll, select.epoll):
            self._poll.close()
        self._poll, self._unit_s = select.poll(), 0.001


class Bell:
    """A descriptor that another thread can make readable, to end a poll."""

    fd: int

    def __init__(self) -> None:
        self._ends: tuple[socket.socket, ...] = ()
        if hasattr(os, "eventfd"):
            self.fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        else:
            self._ends = socket.socketpair()
            for end in self._ends:
                end.setblocking(False)
            self.fd, self._write_fd = (end.fileno() for end in self._ends)
        # A ringer that was overtaken by `close` would write into whatever file has the number by then.
        self._lock = threading.Lock()
        self._closed = False

    def ring(self) -> None:
        """Make the descriptor readable. Any thread; nothing after `close`."""
        with self._lock:
            if not self._closed:
                # Full means readable already.
                with suppress(BlockingIOError):
                    os.write(self._write_fd, _ONE)

    def hush(self) -> None:
        """Make the descriptor silent again."""
        with suppress(BlockingIOError):
            os.read(self.fd, 4096)

    def close(self) -> None:
        """Close the descriptor. May be repeated."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            for end in self._ends:
                end.close()
            if not self._ends:
                os.close(self.fd)
