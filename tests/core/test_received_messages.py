"""What becomes of a message at its receiver: state by event, with a peer made by hand as the sender."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.core.pump import Host, Time
from tests.core.puppet import LINK, MESSAGES, PATIENT, Puppet
from zmqrel.core import frames, tables
from zmqrel.core.buffer import Failed, Handled, MoveTo, Rejected, Result, RetryAt
from zmqrel.core.entries import Meta, Notice, Settle, Withdraw, encode_messages, encode_meta
from zmqrel.core.lane import DATA
from zmqrel.core.row import Row
from zmqrel.outcome import Cause

DEADLINE_S = 10


class Case:
    """A receiver with one message that is looked at, brought into a state."""

    def __init__(self, state: str, **meta: Any) -> None:
        self.time = Time()
        self.host = Host("b", self.time, **PATIENT)
        self.puppet = Puppet(self.host)
        now_us = self.host.now().store_us
        body = encode_messages([b"body"], now_us, now_us + DEADLINE_S * 1_000_000, encode_meta(Meta(**meta)))
        self.record = body[0]
        self.row: Row | None = None
        getattr(self, state)()
        self.puppet.forget()

    # ------------------------------------------------------------------------------------------------- states

    def was_not_received(self) -> None:
        self.host.serve()

    def was_in_the_inbox(self) -> None:
        self.puppet.data(1, self.record)

    def was_claimed(self) -> None:
        self.host.serve()
        self.puppet.data(1, self.record)
        assert len(self.host.buffers["work"]) == 1

    def was_running(self) -> None:
        self.was_claimed()
        self.row = self.host.take()

    def was_done(self) -> None:
        """The handler returned; the loop has not looked yet."""
        self.was_running()
        assert self.row is not None
        self.host.buffers["work"].finish(self.row, Handled())

    def waited_for_a_retry(self) -> None:
        self.was_running()
        self.finished(Failed("oops"))

    def was_settled(self) -> None:
        self.was_running()
        self.finished(Handled())

    # ------------------------------------------------------------------------------------------------- events

    def withdrawn(self, cause: Cause) -> None:
        self.puppet.withdraw(1, cause=cause)

    def overdue(self) -> None:
        self.time.pass_s(DEADLINE_S + 0.001)
        self.host.turn()

    def repeated(self) -> None:
        self.puppet.data(1, self.record)

    def finished(self, result: Result) -> None:
        assert self.row is not None
        self.host.finish(self.row, result)

    # ---------------------------------------------------------------------------------------------- judgement

    def told(self) -> list[tuple[str, str | None, bool]]:
        """Outcome, reason, handed over; at most one is ever told."""
        told = [(outcome, reason, handed) for _, outcome, reason, handed in self.puppet.settlements()]
        assert len(told) <= 1
        return told

    def noticed(self) -> bool:
        self.puppet.listen()
        return any(isinstance(entry, Notice) and entry.seq == 1 for entry in self.puppet.told)

    def handed_over_next(self) -> Row | None:
        """What a worker gets now, retries that are due included."""
        self.time.pass_s(2)
        if not self.host.buffers:
            self.host.serve()
        self.host.turn()
        return self.host.buffers["work"].take(self.host.now().store_us)


NEVER_HANDED = ["was_not_received", "was_in_the_inbox", "was_claimed"]
STATES = [*NEVER_HANDED, "was_running", "was_done", "waited_for_a_retry", "was_settled"]
CAUSES = {
    Cause.RECALL: ("RECALLED", "recalled"),
    Cause.DEADLINE: ("EXPIRED", "deadline"),
    Cause.GIVE_UP: ("EXHAUSTED", "gave up"),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("cause", CAUSES)
def test_withdrawal(state: str, cause: Cause) -> None:
    case = Case(state)
    case.withdrawn(cause)
    outcome, reason = CAUSES[cause]
    expected: dict[str, list[tuple[str, str | None, bool]]] = {
        **{each: [(outcome, reason, False)] for each in NEVER_HANDED},
        "was_running": [],
        "was_done": [("HANDLED", None, True)],
        "waited_for_a_retry": [("EXHAUSTED", reason, True)],
        "was_settled": [],
    }
    assert case.told() == expected[state]
    assert case.noticed() == (state in ("was_running", "was_done"))
    assert case.row is None or (case.row.withdrawn is cause) == (state in ("was_running", "was_done"))
    if state == "was_not_received":
        case.repeated()  # the message comes after its withdrawal
    assert case.handed_over_next() is None
    assert case.host.engine.stats()["inbox_messages"] == (state == "was_running")


@pytest.mark.parametrize("state", STATES)
def test_the_deadline_passes(state: str) -> None:
    case = Case(state)
    case.overdue()
    expected: dict[str, list[tuple[str, str | None, bool]]] = {
        "was_not_received": [],
        "was_in_the_inbox": [("EXPIRED", "deadline", False)],
        "was_claimed": [("EXPIRED", "deadline", False)],
        "was_running": [],
        "was_done": [("HANDLED", None, True)],
        # Its second attempt was due long before, and waits with a worker's buffer for this turn.
        "waited_for_a_retry": [("EXHAUSTED", "deadline", True)],
        "was_settled": [],
    }
    assert case.told() == expected[state]
    assert not case.noticed()
    if state == "was_running":
        assert case.row is not None
        assert case.row.withdrawn is Cause.DEADLINE
    assert case.handed_over_next() is None


@pytest.mark.parametrize("state", STATES[1:])
def test_a_repeated_message_changes_nothing_but_is_acknowledged_again(state: str) -> None:
    case = Case(state)
    stats = case.host.engine.stats()
    case.repeated()
    acks = [ack for frame in case.puppet.heard if frame.type == frames.ACK for ack in frame.fields[0]]
    assert [(ack.lane_id, ack.floor, ack.gap) for ack in acks] == [(MESSAGES, 1, False)]
    after = case.host.engine.stats()
    assert after["received"] == stats["received"] == 1
    assert case.told() == ([("HANDLED", None, True)] if state == "was_done" else [])


def test_what_is_overdue_when_it_comes_is_not_handed_over() -> None:
    case = Case("was_not_received")
    case.time.pass_s(DEADLINE_S + 0.001)
    case.repeated()
    assert case.told() == [("EXPIRED", "deadline", False)]
    assert case.handed_over_next() is None


RESULTS: dict[str, tuple[Result, tuple[str, str | None] | None]] = {
    "handled": (Handled(), ("HANDLED", None)),
    "rejected": (Rejected("no"), ("REJECTED", "no")),
    "failed": (Failed("oops"), None),
    "retry later": (RetryAt(5_000_000, None), None),
    "moved": (MoveTo("elsewhere"), None),
}


@pytest.mark.parametrize("result", RESULTS)
def test_what_the_handler_says_is_the_outcome(result: str) -> None:
    case = Case("was_running")
    case.finished(RESULTS[result][0])
    ended = RESULTS[result][1]
    assert case.told() == ([(*ended, True)] if ended else [])
    assert case.host.engine.stats()["inbox_messages"] == (ended is None)
    assert case.host.in_hand.open() == []


@pytest.mark.parametrize("cause", [*CAUSES, None], ids=str)
@pytest.mark.parametrize("result", RESULTS)
def test_withdrawn_while_it_runs(result: str, cause: Cause | None) -> None:
    case = Case("was_running")
    if cause is None:
        case.overdue()
        cause = Cause.DEADLINE
    else:
        case.withdrawn(cause)
    case.finished(RESULTS[result][0])
    # A result that settles stands; an attempt that does not settle is the last.
    ended = RESULTS[result][1] or ("EXHAUSTED", cause.reason)
    assert case.told() == [(*ended, True)]
    assert case.handed_over_next() is None
    assert case.host.engine.stats()["inbox_messages"] == 0


def test_the_first_cause_is_the_reason() -> None:
    case = Case("was_running")
    case.withdrawn(Cause.RECALL)
    case.overdue()
    case.finished(Failed("oops"))
    assert case.told() == [("EXHAUSTED", "recalled", True)]


def test_a_second_withdrawal_of_what_never_came_says_nothing_new() -> None:
    case = Case("was_not_received")
    case.withdrawn(Cause.RECALL)
    case.withdrawn(Cause.DEADLINE)
    assert case.told() == [("RECALLED", "recalled", False)]


def test_the_void_of_a_withdrawn_message_takes_its_tombstone_along() -> None:
    case = Case("was_not_received")
    case.withdrawn(Cause.RECALL)
    assert len(tombstones(case.host)) == 1
    case.puppet.data(1, runs=[-1])
    assert tombstones(case.host) == []
    case.puppet.data(2, case.record)
    assert case.handed_over_next() is not None


def tombstones(host: Host) -> list[bytes]:
    return host.store.keys(*tables.table_bounds(tables.TOMBSTONE), 10)


def test_messages_between_withdrawn_ones_are_taken() -> None:
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve()
    puppet.withdraw(1, 3, 4)
    puppet.data(1, *encode_messages([b"1", b"2", b"3", b"4", b"5"], host.now().store_us, 0, b""))
    assert [bytes(host.take().body) for _ in range(2)] == [b"2", b"5"]
    assert sorted(seq for seq, _, _, _ in puppet.settlements()) == [1, 3, 4]
    assert tombstones(host) == []


def test_withdrawing_a_lane_not_heard_of_makes_it_known() -> None:
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve()
    entry = Withdraw(puppet.store_id, 0xBEEF, DATA, "work", [(1, 1)], Cause.RECALL)
    puppet.control(entry, entry._replace(store_id=1, lane_id=0xDEAD))
    puppet.data(1, *encode_messages([b"1", b"2"], host.now().store_us, 0, b""), lane_id=0xBEEF)
    puppet.data(1, *encode_messages([b"3"], host.now().store_us, 0, b""), lane_id=0xDEAD)
    assert [bytes(host.take().body) for _ in range(2)] == [b"2", b"3"], "another store's withdrawal has no say"


# --------------------------------------------------------------------------------------------- acceptance


def plain(host: Host, *bodies: bytes) -> list[bytes]:
    return encode_messages(bodies, host.now().store_us, 0, b"")


def open_host(**options: Any) -> tuple[Host, Puppet]:
    host = Host("b", Time(), **PATIENT, **options)
    puppet = Puppet(host)
    host.serve()
    puppet.types()
    return host, puppet


def last_ack(puppet: Puppet) -> frames.LaneAck:
    ack = puppet.last(frames.ACK).fields[0][0]
    assert isinstance(ack, frames.LaneAck)
    return ack


def test_a_gap_is_dropped_and_asked_for() -> None:
    host, puppet = open_host()
    puppet.data(2, *plain(host, b"2"))
    assert (last_ack(puppet).floor, last_ack(puppet).gap) == (0, True)
    assert host.engine.stats()["inbox_messages"] == 0
    puppet.data(1, *plain(host, b"1", b"2"))
    assert (last_ack(puppet).floor, last_ack(puppet).gap) == (2, False)


def test_of_an_overlapping_batch_the_news_are_taken() -> None:
    host, puppet = open_host()
    puppet.data(1, *plain(host, b"1", b"2"))
    puppet.data(1, *plain(host, b"1", b"4"), runs=[1, -2, 1])
    puppet.data(2, runs=[-4])
    assert last_ack(puppet).floor == 5
    assert [bytes(host.take().body) for _ in range(3)] == [b"1", b"2", b"4"]


def test_what_is_over_the_limit_is_left_out_and_granted_anew_when_there_is_room() -> None:
    host, puppet = open_host(inbox_max_messages=3)
    puppet.data(1, *plain(host, b"1", b"2", b"3", b"4", b"5"))
    ack = last_ack(puppet)
    assert (ack.floor, ack.gap, ack.grant_seq) == (3, True, 3)
    puppet.types()
    host.finish(host.take(), Handled())
    assert last_ack(puppet).grant_seq == 4
    puppet.data(4, *plain(host, b"4", b"5"))
    assert last_ack(puppet).floor == 4


def test_one_always_fits_an_empty_lane_however_large() -> None:
    host, puppet = open_host(inbox_max_bytes=100)
    puppet.data(1, *plain(host, b"x" * 1000))
    assert last_ack(puppet).floor == 1
    puppet.data(2, *plain(host, b"y"))
    assert (last_ack(puppet).floor, last_ack(puppet).gap) == (1, True)


def test_bytes_are_granted_too() -> None:
    host, puppet = open_host(inbox_max_bytes=100)
    puppet.data(1, *plain(host, b"x" * 30))
    ack = last_ack(puppet)
    assert ack.grant_bytes == 100 - 54
    puppet.data(2, *plain(host, b"y" * 10, b"z" * 10))
    assert last_ack(puppet).floor == 2


def test_a_full_store_takes_nothing_and_asks_again_later() -> None:
    host, puppet = open_host()
    host.engine.set_accepting(False)
    puppet.data(1, *plain(host, b"1"))
    assert (last_ack(puppet).floor, last_ack(puppet).gap) == (0, True)
    assert last_ack(puppet).grant_seq == 0
    host.engine.set_accepting(True)
    host.turn()
    assert last_ack(puppet).grant_seq > 0
    puppet.data(1, *plain(host, b"1"))
    assert bytes(host.take().body) == b"1"


def test_a_withdrawal_and_its_settlement_still_pass_through_a_full_store() -> None:
    host, puppet = open_host()
    puppet.data(1, *plain(host, b"1"))
    host.engine.set_accepting(False)
    puppet.withdraw(1)
    assert puppet.settlements() == [(1, "RECALLED", "recalled", False)]


def test_a_lane_that_nobody_serves_leaves_room_for_the_others() -> None:
    host, puppet = open_host(inbox_max_messages=40)
    host.serve("served")
    puppet.data(1, *plain(host, *[b"x"] * 15), lane_id=1, queue="unserved")
    puppet.data(1, *plain(host, *[b"x"]), lane_id=2, queue="served")
    puppet.data(16, *plain(host, *[b"x"] * 30), lane_id=1, queue="unserved")
    assert last_ack(puppet).gap
    puppet.data(2, *plain(host, b"y"), lane_id=2, queue="served")
    assert (last_ack(puppet).lane_id, last_ack(puppet).floor, last_ack(puppet).gap) == (2, 2, False)


def test_room_is_kept_for_a_queue_that_is_served_before_its_first_message() -> None:
    host, puppet = open_host(inbox_max_messages=40)
    host.serve("served")
    host.turn()
    for first in (1, 21):
        puppet.data(first, *plain(host, *[b"x"] * 20), lane_id=1, queue="unserved")
    assert last_ack(puppet).gap, "the other queues' halves of their shares are kept"
    puppet.data(1, *plain(host, *[b"y"] * 6), lane_id=2, queue="served")
    assert (last_ack(puppet).lane_id, last_ack(puppet).floor, last_ack(puppet).gap) == (2, 6, False)
    assert host.engine.stats()["inbox_messages"] <= 40


def test_who_fills_one_queue_beyond_its_share_keeps_that_of_its_other_queues() -> None:
    host, puppet = open_host(inbox_max_messages=240)
    second = Puppet(host, "second", dial=False)
    second.link = 70
    second.dial(b"second__")
    for sender, lane_id in ((puppet, 1), (second, 31)):
        for first in (1, 121):
            sender.data(first, *plain(host, *[b"x"] * 120), lane_id=lane_id, queue="unserved")
    puppet.data(1, *plain(host, *[b"y"] * 30), lane_id=2, queue="work")
    assert (last_ack(puppet).lane_id, last_ack(puppet).floor) == (2, 30), "a quarter of its half of the inbox"


def test_lanes_that_come_when_the_inbox_is_nearly_full_divide_what_is_left() -> None:
    host, puppet = open_host(inbox_max_messages=40)
    puppet.data(1, *plain(host, b"x"), lane_id=1, queue="served")
    puppet.data(1, *plain(host, *[b"x"] * 40), lane_id=2, queue="unserved")
    for lane_id in (3, 4):
        puppet.data(1, *plain(host, b"x"), lane_id=lane_id, queue=f"new{lane_id}")
    puppet.data(2, *plain(host, b"y", b"y"), lane_id=4, queue="new4")
    assert (last_ack(puppet).lane_id, last_ack(puppet).floor) == (4, 3)
    assert host.engine.stats()["inbox_messages"] <= 40


# ------------------------------------------------------------------------------------------- order and retry


def take_all(host: Host, queue: str = "work") -> list[str]:
    """Bodies in the order in which a worker gets them, each handled at once."""
    bodies = []
    while (row := host.buffers[queue].take(host.now().store_us)) is not None:
        bodies.append(bytes(row.body).decode())
        host.finish(row, Handled())
    return bodies


def keyed(host: Host, body: str, key: str | None) -> bytes:
    return encode_messages([body.encode()], host.now().store_us, 0, encode_meta(Meta(key=key)))[0]


def test_messages_of_one_key_wait_for_a_retry_and_others_go_on() -> None:
    host, puppet = open_host()
    puppet.data(1, *[keyed(host, body, body[0]) for body in ("a1", "b1", "a2", "b2")], keyed(host, "free", None))
    host.finish(host.take(), Failed("oops"))
    assert take_all(host) == ["b1", "free", "b2"]
    host.time.pass_s(1.001)
    host.turn()
    row = host.take()
    assert (bytes(row.body), row.attempts, row.redelivered) == (b"a1", 2, False)
    host.finish(row, Handled())
    assert take_all(host) == ["a2"]


def test_a_retried_message_without_a_key_goes_behind_what_is_waiting() -> None:
    host, puppet = open_host()
    puppet.data(1, *plain(host, b"1", b"2"))
    host.finish(host.take(), RetryAt(0, "again"))
    assert take_all(host) == ["2", "1"]


def test_attempts_run_out() -> None:
    host, puppet = open_host()
    puppet.data(1, *plain(host, b"1"))
    for _ in range(3):
        host.finish(host.take(), Failed("oops"))
        host.time.pass_s(1.001)
        host.turn()
    assert puppet.settlements() == [(1, "EXHAUSTED", "oops", True)]
    assert host.engine.stats()["dead_messages"] == 1


def test_the_senders_limit_counts_when_it_is_smaller() -> None:
    case = Case("was_running", max_attempts=1)
    case.finished(RetryAt(0, None))
    assert case.told() == [("EXHAUSTED", "retry", True)]


def test_move_starts_again_in_another_queue_and_can_be_recalled_there() -> None:
    host, puppet = open_host()
    other = host.serve("other")
    puppet.data(1, keyed(host, "a", "k"), keyed(host, "b", "k"))
    host.finish(host.take(), MoveTo("other"))
    row = other.take(host.now().store_us)
    assert row is not None
    assert (row.attempts, row.queue, bytes(row.body)) == (1, "other", b"a")
    assert bytes(host.take().body) == b"b", "its key is free in the queue that it left"
    host.finish(row, RetryAt(0, None))
    puppet.withdraw(1)
    assert other.take(host.now().store_us) is None
    assert puppet.settlements() == [(1, "EXHAUSTED", "recalled", True)]


def test_a_delayed_message_waits_for_its_time_whoever_is_connected() -> None:
    host, puppet = open_host()
    due_us = host.now().store_us + 5_000_000
    later, soon = [
        encode_messages([body], host.now().store_us, 0, encode_meta(Meta(key="k", not_before_us=at_us)))[0]
        for body, at_us in ((b"later", due_us + 1_000_000), (b"soon", due_us))
    ]
    puppet.data(1, later, soon, lane_id=5, kind=2)
    puppet.data(1, keyed(host, "now", "k"))
    assert take_all(host) == ["now"], "a delayed message blocks not even its key"
    host.engine.link_down(7)
    host.time.pass_s(4.999)
    host.turn()
    assert take_all(host) == []
    host.time.pass_s(0.001)
    host.turn()
    assert take_all(host) == ["soon"]
    host.time.pass_s(1)
    host.turn()
    assert take_all(host) == ["later"]


@pytest.mark.parametrize("ahead_s", [-3600, 0, 3600])
def test_deadlines_and_delays_are_judged_by_the_senders_clock(ahead_s: int) -> None:
    time = Time()
    host = Host("b", time, ahead_us=ahead_s * 1_000_000, **PATIENT)
    puppet = Puppet(host)
    host.serve()
    # The puppet's clock is the true one: its WELCOME comes back with readings of its own.
    theirs = time.now().store_us
    puppet.say(frames.PONG, host.now().store_us, theirs, theirs)
    for _ in range(8):
        puppet.say(frames.PONG, host.now().store_us, theirs, theirs)
    due = encode_messages([b"due"], theirs, theirs + 9_000_000, encode_meta(Meta(not_before_us=theirs + 5_000_000)))[0]
    puppet.data(1, due, kind=2)
    time.pass_s(4.9)
    host.turn()
    assert host.buffers["work"].take(host.now().store_us) is None
    time.pass_s(0.2)
    host.turn()
    assert len(host.buffers["work"]) == 1
    time.pass_s(3.8)
    host.turn()
    assert len(host.buffers["work"]) == 1
    time.pass_s(0.2)
    host.turn()
    assert puppet.settlements() == [(1, "EXPIRED", "deadline", False)]


SETTLING: list[Callable[[Host], None]] = [lambda host: host.reopen("clean"), lambda host: host.reopen("crashed")]


@pytest.mark.parametrize("reopen", SETTLING, ids=["clean", "crashed"])
def test_what_waits_survives_a_restart_in_its_order(reopen: Callable[[Host], None]) -> None:
    host, puppet = open_host()
    puppet.data(1, *[keyed(host, body, body[0]) for body in ("a1", "a2", "b1")], *plain(host, b"p", b"q"))
    host.finish(host.take(), RetryAt(1_000_000, None))
    reopen(host)
    host.turn()
    assert take_all(host) == ["b1", "p", "q"]
    host.time.pass_s(1.001)
    host.turn()
    row = host.take()
    assert (bytes(row.body), row.attempts) == (b"a1", 2)
    host.finish(row, Handled())
    assert take_all(host) == ["a2"]


def test_a_damaged_row_is_quarantined_and_settled_and_the_rest_goes_on() -> None:
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    puppet.data(1, *[keyed(host, body, "k") for body in ("a1", "a2", "a3")])
    key = host.store.keys(*tables.table_bounds(tables.INBOX), 2)[0]
    host.store.damage(key, 30)
    host.reopen("clean")
    host.serve()
    host.turn()
    puppet = Puppet(host)
    assert take_all(host) == ["a2", "a3"]
    assert host.kinds() == ["damaged"]
    assert len(host.store.keys(*tables.table_bounds(tables.QUARANTINE), 9)) == 1


def test_a_row_damaged_while_it_waits_for_its_retry_does_not_block_its_key() -> None:
    host, puppet = open_host()
    puppet.data(1, *[keyed(host, body, "k") for body in ("a1", "a2")])
    host.finish(host.take(), Failed("oops"))
    assert host.buffers["work"].take(host.now().store_us) is None, "the second waits for the first"
    host.store.damage(host.store.keys(*tables.table_bounds(tables.INBOX), 2)[0], 30)
    host.time.pass_s(1.001)
    host.turn()
    assert host.kinds() == ["damaged"]
    assert (1, "UNCERTAIN", "damaged", True) in puppet.settlements()
    assert take_all(host) == ["a2"]


def test_far_more_than_is_looked_ahead_at_comes_in_its_order() -> None:
    host, puppet = open_host()
    bodies = [b"%05d" % n for n in range(6000)]
    for first in range(0, 6000, 500):
        puppet.data(first + 1, *plain(host, *bodies[first : first + 500]))
    assert take_all(host) == [body.decode() for body in bodies]


def test_two_lanes_of_one_queue_are_merged_by_the_time_at_which_they_came() -> None:
    host, puppet = open_host()
    buffer = host.buffers["work"]
    buffer.prefetch = buffer.capacity = 1
    for n in range(1, 6):
        puppet.data(n, *plain(host, b"a%d" % n), lane_id=1)
        host.time.pass_s(0.01)
        puppet.data(n, *plain(host, b"b%d" % n), lane_id=2)
        host.time.pass_s(0.01)
    assert take_all(host) == [f"{lane}{n}" for n in range(1, 6) for lane in "ab"]


def test_what_one_turn_takes_in_is_bounded_and_the_rest_is_asked_for_again() -> None:
    host, puppet = open_host()
    records = plain(host, *[b"x" * 1000] * 10)
    frame = frames.encode(
        [
            frames.DATA,
            puppet.session,
            puppet.instance,
            1,
            MESSAGES,
            DATA,
            "work",
            0,
            1,
            [10],
            frames.pack_sizes(records),
        ],
        records,
    )
    host.engine.limit_intake(3500)
    host.turn([(LINK, frame)])
    assert host.engine.intake_bytes == 3 * len(records[0])
    assert (last_ack(puppet).floor, last_ack(puppet).gap) == (3, True)
    host.engine.limit_intake(10)
    puppet.data(4, *records[3:])
    assert last_ack(puppet).floor == 4, "one always goes"
    host.engine.limit_intake(None)
    puppet.data(5, *records[4:])
    assert last_ack(puppet).floor == 10


def test_a_turn_that_takes_in_little_takes_nothing_beyond_the_inbox() -> None:
    host, puppet = open_host(inbox_max_messages=2)
    puppet.data(1, *plain(host, b"1", b"2"))
    host.engine.limit_intake(10)
    puppet.data(3, *plain(host, b"3"))
    assert (last_ack(puppet).floor, last_ack(puppet).gap) == (2, True)


def test_what_its_sender_knows_to_be_final_is_not_waited_for() -> None:
    """A floor below the lowest entry kept skips to it."""
    host, puppet = open_host()
    puppet.withdraw(3)
    puppet.live_anew(lanes=[[0xC0, 0, "", False, 2, 2, 0], [MESSAGES, DATA, "work", False, 6, 7, 0]])
    assert tombstones(host) == []
    puppet.data(6, *plain(host, b"6"))
    assert bytes(host.take().body) == b"6"


def test_messages_of_a_peer_whose_clock_is_not_known_wait_if_they_have_a_deadline() -> None:
    host, puppet = open_host()
    host.engine.channels["puppet"].clock.offset_us = None
    now_us = host.now().store_us
    puppet.data(1, *encode_messages([b"timed"], now_us, now_us + 10**9, b""), *plain(host, b"free"))
    assert take_all(host) == ["free"]
    puppet.say(frames.PONG, now_us, now_us, now_us)
    assert take_all(host) == ["timed"]


@pytest.mark.parametrize(("on_expiry", "dead", "local"), [("drop", 0, 0), ("dead", 1, 0), ("queue:late", 0, 1)])
def test_on_expiry_is_applied_by_the_receiver_that_judged(on_expiry: str, dead: int, local: int) -> None:
    case = Case("was_claimed", on_expiry=on_expiry, id="mine")
    late = case.host.serve("late")
    case.overdue()
    assert case.told() == [("EXPIRED", "deadline", False)]
    assert case.host.engine.stats()["dead_messages"] == dead
    row = late.take(case.host.now().store_us)
    assert (row is not None) == bool(local)
    if row is not None:
        assert (row.head.meta.origin_id, row.head.meta.cause, bytes(row.body)) == ("mine", "expired", b"body")
        case.host.finish(row, Handled())
        assert case.host.engine.stats()["inbox_messages"] == 0


def test_an_attempt_that_fails_in_the_turn_of_its_deadline_is_the_last() -> None:
    case = Case("was_running")
    assert case.row is not None
    case.host.buffers["work"].finish(case.row, Failed("oops"))
    case.time.pass_s(DEADLINE_S + 0.001)
    case.host.turn()
    assert case.told() == [("EXHAUSTED", "deadline", True)]


def test_what_expires_at_the_door_is_settled_by_the_loop() -> None:
    case = Case("was_claimed")
    case.time.pass_s(DEADLINE_S + 0.001)
    assert case.host.buffers["work"].take(case.host.now().store_us) is None
    case.host.turn()
    assert case.told() == [("EXPIRED", "deadline", False)]
    assert case.host.engine.stats()["inbox_messages"] == 0


def test_rows_that_are_settled_together_are_told_together() -> None:
    host, puppet = open_host()
    host.buffers["work"].prefetch = host.buffers["work"].capacity = 16
    puppet.data(1, *plain(host, *[b"x"] * 6))
    puppet.data(1, *plain(host, *[b"y"] * 2), lane_id=5)
    rows = [host.take() for _ in range(8)]
    for row in rows:
        if (row.lane.id, row.seq) != (MESSAGES, 3):
            host.buffers["work"].finish(row, Handled())
    host.turn()
    puppet.listen()
    told = [entry for entry in puppet.told if isinstance(entry, Settle)]
    assert sorted((entry.lane_id, [each[:2] for each in entry.ranges]) for entry in told) == [
        (5, [(1, 2)]),
        (MESSAGES, [(1, 2), (4, 6)]),
    ]
    assert host.engine.stats()["inbox_messages"] == 1


def test_a_result_for_a_row_that_nobody_waits_for_only_frees_its_slot() -> None:
    host, puppet = open_host()
    puppet.data(1, *plain(host, b"1", b"2"))
    plain_row, failed = host.take(), host.take()
    for row in (plain_row, failed):
        host.engine._inbox.claims.find(row.lane, row.seq)
        row.lane.rows.pop(row.seq)
    host.buffers["work"].finish(plain_row, Handled())
    host.finish(failed, Failed("oops"))
    assert host.in_hand.open() == []
    assert puppet.settlements() == []


def test_a_delayed_message_whose_time_came_on_its_way_waits_no_longer() -> None:
    host, puppet = open_host()
    now_us = host.now().store_us
    record = encode_messages([b"x"], now_us, 0, encode_meta(Meta(not_before_us=now_us - 5)))[0]
    puppet.data(1, record, kind=2)
    assert take_all(host) == ["x"]


def test_waiting_rows_far_beyond_one_reading_come_in_order() -> None:
    host, puppet = open_host()
    due_us = host.now().store_us + 1_000_000
    records = [
        encode_messages([b"%03d" % n], due_us, 0, encode_meta(Meta(not_before_us=due_us + n)))[0] for n in range(300)
    ]
    puppet.data(1, *reversed(records), kind=2)
    assert take_all(host) == []
    host.time.pass_s(2)
    host.turn()
    assert take_all(host) == [f"{n:03d}" for n in range(300)]


def test_a_message_recalled_while_it_waits_its_turn_is_passed_over() -> None:
    host, puppet = open_host()
    puppet.data(1, *plain(host, *[b"%d" % n for n in range(10)]))
    puppet.withdraw(2, 8)
    assert take_all(host) == ["0", "2", "3", "4", "5", "6", "8", "9"]
    assert sorted(seq for seq, outcome, _, _ in puppet.settlements() if outcome == "RECALLED") == [2, 8]
