"""A launched run under test: its events as they come, its end, and nothing left of it."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tests.cli.schema import validated

ROOT = Path(__file__).resolve().parents[2]
# Nothing is expected to take long; a machine under load may.
PATIENCE_S = 60.0


class Launched:
    """`zmqrel launch --json` as a process of its own."""

    def __init__(self, topology: Path, *arguments: str, cwd: Path | None = None) -> None:
        command = [sys.executable, "-m", "zmqrel", "launch", str(topology), "--json", *arguments]
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=cwd,
            env=environment(),
            start_new_session=True,
        )
        self.events: list[dict[str, Any]] = []
        self._coming: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self._said: list[str] = []
        self._threads = [threading.Thread(target=each, daemon=True) for each in (self._read, self._listen)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        with self.process.stdout as lines:
            for line in lines:
                self._coming.put(validated(json.loads(line), "launched"))
        self._coming.put(None)

    def _listen(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            self._said.extend(lines)

    def next(self, patience: float = PATIENCE_S) -> dict[str, Any] | None:
        """The next event, None after the last."""
        try:
            event = self._coming.get(timeout=patience)
        except queue.Empty:
            raise AssertionError(f"nothing came for {patience:g} s after {self.events[-5:]}") from None
        if event is None:
            # The end is the answer to every further question, too.
            self._coming.put(None)
        else:
            self.events.append(event)
        return event

    def until(self, kind: str, **fields: Any) -> dict[str, Any]:
        """The next event of that kind with those fields."""
        while (event := self.next()) is not None:
            if event["event"] == kind and all(event.get(key) == value for key, value in fields.items()):
                return event
        raise AssertionError(f"no {kind} {fields} came; stderr: {self.stderr()}; events: {self.events}")

    def end(self) -> int:
        """The exit status, after everything that was said has been read."""
        while self.next() is not None:
            pass
        return self.process.wait(PATIENCE_S)

    def of(self, kind: str) -> list[dict[str, Any]]:
        """The events of that kind so far."""
        return [event for event in self.events if event["event"] == kind]

    def summary(self) -> dict[str, Any]:
        return self.of("summary")[0]

    def stderr(self) -> str:
        self._threads[1].join(PATIENCE_S)
        return "".join(self._said)

    def pids(self) -> list[int]:
        return [event["pid"] for event in self.of("started")]

    def leave_nothing(self) -> None:
        """For the end of a test, also of one that failed."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(PATIENCE_S)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        for pid in self.pids():
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)


def environment() -> dict[str, str]:
    """The environment with this checkout first on the path, wherever a command is run."""
    path = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(path)}


def is_gone(pid: int) -> bool:
    """Whether no process has that number any more."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
