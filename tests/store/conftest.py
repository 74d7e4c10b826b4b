"""Every kind of store, and disks of a known size."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from tests.small_disk import mounted
from zmqrel.core.storage import Store
from zmqrel.store import LmdbStore, MemoryStore

MIB = 1024 * 1024
SMALL_DISK = 8 * MIB


class MakeStore(Protocol):
    def __call__(self, size: int = 64 * MIB) -> Store: ...


@pytest.fixture(params=["fsync", "relaxed", "memory"])
def make_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeStore]:
    """Makes a store of at most `size` bytes, of each kind in turn."""
    with ExitStack() as opened:

        def make(size: int = 64 * MIB) -> Store:
            if request.param == "memory":
                return MemoryStore(capacity=size)
            store = LmdbStore(tmp_path / "store", durability=request.param, map_size_bytes=size)
            opened.callback(store.close)
            return store

        yield make


@pytest.fixture
def store(make_store: MakeStore) -> Store:
    return make_store()


@pytest.fixture
def open_lmdb() -> Iterator[Callable[..., LmdbStore]]:
    """Opens stores on the disk and closes those that the test leaves open."""
    with ExitStack() as opened:

        def open_store(path: Path, durability: str = "fsync", **options: int) -> LmdbStore:
            store = LmdbStore(path, durability=durability, **options)
            opened.callback(store.close, clean=False)
            return store

        yield open_store


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of SMALL_DISK bytes in memory, mounted; needs root."""
    with mounted(tmp_path / "disk", SMALL_DISK) as disk:
        yield disk


@pytest.fixture
def open_ground() -> Iterator[Path]:
    """A directory that every user can reach, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)
