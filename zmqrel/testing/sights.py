"""What happened in simulated runs: a batch in which nothing interesting happened proves nothing.

Counted are what the checkers saw and what the peers count themselves (`Peer.stats()`), over all their lives.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING

from zmqrel.testing.mixes import MIXES

if TYPE_CHECKING:
    from zmqrel.testing.network import Network
    from zmqrel.testing.peer import SimulatedPeer

MUST_BE_SEEN: dict[str, tuple[str, ...]] = {
    "calm": ("HANDLED", "REJECTED", "EXPIRED", "RECALLED", "recall wins", "recall loses", "retried"),
    "links": (
        "gaps", "gap reported", "resent", "resent_gaps", "resend_timeouts", "duplicate_batches", "silent",
        "stale_frames", "tombstones", "void for a message that was sent", "half-open", "one-way partition",
    ),
    "crashes": ("crash", "killed in a handler", "redelivered", "handed over again"),
    "all but losses": ("refused", "newcomers_waited"),
    "power": ("power-loss", "redelivered", "UNCERTAIN"),
    "store loss": ("peer_store_gone", "redelivered"),
    "rollback": (
        "old_copy", "peer_old_copy", "lane replaced", "states", "redelivered", "EXHAUSTED: RuntimeError: failed",
    ),
    "tiny": ("credit exhausted",),
    "neighbours": ("credit exhausted",),
    "full queues": ("credit exhausted",),
    "killers": ("killed in a handler", "EXHAUSTED: crash", "told to a callback", "recall loses to a running handler"),
    "odds": ("damaged", "damaged_rows", "suspend", "EXHAUSTED: gave up", "EXHAUSTED: too large"),
    "forgetting": ("forget", "UNCERTAIN", "RECALLED", "redelivered", "peer_forgot"),
    "conditions": ("REJECTED", "EXHAUSTED: recalled", "moved", "dead", "dead_retried"),
    "clocks": ("clock", "expired"),
    "full disks": ("full-disk", "commit-errors", "not accepted: StoreFull"),
    "impostors": ("impostor",),
    "never returns": ("vanish",),
    "keys": ("impostors", "revoked", "redelivered"),
    "permissions": ("not_permitted", "recalls_not_permitted", "recall wins", "HANDLED"),
}  # fmt: skip
"""By the name of a mix: what a batch of it shows at least once. All together they hold whatever is interesting, so that
batches of single mixes, each in a process of its own, prove as much as one of all."""


class Sights:
    """Counts what the peers of a network count, over all their lives."""

    def __init__(self, network: Network) -> None:
        """Count from now on."""
        self._network = network
        self._ended: Counter[str] = Counter()
        network.on("stopped", self._on_stopped)

    def _on_stopped(self, name: str, _clean: bool) -> None:
        self._ended += _counted(self._network.peers[name])

    def counters(self) -> Counter[str]:
        """The sums so far."""
        running = (_counted(peer) for peer in self._network.peers.values() if peer.running)
        return sum(running, self._ended.copy())


def _counted(peer: SimulatedPeer) -> Counter[str]:
    """What a life of a peer counted. Rows found damaged are told apart from rows that were made so."""
    counters = Counter(peer.engine.shared.counters)
    counters["damaged_rows"] = counters.pop("damaged", 0)
    return counters


INTERESTING: dict[str, tuple[str, ...]] = {
    "recall wins": ("recall wins",),
    "recall loses": ("recall loses",),
    "recall loses to a running handler": ("recall loses to a running handler",),
    "message expires before a hand-over": ("EXPIRED",),
    "expiry judged by the receiver": ("expired",),
    "tombstone before its message": ("tombstones",),
    "duplicate dropped": ("duplicate_batches",),
    "gap reported": ("gap reported",),
    "sent again": ("resent",),
    "void for a message that was sent": ("void for a message that was sent",),
    "late frame of an old session": ("stale_frames",),
    "half-open connection": ("half-open",),
    "one-way partition": ("one-way partition",),
    "link silent for too long": ("silent",),
    "newcomer refused": ("refused",),
    "newcomer admitted after the first was gone": ("newcomers_waited",),
    "impostor": ("impostor",),
    "name that is not that of the key": ("impostors",),
    "key taken away": ("revoked",),
    "credit exhausted": ("credit exhausted",),
    "send refused by a full store": ("not accepted: StoreFull",),
    "full disk": ("full-disk",),
    "failed commits": ("commit-errors",),
    "process killed": ("crash",),
    "process killed in a handler": ("killed in a handler",),
    "redelivered": ("redelivered",),
    "handed over again": ("handed over again",),
    "crash suspect exhausted": ("EXHAUSTED: crash",),
    "power loss": ("power-loss", "blackout"),
    "store gone": ("peer_store_gone",),
    "store rolled back, found by itself": ("old_copy",),
    "store rolled back, found by another": ("peer_old_copy",),
    "forgotten, found by another": ("peer_forgot",),
    "lane replaced": ("lane replaced",),
    "STATE taken": ("states",),
    "damaged record set aside": ("damaged_rows",),
    "wall clock stepped": ("clock",),
    "machine suspended": ("suspend",),
    "peer that never returns": ("vanish",),
    "peer forgotten": ("forget",),
    "attempt failed, tried again": ("retried",),
    "refused by its handler": ("REJECTED",),
    "message not permitted": ("not_permitted",),
    "recall not permitted": ("recalls_not_permitted",),
    "attempts exhausted": ("EXHAUSTED: RuntimeError: failed",),
    "moved to another queue": ("moved",),
    "dead letter": ("dead",),
    "dead letter retried": ("dead_retried",),
    "too large for its receiver": ("EXHAUSTED: too large",),
    "given up": ("EXHAUSTED: gave up",),
    "told to a callback": ("told to a callback",),
}
"""What a batch of all mixes must show, each at least once, and the counts that show it."""

ENOUGH_RUNS = 6
"""Of a mix: fewer prove little by what they do not show."""


def missing(seen: Mapping[str, tuple[int, Counter[str]]]) -> list[str]:
    """What a batch should have shown and did not; `seen` is the number of runs and the counts of each mix."""
    found = []
    for mix, (runs, counts) in seen.items():
        if runs >= ENOUGH_RUNS:
            found += [f"{mix}: {what}" for what in MUST_BE_SEEN.get(mix, ()) if not counts[what]]
    if seen.keys() >= MIXES.keys() and min(runs for runs, _ in seen.values()) >= ENOUGH_RUNS:
        whole = sum((counts for _, counts in seen.values()), Counter[str]())
        found += [f"any: {name}" for name, of in INTERESTING.items() if not any(whole[what] for what in of)]
    return found
