"""How a peer stands, at a glance."""

from __future__ import annotations

from tests.core.pump import QUEUE, Host, Time, pair
from zmqrel.core import commands as c
from zmqrel.core.buffer import HANDLED


def test_peers_and_queues_are_told_as_they_stand() -> None:
    a, b, pump = pair()
    a.send("b", b"1", b"2")
    a.send("b", b"3", queue="nobody")
    pump.run()
    ours, theirs = a.engine.overview(), b.engine.overview()
    (bank,) = ours.peers
    assert (bank.name, bank.endpoint, bank.listed, bank.connected) == ("b", "there", True, True)
    assert (bank.unsent, bank.unacknowledged, bank.inbox_messages) == (0, 0, 0)
    assert bank.store_id == theirs.store_id
    assert theirs.peers[0].inbox_messages == 3
    assert [(queue.name, queue.messages, queue.served) for queue in theirs.queues] == [
        ("nobody", 1, None),
        (QUEUE, 2, "push"),
    ]
    assert theirs.queues[1].size == sum(row.size for row in b.engine.shared.in_lanes.values() if row.queue == QUEUE)


def test_what_was_not_sent_and_not_acknowledged_is_counted() -> None:
    a, _, pump = pair()
    a.send("b", b"1")
    (bank,) = a.engine.overview().peers
    assert (bank.unsent, bank.unacknowledged) == (0, 1)
    pump.run()
    alone = Host("a", Time())
    alone.turn([], c.Connect("b", None))
    alone.send("b", b"1")
    (bank,) = alone.engine.overview().peers
    assert (bank.connected, bank.store_id, bank.clock_offset_us, bank.unsent) == (False, 0, None, 1)


def test_what_was_received_and_has_left_the_inbox_is_known_by_its_lane() -> None:
    a, b, pump = pair()
    stored = a.send("b", b"1", b"2")
    pump.run()
    first, second = (f"{stored.lane.id:016x}-{seq}" for seq in (1, 2))
    assert b.engine.passed(first) is None
    b.finish(b.take(), HANDLED)
    assert b.engine.passed(first) == "a"
    assert b.engine.passed(second) is None
    others = (
        f"{stored.lane.id:016x}-3",
        "mine",
        f"{stored.lane.id:016x}-0",
        f"{stored.lane.id:016x}-x",
        "0" * 16 + "-1",
    )
    assert [b.engine.passed(other) for other in others] == [None] * 5


def test_a_question_is_answered_between_two_turns() -> None:
    a, _, _ = pair()
    stored = a.send("b", b"1", id="mine")
    found = a.engine.answer(c.Find("mine"))
    assert (found.lane.no, found.seq) == (stored.lane.no, stored.first)
    assert a.engine.examine(b"\x01").faults == []
