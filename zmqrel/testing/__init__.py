"""A simulated network for tests: virtual time, faults at will, the production core inside. See docs/testing.md.

`Network` and its `Peer` are for users. The rest is what the simulator's own workloads are made of.
"""

from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.double import Peer
from zmqrel.testing.links import LinkFaults
from zmqrel.testing.network import Network
from zmqrel.testing.peer import Delivery, Moving, SimulatedPeer, SimulatedReceipt

__all__ = [
    "Delivery",
    "LinkFaults",
    "Moving",
    "Network",
    "Peer",
    "PromiseBroken",
    "SimulatedPeer",
    "SimulatedReceipt",
]
