"""The processes of one run: each plays one part, and tells what it did over a pipe.

They are started afresh for each run, so that no run inherits another's memory or threads. Times are read from
`time.perf_counter`, which all processes of a Linux machine share (CLOCK_MONOTONIC).
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any

TIMEOUT_S = 600
_START_S = 60
_SPAWN = multiprocessing.get_context("spawn")


class PartFailed(RuntimeError):
    """A process of a run raised, died or did not answer; says which and what it said."""


class Part:
    """One process. `ask()` waits for what it tells next."""

    def __init__(self, name: str, process: Any, pipe: Connection) -> None:
        """Of a process that was started with the other end of `pipe`."""
        self.name = name
        self._process = process
        self._pipe = pipe

    def ask(self, timeout: float = TIMEOUT_S) -> Any:
        """What the process tells next; PartFailed if it cannot."""
        if not self._pipe.poll(timeout):
            raise PartFailed(f"{self.name} said nothing for {timeout:g} s")
        try:
            kind, value = self._pipe.recv()
        except EOFError:
            self._process.join(5)
            raise PartFailed(f"{self.name} ended with status {self._process.exitcode}") from None
        if kind == "failed":
            raise PartFailed(f"{self.name} failed:\n{value}")
        return value

    def tell(self, value: Any) -> None:
        """Say something to the process, for its `Line.hear`."""
        self._pipe.send(value)

    def pid(self) -> int:
        """Its process id."""
        pid = self._process.pid
        assert pid is not None
        return int(pid)

    def end(self) -> None:
        """Close the pipe, which ends a process that listens; kill it if it does not end by itself."""
        self._pipe.close()
        self._process.join(20)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


class Line:
    """The process's own end: `tell` what was found, `hear` what is asked or wait for the end."""

    def __init__(self, pipe: Connection) -> None:
        """Over a pipe."""
        self._pipe = pipe

    def tell(self, value: Any) -> None:
        """Answer `Part.ask`."""
        self._pipe.send(("told", value))

    def waits(self, timeout_s: float) -> bool:
        """Whether the other end says something, or ends, within so many seconds: `hear` does not wait then."""
        return self._pipe.poll(timeout_s)

    def hear(self) -> Any:
        """What the other end says next; None when it is done with this process."""
        try:
            return self._pipe.recv()
        except EOFError:
            return None


@contextmanager
def part(function: Callable[..., None], *arguments: Any) -> Iterator[Part]:
    """Run `function(line, *arguments)` in a process of its own, which is gone afterwards."""
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_play, args=(function, theirs, arguments), daemon=True)
    process.start()
    theirs.close()
    running = Part(function.__name__.strip("_"), process, ours)
    try:
        if running.ask(_START_S) != "started":
            raise PartFailed(f"{running.name} did not start")
        yield running
    finally:
        running.end()


def _play(function: Callable[..., None], pipe: Connection, arguments: tuple[Any, ...]) -> None:
    line = Line(pipe)
    line.tell("started")
    try:
        function(line, *arguments)
    except BrokenPipeError:
        sys.exit(1)  # nobody wants to know any more
    except Exception:
        pipe.send(("failed", traceback.format_exc()))


def cpu_s() -> float:
    """Processor seconds that this process has used, in all its threads."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def now_s() -> float:
    """A point in time that other processes of this machine can compare with theirs."""
    return time.perf_counter()
