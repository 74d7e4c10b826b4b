"""Large bodies: what is held of them in memory is bounded in bytes, and no worker waits for room that there is."""

from __future__ import annotations

from contextlib import nullcontext

import pytest

from tests.core.pump import QUEUE, RETRY, Host, Time
from tests.core.puppet import PATIENT, Puppet
from tests.sim.helpers import Seen, outcomes, settled
from tests.sim.helpers import pair as network_pair
from zmqrel.core.buffer import HANDLED, Buffer, Rejected
from zmqrel.core.entries import LARGEST_CONTROL, Settle, encode_control, encode_messages
from zmqrel.core.row import Row
from zmqrel.core.rows import Policy

MIB = 1 << 20
LIMIT_BYTES = 4 * MIB
"""Claimed for each handler, as docs/design.md says; one message more may be."""


def received(*sizes: int) -> Host:
    """A host that received bodies of these sizes, each in a frame of its own; nobody serves them."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    for seq, size in enumerate(sizes, 1):
        puppet.data(seq, *encode_messages([bytes(size)], host.now().store_us, 0, b""))
    return host


def serve(host: Host) -> Buffer:
    """A handler with the usual prefetch."""
    host.served[QUEUE] = Policy(RETRY)
    buffer = host.buffers[QUEUE] = Buffer(QUEUE, 64, host.in_hand, nullcontext(), lambda n: None)
    host.engine.serve(QUEUE, buffer, host.served[QUEUE])
    host.turn()
    return buffer


def in_memory(host: Host) -> int:
    """Bytes of all rows that the core holds."""
    lanes = host.engine.shared.in_lanes.values()
    return sum(len(row.record) for lane in lanes for row in lane.rows.values())


def test_a_prefetch_of_large_bodies_is_bounded_in_bytes() -> None:
    host = received(*[MIB] * 20)
    buffer = serve(host)
    taken: list[Row] = []
    while len(taken) < 20:
        assert 1 <= len(buffer) <= 5
        assert host.idle(), "what has no room is nothing to be busy with"
        while len(buffer):
            taken.append(host.take())
        host.turn()
    assert [row.seq for row in taken] == list(range(1, 21))


def test_one_message_is_claimed_however_large_it_is() -> None:
    host = received(6 * MIB, 10, 6 * MIB, 6 * MIB)
    buffer = serve(host)
    assert len(buffer) == 1
    seqs = []
    while len(buffer):
        row = host.take()
        seqs.append(row.seq)
        host.finish(row, HANDLED)
    assert seqs == [1, 2, 3, 4]


def test_small_messages_are_claimed_as_many_as_ever() -> None:
    host = received(*[100] * 100)
    assert len(serve(host)) == 64


@pytest.mark.parametrize("restarted", [False, True])
def test_a_backlog_of_large_bodies_lies_in_the_store(restarted: bool) -> None:
    """Nobody serves the queue, or a slow handler does: memory holds a few of them."""
    host = received(*[900_000] * 30)
    assert in_memory(host) <= LIMIT_BYTES + 900_100
    if restarted:
        host.reopen("clean")
    buffer = serve(host)
    seqs = []
    while len(buffer):
        assert in_memory(host) <= 3 * LIMIT_BYTES
        row = host.take()
        seqs.append(row.seq)
        host.finish(row, HANDLED)
        host.turn()
    assert seqs == list(range(1, 31))


def test_no_worker_idles_while_there_are_large_bodies_for_it() -> None:
    """Who takes the last of what was claimed wakes the loop: the others are not to wait until that one is through."""
    network = network_pair(window_bytes=64 * MIB, heartbeat_s=1000, liveness_s=5000)  # nothing else wakes it
    seen = Seen()
    receipts = [network.send("shop", "bank", bytes(2 * MIB)) for _ in range(12)]
    network.advance(0.9)
    network.handler("bank", "default", seen, workers=12, duration=100)
    start = network.now
    assert settled(network, receipts, 150)
    assert outcomes(receipts) == ["HANDLED"] * 12
    assert network.now - start < 101, "all at once, not one after the other"


def test_settlements_with_long_reasons_fit_their_frames() -> None:
    """A thousand messages are refused in one turn, each for a long reason of its own, in letters of four bytes."""
    host = Host("b", Time(), **PATIENT)
    puppet = Puppet(host)
    buffer = serve(host)
    puppet.data(1, *encode_messages([b"x"] * 1000, host.now().store_us, 0, b""))
    refused = 0
    while len(buffer):
        while len(buffer):
            row = host.take()
            buffer.finish(row, Rejected(chr(0x1F600) * 1990 + str(row.seq)))
            refused += 1
        host.turn()
    puppet.ack_control()
    told = [entry for entry in puppet.told if isinstance(entry, Settle)]
    assert refused == 1000
    assert sorted(each.first for entry in told for each in entry.ranges) == list(range(1, 1001))
    assert max(len(encode_control(entry)) for entry in told) <= LARGEST_CONTROL
