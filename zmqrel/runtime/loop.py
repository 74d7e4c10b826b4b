"""The I/O thread of a peer: sockets, store, clock and core, turn by turn.

    wait -> what callers queued, what sockets received, what workers finished -> one turn (turn.py) -> again

A turn is bounded in messages and bytes, takes what is waiting already and never waits for more: batches form under
load by themselves, and a single small send does not wait for company.
"""

from __future__ import annotations

import logging
import os
import random
import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from time import monotonic, time
from typing import Any, NamedTuple
from weakref import WeakSet

from zmqrel.core import commands as c
from zmqrel.core.buffer import Buffer
from zmqrel.core.effects import Ended, Event, ReceiptNotice
from zmqrel.core.engine import Engine, read_clock
from zmqrel.core.limits import SHUT_OUT_S
from zmqrel.core.rows import Policy
from zmqrel.core.storage import InHandTable, Store
from zmqrel.core.times import Now
from zmqrel.errors import ConfigError, Error, OutboxFull
from zmqrel.escaping import escaped
from zmqrel.options import Options
from zmqrel.receipts import Ticket
from zmqrel.runtime.admission import Admission
from zmqrel.runtime.clock import Clock
from zmqrel.runtime.drive import Drive
from zmqrel.runtime.room import WaitingSends
from zmqrel.runtime.turn import Turns, Work
from zmqrel.runtime.wire import MAX_TOGETHER, Wire
from zmqrel.store.directory import IN_HAND
from zmqrel.store.in_hand import InHandFile, MemoryInHand
from zmqrel.store.limits import remedy
from zmqrel.store.lmdb import LmdbStore
from zmqrel.store.memory import MemoryStore

_log = logging.getLogger("zmqrel")

_FRAMES_PER_TURN = 128
_BYTES_PER_TURN = 1 << 20
_MESSAGES_PER_TURN = 8192
_COMMANDS_PER_TURN = 2048
_LATER_MOST = 1000
_LATER_RETRY_S = 0.005
_FAREWELL_S = 0.5
"""How long a closing peer waits until others have taken what they should know, settlements above all."""
_LEAST_FRAME_BYTES = 4 << 20
_TOGETHER_BYTES = 96 << 10
"""A message of several frames holds the largest batch of small messages and what is said beside it, and no more: a copy
is made of all."""
_HEADER_ROOM_BYTES = 1 << 20


_loops: WeakSet[Loop] = WeakSet()


def _note_fork() -> None:
    """Called in each new child: the threads of these loops are not in it."""
    for loop in _loops:
        loop.forked = True


os.register_at_fork(after_in_child=_note_fork)


class Call:
    """A question to the loop that a thread waits for."""

    __slots__ = ("_done", "_value")

    def __init__(self) -> None:
        self._done = threading.Lock()
        self._done.acquire()
        self._value: Any = None

    def answer(self, value: Any) -> None:
        """Let the waiting thread go on."""
        self._value = value
        self._done.release()

    def result(self, timeout_s: float | None = None) -> Any:
        """The answer. Raises it if it is an exception, and TimeoutError after `timeout_s`."""
        if not self._done.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s)):
            raise TimeoutError(f"no answer within {timeout_s} s")
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


class _Posted(NamedTuple):
    """Something to be done in the loop's thread. If the loop ends before, its call is refused."""

    call: Call
    action: Callable[[], Any]


class Loop(Drive):
    """Runs one peer's core. `start` opens everything in the new thread and returns when it runs, or raises."""

    def __init__(
        self,
        name: str,
        directory: Path | None,
        bind: Sequence[str],
        options: Options,
        peers: Mapping[str, str | None],
    ) -> None:
        """`directory` is the store's; None keeps everything in memory. `peers` are known from the first turn on."""
        super().__init__(name, options)
        self.endpoints: list[str] = []
        self.on_ended: Callable[[], None] | None = None
        """Called in the loop's thread when messages have got their outcome."""
        self._directory = directory
        self._bind = bind
        self._peers = dict(peers)
        self._queue: deque[c.Command | _Posted] = deque()
        self._calls: dict[int, Call | Ticket] = {}
        self._later: dict[int, deque[list[list[bytes]]]] = {}
        self._links_down: list[int] = []
        self._wanting_empty: dict[Call, None] = {}
        self._wanting_room: dict[Call, None] = {}
        self._fill = (0, 0)
        self._room = WaitingSends(options.outbox_max_messages, options.outbox_max_bytes)
        self.final_stats: dict[str, int] = {}
        _loops.add(self)
        self._stopping = False
        self._leaving = False
        self._closed = False
        self._end_guard = threading.Lock()
        self._ended = False
        self._when_ended: list[Callable[[], None]] = []
        self._admission = Admission(name, options)
        self._rng = random.Random(options.seed)
        self._ids = random.SystemRandom()
        self._thread = threading.Thread(target=self._main, name=f"zmqrel-{name}", daemon=True)
        self._started = Call()
        self._wire: Wire
        self._turns: Turns
        self._room_made = False
        """The outbox has become smaller: sends may wait for that."""

    # --------------------------------------------------------------------------------------- from other threads

    def start(self) -> None:
        """Open store and sockets and begin. Raises what kept them from being opened."""
        self._thread.start()
        self._started.result()

    def ask(self, command: c.Command) -> Call:
        """Queue a command; its Call is answered after the commit of its turn."""
        call = Call()
        self._calls[id(command)] = call
        self._put(command)
        return call

    def accept(self, command: c.Send, ticket: Ticket, room_timeout_s: float = 0.0) -> None:
        """Queue a send; the ticket learns what becomes of it, after `room_timeout_s` if the outbox stays full."""
        self._calls[id(command)] = ticket
        if room_timeout_s:
            self._room.expect(command, room_timeout_s)
        self._put(command)

    def post(self, action: Callable[[], Any]) -> Call:
        """Run something in the loop's thread, before its next turn."""
        call = Call()

        def act() -> None:
            try:
                call.answer(action())
            except Exception as error:
                call.answer(error)

        self._put(_Posted(call, act))
        return call

    def _put(self, item: c.Command | _Posted) -> None:
        if self._closed:
            raise self.refusal()
        self._queue.append(item)
        self._wire.wake()
        if not self._thread.is_alive():
            # The loop may have gone through its queue for the last time before this was in it.
            self._refuse_queued()

    def when_ended(self, callback: Callable[[], None]) -> None:
        """Call it when the loop has ended, for whatever reason, in the loop's thread; at once if it has."""
        with self._end_guard:
            if not self._ended:
                self._when_ended.append(callback)
                return
        callback()

    def row_finished(self) -> None:
        """A worker has finished a row, or taken the last one that was claimed."""
        self.finished_rows = True
        self._wire.wake()

    def new_buffer(
        self, queue: str, prefetch: int, lock: threading.Lock, notify: Callable[[int], None], time_limit_us: int
    ) -> Buffer:
        """A buffer under `lock`, which calls `notify` with the number of rows that came."""
        return Buffer(queue, prefetch, self._in_hand, lock, notify, time_limit_us, self.row_finished)

    def serve(self, served: Sequence[tuple[str, Buffer, Policy]]) -> Call:
        """Let rows of these queues go to these buffers, all from the same turn on."""

        def serve_all() -> None:
            for queue, buffer, policy in served:
                self._turns.serve(queue, buffer, policy)

        return self.post(serve_all)

    def look(self, reader: Callable[[Engine], Any]) -> Call:
        """Let something read of the core and its store, between two turns. It must be short, and change nothing."""
        return self.post(lambda: reader(self._turns.engine))

    @property
    def engine(self) -> Engine:
        """The core; for the loop's thread, and for what is looked at without waiting."""
        return self._turns.engine

    def stats(self) -> Call:
        """The core's counters."""
        return self.post(self._stats)

    def _stats(self) -> dict[str, int]:
        return self._turns.stats(self.clock.now()) | self._wire.counts

    def require_key(self, name: str) -> Call:
        """With keys: answered by None if there is one of this peer, by ConfigError if not."""
        return self.post(lambda: self._require_key(name))

    def _require_key(self, name: str) -> None:
        if self._admission.keys is not None:
            self._look_at_keys(now=True)  # it may have been put there just before
            self._admission.keys.require(name)

    def wait_until_drained(self, timeout_s: float) -> None:
        """Wait until the outbox is empty. Raises TimeoutError after `timeout_s`, and PeerClosed."""
        self._wait_among(self._wanting_empty, timeout_s)

    def wait_for_room(self, shrinks: int, timeout_s: float) -> None:
        """Wait until the outbox is smaller than when `shrinks` was read, before the send that found it full.

        Raises TimeoutError after `timeout_s`, and PeerClosed.
        """
        self._wait_among(self._wanting_room, timeout_s, lambda: self.shrinks != shrinks)

    def _wait_among(
        self, waiting: dict[Call, None], timeout_s: float, is_over: Callable[[], bool] = lambda: False
    ) -> None:
        call = Call()

        def join() -> None:
            if is_over():
                call.answer(None)
            else:
                waiting[call] = None

        self._put(_Posted(call, join))
        try:
            call.result(timeout_s)
        except TimeoutError:
            # A peer that stays full must not gather those who have long gone away.
            self.post(lambda: waiting.pop(call, None))
            raise

    @property
    def closed(self) -> bool:
        """True once nothing is taken any more."""
        return self._closed

    def stop(self) -> None:
        """Run a last turn, close everything and end the thread. May be repeated."""
        self._stopping = True
        self._wire.wake()
        self._thread.join()

    # ------------------------------------------------------------------------------------------------ the thread

    def _main(self) -> None:
        try:
            self._open()
        except BaseException as error:
            self._closed = True
            self._started.answer(error if isinstance(error, Exception) else RuntimeError(repr(error)))
            return
        self._started.answer(None)
        try:
            while not self._stopping:
                self._turn()
            self._close()
        except BaseException as error:
            self._fail(error)
        finally:
            self._end()

    def _fail(self, error: BaseException) -> None:
        """The core is in a state that nobody foresaw: what is committed stays, and everybody is told."""
        foreseen = isinstance(error, Error)  # which says all that there is to say
        _log.critical(
            "peer %s stopped: the I/O loop failed: %r", self.name, error, exc_info=None if foreseen else error
        )
        self.failure = error
        self._closed = True
        try:
            self._store.close(clean=False)
        except Exception:
            _log.exception("peer %s: the store could not be closed", self.name)

    def _end(self) -> None:
        self._closed = True
        with self._end_guard:
            self._ended = True
        with ExitStack() as steps:  # from the last to the first, each whatever becomes of the others
            steps.callback(self._wire.close)
            steps.callback(self._refuse_queued)
            steps.callback(self._in_hand.close)
            # First, for a row that is taken out of a buffer needs the in-hand table.
            for callback in self._when_ended:
                steps.callback(callback)

    def _open(self) -> None:
        options = self.options
        self._admission.open(self._peers)
        self._store: Store
        self._in_hand: InHandTable
        if self._directory is None:
            self._store, self._in_hand = MemoryStore(durability=options.durability), MemoryInHand()
        else:
            self._store = LmdbStore(
                self._directory, durability=options.durability, map_size_bytes=options.map_size_bytes
            )
            self._in_hand = InHandFile(self._directory / IN_HAND)
        try:
            self.clock = self._make_clock()
            largest = max(options.max_body_bytes + _HEADER_ROOM_BYTES, _LEAST_FRAME_BYTES)
            self._wire = Wire(self._bind, max_frame_bytes=largest, rng=self._rng, keys=self._admission.keys)
            self._wire.on_doors = self._tell_of_doors
            self.endpoints = list(self._wire.endpoints)
            self._turns = Turns(self._store, self._in_hand, self._make_engine, self)
            self._turns.open(self.clock.now(), self.clock.wall_us(), self._peers)
            # Before any frame is read, so that nobody who is listed is refused.
            known = Work([c.Connect(name, endpoint) for name, endpoint in self._peers.items()])
            self._turns.run(self.clock.now(), self.clock.wall_us(), known)
        except BaseException as error:
            # A clean predecessor stays clean; what another left in hand is still to be taken over.
            self._store.close(clean=self._store.previous in ("new", "clean"))
            self._in_hand.close()
            if hasattr(self, "_wire"):
                self._wire.close()
            if isinstance(error, OSError) and (helps := remedy(error.errno)) is not None:
                raise ConfigError(f"peer {self.name!r} cannot open its sockets: {error.strerror}; {helps}") from error
            raise
        if self._store.set_aside:
            _log.error("peer %s: the store was damaged; it is kept at %s", self.name, self._store.set_aside)

    def _make_clock(self) -> Clock:
        persisted = read_clock(self._store)
        if not isinstance(self._store, LmdbStore):
            return Clock(self.options.wall_clock, *persisted)
        # A wall clock that is given, for tests, is to be believed: it says how long the peer was away.
        ahead_us = self._store.clock_ahead_us if self.options.wall_clock is time else None
        clock = Clock(self.options.wall_clock, *persisted, boot_ahead_us=ahead_us)
        self._store.note_clock(clock.boot_ahead_us)
        return clock

    def _tell_of_doors(self, shut: bool) -> None:
        if shut:
            _log.error(
                "peer %s: hardly any file descriptors are left (ulimit -n): nobody new can connect to it", self.name
            )
        else:
            _log.warning("peer %s: there are file descriptors again: others can connect to it", self.name)

    def _make_engine(self, now: Now) -> Engine:
        name_of = None if self._admission.keys is None else self._wire.name_of
        engine = Engine(self.name, self.options, self._rng, self._random_id, self._store, now, name_of, self._wire)
        self._admission.permit(engine)
        self.receipts.reload(engine.shared.out_lanes)
        return engine

    def _random_id(self) -> int:
        return self._ids.getrandbits(64) or 1

    def _turn(self) -> None:
        self._wire.wait(self._timeout_s(), self._has_work)
        self._send_later()
        self.finished_rows = self._room_made = False
        if self._admission.keys is not None:
            self._look_at_keys()
            self._admission.tell_of_failures(self._wire.take_failures())
        frames = self._wire.receive(_FRAMES_PER_TURN, _BYTES_PER_TURN)
        if self._wire.closed:
            self._drop_closed({link for link, _ in frames})
        for send, refusal in self._room.give_up():
            self.reply(send, refusal)
        commands = [*self._room.take(*self._fill), *self._take_commands()]
        # What is done between two turns, just now, may have looked at the keys.
        commands = self._admission.take_changes() + commands
        work = Work(commands, frames, self._links_down, self._wire.take_no_frames())
        self._links_down = []
        self._admission.look_at_permissions(self._turns.engine)
        self._turns.run(self.clock.now(), self.clock.wall_us(), work)
        self._watch_outbox()

    def _look_at_keys(self, *, now: bool = False) -> None:
        """Before frames are received: none comes any more over a connection whose key is gone."""
        if self._admission.look_at_keys(now=now):
            self._links_down += self._wire.cut_unknown()

    def _drop_closed(self, heard: set[int]) -> None:
        """Links whose connection is gone are down once all that had come over them was received."""
        for link in self._wire.closed - heard:
            self._links_down.append(link)
            self.hang_up(link)

    def _watch_outbox(self) -> None:
        ledger = self._turns.engine.shared.ledger
        before, self._fill = self._fill, (ledger.outbox_messages, ledger.outbox_bytes)
        if self._fill[0] < before[0] or self._fill[1] < before[1]:
            self.shrinks += 1
            self._answer_all(self._wanting_room)
            self._room_made = self._room.timeout_s() is not None
        if self._wanting_empty and not self._fill[0]:
            self._answer_all(self._wanting_empty)

    @staticmethod
    def _answer_all(calls: dict[Call, None], value: Exception | None = None) -> None:
        for call in calls:
            call.answer(value)
        calls.clear()

    def _has_work(self) -> bool:
        if self._queue or self.finished_rows or self._wire.closed or self._room_made:
            return True
        return self._stopping and not self._leaving

    def _timeout_s(self) -> float | None:
        now = self.clock.now()
        wake_us = self._turns.next_wake_us(now)
        timeouts = [None if wake_us is None else max(0.0, (wake_us - now.mono_us) / 1e6), self._room.timeout_s()]
        timeouts += self._admission.timeouts_s()
        timeout_s = min((each for each in timeouts if each is not None), default=None)
        if self._leaving:
            return _LATER_RETRY_S if timeout_s is None else min(timeout_s, _LATER_RETRY_S)
        if self._later:
            return _LATER_RETRY_S if timeout_s is None else min(timeout_s, _LATER_RETRY_S)
        return timeout_s

    def _take_commands(self) -> list[c.Command]:
        commands: list[c.Command] = []
        messages = 0
        queue = self._queue
        while queue and messages < _MESSAGES_PER_TURN and len(commands) < _COMMANDS_PER_TURN:
            item = queue.popleft()
            if isinstance(item, c.Send):
                messages += len(item.records)
                if not self._room.queue_behind(item):
                    commands.append(item)
            elif isinstance(item, _Posted):
                item.action()
            else:
                messages += 1
                commands.append(item)
        return commands

    def _close(self) -> None:
        give_up_at = monotonic() + _FAREWELL_S
        self._leaving = True
        self._turn()  # what workers have finished is settled now, and is among what others are to know
        while self._queue or (self._turns.engine.has_untold and monotonic() < give_up_at):
            self._turn()
        self._closed = True
        self._turns.close(self.clock.now(), self.clock.wall_us())
        self.final_stats = self._stats()

    def _refuse_queued(self) -> None:
        error = self.refusal()
        with self._end_guard:
            while self._queue:
                item = self._queue.popleft()
                if isinstance(item, _Posted):
                    item.call.answer(error)
            # Commands, also what was taken from the queue and not answered: a search under way, or a turn that failed.
            for identity in list(self._calls):
                asker = self._calls.pop(identity)
                if isinstance(asker, Call):
                    asker.answer(error)
                else:
                    asker.fail(error)
            self.receipts.close(error)
            self._answer_all(self._wanting_empty, error)
            self._answer_all(self._wanting_room, error)

    # ----------------------------------------------------------------------------------------------- the World

    def send(self, link: int, frames: list[list[bytes]]) -> None:
        """Pass frames on, as many together as fit; what the transport does not take now waits for it, in order."""
        if len(frames) == 1:
            self._send(link, frames)
            return
        for together in _in_messages(frames):
            self._send(link, together)

    def _send(self, link: int, frames: list[list[bytes]]) -> None:
        waiting = self._later.get(link)
        if waiting is None and self._wire.send(link, *frames):
            return
        if not self._turns.engine.has_session(link):
            return  # a HELLO to someone who is not there: it is repeated anyway
        if waiting is None:
            waiting = self._later[link] = deque()
        waiting.append(frames)
        if len(waiting) > _LATER_MOST:
            del self._later[link]
            self._links_down.append(link)

    def _send_later(self) -> None:
        for link, waiting in list(self._later.items()):
            while waiting and self._wire.send(link, *waiting[0]):
                waiting.popleft()
            if not waiting:
                del self._later[link]

    def reply(self, command: c.Command, value: Any) -> None:
        """Answer who asked, but for a send that waits for room."""
        if isinstance(command, c.Send):
            if isinstance(value, OutboxFull) and self._room.keep(command, value):
                return
            self._room.answered(command)
        asker = self._calls.pop(id(command), None)
        if isinstance(asker, Call):
            asker.answer(value)
        elif asker is not None:
            self._tell_sender(asker, value)

    def notice(self, notices: list[ReceiptNotice]) -> None:
        """Tell receipts."""
        self.receipts.tell(notices, self.clock.store_us())
        if self.on_ended is not None and any(isinstance(notice, Ended) for notice in notices):
            self.on_ended()

    def report(self, event: Event) -> None:
        """Log what an operator wants to know. Names and reasons come from elsewhere: they are escaped and cut."""
        _log.warning("peer %s: %s %s: %s", self.name, event.kind, escaped(event.peer, 64), escaped(event.detail, 200))

    def dial(self, name: str, endpoint: str) -> int | None:
        """A new DEALER to a peer, unless there are keys and none of it."""
        if not self._admission.may_dial(name):
            return None
        _log.debug("peer %s: dialling %s at %s", self.name, name, endpoint)
        return self._wire.dial(endpoint, name)

    def shut_out(self, link: int) -> None:
        """End a connection, with all that waited for it."""
        for gone in self._wire.shut_out(link, SHUT_OUT_S):
            self._later.pop(gone, None)
            self._links_down.append(gone)

    def hang_up(self, link: int) -> None:
        """Close a link and forget what waited for it."""
        self._later.pop(link, None)
        self._wire.hang_up(link)


def _in_messages(frames: list[list[bytes]]) -> Iterator[list[list[bytes]]]:
    """Neighbours that travel in the same message."""
    together: list[list[bytes]] = []
    size = 0
    for frame in frames:
        length = sum(map(len, frame))
        if together and (size + length > _TOGETHER_BYTES or len(together) == MAX_TOGETHER):
            yield together
            together, size = [], 0
        together.append(frame)
        size += length
    yield together
