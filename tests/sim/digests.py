"""One number for all that happened in a run: every frame, every event, and what the stores hold at its end.

    python -m tests.sim.digests MIX SEED STEPS ...      a line for each three arguments, and what Python made them

Runs of one seed have one digest, whatever Python and whatever PYTHONHASHSEED; of another core, another one.
"""

from __future__ import annotations

import platform
import sys
from hashlib import blake2b
from typing import Any

from zmqrel.core import tables
from zmqrel.testing.links import Process
from zmqrel.testing.mixes import MIXES, with_steps
from zmqrel.testing.network import Network
from zmqrel.testing.peer import Delivery, SimulatedPeer, SimulatedReceipt
from zmqrel.testing.workload import Workload


class Digest:
    """Takes in what a network shows from now on."""

    def __init__(self, network: Network) -> None:
        self._network = network
        self._hash = blake2b(digest_size=16)
        self.taken = 0
        self._tap = network.links.tap
        network.links.tap = self._frame
        network.watch(self._event)

    def _add(self, *what: object) -> None:
        self.taken += 1
        self._hash.update(repr((self._network.now, *what)).encode())

    def _frame(self, sender: Process, receiver: str | None, parts: list[bytes]) -> None:
        self._add(sender.name, sender.life, receiver, parts)
        if self._tap is not None:
            self._tap(sender, receiver, parts)

    def _event(self, what: str, *details: Any) -> None:
        self._add(what, *map(_told, details))

    def end(self) -> str:
        """The digest, with what peers reported and what lies in their stores now."""
        for reported in self._network.events:
            self._add(*reported)
        for name, peer in self._network.peers.items():
            self._add(name, peer.disk.scan(tables.META, b"\xff", 2**31))
        return self._hash.hexdigest()


def _told(detail: object) -> object:
    """What is seen of a detail of an event, without what Python makes of the rest of it."""
    if isinstance(detail, SimulatedPeer):
        return detail.name, detail.life
    if isinstance(detail, SimulatedReceipt):
        return detail.sender, detail.to, detail.id, detail.place, detail.body
    if isinstance(detail, Delivery):
        return detail.id, detail.sender, detail.to, detail.queue, detail.attempt, detail.redelivered, detail.body
    return detail


def digest(mix: str, seed: int, steps: int) -> str:
    """Of the whole run."""
    workload = Workload(seed, with_steps(MIXES[mix], steps))
    taken = Digest(workload.network)
    workload.run()
    return f"{taken.end()} of {taken.taken} frames and events"


def main(arguments: list[str]) -> None:
    """See the module."""
    print(f"{platform.python_implementation()} {platform.python_version()}")
    for mix, seed, steps in zip(*[iter(arguments)] * 3, strict=True):
        print(f"{mix} {seed} {steps}: {digest(mix, int(seed), int(steps))}", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
