"""Connected peers that do nothing: what they cost the one that they are connected to."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any

import zmqrel
from bench.backlogs import memory
from zmqrel.bench.measure import Case, Contestant, Sample
from zmqrel.bench.processes import Line, Part, cpu_s, now_s, part

_PROCESSES = 8
_WATCHED_S = 10.0
_WAIT_S = 300.0


_PATIENT: Mapping[str, Any] = {"heartbeat_s": 10.0, "liveness_s": 30.0}


def idle(peers: int) -> list[Case]:
    """The only case: with the options as they are, which the target is of, and with rarer heartbeats."""
    rare = f"{peers:,} peers, heartbeat_s={_PATIENT['heartbeat_s']:g}"
    contestants = (
        Contestant(f"{peers:,} peers", partial(_idle, peers, {})),
        Contestant(rare, partial(_idle, peers, _PATIENT)),
    )
    return [Case("idle", "connected idle peers", "cpu percent", contestants, rounds=1)]


def _idle(peers: int, options: Mapping[str, Any], place: Path) -> Sample:
    with ExitStack() as stack:
        hub = stack.enter_context(part(_hub, str(place), peers, options))
        endpoint = hub.ask()
        groups: list[Part] = [
            stack.enter_context(part(group, endpoint, range(number, peers, _PROCESSES), "hub", options))
            for number in range(_PROCESSES)
        ]
        for started in groups:
            started.ask()
        sample: Sample = hub.ask()
        return sample


def _hub(line: Line, place: str, peers: int, options: Mapping[str, Any]) -> None:
    """Wait until all have connected, then look at what this process uses."""
    bind = "tcp://127.0.0.1:*"
    with zmqrel.Peer("hub", Path(place) / "hub", bind=bind, accept="any", **options) as peer:
        before = memory()["private MB"]
        line.tell(peer.endpoints[0])
        while peer.stats()["peers_connected"] < peers:
            time.sleep(0.05)
        used_s, began_s = cpu_s(), now_s()
        time.sleep(_WATCHED_S)
        used_s, watched_s = cpu_s() - used_s, now_s() - began_s
        after = memory()["private MB"]
        line.tell({"cpu percent": 100 * used_s / watched_s, "kB per peer": (after - before) * 1024 / peers})


def group(
    line: Line, endpoint: str, numbers: range, hub: str = "hub", options: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Many peers in one process, each with a thread and a socket of its own, all connected to one."""
    with ExitStack() as stack:
        for number in numbers:
            stack.enter_context(zmqrel.Peer(_name(number), zmqrel.MEMORY, peers={hub: endpoint}, **options))
        line.tell("started")
        line.hear()


def _name(number: int) -> str:
    return f"idle{number}"
