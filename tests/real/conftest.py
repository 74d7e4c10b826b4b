"""Nets of peers, closed and looked over at the end of each test."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.real import wan
from tests.real.net import Net
from tests.small_disk import mounted


@pytest.fixture(params=["tcp", "ipc", "memory"])
def net(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Peers over each transport; "memory" is tcp with stores in memory."""
    with Net(request.param) as net:
        yield net


@pytest.fixture(params=["ipc", "memory"])
def swift(request: pytest.FixtureRequest) -> Iterator[Net]:
    """Each transport and each store once, for what differs little between them."""
    with Net(request.param) as net:
        yield net


@pytest.fixture
def lasting() -> Iterator[Net]:
    """Peers over tcp whose stores outlive them; test_relaxed.py tells the same over ipc."""
    with Net("tcp") as net:
        yield net


@pytest.fixture
def local() -> Iterator[Net]:
    """Peers over ipc, with stores on the disk: for what has nothing to do with the transport."""
    with Net("ipc") as net:
        yield net


@pytest.fixture(scope="session")
def hosts_possible() -> None:
    """Skips where hosts with a network between them cannot be made, and says why."""
    reason = wan.why_not()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB in memory, mounted; needs root. To be asked for before the peers that use it."""
    with mounted(tmp_path / "disk", 16 * 1024 * 1024) as disk:
        yield disk
