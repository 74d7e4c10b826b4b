"""A worker that takes messages of a span without the lock, against the loop, switched at every bytecode.

Two threads run by turns, never at once; at which bytecode of the buffer and of rows each of them is stopped is decided
here. So interleavings are gone through that an interpreter chooses once in a year.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from random import Random
from types import FrameType
from typing import Any

import pytest

from tests.core.pump import QUEUE, RETRY, Positions, acknowledge, pair
from zmqrel.core import buffer as buffer_module
from zmqrel.core import commands as c
from zmqrel.core import row as row_module
from zmqrel.core.buffer import HANDLED, Buffer, Failed, one_by_one
from zmqrel.core.engine import Engine
from zmqrel.core.row import Span
from zmqrel.core.rows import Policy

_SWITCHED = {buffer_module.__file__, row_module.__file__}
_LONGEST_S = 30.0


class ByTurns:
    """Two threads, one of which runs, at first the first. Each is stopped once, after as many bytecodes as given."""

    def __init__(self, stops: tuple[int, int]) -> None:
        self._left = list(stops)
        self._may_run = [threading.Semaphore(1), threading.Semaphore(0)]
        self._through = [False, False]
        self._at = threading.local()
        self._errors: list[BaseException] = []
        self.stopped = [False, False]
        """Whether each was stopped, and not through before."""

    def run(self, *parts: Callable[[], object]) -> None:
        threads = [threading.Thread(target=self._run, args=each, daemon=True) for each in enumerate(parts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_LONGEST_S)
        if self._errors:
            raise self._errors[0]
        assert all(self._through)

    def _run(self, at: int, part: Callable[[], object]) -> None:
        self._at.value = at
        assert self._may_run[at].acquire(timeout=_LONGEST_S)
        sys.settrace(self._trace)
        try:
            part()
        except BaseException as error:
            self._errors.append(error)
        finally:
            sys.settrace(None)
            self._through[at] = True
            self._may_run[1 - at].release()

    def _trace(self, frame: FrameType, event: str, _: object) -> Any:
        if frame.f_code.co_filename not in _SWITCHED:
            return None
        frame.f_trace_opcodes = True
        if event in ("opcode", "line"):  # Python 3.12 and 3.13 now and then tell a thread of lines only
            at = self._at.value
            self._left[at] -= 1
            if not self._left[at]:
                self.stopped[at] = True
                self.pass_on()
        return self._trace

    def pass_on(self) -> None:
        """Let the other run, until it is stopped or through."""
        at = self._at.value
        if not self._through[1 - at]:
            self._may_run[1 - at].release()
            assert self._may_run[at].acquire(timeout=_LONGEST_S)


class Lock:
    """Who waits for it lets the other run."""

    def __init__(self) -> None:
        self.by_turns: ByTurns | None = None
        self._held = False

    def __enter__(self) -> None:
        while self._held:
            assert self.by_turns is not None
            self.by_turns.pass_on()
        self._held = True

    def __exit__(self, *_: object) -> None:
        self._held = False


class Run:
    """Two peers; one has sent four messages together, the other works on them."""

    def __init__(self, taken: int) -> None:
        self.a, self.b, self.pump = pair()
        self.lock = Lock()
        self.buffer = Buffer(QUEUE, 4, self.b.in_hand, self.lock, lambda n: None)
        self.b.buffers[QUEUE] = self.buffer
        self.b.engine.serve(QUEUE, self.buffer, Policy(RETRY))
        self.handled: list[bytes] = []
        self.stored = self.a.send("b", *[b"%d" % number for number in range(4)])
        self.pump.run()
        for _ in range(taken):
            self.work_one()

    def work_one(self) -> None:
        span = self.buffer.next_span()
        assert span is not None
        positions = self.hand_out(span)
        self.handled.append(span.body(next(positions)))
        acknowledge(positions)

    def hand_out(self, span: Span) -> Positions:
        now_us = self.b.now().store_us
        return self.buffer.hand_out(span, lambda: now_us)

    def work(self, most: int = 4) -> None:
        """What a worker thread does, until there is nothing left."""
        now_us = self.b.now().store_us
        buffer = self.buffer
        while most:
            span = buffer.next_span()
            if span is None:
                row = buffer.take(now_us)
                if row is None:
                    return
                most -= 1
                self.handled.append(bytes(row.body))
                buffer.finish(row, HANDLED)
                continue
            positions = self.hand_out(span)
            for at in positions:
                most -= 1
                self.handled.append(span.body(at))
                if not most:
                    acknowledge(positions)
                    return

    def fail_one(self) -> None:
        """A worker whose attempt fails."""
        span = self.buffer.next_span()
        at = None if span is None else next(self.hand_out(span), None)
        if span is None or at is None:
            self.work(1)
            return
        self.buffer.finish(span.row(at), Failed("oops"))

    def end(self) -> dict[int, str]:
        """Handle what is left; the outcomes."""
        self.lock.by_turns = None
        for _ in range(4):
            self.pump.run()
            self.work()
            self.pump.pass_s(1)
        outcomes = self.a.outcomes()
        assert sorted(seq for seq, *_ in outcomes) == [1, 2, 3, 4], outcomes
        assert self.b.engine.stats()["inbox_messages"] == 0
        assert len(self.buffer) == 0
        assert self.buffer.handed_over() == []
        assert self.b.in_hand._blocks == {}
        return {seq: outcome for seq, outcome, _ in outcomes}


def recalls(run: Run) -> Callable[[], object]:
    """The loop has a recall of the third in its turn."""
    run.a.turn([], c.Recall([(run.stored.lane.no, 3)]))
    frames, run.a.out = run.a.out, []
    return lambda: run.b.turn(frames)


def measures(run: Run) -> Callable[[], object]:
    """The loop asks how much there is room for."""

    def ask() -> None:
        assert 0 <= len(run.buffer) <= 4
        assert isinstance(run.buffer.has_room, bool)
        run.buffer.room()

    return ask


def collects(run: Run) -> Callable[[], object]:
    return run.b.turn


def loses_its_turn(run: Run) -> Callable[[], object]:
    """The commit failed, and the core is loaded anew."""

    def reload() -> None:
        b = run.b
        results = one_by_one(b.buffers[QUEUE].finished())
        b.buffers[QUEUE].clear()
        with_workers = [row for row, _ in results] + b.buffers[QUEUE].handed_over()
        b.store.abort()
        failed, now = b.engine, b.now()
        b.engine = Engine(b.name, b.options, Random(1), lambda: 1, b.store, now)
        b.engine.begin(now, now.store_us)
        b.engine.replace(failed, with_workers)
        b.engine.serve(QUEUE, run.buffer, Policy(RETRY))
        b.engine.finished(results)
        b._apply(b.engine.finish())
        b.turn([], c.Connect("a", None))
        run.pump.connect()

    return reload


LOOP = [recalls, measures, collects, loses_its_turn]
WORKER = [Run.work, Run.fail_one]


def interleave(loop: Any, worker: Any, taken: int, stops: tuple[int, int], worker_first: bool) -> tuple[bool, bool]:
    run = Run(taken)
    parts = [loop(run), lambda: worker(run)]
    if worker_first:
        parts.reverse()
    by_turns = run.lock.by_turns = ByTurns(stops)
    by_turns.run(*parts)
    outcomes = run.end()
    times = {number: run.handled.count(b"%d" % number) for number in range(4)}
    for number, count in times.items():
        outcome = outcomes[number + 1]
        assert (outcome == "HANDLED") == (count == 1), (number, outcome, count)
        assert count <= 1
    return by_turns.stopped[0], by_turns.stopped[1]


def stop_everywhere(loop: Any, worker: Any, taken: int, worker_first: bool) -> int:
    steps = 1
    while interleave(loop, worker, taken, (steps, 0), worker_first)[0]:
        steps += 1
    return steps


@pytest.mark.parametrize("worker_first", [False, True])
@pytest.mark.parametrize("loop", [measures, collects, recalls])
def test_the_other_comes_in_between_at_any_bytecode(loop: Any, worker_first: bool) -> None:
    assert stop_everywhere(loop, Run.work, 3, worker_first) > 5


def test_the_core_is_loaded_anew_whatever_a_worker_is_doing() -> None:
    assert stop_everywhere(loses_its_turn, Run.fail_one, 2, worker_first=True) > 5


def test_a_message_acknowledged_while_its_span_falls_apart_is_handed_over_once() -> None:
    """The loop asked how far it is, and asked again after the worker was through."""
    for stops in ((first, second) for first in range(130, 141) for second in range(240, 252)):
        interleave(loses_its_turn, Run.work, 0, stops, worker_first=True)


@pytest.mark.long
@pytest.mark.parametrize("worker_first", [False, True])
@pytest.mark.parametrize("taken", [0, 1, 2])
@pytest.mark.parametrize("worker", WORKER)
@pytest.mark.parametrize("loop", LOOP)
def test_the_other_comes_in_between_whatever_they_do(loop: Any, worker: Any, taken: int, worker_first: bool) -> None:
    assert stop_everywhere(loop, worker, taken, worker_first) > 5


@pytest.mark.long
@pytest.mark.parametrize("worker_first", [False, True])
@pytest.mark.parametrize("worker", WORKER)
@pytest.mark.parametrize("loop", LOOP)
def test_both_are_stopped(loop: Any, worker: Any, worker_first: bool) -> None:
    random = Random(f"{loop.__name__} {worker.__name__} {worker_first}")
    stopped = []
    for _ in range(300):
        stops = random.randrange(1, 400), random.randrange(1, 400)
        stopped.append(interleave(loop, worker, random.randrange(4), stops, worker_first))
    assert (True, True) in stopped
