"""Connected peers that do nothing: what they cost the one that they are connected to."""

from __future__ import annotations

import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path

import zmqrel
from bench.backlogs import memory
from zmqrel.bench.measure import Case, Contestant, Sample
from zmqrel.bench.processes import Line, Part, cpu_s, now_s, part

_PROCESSES = 8
_WATCHED_S = 10.0
_WAIT_S = 300.0


def idle(peers: int) -> list[Case]:
    """The only case."""
    contestant = Contestant(f"{peers:,} peers", partial(_idle, peers))
    return [Case("idle", "connected idle peers", "cpu percent", (contestant,), rounds=1)]


def _idle(peers: int, place: Path) -> Sample:
    with ExitStack() as stack:
        hub = stack.enter_context(part(_hub, str(place), peers))
        endpoint = hub.ask()
        groups: list[Part] = [
            stack.enter_context(part(group, endpoint, range(number, peers, _PROCESSES))) for number in range(_PROCESSES)
        ]
        for group in groups:
            group.ask()
        sample: Sample = hub.ask()
        return sample


def _hub(line: Line, place: str, peers: int) -> None:
    """Wait until all have connected, then look at what this process uses."""
    bind = "tcp://127.0.0.1:*"
    with zmqrel.Peer("hub", Path(place) / "hub", bind=bind, accept="any") as peer:
        before = memory()["private MB"]
        line.tell(peer.endpoints[0])
        while peer.stats()["peers_connected"] < peers:
            time.sleep(0.05)
        used_s, began_s = cpu_s(), now_s()
        time.sleep(_WATCHED_S)
        used_s, watched_s = cpu_s() - used_s, now_s() - began_s
        after = memory()["private MB"]
        line.tell({"cpu percent": 100 * used_s / watched_s, "kB per peer": (after - before) * 1024 / peers})


def group(line: Line, endpoint: str, numbers: range, hub: str = "hub") -> None:
    """Many peers in one process, each with a thread and a socket of its own, all connected to one."""
    with ExitStack() as stack:
        for number in numbers:
            stack.enter_context(zmqrel.Peer(_name(number), zmqrel.MEMORY, peers={hub: endpoint}))
        line.tell("started")
        line.hear()


def _name(number: int) -> str:
    return f"idle{number}"
