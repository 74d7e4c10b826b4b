"""One peer of a small case: the production core, turns and buffer over a simulated disk, moved input by input.

It knows nothing of the other peer and of the search. What it sends, and what its application sees, is gathered and
given back with each step.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, Literal, NamedTuple

from zmqrel.body import encode_body
from zmqrel.core import commands as c
from zmqrel.core import frames, tables
from zmqrel.core.buffer import HANDLED, Buffer
from zmqrel.core.effects import Ended, Event, ReceiptNotice
from zmqrel.core.engine import Engine
from zmqrel.core.entries import Meta, encode_messages, encode_meta
from zmqrel.core.lane import InLane, OutLane, decode_lane
from zmqrel.core.row import Row
from zmqrel.core.rows import Policy
from zmqrel.core.times import Now
from zmqrel.options import Options
from zmqrel.retry import Retry
from zmqrel.runtime.turn import Turns, Work
from zmqrel.store.in_hand import MemoryInHand
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.disk import CrashPoint, ProcessDied, SimulatedDisk
from zmqrel.testing.exhaustive.snapshot import SteadyJitter
from zmqrel.testing.leftovers import leftovers

EPOCH_US = 1_700_000_000_000_000
QUEUE = "q"

Death = Literal["", "before", "after"]
"""Whether the process dies in the turn: not, before its commit, or after it and before anybody hears of it."""

JITTER = SteadyJitter()
OPTIONS = Options.parse({})
RETRY = Retry.exponential(0.5, max_interval=60, max_attempts=10, jitter="full")
_NO_CAUSE = ("damaged", "malformed", "old_copy", "peer_old_copy", "peer_store_gone")


class Observed(NamedTuple):
    """Something that an application saw or did: `what`, the message's number, and details."""

    what: str
    message: int = -1
    detail: tuple[Any, ...] = ()


class Done(NamedTuple):
    """Something done to a link: a frame sent, a socket opened, a link closed."""

    what: Literal["frame", "dial", "hang up"]
    link: int
    parts: tuple[bytes, ...] = ()


class Process:
    """See the module. Times are microseconds since the search's beginning; both clocks of a process agree with them.

    `dials` says whether it dials the other peer or waits for it, `serves` whether it has a handler.
    """

    def __init__(self, name: str, other: str, dials: bool, serves: bool, first_id: int) -> None:
        self.name = name
        self.other = other
        self.dials = dials
        self.serves = serves
        self.disk = SimulatedDisk()
        self.in_hand = MemoryInHand()
        self.turns: Turns | None = None
        self.buffer: Buffer | None = None
        self.running: Row | None = None
        """What its one worker has."""
        self.woken = False
        """The buffer asks for a turn."""
        self._finished: list[int] = []
        """Numbers of the messages that the handler is through with since the last turn."""
        self._next_id = first_id
        self._last_link = 0
        self._done: list[Done] = []
        self._observed: list[Observed] = []

    # ------------------------------------------------------------------------------------------------ steps

    def start(self, now_us: int) -> None:
        """Begin a life, and have its first turns: it connects in the first, and says HELLO in the second."""
        self.disk.survive()
        self._last_link = 0
        self.turns = Turns(self.disk, self.in_hand, self._make_engine, self)
        self.turns.open(_now(now_us), EPOCH_US + now_us)
        if self.serves:
            self.buffer = Buffer(QUEUE, 64, self.in_hand, nullcontext(), self._offered, wake=self._wake)
            self.turns.serve(QUEUE, self.buffer, Policy(RETRY))
        self.turn(now_us, commands=[c.Connect(self.other, "here" if self.dials else None)])
        self.turn(now_us)

    def die(self) -> None:
        """The process ends between two turns."""
        self.disk.abort()
        self.disk.close(clean=False)
        self.disk.survive()
        self.turns = self.buffer = self.running = None
        self._finished.clear()
        self.woken = False

    def turn(
        self,
        now_us: int,
        death: Death = "",
        frame: tuple[int, list[bytes]] | None = None,
        commands: list[c.Command] | None = None,
    ) -> None:
        """One turn with what came in, in which the process may die. What it sends is gathered."""
        assert self.turns is not None
        first_id = self._next_id
        point: CrashPoint = "before commit" if death == "before" else "after commit"
        if death:
            self.disk.die_at(point)
        self.woken = False
        finished, self._finished = self._finished, []
        work = Work(commands or [], [frame] if frame is not None else [])
        try:
            self.turns.run(_now(now_us), EPOCH_US + now_us, work)
        except ProcessDied:
            if death == "before" and not self._done:
                self._next_id = first_id  # nobody ever saw the names that it drew
        if death:
            self.die()  # after the turn, if there was nothing to commit in it
        if death != "before":
            self._observed += [Observed("settled", number) for number in finished]

    def send_message(self, now_us: int, death: Death, ttl_us: int) -> None:
        """The application sends its next message: number 0, 1, ... in the order of their acceptance."""
        before = self._accepted()
        deadline_us = now_us + ttl_us if ttl_us else 0
        by_store_us = EPOCH_US + deadline_us if ttl_us else 0
        records = encode_messages([encode_body(before)], EPOCH_US + now_us, by_store_us, encode_meta(Meta()))
        self.turn(now_us, death, commands=[c.Send(self.other, QUEUE, False, records, by_store_us)])
        if self._accepted() > before:
            self._observed.append(Observed("accepted", before, (deadline_us,)))

    def recall_message(self, now_us: int, death: Death, number: int) -> None:
        """The application recalls a message."""
        assert self.turns is not None
        lane = self._data_lane()
        assert lane is not None
        self.turn(now_us, death, commands=[c.Recall([(lane.no, number + 1)], (f"{lane.id:016x}-{number + 1}",))])

    def hand_over(self, now_us: int) -> None:
        """The worker takes what is next: nothing, if a deadline has passed."""
        assert self.turns is not None
        assert self.buffer is not None
        row = self.running = self.buffer.take(EPOCH_US + now_us)
        if row is not None:
            offset_us = self.turns.engine.channels[self.other].clock.offset_us or 0
            said = row.attempts, row.redelivered or row.doubt, abs(offset_us)
            self._observed.append(Observed("handed over", row.seq - 1, said))

    def finish(self) -> None:
        """The handler returns."""
        assert self.buffer is not None
        assert self.running is not None
        self.buffer.finish(self.running, HANDLED)
        self._observed.append(Observed("finished", self.running.seq - 1))
        self._finished.append(self.running.seq - 1)
        self.running = None

    def take_output(self) -> tuple[list[Done], list[Observed]]:
        """What it did to its links, in order, and what was observed, since the last call."""
        output = self._done, self._observed
        self._done, self._observed = [], []
        return output

    # -------------------------------------------------------------------------------------------- questions

    def wake_us(self, now_us: int) -> int | None:
        """When a turn is due though nothing comes in."""
        if self.turns is None:
            return None
        if self.woken or (self.buffer is not None and self.buffer.unsettled):
            return 0
        return self.turns.next_wake_us(_now(now_us))

    def outcomes(self, messages: int) -> tuple[str, ...]:
        """What `receipt(id)` says of each message: its outcome, "" if there is none."""
        assert self.turns is not None
        lane = self._data_lane()
        if lane is None:
            return ("",) * messages
        found = [self.turns.engine.found(lane.no, seq) for seq in range(1, messages + 1)]
        return tuple("" if f is None or f.ended is None else f.ended.outcome.name for f in found)

    def leftovers(self) -> list[str]:
        """Tables that are not empty though every message has its outcome."""
        stats = None if self.turns is None else self.turns.engine.stats()
        return [f"{self.name} {what}" for what in leftovers(self.disk, stats)]

    def _stored_lanes(self) -> list[OutLane | InLane]:
        rows = self.disk.scan(*tables.table_bounds(tables.LANE), 1000)
        return [decode_lane(int.from_bytes(key[1:], "big"), value) for key, value in rows]

    def _data_lane(self) -> OutLane | None:
        return next((lane for lane in self._stored_lanes() if isinstance(lane, OutLane) and lane.queue), None)

    def _accepted(self) -> int:
        """How many messages its store has accepted."""
        lane = self._data_lane()
        return 0 if lane is None else lane.next_seq - 1

    # ------------------------------------------------------------------------------- what the turns ask for

    def _make_engine(self, now: Now) -> Engine:
        return Engine(self.name, OPTIONS, JITTER, self._draw_id, self.disk, now)

    def _draw_id(self) -> int:
        self._next_id += 1
        return self._next_id

    def _offered(self, _rows: int) -> None:
        pass  # the search looks whether there is something to take

    def _wake(self) -> None:
        self.woken = True

    def send(self, link: int, frames: list[list[bytes]]) -> None:
        """Frames leave."""
        for parts in frames:
            self._send(link, parts)

    def _send(self, link: int, parts: list[bytes]) -> None:
        """A frame leaves: nothing may be uncommitted, and what it says must be in the store."""
        if self.disk.uncommitted:
            raise PromiseBroken(f"{self.name} sends a frame before it commits the turn")
        frame = frames.decode(parts)
        if frame.type == frames.DATA:
            data: frames.Data = frame.fields[0]
            self._check_mark(data.lane_id, data.first_seq + sum(map(abs, data.runs)) - 1)
        elif frame.type == frames.ACK:
            for ack in frame.fields[0]:
                self._check_floor(ack.lane_id, ack.floor)
        self._done.append(Done("frame", link, tuple(parts)))

    def _check_mark(self, lane_id: int, last: int) -> None:
        marks = {lane.id: lane.sent_upto for lane in self._stored_lanes() if isinstance(lane, OutLane)}
        if marks.get(lane_id, 0) < last:
            raise PromiseBroken(f"{self.name} sends entry {last} with {marks.get(lane_id, 0)} as its durable sent_upto")

    def _check_floor(self, lane_id: int, floor: int) -> None:
        floors = {lane.id: lane.floor for lane in self._stored_lanes() if isinstance(lane, InLane)}
        if floors.get(lane_id, 0) < floor:
            raise PromiseBroken(f"{self.name} acknowledges {floor} with {floors.get(lane_id, 0)} as its durable floor")

    def reply(self, command: c.Command, value: Any) -> None:
        """Only refusals are of interest: what was accepted and what ended is asked of the core."""
        if isinstance(value, BaseException):
            raise PromiseBroken(f"{self.name} refuses {type(command).__name__}: {value!r}")

    def notice(self, notices: list[ReceiptNotice]) -> None:
        """A receipt is told an outcome."""
        for notice in notices:
            if isinstance(notice, Ended):
                for seq in range(notice.first, notice.last + 1):
                    self._observed.append(Observed("told", seq - 1, (notice.outcome.name,)))

    def report(self, event: Event) -> None:
        """An event for operators; those that speak of damage or loss have no cause here."""
        if event.kind in _NO_CAUSE:
            raise PromiseBroken(f"{self.name} reports {event.kind}: {event.detail}")

    def dial(self, name: str, endpoint: str) -> int:  # noqa: ARG002 - the World says it
        """Make a socket."""
        self._last_link += 2
        self._done.append(Done("dial", self._last_link))
        return self._last_link

    def shut_out(self, link: int) -> None:
        """Close a connection of another."""
        self.hang_up(link)

    def hang_up(self, link: int) -> None:
        """Close a socket."""
        self._done.append(Done("hang up", link))


def _now(now_us: int) -> Now:
    return Now(now_us, EPOCH_US + now_us)
