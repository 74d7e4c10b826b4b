"""One turn of a peer: feed the core, commit, then let the world see it. The same for sockets and for the simulator.

The order of `_apply` is the order that effects.py promises. A commit that fails is treated as what it is to the core,
a crash whose process survived: nothing was sent, so the core is loaded anew from the store, sessions begin again, and
the turn's work is done over with the store closed to anything new.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from zmqrel.core import commands as c
from zmqrel.core.buffer import Buffer, Failed, Finished, Left, MoveTo, Result, RetryAt, Returned, one_by_one
from zmqrel.core.effects import Effects, Event, ReceiptNotice
from zmqrel.core.engine import FLUSH_US, Engine
from zmqrel.core.row import Row, is_overdue
from zmqrel.core.rows import Policy
from zmqrel.core.storage import InHand, InHandTable, Store
from zmqrel.core.times import Now
from zmqrel.errors import StoreFull

PROBE_US = 500_000
"""How often a full store is asked whether there is room again."""
_HEADROOM_US = 3_000_000
"""How long the headroom stays in use for a turn that needed it and took nothing in: its frames come once more, over new
connections."""
_PATIENCE_US = 60_000_000
"""How long not even the headroom may be enough before dead letters give way; and how long it is remembered."""
_NEVER = -_PATIENCE_US, -_PATIENCE_US
_FAILURES_WHEN_FULL = 64
_FAILURES_WHEN_SCARCE = 4
_TAKING_ROOM = Failed, RetryAt, MoveTo
_LEAST_PAUSE_US = 10_000
_FLUSH_SHARE = 20
"""Under "relaxed" the pause between two flushes is so many times as long as a flush took: a fast disk shortens it, and
with it how long outcomes wait and how much a power cut takes."""
_REDIAL_US = 1_000_000
"""How often a socket that was not to be had is asked for again."""
_ENOUGH_INTAKE_BYTES = 16 * 1024 * 1024
"""A turn that takes in so much after the store was full needs no limit any more."""


Results = Sequence[tuple[Buffer, Sequence[Finished]]]
"""What workers have finished since the last turn."""
RowResults = Sequence[tuple[Buffer, list[tuple[Row, Result]]]]
"""The same, each message by itself."""


class World(Protocol):
    """Where the effects of a turn go."""

    def send(self, link: int, frames: list[list[bytes]]) -> None:
        """Pass frames to the transport, in order; what it cannot take is lost or sent later."""
        ...

    def reply(self, command: c.Command, value: Any) -> None:
        """Answer a command, with a value or an exception."""
        ...

    def notice(self, notices: list[ReceiptNotice]) -> None:
        """Tell receipts."""
        ...

    def report(self, event: Event) -> None:
        """Tell an operator."""
        ...

    def dial(self, name: str, endpoint: str) -> int | None:
        """Make a socket to a peer; returns its link. None if there is no key of it: it is dialled when there is one."""
        ...

    def hang_up(self, link: int) -> None:
        """Close a link."""
        ...

    def shut_out(self, link: int) -> None:
        """End the connection of an inbound link, and do not let its peer in for a while; another link stays."""
        ...


@dataclass(slots=True)
class Work:
    """What came in since the last turn."""

    commands: Sequence[c.Command] = field(default_factory=list)
    frames: list[tuple[int, list[bytes]]] = field(default_factory=list)
    links_down: list[int] = field(default_factory=list)
    no_frames: list[tuple[int, int]] = field(default_factory=list)
    """Links over which something came that was no frame, and its bytes."""


class Turns:
    """Runs the turns of one peer over its store. Owned by one thread."""

    def __init__(self, store: Store, in_hand: InHandTable, make_engine: Callable[[Now], Engine], world: World) -> None:
        self.store = store
        self._in_hand = in_hand
        self._make_engine = make_engine
        self._world = world
        self._endpoints: dict[str, str | None] = {}
        self._links: dict[str, int] = {}
        self._served: dict[str, tuple[Buffer, Policy]] = {}
        self._to_serve: list[str] = []
        self._stalled = False
        """Not even the headroom was enough: only time can help."""
        self._full = False
        self._probe_at_us = 0
        self._pressed = _NEVER
        """When not even the headroom was enough, for the first and the last time."""
        self._results_at_us = 0
        """While the store is full: when results of workers are looked at again."""
        self._rest_until_us = 0
        """Until then frames are dropped: see `_rest`."""
        self._redial: dict[str, None] = {}
        """Peers for which no socket was to be had, or which are to be dialled after a rest."""
        self._redial_at_us = 0
        self._intake_bytes: int | None = None
        """What a turn may take in from peers: a store that was full is approached in small steps, or the same batch
        would fill it again and again."""
        self.engine: Engine

    def open(self, now: Now, wall_us: int, endpoints: Mapping[str, str | None] | None = None) -> None:
        """Load the core, take over what a previous life left in hand, and commit the new life.

        `endpoints` are those of the peers that it is told of first: should the store have no room even for that, it
        knows them when there is some.
        """
        self._endpoints.update(endpoints or {})
        left = self._in_hand.open()
        clean = self.store.previous in ("new", "clean")
        trusted = clean or (
            self.store.previous == "crashed" and self._in_hand.boot_matches and not self._in_hand.damaged
        )
        try:
            effects = self._begin_life(now, wall_us, left, trusted)
        except StoreFull:
            # A full store must open, or it could never be emptied.
            self._full = True
            self._probe_at_us = now.mono_us + PROBE_US
            self.store.abort()
            self.store.set_growing(False)
            effects = self._begin_life(now, wall_us, left, trusted)
        self._in_hand.clear()
        self._apply(effects)

    def _begin_life(self, now: Now, wall_us: int, left: list[InHand], trusted: bool) -> Effects:
        self.engine = self._make_engine(now)
        self.engine.begin(now, wall_us)
        self.engine.set_accepting(not self._full)
        if left or not trusted:
            self.engine.recover(left, trusted)
        if self.store.was_relaxed and not trusted:
            self.engine.fall_behind()
        effects = self.engine.finish()
        self.store.commit()
        return effects

    def serve(self, queue: str, buffer: Buffer, policy: Policy) -> None:
        """Rows of this queue go to `buffer` from the next turn on."""
        self._served[queue] = (buffer, policy)
        # Not now: a new queue writes a row, and what is written between two turns is forgotten by the next flush.
        self._to_serve.append(queue)

    def run(self, now: Now, wall_us: int, work: Work) -> None:
        """One turn. Raises only what leaves the peer unable to go on."""
        self.store.check()
        self._in_hand.check()
        if self._full and not self._stalled and now.mono_us >= self._probe_at_us:
            self._probe(now)
        if self._redial and now.mono_us >= self._redial_at_us:
            self._dial_again(now)
        results = self._collect(now)
        if now.mono_us < self._rest_until_us:
            work = Work(work.commands, [], work.links_down, work.no_frames)
        if self._stalled:
            self._retry_stalled(now, wall_us, work, results)
            return
        try:
            effects = self._step(now, wall_us, work, results, spare=self._dead_letters_give_way(now))
            self.store.commit()
        except StoreFull as error:
            self._after_full(now, wall_us, work, results, error)
            return
        if self._intake_bytes is not None:
            self._widen_intake()
        self._apply(effects)

    def _step(
        self, now: Now, wall_us: int, work: Work, results: Results, *, flush: bool = True, spare: bool = False
    ) -> Effects:
        """What came in, by the core. After `_reload` not with a flush: it would forget what that has written.

        To `spare` is to keep no dead letters.
        """
        engine = self.engine
        flush_at_us = self._flush_due_us(now)
        flush = flush and flush_at_us is not None and flush_at_us <= now.mono_us
        engine.begin(now, wall_us)
        engine.limit_intake(self._intake_bytes)
        if flush:
            self.store.flush()
            engine.flushed()
        engine.set_scarce(self._full and self.store.scarce())
        if spare:
            engine.spare_dead_letters()
        if self._to_serve:
            for queue in self._to_serve:
                engine.serve(queue, *self._served[queue])
            self._to_serve.clear()
        for link in work.links_down:
            engine.link_down(link)
        for link, size in work.no_frames:
            engine.no_frame(link, size)
        for link, parts in work.frames:
            engine.frame(link, parts)
        for _, finished in results:
            engine.finished(finished)
        for command in work.commands:
            if isinstance(command, c.Connect):
                self._endpoints[command.name] = command.endpoint
            elif isinstance(command, c.Disconnect | c.Forget):
                self._endpoints.pop(command.name, None)
            engine.command(command)
        return engine.finish()

    def _apply(self, effects: Effects) -> None:
        world = self._world
        if effects.frames:
            by_link: dict[int, list[list[bytes]]] = {}
            for link, parts in effects.frames:
                by_link.setdefault(link, []).append(parts)
            for link, frames in by_link.items():
                world.send(link, frames)
        # After the frames: a worker that wakes up takes the interpreter, and who waits for an acknowledgement waits on.
        for slot, count in effects.freed:
            self._in_hand.free(slot, count)
        for buffer, rows in effects.offers:
            buffer.offer(rows)
        # Receipts of what was accepted in this turn come first, for it may have ended in it too; who asks for a recall
        # is answered when its receipt tells what became of it.
        for command, value in effects.replies:
            if isinstance(command, c.Send):
                world.reply(command, value)
        if effects.notices:
            world.notice(effects.notices)
        for command, value in effects.replies:
            if not isinstance(command, c.Send):
                world.reply(command, value)
        for event in effects.events:
            world.report(event)
        for link in effects.hang_up:
            world.hang_up(link)
        for link in effects.shut_out:
            world.shut_out(link)
        for name in effects.dial:
            self._dial(name)

    def _dial(self, name: str) -> None:
        self._redial.pop(name, None)
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            return
        try:
            link = self._world.dial(name, endpoint)
        except OSError as error:  # no descriptors left, most likely: not a reason to end the peer
            self._world.report(Event("not_dialled", name, str(error)))
            self._redial[name] = None
            return
        if link is not None:
            self._links[name] = link
            self.engine.dialled(name, link)

    def _dial_again(self, now: Now) -> None:
        names, self._redial = self._redial, {}
        self._redial_at_us = now.mono_us + _REDIAL_US
        for name in names:
            self._dial(name)

    # ------------------------------------------------------------------------------------------- a full store

    def _after_full(self, now: Now, wall_us: int, work: Work, results: Results, error: StoreFull) -> None:
        """Nothing of the turn was kept: load anew, use the headroom, and do over what frees room."""
        results = _one_by_one(results)
        had_headroom = self._full
        if had_headroom:
            self._note_pressure(now)
        self._full = True
        self._probe_at_us = now.mono_us + PROBE_US
        took_in = self.engine.intake_bytes
        if self.engine.intake_bytes:
            self._intake_bytes = max(1, self.engine.intake_bytes // 2)
        self.store.abort()
        self.store.set_growing(False)
        results = self._few_failures(results)
        sends = [command for command in work.commands if isinstance(command, c.Send)]
        others = [command for command in work.commands if not isinstance(command, c.Send)]
        for command in sends:
            self._world.reply(command, error)
        try:
            effects = self._do_over(now, wall_us, Work(others), results)
        except StoreFull as still_full:
            self._note_pressure(now)
            self._stall(Work(others), still_full)
            self._look_back(now, wall_us)
            return
        if not sends and not took_in:
            self._probe_at_us = now.mono_us + _HEADROOM_US
        if had_headroom:
            self._rest(now, effects)
        self._apply(effects)

    def _rest(self, now: Now, effects: Effects) -> None:
        """Connected at once, others would send at once what does not fit, and begin anew a hundred times a second."""
        self._rest_until_us = self._redial_at_us = now.mono_us + PROBE_US
        self._redial = dict.fromkeys(effects.dial)
        effects.dial.clear()

    def _do_over(self, now: Now, wall_us: int, work: Work, results: RowResults) -> Effects:
        """With half as many results of workers each time it does not fit, none at last; the rest is put aside.

        For as long as it takes to connect again nothing of workers is settled then: what others acknowledge may make
        room. Raises StoreFull if nothing fits at all.
        """
        spare = False
        while True:
            try:
                self._reload(now, wall_us, results)
                effects = self._step(now, wall_us, work, results, flush=False, spare=spare)
                self.store.commit()
                return effects
            except StoreFull:
                self.store.abort()
                if not spare and self._dead_letters_give_way(now):
                    spare = True
                    continue
                if not results:
                    raise
                results, rest = _halved(results)
                self._put_aside(rest)
                self._results_at_us = now.mono_us + _HEADROOM_US

    def _collect(self, now: Now) -> Results:
        """What workers have finished and is to be settled now."""
        buffers = [buffer for buffer, _ in self._served.values() if buffer.unsettled or buffer.has_aside]
        results: Results = [(buffer, buffer.finished()) for buffer in buffers]
        if not self._full:
            return results
        if now.mono_us < self._results_at_us:
            self._put_aside(_one_by_one(results))
            return []
        return self._few_failures(results)

    @staticmethod
    def _put_aside(results: RowResults) -> None:
        for buffer, finished in results:
            buffer.put_aside(finished)

    def _few_failures(self, results: Results) -> RowResults:
        """Only some of the first attempts that failed are noted in a turn, for each takes room; none while their queue
        pauses. The others stay in hand.
        """
        chosen: list[tuple[Buffer, list[tuple[Row, Result]]]] = []
        most = _FAILURES_WHEN_SCARCE if self.store.scarce() else _FAILURES_WHEN_FULL
        for buffer, finished in _one_by_one(results):
            left = 0 if self.engine.pauses(buffer.queue) else most
            taken: list[tuple[Row, Result]] = []
            kept: list[tuple[Row, Result]] = []
            for row, result in finished:
                # A suspect holds others back until it is settled.
                takes_room = isinstance(result, _TAKING_ROOM) and not (row.stated or row.suspect)
                (kept if takes_room and left <= 0 else taken).append((row, result))
                left -= takes_room
            buffer.put_aside(kept)
            chosen.append((buffer, taken))
        return chosen

    def _note_pressure(self, now: Now) -> None:
        first_us, last_us = self._pressed
        self._pressed = (first_us if now.mono_us - last_us < _PATIENCE_US else now.mono_us), now.mono_us

    def _dead_letters_give_way(self, now: Now) -> bool:
        """Else what ends as a dead letter might never end: a letter takes more room than the message did.

        Not at once: the disk may only have failed, or someone may make room.
        """
        first_us, last_us = self._pressed
        return self._full and last_us - first_us >= _PATIENCE_US > now.mono_us - last_us

    def _reload(self, now: Now, wall_us: int, results: RowResults) -> None:
        # What is still running is told by its buffer; what was withdrawn at the door is with nobody.
        with_workers: list[Row] = [
            row for _, finished in results for row, result in finished if not isinstance(result, Left | Returned)
        ]
        for buffer, _ in self._served.values():
            buffer.clear()
            with_workers += buffer.handed_over()
        for link in self._links.values():
            self._world.hang_up(link)
        self._links.clear()
        self._redial.clear()  # all are to be dialled
        failed = self.engine
        self.engine = self._make_engine(now)
        self.engine.begin(now, wall_us)
        self.engine.set_accepting(False)
        self.engine.replace(failed, with_workers)
        self._to_serve.clear()
        for queue, (buffer, policy) in self._served.items():
            self.engine.serve(queue, buffer, policy)
        for name, endpoint in self._endpoints.items():
            self.engine.command(c.Connect(name, endpoint))

    def _look_back(self, now: Now, wall_us: int) -> None:
        """Let the core be what is committed: until it can be done over, a turn that failed is not to be seen in it.

        Only to be looked at: what is done over is done by a core that is loaded then.
        """
        try:
            self._reload(now, wall_us, [])
        except StoreFull:
            # A queue or a peer is new to the store: the core is loaded, and knows as little of it.
            pass
        finally:
            self.store.abort()

    def _widen_intake(self) -> None:
        if self._intake_bytes and self.engine.intake_bytes:
            self._intake_bytes *= 2
            if self._intake_bytes > _ENOUGH_INTAKE_BYTES:
                self._intake_bytes = None

    def _stall(self, work: Work, error: StoreFull) -> None:
        self._stalled = True
        self.store.abort()
        for command in [*work.commands, *self.engine.drop_searches()]:
            self._world.reply(command, error)

    @staticmethod
    def _put_back(results: Results) -> None:
        for buffer, finished in _one_by_one(results):
            buffer.put_back(finished)

    def _retry_stalled(self, now: Now, wall_us: int, work: Work, results: Results) -> None:
        error = StoreFull("the store is full, its headroom too: nothing can be written until there is room")
        if now.mono_us < self._probe_at_us:
            self._stall(work, error)
            self._put_back(results)
            return
        self._stalled = False
        self._after_full(now, wall_us, work, results, error)
        if not self._stalled:
            self._pressed = _NEVER  # the disk takes something again: letters too, it may be

    def _probe(self, now: Now) -> None:
        self._probe_at_us = now.mono_us + PROBE_US
        if self.store.room():
            self.store.set_growing(True)
            self.engine.set_accepting(True)
            self._full = False

    def stats(self, now: Now) -> dict[str, int]:
        """The core's figures, with those of messages that workers have in hand; see core/stats.py."""
        rows = [row for buffer, _ in self._served.values() for row in buffer.handed_over()]
        stats = self.engine.stats()
        stats["overdue"] += sum(is_overdue(row, now.store_us) for row in rows)
        return stats | {"in_hand": len(rows) + sum(buffer.acknowledged for buffer, _ in self._served.values())}

    def _flush_due_us(self, now: Now) -> int | None:
        flush_us = self.store.flush_us
        pause_us = FLUSH_US if flush_us is None else min(max(_LEAST_PAUSE_US, _FLUSH_SHARE * flush_us), FLUSH_US)
        due_us = self.engine.flush_due_us(pause_us)
        if due_us is None or self.store.unflushed:
            return due_us
        # The last commit was a flush, for its size or for want of room: what waited for one need not wait longer.
        return now.mono_us

    @property
    def stalled(self) -> bool:
        """True while nothing can be written, so that a turn before the next wake does nothing."""
        return self._stalled

    @property
    def has_put_aside(self) -> bool:
        """True while what workers made of some messages waits for room."""
        return any(buffer.has_aside for buffer, _ in self._served.values())

    def next_wake_us(self, now: Now) -> int | None:
        """The monotonic time at which a turn is due though nothing comes in."""
        if self._stalled:
            return self._probe_at_us
        wake_us = now.mono_us if self._to_serve else self.engine.next_wake_us(now)
        flush_us = self._flush_due_us(now)
        if flush_us is not None:
            wake_us = flush_us if wake_us is None else min(wake_us, flush_us)
        if self._full:
            wake_us = self._probe_at_us if wake_us is None else min(wake_us, self._probe_at_us)
        if self._redial:
            wake_us = self._redial_at_us if wake_us is None else min(wake_us, self._redial_at_us)
        return wake_us

    # ------------------------------------------------------------------------------------------------ the end

    def close(self, now: Now, wall_us: int) -> None:
        """Commit what workers finished, say BYE, and close the store cleanly."""
        results = [(buffer, buffer.finished()) for buffer, _ in self._served.values()]
        running: list[Row] = []
        for buffer, _ in self._served.values():
            buffer.clear()
            running += buffer.handed_over()
        told = self._settle_last(now, wall_us, results, running)
        if not told:
            # What was handed over stays in the in-hand table and is redelivered: nothing is lost, so nothing to raise.
            self._keep_in_hand(running)
            self.store.abort()
            self._put_back(results)
            self._look_back(now, wall_us)
            self.store.close(clean=False)
            return
        self.engine.begin(now, wall_us)
        self.engine.flushed()
        self.engine.release(told[-1])
        for effects in told:
            effects.offers.clear()
            self._apply(effects)
        self._in_hand.clear()
        self.store.close()

    def _settle_last(self, now: Now, wall_us: int, results: Results, running: list[Row]) -> list[Effects]:
        """Empty if the store took none of it."""
        if not self._stalled:
            try:
                return self._last_turn(now, wall_us, results, running)
            except StoreFull:
                pass
        return self._last_turn_in_full_store(now, wall_us, results, running)

    def _keep_in_hand(self, running: list[Row]) -> None:
        """As `Engine.leave` would say it: closing is not the fault of what workers have, so none of it is a suspect."""
        for row in running:
            if row.handed_us:
                self._in_hand.done(row.slot)
            elif row.slot >= 0:  # asked about, and not handed over
                self._in_hand.free(row.slot)

    def _last_turn(
        self, now: Now, wall_us: int, results: Results, running: list[Row], *, flush: bool = True
    ) -> list[Effects]:
        first = self._step(now, wall_us, Work(), results, flush=flush)
        self.engine.leave(running)
        self.engine.close("closing")
        last = self.engine.finish()
        self.store.commit()
        self.store.flush()
        return [first, last]

    def _last_turn_in_full_store(self, now: Now, wall_us: int, results: Results, running: list[Row]) -> list[Effects]:
        """With the headroom, so that what was handled is settled and not handed over again; empty if that fails too."""
        try:
            self.store.abort()
            self.store.set_growing(False)
            results = _one_by_one(results)
            self._reload(now, wall_us, results)
            return self._last_turn(now, wall_us, results, running, flush=False)
        except StoreFull:
            return []


def _halved(results: RowResults) -> tuple[RowResults, RowResults]:
    """Those to begin with, what makes room first, and the rest; none of a single one."""
    first = [(buffer, *item) for buffer, finished in results for item in finished]
    first.sort(key=lambda item: isinstance(item[2], _TAKING_ROOM))
    half = len(first) // 2
    parts = []
    for part in (first[:half], first[half:]):
        by_buffer: dict[Buffer, list[tuple[Row, Result]]] = {}
        for buffer, row, result in part:
            by_buffer.setdefault(buffer, []).append((row, result))
        parts.append(list(by_buffer.items()))
    return parts[0], parts[1]


def _one_by_one(results: Results) -> RowResults:
    return [(buffer, one_by_one(finished)) for buffer, finished in results]
