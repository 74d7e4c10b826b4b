"""Who has whose key on a simulated network; and a watch that nobody gets in without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from zmqrel.core import commands as c
from zmqrel.testing.broken import PromiseBroken

if TYPE_CHECKING:
    from zmqrel.testing.network import Network
    from zmqrel.testing.peer import SimulatedPeer

STRANGER: Final = "stranger"
"""Whose key an impostor has: every peer knows it, under this name."""


class Keys:
    """Of all peers of a network. What the handshake does to who has none, it does to frames."""

    def __init__(self, network: Network) -> None:
        """Every peer has the keys of all others."""
        self._network = network
        self._revoked: set[tuple[str, str]] = set()
        """At whom, and of whom."""
        network.on("turn", self._on_turn)
        network.on("impersonated", self._on_impersonated)

    def name_of(self, peer: SimulatedPeer, link: int) -> str | None:
        """Who is at the other end of a link of a peer, by the key; None if it is not known there (any more)."""
        other = self._network.links.other_end(peer, link)
        if other is None:
            return None
        name = STRANGER if other.is_impostor else other.name
        return name if self.knows(peer, name) else None

    def knows(self, peer: SimulatedPeer, name: str) -> bool:
        """Whether a peer has the key of another one now."""
        return (peer.name, name) not in self._revoked

    def revoke(self, at: str, name: str) -> None:
        """Take the key of one peer from another, whose connections to it end."""
        self._revoked.add((at, name))
        self._network.links.break_all(at, name)
        self._tell(at, c.Revoke(name))

    def authorise(self, at: str, name: str) -> None:
        """Give it back."""
        self._revoked.discard((at, name))
        self._tell(at, c.Authorise(name))

    def _tell(self, at: str, command: c.Command) -> None:
        peer = self._network.peers[at]
        if peer.running:
            peer.command(command)

    def _on_turn(self, name: str) -> None:
        for at, of in self._revoked:
            if at == name and self._network.peers[at].connected(of):
                raise PromiseBroken(f"{at} has a session with {of}, whose key was taken from it")

    def _on_impersonated(self, name: str, other: str) -> None:
        raise PromiseBroken(f"{other} takes a process with another key for {name}")
