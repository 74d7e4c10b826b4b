"""Random work for a simulated network, with faults of every kind; checked as it runs, and at its end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from random import Random
from typing import Any

from zmqrel.core import tables
from zmqrel.core.commands import Connect, Forget, PurgeDead, RetryDead
from zmqrel.errors import Reject, RetryLater
from zmqrel.retry import Retry
from zmqrel.testing.bounds import BoundsChecker
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.checkers import Checker, Rules
from zmqrel.testing.disk import CrashPoint
from zmqrel.testing.links import LinkFaults
from zmqrel.testing.listener import Listener
from zmqrel.testing.mixes import MIXES, Mix, chosen, with_steps
from zmqrel.testing.network import Copy, Network
from zmqrel.testing.pace import Pace
from zmqrel.testing.peer import Delivery, Moving, SimulatedReceipt
from zmqrel.testing.sights import Sights
from zmqrel.testing.wire_checker import WireChecker

_QUEUES = ("a", "b", "c")
_KEYS = ("red", "green", None, None, None)
_CLOCK_ERRORS_S = (0, 3600, -3600, 2)
_QUIET_S = 600.0
_MAX_ATTEMPTS = 5
_BURST, _BACKLOG = 80, 120
_BURST_PROMPT_S = 4.0
"""A burst of `_BURST` takes one second with a fair share of the inbox, and eight if each grant is one message."""
_SMALL_BODY_BYTES = 1000
_LARGE_BODY_BYTES = 70_000
"""More than `_SMALL_BODY_BYTES` and the largest headers together."""


class Workload:
    """One run: random steps under faults, then quiet, then every promise is looked at."""

    def __init__(self, seed: int, mix: Mix) -> None:
        """Make the peers. One seed gives the same run."""
        self.pace = Pace()
        self.mix = mix = chosen(seed, mix)
        self.rng = Random(seed)
        self.network = Network(seed, faults=replace(mix.faults))
        self.names = [f"p{number}" for number in range(mix.peers)]
        self._victims = self.names[-1:] if mix.quiet_pairs else self.names
        rules = self._rules()
        self.checker = Checker(self.network, rules)
        self.wire = WireChecker(self.network, rules.healthy)
        self.bounds = BoundsChecker(self.network)
        self._sights = Sights(self.network)
        self.receipts: list[SimulatedReceipt] = []
        self._copies: dict[str, Copy] = {}
        self._bodies = 0
        self._quiet = False
        # What is sent again to a store that does not know it any more is another message.
        self._may_repeat = bool(mix.repeat) and not (
            mix.rollback or mix.store_loss or mix.power_loss or mix.capacity is not None
        )
        self._killers: set[Any] = set()
        self._busy: set[Any] = set()
        for name in self.names:
            self._make_peer(name)

    def _rules(self) -> Rules:
        mix = self.mix
        healthy = frozenset(self.names[:-1] if mix.quiet_pairs else ())
        # Half of the best round trip: of two frames, the turns that read them, and whatever makes them late.
        late_s = (mix.faults.late_s if mix.faults.late else 0.0) + (3.0 if mix.suspend else 0.0)
        error_s = 0.1 + mix.faults.delay_s[1] + late_s / 2
        prompt = frozenset(_QUEUES[:2] if mix.quiet_pairs else ())
        prompt_s = _BURST_PROMPT_S if mix.burst else 1.0
        return Rules(_MAX_ATTEMPTS, error_s, mix.skew, healthy, prompt, mix.told, prompt_s)

    def _make_peer(self, name: str) -> None:
        options: dict[str, Any] = {"durability": "relaxed" if self.mix.relaxed else "fsync"}
        if self.mix.tiny:
            options |= {"inbox_max_messages": self.rng.choice([2, 5, 12]), "window_bytes": 400, "prefetch": 2}
        elif self.mix.inbox_max_messages is not None:
            options["inbox_max_messages"] = self.mix.inbox_max_messages
        options |= {"prefetch": self.rng.choice([1, 4, 64]), "liveness_s": self.rng.choice([1.5, 4])}
        if self.mix.capacity is not None:
            options |= {"outcome_retention_s": 3, "dead_retention_s": 3}
        if self.mix.give_up:
            options["give_up_after_s"] = 2
        if self.mix.uncertain:
            options["on_store_loss"] = "uncertain"
        if self.mix.large and self.rng.random() < 0.5:
            options["max_body_bytes"] = _SMALL_BODY_BYTES
        dials = {other: self._dials(name, other) for other in self.names if other != name}
        if self.mix.skew:
            options |= {"drift": self.rng.uniform(-5e-5, 5e-5), "clock_error_s": self.rng.choice(_CLOCK_ERRORS_S)}
        self.network.peer(name, dials, capacity=self.mix.capacity, **options)
        for queue in _QUEUES[:2]:
            self._serve(name, queue)
        if self.mix.told:
            Listener(self.network, name)

    def _dials(self, name: str, other: str) -> bool:
        return name < other or Random(f"{self.network.seed} {other} {name}").random() < self.mix.both_dial

    def _serve(self, name: str, queue: str) -> None:
        duration = self.rng.choice([0.0, 0.01, 0.01 if self.mix.quiet_pairs else 0.3])
        self.network.handler(
            name,
            queue,
            self._handle,
            workers=self.rng.choice([1, 3]),
            duration=lambda delivery: self._duration(delivery, duration),
            retry=Retry.fixed(0.2, max_attempts=_MAX_ATTEMPTS),
            admit=self._admit if self.mix.refuse else None,
        )

    def _admit(self, _delivery: Delivery) -> bool:
        return self._quiet or self.rng.random() >= self.mix.refuse

    def _duration(self, delivery: Delivery, usual: float) -> float:
        return self.rng.random() * (4 if delivery.body in self._busy else 2 * usual)

    def _handle(self, delivery: Delivery) -> None:
        if delivery.body in self._killers and not self._quiet:
            self.network.crash(delivery.to)
            self._start_later(delivery.to)
            return
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
        self.pace.calms_down(self.network.now)
        self._calm_down()
        self._check_end()
        self.pace.ends(self.network.now)

    def _step(self) -> None:
        mix, rng = self.mix, self.rng
        for _ in range(rng.choice([0, 1, 1, 2, 20])):
            self._send()
        faults: list[tuple[float, Callable[[], None]]] = [
            (mix.recall, self._recall),
            (mix.recall_where, self._recall_where),
            (mix.dead, self._retry_or_purge_dead),
            (mix.forget, self._forget),
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
        rarer: list[tuple[float, Callable[[], None]]] = [
            (mix.suspend, self._suspend),
            (mix.damage, self._damage),
            (mix.impostor, self._impersonate),
            (mix.burst, self._burst),
        ]
        for chance, action in rarer:
            if chance and rng.random() < chance:
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
        body = self._body(arguments["queue"])
        self.receipts.append(self.network.send(sender, to, body, **arguments))
        if self._may_repeat and "id" in arguments and rng.random() < mix.repeat:
            again = partial(self._send_again, sender, to, body, arguments)
            self.network.after(rng.choice([0.0, 0.3, 3]), again)

    def _send_again(self, sender: str, to: str, body: Any, arguments: dict[str, Any]) -> None:
        """A caller is not sure whether its first call went through."""
        if self.network.peers[sender].running:
            self.network.send(sender, to, body, **arguments)

    def _burst(self) -> None:
        """Far more at once to one queue than is granted at once; what nobody serves fills the inbox."""
        sender, to = self.rng.sample(self.names, 2)
        queue = self.rng.choice([*_QUEUES[:2], *_QUEUES[2:] * 3])
        if not self.network.peers[sender].running:
            return
        count = _BACKLOG if queue == _QUEUES[2] else _BURST
        bodies = list(range(self._bodies + 1, self._bodies + count + 1))
        self._bodies += count
        self.receipts += self.network.peers[sender].send(to, bodies, queue=queue)

    def _body(self, queue: str) -> Any:
        mix, rng = self.mix, self.rng
        body: Any = self._bodies
        if mix.large and rng.random() < mix.large:
            body = f"{body} " + "x" * _LARGE_BODY_BYTES
        if mix.kill and rng.random() < mix.kill:
            self._killers.add(body)
        if mix.busy and rng.random() < mix.busy and not (mix.quiet_pairs and queue != _QUEUES[2]):
            self._busy.add(body)
        return body

    def _recall(self) -> None:
        recent = self.receipts[-40:]
        if recent:
            receipt = self.rng.choice(recent)
            self.network.recall(receipt)

    def _recall_where(self) -> None:
        peer = self.network.peers[self.rng.choice(self.names)]
        if peer.running:
            peer.recall_where(self.rng.choice(_QUEUES), self.rng.choice(_KEYS))

    def _forget(self) -> None:
        one, other = self._pair()
        peer = self.network.peers[one]
        if peer.running:
            self.network.observe("forgot", one, other)
            peer.command(Forget(other))
            peer.command(Connect(other, peer.peers[other]))

    def _retry_or_purge_dead(self) -> None:
        peer = self.network.peers[self.rng.choice(self.names)]
        if peer.running:
            first = self.rng.randrange(1, 5)
            peer.command(RetryDead(first) if self.rng.random() < 0.8 else PurgeDead(1, first))

    # -------------------------------------------------------------------------------------------- faults

    def _pair(self) -> list[str]:
        if self.mix.quiet_pairs:
            return [self._victims[0], self.rng.choice(self.names[:-1])]
        return self.rng.sample(self.names, 2)

    def _reconnect(self) -> None:
        self.network.reconnect(*self._pair())

    def _partition(self) -> None:
        one, other = self._pair()
        self.network.partition(one, other, one_way=self.rng.random() < 0.3)
        self.network.after(self.rng.choice([0.1, 1, 6]), lambda: self.network.heal(one, other))

    def _crash(self) -> None:
        name = self.rng.choice(self._victims)
        points: list[CrashPoint | None] = [None, "before commit", "after commit", "while sending"]
        at = self.rng.choice(points)
        self.network.crash(name, at, self.rng.randrange(3))
        self._start_later(name)

    def _close(self) -> None:
        name = self.rng.choice(self._victims)
        self.network.close(name)
        self._start_later(name)

    def _power_loss(self) -> None:
        name = self.rng.choice(self._victims)
        self.network.power_loss(name)
        self._start_later(name)

    def _blackout(self) -> None:
        for name in self.names:
            self.network.power_loss(name)
            self._start_later(name)

    def _lose_store(self) -> None:
        name = self.rng.choice(self._victims)
        self.network.crash(name)
        self.network.delete_store(name)
        self._start_later(name)

    def _suspend(self) -> None:
        self.network.suspend(self.rng.choice(self._victims), self.rng.choice([0.5, 3]))

    def _damage(self) -> None:
        """A byte of a row that holds a message, or what is told of messages, is flipped on the disk."""
        self.network.damage(self.rng.choice(self._victims), self.rng)

    def _impersonate(self) -> None:
        self.network.impersonate(self.rng.choice(self._victims))

    def _roll_back(self) -> None:
        name = self.rng.choice(self._victims)
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
        error_s = self.rng.choice(_CLOCK_ERRORS_S)
        self.network.peers[self.rng.choice(self._victims)].hardware.wall_error_us = error_s * 1_000_000

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
                retry = Retry.fixed(0.2, max_attempts=_MAX_ATTEMPTS)
                self.network.handler(name, queue, self._handle, workers=3, duration=0.001, retry=retry)
        self.network.advance(0.5)
        if not self.network.until(self._is_quiet, _QUIET_S):
            self.checker.check_all_ended()
            raise PromiseBroken(f"something is left after {_QUIET_S:g} quiet seconds: {self.left()}")

    def _is_quiet(self) -> bool:
        # Looked at twice a second: a look takes far longer than a step.
        if self.network.now < self._next_look:
            return False
        self._next_look = self.network.now + 0.5
        if not all(r.outcome or r.forgotten or not r.accepted for r in self.receipts):
            return False
        return not self.left() and not self.checker.untold()

    _next_look = 0.0

    def seen(self) -> Counter[str]:
        """What happened, and how often; see sights.py."""
        return self.checker.seen + self.wire.seen + self._sights.counters()

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
    described = with_steps(MIXES[mix], steps)
    try:
        workload = Workload(seed, described)
        workload.run()
    except Exception as error:
        again = f"again: python -m zmqrel.testing {mix!r} {seed} {described.steps}"
        error.args = (f"{error}\nseed {seed} of {mix!r} after {described.steps} steps; {again}",)
        raise
    return workload
