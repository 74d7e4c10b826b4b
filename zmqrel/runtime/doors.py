"""The listening sockets of a peer in a process that runs out of file descriptors.

libzmq accepts in its own thread. Without a descriptor to accept with it tries again and again, as long as somebody
waits at a tcp endpoint; at an ipc endpoint it ends the process. So while few descriptors are left nobody new is let in:
the system drops the packets of those who come over tcp, where it can, and the file of an ipc endpoint is put away. Who
waits at a tcp endpoint all the same is refused, with a descriptor that was kept for that. What is connected stays so.

It has to be looked at now and then, for the system tells nobody. What happens above can still happen in a process that
opens the last `_FEW` between two looks.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Final

LOOK_S: Final = 0.25
"""How often to look."""
_FEW: Final = 16


class SocketFile:
    """The file of a bound ipc endpoint, while it is ours: another process may have put its own there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity = identity(path)
        self._away = path.with_name(path.name + ".away")

    def put_away(self) -> None:
        """Let nobody connect any more."""
        if identity(self._path) == self._identity:
            self._path.rename(self._away)

    def put_back(self) -> None:
        """Let others connect again, unless somebody else has taken the place."""
        if identity(self._away) == self._identity and identity(self._path) is None:
            self._away.rename(self._path)

    def remove(self) -> None:
        """Remove the file if it is still the one that was bound."""
        for path in (self._path, self._away):
            if identity(path) == self._identity:
                path.unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int] | None:
    """Device and inode of a file, None if there is none: whether it is still the same one."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


class Doors:
    """The listening sockets of one peer. Used by its I/O thread."""

    def __init__(self) -> None:
        self.shut = False
        """Whether nobody new is let in."""
        self._files: list[SocketFile] = []
        self._sockets: dict[int, socket.socket] = {}
        """By number, each a second descriptor of a listening socket of libzmq."""
        self._spare: int | None = None
        self._look_at = 0.0

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self._files or self._sockets)

    def add_file(self, file: SocketFile) -> None:
        """Watch over an ipc endpoint."""
        self._files.append(file)

    def add_socket(self, fd: int) -> None:
        """Watch over a tcp endpoint, at which libzmq listens with this descriptor. Raises OSError."""
        listening = socket.socket(fileno=os.dup(fd))
        listening.setblocking(False)
        self._sockets[listening.fileno()] = listening
        if self._spare is None:
            self._spare = _open()

    @property
    def to_poll(self) -> set[int]:
        """The descriptors that become readable when somebody is to be refused."""
        return set(self._sockets) if self.shut and self._spare is not None else set()

    def look(self) -> bool:
        """Shut or open them by the number of descriptors left, if it is time to look; whether that changed."""
        if monotonic() < self._look_at or not self:
            return False
        self._look_at = monotonic() + LOOK_S
        few = not _can_open(_FEW)
        if self._spare is None and self._sockets:
            self._keep_spare()
        if few == self.shut:
            return False
        self.shut = few
        for file in self._files:
            with suppress(OSError):  # its directory is gone, say; then nobody finds it either
                file.put_away() if few else file.put_back()
        for listening in self._sockets.values():
            _let_nobody_come(listening) if few else _let_them_come(listening)
        return True

    def refuse(self, fd: int) -> None:
        """Turn away who waits at one of `to_poll`."""
        if self._spare is None:
            return
        os.close(self._spare)
        self._spare = None
        with suppress(OSError):  # libzmq was faster, or another thread has taken what was spare
            connection, _ = self._sockets[fd].accept()
            connection.close()
        self._keep_spare()

    def _keep_spare(self) -> None:
        with suppress(OSError):
            self._spare = _open()

    def close(self) -> None:
        """Remove the files and close what was opened for this. May be repeated."""
        for file in self._files:
            file.remove()
        self._files.clear()
        for listening in self._sockets.values():
            listening.close()
        self._sockets.clear()
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None


_CAN_FILTER: Final = sys.platform.startswith("linux")
_ATTACH_FILTER: Final = 26
_DETACH_FILTER: Final = 27
# The classic BPF program "return 0": of each packet keep nothing.
_DROP_ALL: Final = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))


def _let_nobody_come(listening: socket.socket) -> None:
    if _CAN_FILTER:
        with suppress(OSError):
            listening.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, struct.pack("HL", 1, ctypes.addressof(_DROP_ALL)))


def _let_them_come(listening: socket.socket) -> None:
    if _CAN_FILTER:
        with suppress(OSError):
            listening.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)


def check_descriptors(count: int) -> None:
    """Raise OSError unless the process can open so many more."""
    opened: list[int] = []
    try:
        while len(opened) < count:
            opened.append(_open())
    finally:
        for fd in opened:
            os.close(fd)


def _open() -> int:
    return os.open("/", os.O_RDONLY | os.O_CLOEXEC)


def _can_open(count: int) -> bool:
    try:
        check_descriptors(count)
    except OSError:
        return False
    return True
