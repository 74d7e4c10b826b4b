"""What the inbox has settled in this turn, and how it gets to the senders: as ranges, in the control lanes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from zmqrel.core.entries import MOST_IN_SETTLE, Deny, Notice, Range, Settle, Settled
from zmqrel.core.lane import LOCAL, InLane
from zmqrel.core.shared import Shared
from zmqrel.outcome import Outcome

if TYPE_CHECKING:
    from zmqrel.core.channel import Channel
    from zmqrel.core.row import Row


class Settlements:
    """See the module."""

    def __init__(self, shared: Shared, channels: Mapping[str, Channel]) -> None:
        self._shared = shared
        self._channels = channels
        self.to_write: dict[InLane, list[Settled]] = {}
        """What this turn settled and `write` is to append."""

    def add(self, lane: InLane, settled: Settled) -> None:
        """These messages of a lane have ended."""
        if settled.outcome is Outcome.RECALLED:
            self._shared.counters["recalled"] += settled.last - settled.first + 1
        self.to_write.setdefault(lane, []).append(settled)

    def write(self) -> None:
        """Append what this turn settled to the control lanes."""
        for lane, items in self.to_write.items():
            channel = self._waiting_for(lane)
            if channel is None:
                continue
            ranges = _merge(items) if len(items) > 1 else items
            for start in range(0, len(ranges), MOST_IN_SETTLE):
                channel.append_control(Settle(lane.store_id, lane.id, ranges[start : start + MOST_IN_SETTLE]))
        self.to_write.clear()

    def notice(self, row: Row) -> None:
        """Tell the sender that it is too late to withdraw this row."""
        channel = self._waiting_for(row.lane)
        if channel is not None:
            channel.append_control(Notice(row.lane.store_id, row.lane.id, row.seq, row.handed_us))

    def deny(self, lane: InLane, ranges: list[Range], reason: str) -> None:
        """Tell the sender that it may not withdraw these."""
        channel = self._waiting_for(lane)
        if channel is not None:
            channel.append_control(Deny(lane.store_id, lane.id, ranges, reason))

    def _waiting_for(self, lane: InLane) -> Channel | None:
        """Who is told. Nobody waits for an own message, or for one of a store that is gone (F4) or was forgotten."""
        channel = self._channels.get(lane.peer)
        if lane.kind == LOCAL or lane.is_orphan or channel is None or lane.store_id != channel.their_store:
            return None
        return channel


def _merge(items: list[Settled]) -> list[Settled]:
    """Neighbours with the same outcome, reason and attempts as ranges."""
    items.sort(key=lambda settled: settled.first)
    merged: list[Settled] = []
    for settled in items:
        last = merged[-1] if merged else None
        if last is not None and last.last + 1 == settled.first and _alike(last, settled):
            merged[-1] = Settled(last.first, settled.last, *settled[2:])
            continue
        merged.append(settled)
    return merged


def _alike(one: Settled, other: Settled) -> bool:
    return one[2:5] == other[2:5] and one.applied == other.applied and bool(one[5]) == bool(other[5])
