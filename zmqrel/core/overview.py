"""How a peer stands, at a glance: its peers and its queues. Reads nothing from the store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, NamedTuple

from zmqrel.core.lane import CONTROL, OutLane
from zmqrel.core.shared import Shared

if TYPE_CHECKING:
    from zmqrel.core.channel import Channel
    from zmqrel.core.rows import Queue


class PeerOverview(NamedTuple):
    """One remote peer."""

    name: str
    endpoint: str | None
    listed: bool
    """Named in `peers`, or connected to by the application."""
    connected: bool
    store_id: int
    """0 while it was not met."""
    unsent: int
    unacknowledged: int
    """Transmitted, and not known to be received."""
    inbox_messages: int
    clock_offset_us: int | None
    """Their store clock minus ours."""


class QueueOverview(NamedTuple):
    """One queue of the inbox."""

    name: str
    messages: int
    """Of those sent to it; what was moved counts where it came in."""
    size: int
    served: str | None
    """"push" by a handler, "pull" by `receive`; None by nobody in this life."""


class Overview(NamedTuple):
    """All of them, and whose store it is."""

    store_id: int
    peers: list[PeerOverview]
    queues: list[QueueOverview]


def overview(shared: Shared, channels: Mapping[str, Channel], queues: Mapping[str, Queue]) -> Overview:
    """How the peer stands now."""
    peers = [_peer(shared, channel) for _, channel in sorted(channels.items())]
    return Overview(shared.ledger.store_id, peers, [_queue(shared, queue) for _, queue in sorted(queues.items())])


def _peer(shared: Shared, channel: Channel) -> PeerOverview:
    lanes: list[OutLane] = [lane for lane in channel.own.values() if lane.kind != CONTROL]
    return PeerOverview(
        name=channel.name,
        endpoint=channel.endpoint,
        listed=channel.listed,
        connected=bool(channel.sessions.open),
        store_id=channel.their_store,
        unsent=sum(lane.unsent for lane in lanes),
        unacknowledged=sum(max(0, lane.sent_upto - lane.acked) for lane in lanes),
        inbox_messages=sum(lane.count for lane in shared.in_lanes.values() if lane.peer == channel.name),
        clock_offset_us=channel.clock.offset_us,
    )


def _queue(shared: Shared, queue: Queue) -> QueueOverview:
    lanes = [lane for lane in shared.in_lanes.values() if lane.queue == queue.name]
    served = None if queue.policy is None else "push" if queue.policy.push else "pull"
    return QueueOverview(queue.name, sum(lane.count for lane in lanes), sum(lane.size for lane in lanes), served)
