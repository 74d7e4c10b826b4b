"""One life of a simulated peer, as the calls and workers of an application see it: in place of the I/O thread."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING, Any

from zmqrel.core import commands as c
from zmqrel.core.buffer import Buffer, Result
from zmqrel.core.effects import Ended, ReceiptNotice
from zmqrel.core.engine import Engine
from zmqrel.core.entries import decode_head
from zmqrel.core.row import Row
from zmqrel.core.rows import Policy
from zmqrel.errors import OutboxFull, PeerClosed
from zmqrel.receipts import Ticket
from zmqrel.runtime.drive import Answer, Drive
from zmqrel.runtime.outcomes import Listener, Teller
from zmqrel.runtime.room import WaitingSends
from zmqrel.runtime.workers import Consumer, Handling
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.disk import ProcessDied
from zmqrel.testing.observations import HandOver
from zmqrel.testing.peer import SimulatedPeer, SimulatedReceipt
from zmqrel.testing.tasks import TaskLock

if TYPE_CHECKING:
    from zmqrel.testing.network import Network


class SimulatedCall:
    """A question to a simulated peer."""

    def __init__(self, drive: SimulatedDrive) -> None:
        self._drive = drive
        self._answers: list[Any] = []

    def answer(self, value: Any) -> None:
        """The answer; ProcessDied if there will be none."""
        self._answers.append(value)

    def result(self, timeout_s: float | None = None) -> Any:
        """The answer. Raises it if it is an exception, TimeoutError after `timeout_s`, PeerClosed if the peer died."""
        if not self._drive.wait(lambda: bool(self._answers), timeout_s):
            raise TimeoutError(f"no answer within {timeout_s} s")
        [value] = self._answers
        if isinstance(value, ProcessDied):
            raise self._drive.refusal("it died before it answered, so nobody knows what became of the call")
        if isinstance(value, Exception):
            raise value
        return value


class SimulatedDrive(Drive):
    """Hands commands to a simulated peer, keeps what its receipts know, and tells the checkers what was asked."""

    def __init__(self, simulated: SimulatedPeer) -> None:
        """The life that is about to begin."""
        super().__init__(simulated.name, simulated.options)
        self.simulated = simulated
        self.network: Network = simulated.network
        self._over = False
        self._fill = (0, 0)
        options = simulated.options
        self._room = WaitingSends(options.outbox_max_messages, options.outbox_max_bytes, self.monotonic_s)
        self._pending: list[SimulatedReceipt] = []
        """Sent, and neither accepted nor refused yet."""
        self.on_ended: Callable[[], None] | None = None
        """Called when messages have got their outcome."""

    # ----------------------------------------------------------------------------------------- of the peer's life

    def loaded(self, engine: Engine) -> None:
        """The core was loaded, anew perhaps."""
        self.clock = self.simulated.running_clock
        self.receipts.reload(engine.shared.out_lanes)

    def told(self, notices: list[ReceiptNotice]) -> None:
        """What a turn brought."""
        self.receipts.tell(notices, self.clock.store_us())
        if self.on_ended is not None and any(isinstance(notice, Ended) for notice in notices):
            self.on_ended()

    def turned(self) -> None:
        """A turn is over: sends that waited for room may have it now."""
        ledger = self.simulated.engine.shared.ledger
        before, self._fill = self._fill, (ledger.outbox_messages, ledger.outbox_bytes)
        if self._fill[0] < before[0] or self._fill[1] < before[1]:
            self.shrinks += 1
        for send in self._room.take(*self._fill):
            self.simulated.queue(send)

    def end(self, died: bool) -> None:
        """The life is over."""
        self._over = True
        if died:
            self.failure = ProcessDied("its process died")
        self.receipts.close(self.refusal())

    # ------------------------------------------------------------------------------------------------ what Drive says

    @property
    def engine(self) -> Engine:
        """The core."""
        return self.simulated.engine

    @property
    def closed(self) -> bool:
        """True once the life is over."""
        return self._over

    def ask(self, command: c.Command) -> Answer:
        """Queue a command."""
        self._refuse_if_over()
        self._observe(command)
        call = SimulatedCall(self)
        self.simulated.command(command, call.answer)
        return call

    def post(self, action: Callable[[], Any]) -> Answer:
        """Done at once: applications never run within a turn."""
        self._refuse_if_over()
        call = SimulatedCall(self)
        try:
            call.answer(action())
        except Exception as error:
            call.answer(error)
        return call

    def accept(self, command: c.Send, ticket: Ticket, room_timeout_s: float = 0.0) -> None:
        """Queue a send."""
        self._refuse_if_over()
        receipts = self._receipts_of(command)
        self._pending += receipts
        if room_timeout_s:
            self._room.expect(command, room_timeout_s)
            self.network.after(room_timeout_s + 1e-5, self._give_up)
        answer = partial(self._accepted, command, receipts, ticket)
        if self._room.queue_behind(command):
            self.simulated.expect(command, answer)
        else:
            self.simulated.command(command, answer)

    def _accepted(self, command: c.Send, receipts: list[SimulatedReceipt], ticket: Ticket, value: Any) -> None:
        if isinstance(value, OutboxFull) and not self._over and self._room.keep(command, value):
            self.simulated.expect(command, partial(self._accepted, command, receipts, ticket))
            return
        self._room.answered(command)
        self._pending = [receipt for receipt in self._pending if receipt not in receipts]
        if isinstance(value, c.Stored):
            for seq, receipt in enumerate(receipts, value.first):
                receipt.body = _name(receipt.sender, command.id or f"{value.lane.id:016x}-{seq}")
        self.simulated.sent(receipts, value)
        died = isinstance(value, ProcessDied)
        self._tell_sender(ticket, self.refusal("it died before the message was accepted, or after") if died else value)

    def _give_up(self) -> None:
        if not self._over:
            for send, refusal in self._room.give_up():
                self.simulated.answer(send, refusal)

    def wait_for_room(self, shrinks: int, timeout_s: float) -> None:
        """Wait until the outbox is smaller than it was."""
        if not self.wait(lambda: self._over or self.shrinks != shrinks, timeout_s):
            raise TimeoutError(f"no room within {timeout_s} s")
        self._refuse_if_over()

    def stats(self) -> Answer:
        """The core's counters."""
        return self.post(self.simulated.stats)

    def row_finished(self) -> None:
        """Have a turn."""
        if not self._over:
            self.simulated.wake(self.simulated.input_delay_us())

    def wait(self, condition: Callable[[], bool], timeout_s: float | None) -> bool:
        """Let time pass; see Network.wait."""
        return self.network.wait(condition, timeout_s)

    def monotonic_s(self) -> float:
        """The clock that time-outs run on."""
        return self.network.now

    def _refuse_if_over(self) -> None:
        self.network.tasks.check_thread()
        if self._over:
            self.network.wait(bool, 0)  # in a handler of a dead process nothing goes on
            raise self.refusal()

    # --------------------------------------------------------------------------------------------- what checkers see

    def _receipts_of(self, command: c.Send) -> list[SimulatedReceipt]:
        """What the network notes of a send: bodies may be alike, so the messages are told apart by their names."""
        heads = [(record, decode_head(record)) for record in command.records]
        return [
            SimulatedReceipt(
                self.name, command.to, command.queue, head.meta.key,
                _name(self.name, command.id) if command.id is not None else (self.name, record),
                self.network.true_us(), head.sent_at_us, head.deadline_us, head.meta.not_before_us,
                head.meta.max_attempts, command.id,
            )
            for record, head in heads
        ]  # fmt: skip

    def observed(self, row: Row) -> HandOver:
        """A row as the checkers are told of it."""
        meta, now_us = row.head.meta, self.network.true_us()
        message_id = meta.id or f"{row.lane.id:016x}-{row.seq}"
        sender = self.network.peers.get(row.lane.peer)
        receipt = sender.receipts.get((row.lane.id, row.seq)) if sender is not None else None
        if receipt is not None:
            body = receipt.body
        else:
            body = _name(row.lane.peer, message_id) if meta.id is not None else (row.lane.peer, bytes(row.record))
        return HandOver(
            row.lane.peer, self.name, row.queue, message_id, meta.key, meta.origin_id, body,
            row.attempts, row.redelivered or row.doubt, now_us, now_us,
        )  # fmt: skip

    def _observe(self, command: c.Command) -> None:
        """Whoever recalls says so before the answer, which may come after the outcome."""
        simulated, observe = self.simulated, self.network.observe
        if isinstance(command, c.Recall):
            for lane_no, seq in command.places:
                receipt = simulated.receipt_at(lane_no, seq)
                if receipt is not None:
                    observe("recalling", receipt)
        elif isinstance(command, c.RecallWhere) and command.withdraw:
            for receipt in simulated.receipts.values():
                if receipt.outcome is None and _may_match(command, receipt):
                    observe("recalling", receipt)
            for receipt in self._pending:
                observe("recalling where", self.name, receipt.queue, receipt.key)
        elif isinstance(command, c.Forget):
            observe("forgot", self.name, command.name)


def _name(sender: str, message_id: str) -> str:
    return f"{message_id} of {sender}"


def _may_match(command: c.RecallWhere, receipt: SimulatedReceipt) -> bool:
    asked = ((command.to, receipt.to), (command.queue, receipt.queue), (command.key, receipt.key))
    return all(wanted in (None, value) for wanted, value in asked)


class ObservedBuffer(Buffer):
    """A buffer that tells the checkers what is handed over, and what becomes of it."""

    __slots__ = ("_drive",)

    def __init__(
        self, drive: SimulatedDrive, queue: str, prefetch: int, notify: Callable[[int], None], time_limit_us: int
    ) -> None:
        """See Buffer."""
        in_hand = drive.simulated.in_hand
        super().__init__(queue, prefetch, in_hand, nullcontext(), notify, time_limit_us, drive.row_finished)
        self._drive = drive

    def _tell(self, what: str, row: Row, *details: object) -> None:
        self._drive.network.observe(what, self._drive.observed(row), *details)

    def take(self, now_us: int) -> Row | None:
        """See Buffer."""
        row = super().take(now_us)
        if row is not None:
            self._tell("handed over", row)
        return row

    def ask(self, now_us: int) -> Row | None:
        """See Buffer."""
        row = super().ask(now_us)
        if row is not None:
            self._tell("asking", row)
        return row

    def admit(self, row: Row, now_us: int) -> bool:
        """See Buffer."""
        admitted = super().admit(row, now_us)
        if admitted:
            self._tell("handed over", row)
        return admitted

    def refuse(self, row: Row) -> None:
        """See Buffer."""
        super().refuse(row)
        self._tell("refused", row)

    def finish(self, row: Row, result: Result) -> bool:
        """See Buffer."""
        if not row.is_settled:
            self._tell("finished", row, result)
        return super().finish(row, result)


class SimulatedConsumer(Consumer):
    """The workers of a handler, a task for each that has something to do; or whoever calls `receive`."""

    def __init__(self, drive: SimulatedDrive, queue: str, policy: Policy, handling: Handling | None = None) -> None:
        """Without a handling the queue is received from."""
        limit_us = 0 if handling is None else handling.time_limit_us
        buffer = ObservedBuffer(drive, queue, drive.options.prefetch, self._offered, limit_us)
        super().__init__(drive, queue, buffer, policy)
        self._asking = TaskLock(drive.wait)
        self._simulated = drive
        self._handling = handling
        self._woken = False
        self.busy = 0
        """Workers that have a message, or look for one."""

    def serve(self) -> None:
        """Let the queue's messages come."""
        self._simulated.simulated.serve_buffer(*self.served)

    def _offered(self, _rows: int) -> None:
        if self._handling is not None and not self._woken:
            self._woken = True
            simulated = self._simulated.simulated
            simulated.when_awake(simulated.input_delay_us(), self._set_to_work)

    def _set_to_work(self) -> None:
        self._woken = False
        handling = self._handling
        while handling is not None and len(self._buffer) and self.busy < handling.workers and not self._stopping:
            self.busy += 1
            self._simulated.network.tasks.start(partial(self._work, handling), self._is_dead)

    def _is_dead(self) -> bool:
        return self._simulated.closed

    def _work(self, handling: Handling) -> None:
        try:
            while not self._stopping:
                row = (
                    self._buffer.take(self.now_us()) if handling.admit is None else self._take_admitted(handling.admit)
                )
                if row is None:
                    return
                self._handle(handling, row)
        finally:
            self.busy -= 1
            if self._buffer.unsettled and not self._is_dead():
                self._drive.row_finished()

    def _result_of(self, error: BaseException) -> Result:
        if isinstance(error, ProcessDied | PromiseBroken):
            raise error  # not an attempt: the process is dead, or a promise of this library was found broken
        return super()._result_of(error)

    def _sleep(self, timeout_s: float | None) -> None:
        if self._buffer.unsettled:
            self._drive.row_finished()  # expired at the door
        self._simulated.wait(lambda: bool(len(self._buffer)) or self._stopping, timeout_s)

    def _monotonic_s(self) -> float:
        return self._simulated.monotonic_s()


class SimulatedTeller(Teller):
    """Calls listeners in a task, when there is something to tell."""

    def __init__(self, drive: SimulatedDrive, listeners: list[Listener]) -> None:
        """Tell from the next turn on, what was not told before first."""
        super().__init__(drive, listeners)
        self._simulated = drive
        self._at_work = self._news = False
        self.stopping = False
        """No callback is to be begun."""
        drive.simulated.command(c.Subscribe())
        drive.on_ended = self._hear
        self._hear()

    def _hear(self) -> None:
        self._news = True
        if not self._at_work:
            self._at_work = True
            self._simulated.simulated.when_awake(self._simulated.simulated.input_delay_us(), self._begin)

    def _begin(self) -> None:
        self._simulated.network.tasks.start(self._tell_news, lambda: self._simulated.closed)

    def _tell_news(self) -> None:
        try:
            while self._news and not self.stopping:
                self._news = False
                self._tell_all()
        except PeerClosed:
            return  # the rest is told in the next life
        finally:
            self._at_work = False

    @property
    def is_calling(self) -> bool:
        """A callback has not returned."""
        return self._at_work

    def _pause(self, seconds: float) -> bool:
        return self._simulated.wait(lambda: self.stopping, seconds)

    @property
    def _is_closing(self) -> bool:
        return self.stopping
