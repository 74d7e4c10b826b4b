"""How much each lane may still add to the inbox: limits, fair shares, and the grants that tell the senders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, NamedTuple

from zmqrel.core.lane import DATA, DELAYED, InLane
from zmqrel.core.shared import Shared

if TYPE_CHECKING:
    from zmqrel.core.channel import Channel

_MOST_GRANTED = 65_536
_ENOUGH_BYTES = 1 << 20


class _Lanes(NamedTuple):
    """Those of one peer."""

    known: list[InLane]
    to_come: int
    """Queues that are served and have none of it yet."""


class _Share(NamedTuple):
    """What one peer has not used of its share, and what its lanes have not used of theirs: messages, then bytes."""

    lanes: int
    left: int
    left_size: int
    unused: int
    unused_size: int
    """More than what is left of the peer's share, if some lanes hold more than theirs: the others keep theirs."""


class _Shares(NamedTuple):
    """How the inbox is shared."""

    of: dict[str, _Share]
    """By peer."""
    messages: int
    size: int
    """Half of the fair share of each peer."""
    all: _Share
    """All peers together."""


class Credit:
    """See the module."""

    def __init__(self, shared: Shared, channels: Mapping[str, Channel]) -> None:
        self._shared = shared
        self._channels = channels
        self.starved: dict[int, InLane] = {}
        """Lanes that were granted less than they could use."""
        self.to_tell: dict[InLane, None] = {}
        """No set: in which order they are told is not to hang on where they lie in memory."""
        self._served: set[str] = set()
        """Queues that somebody takes messages from."""
        self._changes = 0
        """How often a lane was filled or granted anew."""
        self._seen: tuple[object, ...] = ()
        self._shared_when: tuple[int, ...] = ()
        self._known_shares = _Shares({}, 0, 0, _Share(0, 0, 0, 0, 0))
        self._grouped_when: tuple[int, ...] = ()
        self._by_peer: dict[str, _Lanes] = {}

    def serve(self, queue: str) -> None:
        """Somebody takes messages from this queue: room is kept for it before the first has come."""
        self._served.add(queue)

    def tell(self, lane: InLane) -> None:
        """The lane's sender is to be told floor and grant at the end of this turn."""
        self.to_tell[lane] = None
        self._changes += 1

    def forget(self, lane: InLane) -> None:
        """The lane's sender is not to be told anything any more."""
        self.starved.pop(lane.no, None)
        self.to_tell.pop(lane, None)

    def fitting(self, lane: InLane, records: list[bytes]) -> int:
        """How many of these records fit the limits. One always does if the lane holds none (F7)."""
        messages, size = self._left(lane)
        if len(records) <= messages and sum(map(len, records)) <= size:
            return len(records)
        fitting = 0
        for record in records[:messages]:
            size -= len(record)
            if size < 0:
                break
            fitting += 1
        if not fitting and records and self._takes_one(lane):
            return 1
        return fitting

    def _takes_one(self, lane: InLane) -> bool:
        """Whether one message may come however large it is: there is none, or it is the first after a full store."""
        shared = self._shared
        if not shared.accepting:
            return False
        return not lane.count or (
            shared.most_intake_bytes is not None and not shared.intake_bytes and all(self._room(lane))
        )

    def _left(self, lane: InLane) -> tuple[int, int]:
        """Messages and bytes of the lane that this turn may still take in."""
        messages, size = self._room(lane)
        shared = self._shared
        if shared.most_intake_bytes is None:
            return messages, size
        return messages, max(0, min(size, shared.most_intake_bytes - shared.intake_bytes))

    def _room(self, lane: InLane) -> tuple[int, int]:
        """Messages and bytes that the lane may still add.

        A lane may take everything but half of the fair share of each other lane that has not used that much,
        so that a queue which nobody serves leaves room for the others. The inbox is shared among the peers first, and
        the share of each among its lanes, so that nobody gets more by sending to more queues; the share of a peer that
        has no lanes yet is kept for it, and that of a queue which is served and has none. Other lanes that are new when
        the inbox is nearly full find less than that: they divide what is left.
        """
        shared, options = self._shared, self._shared.options
        if not shared.accepting:
            return 0, 0
        messages = options.inbox_max_messages - shared.ledger.inbox_messages
        size = options.inbox_max_bytes - shared.ledger.inbox_bytes
        free, free_size = messages - options.inbox_max_messages // 2, size - options.inbox_max_bytes // 2
        if free > _MOST_GRANTED and free_size > options.max_body_bytes + _ENOUGH_BYTES:
            return free, free_size  # the others' halves of their shares are not more than half of all
        shares = self._shares()
        its, everyones = shares.of[lane.peer], shares.all
        messages = max(_part(messages, its.left, everyones.left), messages - (everyones.unused - its.unused))
        size = max(_part(size, its.left_size, everyones.left_size), size - (everyones.unused_size - its.unused_size))
        own, own_size = shares.messages // its.lanes - lane.count, shares.size // its.lanes - lane.size
        return _fair(messages, max(0, own), its.unused), _fair(size, max(0, own_size), its.unused_size)

    def _shares(self) -> _Shares:
        """Summed up once for whatever is asked until something comes or goes."""
        shared, ledger = self._shared, self._shared.ledger
        number = len(self._channels), len(shared.in_lanes)
        held = (*number, len(self._served), shared.counters["received"], ledger.inbox_messages, ledger.inbox_bytes)
        if held != self._shared_when:
            self._shared_when, self._known_shares = held, self._sum_up()
        return self._known_shares

    def _sum_up(self) -> _Shares:
        options, by_peer = self._shared.options, self._lanes_by_peer()
        parts = 2 * len(by_peer) or 1
        messages, size = options.inbox_max_messages // parts, options.inbox_max_bytes // parts
        of = {peer: _share(lanes, messages, size) for peer, lanes in by_peer.items()}
        return _Shares(of, messages, size, _Share(*map(sum, zip(*of.values(), strict=True))))

    def _lanes_by_peer(self) -> dict[str, _Lanes]:
        """Of every peer that may send messages, whether it has any lanes or not."""
        known = len(self._channels), len(self._shared.in_lanes), len(self._served)
        if known != self._grouped_when:
            self._grouped_when = known
            by_peer: dict[str, list[InLane]] = {peer.name: [] for peer in self._channels.values() if peer.listed}
            for lane in self._shared.in_lanes.values():
                if lane.kind in (DATA, DELAYED):
                    by_peer.setdefault(lane.peer, []).append(lane)
            self._by_peer = {
                peer: _Lanes(lanes, len(self._served.difference([lane.queue for lane in lanes if lane.kind == DATA])))
                for peer, lanes in by_peer.items()
            }
        return self._by_peer

    def grant(self, lane: InLane) -> tuple[int, int]:
        """How far the sender of this lane may go now: an absolute sequence number, and bytes beyond the floor."""
        self._changes += 1
        messages, size = self._grantable(lane)
        if messages < _MOST_GRANTED or size < _ENOUGH_BYTES:
            self.starved[lane.no] = lane
        else:
            self.starved.pop(lane.no, None)
        lane.granted = lane.floor + min(messages, _MOST_GRANTED)
        lane.granted_bytes = size
        return lane.granted, size

    def _grantable(self, lane: InLane) -> tuple[int, int]:
        """Messages and bytes that it would be granted now: one message at least while it holds none (F7)."""
        messages, size = self._room(lane)
        most = self._shared.most_intake_bytes
        size = size if most is None else min(size, most)
        if not messages and not lane.count and self._shared.accepting:
            return 1, max(size, 1)
        return messages, size

    def regrant(self) -> None:
        """Tell the senders of lanes that were short of credit when there is room again.

        Only what `grant` then really raises counts, or the turn would never come to an end.
        """
        if not self._is_news():
            return
        options = self._shared.options
        worth_messages = max(1, min(256, options.inbox_max_messages // 8))
        worth_bytes = max(1, min(_ENOUGH_BYTES // 8, options.inbox_max_bytes // 8))
        for lane in self.starved.values():
            if not self._channels[lane.peer].hears(lane):
                continue
            messages, size = self._grantable(lane)
            more = lane.floor + min(messages, _MOST_GRANTED) >= lane.granted + worth_messages
            larger = messages > 0 and min(size, _ENOUGH_BYTES) >= lane.granted_bytes + worth_bytes
            first = messages > 0 and not lane.count and lane.granted <= lane.floor
            if more or larger or first:
                self.to_tell[lane] = None

    def _is_news(self) -> bool:
        """Whether anything happened since the last time that can leave more room for a lane."""
        shared, ledger = self._shared, self._shared.ledger
        limits = shared.accepting, shared.most_intake_bytes
        seen = (self._changes, len(shared.in_lanes), ledger.inbox_messages, ledger.inbox_bytes, *limits)
        known, self._seen = self._seen, seen
        return known != seen

    def take_lanes_to_tell(self) -> Iterable[InLane]:
        """Lanes whose sender is to be told floor and grant."""
        lanes, self.to_tell = self.to_tell, {}
        return lanes


def _share(lanes: _Lanes, messages: int, size: int) -> _Share:
    """That of a peer which has these lanes, of so many messages and bytes."""
    number = len(lanes.known) + lanes.to_come
    if not number:
        return _Share(1, messages, size, messages, size)
    own, own_size = messages // number, size // number
    counts, sizes = [lane.count for lane in lanes.known], [lane.size for lane in lanes.known]
    return _Share(
        number,
        max(0, messages - sum(counts)),
        max(0, size - sum(sizes)),
        sum([own - count for count in counts if count < own]) + lanes.to_come * own,
        sum([own_size - held for held in sizes if held < own_size]) + lanes.to_come * own_size,
    )


def _part(free: int, own: int, left: int) -> int:
    """What one who has `own` left of its share gets of that, if less is free than the `left` of all."""
    return min(own, free * own // left) if own else 0


def _fair(free: int, own: int, unused: int) -> int:
    """What one who has not used `own` of its share may take of what is free, where all have not used `unused`."""
    part = free * own // unused if own else 0
    return max(0, part, free - (unused - own))
