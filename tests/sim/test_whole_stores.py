"""Whatever happens to peers, their stores stay whole: looked at again and again while random workloads run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace
from random import Random

import pytest

from zmqrel.core.journal import Journal
from zmqrel.core.verification import Fault, Totals, compare, examine
from zmqrel.store import MemoryStore
from zmqrel.testing import Network
from zmqrel.testing.mixes import MIXES
from zmqrel.testing.whole_store import WholeStore
from zmqrel.testing.workload import Workload

EVERY_S = 0.3
STEPS = 50


def faults_of(store: MemoryStore) -> list[Fault]:
    """What verification finds in a store."""
    faults: list[Fault] = []
    totals = Totals()
    last: bytes | None = b"\x01"
    while last is not None:
        page = examine(Journal(store), last)
        faults += page.faults
        totals, last = totals.plus(page.totals), page.last
    return faults + (compare(totals, page.ledger) if page.commits else [])


class Watch:
    """Looks at all stores of a network every now and then."""

    def __init__(self, network: Network) -> None:
        self.looked = 0
        self.again: defaultdict[str, WholeStore] = defaultdict(WholeStore)
        self._network = network
        network.after(EVERY_S, self._look)

    def _look(self) -> None:
        for name, peer in self._network.peers.items():
            assert faults_of(peer.disk) == [], name
            assert self.again[name].faults(peer.disk) == [], name
            self.looked += 1
        self._network.after(EVERY_S, self._look)


@pytest.mark.long
@pytest.mark.parametrize("seed", [3000, 3001])
@pytest.mark.parametrize("mix", [name for name, mix in MIXES.items() if not mix.damage])
def test_stores_are_whole_at_every_moment(mix: str, seed: int) -> None:
    workload = Workload(seed, replace(MIXES[mix], steps=STEPS))
    watch = Watch(workload.network)
    workload.run()
    assert watch.looked > 10


@pytest.mark.parametrize("seed", range(3))
def test_a_look_at_what_changed_finds_what_a_look_at_all_finds(seed: int) -> None:
    workload, rng = Workload(seed, replace(MIXES["everything"], steps=0)), Random(seed)
    again: defaultdict[str, WholeStore] = defaultdict(WholeStore)
    seen = 0
    for step in range(25):
        workload.step = step
        workload._step()
        workload.network.advance(0.1)
        for name, peer in workload.network.peers.items():
            copy = peer.disk.snapshot()
            for _ in range(rng.randrange(3)):
                _spoil(copy, rng)
            faults = faults_of(copy)
            seen += len(faults)
            assert sorted(again[name].faults(copy)) == sorted(faults)
    assert seen > 50


def _spoil(store: MemoryStore, rng: Random) -> None:
    """Do something to a row, or to one that others need, that no sound peer does."""
    key, value = rng.choice(store.scan(b"\x01", b"\xff", 2**31))
    if rng.random() < 0.5:
        store.delete(key)
    else:
        at = rng.randrange(len(value) + 1)
        store.put(key, value[:at] + bytes([rng.randrange(256)]) + value[at + 1 :])
