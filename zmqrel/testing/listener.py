"""An application that is told the outcomes of what it sent, as `Peer.on_outcome` does it, for the simulator."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from zmqrel.core import commands as c
from zmqrel.errors import StoreFull

if TYPE_CHECKING:
    from zmqrel.testing.network import Network

_LOOK_S = 0.1
_CALLBACK_S = 0.05
_AT_ONCE = 20


class Listener:
    """Asks a peer for outcomes in each of its lives, and says that it was told them when its callbacks returned."""

    def __init__(self, network: Network, name: str) -> None:
        """Listen from now on. Each outcome is observed as "told", with the peer's name, the id and the outcome."""
        self._network = network
        self._name = name
        self._life = -1
        self._busy = self._news = False
        network.on("ended", self._ended)
        network.on("started", self._started)
        if network.peers[name].running:
            self._subscribe()
        network.after(0, self._look)

    def _ended(self, name: str) -> None:
        self._news = self._news or name == self._name

    def _started(self, name: str) -> None:
        # As a peer does it: before its application can send.
        if name == self._name:
            self._subscribe()

    def _subscribe(self) -> None:
        peer = self._network.peers[self._name]
        self._life, self._busy, self._news = peer.life, False, True
        peer.command(c.Subscribe(), partial(self._subscribed, peer.life))

    def _look(self) -> None:
        self._network.after(_LOOK_S, self._look)
        peer = self._network.peers[self._name]
        if not peer.running:
            return
        if peer.life != self._life:
            self._subscribe()
        if self._news and not self._busy:
            self._busy, self._news = True, False
            peer.command(c.TakeOutcomes(_AT_ONCE), partial(self._take, peer.life))

    def _subscribed(self, life: int, answer: Any) -> None:
        if life == self._life and isinstance(answer, StoreFull):
            self._life = -1  # nothing is kept for it until that is committed: it is asked again

    def _take(self, life: int, answer: Any) -> None:
        if life != self._life:
            return
        if isinstance(answer, BaseException) or not answer[1]:
            self._busy, self._news = False, self._news or isinstance(answer, BaseException)
            return
        upto, found = answer
        self._news = self._news or len(found) >= _AT_ONCE
        for message in found:
            self._network.observe("told", self._name, message.id, message.ended.outcome)
        self._network.after(_CALLBACK_S, partial(self._returned, life, upto))

    def _returned(self, life: int, upto: int) -> None:
        peer = self._network.peers[self._name]
        if peer.running and peer.life == life:
            peer.command(c.ToldOutcomes(upto), partial(self._kept, life))

    def _kept(self, life: int, answer: Any) -> None:
        if life == self._life:
            self._busy, self._news = False, self._news or isinstance(answer, BaseException)
