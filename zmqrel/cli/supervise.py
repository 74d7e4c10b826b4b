"""The processes of a run: started in order, watched, restarted with backoff, ended in order.

One thread, one loop; `Run.run` returns when nothing of the run is left behind. What happens is told to a
`Reporter`; how it is shown is none of its business.
"""

from __future__ import annotations

import contextlib
import enum
import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from zmqrel.cli.counts import Counts
from zmqrel.cli.topology import Node, Plan

TURN_S = 0.05
MAX_BACKOFF_S = 5.0
# What programs end with when they were given wrong arguments: to start them again with the same is of no use.
USED_WRONGLY = 2
TAIL_LINES = 20
TAIL_BYTES = 64 * 1024
SIGNALS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))


class State(enum.Enum):
    """Where a node stands; ENDED is an end with status 0."""

    WAITING = "waiting"
    RUNNING = "running"
    RESTARTING = "restarting"
    ENDED = "ended"
    FAILED = "failed"
    STOPPED = "stopped"


class Reporter(Protocol):
    """Who is told what happens."""

    def event(self, kind: str, **fields: Any) -> None:
        """Something happened once."""

    def progress(self, nodes: list[View], seconds: float) -> None:
        """How the nodes stand; called every turn."""


@dataclass(frozen=True)
class View:
    """How one node stands, for the eye."""

    name: str
    state: State
    starts: int
    counts: Mapping[str, int]
    rate: float
    own: Mapping[str, float]


@dataclass(frozen=True)
class Result:
    """How a run ended: `finished` by its end rule, `interrupted` by a signal, `failed` for `reason`."""

    end: str
    reason: str
    seconds: float
    views: list[View] = field(repr=False)


class Child:
    """One node of the run over all its lives."""

    def __init__(self, node: Node, plan: Plan, reporter: Reporter) -> None:
        self.node = node
        self.state = State.WAITING
        self.log = plan.data / "logs" / f"{node.name}.log"
        self.counts = Counts(Path(node.environment["ZMQREL_STATUS_FILE"]), Path(node.environment["ZMQREL_STORE"]))
        self._directory = plan.directory
        self._reporter = reporter
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = self._failures = self._log_start = 0
        self._started_at = self._start_at = 0.0

    @property
    def view(self) -> View:
        counts = self.counts
        return View(self.node.name, self.state, self._starts, counts.total(), counts.rate, counts.own())

    def start(self, now: float) -> None:
        """Start a life; a program that cannot be started at all counts as one that failed."""
        self._starts += 1
        self._started_at = now
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self._log_start = log.tell()
            try:
                self._process = self._open(log.fileno())
            except OSError as error:
                log.write(f"cannot be started: {error}\n".encode())
                self._failed(now, f"cannot be started: {error.strerror}")
                return
        self.state = State.RUNNING
        self._reporter.event("started", node=self.node.name, pid=self._process.pid, start=self._starts)

    def _open(self, log: int) -> subprocess.Popen[bytes]:
        environment = {**os.environ, **self.node.environment, "ZMQREL_LAUNCHER": str(os.getpid())}
        # A session of its own: Ctrl-C at the terminal reaches the launcher alone, which ends nodes in order.
        return subprocess.Popen(
            self.node.argv,
            cwd=self._directory,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )

    def turn(self, now: float) -> None:
        """Notice an end, and start again when it is time to."""
        if self.state is State.RESTARTING and now >= self._start_at:
            self.start(now)
        elif self.state is State.RUNNING and self._process is not None:
            status = self._process.poll()
            if status is not None:
                self._ended(now, status)

    def _ended(self, now: float, status: int) -> None:
        self._clear()
        if status == 0:
            self.state = State.ENDED
            self._reporter.event("ended", node=self.node.name)
        else:
            self._failed(now, _status(status), used_wrongly=status == USED_WRONGLY)

    def _failed(self, now: float, why: str, used_wrongly: bool = False) -> None:
        steady = now - self._started_at > self.node.steady
        self._failures = 1 if steady else self._failures + 1
        hopeless = used_wrongly and not steady
        if hopeless or self.node.restart == "never" or self._failures >= self.node.tries:
            self.state = State.FAILED
            self._reporter.event("given_up", node=self.node.name, why=why, starts=self._starts, tail=self._tail())
            return
        wait = min(self.node.backoff * 2 ** min(self._failures - 1, 20), MAX_BACKOFF_S)
        self.state = State.RESTARTING
        self._start_at = now + wait
        self._reporter.event("died", node=self.node.name, why=why, again_in=round(wait, 3))

    def _tail(self) -> list[str]:
        """The last lines of the life that ended."""
        with self.log.open("rb") as log:
            end = log.seek(0, os.SEEK_END)
            log.seek(max(self._log_start, end - TAIL_BYTES))
            return log.read().decode(errors="replace").splitlines()[-TAIL_LINES:]

    def stop(self, timeout: float, hurry: Interrupts) -> None:
        """End this node if it runs: politely, with force after `timeout` or when the user is in a hurry."""
        if self.state is State.RUNNING and self._process is not None:
            asked_at = time.monotonic()
            self._process.terminate()
            if not self._wait(timeout, hurry):
                # Killed first: that may be told to nobody any more.
                self._process.kill()
                after = min(timeout, round(time.monotonic() - asked_at, 3))
                self._reporter.event("killed", node=self.node.name, after=after)
            status = self._process.wait()
            self._clear()
            if status not in (0, -signal.SIGTERM, -signal.SIGKILL):
                self._reporter.event("ended_badly", node=self.node.name, why=_status(status))
        if self.state in (State.WAITING, State.RUNNING, State.RESTARTING):
            self.state = State.STOPPED

    def _wait(self, timeout: float, hurry: Interrupts) -> bool:
        assert self._process is not None
        until = time.monotonic() + timeout
        while time.monotonic() < until and hurry.count < 2:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(TURN_S)
                return True
        return False

    def _clear(self) -> None:
        """End what the node itself has started and left behind: its process group outlives it."""
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
        self._process = None


class Interrupts:
    """Counts SIGINT, SIGTERM and SIGHUP: the first ends the run in order, the second at once."""

    def __init__(self) -> None:
        self.count = 0
        self.name = ""

    def _note(self, number: int, _frame: object) -> None:
        self.count += 1
        self.name = self.name or signal.Signals(number).name

    @contextlib.contextmanager
    def watched(self) -> Iterator[Interrupts]:
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield self
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class Run:
    """One run of a plan."""

    def __init__(self, plan: Plan, reporter: Reporter, interrupts: Interrupts, timeout: float | None = None) -> None:
        """`interrupts` are watched by the caller, until it has told how the run ended: no signal cuts that short."""
        self._plan = plan
        self._reporter = reporter
        self._interrupts = interrupts
        self._timeout = timeout
        self._children = [Child(node, plan, reporter) for node in plan.nodes]

    def run(self) -> Result:
        """Start everything, wait for the end, leave no process behind whatever happens."""
        begin = time.monotonic()
        interrupts = self._interrupts
        with contextlib.ExitStack() as stops:
            # A stack, because every node is to be stopped even if telling of one fails, say on a closed pipe.
            for child in reversed(self._children):
                stops.callback(child.stop, self._plan.stop_timeout, interrupts)
            end, reason = self._until_end(begin)
            self._reporter.event("stopping", end=end, reason=reason)
        return Result(end, reason, time.monotonic() - begin, self._views(time.monotonic()))

    def _until_end(self, begin: float) -> tuple[str, str]:
        for child in self._children:
            child.start(begin)
        while True:
            now = time.monotonic()
            for child in self._children:
                child.turn(now)
            self._reporter.progress(self._views(now), now - begin)
            end = self._end(now - begin)
            if end is not None:
                return end
            time.sleep(TURN_S)

    def _end(self, seconds: float) -> tuple[str, str] | None:
        failed = [child.node.name for child in self._children if child.state is State.FAILED]
        if failed:
            return "failed", f"{failed[0]} was given up"
        ended = {child.node.name for child in self._children if child.state is State.ENDED}
        if ended.issuperset(self._plan.when):
            return "finished", f"{', '.join(self._plan.when)} ended"
        if self._interrupts.count:
            return "interrupted", f"interrupted by {self._interrupts.name}"
        if self._timeout is not None and seconds >= self._timeout:
            return "failed", f"not finished within {self._timeout:g} s"
        return None

    def _views(self, now: float) -> list[View]:
        for child in self._children:
            child.counts.read(now)
        return [child.view for child in self._children]


def verify(plan: Plan, output: int | None, interrupts: Interrupts) -> int:
    """Run the command that judges the run, its output to the descriptor `output`; returns its exit status."""
    before = interrupts.count
    process = subprocess.Popen(
        plan.verify,
        cwd=plan.directory,
        env={**os.environ, **plan.environment},
        stdin=subprocess.DEVNULL,
        stdout=output,
    )
    while (status := process.poll()) is None:
        if interrupts.count >= before + 2:
            process.kill()
        elif interrupts.count > before:
            process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(TURN_S)
    # As a shell counts it: a command that a signal ended has not said that all is well.
    return status if status >= 0 else 128 - status


def _status(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return f"killed by {signal.Signals(-status).name}"
    return f"killed by signal {-status}"
