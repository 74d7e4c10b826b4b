"""Random work for a simulated network, with faults of every kind; checked as it runs, and at its end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from zmqrel.core import tables
from zmqrel.core.commands import PurgeDead, RecallWhere, RetryDead
from zmqrel.errors import Reject, RetryLater
from zmqrel.retry import Retry
from zmqrel.testing.checkers import Checker, PromiseBroken
from zmqrel.testing.disk import CrashPoint
from zmqrel.testing.links import LinkFaults
from zmqrel.testing.network import Copy, Network
from zmqrel.testing.peer import Delivery, Moving, SimulatedReceipt

_QUEUES = ("a", "b", "c")
_KEYS = ("red", "green", None, None, None)
_QUIET_S = 600.0


@dataclass(frozen=True, slots=True)
class Mix:
    """What may happen, and how often: chances per step of the workload, of which there are about ten a second."""

    peers: int = 2
    steps: int = 200
    both_dial: float = 0.5
    faults: LinkFaults = field(default_factory=LinkFaults)
    recall: float = 0.15
    recall_where: float = 0.01
    ttl: float = 0.2
    delay: float = 0.1
    fail: float = 0.1
    reconnect: float = 0.0
    partition: float = 0.0
    crash: float = 0.0
    power_loss: float = 0.0
    blackout: float = 0.0
    """All machines lose power at once, so that nobody remembers what was flushed nowhere."""
    store_loss: float = 0.0
    rollback: float = 0.0
    close: float = 0.0
    relaxed: bool = False
    tiny: bool = False
    """Small limits everywhere, so that credit and windows are always short."""
    capacity: int | None = None
    """Bytes in each store."""
    refuse: float = 0.0
    """How often `admit` says no."""
    dead: float = 0.0
    """Dead letters are retried, or purged."""
    skew: bool = False
    """Wall clocks hours apart, stepped now and then; clocks that drift."""


_BAD_LINKS = LinkFaults(delay_s=(0.0005, 0.05), loss=0.05, duplication=0.05, breaks=0.01, late=0.3)
MIXES: dict[str, Mix] = {
    "calm": Mix(),
    "links": Mix(faults=_BAD_LINKS, reconnect=0.02, partition=0.03),
    "crashes": Mix(faults=_BAD_LINKS, crash=0.05, close=0.02),
    "all but losses": Mix(peers=3, faults=_BAD_LINKS, partition=0.02, crash=0.03, close=0.01, reconnect=0.01),
    "relaxed": Mix(faults=_BAD_LINKS, relaxed=True, crash=0.03, close=0.01),
    "power": Mix(faults=_BAD_LINKS, power_loss=0.03, blackout=0.01, crash=0.02),
    "relaxed power": Mix(faults=_BAD_LINKS, relaxed=True, power_loss=0.03, blackout=0.02, crash=0.02),
    "store loss": Mix(faults=_BAD_LINKS, store_loss=0.02, crash=0.02, partition=0.02),
    "rollback": Mix(faults=_BAD_LINKS, rollback=0.03, crash=0.02, partition=0.02),
    "tiny": Mix(faults=_BAD_LINKS, tiny=True, crash=0.02),
    "full": Mix(faults=_BAD_LINKS, capacity=60_000, crash=0.02),
    "conditions": Mix(faults=_BAD_LINKS, refuse=0.2, dead=0.2, fail=0.3, ttl=0.5, recall=0.4, crash=0.03, close=0.01),
    "refused and rolled back": Mix(faults=_BAD_LINKS, refuse=0.2, dead=0.2, recall=0.4, rollback=0.03, power_loss=0.02),
    "clocks": Mix(faults=_BAD_LINKS, skew=True, ttl=0.6, delay=0.2, crash=0.03),
    "everything": Mix(
        peers=3, faults=_BAD_LINKS, partition=0.02, crash=0.02, power_loss=0.01, store_loss=0.01, rollback=0.01,
        close=0.01, reconnect=0.01, skew=True,
    ),
}  # fmt: skip
"""Workloads by name."""


class Workload:
    """One run: random steps under faults, then quiet, then every promise is looked at."""

    def __init__(self, seed: int, mix: Mix) -> None:
        """Make the peers. One seed gives the same run."""
        self.mix = mix
        self.rng = Random(seed)
        self.network = Network(seed, faults=replace(mix.faults))
        self.checker = Checker(self.network)
        self.names = [f"p{number}" for number in range(mix.peers)]
        self.receipts: list[SimulatedReceipt] = []
        self._copies: dict[str, Copy] = {}
        self._bodies = 0
        self._quiet = False
        self._plans: dict[Any, str] = {}
        for name in self.names:
            self._make_peer(name)

    def _make_peer(self, name: str) -> None:
        options: dict[str, Any] = {"durability": "relaxed" if self.mix.relaxed else "fsync"}
        if self.mix.tiny:
            options |= {"inbox_max_messages": self.rng.choice([2, 5, 12]), "window_bytes": 400, "prefetch": 2}
        options |= {"prefetch": self.rng.choice([1, 4, 64]), "liveness_s": self.rng.choice([1.5, 4])}
        if self.mix.capacity is not None:
            options |= {"outcome_retention_s": 3, "dead_retention_s": 3}
        dials = {other: self._dials(name, other) for other in self.names if other != name}
        peer = self.network.peer(name, dials, capacity=self.mix.capacity, **options)
        if self.mix.skew:
            peer.hardware.drift = self.rng.uniform(-5e-5, 5e-5)
        for queue in _QUEUES[:2]:
            self._serve(name, queue)

    def _dials(self, name: str, other: str) -> bool:
        return name < other or Random(f"{self.network.seed} {other} {name}").random() < self.mix.both_dial

    def _serve(self, name: str, queue: str) -> None:
        duration = self.rng.choice([0.0, 0.01, 0.3])
        self.network.handler(
            name,
            queue,
            self._handle,
            workers=self.rng.choice([1, 3]),
            duration=lambda _: self.rng.random() * 2 * duration,
            retry=Retry.fixed(0.2, max_attempts=5),
            admit=self._admit if self.mix.refuse else None,
        )

    def _admit(self, _delivery: Delivery) -> bool:
        return self._quiet or self.rng.random() >= self.mix.refuse

    def _handle(self, delivery: Delivery) -> None:
        if self._quiet or self.rng.random() >= self.mix.fail:
            return
        what = self.rng.randrange(5)
        if what == 0:
            raise Reject("no")
        if what == 1:
            raise RetryLater(self.rng.random())
        if what == 2 and delivery.origin_id is None:
            raise Moving(self.rng.choice(_QUEUES))
        raise RuntimeError("failed")

    # --------------------------------------------------------------------------------------------- steps

    def run(self) -> None:
        """All of it. Raises PromiseBroken, or whatever the core raised."""
        for _ in range(self.mix.steps):
            self._step()
            self.network.advance(self.rng.random() * 0.2)
        self._calm_down()
        self._check_end()

    def _step(self) -> None:
        mix, rng = self.mix, self.rng
        for _ in range(rng.choice([0, 1, 1, 2, 20])):
            self._send()
        faults: list[tuple[float, Callable[[], None]]] = [
            (mix.recall, self._recall),
            (mix.recall_where, self._recall_where),
            (mix.dead, self._retry_or_purge_dead),
            (mix.reconnect, self._reconnect),
            (mix.partition, self._partition),
            (mix.crash, self._crash),
            (mix.close, self._close),
            (mix.power_loss, self._power_loss),
            (mix.blackout, self._blackout),
            (mix.store_loss, self._lose_store),
            (mix.rollback, self._roll_back),
            (0.05 if mix.skew else 0.0, self._step_clock),
        ]
        for chance, action in faults:
            if rng.random() < chance:
                action()

    def _send(self) -> None:
        mix, rng = self.mix, self.rng
        sender, to = rng.sample(self.names, 2)
        if not self.network.peers[sender].running:
            return
        self._bodies += 1
        arguments: dict[str, Any] = {"queue": rng.choice(_QUEUES), "key": rng.choice(_KEYS)}
        if rng.random() < mix.ttl:
            arguments["ttl"] = rng.choice([0.05, 0.5, 3])
        if rng.random() < mix.delay:
            arguments["delay"] = rng.random() * 3
            arguments["ttl"] = arguments["delay"] + arguments["ttl"] if "ttl" in arguments else None
        if rng.random() < 0.3:
            arguments["id"] = f"id-{self._bodies}"
        if rng.random() < 0.05:
            arguments["max_attempts"] = 1
        if rng.random() < 0.2:
            arguments["headers"] = {"pad": "x" * rng.choice([10, 300])}
        self.receipts.append(self.network.send(sender, to, self._bodies, **arguments))

    def _recall(self) -> None:
        recent = self.receipts[-40:]
        if recent:
            receipt = self.rng.choice(recent)
            self.network.recall(receipt)

    def _recall_where(self) -> None:
        peer = self.network.peers[self.rng.choice(self.names)]
        if peer.running:
            peer.command(RecallWhere(queue=self.rng.choice(_QUEUES), key=self.rng.choice(_KEYS)))

    def _retry_or_purge_dead(self) -> None:
        peer = self.network.peers[self.rng.choice(self.names)]
        if peer.running:
            first = self.rng.randrange(1, 5)
            peer.command(RetryDead(first) if self.rng.random() < 0.8 else PurgeDead(1, first))

    # -------------------------------------------------------------------------------------------- faults

    def _pair(self) -> list[str]:
        return self.rng.sample(self.names, 2)

    def _reconnect(self) -> None:
        self.network.reconnect(*self._pair())

    def _partition(self) -> None:
        one, other = self._pair()
        self.network.partition(one, other, one_way=self.rng.random() < 0.3)
        self.network.after(self.rng.choice([0.1, 1, 6]), lambda: self.network.heal(one, other))

    def _crash(self) -> None:
        name = self.rng.choice(self.names)
        points: list[CrashPoint | None] = [None, "before commit", "after commit", "while sending"]
        at = self.rng.choice(points)
        self.network.crash(name, at, self.rng.randrange(3))
        self._start_later(name)

    def _close(self) -> None:
        name = self.rng.choice(self.names)
        self.network.close(name)
        self._start_later(name)

    def _power_loss(self) -> None:
        name = self.rng.choice(self.names)
        self.network.power_loss(name)
        self._start_later(name)

    def _blackout(self) -> None:
        for name in self.names:
            self.network.power_loss(name)
            self._start_later(name)

    def _lose_store(self) -> None:
        name = self.rng.choice(self.names)
        self.network.crash(name)
        self.network.delete_store(name)
        self._start_later(name)

    def _roll_back(self) -> None:
        name = self.rng.choice(self.names)
        copy = self._copies.pop(name, None)
        if copy is None:
            self._copies[name] = self.network.backup(name)
            return
        self.network.crash(name)
        self.network.restore(name, copy)
        self._start_later(name)

    def _start_later(self, name: str) -> None:
        self.network.after(self.rng.choice([0.0, 0.3, 3]), lambda: self.network.restart(name))

    def _step_clock(self) -> None:
        self.network.peers[self.rng.choice(self.names)].hardware.wall_error_us = self.rng.choice(
            [0, 3_600_000_000, -3_600_000_000, 2_000_000]
        )

    # --------------------------------------------------------------------------------------------- the end

    def _calm_down(self) -> None:
        """Faults stop, every queue is served, handlers do their work."""
        self.network.advance(7)
        self._quiet = True
        self.network.links.faults = LinkFaults()
        self.network.heal()
        for name in self.names:
            self.network.restart(name)
            peer = self.network.peers[name]
            peer.disk.survive()
            for queue in _QUEUES:
                self.network.handler(name, queue, self._handle, workers=3, duration=0.001)
        self.network.advance(0.5)
        if not self.network.until(self._is_quiet, _QUIET_S):
            self.checker.check_all_ended()
            raise PromiseBroken(f"something is left after {_QUIET_S:g} quiet seconds: {self.left()}")

    def _is_quiet(self) -> bool:
        # Looked at twice a second: a look takes far longer than a step.
        if self.network.now < self._next_look:
            return False
        self._next_look = self.network.now + 0.5
        return not self.left() and all(r.outcome or r.forgotten or not r.accepted for r in self.receipts)

    _next_look = 0.0

    def left(self) -> dict[str, int]:
        """What lies in the stores though it should be gone: peer and table, and how many rows."""
        found: dict[str, int] = {}
        for name in self.names:
            found |= leftovers(self.network, name)
        return found

    def _check_end(self) -> None:
        self.checker.check_all_ended()


_MUST_BE_EMPTY = {
    "OUTBOX": tables.OUTBOX,
    "WITHDRAWN": tables.WITHDRAWN,
    "OUT_DEADLINE": tables.OUT_DEADLINE,
    "INBOX": tables.INBOX,
    "ROW_STATE": tables.ROW_STATE,
    "WAITING": tables.WAITING,
    "KEYED": tables.KEYED,
    "IN_DEADLINE": tables.IN_DEADLINE,
    "TOMBSTONE": tables.TOMBSTONE,
    "SUSPECT": tables.SUSPECT,
}


def leftovers(network: Network, name: str) -> dict[str, int]:
    """What a peer's store holds beside the past, once every message has ended: table, and how many rows."""
    peer = network.peers[name]
    if not peer.running:
        return {f"{name} does not run": 1}
    found = {}
    control = {lane.no for lane in peer.engine.shared.out_lanes.values() if not lane.queue}
    for table_name, table in _MUST_BE_EMPTY.items():
        keys = peer.disk.keys(*tables.table_bounds(table), 2**31)
        if table == tables.OUTBOX:
            keys = [key for key in keys if tables.split_lane_seq(key)[0] not in control]
        if keys:
            found[f"{name} {table_name}"] = len(keys)
    stats = peer.engine.stats()
    for counter in ("outbox_messages", "outbox_bytes", "inbox_messages", "inbox_bytes"):
        if stats[counter]:
            found[f"{name} {counter}"] = stats[counter]
    return found


def run(seed: int, mix: str, steps: int | None = None) -> Workload:
    """Run the workload of that name with that seed, for so many steps or as many as its mix says.

    Raises PromiseBroken, or whatever a peer raised, with a note that says how to run it again.
    """
    chosen = MIXES[mix] if steps is None else replace(MIXES[mix], steps=steps)
    try:
        workload = Workload(seed, chosen)
        workload.run()
    except Exception as error:
        again = f"again: python -m zmqrel.testing {mix!r} {seed} {chosen.steps}"
        error.args = (f"{error}\nseed {seed} of {mix!r} after {chosen.steps} steps; {again}",)
        raise
    return workload
