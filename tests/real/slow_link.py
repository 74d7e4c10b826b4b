"""A TCP link that passes so many bytes a second, between a dialler and the port that it means."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress

_STEP_S = 0.02


class SlowLink:
    """Accepts at `endpoint` and passes everything on to a port, in both directions, at `bytes_per_s` each."""

    def __init__(self, port: int, bytes_per_s: int) -> None:
        self._step_bytes = int(bytes_per_s * _STEP_S)
        self._port = port
        self._closing = threading.Event()
        self._ends: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._door = socket.create_server(("127.0.0.1", 0))
        self.endpoint = f"tcp://127.0.0.1:{self._door.getsockname()[1]}"
        self._spawn(self._accept)

    def __enter__(self) -> SlowLink:
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        for end in (self._door, *self._ends):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for end in (self._door, *self._ends):
            end.close()

    def _spawn(self, action: object, *arguments: socket.socket) -> None:
        thread = threading.Thread(target=action, args=arguments)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                near, _ = self._door.accept()
            except OSError:
                return
            # Small, so that what is slow is the link and not the emptying of a buffer that took all at once.
            near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 16)
            far = socket.create_connection(("127.0.0.1", self._port))
            self._ends += [near, far]
            self._spawn(self._pass_on, near, far)
            self._spawn(self._pass_on, far, near)

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(self._step_bytes):
                target.sendall(data)
                self._closing.wait(_STEP_S * len(data) / self._step_bytes)
        with suppress(OSError):
            target.shutdown(socket.SHUT_RDWR)
