"""Three nodes that all send to each other, killed, stopped and cut off from each other at random while they do."""

from __future__ import annotations

import heapq
import json
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from queue import Empty, Queue
from time import monotonic
from typing import Any, Final

from tests.real.net import LIMIT_S, Net
from tests.real.processes import ROOT, Child, Nursery
from tests.real.soak.gate import Proxy
from tests.real.soak.record import Hold, now_us

NAMES: Final = ("anna", "bert", "cora")
"""Each dials the next one, through a gate."""
_LOOK_S = 0.1


@dataclass(frozen=True)
class Plan:
    """What a run is made of."""

    messages: int | None = None
    """That each node sends; None: as many as there is time."""
    minutes: float = 0.0
    """How long, without a number of messages."""
    kills: int = 0
    stops: int = 0
    partitions: int = 0
    """How many faults of each kind, spread over the run at random."""
    spared: frozenset[str] = frozenset()
    """Nodes that are not killed: what they keep in memory is kept for the whole run."""
    ahead: int = 2_000
    rate: float | None = None
    """Messages a second that each node sends at most."""
    seed: int = 0
    durability: str = "fsync"
    outcome_retention_s: float = 86_400
    """If less than the run lasts, outcomes are not looked up once more at its end."""


@dataclass
class Progress:
    """How a run goes."""

    began: float = field(default_factory=monotonic)
    sent: dict[str, int] = field(default_factory=lambda: dict.fromkeys(NAMES, 0))
    sent_all: dict[str, bool] = field(default_factory=lambda: dict.fromkeys(NAMES, False))
    levels: dict[str, dict[str, int]] = field(default_factory=lambda: {name: {} for name in NAMES})
    faults: Counter[str] = field(default_factory=Counter)
    seen: dict[tuple[str, int], Counter[str]] = field(default_factory=dict)
    """(node, when its life began) -> what it counted in it."""

    def total(self) -> Counter[str]:
        """What all nodes counted, over all their lives; a killed one did not tell its last moments."""
        return sum(self.seen.values(), Counter())

    @property
    def elapsed_s(self) -> float:
        """Since it began."""
        return monotonic() - self.began


class Triangle:
    """One run. `look` is called a few times a second, with the progress and the nodes that run, by name."""

    def __init__(
        self, nursery: Nursery, net: Net, plan: Plan, look: Callable[[Progress, dict[str, Child]], None] | None = None
    ) -> None:
        self._nursery = nursery
        self._net = net
        self._plan = plan
        self._look = look or (lambda _progress, _nodes: None)
        self._rng = random.Random(plan.seed)
        self._events: Queue[tuple[str, Child, dict[str, Any]]] = Queue()
        self._nodes: dict[str, Child] = {}
        self._roles: dict[str, dict[str, Any]] = {}
        self._later: list[tuple[float, int, Callable[[], None]]] = []
        self._serial = count()
        self._proxy = Proxy()
        self._busy: set[str] = set()
        """Nodes that are stopped or dead just now, and links that are not open."""
        self.progress = Progress()
        self.finished: dict[str, dict[str, int]] = {}
        self.holds: list[Hold] = []
        faults = ["kill"] * plan.kills + ["stop"] * plan.stops + ["partition"] * plan.partitions
        self._due = sorted(((self._rng.uniform(0.01, 0.99), fault) for fault in faults), reverse=True)

    def record(self, name: str) -> Path:
        """Where a node's record lies."""
        return self._net.folder / f"{name}.db"

    def run(self) -> None:
        """All of it: until everything has its outcome and every node is closed."""
        try:
            for name, dialled, before in zip(NAMES, NAMES[1:] + NAMES[:1], NAMES[-1:] + NAMES[:-1], strict=True):
                self._set_up(name, dialled, before)
            for name in NAMES:
                self._start(name)
            while self._due or not self._has_sent():
                self._step()
            self._calm_down()
            self._finish()
        finally:
            for node in self._nodes.values():
                node.signal(signal.SIGCONT)
            self._proxy.close()

    def _set_up(self, name: str, dialled: str, before: str) -> None:
        plan = self._plan
        gate = self._proxy.gate(name, self._net.endpoint(dialled))
        options = {
            "store": self._net.store(name),
            "bind": self._net.endpoint(name),
            "peers": {dialled: gate, before: None},
            "durability": plan.durability,
            "outcome_retention_s": plan.outcome_retention_s,
            "dead_retention_s": plan.outcome_retention_s,
        }
        lookup = plan.outcome_retention_s > 60 * plan.minutes + 3600
        self._roles[name] = {
            "role": "triangle_node", "name": name, "options": options, "record": str(self.record(name)),
            "messages": plan.messages, "ahead": plan.ahead, "rate": plan.rate, "seed": plan.seed, "lookup": lookup,
        }  # fmt: skip

    def _start(self, name: str) -> None:
        role = self._roles[name]
        self.progress.sent_all[name], self.progress.levels[name] = False, {}
        self._nodes[name] = self._nursery.start(
            role["role"],
            lambda child, said: self._events.put((name, child, said)),
            **{key: value for key, value in role.items() if key != "role"},
        )

    # --------------------------------------------------------------------------------------------- steps

    def _has_sent(self) -> bool:
        if self._plan.messages is None:
            return self.progress.elapsed_s >= 60 * self._plan.minutes
        return all(self.progress.sent_all.values())

    def _share(self) -> float:
        """How much of the run is over, from 0 to 1."""
        if self._plan.messages is None:
            return self.progress.elapsed_s / (60 * self._plan.minutes)
        return sum(self.progress.sent.values()) / (len(NAMES) * self._plan.messages)

    def _step(self) -> None:
        """Take what the nodes say, and do what is due."""
        with suppress(Empty):
            self._take(*self._events.get(timeout=_LOOK_S))
        while self._later and self._later[0][0] <= monotonic():
            heapq.heappop(self._later)[2]()
        while self._due and self._due[-1][0] <= self._share():
            fault = self._due.pop()[1]
            if not getattr(self, "_" + fault)():
                # Nothing is left to do it to: again, a little later.
                self._due.append((min(0.995, self._share() + 0.005), fault))
                self._due.sort(reverse=True)
                break
        self._look(self.progress, self._nodes)

    def _take(self, name: str, child: Child, said: dict[str, Any]) -> None:
        assert "critical" not in said, f"{name}: {said}"
        if "seen" in said:
            self.progress.seen[(name, said["life"])] = Counter(said["seen"])
        if child is not self._nodes.get(name):
            return
        assert "ended" not in said or name in self.finished, f"{name} ended by itself"
        if "sent" in said:
            self.progress.sent[name], self.progress.sent_all[name] = said["sent"], said["sent_all"]
            self.progress.levels[name] = said["levels"]
        elif "finished" in said:
            self.finished[name] = said["finished"]

    # -------------------------------------------------------------------------------------------- faults

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._later, (monotonic() + seconds, next(self._serial), action))

    def _victim(self, among: list[str]) -> str | None:
        free = [each for each in among if each not in self._busy]
        if not free:
            return None
        victim = self._rng.choice(free)
        self._busy.add(victim)
        return victim

    def _kill(self) -> bool:
        """SIGKILL, and a new life after a while."""
        name = self._victim([name for name in NAMES if name not in self._plan.spared])
        if name is None:
            return False
        self._nodes.pop(name).kill()
        self.progress.faults["kills"] += 1

        def start() -> None:
            self._start(name)
            self._busy.discard(name)

        self._after(self._rng.choice((0.0, 0.0, 0.3, 2.0)), start)
        return True

    def _stop(self) -> bool:
        """SIGSTOP, and SIGCONT after a while."""
        name = self._victim(list(NAMES))
        if name is None:
            return False
        node = self._nodes[name]
        node.signal(signal.SIGSTOP)
        self.progress.faults["stops"] += 1

        since_us = now_us()

        def go_on() -> None:
            node.signal(signal.SIGCONT)
            self.holds.append(Hold(since_us, now_us(), frozenset((name,))))
            self._busy.discard(name)

        self._after(self._rng.choice((0.05, 0.5, 1.5, 5.0)), go_on)
        return True

    def _partition(self) -> bool:
        """One link is stalled or cut."""
        link = self._victim([f"link of {name}" for name in NAMES])
        if link is None:
            return False
        name = link.removeprefix("link of ")
        self._proxy.turn(name, self._rng.choice(("stalled", "cut")))
        self.progress.faults["partitions"] += 1

        since_us, ends = now_us(), frozenset((name, NAMES[(NAMES.index(name) + 1) % len(NAMES)]))

        def heal() -> None:
            self._proxy.turn(name, "open")
            self.holds.append(Hold(since_us, now_us(), ends))
            self._busy.discard(link)

        self._after(self._rng.choice((0.3, 2.0, 6.0)), heal)
        return True

    # -------------------------------------------------------------------------------------------- the end

    def _calm_down(self) -> None:
        """Faults are over: until nothing is left to be done."""
        while self._later:
            self._step()
        for node in self._nodes.values():
            node.say(do="enough")
        self._until(self._is_quiet)
        # Told at different times: a message may have been made, of one that expired, since some of it was.
        self.progress.levels = {name: {} for name in NAMES}
        self._until(self._is_quiet)

    def _is_quiet(self) -> bool:
        levels = self.progress.levels.values()
        left = [each.get(key, 1) for each in levels for key in ("outbox_messages", "inbox_messages")]
        return all(self.progress.sent_all.values()) and not any(left)

    def _finish(self) -> None:
        for node in self._nodes.values():
            node.say(do="finish")
        self._until(lambda: len(self.finished) == len(NAMES))
        for node in self._nodes.values():
            assert node.join() == 0

    def _until(self, condition: Callable[[], bool]) -> None:
        """Until it holds. A run that stands still fails; one that goes on may take its time."""
        since, last = monotonic(), None
        while not condition():
            self._step()
            now = repr((self.progress.levels, self.progress.sent, len(self.finished)))
            if now != last:
                since, last = monotonic(), now
            assert monotonic() - since < 6 * LIMIT_S, f"nothing happens any more: {now}"


def verify(folder: Path, name: str) -> list[Any]:
    """What `zmqrel verify` finds in a node's store."""
    command = [sys.executable, "-m", "zmqrel", "verify", str(folder / name), "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    found = json.loads(done.stdout)
    assert (done.returncode == 0) == (not found["faults"]), done
    return list(found["faults"])
