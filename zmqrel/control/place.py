"""Where the control socket of a store is, and how what passes through it is framed.

It lies in the directory of the store, so whoever has the store has it, and nobody else. A path to it may be longer
than the address of a Unix socket takes, so both ends go there by a short one: a link in a directory of their own that
is gone as soon as the socket is bound or connected.

Each connection carries one question and one answer: a length (u32, big-endian) and a msgpack map.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from struct import Struct
from typing import Any, Final, cast

import msgpack

SOCKET: Final = "control"
VERSION: Final = 1
"""Of questions and answers."""
MOST_QUESTION_BYTES: Final = 64 * 1024
MOST_ANSWER_BYTES: Final = 64 * 1024 * 1024

LENGTH: Final = Struct(">I")
# 107 bytes and a zero on Linux, 103 on macOS.
_LONGEST: Final = 100


@contextmanager
def address_of(directory: Path) -> Iterator[str]:
    """An address of the store's control socket that a Unix socket takes; good only inside. Raises OSError."""
    path = directory / SOCKET
    if len(bytes(path)) <= _LONGEST:
        yield str(path)
        return
    with tempfile.TemporaryDirectory(prefix="zmqrel-") as short:
        link = Path(short, "s")
        link.symlink_to(directory.absolute(), target_is_directory=True)
        yield str(link / SOCKET)


def framed(content: Mapping[str, Any]) -> bytes:
    """The bytes of a question or an answer."""
    data = cast(bytes, msgpack.packb(content))
    return LENGTH.pack(len(data)) + data


def unix_socket() -> socket.socket:
    """A socket that is not inherited."""
    return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
