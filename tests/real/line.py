"""Lines of JSON between a test and its child processes."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any


class Line:
    """One end of a conversation. What was said before a process was killed is still heard."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._incoming = end.makefile("rb")
        self._saying = threading.Lock()

    def say(self, **fields: Any) -> None:
        """Say something, from any thread. Nobody may be listening any more."""
        data = json.dumps(fields).encode() + b"\n"
        with self._saying:
            try:
                self._end.sendall(data)
            except OSError:
                return

    def hear(self) -> dict[str, Any]:
        """What is said next. Raises EOFError when nobody is there any more."""
        try:
            data = self._incoming.readline()
        except OSError:
            data = b""
        if not data.endswith(b"\n"):
            raise EOFError
        heard: dict[str, Any] = json.loads(data)
        return heard

    def close(self) -> None:
        """Hang up."""
        self._incoming.close()
        self._end.close()
