"""What is left undone while a full store has little room left: see `Engine.set_scarce`."""

from __future__ import annotations

import pytest

from tests.core.pump import QUEUE, RETRY, Host, Time, pair
from tests.core.puppet import PATIENT, Puppet
from zmqrel.core import commands as c
from zmqrel.core import tables
from zmqrel.core.buffer import Failed, Handled
from zmqrel.core.dead import decode_dead
from zmqrel.core.entries import Withdraw
from zmqrel.core.row import Place
from zmqrel.core.rows import Policy
from zmqrel.retry import Retry


def asked(puppet: Puppet) -> list[int]:
    """Numbers of the messages that the puppet was asked to end."""
    puppet.listen()
    ranges = [pair for entry in puppet.told if isinstance(entry, Withdraw) for pair in entry.ranges]
    return [seq for first, last in ranges for seq in range(first, last + 1)]


def test_nobody_is_asked_for_what_ran_out_of_time_but_what_never_left_ends() -> None:
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host)
    deadline_us = host.now().store_us + 1_000_000
    host.send("puppet", b"sent", deadline_us=deadline_us)
    host.turn([], c.Connect("nobody", None))
    host.send("nobody", b"unsent", deadline_us=deadline_us)
    host.engine.set_accepting(False)
    host.engine.set_scarce(True)
    host.time.pass_s(1.001)
    host.turn()
    host.turn()
    assert asked(puppet) == []
    assert [outcome for _, outcome, _ in host.outcomes()] == ["EXPIRED"]
    host.engine.set_scarce(False)
    host.time.pass_s(1)
    host.turn()
    assert asked(puppet) == [1]


def test_a_full_store_asks_for_a_few_at_a_time() -> None:
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host)
    host.send("puppet", *[b"x"] * 120, deadline_us=host.now().store_us + 1_000_000)
    host.engine.set_accepting(False)
    host.time.pass_s(1.001)
    counts = []
    for _ in range(3):
        host.turn()
        counts.append(len(asked(puppet)))
    assert counts == [50, 100, 120]


SELDOM = Retry.fixed(1000)


def wary(*bodies: bytes, retry: Retry = SELDOM) -> Host:
    """A receiver with messages, whose store has little room left."""
    a, b, pump = pair()
    b.serve(QUEUE, Policy(retry))
    for body in bodies:
        a.send("b", body)
    pump.run()
    assert len(b.buffers[QUEUE]) == min(4, len(bodies))
    b.engine.set_accepting(False)
    b.engine.set_scarce(True)
    b.turn()
    return b


def waiting(host: Host) -> int:
    """How many messages there are for workers after the next turn."""
    host.turn()
    return sum(row.messages for row in host.buffers[QUEUE]._rows if row.place is Place.CLAIMED)


def test_one_message_at_a_time_waits_for_workers() -> None:
    """Also beside one that is never settled."""
    host = wary(b"1", b"2", b"3", b"4", b"5")
    hanging = host.take()
    for body in (b"2", b"3", b"4", b"5"):
        assert waiting(host) == 1
        assert waiting(host) == 1
        row = host.take()
        assert row.body == body
        host.finish(row, Handled())
    assert host.engine.stats()["inbox_messages"] == 1
    assert hanging.body == b"1"


def test_a_pause_is_of_its_queue_and_the_next_turn_is_due_at_its_end() -> None:
    a, b, pump = pair()
    for queue in (QUEUE, "other"):
        b.serve(queue, Policy(SELDOM))
        for _ in range(6):
            a.send("b", b"x", queue=queue)
    pump.run()
    b.engine.set_accepting(False)
    b.engine.set_scarce(True)
    b.turn()
    first = b.take()
    b.turn()
    second = b.take()
    b.finish(first, Failed("down"))
    b.finish(second, Failed("down"))
    assert b.engine.pauses(QUEUE)
    assert not b.engine.pauses("other")
    assert b.take("other").body == b"x"
    b.fail()
    for queue, buffer in b.buffers.items():
        buffer.clear()
        b.engine.serve(queue, buffer, Policy(SELDOM))
    b._apply(b.engine.finish())
    b.engine.set_scarce(True)
    b.turn()
    assert b.engine.pauses(QUEUE), "also after a commit that failed"
    wake_us = b.engine.next_wake_us(b.now())
    assert wake_us is not None
    assert wake_us - b.now().mono_us <= 1_000_000


def test_the_more_attempts_fail_the_longer_nothing_is_tried_anew() -> None:
    host = wary(*[b"x"] * 6)
    for pause_s in (1, 2, 4):
        assert waiting(host) == 1
        host.finish(host.take(), Failed("down"))
        host.time.pass_s(pause_s - 0.001)
        assert waiting(host) == 0
        host.time.pass_s(0.002)
    assert waiting(host) == 1
    host.finish(host.take(), Handled())
    assert waiting(host) == 1, "what made room ends the pause"
    host.finish(host.take(), Failed("down"))
    assert waiting(host) == 0
    host.engine.set_scarce(False)
    assert waiting(host) == 1, "there is room again"


def test_what_failed_is_tried_again_meanwhile() -> None:
    host = wary(*[b"x"] * 6, retry=Retry.fixed(0.3))
    for attempt in (1, 2, 3):
        row = host.take()
        assert (row.seq, row.attempts) == (1, attempt)
        host.finish(row, Failed("down"))
        host.time.pass_s(0.301)
        assert waiting(host) == 1


@pytest.mark.parametrize(("scarce", "noted"), [(True, 0), (False, 2)])
def test_the_state_of_a_row_does_not_grow_with_its_attempts(scarce: bool, noted: int) -> None:
    host = wary(b"x", retry=RETRY)
    host.engine.set_scarce(scarce)
    for _ in range(2):
        host.turn()
        row = host.take()
        host.finish(row, Failed("down"))
        host.time.pass_s(1.001)
    state = host.engine._inbox.rows.state(row.lane.no, row.seq)
    assert state is not None
    assert (state.attempts, len(state.history)) == (2, noted)


def test_a_dead_letter_takes_the_place_of_older_ones() -> None:
    host = Host("a", Time())

    def expire(body: bytes) -> None:
        host.send("b", body, deadline_us=host.now().store_us + 1)
        host.time.pass_s(0.001)
        host.turn()

    def letters() -> list[bytes]:
        rows = host.store.scan(*tables.table_bounds(tables.DEAD), 100)
        return [decode_dead(data).record[20:21] for _, data in rows]

    host.turn([], c.Connect("b", None))
    for number in range(4):
        expire(b"%d" % number * 100)
    host.engine.set_scarce(True)
    expire(b"4" * 250)
    assert letters() == [b"2", b"3", b"4"]
    expire(b"5" * 10_000)
    assert letters() == [b"2", b"3", b"4"], "larger than all others together"
    assert host.engine.stats()["dead_dropped"] == 3
