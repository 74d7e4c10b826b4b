"""Who takes messages out of a queue's buffer: worker threads for handlers, callers of `receive`.

Handlers run here, never in the I/O thread, so that a slow one delays no heartbeat.
"""

from __future__ import annotations

import logging
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING

from zmqrel.core.buffer import HANDLED, Buffer, Failed, Result
from zmqrel.core.row import Row, Span
from zmqrel.core.rows import Policy
from zmqrel.errors import ForkedPeer, PeerClosed, StoreDamaged, StoreFull
from zmqrel.escaping import escaped
from zmqrel.message import Handler, Message, result_of
from zmqrel.runtime.drive import Drive

if TYPE_CHECKING:
    from zmqrel.runtime.loop import Loop

_log = logging.getLogger("zmqrel")

_FULL_PAUSE_S = 0.5


@dataclass(frozen=True, slots=True)
class Handling:
    """How the messages of a queue are handled."""

    function: Handler
    workers: int
    policy: Policy
    manual: bool = False
    """The function's return settles nothing."""
    admit: Callable[[Message], object] | None = None
    """Asked before a message is handed over."""
    time_limit_us: int = 0
    """How long a message may take before it is withdrawn; 0: as long as it likes."""


class Consumer(ABC):
    """One queue's buffer and those who take from it, be they threads or the simulator's."""

    _asking: AbstractContextManager[object]
    """Held while `admit` is asked."""

    def __init__(self, drive: Drive, queue: str, buffer: Buffer, policy: Policy) -> None:
        """Rows of `queue` come into `buffer`; failures are treated as `policy` says."""
        self.queue = queue
        self._drive = drive
        self._buffer = buffer
        self._policy = policy
        self._stopping = False

    @abstractmethod
    def _sleep(self, timeout_s: float | None) -> None:
        """Wait until there may be a row to take."""

    @abstractmethod
    def _monotonic_s(self) -> float:
        """The clock that time-outs run on."""

    def now_us(self) -> int:
        """The store clock."""
        return self._drive.clock.store_us()

    @property
    def served(self) -> tuple[str, Buffer, Policy]:
        """The queue, where its rows are to go, and how failures are treated."""
        return self.queue, self._buffer, self._policy

    def _take_admitted(self, admit: Callable[[Message], object]) -> Row | None:
        """Hand over the next row for which `admit` says yes; None if there is none now."""
        # One at a time: what is asked about longer must not be handed over after what was sent later.
        with self._asking:
            while not self._stopping:
                row = self._buffer.ask(self.now_us())
                if row is None or self._admitted(admit, row):
                    return row
        return None

    def _admitted(self, admit: Callable[[Message], object], row: Row) -> bool:
        """Ask, and hand over what is to be handed over. What `admit` raises is what a handler raises: an attempt."""
        failure: Result | None = None
        admitted: object = True
        try:
            admitted = bool(admit(Message(row, self, asked=True)))
        except BaseException as error:
            failure = self._result_of(error)
        if not admitted:
            self._buffer.refuse(row)
        elif self._buffer.admit(row, self.now_us()):
            if failure is None:
                return True
            self._settle(row, failure)
        self._drive.row_finished()
        return False

    def _handle(self, handling: Handling, row: Row) -> None:
        result: Result | None = None if handling.manual else HANDLED
        try:
            handling.function(Message(row, self))
        except BaseException as error:  # SystemExit and KeyboardInterrupt are failed attempts too
            result = self._result_of(error)
        if result is None:
            self._buffer.returned(row)
            if self._buffer.unsettled:
                self._drive.row_finished()
        elif not row.is_settled:  # by the handler itself
            self._settle(row, result)

    def _settle(self, row: Row, result: Result) -> None:
        try:
            self.finish(row, result)
        except PeerClosed:
            # The handler outlived its peer: the next life hands the message over again, and says so.
            outlived = escaped(Message(row, self).id)
            _log.warning(
                "handler of %s returned after its peer was closed; %s is redelivered", self.queue, escaped(outlived)
            )

    def _result_of(self, error: BaseException) -> Result:
        result = result_of(error)
        if isinstance(result, Failed):
            _log.warning("an attempt in queue %s failed: %s", self.queue, escaped(result.reason))
            _log.info("handler of %s failed", self.queue, exc_info=error)
        return result

    def receive(self, timeout_s: float | None) -> Message | None:
        """The next message, None after `timeout_s` or when the peer closes. Raises PeerClosed if it has failed."""
        give_up_at = None if timeout_s is None else self._monotonic_s() + timeout_s
        while not self._stopping:
            row = self._buffer.take(self.now_us())
            if row is not None:
                if not len(self._buffer):
                    self._drive.row_finished()
                return Message(row, self)
            left_s = None if give_up_at is None else give_up_at - self._monotonic_s()
            if left_s is not None and left_s <= 0:
                return None
            self._sleep(left_s)
        self._drive.check()
        return None

    def finish(self, row: Row, result: Result) -> bool:
        """A message was settled; False if it was before.

        Raises PeerClosed if that cannot be kept any more, ForkedPeer in a child.
        """
        drive = self._drive
        if drive.forked:
            raise ForkedPeer(f"the message belongs to peer {drive.name!r} of the process that this one forked from")
        if drive.closed:
            raise drive.refusal("the message is handed over again in its next life")
        finished = self._buffer.finish(row, result)
        if not drive.finished_rows:
            drive.row_finished()
        return finished

    def to_datetime(self, row: Row, their_us: int) -> datetime:
        """A time by the sender's clock as an aware datetime by the local clock."""
        own = row.lane.peer == self._drive.name
        return self._drive.clock.to_wall_datetime(their_us - (0 if own else self._drive.offset_us(row.lane.peer)))

    def stop(self) -> None:
        """Hand over nothing more; running handlers go on."""
        self._stopping = True
        self._buffer.close()


class ThreadConsumer(Consumer):
    """The worker threads of a handler, or the threads that call `receive`."""

    def __init__(self, loop: Loop, queue: str, policy: Policy, prefetch: int, time_limit_us: int = 0) -> None:
        # A plain lock: the buffer takes it for every message, and Condition's own is reentrant and dearer.
        lock = threading.Lock()
        self._condition = threading.Condition(lock)
        buffer = loop.new_buffer(queue, prefetch, lock, self._condition.notify, time_limit_us)
        super().__init__(loop, queue, buffer, policy)
        self._loop = loop
        self._asking = threading.Lock()
        self._threads: list[threading.Thread] = []
        loop.when_ended(self.stop)

    def serve(self) -> None:
        """Let the queue's messages come."""
        self._loop.serve([self.served]).result()

    def start_workers(self, handling: Handling) -> None:
        """Run a handler in its threads."""
        for number in range(handling.workers):
            name = f"zmqrel-{self._loop.name}-{self.queue}-{number + 1}"
            thread = threading.Thread(target=self._work, args=(handling,), name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _work(self, handling: Handling) -> None:
        admit, buffer = handling.admit, self._buffer
        together = admit is None and not handling.manual and not handling.time_limit_us
        while not self._stopping:
            try:
                span = buffer.next_span() if together else None
                if span is not None:
                    self._handle_all(handling.function, span)
                    continue
                row = buffer.take(self.now_us()) if admit is None else self._take_admitted(admit)
            except StoreFull:
                self._pause()
                continue
            except StoreDamaged as error:
                if not self._stopping:
                    _log.error("queue %s is not served for now: %s", self.queue, error)
                self._pause()
                continue
            if row is None:
                self._sleep(None)
            else:
                self._handle(handling, row)

    def _handle_all(self, function: Handler, span: Span) -> None:
        """Handle messages of a span one after the other, until none is left. Other workers may do the same with it."""
        drive = self._drive
        for at in self._buffer.hand_out(span, drive.clock.store_us):
            try:
                function(Message(span, self, at))
            except BaseException as error:
                self._settle(span.row(at), self._result_of(error))
                continue
            if self._stopping or drive.forked:
                if at in span.running:
                    self._settle(span.row(at), HANDLED)
                return

    def _monotonic_s(self) -> float:
        return monotonic()

    def _pause(self) -> None:
        """The in-hand table cannot grow: nothing is handed over until it can."""
        with self._condition:
            if not self._stopping:
                self._condition.wait(_FULL_PAUSE_S)

    def _sleep(self, timeout_s: float | None) -> None:
        if self._buffer.unsettled:
            self._loop.row_finished()  # expired at the door: the loop has to know
        with self._condition:
            if not len(self._buffer) and not self._stopping:
                self._condition.wait(timeout_s)

    def stop(self) -> None:
        """Hand over nothing more; running handlers go on."""
        super().stop()
        with self._condition:
            self._condition.notify_all()

    def join(self, deadline: float) -> bool:
        """Wait for the running handlers until `deadline` (monotonic seconds); False if some still run."""
        current = threading.current_thread()
        for thread in self._threads:
            if thread is not current:
                thread.join(max(0.0, deadline - monotonic()))
        return not any(thread.is_alive() for thread in self._threads if thread is not current)
