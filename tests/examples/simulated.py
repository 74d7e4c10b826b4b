"""Whole programs on the simulated network: code that calls a Peer and waits, in virtual time, and dies at any moment.

`Program` is to such code what zmqrel.Peer is, over a peer of zmqrel.testing.Network; its books are real files. A call
that waits lets the network go on until it has its answer: other programs' handlers run inside that wait, on top of
this one on the stack. A program dies between any two of its doings, and at any point of a commit of its store: what it
does between two calls of its peer is in books or nowhere, so dying there is dying at the next call.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from random import Random
from typing import Any

from zmqrel import Outcome, Retry, UnknownMessage, Verdict
from zmqrel.core import commands as c
from zmqrel.testing import Delivery, Network, SimulatedReceipt
from zmqrel.testing.disk import CrashPoint, ProcessDied

LOOK_EVERY_S = 0.05
AGAIN_S = 0.2
LATEST_S = 300.0
# Kills between two calls of a peer: the chance at each; and at the store's commits: until when.
CHANCE = 0.01
FAULTS_FOR_S = 5.0

Setup = Callable[["Program"], None]


class Receipt:
    """A message that has ended, as a callback of on_outcome sees it."""

    def __init__(self, found: c.Found) -> None:
        assert found.ended is not None
        self.id, self.to, self.queue, self.key = found.id, found.lane.peer, found.lane.queue, found.key
        self.outcome, self.reason, self.attempts = found.ended.outcome, found.ended.reason, found.ended.attempts


class Recalled:
    """What Recall tells."""

    def __init__(self, verdict: Verdict) -> None:
        self.verdict = verdict


class Program:
    """One life of a program: what its code calls `peer`."""

    def __init__(self, world: World, name: str) -> None:
        self._world = world
        self.name = name
        self._listeners: list[tuple[frozenset[Outcome], str | None, str | None, Callable[[Any], object]]] = []

    def begin(self) -> None:
        """The peer is started."""
        self._life = self._peer.life
        if self._listeners:
            self._peer.command(c.Subscribe())
            self._tell_later()

    @property
    def _peer(self) -> Any:
        return self._world.network.peers[self.name]

    @property
    def is_dead(self) -> bool:
        return bool(self._peer.life != self._life)

    def maybe_die(self) -> None:
        """Here the process may be killed."""
        if self.is_dead:
            raise ProcessDied
        if self._world.dies(self.name):
            self._peer.die()
            raise ProcessDied

    def wait(self, reached: Callable[[], bool], timeout: float = LATEST_S) -> bool:
        """Let the network go on until it is so; False after `timeout`."""
        reached_in_time = self._world.network.until(lambda: self.is_dead or reached(), timeout)
        if self.is_dead:
            raise ProcessDied
        return reached_in_time

    def sleep(self, seconds: float) -> None:
        self.wait(lambda: False, seconds)

    def ask(self, command: Any) -> Any:
        """Have a command answered by the core."""
        answers: list[Any] = []
        self.maybe_die()
        self._peer.command(command, answers.append)
        assert self.wait(lambda: bool(answers)), f"{self.name} had no answer to {command}"
        if isinstance(answers[0], BaseException):
            raise answers[0]
        self.maybe_die()
        return answers[0]

    # What zmqrel.Peer offers

    def handler(self, queue: str, *, workers: int = 1, retry: Retry) -> Callable[[Any], Any]:
        def register(function: Callable[[Any], object]) -> Callable[[Any], object]:
            def call(delivery: Delivery) -> None:
                delivery.sent_at = datetime.fromtimestamp(0, timezone.utc)  # type: ignore[attr-defined]
                try:
                    function(delivery)
                    self.maybe_die()
                except ProcessDied:
                    return  # nobody is there any more to hear of it

            self._world.network.handler(
                self.name, queue, call, workers=workers, duration=lambda _: self._world.rng.random() * 0.05, retry=retry
            )
            return function

        return register

    def on_outcome(self, *outcomes: Outcome, to: str | None = None, queue: str | None = None) -> Callable[[Any], Any]:
        def register(function: Callable[[Any], object]) -> Callable[[Any], object]:
            self._listeners.append((frozenset(outcomes), to, queue, function))
            return function

        return register

    def send(self, to: str, body: Any, *, room_timeout: float = 0, **arguments: Any) -> None:
        receipts: list[SimulatedReceipt] = []
        self.maybe_die()
        receipts += self._peer.send(to, [body], **arguments)
        assert self.wait(lambda: receipts[0].accepted or receipts[0].error is not None)
        if receipts[0].error is not None:
            raise receipts[0].error
        self.maybe_die()

    send_nowait = send

    def flush(self) -> None:
        """Nothing waits: `send_nowait` did."""

    def stats(self) -> dict[str, int]:
        found: dict[str, int] = self._peer.engine.stats()
        return found

    def recall(self, name: str, *, timeout: float = 0) -> Recalled:
        found: c.Found | None = self.ask(c.Find(name))
        if found is None:
            raise UnknownMessage(name)
        return self._recall(found, timeout)

    def recall_where(self, *, to: str, queue: str, key: str, timeout: float = 0) -> list[Recalled]:
        found: list[c.Found] = self.ask(c.RecallWhere(to=to, queue=queue, key=key))
        return [self._recall(each, timeout) for each in found]

    def _recall(self, found: c.Found, timeout: float) -> Recalled:
        if found.ended is None:
            self.ask(c.Recall([(found.lane.no, found.seq)]))
        receipt: SimulatedReceipt = self._peer.receipts[found.lane.id, found.seq]
        self.wait(lambda: receipt.verdict is not Verdict.PENDING, timeout)
        return Recalled(receipt.verdict)

    # Outcomes: in a thread of its own in a real peer

    def _tell_later(self) -> None:
        self._world.network.after(LOOK_EVERY_S, self._tell)

    def _tell(self) -> None:
        if self.is_dead:
            return
        try:
            self._tell_all()
        except ProcessDied:
            return
        self._tell_later()

    def _tell_all(self) -> None:
        upto, found = self.ask(c.TakeOutcomes())
        for each in found:
            for outcomes, to, queue, function in self._listeners:
                wanted = not outcomes or each.ended.outcome in outcomes
                if wanted and to in (None, each.lane.peer) and queue in (None, each.lane.queue):
                    self._call(function, Receipt(each))
        if found:
            self.ask(c.ToldOutcomes(upto))

    def _call(self, function: Callable[[Any], object], receipt: Receipt) -> None:
        while True:
            try:
                function(receipt)
                self.maybe_die()
                return
            except Exception:  # as a real peer, whatever it is: it is called again
                self.sleep(AGAIN_S)


class World:
    """Programs on a network, and the schedule by which they are killed: one seed, one run."""

    def __init__(self, seed: int, deaths: int) -> None:
        self.rng = Random(seed)
        self.network = Network(seed)
        self.deaths = 0
        self._left = deaths
        self._setups: dict[str, Setup] = {}
        self._programs: dict[str, Program] = {}

    def add(self, name: str, peers: dict[str, bool], setup: Setup) -> None:
        """A program; `setup` is called with each life of it before its peer is started. `peers` as for Network.peer."""
        self._setups[name] = setup
        self.network.peer(name, peers)
        self.network.close(name)

    def start(self) -> None:
        """Start all, and kill now and then."""
        for name in self._setups:
            self._start(name)
        self.network.watch(self._watch)
        for _ in range(self._left):
            self.network.after(self.rng.uniform(0, FAULTS_FOR_S), self._kill)

    def program(self, name: str) -> Program:
        """The present life, None of it over."""
        return self._programs[name]

    def _start(self, name: str) -> None:
        program = self._programs[name] = Program(self, name)
        self._setups[name](program)
        self.network.restart(name)
        program.begin()

    def dies(self, name: str) -> bool:
        """Whether the program is to be killed right here."""
        if self._left <= 0 or self.rng.random() >= CHANCE:
            return False
        self._left -= 1
        return True

    def _kill(self) -> None:
        """Kill some program: now, or at one of its next commits."""
        name = self.rng.choice(list(self._setups))
        points: list[CrashPoint | None] = [None, "before commit", "after commit", "while sending"]
        self.network.crash(name, self.rng.choice(points), self.rng.randrange(5))

    def _watch(self, what: str, *details: Any) -> None:
        if what == "stopped":
            self.deaths += 1
            self.network.after(self.rng.uniform(0.05, 1.0), lambda: self._start(details[0]))
