"""Claim and hand-over: whoever takes a row decides, and there is no third."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from contextlib import nullcontext

import pytest

from zmqrel.core.buffer import EXPIRED, HANDLED, Buffer, Expired, Handled, Left, Refused, Result, Returned
from zmqrel.core.entries import Meta, encode_messages, encode_meta
from zmqrel.core.lane import DATA, InLane
from zmqrel.core.offset import ClockOffset
from zmqrel.core.row import Place, Row, is_overdue
from zmqrel.core.storage import InHand
from zmqrel.errors import StoreFull
from zmqrel.store import MemoryInHand

NOW_US = 1_700_000_000_000_000


def make_lane() -> InLane:
    return InLane(3, "a", 1, DATA, 99, "work")


def make_row(seq: int = 1, *, deadline_us: int = 0, lane: InLane | None = None) -> Row:
    record = encode_messages([b"body"], NOW_US, deadline_us, encode_meta(Meta(key="k")))[0]
    row = Row(lane or make_lane(), seq, NOW_US, record)
    row.deadline_us = deadline_us
    row.place = Place.CLAIMED
    return row


def make_buffer(in_hand: MemoryInHand | None = None, prefetch: int = 4) -> Buffer:
    return Buffer("work", prefetch, in_hand or MemoryInHand(), nullcontext(), lambda n: None)


# ------------------------------------------------------------------------------------------ state by event


def arrive(place: Place) -> tuple[Buffer, Row]:
    """A buffer, and a row that came to that place as rows do."""
    buffer, row = make_buffer(), make_row()
    if place is Place.AHEAD:
        row.place = Place.AHEAD
        return buffer, row
    buffer.offer([row])
    if place is Place.ASKED:
        assert buffer.ask(NOW_US) is row
    if place in (Place.RUNNING, Place.DONE):
        assert buffer.take(NOW_US) is row
    if place is Place.DONE:
        buffer.finish(row, HANDLED)
    if place is Place.GONE:
        assert buffer.withdraw(row)
    return buffer, row


WITHDRAWN = {
    Place.AHEAD: (False, Place.AHEAD),
    Place.CLAIMED: (True, Place.GONE),
    Place.ASKED: (True, Place.GONE),
    Place.RUNNING: (False, Place.RUNNING),
    Place.DONE: (False, Place.DONE),
    Place.GONE: (False, Place.GONE),
}
TAKEN = {
    Place.AHEAD: (False, Place.AHEAD),
    Place.CLAIMED: (True, Place.RUNNING),
    Place.ASKED: (False, Place.ASKED),
    Place.RUNNING: (False, Place.RUNNING),
    Place.DONE: (False, Place.DONE),
    Place.GONE: (False, Place.GONE),
}
ASKED = {**TAKEN, Place.CLAIMED: (True, Place.ASKED)}
ADMITTED = {Place.ASKED: (True, Place.RUNNING), Place.GONE: (False, Place.GONE)}
REFUSAL = {Place.ASKED: (True, Place.DONE), Place.GONE: (False, Place.GONE)}
CLEARED = {place: (place is Place.CLAIMED, Place.GONE if place is Place.CLAIMED else place) for place in Place}


def withdrawn(buffer: Buffer, row: Row) -> bool:
    return buffer.withdraw(row)


def taken(buffer: Buffer, row: Row) -> bool:
    return buffer.take(NOW_US) is row


def cleared(buffer: Buffer, row: Row) -> bool:
    before = row.place
    buffer.clear()
    return len(buffer) == 0 and row.place is not before


def asked(buffer: Buffer, row: Row) -> bool:
    return buffer.ask(NOW_US) is row


def admitted(buffer: Buffer, row: Row) -> bool:
    return buffer.admit(row, NOW_US)


def refused(buffer: Buffer, row: Row) -> bool:
    buffer.refuse(row)
    return kinds(buffer) == [Refused]


def kinds(buffer: Buffer) -> list[type]:
    """What was made of the rows that are through; empty tuples of different kinds are equal."""
    return [type(result) for _, result in buffer.finished()]


@pytest.mark.parametrize("place", Place)
@pytest.mark.parametrize(
    ("event", "table"), [(withdrawn, WITHDRAWN), (taken, TAKEN), (cleared, CLEARED), (asked, ASKED)]
)
def test_what_an_event_does_to_a_row(
    place: Place, event: Callable[[Buffer, Row], bool], table: dict[Place, tuple[bool, Place]]
) -> None:
    buffer, row = arrive(place)
    assert (event(buffer, row), row.place) == table[place]
    assert buffer.take(NOW_US) is None or event is not taken


@pytest.mark.parametrize(("event", "table"), [(admitted, ADMITTED), (refused, REFUSAL)])
@pytest.mark.parametrize("place", [Place.ASKED, Place.GONE])
def test_what_the_answer_does_to_a_row(
    place: Place, event: Callable[[Buffer, Row], bool], table: dict[Place, tuple[bool, Place]]
) -> None:
    """Gone is a row that was withdrawn while it was asked about."""
    buffer, row = arrive(Place.ASKED)
    if place is Place.GONE:
        assert buffer.withdraw(row)
    assert (event(buffer, row), row.place) == table[place]
    if place is Place.GONE and event is admitted:
        assert kinds(buffer) == [Left]
    buffer.finished()
    assert buffer.handed_over() == ([row] if row.place is Place.RUNNING else [])


def test_asking_counts_no_attempt_but_is_known_should_the_process_die() -> None:
    in_hand = MemoryInHand()
    buffer, row = make_buffer(in_hand), make_row(seq=9)
    buffer.offer([row])
    assert buffer.ask(NOW_US) is row
    assert (row.attempts, row.handed_us) == (0, 0)
    assert in_hand.open() == [InHand(3, 9, 1, True)]
    assert buffer.handed_over() == [row]
    assert buffer.admit(row, NOW_US + 7)
    assert (row.attempts, row.handed_us) == (1, NOW_US + 7)


def test_a_refusal_leaves_no_attempt_should_the_process_die_before_it_is_settled() -> None:
    in_hand = MemoryInHand()
    buffer, row = make_buffer(in_hand), make_row()
    buffer.offer([row])
    assert buffer.ask(NOW_US) is row
    buffer.refuse(row)
    assert in_hand.open() == []
    assert (row.slot, row.attempts) == (-1, 0)


def test_a_deadline_that_passes_while_it_is_asked_about_counts() -> None:
    buffer, row = make_buffer(), make_row(deadline_us=NOW_US + 5)
    buffer.offer([row])
    assert buffer.ask(NOW_US) is row
    assert not buffer.admit(row, NOW_US + 6)
    assert kinds(buffer) == [Expired]
    assert (row.place, row.attempts) == (Place.DONE, 0)


def test_a_row_withdrawn_while_it_is_asked_about_is_not_with_a_worker() -> None:
    buffer, row = make_buffer(), make_row()
    buffer.offer([row])
    buffer.ask(NOW_US)
    assert buffer.withdraw(row)
    assert buffer.handed_over() == []


def test_a_handler_that_returns_and_settles_later() -> None:
    in_hand = MemoryInHand()
    buffer, row = make_buffer(in_hand), make_row(seq=9)
    buffer.offer([row])
    buffer.take(NOW_US)
    buffer.returned(row)
    assert in_hand.open() == [InHand(3, 9, 1, False)]
    assert (buffer.finished(), buffer.handed_over()) == ([], [row])
    buffer.finish(row, HANDLED)
    buffer.returned(row)
    assert kinds(buffer) == [Handled]


def test_the_loop_is_told_when_a_suspect_has_returned() -> None:
    buffer, row = make_buffer(), make_row()
    row.suspect = True
    buffer.offer([row])
    buffer.take(NOW_US)
    buffer.returned(row)
    assert buffer.unsettled
    assert buffer.handed_over() == [row]
    assert kinds(buffer) == [Returned]


def test_a_time_limit_runs_from_the_hand_over() -> None:
    buffer = Buffer("work", 4, MemoryInHand(), nullcontext(), lambda n: None, 1_000)
    buffer.offer([make_row(1), make_row(2)])
    row = buffer.take(NOW_US)
    assert row is not None
    assert not is_overdue(row, NOW_US + 1_000)
    assert is_overdue(row, NOW_US + 1_001)
    asked_row = buffer.ask(NOW_US)
    assert asked_row is not None
    buffer.admit(asked_row, NOW_US + 500)
    assert not is_overdue(asked_row, NOW_US + 1_500)
    assert is_overdue(asked_row, NOW_US + 1_501)
    assert not is_overdue(make_row(), NOW_US * 2)


# ------------------------------------------------------------------------------------------------ hand-over


def test_rows_are_taken_in_the_order_in_which_they_were_offered() -> None:
    buffer = make_buffer()
    rows = [make_row(seq) for seq in (5, 6, 7, 8)]
    buffer.offer(rows[:2])
    buffer.offer(rows[2:])
    assert buffer.withdraw(rows[1])
    assert [buffer.take(NOW_US) for _ in range(4)] == [rows[0], rows[2], rows[3], None]


def test_a_hand_over_counts_an_attempt_and_knows_its_time() -> None:
    buffer, row = make_buffer(), make_row()
    buffer.offer([row])
    buffer.take(NOW_US + 5)
    assert (row.attempts, row.handed_us) == (1, NOW_US + 5)


def test_the_slot_is_written_before_the_row_is_handed_over() -> None:
    seen: list[Place] = []

    class Watching(MemoryInHand):
        def take(self, lane: int, seq: int, attempt: int) -> int:
            seen.append(row.place)
            return super().take(lane, seq, attempt)

    in_hand = Watching()
    buffer, row = make_buffer(in_hand), make_row(seq=9)
    buffer.offer([row])
    buffer.take(NOW_US)
    assert seen == [Place.CLAIMED]
    assert in_hand.open() == [InHand(3, 9, 1, True)]
    buffer.finish(row, HANDLED)
    assert in_hand.open() == [InHand(3, 9, 1, False)]


def test_a_row_that_cannot_be_noted_is_not_handed_over_and_not_lost() -> None:
    class Full(MemoryInHand):
        refusals = 1

        def take(self, lane: int, seq: int, attempt: int) -> int:
            self.refusals -= 1
            if self.refusals >= 0:
                raise StoreFull("no room for a slot")
            return super().take(lane, seq, attempt)

    in_hand = Full()
    buffer, row = make_buffer(in_hand), make_row()
    buffer.offer([row])
    with pytest.raises(StoreFull):
        buffer.take(NOW_US)
    assert (row.place, row.attempts) == (Place.CLAIMED, 0)
    assert buffer.take(NOW_US) is row
    assert row.attempts == 1


@pytest.mark.parametrize(("late_us", "live"), [(-1, True), (0, True), (1, False)])
def test_the_deadline_is_judged_at_the_door(late_us: int, live: bool) -> None:
    in_hand = MemoryInHand()
    buffer, row = make_buffer(in_hand), make_row(deadline_us=NOW_US)
    buffer.offer([row])
    assert (buffer.take(NOW_US + late_us) is row) is live
    if not live:
        assert (buffer.finished(), row.place, row.attempts) == ([(row, EXPIRED)], Place.DONE, 0)
        assert in_hand.open() == []


def test_the_deadline_is_judged_by_the_senders_clock() -> None:
    clock = ClockOffset(persisted_us=3_600_000_000)  # an hour ahead of ours
    row = make_row(deadline_us=NOW_US + 3_600_000_000)
    row.clock = clock
    buffer = make_buffer()
    buffer.offer([row])
    assert buffer.take(NOW_US + 1) is None
    assert buffer.finished() == [(row, EXPIRED)]


def test_a_row_behind_an_expired_one_is_handed_over_by_the_same_call() -> None:
    buffer, late, live = make_buffer(), make_row(1, deadline_us=NOW_US - 1), make_row(2)
    buffer.offer([late, live])
    assert buffer.take(NOW_US) is live


def test_a_row_knows_its_body_and_its_head() -> None:
    row = make_row()
    assert bytes(row.body) == b"body"
    assert row.head.meta.key == "k"


# ------------------------------------------------------------------------------------------------- results


def test_results_are_collected_once_in_order() -> None:
    buffer, rows = make_buffer(), [make_row(1), make_row(2)]
    buffer.offer(rows)
    for _ in rows:
        buffer.take(NOW_US)
    buffer.finish(rows[1], HANDLED)
    buffer.finish(rows[0], HANDLED)
    assert buffer.unsettled
    results = buffer.finished()
    assert [row.seq for row, _ in results] == [2, 1]
    assert (buffer.finished(), buffer.unsettled) == ([], False)
    buffer.put_back(results)
    assert buffer.finished() == results


def test_a_row_is_handed_over_until_its_result_was_collected() -> None:
    buffer, row = make_buffer(), make_row()
    buffer.offer([row])
    assert buffer.handed_over() == []
    buffer.take(NOW_US)
    assert buffer.handed_over() == [row]
    buffer.finish(row, HANDLED)
    assert buffer.handed_over() == [row]
    buffer.finished()
    assert buffer.handed_over() == []


def test_the_capacity_follows_what_the_workers_take() -> None:
    buffer = make_buffer(prefetch=4)
    assert buffer.room() == 4
    rows = [make_row(seq) for seq in range(4)]
    buffer.offer(rows)
    assert buffer.room() == 0
    for _ in rows:
        buffer.take(NOW_US)
    assert buffer.has_room
    assert buffer.room() == 8, "as fast as it goes through them, twice as much is claimed ahead"
    buffer.offer([make_row(9)])
    buffer.take(NOW_US)
    assert buffer.room() == 4, "and less again for a slow handler"
    assert len(buffer) == 0


@pytest.mark.parametrize("more", [False, True])
def test_who_takes_the_last_claimed_row_wakes_the_loop_once_if_there_is_more(more: bool) -> None:
    woken = []
    buffer = Buffer("work", 4, MemoryInHand(), nullcontext(), lambda n: None, wake=lambda: woken.append(len(buffer)))
    buffer.offer([make_row(seq) for seq in range(3)])
    buffer.more = more
    for _ in range(5):
        buffer.take(NOW_US)
    assert woken == ([0] if more else []), "not for each row, and not for nothing"


# ------------------------------------------------------------------------------------------------- threads

ROWS = 10_000


def test_under_threads_each_row_is_taken_or_withdrawn_and_never_both() -> None:
    lane = make_lane()
    rows = [make_row(seq, lane=lane) for seq in range(ROWS)]
    in_hand = MemoryInHand()
    buffer = Buffer("work", ROWS, in_hand, threading.Lock(), lambda n: None)
    buffer.offer(rows)
    start = threading.Barrier(2)
    handed: list[Row] = []
    back: list[Row] = []

    def work() -> None:
        start.wait()
        while (row := buffer.take(NOW_US)) is not None:
            handed.append(row)
            buffer.finish(row, HANDLED)

    worker = threading.Thread(target=work)
    worker.start()
    start.wait()
    collected: list[tuple[Row, Result]] = []
    for row in reversed(rows):
        if buffer.withdraw(row):
            back.append(row)
        collected += buffer.finished()
    worker.join()
    collected += buffer.finished()
    fate = Counter(row.seq for row in handed + back)
    assert fate == Counter(range(ROWS))
    assert [row.seq for row in handed] == sorted(row.seq for row in handed)
    assert [row for row, _ in collected] == handed
    assert len(in_hand.open()) == len(handed)
