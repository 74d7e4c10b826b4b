"""A disk that is full, filled by the store itself or by someone else."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from contextlib import suppress
from itertools import count
from pathlib import Path

import lmdb
import pytest

from tests.store.conftest import SMALL_DISK
from tests.store.test_storage import ALL, drain, everything, fill
from zmqrel.errors import StoreDamaged, StoreFull
from zmqrel.store import InHandFile, LmdbStore, space

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


def relaxed_with_little_headroom(disk: Path, open_lmdb: OpenLmdb, turns: int) -> LmdbStore:
    """A store whose 250 changes since its last flush, in so many turns, touch more pages than it has free."""
    store = open_lmdb(disk / "store", "relaxed")
    store._space.most_headroom = 64 * 1024
    rows = [(b"\x10" + n.to_bytes(2, "big"), bytes(250)) for n in range(10_000)]
    store.put_many(rows)
    store.commit()
    store.flush()
    changed = rows[::40]
    for start in range(0, 250, 250 // turns):
        store.put_many([(key, b"other" + key) for key, _ in changed[start : start + 250 // turns]])
        store.commit()
    assert store._pending == 250
    return store


def test_what_relaxed_took_before_the_disk_filled_is_flushed_turn_by_turn(
    small_disk: Path, open_lmdb: OpenLmdb
) -> None:
    store = relaxed_with_little_headroom(small_disk, open_lmdb, turns=25)
    take_the_rest(small_disk)
    before = everything(store)
    store.flush()
    assert store._pending == 0
    assert everything(store) == before
    store.close(clean=False)
    (small_disk / "store" / "redo").unlink()
    assert everything(open_lmdb(small_disk / "store", "relaxed")) == before


def test_what_cannot_be_flushed_is_kept_until_it_can(small_disk: Path, open_lmdb: OpenLmdb) -> None:
    store = relaxed_with_little_headroom(small_disk, open_lmdb, turns=1)
    rest = take_the_rest(small_disk)
    before = everything(store)
    for _ in range(2):
        with pytest.raises(StoreFull, match="the disk is full"):
            store.flush()
        assert everything(store) == before
    with pytest.raises(StoreFull):
        store.close()
    store = open_lmdb(small_disk / "store", "relaxed")
    assert store.previous == "crashed"
    assert everything(store) == before
    rest.unlink()
    store.flush()
    assert everything(store) == before


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


class Failing:
    """A transaction whose commit fails as that of LMDB does when a disk takes a part of a write, or none."""

    def __init__(self, txn: lmdb.Transaction) -> None:
        self.txn = txn
        self.stat, self.abort = txn.stat, txn.abort

    def commit(self) -> None:
        error = lmdb.Error("mdb_txn_commit: Input/output error")
        error.code = errno.EIO
        raise error


def fail_to_commit(store: LmdbStore) -> None:
    store.put(b"\x10b", b"2")
    store._txn = Failing(store._txn)
    store.commit()


def test_a_partial_write_to_a_full_disk_is_told_as_a_full_disk(small_disk: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(small_disk / "store")
    store.put(b"\x10a", b"1")
    store.commit()
    take_the_rest(small_disk)
    with pytest.raises(StoreFull, match="the disk is full"):
        fail_to_commit(store)
    assert everything(store) == [(b"\x10a", b"1")]


def test_a_failed_write_to_a_disk_with_room_is_told_as_such(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(tmp_path)
    store.put(b"\x10a", b"1")
    store.commit()
    size = (tmp_path / "data.mdb").stat().st_size
    with pytest.raises(StoreDamaged, match=f"{tmp_path} cannot be read or written: .*; look at the disk"):
        fail_to_commit(store)
    assert (tmp_path / "data.mdb").stat().st_size == size
    assert everything(store) == [(b"\x10a", b"1")]
    store.put(b"\x10c", b"3")
    assert store.commit()


def cannot_allocate(fd: int, offset: int, length: int) -> None:
    raise OSError(errno.EOPNOTSUPP, "not here")


@pytest.mark.parametrize("absent", [False, True])
def test_where_blocks_cannot_be_allocated_they_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, absent: bool
) -> None:
    if absent:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    else:
        monkeypatch.setattr(os, "posix_fallocate", cannot_allocate, raising=False)
    path = tmp_path / "file"
    path.write_bytes(b"x" * 5_000)
    with path.open("r+b") as file:
        space.fill(file.fileno(), 4_096, 3_000_000, 5_000)
    assert path.read_bytes() == b"x" * 5_000 + bytes(2_995_000)
    assert path.stat().st_blocks * 512 >= 3_000_000
    store = LmdbStore(tmp_path / "store")
    fill_once(store)
    store.close()
