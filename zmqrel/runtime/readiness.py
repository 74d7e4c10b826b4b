"""Which links have frames to read: waiting for the descriptors of their sockets, and for a bell.

A socket of libzmq tells by its descriptor once that something came, and any use of the socket takes that away. So a
link that was used is asked itself, until it was read to its end.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from time import monotonic
from typing import Final, TypeAlias

import zmq

from zmqrel.runtime.descriptors import Bell, Descriptors

Link: TypeAlias = int

# A plain number: an operation on the flags of pyzmq takes longer than a system call.
_CAN_BE_READ: Final = int(zmq.POLLIN)
_LONGEST_WAIT_S: Final = 3_600.0


class Readiness:
    """The sockets of one peer that are waited for. One thread uses it; `wake` may be called from any."""

    def __init__(self) -> None:
        """With a bell, and no sockets yet."""
        self._descriptors = Descriptors()
        self._sockets: dict[Link, zmq.Socket[bytes]] = {}
        self._link_at: dict[int, Link] = {}
        """By the descriptor of its socket."""
        self._others: dict[int, Callable[[int], None]] = {}
        """What to call when one of these descriptors can be read."""
        self._unsure: dict[Link, None] = {}
        """Whose sockets may have frames that their descriptors do not tell of."""
        self._readable: list[Link] | None = None
        """What `wait` found, until it is taken."""
        self._bell = Bell()
        self._sleeping = False
        self._descriptors.add(self._bell.fd)

    def add(self, link: Link, socket: zmq.Socket[bytes]) -> None:
        """Wait for the frames of this link too."""
        fd = socket.FD
        self._descriptors.add(fd)
        self._sockets[link] = socket
        self._link_at[fd] = link
        self._unsure[link] = None

    def remove(self, link: Link) -> None:
        """Before its socket is closed: wait for it no more."""
        fd = self._sockets.pop(link).FD
        self._descriptors.remove(fd)
        del self._link_at[fd]
        self._unsure.pop(link, None)

    def add_other(self, fd: int, serve: Callable[[int], None]) -> None:
        """Call `serve(fd)` in `wait` when this descriptor can be read."""
        self._descriptors.add(fd)
        self._others[fd] = serve

    def remove_other(self, fd: int) -> None:
        """Before it is closed."""
        del self._others[fd]
        self._descriptors.remove(fd)

    def used(self, link: Link) -> None:
        """Its socket was used: frames may be there of which its descriptor does not tell."""
        self._unsure[link] = None

    def read_to_its_end(self, link: Link) -> None:
        """Its socket said EAGAIN."""
        self._unsure.pop(link, None)

    def wait(
        self, timeout_s: float | None, ready: Callable[[], bool], chore: Callable[[], None], chore_s: float
    ) -> None:
        """Sleep until a link can be read, `wake` is called or `timeout_s` is over (None: for ever).

        See `Wire.wait`, which says what `ready` must look at. `chore` is called every `chore_s` seconds meanwhile.
        """
        if self._readable:
            return
        links = self._with_frames(self._unsure)
        self._sleeping = True
        try:
            came = self._sleep(0.0 if links or ready() else timeout_s, chore, chore_s)
        finally:
            self._sleeping = False
        self._readable = sorted({*links, *came})

    def _sleep(self, timeout_s: float | None, chore: Callable[[], None], chore_s: float) -> list[Link]:
        wake_at = math.inf if timeout_s is None else monotonic() + timeout_s
        left_s = wake_at if timeout_s is None else timeout_s
        while True:
            links = self._poll(min(max(min(left_s, chore_s), 0.0), _LONGEST_WAIT_S))
            left_s = wake_at - monotonic()
            if links is not None or left_s <= 0:
                return links or []
            chore()

    def _poll(self, timeout_s: float) -> list[Link] | None:
        """The links that have frames, of those to which something comes within `timeout_s`.

        None if that were no frames, nor the bell.
        """
        came = []
        rung = False
        for fd in self._descriptors.wait(timeout_s):
            link = self._link_at.get(fd)
            if link is not None:
                came.append(link)
            elif fd == self._bell.fd:
                self._bell.hush()
                rung = True
            elif fd in self._others:  # one that was served before may have taken it away
                self._others[fd](fd)
        links = self._with_frames(came)
        return links if links or rung else None

    def _with_frames(self, links: Iterable[Link]) -> list[Link]:
        """Those of them that have frames; until they are read to their end it is not known that they have none."""
        found = []
        for link in list(links):
            socket = self._sockets.get(link)
            if socket is not None and int(socket.get(zmq.EVENTS)) & _CAN_BE_READ:
                self._unsure[link] = None
                found.append(link)
            else:
                self._unsure.pop(link, None)
        return found

    @property
    def is_known(self) -> bool:
        """Whether `wait` was called since `take`."""
        return self._readable is not None

    def take(self, last: Link) -> deque[Link]:
        """What `wait` found, beginning behind the link that was served last; it is used once."""
        links, self._readable = self._readable or [], None
        behind = bisect_right(links, last)
        return deque(links[behind:] + links[:behind])

    def wake(self) -> None:
        """End `wait`, from any thread; after `close` too. Costs no system call unless it sleeps."""
        if self._sleeping:
            # Lowered before the bell is rung, so that a thousand sends in a row ring once. The other order
            # would lower the flag of the next sleep, and nobody would ring for work queued then.
            self._sleeping = False
            self._bell.ring()

    def close(self) -> None:
        """Wait for nothing any more. May be repeated."""
        self._readable = None
        self._unsure.clear()
        self._sockets.clear()
        self._descriptors.close()
        self._bell.close()
