"""What comes from a peer that may not send it: refused where it is received, before any of it is kept.

A message that is not permitted ends REJECTED, with the reason, as if an application had refused it; it takes no room
and becomes no dead letter, or who may send nothing could fill the store. A recall that is not permitted is denied: the
message goes on as if it had not been asked for. Whether something is permitted is asked when it comes, and not again:
what was received while it was, is handed over.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from zmqrel.core.effects import Event as Reported
from zmqrel.core.entries import Range, Settled, decode_head, to_ranges
from zmqrel.core.limits import FRAME_COST
from zmqrel.core.transitions import Event, Stage, outcome_of
from zmqrel.permissions import REFUSAL, Permissions

if TYPE_CHECKING:
    from zmqrel.core.lane import InLane
    from zmqrel.core.settlements import Settlements
    from zmqrel.core.shared import Shared

_NOT_PERMITTED = outcome_of(Stage.SENT, Event.NOT_PERMITTED)


class Authorisation:
    """Asks `shared.permissions`, and tells senders of refusals."""

    def __init__(self, shared: Shared, settlements: Settlements) -> None:
        self._shared = shared
        self._settlements = settlements
        self._told_of: set[int] = set()
        """Lanes of which an operator was told in this life: the rest is counted."""

    def may_send(self, lane: InLane) -> bool:
        """Whether the lane's sender may send to its queue."""
        permissions = self._shared.permissions
        return permissions is None or permissions.of(lane.peer).covers(lane.queue)

    def refuse(self, lane: InLane, seqs: Sequence[int]) -> None:
        """End messages of a queue that their sender may not send to."""
        self._refuse(lane, to_ranges(seqs), f"queue {lane.queue!r}")

    def without_detours(
        self, lane: InLane, seqs: Sequence[int], records: list[bytes]
    ) -> tuple[Sequence[int], list[bytes]]:
        """Those that do not go, when they expire, to a queue that their sender may not send to; the others end here."""
        permissions = self._shared.permissions
        if permissions is None:
            return seqs, records
        kept_seqs, kept = [], []
        for seq, record in zip(seqs, records, strict=True):
            on_expiry = decode_head(record).meta.on_expiry
            if _may_expire(permissions, lane.peer, on_expiry):
                kept_seqs.append(seq)
                kept.append(record)
            else:
                self._refuse(lane, [(seq, seq)], f"on_expiry {on_expiry!r}")
        return kept_seqs, kept

    def may_recall(self, lane: InLane) -> bool:
        """Whether the lane's sender may take back what was received."""
        permissions = self._shared.permissions
        return permissions is None or permissions.of(lane.peer).recall

    def deny(self, lane: InLane, ranges: list[Range]) -> None:
        """Tell a sender that it may not recall these."""
        self._shared.counters["recalls_not_permitted"] += sum(last - first + 1 for first, last in ranges)
        reason = f"{REFUSAL}recall for peer {lane.peer!r}"
        self._tell_once(lane, reason)
        self._settlements.deny(lane, ranges, reason)

    def _refuse(self, lane: InLane, ranges: list[Range], what: str) -> None:
        reason = f"{REFUSAL}{what} for peer {lane.peer!r}"
        now_us = self._shared.now.store_us
        for first, last in ranges:
            self._shared.counters["not_permitted"] += last - first + 1
            self._settlements.add(lane, Settled(first, last, _NOT_PERMITTED, reason, 0, 0, now_us, False))
        self._shared.wasted += FRAME_COST
        self._tell_once(lane, reason)

    def _tell_once(self, lane: InLane, what: str) -> None:
        about = ("not_permitted", lane.peer)
        if lane.no not in self._told_of and self._shared.reports.take_one(about, self._shared.now.mono_us):
            self._told_of.add(lane.no)
            self._shared.effects.events.append(Reported("not_permitted", lane.peer, what))


def _may_expire(permissions: Permissions, peer: str, on_expiry: str) -> bool:
    return not on_expiry.startswith("queue:") or permissions.of(peer).covers(on_expiry.removeprefix("queue:"))
