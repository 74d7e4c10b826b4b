"""Forgetting a peer that will not return: what ends, what stays, and that nothing is left in the end."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from tests.core.pump import QUEUE, START_US, Host, Pump, Time, keep_all, pair
from tests.core.puppet import Puppet
from zmqrel.core import commands as c
from zmqrel.core import forgetting, frames, tables
from zmqrel.core.buffer import HANDLED
from zmqrel.core.effects import Effects
from zmqrel.core.engine import Engine
from zmqrel.core.journal import Journal
from zmqrel.core.memory import Memory
from zmqrel.core.row import Row
from zmqrel.core.verification import examine
from zmqrel.errors import UnknownPeer

TABLES = {
    name: getattr(tables, name)
    for name in (
        "PEER", "LANE", "OUTBOX", "OUTBOX_HOLES", "WITHDRAWN", "OUT_DEADLINE", "ID", "OUTCOME", "OUTCOME_OF",
        "INBOX", "INBOX_HOLES", "ROW_STATE", "WAITING", "KEYED", "IN_DEADLINE", "TOMBSTONE", "SUSPECT",
    )
}  # fmt: skip


def left(host: Host) -> dict[str, int]:
    """Tables that are not empty, and how many rows they have."""
    counts = {name: len(host.store.keys(*tables.table_bounds(table), 9999)) for name, table in TABLES.items()}
    return {name: count for name, count in counts.items() if count}


def forget(host: Host, name: str) -> int:
    """Forget, in as many turns as that takes."""
    command = c.Forget(name)
    answer = host.turn([], command)[0]
    for _ in range(1000):
        if answer is not None:
            assert isinstance(answer, int), answer
            return answer
        assert not host.idle(), "it goes on by itself"
        host.turn()
        answer = host.answers.get(command)
    raise AssertionError("it never ends")


def all_is_well(host: Host) -> bool:
    behind = b"\x01"
    while True:
        examined = examine(Journal(host.store), behind)
        assert not examined.faults
        if examined.last is None:
            return True
        behind = examined.last


def lonely(**options: object) -> Host:
    """A host whose peer b never comes."""
    host = Host("a", Time(), **options)
    host.turn([], c.Connect("b", None))
    return host


def test_what_was_never_transmitted_is_recalled() -> None:
    host = lonely()
    host.send("b", b"1", b"2", key="k", id=None, headers={"h": 1})
    host.send("b", b"3", queue="other", id="mine", deadline_us=START_US + 60_000_000)
    host.send("b", b"4", not_before_us=START_US + 60_000_000)
    host.recall(host.send("b", b"5"))
    assert forget(host, "b") == 4
    names = [(outcome, reason) for _, outcome, reason in host.outcomes()]
    assert names == [("RECALLED", "recalled")] + [("RECALLED", "forgotten")] * 4
    stats = host.engine.stats()
    assert (stats["outbox_messages"], stats["outbox_bytes"], stats["outbox_unsent"]) == (0, 0, 0)
    assert set(left(host)) == {"PEER", "LANE", "ID", "OUTCOME", "OUTCOME_OF"}


def test_what_was_transmitted_is_uncertain() -> None:
    a, b, pump = pair()
    a.send("b", b"1", b"2")
    pump.run()
    b.turn()
    b.finish(b.take(), HANDLED)
    pump.run()
    a.send("b", b"3", queue="slow")
    pump.run(keep=lambda host, frame: frame.type != frames.DATA)
    assert forget(a, "b") == 2
    assert sorted(a.outcomes()) == [(1, "HANDLED", None), (1, "UNCERTAIN", "forgotten"), (2, "UNCERTAIN", "forgotten")]


def test_what_is_in_doubt_is_uncertain_though_it_was_not_transmitted() -> None:
    host = lonely()
    stored = host.send("b", b"1", b"2")
    stored.lane.doubt_upto = 1
    assert forget(host, "b") == 2
    assert host.outcomes() == [(1, "UNCERTAIN", "forgotten"), (2, "RECALLED", "forgotten")]


def test_the_lost_lane_of_an_old_copy_is_forgotten_too() -> None:
    a, _b, pump = pair()
    a.send("b", b"1")
    pump.run()
    lane = next(lane for lane in a.engine.shared.out_lanes.values() if lane.queue == QUEUE)
    a.engine.begin(a.now(), 0)
    a.engine.channels["b"].healing._heal_self()
    a._apply(a.engine.finish())
    assert lane.closed
    assert forget(a, "b") == 1
    assert all(lane.over for lane in a.engine.shared.out_lanes.values())


def test_nothing_is_left_once_the_outcomes_are_forgotten() -> None:
    a, _b, pump = pair(outcome_retention_s=60)
    a.send("b", b"1", b"2", id=None)
    a.send("b", b"3", id="mine")
    pump.run()
    forget(a, "b")
    assert a.turn([], c.Find("mine"))[0].ended is not None
    assert all_is_well(a)
    a.reopen()
    assert a.turn([], c.Find("mine"))[0].ended is not None
    assert all_is_well(a)
    a.time.pass_s(61)
    a.turn()
    a.turn()
    assert left(a) == {}
    assert a.engine.channels == {}
    a.reopen("clean")
    assert (left(a), a.engine.channels) == ({}, {})


def test_a_peer_without_messages_leaves_nothing_at_once() -> None:
    host = lonely()
    assert forget(host, "b") == 0
    assert (left(host), host.engine.channels) == ({}, {})


def test_control_entries_and_tombstones_go_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "MOST_AT_ONCE", 2)
    a, b, pump = pair()
    stored = a.send("b", *[b"x"] * 5)
    pump.run(keep=lambda host, frame: frame.type != frames.DATA)
    for seq in range(1, 6):
        a.recall(stored, seq)
    a.send("b", b"y", queue="other")
    pump.run(keep=lambda host, frame: frame.type != frames.DATA or frame.fields[0].kind == 0)
    assert left(b)["TOMBSTONE"] == 5
    assert left(b)["OUTBOX"]
    assert forget(b, "a") == 0
    assert (left(b), b.engine.channels) == ({}, {})


def test_messages_that_came_stay_and_are_handled() -> None:
    a, b, pump = pair()
    a.send("b", b"1", b"2", key="k", deadline_us=START_US + 60_000_000)
    a.send("b", b"3", not_before_us=START_US + 5_000_000)
    pump.run()
    b.turn()
    held = b.take()
    assert forget(b, "a") == 0
    assert b.engine.stats()["inbox_messages"] == 3
    assert b.engine.channels["a"].memory is Memory.LEFTOVERS
    assert all_is_well(b)
    b.finish(held, HANDLED)
    second = b.take()
    assert (second.seq, second.redelivered) == (2, False)
    b.reopen()
    b.turn()
    again = b.take()
    assert (again.seq, again.redelivered) == (2, True)
    b.finish(again, HANDLED)
    assert b.engine.channels["a"].memory is Memory.LEFTOVERS
    b.time.pass_s(6)
    b.turn()
    b.finish(b.take(), HANDLED)
    b.turn()
    assert (left(b), b.engine.channels) == ({}, {})
    assert not [frame for _, frame in b.out if frames.decode(frame).type == frames.DATA]


def test_their_deadlines_hold() -> None:
    a, b, pump = pair()
    a.send("b", b"1", deadline_us=START_US + 60_000_000)
    pump.run()
    forget(b, "a")
    b.time.pass_s(61)
    b.turn()
    assert b.engine.stats()["expired"] == 1
    assert b.engine.stats()["inbox_messages"] == 0
    b.turn()
    assert (left(b), b.engine.channels) == ({}, {})


def test_what_waited_for_the_clock_or_the_state_of_its_sender_waits_no_longer() -> None:
    a, b, pump = pair()
    a.send("b", b"1", deadline_us=START_US + 60_000_000)
    a.send("b", b"2")
    pump.run()
    channel = b.engine.channels["a"]
    b.engine._inbox.claims.recall_claims("a")
    channel.clock.offset_us = None
    channel.healing.awaits_state = True
    b.turn()
    assert b.buffers[QUEUE].take(b.now().store_us) is None
    forget(b, "a")
    b.turn()
    assert {b.take().seq, b.take().seq} == {1, 2}


@pytest.mark.parametrize("most", [1, 2, 7, 100])
def test_it_goes_on_turn_by_turn(monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(forgetting, "MOST_AT_ONCE", most)
    host = lonely()
    for queue in ("one", "two"):
        host.send("b", *[b"x"] * 10, queue=queue)
    assert forget(host, "b") == 20
    assert len(host.outcomes()) == 20
    assert host.idle()


@pytest.mark.parametrize("lives", [1, 3])
def test_the_next_life_goes_on_where_this_one_stopped(monkeypatch: pytest.MonkeyPatch, lives: int) -> None:
    monkeypatch.setattr(forgetting, "MOST_AT_ONCE", 2)
    host = lonely()
    host.send("b", *[b"x"] * 20)
    host.turn([], c.Forget("b"))
    for _ in range(lives):
        host.reopen()
        assert not host.idle()
        host.turn()
    while not host.idle():
        host.turn()
    assert host.engine.stats()["outbox_messages"] == 0
    assert len(host.outcomes()) == 20
    assert set(left(host)) == {"PEER", "LANE", "OUTCOME", "OUTCOME_OF"}


def test_several_callers_and_a_failed_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "MOST_AT_ONCE", 2)
    host = lonely()
    host.send("b", *[b"x"] * 6)
    first, second = c.Forget("b"), c.Forget("b")
    host.turn([], first)
    # The commit of this turn fails: the core is loaded anew and the turn's work is done over.
    host.engine.begin(host.now(), 0)
    host.engine.command(second)
    failed = host.engine
    failed.finish()
    host.store.abort()
    ids = Random(5)
    host.engine = Engine("a", host.options, ids, lambda: ids.getrandbits(64) | 1, host.store, host.now())
    host.engine.begin(host.now(), 0)
    host.engine.replace(failed, [])
    assert host.engine.stats()["accepted"] == 6, "counters go on"
    host.engine.command(second)
    effects = host.engine.finish()
    host._apply(effects)
    answers = dict(effects.replies)
    while not host.idle():
        host.turn()
        answers.update(host.answers)
    assert answers[first] == answers[second] == 6
    assert host.engine.stats()["outcome_recalled"] == 6
    assert len(host.outcomes()) == 6


def test_who_asked_is_answered_though_each_commit_fails_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "MOST_AT_ONCE", 2)
    host = lonely()
    host.send("b", *[b"x"] * 6)
    command = c.Forget("b")
    host.fail(command)
    host.turn([], command)
    for _ in range(20):
        host.fail()
        host.fail()
        host.turn()
        if command in host.answers:
            break
    assert host.answers[command] == 6


def test_who_is_forgotten_is_unknown() -> None:
    a, b, pump = pair()
    b.send("a", b"x", queue="other")
    pump.run()
    forget(a, "b")
    assert a.engine.channels["b"].memory is Memory.LEFTOVERS
    with pytest.raises(UnknownPeer):
        a.send("b", b"1")
    for name in ("b", "nobody"):
        answer = a.turn([], c.Forget(name))[0]
        assert isinstance(answer, UnknownPeer)


def test_while_it_is_forgotten_nobody_speaks_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "MOST_AT_ONCE", 1)
    a, b, pump = pair(accept="any")
    b.turn([], c.Connect("a", None))
    a.send("b", *[b"x"] * 5, queue="other")
    pump.run()
    b.send("a", *[b"x"] * 5, queue="other")
    command = c.Forget("a")
    assert b.turn([], command) == [None]
    with pytest.raises(UnknownPeer):
        b.send("a", b"1")
    said = [frames.decode(parts).type for _, parts in b.out]
    assert frames.BYE in said
    byes, b.out = b.out, []
    a.turn(byes)
    a.out.clear()
    a.time.pass_s(2)
    a.turn()
    hello = [(link, parts) for link, parts in a.out if frames.decode(parts).type == frames.HELLO]
    a.out.clear()
    assert hello
    b.turn(hello)
    assert [frames.decode(parts).type for _, parts in b.out] == [frames.BYE]


def test_a_connect_meanwhile_counts_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forgetting, "MOST_AT_ONCE", 2)
    host = lonely()
    host.send("b", *[b"x"] * 5)
    host.turn([], c.Forget("b"), c.Connect("b", "there"))
    assert host.dial == []
    while not host.idle():
        host.turn()
    assert host.dial == ["b"]
    channel = host.engine.channels["b"]
    assert (channel.memory, channel.listed) == (Memory.KEPT, True)
    stored = host.send("b", b"y")
    assert stored.first == 1
    host.reopen()
    assert host.engine.stats()["outbox_messages"] == 1


def test_a_forgotten_peer_that_is_listed_again_begins_anew() -> None:
    a, b, pump = pair()
    a.send("b", b"1", queue="other")
    pump.run()
    forget(a, "b")
    forget(b, "a")
    pump.connect()
    a.send("b", b"2")
    pump.run()
    b.turn()
    row = b.take()
    assert (row.seq, row.redelivered, row.attempts) == (1, False, 1)
    b.finish(row, HANDLED)
    pump.run()
    assert a.outcomes()[-1] == (1, "HANDLED", None)
    assert b.engine.stats()["inbox_messages"] == 1


@pytest.mark.parametrize("accept", ["listed", "any"])
def test_one_that_returns_all_the_same_is_served_again(accept: str) -> None:
    """Only one side forgot."""
    a, b, pump = pair(accept=accept)
    a.send("b", b"1", b"2")
    b.send("a", b"3", queue="other")
    pump.run()
    b.turn()
    b.finish(b.take(), HANDLED)
    pump.run()
    forget(b, "a")
    b.turn([], c.Connect("a", None))
    pump.pass_s(3)
    assert a.engine.channels["b"].sessions.open
    for _ in range(5):
        while (row := next_row(b)) is not None:
            assert row.seq == 2 or row.redelivered
            b.finish(row, HANDLED)
            pump.run()
        pump.pass_s(1)
    outcomes = {seq: outcome for seq, outcome, _ in a.outcomes()}
    assert outcomes[1] == "HANDLED"
    assert outcomes[2] in ("HANDLED", "UNCERTAIN")
    a.send("b", b"4")
    pump.pass_s(2)
    assert a.engine.stats()["outbox_messages"] == 1
    row = next_row(b)
    assert row is not None
    b.finish(row, HANDLED)
    pump.run()
    assert a.engine.stats()["outbox_messages"] == 0
    assert all_is_well(a)
    assert all_is_well(b)


def next_row(host: Host) -> Row | None:
    host.turn()
    return host.buffers[QUEUE].take(host.now().store_us)


def test_a_connected_peer_is_forgotten_with_its_timers() -> None:
    a, _b, pump = pair(give_up_after_s=30.0)
    a.send("b", b"1", deadline_us=START_US + 60_000_000)
    pump.run(keep=lambda host, frame: frame.type != frames.ACK)
    forget(a, "b")
    assert a.engine.stats()["peers_connected"] == 0
    pump.pass_s(100)
    assert a.idle()
    assert [frames.decode(parts).type for _, parts in a.out if frames.decode(parts).type == frames.DATA] == []
    assert len(a.outcomes()) == 1
    assert all_is_well(a)


def test_under_relaxed_durability_the_answer_waits_for_a_flush() -> None:
    host = lonely(durability="relaxed")
    host.send("b", b"1")
    command = c.Forget("b")
    assert host.turn([], command) == [None]
    assert host.outcomes() == []
    host.turn(flush=True)
    assert host.answers[command] == 1
    assert len(host.outcomes()) == 1


def test_effects_are_answered_once() -> None:
    host = lonely()
    command = c.Forget("b")
    host.engine.begin(host.now(), 0)
    host.engine.command(command)
    effects: Effects = host.engine.finish()
    assert effects.replies == [(command, 0)]
    host._apply(effects)


def meet_anew(host: Host, name: str, pump: Pump, keep: Callable[[Host, frames.Frame], bool] = keep_all) -> None:
    """Forget, and know again at once."""
    dials = host.engine.channels[name].endpoint
    forget(host, name)
    host.turn([], c.Connect(name, dials))
    pump.pass_s(10, keep)


def silent(name: str) -> Callable[[Host, frames.Frame], bool]:
    """What this host acknowledges and settles is lost."""
    return lambda host, frame: host.name != name or frame.type not in (frames.ACK, frames.DATA)


@pytest.mark.parametrize("times", [1, 2, 3])
@pytest.mark.parametrize("who", ["dialler", "dialled", "both dial"])
def test_what_was_sent_to_one_that_forgot_is_in_doubt_though_nothing_was_acknowledged(times: int, who: str) -> None:
    """However often it forgets in one life."""
    time = Time()
    a, b = Host("a", time), Host("b", time)
    b.serve()
    pump = Pump(a, b) if who == "dialled" else Pump(b, a)
    pump.connect(both=who == "both dial")
    for seq in range(1, times + 1):
        a.send("b", b"%d" % seq)
        pump.run(keep=silent("b"))
        lane = next(lane for lane in a.engine.shared.out_lanes.values() if lane.queue == QUEUE)
        assert lane.acked < lane.sent_upto
        meet_anew(b, "a", pump, silent("b"))
        assert lane.doubt_upto == lane.sent_upto == seq
    a.send("b", b"later")
    pump.pass_s(3)
    rows = []
    while (row := next_row(b)) is not None:
        rows.append((row.seq, row.doubt))
        b.finish(row, HANDLED)
    assert rows[-1] == (times + 1, False)
    assert a.kinds().count("peer_forgot") == times
    assert not {"old_copy", "peer_old_copy"}.intersection(a.kinds() + b.kinds())


@pytest.mark.parametrize("both_dial", [False, True])
def test_what_was_acknowledged_comes_again_too(both_dial: bool) -> None:
    time = Time()
    a, b = Host("a", time), Host("b", time)
    b.serve()
    pump = Pump(b, a)
    pump.connect(both=both_dial)
    a.send("b", b"1", b"2")
    b.send("a", b"3")
    pump.pass_s(1)
    assert [lane.acked for lane in a.engine.shared.out_lanes.values()] == [2]
    meet_anew(b, "a", pump)
    assert not {"old_copy", "peer_old_copy"}.intersection(a.kinds() + b.kinds())
    rows = []
    while (row := next_row(b)) is not None:
        rows.append((row.seq, row.doubt))
        b.finish(row, HANDLED)
    assert rows == [(1, True), (2, True), (1, True), (2, True)]
    pump.pass_s(1)
    assert a.engine.stats()["outbox_messages"] == 0


@pytest.mark.parametrize("who", ["dialler", "dialled"])
def test_a_first_contact_that_is_lost_is_no_forgetting(who: str) -> None:
    time = Time()
    a, b = Host("a", time), Host("b", time)
    sender, other = (a, b) if who == "dialler" else (b, a)
    other.serve()
    pump = Pump(a, b)
    a.turn([], c.Connect("b", "there"))
    b.turn([], c.Connect("a", None))
    sender.send(other.name, b"x")
    for most in range(8):
        pump.pass_s(20, first_of_all(most))
    pump.pass_s(100)
    row = next_row(other)
    assert row is not None
    assert not row.doubt
    assert "peer_forgot" not in a.kinds() + b.kinds()


def first_of_all(most: int) -> Callable[[Host, frames.Frame], bool]:
    """Only so many frames arrive."""
    arrived = iter(range(most))
    return lambda _host, _frame: next(arrived, None) is not None


def test_it_is_found_though_a_session_of_before_is_still_open() -> None:
    """The forgotten peer has two links; that one of them is gone it did not hear yet.

    What comes late over that one was said before, and does not count any more.
    """
    host = Host("a", Time())
    puppet = Puppet(host)
    stored = host.send("puppet", b"1")
    puppet.ack(stored.lane.id, 1)
    before = puppet.session
    puppet.link += 1
    puppet.knows = None
    puppet.commits += 1
    host.time.pass_s(0.1)
    puppet.dial(b"anewhalf")
    assert host.kinds() == ["peer_forgot"]
    puppet.link -= 1
    puppet.say(frames.ACK, [[stored.lane.id, 1, 10**6, 2**40, False]], session=before)
    puppet.link += 1
    assert stored.lane.acked == 0
    batches = [frame.fields[0] for frame in puppet.heard if frame.type == frames.DATA and frame.session[:1] == b"a"]
    assert [(data.first_seq, data.doubt_upto) for data in batches] == [(1, 1)]


def test_a_handshake_that_is_overtaken_does_not_count() -> None:
    """It was said before the two met, and comes on a link of its own after that."""
    host = Host("a", Time())
    puppet = Puppet(host)
    host.send("puppet", b"1")
    puppet.ack(0, 0)
    puppet.link += 1
    puppet.knows, puppet.commits = None, puppet.commits - 1
    puppet.dial(b"latehalf", floors=[(0xF0F0, 1)])
    assert len(host.engine.channels["puppet"].sessions.open) == 2
    assert host.kinds() == []


def test_what_came_before_its_sender_was_forgotten_may_come_again_and_says_so() -> None:
    a, b, pump = pair()
    a.send("b", b"1", not_before_us=START_US + 10_000_000)
    pump.run()
    meet_anew(b, "a", pump)
    pump.pass_s(10)
    rows = [row for row in (next_row(b), next_row(b)) if row is not None]
    assert [row.doubt for row in rows] == [True, True]


def test_a_recall_in_force_is_said_again_to_one_that_forgot() -> None:
    a, b, pump = pair()
    stored = a.send("b", b"1", b"2")
    pump.run()
    held = b.take()
    b.turn()
    a.recall(stored, 1)
    pump.run(keep=lambda host, frame: host.name != "b" or frame.type != frames.DATA)
    pump.pass_s(1, keep=lambda host, frame: host.name != "b" or frame.type != frames.DATA)
    assert held.withdrawn
    assert left(a)["WITHDRAWN"] == 1
    meet_anew(b, "a", pump)
    assert (1, "UNCERTAIN", "recalled") in a.outcomes()
