"""The engine, told whatever bytes say: frames of a peer that lies, commands, workers, time and crashes, in any order.

The bytes are a program: each instruction is a byte and its arguments, and where they end, zeros follow. Numbers are
drawn from those at which something changes, or are any at all, and bytes that differ little do things that do.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from itertools import islice
from typing import Any
from zlib import crc32

import msgpack

from tests.core.pump import QUEUE, START_US, Host, Time
from tests.core.puppet import CONTROLS, LINK, MESSAGES, PATIENT, Puppet
from zmqrel.core import commands as c
from zmqrel.core import frames
from zmqrel.core.buffer import HANDLED, Failed, MoveTo, Rejected, Result
from zmqrel.core.entries import MAX_SEQ, MAX_TIME_US, Meta, encode_messages, encode_meta
from zmqrel.core.frames import pack_sizes
from zmqrel.permissions import Permissions
from zmqrel.runtime.parts import split

MOST_STEPS = 40
_NUMBERS = (
    0, 1, 2, 3, 4, 5, 6, 8, 100, 1000, 65_535, 2**31, 2**32, 2**62, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 2, 2**64 - 1,
    START_US, START_US + 1_000_000, START_US + 10**9, MAX_TIME_US, MAX_TIME_US + 1, MAX_SEQ - 1, MAX_SEQ,
)  # fmt: skip
_QUEUES = (QUEUE, "other", "", "x" * 64, "*", "\x1b[31m")
_WIDEST = 300
"""Numbers of a range that is asked to be withdrawn: each costs a row."""
_ROWS_OF_A_STEP = 2000
"""More than the widest range leaves, with all that hangs on it."""
_RESULTS: tuple[Result, ...] = (HANDLED, Failed("no"), Rejected("never"), MoveTo("other"))
_OPTIONS: dict[str, Any] = PATIENT | {
    "inbox_max_messages": 50, "outbox_max_messages": 50, "outcome_retention_s": 60, "dead_max_bytes": 2000,
}  # fmt: skip


class _Bytes:
    """The program, read from its start; behind its end everything is 0."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0

    @property
    def left(self) -> int:
        return len(self._data) - self._at

    def take(self, count: int) -> bytes:
        taken = self._data[self._at : self._at + count]
        self._at += count
        return taken

    def byte(self) -> int:
        return int.from_bytes(self.take(1), "big")

    def choice(self, among: Any) -> Any:
        return among[self.byte() % len(among)]

    def number(self) -> int:
        which = self.byte()
        if which < 200:
            return _NUMBERS[which % len(_NUMBERS)]
        return int(struct.unpack(">Q", self.take(8).rjust(8, b"\0"))[0])

    def flag(self) -> bool:
        return bool(self.byte() & 1)

    def ranges(self, widest: int | None = None) -> list[tuple[int, int]]:
        found = []
        for _ in range(self.byte() % 4):
            first, last = self.number(), self.number()
            found.append((first, last if widest is None else min(last, first + widest)))
        return found


class _Run:
    """One program over one host. What goes wrong raises."""

    def __init__(self, data: bytes) -> None:
        self._bytes = _Bytes(data)
        self._host = Host("b", Time(), **_OPTIONS)
        self._host.serve()
        self._puppet = Puppet(self._host, dial=False)
        self._rows: list[Any] = []
        self._steps: tuple[Callable[[], None], ...] = (
            self._hello, self._open, self._welcome, self._raw, self._data, self._data, self._control, self._control,
            self._ack, self._small, self._pass_time, self._send, self._recall, self._work, self._work, self._command,
            self._crash, self._link, self._dial, self._permit,
        )  # fmt: skip

    def run(self) -> None:
        if self._bytes.flag():
            self._puppet.dial()
        for number in range(MOST_STEPS):
            if self._bytes.left <= 0:
                break
            self._steps[self._bytes.byte() % len(self._steps)]()
            self._check_bounds(number + 1)
        self._check_whole()

    # ------------------------------------------------------------------------------------------------- what is said

    def _say(self, frame_type: int, *fields: Any, payload: list[bytes] | None = None) -> None:
        puppet, read = self._puppet, self._bytes
        session = puppet.session if read.byte() % 8 else read.take(read.choice((8, 16)))
        instance = puppet.instance if read.byte() % 8 else read.number()
        try:
            parts = frames.encode([frame_type, session, instance, read.number(), *fields], payload)
        except OverflowError:  # no number of 64 bits: nobody can say it
            return
        self._hear(parts)

    def _hear(self, parts: list[bytes]) -> None:
        link = self._puppet.link if self._bytes.byte() % 8 else self._bytes.byte()
        self._host.turn([(link, parts)])
        for said in self._puppet.listen():
            if said.type == frames.WELCOME:
                self._puppet.session = said.session

    def _identity(self) -> list[Any]:
        read = self._bytes
        name = read.choice(("puppet", "puppet", "puppet", "b", "stranger", "\x1b[2J", "x" * 65))
        return [read.choice((1, 1, 1, 0, 2, 2**64 - 1)), name, self._store()]

    def _store(self) -> int:
        own = self._host.engine.shared.ledger.store_id
        return int(
            self._bytes.choice((self._puppet.store_id, self._puppet.store_id, own, self._puppet.store_id + 1, 0))
        )

    def _lane(self) -> int:
        own = [*self._host.engine.channels["puppet"].own] if "puppet" in self._host.engine.channels else []
        return int(self._bytes.choice([MESSAGES, MESSAGES, CONTROLS, *own, 0, 2**64 - 1]))

    def _hello(self) -> None:
        self._puppet.session = self._bytes.choice((b"puppet__", b"another_", b"\0" * 8))
        self._say(frames.HELLO, self._identity(), self._bytes.number())

    def _info(self) -> list[Any]:
        read = self._bytes
        heard = [self._store(), read.number(), read.number()] if read.flag() else None
        floors = [[self._lane(), read.number()] for _ in range(read.byte() % 3)]
        lanes = [
            [
                self._lane(),
                read.byte() % 4,
                read.choice(_QUEUES),
                read.flag(),
                read.number(),
                read.number(),
                read.number(),
            ]
            for _ in range(read.byte() % 3)
        ]
        return [heard, read.number(), read.flag(), read.flag(), floors, lanes]

    def _open(self) -> None:
        read = self._bytes
        clock = [read.number(), read.number(), read.number()]
        self._say(frames.OPEN, self._identity(), clock, self._info())

    def _welcome(self) -> None:
        read = self._bytes
        clock = [read.number(), read.number(), read.number()]
        self._say(frames.WELCOME, self._identity(), clock, self._info())

    def _raw(self) -> None:
        for parts in split(self._bytes.take(self._bytes.byte())) or []:
            self._hear(parts)

    def _batch(self, kind: int, queue: str, lane: int, records: list[bytes]) -> None:
        read = self._bytes
        runs = [len(records)] if records else [-1]
        if read.byte() % 8 == 0:
            runs.append(-max(1, read.number()))
        # The next number of the lane, mostly: what does not follow is dropped.
        known = (
            self._host.engine.channels["puppet"].theirs.get(lane) if "puppet" in self._host.engine.channels else None
        )
        first = (known.floor if known is not None else 0) + 1 if read.byte() % 4 else read.number()
        fields = (lane, kind, queue, read.choice((0, 0, 0, 1, 2**64 - 1)), first, runs, pack_sizes(records))
        self._say(frames.DATA, *fields, payload=records)

    def _data(self) -> None:
        read = self._bytes
        records = []
        for _ in range(read.byte() % 5):
            meta = b""
            if read.flag():
                meta = encode_meta(
                    Meta(
                        read.choice((None, "k", "\x1b]0;")), read.choice((None, "id")), None, read.number(),
                        read.choice(("dead", "drop", f"queue:{QUEUE}", "queue:secret", "queue:")),
                        read.choice((None, 0, 1, 2**64 - 1)),
                    )
                )  # fmt: skip
            sent_us, deadline_us = (read.number(), read.number()) if read.flag() else (START_US, 0)
            record = encode_messages([read.take(read.byte() % 40)], sent_us, deadline_us, meta)[0]
            records.append(record if read.byte() % 16 else record[:-1] + b"?")
        kind = read.choice((1, 1, 1, 2, 0, 3))
        self._batch(kind, read.choice(_QUEUES), self._lane(), records)

    def _control(self) -> None:
        records = [self._entry() for _ in range(1 + self._bytes.byte() % 3)]
        self._batch(0, "", CONTROLS, records)

    def _entry(self) -> bytes:
        read = self._bytes
        kind = read.choice((1, 1, 2, 3, 4, 5, 0, 6))
        fields: list[Any] = [kind, self._store(), self._lane()]
        if kind == 1:
            fields += [
                read.choice((1, 1, 2, 0)),
                read.choice(_QUEUES),
                read.ranges(_WIDEST),
                read.choice((1, 1, 2, 3, 0)),
            ]
        elif kind == 2:
            fields += [[[*each, read.byte() % 8, read.choice((None, "why", "x" * 3000)), read.number(), read.number(),
                         read.number(), read.flag()] for each in read.ranges()]]  # fmt: skip
        elif kind == 3:
            fields += [read.number(), read.number()]
        elif kind == 4:
            received = [
                [self._lane(), read.number(), read.number(), read.ranges(), [[read.number(), read.byte() % 4]]]
                for _ in range(read.byte() % 3)
            ]
            sent = [
                [self._lane(), read.number(), read.number(), read.number(), read.flag(), read.ranges()]
                for _ in range(read.byte() % 3)
            ]
            fields = [4, self._store(), self._store(), received, sent, read.flag()]
        else:
            fields += [read.ranges(), read.choice(("not permitted", "x" * 3000, None))]
        payload = msgpack.packb(fields)
        return bytes(payload + crc32(payload).to_bytes(4, "little"))

    def _ack(self) -> None:
        read = self._bytes
        acks = [
            [self._lane(), read.number(), read.number(), read.number(), read.flag()] for _ in range(read.byte() % 3)
        ]
        self._say(frames.ACK, acks)

    def _small(self) -> None:
        read = self._bytes
        which = read.byte() % 3
        if which == 0:
            self._say(frames.PING, read.number())
        elif which == 1:
            self._say(frames.PONG, read.number(), read.number(), read.number())
        else:
            self._say(frames.BYE, "why\x1b[0m")

    # ------------------------------------------------------------------------------------------------ what is done

    def _pass_time(self) -> None:
        self._host.time.pass_s(self._bytes.choice((0.001, 0.4, 2, 5, 70, 4000)))
        self._host.turn()
        self._puppet.listen()

    def _send(self) -> None:
        read, host = self._bytes, self._host
        sent_us = host.now().store_us
        deadline_us = sent_us + 1_000_000 if read.flag() else 0
        meta = encode_meta(Meta(id="id" if read.flag() else None))
        records = encode_messages([b"x"] * (1 + read.byte() % 3), sent_us, deadline_us, meta)
        host.turn([], c.Send("puppet", read.choice((QUEUE, "other")), read.flag(), records, deadline_us))

    def _recall(self) -> None:
        lanes = [lane for lane in self._host.engine.shared.out_lanes.values() if lane.queue]
        if lanes:
            lane = self._bytes.choice(lanes)
            self._host.turn([], c.Recall([(lane.no, seq) for seq in range(1, 1 + self._bytes.byte() % 5)]))
        else:
            self._host.turn([], c.RecallWhere())

    def _work(self) -> None:
        """A worker takes a message, or is through with one."""
        host = self._host
        if self._rows and self._bytes.flag():
            host.finish(self._rows.pop(0), self._bytes.choice(_RESULTS))
            return
        row = host.buffers[QUEUE].take(host.now().store_us)
        if row is not None:
            self._rows.append(row)
        host.turn()

    def _command(self) -> None:
        command = self._bytes.choice(
            (c.Forget("puppet"), c.Disconnect("puppet"), c.Connect("puppet", None), c.Connect("puppet", "there"),
             c.ListOutbox(), c.ListInbox(), c.ListDead(), c.RetryDead(1), c.PurgeDead(1, 5), c.Subscribe(),
             c.TakeOutcomes(), c.ToldOutcomes(3))
        )  # fmt: skip
        self._host.turn([], command)

    def _crash(self) -> None:
        """The process dies and comes back; what workers had is with nobody."""
        self._rows.clear()
        self._host.reopen(self._bytes.choice(("crashed", "rebooted", "clean")))
        self._host.turn([], c.Connect("puppet", None))

    def _link(self) -> None:
        self._host.engine.link_down(self._puppet.link)
        self._puppet.link += 1
        self._host.turn()

    def _dial(self) -> None:
        while self._host.dial:
            name = self._host.dial.pop()
            channel = self._host.engine.channels.get(name)
            if channel is not None and channel.endpoint is not None:  # as Turns sees to
                self._puppet.link += 1
                self._host.engine.dialled(name, self._puppet.link)
                self._host.turn()
        hello = [frame for frame in self._puppet.listen() if frame.type == frames.HELLO]
        if hello:
            self._puppet.session = hello[-1].session + b"answered"

    def _permit(self) -> None:
        given = self._bytes.choice(
            (None, {}, {"default": {"queues": [QUEUE]}}, {"default": {"queues": ["*"], "recall": True}})
        )
        self._host.engine.permit(None if given is None else Permissions.parse(given))

    # ------------------------------------------------------------------------------------------------- what must hold

    def _check_bounds(self, steps: int) -> None:
        rows = sum(1 for _ in islice(self._host.store.scan(b"\x00", b"\xff", 2**31), steps * _ROWS_OF_A_STEP + 1))
        assert rows <= steps * _ROWS_OF_A_STEP, f"{rows} rows after {steps} steps"
        stats = self._host.engine.stats()
        assert min(stats.values()) >= 0, stats
        assert stats["outbox_messages"] <= 50
        assert stats["dead_bytes"] <= 2000

    def _check_whole(self) -> None:
        """The store is whole, opens again, and the peer still does its work with somebody honest."""
        host = self._host
        host.reopen("rebooted")
        behind, faults = b"", []
        while True:
            page = host.engine.examine(behind)
            faults += page.faults
            if page.last is None:
                break
            behind = page.last
        assert not faults, faults
        host.engine.permit(None)
        host.turn()
        # What was with a worker when the process died is handed over alone, before anything else.
        while (suspect := host.buffers[QUEUE].take(host.now().store_us)) is not None:
            host.finish(suspect, HANDLED)
        honest = Puppet(host, "honest", dial=False)
        honest.link = LINK + 1000
        honest.store_id ^= 0xFFFF
        honest.dial()
        honest.data(1, *encode_messages([b"good"], host.now().store_us, 0, b""), queue="good")
        buffer = host.serve("good")
        host.turn()
        row = buffer.take(host.now().store_us)
        assert row is not None, "an honest peer's message is not handed over"
        host.finish(row, HANDLED)
        assert ("HANDLED", 1) in [(outcome, seq) for seq, outcome, _, _ in honest.settlements()]


def engine(data: bytes) -> None:
    """Run what the bytes say."""
    _Run(data).run()
