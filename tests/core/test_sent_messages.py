"""What becomes of a message at its sender: state by event, with a peer made by hand as the receiver."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.core.pump import QUEUE, Host, Time
from tests.core.puppet import PATIENT, Puppet
from zmqrel.core import commands as c
from zmqrel.core import frames
from zmqrel.core.effects import HandedOver, Received, Sent
from zmqrel.core.entries import Notice, Withdraw
from zmqrel.core.lane import CONTROL
from zmqrel.outcome import Cause, Outcome

DEADLINE_S = 10


class Case:
    """A sender with one message that is looked at, brought into a state."""

    def __init__(self, state: str) -> None:
        self.time = Time()
        # One byte: only one message is on the wire, and what is sent behind it stays stored.
        self.host = Host("a", self.time, window_bytes=1, **PATIENT)
        self.puppet = Puppet(self.host)
        deadline_us = self.host.now().store_us + DEADLINE_S * 1_000_000
        self.host.send("puppet", b"one", deadline_us=deadline_us)
        self.stored = self.host.send("puppet", b"two", deadline_us=deadline_us)
        self.lane = self.stored.lane
        self.seq = 1
        getattr(self, state)()
        self.host.notices.clear()
        self.puppet.forget()

    def was_stored(self) -> None:
        self.seq = 2
        assert self.lane.sent_upto == 1

    def was_sent(self) -> None:
        assert (self.lane.sent_upto, self.lane.acked) == (1, 0)

    def was_received(self) -> None:
        self.acked()

    def was_withdrawn(self) -> None:
        self.recalled()

    def was_received_and_withdrawn(self) -> None:
        self.acked()
        self.recalled()

    def had_ended(self) -> None:
        self.settled(Outcome.HANDLED)

    # ------------------------------------------------------------------------------------------------ events

    def acked(self) -> None:
        self.puppet.ack(self.lane.id, self.seq)

    def settled(self, outcome: Outcome, **given: Any) -> None:
        self.puppet.settle(given.pop("lane_id", self.lane.id), self.seq, outcome, reason="why", **given)

    def recalled(self) -> None:
        self.host.recall(self.stored, self.seq)

    def overdue(self) -> None:
        self.time.pass_s(DEADLINE_S + 0.001)
        self.host.turn()

    def noticed(self) -> None:
        self.puppet.control(Notice(self.store_id, self.lane.id, self.seq, self.host.now().store_us))

    # ---------------------------------------------------------------------------------------------- judgement

    @property
    def store_id(self) -> int:
        return self.host.engine.shared.ledger.store_id

    def withdrawals(self) -> list[tuple[int, Cause]]:
        """What the peer was asked since."""
        self.puppet.listen()
        asked = [entry for entry in self.puppet.told if isinstance(entry, Withdraw)]
        return [(first, entry.cause) for entry in asked for first, last in entry.ranges if first <= self.seq <= last]

    def outcome(self) -> Outcome | None:
        found = self.host.engine.found(self.lane.no, self.seq)
        assert found is not None
        told = [name for seq, name, _ in self.host.outcomes() if seq == self.seq]
        if found.ended is not None:
            assert set(told) <= {found.ended.outcome.name}, "what was told is what is kept"
        return found.ended.outcome if found.ended else None


STATES = ["was_stored", "was_sent", "was_received", "was_withdrawn", "was_received_and_withdrawn", "had_ended"]
SETTLE: dict[str, Callable[[Case], None]] = {
    f"settled {outcome.name}": lambda case, outcome=outcome: case.settled(outcome)  # type: ignore[misc]
    for outcome in Outcome
}
FOREIGN: dict[str, Callable[[Case], None]] = {
    "settled in an unknown lane": lambda case: case.settled(Outcome.REJECTED, lane_id=case.lane.id ^ 1),
    "settled in another store": lambda case: case.settled(Outcome.REJECTED, store_id=case.store_id ^ 1),
    "nothing": lambda case: None,
}
EVENTS = (
    SETTLE
    | FOREIGN
    | {"acked": Case.acked, "recalled": Case.recalled, "overdue": Case.overdue, "noticed": Case.noticed}
)
NOTHING: tuple[Outcome | None, list[Cause]] = (None, [])


def expected(state: str, event: str) -> tuple[Outcome | None, list[Cause]]:
    """Outcome, and what the receiver is asked, by the table "Who decides"."""
    if state == "had_ended":
        return Outcome.HANDLED, []
    if state == "was_stored":
        # It never left: the sender decides alone and at once, and nobody else has a say.
        return {"recalled": (Outcome.RECALLED, []), "overdue": (Outcome.EXPIRED, [])}.get(event, NOTHING)
    if event in SETTLE:
        return Outcome[event.removeprefix("settled ")], []
    if "withdrawn" in state:
        return NOTHING  # the first cause wins
    if event == "recalled":
        return None, [Cause.RECALL]
    if event == "overdue" and state == "was_sent":
        return None, [Cause.DEADLINE]
    return NOTHING


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("event", EVENTS)
def test_state_by_event(state: str, event: str) -> None:
    case = Case(state)
    EVENTS[event](case)
    outcome, asked = expected(state, event)
    assert case.outcome() is outcome
    assert case.withdrawals() == [(case.seq, cause) for cause in asked]
    assert case.host.kinds() == []


@pytest.mark.parametrize("state", STATES[1:5])
@pytest.mark.parametrize("first", Outcome)
@pytest.mark.parametrize("second", Outcome)
def test_an_outcome_is_never_reversed(state: str, first: Outcome, second: Outcome) -> None:
    case = Case(state)
    case.settled(first)
    case.settled(second)
    assert case.outcome() is first
    assert len([seq for seq, _, _ in case.host.outcomes() if seq == case.seq]) == 1


def test_an_outcome_keeps_what_was_told_with_it() -> None:
    case = Case("was_received")
    at_us = case.host.now().store_us
    case.settled(Outcome.EXHAUSTED, attempts=4, handed_at_us=at_us)
    found = case.host.engine.found(case.lane.no, 1)
    assert found is not None
    assert found.ended == c.EndedAs(Outcome.EXHAUSTED, "why", 4, at_us, at_us)


def test_the_receipt_learns_of_each_step() -> None:
    time = Time()
    host = Host("a", time)
    puppet = Puppet(host)
    lane = host.send("puppet", b"x").lane
    puppet.ack(lane.id, 1)
    told = [notice for notice in host.notices if isinstance(notice, (Sent, Received)) and notice.lane == lane.no]
    assert told == [Sent(lane.no, 1), Received(lane.no, 1)]


def test_a_notice_tells_when_it_was_handed_over() -> None:
    case = Case("was_withdrawn")
    case.noticed()
    assert case.host.notices == [HandedOver(case.lane.no, 1, case.host.now().store_us)]
    case.puppet.control(Notice(case.store_id ^ 1, case.lane.id, 1, 5), Notice(case.store_id, case.lane.id ^ 1, 1, 5))
    assert len(case.host.notices) == 1


def test_a_settlement_ends_no_more_than_what_left() -> None:
    case = Case("was_sent")
    case.puppet.settle(case.lane.id, 1, Outcome.HANDLED, last=2**62)
    assert case.host.outcomes() == [(1, "HANDLED", None)]
    assert case.host.engine.stats()["outbox_messages"] == 1


def test_messages_of_one_settlement_that_had_ended_keep_their_outcome() -> None:
    host = Host("a", Time())
    puppet = Puppet(host)
    lane = host.send("puppet", *[b"x"] * 5, key="k").lane
    puppet.settle(lane.id, 2, Outcome.REJECTED)
    puppet.settle(lane.id, 1, Outcome.HANDLED, last=5)
    assert sorted(host.outcomes()) == [(1, "HANDLED", None), (2, "REJECTED", None)] + [
        (seq, "HANDLED", None) for seq in (3, 4, 5)
    ]
    for seq in range(1, 6):
        found = host.engine.found(lane.no, seq)
        assert found is not None
        assert found.key == "k"


def records_in(puppet: Puppet) -> list[tuple[list[int], int]]:
    """Runs and payload bytes of the data batches that were heard."""
    puppet.listen()
    heard = [frame for frame in puppet.heard if frame.type == frames.DATA and frame.fields[0].kind != CONTROL]
    puppet.forget()
    return [(frame.fields[0].runs, len(frame.payload)) for frame in heard]


def test_what_was_sent_is_sent_again_as_itself_until_its_outcome_is_final() -> None:
    host = Host("a", Time())
    puppet = Puppet(host)
    stored = host.send("puppet", b"x", b"y")
    host.recall(stored, 1)
    records_in(puppet)
    puppet.ack(stored.lane.id, 0, gap=True)
    assert [runs for runs, _ in records_in(puppet)] == [[2]]
    puppet.settle(stored.lane.id, 1, Outcome.RECALLED)
    host.time.pass_s(1)
    puppet.ack(stored.lane.id, 0, gap=True)
    assert [runs for runs, _ in records_in(puppet)] == [[-1, 1]]


def test_a_gap_is_answered_once_per_round_trip() -> None:
    host = Host("a", Time())
    puppet = Puppet(host)
    lane = host.send("puppet", b"x").lane
    records_in(puppet)
    puppet.ack(lane.id, 0, gap=True)
    puppet.ack(lane.id, 0, gap=True)
    assert len(records_in(puppet)) == 1
    host.time.pass_s(1)
    puppet.ack(lane.id, 0, gap=True)
    assert len(records_in(puppet)) == 1


def test_what_was_refused_for_want_of_room_is_sent_again_with_the_first_credit() -> None:
    host = Host("a", Time())
    puppet = Puppet(host)
    lane = host.send("puppet", b"x").lane
    records_in(puppet)
    for _ in range(2):
        puppet.ack(lane.id, 0, grant=0, gap=True)
    assert len(records_in(puppet)) == 1
    puppet.ack(lane.id, 0, grant=1)
    assert len(records_in(puppet)) == 1
    puppet.ack(lane.id, 0, grant=2)
    assert records_in(puppet) == []


def test_what_was_not_refused_is_not_sent_again_for_credit_that_comes_meanwhile() -> None:
    host = Host("a", Time())
    puppet = Puppet(host)
    lane = host.send("puppet", b"x").lane
    records_in(puppet)
    puppet.ack(lane.id, 0, grant=0)
    puppet.ack(lane.id, 0, grant=1)
    assert records_in(puppet) == []


def test_what_is_not_acknowledged_is_sent_again_and_later_each_time() -> None:
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host)
    host.send("puppet", b"x")
    records_in(puppet)
    sent_after: list[float] = []
    for step in range(600):
        host.time.pass_s(0.1)
        host.turn()
        if records_in(puppet):
            sent_after.append(step / 10)
    assert 3 <= len(sent_after) <= 20


def test_an_acknowledgement_of_what_was_never_sent_is_dropped() -> None:
    case = Case("was_stored")
    case.puppet.ack(case.lane.id, 2)
    case.puppet.ack(12345, 1)
    assert case.lane.acked == 0
    assert case.host.engine.stats()["stale_acks"] == 2


# ------------------------------------------------------------------------------------------------ a full outbox


@pytest.mark.parametrize("options", [{"outbox_max_messages": 2}, {"outbox_max_bytes": 60}])
def test_at_a_limit_nothing_is_accepted_and_nothing_written(options: dict[str, int]) -> None:
    from zmqrel.errors import OutboxFull

    host = Host("a", Time(), **options)
    host.turn([], c.Connect("b", None))
    host.send("b", b"1", b"2")
    before = host.store.scan(b"\x10", b"\x20", 100)
    with pytest.raises(OutboxFull):
        host.send("b", b"3")
    assert host.store.scan(b"\x10", b"\x20", 100) == before


def test_messages_that_ended_make_room() -> None:
    host = Host("a", Time(), outbox_max_messages=1)
    host.turn([], c.Connect("b", None))
    host.recall(host.send("b", b"1"))
    assert host.send("b", b"2").first == 2


# ----------------------------------------------------------------------------------------------------- giving up


def test_what_is_not_received_for_so_long_is_given_up() -> None:
    host = Host("a", Time(), give_up_after_s=5, **PATIENT)
    puppet = Puppet(host)
    lane = host.send("puppet", b"sent").lane
    host.time.pass_s(5.001)
    host.turn()
    puppet.listen()
    asked = [entry for entry in puppet.told if isinstance(entry, Withdraw)]
    assert [(entry.ranges, entry.cause) for entry in asked] == [([(1, 1)], Cause.GIVE_UP)]
    puppet.settle(lane.id, 1, Outcome.EXHAUSTED, reason="gave up")
    assert host.outcomes() == [(1, "EXHAUSTED", "gave up")]


def test_what_never_left_is_given_up_at_once_and_kept_as_a_dead_letter() -> None:
    host = Host("a", Time(), give_up_after_s=5)
    host.turn([], c.Connect("b", None))
    host.send("b", b"stored")
    host.time.pass_s(5.001)
    host.turn()
    assert host.outcomes() == [(1, "EXHAUSTED", "gave up")]
    assert host.engine.stats()["dead_messages"] == 1


def test_what_was_received_is_not_given_up() -> None:
    host = Host("a", Time(), give_up_after_s=5, **PATIENT)
    puppet = Puppet(host)
    lane = host.send("puppet", b"x", deadline_us=host.now().store_us + 20_000_000).lane
    puppet.ack(lane.id, 1)
    host.time.pass_s(30)
    host.turn()
    puppet.listen()
    assert (puppet.told, host.outcomes()) == ([], [])


def test_giving_up_comes_before_a_later_deadline_and_the_deadline_is_still_judged() -> None:
    host = Host("a", Time(), give_up_after_s=60)
    host.turn([], c.Connect("b", None))
    host.send("b", b"x", deadline_us=host.now().store_us + 5_000_000)
    host.time.pass_s(5.001)
    host.turn()
    assert host.outcomes() == [(1, "EXPIRED", "deadline")]


# ----------------------------------------------------------------------------------------------------- expiry


@pytest.mark.parametrize(("on_expiry", "dead", "local"), [("drop", 0, 0), ("dead", 1, 0), ("queue:late", 0, 1)])
def test_on_expiry_is_applied_by_the_peer_that_judged(on_expiry: str, dead: int, local: int) -> None:
    host = Host("a", Time())
    host.turn([], c.Connect("b", None))
    late = host.serve("late")
    host.send("b", b"x", deadline_us=host.now().store_us + 1000, on_expiry=on_expiry, key="k", headers={"h": 1})
    host.time.pass_s(1)
    host.turn()
    assert host.outcomes() == [(1, "EXPIRED", "deadline")]
    assert host.engine.stats()["dead_messages"] == dead
    row = late.take(host.now().store_us)
    assert (row is not None) == bool(local)
    if row is not None:
        meta = row.head.meta
        assert bytes(row.body) == b"x"
        assert (meta.key, meta.headers, meta.cause, bool(meta.origin_id)) == ("k", {"h": 1}, "expired", True)


def test_an_expiry_that_the_receiver_applied_is_not_applied_again() -> None:
    case = Case("was_received")
    case.settled(Outcome.EXPIRED, applied=True)
    assert case.host.engine.stats()["dead_messages"] == 0
    case = Case("was_withdrawn")
    case.settled(Outcome.EXPIRED, applied=False)
    assert case.host.engine.stats()["dead_messages"] == 1


def test_queues_are_named_in_what_is_found() -> None:
    host = Host("a", Time())
    host.turn([], c.Connect("b", None))
    stored = host.send("b", b"x", id="mine", key="k", headers={"h": True})
    found = host.turn([], c.Find("mine"))[0]
    assert (found.lane.queue, found.id, found.key, found.headers) == (QUEUE, "mine", "k", {"h": True})
    assert host.turn([], c.Find(f"{stored.lane.id:016x}-1"))[0].id == "mine"
    for unknown in ("other", f"{stored.lane.id:016x}-2", f"{stored.lane.id:016x}-0", f"{'0' * 16}-1", "0-0", "-"):
        assert host.turn([], c.Find(unknown)) == [None]


def test_thousands_of_deadlines_at_once_are_judged_in_a_few_turns() -> None:
    host = Host("a", Time())
    host.turn([], c.Connect("b", None))
    host.send("b", *[b"x"] * 2500, deadline_us=host.now().store_us + 1000)
    host.send("b", b"live", deadline_us=host.now().store_us + 10**9)
    host.time.pass_s(1)
    turns = 0
    while True:
        host.turn()
        turns += 1
        if host.idle():
            break
    assert turns <= 4
    assert [outcome for _, outcome, _ in host.outcomes()] == ["EXPIRED"] * 2500
    assert host.engine.stats()["outbox_messages"] == 1


def test_what_would_be_given_up_but_was_received_keeps_its_deadline() -> None:
    host = Host("a", Time(), give_up_after_s=5, **PATIENT)
    puppet = Puppet(host)
    lane = host.send("puppet", b"x", deadline_us=host.now().store_us + 20_000_000).lane
    host.send("puppet", b"y")
    puppet.ack(lane.id, 1)
    host.time.pass_s(5.001)
    host.turn()
    puppet.listen()
    asked = [entry for entry in puppet.told if isinstance(entry, Withdraw)]
    assert [(entry.ranges, entry.cause) for entry in asked] == [([(2, 2)], Cause.GIVE_UP)]
    # Its receiver comes back with an old copy of its store, and has not received it any more.
    puppet.live_anew(floors=[(lane.id, 0)])
    puppet.dial(b"is_old__", floors=[(lane.id, 0)], i_am_old=True)
    host.time.pass_s(20)
    host.turn()
    found = host.engine.found(lane.no, 1)
    assert found is not None
    assert found.withdrawn is Cause.DEADLINE
