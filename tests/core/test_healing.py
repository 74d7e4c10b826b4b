"""Lost, rolled-back and damaged stores: what two peers find out at their next contact, and what becomes of messages."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.core.pump import QUEUE, Host, Pump, Time, keep_all, pair
from tests.core.puppet import MESSAGES, PATIENT, Puppet
from zmqrel.core import commands as c
from zmqrel.core import frames, tables
from zmqrel.core.buffer import HANDLED
from zmqrel.core.effects import Moved
from zmqrel.core.entries import InLaneState, OutLaneState, State, encode_messages
from zmqrel.core.lane import CONTROL, DATA
from zmqrel.outcome import Cause
from zmqrel.store import MemoryInHand, MemoryStore

DEAF: Any = staticmethod(lambda host, frame: False)


def roll_back(host: Host, snapshot: MemoryStore) -> None:
    """The machine comes back with an old copy of its disk."""
    host.store.abort()
    host.store.restore(snapshot)
    host.in_hand = MemoryInHand()
    host.reopen("clean")


def lose_store(host: Host) -> None:
    host.store = MemoryStore(durability=host.options.durability)
    host.in_hand = MemoryInHand()
    host.open()


def meet(pump: Pump) -> None:
    """They find each other again, and have time for everything that they have to say."""
    pump.connect()
    pump.pass_s(3)


def handle_all(host: Host, pump: Pump) -> list[tuple[bytes, bool]]:
    """Handle what is there: bodies, and whether they were said to be redelivered or in doubt."""
    seen = []
    for _ in range(50):
        row = host.buffers[QUEUE].take(host.now().store_us)
        if row is None:
            break
        seen.append((bytes(row.body), row.redelivered or row.doubt))
        host.finish(row, HANDLED)
        pump.run()
    pump.pass_s(1)
    return seen


def at_rest(*hosts: Host) -> bool:
    """Nothing is left over in any store, and nobody is said to be old any more."""
    return all(
        host.engine.stats()["outbox_messages"] == host.engine.stats()["inbox_messages"] == 0
        and not any(
            channel.healing.i_am_old or channel.healing.you_are_old or channel.awaits_state
            for channel in host.engine.channels.values()
        )
        and host.store.keys(*tables.table_bounds(tables.TOMBSTONE), 9) == []
        for host in hosts
    )


# ------------------------------------------------------------------------------------------- the sender is old


def test_a_rolled_back_sender_that_accepts_offline_gives_no_number_a_second_body() -> None:
    """F3: it passes the receiver's floor before the first contact."""
    a, b, pump = pair()
    a.send("b", b"1")
    pump.run()
    snapshot = a.store.snapshot()
    a.send("b", b"2", b"3")
    pump.run()
    assert [body for body, _ in handle_all(b, pump)] == [b"1", b"2", b"3"]
    roll_back(a, snapshot)
    a.turn([], c.Connect("b", None))
    a.send("b", b"4", b"5", b"6")
    meet(pump)
    seen = handle_all(b, pump)
    assert seen == [(b"4", True), (b"5", True), (b"6", True)]
    assert a.kinds().count("old_copy") == b.kinds().count("peer_old_copy") == 1
    moved = [notice for notice in a.notices if isinstance(notice, Moved)]
    assert len(moved) == 3
    assert sorted(outcome for _, outcome, _ in a.outcomes()) == sorted(
        ["HANDLED"] * 3 + ["HANDLED"] * 3 + ["UNCERTAIN"]
    )
    assert at_rest(a, b)


def test_a_message_that_moved_is_found_by_its_old_id_and_recalled_in_doubt() -> None:
    a, b, pump = pair()
    a.send("b", b"1")
    pump.run()
    handle_all(b, pump)
    snapshot = a.store.snapshot()
    a.send("b", b"2")
    pump.run()
    handle_all(b, pump)
    roll_back(a, snapshot)
    a.turn([], c.Connect("b", None))
    own = a.send("b", b"own", id="mine", deadline_us=a.now().store_us + 10**9)
    other = a.send("b", b"other")
    old_id = f"{other.lane.id:016x}-{other.first}"
    b.serve("nothing else")
    b.buffers[QUEUE].close()
    meet(pump)
    found = a.turn([], c.Find("mine"), c.Find(old_id))
    assert [each.id for each in found] == ["mine", old_id]
    assert all(each.lane is not own.lane for each in found)
    a.turn([], c.Recall([(each.lane.no, each.seq) for each in found]))
    pump.pass_s(1)
    assert sorted(each for each in a.outcomes()[-2:]) == [
        (1, "UNCERTAIN", "recalled"),
        (2, "UNCERTAIN", "recalled"),
    ]
    assert at_rest(a, b)


@pytest.mark.parametrize("given", [{}, {"id": "mine"}])
def test_a_recall_under_way_while_its_message_moves_is_answered(given: dict[str, str]) -> None:
    """The caller looked where it lies, then it got a new lane: the recall must not be about nothing."""
    a, b, pump = pair()
    a.send("b", b"1")
    pump.run()
    handle_all(b, pump)
    snapshot = a.store.snapshot()
    a.send("b", b"2")
    pump.run()
    handle_all(b, pump)
    roll_back(a, snapshot)
    a.turn([], c.Connect("b", None))
    stored = a.send("b", b"own", **given)
    message_id = given.get("id") or f"{stored.lane.id:016x}-{stored.first}"
    place = (stored.lane.no, stored.first)
    b.buffers[QUEUE].close()
    meet(pump)
    assert [notice for notice in a.notices if isinstance(notice, Moved)]
    (found,) = a.turn([], c.Recall([place], [message_id]))[0]
    assert (found.id, found.withdrawn) == (message_id, Cause.RECALL)
    assert found.lane is not stored.lane
    pump.pass_s(1)
    assert a.outcomes()[-1][1:] == ("UNCERTAIN", "recalled")
    assert a.turn([], c.Recall([place]))[0] == [None], "without an id nobody can know"


def test_what_a_rolled_back_sender_thinks_unsettled_is_settled_by_state() -> None:
    a, b, pump = pair()
    a.send("b", b"waits", b"handled")
    pump.run()
    snapshot = a.store.snapshot()
    first, second = b.take(), b.take()
    b.finish(second, HANDLED)
    pump.pass_s(1)  # until what was acknowledged is forgotten
    assert a.outcomes() == [(2, "HANDLED", None)]
    roll_back(a, snapshot)
    a.notices.clear()
    meet(pump)
    assert a.outcomes() == [(2, "UNCERTAIN", "store lost")], "what was told to the lost life is not told again"
    b.finish(first, HANDLED)
    pump.pass_s(1)
    assert a.outcomes()[1:] == [(1, "HANDLED", None)]
    assert at_rest(a, b)


def test_a_recall_of_a_rolled_back_sender_still_gets_an_answer() -> None:
    a, b, pump = pair()
    stored = a.send("b", b"1")
    pump.run(DEAF)
    snapshot = a.store.snapshot()
    a.send("b", b"2")
    pump.run(DEAF)
    roll_back(a, snapshot)
    lane = a.engine.shared.out_lanes[stored.lane.no]
    a.turn([], c.Connect("b", None))
    a.recall(c.Stored(lane, 1, 1))
    meet(pump)
    assert [outcome for _, outcome, _ in a.outcomes()] in (["RECALLED"], ["UNCERTAIN"])
    assert handle_all(b, pump) == []
    assert at_rest(a, b)


# ----------------------------------------------------------------------------------------- the receiver is old


def test_a_rolled_back_receiver_is_sent_again_what_it_forgot_and_says_that_it_may_be_known() -> None:
    a, b, pump = pair()
    a.send("b", b"1")
    pump.run()
    handle_all(b, pump)
    snapshot = b.store.snapshot()
    a.send("b", b"2", b"3")
    pump.run()
    b.finish(b.take(), HANDLED)
    b.out.clear()  # and the news of it is lost with the store
    roll_back(b, snapshot)
    meet(pump)
    assert handle_all(b, pump) == [(b"2", True), (b"3", True)]
    assert [outcome for _, outcome, _ in a.outcomes()] == ["HANDLED"] * 3
    assert b.kinds().count("old_copy") == a.kinds().count("peer_old_copy") == 1
    assert at_rest(a, b)


def test_a_withdrawal_that_a_rolled_back_receiver_forgot_is_said_again_and_ends_uncertain() -> None:
    a, b, pump = pair()
    stored = a.send("b", b"1")
    pump.run()
    snapshot = b.store.snapshot()
    running = b.take()
    a.recall(stored)
    pump.run()
    assert running.withdrawn is Cause.RECALL
    roll_back(b, snapshot)
    meet(pump)
    assert a.outcomes() == [(1, "UNCERTAIN", "recalled")]
    assert handle_all(b, pump) == []
    assert at_rest(a, b)


def test_what_a_rolled_back_receiver_holds_and_its_sender_knows_the_outcome_of_is_dropped() -> None:
    a, b, pump = pair()
    a.send("b", b"1", b"2")
    pump.run()
    snapshot = b.store.snapshot()
    b.finish(b.take(), HANDLED)
    pump.run()
    roll_back(b, snapshot)
    meet(pump)
    assert handle_all(b, pump) == [(b"2", True)]
    assert [outcome for _, outcome, _ in a.outcomes()] == ["HANDLED", "HANDLED"]
    assert at_rest(a, b)


def test_an_old_copy_hands_over_nothing_before_the_state_of_the_sender_is_here() -> None:
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve()
    puppet.data(1, *encode_messages([b"1"], host.now().store_us, 0, b""))
    assert len(host.buffers[QUEUE]) == 1
    ledger = host.engine.shared.ledger
    heard = [ledger.store_id, ledger.instance, ledger.commit_count + 10]
    lanes = [[MESSAGES, DATA, QUEUE, False, 1, 2, 0], [0xC0, CONTROL, "", False, 1, 1, 0]]
    puppet.live_anew(heard=heard, lanes=lanes)
    assert host.kinds() == ["old_copy"]
    assert host.buffers[QUEUE].take(host.now().store_us) is None, "taken back out of the buffer"
    # The binder had to begin anew, to say that it is old.
    puppet.session = b"in_peace"
    puppet.dial(b"in_peace", heard=heard, lanes=lanes)
    assert puppet.last(2).fields[2].i_am_old
    assert host.buffers[QUEUE].take(host.now().store_us) is None
    sent = [OutLaneState(MESSAGES, 1, 1, 1, False, [(1, 1)])]
    puppet.control(State(puppet.store_id, ledger.store_id, [], sent, False))
    assert host.buffers[QUEUE].take(host.now().store_us) is None, "a part of it is not all of it"
    puppet.control(State(puppet.store_id, ledger.store_id, [], [], True))
    row = host.take()
    assert (bytes(row.body), row.doubt) == (b"1", True)


# -------------------------------------------------------------------------------------------- a store is gone


@pytest.mark.parametrize("on_store_loss", ["resend", "uncertain"])
def test_a_receiver_with_a_new_store(on_store_loss: str) -> None:
    a, b, pump = pair(on_store_loss=on_store_loss)
    a.send("b", b"1")
    recalled = a.send("b", b"2")
    pump.run()
    running = b.take()
    assert b.take().seq == 2
    a.recall(recalled)
    pump.run()
    lose_store(b)
    a.send("b", b"3")
    meet(pump)
    seen = handle_all(b, pump)
    assert running.seq == 1
    if on_store_loss == "resend":
        assert seen == [(b"1", True), (b"3", seen[1][1])]
        assert sorted(a.outcomes()) == [(1, "HANDLED", None), (2, "UNCERTAIN", "store lost"), (3, "HANDLED", None)]
    else:
        assert (b"1", True) not in seen
        assert (1, "UNCERTAIN", "store lost") in a.outcomes()
        assert (2, "UNCERTAIN", "store lost") in a.outcomes()
    assert a.kinds().count("peer_store_gone") == 1
    assert at_rest(a, b)


def test_a_sender_with_a_new_store_leaves_its_old_messages_to_be_handled() -> None:
    a, b, pump = pair()
    a.send("b", b"1", b"2")
    pump.run()
    lose_store(a)
    meet(pump)
    a.send("b", b"3")
    pump.run()
    assert [body for body, _ in handle_all(b, pump)] == [b"1", b"2", b"3"]
    assert a.outcomes() == [(1, "HANDLED", None)], "F4: settlements of the old store's lanes have no meaning here"
    assert b.kinds().count("peer_store_gone") == 1
    assert at_rest(a, b)


@pytest.mark.parametrize("healed", [False, True])
def test_a_new_store_that_was_named_more_numbers_than_were_sent_shows_an_old_copy(healed: bool) -> None:
    """A lost life met it, and named its lanes; nothing else was said. Here that its predecessor knew of no lost life,
    or of another one, does not count."""
    host = Host("a", Time())
    puppet = Puppet(host)
    host.send("puppet", b"1")
    if healed:
        puppet.live_anew(you_are_old=True)
    lane = host.send("puppet", b"2").lane
    host.engine.link_down(puppet.link)
    host.turn()
    puppet.store_id += 1
    puppet.knows = None
    told = host.kinds().count("old_copy")
    puppet.live_anew(floors=[(lane.id, 5)])
    assert host.kinds().count("old_copy") == told + 1
    assert lane.closed
    assert host.send("puppet", b"3").lane.id != lane.id


def test_two_stores_that_take_turns_both_heal_an_old_copy() -> None:
    """Two processes have one name. What the first had told the old copy before the second took the name is forgotten
    there, and it has to be told again, or the copy hands over nothing of it any more."""
    time = Time()
    a, first, second = Host("a", time), Host("b", time), Host("b", time)
    second.lives = 50
    second.store = MemoryStore(durability=second.options.durability)
    second.open()
    for host in (a, first, second):
        host.serve()

    def handle_everything() -> None:
        for host in (a, first, second):
            while (row := host.buffers[QUEUE].take(host.now().store_us)) is not None:
                host.finish(row, HANDLED)

    pumps = {id(first): Pump(first, a), id(second): Pump(second, a)}
    pumps[id(second)]._link = 1000

    def meet_as_b(host: Host, keep: Callable[[Host, frames.Frame], bool] = keep_all) -> None:
        for link in list(a.engine.channels["b"].sessions.open):
            a.engine.link_down(link)
        a.turn()
        pump = pumps[id(host)]
        pump.connect()
        for seconds in (12, 2):
            pump.pass_s(seconds, keep)
            handle_everything()

    pumps[id(first)].connect()
    a.send("b", b"1")
    first.send("a", b"2")
    for host in (first, second, first):
        meet_as_b(host)
    copy = a.store.snapshot()
    a.send("b", b"3")
    first.send("a", b"4")
    pumps[id(first)].run()
    handle_everything()
    roll_back(a, copy)
    meet_as_b(first, lambda host, frame: host is first or frame.type != frames.ACK)
    meet_as_b(second)
    a.send("b", b"5")
    meet_as_b(first)
    first.send("a", b"6")
    meet_as_b(first)
    assert not a.engine.channels["b"].healing.awaits_state
    assert not first.engine.channels["a"].healing.awaits_state
    assert a.engine.stats()["inbox_messages"] == 0


@pytest.mark.parametrize("dials", [True, False])
def test_a_store_that_comes_back_after_another_had_its_place_is_told_what_became_of_its_messages(dials: bool) -> None:
    """The operator found the lost disk after all: what it had sent is not handed over twice, and not forgotten."""
    time = Time()
    a, b = Host("a", time), Host("b", time)
    b.serve()
    pump = Pump(a, b) if dials else Pump(b, a)
    pump.connect()
    first = a.send("b", b"1")
    pump.run()
    found = a.store.snapshot()
    lose_store(a)
    meet(pump)
    a.send("b", b"2")
    pump.run()
    roll_back(a, found)
    a.notices.clear()
    meet(pump)
    assert [body for body, _ in handle_all(b, pump)] == [b"1", b"2"]
    assert a.outcomes() == [(first.first, "HANDLED", None)]
    assert b.kinds().count("peer_store_gone") == 2
    assert at_rest(a, b)


def test_a_damaged_settlement_that_an_old_copy_had_not_sent_is_made_up_for_by_its_state() -> None:
    a, b, pump = pair()
    a.send("b", b"1", b"2")
    pump.run()
    for host in (a, b):
        host.engine.link_down(1)
    b.finish(b.take(), HANDLED)
    damage(b, tables.OUTBOX, 8)
    copy = b.store.snapshot()
    # The life that is lost is heard of, its settlement is not.
    a.turn([], c.Connect("b", "there"))
    b.turn([], c.Connect("a", None))
    pump.run(lambda host, frame: host is a or frame.type != frames.DATA)
    assert a.outcomes() == []
    roll_back(b, copy)
    meet(pump)
    assert a.outcomes() == [(1, "UNCERTAIN", "store lost")], "its sender does not wait for ever"
    assert handle_all(b, pump) == [(b"2", True)]
    assert at_rest(a, b)


def test_a_tombstone_does_not_outlive_the_store_of_its_sender() -> None:
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve()
    puppet.withdraw(1)
    assert len(host.store.keys(*tables.table_bounds(tables.TOMBSTONE), 9)) == 1
    puppet.lose_store()
    puppet.data(1, *encode_messages([b"1"], host.now().store_us, 0, b""))
    assert bytes(host.take().body) == b"1"
    assert host.store.keys(*tables.table_bounds(tables.TOMBSTONE), 9) == []


def test_a_lane_that_its_sender_does_not_name_any_more_is_closed() -> None:
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve()
    puppet.data(1, *encode_messages([b"1"], host.now().store_us, 0, b""))
    puppet.live_anew(lanes=[[0xC0, CONTROL, "", False, 1, 1, 0]])
    lane = host.engine.channels["puppet"].theirs[MESSAGES]
    assert (lane.closed, lane.doubt_upto) == (True, 1)
    row = host.take()
    assert row.doubt


# ---------------------------------------------------------------------------------------------------- STATE


def test_state_about_other_stores_is_ignored() -> None:
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host)
    stored = host.send("puppet", b"1")
    received = [InLaneState(stored.lane.id, 1, 1, [], [])]
    own = host.engine.shared.ledger.store_id
    puppet.control(
        State(puppet.store_id ^ 1, own, received, [], True), State(puppet.store_id, own ^ 1, received, [], True)
    )
    assert host.outcomes() == []
    puppet.control(State(puppet.store_id, own, [InLaneState(12345, 1, 1, [], []), *received], [], True))
    assert host.outcomes() == [(1, "UNCERTAIN", "store lost")]


def test_state_ends_what_is_neither_held_nor_still_to_come_and_takes_causes_of_tombstones() -> None:
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host)
    stored = host.send("puppet", *[b"x"] * 8)
    held = InLaneState(stored.lane.id, 1, 5, [(1, 2), (4, 4)], [(6, Cause.RECALL.value), (99, Cause.RECALL.value)])
    puppet.control(State(puppet.store_id, host.engine.shared.ledger.store_id, [held], [], True))
    assert sorted(host.outcomes()) == [
        (3, "UNCERTAIN", "store lost"),
        (5, "UNCERTAIN", "store lost"),
        (6, "RECALLED", "recalled"),
    ]


def test_state_drops_rows_whose_outcome_is_known_but_none_that_runs() -> None:
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    host.serve()
    puppet.data(1, *encode_messages([b"1", b"2", b"3", b"4", b"5"], host.now().store_us, 0, b""))
    running = host.take()
    puppet.withdraw(7, 9)
    sent = [OutLaneState(MESSAGES, 1, 4, 4, False, [(3, 3)]), OutLaneState(777, 1, 4, 4, False, [])]
    puppet.control(State(puppet.store_id, host.engine.shared.ledger.store_id, [], sent, True))
    assert host.store.keys(*tables.table_bounds(tables.TOMBSTONE), 9) == [], "they would kill a later message"
    assert [bytes(host.take().body) for _ in range(2)] == [b"3", b"5"]
    host.finish(running, HANDLED)
    assert (1, "HANDLED", None, True) in puppet.settlements()


def test_state_of_a_closed_lane_drops_its_tombstones_above_the_boundary() -> None:
    """What lies above never comes; what lies below may, and was settled when it was withdrawn."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    puppet.withdraw(1, 5)
    sent = [OutLaneState(MESSAGES, 1, 4, 4, True, [(1, 1)])]
    puppet.control(State(puppet.store_id, host.engine.shared.ledger.store_id, [], sent, True))
    stones = host.store.keys(*tables.table_bounds(tables.TOMBSTONE), 9)
    assert [tables.split_lane_seq(key)[1] for key in stones] == [1]
    assert host.engine.channels["puppet"].theirs[MESSAGES].doubt_upto == 0
    puppet.data(1, *encode_messages([b"1"], host.now().store_us, 0, b""))
    assert host.engine.stats()["inbox_messages"] == 0


# --------------------------------------------------------------------------------------------------- damage


def damage(host: Host, table: int, at: int = 25) -> None:
    host.store.damage(host.store.keys(*tables.table_bounds(table), 1)[0], at)


def test_a_damaged_message_that_never_left_is_exhausted_and_goes_as_a_void() -> None:
    a, b, pump = pair()
    a.turn([], c.Disconnect("b"))
    a.send("b", b"1")
    damage(a, tables.OUTBOX, 20)
    a.send("b", b"2")
    a.reopen()
    meet(pump)
    assert a.outcomes() == [(1, "EXHAUSTED", "damaged")]
    assert "damaged" in a.kinds()
    assert [body for body, _ in handle_all(b, pump)] == [b"2"]
    assert at_rest(a, b)


def test_a_damaged_message_that_may_have_left_is_uncertain() -> None:
    a, b, pump = pair()
    a.send("b", b"1", b"2")
    pump.run(DEAF)
    damage(a, tables.OUTBOX, 20)
    a.reopen()
    meet(pump)
    assert a.outcomes() == [(1, "UNCERTAIN", "damaged")]
    assert [body for body, _ in handle_all(b, pump)] == [b"2"]
    assert at_rest(a, b)


def test_a_damaged_settlement_is_skipped_and_state_is_sent_instead() -> None:
    """F14: its sender must not wait for ever."""
    a, b, pump = pair()
    a.send("b", b"1", b"2")
    pump.run()
    b.finish(b.take(), HANDLED)
    pump.run(DEAF)
    damage(b, tables.OUTBOX, 8)
    b.reopen()
    meet(pump)
    assert (1, "UNCERTAIN", "store lost") in a.outcomes()
    handle_all(b, pump)
    assert (2, "HANDLED", None) in a.outcomes()
    assert at_rest(a, b)


def test_a_damaged_row_of_the_inbox_is_settled_uncertain() -> None:
    a, b, pump = pair()
    a.send("b", b"1", b"2", key="k")
    pump.run()
    damage(b, tables.INBOX, 30)
    b.reopen()
    meet(pump)
    assert [body for body, _ in handle_all(b, pump)] == [b"2"]
    assert sorted(a.outcomes()) == [(1, "UNCERTAIN", "damaged"), (2, "HANDLED", None)]
    assert at_rest(a, b)


# -------------------------------------------------------------------------------------------------- too large


def test_what_the_peer_does_not_take_is_exhausted_and_those_behind_it_go_on() -> None:
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host, dial=False)
    puppet.largest_entry = 100
    puppet.dial()
    host.send("puppet", b"1", b"x" * 200, b"2")
    assert host.outcomes() == [(2, "EXHAUSTED", "224 bytes, but the peer takes 100")]
    assert host.engine.stats()["dead_messages"] == 1
    assert host.engine.stats()["sent"] == 2


def test_control_entries_pass_however_small_the_bodies_are_that_the_peer_takes() -> None:
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host, dial=False)
    puppet.largest_entry = 60
    puppet.dial()
    stored = host.send("puppet", *[b""] * 100)
    host.turn([], c.Recall([(stored.lane.no, seq) for seq in range(1, 101, 2)]))
    puppet.listen()
    assert len(puppet.told) == 1
    assert host.kinds() == []


def test_settlements_that_an_old_copy_had_not_sent_lose_their_certainty() -> None:
    a, b, pump = pair()
    stored = a.send("b", b"1", b"2")
    pump.run()
    b.finish(b.take(), HANDLED)
    pump.pass_s(1)
    pump.hosts[0].engine.link_down(1)
    b.engine.link_down(1)
    b.turn()
    # Nobody is connected: the second is judged by its receiver alone, and the news stays in its outbox.
    lane = b.engine.channels["a"].theirs[stored.lane.id]
    b.engine.begin(b.now(), 0)
    b.engine._inbox.withdraw(lane, [(2, 2)], Cause.RECALL)
    b._apply(b.engine.finish())
    snapshot = b.store.snapshot()
    meet(pump)
    assert a.outcomes()[-1] == (2, "RECALLED", "recalled")
    a.send("b", b"3")
    pump.run()
    handle_all(b, pump)
    roll_back(b, snapshot)
    meet(pump)
    told = [entry for entry in a.outcomes() if entry[0] == 2]
    assert told == [(2, "RECALLED", "recalled")], "what was told stands"
    assert at_rest(a, b)


def test_a_damaged_message_of_an_old_copy_is_not_moved_but_ended() -> None:
    a, b, pump = pair()
    a.send("b", b"1")
    pump.run()
    handle_all(b, pump)
    snapshot = a.store.snapshot()
    a.send("b", b"2")
    pump.run()
    handle_all(b, pump)
    roll_back(a, snapshot)
    a.turn([], c.Connect("b", None))
    a.send("b", b"3", id="x" * 10)
    damage(a, tables.OUTBOX, 3)
    meet(pump)
    assert (2, "EXHAUSTED", "damaged") in a.outcomes()
    assert at_rest(a, b)


def test_two_old_copies_find_each_other_and_come_to_rest() -> None:
    a, b, pump = pair()
    a.send("b", b"1", b"2")
    pump.run()
    b.finish(b.take(), HANDLED)
    pump.run()
    snapshots = a.store.snapshot(), b.store.snapshot()
    a.send("b", b"3")
    pump.run()
    handle_all(b, pump)
    roll_back(a, snapshots[0])
    roll_back(b, snapshots[1])
    meet(pump)
    handle_all(b, pump)
    pump.pass_s(5)
    assert at_rest(a, b)
    a.send("b", b"after")
    pump.run()
    assert [body for body, _ in handle_all(b, pump)] == [b"after"]


def test_both_dial_and_one_is_an_old_copy() -> None:
    time = Time()
    a, b = Host("a", time), Host("b", time)
    b.serve()
    pump = Pump(a, b)
    pump.connect(both=True)
    a.send("b", b"1", b"2")
    pump.run()
    snapshot = b.store.snapshot()
    handle_all(b, pump)
    roll_back(b, snapshot)
    b.turn([], c.Connect("a", "here"))
    pump.pass_s(5)
    assert handle_all(b, pump) == []
    assert sorted(a.outcomes()) == [(1, "HANDLED", None), (2, "HANDLED", None)]
    assert at_rest(a, b)
