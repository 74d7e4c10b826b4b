"""A tap on a real connection: a relay between a DEALER and a ROUTER that reads every ZMTP message as it passes.

It knows ZMTP 3 (rfc.zeromq.org/spec/23) and nothing of zmqrel. It can lose a message, which TCP alone never does.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable
from contextlib import suppress

Parts = list[bytes]
Capture = Callable[[str, str, Parts], bool]
"""Called with sender, receiver and a message's parts; True loses it."""

_GREETING = 64
_MORE, _LONG, _COMMAND = 1, 2, 4


class Tap:
    """Listens at `endpoint`, and passes on to where `receiver` listens."""

    def __init__(self, dialler: str, receiver: str, port: int, capture: Capture) -> None:
        self._names = dialler, receiver
        self._port = port
        self._capture = capture
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._listening.getsockname()[1]}"
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._guard = threading.Lock()
        self._closed = False
        self._spawn(self._accept)

    def _spawn(self, action: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=action, args=arguments, name="tap")
        with self._guard:
            self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            try:
                far = socket.create_connection(("127.0.0.1", self._port))
            except OSError:
                near.close()  # nobody is there: the dialler tries again
                continue
            with self._guard:
                self._ends += [near, far]
                closed = self._closed
            if closed:
                _hang_up(near, far)
                return
            self._spawn(self._pass_on, near, far, *self._names)
            self._spawn(self._pass_on, far, near, *reversed(self._names))

    def _pass_on(self, source: socket.socket, target: socket.socket, sender: str, receiver: str) -> None:
        incoming = source.makefile("rb")
        try:
            for _ in range(_GREETING):  # by bytes, for each side waits for the beginning of the other's
                target.sendall(_exactly(incoming.read, 1))
            while True:
                raw, parts = _message(incoming.read)
                if parts is None or not self._capture(sender, receiver, parts):
                    target.sendall(raw)
        except (OSError, EOFError):
            _hang_up(source, target)
        finally:
            incoming.close()

    def close(self) -> None:
        """Break every connection, accept none."""
        with self._guard:
            self._closed = True
            ends = list(self._ends)
        with suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        _hang_up(*ends)
        for thread in list(self._threads):
            thread.join()
        for end in self._ends:
            end.close()


def _hang_up(*ends: socket.socket) -> None:
    for end in ends:
        with suppress(OSError):
            end.shutdown(socket.SHUT_RDWR)


def _exactly(read: Callable[[int], bytes], size: int) -> bytes:
    data = read(size)
    if len(data) < size:
        raise EOFError
    return data


def _message(read: Callable[[int], bytes]) -> tuple[bytes, Parts | None]:
    """The next message as it came, and its parts; None for a command."""
    raw, parts = b"", []
    while True:
        flags = _exactly(read, 1)
        size = _exactly(read, 8 if flags[0] & _LONG else 1)
        body = _exactly(read, int.from_bytes(size, "big"))
        raw += flags + size + body
        if flags[0] & _COMMAND:
            return raw, None
        parts.append(body)
        if not flags[0] & _MORE:
            return raw, parts
