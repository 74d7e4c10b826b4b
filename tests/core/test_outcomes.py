"""What the sender remembers: ids, outcomes, what was told to the application, searches, dead letters, flushes."""

from __future__ import annotations

from typing import Any

import pytest

from tests.core.pump import Host, Pump, Time, pair
from tests.core.puppet import PATIENT, Puppet
from zmqrel.core import commands as c
from zmqrel.core import outbox, tables
from zmqrel.core.buffer import HANDLED, Rejected
from zmqrel.core.commands import Found
from zmqrel.core.dead import DeadLetter, decode_dead
from zmqrel.core.effects import Ended, Received
from zmqrel.core.entries import Withdraw
from zmqrel.errors import DuplicateId, StoreFull, UnknownPeer
from zmqrel.outcome import Cause, Outcome


def lonely(**options: Any) -> Host:
    """A host that knows a peer and has no link to it."""
    host = Host("a", Time(), **options)
    host.turn([], c.Connect("b", None), c.Connect("c", None))
    return host


# ----------------------------------------------------------------------------------------------------- ids


def test_a_second_send_with_the_same_id_and_arguments_is_the_first() -> None:
    host = lonely()
    first = host.send("b", b"x", id="order-1", digest=b"d")
    again = host.send("b", b"x", id="order-1", digest=b"d")
    assert (again.lane, again.first, again.repeated) == (first.lane, first.first, True)
    assert host.engine.stats()["outbox_messages"] == 1


def test_a_second_send_with_the_same_id_and_other_arguments_is_refused() -> None:
    host = lonely()
    host.send("b", b"x", id="order-1", digest=b"d")
    with pytest.raises(DuplicateId):
        host.send("b", b"y", id="order-1", digest=b"e")


def test_an_id_that_the_package_gave_cannot_be_taken() -> None:
    host = lonely()
    stored = host.send("b", b"x")
    with pytest.raises(DuplicateId):
        host.send("b", b"y", id=f"{stored.lane.id:016x}-1")
    with pytest.raises(DuplicateId):
        host.send("b", b"y", id=f"{stored.lane.id:016x}-77")  # it would be another message's in a while
    assert host.send("b", b"y", id=f"{stored.lane.id ^ 1:016x}-77").first == 2


def test_an_id_is_known_as_long_as_its_outcome_and_no_longer() -> None:
    host = lonely(outcome_retention_s=60)
    host.recall(host.send("b", b"x", id="order-1", digest=b"d", key="k"))
    host.time.pass_s(59.9)
    host.turn()
    found = host.turn([], c.Find("order-1"))[0]
    assert isinstance(found, Found)
    assert found.ended is not None
    assert (found.ended.outcome, found.key) == (Outcome.RECALLED, "k")
    assert host.send("b", b"x", id="order-1", digest=b"d").repeated
    host.time.pass_s(0.2)
    host.turn()
    assert host.turn([], c.Find("order-1")) == [None]
    assert not host.send("b", b"y", id="order-1", digest=b"e").repeated
    assert host.store.keys(*tables.table_bounds(tables.OUTCOME_OF), 9) == []


def test_a_stranger_is_no_address() -> None:
    with pytest.raises(UnknownPeer):
        lonely().send("nobody", b"x")


def test_a_full_store_accepts_nothing() -> None:
    host = lonely()
    host.engine.set_accepting(False)
    with pytest.raises(StoreFull):
        host.send("b", b"x")
    host.engine.set_accepting(True)
    assert host.send("b", b"x").first == 1


def test_a_write_that_finds_not_even_headroom_ends_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    host = lonely()
    stored = host.send("b", b"x")
    host.engine.set_accepting(False)

    def refuse(_key: bytes, _value: bytes) -> None:
        host.store.abort()
        raise StoreFull("full")

    monkeypatch.setattr(host.store, "put", refuse)
    with pytest.raises(StoreFull):
        host.recall(stored)


def test_what_is_found_after_a_restart_is_what_was_found_before() -> None:
    host = lonely()
    host.send("b", b"x", id="waits")
    host.recall(host.send("b", b"y", id="ended"))
    before = host.turn([], c.Find("waits"), c.Find("ended"))
    host.reopen("clean")
    host.turn([], c.Connect("b", None))
    after = host.turn([], c.Find("waits"), c.Find("ended"))
    assert [(found.seq, found.id, found.ended, found.withdrawn) for found in after] == [
        (found.seq, found.id, found.ended, found.withdrawn) for found in before
    ]


def test_recalls_answer_with_what_is_known() -> None:
    host = lonely()
    stored = host.send("b", b"x")
    found = host.recall(stored)
    assert found is not None
    assert found.ended is not None
    assert found.ended.outcome is Outcome.RECALLED
    assert host.turn([], c.Recall([(stored.lane.no, 99), (12345, 1)])) == [[None, None]]


# ----------------------------------------------------------------------------------------------- recall_where


def where(host: Host, **given: Any) -> list[int]:
    """Places of what a search found, as sequence numbers."""
    command = c.RecallWhere(**given)
    answer = host.turn([], command)[0]
    for _ in range(100):
        if answer is not None:
            break
        host.turn()
        answer = host.answers.get(command)
    assert answer is not None
    return [found.seq for found in answer]


def test_recall_where_recalls_what_matches_all_filters() -> None:
    host = lonely()
    host.send("b", b"1", key="k", headers={"n": 1})
    host.send("b", b"2", key="k", headers={"n": 2})
    host.send("b", b"3")
    host.send("b", b"4", queue="other", key="k")
    host.send("c", b"5", key="k")
    assert where(host, to="b", queue="work", key="k", matches=lambda found: found.headers["n"] == 2) == [2]
    assert host.outcomes() == [(2, "RECALLED", "recalled")]
    assert where(host, key="k", withdraw=False) == [1, 1, 1]
    assert len(host.outcomes()) == 1
    assert sorted(where(host)) == [1, 1, 1, 3]
    assert where(host) == []


def test_a_search_goes_on_over_many_turns_and_spares_what_comes_later() -> None:
    host = lonely()
    host.send("b", *[b"x"] * 4500)
    command = c.RecallWhere()
    answers = host.turn([], command)
    assert answers == [None]
    assert not host.idle()
    host.send("b", b"later")
    turns = 0
    while not host.idle():
        host.turn()
        turns += 1
    assert turns >= 2
    assert len(host.outcomes()) == 4500
    assert host.engine.stats()["outbox_messages"] == 1


def test_a_search_finds_the_same_though_each_commit_fails_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox, "_SCANNED_PER_TURN", 2)
    host = lonely()
    host.send("b", *[b"x"] * 5)
    host.send("b", *[b"x"] * 2, queue="other")
    command = c.RecallWhere()
    host.fail(command)
    host.turn([], command)
    for _ in range(20):
        host.fail()
        host.fail()
        host.turn()
        if command in host.answers:
            break
    found = [(found.lane.queue, found.seq) for found in host.answers[command]]
    assert sorted(found) == [("other", 1), ("other", 2)] + [("work", seq) for seq in range(1, 6)]
    assert len(host.outcomes()) == 7


def test_a_search_that_is_refused_with_its_turn_recalls_nothing() -> None:
    host = lonely()
    host.send("b", b"x")
    host.fail(c.RecallWhere())
    while not host.idle():
        host.turn()
    assert host.outcomes() == []


def test_a_search_sees_messages_that_left_and_those_that_did_not() -> None:
    host = Host("a", Time(), window_bytes=1, **PATIENT)
    puppet = Puppet(host)
    host.send("puppet", b"sent", b"stored")
    assert where(host) == [1, 2]
    assert host.outcomes() == [(2, "RECALLED", "recalled")]
    found = host.turn([], c.Recall([]))[0]
    assert found == []
    puppet.listen()
    assert len(puppet.told) == 1


def test_many_withdrawals_are_told_in_entries_that_fit_a_frame() -> None:
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host)
    stored = host.send("puppet", *[b"x"] * 25_000)
    for floor in range(1000, 26_000, 1000):
        puppet.ack(stored.lane.id, floor)
    host.turn([], c.Recall([(stored.lane.no, seq) for seq in range(1, 25_001)]))
    puppet.listen()
    told = [entry for entry in puppet.told if isinstance(entry, Withdraw)]
    named = [seq for entry in told for first, last in entry.ranges for seq in range(first, last + 1)]
    assert named == list(range(1, 25_001))
    assert len(told) == 2
    assert stored.lane.withdrawn == 25_000


# ---------------------------------------------------------------------------------------------- telling outcomes


def take(host: Host, limit: int = 100) -> tuple[int, list[int]]:
    upto, found = host.turn([], c.TakeOutcomes(limit))[0]
    return upto, [each.seq for each in found]


def test_outcomes_wait_for_who_subscribed_until_they_were_told_also_across_a_restart() -> None:
    host = lonely(outcome_retention_s=60)
    host.recall(host.send("b", b"before"))
    host.turn([], c.Subscribe())
    for body in (b"1", b"2", b"3"):
        host.recall(host.send("b", body))
    upto, seqs = take(host, limit=2)
    assert seqs == [2, 3]
    host.turn([], c.ToldOutcomes(upto))
    assert take(host)[1] == [4]
    host.reopen()
    host.time.pass_s(86_400)
    host.turn([], c.Connect("b", None))
    upto, seqs = take(host)
    assert seqs == [4], "however long the peer was away"
    host.turn([], c.ToldOutcomes(upto))
    assert take(host) == (upto, [])
    host.turn()
    assert host.store.keys(*tables.table_bounds(tables.OUTCOME), 9) == []


def test_without_a_subscription_nothing_waits() -> None:
    host = lonely()
    host.recall(host.send("b", b"x"))
    host.turn([], c.Subscribe())
    assert take(host)[1] == []


# -------------------------------------------------------------------------------------------------- dead letters


def dead(host: Host) -> list[DeadLetter]:
    return [decode_dead(data) for _, data in host.store.scan(*tables.table_bounds(tables.DEAD), 100)]


def test_a_dead_letter_says_what_happened() -> None:
    a, b, pump = pair()
    a.send("b", b"body", id="mine", key="k")
    pump.run()
    b.finish(b.take(), Rejected("not like this"))
    letter = dead(b)[0]
    assert letter[:2] + letter[3:8] == ("rejected", "not like this", "a", "b", "work", "mine", 1)
    pump.run()
    assert a.outcomes() == [(1, "REJECTED", "not like this")]
    assert dead(a) == []


def test_dead_letters_are_bounded_in_bytes_the_oldest_go_first() -> None:
    host = lonely(dead_max_bytes=900)
    for n in range(10):
        host.send("b", b"%d" % n * 100, deadline_us=host.now().store_us + 1)
        host.time.pass_s(0.001)
        host.turn()
    stats = host.engine.stats()
    assert [letter.record[20:21] for letter in dead(host)] == [b"7", b"8", b"9"]
    assert stats["dead_messages"] == 3
    assert stats["dead_bytes"] == sum(
        len(data) for _, data in host.store.scan(*tables.table_bounds(tables.DEAD), 9)
    ) <= 900  # fmt: skip
    assert stats["dead_dropped"] == 7


def test_without_room_for_letters_none_is_made_and_the_oldest_goes_for_it() -> None:
    host = lonely()

    def expire(spared: bool = False) -> None:
        host.send("b", b"x", deadline_us=host.now().store_us + 1)
        host.time.pass_s(0.001)
        if spared:
            host.engine.spare_dead_letters()
        host.turn()

    expire(), expire()
    other = dead(host)[1]
    expire(spared=True)
    assert dead(host) == [other]
    assert host.engine.stats()["dead_dropped"] == 2
    assert {ended for _, ended, _ in host.outcomes()} == {"EXPIRED"}
    expire()
    assert dead(host)[0] == other, "for that turn alone"
    assert len(dead(host)) == 2


def test_dead_letters_are_kept_for_their_time() -> None:
    host = lonely(dead_retention_s=60)
    for _ in range(2):
        host.send("b", b"x", deadline_us=host.now().store_us + 1)
        host.time.pass_s(30)
        host.turn()
    assert len(dead(host)) == 2
    host.time.pass_s(31)
    host.turn()
    assert len(dead(host)) == 1
    host.reopen("clean")
    host.time.pass_s(31)
    host.turn()
    assert dead(host) == []
    assert host.engine.stats()["dead_bytes"] == 0


# ------------------------------------------------------------------------------------------- relaxed durability


def relaxed_pair() -> tuple[Host, Host, Pump]:
    time = Time()
    a, b = Host("a", time, durability="relaxed"), Host("b", time, durability="relaxed")
    b.serve()
    pump = Pump(a, b)
    pump.connect()
    return a, b, pump


def test_an_outcome_is_told_only_after_a_flush_that_covers_it() -> None:
    a, b, pump = relaxed_pair()
    a.send("b", b"x")
    pump.run()
    assert any(isinstance(notice, Received) for notice in a.notices), "what is not final is told at once"
    b.finish(b.take(), HANDLED)
    pump.run()
    assert a.engine.stats()["outbox_messages"] == 1, "the settlement stays with who made it until a flush"
    b.turn(flush=True)
    pump.run()
    assert a.engine.stats()["outbox_messages"] == 0
    assert a.outcomes() == []
    a.turn(flush=True)
    assert a.outcomes() == [(1, "HANDLED", None)]
    pump.pass_s(1)
    assert a.outcomes() == [(1, "HANDLED", None)]


def test_a_recall_is_answered_after_a_flush() -> None:
    a, _, _ = relaxed_pair()
    a.turn([], c.Disconnect("b"))
    stored = a.send("b", b"x")
    command = c.Recall([(stored.lane.no, 1)])
    assert a.turn([], command) == [None]
    a.turn(flush=True)
    assert a.answers[command][0].ended.outcome is Outcome.RECALLED
    assert a.outcomes() == [(1, "RECALLED", "recalled")]


def test_a_flush_is_due_soon_after_a_commit_and_not_without_one() -> None:
    a, _, _ = relaxed_pair()
    a.turn(flush=True)
    a.turn()
    assert a.engine.flush_due_us() is None
    a.send("b", b"x")
    due_us = a.engine.flush_due_us()
    assert due_us is not None
    assert due_us - a.now().mono_us <= 100_000
    assert Host("x", Time()).engine.flush_due_us() is None


def test_notices_of_ends_carry_the_cause_of_a_withdrawal() -> None:
    a, b, pump = pair()
    stored = a.send("b", b"x")
    pump.run()
    found = a.recall(stored)
    assert found is not None
    assert (found.ended, found.withdrawn) == (None, Cause.RECALL)
    pump.run()
    assert [notice.outcome for notice in a.notices if isinstance(notice, Ended)] == [Outcome.RECALLED]
    assert b.buffers["work"].take(b.now().store_us) is None
