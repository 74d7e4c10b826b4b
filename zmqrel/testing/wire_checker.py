"""What an observer of the wire may never see: it reads every frame as it leaves and knows nothing else of the core.

Frames of a life that was lost (a store put back to an older copy, or gone) no longer bind the peer, except for what
was acknowledged: no sequence number may ever get a second body.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from zmqrel.core import frames
from zmqrel.core.entries import BadRecord, Settle, decode_control
from zmqrel.core.frames import BadFrame, Data, Frame, Info, LaneAck
from zmqrel.core.lane import CONTROL
from zmqrel.testing.broken import PromiseBroken

if TYPE_CHECKING:
    from zmqrel.testing.links import Process
    from zmqrel.testing.network import Network

_VOID = b""
_FORGETS = ("rolled back", "store lost", "damaged")
_ON_THE_WAY_S = 0.1
"""A frame between healthy peers is read by then."""


@dataclass(slots=True)
class SeenLane:
    """What was seen of one lane."""

    sender: str
    receiver: str | None
    kind: int
    entries: dict[int, bytes] = field(default_factory=dict)
    """What left under each number, _VOID for a void."""
    unacknowledged: dict[int, int] = field(default_factory=dict)
    """Numbers of records whose acknowledgement has not left, and their bytes."""
    highest: int = 0
    """Everything up to here was sent, or was said to be final."""
    acknowledged: int = 0
    """The highest floor that left the receiver."""
    floor: int = 0
    """Likewise, of the store that it has now."""
    floor_in: int = 0
    """The commit of the receiver in which it named that."""
    floor_before: int = 0
    """The highest that it named before that commit: the frames of a turn on two links leave in any order."""
    grants: list[tuple[float, int]] = field(default_factory=list)
    """When what was granted, since the handshake."""
    largest: int = 0
    lost: bool = False
    """A life of its sender was lost."""
    next_seq: int = 1
    """All numbers below were given; only what its present store knows."""
    given_in: int = 0
    """The commit in which the last of them were given."""
    given_before: int = 1
    """All numbers below were given before that commit."""


class WireChecker:
    """Raises PromiseBroken at the first frame that may not be. `seen` counts what was."""

    def __init__(self, network: Network, healthy: frozenset[str] = frozenset()) -> None:
        """Read everything that leaves from now on. Between `healthy` peers no frame is lost or comes late."""
        self._network = network
        self._healthy = healthy
        self.seen: Counter[str] = Counter()
        self._lanes: dict[int, SeenLane] = {}
        self._of: defaultdict[str, dict[int, SeenLane]] = defaultdict(dict)
        """By name of the sender."""
        self._largest: dict[tuple[str, str | None], int] = {}
        """(receiver, sender) -> the largest entry that the one said to the other that it takes."""
        self._settled: dict[tuple[str, int], dict[int, int]] = {}
        """(receiver, lane) -> number -> outcome."""
        self._voids: list[tuple[str, int, int]] = []
        """Sender, lane and number of messages that became voids in this turn."""
        self._forgot: set[tuple[str, str]] = set()
        """(peer, another that it was told to forget): it knows nothing of the other's lanes from then on."""
        network.on("turn", self._check_voids)
        network.on("stopped", self._on_stopped)
        network.on("forgot", lambda name, other: self._forgot.add((name, other)))
        network.on("power lost", self._on_power_lost)
        for what in _FORGETS:
            network.on(what, lambda name, *_: self._forget(name))
        network.links.tap = self._read

    # ------------------------------------------------------------------------------------------ watching

    def _on_stopped(self, name: str, _clean: bool) -> None:
        self._voids = [void for void in self._voids if void[0] != name]

    def _on_power_lost(self, name: str, relaxed: bool) -> None:
        if relaxed:
            self._forget(name)

    def _forget(self, name: str) -> None:
        """Its store may know less than was seen of it."""
        for lane in self._of[name].values():
            lane.next_seq = lane.given_before = 1
            lane.lost = True
            # What had ended by then may not have ended by the copy.
            lane.entries = {seq: entry for seq, entry in lane.entries.items() if entry and seq <= lane.floor}
            lane.unacknowledged.clear()
        for lane in self._lanes.values():
            if lane.receiver == name:
                lane.floor = lane.floor_before = 0
                if lane.lost:
                    lane.entries.clear()  # nobody is left who knows what was sent
        for where in [where for where in self._settled if where[0] == name]:
            del self._settled[where]

    # ------------------------------------------------------------------------------------------- reading

    def _read(self, sender: Process, receiver: str | None, parts: list[bytes]) -> None:
        try:
            frame = frames.decode(parts)
        except BadFrame as error:
            raise self._broken(sender.name, f"sends a frame that no peer can read: {error}") from None
        if sender.is_impostor:
            self._read_impostor(frame)
            return
        self.seen[frames.FRAME_NAMES[frame.type]] += 1
        if frame.type == frames.DATA:
            self._read_data(sender.name, receiver, frame.fields[0], frame)
        elif frame.type == frames.ACK:
            for ack in frame.fields[0]:
                self._read_ack(sender.name, ack, frame.commits)
        elif frame.type in (frames.WELCOME, frames.OPEN):
            self._read_info(sender.name, receiver, frame.fields[2], frame.commits)

    def _read_impostor(self, frame: Frame) -> None:
        """Nothing that it says binds the peer whose name it has, but who takes it for that peer need not keep what it
        acknowledged."""
        if frame.type == frames.ACK:
            floors = [(ack.lane_id, ack.floor) for ack in frame.fields[0]]
        elif frame.type in (frames.WELCOME, frames.OPEN):
            floors = frame.fields[2].floors
        else:
            return
        for lane_id, floor in floors:
            if lane_id in self._lanes:
                self._take_floor(self._lanes[lane_id], floor)

    def _lane(self, sender: str, receiver: str | None, lane_id: int, kind: int) -> SeenLane:
        lane = self._lanes.get(lane_id)
        if lane is None:
            lane = self._lanes[lane_id] = self._of[sender][lane_id] = SeenLane(sender, receiver, kind)
        lane.receiver = lane.receiver or receiver
        return lane

    def _read_data(self, sender: str, receiver: str | None, data: Data, frame: Frame) -> None:
        lane = self._lane(sender, receiver, data.lane_id, data.kind)
        if data.first_seq > lane.highest + 1:
            raise self._broken(sender, f"skips from {lane.highest} to {data.first_seq} in lane {data.lane_id:016x}")
        records = iter(frames.unpack_records(data.sizes, frame.payload))
        seq = data.first_seq
        for run in data.runs:
            for _ in range(abs(run)):
                entry = next(records) if run > 0 else _VOID
                self._check_entry(sender, data.lane_id, lane, seq, entry)
                lane.entries[seq] = entry
                if entry and seq > lane.acknowledged:
                    lane.unacknowledged[seq] = len(entry)
                    if data.kind != CONTROL and len(entry) > self._largest.get((receiver or "", sender), len(entry)):
                        raise self._broken(sender, f"sends {seq} of {len(entry)} bytes, which {receiver} does not take")
                    lane.largest = max(lane.largest, len(entry))
                elif not entry:
                    lane.unacknowledged.pop(seq, None)
                if entry and data.kind == CONTROL:
                    self._read_control(sender, entry)
                seq += 1
        lane.highest = max(lane.highest, seq - 1)
        if seq > lane.next_seq:
            if frame.commits != lane.given_in:
                lane.given_in, lane.given_before = frame.commits, lane.next_seq
            lane.next_seq = seq
        window_bytes = self._network.peers[sender].options.window_bytes
        if sum(lane.unacknowledged.values()) > window_bytes + lane.largest:
            raise self._broken(sender, f"has more than a window on the wire to {receiver}: {lane.unacknowledged}")

    def _check_entry(self, sender: str, lane_id: int, lane: SeenLane, seq: int, entry: bytes) -> None:
        before = lane.entries.get(seq)
        if before is None:
            if entry and lane.kind != CONTROL:
                self._check_grant(lane, lane_id, seq)
            return
        if before == entry:
            self.seen["resent"] += 1
            return
        where = f"{seq} of lane {lane_id:016x}"
        if entry:
            raise self._broken(sender, f"sends {where} with two bodies" if before else f"takes the void {where} back")
        if lane.kind == CONTROL and seq > lane.acknowledged:
            raise self._broken(sender, f"forgot the control entry {where}, which was not acknowledged")
        self._voids.append((sender, lane_id, seq))
        self.seen["void for a message that was sent"] += 1

    def _check_grant(self, lane: SeenLane, lane_id: int, seq: int) -> None:
        """A record needs a grant, unless it is alone on the wire."""
        if not lane.unacknowledged or not self._healthy.issuperset((lane.sender, lane.receiver or "")):
            return
        arrived = [at for at, _ in lane.grants if at < self._network.now - _ON_THE_WAY_S]
        known = [grant for at, grant in lane.grants if not arrived or at >= arrived[-1]]
        if arrived and seq > max(known):
            raise self._broken(lane.sender, f"sends {seq} of lane {lane_id:016x}, but was granted {known}")

    def _check_voids(self, name: str) -> None:
        """A message that was sent is sent as itself until its outcome is final."""
        if not self._voids:
            return
        voids, self._voids = self._voids, []
        peer = self._network.peers[name]
        if peer.options.durability == "relaxed":
            return  # outcomes are told later
        for sender, lane_id, seq in voids:
            receipt = peer.receipts.get((lane_id, seq)) if sender == name else None
            if receipt is not None and receipt.outcome is None and not receipt.forgotten:
                raise self._broken(name, f"sends {seq} of lane {lane_id:016x} as a void, but it has not ended")

    def _read_ack(self, receiver: str, ack: LaneAck, commits: int) -> None:
        lane = self._lanes.get(ack.lane_id)
        if lane is None:
            return
        if ack.floor > lane.highest:
            raise self._broken(receiver, f"acknowledges {ack.floor} of lane {ack.lane_id:016x}, of {lane.highest} sent")
        self._check_floor(receiver, lane, ack.lane_id, ack.floor, commits)
        lane.grants = [*lane.grants[-20:], (self._network.now, ack.grant_seq)]
        self.seen["gap reported"] += ack.gap
        self.seen["credit exhausted"] += lane.kind != CONTROL and ack.grant_seq <= ack.floor

    def _check_floor(self, receiver: str, lane: SeenLane, lane_id: int, floor: int, commits: int) -> None:
        if commits != lane.floor_in:
            lane.floor_in, lane.floor_before = commits, lane.floor
        if floor < lane.floor_before and (receiver, lane.sender) not in self._forgot:
            raise self._broken(
                receiver, f"names floor {floor} of lane {lane_id:016x}, after it named {lane.floor_before}"
            )
        lane.floor = max(lane.floor, floor) if floor >= lane.floor_before else floor
        self._take_floor(lane, floor)

    def _take_floor(self, lane: SeenLane, floor: int) -> None:
        if floor > lane.acknowledged:
            lane.acknowledged = floor
            for seq in [seq for seq in lane.unacknowledged if seq <= floor]:
                del lane.unacknowledged[seq]

    def _read_info(self, sender: str, receiver: str | None, info: Info, commits: int) -> None:
        for lane in self._lanes.values():
            if {lane.sender, lane.receiver} == {sender, receiver}:
                lane.grants = []
        for lane_id, floor in info.floors:
            theirs = self._lanes.get(lane_id)
            if theirs is not None:
                self._check_floor(sender, theirs, lane_id, floor, commits)
        self._largest[(sender, receiver)] = info.largest_entry
        for told in info.lanes:
            lane = self._lane(sender, receiver, told.lane_id, told.kind)
            given = lane.given_before if lane.given_in == commits else lane.next_seq
            if told.next_seq < given and not told.closed:
                raise self._broken(
                    sender, f"will give {told.next_seq} of lane {told.lane_id:016x} again, {lane.next_seq - 1} was sent"
                )
            lane.highest = max(lane.highest, told.lowest - 1)
            self.seen["lane replaced"] += told.closed

    def _read_control(self, sender: str, record: bytes) -> None:
        try:
            entry = decode_control(record)
        except BadRecord as error:
            raise self._broken(sender, f"sends a control entry that no peer can read: {error}") from None
        self.seen[type(entry).__name__] += 1
        if not isinstance(entry, Settle) or not self._is_settled_once(sender, entry.lane_id):
            return
        known = self._settled.setdefault((sender, entry.lane_id), {})
        for settled in entry.ranges:
            for seq in range(settled.first, settled.last + 1):
                before = known.setdefault(seq, settled.outcome.value)
                if before != settled.outcome.value:
                    raise self._broken(
                        sender, f"settles {seq} of lane {entry.lane_id:016x} {settled.outcome}, after {before}"
                    )

    def _is_settled_once(self, receiver: str, lane_id: int) -> bool:
        """What was settled for a lost life, or by who has forgotten it, may be asked for again, in doubt."""
        lane = self._lanes.get(lane_id)
        return lane is None or not (lane.lost or (receiver, lane.sender) in self._forgot)

    def _broken(self, name: str, what: str) -> PromiseBroken:
        return PromiseBroken(f"at {self._network.now:.6f}: {name} {what}")
