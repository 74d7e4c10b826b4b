"""Claim and hand-over: the one structure that workers and withdrawals share (F9).

The I/O loop claims rows of the inbox and offers them here, in order. A worker takes the next one: that is the
hand-over, one step under one lock, and whoever does that step decides. Before it a withdrawal gets the row and no
handler ever sees the message; after it the withdrawal is too late. Deadlines are judged in the same step.

The lock is given by the runtime, so that the core knows no threads; the simulator gives one that does nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from zmqrel.core.row import ACKNOWLEDGED, COLLECTED, OPEN, SETTLED, Place, Row, Span

if TYPE_CHECKING:
    from zmqrel.core.storage import InHandTable


class Handled(NamedTuple):
    """The application acknowledged the message."""


class Rejected(NamedTuple):
    """The application refused it."""

    reason: str


class Failed(NamedTuple):
    """The attempt failed: retried as the handler's Retry says."""

    reason: str


class RetryAt(NamedTuple):
    """The application asked for another attempt: after `delay_us`, or as the handler's Retry says if None."""

    delay_us: int | None
    reason: str | None


class MoveTo(NamedTuple):
    """The application put the message into another queue of this peer."""

    queue: str


class Expired(NamedTuple):
    """Its deadline had passed when a worker was about to take it. It was not handed over."""


class Refused(NamedTuple):
    """`admit` said no. It was not handed over."""


class Left(NamedTuple):
    """It was withdrawn while `admit` was asked: only its slot is to be freed."""


class Returned(NamedTuple):
    """The handler has returned and left it to be settled later: it did not bring the process down."""


Result = Handled | Rejected | Failed | RetryAt | MoveTo | Expired | Refused | Left | Returned


class Acknowledged(NamedTuple):
    """Neighbours of a span that were acknowledged, by position: from `start` up to, and without, `stop`."""

    span: Span
    start: int
    stop: int

    @property
    def seqs(self) -> range:
        """Their numbers."""
        return range(self.span.first + self.start, self.span.first + self.stop)


Finished = tuple[Row, Result] | Acknowledged
"""What workers have made of one row, or of many."""

HANDLED = Handled()
EXPIRED = Expired()
REFUSED = Refused()
LEFT = Left()
RETURNED = Returned()


class Buffer:
    """Claimed rows of one queue, in order, for the workers of one handler or the callers of `receive`."""

    __slots__ = (
        "_aside",
        "_closed",
        "_done",
        "_handed_us",
        "_in_hand",
        "_lock",
        "_messages",
        "_news",
        "_notify",
        "_offered",
        "_open",
        "_rows",
        "_running",
        "_seen",
        "_size",
        "_wake",
        "capacity",
        "more",
        "prefetch",
        "queue",
        "time_limit_us",
    )

    MOST_CLAIMED = 65_536
    MOST_CLAIMED_BYTES = 4 << 20
    """Of claimed rows; the one that passes it is still claimed, so that one always is."""
    MOST_ROWS = 4096
    """With so many, however few messages they stand for, nothing is claimed: to take one out all are gone through."""

    def __init__(
        self,
        queue: str,
        prefetch: int,
        in_hand: InHandTable,
        lock: AbstractContextManager[object],
        notify: Callable[[int], None],
        time_limit_us: int = 0,
        wake: Callable[[], None] = lambda: None,
    ) -> None:
        """`notify(n)` is called with the lock held when n rows were offered; a time limit of 0 is none.

        `wake` is called likewise when the last claimed row is taken and there is more to claim; and without the lock
        when something of a span was acknowledged, for the first time since the loop collected such.
        """
        self.queue = queue
        self.prefetch = prefetch
        self.capacity = prefetch
        """How many rows to claim ahead: grows with what the workers took since the last claim, so that a fast
        handler does not wait for the loop, and falls back to `prefetch` for a slow one."""
        self.time_limit_us = time_limit_us
        self._rows: deque[Row | Span] = deque()
        self._messages = 0
        """How many messages they stand for, those included that were handed over."""
        self._offered = 0
        """How many were ever offered."""
        self._seen = 0
        """How many of these had been taken at the last claim."""
        self._done: deque[tuple[Row, Result]] = deque()
        self._aside: list[tuple[Row, Result]] = []
        self._open: list[Span] = []
        """Spans of which something was handed over, until all of it is collected."""
        self._news = False
        """Something of these was acknowledged and is not collected."""
        self._handed_us = 0
        """The time that hand-overs bear until something is collected."""
        self._running: dict[int, Row] = {}
        """By slot."""
        self._size = 0
        """Bytes of `_rows`."""
        self.more = False
        """The last claim left something for want of room."""
        self._closed = False
        self._in_hand = in_hand
        self._lock = lock
        self._notify = notify
        self._wake = wake

    # ------------------------------------------------------------------------------------------ the loop's side

    @property
    def has_room(self) -> bool:
        """True if rows may be claimed now."""
        return not self._closed and len(self) < self.capacity and self.room_bytes() > 0 and self._takes_rows

    def room(self) -> int:
        """How many rows to claim now. Ask once for each claim: the capacity follows what was taken since."""
        if self._closed:
            return 0
        waiting = len(self)
        taken, self._seen = self._offered - waiting - self._seen, self._offered - waiting
        if taken:
            self.capacity = min(self.MOST_CLAIMED, max(self.prefetch, 2 * taken, self.capacity // 2))
        return self.capacity - waiting if self._takes_rows else 0

    @property
    def _takes_rows(self) -> bool:
        return len(self._rows) < self.MOST_ROWS

    def room_bytes(self) -> int:
        """How many bytes of rows to claim now: up to the row that passes this."""
        return self.MOST_CLAIMED_BYTES - self._size

    def offer(self, rows: list[Row | Span]) -> None:
        """Claimed rows, after the commit that stored them."""
        with self._lock:
            if not self._closed:
                self._rows.extend(rows)
                self._size += sum([row.size for row in rows])
                messages = sum([row.messages for row in rows])
                self._messages += messages
                self._offered += messages
                self._notify(messages)

    def break_up(self, span: Span) -> list[Row]:
        """Let rows take the place of a span that was offered, as far as it has not ended; returns them, in order."""
        with self._lock:
            self._let_go(span)
            rest = span.rest()
            if span in self._rows:
                at = self._rows.index(span)
                del self._rows[at]
                self._rows.rotate(-at)
                self._rows.extendleft(reversed(rest))
                self._rows.rotate(at)
                self._messages -= span.taken
                self._size -= span.size - sum([row.size for row in rest])
            span.place = Place.GONE
            return [span.row(at) for at in range(span.taken) if span.through[at] != SETTLED] + rest

    def _let_go(self, span: Span) -> None:
        """Let what was handed over of a span stand by itself."""
        span.stop()
        if span in self._open:
            self._open.remove(span)
            if span.taken < len(span.records):
                self._in_hand.free(span.slot + span.taken, len(span.records) - span.taken)
        for at in range(span.taken):
            # Read once: a worker may acknowledge it in this moment. It then waits for the lock, and finds it running.
            through = span.through[at]
            if through == ACKNOWLEDGED:
                self._acknowledge_apart(span, at)
            elif through == COLLECTED:
                span.row(at).place = Place.DONE
            elif through == OPEN and span.row(at).place is not Place.DONE:
                self._running[span.slot + at] = span.row(at)

    def _acknowledge_apart(self, span: Span, at: int) -> None:
        span.through[at] = COLLECTED
        row = span.row(at)
        row.place = Place.DONE
        self._running.pop(row.slot, None)
        self._done.append((row, HANDLED))

    def withdraw(self, row: Row) -> bool:
        """Take a claimed row back. False if a worker has it, or had it."""
        with self._lock:
            if row.place is not Place.CLAIMED and row.place is not Place.ASKED:
                return False
            row.place = Place.GONE
            return True

    def finished(self) -> list[Finished]:
        """What workers have finished since the last call."""
        done = self._done
        results: list[Finished] = [*self._aside, *(done.popleft() for _ in range(len(done)))]
        self._aside.clear()
        if self._news:
            with self._lock:
                self._news = False
                for span in self._open:
                    results += [Acknowledged(span, start, stop) for start, stop in span.collect()]
                self._open = [span for span in self._open if not span.is_collected]
        return results

    def put_back(self, results: list[tuple[Row, Result]]) -> None:
        """The commit of these results failed: they are to be settled again."""
        self._done.extendleft(reversed(results))

    def put_aside(self, results: list[tuple[Row, Result]]) -> None:
        """These are to be settled some time later: they are no reason for a turn."""
        self._aside += results

    def close(self) -> None:
        """Hand over nothing more."""
        with self._lock:
            self._closed = True
            for row in self._rows:
                if isinstance(row, Span):
                    self._let_go(row)  # workers take what is left of it without the lock
            self._rows.clear()
            self._size = self._messages = self._offered = self._seen = 0

    def clear(self) -> None:
        """Forget claimed rows, and let those that were handed over stand by themselves; the core is loaded anew."""
        with self._lock:
            for row in self._rows:
                if row.place is Place.CLAIMED:
                    row.place = Place.GONE
            self._rows.clear()
            self._size = self._messages = self._offered = self._seen = 0
            for span in list(self._open):
                self._let_go(span)

    def handed_over(self) -> list[Row]:
        """Rows that workers have, or had and whose results were not collected."""
        with self._lock:
            results = [*self._aside, *self._done]
            done = [row for row, result in results if not isinstance(result, Left | Returned)]
            of_spans = [span.row(at) for span in self._open for at in sorted(span.running)]
            return [row for row in self._running.values() if row.place is not Place.GONE] + of_spans + done

    @property
    def busy(self) -> int:
        """How many workers have a row that they are not through with, be it to ask about it."""
        with self._lock:
            of_spans = [span.row(at) for span in self._open for at in span.running]
            return sum([not row.returned for row in [*self._running.values(), *of_spans]])

    @property
    def has_aside(self) -> bool:
        """True if results were put aside."""
        return bool(self._aside)

    @property
    def has_claimed(self) -> bool:
        """True if there is a row for the next worker that is free."""
        with self._lock:
            return any(row.place is not Place.GONE for row in self._rows)

    @property
    def acknowledged(self) -> int:
        """How many messages of spans were acknowledged and not collected."""
        with self._lock:
            return sum([span.through.count(ACKNOWLEDGED) for span in self._open])

    @property
    def unsettled(self) -> bool:
        """True if there are results to collect."""
        return self._news or bool(self._done)

    def __len__(self) -> int:
        # The loop asks without the lock, and workers may take the last one at any moment: read in this order, what
        # goes meanwhile counts as waiting. Where rows came meanwhile, more may be with workers than were counted.
        messages = self._messages
        try:
            first = self._rows[0]
        except IndexError:
            return 0
        return max(0, messages - first.taken) if isinstance(first, Span) else messages

    # -------------------------------------------------------------------------------------- the workers' side

    def take(self, now_us: int) -> Row | None:
        """Hand over the next row, None if there is none. `now_us` is the store clock.

        A row whose deadline has passed is not handed over: the loop settles it.
        """
        with self._lock:
            row = self._next(now_us)
            if row is not None:
                self._hand_over(row, now_us)
            return row

    def next_span(self) -> Span | None:
        """The span that is next, if it is a span, for `hand_out`. None else."""
        with self._lock:
            first = self._rows[0] if self._rows else None
            if not isinstance(first, Span):
                return None
            self._begin(first)
            return first

    def hand_out(self, span: Span, now_us: Callable[[], int]) -> Generator[int, bool | None, None]:
        """Hand over what is left of a span, one position after the other, to one worker; several may do it at once.

        Asking for the next says that the worker is through with the one before, and that there is nothing else to say
        of it unless it was settled; `send(True)` says that too, and takes no more. Who lets the generator go leaves
        it as it is. This is one function, and no lock is taken, for calls are what a hand-over costs.
        """
        handed_us, running, through = span.handed_us, span.running, span.through
        note_running, note_done = self._in_hand.running, self._in_hand.done
        slot, last = span.slot, len(span.records) - 1
        for at in span.left:
            # Taking it was the hand-over. The time is that of the first one since the loop last collected: a turn ago.
            if not self._news:
                self._handed_us = now_us()
            handed_us[at] = self._handed_us
            running.add(at)
            note_running(slot + at)
            if span.is_apart:
                span.row(at).handed_us = handed_us[at]
            if at == last:
                with self._lock:
                    if self._rows and self._rows[0] is span:
                        self._drop_first()
            enough = yield at
            try:
                running.remove(at)
            except KeyError:  # it was settled
                if enough:
                    return
                continue
            note_done(slot + at)
            through[at] = ACKNOWLEDGED
            if not self._news:
                self._handed_us = now_us()
                self._news = True
                self._wake()
            if span.is_apart:
                with self._lock:
                    if through[at] == ACKNOWLEDGED:
                        self._acknowledge_apart(span, at)
            if enough:
                return

    def ask(self, now_us: int) -> Row | None:
        """The next row, to ask whether it is to be handed over; `admit` or `refuse` follows. Until then it can be
        withdrawn, and nobody else gets it."""
        with self._lock:
            row = self._next(now_us)
            if row is not None:
                row.place = Place.ASKED
                row.attempts -= row.span is not None
            return row

    def admit(self, row: Row, now_us: int) -> bool:
        """Hand over a row that was asked about. False if it was withdrawn meanwhile, or its deadline has passed."""
        with self._lock:
            if row.place is Place.ASKED and not row.expired(now_us):
                self._hand_over(row, now_us)
                return True
            self._leave(row, EXPIRED)
            return False

    def refuse(self, row: Row) -> None:
        """The condition for handing over a row does not hold: the loop ends it."""
        with self._lock:
            self._leave(row, REFUSED)

    def _leave(self, row: Row, result: Result) -> None:
        """A row that was asked about is not handed over."""
        self._forget_running(row)
        # At once, not when it is settled: should the process die before that, no attempt was made.
        self._in_hand.free(row.slot)
        row.slot = -1
        if row.place is not Place.ASKED:
            result = LEFT  # withdrawn: that stands
        else:
            row.place = Place.DONE
        self._done.append((row, result))

    def _forget_running(self, row: Row) -> None:
        self._running.pop(row.slot, None)
        if row.span is not None:
            row.span.running.discard(row.seq - row.span.first)

    def _next(self, now_us: int) -> Row | None:
        """Take the next row out, with a slot that says so."""
        rows = self._rows
        while rows:
            row = rows[0]
            if isinstance(row, Span):
                taken = self._next_of(row)
                if taken is not None:
                    return taken
                continue
            if row.place is Place.CLAIMED and not row.expired(now_us):
                # First the slot, for it may raise StoreFull: then the row stays where it is.
                row.slot = self._in_hand.take(row.lane.no, row.seq, row.attempts + 1)
                self._running[row.slot] = row
                self._drop_first()
                return row
            self._drop_first()
            if row.place is Place.CLAIMED:
                row.place = Place.DONE
                self._done.append((row, EXPIRED))
        return None

    def _next_of(self, span: Span) -> Row | None:
        """The next row of the first span. None if others have taken the last, and the span is gone for that."""
        self._begin(span)
        at = next(span.left, None)
        if at is None:
            self._drop_first()
            return None
        span.running.add(at)
        self._in_hand.running(span.slot + at)
        if at + 1 == len(span.records):
            self._drop_first()
        return span.row(at)

    def _begin(self, span: Span) -> None:
        """Make ready to hand over a span. Raises StoreFull if the in-hand table has no room for it."""
        if span.slot < 0:
            span.begin(self._in_hand.reserve(span.lane.no, span.first, len(span.records)))
            self._open.append(span)

    def _drop_first(self) -> None:
        row = self._rows.popleft()
        self._size -= row.size
        self._messages -= row.messages
        if self.more and not self._rows:
            # Other workers may be idle: the loop is not to wait until this row is through.
            self.more = False
            self._wake()

    def _hand_over(self, row: Row, now_us: int) -> None:
        if row.place is not Place.RUNNING:  # as one of a span is made
            row.attempts += 1
        if row.span is not None:
            row.span.handed_us[row.seq - row.span.first] = now_us
        row.handed_us = now_us
        row.place = Place.RUNNING
        if self.time_limit_us:
            row.overdue_us = now_us + self.time_limit_us

    def finish(self, row: Row, result: Result) -> bool:
        """A worker is through with a row that it took. False, and nothing changed, if that was said before."""
        # One step: a row is running or its result is there, and its slot is not used again before.
        with self._lock:
            if not self._settles(row):
                return False
            row.place = Place.DONE
            self._running.pop(row.slot, None)
            self._in_hand.done(row.slot)
            if row.span is not None and not row.span.is_apart and result is HANDLED and not self.time_limit_us:
                row.span.through[row.seq - row.span.first] = ACKNOWLEDGED
                self._news = True
            else:
                self._done.append((row, result))
            return True

    @staticmethod
    def _settles(row: Row) -> bool:
        """Whether who asks is the first to settle a row."""
        if row.span is None:
            return row.place is Place.RUNNING
        try:
            row.span.running.remove(row.seq - row.span.first)
        except KeyError:
            return False
        return True

    def returned(self, row: Row) -> None:
        """The handler of a row has returned; unless it is settled already, that comes later."""
        with self._lock:
            if row.place is Place.RUNNING:
                row.returned = True
                self._in_hand.done(row.slot)
                if row.suspect:
                    self._done.append((row, RETURNED))


def one_by_one(results: Iterable[Finished]) -> list[tuple[Row, Result]]:
    """The same, each message by itself."""
    rows: list[tuple[Row, Result]] = []
    for item in results:
        if not isinstance(item, Acknowledged):
            rows.append(item)
            continue
        for at in range(item.start, item.stop):
            row = item.span.row(at)
            row.place = Place.DONE
            rows.append((row, HANDLED))
    return rows
