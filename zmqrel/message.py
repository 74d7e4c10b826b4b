"""What users hold: a Receipt for what they sent, a Recall for what they want back, a Message for what they got."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from queue import SimpleQueue
from typing import Any, Final, Protocol, TypeVar, cast, overload

from zmqrel.body import decode_body
from zmqrel.checks import Duration, check_queue, duration_s
from zmqrel.core.buffer import HANDLED, Failed, MoveTo, Rejected, Result, RetryAt
from zmqrel.core.commands import EndedAs
from zmqrel.core.entries import MOST_REASON
from zmqrel.core.row import Row, Span, is_overdue
from zmqrel.errors import AlreadySettled, ConfigError, NotHandled, Reject, RetryLater
from zmqrel.escaping import escaped
from zmqrel.history import HistoryEvent, told
from zmqrel.outcome import Outcome, State, Verdict
from zmqrel.permissions import REFUSAL
from zmqrel.receipts import Ticket

_T = TypeVar("_T")


class Recalls(Protocol):
    """What a receipt needs of its peer."""

    def recall(self, receipt_or_id: Receipt | str, *, timeout: Duration = 0) -> Recall: ...

    def _to_datetime(self, store_us: int) -> datetime: ...

    def _check_fork(self) -> None: ...

    def _monotonic_s(self) -> float: ...

    def _wait(self, ticket: Ticket, reached: Callable[[], bool], timeout_s: float | None) -> bool: ...

    def _next_of(self, queue: SimpleQueue[_T], timeout_s: float | None) -> _T: ...

    def _call_back(self, function: Callable[[Receipt], object], receipt: Receipt) -> None: ...


class _Settles(Protocol):
    """What a message needs of who took it from its queue."""

    def now_us(self) -> int: ...

    def finish(self, row: Row, result: Result) -> bool: ...

    def to_datetime(self, row: Row, their_us: int) -> datetime: ...


_log = logging.getLogger("zmqrel")
_MOST_FAILURE = 500
"""Characters that are kept of an exception."""


def call_back(function: Callable[[Receipt], object], receipt: Receipt) -> None:
    """Call a callback; what it raises is logged."""
    try:
        function(receipt)
    except BaseException:  # SystemExit, too, must not end the thread that calls
        _log.exception("a callback failed for %r", receipt)


def seconds_or_none(timeout: Duration | None) -> float | None:
    """A time-out in seconds; None is for ever."""
    return None if timeout is None else duration_s("timeout", timeout)


class Receipt:
    """One message that was sent. Its attributes tell what is known now; they ask nobody."""

    __slots__ = ("_index", "_peer", "_ticket")

    def __init__(self, peer: Recalls, ticket: Ticket, index: int = 0) -> None:
        self._peer = peer
        self._ticket = ticket
        self._index = index

    @property
    def id(self) -> str:
        """The message's id. One made by zmqrel is known once the message is stored: until then this waits."""
        if self._ticket.given_id is not None:
            return self._ticket.given_id
        self.wait_stored()
        lane = self._ticket.lane
        assert lane is not None
        return f"{lane.id:016x}-{self._ticket.first + self._index}"

    @property
    def to(self) -> str:
        """The peer that it was sent to."""
        return self._ticket.to

    @property
    def queue(self) -> str:
        """The queue that it was sent to."""
        return self._ticket.queue

    @property
    def key(self) -> str | None:
        """Its key."""
        return self._ticket.key

    @property
    def state(self) -> State:
        """Where it is on its way."""
        return self._ticket.state(self._index)

    @property
    def outcome(self) -> Outcome | None:
        """Its outcome, None while it has none."""
        ended = self._ended
        return None if ended is None else ended.outcome

    @property
    def reason(self) -> str | None:
        """Why it ended so, if there is more to say than the outcome."""
        ended = self._ended
        return None if ended is None else ended.reason

    @property
    def attempts(self) -> int:
        """How often it was handed over, as far as is known: its outcome tells, and the answer to a late recall."""
        return self._ticket.attempts(self._index)

    @property
    def history(self) -> tuple[HistoryEvent, ...]:
        """What happened to it, oldest first, as far as this peer knows.

        The store keeps when it was stored and when a recall, its deadline or giving it up was said to the receiver,
        until it has its outcome; then the outcome, its time, and when it was handed over (last), for
        `outcome_retention_s`. This process adds what it saw itself and no restart keeps: when it was sent, the latest
        resends, and when its receiver acknowledged it; of a queue that sends much, for the latest messages. What
        happened in the attempts is told by the receiver's `inbox()` and `dead_letters()`.
        """
        return told(self._ticket.history(self._index), self._peer._to_datetime)

    @property
    def _ended(self) -> EndedAs | None:
        return self._ticket.ended(self._index)

    def wait(self, timeout: Duration | None = None) -> Outcome:
        """Wait for the outcome. Raises TimeoutError after `timeout` seconds, and what refused a `send_nowait`."""
        timeout_s = seconds_or_none(timeout)
        ended = self._ended
        if ended is None:
            if not self._wait(lambda: self._ended is not None, timeout_s):
                raise TimeoutError(f"no outcome of {self!r} within {timeout_s:g} s; it stays in force")
            ended = self._ended
            assert ended is not None
        return ended.outcome

    def result(self, timeout: Duration | None = None) -> None:
        """Wait for the outcome and return if it is HANDLED. Raises NotHandled otherwise, else as `wait`."""
        outcome = self.wait(timeout)
        if outcome is not Outcome.HANDLED:
            raise NotHandled(outcome, self.reason)

    def wait_stored(self, timeout: Duration | None = None) -> None:
        """Wait until it is committed to the outbox. Raises TimeoutError, or what refused it."""
        timeout_s = seconds_or_none(timeout)
        if not self._wait(lambda: self._ticket.lane is not None, timeout_s):
            raise TimeoutError(f"{self!r} was not stored within {timeout_s:g} s")

    def wait_received(self, timeout: Duration | None = None) -> bool:
        """Wait until the peer has committed it. False if it ended without. Raises TimeoutError."""
        timeout_s = seconds_or_none(timeout)

        def decided() -> bool:
            return self._ended is not None or self._was_received()

        if not self._wait(decided, timeout_s):
            raise TimeoutError(f"{self!r} was not received within {timeout_s:g} s; it stays in force")
        ended = self._ended
        if ended is None:
            return self._was_received()
        if not ended.attempts and ended.outcome is Outcome.REJECTED and (ended.reason or "").startswith(REFUSAL):
            return False  # the peer's floor rose over it, and it was not kept
        return bool(ended.attempts or self._was_received())

    def _wait(self, reached: Callable[[], bool], timeout_s: float | None) -> bool:
        return self._peer._wait(self._ticket, reached, timeout_s)

    def _was_received(self) -> bool:
        place = self._ticket.place(self._index)
        return place is not None and place.seq <= place.lane.received_upto

    def add_done_callback(self, function: Callable[[Receipt], object]) -> None:
        """Let `function` be called with this receipt once the message has its outcome, or was refused (`send_nowait`).

        It is called at once, in this thread, if that is so already; else in a thread that the peer has for callbacks,
        one after the other in the order in which outcomes come, and it may call the peer. An exception is logged and
        ends nothing. Callbacks live as long as the process: if the peer is closed before, they are not called;
        `Peer.on_outcome` tells outcomes also in the next life.
        """
        if not callable(function):
            raise ConfigError.of("function", "a callable that takes a Receipt", function)
        if self._ended is not None or self._ticket.error is not None:
            call_back(function, self)
        else:
            self._peer._call_back(function, self)

    def recall(self, timeout: Duration = 0) -> Recall:
        """Recall it; see `Peer.recall`."""
        return self._peer.recall(self, timeout=timeout)

    def __repr__(self) -> str:
        ended = self._ended
        state = self.state.name if ended is None else ended.outcome.name
        name = self._ticket.given_id
        if name is None and self._ticket.lane is not None:
            name = self.id
        return f"<Receipt {escaped(name) if name else 'not stored'} to {self.to}/{self.queue}: {state}>"


class ReceiptSequence(Sequence[Receipt]):
    """The receipts of one send call, each made when it is asked for.

    A stream of a million messages keeps a million receipts otherwise, through which Python's garbage collector goes
    again and again.
    """

    __slots__ = ("_peer", "_ticket")

    def __init__(self, peer: Recalls, ticket: Ticket) -> None:
        self._peer = peer
        self._ticket = ticket

    def __len__(self) -> int:
        return self._ticket.count

    @overload
    def __getitem__(self, index: int) -> Receipt: ...

    @overload
    def __getitem__(self, index: slice) -> list[Receipt]: ...

    def __getitem__(self, index: int | slice) -> Receipt | list[Receipt]:
        places = range(self._ticket.count)[index]
        if isinstance(places, int):
            return Receipt(self._peer, self._ticket, places)
        return [Receipt(self._peer, self._ticket, place) for place in places]

    @property
    def outcomes(self) -> list[Outcome | None]:
        """The outcome of each message, None while it has none."""
        return self._ticket.outcomes()

    def __repr__(self) -> str:
        return f"<{len(self)} receipts to {self._ticket.to}/{self._ticket.queue}>"


class Recall:
    """A recall that is in force. Its verdict is final once it is not PENDING."""

    __slots__ = ("_receipt",)

    def __init__(self, receipt: Receipt) -> None:
        self._receipt = receipt

    @property
    def receipt(self) -> Receipt:
        """The message that is recalled."""
        return self._receipt

    @property
    def verdict(self) -> Verdict:
        """What it came to, as far as is known now."""
        return self._receipt._ticket.verdict(self._receipt._index)

    @property
    def outcome(self) -> Outcome | None:
        """The message's outcome, None while it has none."""
        return self._receipt.outcome

    @property
    def reason(self) -> str | None:
        """Why the receiver does not let it be recalled, if it has said so: the message goes on, and its end decides."""
        return self._receipt._ticket.denied(self._receipt._index)

    @property
    def handed_over_at(self) -> datetime | None:
        """When it was handed over (aware, UTC, by the local clock); None if it was not, or is not known to be."""
        at_us = self._receipt._ticket.handed_at_us(self._receipt._index)
        return self._receipt._peer._to_datetime(at_us) if at_us > 1 else None

    def wait(self, timeout: Duration | None = None) -> Verdict:
        """Wait until the verdict is known; PENDING after `timeout` seconds.

        PENDING too, and at once, if the receiver does not permit its sender to recall: then `reason` says so.
        """
        self._receipt._wait(self._is_answered, seconds_or_none(timeout))
        return self.verdict

    def _is_answered(self) -> bool:
        return self.verdict is not Verdict.PENDING or self.reason is not None

    def refresh(self) -> Verdict:
        """The verdict as it is now."""
        return self.verdict

    def __repr__(self) -> str:
        return f"<Recall of {escaped(self._receipt.id)}: {self.verdict.name}>"


_NOT_READ: Final = object()


class Message:
    """One message that was handed over. Settle it once: ack, retry, reject or move; a handler's return acks it."""

    __slots__ = ("_asked", "_at", "_attempt", "_body", "_consumer", "_source")

    def __init__(self, source: Row | Span, consumer: _Settles, at: int = -1, asked: bool = False) -> None:
        """A row, or of a span the one `at` this position. `asked`: not handed over yet, and only to be looked at.

        A row of a span is made when somebody asks for more than its body: most handlers do not.
        """
        self._source = source
        self._at = at
        self._consumer = consumer
        self._asked = asked
        self._attempt = 1 if at >= 0 else cast(Row, source).attempts + asked
        self._body: Any = _NOT_READ

    @property
    def _row(self) -> Row:
        return self._source if isinstance(self._source, Row) else self._source.row(self._at)

    @property
    def id(self) -> str:
        """Its id at the sender."""
        return self._row.head.meta.id or f"{self._row.lane.id:016x}-{self._row.seq}"

    @property
    def sender(self) -> str:
        """The peer that sent it; the own name for a message made here."""
        return self._row.lane.peer

    @property
    def queue(self) -> str:
        """The queue that it was taken from."""
        return self._row.queue

    @property
    def key(self) -> str | None:
        """Its key."""
        return self._row.key

    @property
    def body(self) -> Any:
        """What was sent; a tuple arrives as a list."""
        if self._body is _NOT_READ:
            at = self._at
            body = self._source.body(at) if at >= 0 else self._row.body  # type: ignore[operator]  # a Span; cast is a call
            self._body = decode_body(body)
        return self._body

    @property
    def headers(self) -> dict[str, Any]:
        """Its headers."""
        return dict(self._row.head.meta.headers or {})

    @property
    def sent_at(self) -> datetime:
        """When it was sent: aware, UTC, by the local clock."""
        return self._consumer.to_datetime(self._row, self._row.head.sent_at_us)

    @property
    def deadline(self) -> datetime | None:
        """Its deadline: aware, UTC, by the local clock; None without one."""
        deadline_us = self._row.deadline_us
        return self._consumer.to_datetime(self._row, deadline_us) if deadline_us else None

    def remaining(self) -> float | None:
        """Seconds until the deadline, never negative; None without one."""
        deadline_us = self._row.local_deadline_us()
        if deadline_us is None:
            return None
        return max(0.0, (deadline_us - self._consumer.now_us()) / 1e6)

    @property
    def attempt(self) -> int:
        """The how-manieth hand-over this is, from 1."""
        return self._attempt

    @property
    def redelivered(self) -> bool:
        """True if it was, or may have been, handed over before without the application asking for it again."""
        return self._row.redelivered or self._row.doubt

    @property
    def withdrawn(self) -> bool:
        """True once its sender recalled it, its deadline passed, or its handler's `time_limit` is over: whoever works
        on it may stop. Settled all the same, it ends as it was settled."""
        return self._row.withdrawn is not None or is_overdue(self._row, self._consumer.now_us())

    @property
    def origin_id(self) -> str | None:
        """The id of the message that this one was made of."""
        return self._row.head.meta.origin_id

    @property
    def cause(self) -> str | None:
        """Why it was made of another."""
        return self._row.head.meta.cause

    def ack(self) -> None:
        """It is handled. Raises AlreadySettled the second time, as every settlement does."""
        self._settle(HANDLED)

    def retry(self, delay: Duration | None = None, reason: str | None = None) -> None:
        """Hand it over again, after `delay` seconds or as the handler's Retry says."""
        delay_us = None if delay is None else int(duration_s("delay", delay) * 1e6)
        if reason is not None and not isinstance(reason, str):
            raise ConfigError.of("reason", "a str or None", reason)
        self._settle(RetryAt(delay_us, None if reason is None else cut_reason(reason)))

    def reject(self, reason: str) -> None:
        """Refuse it for good."""
        if not isinstance(reason, str):
            raise ConfigError.of("reason", "a str", reason)
        self._settle(Rejected(cut_reason(reason)))

    def move(self, queue: str) -> None:
        """Put it into another queue of this peer: not a settlement, and this object is done with."""
        self._settle(MoveTo(check_queue(queue)))

    @property
    def settled(self) -> bool:
        """True once it was settled or moved."""
        return self._asked or self._row.is_settled

    def _settle(self, result: Result) -> None:
        if self._asked:
            raise AlreadySettled(f"message {self.id!r} is not handed over yet: admit only says whether it is to be")
        if not self._consumer.finish(self._row, result):
            raise AlreadySettled(f"message {self.id!r} was settled before")

    def __enter__(self) -> Message:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> bool:
        """Settle it, unless it is, as a handler would that returned or raised this.

        An exception goes on, but for a Reject or RetryLater that did what it says.
        """
        result = HANDLED if error is None else result_of(error)
        settled = not self.settled and self._consumer.finish(self._row, result)
        return settled and isinstance(result, Rejected | RetryAt)

    def __repr__(self) -> str:
        return f"<Message {escaped(self.id)} from {self.sender} in {self.queue}, attempt {self.attempt}>"


def result_of(error: BaseException) -> Result:
    """What an exception says of the message. The application's classes may be odd: no worker ends of them."""
    try:
        if isinstance(error, Reject):
            return Rejected(cut_reason(error.reason))
        if isinstance(error, RetryLater):
            return RetryAt(int(duration_s("delay", error.delay) * 1e6), "retry later")
    except Exception as odd:
        _log.warning("a %s was raised without what it takes: %s", type(error).__name__, escaped(repr(odd)))
    return Failed(failure_reason(error))


def failure_reason(error: BaseException) -> str:
    """What is kept of an exception that ended an attempt."""
    try:
        text = str(error)
    except BaseException:  # a __str__ that raises, be it SystemExit, must not end the worker
        text = ""
    name = type(error).__name__
    return cut_reason(f"{name}: {text}" if text else name, _MOST_FAILURE)


def cut_reason(text: str, most: int = MOST_REASON) -> str:
    """A reason as it can be stored and sent: not too long, and without what UTF-8 cannot hold."""
    return text[:most].encode("utf-8", "backslashreplace").decode()[:most]


Handler = Callable[[Message], object]
