"""Every table, buffer and counter of a peer stays within its bound, and counts what is there."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from zmqrel.core.buffer import Buffer
from zmqrel.core.lane import LOCAL
from zmqrel.core.limits import ALLOWANCE_BYTES
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.whole_store import WholeStore

if TYPE_CHECKING:
    from zmqrel.testing.network import Network
    from zmqrel.testing.peer import SimulatedPeer

_EVERY_S = 0.5
_MOST_BREAKS = 0.01
"""Where a frame breaks its connection more often, honest peers begin anew several times a second, which is limited."""
_WHOLE_EVERY_S = 2.0
"""How often every row of a store is looked at, which takes longer than all else."""


class BoundsChecker:
    """Looks at `stats()` and at what lies in the store, a few times a second."""

    def __init__(self, network: Network) -> None:
        """Look after turns from now on."""
        self._network = network
        self._is_steady = network.links.faults.breaks <= _MOST_BREAKS
        self._next_s: dict[str, float] = {}
        self._next_whole_s: dict[str, float] = {}
        self._damaged: set[str] = set()
        self._stores: defaultdict[str, WholeStore] = defaultdict(WholeStore)
        network.on("damaged", lambda name, _body: self._damaged.add(name))
        network.on("turn", self._on_turn)

    def _on_turn(self, name: str) -> None:
        if self._network.now >= self._next_s.get(name, 0.0):
            self._next_s[name] = self._network.now + _EVERY_S
            self.check(self._network.peers[name])

    def check(self, peer: SimulatedPeer) -> None:
        """Raises PromiseBroken if something is beyond its bound."""
        if not peer.running:
            return
        stats, options = peer.engine.stats(), peer.options
        lanes, now_us = peer.engine.shared.in_lanes.values(), peer.engine.shared.now.mono_us
        own = sum(lane.count for lane in lanes if lane.kind == LOCAL)
        for what, value, most in (
            ("outbox_messages", stats["outbox_messages"], options.outbox_max_messages),
            ("outbox_bytes", stats["outbox_bytes"], options.outbox_max_bytes),
            ("outbox_unsent", stats["outbox_unsent"], stats["outbox_messages"]),
            # Every lane may have one message there, however full it is.
            ("inbox_messages", stats["inbox_messages"] - own, options.inbox_max_messages + len(lanes)),
            ("dead_bytes", stats["dead_bytes"], options.dead_max_bytes),
            # Whom the limits against hostile peers slow down is not honest. Not so strangers: who has not heard that a
            # session is over goes on in it, on a connection of nobody, and what is left unread there is lost anyway.
            ("limited", stats["limited"], 0),
            *(
                (
                    f"bytes of {name} for nothing",
                    round(ALLOWANCE_BYTES - channel.allowance.left(now_us)),
                    ALLOWANCE_BYTES - 1,
                )
                for name, channel in peer.engine.channels.items()
                if self._is_steady
            ),
            ("messages in hand", peer.in_hand_count, stats["inbox_messages"]),
            *(
                (f"buffer of {handler.queue!r}", len(handler.buffer), Buffer.MOST_CLAIMED + options.prefetch)
                for handler in peer.handlers.values()
                if handler.buffer is not None
            ),
        ):
            if not 0 <= value <= most:
                raise self._broken(peer, f"{what} is {value}, allowed is 0 to {most}")
        negative = [name for name, value in stats.items() if value < 0]
        if negative:
            raise self._broken(peer, f"below zero: {negative}")
        if peer.name not in self._damaged and self._network.now >= self._next_whole_s.get(peer.name, 0.0):
            self._next_whole_s[peer.name] = self._network.now + _WHOLE_EVERY_S
            self._check_store(peer)

    def _check_store(self, peer: SimulatedPeer) -> None:
        """What `zmqrel verify` would find: rows that hang on nothing, counters that count something else."""
        faults = self._stores[peer.name].faults(peer.disk)
        if faults:
            raise self._broken(peer, f"its store is not whole: {faults[:3]}")

    def _broken(self, peer: SimulatedPeer, what: str) -> PromiseBroken:
        return PromiseBroken(f"at {self._network.now:.6f}: {peer.name}: {what}")
