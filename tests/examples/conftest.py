"""The launched runs of tests/cli, for whole examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.cli.launching import ROOT, Launched


@pytest.fixture
def orders() -> Iterator[Callable[..., Launched]]:
    """Starts `zmqrel launch` on the orders, with a data directory of the test's own."""
    started: list[Launched] = []

    def start(data: Path, *arguments: str) -> Launched:
        topology = ROOT / "examples" / "orders" / "topology.toml"
        started.append(Launched(topology, "--data", str(data), *arguments))
        return started[-1]

    yield start
    for launched in started:
        launched.leave_nothing()
