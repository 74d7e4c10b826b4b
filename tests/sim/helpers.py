"""What the tests of the simulator share: two peers, and what their stores hold."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zmqrel.core import tables
from zmqrel.testing import Delivery, Network, SimulatedReceipt

MUST_BE_EMPTY = {
    "OUTBOX": tables.OUTBOX,
    "WITHDRAWN": tables.WITHDRAWN,
    "OUT_DEADLINE": tables.OUT_DEADLINE,
    "INBOX": tables.INBOX,
    "ROW_STATE": tables.ROW_STATE,
    "WAITING": tables.WAITING,
    "KEYED": tables.KEYED,
    "IN_DEADLINE": tables.IN_DEADLINE,
    "TOMBSTONE": tables.TOMBSTONE,
    "SUSPECT": tables.SUSPECT,
}


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
    """Tables that are not empty though every message has its outcome: peer and table, and how many rows."""
    found = {}
    for name, peer in network.peers.items():
        control = {lane.no for lane in peer.engine.shared.out_lanes.values() if not lane.queue}
        for table_name, table in MUST_BE_EMPTY.items():
            keys = peer.disk.keys(*tables.table_bounds(table), 2**31)
            if table == tables.OUTBOX:
                keys = [key for key in keys if tables.split_lane_seq(key)[0] not in control]
            if keys:
                found[f"{name} {table_name}"] = len(keys)
        stats = peer.engine.stats()
        for counter in ("outbox_messages", "outbox_bytes", "inbox_messages", "inbox_bytes"):
            if stats[counter]:
                found[f"{name} {counter}"] = stats[counter]
    return found
