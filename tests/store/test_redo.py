"""The redo log of "relaxed": power loss takes the last turns, in order, and nothing else."""

from __future__ import annotations

import errno
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from zmqrel.errors import StoreDamaged
from zmqrel.store import LmdbStore, directory
from zmqrel.store.redo import RedoLog, new_token

OpenLmdb = Callable[..., LmdbStore]
ANY = 10**9


def read(path: Path, token: bytes) -> list[list[tuple[bytes, bytes | None]]]:
    log = RedoLog(path)
    records = [list(changes) for changes in log.records(token)]
    log.close()
    return records


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "redo"


def test_records_are_read_as_they_were_written(path: Path) -> None:
    token = new_token()
    log = RedoLog(path)
    log.restart(token)
    assert log.append([(b"a", b"1"), (b"b", None)], ANY)
    assert log.append([(b"c", b"")], ANY)
    log.close()
    assert read(path, token) == [[(b"a", b"1"), (b"b", None)], [(b"c", b"")]]


def test_records_before_a_restart_are_not_read(path: Path) -> None:
    log = RedoLog(path)
    first, second = new_token(), new_token()
    log.restart(first)
    for _ in range(5):
        log.append([(b"a", b"1")], ANY)
    log.restart(second)
    log.append([(b"b", b"2")], ANY)
    log.close()
    assert read(path, second) == [[(b"b", b"2")]]
    assert read(path, first) == []
    assert read(path, new_token()) == []


def test_records_go_on_behind_those_that_were_read(path: Path) -> None:
    token = new_token()
    for number in range(3):
        log = RedoLog(path)
        assert len(list(log.records(token))) == number
        log.append([(b"a", bytes([number]))], ANY)
        log.close()


def test_a_record_beyond_the_limit_is_not_written(path: Path) -> None:
    token = new_token()
    log = RedoLog(path)
    log.restart(token)
    assert log.append([(b"a", bytes(100))], 300)
    assert not log.append([(b"b", bytes(300))], 300)
    assert log.append([(b"c", b"")], 300)
    log.close()
    assert [changes[0][0] for changes in read(path, token)] == [b"a", b"c"]


@pytest.mark.parametrize("seed", range(20))
def test_of_a_torn_log_the_whole_records_at_its_beginning_are_read(path: Path, seed: int) -> None:
    draw = random.Random(seed)
    token = new_token()
    log = RedoLog(path)
    log.restart(token)
    written = [[(b"k", draw.randbytes(draw.randrange(200)))] for _ in range(20)]
    ends = []
    for changes in written:
        log.append(changes, ANY)
        ends.append(log.position)
    log.close()
    torn_at = draw.randrange(ends[-1])
    with path.open("r+b") as file:
        if draw.random() < 0.5:
            file.truncate(torn_at)
        else:
            byte = path.read_bytes()[torn_at]
            file.seek(torn_at)
            file.write(bytes([byte ^ 0x10]))
    assert read(path, token) == written[: sum(end <= torn_at for end in ends)]


def turn(store: LmdbStore, number: int, draw: random.Random) -> None:
    """A turn that leaves `number` behind in three tables, and writes and deletes among a thousand other rows."""
    for table in (16, 17, 18):
        store.put(bytes([table]), number.to_bytes(8, "big"))
    prefix = b"\x20" + draw.randbytes(1)
    store.put_many([(prefix + bytes([n]), draw.randbytes(300)) for n in range(4)])
    store.pop(b"\x20" + draw.randbytes(1), b"\x21", 1)
    store.commit()


def test_a_large_turn_is_flushed_by_its_commit(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    """With all that came before it; the log has no part in that."""
    store = open_lmdb(tmp_path / "store", "relaxed")
    for number, size in enumerate((1, 1, 300 * 1024), 1):
        store.put(bytes([16, number]), bytes(size))
        store.commit()
        assert store.unflushed is (number < 3)
    shutil.copytree(tmp_path / "store", tmp_path / "disk")
    (tmp_path / "disk" / "redo").write_bytes(bytes((tmp_path / "disk" / "redo").stat().st_size))
    assert open_lmdb(tmp_path / "disk", "relaxed").keys(b"\x10", b"\x11", 9) == [b"\x10\x01", b"\x10\x02", b"\x10\x03"]


def test_it_tells_how_long_a_flush_took(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(tmp_path, "relaxed")
    assert store.flush_us is None
    store.put(b"\x10", b"1")
    store.commit()
    store.flush()
    assert store.flush_us is not None
    assert store.flush_us > 0


@pytest.mark.parametrize("seed", range(15))
def test_power_loss_takes_the_last_turns_only(tmp_path: Path, open_lmdb: OpenLmdb, seed: int) -> None:
    """The disk is as it was at the last flush, but for the redo log, of which any blocks may have come through."""
    draw = random.Random(seed)
    store = open_lmdb(tmp_path / "store", "relaxed")
    for number in range(1, 41):
        turn(store, number, draw)
    store.flush()
    shutil.copytree(tmp_path / "store", tmp_path / "disk")
    for number in range(41, 81):
        turn(store, number, draw)
    lose_blocks(tmp_path / "store" / "redo", tmp_path / "disk" / "redo", draw)
    after = open_lmdb(tmp_path / "disk", "relaxed")
    seen = {after.get(bytes([table])) for table in (16, 17, 18)}
    assert len(seen) == 1
    assert 40 <= int.from_bytes(seen.pop() or b"", "big") <= 80
    turn(after, 81, draw)
    after.flush()


def test_a_log_that_was_cut_is_told_whether_it_holds_something_or_not(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(tmp_path, "relaxed")
    store.put(b"\x10", bytes(500))
    store.commit()
    store.flush()
    store.check()
    os.truncate(tmp_path / "redo", 0)
    with pytest.raises(StoreDamaged, match="redo was cut while it was in use, from [0-9]+ to 0 bytes"):
        store.check()


def test_a_value_that_shrinks_between_two_flushes_is_no_damage(
    tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_lmdb(tmp_path, "relaxed")
    for size in (20_000, 10_000, 100):
        store.put(b"\x10", bytes(size))
        store.commit()
    store.close(clean=False)
    store = open_lmdb(tmp_path, "relaxed")  # which does all of it over in one transaction
    store.flush()
    store.close(clean=False)
    monkeypatch.setattr(directory, "boot_id", lambda: "another")
    store = open_lmdb(tmp_path, "relaxed")
    assert store.set_aside is None
    assert store.get(b"\x10") == bytes(100)


def test_what_stands_behind_a_tear_never_comes_back(
    tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_lmdb(tmp_path, "relaxed")
    assert store._redo is not None
    ends = []
    for key in (b"\x10a", b"\x10b", b"\x10c"):
        store.put(key, bytes(500))
        store.commit()
        ends.append(store._redo.position)
    store.close(clean=False)
    with (tmp_path / "redo").open("r+b") as file:
        file.seek(ends[0] + 100)
        file.write(b"\x99")
    monkeypatch.setattr(directory, "boot_id", lambda: "another")
    store = open_lmdb(tmp_path, "relaxed")
    assert store.keys(b"\x10", b"\x11", 9) == [b"\x10a"]
    store.put(b"\x10d", bytes(500))  # as long as what was torn
    store.commit()
    store.close(clean=False)
    assert open_lmdb(tmp_path, "relaxed").keys(b"\x10", b"\x11", 9) == [b"\x10a", b"\x10d"]


def test_a_log_that_cannot_be_read_is_not_written_over(
    tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_lmdb(tmp_path, "relaxed")
    for number in range(10):
        store.put(b"\x10" + bytes([number]), b"x")
        store.commit()
    with monkeypatch.context() as broken:
        broken.setattr(store, "_commit_pages", refuse_pages)
        broken.setattr(RedoLog, "_body", Unreadable(store._redo, good=13))
        with pytest.raises(StoreDamaged, match="look at the disk"):
            store.flush()
    assert not store.room(), "it is closed"
    assert len(open_lmdb(tmp_path, "relaxed").keys(b"\x10", b"\x11", 99)) == 10


def refuse_pages() -> None:
    raise lmdb.MapFullError("mdb_txn_commit: MDB_MAP_FULL")


class Unreadable:
    """Reads so many records and end marks of a log, and fails then."""

    def __init__(self, log: RedoLog | None, good: int) -> None:
        assert log is not None
        self._read, self._good = log._body, good

    def __call__(self) -> bytes | None:
        self._good -= 1
        if self._good < 0:
            raise OSError(errno.EIO, "the disk does not answer")
        return self._read()


def lose_blocks(written: Path, disk: Path, draw: random.Random) -> None:
    old, new = disk.read_bytes(), written.read_bytes()
    blocks = []
    for start in range(0, len(new), 512):
        source = new if draw.random() < 0.9 else old.ljust(len(new), b"\0")
        blocks.append(source[start : start + 512])
    disk.write_bytes(b"".join(blocks))


def test_an_old_copy_of_the_data_ignores_a_newer_log(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(tmp_path, "relaxed")
    store.put(b"\x10", b"old")
    store.commit()
    store.flush()
    copy = (tmp_path / "data.mdb").read_bytes()
    store.put(b"\x10", b"newer")
    store.commit()
    store.flush()
    store.put(b"\x10", b"newest")
    store.commit()
    store.close(clean=False)
    (tmp_path / "data.mdb").write_bytes(copy)
    assert open_lmdb(tmp_path, "relaxed").get(b"\x10") == b"old"


def test_a_log_that_cannot_be_written_is_a_flush(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(tmp_path, "relaxed")
    assert store._redo is not None
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, store._redo._fd)
    os.close(full)
    store.put(b"\x10", b"1")
    assert store.commit()
    store.close(clean=False)
    assert open_lmdb(tmp_path, "relaxed").get(b"\x10") == b"1"
