"""What a random workload does: sends, recalls and faults, each by itself.

An action draws all that it leaves to chance from a generator of its own and says in a line what it did, so that a run
can be had again without some of its actions, the others unchanged, and read by a person.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from random import Random
from typing import Any

from zmqrel.core.commands import Connect, Forget, PurgeDead, RetryDead
from zmqrel.errors import StoreFull
from zmqrel.testing.disk import CrashPoint
from zmqrel.testing.mixes import Mix
from zmqrel.testing.network import Copy, Network
from zmqrel.testing.peer import SimulatedPeer, SimulatedReceipt

QUEUES = ("a", "b", "c")
"""Nobody serves the last one until the faults end."""
CLOCK_ERRORS_S = (0, 3600, -3600, 2)
SMALL_BODY_BYTES = 1000
_LARGE_BODY_BYTES = 70_000
"""More than `SMALL_BODY_BYTES` and the largest headers together."""
_KEYS = ("red", "green", None, None, None)
_BURST, _BACKLOG = 80, 120
_MOST_SENDS = 20
_BODIES_PER_STEP = 1000


class Actions:
    """Does them to a network. `Chance` of each is that of the mix."""

    def __init__(self, network: Network, mix: Mix, names: list[str]) -> None:
        """`names` are the peers; if `mix.quiet_pairs`, faults happen to the last one alone."""
        self.network = network
        self.mix = mix
        self.names = names
        self.receipts: list[SimulatedReceipt] = []
        self.killers: set[Any] = set()
        """Bodies whose handler is to kill its process."""
        self.busy: set[Any] = set()
        """Bodies whose handler takes long."""
        self.gone: set[str] = set()
        """Peers that never return."""
        self.done: Counter[str] = Counter()
        """What was done, and how often."""
        self._victims = names[-1:] if mix.quiet_pairs else names
        self._by_body: dict[Any, SimulatedReceipt] = {}
        self._drawn: list[int] = []
        """Numbers of what was to be sent, also where that was left out."""
        self._copies: dict[str, Copy] = {}
        # What is sent again to a store that does not know it any more is another message.
        self._may_repeat = bool(mix.repeat) and not (
            mix.rollback or mix.store_loss or mix.power_loss or mix.capacity is not None
        )
        self._actions: dict[str, tuple[float, Callable[[Random], str]]] = {
            "recall": (mix.recall, self._recall),
            "recall-where": (mix.recall_where, self._recall_where),
            "dead": (mix.dead, self._retry_or_purge_dead),
            "forget": (mix.forget, self._forget),
            "reconnect": (mix.reconnect, self._reconnect),
            "half-open": (mix.half_open, self._half_open),
            "partition": (mix.partition, self._partition),
            "crash": (mix.crash, self._crash),
            "close": (mix.close, self._close),
            "power-loss": (mix.power_loss, self._power_loss),
            "blackout": (mix.blackout, self._blackout),
            "store-loss": (mix.store_loss, self._lose_store),
            "rollback": (mix.rollback, self._roll_back),
            "full-disk": (mix.full_disk, self._fill_disk),
            "commit-errors": (mix.commit_errors, self._fail_commits),
            "clock": (0.05 if mix.skew else 0.0, self._step_clock),
            "suspend": (mix.suspend, self._suspend),
            "damage": (mix.damage, self._damage),
            "impostor": (mix.impostor, self._impersonate),
            "vanish": (mix.vanish, self._vanish),
            "burst": (mix.burst, partial(self._burst, 0)),
            "revoke": (mix.revoke, self._revoke),
        }

    def drawn(self, step: int, rng: Random) -> list[str]:
        """Names of the actions of a step, in their order: "send0", "send1", ..., then others."""
        sends = [f"send{number}" for number in range(rng.choice([0, 1, 1, 2, _MOST_SENDS]))]
        self._drawn += [step * _BODIES_PER_STEP + number for number in range(len(sends))]
        return sends + [name for name, (chance, _) in self._actions.items() if rng.random() < chance]

    def do(self, step: int, name: str, rng: Random) -> str:
        """Do one of them; says what it did."""
        if name.startswith("send"):
            return self._send(step * _BODIES_PER_STEP + int(name[4:]), rng)
        if name == "burst":
            return self._burst(step * _BODIES_PER_STEP + _MOST_SENDS, rng)
        self.done[name] += 1
        return self._actions[name][1](rng)

    # --------------------------------------------------------------------------------------------- sends

    def _send(self, number: int, rng: Random) -> str:
        mix = self.mix
        sender, to = rng.sample(self.names, 2)
        arguments: dict[str, Any] = {"queue": rng.choice(QUEUES), "key": rng.choice(_KEYS)}
        if rng.random() < mix.ttl:
            arguments["ttl"] = rng.choice([0.05, 0.5, 3])
        if rng.random() < mix.delay:
            arguments["delay"] = rng.random() * 3
            arguments["ttl"] = arguments["delay"] + arguments["ttl"] if "ttl" in arguments else None
        if rng.random() < 0.3:
            arguments["id"] = f"id-{number}"
        if rng.random() < 0.05:
            arguments["max_attempts"] = 1
        if rng.random() < 0.2:
            arguments["headers"] = {"pad": "x" * rng.choice([10, 300])}
        if rng.random() < mix.on_expiry:
            arguments["on_expiry"] = rng.choice(["drop", f"queue:{rng.choice(QUEUES)}"])
        body = self._body(number, rng)
        peer = self.network.peers[sender]
        if not peer.running:
            return f"nothing: {sender}, which was to send, does not run"
        receipt = self.network.send(sender, to, body, **arguments)
        self.receipts.append(receipt)
        self._by_body[number] = receipt
        if self._may_repeat and "id" in arguments and rng.random() < mix.repeat:
            again = partial(self._send_again, sender, to, body, arguments)
            self.network.after(rng.choice([0.0, 0.3, 3]), again)
        told = ", ".join(f"{name}={_short(value)}" for name, value in arguments.items() if value is not None)
        return f"{sender} sends {_short(body)} to {to}, {told}"

    def _send_again(self, sender: str, to: str, body: Any, arguments: dict[str, Any]) -> None:
        """A caller is not sure whether its first call went through."""
        if self.network.peers[sender].running:
            self.network.send(sender, to, body, **arguments)

    def _body(self, number: int, rng: Random) -> Any:
        mix = self.mix
        body: Any = number
        if rng.random() < mix.large:
            body = f"{number} " + "x" * _LARGE_BODY_BYTES
        if rng.random() < mix.kill:
            self.killers.add(body)
        if rng.random() < mix.busy:
            self.busy.add(body)
        return body

    def _burst(self, number: int, rng: Random) -> str:
        """Far more at once to one queue than is granted at once; what nobody serves fills the inbox."""
        sender, to = rng.sample(self.names, 2)
        queue = rng.choice([*QUEUES[:2], *QUEUES[2:] * 3])
        count = _BACKLOG if queue == QUEUES[2] else _BURST
        if not self.network.peers[sender].running:
            return f"nothing: {sender}, which was to send, does not run"
        bodies = list(range(number, number + count))
        self.receipts += self.network.peers[sender].send(to, bodies, queue=queue)
        return f"{sender} sends {bodies[0]} to {bodies[-1]} to {to}, queue={queue!r}"

    # ------------------------------------------------------------------------------------------- requests

    def _recall(self, rng: Random) -> str:
        if not self._drawn:
            return "nothing: nothing was sent"
        number = rng.choice(self._drawn[-40:])
        receipt = self._by_body.get(number)
        if receipt is None:
            return f"nothing: {number} was not sent"
        self.network.recall(receipt)
        return f"{receipt.sender} recalls {number}"

    def _recall_where(self, rng: Random) -> str:
        name, queue, key = rng.choice(self.names), rng.choice(QUEUES), rng.choice(_KEYS)
        peer = self.network.peers[name]
        if peer.running:
            peer.recall_where(queue, key)
        return f"{name} recalls where queue={queue!r}, key={key!r}"

    def _forget(self, rng: Random) -> str:
        one, other = self._pair(rng)
        peer = self.network.peers[one]
        if peer.running:
            self._be_forgotten(peer, other)
            peer.command(Connect(other, peer.peers[other]))
        return f"{one} forgets {other} and knows it anew at once"

    def _be_forgotten(self, peer: SimulatedPeer, other: str) -> None:
        self.network.observe("forgot", peer.name, other)
        peer.command(Forget(other))

    def forget_gone(self) -> None:
        """Everybody forgets who never returns; who that is takes what it knew with it."""
        for name in self.gone:
            for other in self.names:
                if other not in self.gone:
                    self._be_forgotten(self.network.peers[other], name)
            for receipt in self.receipts:
                receipt.forgotten = receipt.forgotten or receipt.sender == name

    def _retry_or_purge_dead(self, rng: Random) -> str:
        name, first, retry = rng.choice(self.names), rng.randrange(1, 5), rng.random() < 0.8
        peer = self.network.peers[name]
        if peer.running:
            peer.command(RetryDead(first) if retry else PurgeDead(1, first))
        return f"{name} retries dead letter {first}" if retry else f"{name} purges dead letters to {first}"

    # -------------------------------------------------------------------------------------- links

    def _pair(self, rng: Random) -> list[str]:
        if self.mix.quiet_pairs:
            return [self._victims[0], rng.choice(self.names[:-1])]
        return rng.sample(self.names, 2)

    def _reconnect(self, rng: Random) -> str:
        one, other = self._pair(rng)
        self.network.reconnect(one, other)
        return f"connections of {one} and {other} break"

    def _half_open(self, rng: Random) -> str:
        one, other = self._pair(rng)
        ways = rng.choice(["both", "to who dialled", "from who dialled"])
        self.network.half_open(one, other, to_dialler=ways != "from who dialled", to_acceptor=ways != "to who dialled")
        return f"connections of {one} and {other} carry nothing more, {ways}, though they stay"

    def _partition(self, rng: Random) -> str:
        one, other = self._pair(rng)
        one_way, seconds = rng.random() < 0.3, rng.choice([0.1, 1, 6])
        self.network.partition(one, other, one_way=one_way)
        self.network.after(seconds, lambda: self.network.heal(one, other))
        self.done["one-way partition"] += one_way
        return f"nothing gets from {one} to {other}{'' if one_way else ' or back'} for {seconds:g} s"

    def _impersonate(self, rng: Random) -> str:
        name = rng.choice(self._victims)
        self.network.impersonate(name)
        return f"another process says for 3 s that it is {name}"

    def _revoke(self, rng: Random) -> str:
        (at, of), seconds = rng.sample(self.names, 2), rng.choice([0.05, 0.5, 3])
        keys = self.network.keys
        assert keys is not None
        keys.revoke(at, of)
        self.network.after(seconds, lambda: keys.authorise(at, of))
        return f"{at} has not the key of {of} for {seconds:g} s"

    # ---------------------------------------------------------------------------------- processes, machines

    def _crash(self, rng: Random) -> str:
        name = rng.choice(self._victims)
        points: list[CrashPoint | None] = [None, "before commit", "after commit", "while sending"]
        at, commits = rng.choice(points), rng.randrange(3)
        self.network.crash(name, at, commits)
        where = "" if at is None else f" {at}, after {commits} more commits,"
        return f"{name} dies{where} and starts {self._start_later(name, rng)}"

    def _close(self, rng: Random) -> str:
        name = rng.choice(self._victims)
        self.network.close(name)
        return f"{name} closes and starts {self._start_later(name, rng)}"

    def _power_loss(self, rng: Random) -> str:
        name = rng.choice(self._victims)
        self.network.power_loss(name)
        return f"the machine of {name} loses power and starts {self._start_later(name, rng)}"

    def _blackout(self, rng: Random) -> str:
        for name in self.names:
            self.network.power_loss(name)
        later = [f"{name} {self._start_later(name, rng)}" for name in self.names]
        return f"all machines lose power and start: {', '.join(later)}"

    def _suspend(self, rng: Random) -> str:
        name, seconds = rng.choice(self._victims), rng.choice([0.5, 3])
        self.network.suspend(name, seconds)
        return f"the machine of {name} sleeps for {seconds:g} s"

    def _step_clock(self, rng: Random) -> str:
        name, error_s = rng.choice(self._victims), rng.choice(CLOCK_ERRORS_S)
        self.network.peers[name].hardware.wall_error_us = error_s * 1_000_000
        return f"the wall clock of {name} is set {error_s:g} s ahead of true time"

    def _vanish(self, rng: Random) -> str:
        name = rng.choice(self._victims)
        if self.gone or len(self.names) < 3:
            return "nothing: two peers are to stay"
        self.gone.add(name)
        self.network.crash(name)
        return f"{name} dies and never returns"

    def _start_later(self, name: str, rng: Random) -> str:
        seconds = rng.choice([0.0, 0.3, 3])
        self.network.after(seconds, lambda: self.start(name))
        return f"{seconds:g} s later"

    def start(self, name: str) -> None:
        """Start a peer that does not run, unless it never returns; again if its disk has no room for that."""
        if name in self.gone:
            return
        try:
            self.network.restart(name)
        except StoreFull:
            self.done["start refused by a full disk"] += 1
            self.network.after(0.5, lambda: self.start(name))

    # ----------------------------------------------------------------------------------- stores

    def _lose_store(self, rng: Random) -> str:
        name = rng.choice(self._victims)
        self.network.crash(name)
        self.network.delete_store(name)
        return f"{name} dies, its store is gone, and it starts {self._start_later(name, rng)}"

    def _roll_back(self, rng: Random) -> str:
        """A copy is made, and put back later; there is one of each store at a time."""
        name, age_s = rng.choice(self._victims), rng.choice([0.1, 1, 2, 5])
        if name in self._copies:
            return f"nothing: there is a copy of the store of {name} already"
        self._copies[name] = self.network.backup(name)
        seconds = rng.choice([0.0, 0.3, 3])
        self.network.after(age_s, partial(self._put_back, name, seconds))
        return f"a copy is made of the store of {name}, put back {age_s:g} s later; it starts {seconds:g} s after that"

    def _put_back(self, name: str, seconds: float) -> None:
        self.network.crash(name)
        self.network.restore(name, self._copies.pop(name))
        self.network.after(seconds, lambda: self.start(name))

    def _fill_disk(self, rng: Random) -> str:
        name, bytes_left, seconds = rng.choice(self._victims), rng.choice([0, 300, 3000]), rng.choice([0.2, 2])
        self.network.fill_disk(name, bytes_left)
        self.network.after(seconds, lambda: self.network.free_disk(name))
        return f"others leave {bytes_left} bytes on the disk of {name} for {seconds:g} s"

    def _fail_commits(self, rng: Random) -> str:
        name, commits = rng.choice(self._victims), rng.choice([1, 1, 2, 5])
        self.network.fail_commits(name, commits)
        return f"the next {commits} commits of {name} fail"

    def _damage(self, rng: Random) -> str:
        """A byte of a row that holds a message, or what is told of messages, is flipped on the disk."""
        name = rng.choice(self._victims)
        self.network.damage(name, rng)
        return f"a byte of a row of {name} is flipped"


def _short(value: Any) -> str:
    said = repr(value)
    return said if len(said) <= 40 else f"{said[:30]}... ({len(said)} characters)"
