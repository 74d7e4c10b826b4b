"""The launched runs of tests/cli, for whole examples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.cli.launching import ROOT, Launched

Example = Callable[..., Launched]


@pytest.fixture
def example() -> Iterator[Example]:
    """Starts `zmqrel launch` on an example, with a data directory of the test's own."""
    started: list[Launched] = []

    def start(name: str, data: Path, *arguments: str) -> Launched:
        topology = ROOT / "examples" / name / "topology.toml"
        started.append(Launched(topology, "--data", str(data), *arguments))
        return started[-1]

    yield start
    for launched in started:
        launched.leave_nothing()


@pytest.fixture
def orders(example: Example) -> Callable[..., Launched]:
    """Starts the orders."""
    return partial(example, "orders")
