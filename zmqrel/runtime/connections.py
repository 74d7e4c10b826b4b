"""The TCP connections under the links: libzmq makes them, and only the descriptors in its messages tell which they are.

Of a large frame on a slow link libzmq says nothing before its end. The system knows when something last came over the
connection (`tcpi_last_data_recv`, Linux), and that is a sign of life. Cutting bodies into pieces, so that heartbeats
come between them, would need memory and order for the pieces at both ends, for what the system tells anyway.
"""

from __future__ import annotations

import os
import socket
import sys
from contextlib import suppress
from typing import Any, Final

import zmq

_LAST_DATA_RECEIVED_MS: Final = slice(52, 56)
"""In Linux's `struct tcp_info` (include/uapi/linux/tcp.h): a 32-bit number."""


class Connections:
    """Which connection each link has. One thread uses it."""

    def __init__(self) -> None:
        self._of: dict[int, tuple[int, Any]] = {}
        """Link -> descriptor and the address of the other end: the number alone may be another connection's by now."""

    def note(self, link: int, frame: zmq.Frame) -> None:
        """A frame came over the link: a dialled one may have another connection than the last time."""
        descriptor = descriptor_of(frame)
        known = self._of.get(link)
        if descriptor is None or (known is not None and known[0] == descriptor):
            return
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            self._of[link] = descriptor, connection.getpeername()

    def forget(self, link: int) -> None:
        """The link is gone."""
        self._of.pop(link, None)

    def quiet_us(self, link: int) -> int | None:
        """For how long nothing at all has come over the link's connection, microseconds; None if that is not known."""
        descriptor, other_end = self._of.get(link, (-1, None))
        if descriptor < 0 or sys.platform != "linux":
            return None
        with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
            if connection.getpeername() == other_end:
                told = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _LAST_DATA_RECEIVED_MS.stop)
                return int.from_bytes(told[_LAST_DATA_RECEIVED_MS], sys.byteorder) * 1000
        return None


def descriptor_of(frame: zmq.Frame) -> int | None:
    """That of the connection over which a frame came, if it is still open."""
    with suppress(zmq.ZMQError):
        number = int(frame.get(zmq.SRCFD))
        return number if number >= 0 else None
    return None


def cut(descriptor: int, places: set[int | str]) -> None:
    """End the connection that has this descriptor, if it came to one of our `places`: ports, and paths of sockets.

    libzmq has no call for that, but sees its end. By now the number may be that of another connection: at worst,
    another one to these places has to be made again.
    """
    with suppress(OSError), socket.socket(fileno=os.dup(descriptor)) as connection:
        connection.getpeername()  # raises for one that listens
        place = connection.getsockname()
        if (place[1] if isinstance(place, tuple) else place) in places:
            connection.shutdown(socket.SHUT_RDWR)
