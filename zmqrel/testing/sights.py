"""What happened in simulated runs: a batch in which nothing interesting happened proves nothing.

Counted are what the checkers saw and what the peers count themselves (`Peer.stats()`), over all their lives.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zmqrel.testing.network import Network

MUST_BE_SEEN: dict[str, tuple[str, ...]] = {
    "calm": ("HANDLED", "REJECTED", "EXPIRED", "RECALLED", "recall wins", "recall loses", "retried", "resent"),
    "links": (
        "gaps", "gap reported", "resent_gaps", "resend_timeouts", "duplicate_batches", "silent", "stale_frames",
        "tombstones", "void for a message that was sent",
    ),
    "crashes": ("killed in a handler", "redelivered", "handed over again"),
    "all but losses": ("refused", "newcomers_waited"),
    "power": ("redelivered", "UNCERTAIN"),
    "store loss": ("peer_store_gone", "redelivered"),
    "rollback": ("old_copy", "peer_old_copy", "lane replaced", "states", "redelivered"),
    "tiny": ("credit exhausted",),
    "neighbours": ("credit exhausted",),
    "full queues": ("credit exhausted",),
    "killers": ("killed in a handler", "EXHAUSTED: crash", "told to a callback", "recall loses to a running handler"),
    "odds": ("damaged", "EXHAUSTED: gave up", "EXHAUSTED: too large"),
    "forgetting": ("UNCERTAIN", "RECALLED", "redelivered", "peer_old_copy"),
    "conditions": ("REJECTED", "EXHAUSTED: recalled"),
}  # fmt: skip
"""By the name of a mix: what a batch of it shows at least once."""


class Sights:
    """Counts what the peers of a network count, over all their lives."""

    def __init__(self, network: Network) -> None:
        """Count from now on."""
        self._network = network
        self._ended: Counter[str] = Counter()
        network.on("stopped", self._on_stopped)

    def _on_stopped(self, name: str, _clean: bool) -> None:
        self._ended += self._network.peers[name].engine.shared.counters

    def counters(self) -> Counter[str]:
        """The sums so far."""
        running = (peer.engine.shared.counters for peer in self._network.peers.values() if peer.running)
        return sum(running, self._ended.copy())


def not_seen(mix: str, seen: Counter[str]) -> list[str]:
    """What a batch of that mix should have shown and did not."""
    return [what for what in MUST_BE_SEEN.get(mix, ()) if not seen[what]]
