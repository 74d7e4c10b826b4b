"""Network: any number of peers in one thread and in virtual time, with faults at will.

The peers are the production code: core, turns and the store's contract. Simulated are the disk, the links, the clocks
and the workers. Nothing sleeps and nothing is read from the machine, so one seed gives the same run.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from heapq import heappop, heappush
from pathlib import Path
from random import Random
from typing import Any, NamedTuple, get_args

from zmqrel.body import decode_body
from zmqrel.checks import Duration as Seconds
from zmqrel.checks import check_name, duration_s, one_of, whole
from zmqrel.core import tables
from zmqrel.core.effects import Event
from zmqrel.core.entries import CHECK_BYTES, BadRecord, decode_head
from zmqrel.errors import ConfigError, UnknownPeer
from zmqrel.options import Options
from zmqrel.retry import Retry
from zmqrel.runtime.permission_file import read_permissions
from zmqrel.store.in_hand import MemoryInHand
from zmqrel.store.memory import MemoryStore
from zmqrel.testing.bounds import BoundsChecker
from zmqrel.testing.broken import PromiseBroken
from zmqrel.testing.checkers import Checker
from zmqrel.testing.disk import CrashPoint, SimulatedDisk
from zmqrel.testing.double import Peer, Setup
from zmqrel.testing.keys import Keys
from zmqrel.testing.links import LinkFaults, Links
from zmqrel.testing.peer import DEFAULT_RETRY, Duration, Function, Hardware, SimulatedPeer, SimulatedReceipt
from zmqrel.testing.tasks import Tasks
from zmqrel.testing.wire_checker import WireChecker

_EPOCH_US = 1_700_000_000_000_000
_PATIENCE_S = 3600.0


class Reported(NamedTuple):
    """An event of the core, by whom and when (seconds since the network began)."""

    at: float
    by: str
    event: Event


@dataclass(slots=True)
class Copy:
    """A copy of a peer's store and in-hand table, as a backup makes it."""

    disk: MemoryStore
    in_hand: MemoryInHand
    at: float
    """When it was made."""
    places: frozenset[tuple[int, int]]
    """Of the messages that it knows."""


class Network:
    """A simulated network. `seed` decides everything that is left to chance; times are virtual seconds."""

    def __init__(self, seed: int = 0, *, faults: LinkFaults | None = None) -> None:
        """An empty network."""
        if isinstance(seed, bool) or not isinstance(seed, int):
            raise ConfigError.of("seed", "a whole number", seed)
        if faults is not None and not isinstance(faults, LinkFaults):
            raise ConfigError.of("faults", "a LinkFaults or None", faults)
        self.seed = seed
        self.rng = Random(seed)
        self.faults = faults or LinkFaults()
        self.links = Links(Random(self.rng.getrandbits(64)), self.true_us, self.at, self.faults)
        self.peers: dict[str, SimulatedPeer] = {}
        self.events: list[Reported] = []
        self.impostors = 0
        self.keys: Keys | None = None
        """Who has whose key; None if there are no keys."""
        self._observers: list[Callable[..., None]] = []
        self._observers_of: defaultdict[str, list[Callable[..., None]]] = defaultdict(list)
        """By the word that they want to hear."""
        self.now_us = _EPOCH_US
        """True time, as no peer knows it (microseconds since 1970)."""
        self._heap: list[tuple[int, int, Callable[[], None]]] = []
        self._serial = 0
        self.tasks = Tasks(self.true_us, self.at)
        self._checked = False
        self._broken: PromiseBroken | None = None

    def __enter__(self) -> Network:
        self.check_promises()
        return self

    def __exit__(self, kind: type[BaseException] | None, _error: BaseException | None, _trace: object) -> None:
        self.shut_down()
        if kind is None:
            self.raise_broken()

    # --------------------------------------------------------------------------------------------- time

    @property
    def now(self) -> float:
        """Seconds since the network began."""
        return (self.now_us - _EPOCH_US) / 1e6

    def true_us(self) -> int:
        """True time, as no peer knows it (microseconds since 1970)."""
        return self.now_us

    def at(self, at_us: int, action: Callable[[], None]) -> None:
        """Run `action` at a point in true time."""
        self._serial += 1
        heappush(self._heap, (at_us if at_us > self.now_us else self.now_us, self._serial, action))

    def after(self, seconds: float, action: Callable[[], None]) -> None:
        """Run `action` so much later."""
        self.at(self.now_us + int(seconds * 1e6), action)

    def advance(self, seconds: Seconds) -> None:
        """Let so much time pass. In a handler: the handler takes so long."""
        lasts_us = int(duration_s("seconds", seconds) * 1e6)
        if self.tasks.current is not None:
            self.tasks.wait(bool, lasts_us)
            return
        self.tasks.check_thread()
        end_us = self.now_us + lasts_us
        while self._heap and self._heap[0][0] <= end_us:
            self._step()
        self.now_us = end_us

    def until(self, condition: Callable[[], bool], timeout: Seconds = 600) -> bool:
        """Let time pass until `condition` holds; False if it does not within `timeout`."""
        lasts_us = int(duration_s("timeout", timeout) * 1e6)
        if self.tasks.current is not None:
            return self.tasks.wait(condition, lasts_us)
        self.tasks.check_thread()
        end_us = self.now_us + lasts_us
        while not condition():
            if not self._heap or self._heap[0][0] > end_us:
                self.now_us = end_us
                return condition()
            self._step()
        return True

    def _step(self) -> None:
        self.now_us, _, action = heappop(self._heap)
        action()
        if self.tasks.waiting:
            self.tasks.resume()

    def wait(self, condition: Callable[[], bool], timeout: float | None) -> bool:
        """As `until`; without a time-out it raises AssertionError after an hour, unless a handler waits."""
        if timeout is not None:
            return self.until(condition, timeout)
        if self.tasks.current is not None:
            return self.tasks.wait(condition, None)
        if not self.until(condition, _PATIENCE_S):
            raise AssertionError(f"nothing came of it in {_PATIENCE_S:g} virtual seconds: give the call a time-out")
        return True

    def settle(self, timeout: Seconds = 600) -> None:
        """Let time pass until every message has its outcome. Raises AssertionError that names those without."""
        timeout_s = duration_s("timeout", timeout)
        if self.until(lambda: not self._unsettled(), timeout_s):
            return
        unsettled = [f"{sent.body} to {sent.to}/{sent.queue}" for sent in self._unsettled()]
        named = "; ".join(unsettled[:10])
        raise AssertionError(f"after {timeout_s:g} virtual seconds {len(unsettled)} without an outcome: {named}")

    def _unsettled(self) -> list[SimulatedReceipt]:
        return [
            sent
            for peer in self.peers.values()
            for sent in peer.receipts.values()
            if sent.outcome is None and not sent.forgotten
        ]

    # -------------------------------------------------------------------------------------------- peers

    def peer(
        self,
        name: str,
        peers: Mapping[str, bool | str | None] | None = None,
        *,
        setup: Setup | None = None,
        start: bool = True,
        capacity: int | None = None,
        clock_error_s: float = 0.0,
        drift: float = 0.0,
        **options: Any,
    ) -> Peer:
        """Make a peer, and start it unless told otherwise.

        `peers` maps names to whether it dials them; those of a zmqrel.Peer will do, for an endpoint counts as yes and
        None as no. `setup(peer)` is called before each of its lives, as a program is when its process starts, and
        registers handlers and listeners; what is registered otherwise stays for later lives. `capacity` limits its
        store, in bytes. Its wall clock is `clock_error_s` ahead of true time and all its clocks run faster by `drift`.
        `options` are those of zmqrel.Peer.
        """
        parsed = Options.parse(dict(options))
        if isinstance(parsed.permissions, str | os.PathLike):
            parsed = replace(parsed, permissions=read_permissions(Path(parsed.permissions)))
        if check_name(name) in self.peers:
            raise ConfigError(f"name: there is a peer {name!r} already; `restart` begins its next life")
        if peers is not None and not isinstance(peers, Mapping):
            raise ConfigError.of("peers", "a dict of names to True (it dials that peer) or False", peers)
        if setup is not None and not callable(setup):
            raise ConfigError.of("setup", "a function or None", setup)
        known = {check_name(other): _endpoint(other) if dials else None for other, dials in (peers or {}).items()}
        if name in known:
            raise UnknownPeer(f"peers: {name!r} is this peer itself; a peer does not send to itself")
        disk = SimulatedDisk(durability=parsed.durability, capacity=capacity)
        simulated = SimulatedPeer(name, self, parsed, known, Random(self.rng.getrandbits(64)), disk)
        simulated.hardware = Hardware(int(clock_error_s * 1e6), drift, booted_us=self.now_us)
        self.peers[name] = simulated
        self.links.bind(_endpoint(name), simulated)
        peer = Peer(simulated, setup, known, options)
        if start:
            simulated.start()
        return peer

    def handler(
        self,
        name: str,
        queue: str,
        function: Function,
        *,
        workers: int = 1,
        duration: Duration = 0.001,
        retry: Retry = DEFAULT_RETRY,
        admit: Function | None = None,
    ) -> None:
        """Serve a queue of a peer. `function` is called with a Delivery when its `duration` has passed.

        It returns, or raises what a handler raises; or Moving. `admit`, called with a Delivery, says whether a message
        is to be handed over, and takes up to a millisecond for that. A later call for the same queue takes effect
        with the next message.
        """
        self.peers[name].serve(queue, function, workers=workers, duration=duration, retry=retry, admit=admit)

    def send(self, sender: str, to: str, body: Any, **arguments: Any) -> SimulatedReceipt:
        """Send a message; see SimulatedPeer.send."""
        return self.peers[sender].send(to, [body], **arguments)[0]

    def recall(self, receipt: SimulatedReceipt) -> None:
        """Recall a message."""
        self.peers[receipt.sender].recall(receipt)

    # -------------------------------------------------------------------------------------------- faults

    def partition(self, one: str, other: str, *, one_way: bool = False) -> None:
        """Let nothing through from `one` to `other`, nor back unless `one_way`."""
        self._known(one, other)
        self.links.block(one, other)
        if not one_way:
            self.links.block(other, one)

    def heal(self, one: str | None = None, other: str | None = None) -> None:
        """End the partition of two peers, or all."""
        if one is None or other is None:
            self.links.unblock_all()
            return
        self._known(one, other)
        self.links.unblock(one, other)
        self.links.unblock(other, one)

    def reconnect(self, one: str, other: str) -> None:
        """Break the connections between two peers; they are made anew at once."""
        self._known(one, other)
        self.links.break_all(one, other)

    def half_open(self, one: str, other: str, *, to_dialler: bool = True, to_acceptor: bool = True) -> None:
        """Let the present connections of two peers carry nothing more, to who dialled, to the other or to both.

        Neither end is told. They stay so until who dialled gives them up and dials anew.
        """
        self._known(one, other)
        self.links.deafen(one, other, to_dialler, to_acceptor)

    def fill_disk(self, name: str, bytes_left: int = 0) -> None:
        """Let others take all of the disk of a peer's store but so many bytes."""
        self._named(name).disk.fill(bytes_left)

    def free_disk(self, name: str) -> None:
        """Let there be room on that disk again."""
        self._named(name).disk.free()

    def fail_commits(self, name: str, commits: int) -> None:
        """Let so many of the next commits of a peer fail that write something, as on a full disk."""
        self._named(name).disk.fail(commits)

    def crash(self, name: str, at: CrashPoint | None = None, commits: int = 0) -> None:
        """Kill the process of a peer: now, or at a commit that writes something, after so many more.

        In a handler of that very peer it does not return: the process ends there.
        """
        peer = self._named(name)
        if at is None:
            peer.die()
            self.tasks.end_if_dead()
        else:
            peer.disk.die_at(one_of("at", at, get_args(CrashPoint)), whole("commits", commits, 0))

    def restart(self, name: str) -> None:
        """Start a peer that does not run; of one that runs, only take back a `crash` that is still to come."""
        peer = self._named(name)
        peer.disk.survive()
        peer.start()

    def close(self, name: str) -> None:
        """Stop a peer cleanly."""
        self._named(name).close()

    def power_loss(self, name: str) -> None:
        """Stop the machine of a peer: the process, its in-hand table and whatever was not flushed."""
        peer = self._named(name)
        peer.die()
        peer.disk.lose_unflushed()
        peer.in_hand.boot_matches = False
        peer.hardware.booted_us = self.now_us
        self.observe("power lost", name, peer.options.durability == "relaxed")

    def suspend(self, name: str, seconds: Seconds) -> None:
        """Put the machine of a peer to sleep; what is sent to it waits in its sockets."""
        self._named(name).suspend(duration_s("seconds", seconds))

    def backup(self, name: str) -> Copy:
        """Copy the store of a peer, which may run."""
        peer = self._named(name)
        return Copy(peer.disk.snapshot(), _copy_table(peer.in_hand), self.now, frozenset(peer.receipts))

    def restore(self, name: str, copy: Copy) -> None:
        """Put an old copy of the store of a stopped peer back."""
        peer = self._stopped(name)
        if not isinstance(copy, Copy):
            raise ConfigError.of("copy", "what `backup` returned", copy)
        peer.disk.restore(copy.disk)
        peer.disk.previous = "crashed"
        peer.in_hand = _copy_table(copy.in_hand)
        peer.forget_all_but(copy.places)
        self.observe("rolled back", name, copy.at)

    def delete_store(self, name: str) -> None:
        """Take the store of a stopped peer away."""
        peer = self._stopped(name)
        peer.disk = peer.disk.new()
        peer.in_hand = MemoryInHand()
        peer.forget_all_but(())
        self.observe("store lost", name)

    def damage(self, name: str, rng: Random) -> None:
        """Flip a byte of some row of a peer's outbox or inbox, if it runs and there is one."""
        peer = self.peers[name]
        if not peer.running:
            return
        rows = [
            (key, value)
            for table in (tables.OUTBOX, tables.INBOX)
            for key, value in peer.disk.scan(*tables.table_bounds(table), 2**31)
        ]
        if not rows:
            return
        key, record = rng.choice(rows)
        self.observe("damaged", name, _body_of(record))
        peer.disk.damage(key, rng.randrange(len(record)))

    def impersonate(self, name: str) -> None:
        """Start a process elsewhere that has the name of a peer, and a new store; it dials whom the peer dials."""
        true = self.peers[name]
        impostor = SimulatedPeer(
            name, self, true.options, true.peers, Random(self.rng.getrandbits(64)), SimulatedDisk()
        )
        self.impostors += 1
        impostor.hardware.booted_us = true.hardware.booted_us
        impostor.life = self.impostors * 1_000_000  # its links are its own
        impostor.start()
        self.after(3, impostor.die)

    def _known(self, *names: str) -> None:
        for name in names:
            if name not in self.peers:
                raise UnknownPeer(f"{name!r} is no peer of this network; known are {sorted(self.peers) or 'none'}")

    def _named(self, name: str) -> SimulatedPeer:
        self._known(name)
        return self.peers[name]

    def _stopped(self, name: str) -> SimulatedPeer:
        peer = self._named(name)
        if peer.running:
            raise ConfigError(f"name: {name!r} runs, and its store is open: crash or close it first")
        return peer

    # ------------------------------------------------------------------------------------------- promises

    def check_promises(self) -> None:
        """Have every promise checked from now on, by what is seen of peers, wires and stores. Call it before the first
        peer is made. The first that is broken raises PromiseBroken wherever it is seen, and `raise_broken` again."""
        if not self._checked:
            self._checked = True
            Checker(self)
            WireChecker(self)
            BoundsChecker(self)

    def raise_broken(self) -> None:
        """Raise the first PromiseBroken once more, for whoever may have swallowed it."""
        if self._broken is not None:
            raise self._broken

    def shut_down(self) -> None:
        """End every process, and what handlers were in the middle of."""
        for peer in self.peers.values():
            peer.die()
        self.tasks.resume()

    # --------------------------------------------------------------------------------------- observation

    def watch(self, observer: Callable[..., None]) -> None:
        """Call `observer(what, *details)` whenever something happens that a user can see; see observations.py."""
        self._observers.append(observer)

    def on(self, what: str, observer: Callable[..., None]) -> None:
        """Call `observer(*details)` whenever this happens."""
        self._observers_of[what].append(observer)

    def watch_first(self, observer: Callable[..., None]) -> None:
        """Likewise, and before those who watch already: they may raise."""
        self._observers.insert(0, observer)

    def observe(self, what: str, *details: Any) -> None:
        """Something happened."""
        try:
            for observer in self._observers:
                observer(what, *details)
            for observer in self._observers_of.get(what, ()):
                observer(*details)
        except PromiseBroken as broken:
            self._broken = self._broken or broken
            raise

    def names(self) -> Iterable[str]:
        """Of all peers."""
        return self.peers

    def life(self, name: str) -> int:
        """Which life a peer is in; 0 before its first, also if it was not made yet."""
        peer = self.peers.get(name)
        return 0 if peer is None else peer.life

    def agree(self, one: str, other: str) -> bool:
        """True if two peers have a session, with each other, and nothing is to be healed."""
        if not self.peers[one].sessions_with(other) & self.peers[other].sessions_with(one):
            return False
        return self.peers[one].agrees_with(other) and self.peers[other].agrees_with(one)

    def held_up_s(self, one: str, other: str, since_us: int) -> float:  # noqa: ARG002 - the World says it
        """Nothing is: what delays frames here is in `Rules.clock_error_s`."""
        return 0.0

    def stalled(self, name: str) -> bool:
        """True while the store of a peer takes nothing, or not all that its handlers decided."""
        turns = self.peers[name].turns
        return turns is not None and (turns.stalled or turns.has_put_aside)

    def was_found_old(self, name: str, by: str, since: float) -> bool:
        """True if a peer reported, after that time, that the other called its store an old copy."""
        return any(
            reported.by == name and reported.event.kind == "old_copy" and reported.event.peer == by
            for reported in self.events
            if reported.at >= since
        )

    def report(self, name: str, event: Event) -> None:
        """A peer reports an event."""
        self.events.append(Reported(self.now, name, event))

    def kinds(self, name: str) -> list[str]:
        """Kinds of the events that a peer reported, in order."""
        return [reported.event.kind for reported in self.events if reported.by == name]


def _endpoint(name: str) -> str:
    return f"sim://{name}"


def _body_of(record: bytes) -> Any:
    """The body of a message, None for another record."""
    try:
        return decode_body(memoryview(record)[decode_head(record).body_at : -CHECK_BYTES])
    except (BadRecord, ValueError):
        return None


def _copy_table(table: MemoryInHand) -> MemoryInHand:
    copy = MemoryInHand()
    for hand in table.open():
        slot = copy.take(hand.lane, hand.seq, hand.attempt)
        if not hand.running:
            copy.done(slot)
    return copy
