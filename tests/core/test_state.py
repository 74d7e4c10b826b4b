"""STATE in parts: as many as it takes, each true by itself, whatever comes between them and whoever wrote them."""

from __future__ import annotations

from typing import Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.pump import QUEUE, Host, Time
from tests.core.puppet import MESSAGES, PATIENT, Puppet
from tests.sim.helpers import Seen, leftovers, pair, settled
from zmqrel.core import frames
from zmqrel.core.entries import (
    LARGEST_CONTROL,
    MOST_IN_STATE,
    InLaneState,
    OutLaneState,
    State,
    encode_control,
    encode_messages,
    to_ranges,
)
from zmqrel.core.lane import CONTROL, DATA
from zmqrel.outcome import Cause, Outcome
from zmqrel.testing import Network
from zmqrel.testing.checkers import Checker


@pytest.fixture
def in_many_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every STATE has many parts, and each travels in a frame of its own."""
    monkeypatch.setattr("zmqrel.core.state.MOST_IN_STATE", 3)
    monkeypatch.setattr("zmqrel.core.transmit.FRAME_BYTES", 1)


def find_out(puppet: Puppet, lanes: list[list[Any]]) -> None:
    """Let the host know that its store is an old copy."""
    ledger = puppet.host.engine.shared.ledger
    heard = [ledger.store_id, ledger.instance, ledger.commit_count + 10]
    puppet.live_anew(heard=heard, lanes=lanes)
    puppet.session = b"in_peace"
    puppet.dial(b"in_peace", heard=heard, lanes=lanes)


def listen_to_the_end(puppet: Puppet) -> list[State]:
    """What the host says of its state, part by part."""
    puppet.ack_control()
    return [entry for entry in puppet.told if isinstance(entry, State)]


# ------------------------------------------------------------------------------------------------ a large one


def test_a_state_of_many_megabytes_is_told_whole() -> None:
    """Messages far apart, each a range of its own, with the longest numbers there are."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    apart, count, at_once = 2**44, 240_000, 24_000
    record = encode_messages([b""], host.now().store_us, 0, b"")[0]
    for first in range(0, count, at_once):
        puppet.data(1 + first * apart, *[record] * at_once, runs=[1, 1 - apart] * at_once)
    find_out(puppet, [[MESSAGES, DATA, QUEUE, False, 1, 2 + count * apart, 0], [0xC0, CONTROL, "", False, 1, 1, 0]])
    parts = listen_to_the_end(puppet)
    sizes = [len(encode_control(part)) for part in parts]
    assert sum(sizes) > 4 << 20
    assert max(sizes) < LARGEST_CONTROL // 8
    assert [part.final for part in parts] == [False] * (len(parts) - 1) + [True]
    pieces = [piece for part in parts for piece in part.received]
    assert [piece.first for piece in pieces] == [1] + [piece.last + 1 for piece in pieces[:-1]], "without a hole"
    assert pieces[-1].last == 1 + count * apart - 1
    assert [held for piece in pieces for held in piece.held] == [(1 + n * apart,) * 2 for n in range(count)]
    assert not host.engine.channels["puppet"].healing.i_am_old, "said no longer, once the last part is acknowledged"


def test_a_large_state_is_taken_part_by_part() -> None:
    """What lies between two parts is lost too, and what the other said of the last number of a part counts."""
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host)
    lane_id = host.send("puppet", *[b""] * 30_000).lane.id
    puppet.ack(lane_id, 0)
    puppet.ack(lane_id, 30_000)
    own = host.engine.shared.ledger.store_id
    held = [seq for seq in range(1, 30_001) if seq % 3]
    ranges = to_ranges(held)
    half = len(ranges) // 2
    cut = ranges[half - 1][1]
    puppet.control(State(puppet.store_id, own, [InLaneState(lane_id, 1, cut, ranges[:half], [])], [], False))
    assert max(seq for seq, _, _ in host.outcomes()) < cut
    puppet.control(State(puppet.store_id, own, [InLaneState(lane_id, cut + 1, 29_999, ranges[half:], [])], [], True))
    ended = {seq: outcome for seq, outcome, _ in host.outcomes()}
    assert set(ended) == set(range(1, 30_000)) - set(held)
    assert set(ended.values()) == {"UNCERTAIN"}


def test_unsettled_messages_and_tombstones_are_told_in_parts_too(in_many_parts: None) -> None:
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    lane = host.send("puppet", *[b""] * 20).lane
    for seq in range(2, 20, 2):
        puppet.settle(lane.id, seq, Outcome.HANDLED)
    puppet.withdraw(*range(1, 10))
    find_out(puppet, [[MESSAGES, DATA, QUEUE, False, 1, 20, 0], [0xC0, CONTROL, "", False, 1, 11, 0]])
    parts = listen_to_the_end(puppet)
    sent = [piece for part in parts for piece in part.sent if piece.lane_id == lane.id]
    assert [each for piece in sent for each in piece.unsettled] == [(n, n) for n in range(1, 19, 2)] + [(19, 20)]
    assert {(piece.mark, piece.closed) for piece in sent} == {(20, True)}
    assert (sent[0].first, sent[-1].last) == (1, 20)
    tombstones = [each for part in parts for piece in part.received for each in piece.tombstones]
    assert tombstones == [(n, Cause.RECALL.value) for n in range(1, 10)]
    assert len(parts) > 10


SEQS = st.integers(1, 60)
RANGES = st.sets(SEQS).map(lambda seqs: to_ranges(sorted(seqs)))


@given(ranges=RANGES, first=st.integers(0, 70), last=st.integers(0, 70), shuffled=st.randoms(use_true_random=False))
def test_rows_are_dropped_where_no_range_covers_them_and_nowhere_else(
    ranges: list[tuple[int, int]], first: int, last: int, shuffled: Any
) -> None:
    """Whatever a peer says is unsettled of 1 to 60: rows between first and last that it does not name go."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    puppet.data(1, *encode_messages([b""] * 60, host.now().store_us, 0, b""))
    shuffled.shuffle(ranges)
    told = OutLaneState(MESSAGES, first, last, 50, False, ranges)
    puppet.control(State(puppet.store_id, host.engine.shared.ledger.store_id, [], [told], True))
    named = {seq for start, stop in ranges for seq in range(start, stop + 1)}
    gone = {seq for seq in range(max(1, first), min(last, 50) + 1) if seq not in named}
    lane = host.engine.channels["puppet"].theirs[MESSAGES]
    left = host.engine.shared.inbox_runs.spans(lane.no)
    assert {seq for start, stop in left for seq in range(start, stop + 1)} == set(range(1, 61)) - gone


# ---------------------------------------------------------------------------------------------- hostile parts


def test_a_part_that_says_too_much_is_refused() -> None:
    """So that a peer cannot keep another busy with one entry. What is at the limit is taken."""
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host)
    lane = host.send("puppet", *[b""] * 3).lane
    own = host.engine.shared.ledger.store_id
    ranges = [(2, 2)] * (MOST_IN_STATE - 1)
    for received, sent in (
        ([InLaneState(lane.id, 1, 2, [*ranges, (2, 2)], [])], []),
        ([InLaneState(lane.id, 1, 2, ranges, [(2, 1)])], []),
        ([InLaneState(lane.id, 1, 2, ranges, [])], [OutLaneState(5, 1, 0, 0, False, [])]),
    ):
        puppet.control(State(puppet.store_id, own, received, sent, True))
        puppet.records.clear()
    assert host.engine.stats()["malformed"] == 3
    assert host.outcomes() == []
    puppet.control(State(puppet.store_id, own, [InLaneState(lane.id, 1, 2, ranges, [])], [], True))
    assert host.outcomes() == [(1, "UNCERTAIN", "store lost")]


def test_parts_without_an_end_take_no_memory() -> None:
    """Each is applied and forgotten: nothing waits for the last one."""
    host = Host("a", Time(), **PATIENT)
    puppet = Puppet(host)
    host.send("puppet", b"")
    own = host.engine.shared.ledger.store_id
    ranges = [(2 * n, 2 * n) for n in range(1, MOST_IN_STATE)]
    before = len(msgpack.packb(list(host.store.scan(b"\x01", b"\xff", 10_000))))
    for _ in range(50):
        puppet.control(State(puppet.store_id, own, [InLaneState(77, 1, 2 * MOST_IN_STATE, ranges, [])], [], False))
        host.time.pass_s(1)  # who says so much at once is slowed
    after = len(msgpack.packb(list(host.store.scan(b"\x01", b"\xff", 10_000))))
    assert after - before < 1000
    host.turn()
    assert puppet.last(frames.ACK).fields[0][-1].floor == 50


# --------------------------------------------------------------------------------- what happens between two parts


def rolled_back(in_flight: str) -> tuple[Network, Checker, list[Any]]:
    """Two peers that have just met again, one with an old copy of its store; many messages lie scattered at both."""
    network = pair(3, heartbeat_s=0.5, liveness_s=2)
    checker, receipts = Checker(network), []
    for n in range(40):
        receipts.append(network.send("shop", "bank", n, queue="slow"))
        receipts.append(network.send("bank", "shop", 100 + n, queue="slow"))
    network.advance(0.3)
    for n in range(0, 60, 4):
        network.recall(receipts[n])
        network.recall(receipts[n + 1])
    network.advance(0.3)
    copy = network.backup(in_flight)
    for n in range(60, 80, 4):
        network.recall(receipts[n])
        network.recall(receipts[n + 1])
    network.send(in_flight, "bank" if in_flight == "shop" else "shop", 300, queue="slow")
    network.advance(0.3)
    network.crash(in_flight)
    network.restore(in_flight, copy)
    network.restart(in_flight)
    return network, checker, receipts


def come_to_rest(network: Network, checker: Checker, receipts: list[Any]) -> None:
    for name in ("bank", "shop"):
        network.handler(name, "slow", Seen())
    assert settled(network, [receipt for receipt in receipts if not receipt.forgotten], 60)
    network.advance(3)
    checker.check_all_ended()
    assert leftovers(network) == {}
    for peer in network.peers.values():
        for channel in peer.engine.channels.values():
            healing = channel.healing
            assert [healing.awaits_state, healing.i_am_old, healing.you_are_old] == [False] * 3


@pytest.mark.parametrize("old", ["shop", "bank"])
@pytest.mark.parametrize("event", ["nothing", "crash of shop", "crash of bank", "break", "both crash"])
@pytest.mark.parametrize("parts", [1, 5, 12])
def test_a_state_comes_through_whatever_happens_in_its_middle(
    in_many_parts: None, old: str, event: str, parts: int
) -> None:
    network, checker, receipts = rolled_back(old)
    heard = 0

    def interfere(sender: str, receiver: str, packed: list[bytes]) -> bool:
        """Count the parts of `old`, lose some of them, and let the event come in their middle."""
        nonlocal heard
        frame = frames.decode(packed)
        if sender != old or frame.type != frames.DATA or frame.fields[0].kind != CONTROL:
            return False
        heard += 1
        if heard == parts:
            network.after(0, act)
        return heard % 5 == 0

    def act() -> None:
        for name in ("shop", "bank"):
            if event in (f"crash of {name}", "both crash"):
                network.crash(name)
                network.restart(name)
        if event == "break":
            network.reconnect("shop", "bank")

    network.links.censor = interfere
    assert network.until(lambda: heard >= parts, 10)
    network.advance(2)
    network.links.censor = None
    assert "old_copy" in network.kinds(old)
    come_to_rest(network, checker, receipts)


@pytest.mark.parametrize("second", ["shop", "bank"])
def test_a_store_is_put_back_while_a_state_is_on_its_way(in_many_parts: None, second: str) -> None:
    network, checker, receipts = rolled_back("bank")
    copy = network.backup(second)
    states = 0

    def count(sender: str, receiver: str, packed: list[bytes]) -> bool:
        nonlocal states
        frame = frames.decode(packed)
        states += frame.type == frames.DATA and frame.fields[0].kind == CONTROL
        return states > 8

    network.links.censor = count
    assert network.until(lambda: states > 8, 10)
    network.crash(second)
    network.restore(second, copy)
    network.links.censor = None
    network.restart(second)
    come_to_rest(network, checker, receipts)
