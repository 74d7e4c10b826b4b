"""Child processes as a test holds them; see nursery.py."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Queue
from types import TracebackType
from typing import Any

from tests.real.line import Line
from tests.real.net import LIMIT_S

ROOT = Path(__file__).parent.parent.parent


class Child:
    """A process that plays one role."""

    def __init__(self, nursery: Nursery, pid: int, line: Line, told: Told | None) -> None:
        self._nursery = nursery
        self.pid = pid
        self._line = line
        self._heard: Queue[dict[str, Any]] = Queue()
        self._status: int | None = None
        self.say = line.say
        self._reader = threading.Thread(target=self._read, args=(told or self._keep,), daemon=True)
        self._reader.start()

    def _keep(self, _: Child, said: dict[str, Any]) -> None:
        self._heard.put(said)

    def _read(self, told: Told) -> None:
        try:
            while True:
                told(self, self._line.hear())
        except EOFError:
            told(self, {"ended": True})

    def hear(self) -> dict[str, Any]:
        """What the child says next; {"ended": True} once it is dead."""
        heard = self._heard.get(timeout=LIMIT_S)
        assert "critical" not in heard, heard
        return heard

    def expect(self, word: str) -> Any:
        """The value of `word` in the next thing said that has it."""
        while word not in (heard := self.hear()):
            assert "ended" not in heard, f"it ended before it said {word!r}"
        return heard[word]

    def ask(self, word: str, **fields: Any) -> Any:
        """Say something and wait for the answer, which has the same word."""
        self.say(do=word, **fields)
        return self.expect(word)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        if self._status is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it with SIGKILL and wait until it has ended."""
        self.signal(signal.SIGKILL)
        self.join()

    def join(self) -> int:
        """Wait for its end; the exit status, or the negative number of the signal."""
        if self._status is None:
            self._reader.join(LIMIT_S)
            assert not self._reader.is_alive(), "it does not end"
            self._line.close()
            self._status = self._nursery.wait(self.pid)
        return self._status

    @property
    def ended(self) -> bool:
        """Whether it was waited for."""
        return self._status is not None


Told = Callable[[Child, dict[str, Any]], None]
"""Called with what a child said."""


class Nursery:
    """Starts children; at its end none is left."""

    def __init__(self) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._asking = threading.Lock()
        self._children: list[Child] = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.real.nursery", str(theirs.fileno())],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            pass_fds=[theirs.fileno()],
        )
        theirs.close()

    def start(self, role: str, told: Told | None = None, **arguments: Any) -> Child:
        """A child that plays this role; what it says goes to `told`, or is to be heard."""
        ours, theirs = socket.socketpair()
        request = json.dumps({"role": role, "arguments": arguments}).encode()
        with self._asking, theirs:
            socket.send_fds(self._control, [request], [theirs.fileno()])
            pid = int(self._control.recv(64))
        child = Child(self, pid, Line(ours), told)
        self._children = [each for each in self._children if not each.ended] + [child]
        return child

    def wait(self, pid: int) -> int:
        """The exit status of a child that has ended, or ends now."""
        with self._asking:
            self._control.send(json.dumps({"wait": pid}).encode())
            return int(self._control.recv(64))

    def __enter__(self) -> Nursery:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for child in self._children:
            child.kill()
        self._control.close()
        assert self._process.wait(LIMIT_S) == 0
