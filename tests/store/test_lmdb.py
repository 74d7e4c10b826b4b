"""The store on disk: what it leaves there, who may open it, how it was left, and what happens when it is damaged."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from zlib import crc32

import lmdb
import pytest

from tests.store.processes import NOBODY, Child, in_fork
from zmqrel.errors import ConfigError, StoreDamaged, StoreFull, StoreLocked, StoreTooNew
from zmqrel.store import LmdbStore, boot, directory

OpenLmdb = Callable[..., LmdbStore]
BOTH = pytest.mark.parametrize("durability", ["fsync", "relaxed"])

# Commits turn after turn, three rows each, and says so; the parent kills it.
COMMIT_FOR_EVER = """
import sys
from itertools import count
from zmqrel.store import LmdbStore
store = LmdbStore(sys.argv[1], durability=sys.argv[2])
for turn in count():
    for table in (16, 17, 18):
        store.put(bytes([table]) + turn.to_bytes(8, "big"), b"x" * 500)
    store.commit()
    if turn % 40 == 39:
        store.flush()
    print(turn, flush=True)
"""

HOLD = """
import sys
from zmqrel.store import LmdbStore
store = LmdbStore(sys.argv[1])
print("open", flush=True)
sys.stdin.readline()
"""


def fill_and_leave(path: Path, durability: str = "fsync", rows: int = 2_000) -> None:
    """Make a store with some hundred pages and close it cleanly."""
    store = LmdbStore(path, durability=durability)
    store.put_many([(b"\x10" + n.to_bytes(8, "big"), bytes(400)) for n in range(rows)])
    store.commit()
    store.close()


def as_if_rebooted(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the store at `path` open, and let this be the next boot."""
    LmdbStore(path, durability="relaxed").close(clean=False)
    monkeypatch.setattr(directory, "boot_id", lambda: "another")


@BOTH
def test_what_was_committed_is_there_when_opened_again(tmp_path: Path, open_lmdb: OpenLmdb, durability: str) -> None:
    store = open_lmdb(tmp_path, durability)
    store.put(b"\x10a", b"1")
    store.commit()
    store.put(b"\x10b", b"2")
    store.close()
    store = open_lmdb(tmp_path, durability)
    assert store.previous == "clean"
    assert store.scan(b"\x01", b"\xff", 10) == [(b"\x10a", b"1")]


@BOTH
def test_a_store_left_open_is_found_crashed(tmp_path: Path, open_lmdb: OpenLmdb, durability: str) -> None:
    store = open_lmdb(tmp_path, durability)
    store.put(b"\x10a", b"1")
    store.commit()
    store.close(clean=False)
    store = open_lmdb(tmp_path, durability)
    assert store.previous == "crashed"
    assert store.get(b"\x10a") == b"1"


def test_a_store_left_open_before_a_reboot_is_found_so(
    tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_rebooted(tmp_path, monkeypatch)
    assert open_lmdb(tmp_path).previous == "rebooted"


def test_who_leaves_relaxed_after_a_reboot_knows_it_until_a_life_ended_well(
    tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_if_rebooted(tmp_path, monkeypatch)
    store = open_lmdb(tmp_path)
    assert store.was_relaxed
    store.put(b"\x10a", b"1")
    store.commit()
    store.close(clean=False)  # before what may be missing was noted
    store = open_lmdb(tmp_path)
    assert store.was_relaxed
    assert store.get(b"\x10a") == b"1"
    store.close()
    assert not open_lmdb(tmp_path).was_relaxed


@pytest.mark.parametrize("clean", [True, False])
def test_what_is_noted_of_the_clock_holds_for_one_boot(
    tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch, clean: bool
) -> None:
    store = open_lmdb(tmp_path)
    assert store.clock_ahead_us is None
    store.note_clock(-123_456_789)
    store.close(clean)
    for _ in range(2):  # also through a life that notes nothing
        store = open_lmdb(tmp_path)
        assert store.previous == ("clean" if clean else "crashed")
        assert store.clock_ahead_us == -123_456_789
        store.close(clean)
    monkeypatch.setattr(directory, "boot_id", lambda: "another")
    assert open_lmdb(tmp_path).clock_ahead_us is None


def test_a_container_whose_boot_time_clock_is_another_finds_what_was_noted_of_the_clock(
    tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "store"
    store = open_lmdb(path)
    store.note_clock(5_000_000)
    store.close()
    offsets = tmp_path / "offsets"
    offsets.write_text("monotonic           7         0\nboottime          -10  250000000\n")
    monkeypatch.setattr(boot, "_CLOCK_OFFSETS", offsets)
    store = open_lmdb(path)
    assert store.clock_ahead_us == 5_000_000 + 9_750_000
    store.note_clock(store.clock_ahead_us)
    store.close()
    monkeypatch.setattr(boot, "_CLOCK_OFFSETS", tmp_path / "absent")
    assert open_lmdb(path).clock_ahead_us == 5_000_000


def test_a_record_of_its_life_that_says_nothing_of_the_clock(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    fill_and_leave(tmp_path)
    body = f"zmqrel store, format 1\nclosed\n{boot.boot_id()}\n"
    (tmp_path / "life").write_text(f"{body}{crc32(body.encode()):08x}\n".ljust(128))
    store = open_lmdb(tmp_path)
    assert (store.previous, store.clock_ahead_us) == ("clean", None)


def test_without_a_boot_id_an_unclean_stop_counts_as_a_reboot(
    tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(boot, "_BOOT_ID", tmp_path / "absent")
    open_lmdb(tmp_path).close(clean=False)
    assert open_lmdb(tmp_path).previous == "rebooted"


@pytest.mark.parametrize("content", [b"", b"nonsense", b"\xff" * 128])
def test_an_unreadable_record_of_its_life_counts_as_a_reboot(
    tmp_path: Path, open_lmdb: OpenLmdb, content: bytes
) -> None:
    fill_and_leave(tmp_path)
    (tmp_path / "life").write_bytes(content)
    store = open_lmdb(tmp_path)
    assert store.previous == "rebooted"
    assert len(store.keys(b"\x10", b"\x11", 10_000)) == 2_000


@BOTH
def test_killed_at_work_it_has_every_turn_whole(tmp_path: Path, open_lmdb: OpenLmdb, durability: str) -> None:
    with Child(COMMIT_FOR_EVER, str(tmp_path / "store"), durability) as child:
        told = [child.line() for _ in range(100)]
        told += child.kill()
    store = open_lmdb(tmp_path / "store", durability)
    assert store.previous == "crashed"
    tables = [store.keys(bytes([t]), bytes([t + 1]), 10**6) for t in (16, 17, 18)]
    turns = [[key[1:] for key in table] for table in tables]
    assert turns[0] == turns[1] == turns[2]
    assert turns[0] == [n.to_bytes(8, "big") for n in range(len(turns[0]))]
    # The last one may have been committed and not yet told.
    assert len(turns[0]) in (int(told[-1]) + 1, int(told[-1]) + 2)


def test_durability_may_change_from_life_to_life(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    for life, durability in enumerate(["relaxed", "fsync", "relaxed", "relaxed", "fsync"]):
        store = open_lmdb(tmp_path, durability)
        assert len(store.scan(b"\x10", b"\x11", 100)) == life
        store.put(b"\x10" + bytes([life]), b"")
        store.commit()
        store.close(clean=False)
    assert not (tmp_path / "redo").exists()


def test_files_are_for_their_owner_only(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    open_lmdb(tmp_path / "a" / "store", "relaxed")
    assert stat.S_IMODE((tmp_path / "a" / "store").stat().st_mode) == 0o700
    files = list((tmp_path / "a" / "store").iterdir())
    assert {file.name for file in files} == {"data.mdb", "life", "lock", "redo"}
    assert {stat.S_IMODE(file.stat().st_mode) for file in files} == {0o600}


# Who may open it


def test_locked_by_another_process(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    with Child(HOLD, str(tmp_path)) as child:
        assert child.line() == "open"
        with pytest.raises(StoreLocked, match=rf"{tmp_path} is in use by process {child.process.pid}"):
            open_lmdb(tmp_path)
    assert open_lmdb(tmp_path).previous == "crashed"


def test_locked_by_this_process(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(tmp_path)
    with pytest.raises(StoreLocked, match="already open in this process"):
        open_lmdb(tmp_path)
    store.close()
    open_lmdb(tmp_path)


def test_a_forked_child_neither_keeps_the_lock_nor_frees_it(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(tmp_path)
    answer = in_fork(lambda: f"opened {LmdbStore(tmp_path).previous}")
    assert "StoreLocked" in answer
    until, end_it = os.pipe()
    told, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(end_it)
        os.write(tell, b"!")
        os.read(until, 1)
        os._exit(0)
    os.read(told, 1)
    store.put(b"\x10a", b"1")
    store.commit()
    store.close()
    # The child lives and holds nothing.
    assert open_lmdb(tmp_path).get(b"\x10a") == b"1"
    os.close(end_it)
    assert os.waitpid(child, 0)[1] == 0
    for fd in (until, told, tell):
        os.close(fd)


def test_a_file_instead_of_a_directory(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(ConfigError, match=f"store takes a directory, and {tmp_path}/file is a file"):
            open_lmdb(path)


def test_a_directory_that_cannot_be_written(open_ground: Path) -> None:
    read_only = open_ground / "read only"
    read_only.mkdir(mode=0o555)
    user = NOBODY if os.geteuid() == 0 else None
    if user is not None:
        os.chown(read_only, user, user)
    answer = in_fork(lambda: LmdbStore(read_only).previous, user)
    assert "ConfigError" in answer
    assert f"{read_only} cannot be read and written" in answer
    answer = in_fork(lambda: LmdbStore(read_only / "below").previous, user)
    assert f"{read_only}/below cannot be made: Permission denied" in answer


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory for another user")
def test_a_store_of_someone_else_is_refused_to_root_too(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    open_lmdb(tmp_path / "store").close()
    os.chown(tmp_path / "store", NOBODY, NOBODY)
    with pytest.raises(ConfigError, match=f"{tmp_path}/store belongs to user {NOBODY}, this is user 0; .* its owner"):
        open_lmdb(tmp_path / "store")
    os.chown(tmp_path / "store", 0, 0)
    os.chown(tmp_path / "store" / "data.mdb", NOBODY, NOBODY)
    with pytest.raises(ConfigError, match=f"{tmp_path}/store/data.mdb belongs to user {NOBODY}, this is user 0"):
        open_lmdb(tmp_path / "store")
    os.chown(tmp_path / "store" / "data.mdb", 0, 0)
    assert open_lmdb(tmp_path / "store").previous == "clean"


def test_a_store_that_others_could_read_is_closed_to_them(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    """As it is after `cp -r`."""
    open_lmdb(tmp_path / "store").close()
    for path in (tmp_path / "store", *(tmp_path / "store").iterdir()):
        path.chmod(0o777)
    open_lmdb(tmp_path / "store")
    assert stat.S_IMODE((tmp_path / "store").stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in (tmp_path / "store").iterdir()} == {0o600}


def test_a_directory_in_which_other_things_lie_is_left_open(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    tmp_path.chmod(0o755)
    other = tmp_path / "readme.txt"
    other.write_text("")
    other.chmod(0o644)
    open_lmdb(tmp_path)
    assert stat.S_IMODE(tmp_path.stat().st_mode) == 0o755
    assert stat.S_IMODE(other.stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "data.mdb").stat().st_mode) == 0o600


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a directory for another user")
def test_a_directory_of_someone_else(open_ground: Path) -> None:
    theirs = open_ground / "theirs"
    theirs.mkdir()
    theirs.chmod(0o777)
    os.chown(theirs, NOBODY - 1, NOBODY - 1)
    answer = in_fork(lambda: LmdbStore(theirs).previous, NOBODY)
    assert "ConfigError" in answer
    assert f"{theirs} belongs to user {NOBODY - 1}, this is user {NOBODY}" in answer


def test_a_network_file_system(tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(directory, "_network_file_system", lambda device: "nfs4")
    with pytest.raises(ConfigError, match=r"network file system \(nfs4\); a store needs a local one"):
        open_lmdb(tmp_path)


def test_the_file_system_here_is_not_a_networked_one(tmp_path: Path) -> None:
    assert directory._network_file_system(tmp_path.stat().st_dev) is None


# What cannot be read


def rewrite(path: Path, key: bytes, value: bytes) -> None:
    with (
        lmdb.open(str(path / "data.mdb"), subdir=False, lock=False) as environment,
        environment.begin(write=True) as txn,
    ):
        txn.put(key, value)


def contents(path: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in path.iterdir() if file.name != "lock"}


def test_a_newer_schema_is_refused_and_left_alone(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    fill_and_leave(tmp_path)
    rewrite(tmp_path, b"\x00schema", (7).to_bytes(4, "big"))
    before = contents(tmp_path)
    for durability in ("fsync", "relaxed"):
        with pytest.raises(StoreTooNew, match=f"{tmp_path} has schema 7, this zmqrel reads up to 1"):
            open_lmdb(tmp_path, durability)
    assert contents(tmp_path) == before


def truncate(data: Path) -> None:
    os.truncate(data, 40_000)


def cut_to_a_page(data: Path) -> None:
    os.truncate(data, 4_096)


def empty(data: Path) -> None:
    os.truncate(data, 0)


def overwrite_all(data: Path) -> None:
    data.write_bytes(b"garbage " * 10_000)


def overwrite_a_page(data: Path) -> None:
    # One of the first leaves: LMDB itself would end the process on it.
    with data.open("r+b") as file:
        file.seek(4_096 * 20)
        file.write(os.urandom(4_096))


def remove(data: Path) -> None:
    data.unlink()


def other_engine(data: Path) -> None:
    data.unlink()
    lmdb.open(str(data), subdir=False, lock=False, lib_version=1).close()


def another_database(data: Path) -> None:
    data.unlink()
    lmdb.open(str(data), subdir=False, lock=False).close()


SEEN_AT_ONCE = [truncate, cut_to_a_page, empty, overwrite_all, remove, other_engine, another_database]


@pytest.mark.parametrize("harm", SEEN_AT_ONCE)
def test_a_damaged_store_is_refused_with_its_path(
    tmp_path: Path, open_lmdb: OpenLmdb, harm: Callable[[Path], None]
) -> None:
    fill_and_leave(tmp_path)
    harm(tmp_path / "data.mdb")
    for durability in ("fsync", "relaxed"):
        with pytest.raises(StoreDamaged, match=f"the store {tmp_path} is damaged: .* put a copy of it back"):
            open_lmdb(tmp_path, durability)
    assert not list(tmp_path.glob("damaged*"))


@pytest.mark.parametrize("harm", [*SEEN_AT_ONCE, overwrite_a_page])
def test_relaxed_and_rebooted_a_damaged_store_is_set_aside(
    tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Path], None]
) -> None:
    fill_and_leave(tmp_path, "relaxed")
    as_if_rebooted(tmp_path, monkeypatch)
    harm(tmp_path / "data.mdb")
    harmed = (tmp_path / "data.mdb").read_bytes() if harm is not remove else None
    store = open_lmdb(tmp_path, "relaxed")
    assert (store.previous, store.set_aside) == ("new", str(tmp_path / "damaged-1"))
    assert store.scan(b"\x01", b"\xff", 10) == []
    if harmed is not None:
        assert (tmp_path / "damaged-1" / "data.mdb").read_bytes() == harmed
    store.put(b"\x10a", b"1")
    store.commit()
    store.close()
    store = open_lmdb(tmp_path, "relaxed")
    assert (store.previous, store.set_aside) == ("clean", None)
    assert store.get(b"\x10a") == b"1"


def test_a_second_damaged_store_lies_beside_the_first(
    tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in (1, 2):
        with monkeypatch.context() as boot_by_boot:
            as_if_rebooted(tmp_path, boot_by_boot)
            empty(tmp_path / "data.mdb")
            store = open_lmdb(tmp_path, "relaxed")
            assert store.set_aside == str(tmp_path / f"damaged-{number}")
            store.close()


def test_relaxed_and_rebooted_a_whole_store_is_kept(
    tmp_path: Path, open_lmdb: OpenLmdb, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_and_leave(tmp_path, "relaxed")
    as_if_rebooted(tmp_path, monkeypatch)
    store = open_lmdb(tmp_path, "relaxed")
    assert (store.previous, store.set_aside) == ("rebooted", None)
    assert len(store.keys(b"\x10", b"\x11", 10_000)) == 2_000


@pytest.mark.parametrize("leftover", [b"", b"half of a meta page"])
def test_a_store_whose_making_was_cut_short_is_made_again(tmp_path: Path, open_lmdb: OpenLmdb, leftover: bytes) -> None:
    (tmp_path / "data.new").write_bytes(leftover)
    assert open_lmdb(tmp_path).previous == "new"
    assert not (tmp_path / "data.new").exists()


def test_a_map_that_does_not_fit_the_address_space(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    with pytest.raises(ConfigError, match=r"map_size_bytes=\d+ cannot be mapped"):
        open_lmdb(tmp_path, map_size_bytes=2**62)


def test_a_refused_store_is_not_left_locked(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    fill_and_leave(tmp_path)
    whole = (tmp_path / "data.mdb").read_bytes()
    empty(tmp_path / "data.mdb")
    with pytest.raises(StoreDamaged):
        open_lmdb(tmp_path)
    (tmp_path / "data.mdb").write_bytes(whole)
    open_lmdb(tmp_path)


# Use


@BOTH
def test_a_closed_store_says_so(tmp_path: Path, durability: str) -> None:
    store = LmdbStore(tmp_path, durability=durability)
    store.close()
    store.close()
    for use in (
        lambda: store.get(b"\x10"),
        lambda: store.put(b"\x10", b""),
        lambda: store.put_many([(b"\x10", b"")]),
        lambda: store.delete(b"\x10"),
        lambda: store.scan(b"\x10", b"\x11", 1),
        lambda: store.scan_back(b"\x10", b"\x11", 1),
        lambda: store.keys(b"\x10", b"\x11", 1),
        lambda: store.pop(b"\x10", b"\x11", 1),
    ):
        with pytest.raises(ValueError, match=f"the store {tmp_path} is closed"):
            use()
    assert not store.commit()
    store.abort()
    assert not store.room()


def test_a_commit_of_nothing_writes_nothing(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    store = open_lmdb(tmp_path)
    before = (tmp_path / "data.mdb").read_bytes()
    for _ in range(3):
        store.get(b"\x10")
        store.commit()
    assert (tmp_path / "data.mdb").read_bytes() == before


def test_a_store_given_a_smaller_map_can_be_emptied_and_not_filled(tmp_path: Path, open_lmdb: OpenLmdb) -> None:
    fill_and_leave(tmp_path, rows=4_000)
    store = open_lmdb(tmp_path, map_size_bytes=1024 * 1024)
    store.put_many([(b"\x11" + n.to_bytes(8, "big"), bytes(400)) for n in range(100)])
    with pytest.raises(StoreFull, match="map_size_bytes=1048576"):
        store.commit()
    while store.pop(b"\x10", b"\x11", 100):
        store.commit()
    assert store.room()
    store.put_many([(b"\x11" + n.to_bytes(8, "big"), bytes(400)) for n in range(100)])
    assert store.commit()


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="finds LMDB's descriptors through /proc")
@BOTH
def test_a_failed_write_of_a_meta_page_is_survived(tmp_path: Path, open_lmdb: OpenLmdb, durability: str) -> None:
    store = open_lmdb(tmp_path, durability)
    store.put(b"\x10a", b"1")
    store.commit()
    store.put(b"\x10b", b"2")
    store.set_growing(False)
    store.put(b"\x10b", b"2")
    with WithoutMetaWrites(tmp_path / "data.mdb"), pytest.raises(StoreFull):
        store.commit()
    assert store.scan(b"\x10", b"\x11", 10) == [(b"\x10a", b"1")]
    store.put(b"\x10c", b"3")
    assert store.commit()
    store.close()
    assert open_lmdb(tmp_path).scan(b"\x10", b"\x11", 10) == [(b"\x10a", b"1"), (b"\x10c", b"3")]


class WithoutMetaWrites:
    """While it lasts, LMDB's descriptor for meta pages, which alone is synchronous, leads to a full disk."""

    def __init__(self, data: Path) -> None:
        fds = (int(entry.name) for entry in Path("/proc/self/fd").iterdir())
        self.fd = next(fd for fd in fds if is_synchronous(fd, data))

    def __enter__(self) -> None:
        self.kept = os.dup(self.fd)
        full = os.open("/dev/full", os.O_RDWR)
        os.dup2(full, self.fd)
        os.close(full)

    def __exit__(self, *_: object) -> None:
        # LMDB was opened anew and has closed the one that was exchanged.
        os.close(self.kept)


def is_synchronous(fd: int, data: Path) -> bool:
    try:
        if Path(f"/proc/self/fd/{fd}").readlink() != data:
            return False
        flags = Path(f"/proc/self/fdinfo/{fd}").read_text().split("flags:")[1].split()[0]
    except OSError:
        return False
    return bool(int(flags, 8) & os.O_DSYNC)
