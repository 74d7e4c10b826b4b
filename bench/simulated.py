"""How much faster than real time five peers are in the simulator, by how much they send each other."""

from __future__ import annotations

import time
from functools import partial
from itertools import permutations
from pathlib import Path

from zmqrel.bench.measure import Case, Contestant, Sample
from zmqrel.testing import Network

_NAMES = ("ada", "bob", "cyd", "dan", "eve")
_RATES = (1, 5, 10, 40)
"""Messages a second, of all peers together."""


def simulated(virtual_s: int) -> list[Case]:
    """The only case."""
    contestants = tuple(Contestant(f"{rate} a second", partial(_pace, rate, virtual_s)) for rate in _RATES)
    return [Case("simulator", "five peers in the simulator, messages", "times real time", contestants)]


def _pace(rate: int, virtual_s: int, _place: Path) -> Sample:
    with Network(seed=1) as network:
        for at, name in enumerate(_NAMES):
            network.peer(name, {other: at < _NAMES.index(other) for other in _NAMES if other != name})
            network.handler(name, "default", _handle)
        network.advance(5)  # all have met
        pairs = list(permutations(_NAMES, 2))
        begun_s, used_s = network.now, time.process_time()
        for number in range(rate * virtual_s):
            sender, receiver = pairs[number % len(pairs)]
            network.send(sender, receiver, number)
            network.advance(1 / rate)
        used_s = time.process_time() - used_s
        return {"times real time": (network.now - begun_s) / used_s, "both us": 1e6 * used_s / (rate * virtual_s)}


def _handle(_delivery: object) -> None:
    pass
