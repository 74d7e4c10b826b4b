"""Random workloads under faults: a batch of seeds for each mix, and every seed that once found something."""

from __future__ import annotations

from collections import Counter

import pytest

from zmqrel.testing.mixes import MIXES
from zmqrel.testing.sights import not_seen
from zmqrel.testing.workload import run

STEPS = 70
SEEDS = 8

FOUND = {
    "crashes": (1, 5),
    "all but losses": (25, 234, 2168),
    "relaxed": (1,),
    "tiny": (0, 4),
    "full": (1, 2, 6),
    "relaxed power": (0, 1, 3, 8, 11, 12, 14, 18, 22, 26, 28, 36, 218, 243, 267),
    "rollback": (0, 10, 13, 16, 41, 43),
    "everything": (0, 1, 14, 18, 70, 341, 380),
    "neighbours": (0, 2),
    "forgetting": (18,),
    "odds": (51,),
    "power": (10_003,),
    "conditions": (4, 12),
}
"""They failed once, for reasons that are mended. Later changes may have made other runs of them."""


@pytest.mark.long
@pytest.mark.parametrize("mix", MIXES)
def test_every_promise_holds(mix: str) -> None:
    seen: Counter[str] = Counter()
    for seed in range(1000, 1000 + SEEDS):
        seen += run(seed, mix, STEPS).seen()
    assert not_seen(mix, seen) == []


@pytest.mark.parametrize(("mix", "seed"), [(mix, seed) for mix, seeds in FOUND.items() for seed in seeds])
def test_what_was_found_once(mix: str, seed: int) -> None:
    run(seed, mix)


def test_one_seed_gives_one_run() -> None:
    one, other = run(7, "everything", 40), run(7, "everything", 40)
    assert one.network.now == other.network.now
    assert list(one.network.events) == list(other.network.events)
    assert one.checker.hand_overs == other.checker.hand_overs


@pytest.mark.long
@pytest.mark.parametrize("mix", MIXES)
def test_every_promise_holds_for_long(mix: str) -> None:
    for seed in range(10_000, 10_002):
        run(seed, mix)
