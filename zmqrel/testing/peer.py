"""One simulated peer: the production core and turns, over a simulated disk, links, clocks and workers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import TYPE_CHECKING, Any, Protocol

from zmqrel.body import decode_body, encode_body
from zmqrel.core import commands as c
from zmqrel.core.buffer import HANDLED, Buffer, Failed, MoveTo, Rejected, Result, RetryAt
from zmqrel.core.effects import Denied, Ended, Event, HandedOver, Moved, ReceiptNotice, Received, Withdrawing
from zmqrel.core.engine import Engine, read_clock
from zmqrel.core.entries import Meta, encode_messages, encode_meta
from zmqrel.core.row import Row
from zmqrel.core.rows import Policy
from zmqrel.core.times import Now
from zmqrel.errors import Reject, RetryLater, StoreFull
from zmqrel.options import Options
from zmqrel.outcome import Outcome, Verdict
from zmqrel.retry import Retry
from zmqrel.runtime.clock import Clock
from zmqrel.runtime.turn import Turns, Work
from zmqrel.store.in_hand import MemoryInHand
from zmqrel.testing.disk import ProcessDied, SimulatedDisk
from zmqrel.testing.observations import HandOver, Sent

if TYPE_CHECKING:
    from zmqrel.testing.network import Network

DEFAULT_RETRY = Retry.exponential(0.5, max_interval=60, max_attempts=10, jitter="full")
_MOST_TURNS_AT_ONCE = 20_000


class Spinning(AssertionError):
    """A peer asks for turn after turn without any time passing."""


class Moving(Exception):
    """Raised by a simulated handler to put its message into another queue."""

    def __init__(self, queue: str) -> None:
        super().__init__(queue)
        self.queue = queue


@dataclass(slots=True)
class Hardware:
    """The clocks of one machine. All may be changed while it runs."""

    wall_error_us: int = 0
    """How far its wall clock is ahead of true time."""
    drift: float = 0.0
    """How much faster than true its clocks run: 5e-5 is 50 ppm."""
    suspended_us: int = 0
    """How long it slept, which the boot-time clock counts and the monotonic clock does not."""
    booted_us: int = 0
    """True time of its last boot."""

    def boot_us(self, true_us: int) -> int:
        """Reading of the boot-time clock."""
        return int((true_us - self.booted_us) * (1 + self.drift)) + 1_000_000

    def mono_us(self, true_us: int) -> int:
        """Reading of the monotonic clock."""
        return self.boot_us(true_us) - self.suspended_us

    def wall_us(self, true_us: int) -> int:
        """Reading of the wall clock."""
        return true_us + self.wall_error_us + int((true_us - self.booted_us) * self.drift)


@dataclass(slots=True, eq=False)
class SimulatedReceipt(Sent):
    """What the sending application holds of a message."""

    place: tuple[int, int] | None = None
    """Lane id and sequence number, once stored."""
    received: bool = False
    withdrawing: bool = False
    handed_over: bool = False
    """The receiver said so, in answer to a withdrawal."""
    reason: str | None = None
    attempts: int = 0
    recalled: bool = False
    """`recall` was called, and its commit done."""

    @property
    def accepted(self) -> bool:
        """`send` returned."""
        return self.place is not None

    @property
    def verdict(self) -> Verdict:
        """What `recall` would say now."""
        if self.outcome is Outcome.RECALLED:
            return Verdict.RECALLED
        if self.outcome is Outcome.UNCERTAIN:
            return Verdict.UNCERTAIN
        return Verdict.TOO_LATE if self.outcome or self.handed_over else Verdict.PENDING


class Delivery(HandOver):
    """A message as a simulated handler sees it."""

    def __init__(self, peer: SimulatedPeer, row: Row) -> None:
        meta, now_us = row.head.meta, peer.network.now_us
        super().__init__(
            sender=row.lane.peer,
            to=peer.name,
            queue=row.queue,
            id=meta.id or f"{row.lane.id:016x}-{row.seq}",
            key=meta.key,
            origin_id=meta.origin_id,
            body=decode_body(row.body),
            attempt=row.attempts,
            redelivered=row.redelivered or row.doubt,
            after_us=now_us,
            by_us=now_us,
        )
        self._peer = peer
        self.row = row
        self.headers = meta.headers or {}
        self.cause = meta.cause

    @property
    def withdrawn(self) -> bool:
        """Its sender asked too late for it not to be handed over, or its deadline passed meanwhile."""
        return self.row.withdrawn is not None


Function = Callable[[Delivery], Any]
Duration = float | Callable[[Delivery], float]


@dataclass(slots=True, eq=False)
class Handler:
    """How a queue is served in each life of a peer."""

    queue: str
    function: Function
    workers: int
    duration: Duration
    retry: Retry
    admit: Function | None = None
    buffer: Buffer | None = None
    busy: int = 0
    asking: bool = False
    """`admit` is asked about a row."""
    woken: bool = False


class Application(Protocol):
    """A program in whose process a simulated peer runs, through all its lives."""

    def starting(self) -> None:
        """A life begins."""
        ...

    def loaded(self, engine: Engine) -> None:
        """The core was loaded, for the first time in this life or anew."""
        ...

    def started(self) -> None:
        """The store is open."""
        ...

    def told(self, notices: list[ReceiptNotice]) -> None:
        """What a turn brought."""
        ...

    def turned(self) -> None:
        """A turn is over."""
        ...

    def ending(self, clean: bool) -> None:
        """The life is over; the core can still be looked at."""
        ...


@dataclass(slots=True, eq=False)
class SimulatedPeer:
    """A peer of the network, through all its lives."""

    name: str
    network: Network
    options: Options
    peers: dict[str, str | None]
    rng: Random
    disk: SimulatedDisk
    in_hand: MemoryInHand = field(default_factory=MemoryInHand)
    hardware: Hardware = field(default_factory=Hardware)
    life: int = 0
    running: bool = False
    handlers: dict[str, Handler] = field(default_factory=dict)
    receipts: dict[tuple[int, int], SimulatedReceipt] = field(default_factory=dict)
    given: set[tuple[int, int]] = field(default_factory=set)
    """Every place that a message got, in whatever life."""
    turns: Turns | None = None
    clock: Clock | None = None
    application: Application | None = None
    _commands: list[c.Command] = field(default_factory=list)
    _answers: dict[c.Command, Callable[[Any], None]] = field(default_factory=dict)
    _frames: list[tuple[int, list[bytes]]] = field(default_factory=list)
    _awake_us: int = 0
    """True time before which its machine sleeps."""
    _last_link: int = 0
    _took_in: set[str] = field(default_factory=set)
    """Of an impostor: who takes it for the peer whose name it has."""
    _turn_at_us: int | None = None
    _last_turn_us: int = -1
    _turns_at_once: int = 0

    # --------------------------------------------------------------------------------------------- life

    def start(self) -> None:
        """Open the store and begin a life; nothing if one is under way.

        Raises StoreFull if there is no room for that, and what the application's setup raises; then it does not run.
        """
        if self.running:
            return
        if self.application is not None:
            self.application.starting()  # first, for it may raise: then there is no life
        self.life += 1
        self.running = True
        self._last_link = 0
        hardware, network = self.hardware, self.network
        self.clock = Clock(
            lambda: hardware.wall_us(network.now_us) / 1e6,
            *read_clock(self.disk),
            mono_ns=lambda: hardware.mono_us(network.now_us) * 1000,
            boot_ns=lambda: hardware.boot_us(network.now_us) * 1000,
        )
        self.turns = Turns(self.disk, self.in_hand, self._make_engine, _World(self))
        with self._mortal():
            self._open()
            if self.application is not None:
                self.application.started()
            for handler in self.handlers.values():
                self._serve(handler)
            for name, endpoint in self.peers.items():
                self.command(c.Connect(name, endpoint))
            self._look_up_receipts()
            if not self.is_impostor:
                self.network.observe("started", self.name)
        self.wake()

    def _open(self) -> None:
        assert self.turns is not None
        try:
            self.turns.open(self.running_clock.now(), self.running_clock.wall_us(), self.peers)
        except StoreFull:
            # As Peer.start does: there is no life.
            self.life += 1
            self.running, self.turns = False, None
            self.disk.abort()
            raise

    def _make_engine(self, now: Now) -> Engine:
        name_of = None if self.network.keys is None else self.name_of
        engine = Engine(
            self.name, self.options, self.rng, lambda: self.rng.getrandbits(64) or 1, self.disk, now, name_of
        )
        if self.application is not None:
            self.application.loaded(engine)
        return engine

    def die(self) -> None:
        """The process ends without a word."""
        if not self.running:
            return
        self.network.links.died(self)
        self._end_life(clean=False)
        self.disk.abort()
        self.disk.close(clean=False)

    def close(self) -> None:
        """Stop as an application does; running handlers are given no time."""
        if not self.running:
            return
        assert self.turns is not None
        with self._mortal():
            self.turns.close(self.running_clock.now(), self.running_clock.wall_us())
            self.network.links.died(self)
            self._end_life(clean=True)

    def _end_life(self, clean: bool) -> None:
        self.life += 1
        self.running = False
        if not self.is_impostor:
            self.network.observe("stopped", self.name, clean)
        if self.application is not None:
            self.application.ending(clean)
        self.turns = None
        self._turn_at_us = None
        self._frames.clear()
        self._commands.clear()
        answers, self._answers = self._answers, {}
        for answer in answers.values():
            answer(ProcessDied())
        for handler in self.handlers.values():
            handler.buffer, handler.busy, handler.asking, handler.woken = None, 0, False, False

    def _mortal(self) -> _Mortal:
        return _Mortal(self)

    @property
    def running_clock(self) -> Clock:
        """The clock of the present life, or of the last one."""
        assert self.clock is not None
        return self.clock

    @property
    def engine(self) -> Engine:
        """The core of the present life."""
        assert self.turns is not None
        return self.turns.engine

    def stats(self) -> dict[str, int]:
        """The figures of `Peer.stats()`."""
        assert self.turns is not None
        return self.turns.stats(self.running_clock.now())

    @property
    def in_hand_count(self) -> int:
        """Messages handed over and not settled, as `Peer.stats()` counts them."""
        return 0 if self.turns is None else self.turns.stats(self.running_clock.now())["in_hand"]

    def name_of(self, link: int) -> str | None:
        """With keys: who is at the other end of a link."""
        return None if self.network.keys is None else self.network.keys.name_of(self, link)

    def connected(self, other: str) -> bool:
        """True if there is a session with that peer."""
        return bool(self.sessions_with(other))

    def sessions_with(self, other: str) -> set[bytes]:
        """Ids of the sessions with whoever has that name."""
        channel = self.engine.channels.get(other) if self.running else None
        return set() if channel is None else {session.id for session in channel.sessions.open.values()}

    def agrees_with(self, other: str) -> bool:
        """True if there is a session with that peer and nothing is to be healed."""
        if not self.connected(other):
            return False
        healing = self.engine.channels[other].healing
        return not (healing.i_am_old or healing.you_are_old or healing.awaits_state)

    # -------------------------------------------------------------------------------------------- turns

    def wake(self, delay_us: int = 0) -> None:
        """Have a turn soon."""
        self._turn_not_after(self.network.now_us + delay_us)

    def _turn_not_after(self, at_us: int) -> None:
        if self._turn_at_us is not None and self._turn_at_us <= at_us:
            return
        self._turn_at_us = at_us
        self.network.at(at_us, partial(self._turn, self.life, at_us))

    def _turn(self, life: int, at_us: int) -> None:
        if life != self.life or self._turn_at_us != at_us or self.turns is None:
            return
        self._turn_at_us = None
        if self._awake_us > self.network.now_us and self._sleeps(self.wake):
            return
        self._count_turn(at_us)
        work = Work(self._commands, self._frames)
        self._commands, self._frames = [], []
        assert self.clock is not None
        clock = self.clock
        try:
            now = clock.now()
            self.turns.run(now, clock.wall_us(), work)
            if self.application is not None:
                self.application.turned()
            if self.is_impostor:
                self._tell_who_was_taken_in()
            else:
                self.network.observe("turn", self.name)
            self._schedule_next(self.turns, now)
        except ProcessDied:
            self.die()

    @property
    def is_impostor(self) -> bool:
        """True if it only has the name of a peer of the network."""
        return self.network.peers.get(self.name) is not self

    def _tell_who_was_taken_in(self) -> None:
        for other in self.peers:
            if self.connected(other) and other not in self._took_in:
                self._took_in.add(other)
                self.network.observe("impersonated", self.name, other)

    def _schedule_next(self, turns: Turns, now: Now) -> None:
        wake_us = turns.next_wake_us(now)
        if wake_us is not None:
            delay_us = int(max(0, wake_us - now.mono_us) * (1 - self.hardware.drift)) + 1
            self._turn_not_after(self.network.now_us + delay_us)
        for handler in self.handlers.values():
            if handler.buffer is not None and handler.buffer.unsettled and not turns.stalled:
                self.wake(1)

    def _count_turn(self, at_us: int) -> None:
        if at_us // 10_000 == self._last_turn_us // 10_000:
            self._turns_at_once += 1
            if self._turns_at_once > _MOST_TURNS_AT_ONCE:
                raise Spinning(f"{self.name} had {_MOST_TURNS_AT_ONCE} turns within 10 ms")
        else:
            self._turns_at_once = 0
        self._last_turn_us = at_us

    def suspend(self, seconds: float) -> None:
        """Sleep with the whole machine: the boot-time clock goes on, the monotonic clock does not."""
        self.hardware.suspended_us += int(seconds * 1e6)
        self._awake_us = self.network.now_us + int(seconds * 1e6)

    def _sleeps(self, later: Callable[[int], None]) -> bool:
        """Whether the machine sleeps; then `later` is called with the microseconds until it wakes up."""
        delay_us = self._awake_us - self.network.now_us
        if delay_us > 0:
            later(delay_us)
        return delay_us > 0

    def _at(self, delay_us: int, action: Callable[[], None]) -> None:
        self.network.at(self.network.now_us + delay_us, action)

    def when_awake(self, delay_us: int, action: Callable[[], None]) -> None:
        """Do something so much later, if this life goes on, and not before the machine wakes up."""
        self._at(delay_us, partial(self._do_if_awake, self.life, action))

    def _do_if_awake(self, life: int, action: Callable[[], None]) -> None:
        if life == self.life and not self._sleeps(lambda left_us: self.when_awake(left_us, action)):
            action()

    def input_delay_us(self) -> int:
        """How long it takes until what came in is looked at, drawn anew each time."""
        draw = self.rng.getrandbits
        while (delay_us := draw(7)) >= 100:
            pass
        return delay_us

    # ------------------------------------------------------------------------------------------ commands

    def command(self, command: c.Command, answer: Callable[[Any], None] | None = None) -> None:
        """Hand a command to the core; `answer` is called with its reply, an exception or ProcessDied."""
        self.expect(command, answer or (lambda _value: None))
        self.queue(command)

    def expect(self, command: c.Command, answer: Callable[[Any], None]) -> None:
        """Call `answer` with the reply to a command that is queued at some time."""
        self._answers[command] = answer

    def queue(self, command: c.Command) -> None:
        """Hand a command to the core, whose answer is expected."""
        self._commands.append(command)
        self.wake(self.input_delay_us())

    def send(
        self,
        to: str,
        bodies: list[Any],
        *,
        queue: str = "default",
        key: str | None = None,
        id: str | None = None,
        ttl: float | None = None,
        delay: float | None = None,
        on_expiry: str = "dead",
        max_attempts: int | None = None,
        headers: Mapping[str, Any] | None = None,
    ) -> list[SimulatedReceipt]:
        """As Peer.send_many, but the receipts are returned before anything is committed."""
        now_us = self.running_clock.now().store_us
        not_before_us = 0 if delay is None else now_us + int(delay * 1e6)
        deadline_us = 0 if ttl is None else now_us + int(ttl * 1e6)
        meta = Meta(key, id, dict(headers) if headers else None, not_before_us, on_expiry, max_attempts)
        records = encode_messages([encode_body(body) for body in bodies], now_us, deadline_us, encode_meta(meta))
        true_us = self.network.now_us
        receipts = [
            SimulatedReceipt(
                self.name,
                to,
                queue,
                key,
                body,
                true_us,
                now_us,
                deadline_us,
                not_before_us,
                max_attempts,
                id,
                on_expiry,
            )
            for body in bodies
        ]
        digest = encode_body([to, queue, key, list(bodies)])[:64]
        command = c.Send(to, queue, delay is not None, records, deadline_us, id, digest)
        self.command(command, partial(self.sent, receipts))
        return receipts

    def sent(self, receipts: list[SimulatedReceipt], reply: Any) -> None:
        """What became of a send call: the receipts know, and the observers."""
        if not isinstance(reply, c.Stored):
            for receipt in receipts:
                receipt.error = reply
                self.network.observe("not accepted", receipt)
            return
        for seq, receipt in enumerate(receipts, reply.first):
            place = (reply.lane.id, seq)
            receipt.id = receipt.id or f"{reply.lane.id:016x}-{seq}"
            if reply.repeated and place in self.receipts:
                receipt.place = place
                continue
            self._forget(place)
            receipt.given_again = place in self.given
            self.given.add(place)
            self._place(receipt, place)
            self.network.observe("accepted", receipt)
            if reply.repeated and receipt.id is not None:
                # The first call was made in an earlier life: what became of the message since, nobody told this one.
                self.command(c.Find(receipt.id), partial(self._take_found, receipt))

    def _forget(self, place: tuple[int, int]) -> None:
        """The number is given again, by a store that is an old copy: it does not know who had it."""
        receipt = self.receipts.pop(place, None)
        if receipt is not None:
            receipt.forgotten = True
            self.network.observe("forgotten", receipt)

    def forget_all_but(self, known: Collection[tuple[int, int]]) -> None:
        """The store was put back to when it knew only these places."""
        for place in [place for place in self.receipts if place not in known]:
            self._forget(place)

    def recall(self, receipt: SimulatedReceipt) -> None:
        """As Receipt.recall, without waiting."""
        if receipt.forgotten:
            return  # its number may be another message's by now
        lane = self._lane_no(receipt)
        if lane is not None and receipt.place is not None:
            self.network.observe("recalling", receipt)
            ids = () if receipt.id is None else (receipt.id,)
            self.command(c.Recall([(lane, receipt.place[1])], ids), partial(self._recalled, receipt))

    def _recalled(self, receipt: SimulatedReceipt, reply: Any) -> None:
        if isinstance(reply, list):
            receipt.recalled = True
            self._take_found(receipt, reply[0])

    def recall_where(self, queue: str, key: str | None) -> None:
        """As Peer.recall_where with these filters."""
        self.network.observe("recalling where", self.name, queue, key)
        self.command(c.RecallWhere(queue=queue, key=key))

    def _lane_no(self, receipt: SimulatedReceipt) -> int | None:
        if receipt.place is None or not self.running:
            return None
        numbers = (lane.no for lane in self.engine.shared.out_lanes.values() if lane.id == receipt.place[0])
        return next(numbers, None)

    def _look_up_receipts(self) -> None:
        """After a restart the application asks for what it had no outcome for."""
        for receipt in list(self.receipts.values()):
            if receipt.id is not None:
                self.command(c.Find(receipt.id), partial(self._take_found, receipt))

    def _take_found(self, receipt: SimulatedReceipt, found: Any) -> None:
        if isinstance(found, BaseException) or receipt.forgotten:
            return
        if found is None:
            # With its place: a message whose sending nobody was told of may have the number now.
            if receipt.place is not None:
                self._forget(receipt.place)
            return
        place = (found.lane.id, found.seq)
        if receipt.place != place:
            self._place(receipt, place)
        if found.ended is not None:
            self._end_receipt(receipt, found.ended.outcome, found.ended.reason, found.ended.attempts)

    def _end_receipt(self, receipt: SimulatedReceipt, outcome: Outcome, reason: str | None, attempts: int) -> None:
        self.network.observe("outcome", receipt, outcome, reason, attempts)
        receipt.outcome, receipt.reason, receipt.attempts = outcome, reason, attempts

    # -------------------------------------------------------------------------------------------- notices

    def answer(self, command: c.Command, value: Any) -> None:
        """A command is answered."""
        answer = self._answers.pop(command, None)
        if answer is not None:
            answer(value)

    def notice(self, notices: list[ReceiptNotice]) -> None:
        """Tell receipts what became of their messages."""
        if self.application is not None:
            self.application.told(notices)
        for notice in notices:
            if isinstance(notice, Ended):
                self.network.observe("ended", self.name)
                self._note_ended(notice)
            elif isinstance(notice, Received):
                self._note_received(notice)
            elif isinstance(notice, Moved):
                self._note_moved(notice)
            elif isinstance(notice, Denied):
                receipt = self.receipt_at(notice.lane, notice.seq)
                if receipt is not None:
                    receipt.withdrawing = False
            elif isinstance(notice, HandedOver | Withdrawing):
                receipt = self.receipt_at(notice.lane, notice.seq)
                if receipt is not None:
                    receipt.withdrawing = True
                    if isinstance(notice, HandedOver):
                        receipt.handed_over = True
                        self.network.observe("told handed over", receipt)

    def _note_ended(self, notice: Ended) -> None:
        for seq in range(notice.first, notice.last + 1):
            receipt = self.receipt_at(notice.lane, seq)
            if receipt is not None:
                self._end_receipt(receipt, notice.outcome, notice.reason, notice.attempts)

    def _note_received(self, notice: Received) -> None:
        for seq in range(notice.floor, 0, -1):
            receipt = self.receipt_at(notice.lane, seq)
            if receipt is None or receipt.received:
                return
            receipt.received = True

    def _note_moved(self, notice: Moved) -> None:
        receipt = self.receipt_at(notice.lane, notice.seq)
        if receipt is not None and receipt.place is not None:
            self._place(receipt, (self.engine.shared.out_lanes[notice.new_lane].id, notice.new_seq))

    def _place(self, receipt: SimulatedReceipt, place: tuple[int, int]) -> None:
        if receipt.place is not None and self.receipts.get(receipt.place) is receipt:
            del self.receipts[receipt.place]
        receipt.place = place
        self.receipts[place] = receipt

    def receipt_at(self, lane_no: int, seq: int) -> SimulatedReceipt | None:
        """The receipt of a message by its place, None if nobody has one."""
        lane = self.engine.shared.out_lanes.get(lane_no)
        return None if lane is None else self.receipts.get((lane.id, seq))

    # ------------------------------------------------------------------------------- what the links call

    def new_link(self, dialled: bool) -> int:
        """A number for a link, even if it was dialled."""
        self._last_link += 2
        return self._last_link + (0 if dialled else 1)

    def deliver(self, link: int, parts: list[bytes]) -> None:
        """A frame has come; it is not heard if there are keys and that of its connection is not known."""
        if self.network.keys is not None and self.name_of(link) is None:
            return
        self._frames.append((link, parts))
        self.wake(self.input_delay_us())

    # ------------------------------------------------------------------------------------------- workers

    def serve(
        self,
        queue: str,
        function: Function,
        *,
        workers: int = 1,
        duration: Duration = 0.001,
        retry: Retry = DEFAULT_RETRY,
        admit: Function | None = None,
    ) -> None:
        """Serve a queue, in this life and in later ones; see Network.handler."""
        before = self.handlers.get(queue)
        if before is not None:
            before.function, before.workers, before.duration, before.retry = function, workers, duration, retry
            before.admit = admit or before.admit
            return
        handler = self.handlers[queue] = Handler(queue, function, workers, duration, retry, admit)
        if self.running:
            self._serve(handler)
            self.wake()

    def _serve(self, handler: Handler) -> None:
        assert self.turns is not None
        wake = partial(self._wake_workers, handler)
        handler.buffer = Buffer(handler.queue, self.options.prefetch, self.in_hand, nullcontext(), wake, wake=self.wake)
        self.turns.serve(handler.queue, handler.buffer, Policy(handler.retry, handler.workers))

    def serve_buffer(self, queue: str, buffer: Buffer, policy: Policy) -> None:
        """Let the rows of a queue go to a buffer of the application's, in this life."""
        assert self.turns is not None
        self.turns.serve(queue, buffer, policy)
        self.wake()

    def _wake_workers(self, handler: Handler, _rows: int = 0) -> None:
        if not handler.woken:
            handler.woken = True
            self.network.at(self.network.now_us + self.input_delay_us(), partial(self._work, handler, self.life))

    def _work(self, handler: Handler, life: int) -> None:
        """Idle workers take what is in the buffer."""
        if life != self.life or handler.buffer is None:
            return
        if self._sleeps(lambda delay_us: self._at(delay_us, partial(self._work, handler, life))):
            return
        handler.woken = False
        now_us = self.running_clock.store_us()
        while handler.busy < handler.workers and not handler.asking:
            row = handler.buffer.take(now_us) if handler.admit is None else handler.buffer.ask(now_us)
            if row is None:
                break
            handler.busy += 1
            if handler.admit is None:
                self._begin_work(handler, row)
            else:
                handler.asking = True
                self.network.observe("asking", Delivery(self, row))
                self._at(self.input_delay_us() * 10, partial(self._asked, handler, life, row))
        if handler.buffer.unsettled:
            self.wake(self.input_delay_us())

    def _asked(self, handler: Handler, life: int, row: Row) -> None:
        """`admit` has taken its time: its answer counts unless the row was withdrawn meanwhile."""
        if life != self.life or handler.buffer is None or handler.admit is None:
            return
        if self._sleeps(lambda delay_us: self._at(delay_us, partial(self._asked, handler, life, row))):
            return
        handler.asking = False
        self._wake_workers(handler)
        delivery = Delivery(self, row)
        if not handler.admit(delivery):
            handler.buffer.refuse(row)
            self.network.observe("refused", delivery)
        elif handler.buffer.admit(row, self.running_clock.now().store_us):
            self._begin_work(handler, row)
            return
        else:
            self.network.observe("asked in vain", delivery)
        handler.busy -= 1
        self.wake(self.input_delay_us())

    def _begin_work(self, handler: Handler, row: Row) -> None:
        delivery = Delivery(self, row)
        self.network.observe("handed over", delivery)
        duration = handler.duration(delivery) if callable(handler.duration) else handler.duration
        done_us = self.network.now_us + int(duration * 1e6)
        self.network.at(done_us, partial(self._worked, handler, self.life, row, delivery))

    def _worked(self, handler: Handler, life: int, row: Row, delivery: Delivery) -> None:
        """The virtual time of a handler is over: run it and settle."""
        if life != self.life or handler.buffer is None:
            return
        if self._sleeps(lambda delay_us: self._at(delay_us, partial(self._worked, handler, life, row, delivery))):
            return
        result = _run(handler.function, delivery)
        if life != self.life:
            return  # the handler ended the process
        handler.busy -= 1
        self.network.observe("finished", delivery, result)
        handler.buffer.finish(row, result)
        self.wake(self.input_delay_us())
        self._wake_workers(handler)


def _run(function: Function, delivery: Delivery) -> Result:
    try:
        function(delivery)
    except Reject as error:
        return Rejected(error.reason)
    except RetryLater as error:
        return RetryAt(int(error.delay * 1e6), None)
    except Moving as error:
        return MoveTo(error.queue)
    except Exception as error:
        return Failed(f"{type(error).__name__}: {error}")
    return HANDLED


class _Mortal:
    """The part of a peer's doing in which its process can die."""

    def __init__(self, peer: SimulatedPeer) -> None:
        self._peer = peer

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _trace: object) -> bool:
        if kind is not ProcessDied:
            return False
        self._peer.die()
        return True


class _World:
    """Where the effects of a peer's turns go."""

    def __init__(self, peer: SimulatedPeer) -> None:
        self._peer = peer

    def send(self, link: int, frames: list[list[bytes]]) -> None:
        """Pass frames to the network, which treats each by itself."""
        peer = self._peer
        if peer.network.keys is not None and peer.name_of(link) is None:
            return
        for parts in frames:
            if peer.disk.dying == "while sending" and peer.rng.random() < 0.5:
                peer.disk.survive()
                raise ProcessDied
            peer.network.links.send(peer, link, parts)

    def reply(self, command: c.Command, value: Any) -> None:
        """Answer a command."""
        self._peer.answer(command, value)

    def notice(self, notices: list[ReceiptNotice]) -> None:
        """Tell receipts."""
        self._peer.notice(notices)

    def report(self, event: Event) -> None:
        """Keep an event of the core."""
        self._peer.network.report(self._peer.name, event)

    def dial(self, name: str, endpoint: str) -> int | None:
        """Make a socket to a peer, unless its key is not there."""
        if self._peer.network.keys is not None and not self._peer.network.keys.knows(self._peer, name):
            return None
        return self._peer.network.links.dial(self._peer, endpoint)

    def shut_out(self, link: int) -> None:
        """Close a connection of another."""
        self.hang_up(link)

    def hang_up(self, link: int) -> None:
        """Close a socket."""
        self._peer.network.links.hang_up(self._peer, link)
