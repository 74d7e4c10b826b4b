"""What receipts know of messages, and from when on: without a peer, from the notices of its core."""

from __future__ import annotations

import pytest

from zmqrel.core.commands import EndedAs, Stored
from zmqrel.core.effects import Ended, HandedOver, Received, Resent, Sent, Withdrawing
from zmqrel.core.lane import DATA, OutLane
from zmqrel.outcome import Cause, Outcome
from zmqrel.receipts import Marks, Receipts, Ticket

LANE = 7


def kept(count: int = 3) -> tuple[Receipts, Ticket]:
    """Messages 1 to `count` of one send call, stored at 100."""
    receipts, ticket = Receipts(), Ticket("bank", "q", None, None, count, 100)
    receipts.stored(ticket, Stored(OutLane(LANE, "bank", DATA, 99, "q"), 1, count))
    return receipts, ticket


def told(ticket: Ticket, index: int = 0) -> list[tuple[int, str]]:
    return [(event.at_us, event.what) for event in ticket.history(index)]


def test_a_message_that_waits_nowhere_yet_has_no_history() -> None:
    assert Ticket("bank", "q", None, None, 1, 100).history(0) == []


def test_the_whole_way_of_a_message() -> None:
    receipts, ticket = kept()
    receipts.tell([Sent(LANE, 2)], 110)
    receipts.tell([Resent(LANE, 1, 1)], 120)
    receipts.tell([Received(LANE, 1)], 130)
    receipts.tell([Withdrawing(LANE, 1, Cause.RECALL)], 140)
    receipts.tell([HandedOver(LANE, 1, 128)], 150)
    receipts.tell([Ended(LANE, 1, 1, Outcome.EXHAUSTED, "recalled", 2, 128, 160)], 160)
    assert told(ticket) == [
        (100, "stored"),
        (110, "sent"),
        (120, "resent"),
        (128, "received"),
        (128, "handed over"),
        (140, "recalled"),
        (160, "settled"),
    ]
    assert [event.detail for event in ticket.history(0)][-3:] == [
        "one of 2 attempts",
        "its receiver was asked not to hand it over",
        "EXHAUSTED: recalled",
    ]
    assert told(ticket, 1) == [(100, "stored"), (110, "sent")]
    assert told(ticket, 2) == [(100, "stored")]


def test_what_left_in_the_turn_that_stored_it() -> None:
    receipts, ticket = Receipts(), Ticket("bank", "q", None, None, 2, 100)
    lane = OutLane(LANE, "bank", DATA, 99, "q")
    lane.append([b""] * 5)
    lane.transmitted(5, 5)
    receipts.stored(ticket, Stored(lane, 4, 2))
    receipts.tell([Sent(LANE, 5)], 101)
    assert told(ticket) == [(100, "stored"), (101, "sent")]


@pytest.mark.parametrize(("cause", "what"), [(Cause.DEADLINE, "expired"), (Cause.GIVE_UP, "given up")])
def test_why_a_message_was_withdrawn(cause: Cause, what: str) -> None:
    receipts, ticket = kept()
    receipts.tell([Withdrawing(LANE, 2, cause)], 140)
    assert told(ticket, 1) == [(100, "stored"), (140, what)]


def test_times_of_another_clock_do_not_contradict_the_own() -> None:
    receipts, ticket = kept()
    receipts.tell([Sent(LANE, 3)], 110)
    receipts.tell([Received(LANE, 3)], 130)
    receipts.tell([Ended(LANE, 1, 3, Outcome.HANDLED, None, 1, 90, 105)], 140)
    assert told(ticket) == [(100, "stored"), (110, "sent"), (110, "received"), (110, "handed over"), (110, "settled")]


def test_a_hand_over_at_an_unknown_time_is_left_out() -> None:
    receipts, ticket = kept()
    receipts.tell([Ended(LANE, 1, 3, Outcome.HANDLED, None, 1, 1, 105)], 140)
    assert told(ticket) == [(100, "stored"), (105, "settled")]


def test_attempts_as_far_as_they_are_known() -> None:
    receipts, ticket = kept()
    assert ticket.attempts(0) == 0
    receipts.tell([HandedOver(LANE, 1, 128)], 150)
    assert (ticket.attempts(0), ticket.attempts(1)) == (1, 0)
    ticket.end(0, 0, EndedAs(Outcome.HANDLED, None, 3, 128, 160))
    assert ticket.attempts(0) == 3


def test_marks_tell_the_latest_of_it() -> None:
    marks = Marks(10)
    assert (marks.passed_us(10), marks.passed_us(11)) == (0, 0)
    for n in range(3 * Marks.MOST):
        marks.moved(11 + 2 * n, 1000 + n)
    last = 11 + 2 * (3 * Marks.MOST - 1)
    assert marks.passed_us(last) == marks.passed_us(last - 1) == 1000 + 3 * Marks.MOST - 1
    assert marks.passed_us(last + 1) == 0
    known = [seq for seq in range(1, last + 1) if marks.passed_us(seq)]
    assert known == list(range(known[0], last + 1))
    assert Marks.MOST <= len(known) / 2 <= 2 * Marks.MOST
    assert all(marks.passed_us(seq) == 1000 + (seq - 10) // 2 for seq in known)


def test_only_the_latest_resends_are_kept() -> None:
    receipts, ticket = kept()
    for n in range(100):
        receipts.tell([Resent(LANE, 1, 3)], 200 + n)
    assert told(ticket)[1:] == [(at_us, "resent") for at_us in range(236, 300)]
