"""A power cut under "relaxed" durability takes the last moments, and both sides know that: nothing certain is told of
them, and what is repeated says so."""

from __future__ import annotations

from tests.core.pump import QUEUE, Host, Pump, Time
from zmqrel.core import commands as c
from zmqrel.core.buffer import HANDLED
from zmqrel.core.lane import MOST_UNFLUSHED


def relaxed(most_messages: int = 10_000_000) -> tuple[Host, Host, Pump]:
    """Two connected hosts, with everything flushed."""
    time = Time()
    a = Host("a", time, durability="relaxed", inbox_max_messages=most_messages)
    b = Host("b", time, durability="relaxed", inbox_max_messages=most_messages)
    b.serve()
    pump = Pump(a, b)
    pump.connect()
    flush(a, b)
    return a, b, pump


def flush(*hosts: Host) -> None:
    for host in hosts:
        host.turn(flush=True)


def cut(*hosts: Host) -> None:
    """Power fails: what was not flushed is lost."""
    for host in hosts:
        host.store.lose_unflushed()
        host.reopen("rebooted")


def recall(host: Host, stored: c.Stored, seq: int | None = None) -> None:
    """Answered after a flush."""
    host.turn([], c.Recall([(stored.lane.no, seq or stored.first)]))


def send_flushed_then_leave(a: Host, b: Host, pump: Pump) -> c.Stored:
    """A message whose acceptance is flushed, and whose leaving is not."""
    a.turn([], c.Disconnect("b"))
    stored = a.send("b", b"x")
    flush(a, b)
    pump.connect()
    assert b.engine.stats()["inbox_messages"] == 1
    return stored


def test_a_recall_before_contact_does_not_call_recalled_what_may_have_left() -> None:
    a, b, pump = relaxed()
    stored = send_flushed_then_leave(a, b, pump)
    cut(a)
    recall(a, stored)
    flush(a)
    assert a.outcomes() == [(1, "UNCERTAIN", "recalled")]
    assert bytes(b.take().body) == b"x"


def test_what_is_sent_after_the_cut_is_recalled_for_certain() -> None:
    a, b, pump = relaxed()
    send_flushed_then_leave(a, b, pump)
    cut(a)
    later = a.send("b", b"y")
    recall(a, later)
    flush(a)
    assert a.outcomes() == [(later.first, "RECALLED", "recalled")]


def test_a_repeat_says_so_though_both_forgot() -> None:
    a, b, pump = relaxed()
    send_flushed_then_leave(a, b, pump)
    assert not b.take().doubt
    cut(a, b)
    pump.connect()
    pump.pass_s(1)
    row = b.take()
    assert bytes(row.body) == b"x"
    assert row.doubt
    b.finish(row, HANDLED)
    pump.pass_s(1)
    assert a.outcomes() == [(1, "HANDLED", None)]


def test_a_repeat_says_so_though_only_its_receiver_forgot() -> None:
    a, b, pump = relaxed()
    a.send("b", b"x")
    flush(a)
    pump.run()
    assert not b.take().doubt
    cut(b)
    a.reopen()  # a crash: it does not know what it heard of b last
    pump.connect()
    pump.pass_s(1)
    assert b.take().doubt


def test_both_say_that_they_may_be_old_until_the_other_has_taken_it() -> None:
    a, b, pump = relaxed()
    cut(a, b)
    pump.connect()
    pump.pass_s(1)
    assert "peer_old_copy" in a.kinds()
    assert "peer_old_copy" in b.kinds()
    assert not any(host.engine.channels[other].healing.i_am_old for host, other in ((a, "b"), (b, "a")))
    told = len(a.events), len(b.events)
    a.reopen(), b.reopen()
    pump.connect()
    pump.pass_s(1)
    assert (len(a.events), len(b.events)) == told, "it is said once"


def test_a_peer_first_met_in_the_lost_moments_is_told_too() -> None:
    time = Time()
    a, b = Host("a", time), Host("b", time, durability="relaxed")
    b.serve()
    flush(b)
    pump = Pump(a, b)
    a.turn([], c.Connect("b", "there"))
    a.send("b", b"x")
    pump.connect()
    assert not b.take().doubt
    cut(b)
    a.reopen()
    assert not b.engine.channels, "nothing of it was flushed"
    pump.connect()
    pump.pass_s(1)
    assert b.take().doubt


def test_no_more_leaves_between_two_flushes_than_is_in_doubt_after_a_cut() -> None:
    a, _, pump = relaxed()
    a.turn([], c.Disconnect("b"))
    count = 2 * MOST_UNFLUSHED
    stored = a.send("b", *[b"x"] * count)
    flush(a)
    a.turn([], c.Connect("b", "there"))
    for _ in range(10_000):
        if not stored.lane.waits_for_flush:
            pump.step()
    assert stored.lane.sent_upto == MOST_UNFLUSHED, "the rest waits"
    assert not a.idle(), "for a flush that is due at once"
    cut(a)
    recall(a, stored, MOST_UNFLUSHED)
    recall(a, stored, MOST_UNFLUSHED + 1)
    flush(a)
    assert a.outcomes() == [
        (MOST_UNFLUSHED, "UNCERTAIN", "recalled"),
        (MOST_UNFLUSHED + 1, "RECALLED", "recalled"),
    ]


def test_a_flush_lets_the_rest_leave() -> None:
    a, b, pump = relaxed()
    count = 2 * MOST_UNFLUSHED + 10
    a.send("b", *[b"x"] * count)
    pump.pass_s(5)
    assert b.engine.stats()["inbox_messages"] == count


def test_under_fsync_a_cut_leaves_nothing_in_doubt_that_was_not_received() -> None:
    time = Time()
    a, b = Host("a", time), Host("b", time)
    b.serve(QUEUE)
    pump = Pump(a, b)
    a.turn([], c.Connect("b", "there"))
    stored = a.send("b", b"x")
    cut(a, b)
    recall(a, stored)
    assert a.outcomes() == [(1, "RECALLED", "recalled")]
    a.send("b", b"y")
    pump.connect()
    pump.pass_s(1)
    assert not b.take().doubt
    assert a.kinds() == b.kinds() == []
