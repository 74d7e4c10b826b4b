"""A peer made by hand at the other end of an engine's link: it says what a test wants said, and keeps what it hears."""

from __future__ import annotations

from typing import Any

from tests.core.pump import Host
from zmqrel.core import commands as c
from zmqrel.core import frames
from zmqrel.core.entries import ControlEntry, Settle, Settled, Withdraw, decode_control, encode_control
from zmqrel.core.frames import Data, Frame, pack_sizes, unpack_records
from zmqrel.core.lane import CONTROL, DATA
from zmqrel.outcome import Cause, Outcome

LINK = 7
PATIENT: dict[str, Any] = {"heartbeat_s": 3000.0, "liveness_s": 3600.0}
"""Options of a host that does not mind a puppet's silence."""
MESSAGES, CONTROLS = 0xDA7A, 0xC0
"""Ids of the puppet's two lanes."""


class Puppet:
    """Dials `host` and opens a session, unless `dial` is False."""

    def __init__(self, host: Host, name: str = "puppet", *, dial: bool = True) -> None:
        self.host = host
        self.name = name
        self.store_id = 0x5708E
        self.instance = 0x11FE
        self.commits = 1
        self.heard: list[Frame] = []
        self.told: list[ControlEntry] = []
        """Control entries that the engine sent, each once however often it was sent."""
        self._seen: set[tuple[int, int]] = set()
        self.session = b"puppet__"
        self.link = LINK
        self.records: dict[int, bytes] = {}
        """Its control entries."""
        self.largest_entry = 2**30
        self.knows: list[int] | None = None
        """What it says to have heard of the engine: nothing before its first session."""
        host.turn([], c.Connect(name, None))
        if dial:
            self.dial()

    def dial(self, half: bytes = b"puppet__", **info: Any) -> None:
        """HELLO, OPEN once there is a WELCOME, and an answer to the PING that follows."""
        self.session = half
        self.hello()
        welcome = self.last(frames.WELCOME)
        self.session = welcome.session
        self.open(**info)
        self.knows = [welcome.fields[0].store_id, welcome.instance, welcome.commits]
        self.pong()

    def pong(self) -> None:
        """Show that it knows of the session."""
        self.say(frames.PONG, *[self.host.now().store_us] * 3)

    def hello(self) -> None:
        self.say(frames.HELLO, self.identity(), self.host.now().store_us)

    def live_anew(self, **info: Any) -> None:
        """It dies, comes back over another link, and takes over from its old life, which is silent."""
        self.instance += 1
        self.link += 1
        self.session = f"life{self.instance:04x}".encode()[-8:]
        self.hello()
        self.host.time.pass_s(0.4)
        self.dial(self.session, **info)

    def lose_store(self) -> None:
        """It dies, which closes its link, and comes back with another store."""
        self.host.engine.link_down(self.link)
        self.host.turn()
        self.store_id += 1
        self.records.clear()
        self.knows = None
        self.live_anew()

    def open(self, *, session: bytes | None = None, **info: Any) -> None:
        now_us = self.host.now().store_us
        self.say(frames.OPEN, self.identity(), [now_us] * 3, self.info(**info), session=session)

    def welcome(self, *, session: bytes | None = None, identity: list[Any] | None = None, **info: Any) -> None:
        """The answer to the engine's HELLO."""
        now_us = self.host.now().store_us
        self.say(frames.WELCOME, identity or self.identity(), [now_us] * 3, self.info(**info), session=session)

    def identity(self) -> list[Any]:
        return [frames.PROTOCOL, self.name, self.store_id]

    def info(self, **given: Any) -> list[Any]:
        """What it says of the past: no more than whom it has met, if not told otherwise."""
        fields = {"heard": self.knows, "largest_entry": self.largest_entry, "i_am_old": False, "you_are_old": False}
        return list((fields | {"floors": [], "lanes": []} | given).values())

    def say(
        self, frame_type: int, *fields: Any, session: bytes | None = None, payload: list[bytes] | None = None
    ) -> None:
        """One frame, taken in a turn of its own."""
        head = [frame_type, self.session if session is None else session, self.instance, self.commits, *fields]
        self.say_parts(frames.encode(head, payload))

    def say_parts(self, parts: list[bytes]) -> None:
        self.host.turn([(self.link, parts)])
        self.listen()

    def listen(self) -> list[Frame]:
        """What the engine said since."""
        said = [frames.decode(parts) for link, parts in self.host.out if link == self.link]
        self.host.out = [(link, parts) for link, parts in self.host.out if link != self.link]
        self.heard += said
        for frame in said:
            if frame.type == frames.DATA and frame.fields[0].kind == CONTROL:
                self._take_control(frame.fields[0], frame.payload)
        return said

    def _take_control(self, data: Data, payload: bytes) -> None:
        for seq, record in enumerate(unpack_records(data.sizes, payload), data.first_seq):
            if (data.lane_id, seq) not in self._seen:
                self._seen.add((data.lane_id, seq))
                self.told.append(decode_control(record))

    def forget(self) -> None:
        """What was heard so far is of no interest."""
        self.listen()
        self.heard.clear()
        self.told.clear()

    def last(self, frame_type: int) -> Frame:
        """The last frame of a type that the engine sent."""
        self.listen()
        return [frame for frame in self.heard if frame.type == frame_type][-1]

    def types(self) -> list[str]:
        """The types of what was heard, which is then forgotten."""
        self.listen()
        names = [frames.FRAME_NAMES[frame.type] for frame in self.heard]
        self.forget()
        return names

    # ------------------------------------------------------------------------------------------- as a sender

    def data(self, first: int, *records: bytes, runs: list[int] | None = None, **lane: Any) -> None:
        """Entries of its data lane."""
        given = {"lane_id": MESSAGES, "kind": DATA, "queue": "work", "doubt_upto": 0} | lane
        runs = [len(records)] if runs is None else runs
        self.say(frames.DATA, *given.values(), first, runs, pack_sizes(list(records)), payload=list(records))

    def control(self, *entries: ControlEntry | bytes) -> None:
        """The next entries of its control lane."""
        first = len(self.records) + 1
        records = [entry if isinstance(entry, bytes) else encode_control(entry) for entry in entries]
        self.records.update(enumerate(records, first))
        self.data(first, *records, lane_id=CONTROLS, kind=CONTROL, queue="")

    def withdraw(self, *seqs: int, cause: Cause = Cause.RECALL) -> None:
        ranges = [(seq, seq) for seq in seqs]
        self.control(Withdraw(self.store_id, MESSAGES, DATA, "work", ranges, cause))

    # ----------------------------------------------------------------------------------------- as a receiver

    def ack(self, lane_id: int, floor: int, *, grant: int = 10**6, size: int = 2**40, gap: bool = False) -> None:
        self.say(frames.ACK, [[lane_id, floor, grant, size, gap]])

    def ack_control(self) -> None:
        """Acknowledge the engine's control lane until nothing more comes."""
        heard = -1
        while heard != len(self.told):
            heard = len(self.told)
            lane = next(lane for lane in self.host.engine.channels[self.name].own.values() if lane.kind == CONTROL)
            self.ack(lane.id, lane.sent_upto)
            self.listen()

    def settle(self, lane_id: int, first: int, outcome: Outcome, last: int | None = None, **given: Any) -> None:
        """Tell outcomes; `given` are fields of Settled and `store_id`."""
        store_id = given.pop("store_id", self.host.engine.shared.ledger.store_id)
        settled = Settled(first, last or first, outcome, None, 0, 0, self.host.now().store_us, False)
        self.control(Settle(store_id, lane_id, [settled._replace(**given)]))

    def settlements(self) -> list[tuple[int, str, str | None, bool]]:
        """Sequence number, outcome, reason, handed over: as the engine told them of MESSAGES."""
        self.listen()
        return [
            (seq, each.outcome.name, each.reason, bool(each.handed_at_us))
            for entry in self.told
            if isinstance(entry, Settle) and entry.lane_id == MESSAGES
            for each in entry.ranges
            for seq in range(each.first, each.last + 1)
        ]
