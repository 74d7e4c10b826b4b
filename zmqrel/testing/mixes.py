"""What may happen in a random workload, and how often: the named mixes, and one that is drawn anew for each seed."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field, replace
from random import Random
from typing import Any

from zmqrel.testing.links import LinkFaults


@dataclass(frozen=True, slots=True)
class Mix:
    """What may happen, and how often: chances per step of the workload, of which there are ten a second or fewer."""

    about: str = ""
    """In a line."""
    peers: int = 2
    steps: int = 200
    pause_s: float = 0.2
    """Between two steps, at most."""
    both_dial: float = 0.5
    faults: LinkFaults = field(default_factory=LinkFaults)
    recall: float = 0.15
    recall_where: float = 0.01
    ttl: float = 0.2
    delay: float = 0.1
    on_expiry: float = 0.1
    """Of messages: what expires is dropped or goes to another queue, and is no dead letter."""
    fail: float = 0.1
    reconnect: float = 0.0
    partition: float = 0.0
    crash: float = 0.0
    power_loss: float = 0.0
    blackout: float = 0.0
    """All machines lose power at once, so that nobody remembers what was flushed nowhere."""
    store_loss: float = 0.0
    rollback: float = 0.0
    """A copy of a store is made, and put back a little later."""
    full_disk: float = 0.0
    """Others fill the disk of a store for a while, its headroom too."""
    commit_errors: float = 0.0
    """The next commits of a peer fail."""
    half_open: float = 0.0
    """Connections of two peers carry nothing more, one way or both, though neither end is told."""
    vanish: float = 0.0
    """One of the peers dies and never returns; at the end the others forget it."""
    close: float = 0.0
    relaxed: bool = False
    tiny: bool = False
    """Small limits everywhere, so that credit and windows are always short."""
    inbox_max_messages: int | None = None
    """The limit of each inbox, unless it is tiny."""
    burst: float = 0.0
    """So many messages are sent to one queue at once that they take many grants; most of them to the slow one."""
    capacity: int | None = None
    """Bytes in each store."""
    refuse: float = 0.0
    """How often `admit` says no."""
    dead: float = 0.0
    """Dead letters are retried, or purged."""
    forget: float = 0.0
    """How often a peer forgets another, and knows it anew at once."""
    skew: bool = False
    """Wall clocks hours apart, stepped now and then; clocks that drift."""
    kill: float = 0.0
    """Per message: the handler that is given it kills its process."""
    suspend: float = 0.0
    repeat: float = 0.0
    """Per message with an id: it is sent a second time."""
    large: float = 0.0
    """Per message: it is larger than some peers take."""
    damage: float = 0.0
    """A byte of a row of some store is flipped."""
    impostor: float = 0.0
    """A second process says that it is a peer which is connected already."""
    give_up: bool = False
    """Messages that are not received for two seconds are given up."""
    uncertain: bool = False
    """Messages received by a store that is gone end UNCERTAIN, and are not sent again."""
    told: bool = False
    """Outcomes are told to callbacks."""
    busy: float = 0.0
    """Per message: its handler takes seconds."""
    permissions: bool = False
    """Each peer permits each other some queues, and perhaps recalls."""
    keys: bool = False
    """Peers have keys, and impostors have others."""
    revoke: float = 0.0
    """How often the key of a peer is taken from another for a while."""
    quiet_pairs: bool = False
    """Only the last peer is ever at fault, and nobody serves queue "c": no other may notice."""
    swarm: bool = False
    """Everything else is drawn at random for each seed (swarm testing): what is left out matters as much as what is
    not, for some faults hide what others would show."""


BAD_LINKS = LinkFaults(delay_s=(0.0005, 0.05), loss=0.05, duplication=0.05, breaks=0.01, late=0.3)
_FIVE_PEERS = Mix(
    "five peers and every fault at once",
    peers=5, steps=120, faults=BAD_LINKS, partition=0.02, half_open=0.02,
    crash=0.03, power_loss=0.01, blackout=0.003, store_loss=0.01, rollback=0.01, close=0.01, reconnect=0.01,
    full_disk=0.01, commit_errors=0.02, skew=True, suspend=0.01, kill=0.002, busy=0.05,
    vanish=0.003, dead=0.05, refuse=0.05, recall=0.3, told=True,
)  # fmt: skip

MIXES: dict[str, Mix] = {
    "calm": Mix("good links, no faults: sends, recalls, failures, deadlines, delays"),
    "links": Mix(
        "lossy, doubling, breaking links; partitions, half-open connections, late frames",
        faults=BAD_LINKS, reconnect=0.02, partition=0.03, half_open=0.02,
    ),
    "crashes": Mix("processes die at and between commits", faults=BAD_LINKS, crash=0.05, close=0.02),
    "all but losses": Mix(
        "three peers, bad links, crashes; no store forgets anything",
        peers=3, faults=BAD_LINKS, partition=0.02, crash=0.03, close=0.01, reconnect=0.01,
    ),
    "relaxed": Mix(
        "commits without a flush, and processes that die",
        faults=BAD_LINKS, relaxed=True, crash=0.03, close=0.01,
    ),
    "power": Mix("machines lose power", faults=BAD_LINKS, power_loss=0.03, blackout=0.01, crash=0.02),
    "relaxed power": Mix(
        "machines lose power and what was not flushed",
        faults=BAD_LINKS, relaxed=True, power_loss=0.03, blackout=0.02, crash=0.02,
    ),
    "store loss": Mix("stores are deleted", faults=BAD_LINKS, store_loss=0.02, crash=0.02, partition=0.02),
    "rollback": Mix("stores are put back to older copies", faults=BAD_LINKS, rollback=0.03, crash=0.02, partition=0.02),
    "tiny": Mix("credit, windows and buffers of a few messages", faults=BAD_LINKS, tiny=True, crash=0.02),
    "full": Mix("stores of 60 kB", faults=BAD_LINKS, capacity=60_000, crash=0.02),
    "forgetting": Mix(
        "peers forget each other and meet again",
        peers=3, faults=BAD_LINKS, forget=0.04, crash=0.03, close=0.01, reconnect=0.02,
    ),
    "conditions": Mix(
        "admit refuses; dead letters are retried and purged",
        faults=BAD_LINKS, refuse=0.2, dead=0.2, fail=0.3, ttl=0.5, recall=0.4, crash=0.03, close=0.01,
    ),
    "refused and rolled back": Mix(
        "the same, with stores put back and power lost",
        faults=BAD_LINKS, refuse=0.2, dead=0.2, recall=0.4, rollback=0.03, power_loss=0.02,
    ),
    "clocks": Mix("wall clocks hours apart, and stepped", faults=BAD_LINKS, skew=True, ttl=0.6, delay=0.2, crash=0.03),
    "everything": Mix(
        "three peers and most faults at once",
        peers=3, faults=BAD_LINKS, partition=0.02, crash=0.02, power_loss=0.01, store_loss=0.01, rollback=0.01,
        close=0.01, reconnect=0.01, skew=True,
    ),
    "tiny losses": Mix(
        "tiny limits, and stores lost and put back",
        faults=BAD_LINKS, tiny=True, store_loss=0.01, rollback=0.02, crash=0.02, partition=0.02, skew=True, ttl=0.5,
        recall=0.5,
    ),
    "tiny everything": Mix(
        "three peers, tiny limits, most faults at once",
        peers=3, faults=BAD_LINKS, tiny=True, partition=0.02, crash=0.02, power_loss=0.01, store_loss=0.01,
        rollback=0.02, close=0.01, reconnect=0.01, skew=True, ttl=0.4, recall=0.3,
    ),
    "relaxed everything": Mix(
        "three peers, relaxed, most faults at once",
        peers=3, faults=BAD_LINKS, relaxed=True, partition=0.02, crash=0.02, power_loss=0.02, store_loss=0.01,
        rollback=0.02, close=0.01, reconnect=0.01, skew=True, ttl=0.3, recall=0.3,
    ),
    "neighbours": Mix(
        "one of four peers is at fault, one queue is not served: nobody else may notice",
        peers=4, quiet_pairs=True, fail=0.0, crash=0.02, partition=0.03, recall=0.3, tiny=True,
    ),
    "full disks": Mix(
        "disks fill up for a while, commits fail", faults=BAD_LINKS, full_disk=0.03, commit_errors=0.05, crash=0.02,
        told=True, close=0.01,
    ),
    "impostors": Mix(
        "other processes say that they are one of the peers",
        peers=3, faults=LinkFaults(delay_s=(0.0005, 0.05)), impostor=0.05, recall=0.3,
    ),
    "never returns": Mix(
        "one of the peers dies for ever, and is forgotten", peers=3, faults=BAD_LINKS, vanish=0.01, crash=0.02,
    ),
    "five peers": _FIVE_PEERS,
    "five peers at leisure": replace(
        _FIVE_PEERS, about="the same with a third of the traffic, so that more time passes between faults", pause_s=0.6
    ),
    "full queues": Mix(
        "backlogs fill inboxes on slow links: served queues may not notice",
        peers=3, quiet_pairs=True, faults=LinkFaults(delay_s=(0.04, 0.06)), fail=0.0, crash=0.01, partition=0.02,
        inbox_max_messages=240, burst=0.1,
    ),
    "killers": Mix(
        "messages that kill their process; callbacks are told outcomes",
        crash=0.01, kill=0.01, busy=0.1, recall=0.3, told=True, repeat=0.3,
    ),
    "odds": Mix(
        "damaged rows, large messages, suspended machines, messages given up",
        faults=BAD_LINKS, crash=0.02, suspend=0.01, repeat=0.3, large=0.005, damage=0.03, told=True, give_up=True,
        partition=0.02, busy=0.05,
    ),
    "permissions": Mix(
        "peers may send to some queues of each other, and some may recall",
        peers=3, faults=BAD_LINKS, permissions=True, recall=0.4, ttl=0.4, on_expiry=0.3, crash=0.03, close=0.01,
        reconnect=0.02, commit_errors=0.02, told=True,
    ),
    "keys": Mix(
        "peers know each other by keys, which are taken from them for a while; impostors have keys of their own",
        peers=3, faults=BAD_LINKS, keys=True, revoke=0.06, impostor=0.06, recall=0.3, ttl=0.3, crash=0.03, close=0.01,
        both_dial=0.5, full_disk=0.01, commit_errors=0.02,
    ),
    "swarm": Mix("each seed draws a mix of its own", swarm=True),
}  # fmt: skip
"""Workloads by name."""


def drawn(rng: Random, mix: Mix) -> Mix:
    """A mix of its own for this generator; only the number of steps is that of `mix`."""

    def perhaps(chance: float, most: float) -> float:
        return rng.uniform(most / 10, most) if rng.random() < chance else 0.0

    faults = LinkFaults(
        delay_s=rng.choice([(0.0002, 0.002), (0.0005, 0.05), (0.05, 0.4)]),
        loss=perhaps(0.5, 0.2), duplication=perhaps(0.5, 0.2), breaks=perhaps(0.5, 0.03),
        late=perhaps(0.5, 1.0), late_s=rng.choice([0.3, 5, 20]),
    )  # fmt: skip
    lossy = rng.random() < 0.5
    return Mix(
        steps=mix.steps,
        peers=rng.choice([2, 2, 2, 3, 4]),
        both_dial=rng.choice([0.0, 0.5, 1.0]),
        faults=rng.choice([LinkFaults(), faults, faults]),
        recall=rng.choice([0.05, 0.3, 0.9]),
        recall_where=rng.choice([0.0, 0.01, 0.05]),
        ttl=rng.choice([0.0, 0.2, 0.8]),
        delay=rng.choice([0.0, 0.1, 0.5]),
        fail=rng.choice([0.0, 0.1, 0.4]),
        reconnect=perhaps(0.3, 0.05),
        partition=perhaps(0.5, 0.06),
        half_open=perhaps(0.3, 0.05),
        full_disk=perhaps(0.2, 0.03),
        commit_errors=perhaps(0.2, 0.05),
        vanish=perhaps(0.1, 0.005),
        crash=perhaps(0.7, 0.08),
        close=perhaps(0.3, 0.03),
        power_loss=perhaps(0.5, 0.03) if lossy else 0.0,
        blackout=perhaps(0.3, 0.02) if lossy else 0.0,
        store_loss=perhaps(0.4, 0.03) if lossy else 0.0,
        rollback=perhaps(0.6, 0.06) if lossy else 0.0,
        relaxed=rng.random() < 0.3,
        tiny=rng.random() < 0.4,
        capacity=rng.choice([None, None, None, 60_000]),
        skew=rng.random() < 0.4,
        kill=perhaps(0.2, 0.02),
        suspend=perhaps(0.2, 0.02),
        repeat=perhaps(0.3, 0.5),
        give_up=rng.random() < 0.15,
        uncertain=rng.random() < 0.2,
        told=rng.random() < 0.3,
        busy=perhaps(0.5, 0.2),
    )


def chosen(seed: int, mix: Mix) -> Mix:
    """The mix of a run."""
    return drawn(Random(f"mix {seed}"), mix) if mix.swarm else mix


def with_steps(mix: Mix, steps: int | None) -> Mix:
    """The mix, with another number of steps if one is given."""
    return mix if steps is None else replace(mix, steps=steps)


_LINK_KINDS = ("loss", "duplication", "breaks", "late")
_OTHER_KINDS = ("fail", "refuse")


def kinds_of(mix: Mix) -> list[str]:
    """What is left to chance all the time and could be left out as a whole: faults of links, failing handlers."""
    links = [kind for kind in _LINK_KINDS if getattr(mix.faults, kind)]
    return links + [kind for kind in _OTHER_KINDS if getattr(mix, kind)]


def without(mix: Mix, kinds: Collection[str]) -> Mix:
    """The mix without these kinds of chance."""
    links: dict[str, Any] = {kind: 0.0 for kind in kinds if kind in _LINK_KINDS}
    others: dict[str, Any] = {kind: 0.0 for kind in kinds if kind in _OTHER_KINDS}
    return replace(mix, faults=replace(mix.faults, **links), **others)
