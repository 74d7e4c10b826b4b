"""Whatever happens to peers, their stores stay whole: looked at again and again while random workloads run."""

from __future__ import annotations

from dataclasses import replace

import pytest

from zmqrel.core.journal import Journal
from zmqrel.core.verification import Fault, Totals, compare, examine
from zmqrel.store import MemoryStore
from zmqrel.testing import Network
from zmqrel.testing.mixes import MIXES
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
        self._network = network
        network.after(EVERY_S, self._look)

    def _look(self) -> None:
        for name, peer in self._network.peers.items():
            assert faults_of(peer.disk) == [], name
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
