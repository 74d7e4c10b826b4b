"""A simulated network for tests: virtual time, faults at will, the production core inside."""

from zmqrel.testing.links import LinkFaults
from zmqrel.testing.network import Network
from zmqrel.testing.peer import Delivery, Moving, SimulatedPeer, SimulatedReceipt

__all__ = ["Delivery", "LinkFaults", "Moving", "Network", "SimulatedPeer", "SimulatedReceipt"]
