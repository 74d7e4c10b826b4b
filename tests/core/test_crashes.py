"""Deaths of the process and of the machine: what the in-hand table tells the next life, and what is made of it (F9)."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from tests.core.pump import QUEUE, RETRY, Host, Time, pair
from tests.core.puppet import PATIENT, Puppet
from zmqrel.core import commands as c
from zmqrel.core import tables
from zmqrel.core.buffer import HANDLED, Failed, Handled, RetryAt
from zmqrel.core.engine import Engine, read_clock
from zmqrel.core.entries import Meta, encode_messages, encode_meta
from zmqrel.core.lane import DELAYED
from zmqrel.core.row import Row
from zmqrel.core.rows import Policy
from zmqrel.outcome import Cause
from zmqrel.retry import Retry
from zmqrel.store import MemoryInHand, MemoryStore


def receiver(*bodies: bytes, policy: Policy | None = None, **meta: Any) -> Host:
    """A host that received these and serves them."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve(QUEUE, policy)
    puppet.data(1, *encode_messages(bodies, host.now().store_us, 0, encode_meta(Meta(**meta))))
    return host


def settled(host: Host) -> list[tuple[int, str, str | None, bool]]:
    """What the host has to tell its sender after a restart."""
    puppet = Puppet(host, dial=False)
    puppet.session = b"later___"
    puppet.dial(b"later___")
    return puppet.settlements()


def next_row(host: Host) -> Row | None:
    host.turn()
    return host.buffers[QUEUE].take(host.now().store_us)


def load_anew(host: Host, row: Row) -> None:
    """As after a commit that failed, while a worker has this row."""
    old, buffer = host.engine, host.buffers[QUEUE]
    host.store.abort()
    buffer.clear()
    host.engine = type(old)("b", host.options, old.shared.rng, old.shared.random_id, host.store, host.now())
    host.engine.begin(host.now(), 0)
    host.engine.replace(old, [row])
    host.engine.serve(QUEUE, buffer, Policy(RETRY))
    host._apply(host.engine.finish())


def test_what_nobody_had_in_hand_is_handed_over_as_if_nothing_had_been() -> None:
    host = receiver(b"1", b"2")
    host.reopen()
    row = next_row(host)
    assert row is not None
    assert (bytes(row.body), row.attempts, row.redelivered) == (b"1", 1, False)


def test_what_was_with_a_worker_is_handed_over_again_and_says_so() -> None:
    host = receiver(b"1", b"2", b"3")
    host.take(), host.take()
    host.reopen()
    rows = []
    while (row := next_row(host)) is not None:
        rows.append((bytes(row.body), row.attempts, row.redelivered))
        host.finish(row, HANDLED)
    assert sorted(rows) == [(b"1", 2, True), (b"2", 2, True), (b"3", 1, False)]


def test_a_result_that_was_not_committed_is_not_known_and_the_row_is_no_suspect() -> None:
    host = receiver(b"1", b"2")
    row = host.take()
    host.buffers[QUEUE].finish(row, HANDLED)
    host.reopen()
    first, second = next_row(host), next_row(host)
    assert first is not None
    assert second is not None, "nothing is held back"
    assert {(bytes(r.body), r.redelivered) for r in (first, second)} == {(b"1", True), (b"2", False)}


def test_suspects_are_handed_over_one_at_a_time_and_nothing_else_meanwhile() -> None:
    host = receiver(b"1", b"2", b"3")
    host.serve("other")
    host.take(), host.take()
    host.reopen()
    puppet = Puppet(host)
    puppet.data(1, *encode_messages([b"x"], host.now().store_us, 0, b""), lane_id=5, queue="other")
    first = next_row(host)
    assert first is not None
    assert next_row(host) is None
    assert host.buffers["other"].take(host.now().store_us) is None
    assert host.idle(), "waiting for the suspect is no reason to be busy"
    host.finish(first, HANDLED)
    second = next_row(host)
    assert second is not None
    assert {first.seq, second.seq} == {1, 2}
    assert next_row(host) is None
    host.finish(second, HANDLED)
    assert next_row(host) is not None
    assert host.buffers["other"].take(host.now().store_us) is not None


def test_the_message_that_kills_is_exhausted_and_its_neighbours_are_not_blamed() -> None:
    host = receiver(b"good", b"killer", b"also good", policy=Policy(Retry.fixed(1.0, max_attempts=3)))
    good, killer = host.take(), host.take()
    attempts = [killer.attempts]
    assert bytes(good.body) == b"good"
    host.reopen()
    for _ in range(10):
        row = next_row(host)
        assert row is not None
        if bytes(row.body) != b"killer":
            host.finish(row, HANDLED)
            continue
        attempts.append(row.attempts)
        host.reopen()
        if host.engine.stats()["inbox_messages"] == 1 and attempts[-1] == 3:
            host.turn()
            break
    assert attempts == [1, 2, 3]
    row = next_row(host)
    assert row is not None
    assert (bytes(row.body), row.redelivered) == (b"also good", False)
    assert (2, "EXHAUSTED", "crash", True) in settled(host)
    assert host.engine.stats()["dead_messages"] == 1


def test_two_that_ran_together_are_not_exhausted_by_a_crash() -> None:
    host = receiver(b"1", b"2", policy=Policy(Retry.fixed(1.0, max_attempts=1)))
    host.take(), host.take()
    host.reopen()
    row = next_row(host)
    assert row is not None
    assert row.attempts == 2
    assert host.engine.stats()["dead_messages"] == 0


def test_a_queue_of_receive_is_not_gated() -> None:
    host = receiver(b"1", b"2", policy=Policy(RETRY, push=False))
    host.serve("other")
    puppet = Puppet(host)
    puppet.data(1, *encode_messages([b"x"], host.now().store_us, 0, b""), lane_id=5, queue="other")
    host.take()
    host.reopen()
    host.turn()
    assert host.buffers["other"].take(host.now().store_us) is not None
    first, second = next_row(host), next_row(host)
    assert first is not None
    assert (first.seq, first.redelivered) == (1, True), "the suspect comes first"
    assert second is not None


def test_a_suspect_of_receive_is_handed_over_once_though_another_is_out() -> None:
    host = receiver(b"1")
    host.serve("pull", Policy(RETRY, push=False))
    puppet = Puppet(host)
    puppet.data(1, *encode_messages([b"x"], host.now().store_us, 0, b""), lane_id=5, queue="pull")
    host.take(), host.take("pull")
    host.reopen()
    host.turn()
    handled, received = host.take(), host.take("pull")
    assert (handled.suspect, received.suspect) == (True, True)
    host.finish(handled, HANDLED)
    assert host.buffers["pull"].take(host.now().store_us) is None
    host.finish(received, HANDLED)
    assert host.engine.stats()["inbox_messages"] == 0


def test_a_suspect_whose_queue_nobody_serves_holds_nothing_back() -> None:
    host = receiver(b"1")
    host.serve("other")
    puppet = Puppet(host)
    puppet.data(1, *encode_messages([b"x"], host.now().store_us, 0, b""), lane_id=5, queue="other")
    host.take()
    del host.served[QUEUE]
    host.reopen()
    host.turn()
    assert host.buffers["other"].take(host.now().store_us) is not None


def with_a_late_suspect(*bodies: bytes) -> Host:
    """A host with a suspect in a queue that nobody serves yet, and these messages for the workers of another."""
    host = receiver(b"1")
    host.serve("other")
    puppet = Puppet(host)
    puppet.data(1, *encode_messages(bodies, host.now().store_us, 0, b""), lane_id=5, queue="other")
    host.take()
    del host.served[QUEUE]
    host.reopen()
    host.turn()
    return host


@pytest.mark.parametrize("asked", [False, True], ids=["claimed", "asked about"])
def test_a_suspect_that_can_be_offered_late_only_is_alone_all_the_same(asked: bool) -> None:
    host = with_a_late_suspect(b"x", b"y", b"z")
    other = host.buffers["other"]
    running = host.take("other")
    about = other.ask(host.now().store_us) if asked else None
    host.serve(QUEUE)
    suspect = next_row(host)
    assert suspect is not None
    assert suspect.suspect
    if about is not None:
        assert not other.admit(about, host.now().store_us)
    assert other.take(host.now().store_us) is None
    assert host.idle(), "waiting for the suspect is no reason to be busy"
    host.finish(running, HANDLED)
    assert other.take(host.now().store_us) is None
    host.finish(suspect, HANDLED)
    rest = [host.take("other"), host.take("other")]
    assert [(bytes(row.body), row.attempts, row.redelivered) for row in rest] == [(b"y", 1, False), (b"z", 1, False)]
    for row in rest:
        host.finish(row, HANDLED)
    assert host.engine.stats()["inbox_messages"] == 0


def test_the_last_message_that_is_asked_about_is_taken_back_too() -> None:
    host = with_a_late_suspect(b"x")
    other = host.buffers["other"]
    about = other.ask(host.now().store_us)
    assert about is not None
    host.serve(QUEUE)
    suspect = next_row(host)
    assert suspect is not None
    assert not other.admit(about, host.now().store_us)
    host.finish(suspect, HANDLED)
    assert bytes(host.take("other").body) == b"x"


@pytest.mark.parametrize("workers", [1, 2])
def test_a_late_suspect_waits_for_a_worker_and_holds_its_own_queue_only_meanwhile(workers: int) -> None:
    host = receiver(b"killer", policy=Policy(RETRY, workers))
    host.serve("other")
    host.take()
    host.reopen()
    claims, healing = host.engine._inbox.claims, host.engine.channels["puppet"].healing
    claims.recall_claims("puppet")  # as healing does it, while the STATE of the sender is awaited
    healing.awaits_state = True
    second = Puppet(host, "second")
    now_us = host.now().store_us
    second.data(1, *encode_messages([b"slow", b"next"], now_us, 0, b""), lane_id=50)
    second.data(1, *encode_messages([b"x", b"y"], now_us, 0, b""), lane_id=51, queue="other")
    slow = host.take()
    healing.awaits_state = False
    host.engine.begin(host.now(), 0)
    claims.rewind_passed()
    host._apply(host.engine.finish())
    queue, other = host.buffers[QUEUE], host.buffers["other"]
    if workers == 1:
        assert queue.take(now_us) is None
        assert bytes(host.take("other").body) == b"x", "the worker may be busy for long"
        assert host.idle(), "waiting for the worker is no reason to be busy"
        host.finish(slow, HANDLED)
    suspect = queue.take(now_us)
    assert suspect is not None
    assert (bytes(suspect.body), suspect.suspect) == (b"killer", True)
    assert (queue.take(now_us), other.take(now_us)) == (None, None)
    host.finish(suspect, HANDLED)
    assert bytes(host.take().body) == b"next"
    assert other.take(now_us) is not None


def test_a_suspect_that_has_returned_holds_nobody_back_when_the_core_is_loaded_anew() -> None:
    host = receiver(b"1", b"2")
    host.take()
    host.reopen()
    suspect = next_row(host)
    assert suspect is not None
    buffer = host.buffers[QUEUE]
    buffer.returned(suspect)
    host.turn()
    host.finish(host.take(), HANDLED)
    load_anew(host, suspect)
    Puppet(host).data(3, *encode_messages([b"3"], host.now().store_us, 0, b""))
    assert next_row(host) is not None


@pytest.mark.parametrize("how", ["recalled", "overdue"])
def test_a_suspect_that_is_withdrawn_lets_the_others_go_on(how: str) -> None:
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve()
    now_us = host.now().store_us
    record = encode_messages([b"1"], now_us, now_us + 10_000_000, b"")[0]
    puppet.data(1, record, *encode_messages([b"2"], now_us, 0, b""))
    host.take()
    host.reopen()
    host.turn()
    assert len(host.buffers[QUEUE]) == 1
    puppet = Puppet(host)
    if how == "recalled":
        puppet.withdraw(1)
    else:
        host.time.pass_s(10.001)
        host.turn()
    reason = "recalled" if how == "recalled" else "deadline"
    assert puppet.settlements() == [(1, "EXHAUSTED", reason, True)]
    row = next_row(host)
    assert row is not None
    assert bytes(row.body) == b"2"


def test_a_machine_that_went_down_makes_every_row_redelivered_and_none_a_suspect() -> None:
    host = receiver(b"1", b"2", b"3")
    host.take()
    host.reopen("rebooted")
    rows = [next_row(host) for _ in range(3)]
    assert [(row.seq, row.redelivered or row.doubt, row.attempts) for row in rows if row is not None] == [
        (seq, True, 1) for seq in (1, 2, 3)
    ]


def test_what_a_machine_took_down_is_uncertain_when_it_is_withdrawn() -> None:
    host = receiver(b"1")
    host.reopen("rebooted")
    puppet = Puppet(host)
    puppet.withdraw(1)
    assert puppet.settlements() == [(1, "UNCERTAIN", "recalled", False)]


@pytest.mark.parametrize("life", ["rebooted", "rebooted and crashed"])
def test_a_delayed_message_is_in_doubt_after_a_reboot_wherever_the_clock_stands(life: str) -> None:
    """It bears the time at which it became due; a wall clock that was set back puts the store clock before it."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve()
    start_us = host.now().store_us
    meta = encode_meta(Meta(not_before_us=start_us + 10_000_000))
    puppet.data(1, *encode_messages([b"late"], start_us, 0, meta), lane_id=5, kind=DELAYED)
    host.time.pass_s(10)
    host.turn()
    assert bytes(host.take().body) == b"late"
    host.ahead_us = -9_000_000  # nothing was committed since, so the clock of the next life begins there
    host.in_hand = MemoryInHand()
    host.reopen("rebooted")
    if life == "rebooted and crashed":
        host.reopen("crashed")
    host.time.pass_s(9)
    host.turn()
    row = host.take()
    assert (bytes(row.body), row.doubt) == (b"late", True)


def test_what_comes_after_the_reboot_is_not_in_doubt() -> None:
    host = receiver(b"1")
    host.reopen("rebooted")
    puppet = Puppet(host)
    host.time.pass_s(1)
    puppet.data(2, *encode_messages([b"2"], host.now().store_us, 0, b""))
    puppet.withdraw(2)
    assert puppet.settlements() == [(2, "RECALLED", "recalled", False)]


def test_attempts_survive_a_retry_and_a_restart() -> None:
    host = receiver(b"1", policy=Policy(Retry.fixed(1.0, max_attempts=3)))
    host.finish(host.take(), Failed("first"))
    host.reopen()
    host.time.pass_s(1.001)
    row = next_row(host)
    assert row is not None
    assert row.attempts == 2
    host.finish(row, Failed("second"))
    host.reopen("clean")
    host.time.pass_s(1.001)
    row = next_row(host)
    assert row is not None
    host.finish(row, Failed("third"))
    assert settled(host) == [(1, "EXHAUSTED", "third", True)]


def test_closing_while_a_worker_is_busy_hands_over_again_and_says_so() -> None:
    host = receiver(b"1")
    row = host.take()
    host.engine.begin(host.now(), 0)
    host.engine.leave([row])
    host._apply(host.engine.finish())
    host.in_hand.clear()
    host.reopen("clean")
    again = next_row(host)
    assert again is not None
    assert (again.attempts, again.redelivered) == (2, True)


def test_a_withdrawal_while_it_ran_still_counts_after_the_crash() -> None:
    host = receiver(b"1")
    row = host.take()
    puppet = Puppet(host)
    puppet.withdraw(1)
    assert row.withdrawn is Cause.RECALL
    host.reopen()
    assert next_row(host) is None, "no further attempt after a recall (F10)"
    assert (1, "EXHAUSTED", "recalled", True) in settled(host)


def test_a_sender_that_died_sends_again_what_was_not_acknowledged() -> None:
    a, b, pump = pair()
    a.send("b", b"1", b"2")
    a.out.clear()
    a.reopen()
    pump.connect()
    pump.pass_s(1)
    assert [bytes(b.take().body) for _ in range(2)] == [b"1", b"2"]


def test_a_recall_is_in_force_across_the_death_of_its_sender() -> None:
    a, b, pump = pair()
    stored = a.send("b", b"1")
    a.recall(stored)
    a.out.clear()  # neither the message nor its withdrawal arrives
    a.reopen()
    pump.connect()
    pump.pass_s(1)
    assert b.buffers[QUEUE].take(b.now().store_us) is None
    assert a.outcomes() == [(1, "RECALLED", "recalled")]


def test_what_may_have_left_is_asked_of_the_receiver_even_if_it_never_left() -> None:
    """F1: the mark was committed, the process died before the frame left, and then comes the recall."""
    a, _, _ = pair()
    stored = a.send("b", b"1")
    a.reopen()
    a.turn([], c.Connect("b", None))
    found = a.recall(c.Stored(a.engine.shared.out_lanes[stored.lane.no], 1, 1))
    assert found is not None
    assert (found.ended, found.withdrawn) == (None, Cause.RECALL)


def test_rows_with_workers_stay_with_them_when_the_core_is_loaded_anew() -> None:
    host = receiver(b"1", b"2")
    row = host.take()
    load_anew(host, row)
    assert host.take().seq == 2, "the first is not handed over twice"
    host.finish(row, Handled())
    assert host.engine.stats()["inbox_messages"] == 1


def lives(host: Host) -> list[bytes]:
    return host.store.keys(*tables.table_bounds(tables.INSTANCE), 100)


def test_a_core_that_is_loaded_anew_goes_on_with_the_same_life() -> None:
    """However often a commit fails: a row for each would fill what room a store has left."""
    host = receiver(b"1")
    first = host.engine.shared.ledger.instance
    host.reopen()
    begun = host.engine.shared.ledger.instance
    for _ in range(3):
        host.fail()
        host.turn()
        assert host.engine.shared.ledger.instance == begun
    assert lives(host) == [tables.numbered(tables.INSTANCE, first)]


def test_a_life_whose_first_commit_failed_still_tells_of_the_one_before() -> None:
    host = receiver(b"1")
    first = host.engine.shared.ledger.instance
    failed = Engine("b", host.options, Random(1), lambda: 77, host.store, host.now())
    failed.begin(host.now(), 0)
    failed.finish()
    host.store.abort()
    host.engine = Engine("b", host.options, Random(1), lambda: 78, host.store, host.now())
    host.engine.begin(host.now(), 0)
    host.engine.replace(failed, [])
    host._apply(host.engine.finish())
    assert host.engine.shared.ledger.instance == 77
    assert lives(host) == [tables.numbered(tables.INSTANCE, first)]


def test_a_row_of_a_lane_that_is_gone_is_nobodys() -> None:
    host = receiver(b"1")
    row = host.take()
    fresh = Host("b", host.time)
    fresh.engine.begin(host.now(), 0)
    fresh.engine.replace(host.engine, [row])
    fresh.engine.finished([(row, RetryAt(0, None))])
    assert fresh.engine.finish().freed == [(row.slot, 1)]


def test_the_store_clock_of_the_next_life_is_made_of_what_the_last_commit_held() -> None:
    host = Host("a", Time())
    assert read_clock(MemoryStore()) == (0, 0)
    host.time.pass_s(5)
    host.turn([], c.Connect("b", None))
    assert read_clock(host.store) == (host.now().store_us, host.now().store_us)


def test_a_worker_that_had_an_older_attempt_in_hand_is_counted_once() -> None:
    host = receiver(b"1")
    host.in_hand.take(host.take().lane.no, 1, 2)
    host.reopen()
    row = next_row(host)
    assert row is not None
    assert row.attempts == 3


def test_a_slot_of_a_row_that_is_settled_blames_nobody() -> None:
    host = receiver(b"1", b"2")
    row = host.take()
    host.finish(row, HANDLED)
    host.in_hand.take(row.lane.no, 1, 1)
    host.in_hand.take(999, 1, 1)
    host.reopen()
    row_2 = next_row(host)
    assert row_2 is not None
    assert (row_2.seq, row_2.redelivered) == (2, False)


def test_a_suspect_that_was_settled_meanwhile_holds_nothing_back() -> None:
    host = receiver(b"1", b"2")
    host.take()
    served = host.served.pop(QUEUE)
    host.reopen()
    puppet = Puppet(host)
    puppet.withdraw(1)
    host.serve(QUEUE, served)
    row = next_row(host)
    assert row is not None
    assert (row.seq, row.redelivered) == (2, False)


def test_a_suspect_still_with_its_worker_when_the_core_is_loaded_anew_stays_alone() -> None:
    host = receiver(b"1", b"2")
    host.take()
    host.reopen()
    suspect = next_row(host)
    assert suspect is not None
    load_anew(host, suspect)
    assert host.buffers[QUEUE].take(host.now().store_us) is None
    host.finish(suspect, HANDLED)
    assert host.take().seq == 2
