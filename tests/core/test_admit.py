"""Conditions, handlers that settle later, and time limits: what the engine makes of them."""

from __future__ import annotations

import pytest

from tests.core.pump import QUEUE, START_US, Host, Pump, pair
from zmqrel.core import commands as c
from zmqrel.core import tables
from zmqrel.core.buffer import HANDLED, RETURNED, Buffer, Failed
from zmqrel.core.dead import decode_dead
from zmqrel.core.effects import HandedOver
from zmqrel.core.row import Row
from zmqrel.core.rows import Policy
from zmqrel.retry import Retry
from zmqrel.store import MemoryInHand


def asked(**sent: object) -> tuple[Host, Host, Pump, Buffer, Row]:
    """A message about which `admit` is asked."""
    a, b, pump = pair()
    a.send("b", b"x", **sent)  # type: ignore[arg-type]
    pump.run()
    b.turn()
    buffer = b.buffers[QUEUE]
    row = buffer.ask(b.now().store_us)
    assert row is not None
    return a, b, pump, buffer, row


def test_what_is_not_admitted_is_rejected_without_an_attempt() -> None:
    a, b, pump, buffer, row = asked(max_attempts=1)
    buffer.refuse(row)
    b.turn()
    pump.run()
    assert a.outcomes() == [(1, "REJECTED", "condition")]
    [(_, data)] = b.store.scan(*tables.table_bounds(tables.DEAD), 9)
    letter = decode_dead(data)
    assert (letter.cause, letter.reason, letter.attempts) == ("rejected", "condition", 0)
    assert [event.what for event in letter.history] == ["stored", "received", "settled"]
    assert b.in_hand.open() == []
    found = a.turn([], c.Find(letter.id))[0]
    assert (found.ended.attempts, found.ended.handed_at_us) == (0, 0)


def test_a_recall_wins_while_admit_is_asked() -> None:
    a, b, pump, buffer, row = asked()
    lane = next(lane for lane in a.engine.shared.out_lanes.values() if lane.queue == QUEUE)
    a.turn([], c.Recall([(lane.no, 1)]))
    pump.run()
    assert a.outcomes() == [(1, "RECALLED", "recalled")]
    assert b.engine.stats()["inbox_messages"] == 0
    assert not buffer.admit(row, b.now().store_us)
    b.turn()
    assert b.in_hand.open() == []
    assert a.outcomes() == [(1, "RECALLED", "recalled")]


@pytest.mark.parametrize("how", ["refused", "expired"])
def test_a_recall_wins_though_what_was_stopped_at_the_door_is_not_settled_yet(how: str) -> None:
    """The worker is through with it when the recall comes, and nobody had it: so nothing else may be said of it."""
    a, b, pump, buffer, row = asked(deadline_us=START_US + 2_000_000)
    lane = next(lane for lane in a.engine.shared.out_lanes.values() if lane.queue == QUEUE)
    a.turn([], c.Recall([(lane.no, 1)]))
    if how == "refused":
        buffer.refuse(row)
    else:
        assert not buffer.admit(row, START_US + 3_000_000)
    pump.run()
    assert a.outcomes() == [(1, "RECALLED", "recalled")]
    assert not [notice for notice in a.notices if isinstance(notice, HandedOver)]
    b.turn()
    assert b.in_hand.open() == []
    assert b.engine.stats()["inbox_messages"] == 0


def test_a_recall_before_a_second_attempt_is_too_late_though_admit_is_asked() -> None:
    a, b, pump, buffer, row = asked()
    assert buffer.admit(row, b.now().store_us)
    b.finish(row, Failed("no"))
    pump.pass_s(1.1)
    row_again = buffer.ask(b.now().store_us)
    assert row_again is not None
    lane = next(lane for lane in a.engine.shared.out_lanes.values() if lane.queue == QUEUE)
    a.turn([], c.Recall([(lane.no, 1)]))
    pump.run()
    assert a.outcomes() == [(1, "EXHAUSTED", "recalled")]
    buffer.refuse(row_again)
    b.turn()
    assert b.in_hand.open() == []


def test_a_deadline_judged_by_the_loop_while_admit_is_asked() -> None:
    a, b, pump, buffer, row = asked(deadline_us=START_US + 2_000_000)
    pump.pass_s(3)
    assert a.outcomes() == [(1, "EXPIRED", "deadline")]
    buffer.refuse(row)
    b.turn()
    assert b.in_hand.open() == []


def test_a_process_that_dies_in_admit_is_found() -> None:
    a, b, pump, _buffer, _row = asked()
    for life in range(2):
        b.reopen()
        b.turn()
        again = b.buffers[QUEUE].ask(b.now().store_us)
        assert again is not None
        assert (again.suspect, again.attempts) == (True, life + 1)
    b.reopen()
    b.turn()
    assert b.buffers[QUEUE].ask(b.now().store_us) is None
    pump.connect()
    assert a.outcomes()[-1] == (1, "EXHAUSTED", "crash")


def test_a_closing_peer_leaves_what_admit_is_asked_about_as_it_was() -> None:
    _a, b, _pump, buffer, _row = asked()
    b.engine.begin(b.now(), b.now().store_us)
    b.engine.leave(buffer.handed_over())
    b.engine.finish()
    b.store.commit()
    b.in_hand.clear()
    b.reopen("clean")
    b.turn()
    again = b.take()
    assert (again.attempts, again.redelivered) == (1, False)


def test_a_core_loaded_anew_knows_what_admit_is_asked_about() -> None:
    a, b, pump, buffer, row = asked()
    failed, served, in_hand = b.engine, b.buffers, b.in_hand
    b.in_hand = MemoryInHand()
    b.store.abort()
    b.open()
    b.in_hand = in_hand
    b.engine.begin(b.now(), 0)
    b.engine.replace(failed, served[QUEUE].handed_over())
    b.engine.serve(QUEUE, buffer, Policy(Retry.fixed(1)))
    b.buffers = served
    b._apply(b.engine.finish())
    assert row.attempts == 0
    assert buffer.admit(row, b.now().store_us)
    b.finish(row, HANDLED)
    pump.connect()
    assert a.outcomes() == [(1, "HANDLED", None)]


def test_a_suspect_whose_handler_has_returned_holds_nobody_back() -> None:
    a, b, pump = pair()
    a.send("b", b"1", b"2")
    pump.run()
    b.turn()
    b.take()
    b.reopen()
    b.turn()
    suspect = b.take()
    assert suspect.suspect
    b.turn()
    assert b.buffers[QUEUE].take(b.now().store_us) is None
    b.buffers[QUEUE].returned(suspect)
    b.turn()
    second = b.take()
    assert second.seq == 2
    b.finish(second, HANDLED)
    b.finish(suspect, HANDLED)
    assert b.engine.stats()["inbox_messages"] == 0
    assert b.in_hand.open() == []


def test_that_a_handler_returned_is_no_news_of_a_message_that_has_ended() -> None:
    _, b, _, buffer, row = asked()
    assert buffer.admit(row, b.now().store_us)
    row.suspect = True
    buffer.returned(row)
    b.finish(row, HANDLED)
    b.turn()
    assert b.in_hand.open() == []
    buffer.put_back([(row, RETURNED)])
    b.turn()
    assert b.engine.stats()["handled"] == 1


def test_overdue_hand_overs_are_counted_when_they_end() -> None:
    a, b, pump = pair()
    buffer = Buffer(QUEUE, 4, b.in_hand, b.buffers[QUEUE]._lock, lambda n: None, 1_000_000)
    b.engine.serve(QUEUE, buffer, Policy(Retry.fixed(1)))
    b.buffers[QUEUE] = buffer
    a.send("b", b"1", b"2")
    pump.run()
    b.turn()
    first, second = b.take(), b.take()
    pump.pass_s(0.5)
    b.finish(first, HANDLED)
    pump.pass_s(0.6)
    assert b.engine.stats()["overdue"] == 0
    b.finish(second, HANDLED)
    assert b.engine.stats()["overdue"] == 1
