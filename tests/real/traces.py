"""What was said between two peers, from their frames, read by the rules of docs/wire.md and by nothing of zmqrel.

`told` makes of a trace what two runs of one script have in common. Left out, and why:

- ids of sessions, lives, stores and lanes are random: they are replaced by whose they are, and which in their order;
- clock readings and times: of a hand-over, whether it has one; of deadlines and delays, the distance from sending;
- commit counts and grants depend on how many things a turn found waiting: they may not fall, or be below the floor;
- how entries are batched into frames, and how often a frame is repeated: a lane is the sequence of its entries, each
  once; not what was a message and is repeated as a void, for a receiver that lost its store may say just then that it
  does not miss it;
- numbers in control lanes: settlements of several messages may be one entry or more, so it is told what they say;
- acknowledgements: whether a lane was acknowledged, up to where, and whether a gap was told;
- how many PINGs and PONGs there are: that there are, and that each echo was a reading;
- BYEs that say "no such session", for whether a frame is under way when its session ends is a matter of microseconds;
  and those that answer a BYE with its reason, for whether that still finds a connection is one too;
- how what the one says in a handshake stands to what the other says, but for cause and effect: a WELCOME names a HELLO,
  an OPEN a WELCOME.

If both sides dial it is chance which link is there first, and how often they begin anew after a store was lost: then it
is only told who said HELLO, WELCOME and OPEN.
"""

from __future__ import annotations

import struct
import zlib
from collections import defaultdict
from typing import Any, NamedTuple

import msgpack

from tests.real.hostile import apart

HELLO, WELCOME, OPEN, BYE, PING, PONG, DATA, ACK = range(1, 9)
WITHDRAW, SETTLE, NOTICE, STATE = range(1, 5)
NAMES = dict(enumerate(("HELLO", "WELCOME", "OPEN", "BYE", "PING", "PONG", "DATA", "ACK"), 1))


class Passed(NamedTuple):
    """A frame on its way."""

    sender: str
    receiver: str
    parts: list[bytes]


def header_of(parts: list[bytes]) -> list[Any]:
    """The header of a frame."""
    header: list[Any] = msgpack.unpackb(parts[0], raw=False, strict_map_key=True)
    return header


def frames_of(message: bytes) -> list[list[bytes]]:
    """The frames of a message, each a header, perhaps with a payload: one, or 0xc2 and several."""
    whole = _listed(message) if message[:1] == b"\xc2" else [message]
    return [_listed(frame) if frame[:1] == b"\xc1" else [frame] for frame in whole]


def _listed(whole: bytes) -> list[bytes]:
    """What stands behind a mark: how many they are, their lengths, and they."""
    found = apart(whole)
    assert 3 + sum(4 + len(piece) for piece in found) == len(whole)
    return found


class Reader:
    """Reads one trace from its beginning. Raises AssertionError at what docs/wire.md does not allow."""

    def __init__(self) -> None:
        self.handshakes: defaultdict[str, list[Any]] = defaultdict(list)
        self._shaken: set[Any] = set()
        self.lanes: defaultdict[str, list[Any]] = defaultdict(list)
        self.control: defaultdict[str, list[Any]] = defaultdict(list)
        self.floors: dict[str, int] = {}
        self.gaps: dict[str, bool] = {}
        self.kinds: set[tuple[str, str]] = set()
        self._labels: dict[int, str] = {}
        self._count: defaultdict[str, int] = defaultdict(int)
        self._read: set[Any] = set()
        self._readings: defaultdict[str, set[int]] = defaultdict(set)
        self._commits: dict[tuple[int, bytes], int] = {}
        self._session = b""

    def label(self, number: int, what: str) -> str:
        """Whose it is and which."""
        if number not in self._labels:
            self._count[what] += 1
            self._labels[number] = f"{what} #{self._count[what]}"
        return self._labels[number]

    def lane(self, lane_id: int) -> str:
        return self._labels.get(lane_id, "a lane that was not named")

    def read(self, passed: Passed) -> None:
        """One frame more."""
        header = header_of(passed.parts)
        kind, session, instance, commits, *fields = header
        assert len(session) == (8 if kind == HELLO else 16) or kind == BYE
        assert len(passed.parts) == (2 if kind == DATA else 1)
        # Of one session, for what passes over two connections was not seen in the order in which it was sent.
        assert commits >= self._commits.get((instance, session), 0), "a commit count fell"
        self._commits[instance, session] = commits
        self.kinds.add((passed.sender, NAMES[kind]))
        self._session = session
        getattr(self, f"_{NAMES[kind].lower()}")(passed, *fields)

    # ----------------------------------------------------------------------------------------- sessions

    def _shake(self, session: bytes, sender: str, kind: str, *what: Any) -> None:
        """Repeats are one, though an OPEN may know more by then, and so are HELLOs to who is not there."""
        said = self.handshakes[sender]
        repeated = (session, sender, kind, what) in self._shaken
        if kind == "HELLO":
            repeated = repeated or said[-1:] == [(kind, *what)]
        elif kind != "BYE":
            repeated = self._named(session, sender, kind)
        if not repeated:
            said.append((kind, *what))
        self._shaken.add((session, sender, kind, what))

    def _named(self, session: bytes, receiver: str, kind: str) -> bool:
        return any((said[0], *said[1:3]) == (session, receiver, kind) for said in self._shaken)

    def _store(self, identity: list[Any], sender: str) -> str:
        protocol, name, store_id = identity
        assert (protocol, name) == (1, sender)
        return self.label(store_id, f"store of {name}")

    def _hello(self, passed: Passed, identity: list[Any], reading: int) -> None:
        self._readings[passed.sender].add(reading)
        self._shake(self._session, passed.sender, "HELLO", self._store(identity, passed.sender))

    def _told(self, kind: str, passed: Passed, identity: list[Any], clock: list[int], info: list[Any]) -> None:
        store = self._store(identity, passed.sender)
        echoed, received, sent = clock
        assert echoed in self._readings[passed.receiver], "an echo of what was not said"
        assert sent >= received > 0
        self._readings[passed.sender].add(sent)
        heard, largest, i_am_old, you_are_old, floors, lanes = info
        heard_of = None if heard is None else self._labels.get(heard[0], "a store that was not named")
        own = {}
        for lane_id, lane_kind, queue, closed, lowest, upto, doubt in lanes:
            lane = self.label(lane_id, lane_name(passed.sender, lane_kind, queue))
            if lane_kind:
                own[lane] = (closed, lowest, upto, doubt)
        known = {self.lane(lane_id): floor for lane_id, floor in floors}
        known = {lane: floor for lane, floor in known.items() if "control" not in lane}
        lanes_told = tuple(sorted(known.items())), tuple(sorted(own.items()))
        self._shake(self._session, passed.sender, kind, store, heard_of, largest, i_am_old, you_are_old, *lanes_told)

    def _welcome(self, passed: Passed, *fields: Any) -> None:
        assert self._named(self._session[:8], passed.receiver, "HELLO"), "a WELCOME to nobody"
        self._told("WELCOME", passed, *fields)

    def _open(self, passed: Passed, *fields: Any) -> None:
        assert self._named(self._session, passed.receiver, "WELCOME"), "an OPEN without a WELCOME"
        self._told("OPEN", passed, *fields)

    def _bye(self, passed: Passed, reason: str) -> None:
        echo = (self._session, passed.receiver, "BYE", (reason,)) in self._shaken
        if reason != "no such session" and not echo:
            self._shake(self._session, passed.sender, "BYE", reason)

    def _ping(self, passed: Passed, reading: int) -> None:
        self._readings[passed.sender].add(reading)

    def _pong(self, passed: Passed, echoed: int, received: int, sent: int) -> None:
        assert echoed in self._readings[passed.receiver], "an echo of what was not said"
        assert sent >= received > 0

    # -------------------------------------------------------------------------------------------- lanes

    def _data(
        self, passed: Passed, lane_id: int, kind: int, queue: str, doubt: int, first: int, runs: list[int], sizes: bytes
    ) -> None:
        lane = self.label(lane_id, lane_name(passed.sender, kind, queue))
        lengths = struct.unpack(f">{len(sizes) // 4}I", sizes)
        assert sum(lengths) == len(passed.parts[1])
        records, at = [], 0
        for length in lengths:
            records.append(passed.parts[1][at : at + length])
            at += length
        seq, taken = first, iter(records)
        for run in runs:
            for _ in range(abs(run)):
                record = next(taken) if run > 0 else None
                if (lane_id, seq, record) not in self._read:
                    self._read.add((lane_id, seq, record))
                    self._entry(passed.sender, lane, kind, seq, record, in_doubt=seq <= doubt)
                seq += 1
        assert next(taken, None) is None

    def _entry(self, sender: str, lane: str, kind: int, seq: int, record: bytes | None, in_doubt: bool) -> None:
        if record is None:
            if kind and all(told[0] != seq for told in self.lanes[lane]):
                self.lanes[lane].append((seq, "VOID"))
            return
        assert zlib.crc32(record) == 0x2144DF1C, "a record's checksum"
        if kind:
            self.lanes[lane].append((seq, message(record), "in doubt" if in_doubt else ""))
        else:
            self._control_entry(sender, msgpack.unpackb(record[:-4], raw=False))

    def _control_entry(self, sender: str, entry: list[Any]) -> None:
        kind, store_id, *fields = entry
        store = self._labels.get(store_id, "a store that was not named")
        told = self.control[sender]
        if kind == WITHDRAW:
            lane_id, lane_kind, queue, ranges, cause = fields
            lane = self.label(lane_id, lane_name(sender, lane_kind, queue))
            told += [("WITHDRAW", store, lane, seq, cause) for seq in numbers(ranges)]
        elif kind == SETTLE:
            for first, last, outcome, reason, attempts, handed, at, applied in fields[1]:
                assert at > 0
                said = (outcome, reason, attempts, handed > 0, applied)
                told += [("SETTLE", store, self.lane(fields[0]), seq, *said) for seq in range(first, last + 1)]
        elif kind == NOTICE:
            told.append(("NOTICE", store, self.lane(fields[0]), fields[1], fields[2] > 0))
        else:
            assert kind == STATE
            other, received, sent, final = fields
            other_store = self._labels.get(other, "a store that was not named")
            parts = [(self.lane(part[0]), *part[1:]) for part in received + sent]
            told.append(("STATE", store, other_store, [part for part in parts if "control" not in part[0]], final))

    def _ack(self, passed: Passed, lanes: list[list[Any]]) -> None:
        for lane_id, floor, grant, size, gap in lanes:
            lane = self.lane(lane_id)
            assert not lane.startswith(passed.sender), "an acknowledgement of one's own lane"
            if "control" in lane:
                assert (grant, size) == (0, 0)
                floor = 0
            else:
                assert grant >= floor
            self.floors[lane] = max(floor, self.floors.get(lane, 0))
            self.gaps[lane] = self.gaps.get(lane, False) or gap


def lane_name(sender: str, kind: int, queue: str) -> str:
    """What a lane is called."""
    return f"{sender}'s {('control', 'data', 'delayed')[kind]} lane {queue}".rstrip()


def numbers(ranges: list[list[int]]) -> list[int]:
    """Every number in ranges."""
    return [number for first, last in ranges for number in range(first, last + 1)]


def message(record: bytes) -> Any:
    """What a record says, its times by their distance from its sending."""
    length, sent_at, deadline = struct.unpack_from(">IQQ", record)
    meta = (
        msgpack.unpackb(record[20 : 20 + length], raw=False) if length else [None, None, None, 0, "dead", *[None] * 3]
    )
    key, message_id, headers, not_before, on_expiry, max_attempts, origin_id, cause = meta
    body = msgpack.unpackb(record[20 + length : -4], raw=False)
    times = (deadline and deadline - sent_at, not_before and not_before - sent_at)
    return key, message_id, headers, times, on_expiry, max_attempts, origin_id, cause, body


def told(trace: list[Passed], both_dial: bool = False) -> dict[str, Any]:
    """What a trace says; two runs of one script say the same."""
    reader = Reader()
    for passed in trace:
        reader.read(passed)
    handshakes: dict[str, Any] = dict(reader.handshakes)
    lanes: dict[str, Any] = dict(reader.lanes)
    if both_dial:
        handshakes = {sender: {kind for kind, *_ in said} - {"BYE"} for sender, said in handshakes.items()}
        lanes = {lane: {seq: what for seq, *what in reversed(entries)} for lane, entries in lanes.items()}
    return {
        "kinds of frames": sorted(reader.kinds),
        "handshakes": handshakes,
        "lanes": lanes,
        "control lanes": dict(reader.control),
        "acknowledged": reader.floors,
        "gaps": reader.gaps,
    }
