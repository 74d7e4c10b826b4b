"""The TCP connections under the links: libzmq makes them, and only the descriptors in its messages tell which they are.

Of a large frame on a slow link libzmq says nothing before its end. The system knows when something last came over the
connection (`tcpi_last_data_recv`, Linux), and that is a sign of life. Cutting bodies into pieces, so that heartbeats
come between them, would need memory and order for the pieces at both ends, for what the system tells anyway. It also
knows what has not arrived at the other machine yet (SIOCOUTQ): a copy of that would only stand behind it.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any, Final

import zmq

if sys.platform == "linux":
    import fcntl

_LAST_DATA_RECEIVED_MS: Final = slice(52, 56)
"""In Linux's `struct tcp_info` (include/uapi/linux/tcp.h): a 32-bit number."""
_SIOCOUTQ: Final = 0x5411
"""Linux (include/uapi/asm-generic/ioctls.h): bytes that the other end has not acknowledged, a C int."""


class Connections:
    """Which connection each link has. One thread uses it; on other systems than Linux it knows nothing."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[int, Any]] = {}
        """Link -> descriptor and the addresses of both ends: the number alone may be another connection's by now."""

    def note(self, link: int, frame: zmq.Frame) -> None:
        """A frame came over the link: a dialled one may have another connection than the last time."""
        descriptor = descriptor_of(frame)
        known = self._of.get(link)
        if descriptor is None or (known is not None and known[0] == descriptor) or sys.platform != "linux":
            return
        with suppress(OSError), _borrowed(descriptor) as connection:
            self._of[link] = descriptor, _ends(connection)

    def forget(self, link: int) -> None:
        """The link is gone."""
        self._of.pop(link, None)

    def quiet_us(self, link: int) -> int | None:
        """For how long nothing at all has come over the link's connection, microseconds; None if that is not known."""
        with suppress(OSError), self._connection(link) as connection:
            told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED_MS.stop)
            return int.from_bytes(told[_LAST_DATA_RECEIVED_MS], sys.byteorder) * 1000
        return None

    def is_sending(self, link: int) -> bool:
        """Whether something that was sent over the link's connection has not arrived; False if that is not known."""
        if sys.platform == "linux":
            with suppress(OSError), self._connection(link) as connection:
                return any(fcntl.ioctl(connection, _SIOCOUTQ, bytes(4)))
        return False

    @contextmanager
    def _connection(self, link: int) -> Iterator[socket.socket]:
        """The connection as it was noted. Raises OSError if it is not to be had any more."""
        known = self._of.get(link)
        if known is None:
            raise OSError("nothing has come over the link")
        descriptor, ends = known
        with _borrowed(descriptor) as connection:
            if _ends(connection) != ends:
                del self._of[link]  # its next frame tells which it has
                raise OSError("the link has another connection by now")
            yield connection


def descriptor_of(frame: zmq.Frame) -> int | None:
    """That of the connection over which a frame came; by now it may be closed, or the number be another file's."""
    with suppress(zmq.ZMQError):
        number = int(frame.get(zmq.SRCFD))
        return number if number >= 0 else None
    return None


def cut(descriptor: int, places: set[int | str]) -> None:
    """End the connection that has this descriptor, if it came to one of our `places`: ports, and paths of sockets.

    libzmq has no call for that, but sees its end. By now the number may be that of another connection: at worst,
    another one to these places has to be made again.
    """
    with suppress(OSError), _borrowed(descriptor) as connection:
        connection.getpeername()  # raises for one that listens
        place = connection.getsockname()
        if (place[1] if isinstance(place, tuple) else place) in places:
            connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def _borrowed(descriptor: int) -> Iterator[socket.socket]:
    """A socket of our own for the same connection. Raises OSError if the descriptor is no socket's by now."""
    own = os.dup(descriptor)
    try:
        connection = socket.socket(fileno=own)
    except OSError:
        os.close(own)
        raise
    with connection:
        yield connection


def _ends(connection: socket.socket) -> tuple[Any, Any]:
    return connection.getsockname(), connection.getpeername()
