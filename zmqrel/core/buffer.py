"""Claim and hand-over: the one structure that workers and withdrawals share (F9).

The I/O loop claims rows of the inbox and offers them here, in order. A worker takes the next one: that is the
hand-over, one step under one lock, and whoever does that step decides. Before it a withdrawal gets the row and no
handler ever sees the message; after it the withdrawal is too late. Deadlines are judged in the same step.

The lock is given by the runtime, so that the core knows no threads; the simulator gives one that does nothing.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, NamedTuple

from zmqrel.core.row import Place, Row, Span

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
HANDLED = Handled()
EXPIRED = Expired()
REFUSED = Refused()
LEFT = Left()
RETURNED = Returned()


class Buffer:
    """Claimed rows of one queue, in order, for the workers of one handler or the callers of `receive`."""

    __slots__ = (
        "_closed",
        "_done",
        "_in_hand",
        "_lock",
        "_notify",
        "_rows",
        "_running",
        "_size",
        "_waiting",
        "_wake",
        "capacity",
        "more",
        "prefetch",
        "queue",
        "taken",
        "time_limit_us",
    )

    MOST_CLAIMED = 4096
    MOST_CLAIMED_BYTES = 4 << 20
    """Of claimed rows; the one that passes it is still claimed, so that one always is."""

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

        `wake` is called likewise when the last claimed row is taken and there is more to claim.
        """
        self.queue = queue
        self.prefetch = prefetch
        self.capacity = prefetch
        """How many rows to claim ahead: grows with what the workers took since the last claim, so that a fast
        handler does not wait for the loop, and falls back to `prefetch` for a slow one."""
        self.taken = 0
        self.time_limit_us = time_limit_us
        self._rows: deque[Row | Span] = deque()
        self._waiting = 0
        """How many messages they are."""
        self._done: deque[tuple[Row, Result]] = deque()
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
        return not self._closed and self._waiting < self.capacity and self.room_bytes() > 0

    def room(self) -> int:
        """How many rows to claim now. Ask once for each claim: the capacity follows what was taken since."""
        if self._closed:
            return 0
        if self.taken:
            self.capacity = min(self.MOST_CLAIMED, max(self.prefetch, 2 * self.taken, self.capacity // 2))
            self.taken = 0
        return self.capacity - self._waiting

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
                self._waiting += messages
                self._notify(messages)

    def break_up(self, span: Span) -> list[Row]:
        """Let rows take the place of what is left of a span that was offered; returns them."""
        with self._lock:
            rows = span.rest()
            if span in self._rows:
                at = self._rows.index(span)
                del self._rows[at]
                self._rows.rotate(-at)
                self._rows.extendleft(reversed(rows))
                self._rows.rotate(at)
            span.place = Place.GONE
            return rows

    def withdraw(self, row: Row) -> bool:
        """Take a claimed row back. False if a worker has it, or had it."""
        with self._lock:
            if row.place is not Place.CLAIMED and row.place is not Place.ASKED:
                return False
            row.place = Place.GONE
            return True

    def finished(self) -> list[tuple[Row, Result]]:
        """What workers have finished since the last call."""
        done = self._done
        return [done.popleft() for _ in range(len(done))]

    def put_back(self, results: list[tuple[Row, Result]]) -> None:
        """The commit of these results failed: they are to be settled again."""
        self._done.extendleft(reversed(results))

    def close(self) -> None:
        """Hand over nothing more."""
        with self._lock:
            self._rows.clear()
            self._size = self._waiting = 0
            self._closed = True

    def clear(self) -> None:
        """Forget claimed rows; the core is loaded anew."""
        with self._lock:
            for row in self._rows:
                if row.place is Place.CLAIMED:
                    row.place = Place.GONE
            self._rows.clear()
            self._size = self._waiting = 0

    def handed_over(self) -> list[Row]:
        """Rows that workers have, or had and whose results were not collected."""
        with self._lock:
            done = [row for row, result in self._done if not isinstance(result, Left | Returned)]
            return [row for row in self._running.values() if row.place is not Place.GONE] + done

    @property
    def unsettled(self) -> bool:
        """True if there are results to collect."""
        return bool(self._done)

    def __len__(self) -> int:
        return self._waiting

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

    def ask(self, now_us: int) -> Row | None:
        """The next row, to ask whether it is to be handed over; `admit` or `refuse` follows. Until then it can be
        withdrawn, and nobody else gets it."""
        with self._lock:
            row = self._next(now_us)
            if row is not None:
                row.place = Place.ASKED
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
        self._running.pop(row.slot, None)
        # At once, not when it is settled: should the process die before that, no attempt was made.
        self._in_hand.free(row.slot)
        row.slot = -1
        if row.place is not Place.ASKED:
            result = LEFT  # withdrawn: that stands
        else:
            row.place = Place.DONE
        self._done.append((row, result))

    def _next(self, now_us: int) -> Row | None:
        """Take the next row out, with a slot that says so."""
        rows = self._rows
        while rows:
            row = rows[0]
            if isinstance(row, Span):
                return self._next_of(row)
            if row.place is Place.CLAIMED and not row.expired(now_us):
                # First the slot, for it may raise StoreFull: then the row stays where it is.
                row.slot = self._in_hand.take(row.lane.no, row.seq, row.attempts + 1)
                self._running[row.slot] = row
                self._drop_first(row)
                return row
            self._drop_first(row)
            if row.place is Place.CLAIMED:
                row.place = Place.DONE
                self._done.append((row, EXPIRED))
        return None

    def _next_of(self, span: Span) -> Row:
        row = span.next()
        row.slot = self._in_hand.take(row.lane.no, row.seq, 1)
        self._running[row.slot] = row
        self._took_of(span, row)
        return row

    def _took_of(self, span: Span, row: Row) -> None:
        span.taken.append(row)
        if row.seq == span.last:
            self._drop_first(row)
        else:
            self._count_taken(row)

    def _drop_first(self, row: Row) -> None:
        self._rows.popleft()
        self._count_taken(row)
        if self.more and not self._rows:
            # Other workers may be idle: the loop is not to wait until this row is through.
            self.more = False
            self._wake()

    def _count_taken(self, row: Row) -> None:
        self._size -= row.size
        self._waiting -= 1
        self.taken += 1

    def _hand_over(self, row: Row, now_us: int) -> None:
        row.attempts += 1
        row.handed_us = now_us
        row.place = Place.RUNNING
        if self.time_limit_us:
            row.overdue_us = now_us + self.time_limit_us

    def finish(self, row: Row, result: Result) -> None:
        """A worker is through with a row that it took."""
        # One step: a row is running or its result is there, and its slot is not used again before.
        with self._lock:
            row.place = Place.DONE
            self._running.pop(row.slot, None)
            self._in_hand.done(row.slot)
            self._done.append((row, result))

    def returned(self, row: Row) -> None:
        """The handler of a row has returned; unless it is settled already, that comes later."""
        with self._lock:
            if row.place is Place.RUNNING:
                self._in_hand.done(row.slot)
                if row.suspect:
                    self._done.append((row, RETURNED))
