"""What a peer offers to its application, whatever runs it: `Peer` over its threads, and its double in `testing`."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from zmqrel.checks import (
    Duration,
    Instant,
    check_id,
    check_key,
    check_name,
    check_queue,
    duration_s,
    one_of,
    whole,
)
from zmqrel.core import commands as c
from zmqrel.core.rows import Policy
from zmqrel.errors import ConfigError, DeadlinePassed, Error, OutboxFull, PeerClosed, UnknownMessage, UnknownPeer
from zmqrel.message import Handler, Message, Recall, Receipt, ReceiptSequence, call_back
from zmqrel.options import Options
from zmqrel.outcome import Outcome
from zmqrel.receipts import Ticket, Watcher, ended_ticket
from zmqrel.retry import Retry
from zmqrel.runtime.drive import Drive
from zmqrel.runtime.outcomes import Listener
from zmqrel.runtime.workers import Consumer, Handling
from zmqrel.sending import SendCall, message_filter, send_call
from zmqrel.stored import DeadLetter, DeadLetters, InboxMessage, OutboxMessage, outbox_record, pages

DEFAULT_RETRY = Retry.exponential(0.5, max_interval=60, max_attempts=10, jitter="full")
"""Of handlers that were given none."""
_H = TypeVar("_H", bound=Handler)
_R = TypeVar("_R")
_T = TypeVar("_T")
_MOST_WORKERS = 1024


@dataclass(frozen=True, slots=True)
class CloseReport:
    """What stays in the store of a peer that was closed, as counts of messages."""

    unsent: int
    """Accepted and never transmitted."""
    unsettled: int
    """Accepted and without an outcome, those unsent included."""
    inbox: int
    """Received and not settled."""

    @classmethod
    def of(cls, stats: Mapping[str, int]) -> CloseReport:
        """Of the last figures of a peer."""
        return cls(stats.get("outbox_unsent", 0), stats.get("outbox_messages", 0), stats.get("inbox_messages", 0))


class CallbackRunner(Protocol):
    """Runs actions one after the other, outside of the turns of the peer."""

    def begin(self) -> None:
        """Be ready for actions."""
        ...

    def put(self, action: Callable[[], None]) -> None:
        """Run this, which raises nothing, after what came before."""
        ...


class _Access:
    """A peer's store, as listings use it."""

    def __init__(self, peer: Participant) -> None:
        self._peer = peer

    def ask(self, command: c.Command) -> Any:
        """The answer of the core, waited for. Raises PeerClosed."""
        return self._peer._running().ask(command).result()

    def to_datetime(self, store_us: int) -> datetime:
        """A time by the store clock as an aware datetime."""
        return self._peer._to_datetime(store_us)

    def from_posix(self, posix_s: float) -> int:
        """POSIX seconds by the store clock."""
        return self._peer._running().clock.from_posix(posix_s)


class Participant(ABC):
    """One named peer, as its application calls it. How it waits and what runs it, its subclasses know."""

    _callbacks: CallbackRunner

    def __init__(self, name: str, options: Mapping[str, Any]) -> None:
        """`options` are keyword arguments of `Options`. Raises ConfigError."""
        self.name = check_name(name)
        self.options = Options.parse(dict(options))
        self._peers: dict[str, str | None] = {}
        self._registrations: dict[str, Handling] = {}
        self._listeners: list[Listener] = []
        self._guard = threading.Lock()
        self._unflushed: list[Ticket] = []
        self._kept_unflushed = 0
        self._flush_guard = threading.Lock()
        self._to_call_back: set[Watcher] = set()
        """They hold the receipts that have callbacks: nobody else may."""

    # ----------------------------------------------------------------------------------- what runs it and how it waits

    @abstractmethod
    def _running(self) -> Drive:
        """What runs it. Raises PeerClosed unless it is started and not closed, ForkedPeer in a child."""

    @property
    @abstractmethod
    def _has_started(self) -> bool:
        """True from its start on, also when it is closed."""

    @property
    @abstractmethod
    def _is_closed(self) -> bool:
        """True once it refuses calls for good."""

    @abstractmethod
    def _is_pulled(self, queue: str) -> bool:
        """True if the queue is received from."""

    @abstractmethod
    def _to_datetime(self, store_us: int) -> datetime:
        """A time by the store clock as an aware datetime, also once it is closed."""

    @abstractmethod
    def _check_fork(self) -> None:
        """Raise ForkedPeer in a child of the process that it belongs to."""

    @abstractmethod
    def _monotonic_s(self) -> float:
        """The clock that time-outs run on."""

    @abstractmethod
    def _wait(self, ticket: Ticket, reached: Callable[[], bool], timeout_s: float | None) -> bool:
        """Wait until `reached`, which asks the ticket, says so. False after `timeout_s`. Raises what ended the call."""

    @abstractmethod
    def _next_of(self, queue: SimpleQueue[_T], timeout_s: float | None) -> _T:
        """Wait for the next item, which the peer puts there. Raises queue.Empty after `timeout_s`."""

    @abstractmethod
    def _serve(self, queue: str, handling: Handling) -> None:
        """Have the messages of a queue handled, while the peer runs."""

    @abstractmethod
    def _pulled(self, queue: str) -> Consumer:
        """Who takes the messages of a queue that is received from. Raises ConfigError if it has a handler."""

    # -------------------------------------------------------------------------------------------- known peers

    def disconnect(self, name: str) -> None:
        """Do not know a peer any more; what waits for it stays. Raises UnknownPeer."""
        drive = self._running()
        self._check_known(check_name(name), "name")
        drive.ask(c.Disconnect(name)).result()
        self._peers.pop(name, None)

    def forget(self, name: str) -> int:
        """Forget a peer that will not return, here or not; returns how many messages ended by that.

        Its waiting messages end: RECALLED if they were never transmitted, else UNCERTAIN, reason "forgotten"; receipts
        and `on_outcome` tell. Everything that is known of it is deleted, and it is not listed any more: sending to it
        raises UnknownPeer until it is connected anew. Messages that came from it stay in the inbox and are handled;
        nobody is told what becomes of them. Should it return nevertheless, both sides treat each other as stores that
        lost their memory: what was not settled comes again, `redelivered`.

        It may take some turns of the I/O thread, and goes on in the next life if this one ends in it. Raises
        UnknownPeer for a name that this store does not know.
        """
        drive = self._running()
        if check_name(name) not in self._peers and not drive.knows(name):
            raise UnknownPeer(f"name: {name!r} is no peer of {self.name!r}; known are {sorted(self._peers) or 'none'}")
        self._peers.pop(name, None)
        ended: int = drive.ask(c.Forget(name)).result()
        return ended

    # ------------------------------------------------------------------------------------------- sending

    def send(
        self,
        to: str,
        body: Any,
        *,
        queue: str = "default",
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
        id: str | None = None,
        ttl: Duration | None = None,
        deadline: Instant | None = None,
        delay: Duration | None = None,
        not_before: Instant | None = None,
        on_expiry: str = "dead",
        max_attempts: int | None = None,
        room_timeout: Duration = 0,
    ) -> Receipt:
        """Send a message; returns its receipt once it is committed to the outbox.

        Waits up to `room_timeout` seconds for room in a full outbox. Raises UnknownPeer, NotSerializable,
        MessageTooLarge, DuplicateId, DeadlinePassed, OutboxFull, StoreFull, PeerClosed and ConfigError, all before
        anything is accepted.
        """
        call = SendCall(to, queue, key, headers, id, ttl, deadline, delay, not_before, on_expiry, max_attempts)
        return self._accept(call, [body], duration_s("room_timeout", room_timeout))[0]

    def send_nowait(self, to: str, body: Any, **arguments: Any) -> Receipt:
        """As `send`, but returns at once, with a receipt in state QUEUED. `flush` waits until all are committed.

        What `send` would raise while committing is raised by `flush` and by the receipt's `wait`. With a `room_timeout`
        it stays QUEUED for so long while the outbox is full, and has its place in order from when it is accepted.
        """
        room_timeout_s = duration_s("room_timeout", arguments.pop("room_timeout", 0))
        call = send_call(to, arguments)
        return Receipt(self, self._submit_unflushed(call, [body], room_timeout_s))

    def send_many(self, to: str, bodies: Iterable[Any], **arguments: Any) -> list[Receipt]:
        """Send messages that share all arguments; one commit, all or none. Takes what `send` takes, but no id."""
        call, all_bodies, room_timeout_s = self._many(to, bodies, arguments, "send_many")
        return self._accept(call, all_bodies, room_timeout_s) if all_bodies else []

    def send_many_nowait(self, to: str, bodies: Iterable[Any], **arguments: Any) -> Sequence[Receipt]:
        """As `send_many`, but returns at once, as `send_nowait` does: the fastest way to send a stream.

        The receipts are a sequence that makes each one when it is asked for; `wait_all` takes it as it is. Who sends
        without end bounds what is under way: it is kept in memory until it is committed.
        """
        call, all_bodies, room_timeout_s = self._many(to, bodies, arguments, "send_many_nowait")
        if not all_bodies:
            return []
        return ReceiptSequence(self, self._submit_unflushed(call, all_bodies, room_timeout_s))

    @staticmethod
    def _many(to: str, bodies: object, arguments: dict[str, Any], name: str) -> tuple[SendCall, list[Any], float]:
        """Call, bodies and seconds to wait for room, checked."""
        room_timeout_s = duration_s("room_timeout", arguments.pop("room_timeout", 0))
        if arguments.get("id") is not None:
            raise ConfigError(f"id: {name} takes none, for an id names one message")
        call = send_call(to, arguments)
        if isinstance(bodies, str | bytes | Mapping) or not isinstance(bodies, Iterable):
            raise ConfigError.of("bodies", "an iterable of bodies, one for each message", bodies)
        return call, list(bodies), room_timeout_s

    def _submit_unflushed(self, call: SendCall, bodies: list[Any], room_timeout_s: float) -> Ticket:
        ticket = self._submit(call, bodies, room_timeout_s)
        with self._flush_guard:
            self._unflushed.append(ticket)
            if len(self._unflushed) > 2 * self._kept_unflushed + 1000:
                self._unflushed = [ticket for ticket in self._unflushed if ticket.lane is None]
                self._kept_unflushed = len(self._unflushed)
        return ticket

    def flush(self, timeout: Duration | None = None) -> None:
        """Wait until everything sent so far is committed. Raises TimeoutError, and what refused a `send_nowait`."""
        timeout_s = None if timeout is None else duration_s("timeout", timeout)
        self._check_fork()
        with self._flush_guard:
            waiting, self._unflushed, self._kept_unflushed = self._unflushed, [], 0
        give_up_at = None if timeout_s is None else self._monotonic_s() + timeout_s
        refused: list[Ticket] = []
        for position, ticket in enumerate(waiting):
            left_s = None if give_up_at is None else max(0.0, give_up_at - self._monotonic_s())
            try:
                if not self._wait_stored(ticket, left_s):
                    self._flush_again(refused + waiting[position:])
                    left = len(waiting) - position
                    raise TimeoutError(f"{left} messages were not committed within {timeout_s:g} s")
            except Error:
                refused.append(ticket)
        if refused:
            # The others are raised by the next calls: one call raises one error.
            self._flush_again(refused[1:])
            self._wait_stored(refused[0], 0)

    def _flush_again(self, tickets: list[Ticket]) -> None:
        with self._flush_guard:
            self._unflushed = tickets + self._unflushed

    def _wait_stored(self, ticket: Ticket, timeout_s: float | None) -> bool:
        return self._wait(ticket, lambda: ticket.lane is not None, timeout_s)

    def _accept(self, call: SendCall, bodies: list[Any], room_timeout_s: float) -> list[Receipt]:
        give_up_at = self._monotonic_s() + room_timeout_s
        while True:
            shrinks = self._running().shrinks
            try:
                ticket = self._submit(call, bodies)
            except DeadlinePassed:
                # Sent again after its deadline, as after a crash: the first receipt tells what became of it.
                if call.id is None or not self._was_sent(call, bodies[0]):
                    raise
                return [self.receipt(call.id)]
            try:
                self._wait_stored(ticket, None)
                break
            except OutboxFull:
                if self._monotonic_s() >= give_up_at:
                    raise
                self._wait_for_room(shrinks, give_up_at)
        if call.id is not None and ticket.repeated:
            return [self.receipt(call.id)]
        return [Receipt(self, ticket, index) for index in range(len(bodies))]

    def _submit(self, call: SendCall, bodies: list[Any], room_timeout_s: float = 0.0) -> Ticket:
        drive = self._running()
        self._check_known(call.to)
        records, deadline_us, sent_at_us = call.encode(drive.clock, bodies, self.options.max_body_bytes)
        ticket = Ticket(call.to, call.queue, call.key, call.id, len(records), sent_at_us)
        digest = call.digest(bodies[0]) if call.id is not None else b""
        command = c.Send(call.to, call.queue, call.delayed, records, deadline_us, call.id, digest)
        drive.accept(command, ticket, room_timeout_s)
        return ticket

    def _was_sent(self, call: SendCall, body: Any) -> bool:
        """True if this very call was made before, under its id. Raises DuplicateId if another was."""
        command = c.Send(call.to, call.queue, call.delayed, [], 0, call.id, call.digest(body))
        return self._running().ask(c.FindRepeated(command)).result() is not None

    def _wait_for_room(self, shrinks: int, give_up_at: float) -> None:
        try:
            self._running().wait_for_room(shrinks, max(0.0, give_up_at - self._monotonic_s()))
        except TimeoutError:
            return  # the last try says what is full

    def _check_known(self, name: str, parameter: str = "to") -> None:
        if name not in self._peers and not (self.options.accept == "any" and self._running().knows(name)):
            raise UnknownPeer(
                f"{parameter}: {name!r} is no peer of {self.name!r}; known are {sorted(self._peers) or 'none'}"
            )

    def _call_back(self, function: Callable[[Receipt], object], receipt: Receipt) -> None:
        """Call `function` in the thread for callbacks once the message of `receipt` has ended."""
        self._running()
        self._callbacks.begin()

        def over(error: Exception | None) -> None:
            self._to_call_back.discard(over)
            if not isinstance(error, PeerClosed):
                self._callbacks.put(lambda: call_back(function, receipt))

        self._to_call_back.add(over)
        receipt._ticket.watch(receipt._index, over)

    # ------------------------------------------------------------------------------------ receipts, recall

    def receipt(self, id: str) -> Receipt:
        """The receipt of a message by its id, also after a restart. Raises UnknownMessage."""
        check_id(id)
        drive = self._running()
        found: c.Found | None = drive.ask(c.Find(id)).result()
        if found is None:
            raise UnknownMessage(
                f"id: no message {id!r} is known at {self.name!r}; an outcome is kept for "
                f"outcome_retention_s={self.options.outcome_retention_s:g}"
            )
        return self._receipt_of(drive, found)

    def _receipt_of(self, drive: Drive, found: c.Found) -> Receipt:
        return Receipt(self, self._tickets_of(drive, [found])[0])

    @staticmethod
    def _tickets_of(drive: Drive, found: list[c.Found]) -> list[Ticket]:
        pairs = [
            (Ticket(item.lane.peer, item.lane.queue, item.key, item.id, 1, item.sent_at_us), item) for item in found
        ]

        def look_up_all() -> None:
            for ticket, item in pairs:
                drive.look_up(ticket, item)

        drive.post(look_up_all).result()
        return [ticket for ticket, _ in pairs]

    def recall(self, receipt_or_id: Receipt | str, *, timeout: Duration = 0) -> Recall:
        """Ask for a message back. The recall is committed and stays in force; waits up to `timeout` for a verdict.

        Raises UnknownMessage for an id that is not known here.
        """
        timeout_s = duration_s("timeout", timeout)
        if isinstance(receipt_or_id, Receipt):
            # One of another peer, or of an earlier life, names a place in another store.
            own = receipt_or_id._peer is self
            receipt = receipt_or_id if own else self.receipt(receipt_or_id.id)
        elif isinstance(receipt_or_id, str):
            receipt = self.receipt(receipt_or_id)
        else:
            raise ConfigError.of("receipt_or_id", "a Receipt or an id", receipt_or_id)
        drive = self._running()
        receipt.wait_stored()
        place = receipt._ticket.place(receipt._index)
        assert place is not None
        if receipt.outcome is None:
            drive.ask(c.Recall([(place.lane.no, place.seq)], [receipt.id])).result()
        recall = Recall(receipt)
        recall.wait(timeout_s)
        return recall

    def recall_where(
        self,
        *,
        to: str | None = None,
        queue: str | None = None,
        key: str | None = None,
        headers: Mapping[str, Any] | None = None,
        sent_after: Instant | None = None,
        sent_before: Instant | None = None,
        where: Callable[[Receipt], bool] | None = None,
        all: bool = False,
        timeout: Duration = 0,
    ) -> list[Recall]:
        """Recall every unsettled message that matches all given filters; without one it needs `all=True`.

        `headers` match if the message has at least these; `where` is called with the receipt. Waits up to `timeout`
        seconds for the verdicts of all.
        """
        timeout_s = duration_s("timeout", timeout)
        if not isinstance(all, bool):
            raise ConfigError.of("all", "True or False", all)
        if where is not None and not callable(where):
            raise ConfigError.of("where", "a callable that takes a Receipt", where)
        filters = (to, queue, key, headers or None, sent_after, sent_before, where)
        if not all and not any(value is not None for value in filters):
            raise ConfigError("recall_where: give a filter, or all=True to recall every unsettled message")
        drive = self._running()
        command = c.RecallWhere(
            None if to is None else check_name(to, "to"),
            None if queue is None else check_queue(queue),
            check_key(key),
            message_filter(drive.clock, headers, sent_after, sent_before),
            withdraw=where is None,
        )
        found: list[c.Found | None] = drive.ask(command).result()
        tickets = self._tickets_of(drive, [item for item in found if item is not None])
        receipts = [Receipt(self, ticket) for ticket in tickets]
        if where is None:
            recalls = [Recall(receipt) for receipt in receipts]
        else:
            # Asked in the caller's thread: the application's code must not run in the I/O thread.
            recalls = [self.recall(receipt) for receipt in receipts if where(receipt)]
        give_up_at = self._monotonic_s() + timeout_s
        for recall in recalls:
            recall.wait(max(0.0, give_up_at - self._monotonic_s()))
        return recalls

    # ------------------------------------------------------------------------------- what lies in the store

    def dead_letters(self) -> DeadLetters:
        """An iterator over the dead letters of this store, oldest first, that can also delete them: `purge`.

        Messages become dead letters at the peer that judged them: those that were rejected or whose attempts ran out
        at the receiver, those that expired where the deadline was judged. They are kept for `dead_retention_s`, up to
        `dead_max_bytes`.
        """
        self._running()
        return DeadLetters(_Access(self))

    def outbox(self) -> Iterator[OutboxMessage]:
        """An iterator over the messages sent from here that have no outcome, oldest first.

        It goes through what lay there when it began and leaves out what ends meanwhile.
        """
        self._running()
        return self._listed_outbox(_Access(self))

    def _listed_outbox(self, access: _Access) -> Iterator[OutboxMessage]:
        for page in pages(lambda left: access.ask(c.ListOutbox(left))):
            yield from self._outbox_messages(access, page)

    def inbox(self, queue: str | None = None) -> Iterator[InboxMessage]:
        """An iterator over the messages received and not settled, of one queue or of all, oldest first.

        It shows them and takes nothing: `receive` and handlers do. It goes through what lay there when it began and
        leaves out what ends meanwhile.
        """
        only = None if queue is None else check_queue(queue)
        self._running()
        access = _Access(self)
        listed = pages(lambda left: access.ask(c.ListInbox(only, left)))
        return (InboxMessage(access, item) for page in listed for item in page)

    def find(self, id: str) -> list[Receipt | InboxMessage | DeadLetter]:
        """Everything that this store knows of messages with this id; each item has a `history`.

        A receipt, if it was sent from here (an OutboxMessage, with its body, while it has no outcome), what lies in
        the inbox, and dead letters. Several senders may use the same id. An id that was given to `send` is looked for
        through the whole inbox and all dead letters.
        """
        check_id(id)
        drive, access = self._running(), _Access(self)
        known: list[Receipt | InboxMessage | DeadLetter] = []
        found: c.Found | None = drive.ask(c.Find(id)).result()
        if found is not None:
            place = c.LanePart(found.lane.no, found.seq, found.seq)
            page: c.Page[c.Outgoing] = access.ask(c.ListOutbox([place]))
            known += self._outbox_messages(access, page.items) or [self._receipt_of(drive, found)]
        received = [InboxMessage(access, item) for item in access.ask(c.FindReceived(id))]
        known += received or [message for message in self.inbox() if message.id == id]
        known += [letter for letter in self.dead_letters() if letter.id == id]
        return known

    def _outbox_messages(self, access: _Access, page: list[c.Outgoing]) -> list[OutboxMessage]:
        tickets = self._tickets_of(self._running(), [item.found for item in page])
        pairs = zip(page, tickets, strict=True)
        return [OutboxMessage(self, ticket, outbox_record(access, item)) for item, ticket in pairs]

    # -------------------------------------------------------------------------------------------- receiving

    def handler(
        self,
        queue: str = "default",
        *,
        workers: int = 1,
        retry: Retry | None = None,
        ack: str = "auto",
        time_limit: Duration | None = None,
        admit: Callable[[Message], object] | None = None,
    ) -> Callable[[_H], _H]:
        """Let the decorated function handle the messages of a queue, in `workers` threads.

        It is called with a Message. Returning means HANDLED; raising `Reject` means REJECTED; raising `RetryLater` or
        anything else means another attempt, as `retry` says (default: exponential from 0.5 s to 60 s, 10 attempts).

        With `ack="manual"` returning settles nothing: settle the message later, from any thread. What is never settled
        is counted in `stats()["in_hand"]` and handed over again, `redelivered`, in the peer's next life.

        A message that is not settled `time_limit` seconds after its hand-over is `withdrawn`, so that its handler can
        see that it should stop, and counted in `stats()["overdue"]`. It is not handed over again meanwhile.

        `admit(message)` is asked before a message is handed over, in the worker's thread, of one message of the queue
        at a time. If it returns something false, the message ends REJECTED, reason "condition", and no attempt is
        counted; until then it can be recalled. It may look at the message, not settle it. Raising means what it means
        in the function, and counts as an attempt.
        """
        check_queue(queue)
        whole("workers", workers, 1, _MOST_WORKERS)
        if retry is not None and not isinstance(retry, Retry):
            raise ConfigError.of("retry", "a Retry or None", retry)
        manual = one_of("ack", ack, ("auto", "manual")) == "manual"
        limit_us = 0 if time_limit is None else max(1, int(duration_s("time_limit", time_limit, zero=False) * 1e6))
        if admit is not None and not callable(admit):
            raise ConfigError.of("admit", "a callable that takes a Message, or None", admit)
        policy = Policy(DEFAULT_RETRY if retry is None else retry, workers)

        def register(function: _H) -> _H:
            if not callable(function):
                raise ConfigError.of("handler", "a callable that takes a Message", function)
            self._register(queue, Handling(function, workers, policy, manual, admit, limit_us))
            return function

        return register

    def _register(self, queue: str, registration: Handling) -> None:
        self._check_fork()
        if self._has_started:
            self._running()
        with self._guard:
            if queue in self._registrations or self._is_pulled(queue):
                raise ConfigError(f"queue: {queue!r} has a handler, or is received from, already")
            self._registrations[queue] = registration
            started = self._has_started
        if started:
            self._serve(queue, registration)

    def receive(self, queue: str = "default", timeout: Duration | None = None) -> Message | None:
        """The next message of a queue, to be settled by the caller; None after `timeout` seconds."""
        timeout_s = None if timeout is None else duration_s("timeout", timeout)
        consumer = self._pulled(check_queue(queue))
        message = consumer.receive(timeout_s)
        if message is None and self._is_closed:
            raise PeerClosed(f"peer {self.name!r} is closed")
        return message

    def messages(self, queue: str = "default") -> Iterator[Message]:
        """The messages of a queue as they come, until the peer is closed."""
        consumer = self._pulled(check_queue(queue))
        return iter(lambda: consumer.receive(None), None)

    # -------------------------------------------------------------------------------------------- outcomes

    def on_outcome(
        self, *outcomes: Outcome, to: str | None = None, queue: str | None = None
    ) -> Callable[[Callable[[Receipt], _R]], Callable[[Receipt], _R]]:
        """Let the decorated function be called with the receipt of every message that ends so; without `outcomes`, all.

        It is called in a thread of its own, in order, at least once, also for what ended while this program did not
        run, until it returned: an exception is retried with backoff. It may call the peer. Register before `start`.
        """
        for outcome in outcomes:
            if not isinstance(outcome, Outcome):
                raise ConfigError.of("outcomes", "members of zmqrel.Outcome", outcome)
        only_to = None if to is None else check_name(to, "to")
        only_queue = None if queue is None else check_queue(queue)

        def register(function: Callable[[Receipt], _R]) -> Callable[[Receipt], _R]:
            if not callable(function):
                raise ConfigError.of("on_outcome", "a callable that takes a Receipt", function)
            self._check_fork()
            if self._has_started:
                raise ConfigError(f"on_outcome: peer {self.name!r} runs already; register before it is started")

            def call(found: c.Found) -> _R:
                return function(Receipt(self, ended_ticket(found)))

            self._listeners.append(Listener(call, frozenset(outcomes), only_to, only_queue))
            return function

        return register
