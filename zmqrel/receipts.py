"""What this process knows of messages it holds receipts of: filled by the loop's notices, read by any thread.

A Ticket stands for the messages of one send call, so that a thousand receipts cost one entry here and a settlement
of a range costs one step. Tickets are kept as long as somebody holds a receipt of theirs, no longer. The loop alone
writes; readers need no lock, for every step of the loop leaves a state that is true.
"""

from __future__ import annotations

from _thread import LockType, allocate_lock
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from operator import itemgetter
from time import monotonic
from typing import NamedTuple
from weakref import ReferenceType, ref

from zmqrel.core import history
from zmqrel.core.commands import EndedAs, Found, Stored
from zmqrel.core.effects import Denied, Ended, HandedOver, Moved, ReceiptNotice, Received, Resent, Sent, Withdrawing
from zmqrel.core.history import Happened
from zmqrel.core.lane import OutLane
from zmqrel.outcome import Cause, Outcome, State, Verdict

_MOST_RESENT = 64
_FIRST = itemgetter(0)
_WHAT = {Cause.RECALL: history.RECALLED, Cause.DEADLINE: history.EXPIRED, Cause.GIVE_UP: history.GIVEN_UP}
_ORDER = (
    history.STORED, history.SENT, history.RESENT, history.RECEIVED, history.RECALLED, history.EXPIRED,
    history.GIVEN_UP, history.HANDED_OVER, history.SETTLED,
)  # fmt: skip
"""Of what happened at the same time."""


class Place(NamedTuple):
    """Where a message lies: what is known of its lane, and its number there."""

    lane: LaneView
    seq: int


Watcher = Callable[[Exception | None], None]
"""Told that a message has ended, or why its end will not be learnt here."""
_watching = allocate_lock()
"""Held for the instant in which watchers of a ticket come or go: one for all, for few tickets have any."""


class Marks:
    """When a mark of a lane passed which number, as this process saw it: the latest of it."""

    __slots__ = ("_before", "_passed")

    MOST = 512

    def __init__(self, mark: int) -> None:
        self._before = mark
        """When the mark came to here is not known."""
        self._passed: list[tuple[int, int]] = []

    def moved(self, mark: int, at_us: int) -> None:
        """The mark is at `mark` now."""
        passed = self._passed
        if len(passed) >= 2 * self.MOST:
            # In this order: a reader copies the list before it looks at what is not in it any more.
            self._before = passed[self.MOST - 1][0]
            del passed[: self.MOST]
        passed.append((mark, at_us))

    def passed_us(self, seq: int) -> int:
        """When the mark passed `seq`; 0 if it did not, or that is not known."""
        passed = self._passed[:]
        at = bisect_left(passed, seq, key=lambda item: item[0])
        return passed[at][1] if at < len(passed) and seq > self._before else 0


@dataclass(eq=False, slots=True)
class LaneView:
    """What receipts need of one lane."""

    no: int
    id: int
    sent_upto: int
    received_upto: int
    sent: Marks = field(init=False)
    received: Marks = field(init=False)
    resent: list[tuple[int, int, int]] = field(default_factory=list)
    """(first, last, when) of what was transmitted again."""
    held: list[tuple[int, int, int, ReferenceType[Ticket]]] = field(default_factory=list)
    """(first, last, index of the first in its ticket, ticket), ascending and disjoint."""
    swept: int = 0
    """Length of `held` after it was last cleared of tickets that nobody holds."""
    looked_up: dict[int, list[tuple[int, ReferenceType[Ticket]]]] = field(default_factory=dict)
    """Number -> (index in its ticket, ticket), for tickets of one message that may be held by others too."""
    swept_looked_up: int = 0
    """Its length when it was last cleared."""

    def __post_init__(self) -> None:
        self.sent, self.received = Marks(self.sent_upto), Marks(self.received_upto)


class Ticket:
    """The messages of one send call. `places` of single messages differ from the rule after a lane was closed."""

    __slots__ = (
        "__weakref__", "_denied", "_ended", "_handed", "_moved", "_waiters", "_watchers", "_withdrawn", "closed",
        "count", "error", "first", "given_id", "key", "lane", "queue", "repeated", "sent_at_us", "to",
    )  # fmt: skip

    def __init__(self, to: str, queue: str, key: str | None, given_id: str | None, count: int, sent_at_us: int) -> None:
        self.to = to
        self.queue = queue
        self.key = key
        self.given_id = given_id
        self.count = count
        self.sent_at_us = sent_at_us
        self.lane: LaneView | None = None
        self.first = 0
        self.error: Exception | None = None
        self.closed: Exception | None = None
        """Set when the peer is closed: nothing more will be learnt here."""
        self.repeated = False
        self._ended: list[tuple[int, int, EndedAs]] = []
        self._withdrawn: dict[int, tuple[Cause, int]] = {}
        """Index -> why, and when."""
        self._denied: dict[int, str] = {}
        """Index -> why its receiver does not let it be recalled, since it was last asked to."""
        self._handed: dict[int, int] = {}
        self._moved: dict[int, Place] = {}
        self._waiters: list[LockType] = []
        self._watchers: dict[int, list[Watcher]] = {}
        """By index; under `_watching`."""

    # ------------------------------------------------------------------------------------------- reading

    def place(self, index: int) -> Place | None:
        """Where the message with this index lies, None while it is queued."""
        if self.lane is None:
            return None
        return self._moved.get(index) or Place(self.lane, self.first + index)

    def ended(self, index: int) -> EndedAs | None:
        """The outcome of a message, None while it has none."""
        ended = self._ended
        # Messages of one call mostly end together, so mostly there is one range.
        at = bisect_right(ended, index, key=_FIRST) if len(ended) > 1 else len(ended)
        if at:
            first, last, how = ended[at - 1]
            if first <= index <= last:
                return how
        return None

    def outcomes(self) -> list[Outcome | None]:
        """The outcomes of all messages, in order; None for those that have none."""
        outcomes: list[Outcome | None] = []
        for first, last, how in self._ended[:]:
            outcomes += [None] * (first - len(outcomes))
            outcomes += [how.outcome] * (last + 1 - len(outcomes))
        return outcomes + [None] * (self.count - len(outcomes))

    @property
    def is_through(self) -> bool:
        """All of its messages have their outcome."""
        upto = -1
        for first, last, _ in self._ended[:]:
            if first > upto + 1:
                return False
            upto = max(upto, last)
        return upto + 1 == self.count

    def handed_at_us(self, index: int) -> int:
        """When a message was handed over, as far as is known; 0 if it is not known to have been."""
        ended = self.ended(index)
        return (ended.handed_at_us if ended is not None else 0) or self._handed.get(index, 0)

    def attempts(self, index: int) -> int:
        """How often a message was handed over, as far as is known."""
        ended = self.ended(index)
        return ended.attempts if ended is not None else int(index in self._handed)

    def history(self, index: int) -> list[Happened]:
        """What happened to a message, as far as the store remembers it and this process saw it."""
        place, ended = self.place(index), self.ended(index)
        events: list[Happened] = []
        sent_us = received_us = 0
        if self.sent_at_us and place is not None:
            events.append(Happened(self.sent_at_us, history.STORED))
        if place is not None:
            lane, seq = place
            sent_us, received_us = lane.sent.passed_us(seq), lane.received.passed_us(seq)
            resent = [at_us for first, last, at_us in lane.resent[:] if first <= seq <= last]
            events += [Happened(at_us, history.RESENT) for at_us in resent]
        handed_us = self.handed_at_us(index)
        if handed_us > 1:
            # By another clock: not before it left, and what is with a worker has been received.
            handed_us = max(handed_us, sent_us)
            received_us = min(received_us, handed_us)
            events.append(Happened(handed_us, history.HANDED_OVER, _which_attempt(self.attempts(index), ended)))
        events += [Happened(sent_us, history.SENT)] if sent_us else []
        events += [Happened(max(received_us, sent_us), history.RECEIVED)] if received_us else []
        withdrawn = self._withdrawn.get(index)
        if withdrawn is not None and withdrawn[1]:
            answer = self._denied.get(index)
            asked = "its receiver was asked not to hand it over" + (f": {answer}" if answer else "")
            events.append(Happened(withdrawn[1], _WHAT[withdrawn[0]], asked))
        if ended is not None:
            events.append(history.settled(max(ended.at_us, handed_us), ended.outcome.name, ended.reason))
        return sorted(events, key=lambda event: (event.at_us, _ORDER.index(event.what)))

    def state(self, index: int) -> State:
        """Where a message is on its way."""
        if self.ended(index) is not None:
            return State.SETTLED
        place = self.place(index)
        if place is None:
            return State.QUEUED
        if index in self._handed:
            return State.RECEIVED  # too late to withdraw it
        withdrawn = self._withdrawn.get(index)
        if withdrawn is not None and index not in self._denied:
            return State.RECALLING if withdrawn[0] is Cause.RECALL else State.EXPIRING
        if place.seq <= place.lane.received_upto:
            return State.RECEIVED
        return State.SENT if place.seq <= place.lane.sent_upto else State.STORED

    def denied(self, index: int) -> str | None:
        """Why its receiver does not let a message be recalled; None if it did not say so."""
        return self._denied.get(index)

    def verdict(self, index: int) -> Verdict:
        """What a recall of this message has come to."""
        ended = self.ended(index)
        if index in self._handed:
            return Verdict.TOO_LATE  # final, even if the store that said so is lost before the outcome is known
        if ended is None:
            return Verdict.PENDING
        if ended.outcome is Outcome.RECALLED:
            return Verdict.RECALLED
        return Verdict.UNCERTAIN if ended.outcome is Outcome.UNCERTAIN else Verdict.TOO_LATE

    def wait(self, reached: Callable[[], bool], timeout_s: float | None) -> bool:
        """Sleep until `reached` says so; False after `timeout_s`. Raises what the send call ended with."""
        give_up_at = None if timeout_s is None else monotonic() + timeout_s
        while not reached():
            error = self.error or self.closed
            if error is not None:
                raise error
            left_s = -1.0 if give_up_at is None else give_up_at - monotonic()
            if give_up_at is not None and left_s <= 0:
                return False
            waiter = allocate_lock()
            waiter.acquire()
            self._waiters.append(waiter)
            # Asked again: what came before the waiter was in the list did not wake it.
            if not (reached() or self._is_over()) and not waiter.acquire(timeout=left_s):
                with suppress(ValueError):  # woken just now
                    self._waiters.remove(waiter)
        return True

    def watch(self, index: int, watcher: Watcher) -> None:
        """Call `watcher` once the message has its outcome (with None), or when none will be learnt (with the error).

        At once if that is so already; else in the loop's thread, where it must not wait for anything.
        """
        with _watching:
            self._watchers.setdefault(index, []).append(watcher)
        # Asked again: what came before the watcher was there did not call it.
        if self.ended(index) is not None:
            self._call_watchers(index, index, None)
        elif self._is_over():
            self._call_watchers(index, index, self.error or self.closed)

    def unwatch(self, index: int, watcher: Watcher) -> None:
        """Do not call it any more."""
        with _watching:
            watchers = self._watchers.get(index, [])
            if watcher in watchers:
                watchers.remove(watcher)

    def _call_watchers(self, first: int, last: int, error: Exception | None) -> None:
        with _watching:
            waiting = self._watchers
            small = last - first < len(waiting)
            over = [i for i in range(first, last + 1) if i in waiting] if small else [
                i for i in waiting if first <= i <= last
            ]  # fmt: skip
            called = [watcher for index in over for watcher in waiting.pop(index)]
        for watcher in called:
            watcher(error)

    def _is_over(self) -> bool:
        return self.error is not None or self.closed is not None

    # ------------------------------------------------------------------------------------------- the loop's side

    def fail(self, error: Exception) -> None:
        """The send call was refused."""
        self.error = error
        self._wake()
        self._call_watchers(0, self.count - 1, error)

    def close(self, error: Exception) -> None:
        """The peer is closed: who waits is told."""
        self.closed = error
        self._wake()
        self._call_watchers(0, self.count - 1, error)

    def stored(self, lane: LaneView, first: int) -> None:
        """The messages are committed."""
        self.first = first
        self.lane = lane
        self._wake()

    def end(self, first: int, last: int, ended: EndedAs) -> None:
        """Messages of these indexes have their outcome; those that had one keep it."""
        if self.ended(first) is None:
            insort(self._ended, (first, last, ended), key=lambda item: item[0])
            self._wake()
            if self._watchers:
                self._call_watchers(first, last, None)

    def withdrawing(self, index: int, cause: Cause, at_us: int) -> None:
        """A withdrawal is in force."""
        self._withdrawn[index] = cause, at_us
        self._denied.pop(index, None)
        self._wake()

    def deny(self, index: int, reason: str) -> None:
        """The receiver does not let it be recalled."""
        self._denied[index] = reason
        self._wake()

    def handed_over(self, index: int, at_us: int) -> None:
        """The receiver says that it is too late."""
        self._handed[index] = at_us
        self._wake()

    def moved(self, index: int, place: Place) -> None:
        """The message has a new number."""
        self._moved[index] = place

    def progressed(self) -> None:
        """Its lane's marks moved."""
        if self._waiters:
            self._wake()

    def _wake(self) -> None:
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.release()


def _which_attempt(attempts: int, ended: EndedAs | None) -> str:
    """Of which attempt the time is that a settlement tells: the last one's, unless it ended between two attempts."""
    if attempts <= 1:
        return "attempt 1"
    if ended is not None and ended.reason == "crash":
        return f"attempt 1 of {attempts}, at the latest"  # a first attempt that died is noted at the start after it
    if ended is None or ended.outcome in (Outcome.HANDLED, Outcome.REJECTED):
        return f"attempt {attempts}"
    return f"one of {attempts} attempts"


def ended_ticket(found: Found) -> Ticket:
    """The ticket of a message that has ended; nothing more will be told of it."""
    lane = found.lane
    ticket = Ticket(lane.peer, lane.queue, found.key, found.id, 1, found.sent_at_us)
    if found.ended is not None:
        ticket.end(0, 0, found.ended)
    ticket.stored(LaneView(lane.no, lane.id, lane.sent_upto, lane.acked), found.seq)
    return ticket


class Receipts:
    """All tickets that somebody holds, by lane. Used by the loop alone."""

    def __init__(self) -> None:
        self._lanes: dict[int, LaneView] = {}
        self._out_lanes: Mapping[int, OutLane] = {}

    def view(self, lane: OutLane, before: int = 2**64) -> LaneView:
        """What is known of a lane. Entries from `before` on are new: that they were sent is told after this."""
        view = self._lanes.get(lane.no)
        if view is None:
            sent_upto = min(lane.sent_upto, before - 1)
            view = self._lanes[lane.no] = LaneView(lane.no, lane.id, sent_upto, lane.acked)
        return view

    def close(self, error: Exception) -> None:
        """The peer is closed: whoever waits for an outcome is told that none will be learnt here."""
        for view in list(self._lanes.values()):
            references = [item[3] for item in view.held]
            references += [reference for items in view.looked_up.values() for _, reference in items]
            for reference in references:
                ticket = reference()
                if ticket is not None:
                    ticket.close(error)

    def reload(self, lanes: Mapping[int, OutLane]) -> None:
        """The core was loaded (anew: marks may have gone back to what is committed). `lanes` stay its own."""
        self._out_lanes = lanes
        for lane in lanes.values():
            view = self._lanes.get(lane.no)
            if view is not None:
                view.sent_upto = lane.sent_upto

    def stored(self, ticket: Ticket, stored: Stored) -> None:
        """A send call is committed."""
        if stored.repeated:
            view = self.view(stored.lane)
            self._hold_one(view, stored.first, 0, ticket)
        else:
            view = self.view(stored.lane, stored.first)
            self._hold(view, stored.first, stored.first + stored.messages - 1, ticket)
        ticket.stored(view, stored.first)

    def found(self, ticket: Ticket, found: Found) -> None:
        """A ticket of one message that was looked up."""
        view = self.view(found.lane)
        if found.withdrawn is not None:
            ticket.withdrawing(0, found.withdrawn, found.withdrawn_us)
        if found.handed_at_us is not None:
            ticket.handed_over(0, found.handed_at_us)
        if found.ended is not None:
            ticket.end(0, 0, found.ended)
        else:
            self._hold_one(view, found.seq, 0, ticket)
        ticket.stored(view, found.seq)

    def tell(self, notices: list[ReceiptNotice], now_us: int) -> None:
        """What a turn brought; `now_us` is the store clock."""
        for notice in notices:
            view = self._lanes.get(notice.lane)
            if view is None:
                continue
            if isinstance(notice, Ended):
                self._end(view, notice)
            elif isinstance(notice, Received):
                self._received(view, notice.floor, now_us)
            elif isinstance(notice, Sent):
                view.sent_upto = max(view.sent_upto, notice.mark)
                view.sent.moved(notice.mark, now_us)
            elif isinstance(notice, Resent):
                view.resent.append((notice.first, notice.last, now_us))
                del view.resent[:-_MOST_RESENT]
            elif isinstance(notice, Withdrawing):
                for ticket, index, _, _ in self._covering(view, notice.seq, notice.seq):
                    ticket.withdrawing(index, notice.cause, now_us)
            elif isinstance(notice, HandedOver):
                for ticket, index, _, _ in self._covering(view, notice.seq, notice.seq):
                    ticket.handed_over(index, notice.at_us)
            elif isinstance(notice, Denied):
                for ticket, index, _, _ in self._covering(view, notice.seq, notice.seq):
                    ticket.deny(index, notice.reason)
            else:
                self._move(view, notice)

    def _end(self, view: LaneView, notice: Ended) -> None:
        ended = EndedAs(*notice[3:])
        for ticket, index, first, last in self._covering(view, notice.first, notice.last):
            ticket.end(index, index + last - first, ended)

    def _received(self, view: LaneView, floor: int, now_us: int) -> None:
        before, view.received_upto = view.received_upto, floor
        if floor > before:
            view.received.moved(floor, now_us)
            for ticket, _, _, _ in self._covering(view, before + 1, floor):
                ticket.progressed()

    def _move(self, view: LaneView, notice: Moved) -> None:
        lane = self._out_lanes.get(notice.new_lane)
        if lane is None:
            return
        new = self.view(lane)
        for ticket, index, _, _ in self._covering(view, notice.seq, notice.seq):
            self._hold_one(new, notice.new_seq, index, ticket)
            ticket.moved(index, Place(new, notice.new_seq))

    def _covering(self, view: LaneView, first: int, last: int) -> list[tuple[Ticket, int, int, int]]:
        """(ticket, index of the first, first, last) for each ticket's part of a range."""
        held = view.held
        at = max(0, bisect_right(held, first, key=lambda item: item[0]) - 1)
        parts = []
        while at < len(held) and held[at][0] <= last:
            start, stop, base, reference = held[at]
            at += 1
            ticket = reference()
            if ticket is None or stop < first:
                continue
            from_seq, to_seq = max(start, first), min(stop, last)
            parts.append((ticket, base + from_seq - start, from_seq, to_seq))
        if view.looked_up:
            parts += self._covering_one(view, first, last)
        return parts

    @staticmethod
    def _covering_one(view: LaneView, first: int, last: int) -> list[tuple[Ticket, int, int, int]]:
        looked_up = view.looked_up
        if last - first < len(looked_up):
            seqs = [seq for seq in range(first, last + 1) if seq in looked_up]
        else:
            seqs = [seq for seq in looked_up if first <= seq <= last]
        return [
            (ticket, index, seq, seq)
            for seq in seqs
            for index, reference in looked_up[seq]
            if (ticket := reference()) is not None
        ]

    @staticmethod
    def _hold(view: LaneView, first: int, last: int, ticket: Ticket) -> None:
        """A ticket of new messages, which stand behind all that came before."""
        held = view.held
        if len(held) > 2 * view.swept + 256:
            view.held = held = [item for item in held if item[3]() is not None]
            view.swept = len(held)
        held.append((first, last, 0, ref(ticket)))

    @staticmethod
    def _hold_one(view: LaneView, seq: int, index: int, ticket: Ticket) -> None:
        """One more ticket for a message that others may stand for too."""
        if len(view.looked_up) > 2 * view.swept_looked_up + 256:
            kept = {seq: [item for item in items if item[1]() is not None] for seq, items in view.looked_up.items()}
            view.looked_up = {seq: items for seq, items in kept.items() if items}
            view.swept_looked_up = len(view.looked_up)
        view.looked_up.setdefault(seq, []).append((index, ref(ticket)))
