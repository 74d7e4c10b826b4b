"""What happened in a run, as a table for a person who wants to know why it failed.

One line for each action of the workload, each frame, each commit that something left after, hand-over, outcome and
event of the core. Frames and messages that the failure is not about are left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from zmqrel.core import frames
from zmqrel.core.entries import ControlEntry, Deny, Notice, Settle, Withdraw, decode_control
from zmqrel.core.lane import CONTROL
from zmqrel.testing.peer import Delivery, SimulatedReceipt

if TYPE_CHECKING:
    from zmqrel.testing.links import Process
    from zmqrel.testing.network import Network, Reported

_UNTOLD = ("turn", "asking", "asked in vain", "ended")
_MOST_LINES = 200


@dataclass(slots=True)
class Line:
    """Something that happened."""

    at: float
    who: str
    what: str
    bodies: tuple[Any, ...] = ()
    """Messages that it is about."""
    lanes: tuple[tuple[int, int, int], ...] = ()
    """Lanes that it is about, with the first and the last number."""
    keepalive: bool = False
    parts: list[bytes] | None = None
    """Of a frame: so that it is known again when it arrives."""
    arrived: list[float] = field(default_factory=list)


class Trace:
    """Writes down what happens in a network from now on."""

    def __init__(self, network: Network) -> None:
        """Watch it, before anybody else sees a frame."""
        self._network = network
        self._lines: list[Line] = []
        self._frames: dict[tuple[int, str], Line] = {}
        self._places: dict[Any, set[tuple[int, int]]] = {}
        network.watch_first(self._see)
        self._tap = network.links.tap
        network.links.tap = self._leaves
        network.links.arrival_tap = self._arrives

    # ------------------------------------------------------------------------------------------ writing down

    def _add(self, who: str, what: str, *bodies: Any) -> None:
        self._lines.append(Line(self._network.now, who, what, bodies))

    def _see(self, what: str, *details: Any) -> None:
        if what in _UNTOLD:
            return
        told = getattr(self, "_on_" + what.replace(" ", "_"), None)
        if told is not None:
            told(*details)
            return
        who, *rest = details
        self._add(who, " ".join([what, *map(_short, rest)]))

    def _on_action(self, part: str, said: str) -> None:
        body = re.search(r"(?:sends|recalls) '?(\d+)", said)
        self._add("", f"[{part}] {said}", *([int(body[1])] if body else []))

    def _on_accepted(self, receipt: SimulatedReceipt) -> None:
        self._note_place(receipt)
        self._add(receipt.sender, f"has accepted {_short(receipt.body)} as {_place(receipt)}", receipt.body)

    def _on_not_accepted(self, receipt: SimulatedReceipt) -> None:
        self._add(receipt.sender, f"did not accept {_short(receipt.body)}: {receipt.error!r}", receipt.body)

    def _on_forgotten(self, receipt: SimulatedReceipt) -> None:
        self._add(receipt.sender, f"does not know {_short(receipt.body)} any more", receipt.body)

    def _on_recalling(self, receipt: SimulatedReceipt) -> None:
        self._add(receipt.sender, f"is told to recall {_short(receipt.body)}, {_place(receipt)}", receipt.body)

    def _on_outcome(self, receipt: SimulatedReceipt, outcome: Any, reason: str | None, attempts: int) -> None:
        self._note_place(receipt)
        why = f", {reason!r}" if reason else ""
        told = f"is told that {_short(receipt.body)} ended {outcome.name}{why} after {attempts} attempts"
        self._add(receipt.sender, told, receipt.body)

    def _on_told_handed_over(self, receipt: SimulatedReceipt) -> None:
        self._add(receipt.sender, f"is told that {_short(receipt.body)} was handed over", receipt.body)

    def _on_told(self, name: str, message_id: str, outcome: Any) -> None:
        self._add(name, f"tells a callback that {message_id} ended {outcome.name}", message_id)

    def _on_handed_over(self, delivery: Delivery) -> None:
        again = ", redelivered" if delivery.redelivered else ""
        what = f"hands over {_short(delivery.body)}, queue {delivery.queue!r}, attempt {delivery.attempt}{again}"
        self._add(delivery.to, what, delivery.body)

    def _on_finished(self, delivery: Delivery, result: Any) -> None:
        self._add(delivery.to, f"has handled {_short(delivery.body)}: {result}", delivery.body)

    def _on_refused(self, delivery: Delivery) -> None:
        self._add(delivery.to, f"does not admit {_short(delivery.body)}", delivery.body)

    def _on_stopped(self, name: str, clean: bool) -> None:
        self._add(name, "is closed" if clean else "dies")

    def _on_rolled_back(self, name: str, since: float) -> None:
        self._add(name, f"has the store again that it had at {since:.4f}")

    def _note_place(self, receipt: SimulatedReceipt) -> None:
        if receipt.place is not None:
            self._places.setdefault(receipt.body, set()).add(receipt.place)

    # ------------------------------------------------------------------------------------------ frames

    def _leaves(self, sender: Process, receiver: str | None, parts: list[bytes]) -> None:
        peer = self._network.peers.get(sender.name)
        commits = peer.disk.commits if peer is sender and peer is not None else 0
        what, lanes, keepalive = _describe(parts)
        line = Line(self._network.now, sender.name, f"-> {receiver}  {what}", lanes=lanes, keepalive=keepalive)
        line.what += f"  (commit {commits})"
        line.parts = parts
        self._lines.append(line)
        self._frames[(id(parts), receiver or "")] = line
        if self._tap is not None:
            self._tap(sender, receiver, parts)

    def _arrives(self, receiver: Process, parts: list[bytes]) -> None:
        line = self._frames.get((id(parts), receiver.name))
        if line is not None:
            line.arrived.append(self._network.now)

    # ------------------------------------------------------------------------------------------ reading

    def written(self, error: Exception) -> str:
        """The table, with what went wrong as its last line."""
        events = [Line(event.at, event.by, _event(event)) for event in self._network.events]
        lines = sorted([*self._lines, *events], key=lambda line: line.at)
        lines = [line for line in lines if not line.keepalive]
        body, lanes = getattr(error, "body", None), self._lanes_of(error)
        if body is not None or lanes:
            lines = [line for line in lines if _concerns(line, body, lanes)]
        skipped = len(lines) - _MOST_LINES
        if skipped > 0:
            half = _MOST_LINES // 2
            lines[half:-half] = [Line(lines[half].at, "", f"... {skipped} more ...")]
        table = [f"{line.at:11.6f}  {line.who:4}  {line.what}{_arrival(line)}" for line in lines]
        text = str(error).partition("\n")[0]
        return "\n".join([*table, f"{self._network.now:11.6f}  {type(error).__name__}: {text}"])

    def _lanes_of(self, error: Exception) -> set[tuple[int, int]]:
        """(lane, number) of the message; number 0 if the failure is about the whole lane."""
        named = {(int(lane, 16), 0) for lane in re.findall(r"\b[0-9a-f]{16}\b", str(error).partition("\n")[0])}
        return named | self._places.get(getattr(error, "body", None), set())


def _concerns(line: Line, body: Any, lanes: set[tuple[int, int]]) -> bool:
    if line.parts is not None:
        return any(
            lane == about and (not number or first <= number <= last)
            for lane, first, last in line.lanes
            for about, number in lanes
        )
    return not line.bodies or body is None or body in line.bodies


def _describe(parts: list[bytes]) -> tuple[str, tuple[tuple[int, int, int], ...], bool]:
    """A frame in words, the lanes that it is about, and whether it only shows that somebody is there."""
    try:
        frame = frames.decode(parts)
    except frames.BadFrame as error:
        return f"a frame that cannot be read: {error}", (), False
    name = frames.FRAME_NAMES[frame.type]
    if frame.type == frames.DATA:
        return _describe_data(frame)
    if frame.type == frames.ACK:
        acks: list[frames.LaneAck] = frame.fields[0]
        said = [f"{ack.lane_id:016x} to {ack.floor}, may {ack.grant_seq}{', GAP' * ack.gap}" for ack in acks]
        return f"ACK {'; '.join(said)}", tuple((ack.lane_id, 0, ack.floor + 1) for ack in acks), False
    if frame.type in (frames.WELCOME, frames.OPEN):
        info: frames.Info = frame.fields[2]
        old = " 'I am an old copy'" * info.i_am_old + " 'you are an old copy'" * info.you_are_old
        floors = dict(info.floors)
        told = [f"{lane_id:016x} heard to {floor}" for lane_id, floor in floors.items()]
        told += [
            f"{lane.lane_id:016x} from {lane.lowest} before {lane.next_seq}{' closed' * lane.closed}"
            for lane in info.lanes
        ]
        lanes = tuple((lane_id, 0, 2**63) for lane_id in {*floors, *(lane.lane_id for lane in info.lanes)})
        return f"{name}{old} {'; '.join(told)}", lanes, False
    return name, (), frame.type in (frames.PING, frames.PONG)


def _describe_data(frame: frames.Frame) -> tuple[str, tuple[tuple[int, int, int], ...], bool]:
    data: frames.Data = frame.fields[0]
    last = data.first_seq + sum(map(abs, data.runs)) - 1
    runs, seq = [], data.first_seq
    for run in data.runs:
        numbers = f"{seq}" if abs(run) == 1 else f"{seq}-{seq + abs(run) - 1}"
        runs.append(numbers if run > 0 else f"void {numbers}")
        seq += abs(run)
    lanes = [(data.lane_id, data.first_seq, last)]
    entries: list[str] = []
    if data.kind == CONTROL:
        for record in frames.unpack_records(data.sizes, frame.payload):
            said, about = _describe_entry(decode_control(record))
            entries.append(said)
            lanes += about
    return f"DATA {data.lane_id:016x} {', '.join(runs)} {'; '.join(entries)}".rstrip(), tuple(lanes), False


def _describe_entry(entry: ControlEntry) -> tuple[str, list[tuple[int, int, int]]]:
    if isinstance(entry, Withdraw):
        ranges = [(entry.lane_id, first, last) for first, last in entry.ranges]
        return f"WITHDRAW {entry.lane_id:016x} {_ranges(entry.ranges)} {entry.cause.name}", ranges
    if isinstance(entry, Settle):
        said = [f"{_ranges([(r.first, r.last)])} {r.outcome.name}" for r in entry.ranges]
        return f"SETTLE {entry.lane_id:016x} {', '.join(said)}", [
            (entry.lane_id, r.first, r.last) for r in entry.ranges
        ]
    if isinstance(entry, Notice):
        return f"NOTICE {entry.lane_id:016x} {entry.seq} was handed over", [(entry.lane_id, entry.seq, entry.seq)]
    if isinstance(entry, Deny):
        ranges = [(entry.lane_id, first, last) for first, last in entry.ranges]
        return f"DENY {entry.lane_id:016x} {_ranges(entry.ranges)}", ranges
    received = [f"{lane.lane_id:016x} {lane.first}-{lane.last} holds {_ranges(lane.held)}" for lane in entry.received]
    sent = [f"{lane.lane_id:016x} to {lane.mark} lacks {_ranges(lane.unsettled)}" for lane in entry.sent]
    lanes = [(lane.lane_id, lane.first, lane.last) for lane in entry.received]
    lanes += [(lane.lane_id, lane.first, lane.last) for lane in entry.sent]
    return f"STATE received: {'; '.join(received)} sent: {'; '.join(sent)}", lanes


def _lane(lane: frames.LaneInfo) -> str:
    return f"{lane.lane_id:016x} from {lane.lowest} before {lane.next_seq}{' closed' * lane.closed}"


def _ranges(ranges: Iterable[tuple[int, int]]) -> str:
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in ranges) or "nothing"


def _arrival(line: Line) -> str:
    if line.parts is None:
        return ""
    return ", arrives " + " and ".join(f"{at:.6f}" for at in line.arrived) if line.arrived else ", LOST"


def _event(reported: Reported) -> str:
    event = reported.event
    return f"reports {event.kind}" + (f" of {event.peer}" if event.peer else "") + f": {event.detail}"


def _place(receipt: SimulatedReceipt) -> str:
    return "nothing yet" if receipt.place is None else f"{receipt.place[0]:016x} {receipt.place[1]}"


def _short(value: Any) -> str:
    said = str(value)
    return said if len(said) <= 40 else f"{said[:30]}..."
