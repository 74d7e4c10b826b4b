"""Two engines over stores in memory, and the pump that carries frames between them. What the I/O loop does, by hand."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import nullcontext, suppress
from random import Random
from typing import Any

from zmqrel.core import commands as c
from zmqrel.core import frames
from zmqrel.core.buffer import Buffer, Result
from zmqrel.core.effects import Effects, Ended, Event, ReceiptNotice
from zmqrel.core.engine import Engine
from zmqrel.core.entries import Meta, encode_messages, encode_meta
from zmqrel.core.frames import Frame
from zmqrel.core.row import Row
from zmqrel.core.rows import Policy
from zmqrel.core.times import Now
from zmqrel.options import Options
from zmqrel.retry import Retry
from zmqrel.store import MemoryInHand, MemoryStore

START_US = 1_700_000_000_000_000
"""The store clocks' reading when a test begins."""
RETRY = Retry.fixed(1.0, max_attempts=3)
QUEUE = "work"
Positions = Generator[int, "bool | None", None]
"""What `Buffer.hand_out` returns."""


def acknowledge(positions: Positions) -> None:
    """The worker is through with the position that it has, and takes no more."""
    with suppress(StopIteration):
        positions.send(True)


class Time:
    """Both clocks, moved by hand."""

    def __init__(self) -> None:
        self.us = 0

    def now(self, ahead_us: int = 0) -> Now:
        return Now(1_000_000 + self.us, START_US + self.us + ahead_us)

    def pass_s(self, seconds: float) -> None:
        self.us += int(seconds * 1e6)


class Host:
    """One engine with its store. `out` keeps the frames that it sent, the lists what it told."""

    def __init__(
        self,
        name: str,
        time: Time,
        *,
        ahead_us: int = 0,
        name_of: Callable[[int], str | None] | None = None,
        **options: Any,
    ) -> None:
        self.name = name
        self.name_of = name_of
        self.time = time
        self.ahead_us = ahead_us
        """How far its store clock is ahead of the other's."""
        self.options = Options(**options)
        self.store = MemoryStore(durability=self.options.durability)
        self.in_hand = MemoryInHand()
        self.out: list[tuple[int, list[bytes]]] = []
        self.notices: list[ReceiptNotice] = []
        self.events: list[Event] = []
        self.hung_up: list[int] = []
        self.shut_out: list[int] = []
        self.dial: list[str] = []
        self.served: dict[str, Policy] = {}
        self.lives = 0
        self.answers: dict[c.Command, Any] = {}
        """Of the last turn; a command may be answered in a later one."""
        self.open()

    def open(self) -> None:
        """A life begins, over the store as it is."""
        self.lives += 1
        rng = Random(f"{self.name} {self.lives}")
        self.buffers: dict[str, Buffer] = {}
        left = self.in_hand.open()
        self.out = []
        now = self.now()
        self.engine = Engine(
            self.name, self.options, rng, lambda: rng.getrandbits(64) | 1, self.store, now, self.name_of
        )
        self.engine.begin(now, now.store_us)
        trusted = self.store.previous != "rebooted"
        self.engine.recover(left, trusted)
        if self.store.was_relaxed and not trusted:
            self.engine.fall_behind()
        for queue, policy in self.served.items():
            self.serve(queue, policy)
        self.in_hand.clear()
        self._apply(self.engine.finish())

    def reopen(self, previous: str = "crashed") -> None:
        """The process dies, or the machine does, and comes back."""
        self.store.abort()
        self.store.previous = previous  # type: ignore[assignment]
        self.open()

    def now(self) -> Now:
        return self.time.now(self.ahead_us)

    def serve(self, queue: str = QUEUE, policy: Policy | None = None) -> Buffer:
        """A handler for a queue: rows are taken by `take`."""
        self.served[queue] = policy or Policy(RETRY)
        buffer = self.buffers[queue] = Buffer(queue, 4, self.in_hand, nullcontext(), lambda n: None)
        self.engine.serve(queue, buffer, self.served[queue])
        return buffer

    def take(self, queue: str = QUEUE) -> Row:
        """A worker takes the next row, which must be there."""
        row = self.buffers[queue].take(self.now().store_us)
        assert row is not None
        return row

    def finish(self, row: Row, result: Result) -> None:
        """The worker is through; the loop collects it."""
        self.buffers[row.queue].finish(row, result)
        self.turn()

    def turn(
        self,
        frames: Sequence[tuple[int, list[bytes]]] = (),
        *commands: c.Command,
        flush: bool = False,
    ) -> list[Any]:
        """One turn, after a flush if it is due or asked for. Returns the answers to the commands, in order."""
        now = self.now()
        due_us = self.engine.flush_due_us()
        flush = flush or (due_us is not None and due_us <= now.mono_us)
        if flush:
            self.store.flush()
        self.engine.begin(now, now.store_us)
        if flush:
            self.engine.flushed()
        for link, parts in frames:
            self.engine.frame(link, parts)
        for buffer in self.buffers.values():
            self.engine.finished(buffer.finished())
        for command in commands:
            self.engine.command(command)
        effects = self.engine.finish()
        self._apply(effects)
        answers = self.answers = dict(effects.replies)
        return [answers.get(command) for command in commands]

    def fail(self, *commands: c.Command) -> None:
        """A turn whose commit fails: the core is loaded anew, to do the turn's work over."""
        now = self.now()
        failed, ids = self.engine, Random(5)
        failed.begin(now, now.store_us)
        for command in commands:
            failed.command(command)
        failed.finish()
        self.store.abort()
        self.engine = Engine(self.name, self.options, ids, lambda: ids.getrandbits(64) | 1, self.store, now)
        self.engine.begin(now, now.store_us)
        self.engine.replace(failed, [])

    def _apply(self, effects: Effects) -> None:
        self.store.commit()
        for slot, count in effects.freed:
            self.in_hand.free(slot, count)
        for buffer, rows in effects.offers:
            buffer.offer(rows)
        self.out += effects.frames
        self.notices += effects.notices
        self.events += effects.events
        self.hung_up += effects.hang_up
        self.shut_out += effects.shut_out
        self.dial += effects.dial

    def send(self, to: str, *bodies: bytes, queue: str = QUEUE, **given: Any) -> c.Stored:
        """Send and commit; `given` are fields of Meta, `deadline_us` and `id`."""
        deadline_us = given.pop("deadline_us", 0)
        digest = given.pop("digest", b"")
        meta = encode_meta(Meta(**given))
        records = encode_messages(bodies, self.now().store_us, deadline_us, meta)
        delayed = bool(given.get("not_before_us"))
        send = c.Send(to, queue, delayed, records, deadline_us, given.get("id"), digest)
        answer = self.turn([], send)[0]
        if isinstance(answer, Exception):
            raise answer
        assert isinstance(answer, c.Stored)
        return answer

    def recall(self, stored: c.Stored, seq: int | None = None) -> c.Found | None:
        """Recall one message; what is known of it after that turn."""
        found = self.turn([], c.Recall([(stored.lane.no, seq or stored.first)]))[0][0]
        assert found is None or isinstance(found, c.Found)
        return found

    def outcomes(self) -> list[tuple[int, str, str | None]]:
        """What ended here so far: sequence number, outcome and reason, in the order in which it was told."""
        return [
            (seq, told.outcome.name, told.reason)
            for told in self.notices
            if isinstance(told, Ended)
            for seq in range(told.first, told.last + 1)
        ]

    def kinds(self) -> list[str]:
        """What an operator was told."""
        return [event.kind for event in self.events]

    def idle(self) -> bool:
        """True if nothing is to be done at once."""
        wake_us = self.engine.next_wake_us(self.now())
        return wake_us is None or wake_us > self.now().mono_us


def keep_all(_host: Host, _frame: Frame) -> bool:
    return True


class Pump:
    """Carries frames between two hosts, over links of the same number at both ends."""

    def __init__(self, a: Host, b: Host) -> None:
        self.hosts = (a, b)
        self._link = 0

    def connect(self, *, both: bool = False) -> None:
        """The first dials the second; with `both` the second dials too."""
        a, b = self.hosts
        a.turn([], c.Connect(b.name, "there"))
        b.turn([], c.Connect(a.name, "here" if both else None))
        self.run()

    def run(self, keep: Callable[[Host, Frame], bool] = keep_all) -> None:
        """Until nothing moves any more. A frame that `keep(sender, frame)` does not keep is lost."""
        for _ in range(10_000):
            if not self.step(keep):
                return
        raise AssertionError("the two never come to rest")

    def step(self, keep: Callable[[Host, Frame], bool] = keep_all) -> bool:
        """Let each take what the other has sent, and do what is to be done at once. False if that was nothing."""
        a, b = self.hosts
        moved = self._step(a, b, keep)
        return self._step(b, a, keep) or moved

    def _step(self, host: Host, other: Host, keep: Callable[[Host, Frame], bool]) -> bool:
        while host.dial:
            self._link += 1
            host.engine.dialled(host.dial.pop(), self._link)
            host.turn()
        sent, host.out = host.out, []
        arriving = [(link, parts) for link, parts in sent if keep(host, frames.decode(parts))]
        if arriving:
            other.turn(arriving)
        if not host.idle():
            host.turn()
            return True
        return bool(sent)

    def pass_s(self, seconds: float, keep: Callable[[Host, Frame], bool] = keep_all) -> None:
        """Time passes, from one wake-up to the next."""
        time = self.hosts[0].time
        end_us = time.us + int(seconds * 1e6)
        while time.us < end_us:
            wakes = [host.engine.next_wake_us(host.now()) for host in self.hosts]
            time.us = min([end_us, *(max(wake - 1_000_000, time.us + 1) for wake in wakes if wake is not None)])
            for host in self.hosts:
                host.turn()
            self.run(keep)


def pair(**options: Any) -> tuple[Host, Host, Pump]:
    """Two connected hosts, a and b; b serves QUEUE."""
    time = Time()
    a, b = Host("a", time, **options), Host("b", time, **options)
    b.serve()
    pump = Pump(a, b)
    pump.connect()
    return a, b, pump
