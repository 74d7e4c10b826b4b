"""Random work for a simulated network, with faults of every kind; checked as it runs, and at its end.

Whatever is left to chance is drawn by who needs it from a generator of its own, made of the seed and of what it is for:
each action of each step, each attempt of each handler. So parts of a run can be left out while the others stay.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import replace
from random import Random
from typing import Any

from zmqrel.errors import Reject, RetryLater
from zmqrel.retry import Retry
from zmqrel.testing.actions import CLOCK_ERRORS_S, QUEUES, SMALL_BODY_BYTES, Actions
from zmqrel.testing.bounds import BoundsChecker
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.checkers import Checker, Rules
from zmqrel.testing.keys import Keys
from zmqrel.testing.leftovers import leftovers
from zmqrel.testing.links import LinkFaults
from zmqrel.testing.listener import Listener
from zmqrel.testing.mixes import Mix, chosen, kinds_of, without
from zmqrel.testing.network import Network
from zmqrel.testing.pace import Pace
from zmqrel.testing.peer import Delivery, Moving
from zmqrel.testing.permission_checker import PermissionChecker
from zmqrel.testing.sights import Sights
from zmqrel.testing.wire_checker import WireChecker

_QUIET_S = 600.0
_MAX_ATTEMPTS = 5
_BURST_PROMPT_S = 6.0
"""A burst takes one second with a fair share of the inbox, three with what twelve lanes leave of it to each (five
messages), and eight if each grant is one message."""


class Workload:
    """One run: random steps under faults, then quiet, then every promise is looked at."""

    def __init__(self, seed: int, mix: Mix, kept: Collection[str] | None = None) -> None:
        """Make the peers. One seed gives the same run.

        `kept`, if given, are the kinds and actions (as in `parts`) that it is to consist of; all else is left out.
        """
        self.pace = Pace()
        mix = chosen(seed, mix)
        self.parts = [kind for kind in kinds_of(mix) if kept is None or kind in kept]
        """What it consisted of so far: kinds of chance ("loss"), and actions with the step of each ("12:send0")."""
        self.mix = mix = mix if kept is None else without(mix, set(kinds_of(mix)).difference(kept))
        self.step = 0
        self.network = Network(seed, faults=replace(mix.faults))
        self.names = [f"p{number}" for number in range(mix.peers)]
        self.actions = Actions(self.network, mix, self.names)
        rules = self._rules()
        self.checker = Checker(self.network, rules)
        self.wire = WireChecker(self.network, rules.healthy)
        self.bounds = BoundsChecker(self.network)
        PermissionChecker(self.network)
        self._sights = Sights(self.network)
        self._seed = seed
        self._kept = None if kept is None else frozenset(kept)
        self._first_step = 0 if kept is None else min(map(_step_of, kept), default=0)
        self._quiet = False
        self._asked: Counter[tuple[Any, ...]] = Counter()
        """What was left to chance in handlers, and how often."""
        if self.mix.keys:
            self.network.keys = Keys(self.network)
        for name in self.names:
            self._make_peer(name)

    def _rules(self) -> Rules:
        mix = self.mix
        healthy = frozenset(self.names[:-1] if mix.quiet_pairs else ())
        # Half of the best round trip: of two frames, the turns that read them, and whatever makes them late.
        late_s = (mix.faults.late_s if mix.faults.late else 0.0) + (3.0 if mix.suspend else 0.0)
        error_s = 0.1 + mix.faults.delay_s[1] + late_s / 2
        prompt = frozenset(QUEUES[:2] if mix.quiet_pairs else ())
        prompt_s = _BURST_PROMPT_S if mix.burst else 1.0
        return Rules(_MAX_ATTEMPTS, error_s, mix.skew, healthy, prompt, mix.told, prompt_s)

    def _make_peer(self, name: str) -> None:
        rng = self._chance(name)
        options: dict[str, Any] = {"durability": "relaxed" if self.mix.relaxed else "fsync"}
        if self.mix.tiny:
            options |= {"inbox_max_messages": rng.choice([2, 5, 12]), "window_bytes": 400, "prefetch": 2}
        elif self.mix.inbox_max_messages is not None:
            options["inbox_max_messages"] = self.mix.inbox_max_messages
        options |= {"prefetch": rng.choice([1, 4, 64]), "liveness_s": rng.choice([1.5, 4])}
        if self.mix.capacity is not None:
            options |= {"outcome_retention_s": 3, "dead_retention_s": 3}
        if self.mix.give_up:
            options["give_up_after_s"] = 2
        if self.mix.uncertain:
            options["on_store_loss"] = "uncertain"
        if self.mix.large and rng.random() < 0.5:
            options["max_body_bytes"] = SMALL_BODY_BYTES
        if self.mix.permissions:
            options["permissions"] = {"peers": {each: self._permission(name, each) for each in self.names}}
        dials = {other: self._dials(name, other) for other in self.names if other != name}
        if self.mix.skew:
            options |= {"drift": rng.uniform(-5e-5, 5e-5), "clock_error_s": rng.choice(CLOCK_ERRORS_S)}
        self.network.peer(name, dials, capacity=self.mix.capacity, **options)
        for queue in QUEUES[:2]:
            self._serve(name, queue, rng)
        if self.mix.told:
            Listener(self.network, name)

    def _permission(self, name: str, other: str) -> dict[str, Any]:
        rng = self._chance(name, other, "permissions")
        return {"queues": rng.choice([[], ["a"], ["b", "c"], ["*"]]), "recall": rng.random() < 0.5}

    def _dials(self, name: str, other: str) -> bool:
        return name < other or self._chance(other, name).random() < self.mix.both_dial

    def _serve(self, name: str, queue: str, rng: Random) -> None:
        duration = rng.choice([0.0, 0.01, 0.01 if self.mix.quiet_pairs else 0.3])
        self.network.handler(
            name,
            queue,
            self._handle,
            workers=rng.choice([1, 3]),
            duration=lambda delivery: self._duration(delivery, duration),
            retry=Retry.fixed(0.2, max_attempts=_MAX_ATTEMPTS),
            admit=self._admit if self.mix.refuse else None,
        )

    def _chance(self, *what: Any) -> Random:
        """What is left to chance in one thing."""
        return Random(f"{self._seed} {what}")

    def _of_delivery(self, what: str, delivery: Delivery) -> Random:
        # Not the attempt: a message that is moved begins anew with it, and would be moved for ever.
        which = (what, delivery.to, delivery.origin_id and delivery.id, str(delivery.body)[:20])
        self._asked[which] += 1
        return self._chance(*which, self._asked[which])

    def _admit(self, delivery: Delivery) -> bool:
        return self._quiet or self._of_delivery("admit", delivery).random() >= self.mix.refuse

    def _duration(self, delivery: Delivery, usual: float) -> float:
        most = 4 if delivery.body in self.actions.busy else 2 * usual
        return self._of_delivery("duration", delivery).random() * most if most else 0.0

    def _handle(self, delivery: Delivery) -> None:
        if self._quiet:
            return
        rng = self._of_delivery("handle", delivery)
        if delivery.body in self.actions.killers:
            self.network.crash(delivery.to)
            self.network.after(rng.choice([0.0, 0.3, 3]), lambda: self.actions.start(delivery.to))
            return
        if rng.random() >= self.mix.fail:
            return
        what = rng.randrange(5)
        if what == 0:
            raise Reject("no")
        if what == 1:
            raise RetryLater(rng.random())
        if what == 2 and delivery.origin_id is None:
            self.actions.done["moved"] += 1
            raise Moving(rng.choice(QUEUES))
        raise RuntimeError("failed")

    # --------------------------------------------------------------------------------------------- steps

    def run(self) -> None:
        """All of it. Raises PromiseBroken, or whatever the core raised."""
        for step in range(self._first_step, self.mix.steps):
            self.step = step
            self._step()
            self.network.advance(self._chance(self.step, "pause").random() * self.mix.pause_s)
        self.pace.calms_down(self.network.now)
        self._calm_down()
        self._check_end()
        self.pace.ends(self.network.now)

    def _step(self) -> None:
        for name in self.actions.drawn(self.step, self._chance(self.step)):
            part = f"{self.step}:{name}"
            if self._kept is None or part in self._kept:
                self.parts.append(part)
                said = self.actions.do(self.step, name, self._chance(self.step, name))
                self.network.observe("action", part, said)

    # --------------------------------------------------------------------------------------------- the end

    def _calm_down(self) -> None:
        """Faults stop, every queue is served, handlers do their work."""
        self.network.advance(7)
        self._quiet = True
        self.network.links.faults = LinkFaults()
        self.network.heal()
        for name in self.names:
            self.network.free_disk(name)
            self.network.fail_commits(name, 0)
            self.actions.start(name)
            for queue in QUEUES:
                retry = Retry.fixed(0.2, max_attempts=_MAX_ATTEMPTS)
                self.network.handler(name, queue, self._handle, workers=3, duration=0.001, retry=retry)
        self.actions.forget_gone()
        self.network.advance(0.5)
        if not self.network.until(self._is_quiet, _QUIET_S):
            self.checker.check_all_ended()
            raise PromiseBroken(f"something is left after {_QUIET_S:g} quiet seconds: {self.left()}")

    def _is_quiet(self) -> bool:
        # Looked at twice a second: a look takes far longer than a step.
        if self.network.now < self._next_look:
            return False
        self._next_look = self.network.now + 0.5
        if not all(r.outcome or r.forgotten or not r.accepted for r in self.actions.receipts):
            return False
        return not self.left() and not self.checker.untold()

    _next_look = 0.0

    def seen(self) -> Counter[str]:
        """What happened, and how often; see sights.py."""
        return self.checker.seen + self.wire.seen + self._sights.counters() + self.actions.done

    def left(self) -> dict[str, int]:
        """What lies in the stores though it should be gone: peer and table, and how many rows."""
        found: dict[str, int] = {}
        for name in self.names:
            if name in self.actions.gone:
                continue
            found |= left_by(self.network, name)
        return found

    def _check_end(self) -> None:
        self.checker.check_all_ended()


def left_by(network: Network, name: str) -> dict[str, int]:
    """What a peer has left once every message has ended; see leftovers.py."""
    peer = network.peers[name]
    if not peer.running:
        return {f"{name} does not run": 1}
    return {f"{name} {what}": number for what, number in leftovers(peer.disk, peer.engine.stats()).items()}


def _step_of(part: str) -> int:
    step = part.partition(":")[0]
    return int(step) if step.isdigit() else 2**31
