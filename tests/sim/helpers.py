"""What the tests of the simulator share: two peers, and what their stores hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zmqrel.testing import Delivery, Network, SimulatedReceipt
from zmqrel.testing.workload import left_by


def pair(seed: int = 1, *, both_dial: bool = False, **options: Any) -> Network:
    """Two connected peers: `shop` dials `bank`."""
    network = Network(seed)
    network.peer("shop", {"bank": True}, **options)
    network.peer("bank", {"shop": both_dial}, **options)
    assert network.until(lambda: network.peers["shop"].connected("bank") and network.peers["bank"].connected("shop"), 5)
    network.advance(0.1)
    return network


class Seen:
    """A handler that notes what it was given."""

    def __init__(self) -> None:
        self.deliveries: list[Delivery] = []

    def __call__(self, delivery: Delivery) -> None:
        self.deliveries.append(delivery)

    @property
    def bodies(self) -> list[Any]:
        """Bodies, in the order in which they were handled."""
        return [delivery.body for delivery in self.deliveries]


def outcomes(receipts: Iterable[SimulatedReceipt]) -> list[str | None]:
    """Names of the outcomes, None where there is none."""
    return [None if receipt.outcome is None else receipt.outcome.name for receipt in receipts]


def settled(network: Network, receipts: Iterable[SimulatedReceipt], timeout: float = 60) -> bool:
    """Let time pass until all have an outcome."""
    waiting = list(receipts)
    return network.until(lambda: all(receipt.outcome for receipt in waiting), timeout)


def leftovers(network: Network) -> dict[str, int]:
    """What is left though every message has its outcome: peer and table, and how many rows."""
    return {what: number for name in network.peers for what, number in left_by(network, name).items()}
