"""What a peer may not do: its messages end REJECTED and lie nowhere, its recalls are denied and change nothing."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.pump import QUEUE, START_US, Host, Pump, pair
from tests.core.puppet import MESSAGES, PATIENT, Puppet
from zmqrel.core import commands as c
from zmqrel.core import tables
from zmqrel.core.buffer import HANDLED, Failed
from zmqrel.core.effects import Denied
from zmqrel.core.entries import Deny, Meta, OutLaneState, State, Withdraw, encode_messages, encode_meta
from zmqrel.core.lane import DATA
from zmqrel.outcome import Cause
from zmqrel.permissions import Permissions

MAY_SEND = {"peers": {"a": {"queues": [QUEUE]}, "puppet": {"queues": [QUEUE]}}}


def permitted(given: dict[str, Any]) -> tuple[Host, Host, Pump]:
    """Two connected hosts, the second of which permits this."""
    a, b, pump = pair()
    b.engine.permit(Permissions.parse(given))
    return a, b, pump


def rows(host: Host, table: bytes) -> int:
    return len(host.store.scan(*tables.table_bounds(table), 1000))


def test_a_message_to_a_queue_that_is_not_permitted_ends_rejected_and_lies_nowhere() -> None:
    a, b, pump = permitted(MAY_SEND)
    a.send("b", b"x", b"y", b"z", queue="audit")
    a.send("b", b"good")
    pump.run()
    reason = "not permitted: queue 'audit' for peer 'a'"
    assert a.outcomes() == [(1, "REJECTED", reason), (2, "REJECTED", reason), (3, "REJECTED", reason)]
    assert bytes(b.take().body) == b"good"
    assert (rows(b, tables.INBOX), rows(b, tables.DEAD)) == (1, 0)
    stats = b.engine.stats()
    assert (stats["not_permitted"], stats["inbox_messages"], stats["received"]) == (3, 1, 1)
    assert [(event.peer, event.detail) for event in b.events if event.kind == "not_permitted"] == [("a", reason)]


def test_an_operator_is_told_once_of_each_lane() -> None:
    a, b, pump = permitted(MAY_SEND)
    for _ in range(3):
        a.send("b", b"x", queue="audit")
        pump.run()
    assert b.kinds().count("not_permitted") == 1
    assert b.engine.stats()["not_permitted"] == 3


def test_a_delayed_message_is_refused_when_it_comes() -> None:
    a, _, pump = permitted(MAY_SEND)
    a.send("b", b"x", queue="audit", not_before_us=START_US + 10**9)
    pump.run()
    assert [outcome for _, outcome, _ in a.outcomes()] == ["REJECTED"]


def test_who_is_not_named_may_do_nothing() -> None:
    a, _, pump = permitted({"peers": {"shop": {"queues": ["*"], "recall": True}}})
    a.send("b", b"x")
    pump.run()
    assert a.outcomes() == [(1, "REJECTED", "not permitted: queue 'work' for peer 'a'")]


def test_expiry_is_no_way_into_a_queue_that_is_not_permitted() -> None:
    a, b, pump = permitted(MAY_SEND)
    a.send("b", b"x", on_expiry="queue:audit", deadline_us=START_US + 10**6)
    a.send("b", b"y", on_expiry=f"queue:{QUEUE}", deadline_us=START_US + 10**6)
    pump.run()
    assert a.outcomes() == [(1, "REJECTED", "not permitted: on_expiry 'queue:audit' for peer 'a'")]
    pump.pass_s(2)
    assert a.outcomes()[1:] == [(2, "EXPIRED", "deadline")]
    assert {row.queue for row in [b.take()]} == {QUEUE}
    assert "audit" not in [queue.name for queue in b.engine.overview().queues]


def test_what_was_received_while_it_was_permitted_is_handed_over() -> None:
    a, b, pump = permitted(MAY_SEND)
    a.send("b", b"x")
    pump.run()
    b.engine.permit(Permissions())
    a.send("b", b"y")
    pump.run()
    b.finish(b.take(), HANDLED)
    pump.run()
    assert [outcome for _, outcome, _ in a.outcomes()] == ["REJECTED", "HANDLED"]


def test_permission_that_is_given_later_counts_for_what_comes_later() -> None:
    a, b, pump = permitted({})
    a.send("b", b"x")
    pump.run()
    b.engine.permit(None)
    a.send("b", b"y")
    pump.run()
    b.finish(b.take(), HANDLED)
    pump.run()
    assert [outcome for _, outcome, _ in a.outcomes()] == ["REJECTED", "HANDLED"]


def test_a_full_inbox_does_not_keep_refusals_back() -> None:
    a, b, pump = pair(inbox_max_messages=2)
    b.engine.permit(Permissions.parse({"peers": {"a": {"queues": [QUEUE]}}}))
    a.send("b", b"1", b"2")
    pump.run()
    a.send("b", *[b"x"] * 20, queue="audit")
    pump.pass_s(30)
    assert [outcome for _, outcome, _ in a.outcomes()] == ["REJECTED"] * 20
    assert b.engine.stats()["inbox_messages"] == 2


def test_who_sends_what_is_not_permitted_pays_for_it() -> None:
    host, puppet = open_host(MAY_SEND)

    def left() -> float:
        return host.engine.channels["puppet"].allowance.left(host.now().mono_us)

    puppet.data(1, *records(1))
    puppet.data(1, *records(1), lane_id=5, queue="audit")  # lanes that are new cost something, too
    before = left()
    puppet.data(2, *records(3))
    assert left() == before
    puppet.data(2, *records(3), lane_id=5, queue="audit")
    after = left()
    assert after < before - 1000
    puppet.withdraw(1)
    assert left() < after - 1000


def test_what_was_withdrawn_before_it_came_stays_withdrawn() -> None:
    host, puppet = open_host({"peers": {"puppet": {"queues": [], "recall": True}}})
    puppet.withdraw(2)
    puppet.data(1, *records(3))
    reason = "not permitted: queue 'work' for peer 'puppet'"
    assert sorted(puppet.settlements()) == [
        (1, "REJECTED", reason, False), (2, "RECALLED", "recalled", False), (3, "REJECTED", reason, False),
    ]  # fmt: skip
    assert rows(host, tables.TOMBSTONE) == 0


def test_a_refusal_is_not_repeated_and_outlasts_a_crash() -> None:
    a, b, pump = permitted({})
    a.send("b", b"x", b"y")
    pump.run()
    b.reopen()
    a.engine.link_down(1)
    b.turn([], c.Connect("a", None))
    pump.pass_s(20)
    assert len(a.outcomes()) == 2


# ------------------------------------------------------------------------------------------------------- recalls


def open_host(given: dict[str, Any]) -> tuple[Host, Puppet]:
    host = Host("b", pair()[0].time, **PATIENT)
    puppet = Puppet(host)
    host.serve()
    host.engine.permit(Permissions.parse(given))
    return host, puppet


def records(count: int, deadline_us: int = 0, **meta: Any) -> list[bytes]:
    return encode_messages([b"x"] * count, START_US, deadline_us, encode_meta(Meta(**meta)))


def denials(puppet: Puppet) -> list[Deny]:
    puppet.listen()
    return [entry for entry in puppet.told if isinstance(entry, Deny)]


def test_a_recall_that_is_not_permitted_is_denied_and_changes_nothing() -> None:
    a, b, pump = permitted(MAY_SEND)
    sent = a.send("b", b"x")
    pump.run()
    found = a.recall(sent)
    assert found is not None
    assert found.withdrawn is Cause.RECALL
    pump.run()
    denied = [notice for notice in a.notices if isinstance(notice, Denied)]
    assert denied == [Denied(sent.lane.no, 1, "not permitted: recall for peer 'a'")]
    found = a.turn([], c.Find(found.id))[0]
    assert (found.withdrawn, found.ended, sent.lane.withdrawn) == (None, None, 0)
    b.finish(b.take(), Failed("once"))
    pump.pass_s(2)
    b.finish(b.take(), HANDLED)
    pump.run()
    assert a.outcomes() == [(1, "HANDLED", None)]
    assert b.engine.stats()["recalls_not_permitted"] == 1


def test_a_recall_that_was_denied_may_be_asked_again() -> None:
    a, b, pump = permitted(MAY_SEND)
    sent = a.send("b", b"x")
    pump.run()
    a.recall(sent)
    pump.run()
    b.engine.permit(None)
    a.recall(sent)
    pump.run()
    assert a.outcomes() == [(1, "RECALLED", "recalled")]


def test_a_deadline_withdraws_what_could_not_be_recalled() -> None:
    a, b, pump = permitted(MAY_SEND)
    sent = a.send("b", b"x", deadline_us=START_US + 5_000_000)
    pump.run()
    a.recall(sent)
    pump.run()
    pump.pass_s(6)
    assert a.outcomes() == [(1, "EXPIRED", "deadline")]
    assert b.buffers[QUEUE].take(b.now().store_us) is None


def test_what_never_left_can_always_be_recalled() -> None:
    a, _b, _pump = permitted({})
    a.engine.link_down(1)
    a.turn([], c.Disconnect("b"))
    a.turn([], c.Connect("b", None))
    a.recall(a.send("b", b"x"))
    assert a.outcomes() == [(1, "RECALLED", "recalled")]


@pytest.mark.parametrize("cause", [Cause.DEADLINE, Cause.GIVE_UP])
def test_a_recall_by_another_name_takes_nothing_back(cause: Cause) -> None:
    host, puppet = open_host(MAY_SEND)
    puppet.data(1, *records(2))
    puppet.withdraw(1, 2, 3, cause=cause)
    assert [seq for seq, *_ in puppet.settlements()] == [3]
    assert host.take().seq == 1
    assert denials(puppet) == []


@pytest.mark.parametrize("recall", [False, True])
def test_a_state_that_nobody_asked_for_takes_nothing_back_either(recall: bool) -> None:
    """It says that its sender knows the outcome of all that it sent."""
    host, puppet = open_host({"peers": {"puppet": {"queues": [QUEUE], "recall": recall}}})
    puppet.data(1, *records(3))
    sent = [OutLaneState(MESSAGES, 1, 3, 3, False, [])]
    puppet.control(State(puppet.store_id, host.engine.shared.ledger.store_id, [], sent, True))
    assert host.engine.stats()["inbox_messages"] == (0 if recall else 3)


def test_an_old_copy_believes_what_is_said_of_outcomes() -> None:
    """It would hand over once more what it handed over in the life that it lost."""
    host, puppet = open_host({"peers": {"puppet": {"queues": [QUEUE]}}})
    puppet.data(1, *records(3))
    puppet.live_anew(you_are_old=True)
    puppet.live_anew()
    assert host.engine.channels["puppet"].awaits_state
    sent = [OutLaneState(MESSAGES, 1, 3, 3, False, [])]
    puppet.control(State(puppet.store_id, host.engine.shared.ledger.store_id, [], sent, True))
    assert host.engine.stats()["inbox_messages"] == 0


def test_thousands_of_recalls_are_denied_in_a_few_words() -> None:
    host, puppet = open_host(MAY_SEND)
    puppet.data(1, *records(1))
    before = host.engine.shared.ledger.commit_count
    puppet.control(Withdraw(puppet.store_id, MESSAGES, DATA, QUEUE, [(1, 9_000), (9_002, 15_000)], Cause.RECALL))
    [denied] = denials(puppet)
    assert denied.ranges == [(1, 9_000), (9_002, 15_000)]
    assert rows(host, tables.TOMBSTONE) == 0
    assert host.engine.shared.ledger.commit_count - before <= 3
    assert host.engine.stats()["recalls_not_permitted"] == 14_999


def test_denials_of_other_stores_lanes_and_causes_are_ignored() -> None:
    host = Host("a", pair()[0].time, **PATIENT)
    puppet = Puppet(host)
    stored = host.send("puppet", b"x", deadline_us=host.now().store_us + 10**6)
    lane, own = stored.lane, host.engine.shared.ledger.store_id
    host.turn([], c.Recall([(lane.no, 1)]))
    puppet.control(Deny(own ^ 1, lane.id, [(1, 1)], "no"), Deny(own, lane.id ^ 1, [(1, 1)], "no"))
    assert lane.withdrawn == 1
    puppet.control(Deny(own, lane.id, [(1, 5)], "no"))
    assert lane.withdrawn == 0
    host.time.pass_s(2)
    host.turn()
    assert lane.withdrawn == 1
    puppet.control(Deny(own, lane.id, [(1, 1)], "no"))
    assert lane.withdrawn == 1, "nobody has to permit a deadline"


def test_who_cannot_be_told_is_not() -> None:
    """A denial for a store that is gone."""
    host, puppet = open_host(MAY_SEND)
    puppet.data(1, *records(1))
    lane = next(lane for lane in host.engine.shared.in_lanes.values() if lane.queue)
    puppet.lose_store()
    puppet.forget()
    host.engine.begin(host.now(), 0)
    host.engine._inbox.withdraw(lane, [(1, 1)], Cause.RECALL)
    host.engine.finish()
    host.store.commit()
    assert denials(puppet) == []
