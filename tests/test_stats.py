"""The keys of `Peer.stats()` are those that the documentation names, and nothing is counted that it does not name."""

from __future__ import annotations

import re
from pathlib import Path

import zmqrel
from zmqrel.core.stats import COUNTERS, LEVELS

_ROOT = Path(__file__).resolve().parent.parent


def test_the_page_names_every_key_and_what_it_counts() -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (_ROOT / "docs" / "stats.md").read_text(), re.MULTILINE))
    assert rows == COUNTERS | LEVELS


def test_a_peer_tells_all_keys_from_the_start() -> None:
    with zmqrel.Peer("one", zmqrel.MEMORY) as peer:
        stats = peer.stats()
    assert set(stats) == set(COUNTERS) | set(LEVELS)
    assert set(peer.stats()) == set(stats)


def test_the_core_counts_nothing_without_a_name() -> None:
    counted = set()
    for path in (_ROOT / "zmqrel" / "core").glob("*.py"):
        counted |= set(re.findall(r"counters\[\"(\w+)\"\]|\bevent\(\s*\"(\w+)\"", path.read_text()))
    names = {name for pair in counted for name in pair if name}
    assert names
    assert names <= set(COUNTERS)
