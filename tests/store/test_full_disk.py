"""A disk that is full, filled by the store itself or by someone else."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import pytest

from tests.store.conftest import SMALL_DISK
from tests.store.test_storage import ALL, drain, everything, fill
from zmqrel.errors import StoreFull
from zmqrel.store import InHandFile, LmdbStore

OpenLmdb = Callable[..., LmdbStore]
BOTH = pytest.mark.parametrize("durability", ["fsync", "relaxed"])


def take_the_rest(disk: Path) -> Path:
    """Write a file that leaves not one block."""
    rest = disk / "of someone else"
    with rest.open("wb", buffering=0) as file, suppress(OSError):
        while file.write(bytes(65_536)):
            pass
    assert os.statvfs(disk).f_bavail == 0
    return rest


@BOTH
@pytest.mark.parametrize("value_bytes", [3_000, 40_000])
def test_it_refuses_then_empties_then_takes_again(
    small_disk: Path, open_lmdb: OpenLmdb, durability: str, value_bytes: int
) -> None:
    store = open_lmdb(small_disk / "store", durability)
    numbers = count()
    taken = []
    for _ in range(3):
        taken.append(fill(store, numbers, value_bytes))
        store.set_growing(False)
        assert drain(store) == taken[-1]
        assert store.room()
        store.set_growing(True)
    assert min(taken) * 4 * value_bytes > 0.4 * SMALL_DISK
    store.close()


@BOTH
def test_it_tells_what_is_full_and_keeps_what_it_took(small_disk: Path, open_lmdb: OpenLmdb, durability: str) -> None:
    store = open_lmdb(small_disk / "store", durability)
    taken = fill(store, count(), 3_000)
    assert not store.room()
    with pytest.raises(StoreFull, match=f"{small_disk}/store takes nothing new: the disk is full; make room"):
        fill_once(store)
    store.close(clean=False)
    store = open_lmdb(small_disk / "store", durability)
    assert len(store.keys(b"\x10", b"\x11", ALL)) == taken * 4


def fill_once(store: LmdbStore) -> None:
    for number in range(1_000):
        store.put(b"\x14" + number.to_bytes(8, "big"), bytes(3_000))
    store.commit()


@BOTH
def test_someone_else_takes_the_rest_of_the_disk(small_disk: Path, open_lmdb: OpenLmdb, durability: str) -> None:
    store = open_lmdb(small_disk / "store", durability)
    for number in range(400):
        store.put(b"\x10" + number.to_bytes(8, "big"), bytes(3_000))
        store.put(b"\x12" + number.to_bytes(8, "big")[::-1], number.to_bytes(8, "big"))
        store.commit()
    rest = take_the_rest(small_disk)
    with pytest.raises(StoreFull):
        fill_once(store)
    assert not store.room()
    store.set_growing(False)
    assert drain(store) == 100
    # Its own pages are free again, though the disk is as full as before.
    assert store.room()
    store.set_growing(True)
    store.put(b"\x10a", bytes(3_000))
    assert store.commit()
    rest.unlink()
    assert fill(store, count(1_000), 3_000) > 200
    store.close()


def test_what_relaxed_took_before_the_disk_filled_is_flushed_in_its_headroom(
    small_disk: Path, open_lmdb: OpenLmdb
) -> None:
    store = open_lmdb(small_disk / "store", "relaxed")
    rows = [(b"\x10" + os.urandom(8), bytes(200)) for _ in range(3_000)]
    store.put_many(sorted(rows))
    store.commit()
    store.flush()
    for start in range(0, 400, 20):
        store.put_many(sorted((key, b"other") for key, _ in rows[start : start + 20]))
        store.commit()
    take_the_rest(small_disk)
    before = everything(store)
    store.flush()
    assert everything(store) == before
    store.close(clean=False)
    assert everything(open_lmdb(small_disk / "store", "fsync")) == before


@BOTH
def test_a_full_disk_is_no_reason_not_to_open(small_disk: Path, open_lmdb: OpenLmdb, durability: str) -> None:
    store = open_lmdb(small_disk / "store", durability)
    taken = fill(store, count(), 3_000)
    store.close()
    take_the_rest(small_disk)
    store = open_lmdb(small_disk / "store", durability)
    assert store.previous == "clean"
    store.set_growing(False)
    assert drain(store) == taken
    store.close()


def test_a_new_store_on_a_full_disk(small_disk: Path, open_lmdb: OpenLmdb) -> None:
    (small_disk / "store").mkdir()
    rest = take_the_rest(small_disk)
    with pytest.raises(StoreFull, match=f"{small_disk}/store cannot be written"):
        open_lmdb(small_disk / "store")
    rest.unlink()
    assert open_lmdb(small_disk / "store").previous == "new"


def test_a_table_of_rows_in_hand_that_cannot_grow(small_disk: Path) -> None:
    table = InHandFile(small_disk / "in_hand")
    table.open()
    rest = take_the_rest(small_disk)
    slots: list[int] = []

    def take_all() -> None:
        while True:
            slots.append(table.take(1, len(slots), 1))

    with pytest.raises(StoreFull, match=f"{small_disk}/in_hand cannot grow: the disk is full"):
        take_all()
    table.free(slots.pop())
    slots.append(table.take(1, 7, 1))
    rest.unlink()
    slots.append(table.take(1, 8, 1))
    table.close()
    assert len(table.open()) == len(slots)
    table.close()


def test_a_new_table_of_rows_in_hand_on_a_full_disk(small_disk: Path) -> None:
    take_the_rest(small_disk)
    with pytest.raises(StoreFull, match=f"{small_disk}/in_hand"):
        InHandFile(small_disk / "in_hand").open()
